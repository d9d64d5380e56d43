//! The campaign over the storage rows of `FAULTS.md`: 2, 3, 4, 6 to 12 and 20 to 22, with the commands that people type.
//!
//! For k = 1, 2, 3 … the k-th operation fails until a run comes through clean. After every fault: the documented exit code,
//! an error that names what broke and the next command, nothing half done; and then the next run finishes, everything
//! verifies, and no temporary and no upload in parts is left. The seed is printed; what was tried and survived is counted.
//!
//! Row 13 to 19 and 23 to 30 are not about data and have tests of their own.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a helper of a test fails as the test does")]

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod hostile;
mod network;
mod rollout;

use e2e::campaign::Tally;
use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Lanes that run at the same time. Most of them wait for timeouts most of the time.
const LANES: usize = 14;

/// One lane: a sequence of tries that share a project.
type Lane<'a> = (String, Box<dyn FnOnce(&Tally) + Send + 'a>);

/// Runs lanes side by side; a lane that cannot go on is a loss. The longest come first.
fn run(tally: &Tally, lanes: Vec<Lane<'_>>) {
    let lanes: Vec<Mutex<Option<Lane<'_>>>> = lanes.into_iter().map(|lane| Mutex::new(Some(lane))).collect();
    let next = AtomicUsize::new(0);
    let times = Mutex::new(Vec::<(Duration, String)>::new());
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some(lane) = lanes.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let Some((name, work)) = lane.lock().unwrap().take() else { continue };
                    let begun = Instant::now();
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(tally)));
                    if let Err(panic) = result {
                        let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        tally.lose(&name, format!("the lane could not go on: {why}"));
                    }
                    times.lock().unwrap().push((begun.elapsed(), name));
                }
            });
        }
    });
    let mut times = times.into_inner().unwrap();
    times.sort();
    for (took, name) in times.iter().rev().take(6) {
        e2e::tell(&format!("campaign: faults:   {took:.1?} in {name}"));
    }
}

#[test]
fn storage_faults() {
    let tally = Tally::begin("faults");
    let servers = network::Servers::start();
    let mut lanes = Vec::new();
    lanes.extend(rollout::lanes());
    lanes.extend(network::lanes(&servers));
    lanes.extend(disk::lanes());
    lanes.extend(hostile::lanes());
    // To look at one row: SEALIFT_TEST_ROW=9.
    let only = std::env::var("SEALIFT_TEST_ROW").ok();
    if let Some(only) = &only {
        lanes.retain(|(name, _)| name.starts_with(&format!("row {only:0>2}")));
    }
    run(&tally, lanes);
    tally.attempt("row 12 cut", "what all of them left in the server", || servers.tidy());
    let must = [2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 20, 21, 22].map(|row| format!("row {row:02}"));
    let must: Vec<&str> = must.iter().map(String::as_str).filter(|row| only.is_none() && possible(row)).collect();
    tally.end(&must, |_, all, lost| format!("{} tried, {} survived, {lost} lost", all.tried, all.survived));
}

/// Rows that need root or strace are not tried without them, and said so; with `CI=true` that fails.
fn possible(row: &str) -> bool {
    match row {
        "row 02" => disk::has_strace(),
        "row 03" => common::root("a file system that is full"),
        _ => true,
    }
}
