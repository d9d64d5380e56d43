//! Trivy (JSON schema version 2) and Grype: scanners that say which image they examined.

use super::{digests, json, no_scan, nullable, other, text, texts, time};
use crate::scan::{Finding, Format, Report, Severity, Unusable};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Trivy {
    schema_version: u64,
    created_at: Option<String>,
    artifact_name: String,
    artifact_type: Option<String>,
    metadata: Option<TrivyMetadata>,
    #[serde(default, deserialize_with = "nullable")]
    results: Vec<TrivyResult>,
}

#[derive(Default, Deserialize)]
struct TrivyMetadata {
    #[serde(rename = "ImageID")]
    image_id: Option<String>,
    #[serde(rename = "RepoDigests", default, deserialize_with = "nullable")]
    repo_digests: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TrivyResult {
    #[serde(default)]
    target: String,
    #[serde(default, deserialize_with = "nullable")]
    vulnerabilities: Vec<TrivyVulnerability>,
    #[serde(default, deserialize_with = "nullable")]
    misconfigurations: Vec<TrivyMisconfiguration>,
    #[serde(default, deserialize_with = "nullable")]
    secrets: Vec<TrivySecret>,
    #[serde(default, deserialize_with = "nullable")]
    licenses: Vec<TrivyLicense>,
}

#[derive(Deserialize)]
struct TrivyVulnerability {
    #[serde(rename = "VulnerabilityID")]
    id: String,
    #[serde(rename = "VendorIDs")]
    vendor_ids: Option<Vec<String>>,
    #[serde(rename = "PkgName", default)]
    package: String,
    #[serde(rename = "InstalledVersion", default)]
    version: String,
    #[serde(rename = "Severity", default)]
    severity: String,
    #[serde(rename = "Title", default)]
    title: String,
}

#[derive(Deserialize)]
struct TrivyMisconfiguration {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "AVDID")]
    other_id: Option<String>,
    #[serde(rename = "Title", default)]
    title: String,
    #[serde(rename = "Severity", default)]
    severity: String,
    #[serde(rename = "Status", default)]
    status: String,
}

#[derive(Deserialize)]
struct TrivySecret {
    #[serde(rename = "RuleID")]
    id: String,
    #[serde(rename = "Title", default)]
    title: String,
    #[serde(rename = "Severity", default)]
    severity: String,
    #[serde(rename = "StartLine", default)]
    line: u64,
}

#[derive(Deserialize)]
struct TrivyLicense {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "PkgName", default)]
    package: String,
    #[serde(rename = "Severity", default)]
    severity: String,
}

pub(super) fn trivy(bytes: &[u8]) -> Result<Report, Unusable> {
    let report: Trivy = json(Format::Trivy, bytes)?;
    if report.schema_version != 2 {
        let why = format!("its schema version is {}, and 2 is understood", report.schema_version);
        return Err(other(Format::Trivy, why));
    }
    if report.results.is_empty() {
        let why = format!("it names nothing that it examined in {}", text(&report.artifact_name));
        return Err(no_scan(why));
    }
    let metadata = report.metadata.unwrap_or_default();
    let names = metadata.image_id.iter().chain(&metadata.repo_digests).chain([&report.artifact_name]);
    let about = digests(names.map(String::as_str));
    let kind = report.artifact_type.unwrap_or_default();
    Ok(Report {
        tool: "trivy".to_owned(),
        target: text(&format!("{kind} {}", report.artifact_name)),
        about,
        created: time(report.created_at.as_deref()),
        findings: report.results.into_iter().flat_map(trivy_findings).collect(),
        notes: Vec::new(),
    })
}

fn trivy_findings(result: TrivyResult) -> Vec<Finding> {
    let target = text(&result.target);
    let filled = |value: &str| Some(text(value)).filter(|value| !value.is_empty());
    let mut findings: Vec<Finding> = Vec::new();
    for one in result.vulnerabilities {
        findings.push(Finding {
            id: text(&one.id),
            aliases: texts(one.vendor_ids),
            package: filled(&one.package),
            version: filled(&one.version),
            severity: Severity::of_word(&one.severity),
            title: text(&one.title),
        });
    }
    for one in result.misconfigurations.into_iter().filter(|one| one.status != "PASS" && one.status != "EXCEPTION") {
        findings.push(Finding {
            id: text(&one.id),
            aliases: texts(one.other_id.map(|id| vec![id])),
            package: Some(target.clone()),
            version: None,
            severity: Severity::of_word(&one.severity),
            title: text(&one.title),
        });
    }
    for one in result.secrets {
        findings.push(Finding {
            id: text(&one.id),
            aliases: Vec::new(),
            package: Some(target.clone()),
            version: Some(format!("line {}", one.line)),
            severity: Severity::of_word(&one.severity),
            title: text(&one.title),
        });
    }
    for one in result.licenses {
        findings.push(Finding {
            id: text(&one.name),
            aliases: Vec::new(),
            package: filled(&one.package).or_else(|| Some(target.clone())),
            version: None,
            severity: Severity::of_word(&one.severity),
            title: "its licence".to_owned(),
        });
    }
    findings
}

#[derive(Deserialize)]
struct Grype {
    matches: Vec<GrypeMatch>,
    source: Option<GrypeSource>,
    descriptor: GrypeDescriptor,
    #[serde(rename = "ignoredMatches", default, deserialize_with = "nullable")]
    ignored: Vec<Value>,
}

#[derive(Deserialize)]
struct GrypeMatch {
    vulnerability: GrypeVulnerability,
    #[serde(rename = "relatedVulnerabilities", default, deserialize_with = "nullable")]
    related: Vec<GrypeRelated>,
    artifact: GrypeArtifact,
}

#[derive(Deserialize)]
struct GrypeVulnerability {
    id: String,
    #[serde(default)]
    severity: String,
    #[serde(default)]
    description: Option<String>,
}

#[derive(Deserialize)]
struct GrypeRelated {
    id: String,
}

#[derive(Deserialize)]
struct GrypeArtifact {
    name: String,
    #[serde(default)]
    version: String,
}

#[derive(Deserialize)]
struct GrypeSource {
    #[serde(rename = "type")]
    kind: String,
    target: Value,
}

#[derive(Deserialize)]
struct GrypeDescriptor {
    name: String,
    timestamp: Option<String>,
    #[serde(default)]
    db: Value,
}

pub(super) fn grype(bytes: &[u8]) -> Result<Report, Unusable> {
    let report: Grype = json(Format::Grype, bytes)?;
    if report.descriptor.name != "grype" {
        return Err(other(Format::Grype, format!("it was made by {:?}", text(&report.descriptor.name))));
    }
    let source = report.source.ok_or_else(|| no_scan("it names nothing that it examined"))?;
    let status = report.descriptor.db.get("status").unwrap_or(&report.descriptor.db);
    let error = status.get("error").filter(|error| !error.is_null() && error.as_str() != Some(""));
    if error.is_some() || status.get("valid").and_then(Value::as_bool) == Some(false) {
        return Err(no_scan("its vulnerability database was not valid"));
    }
    let target = |key: &str| source.target.get(key).and_then(Value::as_str);
    let repositories = source.target.get("repoDigests").and_then(Value::as_array);
    let repositories = repositories.into_iter().flatten().filter_map(Value::as_str);
    let names = [target("manifestDigest"), target("imageID"), target("userInput")].into_iter().flatten();
    let about = digests(names.chain(repositories));
    let examined = target("userInput").or_else(|| source.target.as_str()).unwrap_or_default();
    let findings = report.matches.into_iter().map(|found| Finding {
        id: text(&found.vulnerability.id),
        aliases: found.related.iter().map(|related| text(&related.id)).collect(),
        package: Some(text(&found.artifact.name)),
        version: Some(text(&found.artifact.version)).filter(|version| !version.is_empty()),
        severity: Severity::of_word(&found.vulnerability.severity),
        title: text(found.vulnerability.description.as_deref().unwrap_or_default()),
    });
    let ignored = report.ignored.len();
    Ok(Report {
        tool: "grype".to_owned(),
        target: text(&format!("{} {examined}", source.kind)),
        about,
        created: time(report.descriptor.timestamp.as_deref()),
        findings: findings.collect(),
        notes: (ignored > 0).then(|| format!("grype itself ignored {ignored} matches")).into_iter().collect(),
    })
}
