//! From measurements to verdicts.
//!
//! What these functions never do: call a check ok that has no measurement, let a later measurement hide an earlier
//! critical one, judge by a number that is not one, or judge without saying the value and the bound.

use super::{
    Baseline, Better, Bounds, Check, CheckResult, Gate, GateResult, Measurement, Relative, Source, Statistic, Verdict,
};
use crate::scan;
use jiff::Timestamp;

/// A measurement dated this far ahead of our clock is taken for clock skew; further, and its age is unknown.
const SKEW: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// What one measurement says.
struct Judged {
    verdict: Verdict,
    /// The verdict if critical bounds did not count: what a tolerated failure comes to.
    tolerated: Verdict,
    value: Option<f64>,
    reasons: Vec<String>,
}

/// The verdict of a check over its measurements, in the order they were made.
///
/// Each measurement is judged alone: not a number, stale or thin is inconclusive; otherwise the worst bound that it is
/// beyond (not equal to) decides. The check is critical when more than `failure_limit` measurements are; those within
/// the limit count by their warning bounds alone. It is inconclusive when any measurement is, or when there are fewer
/// than `count`. Critical wins over inconclusive.
pub fn check(check: &Check, measurements: &[Measurement], baseline: &Baseline, now: Timestamp) -> CheckResult {
    let judged: Vec<Judged> = measurements.iter().map(|measurement| judge(check, measurement, baseline, now)).collect();
    let crits = judged.iter().filter(|judged| judged.verdict == Verdict::Crit).count();
    let tolerated = crits <= check.failure_limit as usize;
    let mut reasons: Vec<String> = Vec::new();
    let mut verdict = Verdict::Ok;
    for one in &judged {
        verdict = verdict.max(if tolerated { one.tolerated } else { one.verdict });
        for reason in &one.reasons {
            if !reasons.contains(reason) {
                reasons.push(reason.clone());
            }
        }
    }
    if crits > 0 && check.failure_limit > 0 {
        let allowed = check.failure_limit;
        reasons.push(format!(
            "{}: {crits} of {} measurements are critical; {allowed} may be",
            check.name,
            judged.len()
        ));
    }
    if judged.is_empty() {
        verdict = verdict.max(Verdict::Inconclusive);
        reasons.push(format!("{}: there is no measurement", check.name));
    } else if judged.len() < check.count as usize {
        verdict = verdict.max(Verdict::Inconclusive);
        reasons.push(format!("{}: there are {} of {} measurements", check.name, judged.len(), check.count));
    }
    CheckResult { check: check.name.clone(), verdict, value: deciding_value(check, &judged), reasons }
}

/// The verdict of a gate: the worst of its checks. A check of the gate without a result is inconclusive, and so is a
/// gate without checks. Results of checks that the gate does not have still count: more evidence never makes it better.
pub fn gate(gate: &Gate, results: Vec<CheckResult>) -> GateResult {
    let mut results = results;
    for check in &gate.checks {
        if !results.iter().any(|result| result.check == check.name) {
            let reasons = vec![format!("{}: it was not carried out", check.name)];
            results.push(CheckResult {
                check: check.name.clone(),
                verdict: Verdict::Inconclusive,
                value: None,
                reasons,
            });
        }
    }
    let worst = results.iter().map(|result| result.verdict).max().unwrap_or(Verdict::Inconclusive);
    let verdict = if gate.checks.is_empty() { worst.max(Verdict::Inconclusive) } else { worst };
    GateResult { gate: gate.name.clone(), verdict, checks: results }
}

/// The value of the worst measurement; among equals the worst value.
fn deciding_value(check: &Check, judged: &[Judged]) -> Option<f64> {
    let better = direction(check);
    let worse = |a: f64, b: f64| match better {
        Better::Higher => b.total_cmp(&a),
        Better::Lower => a.total_cmp(&b),
    };
    judged
        .iter()
        .filter_map(|one| one.value.map(|value| (one.verdict, value)))
        .max_by(|(verdict, value), (other, other_value)| verdict.cmp(other).then_with(|| worse(*value, *other_value)))
        .map(|(_, value)| value)
}

/// Which direction of the value is good, as far as the check says it.
fn direction(check: &Check) -> Better {
    let upper = check.bounds.warn_above.is_some() || check.bounds.crit_above.is_some();
    let lower = check.bounds.warn_below.is_some() || check.bounds.crit_below.is_some();
    match (&check.relative, &check.source) {
        (Some(relative), _) => relative.better,
        (None, _) if lower => Better::Higher,
        (None, _) if upper => Better::Lower,
        (None, Source::Load { .. } | Source::Scan(_) | Source::Image(_)) => Better::Lower,
        (None, _) => Better::Higher,
    }
}

fn judge(check: &Check, measurement: &Measurement, baseline: &Baseline, now: Timestamp) -> Judged {
    let inconclusive = |value: Option<f64>, reason: String| Judged {
        verdict: Verdict::Inconclusive,
        tolerated: Verdict::Inconclusive,
        value: value.filter(|value| value.is_finite()),
        reasons: vec![reason],
    };
    let (value, samples, at, notes) = match measurement {
        Measurement::Missing { why } => {
            return inconclusive(None, format!("{}: nothing was measured: {why}", check.name));
        }
        Measurement::Judged { verdict, notes } => {
            let mut reasons = vec![format!("{}: its command says {verdict}", check.name)];
            reasons.extend(notes.iter().map(|note| format!("{}: {note}", check.name)));
            return Judged { verdict: *verdict, tolerated: tolerate(*verdict), value: None, reasons };
        }
        Measurement::Scan { .. } | Measurement::Images { .. } => return by_rules(check, measurement, now),
        Measurement::Value { value, samples, at, notes } => (*value, *samples, *at, notes),
    };
    let named = named(check, value);
    let with_notes = |mut judged: Judged| {
        judged.reasons.extend(notes.iter().map(|note| format!("{}: {note}", check.name)));
        judged
    };
    if !value.is_finite() {
        return with_notes(inconclusive(None, format!("{}: the value is {value}, which decides nothing", check.name)));
    }
    if let Some(reason) = too_old(check, at, now) {
        return with_notes(inconclusive(Some(value), format!("{named} {reason}")));
    }
    if samples < check.required_samples {
        let required = check.required_samples;
        return with_notes(inconclusive(
            Some(value),
            format!("{named} stands on {samples} samples; {required} are required"),
        ));
    }
    with_notes(by_bounds(check, value, &named, baseline))
}

/// Findings are judged by the rules of their check, not by bounds.
fn by_rules(check: &Check, measurement: &Measurement, now: Timestamp) -> Judged {
    let decision = match (&check.source, measurement) {
        (Source::Scan(rules), Measurement::Scan { report, at, image, .. }) => match too_old(check, *at, now) {
            Some(reason) => Err(format!("{}: the report {} {reason}", check.name, rules.path)),
            None => Ok(scan::decide::report(check.name.as_str(), rules, report, image, now)),
        },
        (Source::Image(rules), Measurement::Images { inspections, previous }) => {
            Ok(scan::decide::images(check.name.as_str(), rules, inspections, previous))
        }
        _ => Err(format!("{}: the evidence is of another kind than the check", check.name)),
    };
    match decision {
        Ok(scan::decide::Decision { verdict, value, reasons }) => {
            Judged { verdict, tolerated: tolerate(verdict), value, reasons }
        }
        Err(reason) => Judged {
            verdict: Verdict::Inconclusive,
            tolerated: Verdict::Inconclusive,
            value: None,
            reasons: vec![reason],
        },
    }
}

/// A critical verdict of a command that is tolerated is still worth a warning.
fn tolerate(verdict: Verdict) -> Verdict {
    if verdict == Verdict::Crit { Verdict::Warn } else { verdict }
}

fn too_old(check: &Check, at: Timestamp, now: Timestamp) -> Option<String> {
    let max_age = check.max_age?;
    let age = now.duration_since(at);
    if age < -SKEW {
        return Some(format!("is dated {at}, which is in the future: its age is unknown"));
    }
    let allowed = jiff::SignedDuration::try_from(max_age).unwrap_or(jiff::SignedDuration::MAX);
    (age > allowed).then(|| {
        let seconds = std::time::Duration::from_secs(u64::try_from(age.as_secs()).unwrap_or_default());
        format!(
            "is {} old; it may be {}",
            crate::config::duration::format(&seconds),
            crate::config::duration::format(&max_age)
        )
    })
}

/// A finding against one bound: how bad, and the sentence.
type Finding = (Verdict, String);

fn by_bounds(check: &Check, value: f64, named: &str, baseline: &Baseline) -> Judged {
    let mut findings = absolute(&check.bounds, value, named);
    let mut remarks = Vec::new();
    if let Some(bound) = &check.relative {
        match relative(bound, value, named, baseline) {
            Ok(more) => findings.extend(more),
            Err(Remark::Holds(why)) => remarks.push(why),
            Err(Remark::Undecided(why)) => findings.push((Verdict::Inconclusive, why)),
        }
    }
    let worst = |all: &mut dyn Iterator<Item = &Finding>| all.map(|(verdict, _)| *verdict).max().unwrap_or(Verdict::Ok);
    let verdict = worst(&mut findings.iter());
    let tolerated = worst(&mut findings.iter().filter(|(verdict, _)| *verdict != Verdict::Crit));
    // What is critical was a warning on the way there; one sentence is enough.
    let shown = findings.into_iter().filter(|(found, _)| verdict != Verdict::Crit || *found == Verdict::Crit);
    let mut reasons: Vec<String> = shown.map(|(_, reason)| reason).collect();
    if reasons.is_empty() {
        reasons.push(format!("{named} is within {}", within(check)));
    }
    reasons.extend(remarks);
    Judged { verdict, tolerated, value: Some(value), reasons }
}

fn absolute(bounds: &Bounds, value: f64, named: &str) -> Vec<Finding> {
    let all = [
        (Verdict::Crit, "critical", "below", bounds.crit_below),
        (Verdict::Warn, "warning", "below", bounds.warn_below),
        (Verdict::Crit, "critical", "above", bounds.crit_above),
        (Verdict::Warn, "warning", "above", bounds.warn_above),
    ];
    let mut findings = Vec::new();
    for (verdict, word, side, bound) in all {
        match bound {
            Some(bound) if bound.is_nan() => {
                findings.push((Verdict::Inconclusive, format!("{named} has a {word} bound that is not a number")));
            }
            Some(bound) if (side == "below" && value < bound) || (side == "above" && value > bound) => {
                findings.push((verdict, format!("{named} is {side} the {word} bound {bound}")));
            }
            _ => {}
        }
    }
    findings
}

/// Why a relative bound found nothing.
enum Remark {
    /// There is nothing to compare with, and need not be.
    Holds(String),
    /// There should be something to compare with.
    Undecided(String),
}

fn relative(bound: &Relative, value: f64, named: &str, baseline: &Baseline) -> Result<Vec<Finding>, Remark> {
    let (release, base) = match baseline {
        Baseline::FirstRelease => {
            return Err(Remark::Holds(format!("{named} is the first: no release runs there to compare with")));
        }
        Baseline::Unrecorded { release } => {
            return Err(Remark::Undecided(format!("{named} cannot be compared: no value of {release} is recorded")));
        }
        Baseline::Value { release, value: base } if !base.is_finite() => {
            return Err(Remark::Undecided(format!(
                "{named} cannot be compared: the recorded value of {release} is {base}"
            )));
        }
        Baseline::Value { release, value } => (release, *value),
    };
    let worse_by = match bound.better {
        Better::Higher => base - value,
        Better::Lower => value - base,
    };
    if worse_by <= 0.0 {
        return Ok(Vec::new());
    }
    if base == 0.0 {
        let why = format!(
            "{named} is worse than the 0 of {release}, of which there are no shares; an absolute bound would decide"
        );
        return Err(Remark::Undecided(why));
    }
    let share = worse_by / base.abs();
    let all = [(Verdict::Crit, "critical", bound.crit_worse), (Verdict::Warn, "warning", bound.warn_worse)];
    let mut findings = Vec::new();
    for (verdict, word, limit) in all {
        if let Some(limit) = limit
            && share > limit
        {
            let (percent, limit) = (number(share * 100.0, limit * 100.0), number(limit * 100.0, f64::NAN));
            let base = number(base, value);
            findings.push((
                verdict,
                format!("{named} is {percent} % worse than the {base} of {release}; the {word} bound is {limit} %"),
            ));
        }
    }
    Ok(findings)
}

/// The bounds that a good value kept, in words.
fn within(check: &Check) -> String {
    let Bounds { warn_below, crit_below, warn_above, crit_above } = check.bounds;
    let mut words: Vec<String> = Vec::new();
    if let Some(bound) = warn_below.or(crit_below) {
        words.push(format!("its lower bound {bound}"));
    }
    if let Some(bound) = warn_above.or(crit_above) {
        words.push(format!("its upper bound {bound}"));
    }
    if check.relative.is_some() {
        words.push("its relative bound".to_owned());
    }
    if words.is_empty() { "no bound at all".to_owned() } else { words.join(" and ") }
}

/// The check's name with the value and its unit, rounded for people but never onto a bound.
fn named(check: &Check, value: f64) -> String {
    let bounds = [check.bounds.warn_below, check.bounds.crit_below, check.bounds.warn_above, check.bounds.crit_above];
    let near = bounds.into_iter().flatten().find(|bound| rounded(*bound) == rounded(value));
    let unit = match &check.source {
        Source::Load { statistic: Statistic::ErrorRate, .. } => "",
        Source::Load { .. } => " ms",
        _ => "",
    };
    format!("{} {}{unit}", check.name, number(value, near.unwrap_or(f64::NAN)))
}

/// Four significant digits, or all when fewer would make it look equal to `other` and it is not.
fn number(value: f64, other: f64) -> String {
    if rounded(value) == rounded(other) { value.to_string() } else { rounded(value).to_string() }
}

fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests;
