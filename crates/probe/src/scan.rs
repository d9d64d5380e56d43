//! Reports of scanners, and the commands that make them.

use crate::{Context, report};
use domain::{
    Digest, Events,
    gate::Measurement,
    scan::{self, Rules},
};
use jiff::Timestamp;

/// Makes the report, if a command is given, and reads it. What is no report of a scan is missing, with the reason.
pub(crate) async fn measure(
    context: &Context,
    rules: &Rules,
    now: impl Fn() -> Timestamp,
    events: &Events,
) -> Measurement {
    let findings = rules.format.code_of_findings();
    let made = report::make(context, &rules.path, rules.run.as_deref(), rules.timeout, findings, events).await;
    match made.and_then(|fresh| read(context, rules, fresh.as_ref(), now())) {
        Ok(measurement) => measurement,
        Err(why) => Measurement::Missing { why },
    }
}

fn read(
    context: &Context,
    rules: &Rules,
    fresh: Option<&report::Fresh>,
    now: Timestamp,
) -> Result<Measurement, String> {
    let name = &rules.path;
    let (bytes, modified) = report::load(&context.repository.join(name), name, fresh)?;
    let found = scan::parse(rules.format, &bytes).map_err(|unusable| format!("report {name} {unusable}"))?;
    if fresh.is_some_and(|fresh| fresh.found) && found.findings.is_empty() {
        return Err(format!("{} ended as if it had found something, and its report {name} names nothing", found.tool));
    }
    let at = match found.created {
        Some(at) => at,
        None => Timestamp::try_from(modified).map_err(|error| format!("report {name}: {error}"))?,
    };
    report::plausible(at, name, fresh.filter(|_| found.created.is_some()), now)?;
    Ok(Measurement::Scan { digest: Digest::of(&bytes), at, image: context.identities.clone(), report: found })
}
