//! The decorators over memory: what is tried again and what is not, limits, and a seeded campaign of faults.

// Helpers of tests are tests, which the lint sees only in functions marked so.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use store::{
    Body, Condition, Created, Digest, Error, Family, Objects, Settings, Store, Swap,
    decorate::{Entry, Limit, Log, Pace, Retry},
    testing::{Faults, Faulty, Memory, Mode},
};

fn hasty() -> Settings {
    Settings { deadline: Duration::from_secs(10), pause: Duration::from_millis(1), attempts: 6, ..Settings::default() }
}

fn retried() -> (Arc<Memory>, Arc<Faults>, Store) {
    let (memory, faults) = (Memory::new(), Faults::new());
    let store = Store::over(Retry::new(Faulty::new(memory.clone(), faults.clone()), &hasty()));
    (memory, faults, store)
}

/// What a push does: content, a listing, a reference created, one swapped.
async fn work(store: &Store) -> Result<(), Error> {
    let digest = store.put_bytes(Family::Pack, Bytes::from(vec![7; 200_000])).await?;
    let bytes = store.get_bytes(Family::Pack, &digest, 1 << 20).await?;
    assert_eq!(bytes.len(), 200_000);
    store.list("packs/").await?;
    let created = store.create("releases/a", Bytes::from("created 1")).await?;
    assert_eq!(created, Created::New);
    let there = store.read("releases/a").await?.unwrap();
    let swapped = store.swap("releases/a", Some(&there.etag), Bytes::from("swapped 2")).await?;
    assert!(matches!(swapped, Swap::Swapped(_)), "{swapped:?}");
    store.objects().delete("probes/x").await
}

#[tokio::test]
async fn whatever_single_operation_fails_nobody_notices() {
    let clean = {
        let (memory, _, store) = retried();
        work(&store).await.unwrap();
        memory.contents()
    };
    for mode in [Mode::Before, Mode::After, Mode::Truncate, Mode::Break, Mode::Flip, Mode::Slow] {
        for k in 1.. {
            let (memory, faults, store) = retried();
            faults.arm(k, mode);
            work(&store).await.unwrap_or_else(|error| panic!("{mode:?} at {k}: {error}"));
            assert_eq!(memory.contents(), clean, "{mode:?} at {k}");
            if !faults.fired() {
                assert!(k > 2, "{mode:?} was tried");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_is_gone_is_told_once_and_in_time() {
    let (memory, faults, store) = retried();
    faults.arm(1, Mode::Down);
    let begun = Instant::now();
    let error = store.create("releases/a", Bytes::from("one")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(memory.keys().is_empty());
    let error = store.put_bytes(Family::Blob, Bytes::from("one")).await.unwrap_err();
    assert!(error.to_string().ends_with(" s") && error.to_string().contains("6 times in"), "{error}");
}

#[tokio::test]
async fn an_operation_that_never_answers_ends_at_the_deadline() {
    let (memory, faults) = (Memory::new(), Faults::new());
    let settings = Settings { deadline: Duration::from_millis(300), ..hasty() };
    let store = Store::over(Retry::new(Faulty::new(memory, faults.clone()), &settings));
    faults.arm(1, Mode::Stall);
    let begun = Instant::now();
    let error = store.list("releases/").await.unwrap_err();
    assert!(error.to_string().contains("did not finish a listing of releases/ within 0.3 s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_write_of_a_reference_without_a_condition_is_not_repeated_blindly() {
    let (memory, faults, store) = retried();
    // It happened, its answer was lost, and another wrote since: a repetition would undo that.
    faults.arm(1, Mode::After);
    let put = store.objects().put("outbox/a", Body::Bytes(Bytes::from("ours")), Condition::None).await;
    assert!(matches!(put, Err(Error::Unavailable { .. })), "{put:?}");
    assert_eq!(faults.seen(), 1);
    assert_eq!(memory.contents()["outbox/a"], "ours");
    // Content is the same whoever writes it.
    faults.arm(1, Mode::After);
    store.objects().put("packs/a", Body::Bytes(Bytes::from("content")), Condition::None).await.unwrap();
    assert_eq!(faults.seen(), 2);
}

#[tokio::test]
async fn a_limit_is_kept_by_all_who_share_it() {
    let memory = Memory::new();
    let (up, down) = (Pace::new(200_000), Pace::new(400_000));
    let limit = Limit::new(memory, Some(up), Some(down));
    let store = Store::over(limit);
    let begun = Instant::now();
    let puts = (0..4_u8).map(|number| {
        let store = store.clone();
        async move { store.put_bytes(Family::Blob, Bytes::from(vec![number; 25_000])).await.unwrap() }
    });
    let digests = futures::future::join_all(puts).await;
    let took = begun.elapsed().as_secs_f64();
    assert!((0.25..2.0).contains(&took), "100 kB at 200 kB/s: {took} s");
    let begun = Instant::now();
    for digest in digests {
        assert_eq!(store.get_bytes(Family::Blob, &digest, 1 << 20).await.unwrap().len(), 25_000);
    }
    let took = begun.elapsed().as_secs_f64();
    assert!((0.05..2.0).contains(&took), "100 kB at 400 kB/s: {took} s");
}

#[tokio::test]
async fn a_log_has_what_ended_and_how() {
    let entries: Arc<Mutex<Vec<Entry>>> = Arc::default();
    let (memory, faults, told) = (Memory::new(), Faults::new(), entries.clone());
    let faulty = Faulty::new(memory, faults.clone());
    let log = Log::new(faulty, Arc::new(move |entry: &Entry| told.lock().unwrap().push(entry.clone())));
    log.put("packs/a", Body::Bytes(Bytes::from(vec![1; 100_000])), Condition::None).await.unwrap();
    let (_, body) = log.get("packs/a", None).await.unwrap().unwrap();
    drop(body);
    let (_, body) = log.get("packs/a", Some(0..70_000)).await.unwrap().unwrap();
    let read: Vec<_> = futures::StreamExt::collect(body).await;
    assert!(read.iter().all(Result::is_ok));
    log.head("packs/b").await.unwrap();
    faults.arm(1, Mode::Before);
    log.list("packs/", None).await.unwrap_err();
    let entries = entries.lock().unwrap();
    let short: Vec<_> = entries.iter().map(|entry| (entry.operation, entry.bytes, entry.outcome.as_str())).collect();
    let failed = "the store memory does not answer (injected fault)";
    let expected = [
        ("put", 100_000, "ok"),
        ("get", 0, "abandoned"),
        ("get", 70_000, "ok"),
        ("head", 0, "absent"),
        ("list", 0, failed),
    ];
    assert_eq!(short, expected);
}

/// Many operations while one in five fails in some way: the end is the same as that of a model, and nothing is lost.
#[tokio::test]
async fn a_campaign_of_seeded_faults_loses_nothing() {
    let seed = std::env::var("SEALIFT_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(4);
    let (memory, faults, store) = retried();
    faults.arm_seeded(seed, 5);
    let mut model: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut refused = 0;
    for number in 0..400_usize {
        let name = format!("releases/{}", number % 23);
        let body = Bytes::from(format!("operation {number}"));
        let done = match number % 4 {
            0 => {
                let content = Bytes::from(vec![number as u8; 3000 + number]);
                let put = store.put_bytes(Family::Blob, content.clone()).await;
                model.insert(Store::key(Family::Blob, &Digest::of(&content)), content);
                put.map(drop)
            }
            1 if !model.contains_key(&name) => {
                model.insert(name.clone(), body.clone());
                store.create(&name, body).await.map(drop)
            }
            2 => {
                let read = store.read(&name).await;
                read.map(|there| assert_eq!(there.map(|there| there.bytes), model.get(&name).cloned(), "seed {seed}"))
            }
            _ => match store.read(&name).await {
                Ok(Some(there)) => {
                    model.insert(name.clone(), body.clone());
                    store
                        .swap(&name, Some(&there.etag), body)
                        .await
                        .map(|swap| assert!(matches!(swap, Swap::Swapped(_))))
                }
                read => read.map(drop),
            },
        };
        refused += u64::from(done.is_err());
        done.unwrap_or_else(|error| panic!("operation {number}, seed {seed}: {error}"));
    }
    let tried = faults.injected();
    assert!(tried > 50, "{tried} faults are no campaign");
    assert_eq!(memory.contents(), model, "seed {seed}");
    println!("store: {tried} faults tried, {} survived, {refused} lost, seed {seed}", tried - refused);
}
