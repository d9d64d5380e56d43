//! Plans: values that say what would be done, why, how long it may take, and what the way back is.
//!
//! Planning is pure and executing is elsewhere. A plan knows the newest ledger entry it was made on; when that has
//! moved, the plan is stale and is refused. Rollback is planning too: the same function with another release.

use crate::{
    Digest, Name, ReleaseName,
    config::{Strategy, duration},
    gate::HttpRequest,
    manifest::Anchor,
    state::Running,
    workload::{Observed, Slot, SlotState, Workload},
};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// What a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// `sealift deploy`.
    Deploy,
    /// `sealift promote`.
    Promote,
    /// `sealift rollback`.
    Rollback,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Deploy => "deploy",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
        })
    }
}

/// One side of a rollout: a release and what the target is to run for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// The release.
    pub release: ReleaseName,
    /// Digest of its bundle.
    pub digest: Digest,
    /// What is run.
    pub workload: Workload,
    /// What must answer before it serves.
    pub smoke: Vec<HttpRequest>,
}

/// Moves one component of one environment from one release to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Format version, 1.
    pub v: u32,
    /// The operation's UUID: the same in every ledger entry and label that comes of it.
    pub op: String,
    /// What was asked for.
    pub verb: Verb,
    /// The project.
    pub project: Name,
    /// The environment.
    pub environment: Name,
    /// The component.
    pub component: Name,
    /// The strategy that made the steps.
    pub strategy: Strategy,
    /// What serves now.
    pub from: Option<Side>,
    /// What will serve.
    pub to: Side,
    /// The newest ledger entry that the plan was made on; `None` for the first.
    pub base: Option<Anchor>,
    /// Why the plan is as it is.
    pub reasons: Vec<String>,
    /// What will be done, in order. Empty when the world is already so.
    pub steps: Vec<Step>,
    /// What brings the previous release back, once traffic was touched.
    pub back: Vec<Step>,
    /// How long each direction can take at most.
    pub bound: Bound,
    /// Why, in the words of whoever asked.
    pub reason: String,
}

/// Upper bounds on time, from the time-outs in the plan; transfers are not in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// All steps.
    #[serde(with = "duration")]
    pub forward: Duration,
    /// The part of them during which nothing serves.
    #[serde(with = "duration")]
    pub interruption: Duration,
    /// The way back.
    #[serde(with = "duration")]
    pub back: Duration,
}

/// Which side of the plan a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// The release that serves now.
    Old,
    /// The release that will serve.
    New,
}

/// One step. Every step is idempotent: it makes a state, and finds out by observation whether that state is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Everything of both releases is in the store: the way back is proven before the way forward is taken.
    Preflight,
    /// Its image and files are verified and placed in its slot, which does not run yet.
    Prepare {
        /// Whose.
        which: Which,
    },
    /// Its slot is stopped; it can be started again.
    Stop {
        /// Whose.
        which: Which,
    },
    /// Its slot runs.
    Start {
        /// Whose.
        which: Which,
    },
    /// It answers its health check.
    AwaitHealthy {
        /// Whose.
        which: Which,
    },
    /// It passes its smoke requests.
    Smoke {
        /// Whose.
        which: Which,
    },
    /// `current.json` says that it serves.
    Switch {
        /// Whose.
        which: Which,
    },
    /// `current.json` no longer says that it serves.
    Withdraw {
        /// Whose.
        which: Which,
    },
    /// Its slot is emptied; its release stays in the store.
    Retire {
        /// Whose.
        which: Which,
    },
}

impl Step {
    /// The step's name in the ledger.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Prepare { .. } => "prepare",
            Self::Stop { .. } => "stop",
            Self::Start { .. } => "start",
            Self::AwaitHealthy { .. } => "await-healthy",
            Self::Smoke { .. } => "smoke",
            Self::Switch { .. } => "switch",
            Self::Withdraw { .. } => "withdraw",
            Self::Retire { .. } => "retire",
        }
    }

    /// Whether the step may interrupt what serves.
    pub fn touches_traffic(&self) -> bool {
        matches!(
            self,
            Self::Stop { .. } | Self::Start { .. } | Self::Switch { .. } | Self::Withdraw { .. } | Self::Retire { .. }
        )
    }
}

impl Plan {
    /// One side.
    pub fn side(&self, which: Which) -> Option<&Side> {
        match which {
            Which::Old => self.from.as_ref(),
            Which::New => Some(&self.to),
        }
    }

    /// The step in words: `start wine@1.1.0 in green`.
    pub fn title(&self, step: &Step) -> String {
        let release = |which: Which| self.side(which).map_or_else(String::new, |side| side.release.to_string());
        let slot =
            |which: Which| self.side(which).map_or_else(String::new, |side| side.workload.place.slot.to_string());
        match *step {
            Step::Preflight => match &self.from {
                Some(old) => format!("check that {} and {} can be restored", self.to.release, old.release),
                None => format!("check that {} can be restored", self.to.release),
            },
            Step::Prepare { which } => format!("prepare {} in {}", release(which), slot(which)),
            Step::Stop { which } => format!("stop {} in {}", release(which), slot(which)),
            Step::Start { which } => format!("start {} in {}", release(which), slot(which)),
            Step::AwaitHealthy { which } => format!("wait until {} is healthy", release(which)),
            Step::Smoke { which } => {
                let count = self.side(which).map_or(0, |side| side.smoke.len());
                format!("smoke {} with {count} request{}", release(which), if count == 1 { "" } else { "s" })
            }
            Step::Switch { which } => format!("record that {} serves {}", self.environment, release(which)),
            Step::Withdraw { which } => format!("record that {} no longer serves {}", release(which), self.environment),
            Step::Retire { which } => format!("clear {} out of {}", release(which), slot(which)),
        }
    }

    /// The digest that approvals and the ledger are bound to.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_bytes())
    }

    /// The plan as it is stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Everything that a rollout is planned from: facts only.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The operation's UUID.
    pub op: String,
    /// What was asked for.
    pub verb: Verb,
    /// The project.
    pub project: Name,
    /// The environment.
    pub environment: Name,
    /// The strategy.
    pub strategy: Strategy,
    /// The release that is to serve. Its slot is decided here.
    pub to: Side,
    /// What `current.json` says, with what the target is to run for it.
    pub serving: Option<(Running, Side)>,
    /// What the target says.
    pub observed: Observed,
    /// The newest ledger entry.
    pub base: Option<Anchor>,
    /// An operation that was begun and not ended.
    pub open: Option<String>,
    /// The environment's `after`, when the release may not come here by `deploy`.
    pub after: Option<Name>,
    /// Why, in the words of whoever asked.
    pub reason: String,
}

/// Why nothing can be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An interrupted rollout must be resumed or aborted first.
    #[error("a rollout of {environment} was begun and not ended ({op})")]
    Open {
        /// The environment.
        environment: Name,
        /// The operation.
        op: String,
    },
    /// Releases come here only by promotion.
    #[error("{environment} takes releases only from {after}, through its gates")]
    OnlyByPromotion {
        /// The environment.
        environment: Name,
        /// Where releases must have been.
        after: Name,
    },
    /// Going back is only done by `rollback`.
    #[error("{environment} runs {serving}, which is newer than {release}; going back is only done by rollback")]
    Older {
        /// The environment.
        environment: Name,
        /// What runs.
        serving: ReleaseName,
        /// What was asked for.
        release: ReleaseName,
    },
}

impl Refusal {
    /// The class, for the exit code.
    pub fn class(&self) -> crate::Class {
        match self {
            Self::Open { .. } => crate::Class::Busy,
            Self::OnlyByPromotion { .. } | Self::Older { .. } => crate::Class::NotPermitted,
        }
    }
}

/// Plans a rollout: deploy, promotion and rollback alike.
pub fn rollout(facts: Facts) -> Result<Plan, Refusal> {
    if let Some(op) = facts.open {
        return Err(Refusal::Open { environment: facts.environment, op });
    }
    if let (Verb::Deploy, Some(after)) = (facts.verb, facts.after) {
        return Err(Refusal::OnlyByPromotion { environment: facts.environment, after });
    }
    if let Some((running, _)) = &facts.serving
        && facts.verb != Verb::Rollback
        && running.release.version > facts.to.release.version
    {
        return Err(Refusal::Older {
            environment: facts.environment,
            serving: running.release.clone(),
            release: facts.to.release,
        });
    }

    let mut reasons = Vec::new();
    let mut to = facts.to;
    let old_slot = facts.serving.as_ref().map(|(running, _)| running.slot);
    let runs = |digest: &Digest, slot: Slot| match facts.observed.slot(slot) {
        SlotState::Running { release_digest, .. } => release_digest == digest,
        _ => false,
    };
    let settings = to.workload.settings_digest();
    let serving = facts.serving.as_ref().map(|(running, _)| running);
    let same_release = serving.is_some_and(|running| running.digest == to.digest);
    // A record without settings is of a time before they were recorded: it is believed.
    let same = same_release && serving.is_some_and(|r| r.settings.is_none_or(|recorded| recorded == settings));
    let serves_already = same && old_slot.is_some_and(|slot| runs(&to.digest, slot));

    to.workload.place.slot = match old_slot {
        Some(slot) if same => slot,
        Some(slot) => slot.other(),
        None => Slot::Blue,
    };
    let (steps, back) = if serves_already {
        reasons.push(format!("{} already serves {}", to.release, facts.environment));
        (Vec::new(), Vec::new())
    } else if same {
        reasons.push(format!("{} should serve {} but does not run", to.release, facts.environment));
        // Whatever becomes of it, it is still what the environment is to serve: it is stopped, not forgotten.
        (recreate(None, &to), vec![Step::Stop { which: Which::New }])
    } else {
        match serving {
            Some(running) if same_release => {
                reasons.push(format!("{} serves {} with other settings", running.release, facts.environment));
            }
            Some(running) => reasons.push(format!("{} serves {} now", running.release, facts.environment)),
            None => reasons.push(format!("nothing serves {} yet", facts.environment)),
        }
        let old = facts.serving.as_ref().map(|(_, side)| side);
        (recreate(old, &to), old.map_or_else(clear_first, bring_back))
    };
    let from = if same { None } else { facts.serving.map(|(_, side)| side) };
    let bound = bound(from.as_ref(), &to, !steps.is_empty());
    Ok(Plan {
        v: 1,
        op: facts.op,
        verb: facts.verb,
        project: facts.project,
        environment: facts.environment,
        component: to.release.component.clone(),
        strategy: facts.strategy,
        from,
        to,
        base: facts.base,
        reasons,
        steps,
        back,
        bound,
        reason: facts.reason,
    })
}

/// The strategy `recreate`: stop the old, start the new.
fn recreate(old: Option<&Side>, new: &Side) -> Vec<Step> {
    let mut steps = vec![Step::Preflight, Step::Prepare { which: Which::New }];
    if old.is_some() {
        steps.push(Step::Stop { which: Which::Old });
    }
    steps.extend(serve(Which::New, new));
    steps.push(Step::Switch { which: Which::New });
    if old.is_some() {
        steps.push(Step::Retire { which: Which::Old });
    }
    steps
}

/// The way back: the new slot is cleared and the old one serves again.
fn bring_back(old: &Side) -> Vec<Step> {
    let mut steps = vec![Step::Stop { which: Which::New }, Step::Prepare { which: Which::Old }];
    steps.extend(serve(Which::Old, old));
    steps.push(Step::Switch { which: Which::Old });
    steps.push(Step::Retire { which: Which::New });
    steps
}

fn serve(which: Which, side: &Side) -> Vec<Step> {
    let mut steps = vec![Step::Start { which }];
    if side.workload.health.is_some() {
        steps.push(Step::AwaitHealthy { which });
    }
    if !side.smoke.is_empty() {
        steps.push(Step::Smoke { which });
    }
    steps
}

/// What the executor does about a failed step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Trying again cannot help: the previous release is brought back and the rollout ends.
    GoBack,
    /// The machinery failed, not the release: the previous release is kept serving and the rollout can be resumed.
    Hold,
}

/// Decides between going back and holding. What is wrong with the release or its parts will be wrong again; a store,
/// an engine or a disk that failed may be back in a minute.
pub fn react(class: crate::Class, releases_fault: bool) -> Reaction {
    use crate::Class;
    match class {
        _ if releases_fault => Reaction::GoBack,
        Class::BadInput | Class::NotFound | Class::Integrity | Class::NotPermitted | Class::Usage => Reaction::GoBack,
        Class::Unavailable | Class::Internal | Class::Busy => Reaction::Hold,
    }
}

/// The steps that leave nothing of a failed first release behind.
fn clear_first() -> Vec<Step> {
    vec![Step::Stop { which: Which::New }, Step::Withdraw { which: Which::New }, Step::Retire { which: Which::New }]
}

fn bound(from: Option<&Side>, to: &Side, any: bool) -> Bound {
    let serve = |side: &Side| {
        let health = side.workload.health.as_ref().map_or(Duration::ZERO, |health| health.start_timeout);
        health + side.smoke.iter().map(|request| request.timeout).sum::<Duration>()
    };
    if !any {
        return Bound { forward: Duration::ZERO, interruption: Duration::ZERO, back: Duration::ZERO };
    }
    let stop_old = from.map_or(Duration::ZERO, |side| side.workload.stop_timeout);
    let forward = stop_old + serve(to);
    let back = from.map_or(Duration::ZERO, |side| to.workload.stop_timeout + serve(side));
    let interruption = if from.is_some() { forward } else { Duration::ZERO };
    Bound { forward, interruption, back }
}
