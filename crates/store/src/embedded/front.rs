//! What stands before the protocol of `s3s`, because `s3s` would answer it otherwise than S3, or not look at it at all.
//!
//! - Only SigV4 is accepted. `s3s` takes SigV2 and browser forms too (which it holds in memory); they are refused by name.
//! - No header `x-amz-…` that the signature does not cover is believed.
//! - No feature that is asked for by a header or a version id, and is not there (encryption with a client's key, retention, tags),
//!   is passed over in silence.
//! - No XML document is acted on before its length, MD5, checksum and SHA-256 are those that came with it.
//! - A server without credentials can check no signature, and says so instead of `501`.
//! - No chunk of `aws-chunked` is larger than [`CHUNK`]: `s3s` holds each one in memory until its signature is checked.
//!
//! Answers get `x-amz-request-id`; errors say what S3 says where `s3s` has no words; a HEAD of a range is `206`.
//! What S3 overlooks once the signature is checked is in `mend`.

use super::{answers::OWNER, checksums, custom, receive::hasher};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use md5::{Digest as _, Md5};
use s3s::{
    Body, HttpError, HttpRequest, HttpResponse, S3Error, S3Result,
    crypto::{Checksum as _, Sha256},
    dto::StreamingBlob,
    s3_error,
    service::S3Service,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The largest chunk of an `aws-chunked` body.
const CHUNK: u64 = 16 * 1024 * 1024;
/// User metadata may have this size, as in S3.
const METADATA: usize = 2048;
/// A presigned URL is valid for a week at most, as in S3.
const LONGEST: u64 = 7 * 24 * 3600;

/// Headers that ask for what this server does not have, and what that is.
const MISSING: [(&str, &str); 8] = [
    ("x-amz-server-side-encryption-customer-algorithm", "encryption"),
    ("x-amz-copy-source-server-side-encryption-customer-algorithm", "encryption"),
    ("x-amz-server-side-encryption", "encryption"),
    ("x-amz-object-lock-mode", "retention"),
    ("x-amz-object-lock-legal-hold", "retention"),
    ("x-amz-tagging", "tags"),
    ("x-amz-website-redirect-location", "redirects"),
    ("x-amz-write-offset-bytes", "appending"),
];

/// The whole server as one function from requests to answers.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    service: S3Service,
    /// Whether there are no credentials, so that only unsigned requests are taken.
    open: bool,
    next: Arc<AtomicU64>,
}

impl Front {
    pub(super) fn new(service: S3Service, open: bool) -> Self {
        Self { service, open, next: Arc::new(AtomicU64::new(1)) }
    }

    /// Answers one request.
    pub(crate) async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let head = request.method() == Method::HEAD;
        let uninvited = expects_nothing(request.headers());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let attributes = *request.method() == Method::GET && query(&request, "attributes").is_some();
        let mut answer = match admit(&request, self.open) {
            Ok(()) => self.pass(request).await?,
            Err(error) => refusal(error)?,
        };
        if attributes && answer.status() == StatusCode::OK {
            answer = answer.map(without_quotes);
        } else if !head && answer.status().as_u16() >= 400 {
            answer = answer.map(|body| in_words(body, number));
        }
        if head && answer.status() == StatusCode::OK && answer.headers().contains_key(header::CONTENT_RANGE) {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        if uninvited {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Ok(id) = HeaderValue::try_from(format!("{number:016X}")) {
            answer.headers_mut().insert("x-amz-request-id", id);
        }
        Ok(answer)
    }

    async fn pass(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let document = is_document(&request);
        // `s3s` looks at no body of a read, so it is looked at here.
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE);
        if reads && !http_body::Body::is_end_stream(request.body()) {
            let (parts, mut body) = request.into_parts();
            let whole = body.store_all_limited(ERROR).await;
            let Ok(bytes) = whole else { return refusal(s3_error!(MaxMessageLengthExceeded)) };
            if let Err(error) = Expected::of(&parts.headers).check(&bytes) {
                return refusal(error);
            }
            return self.service.call(HttpRequest::from_parts(parts, Body::from(bytes))).await;
        }
        // Without a body there is nothing to look at; as a stream, `s3s` would miss its length.
        let empty = http_body::Body::is_end_stream(request.body());
        if empty && let Err(error) = Expected::of(request.headers()).is_of_nothing() {
            return refusal(error);
        }
        if empty || !document && !is_chunked(request.headers()) {
            return self.service.call(request).await;
        }
        let failure = Arc::new(Mutex::new(None));
        let completes = query(&request, "uploadId").is_some();
        let (parts, body) = request.into_parts();
        let body = if document {
            let expected = Expected::of(&parts.headers);
            let expected = if completes { expected.without_sums() } else { expected };
            verified(body, expected, failure.clone())
        } else {
            bounded(body, failure.clone())
        };
        let answer = self.service.call(HttpRequest::from_parts(parts, body)).await?;
        let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failure {
            // It was refused for what the body is; `s3s` knows only that it could not be read.
            Some(error) if !answer.status().is_success() => refusal(error),
            _ => Ok(answer),
        }
    }
}

impl hyper::service::Service<http::Request<hyper::body::Incoming>> for Front {
    type Response = HttpResponse;
    type Error = HttpError;
    type Future = BoxFuture<'static, Result<HttpResponse, HttpError>>;

    fn call(&self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        let front = self.clone();
        Box::pin(async move { front.call(request.map(Body::from)).await })
    }
}

/// The longest error document that is looked at, and the longest body of a request that should have none.
const ERROR: usize = 64 * 1024;

/// An error with the words that S3 has for its code, when it came without, and with the number of the request.
fn in_words(body: Body, number: u64) -> Body {
    let Some(document) = body.bytes().filter(|bytes| bytes.len() <= ERROR) else { return body };
    let Some(text) = std::str::from_utf8(&document).ok().and_then(|text| text.strip_suffix("</Error>")) else {
        return body;
    };
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(code, _)| code);
    let message = match words_of(code) {
        Some(words) if !text.contains("<Message>") => format!("<Message>{words}</Message>"),
        _ => String::new(),
    };
    Body::from(Bytes::from(format!("{text}{message}<RequestId>{number:016X}</RequestId></Error>")))
}

fn words_of(code: &str) -> Option<&'static str> {
    Some(match code {
        "BucketNotEmpty" => "The bucket you tried to delete is not empty.",
        "EntityTooSmall" => "Your proposed upload is smaller than the minimum allowed size",
        "IncompleteBody" => "You did not provide the number of bytes specified by the Content-Length HTTP header",
        "InvalidBucketName" => "The specified bucket is not valid.",
        "InvalidDigest" => "The Content-MD5 you specified was invalid.",
        "InvalidPartOrder" => "The list of parts was not in ascending order. Parts must be ordered by part number.",
        "InvalidURI" => "Couldn't parse the specified URI.",
        "KeyTooLongError" => "Your key is too long.",
        "MalformedXML" => "The XML you provided was not well-formed or did not validate against our published schema.",
        "MaxMessageLengthExceeded" => "Your request was too big.",
        "MethodNotAllowed" => "The specified method is not allowed against this resource.",
        "MissingContentLength" => "You must provide the Content-Length HTTP header.",
        "NoSuchBucket" => "The specified bucket does not exist.",
        "NoSuchKey" => "The specified key does not exist.",
        "NoSuchUpload" => {
            "The specified multipart upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
        }
        "NotImplemented" => "A header or a query you provided implies functionality that is not implemented.",
        "OperationAborted" => {
            "A conflicting conditional operation is currently in progress against this resource. Please try again."
        }
        "PreconditionFailed" => "At least one of the pre-conditions you specified did not hold",
        "SignatureDoesNotMatch" => {
            "The request signature we calculated does not match the signature you provided. Check your key and signing method."
        }
        _ => return None,
    })
}

/// `GetObjectAttributes` is the only answer of S3 whose entity tag has no quotes.
fn without_quotes(body: Body) -> Body {
    let Some(document) = body.bytes() else { return body };
    let text = String::from_utf8_lossy(&document);
    let Some((before, rest)) = text.split_once("<ETag>") else { return body };
    let Some((tag, behind)) = rest.split_once("</ETag>") else { return body };
    let tag = tag.replace("&quot;", "").replace('"', "");
    Body::from(Bytes::from(format!("{before}<ETag>{tag}</ETag>{behind}")))
}

fn refusal(error: S3Error) -> Result<HttpResponse, HttpError> {
    error.to_http_response().map_err(|error| HttpError::new(Box::new(error)))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The value of a query parameter, as it is written. Its name may be written in any way, for `s3s` reads it in any.
fn query<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.uri().query()?.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        is_written(name, found).then_some(value)
    })
}

/// Whether a text means this name, each byte of which may be written `%XX`.
fn is_written(name: &str, text: &str) -> bool {
    let mut rest = text.as_bytes();
    name.bytes().all(|byte| {
        let (found, behind) = match rest {
            [b'%', high, low, behind @ ..] => {
                let digit = |digit: u8| char::from(digit).to_digit(16);
                let decoded = digit(*high).zip(digit(*low)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                (decoded, behind)
            }
            [found, behind @ ..] => (Some(*found), behind),
            [] => return false,
        };
        rest = behind;
        found == Some(byte)
    }) && rest.is_empty()
}

/// Whether leave is asked to send a body of no bytes: the answer then comes without the `100 Continue` that S3 sends first. The
/// AWS CLI up to 2.9, of Debian 12, misreads the next answer on such a connection, so there must be none.
fn expects_nothing(headers: &HeaderMap) -> bool {
    headers.contains_key(header::EXPECT) && text(headers, "content-length") == Some("0")
}

/// Whether the body is an XML document rather than an object.
fn is_document(request: &HttpRequest) -> bool {
    let has_key = request.uri().path().trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
    match *request.method() {
        Method::PUT => !has_key,
        Method::POST => true,
        _ => false,
    }
}

fn is_chunked(headers: &HeaderMap) -> bool {
    text(headers, "x-amz-content-sha256").is_some_and(|value| value.starts_with("STREAMING-"))
}

/// What can be said of a request by its head.
fn admit(request: &HttpRequest, open: bool) -> S3Result<()> {
    let headers = request.headers();
    signature(request, open)?;
    for name in ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"] {
        if headers.get(name).is_some_and(|owner| owner != OWNER) {
            return Err(s3_error!(AccessDenied, "Access Denied: the bucket has another owner than {name} says"));
        }
    }
    let form = text(headers, "content-type").is_some_and(|value| value.starts_with("multipart/form-data"));
    if request.method() == Method::POST && form {
        return Err(s3_error!(NotImplemented, "browser forms are not taken; use PUT"));
    }
    if let Some((_, what)) = MISSING.iter().find(|(name, _)| headers.contains_key(*name)) {
        return Err(s3_error!(NotImplemented, "this server has no {what}"));
    }
    if query(request, "versionId").is_some_and(|version| !matches!(version, "" | "null")) {
        return Err(s3_error!(InvalidArgument, "Invalid version id specified"));
    }
    let user: usize = headers
        .iter()
        .filter_map(|(name, value)| Some(name.as_str().strip_prefix("x-amz-meta-")?.len() + value.len()))
        .sum();
    if user > METADATA {
        return Err(s3_error!(MetadataTooLarge, "Your metadata headers exceed the maximum allowed metadata size"));
    }
    Ok(())
}

/// Whether the request is signed in a way that `s3s` then checks; see the module above.
fn signature(request: &HttpRequest, open: bool) -> S3Result<()> {
    let headers = request.headers();
    let authorization = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let presigned = query(request, "X-Amz-Signature").is_some() || query(request, "X-Amz-Credential").is_some();
    let second = query(request, "AWSAccessKeyId").is_some() || query(request, "Signature").is_some();
    if second || authorization.is_some_and(|value| value.starts_with("AWS ")) {
        return Err(s3_error!(
            InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
        ));
    }
    if open {
        if authorization.is_some() || presigned {
            return Err(s3_error!(
                AccessDenied,
                "this server has no credentials, so it can check no signature: send the request unsigned, or give the server credentials"
            ));
        }
        let framed = text(headers, "content-encoding").is_some_and(|value| value.contains("aws-chunked"));
        if framed || is_chunked(headers) {
            return Err(s3_error!(InvalidRequest, "aws-chunked bodies are taken only in signed requests"));
        }
        return Ok(());
    }
    let token = headers.contains_key("x-amz-security-token") || query(request, "X-Amz-Security-Token").is_some();
    if token && (authorization.is_some() || presigned) {
        return Err(s3_error!(InvalidToken, "The provided token is malformed or otherwise invalid."));
    }
    match authorization {
        Some(_) if presigned => Err(s3_error!(
            InvalidArgument,
            "Only one auth mechanism allowed; use the Authorization header or the query"
        )),
        Some(value) => signed_header(headers, value),
        None if presigned => signed_query(request),
        // `s3s` refuses what has no signature.
        None => Ok(()),
    }
}

/// What `x-amz-content-sha256` may say besides a SHA-256.
const PAYLOADS: [&str; 6] = [
    "UNSIGNED-PAYLOAD",
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
    "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER",
];

fn is_digest(value: &str) -> bool {
    value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn payload(headers: &HeaderMap) -> S3Result<()> {
    let Some(value) = headers.get("x-amz-content-sha256") else { return Ok(()) };
    let value = value.to_str().unwrap_or_default();
    if !is_digest(value) && !PAYLOADS.contains(&value) {
        return Err(s3_error!(
            InvalidArgument,
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD, STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER or a valid sha256 value."
        ));
    }
    if value == "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" && !headers.contains_key("x-amz-trailer") {
        return Err(checksums::no_trailer());
    }
    Ok(())
}

fn malformed(what: &str) -> S3Error {
    s3_error!(AuthorizationHeaderMalformed, "The authorization header is malformed; {what}")
}

fn signed_header(headers: &HeaderMap, authorization: &str) -> S3Result<()> {
    let Some(fields) = authorization.strip_prefix("AWS4-HMAC-SHA256") else {
        return Err(s3_error!(InvalidArgument, "Unsupported Authorization Type"));
    };
    let field = |name: &str| {
        fields
            .split(',')
            .find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
            .filter(|it| !it.is_empty())
    };
    let credential = field("Credential").ok_or_else(|| malformed("missing Credential."))?;
    let signed = field("SignedHeaders").ok_or_else(|| malformed("missing SignedHeaders."))?;
    field("Signature").ok_or_else(|| malformed("missing Signature."))?;
    let date = scope(credential).map_err(|what| malformed(&what))?;
    let Some(time) = text(headers, "x-amz-date").filter(|time| is_date(time)) else {
        return Err(s3_error!(AccessDenied, "AWS authentication requires a valid Date or x-amz-date header."));
    };
    same_day(date, time).map_err(|what| malformed(&what))?;
    payload(headers)?;
    covered(headers, signed, &[])
}

fn signed_query(request: &HttpRequest) -> S3Result<()> {
    let wrong = |what: &str| s3_error!(AuthorizationQueryParametersError, "{what}");
    let field = |name: &str| query(request, name).filter(|value| !value.is_empty());
    for name in
        ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"]
    {
        if field(name).is_none() {
            return Err(wrong(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
            ));
        }
    }
    if field("X-Amz-Algorithm") != Some("AWS4-HMAC-SHA256") {
        return Err(wrong("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
    }
    let credential = unescaped(field("X-Amz-Credential").unwrap_or_default());
    let parsed = scope(&credential).map_err(|what| format!("Error parsing the X-Amz-Credential parameter; {what}"));
    let date = parsed.map_err(|what| wrong(&what))?;
    let Some(time) = field("X-Amz-Date").filter(|time| is_date(time)) else {
        return Err(wrong("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\""));
    };
    same_day(date, time).map_err(|what| wrong(&what))?;
    payload(request.headers())?;
    match field("X-Amz-Expires").unwrap_or_default().parse::<i64>().map(u64::try_from) {
        Ok(Ok(seconds)) if seconds <= LONGEST => {}
        Ok(Ok(_)) => {
            return Err(wrong(
                "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds",
            ));
        }
        Ok(Err(_)) => return Err(wrong("X-Amz-Expires must be non-negative")),
        Err(_) => return Err(wrong("X-Amz-Expires should be a number")),
    }
    if !field("X-Amz-Signature").is_some_and(is_digest) {
        return Err(s3_error!(SignatureDoesNotMatch));
    }
    let signed = unescaped(field("X-Amz-SignedHeaders").unwrap_or_default());
    // The hash of the body is not known when a URL is made.
    covered(request.headers(), &signed, &["x-amz-content-sha256"])
}

/// `%2F` and `%3B` are what credentials and lists of headers hold in a query.
fn unescaped(value: &str) -> String {
    ["%2F", "%2f"]
        .iter()
        .fold(value.to_owned(), |value, it| value.replace(it, "/"))
        .replace("%3B", ";")
        .replace("%3b", ";")
}

/// The date of `KEY/date/region/s3/aws4_request`; a key may have slashes.
fn scope(credential: &str) -> Result<&str, String> {
    let parts: Vec<&str> = credential.rsplitn(5, '/').collect();
    let [end, service, _region, date, key] = parts[..] else {
        return Err(MALFORMED.to_owned());
    };
    if key.is_empty() {
        return Err(MALFORMED.to_owned());
    }
    if end != "aws4_request" {
        return Err(format!("incorrect terminal \"{end}\". This endpoint uses \"aws4_request\"."));
    }
    if service != "s3" {
        return Err(format!("incorrect service \"{service}\". This endpoint belongs to \"s3\"."));
    }
    if date.len() != 8 || !date.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "incorrect date format \"{date}\". This date in the credential must be in the format \"yyyyMMdd\"."
        ));
    }
    Ok(date)
}

const MALFORMED: &str = "the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".";

/// A credential is for one day, which must be that of the request.
fn same_day(date: &str, time: &str) -> Result<(), String> {
    match time.get(..8) {
        Some(day) if day == date => Ok(()),
        day => Err(format!(
            "Invalid credential date \"{date}\". This date is not the same as X-Amz-Date: \"{}\".",
            day.unwrap_or_default()
        )),
    }
}

fn is_date(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.len() == 16
        && bytes[8] == b'T'
        && bytes[15] == b'Z'
        && bytes.iter().enumerate().all(|(at, byte)| matches!(at, 8 | 15) || byte.is_ascii_digit())
}

/// Every header that means something to S3 must be under the signature.
fn covered(headers: &HeaderMap, signed: &str, free: &[&str]) -> S3Result<()> {
    let is_signed = |name: &str| signed.split(';').any(|signed| signed.trim().eq_ignore_ascii_case(name));
    let means = |name: &str| name.starts_with("x-amz-") || name == "host";
    match headers
        .keys()
        .map(header::HeaderName::as_str)
        .find(|name| means(name) && !is_signed(name) && !free.contains(name))
    {
        None => Ok(()),
        Some(name) => {
            Err(s3_error!(AccessDenied, "There were headers present in the request which were not signed: {name}"))
        }
    }
}

/// The SHA-256 of no bytes.
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What the head says of a document.
struct Expected {
    length: Option<u64>,
    md5: Option<String>,
    sha256: Option<String>,
    sums: BTreeMap<String, String>,
}

impl Expected {
    fn of(headers: &HeaderMap) -> Self {
        Self {
            length: text(headers, "content-length").and_then(|value| value.parse().ok()),
            md5: text(headers, "content-md5").map(str::to_owned),
            sha256: text(headers, "x-amz-content-sha256").filter(|value| is_digest(value)).map(str::to_lowercase),
            sums: checksums::claimed(headers),
        }
    }

    /// What came with the list of parts: the checksums beside it are of the object, not of the list.
    fn without_sums(self) -> Self {
        Self { sums: BTreeMap::new(), ..self }
    }

    /// Whether no body is what was signed; its other sums are compared where they are kept.
    fn is_of_nothing(&self) -> S3Result<()> {
        match &self.sha256 {
            Some(claimed) if claimed != OF_NOTHING => Err(checksums::payload_mismatch()),
            _ => Ok(()),
        }
    }

    fn check(&self, body: &[u8]) -> S3Result<()> {
        if let Some(claimed) = &self.sha256
            && *claimed != hex::encode(Sha256::checksum(body).as_ref() as &[u8])
        {
            return Err(checksums::payload_mismatch());
        }
        if let Some(claimed) = &self.md5 {
            match STANDARD.decode(claimed) {
                Ok(claimed) if claimed.len() == 16 => {
                    if claimed[..] != Md5::digest(body)[..] {
                        return Err(checksums::bad_md5());
                    }
                }
                _ => return Err(s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid.")),
            }
        }
        let mut sums = hasher(self.sums.keys().map(String::as_str));
        sums.update(body);
        let found = super::receive::by_name(sums.finalize());
        match self.sums.iter().find(|(name, claimed)| found.get(*name) != Some(claimed)) {
            Some((name, _)) => Err(checksums::bad_digest(name)),
            None => Ok(()),
        }
    }
}

/// Why a body was not handed on.
type Failure = Arc<Mutex<Option<S3Error>>>;

fn fail(failure: &Failure, error: S3Error) -> std::io::Error {
    let what = error.to_string();
    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    std::io::Error::other(what)
}

/// Hands a document on once all of it is there and is what its head says. Its length is limited by `s3s`, which counts what it gets.
fn verified(body: Body, expected: Expected, failure: Failure) -> Body {
    let start = (StreamingBlob::from(body), Vec::new(), expected, failure, false);
    let stream = stream::try_unfold(start, |(mut body, mut held, expected, failure, mut ended)| async move {
        if ended {
            return Ok::<_, std::io::Error>(None);
        }
        // `s3s` stops asking when the announced length is there, so that is the end too.
        while !ended && expected.length != Some(held.len() as u64) {
            match body.next().await {
                Some(Ok(bytes)) => held.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(std::io::Error::other(error)),
                None => ended = true,
            }
            if held.len() > DOCUMENT {
                let error = s3_error!(MaxMessageLengthExceeded, "Your request was too big.");
                return Err(fail(&failure, error));
            }
        }
        expected.check(&held).map_err(|error| fail(&failure, error))?;
        let bytes = Bytes::from(std::mem::take(&mut held));
        Ok((!bytes.is_empty()).then_some((bytes, (body, held, expected, failure, true))))
    });
    Body::from(StreamingBlob::wrap(stream))
}

/// Where a framed body is being read.
#[derive(Debug)]
enum Frame {
    /// In the line that begins a chunk, with the size so far; the flag tells that the digits have ended.
    Line(u64, bool),
    /// In the data of a chunk and the two bytes behind it; so many are left.
    Data(u64),
    /// Behind the last chunk.
    Trailers,
}

impl Frame {
    /// Follows a piece of the body; false when it announces a chunk that is too large.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((&first, rest)) = bytes.split_first() {
            match self {
                Self::Trailers => return true,
                Self::Data(left) => {
                    let step = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= step as u64;
                    bytes = &bytes[step..];
                    if *left == 0 {
                        *self = Self::Line(0, false);
                    }
                    continue;
                }
                Self::Line(size, ended) => match char::from(first).to_digit(16) {
                    Some(digit) if !*ended => {
                        *size = *size * 16 + u64::from(digit);
                        if *size > CHUNK {
                            return false;
                        }
                    }
                    _ if first == b'\n' => *self = if *size == 0 { Self::Trailers } else { Self::Data(*size + 2) },
                    _ => *ended = true,
                },
            }
            bytes = rest;
        }
        true
    }
}

/// Stops an `aws-chunked` body at a chunk that is too large to be held, and at an end that comes before the last chunk.
fn bounded(body: Body, failure: Failure) -> Body {
    let start = (StreamingBlob::from(body), Frame::Line(0, false), failure);
    let stream = stream::try_unfold(start, |(mut body, mut frame, failure)| async move {
        match body.next().await.transpose().map_err(std::io::Error::other)? {
            Some(bytes) if frame.follow(&bytes) => Ok(Some((bytes, (body, frame, failure)))),
            Some(_) => {
                let what = "a chunk is larger than 16 MiB";
                Err(fail(&failure, custom("InvalidChunkSizeError", StatusCode::BAD_REQUEST, what)))
            }
            None if matches!(frame, Frame::Trailers) => Ok(None),
            None => Err(fail(&failure, s3_error!(IncompleteBody, "The request body terminated unexpectedly"))),
        }
    });
    Body::from(StreamingBlob::wrap(stream))
}

/// The largest XML document: a thousand keys of a thousand bytes, or ten thousand parts, with room.
pub(super) const DOCUMENT: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_followed_however_the_body_is_cut() {
        let good = b"4;chunk-signature=abc\r\nwxyz\r\n10\r\n0123456789abcdef\r\n0\r\nx-amz-checksum-crc32:FFFFFFFFFFFF\r\n\r\n";
        let large = b"4\r\nwxyz\r\n1000001\r\n";
        for size in 1..good.len() {
            let mut frame = Frame::Line(0, false);
            assert!(good.chunks(size).all(|piece| frame.follow(piece)) && matches!(frame, Frame::Trailers), "{size}");
            let mut frame = Frame::Line(0, false);
            assert!(!large.chunks(size).all(|piece| frame.follow(piece)), "{size}");
        }
    }
}
