//! What every store must do, whatever is behind it. It panics where one does not.
//!
//! [`conformance`] runs everything with little effort; [`conformance_with`] as often, as long and as large as an [`Effort`]
//! says, and says in one line what passed. The same list holds in memory, for our own server, and for servers of others.

// A conformance suite is a test, although other crates may call it.
#![allow(clippy::unwrap_used)]

use crate::{
    Body, Condition, Created, Digest, Error, Family, Holder, LeaseState, Store, Swap,
    testing::{Faults, Faulty, IgnoresConditions, Mode, until},
};
use bytes::Bytes;
use futures::{StreamExt as _, future::join_all};
use std::{
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How many clients race for a key.
const CLIENTS: usize = 32;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds of the race for a new key.
    pub rounds: usize,
    /// How many rounds run at once.
    pub overlap: usize,
    /// How many keys are listed: more than a page.
    pub keys: usize,
    /// The size of the largest object, from a sparse file; 0 is none.
    pub large: u64,
}

impl Effort {
    /// A few seconds.
    pub const LITTLE: Self = Self { rounds: 4, overlap: 1, keys: 40, large: 0 };
    /// What a release is judged by, without the large object.
    pub const FULL: Self = Self { rounds: 200, overlap: 4, keys: 1400, large: 0 };
}

struct Suite<'a> {
    store: &'a Store,
    run: String,
    effort: Effort,
    passed: AtomicU64,
}

impl Suite<'_> {
    fn pass(&self) {
        self.passed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counted assertions: what the line at the end says was really compared.
macro_rules! check {
    ($suite:expr, $($rest:tt)+) => {{
        assert!($($rest)+);
        $suite.pass();
    }};
}
macro_rules! check_eq {
    ($suite:expr, $($rest:tt)+) => {{
        assert_eq!($($rest)+);
        $suite.pass();
    }};
}
macro_rules! check_ne {
    ($suite:expr, $($rest:tt)+) => {{
        assert_ne!($($rest)+);
        $suite.pass();
    }};
}

/// Runs every check against a store. Objects are made under keys of this run only; references are left behind.
pub async fn conformance(store: &Store) {
    conformance_with(store, Effort::LITTLE).await;
}

/// Runs every check with this effort; how many passed.
pub async fn conformance_with(store: &Store, effort: Effort) -> u64 {
    let run = uuid::Uuid::new_v4().simple().to_string();
    let suite = Suite { store, run, effort, passed: AtomicU64::new(0) };
    let directory = tempfile::tempdir().unwrap();
    probes(&suite).await;
    content(&suite, directory.path()).await;
    large_files(&suite, directory.path()).await;
    abandoned_uploads(&suite, directory.path()).await;
    conditions(&suite).await;
    lost_answers(&suite).await;
    listings(&suite).await;
    pages(&suite).await;
    legal_keys(&suite).await;
    create_race(&suite).await;
    swap_race(&suite).await;
    leases(&suite).await;
    takeover(&suite).await;
    fencing(&suite).await;
    if effort.large > 0 {
        huge(&suite, directory.path()).await;
    }
    suite.passed.into_inner()
}

/// Runs every check with this effort and says so in one line of the file that
/// `SEALIFT_TEST_SUMMARY` names, which `cargo xtask ci` shows.
pub async fn conformance_line(name: &str, store: &Store, effort: Effort) {
    let begun = Instant::now();
    let passed = conformance_with(store, effort).await;
    let large = match effort.large {
        0 => ", no large object".to_owned(),
        size if size.is_multiple_of(1 << 30) => format!(", objects up to {} GiB", size >> 30),
        size => format!(", objects up to {} MiB", size >> 20),
    };
    let Effort { rounds, .. } = effort;
    let took = begun.elapsed().as_secs_f64();
    summarise(&format!(
        "conformance: {name}: {passed} checks passed in {took:.1} s ({rounds} rounds of {CLIENTS} clients{large})"
    ));
}

/// A line for whoever reads the results of many tests; nowhere when no file was named for them.
pub fn summarise(line: &str) {
    if let Some(path) = std::env::var_os("SEALIFT_TEST_SUMMARY").filter(|path| !path.is_empty()) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

async fn probes(suite: &Suite<'_>) {
    let store = suite.store;
    store.probe_conditional_writes().await.unwrap();
    check!(suite, store.list("probes/").await.unwrap().is_empty(), "the probe leaves nothing");
    // The same server, if it did not look at conditions: it is found out, and refused in words.
    let careless = Store::over(Arc::new(IgnoresConditions(store.objects().clone())));
    let refused = careless.probe_conditional_writes().await.unwrap_err();
    check_eq!(suite, refused.class(), domain::Class::Unavailable);
    check!(suite, refused.to_string().contains("does not keep conditional writes"), "{refused}");
    check!(suite, refused.to_string().contains("leases and the ledger would not be safe"), "{refused}");
    check!(suite, store.list("probes/").await.unwrap().is_empty(), "nor does one that fails");
    let allowed = store.check_permissions().await.unwrap();
    check!(suite, allowed.iter().all(|one| one.allowed), "{allowed:?}");
    check!(suite, store.list("probes/").await.unwrap().is_empty(), "nor does the check of permissions");
}

/// The operation was carried out and its answer lost; or it was not carried out at all.
async fn lost_answers(suite: &Suite<'_>) {
    let faults = Faults::new();
    let store = Store::over(Faulty::new(suite.store.objects().clone(), faults.clone()));
    let key = format!("refs/{}/lost", suite.run);
    let body = |text: &str| Bytes::from(format!("{text} {}", uuid::Uuid::new_v4()));
    faults.arm(1, Mode::After);
    let first = body("created");
    check_eq!(suite, store.create(&key, first.clone()).await.unwrap(), Created::New, "ours, by its UUID");
    let there = suite.store.read(&key).await.unwrap().unwrap();
    check_eq!(suite, there.bytes, first);
    faults.arm(1, Mode::After);
    let second = body("swapped");
    let swapped = store.swap(&key, Some(&there.etag), second.clone()).await.unwrap();
    let now = suite.store.read(&key).await.unwrap().unwrap();
    check!(suite, matches!(&swapped, Swap::Swapped(etag) if *etag == now.etag), "{swapped:?}");
    check_eq!(suite, now.bytes, second);
    faults.arm(1, Mode::Before);
    let unsent = store.swap(&key, Some(&now.etag), body("unsent")).await;
    check!(suite, matches!(unsent, Err(Error::Unavailable { .. })), "not believed to have happened: {unsent:?}");
    check_eq!(suite, suite.store.read(&key).await.unwrap().unwrap().bytes, second);
    // Someone else wrote while our answer was lost: that is a lost race.
    let third = body("theirs");
    suite.store.swap(&key, Some(&now.etag), third.clone()).await.unwrap();
    faults.arm(1, Mode::Before);
    let lost = store.swap(&key, Some(&now.etag), body("ours")).await.unwrap();
    check!(suite, matches!(&lost, Swap::Lost(Some(there)) if there.bytes == third), "{lost:?}");
    faults.arm(2, Mode::After);
    let content = body("content");
    let digest = store.put_bytes(Family::Blob, content.clone()).await.unwrap();
    check!(suite, faults.fired(), "the write of content lost its answer");
    check_eq!(suite, suite.store.get_bytes(Family::Blob, &digest, 1000).await.unwrap(), content);
}

/// Listings of more keys than a page holds.
async fn pages(suite: &Suite<'_>) {
    let prefix = format!("pages/{}/", suite.run);
    // Names that sort otherwise when they are walked as directories, also where a page ends.
    let forms = ["", "-b", "/a", "/b", ".c"];
    let name = |number: usize| format!("{prefix}{:04}x{}", number / forms.len(), forms[number % forms.len()]);
    let mut keys: Vec<String> = (0..suite.effort.keys).map(name).filter(|key| !key.ends_with('x')).collect();
    keys.sort();
    let puts = keys.iter().map(|key| suite.store.objects().put(key, Body::Bytes(Bytes::new()), Condition::None));
    let mut puts = futures::stream::iter(puts).buffer_unordered(16);
    while let Some(put) = puts.next().await {
        put.unwrap();
    }
    let listed = suite.store.list(&prefix).await.unwrap();
    check!(suite, listed.iter().map(|(key, _)| key).eq(&keys), "every key once, in order, of {}", keys.len());
    check!(suite, listed.iter().all(|(_, meta)| meta.size == 0 && meta.modified.is_some()));
    let first = suite.store.objects().list(&prefix, None).await.unwrap();
    check!(suite, first.entries.len() <= keys.len() && first.more == (first.entries.len() < keys.len()));
    if keys.len() > 1000 {
        check!(suite, first.more, "more than a page");
    }
    let removals = keys.iter().map(|key| suite.store.objects().delete(key));
    let mut removals = futures::stream::iter(removals).buffer_unordered(16);
    while let Some(removal) = removals.next().await {
        removal.unwrap();
    }
    check!(suite, suite.store.list(&prefix).await.unwrap().is_empty());
}

/// Every character that our keys may have: ASCII letters, digits, and what S3 calls safe or handles with care.
async fn legal_keys(suite: &Suite<'_>) {
    let prefix = format!("keys/{}/", suite.run);
    let mut keys: Vec<String> = (b' '..=b'~')
        .map(char::from)
        .filter(|letter| letter.is_ascii_alphanumeric() || "!-_.*'()&$@=;:+ ,?%#~".contains(*letter))
        .map(|letter| format!("{prefix}a{letter}b/{letter}{letter}c{letter}d"))
        .collect();
    keys.push(format!("{prefix}{}", "x/".repeat(150) + "y"));
    keys.push(format!("{prefix}{}", "z".repeat(200)));
    keys.sort();
    for key in &keys {
        let bytes = Bytes::from(key.clone());
        check_eq!(suite, suite.store.create(key, bytes.clone()).await.unwrap(), Created::New, "{key}");
        let there = suite.store.read(key).await.unwrap().unwrap();
        check_eq!(suite, there.bytes, bytes, "{key}");
        let swapped = suite.store.swap(key, Some(&there.etag), Bytes::from("swapped")).await.unwrap();
        check!(suite, matches!(swapped, Swap::Swapped(_)), "{key}");
        let meta = suite.store.objects().head(key).await.unwrap().unwrap();
        check_eq!(suite, meta.size, 7, "{key}");
        check!(suite, meta.modified.is_some(), "{key}");
    }
    let listed = suite.store.list(&prefix).await.unwrap();
    check!(suite, listed.iter().map(|(key, _)| key).eq(&keys), "{listed:?}");
    for key in &keys {
        suite.store.objects().delete(key).await.unwrap();
        check!(suite, suite.store.read(key).await.unwrap().is_none(), "{key}");
    }
}

/// A file of holes that ends in its own name, and its digest.
fn sparse(path: &Path, length: u64) -> Digest {
    use sha2::Digest as _;
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(length).unwrap();
    let end = uuid::Uuid::new_v4().into_bytes();
    file.write_all_at(&end, length - end.len() as u64).unwrap();
    let mut hasher = sha2::Sha256::new();
    let zeros = vec![0; 1 << 20];
    let mut left = length - end.len() as u64;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
        hasher.update(&zeros[..piece]);
        left -= piece as u64;
    }
    hasher.update(end);
    Digest::from_bytes(hasher.finalize().into())
}

/// An upload in parts that is refused, and one that is cancelled on its way, leave nothing.
async fn abandoned_uploads(suite: &Suite<'_>, directory: &Path) {
    let (path, wrong) = (directory.join("abandoned"), Digest::of(suite.run.as_bytes()));
    sparse(&path, 40 << 20);
    let key = Store::key(Family::Blob, &wrong);
    let refused = suite.store.put_file(Family::Blob, &wrong, &path, None).await;
    check!(suite, matches!(refused, Err(Error::Changed { .. })), "{refused:?}");
    check_eq!(suite, suite.store.has(Family::Blob, &wrong).await.unwrap(), None, "and nothing is there");
    // A store without uploads has none to abandon.
    if suite.store.s3.is_none() {
        return;
    }
    check!(suite, suite.store.unfinished_uploads(&key).await.unwrap().is_empty(), "a refused upload is aborted");
    // Large enough that it does not end before it is seen.
    let length = 512 << 20;
    std::fs::File::create(&path).unwrap().set_len(length).unwrap();
    let (store, from) = (suite.store.clone(), path.clone());
    let sending = tokio::spawn(async move { store.put_file(Family::Blob, &wrong, &from, None).await });
    let begun = Instant::now();
    while suite.store.unfinished_uploads(&key).await.unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20) && !sending.is_finished(), "its upload is seen");
    }
    suite.pass();
    sending.abort();
    check!(suite, sending.await.is_err_and(|error| error.is_cancelled()), "it was cancelled on its way");
    suite.store.settle().await;
    check!(suite, suite.store.unfinished_uploads(&key).await.unwrap().is_empty(), "a cancelled upload is aborted");
    check_eq!(suite, suite.store.has(Family::Blob, &wrong).await.unwrap(), None, "and nothing is there");
}

/// An object of the size that the effort names.
async fn huge(suite: &Suite<'_>, directory: &Path) {
    let path = directory.join("huge");
    let length = suite.effort.large;
    let digest = sparse(&path, length);
    check!(suite, suite.store.put_file(Family::Blob, &digest, &path, None).await.unwrap());
    std::fs::remove_file(&path).unwrap();
    check_eq!(suite, suite.store.has(Family::Blob, &digest).await.unwrap(), Some(length));
    let end = suite.store.get_range(Family::Blob, &digest, length - 20..length).await.unwrap();
    check_eq!(suite, end[..4], [0; 4], "its last bytes, by a range");
    check_eq!(suite, suite.store.verify(Family::Blob, &digest).await.unwrap(), length, "all of it, hashed");
    suite.store.objects().delete(&Store::key(Family::Blob, &digest)).await.unwrap();
    check_eq!(suite, suite.store.has(Family::Blob, &digest).await.unwrap(), None);
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

async fn content(suite: &Suite<'_>, directory: &Path) {
    let store = suite.store;
    for length in [0, 1, 100_000, 3 << 20] {
        let bytes = Bytes::from(random(length));
        let digest = store.put_bytes(Family::Blob, bytes.clone()).await.unwrap();
        check_eq!(suite, digest, Digest::of(&bytes));
        check_eq!(suite, store.put_bytes(Family::Blob, bytes.clone()).await.unwrap(), digest, "again is the same");
        check_eq!(suite, store.has(Family::Blob, &digest).await.unwrap(), Some(length as u64));
        check_eq!(suite, store.get_bytes(Family::Blob, &digest, length as u64).await.unwrap(), bytes);
        check_eq!(suite, store.verify(Family::Blob, &digest).await.unwrap(), length as u64);
        let to = directory.join("restored/blob");
        check_eq!(suite, store.get_file(Family::Blob, &digest, &to, None).await.unwrap(), length as u64);
        check_eq!(suite, Digest::of(std::fs::read(&to).unwrap()), digest);
        if length > 50 {
            let range = store.get_range(Family::Blob, &digest, 10..47).await.unwrap();
            check_eq!(suite, range, bytes.slice(10..47));
            let end = length as u64;
            let last = store.get_range(Family::Blob, &digest, end - 3..end).await.unwrap();
            check_eq!(suite, last, bytes.slice(length - 3..));
            let too_small = store.get_bytes(Family::Blob, &digest, 50).await;
            check!(suite, matches!(too_small, Err(Error::TooLarge { limit: 50, .. })), "{too_small:?}");
        }
    }
    let absent = Digest::of(random(16));
    check_eq!(suite, store.has(Family::Pack, &absent).await.unwrap(), None);
    let missing = store.get_bytes(Family::Pack, &absent, 10).await;
    check!(suite, matches!(&missing, Err(Error::Missing { key }) if key.contains(&absent.hex())), "{missing:?}");
    let to = directory.join("absent");
    check!(suite, matches!(store.get_file(Family::Pack, &absent, &to, None).await, Err(Error::Missing { .. })));
    check!(suite, !to.exists(), "nothing is left under the name of what was not there");
}

async fn large_files(suite: &Suite<'_>, directory: &Path) {
    let store = suite.store;
    let bytes = random((20 << 20) + 17);
    let (digest, path) = (Digest::of(&bytes), directory.join("large"));
    std::fs::write(&path, &bytes).unwrap();
    check!(suite, store.put_file(Family::Blob, &digest, &path, None).await.unwrap(), "it is sent");
    check!(suite, !store.put_file(Family::Blob, &digest, &path, None).await.unwrap(), "and not sent again");
    check_eq!(suite, store.verify(Family::Blob, &digest).await.unwrap(), bytes.len() as u64);
    let across = store.get_range(Family::Blob, &digest, (8 << 20) - 5..(8 << 20) + 5).await.unwrap();
    check_eq!(suite, across, bytes[(8 << 20) - 5..(8 << 20) + 5]);
    for length in [1000, 17 << 20] {
        std::fs::write(&path, random(length)).unwrap();
        let other = Digest::of(random(32));
        let changed = store.put_file(Family::Blob, &other, &path, None).await;
        check!(suite, matches!(changed, Err(Error::Changed { .. })), "{changed:?}");
        check_eq!(suite, store.has(Family::Blob, &other).await.unwrap(), None, "nothing is committed");
    }
}

async fn conditions(suite: &Suite<'_>) {
    let (store, run) = (suite.store, &suite.run);
    let key = format!("refs/{run}/conditions");
    let put = |text: &'static str, condition| store.objects().put(&key, Body::Bytes(Bytes::from(text)), condition);
    check!(suite, store.read(&key).await.unwrap().is_none());
    let early = put("too early", Condition::Match("\"0123456789abcdef0123456789abcdef\"".to_owned())).await;
    check!(suite, matches!(early, Err(Error::Precondition { .. })), "If-Match on what is absent: {early:?}");
    let first = put("first", Condition::Absent).await.unwrap();
    check!(suite, matches!(put("again", Condition::Absent).await, Err(Error::Precondition { .. })));
    let second = put("second", Condition::Match(first.etag.clone())).await.unwrap();
    check_ne!(suite, first.etag, second.etag);
    check!(suite, matches!(put("late", Condition::Match(first.etag)).await, Err(Error::Precondition { .. })));
    let there = store.read(&key).await.unwrap().unwrap();
    check_eq!(suite, (&there.bytes[..], there.etag), (&b"second"[..], second.etag));
    check_eq!(suite, store.create(&key, Bytes::from("second")).await.unwrap(), Created::Same);
    let other = store.create(&key, Bytes::from("other")).await;
    check!(suite, matches!(&other, Err(Error::Exists { existing, .. }) if existing == "second"), "{other:?}");
    store.objects().delete(&key).await.unwrap();
    store.objects().delete(&key).await.unwrap();
    check!(suite, store.read(&key).await.unwrap().is_none());
}

async fn listings(suite: &Suite<'_>) {
    let (store, run) = (suite.store, &suite.run);
    let prefix = format!("lists/{run}/");
    let names = ["a-b", "a/1", "a/2", "a0", "b.json", "b/x/y", "c", "z_"];
    let mut keys: Vec<String> = names.iter().map(|name| format!("{prefix}{name}")).collect();
    for key in keys.iter().rev() {
        store.create(key, Bytes::from(key.clone())).await.unwrap();
    }
    keys.sort();
    let listed = store.list(&prefix).await.unwrap();
    check_eq!(suite, listed.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), keys, "byte order");
    check!(suite, listed.iter().all(|(key, meta)| meta.size == key.len() as u64 && !meta.etag.is_empty()));
    // Page by page it is the order of the server, which need not be that of bytes; but it is one order.
    let mut order: Vec<String> = Vec::new();
    while order.len() < keys.len() {
        let page = store.objects().list(&prefix, order.last().map(String::as_str)).await.unwrap();
        check!(suite, !page.entries.is_empty(), "after {order:?} there is more");
        order.extend(page.entries.into_iter().map(|(key, _)| key));
    }
    for (position, key) in order.iter().enumerate() {
        let after = store.objects().list(&prefix, Some(key)).await.unwrap();
        let rest = &order[position + 1..];
        check!(suite, after.entries.iter().map(|(key, _)| key).eq(&rest[..after.entries.len()]), "after {key}");
        check!(suite, after.more || after.entries.len() == rest.len(), "after {key}");
    }
    check_eq!(suite, store.list(&format!("{prefix}a/")).await.unwrap().len(), 2);
    check_eq!(suite, store.list(&format!("{prefix}b")).await.unwrap().len(), 2, "a prefix is not a directory");
    check!(suite, store.list(&format!("{prefix}nothing")).await.unwrap().is_empty());
    check!(suite, store.objects().head(&format!("{prefix}a")).await.unwrap().is_none(), "a prefix is no object");
}

/// Rounds in which 32 clients create the same key at once: one wins, and what it wrote is there.
async fn create_race(suite: &Suite<'_>) {
    let rounds = (0..suite.effort.rounds).map(|round| create_round(suite, round));
    let mut rounds = futures::stream::iter(rounds).buffer_unordered(suite.effort.overlap);
    while rounds.next().await.is_some() {}
}

async fn create_round(suite: &Suite<'_>, round: usize) {
    let key = format!("refs/{}/race-{round}", suite.run);
    let racers = (0..CLIENTS).map(|racer| {
        let (store, key) = (suite.store.clone(), key.clone());
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
    let there = suite.store.read(&key).await.unwrap().unwrap().bytes;
    check_eq!(suite, winners.len(), 1, "round {round} has one winner");
    check_eq!(suite, there, format!("racer {}", winners[0]), "and what it wrote is there");
}

async fn swap_race(suite: &Suite<'_>) {
    let (store, run) = (suite.store, &suite.run);
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
    check!(suite, there.bytes.starts_with(b"40 "), "no update is lost: {:?}", there.bytes);
}

async fn leases(suite: &Suite<'_>) {
    let (store, run) = (suite.store, &suite.run);
    let environment = format!("{run}-leases");
    let ttl = Duration::from_secs(30);
    check!(suite, store.lease_holder(&environment).await.unwrap().is_none());
    let lease = store.lease(&environment, "deploy 1", ttl, Duration::ZERO).await.unwrap();
    check_eq!(suite, lease.epoch, 1);
    lease.check().unwrap();
    let busy = store.lease(&environment, "deploy 2", ttl, Duration::ZERO).await.unwrap_err();
    check!(suite, matches!(&busy, Error::Held { epoch: 1, op, .. } if op == "deploy 1"), "{busy:?}");
    let pid = format!("pid {}", std::process::id());
    check!(suite, busy.to_string().contains(&pid), "it names the holder: {busy}");
    check_eq!(suite, store.lease_holder(&environment).await.unwrap().unwrap().epoch, 1);
    lease.release().await.unwrap();
    check!(suite, store.lease_holder(&environment).await.unwrap().is_none());
    let next = store.lease(&environment, "deploy 3", ttl, Duration::ZERO).await.unwrap();
    check_eq!(suite, next.epoch, 2, "the epoch rises");
    // Dropped in this process: provably nobody acts under it, so nobody waits for its TTL.
    drop(next);
    let begun = Instant::now();
    let after = store.lease(&environment, "deploy 4", ttl, Duration::ZERO).await.unwrap();
    check_eq!(suite, after.epoch, 3);
    check!(suite, begun.elapsed() < ttl);
    after.release().await.unwrap();
}

fn foreign(epoch: u64, ttl_ms: u64) -> Bytes {
    let uuid = uuid::Uuid::new_v4().to_string();
    let holder =
        Holder { name: "ci@elsewhere pid 7".to_owned(), uuid, host: "elsewhere".to_owned(), pid: 7, started: 1 };
    let state = LeaseState { epoch, holder: Some(holder), op: "deploy".to_owned(), ttl_ms, renewals: 0 };
    Bytes::from(serde_json::to_vec(&state).unwrap())
}

async fn takeover(suite: &Suite<'_>) {
    let (store, run) = (suite.store, &suite.run);
    let environment = format!("{run}-takeover");
    let key = format!("locks/{environment}.json");
    check!(suite, matches!(store.swap(&key, None, foreign(7, 600)).await.unwrap(), Swap::Swapped(_)));
    let ttl = Duration::from_millis(600);
    // A holder elsewhere that renews while it is watched lives: nobody waits for it who has no patience.
    // It ends between two renewals: one that was given up in the middle might be done by the server when we look for the second time.
    let seen = AtomicBool::new(false);
    let renewing = async {
        for _ in 0..200 {
            if seen.load(Ordering::SeqCst) {
                return true;
            }
            let there = store.read(&key).await.unwrap().unwrap();
            store.swap(&key, Some(&there.etag), foreign(7, 600)).await.unwrap();
            tokio::time::sleep(ttl / 20).await;
        }
        false
    };
    let watching = async {
        let busy = store.lease(&environment, "us", ttl, Duration::ZERO).await;
        seen.store(true, Ordering::SeqCst);
        busy
    };
    let (busy, in_time) = tokio::join!(watching, renewing);
    check!(suite, in_time, "a holder that renews was watched for ever");
    check!(suite, matches!(busy, Err(Error::Held { epoch: 7, .. })), "{busy:?}");
    let begun = Instant::now();
    let lease = store.lease(&environment, "us", Duration::from_secs(30), Duration::ZERO).await.unwrap();
    check!(suite, begun.elapsed() >= ttl, "only after it stood still for a TTL");
    check_eq!(suite, lease.epoch, 8);
    lease.release().await.unwrap();
}

async fn fencing(suite: &Suite<'_>) {
    let (store, run) = (suite.store, &suite.run);
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
    check!(suite, matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    let there = store.lease_holder(&environment).await.unwrap().unwrap();
    check_eq!(suite, there.holder.unwrap().name, "ci@elsewhere pid 7", "and does not touch the lease of the other");
}
