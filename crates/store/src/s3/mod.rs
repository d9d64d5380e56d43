//! Any S3 endpoint through aws-sdk-s3, and our own server in this process through the same client.
//!
//! Small bodies carry `x-amz-checksum-sha256`, so a server that knows it refuses what was damaged on the way. References are
//! compared with the SHA-256 that the server kept of them, where it kept one; content is hashed by [`crate::Store`]. An answer
//! without an entity tag is a failure, whatever its status: some servers answer 200 with an `<Error>` inside.
//!
//! A request is sent once. It must move, be answered and end in time (see `transfer`), and its failure says whether it may be
//! sent again, which is [`crate::decorate::Retry`]'s to do. Only the requests of an upload in parts are repeated here, by the
//! same policy, since a part is all that has to be sent again. No upload is left behind: one that fails is aborted, one that
//! is cancelled is aborted in the background ([`Objects::settle`] waits for it). What remains is the upload of a process that
//! was killed: [`crate::Store::unfinished_uploads`] finds it.

mod connect;
mod failure;
mod foreign;
mod multipart;
mod permissions;
mod sealed;
mod transfer;

use crate::{
    Body, ByteStream, Condition, Digest, Error, Meta, Objects, Page, Result, Settings,
    content::{Family, SINGLE},
    decorate::{Pace, Policy},
};
use async_trait::async_trait;
use aws_sdk_s3::{Client, primitives::DateTime, types::ChecksumAlgorithm};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
pub(crate) use connect::{Entry, Remote};
use failure::Call;
pub use foreign::{Access, Foreign, open as open_foreign};
use futures::{StreamExt as _, stream};
pub use multipart::Unfinished;
pub use permissions::{Permission, least_policy};
use sha2::{Digest as _, Sha256};
use std::{
    ops::Range,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};
use tokio_util::task::TaskTracker;
use transfer::Moving;

/// How long `settle` waits.
const SETTLE: Duration = Duration::from_secs(10);

/// The aborts that are under way in this process. One for all stores, because whoever ends a process does not know which
/// stores were opened in it.
fn aborts() -> TaskTracker {
    static ABORTS: OnceLock<TaskTracker> = OnceLock::new();
    ABORTS.get_or_init(TaskTracker::new).clone()
}

/// Waits, for a while, until the uploads that were cancelled in this process are aborted. A program that was told to stop
/// calls this before it ends, or it leaves them open.
pub async fn settle() {
    let aborts = aborts();
    aborts.close();
    let _ = tokio::time::timeout(SETTLE, aborts.wait()).await;
    aborts.reopen();
}

/// A bucket and prefix.
#[derive(Clone)]
pub(crate) struct S3 {
    client: Client,
    bucket: String,
    /// Empty, or with a slash at its end.
    prefix: String,
    name: String,
    aborts: TaskTracker,
    /// Whether the server is in this process: what fails there does not heal by being asked again.
    local: bool,
    settings: Settings,
    policy: Arc<Policy>,
    up: Option<Arc<Pace>>,
    down: Option<Arc<Pace>>,
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
        Call { store: &self.name, bucket: &self.bucket, key, local: self.local }
    }

    /// A failure that may pass, after which the request may have been carried out.
    fn passing(&self, what: impl Into<String>) -> Error {
        if self.local { Error::unavailable(&self.name, what) } else { Error::passing(&self.name, what) }
    }

    /// An answer to a write has an entity tag, or it was none.
    fn written(&self, key: &str, etag: Option<String>, size: u64) -> Result<Meta> {
        match etag {
            Some(etag) => Ok(Meta { size, etag, modified: None }),
            None => Err(self.passing(format!("answered a write of {key} without an entity tag"))),
        }
    }

    async fn put_bytes(&self, key: &str, bytes: Bytes, condition: &Condition) -> Result<Meta> {
        let (size, sum) = (bytes.len() as u64, sha256(&bytes));
        let (body, moving) = self.upload(bytes);
        self.put_one(key, size, sum, body, &moving, condition).await
    }

    /// A file whose digest is known, without holding it in memory. What was wrong with it is what counts of a failure.
    async fn put_sealed(&self, key: &str, source: &Body, condition: &Condition) -> Result<Meta> {
        let Body::Sealed { path, length, digest, sent } = source else {
            return Err(Error::unavailable(&self.name, "was given no sealed file"));
        };
        let sum = STANDARD.encode(digest.as_bytes());
        let (body, moving, wrong) = self.upload_sealed(source, path.clone(), *length, sent.clone());
        let put = self.put_one(key, *length, sum, body, &moving, condition).await;
        match sealed::take(&wrong) {
            Some(error) => Err(error),
            None => put,
        }
    }

    async fn put_one(
        &self,
        key: &str,
        size: u64,
        sum: String,
        body: aws_sdk_s3::primitives::ByteStream,
        moving: &Moving,
        condition: &Condition,
    ) -> Result<Meta> {
        let mut request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(key))
            .content_length(i64::try_from(size).unwrap_or(i64::MAX))
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .checksum_sha256(sum);
        request = match condition {
            Condition::None => request,
            Condition::Absent => request.if_none_match("*"),
            Condition::Match(etag) => request.if_match(etag),
        };
        // The signed checksum header covers the body already.
        let request = request.body(body).customize().disable_payload_signing();
        let sent = async { request.send().await.map_err(|error| self.call(key).write(error, condition)) };
        let output = self.watched(key, moving, sent).await?;
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
        let output = match self.watched(key, &Moving::new(0), sent).await? {
            Ok(Some(output)) => output,
            Ok(None) => return Ok(None),
            Err(()) => return Ok(self.head(key).await?.map(|meta| (meta, stream::empty().boxed()))),
        };
        let total = output.content_range.as_deref().and_then(|range| range.rsplit_once('/')?.1.parse().ok());
        let length = output.content_length.and_then(|length| u64::try_from(length).ok());
        let (Some(length), Some(etag)) = (length, output.e_tag) else {
            return Err(self.passing(format!("does not say the size and entity tag of {key}")));
        };
        if let Some(range) = &range {
            let said = output.content_range.as_deref().and_then(|said| said.strip_prefix("bytes "));
            let from = said.and_then(|said| said.split_once('-')?.0.parse().ok()).unwrap_or(0);
            if from != range.start || length > range.end - range.start {
                let what = format!("does not keep to a range of {key}: bytes {} were asked for", range.start);
                return Err(Error::unavailable(&self.name, what));
            }
        }
        let meta = Meta { size: total.unwrap_or(length), etag, modified: time(output.last_modified) };
        let kept = output.checksum_sha256.filter(|_| compare).and_then(|sum| STANDARD.decode(sum).ok());
        let expected = kept.and_then(|sum| <[u8; 32]>::try_from(sum).ok()).map(Digest::from_bytes);
        Ok(Some((meta, self.receiving(key, output.body, length, expected))))
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
        let Some(output) = self.watched(key, &Moving::new(0), sent).await? else { return Ok(None) };
        let size = output.content_length.and_then(|size| u64::try_from(size).ok());
        match (size, output.e_tag) {
            (Some(size), Some(etag)) => Ok(Some(Meta { size, etag, modified: time(output.last_modified) })),
            _ => Err(self.passing(format!("does not say the size and entity tag of {key}"))),
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
        if matches!(&body, Body::Sealed { length, .. } if (1..=SINGLE).contains(length)) {
            return self.put_sealed(key, &body, &condition).await;
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
        let output = self.watched(prefix, &Moving::new(0), sent).await?;
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
        self.watched(key, &Moving::new(0), sent).await.map(|_| ())
    }

    async fn settle(&self) {
        settle().await;
    }
}
