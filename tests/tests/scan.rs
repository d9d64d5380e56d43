//! What scanners and our own rules about images say decides whether a release leaves staging.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use domain::Digest;
use e2e::{Project, Run, Settings};
use serde_json::{Value, json};
use std::{io::Write, process::Command};

const SCAN: &str = r#"
[[gate.supply.check]]
name = "vulnerabilities"
kind = "scan"
format = "trivy"
path = "reports/trivy.json"
allow = "deploy/scan-allow.toml"
"#;

const IMAGE: &str = r#"
[[gate.supply.check]]
name = "image"
kind = "image"
setuid = "crit"
max_size = "1GiB"
max_growth = 0.5
"#;

const SMOKE: &str = "\n[[gate.supply.check]]\nname = \"smoke\"\nkind = \"smoke\"\n";

const ALLOW: &str = r#"
[[allow]]
id = "CVE-2024-1000"
reason = "the function is never called"
expires = "2999-01-01"

[[allow]]
id = "CVE-2020-2000"
reason = "the fix was to come in January"
expires = "2021-01-01"
"#;

/// A service with the gate `supply`, a key and an allow-list, nothing released.
fn project(checks: &str) -> Project {
    let gates = "\ngates = [\"supply\"]".to_owned();
    let settings = Settings {
        gate: false,
        staging: format!("target = \"process\"{gates}"),
        more: format!("{SMOKE}{checks}"),
        ..Settings::default()
    };
    let project = Project::service_with(settings);
    project.write("deploy/scan-allow.toml", ALLOW);
    project.commit("the allow-list");
    project
}

/// Seals what is there and lets it serve staging; the digests of its image and of its bundle.
fn serve(project: &Project) -> (Digest, Digest) {
    let cut = project.json(["release", "cut"]).ok().result();
    let images = cut["manifest"]["images"].as_object().unwrap();
    let image = images.values().next().unwrap()["manifest"].as_str().unwrap().parse().unwrap();
    project.run(["deploy", "staging"]).ok();
    (image, cut["digest"].as_str().unwrap().parse().unwrap())
}

/// A Trivy report about an image, with these findings.
fn report(project: &Project, image: &Digest, created: &str, findings: &[(&str, &str)]) -> Digest {
    let found: Vec<Value> = findings
        .iter()
        .map(|(id, severity)| json!({"VulnerabilityID": id, "PkgName": "libssl3", "InstalledVersion": "3.0.11", "Severity": severity, "Title": "a hole"}))
        .collect();
    let text = json!({
        "SchemaVersion": 2, "CreatedAt": created, "ArtifactName": "svc", "ArtifactType": "container_image",
        "Metadata": {"RepoDigests": [format!("registry.example.com/svc@{image}")]},
        "Results": [{"Target": "svc", "Class": "os-pkgs", "Type": "debian", "Vulnerabilities": found}],
    })
    .to_string();
    project.write("reports/trivy.json", &text);
    Digest::of(text)
}

/// Now, as RFC 3339 has it.
fn now() -> String {
    let output = Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[track_caller]
fn gate(project: &Project, code: i32) -> Run {
    let run = project.run(["gate", "staging"]);
    if code == 0 { run.ok() } else { run.fails(code) }
}

/// Every statement that is stored about a digest.
fn statements(project: &Project, subject: &Digest) -> Vec<Value> {
    let hex = subject.hex();
    let store = project.store();
    let keys = project.block_on(store.list(&format!("attestations/{}/{hex}/", &hex[..2]))).unwrap();
    let read = |key: &String| {
        let object = project.block_on(store.read(key)).unwrap().unwrap();
        let bundle: Value = serde_json::from_slice(&object.bytes).unwrap();
        let mut decode = Command::new("base64");
        decode.arg("--decode").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut decode = decode.spawn().unwrap();
        let payload = bundle["dsseEnvelope"]["payload"].as_str().unwrap().to_owned();
        let mut input = decode.stdin.take().unwrap();
        let writer = std::thread::spawn(move || input.write_all(payload.as_bytes()));
        let output = decode.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    keys.iter().map(|(key, _)| read(key)).collect()
}

fn of_type<'a>(statements: &'a [Value], kind: &str) -> Vec<&'a Value> {
    statements.iter().filter(|statement| statement["predicateType"].as_str().unwrap().contains(kind)).collect()
}

fn names(statement: &Value, digest: &Digest) -> bool {
    let subjects = statement["subject"].as_array().unwrap();
    subjects.iter().any(|subject| subject["digest"]["sha256"] == json!(digest.hex()))
}

#[test]
fn reports_decide_and_what_is_no_evidence_holds() {
    let project = project(&format!("{SCAN}{IMAGE}"));
    let (image, bundle) = serve(&project);
    let today = now();

    gate(&project, 3).says("report reports/trivy.json cannot be read");
    report(&project, &image, &today, &[("CVE-2024-1000", "CRITICAL"), ("CVE-2024-1001", "LOW")]);
    gate(&project, 0);
    report(&project, &image, &today, &[("CVE-2024-1002", "MEDIUM")]);
    gate(&project, 1).says("CVE-2024-1002 (medium) in libssl3 3.0.11: a hole");
    report(&project, &image, &today, &[("CVE-2024-1003", "HIGH")]);
    gate(&project, 2).says("CVE-2024-1003 (high)");
    report(&project, &image, &today, &[("CVE-2024-1004", "UNKNOWN")]);
    gate(&project, 2).says("no severity, counted as high");
    report(&project, &image, &today, &[("CVE-2020-2000", "CRITICAL")]);
    gate(&project, 2).says("CVE-2020-2000 is no longer allowed since 2021-01-01 (the fix was to come in January)");

    report(&project, &image, "2024-01-01T00:00:00Z", &[]);
    gate(&project, 3).says("old; it may be 24h");
    report(&project, &Digest::of("another"), &today, &[]);
    gate(&project, 3).says("is about another image");
    project.write("reports/trivy.json", "");
    gate(&project, 3).says("is empty");
    report(&project, &image, &today, &[]);
    let whole = project.read("reports/trivy.json");
    project.write("reports/trivy.json", &whole[..whole.len() - 20]);
    gate(&project, 3).says("is torn");
    project.write("reports/trivy.json", "{\"bomFormat\": \"CycloneDX\"}");
    gate(&project, 3).says("is no trivy report");
    // What held the release holds its promotion.
    project.run(["promote", "svc@1.0.0", "--to", "production"]).fails(3).says("is no trivy report");

    // The last verdict counts, says what it stands on, and is about the image too.
    let digest = report(&project, &image, &today, &[]);
    gate(&project, 0);
    let about = statements(&project, &bundle);
    let verdicts = of_type(&about, "verification_summary");
    let stands_on = |verdict: &Value| verdict["predicate"]["inputAttestations"].to_string().contains(&digest.hex());
    let last: Vec<&&Value> = verdicts.iter().filter(|verdict| stands_on(verdict)).collect();
    assert_eq!(last.len(), 1, "{verdicts:?}");
    assert!(names(last[0], &bundle) && names(last[0], &image), "{:?}", last[0]["subject"]);
    assert_eq!(last[0]["predicate"]["verificationResult"], "PASSED");
    // One test result of the deployment, one of every gate that sent the requests.
    let about = statements(&project, &image);
    let tests = of_type(&about, "test-result");
    assert!(tests.len() >= 2, "{tests:?}");
    for test in tests {
        assert!(names(test, &image) && names(test, &bundle), "{:?}", test["subject"]);
        assert_eq!(test["predicate"]["result"], "PASSED");
        assert_eq!(test["predicate"]["passedTests"], json!(["predict", "GET /version"]));
    }
    let explained = project.json(["explain", "svc@1.0.0"]).ok().result();
    let passed = &explained["tests"][0]["passed"];
    assert_eq!(*passed, json!(["predict", "GET /version"]), "{explained}");
    project.run(["explain", "svc@1.0.0"]).ok().says("2 of 2 smoke requests passed in staging");
    project.run(["promote", "svc@1.0.0", "--to", "production"]).ok();
}

#[test]
fn the_allow_list_is_sealed_and_must_be_whole() {
    let mut project = project(SCAN);
    let (image, _) = serve(&project);
    report(&project, &image, &now(), &[("CVE-2024-1003", "HIGH")]);
    gate(&project, 2);
    // Allowed after the release was sealed: it is not allowed for that release.
    let more = format!("{ALLOW}\n[[allow]]\nid = \"CVE-2024-1003\"\nreason = \"later\"\nexpires = \"2999-01-01\"\n");
    project.write("deploy/scan-allow.toml", &more);
    gate(&project, 2).says("CVE-2024-1003 (high)");
    project.commit("one more");
    project.run(["release", "cut"]).fails(73).says("gates");
    project.write("deploy/scan-allow.toml", more.replace("reason = \"later\"\n", ""));
    project.version("1.1.0");
    project.commit("without a reason");
    let refused = project.run(["release", "cut"]).fails(65);
    refused.says("deploy/scan-allow.toml").says("missing field `reason`");
    std::fs::remove_file(project.path("deploy/scan-allow.toml")).unwrap();
    project.commit("without a list");
    project.run(["release", "cut"]).fails(66).says("the allow-list deploy/scan-allow.toml of gate supply is not there");
    project.write("deploy/scan-allow.toml", &more);
    project.release("1.1.0", |_| {});
    let images = project.json(["explain", "svc@1.1.0"]).ok().result();
    assert!(images.to_string().contains("sha256:"), "{images}");
    project.run(["deploy", "staging"]).ok();
    report(&project, &image, &now(), &[("CVE-2024-1003", "HIGH")]);
    gate(&project, 3).says("is about another image");
}

/// One tar entry with its header, whatever the mode.
fn entry(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = [&header[..], content].concat();
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// A base image of one layer, as a layout in the repository.
fn base(project: &Project, entries: &[Vec<u8>]) {
    let layer = [entries.concat(), vec![0; 1024]].concat();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        project.write(&format!("base/blobs/sha256/{}", digest.hex()), bytes);
        (digest, bytes.len())
    };
    let (layer, layer_size) = put(&layer);
    let config =
        json!({"architecture": architecture(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer]}});
    let (config, config_size) = put(config.to_string().as_bytes());
    let kind = |name: &str| format!("application/vnd.oci.image.{name}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind("manifest.v1+json"),
        "config": {"mediaType": kind("config.v1+json"), "digest": config, "size": config_size},
        "layers": [{"mediaType": kind("layer.v1.tar"), "digest": layer, "size": layer_size}],
    });
    let (manifest, size) = put(manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": kind("manifest.v1+json"), "digest": manifest, "size": size}]});
    project.write("base/index.json", index.to_string());
    project.write("base/oci-layout", "{\"imageLayoutVersion\": \"1.0.0\"}");
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

#[test]
fn an_image_that_is_not_as_it_must_be_holds_and_its_secret_is_not_quoted() {
    let mut project = project(IMAGE);
    serve(&project);
    gate(&project, 0);

    // Put together here, so that no scanner takes this file for one that holds a secret.
    let token = format!("ghp_{}", "aB3dE5gH7jK9mN1pQ2sT4vW6xY8zaB3dE5gH");
    base(&project, &[entry("usr/bin/climb", 0o4755, b"x"), entry("etc/plain", 0o644, b"x")]);
    project.write("settings.ini", format!("token = {token}\n"));
    project.release("1.1.0", |settings| {
        settings.build = settings
            .build
            .replace("builder = \"oci\"", "builder = \"oci\"\nbase = \"oci-layout:base\"\nuser = \"0\"")
            .replace("files = [", "files = [{ from = \"settings.ini\", to = \"/etc/settings.ini\" }, ");
    });
    project.run(["deploy", "staging"]).ok();
    let held = gate(&project, 2);
    let told = held.told();
    let held = held.says("runs as root: its user is 0").says("holds setuid or setgid files: usr/bin/climb");
    held.says("a GitHub token in /etc/settings.ini in layer");
    assert!(!told.contains(&token), "the secret is quoted:\n{told}");
    project.run(["promote", "svc@1.1.0", "--to", "production"]).fails(2).says("what looks like a secret");

    // Twice as large as the release before it.
    let noise: Vec<u8> = e2e::campaign::Random::new(7, 7).bytes(24 << 20);
    project.write("large.bin", noise);
    project.release("1.2.0", |settings| {
        settings.build =
            settings.build.replace("base = \"oci-layout:base\"\nuser = \"0\"", "").replace("settings.ini", "large.bin");
    });
    project.run(["deploy", "staging"]).ok();
    gate(&project, 2).says("of svc@1.1.0; 50 % are allowed");
}

#[test]
fn a_scanner_is_run_on_the_image_and_its_failure_holds() {
    let script = r#"
import json, os, sys
layout, output = os.environ["SEALIFT_IMAGE_LAYOUT"], os.environ["SEALIFT_OUTPUT"]
digest = os.environ["SEALIFT_IMAGE_DIGEST"]
algorithm, name = digest.split(":")
manifest = json.load(open(os.path.join(layout, "blobs", algorithm, name)))
if os.path.exists("fail"):
    sys.exit("the database cannot be fetched")
json.dump({"matches": [], "source": {"type": "image", "target": {"userInput": layout, "imageID": manifest["config"]["digest"],
    "manifestDigest": "", "repoDigests": []}}, "descriptor": {"name": "grype", "version": "0"}}, open(output, "w"))
"#;
    let check = "\n[[gate.supply.check]]\nname = \"grype\"\nkind = \"scan\"\nformat = \"grype\"\npath = \"reports/grype.json\"\nrun = [\"python3\", \"scan.py\"]\n";
    let project = project(check);
    project.write("scan.py", script);
    project.commit("a scanner");
    serve(&project);
    gate(&project, 0);
    project.write("fail", "");
    gate(&project, 3).says("the database cannot be fetched");
}
