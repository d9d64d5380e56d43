//! Pulling a part of a snapshot, and what a cache can lose.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fixture, noise, one_of_everything, walk};
use domain::Class;
use snapshot::{Error, Pointer, State, gc::Plan};
use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, sync::Arc};
use store::{Objects, Store, testing::Memory};

const POINTER: &str = "data/raw.snapshot.toml";

struct World {
    memory: Arc<Memory>,
    store: Store,
    here: Fixture,
    pointer: Pointer,
}

/// A snapshot with one of everything and three large files, each in packs of its own, in a store.
async fn world() -> World {
    let memory = Memory::new();
    let here = Fixture::new();
    one_of_everything(&here);
    for number in 1..4 {
        here.write(&format!("data/raw/big/{number}/bytes"), noise(17_000_000, 60 + number));
    }
    let pointer = here.add("data/raw").pointer;
    let store = Store::over(memory.clone());
    here.repository.push(&store, &pointer, &here.events).await.unwrap();
    World { memory, store, here, pointer }
}

async fn pull(world: &World, there: &Fixture, parts: &[&str], force: bool) -> snapshot::Result<snapshot::Checkout> {
    let pointer = there.take_pointer(&world.pointer, POINTER);
    let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
    there.repository.pull_part(&world.store, &pointer, &parts, force, &there.events).await
}

#[tokio::test]
async fn a_part_brings_what_lies_below_it_and_fetches_only_its_packs() {
    let world = world().await;
    let there = Fixture::new();
    let done = pull(&world, &there, &["big/2"], false).await.unwrap();
    assert_eq!((done.written, done.bytes, done.unchanged, done.removed), (1, 17_000_000, 0, 0));
    let files: Vec<_> = walk(&there.path("data/raw")).into_iter().filter(|path| path.is_file()).collect();
    assert_eq!(files, [there.path("data/raw/big/2/bytes")]);
    assert!(fs::read(there.path("data/raw/big/2/bytes")).unwrap() == noise(17_000_000, 62));
    let all = world.memory.keys().iter().filter(|key| key.starts_with("packs/")).count();
    let fetched = there.cached_packs().len();
    assert!(all >= 4 && fetched < all && fetched <= 3, "{fetched} of {all} packs");

    // Several parts, one in another, a single file, a link, an empty folder; a slash at the end.
    let parts = ["deep/", "deep/er", "run.sh", "link", "nothing", "a.csv"];
    let done = pull(&world, &there, &parts, false).await.unwrap();
    assert_eq!((done.written, done.unchanged), (5, 0));
    assert_eq!(fs::read_to_string(there.path("data/raw/deep/er/and/deeper")).unwrap(), "deep");
    assert_eq!(fs::metadata(there.path("data/raw/run.sh")).unwrap().permissions().mode() & 0o100, 0o100);
    assert_eq!(fs::read_link(there.path("data/raw/link")).unwrap().to_str(), Some("a.csv"));
    assert!(there.path("data/raw/nothing/here").is_dir());
    let again = pull(&world, &there, &parts, false).await.unwrap();
    assert_eq!((again.written, again.unchanged), (0, 5));
    assert!(walk(&there.path(".sealift/cache/tmp")).is_empty(), "nothing temporary is left");

    // The rest by an ordinary pull, and everything together is the snapshot.
    let State::Modified { added, removed, changed } = there.state(POINTER) else { panic!("it is only a part") };
    assert!(added.is_empty() && changed.is_empty() && removed.len() > 5, "{added:?} {changed:?}");
    let theirs = there.take_pointer(&world.pointer, POINTER);
    there.repository.pull(&world.store, &theirs, false, &there.events).await.unwrap();
    assert_eq!(there.state(POINTER), State::Clean);
    let all = pull(&world, &there, &["big", "a-b"], false).await.unwrap();
    assert_eq!((all.written, all.unchanged), (0, 4));
    assert_eq!(there.state(POINTER), State::Clean);
}

#[tokio::test]
async fn what_is_no_part_of_the_data_is_refused_by_name() {
    let world = world().await;
    let there = Fixture::new();
    for part in ["big/4", "bi", "a.csv/x", "nothing/here/more"] {
        let error = pull(&world, &there, &["deep", part], false).await.unwrap_err();
        assert!(matches!(&error, Error::NoSuchPart { part: named, .. } if named == part), "{error}");
        assert_eq!(error.class(), Class::NotFound);
    }
    for part in ["", "/", "/etc", "../x", "big/../..", "a//b"] {
        let error = pull(&world, &there, &[part], false).await.unwrap_err();
        assert_eq!(error.class(), Class::BadInput, "{part}: {error}");
    }
    assert!(!there.path("data/raw").exists());
}

#[tokio::test]
async fn local_changes_in_a_part_are_kept_and_elsewhere_not_looked_at() {
    let world = world().await;
    let there = Fixture::new();
    there.write("data/raw/deep/er/and/deeper", "mine");
    there.write("data/raw/deep/extra", "also mine");
    there.write("data/raw/a.csv", "mine, elsewhere");
    let error = pull(&world, &there, &["deep"], false).await.unwrap_err();
    assert!(matches!(&error, Error::LocalChanges { examples, .. } if examples == &["deep/er/and/deeper"]), "{error}");
    assert_eq!(fs::read_to_string(there.path("data/raw/deep/er/and/deeper")).unwrap(), "mine");
    fs::remove_file(there.path("data/raw/deep/er/and/deeper")).unwrap();
    let done = pull(&world, &there, &["deep"], false).await.unwrap();
    assert_eq!((done.written, done.kept.as_slice()), (1, &["deep/extra".to_owned()][..]));
    there.write("data/raw/deep/er/and/deeper", "mine");
    let done = pull(&world, &there, &["deep"], true).await.unwrap();
    assert_eq!((done.written, done.removed), (1, 1));
    assert_eq!(fs::read_to_string(there.path("data/raw/deep/er/and/deeper")).unwrap(), "deep");
    assert!(!there.path("data/raw/deep/extra").exists());
    assert_eq!(fs::read_to_string(there.path("data/raw/a.csv")).unwrap(), "mine, elsewhere");
}

#[tokio::test]
async fn what_is_in_the_way_goes_with_force_only_and_nothing_is_written_through_a_link() {
    let world = world().await;
    let there = Fixture::new();
    let outside = there.path("outside");
    fs::create_dir_all(outside.join("er/and")).unwrap();
    fs::create_dir_all(there.path("data/raw")).unwrap();
    // A folder where a file must be.
    there.write("data/raw/a.csv/inside", "mine");
    for part in ["deep", "deep/er/and/deeper", "a.csv"] {
        let _ = fs::remove_dir_all(there.path("data/raw/deep"));
        std::os::unix::fs::symlink(&outside, there.path("data/raw/deep")).unwrap();
        let error = pull(&world, &there, &[part], false).await.unwrap_err();
        assert!(matches!(error, Error::LocalChanges { .. }), "{part}: {error}");
        pull(&world, &there, &[part], true).await.unwrap();
        if part != "a.csv" {
            assert_eq!(fs::read_to_string(there.path("data/raw/deep/er/and/deeper")).unwrap(), "deep");
            assert!(!there.path("data/raw/deep").is_symlink());
        }
    }
    assert_eq!(walk(&outside).iter().filter(|path| path.is_file()).count(), 0);
    assert!(there.path("data/raw/deep").is_symlink(), "a part leaves alone what is elsewhere");
    assert!(there.path("data/raw/a.csv").is_file());
    // The data path itself is never replaced by a part.
    let other = Fixture::new();
    other.write("data/raw", "a file");
    let error = pull(&world, &other, &["deep"], true).await.unwrap_err();
    assert_eq!(error.class(), Class::BadInput, "{error}");
}

#[tokio::test]
async fn files_that_the_snapshot_before_had_are_brought_up_to_date_without_force() {
    let world = world().await;
    let f = &world.here;
    f.write("data/raw/deep/er/and/deeper", "newer");
    f.write("data/raw/a-b/x", "newer");
    let newer = f.add("data/raw").pointer;
    f.repository.push(&world.store, &newer, &f.events).await.unwrap();
    f.repository.checkout(&world.pointer, false, &f.events).unwrap();
    let done = f.repository.pull_part(&world.store, &newer, &["deep".to_owned()], false, &f.events).await.unwrap();
    assert_eq!(done.written, 1);
    assert_eq!(fs::read_to_string(f.path("data/raw/deep/er/and/deeper")).unwrap(), "newer");
    assert_eq!(fs::read_to_string(f.path("data/raw/a-b/x")).unwrap(), "sorted before a/");
}

#[tokio::test]
async fn a_damaged_pack_of_a_part_is_fetched_again_or_named() {
    let world = world().await;
    let there = Fixture::new();
    pull(&world, &there, &["big/2"], false).await.unwrap();
    for pack in there.cached_packs() {
        let length = fs::metadata(&pack).unwrap().len();
        fs::write(&pack, vec![0; usize::try_from(length).unwrap()]).unwrap();
    }
    fs::remove_dir_all(there.path("data/raw")).unwrap();
    pull(&world, &there, &["big/2"], false).await.unwrap();
    assert!(fs::read(there.path("data/raw/big/2/bytes")).unwrap() == noise(17_000_000, 62));
    for key in world.memory.keys().into_iter().filter(|key| key.starts_with("packs/")) {
        world.memory.tamper(&key, |bytes| bytes[100] ^= 1);
    }
    let fresh = Fixture::new();
    let error = pull(&world, &fresh, &["big/2"], false).await.unwrap_err();
    assert_eq!(error.class(), Class::Integrity, "{error}");
    assert!(!fresh.path("data/raw").exists());
}

#[tokio::test]
async fn a_snapshot_of_one_file_has_that_file_as_its_only_part() {
    let memory = Memory::new();
    let store = Store::over(memory.clone());
    let (here, there) = (Fixture::new(), Fixture::new());
    here.write("data/one.csv", "1,2");
    let pointer = here.add("data/one.csv").pointer;
    here.repository.push(&store, &pointer, &here.events).await.unwrap();
    let theirs = there.take_pointer(&pointer, "data/one.csv.snapshot.toml");
    let parts = ["one.csv".to_owned()];
    let done = there.repository.pull_part(&store, &theirs, &parts, false, &there.events).await.unwrap();
    assert_eq!(done.written, 1);
    assert_eq!(fs::read_to_string(there.path("data/one.csv")).unwrap(), "1,2");
}

#[tokio::test]
async fn nothing_is_fetched_into_a_git_folder() {
    let world = world().await;
    let there = Fixture::new();
    fs::create_dir_all(there.path(".git")).unwrap();
    let hostile = Pointer { path: ".git".into(), at: there.path("raw.snapshot.toml"), ..world.pointer.clone() };
    let parts = ["run.sh".to_owned()];
    let errors = [
        there.repository.pull_part(&world.store, &hostile, &parts, true, &there.events).await.unwrap_err(),
        there.repository.pull(&world.store, &hostile, true, &there.events).await.unwrap_err(),
        there
            .repository
            .restore(&world.store, &hostile.digest, &there.path(".git/hooks"), &there.events)
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().ends_with("lies in a .git folder"), "{error}");
    }
    assert!(walk(&there.path(".git")).is_empty());
}

fn keys(plan: &Plan) -> Vec<&str> {
    plan.remove.iter().map(|object| object.key.as_str()).collect()
}

#[tokio::test]
async fn a_cache_loses_what_no_kept_snapshot_needs() {
    let memory = Memory::new();
    let store = Store::over(memory.clone());
    let f = Fixture::new();
    let mut pointers = Vec::new();
    for version in 0..3_u64 {
        f.write("data/raw/same", noise(5_000_000, 70));
        f.write("data/raw/own", noise(1_000_000, 71 + version));
        pointers.push(f.add("data/raw").pointer);
    }
    let keep = BTreeSet::from([pointers[0].digest]);
    let plan = f.repository.plan_cache_gc(&keep).unwrap();
    // The last one stays, since it is what is there; what the second alone has can go.
    let hex = pointers[1].digest.hex();
    assert_eq!(plan.remove.len(), 3, "{:?}", keys(&plan));
    assert!(keys(&plan)[0].ends_with(&hex) && keys(&plan)[1].ends_with(&hex), "{:?}", keys(&plan));
    assert!(plan.remove_bytes > 1_000_000 && plan.remove_bytes < 1_100_000, "{plan:?}");
    assert_eq!(plan.kept_snapshots, 1);
    assert!(plan.remove.iter().all(|object| f.has_cached(&object.key)), "a plan removes nothing");
    // What is needed again since the plan was made stays.
    let later = plan.clone();
    let collected = f.repository.collect_cache(&plan, &f.events).unwrap();
    assert_eq!((collected.removed.objects, collected.removed.bytes), (3, plan.remove_bytes));
    assert!(plan.remove.iter().all(|object| !f.has_cached(&object.key)));
    f.write("data/raw/own", noise(1_000_000, 72));
    assert_eq!(f.add("data/raw").pointer.digest, pointers[1].digest);
    let collected = f.repository.collect_cache(&later, &f.events).unwrap();
    assert_eq!((collected.removed.objects, collected.spared.objects), (0, 3));
    for pointer in [&pointers[0], &pointers[1]] {
        fs::remove_dir_all(f.path("data/raw")).unwrap();
        f.repository.checkout(pointer, false, &f.events).unwrap();
    }
    // A kept snapshot whose packs are not known: nothing may go.
    let hex = pointers[0].digest.hex();
    fs::remove_file(f.path(format!(".sealift/cache/layouts/{}/{hex}", &hex[..2]))).unwrap();
    let error = f.repository.plan_cache_gc(&keep).unwrap_err();
    assert!(matches!(&error, Error::Unsure { object, .. } if object.contains(&hex)), "{error}");
    // One that was never here is no reason to keep everything.
    let nowhere = BTreeSet::from([domain::Digest::of("elsewhere")]);
    let plan = f.repository.plan_cache_gc(&nowhere).unwrap();
    assert_eq!(plan.absent, nowhere.into_iter().collect::<Vec<_>>());
    assert_eq!(memory.list("", None).await.unwrap().entries.len(), 0);
    drop(store);
}

#[tokio::test]
async fn a_plan_that_names_something_else_removes_nothing() {
    let f = Fixture::new();
    one_of_everything(&f);
    f.add("data/raw");
    let mut plan = f.repository.plan_cache_gc(&BTreeSet::new()).unwrap();
    assert!(plan.remove.is_empty(), "{:?}", keys(&plan));
    for key in ["../../../data/raw/a.csv", "lock", "stat/x", "packs/ab"] {
        plan.remove.push(snapshot::gc::Object { key: key.to_owned(), size: 1, why: "test" });
    }
    assert_eq!(f.repository.collect_cache(&plan, &f.events).unwrap().removed.objects, 0);
    assert_eq!(f.state(POINTER), State::Clean);
}
