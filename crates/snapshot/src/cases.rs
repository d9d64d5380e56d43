//! Names that differ only in the case of letters: two files here, one on a file system that does not tell them apart.
//!
//! Letters are folded as Unicode has it, one by one. What a file system does beyond that (composed and decomposed letters, say) is
//! not known here; what it makes one of, a checkout finds when the second is to get its name.

use crate::error::{Error, Result, at};
use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
};

/// A name or path in the case that stands for all.
pub(crate) fn fold(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        Ok(text) => text.to_uppercase().to_lowercase().into_bytes(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// Whether folding certainly changes nothing.
pub(crate) fn is_folded(name: &[u8]) -> bool {
    name.iter().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
}

/// Equal for names that differ only in case; otherwise different, but for a chance of one in 2^64.
pub(crate) fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    if is_folded(name) {
        name.hash(&mut hasher)
    } else {
        fold(name).as_slice().hash(&mut hasher)
    }
    hasher.finish()
}

/// Finds paths that collide among those of a tree, which come in byte order.
#[derive(Default)]
pub(crate) struct Cases {
    seen: HashSet<u64>,
    last: Vec<u8>,
}

impl Cases {
    /// Takes a path that is there besides those of the tree.
    pub(crate) fn stays(&mut self, path: &[u8]) {
        self.seen.insert(hash(path));
    }

    /// Takes the next path, and the folders above it that are new; the first of them that was there in another case.
    pub(crate) fn take<'a>(&mut self, path: &'a [u8]) -> Option<&'a [u8]> {
        let common = self.last.iter().zip(path).take_while(|(a, b)| a == b).count();
        // The folders that the last path was in as well.
        let known = path[..common].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let slashes = path.iter().enumerate().skip(known).filter(|(_, byte)| **byte == b'/').map(|(place, _)| place);
        let collides = slashes.chain([path.len()]).map(|end| &path[..end]).find(|part| !self.seen.insert(hash(part)));
        self.last.clear();
        self.last.extend_from_slice(path);
        collides
    }
}

/// Whether a folder takes names that differ only in case for one. It is tried out with a file that is removed again.
pub(crate) fn are_one_in(folder: &Path) -> Result<bool> {
    let probe = tempfile::Builder::new()
        .prefix(".sealift-Case-")
        .rand_bytes(12)
        .tempfile_in(folder)
        .map_err(at("write a temporary file in", folder))?;
    let name = probe.path().file_name().unwrap_or_default().to_string_lossy();
    let swap = |letter: char| {
        if letter.is_ascii_uppercase() { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() }
    };
    let other = folder.join(name.chars().map(swap).collect::<String>());
    match std::fs::symlink_metadata(&other) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at("read", other)(error)),
    }
}

/// What is said of a path that has no place of its own.
pub(crate) fn refused(data: &Path, path: &[u8]) -> Error {
    use std::os::unix::ffi::OsStrExt as _;
    let path = data.join(std::ffi::OsStr::from_bytes(path));
    Error::Path {
        path,
        why: "differs from another path of the snapshot only in case, and cannot be told from it there",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collision<'a>(paths: &[&'a str]) -> Option<&'a str> {
        let mut cases = Cases::default();
        let mut sorted = paths.to_vec();
        sorted.sort();
        sorted.iter().find_map(|path| cases.take(path.as_bytes())).map(|path| std::str::from_utf8(path).unwrap())
    }

    #[test]
    fn paths_collide_in_files_and_in_folders() {
        assert_eq!(collision(&["a!", "a-b/x", "a-b/y", "a/b/c", "a/b/d", "b", "c/b"]), None);
        assert_eq!(collision(&["A", "a"]), Some("a"));
        assert_eq!(collision(&["x/A/one", "x/a/two"]), Some("x/a"));
        assert_eq!(collision(&["x/A", "x/a/two"]), Some("x/a"));
        assert_eq!(collision(&["\u{c4}rger", "\u{e4}rger"]), Some("\u{e4}rger"));
        assert_eq!(collision(&["stra\u{df}e", "STRASSE"]), Some("stra\u{df}e"));
        assert_eq!(collision(&["A/x", "b/x", "b/y", "c/a/x"]), None);
    }

    #[test]
    fn bytes_that_are_no_text_are_told_apart_by_their_letters() {
        assert_eq!(hash(b"A\xff"), hash(b"a\xff"));
        assert_ne!(hash(b"a\xfe"), hash(b"a\xff"));
    }

    #[test]
    fn the_probe_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        are_one_in(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
