//! Two deploys of one environment at once: one winner, and never a mixed state.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's helpers fail the test, and say what was counted"
)]

use e2e::{Behaviour, Project, Settings, SlotIs, processes, until};
use rustix::process::{Pid, test_kill_process};

/// How often two deploys meet.
const ROUNDS: usize = 50;
/// After how many rounds a fresh copy is taken, so that ledgers stay short.
const PER_COPY: usize = 5;

/// Two releases that get ready only when they may, and one that serves between the rounds.
fn prepared() -> Project {
    let mut project =
        Project::service_with(Settings { lease_ttl: "3s".to_owned(), gate: false, ..Settings::default() });
    project.release("1.0.0", |_| {});
    project.release("1.1.0", |settings| settings.behaviour = Behaviour::SlowStart);
    project.release("1.2.0", |_| {});
    project
}

/// How a loser was told.
#[derive(Debug, Default)]
struct Counts {
    /// Wins of the first and the second that was started.
    wins: [usize; 2],
    /// It met the lease.
    met_the_lease: usize,
    /// It saw the winner's rollout in the ledger.
    met_the_rollout: usize,
}

/// One round: both are started; whoever holds the lease cannot finish before the other has ended.
fn round(project: &Project, number: usize, counts: &mut Counts) {
    project.hold_start();
    let mut versions = ["1.1.0", "1.2.0"];
    if number % 2 == 1 {
        versions.reverse();
    }
    let mut runs: Vec<_> = versions.iter().map(|version| Some(project.spawn(["deploy", "staging", version]))).collect();
    let pids: Vec<i32> = runs.iter().flatten().map(|run| run.pid()).collect();
    let alive = |pid: i32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok()
            && test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
    };
    let loser = until("one of two deploys gives way", || pids.iter().position(|pid| !alive(*pid)));
    let winner = 1 - loser;
    let lost = runs[loser].take().unwrap().wait().fails(75);
    assert_ne!(project.answers("staging").as_deref(), Some(versions[loser]));

    let error = lost.error();
    let words = format!("{} {}", error["message"], error["causes"]);
    let holder = format!("pid {}", pids[winner]);
    assert!(words.contains(&holder), "the holder ({holder}) is not named: {}", lost.told());
    match words.contains("was begun and not ended") {
        true => counts.met_the_rollout += 1,
        false => counts.met_the_lease += 1,
    }
    counts.wins[winner] += 1;

    project.let_start();
    runs[winner].take().unwrap().wait().ok();
    let (state, won) = (project.state("staging"), format!("svc@{}", versions[winner]));
    assert_eq!(state.serving.as_ref().map(|(release, _)| release.clone()), Some(won.clone()), "{state:?}");
    assert_eq!(state.answers.as_deref(), Some(versions[winner]), "{state:?}");
    let slots = [&state.blue, &state.green];
    assert!(slots.contains(&&SlotIs::Running(won)) && slots.contains(&&SlotIs::Empty), "{state:?}");
    assert_eq!((state.open, state.lease_free), (0, true), "{state:?}");
    assert_eq!(processes::of(project.folder()).len(), 1, "{state:?}");
}

#[test]
fn two_deploys_at_once_have_one_winner() {
    let template = prepared();
    let mut counts = Counts::default();
    for copy in 0..ROUNDS.div_ceil(PER_COPY) {
        let project = template.fork();
        project.run(["deploy", "staging", "1.0.0"]).ok();
        for number in (copy * PER_COPY..ROUNDS).take(PER_COPY) {
            round(&project, number, &mut counts);
            project.run(["rollback", "staging", "--to", "1.0.0"]).ok();
        }
        project.run(["audit", "verify"]).ok();
    }
    let Counts { wins, met_the_lease, met_the_rollout } = counts;
    assert_eq!(wins[0] + wins[1], ROUNDS);
    e2e::tell(&format!(
        "{ROUNDS} rounds: {ROUNDS} single winners (started first {}, started second {}), {ROUNDS} losers with 75 who name the \
         holder ({met_the_lease} at the lease, {met_the_rollout} at the open rollout), 0 mixed states",
        wins[0], wins[1]
    ));
}

/// One that comes while another is under way is refused too, and told who that is.
#[test]
fn a_deploy_that_comes_later_is_told_who_is_at_work() {
    let project = prepared();
    project.run(["deploy", "staging", "1.0.0"]).ok();
    let first = project.spawn(["deploy", "staging", "1.1.0"]);
    first.wait_for_step("wait until svc@1.1.0 is healthy");
    let holder = format!("pid {}", first.pid());
    let before = project.records("staging").len();
    for words in [
        &["deploy", "staging", "1.2.0"][..],
        &["deploy", "staging", "1.1.0"],
        &["rollback", "staging", "--to", "1.0.0"],
        &["resume", "staging"],
        &["abort", "staging"],
    ] {
        let run = project.run(words).fails(75);
        assert!(run.stderr.contains(&holder), "the holder ({holder}) is not named: {}", run.told());
    }
    assert_eq!(project.records("staging").len(), before, "who is refused writes nothing");
    project.run(["status"]).ok().says(&holder);
    project.let_start();
    first.wait().ok();
    assert_eq!(project.answers("staging").as_deref(), Some("1.1.0"));
}
