//! The stat index: what files looked like when they were hashed, so that an unchanged tree costs one `stat` a file.
//!
//! An entry is trusted when size, mtime, ctime and inode are as recorded *and* both times are older than the clock
//! of the file system when hashing began. A file written in the same clock tick as, or after, that moment may have changed without
//! a trace ("racily clean") and is hashed again. git compares with the time of the index file, which is later; the
//! beginning is the stricter choice. The index is a cache: one that cannot be read is as good as none.
//!
//! It is never in memory: it is read and written in step with a walk, in byte order of path. A file of version 2 is
//! `SLSTAT\0\x02`; the records (length of the path u32, path, size, mtime, ctime, inode, digest); stamp (i64), whether
//! there is a base (u8), base; SHA-256 of all before it. The stamp is behind the records because the base is known last.

use crate::{
    cache::Cache,
    error::{Result, at},
    path,
};
use domain::Digest;
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Seek as _, SeekFrom, Take, Write as _},
    os::unix::fs::MetadataExt,
};
use tempfile::NamedTempFile;

/// What `stat` says of a file, as far as it tells a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stat {
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
    pub(crate) inode: u64,
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

impl Stat {
    pub(crate) fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            size: meta.len(),
            mtime: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            ctime: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }

    /// The same of what the system itself answers, whose fields differ in type between machines.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
    pub(crate) fn raw(stat: &rustix::fs::Stat) -> Self {
        Self {
            size: stat.st_size as u64,
            mtime: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            inode: stat.st_ino as u64,
        }
    }

    /// Length of [`Stat::to_bytes`].
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let numbers = [self.size, self.mtime.cast_unsigned(), self.ctime.cast_unsigned(), self.inode];
        let mut bytes = [0; Self::BYTES];
        for (place, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut numbers = bytes.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
        let mut number = || numbers.next().unwrap_or_default();
        let (size, mtime, ctime, inode) = (number(), number(), number(), number());
        Self { size, mtime: mtime.cast_signed(), ctime: ctime.cast_signed(), inode }
    }

    /// Whether a change after `stamp` would show.
    fn older_than(&self, stamp: i64) -> bool {
        self.mtime < stamp && self.ctime < stamp
    }
}

/// One remembered file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) path: Vec<u8>,
    pub(crate) stat: Stat,
    pub(crate) digest: Digest,
}

const MAGIC: &[u8; 8] = b"SLSTAT\0\x02";
/// Stamp, flag, base.
const TRAILER: usize = 41;
const CHECKSUM: usize = 32;

/// An index that is read in step with a walk. One that is absent, torn or of another version has nothing in it.
pub(crate) struct StatReader {
    /// Clock of the file system before anything was hashed.
    pub(crate) stamp: i64,
    /// The snapshot that was last added or checked out here.
    pub(crate) base: Option<Digest>,
    input: Option<BufReader<Take<File>>>,
    next: Option<Known>,
}

impl StatReader {
    /// The index of a data path.
    pub(crate) fn open(cache: &Cache, data: &str) -> Self {
        let opened = File::open(cache.stat_index(data)).ok().and_then(Self::over);
        opened.unwrap_or(Self { stamp: 0, base: None, input: None, next: None })
    }

    /// An index in a file; `None` when it is not whole.
    pub(crate) fn over(mut file: File) -> Option<Self> {
        let size = file.metadata().ok()?.len();
        let records = size.checked_sub((MAGIC.len() + TRAILER + CHECKSUM) as u64)?;
        file.seek(SeekFrom::Start(0)).ok()?;
        let mut hasher = Sha256::new();
        let mut left = size - CHECKSUM as u64;
        let mut buffer = vec![0; 256 << 10];
        let mut tail = Vec::new();
        while left > 0 {
            let part = &mut buffer[..usize::try_from(left).unwrap_or(usize::MAX).min(256 << 10)];
            file.read_exact(part).ok()?;
            hasher.update(&*part);
            left -= part.len() as u64;
            tail.extend_from_slice(&part[part.len().saturating_sub(TRAILER)..]);
            tail.drain(..tail.len().saturating_sub(TRAILER));
        }
        let mut checksum = [0; CHECKSUM];
        file.read_exact(&mut checksum).ok()?;
        if checksum != *hasher.finalize() {
            return None;
        }
        file.seek(SeekFrom::Start(0)).ok()?;
        let mut magic = [0; 8];
        file.read_exact(&mut magic).ok()?;
        let (stamp, rest) = tail.split_first_chunk()?;
        let (has_base, base) = rest.split_first()?;
        let base = Digest::from_bytes(base.try_into().ok()?);
        let mut reader = Self {
            stamp: i64::from_le_bytes(*stamp),
            base: (*has_base == 1).then_some(base),
            input: Some(BufReader::with_capacity(64 << 10, file.take(records))),
            next: None,
        };
        reader.advance();
        (magic == *MAGIC).then_some(reader)
    }

    fn advance(&mut self) {
        self.next = self.input.as_mut().and_then(record);
    }

    /// The digest of a file that has not changed since it was hashed. Paths must be asked for in rising order.
    pub(crate) fn digest(&mut self, path: &[u8], stat: &Stat) -> Option<Digest> {
        while self.next.as_ref().is_some_and(|known| known.path.as_slice() < path) {
            self.advance();
        }
        let known = self.next.as_ref().filter(|known| known.path == path)?;
        (stat.older_than(self.stamp) && known.stat == *stat).then_some(known.digest)
    }

    /// The next file.
    pub(crate) fn next_any(&mut self) -> Option<Known> {
        let known = self.next.take()?;
        self.advance();
        Some(known)
    }

    /// The next file that a change since it was hashed would show of. What was hashed in the very tick in which it was
    /// written is left out, because another index with a later stamp would trust it.
    pub(crate) fn next_sure(&mut self) -> Option<Known> {
        loop {
            let known = self.next_any()?;
            if known.stat.older_than(self.stamp) {
                return Some(known);
            }
        }
    }
}

fn record(input: &mut BufReader<Take<File>>) -> Option<Known> {
    let length = u32::from_le_bytes(array(input)?) as usize;
    if length > path::LONGEST {
        return None;
    }
    let mut path = vec![0; length];
    input.read_exact(&mut path).ok()?;
    let fixed: [u8; 64] = array(input)?;
    let (stat, digest) = fixed.split_first_chunk()?;
    let stat = Stat::from_bytes(stat);
    Some(Known { path, stat, digest: Digest::from_bytes(digest.try_into().ok()?) })
}

fn array<const N: usize>(input: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// Writes an index in step with a walk.
pub(crate) struct StatWriter {
    output: BufWriter<NamedTempFile>,
    hasher: Sha256,
    record: Vec<u8>,
}

impl StatWriter {
    pub(crate) fn new(cache: &Cache) -> Result<Self> {
        let output = BufWriter::with_capacity(64 << 10, cache.temp()?);
        let mut writer = Self { output, hasher: Sha256::new(), record: MAGIC.to_vec() };
        writer.emit()?;
        Ok(writer)
    }

    /// Adds a file; in byte order of path.
    pub(crate) fn push(&mut self, path: &[u8], stat: &Stat, digest: &Digest) -> Result<()> {
        self.record.extend_from_slice(&(path.len() as u32).to_le_bytes());
        self.record.extend_from_slice(path);
        self.record.extend_from_slice(&stat.to_bytes());
        self.record.extend_from_slice(digest.as_bytes());
        // Hashing in larger pieces than one record is what makes it cheap.
        if self.record.len() < 16 << 10 { Ok(()) } else { self.emit() }
    }

    fn emit(&mut self) -> Result<()> {
        self.hasher.update(&self.record);
        let written = self.output.write_all(&self.record);
        self.record.clear();
        written.map_err(at("write", self.output.get_ref().path()))
    }

    /// Ends it; to be read again or committed under the name of a data path.
    pub(crate) fn finish(mut self, stamp: i64, base: Option<Digest>) -> Result<NamedTempFile> {
        self.record.extend_from_slice(&stamp.to_le_bytes());
        self.record.push(u8::from(base.is_some()));
        self.record.extend_from_slice(base.unwrap_or(Digest::from_bytes([0; 32])).as_bytes());
        self.emit()?;
        let path = self.output.get_ref().path().to_owned();
        self.output.write_all(&self.hasher.finalize()).map_err(at("write", &path))?;
        self.output.into_inner().map_err(|error| at("write", path)(error.into_error()))
    }
}

/// Reads what was just written.
pub(crate) fn reread(file: &NamedTempFile) -> Result<Option<StatReader>> {
    Ok(StatReader::over(file.reopen().map_err(at("read", file.path()))?))
}

/// Gives a finished index the name of a data path.
pub(crate) fn commit(cache: &Cache, data: &str, file: NamedTempFile) -> Result<()> {
    cache.commit(file, &cache.stat_index(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        std::fs::create_dir_all(cache.tmp()).unwrap();
        (folder, cache)
    }

    fn known(path: &[u8]) -> Known {
        let stat = Stat { size: 3, mtime: 90, ctime: 95, inode: 7 };
        Known { path: path.to_vec(), stat, digest: Digest::of("abc") }
    }

    fn written(cache: &Cache, stamp: i64, base: Option<Digest>, all: &[Known]) -> Vec<u8> {
        let mut writer = StatWriter::new(cache).unwrap();
        for known in all {
            writer.push(&known.path, &known.stat, &known.digest).unwrap();
        }
        std::fs::read(writer.finish(stamp, base).unwrap().path()).unwrap()
    }

    fn read(bytes: &[u8]) -> Option<StatReader> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        StatReader::over(file)
    }

    #[test]
    fn the_index_round_trips_and_a_torn_one_counts_as_none() {
        let (_folder, cache) = cache();
        let base = Some(Digest::of("base"));
        let bytes = written(&cache, 100, base, &[known(b"a\xff"), known(b"b")]);
        let mut reader = read(&bytes).unwrap();
        assert_eq!((reader.stamp, reader.base), (100, base));
        assert_eq!([reader.next_sure(), reader.next_sure()], [Some(known(b"a\xff")), Some(known(b"b"))]);
        assert_eq!(reader.next_sure(), None);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_none(), "{length}");
        }
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            assert!(read(&damaged).is_none(), "{position}");
        }
        let empty = read(&written(&cache, 5, None, &[])).unwrap();
        assert_eq!((empty.stamp, empty.base), (5, None));
    }

    #[test]
    fn a_long_index_is_read_in_step() {
        let (_folder, cache) = cache();
        let all: Vec<Known> = (0..20_000).map(|number| known(format!("{number:08}").as_bytes())).collect();
        let bytes = written(&cache, 100, None, &all);
        assert!(bytes.len() > 3 * (256 << 10));
        let mut reader = read(&bytes).unwrap();
        for known in all.iter().skip(1).step_by(7) {
            assert_eq!(reader.digest(&known.path, &known.stat), Some(known.digest));
            let beside = [&known.path[..], b"-"].concat();
            assert_eq!(reader.digest(&beside, &known.stat), None);
        }
    }

    #[test]
    fn only_files_older_than_the_stamp_are_trusted() {
        let (_folder, cache) = cache();
        let stat = known(b"a").stat;
        let asked = |stamp, path: &[u8], stat: &Stat| {
            read(&written(&cache, stamp, None, &[known(b"a\xff")])).unwrap().digest(path, stat)
        };
        assert!(asked(100, b"a\xff", &stat).is_some());
        assert!(asked(100, b"a", &stat).is_none());
        assert!(asked(100, b"a\xff", &Stat { inode: 8, ..stat }).is_none());
        assert!(asked(95, b"a\xff", &stat).is_none(), "the same tick is racy");
        assert!(read(&written(&cache, 95, None, &[known(b"a")])).unwrap().next_sure().is_none());
    }
}
