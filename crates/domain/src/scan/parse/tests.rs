use super::{SIZE_LIMIT, Unusable, parse};
use crate::scan::{Finding, Format, Report};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn fixture(format: Format) -> &'static str {
    match format {
        Format::Trivy => include_str!("fixtures/trivy.json"),
        Format::Grype => include_str!("fixtures/grype.json"),
        Format::PipAudit => include_str!("fixtures/pip-audit.json"),
        Format::CargoAudit => include_str!("fixtures/cargo-audit.json"),
        Format::Sarif => include_str!("fixtures/sarif.json"),
        Format::Gitleaks => include_str!("fixtures/gitleaks.json"),
    }
}

fn all() -> impl Iterator<Item = Format> {
    Format::WORDS.into_iter().map(|(_, format)| format)
}

fn line(finding: &Finding) -> String {
    let severity = finding.severity.map_or("-".to_owned(), |severity| severity.to_string());
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
    let aliases = finding.aliases.join(",");
    format!(
        "{} [{aliases}] {severity} {} {}: {}",
        finding.id,
        part(&finding.package),
        part(&finding.version),
        finding.title
    )
}

fn read(format: Format) -> Report {
    parse(format, fixture(format).as_bytes()).unwrap_or_else(|unusable| panic!("{format}: {unusable}"))
}

fn says(format: Format, expected: &Expect) -> Report {
    let report = read(format);
    let mut lines = vec![format!("{} of {}", report.tool, report.target)];
    lines.extend(report.about.iter().map(|digest| format!("about {}", digest.short())));
    lines.extend(report.created.map(|at| format!("made {at}")));
    lines.extend(report.findings.iter().map(line));
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    expected.assert_eq(&lines.join("\n"));
    assert!(!format!("{report:?}").contains("CANARY"), "a report quotes the secret that was found");
    report
}

#[test]
fn trivy_is_read() {
    says(
        Format::Trivy,
        &expect![[r#"
        trivy of container_image registry.example.com/wine@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
        about bbbbbbbbbbbb
        about aaaaaaaaaaaa
        made 2026-03-01T09:15:02.123456789Z
        CVE-2024-0727 [DLA-3942-1] medium libssl3 3.0.11-1~deb12u2: openssl: denial of service via null dereference
        CVE-2023-9999 [] - zlib1g 1:1.2.13: 
        aws-access-key-id [] critical app/settings.py line 3: AWS Access Key ID
        DS002 [AVD-DS-0002] high Dockerfile -: Image user should not be 'root'"#]],
    );
}

#[test]
fn grype_is_read() {
    says(
        Format::Grype,
        &expect![[r#"
        grype of image registry.example.com/wine:1.0.0
        about aaaaaaaaaaaa
        about bbbbbbbbbbbb
        about dddddddddddd
        made 2026-03-01T09:15:02.5Z
        GHSA-8qvm-5x2c-j2w7 [CVE-2025-4565] high protobuf 4.25.3: Uncontrolled recursion in the parser
        note: grype itself ignored 1 matches"#]],
    );
}

#[test]
fn pip_audit_is_read() {
    says(
        Format::PipAudit,
        &expect![[r#"
        pip-audit of 3 Python packages
        PYSEC-2019-179 [CVE-2019-1010083,GHSA-5wv5-4vpf-pj6m] - flask 0.5: Unexpected memory usage.
        not-audited [] - our-own -: it was not audited: Dependency not found on PyPI and could not be audited: our-own (1.0)"#]],
    );
}

#[test]
fn cargo_audit_is_read() {
    says(
        Format::CargoAudit,
        &expect![[r#"
        cargo-audit of 312 crates
        RUSTSEC-2020-0071 [CVE-2020-26235,GHSA-wcg3-cvx6-7396] medium time 0.1.43: Potential segfault in the time crate
        RUSTSEC-2024-0999 [] - wire 1.0.0: No vector
        RUSTSEC-2021-0139 [] low ansi_term 0.12.1: ansi_term is unmaintained
        RUSTSEC-2021-0145 [] medium atty 0.2.14: Potential unaligned read
        yanked [] low gone 0.1.0: it is yanked
        note: the advisories are of 2026-02-27T11:00:00Z
        note: cargo audit was told to ignore RUSTSEC-2020-0001"#]],
    );
}

#[test]
fn sarif_is_read() {
    says(
        Format::Sarif,
        &expect![[r#"
        CodeQL of what the tool was given
        made 2026-03-01T09:00:00Z
        py/sql-injection [] high app/db.py line 17: This query depends on a user-provided value.
        py/unused-import/1 [] low - -: Import is not used.
        x/one [] critical - -: Of an extension.
        py/plain [] medium - -: No rule, no level.
        py/review [] - - -: Somebody has to look.
        py/asked [] high - -: Not yet suppressed.
        note: 1 results of CodeQL are suppressed in the report itself"#]],
    );
}

/// What a SARIF report of one finding shows of it, when its rule has this id and these members.
fn sarif_title(tool: &str, id: &str, rule: &str) -> String {
    let text = format!(
        r#"{{"version": "2.1.0", "runs": [{{"tool": {{"driver": {{"name": "{tool}", "rules": [{{"id": "{id}"{rule}}}]}}}},
            "results": [{{"ruleId": "{id}", "message": {{"text": "found CANARY in it"}}}}]}}]}}"#
    );
    parse(Format::Sarif, text.as_bytes()).unwrap().findings.remove(0).title
}

#[test]
fn a_message_that_may_quote_a_secret_is_not_shown() {
    let tagged = r#", "properties": {"tags": ["security", "external/cwe/cwe-798"]}"#;
    for (tool, id, rule) in [
        ("gitleaks", "x", ""),
        ("detect-secrets", "x", ""),
        ("TruffleHog", "x", ""),
        ("TruffleHog OSS", "x", ""),
        ("trufflehog3", "x", ""),
        ("Gitleaks v8", "x", ""),
        ("semgrep", "generic.secrets.security.detected-x", ""),
        ("x", "aws-access-key", ""),
        ("x", "API_KEY", ""),
        ("x", "python:S2068/hardcoded", ""),
        ("x", "Password in URL", ""),
        ("CodeQL", "py/x", tagged),
    ] {
        let title = sarif_title(tool, id, rule);
        assert_eq!(title, "its message may quote a secret, and is not shown", "{tool} {id}");
    }
    // The rule's own words are shown, and so are messages of rules about something else.
    for (member, words) in [
        (r#", "name": "AwsKey""#, "AwsKey"),
        (r#", "name": "AwsKey", "fullDescription": {"text": "A key of AWS"}"#, "A key of AWS"),
        (r#", "fullDescription": {"text": "A key of AWS."}, "shortDescription": {"text": "A key"}"#, "A key"),
    ] {
        assert_eq!(sarif_title("gitleaks", "aws-key", member), words);
    }
    assert_eq!(sarif_title("ruff", "F401", ""), "found CANARY in it");
}

#[test]
fn gitleaks_is_read() {
    says(
        Format::Gitleaks,
        &expect![[r#"
        gitleaks of files and history
        private-key [0123456789abcdef0123456789abcdef01234567:deploy/id_rsa:private-key:1] - deploy/id_rsa line 1 of commit 0123456789ab: Identified a Private Key, which may compromise cryptographic security."#]],
    );
}

#[test]
fn a_report_of_one_format_is_no_report_of_another() {
    for (wanted, given) in all().flat_map(|wanted| all().map(move |given| (wanted, given))) {
        let found = parse(wanted, fixture(given).as_bytes());
        if wanted == given {
            assert!(found.is_ok());
        } else {
            assert!(
                matches!(found, Err(Unusable::OtherFormat { format, .. }) if format == wanted),
                "{given} as {wanted}: {found:?}"
            );
        }
    }
}

#[test]
fn what_is_no_report_of_a_scan_is_told_so() {
    for format in all() {
        for nothing in ["", " \n\t"] {
            assert_eq!(parse(format, nothing.as_bytes()), Err(Unusable::Empty));
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(format, deep.as_bytes()).is_err());
        let large = vec![b' '; SIZE_LIMIT + 1];
        assert_eq!(parse(format, &large), Err(Unusable::TooLarge { bytes: SIZE_LIMIT + 1 }));
    }
    let no_scan = |format: Format, from: &str, to: &str, words: &str| {
        let text = fixture(format);
        assert!(text.contains(from), "the fixture of {format} has no {from}");
        let why = parse(format, text.replace(from, to).as_bytes()).unwrap_err().to_string();
        assert!(why.contains(words), "{format}: {why}");
    };
    no_scan(Format::Trivy, "\"SchemaVersion\": 2", "\"SchemaVersion\": 3", "its schema version is 3");
    no_scan(Format::Trivy, "\"Results\"", "\"Result\"", "names nothing that it examined");
    no_scan(Format::Grype, "\"valid\": true", "\"valid\": false", "database was not valid");
    no_scan(Format::Grype, "\"name\": \"grype\"", "\"name\": \"syft\"", "made by \"syft\"");
    no_scan(Format::Grype, "\"source\": {", "\"sauce\": {", "names nothing that it examined");
    no_scan(Format::CargoAudit, "\"advisory-count\": 743", "\"advisory-count\": 0", "no advisories");
    no_scan(Format::CargoAudit, "\"dependency-count\": 312", "\"dependency-count\": 0", "no packages");
    no_scan(
        Format::Sarif,
        "\"executionSuccessful\": true",
        "\"executionSuccessful\": false",
        "says of itself that it failed",
    );
    no_scan(Format::Sarif, "\"results\"", "\"result\"", "no results, not even none");
    no_scan(Format::Sarif, "\"version\": \"2.1.0\"", "\"version\": \"2.0.0\"", "2.1.0 is understood");
    let why = |format, text: &str| parse(format, text.as_bytes()).unwrap_err().to_string();
    assert!(why(Format::PipAudit, "{\"dependencies\": [], \"fixes\": []}").contains("no package that it examined"));
    assert!(why(Format::Sarif, "{\"version\": \"2.1.0\", \"runs\": []}").contains("no run of a tool"));
    assert!(why(Format::PipAudit, "{\"dependencies\": [], \"dependencies\": []}").contains("duplicate field"));
}

#[test]
fn no_findings_of_a_real_scan_are_none() {
    for (format, text) in [
        (Format::Gitleaks, "[]\n"),
        (Format::PipAudit, r#"{"dependencies": [{"name": "numpy", "version": "2.1.0", "vulns": []}], "fixes": []}"#),
        (
            Format::CargoAudit,
            r#"{"database": {"advisory-count": 700}, "lockfile": {"dependency-count": 3}, "vulnerabilities": {"found": false, "count": 0, "list": []}, "warnings": {}}"#,
        ),
        (Format::Sarif, r#"{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": []}]}"#),
        (
            Format::Trivy,
            r#"{"SchemaVersion": 2, "ArtifactName": ".", "ArtifactType": "filesystem", "Results": [{"Target": "Cargo.lock", "Class": "lang-pkgs", "Type": "cargo"}]}"#,
        ),
        (
            Format::Grype,
            r#"{"matches": [], "source": {"type": "directory", "target": "."}, "descriptor": {"name": "grype", "version": "0.9"}}"#,
        ),
    ] {
        let report = parse(format, text.as_bytes()).unwrap_or_else(|unusable| panic!("{format}: {unusable}"));
        assert_eq!((report.findings, report.about), (vec![], vec![]), "{format}");
    }
}

#[test]
fn a_torn_report_is_never_a_report() {
    for format in all() {
        let text = fixture(format).trim_end();
        for end in 1..text.len() {
            if let Ok(report) = parse(format, &text.as_bytes()[..end]) {
                panic!("{format}: its first {end} bytes are taken for a report: {report:?}");
            }
        }
    }
    assert!(matches!(parse(Format::Trivy, b"{\"SchemaVersion\": 2, "), Err(Unusable::Torn { .. })));
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
        for format in all() {
            let _ = parse(format, &bytes);
            let mut damaged = fixture(format).as_bytes().to_vec();
            let place = at.index(damaged.len());
            damaged.splice(place..place, bytes.iter().copied());
            let _ = parse(format, &damaged);
        }
    }
}
