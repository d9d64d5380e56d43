//! SIGKILL at every journal step of a rollout, then `resume`: the same end as without it.
//!
//! The program kills itself at the k-th crash point that it passes (`SEALIFT_CRASH_AT=k`): before and after every entry of
//! the ledger, between what a step did and the entry that says so, and before the lease is given back. Every k is tried
//! until a run comes through; each begins from a copy of the same prepared project. For a sample of them the resume is
//! killed as well, at a point that moves with k.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's helpers fail the test, and say what was counted"
)]

use e2e::{Behaviour, Project, Run, Settings, State, processes};
use serde_json::Value;
use std::time::Duration;

/// A rollout that is killed.
struct Story {
    name: &'static str,
    environment: &'static str,
    /// What serves before it begins; none of it runs in a copy of the prepared project.
    old: &'static str,
    /// What is typed.
    act: &'static [&'static str],
    /// How it ends when nothing happens to it.
    ends: i32,
}

/// A project where everything is sealed, judged and told in the ledgers, and nothing runs.
fn prepared(prepare: impl FnOnce(&mut Project)) -> Project {
    // Nobody waits for it: a dead holder on this host is known to be dead. A busy disk must not end it in mid-deploy.
    let settings = Settings { lease_ttl: "10s".to_owned(), ..Settings::default() };
    let mut project = Project::service_with(settings);
    project.release("1.0.0", |_| {});
    project.run(["deploy", "staging"]).ok();
    prepare(&mut project);
    project.stop_all();
    project
}

/// A copy in which the old release serves.
fn scene(story: &Story, prepared: &Project) -> Project {
    let project = prepared.fork();
    match story.environment {
        "staging" => project.run(["deploy", "staging", story.old]).ok(),
        production => project.run(["promote", story.old, "--to", production]).ok(),
    };
    project
}

/// What a run without a crash comes to.
fn reference(story: &Story, prepared: &Project) -> State {
    let project = scene(story, prepared);
    project.run(story.act).fails(story.ends);
    project.state(story.environment)
}

/// Whether a rollout ended in the way that belongs to the story: at once, or because it had ended before.
fn resumed(story: &Story, run: &Run) -> bool {
    run.code == Some(story.ends) || (run.code == Some(0) && run.stdout.contains("\"nothing\""))
}

/// Nobody who lives holds the lease: the next one gets it at once.
fn lease_can_be_taken(project: &Project, environment: &str) {
    let store = project.store();
    project.block_on(async {
        let lease = store.lease(environment, "a look", Duration::from_secs(2), Duration::ZERO).await.unwrap();
        lease.release().await.unwrap();
    });
}

/// What must hold at any moment: `current.json` names a release that was verified, and the chain is whole.
fn never_broken(story: &Story, project: &Project, reference: &State) -> State {
    let state = project.state(story.environment);
    let (serving, _) = state.serving.clone().unwrap();
    let new = reference.serving.as_ref().map(|(release, _)| release.as_str());
    assert!(serving == format!("svc@{}", story.old) || Some(serving.as_str()) == new, "{state:?}");
    assert!(state.open <= 1, "{state:?}");
    state
}

/// One crash. `false` when the run came through because it has fewer crash points than `k`.
fn crash(story: &Story, prepared: &Project, reference: &State, k: u64, also_in_resume: Option<u64>) -> bool {
    let project = scene(story, prepared);
    let environment = story.environment;
    let before = project.records(environment).len();
    let run = project.sealift(story.act).env("SEALIFT_CRASH_AT", k.to_string()).run();
    if run.signal.is_none() {
        run.fails(story.ends);
        return false;
    }
    let run = run.killed();
    never_broken(story, &project, reference);
    let begun = project.records(environment).len() > before;
    if let Some(at) = also_in_resume {
        let resume = ["resume", environment, "--format", "json"];
        let run = project.sealift(resume).env("SEALIFT_CRASH_AT", at.to_string()).run();
        assert!(run.signal == Some(9) || resumed(story, &run), "{}", run.told());
        never_broken(story, &project, reference);
    }
    let resume = project.json(["resume", environment]);
    assert!(resumed(story, &resume), "crash {k}, {also_in_resume:?}: {}", resume.told());
    if !begun {
        // It died before its first entry was committed: nothing has begun, so it is typed again.
        project.run(story.act).fails(story.ends);
    }
    let (end, entries) = (project.state(environment), project.records(environment).len());
    // Whose last act was the last entry had no time to give the lease back; that this hinders nobody is seen below.
    assert_eq!(State { lease_free: true, ..end }, *reference, "crash {k}, {also_in_resume:?}: {}", run.told());
    lease_can_be_taken(&project, environment);

    let answer: Value = project.json(["resume", environment]).ok().result();
    assert_eq!(answer[0]["rollout"]["finished"], "nothing", "{answer}");
    assert_eq!(project.records(environment).len(), entries, "a second resume writes nothing");
    if k.is_multiple_of(5) {
        // The same function as in `state`, as it is typed, over all environments.
        project.run(["audit", "verify"]).ok();
    }
    assert_eq!(processes::of(project.folder()).len(), 1, "only what serves is left running");
    true
}

/// Every crash point of a story, until a run comes through.
fn every_crash(story: &Story, prepared: &Project) {
    let reference = reference(story, prepared);
    let mut points = 0;
    let mut twice = 0;
    while crash(story, prepared, &reference, points + 1, None) {
        points += 1;
    }
    for k in (2..=points).step_by(5) {
        // At another place of the resume every time; where it has fewer points it simply comes through.
        if crash(story, prepared, &reference, k, Some(1 + (k * 7) % 23)) {
            twice += 1;
        }
    }
    assert!(points >= 30, "{}: only {points} crash points", story.name);
    e2e::tell(&format!(
        "{}: {points} crash points, {points} survived; {twice} killed again in resume, {twice} survived",
        story.name
    ));
}

#[test]
fn deploy_survives_sigkill_at_every_step() {
    let project = prepared(|project| drop(project.release("1.1.0", |_| {})));
    let story =
        Story { name: "deploy", environment: "staging", old: "1.0.0", act: &["deploy", "staging", "1.1.0"], ends: 0 };
    every_crash(&story, &project);
}

#[test]
fn a_deploy_that_is_taken_back_survives_sigkill_at_every_step() {
    let project = prepared(|project| drop(project.release("1.1.0", |settings| settings.behaviour = Behaviour::Exits)));
    let act = &["deploy", "staging", "1.1.0"];
    every_crash(&Story { name: "deploy taken back", environment: "staging", old: "1.0.0", act, ends: 2 }, &project);
}

/// Both releases are judged in staging; with `both`, production has had both.
fn judged(project: &mut Project, both: bool) {
    project.run(["gate", "staging"]).ok();
    project.run(["promote", "1.0.0", "--to", "production"]).ok();
    project.release("1.1.0", |_| {});
    project.run(["deploy", "staging", "1.1.0"]).ok();
    project.run(["gate", "staging"]).ok();
    if both {
        project.run(["promote", "1.1.0", "--to", "production"]).ok();
    }
}

#[test]
fn promote_survives_sigkill_at_every_step() {
    let project = prepared(|project| judged(project, false));
    let act = &["promote", "1.1.0", "--to", "production"];
    every_crash(&Story { name: "promote", environment: "production", old: "1.0.0", act, ends: 0 }, &project);
}

#[test]
fn rollback_survives_sigkill_at_every_step() {
    let project = prepared(|project| judged(project, true));
    let act = &["rollback", "production"];
    every_crash(&Story { name: "rollback", environment: "production", old: "1.1.0", act, ends: 0 }, &project);
}
