//! Damage, and who is blamed for it: what is noted of a store, what of the cache is put aside, what is the last copy.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fixture, chain, noise};
use domain::{Class, Digest};
use snapshot::{Error, Pointer};
use std::{fs, path::Path, sync::Arc};
use store::{Body, Condition, Objects, Store, testing::Memory};

/// A store value that knows nothing yet, as that of a new process.
fn over(memory: &Arc<Memory>) -> Store {
    Store::over(memory.clone())
}

fn packs(memory: &Memory) -> Vec<String> {
    memory.keys().into_iter().filter(|key| key.starts_with("packs/")).collect()
}

/// Two data sets in packs of their own, pushed, of which the first is known to be damaged there.
struct Noted {
    memory: Arc<Memory>,
    f: Fixture,
    a: Pointer,
    b: Pointer,
    pack_b: String,
}

async fn noted() -> Noted {
    let memory = Memory::new();
    let f = Fixture::new();
    f.write("data/a/x", noise(100_000, 1));
    f.write("data/b/x", noise(100_000, 2));
    let (a, b) = (f.add("data/a").pointer, f.add("data/b").pointer);
    f.repository.push(&over(&memory), &a, &f.events).await.unwrap();
    let pack_a = packs(&memory).remove(0);
    f.repository.push(&over(&memory), &b, &f.events).await.unwrap();
    let pack_b = packs(&memory).into_iter().find(|key| *key != pack_a).unwrap();
    memory.tamper(&pack_a, |bytes| bytes[100] ^= 1);
    hide(&f);
    f.repository.verify_remote(&over(&memory), &a.digest, &f.events).await.unwrap_err();
    Noted { memory, f, a, b, pack_b }
}

/// Without its packs the cache cannot heal anything.
fn hide(f: &Fixture) {
    fs::rename(f.path(".sealift/cache/packs"), f.path("packs")).unwrap();
}

fn show(f: &Fixture) {
    let _ = fs::remove_dir_all(f.path(".sealift/cache/packs"));
    fs::rename(f.path("packs"), f.path(".sealift/cache/packs")).unwrap();
}

async fn sent(noted: &Noted) -> bool {
    let Noted { memory, f, a, .. } = noted;
    !f.repository.push(&over(memory), a, &f.events).await.unwrap().already
}

#[tokio::test]
async fn a_fetch_that_fails_forgets_no_damage_that_was_noted() {
    let noted = noted().await;
    let Noted { memory, f, b, pack_b, .. } = &noted;
    memory.tamper(pack_b, |bytes| bytes[100] ^= 1);
    f.repository.fetch(&over(memory), &b.digest, &f.events).await.unwrap_err();
    show(f);
    assert!(sent(&noted).await);
    assert!(
        !f.repository.push(&over(memory), b, &f.events).await.unwrap().already,
        "that of the fetch is noted as well"
    );
    assert!(!sent(&noted).await, "what was sent is not noted any more");
    assert!(common::walk(&f.path(".sealift/cache/damaged")).is_empty());
}

#[tokio::test]
async fn damage_that_a_part_finds_is_noted() {
    let Noted { memory, f, b, pack_b, .. } = noted().await;
    memory.tamper(&pack_b, |bytes| bytes[100] ^= 1);
    fs::remove_dir_all(f.path("data/b")).unwrap();
    let parts = ["x".to_owned()];
    f.repository.pull_part(&over(&memory), &b, &parts, false, &f.events).await.unwrap_err();
    show(&f);
    assert!(!f.repository.push(&over(&memory), &b, &f.events).await.unwrap().already);
}

#[tokio::test]
async fn what_is_noted_while_a_push_runs_is_not_forgotten_when_it_ends() {
    let Noted { memory, f, a, b, .. } = noted().await;
    show(&f);
    // A push of the other data set, with a store value that recalled nothing: the note came since.
    let note = common::walk(&f.path(".sealift/cache/damaged")).remove(0);
    let text = fs::read_to_string(&note).unwrap();
    fs::remove_file(&note).unwrap();
    let store = Store::over(Arc::new(Writing(memory.clone(), note, text)));
    assert!(f.repository.push(&store, &b, &f.events).await.unwrap().already);
    assert!(!f.repository.push(&over(&memory), &a, &f.events).await.unwrap().already);
}

/// A store during whose first listing another process notes damage.
struct Writing(Arc<Memory>, std::path::PathBuf, String);

#[async_trait::async_trait]
impl Objects for Writing {
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
        self.0.put(key, body, condition).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> store::Result<store::Page> {
        fs::write(&self.1, &self.2).unwrap();
        self.0.list(prefix, after).await
    }
    async fn delete(&self, key: &str) -> store::Result<()> {
        self.0.delete(key).await
    }
}

#[tokio::test]
async fn whoever_names_a_snapshot_hears_of_damage_that_was_noted() {
    let Noted { memory, f, a, b, .. } = noted().await;
    let store = over(&memory);
    assert_eq!(snapshot::complete(&store, &a.digest).await.unwrap(), Vec::<String>::new(), "sizes tell nothing");
    let patience = std::time::Duration::from_secs(5);
    let missing = f.repository.complete(&over(&memory), &a.digest).await.unwrap();
    assert!(missing.len() == 1 && missing[0].starts_with("packs/"), "{missing:?}");
    let held = f.repository.hold(&over(&memory), &a.digest, patience, &f.events).await.unwrap();
    assert_eq!(held, missing);
    assert!(f.repository.complete(&over(&memory), &b.digest).await.unwrap().is_empty());
}

#[test]
fn data_whose_packs_the_cache_has_lost_is_not_overwritten() {
    let f = Fixture::new();
    f.write("data/raw/x", noise(100_000, 1));
    let old = f.add("data/raw").pointer;
    let before = f.cached_packs();
    f.write("data/raw/x", noise(100_001, 2));
    let new = f.add("data/raw").pointer;
    let pack = f.cached_packs().into_iter().find(|pack| !before.contains(pack)).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[50] ^= 1;
    fs::write(&pack, bytes).unwrap();
    f.repository.verify_local(&new, &f.events).unwrap_err();
    let error = f.repository.checkout(&old, false, &f.events).unwrap_err();
    assert!(matches!(&error, Error::LocalChanges { examples, .. } if examples == &["x"]), "{error}");
    assert_eq!(fs::read(f.path("data/raw/x")).unwrap(), noise(100_001, 2));
    // Taken into the cache again it is safe.
    f.add("data/raw");
    f.repository.checkout(&old, false, &f.events).unwrap();
}

#[tokio::test]
async fn a_part_whose_packs_the_cache_has_lost_is_not_overwritten() {
    let memory = Memory::new();
    let f = Fixture::new();
    f.write("data/raw/x", noise(100_000, 1));
    let old = f.add("data/raw").pointer;
    f.repository.push(&over(&memory), &old, &f.events).await.unwrap();
    f.write("data/raw/x", noise(100_001, 2));
    f.add("data/raw");
    fs::remove_dir_all(f.path(".sealift/cache/packs")).unwrap();
    let parts = ["x".to_owned()];
    let error = f.repository.pull_part(&over(&memory), &old, &parts, false, &f.events).await.unwrap_err();
    assert!(matches!(&error, Error::LocalChanges { .. }), "{error}");
    assert_eq!(fs::read(f.path("data/raw/x")).unwrap(), noise(100_001, 2));
    f.add("data/raw");
    f.repository.pull_part(&over(&memory), &old, &parts, false, &f.events).await.unwrap();
}

/// Two small files in one pack, and a layout with its checksum that says of the second that it begins one byte earlier.
async fn wrong_layout(f: &Fixture, memory: &Arc<Memory>) -> (Pointer, Vec<u8>) {
    f.write("data/raw/a", noise(1000, 1));
    f.write("data/raw/b", noise(1000, 2));
    let pointer = f.add("data/raw").pointer;
    f.repository.push(&over(memory), &pointer, &f.events).await.unwrap();
    let old = memory.contents()[&snapshot::layout_key(&pointer.digest)].clone();
    let mut frame = zstd::decode_all(&old[76..]).unwrap();
    // The table of one pack; the first file: one chunk, pack 0, offset 0, 1000 bytes; the second: one chunk, pack 0, offset.
    let place = 44 + 5 + 2;
    assert_eq!(frame[place..place + 2], [0xe8, 0x07]);
    frame[place] -= 1;
    let body = [pointer.digest.as_bytes().as_slice(), &zstd::encode_all(&frame[..], 1).unwrap()].concat();
    let mut bytes = b"SLLAYOUT\x01\0\0\0".to_vec();
    bytes.extend_from_slice(Digest::of(&body).as_bytes());
    bytes.extend(body);
    (pointer, bytes)
}

async fn spoil(memory: &Arc<Memory>, pointer: &Pointer, layout: Vec<u8>) {
    let key = snapshot::layout_key(&pointer.digest);
    memory.put(&key, Body::Bytes(layout.into()), Condition::None).await.unwrap();
}

#[tokio::test]
async fn a_wrong_layout_is_named_and_healed_by_whoever_has_a_right_one() {
    let memory = Memory::new();
    let f = Fixture::new();
    let (pointer, layout) = wrong_layout(&f, &memory).await;
    let key = snapshot::layout_key(&pointer.digest);
    let right = memory.contents()[&key].clone();
    // A verification heals it at once.
    spoil(&memory, &pointer, layout.clone()).await;
    f.repository.verify_remote(&over(&memory), &pointer.digest, &f.events).await.unwrap();
    assert_eq!(memory.contents()[&key], right);
    // When it cannot, it names the layout and not the pack, and the next push of another process sends it.
    spoil(&memory, &pointer, layout).await;
    let (layouts, aside) = (f.path(".sealift/cache/layouts"), f.path("layouts"));
    fs::rename(&layouts, &aside).unwrap();
    let error = f.repository.verify_remote(&over(&memory), &pointer.digest, &f.events).await.unwrap_err();
    let Error::Damaged { problems, .. } = &error else { panic!("{error}") };
    assert!(problems.iter().all(|problem| problem.starts_with(&key)), "{problems:?}");
    let _ = fs::remove_dir_all(&layouts);
    fs::rename(&aside, &layouts).unwrap();
    assert!(!f.repository.push(&over(&memory), &pointer, &f.events).await.unwrap().already);
    assert_eq!(memory.contents()[&key], right);
    f.repository.verify_remote(&over(&memory), &pointer.digest, &f.events).await.unwrap();
    assert!(f.repository.push(&over(&memory), &pointer, &f.events).await.unwrap().already);
}

#[tokio::test]
async fn a_wrong_layout_that_was_fetched_costs_no_pack_and_is_not_sent_back() {
    let memory = Memory::new();
    let (here, there) = (Fixture::new(), Fixture::new());
    let (pointer, layout) = wrong_layout(&here, &memory).await;
    spoil(&memory, &pointer, layout).await;
    let theirs = there.take_pointer(&pointer, "data/raw.snapshot.toml");
    let error = there.repository.pull(&over(&memory), &theirs, false, &there.events).await.unwrap_err();
    let key = snapshot::layout_key(&pointer.digest);
    assert!(matches!(&error, Error::Corrupt { object, .. } if *object == key), "{}", chain(&error));
    assert_eq!((error.class(), there.cached_packs().len()), (Class::Integrity, 1));
    // It has neither a right layout nor the data (the folder is empty).
    let error = there.repository.push(&over(&memory), &theirs, &there.events).await.unwrap_err();
    assert!(matches!(&error, Error::NotCached { .. } | Error::ChangedSinceAdd { .. }), "{}", chain(&error));
    let error = there.repository.verify_remote(&over(&memory), &pointer.digest, &there.events).await.unwrap_err();
    assert_eq!(error.class(), Class::Integrity);
    // With the data it makes one.
    for name in ["a", "b"] {
        there.write(&format!("data/raw/{name}"), fs::read(here.path("data/raw").join(name)).unwrap());
    }
    assert!(!there.repository.push(&over(&memory), &theirs, &there.events).await.unwrap().already);
    here.repository.verify_remote(&over(&memory), &pointer.digest, &here.events).await.unwrap();
}

#[tokio::test]
async fn a_wrong_layout_in_the_cache_costs_no_pack_and_is_fetched_again() {
    let memory = Memory::new();
    let f = Fixture::new();
    let (pointer, layout) = wrong_layout(&f, &memory).await;
    let pack = f.cached_packs().remove(0);
    let path = f.path(".sealift/cache").join(snapshot::layout_key(&pointer.digest));
    fs::write(&path, &layout).unwrap();
    fs::remove_dir_all(f.path("data/raw")).unwrap();
    let error = f.repository.checkout(&pointer, false, &f.events).unwrap_err();
    assert!(matches!(&error, Error::CachedLayout { .. }), "{}", chain(&error));
    assert_eq!(error.class(), Class::Integrity);
    assert!(pack.exists() && !path.exists());
    for parts in [None, Some(["b".to_owned()])] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &layout).unwrap();
        let _ = fs::remove_dir_all(f.path("data/raw"));
        let done = match &parts {
            None => f.repository.pull(&over(&memory), &pointer, false, &f.events).await,
            Some(parts) => f.repository.pull_part(&over(&memory), &pointer, parts, false, &f.events).await,
        };
        done.unwrap();
        assert_eq!(fs::read(f.path("data/raw/b")).unwrap(), noise(1000, 2));
        assert!(pack.exists());
    }
    assert_eq!(f.repository.add(Path::new("data/raw"), &f.events).unwrap().new_bytes, 0);
}
