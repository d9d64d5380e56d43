//! The conformance suite against all five stores: in memory, our own server, MinIO, SeaweedFS, Versity.
//!
//! `SEALIFT_TEST_LARGE` (bytes, or `5GiB`) is the size of the largest object that our own server and MinIO are given. By default it
//! is 5 GiB, or as much of that as a third of the free disk holds, since a server keeps the parts until it has put them together;
//! with `CI=true` the disk must hold it. SeaweedFS and Versity, which are slower, are given at most [`SMALLER`]. The line of each
//! store says how large it was.

// Helpers of tests are tests, which the lint sees only in functions marked so.
#![allow(clippy::unwrap_used)]

mod servers;

use servers::Server;
use store::{
    Location, Store,
    testing::{Effort, Memory, conformance_line},
};
use tokio::sync::{Mutex, MutexGuard};

/// One store at a time: their times are printed, and the machine is small.
async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// What S3 allows for an object that is sent in one piece, and so the largest that many have tried.
const WHOLE: u64 = 5 << 30;
/// What the slower servers take in seconds.
const SMALLER: u64 = 512 << 20;

/// The size of the largest object.
fn large() -> u64 {
    let Ok(text) = std::env::var("SEALIFT_TEST_LARGE") else {
        let disk = rustix::fs::statvfs(std::env::temp_dir()).unwrap();
        let third = disk.f_bavail * disk.f_frsize / 3;
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci || third >= WHOLE, "{third} bytes are a third of the free disk; SEALIFT_TEST_LARGE makes it less");
        return WHOLE.min(third >> 20 << 20);
    };
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" | "B" => 0,
        "MiB" => 20,
        "GiB" => 30,
        _ => panic!("SEALIFT_TEST_LARGE is bytes, or a number of MiB or GiB, not {text}"),
    };
    number.parse::<u64>().unwrap() << unit
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    let _turn = turn().await;
    conformance_line("memory", &Store::over(Memory::with_page(100)), Effort::FULL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_conforms() {
    let _turn = turn().await;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::Embedded { directory: directory.path().to_owned() }).await.unwrap();
    let effort = Effort { large: large(), ..Effort::FULL };
    conformance_line("embedded", &store, effort).await;
}

async fn conforms(name: &str, variable: &str, effort: Effort) {
    let Some(server) = Server::of(variable) else { return };
    let _turn = turn().await;
    conformance_line(name, &Store::open(&server.at("conformance")).await.unwrap(), effort).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_conforms() {
    conforms("minio", "SEALIFT_TEST_MINIO", Effort { large: large(), ..Effort::FULL }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_conforms() {
    conforms("seaweedfs", "SEALIFT_TEST_SEAWEEDFS", Effort { large: large().min(SMALLER), ..Effort::FULL }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versity_conforms() {
    conforms("versity", "SEALIFT_TEST_VERSITY", Effort { large: large().min(SMALLER), ..Effort::FULL }).await;
}
