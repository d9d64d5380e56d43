//! Content-addressed objects on S3-compatible storage. (Skeleton: signatures are the contract.)

use async_trait::async_trait;
use bytes::Bytes;
use domain::{Class, Digest, event::Task};
use std::{ops::Range, path::{Path, PathBuf}, sync::Arc, time::Duration};

/// What the store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Size in bytes.
    pub size: u64,
    /// The entity tag, opaque, for [`Condition::Match`].
    pub etag: String,
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
    /// Keys in byte order, with size and etag.
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
    /// Size and etag, or `None`.
    async fn head(&self, key: &str) -> Result<Option<Meta>>;
    /// The object (or a range of its bytes), or `None`.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Option<(Meta, ByteStream)>>;
    /// Writes. [`Error::Precondition`] when the condition does not hold (412), [`Error::Conflict`] on 409.
    async fn put(&self, key: &str, body: Body, condition: Condition) -> Result<Meta>;
    /// One page of keys that begin with `prefix`, after the key `after`.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page>;
    /// Removes; absent is fine.
    async fn delete(&self, key: &str) -> Result<()>;
}

/// What failed in the store. Facts only; `sealift` adds hints.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// 412.
    #[error("the condition on {key} does not hold")]
    Precondition {
        /// Which object.
        key: String,
    },
    /// 409.
    #[error("a concurrent write to {key} is in progress")]
    Conflict {
        /// Which object.
        key: String,
    },
    /// A thing that must be there is not.
    #[error("{key} is not in the store")]
    Missing {
        /// Which object.
        key: String,
    },
    /// Bytes do not have the digest that names them.
    #[error("{key} is corrupt: expected {expected}, found {found}")]
    Corrupt {
        /// Which object.
        key: String,
        /// The digest that it should have.
        expected: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// A create-only object exists with other content.
    #[error("{key} exists already with other content")]
    Exists {
        /// Which object.
        key: String,
        /// What is there.
        existing: Bytes,
    },
    /// The store cannot be reached or answers wrongly.
    #[error("the store {store} {what}")]
    Unavailable {
        /// Which store.
        store: String,
        /// What it did, in words: "does not answer", "refuses the credentials", …
        what: String,
        /// The cause below.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Someone else holds the lease.
    #[error("{environment} is held by {holder} (epoch {epoch}, {op})")]
    Held {
        /// The environment.
        environment: String,
        /// Who holds it: `user@host pid 123`.
        holder: String,
        /// The epoch of the holder.
        epoch: u64,
        /// What it is doing.
        op: String,
    },
    /// This writer is no longer the newest.
    #[error("epoch {ours} of {environment} was overtaken by epoch {newest}")]
    Fenced {
        /// The environment.
        environment: String,
        /// Our epoch.
        ours: u64,
        /// The epoch that is newer.
        newest: u64,
    },
    /// A local file could not be read or written.
    #[error("{action} {path}")]
    File {
        /// What was tried: "read", "write", "rename".
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// The class, for the exit code.
    pub fn class(&self) -> Class {
        todo!()
    }
}

/// The result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Which family of content-addressed objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `blobs/sha256/<2>/<64>`: whole artifacts.
    Blob,
    /// `packs/<2>/<64>`: packed chunks.
    Pack,
    /// `snapshots/<2>/<64>`: snapshot manifests.
    Snapshot,
}

/// A verified, content-addressed store over any [`Objects`].
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn Objects>,
}

/// Where a store is and how to talk to it: the resolved `[store]` section.
#[derive(Debug, Clone)]
pub enum Location {
    /// The embedded server over a directory, in this process, without a socket.
    Embedded {
        /// The directory.
        directory: PathBuf,
    },
    /// Any S3 endpoint.
    S3 {
        /// Bucket.
        bucket: String,
        /// Key prefix without slashes at its ends; may be empty.
        prefix: String,
        /// Endpoint URL; `None` is AWS itself.
        endpoint: Option<String>,
        /// Region.
        region: Option<String>,
        /// Access key and secret; `None` is the default chain of AWS.
        credentials: Option<(String, domain::secret::Secret)>,
    },
}

/// The result of a compare-and-swap.
#[derive(Debug, Clone)]
pub enum Swap {
    /// It is ours; the new etag.
    Swapped(String),
    /// Someone else was quicker; what is there now.
    Lost(Option<Versioned>),
}

/// A small object and the etag it was read with.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its etag.
    pub etag: String,
}

/// Whether a create-only write made the object or found it with the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// New.
    New,
    /// It was there, byte for byte the same.
    Same,
}

impl Store {
    /// Opens a location. Makes the directory of an embedded store; sends nothing to a remote one.
    pub async fn open(_location: &Location) -> Result<Self> { todo!() }
    /// Over any implementation, decorated or in memory.
    pub fn over(objects: Arc<dyn Objects>) -> Self { Self { objects } }
    /// The interface below.
    pub fn objects(&self) -> &Arc<dyn Objects> { &self.objects }
    /// Where this is, for people.
    pub fn describe(&self) -> String { self.objects.describe() }
    /// The key of content: `blobs/sha256/ab/abcd…`.
    pub fn key(_family: Family, _digest: &Digest) -> String { todo!() }

    /// Whether the object is there (by HEAD), and how large.
    pub async fn has(&self, _family: Family, _digest: &Digest) -> Result<Option<u64>> { todo!() }
    /// Stores bytes under their digest; no request body is sent when it is there already with that size.
    pub async fn put_bytes(&self, _family: Family, _bytes: Bytes) -> Result<Digest> { todo!() }
    /// Stores a file whose digest is known; hashes while sending and refuses a file that changed. True when it was sent.
    pub async fn put_file(&self, _family: Family, _digest: &Digest, _path: &Path, _task: Option<&Task>) -> Result<bool> { todo!() }
    /// Reads a small object whole (at most `limit` bytes), verified; a mismatch is refetched once.
    pub async fn get_bytes(&self, _family: Family, _digest: &Digest, _limit: u64) -> Result<Bytes> { todo!() }
    /// Reads to a file: temporary name, verified, fsynced, renamed. A mismatch is refetched once.
    pub async fn get_file(&self, _family: Family, _digest: &Digest, _to: &Path, _task: Option<&Task>) -> Result<u64> { todo!() }
    /// Reads the object to nowhere and checks its digest; its size.
    pub async fn verify(&self, _family: Family, _digest: &Digest) -> Result<u64> { todo!() }
    /// A range of a content-addressed object, not verified by this call: the caller knows the digest of the part.
    pub async fn get_range(&self, _family: Family, _digest: &Digest, _range: Range<u64>) -> Result<Bytes> { todo!() }

    /// Create-only with read-back. Other content there is [`Error::Exists`].
    pub async fn create(&self, _key: &str, _bytes: Bytes) -> Result<Created> { todo!() }
    /// Reads a small mutable or create-only object whole.
    pub async fn read(&self, _key: &str) -> Result<Option<Versioned>> { todo!() }
    /// Compare-and-swap: `expected` is the etag read before, `None` that it is absent. Bodies must be unique
    /// (carry an operation UUID), so that a lost answer can be told from a lost race by reading back.
    pub async fn swap(&self, _key: &str, _expected: Option<&str>, _bytes: Bytes) -> Result<Swap> { todo!() }
    /// All keys with this prefix, in byte order.
    pub async fn list(&self, _prefix: &str) -> Result<Vec<(String, Meta)>> { todo!() }

    /// Finds out whether conditional writes hold here (a race of a few writers on a fresh key). Remembered by the
    /// caller; an [`Error::Unavailable`] in words that say so when they do not.
    pub async fn probe_conditional_writes(&self) -> Result<()> { todo!() }

    /// Acquires the lease of an environment. Waits at most `patience` (which must exceed the TTL to take over a
    /// dead holder; a holder that is provably dead on this host is taken over at once).
    pub async fn lease(&self, _environment: &str, _op: &str, _ttl: Duration, _patience: Duration) -> Result<Lease> { todo!() }
    /// Who holds the lease now, for `status`.
    pub async fn lease_holder(&self, _environment: &str) -> Result<Option<LeaseState>> { todo!() }
}

/// The body of `locks/<env>.json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LeaseState {
    /// Rises with every acquisition, never falls.
    pub epoch: u64,
    /// Who holds it; `None` when it was released.
    pub holder: Option<Holder>,
    /// What the holder is doing, for people, and its operation UUID.
    pub op: String,
    /// Milliseconds without renewal after which it may be taken over.
    pub ttl_ms: u64,
    /// How often it was renewed; changes the etag.
    pub renewals: u64,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    /// `user@host pid 123`.
    pub name: String,
    /// Unique to this acquisition.
    pub uuid: String,
    /// Boot id and PID namespace: the same only on the same running host.
    pub host: String,
    /// Process id there.
    pub pid: u32,
    /// Start time of that process in clock ticks since boot, against reuse of the id.
    pub started: u64,
}

/// A held lease. It renews itself in the background; dropped without [`Lease::release`] it is left to expire.
pub struct Lease {
    /// The epoch of this acquisition.
    pub epoch: u64,
}

impl Lease {
    /// Fails with [`Error::Fenced`] or [`Error::Unavailable`] once TTL/2 has passed without a renewal (monotonic
    /// clock), or another epoch was seen. Call before every change of the world.
    pub fn check(&self) -> Result<()> { todo!() }
    /// Gives it back.
    pub async fn release(self) -> Result<()> { todo!() }
}

/// Runs the embedded server over TCP until `stop` resolves, then drains. Serves `sealift store serve`.
pub async fn serve(
    _directory: &Path,
    _listen: std::net::SocketAddr,
    _buckets: &[String],
    _credentials: Option<(String, domain::secret::Secret)>,
    _ready: impl FnOnce(std::net::SocketAddr) + Send,
    _stop: impl std::future::Future<Output = ()> + Send,
) -> Result<()> { todo!() }

/// In-memory stores and fault injection, for tests of this and other crates.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    //! `Memory` implements `Objects` with real conditional semantics; `Faulty` wraps any `Objects`, counts
    //! operations and fails the k-th (before acting, or after: the answer lost).
}
