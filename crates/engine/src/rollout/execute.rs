//! Carrying out a plan, resuming one, giving one up.

use super::{World, crash_point, steps::Outcome};
use crate::{
    error::{Doing, Error, Result},
    journal::Journal,
    status,
};
use domain::{
    Class, Digest, Event, Name,
    event::StepState,
    plan::{self, Plan, Reaction, Step},
    state::{Ending, Rollout, action},
};
use ledger::statement::Subject;
use serde::Serialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};
use store::{Family, Lease};

/// Plans are small; anything larger than this is no plan.
const PLAN_LIMIT: u64 = 4 << 20;

/// How a rollout that did not fail came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "finished", rename_all = "kebab-case")]
pub enum Finished {
    /// There was nothing to do.
    Nothing {
        /// Why not.
        why: String,
    },
    /// It was carried out.
    Ended {
        /// The operation.
        op: String,
        /// The release.
        release: domain::ReleaseName,
        /// The environment.
        environment: Name,
        /// How it ended.
        ending: Ending,
        /// How long it took, in milliseconds, without waiting for the lease.
        millis: u64,
        /// How many entries the ledger has now.
        seq: u64,
        /// The epoch that wrote it.
        epoch: u64,
    },
}

/// Which way a rollout goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Back(Ending),
}

/// Carries out a plan that nobody has begun. A plan made on another state of the environment is stale.
pub async fn execute(world: &World, plan: &Plan) -> Result<Finished> {
    if plan.steps.is_empty() {
        return Ok(Finished::Nothing { why: plan.reasons.join("; ") });
    }
    let lease = lease(world, &plan.environment, &plan.op, &format!("{} {}", plan.verb, plan.to.release)).await?;
    let result = async {
        let mut journal = open(world, plan, &lease).await?;
        if journal.anchor() != plan.base {
            let (now, then) = (journal.anchor().map_or(0, |a| a.seq), plan.base.as_ref().map_or(0, |a| a.seq));
            let what = format!("it was made on entry {then} of the ledger, and the newest is {now}");
            return Err(Error::Stale { environment: plan.environment.to_string(), what });
        }
        let digest = world.store.put_bytes(Family::Blob, plan.to_bytes().into()).await.doing("store the plan")?;
        let mut run = Run { world, plan, lease: &lease, journal: &mut journal, began: Instant::now() };
        run.write(action::BEGUN, begun(plan, digest), vec![Subject::new(format!("plan/{}", plan.op), digest)]).await?;
        run.go(Direction::Forward).await
    }
    .await;
    release(world, lease, &result).await;
    result
}

/// Goes on with the rollout of an environment that was begun and not ended.
pub async fn resume(world: &World, environment: &Name) -> Result<Finished> {
    reopen(world, environment, None).await
}

/// Gives up the rollout of an environment that was begun and not ended: the previous release is brought back.
pub async fn abort(world: &World, environment: &Name) -> Result<Finished> {
    reopen(world, environment, Some(Ending::Aborted)).await
}

async fn reopen(world: &World, environment: &Name, give_up: Option<Ending>) -> Result<Finished> {
    let nothing = || Finished::Nothing { why: format!("no rollout of {environment} is open") };
    if find_open(world, environment).await?.is_none() {
        return Ok(nothing());
    }
    let verb = if give_up.is_some() { "abort" } else { "resume" };
    let lease = lease(world, environment, verb, verb).await?;
    let result = async {
        // Looked at again under the lease: whoever held it before may have ended it.
        let Some(open_rollout) = find_open(world, environment).await? else { return Ok(nothing()) };
        let plan = read_plan(world, &open_rollout).await?;
        let mut journal = open(world, &plan, &lease).await?;
        let mut run = Run { world, plan: &plan, lease: &lease, journal: &mut journal, began: Instant::now() };
        let direction = match (going_back(world, environment, &plan).await?, give_up) {
            (Some(ending), _) => Direction::Back(ending),
            (None, Some(ending)) => {
                let back = [("decision".to_owned(), json!("go-back")), ("ending".to_owned(), json!(ending.as_str()))];
                run.write(action::FAILED, back.into(), Vec::new()).await?;
                Direction::Back(ending)
            }
            (None, None) => Direction::Forward,
        };
        run.go(direction).await
    }
    .await;
    release(world, lease, &result).await;
    result
}

async fn find_open(world: &World, environment: &Name) -> Result<Option<Rollout>> {
    status::open_rollout(&world.log(environment)).await
}

async fn read_plan(world: &World, rollout: &Rollout) -> Result<Plan> {
    let doing = format!("read the plan of {} ({})", rollout.release, rollout.plan);
    let bytes = world.store.get_bytes(Family::Blob, &rollout.plan, PLAN_LIMIT).await.doing(doing)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Integrity { message: format!("the plan {} is not readable: {error}", rollout.plan) })
}

/// Whether it was decided to go back, and as what.
async fn going_back(world: &World, environment: &Name, plan: &Plan) -> Result<Option<Ending>> {
    let mut begun = false;
    let log = world.log(environment);
    let records = log.newest(|entry| {
        let wanted = !begun;
        begun |= entry.action == action::BEGUN;
        wanted
    });
    let records = records.await?;
    let decision = records.iter().rev().find(|record| {
        let entry = &record.entry;
        entry.action == action::FAILED
            && entry.subject.get("rollout").and_then(Value::as_str) == Some(&plan.op)
            && entry.subject.get("decision").and_then(Value::as_str) == Some("go-back")
    });
    Ok(decision.map(|record| match record.entry.subject.get("ending").and_then(Value::as_str) {
        Some("aborted") => Ending::Aborted,
        Some("emptied") => Ending::Emptied,
        _ => Ending::WentBack,
    }))
}

async fn lease(world: &World, environment: &Name, op: &str, what: &str) -> Result<Lease> {
    let op = format!("{what} ({op})");
    world
        .store
        .lease(environment.as_str(), &op, world.lease_ttl, world.patience)
        .await
        .doing(format!("take the lease of {environment}"))
}

async fn release(world: &World, lease: Lease, result: &Result<Finished>) {
    crash_point();
    if let Err(error) = lease.release().await
        && result.is_ok()
    {
        world.events.warn(format!("the lease was not given back and will expire: {error}"));
    }
}

async fn open(world: &World, plan: &Plan, lease: &Lease) -> Result<Journal> {
    let log = world.log(&plan.environment);
    Journal::open(
        log,
        world.signing_key()?.clone(),
        world.actor.clone(),
        plan.op.clone(),
        lease.epoch,
        world.clock.clone(),
    )
    .await
}

fn begun(plan: &Plan, digest: Digest) -> BTreeMap<String, Value> {
    let from = plan.from.as_ref().map(|side| side.release.to_string());
    BTreeMap::from([
        ("plan".to_owned(), json!(digest)),
        ("verb".to_owned(), json!(plan.verb)),
        ("component".to_owned(), json!(plan.component)),
        ("release".to_owned(), json!(plan.to.release)),
        ("digest".to_owned(), json!(plan.to.digest)),
        ("from".to_owned(), json!(from)),
    ])
}

/// Which steps are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
}

impl Way {
    /// The word in the ledger.
    fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Back => "back",
        }
    }
}

/// One rollout under way.
struct Run<'a> {
    world: &'a World,
    plan: &'a Plan,
    lease: &'a Lease,
    journal: &'a mut Journal,
    began: Instant,
}

impl Run<'_> {
    async fn go(&mut self, direction: Direction) -> Result<Finished> {
        match direction {
            Direction::Forward => match self.walk(&self.plan.steps, Way::Forward).await {
                Ok(_) => match self.end(Ending::Succeeded, None).await {
                    Ok(finished) => Ok(finished),
                    Err(error) => Err(self.hold("record the end".to_owned(), error).await),
                },
                Err((step, error)) => self.failed(step, error).await,
            },
            Direction::Back(ending) => {
                self.go_back(ending, None).await?;
                self.finished(ending)
            }
        }
    }

    /// Does steps in order; on an error says at which step. On the way back a release that is itself at fault stops
    /// nothing: there is no better one to go back to, so what is wrong with it is noted and said.
    async fn walk(&mut self, steps: &[Step], way: Way) -> std::result::Result<Vec<String>, (String, Error)> {
        let mut unwell = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let title = self.plan.title(step);
            // A release that could not be started need not be asked whether it is well.
            if !unwell.is_empty() && matches!(step, Step::AwaitHealthy { .. } | Step::Smoke { .. }) {
                continue;
            }
            match self.step(*step, index + 1, steps.len(), &title, way).await {
                Ok(()) => {}
                Err(error) if way == Way::Back && error.is_releases_fault() => {
                    let why = chain(&error);
                    let noted = [("title".to_owned(), json!(title)), ("unwell".to_owned(), json!(why))];
                    self.write(action::FAILED, noted.into(), Vec::new()).await.map_err(|error| (title, error))?;
                    unwell.push(why);
                }
                Err(error) => return Err((title, error)),
            }
        }
        Ok(unwell)
    }

    async fn step(&mut self, step: Step, number: usize, of: usize, title: &str, way: Way) -> Result<()> {
        let world = self.world;
        let emit = |state: StepState, millis: Option<u64>| {
            world.events.emit(Event::Step { number, of, title: title.to_owned(), state, millis });
        };
        let subject = BTreeMap::from([
            ("step".to_owned(), json!(number)),
            ("kind".to_owned(), json!(step.kind())),
            ("direction".to_owned(), json!(way.as_str())),
            ("title".to_owned(), json!(title)),
        ]);
        emit(StepState::Started, None);
        let began = Instant::now();
        let result = async {
            self.write(action::INTENT, subject.clone(), Vec::new()).await?;
            self.lease.check().doing(format!("go on with the lease of {}", self.plan.environment))?;
            let act = world.act(self.plan, step, self.lease.epoch);
            let outcome = match way {
                Way::Forward => tokio::select! {
                    outcome = act => outcome?,
                    () = world.stop.cancelled() => return Err(Error::Stopped { signal: "a signal" }),
                },
                // Whoever stops a rollout wants the way back, not half of it.
                Way::Back => act.await?,
            };
            crash_point();
            let mut done = subject;
            done.insert("already".to_owned(), json!(outcome == Outcome::AlreadyDone));
            self.write(action::DONE, done, Vec::new()).await?;
            Ok(outcome)
        }
        .await;
        let millis = Some(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        match &result {
            Ok(Outcome::AlreadyDone) => emit(StepState::AlreadyDone, millis),
            Ok(Outcome::Done) => emit(StepState::Done, millis),
            Err(_) => emit(StepState::Failed, millis),
        }
        result.map(|_| ())
    }

    /// A step of the way forward failed: go back, or hold.
    async fn failed(&mut self, step: String, error: Error) -> Result<Finished> {
        let fault = error.is_releases_fault();
        if self.lease.check().is_err() || plan::react(error.class(), fault) == Reaction::Hold {
            return Err(self.hold(step, error).await);
        }
        let ending = if self.plan.from.is_some() { Ending::WentBack } else { Ending::Emptied };
        let failure = chain(&error);
        let subject = [
            ("title".to_owned(), json!(step)),
            ("error".to_owned(), json!(failure)),
            ("decision".to_owned(), json!("go-back")),
            ("ending".to_owned(), json!(ending.as_str())),
        ];
        if let Err(unwritten) = self.write(action::FAILED, subject.into(), Vec::new()).await {
            self.world.events.warn(format!("{failure}; the decision to go back could not be recorded"));
            return Err(self.hold(step, unwritten).await);
        }
        let unwell = self.go_back(ending, Some(&failure)).await?;
        let serving = match &self.plan.from {
            Some(old) if unwell.is_empty() => format!("{} serves again", old.release),
            Some(old) => format!("{} was brought back but is not well either: {}", old.release, unwell.join("; ")),
            None => format!("nothing serves {} now", self.plan.environment),
        };
        let class = if fault { None } else { Some(error.class()) };
        Err(self.went_back(failure, serving, class))
    }

    /// The rollout stays open. What served before is kept serving as well as can be, by whoever may still write.
    async fn hold(&self, step: String, error: Error) -> Error {
        let serving = match self.lease.check() {
            Err(store::Error::Fenced { .. }) => "another writer has taken over".to_owned(),
            Err(_) => "the lease could not be confirmed in time, so nothing more was changed".to_owned(),
            Ok(()) => self.world.hold(self.plan, self.lease.epoch).await,
        };
        self.interrupted(step, serving, error)
    }

    fn interrupted(&self, step: String, serving: String, error: Error) -> Error {
        Error::Interrupted {
            release: self.plan.to.release.clone(),
            environment: self.plan.environment.to_string(),
            step,
            serving,
            source: Box::new(error),
        }
    }

    fn went_back(&self, failure: String, serving: String, class: Option<Class>) -> Error {
        let environment = self.plan.environment.to_string();
        Error::WentBack { release: self.plan.to.release.clone(), environment, failure, serving, class }
    }

    /// Goes the way back to its end. Says what is wrong with the release that serves then, if anything is.
    async fn go_back(&mut self, ending: Ending, failure: Option<&str>) -> Result<Vec<String>> {
        self.world.events.note(match &self.plan.from {
            Some(old) => format!("going back: {} is to serve {} again", old.release, self.plan.environment),
            None => format!("going back: nothing else is to serve {}", self.plan.environment),
        });
        let unwell = match self.walk(&self.plan.back, Way::Back).await {
            Ok(unwell) => unwell,
            Err((step, error)) => return Err(self.hold(step, error).await),
        };
        if !unwell.is_empty() {
            self.world.events.warn(format!("what serves now is not well: {}", unwell.join("; ")));
        }
        match self.end(ending, failure).await {
            Ok(_) => Ok(unwell),
            Err(error) => Err(self.hold("record the end".to_owned(), error).await),
        }
    }

    async fn end(&mut self, ending: Ending, failure: Option<&str>) -> Result<Finished> {
        let mut subject = BTreeMap::from([
            ("ending".to_owned(), json!(ending.as_str())),
            ("release".to_owned(), json!(self.plan.to.release)),
        ]);
        if let Some(failure) = failure {
            subject.insert("failure".to_owned(), json!(failure));
        }
        self.write(action::ENDED, subject, Vec::new()).await?;
        self.finished(ending)
    }

    fn finished(&self, ending: Ending) -> Result<Finished> {
        Ok(Finished::Ended {
            op: self.plan.op.clone(),
            release: self.plan.to.release.clone(),
            environment: self.plan.environment.clone(),
            ending,
            millis: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            seq: self.journal.anchor().map_or(0, |anchor| anchor.seq),
            epoch: self.journal.epoch(),
        })
    }

    /// One entry about this rollout.
    async fn write(
        &mut self,
        action: &str,
        mut subject: BTreeMap<String, Value>,
        artifacts: Vec<Subject>,
    ) -> Result<()> {
        subject.insert("rollout".to_owned(), json!(self.plan.op));
        crash_point();
        self.journal.append(action, subject, &self.plan.reason, artifacts).await?;
        crash_point();
        Ok(())
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let words = source.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = source.source();
    }
    text
}
