//! What runs where, for someone who was woken up.

use super::{Cell, Paint, Style, Table, ago, at};
use domain::state::Rollout;
use engine::status::{ComponentStatus, EnvironmentStatus};
use jiff::Timestamp;
use serde::Serialize;

/// One environment and what is open in it.
#[derive(Debug, Serialize)]
pub(crate) struct Standing {
    /// How it stands.
    #[serde(flatten)]
    pub(crate) status: EnvironmentStatus,
    /// A rollout that was begun and not ended.
    pub(crate) open: Option<Rollout>,
    /// The command that goes on from here, when there is one.
    pub(crate) next: Option<String>,
}

impl Standing {
    /// Adds what to do next.
    pub(crate) fn new(status: EnvironmentStatus, open: Option<Rollout>) -> Self {
        let environment = &status.environment;
        let bad = |state: &str| status.components.values().any(|component| component.state == state);
        let next = if open.is_some() && status.held.is_none() {
            Some(format!("sealift resume {environment}   (or give it up: sealift abort {environment})"))
        } else if open.is_some() {
            Some(format!("wait; if the holder has died: sealift resume {environment}   (refused while it lives)"))
        } else if bad("unknown") {
            Some("sealift doctor".to_owned())
        } else {
            status.components.values().find(|component| matches!(component.state, "down" | "drifted")).and_then(
                |component| {
                    let release = &component.serving.as_ref()?.release;
                    Some(format!("sealift rollback {environment} --to {release}   (starts it again)"))
                },
            )
        };
        Self { status, open, next }
    }
}

/// All environments.
pub(crate) fn status(project: &str, all: &[Standing], now: Timestamp, paint: &Paint) -> String {
    let heading = format!("{} at {}", paint.style(project, Style::Bold), at(now));
    if all.is_empty() {
        return format!("{heading}\n\nSealift.toml has no [environment.NAME] section");
    }
    let blocks: Vec<String> = all.iter().map(|standing| environment(standing, now, paint)).collect();
    format!("{heading}\n\n{}", blocks.join("\n\n"))
}

fn environment(standing: &Standing, now: Timestamp, paint: &Paint) -> String {
    let Standing { status, open, next } = standing;
    let name = paint.style(status.environment.as_str(), Style::Bold);
    let mut lines = vec![format!("{name}  {}, ledger entry {}, epoch {}", status.target, status.seq, status.epoch)];
    let mut table = Table::new(["COMPONENT", "STATE", "RELEASE", "SLOT", "URL", "SINCE"]);
    for (component, found) in &status.components {
        let running = found.serving.as_ref();
        table.row([
            component.to_string().into(),
            Cell::new(found.state, style(found)),
            running.map_or_else(|| "-".to_owned(), |running| running.release.to_string()).into(),
            running.map_or_else(|| "-".to_owned(), |running| running.slot.to_string()).into(),
            found.url.clone().unwrap_or_else(|| "-".to_owned()).into(),
            running.map_or_else(|| "-".to_owned(), |r| format!("{} ({})", at(r.since), ago(r.since, now))).into(),
        ]);
    }
    lines.push(table.render("  ", paint));
    for (component, found) in &status.components {
        if let Some(problem) = &found.problem {
            lines.push(format!("  {} {component}: {problem}", paint.style("!", Style::Bad)));
        }
    }
    if let Some(why) = &status.unobserved {
        lines.push(format!("  {} the target could not be asked: {why}", paint.style("!", Style::Bad)));
    }
    if let Some(held) = &status.held {
        lines.push(format!("  {} {held}", paint.style("lease", Style::Warning)));
    }
    if let Some(open) = open {
        let state = if status.held.is_some() { "under way" } else { "interrupted" };
        let from = open.from.as_ref().map_or_else(String::new, |from| format!(" from {from}"));
        lines.push(format!(
            "  {} {} of {}{from} is {state} since {} ({}), {} done, by {}",
            paint.style("open", Style::Warning),
            open.verb,
            open.release,
            at(open.began),
            ago(open.began, now),
            super::count(open.done.len() as u64, "step"),
            open.actor
        ));
        if let Some(failure) = &open.failure {
            lines.push(format!("       last failure: {failure}"));
        }
    }
    if let Some(next) = next {
        lines.push(format!("  {} {next}", paint.style("next:", Style::Good)));
    }
    lines.join("\n")
}

fn style(component: &ComponentStatus) -> Style {
    match component.state {
        "serving" => Style::Good,
        "empty" => Style::Dim,
        "unknown" => Style::Warning,
        _ => Style::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::history::tests::rollout;
    use domain::{Digest, Name, state::Running, workload::Slot};
    use expect_test::expect;
    use std::collections::BTreeMap;

    fn component(state: &'static str, release: Option<&str>, problem: Option<&str>) -> ComponentStatus {
        let serving = release.map(|release| Running {
            release: release.parse().unwrap(),
            digest: Digest::of(release),
            settings: None,
            slot: Slot::Blue,
            since: "2026-11-21T10:00:00Z".parse().unwrap(),
        });
        let url = serving.as_ref().map(|_| "http://127.0.0.1:8081".to_owned());
        ComponentStatus { serving, observed: None, url, state, problem: problem.map(str::to_owned) }
    }

    fn standing(name: &str, found: ComponentStatus, held: Option<&str>, open: Option<Rollout>) -> Standing {
        let status = EnvironmentStatus {
            environment: Name::new(name).unwrap(),
            target: "processes on this host".into(),
            components: BTreeMap::from([(Name::new("wine").unwrap(), found)]),
            seq: 42,
            epoch: 7,
            held: held.map(str::to_owned),
            unobserved: None,
        };
        Standing::new(status, open)
    }

    #[test]
    fn status_says_what_serves_what_is_wrong_and_what_to_do() {
        let down = component("down", Some("wine@1.0.0"), Some("wine@1.0.0 does not run: exit code 1"));
        let all = [
            standing("production", down, None, None),
            standing("qa", component("empty", None, None), None, None),
            standing("staging", component("serving", Some("wine@1.0.0"), None), None, Some(rollout(None))),
        ];
        let now = "2026-11-21T12:30:00Z".parse().unwrap();
        expect![[r#"
            demo at 2026-11-21 12:30:00Z

            production  processes on this host, ledger entry 42, epoch 7
              COMPONENT  STATE  RELEASE     SLOT  URL                    SINCE
              wine       down   wine@1.0.0  blue  http://127.0.0.1:8081  2026-11-21 10:00:00Z (2 h ago)
              ! wine: wine@1.0.0 does not run: exit code 1
              next: sealift rollback production --to wine@1.0.0   (starts it again)

            qa  processes on this host, ledger entry 42, epoch 7
              COMPONENT  STATE  RELEASE  SLOT  URL  SINCE
              wine       empty  -        -     -    -

            staging  processes on this host, ledger entry 42, epoch 7
              COMPONENT  STATE    RELEASE     SLOT  URL                    SINCE
              wine       serving  wine@1.0.0  blue  http://127.0.0.1:8081  2026-11-21 10:00:00Z (2 h ago)
              open deploy of wine@1.1.0 from wine@1.0.0 is interrupted since 2026-11-21 12:00:00Z (30 min ago), 3 steps done, by ann@example.com
              next: sealift resume staging   (or give it up: sealift abort staging)"#]].assert_eq(&status("demo", &all, now, &Paint::none()));
    }

    #[test]
    fn a_rollout_under_way_names_who_holds_the_lease() {
        let held = Some("ann@host pid 7 holds the lease (epoch 8): deploy wine@1.1.0 (op)");
        let found = standing("staging", component("serving", Some("wine@1.0.0"), None), held, Some(rollout(None)));
        assert_eq!(
            found.next.as_deref(),
            Some("wait; if the holder has died: sealift resume staging   (refused while it lives)")
        );
        let text = status("demo", &[found], "2026-11-21T12:30:00Z".parse().unwrap(), &Paint::none());
        assert!(text.contains("lease ann@host pid 7 holds the lease"), "{text}");
        assert!(text.contains("is under way since 2026-11-21 12:00:00Z"), "{text}");
    }
}
