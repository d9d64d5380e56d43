//! Layouts: where the bytes of a snapshot's files are.

use crate::{
    error::{Error, Result, at},
    manifest::ManifestReader,
    pack,
};
use domain::Digest;
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

const MAGIC: &[u8; 8] = b"SLLAYOUT";
const VERSION: u32 = 1;
const HEADER: u64 = 44;
/// A frame that wants more memory than 8 MiB to be read is refused; level 1 takes half a MiB.
const WINDOW_LOG: u32 = 23;
/// So many chunks more than [`pack::CHUNK`] allows are believed of a file.
const SPARE_CHUNKS: u64 = 1024;
/// What a chunk counts in the bytes of a batch of files, which bounds how many of them are collected.
pub(crate) const CHUNK_COUNTS: u64 = 1024;
/// Layouts larger than this are not fetched: some 16 TiB in chunks of a quarter of a MiB.
pub(crate) const LARGEST: u64 = 4 << 30;
/// A table of packs longer than this is refused: some 16 TiB of packs.
const MOST_PACKS: u32 = 1 << 20;

/// The key of a snapshot's layout in the store.
pub fn key(snapshot: &Digest) -> String {
    let hex = snapshot.hex();
    format!("layouts/{}/{hex}", &hex[..2])
}

/// A chunk of a file and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// SHA-256 of the chunk.
    pub digest: Digest,
    /// Its length.
    pub length: u32,
    /// Number of the pack in the layout's table.
    pub pack: u32,
    /// First byte of the payload in the pack.
    pub offset: u64,
    /// Length of the payload; less than `length` when it is compressed.
    pub stored: u32,
}

/// A pack that a layout refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackInfo {
    /// SHA-256 of the pack, its key.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
}

/// Collects the records of a snapshot in a temporary file until the packs are known.
pub(crate) struct LayoutWriter {
    records: BufWriter<File>,
}

impl LayoutWriter {
    pub(crate) fn new(spool: File) -> Self {
        Self { records: BufWriter::new(spool) }
    }

    /// Adds a file that is not empty; its chunks in order.
    pub(crate) fn push(&mut self, chunks: &[Chunk]) -> std::io::Result<()> {
        let mut record = Vec::with_capacity(16 + chunks.len() * 48);
        varint(&mut record, chunks.len() as u64);
        for chunk in chunks {
            if chunks.len() > 1 {
                record.extend_from_slice(chunk.digest.as_bytes());
                varint(&mut record, u64::from(chunk.length));
            }
            varint(&mut record, u64::from(chunk.pack));
            varint(&mut record, chunk.offset);
            varint(&mut record, u64::from(chunk.stored));
        }
        self.records.write_all(&record)
    }

    /// Writes the whole layout to `output`.
    pub(crate) fn finish(self, snapshot: &Digest, packs: &[PackInfo], output: &mut File) -> std::io::Result<()> {
        let mut spool = self.records.into_inner().map_err(|error| error.into_error())?;
        spool.seek(SeekFrom::Start(0))?;
        output.seek(SeekFrom::Start(0))?;
        output.write_all(&[0; HEADER as usize])?;
        let digest = write_body(spool, snapshot, packs, output)?;
        output.seek(SeekFrom::Start(0))?;
        output.write_all(MAGIC)?;
        output.write_all(&VERSION.to_le_bytes())?;
        output.write_all(digest.as_bytes())
    }
}

/// Writes what follows the checksum, and computes it.
fn write_body(spool: File, snapshot: &Digest, packs: &[PackInfo], output: &mut File) -> std::io::Result<Digest> {
    let mut body = Hashing { inner: BufWriter::new(output), hasher: Sha256::new() };
    body.write_all(snapshot.as_bytes())?;
    let mut frame = zstd::Encoder::new(&mut body, 1)?;
    frame.write_all(&u32::try_from(packs.len()).map_err(std::io::Error::other)?.to_le_bytes())?;
    for pack in packs {
        frame.write_all(pack.digest.as_bytes())?;
        frame.write_all(&pack.size.to_le_bytes())?;
    }
    std::io::copy(&mut BufReader::new(spool), &mut frame)?;
    frame.write_all(&[0])?;
    frame.finish()?;
    body.flush()?;
    Ok(Digest::from_bytes(body.hasher.finalize().into()))
}

struct Hashing<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn varint(output: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        output.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    output.push(value as u8);
}

/// Reads a layout in step with its manifest. The checksum is verified before anything is decoded.
pub struct LayoutReader {
    object: String,
    input: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    packs: Vec<PackInfo>,
    file: Option<(u64, Digest)>,
    left: u64,
    single: bool,
}

impl LayoutReader {
    /// Opens the file at `path` as the layout of `snapshot`.
    pub fn open(path: &Path, snapshot: &Digest) -> Result<Self> {
        let object = key(snapshot);
        let corrupt = |why: &str| Error::Corrupt { object: object.clone(), why: why.to_owned() };
        let mut file = File::open(path).map_err(at("open", path))?;
        let mut header = [0; HEADER as usize];
        file.read_exact(&mut header).map_err(|_| corrupt("it is too short for a layout"))?;
        if header[..8] != *MAGIC || header[8..12] != VERSION.to_le_bytes() {
            return Err(corrupt("it does not begin as a layout of version 1"));
        }
        let found = hash_rest(&mut file).map_err(at("read", path))?;
        if header[12..] != *found.as_bytes() {
            return Err(corrupt("its content does not have the digest in its header"));
        }
        file.seek(SeekFrom::Start(HEADER)).map_err(at("read", path))?;
        let mut whose = [0; 32];
        file.read_exact(&mut whose).map_err(|_| corrupt("it is too short for a layout"))?;
        if whose != *snapshot.as_bytes() {
            return Err(corrupt("it belongs to another snapshot"));
        }
        let mut decoder = zstd::Decoder::new(file).map_err(at("read", path))?;
        decoder.window_log_max(WINDOW_LOG).map_err(at("read", path))?;
        let mut reader =
            Self { object, input: BufReader::new(decoder), packs: Vec::new(), file: None, left: 0, single: false };
        reader.read_packs()?;
        Ok(reader)
    }

    fn read_packs(&mut self) -> Result<()> {
        let count = u32::from_le_bytes(self.bytes()?);
        if count > MOST_PACKS {
            return Err(self.corrupt("it names too many packs"));
        }
        for _ in 0..count {
            let digest = Digest::from_bytes(self.bytes()?);
            let size = u64::from_le_bytes(self.bytes()?);
            self.packs.push(PackInfo { digest, size });
        }
        Ok(())
    }

    /// The packs, by number.
    pub fn packs(&self) -> &[PackInfo] {
        &self.packs
    }

    /// Begins the next file of the manifest; how many chunks it has.
    pub fn begin(&mut self, size: u64, digest: Digest) -> Result<u64> {
        self.file = Some((size, digest));
        self.left = 0;
        if size == 0 {
            return Ok(0);
        }
        self.left = self.number()?;
        self.single = self.left == 1;
        // Those who cut make chunks of 64 KiB at least; others may differ, but not by so much that a reader could not hold them.
        if self.left == 0 || self.left > size.min(size / pack::CHUNK.0 as u64 + SPARE_CHUNKS) {
            return Err(self.corrupt("a file has an impossible number of chunks"));
        }
        Ok(self.left)
    }

    /// The next chunk of the file, or `None` when its size is reached.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let Some((rest, whole)) = self.file else { return Ok(None) };
        if self.left == 0 {
            self.file = None;
            return if rest == 0 {
                Ok(None)
            } else {
                Err(self.corrupt("the chunks of a file are shorter than the file"))
            };
        }
        let (digest, length) =
            if self.single { (whole, rest) } else { (Digest::from_bytes(self.bytes()?), self.number()?) };
        let (pack, offset, stored) = (self.number()?, self.number()?, self.number()?);
        let end = offset.checked_add(stored);
        let inside = usize::try_from(pack).ok().and_then(|pack| self.packs.get(pack)).zip(end);
        if length == 0 || length > rest || length > pack::CHUNK.2 as u64 || stored == 0 || stored > length {
            return Err(self.corrupt("a chunk has an impossible length"));
        }
        if inside.is_none_or(|(pack, end)| end > pack.size) {
            return Err(self.corrupt("a chunk lies outside of its pack"));
        }
        self.left -= 1;
        self.file = Some((rest - length, whole));
        // The bounds above make these conversions exact.
        Ok(Some(Chunk { digest, length: length as u32, pack: pack as u32, offset, stored: stored as u32 }))
    }

    /// All chunks of one file.
    pub fn chunks(&mut self, size: u64, digest: Digest) -> Result<Vec<Chunk>> {
        self.begin(size, digest)?;
        let mut chunks = Vec::new();
        while let Some(chunk) = self.next_chunk()? {
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    /// Checks that nothing follows the last file.
    pub fn finish(mut self) -> Result<()> {
        let [end] = self.bytes()?;
        let more = self.input.fill_buf().map_or(true, |rest| !rest.is_empty());
        if end != 0 || more { Err(self.corrupt("it does not end where the manifest ends")) } else { Ok(()) }
    }

    /// Reads all of it beside the manifest and checks that they agree.
    pub fn check(mut self, manifest: &mut ManifestReader<impl BufRead>) -> Result<Vec<PackInfo>> {
        while let Some(entry) = manifest.next_entry()? {
            if let Some((size, digest)) = entry.content() {
                self.begin(size, digest)?;
                while self.next_chunk()?.is_some() {}
            }
        }
        let packs = self.packs.clone();
        self.finish()?;
        Ok(packs)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.input.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(self.corrupt(&format!("it cannot be decoded: {error}"))),
        }
    }

    fn number(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..63).step_by(7) {
            let [byte] = self.bytes()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.corrupt("a number is too long"))
    }

    fn corrupt(&self, why: &str) -> Error {
        Error::Corrupt { object: self.object.clone(), why: why.to_owned() }
    }
}

/// SHA-256 of what is left of a file.
pub(crate) fn hash_rest(file: &mut File) -> std::io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Files = Vec<(u64, Digest, Vec<Chunk>)>;

    fn written(snapshot: &Digest, packs: &[PackInfo], files: &Files) -> Vec<u8> {
        let mut writer = LayoutWriter::new(tempfile::tempfile().unwrap());
        for (_, _, chunks) in files {
            writer.push(chunks).unwrap();
        }
        let mut output = tempfile::tempfile().unwrap();
        writer.finish(snapshot, packs, &mut output).unwrap();
        output.seek(SeekFrom::Start(0)).unwrap();
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn read(bytes: &[u8], snapshot: &Digest, files: &Files) -> Result<(Vec<PackInfo>, Files)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut reader = LayoutReader::open(file.path(), snapshot)?;
        let packs = reader.packs().to_vec();
        let mut found = Vec::new();
        for (size, digest, _) in files {
            found.push((*size, *digest, reader.chunks(*size, *digest)?));
        }
        reader.finish()?;
        Ok((packs, found))
    }

    fn example() -> (Digest, Vec<PackInfo>, Files) {
        let pack = PackInfo { digest: Digest::of("pack"), size: 1000 };
        let single = Chunk { digest: Digest::of("abc"), length: 3, pack: 0, offset: 300, stored: 3 };
        let (a, b) = (
            Chunk { digest: Digest::of("a"), ..single },
            Chunk { digest: Digest::of("b"), length: 300, offset: 0, ..single },
        );
        (
            Digest::of("snapshot"),
            vec![pack],
            vec![(3, Digest::of("abc"), vec![single]), (303, Digest::of("ab"), vec![a, b])],
        )
    }

    #[test]
    fn a_layout_written_once_stays_readable() {
        let (snapshot, packs, files) = example();
        let bytes = written(&snapshot, &packs, &files);
        assert_eq!(read(&bytes, &snapshot, &files).unwrap(), (packs.clone(), files.clone()));
        // The frame may differ with the version of zstd; what is in it may not.
        assert_eq!(bytes[..12], *b"SLLAYOUT\x01\0\0\0");
        assert_eq!(bytes[12..44], *Digest::of(&bytes[44..]).as_bytes());
        assert_eq!(bytes[44..76], *snapshot.as_bytes());
        let frame = zstd::decode_all(&bytes[76..]).unwrap();
        let mut expected = vec![1, 0, 0, 0];
        expected.extend_from_slice(packs[0].digest.as_bytes());
        expected.extend_from_slice(&1000u64.to_le_bytes());
        expected.extend_from_slice(&[1, 0, 0xac, 2, 3, 2]);
        expected.extend_from_slice(Digest::of("a").as_bytes());
        expected.extend_from_slice(&[3, 0, 0xac, 2, 3]);
        expected.extend_from_slice(Digest::of("b").as_bytes());
        expected.extend_from_slice(&[0xac, 2, 0, 0, 3, 0]);
        assert_eq!(frame, expected);
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_seen() {
        let (snapshot, packs, files) = example();
        let bytes = written(&snapshot, &packs, &files);
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            let error = read(&damaged, &snapshot, &files).unwrap_err();
            assert!(
                matches!(&error, Error::Corrupt { object, .. } if *object == key(&snapshot)),
                "{position}: {error}"
            );
            assert!(read(&bytes[..position], &snapshot, &files).is_err(), "{position}");
        }
        assert!(read(&bytes, &Digest::of("other"), &files).is_err());
        assert!(read(&bytes, &snapshot, &files[..1].to_vec()).is_err(), "more files than the manifest");
    }

    #[test]
    fn a_flood_of_chunks_is_refused_by_their_number() {
        let (snapshot, packs, _) = example();
        let single = Chunk { digest: Digest::of("x"), length: 1, pack: 0, offset: 0, stored: 1 };
        let file = |count: usize| vec![(count as u64, Digest::of("file"), vec![single; count])];
        let read_back = |count| read(&written(&snapshot, &packs, &file(count)), &snapshot, &file(count));
        read_back(SPARE_CHUNKS as usize).unwrap();
        let error = read_back(SPARE_CHUNKS as usize + 1).unwrap_err();
        assert!(error.to_string().contains("an impossible number of chunks"), "{error}");
    }

    #[test]
    fn impossible_chunks_are_refused() {
        let (snapshot, packs, files) = example();
        let change = |change: fn(&mut Chunk)| {
            let mut changed = files.clone();
            changed[1].2.iter_mut().for_each(change);
            read(&written(&snapshot, &packs, &changed), &snapshot, &files)
        };
        assert!(change(|_| ()).is_ok());
        assert!(change(|chunk| chunk.pack = 1).is_err(), "no such pack");
        assert!(change(|chunk| chunk.offset = 998).is_err(), "outside of the pack");
        assert!(change(|chunk| chunk.offset = u64::MAX >> 1).is_err(), "far outside of the pack");
        assert!(change(|chunk| chunk.stored = chunk.length + 1).is_err(), "stored longer than it is");
        assert!(change(|chunk| chunk.stored = 0).is_err(), "nothing stored");
        assert!(change(|chunk| chunk.length += 1).is_err(), "longer than the file");
        assert!(change(|chunk| chunk.length = 3).is_err(), "shorter than the file");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn layouts_round_trip(shapes in proptest::collection::vec((1u64..5, 1u32..=1 << 20, 0u64..1 << 30), 0..20)) {
            let packs: Vec<PackInfo> = (0..5u8).map(|number| PackInfo { digest: Digest::of([number]), size: 1 << 40 }).collect();
            let files: Files = shapes.iter().enumerate().map(|(place, &(count, length, offset))| {
                let digest = Digest::of(place.to_le_bytes());
                let chunk = |number: u64| Chunk {
                    digest: if count == 1 { digest } else { Digest::of(number.to_le_bytes()) },
                    length, pack: number as u32, offset, stored: length.div_ceil(2),
                };
                (count * u64::from(length), digest, (0..count).map(chunk).collect())
            }).collect();
            let snapshot = Digest::of("s");
            let bytes = written(&snapshot, &packs, &files);
            prop_assert_eq!(read(&bytes, &snapshot, &files).unwrap(), (packs, files));
        }
    }
}
