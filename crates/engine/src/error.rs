//! What can fail in the engine: what was being done, and the cause below.

use crate::git::GitError;
use domain::{
    Class, ReleaseName,
    gate::{GateResult, Verdict},
    manifest::Difference,
    names::Unknown,
    plan::Refusal,
};
use std::path::{Path, PathBuf};

/// The result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What failed, in facts. `sealift` adds the next command and the exit code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no `Sealift.toml` here or above.
    #[error("there is no Sealift.toml in {} or above it", start.display())]
    NoWorkspace {
        /// Where the search began.
        start: PathBuf,
    },
    /// `Sealift.toml` has problems.
    #[error("{problems}")]
    Config {
        /// All of them.
        problems: domain::config::Problems,
    },
    /// A name that does not exist.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// A name, reference or option that is not well formed.
    #[error("{message}")]
    Usage {
        /// What is wrong with it.
        message: String,
    },
    /// git has no usable commit.
    #[error(transparent)]
    Git(GitError),
    /// Something in the repository stands in the way of what was asked.
    #[error("{message}")]
    BadInput {
        /// What.
        message: String,
        /// The next command, when it depends on what was found.
        next: Option<String>,
    },
    /// A thing that is needed does not exist.
    #[error("{message}")]
    NotFound {
        /// What.
        message: String,
        /// The next command, when it depends on what was found.
        next: Option<String>,
    },
    /// It is not allowed.
    #[error("{message}")]
    NotPermitted {
        /// What.
        message: String,
        /// The next command.
        next: Option<String>,
    },
    /// A fault of Sealift itself or of the machine below it.
    #[error("{message}")]
    Internal {
        /// What.
        message: String,
    },
    /// A signature, a digest or a chain does not hold.
    #[error("{message}")]
    Integrity {
        /// What does not hold, and where.
        message: String,
    },
    /// The release is sealed already with other content.
    #[error("{release} is sealed already with other content: {}", fields(.differences))]
    Drift {
        /// Which release.
        release: ReleaseName,
        /// In what it differs.
        differences: Vec<Difference>,
        /// The version that would be legal.
        legal: semver::Version,
    },
    /// The tag of a version is taken by an image of which this host knows nothing.
    #[error(
        "the tag {tag} of {repository} already points to {is}, and {release} built here is {wanted}; it was not moved, and nothing was \
         pushed; this host has no note that it built {is}: another host or person wrote the tag"
    )]
    TakenElsewhere {
        /// The release that was to be cut.
        release: ReleaseName,
        /// The repository.
        repository: String,
        /// The tag.
        tag: String,
        /// Where it points.
        is: String,
        /// Where it was to point.
        wanted: domain::Digest,
    },
    /// `domain` refuses to plan it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The world has moved since the plan was made.
    #[error("the plan for {environment} is stale: {what}")]
    Stale {
        /// The environment.
        environment: String,
        /// What has changed.
        what: String,
    },
    /// The new release failed, and the previous one serves again.
    #[error("{release} failed in {environment} and was taken back: {failure}; {serving}")]
    WentBack {
        /// The release that failed.
        release: ReleaseName,
        /// The environment.
        environment: String,
        /// Why.
        failure: String,
        /// What serves now.
        serving: String,
        /// The class of the failure, when not the release's behaviour was at fault but a part of it (missing, corrupt).
        class: Option<Class>,
    },
    /// A release does not do in its environment what it must.
    #[error("{release} {why}")]
    Unfit {
        /// The release.
        release: ReleaseName,
        /// `is not healthy: …`, `failed its smoke requests: …`.
        why: String,
    },
    /// A rollout stopped in the middle and can be resumed.
    #[error("the rollout of {release} to {environment} was interrupted at \"{step}\"; {serving}")]
    Interrupted {
        /// The release.
        release: ReleaseName,
        /// The environment.
        environment: String,
        /// The step, in words.
        step: String,
        /// What is known of what serves now.
        serving: String,
        /// What failed.
        #[source]
        source: Box<Error>,
    },
    /// A gate holds a promotion.
    #[error("{release} may not leave {environment}: {why}")]
    GateHolds {
        /// The release.
        release: ReleaseName,
        /// The environment that it would leave.
        environment: String,
        /// The worst verdict.
        verdict: Verdict,
        /// Why.
        why: String,
        /// Every gate.
        gates: Vec<GateResult>,
    },
    /// A command of the configuration failed.
    #[error("{what} failed: {}", how)]
    Command {
        /// What it was: `prepare command cargo build`.
        what: String,
        /// How it ended.
        how: String,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// A local file.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Stopped by a signal; what was begun can be resumed.
    #[error("stopped by {signal}")]
    Stopped {
        /// `SIGINT` or `SIGTERM`.
        signal: &'static str,
    },
    /// An adapter failed.
    #[error("cannot {doing}")]
    Failed {
        /// What was being done, as an infinitive: `read the ledger of staging`.
        doing: String,
        /// The adapter's error.
        #[source]
        cause: Cause,
    },
}

/// The error of an adapter.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Snapshots.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// Images.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The target.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// A signature, a bundle or a chain.
    #[error(transparent)]
    Ledger(#[from] ledger::LedgerError),
}

impl Cause {
    /// The class of the cause.
    pub fn class(&self) -> Class {
        match self {
            Self::Store(error) => error.class(),
            Self::Snapshot(error) => error.class(),
            Self::Image(error) => error.class(),
            Self::Cluster(error) => error.class(),
            Self::Ledger(error) => error.class(),
        }
    }
}

impl Error {
    /// The class, which decides the exit code. A gate that holds has a verdict instead.
    pub fn class(&self) -> Class {
        match self {
            Self::NoWorkspace { .. } | Self::Unknown(_) | Self::NotFound { .. } => Class::NotFound,
            Self::Config { .. } | Self::BadInput { .. } | Self::Command { .. } | Self::Unfit { .. } => Class::BadInput,
            Self::WentBack { class, .. } => class.unwrap_or(Class::BadInput),
            Self::Usage { .. } => Class::Usage,
            Self::Git(GitError::NoRepository { .. }) => Class::NotFound,
            Self::Git(GitError::NoCommit { .. }) => Class::BadInput,
            Self::Git(GitError::NoGit) => Class::Unavailable,
            Self::Git(GitError::Failed { .. }) => Class::Internal,
            Self::NotPermitted { .. } | Self::GateHolds { .. } => Class::NotPermitted,
            Self::Integrity { .. } | Self::Drift { .. } | Self::TakenElsewhere { .. } => Class::Integrity,
            Self::Refused(refusal) => refusal.class(),
            Self::Stale { .. } => Class::Busy,
            Self::Interrupted { source, .. } => source.class(),
            Self::File { .. } | Self::Stopped { .. } | Self::Internal { .. } => Class::Internal,
            Self::Failed { cause, .. } => cause.class(),
        }
    }

    /// Whether the release itself is at fault (it does not start, is unhealthy, fails its smoke requests), so that
    /// going back helps and trying again does not.
    pub fn is_releases_fault(&self) -> bool {
        match self {
            Self::Unfit { .. } => true,
            Self::Failed { cause: Cause::Cluster(error), .. } => error.is_workloads_fault(),
            _ => false,
        }
    }

    /// For `map_err` on file operations.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    /// Bad input without a special next command.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self::BadInput { message: message.into(), next: None }
    }

    /// Something that is needed is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::NotFound { message: message.into(), next: None }
    }
}

/// Adds to an adapter's error what was being done.
pub trait Doing<T> {
    /// `what` is an infinitive phrase: `read the ledger of staging`.
    fn doing(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Cause>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error::Failed { doing: what.into(), cause: error.into() })
    }
}

fn fields(differences: &[Difference]) -> String {
    let names: Vec<&str> = differences.iter().map(|difference| difference.field.as_str()).collect();
    if names.is_empty() { "the bundle differs".to_owned() } else { format!("{} differ", names.join(", ")) }
}
