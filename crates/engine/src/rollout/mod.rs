//! Rollouts: planning from facts, executing a plan, resuming, aborting.
//!
//! Words: a *rollout* moves one component of one environment from one release to another. Its *journal* is the
//! environment's ledger: `rollout.begun` (with the plan's digest; the plan itself is a blob), for each step
//! `step.intent` and `step.done` or `step.failed`, and `rollout.ended`.
//!
//! Invariants:
//! - Nothing is changed without the lease of the environment, and nothing by a holder that was overtaken.
//! - Every step makes a state and first looks whether that state is there. So a rollout that was cut off anywhere is
//!   resumed by doing its steps again from the first one; resuming twice does nothing.
//! - Whether to go back is written to the ledger before going back begins, so that a second crash goes on in the same
//!   direction.
//! - `current.json` names a release only after that release answered its health check and its smoke requests there.
//!
//! Failure: when the *release* is at fault (it does not start, is unhealthy, fails its smoke requests, or something it
//! consists of is missing or corrupt), the previous release is brought back and the rollout ends as `went-back`. When
//! the *machinery* fails (store, engine, disk, a signal), the previous release is kept or started again as well as
//! can be, and the rollout stays open for `resume` or `abort`.

mod execute;
mod gather;
mod steps;

pub(crate) use execute::chain;
pub use execute::{Finished, abort, execute, resume};
pub use gather::{RolloutRequest, plan, world};

use crate::{
    error::{Error, Result},
    journal::Log,
    workspace::Clock,
};
use async_trait::async_trait;
use cluster::Target;
use domain::{Events, Name, plan::Side};
use ledger::keys::{SigningKey, TrustedKeys};
use std::{path::PathBuf, sync::Arc, time::Duration};
use store::Store;
use tokio_util::sync::CancellationToken;

/// What a rollout is carried out through. One for each environment.
#[derive(Clone)]
pub struct World {
    /// The store.
    pub store: Store,
    /// What runs the environment.
    pub target: Arc<dyn Target>,
    /// What asks a workload whether it is well.
    pub probes: Arc<dyn Probes>,
    /// The key that signs ledger entries, or why there is none.
    pub key: std::result::Result<SigningKey, Arc<Error>>,
    /// Keys that are believed.
    pub trusted: TrustedKeys,
    /// Who acts.
    pub actor: String,
    /// The time, for records.
    pub clock: Arc<dyn Clock>,
    /// Where events go.
    pub events: Events,
    /// Where images and files are fetched to.
    pub cache: PathBuf,
    /// Where the newest ledger entry seen is remembered.
    pub memory: Option<PathBuf>,
    /// How long a lease lasts without renewal.
    pub lease_ttl: Duration,
    /// How long to wait for a lease that someone holds.
    pub patience: Duration,
    /// Cancelled by SIGINT and SIGTERM.
    pub stop: CancellationToken,
}

impl World {
    /// The key that signs; without one, the error says how to make it.
    pub fn signing_key(&self) -> Result<&SigningKey> {
        self.key.as_ref().map_err(|error| match error.as_ref() {
            Error::NotFound { message, next } => Error::NotFound { message: message.clone(), next: next.clone() },
            other => Error::bad_input(other.to_string()),
        })
    }

    /// The ledger of an environment.
    pub fn log(&self, environment: &Name) -> Log {
        Log::new(self.store.clone(), environment.clone(), self.trusted.clone(), self.memory.as_deref())
    }
}

/// Asks a workload whether it is well. A failure is a sentence about the workload.
#[async_trait]
pub trait Probes: Send + Sync {
    /// Waits until it answers its health check, fails when it dies or the time is over.
    async fn wait_healthy(&self, side: &Side, target: &dyn Target) -> std::result::Result<(), String>;
    /// Sends its smoke requests; fails with those that did not pass.
    async fn smoke(&self, side: &Side, events: &Events) -> std::result::Result<(), String>;
}

/// Probes over HTTP.
#[derive(Debug, Clone, Copy, Default)]
pub struct HttpProbes;

#[async_trait]
impl Probes for HttpProbes {
    async fn wait_healthy(&self, side: &Side, target: &dyn Target) -> std::result::Result<(), String> {
        let Some(check) = &side.workload.health else { return Ok(()) };
        let place = &side.workload.place;
        let still_alive = || async { target.alive(place).await.ok().flatten() };
        match probe::wait_healthy(&side.workload.url(), check, still_alive).await {
            Ok(_) => Ok(()),
            Err(unhealthy) => {
                let tail = target.logs(place, 5).await.unwrap_or_default();
                let last =
                    if tail.is_empty() { String::new() } else { format!("; its last lines: {}", tail.join(" | ")) };
                Err(format!("{unhealthy}{last}"))
            }
        }
    }

    async fn smoke(&self, side: &Side, events: &Events) -> std::result::Result<(), String> {
        let report = probe::smoke(&side.workload.url(), &side.smoke, events).await;
        match report.failures() {
            failures if failures.is_empty() => Ok(()),
            failures => Err(failures.join("; ")),
        }
    }
}

/// A place to stop hard, for tests of crashes: the process kills itself (SIGKILL) at the k-th one that it passes when
/// `SEALIFT_CRASH_AT=k` is set. Compiled in with the feature `testing` only.
#[cfg(feature = "testing")]
pub(crate) fn crash_point() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Some(at) = std::env::var("SEALIFT_CRASH_AT").ok().and_then(|text| text.parse::<u64>().ok()) else { return };
    if PASSED.fetch_add(1, Ordering::SeqCst) + 1 == at {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// See the other one.
#[cfg(not(feature = "testing"))]
pub(crate) fn crash_point() {}
