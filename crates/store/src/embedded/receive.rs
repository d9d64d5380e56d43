//! Receiving a body: hashed while it arrives, verified against everything that came with it, and only then a record.

use super::{
    blocking, checksums,
    directory::{Directory, Temporary},
    failed,
    record::Record,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use md5::{Digest as _, Md5};
use s3s::{
    S3Error, S3ErrorCode, S3Result, TrailingHeaders,
    checksum::ChecksumHasher,
    dto::{Checksum, StreamingBlob},
    s3_error,
};
use std::{collections::BTreeMap, io::Write as _, sync::Arc};

/// Bodies up to this size are written in one go, by one blocking call.
const BUFFER: usize = 1024 * 1024;

/// The checksum algorithms of S3, by the names they have in headers.
pub(super) const ALGORITHMS: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];

/// What the request says that its body is.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Its length.
    length: Option<u64>,
    /// Its MD5, in base64.
    md5: Option<String>,
    /// Its checksums by algorithm, in base64.
    checksums: BTreeMap<String, String>,
    /// Algorithms to compute besides those: announced in a trailer, or wanted for the answer.
    wanted: Vec<String>,
    trailers: Option<TrailingHeaders>,
    /// Whether a checksum was announced to come behind the body.
    announced: bool,
}

impl Claims {
    /// From the headers of a request. The fields of inputs say the same in a dozen types.
    pub(super) fn of(headers: &http::HeaderMap, trailers: Option<TrailingHeaders>, length: Option<i64>) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let checksums = ALGORITHMS
            .iter()
            .filter_map(|algorithm| Some(((*algorithm).to_owned(), text(&format!("x-amz-checksum-{algorithm}"))?)))
            .collect();
        let mut wanted = Vec::new();
        for name in ["x-amz-trailer", "x-amz-sdk-checksum-algorithm", "x-amz-checksum-algorithm"] {
            let value = text(name).unwrap_or_default().to_ascii_lowercase();
            wanted.extend(value.split(',').map(|name| name.trim().trim_start_matches("x-amz-checksum-").to_owned()));
        }
        // Of a chunked body the length is that of its decoding.
        let decoded = text("x-amz-decoded-content-length").and_then(|length| length.parse().ok());
        let length = decoded.or(length.and_then(|length| u64::try_from(length).ok()));
        let announced = headers.contains_key("x-amz-trailer");
        Self { length, md5: text("content-md5"), checksums, wanted, trailers, announced }
    }

    /// Adds algorithms to compute.
    pub(super) fn want<'a>(mut self, algorithms: impl IntoIterator<Item = &'a str>) -> Self {
        self.wanted.extend(algorithms.into_iter().map(str::to_ascii_lowercase));
        self
    }

    fn hasher(&self) -> ChecksumHasher {
        hasher(self.checksums.keys().chain(&self.wanted).map(String::as_str))
    }

    /// Adds what came behind the body. What was announced must be there.
    fn read_trailers(&mut self) -> S3Result<()> {
        let trailers = self.trailers.take().and_then(|trailers| trailers.take()).unwrap_or_default();
        for algorithm in ALGORITHMS {
            let value = trailers.get(format!("x-amz-checksum-{algorithm}")).and_then(|value| value.to_str().ok());
            if let Some(value) = value {
                self.checksums.insert(algorithm.to_owned(), value.to_owned());
            }
        }
        if self.announced && self.checksums.is_empty() { Err(checksums::no_trailer()) } else { Ok(()) }
    }
}

/// A hasher for the named algorithms.
pub(super) fn hasher<'a>(names: impl Iterator<Item = &'a str>) -> ChecksumHasher {
    let mut hasher = ChecksumHasher::default();
    for name in names {
        match name {
            "crc32" => hasher.crc32 = Some(Default::default()),
            "crc32c" => hasher.crc32c = Some(Default::default()),
            "crc64nvme" => hasher.crc64nvme = Some(Default::default()),
            "sha1" => hasher.sha1 = Some(Default::default()),
            "sha256" => hasher.sha256 = Some(Default::default()),
            _ => {}
        }
    }
    hasher
}

/// Checksums by algorithm.
pub(super) fn by_name(sums: Checksum) -> BTreeMap<String, String> {
    let all =
        [sums.checksum_crc32, sums.checksum_crc32c, sums.checksum_crc64nvme, sums.checksum_sha1, sums.checksum_sha256];
    ALGORITHMS.iter().zip(all).filter_map(|(name, sum)| Some(((*name).to_owned(), sum?))).collect()
}

/// What has arrived and was hashed.
struct Sink {
    temporary: Temporary,
    md5: Md5,
    sums: ChecksumHasher,
    size: u64,
}

impl Sink {
    fn new(directory: &Directory, sums: ChecksumHasher) -> S3Result<Self> {
        Ok(Self { temporary: directory.temporary()?, md5: Md5::new(), sums, size: 0 })
    }

    fn absorb(&mut self, bytes: &[u8]) -> S3Result<()> {
        self.hash(bytes);
        self.temporary.file.write_all(bytes).map_err(failed("write", &self.temporary.path))
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sums.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// Verifies, and makes the file a record that is on the disk.
    fn finish(mut self, rest: Bytes, claims: &Claims, mut record: Record) -> S3Result<Received> {
        self.hash(&rest);
        if claims.length.is_some_and(|length| length != self.size) {
            return Err(s3_error!(IncompleteBody));
        }
        let md5: [u8; 16] = self.md5.finalize().into();
        if let Some(claimed) = &claims.md5 {
            let claimed = STANDARD.decode(claimed).map_err(|_| s3_error!(InvalidDigest))?;
            if claimed.len() != md5.len() {
                return Err(s3_error!(InvalidDigest));
            }
            if claimed != md5 {
                return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."));
            }
        }
        let sums = by_name(self.sums.finalize());
        for (algorithm, claimed) in &claims.checksums {
            if sums.get(algorithm) != Some(claimed) {
                let what = format!("The {} you specified did not match what we received.", algorithm.to_uppercase());
                return Err(S3Error::with_message(S3ErrorCode::BadDigest, what));
            }
        }
        (record.etag, record.checksums) = (hex::encode(md5), sums);
        record.touch();
        let temporary = self.temporary;
        let mut end = BytesMut::from(rest);
        end.extend_from_slice(&record.tail(self.size));
        (&temporary.file).write_all(&end).map_err(failed("write", &temporary.path))?;
        temporary.file.sync_data().map_err(failed("fsync", &temporary.path))?;
        Ok(Received { temporary, record, size: self.size })
    }
}

/// A verified record that is not yet an object.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) temporary: Temporary,
    pub(super) record: Record,
    pub(super) size: u64,
}

/// Receives a body, and hands the verified record to `commit` on the same blocking thread.
pub(super) async fn receive<T: Send + 'static>(
    directory: Arc<Directory>,
    body: Option<StreamingBlob>,
    mut claims: Claims,
    record: Record,
    commit: impl FnOnce(&Directory, Received) -> S3Result<T> + Send + 'static,
) -> S3Result<T> {
    let mut buffer = BytesMut::new();
    let mut sink = None;
    if let Some(mut body) = body {
        while let Some(chunk) = body.next().await {
            buffer.extend_from_slice(&chunk.map_err(broken)?);
            if buffer.len() < BUFFER {
                continue;
            }
            let full = buffer.split().freeze();
            let begun = match sink.take() {
                Some(sink) => sink,
                None => {
                    let directory = directory.clone();
                    let sums = claims.hasher();
                    blocking(move || Sink::new(&directory, sums)).await?
                }
            };
            sink = Some(
                blocking(move || {
                    let mut sink = begun;
                    sink.absorb(&full)?;
                    Ok(sink)
                })
                .await?,
            );
        }
    }
    claims.read_trailers()?;
    let rest = buffer.freeze();
    blocking(move || {
        let sink = match sink {
            Some(sink) => sink,
            None => Sink::new(&directory, claims.hasher())?,
        };
        commit(&directory, sink.finish(rest, &claims, record)?)
    })
    .await
}

/// A body that did not arrive whole, or whose signature is wrong.
fn broken(error: s3s::StdError) -> S3Error {
    match error.downcast::<S3Error>() {
        Ok(error) => *error,
        Err(error) => checksums::broken(&error.to_string()).unwrap_or_else(|| {
            let what = format!("the body did not arrive: {error}");
            S3Error::with_message(S3ErrorCode::IncompleteBody, what)
        }),
    }
}
