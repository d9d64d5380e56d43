//! What is running where, and what has happened: the objects `envs/<env>/current.json` and the words of the ledger.

use crate::{Digest, Name, ReleaseName, plan::Verb, workload::Slot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The body of `envs/<env>/current.json`: which releases an environment runs. Written by compare-and-swap; a lower
/// epoch is refused. It points only at releases that were verified and answered their smoke requests there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// Format version, 1.
    pub v: u32,
    /// The environment.
    pub environment: Name,
    /// The epoch of the writer.
    pub epoch: u64,
    /// The operation that wrote it.
    pub op: String,
    /// What runs, by component.
    pub components: BTreeMap<Name, Running>,
}

/// One component of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The release.
    pub release: ReleaseName,
    /// Digest of its bundle.
    pub digest: Digest,
    /// The slot that serves.
    pub slot: Slot,
    /// Since when.
    pub since: jiff::Timestamp,
}

/// Why a new state of an environment is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("epoch {ours} of {environment} was overtaken by epoch {newest}")]
pub struct Overtaken {
    /// The environment.
    pub environment: Name,
    /// The epoch that wanted to write.
    pub ours: u64,
    /// The epoch that is there.
    pub newest: u64,
}

impl Current {
    /// The first state of an environment.
    pub fn empty(environment: Name) -> Self {
        Self { v: 1, environment, epoch: 0, op: String::new(), components: BTreeMap::new() }
    }

    /// This state with one component changed, written by `epoch`. A lower epoch is refused.
    pub fn with(&self, component: &Name, running: Option<Running>, epoch: u64, op: &str) -> Result<Self, Overtaken> {
        if epoch < self.epoch {
            return Err(Overtaken { environment: self.environment.clone(), ours: epoch, newest: self.epoch });
        }
        let mut next = Self { epoch, op: op.to_owned(), ..self.clone() };
        match running {
            Some(running) => next.components.insert(component.clone(), running),
            None => next.components.remove(component),
        };
        Ok(next)
    }
}

/// The actions that the ledger knows. Their names are the format.
pub mod action {
    /// A rollout began; the subject names the plan by digest.
    pub const BEGUN: &str = "rollout.begun";
    /// A step is about to be done.
    pub const INTENT: &str = "step.intent";
    /// A step was done, or found done.
    pub const DONE: &str = "step.done";
    /// A step failed.
    pub const FAILED: &str = "step.failed";
    /// A rollout ended; the subject has its result.
    pub const ENDED: &str = "rollout.ended";
    /// A gate was judged.
    pub const JUDGED: &str = "gate.judged";
}

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The new release serves.
    Succeeded,
    /// The new release failed and the previous one serves again.
    WentBack,
    /// A person stopped it and the previous release serves.
    Aborted,
    /// The new release failed and there was no previous one: nothing runs.
    Emptied,
}

impl Ending {
    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::WentBack => "went-back",
            Self::Aborted => "aborted",
            Self::Emptied => "emptied",
        }
    }
}

/// One rollout as the ledger tells it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rollout {
    /// The operation.
    pub op: String,
    /// What was asked.
    pub verb: Verb,
    /// The component.
    pub component: Name,
    /// The release that was rolled out.
    pub release: ReleaseName,
    /// Digest of its bundle.
    pub digest: Digest,
    /// What ran before.
    pub from: Option<ReleaseName>,
    /// Digest of the plan, which is a blob.
    pub plan: Digest,
    /// Who.
    pub actor: String,
    /// Why, if it was said.
    pub reason: String,
    /// First and last sequence number in the ledger.
    pub first_seq: u64,
    /// Last sequence number so far.
    pub last_seq: u64,
    /// The epoch of its last writer.
    pub epoch: u64,
    /// When it began.
    pub began: jiff::Timestamp,
    /// When it ended.
    pub ended: Option<jiff::Timestamp>,
    /// How it ended; `None` while it is open (running, or interrupted: `resume`).
    pub ending: Option<Ending>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// Numbers of the steps that are done.
    pub done: Vec<usize>,
}

/// The release to go back to: the newest that served before the running one and is not it. `serving` is what runs now.
pub fn way_back<'a>(history: &'a [Rollout], component: &Name, serving: Option<&Digest>) -> Option<&'a Rollout> {
    let succeeded: Vec<&Rollout> =
        history.iter().filter(|r| r.component == *component && r.ending == Some(Ending::Succeeded)).collect();
    // What came before the newest rollout of the serving release. A release that was itself left by a rollback lies
    // after its own successor's predecessor, so walk from the newest rollout that *first* brought the serving one.
    let serving_began = succeeded.iter().position(|r| Some(&r.digest) == serving).unwrap_or(succeeded.len());
    succeeded[..serving_began].iter().rev().find(|r| Some(&r.digest) != serving).copied()
}
