//! A repository in a temporary directory, and trees to put in it.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs)]

use domain::{Digest, Events};
use snapshot::{Added, Pointer, Repository, State};
use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

pub struct Fixture {
    pub root: tempfile::TempDir,
    pub repository: Repository,
    pub events: Events,
}

impl Fixture {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let repository = Repository::new(root.path().to_owned(), root.path().join(".sealift/cache"));
        Self { root, repository, events: Events::nowhere() }
    }

    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(relative)
    }

    pub fn write(&self, relative: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn add(&self, relative: &str) -> Added {
        self.repository.add(Path::new(relative), &self.events).unwrap()
    }

    pub fn state(&self, pointer: &str) -> State {
        self.repository.status(Path::new(pointer), &self.events).unwrap().state
    }

    /// The pointer as it would come through git.
    pub fn take_pointer(&self, pointer: &Pointer, relative: &str) -> Pointer {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        pointer.write(&path).unwrap();
        Pointer::read(&path).unwrap()
    }

    /// Whether the cache has this object of a store.
    pub fn has_cached(&self, key: &str) -> bool {
        self.path(".sealift/cache").join(key).exists()
    }

    /// Every cached pack.
    pub fn cached_packs(&self) -> Vec<PathBuf> {
        let mut packs: Vec<PathBuf> =
            walk(&self.path(".sealift/cache/packs")).into_iter().filter(|path| path.is_file()).collect();
        packs.sort();
        packs
    }
}

pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            all.extend(walk(&path));
        }
        all.push(path);
    }
    all
}

/// Bytes that do not compress and are the same in every run.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

/// One of everything that a snapshot can hold.
pub fn one_of_everything(fixture: &Fixture) {
    fixture.write("data/raw/a.csv", "x,y\n1,2\n".repeat(1000));
    fixture.write("data/raw/copy of a.csv", "x,y\n1,2\n".repeat(1000));
    fixture.write("data/raw/a-b/x", "sorted before a/");
    fixture.write("data/raw/empty", "");
    fixture.write("data/raw/new\nline%", "odd");
    fixture.write("data/raw/deep/er/and/deeper", "deep");
    fixture.write("data/raw/large.bin", noise(3_000_000, 1));
    fixture.write("data/raw/middle.bin", noise(200_000, 2));
    fs::write(fixture.path("data/raw").join(OsStr::from_bytes(b"not-\xff-utf8")), "bytes").unwrap();
    fixture.write("data/raw/run.sh", "#!/bin/sh\n");
    fs::set_permissions(fixture.path("data/raw/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(fixture.path("data/raw/nothing/here")).unwrap();
    std::os::unix::fs::symlink("a.csv", fixture.path("data/raw/link")).unwrap();
    std::os::unix::fs::symlink("/nonexistent/\u{e9}", fixture.path("data/raw/dangling")).unwrap();
}

/// An error with its causes, as a person would see it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

pub fn digest_of_tree(path: &Path) -> Digest {
    let parent = tempfile::tempdir().unwrap();
    let repository = Repository::new(path.parent().unwrap().to_owned(), parent.path().join("cache"));
    let added = repository.add(path, &Events::nowhere()).unwrap();
    added.pointer.digest
}
