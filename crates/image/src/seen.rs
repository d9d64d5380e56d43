//! What sources looked like when they were hashed, so that a file that has not changed is not read again.
//!
//! An entry is trusted when size, mtime, ctime and inode are as recorded *and* both times are older than the clock of the file system
//! before anything was hashed; a file written in that very tick or later may have changed without a trace, and is hashed again (git's rule for "racily clean"
//! entries). A time of a whole second may be all that a file system keeps, and then counts as that of up to two seconds later. The index is a cache: one that cannot be read is as good as none.

use crate::{
    abandoned::remove_abandoned,
    error::{Error, Result},
    layer::{in_parallel, persist},
};
use domain::Digest;
use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

/// What `stat` says of a file, as far as it tells a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stat {
    pub(crate) size: u64,
    mtime: i64,
    ctime: i64,
    inode: u64,
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

impl Stat {
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            size: metadata.len(),
            mtime: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    #[cfg(test)]
    pub(crate) fn of_size(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    /// When it may have been changed last.
    fn latest(&self) -> i64 {
        let latest = self.mtime.max(self.ctime);
        // The ctime is set by no program, so that whole seconds are the file system's.
        if self.ctime % 1_000_000_000 == 0 { latest.saturating_add(COARSE) } else { latest }
    }

    fn numbers(&self) -> [u64; 4] {
        [self.size, self.mtime.cast_unsigned(), self.ctime.cast_unsigned(), self.inode]
    }
}

const MAGIC: &[u8; 8] = b"SLSEEN\0\x01";
/// How long the times of a coarse file system may stand still (FAT keeps every other second), in nanoseconds.
const COARSE: i64 = 2_000_000_000;
/// Stat and digest of one record.
const FIXED: usize = 64;

/// The index of one root folder.
#[derive(Debug)]
pub(crate) struct Seen {
    file: PathBuf,
    stamp: i64,
    known: HashMap<PathBuf, (Stat, Digest)>,
}

impl Seen {
    /// Reads the index for the sources below `root`. Must be called before anything of them is looked at.
    pub(crate) fn open(cache: &Path, root: &Path) -> Result<Self> {
        let folder = cache.join("seen");
        fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        remove_abandoned(&folder);
        let clock = tempfile::NamedTempFile::new_in(&folder).map_err(Error::file("create a file in", &folder))?;
        let metadata = clock.as_file().metadata().map_err(Error::file("look at", clock.path()))?;
        let file = folder.join(Digest::of(root.as_os_str().as_bytes()).hex());
        let known = fs::read(&file).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Ok(Self { file, stamp: nanoseconds(metadata.mtime(), metadata.mtime_nsec()), known })
    }

    /// The digest of every source: remembered, or got by `hash`. What was asked for is remembered.
    pub(crate) fn digests(
        &mut self,
        sources: &HashMap<PathBuf, Stat>,
        hash: impl Fn(&Path, u64) -> Result<Digest> + Sync,
    ) -> Result<HashMap<PathBuf, Digest>> {
        let mut digests = HashMap::with_capacity(sources.len());
        let mut unknown: Vec<(&PathBuf, &Stat)> = Vec::new();
        for (path, stat) in sources {
            match self.known.get(path) {
                Some((known, digest)) if known == stat => drop(digests.insert(path.clone(), *digest)),
                _ => unknown.push((path, stat)),
            }
        }
        let hashed = in_parallel(&unknown, |(path, stat)| hash(path, stat.size))?;
        digests.extend(unknown.into_iter().map(|(path, _)| path.clone()).zip(hashed));
        self.known =
            sources.iter().filter_map(|(path, stat)| Some((path.clone(), (*stat, *digests.get(path)?)))).collect();
        Ok(digests)
    }

    /// Keeps the index. What a change would not show of is left out, so that no later index trusts it.
    pub(crate) fn save(&self) -> Result<()> {
        let mut bytes = MAGIC.to_vec();
        for (path, (stat, digest)) in &self.known {
            if stat.latest() >= self.stamp {
                continue;
            }
            let name = path.as_os_str().as_bytes();
            bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
            bytes.extend_from_slice(name);
            stat.numbers().iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
            bytes.extend_from_slice(digest.as_bytes());
        }
        let checksum = Digest::of(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::file("create a file in", folder))?;
        file.write_all(&bytes).map_err(Error::file("write", &self.file))?;
        persist(file, &self.file)
    }
}

fn decode(bytes: &[u8]) -> Option<HashMap<PathBuf, (Stat, Digest)>> {
    let (content, checksum) = bytes.split_last_chunk::<32>()?;
    if Digest::of(content).as_bytes() != checksum {
        return None;
    }
    let mut rest = content.strip_prefix(MAGIC)?;
    let mut known = HashMap::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (name, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let (fixed, after) = after.split_first_chunk::<FIXED>()?;
        let (numbers, digest) = fixed.split_first_chunk::<32>()?;
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
        let mut number = || numbers.next().unwrap_or_default();
        let (size, mtime, ctime, inode) = (number(), number().cast_signed(), number().cast_signed(), number());
        let digest = Digest::from_bytes(digest.try_into().ok()?);
        let path = PathBuf::from(OsString::from_vec(name.to_vec()));
        known.insert(path, (Stat { size, mtime, ctime, inode }, digest));
        rest = after;
    }
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// How many files were read to know the digests of all.
    fn ask(cache: &Path, root: &Path) -> (usize, HashMap<PathBuf, Digest>) {
        let mut seen = Seen::open(cache, root).unwrap();
        let mut sources = HashMap::new();
        for entry in fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            sources.insert(path.clone(), Stat::of(&fs::symlink_metadata(&path).unwrap()));
        }
        let read = AtomicUsize::new(0);
        let digests = seen.digests(&sources, |path, _| {
            read.fetch_add(1, Ordering::Relaxed);
            Ok(Digest::of(fs::read(path).unwrap()))
        });
        seen.save().unwrap();
        (read.into_inner(), digests.unwrap())
    }

    /// Waits until the clock of the file system has moved on.
    fn tick(folder: &Path) {
        let now = || Stat::of(&tempfile::NamedTempFile::new_in(folder).unwrap().as_file().metadata().unwrap()).mtime;
        let before = now();
        while now() == before {
            std::thread::yield_now();
        }
    }

    #[test]
    fn unchanged_files_are_not_read_again_and_changed_ones_are() {
        let (cache, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["a", "b", "c"] {
            fs::write(root.path().join(name), name).unwrap();
        }
        tick(cache.path());
        let (read, first) = ask(cache.path(), root.path());
        assert_eq!(read, 3);
        assert_eq!(ask(cache.path(), root.path()), (0, first.clone()));
        fs::write(root.path().join("b"), "B").unwrap();
        tick(cache.path());
        let (read, second) = ask(cache.path(), root.path());
        assert_eq!(read, 1);
        assert_ne!(first, second);
        // A torn index is none.
        let index = fs::read_dir(cache.path().join("seen")).unwrap().next().unwrap().unwrap().path();
        let mut bytes = fs::read(&index).unwrap();
        bytes[20] ^= 1;
        fs::write(&index, bytes).unwrap();
        assert_eq!(ask(cache.path(), root.path()), (3, second));
    }

    #[test]
    fn whole_seconds_are_not_trusted_before_they_are_over() {
        let (cache, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = |time: i64, stamp: i64| {
            let mut seen = Seen::open(cache.path(), root.path()).unwrap();
            seen.stamp = stamp;
            let stat = Stat { size: 1, mtime: time, ctime: time, inode: 1 };
            seen.known = HashMap::from([(root.path().join("a"), (stat, Digest::of(b"a")))]);
            seen.save().unwrap();
            !Seen::open(cache.path(), root.path()).unwrap().known.is_empty()
        };
        let second = 1_000_000_000;
        assert!(!kept(100 * second, 100 * second + second / 2));
        assert!(!kept(100 * second, 102 * second));
        assert!(kept(100 * second, 102 * second + 1));
        assert!(kept(100 * second + 1, 100 * second + 2));
        assert!(!kept(100 * second + 1, 100 * second + 1));
    }

    #[test]
    fn a_file_written_in_the_tick_of_the_index_is_read_again() {
        let (cache, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = root.path().join("racy");
        fs::write(&path, "one").unwrap();
        let mut seen = Seen::open(cache.path(), root.path()).unwrap();
        // The clock of the file system stood still since the file was written.
        seen.stamp = Stat::of(&fs::metadata(&path).unwrap()).mtime;
        let sources = HashMap::from([(path.clone(), Stat::of(&fs::metadata(&path).unwrap()))]);
        seen.digests(&sources, |path, _| Ok(Digest::of(fs::read(path).unwrap()))).unwrap();
        seen.save().unwrap();
        assert_eq!(ask(cache.path(), root.path()).0, 1);
    }
}
