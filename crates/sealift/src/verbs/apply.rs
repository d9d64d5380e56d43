//! `sealift apply`.
//!
//! A plan file is not believed: the plan is made again from the world as it is, and only if it is the same is it carried
//! out. So an edited plan and a stale one are both refused.

use super::rollout;
use crate::{report::Report, shell::Shell};
use domain::plan::Plan;
use engine::{Error, Result, rollout::RolloutRequest};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Carry out a plan that was kept
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sealift plan deploy staging wine@1.0.0 -o plan.json\n  sealift apply plan.json\n\nExit codes: 75 when the environment has changed since the plan was made"
)]
pub(crate) struct Arguments {
    /// The file that `sealift plan -o` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let plan = read(shell, &arguments.file)?;
    if plan.project != workspace.config.project {
        return Err(Error::bad_input(format!(
            "the plan in {} is for the project {}, and this is {}",
            arguments.file.display(),
            plan.project,
            workspace.config.project
        )));
    }
    let world = shell.world(&workspace, &plan.environment).await?;
    let request = RolloutRequest {
        verb: plan.verb,
        environment: plan.environment.clone(),
        release: Some(plan.to.release.clone()),
        component: plan.component.clone(),
        reason: plan.reason.clone(),
    };
    let mut now = engine::rollout::plan(&workspace, &world, request).await?;
    now.op = plan.op.clone();
    if let Some(what) = difference(&plan, &now) {
        return Err(Error::Stale { environment: plan.environment.to_string(), what });
    }
    let finished = engine::rollout::execute(&world, &plan).await?;
    Ok(rollout::report(&workspace, &finished))
}

fn read(shell: &Shell, file: &Path) -> Result<Plan> {
    let path = shell.path(file);
    let bytes = fs::read(&path).map_err(Error::file("read the plan in", &path))?;
    let bad = |why: String| Error::BadInput {
        message: format!("{} is not a plan: {why}", file.display()),
        next: Some(format!("sealift plan deploy ENV RELEASE -o {}", file.display())),
    };
    let plan: Plan = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if plan.v != 1 {
        return Err(bad(format!("its format is {}, and this program reads 1", plan.v)));
    }
    Ok(plan)
}

/// In what a kept plan differs from the one that would be made now, in words.
fn difference(kept: &Plan, now: &Plan) -> Option<String> {
    let seq = |plan: &Plan| plan.base.as_ref().map_or(0, |base| base.seq);
    if kept.base != now.base {
        return Some(format!("it was made on entry {} of the ledger, and the newest is {}", seq(kept), seq(now)));
    }
    // Both as text that was read back, so that they are compared in the same form.
    let form = |plan: &Plan| serde_json::from_slice::<Value>(&plan.to_bytes()).unwrap_or_default();
    let (kept, now) = (form(kept), form(now));
    let fields = now.as_object()?.keys().filter(|key| kept.get(key.as_str()) != now.get(key.as_str()));
    let fields: Vec<&str> = fields.map(String::as_str).collect();
    (!fields.is_empty()).then(|| format!("made now it would differ in {}", fields.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::plan::tests::example;
    use domain::manifest::Anchor;

    #[test]
    fn a_plan_that_was_kept_is_the_same_plan() {
        let plan = example();
        let kept: Plan = serde_json::from_slice(&serde_json::to_vec_pretty(&plan).unwrap()).unwrap();
        assert_eq!(difference(&kept, &plan), None);
    }

    #[test]
    fn an_edited_or_old_plan_is_told_from_a_fresh_one() {
        let plan = example();
        let mut edited = plan.clone();
        edited.to.workload.command = Some(vec!["/bin/sh".into()]);
        assert_eq!(difference(&edited, &plan).unwrap(), "made now it would differ in to");
        let mut moved = plan.clone();
        moved.base = Some(Anchor { seq: 7, digest: domain::Digest::of("x") });
        assert_eq!(difference(&plan, &moved).unwrap(), "it was made on entry 0 of the ledger, and the newest is 7");
    }
}
