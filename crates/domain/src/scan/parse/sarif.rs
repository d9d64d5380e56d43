//! SARIF 2.1.0: results of any tool.
//!
//! Severity is the rule's `security-severity` (0 to 10, as code hosts read it), else the level: error high, warning medium, note low.
//! What a finding says of itself may quote what was found. Of known secret scanners, and of rules that are named after secrets, it is never shown: only
//! what the rule says of itself is. Both are known by lists of words here; a rule that looks for secrets under another name is not known.
//! A suppressed result counts only while its suppression is under review or was rejected (section 3.27.23 of the standard).

use super::{digests, json, no_scan, nullable, other, text, time};
use crate::scan::{Finding, Format, Report, Severity, Unusable};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Log {
    version: String,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    tool: Tool,
    /// Absent or `null`: the tool did not get as far as looking.
    results: Option<Vec<Found>>,
    #[serde(default, deserialize_with = "nullable")]
    invocations: Vec<Invocation>,
    #[serde(default)]
    properties: Value,
}

#[derive(Deserialize)]
struct Tool {
    driver: Component,
    #[serde(default, deserialize_with = "nullable")]
    extensions: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    id: String,
    name: Option<String>,
    short_description: Option<Message>,
    full_description: Option<Message>,
    default_configuration: Option<Configuration>,
    #[serde(default)]
    properties: Value,
}

#[derive(Deserialize)]
struct Configuration {
    level: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    execution_successful: bool,
    end_time_utc: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    rule_id: Option<String>,
    rule_index: Option<i64>,
    rule: Option<RuleReference>,
    kind: Option<String>,
    level: Option<String>,
    baseline_state: Option<String>,
    message: Message,
    #[serde(default, deserialize_with = "nullable")]
    locations: Vec<Location>,
    #[serde(default, deserialize_with = "nullable")]
    suppressions: Vec<Suppression>,
    #[serde(default)]
    properties: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleReference {
    id: Option<String>,
    index: Option<i64>,
    tool_component: Option<ComponentReference>,
}

#[derive(Deserialize)]
struct ComponentReference {
    index: Option<i64>,
}

#[derive(Deserialize)]
struct Message {
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    physical_location: Option<PhysicalLocation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    artifact_location: Option<ArtifactLocation>,
    region: Option<Region>,
}

#[derive(Deserialize)]
struct ArtifactLocation {
    uri: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    start_line: Option<u64>,
}

#[derive(Deserialize)]
struct Suppression {
    status: Option<String>,
}

pub(super) fn sarif(bytes: &[u8]) -> Result<Report, Unusable> {
    let log: Log = json(Format::Sarif, bytes)?;
    if log.version != "2.1.0" {
        return Err(other(Format::Sarif, format!("its version is {:?}, and 2.1.0 is understood", text(&log.version))));
    }
    if log.runs.is_empty() {
        return Err(no_scan("it holds no run of a tool"));
    }
    let mut report = Report {
        tool: String::new(),
        target: "what the tool was given".to_owned(),
        about: Vec::new(),
        created: None,
        findings: Vec::new(),
        notes: Vec::new(),
    };
    let mut tools: Vec<String> = Vec::new();
    for run in &log.runs {
        tools.push(text(&run.tool.driver.name));
        one_run(run, &mut report)?;
    }
    report.tool = tools.join(", ");
    Ok(report)
}

fn one_run(run: &Run, report: &mut Report) -> Result<(), Unusable> {
    let tool = text(&run.tool.driver.name);
    if run.invocations.iter().any(|invocation| !invocation.execution_successful) {
        return Err(no_scan(format!("{tool} says of itself that it failed")));
    }
    let results = run.results.as_ref().ok_or_else(|| no_scan(format!("{tool} has no results, not even none")))?;
    let ended = run.invocations.iter().filter_map(|invocation| time(invocation.end_time_utc.as_deref())).min();
    // Of several runs the oldest one decides how old the report is.
    report.created = match (report.created, ended) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    // Trivy writes here which image it examined.
    let named = |key: &str| run.properties.get(key).and_then(Value::as_str);
    let repositories = run.properties.get("repoDigests").and_then(Value::as_array);
    let repositories = repositories.into_iter().flatten().filter_map(Value::as_str);
    report.about.extend(digests([named("imageID"), named("imageName")].into_iter().flatten().chain(repositories)));
    if let Some(image) = named("imageName") {
        report.target = text(image);
    }
    let mut suppressed = 0;
    for found in results {
        let fails = !matches!(found.kind.as_deref(), Some("pass" | "notApplicable" | "informational"));
        if !fails || found.baseline_state.as_deref() == Some("absent") {
            continue;
        }
        let accepted = |one: &Suppression| !matches!(one.status.as_deref(), Some("underReview" | "rejected"));
        if !found.suppressions.is_empty() && found.suppressions.iter().all(accepted) {
            suppressed += 1;
            continue;
        }
        report.findings.push(finding(&run.tool, found));
    }
    if suppressed > 0 {
        report.notes.push(format!("{suppressed} results of {tool} are suppressed in the report itself"));
    }
    Ok(())
}

fn finding(tool: &Tool, found: &Found) -> Finding {
    let reference = found.rule.as_ref();
    let component = reference.and_then(|rule| rule.tool_component.as_ref()?.index).filter(|index| *index >= 0);
    let component = match component {
        Some(index) => usize::try_from(index).ok().and_then(|index| tool.extensions.get(index)),
        None => Some(&tool.driver),
    };
    let id = found.rule_id.as_ref().or_else(|| reference?.id.as_ref());
    let index = found.rule_index.or_else(|| reference?.index).and_then(|index| usize::try_from(index).ok());
    let rules = component.map(|component| component.rules.as_slice()).unwrap_or_default();
    // `ruleId` may be more precise than the rule's own id: `CA1000/1` is of the rule `CA1000`.
    let named = |rule: &&Rule| id.is_some_and(|id| *id == rule.id || id.starts_with(&format!("{}/", rule.id)));
    let rule = index.and_then(|index| rules.get(index)).or_else(|| rules.iter().find(named));
    let place = found.locations.first().and_then(|location| location.physical_location.as_ref());
    let line = place.and_then(|place| place.region.as_ref()?.start_line);
    Finding {
        id: text(id.or_else(|| rule.map(|rule| &rule.id)).map_or("unnamed", String::as_str)),
        aliases: Vec::new(),
        package: place.and_then(|place| place.artifact_location.as_ref()?.uri.as_deref()).map(text),
        version: line.map(|line| format!("line {line}")),
        severity: severity(found, rule),
        title: text(title(&tool.driver.name, id, found, rule)),
    }
}

/// What the rule is about. The message of the finding itself may quote what was found: it serves only where the rule says nothing of itself, and
/// is not one that looks for secrets.
fn title<'a>(tool: &str, id: Option<&String>, found: &'a Found, rule: Option<&'a Rule>) -> &'a str {
    let said = |words: &'a Option<Message>| words.as_ref().and_then(|words| words.text.as_deref());
    let of_rule =
        rule.and_then(|rule| said(&rule.short_description).or(said(&rule.full_description)).or(rule.name.as_deref()));
    let tags = rule.and_then(|rule| rule.properties.get("tags")?.as_array()).into_iter().flatten();
    let mut names =
        tags.filter_map(Value::as_str).chain(id.map(String::as_str)).chain(rule.map(|rule| rule.id.as_str()));
    let tool = squeezed(tool);
    let secret = SECRET_TOOLS.iter().any(|one| tool.contains(one)) || names.any(is_about_secrets);
    let of_finding = if secret { Some(UNSHOWN) } else { found.message.text.as_deref() };
    of_rule.or(of_finding).unwrap_or_default()
}

/// What names of tools that look for nothing but secrets have in them: an edition or a version may stand beside.
const SECRET_TOOLS: [&str; 8] =
    ["gitleaks", "trufflehog", "detectsecrets", "ggshield", "noseyparker", "kingfisher", "whispers", "betterleaks"];
/// What names of rules that look for secrets have in them.
const SECRET_WORDS: [&str; 17] = [
    "secret",
    "credential",
    "passw",
    "passphrase",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "hardcoded",
    "leak",
    "jwt",
    "webhook",
    "connectionstring",
    "entropy",
    "authorization",
];
/// Instead of a message that may quote one.
const UNSHOWN: &str = "its message may quote a secret, and is not shown";

/// Letters and digits only, small: names are written with every kind of mark between their words.
fn squeezed(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

fn is_about_secrets(name: &str) -> bool {
    let name = squeezed(name);
    // CWE-798 and its kin, as tags write them: hard-coded credentials, passwords and keys, secrets in clear text.
    SECRET_WORDS.iter().any(|word| name.contains(word))
        || ["cwe798", "cwe259", "cwe321", "cwe312", "cwe522"].iter().any(|cwe| name.ends_with(cwe))
}

fn severity(found: &Found, rule: Option<&Rule>) -> Option<Severity> {
    let score = |properties: &Value| match properties.get("security-severity")? {
        Value::String(text) => text.trim().parse::<f64>().ok(),
        number => number.as_f64(),
    };
    if let Some(score) = score(&found.properties).or_else(|| score(&rule?.properties)) {
        return Severity::of_score(score);
    }
    // Something that somebody has still to look at has no level that says how bad it is.
    if matches!(found.kind.as_deref(), Some("open" | "review")) {
        return None;
    }
    let level = found.level.as_deref().or_else(|| rule?.default_configuration.as_ref()?.level.as_deref());
    match level.unwrap_or("warning") {
        "error" => Some(Severity::High),
        "warning" => Some(Severity::Medium),
        "note" => Some(Severity::Low),
        "none" => Some(Severity::Negligible),
        _ => None,
    }
}
