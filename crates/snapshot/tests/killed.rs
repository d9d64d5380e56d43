//! A process killed at every event that it emits: the next one finishes what it left.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fixture, digest_of_tree, noise, one_of_everything, walk};
use domain::{Event, EventSink, Events};
use snapshot::{Repository, State};
use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};
use store::{Location, Store};

const POINTER: &str = "data/raw.snapshot.toml";

const PARTS: [&str; 2] = ["deep", "large.bin"];

/// Kills this process at the k-th event.
struct Deadly(AtomicU64);

impl EventSink for Deadly {
    fn emit(&self, _: Event) {
        if self.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

async fn run(verb: &str, root: &Path, directory: &Path, events: &Events) -> snapshot::Result<()> {
    let repository = Repository::new(root.to_owned(), root.join(".sealift/cache"));
    let store = Store::open(&Location::Embedded { directory: directory.to_owned() }).await.unwrap();
    match verb {
        "add" => repository.add(Path::new("data/raw"), events).map(drop),
        "push" => repository.push(&store, &repository.pointer(Path::new(POINTER))?, events).await.map(drop),
        "gc" => {
            let keep = [repository.pointer(Path::new(POINTER))?.digest].into();
            let plan = snapshot::gc::plan(&store, &keep, std::time::Duration::ZERO, events).await?;
            snapshot::gc::collect(&store, &plan, &keep, events).await.map(drop)
        }
        "part" => {
            let (pointer, parts) = (repository.pointer(Path::new(POINTER))?, PARTS.map(str::to_owned));
            repository.pull_part(&store, &pointer, &parts, false, events).await.map(drop)
        }
        _ => repository.pull(&store, &repository.pointer(Path::new(POINTER))?, true, events).await.map(drop),
    }
}

/// Not a test of its own: what the test below runs and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_dies_at_an_event() {
    let Ok(verb) = std::env::var("SNAPSHOT_TEST_VERB") else { return };
    let path = |name| std::path::PathBuf::from(std::env::var_os(name).unwrap());
    let at: u64 = std::env::var("SNAPSHOT_TEST_AT").unwrap().parse().unwrap();
    let events = Events::new(Deadly(AtomicU64::new(at)));
    run(&verb, &path("SNAPSHOT_TEST_ROOT"), &path("SNAPSHOT_TEST_STORE"), &events).await.unwrap();
}

/// Whether the child was killed, rather than coming to its end.
fn killed(verb: &str, at: u64, root: &Path, store: &Path) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_dies_at_an_event"])
        .env("SNAPSHOT_TEST_VERB", verb)
        .env("SNAPSHOT_TEST_AT", at.to_string());
    let output = command.env("SNAPSHOT_TEST_ROOT", root).env("SNAPSHOT_TEST_STORE", store).output().unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert!(output.status.success() || signal == Some(9), "{}", String::from_utf8_lossy(&output.stdout));
    signal.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_is_finished_by_the_next_run() {
    let origin = Fixture::new();
    one_of_everything(&origin);
    origin.write("data/raw/large.bin", noise(9_000_000, 11));
    let expected = origin.add("data/raw").pointer.digest;
    let mut survived = 0;
    for verb in ["add", "push", "pull"] {
        for at in 1.. {
            let (here, there, store) = (Fixture::new(), Fixture::new(), tempfile::tempdir().unwrap());
            std::fs::create_dir(here.path("data")).unwrap();
            let copied =
                Command::new("cp").arg("-a").args([origin.path("data/raw"), here.path("data/raw")]).status().unwrap();
            assert!(copied.success());
            let nowhere = Events::nowhere();
            let mut was_killed = false;
            for step in ["add", "push"] {
                if step == verb {
                    was_killed = killed(verb, at, here.root.path(), store.path());
                }
                run(step, here.root.path(), store.path(), &nowhere).await.unwrap();
            }
            let pointer = here.repository.pointer(Path::new(POINTER)).unwrap();
            assert_eq!(pointer.digest, expected, "{verb} killed at event {at}");
            there.take_pointer(&pointer, POINTER);
            if verb == "pull" {
                was_killed = killed(verb, at, there.root.path(), store.path());
            }
            run("pull", there.root.path(), store.path(), &nowhere).await.unwrap();
            assert_eq!(there.state(POINTER), State::Clean);
            assert_eq!(digest_of_tree(&there.path("data/raw")), expected, "{verb} killed at event {at}");
            assert_eq!(walk(&there.path(".sealift/cache/tmp")).len(), 0, "nothing temporary is left");
            if !was_killed {
                break;
            }
            survived += 1;
        }
    }
    assert!(survived >= 20, "{survived} kills were survived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gc_and_a_pull_of_a_part_that_are_killed_are_finished_by_the_next() {
    let nowhere = Events::nowhere();
    let mut survived = 0;
    for verb in ["gc", "part"] {
        for at in 1.. {
            let (here, there, store) = (Fixture::new(), Fixture::new(), tempfile::tempdir().unwrap());
            one_of_everything(&here);
            for version in ["older", "newer"] {
                here.write("data/raw/version", version);
                run("add", here.root.path(), store.path(), &nowhere).await.unwrap();
                run("push", here.root.path(), store.path(), &nowhere).await.unwrap();
            }
            let pointer = here.repository.pointer(Path::new(POINTER)).unwrap();
            there.take_pointer(&pointer, POINTER);
            let root = if verb == "gc" { &here } else { &there }.root.path();
            let was_killed = killed(verb, at, root, store.path());
            let opened = Store::open(&Location::Embedded { directory: store.path().to_owned() }).await.unwrap();
            assert!(snapshot::complete(&opened, &pointer.digest).await.unwrap().is_empty(), "{verb} killed at {at}");
            run("push", here.root.path(), store.path(), &nowhere).await.unwrap();
            run(verb, root, store.path(), &nowhere).await.unwrap();
            if verb == "gc" {
                assert_eq!(opened.list("snapshots/").await.unwrap().len(), 1, "killed at {at}");
                assert!(opened.list("gc/intent").await.unwrap().is_empty(), "killed at {at}");
                run("pull", there.root.path(), store.path(), &nowhere).await.unwrap();
                assert_eq!(digest_of_tree(&there.path("data/raw")), pointer.digest);
            } else {
                for file in ["deep/er/and/deeper", "large.bin"] {
                    let bytes = |fixture: &Fixture| std::fs::read(fixture.path("data/raw").join(file)).unwrap();
                    assert!(bytes(&here) == bytes(&there), "{file}, killed at {at}");
                }
                assert_eq!(walk(&there.path("data/raw")).iter().filter(|path| path.is_file()).count(), 2);
            }
            assert_eq!(walk(&there.path(".sealift/cache/tmp")).len(), 0, "nothing temporary is left");
            if !was_killed {
                break;
            }
            survived += 1;
        }
    }
    assert!(survived >= 10, "{survived} kills were survived");
}
