//! In-memory stores and fault injection, for tests of this and other crates.
//!
//! [`Memory`] implements [`Objects`] with real conditional semantics. [`Faulty`] wraps any [`Objects`] and fails the k-th
//! operation; [`IgnoresConditions`] is a server that answers 200 to every conditional write.

use crate::{Body, ByteStream, Condition, Digest, Error, Meta, Objects, Page, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

mod conformance;
pub use crate::decorate::{Faults, Faulty, Mode};
pub use conformance::{Effort, conformance, conformance_line, conformance_with, summarise};

/// A store in memory. The entity tag depends on the content alone, as in S3.
#[derive(Debug)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Kept>>,
    page: usize,
    /// What its clock shows; `None` is the time of this machine.
    clock: Mutex<Option<SystemTime>>,
}

/// An object and when it was written.
#[derive(Debug, Clone)]
struct Kept {
    bytes: Bytes,
    modified: SystemTime,
}

impl Kept {
    fn meta(&self) -> Meta {
        Meta { modified: Some(self.modified), ..meta(&self.bytes) }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { objects: Mutex::default(), page: 1000, clock: Mutex::default() }
    }
}

impl Memory {
    /// An empty store.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// An empty store whose listings have at most `page` keys.
    pub fn with_page(page: usize) -> Arc<Self> {
        Arc::new(Self { page, ..Self::default() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All keys, in byte order.
    pub fn keys(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Everything, to compare end states.
    pub fn contents(&self) -> BTreeMap<String, Bytes> {
        self.lock().iter().map(|(key, kept)| (key.clone(), kept.bytes.clone())).collect()
    }

    /// Sets its clock, which stands still from then on. Objects written later have this time.
    pub fn set_clock(&self, now: SystemTime) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// What its clock shows.
    fn now(&self) -> SystemTime {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(SystemTime::now)
    }

    /// Changes an object behind everyone's back. False when it is not there.
    pub fn tamper(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut objects = self.lock();
        let Some(kept) = objects.get_mut(key) else { return false };
        let mut changed = kept.bytes.to_vec();
        change(&mut changed);
        kept.bytes = changed.into();
        true
    }

    /// Removes an object behind everyone's back.
    pub fn remove(&self, key: &str) -> bool {
        self.lock().remove(key).is_some()
    }
}

fn meta(bytes: &Bytes) -> Meta {
    Meta { size: bytes.len() as u64, etag: format!("\"{}\"", &Digest::of(bytes).hex()[..32]), modified: None }
}

#[async_trait]
impl Objects for Memory {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    async fn head(&self, key: &str) -> Result<Option<Meta>> {
        Ok(self.lock().get(key).map(Kept::meta))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Option<(Meta, ByteStream)>> {
        let Some(kept) = self.lock().get(key).cloned() else { return Ok(None) };
        let (meta, bytes) = (kept.meta(), kept.bytes);
        let part = match range {
            Some(range) => bytes.slice(clamp(range.start, &bytes)..clamp(range.end, &bytes)),
            None => bytes,
        };
        // Several chunks, so that readers do not come to rely on one.
        let chunks: Vec<_> = part.chunks(64 * 1024).map(|chunk| Ok(part.slice_ref(chunk))).collect();
        Ok(Some((meta, stream::iter(chunks).boxed())))
    }

    async fn put(&self, key: &str, body: Body, condition: Condition) -> Result<Meta> {
        let bytes = body.read().await?;
        let mut objects = self.lock();
        let holds = match (&condition, objects.get(key)) {
            (Condition::None, _) | (Condition::Absent, None) => true,
            (Condition::Match(etag), Some(existing)) => meta(&existing.bytes).etag == *etag,
            (Condition::Absent, Some(_)) | (Condition::Match(_), None) => false,
        };
        if !holds {
            return Err(Error::Precondition { key: key.to_owned() });
        }
        let meta = meta(&bytes);
        objects.insert(key.to_owned(), Kept { bytes, modified: self.now() });
        Ok(meta)
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        let objects = self.lock();
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut entries: Vec<_> = objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(self.page + 1)
            .map(|(key, kept)| (key.clone(), kept.meta()))
            .collect();
        let more = entries.len() > self.page;
        entries.truncate(self.page);
        Ok(Page { entries, more })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.lock().remove(key);
        Ok(())
    }
}

fn clamp(position: u64, bytes: &Bytes) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len())
}

/// A server that ignores preconditions and answers 200, as some do.
pub struct IgnoresConditions(pub Arc<dyn Objects>);

#[async_trait]
impl Objects for IgnoresConditions {
    fn describe(&self) -> String {
        self.0.describe()
    }
    async fn head(&self, key: &str) -> Result<Option<Meta>> {
        self.0.head(key).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Option<(Meta, ByteStream)>> {
        self.0.get(key, range).await
    }
    async fn put(&self, key: &str, body: Body, _: Condition) -> Result<Meta> {
        self.0.put(key, body, Condition::None).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        self.0.list(prefix, after).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key).await
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// When it does not hold within 20 seconds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
