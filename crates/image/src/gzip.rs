//! gzip on several threads, whose bytes do not depend on them.
//!
//! The input is cut into blocks of one size. Each becomes a run of deflate blocks of its own that ends on a byte, knows the 32 KiB before it (what
//! a match may reach back to) and is made by whichever thread is free; the runs stand in one gzip member, in order. Any program that reads gzip reads it.
//!
//! What never happens here:
//!
//! - The bytes depend on the number of threads, on which of them was quicker, on what a compressor was used for before, on how the input was cut into
//!   writes, or on the clock (RFC 1952: MTIME 0, OS 255). They depend on the input, the constants below and the deflate of zlib-rs; whoever changes
//!   one of these gives every layer another digest, and the layer cache's format another word.
//! - There are more threads than processors, or more blocks in memory than a few for each, however many streams are written at once: a stream that gets
//!   no room compresses its block itself. So no stream waits for another one, which may be standing still.
//! - A stream that has failed is ended as if it were whole.
//!
//! Stretches that look as random as compressed or encrypted bytes do, and repeat nothing of what was just before, are stored as they are: deflate would
//! spend more time on them than on anything else, to find nothing.

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use std::{
    collections::VecDeque,
    io::{self, Write},
    ops::Range,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender, SyncSender, TryRecvError},
    },
    thread,
};

/// Bytes of a block. Smaller ones cost bytes (each begins with Huffman tables of its own), larger ones leave processors idle at small layers.
const BLOCK: usize = 256 << 10;
/// How far back deflate can refer.
const WINDOW: usize = 32 << 10;
/// The level of zlib-rs. Of what is below 6, only this one makes files larger by less than half a percent.
const LEVEL: u32 = 5;
/// RFC 1952: deflate, no flags, no time, no word on how hard it was tried, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// RFC 1951: the last block, of fixed codes, and empty.
const LAST: [u8; 2] = [3, 0];
/// What may be in memory at once, for each thread.
const BLOCKS_PER_THREAD: usize = 4;

/// Threads that compress.
pub(crate) struct Pool {
    /// None when there are no threads.
    jobs: Option<Sender<Job>>,
    room: Arc<AtomicUsize>,
}

/// The right to have a block in memory.
struct Room(Arc<AtomicUsize>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// A block with what is before it.
struct Job {
    bytes: Vec<u8>,
    /// How many of the bytes are before the block.
    before: usize,
    room: Option<Room>,
    to: SyncSender<Done>,
}

/// What a block became.
struct Done {
    packed: io::Result<Vec<u8>>,
    crc: Crc,
    /// The block's bytes, to be used again.
    bytes: Vec<u8>,
    _room: Option<Room>,
}

impl Pool {
    /// A pool of so many threads. Those that the system does not give are done without.
    pub(crate) fn new(threads: usize) -> Arc<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let work = |jobs: Arc<Mutex<Receiver<Job>>>| {
            loop {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = job else { return };
                let to = job.to.clone();
                // Nobody waits for a block of a stream that was given up.
                let _ = to.send(job.run());
            }
        };
        let started = (0..threads).map_while(|_| {
            let jobs = jobs.clone();
            thread::Builder::new().name("gzip".to_owned()).spawn(move || work(jobs)).ok()
        });
        let started = started.count();
        let room = Arc::new(AtomicUsize::new(started * BLOCKS_PER_THREAD));
        Arc::new(Self { jobs: (started > 0).then_some(sender), room })
    }

    /// The one of this process: a thread for each processor, for as long as the process is there.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Pool>> = OnceLock::new();
        SHARED.get_or_init(|| Self::new(thread::available_parallelism().map_or(1, usize::from))).clone()
    }

    fn room(&self) -> Option<Room> {
        let taken = self.room.fetch_update(Ordering::Acquire, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.ok().map(|_| Room(self.room.clone()))
    }
}

impl Job {
    fn run(self) -> Done {
        let mut crc = Crc::new();
        crc.update(&self.bytes[self.before..]);
        let packed = pack(&self.bytes, self.before);
        Done { packed, crc, bytes: self.bytes, _room: self.room }
    }
}

/// Compresses what is written to it, and writes it to `inner`.
pub(crate) struct GzipWriter<W> {
    inner: W,
    pool: Arc<Pool>,
    /// The block that is being filled, after the end of the one before.
    bytes: Vec<u8>,
    before: usize,
    /// Blocks that are being compressed, in order.
    waiting: VecDeque<Receiver<Done>>,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
    crc: Crc,
    begun: bool,
    failed: bool,
}

impl<W: Write> GzipWriter<W> {
    pub(crate) fn new(inner: W, pool: Arc<Pool>) -> Self {
        Self {
            inner,
            pool,
            bytes: Vec::new(),
            before: 0,
            waiting: VecDeque::new(),
            spare: Vec::new(),
            crc: Crc::new(),
            begun: false,
            failed: false,
        }
    }

    /// Writes the end.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if self.failed {
            return Err(io::Error::other("an earlier write failed"));
        }
        if self.bytes.len() > self.before {
            self.submit()?;
        }
        while let Some(first) = self.waiting.pop_front() {
            self.settle(&first)?;
        }
        self.begin()?;
        self.inner.write_all(&LAST)?;
        self.inner.write_all(&self.crc.sum().to_le_bytes())?;
        self.inner.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.inner)
    }

    fn begin(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            self.inner.write_all(&HEADER)?;
        }
        Ok(())
    }

    /// Gives the block away, and writes what has become of earlier ones.
    fn submit(&mut self) -> io::Result<()> {
        let mut next = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(WINDOW + BLOCK));
        next.clear();
        next.extend_from_slice(&self.bytes[self.bytes.len().saturating_sub(WINDOW)..]);
        let before = std::mem::replace(&mut self.before, next.len());
        let bytes = std::mem::replace(&mut self.bytes, next);
        let (to, done) = mpsc::sync_channel(1);
        let mut job = Job { bytes, before, room: None, to };
        loop {
            self.settle_done()?;
            job.room = self.pool.room();
            if let (Some(jobs), Some(_)) = (&self.pool.jobs, &job.room) {
                match jobs.send(job) {
                    Ok(()) => break self.waiting.push_back(done),
                    Err(mpsc::SendError(unsent)) => job = unsent,
                }
            }
            match self.waiting.pop_front() {
                Some(first) => self.settle(&first)?,
                None => return self.put(job.run()),
            }
        }
        Ok(())
    }

    /// Writes the first blocks that are done.
    fn settle_done(&mut self) -> io::Result<()> {
        while let Some(first) = self.waiting.front() {
            match first.try_recv() {
                Ok(done) => {
                    self.waiting.pop_front();
                    self.put(done)?;
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(ended()),
            }
        }
        Ok(())
    }

    fn settle(&mut self, first: &Receiver<Done>) -> io::Result<()> {
        let done = first.recv().map_err(|_| ended())?;
        self.put(done)
    }

    fn put(&mut self, done: Done) -> io::Result<()> {
        self.begin()?;
        self.inner.write_all(&done.packed?)?;
        self.crc.combine(&done.crc);
        self.spare.push(done.bytes);
        Ok(())
    }
}

fn ended() -> io::Error {
    io::Error::other("a thread that compresses has ended")
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let take = bytes.len().min(self.before + BLOCK - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..take]);
        if self.bytes.len() == self.before + BLOCK
            && let Err(error) = self.submit()
        {
            self.failed = true;
            return Err(error);
        }
        Ok(take)
    }

    /// Does nothing: where blocks end is decided by the input's length alone.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses `bytes[before..]`, to deflate blocks that end on a byte.
fn pack(bytes: &[u8], before: usize) -> io::Result<Vec<u8>> {
    let length = bytes.len() - before;
    let mut packed = Vec::with_capacity(length + length / 64 + 1024);
    for (range, random) in stretches(bytes, before) {
        if random {
            store(&bytes[range], &mut packed);
        } else {
            deflate(bytes, range, &mut packed)?;
        }
    }
    Ok(packed)
}

/// RFC 1951, 3.2.4: from a byte's begin, a zero (not the last block, stored), the length, its complement, the bytes.
fn store(bytes: &[u8], packed: &mut Vec<u8>) {
    for part in bytes.chunks(usize::from(u16::MAX)) {
        let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
        packed.push(0);
        packed.extend_from_slice(&length.to_le_bytes());
        packed.extend_from_slice(&(!length).to_le_bytes());
        packed.extend_from_slice(part);
    }
}

/// The compressor is a new one each time: zlib-rs reads what its window held before a reset, and finds other matches by it
/// (<https://github.com/trifectatechfoundation/zlib-rs/issues/459>).
fn deflate(bytes: &[u8], range: Range<usize>, packed: &mut Vec<u8>) -> io::Result<()> {
    let mut compressor = Compress::new(Compression::new(LEVEL), false);
    let known = &bytes[range.start.saturating_sub(WINDOW)..range.start];
    if !known.is_empty() {
        compressor.set_dictionary(known).map_err(io::Error::other)?;
    }
    let input = &bytes[range];
    loop {
        let taken = usize::try_from(compressor.total_in()).unwrap_or(usize::MAX);
        let rest = input.get(taken..).unwrap_or_default();
        packed.reserve(rest.len() + rest.len() / 64 + 1024);
        let status = compressor.compress_vec(rest, packed, FlushCompress::Sync).map_err(io::Error::other)?;
        // As long as there is no room left, there may be more to come.
        if packed.len() < packed.capacity() {
            return match status {
                Status::Ok if compressor.total_in() == input.len() as u64 => Ok(()),
                _ => Err(io::Error::other("the compressor stopped in the middle")),
            };
        }
    }
}

/// What is looked at as one.
const CHUNK: usize = 8 << 10;
/// What is looked at first: most of what compresses shows it here.
const GLANCE: usize = 512;

/// Cuts `bytes[before..]` into stretches of bytes that look random and of others, by turns.
fn stretches(bytes: &[u8], before: usize) -> Vec<(Range<usize>, bool)> {
    let mut stretches: Vec<(Range<usize>, bool)> = Vec::new();
    let mut repeats = None;
    let mut begin = before;
    while begin < bytes.len() {
        let end = bytes.len().min(begin + CHUNK);
        let chunk = &bytes[begin..end];
        let random = chunk.len() == CHUNK
            && is_even(&chunk[..GLANCE], 2)
            && is_even(chunk, 16)
            && repeats.get_or_insert_with(Repeats::new).are_few(bytes, begin..end);
        match stretches.last_mut() {
            Some((last, kind)) if *kind == random => last.end = end,
            _ => stretches.push((begin..end, random)),
        }
        begin = end;
    }
    stretches
}

/// Whether all 256 bytes are about as frequent: the chance that two of these bytes are the same one is below 1/256 by at most one `tolerance`th more.
fn is_even(bytes: &[u8], tolerance: u64) -> bool {
    // Four tables, so that equal neighbours do not wait for each other.
    let mut counts = [[0u32; 256]; 4];
    for four in bytes.chunks_exact(4) {
        for (table, byte) in counts.iter_mut().zip(four) {
            table[usize::from(*byte)] += 1;
        }
    }
    let pairs: u64 = (0..256)
        .map(|byte| counts.iter().map(|table| u64::from(table[byte])).sum::<u64>())
        .map(|count| count * count.saturating_sub(1))
        .sum();
    let length = bytes.len() as u64;
    pairs * 256 * tolerance <= length * (length - 1) * (tolerance + 1)
}

/// Where four bytes were seen last, by their hash.
struct Repeats {
    seen: Vec<usize>,
    /// What was looked at already.
    end: usize,
}

impl Repeats {
    const BITS: u32 = 13;

    fn new() -> Self {
        Self { seen: vec![0; 1 << Self::BITS], end: 0 }
    }

    /// Whether hardly anything of the range was there within the window before.
    fn are_few(&mut self, bytes: &[u8], range: Range<usize>) -> bool {
        let begin = range.start.saturating_sub(WINDOW).max(self.end);
        let mut found = 0;
        for (at, four) in bytes[..range.end].windows(4).enumerate().skip(begin) {
            let number = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            let slot = (number.wrapping_mul(0x9e37_79b1) >> (u32::BITS - Self::BITS)) as usize;
            let last = std::mem::replace(&mut self.seen[slot], at);
            if at >= range.start && at - last <= WINDOW && bytes[last..last + 4] == *four {
                found += 1;
            }
        }
        self.end = range.end - 3;
        found * 64 < range.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Digest;
    use flate2::read::MultiGzDecoder;
    use proptest::prelude::*;
    use std::{
        io::Read as _,
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    fn packed(input: &[u8], pool: &Arc<Pool>, writes: &[usize]) -> Vec<u8> {
        let mut writer = GzipWriter::new(Vec::new(), pool.clone());
        let mut rest = input;
        for write in writes.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*write));
            writer.write_all(now).unwrap();
            writer.flush().unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        writer.finish().unwrap()
    }

    fn unpacked(packed: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        MultiGzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let words = std::iter::from_fn(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            Some(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes())
        });
        words.flatten().take(length).collect()
    }

    fn text(length: usize, seed: u64) -> Vec<u8> {
        let words = ["layer", "digest ", "= ", "\n", "of ", "blob", "0x", "manifest "];
        noise(length, seed).into_iter().flat_map(|byte| words[usize::from(byte % 8)].bytes()).take(length).collect()
    }

    /// What layers are made of: text, noise, zeros, and what was there before.
    fn mixed(pieces: &[(u8, usize)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, (kind, length)) in pieces.iter().enumerate() {
            let more = match kind {
                0 => noise(*length, number as u64),
                1 => text(*length, number as u64),
                2 => vec![0; *length],
                _ => bytes.iter().rev().take(*length).rev().copied().collect(),
            };
            bytes.extend(more);
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10))]
        #[test]
        fn the_same_input_gives_the_same_bytes_on_any_number_of_threads_however_it_is_written(
            pieces in prop::collection::vec((0..4u8, prop_oneof![1..3000usize, 1..200_000usize]), 0..10),
            writes in prop::collection::vec(1..100_000usize, 1..5),
            others in prop::collection::vec(prop_oneof![1..5000usize, 200_000..600_000usize], 1..5),
        ) {
            let input = mixed(&pieces);
            let alone = packed(&input, &Pool::new(0), &[usize::MAX]);
            prop_assert_eq!(unpacked(&alone), &input[..]);
            for threads in [1, 2, 64] {
                let pool = Pool::new(threads);
                // The second time with threads that have compressed something else just before.
                for writes in [&writes, &others] {
                    prop_assert!(packed(&input, &pool, writes) == alone, "{} threads, {:?}", threads, writes);
                }
            }
        }
    }

    /// A compressor that is used again gives other bytes for some hundredth of the blocks of a real program, and for none of what is made up above.
    #[test]
    fn a_real_program_gives_the_same_bytes_on_any_number_of_threads() {
        let mut program = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let third = program.metadata().unwrap().len() / 3;
        std::io::Seek::seek(&mut program, io::SeekFrom::Start(third)).unwrap();
        let mut input = Vec::new();
        program.take(16 << 20).read_to_end(&mut input).unwrap();
        assert!(input.len() >= 4 << 20, "this test's own program is too small to tell anything: {}", input.len());
        let alone = packed(&input, &Pool::new(0), &[usize::MAX]);
        assert!(unpacked(&alone) == input);
        for threads in [1, 3] {
            assert!(packed(&input, &Pool::new(threads), &[100_000]) == alone, "{threads} threads");
        }
    }

    #[test]
    fn the_bytes_are_these() {
        let input = mixed(&[(1, 300_000), (0, 100_000), (3, 20_000), (2, 50_000), (1, 100_000)]);
        let bytes = packed(&input, &Pool::shared(), &[10_000]);
        assert_eq!(unpacked(&bytes), input);
        // Another version of zlib-rs may give others, and then so may everybody's layers: that must be a decision, and the layer cache's format must change.
        expect_test::expect!["169584 bytes, sha256:287e216fc3545169ee4ae811d527b06b2075f880dbd1bb0c7c731a937c8717e3"]
            .assert_eq(&format!("{} bytes, {}", bytes.len(), Digest::of(&bytes)));
    }

    #[test]
    fn edges_of_blocks_and_nothing_at_all() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 5] {
            for input in [vec![b'x'; length], noise(length, 7)] {
                let bytes = packed(&input, &Pool::shared(), &[70_000]);
                assert_eq!(unpacked(&bytes), input, "{length}");
                assert_eq!(&bytes[..10], HEADER);
                assert!(bytes.len() <= length + length / 1000 + 64, "{length} became {}", bytes.len());
            }
        }
    }

    #[test]
    fn the_program_gzip_accepts_it() {
        let input = mixed(&[(1, 700_000), (0, 300_000), (2, 10), (1, 5)]);
        let bytes = packed(&input, &Pool::new(3), &[5_000]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer.gz");
        std::fs::write(&path, &bytes).unwrap();
        let tested = Command::new("gzip").arg("-tv").arg(&path).output().unwrap();
        assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
        let given = Command::new("gzip").arg("-dc").arg(&path).stderr(Stdio::inherit()).output().unwrap();
        assert!(given.stdout == input);
        // Another bit anywhere is told by it.
        let mut wrong = bytes;
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        std::fs::write(&path, &wrong).unwrap();
        assert!(!Command::new("gzip").arg("-t").arg(&path).output().unwrap().status.success());
    }

    #[test]
    fn what_cannot_be_compressed_is_stored_and_what_repeats_is_not() {
        let stored = |bytes: &[u8]| -> usize {
            let random = stretches(bytes, 0).into_iter().filter(|(_, random)| *random);
            random.map(|(range, _)| range.len()).sum()
        };
        let random = noise(BLOCK, 1);
        assert_eq!(stored(&random), BLOCK);
        assert_eq!(stored(&text(BLOCK, 1)), 0);
        assert_eq!(stored(&vec![0; BLOCK]), 0);
        // Every byte is as frequent as the others, and all of it was there before.
        let counting: Vec<u8> = (0..BLOCK).map(|at| (at % 256) as u8).collect();
        assert_eq!(stored(&counting), 0);
        let again: Vec<u8> = random[..20_000].iter().cycle().take(BLOCK).copied().collect();
        assert!(stored(&again) < 3 * CHUNK, "{}", stored(&again));
        // Six bits of a byte, as in base64: Huffman alone saves a quarter.
        let six: Vec<u8> = random.iter().map(|byte| byte & 63).collect();
        assert_eq!(stored(&six), 0);
        let gzip = packed(&text(1 << 20, 3), &Pool::new(0), &[1 << 20]);
        assert!(stored(&gzip) > gzip.len() * 9 / 10, "{} of {}", stored(&gzip), gzip.len());
        let covered = stretches(&random, 1000);
        assert_eq!((covered[0].0.start, covered[covered.len() - 1].0.end), (1000, BLOCK));
    }

    /// Fails after so many bytes.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_error_of_the_file_is_told_and_a_stream_that_failed_has_no_end() {
        let input = noise(20 * BLOCK, 5);
        for (threads, room) in [(0, 0), (0, 3 * BLOCK), (2, 0), (2, 3 * BLOCK), (2, 20 * BLOCK)] {
            let mut writer = GzipWriter::new(Full(room), Pool::new(threads));
            let written = writer.write_all(&input);
            if let Err(error) = &written {
                assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{threads}, {room}");
            }
            // Even if nobody looked.
            let ended = writer.finish().map(drop).unwrap_err();
            let told = if written.is_err() {
                "an earlier write failed".to_owned()
            } else {
                io::Error::from(io::ErrorKind::StorageFull).to_string()
            };
            assert_eq!(ended.to_string(), told, "{threads}, {room}");
        }
    }

    #[test]
    fn many_streams_at_once_have_no_more_blocks_than_the_pool_has_room_for_and_give_all_back() {
        let pool = Pool::new(2);
        let most = 2 * BLOCKS_PER_THREAD;
        assert_eq!(pool.room.load(Ordering::Acquire), most);
        let input = noise(5 * BLOCK, 9);
        let alone = packed(&input, &Pool::new(0), &[BLOCK]);
        // One that stands still and holds all the room must not stop the others.
        let mut still = GzipWriter::new(Vec::new(), pool.clone());
        let held: Vec<Room> = std::iter::from_fn(|| pool.room()).collect();
        assert_eq!(held.len(), most);
        still.write_all(&input).unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(packed(&input, &pool, &[BLOCK / 2]) == alone));
            }
        });
        drop(held);
        // A stream that is given up in the middle leaves its blocks to whoever has them, and nobody after that.
        for _ in 0..4 {
            let mut dropped = GzipWriter::new(Vec::new(), pool.clone());
            dropped.write_all(&input).unwrap();
        }
        drop(still);
        let begun = Instant::now();
        while pool.room.load(Ordering::Acquire) < most {
            assert!(begun.elapsed() < Duration::from_secs(30), "room is lost");
            thread::yield_now();
        }
        assert_eq!(pool.room.load(Ordering::Acquire), most);
    }
}
