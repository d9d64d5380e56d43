//! A disk that is full. Needs a file system of its own, which takes root, or a user namespace of its own.
#![allow(clippy::unwrap_used)]

mod common;

use common::{chain, noise};
use domain::{Class, Events};
use snapshot::{Repository, State};
use std::{fs, path::Path, process::Command};

/// Not a test of its own: what [`a_full_disk_is_said_and_old_files_stay`] runs inside its namespace.
#[test]
fn child_fills_the_disk() {
    let Ok(root) = std::env::var("SNAPSHOT_TEST_DISK") else { return };
    let root = Path::new(&root);
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(root).status().unwrap();
    assert!(mounted.success(), "a tmpfs can be mounted in the namespace");
    let repository = Repository::new(root.to_owned(), root.join(".sealift/cache"));
    let events = Events::nowhere();
    let path = Path::new("raw.snapshot.toml");
    fs::create_dir(root.join("raw")).unwrap();
    fs::write(root.join("raw/a"), noise(1_000_000, 1)).unwrap();
    fs::write(root.join("raw/b"), noise(1_000_000, 2)).unwrap();
    let old = repository.add(Path::new("raw"), &events).unwrap().pointer;
    let text = fs::read(root.join(path)).unwrap();

    // No room for the packs of what was added.
    fs::write(root.join("raw/c"), noise(3_000_000, 3)).unwrap();
    let error = repository.add(Path::new("raw"), &events).unwrap_err();
    assert_eq!(error.class(), Class::Internal);
    assert!(chain(&error).contains("No space left on device"), "{}", chain(&error));
    assert_eq!(fs::read(root.join(path)).unwrap(), text);
    fs::remove_file(root.join("raw/c")).unwrap();
    assert_eq!(repository.status(path, &events).unwrap().state, State::Clean);

    // No room for what a checkout is to write.
    fs::write(root.join("raw/a"), "new").unwrap();
    let new = repository.add(Path::new("raw"), &events).unwrap().pointer;
    let free = rustix::fs::statvfs(root).map(|disk| disk.f_bavail * disk.f_frsize).unwrap();
    fs::write(root.join("filler"), noise(usize::try_from(free).unwrap() - 100_000, 4)).unwrap();
    let error = repository.checkout(&old, false, &events).unwrap_err();
    assert!(chain(&error).contains("No space left on device"), "{}", chain(&error));
    assert_eq!(fs::read(root.join("raw/a")).unwrap(), b"new");
    assert_eq!(repository.status(path, &events).unwrap().state, State::Clean);
    assert_eq!(repository.status(path, &events).unwrap().pointer.digest, new.digest);
    fs::remove_file(root.join("filler")).unwrap();
    repository.checkout(&old, false, &events).unwrap();
    repository.verify_local(&old, &events).unwrap();
}

#[test]
fn a_full_disk_is_said_and_old_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    if rustix::process::geteuid().is_root() {
        command.arg("--mount");
    } else {
        command.args(["--user", "--map-root-user", "--mount"]);
    }
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "child_fills_the_disk"]);
    let output = command.env("SNAPSHOT_TEST_DISK", folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
