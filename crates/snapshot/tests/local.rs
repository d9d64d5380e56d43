//! Adding, comparing and checking out, without a store.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fixture, chain, digest_of_tree, noise, one_of_everything, walk};
use domain::Class;
use snapshot::{Error, Manifest, Pointer, Repository, State, diff};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

#[test]
fn adding_writes_a_pointer_and_keeps_the_data_out_of_git() {
    let f = Fixture::new();
    one_of_everything(&f);
    f.write("data/.gitignore", "old");
    let added = f.add("data/raw");
    assert!(added.changed);
    assert_eq!(added.pointer_path, f.path("data/raw.snapshot.toml"));
    assert_eq!(Pointer::read(&added.pointer_path).unwrap(), added.pointer);
    assert_eq!((added.pointer.files, added.pointer.bytes), (10, 3_216_038));
    assert_eq!(fs::read_to_string(f.path("data/.gitignore")).unwrap(), "old\n/raw\n");
    assert_eq!(f.state("data/raw.snapshot.toml"), State::Clean);
    let again = f.add("data/raw");
    assert!(!again.changed);
    assert_eq!((again.new_bytes, again.pointer.digest), (0, added.pointer.digest));
    assert_eq!(fs::read_to_string(f.path("data/.gitignore")).unwrap(), "old\n/raw\n");
}

#[test]
fn the_same_tree_gives_the_same_snapshot_and_the_same_packs() {
    let (a, b) = (Fixture::new(), Fixture::new());
    for f in [&a, &b] {
        one_of_everything(f);
    }
    assert_eq!(a.add("data/raw").pointer.digest, b.add("data/raw").pointer.digest);
    let names =
        |f: &Fixture| f.cached_packs().iter().map(|path| path.file_name().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    assert_eq!(names(&a).len(), 1);
}

#[test]
fn what_is_known_is_not_stored_again() {
    let f = Fixture::new();
    f.write("data/raw/a", noise(2_000_000, 3));
    let first = f.add("data/raw");
    assert!(first.new_bytes > 1_999_000);
    f.write("data/raw/b", noise(2_000_000, 3));
    f.write("other/c", noise(2_000_000, 3));
    assert_eq!(f.add("data/raw").new_bytes, 0);
    assert_eq!(f.add("other").new_bytes, 0);
}

#[test]
fn status_tells_added_removed_changed_and_missing() {
    let f = Fixture::new();
    one_of_everything(&f);
    f.add("data/raw");
    f.write("data/raw/new", "n");
    fs::remove_file(f.path("data/raw/empty")).unwrap();
    f.write("data/raw/a-b/x", "SORTED before a/");
    fs::set_permissions(f.path("data/raw/middle.bin"), fs::Permissions::from_mode(0o755)).unwrap();
    let State::Modified { added, removed, changed } = f.state("data/raw.snapshot.toml") else { panic!("not modified") };
    assert_eq!((added, removed), (vec!["new".to_owned()], vec!["empty".to_owned()]));
    assert_eq!(changed, ["a-b/x", "middle.bin"]);
    fs::remove_dir_all(f.path("data/raw")).unwrap();
    assert_eq!(f.state("data/raw.snapshot.toml"), State::Missing);
}

#[test]
fn a_change_in_the_same_tick_with_the_same_size_and_time_is_seen() {
    for round in 0..20 {
        let f = Fixture::new();
        f.write("data/raw/a", "before");
        let time = fs::metadata(f.path("data/raw/a")).unwrap().modified().unwrap();
        f.add("data/raw");
        // In place: the inode stays; then the time is put back.
        fs::write(f.path("data/raw/a"), "after!").unwrap();
        fs::File::options().write(true).open(f.path("data/raw/a")).unwrap().set_modified(time).unwrap();
        assert_ne!(f.state("data/raw.snapshot.toml"), State::Clean, "round {round}");
        assert!(f.add("data/raw").changed, "round {round}");
    }
}

#[test]
fn checkout_restores_what_was_lost_and_respects_what_was_changed() {
    let f = Fixture::new();
    one_of_everything(&f);
    let first = f.add("data/raw").pointer;
    f.write("data/raw/a-b/x", "second");
    let second = f.add("data/raw").pointer;

    // Unchanged since the last add: replaced without being forced.
    let done = f.repository.checkout(&first, false, &f.events).unwrap();
    assert_eq!((done.written, done.removed), (1, 0));
    assert_eq!(fs::read_to_string(f.path("data/raw/a-b/x")).unwrap(), "sorted before a/");

    // Changed and in no snapshot: refused, and nothing at all is touched.
    f.write("data/raw/a-b/x", "third, never added");
    fs::remove_file(f.path("data/raw/empty")).unwrap();
    let error = f.repository.checkout(&second, false, &f.events).unwrap_err();
    assert_eq!(error.class(), Class::NotPermitted);
    assert!(error.to_string().contains("a-b/x"), "{error}");
    assert!(!f.path("data/raw/empty").exists());
    assert_eq!(fs::read_to_string(f.path("data/raw/a-b/x")).unwrap(), "third, never added");

    // What the snapshot does not have stays, and goes with force.
    f.write("data/raw/mine", "m");
    let done = f.repository.checkout(&second, true, &f.events).unwrap();
    assert_eq!((done.removed, done.kept.len()), (1, 0));
    assert!(!f.path("data/raw/mine").exists() && f.path("data/raw/empty").exists());
    f.write("data/raw/mine", "m");
    let done = f.repository.checkout(&second, false, &f.events).unwrap();
    assert_eq!((done.written, done.kept.as_slice()), (0, &["mine".to_owned()][..]));
    assert!(f.path("data/raw/mine").exists());
    fs::remove_file(f.path("data/raw/mine")).unwrap();
    f.write("data/second.snapshot.toml", second.text());
    assert_eq!(common::digest_of_tree(&f.path("data/raw")), second.digest);
}

#[test]
fn a_directory_becomes_a_file_and_back() {
    let f = Fixture::new();
    f.write("data/raw/a/b/c", "deep");
    fs::create_dir_all(f.path("data/raw/a/hollow")).unwrap();
    let tree = f.add("data/raw").pointer;
    fs::remove_dir_all(f.path("data/raw/a")).unwrap();
    f.write("data/raw/a", "flat");
    let flat = f.add("data/raw").pointer;
    fs::remove_dir_all(f.path("data/raw")).unwrap();
    f.write("data/raw", "one file");
    let file = f.add("data/raw").pointer;
    for pointer in [&tree, &flat, &file, &tree, &file, &flat, &tree] {
        f.repository.checkout(pointer, false, &f.events).unwrap();
        pointer.write(&f.path("data/raw.snapshot.toml")).unwrap();
        assert_eq!(f.state("data/raw.snapshot.toml"), State::Clean);
    }
    assert_eq!(fs::read_to_string(f.path("data/raw/a/b/c")).unwrap(), "deep");
    assert!(f.path("data/raw/a/hollow").is_dir());
    // The same with a local change in the way.
    f.write("data/raw/a/b/c", "changed");
    for pointer in [&flat, &file] {
        assert!(matches!(f.repository.checkout(pointer, false, &f.events), Err(Error::LocalChanges { .. })));
    }
    f.repository.checkout(&file, true, &f.events).unwrap();
    assert_eq!(fs::read_to_string(f.path("data/raw")).unwrap(), "one file");
}

#[test]
fn nothing_is_written_through_a_link() {
    let f = Fixture::new();
    f.write("data/raw/a/b", "inside");
    let pointer = f.add("data/raw").pointer;
    f.write("outside/b", "outside");
    fs::remove_dir_all(f.path("data/raw/a")).unwrap();
    std::os::unix::fs::symlink(f.path("outside"), f.path("data/raw/a")).unwrap();
    let error = f.repository.checkout(&pointer, false, &f.events).unwrap_err();
    assert!(matches!(error, Error::LocalChanges { .. }), "{error}");
    f.repository.checkout(&pointer, true, &f.events).unwrap();
    assert_eq!(fs::read_to_string(f.path("outside/b")).unwrap(), "outside");
    assert!(f.path("data/raw/a").symlink_metadata().unwrap().is_dir());
    // The data path itself as a link is refused whole.
    fs::remove_dir_all(f.path("data/raw")).unwrap();
    std::os::unix::fs::symlink(f.path("outside"), f.path("data/raw")).unwrap();
    for error in [
        f.repository.checkout(&pointer, true, &f.events).unwrap_err(),
        f.repository.add(Path::new("data/raw"), &f.events).unwrap_err(),
    ] {
        assert!(error.to_string().contains("data/raw is a symbolic link"), "{error}");
    }
    assert_eq!(fs::read_to_string(f.path("outside/b")).unwrap(), "outside");
}

#[test]
fn paths_outside_and_things_that_are_no_files_are_refused_by_name() {
    let f = Fixture::new();
    f.write("data/raw/a", "a");
    for path in ["../x", "/etc", ".", ".sealift", ".sealift/cache/packs", "data/../../x"] {
        let error = f.repository.add(Path::new(path), &f.events).unwrap_err();
        assert_eq!(error.class(), Class::BadInput, "{path}: {error}");
    }
    let error = f.repository.add(Path::new("data/none"), &f.events).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(chain(&error).contains("data/none"), "{}", chain(&error));
    assert!(f.repository.add(&f.path("data/raw"), &f.events).is_ok(), "absolute and inside");
    let made = Command::new("mkfifo").arg(f.path("data/raw/pipe")).status().unwrap();
    assert!(made.success());
    let error = f.repository.add(Path::new("data/raw"), &f.events).unwrap_err();
    assert!(error.to_string().ends_with("data/raw/pipe is a fifo, which a snapshot cannot hold"), "{error}");
}

/// Not a test of its own: what [`an_unreadable_file_is_named`] runs as an ordinary user.
#[test]
fn child_adds_what_it_cannot_read() {
    let Ok(root) = std::env::var("SNAPSHOT_TEST_ROOT") else { return };
    let root = Path::new(&root);
    let repository = Repository::new(root.to_owned(), root.join("cache"));
    let error = repository.add(Path::new("raw"), &domain::Events::nowhere()).unwrap_err();
    assert_eq!(error.class(), Class::BadInput);
    assert!(chain(&error).contains("raw/secret: Permission denied"), "{}", chain(&error));
    assert!(!root.join("raw.snapshot.toml").exists());
}

#[test]
fn an_unreadable_file_is_named() {
    let f = Fixture::new();
    f.write("raw/open", "o");
    f.write("raw/secret", "s");
    fs::set_permissions(f.path("raw/secret"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(f.root.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Root may read everything, so it becomes someone else, who may not be able to reach the build directory.
    let program = f.path("test-program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["--exact", "child_adds_what_it_cannot_read"]).env("SNAPSHOT_TEST_ROOT", f.root.path());
    if rustix::process::geteuid().is_root() {
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        std::os::unix::process::CommandExt::gid(&mut command, 65534);
    }
    let output = command.current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// Calls something once, when a task has got somewhere.
struct Meanwhile(std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl domain::EventSink for Meanwhile {
    fn emit(&self, event: domain::Event) {
        if let domain::Event::TaskAdvanced { done: 1.., .. } = event
            && let Some(action) = self.0.lock().unwrap().take()
        {
            action();
        }
    }
}

#[test]
fn a_file_that_changes_while_it_is_hashed_is_named_and_nothing_is_kept() {
    type Change = fn(&Path);
    let grow: Change = |path| fs::write(path, noise(20_000_001, 1)).unwrap();
    let cut: Change = |path| fs::File::options().write(true).open(path).unwrap().set_len(10).unwrap();
    let touch: Change = |path| fs::write(path, noise(20_000_000, 2)).unwrap();
    let replace: Change = |path| {
        fs::write(path.with_extension("new"), noise(20_000_000, 1)).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    };
    let remove: Change = |path| fs::remove_file(path).unwrap();
    for change in [grow, cut, touch, replace, remove] {
        let f = Fixture::new();
        f.write("data/raw/big", noise(20_000_000, 1));
        f.write("data/raw/z", "small");
        let path = f.path("data/raw/big");
        let action: Box<dyn FnOnce() + Send> = Box::new(move || change(&path));
        let events = domain::Events::new(Meanwhile(std::sync::Mutex::new(Some(action))));
        let error = f.repository.add(Path::new("data/raw"), &events).unwrap_err();
        assert_eq!(error.to_string(), format!("{} changed while it was being read", f.path("data/raw/big").display()));
        assert_eq!(error.class(), Class::BadInput);
        assert!(!f.path("data/raw.snapshot.toml").exists());
        assert!(walk(&f.path(".sealift/cache/snapshots")).is_empty());
    }
}

#[test]
fn damage_in_the_cache_is_named_and_quarantined() {
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    let verified = f.repository.verify_local(&pointer, &f.events).unwrap();
    assert_eq!((verified.files, verified.packs), (10, 1));
    let pack = f.cached_packs().remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[1000] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let error = f.repository.verify_local(&pointer, &f.events).unwrap_err();
    assert_eq!(error.class(), Class::Integrity);
    assert!(error.to_string().contains(pack.file_name().unwrap().to_str().unwrap()), "{error}");
    assert!(!pack.exists());
    // The data is still there: adding it again makes the cache whole.
    assert_eq!(f.add("data/raw").pointer.digest, pointer.digest);
    assert!(pack.exists());
    f.repository.verify_local(&pointer, &f.events).unwrap();
    f.write("data/raw/a.csv", "damaged");
    let error = f.repository.verify_local(&pointer, &f.events).unwrap_err();
    assert!(error.to_string().contains("data/raw/a.csv is not as in the snapshot"), "{error}");
}

#[test]
fn an_emptied_or_torn_cache_file_counts_as_absent() {
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    for folder in ["snapshots", "layouts", "stat", "packs"] {
        for file in walk(&f.path(".sealift/cache").join(folder)).into_iter().filter(|path| path.is_file()) {
            for keep in [0, 20] {
                let bytes = fs::read(&file).unwrap();
                fs::write(&file, &bytes[..keep]).unwrap();
                assert_eq!(f.add("data/raw").pointer, pointer, "{folder}");
                assert_eq!(f.state("data/raw.snapshot.toml"), State::Clean, "{folder}");
                f.repository.verify_local(&pointer, &f.events).unwrap();
                fs::remove_dir_all(f.path("data/raw")).unwrap();
                f.repository.checkout(&pointer, false, &f.events).unwrap();
            }
        }
    }
}

#[test]
fn commands_at_once_do_not_disturb_each_other() {
    let f = Fixture::new();
    one_of_everything(&f);
    for name in ["one", "two", "three"] {
        f.write(&format!("data/{name}/file"), noise(600_000, 9));
    }
    let expected = f.add("data/raw").pointer.digest;
    std::thread::scope(|scope| {
        for round in 0..4 {
            let f = &f;
            scope.spawn(move || assert_eq!(f.add("data/raw").pointer.digest, expected));
            let name = ["data/one", "data/two", "data/three", "data/one"][round];
            scope.spawn(move || f.add(name));
            scope.spawn(move || f.state("data/raw.snapshot.toml"));
        }
    });
    let ignored = fs::read_to_string(f.path("data/.gitignore")).unwrap();
    let mut lines: Vec<&str> = ignored.lines().collect();
    lines.sort();
    assert_eq!(lines, ["/one", "/raw", "/three", "/two"]);
    assert_eq!(f.state("data/raw.snapshot.toml"), State::Clean);
    assert_eq!(walk(&f.path(".sealift/cache/tmp")), Vec::<std::path::PathBuf>::new());
}

#[test]
fn snapshots_can_be_compared() {
    let f = Fixture::new();
    one_of_everything(&f);
    let first = f.add("data/raw").pointer.digest;
    f.write("data/raw/a-b/x", "second");
    fs::rename(f.path("data/raw/empty"), f.path("data/raw/zero")).unwrap();
    let second = f.add("data/raw").pointer.digest;
    let manifest = |digest| -> Manifest { f.repository.manifest(digest).unwrap().unwrap() };
    let found = diff(&manifest(&first), &manifest(&second));
    assert_eq!(found.changed, [b"a-b/x"]);
    assert_eq!(found.added, [b"zero"]);
    assert_eq!(found.removed, [b"empty"]);
    assert!(diff(&manifest(&first), &manifest(&first)).is_empty());
}

#[test]
fn a_verification_that_read_nothing_is_no_success() {
    let f = Fixture::new();
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    let data = f.path("data/raw");
    // The data alone is enough, and so is the cache alone.
    let kept = f.path("kept");
    fs::rename(&data, &kept).unwrap();
    let verified = f.repository.verify_local(&pointer, &f.events).unwrap();
    assert_eq!((verified.files, verified.bytes, verified.packs), (10, pointer.bytes, 1));
    for folder in ["packs", "layouts", "snapshots"] {
        let there = f.path(".sealift/cache").join(folder);
        fs::rename(&there, f.path("aside")).unwrap();
        let error = f.repository.verify_local(&pointer, &f.events).unwrap_err();
        assert!(matches!(&error, Error::NotCached { object, .. } if object.starts_with(folder)), "{folder}: {error}");
        assert_eq!(error.class(), Class::NotFound);
        fs::rename(f.path("aside"), &there).unwrap();
    }
    fs::remove_dir_all(f.path(".sealift/cache")).unwrap();
    fs::rename(&kept, &data).unwrap();
    let verified = f.repository.verify_local(&pointer, &f.events).unwrap();
    assert_eq!((verified.files, verified.packs), (10, 0));
}

#[test]
fn a_link_out_of_the_repository_on_the_way_to_the_data_is_refused() {
    let (f, outside) = (Fixture::new(), tempfile::tempdir().unwrap());
    one_of_everything(&f);
    let pointer = f.add("data/raw").pointer;
    fs::create_dir(f.path("inside")).unwrap();
    for (link, target) in [("out", outside.path().to_owned()), ("cached", f.path(".sealift/cache"))] {
        std::os::unix::fs::symlink(target, f.path(link)).unwrap();
        let through = Pointer { at: f.path(link).join("raw.snapshot.toml"), ..pointer.clone() };
        let error = f.repository.checkout(&through, true, &f.events).unwrap_err();
        assert!(matches!(error, Error::Path { .. }) && error.class() == Class::BadInput, "{error}");
        assert!(error.to_string().contains("symbolic link"), "{error}");
        let through =
            Pointer { path: Path::new(link).join("deep/raw"), at: f.path("p.snapshot.toml"), ..pointer.clone() };
        f.repository.checkout(&through, true, &f.events).unwrap_err();
        f.repository.add(&Path::new(link).join("raw"), &f.events).unwrap_err();
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    // A link that stays inside is the repository's own business.
    std::os::unix::fs::symlink("inside", f.path("in")).unwrap();
    let through = Pointer { at: f.path("in/raw.snapshot.toml"), ..pointer };
    f.repository.checkout(&through, false, &f.events).unwrap();
    assert_eq!(digest_of_tree(&f.path("inside/raw")), through.digest);
}

#[test]
fn a_pointer_that_leads_into_git_is_refused_and_installs_no_hook() {
    let f = Fixture::new();
    f.write("data/raw/hooks/pre-commit", "#!/bin/sh\n");
    fs::set_permissions(f.path("data/raw/hooks/pre-commit"), fs::Permissions::from_mode(0o755)).unwrap();
    let pointer = f.add("data/raw").pointer;
    f.write(".git/HEAD", "ref: refs/heads/main\n");
    std::os::unix::fs::symlink(".git", f.path("link")).unwrap();
    for (path, force) in
        [".git", ".GIT", ".git/modules/x", "sub/.Git", "link/hooks"].iter().zip([true, false].iter().cycle())
    {
        let hostile = Pointer { path: path.into(), at: f.path("raw.snapshot.toml"), ..pointer.clone() };
        for done in [
            f.repository.checkout(&hostile, *force, &f.events).map(drop),
            f.repository.verify_local(&hostile, &f.events).map(drop),
            f.repository.add(Path::new(path), &f.events).map(drop),
        ] {
            let error = done.unwrap_err();
            assert!(
                matches!(error, Error::Path { .. }) && error.to_string().contains("a .git folder"),
                "{path}: {error}"
            );
            assert_eq!(error.class(), Class::BadInput);
        }
    }
    let there: Vec<_> = walk(&f.path(".git"));
    assert_eq!(there, [f.path(".git/HEAD")]);
    assert!(!f.path("sub").exists() && !f.path("raw").exists());
}

#[test]
fn what_a_killed_checkout_tried_out_is_gone_after_the_next() {
    let f = Fixture::new();
    f.write("data/raw/a.csv", "one");
    let first = f.add("data/raw").pointer;
    f.write("data/raw/a.csv", "two");
    f.add("data/raw");
    f.write("data/raw/.sealift-tmp/.sealift-Case-0123", "");
    assert_eq!(f.state("data/raw.snapshot.toml"), State::Clean, "it is no part of the data");
    f.repository.checkout(&first, false, &f.events).unwrap();
    assert!(!f.path("data/raw/.sealift-tmp").exists());
}
