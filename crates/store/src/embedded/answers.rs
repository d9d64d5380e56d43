//! What the operations share: descriptions of objects from headers, conditions of reads, bodies, pages.

use super::{
    checksums, custom,
    directory::Preconditions,
    failed,
    listing::Item,
    record::{Opened, Record},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, StatusCode};
use rustix::{
    fs::{Advice, fadvise},
    io::ReadWriteFlags,
};
use s3s::{S3Error, S3Response, S3Result, dto::*, s3_error};
use std::{
    collections::BTreeMap,
    fs::File,
    io::IoSliceMut,
    num::NonZeroU64,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// Bodies up to this size are read in one go, before the answer begins.
const SMALL: u64 = 1024 * 1024;
/// Larger ones are read in pieces of this size, which the caches of a processor hold between being read and being sent.
const PIECE: u64 = 256 * 1024;
/// So many buffers of that size are kept for later reads: fresh memory costs more than what is read into it.
const SPARE: usize = 64;
/// The largest page of a listing, as in S3.
const PAGE: usize = 1000;

/// The headers of an object that are given back as they came.
const KEPT: [&str; 6] =
    ["content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires"];

/// An output with the checksums of `$sums` in its five fields.
macro_rules! summed {
    ($sums:expr => $output:ident { $($field:ident: $value:expr),* $(,)? }) => {{
        let sums = $sums;
        #[allow(clippy::needless_update, clippy::let_and_return, reason = "some outputs have no other fields")]
        let output = $output {
            checksum_crc32: sums.get("crc32").cloned(),
            checksum_crc32c: sums.get("crc32c").cloned(),
            checksum_crc64nvme: sums.get("crc64nvme").cloned(),
            checksum_sha1: sums.get("sha1").cloned(),
            checksum_sha256: sums.get("sha256").cloned(),
            $($field: $value,)*
            ..Default::default()
        };
        output
    }};
}
pub(super) use summed;

pub(super) fn answer<T>(output: T) -> S3Result<S3Response<T>> {
    Ok(S3Response::new(output))
}

pub(super) fn etag(record: &Record) -> Option<ETag> {
    Some(ETag::Strong(record.etag.clone()))
}

pub(super) fn timestamp(millis: u64) -> Timestamp {
    Timestamp::from(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(millis))
}

pub(super) fn signed(size: u64) -> Option<i64> {
    i64::try_from(size).ok()
}

/// Everything here belongs to the one who serves it.
pub(super) const OWNER: &str = "sealift";

pub(super) fn owner() -> Owner {
    Owner { display_name: Some(OWNER.to_owned()), id: Some(OWNER.to_owned()) }
}

/// Refuses to know of versions: every object is its own only one.
pub(super) fn is_only_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("" | "null") => Ok(()),
        Some(_) => Err(s3_error!(InvalidArgument, "Invalid version id specified")),
    }
}

/// The description of a new object, from the headers of the request that makes it.
pub(super) fn describe(headers: &HeaderMap, user: Option<Metadata>) -> Record {
    let kept = KEPT.iter().filter_map(|name| {
        let mut value = headers.get(*name)?.to_str().ok()?.to_owned();
        if *name == "content-encoding" {
            // `aws-chunked` is how the body travelled, not what it is.
            let parts: Vec<&str> = value.split(',').map(str::trim).filter(|part| *part != "aws-chunked").collect();
            value = parts.join(",");
        }
        (!value.is_empty()).then(|| ((*name).to_owned(), value))
    });
    Record { headers: kept.collect(), user: user.unwrap_or_default().into_iter().collect(), ..Record::default() }
}

/// The conditions of a request whose input has no fields for them.
pub(super) fn conditions_of(headers: &HeaderMap) -> S3Result<Preconditions> {
    let condition = |name: &'static str| {
        let parsed = headers.get(name).map(|value| ETagCondition::parse_http_header(value.as_bytes())).transpose();
        parsed.map_err(|_| s3_error!(InvalidArgument, "the header {name} cannot be read"))
    };
    Ok(Preconditions { if_match: condition("if-match")?, if_none_match: condition("if-none-match")? })
}

/// `If-Match` and its kin on reads.
#[derive(Debug, Default)]
pub(super) struct ReadConditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    /// Whether they hold, in the order of RFC 9110.
    pub(super) fn check(&self, record: &Record) -> S3Result<()> {
        let same = |condition: &ETagCondition| condition.as_etag().is_none_or(|etag| etag.value() == record.etag);
        // Dates in headers have whole seconds.
        let modified = timestamp(record.modified_ms / 1000 * 1000);
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) if !same(condition) => return Err(precondition_failed()),
            (None, Some(date)) if modified > *date => return Err(precondition_failed()),
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) if same(condition) => Err(not_modified(record)),
            (None, Some(date)) if modified <= *date => Err(not_modified(record)),
            _ => Ok(()),
        }
    }

    /// The same for the source of a copy, where there is no 304.
    pub(super) fn check_source(&self, record: &Record) -> S3Result<()> {
        self.check(record).map_err(|_| precondition_failed())
    }
}

fn precondition_failed() -> S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

/// 304 names the version that the client has.
fn not_modified(record: &Record) -> S3Error {
    let mut headers = HeaderMap::new();
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", record.etag)) {
        headers.insert(http::header::ETAG, etag);
    }
    let mut date = Vec::new();
    let formatted = timestamp(record.modified_ms).format(TimestampFormat::HttpDate, &mut date);
    if let Ok(date) = formatted.map_err(drop).and_then(|()| HeaderValue::try_from(date).map_err(drop)) {
        headers.insert(http::header::LAST_MODIFIED, date);
    }
    let mut error = s3_error!(NotModified);
    error.set_headers(headers);
    error
}

/// 416 names the size, so that the client can ask for what is there.
fn invalid_range(size: u64) -> S3Error {
    let mut error = s3_error!(InvalidRange, "The requested range is not satisfiable");
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    if let Ok(range) = HeaderValue::try_from(format!("bytes */{size}")) {
        headers.insert(http::header::CONTENT_RANGE, range);
    }
    error.set_headers(headers);
    error
}

/// A body from a file that is already open. What the page cache holds is taken from it here and now; what must come from the disk is
/// waited for on a thread of its own, and the next piece is read while it is sent.
pub(super) fn body(file: File, range: std::ops::Range<u64>, path: PathBuf) -> StreamingBlob {
    let read = move |file: &Arc<File>, path: &PathBuf, at: u64| {
        let (file, path) = (file.clone(), path.clone());
        let piece = at..range.end.min(at + PIECE);
        (at < range.end).then(|| tokio::task::spawn_blocking(move || read_piece(&file, piece, &path)))
    };
    let file = Arc::new(file);
    // Nothing is read before somebody asks for it.
    let start = (file, range.start, path, None);
    StreamingBlob::wrap(stream::try_unfold(start, move |(file, at, path, ahead)| async move {
        let cached = if ahead.is_none() { cached(&file, at..range.end.min(at + PIECE)) } else { None };
        if let Some(piece) = cached {
            let next = at + piece.len() as u64;
            return Ok::<_, S3Error>(Some((piece, (file, next, path, None))));
        }
        let Some(reading) = ahead.or_else(|| read(&file, &path, at)) else { return Ok(None) };
        let piece = reading.await.map_err(S3Error::internal_error)??;
        let next = at + piece.len() as u64;
        let ahead = read(&file, &path, next);
        Ok(Some((piece, (file, next, path, ahead))))
    }))
}

/// How far the kernel is told to look ahead.
const AHEAD: Option<NonZeroU64> = NonZeroU64::new(16 * PIECE);

fn read_piece(file: &File, range: std::ops::Range<u64>, path: &Path) -> S3Result<Bytes> {
    let mut piece = Lent::new(&range);
    if range.end - range.start == PIECE {
        // Advice that is not taken costs only time.
        let _ = fadvise(file, range.end, AHEAD, Advice::WillNeed);
    }
    file.read_exact_at(piece.room(), range.start).map_err(failed("read", path))?;
    Ok(Bytes::from_owner(piece))
}

/// A piece that the page cache holds all of; `None` when the disk must be waited for, or there is nothing to read.
fn cached(file: &File, range: std::ops::Range<u64>) -> Option<Bytes> {
    if range.is_empty() {
        return None;
    }
    let mut piece = Lent::new(&range);
    let mut room = [IoSliceMut::new(piece.room())];
    // A file system that cannot tell says so, and is asked again in the way that waits.
    let got = rustix::io::preadv2(file, &mut room, range.start, ReadWriteFlags::NOWAIT).ok()?;
    (got as u64 == range.end - range.start).then(|| Bytes::from_owner(piece))
}

/// Memory for a piece, which goes back to where it came from when the piece was sent.
struct Lent {
    buffer: Vec<u8>,
    length: usize,
}

static BUFFERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

impl Lent {
    fn new(range: &std::ops::Range<u64>) -> Self {
        let length = usize::try_from(range.end - range.start).unwrap_or(0);
        let spare = (length as u64 == PIECE).then(|| BUFFERS.lock().unwrap_or_else(PoisonError::into_inner).pop());
        // What an earlier reader left in a spare one is overwritten before it is a piece.
        Self { buffer: spare.flatten().unwrap_or_else(|| vec![0; length]), length }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.length as u64 == PIECE {
            let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
            if buffers.len() < SPARE {
                buffers.push(std::mem::take(&mut self.buffer));
            }
        }
    }
}

/// What a reader may ask for beside the whole object.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) range: Option<Range>,
    pub(super) part: Option<i32>,
    /// Whether checksums are.
    pub(super) sums: bool,
}

/// What an opened object answers to GET and HEAD alike.
pub(super) struct Found {
    pub(super) opened: Opened,
    range: Option<std::ops::Range<u64>>,
    sums: BTreeMap<String, String>,
    /// The body, when it is small and wanted.
    pub(super) first: Option<Bytes>,
}

impl Found {
    pub(super) fn new(opened: Opened, wanted: Wanted, with_body: bool) -> S3Result<Self> {
        let size = opened.size;
        let (range, sums) = match (wanted.range, wanted.part) {
            (Some(_), Some(_)) => {
                return Err(s3_error!(
                    InvalidRequest,
                    "Cannot specify both Range header and partNumber query parameter"
                ));
            }
            (Some(range), None) => {
                let range = range.check(size).ok().filter(|range| !range.is_empty());
                (Some(range.ok_or_else(|| invalid_range(size))?), BTreeMap::new())
            }
            (None, Some(number)) => part_of(&opened, number)?,
            (None, None) => (None, opened.record.checksums.clone()),
        };
        let whole = range.clone().unwrap_or(0..size);
        // Small bodies are read here and now, on the thread that opened the file.
        let small = with_body && whole.end - whole.start <= SMALL;
        let first = small.then(|| read_piece(&opened.file, whole, Path::new("an object"))).transpose()?;
        Ok(Self { opened, range, sums: if wanted.sums { sums } else { BTreeMap::new() }, first })
    }

    pub(super) fn wanted(&self) -> std::ops::Range<u64> {
        self.range.clone().unwrap_or(0..self.opened.size)
    }

    pub(super) fn content_range(&self) -> Option<String> {
        let range = self.range.as_ref().filter(|range| !range.is_empty())?;
        Some(format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), self.opened.size))
    }

    /// The checksums of what is given back; none of a range.
    pub(super) fn sums(&self) -> &BTreeMap<String, String> {
        &self.sums
    }

    pub(super) fn kind(&self) -> Option<ChecksumType> {
        let whole = checksums::kind_of(&self.opened.record.checksums)?;
        (!self.sums.is_empty()).then(|| whole.dto())
    }

    pub(super) fn header(&self, name: &str, instead: Option<String>) -> Option<String> {
        instead.or_else(|| self.opened.record.headers.get(name).cloned())
    }

    /// What was not said of an object's type is what S3 says of it.
    pub(super) fn content_type(&self, instead: Option<String>) -> Option<String> {
        self.header("content-type", instead).or_else(|| Some("binary/octet-stream".to_owned()))
    }

    /// `Expires` is given back as it came, whether it is a date or not.
    pub(super) fn expires(&self) -> HeaderMap {
        let value = self.opened.record.headers.get("expires").and_then(|value| HeaderValue::try_from(value).ok());
        value.into_iter().map(|value| (http::header::EXPIRES, value)).collect()
    }

    pub(super) fn user(&self) -> Option<Metadata> {
        let user = &self.opened.record.user;
        (!user.is_empty()).then(|| user.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// The number of parts, which is told to those who ask for one.
    pub(super) fn parts_count(&self, part: Option<i32>) -> Option<i32> {
        part.and(i32::try_from(self.opened.record.parts.len()).ok()).filter(|count| *count > 0)
    }
}

type PartRange = (Option<std::ops::Range<u64>>, BTreeMap<String, String>);

/// Where a part lies in its object. An object that came in one piece is its own first part.
fn part_of(opened: &Opened, number: i32) -> S3Result<PartRange> {
    let parts = &opened.record.parts;
    if parts.is_empty() && number == 1 {
        let range = (opened.size > 0).then_some(0..opened.size);
        return Ok((range, opened.record.checksums.clone()));
    }
    let mut begin = 0;
    for part in parts {
        if part.number == number {
            return Ok((Some(begin..begin + part.size), part.checksums.clone()));
        }
        begin += part.size;
    }
    let status = StatusCode::RANGE_NOT_SATISFIABLE;
    Err(custom("InvalidPartNumber", status, "The requested partnumber is not satisfiable."))
}

/// Key names in listings, encoded when the client asked for it.
pub(super) fn encoded(name: String, url: bool) -> String {
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

/// Objects and common prefixes, as listings show them.
pub(super) fn split(items: Vec<Item>, url: bool, with_owner: bool) -> (ObjectList, CommonPrefixList) {
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Object { key, size, etag, modified_ms } => objects.push(Object {
                key: Some(encoded(key, url)),
                size: signed(size),
                e_tag: Some(ETag::Strong(etag)),
                last_modified: Some(timestamp(modified_ms)),
                owner: with_owner.then(owner),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                ..Object::default()
            }),
            Item::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(encoded(prefix, url)) }),
        }
    }
    (objects, prefixes)
}

/// How many lines a page has; `name` is the parameter that says it.
pub(super) fn limit(wanted: Option<i32>, name: &str) -> S3Result<usize> {
    match usize::try_from(wanted.unwrap_or(1000)) {
        Ok(wanted) => Ok(wanted.min(PAGE)),
        Err(_) => Err(s3_error!(InvalidArgument, "{name} must not be negative")),
    }
}

/// Where a page ended, opaque to clients: what its last line was, and its name.
pub(super) fn token(last: &Item) -> String {
    let kind = if matches!(last, Item::Prefix(_)) { 'p' } else { 'k' };
    URL_SAFE_NO_PAD.encode(format!("{kind}{}", last.name()))
}

pub(super) fn from_token(token: &str) -> S3Result<(String, bool)> {
    let bad = || s3_error!(InvalidArgument, "The continuation token provided is incorrect");
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?).map_err(|_| bad())?;
    match text.split_at_checked(1) {
        Some(("p", name)) => Ok((name.to_owned(), true)),
        Some(("k", name)) => Ok((name.to_owned(), false)),
        _ => Err(bad()),
    }
}

/// Whether names are to be encoded for URLs.
pub(super) fn is_url(encoding: Option<&EncodingType>) -> S3Result<bool> {
    match encoding.map(EncodingType::as_str) {
        None => Ok(false),
        Some(EncodingType::URL) => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
    }
}

/// Bucket and key of the source of a copy.
///
/// S3 takes a `+` in that header for a space, as some clients write one; `s3s` does not.
pub(super) fn source_of(source: &CopySource, headers: &HeaderMap) -> S3Result<(String, String)> {
    let written = headers.get("x-amz-copy-source").and_then(|value| value.to_str().ok());
    if !written.is_none_or(is_escaped) {
        return Err(s3_error!(InvalidArgument, "Invalid copy source encoding"));
    }
    let spaced =
        written.filter(|it| it.contains('+')).map(|text| CopySource::parse(&text.replace('+', "%20"))).transpose();
    let spaced =
        spaced.map_err(|_| s3_error!(InvalidArgument, "Copy Source must mention the source bucket and key"))?;
    match spaced.as_ref().unwrap_or(source) {
        CopySource::Bucket { bucket, .. } if !s3s::path::check_bucket_name(bucket) => {
            Err(s3_error!(InvalidArgument, "Invalid copy source bucket name"))
        }
        CopySource::Bucket { key, .. } if key.is_empty() => {
            Err(s3_error!(InvalidArgument, "Copy Source must mention the source bucket and key"))
        }
        CopySource::Bucket { bucket, key, version_id } if version_id.as_deref().is_none_or(|it| it == "null") => {
            Ok((bucket.to_string(), key.to_string()))
        }
        CopySource::Bucket { .. } => Err(s3_error!(InvalidArgument, "Invalid version id specified")),
        _ => Err(s3_error!(NotImplemented, "only objects of this server can be copied")),
    }
}

/// Whether every `%` is followed by two hexadecimal digits.
fn is_escaped(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// The range of a copied part: `bytes=first-last`, and nothing else.
pub(super) fn source_range(text: &str, size: u64) -> S3Result<Range> {
    match Range::parse(text) {
        Ok(range @ Range::Int { last: Some(last), .. }) if last < size => Ok(range),
        Ok(Range::Int { first, last: Some(last) }) => Err(s3_error!(
            InvalidArgument,
            "Range specified is not valid for source object of size: {size} (bytes={first}-{last})"
        )),
        _ => Err(s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy"
        )),
    }
}

/// From 1 to 10,000.
pub(super) fn part_number(number: i32) -> S3Result<i32> {
    if (1..=10_000).contains(&number) {
        return Ok(number);
    }
    Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive."))
}

/// `Expires`, which is whatever somebody wrote: at the object, or in the request.
pub(super) fn expires(found: &Found, overridden: bool, uri: &http::Uri) -> http::HeaderMap {
    if !overridden {
        return found.expires();
    }
    let written = uri.query().into_iter().flat_map(|query| query.split('&'));
    let written = written.filter_map(|pair| pair.strip_prefix("response-expires=")).next().unwrap_or_default();
    let value =
        percent_decoded(&written.replace('+', " ")).and_then(|value| http::HeaderValue::from_bytes(&value).ok());
    value.into_iter().map(|value| (http::header::EXPIRES, value)).collect()
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

/// What `GetObjectAttributes` tells of the parts; their list only when they have checksums, as in S3.
pub(super) fn parts_of(record: &Record, after: i32, limit: usize) -> Option<GetObjectAttributesParts> {
    let total = i32::try_from(record.parts.len()).ok().filter(|total| *total > 0)?;
    let listed = record.parts.iter().any(|part| !part.checksums.is_empty());
    let mut wanted = record.parts.iter().filter(|part| listed && part.number > after).peekable();
    let parts: Vec<ObjectPart> = wanted
        .by_ref()
        .take(limit)
        .map(|part| summed!(&part.checksums => ObjectPart { part_number: Some(part.number), size: signed(part.size) }))
        .collect();
    Some(GetObjectAttributesParts {
        total_parts_count: Some(total),
        is_truncated: Some(wanted.peek().is_some()),
        max_parts: i32::try_from(limit).ok(),
        next_part_number_marker: parts.last().and_then(|part| part.part_number),
        part_number_marker: Some(after),
        parts: listed.then_some(parts),
    })
}
