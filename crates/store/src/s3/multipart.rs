//! Uploads in parts: hashed while they are read, a few parts under way at a time, and never left behind.

use super::{S3, deadline, sha256};
use crate::{Body, Condition, Digest, Error, Meta, Objects as _, Result};
use aws_sdk_s3::{
    Client,
    primitives::ByteStream as Sending,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};
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
            // When even this fails, the bucket's rule for unfinished uploads is what remains.
            let _ = tokio::time::timeout(ABORT, abort.send()).await;
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
        let create = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.key(key))
            .checksum_algorithm(ChecksumAlgorithm::Sha256);
        let created = async { create.send().await.map_err(|error| self.call(key).failure(error)) };
        let Some(id) = self.within(key, 0, created).await?.upload_id else {
            return Err(Error::unavailable(&self.name, format!("began an upload of {key} without an id")));
        };
        let mut begun = Begun {
            client: self.client.clone(),
            bucket: self.bucket.clone(),
            key: self.key(key),
            id,
            aborts: self.aborts.clone(),
            open: true,
        };
        let result = match self.send_parts(key, body, &begun.id).await {
            Ok(parts) => self.complete(key, body.length(), &begun.id, parts, condition).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(meta) => {
                begun.open = false;
                Ok(meta)
            }
            Err(error) => {
                begun.abort().await;
                Err(error)
            }
        }
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

    async fn send_part(&self, key: &str, id: &str, number: i32, bytes: Bytes, sum: String) -> Result<CompletedPart> {
        let size = bytes.len() as u64;
        let request = self
            .bulk
            .upload_part()
            .bucket(&self.bucket)
            .key(self.key(key))
            .upload_id(id)
            .part_number(number)
            .content_length(i64::try_from(size).unwrap_or(i64::MAX))
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .checksum_sha256(&sum)
            .body(Sending::from(bytes))
            .customize()
            .disable_payload_signing();
        let sent = async { request.send().await.map_err(|error| self.call(key).failure(error)) };
        let output = self.within(key, size, sent).await?;
        let etag = self.written(key, output.e_tag, size)?.etag;
        // A server that does not know the checksum must not be asked for it again.
        let sum = output.checksum_sha256.map(|_| sum);
        Ok(CompletedPart::builder().part_number(number).e_tag(etag).set_checksum_sha256(sum).build())
    }

    async fn complete(
        &self,
        key: &str,
        length: u64,
        id: &str,
        parts: Vec<CompletedPart>,
        condition: &Condition,
    ) -> Result<Meta> {
        let mut request = self
            .bulk
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
        let completed = tokio::time::timeout(deadline(length), request.send()).await;
        let failure = match completed {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(self.call(key).write(error, condition)),
            Err(_) => Some(Error::unavailable(&self.name, format!("did not finish assembling {key} in time"))),
        };
        match failure {
            // Its answer may have been lost, and the upload be gone because it was completed: what is there now counts.
            None | Some(Error::Unavailable { .. }) => match (self.head(key).await, failure) {
                (Ok(Some(meta)), _) if meta.size == length => Ok(meta),
                (_, Some(failure)) => Err(failure),
                (Ok(_), None) => Err(Error::unavailable(&self.name, format!("does not show {key} after its upload"))),
                (Err(error), None) => Err(error),
            },
            Some(failure) => Err(failure),
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
