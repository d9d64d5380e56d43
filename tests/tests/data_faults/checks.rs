//! What the campaign looks for, shown to it: a check that cannot fail is no check.

use crate::{
    common::{
        data::{Scene, server_is_tidy},
        refused,
    },
    disk::nothing_named_after,
};
use e2e::{
    Run,
    campaign::{Count, Random, Tally},
};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[0] ^= 1;
    let _ = fs::remove_file(file);
    fs::write(file, bytes).unwrap();
}

/// Does one thing wrong, asks the check, and undoes it: the check must pass before, count a loss, and pass after.
fn found(tally: &Tally, what: &str, check: impl Fn(), wrong: impl FnOnce(), undo: impl FnOnce()) {
    assert!(tally.attempt(what, "before", &check).is_some(), "{what}: the check fails where all is well");
    wrong();
    assert!(tally.attempt(what, "something is wrong", &check).is_none(), "{what}: nobody saw it");
    undo();
    assert!(tally.attempt(what, "after", &check).is_some(), "{what}: the check fails after it was undone");
    assert_eq!(tally.count(what), Count { tried: 3, survived: 2 });
}

#[test]
fn what_is_wrong_here_is_seen() {
    let tally = Tally::begin("checks");
    let scene = Scene::small(&mut Random::new(tally.seed, 1), None);
    scene.run(&["data", "push"]).ok();
    let at = |path: &str| scene.project.path(path);
    let (file, script, link) = (at("data/raw/small/00.csv"), at("data/raw/run.sh"), at("data/raw/link"));
    let whole = || scene.whole();
    found(&tally, "a flipped bit", whole, || flip(&file), || flip(&file));
    found(&tally, "a torn file", || scene.not_torn(&[]), || flip(&file), || flip(&file));
    let bytes = fs::read(&file).unwrap();
    found(&tally, "a missing file", whole, || fs::remove_file(&file).unwrap(), || fs::write(&file, &bytes).unwrap());
    let mode = |mode| fs::set_permissions(&script, fs::Permissions::from_mode(mode)).unwrap();
    found(&tally, "a lost bit of execution", whole, || mode(0o644), || mode(0o755));
    let point = |to: &str| {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(to, &link).unwrap();
    };
    found(&tally, "a link to elsewhere", whole, || point("/etc/passwd"), || point("small/00.csv"));
    let folder = at("data/raw/nothing");
    let (remove, make) = (|| fs::remove_dir(&folder).unwrap(), || fs::create_dir(&folder).unwrap());
    found(&tally, "a lost empty folder", whole, remove, make);
    for left in ["data/raw/.sealift-x", ".sealift/cache/data/tmp/x", "data/.tmpAbC"] {
        let path = at(left);
        let lay = || {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
        };
        found(&tally, left, || scene.tidy(), lay, || fs::remove_file(&path).unwrap());
    }
    let pack = e2e_files(&at(".sealift/cache/data/packs")).remove(0);
    found(&tally, "a false pack", || scene.nothing_false_is_cached(), || flip(&pack), || flip(&pack));
    let store = scene.project.store_folder();
    for left in ["uploads/one", "tmp/one/x"] {
        let path = store.join(left);
        let top = store.join(left.split('/').next().unwrap());
        let existed = top.exists();
        let lay = || {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
        };
        let clear = || {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(path.parent().unwrap());
            assert!(existed || !top.exists() || fs::remove_dir(&top).is_ok() || top.exists());
        };
        found(&tally, left, || server_is_tidy(&store), lay, clear);
    }
    // And what the program itself says of a store that lost something.
    let key = scene.keys().into_iter().find(|key| key.starts_with("packs/")).unwrap();
    let file = crate::common::objects::file(&store, &key);
    let bytes = fs::read(&file).unwrap();
    let verifies = || scene.verified();
    found(&tally, "a lost pack", verifies, || fs::remove_file(&file).unwrap(), || fs::write(&file, &bytes).unwrap());
}

fn e2e_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let files = crate::common::data::entries(folder).into_iter();
    files
        .filter(|(_, entry)| matches!(entry, crate::common::data::Entry::File(..)))
        .map(|(path, _)| folder.join(path))
        .collect()
}

#[test]
fn what_is_wrong_with_a_refusal_is_seen() {
    let run = |code: i32, stderr: &str| Run {
        command: "sealift data push".to_owned(),
        code: Some(code),
        signal: None,
        stdout: String::new(),
        stderr: stderr.to_owned(),
        took: Duration::ZERO,
    };
    let good = "error: cannot push data/raw\n  why: the store s3://b does not answer\n  next: sealift doctor\n";
    let tally = Tally::begin("refusals");
    let refuse = |what: &'static str, code: i32, text: &str| {
        tally.attempt(what, "", || drop(refused(&run(code, text), 69).says(&["s3://b"]).then("doctor"))).is_some()
    };
    assert!(refuse("a good one", 69, good));
    assert!(!refuse("success", 0, good));
    assert!(!refuse("another code", 70, good));
    assert!(!refuse("no next command", 69, "error: cannot push data/raw\n  why: the store s3://b does not answer\n"));
    assert!(!refuse("another next command", 69, &good.replace("doctor", "status")));
    assert!(!refuse("no object", 69, &good.replace("s3://b", "it")));
    assert!(!refuse("nothing", 69, ""));
    assert!(!refuse("a panic", 69, &format!("{good}thread 'main' panicked at src/lib.rs:1\n")));
}

#[test]
fn a_name_for_what_is_not_durable_is_seen() {
    let failed = "7 fsync(9</d/tmp/abc>) = -1 EIO (Input/output error) (INJECTED)\n";
    let split = "7 fsync(9</d/tmp/abc> <unfinished ...>\n8 fsync(3</d/tmp/x>) = 0\n\
                 7 <... fsync resumed>) = -1 EIO (Input/output error) (INJECTED)\n";
    let named = "8 renameat2(AT_FDCWD</d>, \"/d/tmp/abc\", AT_FDCWD</d>, \"/d/packs/abc\", 0) = 0\n";
    let other = named.replace("tmp/abc", "tmp/x");
    let tally = Tally::begin("durability");
    let fine = |log: String| tally.attempt("log", "", || nothing_named_after(&log)).is_some();
    assert!(fine(failed.to_owned()) && fine(format!("{named}{failed}")) && fine(format!("{split}{other}")));
    assert!(!fine(format!("{failed}{named}")));
    assert!(!fine(format!("{split}{named}")));
    assert!(!fine(named.to_owned()), "nothing failed in it");
}
