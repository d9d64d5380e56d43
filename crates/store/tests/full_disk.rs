//! A full disk below the embedded store. Needs a file system of its own, which takes root, or a user namespace of its own.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use domain::Class;
use std::{fs, path::Path, process::Command};
use store::{Error, Family, Location, Store};

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

fn mount(folder: &Path, options: &str) {
    fs::create_dir_all(folder).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).status().unwrap();
    assert!(mounted.success(), "a tmpfs can be mounted in the namespace");
}

fn is_full<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Internal);
    assert!(error.to_string().starts_with("the disk of the store "), "{error}");
    assert!(error.to_string().contains("No space left on device"), "{error}");
}

/// Not a test of its own: what [`a_full_disk_is_said_as_such`] runs inside its namespace.
#[tokio::test(flavor = "multi_thread")]
async fn child_fills_the_disk() {
    let Ok(root) = std::env::var("STORE_TEST_DISK") else { return };
    let root = Path::new(&root);
    let (disk, sources) = (root.join("disk"), root.join("sources"));
    mount(&disk, "size=8m");
    fs::create_dir_all(&sources).unwrap();
    let store = Store::open(&Location::Embedded { directory: disk.join("store") }).await.unwrap();
    let old = store.put_bytes(Family::Blob, Bytes::from(noise(1_000_000))).await.unwrap();
    // In one request, and in parts.
    is_full(store.put_bytes(Family::Blob, Bytes::from(noise(12_000_000))).await);
    let large = noise(40_000_000);
    fs::write(sources.join("large"), &large).unwrap();
    is_full(store.put_file(Family::Pack, &store::Digest::of(&large), &sources.join("large"), None).await);
    store.settle().await;
    // Not even a byte.
    fs::write(disk.join("filler"), noise(12_000_000)).unwrap_err();
    is_full(store.create("refs/a", Bytes::from("a")).await);
    is_full(
        Store::open(&Location::Embedded { directory: disk.join("store") }).await.unwrap().create("b", "b".into()).await,
    );
    assert_eq!(store.verify(Family::Blob, &old).await.unwrap(), 1_000_000, "what was there stays");
    fs::remove_file(disk.join("filler")).unwrap();
    store.create("refs/a", Bytes::from("a")).await.unwrap();

    let few = root.join("few");
    mount(&few, "size=8m,nr_inodes=40");
    let store = Store::open(&Location::Embedded { directory: few.join("store") }).await.unwrap();
    let mut last = Ok(old);
    for number in 0..40 {
        last = store.put_bytes(Family::Blob, Bytes::from(format!("object {number}"))).await;
        if last.is_err() {
            break;
        }
    }
    is_full(last);
}

#[test]
fn a_full_disk_is_said_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    if rustix::process::geteuid().is_root() {
        command.arg("--mount");
    } else {
        command.args(["--user", "--map-root-user", "--mount"]);
    }
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "child_fills_the_disk"]);
    let output = command.env("STORE_TEST_DISK", folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
