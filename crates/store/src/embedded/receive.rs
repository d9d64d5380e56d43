//! Receiving a body: hashed while it arrives, verified against everything that came with it, and only then a record.

use super::{
    blocking, checksums, damaged,
    directory::{Directory, Temporary},
    failed,
    record::{Opened, Record},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::StreamExt as _;
use md5::{Digest as _, Md5};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use s3s::{
    S3Error, S3ErrorCode, S3Result, TrailingHeaders,
    checksum::ChecksumHasher,
    dto::{Checksum, StreamingBlob},
    s3_error,
};
use std::{
    collections::BTreeMap,
    io::{ErrorKind, IoSlice, Write as _},
    path::Path,
    sync::Arc,
};
use tokio::task::JoinHandle;

/// Bodies up to this size are written in one go, by one blocking call.
const BUFFER: usize = 1024 * 1024;
/// Where memory must begin that is written past the page cache.
const ALIGNED: usize = 4096;

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

    /// What an object says that its own bytes are, for a copy of all of it. Of one that was put together from parts, [`whole`]
    /// compares the rest.
    pub(super) fn of_source(source: &Opened) -> Self {
        let record = &source.record;
        let md5 = hex::decode(&record.etag).ok().filter(|md5| md5.len() == 16).map(|md5| STANDARD.encode(md5));
        let sums = record.checksums.iter().filter(|(_, sum)| !sum.contains('-'));
        let checksums = sums.map(|(name, sum)| (name.clone(), sum.clone())).collect();
        Self { length: Some(source.size), md5, checksums, ..Self::default() }
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

/// Memory for a piece of a large body, which begins where the kernel can write it past the page cache.
struct Block {
    memory: Vec<u8>,
    begin: usize,
    filled: usize,
}

impl Block {
    fn new() -> Self {
        let memory = vec![0; BUFFER + ALIGNED];
        let begin = memory.as_ptr().align_offset(ALIGNED).min(ALIGNED);
        Self { memory, begin, filled: 0 }
    }

    /// Takes as much of the bytes as there is room for.
    fn fill(&mut self, bytes: &mut Bytes) {
        let took = bytes.len().min(BUFFER - self.filled);
        let at = self.begin + self.filled;
        self.memory[at..at + took].copy_from_slice(&bytes[..took]);
        self.filled += took;
        bytes.advance(took);
    }

    fn is_full(&self) -> bool {
        self.filled == BUFFER
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.filled]
    }
}

/// What has arrived and was hashed.
struct Sink {
    temporary: Temporary,
    md5: Md5,
    sums: ChecksumHasher,
    size: u64,
    /// Whether the file is written past the page cache: a large body is only in the way there, and its fsync would wait for
    /// all of it in the end.
    direct: bool,
}

impl Sink {
    fn new(directory: &Directory, sums: ChecksumHasher) -> S3Result<Self> {
        Ok(Self { temporary: directory.temporary()?, md5: Md5::new(), sums, size: 0, direct: false })
    }

    /// Whether the file could be switched. Not all file systems can write past the page cache.
    fn set_direct(&mut self, direct: bool) -> bool {
        let flags = fcntl_getfl(&self.temporary.file).map(|flags| flags - OFlags::DIRECT);
        let wanted = if direct { OFlags::DIRECT } else { OFlags::empty() };
        let switched = flags.and_then(|flags| fcntl_setfl(&self.temporary.file, flags | wanted)).is_ok();
        if switched {
            self.direct = direct;
        }
        switched
    }

    /// Hashes and writes a whole piece.
    fn absorb(&mut self, piece: &Block) -> S3Result<()> {
        if self.size == 0 {
            self.set_direct(true);
        }
        self.hash(piece.bytes());
        let mut left = piece.bytes();
        while !left.is_empty() {
            match (&self.temporary.file).write(left) {
                Ok(0) => return Err(failed("write", &self.temporary.path)(ErrorKind::WriteZero.into())),
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Its blocks are larger than we think, or the last write ended inside of one.
                Err(error) if error.kind() == ErrorKind::InvalidInput && self.direct && self.set_direct(false) => {}
                Err(error) => return Err(failed("write", &self.temporary.path)(error)),
            }
        }
        Ok(())
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sums.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// Verifies, and makes the file a record that is on the disk.
    fn finish(mut self, rest: &[u8], claims: &Claims, mut record: Record) -> S3Result<Received> {
        self.hash(rest);
        if claims.length.is_some_and(|length| length != self.size) {
            return Err(s3_error!(IncompleteBody));
        }
        // The end has any length, which only the page cache can write.
        if self.direct && !self.set_direct(false) {
            return Err(s3_error!(InternalError, "a file cannot be switched back to the page cache"));
        }
        let md5: [u8; 16] = self.md5.finalize().into();
        if let Some(claimed) = &claims.md5 {
            let claimed = STANDARD.decode(claimed).map_err(|_| s3_error!(InvalidDigest))?;
            if claimed.len() != md5.len() {
                return Err(s3_error!(InvalidDigest));
            }
            if claimed != md5 {
                return Err(checksums::bad_md5());
            }
        }
        let sums = by_name(self.sums.finalize());
        for (algorithm, claimed) in &claims.checksums {
            // Those of headers were looked at before; this is one that came behind the body.
            if !checksums::has_form(algorithm, claimed) {
                return Err(s3_error!(
                    InvalidRequest,
                    "Value for x-amz-checksum-{algorithm} trailing header is invalid."
                ));
            }
            if sums.get(algorithm) != Some(claimed) {
                return Err(checksums::bad_digest(algorithm));
            }
        }
        (record.etag, record.checksums) = (hex::encode(md5), sums);
        record.touch();
        let temporary = self.temporary;
        let tail = record.tail(self.size);
        write_all(&temporary, &mut [IoSlice::new(rest), IoSlice::new(&tail)])?;
        temporary.sync()?;
        Ok(Received { temporary, record, size: self.size })
    }
}

/// Writes all of the slices, in one call where that suffices.
fn write_all(temporary: &Temporary, mut slices: &mut [IoSlice<'_>]) -> S3Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match (&temporary.file).write_vectored(slices) {
            Ok(0) => return Err(failed("write", &temporary.path)(ErrorKind::WriteZero.into())),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("write", &temporary.path)(error)),
        }
    }
    Ok(())
}

/// The body of an object that was put together from parts, which fails at its end when they are not those that its entity tag
/// was made of. Other bodies are compared as [`Claims::of_source`] says.
pub(super) fn whole(body: StreamingBlob, record: &Record) -> StreamingBlob {
    if record.parts.is_empty() {
        return body;
    }
    let sizes: Vec<u64> = record.parts.iter().map(|part| part.size).collect();
    let start = (body, Parts { sizes, tags: Md5::new(), part: Md5::new(), done: 0, at: 0 }, record.etag.clone());
    StreamingBlob::wrap(futures::stream::try_unfold(start, |(mut body, mut parts, etag)| async move {
        match body.next().await.transpose().map_err(broken)? {
            Some(bytes) => {
                parts.take(&bytes);
                Ok(Some((bytes, (body, parts, etag))))
            }
            None if parts.etag() == etag => Ok(None),
            None => Err(rotten(checksums::bad_md5())),
        }
    }))
}

/// Makes the entity tag of parts from their bytes.
struct Parts {
    sizes: Vec<u64>,
    tags: Md5,
    part: Md5,
    /// How many parts have ended, and how far the next one is.
    done: usize,
    at: u64,
}

impl Parts {
    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(size) = self.sizes.get(self.done) {
            let step = usize::try_from(size - self.at).unwrap_or(usize::MAX).min(bytes.len());
            self.part.update(&bytes[..step]);
            self.at += step as u64;
            bytes = &bytes[step..];
            if self.at < *size {
                return;
            }
            self.tags.update(self.part.finalize_reset());
            (self.done, self.at) = (self.done + 1, 0);
        }
    }

    fn etag(&mut self) -> String {
        // The last part may have no bytes.
        self.take(&[]);
        format!("{}-{}", hex::encode(self.tags.finalize_reset()), self.done)
    }
}

/// What a copy failed with, for whoever asked for it: it said nothing of the bytes, so they are those of the source.
pub(super) fn rotten(error: S3Error) -> S3Error {
    match error.code() {
        S3ErrorCode::BadDigest | S3ErrorCode::IncompleteBody => {
            damaged(Path::new("the source of a copy"), "its bytes are not what its entity tag and checksums say")
        }
        _ => error,
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
    let large = claims.length.is_none_or(|length| length > BUFFER as u64);
    let (sink, rest) = match body {
        Some(body) if large => receive_large(&directory, body, &claims).await?,
        Some(body) => (None, Rest::Small(receive_small(body, &claims).await?)),
        None => (None, Rest::Small(Bytes::new())),
    };
    claims.read_trailers()?;
    blocking(move || {
        let sink = match sink {
            Some(sink) => sink,
            None => Sink::new(&directory, claims.hasher())?,
        };
        let received = match &rest {
            Rest::Small(bytes) => sink.finish(bytes, &claims, record)?,
            Rest::Large(piece) => sink.finish(piece.bytes(), &claims, record)?,
        };
        commit(&directory, received)
    })
    .await
}

/// What is not yet in the file when the body has ended.
enum Rest {
    Small(Bytes),
    Large(Block),
}

/// Collects a body that was announced to be small; one that comes in one chunk is not copied.
async fn receive_small(mut body: StreamingBlob, claims: &Claims) -> S3Result<Bytes> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(broken)?;
        if first.is_empty() && all.is_empty() {
            first = chunk;
            continue;
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&chunk);
        if claims.length.is_some_and(|length| all.len() as u64 > length) {
            return Err(s3_error!(IncompleteBody));
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Hashes and writes one piece while the next one arrives.
async fn receive_large(
    directory: &Arc<Directory>,
    mut body: StreamingBlob,
    claims: &Claims,
) -> S3Result<(Option<Sink>, Rest)> {
    let mut filling = Block::new();
    let mut writing: Option<JoinHandle<S3Result<(Sink, Block)>>> = None;
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(broken)?;
        while !chunk.is_empty() {
            filling.fill(&mut chunk);
            if !filling.is_full() {
                continue;
            }
            let (sink, mut spare) = match writing.take() {
                Some(written) => {
                    let (sink, spare) = written.await.map_err(S3Error::internal_error)??;
                    (Some(sink), spare)
                }
                None => (None, Block::new()),
            };
            spare.filled = 0;
            let full = std::mem::replace(&mut filling, spare);
            let (directory, sums) = (directory.clone(), sink.is_none().then(|| claims.hasher()));
            writing = Some(tokio::task::spawn_blocking(move || {
                let mut sink = match sink {
                    Some(sink) => sink,
                    None => Sink::new(&directory, sums.unwrap_or_default())?,
                };
                sink.absorb(&full)?;
                Ok((sink, full))
            }));
        }
    }
    let sink = match writing {
        Some(written) => Some(written.await.map_err(S3Error::internal_error)??.0),
        None => None,
    };
    Ok((sink, Rest::Large(filling)))
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
