//! Smoke requests, gates and environment variables as they are written.

use super::{
    keys,
    reader::{Node, Section},
    written::{belongs, nameless},
};
use crate::{
    Name,
    gate::{Better, Bounds, Check, Expectation, Gate, HttpRequest, Relative, Source, Statistic},
    scan,
    secret::SecretRef,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use toml::de::DeValue;

/// `env` and `secrets` of a section; no variable is in both, and none holds what looks like a secret.
pub(super) fn environment_variables(section: &Section<'_>) -> (BTreeMap<String, String>, BTreeMap<String, SecretRef>) {
    let env = section.text_map("env");
    let secrets = section.secrets("secrets");
    for (key, value) in &env {
        not_in_the_clear(section, "env", key, value, "move it to secrets");
        if secrets.contains_key(key) {
            section.reader.problem(&nested(section, "env", key), "is in env and in secrets; keep one of them");
        }
    }
    for (table, key) in env.keys().map(|key| ("env", key)).chain(secrets.keys().map(|key| ("secrets", key))) {
        if key.is_empty() || key.contains(['=', '\0']) {
            section.reader.problem(&nested(section, table, key), "is no name of an environment variable");
        }
    }
    (env, secrets)
}

fn nested(section: &Section<'_>, table: &str, key: &str) -> String {
    section.get(table).and_then(|node| node.open()).map(|table| table.key(key)).unwrap_or_default()
}

/// Reports a variable that by its name holds a secret and by its value holds it in the clear. The value is not quoted.
pub(super) fn not_in_the_clear(section: &Section<'_>, table: &str, key: &str, value: &str, remedy: &str) {
    if looks_secret(key) && !is_harmless(value) {
        let message = format!(
            "looks like a secret in the clear; {remedy}, as a reference: secrets = {{ {key} = \"env:{key}\" }}"
        );
        section.reader.problem(&nested(section, table, key), message);
    }
}

fn looks_secret(key: &str) -> bool {
    let key = key.to_ascii_uppercase().replace('-', "_");
    let words: Vec<&str> = key.split('_').collect();
    let last = words.last().copied().unwrap_or_default();
    let secret = ["PASSWORD", "PASSWD", "PASSPHRASE", "TOKEN", "SECRET", "CREDENTIAL", "CREDENTIALS", "APIKEY"]
        .contains(&last)
        || (last == "KEY" && words.len() > 1);
    secret && !words.contains(&"PUBLIC")
}

/// Empty, a switch, a path, or a placeholder: nothing that could be misused.
fn is_harmless(value: &str) -> bool {
    matches!(value, "" | "true" | "false") || value.starts_with('/') || (value.starts_with('{') && value.ends_with('}'))
}

/// The smoke requests of a component.
pub(super) fn smoke(component: &Section<'_>) -> Vec<HttpRequest> {
    let mut seen = BTreeSet::new();
    let mut requests = Vec::new();
    for section in component.each("smoke") {
        section.only(&[keys::SMOKE]);
        let mut request = request(&section, Duration::from_secs(5));
        request.expect_headers = section.text_map("expect_headers");
        request.expect_json = expectations(&section);
        request.name = section.filled("name").unwrap_or_else(|| format!("{} {}", request.method, request.path));
        if !seen.insert(request.name.clone()) {
            section.problem("name", format!("a second smoke request is named {:?}", request.name));
        }
        requests.push(request);
    }
    requests
}

/// A report of a scanner that is older than this is no evidence, unless the check says otherwise.
const SCAN_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// The part of a request that smoke and load have in common.
fn request(section: &Section<'_>, timeout: Duration) -> HttpRequest {
    let mut headers = section.text_map("headers");
    let mut body = section.text("body");
    if let Some(node) = section.get("json") {
        if body.is_some() {
            node.problem("stands beside body; keep one of them");
        }
        body = json(&node).map(|value| value.to_string());
        if !headers.keys().any(|key| key.eq_ignore_ascii_case("content-type")) {
            headers.insert("content-type".to_owned(), "application/json".to_owned());
        }
    }
    let default = if body.is_some() { "POST" } else { "GET" };
    let words = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].map(|word| (word, word));
    let path = section.needed("path", "\"/health\"");
    if !path.is_empty() && !path.starts_with('/') {
        section.problem("path", "must begin with /, for example \"/health\"");
    }
    HttpRequest {
        name: String::new(),
        method: section.one_of("method", &words).unwrap_or(default).to_owned(),
        path,
        headers,
        body,
        status: section.integer("status", 100, 599).and_then(|n| u16::try_from(n).ok()),
        expect_headers: BTreeMap::new(),
        expect_json: BTreeMap::new(),
        timeout: section.span("timeout", timeout),
    }
}

fn expectations(section: &Section<'_>) -> BTreeMap<String, Expectation> {
    let Some(table) = section.get("expect_json").and_then(|node| node.open()) else { return BTreeMap::new() };
    let mut expectations = BTreeMap::new();
    for (pointer, node) in table.entries() {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            node.problem("must be a JSON pointer, for example \"/quality\"");
        }
        if let Some(expectation) = expectation(&node) {
            expectations.insert(pointer, expectation);
        }
    }
    expectations
}

fn expectation(node: &Node<'_>) -> Option<Expectation> {
    let DeValue::Table(_) = node.value() else { return Some(Expectation::Equals(json(node)?)) };
    let section = node.section(&[keys::EXPECTATION])?;
    let given: Vec<&&str> = keys::EXPECTATION.keys.iter().filter(|key| section.has(key)).collect();
    if given.len() != 1 {
        node.problem("must be a value, or one of { between = [0, 10] }, { present = true } and { equals = … }");
        return None;
    }
    if section.has("present") {
        if !section.boolean("present", true) {
            section.problem("present", "can only be true");
        }
        return Some(Expectation::Present);
    }
    if let Some(node) = section.get("equals") {
        return Some(Expectation::Equals(json(&node)?));
    }
    let limits: Vec<f64> = section.get("between")?.items().iter().filter_map(Node::number).collect();
    match limits[..] {
        [least, most] if least <= most => Some(Expectation::Between(least, most)),
        _ => {
            section.problem("between", "must be two numbers, the smaller one first: between = [0, 10]");
            None
        }
    }
}

/// A TOML value as JSON.
fn json(node: &Node<'_>) -> Option<serde_json::Value> {
    use serde_json::Value;
    Some(match node.value() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.into(),
            Err(_) => {
                node.problem("is too large a number");
                return None;
            }
        },
        DeValue::Float(_) => serde_json::Number::from_f64(node.number()?).map(Value::Number)?,
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Array(_) => Value::Array(node.items().iter().map(json).collect::<Option<_>>()?),
        DeValue::Table(_) => {
            let entries = node.open()?.entries();
            Value::Object(entries.into_iter().map(|(key, node)| Some((key, json(&node)?))).collect::<Option<_>>()?)
        }
    })
}

/// A gate with its checks.
pub(super) fn gate(name: Name, node: &Node<'_>) -> Option<Gate> {
    let section = node.section(&[keys::GATE])?;
    let mut seen = BTreeSet::new();
    let mut checks = Vec::new();
    for entry in section.each("check") {
        let check = check(&entry);
        if !seen.insert(check.name.clone()) {
            entry.problem("name", format!("a second check is named {}", check.name));
        }
        checks.push(check);
    }
    if checks.is_empty() {
        section
            .missing("check", format!("is missing: a gate without checks never passes; write [[gate.{name}.check]]"));
    }
    Some(Gate { name, checks })
}

#[derive(Clone, Copy)]
enum KindWord {
    Smoke,
    Load,
    Report,
    Command,
    Scan,
    Image,
}

fn check(section: &Section<'_>) -> Check {
    if !section.has("name") {
        section.missing("name", "is missing; write name = \"accuracy\"");
    }
    let name = section.parsed("name").unwrap_or_else(nameless);
    let (source, samples) = source(section);
    let count = section.small("count", 1, 1);
    let failure_limit = section.small("failure_limit", 0, 0);
    if failure_limit >= count {
        section.problem(
            "failure_limit",
            format!("must be smaller than count ({count}), or the check could never be critical"),
        );
    }
    let mut bounds = bounds(section);
    let relative = section.section("relative", &[keys::RELATIVE]).map(|section| relative(&section));
    match source {
        Source::Smoke if bounds == Bounds::default() && relative.is_none() => bounds.crit_below = Some(1.0),
        Source::Load { .. } | Source::Report { .. } if bounds == Bounds::default() && relative.is_none() => {
            section.missing(
                "crit_below",
                "a check needs a bound, or it says nothing: crit_below, crit_above, warn_… or relative",
            );
        }
        _ => {}
    }
    let required_samples = section.integer("required_samples", 1, u64::MAX).unwrap_or(samples);
    enough_samples(section, &source, required_samples);
    let max_age = match &source {
        Source::Scan(_) => Some(section.span("max_age", SCAN_MAX_AGE)),
        _ => section.duration_option("max_age"),
    };
    Check {
        name,
        source,
        bounds,
        relative,
        required_samples,
        max_age,
        count,
        interval: section.duration("interval", Duration::from_secs(10)),
        failure_limit,
    }
}

/// A check that can never have its samples would hold every release for ever.
fn enough_samples(section: &Section<'_>, source: &Source, required: u64) {
    match source {
        Source::Load { requests, .. } if required > u64::from(*requests) => {
            section.problem("required_samples", format!("can never be met by {requests} requests"));
        }
        Source::Report { samples: None, .. } if required > 1 => {
            section
                .problem("required_samples", "needs samples beside it: the JSON pointer of their number in the report");
        }
        _ => {}
    }
}

/// Where the evidence comes from, and how many samples are asked for unless the check says it.
fn source(section: &Section<'_>) -> (Source, u64) {
    use KindWord::{Command, Image, Load, Report, Scan, Smoke};
    let own = [keys::CHECK, keys::CHECK_VALUE];
    let all = [keys::CHECK_LOAD, keys::CHECK_REPORT, keys::CHECK_COMMAND, keys::CHECK_SCAN, keys::CHECK_IMAGE];
    let [of_load, of_report, of_command, of_scan, of_image] = all;
    let words =
        [("smoke", Smoke), ("load", Load), ("report", Report), ("command", Command), ("scan", Scan), ("image", Image)];
    if !section.has("kind") {
        section.missing(
            "kind",
            "is missing; write kind = \"smoke\", \"load\", \"report\", \"command\", \"scan\" or \"image\"",
        );
    }
    let ten_minutes = Duration::from_secs(600);
    match section.one_of("kind", &words) {
        None => {
            section.only(&[&own[..], &all[..]].concat());
            (Source::Smoke, 1)
        }
        Some(Smoke) => {
            belongs(section, &own, &all, "kind \"smoke\" has no such key: its requests are those of the component");
            (Source::Smoke, 1)
        }
        Some(Load) => {
            let others = [of_report, of_command, of_scan, of_image];
            belongs(section, &[own[0], own[1], of_load], &others, "kind \"load\" has no such key");
            let load = load(section);
            let samples = if let Source::Load { requests, .. } = &load { u64::from(*requests) } else { 1 };
            (load, samples)
        }
        Some(Report) => {
            let others = [of_load, of_command, of_scan, of_image];
            belongs(section, &[own[0], own[1], of_report], &others, "kind \"report\" has no such key");
            (report(section, ten_minutes), 1)
        }
        Some(Command) => {
            belongs(
                section,
                &[own[0], of_command],
                &[own[1], of_load, of_report, of_scan, of_image],
                "has no effect: a command judges by its exit code",
            );
            if !section.has("run") {
                section.missing("run", "is missing; write run = [\"python3\", \"checks/drift.py\"]");
            }
            let run = section.command("run").unwrap_or_default();
            (Source::Command { run, timeout: section.span("timeout", ten_minutes) }, 1)
        }
        Some(Scan) => {
            let others = [own[1], of_load, of_report, of_command, of_image];
            belongs(section, &[own[0], of_scan], &others, "has no effect: kind \"scan\" is judged by severities");
            (Source::Scan(scan_rules(section, ten_minutes)), 1)
        }
        Some(Image) => {
            let others = [own[1], of_load, of_report, of_command, of_scan];
            belongs(section, &[own[0], of_image], &others, "has no effect: kind \"image\" has rules of its own");
            (Source::Image(image_rules(section)), 1)
        }
    }
}

fn load(section: &Section<'_>) -> Source {
    let statistics = [
        ("p50", Statistic::P50),
        ("p95", Statistic::P95),
        ("p99", Statistic::P99),
        ("max", Statistic::Max),
        ("error-rate", Statistic::ErrorRate),
    ];
    if !section.has("statistic") {
        section.missing("statistic", "is missing; write statistic = \"p95\" (milliseconds) or \"error-rate\" (0 to 1)");
    }
    let mut request = request(section, Duration::from_secs(5));
    request.name = section.text("name").unwrap_or_default();
    Source::Load {
        request,
        requests: section.small("requests", 1, 200),
        concurrency: section.small("concurrency", 1, 4),
        statistic: section.one_of("statistic", &statistics).unwrap_or(Statistic::P95),
    }
}

fn report(section: &Section<'_>, timeout: Duration) -> Source {
    let path = section.needed("path", "\"reports/metrics.json\"");
    super::paths::inside_repository(section.reader, &section.key("path"), "", &path);
    let value = section.needed("value", "\"/accuracy\"");
    for key in ["value", "samples", "created"] {
        if section.text(key).is_some_and(|pointer| !pointer.is_empty() && !pointer.starts_with('/')) {
            section.problem(key, "must be a JSON pointer, for example \"/metrics/accuracy\"");
        }
    }
    Source::Report {
        path,
        value,
        samples: section.filled("samples"),
        created: section.filled("created"),
        run: section.command("run"),
        timeout: section.span("timeout", timeout),
    }
}

fn scan_rules(section: &Section<'_>, timeout: Duration) -> scan::Rules {
    use scan::{About, Format, Rules, Severity};
    for (key, example) in [("format", "\"trivy\""), ("path", "\"reports/scan.json\"")] {
        if !section.has(key) {
            section.missing(key, format!("is missing; write {key} = {example}"));
        }
    }
    let path = section.filled("path").unwrap_or_default();
    super::paths::inside_repository(section.reader, &section.key("path"), "", &path);
    let allow = section.filled("allow");
    if let Some(allow) = &allow {
        super::paths::inside_repository(section.reader, &section.key("allow"), "", allow);
    }
    let format = section.one_of("format", &Format::WORDS).unwrap_or(Format::Trivy);
    let subject = section.one_of("subject", &[("image", About::Image), ("any", About::Any)]).unwrap_or(About::Image);
    if !scan::decide::can_be_about(format, subject) {
        let why = format!("a report of {format} never says which image it is about; write subject = \"any\"");
        if section.has("subject") { section.problem("subject", why) } else { section.missing("subject", why) }
    }
    let severity = |key, default| section.one_of(key, &Severity::WORDS).unwrap_or(default);
    let (crit, warn) = (severity("crit", Severity::High), severity("warn", Severity::Medium));
    // Who asks for less than the default warning is warned of what is critical, and need not say it twice.
    let warn = if section.has("warn") { warn } else { warn.min(crit) };
    if warn > crit {
        section.problem(
            "warn",
            format!("{warn} is worse than crit {crit}: a finding would be critical before it is a warning"),
        );
    }
    Rules {
        format,
        path,
        run: section.command("run"),
        timeout: section.span("timeout", timeout),
        crit,
        warn,
        unknown: severity("unknown", Severity::High),
        subject,
        allow,
        allowed: None,
    }
}

fn image_rules(section: &Section<'_>) -> scan::ImageRules {
    use scan::{ImageRules, Weight};
    let weight = |key, default| section.one_of(key, &Weight::WORDS).unwrap_or(default);
    let max_size = section.text("max_size").and_then(|text| {
        let bytes = super::written::bytes(&text).filter(|bytes| *bytes > 0);
        if bytes.is_none() {
            section.problem("max_size", "is no size: write 200MiB, 2GiB or 500MB");
        }
        bytes
    });
    let max_growth = section.number("max_growth");
    if max_growth.is_some_and(|share| share.is_nan() || share < 0.0) {
        section.problem("max_growth", "must be a share that is not negative: 0.1 means 10 % more than before");
    }
    let rules = ImageRules {
        root: weight("root", Weight::Crit),
        setuid: weight("setuid", Weight::Warn),
        secrets: weight("secrets", Weight::Crit),
        max_size,
        max_growth,
    };
    let all_ignored = [rules.root, rules.setuid, rules.secrets].iter().all(|weight| *weight == Weight::Ignore);
    if all_ignored && max_size.is_none() && max_growth.is_none() {
        section.problem("root", "every rule is ignored, so the check says nothing");
    }
    rules
}

fn bounds(section: &Section<'_>) -> Bounds {
    let bounds = Bounds {
        warn_below: section.number("warn_below"),
        crit_below: section.number("crit_below"),
        warn_above: section.number("warn_above"),
        crit_above: section.number("crit_above"),
    };
    let pairs = [
        (
            "crit_below",
            bounds.crit_below,
            "warn_below",
            bounds.warn_below,
            "a value would be critical before it is a warning",
        ),
        (
            "warn_above",
            bounds.warn_above,
            "crit_above",
            bounds.crit_above,
            "a value would be critical before it is a warning",
        ),
        ("warn_below", bounds.warn_below, "warn_above", bounds.warn_above, "no value could pass"),
        ("crit_below", bounds.crit_below, "crit_above", bounds.crit_above, "no value could pass"),
        ("warn_below", bounds.warn_below, "crit_above", bounds.crit_above, "no value could pass"),
        ("crit_below", bounds.crit_below, "warn_above", bounds.warn_above, "no value could pass"),
    ];
    for (low_key, low, high_key, high, why) in pairs {
        if let (Some(low), Some(high)) = (low, high)
            && low > high
        {
            section.problem(low_key, format!("{low} is above {high_key} {high}: {why}"));
        }
    }
    bounds
}

fn relative(section: &Section<'_>) -> Relative {
    if !section.has("better") {
        section.missing("better", "is missing; write better = \"higher\" or better = \"lower\"");
    }
    let better =
        section.one_of("better", &[("higher", Better::Higher), ("lower", Better::Lower)]).unwrap_or(Better::Higher);
    let relative =
        Relative { better, warn_worse: section.number("warn_worse"), crit_worse: section.number("crit_worse") };
    for (key, share) in [("warn_worse", relative.warn_worse), ("crit_worse", relative.crit_worse)] {
        if share.is_some_and(|share| share < 0.0) {
            section.problem(key, "must not be negative: 0.02 means worse by more than 2 %");
        }
    }
    match (relative.warn_worse, relative.crit_worse) {
        (None, None) => {
            section.missing("warn_worse", "is missing, and so is crit_worse; write crit_worse = 0.05 for 5 %")
        }
        (Some(warn), Some(crit)) if warn > crit => {
            section.problem(
                "warn_worse",
                format!("{warn} is above crit_worse {crit}: a value would be critical before it is a warning"),
            );
        }
        _ => {}
    }
    relative
}

#[cfg(test)]
mod tests {
    use crate::{
        config::parse,
        gate::{Check, Source},
        scan::{About, Severity, Weight},
    };
    use expect_test::{Expect, expect};
    use std::time::Duration;

    fn file(check: &str) -> String {
        format!(
            "[project]\nname = \"x\"\n[component.x]\nversion_files = [\"pyproject.toml\"]\n[[gate.g.check]]\nname = \"c\"\n{check}\n"
        )
    }

    fn good(check: &str) -> Check {
        let config = parse(&file(check), "Sealift.toml").unwrap_or_else(|problems| panic!("{problems}"));
        config.gates["g"].checks[0].clone()
    }

    fn says(check: &str, expected: &Expect) {
        let problems =
            parse(&file(check), "Sealift.toml").map(|_| "nothing".to_owned()).unwrap_or_else(|p| p.to_string());
        expected.assert_eq(&problems);
    }

    #[test]
    fn a_scan_has_defaults_that_hold() {
        let check = good("kind = \"scan\"\nformat = \"trivy\"\npath = \"reports/trivy.json\"");
        let Source::Scan(rules) = &check.source else { panic!("{check:?}") };
        assert_eq!((rules.crit, rules.warn, rules.unknown), (Severity::High, Severity::Medium, Severity::High));
        assert_eq!((rules.subject, &rules.allow, &rules.allowed), (About::Image, &None, &None));
        assert_eq!(check.max_age, Some(Duration::from_secs(86_400)));
        let check =
            good("kind = \"scan\"\nformat = \"gitleaks\"\npath = \"r.json\"\nsubject = \"any\"\ncrit = \"low\"");
        let Source::Scan(rules) = &check.source else { panic!("{check:?}") };
        assert_eq!((rules.crit, rules.warn), (Severity::Low, Severity::Low));
    }

    #[test]
    fn an_image_has_defaults_that_hold() {
        let Source::Image(rules) = good("kind = \"image\"\nmax_size = \"2MiB\"").source else { panic!("another kind") };
        assert_eq!((rules.root, rules.setuid, rules.secrets), (Weight::Crit, Weight::Warn, Weight::Crit));
        assert_eq!((rules.max_size, rules.max_growth), (Some(2 << 20), None));
    }

    #[test]
    fn what_could_never_decide_is_told() {
        says(
            "kind = \"scan\"",
            &expect![[r#"
            Sealift.toml:5:1: gate.g.check[0].format: is missing; write format = "trivy"
            Sealift.toml:5:1: gate.g.check[0].path: is missing; write path = "reports/scan.json""#]],
        );
        says(
            "kind = \"scan\"\nformat = \"pip-audit\"\npath = \"../r.json\"\nallow = \"/etc/allow.toml\"",
            &expect![[r#"
                Sealift.toml:5:1: gate.g.check[0].subject: a report of pip-audit never says which image it is about; write subject = "any"
                Sealift.toml:9:1: gate.g.check[0].path: leads out of the repository
                Sealift.toml:10:1: gate.g.check[0].allow: must be a relative path with forward slashes"#]],
        );
        says(
            "kind = \"scan\"\nformat = \"trivi\"\npath = \"r.json\"\ncrit = \"low\"\nwarn = \"high\"\nunknown = \"bad\"\ncrit_above = 1\nroot = \"warn\"",
            &expect![[r#"
                Sealift.toml:8:1: gate.g.check[0].format: there is no "trivi"; did you mean trivy?
                Sealift.toml:11:1: gate.g.check[0].warn: high is worse than crit low: a finding would be critical before it is a warning
                Sealift.toml:12:1: gate.g.check[0].unknown: there is no "bad"; there are negligible, low, medium, high, critical
                Sealift.toml:13:1: gate.g.check[0].crit_above: has no effect: kind "scan" is judged by severities
                Sealift.toml:14:1: gate.g.check[0].root: has no effect: kind "scan" is judged by severities"#]],
        );
        says(
            "kind = \"image\"\nroot = \"ignore\"\nsetuid = \"ignore\"\nsecrets = \"ignore\"\nformat = \"trivy\"",
            &expect![[r#"
                Sealift.toml:8:1: gate.g.check[0].root: every rule is ignored, so the check says nothing
                Sealift.toml:11:1: gate.g.check[0].format: has no effect: kind "image" has rules of its own"#]],
        );
        says(
            "kind = \"image\"\nmax_size = \"big\"\nmax_growth = -0.5\nrequired_samples = 3",
            &expect![[r#"
            Sealift.toml:8:1: gate.g.check[0].max_size: is no size: write 200MiB, 2GiB or 500MB
            Sealift.toml:9:1: gate.g.check[0].max_growth: must be a share that is not negative: 0.1 means 10 % more than before
            Sealift.toml:10:1: gate.g.check[0].required_samples: has no effect: kind "image" has rules of its own"#]],
        );
    }
}
