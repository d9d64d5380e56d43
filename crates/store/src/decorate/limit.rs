//! A limit of bytes a second that many transfers share.

use crate::{Body, ByteStream, Condition, Meta, Objects, Page, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How much of a second may be used at once after a pause.
const BURST: Duration = Duration::from_millis(100);

/// Hands out bytes at a rate. Whoever asks is told when it may go on; requests are served in the order in which they came.
#[derive(Debug)]
pub struct Pace {
    /// Bytes a second.
    rate: u64,
    /// When everything that was handed out will have passed.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// So many bytes a second; at least one.
    pub fn new(rate: u64) -> Arc<Self> {
        Arc::new(Self { rate: rate.max(1), next: Mutex::new(None) })
    }

    /// A size of pieces that keeps the flow even.
    pub(crate) fn piece(&self) -> usize {
        usize::try_from(self.rate / 10).unwrap_or(usize::MAX).clamp(1, 64 * 1024)
    }

    /// Takes `bytes` and says from when on they may move.
    pub fn reserve(&self, bytes: usize) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let from = next.map_or(now, |next| next.max(now));
        *next = Some(from + Duration::from_secs_f64(bytes as f64 / self.rate as f64));
        if from <= now + BURST { now } else { from - BURST }
    }

    /// Takes `bytes` and waits until they may move.
    pub async fn take(&self, bytes: usize) {
        tokio::time::sleep_until(self.reserve(bytes)).await;
    }
}

/// Limits any store. A body on its way up is seen here only as a whole, so its time passes before it is handed on.
pub struct Limit {
    inner: Arc<dyn Objects>,
    up: Option<Arc<Pace>>,
    down: Option<Arc<Pace>>,
}

impl Limit {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Objects>, up: Option<Arc<Pace>>, down: Option<Arc<Pace>>) -> Arc<Self> {
        Arc::new(Self { inner, up, down })
    }
}

/// A body that arrives no faster than its pace.
pub(crate) fn paced(body: ByteStream, pace: Option<Arc<Pace>>) -> ByteStream {
    let Some(pace) = pace else { return body };
    let piece = pace.piece();
    body.flat_map(move |chunk| {
        let pieces: Vec<Result<Bytes>> = match chunk {
            Ok(chunk) => chunk.chunks(piece).map(|piece| Ok(chunk.slice_ref(piece))).collect(),
            Err(error) => vec![Err(error)],
        };
        futures::stream::iter(pieces)
    })
    .then(move |piece| {
        let pace = pace.clone();
        async move {
            if let Ok(piece) = &piece {
                pace.take(piece.len()).await;
            }
            piece
        }
    })
    .boxed()
}

#[async_trait]
impl Objects for Limit {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn head(&self, key: &str) -> Result<Option<Meta>> {
        self.inner.head(key).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Option<(Meta, ByteStream)>> {
        let found = self.inner.get(key, range).await?;
        Ok(found.map(|(meta, body)| (meta, paced(body, self.down.clone()))))
    }

    async fn get_version(&self, key: &str, version: &str) -> Result<Option<(Meta, ByteStream)>> {
        let found = self.inner.get_version(key, version).await?;
        Ok(found.map(|(meta, body)| (meta, paced(body, self.down.clone()))))
    }

    async fn put(&self, key: &str, body: Body, condition: Condition) -> Result<Meta> {
        if let Some(up) = &self.up {
            up.take(usize::try_from(body.length()).unwrap_or(usize::MAX)).await;
        }
        self.inner.put(key, body, condition).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn settle(&self) {
        self.inner.settle().await;
    }
}
