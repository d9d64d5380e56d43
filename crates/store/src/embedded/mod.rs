//! The embedded S3 server: our own implementation of the protocol (by `s3s`) over a directory.
//!
//! It is served to aws-sdk-s3 inside this process without a socket, and over TCP by [`serve`]. Several processes may use
//! one directory at the same time.
//!
//! # On disk
//!
//! ```text
//! format                      "sealift-store 1"
//! buckets/<bucket>/…          objects, see below
//! uploads/<upload id>/        a multipart upload: meta.json, and one record a part
//! tmp/<session>/              what a process is writing; `lock` is flocked as long as that process lives
//! locks/00 … 3f               flocked while a key of that stripe is checked and committed
//! locks/sessions              flocked while a session is made and dead ones are cleared
//! ```
//!
//! The key is split at `/`. Each part but the last is a directory of that name, the last one a file whose name ends in `@`;
//! so `a` and `a/b` are `a@` and `a/b@` and coexist. Bytes outside `A–Z a–z 0–9 - _ . = ,` are `%XX`, and so is a dot at the
//! beginning; an empty directory name is `%`. Eighty or more bytes are broken: each eighty are a directory whose name ends in
//! `+`. Because everything below a directory shares its prefix, sorting the decoded names of one directory (with `/` behind
//! plain directories) lists keys in byte order without reading any other directory.
//!
//! An object is one file, a *record*: the body from byte 0, then JSON (entity tag, times, types, user metadata, checksums),
//! then 24 bytes: length and CRC-32 of the JSON, length of the body, `sealift1`. A body can be read with `head -c`.
//!
//! # How a request passes
//!
//! `serve` takes connections within `limits`; `front` refuses what S3 refuses by the head of a request and hands bodies on once they
//! are what was signed; `s3s` checks the signature; `mend` takes over what S3 overlooks and `s3s` would not; `protocol` answers, by
//! `receive`, `uploads`, `listing` and `directory`.
//!
//! # What never happens
//!
//! - No reader sees half an object: a record is written to `tmp`, verified against every checksum that came with it,
//!   fsynced, renamed, and its directory fsynced. A kill at any moment leaves the old object or the new one.
//! - No listing names a temporary or an unfinished upload: only files that end in `@` below `buckets` are objects.
//! - No precondition is checked outside of the lock that its commit is made under, across threads and processes.
//! - No temporary of a living process is removed: its session is flocked. Those of dead ones go when
//!   another process begins to serve or first writes.
//! - No object of a wrong shape is served: it is answered with `XSealiftDamaged`. Listings show it, and the others.
//! - No copy is made of bytes that are not what the entity tag of their object says.
//!
//! Not built: versions, ACLs, tags, encryption, lifecycle; and no request is limited in rate.

mod answers;
mod checksums;
mod connector;
mod directory;
mod front;
mod limits;
mod listing;
mod mend;
mod names;
mod protocol;
mod receive;
mod record;
mod serve;
mod uploads;

pub(crate) use connector::InProcess;
pub(crate) use directory::Directory;
pub use limits::Limits;
pub(crate) use protocol::service;
pub use serve::{serve, serve_within};

/// The bucket of an embedded store.
pub(crate) const BUCKET: &str = "sealift";

/// The error code for an object whose record has the wrong shape.
pub(crate) const DAMAGED: &str = "XSealiftDamaged";
/// The error code for a full disk.
pub(crate) const FULL: &str = "XSealiftStorageFull";

/// An input or output error of the server, in words; a full disk has a code of its own.
fn failed(action: &str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> s3s::S3Error {
    let what = format!("cannot {action} {}", path.display());
    move |error| {
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let code = if full { s3s::S3ErrorCode::Custom(FULL.into()) } else { s3s::S3ErrorCode::InternalError };
        let mut answer = s3s::S3Error::with_message(code, format!("{what}: {error}"));
        if full {
            answer.set_status_code(http::StatusCode::INSUFFICIENT_STORAGE);
        }
        answer
    }
}

/// A record of the wrong shape.
fn damaged(path: &std::path::Path, what: &str) -> s3s::S3Error {
    let code = s3s::S3ErrorCode::Custom(DAMAGED.into());
    let mut answer = s3s::S3Error::with_message(code, format!("{}: {what}", path.display()));
    answer.set_status_code(http::StatusCode::UNPROCESSABLE_ENTITY);
    answer
}

/// Whether an error is of a record of the wrong shape.
fn is_damaged(error: &s3s::S3Error) -> bool {
    matches!(error.code(), s3s::S3ErrorCode::Custom(code) if *code == DAMAGED)
}

/// An error of S3 that `s3s` has no name for.
fn custom(code: &'static str, status: http::StatusCode, what: &'static str) -> s3s::S3Error {
    let mut answer = s3s::S3Error::with_message(s3s::S3ErrorCode::Custom(code.into()), what);
    answer.set_status_code(status);
    answer
}

/// Runs blocking work of the server on a thread for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> s3s::S3Result<T> + Send + 'static) -> s3s::S3Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(s3s::S3Error::internal_error)?
}
