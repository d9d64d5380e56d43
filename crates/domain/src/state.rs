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
    /// [`crate::workload::Workload::settings_digest`] of what runs: port, environment and limits are not part of a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Digest>,
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

/// The release to go back to: the one that served when the serving one was first brought by other means than a rollback,
/// and, failing that, the newest other one that has served. `serving` is the digest of what runs now.
pub fn way_back<'a>(history: &'a [Rollout], component: &Name, serving: Option<&Digest>) -> Option<&'a Rollout> {
    let served: Vec<&Rollout> =
        history.iter().filter(|r| r.component == *component && r.ending == Some(Ending::Succeeded)).collect();
    // A release that was left by a rollback is no place to go back to, so the newest rollout that brought the serving
    // release forward counts, and what it says it came from.
    let forward = |r: &&Rollout| r.verb != Verb::Rollback && r.from.as_ref() != Some(&r.release);
    let Some(brought) = served.iter().rposition(|r| Some(&r.digest) == serving && forward(r)) else {
        return served.into_iter().rev().find(|r| Some(&r.digest) != serving);
    };
    let from = served[brought].from.as_ref()?;
    served[..brought].iter().rev().find(|r| r.release == *from && Some(&r.digest) != serving).copied()
}

/// In what `current.json` disagrees with the ledger, in words; nothing while a rollout is open.
pub fn disagreements(current: &Current, history: &[Rollout]) -> Vec<String> {
    if history.iter().any(|rollout| rollout.ending.is_none()) {
        return Vec::new();
    }
    let mut names: Vec<&Name> = current.components.keys().chain(history.iter().map(|r| &r.component)).collect();
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        let of_it = || history.iter().rev().filter(|rollout| rollout.component == *name);
        let recorded = of_it().find(|rollout| rollout.ending == Some(Ending::Succeeded));
        let named = current.components.get(name);
        match (named, recorded) {
            (Some(named), Some(recorded)) if named.digest == recorded.digest => {}
            (None, None) => {}
            (Some(named), Some(recorded)) => found.push(format!(
                "it names {} ({}), and the ledger's last success is {} ({})",
                named.release,
                named.digest.short(),
                recorded.release,
                recorded.digest.short()
            )),
            (Some(named), None) => {
                found.push(format!("it names {}, which the ledger never brought there", named.release))
            }
            (None, Some(recorded)) => {
                found.push(format!("it does not name {}, the ledger's last success", recorded.release))
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(verb: Verb, release: &str, from: Option<&str>, ending: Ending) -> Rollout {
        let release: ReleaseName = format!("wine@{release}").parse().unwrap();
        Rollout {
            op: "op".to_owned(),
            verb,
            component: release.component.clone(),
            digest: Digest::of(release.to_string()),
            from: from.map(|from| format!("wine@{from}").parse().unwrap()),
            release,
            plan: Digest::of("plan"),
            actor: "ann".to_owned(),
            reason: String::new(),
            first_seq: 1,
            last_seq: 2,
            epoch: 1,
            began: jiff::Timestamp::UNIX_EPOCH,
            ended: None,
            ending: Some(ending),
            failure: None,
            done: Vec::new(),
        }
    }

    fn back(history: &[Rollout], serving: &str) -> Option<String> {
        let digest = Digest::of(format!("wine@{serving}"));
        way_back(history, &"wine".parse().unwrap(), Some(&digest)).map(|rollout| rollout.release.version.to_string())
    }

    #[test]
    fn the_way_back_follows_what_each_release_came_from() {
        use Ending::Succeeded;
        let mut history = vec![rollout(Verb::Deploy, "1.0.0", None, Succeeded)];
        assert_eq!(back(&history, "1.0.0"), None);
        history.push(rollout(Verb::Deploy, "1.1.0", Some("1.0.0"), Succeeded));
        assert_eq!(back(&history, "1.1.0").as_deref(), Some("1.0.0"));
        history.push(rollout(Verb::Deploy, "1.2.0", Some("1.1.0"), Ending::WentBack));
        assert_eq!(back(&history, "1.1.0").as_deref(), Some("1.0.0"), "a release that failed never served");
        history.push(rollout(Verb::Deploy, "1.2.0", Some("1.1.0"), Succeeded));
        history.push(rollout(Verb::Rollback, "1.1.0", Some("1.2.0"), Succeeded));
        assert_eq!(back(&history, "1.1.0").as_deref(), Some("1.0.0"), "not forward to what was just left");
        history.push(rollout(Verb::Rollback, "1.0.0", Some("1.1.0"), Succeeded));
        assert_eq!(back(&history, "1.0.0"), None);
        history.push(rollout(Verb::Deploy, "1.2.0", Some("1.0.0"), Succeeded));
        assert_eq!(back(&history, "1.2.0").as_deref(), Some("1.0.0"), "not to 1.1.0, which was abandoned");
    }
}
