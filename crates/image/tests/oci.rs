//! The `oci` builder: the same bytes everywhere, and errors that name the file.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::type_complexity)]

mod common;

use common::{created, oci, write};
use domain::{Class, Events};
use expect_test::expect;
use image::OciInputs;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("org.opencontainers.image.version".to_owned(), "1.0.0".to_owned())])
}

fn source(root: &Path, reversed: bool, umask_077: bool) {
    let strip = if umask_077 { 0o700 } else { 0o777 };
    let mut files = vec![
        ("bin/run", "#!/bin/sh\necho run\n", 0o755),
        ("etc/b.toml", "b = 1\n", 0o644),
        ("etc/a/deep.toml", "a = 1\n", 0o664),
        (
            "etc/name-that-is-so-long-that-it-does-not-fit-into-the-hundred-bytes-of-a-header/and-another-long-part-of-it/x",
            "x",
            0o600,
        ),
    ];
    if reversed {
        files.reverse();
    }
    for (path, text, mode) in files {
        write(root, path, text, mode & strip);
    }
    symlink("../etc/b.toml", root.join("etc/link")).unwrap();
}

fn build(root: &Path, to: &Path) -> image::Built {
    let spec =
        oci(&[("bin/run", "/app/", None), ("etc", "/app/etc", None), ("bin/run", "/usr/local/bin/start", Some(0o500))]);
    image::build_oci(&spec, root, &labels(), created(), to, &Events::nowhere()).unwrap()
}

#[test]
fn the_same_inputs_give_the_same_digest_on_any_path_in_any_order_with_any_umask() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let far = two.path().join("a/much/longer/path");
    source(one.path(), false, false);
    source(&far, true, true);
    let first = build(one.path(), &one.path().join("layout"));
    let second = build(&far, &far.join("layout"));
    assert_eq!(first.manifest, second.manifest);
    assert_eq!(first.layers.len(), 3);
    assert_eq!(first.platform, "linux/amd64");
    // Changes only with the format itself, and then every user's image changes: that must be a decision.
    expect!["sha256:e9415f30bf5954891b09fc32408f837c457ccab16092257e4cb969c4f5b85d83"]
        .assert_eq(&first.manifest.to_string());
    expect![[r#"{"created":"2024-05-06T07:08:09Z","architecture":"amd64","os":"linux","config":{"User":"1000","Env":["PORT=8080"],"Entrypoint":["/app/run"],"Cmd":["--serve"],"WorkingDir":"/app","Labels":{"org.opencontainers.image.version":"1.0.0","team":"wine"}},"rootfs":{"type":"layers","diff_ids":["sha256:649d8041ba094a056ab72908f9b0926871c30d7f423f1b02b090b0dce913e8d8","sha256:d57768510f7010448c5822eaf42b197a1525f9628719cb15267a6a6f24f5c2d5","sha256:4f9764905ddd5dfb17f6cc8a5566398cc4bf15a90530d1262eff7fc512b37617"]},"history":[{"created":"2024-05-06T07:08:09Z","created_by":"sealift: bin/run -> /app/"},{"created":"2024-05-06T07:08:09Z","created_by":"sealift: etc -> /app/etc"},{"created":"2024-05-06T07:08:09Z","created_by":"sealift: bin/run -> /usr/local/bin/start"}]}"#]].assert_eq(&fs::read_to_string(first.layout.join("blobs/sha256").join(first.config.hex())).unwrap());
    let again = build(one.path(), &one.path().join("layout"));
    assert_eq!(again, first);
    assert_eq!(image::open(&first.layout).unwrap(), first);
}

#[test]
fn a_changed_byte_mode_time_or_label_changes_the_digest() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "run", "1", 0o755);
    let digest = |spec: &domain::config::OciBuild, labels: &BTreeMap<String, String>, time: &str| {
        let to = tempfile::tempdir().unwrap();
        image::build_oci(spec, root.path(), labels, time.parse().unwrap(), to.path(), &Events::nowhere())
            .unwrap()
            .manifest
    };
    let spec = oci(&[("run", "/run", None)]);
    let time = "2024-01-01T00:00:00Z";
    let first = digest(&spec, &BTreeMap::new(), time);
    assert_eq!(first, digest(&spec, &BTreeMap::new(), time));
    assert_ne!(first, digest(&spec, &labels(), time));
    assert_ne!(first, digest(&spec, &BTreeMap::new(), "2024-01-01T00:00:01Z"));
    write(root.path(), "run", "1", 0o644);
    assert_ne!(first, digest(&spec, &BTreeMap::new(), time));
    write(root.path(), "run", "2", 0o755);
    assert_ne!(first, digest(&spec, &BTreeMap::new(), time));
}

#[test]
fn a_base_keeps_its_layers_and_links_and_folders() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    write(root.path(), "base/usr/bin/tool", "tool", 0o755);
    symlink("usr/bin", at("base/bin")).unwrap();
    let mut spec = oci(&[("base", "/", None)]);
    spec.env = BTreeMap::from([("A".to_owned(), "base".to_owned()), ("B".to_owned(), "base".to_owned())]);
    let base =
        image::build_oci(&spec, root.path(), &BTreeMap::new(), created(), &at("base-layout"), &Events::nowhere())
            .unwrap();
    write(root.path(), "mine", "mine", 0o755);
    let mut spec = oci(&[("mine", "/bin/mine", None)]);
    spec.base = "oci-layout:base-layout".to_owned();
    spec.env = BTreeMap::from([("B".to_owned(), "mine".to_owned())]);
    let built =
        image::build_oci(&spec, root.path(), &BTreeMap::new(), created(), &at("layout"), &Events::nowhere()).unwrap();
    assert_eq!(built.layers[0], base.layers[0]);
    assert_eq!(built.layers.len(), 2);
    let unpacked = image::unpack(&built.layout, &at("rootfs"), &image::Limits::default()).unwrap();
    assert_eq!(fs::read_to_string(at("rootfs/usr/bin/mine")).unwrap(), "mine");
    assert_eq!(fs::read_link(at("rootfs/bin")).unwrap(), Path::new("usr/bin"));
    assert_eq!(unpacked.env, [("A".to_owned(), "base".to_owned()), ("B".to_owned(), "mine".to_owned())]);
    assert_eq!((unpacked.workdir.as_deref(), unpacked.user.as_deref()), (Some("/app"), Some("1000")));
    spec.platforms = vec!["linux/arm64".to_owned()];
    let error = image::build_oci(&spec, root.path(), &BTreeMap::new(), created(), &at("other"), &Events::nowhere())
        .unwrap_err();
    assert!(error.to_string().contains("is for linux/amd64"), "{error}");
}

#[test]
fn bad_input_is_named_with_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "run", "1", 0o755);
    write(root.path(), "folder/x", "1", 0o755);
    write(root.path(), "hidden/.wh.x", "1", 0o755);
    std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
    let table: &[(&[(&str, &str, Option<u32>)], &str)] = &[
        (&[("target/wine", "/wine", None)], "files entry \"target/wine\" cannot be read at"),
        (&[("run", "wine", None)], "goes to \"wine\""),
        (&[("run", "/a/../wine", None)], "goes to \"/a/../wine\""),
        (&[("run", "/", None)], ""),
        (&[("run", "/x", Some(0o4755))], "has mode 4755"),
        (&[("socket", "/x", None)], "is neither a file, a folder nor a symbolic link"),
        (&[("hidden", "/x", None)], "names that begin with .wh."),
        (&[("run", "/x", None), ("run", "/x/y", None)], "/x is no directory in the image"),
        (&[("run", "/a", None), ("folder", "/", None), ("folder", "/a", None)], "/a is no directory in the image"),
    ];
    for (files, text) in table {
        let to = tempfile::tempdir().unwrap();
        let result =
            image::build_oci(&oci(files), root.path(), &BTreeMap::new(), created(), to.path(), &Events::nowhere());
        if text.is_empty() {
            assert!(result.is_ok(), "{files:?}: {result:?}");
            continue;
        }
        let error = result.unwrap_err();
        assert_eq!(error.class(), Class::BadInput, "{error}");
        assert!(error.to_string().contains(text), "{files:?}: {error}");
    }
    let spec = oci(&[("target/wine", "/wine", None)]);
    let error =
        image::build_oci(&spec, root.path(), &BTreeMap::new(), created(), root.path(), &Events::nowhere()).unwrap_err();
    assert!(error.hint().unwrap().contains("build.prepare"));
    let mut spec = oci(&[("run", "/run", None)]);
    let bases = [
        ("debian:12", "names no digest"),
        ("https://reg.example/debian", "not understood"),
        ("oci-layout:nowhere", "is no OCI layout"),
    ];
    for (base, text) in bases {
        spec.base = base.to_owned();
        let error = image::build_oci(&spec, root.path(), &BTreeMap::new(), created(), root.path(), &Events::nowhere())
            .unwrap_err();
        assert!(error.to_string().contains(text) && error.hint().is_some(), "{error}");
    }
}

#[test]
fn every_flipped_byte_of_a_layout_is_found() {
    let root = tempfile::tempdir().unwrap();
    source(root.path(), false, false);
    let built = build(root.path(), &root.path().join("layout"));
    for (digest, path, size) in image::blobs(&built.layout).unwrap() {
        let good = fs::read(&path).unwrap();
        assert_eq!(good.len() as u64, size);
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            for error in [image::open(&built.layout), image::reopen(&built.layout)].map(Result::unwrap_err) {
                assert_eq!(error.class(), Class::Integrity, "{error}");
                assert!(error.to_string().contains(&digest.to_string()), "{error}");
            }
        }
        fs::remove_file(&path).unwrap();
        let error = image::open(&built.layout).unwrap_err();
        assert!(error.to_string().contains(&digest.hex()), "{error}");
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(image::open(&built.layout).is_err());
        fs::write(&path, &good).unwrap();
    }
    assert_eq!(image::open(&built.layout).unwrap(), image::reopen(&built.layout).unwrap());
}

#[test]
fn fetched_blobs_become_the_same_layout() {
    let root = tempfile::tempdir().unwrap();
    source(root.path(), false, false);
    let built = build(root.path(), &root.path().join("layout"));
    let copy = root.path().join("copy");
    fs::create_dir_all(copy.join("blobs/sha256")).unwrap();
    for (digest, path, _) in image::blobs(&built.layout).unwrap() {
        fs::copy(path, copy.join("blobs/sha256").join(digest.hex())).unwrap();
    }
    let assembled = image::assemble(&built.manifest, &copy).unwrap();
    assert_eq!(image::Built { layout: built.layout.clone(), ..assembled }, built);
    assert_eq!(fs::read(copy.join("index.json")).unwrap(), fs::read(built.layout.join("index.json")).unwrap());
    let error = image::assemble(&built.config, &copy).unwrap_err();
    assert_eq!(error.class(), Class::Integrity);
}

#[test]
fn an_archive_has_the_same_bytes_each_time_and_both_forms_inside() {
    let root = tempfile::tempdir().unwrap();
    source(root.path(), false, false);
    let built = build(root.path(), &root.path().join("layout"));
    let archive = |reference| {
        let mut bytes = Vec::new();
        image::docker_archive(&built.layout, reference, &mut bytes).map(|()| bytes)
    };
    let bytes = archive(Some("reg.example/wine:1.0.0")).unwrap();
    assert_eq!(bytes, archive(Some("reg.example/wine:1.0.0")).unwrap());
    let out = root.path().join("out");
    tar::Archive::new(bytes.as_slice()).unpack(&out).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest[0]["RepoTags"][0], "reg.example/wine:1.0.0");
    assert_eq!(manifest[0]["Config"], format!("blobs/sha256/{}", built.config.hex()));
    let opened = image::open(&out).unwrap();
    assert_eq!((opened.manifest, opened.config, opened.layers), (built.manifest, built.config, built.layers.clone()));
    assert!(archive(None).is_ok());
    assert_eq!(archive(Some("Not A Name")).unwrap_err().class(), Class::BadInput);
    assert_eq!(archive(Some(&format!("reg.example/wine@{}", built.manifest))).unwrap_err().class(), Class::BadInput);
}

/// Builds with what earlier builds left in the cache; returns the image and how many layers were taken from there.
fn cached(spec: &domain::config::OciBuild, root: &Path, cache: &Path, to: &Path) -> (image::Built, String) {
    let ends = common::Ends::default();
    let inputs = OciInputs { spec, root, labels: &labels(), created: created(), base: None, cache };
    let built = inputs.build(to, &ends.events()).unwrap();
    (built, ends.last())
}

#[test]
fn a_changed_file_of_a_large_folder_makes_one_layer_anew() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    for number in 0..24u32 {
        let file = at(&format!("src/data/d{}/f{number}", number % 5));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let file = fs::File::create(file).unwrap();
        file.set_len((6 << 20) + u64::from(number)).unwrap();
    }
    fs::File::create(at("src/data/model")).unwrap().set_len(40 << 20).unwrap();
    let spec = oci(&[("data", "/data", None)]);
    let build = |number: u32| cached(&spec, &at("src"), &at("cache"), &at(&format!("layout{number}")));
    let (first, said) = build(1);
    assert!((3..=20).contains(&first.layers.len()), "{first:?}");
    assert!(said.ends_with("0 layers as before"), "{said}");
    let (again, said) = build(2);
    assert_eq!(again.manifest, first.manifest);
    assert!(said.ends_with(&format!("{} layers as before", first.layers.len())), "{said}");
    let different = |a: &image::Built, b: &image::Built| {
        let (a, b): (BTreeSet<_>, BTreeSet<_>) = (a.layers.iter().collect(), b.layers.iter().collect());
        (a.difference(&b).count(), b.difference(&a).count())
    };
    // The same size, another byte.
    let changed = at("src/data/d2/f7");
    use std::os::unix::fs::FileExt;
    fs::OpenOptions::new().write(true).open(&changed).unwrap().write_all_at(b"x", 12345).unwrap();
    let (second, _) = build(3);
    assert_eq!(different(&first, &second), (1, 1));
    fs::create_dir_all(at("src/data/new/folder")).unwrap();
    fs::write(at("src/data/new/folder/file"), "new").unwrap();
    let (third, _) = build(4);
    assert_eq!(different(&second, &third), (1, 1));
    // What the cache says decides nothing: without it, and with every blob of it damaged, the image is the same.
    for entry in fs::read_dir(at("cache/layers/blobs")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let (fourth, said) = build(5);
    assert_eq!(fourth.manifest, third.manifest);
    assert!(said.ends_with(" 0 layers as before"), "{said}");
    assert_eq!(image::open(&fourth.layout).unwrap(), fourth);
    let alone = image::build_oci(&spec, &at("src"), &labels(), created(), &at("alone"), &Events::nowhere()).unwrap();
    assert_eq!(alone.manifest, third.manifest);
    let unpacked = at("rootfs");
    image::unpack(&alone.layout, &unpacked, &image::Limits::default()).unwrap();
    assert_eq!(fs::read_dir(unpacked.join("data")).unwrap().count(), 7);
    assert_eq!(fs::metadata(unpacked.join("data/model")).unwrap().len(), 40 << 20);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_no_image() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "run", "1", 0o755);
    let spec = oci(&[("run", "/run", None)]);
    let to = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let (file, labels) = (root.path().join("run"), BTreeMap::new());
    // Between the hashing and the writing of the layer, another program writes.
    let events = common::on_task("build 1 layer", move || fs::write(&file, "2").unwrap());
    let inputs = OciInputs {
        spec: &spec,
        root: root.path(),
        labels: &labels,
        created: created(),
        base: None,
        cache: cache.path(),
    };
    let error = inputs.build(to.path(), &events).unwrap_err();
    assert!(error.to_string().contains("changed while it was read"), "{error}");
    assert!(!to.path().join("index.json").exists());
}

/// The build of the test below, in a process of its own.
#[test]
fn child_build() {
    let Ok(root) = std::env::var("OCI_CHILD_ROOT") else { return };
    let root = Path::new(&root);
    let mut spec = oci(&[("bin/run", "/app/", None), ("etc", "/app/etc", None)]);
    spec.platforms = vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()];
    spec.files[1].owner = Some((1000, 2000));
    let (built, _) = cached(&spec, root, &root.join("../cache"), &root.join("../layout"));
    fs::write(root.join("../digest"), built.root().to_string()).unwrap();
}

#[test]
fn ten_builds_by_others_elsewhere_on_another_day_give_the_same_digest() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let root_user = rustix::process::geteuid().is_root();
    let mut digests = BTreeSet::new();
    for number in 0..10u32 {
        let place = home.path().join("x".repeat(number as usize + 1));
        let root = place.join(format!("source{number}"));
        source(&root, number % 2 == 1, false);
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 365 * u64::from(number));
        fs::File::open(root.join("etc/b.toml")).unwrap().set_modified(old).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
        let umask = ["000", "022", "027", "077"][number as usize % 4];
        let mut command = Command::new("sh");
        let program = std::env::current_exe().unwrap();
        let script = format!("umask {umask}; exec \"$0\" --exact child_build --nocapture");
        command.args(["-c", &script]).arg(&program).env_clear();
        command.env("OCI_CHILD_ROOT", &root).env("TMPDIR", &place);
        command.env("TZ", ["UTC", "Asia/Kathmandu", "America/St_Johns"][number as usize % 3]);
        command.env("LC_ALL", ["C", "tr_TR.UTF-8"][number as usize % 2]);
        if root_user && number % 3 == 2 {
            // As nobody, who can read the sources and runs the same program.
            let copy = place.join("program");
            fs::copy(&program, &copy).unwrap();
            for path in walk(&root) {
                let mode =
                    if path.is_dir() { 0o755 } else { fs::metadata(&path).unwrap().permissions().mode() | 0o444 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            command = {
                let mut other = Command::new("sh");
                other.args(["-c", &script]).arg(&copy).env_clear().env("OCI_CHILD_ROOT", &root).env("TMPDIR", &place);
                other.uid(65534).gid(65534);
                other
            };
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{number}: {}", String::from_utf8_lossy(&output.stdout));
        digests.insert(fs::read_to_string(place.join("digest")).unwrap());
    }
    assert_eq!(digests.len(), 1, "{digests:?}");
}

fn walk(root: &Path) -> Vec<std::path::PathBuf> {
    let mut all = vec![root.to_owned()];
    let mut next = 0;
    while next < all.len() {
        if all[next].is_dir() && !all[next].is_symlink() {
            let found: Vec<_> = fs::read_dir(&all[next]).unwrap().map(|entry| entry.unwrap().path()).collect();
            all.extend(found.into_iter().filter(|path| !path.is_symlink()));
        }
        next += 1;
    }
    all
}
