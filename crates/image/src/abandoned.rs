//! What a writer that died has left in a folder of the cache.
//!
//! Everything in a cache has a name that begins with one of [`UNFINISHED`] until it is whole, and then another. So what has such a name, and was not
//! written to for a week, is nobody's. Nothing else is removed: nothing that is younger, nothing under another name, and nothing behind a symbolic link,
//! which goes itself. What cannot be removed stays; it costs room and nothing else.
//!
//! Age is what the wall clock says. One that steps forward by a week while somebody writes makes what is written look abandoned, and the next who opens the
//! cache removes it: the writer fails and names the file, and what is whole has another name and stays.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, SystemTime},
};
use walkdir::WalkDir;

/// How long nobody has written to it. The longest fetch of a base ends earlier by its own deadline, and a clock that was wrong for a day or two is put
/// right by less than this.
const AGE: Duration = Duration::from_hours(7 * 24);
/// How names of what is not whole begin: `tempfile`'s own, those of a pull beside its target, and the store's.
const UNFINISHED: [&[u8]; 3] = [b".tmp", b".pull-", b".sealift-"];

/// Removes what a writer that died has left in a folder of a cache: what has the name of something that is not whole yet, and was not written to for a
/// week. No link is followed, and what cannot be removed stays.
pub fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let unfinished = |name: &[u8]| UNFINISHED.iter().any(|start| name.starts_with(start));
    for entry in entries.flatten().filter(|entry| unfinished(entry.file_name().as_bytes())) {
        let path = entry.path();
        // A time in the future has no age.
        if written(&path).and_then(|time| time.elapsed().ok()).is_none_or(|age| age < AGE) {
            continue;
        }
        let _ = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
    }
}

/// When it, or anything in it, was written to last; `None` when that cannot be told of all.
fn written(path: &Path) -> Option<SystemTime> {
    let times = WalkDir::new(path)
        .follow_root_links(false)
        .into_iter()
        .map(|entry| entry.ok()?.metadata().ok()?.modified().ok());
    times.collect::<Option<Vec<SystemTime>>>()?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
    use std::{os::unix::fs::symlink, path::PathBuf};

    /// The time of a link is its own.
    fn age(path: &Path, hours: u64) {
        let time = SystemTime::now() - Duration::from_hours(hours);
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let time = Timespec { tv_sec: seconds.try_into().unwrap(), tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn file(folder: &Path, name: &str, hours: u64) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, "x").unwrap();
        age(&path, hours);
        path
    }

    fn directory(folder: &Path, name: &str, hours: u64) -> PathBuf {
        let path = folder.join(name);
        fs::create_dir_all(path.join("blobs")).unwrap();
        file(&path.join("blobs"), "part", hours);
        age(&path.join("blobs"), hours);
        age(&path, hours);
        path
    }

    #[test]
    fn only_what_nobody_has_written_to_for_a_week_goes() {
        let (cache, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = cache.path();
        let gone = [
            file(cache, ".tmpA", 7 * 24 + 1),
            directory(cache, ".tmpB", 7 * 24 + 1),
            directory(cache, ".pull-A", 7 * 24 + 1),
            file(cache, ".sealift-A", 7 * 24 + 1),
        ];
        let old_outside = [directory(beside.path(), ".tmpC", 7 * 24 + 1), file(beside.path(), "mine", 7 * 24 + 1)];
        // Links to what is old: a young one stays, an old one goes alone.
        let (young, old) = (cache.join(".tmpYoung"), cache.join(".tmpOld"));
        symlink(&old_outside[0], &young).unwrap();
        symlink(&old_outside[0], &old).unwrap();
        age(&old, 7 * 24 + 1);
        symlink(beside.path(), gone[1].join("link")).unwrap();
        age(&gone[1].join("link"), 7 * 24 + 1);
        age(&gone[1], 7 * 24 + 1);
        let stays = [
            file(cache, ".tmpD", 7 * 24 - 1),
            file(cache, ".sealift-D", 7 * 24 - 1),
            file(cache, ".other", 999),
            file(cache, "blob", 999),
            directory(cache, "base", 999),
        ];
        // A folder that is old itself, in which somebody still writes.
        let growing = directory(cache, ".tmpE", 7 * 24 + 1);
        age(&growing.join("blobs/part"), 1);
        remove_abandoned(cache);
        for path in gone.iter().chain([&old]) {
            assert!(path.symlink_metadata().is_err(), "{} stays", path.display());
        }
        for path in stays.iter().chain(&old_outside).chain([&growing, &young]) {
            assert!(path.exists(), "{} is gone", path.display());
        }
        assert!(old_outside[0].join("blobs/part").exists());
        // Without a folder there is nothing to do.
        remove_abandoned(&cache.join("none"));
    }

    #[test]
    fn every_cache_is_cleared_when_it_is_opened() {
        let (cache, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let left: Vec<PathBuf> = ["layers", "layers/blobs", "seen", "listings"]
            .iter()
            .map(|folder| {
                let folder = cache.path().join(folder);
                fs::create_dir_all(&folder).unwrap();
                file(&folder, ".tmpLeft", 7 * 24 + 1)
            })
            .collect();
        crate::layercache::LayerCache::open(cache.path()).unwrap();
        crate::seen::Seen::open(cache.path(), root.path()).unwrap();
        crate::tree::Listings::open(cache.path()).unwrap();
        for path in left {
            assert!(!path.exists(), "{} stays", path.display());
        }
    }
}
