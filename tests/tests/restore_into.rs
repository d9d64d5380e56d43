//! A release out of the store straight into Docker Engines, and what a person is told when that is not possible.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a helper of a test fails as the test does")]

mod common;

use common::{engine::Engine, objects, outcome, refused, testbed};
use e2e::{Project, Settings};
use serde_json::Value;

const OCI: &str = "builder = \"oci\"\nfiles = [{ from = \"build/new\", to = \"/new\" }]\nentrypoint = [\"/new\"]";

fn cut() -> (Project, Value) {
    let mut project = Project::service_with(Settings { gate: false, ..Settings::default() });
    // Other tests share the engines: one that has a layer already does not ask for it.
    project.write("build/new", std::fs::read("/proc/sys/kernel/random/uuid").unwrap());
    project.settings.build = OCI.to_owned();
    project.configure();
    project.commit("A new file");
    project.run(["release", "cut"]).ok();
    let manifest = project.json(["explain", "svc@1.0.0"]).ok().result()["manifest"].clone();
    let image = manifest["images"]["linux/amd64"].clone();
    (project, image)
}

fn digest(image: &Value, name: &str) -> String {
    image[name].as_str().unwrap().to_owned()
}

/// The ID of an image, by its name or ID.
fn held(engine: &Engine, name: &str) -> Option<String> {
    let path = format!("/images/{name}/json");
    let (status, body) = engine.request("GET", &path, &mut std::io::empty()).unwrap();
    let shown: Value = serde_json::from_slice(&body).unwrap();
    (status == 200).then(|| shown["Id"].as_str().unwrap().to_owned())
}

fn into_engine(variable: &str, kept_as: &str) {
    let Some(address) = testbed(variable) else { return };
    let (project, image) = cut();
    let engine = Engine::at(&address);
    // A layer that was damaged in the store: nothing of it is in the engine, and it is said which blob does not hold.
    let manifest = objects::file(&project.store_folder(), &key(&digest(&image, "manifest")));
    let sealed: Value = serde_json::from_slice(&objects::body(&manifest)).unwrap();
    let layer = sealed["layers"][0]["digest"].as_str().unwrap().to_owned();
    let file = objects::file(&project.store_folder(), &key(&layer));
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 3] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    let run = project.run(["restore", "svc@1.0.0", "--into", &address]);
    refused(&run, 73).says(&[&layer]).then("sealift release verify");
    for name in ["svc:1.0.0", &digest(&image, "config"), &digest(&image, "manifest")] {
        assert_eq!(held(&engine, name), None, "{name}");
    }
    std::fs::write(&file, &whole).unwrap();
    // As it was sealed, without a checkout: `DOCKER_HOST` says which engine is the usual one.
    let mut command = project.command(e2e::sealift_program());
    command.args(["restore", "svc@1.0.0", "--into", "docker"]).env("DOCKER_HOST", &address);
    let (ok, said) = outcome(&mut command);
    let id = digest(&image, kept_as);
    assert!(ok && said.contains(&id) && said.contains("next: docker run --rm svc:1.0.0"), "{said}");
    assert_eq!(held(&engine, "svc:1.0.0"), Some(id.clone()));
    // Once more nothing is sent.
    let again = project.json(["restore", "svc@1.0.0", "--into", &address]).ok().result();
    assert_eq!((again["was_there"].as_bool(), again["id"].as_str()), (Some(true), Some(id.as_str())));
    let (status, _) = engine.request("DELETE", "/images/svc:1.0.0", &mut std::io::empty()).unwrap();
    assert_eq!(status, 200);
}

fn key(digest: &str) -> String {
    let hex = digest.trim_start_matches("sha256:");
    format!("blobs/sha256/{}/{hex}", &hex[..2])
}

#[test]
fn into_the_oldest_engine() {
    into_engine("SEALIFT_TEST_DOCKER", "config");
}

#[test]
fn into_the_newest_engine() {
    into_engine("SEALIFT_TEST_DOCKER_NEWEST", "manifest");
}

#[test]
fn without_an_engine_or_with_two_places_nothing_happens() {
    let (project, _) = cut();
    let nowhere = format!("unix://{}", project.path("no.sock").display());
    refused(&project.run(["restore", "svc@1.0.0", "--into", &nowhere]), 69).says(&[&nowhere]);
    for words in [
        &["restore", "svc@1.0.0"][..],
        &["restore", "svc@1.0.0", "--into", "docker", "--to", "x"],
        &["restore", "svc@1.0.0", "--into", "docker", "--image", "oci-layout"],
        &["restore", "svc@1.0.0", "--image", "oci-layout"],
        &["restore", "svc@1.0.0", "--into", "podman"],
    ] {
        let run = project.run(words.iter().copied());
        assert_eq!(run.code, Some(64), "{}", run.told());
    }
    assert!(!project.path("x").exists());
}
