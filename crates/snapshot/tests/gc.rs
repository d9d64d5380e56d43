//! A gc of a store: what it keeps, what it removes, and that nothing is lost beside pushes, whatever comes between them.
#![allow(clippy::unwrap_used)]

mod common;

use async_trait::async_trait;
use common::{Fixture, chain, digest_of_tree, noise};
use domain::{Class, Digest, Events};
use futures::{StreamExt as _, stream};
use snapshot::{Error, Pointer, complete, gc};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};
use store::{
    Body, ByteStream, Condition, Meta, Objects, Page, Store,
    testing::{Faults, Faulty, Memory, Mode},
};

const HOUR: Duration = Duration::from_secs(3600);

fn hours(count: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + HOUR * (500_000 + u32::try_from(count).unwrap())
}

fn hex_key(family: &str, digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{family}/{}/{hex}", &hex[..2])
}

/// Three versions of a data set, which share packs, with all of them in one cache. The first two share `same`, the last two
/// `later`.
struct Versions {
    fixture: Fixture,
    pointers: Vec<Pointer>,
}

fn versions() -> Versions {
    let fixture = Fixture::new();
    let mut pointers = Vec::new();
    for (version, files) in [&["same"][..], &["same", "later"], &["later", "last"]].iter().enumerate() {
        let _ = fs::remove_dir_all(fixture.path("data/raw"));
        for file in *files {
            let seed = file.bytes().map(u64::from).sum();
            fixture.write(&format!("data/raw/{file}"), noise(60_000, seed));
        }
        fixture.write("data/raw/version", version.to_string());
        pointers.push(fixture.add("data/raw").pointer);
    }
    Versions { fixture, pointers }
}

impl Versions {
    fn digest(&self, version: usize) -> Digest {
        self.pointers[version].digest
    }

    async fn push(&self, store: &Store, version: usize) -> snapshot::Result<snapshot::Pushed> {
        self.fixture.repository.push(store, &self.pointers[version], &Events::nowhere()).await
    }
}

async fn collect(store: &Store, keep: &[Digest], grace: Duration) -> snapshot::Result<(gc::Plan, gc::Collected)> {
    let keep = keep.iter().copied().collect();
    let plan = gc::plan(store, &keep, grace, &Events::nowhere()).await?;
    let collected = gc::collect(store, &plan, &keep, &Events::nowhere()).await?;
    Ok((plan, collected))
}

async fn whole(store: &Store, digest: &Digest) -> bool {
    complete(store, digest).await.is_ok_and(|missing| missing.is_empty())
}

fn families(memory: &Memory) -> Vec<String> {
    let ours = |key: &String| ["packs/", "layouts/", "snapshots/"].iter().any(|family| key.starts_with(family));
    memory.keys().into_iter().filter(ours).collect()
}

#[tokio::test]
async fn what_no_kept_snapshot_needs_goes_and_everything_else_stays() {
    let v = versions();
    let memory = Memory::new();
    let store = Store::over(memory.clone());
    memory.set_clock(hours(0));
    for version in 0..3 {
        v.push(&store, version).await.unwrap();
    }
    for key in ["blobs/sha256/ab/abc", "releases/x/1.0.0.sigstore.json", "ledger/p/1", "packs/notes.txt", "packs/zz/1"]
    {
        memory.put(key, Body::Bytes("kept".into()), Condition::None).await.unwrap();
    }
    memory.set_clock(hours(100));
    let before = memory.contents();
    let keep = BTreeSet::from([v.digest(0)]);
    let plan = gc::plan(&store, &keep, HOUR, &Events::nowhere()).await.unwrap();
    // A plan writes one note, and removes nothing.
    assert_eq!(memory.contents().len(), before.len() + 1);
    assert_eq!((plan.kept_snapshots, plan.young), (1, gc::Tally::default()));
    let sizes: u64 = plan.remove.iter().map(|object| before[&object.key].len() as u64).sum();
    assert_eq!(plan.remove_bytes, sizes);
    let order: Vec<&str> = plan.remove.iter().map(|object| object.key.split('/').next().unwrap()).collect();
    assert_eq!(order[..4], ["snapshots", "snapshots", "layouts", "layouts"], "{order:?}");
    assert!(order.len() > 4 && order[4..].iter().all(|family| *family == "packs"), "{order:?}");
    let collected = gc::collect(&store, &plan, &keep, &Events::nowhere()).await.unwrap();
    assert_eq!((collected.removed.objects, collected.removed.bytes), (plan.remove.len() as u64, sizes));
    assert!(plan.remove.iter().all(|object| !memory.keys().contains(&object.key)));
    assert_eq!(memory.contents()["packs/zz/1"], "kept");
    let planned: BTreeSet<&str> = plan.remove.iter().map(|object| object.key.as_str()).collect();
    let kept: u64 = before
        .iter()
        .filter(|(key, _)| !planned.contains(key.as_str()))
        .filter(|(key, value)| {
            ["packs/", "layouts/", "snapshots/"].iter().any(|family| key.starts_with(family)) && **value != "kept"
        })
        .map(|(_, value)| value.len() as u64)
        .sum();
    assert_eq!(plan.kept_bytes, kept);
    for key in before.keys().filter(|key| !planned.contains(key.as_str()) && !key.starts_with("claims/")) {
        assert!(memory.keys().contains(key), "{key}");
    }
    v.fixture.repository.verify_remote(&store, &v.digest(0), &Events::nowhere()).await.unwrap();
    // Claims have had their time; a second gc has nothing to do.
    assert!(!memory.keys().iter().any(|key| key.starts_with("claims/") || *key == "gc/intent.json"));
    let (plan, collected) = collect(&store, &[v.digest(0)], HOUR).await.unwrap();
    assert!(plan.remove.is_empty() && collected == gc::Collected::default());
    // A fetch of what is gone names it; a push brings it back.
    let error = Fixture::new().repository.fetch(&store, &v.digest(2), &Events::nowhere()).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(chain(&error).contains(&hex_key("snapshots", &v.digest(2))), "{}", chain(&error));
    v.push(&store, 2).await.unwrap();
    assert!(whole(&store, &v.digest(2)).await);
}

#[tokio::test]
async fn what_is_young_stays_by_the_servers_clock_alone() {
    let v = versions();
    let memory = Memory::new();
    let store = Store::over(memory.clone());
    // This machine's clock is years ahead of, and then behind, the server's.
    for base in [0, 5_000_000] {
        memory.set_clock(hours(base));
        v.push(&store, 0).await.unwrap();
        memory.put(&hex_key("packs", &Digest::of("orphan")), Body::Bytes("o".into()), Condition::None).await.unwrap();
        memory.set_clock(hours(base + 23));
        let (plan, _) = collect(&store, &[], HOUR * 24).await.unwrap();
        assert!(plan.remove.is_empty(), "{plan:?}");
        assert_eq!(plan.young.objects, families(&memory).len() as u64);
        // Pushed again, with nothing to send: it is young again, though its objects are old.
        memory.set_clock(hours(base + 30));
        assert!(v.push(&store, 0).await.unwrap().already);
        memory.set_clock(hours(base + 40));
        let (plan, _) = collect(&store, &[], HOUR * 24).await.unwrap();
        assert_eq!(plan.remove.len(), 1, "only the orphan: {plan:?}");
        assert!(whole(&store, &v.digest(0)).await);
        memory.set_clock(hours(base + 70));
        collect(&store, &[], HOUR * 24).await.unwrap();
        assert_eq!(families(&memory), Vec::<String>::new());
    }
}

/// A server that does not say when objects were written.
struct Timeless(Arc<Memory>);

#[async_trait]
impl Objects for Timeless {
    fn describe(&self) -> String {
        self.0.describe()
    }
    async fn head(&self, key: &str) -> store::Result<Option<Meta>> {
        Ok(self.0.head(key).await?.map(|meta| Meta { modified: None, ..meta }))
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> store::Result<Option<(Meta, ByteStream)>> {
        self.0.get(key, range).await
    }
    async fn put(&self, key: &str, body: Body, condition: Condition) -> store::Result<Meta> {
        self.0.put(key, body, condition).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> store::Result<Page> {
        let mut page = self.0.list(prefix, after).await?;
        page.entries.iter_mut().for_each(|(_, meta)| meta.modified = None);
        Ok(page)
    }
    async fn delete(&self, key: &str) -> store::Result<()> {
        self.0.delete(key).await
    }
}

#[tokio::test]
async fn what_has_no_time_is_young() {
    let v = versions();
    let store = Store::over(Arc::new(Timeless(Memory::new())));
    v.push(&store, 0).await.unwrap();
    let (plan, _) = collect(&store, &[], Duration::ZERO).await.unwrap();
    assert!(plan.remove.is_empty(), "{plan:?}");
    assert!(whole(&store, &v.digest(0)).await);
}

#[tokio::test]
async fn a_kept_snapshot_whose_packs_are_not_known_stops_everything() {
    let v = versions();
    let memory = Memory::new();
    let store = Store::over(memory.clone());
    memory.set_clock(hours(0));
    for version in 0..3 {
        v.push(&store, version).await.unwrap();
    }
    memory.set_clock(hours(100));
    let keep: BTreeSet<Digest> = [v.digest(0), v.digest(1)].into();
    let good = gc::plan(&store, &keep, HOUR, &Events::nowhere()).await.unwrap();
    let layout = snapshot::layout_key(&v.digest(0));
    let bytes = memory.contents()[&layout].to_vec();
    for damage in ["missing", "flipped", "cut", "of another"] {
        match damage {
            "missing" => drop(memory.remove(&layout)),
            _ => {
                let other = memory.contents()[&snapshot::layout_key(&v.digest(1))].to_vec();
                let mut changed = bytes.clone();
                match damage {
                    "flipped" => changed[60] ^= 1,
                    "cut" => changed.truncate(bytes.len() - 1),
                    _ => changed = other,
                }
                memory.put(&layout, Body::Bytes(changed.into()), Condition::None).await.unwrap();
            }
        }
        let before = families(&memory);
        let error = gc::plan(&store, &keep, HOUR, &Events::nowhere()).await.unwrap_err();
        assert_eq!(error.class(), Class::Integrity);
        assert!(matches!(&error, Error::Unsure { object, .. } if *object == layout), "{damage}: {error}");
        assert!(error.to_string().contains("nothing was removed"), "{error}");
        // Also when that comes between the plan and its execution.
        let error = gc::collect(&store, &good, &keep, &Events::nowhere()).await.unwrap_err();
        assert!(matches!(&error, Error::Unsure { object, .. } if *object == layout), "{damage}: {error}");
        assert_eq!(families(&memory), before, "{damage}");
        assert!(!memory.keys().contains(&"gc/intent.json".to_owned()), "no push waits for it");
        memory.put(&layout, Body::Bytes(bytes.clone().into()), Condition::None).await.unwrap();
    }
    // One of which the store has nothing is elsewhere, or was never pushed.
    let nowhere = Digest::of("elsewhere");
    let keep: BTreeSet<Digest> = keep.into_iter().chain([nowhere]).collect();
    let plan = gc::plan(&store, &keep, HOUR, &Events::nowhere()).await.unwrap();
    assert_eq!(plan.absent, [nowhere]);
    // What is kept by now stays, whatever the plan says.
    let all: BTreeSet<Digest> = (0..3).map(|version| v.digest(version)).collect();
    let collected = gc::collect(&store, &plan, &all, &Events::nowhere()).await.unwrap();
    assert_eq!((collected.removed.objects, collected.spared.objects), (0, plan.remove.len() as u64));
    assert!(whole(&store, &v.digest(2)).await);
}

#[tokio::test]
async fn what_is_pushed_between_plan_and_execution_stays() {
    let v = versions();
    for grace in [Duration::ZERO, HOUR] {
        let memory = Memory::new();
        let store = Store::over(memory.clone());
        memory.set_clock(hours(0));
        v.push(&store, 1).await.unwrap();
        v.push(&store, 2).await.unwrap();
        memory.remove(&hex_key("snapshots", &v.digest(2)));
        memory.remove(&snapshot::layout_key(&v.digest(2)));
        memory.set_clock(hours(100));
        let plan = gc::plan(&store, &BTreeSet::new(), grace, &Events::nowhere()).await.unwrap();
        assert!(plan.remove.len() >= 5, "{plan:?}");
        // One with nothing to do, and one whose packs are there without a layout.
        assert!(v.push(&store, 1).await.unwrap().already);
        assert_eq!(v.push(&store, 2).await.unwrap().uploaded_packs, 0);
        let collected = gc::collect(&store, &plan, &BTreeSet::new(), &Events::nowhere()).await.unwrap();
        assert_eq!(collected.removed.objects, 0);
        assert!(whole(&store, &v.digest(1)).await && whole(&store, &v.digest(2)).await);
    }
}

#[tokio::test]
async fn what_is_held_between_plan_and_execution_stays_and_what_went_before_is_named() {
    let v = versions();
    let memory = Memory::new();
    let store = Store::over(memory.clone());
    for version in 0..3 {
        v.push(&store, version).await.unwrap();
    }
    memory.set_clock(hours(100));
    let keep = BTreeSet::from([v.digest(0)]);
    let plan = gc::plan(&store, &keep, HOUR, &Events::nowhere()).await.unwrap();
    let hold = async |version: usize| {
        snapshot::hold(&store, &v.digest(version), Duration::from_secs(5), &Events::nowhere()).await.unwrap()
    };
    assert_eq!(hold(2).await, Vec::<String>::new());
    let collected = gc::collect(&store, &plan, &keep, &Events::nowhere()).await.unwrap();
    assert!(collected.removed.objects > 0 && collected.spared.objects > 0, "{collected:?}");
    assert!(whole(&store, &v.digest(2)).await && !whole(&store, &v.digest(1)).await);
    let missing = hold(1).await;
    assert!(missing.contains(&hex_key("snapshots", &v.digest(1))), "{missing:?}");
    assert_eq!(missing, complete(&store, &v.digest(1)).await.unwrap());
}

#[tokio::test]
async fn a_gc_interrupted_anywhere_is_finished_by_the_next_and_hinders_no_push() {
    let v = versions();
    let mut survived = 0;
    for mode in [Mode::Before, Mode::After, Mode::Down] {
        for k in 1.. {
            let (memory, faults) = (Memory::new(), Faults::new());
            let (store, faulty) =
                (Store::over(memory.clone()), Store::over(Faulty::new(memory.clone(), faults.clone())));
            memory.set_clock(hours(0));
            for version in 0..3 {
                v.push(&store, version).await.unwrap();
            }
            memory.set_clock(hours(100));
            faults.arm(k, mode);
            let first = collect(&faulty, &[v.digest(0)], HOUR).await;
            let fired = faults.fired();
            faults.disarm();
            if let Err(error) = &first {
                assert!(matches!(error.class(), Class::Unavailable | Class::Busy), "{}", chain(error));
            }
            assert!(whole(&store, &v.digest(0)).await, "{mode:?} at {k}");
            // Manifests go first, so whoever finds one can restore it.
            for version in 1..3 {
                let listed = memory.keys().contains(&hex_key("snapshots", &v.digest(version)));
                assert!(!listed || whole(&store, &v.digest(version)).await, "{mode:?} at {k}");
            }
            if k % 2 == 0 {
                v.push(&store, 1).await.unwrap();
                assert!(whole(&store, &v.digest(1)).await, "{mode:?} at {k}");
            }
            memory.set_clock(hours(200));
            collect(&store, &[v.digest(0)], HOUR).await.unwrap();
            let left = families(&memory).len();
            assert!(left == 3 && whole(&store, &v.digest(0)).await, "{mode:?} at {k}: {left} objects");
            assert!(!memory.keys().contains(&"gc/intent.json".to_owned()));
            if !fired {
                break;
            }
            survived += 1;
        }
    }
    assert!(survived >= 60, "{survived} faults were injected");
}

#[tokio::test]
async fn a_push_waits_for_a_living_gc_in_bounded_time_and_only_when_it_is_named() {
    let v = versions();
    let memory = Memory::new();
    let store = Store::over(memory.clone());
    v.push(&store, 0).await.unwrap();
    v.push(&store, 1).await.unwrap();
    let lease = store.lease("_gc", "test", Duration::from_secs(600), Duration::ZERO).await.unwrap();
    let intent = |keys: &[String]| format!("{{\"v\":1,\"op\":\"test\",\"epoch\":1,\"keys\":{keys:?}}}");
    let write = |text: String| memory.put("gc/intent.json", Body::Bytes(text.into()), Condition::None);
    let named = [hex_key("snapshots", &v.digest(1))];
    write(intent(&named)).await.unwrap();
    assert!(v.push(&store, 0).await.unwrap().already, "it is not named");
    let hasty = v.fixture.repository.clone().with_patience(Duration::from_millis(500));
    let error = hasty.push(&store, &v.pointers[1], &Events::nowhere()).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }) && error.class() == Class::Busy, "{error}");
    assert!(error.to_string().contains("a gc is removing what snapshot"), "{error}");
    // One that cannot be read could name anything.
    write("{".to_owned()).await.unwrap();
    let error = hasty.push(&store, &v.pointers[0], &Events::nowhere()).await.unwrap_err();
    assert_eq!(error.class(), Class::Busy);
    // It ends while the push waits.
    write(intent(&named)).await.unwrap();
    let (pushed, ()) = tokio::join!(v.push(&store, 1), async {
        tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await.unwrap_err();
        for key in [named[0].clone(), "gc/intent.json".to_owned()] {
            memory.delete(&key).await.unwrap();
        }
    });
    assert!(!pushed.unwrap().already);
    assert!(whole(&store, &v.digest(1)).await);
    // Its holder dies: what it intended is cleared by the push.
    write(intent(&named)).await.unwrap();
    drop(lease);
    assert!(v.push(&store, 1).await.unwrap().already);
    assert!(!memory.keys().contains(&"gc/intent.json".to_owned()));
}

/// A store whose every answer takes a while, so that the requests of several actors come between each other. The seed decides
/// how long, and so what comes between what, as far as the machine lets it.
struct Slow {
    memory: Arc<Memory>,
    state: Mutex<u64>,
    /// One kind of request that is much slower than the others: verb and beginning of the key.
    sleepy: (&'static str, &'static str),
    log: Mutex<Vec<(String, String)>>,
    /// Manifests that were seen without what they name.
    dangling: Mutex<Vec<String>>,
    needs: BTreeMap<String, Vec<String>>,
}

impl Slow {
    fn random(&self, below: u64) -> u64 {
        let mut state = self.state.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// Mostly quick; sometimes so slow that a whole gc fits in between.
    async fn pause(&self) {
        let most = [0, 0, 1, 2, 8, 60][usize::try_from(self.random(6)).unwrap()];
        tokio::time::sleep(Duration::from_millis(self.random(most + 1))).await;
    }

    async fn run<T>(
        &self,
        verb: &str,
        key: &str,
        operation: impl Future<Output = store::Result<T>>,
    ) -> store::Result<T> {
        let sleepy = verb == self.sleepy.0 && key.starts_with(self.sleepy.1);
        self.pause().await;
        if sleepy {
            tokio::time::sleep(Duration::from_millis(self.random(200))).await;
        }
        let result = operation.await;
        self.log.lock().unwrap().push((verb.to_owned(), key.to_owned()));
        if matches!(verb, "put" | "delete") {
            let there: BTreeSet<String> = self.memory.keys().into_iter().collect();
            for (manifest, needs) in &self.needs {
                if there.contains(manifest) && needs.iter().any(|key| !there.contains(key)) {
                    self.dangling.lock().unwrap().push(format!("{manifest} after {verb} {key}"));
                }
            }
        }
        self.pause().await;
        if sleepy {
            tokio::time::sleep(Duration::from_millis(self.random(50))).await;
        }
        result
    }
}

/// Between which requests of one actor the others do most of their work.
const SLEEPY: [(&str, &str); 8] = [
    ("put", "layouts/"),
    ("put", "snapshots/"),
    ("put", "packs/"),
    ("list", ""),
    ("head", "gc/epoch"),
    ("delete", "packs/"),
    ("delete", "gc/intent"),
    ("none", ""),
];

#[async_trait]
impl Objects for Slow {
    fn describe(&self) -> String {
        "slow memory".to_owned()
    }
    async fn head(&self, key: &str) -> store::Result<Option<Meta>> {
        self.run("head", key, self.memory.head(key)).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> store::Result<Option<(Meta, ByteStream)>> {
        self.run("get", key, self.memory.get(key, range)).await
    }
    async fn put(&self, key: &str, body: Body, condition: Condition) -> store::Result<Meta> {
        self.run("put", key, self.memory.put(key, body, condition)).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> store::Result<Page> {
        self.run("list", prefix, self.memory.list(prefix, after)).await
    }
    async fn delete(&self, key: &str) -> store::Result<()> {
        self.run("delete", key, self.memory.delete(key)).await
    }
}

/// What each snapshot needs, as this cache packs it.
async fn needs(v: &Versions) -> BTreeMap<String, Vec<String>> {
    let mut needs = BTreeMap::new();
    for version in 0..3 {
        let memory = Memory::new();
        v.push(&Store::over(memory.clone()), version).await.unwrap();
        let keys = families(&memory);
        needs.insert(hex_key("snapshots", &v.digest(version)), keys);
    }
    needs
}

/// One interleaving. What came of it: pushes that ended well, that were busy, whether a gc died, objects removed.
async fn interleave(v: &Versions, needs: &BTreeMap<String, Vec<String>>, seed: u64) -> (u64, u64, bool, u64) {
    let memory = Memory::new();
    memory.set_clock(hours(0));
    let plain = Store::over(memory.clone());
    let slow = Arc::new(Slow {
        memory: memory.clone(),
        state: Mutex::new(seed),
        sleepy: SLEEPY[usize::try_from(seed).unwrap() % SLEEPY.len()],
        log: Mutex::default(),
        dangling: Mutex::default(),
        needs: needs.clone(),
    });
    let store = Store::over(slow.clone());
    for version in 0..2 {
        v.push(&plain, version).await.unwrap();
    }
    // Sometimes packs of the last version are there already, as orphans, or with an orphan of a layout.
    let orphans = slow.random(3);
    if orphans > 0 {
        v.push(&plain, 2).await.unwrap();
        memory.remove(&hex_key("snapshots", &v.digest(2)));
        if orphans == 1 {
            memory.remove(&snapshot::layout_key(&v.digest(2)));
        }
    }
    memory.set_clock(hours(100));
    // Without a grace, only the protocol protects.
    let grace = if slow.random(2) == 0 { Duration::ZERO } else { HOUR };
    let keep: BTreeSet<Digest> = [v.digest(0)].into();
    let dies_after = (slow.random(3) == 0).then(|| Duration::from_millis(slow.random(300)));
    let [begin_gc, begin_1, begin_2] =
        [slow.random(100), slow.random(250), slow.random(250)].map(Duration::from_millis);
    let nowhere = Events::nowhere();
    let collecting = async {
        tokio::time::sleep(begin_gc).await;
        let plan = gc::plan(&store, &keep, grace, &nowhere).await?;
        gc::collect(&store, &plan, &keep, &nowhere).await
    };
    let dying = async {
        match dies_after {
            Some(after) => tokio::time::timeout(begin_gc + after, collecting).await.ok(),
            None => Some(collecting.await),
        }
    };
    let push = async |begin: Duration, version: usize| {
        tokio::time::sleep(begin).await;
        v.push(&store, version).await
    };
    let [a, b, c] = [(); 3].map(|()| 1 + usize::try_from(slow.random(2)).unwrap());
    let (collected, first, second, third) =
        tokio::join!(dying, push(begin_1, a), push(begin_2, b), push(begin_1 + begin_2, c));
    let context = || {
        let log = slow.log.lock().unwrap();
        log.iter().map(|(verb, key)| format!("{verb} {key:.24}")).collect::<Vec<_>>().join("\n")
    };
    if let Some(Err(error)) = &collected {
        panic!("seed {seed}: {}", chain(error));
    }
    assert!(whole(&plain, &v.digest(0)).await, "seed {seed}: what is kept was removed\n{}", context());
    let (mut ended, mut busy) = (0, 0);
    // With no grace, a push that began before the plan is as if it had ended before it.
    let planned = {
        let log = slow.log.lock().unwrap();
        log.iter().position(|(verb, key)| verb == "list" && key == "claims/").unwrap_or(usize::MAX)
    };
    for (pushed, version) in [(&first, a), (&second, b), (&third, c)] {
        match pushed {
            Ok(_) => {
                ended += 1;
                let claim = hex_key("claims", &v.digest(version));
                let last = slow.log.lock().unwrap().iter().rposition(|(verb, key)| verb == "put" && *key == claim);
                let protected = grace > Duration::ZERO || last.is_some_and(|claimed| claimed > planned);
                let there = whole(&plain, &v.digest(version)).await;
                assert!(there || !protected, "seed {seed}: version {version} was lost\n{}", context());
                // If it is gone, it is gone as a whole.
                let manifest = hex_key("snapshots", &v.digest(version));
                assert!(there || !memory.keys().contains(&manifest), "seed {seed}: half a snapshot\n{}", context());
            }
            Err(Error::Busy { .. }) => busy += 1,
            Err(error) => panic!("seed {seed}: {}\n{}", chain(error), context()),
        }
    }
    if grace > Duration::ZERO {
        let dangling = slow.dangling.lock().unwrap();
        assert!(dangling.is_empty(), "seed {seed}: {dangling:?}\n{}", context());
    }
    // And what a dead gc left is put right by the next.
    memory.set_clock(hours(300));
    collect(&plain, &[v.digest(0)], HOUR).await.unwrap();
    assert_eq!(families(&memory), needs[&hex_key("snapshots", &v.digest(0))], "seed {seed}");
    let removed = {
        let log = slow.log.lock().unwrap();
        log.iter().filter(|(verb, key)| verb == "delete" && needs.values().flatten().any(|data| data == key)).count()
            as u64
    };
    (ended, busy, collected.is_none(), removed)
}

#[test]
fn nothing_is_lost_whatever_comes_between_a_gc_and_pushes() {
    let first: u64 = std::env::var("SNAPSHOT_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let rounds: u64 = std::env::var("SNAPSHOT_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(300);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let v = versions();
    let needs = runtime.block_on(needs(&v));
    let (mut ended, mut busy, mut deaths, mut removed) = (0, 0, 0, 0);
    let all = stream::iter(first..first + rounds).map(|seed| interleave(&v, &needs, seed)).buffer_unordered(24);
    for result in runtime.block_on(all.collect::<Vec<_>>()) {
        ended += result.0;
        busy += result.1;
        deaths += u64::from(result.2);
        removed += result.3;
    }
    println!(
        "gc: {rounds} interleavings from seed {first}: {ended} pushes, {busy} busy, {deaths} deaths, {removed} removed"
    );
    assert!(ended + busy == 3 * rounds && busy * 20 < rounds, "{busy} of {} pushes had to give up", 3 * rounds);
    assert!(rounds < 100 || (removed > rounds / 4 && deaths * 10 > rounds), "too little happened: {removed}, {deaths}");
}

#[test]
fn what_a_gc_removes_is_what_a_model_says() {
    use proptest::prelude::*;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let v = versions();
    let needs = runtime.block_on(needs(&v));
    // For each version: never pushed, or when; and whether it is kept; and the grace.
    let strategy = (prop::array::uniform3((0..4_u64, any::<bool>())), 0..4_u64);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(128));
    let outcome = runner.run(&strategy, |(versions, grace)| {
        let (expected, found) = runtime.block_on(async {
            let memory = Memory::new();
            let store = Store::over(memory.clone());
            let mut pushed: Vec<(u64, usize)> = versions
                .iter()
                .enumerate()
                .filter(|(_, (when, _))| *when > 0)
                .map(|(n, (when, _))| (*when, n))
                .collect();
            pushed.sort();
            for (when, version) in &pushed {
                memory.set_clock(hours(*when));
                v.push(&store, *version).await.unwrap();
            }
            // Half an hour after the last: hours of age are never equal to the grace.
            memory.set_clock(hours(4) + HOUR / 2);
            let keep: BTreeSet<Digest> =
                versions.iter().enumerate().filter(|(_, (_, keep))| *keep).map(|(n, _)| v.digest(n)).collect();
            let grace = HOUR * u32::try_from(grace).unwrap();
            let plan = gc::plan(&store, &keep, grace, &Events::nowhere()).await.unwrap();
            gc::collect(&store, &plan, &keep, &Events::nowhere()).await.unwrap();
            let mut expected = BTreeSet::new();
            for (when, version) in pushed {
                let young = HOUR * u32::try_from(4 - when).unwrap() + HOUR / 2 < grace;
                if young || versions[version].1 {
                    expected.extend(needs[&hex_key("snapshots", &v.digest(version))].clone());
                }
            }
            (expected.into_iter().collect::<Vec<_>>(), families(&memory))
        });
        prop_assert_eq!(expected, found);
        Ok(())
    });
    outcome.unwrap();
}

#[tokio::test]
async fn a_gc_of_the_embedded_store_leaves_what_can_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let location = store::Location::Embedded { directory: folder.path().join("store") };
    let store = Store::open(&location).await.unwrap();
    let v = versions();
    for version in 0..3 {
        v.push(&store, version).await.unwrap();
    }
    let (plan, _) = collect(&store, &[v.digest(0)], HOUR).await.unwrap();
    assert!(plan.remove.is_empty() && plan.young.objects > 0, "{plan:?}");
    let (plan, collected) = collect(&store, &[v.digest(0)], Duration::ZERO).await.unwrap();
    assert!(!plan.remove.is_empty());
    assert_eq!(collected.removed.objects, plan.remove.len() as u64);
    let there = Fixture::new();
    let to = there.path("restored");
    there.repository.restore(&store, &v.digest(0), &to, &Events::nowhere()).await.unwrap();
    assert_eq!(digest_of_tree(&to), v.digest(0));
    assert!(Path::new(&to).join("same").exists());
}

/// A store that from some moment on answers no request that changes a key with this beginning, and counts them.
struct Mute {
    memory: Arc<Memory>,
    key: &'static str,
    /// How long it is silent; then the request fails.
    silent: Duration,
    asked: Mutex<Vec<tokio::time::Instant>>,
}

impl Mute {
    async fn pass(&self, key: &str) -> store::Result<()> {
        if !key.starts_with(self.key) {
            return Ok(());
        }
        self.asked.lock().unwrap().push(tokio::time::Instant::now());
        tokio::time::sleep(self.silent).await;
        let (store, what) = ("memory".to_owned(), "does not answer in time".to_owned());
        Err(store::Error::Unavailable { store, what, again: store::Again::Unknown(None), source: None })
    }
}

#[async_trait]
impl Objects for Mute {
    fn describe(&self) -> String {
        "memory".to_owned()
    }
    async fn head(&self, key: &str) -> store::Result<Option<Meta>> {
        self.memory.head(key).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> store::Result<Option<(Meta, ByteStream)>> {
        self.memory.get(key, range).await
    }
    async fn put(&self, key: &str, body: Body, condition: Condition) -> store::Result<Meta> {
        self.pass(key).await?;
        self.memory.put(key, body, condition).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> store::Result<Page> {
        self.memory.list(prefix, after).await
    }
    async fn delete(&self, key: &str) -> store::Result<()> {
        self.pass(key).await?;
        self.memory.delete(key).await
    }
}

/// A gc sends nothing that changes the store when another may have its lease: neither late nor once more.
#[tokio::test(start_paused = true)]
async fn a_gc_that_is_not_answered_stops_while_its_lease_is_its_own() {
    let v = versions();
    for key in ["packs/", "snapshots/", "gc/intent", "gc/epoch"] {
        for silent in [Duration::from_secs(1), Duration::from_secs(5), HOUR] {
            let memory = Memory::new();
            memory.set_clock(hours(0));
            v.push(&Store::over(memory.clone()), 0).await.unwrap();
            memory.set_clock(hours(100));
            let mute = Arc::new(Mute { memory: memory.clone(), key, silent, asked: Mutex::default() });
            let settings = store::Settings { pause: Duration::from_millis(100), ..store::Settings::default() };
            let store = Store::over(store::decorate::Retry::new(mute.clone(), &settings));
            let failed = collect(&store, &[], HOUR).await.unwrap_err();
            assert_eq!(failed.class(), Class::Unavailable, "{key}: {failed}");
            let ended = tokio::time::Instant::now();
            let asked = mute.asked.lock().unwrap().clone();
            // A quarter of the time of a lease.
            let bound = Duration::from_millis(7500);
            assert!(ended - asked[0] <= bound + Duration::from_millis(100), "{key}: {:?}", ended - asked[0]);
            // What other pushes read is not written twice.
            assert!(key != "gc/epoch" || asked.len() == 1, "{key}: {} times", asked.len());
            // Manifests go before packs.
            assert!(key == "packs/" || whole(&Store::over(memory.clone()), &v.digest(0)).await, "{key}");
        }
    }
}

/// A store in which an object vanishes when the first manifest is removed.
struct Vanishing(Arc<Memory>, String);

#[async_trait]
impl Objects for Vanishing {
    fn describe(&self) -> String {
        self.0.describe()
    }
    async fn head(&self, key: &str) -> store::Result<Option<Meta>> {
        self.0.head(key).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> store::Result<Option<(Meta, ByteStream)>> {
        self.0.get(key, range).await
    }
    async fn put(&self, key: &str, body: Body, condition: Condition) -> store::Result<Meta> {
        self.0.put(key, body, condition).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> store::Result<Page> {
        self.0.list(prefix, after).await
    }
    async fn delete(&self, key: &str) -> store::Result<()> {
        if key.starts_with("snapshots/") {
            self.0.remove(&self.1);
        }
        self.0.delete(key).await
    }
}

#[tokio::test]
async fn a_gc_that_is_no_longer_sure_says_what_was_removed_until_then() {
    let memory = Memory::new();
    let v = versions();
    for pointer in &v.pointers {
        v.fixture.repository.push(&Store::over(memory.clone()), pointer, &v.fixture.events).await.unwrap();
    }
    let kept = v.digest(0);
    let store = Store::over(Arc::new(Vanishing(memory.clone(), hex_key("layouts", &kept))));
    let error = collect(&store, &[kept], Duration::ZERO).await.unwrap_err();
    assert!(matches!(&error, Error::Unsure { removed: 2, .. }), "{error:?}");
    assert!(!error.to_string().contains("nothing was removed") && error.to_string().contains("2 objects"), "{error}");
    let gone = |version| !memory.keys().contains(&hex_key("snapshots", &v.digest(version)));
    assert!(gone(1) && gone(2) && !gone(0));
}
