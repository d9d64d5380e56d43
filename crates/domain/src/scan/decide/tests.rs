use super::{images, report};
use crate::{
    Digest,
    gate::Verdict,
    scan::{
        About, Allow, Finding, Format, ImageRules, Inspection, PreviousImage, Report, Rules, Secret, Severity, User,
        Weight,
    },
};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};

fn now() -> jiff::Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn rules() -> Rules {
    Rules {
        format: Format::Trivy,
        path: "reports/trivy.json".to_owned(),
        run: None,
        timeout: Duration::from_secs(60),
        crit: Severity::High,
        warn: Severity::Medium,
        unknown: Severity::High,
        subject: About::Image,
        allow: None,
        allowed: None,
    }
}

fn finding(id: &str, severity: Option<Severity>) -> Finding {
    Finding {
        id: id.to_owned(),
        aliases: vec![format!("{id}-alias")],
        package: Some("libssl3".to_owned()),
        version: Some("3.0.11".to_owned()),
        severity,
        title: "a title".to_owned(),
    }
}

fn of(findings: Vec<Finding>) -> Report {
    Report {
        tool: "trivy".to_owned(),
        target: "wine".to_owned(),
        about: vec![ours()],
        created: None,
        findings,
        notes: Vec::new(),
    }
}

fn ours() -> Digest {
    Digest::of("ours")
}

fn allow(id: &str, expires: &str) -> Allow {
    Allow { id: id.to_owned(), package: None, reason: "never called".to_owned(), expires: expires.parse().unwrap() }
}

fn says(rules: &Rules, found: &Report, expected: &Expect) {
    let decision = report("scan", rules, found, &[ours()], now());
    expected.assert_eq(&format!("{}: {}", decision.verdict, decision.reasons.join(" | ")));
}

#[test]
fn severities_decide_and_every_finding_is_named() {
    says(&rules(), &of(vec![]), &expect!["ok: scan: trivy of wine found 0 of severity medium or worse"]);
    says(
        &rules(),
        &of(vec![finding("CVE-1", Some(Severity::Low)), finding("CVE-2", Some(Severity::Medium))]),
        &expect![
            "warn: scan: trivy of wine found 1 of severity medium or worse, 1 below | scan: CVE-2 (medium) in libssl3 3.0.11: a title"
        ],
    );
    says(
        &rules(),
        &of(vec![
            finding("CVE-2", Some(Severity::Medium)),
            finding("CVE-3", Some(Severity::Critical)),
            finding("CVE-4", None),
        ]),
        &expect![
            "crit: scan: trivy of wine found 3 of severity medium or worse | scan: CVE-3 (critical) in libssl3 3.0.11: a title | scan: CVE-4 (no severity, counted as high) in libssl3 3.0.11: a title | scan: CVE-2 (medium) in libssl3 3.0.11: a title"
        ],
    );
    let lenient = Rules { unknown: Severity::Low, ..rules() };
    says(
        &lenient,
        &of(vec![finding("CVE-4", None)]),
        &expect!["ok: scan: trivy of wine found 0 of severity medium or worse, 1 below"],
    );
}

#[test]
fn what_is_allowed_passes_until_its_day() {
    let allowed = |entry: Allow| Rules { allow: Some("allow.toml".to_owned()), allowed: Some(vec![entry]), ..rules() };
    let found = of(vec![finding("CVE-3", Some(Severity::Critical))]);
    says(
        &allowed(allow("CVE-3", "2026-03-02")),
        &found,
        &expect!["ok: scan: trivy of wine found 0 of severity medium or worse, 1 allowed"],
    );
    says(
        &allowed(allow("cve-3-ALIAS", "2026-03-02")),
        &found,
        &expect!["ok: scan: trivy of wine found 0 of severity medium or worse, 1 allowed"],
    );
    says(
        &allowed(allow("CVE-3", "2026-03-01")),
        &found,
        &expect![
            "crit: scan: trivy of wine found 1 of severity medium or worse | scan: CVE-3 (critical) in libssl3 3.0.11: a title; CVE-3 is no longer allowed since 2026-03-01 (never called)"
        ],
    );
    let elsewhere = Allow { package: Some("zlib1g".to_owned()), ..allow("CVE-3", "2026-03-02") };
    says(
        &allowed(elsewhere),
        &found,
        &expect![
            "crit: scan: trivy of wine found 1 of severity medium or worse | scan: CVE-3 (critical) in libssl3 3.0.11: a title"
        ],
    );
    let unsealed = Rules { allow: Some("allow.toml".to_owned()), ..rules() };
    says(&unsealed, &found, &expect!["inconclusive: scan: the allow-list allow.toml was not sealed with the release"]);
    // Of two entries about one finding the one that still holds counts.
    let two = Rules {
        allowed: Some(vec![allow("CVE-3", "2026-01-01"), allow("CVE-3", "2026-12-01")]),
        ..allowed(allow("x", "2027-01-01"))
    };
    assert_eq!(report("scan", &two, &found, &[ours()], now()).verdict, Verdict::Ok);
}

#[test]
fn a_report_about_something_else_decides_nothing() {
    let about = |about: Vec<Digest>| Report { about, ..of(vec![finding("CVE-3", Some(Severity::Critical))]) };
    says(
        &rules(),
        &about(vec![]),
        &expect!["inconclusive: scan: the report reports/trivy.json does not say which image it is about (wine)"],
    );
    says(
        &rules(),
        &about(vec![Digest::of("theirs")]),
        &expect![
            "inconclusive: scan: the report reports/trivy.json is about another image: sha256:4c55a8552a2c7261f61f798c2265e6f13358f326ae5b934096ff16bd15e62c33, and the release's is sha256:ae0bec9e9d33c56354bd612c8a6010840324fc5b9786ce0a18b696b304b09397"
        ],
    );
    let none = report("scan", &rules(), &about(vec![ours()]), &[], now());
    assert_eq!((none.verdict, none.reasons.len()), (Verdict::Inconclusive, 1), "{none:?}");
    let any = Rules { subject: About::Any, ..rules() };
    for digests in [vec![], vec![Digest::of("theirs")], vec![ours()]] {
        assert_eq!(report("scan", &any, &about(digests), &[], now()).verdict, Verdict::Crit);
    }
    // One of several names is enough: an index and a configuration name the same image.
    let both = about(vec![Digest::of("index"), ours()]);
    assert_eq!(report("scan", &rules(), &both, &[ours()], now()).verdict, Verdict::Crit);
}

#[test]
fn a_long_list_is_counted() {
    let many = of((0..25).map(|n| finding(&format!("CVE-{n}"), Some(Severity::High))).collect());
    let decision = report("scan", &rules(), &many, &[ours()], now());
    assert_eq!((decision.value, decision.reasons.len()), (Some(25.0), 22));
    assert_eq!(decision.reasons.last().unwrap(), "scan: and 5 more");
}

fn image_rules() -> ImageRules {
    ImageRules {
        root: Weight::Crit,
        setuid: Weight::Warn,
        secrets: Weight::Crit,
        max_size: Some(1000),
        max_growth: Some(0.1),
    }
}

fn inspection() -> Inspection {
    Inspection {
        platform: "linux/amd64".to_owned(),
        manifest: ours(),
        user: User::Other { name: "1000".to_owned() },
        setuid: Vec::new(),
        setuid_count: 0,
        secrets: Vec::new(),
        secret_count: 0,
        bytes: 1000,
    }
}

fn before(bytes: u64) -> PreviousImage {
    PreviousImage::Known {
        release: "wine@1.0.0".to_owned(),
        bytes: BTreeMap::from([("linux/amd64".to_owned(), bytes)]),
    }
}

fn image_says(inspections: &[Inspection], previous: &PreviousImage, expected: &Expect) {
    let decision = images("image", &image_rules(), inspections, previous);
    expected.assert_eq(&format!("{}: {}", decision.verdict, decision.reasons.join(" | ")));
}

#[test]
fn images_are_judged_by_our_own_rules() {
    let none = PreviousImage::None;
    image_says(
        &[inspection()],
        &none,
        &expect![
            "ok: image: nothing is wrong with linux/amd64 (sha256:ae0bec9e9d33c56354bd612c8a6010840324fc5b9786ce0a18b696b304b09397)"
        ],
    );
    image_says(&[], &none, &expect!["inconclusive: image: the release has no image"]);
    let root = Inspection { user: User::Root { says: "it names no user".to_owned() }, ..inspection() };
    image_says(
        &[inspection(), root.clone()],
        &none,
        &expect!["crit: image: linux/amd64 runs as root: it names no user"],
    );
    let unknown = Inspection { user: User::Unknown { why: "there is no /etc/passwd".to_owned() }, ..inspection() };
    image_says(
        &[unknown],
        &none,
        &expect!["inconclusive: image: it cannot be said whether linux/amd64 runs as root: there is no /etc/passwd"],
    );
    let setuid = Inspection { setuid: vec!["/bin/su".to_owned()], setuid_count: 3, ..inspection() };
    image_says(&[setuid], &none, &expect!["warn: image: linux/amd64 holds setuid or setgid files: /bin/su and 2 more"]);
    let key = Secret { rule: "a private key".to_owned(), place: "/app/key in layer 2".to_owned() };
    image_says(
        &[Inspection { secrets: vec![key], secret_count: 1, ..inspection() }],
        &none,
        &expect!["crit: image: linux/amd64 holds what looks like a secret: a private key in /app/key in layer 2"],
    );
    image_says(
        &[Inspection { bytes: 1001, ..inspection() }],
        &none,
        &expect!["crit: image: linux/amd64 has 1001 bytes; 1000 are allowed"],
    );
    let ignore = ImageRules { root: Weight::Ignore, ..image_rules() };
    assert_eq!(images("image", &ignore, &[root], &none).verdict, Verdict::Ok);
}

#[test]
fn growth_is_against_the_previous_release() {
    image_says(
        &[inspection()],
        &before(910),
        &expect![
            "ok: image: nothing is wrong with linux/amd64 (sha256:ae0bec9e9d33c56354bd612c8a6010840324fc5b9786ce0a18b696b304b09397)"
        ],
    );
    image_says(
        &[inspection()],
        &before(909),
        &expect!["crit: image: linux/amd64 has 1000 bytes, 10.1 % more than the 909 of wine@1.0.0; 10 % are allowed"],
    );
    image_says(
        &[inspection()],
        &before(0),
        &expect!["inconclusive: image: the image of wine@1.0.0 has no bytes to compare with"],
    );
    let unknown = PreviousImage::Unknown { why: "wine@1.0.0 is not in the store".to_owned() };
    image_says(
        &[inspection()],
        &unknown,
        &expect!["inconclusive: image: the growth of linux/amd64 is not known: wine@1.0.0 is not in the store"],
    );
    let other = PreviousImage::Known { release: "wine@1.0.0".to_owned(), bytes: BTreeMap::new() };
    assert_eq!(images("image", &image_rules(), &[inspection()], &other).verdict, Verdict::Ok);
}

fn some_severity() -> impl Strategy<Value = Option<Severity>> {
    proptest::option::of(prop::sample::select(Severity::WORDS.map(|(_, severity)| severity).to_vec()))
}

fn some_findings() -> impl Strategy<Value = Vec<Finding>> {
    let one = (0..6_u8, some_severity()).prop_map(|(id, severity)| finding(&format!("CVE-{id}"), severity));
    proptest::collection::vec(one, 0..30)
}

fn some_rules() -> impl Strategy<Value = Rules> {
    let known = prop::sample::select(Severity::WORDS.map(|(_, severity)| severity).to_vec());
    let entry = (0..6_u8, any::<bool>())
        .prop_map(|(id, over)| allow(&format!("CVE-{id}"), if over { "2026-02-01" } else { "2026-04-01" }));
    let about = prop_oneof![Just(About::Image), Just(About::Any)];
    (known.clone(), known.clone(), known, proptest::option::of(proptest::collection::vec(entry, 0..4)), about).prop_map(
        |(one, other, unknown, allowed, subject)| Rules {
            crit: one.max(other),
            warn: one.min(other),
            unknown,
            allow: Some("allow.toml".to_owned()),
            allowed,
            subject,
            ..rules()
        },
    )
}

proptest! {
    #[test]
    fn one_more_finding_never_makes_a_verdict_better(
        rules in some_rules(),
        findings in some_findings(),
        more in some_findings(),
        about in proptest::bool::ANY,
    ) {
        let image: Vec<Digest> = if about { vec![ours()] } else { vec![Digest::of("theirs")] };
        let mut longer = findings.clone();
        let fewer = report("scan", &rules, &of(findings), &image, now());
        longer.extend(more);
        let all = report("scan", &rules, &of(longer), &image, now());
        prop_assert!(all.verdict >= fewer.verdict, "{fewer:?} then {all:?}");
        prop_assert!(all.value >= fewer.value);
    }

    #[test]
    fn time_only_takes_allowances_away(rules in some_rules(), findings in some_findings(), days in 0..400_i64) {
        let later = now() + jiff::SignedDuration::from_hours(24 * days);
        let found = of(findings);
        let today = report("scan", &rules, &found, &[ours()], now());
        prop_assert!(report("scan", &rules, &found, &[ours()], later).verdict >= today.verdict);
    }

    #[test]
    fn a_worse_image_never_makes_a_better_verdict(setuid in 0..3_u64, secrets in 0..3_u64, bytes in 0..2000_u64, more in 0..500_u64, was in 0..2000_u64) {
        let one = Inspection { setuid_count: setuid, secret_count: secrets, bytes, ..inspection() };
        let worse = Inspection { setuid_count: setuid + 1, secret_count: secrets + 1, bytes: bytes + more, ..one.clone() };
        let verdict = |all: &[Inspection]| images("image", &image_rules(), all, &before(was)).verdict;
        prop_assert!(verdict(std::slice::from_ref(&worse)) >= verdict(std::slice::from_ref(&one)));
        prop_assert!(verdict(&[one.clone(), worse]) >= verdict(&[one]));
    }
}
