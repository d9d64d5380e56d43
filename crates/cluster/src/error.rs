//! Why a target did not do what it was asked.

use domain::{Class, Digest};
use std::path::PathBuf;

/// The result of an operation on a target.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a target did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The workload itself is at fault: it cannot be started here.
    #[error("{place} cannot run: {why}{}", last_lines(.log))]
    Refused {
        /// Which slot.
        place: String,
        /// The cause.
        why: String,
        /// The last lines that it printed, if it printed any.
        log: Vec<String>,
    },
    /// The service behind the target does not answer.
    #[error("{what} at {address} cannot be reached: {why}")]
    Unavailable {
        /// What it is: `the Docker Engine`.
        what: &'static str,
        /// The address that was tried.
        address: String,
        /// The cause.
        why: String,
    },
    /// The service answered that it could not do it.
    #[error("the Docker Engine could not {action} {object}: {why}")]
    Engine {
        /// What it was asked: `create`.
        action: &'static str,
        /// What of.
        object: String,
        /// Its answer.
        why: String,
    },
    /// A newer writer filled the slot.
    #[error("{place} was filled in epoch {found}, and this writer's epoch is {epoch}: it is fenced off")]
    Fenced {
        /// Which slot.
        place: String,
        /// Our epoch.
        epoch: u64,
        /// The slot's.
        found: u64,
    },
    /// Another release runs in the slot that was to be filled.
    #[error("{place} runs release {release}; it must be stopped before another one is put there")]
    Occupied {
        /// Which slot.
        place: String,
        /// What runs there.
        release: String,
    },
    /// The slot does not hold what was to be started or looked at.
    #[error("{place} holds {found}, not what was asked for")]
    NotPrepared {
        /// Which slot.
        place: String,
        /// What is there, in words.
        found: String,
    },
    /// What the target made differs from the container policy.
    #[error("{place} would break the container policy: {}", deviations.join("; "))]
    Policy {
        /// Which slot.
        place: String,
        /// Each deviation that the configuration does not relax by name.
        deviations: Vec<String>,
    },
    /// The image is not that of the release.
    #[error("image of {place}: {why}")]
    Image {
        /// Which slot.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// A secret cannot be read. Its value is never shown.
    #[error("secret {name} ({reference}) cannot be read: {why}")]
    Secret {
        /// The environment variable that is to have it.
        name: String,
        /// Where it was to be read from.
        reference: String,
        /// The cause.
        why: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried: `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file of the target's own says nothing that can be understood.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// A process does not end, or another thing that the system owes us did not happen.
    #[error("{place}: {why}")]
    Stuck {
        /// Which slot.
        place: String,
        /// What did not happen.
        why: String,
    },
}

impl Error {
    /// The class that decides the exit code.
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { .. } | Self::Secret { .. } => Class::BadInput,
            Self::Unavailable { .. } | Self::Engine { .. } => Class::Unavailable,
            Self::Fenced { .. } | Self::Occupied { .. } => Class::Busy,
            Self::NotPrepared { .. } => Class::NotFound,
            Self::Policy { .. } => Class::NotPermitted,
            Self::Image { .. } => Class::Integrity,
            Self::File { .. } | Self::Damaged { .. } | Self::Stuck { .. } => Class::Internal,
        }
    }

    /// Whether the workload itself is the cause, so that a repetition cannot help and going back is right. Everything else
    /// leaves the rollout where it is, to be resumed.
    pub fn is_workloads_fault(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Secret { .. } | Self::Policy { .. } | Self::Image { .. })
    }

    pub(crate) fn refused(place: impl ToString, why: impl Into<String>) -> Self {
        Self::Refused { place: place.to_string(), why: why.into(), log: Vec::new() }
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    pub(crate) fn nothing(place: impl ToString) -> Self {
        Self::NotPrepared { place: place.to_string(), found: "nothing".to_owned() }
    }
}

/// The slot's content is not older than the writer, or the writer is fenced off.
pub(crate) fn fence(place: impl ToString, epoch: u64, found: u64) -> Result<()> {
    if epoch < found { Err(Error::Fenced { place: place.to_string(), epoch, found }) } else { Ok(()) }
}

/// The slot holds the release that is to be started.
pub(crate) fn same_release(place: impl ToString, wanted: &Digest, found: &Digest) -> Result<()> {
    if wanted == found {
        return Ok(());
    }
    Err(Error::NotPrepared { place: place.to_string(), found: format!("release {}", found.short()) })
}

fn last_lines(log: &[String]) -> String {
    if log.is_empty() { String::new() } else { format!("; it last printed:\n  {}", log.join("\n  ")) }
}
