//! Objects of an embedded store, changed behind everyone's back.
//!
//! An object is one file: its body from byte 0, then a description (see `store::embedded`). A disk damages the file, and
//! the server may find that by itself; somebody who may write to the store replaces the whole object.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The objects of a store's folder: key, and the file that holds it.
pub(crate) fn all(store: &Path) -> Vec<(String, PathBuf)> {
    let buckets = store.join("buckets");
    let mut found = Vec::new();
    for bucket in fs::read_dir(&buckets).unwrap_or_else(|error| panic!("{}: {error}", buckets.display())) {
        let bucket = bucket.unwrap().path();
        let mut folders = vec![bucket.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push((key(&bucket, &path), path));
                }
            }
        }
    }
    found.sort();
    found
}

/// The keys that begin with `prefix`.
pub(crate) fn keys(store: &Path, prefix: &str) -> Vec<String> {
    all(store).into_iter().map(|(key, _)| key).filter(|key| key.starts_with(prefix)).collect()
}

/// The file of one object.
#[track_caller]
pub(crate) fn file(store: &Path, key: &str) -> PathBuf {
    let found = all(store).into_iter().find(|(other, _)| other == key);
    found.unwrap_or_else(|| panic!("{key} is not in the store; there are {:#?}", keys(store, ""))).1
}

/// The names that are made of keys here have no long parts and no strange bytes: undoing them is short.
fn key(bucket: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(bucket).unwrap().to_str().unwrap();
    let mut key = String::new();
    for part in relative.split('/') {
        match (part.strip_suffix('@'), part.strip_suffix('+')) {
            (Some(last), _) => key.push_str(last),
            (None, Some(beginning)) => key.push_str(beginning),
            (None, None) => {
                key.push_str(part);
                key.push('/');
            }
        }
    }
    key.replace("%40", "@").replace("%2B", "+")
}

/// The length of an object's body: bytes 8 to 16 of the last 24.
fn body_length(bytes: &[u8]) -> usize {
    let footer = &bytes[bytes.len() - 24..];
    assert_eq!(&footer[16..], b"sealift1", "the format of records has changed");
    usize::try_from(u64::from_le_bytes(footer[8..16].try_into().unwrap())).unwrap()
}

/// The body of an object.
pub(crate) fn body(file: &Path) -> Vec<u8> {
    let mut bytes = fs::read(file).unwrap();
    bytes.truncate(body_length(&bytes));
    bytes
}

/// Replaces an object through the store, as anybody who may write to it could: only its reader can find that.
pub(crate) fn replace(project: &e2e::Project, key: &str, bytes: Vec<u8>) {
    let store = project.store();
    let body = store::Body::Bytes(bytes.into());
    project.block_on(store.objects().put(key, body, store::Condition::None)).unwrap();
}

/// The bytes with one bit flipped, at this share of their length.
pub(crate) fn flipped(mut bytes: Vec<u8>, share: f64) -> Vec<u8> {
    let at = place(bytes.len(), share);
    bytes[at] ^= 0x01;
    bytes
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
fn place(length: usize, share: f64) -> usize {
    ((length - 1) as f64 * share) as usize
}

/// Flips one bit of one byte of a body, at this share of its length (0.0 is the first byte, 1.0 the last).
pub(crate) fn flip(file: &Path, share: f64) {
    let length = body(file).len();
    assert!(length > 0, "{} is empty", file.display());
    let at = place(length, share);
    edit(file, |body| body[at] ^= 0x01);
}

/// Changes a body in place without changing its length.
pub(crate) fn edit(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = body(file);
    let length = bytes.len();
    change(&mut bytes);
    assert_eq!(bytes.len(), length, "only what keeps the length can be changed in place");
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(&bytes, 0).unwrap();
}
