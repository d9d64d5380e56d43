//! The `oci` builder: the same bytes everywhere, and errors that name the file.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::type_complexity)]

mod common;

use common::{created, oci, write};
use domain::{Class, Events};
use expect_test::expect;
use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path};

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
    expect!["sha256:5af465e0fad7b5462e1954aa1d24ea11a351aec49a002fc6db2f57d37cf867f9"]
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
    for (base, text) in [("debian:12", "not understood"), ("oci-layout:nowhere", "is no OCI layout")] {
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
            let error = image::open(&built.layout).unwrap_err();
            assert_eq!(error.class(), Class::Integrity, "{error}");
            assert!(error.to_string().contains(&digest.to_string()), "{error}");
        }
        fs::remove_file(&path).unwrap();
        let error = image::open(&built.layout).unwrap_err();
        assert!(error.to_string().contains(&digest.hex()), "{error}");
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(image::open(&built.layout).is_err());
        fs::write(&path, &good).unwrap();
    }
    image::open(&built.layout).unwrap();
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
