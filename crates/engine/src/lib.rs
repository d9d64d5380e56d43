//! Runs plans: lease, recheck, intent, act, observe, record.
//!
//! This is where the adapters meet: `store`, `snapshot`, `image`, `cluster` and `probe` never name each other. The
//! engine gathers facts, asks `domain` for a decision, and carries it out; it decides nothing by itself.
//!
//! What it does **not** do: it prints nothing (it emits [`domain::Event`]s), it reads no environment variable except
//! where a configuration names one as a secret, and it never changes a running environment except through
//! [`rollout::execute`], [`rollout::resume`] and [`rollout::abort`].
//!
//! | module | holds |
//! |---|---|
//! | [`workspace`] | a repository with its `Sealift.toml`, the host it is used on |
//! | [`git`] | facts of the repository, asked of `git` in its stable formats |
//! | [`keyring`] | signing keys and trusted keys as files |
//! | [`journal`] | the ledger of an environment in the store: append, read, verify |
//! | [`build`] | from sources to what is built of them, on this host |
//! | [`evidence`] | what is claimed of a release: signature, provenance, SBOM |
//! | [`publish`] | what was built, into the store and the registries |
//! | [`releases`], [`cut`] | sealed releases: find and verify; from a commit to a sealed release |
//! | [`data`], [`models`] | data sets and models of the workspace |
//! | [`dvc`] | data sets from DVC, and to a remote of DVC |
//! | [`artifacts`] | what a workload needs, fetched and verified onto this host |
//! | [`rollout`] | planning from facts, executing, resuming, aborting |
//! | [`gates`] | measuring, judging, and the evidence that promotion asks for |
//! | [`restore`] | a release out of the store, with nothing but a public key |
//! | [`verify`] | whether a release is what it says, here and in registries, and how anybody finds that out |
//! | [`status`] | what runs, what happened, what a name means |
//! | [`doctor`], [`init`] | checking a set-up, beginning one |
//!
//! Failure: every error names what was being done ([`Error`]) and has a [`domain::Class`]. After any failure
//! `envs/<env>/current.json` points to a release that was verified and smoked; [`rollout::resume`] goes on from the
//! ledger and an observation of the world.

pub mod artifacts;
pub mod build;
pub mod collect;
pub mod cut;
pub mod data;
pub mod doctor;
pub mod dvc;
pub mod error;
pub mod evidence;
pub mod gates;
pub mod git;
pub mod init;
pub mod journal;
pub mod keyring;
pub mod models;
pub mod publish;
pub mod releases;
pub mod restore;
pub mod rollout;
pub mod status;
pub mod verify;
pub mod workspace;

pub use error::{Error, Result};
pub use workspace::{Host, Workspace};

/// The errors of the adapters below, so that the shell can say what to do about them without naming an adapter.
pub mod causes {
    pub use crate::error::Cause;
    pub use cluster::Error as ClusterError;
    pub use image::Error as ImageError;
    pub use ledger::LedgerError;
    pub use snapshot::Error as SnapshotError;
    pub use store::{Again, Error as StoreError};
}

/// The platform of this machine as OCI names it.
pub fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

/// The embedded S3 server, for `sealift store serve`.
pub use store::{serve, settle};

/// What the shell passes on between the functions here: a store, the keys that are believed, a chain to verify.
pub use ledger::{chain, keys::TrustedKeys};
pub use store::{Permission, Store, least_policy};
