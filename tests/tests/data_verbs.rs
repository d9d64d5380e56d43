//! Data as people keep it: remotes, parts, differences, and what is collected when nobody needs it any more.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use e2e::{Project, Settings};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs};

/// A repository with data, a key, and a remote that is a folder.
fn begin() -> Project {
    let project = Project::service_with(Settings::full());
    let config = project.read("Sealift.toml");
    project.write("Sealift.toml", format!("{config}\n[store.remote.backup]\npath = \"../backup\"\n"));
    project.run(["data", "add", "raw"]).ok();
    project.commit("data");
    project
}

/// Changes the data, takes it in, and commits it.
fn next(project: &Project, text: &str) -> String {
    project.write("data/raw/part-0.csv", text);
    let added = project.json(["data", "add", "raw"]).ok().result();
    project.commit(text);
    added[0]["digest"].as_str().unwrap().to_owned()
}

fn keys(project: &Project) -> BTreeSet<String> {
    let store = project.store();
    let listed = project.block_on(store.list("")).unwrap();
    let data = |key: &String| ["packs/", "layouts/", "snapshots/"].iter().any(|family| key.starts_with(family));
    listed.into_iter().map(|(key, _)| key).filter(data).collect()
}

fn removed(plan: &Value) -> usize {
    plan["plan"]["remove"].as_array().unwrap().len()
}

#[test]
fn data_goes_to_and_comes_from_a_remote_by_name() {
    let project = begin();
    project.run(["data", "push", "--remote", "bakup"]).fails(66).says("backup");
    assert_eq!(project.json(["data", "push", "--remote", "backup"]).ok().result()[0]["already"], false);
    assert_eq!(project.json(["data", "push", "--remote", "backup"]).ok().result()[0]["already"], true);
    assert!(keys(&project).is_empty(), "nothing went to the store");
    project.run(["data", "status", "--remote", "bakup"]).fails(66).says("backup");
    let pushed =
        |remote: &[&str]| project.json([&["data", "status"], remote].concat()).ok().result()[0]["pushed"].clone();
    assert_eq!((pushed(&[]), pushed(&["--remote", "backup"])), (json!(false), json!(true)));
    fs::remove_dir_all(project.path("data/raw")).unwrap();
    fs::remove_dir_all(project.path(".sealift/cache")).unwrap();
    project.run(["data", "pull"]).fails(66).says("sealift");
    project.run(["data", "pull", "--remote", "backup"]).ok();
    assert_eq!(fs::read_dir(project.path("data/raw")).unwrap().count(), 5);
    project.run(["data", "verify", "--remote", "backup"]).ok().says("verified");
}

#[test]
fn a_part_of_the_data_is_pulled_alone() {
    let project = begin();
    project.write("data/raw/deep/er/file", "deep");
    next(&project, "with a folder");
    project.run(["data", "push"]).ok();
    fs::remove_dir_all(project.path("data/raw")).unwrap();
    fs::remove_dir_all(project.path(".sealift/cache")).unwrap();
    project.run(["data", "pull", "raw", "--path", "deep"]).ok();
    assert_eq!(project.read("data/raw/deep/er/file"), "deep");
    assert_eq!(fs::read_dir(project.path("data/raw")).unwrap().count(), 1, "and nothing else");
    project.run(["data", "pull", "raw", "--path", "data/raw/part-1.csv"]).ok();
    assert_eq!(project.read("data/raw/part-1.csv"), "x,y\n1,2\n");
    project.run(["data", "pull", "raw", "--path", "deap"]).fails(66).says("deap");
    project.run(["data", "pull", "raw", "--path", "../outside"]).fails(65);
    project.run(["data", "pull"]).ok();
    assert_eq!(fs::read_dir(project.path("data/raw")).unwrap().count(), 6);
}

#[test]
fn two_versions_are_compared() {
    let project = begin();
    next(&project, "first");
    fs::remove_file(project.path("data/raw/part-1.csv")).unwrap();
    project.write("data/raw/new.csv", "new");
    project.run(["data", "add", "raw"]).ok();
    let diff = project.json(["data", "diff", "raw"]).ok().result();
    assert_eq!(
        (&diff["added"], &diff["removed"], &diff["changed"]),
        (&json!(["new.csv"]), &json!(["part-1.csv"]), &json!([]))
    );
    let diff = project.json(["data", "diff", "raw", "HEAD~1", "HEAD"]).ok().result();
    assert_eq!((&diff["added"], &diff["changed"]), (&json!([]), &json!(["part-0.csv"])));
    project.run(["data", "diff", "raw", "HEAD", "HEAD"]).ok().says("the same");
    project.run(["data", "diff", "raw", "nowhere"]).fails(66).says("nowhere");
}

#[test]
fn what_nobody_needs_is_collected_and_nothing_else() {
    let project = begin();
    let first = next(&project, "one");
    project.run(["data", "push"]).ok();
    let second = next(&project, "two");
    project.run(["data", "push"]).ok();
    // A branch of its own, whose data nobody will need.
    project.git(["checkout", "--quiet", "-b", "trial"]);
    let trial = next(&project, "trial");
    project.run(["data", "push"]).ok();
    project.git(["checkout", "--quiet", "main"]);
    project.run(["data", "checkout"]).ok();
    let all = keys(&project);

    // Everything is reachable, also by history; then the branch goes, and what is young stays.
    assert_eq!(removed(&project.json(["data", "gc", "--grace", "0s"]).ok().result()), 0);
    project.git(["branch", "--quiet", "-D", "trial"]);
    let young = project.json(["data", "gc"]).ok().result();
    assert_eq!(removed(&young), 0, "younger than the grace");
    let plan = project.json(["data", "gc", "--grace", "0s"]).ok().result();
    assert!(removed(&plan) > 0 && plan["collected"].is_null(), "{plan}");
    project.run(["data", "gc", "--grace", "0s"]).ok().says(&trial[7..19]).says("--yes");
    assert_eq!(keys(&project), all, "planning removes nothing");
    let gc = project.run(["data", "gc", "--grace", "0s", "--yes"]).ok();
    gc.says("to remove: ").says(&trial[7..19]).says("removed");
    let left = keys(&project);
    assert!(left.len() < all.len() && left.is_subset(&all));
    assert!(!left.iter().any(|key| key.ends_with(&trial[7..])), "the branch's data is gone");
    assert_eq!(removed(&project.json(["data", "gc", "--grace", "0s", "--yes"]).ok().result()), 0, "once");

    // The commit before can still be pulled, where others lose it.
    fs::remove_dir_all(project.path(".sealift/cache")).unwrap();
    for (revision, digest) in [("HEAD~1", &first), ("main", &second)] {
        project.git(["checkout", "--quiet", revision]);
        assert!(project.read("data/raw.snapshot.toml").contains(digest.as_str()));
        project.run(["data", "pull", "--force"]).ok();
        project.run(["data", "verify"]).ok();
    }
    project.run(["data", "gc", "--cache", "--yes"]).ok();
    project.run(["data", "verify", "--local"]).ok();
}

#[test]
fn what_stashes_and_pointers_of_other_versions_name_stays() {
    let project = begin();
    project.run(["data", "push"]).ok();
    let mut stashed = Vec::new();
    for text in ["stashed first", "stashed second"] {
        project.write("data/raw/part-0.csv", text);
        let added = project.json(["data", "add", "raw"]).ok().result();
        stashed.push(added[0]["digest"].as_str().unwrap().to_owned());
        project.run(["data", "push"]).ok();
        project.git(["stash", "--quiet"]);
    }
    let later = next(&project, "of a later version");
    project.run(["data", "push"]).ok();
    let text = project.read("data/raw.snapshot.toml");
    project.write("data/raw.snapshot.toml", text.replace("v = 1", "v = 2"));
    project.commit("as a later version writes it");
    project.write("data/raw.snapshot.toml", text.replace(&later, &stashed[0]));
    let kept = keys(&project);
    let gc = project.sealift(["data", "gc", "--grace", "0s", "--yes"]).run().ok();
    gc.says("every digest in it is kept").says("nothing to remove");
    assert_eq!(keys(&project), kept);
    // One in which nothing can be made out stops everything.
    project.write("data/raw.snapshot.toml", "# Sealift data pointer. Version 9.\nv = 9\n");
    project.commit("as an even later version writes it");
    project.write("data/raw.snapshot.toml", &text);
    project.run(["data", "gc", "--grace", "0s", "--yes"]).fails(65).says("cannot be read").says("git cat-file -p");
    assert_eq!(keys(&project), kept);
}

#[test]
fn a_cut_that_finds_its_release_sealed_sees_that_its_data_is_there() {
    let project = begin();
    project.run(["model", "register", "price"]).ok();
    project.run(["release", "cut"]).ok();
    let store = project.store();
    let pack = keys(&project).into_iter().find(|key| key.starts_with("packs/")).unwrap();
    project.block_on(store.objects().delete(&pack)).unwrap();
    project.run(["release", "cut"]).ok().says("sealed before");
    assert!(keys(&project).contains(&pack), "the pack is there again");
}

#[test]
fn what_is_damaged_in_the_store_is_healed_from_a_remote_and_every_set_is_read() {
    let project = begin();
    project.run(["data", "push"]).ok();
    project.run(["data", "push", "--remote", "backup"]).ok();
    let store = project.store();
    let pack = keys(&project).into_iter().find(|key| key.starts_with("packs/")).unwrap();
    let size = project.block_on(store.objects().head(&pack)).unwrap().unwrap().size;
    let damaged = store::Body::Bytes(vec![7; usize::try_from(size).unwrap()].into());
    project.block_on(store.objects().put(&pack, damaged, store::Condition::None)).unwrap();
    fs::remove_dir_all(project.path("data/raw")).unwrap();
    fs::remove_dir_all(project.path(".sealift/cache")).unwrap();
    project.run(["data", "verify", "--remote"]).ok().says("is whole now");
    project.run(["data", "verify", "--remote"]).ok().says("verified");
}

#[test]
fn what_a_release_needs_stays_when_every_branch_forgot_it() {
    let project = begin();
    project.run(["model", "register", "price"]).ok();
    project.git(["checkout", "--quiet", "-b", "side"]);
    let needed = next(&project, "needed by the release");
    project.run(["model", "register", "price"]).ok();
    project.run(["release", "cut"]).ok();
    project.git(["checkout", "--quiet", "main"]);
    project.git(["branch", "--quiet", "-D", "side"]);
    project.run(["data", "checkout", "--force"]).ok();
    project.run(["data", "gc", "--grace", "0s", "--yes"]).ok();
    assert!(keys(&project).iter().any(|key| key.ends_with(&needed[7..])), "{:?}", keys(&project));
    let to = project.folder().join("restored");
    project.run(["restore", "svc@1.0.0", "--to", to.to_str().unwrap()]).ok();
}

#[test]
fn a_collection_that_cannot_know_every_root_removes_nothing() {
    let project = begin();
    project.run(["data", "push"]).ok();
    let shallow = project.folder().join("shallow");
    let from = format!("file://{}", project.root().display());
    next(&project, "second");
    project.git(["clone", "--quiet", "--depth", "1", &from, shallow.to_str().unwrap()]);
    fs::create_dir_all(shallow.join(".sealift")).unwrap();
    let gc = project.sealift(["data", "gc", "--grace", "0s", "--yes"]).dir(&shallow).run();
    gc.fails(65).says("shallow").says("git fetch --unshallow");
}
