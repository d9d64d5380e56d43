//! Packs: chunk payloads one after another, their index, a footer of fixed size.

use crate::error::{Error, Result, at};
use domain::Digest;
use sha2::{Digest as _, Sha256};
use std::{cell::RefCell, fs::File, io::Write, os::unix::fs::FileExt, path::Path};

/// No pack is larger, index and footer included: what a store takes in one request.
pub const LARGEST: u64 = 16 << 20;
/// Files up to this size are one chunk.
pub const SMALL: u64 = 256 << 10;
/// Smallest, average and largest chunk of larger files (FastCDC v2020, normalization level 1).
pub const CHUNK: (usize, usize, usize) = (64 << 10, 256 << 10, 1 << 20);

const MAGIC: &[u8; 8] = b"SLPACK\r\n";
const VERSION: u32 = 1;
const RECORD: usize = 48;
const FOOTER: usize = 56;

/// Where a chunk is inside a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// SHA-256 of the chunk.
    pub digest: Digest,
    /// First byte of the payload in the pack.
    pub offset: u64,
    /// Length of the chunk.
    pub length: u32,
    /// Length of the payload: the same when it is stored raw, less when it is one zstd frame.
    pub stored: u32,
}

/// Writes a pack to `output`; hashes on the way.
pub(crate) struct PackWriter<W> {
    output: W,
    hasher: Sha256,
    records: Vec<Record>,
    offset: u64,
}

impl<W: Write> PackWriter<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output, hasher: Sha256::new(), records: Vec::new(), offset: 0 }
    }

    /// Whether one more payload would make the pack too large.
    pub(crate) fn full(&self, payload: usize) -> bool {
        self.offset + (payload + (self.records.len() + 1) * RECORD + FOOTER) as u64 > LARGEST
    }

    /// Appends a chunk of `length` bytes whose payload is raw or compressed.
    pub(crate) fn push(&mut self, digest: Digest, length: u32, payload: &[u8]) -> std::io::Result<Record> {
        let stored = u32::try_from(payload.len()).map_err(std::io::Error::other)?;
        let record = Record { digest, offset: self.offset, length, stored };
        self.emit(payload)?;
        self.offset += u64::from(stored);
        self.records.push(record);
        Ok(record)
    }

    /// Writes index and footer; the digest of the whole and its size.
    pub(crate) fn finish(mut self) -> std::io::Result<(Digest, u64, W)> {
        let mut index = Vec::with_capacity(self.records.len() * RECORD);
        for record in &self.records {
            index.extend_from_slice(record.digest.as_bytes());
            index.extend_from_slice(&record.offset.to_le_bytes());
            index.extend_from_slice(&record.length.to_le_bytes());
            index.extend_from_slice(&record.stored.to_le_bytes());
        }
        let count = u32::try_from(self.records.len()).map_err(std::io::Error::other)?;
        let mut footer = Vec::with_capacity(FOOTER);
        footer.extend_from_slice(Digest::of(&index).as_bytes());
        footer.extend_from_slice(&self.offset.to_le_bytes());
        footer.extend_from_slice(&count.to_le_bytes());
        footer.extend_from_slice(&VERSION.to_le_bytes());
        footer.extend_from_slice(MAGIC);
        self.emit(&index)?;
        self.emit(&footer)?;
        self.output.flush()?;
        let size = self.offset + (index.len() + footer.len()) as u64;
        Ok((Digest::from_bytes(self.hasher.finalize().into()), size, self.output))
    }

    fn emit(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.output.write_all(bytes)
    }
}

/// Reads the index of a pack file. The index is verified by the footer, the payloads are not looked at.
pub fn read_index(path: &Path) -> Result<Vec<Record>> {
    let corrupt = |why: &str| Error::Corrupt { object: path.display().to_string(), why: why.to_owned() };
    let file = File::open(path).map_err(at("open", path))?;
    let size = file.metadata().map_err(at("read", path))?.len();
    let mut footer = [0; FOOTER];
    let footer_at = size.checked_sub(FOOTER as u64).ok_or_else(|| corrupt("it is too short for a pack"))?;
    file.read_exact_at(&mut footer, footer_at).map_err(at("read", path))?;
    if footer[48..] != *MAGIC || footer[44..48] != VERSION.to_le_bytes() {
        return Err(corrupt("its footer is not that of a pack of version 1"));
    }
    let start = u64::from_le_bytes(array(&footer[32..40]));
    let count = u32::from_le_bytes(array(&footer[40..44])) as usize;
    if start.checked_add((count * RECORD) as u64) != Some(footer_at) {
        return Err(corrupt("its footer does not agree with its size"));
    }
    let mut index = vec![0; count * RECORD];
    file.read_exact_at(&mut index, start).map_err(at("read", path))?;
    if Digest::of(&index).as_bytes() != &footer[..32] {
        return Err(corrupt("its index does not have the digest in its footer"));
    }
    let record = |bytes: &[u8]| Record {
        digest: Digest::from_bytes(array(&bytes[..32])),
        offset: u64::from_le_bytes(array(&bytes[32..40])),
        length: u32::from_le_bytes(array(&bytes[40..44])),
        stored: u32::from_le_bytes(array(&bytes[44..48])),
    };
    Ok(index.chunks_exact(RECORD).map(record).collect())
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

thread_local! {
    /// What a thread compresses with, and into. Made once: a context is as large as a chunk.
    static SQUEEZER: RefCell<(Option<zstd::bulk::Compressor<'static>>, Vec<u8>)> = const { RefCell::new((None, Vec::new())) };
    static UNPACKER: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses a chunk; `None` when that does not make it smaller. Level 1: packs are written at the speed of a disk, and most
/// data sets are compressed already.
pub(crate) fn squeeze(chunk: &[u8]) -> Option<Vec<u8>> {
    SQUEEZER.with_borrow_mut(|(compressor, buffer)| {
        if compressor.is_none() {
            *compressor = zstd::bulk::Compressor::new(1).ok();
        }
        // One byte less than the chunk is the most that it may take.
        let most = chunk.len().saturating_sub(1);
        if buffer.len() < most {
            buffer.resize(most, 0);
        }
        let length = compressor.as_mut()?.compress_to_buffer(chunk, &mut buffer[..most]).ok()?;
        Some(buffer[..length].to_vec())
    })
}

fn decompress(payload: &[u8], length: usize) -> std::io::Result<Vec<u8>> {
    UNPACKER.with_borrow_mut(|unpacker| {
        if unpacker.is_none() {
            *unpacker = Some(zstd::bulk::Decompressor::new()?);
        }
        match unpacker {
            Some(unpacker) => unpacker.decompress(payload, length),
            None => zstd::bulk::decompress(payload, length),
        }
    })
}

/// The chunk that a payload holds, verified; why not, if it is damaged.
pub(crate) fn unpack(payload: Vec<u8>, length: u32, digest: &Digest) -> std::result::Result<Vec<u8>, String> {
    let chunk = if payload.len() == length as usize {
        payload
    } else {
        decompress(&payload, length as usize).map_err(|error| format!("a chunk does not decompress: {error}"))?
    };
    let found = Digest::of(&chunk);
    if chunk.len() != length as usize || found != *digest {
        return Err(format!("a chunk has digest {found}, expected {digest}"));
    }
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_pack_are_fixed() {
        let mut writer = PackWriter::new(Vec::new());
        writer.push(Digest::of("abc"), 3, b"abc").unwrap();
        let (digest, size, bytes) = writer.finish().unwrap();
        assert_eq!(size, bytes.len() as u64);
        assert_eq!(digest, Digest::of(&bytes));
        expect_test::expect![[r#"
            616263
            ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad 0000000000000000 03000000 03000000
            eea6c1b32bce8f6d3a666a80134ae2aa0fe63fc8cc529f38bbe7b47b6b5ff94c03000000000000000100000001000000534c5041434b0d0a
        "#]]
        .assert_eq(&format!(
            "{}\n{} {} {} {}\n{}\n",
            hex::encode(&bytes[..3]),
            hex::encode(&bytes[3..35]),
            hex::encode(&bytes[35..43]),
            hex::encode(&bytes[43..47]),
            hex::encode(&bytes[47..51]),
            hex::encode(&bytes[51..]),
        ));
    }

    #[test]
    fn every_flipped_byte_of_index_and_footer_is_seen() {
        let mut writer = PackWriter::new(Vec::new());
        writer.push(Digest::of("abc"), 3, b"abc").unwrap();
        writer.push(Digest::of("de"), 2, b"de").unwrap();
        let (_, _, bytes) = writer.finish().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pack");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_index(&path).unwrap()[1], Record { digest: Digest::of("de"), offset: 3, length: 2, stored: 2 });
        for position in 5..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert!(read_index(&path).is_err(), "byte {position}");
        }
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(read_index(&path).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_damaged_payload_is_refused_compressed_or_not() {
        let chunk = vec![7; 1000];
        let digest = Digest::of(&chunk);
        let small = squeeze(&chunk).unwrap();
        assert_eq!(unpack(small.clone(), 1000, &digest).unwrap(), chunk);
        assert!(squeeze(b"x").is_none());
        for position in 0..small.len() {
            let mut damaged = small.clone();
            damaged[position] ^= 1;
            // A bit that zstd does not use may decode to the same bytes; other bytes never pass.
            if let Ok(same) = unpack(damaged, 1000, &digest) {
                assert_eq!(same, chunk);
            }
        }
        assert!(unpack(chunk[..999].to_vec(), 1000, &digest).is_err());
        assert!(unpack(vec![8; 1000], 1000, &digest).is_err());
    }
}
