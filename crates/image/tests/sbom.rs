//! Bills of materials of folders and layouts, with syft as a second opinion (`SEALIFT_TEST_SYFT=/path/to/syft`).
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use common::{Lines, created, layout_of, real, write};
use domain::{Class, Events};
use image::{Sbom, SbomRequest, SbomTool, sbom};
use serde_json::Value;
use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

fn request<'a>(folder: &'a Path, layout: Option<&'a Path>, events: &'a Events) -> SbomRequest<'a> {
    let (name, version, tool) = ("wine", "1.2.0", SbomTool::Own);
    SbomRequest { folder, layout, name, version, created: created(), tool, syft: None, events }
}

fn document(sbom: &Sbom) -> Value {
    serde_json::from_slice(&sbom.bytes).unwrap()
}

/// Package URLs, or names of what has none.
fn purls(sbom: &Sbom) -> BTreeSet<String> {
    let document = document(sbom);
    let components = document["components"].as_array().unwrap().clone();
    assert_eq!(components.len() as u64, sbom.components);
    let name = |component: &Value| component["purl"].as_str().or(component["name"].as_str()).unwrap().to_owned();
    components.iter().map(name).collect()
}

fn property(document: &Value, name: &str) -> Vec<String> {
    let all = document["metadata"]["properties"].as_array().unwrap();
    let named = all.iter().filter(|property| property["name"] == name);
    named.map(|property| property["value"].as_str().unwrap().to_owned()).collect()
}

enum Entry<'a> {
    File(&'a str, &'a str),
    HardLink(&'a str, &'a str),
}

fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        match entry {
            Entry::File(path, text) => {
                header.set_size(text.len() as u64);
                archive.append_data(&mut header, path, text.as_bytes()).unwrap();
            }
            Entry::HardLink(path, target) => {
                header.set_size(0);
                header.set_entry_type(tar::EntryType::Link);
                archive.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    archive.into_inner().unwrap()
}

const STATUS: &str = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\nPackage: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1\nDepends: libc6\n";
const RELEASE: &str = "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
const SITE: &str = "usr/lib/python3/dist-packages";

/// An image with a Debian, of which a later layer has a package more, Python packages, one of them deleted, one a hard link.
fn an_image(root: &Path) {
    let metadata = |name: &str, more: &str| format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{more}\n");
    let installed = |name: &str| format!("{SITE}/{name}-1.0.dist-info/METADATA");
    let base = tar_of(&[
        Entry::File("usr/lib/os-release", RELEASE),
        Entry::File("var/lib/dpkg/status", STATUS),
        Entry::File(&installed("deleted"), &metadata("deleted", "")),
        Entry::File("root/.cache/x/data", &metadata("linked", "")),
        Entry::HardLink(&installed("linked"), "root/.cache/x/data"),
    ]);
    let status =
        format!("{STATUS}\nPackage: python3\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.11\n");
    let upper = tar_of(&[
        Entry::File(&format!("{SITE}/.wh.deleted-1.0.dist-info"), ""),
        Entry::File("var/lib/dpkg/status", &status),
        Entry::File(
            &installed("Flask"),
            &metadata("Flask", "License-Expression: BSD-3-Clause\nRequires-Dist: linked\n"),
        ),
    ]);
    layout_of(root, &[base, upper], true);
}

fn a_component(root: &Path) {
    let sum = "a".repeat(64);
    write(
        root,
        "Cargo.lock",
        &format!(
            "version = 4\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\"serde\"]\n[[package]]\nname = \"serde\"\nversion = \"1.0.1\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"{sum}\"\n"
        ),
        0o644,
    );
    write(root, "api/requirements.txt", &format!("-r base.txt\nflask==1.0 --hash=sha256:{sum}\n"), 0o644);
    write(root, "api/base.txt", "numpy==2.0.0\n", 0o644);
    write(
        root,
        "web/package-lock.json",
        r#"{"lockfileVersion": 3, "packages": {"node_modules/left": {"version": "1.0.0"}}}"#,
        0o644,
    );
    for skipped in ["target", "node_modules/x", ".git", "vendor/y", ".sealift"] {
        write(root, &format!("{skipped}/Cargo.lock"), "not read", 0o644);
    }
}

#[test]
fn rpm_packages_that_nobody_lists_are_spoken_of() {
    let root = tempfile::tempdir().unwrap();
    let made = |name: &str, layers: &[Vec<u8>]| {
        let layout = root.path().join(name);
        layout_of(&layout, layers, true);
        let lines = Lines::default();
        let bill = sbom(&request(root.path(), Some(&layout), &lines.events())).unwrap();
        (property(&document(&bill), "sealift:sbom:unlisted"), lines.all().join("\n"))
    };
    for (name, path) in [
        ("one", "var/lib/rpm/rpmdb.sqlite"),
        ("two", "usr/lib/sysimage/rpm/rpmdb.sqlite"),
        ("three", "var/lib/rpm/Packages"),
    ] {
        let base = tar_of(&[Entry::File("usr/lib/os-release", "ID=fedora\n"), Entry::File(path, "not read")]);
        let (said, warned) = made(name, std::slice::from_ref(&base));
        let text = format!("RPM packages are not listed, /{path} is read by syft alone");
        assert_eq!(said, std::slice::from_ref(&text));
        assert!(warned.contains(&text), "{warned}");
        // A later layer deletes it, and there is nothing to say.
        let (folder, file) = path.rsplit_once('/').unwrap();
        let deleted = tar_of(&[Entry::File(&format!("{folder}/.wh.{file}"), "")]);
        let (said, warned) = made(&format!("{name}-deleted"), &[base, deleted]);
        assert!(said.is_empty() && !warned.contains("RPM"), "{said:?} {warned}");
    }
}

#[test]
fn a_bill_names_what_locks_and_layers_hold_and_is_the_same_everywhere() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let events = Events::nowhere();
    let made: Vec<Sbom> = [one.path(), &two.path().join("deep/er")]
        .into_iter()
        .map(|root| {
            a_component(&root.join("component"));
            an_image(&root.join("layout"));
            sbom(&request(&root.join("component"), Some(&root.join("layout")), &events)).unwrap()
        })
        .collect();
    assert_eq!(made[0], made[1]);
    expect_test::expect![[r#"
        {
            "app",
            "debian",
            "pkg:cargo/serde@1.0.1",
            "pkg:deb/debian/bash@5.2-1?arch=amd64&distro=debian-12",
            "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12",
            "pkg:deb/debian/python3@3.11?arch=amd64&distro=debian-12",
            "pkg:npm/left@1.0.0",
            "pkg:pypi/flask@1.0",
            "pkg:pypi/linked@1.0",
            "pkg:pypi/numpy@2.0.0",
        }
    "#]]
    .assert_debug_eq(&purls(&made[0]));
    let document = document(&made[0]);
    let image = image::open(&one.path().join("layout")).unwrap();
    assert_eq!(document["metadata"]["component"]["hashes"][0]["content"], image.root().hex());
    assert_eq!(document["metadata"]["component"]["version"], "1.2.0");
    assert_eq!(document["metadata"]["timestamp"], "2024-05-06T07:08:09.5Z");
    assert_eq!(property(&document, "sealift:sbom:tool"), [made[0].tool.clone()]);
    let sources = property(&document, "sealift:sbom:source");
    assert!(sources.contains(&"api/requirements.txt".to_owned()), "{sources:?}");
    assert!(sources.contains(&"/var/lib/dpkg/status".to_owned()), "{sources:?}");
    let flask = document["components"].as_array().unwrap().iter().find(|part| part["purl"] == "pkg:pypi/flask@1.0");
    let flask = flask.unwrap();
    assert_eq!(flask["licenses"][0]["license"]["id"], "BSD-3-Clause");
    assert_eq!(flask["hashes"][0]["alg"], "SHA-256");
    let needs = |of: &str| {
        let entry = document["dependencies"].as_array().unwrap().iter().find(|entry| entry["ref"] == of).unwrap();
        entry["dependsOn"].clone()
    };
    assert_eq!(needs("pkg:pypi/flask@1.0"), serde_json::json!(["pkg:pypi/linked@1.0"]));
    assert_eq!(needs("application:app@0.1.0"), serde_json::json!(["pkg:cargo/serde@1.0.1"]));
    let references: BTreeSet<&str> =
        document["components"].as_array().unwrap().iter().map(|part| part["bom-ref"].as_str().unwrap()).collect();
    for entry in document["dependencies"].as_array().unwrap() {
        for need in entry["dependsOn"].as_array().unwrap() {
            assert!(references.contains(need.as_str().unwrap()), "{need}");
        }
    }
}

#[test]
fn another_input_gives_another_serial_number() {
    let root = tempfile::tempdir().unwrap();
    let events = Events::nowhere();
    write(root.path(), "requirements.txt", "a==1\n", 0o644);
    let first = document(&sbom(&request(root.path(), None, &events)).unwrap());
    write(root.path(), "requirements.txt", "a==2\n", 0o644);
    let second = document(&sbom(&request(root.path(), None, &events)).unwrap());
    assert_ne!(first["serialNumber"], second["serialNumber"]);
    let serial = first["serialNumber"].as_str().unwrap();
    assert!(serial.starts_with("urn:uuid:") && serial.as_bytes()[23] == b'8', "{serial}");
}

#[test]
fn a_component_of_nothing_is_named_and_the_bill_says_so() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "main.py", "print()", 0o644);
    layout_of(&root.path().join("layout"), &[tar_of(&[Entry::File("app", "x")])], false);
    let events = Events::nowhere();
    for layout in [None, Some(root.path().join("layout"))] {
        let made = sbom(&request(root.path(), layout.as_deref(), &events)).unwrap();
        assert_eq!(made.components, 0);
        let document = document(&made);
        assert_eq!(document["metadata"]["component"]["name"], "wine");
        assert_eq!(property(&document, "sealift:sbom:empty").len(), 1);
    }
}

#[test]
fn every_package_of_our_own_lock_is_there() {
    let root = tempfile::tempdir().unwrap();
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
    fs::copy(&lock, root.path().join("Cargo.lock")).unwrap();
    let made = sbom(&request(root.path(), None, &Events::nowhere())).unwrap();
    let packages = fs::read_to_string(lock).unwrap().matches("[[package]]").count();
    assert!(packages > 300, "{packages}");
    assert_eq!(made.components, packages as u64);
}

#[test]
fn a_text_is_read_by_what_it_is_called() {
    let count = |path: &str, text: &str| image::packages_in(path, text).unwrap();
    assert_eq!(count("a/Cargo.lock", "version = 4"), Some(0));
    assert_eq!(count("requirements.txt", "a==1\n-r gone.txt\nb"), Some(2));
    assert_eq!(count("/var/lib/dpkg/status", STATUS), Some(2));
    assert_eq!(count("x/y-1.dist-info/METADATA", "Name: y\nVersion: 1\n"), Some(1));
    assert_eq!(count("etc/os-release", RELEASE), Some(1));
    assert_eq!(count("README.md", "x"), None);
    assert!(image::packages_in("lib/apk/db/installed", "V:1").is_err());
}

#[test]
fn what_is_malformed_or_outside_is_an_error_that_names_it() {
    let events = Events::nowhere();
    let outside = tempfile::NamedTempFile::new().unwrap();
    for (path, text, expected) in [
        ("a/Cargo.lock", "[[package", "a/Cargo.lock is not understood as Cargo.lock"),
        (
            "uv.lock",
            "[[package]]\nversion = \"1\"",
            "uv.lock is not understood as a Python lock file: a package has no name",
        ),
        ("package-lock.json", "{", "package-lock.json is not understood as a lock file of npm"),
        ("pnpm-lock.yaml", "a: [", "pnpm-lock.yaml is not understood"),
        ("yarn.lock", "<<<<<<< HEAD", "yarn.lock is not understood as yarn.lock: line 1"),
        ("requirements-dev.txt", "-r ../../x.txt", "which is outside the component"),
        ("requirements.txt", "-r gone.txt", "gone.txt"),
        ("requirements.txt", "a b c", "line 1"),
    ] {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), path, text, 0o644);
        let error = sbom(&request(root.path(), None, &events)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.class(), Class::BadInput, "{error}");
    }
    let root = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("Cargo.lock")).unwrap();
    let error = sbom(&request(root.path(), None, &events)).unwrap_err();
    assert_eq!(error.to_string(), "Cargo.lock is no file inside the component");
    let root = tempfile::tempdir().unwrap();
    let broken = tar_of(&[Entry::File("lib/apk/db/installed", "P:musl\n\n")]);
    layout_of(&root.path().join("layout"), &[broken], true);
    let error = sbom(&request(root.path(), Some(&root.path().join("layout")), &events)).unwrap_err();
    assert!(error.to_string().starts_with("/lib/apk/db/installed is not understood"), "{error}");
}

fn script(root: &Path, text: &str) -> std::path::PathBuf {
    let path = root.join("syft");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_syft_that_fails_is_a_warning_and_our_own_does_not_lack() {
    let root = tempfile::tempdir().unwrap();
    a_component(&root.path().join("component"));
    let (component, layout) = (root.path().join("component"), root.path().join("layout"));
    an_image(&layout);
    let own = sbom(&request(&component, Some(&layout), &Events::nowhere())).unwrap();
    let version = "if [ \"$1\" = version ]; then echo '{\"version\": \"9.9.9\"}'; exit; fi\n";
    for (body, why) in [
        ("echo 'no such image' >&2; exit 3", "no such image"),
        ("echo '{}'", "printed no CycloneDX"),
        ("printf '{\"bomFormat\": \"Cyc'", "printed no JSON"),
    ] {
        let syft = script(root.path(), &format!("#!/bin/sh\n{version}{body}\n"));
        let lines = Lines::default();
        let events = lines.events();
        let mut request = request(&component, Some(&layout), &events);
        (request.tool, request.syft) = (SbomTool::Auto, Some(syft));
        assert_eq!(sbom(&request).unwrap(), own);
        assert!(lines.all().iter().any(|line| line.contains(why)), "{why}: {:?}", lines.all());
        request.tool = SbomTool::Syft;
        let error = sbom(&request).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn syft_finds_no_more_than_we_and_reads_what_we_write() {
    let Some(syft) = real("SEALIFT_TEST_SYFT") else { return };
    let root = tempfile::tempdir().unwrap();
    let (component, layout) = (root.path().join("component"), root.path().join("layout"));
    a_component(&component);
    an_image(&layout);
    let events = Events::nowhere();
    let mut request = request(&component, Some(&layout), &events);
    let own = sbom(&request).unwrap();
    (request.tool, request.syft) = (SbomTool::Syft, Some(syft.clone().into()));
    let both = sbom(&request).unwrap();
    assert!(both.tool.starts_with("syft ") && both.tool.contains(" and sealift "), "{}", both.tool);
    assert_eq!(sbom(&request).unwrap(), both, "the same image gives the same bill");
    // Both name the same packages; only how syft spells a qualifier may differ.
    let plain = |made: &Sbom| -> BTreeSet<String> {
        purls(made)
            .iter()
            .filter(|purl| purl.starts_with("pkg:"))
            .map(|purl| purl.split('?').next().unwrap().to_lowercase())
            .collect()
    };
    assert_eq!(plain(&both), plain(&own));
    let path = root.path().join("bom.json");
    fs::write(&path, &own.bytes).unwrap();
    let output = Command::new(&syft)
        .args(["convert".as_ref(), path.as_os_str(), "-o".as_ref(), "syft-json".as_ref()])
        .env("SYFT_CHECK_FOR_APP_UPDATE", "false")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    let read: BTreeSet<String> = read["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|artifact| artifact["purl"].as_str().filter(|purl| !purl.is_empty()))
        .map(|purl| purl.split('?').next().unwrap().to_lowercase())
        .collect();
    assert_eq!(read.intersection(&plain(&own)).count(), plain(&own).len(), "{read:?}");
    println!("syft: {} packages, the same by both", plain(&own).len());
}
