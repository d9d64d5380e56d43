//! The campaign over the image rows of `FAULTS.md`: 17, 18, 19, 21, 22, 24, 28 and 30, with the commands that people type.
//!
//! Everything random follows from one seed, which is printed; what was tried and survived is counted.
//!
//! | row | what is done | what must hold |
//! |---|---|---|
//! | 17 | a Docker Engine of its own, the oldest and the newest, is killed when it has sent so many bytes of the answer to a build or to an export | exit 69 naming the engine, nothing sealed, nothing half in the cache; once it is back the same command goes through; what the dead build left is labelled, and collected when it is old |
//! | 18 | a registry of its own is killed when it has received k bytes of a push, for many k | exit 69, nothing sealed, no tag on half an image; then a push that finishes, the digest by HEAD, and blobs that were there are not sent again |
//! | 19 | a tag is moved or deleted, the manifest deleted, the registry gone after the push | deploys go by digest, as if nothing had happened |
//! | 21 | layouts as bases whose documents lie: loops, depth, sizes, digests, types, foreign layers, a key twice, 1 GB, depth 10,000 | `build` refuses in time and in words, nothing is written |
//! | 22 | bases whose layers hold what no layer may | whichever of `build`, `deploy` and `restore` meets it first refuses it; nothing runs, nothing is outside |
//! | 24 | bundles by another key, with a signature twice, another payload type, an edited payload, of another release, type or environment | each refused in its own words |
//! | 28 | a canary secret in the environment and as a BuildKit secret, in builds that go well and badly | found nowhere: arguments of all processes, output, store, cache, layers, history, what a restore writes |
//! | 30 | images that ask for root, setuid, file capabilities, volumes | refused, or run under the policy as the kernel and the engine show it; relaxed only by name |

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a helper of a test fails as the test does")]

#[path = "../common/mod.rs"]
mod common;
mod engine;
mod hostile;
mod layouts;
mod policy;
mod registry;
mod secrets;
mod signatures;

use e2e::campaign::{Lane, Tally, side_by_side};

/// Lanes that run at the same time; most of them wait for engines and registries.
const LANES: usize = 8;

#[test]
fn image_faults() {
    let tally = Tally::begin("images");
    let mut lanes: Vec<Lane<'_>> = Vec::new();
    lanes.extend(engine::lanes());
    lanes.extend(policy::lanes());
    lanes.extend(hostile::lanes());
    lanes.extend(secrets::lanes());
    lanes.extend(registry::lanes());
    lanes.extend(signatures::lanes());
    // To look at one row: SEALIFT_TEST_ROW=17. That is no campaign.
    let only = std::env::var("SEALIFT_TEST_ROW").ok();
    if let Some(only) = &only {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "SEALIFT_TEST_ROW leaves out the other rows");
        lanes.retain(|(name, _)| name.starts_with(&format!("row {only}")));
        assert!(!lanes.is_empty(), "SEALIFT_TEST_ROW={only} is no row of this campaign");
    }
    side_by_side(&tally, lanes, LANES);
    let must = [17, 18, 19, 21, 22, 24, 28, 30].map(|row| format!("row {row}"));
    let must: Vec<&str> = must.iter().map(String::as_str).filter(|row| only.is_none() && possible(row)).collect();
    tally.end(&must, |_, all, lost| format!("{} tried, {} survived, {lost} lost", all.tried, all.survived));
}

/// Rows that need a part of the testbed are not tried without it, and their lanes say so; with `CI=true` that fails.
fn possible(row: &str) -> bool {
    let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    match row {
        "row 17" => set("SEALIFT_TEST_DOCKERD") && rustix::process::geteuid().is_root(),
        "row 18" | "row 19" => set("SEALIFT_TEST_REGISTRY_PROGRAM"),
        "row 28" | "row 30" => set("SEALIFT_TEST_DOCKER"),
        _ => true,
    }
}
