//! Trees of many files and large ones: in little memory, and what a tree can do to those who read it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fixture, noise, walk};
use domain::{
    Events,
    event::{Event, EventSink},
};
use snapshot::{Error, Repository, State};
use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::{Arc, Mutex},
};
use store::{Store, testing::Memory};

/// The most memory that this process has had in use, in MiB, since [`forget_peak`].
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Keeps warnings.
#[derive(Clone, Default)]
struct Ears(Arc<Mutex<Vec<String>>>);

impl EventSink for Ears {
    fn emit(&self, event: Event) {
        if let Event::Warning { text, .. } = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// Everything that is done to data, and the memory of each step. The store has little in it, since it is in memory as well.
fn all_verbs(f: &Fixture, most: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let store = Store::over(Memory::new());
    let check = |what: &str| {
        let peak = peak();
        assert!(peak <= most, "{what} took {peak} MiB");
        forget_peak();
    };
    forget_peak();
    let pointer = f.add("data").pointer;
    check("add");
    assert_eq!(f.state("data.snapshot.toml"), State::Clean);
    check("status");
    assert_eq!(f.add("data").new_bytes, 0);
    check("adding again");
    runtime.block_on(f.repository.push(&store, &pointer, &f.events)).unwrap();
    check("push");
    f.repository.verify_local(&pointer, &f.events).unwrap();
    check("verify");
    runtime.block_on(f.repository.verify_remote(&store, &pointer.digest, &f.events)).unwrap();
    check("verification of the store");
    fs::remove_dir_all(f.path("data")).unwrap();
    fs::remove_dir_all(f.path(".sealift")).unwrap();
    let pulled = runtime.block_on(f.repository.pull(&store, &pointer, false, &f.events)).unwrap();
    assert_eq!(pulled.bytes, pointer.bytes);
    check("pull");
    assert_eq!(f.state("data.snapshot.toml"), State::Clean);
    fs::remove_dir_all(f.path(".sealift")).unwrap();
    assert_eq!(f.add("data").pointer.digest, pointer.digest);
}

/// One test, so that nobody else of this process is measured.
#[test]
fn memory_is_bounded_for_a_large_sparse_file_and_for_many_small_ones() {
    let f = Fixture::new();
    fs::create_dir(f.path("data")).unwrap();
    let mut sparse = fs::File::create(f.path("data/sparse")).unwrap();
    for (place, seed) in [(0, 1), (100 << 20, 2), ((256 << 20) - 300_000, 3)] {
        sparse.seek(SeekFrom::Start(place)).unwrap();
        sparse.write_all(&noise(300_000, seed)).unwrap();
    }
    assert_eq!(sparse.metadata().unwrap().len(), 256 << 20);
    all_verbs(&f, 112);
    assert!(f.cached_packs().iter().map(|pack| fs::metadata(pack).unwrap().len()).sum::<u64>() < 4 << 20);

    let f = Fixture::new();
    for number in 0..12_000 {
        if number % 200 == 0 {
            fs::create_dir_all(f.path(format!("data/{:03}", number / 200))).unwrap();
        }
        fs::write(f.path(format!("data/{:03}/{number:06}", number / 200)), number.to_string()).unwrap();
    }
    all_verbs(&f, 112);

    // Few entries, each as long as one can be.
    let f = Fixture::new();
    fs::create_dir(f.path("data")).unwrap();
    for number in 0..30_000 {
        std::os::unix::fs::symlink("t".repeat(4000), f.path(format!("data/{number}"))).unwrap();
    }
    forget_peak();
    f.add("data");
    let peak = peak();
    assert!(peak <= 112, "adding long links took {peak} MiB");
}

#[test]
fn names_that_differ_in_case_are_kept_apart_and_warned_of() {
    let f = Fixture::new();
    for name in ["data/sub/Read.me", "data/sub/read.ME", "data/Sub/x", "data/other"] {
        f.write(name, name);
    }
    let ears = Ears::default();
    let events = Events::new(ears.clone());
    let pointer = f.repository.add(Path::new("data"), &events).unwrap().pointer;
    let warnings = ears.0.lock().unwrap().clone();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("Sub and sub, and 1 pair more, differ only in the case of letters"), "{warnings:?}");
    fs::remove_dir_all(f.path("data")).unwrap();
    f.repository.checkout(&pointer, false, &f.events).unwrap();
    assert_eq!(fs::read_to_string(f.path("data/sub/read.ME")).unwrap(), "data/sub/read.ME");
    assert_eq!(walk(&f.path("data")).iter().filter(|path| path.is_file()).count(), 4);
}

#[test]
fn a_path_that_is_too_long_where_it_is_to_go_stops_a_checkout_before_it_writes() {
    let f = Fixture::new();
    let deep: String = (0..17).map(|_| format!("{}/", "d".repeat(200))).collect();
    f.write("data/a", "first");
    f.write(&format!("data/{deep}end"), "last");
    let pointer = f.add("data").pointer;
    let long = f.path("l".repeat(250)).join("m".repeat(250)).join("n".repeat(250));
    fs::create_dir_all(&long).unwrap();
    let elsewhere = Repository::new(long.clone(), f.path(".sealift/cache"));
    let there = snapshot::Pointer { at: long.join("data.snapshot.toml"), ..pointer };
    let error = elsewhere.checkout(&there, false, &f.events).unwrap_err();
    assert!(matches!(&error, Error::Path { .. }), "{error}");
    assert!(error.to_string().ends_with("end is longer than a path can be"), "{error}");
    assert!(!long.join("data").exists());
}
