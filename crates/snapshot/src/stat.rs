//! The stat index: what files looked like when they were hashed, so that an unchanged tree costs one `stat` a file.
//!
//! An entry is trusted when size, mtime, ctime and inode are as recorded *and* both times are older than the clock
//! of the file system when hashing began. A file written in the same clock tick as, or after, that moment may have changed without
//! a trace ("racily clean") and is hashed again. git compares with the time of the index file, which is later; the
//! beginning is the stricter choice. The index is a cache: one that cannot be read is as good as none.

use crate::{
    cache::Cache,
    error::{Result, at},
};
use domain::Digest;
use std::{io::Write as _, os::unix::fs::MetadataExt};

/// What `stat` says of a file, as far as it tells a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stat {
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
    pub(crate) inode: u64,
}

impl Stat {
    pub(crate) fn of(meta: &std::fs::Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            size: meta.len(),
            mtime: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            ctime: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }
}

/// One remembered file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) path: Vec<u8>,
    pub(crate) stat: Stat,
    pub(crate) digest: Digest,
}

/// The index of one data path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StatIndex {
    /// Clock of the file system before anything was hashed.
    pub(crate) stamp: i64,
    /// The snapshot that was last added or checked out here.
    pub(crate) base: Option<Digest>,
    /// In byte order of path.
    pub(crate) known: Vec<Known>,
}

const MAGIC: &[u8; 8] = b"SLSTAT\0\x01";

impl StatIndex {
    pub(crate) fn load(cache: &Cache, data: &str) -> Self {
        let bytes = std::fs::read(cache.stat_index(data)).unwrap_or_default();
        Self::decode(&bytes).unwrap_or_default()
    }

    pub(crate) fn save(&self, cache: &Cache, data: &str) -> Result<()> {
        let mut file = cache.temp()?;
        file.write_all(&self.encode()).map_err(at("write", file.path()))?;
        cache.commit(file, &cache.stat_index(data))
    }

    /// The digest of a file that has not changed since it was hashed.
    pub(crate) fn digest(&self, path: &[u8], stat: &Stat) -> Option<Digest> {
        let place = self.known.binary_search_by(|known| known.path.as_slice().cmp(path)).ok()?;
        let known = &self.known[place];
        let old = stat.mtime < self.stamp && stat.ctime < self.stamp;
        (old && known.stat == *stat).then_some(known.digest)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.known.len() * 120);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.stamp.to_le_bytes());
        bytes.push(u8::from(self.base.is_some()));
        bytes.extend_from_slice(self.base.unwrap_or(Digest::from_bytes([0; 32])).as_bytes());
        for known in &self.known {
            bytes.extend_from_slice(&(known.path.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&known.path);
            bytes.extend_from_slice(&known.stat.size.to_le_bytes());
            bytes.extend_from_slice(&known.stat.mtime.to_le_bytes());
            bytes.extend_from_slice(&known.stat.ctime.to_le_bytes());
            bytes.extend_from_slice(&known.stat.inode.to_le_bytes());
            bytes.extend_from_slice(known.digest.as_bytes());
        }
        let checksum = Digest::of(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk::<32>()?;
        if Digest::of(body).as_bytes() != checksum {
            return None;
        }
        let mut rest = body.strip_prefix(MAGIC)?;
        let mut index = Self { stamp: i64::from_le_bytes(take(&mut rest)?), ..Self::default() };
        let [has_base] = take(&mut rest)?;
        let base = Digest::from_bytes(take(&mut rest)?);
        index.base = (has_base == 1).then_some(base);
        while !rest.is_empty() {
            let length = u32::from_le_bytes(take(&mut rest)?) as usize;
            let (path, tail) = rest.split_at_checked(length)?;
            rest = tail;
            let stat = Stat {
                size: u64::from_le_bytes(take(&mut rest)?),
                mtime: i64::from_le_bytes(take(&mut rest)?),
                ctime: i64::from_le_bytes(take(&mut rest)?),
                inode: u64::from_le_bytes(take(&mut rest)?),
            };
            let digest = Digest::from_bytes(take(&mut rest)?);
            index.known.push(Known { path: path.to_owned(), stat, digest });
        }
        Some(index)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> StatIndex {
        let stat = Stat { size: 3, mtime: 90, ctime: 95, inode: 7 };
        let known = Known { path: b"a\xff".to_vec(), stat, digest: Digest::of("abc") };
        StatIndex { stamp: 100, base: Some(Digest::of("base")), known: vec![known] }
    }

    #[test]
    fn the_index_round_trips_and_a_torn_one_counts_as_none() {
        let bytes = example().encode();
        assert_eq!(StatIndex::decode(&bytes), Some(example()));
        for length in 0..bytes.len() {
            assert_eq!(StatIndex::decode(&bytes[..length]), None);
        }
    }

    #[test]
    fn only_files_older_than_the_stamp_are_trusted() {
        let mut index = example();
        let stat = index.known[0].stat;
        assert!(index.digest(b"a\xff", &stat).is_some());
        assert!(index.digest(b"a", &stat).is_none());
        assert!(index.digest(b"a\xff", &Stat { inode: 8, ..stat }).is_none());
        index.stamp = 95;
        assert!(index.digest(b"a\xff", &stat).is_none(), "the same tick is racy");
    }
}
