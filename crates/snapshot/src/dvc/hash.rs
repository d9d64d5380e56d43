//! MD5 as DVC takes it: of the bytes (3.x), or of the bytes with the line ends of text made uniform (2.x).

use domain::Digest;
use md5::{Digest as _, Md5};
use sha2::Sha256;
use std::{fmt, io::Read};

/// DVC 2.x decides about text a block at a time.
const BLOCK: usize = 1 << 20;
/// By so many bytes of each block.
const LOOKED_AT: usize = 512;

/// An MD5, which names an object of DVC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sum(pub [u8; 16]);

impl Sum {
    /// Of bytes as they are.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Md5::digest(bytes).into())
    }

    /// From 32 lower-case digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut sum = [0; 16];
        let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (lower && hex::decode_to_slice(text, &mut sum).is_ok()).then_some(Self(sum))
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Which bytes an MD5 is taken of, and with it where objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `hash: md5`, objects at `files/md5/ab/cdef…`.
    Md5,
    /// No `hash` key: `md5-dos2unix`, objects at `ab/cdef…`.
    Dos2Unix,
}

impl Kind {
    /// The key of an object below the root of a cache or remote.
    pub fn key(self, sum: &Sum, directory: bool) -> String {
        let hex = sum.to_string();
        let (folder, suffix) = (if self == Self::Md5 { "files/md5/" } else { "" }, if directory { ".dir" } else { "" });
        format!("{folder}{}/{}{suffix}", &hex[..2], &hex[2..])
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        if self == Self::Md5 { "md5" } else { "md5-dos2unix" }
    }
}

/// What is known of bytes that were read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// As DVC names them.
    pub sum: Sum,
    /// As Sealift names them.
    pub sha256: Digest,
    /// How many there were.
    pub size: u64,
}

/// Takes both sums of bytes that come in pieces of any size.
pub struct Hasher {
    kind: Kind,
    md5: Md5,
    sha256: Sha256,
    size: u64,
    /// For 2.x: the block that is not full yet.
    block: Vec<u8>,
}

impl Hasher {
    /// Of nothing yet.
    pub fn new(kind: Kind) -> Self {
        Self { kind, md5: Md5::new(), sha256: Sha256::new(), size: 0, block: Vec::new() }
    }

    /// Adds bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.sha256.update(bytes);
        self.size += bytes.len() as u64;
        if self.kind == Kind::Md5 {
            self.md5.update(bytes);
            return;
        }
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = rest;
            if self.block.len() == BLOCK {
                self.block_is_full();
            }
        }
    }

    fn block_is_full(&mut self) {
        let block = std::mem::take(&mut self.block);
        if is_text(&block[..block.len().min(LOOKED_AT)]) {
            let mut from = 0;
            for at in 0..block.len() {
                if block[at] == b'\r' && block.get(at + 1) == Some(&b'\n') {
                    self.md5.update(&block[from..at]);
                    from = at + 1;
                }
            }
            self.md5.update(&block[from..]);
        } else {
            self.md5.update(&block);
        }
        self.block = block;
        self.block.clear();
    }

    /// The sums.
    pub fn finish(mut self) -> Sums {
        if !self.block.is_empty() {
            self.block_is_full();
        }
        Sums {
            sum: Sum(self.md5.finalize().into()),
            sha256: Digest::from_bytes(self.sha256.finalize().into()),
            size: self.size,
        }
    }
}

/// Python's guess, as DVC has it: no NUL, and at most 30 % that is not printable.
fn is_text(bytes: &[u8]) -> bool {
    let printable = |byte: &u8| matches!(byte, 32..=126 | b'\n' | b'\r' | b'\t' | 0x0c | 0x08);
    let other = bytes.iter().filter(|byte| !printable(byte)).count();
    !bytes.contains(&0) && other * 10 <= bytes.len() * 3
}

/// Reads to the end.
pub(crate) fn read_all(reader: &mut impl Read, kind: Kind, mut told: impl FnMut(u64)) -> std::io::Result<Sums> {
    let mut hasher = Hasher::new(kind);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                told(count as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(kind: Kind, bytes: &[u8]) -> String {
        read_all(&mut &bytes[..], kind, |_| ()).unwrap().sum.to_string()
    }

    #[test]
    fn the_vectors_of_both_kinds() {
        assert!(sum(Kind::Dos2Unix, b"hello\r\nworld\r\n").starts_with("0f723ae7"));
        assert_eq!(sum(Kind::Md5, b"hello\r\nworld\r\n"), "7ac062d8a84466e70d9b899c0821a51c");
        assert_eq!(sum(Kind::Dos2Unix, b"hello\nworld\n"), sum(Kind::Md5, b"hello\nworld\n"));
        assert_eq!(sum(Kind::Dos2Unix, b""), "d41d8cd98f00b204e9800998ecf8427e");
        // Binary: a NUL, or more than 30 % that is not printable.
        for binary in [&b"a\0\r\n"[..], b"\xff\xfe\xfd\xfc\r\n"] {
            assert_eq!(sum(Kind::Dos2Unix, binary), sum(Kind::Md5, binary));
        }
        // Exactly 30 % is still text.
        assert_eq!(sum(Kind::Dos2Unix, b"aaaaa\r\n\xff\xff\xff"), sum(Kind::Md5, b"aaaaa\n\xff\xff\xff"));
    }

    #[test]
    fn each_block_is_judged_by_itself_and_a_line_end_between_two_stays() {
        let mut bytes = vec![b'a'; BLOCK - 1];
        bytes.extend_from_slice(b"\r\nb\r\n");
        let mut expected = vec![b'a'; BLOCK - 1];
        expected.extend_from_slice(b"\r\nb\n");
        assert_eq!(sum(Kind::Dos2Unix, &bytes), sum(Kind::Md5, &expected));
        let mut hasher = Hasher::new(Kind::Dos2Unix);
        for piece in bytes.chunks(1000) {
            hasher.update(piece);
        }
        assert_eq!(hasher.finish().sum.to_string(), sum(Kind::Md5, &expected), "whatever the pieces");
        let mut mixed = vec![0; BLOCK];
        mixed.extend_from_slice(b"x\r\n");
        let mut expected = vec![0; BLOCK];
        expected.extend_from_slice(b"x\n");
        assert_eq!(sum(Kind::Dos2Unix, &mixed), sum(Kind::Md5, &expected));
    }

    #[test]
    fn keys_are_where_dvc_looks() {
        let sum = Sum::parse("c9e54dcdc25c1fb64ed81c81d26609fd").unwrap();
        assert_eq!(Kind::Md5.key(&sum, true), "files/md5/c9/e54dcdc25c1fb64ed81c81d26609fd.dir");
        assert_eq!(Kind::Dos2Unix.key(&sum, false), "c9/e54dcdc25c1fb64ed81c81d26609fd");
        assert_eq!(Sum::parse("C9e54dcdc25c1fb64ed81c81d26609fd"), None);
        assert_eq!(Sum::parse("c9"), None);
    }
}
