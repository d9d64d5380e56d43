//! Reports and inspections to verdicts. The sentences name what was found and by which rule it counts.

use super::{
    About, Allow, Finding, Format, ImageRules, Inspection, PreviousImage, Report, Rules, Severity, User, Weight,
};
use crate::{Digest, gate::Verdict};
use jiff::{Timestamp, tz::TimeZone};

/// How many findings are named; the others are counted.
const NAMED: usize = 20;
/// How many places of one rule are named.
const PLACES: usize = 10;

/// A verdict, the number behind it, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// How many findings count; for an image its bytes.
    pub value: Option<f64>,
    /// Why, in sentences.
    pub reasons: Vec<String>,
}

impl Decision {
    fn inconclusive(reason: String) -> Self {
        Self { verdict: Verdict::Inconclusive, value: None, reasons: vec![reason] }
    }
}

/// What an allow-list says of a finding.
enum Allowance<'a> {
    /// Nothing.
    Never,
    Allowed,
    /// It was allowed, until this entry expired.
    Expired(&'a Allow),
}

/// The verdict about a report. `image` are the identities of the release's images: manifests, index, configurations.
pub fn report(name: &str, rules: &Rules, report: &Report, image: &[Digest], now: Timestamp) -> Decision {
    if let Some(why) = other_subject(rules, report, image) {
        return Decision::inconclusive(format!("{name}: {why}"));
    }
    let allowed: &[Allow] = match (&rules.allow, &rules.allowed) {
        (Some(path), None) => {
            return Decision::inconclusive(format!("{name}: the allow-list {path} was not sealed with the release"));
        }
        (_, allowed) => allowed.as_deref().unwrap_or_default(),
    };
    let mut counted: Vec<(Severity, Verdict, String)> = Vec::new();
    let (mut allowed_count, mut below) = (0_usize, 0_usize);
    for finding in &report.findings {
        let expired = match allowance(allowed, finding, now) {
            Allowance::Allowed => {
                allowed_count += 1;
                continue;
            }
            Allowance::Expired(entry) => Some(entry),
            Allowance::Never => None,
        };
        let severity = finding.severity.unwrap_or(rules.unknown);
        let verdict = match severity {
            severity if severity >= rules.crit => Verdict::Crit,
            severity if severity >= rules.warn => Verdict::Warn,
            _ => {
                below += 1;
                continue;
            }
        };
        counted.push((severity, verdict, sentence(name, finding, severity, expired)));
    }
    counted.sort_by(|(one, _, a), (other, _, b)| other.cmp(one).then_with(|| a.cmp(b)));
    let verdict = counted.iter().map(|(_, verdict, _)| *verdict).max().unwrap_or(Verdict::Ok);
    #[allow(clippy::cast_precision_loss)] // a report of 64 MiB has fewer findings than 2^53
    let value = Some(counted.len() as f64);
    let number = counted.len();
    let mut reasons = vec![format!(
        "{name}: {} of {} found {number} of severity {} or worse{}{}",
        report.tool,
        report.target,
        rules.warn,
        if below > 0 { format!(", {below} below") } else { String::new() },
        if allowed_count > 0 { format!(", {allowed_count} allowed") } else { String::new() },
    )];
    reasons.extend(counted.into_iter().take(NAMED).map(|(_, _, sentence)| sentence));
    if number > NAMED {
        reasons.push(format!("{name}: and {} more", number - NAMED));
    }
    reasons.extend(report.notes.iter().map(|note| format!("{name}: {note}")));
    Decision { verdict, value, reasons }
}

/// Why a report is not about the release's image, if it must be.
fn other_subject(rules: &Rules, report: &Report, image: &[Digest]) -> Option<String> {
    let path = &rules.path;
    match rules.subject {
        About::Any => None,
        About::Image if image.is_empty() => Some("the release has no image that a report could be about".to_owned()),
        About::Image if report.about.is_empty() => {
            Some(format!("the report {path} does not say which image it is about ({})", report.target))
        }
        About::Image if report.about.iter().any(|digest| image.contains(digest)) => None,
        About::Image => {
            let about: Vec<String> = report.about.iter().map(ToString::to_string).collect();
            let (about, ours) = (about.join(", "), image.first().map(ToString::to_string).unwrap_or_default());
            Some(format!("the report {path} is about another image: {about}, and the release's is {ours}"))
        }
    }
}

fn allowance<'a>(allowed: &'a [Allow], finding: &Finding, now: Timestamp) -> Allowance<'a> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let entries: Vec<&Allow> = allowed.iter().filter(|entry| entry.is_about(finding)).collect();
    if entries.iter().any(|entry| today < entry.expires) {
        return Allowance::Allowed;
    }
    entries.into_iter().max_by_key(|entry| entry.expires).map_or(Allowance::Never, Allowance::Expired)
}

fn sentence(name: &str, finding: &Finding, severity: Severity, expired: Option<&Allow>) -> String {
    let word = match finding.severity {
        Some(severity) => severity.to_string(),
        None => format!("no severity, counted as {severity}"),
    };
    let place = match (&finding.package, &finding.version) {
        (Some(package), Some(version)) => format!(" in {package} {version}"),
        (Some(package), None) => format!(" in {package}"),
        (None, _) => String::new(),
    };
    let title = if finding.title.is_empty() { String::new() } else { format!(": {}", finding.title) };
    let expired = expired
        .map(|entry| format!("; {} is no longer allowed since {} ({})", entry.id, entry.expires, entry.reason.trim()));
    format!("{name}: {} ({word}){place}{title}{}", finding.id, expired.unwrap_or_default())
}

/// The verdict about images by rules of our own: the worst of all platforms and rules.
pub fn images(name: &str, rules: &ImageRules, inspections: &[Inspection], previous: &PreviousImage) -> Decision {
    if inspections.is_empty() {
        return Decision::inconclusive(format!("{name}: the release has no image"));
    }
    let mut findings: Vec<(Verdict, String)> = Vec::new();
    for inspection in inspections {
        of_content(rules, inspection, &mut findings);
        of_size(rules, inspection, previous, &mut findings);
    }
    let verdict = findings.iter().map(|(verdict, _)| *verdict).max().unwrap_or(Verdict::Ok);
    let mut reasons: Vec<String> = findings.into_iter().map(|(_, why)| format!("{name}: {why}")).collect();
    if reasons.is_empty() {
        let of = inspections.iter().map(|one| format!("{} ({})", one.platform, one.manifest)).collect::<Vec<_>>();
        reasons.push(format!("{name}: nothing is wrong with {}", of.join(", ")));
    }
    #[allow(clippy::cast_precision_loss)] // sizes of images are far below 2^53
    let value = inspections.iter().map(|one| one.bytes).max().map(|bytes| bytes as f64);
    Decision { verdict, value, reasons }
}

fn verdict_of(weight: Weight) -> Option<Verdict> {
    match weight {
        Weight::Crit => Some(Verdict::Crit),
        Weight::Warn => Some(Verdict::Warn),
        Weight::Ignore => None,
    }
}

fn of_content(rules: &ImageRules, inspection: &Inspection, findings: &mut Vec<(Verdict, String)>) {
    let platform = &inspection.platform;
    if let Some(verdict) = verdict_of(rules.root) {
        match &inspection.user {
            User::Other { .. } => {}
            User::Root { says } => findings.push((verdict, format!("{platform} runs as root: {says}"))),
            User::Unknown { why } => {
                findings
                    .push((Verdict::Inconclusive, format!("it cannot be said whether {platform} runs as root: {why}")));
            }
        }
    }
    if let Some(verdict) = verdict_of(rules.setuid)
        && inspection.setuid_count > 0
    {
        let files = listed(&inspection.setuid, inspection.setuid_count);
        findings.push((verdict, format!("{platform} holds setuid or setgid files: {files}")));
    }
    if let Some(verdict) = verdict_of(rules.secrets)
        && inspection.secret_count > 0
    {
        let secrets: Vec<String> =
            inspection.secrets.iter().map(|one| format!("{} in {}", one.rule, one.place)).collect();
        let secrets = listed(&secrets, inspection.secret_count);
        findings.push((verdict, format!("{platform} holds what looks like a secret: {secrets}")));
    }
}

fn listed(all: &[String], count: u64) -> String {
    let shown = all.len().min(PLACES);
    let rest = count.saturating_sub(shown as u64);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{}{more}", all[..shown].join(", "))
}

fn of_size(
    rules: &ImageRules,
    inspection: &Inspection,
    previous: &PreviousImage,
    findings: &mut Vec<(Verdict, String)>,
) {
    let (platform, bytes) = (&inspection.platform, inspection.bytes);
    if let Some(limit) = rules.max_size
        && bytes > limit
    {
        findings.push((Verdict::Crit, format!("{platform} has {bytes} bytes; {limit} are allowed")));
    }
    let Some(limit) = rules.max_growth else { return };
    let (release, before) = match previous {
        PreviousImage::None => return,
        PreviousImage::Unknown { why } => {
            findings.push((Verdict::Inconclusive, format!("the growth of {platform} is not known: {why}")));
            return;
        }
        PreviousImage::Known { release, bytes } => match bytes.get(platform) {
            None => return,
            Some(0) => {
                findings.push((Verdict::Inconclusive, format!("the image of {release} has no bytes to compare with")));
                return;
            }
            Some(before) => (release, *before),
        },
    };
    #[allow(clippy::cast_precision_loss)] // sizes of images are far below 2^53
    let growth = (bytes as f64 - before as f64) / before as f64;
    if limit.is_nan() || growth > limit {
        let (percent, limit) = (rounded(growth * 100.0), rounded(limit * 100.0));
        let why = format!(
            "{platform} has {bytes} bytes, {percent} % more than the {before} of {release}; {limit} % are allowed"
        );
        findings.push((Verdict::Crit, why));
    }
}

/// One decimal, upward, so that what is beyond a bound never looks equal to it.
fn rounded(percent: f64) -> f64 {
    (percent * 10.0 - 1e-9).ceil() / 10.0
}

/// Whether a format can be judged as `subject` says: one that never names an image could never be evidence about one.
pub fn can_be_about(format: Format, subject: About) -> bool {
    subject == About::Any || format.names_image()
}

#[cfg(test)]
mod tests;
