//! What S3 overlooks in the head of a request and `s3s` refuses, mended once the signature is checked.
//!
//! Before that a head cannot be changed, and right behind it `s3s` reads it. So a request that needs mending is taken over
//! between the two, as a route of its own, and handed to a second service, which checks no signature.
//!
//! - A `Range` that cannot be read, or asks for more than one range, is none: all of the object is the answer.
//! - An entity tag in a condition may lack its quotes, whatever it looks like.
//! - User metadata that is sent in several fields of one name is one value, with commas.
//!
//! No request comes here whose signature is missing or wrong, unless the server has no credentials at all; and nothing else of a
//! request is changed.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{AUTHORIZATION, IF_MATCH, IF_NONE_MATCH, RANGE},
    uri::PathAndQuery,
};
use s3s::{
    Body, HttpRequest, S3Error, S3Request, S3Response, S3Result,
    dto::{ETagCondition, Range},
    route::S3Route,
    s3_error,
    service::S3Service,
};

/// Conditions on entity tags.
const TAGS: [HeaderName; 4] = [
    IF_MATCH,
    IF_NONE_MATCH,
    HeaderName::from_static("x-amz-copy-source-if-match"),
    HeaderName::from_static("x-amz-copy-source-if-none-match"),
];
const USER: &str = "x-amz-meta-";

/// Takes over what needs mending.
pub(super) struct Mender {
    behind: S3Service,
    /// Whether there are no credentials, so that nothing is signed.
    open: bool,
}

impl Mender {
    pub(super) fn new(behind: S3Service, open: bool) -> Self {
        Self { behind, open }
    }
}

fn is_range_unreadable(method: &Method, headers: &HeaderMap) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let mut ranges = headers.get_all(RANGE).iter();
    let Some(first) = ranges.next().filter(|_| reads) else { return false };
    // `s3s` takes the suffix without a length for one of no bytes.
    let is_read = |range: &str| range != "bytes=-" && Range::parse(range).is_ok();
    ranges.next().is_some() || !first.to_str().is_ok_and(is_read)
}

/// A tag without quotes, with them. Lists of tags have commas, and stay what they are.
fn quoted(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok().map(str::trim).filter(|text| !text.is_empty())?;
    if ETagCondition::parse_http_header(text.as_bytes()).is_ok() || text.contains(['"', ',', ' ']) {
        return None;
    }
    HeaderValue::try_from(format!("\"{text}\"")).ok()
}

/// User metadata that comes in several fields, as one value each.
fn joined(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    if headers.keys_len() == headers.len() {
        return Vec::new();
    }
    let join = |name: &HeaderName| {
        let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        let value = (values.len() > 1).then(|| HeaderValue::from_bytes(&values.join(&b","[..])).ok()).flatten();
        Some((name.clone(), value?))
    };
    headers.keys().filter(|name| name.as_str().starts_with(USER)).filter_map(join).collect()
}

fn mend(method: &Method, headers: &mut HeaderMap) {
    if is_range_unreadable(method, headers) {
        headers.remove(RANGE);
    }
    for name in TAGS {
        if let Some(tag) = headers.get(&name).and_then(quoted) {
            headers.insert(name, tag);
        }
    }
    for (name, value) in joined(headers) {
        headers.insert(name, value);
    }
}

/// The address without the parameters of a signature, which was checked.
fn unsigned(uri: &Uri) -> Result<Uri, http::Error> {
    let Some(query) = uri.query() else { return Ok(uri.clone()) };
    let is_other = |pair: &&str| !pair.split('=').next().is_some_and(|name| name.starts_with("X-Amz-"));
    let rest: Vec<&str> = query.split('&').filter(is_other).collect();
    let mut parts = uri.clone().into_parts();
    let path = uri.path();
    let target = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
    parts.path_and_query = Some(PathAndQuery::try_from(target)?);
    Ok(Uri::from_parts(parts)?)
}

#[async_trait::async_trait]
impl S3Route for Mender {
    fn is_match(&self, method: &Method, _: &Uri, headers: &HeaderMap, _: &mut http::Extensions) -> bool {
        is_range_unreadable(method, headers)
            || TAGS.iter().any(|name| headers.get(name).and_then(quoted).is_some())
            || !joined(headers).is_empty()
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        if self.open || request.credentials.is_some() {
            return Ok(());
        }
        Err(s3_error!(AccessDenied, "Signature is required"))
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let S3Request { input, method, uri, mut headers, mut extensions, trailing_headers, .. } = request;
        mend(&method, &mut headers);
        headers.remove(AUTHORIZATION);
        // They are known when the body has been read, by whoever reads it.
        trailing_headers.map(|trailers| extensions.insert(trailers));
        let mut mended = HttpRequest::new(input);
        *mended.uri_mut() = unsigned(&uri).map_err(S3Error::internal_error)?;
        (*mended.method_mut(), *mended.headers_mut(), *mended.extensions_mut()) = (method, headers, extensions);
        let answer = self.behind.call(mended).await;
        let answer = answer.map_err(|error| S3Error::with_source(s3s::S3ErrorCode::InternalError, error.into()))?;
        let (parts, output) = answer.into_parts();
        let (status, headers, extensions) = (Some(parts.status), parts.headers, parts.extensions);
        Ok(S3Response { output, status, headers, extensions })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    type Fields = &'static [(&'static str, &'static str)];

    #[test]
    fn only_what_s3_overlooks_is_mended() {
        let cases: [(Method, Fields, Fields); 8] = [
            (Method::GET, &[("range", "bytes=0-1")], &[("range", "bytes=0-1")]),
            (Method::GET, &[("range", "bytes=0-1,3-4"), ("host", "a")], &[("host", "a")]),
            (Method::HEAD, &[("range", "lines=1")], &[]),
            (Method::PUT, &[("range", "lines=1")], &[("range", "lines=1")]),
            (Method::GET, &[("if-match", "a_b")], &[("if-match", "\"a_b\"")]),
            (
                Method::GET,
                &[("if-match", "*"), ("if-none-match", "\"a\"")],
                &[("if-match", "*"), ("if-none-match", "\"a\"")],
            ),
            (Method::GET, &[("if-match", "\"a\", \"b\"")], &[("if-match", "\"a\", \"b\"")]),
            (
                Method::PUT,
                &[("x-amz-meta-a", "1"), ("x-amz-meta-a", "2"), ("x-amz-meta-b", "3")],
                &[("x-amz-meta-a", "1,2"), ("x-amz-meta-b", "3")],
            ),
        ];
        let map = |fields: &[(&str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in fields {
                map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            map
        };
        for (method, before, after) in cases {
            let mut headers = map(before);
            mend(&method, &mut headers);
            assert_eq!(headers, map(after), "{method} {before:?}");
        }
    }

    #[test]
    fn the_signature_goes_from_the_address_and_nothing_else() {
        let uri: Uri = "/b/k%20k?X-Amz-Date=1&partNumber=2&uploads&X-Amz-Signature=3".parse().unwrap();
        assert_eq!(unsigned(&uri).unwrap().to_string(), "/b/k%20k?partNumber=2&uploads");
        let uri: Uri = "/b/k?X-Amz-Date=1".parse().unwrap();
        assert_eq!(unsigned(&uri).unwrap().to_string(), "/b/k");
    }
}
