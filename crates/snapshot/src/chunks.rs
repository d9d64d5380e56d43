//! Where chunks are: a table on disk, because the chunks of millions of files do not fit in memory.
//!
//! A *run* is a file of records sorted by digest, searched by position with a small table of its first bits. A *heap* takes
//! records as they come: some tens of thousands in memory, the rest in runs that are merged when they are of like size, so
//! that there are never more than a few. The *index* of the cache is one run that is kept, `chunks`, and a heap of the packs that
//! it does not cover; it is written anew when these have become many.
//!
//! What never happens: a chunk is found in a pack that is not there with its size; a kept index is used that does not have
//! its checksum. The index is a cache of the packs' own indexes: one that cannot be read is as good as none.
//!
//! The kept file, version 1: `SLCHUNKS`, version (u32), number of packs (u32), number of records (u64); each pack's digest and
//! size (u64); the records: digest, pack (u32), offset (u32), length (u32), stored (u32); SHA-256 of all before it.

use crate::{
    cache::Cache,
    error::{Error, Result, at},
    layout::PackInfo,
    pack,
};
use domain::Digest;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, BufWriter, Read, Seek as _, SeekFrom, Take, Write},
    os::unix::fs::FileExt as _,
};

const MAGIC: &[u8; 8] = b"SLCHUNKS";
const VERSION: u32 = 1;
const HEADER: usize = 24;
const PACK: usize = 40;
const RECORD: usize = 48;
const CHECKSUM: usize = 32;
/// Records of a heap that are in memory.
const IN_MEMORY: usize = 112 << 10;
/// Packs whose indexes are read at once.
const AT_ONCE: usize = 32;
/// The kept index is written anew when this many packs, or this many records and a quarter of all, are not in it.
const UNCOVERED: (usize, u64) = (256, 64 << 10);

/// Where a chunk is, in a pack that has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) stored: u32,
}

fn encode(digest: &Digest, place: &Place) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..32].copy_from_slice(digest.as_bytes());
    for (number, value) in [place.pack, place.offset, place.length, place.stored].into_iter().enumerate() {
        record[32 + number * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }
    record
}

fn decode(record: &[u8; RECORD]) -> (Digest, Place) {
    let mut digest = [0; 32];
    digest.copy_from_slice(&record[..32]);
    let number = |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
    let place = Place { pack: number(32), offset: number(36), length: number(40), stored: number(44) };
    (Digest::from_bytes(digest), place)
}

/// Records sorted by digest, in a file.
struct Run {
    file: File,
    /// First byte of the records.
    start: u64,
    count: u64,
    /// By the first bits of the digest: how many records have lower ones.
    table: Vec<u32>,
    bits: u32,
}

/// Counts records by the first bits of their digests.
struct Table {
    counts: Vec<u32>,
    bits: u32,
}

impl Table {
    /// About 32 records for each entry.
    fn new(records: u64) -> Self {
        let bits = (64 - (records / 32).leading_zeros()).min(16);
        Self { counts: vec![0; 1 << bits], bits }
    }

    fn add(&mut self, digest: &[u8]) {
        let slot = slot(digest, self.bits);
        self.counts[slot] += 1;
    }

    fn run(mut self, file: File, start: u64, count: u64) -> Run {
        let mut sum = 0;
        for count in &mut self.counts {
            sum += std::mem::replace(count, sum);
        }
        self.counts.push(sum);
        Run { file, start, count, table: self.counts, bits: self.bits }
    }
}

fn slot(digest: &[u8], bits: u32) -> usize {
    (u32::from_be_bytes([0, 0, digest[0], digest[1]]) >> (16 - bits)) as usize
}

impl Run {
    /// The record of a digest. A file that cannot be read has nothing: the chunk is then stored once more.
    fn get(&self, digest: &Digest) -> Option<Place> {
        let slot = slot(digest.as_bytes(), self.bits);
        let (low, high) = (self.table[slot], self.table[slot + 1]);
        let mut bytes = vec![0; (high - low) as usize * RECORD];
        self.file.read_exact_at(&mut bytes, self.start + u64::from(low) * RECORD as u64).ok()?;
        let records = bytes.as_chunks::<RECORD>().0;
        let place = records.binary_search_by(|record| record[..32].cmp(digest.as_bytes())).ok()?;
        Some(decode(&records[place]).1)
    }

    fn reader(&self) -> std::io::Result<BufReader<Take<File>>> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(self.start))?;
        Ok(BufReader::with_capacity(64 << 10, file.take(self.count * RECORD as u64)))
    }
}

/// A sorted stream of records that is to be merged with others; packs get other numbers on the way, or are dropped.
struct Source<'a> {
    input: BufReader<Take<File>>,
    number: &'a dyn Fn(u32) -> Option<u32>,
    next: Option<(Digest, Place)>,
}

impl<'a> Source<'a> {
    fn new(input: BufReader<Take<File>>, number: &'a dyn Fn(u32) -> Option<u32>) -> std::io::Result<Self> {
        let mut source = Self { input, number, next: None };
        source.advance()?;
        Ok(source)
    }

    fn advance(&mut self) -> std::io::Result<()> {
        loop {
            let mut record = [0; RECORD];
            match self.input.read_exact(&mut record) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    self.next = None;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            let (digest, place) = decode(&record);
            if let Some(pack) = (self.number)(place.pack) {
                self.next = Some((digest, Place { pack, ..place }));
                return Ok(());
            }
        }
    }
}

/// Merges sorted streams; of two records of one digest the earlier source's counts.
fn merge(
    mut sources: Vec<Source<'_>>,
    mut sink: impl FnMut(&[u8; RECORD]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut last = None;
    loop {
        let mut least: Option<(usize, Digest)> = None;
        for (number, source) in sources.iter().enumerate() {
            if let Some((digest, _)) = source.next
                && least.is_none_or(|(_, least)| digest < least)
            {
                least = Some((number, digest));
            }
        }
        let Some((number, digest)) = least else { return Ok(()) };
        if let Some((_, place)) = sources[number].next
            && last != Some(digest)
        {
            sink(&encode(&digest, &place))?;
            last = Some(digest);
        }
        sources[number].advance()?;
    }
}

/// Records that come in any order.
pub(crate) struct Heap {
    cache: Cache,
    memory: HashMap<Digest, Place>,
    runs: Vec<Run>,
}

impl Heap {
    pub(crate) fn new(cache: &Cache) -> Self {
        Self { cache: cache.clone(), memory: HashMap::new(), runs: Vec::new() }
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Place> {
        self.memory.get(digest).copied().or_else(|| self.runs.iter().rev().find_map(|run| run.get(digest)))
    }

    /// Takes a record; one that is there already under this digest may be found instead.
    pub(crate) fn insert(&mut self, digest: Digest, place: Place) -> Result<()> {
        self.memory.insert(digest, place);
        if self.memory.len() < IN_MEMORY { Ok(()) } else { self.spill() }
    }

    /// How many records there are, at most.
    fn len(&self) -> u64 {
        self.memory.len() as u64 + self.runs.iter().map(|run| run.count).sum::<u64>()
    }

    /// Writes what is in memory to a run, and merges runs of like size.
    fn spill(&mut self) -> Result<()> {
        let mut records: Vec<(Digest, Place)> = self.memory.drain().collect();
        if records.is_empty() {
            return Ok(());
        }
        records.sort_unstable_by_key(|(digest, _)| *digest);
        let run = self.write(records.len() as u64, |sink| {
            records.iter().try_for_each(|(digest, place)| sink(&encode(digest, place)))
        })?;
        self.runs.push(run);
        while let [.., older, newer] = self.runs.as_slice()
            && newer.count * 2 >= older.count
        {
            let count = older.count + newer.count;
            let merged = self.write(count, |sink| {
                let same = |number| Some(number);
                merge(vec![Source::new(older.reader()?, &same)?, Source::new(newer.reader()?, &same)?], sink)
            })?;
            self.runs.truncate(self.runs.len() - 2);
            self.runs.push(merged);
        }
        Ok(())
    }

    fn write(
        &self,
        at_most: u64,
        fill: impl FnOnce(&mut dyn FnMut(&[u8; RECORD]) -> std::io::Result<()>) -> std::io::Result<()>,
    ) -> Result<Run> {
        let in_tmp = || at("write a table of chunks in", self.cache.tmp());
        let file = tempfile::tempfile_in(self.cache.tmp()).map_err(in_tmp())?;
        let mut output = BufWriter::with_capacity(64 << 10, file);
        let mut table = Table::new(at_most);
        let mut count = 0;
        let mut sink = |record: &[u8; RECORD]| {
            table.add(record);
            count += 1;
            output.write_all(record)
        };
        fill(&mut sink).map_err(in_tmp())?;
        let file = output.into_inner().map_err(|error| in_tmp()(error.into_error()))?;
        Ok(table.run(file, 0, count))
    }
}

/// Every chunk of every cached pack.
pub(crate) struct ChunkIndex {
    /// All packs that are here, by number.
    packs: Vec<PackInfo>,
    kept: Option<Kept>,
    /// Chunks of packs that the kept index does not cover.
    others: Heap,
    uncovered: usize,
}

/// The index file.
struct Kept {
    run: Run,
    /// From its numbers of packs to ours; `None` for a pack that is gone.
    numbers: Vec<Option<u32>>,
}

impl ChunkIndex {
    /// Opens the kept index and reads the indexes of all packs that it lacks; a pack whose index is damaged is quarantined.
    pub(crate) fn load(cache: &Cache) -> Result<Self> {
        let mut packs = cache.packs()?;
        let kept = Kept::open(cache, &packs);
        let mut covered = vec![false; packs.len()];
        for number in kept.iter().flat_map(|kept| kept.numbers.iter().flatten()) {
            covered[*number as usize] = true;
        }
        let missing: Vec<u32> =
            (0..).zip(&covered).filter(|(_, covered)| !**covered).map(|(number, _)| number).collect();
        let mut others = Heap::new(cache);
        for group in missing.chunks(AT_ONCE) {
            let read = |number: &u32| {
                let found = &packs[*number as usize];
                match pack::read_index(&cache.pack(&found.digest)) {
                    Err(Error::Corrupt { why, .. }) => {
                        let _ = cache.quarantine(&found.digest, why);
                        Ok((*number, None))
                    }
                    other => other.map(|records| (*number, Some(records))),
                }
            };
            let indexes: Vec<_> = group.par_iter().map(read).collect::<Result<_>>()?;
            for (number, records) in indexes {
                let Some(records) = records else {
                    // It was moved away: nothing is in it any more.
                    packs[number as usize].size = 0;
                    continue;
                };
                for record in records {
                    if let Ok(offset) = u32::try_from(record.offset) {
                        let (length, stored) = (record.length, record.stored);
                        others.insert(record.digest, Place { pack: number, offset, length, stored })?;
                    }
                }
            }
        }
        Ok(Self { packs, kept, others, uncovered: missing.len() })
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<(PackInfo, Place)> {
        let kept = || {
            let kept = self.kept.as_ref()?;
            let place = kept.run.get(digest)?;
            let pack = kept.numbers.get(place.pack as usize).copied().flatten()?;
            Some(Place { pack, ..place })
        };
        let place = self.others.get(digest).or_else(kept)?;
        Some((self.packs[place.pack as usize], place))
    }

    /// Writes the index anew when too much is not in it: what was read out of packs, and `fresh`, whose packs are numbered by
    /// `written`. Packs that were there before are among these, and are no reason.
    pub(crate) fn keep(mut self, cache: &Cache, mut fresh: Heap, written: &[PackInfo]) -> Result<()> {
        let more = self.others.len() + fresh.len();
        let covered = self.kept.as_ref().map_or(0, |kept| kept.run.count);
        let known = |pack: &&PackInfo| self.packs.binary_search_by_key(&pack.digest, |there| there.digest).is_ok();
        let new = written.len() - written.iter().filter(known).count();
        if self.uncovered + new < UNCOVERED.0 && more < UNCOVERED.1.max(covered / 4) {
            return Ok(());
        }
        self.others.spill()?;
        fresh.spill()?;
        let mut packs = self.packs.clone();
        let mut places: HashMap<Digest, u32> = (0..).zip(&packs).map(|(number, pack)| (pack.digest, number)).collect();
        let mut numbers = Vec::with_capacity(written.len());
        for pack in written {
            let next = packs.len() as u32;
            let number = *places.entry(pack.digest).or_insert(next);
            if number == next {
                packs.push(*pack);
            }
            numbers.push(number);
        }
        drop(places);
        let in_tmp = || at("write a table of chunks in", cache.tmp());
        let ours = |number: u32| numbers.get(number as usize).copied();
        let same = |number: u32| Some(number);
        let old = |number: u32| self.kept.as_ref()?.numbers.get(number as usize).copied().flatten();
        let sources = || -> std::io::Result<Vec<Source<'_>>> {
            let mut sources = Vec::new();
            for run in fresh.runs.iter().rev() {
                sources.push(Source::new(run.reader()?, &ours)?);
            }
            for run in self.others.runs.iter().rev() {
                sources.push(Source::new(run.reader()?, &same)?);
            }
            if let Some(kept) = &self.kept {
                sources.push(Source::new(kept.run.reader()?, &old)?);
            }
            Ok(sources)
        };
        let mut count = 0;
        // The number of records comes before them, so they are counted first.
        merge(sources().map_err(in_tmp())?, |_| {
            count += 1;
            Ok(())
        })
        .map_err(in_tmp())?;
        let mut output = Hashing { output: BufWriter::with_capacity(64 << 10, cache.temp()?), hasher: Sha256::new() };
        let written = write(&mut output, &packs, count, sources().map_err(in_tmp())?);
        written.map_err(in_tmp())?;
        let file = output.output.into_inner().map_err(|error| in_tmp()(error.into_error()))?;
        cache.commit(file, &cache.chunk_index())
    }
}

struct Hashing<W> {
    output: W,
    hasher: Sha256,
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.output.write_all(bytes)
    }
}

fn write<W: Write>(
    output: &mut Hashing<W>,
    packs: &[PackInfo],
    count: u64,
    sources: Vec<Source<'_>>,
) -> std::io::Result<()> {
    output.put(MAGIC)?;
    output.put(&VERSION.to_le_bytes())?;
    output.put(&u32::try_from(packs.len()).map_err(std::io::Error::other)?.to_le_bytes())?;
    output.put(&count.to_le_bytes())?;
    for pack in packs {
        output.put(pack.digest.as_bytes())?;
        output.put(&pack.size.to_le_bytes())?;
    }
    merge(sources, |record| output.put(record))?;
    let checksum = output.hasher.finalize_reset();
    output.output.write_all(&checksum)
}

impl Kept {
    fn open(cache: &Cache, packs: &[PackInfo]) -> Option<Self> {
        Self::over(File::open(cache.chunk_index()).ok()?, packs)
    }

    /// Reads all of it once: for the checksum, the table and the packs, not to hold it.
    fn over(mut file: File, packs: &[PackInfo]) -> Option<Self> {
        let size = file.metadata().ok()?.len();
        let mut input = BufReader::with_capacity(RECORD << 12, file.try_clone().ok()?);
        let mut hasher = Sha256::new();
        let mut header = [0; HEADER];
        input.read_exact(&mut header).ok()?;
        hasher.update(header);
        let (start, rest) = header.split_at(12);
        let (pack_count, count) = rest.split_at(4);
        let pack_count = u32::from_le_bytes(pack_count.try_into().ok()?);
        let count = u64::from_le_bytes(count.try_into().ok()?);
        let first = HEADER as u64 + u64::from(pack_count) * PACK as u64;
        let whole = count.checked_mul(RECORD as u64)?.checked_add(first)?.checked_add(CHECKSUM as u64)?;
        if start[..8] != *MAGIC || start[8..] != VERSION.to_le_bytes() || whole != size {
            return None;
        }
        let mut numbers = Vec::with_capacity(pack_count as usize);
        for _ in 0..pack_count {
            let mut pack = [0; PACK];
            input.read_exact(&mut pack).ok()?;
            hasher.update(pack);
            let (digest, size) = pack.split_first_chunk::<32>()?;
            let size = u64::from_le_bytes(size.try_into().ok()?);
            let digest = Digest::from_bytes(*digest);
            // They are sorted by digest.
            let place = packs.binary_search_by_key(&digest, |pack| pack.digest).ok();
            let here = place.filter(|place| packs[*place].size == size);
            numbers.push(here.and_then(|place| u32::try_from(place).ok()));
        }
        let mut table = Table::new(count);
        let mut left = count;
        let mut records = vec![0; RECORD << 12];
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 12);
            let part_bytes = &mut records[..part * RECORD];
            input.read_exact(part_bytes).ok()?;
            hasher.update(&*part_bytes);
            part_bytes.as_chunks::<RECORD>().0.iter().for_each(|record| table.add(record));
            left -= part as u64;
        }
        let mut checksum = [0; CHECKSUM];
        input.read_exact(&mut checksum).ok()?;
        file.rewind().ok()?;
        (checksum == *hasher.finalize()).then(|| Self { run: table.run(file, first, count), numbers })
    }
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

    fn place(number: u32) -> Place {
        Place { pack: number % 7, offset: number, length: number + 1, stored: number / 2 + 1 }
    }

    fn digest(number: u32) -> Digest {
        Digest::of(number.to_le_bytes())
    }

    #[test]
    fn a_heap_finds_everything_in_memory_and_on_disk() {
        let (_folder, cache) = cache();
        let mut heap = Heap::new(&cache);
        let count = IN_MEMORY as u32 * 4 + 1000;
        for number in 0..count {
            heap.insert(digest(number), place(number)).unwrap();
        }
        assert!(heap.memory.len() < IN_MEMORY && heap.runs.len() <= 3, "{}", heap.runs.len());
        for number in (0..count).step_by(11) {
            assert_eq!(heap.get(&digest(number)), Some(place(number)));
        }
        for number in count..count + 1000 {
            assert_eq!(heap.get(&digest(number)), None);
        }
        assert_eq!(heap.len(), u64::from(count));
    }

    /// Packs by number, in the order in which a cache lists them.
    fn packs() -> Vec<PackInfo> {
        let mut packs: Vec<PackInfo> =
            (0..7).map(|n: u32| PackInfo { digest: digest(n + 1_000_000), size: 99 }).collect();
        packs.sort_by_key(|pack| pack.digest);
        packs
    }

    fn kept(cache: &Cache, records: std::ops::Range<u32>) -> Vec<u8> {
        let mut fresh = Heap::new(cache);
        for number in records {
            fresh.insert(digest(number), place(number)).unwrap();
        }
        let none = ChunkIndex { packs: Vec::new(), kept: None, others: Heap::new(cache), uncovered: 1000 };
        none.keep(cache, fresh, &packs()).unwrap();
        std::fs::read(cache.chunk_index()).unwrap()
    }

    #[test]
    fn the_kept_index_knows_the_packs_that_are_still_there() {
        let (_folder, cache) = cache();
        kept(&cache, 0..5000);
        let mut there = packs();
        there.remove(3);
        there[0].size = 98;
        let found = Kept::open(&cache, &there).unwrap();
        assert_eq!(found.run.count, 5000);
        let index = ChunkIndex { packs: there.clone(), kept: Some(found), others: Heap::new(&cache), uncovered: 0 };
        for number in 0..5000 {
            let expected = place(number);
            let pack = packs()[expected.pack as usize];
            match index.get(&digest(number)) {
                Some((info, place)) => {
                    assert_eq!(info, pack);
                    assert_eq!(
                        (place.offset, place.length, place.stored),
                        (expected.offset, expected.length, expected.stored)
                    );
                }
                None => assert!(expected.pack == 3 || expected.pack == 0, "{number}"),
            }
        }
        // Written anew, what is gone is gone from it.
        let mut fresh = Heap::new(&cache);
        fresh.insert(digest(3), Place { pack: 0, offset: 5, length: 6, stored: 6 }).unwrap();
        let new = PackInfo { digest: digest(2_000_000), size: 7 };
        ChunkIndex { uncovered: 1000, ..index }.keep(&cache, fresh, &[new]).unwrap();
        let mut all: Vec<PackInfo> = there.into_iter().chain([new]).collect();
        all.sort_by_key(|pack| pack.digest);
        let again = Kept::open(&cache, &all).unwrap();
        assert_eq!(again.run.count, (0..5000).filter(|n| ![0, 3].contains(&(n % 7))).count() as u64 + 1);
        let index = ChunkIndex { packs: all, kept: Some(again), others: Heap::new(&cache), uncovered: 0 };
        assert_eq!(index.get(&digest(3)).map(|(pack, place)| (pack, place.offset)), Some((new, 5)));
        assert_eq!(index.get(&digest(1)).map(|(pack, _)| pack), Some(packs()[1]));
        assert_eq!(index.get(&digest(7)), None);
    }

    #[test]
    fn packs_that_were_there_are_no_reason_to_write_the_index_anew() {
        let (_folder, cache) = cache();
        let mut packs: Vec<PackInfo> =
            (0..300).map(|number: u32| PackInfo { digest: digest(number), size: 99 }).collect();
        packs.sort_by_key(|pack| pack.digest);
        let keep = |known: &[PackInfo]| {
            let index = ChunkIndex { packs: known.to_vec(), kept: None, others: Heap::new(&cache), uncovered: 0 };
            index.keep(&cache, Heap::new(&cache), &packs).unwrap();
            cache.chunk_index().exists()
        };
        assert!(!keep(&packs));
        assert!(!keep(&packs[100..]));
        assert!(keep(&packs[290..]));
    }

    #[test]
    fn a_damaged_index_counts_as_none() {
        let (_folder, cache) = cache();
        let bytes = kept(&cache, 0..20);
        let opens = |bytes: &[u8]| {
            std::fs::write(cache.chunk_index(), bytes).unwrap();
            Kept::open(&cache, &packs()).is_some()
        };
        assert!(opens(&bytes));
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            assert!(!opens(&damaged), "{position}");
            assert!(!opens(&bytes[..position]), "{position}");
        }
    }

    #[test]
    fn tables_of_every_size_agree_with_a_search() {
        let (_folder, cache) = cache();
        for count in [1, 31, 32, 33, 64, 1000, 70_000] {
            let mut heap = Heap::new(&cache);
            for number in 0..count {
                heap.insert(digest(number), place(number)).unwrap();
            }
            heap.spill().unwrap();
            for number in (0..count).step_by(1 + count as usize / 100) {
                assert_eq!(heap.get(&digest(number)), Some(place(number)), "{count}");
            }
            assert_eq!(heap.get(&digest(count)), None);
        }
    }
}
