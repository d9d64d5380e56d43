//! gitleaks: a JSON array of findings. The secret and the line that holds it are never read.

use super::{json, text};
use crate::scan::{Finding, Format, Report, Unusable};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Leak {
    #[serde(rename = "RuleID")]
    rule: String,
    file: String,
    start_line: u64,
    #[serde(default)]
    description: String,
    #[serde(default)]
    commit: String,
    fingerprint: String,
}

/// gitleaks gives no severities. The fingerprint is another name of a finding, so that the allow-list can name one alone.
pub(super) fn gitleaks(bytes: &[u8]) -> Result<Report, Unusable> {
    let leaks: Vec<Leak> = json(Format::Gitleaks, bytes)?;
    let findings = leaks.into_iter().map(|leak| {
        let commit: String = leak.commit.chars().filter(char::is_ascii_hexdigit).take(12).collect();
        let of = if commit.is_empty() { String::new() } else { format!(" of commit {commit}") };
        Finding {
            id: text(&leak.rule),
            aliases: vec![text(&leak.fingerprint)],
            package: Some(text(&leak.file)),
            version: Some(format!("line {}{of}", leak.start_line)),
            severity: None,
            title: text(&leak.description),
        }
    });
    Ok(Report {
        tool: "gitleaks".to_owned(),
        target: "files and history".to_owned(),
        about: Vec::new(),
        created: None,
        findings: findings.collect(),
        notes: Vec::new(),
    })
}
