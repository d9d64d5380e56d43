//! Uploads in parts: hashed while they are read, a few parts under way at a time, and never left behind.

use super::{Moving, S3, sha256, time};
use crate::{Body, Condition, Digest, Error, Family, Meta, Objects as _, Result, Store, refs::endless};
use aws_sdk_s3::{
    Client,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// The usual size of a part. Four of them are in memory at a time.
const PART: u64 = 8 * 1024 * 1024;
/// How many parts are under way at a time.
const PARALLEL: usize = 4;
/// Fewer than the 10,000 parts that S3 allows.
const PARTS: u64 = 9_000;
/// How long an abort may take.
const ABORT: Duration = Duration::from_secs(10);

/// The size of the parts of a body.
fn part_size(length: u64) -> u64 {
    const MEBIBYTE: u64 = 1024 * 1024;
    PART.max(length.div_ceil(PARTS).div_ceil(MEBIBYTE) * MEBIBYTE)
}

/// An upload in parts that was begun, and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The key that it would make.
    pub key: String,
    /// Its id.
    pub id: String,
    /// When it was begun, by the server's clock.
    pub begun: Option<SystemTime>,
}

/// What was at a key before an upload to it began.
enum Before {
    Nothing,
    /// An object with this entity tag and time.
    There(String, Option<SystemTime>),
    /// Nobody could say.
    Unknown,
}

impl Before {
    /// Whether what is there now was written since. Doubt is no.
    fn differs(&self, now: &Meta) -> bool {
        match self {
            Self::Nothing => true,
            Self::There(etag, modified) => (etag, modified) != (&now.etag, &now.modified),
            Self::Unknown => false,
        }
    }
}

/// An upload that was begun. Dropped before it was completed, it is aborted in the background.
struct Begun {
    client: Client,
    bucket: String,
    key: String,
    id: String,
    aborts: TaskTracker,
    open: bool,
}

impl Begun {
    fn abort(&mut self) -> impl Future<Output = ()> + Send + 'static {
        self.open = false;
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(&self.key).upload_id(&self.id);
        async move {
            // A second time, since a part that was under way may have kept it alive. When even this fails,
            // `unfinished_uploads` or the bucket's rule for them is what remains.
            let gone = async {
                let mut answered = 0;
                while answered < 2 {
                    match abort.clone().send().await {
                        Err(error) if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 404) => return,
                        Ok(_) => answered += 1,
                        Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
                    }
                }
            };
            let _ = tokio::time::timeout(ABORT, gone).await;
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.open && tokio::runtime::Handle::try_current().is_ok() {
            let abort = self.abort();
            self.aborts.spawn(abort);
        }
    }
}

/// Reads a file front to back, hashing.
struct Reader {
    file: File,
    path: PathBuf,
    at: u64,
    end: u64,
    hasher: Sha256,
}

impl Reader {
    /// The next part and its SHA-256 in base64.
    fn next(mut self, size: u64) -> Result<(Self, Bytes, String)> {
        let mut part = vec![0; usize::try_from(size.min(self.end - self.at)).unwrap_or(0)];
        self.file.read_exact_at(&mut part, self.at).map_err(Error::file("read", &self.path))?;
        self.at += part.len() as u64;
        self.hasher.update(&part);
        let sum = sha256(&part);
        Ok((self, Bytes::from(part), sum))
    }
}

async fn blocking<T: Send + 'static>(path: &Path, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let stopped = |error| Error::file("read", path)(std::io::Error::other(error));
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

impl S3 {
    /// Uploads a large file. Nothing becomes visible before the last part is there and the digest is right.
    pub(super) async fn put_parts(&self, key: &str, body: &Body, condition: &Condition) -> Result<Meta> {
        let before = self.seen(key).await;
        let mut begun = self.begin(key).await?;
        let result = match self.send_parts(key, body, &begun.id).await {
            Ok(parts) => self.complete(key, body.length(), &begun.id, parts, condition, &before).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(meta) => {
                begun.open = false;
                self.sweep(key).await;
                Ok(meta)
            }
            Err(error) => {
                begun.abort().await;
                // The upload itself is gone.
                if !matches!(error, Error::Missing { .. }) {
                    return Err(error);
                }
                let lost = || self.passing(format!("lost the upload of {key}: another process aborted it"));
                let there = self.overtaken(key, body.length()).await;
                there.filter(|meta| *condition == Condition::None && before.differs(meta)).ok_or_else(lost)
            }
        }
    }

    /// What is there before an upload begins.
    async fn seen(&self, key: &str) -> Before {
        match self.head(key).await {
            Ok(Some(meta)) => Before::There(meta.etag, meta.modified),
            // An object that cannot be asked for is another one when it can.
            Ok(None) | Err(Error::Damaged { .. }) => Before::Nothing,
            Err(_) => Before::Unknown,
        }
    }

    /// Aborts what is left of other uploads of content that is there now: those of a process that was killed, or whose network
    /// went away. Another process that is sending the same content finds it there (`overtaken`).
    async fn sweep(&self, key: &str) {
        if !Family::names(key) {
            return;
        }
        // Without the permission to list them, the bucket's rule for unfinished uploads is what remains.
        for upload in self.unfinished(key).await.unwrap_or_default() {
            if upload.key == key {
                let _ = self.abort(&upload).await;
            }
        }
    }

    /// The content that another process has stored meanwhile.
    async fn overtaken(&self, key: &str, length: u64) -> Option<Meta> {
        let there = if Family::names(key) { self.head(key).await.ok().flatten() } else { None };
        there.filter(|meta| meta.size == length)
    }

    /// Begins an upload. Whoever asked may be gone when the answer comes; then it is aborted at once.
    async fn begin(&self, key: &str) -> Result<Begun> {
        let (tell, told) = oneshot::channel();
        let (s3, name) = (self.clone(), key.to_owned());
        self.aborts.spawn(async move {
            if let Err(Ok(mut begun)) = tell.send(s3.begin_now(&name).await) {
                begun.abort().await;
            }
        });
        let stopped = |_| Error::unavailable(&self.name, format!("was not asked to begin an upload of {key}"));
        told.await.map_err(stopped)?
    }

    async fn begin_now(&self, key: &str) -> Result<Begun> {
        let create = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.key(key))
            .checksum_algorithm(ChecksumAlgorithm::Sha256);
        let created = || async {
            let sent = async { create.clone().send().await.map_err(|error| self.call(key).failure(error)) };
            let output = self.watched(key, &Moving::new(0), sent).await?;
            output.upload_id.ok_or_else(|| self.passing(format!("began an upload of {key} without an id")))
        };
        let id = self.repeated(key, 0, created).await?;
        Ok(Begun {
            client: self.client.clone(),
            bucket: self.bucket.clone(),
            key: self.key(key),
            id,
            aborts: self.aborts.clone(),
            open: true,
        })
    }

    async fn send_parts(&self, key: &str, body: &Body, id: &str) -> Result<Vec<CompletedPart>> {
        let (path, offset, length, sent) = match body {
            Body::File { path, offset, length } => (path.clone(), *offset, *length, None),
            Body::Sealed { path, length, sent, .. } => (path.clone(), 0, *length, Some(sent.clone())),
            Body::Bytes(_) => return Err(Error::unavailable(&self.name, "was given bytes to upload in parts")),
        };
        let opened = path.clone();
        let file = blocking(&path, move || File::open(&opened).map_err(Error::file("read", &opened))).await?;
        let mut reader = Reader { file, path: path.clone(), at: offset, end: offset + length, hasher: Sha256::new() };
        let size = part_size(length);
        let mut under_way = FuturesUnordered::new();
        let mut done = Vec::new();
        for number in 1.. {
            if reader.at == reader.end {
                break;
            }
            if under_way.len() == PARALLEL
                && let Some(part) = under_way.next().await
            {
                done.push(part?);
            }
            let (back, bytes, sum) = blocking(&path, move || reader.next(size)).await?;
            reader = back;
            let sent = sent.clone();
            under_way.push(async move {
                let length = bytes.len() as u64;
                let part = self.send_part(key, id, number, bytes, sum).await?;
                if let Some(sent) = &sent {
                    sent.fetch_add(length, Ordering::Relaxed);
                }
                Ok::<_, Error>(part)
            });
        }
        while let Some(part) = under_way.next().await {
            done.push(part?);
        }
        body.seal_holds(&Digest::from_bytes(reader.hasher.finalize().into()))?;
        done.sort_by_key(|part| part.part_number);
        Ok(done)
    }

    /// Repeats one request of an upload, which its failure did not undo.
    async fn repeated<T, F>(&self, key: &str, size: u64, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut trial = self.policy.begin(size);
        loop {
            match trial.attempt(|| self.name.clone(), &format!("uploading {key}"), request()).await {
                Ok(value) => return Ok(value),
                Err(failure) => trial.again(failure).await?,
            }
        }
    }

    async fn send_part(&self, key: &str, id: &str, number: i32, bytes: Bytes, sum: String) -> Result<CompletedPart> {
        let size = bytes.len() as u64;
        self.repeated(key, size, || self.try_part(key, id, number, bytes.clone(), &sum)).await
    }

    async fn try_part(&self, key: &str, id: &str, number: i32, bytes: Bytes, sum: &str) -> Result<CompletedPart> {
        let size = bytes.len() as u64;
        let (body, moving) = self.upload(bytes);
        let request = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(self.key(key))
            .upload_id(id)
            .part_number(number)
            .content_length(i64::try_from(size).unwrap_or(i64::MAX))
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .checksum_sha256(sum)
            .body(body)
            .customize()
            .disable_payload_signing();
        let sent = async { request.send().await.map_err(|error| self.call(key).failure(error)) };
        let output = self.watched(key, &moving, sent).await?;
        let etag = self.written(key, output.e_tag, size)?.etag;
        // A server that does not know the checksum must not be asked for it again.
        let sum = output.checksum_sha256.map(|_| sum.to_owned());
        Ok(CompletedPart::builder().part_number(number).e_tag(etag).set_checksum_sha256(sum).build())
    }

    async fn complete(
        &self,
        key: &str,
        length: u64,
        id: &str,
        parts: Vec<CompletedPart>,
        condition: &Condition,
        before: &Before,
    ) -> Result<Meta> {
        let mut request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(self.key(key))
            .upload_id(id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        request = match condition {
            Condition::None => request,
            Condition::Absent => request.if_none_match("*"),
            Condition::Match(etag) => request.if_match(etag),
        };
        let assembled = || async {
            let sent = async { request.clone().send().await.map_err(|error| self.call(key).write(error, condition)) };
            // Its own size is small; what it assembles is not, and it is answered only then.
            let completed = tokio::time::timeout(self.attempt(length), sent).await;
            let failure = match completed {
                Ok(Ok(_)) => None,
                Ok(Err(failure)) => Some(failure),
                Err(_) => Some(self.passing(format!("did not finish assembling {key} in time"))),
            };
            match failure {
                // Its answer may have been lost, and the upload be gone because it was completed: what is there now counts, if it
                // was not there before, and if another's object there would be as good as ours.
                None | Some(Error::Unavailable { .. } | Error::Missing { .. }) => match (self.head(key).await, failure)
                {
                    (Ok(Some(meta)), None) if meta.size == length => Ok(meta),
                    (Ok(Some(meta)), Some(_))
                        if meta.size == length && *condition == Condition::None && before.differs(&meta) =>
                    {
                        Ok(meta)
                    }
                    (_, Some(failure)) => Err(failure),
                    (Ok(_), None) => Err(self.passing(format!("does not show {key} after its upload"))),
                    (Err(error), None) => Err(error),
                },
                Some(failure) => Err(failure),
            }
        };
        self.repeated(key, length, assembled).await
    }

    /// Uploads whose keys begin with `prefix`. Some servers (MinIO) only find those of exactly this key.
    pub(crate) async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        let mut all = Vec::new();
        let mut markers = BTreeSet::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let request = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(self.key(prefix))
                .set_key_marker(key_marker.clone())
                .set_upload_id_marker(id_marker.clone());
            let page = || async {
                let sent = async { request.clone().send().await.map_err(|error| self.call(prefix).failure(error)) };
                self.watched(prefix, &Moving::new(0), sent).await
            };
            let page = self.repeated(prefix, 0, page).await?;
            for upload in page.uploads.unwrap_or_default() {
                let key = upload.key.as_deref().and_then(|key| key.strip_prefix(&self.prefix));
                if let (Some(key), Some(id)) = (key, upload.upload_id) {
                    all.push(Unfinished { key: key.to_owned(), id, begun: time(upload.initiated) });
                }
            }
            if page.is_truncated != Some(true) || page.next_key_marker.is_none() {
                return Ok(all);
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
            if !markers.insert((key_marker.clone(), id_marker.clone())) {
                return Err(Error::unavailable(&self.name, endless(&format!("uploads of {prefix}"))));
            }
        }
    }

    /// Aborts an upload; one that is gone is fine.
    pub(crate) async fn abort(&self, upload: &Unfinished) -> Result<()> {
        let request =
            self.client.abort_multipart_upload().bucket(&self.bucket).key(self.key(&upload.key)).upload_id(&upload.id);
        let aborted = || async {
            let sent = async { self.call(&upload.key).found(request.clone().send().await) };
            self.watched(&upload.key, &Moving::new(0), sent).await
        };
        self.repeated(&upload.key, 0, aborted).await.map(|_| ())
    }
}

impl Store {
    /// Uploads in parts that were begun below a prefix and neither completed nor aborted, for example by a process that was
    /// killed. A store without such a thing has none. Some servers (MinIO) only find those of exactly this key.
    pub async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        match &self.s3 {
            Some(s3) => s3.unfinished(prefix).await,
            None => Ok(Vec::new()),
        }
    }

    /// Aborts an upload that was found by [`Store::unfinished_uploads`]. It must be nobody's who is still at work.
    pub async fn abort_upload(&self, upload: &Unfinished) -> Result<()> {
        match &self.s3 {
            Some(s3) => s3.abort(upload).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_has_more_parts_than_s3_allows() {
        assert_eq!(part_size(20 << 20), PART);
        let largest: u64 = 5 << 40;
        assert!(largest.div_ceil(part_size(largest)) <= 10_000);
    }
}
