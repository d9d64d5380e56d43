//! What a store was asked, for whoever wants to see it.

use crate::{Body, ByteStream, Condition, Meta, Objects, Page, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Instant;

/// One operation that has ended. It names keys and sizes; it never holds content, credentials or headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `head`, `get`, `put`, `list` or `delete`.
    pub operation: &'static str,
    /// The key, or the prefix of a listing.
    pub key: String,
    /// Bytes of the body that were sent or that arrived.
    pub bytes: u64,
    /// From the request to the answer; for a `get` to the end of its body.
    pub took: Duration,
    /// `ok`, `absent`, `abandoned` (its reader stopped early), or the failure in words.
    pub outcome: String,
}

/// Who hears of operations. It is called on the way and must be quick.
pub type Sink = Arc<dyn Fn(&Entry) + Send + Sync>;

/// Tells a [`Sink`] of every operation.
pub struct Log {
    inner: Arc<dyn Objects>,
    sink: Sink,
}

impl Log {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Objects>, sink: Sink) -> Arc<Self> {
        Arc::new(Self { inner, sink })
    }

    async fn told<T>(
        &self,
        operation: &'static str,
        key: &str,
        bytes: u64,
        request: impl Future<Output = Result<T>> + Send,
        outcome: impl Fn(&T) -> &'static str + Send,
    ) -> Result<T> {
        let begun = Instant::now();
        let mut line = Line { sink: self.sink.clone(), operation, key: key.to_owned(), bytes, begun, outcome: None };
        let result = request.await;
        line.outcome = Some(match &result {
            Ok(value) => outcome(value).to_owned(),
            Err(error) => error.to_string(),
        });
        result
    }

    async fn body(
        &self,
        key: &str,
        request: impl Future<Output = Result<Option<(Meta, ByteStream)>>> + Send,
    ) -> Result<Option<(Meta, ByteStream)>> {
        let (sink, begun) = (self.sink.clone(), Instant::now());
        let mut line = Line { sink, operation: "get", key: key.to_owned(), bytes: 0, begun, outcome: None };
        match request.await {
            Ok(Some((meta, body))) => Ok(Some((meta, Box::pin(Arriving { body, line })))),
            Ok(None) => {
                line.outcome = Some("absent".to_owned());
                Ok(None)
            }
            Err(error) => {
                line.outcome = Some(error.to_string());
                Err(error)
            }
        }
    }
}

/// An entry that is told when it is dropped, also when the operation was abandoned.
struct Line {
    sink: Sink,
    operation: &'static str,
    key: String,
    bytes: u64,
    begun: Instant,
    outcome: Option<String>,
}

impl Drop for Line {
    fn drop(&mut self) {
        (self.sink)(&Entry {
            operation: self.operation,
            key: std::mem::take(&mut self.key),
            bytes: self.bytes,
            took: self.begun.elapsed(),
            outcome: self.outcome.take().unwrap_or_else(|| "abandoned".to_owned()),
        });
    }
}

struct Arriving {
    body: ByteStream,
    line: Line,
}

impl Stream for Arriving {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.body.as_mut().poll_next(context);
        match &polled {
            Poll::Ready(Some(Ok(chunk))) => self.line.bytes += chunk.len() as u64,
            Poll::Ready(Some(Err(error))) => self.line.outcome = Some(error.to_string()),
            Poll::Ready(None) if self.line.outcome.is_none() => self.line.outcome = Some("ok".to_owned()),
            _ => {}
        }
        polled
    }
}

#[async_trait]
impl Objects for Log {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn head(&self, key: &str) -> Result<Option<Meta>> {
        let found = |meta: &Option<Meta>| if meta.is_some() { "ok" } else { "absent" };
        self.told("head", key, 0, self.inner.head(key), found).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Option<(Meta, ByteStream)>> {
        self.body(key, self.inner.get(key, range)).await
    }

    async fn get_version(&self, key: &str, version: &str) -> Result<Option<(Meta, ByteStream)>> {
        self.body(key, self.inner.get_version(key, version)).await
    }

    async fn put(&self, key: &str, body: Body, condition: Condition) -> Result<Meta> {
        let bytes = body.length();
        self.told("put", key, bytes, self.inner.put(key, body, condition), |_| "ok").await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        self.told("list", prefix, 0, self.inner.list(prefix, after), |_| "ok").await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.told("delete", key, 0, self.inner.delete(key), |()| "ok").await
    }

    async fn settle(&self) {
        self.inner.settle().await;
    }
}
