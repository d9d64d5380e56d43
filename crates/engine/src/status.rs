//! What runs, what happened, and what a name means.

use crate::{
    error::{Doing, Error, Result},
    journal::{Log, Record},
    releases,
    rollout::World,
};
use domain::{
    Digest, Name, ReleaseName,
    manifest::Manifest,
    state::{Current, Ending, Rollout, Running, action},
    workload::{Observed, SlotState},
};
use ledger::keys::TrustedKeys;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use store::Store;

/// Reads the rollouts out of a ledger, oldest first.
pub fn rollouts(records: &[Record]) -> Result<Vec<Rollout>> {
    let mut rollouts: Vec<Rollout> = Vec::new();
    for record in records {
        let entry = &record.entry;
        let text = |key: &str| entry.subject.get(key).and_then(Value::as_str);
        if entry.action == action::BEGUN {
            rollouts.push(begun(record)?);
            continue;
        }
        let Some(op) = text("rollout") else { continue };
        let Some(rollout) = rollouts.iter_mut().rev().find(|rollout| rollout.op == op) else { continue };
        rollout.last_seq = entry.seq;
        rollout.epoch = entry.epoch;
        match entry.action.as_str() {
            action::DONE if text("direction") == Some("forward") => {
                let step = entry.subject.get("step").and_then(Value::as_u64).unwrap_or(0);
                rollout.done.push(usize::try_from(step).unwrap_or(0));
            }
            action::FAILED => rollout.failure = text("error").map(str::to_owned).or(rollout.failure.take()),
            action::ENDED => {
                rollout.ended = Some(entry.ts);
                rollout.ending = Some(match text("ending") {
                    Some("succeeded") => Ending::Succeeded,
                    Some("aborted") => Ending::Aborted,
                    Some("emptied") => Ending::Emptied,
                    _ => Ending::WentBack,
                });
            }
            _ => {}
        }
    }
    Ok(rollouts)
}

fn begun(record: &Record) -> Result<Rollout> {
    let entry = &record.entry;
    fn field<T: serde::de::DeserializeOwned>(entry: &ledger::chain::Entry, key: &str) -> Result<T> {
        let value = entry.subject.get(key).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|error| Error::Integrity {
            message: format!("entry {} of the ledger {} has an unreadable {key}: {error}", entry.seq, entry.log_id),
        })
    }
    Ok(Rollout {
        op: field(entry, "rollout")?,
        verb: field(entry, "verb")?,
        component: field(entry, "component")?,
        release: field(entry, "release")?,
        digest: field(entry, "digest")?,
        from: field(entry, "from")?,
        plan: field(entry, "plan")?,
        actor: entry.actor.clone(),
        reason: entry.reason.clone(),
        first_seq: entry.seq,
        last_seq: entry.seq,
        epoch: entry.epoch,
        began: entry.ts,
        ended: None,
        ending: None,
        failure: None,
        done: Vec::new(),
    })
}

/// The rollout of an environment that was begun and not ended. It reads the ledger backwards and only as far as it must.
pub async fn open_rollout(log: &Log) -> Result<Option<Rollout>> {
    let mut begun = false;
    let records = log.newest(|entry| {
        let wanted = !begun && entry.action != action::ENDED;
        begun |= entry.action == action::BEGUN;
        wanted
    });
    Ok(rollouts(&records.await?)?.into_iter().rev().find(|rollout| rollout.ending.is_none()))
}

/// One environment, as `sealift status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct EnvironmentStatus {
    /// Its name.
    pub environment: Name,
    /// What runs it, in words.
    pub target: String,
    /// What `current.json` says, and what the target says, by component.
    pub components: BTreeMap<Name, ComponentStatus>,
    /// Newest entry of its ledger.
    pub seq: u64,
    /// Epoch of the last writer.
    pub epoch: u64,
    /// Who holds the lease, and what for; not one who died on this host, whose lease is free for the taking.
    pub held: Option<String>,
    /// Why the target could not be asked, if it could not.
    pub unobserved: Option<String>,
}

/// One component of an environment.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentStatus {
    /// What should serve.
    pub serving: Option<Running>,
    /// What is there.
    pub observed: Option<Observed>,
    /// Where it answers.
    pub url: Option<String>,
    /// In one word: `serving`, `down`, `empty`, `drifted`, `unknown`.
    pub state: &'static str,
    /// In a sentence, when it is not well.
    pub problem: Option<String>,
}

/// How one environment stands: three small reads of the store, and one look at the target for each component.
pub async fn environment(
    world: &World,
    settings: &domain::config::Environment,
    project: &Name,
) -> Result<EnvironmentStatus> {
    let name = &settings.name;
    let log = world.log(name);
    let (current, head, lease) = tokio::try_join!(releases::current(&world.store, name), log.head(), async {
        world.store.lease_holder(name.as_str()).await.doing(format!("read the lease of {name}"))
    })?;
    let mut components = BTreeMap::new();
    let mut unobserved = None;
    for (component, set) in &settings.components {
        let observed = match world.target.observe(project, name, component).await {
            Ok(observed) => Some(observed),
            Err(error) => {
                unobserved = Some(crate::rollout::chain(&error));
                None
            }
        };
        let host = match &settings.target {
            domain::config::Target::Process { host, .. } | domain::config::Target::Docker { host, .. } => host,
        };
        let serving = current.components.get(component).cloned();
        let (state, problem) = judge(serving.as_ref(), observed.as_ref());
        let url = serving.as_ref().map(|_| format!("http://{host}:{}", set.port));
        components.insert(component.clone(), ComponentStatus { serving, observed, url, state, problem });
    }
    let held = lease.and_then(|lease| {
        lease
            .holder
            .filter(|holder| !holder.is_provably_dead())
            .map(|holder| format!("{} holds the lease (epoch {}): {}", holder.name, lease.epoch, lease.op))
    });
    Ok(EnvironmentStatus {
        environment: name.clone(),
        target: world.target.describe(),
        components,
        seq: head.as_ref().map_or(0, |head| head.seq),
        epoch: head.as_ref().map_or(current.epoch, |head| head.epoch),
        held,
        unobserved,
    })
}

fn judge(serving: Option<&Running>, observed: Option<&Observed>) -> (&'static str, Option<String>) {
    let Some(observed) = observed else { return ("unknown", None) };
    match serving {
        None => match observed.running() {
            None => ("empty", None),
            Some(slot) => ("drifted", Some(format!("something runs in {slot} that no release here accounts for"))),
        },
        Some(running) => match observed.slot(running.slot) {
            SlotState::Running { release_digest, .. } if *release_digest == running.digest => ("serving", None),
            SlotState::Running { .. } => ("drifted", Some(format!("{} holds another release", running.slot))),
            SlotState::Stopped { ended, .. } => {
                let how = ended.as_deref().unwrap_or("stopped");
                ("down", Some(format!("{} does not run: {how}", running.release)))
            }
            SlotState::Empty => ("down", Some(format!("{} is not there", running.release))),
        },
    }
}

/// The rollouts of an environment, newest first.
pub async fn history(log: &Log) -> Result<Vec<Rollout>> {
    let mut rollouts = rollouts(&log.records().await?)?;
    rollouts.reverse();
    Ok(rollouts)
}

/// Everything about one release.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The manifest.
    pub manifest: Manifest,
    /// SHA-256 of its bundle.
    pub digest: Digest,
    /// The key that signed it.
    pub signer: Name,
    /// Key of the bundle in the store.
    pub key: String,
    /// What of it is not in the store.
    pub missing: Vec<String>,
    /// Where it serves now.
    pub serves: Vec<Name>,
    /// Its rollouts by environment, oldest first.
    pub rollouts: BTreeMap<Name, Vec<Rollout>>,
    /// Gate verdicts about it.
    pub verdicts: Vec<crate::gates::Evidence>,
    /// What its smoke requests came to.
    pub tests: Vec<crate::gates::TestEvidence>,
}

/// What a release is, where it has been, and what was judged of it.
pub async fn explain(
    store: &Store,
    trusted: &TrustedKeys,
    release: &ReleaseName,
    environments: &[Name],
    logs: impl Fn(&Name) -> Log,
) -> Result<Explanation> {
    let sealed = releases::read(store, trusted, release).await?;
    let mut serves = Vec::new();
    let mut by_environment = BTreeMap::new();
    for environment in environments {
        let current: Current = releases::current(store, environment).await?;
        if current.components.values().any(|running| running.digest == sealed.digest) {
            serves.push(environment.clone());
        }
        let records = logs(environment).records().await?;
        let of_it: Vec<Rollout> =
            rollouts(&records)?.into_iter().filter(|rollout| rollout.digest == sealed.digest).collect();
        if !of_it.is_empty() {
            by_environment.insert(environment.clone(), of_it);
        }
    }
    Ok(Explanation {
        missing: releases::missing(store, &sealed.manifest).await?,
        verdicts: crate::gates::evidence(store, trusted, &sealed.digest).await?,
        tests: crate::gates::tests(store, trusted, &sealed).await?,
        key: releases::key(release),
        digest: sealed.digest,
        signer: sealed.signer,
        manifest: sealed.manifest,
        serves,
        rollouts: by_environment,
    })
}
