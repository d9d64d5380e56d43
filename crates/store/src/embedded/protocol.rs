//! The operations of S3, over the directory. Each translates and does nothing else.

use super::{
    blocking,
    directory::{Directory, Preconditions},
    failed,
    listing::{self, Item, Query},
    receive::{Claims, Received, receive},
    record::{Opened, Record},
    uploads::{self, Upload},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use domain::secret::Secret;
use futures::stream;
use s3s::{
    Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    auth::SimpleAuth,
    dto::*,
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt as _, path::PathBuf, sync::Arc, time::SystemTime};

/// Bodies are read in pieces of this size.
const PIECE: u64 = 1024 * 1024;
/// The largest page of a listing, as in S3.
const PAGE: usize = 1000;

/// The headers of an object that are given back as they came.
const KEPT: [&str; 6] =
    ["content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires"];

/// The service over a directory. Without credentials only unsigned requests are accepted.
pub(crate) fn service(directory: Arc<Directory>, credentials: Option<&(String, Secret)>) -> S3Service {
    let mut builder = S3ServiceBuilder::new(Server { directory });
    if let Some((key, secret)) = credentials {
        builder.set_auth(SimpleAuth::from_single(key.as_str(), secret.reveal()));
    }
    builder.build()
}

#[derive(Clone)]
struct Server {
    directory: Arc<Directory>,
}

impl Server {
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Directory>) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let directory = self.directory.clone();
        blocking(move || work(&directory)).await
    }
}

fn answer<T>(output: T) -> S3Result<S3Response<T>> {
    Ok(S3Response::new(output))
}

fn etag(record: &Record) -> Option<ETag> {
    Some(ETag::Strong(record.etag.clone()))
}

fn timestamp(millis: u64) -> Timestamp {
    Timestamp::from(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(millis))
}

fn signed(size: u64) -> Option<i64> {
    i64::try_from(size).ok()
}

/// The description of a new object, from the headers of the request that makes it.
fn describe(headers: &http::HeaderMap, user: Option<Metadata>) -> Record {
    let kept = KEPT.iter().filter_map(|name| {
        let value = headers.get(*name)?.to_str().ok()?;
        // `aws-chunked` is how the body travelled, not what it is.
        let value =
            value.split(',').map(str::trim).filter(|part| *part != "aws-chunked").collect::<Vec<_>>().join(", ");
        (!value.is_empty()).then(|| ((*name).to_owned(), value))
    });
    Record { headers: kept.collect(), user: user.unwrap_or_default().into_iter().collect(), ..Record::default() }
}

/// `If-Match` and its kin on reads, as RFC 9110 orders them.
fn read_allowed(
    record: &Record,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
    if_modified: Option<Timestamp>,
    if_unmodified: Option<Timestamp>,
) -> S3Result<()> {
    let same = |condition: &ETagCondition| condition.as_etag().is_none_or(|etag| etag.value() == record.etag);
    // Dates in headers have whole seconds.
    let modified = timestamp(record.modified_ms / 1000 * 1000);
    match (if_match, if_unmodified) {
        (Some(condition), _) if !same(condition) => return Err(s3_error!(PreconditionFailed)),
        (None, Some(date)) if modified > date => return Err(s3_error!(PreconditionFailed)),
        _ => {}
    }
    match (if_none_match, if_modified) {
        (Some(condition), _) if same(condition) => Err(s3_error!(NotModified)),
        (None, Some(date)) if modified <= date => Err(s3_error!(NotModified)),
        _ => Ok(()),
    }
}

/// A body from a file that is already open.
fn body(file: File, range: std::ops::Range<u64>, path: PathBuf) -> StreamingBlob {
    let start = (Arc::new(file), range.start, path);
    StreamingBlob::wrap(stream::try_unfold(start, move |(file, at, path)| async move {
        if at >= range.end {
            return Ok::<_, S3Error>(None);
        }
        let (opened, name) = (file.clone(), path.clone());
        let piece = blocking(move || read_piece(&opened, at..range.end.min(at + PIECE), &name)).await?;
        let next = at + piece.len() as u64;
        Ok(Some((piece, (file, next, path))))
    }))
}

fn read_piece(file: &File, range: std::ops::Range<u64>, path: &std::path::Path) -> S3Result<Bytes> {
    let mut piece = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
    file.read_exact_at(&mut piece, range.start).map_err(failed("read", path))?;
    Ok(Bytes::from(piece))
}

/// What an opened object answers to GET and HEAD alike.
struct Found {
    opened: Opened,
    range: Option<std::ops::Range<u64>>,
    first: Option<Bytes>,
}

impl Found {
    fn new(opened: Opened, range: Option<Range>, with_body: bool) -> S3Result<Self> {
        let range = match range {
            Some(range) => Some(range.check(opened.size).map_err(|_| s3_error!(InvalidRange))?),
            None => None,
        };
        let wanted = range.clone().unwrap_or(0..opened.size);
        // Small bodies are read here and now, on the thread that opened the file.
        let small = with_body && wanted.end - wanted.start <= PIECE;
        let first = small.then(|| read_piece(&opened.file, wanted, std::path::Path::new("an object"))).transpose()?;
        Ok(Self { opened, range, first })
    }

    fn wanted(&self) -> std::ops::Range<u64> {
        self.range.clone().unwrap_or(0..self.opened.size)
    }

    fn content_range(&self) -> Option<String> {
        let range = self.range.as_ref()?;
        Some(format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), self.opened.size))
    }

    /// Checksums are given when asked for, and only of whole objects.
    fn checksum(&self, asked: bool, name: &str) -> Option<String> {
        let given = asked && self.range.is_none();
        given.then(|| self.opened.record.checksums.get(name).cloned()).flatten()
    }

    fn header(&self, name: &str, instead: Option<String>) -> Option<String> {
        instead.or_else(|| self.opened.record.headers.get(name).cloned())
    }

    fn user(&self) -> Option<Metadata> {
        let user = &self.opened.record.user;
        (!user.is_empty()).then(|| user.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    fn checksum_type(&self, asked: bool) -> Option<ChecksumType> {
        let sums = &self.opened.record.checksums;
        let composite = sums.values().any(|sum| sum.contains('-'));
        let kind = if composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
        (asked && self.range.is_none() && !sums.is_empty()).then(|| ChecksumType::from_static(kind))
    }
}

fn conditions(if_match: Option<ETagCondition>, if_none_match: Option<ETagCondition>) -> Preconditions {
    Preconditions { if_match, if_none_match }
}

/// Key names in listings, encoded when the client asked for it.
fn encoded(name: String, url: bool) -> String {
    if !url {
        return name;
    }
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn split(items: Vec<Item>, url: bool) -> (ObjectList, CommonPrefixList) {
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Object { key, size, etag, modified_ms } => objects.push(Object {
                key: Some(encoded(key, url)),
                size: signed(size),
                e_tag: Some(ETag::Strong(etag)),
                last_modified: Some(timestamp(modified_ms)),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                ..Object::default()
            }),
            Item::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(encoded(prefix, url)) }),
        }
    }
    (objects, prefixes)
}

fn limit(max_keys: Option<i32>) -> S3Result<usize> {
    let wanted = max_keys.unwrap_or(1000);
    Ok(usize::try_from(wanted).map_err(|_| s3_error!(InvalidArgument, "max-keys is negative"))?.min(PAGE))
}

/// Where a page ended, opaque to clients: what its last line was, and its name.
fn token(last: &Item) -> String {
    let kind = if matches!(last, Item::Prefix(_)) { 'p' } else { 'k' };
    URL_SAFE_NO_PAD.encode(format!("{kind}{}", last.name()))
}

fn from_token(token: &str) -> S3Result<(String, bool)> {
    let bad = || s3_error!(InvalidArgument, "the continuation token is not one of this server");
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?).map_err(|_| bad())?;
    match text.split_at_checked(1) {
        Some(("p", name)) => Ok((name.to_owned(), true)),
        Some(("k", name)) => Ok((name.to_owned(), false)),
        _ => Err(bad()),
    }
}

fn is_url(encoding: Option<&EncodingType>) -> bool {
    encoding.is_some_and(|encoding| encoding.as_str() == EncodingType::URL)
}

fn source_of(source: &CopySource) -> S3Result<(String, String)> {
    match source {
        CopySource::Bucket { bucket, key, version_id: None } => Ok((bucket.to_string(), key.to_string())),
        _ => Err(s3_error!(NotImplemented, "only objects of this server can be copied")),
    }
}

fn take(sums: &BTreeMap<String, String>, name: &str) -> Option<String> {
    sums.get(name).cloned()
}

#[async_trait::async_trait]
impl S3 for Server {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let buckets = self.run(|directory| directory.buckets()).await?.into_iter().map(|(name, made)| Bucket {
            name: Some(name),
            creation_date: Some(Timestamp::from(made)),
            ..Bucket::default()
        });
        let owner = Owner { display_name: Some("sealift".to_owned()), id: Some("sealift".to_owned()) };
        answer(ListBucketsOutput { buckets: Some(buckets.collect()), owner: Some(owner), ..Default::default() })
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.run(move |directory| directory.bucket_exists(&req.input.bucket)).await?;
        answer(HeadBucketOutput::default())
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.run(move |directory| directory.bucket_exists(&req.input.bucket)).await?;
        answer(GetBucketLocationOutput::default())
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let location = Some(format!("/{}", req.input.bucket));
        if !self.run(move |directory| directory.make_bucket(&req.input.bucket)).await? {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        answer(CreateBucketOutput { location })
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.run(move |directory| directory.remove_bucket(&req.input.bucket)).await?;
        answer(DeleteBucketOutput::default())
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let claims = Claims::of(&req.headers, req.trailing_headers, input.content_length);
        let record = describe(&req.headers, input.metadata);
        let (bucket, key) = (input.bucket, input.key);
        let conditions = conditions(input.if_match, input.if_none_match);
        let commit = move |directory: &Directory, received: Received| {
            let Received { temporary, record, size } = received;
            directory.commit(&bucket, &key, temporary, &conditions)?;
            Ok((record, size))
        };
        let (record, size) = receive(self.directory.clone(), input.body, claims, record, commit).await?;
        answer(PutObjectOutput {
            e_tag: etag(&record),
            size: signed(size),
            checksum_crc32: take(&record.checksums, "crc32"),
            checksum_crc32c: take(&record.checksums, "crc32c"),
            checksum_crc64nvme: take(&record.checksums, "crc64nvme"),
            checksum_sha1: take(&record.checksums, "sha1"),
            checksum_sha256: take(&record.checksums, "sha256"),
            ..Default::default()
        })
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let asked = input.checksum_mode.is_some();
        let found = self
            .run(move |directory| {
                let opened = directory.open_object(&input.bucket, &input.key)?;
                let (yes, no) = (input.if_match.as_ref(), input.if_none_match.as_ref());
                read_allowed(&opened.record, yes, no, input.if_modified_since, input.if_unmodified_since)?;
                Found::new(opened, input.range, true)
            })
            .await?;
        let wanted = found.wanted();
        let mut output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: signed(wanted.end - wanted.start),
            content_range: found.content_range(),
            e_tag: etag(&found.opened.record),
            last_modified: Some(Timestamp::from(found.opened.record.modified())),
            metadata: found.user(),
            content_type: found.header("content-type", input.response_content_type),
            cache_control: found.header("cache-control", input.response_cache_control),
            content_disposition: found.header("content-disposition", input.response_content_disposition),
            content_encoding: found.header("content-encoding", input.response_content_encoding),
            content_language: found.header("content-language", input.response_content_language),
            checksum_crc32: found.checksum(asked, "crc32"),
            checksum_crc32c: found.checksum(asked, "crc32c"),
            checksum_crc64nvme: found.checksum(asked, "crc64nvme"),
            checksum_sha1: found.checksum(asked, "sha1"),
            checksum_sha256: found.checksum(asked, "sha256"),
            checksum_type: found.checksum_type(asked),
            ..Default::default()
        };
        output.body = Some(match found.first {
            Some(bytes) => StreamingBlob::from(Body::from(bytes)),
            None => body(found.opened.file, wanted, PathBuf::from("an object")),
        });
        answer(output)
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let asked = input.checksum_mode.is_some();
        let found = self
            .run(move |directory| {
                let opened = directory.open_object(&input.bucket, &input.key)?;
                let (yes, no) = (input.if_match.as_ref(), input.if_none_match.as_ref());
                read_allowed(&opened.record, yes, no, input.if_modified_since, input.if_unmodified_since)?;
                Found::new(opened, input.range, false)
            })
            .await?;
        let wanted = found.wanted();
        answer(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: signed(wanted.end - wanted.start),
            content_range: found.content_range(),
            e_tag: etag(&found.opened.record),
            last_modified: Some(Timestamp::from(found.opened.record.modified())),
            metadata: found.user(),
            content_type: found.header("content-type", None),
            cache_control: found.header("cache-control", None),
            content_disposition: found.header("content-disposition", None),
            content_encoding: found.header("content-encoding", None),
            content_language: found.header("content-language", None),
            checksum_crc32: found.checksum(asked, "crc32"),
            checksum_crc32c: found.checksum(asked, "crc32c"),
            checksum_crc64nvme: found.checksum(asked, "crc64nvme"),
            checksum_sha1: found.checksum(asked, "sha1"),
            checksum_sha256: found.checksum(asked, "sha256"),
            checksum_type: found.checksum_type(asked),
            ..Default::default()
        })
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = req.input;
        let conditions = conditions(input.if_match, None);
        self.run(move |directory| directory.remove(&input.bucket, &input.key, &conditions)).await?;
        answer(DeleteObjectOutput::default())
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        let quiet = input.delete.quiet.unwrap_or(false);
        let (deleted, errors) = self
            .run(move |directory| {
                directory.bucket_exists(&input.bucket)?;
                let (mut deleted, mut errors) = (Vec::new(), Vec::new());
                for object in input.delete.objects {
                    let key = Some(object.key.clone());
                    match directory.remove(&input.bucket, &object.key, &Preconditions::default()) {
                        Ok(()) => deleted.push(DeletedObject { key, ..Default::default() }),
                        Err(error) => errors.push(s3s::dto::Error {
                            key,
                            code: Some(error.code().as_str().to_owned()),
                            message: error.message().map(str::to_owned),
                            ..Default::default()
                        }),
                    }
                }
                Ok((deleted, errors))
            })
            .await?;
        let deleted = (!quiet).then_some(deleted);
        answer(DeleteObjectsOutput { deleted, errors: Some(errors), ..Default::default() })
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = req.input;
        let source = source_of(&input.copy_source)?;
        let replace = input.metadata_directive.as_ref().is_some_and(|it| it.as_str() == MetadataDirective::REPLACE);
        if source == (input.bucket.clone(), input.key.clone()) && !replace {
            return Err(s3_error!(InvalidRequest, "an object cannot be copied to itself without a change"));
        }
        let opened = self
            .run(move |directory| {
                let opened = directory.open_object(&source.0, &source.1)?;
                let (yes, no) = (input.copy_source_if_match.as_ref(), input.copy_source_if_none_match.as_ref());
                let refused = |error: S3Error| match error.code() {
                    S3ErrorCode::NotModified => s3_error!(PreconditionFailed),
                    _ => error,
                };
                let (modified, unmodified) =
                    (input.copy_source_if_modified_since, input.copy_source_if_unmodified_since);
                read_allowed(&opened.record, yes, no, modified, unmodified).map_err(refused)?;
                Ok(opened)
            })
            .await?;
        let record = if replace {
            describe(&req.headers, input.metadata)
        } else {
            Record { checksums: BTreeMap::new(), ..opened.record.clone() }
        };
        // Copied through the same path as an upload, so that the copy is hashed and compared like one.
        let known: Vec<String> = opened.record.checksums.keys().cloned().collect();
        let asked = input.checksum_algorithm.as_ref().map(|algorithm| algorithm.as_str().to_owned());
        let names = known.iter().map(String::as_str).chain(asked.as_deref());
        let claims = Claims::default().want(names);
        let (bucket, key) = (input.bucket, input.key);
        let commit = move |directory: &Directory, received: Received| {
            directory.commit(&bucket, &key, received.temporary, &Preconditions::default())?;
            Ok(received.record)
        };
        let size = opened.size;
        let source = body(opened.file, 0..size, PathBuf::from("the source of a copy"));
        let record = receive(self.directory.clone(), Some(source), claims, record, commit).await?;
        let result = CopyObjectResult {
            e_tag: etag(&record),
            last_modified: Some(Timestamp::from(record.modified())),
            checksum_sha256: take(&record.checksums, "sha256"),
            ..Default::default()
        };
        answer(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() })
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = req.input;
        let after = input.marker.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone();
        let query = Query {
            bucket: input.bucket.clone(),
            prefix: input.prefix.clone().unwrap_or_default(),
            // A marker that ends in the delimiter is the common prefix at which the last page ended.
            after_prefix: delimiter
                .as_deref()
                .is_some_and(|it| !it.is_empty() && !after.is_empty() && after.ends_with(it)),
            after,
            delimiter,
            limit: limit(input.max_keys)?,
        };
        let (items, more) = self.run(move |directory| listing::list(directory, &query)).await?;
        let url = is_url(input.encoding_type.as_ref());
        let last = items.last().filter(|_| more).map(|item| encoded(item.name().to_owned(), url));
        let (contents, prefixes) = split(items, url);
        answer(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(encoded(input.prefix.unwrap_or_default(), url)),
            marker: Some(encoded(input.marker.unwrap_or_default(), url)),
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            is_truncated: Some(more),
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(|delimiter| encoded(delimiter, url)),
            next_marker: last,
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let (after, after_prefix) = match &input.continuation_token {
            Some(token) => from_token(token)?,
            None => (input.start_after.clone().unwrap_or_default(), false),
        };
        let query = Query {
            bucket: input.bucket.clone(),
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after,
            after_prefix,
            limit: limit(input.max_keys)?,
        };
        let (items, more) = self.run(move |directory| listing::list(directory, &query)).await?;
        let url = is_url(input.encoding_type.as_ref());
        let next = items.last().filter(|_| more).map(token);
        let count = i32::try_from(items.len()).ok();
        let (contents, prefixes) = split(items, url);
        answer(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(encoded(input.prefix.unwrap_or_default(), url)),
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            key_count: count,
            continuation_token: input.continuation_token,
            is_truncated: Some(more),
            next_continuation_token: next,
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(|delimiter| encoded(delimiter, url)),
            encoding_type: input.encoding_type,
            start_after: input.start_after.map(|after| encoded(after, url)),
            ..Default::default()
        })
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        let algorithm = input.checksum_algorithm.as_ref().map(|it| it.as_str().to_ascii_lowercase());
        let record = describe(&req.headers, input.metadata);
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let upload = Upload { id: String::new(), bucket, key, record, algorithm };
        let id = self.run(move |directory| uploads::begin(directory, upload)).await?;
        answer(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: input.checksum_type,
            ..Default::default()
        })
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let number = part_number(input.part_number)?;
        let (id, bucket, key) = (input.upload_id.clone(), input.bucket, input.key);
        let upload = self.run(move |directory| uploads::find(directory, &id, &bucket, &key)).await?;
        let claims =
            Claims::of(&req.headers, req.trailing_headers, input.content_length).want(upload.algorithm.as_deref());
        let id = input.upload_id;
        let commit = move |directory: &Directory, part: Received| uploads::keep(directory, &id, number, part);
        let record = receive(self.directory.clone(), input.body, claims, Record::default(), commit).await?;
        answer(UploadPartOutput {
            e_tag: etag(&record),
            checksum_crc32: take(&record.checksums, "crc32"),
            checksum_crc32c: take(&record.checksums, "crc32c"),
            checksum_crc64nvme: take(&record.checksums, "crc64nvme"),
            checksum_sha1: take(&record.checksums, "sha1"),
            checksum_sha256: take(&record.checksums, "sha256"),
            ..Default::default()
        })
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = req.input;
        let number = part_number(input.part_number)?;
        let source = source_of(&input.copy_source)?;
        let range = input.copy_source_range.as_deref().map(Range::parse).transpose();
        let range = range.map_err(|_| s3_error!(InvalidArgument, "the source range cannot be read"))?;
        let id = input.upload_id.clone();
        let (upload, found) = self
            .run(move |directory| {
                let upload = uploads::find(directory, &id, &input.bucket, &input.key)?;
                let found = Found::new(directory.open_object(&source.0, &source.1)?, range, false)?;
                Ok((upload, found))
            })
            .await?;
        let claims = Claims::default().want(upload.algorithm.as_deref());
        let wanted = found.wanted();
        let source = body(found.opened.file, wanted, PathBuf::from("the source of a copy"));
        let id = input.upload_id;
        let commit = move |directory: &Directory, part: Received| uploads::keep(directory, &id, number, part);
        let record = receive(self.directory.clone(), Some(source), claims, Record::default(), commit).await?;
        let result = CopyPartResult {
            e_tag: etag(&record),
            last_modified: Some(Timestamp::from(record.modified())),
            ..Default::default()
        };
        answer(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        let (id, bucket, key) = (input.upload_id.clone(), input.bucket.clone(), input.key.clone());
        let parts = self
            .run(move |directory| {
                uploads::find(directory, &id, &bucket, &key)?;
                uploads::parts(directory, &id)
            })
            .await?;
        let after = input.part_number_marker.unwrap_or(0);
        let limit = limit(input.max_parts)?;
        let mut wanted = parts.into_iter().filter(|part| part.number > after).peekable();
        let page: Vec<Part> = wanted
            .by_ref()
            .take(limit)
            .map(|part| Part {
                part_number: Some(part.number),
                size: signed(part.size),
                e_tag: etag(&part.record),
                last_modified: Some(Timestamp::from(part.record.modified())),
                ..Default::default()
            })
            .collect();
        answer(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            max_parts: i32::try_from(limit).ok(),
            part_number_marker: Some(after),
            next_part_number_marker: page.last().and_then(|part| part.part_number),
            is_truncated: Some(wanted.peek().is_some()),
            parts: Some(page),
            ..Default::default()
        })
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        let (bucket, prefix) = (input.bucket.clone(), input.prefix.clone().unwrap_or_default());
        let uploads = self.run(move |directory| uploads::list(directory, &bucket, &prefix)).await?;
        let uploads = uploads.into_iter().map(|upload| MultipartUpload {
            key: Some(upload.key),
            upload_id: Some(upload.id),
            initiated: Some(Timestamp::from(upload.record.modified())),
            ..Default::default()
        });
        answer(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            is_truncated: Some(false),
            uploads: Some(uploads.collect()),
            ..Default::default()
        })
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let claimed = [
            ("crc32", input.checksum_crc32),
            ("crc32c", input.checksum_crc32c),
            ("crc64nvme", input.checksum_crc64nvme),
            ("sha1", input.checksum_sha1),
            ("sha256", input.checksum_sha256),
        ];
        let claimed = claimed.into_iter().filter_map(|(name, sum)| Some((name.to_owned(), sum?))).collect();
        let parts = input.multipart_upload.and_then(|listed| listed.parts).unwrap_or_default();
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let conditions = conditions(input.if_match, input.if_none_match);
        let record = self
            .run(move |directory| {
                let upload = uploads::find(directory, &input.upload_id, &input.bucket, &input.key)?;
                uploads::complete(directory, upload, &parts, &claimed, input.mpu_object_size, &conditions)
            })
            .await?;
        answer(CompleteMultipartUploadOutput {
            location: Some(format!("/{bucket}/{key}")),
            bucket: Some(bucket),
            key: Some(key),
            e_tag: etag(&record),
            checksum_sha256: take(&record.checksums, "sha256"),
            checksum_crc64nvme: take(&record.checksums, "crc64nvme"),
            ..Default::default()
        })
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = req.input;
        self.run(move |directory| {
            uploads::find(directory, &input.upload_id, &input.bucket, &input.key)?;
            uploads::abort(directory, &input.upload_id)
        })
        .await?;
        answer(AbortMultipartUploadOutput::default())
    }
}

fn part_number(number: i32) -> S3Result<i32> {
    if (1..=10_000).contains(&number) {
        return Ok(number);
    }
    Err(s3_error!(InvalidArgument, "part numbers are from 1 to 10000"))
}
