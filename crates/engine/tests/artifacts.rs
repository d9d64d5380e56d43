//! What is fetched into the cache, and what a fetch that died has left there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use domain::Events;
use engine::artifacts::fetch_blob;
use std::{
    fs,
    time::{Duration, SystemTime},
};
use store::{Family, Store, testing::Memory};

#[tokio::test]
async fn what_a_dead_fetch_of_a_blob_left_goes_with_a_later_one() {
    let store = Store::over(Memory::new());
    let digest = store.put_bytes(Family::Blob, "a model".into()).await.unwrap();
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("blobs");
    fs::create_dir(&blobs).unwrap();
    let aged = |name: &str, days: u64| {
        let path = blobs.join(name);
        let file = fs::File::create(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(24 * days)).unwrap();
        path
    };
    // The store's own name for what it has not verified yet.
    let (dead, alive) = (aged(".sealift-Dead", 8), aged(".sealift-Alive", 6));
    let fetched = fetch_blob(&store, cache.path(), &digest, "a model", &Events::nowhere()).await.unwrap();
    assert_eq!(fs::read(fetched).unwrap(), b"a model");
    assert!(!dead.exists(), "{} stays", dead.display());
    assert!(alive.exists(), "{} is gone", alive.display());
}
