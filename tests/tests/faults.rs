//! What breaks around Sealift: a store that is down, refuses, lies or is damaged, a full disk, no engine. Each is told with a
//! documented exit code and the name of what broke, and never taken for a success.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, and counts are printed"
)]

mod common;

use common::{
    Tmpfs,
    network::{ACCESS, BUCKET, Liar, SECRET, Server, section},
    objects, refused, tree,
};
use e2e::{Invocation, Project, Running, Settings};
use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

/// The service with its store at an endpoint.
fn with_store(endpoint: &str, bucket: &str) -> Project {
    Project::service_with(Settings { gate: false, store: section(endpoint, bucket), ..Settings::default() })
}

fn with_credentials(invocation: Invocation, secret: &str) -> Invocation {
    invocation.env("STORE_ACCESS", ACCESS).env("STORE_SECRET", secret)
}

// A store over the network ---------------------------------------------------------------------------------------------

#[test]
fn a_store_that_is_down() {
    // A port that was free a moment ago and is not listened on.
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let project = with_store(&format!("http://127.0.0.1:{port}"), BUCKET);
    for line in [&["release", "cut"][..], &["deploy", "staging"], &["status"], &["audit", "verify"]] {
        let run = with_credentials(project.sealift(line), SECRET).run();
        refused(&run, 69).says(&["s3://releases/team", "refuses the connection"]).then("sealift doctor");
    }
    let run = with_credentials(project.sealift(["doctor"]), SECRET).run().fails(69);
    assert!(run.stdout.contains("refuses the connection"), "{}", run.told());
}

#[test]
fn a_store_that_goes_away_between_two_commands() {
    let mut project = Project::service_with(Settings { gate: false, ..Settings::default() });
    let server = Server::start(&project, &project.folder().join("store"), true);
    let port = server.port;
    project.settings.store = section(&server.endpoint(), BUCKET);
    project.configure();
    project.commit("A store over the network");
    let sealift = |line: &[&str]| with_credentials(project.sealift(line), SECRET).run();
    sealift(&["release", "cut"]).ok();
    sealift(&["deploy", "staging"]).ok();
    drop(server);
    refused(&sealift(&["deploy", "staging", "svc@1.0.0"]), 69).says(&["refuses the connection"]);
    assert_eq!(project.answers("staging").as_deref(), Some("1.0.0"), "what serves does not need the store");
    let _server = Server::listen(&project, &project.folder().join("store"), true, port);
    sealift(&["audit", "verify"]).ok();
    sealift(&["status"]).ok().says("serving");
}

#[test]
fn a_store_that_refuses_the_credentials() {
    let mut project = Project::service_with(Settings { gate: false, ..Settings::default() });
    let folder = project.folder().join("store");
    let server = Server::start(&project, &folder, true);
    project.settings.store = section(&server.endpoint(), BUCKET);
    project.configure();
    project.commit("A store over the network");
    let before = tree(&folder.join("buckets"));
    for line in [&["release", "cut"][..], &["status"], &["store", "check"]] {
        let run = with_credentials(project.sealift(line), "another-secret-than-the-servers").run();
        refused(&run, 69).says(&["refuses the credentials"]).then("sealift doctor").never_says("another-secret-than");
    }
    // A variable that is not set is found before anything is asked.
    refused(&project.run(["release", "cut"]), 66).says(&["STORE_ACCESS", "not set"]);
    assert!(before == tree(&folder.join("buckets")), "something was written without credentials");
    // A bucket that is not there is another sentence.
    project.settings.store = section(&server.endpoint(), "elsewhere");
    project.configure();
    let run = with_credentials(project.sealift(["status"]), SECRET).run();
    refused(&run, 69).says(&["has no bucket \"elsewhere\""]);
}

/// A server that answers 200 to every conditional write would let two deploys win at once.
#[test]
fn a_store_that_ignores_conditional_writes_is_refused_before_anything_is_written() {
    let mut project = Project::service_with(Settings { gate: false, ..Settings::default() });
    let folder = project.folder().join("store");
    let server = Server::start(&project, &folder, true);
    let proxy = Liar::before(server.port);
    project.settings.store = section(&proxy.endpoint(), BUCKET);
    project.configure();
    project.commit("A store that does not keep its word");
    for line in [&["release", "cut"][..], &["store", "check"]] {
        let run = with_credentials(project.sealift(line), SECRET).run();
        let words = ["does not keep conditional writes", "leases and the ledger would not be safe"];
        refused(&run, 69).says(&words).then("sealift doctor");
    }
    let run = with_credentials(project.sealift(["doctor"]), SECRET).run().fails(69);
    assert!(run.stdout.contains("does not keep conditional writes"), "{}", run.told());
    assert!(proxy.lies.load(std::sync::atomic::Ordering::SeqCst) > 10, "the proxy had nothing to lie about");
    assert_eq!(objects::keys(&folder, ""), Vec::<String>::new(), "something was left in the store");
    // The same server, asked directly, is good.
    project.settings.store = section(&server.endpoint(), BUCKET);
    project.configure();
    project.commit("A store that does");
    with_credentials(project.sealift(["release", "cut"]), SECRET).run().ok();
}

// Damage ---------------------------------------------------------------------------------------------------------------

/// Everything that a store holds: data, a model, two releases, verdicts, plans, two environments.
fn full() -> Project {
    let mut project = Project::service_with(Settings::full());
    project.run(["data", "add"]).ok();
    project.run(["data", "push"]).ok();
    project.run(["model", "register"]).ok();
    project.commit("The data");
    project.run(["release", "cut"]).ok();
    project.run(["deploy", "staging"]).ok();
    project.run(["gate", "staging"]).ok();
    project.run(["promote", "svc@1.0.0", "--to", "production"]).ok();
    let _ = project.release("1.1.0", |_| {});
    project.run(["deploy", "staging"]).ok();
    project.stop_all();
    project
}

/// One kind of object, and the command that reads it.
struct Kind {
    /// What it is.
    name: &'static str,
    /// Which keys are of this kind.
    keys: Vec<String>,
    /// The command that reads it.
    verb: &'static [&'static str],
    /// What must be said, beside or instead of the key.
    named: &'static str,
}

/// Every kind of object that the store of [`full`] has.
fn kinds(project: &Project) -> Vec<Kind> {
    let store = project.store_folder();
    let explained = project.json(["explain", "svc@1.0.0"]).ok().result();
    let manifest = &explained["manifest"];
    let text = |pointer: &str| {
        let value = manifest.pointer(pointer).and_then(|value| value.as_str());
        value.unwrap_or_else(|| panic!("no {pointer} in {manifest:#}")).to_owned()
    };
    let blob = |digest: &str| {
        let hex = digest.trim_start_matches("sha256:");
        format!("blobs/sha256/{}/{hex}", &hex[..2])
    };
    let image = text("/images/linux~1amd64/manifest");
    let document: serde_json::Value =
        serde_json::from_slice(&objects::body(&objects::file(&store, &blob(&image)))).unwrap();
    let layer = document["layers"][0]["digest"].as_str().unwrap().to_owned();
    let config = document["config"]["digest"].as_str().unwrap().to_owned();
    let model = text("/models/price/digest");
    let known: Vec<String> = [&image, &layer, &config, &model].iter().map(|digest| blob(digest)).collect();
    // What is left of the blobs are plans.
    let plans = objects::keys(&store, "blobs/")
        .into_iter()
        .filter(|key| !known.contains(key) && objects::body(&objects::file(&store, key)).starts_with(b"{\""));
    // Claims, test results and verdicts lie below the image and the bundle that they are about; other releases have theirs.
    let bundle = explained["digest"].as_str().unwrap();
    let about =
        |subject: &str| objects::keys(&store, &format!("attestations/{}/", &blob(subject)["blobs/sha256/".len()..]));
    const VERIFY: &[&str] = &["release", "verify", "svc@1.0.0"];
    const RESTORE: &[&str] = &["restore", "svc@1.0.0", "--to", "restored"];
    let kind = |name, keys: Vec<String>, verb: &'static [&'static str], named| Kind { name, keys, verb, named };
    vec![
        kind("release bundle", vec!["releases/svc/1.0.0.sigstore.json".into()], VERIFY, "releases/svc/1.0.0"),
        kind("image manifest", vec![blob(&image)], VERIFY, ""),
        kind("image layer", vec![blob(&layer)], VERIFY, ""),
        kind("image config", vec![blob(&config)], RESTORE, ""),
        kind("model", vec![blob(&model)], RESTORE, ""),
        kind("model record", objects::keys(&store, "models/"), &["model", "list"], "models/price/"),
        kind("snapshot manifest and layout", objects::keys(&store, "snapshots/"), VERIFY, ""),
        kind("pack", objects::keys(&store, "packs/"), VERIFY, ""),
        kind("verdict", about(bundle), &["explain", "svc@1.0.0"], "attestations/"),
        kind("claim or test result", about(&image), &["explain", "svc@1.0.0"], "attestations/"),
        kind("ledger entry", objects::keys(&store, "ledger/staging/0"), &["audit", "verify"], "entry"),
        kind("ledger head", vec!["ledger/staging/head.json".into()], &["audit", "verify"], "the ledger of staging"),
        kind("current state", vec!["envs/staging/current.json".into()], &["status"], "envs/staging/current.json"),
        kind("lease", vec!["locks/staging.json".into()], &["status"], "locks/staging.json"),
        kind("plan", plans.collect(), &[], ""),
    ]
}

/// Kinds that are neither signed nor named by their digest: pointers, compared with what is. A changed time in one is no
/// lie about a release, so a reader may take what somebody wrote there who may write to the store.
const POINTERS: [&str; 3] = ["current state", "ledger head", "lease"];

/// One bit at several places of every kind of object, flipped on the disk and by somebody who may write to the store: the
/// verb that reads the object finds it and names the object.
#[test]
fn a_flipped_bit_in_any_kind_of_object_is_found_and_the_object_is_named() {
    let project = full();
    let store = project.store_folder();
    let (mut tried, mut found, mut pointers) = (0, 0, 0);
    for kind in kinds(&project).into_iter().filter(|kind| !kind.verb.is_empty()) {
        assert!(!kind.keys.is_empty(), "the store has no {}", kind.name);
        // The first, one in the middle and the last of many.
        let picked = [0, kind.keys.len() / 2, kind.keys.len() - 1].map(|index| kind.keys[index].clone());
        for key in std::collections::BTreeSet::from(picked) {
            let file = objects::file(&store, &key);
            let original = fs::read(&file).unwrap();
            let body = objects::body(&file);
            for (share, on_disk) in [0.0, 0.3, 0.6, 1.0].into_iter().flat_map(|share| [(share, true), (share, false)]) {
                if on_disk {
                    objects::flip(&file, share);
                } else {
                    objects::replace(&project, &key, objects::flipped(body.clone(), share));
                }
                let run = project.run(kind.verb);
                tried += 1;
                let may_be_taken = POINTERS.contains(&kind.name) && !on_disk;
                if may_be_taken && run.code != Some(73) {
                    // Whatever came of it: no rollout ended well because of it that would not have.
                    assert!(matches!(run.code, Some(0 | 65 | 66 | 75 | 77)), "{key} at {share}: {}", run.told());
                    pointers += 1;
                } else {
                    named(&run, &key, kind.named);
                    found += 1;
                }
                assert!(!project.path("restored").exists(), "{key}: something was restored");
                restore(&file, &original);
            }
        }
        // Whole again, it is accepted.
        project.run(kind.verb).ok();
        let _ = fs::remove_dir_all(project.path("restored"));
        project.stop_all();
    }
    e2e::tell(&format!(
        "flipped bits: {tried} tried, {found} found and named, {pointers} in unsigned pointers without effect"
    ));
}

/// It is an integrity failure whose words name the object: by its key, its digest, or its sequence.
#[track_caller]
fn named(run: &e2e::Run, key: &str, word: &str) {
    let said = format!("{}{}", run.stdout, run.stderr);
    let last = key.rsplit('/').next().unwrap();
    let digest = last.split('.').next().unwrap();
    let sequence = digest.trim_start_matches('0');
    let by_sequence = key.starts_with("ledger/") && said.contains(&format!("entry {sequence}"));
    let by_word = !word.is_empty() && said.contains(word);
    let by_digest = digest.len() == 64 && said.contains(&digest[..12]);
    assert!(said.contains(last) || by_sequence || by_word || by_digest, "{key} is not named: {}", run.told());
    let _ = refused(run, 73);
}

fn restore(file: &Path, original: &[u8]) {
    fs::write(file, original).unwrap();
}

/// The plan of an open rollout is read by `resume`.
#[test]
fn a_flipped_bit_in_the_plan_of_an_open_rollout_is_found() {
    let project = Project::service_with(Settings { gate: false, lease_ttl: "2s".into(), ..Settings::default() });
    project.run(["release", "cut"]).ok();
    let run = project.sealift(["deploy", "staging"]).env("SEALIFT_CRASH_AT", "6").run().killed();
    drop(run);
    let plan = project.records("staging")[0].entry.subject["plan"].as_str().unwrap().to_owned();
    let hex = plan.trim_start_matches("sha256:");
    let file = objects::file(&project.store_folder(), &format!("blobs/sha256/{}/{hex}", &hex[..2]));
    let original = fs::read(&file).unwrap();
    for share in [0.0, 0.5, 1.0] {
        objects::flip(&file, share);
        for verb in ["resume", "abort"] {
            refused(&project.run([verb, "staging"]), 73).says(&[hex]);
        }
        restore(&file, &original);
    }
    assert_eq!(project.answers("staging"), None);
    project.run(["resume", "staging"]).ok();
    assert_eq!(project.answers("staging").as_deref(), Some("1.0.0"));
}

/// The end of an object, beyond its body, is the framing of the embedded server; a file that is cut short is no object.
#[test]
fn a_truncated_or_emptied_object_is_found_and_named() {
    let project = full();
    let store = project.store_folder();
    let mut tried = 0;
    for kind in kinds(&project) {
        if kind.verb.is_empty() {
            continue;
        }
        let key = &kind.keys[kind.keys.len() / 2];
        let file = objects::file(&store, key);
        let original = fs::read(&file).unwrap();
        for length in [0, 1, original.len() / 2, original.len() - 1] {
            restore(&file, &original[..length]);
            let run = project.run(kind.verb);
            tried += 1;
            let refusal = refused(&run, 73);
            let name = key.rsplit('/').next().unwrap();
            let said = format!("{}{}", run.stdout, run.stderr);
            assert!(said.contains(name), "{key} cut to {length} is not named: {}", run.told());
            drop(refusal);
            restore(&file, &original);
        }
        project.run(kind.verb).ok();
        let _ = fs::remove_dir_all(project.path("restored"));
        project.stop_all();
    }
    e2e::tell(&format!("cut objects: {tried} tried, {tried} found and named"));
}

/// An entry that was edited, deleted, cut off at the end or swapped: the exact sequence is told.
#[test]
fn the_sequence_of_a_damaged_ledger_is_named() {
    let project = full();
    let store = project.store_folder();
    let entries = objects::keys(&store, "ledger/staging/0");
    assert!(entries.len() > 20, "{entries:?}");
    let middle = 6; // the ledger of production is that long, too
    let (seq, file) = (middle + 1, objects::file(&store, &entries[middle]));
    let original = fs::read(&file).unwrap();
    let verify = || project.run(["audit", "verify", "staging"]);
    verify().ok();

    // Edited: one letter of what was said, with everything else as it was.
    let body = objects::body(&file);
    let bundle: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert!(bundle["dsseEnvelope"]["payload"].is_string(), "{bundle:#}");
    let at = String::from_utf8(body.clone()).unwrap().find("\"payload\":").unwrap() + 40;
    let mut edited = body;
    edited[at] = if edited[at] == b'A' { b'B' } else { b'A' };
    objects::replace(&project, &entries[middle], edited);
    refused(&verify(), 73).says(&[&format!("entry {seq}")]);
    restore(&file, &original);

    // Deleted in the middle.
    fs::remove_file(&file).unwrap();
    refused(&verify(), 73).says(&[&seq.to_string()]);
    // Another entry of the same chain in its place.
    fs::copy(objects::file(&store, &entries[middle - 1]), &file).unwrap();
    refused(&verify(), 73).says(&[&seq.to_string()]);
    // The entry of another environment, signed by the same key.
    let foreign = objects::file(&store, &objects::keys(&store, "ledger/production/0")[middle]);
    fs::copy(foreign, &file).unwrap();
    refused(&verify(), 73).says(&[&seq.to_string()]);
    restore(&file, &original);

    // Cut off at the end, head and all: this host has seen more.
    let last = entries.len();
    let tail = objects::file(&store, &entries[last - 1]);
    let kept = fs::read(&tail).unwrap();
    fs::remove_file(&tail).unwrap();
    refused(&verify(), 73).says(&[&last.to_string()]);
    let head = objects::file(&store, "ledger/staging/head.json");
    let kept_head = fs::read(&head).unwrap();
    fs::remove_file(&head).unwrap();
    refused(&verify(), 73).says(&[&last.to_string()]);
    // Nothing is written behind what was cut off.
    refused(&project.run(["deploy", "staging", "svc@1.1.0"]), 73).says(&[&last.to_string()]);
    restore(&tail, &kept);
    restore(&head, &kept_head);
    verify().ok();
}

/// What is damaged in the store and whole in the cache is found, named, and sent again.
#[test]
fn damaged_data_in_the_store_heals_from_the_cache() {
    let project = full();
    let store = project.store_folder();
    for key in [objects::keys(&store, "packs/"), objects::keys(&store, "snapshots/")].concat() {
        let body = objects::body(&objects::file(&store, &key));
        objects::replace(&project, &key, objects::flipped(body.clone(), 0.5));
        let run = project.run(["data", "verify"]);
        assert!(format!("{}{}", run.stdout, run.stderr).contains(&key), "{key} is not named: {}", run.told());
        if run.code != Some(0) {
            let _ = refused(&run, 73).then("sealift data push");
            project.run(["data", "push"]).ok();
        }
        project.run(["data", "verify"]).ok();
        assert_eq!(objects::body(&objects::file(&store, &key)), body, "{key} was not healed");
        project.run(["release", "verify", "svc@1.0.0"]).ok();
    }
}

/// The local cache is not believed: what is damaged there is fetched again.
#[test]
fn a_damaged_cache_heals() {
    let project = full();
    let caches: BTreeMap<PathBuf, Vec<u8>> = tree(&project.path(".sealift/cache/images"));
    assert!(!caches.is_empty());
    for path in caches.keys() {
        let full = project.path(".sealift/cache/images").join(path);
        let mut bytes = fs::read(&full).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(&full).unwrap();
        fs::write(&full, bytes).unwrap();
    }
    // The slots are empty, so the image is needed again.
    fs::remove_dir_all(project.path(".sealift/run")).unwrap();
    project.run(["deploy", "staging", "svc@1.1.0"]).ok();
    project.run(["release", "verify", "svc@1.1.0"]).ok();
}

// Disks ----------------------------------------------------------------------------------------------------------------

/// A disk that has no room, and then one that has no inodes. What was there before stays as it was, and with room the same
/// command works.
#[test]
fn a_full_disk_is_told_and_what_was_there_stays() {
    if !common::root("a file system that is full") {
        return;
    }
    for (options, what) in [("size=1100k", "bytes"), ("size=64m,nr_inodes=120", "inodes")] {
        let project = Project::service_with(Settings { data: true, gate: false, ..Settings::default() });
        let state = Tmpfs::mount(&project.path(".sealift"), options);
        // Workloads are entered by another user.
        fs::set_permissions(&state.path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        project.run(["data", "add"]).ok();
        project.run(["data", "push"]).ok();
        project.commit("Data");
        let before = full_store(&project);
        assert!(!before.is_empty());
        // More than fits: incompressible bytes, or many small files.
        if what == "bytes" {
            let mut state = 0x9e37_79b9_u64;
            let noise = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u8
            });
            project.write("data/raw/large.bin", noise.take(8 << 20).collect::<Vec<u8>>());
        } else {
            let filler = project.path(".sealift/filler");
            fs::create_dir_all(&filler).unwrap();
            let full = (0..200).find(|index| fs::write(filler.join(index.to_string()), "").is_err());
            assert!(full.is_some(), "the inodes did not run out");
            project.write("data/raw/new.csv", "x,y\n1,1\n");
        }
        let pointer = project.read("data/raw.snapshot.toml");
        let run = project.run(["data", "add"]);
        refused(&run, 70).says(&["disk is full"]).then("free space");
        assert_eq!(project.read("data/raw.snapshot.toml"), pointer, "{what}: the pointer was changed");
        assert!(before == full_store(&project), "{what}: the store was changed");
        if what == "bytes" {
            // The store itself runs full: the image does not fit.
            fs::remove_file(project.path("data/raw/large.bin")).unwrap();
            let _ = refused(&project.run(["release", "cut"]), 70).says(&["full"]);
            assert!(objects::keys(&project.store_folder(), "releases/").is_empty(), "a release of half its parts");
            succeed_with_room(&state, "size=128m");
        } else {
            fs::remove_dir_all(project.path(".sealift/filler")).unwrap();
            succeed_with_room(&state, "size=128m,nr_inodes=20000");
        }
        project.run(["data", "add"]).ok();
        project.run(["data", "push"]).ok();
        project.run(["data", "verify"]).ok();
        project.commit("Data");
        project.run(["release", "cut"]).ok();
    }
}

fn full_store(project: &Project) -> BTreeMap<String, Vec<u8>> {
    let all = objects::all(&project.store_folder()).into_iter().filter(|(key, _)| !key.starts_with("probes/"));
    all.map(|(key, file)| (key, fs::read(file).unwrap())).collect()
}

fn succeed_with_room(state: &Tmpfs, options: &str) {
    common::succeed(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&state.path));
}

/// A disk that says that it did not write: nothing is taken as durable. The n-th fsync of each thread fails, once, when what
/// failed may be done again, and then all from there on, for every n until none does.
#[test]
fn an_fsync_that_fails_is_no_success() {
    if common::outcome(Command::new("sh").args(["-c", "command -v strace"])).1.is_empty() {
        return common::must_run("there is no strace");
    }
    let project = Project::service_with(Settings { gate: false, ..Settings::default() });
    project.run(["status"]).ok();
    let (mut tried, mut failed) = (0, 0);
    let once = (1..=6).map(|nth| nth.to_string());
    for when in once.chain((1..=400).map(|nth| format!("{nth}+"))) {
        let project = project.fork();
        project.commit("Ports of its own");
        let mut command = project.command("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e"]);
        command.arg(format!("inject=fsync,fdatasync:error=EIO:when={when}"));
        command.arg(env!("CARGO_BIN_EXE_sealift-under-test")).args(["release", "cut"]);
        let run = Running::start(command, format!("release cut with fsync {when} failing")).wait();
        tried += 1;
        if run.code == Some(0) {
            project.run(["release", "verify", "svc@1.0.0"]).ok();
            if when.ends_with('+') {
                break; // fewer than so many are made
            }
            continue;
        }
        assert!(objects::keys(&project.store_folder(), "releases/").len() <= 1);
        let _ = refused(&run, run.code.unwrap_or(-1));
        assert!(matches!(run.code, Some(69 | 70)), "fsync {when}: {}", run.told());
        assert!(run.stderr.contains("error 5") || run.stderr.contains("fsync"), "fsync {when}: {}", run.told());
        failed += 1;
        // With a disk that works, the same command does what was not done.
        project.run(["release", "cut"]).ok();
        project.run(["release", "verify", "svc@1.0.0"]).ok();
    }
    e2e::tell(&format!("fsync: {tried} tried, {failed} failed, {failed} told"));
    assert!(failed >= 2, "only {failed} failed");
}

// Engines --------------------------------------------------------------------------------------------------------------

#[test]
fn without_a_docker_engine() {
    let mut project = Project::service();
    let nowhere = format!("unix://{}", project.folder().join("no.sock").display());
    project.settings.staging = format!("target = \"docker\"\nengine = \"{nowhere}\"");
    project.configure();
    project.commit("Staging with Docker");
    project.run(["release", "cut"]).ok();
    let refusal = refused(&project.run(["deploy", "staging"]), 69);
    refusal.says(&["Docker Engine", "no.sock"]).then("sealift doctor");
    let run = project.run(["doctor"]).fails(69);
    assert!(run.stdout.contains("no.sock") && run.stdout.contains("start the engine"), "{}", run.told());
    // What can be told without it is told.
    project.run(["status"]).ok().says("unknown");
    project.run(["explain", "svc@1.0.0"]).ok();

    project.write("Dockerfile", "FROM scratch\nCOPY build/service /service\nENTRYPOINT [\"/service\"]\n");
    project.settings.build = format!("builder = \"docker\"\nengine = \"{nowhere}\"");
    project.version("1.1.0");
    project.configure();
    project.commit("Built with Docker");
    let refusal = refused(&project.run(["release", "cut"]), 69);
    refusal.says(&["Docker Engine", "no.sock"]).then("sealift doctor");
    assert_eq!(objects::keys(&project.store_folder(), "releases/").len(), 1);
}
