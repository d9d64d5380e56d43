//! A plan in words: what, why, how, how long, and the way back.

use super::{Fields, bound};
use domain::{
    plan::{Plan, Step, Verb},
    workload::Workload,
};

/// The whole plan.
pub(crate) fn plan(plan: &Plan) -> String {
    let mut fields = Fields::new(8);
    fields.list("because", &plan.reasons);
    if !plan.reason.is_empty() {
        fields.add("reason", &plan.reason);
    }
    if plan.steps.is_empty() {
        fields.add("steps", "none: there is nothing to do");
        return format!("{}\n{}", headline(plan), fields.finish());
    }
    fields.add("runs", runs(&plan.to.workload));
    let numbered = |steps: &[Step]| -> Vec<String> {
        steps.iter().enumerate().map(|(index, step)| format!("{:>2}  {}", index + 1, plan.title(step))).collect()
    };
    fields.list("steps", numbered(&plan.steps));
    fields.list("on fault", numbered(&plan.back));
    fields.add("at most", bounds(plan));
    let base =
        plan.base.as_ref().map_or_else(|| "an empty ledger".to_owned(), |base| format!("ledger entry {}", base.seq));
    fields.add("made on", format!("{base}, as {}", plan.op));
    format!("{}\n{}", headline(plan), fields.finish())
}

fn headline(plan: &Plan) -> String {
    let release = &plan.to.release;
    let what = match plan.verb {
        Verb::Deploy => format!("deploy {release} to {}", plan.environment),
        Verb::Promote => format!("promote {release} to {}", plan.environment),
        Verb::Rollback => format!("roll {} back to {release}", plan.environment),
    };
    match &plan.from {
        Some(old) => format!("Plan: {what}, in place of {}", old.release),
        None => format!("Plan: {what}"),
    }
}

fn runs(workload: &Workload) -> String {
    let image =
        workload.image.as_ref().map_or_else(|| "no image".to_owned(), |image| format!("image {}", image.short()));
    let mounts: Vec<String> =
        workload.mounts.iter().map(|mount| format!(", {} {}", mount.what, mount.digest.short())).collect();
    format!("{image}{} at {} in {}", mounts.concat(), workload.url(), workload.place.slot)
}

fn bounds(plan: &Plan) -> String {
    let bounds = &plan.bound;
    let gap = if bounds.interruption.is_zero() {
        String::new()
    } else {
        format!(", of them {} without service", bound(bounds.interruption))
    };
    let back = if bounds.back.is_zero() { String::new() } else { format!("; the way back {}", bound(bounds.back)) };
    format!("{} forward{gap}{back} (transfers not counted)", bound(bounds.forward))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use domain::{
        Digest, Name,
        plan::{Facts, Side, rollout},
        state::Running,
        workload::{HealthCheck, Mount, Observed, Place, Slot, SlotState},
    };
    use expect_test::expect;
    use std::{collections::BTreeMap, time::Duration};

    /// A plan from wine@1.0.0, which serves in blue, to wine@1.1.0.
    pub(crate) fn example() -> Plan {
        let digest = Digest::of("wine@1.0.0");
        let since = "2026-11-21T10:00:00Z".parse().unwrap();
        let running =
            Running { release: "wine@1.0.0".parse().unwrap(), digest, slot: Slot::Blue, settings: None, since };
        let busy = SlotState::Running { release_digest: digest, epoch: 1, id: "pid 7".into() };
        rollout(Facts {
            op: "0b0e6c1e-0000-4000-8000-000000000001".into(),
            verb: Verb::Deploy,
            project: name("demo"),
            environment: name("staging"),
            strategy: domain::config::Strategy::Recreate,
            to: side("wine@1.1.0"),
            serving: Some((running, side("wine@1.0.0"))),
            observed: Observed { blue: busy, green: SlotState::Empty },
            base: None,
            open: None,
            after: None,
            reason: "a better model".into(),
        })
        .unwrap()
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn side(release: &str) -> Side {
        let digest = Digest::of(release);
        let mount = Mount { what: "model quality".into(), digest, path: "/models/quality.json".into() };
        let place =
            Place { project: name("demo"), environment: name("staging"), component: name("wine"), slot: Slot::Blue };
        let health = HealthCheck { path: "/ready".into(), start_timeout: Duration::from_secs(30) };
        let workload = Workload {
            place,
            release: release.parse().unwrap(),
            release_digest: digest,
            image: Some(digest),
            image_config: None,
            command: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            mounts: vec![mount],
            container_port: 8080,
            host_port: 8081,
            host: "127.0.0.1".into(),
            health: Some(health),
            stop_timeout: Duration::from_secs(10),
            memory: 1 << 28,
            pids: 64,
            relax: vec![],
        };
        Side { release: release.parse().unwrap(), digest, workload, smoke: vec![] }
    }

    #[test]
    fn a_plan_reads_as_what_why_how_and_how_long() {
        expect![[r#"
            Plan: deploy wine@1.1.0 to staging, in place of wine@1.0.0
              because   wine@1.0.0 serves staging now
              reason    a better model
              runs      image cd2b6ecd695e, model quality cd2b6ecd695e at http://127.0.0.1:8081 in green
              steps      1  check that wine@1.1.0 and wine@1.0.0 can be restored
                         2  prepare wine@1.1.0 in green
                         3  stop wine@1.0.0 in blue
                         4  start wine@1.1.0 in green
                         5  wait until wine@1.1.0 is healthy
                         6  record that staging serves wine@1.1.0
                         7  clear wine@1.0.0 out of blue
              on fault   1  stop wine@1.1.0 in green
                         2  prepare wine@1.0.0 in blue
                         3  start wine@1.0.0 in blue
                         4  wait until wine@1.0.0 is healthy
                         5  record that staging serves wine@1.0.0
                         6  clear wine@1.1.0 out of green
              at most   40s forward, of them 40s without service; the way back 40s (transfers not counted)
              made on   an empty ledger, as 0b0e6c1e-0000-4000-8000-000000000001"#]]
        .assert_eq(&plan(&example()));
    }

    #[test]
    fn a_plan_without_steps_says_so() {
        let mut nothing = example();
        nothing.steps.clear();
        nothing.reasons = vec!["wine@1.1.0 already serves staging".into()];
        nothing.from = None;
        expect![[r#"
            Plan: deploy wine@1.1.0 to staging
              because   wine@1.1.0 already serves staging
              reason    a better model
              steps     none: there is nothing to do"#]]
        .assert_eq(&plan(&nothing));
    }
}
