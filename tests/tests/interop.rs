//! What others' programs make of what Sealift writes, and Sealift of their servers: cosign, skopeo, the AWS client, MinIO, an
//! OCI registry, a Docker Engine. They are found by `SEALIFT_TEST_*` (`cargo xtask testbed -- cargo test -p e2e`).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, and counts are printed"
)]

mod common;

use common::{
    engine::Engine,
    network::{ACCESS, BUCKET, PREFIX, SECRET, Server, exchange, section, section_with},
    objects, outcome, refused, succeed, testbed,
};
use e2e::{Behaviour, Project, Run, Settings, http};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A release with everything: image, model, data, and what it is made of.
fn full() -> Project {
    let project = Project::service_with(Settings::full());
    project.run(["data", "add"]).ok();
    project.run(["data", "push"]).ok();
    project.run(["model", "register"]).ok();
    project.commit("The data");
    project.run(["release", "cut"]).ok();
    project
}

fn manifest(project: &Project, release: &str) -> Value {
    project.json(["explain", release]).ok().result()["manifest"].clone()
}

#[track_caller]
fn text(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("there is no {pointer} in {value:#}")).to_owned()
}

fn key(family: &str, digest: &str) -> String {
    let hex = digest.trim_start_matches("sha256:");
    format!("{family}/{}/{hex}", &hex[..2])
}

// cosign ---------------------------------------------------------------------------------------------------------------

#[test]
fn cosign_verifies_that_a_file_belongs_to_a_release() {
    let Some(cosign) = testbed("SEALIFT_TEST_COSIGN") else { return };
    let project = full();
    let store = project.store_folder();
    let manifest = manifest(&project, "svc@1.0.0");
    let out = |name: &str, key: &str| {
        project.write(name, objects::body(&objects::file(&store, key)));
        project.path(name)
    };
    let bundle = out("out/bundle.json", "releases/svc/1.0.0.sigstore.json");
    let image = text(&manifest, "/images/linux~1amd64/manifest");
    let document: Value =
        serde_json::from_slice(&objects::body(&objects::file(&store, &key("blobs/sha256", &image)))).unwrap();
    let layer = text(&document, "/layers/0/digest");
    let snapshot = text(&manifest, "/data/raw/snapshot");
    let files = [
        ("model", project.path("models/price.json")),
        ("image manifest", out("out/image", &key("blobs/sha256", &image))),
        ("image layer", out("out/layer", &key("blobs/sha256", &layer))),
        ("data manifest", out("out/data", &key("snapshots", &snapshot))),
    ];
    let verify = |key: &Path, kind: &str, file: &Path| {
        let mut command = project.command(&cosign);
        command.args(["verify-blob-attestation", "--insecure-ignore-tlog=true", "--type", kind, "--key"]).arg(key);
        outcome(command.arg("--bundle").arg(&bundle).arg(file))
    };
    let kind = "urn:sealift:release:v1";
    let trusted = project.path("deploy/keys/release.pub");
    for (what, file) in &files {
        let (ok, said) = verify(&trusted, kind, file);
        assert!(ok && said.contains("Verified OK"), "{what}: {said}");
    }
    // Another file, another type, another key: each refused.
    let (ok, said) = verify(&trusted, kind, &project.path("pyproject.toml"));
    assert!(!ok && !said.contains("Verified OK"), "a file that is not in the release: {said}");
    let (ok, said) = verify(&trusted, "urn:sealift:model:v1", &files[0].1);
    assert!(!ok, "another type: {said}");
    let other = Project::service();
    let (ok, said) = verify(&other.path("deploy/keys/release.pub"), kind, &files[0].1);
    assert!(!ok, "another key: {said}");
}

// S3 clients and servers -----------------------------------------------------------------------------------------------

fn aws(project: &Project, aws: &str, endpoint: &str, keys: [&str; 2], arguments: &[&str]) -> String {
    let mut command = project.command(aws);
    command.args(["--endpoint-url", endpoint, "--region", "us-east-1"]).args(arguments);
    command.env("AWS_ACCESS_KEY_ID", keys[0]).env("AWS_SECRET_ACCESS_KEY", keys[1]);
    succeed(&mut command)
}

#[test]
fn an_operator_restores_a_blob_with_any_s3_client() {
    let Some(program) = testbed("SEALIFT_TEST_AWS") else { return };
    let mut project = Project::service_with(Settings { model: true, gate: false, ..Settings::default() });
    let server = Server::start(&project, &project.folder().join("store"), true);
    project.settings.store = section(&server.endpoint(), BUCKET);
    project.configure();
    let sealift =
        |line: &[&str]| project.sealift(line).env("STORE_ACCESS", ACCESS).env("STORE_SECRET", SECRET).run().ok();
    sealift(&["model", "register"]);
    project.commit("The model");
    sealift(&["release", "cut"]);
    let run = sealift(&["explain", "svc@1.0.0", "--format", "json"]);
    let digest = text(&run.result()["manifest"], "/models/price/digest");
    let from = format!("s3://{BUCKET}/{PREFIX}/{}", key("blobs/sha256", &digest));
    let keys = [ACCESS, SECRET];
    aws(&project, &program, &server.endpoint(), keys, &["s3", "cp", "--quiet", &from, "restored-model"]);
    let sum = succeed(project.command("sha256sum").arg("restored-model"));
    assert!(sum.starts_with(digest.trim_start_matches("sha256:")), "{sum} is not {digest}");
    assert_eq!(project.read("restored-model"), project.read("models/price.json"));
    // The whole bucket is an export that is verified without the store.
    let all = format!("s3://{BUCKET}/{PREFIX}");
    sealift(&["deploy", "staging"]);
    aws(&project, &program, &server.endpoint(), keys, &["s3", "cp", "--quiet", "--recursive", &all, "export"]);
    drop(server);
    let key = "deploy/keys/release.pub";
    project.run(["audit", "verify", "--offline", "export", "--key", key]).ok().says("staging");
    project.run(["release", "verify", "--bundle", "export/releases/svc/1.0.0.sigstore.json", "--key", key]).ok();
}

#[test]
fn the_whole_journey_with_minio_as_the_store() {
    let Some(address) = testbed("SEALIFT_TEST_MINIO") else { return };
    let (credentials, place) = address.strip_prefix("http://").unwrap().split_once('@').unwrap();
    let (access, secret) = credentials.split_once(':').unwrap();
    let (host, bucket) = place.split_once('/').unwrap();
    let endpoint = format!("http://{host}");
    let mut project = Project::service_with(Settings::full());
    // The bucket is everybody's.
    let prefix = format!("journey/{}", project.folder().file_name().unwrap().to_string_lossy());
    project.settings.store = section_with(&endpoint, bucket, &prefix);
    project.configure();
    project.commit("MinIO");
    let run = |project: &Project, line: &[&str]| -> Run {
        project.sealift(line).env("STORE_ACCESS", access).env("STORE_SECRET", secret).run()
    };
    for line in [&["store", "check"][..], &["doctor"], &["data", "add"], &["data", "push"], &["model", "register"]] {
        run(&project, line).ok();
    }
    project.commit("The data");
    for line in [
        &["release", "cut"][..],
        &["deploy", "staging"],
        &["smoke", "staging"],
        &["gate", "staging"],
        &["promote", "svc@1.0.0", "--to", "production"],
    ] {
        run(&project, line).ok();
    }
    assert_eq!(project.answers("production").as_deref(), Some("1.0.0"));
    project.settings.behaviour = Behaviour::Errors;
    project.version("1.1.0");
    project.configure();
    project.commit("1.1.0 predicts badly");
    run(&project, &["release", "cut"]).ok();
    run(&project, &["deploy", "staging"]).ok();
    run(&project, &["gate", "staging"]).fails(2);
    refused(&run(&project, &["promote", "svc@1.1.0", "--to", "production"]), 2).says(&["may not leave staging"]);
    project.settings.behaviour = Behaviour::Ok;
    project.version("1.2.0");
    project.configure();
    project.commit("1.2.0 is good");
    for line in [
        &["release", "cut"][..],
        &["deploy", "staging"],
        &["gate", "staging"],
        &["promote", "svc@1.2.0", "--to", "production"],
    ] {
        run(&project, line).ok();
    }
    assert_eq!(project.answers("production").as_deref(), Some("1.2.0"));
    run(&project, &["rollback", "production"]).ok();
    assert_eq!(project.answers("production").as_deref(), Some("1.0.0"));
    for line in [&["audit", "verify"][..], &["release", "verify", "svc@1.2.0"], &["data", "verify"], &["status"]] {
        run(&project, line).ok();
    }
    let store = format!("s3://{bucket}/{prefix}");
    let public = project.home().join("release.pub");
    fs::copy(project.path("deploy/keys/release.pub"), &public).unwrap();
    fs::remove_dir_all(project.path("data")).unwrap();
    let restored = project.home().join("restored");
    let line = ["restore", "svc@1.2.0", "--to", restored.to_str().unwrap(), "--store", &store, "--endpoint", &endpoint];
    let line = [&line[..], &["--key", public.to_str().unwrap()]].concat();
    project
        .sealift(&line)
        .env("AWS_ACCESS_KEY_ID", access)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .dir(project.home())
        .run()
        .ok();
    succeed(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&restored));
    assert!(restored.join("data/raw/part-0.csv").is_file());
    // What is refused there is refused in words.
    let run =
        project.sealift(["status"]).env("STORE_ACCESS", access).env("STORE_SECRET", "wrong-but-long-enough").run();
    refused(&run, 69).says(&["refuses the credentials"]);
}

// Images ---------------------------------------------------------------------------------------------------------------

/// What a restore exports is an image to others' programs.
fn restored_image(project: &Project) -> (PathBuf, String) {
    project.run(["restore", "svc@1.0.0", "--to", "restored"]).ok();
    (
        project.path("restored/image-linux-amd64.tar"),
        text(&manifest(project, "svc@1.0.0"), "/images/linux~1amd64/config"),
    )
}

#[test]
fn skopeo_reads_the_exported_image() {
    let Some(skopeo) = testbed("SEALIFT_TEST_SKOPEO") else { return };
    let project = full();
    let (archive, config) = restored_image(&project);
    let place = format!("docker-archive:{}", archive.display());
    let inspected: Value = serde_json::from_str(&succeed(project.command(&skopeo).args(["inspect", &place]))).unwrap();
    assert_eq!(inspected["Architecture"], "amd64", "{inspected:#}");
    assert_eq!(text(&inspected, "/Labels/org.opencontainers.image.version"), "1.0.0");
    let raw = succeed(project.command(&skopeo).args(["inspect", "--raw", &place]));
    let raw: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(text(&raw, "/config/digest"), config, "the configuration is the sealed one");
}

#[test]
fn a_docker_engine_loads_the_exported_image() {
    let Some(address) = testbed("SEALIFT_TEST_DOCKER") else { return };
    let engine = Engine::at(&address);
    let project = full();
    let (archive, config) = restored_image(&project);
    let said = engine.post_file("/images/load?quiet=1", &archive);
    assert!(said.contains("svc:1.0.0"), "{said}");
    let image = engine.get("/images/svc:1.0.0/json");
    engine.clear("nothing", &["svc:1.0.0"]);
    assert_eq!(image["Id"], config.as_str(), "{image:#}");
}

#[test]
fn an_image_is_pushed_with_its_tags_and_none_is_moved() {
    let Some(address) = testbed("SEALIFT_TEST_REGISTRY") else { return };
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let mut project = Project::service_with(Settings { gate: false, ..Settings::default() });
    let name = project.folder().file_name().unwrap().to_string_lossy().to_lowercase();
    project.settings.more =
        format!("\n[component.svc.image]\nrepository = \"{address}/team/{name}\"\ninsecure = true\n");
    project.configure();
    project.commit("A registry");
    project.run(["doctor"]).ok().says("answers");
    project.run(["release", "cut"]).ok();
    let sealed = text(&manifest(&project, "svc@1.0.0"), "/images/linux~1amd64/manifest");
    let accept = "accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json\r\n";
    let tag = |tag: &str| {
        let (status, head, _) = exchange(port, &format!("HEAD /v2/team/{name}/manifests/{tag}"), accept, b"");
        let line = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("docker-content-digest: ").map(str::to_owned));
        (status, line.unwrap_or_default())
    };
    for mark in ["1.0.0", "1.0", "1", "latest"] {
        assert_eq!(tag(mark), (200, sealed.clone()), "tag {mark}");
    }
    // Somebody puts 1.1.0 elsewhere before us: it is not moved, and nothing is sealed.
    let (_, head, old) = exchange(port, &format!("GET /v2/team/{name}/manifests/1.0.0"), accept, b"");
    let kind = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-type:")).unwrap();
    let (status, ..) = exchange(port, &format!("PUT /v2/team/{name}/manifests/1.1.0"), &format!("{kind}\r\n"), &old);
    assert_eq!(status, 201);
    project.version("1.1.0");
    project.commit("1.1.0");
    let refusal = refused(&project.run(["release", "cut"]), 73);
    refusal.says(&["tag 1.1.0", "already points to", "not moved"]).then("new version");
    assert_eq!(tag("1.1.0"), (200, sealed.clone()));
    assert_eq!(tag("latest"), (200, sealed.clone()), "nothing else was moved either");
    assert_eq!(objects::keys(&project.store_folder(), "releases/").len(), 1);
    // A prerelease gets its own tag and no other.
    project.version("1.2.0-rc.1");
    project.commit("1.2.0-rc.1");
    project.run(["release", "cut"]).ok();
    assert_eq!(tag("1.2.0-rc.1").0, 200);
    assert_eq!(tag("1.2").0, 404);
    assert_eq!(tag("latest"), (200, sealed));
}

// Docker ---------------------------------------------------------------------------------------------------------------

const DOCKERFILE: &str = "FROM scratch\nCOPY build/service /service\nENTRYPOINT [\"/service\"]\n";

/// The service, built by an engine and run in it.
fn in_docker(engine: &str) -> Project {
    let mut project = Project::service();
    project.write("Dockerfile", DOCKERFILE);
    project.write(".dockerignore", "*\n!build/service\n");
    project.settings.build = format!("builder = \"docker\"\nengine = \"{engine}\"");
    project.settings.env.push(("LISTEN".into(), "\"0.0.0.0:{port}\"".into()));
    project.settings.staging = format!("target = \"docker\"\nengine = \"{engine}\"");
    project.settings.production = project.settings.staging.clone();
    project.configure();
    project.commit("Docker");
    project
}

/// Removes the containers of the fixture when a test ends, however it ends.
struct Cleared<'a>(&'a Engine);

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        self.0.clear("fixture", &[]);
    }
}

#[test]
fn a_release_is_built_and_run_by_a_docker_engine() {
    let Some(address) = testbed("SEALIFT_TEST_DOCKER") else { return };
    let engine = Engine::at(&address);
    let _cleared = Cleared(&engine);
    let mut project = in_docker(&address);
    project.run(["doctor"]).ok();
    project.run(["release", "cut"]).ok();
    project.run(["deploy", "staging"]).ok();
    assert_eq!(project.answers("staging").as_deref(), Some("1.0.0"));

    // What runs is what was sealed, and as the policy says.
    let sealed = manifest(&project, "svc@1.0.0");
    let container = engine.container("fixture", "staging");
    let image = text(&container, "/Image");
    let digests = [text(&sealed, "/images/linux~1amd64/config"), text(&sealed, "/images/linux~1amd64/manifest")];
    // Its configuration for classic engines, its manifest where containerd keeps the images.
    assert!(digests.contains(&image), "{image} is not one of {digests:?}");
    let host = &container["HostConfig"];
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["Privileged"], false);
    assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
    assert!(host["CapAdd"].as_array().is_none_or(Vec::is_empty));
    assert!(host["SecurityOpt"].to_string().contains("no-new-privileges"));
    assert!(!host["SecurityOpt"].to_string().contains("unconfined"));
    assert_eq!(host["Memory"], 256 << 20);
    assert!(host["PidsLimit"].as_u64().is_some_and(|limit| limit > 0 && limit < 10_000));
    assert!(host["Tmpfs"].get("/tmp").is_some());
    assert_eq!(text(&container, "/Config/User"), "1000:1000");
    assert_eq!(text(&container, "/Config/Labels/sealift.release"), "svc@1.0.0");

    project.run(["gate", "staging"]).ok();
    project.run(["promote", "svc@1.0.0", "--to", "production"]).ok();
    let _ = project.release("1.1.0", |settings| settings.env.push(("NOTE".into(), "\"second\"".into())));
    for line in [&["deploy", "staging"][..], &["gate", "staging"], &["promote", "svc@1.1.0", "--to", "production"]] {
        project.run(line).ok();
    }
    assert_eq!(project.answers("production").as_deref(), Some("1.1.0"));
    assert_eq!(http::get(project.port("production"), "/env/NOTE").unwrap().0, 200);
    // One that never gets healthy is taken back; then the way back by hand.
    let _ = project.release("1.2.0", |settings| {
        settings.behaviour = Behaviour::Exits;
        settings.start_timeout = "3s".into();
    });
    refused(&project.run(["deploy", "staging"]), 2).says(&["taken back", "svc@1.1.0 serves again"]);
    assert_eq!(project.answers("staging").as_deref(), Some("1.1.0"));
    project.run(["rollback", "production"]).ok();
    assert_eq!(project.answers("production").as_deref(), Some("1.0.0"));
    assert_eq!(http::get(project.port("production"), "/env/NOTE").unwrap().0, 404);
    project.run(["status"]).ok().says("serving");
    project.run(["audit", "verify"]).ok();
    // A container that somebody removed is said, and comes back with the next deploy.
    engine.clear("fixture", &[]);
    project.run(["status"]).ok().says("down");
    project.run(["deploy", "staging", "svc@1.1.0"]).ok();
    assert_eq!(project.answers("staging").as_deref(), Some("1.1.0"));
}
