//! The operations of S3, over the directory. Each translates and does nothing else.
//!
//! `s3s` checks signatures, decodes `aws-chunked` bodies and turns requests into the inputs below. What it would get wrong is
//! caught before it, in `front`. What an operation here does not name is answered with `NotImplemented`: versions, ACLs, policies,
//! lifecycles, and the setting of tags. That a bucket has no versions and an object no tags is said where clients ask for it.

use super::{
    answers::{
        Found, ReadConditions, Wanted, answer, body, conditions_of, describe, encoded, etag, expires, from_token,
        is_only_version, is_url, limit, owner, part_number, parts_of, signed, source_of, source_range, split, summed,
        timestamp, token,
    },
    blocking,
    checksums::{self, Kind},
    directory::{Directory, Preconditions},
    front::{DOCUMENT, Front},
    listing::{self, Item, Query, marked},
    mend::Mender,
    receive::{Claims, Received, receive, rotten, whole},
    record::Record,
    uploads::{self, Upload, UploadQuery},
};
use domain::secret::Secret;
use s3s::{
    S3, S3ErrorCode, S3Request, S3Response, S3Result, TrailingHeaders,
    auth::{S3Auth, SecretKey},
    config::{S3Config, StaticConfigProvider},
    dto::*,
    s3_error,
    service::S3ServiceBuilder,
};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// The largest object that is copied in one request, and the most keys that are deleted in one, as in S3.
const LARGEST_COPY: u64 = 5 * 1024 * 1024 * 1024;
const MOST_DELETED: usize = 1000;

/// The service over a directory. Without credentials only unsigned requests are accepted.
pub(crate) fn service(directory: Arc<Directory>, credentials: Option<&(String, Secret)>) -> Front {
    let server = Server { directory };
    let mut config = S3Config::default();
    config.xml_max_body_size = DOCUMENT;
    let config = Arc::new(StaticConfigProvider::new(Arc::new(config)));
    // Behind the signature: this one checks none.
    let mut behind = S3ServiceBuilder::new(server.clone());
    behind.set_config(config.clone());
    let mut builder = S3ServiceBuilder::new(server);
    builder.set_config(config);
    builder.set_route(Mender::new(behind.build(), credentials.is_none()));
    if let Some((key, secret)) = credentials {
        builder.set_auth(Keys { key: key.clone(), secret: SecretKey::from(secret.reveal()) });
    }
    Front::new(builder.build(), credentials.is_none())
}

/// The one key pair of a server. `s3s` has the like, and another word for a key that is not known than S3.
struct Keys {
    key: String,
    secret: SecretKey,
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, key: &str) -> S3Result<SecretKey> {
        if key == self.key {
            return Ok(self.secret.clone());
        }
        Err(s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records."))
    }
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

    /// Opens an object for GET or HEAD.
    async fn find(
        &self,
        bucket: String,
        key: String,
        conditions: ReadConditions,
        wanted: Wanted,
        with_body: bool,
    ) -> S3Result<Found> {
        self.run(move |directory| {
            let opened = directory.open_object(&bucket, &key)?;
            conditions.check(&opened.record)?;
            Found::new(opened, wanted, with_body)
        })
        .await
    }

    /// One page of keys; `version` 1 and 2 differ only in how they say where it begins.
    async fn page(&self, query: Query) -> S3Result<(Vec<Item>, bool)> {
        self.run(move |directory| listing::list(directory, &query)).await
    }
}

/// What came behind the body, also of a request that was mended on its way.
fn trailers(trailers: Option<TrailingHeaders>, extensions: &http::Extensions) -> Option<TrailingHeaders> {
    trailers.or_else(|| extensions.get().cloned())
}

/// Removes one of many keys.
fn remove_one(directory: &Directory, bucket: &str, object: &ObjectIdentifier) -> S3Result<()> {
    is_only_version(object.version_id.as_deref())?;
    if object.size.is_some() || object.last_modified_time.is_some() {
        return Err(s3_error!(NotImplemented, "a deletion can be conditional on an ETag, and on nothing else"));
    }
    if !s3s::path::check_key(&object.key) {
        return Err(s3_error!(KeyTooLongError));
    }
    let if_match = object.e_tag.clone().map(ETagCondition::ETag);
    directory.remove(bucket, &object.key, &Preconditions { if_match, if_none_match: None })
}

#[async_trait::async_trait]
impl S3 for Server {
    async fn list_buckets(&self, req: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let input = req.input;
        let limit = match input.max_buckets {
            None => usize::MAX,
            Some(wanted) => usize::try_from(wanted)
                .ok()
                .filter(|wanted| (1..=10_000).contains(wanted))
                .ok_or_else(|| s3_error!(InvalidArgument, "max-buckets must be between 1 and 10000"))?,
        };
        let (prefix, after) = (input.prefix.clone().unwrap_or_default(), input.continuation_token.unwrap_or_default());
        let all = self.run(|directory| directory.buckets()).await?;
        let mut wanted = all.into_iter().filter(|(name, _)| name.starts_with(&prefix) && *name > after).peekable();
        let page: Vec<Bucket> = wanted
            .by_ref()
            .take(limit)
            .map(|(name, made)| Bucket {
                name: Some(name),
                creation_date: Some(Timestamp::from(made)),
                ..Bucket::default()
            })
            .collect();
        let next = wanted.peek().and(page.last()).and_then(|bucket| bucket.name.clone());
        answer(ListBucketsOutput {
            buckets: Some(page),
            owner: Some(owner()),
            continuation_token: next,
            prefix: input.prefix,
        })
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.run(move |directory| directory.bucket_exists(&req.input.bucket)).await?;
        answer(HeadBucketOutput { bucket_region: Some("us-east-1".to_owned()), ..Default::default() })
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.run(move |directory| directory.bucket_exists(&req.input.bucket)).await?;
        answer(GetBucketLocationOutput::default())
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        if req.input.object_lock_enabled_for_bucket == Some(true) {
            return Err(s3_error!(NotImplemented, "this server has no retention"));
        }
        let location = Some(format!("/{}", req.input.bucket));
        if !self.run(move |directory| directory.make_bucket(&req.input.bucket)).await? {
            let what = "Your previous request to create the named bucket succeeded and you already own it.";
            return Err(s3_error!(BucketAlreadyOwnedByYou, "{what}"));
        }
        answer(CreateBucketOutput { location })
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.run(move |directory| {
            directory.remove_bucket(&req.input.bucket)?;
            uploads::forget(directory, &req.input.bucket)
        })
        .await?;
        answer(DeleteBucketOutput::default())
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        checksums::make_sense(&req.headers)?;
        let trailers = trailers(req.trailing_headers, &req.extensions);
        let claims = Claims::of(&req.headers, trailers, input.content_length);
        let record = describe(&req.headers, input.metadata);
        let (bucket, key) = (input.bucket, input.key);
        let conditions = Preconditions { if_match: input.if_match, if_none_match: input.if_none_match };
        let commit = move |directory: &Directory, received: Received| {
            let Received { temporary, record, size } = received;
            directory.commit(&bucket, &key, temporary, &conditions)?;
            Ok((record, size))
        };
        let (record, size) = receive(self.directory.clone(), input.body, claims, record, commit).await?;
        answer(summed!(&record.checksums => PutObjectOutput {
            e_tag: etag(&record),
            size: signed(size),
            checksum_type: checksums::kind_of(&record.checksums).map(Kind::dto),
        }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        is_only_version(input.version_id.as_deref())?;
        let conditions = ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let sums = input.checksum_mode.is_some();
        let part = input.part_number.map(part_number).transpose()?;
        let wanted = Wanted { range: input.range, part, sums };
        let found = self.find(input.bucket, input.key, conditions, wanted, true).await?;
        let range = found.wanted();
        let mut output = summed!(found.sums() => GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: signed(range.end - range.start),
            content_range: found.content_range(),
            e_tag: etag(&found.opened.record),
            last_modified: Some(Timestamp::from(found.opened.record.modified())),
            metadata: found.user(),
            content_type: found.content_type(input.response_content_type),
            cache_control: found.header("cache-control", input.response_cache_control),
            content_disposition: found.header("content-disposition", input.response_content_disposition),
            content_encoding: found.header("content-encoding", input.response_content_encoding),
            content_language: found.header("content-language", input.response_content_language),
            checksum_type: found.kind(),
            parts_count: found.parts_count(input.part_number),
        });
        let headers = expires(&found, input.response_expires.is_some(), &req.uri);
        output.body = Some(match found.first {
            Some(bytes) => StreamingBlob::from(s3s::Body::from(bytes)),
            None => body(found.opened.file, range, PathBuf::from("an object")),
        });
        Ok(S3Response::with_headers(output, headers))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        is_only_version(input.version_id.as_deref())?;
        let conditions = ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let sums = input.checksum_mode.is_some();
        let part = input.part_number.map(part_number).transpose()?;
        let wanted = Wanted { range: input.range, part, sums };
        let found = self.find(input.bucket, input.key, conditions, wanted, false).await?;
        let range = found.wanted();
        let output = summed!(found.sums() => HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: signed(range.end - range.start),
            content_range: found.content_range(),
            e_tag: etag(&found.opened.record),
            last_modified: Some(Timestamp::from(found.opened.record.modified())),
            metadata: found.user(),
            content_type: found.content_type(input.response_content_type),
            cache_control: found.header("cache-control", input.response_cache_control),
            content_disposition: found.header("content-disposition", input.response_content_disposition),
            content_encoding: found.header("content-encoding", input.response_content_encoding),
            content_language: found.header("content-language", input.response_content_language),
            checksum_type: found.kind(),
            parts_count: found.parts_count(input.part_number),
        });
        let headers = expires(&found, input.response_expires.is_some(), &req.uri);
        Ok(S3Response::with_headers(output, headers))
    }

    async fn get_object_attributes(
        &self,
        req: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let input = req.input;
        let known = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];
        // Some clients send a field for each, others one field with commas.
        let asked = input.object_attributes.iter().flat_map(|names| names.as_str().split(','));
        let asked: Vec<&str> = asked.map(str::trim).collect();
        if asked.iter().all(|name| name.is_empty()) {
            return Err(s3_error!(
                InvalidRequest,
                "The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty"
            ));
        }
        if asked.iter().any(|name| !known.contains(name)) {
            return Err(s3_error!(InvalidArgument, "Invalid attribute name specified."));
        }
        let has = |name: &str| asked.contains(&name);
        let (after, limit) = (input.part_number_marker.unwrap_or(0), limit(input.max_parts, "max-parts")?);
        let (bucket, key) = (input.bucket, input.key);
        let opened = self.run(move |directory| directory.open_object(&bucket, &key)).await?;
        let record = &opened.record;
        let kind = checksums::kind_of(&record.checksums);
        let checksum = summed!(&record.checksums => Checksum { checksum_type: kind.map(Kind::dto) });
        let storage = StorageClass::from_static(StorageClass::STANDARD);
        answer(GetObjectAttributesOutput {
            e_tag: etag(record).filter(|_| has("ETag")),
            checksum: kind.filter(|_| has("Checksum")).map(|_| checksum),
            object_parts: parts_of(record, after, limit).filter(|_| has("ObjectParts")),
            storage_class: has("StorageClass").then_some(storage),
            object_size: signed(opened.size).filter(|_| has("ObjectSize")),
            last_modified: Some(Timestamp::from(record.modified())),
            ..Default::default()
        })
    }

    async fn get_object_tagging(
        &self,
        req: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        self.run(move |directory| directory.open_object(&req.input.bucket, &req.input.key).map(drop)).await?;
        answer(GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None })
    }

    async fn get_bucket_versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        self.run(move |directory| directory.bucket_exists(&req.input.bucket)).await?;
        answer(GetBucketVersioningOutput::default())
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = req.input;
        is_only_version(input.version_id.as_deref())?;
        if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
            return Err(s3_error!(NotImplemented, "a deletion can be conditional on an ETag, and on nothing else"));
        }
        let conditions = Preconditions { if_match: input.if_match, if_none_match: None };
        self.run(move |directory| directory.remove(&input.bucket, &input.key, &conditions)).await?;
        answer(DeleteObjectOutput::default())
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        let quiet = input.delete.quiet.unwrap_or(false);
        if input.delete.objects.is_empty() || input.delete.objects.len() > MOST_DELETED {
            return Err(s3_error!(MalformedXML, "a request deletes between one and a thousand keys"));
        }
        let (deleted, errors) = self
            .run(move |directory| {
                directory.bucket_exists(&input.bucket)?;
                let (mut deleted, mut errors) = (Vec::new(), Vec::new());
                for object in input.delete.objects {
                    match remove_one(directory, &input.bucket, &object) {
                        Ok(()) => deleted.push(DeletedObject {
                            key: Some(object.key),
                            version_id: object.version_id,
                            ..Default::default()
                        }),
                        Err(error) => errors.push(s3s::dto::Error {
                            key: Some(object.key),
                            code: Some(error.code().as_str().to_owned()),
                            message: error.message().map(str::to_owned),
                            version_id: object.version_id,
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
        let source = source_of(&input.copy_source, &req.headers)?;
        let replace = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
            None | Some(MetadataDirective::COPY) => false,
            Some(MetadataDirective::REPLACE) => true,
            Some(_) => return Err(s3_error!(InvalidArgument, "Unknown metadata directive.")),
        };
        match input.tagging_directive.as_ref().map(TaggingDirective::as_str) {
            None | Some(TaggingDirective::COPY | TaggingDirective::REPLACE) => {}
            Some(_) => return Err(s3_error!(InvalidArgument, "Unknown tagging directive.")),
        }
        if source == (input.bucket.clone(), input.key.clone()) && !replace {
            let what = "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.";
            return Err(s3_error!(InvalidRequest, "{what}"));
        }
        let asked = input.checksum_algorithm.as_ref().map(|algorithm| algorithm.as_str().to_owned());
        checksums::of_upload(asked.as_deref(), None)?;
        let conditions = ReadConditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        let target = input.bucket.clone();
        let opened = self
            .run(move |directory| {
                directory.bucket_exists(&target)?;
                let opened = directory.open_object(&source.0, &source.1)?;
                conditions.check_source(&opened.record)?;
                Ok(opened)
            })
            .await?;
        if opened.size > LARGEST_COPY {
            let what =
                "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120";
            return Err(s3_error!(InvalidRequest, "{what}"));
        }
        let record = if replace {
            describe(&req.headers, input.metadata)
        } else {
            Record { checksums: BTreeMap::new(), parts: Vec::new(), upload: None, ..opened.record.clone() }
        };
        // Copied through the same path as an upload, so that the copy is hashed and compared like one.
        let known: Vec<String> = match asked {
            Some(asked) => vec![asked],
            None => opened.record.checksums.keys().cloned().collect(),
        };
        let claims = Claims::of_source(&opened).want(known.iter().map(String::as_str));
        let conditions = conditions_of(&req.headers)?;
        let (bucket, key) = (input.bucket, input.key);
        let commit = move |directory: &Directory, received: Received| {
            directory.commit(&bucket, &key, received.temporary, &conditions)?;
            Ok(received.record)
        };
        let size = opened.size;
        let source = whole(body(opened.file, 0..size, PathBuf::from("the source of a copy")), &opened.record);
        let copied = receive(self.directory.clone(), Some(source), claims, record, commit).await;
        let record = copied.map_err(rotten)?;
        let result = summed!(&record.checksums => CopyObjectResult {
            e_tag: etag(&record),
            last_modified: Some(Timestamp::from(record.modified())),
            checksum_type: checksums::kind_of(&record.checksums).map(Kind::dto),
        });
        answer(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() })
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = req.input;
        let limit = limit(input.max_keys, "max-keys")?;
        let url = is_url(input.encoding_type.as_ref())?;
        let (prefix, delimiter) = (input.prefix.as_ref(), input.delimiter.as_ref());
        let query = marked(&input.bucket, prefix, delimiter, input.marker.as_ref(), limit);
        let delimiter = query.delimiter.clone();
        let (items, more) = self.page(query).await?;
        // Without a delimiter the last key says the same.
        let last = items.last().filter(|_| more && delimiter.is_some());
        let last = last.map(|item| encoded(item.name().to_owned(), url));
        let (contents, prefixes) = split(items, url, true);
        answer(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(encoded(input.prefix.unwrap_or_default(), url)),
            marker: Some(encoded(input.marker.unwrap_or_default(), url)),
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            is_truncated: Some(more),
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            delimiter: delimiter.map(|delimiter| encoded(delimiter, url)),
            next_marker: last,
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let (after, after_prefix) = match &input.continuation_token {
            Some(token) => from_token(token)?,
            None => {
                let after = input.start_after.clone().unwrap_or_default();
                let within = input.delimiter.as_deref().is_some_and(|it| !it.is_empty() && after.ends_with(it));
                (after, within)
            }
        };
        let url = is_url(input.encoding_type.as_ref())?;
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        let query = Query {
            bucket: input.bucket.clone(),
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: delimiter.clone(),
            after,
            after_prefix,
            limit: limit(input.max_keys, "max-keys")?,
        };
        let (items, more) = self.page(query).await?;
        let next = items.last().filter(|_| more).map(token);
        let count = i32::try_from(items.len()).ok();
        let (contents, prefixes) = split(items, url, input.fetch_owner == Some(true));
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
            delimiter: delimiter.map(|delimiter| encoded(delimiter, url)),
            encoding_type: input.encoding_type,
            start_after: input.start_after.map(|after| encoded(after, url)),
            ..Default::default()
        })
    }

    /// Every object is its own only version, `null`, as in a bucket that never had versions.
    async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = req.input;
        let limit = limit(input.max_keys, "max-keys")?;
        let url = is_url(input.encoding_type.as_ref())?;
        let (prefix, delimiter) = (input.prefix.as_ref(), input.delimiter.as_ref());
        let query = marked(&input.bucket, prefix, delimiter, input.key_marker.as_ref(), limit);
        let (items, more) = self.page(query).await?;
        let last = items.last().filter(|_| more).map(|item| encoded(item.name().to_owned(), url));
        let (contents, prefixes) = split(items, url, true);
        let versions = contents.into_iter().map(|object| ObjectVersion {
            key: object.key,
            e_tag: object.e_tag,
            size: object.size,
            last_modified: object.last_modified,
            owner: object.owner,
            is_latest: Some(true),
            version_id: Some("null".to_owned()),
            storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
            ..Default::default()
        });
        answer(ListObjectVersionsOutput {
            name: Some(input.bucket),
            prefix: Some(encoded(input.prefix.unwrap_or_default(), url)),
            key_marker: Some(encoded(input.key_marker.unwrap_or_default(), url)),
            version_id_marker: input.version_id_marker,
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            is_truncated: Some(more),
            versions: Some(versions.collect()),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(|delimiter| encoded(delimiter, url)),
            next_version_id_marker: last.as_ref().map(|_| "null".to_owned()),
            next_key_marker: last,
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        let (algorithm, kind) = (input.checksum_algorithm.as_ref(), input.checksum_type.as_ref());
        let chosen = checksums::of_upload(algorithm.map(ChecksumAlgorithm::as_str), kind.map(ChecksumType::as_str))?;
        let upload = Upload {
            id: String::new(),
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            record: describe(&req.headers, input.metadata),
            algorithm: chosen.map(|(algorithm, _)| algorithm.to_owned()),
            full: chosen.is_some_and(|(_, kind)| kind == Kind::Full),
        };
        let id = self.run(move |directory| uploads::begin(directory, upload)).await?;
        answer(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: chosen.map(|(algorithm, _)| ChecksumAlgorithm::from(algorithm.to_uppercase())),
            checksum_type: chosen.map(|(_, kind)| kind.dto()),
            ..Default::default()
        })
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let number = part_number(input.part_number)?;
        checksums::make_sense(&req.headers)?;
        let came = checksums::of_part(&req.headers);
        let (id, bucket, key) = (input.upload_id.clone(), input.bucket, input.key);
        let upload = self
            .run(move |directory| {
                let upload = uploads::find(directory, &id, &bucket, &key)?;
                upload.takes(came).map(|()| upload)
            })
            .await?;
        let trailers = trailers(req.trailing_headers, &req.extensions);
        let claims = Claims::of(&req.headers, trailers, input.content_length).want(upload.algorithm.as_deref());
        let id = input.upload_id;
        let commit = move |directory: &Directory, part: Received| uploads::keep(directory, &id, number, part);
        let record = receive(self.directory.clone(), input.body, claims, Record::default(), commit).await?;
        answer(summed!(&record.checksums => UploadPartOutput { e_tag: etag(&record) }))
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = req.input;
        let number = part_number(input.part_number)?;
        let source = source_of(&input.copy_source, &req.headers)?;
        let conditions = ReadConditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        let id = input.upload_id.clone();
        let (upload, found) = self
            .run(move |directory| {
                let upload = uploads::find(directory, &id, &input.bucket, &input.key)?;
                let opened = directory.open_object(&source.0, &source.1)?;
                conditions.check_source(&opened.record)?;
                let range =
                    input.copy_source_range.as_deref().map(|text| source_range(text, opened.size)).transpose()?;
                let found = Found::new(opened, Wanted { range, ..Default::default() }, false)?;
                Ok((upload, found))
            })
            .await?;
        let wanted = found.wanted();
        let all = wanted == (0..found.opened.size);
        // Of a piece of an object nothing is known that it could be compared with.
        let claims = if all { Claims::of_source(&found.opened) } else { Claims::default() };
        let claims = claims.want(upload.algorithm.as_deref());
        let source = body(found.opened.file, wanted, PathBuf::from("the source of a copy"));
        let source = if all { whole(source, &found.opened.record) } else { source };
        let id = input.upload_id;
        let commit = move |directory: &Directory, part: Received| uploads::keep(directory, &id, number, part);
        let copied = receive(self.directory.clone(), Some(source), claims, Record::default(), commit).await;
        let record = copied.map_err(rotten)?;
        let result = summed!(&record.checksums => CopyPartResult {
            e_tag: etag(&record),
            last_modified: Some(Timestamp::from(record.modified())),
        });
        answer(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        let limit = limit(input.max_parts, "max-parts")?;
        let after = match input.part_number_marker.unwrap_or(0) {
            after if after >= 0 => after,
            _ => return Err(s3_error!(InvalidArgument, "part-number-marker must not be negative")),
        };
        let (id, bucket, key) = (input.upload_id.clone(), input.bucket.clone(), input.key.clone());
        let (upload, parts) = self
            .run(move |directory| {
                let upload = uploads::find(directory, &id, &bucket, &key)?;
                Ok((upload, uploads::parts(directory, &id)?))
            })
            .await?;
        let mut wanted = parts.into_iter().filter(|part| part.number > after).peekable();
        let page: Vec<Part> = wanted
            .by_ref()
            .take(limit)
            .map(|part| {
                summed!(&part.record.checksums => Part {
                    part_number: Some(part.number),
                    size: signed(part.size),
                    e_tag: etag(&part.record),
                    last_modified: Some(Timestamp::from(part.record.modified())),
                })
            })
            .collect();
        answer(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            max_parts: i32::try_from(limit).ok(),
            part_number_marker: Some(after),
            next_part_number_marker: page.last().and_then(|part| part.part_number),
            is_truncated: Some(limit > 0 && wanted.peek().is_some()),
            parts: Some(page),
            checksum_algorithm: upload.algorithm.as_ref().map(|it| ChecksumAlgorithm::from(it.to_uppercase())),
            checksum_type: upload.kind().map(Kind::dto),
            owner: Some(owner()),
            initiator: Some(Initiator { display_name: owner().display_name, id: owner().id }),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..Default::default()
        })
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        let limit = limit(input.max_uploads, "max-uploads")?;
        let url = is_url(input.encoding_type.as_ref())?;
        let (marker, id) = (input.key_marker.clone(), input.upload_id_marker.clone());
        let named = id.as_deref().filter(|id| !id.is_empty() && marker.as_deref().is_some_and(|key| !key.is_empty()));
        if named.is_some_and(|id| !uploads::is_id(id)) {
            return Err(s3_error!(InvalidArgument, "Invalid uploadId marker"));
        }
        let query = UploadQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: marker.filter(|key| !key.is_empty()).map(|key| (key, id.filter(|id| !id.is_empty()))),
            limit,
        };
        let bucket = input.bucket.clone();
        let page = self.run(move |directory| uploads::list(directory, &bucket, &query)).await?;
        let uploads = page.uploads.into_iter().map(|upload| MultipartUpload {
            checksum_algorithm: upload.algorithm.as_ref().map(|it| ChecksumAlgorithm::from(it.to_uppercase())),
            checksum_type: upload.kind().map(Kind::dto),
            initiated: Some(timestamp(upload.record.modified_ms)),
            key: Some(encoded(upload.key, url)),
            upload_id: Some(upload.id),
            owner: Some(owner()),
            initiator: Some(Initiator { display_name: owner().display_name, id: owner().id }),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        });
        let prefixes = page.prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(encoded(prefix, url)) });
        let (next_key, next_id) = page.next.clone().unzip();
        answer(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: Some(encoded(input.prefix.unwrap_or_default(), url)),
            delimiter: input.delimiter.map(|delimiter| encoded(delimiter, url)),
            key_marker: Some(encoded(input.key_marker.unwrap_or_default(), url)),
            upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
            max_uploads: i32::try_from(limit).ok(),
            is_truncated: Some(page.next.is_some()),
            next_key_marker: next_key.map(|key| encoded(key, url)),
            next_upload_id_marker: next_id,
            uploads: Some(uploads.collect()),
            common_prefixes: Some(prefixes.collect()),
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let claimed = checksums::claimed(&req.headers);
        checksums::make_sense_of_whole(&claimed)?;
        let host = req.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let location = format!("http://{host}/{}/{}", input.bucket, input.key);
        let asked = input.checksum_type.as_ref().map(|kind| kind.as_str().to_ascii_uppercase());
        if asked.as_deref().is_some_and(|kind| ![Kind::Full.name(), Kind::Composite.name()].contains(&kind)) {
            return Err(s3_error!(InvalidRequest, "Value for x-amz-checksum-type header is invalid."));
        }
        let parts = input.multipart_upload.and_then(|listed| listed.parts).unwrap_or_default();
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let conditions = Preconditions { if_match: input.if_match, if_none_match: input.if_none_match };
        let record = self
            .run(move |directory| {
                let upload = match uploads::find(directory, &input.upload_id, &input.bucket, &input.key) {
                    Err(error) if *error.code() == S3ErrorCode::NoSuchUpload => {
                        let (bucket, key) = (&input.bucket, &input.key);
                        let done = uploads::completed(directory, &input.upload_id, bucket, key, &parts)?;
                        return done.ok_or(error);
                    }
                    found => found?,
                };
                let kind = upload.kind().map(Kind::name);
                if kind.is_some() && asked.is_some() && asked.as_deref() != kind {
                    return Err(s3_error!(
                        InvalidRequest,
                        "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
                        kind.unwrap_or_default()
                    ));
                }
                uploads::complete(directory, upload, &parts, &claimed, input.mpu_object_size, &conditions)
            })
            .await?;
        answer(summed!(&record.checksums => CompleteMultipartUploadOutput {
            location: Some(location),
            bucket: Some(bucket),
            key: Some(key),
            e_tag: etag(&record),
            checksum_type: checksums::kind_of(&record.checksums).map(Kind::dto),
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = req.input;
        self.run(move |directory| {
            directory.bucket_exists(&input.bucket)?;
            uploads::find(directory, &input.upload_id, &input.bucket, &input.key)?;
            uploads::abort(directory, &input.upload_id)
        })
        .await?;
        answer(AbortMultipartUploadOutput::default())
    }
}
