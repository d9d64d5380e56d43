//! The map of DESIGN §2 as a test: who may name whom, and what each member must have.
//!
//! It reads manifests and sources and builds nothing, so it says nothing about behaviour.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Every member and the members that it may name. A member that is not here is not on the map.
const ARROWS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("ledger", &["domain"]),
    ("store", &["domain"]),
    ("image", &["domain"]),
    ("cluster", &["domain"]),
    ("probe", &["domain"]),
    ("gateway", &["domain"]),
    ("snapshot", &["domain", "store"]),
    ("engine", &["domain", "ledger", "store", "image", "cluster", "probe", "gateway", "snapshot"]),
    ("sealift", &["domain", "engine"]),
    ("xtask", &["sealift"]),
    ("e2e", &["sealift", "engine", "domain", "ledger", "store", "image", "cluster", "probe", "gateway", "snapshot"]),
];

/// The crates without IO, clock, environment and randomness.
const PURE: &[&str] = &["domain", "ledger"];
/// Crates that would give those to them.
const IMPURE_CRATES: &[&str] = &[
    "async-std",
    "aws-config",
    "aws-sdk-s3",
    "bollard",
    "getrandom",
    "gethostname",
    "hyper",
    "ignore",
    "indicatif",
    "reqwest",
    "rustix",
    "tempfile",
    "tokio",
    "walkdir",
];
/// Words of the standard library and of pure crates that would, too.
const IMPURE_WORDS: &[&str] = &[
    "std::fs",
    "std::env",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "std::process",
    "std::thread",
    "std::io::stdin",
    "SystemTime",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "Uuid::new_v4",
    "OsRng",
    "thread_rng",
    "include_dir",
];

/// What a reader, a packager or CI looks for.
const FILES: &[&str] = &[
    ".cargo/config.toml",
    ".ci/run",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "Sealift.toml",
    "clippy.toml",
    "deny.toml",
    "deploy/Sealift.example.toml",
    "deploy/examples/wine/Cargo.lock",
    "deploy/examples/wine/Cargo.toml",
    "deploy/examples/wine/Dockerfile",
    "flake.lock",
    "flake.nix",
    "rustfmt.toml",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap()
}

fn manifest(path: &Path) -> toml::Table {
    toml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The allowed arrows of `package`.
fn arrows(package: &Package) -> Option<&'static [&'static str]> {
    ARROWS.iter().find(|(name, _)| *name == package.name.as_str()).map(|(_, may)| *may)
}

/// The sources of `package` under `src`, each with its text up to the unit tests at its end.
fn sources(package: &Package) -> Vec<(PathBuf, String)> {
    let mut folders = vec![package.manifest_path.parent().unwrap().join("src").into_std_path_buf()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path.file_stem().is_some_and(|stem| stem != "tests")
            {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                found.push((path, code));
            }
        }
    }
    found
}

/// Fails with every problem at once: a list is mended in one go.
fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n  {}\n", problems.join("\n  "));
}

#[test]
fn members_name_only_whom_they_may() {
    let metadata = metadata();
    let members: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let Some(may) = arrows(package) else {
            problems.push(format!("{} is not on the map of DESIGN §2", package.name));
            continue;
        };
        let ours = package.dependencies.iter().filter(|dependency| members.contains(dependency.name.as_str()));
        // A crate that names itself for its tests turns its own `testing` feature on in them.
        let itself = |name: &str, kind| name == package.name.as_str() && kind == DependencyKind::Development;
        for dependency in ours.filter(|one| !itself(&one.name, one.kind)) {
            let arrow = format!("{} -> {}", package.name, dependency.name);
            if dependency.path.is_none() {
                problems.push(format!("{arrow} is not by path"));
            }
            if !may.contains(&dependency.name.as_str()) {
                problems.push(format!("{arrow} is not an allowed arrow"));
            }
            let testing = dependency.features.iter().any(|feature| feature == "testing");
            if testing && dependency.kind == DependencyKind::Normal && package.name.as_str() != "e2e" {
                problems.push(format!("{arrow} brings what is for tests only into what is released"));
            }
        }
    }
    none(problems);
}

#[test]
fn members_take_versions_and_lints_from_the_workspace() {
    let mut problems = Vec::new();
    for package in &metadata().packages {
        let table = manifest(package.manifest_path.as_std_path());
        let lints = table.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        if lints != Some(true) {
            problems.push(format!("{} does not inherit the workspace's lints", package.name));
        }
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in table.get(kind).and_then(toml::Value::as_table).into_iter().flatten() {
                let itself = name == package.name.as_str();
                if !itself && value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    problems.push(format!("{}: the version of {name} is not the workspace's", package.name));
                }
            }
        }
        for field in ["version", "edition", "rust-version", "license", "publish"] {
            let value = table["package"].get(field).and_then(|value| value.get("workspace"));
            if value.and_then(toml::Value::as_bool) != Some(true) {
                problems.push(format!("{}: package.{field} is not the workspace's", package.name));
            }
        }
    }
    none(problems);
}

#[test]
fn the_workspace_forbids_what_it_says() {
    let lints = manifest(&root().join("Cargo.toml"))["workspace"]["lints"].clone();
    assert_eq!(lints["rust"]["unsafe_code"].as_str(), Some("forbid"));
    for lint in ["print_stdout", "print_stderr", "unwrap_used", "dbg_macro", "todo", "unimplemented"] {
        assert_eq!(lints["clippy"][lint].as_str(), Some("deny"), "clippy::{lint}");
    }
}

#[test]
fn libraries_do_not_print() {
    let mut problems = Vec::new();
    // `sealift` renders and `xtask` and `e2e` are programs; every other member is a library that emits events.
    for package in metadata().packages.iter().filter(|one| !["sealift", "xtask", "e2e"].contains(&one.name.as_str())) {
        for (path, code) in sources(package) {
            for word in ["clippy::print_stdout", "clippy::print_stderr", "io::stdout()", "io::stderr()", "print!("] {
                let found = code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word));
                if found {
                    problems.push(format!("{}: {word}", path.display()));
                }
            }
        }
    }
    none(problems);
}

#[test]
fn domain_and_ledger_are_pure() {
    let mut problems = Vec::new();
    for package in metadata().packages.iter().filter(|one| PURE.contains(&one.name.as_str())) {
        for dependency in package.dependencies.iter().filter(|one| one.kind != DependencyKind::Development) {
            if IMPURE_CRATES.contains(&dependency.name.as_str()) {
                problems.push(format!("{} depends on {}", package.name, dependency.name));
            }
        }
        for (path, code) in sources(package) {
            for (number, line) in code.lines().enumerate() {
                let line = line.split("//").next().unwrap_or_default();
                for word in IMPURE_WORDS.iter().filter(|word| line.contains(**word)) {
                    problems.push(format!("{}:{}: {word}", path.display(), number + 1));
                }
            }
        }
    }
    none(problems);
}

#[test]
fn every_crate_says_first_what_it_is() {
    let mut problems = Vec::new();
    for package in &metadata().packages {
        for target in package.targets.iter().filter(|target| target.is_lib() || target.is_bin()) {
            if !fs::read_to_string(&target.src_path).unwrap().starts_with("//!") {
                problems.push(format!("{} does not begin with its page of documentation", target.src_path));
            }
        }
        if package.description.as_deref().unwrap_or_default().is_empty() {
            problems.push(format!("{} has no description", package.name));
        }
    }
    none(problems);
}

#[test]
fn files_that_others_look_for_are_there() {
    use std::os::unix::fs::PermissionsExt;
    let root = root();
    none(FILES.iter().filter(|name| !root.join(name).is_file()).map(|name| format!("{name} is missing")).collect());
    let mode = fs::metadata(root.join(".ci/run")).unwrap().permissions().mode();
    assert!(mode & 0o111 != 0, ".ci/run cannot be executed");
}
