//! What can fail, as facts that name the object.

use domain::{Class, Digest};
use std::{
    io,
    path::{Path, PathBuf},
};

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed while an image was built, read, unpacked or pushed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration or a source file is at fault.
    #[error("{what}")]
    BadInput {
        /// What is wrong with what.
        what: String,
        /// What would mend it.
        hint: Option<String>,
    },
    /// A file of this machine could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// The verb: read, write, create, …
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The engine carried the build out, and it failed.
    #[error("the build failed{}{}: {cause}", at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default(), step.as_ref().map(|s| format!(" in {s:?}")).unwrap_or_default())]
    BuildFailed {
        /// The instruction that failed, as the engine names it: `[builder 2/3] RUN make`, or `Step 2/3 : RUN make`.
        step: Option<String>,
        /// Where it stands: `Dockerfile:7`.
        at: Option<String>,
        /// What the engine says.
        cause: String,
        /// The last lines of output, oldest first, at most 20.
        log: Vec<String>,
    },
    /// The engine's stream ended without an image, or broke.
    #[error("the Docker Engine at {engine} ended the build without an image{}: {cause}", step.as_ref().map(|s| format!(" in {s:?}")).unwrap_or_default())]
    BuildLost {
        /// Address of the engine.
        engine: String,
        /// The instruction it was at.
        step: Option<String>,
        /// How it ended.
        cause: String,
        /// The last lines of output, oldest first, at most 20.
        log: Vec<String>,
    },
    /// No engine answers.
    #[error("no Docker Engine answers at {engine}: {cause}")]
    EngineUnreachable {
        /// The address that was tried.
        engine: String,
        /// Why.
        cause: String,
    },
    /// The engine answered, and did not do it.
    #[error("the Docker Engine at {engine} could not {action}: {cause}")]
    Engine {
        /// Address of the engine.
        engine: String,
        /// What it was to do.
        action: String,
        /// What it says.
        cause: String,
    },
    /// The engine has an image as it was sealed, and does not get it unpacked.
    #[error("the Docker Engine at {engine} could not unpack the image, whose digests hold: {cause}")]
    NotUnpacked {
        /// Address of the engine.
        engine: String,
        /// What it says.
        cause: String,
        /// What shows whether its disk is full.
        next: String,
    },
    /// Bytes are not what their digest, size or type says.
    #[error("image {what} is damaged: {why}")]
    Damaged {
        /// Which layout, blob or image.
        what: String,
        /// What does not hold.
        why: String,
    },
    /// A layer holds something that no image needs and an attacker wants. Nothing of it is kept.
    #[error("layer {layer} is refused at entry {entry:?}: {why}")]
    Hostile {
        /// Which layer.
        layer: Digest,
        /// Which entry of it.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// A tag that names a full version points to another image.
    #[error(
        "tag {tag} of {repository} already points to {is}, not to {wanted}; it was not moved, and nothing was pushed"
    )]
    TagTaken {
        /// The repository.
        repository: String,
        /// The tag.
        tag: String,
        /// Where it points.
        is: String,
        /// Where it was to point.
        wanted: Digest,
    },
    /// Whoever keeps the blobs does not give one.
    #[error("cannot read blob {digest}: {cause}")]
    Source {
        /// Which blob.
        digest: Digest,
        /// What its keeper says.
        cause: String,
        /// What kind of failure that is.
        class: Class,
    },
    /// The registry did not do it.
    #[error("cannot {action} at {reference}: {cause}")]
    Registry {
        /// What was to be done.
        action: String,
        /// The repository, tag or digest.
        reference: String,
        /// What the registry or the network says.
        cause: String,
        /// Unavailable, not permitted or integrity.
        class: Class,
    },
}

impl Error {
    /// What kind of failure it is.
    pub fn class(&self) -> Class {
        match self {
            Self::BadInput { .. } | Self::BuildFailed { .. } | Self::Hostile { .. } => Class::BadInput,
            Self::File { .. } => Class::Internal,
            Self::BuildLost { .. }
            | Self::EngineUnreachable { .. }
            | Self::Engine { .. }
            | Self::NotUnpacked { .. } => Class::Unavailable,
            Self::Damaged { .. } | Self::TagTaken { .. } => Class::Integrity,
            Self::Registry { class, .. } | Self::Source { class, .. } => *class,
        }
    }

    /// What would mend it, when this crate knows better than its caller.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::BadInput { hint, .. } => hint.as_deref(),
            Self::NotUnpacked { next, .. } => Some(next),
            _ => None,
        }
    }

    /// The last lines of the build's output.
    pub fn log_tail(&self) -> &[String] {
        match self {
            Self::BuildFailed { log, .. } | Self::BuildLost { log, .. } => log,
            _ => &[],
        }
    }

    pub(crate) fn bad(what: impl Into<String>) -> Self {
        Self::BadInput { what: what.into(), hint: None }
    }

    pub(crate) fn bad_with(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::BadInput { what: what.into(), hint: Some(hint.into()) }
    }

    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    pub(crate) fn damaged(what: impl ToString, why: impl Into<String>) -> Self {
        Self::Damaged { what: what.to_string(), why: why.into() }
    }
}

/// A number with its noun, as people say it.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A task of the runtime that did not end by itself: it panicked or was cancelled.
pub(crate) fn joined<T>(action: &'static str, result: std::result::Result<T, tokio::task::JoinError>) -> Result<T> {
    result.map_err(|error| Error::File { action, path: PathBuf::from("(worker)"), source: io::Error::other(error) })
}
