//! Content: objects named by their SHA-256, hashed on every way in and out.
//!
//! On the way in, small bodies carry their SHA-256 for the server to check, and large files are hashed while they are sent
//! and not completed when the digest is another one. A server that ignores checksums can still damage what it stores; that is
//! found on the way out, where every byte is hashed. A [`Store`] remembers the keys that it found damaged: their size says nothing,
//! so storing the same content again through that value sends it again, which heals them.

use crate::{Body, ByteStream, Condition, Error, Objects, Result, s3::S3};
use bytes::{Bytes, BytesMut};
use domain::{Digest, event::Task};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::io::AsyncWriteExt as _;

/// Files up to this size are read whole, hashed and sent in one request.
pub(crate) const SINGLE: u64 = 16 * 1024 * 1024;

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

impl Family {
    /// The prefix of its keys, with the slash at its end.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Blob => "blobs/sha256/",
            Self::Pack => "packs/",
            Self::Snapshot => "snapshots/",
        }
    }

    /// Whether a key names content, whose reader hashes it.
    pub(crate) fn names(key: &str) -> bool {
        [Self::Blob, Self::Pack, Self::Snapshot].iter().any(|family| key.starts_with(family.prefix()))
    }
}

/// A verified, content-addressed store over any [`Objects`].
#[derive(Clone)]
pub struct Store {
    pub(crate) objects: Arc<dyn Objects>,
    /// Keys whose bytes were read and were not theirs, also the second time.
    damaged: Arc<Mutex<BTreeSet<String>>>,
    /// What is below everything, for what only S3 has: permissions, and uploads that were begun.
    pub(crate) s3: Option<Arc<S3>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.describe())
    }
}

impl Store {
    /// Over any implementation, decorated or in memory.
    pub fn over(objects: Arc<dyn Objects>) -> Self {
        Self { objects, damaged: Arc::default(), s3: None }
    }

    /// The interface below.
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.objects
    }

    /// Where this is, for people.
    pub fn describe(&self) -> String {
        self.objects.describe()
    }

    /// Waits for what was begun in the background and must not be left behind; see [`Objects::settle`].
    pub async fn settle(&self) {
        self.objects.settle().await;
    }

    /// The key of content: `blobs/sha256/ab/abcd…`.
    pub fn key(family: Family, digest: &Digest) -> String {
        let hex = digest.hex();
        format!("{}{}/{hex}", family.prefix(), &hex[..2])
    }

    /// Whether the object is there (by HEAD), and how large.
    pub async fn has(&self, family: Family, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.objects.head(&Self::key(family, digest)).await?.map(|meta| meta.size))
    }

    fn damages(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that an object is damaged, so that it counts as absent until it was stored again. Reads of content do this
    /// by themselves; it is for callers who know more of an object than its digest.
    pub fn found_damaged(&self, key: &str) {
        self.damages().insert(key.to_owned());
    }

    /// Whether this value, or a clone of it, found the object damaged and has not stored it again since.
    pub fn is_damaged(&self, key: &str) -> bool {
        self.damages().contains(key)
    }

    /// Forgets that an object was damaged: it was stored again.
    pub fn mended(&self, key: &str) {
        self.damages().remove(key);
    }

    /// Remembers how the last attempt to read content ended.
    fn learned<T>(&self, key: &str, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.mended(key),
            Err(Error::Corrupt { .. } | Error::Damaged { .. }) => self.found_damaged(key),
            Err(_) => {}
        }
        result
    }

    /// As [`Store::has`], but what is damaged counts as absent, so that storing it again heals it.
    async fn kept(&self, family: Family, digest: &Digest) -> Result<Option<u64>> {
        if self.is_damaged(&Self::key(family, digest)) {
            return Ok(None);
        }
        match self.has(family, digest).await {
            Err(Error::Damaged { .. }) => Ok(None),
            result => result,
        }
    }

    /// Stores bytes under their digest; no request body is sent when it is there already with that size.
    pub async fn put_bytes(&self, family: Family, bytes: Bytes) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        if self.kept(family, &digest).await? != Some(bytes.len() as u64) {
            self.send(&Self::key(family, &digest), Body::Bytes(bytes)).await?;
        }
        Ok(digest)
    }

    /// Stores a file whose digest is known; hashes while sending and refuses a file that changed. True when it was sent.
    pub async fn put_file(&self, family: Family, digest: &Digest, path: &Path, task: Option<&Task>) -> Result<bool> {
        let length = tokio::fs::metadata(path).await.map_err(Error::file("read", path))?.len();
        if self.kept(family, digest).await? == Some(length) {
            if let Some(task) = task {
                task.advance(length);
            }
            return Ok(false);
        }
        let sent = Arc::new(AtomicU64::new(0));
        let body = Body::Sealed { path: path.to_owned(), length, digest: *digest, sent: sent.clone() };
        let key = Self::key(family, digest);
        let mut sending = std::pin::pin!(self.send(&key, body));
        let mut shown = 0;
        let mut show = |to: u64| {
            if let Some(task) = task
                && to > shown
            {
                task.advance(to - shown);
                shown = to;
            }
        };
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                result = &mut sending => {
                    result?;
                    show(length);
                    return Ok(true);
                }
                _ = tick.tick() => show(sent.load(Ordering::Relaxed).min(length)),
            }
        }
    }

    /// Sends a body and compares what the store then says of its size.
    async fn send(&self, key: &str, body: Body) -> Result<()> {
        let length = body.length();
        let meta = match self.objects.put(key, body, Condition::None).await {
            Ok(meta) => meta,
            // Another writer of the same content, or our own answer lost: what counts is what is there now. Where a write
            // was refused, or the object was damaged before, its size says nothing.
            Err(error) if error.may_be_done() && !self.is_damaged(key) => match self.objects.head(key).await {
                Ok(Some(meta)) if meta.size == length => meta,
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        };
        if meta.size != length {
            let what = format!("kept {} of the {length} bytes of {key}", meta.size);
            return Err(Error::unavailable(self.describe(), what));
        }
        self.mended(key);
        Ok(())
    }

    /// Reads a small object whole (at most `limit` bytes), verified; a mismatch is refetched once.
    pub async fn get_bytes(&self, family: Family, digest: &Digest, limit: u64) -> Result<Bytes> {
        let key = Self::key(family, digest);
        let mut first = None;
        for _ in 0..2 {
            let (size, body) = self.open_content(&key).await?;
            if size > limit {
                return Err(Error::TooLarge { key, size, limit });
            }
            match collect(body, size).await.and_then(|bytes| check(&key, digest, &Digest::of(&bytes)).map(|()| bytes)) {
                Ok(bytes) => return self.learned(&key, Ok(bytes)),
                Err(error) => first = Some(first.unwrap_or(error)),
            }
        }
        self.learned(&key, Err(first.unwrap_or(Error::Missing { key: key.clone() })))
    }

    /// Reads to a file: temporary name, verified, fsynced, renamed. A mismatch is refetched once.
    pub async fn get_file(&self, family: Family, digest: &Digest, to: &Path, task: Option<&Task>) -> Result<u64> {
        let key = Self::key(family, digest);
        let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        tokio::fs::create_dir_all(directory).await.map_err(Error::file("create", directory))?;
        let mut first = None;
        let mut counted = 0;
        for _ in 0..2 {
            let temporary = tempfile::Builder::new()
                .prefix(".sealift-")
                .tempfile_in(directory)
                .map_err(Error::file("write", directory))?;
            let file = temporary.reopen().map_err(Error::file("write", temporary.path()))?;
            let mut file = tokio::io::BufWriter::with_capacity(256 * 1024, tokio::fs::File::from_std(file));
            match self.copy(&key, digest, Some((&mut file, to)), task, &mut counted).await {
                Ok(size) => {
                    file.flush().await.map_err(Error::file("write", to))?;
                    file.get_ref().sync_all().await.map_err(Error::file("fsync", to))?;
                    drop(file);
                    place(temporary, to, directory).await?;
                    return self.learned(&key, Ok(size));
                }
                Err(error @ (Error::Corrupt { .. } | Error::Unavailable { .. } | Error::Damaged { .. })) => {
                    first = Some(first.unwrap_or(error));
                }
                Err(error) => return Err(error),
            }
        }
        self.learned(&key, Err(first.unwrap_or(Error::Missing { key: key.clone() })))
    }

    /// Reads the object to nowhere and checks its digest; its size.
    pub async fn verify(&self, family: Family, digest: &Digest) -> Result<u64> {
        let key = Self::key(family, digest);
        let result = match self.copy(&key, digest, None, None, &mut 0).await {
            Err(Error::Corrupt { .. } | Error::Unavailable { .. }) => self.copy(&key, digest, None, None, &mut 0).await,
            result => result,
        };
        self.learned(&key, result)
    }

    /// A range of a content-addressed object, not verified by this call: the caller knows the digest of the part.
    pub async fn get_range(&self, family: Family, digest: &Digest, range: Range<u64>) -> Result<Bytes> {
        let key = Self::key(family, digest);
        let length = range.end.saturating_sub(range.start);
        if length == 0 {
            return Ok(Bytes::new());
        }
        let mut first = None;
        for _ in 0..2 {
            let found = self.objects.get(&key, Some(range.clone())).await?;
            let Some((_, body)) = found else { return Err(Error::Missing { key }) };
            match collect(body, length).await {
                Ok(bytes) if bytes.len() as u64 == length => return Ok(bytes),
                Ok(bytes) => {
                    let what = format!("sent {} of {length} bytes of a range of {key}", bytes.len());
                    first = Some(first.unwrap_or_else(|| Error::unavailable(self.describe(), what)));
                }
                Err(error) => first = Some(first.unwrap_or(error)),
            }
        }
        Err(first.unwrap_or(Error::Missing { key }))
    }

    async fn open_content(&self, key: &str) -> Result<(u64, ByteStream)> {
        match self.objects.get(key, None).await? {
            Some((meta, body)) => Ok((meta.size, body)),
            None => Err(Error::Missing { key: key.to_owned() }),
        }
    }

    /// Streams an object into a file or to nowhere, hashing. `counted` is what the task was told in earlier attempts.
    async fn copy(
        &self,
        key: &str,
        digest: &Digest,
        mut to: Option<(&mut tokio::io::BufWriter<tokio::fs::File>, &Path)>,
        task: Option<&Task>,
        counted: &mut u64,
    ) -> Result<u64> {
        let (_, mut body) = self.open_content(key).await?;
        let mut hasher = Sha256::new();
        let mut size = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            hasher.update(&chunk);
            size += chunk.len() as u64;
            if let Some((file, path)) = &mut to {
                file.write_all(&chunk).await.map_err(Error::file("write", *path))?;
            }
            if let Some(task) = task
                && size > *counted
            {
                task.advance(size - *counted);
                *counted = size;
            }
        }
        check(key, digest, &Digest::from_bytes(hasher.finalize().into()))?;
        Ok(size)
    }
}

fn check(key: &str, expected: &Digest, found: &Digest) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Corrupt { key: key.to_owned(), expected: *expected, found: *found })
}

/// All of a body of an announced size. It never takes more memory than a little above what was announced.
pub(crate) async fn collect(mut body: ByteStream, announced: u64) -> Result<Bytes> {
    let mut all = BytesMut::with_capacity(usize::try_from(announced.min(SINGLE)).unwrap_or(0));
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        all.extend_from_slice(&chunk);
        if all.len() as u64 > announced {
            break;
        }
    }
    Ok(all.freeze())
}

/// Renames a finished temporary file to its name, durably.
async fn place(temporary: tempfile::NamedTempFile, to: &Path, directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let (to, directory) = (to.to_owned(), directory.to_owned());
    let placing = tokio::task::spawn_blocking(move || {
        // A temporary file is private to its owner; a restored one is an ordinary file.
        let ordinary = std::fs::Permissions::from_mode(0o644);
        temporary.as_file().set_permissions(ordinary).map_err(Error::file("write", &to))?;
        temporary.persist(&to).map_err(|failed| Error::file("rename", &to)(failed.error))?;
        let opened = std::fs::File::open(&directory).map_err(Error::file("fsync", &directory))?;
        opened.sync_all().map_err(Error::file("fsync", &directory))
    });
    placing.await.map_err(|panic| Error::unavailable("local disk", format!("stopped working: {panic}")))?
}
