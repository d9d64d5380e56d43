//! The rollouts of environments, newest first.

use super::{Cell, Paint, Style, Table, at, took};
use domain::state::{Ending, Rollout};
use std::time::Duration;

/// One environment's rollouts, newest first.
pub(crate) fn history(environment: &str, rollouts: &[Rollout], paint: &Paint) -> String {
    if rollouts.is_empty() {
        return format!("{environment}: no rollout yet");
    }
    let mut table = Table::new(["WHEN", "VERB", "RELEASE", "FROM", "ENDING", "TOOK", "ENTRIES", "WHO", "REASON"]);
    for rollout in rollouts {
        let (ending, style) = ending(rollout);
        table.row([
            at(rollout.began).into(),
            rollout.verb.to_string().into(),
            rollout.release.to_string().into(),
            rollout.from.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string).into(),
            Cell::new(ending, style),
            duration(rollout).map_or_else(|| "-".to_owned(), took).into(),
            format!("{}-{}", rollout.first_seq, rollout.last_seq).into(),
            rollout.actor.clone().into(),
            rollout.reason.clone().into(),
        ]);
    }
    let mut text = format!("{}\n{}", paint.style(environment, Style::Bold), table.render("  ", paint));
    for rollout in rollouts {
        if let Some(failure) = &rollout.failure {
            text.push_str(&format!(
                "\n  {} {} at {}: {failure}",
                paint.style("!", Style::Bad),
                rollout.release,
                at(rollout.began)
            ));
        }
    }
    text
}

/// How it ended, in a word.
pub(crate) fn ending(rollout: &Rollout) -> (&'static str, Style) {
    match rollout.ending {
        Some(ending @ Ending::Succeeded) => (ending.as_str(), Style::Good),
        Some(ending @ Ending::Aborted) => (ending.as_str(), Style::Warning),
        Some(ending) => (ending.as_str(), Style::Bad),
        None => ("open", Style::Warning),
    }
}

/// How long it took, by the ledger's own times.
pub(crate) fn duration(rollout: &Rollout) -> Option<Duration> {
    let took = rollout.ended?.duration_since(rollout.began);
    (!took.is_negative()).then(|| took.unsigned_abs())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use domain::{Digest, Name, plan::Verb};
    use expect_test::expect;

    /// A deployment of wine@1.1.0 over wine@1.0.0.
    pub(crate) fn rollout(ending: Option<Ending>) -> Rollout {
        Rollout {
            op: "op".into(),
            verb: Verb::Deploy,
            component: Name::new("wine").unwrap(),
            release: "wine@1.1.0".parse().unwrap(),
            digest: Digest::of("wine@1.1.0"),
            from: Some("wine@1.0.0".parse().unwrap()),
            plan: Digest::of("plan"),
            actor: "ann@example.com".into(),
            reason: "a better model".into(),
            first_seq: 12,
            last_seq: 27,
            epoch: 3,
            began: "2026-11-21T12:00:00Z".parse().unwrap(),
            ended: ending.map(|_| "2026-11-21T12:00:02.5Z".parse().unwrap()),
            ending,
            failure: None,
            done: vec![1, 2, 3],
        }
    }

    #[test]
    fn history_is_one_line_a_rollout_and_the_failures_below() {
        let mut failed = rollout(Some(Ending::WentBack));
        failed.failure = Some("wine@1.1.0 is not healthy: /ready answers 503".into());
        failed.verb = Verb::Promote;
        let rollouts = [rollout(None), failed, rollout(Some(Ending::Succeeded))];
        expect![[r#"
            production
              WHEN                  VERB     RELEASE     FROM        ENDING     TOOK   ENTRIES  WHO              REASON
              2026-11-21 12:00:00Z  deploy   wine@1.1.0  wine@1.0.0  open       -      12-27    ann@example.com  a better model
              2026-11-21 12:00:00Z  promote  wine@1.1.0  wine@1.0.0  went-back  2.5 s  12-27    ann@example.com  a better model
              2026-11-21 12:00:00Z  deploy   wine@1.1.0  wine@1.0.0  succeeded  2.5 s  12-27    ann@example.com  a better model
              ! wine@1.1.0 at 2026-11-21 12:00:00Z: wine@1.1.0 is not healthy: /ready answers 503"#]].assert_eq(&history("production", &rollouts, &Paint::none()));
        assert_eq!(history("qa", &[], &Paint::none()), "qa: no rollout yet");
    }
}
