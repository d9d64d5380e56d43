//! What every store must do, whatever is behind it. It panics where one does not.

// A conformance suite is a test, although other crates may call it.
#![allow(clippy::unwrap_used)]

use crate::{Body, Condition, Created, Digest, Error, Family, Holder, LeaseState, Store, Swap, testing::until};
use bytes::Bytes;
use futures::future::join_all;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// Runs every check against a store. Objects are made under keys of this run only; references are left behind.
pub async fn conformance(store: &Store) {
    let run = uuid::Uuid::new_v4().simple().to_string();
    let directory = tempfile::tempdir().unwrap();
    store.probe_conditional_writes().await.unwrap();
    assert!(store.list("probes/").await.unwrap().is_empty(), "the probe leaves nothing");
    content(store, directory.path()).await;
    large_files(store, directory.path()).await;
    conditions(store, &run).await;
    listings(store, &run).await;
    create_race(store, &run).await;
    swap_race(store, &run).await;
    leases(store, &run).await;
    takeover(store, &run).await;
    fencing(store, &run).await;
}

fn random(length: usize) -> Vec<u8> {
    // A xorshift generator: fast, and no two calls alike.
    let mut state = u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().unwrap()) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

async fn content(store: &Store, directory: &Path) {
    for length in [0, 1, 100_000, 3 << 20] {
        let bytes = Bytes::from(random(length));
        let digest = store.put_bytes(Family::Blob, bytes.clone()).await.unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        assert_eq!(store.put_bytes(Family::Blob, bytes.clone()).await.unwrap(), digest, "again is the same");
        assert_eq!(store.has(Family::Blob, &digest).await.unwrap(), Some(length as u64));
        assert_eq!(store.get_bytes(Family::Blob, &digest, length as u64).await.unwrap(), bytes);
        assert_eq!(store.verify(Family::Blob, &digest).await.unwrap(), length as u64);
        let to = directory.join("restored/blob");
        assert_eq!(store.get_file(Family::Blob, &digest, &to, None).await.unwrap(), length as u64);
        assert_eq!(Digest::of(std::fs::read(&to).unwrap()), digest);
        if length > 50 {
            let range = store.get_range(Family::Blob, &digest, 10..47).await.unwrap();
            assert_eq!(range, bytes.slice(10..47));
            let end = length as u64;
            let last = store.get_range(Family::Blob, &digest, end - 3..end).await.unwrap();
            assert_eq!(last, bytes.slice(length - 3..));
            let too_small = store.get_bytes(Family::Blob, &digest, 50).await;
            assert!(matches!(too_small, Err(Error::TooLarge { limit: 50, .. })), "{too_small:?}");
        }
    }
    let absent = Digest::of(random(16));
    assert_eq!(store.has(Family::Pack, &absent).await.unwrap(), None);
    let missing = store.get_bytes(Family::Pack, &absent, 10).await;
    assert!(matches!(&missing, Err(Error::Missing { key }) if key.contains(&absent.hex())), "{missing:?}");
    let to = directory.join("absent");
    assert!(matches!(store.get_file(Family::Pack, &absent, &to, None).await, Err(Error::Missing { .. })));
    assert!(!to.exists(), "nothing is left under the name of what was not there");
}

async fn large_files(store: &Store, directory: &Path) {
    let bytes = random((20 << 20) + 17);
    let (digest, path) = (Digest::of(&bytes), directory.join("large"));
    std::fs::write(&path, &bytes).unwrap();
    assert!(store.put_file(Family::Blob, &digest, &path, None).await.unwrap(), "it is sent");
    assert!(!store.put_file(Family::Blob, &digest, &path, None).await.unwrap(), "and not sent again");
    assert_eq!(store.verify(Family::Blob, &digest).await.unwrap(), bytes.len() as u64);
    let across = store.get_range(Family::Blob, &digest, (8 << 20) - 5..(8 << 20) + 5).await.unwrap();
    assert_eq!(across, bytes[(8 << 20) - 5..(8 << 20) + 5]);
    for length in [1000, 17 << 20] {
        std::fs::write(&path, random(length)).unwrap();
        let other = Digest::of(random(32));
        let changed = store.put_file(Family::Blob, &other, &path, None).await;
        assert!(matches!(changed, Err(Error::Changed { .. })), "{changed:?}");
        assert_eq!(store.has(Family::Blob, &other).await.unwrap(), None, "nothing is committed");
    }
}

async fn conditions(store: &Store, run: &str) {
    let key = format!("refs/{run}/conditions");
    let put = |text: &'static str, condition| store.objects().put(&key, Body::Bytes(Bytes::from(text)), condition);
    assert!(store.read(&key).await.unwrap().is_none());
    let early = put("too early", Condition::Match("\"0123456789abcdef0123456789abcdef\"".to_owned())).await;
    assert!(matches!(early, Err(Error::Precondition { .. })), "If-Match on what is absent: {early:?}");
    let first = put("first", Condition::Absent).await.unwrap();
    assert!(matches!(put("again", Condition::Absent).await, Err(Error::Precondition { .. })));
    let second = put("second", Condition::Match(first.etag.clone())).await.unwrap();
    assert_ne!(first.etag, second.etag);
    assert!(matches!(put("late", Condition::Match(first.etag)).await, Err(Error::Precondition { .. })));
    let there = store.read(&key).await.unwrap().unwrap();
    assert_eq!((&there.bytes[..], there.etag), (&b"second"[..], second.etag));
    assert_eq!(store.create(&key, Bytes::from("second")).await.unwrap(), Created::Same);
    let other = store.create(&key, Bytes::from("other")).await;
    assert!(matches!(&other, Err(Error::Exists { existing, .. }) if existing == "second"), "{other:?}");
    store.objects().delete(&key).await.unwrap();
    store.objects().delete(&key).await.unwrap();
    assert!(store.read(&key).await.unwrap().is_none());
}

async fn listings(store: &Store, run: &str) {
    let prefix = format!("lists/{run}/");
    let names = ["a-b", "a/1", "a/2", "a0", "b.json", "b/x/y", "c", "z_"];
    let mut keys: Vec<String> = names.iter().map(|name| format!("{prefix}{name}")).collect();
    for key in keys.iter().rev() {
        store.create(key, Bytes::from(key.clone())).await.unwrap();
    }
    keys.sort();
    let listed = store.list(&prefix).await.unwrap();
    assert_eq!(listed.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), keys, "byte order");
    assert!(listed.iter().all(|(key, meta)| meta.size == key.len() as u64 && !meta.etag.is_empty()));
    for (position, key) in keys.iter().enumerate() {
        let after = store.objects().list(&prefix, Some(key)).await.unwrap();
        assert!(after.entries.iter().map(|(key, _)| key).eq(&keys[position + 1..][..after.entries.len()]));
        assert!(after.more || after.entries.len() == keys.len() - position - 1);
    }
    assert_eq!(store.list(&format!("{prefix}a/")).await.unwrap().len(), 2);
    assert_eq!(store.list(&format!("{prefix}b")).await.unwrap().len(), 2, "a prefix is not a directory");
    assert!(store.list(&format!("{prefix}nothing")).await.unwrap().is_empty());
    assert!(store.objects().head(&format!("{prefix}a")).await.unwrap().is_none(), "a prefix is no object");
}

async fn create_race(store: &Store, run: &str) {
    for round in 0..4 {
        let key = format!("refs/{run}/race-{round}");
        let racers = (0..32).map(|racer| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move { (racer, store.create(&key, Bytes::from(format!("racer {racer}"))).await) })
        });
        let mut winners = Vec::new();
        for outcome in join_all(racers).await {
            match outcome.unwrap() {
                (racer, Ok(_)) => winners.push(racer),
                (_, Err(Error::Exists { .. })) => {}
                (_, Err(error)) => panic!("{error:?}"),
            }
        }
        let there = store.read(&key).await.unwrap().unwrap().bytes;
        assert_eq!(winners.len(), 1, "one winner");
        assert_eq!(there, format!("racer {}", winners[0]), "and what it wrote is there");
    }
}

async fn swap_race(store: &Store, run: &str) {
    let key = format!("refs/{run}/counter");
    store.create(&key, Bytes::from("0 begin")).await.unwrap();
    let racers = (0..8).map(|_| {
        let (store, key) = (store.clone(), key.clone());
        tokio::spawn(async move {
            let mut done = 0;
            while done < 5 {
                let there = store.read(&key).await.unwrap().unwrap();
                let text = String::from_utf8(there.bytes.to_vec()).unwrap();
                let count: u64 = text.split(' ').next().unwrap().parse().unwrap();
                let next = format!("{} {}", count + 1, uuid::Uuid::new_v4());
                match store.swap(&key, Some(&there.etag), Bytes::from(next)).await.unwrap() {
                    Swap::Swapped(_) => done += 1,
                    Swap::Lost(there) => assert!(there.is_some()),
                }
            }
        })
    });
    for racer in join_all(racers).await {
        racer.unwrap();
    }
    let there = store.read(&key).await.unwrap().unwrap();
    assert!(there.bytes.starts_with(b"40 "), "no update is lost: {:?}", there.bytes);
}

async fn leases(store: &Store, run: &str) {
    let environment = format!("{run}-leases");
    let ttl = Duration::from_secs(30);
    assert!(store.lease_holder(&environment).await.unwrap().is_none());
    let lease = store.lease(&environment, "deploy 1", ttl, Duration::ZERO).await.unwrap();
    assert_eq!(lease.epoch, 1);
    lease.check().unwrap();
    let busy = store.lease(&environment, "deploy 2", ttl, Duration::ZERO).await.unwrap_err();
    assert!(matches!(&busy, Error::Held { epoch: 1, op, .. } if op == "deploy 1"), "{busy:?}");
    let pid = format!("pid {}", std::process::id());
    assert!(busy.to_string().contains(&pid), "it names the holder: {busy}");
    assert_eq!(store.lease_holder(&environment).await.unwrap().unwrap().epoch, 1);
    lease.release().await.unwrap();
    assert!(store.lease_holder(&environment).await.unwrap().is_none());
    let next = store.lease(&environment, "deploy 3", ttl, Duration::ZERO).await.unwrap();
    assert_eq!(next.epoch, 2, "the epoch rises");
    // Dropped in this process: provably nobody acts under it, so nobody waits for its TTL.
    drop(next);
    let begun = Instant::now();
    let after = store.lease(&environment, "deploy 4", ttl, Duration::ZERO).await.unwrap();
    assert_eq!(after.epoch, 3);
    assert!(begun.elapsed() < ttl);
    after.release().await.unwrap();
}

fn foreign(epoch: u64, ttl_ms: u64) -> Bytes {
    let uuid = uuid::Uuid::new_v4().to_string();
    let holder =
        Holder { name: "ci@elsewhere pid 7".to_owned(), uuid, host: "elsewhere".to_owned(), pid: 7, started: 1 };
    let state = LeaseState { epoch, holder: Some(holder), op: "deploy".to_owned(), ttl_ms, renewals: 0 };
    Bytes::from(serde_json::to_vec(&state).unwrap())
}

async fn takeover(store: &Store, run: &str) {
    let environment = format!("{run}-takeover");
    let key = format!("locks/{environment}.json");
    assert!(matches!(store.swap(&key, None, foreign(7, 600)).await.unwrap(), Swap::Swapped(_)));
    let ttl = Duration::from_millis(600);
    // A holder elsewhere that renews while it is watched lives: nobody waits for it who has no patience.
    let renewing = async {
        for _ in 0..200 {
            let there = store.read(&key).await.unwrap().unwrap();
            store.swap(&key, Some(&there.etag), foreign(7, 600)).await.unwrap();
            tokio::time::sleep(ttl / 20).await;
        }
    };
    let busy = tokio::select! {
        busy = store.lease(&environment, "us", ttl, Duration::ZERO) => busy,
        () = renewing => panic!("a holder that renews was watched for ever"),
    };
    assert!(matches!(busy, Err(Error::Held { epoch: 7, .. })), "{busy:?}");
    let begun = Instant::now();
    let lease = store.lease(&environment, "us", Duration::from_secs(30), Duration::ZERO).await.unwrap();
    assert!(begun.elapsed() >= ttl, "only after it stood still for a TTL");
    assert_eq!(lease.epoch, 8);
    lease.release().await.unwrap();
}

async fn fencing(store: &Store, run: &str) {
    let environment = format!("{run}-fencing");
    let key = format!("locks/{environment}.json");
    let lease = store.lease(&environment, "us", Duration::from_secs(3), Duration::ZERO).await.unwrap();
    loop {
        let there = store.read(&key).await.unwrap().unwrap();
        match store.swap(&key, Some(&there.etag), foreign(2, 60_000)).await.unwrap() {
            Swap::Swapped(_) => break,
            Swap::Lost(_) => {}
        }
    }
    until("the overtaken holder sees it", || matches!(lease.check(), Err(Error::Fenced { ours: 1, newest: 2, .. })))
        .await;
    let refused = lease.release().await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    let there = store.lease_holder(&environment).await.unwrap().unwrap();
    assert_eq!(there.holder.unwrap().name, "ci@elsewhere pid 7", "and does not touch the lease of the other");
}
