//! Everything about one release, and how to check it without Sealift.

use super::{Fields, Paint, Style, at, bytes, count, history, verdict_style};
use domain::manifest::Manifest;
use engine::status::Explanation;
use std::collections::BTreeMap;

/// The whole page.
pub(crate) fn explain(found: &Explanation, verification: &[String], paint: &Paint) -> String {
    let manifest = &found.manifest;
    let mut fields = Fields::new(10);
    content(manifest, &mut fields);
    let sealed = &manifest.provenance;
    fields.add("built", format!("by {} with {} ({})", sealed.actor, sealed.tool, sealed.builder));
    fields.add("sealed", format!("{} by key {}", at(sealed.sealed), found.signer));
    fields.add("bundle", format!("{} ({})", found.key, found.digest));
    if let Some(previous) = &manifest.previous {
        fields.add("previous", format!("{} ({})", previous.release, previous.digest.short()));
    }
    fields.list("verdicts", verdicts(found, paint));
    let serves: Vec<&str> = found.serves.iter().map(domain::Name::as_str).collect();
    let nowhere = if serves.is_empty() { "nowhere".to_owned() } else { serves.join(", ") };
    fields.add("serves", paint.style(&nowhere, if serves.is_empty() { Style::Dim } else { Style::Good }));
    fields.list("rollouts", rollouts(found));
    match found.missing.is_empty() {
        true => fields.add("store", paint.style("everything of it is there", Style::Good)),
        false => fields.list("missing", found.missing.iter().map(|missing| paint.style(missing, Style::Bad))),
    }
    fields.list("verify", verification);
    format!("{}\n{}", paint.style(&manifest.release.to_string(), Style::Bold), fields.finish())
}

fn content(manifest: &Manifest, fields: &mut Fields) {
    let source = &manifest.source;
    let branch = source.branch.as_ref().map_or_else(|| ", detached".to_owned(), |branch| format!(" on {branch}"));
    fields.add("commit", format!("{}{branch}, {}", source.commit, at(source.committed)));
    fields.list(
        "image",
        manifest
            .images
            .iter()
            .map(|(platform, image)| format!("{platform} {} ({})", image.manifest, bytes(image.bytes))),
    );
    fields.list("index", manifest.index.iter().map(|index| index.digest.to_string()));
    fields.list("registry", manifest.references());
    fields.list(
        "artifact",
        manifest.artifacts.iter().map(|(path, file)| format!("{path} {} ({})", file.digest, bytes(file.bytes))),
    );
    if let Some(sbom) = &manifest.sbom {
        fields.add("sbom", format!("{} ({}, {})", sbom.digest, count(sbom.components, "component"), sbom.tool));
    }
    for (name, model) in &manifest.models {
        fields.add("model", format!("{name}@{} {} ({})", model.version, model.digest, bytes(model.bytes)));
        if !model.metrics.is_empty() {
            fields.add("", format!("  metrics: {}", metrics(&model.metrics)));
        }
        let lineage = &model.lineage;
        let data: Vec<String> =
            lineage.data.iter().map(|(name, digest)| format!("data {name} {}", digest.short())).collect();
        let commit = lineage.commit.as_ref().map(|commit| {
            let dirty = if lineage.dirty { " with uncommitted changes" } else { "" };
            format!("commit {}{dirty}", commit.get(..12).unwrap_or(commit))
        });
        let command = lineage.command.as_ref().map(|command| format!("`{}`", command.join(" ")));
        let from: Vec<String> = commit.into_iter().chain(data).chain(command).collect();
        fields
            .add("", format!("  from: {}", if from.is_empty() { "not recorded".to_owned() } else { from.join(", ") }));
    }
    fields.list(
        "data",
        manifest.data.iter().map(|(name, data)| {
            format!("{name} {} ({}, {})", data.snapshot, bytes(data.bytes), count(data.files, "file"))
        }),
    );
    fields.list("config", manifest.configuration.iter().map(|(path, file)| format!("{path} {}", file.digest)));
    fields.list("contracts", manifest.contracts.iter().map(|(name, version)| format!("{name} {version}")));
    let gates: Vec<&str> = manifest.gates.keys().map(domain::Name::as_str).collect();
    if !gates.is_empty() {
        fields.add("gates", format!("{} (thresholds {})", gates.join(", "), manifest.gates_digest.short()));
    }
}

/// Metrics in one line.
pub(crate) fn metrics(metrics: &BTreeMap<String, f64>) -> String {
    let shown: Vec<String> = metrics.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
    shown.join(", ")
}

/// A number with at most four digits behind the point, without idle zeros.
pub(crate) fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn verdicts(found: &Explanation, paint: &Paint) -> Vec<String> {
    let mut lines = Vec::new();
    for evidence in &found.verdicts {
        let result = &evidence.result;
        let verdict = paint.style(&result.verdict.to_string(), verdict_style(result.verdict));
        lines.push(format!(
            "{verdict} gate {} in {} at {} by {}",
            result.gate,
            evidence.environment,
            at(evidence.at),
            evidence.actor
        ));
        for check in &result.checks {
            let verdict = paint.style(&check.verdict.to_string(), verdict_style(check.verdict));
            lines.push(format!("  {verdict} {}: {}", check.check, check.reasons.join("; ")));
        }
    }
    for test in &found.tests {
        let failed =
            if test.failed.is_empty() { String::new() } else { format!("; failed: {}", test.failed.join(", ")) };
        lines.push(format!(
            "{} of {} smoke requests passed in {} at {} by {}{failed}",
            test.passed.len(),
            test.passed.len() + test.failed.len(),
            test.environment,
            at(test.at),
            test.actor
        ));
    }
    lines
}

fn rollouts(found: &Explanation) -> Vec<String> {
    let mut lines = Vec::new();
    for (environment, rollouts) in &found.rollouts {
        for rollout in rollouts {
            let from = rollout.from.as_ref().map_or_else(String::new, |from| format!(" from {from}"));
            let (ending, _) = history::ending(rollout);
            let took = history::duration(rollout).map_or_else(String::new, |took| format!(" in {}", super::took(took)));
            let entries = format!("entries {}-{}", rollout.first_seq, rollout.last_seq);
            lines.push(format!(
                "{environment} {} {}{from}: {ending}{took} ({entries}, {})",
                at(rollout.began),
                rollout.verb,
                rollout.actor
            ));
        }
    }
    lines
}
