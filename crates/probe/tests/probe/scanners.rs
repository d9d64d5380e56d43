//! Reports of scanners: made by commands of the test, and by the real programs of the testbed.

use crate::server::Server;
use domain::{
    Digest, Events,
    gate::{Measurement, Source},
    scan::{About, Format, Report, Rules, Severity},
};
use jiff::Timestamp;
use probe::{Context, ImageOnHost, measure};
use std::{fs, path::Path, time::Duration};

fn rules(format: Format, run: Option<&[&str]>) -> Rules {
    Rules {
        format,
        path: "out/report.json".to_owned(),
        run: run.map(|words| words.iter().map(|word| (*word).to_owned()).collect()),
        timeout: Duration::from_secs(60),
        crit: Severity::High,
        warn: Severity::Medium,
        unknown: Severity::High,
        subject: About::Any,
        allow: None,
        allowed: None,
    }
}

fn shell(format: Format, script: &str) -> Rules {
    rules(format, Some(&["sh", "-c", script]))
}

fn repository() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("out")).unwrap();
    root
}

async fn take(root: &Path, rules: Rules, image: Option<ImageOnHost>) -> Measurement {
    let context = Context {
        url: "http://127.0.0.1:1".into(),
        environment: "staging".into(),
        component: "wine".into(),
        release: "wine@1.0.0".into(),
        repository: root.to_owned(),
        image,
        identities: vec![Digest::of("ours")],
    };
    measure(&context.url, &context, &Source::Scan(rules), &[], Timestamp::now, &Events::nowhere()).await
}

async fn found(root: &Path, rules: Rules) -> (Report, Digest, Timestamp) {
    match take(root, rules, None).await {
        Measurement::Scan { report, digest, at, image } => {
            assert_eq!(image, [Digest::of("ours")]);
            (report, digest, at)
        }
        other => panic!("there is no report: {other:?}"),
    }
}

async fn missing(root: &Path, rules: Rules) -> String {
    match take(root, rules, None).await {
        Measurement::Missing { why } => why,
        other => panic!("evidence was found: {other:?}"),
    }
}

const LEAK: &str = r#"[{"RuleID": "key", "File": "a", "StartLine": 3, "Fingerprint": "a:key:3"}]"#;

#[tokio::test]
async fn a_report_that_lies_there_is_read_with_its_digest_and_time() {
    let root = repository();
    fs::write(root.path().join("out/report.json"), LEAK).unwrap();
    let (report, digest, at) = found(root.path(), rules(Format::Gitleaks, None)).await;
    assert_eq!((report.findings.len(), digest), (1, Digest::of(LEAK)));
    assert!(at.duration_until(Timestamp::now()) < jiff::SignedDuration::from_mins(5), "the file's own time");
}

#[tokio::test]
async fn what_is_no_report_is_missing_with_its_reason() {
    let root = repository();
    let plain = || rules(Format::Gitleaks, None);
    assert!(missing(root.path(), plain()).await.contains("report out/report.json cannot be read"));
    for (text, words) in [("", "is empty"), ("[{", "is torn"), ("{}", "is no gitleaks report")] {
        fs::write(root.path().join("out/report.json"), text).unwrap();
        let why = missing(root.path(), plain()).await;
        assert!(why.contains(words), "{text}: {why}");
    }
    let future = r#"{"SchemaVersion": 2, "CreatedAt": "2999-01-01T00:00:00Z", "ArtifactName": "x", "Results": [{"Target": "y"}]}"#;
    fs::write(root.path().join("out/report.json"), future).unwrap();
    assert!(missing(root.path(), rules(Format::Trivy, None)).await.contains("in the future"));
}

#[tokio::test]
async fn a_tool_that_ended_badly_proves_nothing() {
    let root = repository();
    fs::write(root.path().join("out/report.json"), "[]").unwrap();
    let write = |text: &str, code: i32| format!("echo '{text}' > $SEALIFT_OUTPUT; exit {code}");
    for (rules, words) in [
        (shell(Format::Gitleaks, "exit 0"), "ended well and did not write it"),
        (shell(Format::Gitleaks, &write("[]", 7)), "ended with exit status: 7"),
        (shell(Format::Gitleaks, &write("[]", 1)), "ended as if it had found something"),
        (
            shell(
                Format::Sarif,
                &write(r#"{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": []}]}"#, 1),
            ),
            "ended with exit status: 1",
        ),
        (rules(Format::Gitleaks, Some(&["no-such-scanner"])), "cannot be run"),
        (
            Rules { timeout: Duration::from_millis(200), ..shell(Format::Gitleaks, "while :; do :; done") },
            "was killed after",
        ),
    ] {
        let why = missing(root.path(), rules.clone()).await;
        assert!(why.contains(words), "{rules:?}: {why}");
    }
    let (report, ..) = found(root.path(), shell(Format::Gitleaks, &write(LEAK, 1))).await;
    assert_eq!(report.findings.len(), 1, "1 is how gitleaks says that it found something");
    let (report, ..) = found(root.path(), shell(Format::Gitleaks, &write("[]", 0))).await;
    assert_eq!(report.findings, []);
    let old = r#"{"SchemaVersion": 2, "CreatedAt": "2020-01-01T00:00:00Z", "ArtifactName": "x", "Results": [{"Target": "y"}]}"#;
    assert!(missing(root.path(), shell(Format::Trivy, &write(old, 0))).await.contains("its command was started at"));
}

#[tokio::test]
async fn a_scanner_is_told_where_the_image_is_and_where_the_report_is_to_be() {
    let root = repository();
    let script = "test -z \"$SEALIFT_IMAGE_LAYOUT\" || test \"$SEALIFT_IMAGE_LAYOUT\" = /layout || exit 9; \
        echo \"$SEALIFT_IMAGE_DIGEST $SEALIFT_IMAGE_LAYOUT $SEALIFT_RELEASE\" > out/seen; echo '[]' > \"$SEALIFT_OUTPUT\"";
    let digest = Digest::of("image");
    let image = ImageOnHost { digest, layout: "/layout".into() };
    let seen = || fs::read_to_string(root.path().join("out/seen")).unwrap();
    assert!(matches!(take(root.path(), shell(Format::Gitleaks, script), Some(image)).await, Measurement::Scan { .. }));
    assert_eq!(seen(), format!("{digest} /layout wine@1.0.0\n"));
    assert!(matches!(take(root.path(), shell(Format::Gitleaks, script), None).await, Measurement::Scan { .. }));
    assert_eq!(seen(), "  wine@1.0.0\n");
}

/// Where a real program is. Without it the test says so and passes, except in CI, where it fails.
fn real(variable: &str) -> Option<String> {
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => Some(value),
        _ if std::env::var("CI").as_deref() == Ok("true") => panic!("{variable} is not set; in CI nothing is left out"),
        _ => {
            eprintln!("not run: {variable} is not set");
            None
        }
    }
}

#[tokio::test]
async fn gitleaks_itself_finds_what_is_there_and_nothing_else() {
    let Some(program) = real("SEALIFT_TEST_GITLEAKS") else { return };
    let root = repository();
    fs::create_dir(root.path().join("code")).unwrap();
    fs::write(root.path().join("code/plain.py"), "x = 1\n").unwrap();
    let words =
        [program.as_str(), "dir", "code", "--no-banner", "--report-format", "json", "--report-path", "out/report.json"];
    let (report, ..) = found(root.path(), rules(Format::Gitleaks, Some(&words))).await;
    assert_eq!(report.findings, []);
    // Put together here, so that no scanner takes this file for one that holds a secret.
    let token = format!("ghp_{}", "aB3dE5gH7jK9mN1pQ2sT4vW6xY8zaB3dE5gH");
    fs::write(root.path().join("code/settings.py"), format!("x = 1\ntoken = \"{token}\"\n")).unwrap();
    let (report, ..) = found(root.path(), rules(Format::Gitleaks, Some(&words))).await;
    let finding = &report.findings[0];
    assert_eq!((report.findings.len(), finding.id.as_str(), finding.severity), (1, "github-pat", None));
    assert_eq!((finding.package.as_deref(), finding.version.as_deref()), (Some("code/settings.py"), Some("line 2")));
    assert!(!format!("{report:?}").contains(&token), "the report quotes the secret");
}

#[tokio::test]
async fn cargo_audit_itself_is_read() {
    let Some(program) = real("SEALIFT_TEST_CARGO_AUDIT") else { return };
    let root = repository();
    let advisories = root.path().join("advisories/crates/time");
    fs::create_dir_all(&advisories).unwrap();
    fs::write(
        advisories.join("RUSTSEC-2020-0071.md"),
        "```toml\n[advisory]\nid = \"RUSTSEC-2020-0071\"\npackage = \"time\"\ndate = \"2020-11-18\"\naliases = [\"CVE-2020-26235\"]\n\
         cvss = \"CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:N/I:N/A:H\"\n\n[versions]\npatched = [\">= 0.2.23\"]\n```\n\n# Potential segfault\n\nText.\n",
    )
    .unwrap();
    let lock = |version: &str| {
        let package = |name: &str, more: &str| format!("[[package]]\nname = \"{name}\"\n{more}\n");
        let source = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
        let time = package("time", &format!("version = \"{version}\"\n{source}"));
        let app = package("app", "version = \"0.1.0\"\ndependencies = [\"time\"]");
        fs::write(root.path().join("Cargo.lock"), format!("version = 3\n\n{app}\n{time}")).unwrap();
    };
    let script = format!("'{program}' audit --db advisories --no-fetch --json --file Cargo.lock > $SEALIFT_OUTPUT");
    lock("0.1.43");
    let (report, ..) = found(root.path(), shell(Format::CargoAudit, &script)).await;
    let finding = &report.findings[0];
    assert_eq!((finding.id.as_str(), finding.severity), ("RUSTSEC-2020-0071", Some(Severity::Medium)));
    assert_eq!((finding.package.as_deref(), finding.aliases.join(",").as_str()), (Some("time"), "CVE-2020-26235"));
    lock("0.3.36");
    assert_eq!(found(root.path(), shell(Format::CargoAudit, &script)).await.0.findings, []);
    fs::remove_dir_all(&advisories).unwrap();
    let why = missing(root.path(), shell(Format::CargoAudit, &script)).await;
    assert!(why.contains("no advisories") || why.contains("ended with"), "{why}");
}

#[tokio::test]
async fn pip_audit_itself_is_read() {
    let Some(program) = real("SEALIFT_TEST_PIP_AUDIT") else { return };
    let (root, server) = (repository(), Server::start().await);
    let script = format!(
        "'{program}' -r requirements.txt --no-deps --disable-pip -s osv --osv-url {}/v1/query -f json --progress-spinner off -o $SEALIFT_OUTPUT",
        server.url
    );
    fs::write(root.path().join("requirements.txt"), "flask==0.5\nnumpy==2.1.0\n").unwrap();
    let (report, ..) = found(root.path(), shell(Format::PipAudit, &script)).await;
    let finding = &report.findings[0];
    assert_eq!((report.findings.len(), finding.id.as_str(), finding.severity), (1, "PYSEC-2019-179", None));
    assert_eq!((finding.package.as_deref(), finding.version.as_deref()), (Some("flask"), Some("0.5")));
    fs::write(root.path().join("requirements.txt"), "numpy==2.1.0\n").unwrap();
    assert_eq!(found(root.path(), shell(Format::PipAudit, &script)).await.0.findings, []);
}
