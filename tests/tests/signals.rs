//! SIGINT and SIGTERM in the middle of a deploy, and the sequence with which CI cancels.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's helpers fail the test, and say what was counted"
)]

use e2e::{Behaviour, Project, Settings};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// The promise: CI gives 7.5 s before it asks again.
const PROMISE: Duration = Duration::from_secs(7);

/// 1.0.0 serves staging, 1.1.0 gets ready only when it may.
fn scene() -> Project {
    let mut project = Project::service_with(Settings { lease_ttl: "5s".to_owned(), ..Settings::default() });
    project.release("1.0.0", |_| {});
    project.run(["deploy", "staging"]).ok();
    project.release("1.1.0", |settings| settings.behaviour = Behaviour::SlowStart);
    project
}

/// After a signal: told, journalled, the previous release serving, the lease given back; `resume` finishes.
fn interrupted(project: &Project, steps: &str) {
    let state = project.state("staging");
    assert_eq!(state.serving.as_ref().map(|(release, _)| release.as_str()), Some("svc@1.0.0"), "{steps}: {state:?}");
    assert_eq!(state.answers.as_deref(), Some("1.0.0"), "{steps}: the previous release goes on serving: {state:?}");
    assert_eq!((state.open, state.lease_free), (1, true), "{steps}: {state:?}");
    project.run(["status"]).ok().says("sealift resume staging");
    project
        .run(["deploy", "staging", "1.1.0"])
        .fails(75)
        .says("was begun and not ended")
        .says("sealift resume staging");

    project.let_start();
    project.run(["resume", "staging"]).ok().says("svc@1.1.0 serves staging");
    let state = project.state("staging");
    assert_eq!(
        (state.open, state.lease_free, state.answers.as_deref()),
        (0, true, Some("1.1.0")),
        "{steps}: {state:?}"
    );
    project.run(["resume", "staging"]).ok().says("no rollout of staging is open");
    project.run(["audit", "verify"]).ok();
}

fn stopped_by(signal: Signal, code: i32, word: &str) {
    let project = scene();
    let mut running = project.spawn(["deploy", "staging", "1.1.0"]);
    running.wait_for_step("wait until svc@1.1.0 is healthy");
    let asked = Instant::now();
    running.signal(signal);
    let run = running.wait().fails(code);
    assert!(asked.elapsed() < PROMISE, "{}", run.told());
    let error = run.error();
    assert_eq!(error["exit"], code, "{error}");
    assert!(error["next"].as_str().unwrap().contains("sealift resume staging"), "{error}");
    assert!(error["message"].as_str().unwrap().contains("svc@1.0.0 was left serving"), "{error}");
    println!("{word}: exit {code} after {:.2?}, resumed", asked.elapsed());
    interrupted(&project, word);
}

#[test]
fn sigint_in_mid_deploy() {
    stopped_by(Signal::INT, 130, "SIGINT");
}

#[test]
fn sigterm_in_mid_deploy() {
    stopped_by(Signal::TERM, 143, "SIGTERM");
}

/// CI cancels with SIGINT and, when that was not enough, SIGTERM. Whether the second one finds a program or not, the rollout is
/// in the ledger and `resume` goes on.
#[test]
fn ci_cancels_with_sigint_and_then_sigterm() {
    let project = scene();
    let mut running = project.spawn(["deploy", "staging", "1.1.0"]);
    running.wait_for_step("wait until svc@1.1.0 is healthy");
    let asked = Instant::now();
    running.signal(Signal::INT);
    running.signal(Signal::TERM);
    let run = running.wait();
    assert!(asked.elapsed() < PROMISE, "{}", run.told());
    assert!(run.code == Some(130) || run.code == Some(143), "{}", run.told());
    // The second signal ends it at once: the lease may be left to a holder who is dead, which is no obstacle.
    let state = project.state("staging");
    assert_eq!(state.open, 1, "{state:?}");
    assert_eq!(state.serving.as_ref().map(|(release, _)| release.as_str()), Some("svc@1.0.0"), "{state:?}");
    project.let_start();
    project.run(["resume", "staging"]).ok();
    let state = project.state("staging");
    assert_eq!((state.open, state.answers.as_deref()), (0, Some("1.1.0")), "{state:?}");
    project.run(["audit", "verify"]).ok();
    println!("SIGINT, SIGTERM: exit {:?} after {:.2?}, resumed", run.code, run.took);
}

/// A rollout that was stopped can be given up instead.
#[test]
fn an_interrupted_deploy_can_be_given_up() {
    let project = scene();
    let mut running = project.spawn(["deploy", "staging", "1.1.0"]);
    running.wait_for_step("wait until svc@1.1.0 is healthy");
    running.signal(Signal::INT);
    running.wait().fails(130);
    project.run(["abort", "staging"]).ok().says("was given up");
    let state = project.state("staging");
    assert_eq!((state.open, state.answers.as_deref()), (0, Some("1.0.0")), "{state:?}");
    project.run(["abort", "staging"]).ok().says("no rollout of staging is open");
    project.run(["history", "staging"]).ok().says("aborted");
    project.run(["audit", "verify"]).ok();
}

/// Verbs without a journal end at once.
#[test]
fn a_signal_outside_a_rollout_ends_at_once() {
    let mut project = Project::with(Settings::default());
    project.settings.build = format!(
        "prepare = [[\"sh\", \"-c\", \"echo begun; exec cat {}\"]]\n{}",
        pipe(&project),
        project.settings.build
    );
    project.configure();
    project.run(["keys", "new", "release"]).ok();
    project.commit("a build that waits");
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut running = project.spawn(["build"]);
        running.wait_for_line("the line of the build", |line| line.contains("begun"));
        let asked = Instant::now();
        running.signal(signal);
        running.wait().fails(code);
        assert!(asked.elapsed() < PROMISE);
    }
}

/// A named pipe that nobody writes: whoever reads it waits.
fn pipe(project: &Project) -> String {
    let path = project.folder().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    path.display().to_string()
}
