//! The store over memory: the conformance suite, and what happens when the k-th operation fails.

use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use store::{
    Body, Condition, Created, Digest, Error, Family, Objects, Store, Swap,
    testing::{Faults, Faulty, IgnoresConditions, Memory, Mode, conformance},
};

fn faulty() -> (Arc<Memory>, Arc<Faults>, Store) {
    let (memory, faults) = (Memory::new(), Faults::new());
    let store = Store::over(Faulty::new(memory.clone(), faults.clone()));
    (memory, faults, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conformance(&Store::over(Memory::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms_with_small_pages() {
    conformance(&Store::over(Memory::with_page(3))).await;
}

#[tokio::test]
async fn a_flipped_byte_is_fetched_again_and_one_that_stays_names_the_key() {
    let (memory, faults, store) = faulty();
    let bytes = Bytes::from("precious");
    let digest = store.put_bytes(Family::Pack, bytes.clone()).await.unwrap();
    let key = Store::key(Family::Pack, &digest);
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("restored");
    for mode in [Mode::Flip, Mode::Truncate] {
        faults.arm(1, mode);
        assert_eq!(store.get_bytes(Family::Pack, &digest, 100).await.unwrap(), bytes, "{mode:?} heals");
        faults.arm(1, mode);
        assert_eq!(store.get_file(Family::Pack, &digest, &to, None).await.unwrap(), 8);
        faults.arm(1, mode);
        assert_eq!(store.verify(Family::Pack, &digest).await.unwrap(), 8);
        assert!(faults.fired());
    }
    faults.disarm();
    std::fs::remove_file(&to).unwrap();
    assert!(memory.tamper(&key, |bytes| bytes[3] ^= 0x10));
    let get = store.get_bytes(Family::Pack, &digest, 100).await.map(drop);
    let file = store.get_file(Family::Pack, &digest, &to, None).await.map(drop);
    let verify = store.verify(Family::Pack, &digest).await.map(drop);
    for result in [get, file, verify] {
        let error = result.unwrap_err();
        assert_eq!(error.class(), domain::Class::Integrity);
        assert!(matches!(&error, Error::Corrupt { expected, .. } if *expected == digest));
        assert!(error.to_string().contains(&key), "{error}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no wrong byte is left on the disk");
}

#[tokio::test]
async fn lost_answers_are_reconciled() {
    let (_, faults, store) = faulty();
    faults.arm(1, Mode::After);
    assert_eq!(store.create("releases/a", Bytes::from("one")).await.unwrap(), Created::New);
    assert!(faults.fired());
    let there = store.read("releases/a").await.unwrap().unwrap();
    faults.arm(1, Mode::After);
    let swapped = store.swap("releases/a", Some(&there.etag), Bytes::from("two")).await.unwrap();
    let Swap::Swapped(etag) = swapped else { panic!("{swapped:?}") };
    assert_eq!(store.read("releases/a").await.unwrap().unwrap().etag, etag);
    faults.arm(2, Mode::After);
    let digest = store.put_bytes(Family::Blob, Bytes::from("content")).await.unwrap();
    assert_eq!(digest, Digest::of("content"));
}

#[tokio::test]
async fn an_unsent_write_is_a_failure_and_changes_nothing() {
    let (memory, faults, store) = faulty();
    for mode in [Mode::Before, Mode::Down] {
        faults.arm(1, mode);
        let created = store.create("releases/a", Bytes::from("one")).await;
        assert!(matches!(created, Err(Error::Unavailable { .. })), "{created:?}");
        faults.arm(1, mode);
        let swapped = store.swap("releases/a", None, Bytes::from("one")).await;
        assert!(matches!(swapped, Err(Error::Unavailable { .. })), "{swapped:?}");
        assert!(memory.keys().is_empty());
    }
}

#[tokio::test]
async fn someone_elses_content_is_not_taken_for_our_lost_answer() {
    let (memory, faults, store) = faulty();
    let put = |text: &'static str| memory.put("releases/a", Body::Bytes(Bytes::from(text)), Condition::None);
    put("theirs").await.unwrap();
    faults.arm(1, Mode::Before);
    let created = store.create("releases/a", Bytes::from("ours")).await;
    assert!(matches!(&created, Err(Error::Exists { existing, .. }) if existing == "theirs"), "{created:?}");
    faults.arm(1, Mode::Before);
    let swapped = store.swap("releases/a", Some("\"before theirs\""), Bytes::from("ours")).await.unwrap();
    assert!(matches!(&swapped, Swap::Lost(Some(there)) if there.bytes == "theirs"), "{swapped:?}");
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_refused_in_words() {
    let memory = Memory::new();
    let store = Store::over(Arc::new(IgnoresConditions(memory.clone())));
    let error = store.probe_conditional_writes().await.unwrap_err();
    assert_eq!(error.class(), domain::Class::Unavailable);
    assert!(error.to_string().contains("does not keep conditional writes"), "{error}");
    assert!(memory.keys().is_empty(), "the probe leaves nothing");
}

#[tokio::test]
async fn every_failing_operation_of_a_lease_leaves_it_free_or_ours() {
    let ttl = Duration::from_secs(60);
    for mode in [Mode::Before, Mode::After, Mode::Down] {
        for k in 1.. {
            let (_, faults, store) = faulty();
            faults.arm(k, mode);
            let first = store.lease("staging", "deploy", ttl, Duration::ZERO).await;
            if let Ok(lease) = first {
                lease.check().unwrap();
                let _ = lease.release().await;
            }
            let fired = faults.fired();
            faults.disarm();
            let next = store.lease("staging", "deploy", ttl, Duration::ZERO).await.unwrap();
            assert!(next.epoch >= 1);
            next.release().await.unwrap();
            if !fired {
                assert!(k > 2, "at least a read and a swap were tried");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_cannot_renew_stops_itself_before_anyone_can_take_over() {
    let (_, faults, store) = faulty();
    let ttl = Duration::from_millis(900);
    let lease = store.lease("staging", "deploy", ttl, Duration::ZERO).await.unwrap();
    lease.check().unwrap();
    faults.arm(1, Mode::Down);
    let begun = std::time::Instant::now();
    store::testing::until("the holder stops itself", || lease.check().is_err()).await;
    assert!(begun.elapsed() < ttl, "before its TTL is over");
    let stopped = lease.check().unwrap_err();
    assert!(matches!(stopped, Error::Unavailable { .. }), "{stopped:?}");
    faults.disarm();
    store::testing::until("it recovers when the store does, and nobody took over", || lease.check().is_ok()).await;
    lease.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_held_longer_than_its_ttl_is_renewed() {
    let store = Store::over(Memory::new());
    let ttl = Duration::from_millis(600);
    let lease = store.lease("staging", "deploy", ttl, Duration::ZERO).await.unwrap();
    let other = store.lease("staging", "other", ttl, ttl * 4).await;
    assert!(matches!(other, Err(Error::Held { epoch: 1, .. })), "{other:?}");
    lease.check().unwrap();
    assert!(store.lease_holder("staging").await.unwrap().unwrap().renewals >= 4);
    lease.release().await.unwrap();
}

#[tokio::test]
async fn what_was_found_damaged_is_sent_again_though_its_size_is_right() {
    let (memory, _, store) = faulty();
    let bytes = Bytes::from("precious");
    let digest = store.put_bytes(Family::Blob, bytes.clone()).await.unwrap();
    let key = Store::key(Family::Blob, &digest);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let to = file.path().with_extension("restored");
    for round in 0..4 {
        assert!(memory.tamper(&key, |bytes| bytes[3] ^= 0x10));
        // Nobody has read it: a push is one question and no body.
        assert!(!store.put_file(Family::Blob, &digest, file.path(), None).await.unwrap());
        let found = match round {
            0 => store.get_bytes(Family::Blob, &digest, 100).await.map(drop),
            1 => store.get_file(Family::Blob, &digest, &to, None).await.map(drop),
            _ => store.clone().verify(Family::Blob, &digest).await.map(drop),
        };
        assert!(matches!(found, Err(Error::Corrupt { .. })) && store.is_damaged(&key));
        if round == 3 {
            store.put_bytes(Family::Blob, bytes.clone()).await.unwrap();
        } else {
            assert!(store.put_file(Family::Blob, &digest, file.path(), None).await.unwrap());
        }
        assert!(!store.is_damaged(&key));
        assert_eq!(store.get_bytes(Family::Blob, &digest, 100).await.unwrap(), bytes);
        assert!(!store.put_file(Family::Blob, &digest, file.path(), None).await.unwrap());
    }
}

#[tokio::test]
async fn an_object_has_the_time_of_the_stores_clock() {
    let memory = Memory::new();
    let at = |seconds| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    for seconds in [1_000, 2_000] {
        memory.set_clock(at(seconds));
        memory.put(&format!("refs/{seconds}"), Body::Bytes("a".into()), Condition::None).await.unwrap();
    }
    let page = memory.list("refs/", None).await.unwrap();
    let times: Vec<_> = page.entries.iter().map(|(_, meta)| meta.modified).collect();
    assert_eq!(times, [Some(at(1_000)), Some(at(2_000))]);
    assert_eq!(memory.head("refs/1000").await.unwrap().unwrap().modified, Some(at(1_000)));
    assert_eq!(memory.get("refs/2000", None).await.unwrap().unwrap().0.modified, Some(at(2_000)));
}

/// A store that is silent to one write, the `nth`, and to no other.
struct Silent(Arc<Memory>, std::sync::atomic::AtomicUsize);

#[async_trait::async_trait]
impl Objects for Silent {
    fn describe(&self) -> String {
        self.0.describe()
    }
    async fn head(&self, key: &str) -> store::Result<Option<store::Meta>> {
        self.0.head(key).await
    }
    async fn get(
        &self,
        key: &str,
        range: Option<std::ops::Range<u64>>,
    ) -> store::Result<Option<(store::Meta, store::ByteStream)>> {
        self.0.get(key, range).await
    }
    async fn put(&self, key: &str, body: Body, condition: Condition) -> store::Result<store::Meta> {
        if self.1.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            std::future::pending::<()>().await;
        }
        self.0.put(key, body, condition).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> store::Result<store::Page> {
        self.0.list(prefix, after).await
    }
    async fn delete(&self, key: &str) -> store::Result<()> {
        self.0.delete(key).await
    }
}

#[tokio::test]
async fn one_silent_renewal_does_not_cost_the_lease() {
    // The second write is the first renewal.
    let store = Store::over(Arc::new(Silent(Memory::new(), 2.into())));
    let ttl = Duration::from_secs(2);
    let lease = store.lease("production", "deploy", ttl, Duration::ZERO).await.unwrap();
    let begun = std::time::Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while begun.elapsed() < ttl {
        lease.check().unwrap_or_else(|error| panic!("after {:?}: {error}", begun.elapsed()));
        tick.tick().await;
    }
    let renewals = store.lease_holder("production").await.unwrap().unwrap().renewals;
    assert!(renewals >= 3, "it was renewed {renewals} times");
}

#[tokio::test]
async fn a_lease_that_nobody_confirms_ends_before_it_can_be_taken() {
    let (_, faults, store) = faulty();
    let ttl = Duration::from_millis(1200);
    let lease = store.lease("production", "deploy", ttl, Duration::ZERO).await.unwrap();
    let begun = std::time::Instant::now();
    faults.arm(1, Mode::Down);
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while lease.check().is_ok() {
        assert!(begun.elapsed() < ttl * 2 / 3, "it still holds after {:?}", begun.elapsed());
        tick.tick().await;
    }
    assert!(begun.elapsed() > ttl / 6, "{:?}", begun.elapsed());
}
