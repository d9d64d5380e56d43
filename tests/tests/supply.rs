//! The supply chain with others as judges: what Sealift builds, pushes, signs and restores is looked at by cosign, crane, skopeo, syft and
//! two Docker Engines, and what is not as it was sealed is refused, each case in its own words and with its own exit code.
//!
//! The commands that `release verify` prints are run as they are printed. What each judge saw is one line for `cargo xtask ci`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, and what cannot run is printed"
)]

mod common;

use common::{objects, outcome, refused, registry::Registry, succeed, testbed};
use e2e::{Project, Settings, campaign, sealift_program};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

const KEY: &str = "deploy/keys/release.pub";
const LOCK: &str = "version = 4\n\n[[package]]\nname = \"svc\"\nversion = \"1.0.0\"\ndependencies = [\"tiny\"]\n\n[[package]]\nname = \"tiny\"\nversion = \"0.3.1\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n";

/// What a package manager says is installed in the image; what syft finds.
const STATUS: &str = "Package: tinylib\nStatus: install ok installed\nMaintainer: Tess Ter <tess@example.com>\nArchitecture: amd64\nVersion: 1.2-3\nDescription: tiny\n\n";
const PLAIN: &str = r#"builder = "oci"
files = [
  { from = "build/service", to = "/service", mode = "0755" },
  { from = "system/status", to = "/var/lib/dpkg/status" },
  { from = "system/os-release", to = "/etc/os-release" },
]
entrypoint = ["/service"]"#;

/// The judges, each as the program of its name in one folder.
struct Judges {
    folder: tempfile::TempDir,
}

impl Judges {
    fn gather() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        for (name, variable) in [
            ("cosign", "SEALIFT_TEST_COSIGN"),
            ("crane", "SEALIFT_TEST_CRANE"),
            ("skopeo", "SEALIFT_TEST_SKOPEO"),
            ("syft", "SEALIFT_TEST_SYFT"),
        ] {
            symlink(testbed(variable)?, folder.path().join(name)).unwrap();
        }
        symlink(sealift_program(), folder.path().join("sealift")).unwrap();
        Some(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command line as a person types it, in the project's folder, with the judges first in PATH.
    fn shell(&self, project: &Project, line: &str) -> (bool, String) {
        let mut command = project.command("sh");
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(["-c", line]).env("PATH", format!("{}:{path}", self.folder.path().display()));
        outcome(&mut command)
    }
}

/// The service with a registry, and a builder of its own.
fn published(registry: &Registry, name: &str, build: Option<String>) -> Project {
    let mut project = Project::service_with(Settings { gate: false, ..Settings::default() });
    project.write("Cargo.lock", LOCK);
    project.write("system/status", STATUS);
    project.write("system/os-release", "ID=debian\nVERSION_ID=\"12\"\n");
    project.settings.build = PLAIN.to_owned();
    if let Some(build) = build {
        project.write(
            "Dockerfile",
            "FROM scratch\nCOPY build/service /service\nUSER 1000:1000\nENTRYPOINT [\"/service\"]\n",
        );
        project.write(".dockerignore", "*\n!build/service\n");
        project.settings.build = build;
    }
    project.settings.more =
        format!("\n[component.svc.image]\nrepository = \"{}/team/{name}\"\ninsecure = true\n", registry.address());
    project.configure();
    project.commit("A registry");
    project
}

fn manifest(project: &Project, release: &str) -> Value {
    project.json(["explain", release]).ok().result()["manifest"].clone()
}

fn root(manifest: &Value) -> String {
    let index = manifest.pointer("/index/digest").or_else(|| manifest.pointer("/images/linux~1amd64/manifest"));
    index.and_then(Value::as_str).unwrap().to_owned()
}

/// Everything that a release is asked by those who have never heard of Sealift. Gives the image's reference by digest.
fn judged(judges: &Judges, project: &Project, registry: &Registry, name: &str) -> String {
    let cut = project.json(["release", "cut"]).ok().result();
    let sealed = cut["manifest"].clone();
    let root = root(&sealed);
    let repository = format!("{}/team/{name}", registry.address());
    let reference = format!("{repository}@{root}");
    let cosign = judges.path("cosign");
    let run = |arguments: &[&str]| {
        let mut command = project.command(&cosign);
        command.args(arguments);
        outcome(&mut command)
    };
    // The signature holds for the digest and for the tag, and not under another key.
    let ours = ["verify", "--key", KEY, "--insecure-ignore-tlog=true", "--allow-http-registry"];
    for place in [&reference, &format!("{repository}:1.0.0")] {
        let (ok, said) = run(&[&ours[..], &[place]].concat());
        assert!(ok, "cosign verify {place}: {said}");
    }
    let other = Project::service();
    let stranger = other.path(KEY);
    let theirs =
        ["verify", "--key", stranger.to_str().unwrap(), "--insecure-ignore-tlog=true", "--allow-http-registry"];
    let (ok, said) = run(&[&theirs[..], &[&reference]].concat());
    assert!(!ok, "cosign accepted a stranger's key: {said}");
    // crane: the tag has the digest, and every blob is what its digest says.
    let crane = |arguments: &[&str]| succeed(project.command(judges.path("crane")).args(arguments).arg("--insecure"));
    assert_eq!(crane(&["digest", &format!("{repository}:1.0.0")]).trim(), root);
    crane(&["validate", "--remote", &reference]);
    for tag in ["1.0.0", "1.0", "1", "latest"] {
        assert!(crane(&["ls", &repository]).lines().any(|line| line == tag), "there is no tag {tag}");
    }
    // skopeo: takes it whole.
    let copy = format!("dir:{}", project.path("out/skopeo").display());
    fs::create_dir_all(project.path("out")).unwrap();
    succeed(project.command(judges.path("skopeo")).args([
        "copy",
        "--all",
        "--insecure-policy",
        "--src-tls-verify=false",
        &format!("docker://{reference}"),
        &copy,
    ]));
    // Sealift itself, and then exactly what it prints for those who do not have it.
    let verified = project.json(["release", "verify", "svc@1.0.0"]).ok().result();
    let kinds: Vec<&str> =
        verified["evidence"].as_array().unwrap().iter().map(|claim| claim["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["signature", "provenance", "sbom"]);
    assert_eq!(verified["registries"][0]["attached"], serde_json::json!(kinds));
    assert_eq!(verified["registries"][0]["tags"].as_array().unwrap().len(), 4);
    let commands: Vec<&str> =
        verified["commands"].as_array().unwrap().iter().map(|command| command.as_str().unwrap()).collect();
    for program in
        ["cosign verify ", "cosign verify-attestation ", "cosign verify-blob-attestation ", "skopeo ", "sha256sum"]
    {
        assert!(commands.iter().any(|command| command.contains(program)), "no {program} in {commands:#?}");
    }
    for command in &commands {
        let (ok, said) = judges.shell(project, command);
        assert!(ok, "{command}\n{said}");
    }
    // The folder that they restored is verified without store and registry.
    project.run(["release", "verify", "--folder", "out/svc@1.0.0", "--key", KEY]).ok().says("is verified");
    reference
}

#[test]
fn the_oci_builder_is_judged_by_everybody() {
    let (Some(judges), Some(program)) = (Judges::gather(), testbed("SEALIFT_TEST_REGISTRY_PROGRAM")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(&program, folder.path());
    let project = published(&registry, "plain", None);
    let reference = judged(&judges, &project, &registry, "plain");
    let release = manifest(&project, "svc@1.0.0");
    // syft reads the image out of the registry, and finds nothing that our list lacks.
    let sbom = project.read("out/svc@1.0.0/sbom.cdx.json");
    let ours: Value = serde_json::from_str(&sbom).unwrap();
    let named = |document: &Value| -> Vec<String> {
        let all = document["components"].as_array().cloned().unwrap_or_default();
        all.iter()
            .filter_map(|one| one["purl"].as_str())
            .map(|purl| purl.split(['?', '#']).next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ours["components"].as_array().unwrap().len() as u64, release["sbom"]["components"].as_u64().unwrap());
    assert!(named(&ours).contains(&"pkg:cargo/tiny@0.3.1".to_owned()), "{sbom}");
    let mut syft = project.command(judges.path("syft"));
    syft.args(["scan", &format!("registry:{reference}"), "--output", "cyclonedx-json", "--quiet"]);
    syft.env("SYFT_REGISTRY_INSECURE_USE_HTTP", "true").env("SYFT_CHECK_FOR_APP_UPDATE", "false");
    let theirs: Value = serde_json::from_str(&succeed(&mut syft)).unwrap();
    assert!(!named(&theirs).is_empty(), "syft found nothing to compare with: {theirs}");
    for purl in named(&theirs) {
        assert!(named(&ours).contains(&purl), "syft finds {purl}, and our SBOM lacks it: {sbom}");
    }
    // With syft beside it the list says so, and has what the lock file names all the same.
    let mut with = published(&registry, "with-syft", None);
    with.settings.component = "sbom = \"syft\"".to_owned();
    with.configure();
    with.commit("syft");
    let cut = with.sealift(["release", "cut", "--format", "json"]).env("SEALIFT_SYFT", judges.path("syft")).run().ok();
    let tool = cut.result()["manifest"]["sbom"]["tool"].as_str().unwrap().to_owned();
    assert!(tool.contains("syft") && tool.contains("sealift"), "{tool}");
    for (judge, saw) in [
        ("cosign", "signature, provenance and SBOM accepted, a stranger's key refused"),
        ("crane", "tags, digest and every blob"),
        ("skopeo", "copied whole, manifest's digest"),
        ("syft", "nothing found that our SBOM lacks"),
    ] {
        campaign::summary(&format!("supply: {judge}: {saw}"));
    }
}

fn with_engine(address: &str, name: &str) {
    let (Some(judges), Some(program)) = (Judges::gather(), testbed("SEALIFT_TEST_REGISTRY_PROGRAM")) else { return };
    let Some(docker) = testbed("SEALIFT_TEST_DOCKER_CLI") else { return };
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(&program, folder.path());
    let repository = format!("engine-{}", name.replace('.', "-"));
    let build = format!("builder = \"docker\"\nengine = \"{address}\"");
    let project = published(&registry, &repository, Some(build));
    judged(&judges, &project, &registry, &repository);
    // What the store gives back is loaded by the engine and is the same image.
    project
        .run(["restore", "svc@1.0.0", "--image", "docker-archive", "--to", "out/image.tar"])
        .ok()
        .says("docker load");
    let mut load = project.command(&docker);
    load.args(["--host", address, "load", "--input"]).arg(project.path("out/image.tar"));
    let said = succeed(&mut load);
    assert!(said.contains("svc:1.0.0"), "{said}");
    let mut inspect = project.command(&docker);
    inspect.args(["--host", address, "image", "inspect", "--format", "{{.Id}}", "svc:1.0.0"]);
    let id = succeed(&mut inspect);
    let sealed = manifest(&project, "svc@1.0.0");
    let image = &sealed["images"]["linux/amd64"];
    let known = [image["config"].as_str().unwrap(), image["manifest"].as_str().unwrap()];
    assert!(known.contains(&id.trim()), "the engine has {id}, and {known:?} was sealed");
    let mut remove = project.command(&docker);
    succeed(remove.args(["--host", address, "image", "rm", "--force", "svc:1.0.0"]));
    for (form, transport) in [("oci-layout", "oci"), ("oci-archive", "oci-archive")] {
        let to = format!("out/{form}");
        project.run(["restore", "svc@1.0.0", "--image", form, "--to", &to]).ok().says("skopeo inspect");
        let place = format!("{transport}:{}", project.path(&to).display());
        succeed(project.command(judges.path("skopeo")).args(["inspect", "--raw", &place]));
    }
    campaign::summary(&format!("supply: engine {name}: built, pushed, signed, verified and restored"));
}

#[test]
fn what_the_oldest_engine_builds_is_judged_by_everybody() {
    let Some(address) = testbed("SEALIFT_TEST_DOCKER") else { return };
    with_engine(&address, "20.10");
}

#[test]
fn what_the_newest_engine_builds_is_judged_by_everybody() {
    let Some(address) = testbed("SEALIFT_TEST_DOCKER_NEWEST") else { return };
    with_engine(&address, "newest");
}

/// The list of refusals: what was done, and what Sealift says to it.
#[test]
fn what_is_not_as_it_was_sealed_is_refused_in_its_own_words() {
    let (Some(judges), Some(program)) = (Judges::gather(), testbed("SEALIFT_TEST_REGISTRY_PROGRAM")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(&program, folder.path());
    let mut project = published(&registry, "refused", None);
    project.run(["release", "cut"]).ok();
    let repository = format!("{}/team/refused", registry.address());
    let first = root(&manifest(&project, "svc@1.0.0"));
    let _ = project.release("1.1.0", |settings| settings.env.push(("NOTE".into(), "\"second\"".into())));
    let second = root(&manifest(&project, "svc@1.1.0"));
    assert_ne!(first, second);
    let verify = || project.run(["release", "verify", "svc@1.0.0"]);
    verify().ok();
    let crane = |arguments: &[&str]| succeed(project.command(judges.path("crane")).args(arguments).arg("--insecure"));

    // A wrong key.
    let other = Project::service();
    let stranger = other.path(KEY);
    let wrong = project.run(["release", "verify", "svc@1.0.0", "--key", stranger.to_str().unwrap()]);
    refused(&wrong, 73).says(&["verify releases/svc/1.0.0", "signed by a key that is not trusted"]);

    // A swapped tag.
    crane(&["tag", &format!("{repository}@{second}"), "1.0.0"]);
    refused(&verify(), 73).says(&["the tag", ":1.0.0 points to", &second, "was sealed with", &first]);
    // It is not put back over somebody's image, and nothing else is written.
    refused(&project.run(["publish", "svc@1.0.0"]), 73).says(&["1.0.0", "already points to"]);
    crane(&["tag", &format!("{repository}@{first}"), "1.0.0"]);
    verify().ok();

    // The bundle of another image: its list of attachments instead of ours.
    let tag_of = |digest: &str| digest.replace(':', "-");
    let place = |digest: &str| format!("{repository}:{}", tag_of(digest));
    let ours = crane(&["digest", &place(&first)]).trim().to_owned();
    crane(&["tag", &place(&second), &tag_of(&first)]);
    refused(&verify(), 73).says(&["attached to", "about another image"]);
    crane(&["tag", &format!("{repository}@{ours}"), &tag_of(&first)]);
    verify().ok();

    // An edited layer, in the registry and in the store.
    let sealed = manifest(&project, "svc@1.0.0");
    let layer = sealed["images"]["linux/amd64"]["layers"][0].as_str().unwrap().to_owned();
    let blob = registry.blob(&layer);
    let bytes = fs::read(&blob).unwrap();
    fs::write(&blob, edited(&bytes)).unwrap();
    refused(&verify(), 73).says(&["verify svc@1.0.0 in", "digest"]);
    fs::write(&blob, &bytes).unwrap();
    verify().ok();
    let hex = layer.trim_start_matches("sha256:");
    let object = objects::file(&project.store_folder(), &format!("blobs/sha256/{}/{hex}", &hex[..2]));
    let bytes = fs::read(&object).unwrap();
    fs::write(&object, edited(&bytes)).unwrap();
    refused(&verify(), 73).says(&["image/linux-amd64/layer/0"]);
    fs::write(&object, &bytes).unwrap();
    verify().ok();

    // Evidence of another release in the place of ours.
    let evidence = |release: &str| {
        let claim = manifest(&project, release)["evidence"][1].clone();
        let hex = |name: &str| claim[name].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        let (subject, bundle) = (hex("subject"), hex("bundle"));
        objects::file(
            &project.store_folder(),
            &format!("attestations/{}/{subject}/{bundle}.sigstore.json", &subject[..2]),
        )
    };
    let (ours, theirs) = (evidence("svc@1.0.0"), evidence("svc@1.1.0"));
    let bytes = fs::read(&ours).unwrap();
    fs::copy(&theirs, &ours).unwrap();
    refused(&project.run(["release", "verify", "svc@1.0.0", "--no-registry"]), 73).says(&["provenance"]);
    refused(&project.run(["restore", "svc@1.0.0", "--to", "out/swapped"]), 73).says(&["provenance"]);
    assert!(!project.path("out/swapped").exists(), "nothing is left of it");
    fs::write(&ours, &bytes).unwrap();
    verify().ok();
    fs::remove_file(&ours).unwrap();
    refused(&project.run(["release", "verify", "svc@1.0.0", "--no-registry"]), 66)
        .says(&["provenance", "not in the store"]);
    fs::write(&ours, &bytes).unwrap();

    // A restored folder in which one file was changed.
    project.run(["restore", "svc@1.0.0", "--to", "out/restored"]).ok();
    let offline = || project.run(["release", "verify", "--folder", "out/restored", "--key", KEY]);
    offline().ok();
    for (path, words) in [
        ("sbom.cdx.json", "was sealed with"),
        ("image-linux-amd64.tar", "image"),
        ("evidence/signature.sigstore.json", "signature"),
        ("release.sigstore.json", "release"),
        ("rootfs/service", "rootfs"),
    ] {
        let full = project.path("out/restored").join(path);
        let bytes = fs::read(&full).unwrap();
        fs::write(&full, edited(&bytes)).unwrap();
        refused(&offline(), 73).says(&[words]);
        if !path.starts_with("rootfs") {
            fs::remove_file(&full).unwrap();
            refused(&offline(), 66);
        }
        fs::write(&full, &bytes).unwrap();
    }
    // An archive whose two halves are of two releases: engines differ in which half they read.
    project.run(["restore", "svc@1.1.0", "--to", "out/second"]).ok();
    let splice = "mkdir x y && tar xf out/restored/image-linux-amd64.tar -C x && tar xf out/second/image-linux-amd64.tar -C y \
        && cp y/blobs/sha256/* x/blobs/sha256/ && cp y/index.json x/ && tar cf out/restored/image-linux-amd64.tar -C x .";
    let (ok, said) = judges.shell(&project, splice);
    assert!(ok, "{said}");
    refused(&offline(), 73).says(&["image-linux-amd64.tar"]);
}

/// The last of the list: a finding that was allowed until a day that is past.
#[test]
fn a_finding_whose_allowance_has_expired_is_refused_in_its_own_words() {
    let mut project = Project::service_with(Settings { gate: false, ..Settings::default() });
    let report = r#"{"dependencies": [{"name": "tiny", "version": "0.3.1", "vulns": [
        {"id": "PYSEC-2026-1", "fix_versions": ["0.3.2"], "aliases": [], "description": "it is too tiny"}]}], "fixes": []}"#;
    let allowed =
        |until: &str| format!("[[allow]]\nid = \"PYSEC-2026-1\"\nreason = \"never called\"\nexpires = \"{until}\"\n");
    project.settings.staging = "target = \"process\"\ngates = [\"scan\"]".to_owned();
    project.settings.more = "\n[[gate.scan.check]]\nname = \"audit\"\nkind = \"scan\"\nformat = \"pip-audit\"\npath = \"reports/audit.json\"\nsubject = \"any\"\nallow = \"deploy/allow.toml\"\n".to_owned();
    project.write("reports/audit.json", report);
    for (version, until, code) in [("1.0.1", "2999-01-01", 0), ("1.0.2", "2026-01-01", 2)] {
        project.write("deploy/allow.toml", allowed(until));
        let _ = project.release(version, |_| ());
        project.run(["deploy", "staging"]).ok();
        let run = project.run(["gate", "staging"]);
        assert_eq!(run.code, Some(code), "{}", run.told());
        let promoted = project.run(["promote", &format!("svc@{version}"), "--to", "production"]);
        if code == 0 {
            let _ = promoted.ok();
        } else {
            let _ = run.says("PYSEC-2026-1 is no longer allowed since 2026-01-01 (never called)");
            refused(&promoted, 2).says(&["may not leave staging"]);
        }
    }
}

/// The same bytes with one bit flipped in the middle.
fn edited(bytes: &[u8]) -> Vec<u8> {
    let mut edited = bytes.to_vec();
    let middle = edited.len() / 2;
    edited[middle] ^= 1;
    edited
}

#[test]
fn a_release_is_built_again_and_the_first_file_that_differs_is_named() {
    let project = Project::service();
    project.run(["release", "cut"]).ok();
    project.run(["release", "verify", "svc@1.0.0", "--rebuild"]).ok().says("the same: image linux/amd64");
    // The commit is the same, and what it builds is not: the service is no part of git here.
    let service = project.path("build/service");
    let bytes = fs::read(&service).unwrap();
    fs::write(&service, [&bytes[..], b"more"].concat()).unwrap();
    let run = project.run(["release", "verify", "svc@1.0.0", "--rebuild"]);
    refused(&run, 73).says(&["built again differs for linux/amd64", "/service (content)"]);
    fs::write(&service, bytes).unwrap();
    project.run(["release", "verify", "svc@1.0.0", "--rebuild"]).ok();
    project.write("NOTES", "another commit");
    project.commit("Later");
    let run = project.run(["release", "verify", "svc@1.0.0", "--rebuild"]);
    refused(&run, 65).says(&["cannot be built again here"]).then("git worktree add");
}

#[test]
fn a_release_that_died_publishes_what_it_had_built() {
    let Some(program) = testbed("SEALIFT_TEST_REGISTRY_PROGRAM") else { return };
    let folder = tempfile::tempdir().unwrap();
    let registries: Vec<Registry> =
        (0..5).map(|n| Registry::start(&program, &folder.path().join(n.to_string()))).collect();
    let mut project = Project::service_with(Settings { gate: false, ..Settings::default() });
    let repositories: Vec<String> =
        registries.iter().map(|registry| format!("\"{}/team/five\"", registry.address())).collect();
    project.settings.more =
        format!("\n[component.svc.image]\nrepositories = [{}]\ninsecure = true\n", repositories.join(", "));
    project.configure();
    project.commit("Five registries");
    // The fourth is down: nothing is sealed, and no tag points anywhere.
    registries[3].stop();
    refused(&project.run(["release", "cut"]), 69);
    assert_eq!(objects::keys(&project.store_folder(), "releases/").len(), 0, "the release's bundle comes last");
    for registry in [&registries[0], &registries[1], &registries[2]] {
        assert_eq!(registry.head("team/five", "1.0.0").0, 404, "nothing is half visible");
    }
    registries[3].start_again();
    // What it built is what it publishes, although the build would give something else by now.
    let service = project.path("build/service");
    let bytes = fs::read(&service).unwrap();
    fs::write(&service, [&bytes[..], b"more"].concat()).unwrap();
    project.run(["release", "cut"]).ok();
    let sealed = root(&manifest(&project, "svc@1.0.0"));
    for registry in &registries {
        assert_eq!(registry.head("team/five", "1.0.0"), (200, sealed.clone()));
        assert_eq!(registry.head("team/five", "latest"), (200, sealed.clone()));
    }
    project.run(["release", "verify", "svc@1.0.0"]).ok();
    // Publishing it once more changes nothing and sends nothing.
    let again = project.json(["publish", "svc@1.0.0"]).ok().result();
    for one in again["registries"].as_array().unwrap() {
        assert_eq!(one["sent"], 0, "{one}");
    }
}

#[test]
fn artifacts_need_no_container() {
    let mut project = Project::service();
    project.settings.build = "builder = \"command\"\nrun = [\"sh\", \"-c\", \"mkdir -p dist && printf wheel-$SEALIFT_VERSION > dist/svc.whl\"]\nartifacts = [\"dist/*\"]".to_owned();
    project.write(".gitignore", "/build/\n/.sealift/\n/models/\n/data/raw/\n/reports/\n/ready\n/dist/\n");
    project.configure();
    project.commit("A wheel");
    project.run(["release", "cut"]).ok();
    let sealed = manifest(&project, "svc@1.0.0");
    assert!(sealed["artifacts"]["dist/svc.whl"]["digest"].is_string(), "{sealed:#}");
    project.run(["restore", "svc@1.0.0", "--to", "../out"]).ok();
    assert_eq!(project.read("../out/artifacts/dist/svc.whl"), "wheel-1.0.0");
    assert!(Path::new(&project.path("../out/evidence/provenance.sigstore.json")).is_file());
    project.run(["release", "verify", "--folder", "../out", "--key", KEY]).ok();
    project.run(["release", "verify", "svc@1.0.0", "--rebuild"]).ok().says("the same: artifact dist/svc.whl");
}

/// A flake without inputs whose builder is the host's shell.
const FLAKE: &str = r#"{
  outputs = { self }: {
    packages.x86_64-linux.default =
      let
        mk = name: script: derivation {
          inherit name;
          system = "x86_64-linux";
          builder = "/bin/sh";
          args = [ "-c" script ];
          PATH = "/usr/bin:/bin";
        };
        dep = mk "tiny-dep" ''printf 'dep\n' > "$out"'';
      in mk "tiny-1.0.0" ''mkdir -p "$out/bin"; printf '%s\n' '${dep}' > "$out/bin/payload"'';
  };
}
"#;

#[test]
fn a_closure_of_nix_is_sealed_restored_and_used_by_nix() {
    let Some(nix) = testbed("SEALIFT_TEST_NIX") else { return };
    let mut project = Project::service();
    let at = |name: &str| project.folder().join("nix").join(name);
    fs::create_dir_all(at("conf")).unwrap();
    fs::create_dir_all(at("home")).unwrap();
    let settings = "experimental-features = nix-command flakes\nsandbox = false\nsubstituters =\nbuild-users-group =\nflake-registry =\n";
    fs::write(at("conf/nix.conf"), settings).unwrap();
    let run = |cache: &str, line: &str| {
        let mut command = project.command("sh");
        command
            .args(["-c", line])
            .env("PATH", format!("{}:/usr/bin:/bin", Path::new(&nix).parent().unwrap().display()));
        command.env("NIX_REMOTE", "local").env("HOME", at("home")).env("XDG_CACHE_HOME", at(cache));
        for (name, folder) in [("STORE_DIR", "store"), ("STATE_DIR", "state"), ("LOG_DIR", "log"), ("CONF_DIR", "conf")]
        {
            command.env(format!("NIX_{name}"), at(folder));
        }
        succeed(&mut command).trim().to_owned()
    };
    project.write("flake.nix", FLAKE);
    project.write(".gitignore", "/build/\n/.sealift/\n/models/\n/data/raw/\n/reports/\n/ready\n");
    let key = at("key");
    fs::write(&key, run("cache", "nix key generate-secret --key-name tiny-1")).unwrap();
    let public = run("cache", &format!("nix key convert-secret-to-public < {}", key.display()));
    // The program that the release is built with: Nix in a store of the test's own.
    let wrapper = |name: &str| {
        let program = Path::new(&nix).with_file_name(name);
        let line = format!(
            "#!/bin/sh\nexport NIX_REMOTE=local NIX_STORE_DIR={s} NIX_STATE_DIR={t} NIX_LOG_DIR={l} NIX_CONF_DIR={c} HOME={h} XDG_CACHE_HOME={x}\nexec {p} \"$@\"\n",
            s = at("store").display(),
            t = at("state").display(),
            l = at("log").display(),
            c = at("conf").display(),
            h = at("home").display(),
            x = at("cache").display(),
            p = program.display(),
        );
        fs::create_dir_all(at("bin")).unwrap();
        fs::write(at("bin").join(name), line).unwrap();
        fs::set_permissions(at("bin").join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        at("bin").join(name)
    };
    let program = wrapper("nix");
    wrapper("nix-store");
    let build = format!(
        "builder = \"nix\"\ninstallable = \".\"\noutput = \"closure\"\nnix = \"{}\"\nrebuild = true\nsigning_key = \"file:{}\"",
        program.display(),
        key.display()
    );
    project.settings.build = build;
    project.configure();
    project.commit("A flake");
    project.run(["release", "cut"]).ok();
    let sealed = manifest(&project, "svc@1.0.0");
    let artifacts: Vec<&String> = sealed["artifacts"].as_object().unwrap().keys().collect();
    assert!(artifacts.iter().any(|path| path.ends_with("nix-cache-info")), "{artifacts:?}");
    project.run(["restore", "svc@1.0.0", "--to", "../restored"]).ok();
    project.run(["release", "verify", "--folder", "../restored", "--key", KEY]).ok();
    let at = |name: &str| project.folder().join("nix").join(name);
    let run = |cache: &str, line: &str| {
        let mut command = project.command("sh");
        command.args(["-c", line]).env("PATH", format!("{}:/usr/bin:/bin", at("bin").display()));
        command.env("CACHE", at(cache));
        succeed(&mut command).trim().to_owned()
    };
    // The closure is gone from this machine; the restored folder is the cache that it comes back from, by its signature.
    let out = run("cache", "nix path-info .");
    run("cache", &format!("nix store delete --ignore-liveness $(nix-store --query --requisites {out})"));
    assert!(!Path::new(&out).exists());
    let cache = project.path("../restored/artifacts").canonicalize().unwrap();
    let line = format!(
        "nix build --no-link --max-jobs 0 --option substituters file://{} --option trusted-public-keys {public} .",
        cache.display()
    );
    run("fresh", &line);
    assert!(fs::read_to_string(Path::new(&out).join("bin/payload")).unwrap().contains("tiny-dep"));
}

#[test]
fn what_was_built_of_changes_that_no_commit_has_is_not_published() {
    let mut project = Project::service();
    project.settings.build = "builder = \"command\"\nrun = [\"sh\", \"-c\", \"mkdir -p dist && echo unreviewed >> train.py && cp train.py dist/x\"]\nartifacts = [\"dist/*\"]".to_owned();
    project.write(".gitignore", "/build/\n/.sealift/\n/models/\n/data/raw/\n/reports/\n/ready\n/dist/\n");
    project.configure();
    project.commit("A build that writes into the work tree");
    project.run(["build"]).ok();
    project.git(["checkout", "--", "train.py"]);
    // The build is made again, and leaves the tree dirty again: nothing is sealed.
    refused(&project.run(["release", "cut"]), 65).says(&["not committed", "train.py"]);
    assert_eq!(objects::keys(&project.store_folder(), "releases/").len(), 0);
}

#[test]
fn a_fix_of_an_older_line_moves_no_tag_back() {
    let Some(program) = testbed("SEALIFT_TEST_REGISTRY_PROGRAM") else { return };
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(&program, folder.path());
    let mut project = published(&registry, "line", None);
    project.run(["release", "cut"]).ok();
    let _ = project.release("1.1.0", |settings| settings.env.push(("NOTE".into(), "\"second\"".into())));
    let newest = root(&manifest(&project, "svc@1.1.0"));
    let _ = project.release("1.0.1", |settings| settings.env.push(("NOTE".into(), "\"fix\"".into())));
    let fix = root(&manifest(&project, "svc@1.0.1"));
    for (tag, digest) in [("1.0.1", &fix), ("1.0", &fix), ("1.1", &newest), ("1", &newest), ("latest", &newest)] {
        assert_eq!(registry.head("team/line", tag), (200, digest.clone()), "{tag}");
    }
    project.run(["release", "verify", "svc@1.0.1"]).ok();
}
