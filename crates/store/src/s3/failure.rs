//! What a failed request means, in words.

use crate::{
    Again, Condition, Error, Result,
    embedded::{DAMAGED, FULL},
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::date_time::{DateTime, Format};
use std::{
    error::Error as Cause,
    time::{Duration, SystemTime},
};

/// What was asked of whom.
pub(super) struct Call<'a> {
    pub(super) store: &'a str,
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    /// Whether the server is in this process.
    pub(super) local: bool,
}

/// The words for 401 and 403 that do not say which of the two it is.
pub(super) const NOT_PERMITTED: &str = "refuses the credentials, or does not permit this to them";

type Failed<E> = SdkError<E, HttpResponse>;

fn status<E>(error: &Failed<E>) -> Option<u16> {
    error.raw_response().map(|raw| raw.status().as_u16())
}

impl Call<'_> {
    /// Absent is `None`, as far as the answer can tell: HEAD does not say whether the key or the bucket is missing.
    pub(super) fn found<T, E>(&self, result: std::result::Result<T, Failed<E>>) -> Result<Option<T>>
    where
        E: ProvideErrorMetadata + Cause + Send + Sync + 'static,
    {
        match result {
            Ok(output) => Ok(Some(output)),
            Err(error) if status(&error) == Some(404) && error.code() != Some("NoSuchBucket") => Ok(None),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// A failed write. Some servers answer 404 to `If-Match` on what is not there.
    pub(super) fn write<E>(&self, error: Failed<E>, condition: &Condition) -> Error
    where
        E: ProvideErrorMetadata + Cause + Send + Sync + 'static,
    {
        match (status(&error), error.code(), condition) {
            (Some(404), code, Condition::Match(_)) if code != Some("NoSuchBucket") => {
                Error::Precondition { key: self.key.to_owned() }
            }
            _ => self.failure(error),
        }
    }

    /// Any other failure.
    pub(super) fn failure<E>(&self, error: Failed<E>) -> Error
    where
        E: ProvideErrorMetadata + Cause + Send + Sync + 'static,
    {
        // A listing of everything has no prefix.
        let key = || if self.key.is_empty() { "a listing".to_owned() } else { self.key.to_owned() };
        match (status(&error), error.code()) {
            (Some(412), _) => return Error::Precondition { key: key() },
            // The object that is not there is the upload: completed before, or aborted by who completed its content first.
            (Some(404), Some("NoSuchUpload")) => return Error::Missing { key: key() },
            (Some(409), code) if code != Some("InvalidBucketState") => return Error::Conflict { key: key() },
            (Some(507), _) | (_, Some(FULL | "XMinioStorageFull")) => {
                let what = error.message().unwrap_or("it answers 507 Insufficient Storage").to_owned();
                return Error::Full { store: self.store.to_owned(), what };
            }
            (_, Some(DAMAGED)) => {
                let what = error.message().unwrap_or("its record has the wrong shape").to_owned();
                return Error::Damaged { key: key(), what };
            }
            // An answer to HEAD has no body, and so no code; only our own server uses this status.
            (Some(422), None) => {
                return Error::Damaged { key: key(), what: "its record has the wrong shape".to_owned() };
            }
            _ => {}
        }
        let (what, again) = (self.words(&error), if self.local { Again::Never } else { again(&error) });
        Error::Unavailable { store: self.store.to_owned(), what, again, source: Some(Box::new(error)) }
    }

    fn words<E>(&self, error: &Failed<E>) -> String
    where
        E: ProvideErrorMetadata + Cause + Send + Sync + 'static,
    {
        let Some(status) = status(error) else { return unreached(error) };
        // A listing of everything has no prefix.
        let key = if self.key.is_empty() { "a listing" } else { self.key };
        let message = error.message().unwrap_or("no reason given");
        match (status, error.code()) {
            (_, Some("NoSuchBucket")) => format!("has no bucket {:?}", self.bucket),
            (_, Some("RequestTimeTooSkewed")) => "says that the clock of this machine is wrong".to_owned(),
            (
                _,
                Some(
                    code @ ("InvalidAccessKeyId"
                    | "SignatureDoesNotMatch"
                    | "NotSignedUp"
                    | "InvalidToken"
                    | "ExpiredToken"),
                ),
            ) => {
                format!("refuses the credentials ({code})")
            }
            (401 | 403, code) => {
                let code = code.map_or_else(|| status.to_string(), str::to_owned);
                format!("{NOT_PERMITTED} ({code}, {key})")
            }
            (
                301 | 307 | 400,
                Some(code @ ("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed")),
            ) => {
                format!("keeps the bucket {:?} in another region ({code}: {message})", self.bucket)
            }
            (429 | 503, code) => format!("is overloaded ({status} {}, {key})", code.unwrap_or("no code")),
            (_, Some(code)) => format!("answers {status} {code} for {key}: {message}"),
            (_, None) => format!("answers {status} for {key}, in a way that is not S3"),
        }
    }
}

/// How long the server asks to wait, in seconds or as a date.
fn retry_after(raw: &HttpResponse) -> Option<Duration> {
    let said = raw.headers().get("retry-after")?.trim();
    if !said.is_empty() && said.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(said.parse().unwrap_or(u32::MAX).into()));
    }
    let date = DateTime::from_str(said, Format::HttpDate).ok()?;
    Some(SystemTime::try_from(date).ok()?.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Whether a request that failed in this way may be sent again.
fn again<E: ProvideErrorMetadata + Cause + Send + Sync + 'static>(error: &Failed<E>) -> Again {
    let Some(raw) = error.raw_response() else {
        let words = unreached(error);
        return match words {
            _ if words.starts_with("has a certificate") || words.starts_with("cannot be asked") => Again::Never,
            _ if words.starts_with("refuses the connection") || words.starts_with("cannot be found") => Again::Nobody,
            _ => Again::Unknown(None),
        };
    };
    let after = retry_after(raw);
    match (raw.status().as_u16(), error.code()) {
        (429, _) => Again::Rejected(after),
        (503, Some("SlowDown" | "SlowDownRead" | "SlowDownWrite" | "RequestLimitExceeded" | "ThrottlingException")) => {
            Again::Rejected(after)
        }
        // What arrived there was not what was sent.
        (
            400,
            Some(
                "BadDigest"
                | "XAmzContentSHA256Mismatch"
                | "InvalidDigest"
                | "IncompleteBody"
                | "XAmzContentChecksumMismatch",
            ),
        ) => Again::Rejected(None),
        (400, Some("RequestTimeout")) | (408, _) => Again::Unknown(after),
        (500 | 502 | 503 | 504, _) => Again::Unknown(after),
        // An answer that breaks off or cannot be read.
        (200..=299, _) => Again::Unknown(None),
        _ => Again::Never,
    }
}

/// A request that got no answer.
fn unreached<E: Cause + Send + Sync + 'static>(error: &Failed<E>) -> String {
    let mut causes = Vec::new();
    let mut next: Option<&(dyn Cause + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind;
            match io.kind() {
                ErrorKind::ConnectionRefused => return "refuses the connection: nothing listens there".to_owned(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return "cut the connection".to_owned(),
                ErrorKind::TimedOut => return "does not answer in time".to_owned(),
                _ => {}
            }
        }
        causes.push(cause.to_string());
        next = cause.source();
    }
    let all = causes.join(": ");
    let timeout = matches!(error, SdkError::TimeoutError(_))
        || matches!(error, SdkError::DispatchFailure(failure) if failure.is_timeout());
    if timeout {
        "does not answer in time".to_owned()
    } else if all.contains("dns error") || all.contains("lookup address") {
        "cannot be found: its host name does not resolve".to_owned()
    } else if all.contains("certificate") {
        format!("has a certificate that is not trusted ({})", causes.last().map_or("", String::as_str))
    } else if all.contains("credential") || all.contains("identity") || all.contains("auth scheme") {
        "cannot be asked, because no credentials were found".to_owned()
    } else if all.contains("connection closed") || all.contains("IncompleteMessage") {
        "cut the connection".to_owned()
    } else {
        format!("cannot be reached ({})", causes.last().map_or("no reason given", String::as_str))
    }
}
