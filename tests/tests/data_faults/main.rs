//! The campaign over the storage rows of `FAULTS.md`: 2, 3, 4, 6 to 12 and 20 to 22, with the commands that people type.
//!
//! For k = 1, 2, 3 … the k-th operation fails until a run comes through clean. After every fault: the documented exit code,
//! an error that names what broke and the next command, nothing half done; and then the next run finishes, everything
//! verifies, and no temporary and no upload in parts is left. The seed is printed; what was tried and survived is counted.
//!
//! | row | what is done | what must hold, besides that the next run finishes and everything verifies |
//! |---|---|---|
//! | 2 | each fsync of add, push, pull, checkout and of the server fails with EIO, once and from there on | exit 69 or 70 with the cause; a file whose fsync failed never gets its name; the server's client asks again, or is told |
//! | 3 | a disk with a little more room each time, then one with a few more inodes | exit 70, "full", "free space"; no pointer to what is not kept; the old data intact |
//! | 4 | the pointer cut at every byte; index, packs, layouts, manifests of the cache cut at each byte of their tail, at the start, in the middle, and with flipped bits | never believed: 65 naming the pointer, 66 or 73 with `data pull` next; an index is made again |
//! | 6 | 500, 503, 429 with `Retry-After` at each request, once and for good | once: nobody notices, and the server's wish is kept; for good: 69 within the deadline, no request more often than the budget allows |
//! | 7 | 200 with an `<Error>` at each request | it counts as a failure, as in row 6 |
//! | 8 | answers cut short at a random byte or of another length; one bit flipped in either direction | once: fetched again; for good: 69 or 73; no false byte in the data or, under a name, in the cache |
//! | 9 | no answer; one that stops at a random byte; one byte a second | once: asked again after the stall timeout (a byte a second may take up the deadline instead: 69); for good: 69 within the deadline |
//! | 10 | the answer to each request of push, pull, verify, an upload in parts and each conditional write of release cut (the first contact's trial among them) and deploy is lost | exit 0; conditional writes are read back; the same content is no second release; one deployment |
//! | 11 | each conditional write of release cut and deploy: 409, then done and answered 412 | exit 0; sent again, read and compared |
//! | 12 | the connection reset, or the network cut, in each request of push, pull, verify and an upload in parts | reset once: nobody notices; cut: 69, bounded; no upload in parts is open after the next run |
//! | 20 | each object of the cache emptied, flipped, longer, gone; each object of the store flipped | healed from the store or the data; named, never written into the tree, healed by a push |
//! | 21 | hostile manifests and pointers | 65, 66 or 73 naming the object; nothing outside of the data is written |
//! | 22 | layouts and chunks that grow, within half a gigabyte of memory | 73; nothing is written. Data unpacks no archives |
//!
//! A run that no fault struck is no try, and that a fault never strikes is a loss. [`checks`] shows each of these checks
//! something wrong, which it must find. Rows 13 to 19 and 23 to 30 are not about data and have tests of their own.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a helper of a test fails as the test does")]

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod hostile;
mod network;
mod rollout;

use e2e::campaign::{Lane, Tally, side_by_side};

/// Lanes that run at the same time. Most of them wait for timeouts most of the time.
const LANES: usize = 14;

#[test]
fn storage_faults() {
    let tally = Tally::begin("faults");
    let servers = network::Servers::start();
    let mut lanes = Vec::new();
    lanes.extend(rollout::lanes());
    lanes.extend(network::lanes(&servers));
    lanes.extend(disk::lanes());
    lanes.extend(hostile::lanes());
    // To look at one row: SEALIFT_TEST_ROW=9. That is no campaign.
    let only = std::env::var("SEALIFT_TEST_ROW").ok();
    if let Some(only) = &only {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "SEALIFT_TEST_ROW leaves out the other rows");
        lanes.retain(|(name, _)| name.starts_with(&format!("row {only:0>2}")));
        assert!(!lanes.is_empty(), "SEALIFT_TEST_ROW={only} is no row of this campaign");
    }
    side_by_side(&tally, lanes, LANES);
    tally.hold("row 12 cut", "what all of them left in the server", || servers.tidy());
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
