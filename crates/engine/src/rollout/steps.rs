//! What each step does, and how it finds out that it is done.

use super::World;
use crate::{
    artifacts,
    error::{Doing, Error, Result},
    gates::{self, TestRun, Tested},
    releases,
};
use domain::{
    plan::{Plan, Side, Step, Which},
    state::{Current, Running},
    workload::{Place, SlotState},
};
use store::Swap;

/// How a step came to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The world was already so.
    AlreadyDone,
    /// It was done now.
    Done,
}

impl World {
    /// Makes the state that a step is for, with the epoch of the lease.
    pub(super) async fn act(&self, plan: &Plan, step: Step, epoch: u64) -> Result<Outcome> {
        match step {
            Step::Preflight => self.preflight(plan).await,
            Step::Prepare { which } => self.prepare(plan, which, epoch).await,
            Step::Stop { which } => self.stop(plan, which, epoch).await,
            Step::Start { which } => self.start(plan, which, epoch).await,
            Step::AwaitHealthy { which } => {
                let side = side(plan, which)?;
                let healthy = self.probes.wait_healthy(side, self.target.as_ref()).await;
                healthy.map_err(|why| unfit(side, format!("is not healthy: {why}")))?;
                Ok(Outcome::Done)
            }
            Step::Smoke { which } => {
                let side = side(plan, which)?;
                let passed = self.probes.smoke(side, &self.events).await;
                let (environment, release) = (&plan.environment, &side.release);
                let tested = Tested { environment, release, bundle: side.digest, image: side.workload.image };
                // A release that failed is taken back, also where its result could not be written down.
                let recorded = gates::attest_tests(self, &tested, &TestRun::said(&side.smoke, &passed)).await;
                passed.map_err(|why| unfit(side, format!("failed its smoke requests: {why}")))?;
                recorded?;
                Ok(Outcome::Done)
            }
            Step::Switch { which } => self.switch(plan, side(plan, which)?, epoch).await,
            Step::Withdraw { which } => self.withdraw(plan, side(plan, which)?, epoch).await,
            Step::Retire { which } => self.retire(plan, which, epoch).await,
        }
    }

    /// Everything that both releases consist of is in the store.
    async fn preflight(&self, plan: &Plan) -> Result<Outcome> {
        for side in [Some(&plan.to), plan.from.as_ref()].into_iter().flatten() {
            let release = releases::read(&self.store, &self.trusted, &side.release).await?;
            if release.digest != side.digest {
                return Err(Error::Integrity {
                    message: format!(
                        "{} in the store is {}, and the plan was made for {}",
                        side.release, release.digest, side.digest
                    ),
                });
            }
            let missing = releases::missing(&self.store, &release.manifest).await?;
            if !missing.is_empty() {
                return Err(Error::NotFound {
                    message: format!("{} cannot be restored: the store lacks {}", side.release, missing.join(", ")),
                    next: Some(format!("sealift release verify {}", side.release)),
                });
            }
        }
        Ok(Outcome::Done)
    }

    async fn prepare(&self, plan: &Plan, which: Which, epoch: u64) -> Result<Outcome> {
        let side = side(plan, which)?;
        let place = &side.workload.place;
        let state = self.slot(place, epoch).await?;
        if state.release_digest() == Some(&side.digest) {
            return Ok(Outcome::AlreadyDone);
        }
        if state.is_running() {
            // The slot that does not serve is ours to fill; what runs in it is a leftover.
            self.target
                .stop(place, epoch, side.workload.stop_timeout)
                .await
                .doing(format!("stop what is left in {place}"))?;
        }
        let staged =
            artifacts::stage(&self.store, &self.cache, &side.workload, self.target.image_form(), &self.events).await?;
        self.target
            .prepare(&side.workload, epoch, staged.image(), &staged.mounts)
            .await
            .doing(format!("prepare {} in {place}", side.release))?;
        Ok(Outcome::Done)
    }

    async fn stop(&self, plan: &Plan, which: Which, epoch: u64) -> Result<Outcome> {
        let side = side(plan, which)?;
        let place = &side.workload.place;
        if !self.slot(place, epoch).await?.is_running() {
            return Ok(Outcome::AlreadyDone);
        }
        self.target.stop(place, epoch, side.workload.stop_timeout).await.doing(format!("stop {place}"))?;
        Ok(Outcome::Done)
    }

    async fn start(&self, plan: &Plan, which: Which, epoch: u64) -> Result<Outcome> {
        let side = side(plan, which)?;
        match self.slot(&side.workload.place, epoch).await? {
            SlotState::Running { release_digest, .. } if release_digest == side.digest => {
                return Ok(Outcome::AlreadyDone);
            }
            SlotState::Stopped { release_digest, .. } if release_digest == side.digest => {}
            // The slot was lost (a removed container, a cleared folder): it is filled again.
            _ => {
                self.prepare(plan, which, epoch).await?;
            }
        }
        self.target
            .start(&side.workload, epoch)
            .await
            .doing(format!("start {} in {}", side.release, side.workload.place))?;
        Ok(Outcome::Done)
    }

    /// `current.json` names the release.
    async fn switch(&self, plan: &Plan, side: &Side, epoch: u64) -> Result<Outcome> {
        let slot = side.workload.place.slot;
        let settings = Some(side.workload.settings_digest());
        self.change_current(plan, epoch, |current| {
            let there = current.components.get(&plan.component);
            let same = |r: &Running| r.digest == side.digest && r.slot == slot && r.settings == settings;
            if there.is_some_and(same) && current.epoch == epoch {
                return None;
            }
            Some(Some(Running {
                release: side.release.clone(),
                digest: side.digest,
                slot,
                settings,
                since: self.clock.now(),
            }))
        })
        .await
    }

    /// `current.json` does not name the release.
    async fn withdraw(&self, plan: &Plan, side: &Side, epoch: u64) -> Result<Outcome> {
        self.change_current(plan, epoch, |current| {
            let named = current.components.get(&plan.component).is_some_and(|running| running.digest == side.digest);
            named.then_some(None)
        })
        .await
    }

    /// Changes `current.json` by compare-and-swap; a lower epoch is refused. `change` says nothing when it is already so.
    async fn change_current(
        &self,
        plan: &Plan,
        epoch: u64,
        change: impl Fn(&Current) -> Option<Option<Running>>,
    ) -> Result<Outcome> {
        let key = current_key(plan);
        let doing = || format!("record what {} serves", plan.environment);
        loop {
            let stored = self.store.read(&key).await.doing(doing())?;
            let current = match &stored {
                Some(stored) => parse_current(&key, &stored.bytes)?,
                None => Current::empty(plan.environment.clone()),
            };
            let Some(running) = change(&current) else { return Ok(Outcome::AlreadyDone) };
            let next = current.with(&plan.component, running, epoch, &plan.op).map_err(|overtaken| Error::Failed {
                doing: doing(),
                cause: store::Error::Fenced {
                    environment: plan.environment.to_string(),
                    ours: overtaken.ours,
                    newest: overtaken.newest,
                }
                .into(),
            })?;
            let bytes = serde_json::to_vec_pretty(&next).unwrap_or_default();
            let expected = stored.as_ref().map(|stored| stored.etag.as_str());
            if let Swap::Swapped(_) = self.store.swap(&key, expected, bytes.into()).await.doing(doing())? {
                return Ok(Outcome::Done);
            }
        }
    }

    async fn retire(&self, plan: &Plan, which: Which, epoch: u64) -> Result<Outcome> {
        let side = side(plan, which)?;
        let place = &side.workload.place;
        let state = self.slot(place, epoch).await?;
        if state == SlotState::Empty {
            return Ok(Outcome::AlreadyDone);
        }
        if state.is_running() {
            self.target.stop(place, epoch, side.workload.stop_timeout).await.doing(format!("stop {place}"))?;
        }
        self.target.remove(place, epoch).await.doing(format!("clear {place}"))?;
        Ok(Outcome::Done)
    }

    /// What is in a slot; refused when a newer epoch has been there.
    async fn slot(&self, place: &Place, ours: u64) -> Result<SlotState> {
        let observed = self
            .target
            .observe(&place.project, &place.environment, &place.component)
            .await
            .doing(format!("observe {}", place.component))?;
        let state = observed.slot(place.slot).clone();
        match state {
            SlotState::Running { epoch, .. } | SlotState::Stopped { epoch, .. } if epoch > ours => {
                Err(store::Error::Fenced { environment: place.environment.to_string(), ours, newest: epoch })
                    .doing(format!("change {place}"))
            }
            state => Ok(state),
        }
    }

    /// After the machinery failed: whatever `current.json` says is to serve runs again, as well as can be. Says in words
    /// what is known of what serves now.
    pub(super) async fn hold(&self, plan: &Plan, epoch: u64) -> String {
        let Some(old) = &plan.from else { return "nothing served before".to_owned() };
        let switched = match self.store.read(&current_key(plan)).await {
            Ok(Some(stored)) => parse_current(&current_key(plan), &stored.bytes).is_ok_and(|current| {
                current.components.get(&plan.component).is_some_and(|r| r.digest == plan.to.digest)
            }),
            Ok(None) => false,
            Err(_) => return format!("whether {} serves is not known, the store does not answer", old.release),
        };
        if switched {
            return format!("{} serves", plan.to.release);
        }
        let held = async {
            self.stop(plan, Which::New, epoch).await?;
            self.start(plan, Which::Old, epoch).await?;
            Ok::<_, Error>(())
        };
        match tokio::time::timeout((self.lease_ttl / 3).min(std::time::Duration::from_secs(5)), held).await {
            Ok(Ok(())) => format!("{} was left serving", old.release),
            Ok(Err(error)) => format!("{} could not be started again: {error}", old.release),
            Err(_) => format!("{} could not be started again in time", old.release),
        }
    }
}

/// The key of an environment's current state.
fn current_key(plan: &Plan) -> String {
    releases::current_key(&plan.environment)
}

fn parse_current(key: &str, bytes: &[u8]) -> Result<Current> {
    releases::parse_current(key, bytes)
}

fn side(plan: &Plan, which: Which) -> Result<&Side> {
    plan.side(which)
        .ok_or_else(|| Error::Integrity { message: format!("the plan {} has no old release", plan.digest()) })
}

fn unfit(side: &Side, why: String) -> Error {
    Error::Unfit { release: side.release.clone(), why }
}
