//! The small interface below everything: keys, bodies, conditions, pages.

use crate::{Error, Result};
use async_trait::async_trait;
use bytes::Bytes;
use domain::Digest;
use std::{
    io::SeekFrom,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// What the store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Size in bytes.
    pub size: u64,
    /// The entity tag, opaque, for [`Condition::Match`].
    pub etag: String,
    /// When it was last written, by the server's clock, in whole seconds on most servers. Known after a HEAD, a GET and a
    /// LIST, where the server says it; never after a write.
    pub modified: Option<SystemTime>,
}

/// An object's body as it arrives.
pub type ByteStream = futures::stream::BoxStream<'static, Result<Bytes>>;

/// A body to upload; it can be read again for a retry.
#[derive(Debug, Clone)]
pub enum Body {
    /// Bytes in memory (small objects).
    Bytes(Bytes),
    /// `length` bytes of a file from `offset`; large ones go up as multipart uploads.
    File {
        /// The file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// A whole file whose digest is known. Nothing is committed when the bytes read are others ([`Error::Changed`]).
    Sealed {
        /// The file.
        path: PathBuf,
        /// Its size.
        length: u64,
        /// Its digest.
        digest: Digest,
        /// Counts the bytes sent so far, for progress.
        sent: Arc<AtomicU64>,
    },
}

impl Body {
    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } | Self::Sealed { length, .. } => *length,
        }
    }

    /// All of it in memory; for small bodies and for tests. A sealed body is checked.
    pub async fn read(&self) -> Result<Bytes> {
        let (path, offset, length) = match self {
            Self::Bytes(bytes) => return Ok(bytes.clone()),
            Self::File { path, offset, length } => (path, *offset, *length),
            Self::Sealed { path, length, .. } => (path, 0, *length),
        };
        let mut file = tokio::fs::File::open(path).await.map_err(Error::file("read", path))?;
        if offset > 0 {
            file.seek(SeekFrom::Start(offset)).await.map_err(Error::file("read", path))?;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        file.take(length).read_to_end(&mut bytes).await.map_err(Error::file("read", path))?;
        if bytes.len() as u64 != length {
            let source = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it became shorter");
            return Err(Error::File { action: "read", path: path.clone(), source });
        }
        let bytes = Bytes::from(bytes);
        if let Self::Sealed { sent, .. } = self {
            self.seal_holds(&Digest::of(&bytes))?;
            sent.store(length, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    /// Fails when this is a sealed body and `found` is not its digest.
    pub(crate) fn seal_holds(&self, found: &Digest) -> Result<()> {
        match self {
            Self::Sealed { path, digest, .. } if digest != found => {
                Err(Error::Changed { path: path.clone(), expected: *digest, found: *found })
            }
            _ => Ok(()),
        }
    }
}

/// What must hold for a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// `If-None-Match: *`.
    Absent,
    /// `If-Match: <etag>`.
    Match(String),
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Keys in the order of the server, with size, etag and time. Most order by bytes; SeaweedFS walks directories.
    pub entries: Vec<(String, Meta)>,
    /// Whether there is more after the last key.
    pub more: bool,
}

/// The small interface that every store implements and every decorator wraps.
/// Keys are relative to the store's prefix.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Where this is, for people: `s3://bucket/prefix at http://…`, `memory`.
    fn describe(&self) -> String;
    /// Size, etag and time, or `None`.
    async fn head(&self, key: &str) -> Result<Option<Meta>>;
    /// The object (or a range of its bytes), or `None`.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Option<(Meta, ByteStream)>>;
    /// One version of an object, where versions are kept; `None` when there is no such version.
    async fn get_version(&self, key: &str, version: &str) -> Result<Option<(Meta, ByteStream)>> {
        let _ = version;
        Err(Error::unavailable(self.describe(), format!("keeps no versions, so none of {key}")))
    }
    /// Writes. [`Error::Precondition`] when the condition does not hold (412), [`Error::Conflict`] on 409.
    async fn put(&self, key: &str, body: Body, condition: Condition) -> Result<Meta>;
    /// One page of keys that begin with `prefix`, after the key `after` in the order of the server.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page>;
    /// Removes; absent is fine.
    async fn delete(&self, key: &str) -> Result<()>;
    /// Waits, for a few seconds at most, until what was begun in the background has ended: aborts of uploads that were
    /// cancelled. Call it before the process ends.
    async fn settle(&self) {}
}
