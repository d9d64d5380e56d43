//! Push, pull, restore and verification against stores in memory, damaged and interrupted ones, and the embedded one.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fixture, chain, digest_of_tree, noise, one_of_everything};
use domain::{Class, Digest};
use snapshot::{Error, Pointer, State, complete};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};
use store::{
    Location, Objects, Store,
    testing::{Faults, Faulty, Memory, Mode},
};

const POINTER: &str = "data/raw.snapshot.toml";

fn store_over(memory: &Arc<Memory>) -> Store {
    Store::over(memory.clone())
}

/// What is stored of snapshots, without the notes that pushes leave for a gc.
fn data(memory: &Memory) -> std::collections::BTreeMap<String, Vec<u8>> {
    let ours = |key: &String| ["packs/", "layouts/", "snapshots/"].iter().any(|family| key.starts_with(family));
    memory.contents().into_iter().filter(|(key, _)| ours(key)).map(|(key, bytes)| (key, bytes.to_vec())).collect()
}

fn keys(memory: &Memory) -> Vec<String> {
    data(memory).into_keys().collect()
}

async fn round_trip(store: &Store) {
    let (here, there) = (Fixture::new(), Fixture::new());
    one_of_everything(&here);
    let pointer = here.add("data/raw").pointer;
    assert!(!complete(store, &pointer.digest).await.unwrap().is_empty());
    let pushed = here.repository.push(store, &pointer, &here.events).await.unwrap();
    assert_eq!((pushed.uploaded_packs, pushed.already), (1, false));
    assert!(here.repository.push(store, &pointer, &here.events).await.unwrap().already);
    assert_eq!(complete(store, &pointer.digest).await.unwrap(), Vec::<String>::new());

    let theirs = there.take_pointer(&pointer, POINTER);
    let done = there.repository.pull(store, &theirs, false, &there.events).await.unwrap();
    assert_eq!((done.written, done.bytes), (13, pointer.bytes));
    assert_eq!(there.state(POINTER), State::Clean);
    assert_eq!(digest_of_tree(&there.path("data/raw")), pointer.digest);
    let mode = fs::metadata(there.path("data/raw/run.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o100, 0o100);
    let verified = there.repository.verify_remote(store, &pointer.digest, &there.events).await.unwrap();
    assert_eq!((verified.files, verified.bytes, verified.packs), (10, pointer.bytes, 1));
    there.repository.verify_local(&theirs, &there.events).unwrap();

    let to = there.path("restored");
    there.repository.restore(store, &pointer.digest, &to, &there.events).await.unwrap();
    assert_eq!(digest_of_tree(&to), pointer.digest);
    let error = there.repository.restore(store, &pointer.digest, &to, &there.events).await.unwrap_err();
    assert_eq!(error.class(), Class::Usage);
}

#[tokio::test]
async fn what_is_pushed_can_be_pulled_elsewhere() {
    round_trip(&store_over(&Memory::new())).await;
    round_trip(&store_over(&Memory::with_page(2))).await;
}

#[tokio::test]
async fn what_is_pushed_to_the_embedded_store_can_be_pulled_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::Embedded { directory: folder.path().join("store") };
    round_trip(&Store::open(&location).await.unwrap()).await;
}

#[tokio::test]
async fn one_file_is_a_snapshot_too() {
    let memory = Memory::new();
    let (here, there) = (Fixture::new(), Fixture::new());
    here.write("data/one.csv", noise(700_000, 4));
    let pointer = here.add("data/one.csv").pointer;
    here.repository.push(&store_over(&memory), &pointer, &here.events).await.unwrap();
    // Under another name the data is still the data.
    let mut renamed = pointer.clone();
    renamed.path = "two.csv".into();
    let theirs = there.take_pointer(&renamed, "data/two.csv.snapshot.toml");
    there.repository.pull(&store_over(&memory), &theirs, false, &there.events).await.unwrap();
    assert_eq!(there.state("data/two.csv.snapshot.toml"), State::Clean);
    assert_eq!(fs::read(there.path("data/two.csv")).unwrap(), noise(700_000, 4));
    there.repository.restore(&store_over(&memory), &pointer.digest, &there.path("out"), &there.events).await.unwrap();
    assert_eq!(fs::read(there.path("out/one.csv")).unwrap(), noise(700_000, 4));
}

#[tokio::test]
async fn a_push_of_nothing_new_asks_once() {
    let faults = Faults::new();
    let f = Fixture::new();
    one_of_everything(&f);
    f.write("data/raw/more", noise(20_000_000, 5));
    let pointer = f.add("data/raw").pointer;
    let store = Store::over(Faulty::new(Memory::new(), faults.clone()));
    faults.arm(0, Mode::Before);
    let pushed = f.repository.push(&store, &pointer, &f.events).await.unwrap();
    assert_eq!(pushed.uploaded_packs, 2);
    assert_eq!(
        faults.seen(),
        8,
        "claim, listing, two packs, layout, manifest, and a question before and after the last"
    );
    faults.arm(0, Mode::Before);
    assert!(f.repository.push(&store, &pointer, &f.events).await.unwrap().already);
    assert_eq!(faults.seen(), 2, "claim and listing");
}

#[tokio::test]
async fn a_push_of_nothing_new_to_a_large_store_asks_for_what_one_page_does_not_tell() {
    let (memory, faults) = (Memory::new(), Faults::new());
    let f = Fixture::new();
    f.write("data/raw/some", noise(40_000_000, 50));
    let pointer = f.add("data/raw").pointer;
    let store = Store::over(Faulty::new(memory.clone(), faults.clone()));
    f.repository.push(&store, &pointer, &f.events).await.unwrap();
    let fill = |family: &'static str, count: u32| {
        let memory = memory.clone();
        async move {
            for number in 0..count {
                let hex = Digest::of(format!("{family}{number}")).hex();
                let body = store::Body::Bytes(hex.clone().into());
                memory.put(&format!("{family}/{}/{hex}", &hex[..2]), body, store::Condition::None).await.unwrap();
            }
        }
    };
    // What one page tells is asked once, however much there is elsewhere.
    fill("blobs/sha256", 10_000).await;
    fill("zzz", 1_000).await;
    faults.arm(0, Mode::Before);
    assert!(f.repository.push(&store, &pointer, &f.events).await.unwrap().already);
    assert_eq!(faults.seen(), 2);
    // Where it does not reach, one question for each object.
    fill("layouts", 2_000).await;
    fill("packs", 10_000).await;
    faults.arm(0, Mode::Before);
    assert!(f.repository.push(&store, &pointer, &f.events).await.unwrap().already);
    assert!(faults.seen() <= 2 + 3 + 2, "{} requests for three packs, layout and manifest", faults.seen());
    // And what is gone is noticed.
    for key in keys(&memory).into_iter().filter(|key| f.has_cached(key)) {
        let whole = data(&memory);
        memory.remove(&key);
        assert!(!f.repository.push(&store, &pointer, &f.events).await.unwrap().already, "{key}");
        assert!(data(&memory) == whole, "{key}");
    }
}

#[tokio::test]
async fn twenty_thousand_small_files_are_pushed_in_thirty_requests() {
    let faults = Faults::new();
    let f = Fixture::new();
    let bytes = noise(11_000, 51);
    for number in 0..20_000_u32 {
        let mut file = bytes[..1_000 + (number as usize * 37) % 10_000].to_vec();
        file[..4].copy_from_slice(&number.to_le_bytes());
        if number.is_multiple_of(100) {
            fs::create_dir_all(f.path(format!("data/raw/{}", number / 100))).unwrap();
        }
        fs::write(f.path(format!("data/raw/{}/{number}", number / 100)), file).unwrap();
    }
    let pointer = f.add("data/raw").pointer;
    let store = Store::over(Faulty::new(Memory::new(), faults.clone()));
    faults.arm(0, Mode::Before);
    f.repository.push(&store, &pointer, &f.events).await.unwrap();
    assert!(faults.seen() <= 30, "{} requests", faults.seen());
    faults.arm(0, Mode::Before);
    assert!(f.repository.push(&store, &pointer, &f.events).await.unwrap().already);
    assert!(faults.seen() <= 2, "{} requests", faults.seen());
}

#[tokio::test]
async fn several_remotes_each_get_everything_and_help_each_other() {
    let (first, second) = (Memory::new(), Memory::new());
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    for memory in [&first, &second] {
        assert!(!f.repository.push(&store_over(memory), &pointer, &f.events).await.unwrap().already);
    }
    assert_eq!(data(&first), data(&second));
    // Damage in one is healed from the other, where no cache has it.
    for key in keys(&first) {
        let whole = data(&first);
        first.tamper(&key, |bytes| bytes[100] ^= 1);
        let other = Fixture::new();
        let copies = [store_over(&second)];
        let verified = other.repository.verify_and_heal(&store_over(&first), &pointer.digest, &[], &other.events).await;
        assert_eq!(verified.unwrap_err().class(), Class::Integrity);
        other.repository.verify_and_heal(&store_over(&first), &pointer.digest, &copies, &other.events).await.unwrap();
        assert_eq!(data(&first), whole, "{key}");
    }
}

#[tokio::test]
async fn what_a_verification_found_damaged_is_sent_by_the_next_push_of_another_process() {
    let memory = Memory::new();
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
    let whole = data(&memory);
    let packs = f.path(".sealift/cache/packs");
    for key in keys(&memory) {
        memory.tamper(&key, |bytes| bytes[100] ^= 1);
        // The cache cannot help now: the packs are elsewhere, and the manifest too.
        fs::rename(&packs, f.path("packs")).unwrap();
        fs::rename(f.path(".sealift/cache/snapshots"), f.path("snapshots")).unwrap();
        f.repository.verify_remote(&store_over(&memory), &pointer.digest, &f.events).await.unwrap_err();
        fs::rename(f.path("packs"), &packs).unwrap();
        fs::rename(f.path("snapshots"), f.path(".sealift/cache/snapshots")).unwrap();
        // A new store value knows nothing by itself.
        let pushed = f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
        assert!(!pushed.already, "{key}");
        assert_eq!(data(&memory), whole, "{key}");
        assert!(f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap().already, "{key}");
    }
}

#[tokio::test]
async fn a_verification_needs_room_for_a_few_packs_only_and_names_every_damaged_object() {
    let memory = Memory::new();
    let f = Fixture::new();
    // More packs than stay on the disk, of which the newest share chunks with the oldest.
    let mut bytes = noise(260_000_000, 52);
    f.write("data/raw/a", &bytes);
    f.add("data/raw");
    bytes.splice(130_000_000..130_000_000, [7; 100]);
    f.write("data/raw/b", &bytes);
    f.write("data/raw/z", "small");
    drop(bytes);
    let pointer = f.add("data/raw").pointer;
    f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
    let most = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (seen, there) = (most.clone(), Fixture::new());
    let folder = there.path(".sealift/cache");
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let events = domain::Events::new(Watch(Box::new(move || {
        if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed).is_multiple_of(50) {
            let sizes =
                common::walk(&folder).into_iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len());
            seen.fetch_max(sizes.sum(), std::sync::atomic::Ordering::Relaxed);
        }
    })));
    let verified = there.repository.verify_remote(&store_over(&memory), &pointer.digest, &events).await.unwrap();
    assert_eq!((verified.files, verified.bytes), (3, pointer.bytes));
    assert!(verified.packs > 16, "{verified:?}");
    // Named files alone: those that are open have no name and are at most twelve.
    let most = most.load(std::sync::atomic::Ordering::Relaxed);
    assert!(most < 120_000_000, "{most} bytes were in the cache's folder");
    let packs: Vec<String> = keys(&memory).into_iter().filter(|key| key.starts_with("packs/")).collect();
    memory.tamper(&packs[3], |bytes| bytes[100] ^= 1);
    memory.remove(&packs[15]);
    let error = there.repository.verify_remote(&store_over(&memory), &pointer.digest, &there.events).await.unwrap_err();
    let Error::Damaged { problems, .. } = &error else { panic!("{error}") };
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains(&packs[3])), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains(&packs[15])), "{problems:?}");
}

#[tokio::test]
async fn snapshots_share_packs_between_versions_and_components() {
    let memory = Memory::new();
    let f = Fixture::new();
    f.write("data/raw/large", noise(20_000_000, 53));
    f.write("other/data/large", noise(20_000_000, 53));
    f.write("other/data/more", "another component has the same bytes");
    let (raw, other) = (f.add("data/raw").pointer, f.add("other/data").pointer);
    f.repository.push(&store_over(&memory), &raw, &f.events).await.unwrap();
    let pushed = f.repository.push(&store_over(&memory), &other, &f.events).await.unwrap();
    assert!(pushed.uploaded_packs == 1 && pushed.uploaded_bytes < 20_000, "{pushed:?}");
}

#[tokio::test]
async fn snapshots_are_compared_out_of_the_cache_or_of_the_store() {
    let memory = Memory::new();
    let f = Fixture::new();
    one_of_everything(&f);
    let old = f.add("data/raw").pointer;
    f.repository.push(&store_over(&memory), &old, &f.events).await.unwrap();
    fs::remove_file(f.path("data/raw/empty")).unwrap();
    f.write("data/raw/a.csv", "changed");
    f.write("data/raw/zz", "new");
    let new = f.add("data/raw").pointer;
    f.repository.push(&store_over(&memory), &new, &f.events).await.unwrap();
    let bare = Fixture::new();
    let store = store_over(&memory);
    let expected = snapshot::Diff {
        added: vec![b"zz".to_vec()],
        removed: vec![b"empty".to_vec()],
        changed: vec![b"a.csv".to_vec()],
    };
    let here = f.repository.compare(None, &old.digest, &new.digest, &f.events).await.unwrap();
    let there = bare.repository.compare(Some(&store), &old.digest, &new.digest, &f.events).await.unwrap();
    assert_eq!((&here, &there), (&expected, &expected));
    assert!(bare.repository.manifest(&old.digest).unwrap().is_none(), "nothing half is left in the cache");
    let same = f.repository.compare(None, &old.digest, &old.digest, &f.events).await.unwrap();
    assert!(same.is_empty());
    let error = bare.repository.compare(None, &old.digest, &new.digest, &f.events).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
}

#[tokio::test]
async fn a_small_insert_sends_little() {
    let memory = Memory::new();
    let f = Fixture::new();
    let mut bytes = noise(24_000_000, 6);
    f.write("data/raw/large", &bytes);
    let pointer = f.add("data/raw").pointer;
    f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
    bytes.splice(11_000_000..11_000_000, [7; 100]);
    f.write("data/raw/large", &bytes);
    let pointer = f.add("data/raw").pointer;
    let pushed = f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
    assert!(pushed.uploaded_bytes < 1_500_000, "{pushed:?}");
    let to = f.path("restored");
    let other = Fixture::new();
    other.repository.restore(&store_over(&memory), &pointer.digest, &to, &f.events).await.unwrap();
    assert!(fs::read(to.join("large")).unwrap() == bytes);
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_named_and_healing_heals() {
    let memory = Memory::new();
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
    let mut tried = 0;
    for (key, bytes) in data(&memory) {
        for position in [0, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
            let there = Fixture::new();
            let theirs = there.take_pointer(&pointer, POINTER);
            memory.tamper(&key, |bytes| bytes[position] ^= 0x10);
            let bare = Fixture::new();
            let verified = bare.repository.verify_remote(&store_over(&memory), &pointer.digest, &f.events).await;
            let error = verified.unwrap_err();
            assert_eq!(error.class(), Class::Integrity, "{key}: {error}");
            assert!(chain(&error).contains(&key), "{key}: {}", chain(&error));
            let error = there.repository.pull(&store_over(&memory), &theirs, false, &there.events).await.unwrap_err();
            assert_eq!(error.class(), Class::Integrity, "{key}: {error}");
            assert!(chain(&error).contains(&key), "{key}: {}", chain(&error));
            assert!(!there.path("data/raw").exists());
            memory.tamper(&key, |bytes| bytes[position] ^= 0x10);
            there.repository.pull(&store_over(&memory), &theirs, false, &there.events).await.unwrap();
            assert_eq!(there.state(POINTER), State::Clean);
            tried += 1;
        }
    }
    assert_eq!(tried, 12, "pack, layout and manifest");
}

/// Keeps the warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<std::sync::Mutex<Vec<String>>>);

impl domain::EventSink for Warnings {
    fn emit(&self, event: domain::Event) {
        if let domain::Event::Warning { text } = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

#[tokio::test]
async fn damage_of_the_right_size_is_healed_by_a_verification_or_by_who_found_it() {
    let memory = Memory::new();
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    // What was never pushed is not pushed by a verification.
    let store = store_over(&memory);
    f.repository.verify_remote(&store, &pointer.digest, &f.events).await.unwrap_err();
    assert_eq!(keys(&memory), Vec::<String>::new());
    f.repository.push(&store, &pointer, &f.events).await.unwrap();
    let whole = data(&memory);
    for key in keys(&memory) {
        let warnings = Warnings::default();
        let events = domain::Events::new(warnings.clone());
        memory.tamper(&key, |bytes| bytes[100] ^= 0x10);
        f.repository.verify_remote(&store_over(&memory), &pointer.digest, &events).await.unwrap();
        assert_eq!(data(&memory), whole, "{key}");
        let said = warnings.0.lock().unwrap().join("\n");
        assert!(said.contains(&key) && said.contains("it was sent again out of the cache"), "{said}");

        // A push that knows of no damage sends nothing; after a read that found it, it heals.
        memory.tamper(&key, |bytes| bytes[100] ^= 0x10);
        let store = store_over(&memory);
        assert!(f.repository.push(&store, &pointer, &f.events).await.unwrap().already);
        Fixture::new().repository.fetch(&store, &pointer.digest, &f.events).await.unwrap_err();
        assert!(!complete(&store, &pointer.digest).await.is_ok_and(|missing| missing.is_empty()), "{key}");
        assert!(!f.repository.push(&store, &pointer, &f.events).await.unwrap().already);
        assert_eq!(data(&memory), whole, "{key}");
    }
    // A copy in the cache that is damaged itself heals nothing.
    let pack = f.cached_packs().remove(0);
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    let key = keys(&memory).into_iter().find(|key| key.ends_with(&name)).unwrap();
    for bytes in [fs::read(&pack).unwrap().iter().map(|byte| byte ^ 1).collect(), Vec::new()] {
        fs::write(&pack, bytes).unwrap();
        memory.tamper(&key, |bytes| bytes[100] ^= 0x10);
        let before = data(&memory);
        let error = f.repository.verify_remote(&store_over(&memory), &pointer.digest, &f.events).await.unwrap_err();
        assert!(matches!(&error, Error::Damaged { .. }) && error.to_string().contains(&key), "{error}");
        assert_eq!(data(&memory), before);
        memory.tamper(&key, |bytes| bytes[100] ^= 0x10);
    }
}

#[tokio::test]
async fn a_lost_pack_is_pulled_although_the_store_has_it_packed_otherwise() {
    let memory = Memory::new();
    let (a, b) = (Fixture::new(), Fixture::new());
    one_of_everything(&a);
    b.write("data/raw/large.bin", noise(3_000_000, 1));
    b.add("data/raw");
    one_of_everything(&b);
    let (pa, pb) = (a.add("data/raw").pointer, b.add("data/raw").pointer);
    a.repository.push(&store_over(&memory), &pa, &a.events).await.unwrap();
    let packs = b.cached_packs();
    for pack in packs {
        let bytes = fs::read(&pack).unwrap();
        for damaged in [None, Some(vec![0; bytes.len()])] {
            fs::remove_dir_all(b.path("data/raw")).unwrap();
            fs::remove_dir_all(b.path(".sealift/cache")).unwrap();
            b.write("data/raw/large.bin", noise(3_000_000, 1));
            b.add("data/raw");
            one_of_everything(&b);
            b.add("data/raw");
            fs::remove_dir_all(b.path("data/raw")).unwrap();
            match damaged {
                None => fs::remove_file(&pack).unwrap(),
                Some(damaged) => fs::write(&pack, damaged).unwrap(),
            }
            b.repository.pull(&store_over(&memory), &pb, false, &b.events).await.unwrap();
            assert_eq!(digest_of_tree(&b.path("data/raw")), pb.digest);
        }
    }
}

#[tokio::test]
async fn an_interrupted_restore_leaves_the_folder_as_it_was_and_can_be_repeated() {
    let memory = Memory::new();
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    let store = store_over(&memory);
    f.repository.push(&store, &pointer, &f.events).await.unwrap();
    let there = Fixture::new();
    let to = there.path("out/restored");
    fs::create_dir_all(&to).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o750)).unwrap();
    let beside_it = || {
        let names = fs::read_dir(there.path("out")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".sealift")).count()
    };
    let left = Arc::new(std::sync::Mutex::new(None));
    let (seen, out) = (left.clone(), there.path("out"));
    let events = domain::Events::new(Watch(Box::new(move || {
        let names = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
        if let Some(beside) = names.into_iter().find(|path| !path.ends_with("restored")) {
            assert_eq!(fs::read_dir(out.join("restored")).unwrap().count(), 0, "nothing is there before all is");
            seen.lock().unwrap().get_or_insert(beside);
        }
    })));
    there.repository.restore(&store, &pointer.digest, &to, &events).await.unwrap();
    assert_eq!(digest_of_tree(&to), pointer.digest);
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o750);
    assert_eq!(beside_it(), 0, "nothing stays beside it");
    let beside = left.lock().unwrap().take().expect("it was written beside its place");
    fs::remove_dir_all(&to).unwrap();
    // What a killed restore leaves.
    fs::create_dir_all(beside.join("half")).unwrap();
    fs::write(beside.join("half/file"), "half").unwrap();
    there.repository.restore(&store, &pointer.digest, &to, &there.events).await.unwrap();
    assert_eq!(digest_of_tree(&to), pointer.digest);
    assert_eq!(beside_it(), 0);
}

/// Looks at every event.
struct Watch(Box<dyn Fn() + Send + Sync>);

impl domain::EventSink for Watch {
    fn emit(&self, _: domain::Event) {
        (self.0)();
    }
}

#[tokio::test]
async fn a_transfer_damaged_once_is_fetched_again() {
    let memory = Memory::new();
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
    for mode in [Mode::Flip, Mode::Truncate] {
        let faults = Faults::new();
        let store = Store::over(Faulty::new(memory.clone(), faults.clone()));
        let mut gets = 0;
        for k in 1.. {
            let there = Fixture::new();
            let theirs = there.take_pointer(&pointer, POINTER);
            faults.arm(k, mode);
            there.repository.pull(&store, &theirs, false, &there.events).await.unwrap();
            assert_eq!(there.state(POINTER), State::Clean);
            if !faults.fired() {
                break;
            }
            gets += 1;
        }
        assert_eq!(gets, 3, "manifest, layout, pack");
    }
}

#[tokio::test]
async fn what_was_deleted_or_cut_short_behind_our_back_is_pushed_again() {
    for page in [1000, 1] {
        let memory = Memory::with_page(page);
        let f = Fixture::new();
        one_of_everything(&f);
        let pointer = f.add("data/raw").pointer;
        f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
        let whole = data(&memory);
        for key in keys(&memory) {
            for cut in [false, true] {
                if cut {
                    memory.tamper(&key, |bytes| bytes.truncate(bytes.len() - 1));
                } else {
                    memory.remove(&key);
                }
                if !(cut && key.starts_with("snapshots/")) {
                    let missing = complete(&store_over(&memory), &pointer.digest).await;
                    assert!(
                        missing.map_or_else(|error| chain(&error).contains(&key), |keys| keys.contains(&key)),
                        "{key}"
                    );
                }
                assert!(!f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap().already, "{key}");
                assert_eq!(data(&memory), whole, "{key}");
            }
        }
    }
}

#[tokio::test]
async fn a_push_interrupted_anywhere_is_finished_by_the_next() {
    let f = Fixture::new();
    one_of_everything(&f);
    f.write("data/raw/more", noise(18_000_000, 7));
    let pointer = f.add("data/raw").pointer;
    let mut survived = 0;
    for mode in [Mode::Before, Mode::After, Mode::Down] {
        for k in 1.. {
            let memory = Memory::new();
            let faults = Faults::new();
            let store = Store::over(Faulty::new(memory.clone(), faults.clone()));
            faults.arm(k, mode);
            let first = f.repository.push(&store, &pointer, &f.events).await;
            let fired = faults.fired();
            if let Err(error) = &first {
                assert_eq!(error.class(), Class::Unavailable, "{error}");
                // The commit marker is last, so whoever sees it can restore.
                if memory.keys().iter().any(|key| key.starts_with("snapshots/")) {
                    assert!(complete(&store_over(&memory), &pointer.digest).await.unwrap().is_empty());
                }
            } else if mode == Mode::Before && fired {
                panic!("operation {k} failed and push did not notice");
            }
            faults.disarm();
            f.repository.push(&store, &pointer, &f.events).await.unwrap();
            assert!(complete(&store_over(&memory), &pointer.digest).await.unwrap().is_empty());
            if !fired {
                break;
            }
            survived += 1;
        }
    }
    assert!(survived >= 15, "{survived} faults were injected");
}

#[tokio::test]
async fn a_pull_interrupted_anywhere_is_finished_by_the_next() {
    let memory = Memory::new();
    let f = Fixture::new();
    one_of_everything(&f);
    f.write("data/raw/more", noise(18_000_000, 8));
    let pointer = f.add("data/raw").pointer;
    f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
    let faults = Faults::new();
    let store = Store::over(Faulty::new(memory, faults.clone()));
    for k in 1.. {
        let there = Fixture::new();
        let theirs = there.take_pointer(&pointer, POINTER);
        faults.arm(k, Mode::Down);
        let first = there.repository.pull(&store, &theirs, false, &there.events).await;
        let fired = faults.fired();
        faults.disarm();
        assert_eq!(first.is_err(), fired);
        if let Err(error) = first {
            assert_eq!(error.class(), Class::Unavailable, "{error}");
            assert!(!there.path("data/raw").exists());
        }
        there.repository.pull(&store, &theirs, false, &there.events).await.unwrap();
        assert_eq!(digest_of_tree(&there.path("data/raw")), pointer.digest);
        if !fired {
            break;
        }
    }
}

#[tokio::test]
async fn data_that_changed_between_add_and_push_matters_only_when_the_cache_lost_it() {
    let memory = Memory::new();
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    // The data is changed, the cache is whole: what was added is pushed.
    f.write("data/raw/a-b/x", "changed");
    f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
    assert!(complete(&store_over(&memory), &pointer.digest).await.unwrap().is_empty());
    // The cache lost a pack, or has a damaged one: refused by name, and nothing is committed.
    let memory = Memory::new();
    let pack = f.cached_packs().remove(0);
    let bytes = fs::read(&pack).unwrap();
    for damaged in [None, Some([&bytes[..9], b"x", &bytes[10..]].concat())] {
        match damaged {
            None => fs::remove_file(&pack).unwrap(),
            Some(damaged) => fs::write(&pack, damaged).unwrap(),
        }
        let error = f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap_err();
        assert!(matches!(error, Error::ChangedSinceAdd { .. }), "{error}");
        assert!(error.to_string().contains("data/raw changed between add and push"), "{error}");
        assert_eq!(keys(&memory), Vec::<String>::new());
    }
    // The data is as it was: the cache is made whole from it.
    f.write("data/raw/a-b/x", "sorted before a/");
    f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
    f.repository.verify_remote(&store_over(&memory), &pointer.digest, &f.events).await.unwrap();
    // Neither data nor cache.
    fs::remove_dir_all(f.path("data/raw")).unwrap();
    fs::remove_dir_all(f.path(".sealift")).unwrap();
    let error = f.repository.push(&store_over(&Memory::new()), &pointer, &f.events).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
}

#[tokio::test]
async fn a_damaged_cache_is_healed_by_a_pull() {
    let memory = Memory::new();
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    f.repository.push(&store_over(&memory), &pointer, &f.events).await.unwrap();
    let pack = f.cached_packs().remove(0);
    let bytes = fs::read(&pack).unwrap();
    for damaged in [Vec::new(), vec![0; bytes.len()]] {
        fs::write(&pack, &damaged).unwrap();
        fs::remove_dir_all(f.path("data/raw")).unwrap();
        f.repository.pull(&store_over(&memory), &pointer, false, &f.events).await.unwrap();
        assert_eq!(f.state(POINTER), State::Clean);
        assert!(fs::read(&pack).unwrap() == bytes);
    }
}

#[tokio::test]
async fn the_same_snapshot_packed_otherwise_is_there_already() {
    let memory = Memory::new();
    let (a, b) = (Fixture::new(), Fixture::new());
    one_of_everything(&a);
    // The other one has some of the chunks in an older pack.
    b.write("data/raw/large.bin", noise(3_000_000, 1));
    b.add("data/raw");
    one_of_everything(&b);
    let (pa, pb) = (a.add("data/raw").pointer, b.add("data/raw").pointer);
    assert_eq!(pa.digest, pb.digest);
    assert!(!a.repository.push(&store_over(&memory), &pa, &a.events).await.unwrap().already);
    let before = data(&memory);
    assert!(b.repository.push(&store_over(&memory), &pb, &b.events).await.unwrap().already);
    assert_eq!(data(&memory), before);
    // When the first packing is broken, the second replaces it.
    let pack = keys(&memory).into_iter().find(|key| key.starts_with("packs/")).unwrap();
    memory.remove(&pack);
    assert!(!b.repository.push(&store_over(&memory), &pb, &b.events).await.unwrap().already);
    b.repository.verify_remote(&store_over(&memory), &pb.digest, &b.events).await.unwrap();
}

#[tokio::test]
async fn two_pushes_at_once_end_as_one() {
    let memory = Memory::new();
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    let store = store_over(&memory);
    let push = || f.repository.push(&store, &pointer, &f.events);
    let (a, b, c) = tokio::join!(push(), push(), push());
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(keys(&memory).len(), 3);
    f.repository.verify_remote(&store, &pointer.digest, &f.events).await.unwrap();
}

#[tokio::test]
async fn hostile_manifests_are_rejected_before_anything_is_written() {
    let good = Digest::of(b"").hex();
    let line = |path: &str| format!("f 0 {good} {path}\n");
    let bodies = [
        line("../escape"),
        line("/absolute"),
        line("a/../../b"),
        line("a%00b"),
        line("a//b"),
        line("b") + &line("a"),
        line("a") + &line("a"),
        line("a") + &line("a-") + &line("a/b"),
        "l /etc a\n".to_owned() + &line("a/passwd"),
        line(&"d/".repeat(10_000)),
        line(&"long".repeat(10_000)),
        format!("f 18446744073709551616 {good} a\n"),
        format!("p 0 {good} a\n"),
    ];
    for body in bodies {
        let memory = Memory::new();
        let entries = body.lines().count();
        let text = format!("sealift-snapshot 1 tree\n{body}end {entries} {entries} 0\n");
        let digest = Digest::of(&text);
        let hex = digest.hex();
        let put = |key: String, bytes: Vec<u8>| {
            let memory = memory.clone();
            async move { memory.put(&key, store::Body::Bytes(bytes.into()), store::Condition::None).await.unwrap() }
        };
        put(format!("snapshots/{}/{hex}", &hex[..2]), text.into_bytes()).await;
        put(snapshot::layout_key(&digest), b"anything".to_vec()).await;
        let f = Fixture::new();
        let to = f.path("to");
        let error = f.repository.restore(&store_over(&memory), &digest, &to, &f.events).await.unwrap_err();
        assert!(matches!(error, Error::Manifest { .. }), "{body:.60}: {error}");
        assert_eq!(error.class(), Class::Integrity);
        assert!(error.to_string().contains(&hex), "{error}");
        assert!(!to.exists());
        assert!(f.repository.manifest(&digest).unwrap().is_none());
    }
}

#[tokio::test]
async fn a_snapshot_that_is_nowhere_is_not_found() {
    let f = Fixture::new();
    let digest = Digest::of("never");
    let store = store_over(&Memory::new());
    let error = f.repository.fetch(&store, &digest, &f.events).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(chain(&error).contains(&digest.hex()), "{}", chain(&error));
    assert_eq!(complete(&store, &digest).await.unwrap().len(), 2);
    let pointer = Pointer { digest, bytes: 1, files: 1, path: "raw".into(), at: f.path(POINTER) };
    let error = f.repository.checkout(&pointer, false, &f.events).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(!Path::new("data/raw").exists());
}
