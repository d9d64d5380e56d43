//! What a target is asked to run, and what it says is running.

use crate::{Digest, Name, ReleaseName, secret::SecretRef};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, time::Duration};

/// One of the two places that a component has in an environment. A rollout fills the one that is
/// not serving, so that the way back is a start, not a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// The first.
    Blue,
    /// The second.
    Green,
}

impl Slot {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Blue => "blue",
            Self::Green => "green",
        })
    }
}

/// Which slot of which component in which environment of which project.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The project, so that two projects on one host do not meet.
    pub project: Name,
    /// The environment.
    pub environment: Name,
    /// The component.
    pub component: Name,
    /// The slot.
    pub slot: Slot,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.project, self.environment, self.component, self.slot)
    }
}

/// A file that is put beside the image: a model, a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What it is, for people: `model quality`.
    pub what: String,
    /// Digest of its content.
    pub digest: Digest,
    /// Absolute path inside the workload. A target without its own file system puts it elsewhere
    /// and says where by [`Workload::env`]'s `{mount:PATH}`.
    pub path: String,
}

/// An HTTP path that must answer with a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The path, for example `/ready`.
    pub path: String,
    /// How long it may take from the start until it answers with 2xx.
    #[serde(with = "crate::config::duration")]
    pub start_timeout: Duration,
}

/// A part of the container policy that the configuration relaxed by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relaxation {
    /// The root file system may be written.
    WritableRoot,
    /// It may run as root.
    RunAsRoot,
    /// Capabilities are those that the engine grants by default.
    DefaultCapabilities,
    /// Setuid programs may raise privileges.
    NewPrivileges,
}

/// Everything that a target needs to run one component of one release: a value, sealed into plans.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Where it runs.
    pub place: Place,
    /// Which release it is of.
    pub release: ReleaseName,
    /// Digest of the release's bundle: the identity that targets carry as a label.
    pub release_digest: Digest,
    /// The image's manifest digest in the store; `None` when the release has no image.
    pub image: Option<Digest>,
    /// The image's configuration digest, which some engines use as its id.
    pub image_config: Option<Digest>,
    /// The command, if it is not the image's own.
    pub command: Option<Vec<String>>,
    /// Environment variables. In values, `{port}` is the port to listen on and `{mount:PATH}` the place of a mount.
    pub env: BTreeMap<String, String>,
    /// Environment variables whose values are read at start and never written anywhere.
    pub secrets: BTreeMap<String, SecretRef>,
    /// Files beside the image.
    pub mounts: Vec<Mount>,
    /// The port that the program listens on inside.
    pub container_port: u16,
    /// The port on the host's loopback (or `host`) where it is published.
    pub host_port: u16,
    /// The address where it is published, `127.0.0.1` by default.
    pub host: String,
    /// When it counts as started.
    pub health: Option<HealthCheck>,
    /// How long it may take to stop after SIGTERM.
    #[serde(with = "crate::config::duration")]
    pub stop_timeout: Duration,
    /// Memory limit in bytes.
    pub memory: u64,
    /// Limit of processes and threads.
    pub pids: u64,
    /// Named exceptions to the container policy.
    pub relax: Vec<Relaxation>,
}

impl Workload {
    /// SHA-256 of everything that is run, whichever slot it runs in: two workloads with the same one need no rollout.
    pub fn settings_digest(&self) -> Digest {
        let anywhere = Self { place: Place { slot: Slot::Blue, ..self.place.clone() }, ..self.clone() };
        Digest::of(serde_json::to_vec(&anywhere).unwrap_or_default())
    }

    /// The base URL where it answers.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.host_port)
    }
}

/// How a slot stands, as the target itself says (never as we remember).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum SlotState {
    /// Nothing is there.
    Empty,
    /// A workload is prepared or was stopped; it can be started.
    Stopped {
        /// Digest of the release's bundle.
        release_digest: Digest,
        /// The epoch that wrote it.
        epoch: u64,
        /// How it ended, if it ever ran: exit code or signal, in words.
        ended: Option<String>,
    },
    /// It runs.
    Running {
        /// Digest of the release's bundle.
        release_digest: Digest,
        /// The epoch that wrote it.
        epoch: u64,
        /// Process or container id, for people.
        id: String,
    },
}

impl SlotState {
    /// The release in the slot.
    pub fn release_digest(&self) -> Option<&Digest> {
        match self {
            Self::Empty => None,
            Self::Stopped { release_digest, .. } | Self::Running { release_digest, .. } => Some(release_digest),
        }
    }
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

/// Both slots of a component, as observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// The first slot.
    pub blue: SlotState,
    /// The second slot.
    pub green: SlotState,
}

impl Observed {
    /// One of them.
    pub fn slot(&self, slot: Slot) -> &SlotState {
        match slot {
            Slot::Blue => &self.blue,
            Slot::Green => &self.green,
        }
    }
    /// The slot that runs; blue if both do.
    pub fn running(&self) -> Option<Slot> {
        [Slot::Blue, Slot::Green].into_iter().find(|slot| self.slot(*slot).is_running())
    }
}
