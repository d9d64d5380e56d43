//! Manifests that nobody should have written, and trees in every state between two snapshots: what a checkout does to them.
#![allow(clippy::unwrap_used)]

mod common;

use async_trait::async_trait;
use bytes::Bytes;
use common::{Fixture, walk};
use domain::{Class, Digest};
use proptest::prelude::*;
use snapshot::{Entry, Error, Kind, Manifest, Pointer, Shape, State};
use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use store::{Body, ByteStream, Condition, Meta, Objects, Page, Store, testing::Memory};

/// A manifest with these lines, and a digest that is right.
fn manifest(lines: &str) -> (Digest, String) {
    let files = lines.lines().filter(|line| line.starts_with(['f', 'x'])).count();
    let text = format!("sealift-snapshot 1 tree\n{lines}end {} {files} 0\n", lines.lines().count());
    (Digest::of(&text), text)
}

fn file(path: &str) -> String {
    format!("f 0 {} {path}\n", Digest::of("").hex())
}

fn hostile() -> Vec<(&'static str, String)> {
    vec![
        ("parent", file("../x")),
        ("parent inside", file("a/../../x")),
        ("absolute", file("/tmp/x")),
        ("NUL", file("a%00b")),
        ("dot", file("./x")),
        ("empty component", file("a//b")),
        ("twice", format!("{}{}", file("a"), file("a"))),
        ("below a file", format!("{}{}", file("a"), file("a/b"))),
        ("below a file, with others between", format!("{}{}{}{}", file("a"), file("a!"), file("a-b/c"), file("a/b"))),
        ("below a link", format!("l /tmp a\n{}", file("a/b"))),
        ("wrong order", format!("{}{}", file("b"), file("a"))),
        ("10,000 deep", file(&"d/".repeat(10_000))),
        ("a line without an end", "f".repeat(1 << 20)),
    ]
}

fn pointer(f: &Fixture, digest: Digest) -> Pointer {
    Pointer { digest, bytes: 0, files: 1, path: PathBuf::from("raw"), at: f.path("data/raw.snapshot.toml") }
}

/// All that is in the repository but the cache.
fn everything(f: &Fixture) -> Vec<PathBuf> {
    walk(f.root.path()).into_iter().filter(|path| !path.starts_with(f.path(".sealift"))).collect()
}

#[tokio::test]
async fn a_hostile_manifest_is_refused_before_anything_is_written() {
    for (name, lines) in hostile() {
        let (digest, text) = manifest(&lines);
        let f = Fixture::new();
        f.write("data/kept", "kept");
        let before = everything(&f);
        let store = Store::over(Memory::new());
        for key in [Store::key(store::Family::Snapshot, &digest), snapshot::layout_key(&digest)] {
            let body = Body::Bytes(Bytes::from(text.clone()));
            store.objects().put(&key, body, Condition::None).await.unwrap();
        }
        let error = f.repository.pull(&store, &pointer(&f, digest), true, &f.events).await.unwrap_err();
        assert!(matches!(&error, Error::Manifest { .. }), "{name}: {error}");
        assert_eq!(error.class(), Class::Integrity, "{name}");
        assert_eq!(everything(&f), before, "{name}");
        // The same when it was put into the cache.
        let cached = f.path(format!(".sealift/cache/{}", Store::key(store::Family::Snapshot, &digest)));
        fs::create_dir_all(cached.parent().unwrap()).unwrap();
        fs::write(&cached, &text).unwrap();
        let error = f.repository.checkout(&pointer(&f, digest), true, &f.events).unwrap_err();
        assert!(matches!(&error, Error::Manifest { .. }), "{name}: {error}");
        assert_eq!(everything(&f), before, "{name}");
    }
}

/// A store whose every object is said to be 1 GB large.
struct Huge(Arc<Memory>);

#[async_trait]
impl Objects for Huge {
    fn describe(&self) -> String {
        self.0.describe()
    }
    async fn head(&self, key: &str) -> store::Result<Option<Meta>> {
        let meta = self.0.head(key).await?;
        Ok(meta.map(|meta| Meta { size: 1_000_000_000, ..meta }))
    }
    async fn get(&self, key: &str, _: Option<Range<u64>>) -> store::Result<Option<(Meta, ByteStream)>> {
        panic!("{key} is not to be read")
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

#[tokio::test]
async fn a_manifest_of_a_gigabyte_is_not_read() {
    let (digest, text) = manifest(&file("a"));
    let memory = Memory::new();
    let key = Store::key(store::Family::Snapshot, &digest);
    memory.put(&key, Body::Bytes(Bytes::from(text)), Condition::None).await.unwrap();
    let f = Fixture::new();
    let store = Store::over(Arc::new(Huge(memory)));
    let error = f.repository.pull(&store, &pointer(&f, digest), false, &f.events).await.unwrap_err();
    assert!(common::chain(&error).contains("1000000000"), "{}", common::chain(&error));
    // In the cache it counts as absent.
    let cached = f.path(format!(".sealift/cache/{key}"));
    fs::create_dir_all(cached.parent().unwrap()).unwrap();
    fs::File::create(&cached).unwrap().set_len(1_000_000_000).unwrap();
    let error = f.repository.checkout(&pointer(&f, digest), false, &f.events).unwrap_err();
    assert!(matches!(error, Error::NotCached { .. }), "{error}");
}

type Tree = BTreeMap<String, Kind>;

/// Trees with names that collide as prefixes, become folders, links and files.
fn tree() -> impl Strategy<Value = Tree> {
    let component = prop_oneof![Just("a"), Just("a-b"), Just("b")];
    let path = proptest::collection::vec(component, 1..4).prop_map(|parts| parts.join("/"));
    let file = |executable, text: &str| Kind::File { executable, size: text.len() as u64, digest: Digest::of(text) };
    let kind = prop_oneof![
        3 => Just(file(false, "one")),
        3 => Just(file(false, "two")),
        1 => Just(file(true, "one")),
        1 => Just(Kind::Symlink { target: b"b".to_vec() }),
        1 => Just(Kind::EmptyDirectory),
    ];
    proptest::collection::btree_map(path, kind, 0..7).prop_map(|all| {
        let mut tree = Tree::new();
        for (path, kind) in all {
            if !tree.keys().any(|other| below(&path, other) || below(other, &path)) {
                tree.insert(path, kind);
            }
        }
        tree
    })
}

fn below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn lay_out(data: &Path, tree: &Tree) {
    let _ = fs::remove_dir_all(data);
    fs::create_dir_all(data).unwrap();
    for (path, kind) in tree {
        let path = data.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match kind {
            Kind::EmptyDirectory => fs::create_dir(&path).unwrap(),
            Kind::Symlink { .. } => std::os::unix::fs::symlink("b", &path).unwrap(),
            Kind::File { executable, digest, .. } => {
                fs::write(&path, if *digest == Digest::of("one") { "one" } else { "two" }).unwrap();
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

/// What lies at a data path, by other means than the product's.
fn found(data: &Path) -> Tree {
    let mut tree = Tree::new();
    for path in walk(data) {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(data).unwrap().to_str().unwrap().to_owned();
        if meta.is_symlink() {
            tree.insert(name, Kind::Symlink { target: b"b".to_vec() });
        } else if meta.is_file() {
            let (bytes, executable) = (fs::read(&path).unwrap(), meta.permissions().mode() & 0o100 != 0);
            tree.insert(name, Kind::File { executable, size: bytes.len() as u64, digest: Digest::of(&bytes) });
        } else if fs::read_dir(&path).unwrap().next().is_none() {
            tree.insert(name, Kind::EmptyDirectory);
        }
    }
    tree
}

/// What would be lost of `there` by a checkout of `target`, and what stays besides it.
fn model(target: &Tree, base: &Tree, there: &Tree) -> (usize, Tree) {
    let (mut lost, mut after) = (0, target.clone());
    for (path, kind) in there {
        let is_folder = target.keys().any(|other| below(other, path));
        let hidden = target.iter().any(|(other, kind)| *kind != Kind::EmptyDirectory && below(path, other));
        let in_the_way = is_folder || hidden || target.contains_key(path);
        if in_the_way && target.get(path) != Some(kind) && *kind != Kind::EmptyDirectory && base.get(path) != Some(kind)
        {
            lost += 1;
        }
        if !in_the_way {
            // An empty directory that has something in it is no entry of its own.
            after.retain(|other, kind| *kind != Kind::EmptyDirectory || !below(path, other));
            after.insert(path.clone(), kind.clone());
        }
    }
    (lost, after)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_checkout_does_what_the_model_says(target in tree(), base in tree(), there in tree()) {
        let f = Fixture::new();
        let data = f.path("data/raw");
        lay_out(&data, &target);
        let pointer = f.add("data/raw").pointer;
        let entries = target.iter().map(|(path, kind)| Entry { path: path.clone().into_bytes(), kind: kind.clone() });
        let expected = Manifest { shape: Shape::Tree, entries: entries.collect() };
        prop_assert_eq!(f.repository.manifest(&pointer.digest).unwrap().unwrap(), expected);
        lay_out(&data, &base);
        f.add("data/raw");
        lay_out(&data, &there);
        let (lost, after) = model(&target, &base, &there);
        match f.repository.checkout(&pointer, false, &f.events) {
            Ok(done) => {
                prop_assert_eq!(lost, 0);
                prop_assert_eq!(done.kept.len(), after.iter().filter(|(path, _)| !target.contains_key(*path)).count());
                prop_assert_eq!(found(&data), after);
            }
            Err(Error::LocalChanges { count, .. }) => {
                prop_assert_eq!(count, lost);
                prop_assert_eq!(found(&data), there);
            }
            Err(error) => panic!("{error}"),
        }
        f.repository.checkout(&pointer, true, &f.events).unwrap();
        prop_assert_eq!(found(&data), target);
        f.take_pointer(&pointer, "data/raw.snapshot.toml");
        prop_assert_eq!(f.state("data/raw.snapshot.toml"), State::Clean);
    }
}
