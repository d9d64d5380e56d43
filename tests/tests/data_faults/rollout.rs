//! Rows 10 and 11 where they matter most: conditional writes of releases, ledger, leases and current states.

use crate::{
    Lane,
    common::network::{ACCESS, BUCKET, SECRET, Server, section},
};
use e2e::{
    Project, Run, Settings,
    campaign::{Random, Tally},
    proxy::{Among, Fault, Passed, Proxy},
};

/// More conditional writes than any command here makes.
const MOST: u64 = 120;
/// Where the served store lies in a repository, so that a fork takes it along.
const FOLDER: &str = ".sealift/served";

pub(crate) fn lanes() -> Vec<Lane<'static>> {
    let mut lanes: Vec<Lane<'static>> = Vec::new();
    for (fault, row) in [(Fault::ResetAfter, "row 10 lost answers"), (Fault::Conflict, "row 11 conflicts")] {
        // Two lanes a fault: odd and even k.
        for first in 1..=2 {
            let lane = move |tally: &Tally| conditional(tally, row, fault, &["deploy", "staging"], first, 2);
            lanes.push((format!("{row} deploy {first}"), Box::new(lane)));
        }
        let lane = move |tally: &Tally| conditional(tally, row, fault, &["release", "cut"], 1, 1);
        lanes.push((format!("{row} release cut"), Box::new(lane)));
    }
    lanes
}

fn sealift(project: &Project, line: &[&str]) -> Run {
    project.sealift(line).env("STORE_ACCESS", ACCESS).env("STORE_SECRET", SECRET).run()
}

/// The k-th conditional write of `line`, for k = `first`, `first + step`, …
fn conditional(tally: &Tally, row: &'static str, fault: Fault, line: &[&str], first: u64, step: u64) {
    let proxy = Proxy::before(0, Random::new(tally.seed, 500 + first));
    let store = section(&proxy.endpoint(), BUCKET);
    let base =
        Project::service_with(Settings { gate: false, store, lease_ttl: "30s".to_owned(), ..Settings::default() });
    {
        let server = Server::start(&base, &base.path(FOLDER), true);
        proxy.lead_to(server.port);
        sealift(&base, &["store", "check"]).ok();
        // A cut is the first contact, which asks by writes on trial whether the store keeps its word.
        if line[0] == "deploy" {
            sealift(&base, &["release", "cut"]).ok();
        }
    }
    let mut nth = first;
    while nth <= MOST && !tally.given_up(row) {
        let project = base.fork();
        project.commit("Ports of its own");
        let server = Server::start(&project, &project.path(FOLDER), true);
        proxy.lead_to(server.port);
        proxy.arm(fault, Among::Conditional, nth, false);
        let run = sealift(&project, line);
        let passed = proxy.disarm();
        if passed.struck.is_empty() {
            tally.hold(row, format!("{line:?} without {fault:?}"), || {
                run.ok();
                assert!(nth > first, "{line:?} makes no conditional write");
            });
            return;
        }
        tally.attempt(row, format!("{fault:?} at conditional write {nth} of {line:?}"), || {
            if line[0] == "release" && nth == 1 {
                assert!(passed.struck[0].contains("/probes/"), "no trial: {:?}", passed.requests);
            }
            assert_eq!(run.code, Some(0), "struck {:?}: {}", passed.struck, run.told());
            compared(fault, &passed);
            match line {
                ["deploy", ..] => deployed(&project),
                _ => {
                    sealift(&project, &["release", "verify", "svc@1.0.0"]).ok();
                    // The same content again is no second release.
                    sealift(&project, line).ok();
                }
            }
        });
        drop(server);
        nth += step;
    }
    if nth > MOST {
        tally.lose(row, format!("{line:?} made more than {MOST} conditional writes"));
    }
}

/// After the 409 the write is sent again; after the 412, and after the answer that was lost, what is there is read and
/// compared with what was written.
fn compared(fault: Fault, passed: &Passed) {
    let writes = if fault == Fault::Conflict { 2 } else { 1 };
    let write = &passed.struck[0];
    let key =
        |request: &str| request.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
    let of_key: Vec<&str> =
        passed.requests.iter().filter(|request| key(request) == key(write)).map(|request| &request[..3]).collect();
    let first = passed.requests.iter().position(|request| request == write).unwrap();
    let before = passed.requests[..first].iter().filter(|request| key(request) == key(write)).count();
    let after = &of_key[before..];
    assert!(after.iter().filter(|method| **method == "PUT").count() >= writes, "not sent again: {:?}", passed.requests);
    let last = after.iter().rposition(|method| *method == "PUT").unwrap_or(0);
    let read = after[last..].iter().any(|method| matches!(*method, "GET" | "HEA"));
    assert!(read || after[..last].contains(&"GET"), "{write} was never compared: {:?}", passed.requests);
}

/// What a rollout without a fault comes to, and that nothing is left to do.
fn deployed(project: &Project) {
    assert_eq!(project.answers("staging").as_deref(), Some("1.0.0"));
    sealift(project, &["audit", "verify"]).ok();
    sealift(project, &["status"]).ok().says("serving");
    let run = project.sealift(["history", "staging", "--format", "json"]);
    let run = run.env("STORE_ACCESS", ACCESS).env("STORE_SECRET", SECRET).run().ok();
    let begun = run.stdout.matches("svc@1.0.0").count();
    assert!(begun > 0, "{}", run.told());
    let resumed = sealift(project, &["resume", "staging"]).ok();
    assert!(resumed.stdout.contains("no rollout of staging is open"), "{}", resumed.told());
}
