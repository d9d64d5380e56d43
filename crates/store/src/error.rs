//! What fails in the store: facts with the object's name. `sealift` adds the hint.

use bytes::Bytes;
use domain::{Class, Digest};
use std::{path::PathBuf, time::Duration};

/// Whether a request that failed may be sent again, as far as its failure tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It would fail again: refused credentials, no such bucket, an answer that is not S3.
    Never,
    /// Nobody listens there, or the name is not found: most often nobody will.
    Nobody,
    /// It was not carried out: overload, bytes damaged on the way. The server may say how long to wait.
    Rejected(Option<Duration>),
    /// It may have been carried out: no answer, a cut connection, an internal error.
    Unknown(Option<Duration>),
    /// The same, and it was tried as often as it is worth.
    Open,
}

/// What failed in the store. Facts only; `sealift` adds hints.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// 412.
    #[error("the condition on {key} does not hold")]
    Precondition {
        /// Which object.
        key: String,
    },
    /// 409.
    #[error("a concurrent write to {key} is in progress")]
    Conflict {
        /// Which object.
        key: String,
    },
    /// A thing that must be there is not.
    #[error("{key} is not in the store")]
    Missing {
        /// Which object.
        key: String,
    },
    /// Bytes do not have the digest that names them.
    #[error("{key} is corrupt: expected {expected}, found {found}")]
    Corrupt {
        /// Which object.
        key: String,
        /// The digest that it should have.
        expected: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// A create-only object exists with other content.
    #[error("{key} exists already with other content")]
    Exists {
        /// Which object.
        key: String,
        /// What is there.
        existing: Bytes,
    },
    /// The store cannot be reached or answers wrongly.
    #[error("the store {store} {what}")]
    Unavailable {
        /// Which store.
        store: String,
        /// What it did, in words: "does not answer", "refuses the credentials", …
        what: String,
        /// Whether asking again may help.
        again: Again,
        /// The cause below.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The disk behind the store is full, or its quota or inodes are used up. Nothing was kept of what was sent.
    #[error("the disk of the store {store} is full: {what}")]
    Full {
        /// Which store.
        store: String,
        /// What it says.
        what: String,
    },
    /// Someone else holds the lease.
    #[error("{environment} is held by {holder} (epoch {epoch}, {op})")]
    Held {
        /// The environment.
        environment: String,
        /// Who holds it: `user@host pid 123`.
        holder: String,
        /// The epoch of the holder.
        epoch: u64,
        /// What it is doing.
        op: String,
    },
    /// This writer is no longer the newest.
    #[error("epoch {ours} of {environment} was overtaken by epoch {newest}")]
    Fenced {
        /// The environment.
        environment: String,
        /// Our epoch.
        ours: u64,
        /// The epoch that is newer.
        newest: u64,
    },
    /// An object is damaged in a way that leaves nothing to compare.
    #[error("{key} is damaged: {what}")]
    Damaged {
        /// Which object.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// An object is larger than its reader allows.
    #[error("{key} has {size} bytes, more than the {limit} that are allowed")]
    TooLarge {
        /// Which object.
        key: String,
        /// Its size.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A local file is not what it was when its digest was taken.
    #[error("the file {path} changed: expected {expected}, found {found}")]
    Changed {
        /// Which file.
        path: PathBuf,
        /// The digest that was taken.
        expected: Digest,
        /// The digest of what was read now.
        found: Digest,
    },
    /// Serving to other machines without credentials is refused.
    #[error("{listen} is not a loopback address and no credentials are set, so anyone could write to the store")]
    Open {
        /// The address.
        listen: std::net::SocketAddr,
    },
    /// A bucket cannot have this name.
    #[error("{bucket:?} is not a bucket name (3 to 63 lower-case letters, digits, dots and hyphens)")]
    BadBucket {
        /// The name.
        bucket: String,
    },
    /// The address of the embedded server cannot be listened on.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: std::net::SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A local file could not be read or written.
    #[error("{action} {path}")]
    File {
        /// What was tried: "read", "write", "rename".
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// The class, for the exit code.
    pub fn class(&self) -> Class {
        match self {
            Self::Precondition { .. } | Self::Conflict { .. } | Self::Held { .. } | Self::Fenced { .. } => Class::Busy,
            Self::Missing { .. } => Class::NotFound,
            Self::Corrupt { .. } | Self::Damaged { .. } | Self::Exists { .. } => Class::Integrity,
            Self::TooLarge { .. } | Self::Changed { .. } => Class::BadInput,
            Self::Unavailable { .. } | Self::Listen { .. } => Class::Unavailable,
            Self::Open { .. } | Self::BadBucket { .. } => Class::Usage,
            Self::File { .. } | Self::Full { .. } => Class::Internal,
        }
    }

    /// An [`Error::Unavailable`] that asking again does not help against.
    pub fn unavailable(store: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Unavailable { store: store.into(), what: what.into(), again: Again::Never, source: None }
    }

    /// An [`Error::Unavailable`] that may pass, from a store that may have done what it was asked.
    pub(crate) fn passing(store: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Unavailable { store: store.into(), what: what.into(), again: Again::Unknown(None), source: None }
    }

    /// Whether what was asked may have been done all the same, by us with a lost answer or by another writer.
    pub fn may_be_done(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::Unavailable { again: Again::Unknown(_) | Again::Open, .. })
    }

    /// Whether asking again may help.
    pub fn again(&self) -> Again {
        match self {
            Self::Unavailable { again, .. } => *again,
            _ => Again::Never,
        }
    }

    /// The same, but final: it was tried as often as it is worth. Whether it may have been done stays as it is.
    pub(crate) fn given_up(mut self, tried: u32, took: Duration) -> Self {
        if let Self::Unavailable { what, again, .. } = &mut self {
            *again = if matches!(again, Again::Unknown(_) | Again::Open) { Again::Open } else { Again::Never };
            if tried > 1 {
                *what = format!("{what}, {tried} times in {:.1} s", took.as_secs_f64());
            }
        }
        self
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

/// The result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
