//! `pip-audit --format json` and `cargo audit --json`: they read lists of packages and say nothing of images.

use super::{json, no_scan, nullable, text, texts, time};
use crate::scan::{Finding, Format, Report, Severity, Unusable, cvss};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The name of the finding that a package could not be audited.
const NOT_AUDITED: &str = "not-audited";

#[derive(Deserialize)]
struct Pip {
    dependencies: Vec<PipDependency>,
}

#[derive(Deserialize)]
struct PipDependency {
    name: String,
    #[serde(default)]
    version: Option<String>,
    vulns: Option<Vec<PipVulnerability>>,
    skip_reason: Option<String>,
}

#[derive(Deserialize)]
struct PipVulnerability {
    id: String,
    #[serde(default)]
    aliases: Option<Vec<String>>,
    #[serde(default)]
    description: Option<String>,
}

/// pip-audit gives no severities. A package that it skipped is a finding: nobody looked at it.
pub(super) fn pip(bytes: &[u8]) -> Result<Report, Unusable> {
    let report: Pip = json(Format::PipAudit, bytes)?;
    if report.dependencies.is_empty() {
        return Err(no_scan("it names no package that it examined"));
    }
    let packages = report.dependencies.len();
    let mut findings = Vec::new();
    for dependency in report.dependencies {
        let package = Some(text(&dependency.name));
        let version = dependency.version.as_deref().map(text);
        let Some(vulnerabilities) = dependency.vulns else {
            let why = dependency.skip_reason.as_deref().unwrap_or("pip-audit does not say why");
            let title = format!("it was not audited: {}", text(why));
            let id = NOT_AUDITED.to_owned();
            findings.push(Finding { id, aliases: Vec::new(), package, version, severity: None, title });
            continue;
        };
        for found in vulnerabilities {
            findings.push(Finding {
                id: text(&found.id),
                aliases: texts(found.aliases),
                package: package.clone(),
                version: version.clone(),
                severity: None,
                title: text(found.description.as_deref().unwrap_or_default()),
            });
        }
    }
    let target = format!("{packages} Python packages");
    Ok(Report { tool: "pip-audit".to_owned(), target, about: Vec::new(), created: None, findings, notes: Vec::new() })
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cargo {
    database: CargoDatabase,
    lockfile: CargoLockfile,
    #[serde(default)]
    settings: CargoSettings,
    vulnerabilities: CargoVulnerabilities,
    #[serde(default)]
    warnings: BTreeMap<String, Vec<CargoWarning>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CargoDatabase {
    advisory_count: u64,
    #[serde(default)]
    last_updated: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CargoLockfile {
    dependency_count: u64,
}

#[derive(Default, Deserialize)]
struct CargoSettings {
    #[serde(default, deserialize_with = "nullable")]
    ignore: Vec<String>,
}

#[derive(Deserialize)]
struct CargoVulnerabilities {
    list: Vec<CargoVulnerability>,
}

#[derive(Deserialize)]
struct CargoVulnerability {
    advisory: CargoAdvisory,
    package: CargoPackage,
}

#[derive(Deserialize)]
struct CargoWarning {
    kind: String,
    package: CargoPackage,
    advisory: Option<CargoAdvisory>,
}

#[derive(Deserialize)]
struct CargoAdvisory {
    id: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    aliases: Option<Vec<String>>,
    #[serde(default)]
    cvss: Option<String>,
}

#[derive(Deserialize)]
struct CargoPackage {
    name: String,
    version: String,
}

/// Severities come from the CVSS vectors of the advisories. Warnings have none: an unsound crate is of medium severity, an
/// unmaintained or yanked one of low.
pub(super) fn cargo(bytes: &[u8]) -> Result<Report, Unusable> {
    let report: Cargo = json(Format::CargoAudit, bytes)?;
    if report.database.advisory_count == 0 {
        return Err(no_scan("its database has no advisories"));
    }
    if report.lockfile.dependency_count == 0 {
        return Err(no_scan("its lock file has no packages"));
    }
    let finding = |advisory: CargoAdvisory, package: CargoPackage, least: Option<Severity>| Finding {
        id: text(&advisory.id),
        aliases: texts(advisory.aliases),
        package: Some(text(&package.name)),
        version: Some(text(&package.version)),
        severity: advisory.cvss.as_deref().and_then(cvss::severity).max(least),
        title: text(&advisory.title),
    };
    let vulnerabilities = report.vulnerabilities.list.into_iter().map(|one| finding(one.advisory, one.package, None));
    let mut findings: Vec<Finding> = vulnerabilities.collect();
    for warning in report.warnings.into_values().flatten() {
        let severity = Some(if warning.kind == "unsound" { Severity::Medium } else { Severity::Low });
        let kind = text(&warning.kind);
        let advisory = warning.advisory.unwrap_or_else(|| CargoAdvisory {
            id: kind.clone(),
            title: format!("it is {kind}"),
            aliases: None,
            cvss: None,
        });
        findings.push(finding(advisory, warning.package, severity));
    }
    let mut notes = Vec::new();
    if let Some(updated) = time(report.database.last_updated.as_deref()) {
        notes.push(format!("the advisories are of {updated}"));
    }
    if !report.settings.ignore.is_empty() {
        notes.push(format!("cargo audit was told to ignore {}", texts(Some(report.settings.ignore)).join(", ")));
    }
    let target = format!("{} crates", report.lockfile.dependency_count);
    Ok(Report { tool: "cargo-audit".to_owned(), target, about: Vec::new(), created: None, findings, notes })
}
