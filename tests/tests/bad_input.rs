//! What a person gets wrong: each is refused with a documented exit code, in words that say what happened to what, why,
//! and what to run next, and nothing is lost or changed by it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, and counts are printed"
)]

mod common;

use common::{Refusal, objects, refused, tree};
use e2e::{Behaviour, Project, Running, Settings};
use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    net::TcpListener,
    os::unix::{
        ffi::OsStringExt,
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// A release of configuration and data: nothing is built and nothing runs.
const LIGHT: &str = r#"[project]
name = "wine"

[component.wine]
version_files = ["VERSION", "pyproject.toml"]
config_files = ["settings.toml"]
data = ["raw"]

[data.raw]
path = "data/raw"

[environment.staging]
target = "process"

[environment.production]
target = "process"
after = "staging"
"#;

fn light() -> Project {
    let project = Project::empty();
    project.write("Sealift.toml", LIGHT);
    project.write(".gitignore", ".sealift/\ndata/raw/\n");
    project.write("VERSION", "1.0.0\n");
    project.write("pyproject.toml", "[project]\nname = \"wine\"\nversion = \"1.0.0\"\n");
    project.write("settings.toml", "threshold = 5\n");
    project.write("data/raw/red.csv", "alcohol,quality\n9.4,5\n");
    project.write("data/raw/white.csv", "alcohol,quality\n8.8,6\n");
    project.run(["keys", "new"]).ok();
    project.run(["data", "add"]).ok();
    project.commit("The first commit");
    project
}

fn set_version(project: &Project, version: &str) {
    project.write("VERSION", format!("{version}\n"));
    project.write("pyproject.toml", format!("[project]\nname = \"wine\"\nversion = \"{version}\"\n"));
    project.commit(&format!("Version {version}"));
}

/// A run that must be refused, and must change nothing in the store and nothing in the repository.
#[track_caller]
fn refused_without_effect<const N: usize>(project: &Project, arguments: [&str; N], code: i32) -> Refusal {
    let before = (objects_of(project), tracked(project));
    let refusal = refused(&project.run(arguments), code);
    let after = (objects_of(project), tracked(project));
    assert_eq!(before.0.keys().collect::<Vec<_>>(), after.0.keys().collect::<Vec<_>>(), "objects came or went");
    assert!(before == after, "a refused command changed something");
    refusal
}

/// The objects of the store; probes of conditional writes come and go.
fn objects_of(project: &Project) -> std::collections::BTreeMap<String, Vec<u8>> {
    let store = project.store_folder();
    if !store.join("buckets").exists() {
        return std::collections::BTreeMap::new();
    }
    let all = objects::all(&store).into_iter().filter(|(key, _)| !key.starts_with("probes/"));
    all.map(|(key, file)| (key, fs::read(file).unwrap())).collect()
}

/// The files of the repository without Sealift's own folder and without git's.
fn tracked(project: &Project) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut files = tree(project.root());
    files.retain(|path, _| !path.starts_with(".git") && !path.starts_with(".sealift"));
    files
}

// Repositories ---------------------------------------------------------------------------------------------------------

#[test]
fn without_a_repository() {
    let project = light();
    fs::remove_dir_all(project.root().join(".git")).unwrap();
    refused_without_effect(&project, ["release", "cut"], 66).says(&["is not in a git repository"]).then("git init");
}

#[test]
fn without_a_commit() {
    let project = light();
    fs::remove_dir_all(project.root().join(".git")).unwrap();
    project.git(["init", "--quiet"]);
    refused_without_effect(&project, ["release", "cut"], 65).says(&["has no commit yet"]).then("git commit");
}

#[test]
fn a_dirty_tree_is_refused_and_its_files_are_named() {
    let project = light();
    project.write("settings.toml", "threshold = 6\n");
    project.write("notes.txt", "not added\n");
    let refusal = refused_without_effect(&project, ["release", "cut"], 65);
    refusal.says(&["not committed", "settings.toml", "notes.txt"]).then("git add");
    assert!(objects_of(&project).is_empty());
}

#[test]
fn a_name_in_the_tree_that_is_not_utf_8_is_a_change_like_any_other() {
    let project = light();
    let name = OsString::from_vec(b"caf\xe9.txt".to_vec());
    fs::write(project.root().join(name), "x").unwrap();
    refused_without_effect(&project, ["release", "cut"], 65).says(&["not committed", "caf"]).then("git add");
}

#[test]
fn a_detached_head_works_and_is_said() {
    let project = light();
    project.git(["checkout", "--quiet", "--detach"]);
    let run = project.run(["release", "cut"]);
    assert!(run.stderr.contains("HEAD is detached"), "{}", run.stderr);
    run.ok();
    let explained = project.run(["explain", "wine@1.0.0", "--format", "json"]);
    assert!(explained.stdout.contains("\"branch\":null"), "{}", explained.stdout);
    explained.ok();
}

// Configuration --------------------------------------------------------------------------------------------------------

#[test]
fn without_a_configuration() {
    let project = Project::empty();
    project.write("README.md", "nothing here\n");
    project.commit("The first commit");
    for arguments in [&["status"][..], &["release", "cut"], &["deploy", "staging"], &["data", "add"]] {
        refused(&project.run(arguments.iter().copied()), 66).says(&["no Sealift.toml"]).then("sealift init");
    }
    assert!(!project.root().join(".sealift").exists(), "a folder was made for nothing");
}

#[test]
fn every_problem_of_a_configuration_is_told_at_once_with_its_place() {
    let project = light();
    let wrong = r#"[project]
nmae = "wine"

[component.wine]
version_files = ["VERSION"]

[component.wine.run]
port = "eighty"

[environment.staging]
target = "dokcer"
strategy = "recreate"
gates = ["qualty"]

[gate.quality]
[[gate.quality.check]]
name = "smoke"
kind = "smoke"
"#;
    project.write("Sealift.toml", wrong);
    let refusal = refused_without_effect(&project, ["status"], 65).then("Sealift.toml");
    refusal.says(&[
        "Sealift.toml:2:1: ",
        "nmae",
        "did you mean name?",
        "Sealift.toml:8:1: component.wine.run.port",
        "Sealift.toml:11:1: environment.staging.target",
        "did you mean docker?",
        "Sealift.toml:13:10: environment.staging.gates",
        "did you mean quality?",
    ]);
    let run = project.run(["status", "--format", "json"]);
    let problems = run.error()["details"]["problems"]["list"].as_array().map_or(0, Vec::len);
    assert!(problems >= 4, "{}", run.stdout);
    run.fails(65);
}

#[test]
fn a_configuration_that_is_no_toml_says_where() {
    let project = light();
    project.write("Sealift.toml", "[project]\nname = \"wine\n");
    project.run(["doctor"]).fails(65).says("Sealift.toml:2:13: not TOML");
    project.write("Sealift.toml", "[project\n");
    refused_without_effect(&project, ["status"], 65).says(&["Sealift.toml:1:"]).then("sealift doctor");
    fs::write(project.root().join("Sealift.toml"), b"[project]\nname = \"w\xff\"\n").unwrap();
    refused_without_effect(&project, ["status"], 65).says(&["Sealift.toml", "UTF-8"]);
}

// Names and command lines ----------------------------------------------------------------------------------------------

#[test]
fn names_that_do_not_exist_come_with_the_near_ones() {
    let project = light();
    project.run(["release", "cut"]).ok();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["release", "cut", "wnie"], &["component", "wnie", "did you mean wine?"]),
        (&["deploy", "stagign"], &["environment", "stagign", "did you mean staging?"]),
        (&["history", "prodcution"], &["environment", "did you mean production?"]),
        (&["deploy", "staging", "wine@1.0.1"], &["release", "wine@1.0.1", "did you mean wine@1.0.0?"]),
        (&["explain", "wnie@1.0.0"], &["release", "did you mean wine@1.0.0?"]),
        (&["restore", "wine@9.9.9", "--to", "out"], &["release", "wine@9.9.9"]),
        (&["data", "push", "rae"], &["data set", "did you mean raw?"]),
        (&["rollback", "stagin"], &["environment", "did you mean staging?"]),
    ];
    for (arguments, words) in cases {
        let before = objects_of(&project);
        let run = project.run(arguments.iter().copied());
        let refusal = refused(&run, 66).says(words);
        assert!(before == objects_of(&project), "{arguments:?} changed the store");
        drop(refusal);
    }
    assert!(!project.root().join("out").exists());
}

#[test]
fn a_wrong_command_line_is_64_and_never_2() {
    let project = light();
    let lines: [&[&str]; 6] = [
        &[],
        &["deploy"],
        &["depoly", "staging"],
        &["status", "--nope"],
        &["promote", "wine@1.0.0"],
        &["release", "verify", "--bundle"],
    ];
    for line in lines {
        let run = project.run(line.iter().copied());
        assert!(!run.stderr.is_empty(), "{line:?} says nothing");
        run.fails(64);
    }
    let run = project.run(["depoly", "staging"]);
    assert!(run.stderr.contains("'deploy'"), "{}", run.stderr);
    run.fails(64);
    let run = project.run(["depoly", "staging", "--format", "json"]);
    assert_eq!(run.error()["exit"], 64, "{}", run.stdout);
    run.fails(64);
}

#[test]
fn an_argument_that_is_not_utf_8_is_no_panic() {
    let project = light();
    let strange = OsString::from_vec(b"st\xffging".to_vec());
    let run = project.run([OsStr::new("deploy"), &strange]).fails(64);
    assert!(!run.stderr.contains("panicked"), "{}", run.told());
    // A folder may have any name.
    let folder = project.root().parent().unwrap().join(&strange);
    fs::rename(project.root(), &folder).unwrap();
    let run = project.sealift([OsStr::new("status"), OsStr::new("-C"), folder.as_os_str()]).dir("/").run();
    fs::rename(&folder, project.root()).unwrap();
    run.ok();
}

// Versions and content -------------------------------------------------------------------------------------------------

#[test]
fn version_files_that_disagree_are_named_with_their_lines() {
    let project = light();
    project.write("VERSION", "1.1.0\n");
    project.commit("Half a version");
    let refusal = refused_without_effect(&project, ["release", "cut"], 65);
    refusal.says(&["disagree", "VERSION:1 says 1.1.0", "pyproject.toml:3 says 1.0.0"]);
    project.write("VERSION", "one point one\n");
    project.commit("No version");
    refused_without_effect(&project, ["release", "cut"], 65).says(&["VERSION:1", "one point one"]);
    fs::remove_file(project.root().join("VERSION")).unwrap();
    project.commit("No file");
    refused_without_effect(&project, ["release", "cut"], 66).says(&["VERSION"]);
}

#[test]
fn a_version_that_was_published_with_other_content_is_refused() {
    let project = light();
    project.run(["release", "cut"]).ok();
    let sealed = fs::read(objects::file(&project.store_folder(), "releases/wine/1.0.0.sigstore.json")).unwrap();
    project.write("settings.toml", "threshold = 7\n");
    project.commit("Another threshold");
    let refusal = refused_without_effect(&project, ["release", "cut"], 73);
    refusal
        .says(&["wine@1.0.0", "sealed already with other content", "settings.toml", "sealed ", "offered "])
        .then("1.0.1");
    let run = project.run(["release", "cut", "--format", "json"]);
    assert_eq!(run.error()["details"]["legal"], "1.0.1", "{}", run.stdout);
    run.fails(73);
    assert_eq!(sealed, fs::read(objects::file(&project.store_folder(), "releases/wine/1.0.0.sigstore.json")).unwrap());
    // The version that was proposed is legal, and the old content under the old version is no change.
    set_version(&project, "1.0.1");
    project.run(["release", "cut"]).ok();
    project.git(["checkout", "--quiet", "HEAD~2"]);
    project.run(["release", "cut"]).ok();
    assert_eq!(objects::keys(&project.store_folder(), "releases/").len(), 2);
}

// Data -----------------------------------------------------------------------------------------------------------------

#[test]
fn data_that_changed_since_it_was_added_is_not_released() {
    let project = light();
    project.write("data/raw/red.csv", "alcohol,quality\n9.4,9\n");
    let refusal = refused_without_effect(&project, ["release", "cut"], 65);
    refusal.says(&["raw", "changed since it was added", "data/raw/red.csv"]).then("sealift data add");
}

#[test]
fn data_that_changed_since_it_was_added_is_pushed_as_it_was_added() {
    let project = light();
    project.write("data/raw/red.csv", "alcohol,quality\n9.4,9\n");
    project.run(["data", "push"]).ok();
    project.run(["data", "verify"]).ok();
    // Without the cache that has what was added, it can no longer be pushed, and says so.
    let other = light();
    other.write("data/raw/red.csv", "alcohol,quality\n9.4,9\n");
    fs::remove_dir_all(other.root().join(".sealift/cache")).unwrap();
    let refusal = refused(&other.run(["data", "push"]), 65);
    refusal.says(&["data/raw", "changed between add and push"]).then("sealift data add");
    assert!(objects::keys(&other.store_folder(), "snapshots/").is_empty(), "a part of it was published");
    assert_eq!(fs::read_to_string(other.root().join("data/raw/red.csv")).unwrap(), "alcohol,quality\n9.4,9\n");
}

#[test]
fn local_changes_are_not_overwritten() {
    let project = light();
    project.run(["data", "push"]).ok();
    project.write("data/raw/red.csv", "mine\n");
    let refusal = refused(&project.run(["data", "pull"]), 77);
    refusal.says(&["data/raw", "red.csv", "local changes"]).then("--force");
    assert_eq!(fs::read_to_string(project.root().join("data/raw/red.csv")).unwrap(), "mine\n");
    project.run(["data", "pull", "--force"]).ok();
    assert_eq!(fs::read_to_string(project.root().join("data/raw/red.csv")).unwrap(), "alcohol,quality\n9.4,5\n");
}

#[test]
fn names_that_are_not_utf_8_survive_the_way_through_the_store() {
    let project = light();
    let name = OsString::from_vec(b"caf\xe9 \xff\n.csv".to_vec());
    fs::write(project.root().join("data/raw").join(&name), "strange\n").unwrap();
    project.run(["data", "add"]).ok();
    project.run(["data", "push"]).ok();
    project.run(["data", "verify"]).ok();
    project.commit("A strange name");
    project.run(["release", "cut"]).ok();
    fs::remove_dir_all(project.root().join("data/raw")).unwrap();
    project.run(["data", "pull"]).ok();
    assert_eq!(fs::read_to_string(project.root().join("data/raw").join(&name)).unwrap(), "strange\n");
    let to = project.root().join("restored");
    project.run(["restore", "wine@1.0.0", "--to", "restored"]).ok();
    assert_eq!(fs::read_to_string(to.join("data/raw").join(&name)).unwrap(), "strange\n");
}

#[test]
fn what_is_no_file_is_named_and_not_waited_for() {
    let project = light();
    let pointer = fs::read(project.root().join("data/raw.snapshot.toml")).unwrap();
    let pipe = project.root().join("data/raw/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    refused(&project.run(["data", "add"]), 65).says(&["data/raw/pipe", "fifo"]).then("data/raw/pipe");
    assert_eq!(fs::read(project.root().join("data/raw.snapshot.toml")).unwrap(), pointer);
}

#[test]
fn a_file_that_changes_while_it_is_hashed_is_refused() {
    let project = light();
    let pointer = fs::read(project.root().join("data/raw.snapshot.toml")).unwrap();
    let path = project.root().join("data/raw/growing.bin");
    fs::write(&path, vec![7; 48 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    let run = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            while !stop.load(Ordering::SeqCst) {
                file.write_all(b"more").unwrap();
            }
        });
        let run = project.run(["data", "add"]);
        stop.store(true, Ordering::SeqCst);
        run
    });
    refused(&run, 65).says(&["growing.bin", "changed while it was being read"]).then("when nobody writes to");
    assert_eq!(fs::read(project.root().join("data/raw.snapshot.toml")).unwrap(), pointer, "a pointer was written");
    project.run(["data", "add"]).ok();
}

/// Root may read everything: there the program is run as somebody else, to whom the whole project is given.
#[test]
fn a_file_that_cannot_be_read_is_named() {
    const NOBODY: u32 = 65534;
    let project = light();
    let secret = project.root().join("data/raw/secret.csv");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let pointer = fs::read(project.root().join("data/raw.snapshot.toml")).unwrap();
    let run = if rustix::process::geteuid().is_root() {
        // The program too must be where everybody may read it.
        let program = project.home().join("sealift-copy");
        fs::copy(env!("CARGO_BIN_EXE_sealift-under-test"), &program).unwrap();
        give(project.folder(), NOBODY);
        let mut command = project.command(&program);
        command.args(["data", "add"]).uid(NOBODY).gid(NOBODY);
        Running::start(command, "sealift data add, as nobody".to_owned()).wait()
    } else {
        project.run(["data", "add"])
    };
    refused(&run, 65).says(&["secret.csv", "ermission denied"]).then("secret.csv");
    assert_eq!(fs::read(project.root().join("data/raw.snapshot.toml")).unwrap(), pointer, "a pointer was written");
}

fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            if !entry.file_type().unwrap().is_symlink() {
                give(&entry.path(), user);
            }
        }
    }
}

// Environments ---------------------------------------------------------------------------------------------------------

#[test]
fn a_port_in_use_is_named_with_whoever_uses_it() {
    let project = Project::service_with(Settings { gate: false, ..Settings::default() });
    project.run(["release", "cut"]).ok();
    let listener = TcpListener::bind(("127.0.0.1", project.port("staging"))).unwrap();
    let port = project.port("staging").to_string();
    let refusal = refused(&project.run(["deploy", "staging"]), 2);
    refusal.says(&["in use", &port, &format!("process {}", std::process::id())]).then("sealift history staging");
    drop(listener);
    // Nothing serves and nothing is open; the same command works now.
    project.run(["deploy", "staging"]).ok();
    assert_eq!(project.answers("staging").as_deref(), Some("1.0.0"));
    project.run(["audit", "verify"]).ok();
}

#[test]
fn a_service_that_never_gets_healthy_is_taken_back() {
    let mut project =
        Project::service_with(Settings { gate: false, start_timeout: "2s".into(), ..Settings::default() });
    project.run(["release", "cut"]).ok();
    project.run(["deploy", "staging"]).ok();
    let _ = project.release("1.1.0", |settings| settings.behaviour = Behaviour::Unhealthy);
    let refusal = refused(&project.run(["deploy", "staging", "svc@1.1.0"]), 2);
    refusal.says(&["svc@1.1.0", "taken back", "not healthy", "svc@1.0.0 serves again"]).then("sealift history staging");
    assert_eq!(project.answers("staging").as_deref(), Some("1.0.0"));
    let state = project.state("staging");
    assert_eq!(state.serving.map(|(release, _)| release).as_deref(), Some("svc@1.0.0"));
    assert_eq!((state.open, state.lease_free), (0, true));
    project.run(["audit", "verify"]).ok();
}

// Gates ----------------------------------------------------------------------------------------------------------------

const EVIDENCE: &str = r#"
[[gate.evidence.check]]
name = "accuracy"
kind = "report"
path = "reports/evaluation.json"
value = "/accuracy"
samples = "/samples"
required_samples = 100
max_age = "1h"
crit_below = 0.5
"#;

#[test]
fn evidence_that_is_missing_or_no_number_or_old_or_thin_holds_a_promotion() {
    let staging = "target = \"process\"\ngates = [\"evidence\"]".to_owned();
    let project =
        Project::service_with(Settings { gate: false, staging, more: EVIDENCE.into(), ..Settings::default() });
    project.run(["release", "cut"]).ok();
    project.run(["deploy", "staging"]).ok();
    let promote = || project.run(["promote", "svc@1.0.0", "--to", "production"]);
    refused(&promote(), 3).says(&["svc@1.0.0", "may not leave staging", "has not judged"]).then("sealift gate staging");
    let report = project.path("reports/evaluation.json");
    fs::remove_file(&report).unwrap();
    let cases: [(&str, Option<&str>, &str); 6] = [
        ("missing", None, "cannot be read"),
        ("no JSON", Some("{\"accuracy\": NaN, \"samples\": 500}"), "not JSON"),
        ("no number", Some("{\"accuracy\": null, \"samples\": 500}"), "no number"),
        ("infinite", Some("{\"accuracy\": 1e999, \"samples\": 500}"), "evaluation.json"),
        ("thin", Some("{\"accuracy\": 0.9, \"samples\": 99}"), "99"),
        ("old", Some("{\"accuracy\": 0.9, \"samples\": 500}"), "1h"),
    ];
    for (case, text, words) in cases {
        if let Some(text) = text {
            fs::write(&report, text).unwrap();
        }
        if case == "old" {
            let then = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
            fs::File::options().write(true).open(&report).unwrap().set_modified(then).unwrap();
        }
        let run = project.run(["gate", "staging"]).fails(3);
        assert!(run.stdout.contains(words) && run.stdout.contains("inconclusive"), "{case}: {}", run.told());
        refused(&promote(), 3).says(&["may not leave staging", "evidence"]).then("sealift gate staging");
        assert_eq!(project.answers("production"), None, "{case}");
    }
    assert!(project.current("production").components.is_empty());
    // Fresh and thick evidence lets it pass.
    fs::write(&report, "{\"accuracy\": 0.9, \"samples\": 500}").unwrap();
    project.run(["gate", "staging"]).ok();
    promote().ok();
    assert_eq!(project.answers("production").as_deref(), Some("1.0.0"));
}

// Keys and restores ----------------------------------------------------------------------------------------------------

const BUNDLE: &str = "releases/wine/1.0.0.sigstore.json";

#[test]
fn a_key_that_is_not_trusted_is_refused_and_named() {
    let project = light();
    project.run(["release", "cut"]).ok();
    let other = light();
    let wrong = other.path("deploy/keys/release.pub");
    let wrong = wrong.to_str().unwrap();
    let store = project.store_folder();
    // Restoring and verifying with another key.
    let run = project.run(["restore", "wine@1.0.0", "--to", "out", "--store", store.to_str().unwrap(), "--key", wrong]);
    refused(&run, 73).says(&[BUNDLE, "key"]).then("sealift keys list");
    assert!(!project.path("out").exists());
    fs::write(project.path("bundle.json"), objects::body(&objects::file(&store, BUNDLE))).unwrap();
    refused(&project.run(["release", "verify", "--bundle", "bundle.json", "--key", wrong]), 73).says(&["key"]);
    let verify = |file: &str| {
        project.run(["release", "verify", "--bundle", "bundle.json", "--key", "deploy/keys/release.pub", file])
    };
    verify("settings.toml").ok();
    refused(&verify("VERSION"), 73).says(&["VERSION", "no part of wine@1.0.0"]);
    fs::remove_file(project.path("bundle.json")).unwrap();
    // Another key in the place of the trusted one: nothing is believed, and nothing is signed that nobody believes.
    fs::copy(wrong, project.path("deploy/keys/release.pub")).unwrap();
    project.commit("Another key");
    refused_without_effect(&project, ["explain", "wine@1.0.0"], 73).says(&[BUNDLE]).then("sealift keys list");
    set_version(&project, "1.1.0");
    refused_without_effect(&project, ["release", "cut"], 77)
        .says(&["not among the trusted keys"])
        .then("sealift keys list");
}

#[test]
fn a_signing_key_that_is_missing_or_no_key() {
    let project = light();
    let private = project.home().join(".config/sealift/keys/wine/release.pem");
    let pem = fs::read_to_string(&private).unwrap();
    fs::write(&private, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    refused_without_effect(&project, ["release", "cut"], 65).says(&["private key", "release.pem"]).never_says("AAAA");
    fs::remove_file(&private).unwrap();
    refused_without_effect(&project, ["release", "cut"], 66)
        .says(&["no private half on this host"])
        .then("sealift keys new");
    // Making it anew would replace a public key that is trusted.
    refused_without_effect(&project, ["keys", "new"], 65).says(&["exists already"]).then("sealift keys list");
    fs::write(&private, pem).unwrap();
    project.run(["release", "cut"]).ok();
}

#[test]
fn a_restore_into_a_folder_that_holds_something_writes_nothing() {
    let project = light();
    project.run(["release", "cut"]).ok();
    project.write("out/mine.txt", "keep me\n");
    let refusal = refused_without_effect(&project, ["restore", "wine@1.0.0", "--to", "out"], 65);
    refusal.says(&["not an empty folder", "nothing was written"]).then("sealift restore wine@1.0.0 --to");
    assert_eq!(fs::read_dir(project.path("out")).unwrap().count(), 1);
    // A file in its place is as good as a full folder.
    refused_without_effect(&project, ["restore", "wine@1.0.0", "--to", "VERSION"], 65).says(&["VERSION"]);
    fs::create_dir(project.path("empty")).unwrap();
    project.run(["restore", "wine@1.0.0", "--to", "empty"]).ok();
    assert!(project.path("empty/SHA256SUMS").is_file());
}

// Secrets --------------------------------------------------------------------------------------------------------------

/// A secret is read when a service starts, and is found nowhere but in that service's environment.
#[test]
fn a_canary_secret_is_found_nowhere() {
    // Put together here, so that it is in no source file and in no program.
    let canary = format!("canary-{}-{}", std::process::id(), "5e0c7a91");
    let project = Project::service_with(Settings { start_timeout: "2s".into(), ..Settings::full() });
    let secrets = "secrets = { DATABASE_PASSWORD = \"env:CANARY\", API_TOKEN = \"file:canary.txt\" }";
    let text = project.read("Sealift.toml");
    let with = |text: &str| text.replacen("[component.svc.run]\n", &format!("[component.svc.run]\n{secrets}\n"), 1);
    project.write("Sealift.toml", with(&text));
    project.write(".gitignore", format!("{}/canary.txt\n", project.read(".gitignore")));
    project.commit("Secrets, as references");
    fs::write(project.path("canary.txt"), format!("{canary}\n")).unwrap();

    let mut said = String::new();
    let mut run = |project: &Project, arguments: &[&str], code: i32| {
        let mut command = project.command(env!("CARGO_BIN_EXE_sealift-under-test"));
        command.args(arguments).env("CANARY", &canary);
        let run = Running::start(command, format!("sealift {}", arguments.join(" "))).wait().fails(code);
        said.push_str(&run.told());
    };
    for verb in [&["data", "add"][..], &["data", "push"], &["model", "register"]] {
        run(&project, verb, 0);
    }
    project.commit("Data");
    run(&project, &["release", "cut"], 0);
    // Without the secret the release cannot start; the reference is named.
    refused(&project.run(["deploy", "staging"]), 2).says(&["DATABASE_PASSWORD", "env:CANARY"]);
    for verb in [&["deploy", "staging"][..], &["smoke", "staging"], &["gate", "staging"]] {
        run(&project, verb, 0);
    }
    run(&project, &["promote", "svc@1.0.0", "--to", "production", "--plan"], 0);
    run(&project, &["promote", "svc@1.0.0", "--to", "production"], 0);
    project.version("1.1.0");
    project.write("Sealift.toml", with(&text).replace("BEHAVIOUR = \"ok\"", "BEHAVIOUR = \"unhealthy\""));
    project.commit("A bad one");
    run(&project, &["release", "cut"], 0);
    run(&project, &["plan", "deploy", "staging", "svc@1.1.0", "-o", "plan.json"], 0);
    run(&project, &["apply", "plan.json"], 2);
    run(&project, &["rollback", "production"], 66);
    for verb in [&["status"][..], &["history", "staging"], &["explain", "svc@1.0.0"], &["audit", "log"], &["doctor"]] {
        run(&project, verb, 0);
        run(&project, &[verb, &["--format", "json"]].concat(), 0);
    }
    run(&project, &["audit", "verify"], 0);
    run(&project, &["restore", "svc@1.0.0", "--to", "restored"], 0);
    assert!(!said.contains(&canary), "the secret was printed:\n{said}");
    fs::remove_file(project.path("canary.txt")).unwrap();

    // Every byte of the repository (store, ledger, plans, slots, reports, the restored folder) and of the user's folders.
    let has = |bytes: &[u8]| bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
    let mut searched = 0_u64;
    for (path, bytes) in tree(project.folder()) {
        assert!(!has(&bytes), "the secret is in {}", path.display());
        searched += bytes.len() as u64;
    }
    assert!(searched > 100_000, "only {searched} bytes were searched");
    // The services themselves have it, and nobody's command line does.
    let holders = e2e::processes::of(project.folder()).into_iter().filter(|pid| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        assert!(!has(&read("cmdline")), "the secret is in the arguments of process {pid}");
        has(&read("environ"))
    });
    assert_eq!(holders.count(), 2, "the services of staging and production were given their secret");
}
