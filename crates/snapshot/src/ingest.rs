//! Adding data: files are hashed, cut and compressed in parallel; one assembler writes packs, layout and
//! manifest in the order of paths, so that the same tree gives the same packs.

use crate::{
    cache::{Cache, ChunkIndex},
    error::{Error, Result, at, count},
    layout::{Chunk, LayoutReader, LayoutWriter, PackInfo},
    manifest::{Entry, Kind, ManifestReader, ManifestWriter, Shape, Totals},
    pack::{CHUNK, PackWriter, SMALL, Squeezer},
    scan::{self, Found, Steady, What, place},
    stat::{Known, Stat, StatIndex},
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
const BATCH_BYTES: u64 = 8 << 20;
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
    let stamp = cache.stamp()?;
    let Some(scan) = scan::scan(data)? else {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(Error::File { action: "read", path: data.to_owned(), source });
    };
    warn_of_links_that_lead_out(&scan.found, data, events);
    let task = events.task(format!("add {label}"), Some(scan.bytes()), Unit::Bytes);
    let index = StatIndex::load(cache, name);
    let producer = Producer {
        cache,
        data,
        shape: scan.shape,
        index: &index,
        task: &task,
        packs: cache.packs()?.into_iter().collect(),
        chunks: OnceLock::new(),
    };
    let base = index.base;
    let (sender, receiver) = sync_channel(2);
    let assembler = Assembler::new(cache, scan.shape)?;
    let assembled = std::thread::scope(|scope| {
        let worker = scope.spawn(move || assembler.run(receiver));
        let produced = producer.run(&scan.found, base, sender);
        let assembled = worker.join().map_err(|_| Error::Worker { what: "write packs" });
        // When the assembler fails the producer only learns that nobody listens: the first error counts.
        match assembled {
            Ok(Err(error)) => Err(error),
            Err(error) => Err(error),
            Ok(Ok(assembled)) => produced.map(|()| assembled),
        }
    })?;
    if let Some(snapshot) = expect.filter(|expected| *expected != assembled.digest) {
        return Err(Error::ChangedSinceAdd { path: data.to_owned(), snapshot });
    }
    let ingested = assembled.commit(cache)?;
    StatIndex { stamp, base: Some(ingested.0.digest), known: ingested.1 }.save(cache, name)?;
    let Ingested { totals, new_bytes, .. } = ingested.0;
    task.finish(format!("{}, {}, {new_bytes} new", count(totals.files, "file"), count(totals.bytes, "byte")));
    Ok(ingested.0)
}

fn warn_of_links_that_lead_out(found: &[Found], data: &Path, events: &Events) {
    for link in found {
        let What::Symlink { target } = &link.what else { continue };
        let mut depth = link.path.iter().filter(|byte| **byte == b'/').count();
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
            let path = crate::shown(&link.path);
            events.warn(format!(
                "{}/{path} is a link out of the data; what it points to is not part of the snapshot",
                data.display()
            ));
        }
    }
}

/// The base snapshot, read in step with the scan: where the chunks of unchanged files are.
struct Previous {
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
    index: &'a StatIndex,
    task: &'a Task,
    packs: HashSet<PackInfo>,
    chunks: OnceLock<ChunkIndex>,
}

impl Producer<'_> {
    fn run(&self, found: &[Found], base: Option<Digest>, sender: SyncSender<Message>) -> Result<()> {
        let mut previous = None;
        if let Some((manifest, layout)) = base.map(|base| self.cache.open(&base)).transpose()?.flatten() {
            let mut opened = Previous { manifest, layout, next: None };
            opened.advance()?;
            previous = Some(opened);
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        for item in found {
            if let What::File { stat, executable } = &item.what {
                let trusted = self.index.digest(&item.path, stat);
                if let Some(pieces) = self.unchanged(&mut previous, &item.path, trusted)? {
                    let digest = trusted.unwrap_or(Digest::from_bytes([0; 32]));
                    let kind = Kind::File { executable: *executable, size: stat.size, digest };
                    batch.push(Work::Ready(Entry { path: item.path.clone(), kind }, Some(*stat), pieces));
                } else if stat.size <= SMALL {
                    self.load_chunks()?;
                    bytes += stat.size;
                    batch.push(Work::Small(item.path.clone(), *stat, *executable));
                } else {
                    self.load_chunks()?;
                    self.flush(&mut batch, &sender)?;
                    bytes = 0;
                    self.large(&item.path, *stat, *executable, &sender)?;
                }
            } else {
                let kind = match &item.what {
                    What::Symlink { target } => Kind::Symlink { target: target.clone() },
                    _ => Kind::EmptyDirectory,
                };
                batch.push(Work::Ready(Entry { path: item.path.clone(), kind }, None, Vec::new()));
            }
            if bytes >= BATCH_BYTES || batch.len() >= BATCH_FILES {
                self.flush(&mut batch, &sender)?;
                bytes = 0;
            }
        }
        self.flush(&mut batch, &sender)
    }

    /// The chunks of a file that need not be read: its stat is trusted and the cache has all its packs.
    fn unchanged(
        &self,
        previous: &mut Option<Previous>,
        path: &[u8],
        trusted: Option<Digest>,
    ) -> Result<Option<Vec<Piece>>> {
        let (Some(previous), Some(digest)) = (previous, trusted) else { return Ok(None) };
        let pieces = previous.chunks(path, &digest)?;
        let here = |piece: &Piece| matches!(piece, Piece::There(pack, _) if self.packs.contains(pack));
        Ok(pieces.filter(|pieces| pieces.iter().all(here)))
    }

    fn load_chunks(&self) -> Result<()> {
        if self.chunks.get().is_none() {
            let _ = self.chunks.set(ChunkIndex::load(self.cache)?);
        }
        Ok(())
    }

    fn flush(&self, batch: &mut Vec<Work>, sender: &SyncSender<Message>) -> Result<()> {
        let work = std::mem::take(batch);
        let messages: Vec<Message> = work
            .into_par_iter()
            .map_init(Squeezer::new, |squeezer, work| match work {
                Work::Ready(entry, stat, pieces) => {
                    self.task.advance(stat.map_or(0, |stat| stat.size));
                    Ok(Message::Entry(entry, stat, pieces))
                }
                Work::Small(path, stat, executable) => self.small(path, stat, executable, squeezer),
            })
            .collect::<Result<_>>()?;
        messages.into_iter().try_for_each(|message| send(sender, message))
    }

    fn small(&self, path: Vec<u8>, stat: Stat, executable: bool, squeezer: &mut Squeezer) -> Result<Message> {
        let mut file = Steady::open(place(self.data, self.shape, &path), stat)?;
        // One byte more than expected, so that a file that grew is noticed.
        let mut bytes = vec![0; stat.size as usize + 1];
        let read = file.fill(&mut bytes)?;
        file.close(read as u64)?;
        bytes.truncate(read);
        self.task.advance(read as u64);
        let (digest, pieces) = if bytes.is_empty() {
            (Digest::of(b""), Vec::new())
        } else {
            let digest = Digest::of(&bytes);
            (digest, vec![self.piece(digest, bytes, squeezer)])
        };
        let kind = Kind::File { executable, size: stat.size, digest };
        Ok(Message::Entry(Entry { path, kind }, Some(stat), pieces))
    }

    fn large(&self, path: &[u8], stat: Stat, executable: bool, sender: &SyncSender<Message>) -> Result<()> {
        let mut file = Steady::open(place(self.data, self.shape, path), stat)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BATCH_BYTES as usize + CHUNK.2];
        let (mut filled, mut read) = (0, 0);
        loop {
            let count = file.fill(&mut buffer[filled..])?;
            filled += count;
            read += count as u64;
            let ended = filled < buffer.len();
            let cuts = cut(&buffer[..filled], ended);
            let used = cuts.last().map_or(0, |(start, length)| start + length);
            let window = &buffer[..used];
            let (pieces, ()) = rayon::join(
                || {
                    let chunk = |squeezer: &mut Squeezer, (start, length): (usize, usize)| {
                        let bytes = &window[start..start + length];
                        self.piece(Digest::of(bytes), bytes.to_vec(), squeezer)
                    };
                    cuts.into_par_iter().map_init(Squeezer::new, chunk).collect::<Vec<_>>()
                },
                || hasher.update(window),
            );
            send(sender, Message::Chunks(pieces))?;
            self.task.advance(used as u64);
            buffer.copy_within(used..filled, 0);
            filled -= used;
            if ended {
                break;
            }
        }
        file.close(read)?;
        let digest = Digest::from_bytes(hasher.finalize().into());
        let kind = Kind::File { executable, size: stat.size, digest };
        send(sender, Message::Entry(Entry { path: path.to_vec(), kind }, Some(stat), Vec::new()))
    }

    fn piece(&self, digest: Digest, bytes: Vec<u8>, squeezer: &mut Squeezer) -> Piece {
        let length = bytes.len() as u32;
        if let Some((pack, record)) = self.chunks.get().and_then(|index| index.get(&digest))
            && record.length == length
        {
            return Piece::There(pack, Chunk { digest, length, pack: 0, offset: record.offset, stored: record.stored });
        }
        let payload = squeezer.squeeze(&bytes).unwrap_or(bytes);
        Piece::New { digest, length, payload }
    }
}

enum Work {
    Ready(Entry, Option<Stat>, Vec<Piece>),
    Small(Vec<u8>, Stat, bool),
}

fn send(sender: &SyncSender<Message>, message: Message) -> Result<()> {
    sender.send(message).map_err(|_| Error::Worker { what: "write packs" })
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
    spare: NamedTempFile,
    manifest: ManifestWriter<BufWriter<NamedTempFile>>,
    layout: LayoutWriter,
    /// The table of packs; `None` while one is being written.
    packs: Vec<Option<PackInfo>>,
    numbers: HashMap<Digest, u32>,
    fresh: HashMap<Digest, Chunk>,
    open: Option<(u32, PackWriter<BufWriter<NamedTempFile>>)>,
    sealing: Vec<Sealing>,
    pending: Vec<Chunk>,
    known: Vec<Known>,
    new_bytes: u64,
}

struct Assembled {
    digest: Digest,
    totals: Totals,
    manifest: NamedTempFile,
    layout: NamedTempFile,
    known: Vec<Known>,
    new_bytes: u64,
}

impl Assembler {
    fn new(cache: &Cache, shape: Shape) -> Result<Self> {
        let file = cache.temp()?;
        let path = file.path().to_owned();
        let spool = tempfile::tempfile_in(cache.tmp()).map_err(at("write a temporary file in", cache.tmp()))?;
        Ok(Self {
            cache: cache.clone(),
            spare: cache.temp()?,
            manifest: ManifestWriter::new(BufWriter::new(file), shape).map_err(at("write", path))?,
            layout: LayoutWriter::new(spool),
            packs: Vec::new(),
            numbers: HashMap::new(),
            fresh: HashMap::new(),
            open: None,
            sealing: Vec::new(),
            pending: Vec::new(),
            known: Vec::new(),
            new_bytes: 0,
        })
    }

    fn run(mut self, receiver: Receiver<Message>) -> Result<Assembled> {
        for message in receiver {
            match message {
                Message::Chunks(pieces) => self.pieces(pieces)?,
                Message::Entry(entry, stat, pieces) => {
                    self.pieces(pieces)?;
                    self.entry(entry, stat)?;
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
                    Some(chunk) => *chunk,
                    None => self.append(digest, length, &payload)?,
                },
            };
            self.pending.push(chunk);
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry, stat: Option<Stat>) -> Result<()> {
        let chunks = std::mem::take(&mut self.pending);
        if !chunks.is_empty() {
            self.layout.push(&chunks).map_err(at("write a layout in", self.cache.tmp()))?;
        }
        self.manifest.push(&entry).map_err(at("write a manifest in", self.cache.tmp()))?;
        if let (Some(stat), Some((_, digest))) = (stat, entry.content()) {
            self.known.push(Known { path: entry.path, stat, digest });
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
        let chunk = Chunk { digest, length, pack: *pack, offset: record.offset, stored: record.stored };
        self.new_bytes += u64::from(record.stored);
        self.fresh.insert(digest, chunk);
        Ok(chunk)
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
        let (digest, totals, output) = self.manifest.finish().map_err(in_tmp())?;
        let manifest = output.into_inner().map_err(|error| in_tmp()(error.into_error()))?;
        let packs: Vec<PackInfo> = self.packs.into_iter().flatten().collect();
        let mut layout = self.spare;
        self.layout.finish(&digest, &packs, layout.as_file_mut()).map_err(in_tmp())?;
        Ok(Assembled { digest, totals, manifest, layout, known: self.known, new_bytes: self.new_bytes })
    }
}

impl Assembled {
    /// Layout first, manifest last: whoever sees the manifest sees all of it. An unchanged snapshot is left alone.
    fn commit(self, cache: &Cache) -> Result<(Ingested, Vec<Known>)> {
        let ingested = Ingested { digest: self.digest, totals: self.totals, new_bytes: self.new_bytes };
        let whole = self.new_bytes == 0
            && cache.open_manifest(&self.digest)?.is_some()
            && cache.packs_of(&self.digest)?.is_some_and(|packs| packs.iter().all(|pack| cache.has_pack(pack)));
        if !whole {
            let layout: PathBuf = cache.layout(&self.digest);
            cache.commit(self.layout, &layout)?;
            cache.commit(self.manifest, &cache.manifest(&self.digest))?;
        }
        Ok((ingested, self.known))
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
