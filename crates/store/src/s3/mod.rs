//! Any S3 endpoint through aws-sdk-s3, and our own server in this process through the same client.
//!
//! Small bodies carry `x-amz-checksum-sha256`, so a server that knows it refuses what was damaged on the way. References are
//! compared with the SHA-256 that the server kept of them, where it kept one; content is hashed by [`crate::Store`]. An answer
//! without an entity tag is a failure, whatever its status: some servers answer 200 with an `<Error>` inside.
//!
//! Every request has a total deadline that grows with its size, attempts are repeated with jitter out of a budget, and a body
//! that does not move for [`STALL`] is given up. No upload is left behind: one that fails is aborted, one that is cancelled
//! is aborted in the background ([`Objects::settle`] waits for it).

mod connect;
mod failure;
mod foreign;
mod multipart;

use crate::{
    Body, ByteStream, Condition, Digest, Error, Meta, Objects, Page, Result,
    content::{Family, SINGLE},
};
use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    primitives::{ByteStream as Sending, DateTime},
    types::ChecksumAlgorithm,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
pub(crate) use connect::Remote;
use failure::Call;
pub use foreign::{Access, Foreign, open as open_foreign};
use futures::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use std::{
    future::Future,
    ops::Range,
    time::{Duration, SystemTime},
};
use tokio_util::task::TaskTracker;

/// How long a body may stand still.
const STALL: Duration = Duration::from_secs(30);
/// What every request may take in all, besides what its size allows it.
const DEADLINE: Duration = Duration::from_secs(60);
/// The slowest rate at which a body may move over its whole length, in bytes a second.
const SLOWEST: u64 = 32 * 1024;
/// How long `settle` waits.
const SETTLE: Duration = Duration::from_secs(10);

/// A bucket and prefix.
pub(crate) struct S3 {
    /// For requests that are answered soon.
    client: Client,
    /// For requests that carry or assemble much, whose attempts have no time limit of their own.
    bulk: Client,
    bucket: String,
    /// Empty, or with a slash at its end.
    prefix: String,
    name: String,
    aborts: TaskTracker,
}

fn deadline(size: u64) -> Duration {
    DEADLINE + Duration::from_secs(size / SLOWEST)
}

fn sha256(bytes: &[u8]) -> String {
    STANDARD.encode(Sha256::digest(bytes))
}

/// A time of the server; one that no clock can hold counts as none.
fn time(said: Option<DateTime>) -> Option<SystemTime> {
    said.and_then(|said| SystemTime::try_from(said).ok())
}

impl S3 {
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn call<'a>(&'a self, key: &'a str) -> Call<'a> {
        Call { store: &self.name, bucket: &self.bucket, key }
    }

    /// Runs one request under its total deadline.
    async fn within<T>(&self, key: &str, size: u64, request: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let limit = deadline(size);
        match tokio::time::timeout(limit, request).await {
            Ok(result) => result,
            Err(_) => {
                let what = format!("did not finish a request for {key} within {} s", limit.as_secs());
                Err(Error::unavailable(&self.name, what))
            }
        }
    }

    /// An answer to a write has an entity tag, or it was none.
    fn written(&self, key: &str, etag: Option<String>, size: u64) -> Result<Meta> {
        match etag {
            Some(etag) => Ok(Meta { size, etag, modified: None }),
            None => Err(Error::unavailable(&self.name, format!("answered a write of {key} without an entity tag"))),
        }
    }

    async fn put_bytes(&self, key: &str, bytes: Bytes, condition: &Condition) -> Result<Meta> {
        let size = bytes.len() as u64;
        let client = if size > 1024 * 1024 { &self.bulk } else { &self.client };
        let mut request = client
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(key))
            .content_length(i64::try_from(size).unwrap_or(i64::MAX))
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .checksum_sha256(sha256(&bytes));
        request = match condition {
            Condition::None => request,
            Condition::Absent => request.if_none_match("*"),
            Condition::Match(etag) => request.if_match(etag),
        };
        // The signed checksum header covers the body already.
        let request = request.body(Sending::from(bytes)).customize().disable_payload_signing();
        let sent = async { request.send().await.map_err(|error| self.call(key).write(error, condition)) };
        let output = self.within(key, size, sent).await?;
        self.written(key, output.e_tag, size)
    }

    async fn get_at(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        version: Option<&str>,
    ) -> Result<Option<(Meta, ByteStream)>> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(self.head(key).await?.map(|meta| (meta, stream::empty().boxed())));
        }
        let compare = range.is_none() && !Family::names(key);
        let mut request = self.client.get_object().bucket(&self.bucket).key(self.key(key));
        request = request.set_version_id(version.map(str::to_owned));
        if let Some(range) = &range {
            request = request.range(format!("bytes={}-{}", range.start, range.end - 1));
        }
        let request = request.customize().mutate_request(move |request| {
            // Asked for by hand: the typed field would make the client check it and report it in its own way.
            if compare {
                request.headers_mut().insert("x-amz-checksum-mode", "ENABLED");
            }
        });
        let sent = async {
            match request.send().await {
                // The range begins behind the end of the object.
                Err(error) if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 416) => Ok(Err(())),
                result => Ok(Ok(self.call(key).found(result)?)),
            }
        };
        let output = match self.within(key, 0, sent).await? {
            Ok(Some(output)) => output,
            Ok(None) => return Ok(None),
            Err(()) => return Ok(self.head(key).await?.map(|meta| (meta, stream::empty().boxed()))),
        };
        let total = output.content_range.as_deref().and_then(|range| range.rsplit_once('/')?.1.parse().ok());
        let length = output.content_length.and_then(|length| u64::try_from(length).ok());
        let (Some(length), Some(etag)) = (length, output.e_tag) else {
            return Err(Error::unavailable(&self.name, format!("does not say the size and entity tag of {key}")));
        };
        let meta = Meta { size: total.unwrap_or(length), etag, modified: time(output.last_modified) };
        let kept = output.checksum_sha256.filter(|_| compare).and_then(|sum| STANDARD.decode(sum).ok());
        let expected = kept.and_then(|sum| <[u8; 32]>::try_from(sum).ok()).map(Digest::from_bytes);
        let receiving = Receiving {
            store: self.name.clone(),
            key: key.to_owned(),
            body: output.body,
            length,
            arrived: 0,
            until: tokio::time::Instant::now() + deadline(length),
            hasher: Sha256::new(),
            expected,
        };
        Ok(Some((meta, receiving.stream())))
    }
}

#[async_trait]
impl Objects for S3 {
    fn describe(&self) -> String {
        self.name.clone()
    }

    async fn head(&self, key: &str) -> Result<Option<Meta>> {
        let request = self.client.head_object().bucket(&self.bucket).key(self.key(key));
        let sent = async { self.call(key).found(request.send().await) };
        let Some(output) = self.within(key, 0, sent).await? else { return Ok(None) };
        let size = output.content_length.and_then(|size| u64::try_from(size).ok());
        match (size, output.e_tag) {
            (Some(size), Some(etag)) => Ok(Some(Meta { size, etag, modified: time(output.last_modified) })),
            _ => Err(Error::unavailable(&self.name, format!("does not say the size and entity tag of {key}"))),
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Option<(Meta, ByteStream)>> {
        self.get_at(key, range, None).await
    }

    async fn get_version(&self, key: &str, version: &str) -> Result<Option<(Meta, ByteStream)>> {
        self.get_at(key, None, Some(version)).await
    }

    async fn put(&self, key: &str, body: Body, condition: Condition) -> Result<Meta> {
        if let Body::Bytes(bytes) = body {
            return self.put_bytes(key, bytes, &condition).await;
        }
        if body.length() <= SINGLE {
            let bytes = body.read().await?;
            return self.put_bytes(key, bytes, &condition).await;
        }
        self.put_parts(key, &body, &condition).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        let mut request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.key(prefix));
        if let Some(after) = after {
            request = request.start_after(self.key(after));
        }
        let sent = async { request.send().await.map_err(|error| self.call(prefix).failure(error)) };
        let output = self.within(prefix, 0, sent).await?;
        let mut entries = Vec::new();
        for object in output.contents.unwrap_or_default() {
            let key = object.key.as_deref().and_then(|key| key.strip_prefix(&self.prefix));
            let size = object.size.and_then(|size| u64::try_from(size).ok());
            let (Some(key), Some(size)) = (key, size) else {
                return Err(Error::unavailable(&self.name, format!("lists {prefix} without keys and sizes")));
            };
            let etag = object.e_tag.unwrap_or_default();
            entries.push((key.to_owned(), Meta { size, etag, modified: time(object.last_modified) }));
        }
        Ok(Page { entries, more: output.is_truncated.unwrap_or(false) })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let request = self.client.delete_object().bucket(&self.bucket).key(self.key(key));
        let sent = async { self.call(key).found(request.send().await) };
        self.within(key, 0, sent).await.map(|_| ())
    }

    async fn settle(&self) {
        self.aborts.close();
        let _ = tokio::time::timeout(SETTLE, self.aborts.wait()).await;
        self.aborts.reopen();
    }
}

/// A body that is arriving.
struct Receiving {
    store: String,
    key: String,
    body: Sending,
    length: u64,
    arrived: u64,
    until: tokio::time::Instant,
    hasher: Sha256,
    /// What the server kept as its SHA-256, when it was asked for.
    expected: Option<Digest>,
}

impl Receiving {
    fn stream(self) -> ByteStream {
        stream::try_unfold(Some(self), |receiving| async move {
            let Some(mut receiving) = receiving else { return Ok(None) };
            match receiving.next().await? {
                Some(chunk) => Ok(Some((chunk, Some(receiving)))),
                None => Ok(None),
            }
        })
        .boxed()
    }

    fn failed(&self, what: String, source: Option<aws_sdk_s3::primitives::ByteStreamError>) -> Error {
        Error::Unavailable { store: self.store.clone(), what, source: source.map(|source| Box::new(source) as _) }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let stall = (tokio::time::Instant::now() + STALL).min(self.until);
        let Ok(next) = tokio::time::timeout_at(stall, self.body.next()).await else {
            let what = format!("stopped sending {} after {} of {} bytes", self.key, self.arrived, self.length);
            return Err(self.failed(what, None));
        };
        match next {
            Some(Ok(chunk)) => {
                self.arrived += chunk.len() as u64;
                if self.expected.is_some() {
                    self.hasher.update(&chunk);
                }
                Ok(Some(chunk))
            }
            Some(Err(error)) => {
                let what = format!("broke off {} after {} of {} bytes", self.key, self.arrived, self.length);
                Err(self.failed(what, Some(error)))
            }
            None if self.arrived != self.length => {
                let what = format!("sent {} of the {} bytes of {}", self.arrived, self.length, self.key);
                Err(self.failed(what, None))
            }
            None => match self.expected {
                Some(expected) => {
                    let found = Digest::from_bytes(std::mem::take(&mut self.hasher).finalize().into());
                    let corrupt = || Error::Corrupt { key: self.key.clone(), expected, found };
                    if found == expected { Ok(None) } else { Err(corrupt()) }
                }
                None => Ok(None),
            },
        }
    }
}
