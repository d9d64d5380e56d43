//! The main job of Sealift, from a commit to production and back, without Docker.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's helpers fail the test, and say what was counted"
)]

use e2e::{Behaviour, Project, Settings, http, processes};
use serde_json::{Value, json};
use std::process::Command;

/// The releases of `history --format json` for one environment, newest first: verb, release, ending.
fn history(project: &Project, environment: &str) -> Vec<(String, String, String)> {
    let result = project.json(["history", environment]).ok().result();
    let rollouts = result[0]["rollouts"].as_array().unwrap().clone();
    let text = |rollout: &Value, key: &str| rollout[key].as_str().unwrap_or_default().to_owned();
    rollouts.iter().map(|one| (text(one, "verb"), text(one, "release"), text(one, "ending"))).collect()
}

fn triple(verb: &str, release: &str, ending: &str) -> (String, String, String) {
    (verb.to_owned(), release.to_owned(), ending.to_owned())
}

/// Everything in the store, by key and digest: whatever is written shows.
fn store_content(project: &Project) -> Vec<(String, String)> {
    let store = project.store();
    let keys = project.block_on(store.list("")).unwrap();
    keys.into_iter().map(|(key, meta)| (key, meta.etag)).collect()
}

/// A repository with data, a model and a key, as a developer begins.
fn begin() -> Project {
    let project = Project::with(Settings::full());
    project.run(["keys", "new", "release"]).ok().says("deploy/keys/release.pub");
    let keys = project.json(["keys", "list"]).ok().result();
    assert_eq!(keys[0]["name"], "release", "{keys}");
    assert_eq!(keys[0]["signs"], true, "{keys}");

    let added = project.json(["data", "add", "raw"]).ok().result();
    assert_eq!((&added[0]["files"], &added[0]["changed"]), (&json!(5), &json!(true)));
    let pointer = project.read("data/raw.snapshot.toml");
    assert!(pointer.contains(added[0]["digest"].as_str().unwrap()), "{pointer}");
    let status = project.json(["data", "status"]).ok().result();
    assert_eq!((&status[0]["state"], &status[0]["pushed"]), (&json!("clean"), &json!(false)));
    let pushed = project.json(["data", "push"]).ok().result();
    assert_eq!(pushed[0]["already"], false);
    assert_eq!(project.json(["data", "push"]).ok().result()[0]["already"], true);
    assert_eq!(project.json(["data", "status"]).ok().result()[0]["pushed"], true);
    project.commit("data and key");

    let registered = project.json(["model", "register", "price"]).ok().result();
    assert_eq!(registered[0]["new"], true, "{registered}");
    let record = &registered[0]["record"];
    assert_eq!(
        record["metrics"]["/accuracy"].as_f64().or(record["metrics"]["accuracy"].as_f64()),
        Some(0.9),
        "{record}"
    );
    assert_eq!(record["lineage"]["data"]["raw"], added[0]["digest"]);
    assert_eq!(record["lineage"]["command"], json!(["python3", "train.py"]));
    assert_eq!(project.json(["model", "register", "price"]).ok().result()[0]["new"], false);
    project
}

/// Release 1.0.0 into staging, through the gate, into production.
fn first_release(project: &Project) {
    let cut = project.json(["release", "cut"]).ok().result();
    assert_eq!((&cut["release"], &cut["new"]), (&json!("svc@1.0.0"), &json!(true)));
    let again = project.json(["release", "cut"]).ok().result();
    assert_eq!((&again["digest"], &again["new"]), (&cut["digest"], &json!(false)), "cutting again is no work");

    // A plan changes nothing, and is not taken for the deed.
    let before = store_content(project);
    let plan = project.json(["deploy", "staging", "--plan"]).ok().result();
    assert_eq!(plan["to"]["release"], "svc@1.0.0");
    assert!(!plan["steps"].as_array().unwrap().is_empty());
    project.run(["deploy", "staging", "--plan"]).ok().says("nothing serves staging yet");
    assert_eq!(store_content(project), before);
    assert_eq!(processes::of(project.folder()), Vec::<i32>::new());

    project.run(["deploy", "staging", "--reason", "the first one"]).ok().says("svc@1.0.0 serves staging");
    assert_eq!(project.answers("staging").as_deref(), Some("1.0.0"));
    project.run(["smoke", "staging"]).ok();

    // Without evidence nothing leaves staging; with it, it does.
    project.run(["promote", "svc@1.0.0", "--to", "production"]).fails(3).says("has not judged it");
    let judged = project.json(["gate", "staging"]).ok().result();
    assert_eq!(judged["verdict"], "ok", "{judged}");
    project.run(["promote", "svc@1.0.0", "--to", "production"]).ok().says("svc@1.0.0 serves production");
    assert_eq!(project.answers("production").as_deref(), Some("1.0.0"));
    // It predicts with the model that it was released with.
    let (code, body) = http::post(project.port("production"), "/predict", "{\"x\": 21}").unwrap();
    assert_eq!(code, 200);
    assert!(body.contains("\"y\":42"), "{body}");
}

/// A better model as 1.1.0, through the same gate.
fn better_model(project: &mut Project) {
    project.model(3.0, 0.95);
    project.report(0.95);
    // A model that nobody registered is not released.
    project.version("1.1.0");
    project.commit("1.1.0");
    project.run(["release", "cut"]).fails(65).says("sealift model register price");
    project.run(["model", "register", "price"]).ok();
    project.run(["release", "cut"]).ok().says("svc@1.1.0 sealed");
    project.run(["deploy", "staging", "svc@1.1.0"]).ok();
    project.run(["gate", "staging"]).ok();
    project.run(["promote", "svc@1.1.0", "--to", "production"]).ok();
    assert_eq!(project.answers("production").as_deref(), Some("1.1.0"));
    let (_, body) = http::post(project.port("production"), "/predict", "{\"x\": 7}").unwrap();
    assert!(body.contains("\"y\":21"), "{body}");
}

/// 1.2.0 passes its smoke requests and then fails; 1.3.0 answers and predicts badly. The gate stops both.
fn bad_releases(project: &mut Project) {
    for (version, behaviour, accuracy, check) in
        [("1.2.0", Behaviour::Errors, 0.95, "errors"), ("1.3.0", Behaviour::Ok, 0.2, "accuracy")]
    {
        project.report(accuracy);
        project.release(version, |settings| settings.behaviour = behaviour);
        project.run(["deploy", "staging", version]).ok();
        let judged = project.json(["gate", "staging"]).fails(2).result();
        assert_eq!(judged["verdict"], "crit", "{judged}");
        let checks = judged["gates"][0]["checks"].as_array().unwrap();
        let crit = checks.iter().filter(|one| one["verdict"] == "crit").map(|one| one["check"].as_str().unwrap());
        assert!(crit.into_iter().any(|name| name == check), "{judged}");
        let held = project.json(["promote", version, "--to", "production"]).fails(2).error();
        assert!(held["message"].as_str().unwrap().contains("may not leave staging"), "{held}");
        assert_eq!((&held["exit"], &held["class"]), (&json!(2), &json!("crit")), "{held}");
        assert_eq!(project.answers("production").as_deref(), Some("1.1.0"), "production goes on serving");
    }
}

/// A release that never gets healthy is taken back by itself.
fn never_healthy(project: &mut Project) {
    project.release("1.4.0", |settings| {
        settings.behaviour = Behaviour::Unhealthy;
        settings.start_timeout = "1s".to_owned();
    });
    let run =
        project.run(["deploy", "staging", "1.4.0"]).fails(2).says("is not healthy").says("svc@1.3.0 serves again");
    assert!(run.stderr.contains("next: sealift history staging"), "{}", run.told());
    assert_eq!(project.answers("staging").as_deref(), Some("1.3.0"));
    project.release("1.4.1", |settings| settings.behaviour = Behaviour::Exits);
    project.run(["deploy", "staging", "1.4.1"]).fails(2).says("told to exit");
    assert_eq!(project.answers("staging").as_deref(), Some("1.3.0"));
    let newest = history(project, "staging");
    assert_eq!(newest[0], triple("deploy", "svc@1.4.1", "went-back"));
    assert_eq!(newest[1], triple("deploy", "svc@1.4.0", "went-back"));
}

fn rules(project: &Project) {
    project.run(["deploy", "staging", "svc@1.0.0"]).fails(77).says("going back is only done by rollback");
    project.run(["deploy", "production", "svc@1.3.0"]).fails(77).says("takes releases only from staging");
    project.run(["rollback", "production", "--to", "svc@1.3.0"]).fails(77).says("has never served production");
    project.run(["deploy", "stagin"]).fails(66).says("staging");
    project.run(["resume"]).ok().says("no rollout of staging is open");
    assert_eq!(project.answers("staging").as_deref(), Some("1.3.0"));
}

/// The same version with other content is refused, with the fields and the legal version.
fn drift(project: &Project) {
    project.version("1.1.0");
    project.commit("an old version again");
    let error = project.json(["release", "cut"]).fails(73).error();
    assert!(error["message"].as_str().unwrap().contains("svc@1.1.0 is sealed already"), "{error}");
    assert!(!error["details"]["differences"].as_array().unwrap().is_empty(), "{error}");
    assert_eq!(error["details"]["legal"], "1.1.1", "{error}");
}

fn kept_plans(project: &Project) {
    let before = project.records("production").len();
    let plan = project.path("plan.json");
    let plan = plan.to_str().unwrap();
    project.run(["plan", "rollback", "production", "-o", plan, "--reason", "to be on the safe side"]).ok();
    project.run(["plan", "rollback", "production", "-o", "stale.json"]).ok();
    assert_eq!(project.records("production").len(), before, "planning writes nothing");
    project.run(["apply", plan]).ok().says("svc@1.0.0 serves production");
    assert_eq!(project.answers("production").as_deref(), Some("1.0.0"));
    project.run(["apply", plan]).fails(75).says("stale");
    project.run(["apply", "stale.json"]).fails(75).says("stale");
    // Forward again, so that a rollback by name has somewhere to come from.
    project.run(["promote", "svc@1.1.0", "--to", "production"]).ok();
    std::fs::remove_file(plan).unwrap();
    std::fs::remove_file(project.path("stale.json")).unwrap();
}

fn back(project: &Project) {
    let done = project.json(["rollback", "production", "--reason", "customers complain"]).ok().result();
    assert_eq!((&done["release"], &done["ending"]), (&json!("svc@1.0.0"), &json!("succeeded")), "{done}");
    assert_eq!(project.answers("production").as_deref(), Some("1.0.0"));
    let (_, body) = http::post(project.port("production"), "/predict", "{\"x\": 21}").unwrap();
    assert!(body.contains("\"y\":42"), "the model went back as well: {body}");
    let told = history(project, "production");
    let expected = [
        triple("rollback", "svc@1.0.0", "succeeded"),
        triple("promote", "svc@1.1.0", "succeeded"),
        triple("rollback", "svc@1.0.0", "succeeded"),
        triple("promote", "svc@1.1.0", "succeeded"),
        triple("promote", "svc@1.0.0", "succeeded"),
    ];
    assert_eq!(told, expected);
    let text = project.run(["history", "production"]).ok();
    for words in ["rollback", "svc@1.0.0", "svc@1.1.0", "customers complain", "tess@example.com"] {
        assert!(text.stdout.contains(words), "{words}: {}", text.told());
    }
}

fn told(project: &Project) {
    let status = project.json(["status"]).ok().result();
    let production = status.as_array().unwrap().iter().find(|one| one["environment"] == "production").unwrap();
    let svc = &production["components"]["svc"];
    assert_eq!((&svc["state"], &svc["serving"]["release"]), (&json!("serving"), &json!("svc@1.0.0")), "{svc}");
    assert_eq!(svc["url"], format!("http://127.0.0.1:{}", project.port("production")));
    assert!(production["held"].is_null() && production["open"].is_null(), "{production}");
    project.run(["status"]).ok().says("production").says("svc@1.0.0").says("svc@1.3.0");

    let explained = project.json(["explain", "svc@1.1.0"]).ok().result();
    assert_eq!(explained["manifest"]["release"], "svc@1.1.0");
    assert_eq!(explained["missing"], json!([]));
    assert!(explained["manifest"]["models"]["price"]["version"].is_string(), "{explained}");
    assert_eq!(explained["manifest"]["previous"]["release"], "svc@1.0.0");
    project.run(["explain", "svc@1.1.0"]).ok().says("price@").says("cosign verify-blob-attestation").says("raw");
    project.run(["release", "verify", "svc@1.1.0"]).ok();

    let verified = project.json(["audit", "verify"]).ok().result();
    assert_eq!(verified.as_array().map(Vec::len), Some(2), "{verified}");
    project.run(["audit", "verify"]).ok().says("staging").says("production");
    project.run(["audit", "log", "production"]).ok().says("rollout.ended");
}

/// The repository is deleted; the store and one public key bring a release back that runs.
fn restore(project: &Project) {
    let outside = project.folder().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::rename(project.store_folder(), outside.join("store")).unwrap();
    std::fs::copy(project.path("deploy/keys/release.pub"), outside.join("release.pub")).unwrap();
    project.stop_all();
    std::fs::remove_dir_all(project.root()).unwrap();

    let restore =
        ["restore", "svc@1.1.0", "--to", "back", "--store", "store", "--key", "release.pub", "--format", "json"];
    let restored = project.sealift(restore).dir(&outside).run().ok().result();
    assert_eq!(restored["release"], "svc@1.1.0", "{restored}");
    let folder = outside.join("back");
    let sums =
        Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&folder).status().unwrap();
    assert!(sums.success());
    assert_eq!(std::fs::read_dir(folder.join("data/raw")).unwrap().count(), 5, "the data came with it");
    // Into a folder that is in use nothing is written.
    project.sealift(restore).dir(&outside).run().fails(65);

    let port = project.port("staging");
    let mut script = project.command(folder.join("run.sh"));
    script.current_dir(&outside).env("PORT", port.to_string());
    let running = e2e::Running::start(script, "run.sh".to_owned());
    let (code, body) = e2e::until("the restored service answers", || http::post(port, "/predict", "{\"x\": 7}").ok());
    assert_eq!(code, 200);
    assert!(body.contains("\"y\":21") && body.contains("1.1.0"), "{body}");
    drop(running);
}

#[test]
fn from_a_commit_to_production_and_back() {
    let mut project = begin();
    first_release(&project);
    better_model(&mut project);
    bad_releases(&mut project);
    never_healthy(&mut project);
    rules(&project);
    drift(&project);
    kept_plans(&project);
    back(&project);
    told(&project);
    restore(&project);
    let folder = project.folder().to_owned();
    drop(project);
    assert_eq!(processes::of(&folder), Vec::<i32>::new(), "nothing is left running");
}

/// A first release that fails leaves nothing behind, and says that nothing serves.
#[test]
fn a_first_release_that_fails_leaves_an_empty_environment() {
    let mut project = Project::service();
    project.release("1.0.0", |settings| settings.behaviour = Behaviour::BadSmoke);
    project.run(["deploy", "staging"]).fails(2).says("failed its smoke requests").says("nothing serves staging now");
    let state = project.state("staging");
    assert_eq!((state.serving, state.open, state.answers), (None, 0, None));
    assert_eq!(processes::of(project.folder()), Vec::<i32>::new());
    project.run(["audit", "verify", "staging"]).ok();
    project.release("1.0.1", |settings| settings.behaviour = Behaviour::Ok);
    project.run(["deploy", "staging"]).ok();
    assert_eq!(project.answers("staging").as_deref(), Some("1.0.1"));
}

/// A service that dies later is brought back by deploying the release that should serve.
#[test]
fn what_should_serve_is_started_again() {
    let mut project = Project::service();
    project.release("1.0.0", |_| {});
    project.run(["deploy", "staging"]).ok();
    project.run(["deploy", "staging"]).ok().says("already serves staging");
    project.stop_all();
    let status = project.json(["status"]).ok().result();
    let staging = status.as_array().unwrap().iter().find(|one| one["environment"] == "staging").unwrap();
    assert_eq!(staging["components"]["svc"]["state"], "down", "{staging}");
    project.run(["deploy", "staging"]).ok();
    assert_eq!(project.answers("staging").as_deref(), Some("1.0.0"));
}
