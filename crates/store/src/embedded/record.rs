//! Records: one file an object; body, description, footer. See the module above for the layout.

use super::{damaged, failed};
use s3s::{S3Result, crypto::Checksum as _};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    io::ErrorKind,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

const MAGIC: &[u8; 8] = b"sealift1";
const FOOTER: usize = 24;
/// How much of the end is read at once; descriptions are rarely longer.
const TAIL: u64 = 1024;

/// What is known of an object besides its body.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// Without quotes: MD5, or the MD5 of the parts' MD5s and their number.
    pub(super) etag: String,
    /// Milliseconds since 1970.
    pub(super) modified_ms: u64,
    /// Standard headers that are given back: content type, encoding and so on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) headers: BTreeMap<String, String>,
    /// `x-amz-meta-…`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) user: BTreeMap<String, String>,
    /// Checksums by the name of their algorithm, in base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) checksums: BTreeMap<String, String>,
    /// The parts that a multipart upload was made of, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<Piece>,
    /// The multipart upload that it came by, for clients that complete it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upload: Option<String>,
}

/// A part of an object that was uploaded in parts. The names are short because there may be ten thousand.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Piece {
    /// Its number.
    #[serde(rename = "n")]
    pub(super) number: i32,
    /// Its size in bytes.
    #[serde(rename = "s")]
    pub(super) size: u64,
    /// Its checksums.
    #[serde(rename = "c", skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) checksums: BTreeMap<String, String>,
}

impl Record {
    pub(super) fn modified(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.modified_ms)
    }

    /// Sets the time to now.
    pub(super) fn touch(&mut self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.modified_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    }

    /// What follows a body of this size.
    pub(super) fn tail(&self, size: u64) -> Vec<u8> {
        // A struct of text and numbers has no way to fail to become JSON.
        let mut tail = serde_json::to_vec(self).unwrap_or_default();
        let length = u32::try_from(tail.len()).unwrap_or(u32::MAX);
        let sum = crc32(&tail);
        tail.extend_from_slice(&length.to_le_bytes());
        tail.extend_from_slice(&sum);
        tail.extend_from_slice(&size.to_le_bytes());
        tail.extend_from_slice(MAGIC);
        tail
    }
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    let mut sum = s3s::crypto::Crc32::new();
    sum.update(bytes);
    sum.finalize()
}

/// An opened object: the file stays readable when the object is replaced or removed.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) record: Record,
    pub(super) size: u64,
}

/// Opens the record at `path`; `None` when there is none.
pub(super) fn open(path: &Path) -> S3Result<Option<Opened>> {
    let file = match File::open(path) {
        Ok(file) => file,
        // A key part may be longer than the names of this file system allow: then there is no such object.
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failed("open", path)(error)),
    };
    let length = file.metadata().map_err(failed("read", path))?.len();
    let mut tail = vec![0; usize::try_from(length.min(TAIL)).unwrap_or(0)];
    let from = length - tail.len() as u64;
    file.read_exact_at(&mut tail, from).map_err(failed("read", path))?;
    let Some((described, size)) = footer(&tail) else {
        return Err(damaged(path, "its end is not that of a record"));
    };
    let needed = described + FOOTER;
    if size.checked_add(needed as u64) != Some(length) {
        return Err(damaged(path, "its length is not the one it was written with"));
    }
    if needed > tail.len() {
        tail = vec![0; needed];
        file.read_exact_at(&mut tail, length - needed as u64).map_err(failed("read", path))?;
    }
    let (description, end) = tail[tail.len() - needed..].split_at(described);
    if crc32(description) != end[4..8] {
        return Err(damaged(path, "the checksum of its description is wrong"));
    }
    let record = serde_json::from_slice(description).map_err(|_| damaged(path, "its description cannot be read"))?;
    Ok(Some(Opened { file, record, size }))
}

/// Lengths of the description and of the body, from the last bytes of a record.
fn footer(tail: &[u8]) -> Option<(usize, u64)> {
    let end = tail.len().checked_sub(FOOTER).map(|start| &tail[start..])?;
    let (length, size) = (end[..4].try_into().ok()?, end[8..16].try_into().ok()?);
    (&end[16..] == MAGIC).then(|| (u32::from_le_bytes(length) as usize, u64::from_le_bytes(size)))
}
