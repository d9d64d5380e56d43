//! Adding data: the tree is walked in a stream; files are hashed, cut and compressed in parallel; one assembler writes packs,
//! layout, manifest and stat index in the order of paths, so that the same tree gives the same packs.
//!
//! What is in memory does not depend on the size of the tree: two batches on their way, the packs' names, and the places of the
//! chunks that are new, of which most are on disk ([`crate::chunks`]). It does depend on the largest file: the places of all of
//! its chunks are held until its entry is written, and once more when it is unchanged, at some 250 bytes a chunk, of which a
//! quarter of a MiB has one. A file of 130 GiB takes more than 128 MiB.

use crate::{
    cache::Cache,
    chunks::{ChunkIndex, Heap, Place},
    error::{Error, Result, at, count},
    layout::{Chunk, LayoutReader, LayoutWriter, PackInfo},
    manifest::{Entry, Kind, ManifestReader, ManifestWriter, Shape, Totals},
    pack::{CHUNK, PackWriter, SMALL, squeeze},
    scan::{self, Found, Scan, Steady, What, place, read_whole},
    stat::{self, Stat, StatReader, StatWriter},
};
use domain::{
    Digest, Events,
    event::{Task, Unit},
};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};
use tempfile::NamedTempFile;

/// A batch of small files, and a window of a large one.
const BATCH_BYTES: u64 = 6 << 20;
const BATCH_FILES: usize = 1024;

/// What came of adding a tree.
pub(crate) struct Ingested {
    pub(crate) digest: Digest,
    pub(crate) totals: Totals,
    /// Bytes of payload that the cache did not have.
    pub(crate) new_bytes: u64,
}

/// A chunk on its way into the snapshot.
enum Piece {
    /// Known in a pack of the cache.
    There(PackInfo, Chunk),
    /// To be written, unless the same chunk came earlier in this run.
    New { digest: Digest, length: u32, payload: Vec<u8> },
}

/// What the assembler is told, in order of paths.
enum Message {
    /// Chunks of a large file, before its entry.
    Chunks(Vec<Piece>),
    /// An entry, its stat if it is a file, and its chunks after those already sent.
    Entry(Entry, Option<Stat>, Vec<Piece>),
}

type Messages = SyncSender<Vec<Message>>;

/// Adds the data at `data` to the cache. The caller holds the lock of the data path. With `expect`, nothing is kept of
/// data that has another digest.
pub(crate) fn ingest(
    cache: &Cache,
    name: &str,
    data: &Path,
    expect: Option<Digest>,
    label: &str,
    events: &Events,
) -> Result<Ingested> {
    let stamp = cache.stamp(data)?;
    let Some(scan) = scan::scan(data)? else {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(Error::File { action: "read", path: data.to_owned(), source });
    };
    let task = events.task(format!("add {label}"), None, Unit::Bytes);
    let index = StatReader::open(cache, name);
    let producer = Producer {
        cache,
        data,
        shape: scan.shape,
        task: &task,
        packs: cache.packs()?.into_iter().collect(),
        chunks: OnceLock::new(),
    };
    let (sender, receiver) = sync_channel(1);
    let assembler = Assembler::new(cache, data, scan.shape)?;
    let (assembled, chunks) = std::thread::scope(|scope| {
        let worker = scope.spawn(move || assembler.run(receiver));
        let produced = producer.run(scan, index, sender, events);
        let assembled = worker.join().map_err(|_| Error::Worker { what: "write packs" });
        // When the assembler fails the producer only learns that nobody listens: the first error counts.
        match assembled {
            Ok(Err(error)) => Err(error),
            Err(error) => Err(error),
            Ok(Ok(assembled)) => produced.map(|chunks| (assembled, chunks)),
        }
    })?;
    if let Some(snapshot) = expect.filter(|expected| *expected != assembled.digest) {
        return Err(Error::ChangedSinceAdd { path: data.to_owned(), snapshot });
    }
    let ingested = assembled.commit(cache, name, stamp, chunks)?;
    let Ingested { totals, new_bytes, .. } = ingested;
    task.finish(format!("{}, {}, {new_bytes} new", count(totals.files, "file"), count(totals.bytes, "byte")));
    Ok(ingested)
}

fn warn_of_a_link_that_leads_out(path: &[u8], target: &[u8], data: &Path, events: &Events) {
    let mut depth = path.iter().filter(|byte| **byte == b'/').count();
    let inside = !target.starts_with(b"/")
        && target.split(|byte| *byte == b'/').all(|component| match component {
            b".." if depth == 0 => false,
            b".." => {
                depth -= 1;
                true
            }
            b"" | b"." => true,
            _ => {
                depth += 1;
                true
            }
        });
    if !inside {
        let path = crate::shown(path);
        events.warn(format!(
            "{}/{path} is a link out of the data; what it points to is not part of the snapshot",
            data.display()
        ));
    }
}

/// The base snapshot, read in step with the scan: where the chunks of unchanged files are.
struct Previous {
    snapshot: Digest,
    manifest: ManifestReader<BufReader<File>>,
    layout: LayoutReader,
    next: Option<(Entry, Vec<Chunk>)>,
}

impl Previous {
    fn advance(&mut self) -> Result<()> {
        self.next = match self.manifest.next_entry()? {
            Some(entry) => {
                let chunks = match entry.content() {
                    Some((size, digest)) => self.layout.chunks(size, digest)?,
                    None => Vec::new(),
                };
                Some((entry, chunks))
            }
            None => None,
        };
        Ok(())
    }

    /// The chunks of the file at `path` if it had this digest. Paths must be asked for in rising order.
    fn chunks(&mut self, path: &[u8], digest: &Digest) -> Result<Option<Vec<Piece>>> {
        while self.next.as_ref().is_some_and(|(entry, _)| entry.path.as_slice() < path) {
            self.advance()?;
        }
        let Some((entry, chunks)) = &self.next else { return Ok(None) };
        if entry.path != path || entry.content().map(|(_, digest)| digest) != Some(*digest) {
            return Ok(None);
        }
        let pack = |chunk: &Chunk| self.layout.packs()[chunk.pack as usize];
        Ok(Some(chunks.iter().map(|chunk| Piece::There(pack(chunk), *chunk)).collect()))
    }
}

struct Producer<'a> {
    cache: &'a Cache,
    data: &'a Path,
    shape: Shape,
    task: &'a Task,
    packs: HashSet<PackInfo>,
    chunks: OnceLock<ChunkIndex>,
}

impl Producer<'_> {
    /// Sends everything; the index of chunks, if it was needed.
    fn run(
        self,
        mut scan: Scan,
        mut index: StatReader,
        sender: Messages,
        events: &Events,
    ) -> Result<Option<ChunkIndex>> {
        let mut previous = None;
        if let Some(snapshot) = index.base
            && let Some((manifest, layout)) = self.cache.open(&snapshot)?
        {
            previous = Some(Previous { snapshot, manifest, layout, next: None });
            self.usable(&mut previous, Previous::advance)?;
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(Found { path, what }) = scan.next(Some(self.task))? {
            match what {
                What::File { stat, executable } => {
                    let trusted = index.digest(&path, &stat);
                    if let Some((digest, pieces)) = self.unchanged(&mut previous, &path, trusted)? {
                        let kind = Kind::File { executable, size: stat.size, digest };
                        batch.push(Work::Ready(Entry { path, kind }, Some(stat), pieces));
                    } else if stat.size <= SMALL {
                        self.load_chunks()?;
                        bytes += stat.size;
                        batch.push(Work::Small(path, stat, executable));
                    } else {
                        self.load_chunks()?;
                        self.flush(&mut batch, &sender)?;
                        bytes = 0;
                        self.large(&path, stat, executable, &sender)?;
                    }
                }
                What::Symlink { target, .. } => {
                    warn_of_a_link_that_leads_out(&path, &target, self.data, events);
                    batch.push(Work::Ready(Entry { path, kind: Kind::Symlink { target } }, None, Vec::new()));
                }
                What::EmptyDirectory => {
                    batch.push(Work::Ready(Entry { path, kind: Kind::EmptyDirectory }, None, Vec::new()));
                }
            }
            if bytes >= BATCH_BYTES || batch.len() >= BATCH_FILES {
                self.flush(&mut batch, &sender)?;
                bytes = 0;
            }
        }
        self.flush(&mut batch, &sender)?;
        if let Some(colliding) = scan.colliding() {
            events.warn(format!("{}: {colliding}", self.data.display()));
        }
        Ok(self.chunks.into_inner())
    }

    /// Digest and chunks of a file that need not be read: its stat is trusted and the cache has all its packs.
    fn unchanged(
        &self,
        previous: &mut Option<Previous>,
        path: &[u8],
        trusted: Option<Digest>,
    ) -> Result<Option<(Digest, Vec<Piece>)>> {
        let Some(digest) = trusted else { return Ok(None) };
        let pieces = self.usable(previous, |previous| previous.chunks(path, &digest))?.flatten();
        let here = |piece: &Piece| matches!(piece, Piece::There(pack, _) if self.packs.contains(pack));
        Ok(pieces.filter(|pieces| pieces.iter().all(here)).map(|pieces| (digest, pieces)))
    }

    /// Asks the base snapshot. A layout that turns out to be of no use is put aside: what it knew is read again, and it is written
    /// anew.
    fn usable<T>(
        &self,
        previous: &mut Option<Previous>,
        ask: impl FnOnce(&mut Previous) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some(asked) = previous else { return Ok(None) };
        match ask(asked) {
            Err(Error::Corrupt { why, .. }) => {
                let _ = self.cache.quarantine_layout(&asked.snapshot, why);
                *previous = None;
                Ok(None)
            }
            answer => answer.map(Some),
        }
    }

    fn load_chunks(&self) -> Result<()> {
        if self.chunks.get().is_none() {
            let _ = self.chunks.set(ChunkIndex::load(self.cache)?);
        }
        Ok(())
    }

    fn flush(&self, batch: &mut Vec<Work>, sender: &Messages) -> Result<()> {
        let work = std::mem::take(batch);
        if work.is_empty() {
            return Ok(());
        }
        let messages: Vec<Message> = work
            .into_par_iter()
            .map_init(Vec::new, |buffer, work| match work {
                Work::Ready(entry, stat, pieces) => {
                    self.task.advance(stat.map_or(0, |stat| stat.size));
                    Ok(Message::Entry(entry, stat, pieces))
                }
                Work::Small(path, stat, executable) => self.small(path, stat, executable, buffer),
            })
            .collect::<Result<_>>()?;
        send(sender, messages)
    }

    fn small(&self, path: Vec<u8>, stat: Stat, executable: bool, buffer: &mut Vec<u8>) -> Result<Message> {
        read_whole(place(self.data, self.shape, &path), stat, buffer)?;
        self.task.advance(stat.size);
        let digest = Digest::of(&buffer);
        let pieces = if buffer.is_empty() { Vec::new() } else { vec![self.piece(digest, buffer)] };
        let kind = Kind::File { executable, size: stat.size, digest };
        Ok(Message::Entry(Entry { path, kind }, Some(stat), pieces))
    }

    /// The next window is read and cut while the last one is hashed.
    fn large(&self, path: &[u8], stat: Stat, executable: bool, sender: &Messages) -> Result<()> {
        let mut file = Steady::open(place(self.data, self.shape, path), stat)?;
        let mut hasher = Sha256::new();
        let mut read = 0;
        let mut window = Window::begin();
        window.fill(&mut file, &mut read)?;
        let mut next = Window::begin();
        loop {
            next.rest_of(&window);
            let ended = window.ended;
            let (hashed, filled) = rayon::join(
                || {
                    let chunk = |(start, length): &(usize, usize)| {
                        let bytes = &window.buffer[*start..start + length];
                        self.piece(Digest::of(bytes), bytes)
                    };
                    rayon::join(
                        || window.cuts.par_iter().map(chunk).collect::<Vec<_>>(),
                        || hasher.update(&window.buffer[..window.used()]),
                    )
                },
                || if ended { Ok(()) } else { next.fill(&mut file, &mut read) },
            );
            filled?;
            send(sender, vec![Message::Chunks(hashed.0)])?;
            self.task.advance(window.used() as u64);
            if ended {
                break;
            }
            std::mem::swap(&mut window, &mut next);
        }
        file.close(read)?;
        let digest = Digest::from_bytes(hasher.finalize().into());
        let kind = Kind::File { executable, size: stat.size, digest };
        send(sender, vec![Message::Entry(Entry { path: path.to_vec(), kind }, Some(stat), Vec::new())])
    }

    fn piece(&self, digest: Digest, bytes: &[u8]) -> Piece {
        let length = bytes.len() as u32;
        if let Some((pack, place)) = self.chunks.get().and_then(|index| index.get(&digest))
            && place.length == length
        {
            let (offset, stored) = (u64::from(place.offset), place.stored);
            return Piece::There(pack, Chunk { digest, length, pack: 0, offset, stored });
        }
        Piece::New { digest, length, payload: squeeze(bytes).unwrap_or_else(|| bytes.to_vec()) }
    }
}

/// A part of a large file that is in memory, and where it is cut.
struct Window {
    buffer: Vec<u8>,
    filled: usize,
    cuts: Vec<(usize, usize)>,
    ended: bool,
}

impl Window {
    fn begin() -> Self {
        Self { buffer: vec![0; BATCH_BYTES as usize + CHUNK.2], filled: 0, cuts: Vec::new(), ended: false }
    }

    /// How much of it is cut.
    fn used(&self) -> usize {
        self.cuts.last().map_or(0, |(start, length)| start + length)
    }

    /// Begins with what could not be cut before more of the file was seen.
    fn rest_of(&mut self, before: &Self) {
        let rest = &before.buffer[before.used()..before.filled];
        self.buffer[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    fn fill(&mut self, file: &mut Steady, read: &mut u64) -> Result<()> {
        let count = file.fill(&mut self.buffer[self.filled..])?;
        self.filled += count;
        *read += count as u64;
        self.ended = self.filled < self.buffer.len();
        self.cuts = cut(&self.buffer[..self.filled], self.ended);
        Ok(())
    }
}

enum Work {
    Ready(Entry, Option<Stat>, Vec<Piece>),
    Small(Vec<u8>, Stat, bool),
}

fn send(sender: &Messages, messages: Vec<Message>) -> Result<()> {
    sender.send(messages).map_err(|_| Error::Worker { what: "write packs" })
}

/// Chunk boundaries (start, length) in `bytes`. Unless the file ended, the tail that could still be cut elsewhere is left.
fn cut(bytes: &[u8], ended: bool) -> Vec<(usize, usize)> {
    let chunker = fastcdc::v2020::FastCDC::new(bytes, CHUNK.0, CHUNK.1, CHUNK.2);
    let mut cuts = Vec::new();
    let mut start = 0;
    while start < bytes.len() && (ended || bytes.len() - start >= CHUNK.2) {
        let (_, end) = chunker.cut(start, bytes.len() - start);
        cuts.push((start, end - start));
        start = end;
    }
    cuts
}

/// A pack that is being finished (fsync and rename) beside the next one's writing.
type Sealing = (usize, std::thread::JoinHandle<Result<PackInfo>>);

struct Assembler {
    cache: Cache,
    data: PathBuf,
    spare: NamedTempFile,
    manifest: ManifestWriter<BufWriter<NamedTempFile>>,
    layout: LayoutWriter,
    index: StatWriter,
    /// The table of packs; `None` while one is being written.
    packs: Vec<Option<PackInfo>>,
    /// Those that were there before, by number.
    numbers: HashMap<Digest, u32>,
    /// What was written in this run.
    fresh: Heap,
    open: Option<(u32, PackWriter<BufWriter<NamedTempFile>>)>,
    sealing: Vec<Sealing>,
    pending: Vec<Chunk>,
    new_bytes: u64,
}

/// Why a manifest could not be written. (A file that the system finds too large is another matter.)
fn unwritten(cache: &Cache, data: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let (tmp, data) = (cache.tmp(), data.to_owned());
    move |error| match error.kind() {
        std::io::ErrorKind::FileTooLarge if error.raw_os_error().is_none() => {
            Error::Path { path: data, why: "has more in it than one snapshot can hold: split it" }
        }
        _ => at("write a manifest in", tmp)(error),
    }
}

struct Assembled {
    digest: Digest,
    totals: Totals,
    manifest: NamedTempFile,
    layout: NamedTempFile,
    index: StatWriter,
    fresh: Heap,
    packs: Vec<PackInfo>,
    new_bytes: u64,
}

impl Assembler {
    fn new(cache: &Cache, data: &Path, shape: Shape) -> Result<Self> {
        let file = cache.temp()?;
        let path = file.path().to_owned();
        let spool = tempfile::tempfile_in(cache.tmp()).map_err(at("write a temporary file in", cache.tmp()))?;
        let buffered = BufWriter::with_capacity(64 << 10, file);
        Ok(Self {
            cache: cache.clone(),
            data: data.to_owned(),
            spare: cache.temp()?,
            manifest: ManifestWriter::new(buffered, shape).map_err(at("write", path))?,
            layout: LayoutWriter::new(spool),
            index: StatWriter::new(cache)?,
            packs: Vec::new(),
            numbers: HashMap::new(),
            fresh: Heap::new(cache),
            open: None,
            sealing: Vec::new(),
            pending: Vec::new(),
            new_bytes: 0,
        })
    }

    fn run(mut self, receiver: Receiver<Vec<Message>>) -> Result<Assembled> {
        for message in receiver.into_iter().flatten() {
            match message {
                Message::Chunks(pieces) => self.pieces(pieces)?,
                Message::Entry(entry, stat, pieces) => {
                    self.pieces(pieces)?;
                    self.entry(&entry, stat)?;
                }
            }
        }
        self.finish()
    }

    fn pieces(&mut self, pieces: Vec<Piece>) -> Result<()> {
        for piece in pieces {
            let chunk = match piece {
                Piece::There(pack, chunk) => Chunk { pack: self.number(pack)?, ..chunk },
                Piece::New { digest, length, payload } => match self.fresh.get(&digest) {
                    Some(Place { pack, offset, length, stored }) => {
                        Chunk { digest, length, pack, offset: u64::from(offset), stored }
                    }
                    None => self.append(digest, length, &payload)?,
                },
            };
            self.pending.push(chunk);
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, stat: Option<Stat>) -> Result<()> {
        let chunks = std::mem::take(&mut self.pending);
        if !chunks.is_empty() {
            self.layout.push(&chunks).map_err(at("write a layout in", self.cache.tmp()))?;
        }
        self.manifest.push(entry).map_err(unwritten(&self.cache, &self.data))?;
        if let (Some(stat), Some((_, digest))) = (stat, entry.content()) {
            self.index.push(&entry.path, &stat, &digest)?;
        }
        Ok(())
    }

    fn number(&mut self, pack: PackInfo) -> Result<u32> {
        if let Some(number) = self.numbers.get(&pack.digest) {
            return Ok(*number);
        }
        let number = self.next_number()?;
        self.packs.push(Some(pack));
        self.numbers.insert(pack.digest, number);
        Ok(number)
    }

    fn next_number(&self) -> Result<u32> {
        u32::try_from(self.packs.len()).map_err(|_| Error::Worker { what: "count packs" })
    }

    fn append(&mut self, digest: Digest, length: u32, payload: &[u8]) -> Result<Chunk> {
        if self.open.as_ref().is_some_and(|(_, writer)| writer.full(payload.len())) {
            self.seal()?;
        }
        if self.open.is_none() {
            let number = self.next_number()?;
            self.packs.push(None);
            self.open = Some((number, PackWriter::new(BufWriter::with_capacity(1 << 20, self.cache.temp()?))));
        }
        let Some((pack, writer)) = &mut self.open else { return Err(Error::Worker { what: "open a pack" }) };
        let record = writer.push(digest, length, payload).map_err(at("write a pack in", self.cache.tmp()))?;
        let (pack, stored) = (*pack, record.stored);
        self.new_bytes += u64::from(stored);
        // A pack is far smaller than what 32 bits can tell.
        let offset = u32::try_from(record.offset).map_err(|_| Error::Worker { what: "fill a pack" })?;
        self.fresh.insert(digest, Place { pack, offset, length, stored })?;
        Ok(Chunk { digest, length, pack, offset: record.offset, stored })
    }

    fn seal(&mut self) -> Result<()> {
        let Some((number, writer)) = self.open.take() else { return Ok(()) };
        let cache = self.cache.clone();
        let seal = move || {
            let in_tmp = || at("write a pack in", cache.tmp());
            let (digest, size, output) = writer.finish().map_err(in_tmp())?;
            let file = output.into_inner().map_err(|error| in_tmp()(error.into_error()))?;
            cache.commit(file, &cache.pack(&digest))?;
            Ok(PackInfo { digest, size })
        };
        self.sealing.push((number as usize, std::thread::spawn(seal)));
        if self.sealing.len() > 2 { self.join_oldest() } else { Ok(()) }
    }

    fn join_oldest(&mut self) -> Result<()> {
        let (number, thread) = self.sealing.remove(0);
        let info = thread.join().map_err(|_| Error::Worker { what: "write packs" })??;
        self.packs[number] = Some(info);
        Ok(())
    }

    fn finish(mut self) -> Result<Assembled> {
        self.seal()?;
        while !self.sealing.is_empty() {
            self.join_oldest()?;
        }
        let in_tmp = || at("write a snapshot in", self.cache.tmp());
        let (digest, totals, output) = self.manifest.finish().map_err(unwritten(&self.cache, &self.data))?;
        let manifest = output.into_inner().map_err(|error| in_tmp()(error.into_error()))?;
        let packs: Vec<PackInfo> = self.packs.into_iter().flatten().collect();
        let mut layout = self.spare;
        self.layout.finish(&digest, &packs, layout.as_file_mut()).map_err(in_tmp())?;
        let (index, fresh, new_bytes) = (self.index, self.fresh, self.new_bytes);
        Ok(Assembled { digest, totals, manifest, layout, index, fresh, packs, new_bytes })
    }
}

impl Assembled {
    /// Layout first, manifest last: whoever sees the manifest sees all of it. An unchanged snapshot is left alone.
    fn commit(self, cache: &Cache, name: &str, stamp: i64, chunks: Option<ChunkIndex>) -> Result<Ingested> {
        let ingested = Ingested { digest: self.digest, totals: self.totals, new_bytes: self.new_bytes };
        let whole =
            self.new_bytes == 0 && cache.open_manifest(&self.digest)?.is_some() && cache.has_packs_of(&self.digest)?;
        if !whole {
            let layout: PathBuf = cache.layout(&self.digest);
            cache.commit(self.layout, &layout)?;
            cache.commit(self.manifest, &cache.manifest(&self.digest))?;
        }
        if let Some(chunks) = chunks {
            chunks.keep(cache, self.fresh, &self.packs)?;
        }
        stat::commit(cache, name, self.index.finish(stamp, Some(self.digest))?)?;
        Ok(ingested)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(next).flatten().take(length).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn cutting_in_windows_is_cutting_at_once(length in 0usize..6_000_000, window in 1_200_000usize..3_000_000, seed in 1u64..1000) {
            let bytes = noise(length, seed);
            let whole: Vec<usize> = cut(&bytes, true).into_iter().map(|(_, length)| length).collect();
            let mut lengths = Vec::new();
            let mut start = 0;
            while start < bytes.len() {
                let end = bytes.len().min(start + window);
                let cuts = cut(&bytes[start..end], end == bytes.len());
                prop_assert!(!cuts.is_empty());
                start += cuts.iter().map(|(_, length)| length).sum::<usize>();
                lengths.extend(cuts.into_iter().map(|(_, length)| length));
            }
            prop_assert_eq!(lengths.iter().sum::<usize>(), length);
            prop_assert_eq!(lengths, whole);
        }
    }
}
