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
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
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
    let precious = root.path().join("outside/precious");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert_eq!(precious.symlink_metadata().unwrap().nlink(), 1, "it is linked to from inside");
    let names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "something was written beside the root file system: {names:?}");
    assert_eq!(fs::read_dir(root.path().join("outside")).unwrap().count(), 1);
    (result, tree(&to))
}

/// A field of an entry's header changed, with a right checksum.
fn patched(mut entry: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    entry[at..at + bytes.len()].copy_from_slice(bytes);
    entry[148..156].copy_from_slice(b"        ");
    let sum: u32 = entry[..512].iter().map(|byte| u32::from(*byte)).sum();
    entry[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    entry
}

const PREFIX: usize = 345;
const SIZE: usize = 124;

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
        // Names that say something else to another reader, or come from elsewhere than the header's name.
        ("traversal to the folder itself and out", vec![file("./a/./../../outside/precious", "x")], "leaves the image"),
        ("nothing but the folder above", vec![folder("..")], "leaves the image"),
        ("traversal at the end", vec![folder("a/..")], "leaves the image"),
        (
            "traversal in the ustar prefix",
            vec![patched(file("precious", "x"), PREFIX, b"../outside")],
            "leaves the image",
        ),
        ("an absolute ustar prefix", vec![patched(file("passwd", "x"), PREFIX, b"/etc")], "absolute"),
        ("traversal in a PAX path", vec![with_pax(pax("path", up))], "leaves the image"),
        ("an empty PAX path", vec![with_pax(pax("path", ""))], "empty PAX record"),
        (
            "an empty PAX linkpath",
            vec![entry("pax", b'x', "", 0o644, &pax("linkpath", "")), symlink("s", "../outside")],
            "empty PAX record",
        ),
        ("an empty PAX size", vec![with_pax(pax("size", ""))], "empty PAX record"),
        ("a PAX size with a sign", vec![with_pax(pax("size", "+1"))], "malformed"),
        ("a negative PAX size", vec![with_pax(pax("size", "-1"))], "malformed"),
        ("a PAX size that overflows", vec![sized(0, "18446744073709551615", b"")], "larger than any file"),
        ("a PAX size beyond numbers", vec![sized(0, "99999999999999999999999", b"")], "malformed"),
        ("a PAX length with a sign", vec![with_pax(b"+9 path=a\n".to_vec())], "malformed"),
        ("a PAX record without an end", vec![with_pax(b"10 path=abc".to_vec())], "malformed"),
        ("a PAX record without a key", vec![with_pax(b"5 ab\n".to_vec())], "malformed"),
        ("a PAX record of length 0", vec![with_pax(b"0 path=a\n".to_vec())], "malformed"),
        (
            "two PAX headers",
            vec![
                entry("pax", b'x', "", 0o644, &pax("path", "a")),
                entry("pax", b'x', "", 0o644, &pax("mtime", "1")),
                file("f", "x"),
            ],
            "two PAX headers",
        ),
        (
            "a global header between a PAX header and its entry",
            vec![
                entry("pax", b'x', "", 0o644, &pax("path", up)),
                entry("pax", b'g', "", 0o644, &pax("comment", "x")),
                file("f", "x"),
            ],
            "stands between",
        ),
        ("a global PAX size", vec![entry("pax", b'g', "", 0, &pax("size", "512")), file("f", "x")], "global PAX"),
        ("an extension record without an entry", vec![entry("long", b'L', "", 0, b"name")], "ends between"),
        (
            "a path in a GNU long name and in a PAX record",
            vec![entry("x", b'L', "", 0, b"a"), with_pax(pax("path", "b"))],
            "two paths",
        ),
        (
            "a hard link out by a PAX linkpath",
            vec![file("f", "x"), entry("pax", b'x', "", 0, &pax("linkpath", up)), entry("a", b'1', "f", 0o644, b"")],
            "hard link out",
        ),
        (
            "a hard link out by a GNU long link",
            vec![file("f", "x"), entry("x", b'K', "", 0, up.as_bytes()), entry("a", b'1', "f", 0o644, b"")],
            "hard link out",
        ),
        (
            "two links",
            vec![entry("x", b'K', "", 0, b"a"), entry("x", b'K', "", 0, b"b"), symlink("s", "c")],
            "two links",
        ),
        (
            "a NUL in a PAX linkpath",
            vec![entry("pax", b'x', "", 0, &pax("linkpath", "a\0b")), symlink("s", "c")],
            "NUL",
        ),
        ("a name that is longer than a path", vec![with_pax(pax("path", &"a/".repeat(2100)))], "longer than 4096"),
        (
            "a target that is longer than a path",
            vec![entry("pax", b'x', "", 0, &pax("linkpath", &"a/".repeat(2100))), symlink("s", "c")],
            "longer than 4096",
        ),
        (
            "a target that is as long as a path",
            vec![entry("pax", b'x', "", 0, &pax("linkpath", &"a/".repeat(2048))), symlink("s", "c")],
            "too long",
        ),
        // Sizes.
        ("a size that is no number", vec![patched(file("f", "x"), SIZE, b"0000000zz01\0")], "no number"),
        ("a size with a sign", vec![patched(file("f", "x"), SIZE, b"+0000000001\0")], "no number"),
        ("a size of two numbers", vec![patched(file("f", "x"), SIZE, b"0001 000001\0")], "no number"),
        ("a negative size", vec![patched(file("f", "x"), SIZE, &[0xff; 12])], "out of range"),
        (
            "a size of 2^63 - 1",
            vec![patched(file("f", "x"), SIZE, &[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255])],
            "ends inside",
        ),
        ("a symbolic link with content", vec![raw_entry(b"s", b'2', b"f", 0o777, &[b'x'; 512], 512)], "content"),
        ("a device with content", vec![raw_entry(b"d", b'3', b"", 0o666, &[b'x'; 512], 512)], "content"),
        // A second archive for readers that go on.
        ("an archive after one empty block", vec![vec![0; 512], file("hidden", "x")], "after the end of the archive"),
        ("an archive after the end mark", vec![vec![0; 1024], file("hidden", "x")], "after the end of the archive"),
        ("a byte after the end mark", vec![vec![0; 4096], vec![1]], "after the end of the archive"),
        // Things of other formats.
        ("a continued file of several volumes", vec![entry("m", b'M', "", 0o644, b"x")], "unknown"),
        ("an old GNU name table", vec![entry("n", b'N', "", 0o644, b"rename")], "unknown"),
        ("a GNU folder with a list", vec![entry("d", b'D', "", 0o755, b"Yf\0\0")], "unknown"),
        ("a Solaris header", vec![entry("x", b'X', "", 0o644, &pax("path", "a"))], "unknown"),
        ("a PAX sparse name", vec![with_pax(pax("GNU.sparse.name", up))], "sparse"),
        // Twice the same, in other words.
        ("a file twice", vec![file("f", "x"), file("f", "y")], "occurs twice"),
        ("a file twice by another spelling", vec![file("a/f", "x"), file("./a//f", "y")], "occurs twice"),
        ("a file and a folder", vec![file("f", "x"), folder("f/")], "occurs twice"),
        ("a folder and a file", vec![folder("f"), file("f", "x")], "occurs twice"),
        (
            "a folder and a symbolic link",
            vec![folder("f"), file("f/x", "x"), symlink("f", "../outside")],
            "occurs twice",
        ),
        ("a file twice, the second by PAX", vec![file("a", "x"), with_pax(pax("path", "a"))], "occurs twice"),
        (
            "a symbolic link as the folder of a hard link",
            vec![symlink("d", "../outside"), entry("d/x", b'1', "d", 0, b"")],
            "symbolic link",
        ),
        ("a hard link to a folder", vec![folder("d"), entry("a", b'1', "d", 0o755, b"")], "not a plain file"),
        ("a hard link to the root", vec![entry("a", b'1', "./", 0o755, b"")], "hard link to the root"),
        ("a symlink cycle as a folder", vec![symlink("a", "b"), symlink("b", "a"), file("a/x", "x")], "symbolic link"),
        (
            "a device below a symbolic link",
            vec![symlink("d", "/dev"), entry("d/null", b'3', "", 0o666, b"")],
            "symbolic link",
        ),
        ("the root as a file", vec![file(".", "")], "root folder"),
        ("a deletion of the root's parent", vec![file("a/.wh...", "")], "deletion of no name"),
        ("a deletion by a name that climbs", vec![file("../.wh.outside", "")], "leaves the image"),
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
fn a_layer_whose_size_is_a_lie_is_not_unpacked() {
    // The ratio of a layer is counted from its size: a manifest that makes it larger would let a bomb through.
    let root = tempfile::tempdir().unwrap();
    let layout = root.path().join("layout");
    layout_of(&layout, &[tar(&[raw_entry(b"zeros", b'0', b"", 0o644, &vec![0; 4 << 20], 4 << 20)])], true);
    let (layer, path, size) = image::blobs(&layout).unwrap()[0].clone();
    let mut longer = fs::read(&path).unwrap();
    longer.push(0);
    for bytes in [&longer[..], &longer[..10], &[]] {
        fs::write(&path, bytes).unwrap();
        let error = unpack(&layout, &root.path().join("to"), &Limits::default()).unwrap_err();
        assert_eq!(error.class(), Class::Integrity, "{error}");
        assert!(error.to_string().contains(&format!("no file of {size} bytes")), "{error}");
        assert_eq!(fs::read_dir(root.path().join("to")).unwrap().count(), 0);
    }
    // Nor is a link to a file elsewhere a layer.
    fs::write(root.path().join("elsewhere"), &longer[..longer.len() - 1]).unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(root.path().join("elsewhere"), &path).unwrap();
    let error = unpack(&layout, &root.path().join("to"), &Limits::default()).unwrap_err();
    assert!(error.to_string().contains(&layer.to_string()), "{error}");
}

#[test]
fn a_compressed_stream_that_is_torn_is_refused() {
    let whole = common::compress(&tar(&[file("f", &"some text ".repeat(1000))]));
    let root = tempfile::tempdir().unwrap();
    let mut flipped = whole.clone();
    let last = flipped.len() - 5;
    flipped[last] ^= 1; // the stream's own checksum
    let garbage = [&whole[..], b"garbage"].concat();
    for (number, bytes) in [&whole[..whole.len() - 9], &whole[..1], &flipped, &garbage].into_iter().enumerate() {
        let layout = root.path().join(format!("layout-{number}"));
        layout_of(&layout, &[tar(&[file("f", "x")])], true);
        swap_layer(&layout, bytes);
        let error = unpack(&layout, &root.path().join("to"), &Limits::default()).unwrap_err();
        assert_eq!(error.class(), Class::Integrity, "{number}: {error}");
        assert_eq!(fs::read_dir(root.path().join("to")).unwrap().count(), 0, "{number}");
    }
}

/// Makes other bytes the one layer of a layout, with manifest and index that say so.
fn swap_layer(layout: &Path, bytes: &[u8]) {
    let blobs = layout.join("blobs/sha256");
    let put = |bytes: &[u8]| {
        let digest = domain::Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        serde_json::json!({"digest": digest, "size": bytes.len()})
    };
    let json = |path: &Path| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
    let mut index = json(&layout.join("index.json"));
    let named = |value: &serde_json::Value| blobs.join(value["digest"].as_str().unwrap().trim_start_matches("sha256:"));
    let mut manifest = json(&named(&index["manifests"][0]));
    let merge = |into: &mut serde_json::Value, descriptor: serde_json::Value| {
        for (key, value) in descriptor.as_object().unwrap() {
            into[key] = value.clone();
        }
    };
    merge(&mut manifest["layers"][0], put(bytes));
    merge(&mut index["manifests"][0], put(manifest.to_string().as_bytes()));
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
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
