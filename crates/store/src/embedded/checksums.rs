//! The rules of S3 for checksums: what a request may claim, and what a whole object has whose parts have checksums.
//!
//! Words: a checksum of the *full object* is that of its bytes; a *composite* one is that of its parts' checksums and ends in
//! `-<parts>`. CRC-64/NVME exists only for full objects, SHA-1 and SHA-256 of multipart uploads only as composites, and CRC-32
//! and CRC-32C as both. The CRC of a full object is computed from those of its parts, without reading them again.

use super::{
    custom,
    receive::{ALGORITHMS, by_name, hasher},
    uploads::PartInfo,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use crc_fast::{CrcAlgorithm, checksum_combine};
use http::{HeaderMap, StatusCode};
use s3s::{S3Error, S3ErrorCode, S3Result, dto::ChecksumType, s3_error};
use std::collections::BTreeMap;

/// Whether the checksum of a multipart object is a composite one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Full,
    Composite,
}

impl Kind {
    pub(super) fn dto(self) -> ChecksumType {
        ChecksumType::from_static(self.name())
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full => ChecksumType::FULL_OBJECT,
            Self::Composite => ChecksumType::COMPOSITE,
        }
    }
}

pub(super) fn bad_digest(algorithm: &str) -> S3Error {
    let what = format!("The {} you specified did not match the calculated checksum.", algorithm.to_uppercase());
    S3Error::with_message(S3ErrorCode::BadDigest, what)
}

pub(super) fn bad_md5() -> S3Error {
    s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received.")
}

/// The body is not the one whose SHA-256 was signed.
pub(super) fn payload_mismatch() -> S3Error {
    custom(
        "XAmzContentSHA256Mismatch",
        StatusCode::BAD_REQUEST,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    )
}

fn bytes_of(algorithm: &str) -> usize {
    match algorithm {
        "crc64nvme" => 8,
        "sha1" => 20,
        "sha256" => 32,
        _ => 4,
    }
}

fn known(name: &str) -> S3Result<&'static str> {
    let name = name.trim().to_ascii_lowercase();
    ALGORITHMS.into_iter().find(|algorithm| *algorithm == name).ok_or_else(|| {
        s3_error!(
            InvalidRequest,
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"
        )
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The checksums in the headers, by algorithm.
pub(super) fn claimed(headers: &HeaderMap) -> BTreeMap<String, String> {
    let value = |algorithm: &str| text(headers, &format!("x-amz-checksum-{algorithm}"));
    ALGORITHMS.iter().filter_map(|algorithm| Some(((*algorithm).to_owned(), value(algorithm)?.to_owned()))).collect()
}

/// Whether the checksum headers of an object or a part make sense; their values are compared when the body is there.
pub(super) fn make_sense(headers: &HeaderMap) -> S3Result<()> {
    let mut found = None;
    for name in headers.keys().filter_map(|name| name.as_str().strip_prefix("x-amz-checksum-")) {
        if matches!(name, "algorithm" | "type" | "mode") {
            continue;
        }
        let algorithm = known(name)?;
        if found.replace(algorithm).is_some() {
            let what = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.";
            return Err(s3_error!(InvalidRequest, "{what}"));
        }
    }
    if let Some(algorithm) = found {
        let value = text(headers, &format!("x-amz-checksum-{algorithm}")).unwrap_or_default();
        is_sum(algorithm, value)?;
    }
    let mut announced = None;
    for trailer in text(headers, "x-amz-trailer").into_iter().flat_map(|list| list.split(',')) {
        let Some(name) = trailer.trim().strip_prefix("x-amz-checksum-") else {
            return Err(s3_error!(InvalidRequest, "The value specified in the x-amz-trailer header is not supported"));
        };
        announced = Some(known(name)?);
    }
    if found.is_some() && announced.is_some() {
        let what = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.";
        return Err(s3_error!(InvalidRequest, "{what}"));
    }
    let Some(wanted) = text(headers, "x-amz-sdk-checksum-algorithm") else { return Ok(()) };
    let wanted = known(wanted)?;
    match found.or(announced) {
        Some(algorithm) if algorithm == wanted => Ok(()),
        Some(_) => Err(s3_error!(InvalidRequest, "Value for x-amz-sdk-checksum-algorithm header is invalid.")),
        None => Err(s3_error!(
            InvalidRequest,
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."
        )),
    }
}

/// Whether a text has the form of a checksum.
pub(super) fn has_form(algorithm: &str, value: &str) -> bool {
    STANDARD.decode(value).is_ok_and(|raw| raw.len() == bytes_of(algorithm))
}

fn is_sum(algorithm: &str, value: &str) -> S3Result<()> {
    if has_form(algorithm, value) {
        return Ok(());
    }
    Err(s3_error!(InvalidRequest, "Value for x-amz-checksum-{algorithm} header is invalid."))
}

/// Whether the checksums that come with a list of parts make sense; a composite one may tell the number of parts.
pub(super) fn make_sense_of_whole(claimed: &BTreeMap<String, String>) -> S3Result<()> {
    if claimed.len() > 1 {
        let what = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.";
        return Err(s3_error!(InvalidRequest, "{what}"));
    }
    claimed.iter().try_for_each(|(algorithm, value)| {
        let (sum, parts) = value.split_once('-').unwrap_or((value, "1"));
        if parts.parse::<u32>().is_err() {
            return Err(s3_error!(InvalidRequest, "Value for x-amz-checksum-{algorithm} header is invalid."));
        }
        is_sum(algorithm, sum)
    })
}

/// The algorithm that a part or its trailer comes with.
pub(super) fn of_part(headers: &HeaderMap) -> Option<&'static str> {
    let named = headers.keys().filter_map(|name| name.as_str().strip_prefix("x-amz-checksum-"));
    let trailer = text(headers, "x-amz-trailer").and_then(|name| name.trim().strip_prefix("x-amz-checksum-"));
    named.chain(trailer).find_map(|name| known(name).ok())
}

/// The algorithm and kind of a multipart upload, from what is asked for.
pub(super) fn of_upload(algorithm: Option<&str>, kind: Option<&str>) -> S3Result<Option<(&'static str, Kind)>> {
    let kind = match kind.map(str::to_ascii_uppercase).as_deref() {
        None => None,
        Some(ChecksumType::FULL_OBJECT) => Some(Kind::Full),
        Some(ChecksumType::COMPOSITE) => Some(Kind::Composite),
        Some(_) => return Err(s3_error!(InvalidRequest, "Value for x-amz-checksum-type header is invalid.")),
    };
    let Some(algorithm) = algorithm.map(known).transpose()? else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(s3_error!(
                InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
            )),
        };
    };
    let kind = match (algorithm, kind) {
        ("crc64nvme", None | Some(Kind::Full)) => Kind::Full,
        ("crc64nvme", Some(Kind::Composite)) | ("sha1" | "sha256", Some(Kind::Full)) => {
            let kind = kind.map_or("", Kind::name);
            return Err(s3_error!(
                InvalidRequest,
                "The {kind} checksum type cannot be used with the {algorithm} checksum algorithm."
            ));
        }
        (_, kind) => kind.unwrap_or(Kind::Composite),
    };
    Ok(Some((algorithm, kind)))
}

/// The kind of the checksum that an object has.
pub(super) fn kind_of(sums: &BTreeMap<String, String>) -> Option<Kind> {
    let composite = sums.values().next()?.contains('-');
    Some(if composite { Kind::Composite } else { Kind::Full })
}

/// The checksum of an object of these parts; `None` when not all of them have one.
pub(super) fn of_parts(algorithm: &str, kind: Kind, parts: &[PartInfo]) -> Option<String> {
    let raw = |part: &PartInfo| STANDARD.decode(part.record.checksums.get(algorithm)?).ok();
    match kind {
        Kind::Composite => {
            let mut sums = hasher(std::iter::once(algorithm));
            for part in parts {
                sums.update(&raw(part)?);
            }
            let sum = by_name(sums.finalize()).remove(algorithm)?;
            Some(format!("{sum}-{}", parts.len()))
        }
        Kind::Full => {
            let crc = match algorithm {
                "crc32" => CrcAlgorithm::Crc32IsoHdlc,
                "crc32c" => CrcAlgorithm::Crc32Iscsi,
                "crc64nvme" => CrcAlgorithm::Crc64Nvme,
                _ => return None,
            };
            let mut whole: Option<u64> = None;
            for part in parts {
                let sum = raw(part)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                whole = Some(whole.map_or(sum, |before| checksum_combine(crc, before, sum, part.size)));
            }
            Some(STANDARD.encode(&whole?.to_be_bytes()[8 - bytes_of(algorithm)..]))
        }
    }
}

/// Why a signed body could not be read to its end. `s3s` keeps the types of these errors to itself, so their words must do;
/// the tests with raw requests hold them.
pub(super) fn broken(what: &str) -> Option<S3Error> {
    if what.contains("Sha256Mismatch") {
        return Some(payload_mismatch());
    }
    if what.contains("SignatureMismatch") {
        let what =
            "The request signature we calculated does not match the signature you provided in a chunk or trailer.";
        return Some(s3_error!(SignatureDoesNotMatch, "{what}"));
    }
    if what.contains("FormatError") {
        // As S3 says of a chunk that has another length than its head tells, too.
        return Some(s3_error!(IncompleteBody, "The request body terminated unexpectedly"));
    }
    if what.contains("TooLarge") || what.contains("TooManyTrailerHeaders") {
        return Some(s3_error!(InvalidRequest, "the aws-chunked framing of the body is wrong"));
    }
    None
}

/// A trailer was announced and did not come.
pub(super) fn no_trailer() -> S3Error {
    custom(
        "MalformedTrailerError",
        StatusCode::BAD_REQUEST,
        "The request contained trailing data that was not well-formed or did not conform to our published schema.",
    )
}
