//! Unpacking: what is built comes back, layers are laid over each other, and nothing gets out.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use common::{created, entry, file, folder, layout_of, oci, pax, raw_entry, symlink, tar};
use domain::{Class, Events};
use image::{Error, Limits, unpack};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
};

/// Path to content, mode or target, of everything below a folder.
fn tree(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, at: &Path, out: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let text = if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if metadata.is_dir() {
                walk(root, &path, out);
                "/".to_owned()
            } else {
                let content = fs::read(&path).unwrap();
                format!("{:o} {}", metadata.permissions().mode() & 0o7777, String::from_utf8_lossy(&content))
            };
            out.insert(name, text);
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut out);
    out
}

/// Unpacks layers and returns the result with what is in the folder afterwards. Nothing may appear beside it.
fn run(layers: &[Vec<u8>], gzip: bool, limits: &Limits) -> (Result<image::Unpacked, Error>, BTreeMap<String, String>) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("outside")).unwrap();
    fs::write(root.path().join("outside/precious"), "precious").unwrap();
    layout_of(&root.path().join("layout"), layers, gzip);
    let to = root.path().join("rootfs");
    let result = unpack(&root.path().join("layout"), &to, limits);
    assert_eq!(fs::read_to_string(root.path().join("outside/precious")).unwrap(), "precious");
    let names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "something was written beside the root file system: {names:?}");
    assert_eq!(fs::read_dir(root.path().join("outside")).unwrap().count(), 1);
    (result, tree(&to))
}

#[test]
fn hostile_layers_are_refused_and_leave_nothing() {
    let up = "../outside/precious";
    let sized = |header: u64, record: &str, content: &[u8]| {
        [entry("pax", b'x', "", 0o644, &pax("size", record)), raw_entry(b"f", b'0', b"", 0o644, content, header)]
            .concat()
    };
    let with_pax = |records: Vec<u8>| [entry("pax", b'x', "", 0o644, &records), file("f", "x")].concat();
    let mut torn_header = file("f", "x");
    torn_header[0] = b'g';
    let table: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("traversal", vec![file(up, "x")], "leaves the image"),
        ("traversal in the middle", vec![file("a/../../outside/precious", "x")], "leaves the image"),
        ("absolute", vec![file("/etc/passwd", "x")], "absolute"),
        ("absolute in a PAX record", vec![with_pax(pax("path", "/etc/passwd"))], "absolute"),
        (
            "traversal in a GNU long name",
            vec![entry("././@LongLink", b'L', "", 0, up.as_bytes()), file("f", "x")],
            "leaves the image",
        ),
        (
            "a file through a symlink",
            vec![symlink("a", "../outside"), file("a/precious", "x")],
            "parent is a symbolic link",
        ),
        (
            "a file through an inner symlink",
            vec![folder("b"), symlink("a", "b"), file("a/f", "x")],
            "parent is a symbolic link",
        ),
        (
            "a symlink, then a folder",
            vec![symlink("a", "../outside"), folder("a"), file("a/precious", "x")],
            "occurs twice",
        ),
        ("a symlink, then a file", vec![symlink("a", up), file("a", "x")], "occurs twice"),
        ("a file as folder", vec![file("a", "x"), file("a/b", "x")], "parent is a symbolic link or no folder"),
        ("a hard link out", vec![entry("a", b'1', up, 0o644, b"")], "hard link out"),
        ("an absolute hard link", vec![entry("a", b'1', "/etc/passwd", 0o644, b"")], "hard link out"),
        (
            "a hard link through a symlink",
            vec![symlink("s", "../outside"), entry("a", b'1', "s/precious", 0o644, b"")],
            "not a plain file",
        ),
        ("a hard link to a symlink", vec![symlink("s", up), entry("a", b'1', "s", 0o644, b"")], "not a plain file"),
        ("a hard link to nothing", vec![entry("a", b'1', "gone", 0o644, b"")], "not a plain file"),
        ("a hard link to itself", vec![entry("a", b'1', "a", 0o644, b"")], "not a plain file"),
        ("a hard link with content", vec![file("f", "x"), entry("a", b'1', "f", 0o644, b"content")], "content"),
        ("a symlink to nothing", vec![symlink("s", "")], "symbolic link to nothing"),
        ("a character device", vec![entry("null", b'3', "", 0o666, b"")], "device"),
        ("a block device", vec![entry("sda", b'4', "", 0o666, b"")], "device"),
        ("a FIFO", vec![entry("pipe", b'6', "", 0o666, b"")], "FIFO"),
        ("PAX size smuggling", vec![sized(512, "0", &[b'x'; 512])], "512 in the header and 0 in the PAX record"),
        ("PAX size smuggling, the other way", vec![sized(0, "512", b"")], "0 in the header and 512"),
        ("two PAX sizes", vec![with_pax([pax("size", "1"), pax("size", "1")].concat())], "two sizes"),
        ("two names", vec![entry("x", b'L', "", 0, b"a"), entry("x", b'L', "", 0, b"b"), file("f", "x")], "two paths"),
        ("a PAX record with a wrong length", vec![with_pax(b"99 path=a\n".to_vec())], "malformed"),
        ("a huge PAX record", vec![raw_entry(b"pax", b'x', b"", 0, b"", 1 << 32)], "more than"),
        ("a huge long name", vec![raw_entry(b"long", b'L', b"", 0, b"", 1 << 32)], "more than"),
        ("a global PAX path", vec![entry("pax", b'g', "", 0, &pax("path", "x")), file("f", "x")], "global PAX"),
        ("a NUL in a PAX path", vec![with_pax(pax("path", "a\0b"))], "NUL"),
        ("a GNU sparse file", vec![entry("s", b'S', "", 0o644, b"")], "sparse"),
        ("a PAX sparse file", vec![with_pax(pax("GNU.sparse.major", "1"))], "sparse"),
        ("an unknown type", vec![entry("v", b'V', "", 0o644, b"")], "unknown"),
        ("a folder with content", vec![entry("d", b'5', "", 0o755, b"x")], "content"),
        ("a wrong checksum", vec![torn_header], "checksum"),
        ("a truncated file", vec![raw_entry(b"f", b'0', b"", 0o644, b"x", 1 << 20)], "ends inside"),
        ("the root as a symlink", vec![symlink(".", "../outside")], "root folder"),
        ("a deletion of the folder above", vec![file(".wh...", "")], "deletion of no name"),
        ("a deletion of nothing", vec![file(".wh.", "")], "deletion of no name"),
        ("a deletion through a symlink", vec![symlink("s", "../outside"), file("s/.wh.precious", "")], "symbolic link"),
        ("opaque through a symlink", vec![symlink("s", "../outside"), file("s/.wh..wh..opq", "")], "symbolic link"),
        ("a deletion of its own", vec![file("f", "x"), file(".wh.f", "")], "same layer"),
        ("a name of 300 bytes", vec![with_pax(pax("path", &"x".repeat(300)))], "longer than 255"),
        ("a depth of 300", vec![with_pax(pax("path", &format!("{}x", "x/".repeat(300))))], "folders deep"),
    ];
    let count = table.len();
    for (what, entries, why) in table {
        let before = file("before", "kept by nobody");
        let hostile = tar(&[vec![before], entries].concat());
        for gzip in [false, true] {
            let (result, left) = run(std::slice::from_ref(&hostile), gzip, &Limits::default());
            let error = result.expect_err(what);
            assert!(matches!(error, Error::Hostile { .. }), "{what}: {error:?}");
            assert_eq!(error.class(), Class::BadInput);
            assert!(error.to_string().contains(why), "{what}: {error}");
            assert!(left.is_empty(), "{what}: {left:?}");
        }
    }
    println!("{count} hostile layers tried, {count} refused");
}

#[test]
fn the_lower_layers_links_lead_nowhere_either() {
    let lower = tar(&[symlink("a", "../outside"), symlink("b", "../outside/precious")]);
    let (result, left) = run(&[lower.clone(), tar(&[file("a/precious", "x")])], true, &Limits::default());
    assert!(result.unwrap_err().to_string().contains("symbolic link"));
    assert!(left.is_empty());
    // Replacing a link replaces the link.
    let (result, left) =
        run(&[lower, tar(&[folder("a"), file("a/precious", "mine"), file("b", "mine")])], true, &Limits::default());
    result.unwrap();
    assert_eq!(left["a/precious"], "644 mine");
    assert_eq!(left["b"], "644 mine");
}

#[test]
fn bombs_are_stopped_by_bytes_entries_and_ratio() {
    let zeros = tar(&[raw_entry(b"zeros", b'0', b"", 0o644, &vec![0; 4 << 20], 4 << 20)]);
    let tight = Limits { ratio: 100, ratio_from: 1 << 20, ..Limits::default() };
    let (result, left) = run(std::slice::from_ref(&zeros), true, &tight);
    assert!(result.unwrap_err().to_string().contains("unpacks to more than"));
    assert!(left.is_empty());
    assert!(run(std::slice::from_ref(&zeros), true, &Limits::default()).0.is_ok());
    let few = Limits { bytes: 1 << 20, ..Limits::default() };
    assert!(
        run(std::slice::from_ref(&zeros), false, &few)
            .0
            .unwrap_err()
            .to_string()
            .contains("unpacks to more than 1048576")
    );
    // The limit is of all layers together.
    let half = Limits { bytes: 6 << 20, ..Limits::default() };
    assert!(run(&[zeros.clone(), zeros.clone()], false, &half).0.is_err());
    let many = tar(&(0..11).map(|n| folder(&format!("d{n}"))).collect::<Vec<_>>());
    let ten = Limits { entries: 10, ..Limits::default() };
    assert!(run(&[many], true, &ten).0.unwrap_err().to_string().contains("more entries"));
    // Names are kept in memory: 11 of two bytes, and one more.
    let many = tar(&(0..11).map(|n| folder(&format!("{n:02}"))).collect::<Vec<_>>());
    assert!(run(std::slice::from_ref(&many), true, &Limits { names: 22, ..Limits::default() }).0.is_ok());
    let short = run(&[many], true, &Limits { names: 21, ..Limits::default() }).0;
    assert!(short.unwrap_err().to_string().contains("paths of the layer are longer"));
    // Zeros after the end mark are bytes, too.
    let mut tail = tar(&[file("f", "x")]);
    tail.resize(4 << 20, 0);
    assert!(run(&[tail], true, &tight).0.is_err());
}

#[test]
fn layers_lie_over_each_other_as_the_specification_says() {
    let lower = tar(&[
        folder("dir"),
        file("dir/old", "old"),
        folder("dir/sub"),
        file("dir/sub/older", "older"),
        file("gone", "gone"),
        file("changed", "before"),
        file("linked", "linked"),
        folder("becomes-file"),
        file("becomes-file/x", "x"),
        file("becomes-folder", "x"),
    ]);
    let upper = tar(&[
        folder("dir"),
        file("dir/new", "new"),
        folder("dir/sub"),
        file("dir/sub/newer", "newer"),
        file("dir/.wh..wh..opq", ""),
        file(".wh.gone", ""),
        file(".wh.never-there", ""),
        file("not-there/.wh.x", ""),
        file("changed", "after"),
        entry("hard", b'1', "linked", 0o644, b""),
        file("becomes-file", "file"),
        folder("becomes-folder"),
        file("implied/parents/are/made", "made"),
        entry("program", b'0', "", 0o4755, b"p"),
        entry("sticky", b'5', "", 0o1777, b""),
        entry("closed", b'5', "", 0o000, b""),
        file("closed/inside", "inside"),
        entry("comment", b'g', "", 0o644, &pax("comment", "made by git archive")),
    ]);
    let (result, left) = run(&[lower, upper], true, &Limits::default());
    let unpacked = result.unwrap();
    let expected: BTreeMap<String, String> = [
        ("dir", "/"),
        ("dir/new", "644 new"),
        ("dir/sub", "/"),
        ("dir/sub/newer", "644 newer"),
        ("changed", "644 after"),
        ("linked", "644 linked"),
        ("hard", "644 linked"),
        ("becomes-file", "644 file"),
        ("becomes-folder", "/"),
        ("implied", "/"),
        ("implied/parents", "/"),
        ("implied/parents/are", "/"),
        ("implied/parents/are/made", "644 made"),
        ("program", "755 p"),
        ("sticky", "/"),
        ("closed", "/"),
        ("closed/inside", "644 inside"),
    ]
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .into();
    assert_eq!(left, expected);
    assert_eq!(unpacked.stripped, ["program"]);
}

#[test]
fn a_folder_with_something_in_it_is_not_unpacked_into() {
    let root = tempfile::tempdir().unwrap();
    layout_of(&root.path().join("layout"), &[tar(&[file("f", "x")])], true);
    let to = root.path().join("to");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("mine"), "mine").unwrap();
    let error = unpack(&root.path().join("layout"), &to, &Limits::default()).unwrap_err();
    assert_eq!(error.class(), Class::BadInput);
    assert_eq!(fs::read_to_string(to.join("mine")).unwrap(), "mine");
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_damage() {
    let root = tempfile::tempdir().unwrap();
    let layout = root.path().join("layout");
    layout_of(&layout, &[tar(&[file("f", "x")])], false);
    let (_, path, size) = image::blobs(&layout).unwrap()[0].clone();
    fs::write(&path, tar(&[file("f", "y")])).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), size);
    let error = unpack(&layout, &root.path().join("to"), &Limits::default()).unwrap_err();
    assert_eq!(error.class(), Class::Integrity, "{error}");
    assert_eq!(fs::read_dir(root.path().join("to")).unwrap().count(), 0);
}

/// A node of a generated tree.
#[derive(Debug, Clone)]
enum Node {
    File(Vec<u8>, bool),
    Link(String),
    Folder(BTreeMap<Vec<u8>, Node>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    // Any bytes that a name can have, not only UTF-8; long ones need the long-name records.
    prop_oneof![proptest::collection::vec(1u8..=255, 1..12), proptest::collection::vec(97u8..=122, 90..130),]
        .prop_filter("a legal name", |name| {
            !name.contains(&b'/') && name != b"." && name != b".." && !name.starts_with(b".wh.")
        })
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        (proptest::collection::vec(any::<u8>(), 0..2000), any::<bool>())
            .prop_map(|(bytes, executable)| Node::File(bytes, executable)),
        "[a-z.]{1,3}(/[a-z.]{1,60}){0,4}".prop_map(Node::Link),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| proptest::collection::btree_map(name(), inner, 0..6).prop_map(Node::Folder))
}

fn make(path: &Path, node: &Node) {
    match node {
        Node::File(bytes, executable) => {
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(if *executable { 0o755 } else { 0o644 })).unwrap();
        }
        Node::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
        Node::Folder(nodes) => {
            fs::create_dir(path).unwrap();
            for (name, node) in nodes {
                make(&path.join(std::ffi::OsStr::from_bytes(name)), node);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_built_comes_back(nodes in proptest::collection::btree_map(name(), node(), 0..6)) {
        let root = tempfile::tempdir().unwrap();
        let from = root.path().join("from");
        make(&from, &Node::Folder(nodes));
        let spec = oci(&[("from", "/", None)]);
        let built = image::build_oci(&spec, root.path(), &BTreeMap::new(), created(), &root.path().join("layout"), &Events::nowhere()).unwrap();
        let to = root.path().join("to");
        unpack(&built.layout, &to, &Limits::default()).unwrap();
        prop_assert_eq!(tree(&from), tree(&to));
    }
}
