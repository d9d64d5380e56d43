//! A running environment: what runs in its slots, and the few operations that change it.
//!
//! *Target*: how an environment runs. *Slot*: one of the two places of a component in it. *Epoch*: which writer filled a
//! slot. What this crate does **not** do: it decides nothing (which slot, whether to go back), keeps no memory of what it
//! did (every answer is read from the thing itself: `/proc`, the Docker Engine), deploys nothing by tag, writes no secret's
//! value to a file or an error, and prints nothing.
//!
//! A slot is empty, stopped or running. [`Target::prepare`] makes it stopped, [`Target::start`] running, [`Target::stop`]
//! stopped, [`Target::remove`] empty. Each may be called again with the same arguments and then changes nothing, so that an
//! interrupted rollout is resumed by repeating it. Nothing ever touches the other slot. The epoch of a slot is that of the
//! writer that *prepared* it; a writer with a lower one is refused ([`Error::Fenced`]), whether it fills, starts, stops or empties.
//!
//! Failure cases are in [`Error`]; the one distinction that a rollout needs is [`Error::is_workloads_fault`]: the workload
//! cannot run there, so going back is right, against a target that does not answer, where only a repetition helps.
//!
//! | module | holds |
//! |---|---|
//! | [`process`] | plain processes of this host (Linux) from an unpacked image |
//! | [`docker`] | containers of a Docker Engine, 20.10 and newer |
//! | `testing` | an in-memory target, an injector of faults, and the conformance suite of all targets |

use async_trait::async_trait;
use domain::{
    Name,
    workload::{Observed, Place, Workload},
};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub mod docker;
mod error;
mod policy;
mod port;
pub mod process;
#[cfg(feature = "testing")]
pub mod testing;
mod values;

pub use docker::Docker;
pub use error::{Error, Result};
pub use policy::{Part, Policy};
pub use process::Process;

/// Which form of an image a target takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageForm {
    /// An unpacked root file system.
    Rootfs,
    /// An archive as `docker load` reads it.
    DockerArchive,
}

/// An image in the form that a target takes.
#[derive(Debug, Clone, Copy)]
pub enum ImagePath<'a> {
    /// An unpacked root file system. It is copied, never moved or changed.
    Rootfs {
        /// Its directory.
        dir: &'a Path,
        /// How the image is to be run.
        entry: &'a ImageEntry,
    },
    /// An archive as `docker load` reads it.
    DockerArchive(&'a Path),
    /// The release has no image: its command is a mounted file or a program of the host.
    None,
}

/// How an image is to be run, from its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments; the program, if there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The directory to start in; empty is `/`.
    pub workdir: String,
    /// The user as written in the image; empty is root.
    pub user: String,
}

/// How an environment runs its components.
#[async_trait]
pub trait Target: Send + Sync {
    /// What it is and where, for people.
    fn describe(&self) -> String;

    /// The form in which [`Target::prepare`] wants the image.
    fn image_form(&self) -> ImageForm;

    /// What is in both slots of a component, read from the things themselves.
    async fn observe(&self, project: &Name, environment: &Name, component: &Name) -> Result<Observed>;

    /// Fills a slot: afterwards it is stopped and holds this workload. What was in it is replaced, unless it runs: the same
    /// release running is left alone, another one is [`Error::Occupied`]. `mounts` are the paths inside and the verified
    /// local files for them. Secrets are read once, so that a missing one is found before anything is stopped.
    async fn prepare(
        &self,
        workload: &Workload,
        epoch: u64,
        image: ImagePath<'_>,
        mounts: &[(String, PathBuf)],
    ) -> Result<()>;

    /// Starts what [`Target::prepare`] put there. It returns when the program was started, not when it is healthy.
    async fn start(&self, workload: &Workload, epoch: u64) -> Result<()>;

    /// Stops what runs: SIGTERM, up to `timeout`, SIGKILL. The slot keeps its content.
    async fn stop(&self, place: &Place, epoch: u64, timeout: Duration) -> Result<()>;

    /// Empties a slot, stopping at once what runs in it.
    async fn remove(&self, place: &Place, epoch: u64) -> Result<()>;

    /// The last lines that the workload printed, oldest first.
    async fn logs(&self, place: &Place, lines: usize) -> Result<Vec<String>>;

    /// `None` while it runs, otherwise how it ended, in words.
    async fn alive(&self, place: &Place) -> Result<Option<String>>;

    /// Under which policy the thing really runs.
    async fn inspect_policy(&self, place: &Place) -> Result<Policy>;
}
