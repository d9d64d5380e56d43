//! Edits that are made while a command runs: without force nothing of them is overwritten or removed.
#![allow(clippy::unwrap_used)]

mod common;

use async_trait::async_trait;
use common::{Fixture, noise};
use domain::{Event, EventSink, Events};
use snapshot::{Checkout, Error, Pointer};
use std::{
    fs,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use store::{Body, ByteStream, Condition, Meta, Objects, Page, Store, testing::Memory};

const WORK: &str = "an hour of work";

/// Something that a person does, once.
struct Once(Box<dyn Fn() + Send + Sync>, AtomicBool);

impl Once {
    fn new(action: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Box::new(action), AtomicBool::new(false))
    }

    fn act(&self) {
        if !self.1.swap(true, Ordering::SeqCst) {
            (self.0)();
        }
    }
}

impl EventSink for Once {
    fn emit(&self, event: Event) {
        // The first that ends is the comparison.
        if matches!(event, Event::TaskFinished { .. }) {
            self.act();
        }
    }
}

/// A store in which that happens when a pack is asked for.
struct Hook(Arc<Memory>, Once);

#[async_trait]
impl Objects for Hook {
    fn describe(&self) -> String {
        self.0.describe()
    }
    async fn head(&self, key: &str) -> store::Result<Option<Meta>> {
        self.0.head(key).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> store::Result<Option<(Meta, ByteStream)>> {
        if key.starts_with("packs/") {
            self.1.act();
        }
        self.0.get(key, range).await
    }
    async fn put(&self, key: &str, body: Body, condition: Condition) -> store::Result<Meta> {
        self.0.put(key, body, condition).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> store::Result<Page> {
        self.0.list(prefix, after).await
    }
    async fn delete(&self, key: &str) -> store::Result<()> {
        self.0.delete(key).await
    }
}

/// What is at `data/raw` in two snapshots, and what happens to it in between.
struct Case {
    name: &'static str,
    first: fn(&Fixture),
    second: fn(&Fixture),
    edit: fn(&Path),
    /// Where the work is afterwards.
    kept: &'static str,
}

const CASES: [Case; 6] = [
    Case {
        name: "a file is edited",
        first: |f| f.write("data/raw/p/x", "one"),
        second: |f| f.write("data/raw/p/x", noise(1000, 2)),
        edit: |data| fs::write(data.join("p/x"), WORK).unwrap(),
        kept: "p/x",
    },
    Case {
        name: "a file is replaced",
        first: |f| f.write("data/raw/p/x", noise(WORK.len(), 1)),
        second: |f| f.write("data/raw/p/x", noise(1000, 2)),
        edit: |data| {
            fs::write(data.join("p/new"), WORK).unwrap();
            fs::rename(data.join("p/new"), data.join("p/x")).unwrap();
        },
        kept: "p/x",
    },
    Case {
        name: "a file comes to be where one is to be written",
        first: |f| f.write("data/raw/p/x", "one"),
        second: |f| f.write("data/raw/p/y", noise(1000, 2)),
        edit: |data| fs::write(data.join("p/y"), WORK).unwrap(),
        kept: "p/y",
    },
    Case {
        name: "a link is replaced by a file",
        first: |f| {
            fs::create_dir_all(f.path("data/raw/p")).unwrap();
            std::os::unix::fs::symlink("x", f.path("data/raw/p/l")).unwrap();
        },
        second: |f| f.write("data/raw/p/l", noise(1000, 2)),
        edit: |data| {
            fs::remove_file(data.join("p/l")).unwrap();
            fs::write(data.join("p/l"), WORK).unwrap();
        },
        kept: "p/l",
    },
    Case {
        name: "a file in a folder that makes way is edited",
        first: |f| f.write("data/raw/p/d/x", "one"),
        second: |f| f.write("data/raw/p/d", noise(1000, 2)),
        edit: |data| fs::write(data.join("p/d/x"), WORK).unwrap(),
        kept: "p/d/x",
    },
    Case {
        name: "a file comes into a folder that makes way",
        first: |f| f.write("data/raw/p/d/x", "one"),
        second: |f| f.write("data/raw/p/d", noise(1000, 2)),
        edit: |data| fs::write(data.join("p/d/y"), WORK).unwrap(),
        kept: "p/d/y",
    },
];

/// Both snapshots; the first is there.
fn both(f: &Fixture, case: &Case) -> (Pointer, Pointer) {
    (case.second)(f);
    let second = f.add("data/raw").pointer;
    fs::remove_dir_all(f.path("data/raw")).unwrap();
    (case.first)(f);
    (f.add("data/raw").pointer, second)
}

fn check(f: &Fixture, case: &Case, done: snapshot::Result<Checkout>) {
    let error = done.unwrap_err();
    assert!(matches!(&error, Error::LocalChanges { .. }), "{}: {error}", case.name);
    assert!(error.to_string().contains("p/"), "{}: {error}", case.name);
    let kept = fs::read_to_string(f.path("data/raw").join(case.kept));
    assert_eq!(kept.ok().as_deref(), Some(WORK), "{}", case.name);
    assert!(common::walk(&f.path(".sealift/cache/tmp")).is_empty(), "{}", case.name);
}

#[test]
fn what_is_edited_between_comparison_and_rename_stays() {
    for case in &CASES {
        let f = Fixture::new();
        let (_, second) = both(&f, case);
        let (data, edit) = (f.path("data/raw"), case.edit);
        let events = Events::new(Once::new(move || edit(&data)));
        check(&f, case, f.repository.checkout(&second, false, &events));
        // With force it was asked for.
        f.repository.checkout(&second, true, &f.events).unwrap();
        assert!(!f.path("data/raw").join(case.kept).is_dir());
        assert_ne!(fs::read_to_string(f.path("data/raw").join(case.kept)).ok().as_deref(), Some(WORK), "{}", case.name);
    }
}

#[tokio::test]
async fn what_is_edited_while_a_part_is_fetched_stays() {
    for case in &CASES {
        let memory = Memory::new();
        let (here, there) = (Fixture::new(), Fixture::new());
        let (first, second) = both(&here, case);
        for pointer in [&second, &first] {
            here.repository.push(&Store::over(memory.clone()), pointer, &here.events).await.unwrap();
        }
        let theirs = there.take_pointer(&first, "data/raw.snapshot.toml");
        there.repository.pull(&Store::over(memory.clone()), &theirs, false, &there.events).await.unwrap();
        let theirs = there.take_pointer(&second, "data/raw.snapshot.toml");
        let (data, edit) = (there.path("data/raw"), case.edit);
        let store = Store::over(Arc::new(Hook(memory, Once::new(move || edit(&data)))));
        let parts = ["p".to_owned()];
        check(&there, case, there.repository.pull_part(&store, &theirs, &parts, false, &there.events).await);
        there.repository.pull_part(&store, &theirs, &parts, true, &there.events).await.unwrap();
        assert_ne!(
            fs::read_to_string(there.path("data/raw").join(case.kept)).ok().as_deref(),
            Some(WORK),
            "{}",
            case.name
        );
    }
}

#[test]
fn a_file_that_comes_into_a_tree_that_makes_way_for_a_file_stays() {
    let f = Fixture::new();
    f.write("data/raw", "a file");
    let file = f.add("data/raw").pointer;
    fs::remove_file(f.path("data/raw")).unwrap();
    f.write("data/raw/p/x", "one");
    let tree = f.add("data/raw").pointer;
    let new = f.path("data/raw/p/y");
    let events = Events::new(Once::new(move || fs::write(&new, WORK).unwrap()));
    let error = f.repository.checkout(&file, false, &events).unwrap_err();
    assert!(matches!(&error, Error::LocalChanges { .. }), "{error}");
    assert_eq!(fs::read_to_string(f.path("data/raw/p/y")).unwrap(), WORK);
    // The other way round, and an edit of the file.
    fs::remove_file(f.path("data/raw/p/y")).unwrap();
    f.repository.checkout(&tree, true, &f.events).unwrap();
    f.repository.checkout(&file, false, &f.events).unwrap();
    let edited = f.path("data/raw");
    let events = Events::new(Once::new(move || fs::write(&edited, WORK).unwrap()));
    let error = f.repository.checkout(&tree, false, &events).unwrap_err();
    assert!(matches!(&error, Error::LocalChanges { .. }), "{error}");
    assert_eq!(fs::read_to_string(f.path("data/raw")).unwrap(), WORK);
}

#[test]
fn names_of_the_same_file_are_replaced_one_after_the_other() {
    let f = Fixture::new();
    for name in ["a", "b", "c"] {
        f.write(&format!("data/raw/{name}"), noise(1000, 7));
    }
    let old = f.add("data/raw").pointer;
    fs::remove_dir_all(f.path("data/raw")).unwrap();
    f.write("data/raw/a", noise(2000, 8));
    for name in ["b", "c"] {
        fs::hard_link(f.path("data/raw/a"), f.path("data/raw").join(name)).unwrap();
    }
    f.add("data/raw");
    // The ctime of the others changes with each that is replaced.
    assert_eq!(f.repository.checkout(&old, false, &f.events).unwrap().written, 3);
    assert_eq!(fs::read(f.path("data/raw/c")).unwrap(), noise(1000, 7));
}
