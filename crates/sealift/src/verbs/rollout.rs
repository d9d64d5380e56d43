//! What deploy, promote and rollback have in common: from what was typed to a plan, and from its end to words.

use crate::{exit::Exit, report::Report, shell::Shell, text};
use domain::{
    Name,
    plan::{Plan, Refusal, Verb},
    state::Ending,
};
use engine::{
    Error, Result, Workspace,
    causes::StoreError,
    releases,
    rollout::{self, Finished, RolloutRequest, World},
};
use std::time::Duration;

/// What was typed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intent<'a> {
    pub(super) verb: Verb,
    pub(super) environment: &'a str,
    pub(super) release: Option<&'a str>,
    pub(super) component: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
}

/// Plans it and, unless only the plan is wanted, carries it out.
pub(super) async fn run(shell: &Shell, intent: Intent<'_>, only_plan: bool) -> Result<Report> {
    let workspace = shell.workspace()?;
    let (world, plan) = prepare(shell, &workspace, intent).await?;
    if only_plan {
        return Ok(Report::new(&plan, text::plan::plan(&plan)));
    }
    // A host that only deploys must find out as well whether the store keeps its word.
    workspace.store_for_writing().await?;
    let finished = rollout::execute(&world, &plan).await?;
    Ok(report(&workspace, &finished))
}

/// Makes the plan. Nothing is changed.
pub(super) async fn prepare(shell: &Shell, workspace: &Workspace, intent: Intent<'_>) -> Result<(World, Plan)> {
    let config = &workspace.config;
    let settings = config.environment(intent.environment)?;
    let world = shell.world(workspace, &settings.name).await?;
    let named = intent.component.map(|name| config.component(name)).transpose()?;
    let release = match intent.release {
        Some(text) => {
            let components: Vec<Name> = match named {
                Some(component) => vec![component.name.clone()],
                None => config.components.keys().cloned().collect(),
            };
            Some(releases::resolve(&world.store, text, &components).await?)
        }
        None => None,
    };
    let component = match (&release, named) {
        (Some(release), Some(component)) if release.component != component.name => {
            let message = format!("{release} is no release of the component {}", component.name);
            return Err(Error::Usage { message });
        }
        (Some(release), _) => release.component.clone(),
        (None, _) => super::component(config, settings, intent.component)?,
    };
    let request = RolloutRequest {
        verb: intent.verb,
        environment: settings.name.clone(),
        release,
        component,
        reason: intent.reason.unwrap_or_default().to_owned(),
    };
    match rollout::plan(workspace, &world, request).await {
        Ok(plan) => Ok((world, plan)),
        Err(Error::Refused(refusal @ Refusal::Open { .. })) => Err(busy(&world, &settings.name, refusal).await),
        Err(error) => Err(error),
    }
}

/// A rollout is open: it is someone's who holds the lease, and is named, or nobody's, and can be resumed.
async fn busy(world: &World, environment: &Name, refusal: Refusal) -> Error {
    match world.store.lease_holder(environment.as_str()).await {
        Ok(Some(lease)) => {
            let holder = lease.holder.map(|holder| holder.name).unwrap_or_default();
            let held =
                StoreError::Held { environment: environment.to_string(), holder, epoch: lease.epoch, op: lease.op };
            Error::Failed { doing: format!("begin a rollout of {environment}"), cause: held.into() }
        }
        _ => refusal.into(),
    }
}

/// How a rollout came out. One that went back, also when it was resumed, is a failure of the release.
pub(super) fn report(workspace: &Workspace, finished: &Finished) -> Report {
    let exit = match finished {
        Finished::Ended { ending: Ending::WentBack | Ending::Emptied, .. } => Exit::Crit,
        _ => Exit::Ok,
    };
    Report::new(finished, words(workspace, finished)).ending(exit)
}

/// In sentences.
pub(super) fn words(workspace: &Workspace, finished: &Finished) -> String {
    let (release, environment, ending, millis, seq, epoch) = match finished {
        Finished::Nothing { why } => return format!("Nothing to do: {why}"),
        Finished::Ended { release, environment, ending, millis, seq, epoch, .. } => {
            (release, environment, ending, millis, seq, epoch)
        }
    };
    let settings = workspace.config.environments.get(environment);
    let took = text::took(Duration::from_millis(*millis));
    let tail = format!("({took}, ledger entry {seq}, epoch {epoch})");
    match ending {
        Ending::Succeeded => {
            let port = settings.and_then(|settings| settings.components.get(&release.component)).map(|set| set.port);
            let host = settings.map(|settings| match &settings.target {
                domain::config::Target::Process { host, .. } | domain::config::Target::Docker { host, .. } => {
                    host.as_str()
                }
            });
            let url = host.zip(port).map_or_else(String::new, |(host, port)| format!(" at http://{host}:{port}"));
            let gates = settings.is_some_and(|settings| !settings.gates.is_empty());
            let next = if gates { format!("\n  next: sealift gate {environment}") } else { String::new() };
            format!("{release} serves {environment}{url} {tail}{next}")
        }
        Ending::WentBack => {
            format!(
                "{release} failed in {environment} and was taken back; the release before serves again {tail}\n  next: sealift history {environment}"
            )
        }
        Ending::Aborted => {
            format!("the rollout of {release} to {environment} was given up; what served before serves {tail}")
        }
        Ending::Emptied => {
            format!(
                "{release} failed in {environment} and was cleared away; nothing serves {tail}\n  next: sealift history {environment}"
            )
        }
    }
}
