//! Facts for a plan: what is asked, what serves, what is observed, what the gates say.

use super::{HttpProbes, World};
use crate::{
    error::{Doing, Error, Result},
    gates,
    releases::{self, Sealed},
    status,
    workspace::{Workspace, resolve},
};
use cluster::Target;
use domain::{
    Name, ReleaseName,
    config::{self, Environment},
    manifest::Anchor,
    plan::{Facts, Plan, Side, Verb, rollout},
    secret::SecretRef,
    state::{Ending, way_back},
    workload::Slot,
};
use ledger::keys::TrustedKeys;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// What a person asks for.
#[derive(Debug, Clone)]
pub struct RolloutRequest {
    /// Deploy, promote or roll back.
    pub verb: Verb,
    /// Where to.
    pub environment: Name,
    /// Which release; for a rollback `None` is the one before the running one.
    pub release: Option<ReleaseName>,
    /// Which component, when no release says it.
    pub component: Name,
    /// Why, in the person's words.
    pub reason: String,
}

/// Makes what an environment of a workspace is worked on through. Reading needs no signing key; without one,
/// [`World::signing_key`] says what to do when it is needed.
pub async fn world(workspace: &Workspace, environment: &Name, stop: CancellationToken) -> Result<World> {
    let settings = find(workspace, environment)?;
    let store = workspace.store().await?;
    let memory = workspace.ledger_memory(&store);
    let trusted = workspace.trusted_keys().or_else(|error| match error {
        // A repository without keys has no releases either: nothing can be believed, and nothing need be.
        Error::NotFound { .. } => Ok(TrustedKeys::new()),
        other => Err(other),
    })?;
    let target: Arc<dyn Target> = match &settings.target {
        config::Target::Process { root, host } => {
            Arc::new(cluster::Process::new(resolve(&workspace.root, root), host.clone()))
        }
        config::Target::Docker { engine, host } => {
            let state = cluster::docker::state_folder(workspace.state().join("docker"));
            Arc::new(cluster::Docker::new(engine.clone(), host.clone(), state))
        }
    };
    Ok(World {
        store,
        target,
        probes: Arc::new(HttpProbes),
        key: workspace.signing_key().map_err(Arc::new),
        trusted,
        actor: workspace.actor().await,
        clock: workspace.clock.clone(),
        events: workspace.events.clone(),
        cache: workspace.cache(),
        memory: Some(memory),
        lease_ttl: settings.lease_ttl,
        patience: Duration::ZERO,
        stop,
    })
}

fn find<'a>(workspace: &'a Workspace, environment: &Name) -> Result<&'a Environment> {
    Ok(workspace.config.environment(environment.as_str())?)
}

/// Plans a rollout. Nothing is changed.
pub async fn plan(workspace: &Workspace, world: &World, request: RolloutRequest) -> Result<Plan> {
    let settings = find(workspace, &request.environment)?;
    let log = world.log(&request.environment);
    let records = log.records().await?;
    let history = status::rollouts(&records)?;
    let current = releases::current(&world.store, &request.environment).await?;
    let running = current.components.get(&request.component);
    let serving = match running {
        Some(running) => {
            let sealed = releases::serving(&world.store, &world.trusted, &request.environment, running).await?;
            Some((running.clone(), compose(workspace, &sealed, settings, running.slot)?))
        }
        None => None,
    };
    let sealed = match (&request.release, request.verb) {
        (Some(release), _) => releases::read(&world.store, &world.trusted, release).await?,
        (None, Verb::Rollback) => {
            let back = way_back(&history, &request.component, running.map(|running| &running.digest));
            let back = back.ok_or_else(|| Error::NotFound {
                message: format!(
                    "there is no earlier release of {} in {} to go back to",
                    request.component, request.environment
                ),
                next: Some(format!("sealift history {}", request.environment)),
            })?;
            releases::read(&world.store, &world.trusted, &back.release).await?
        }
        (None, _) => {
            let newest = releases::list(&world.store, Some(&request.component)).await?.pop();
            let newest = newest.ok_or_else(|| Error::NotFound {
                message: format!("there is no release of {} yet", request.component),
                next: Some("sealift release cut".to_owned()),
            })?;
            releases::read(&world.store, &world.trusted, &newest).await?
        }
    };
    let mut reasons = Vec::new();
    if request.verb == Verb::Promote
        && let Some(after) = &settings.after
    {
        let from = find(workspace, after)?;
        reasons = gates::permit(world, from, &sealed).await?;
    }
    if request.verb == Verb::Rollback
        && !history.iter().any(|r| r.digest == sealed.digest && r.ending == Some(Ending::Succeeded))
    {
        return Err(Error::NotPermitted {
            message: format!(
                "{} has never served {}; a rollback goes to a release that has",
                sealed.manifest.release, request.environment
            ),
            next: Some(format!("sealift history {}", request.environment)),
        });
    }
    let observed = world
        .target
        .observe(&workspace.config.project, &request.environment, &request.component)
        .await
        .doing(format!("observe {}", request.environment))?;
    let facts = Facts {
        op: uuid::Uuid::new_v4().to_string(),
        verb: request.verb,
        project: workspace.config.project.clone(),
        environment: request.environment.clone(),
        strategy: settings.strategy,
        to: compose(workspace, &sealed, settings, Slot::Blue)?,
        serving,
        observed,
        base: records.last().map(|record| Anchor { seq: record.entry.seq, digest: record.digest }),
        open: history.iter().rev().find(|rollout| rollout.ending.is_none()).map(|rollout| rollout.op.clone()),
        after: settings.after.clone(),
        reason: request.reason,
    };
    let mut plan = rollout(facts)?;
    plan.reasons.extend(reasons);
    Ok(plan)
}

fn compose(workspace: &Workspace, sealed: &Sealed, settings: &Environment, slot: Slot) -> Result<Side> {
    let mut side = domain::compose::side(&sealed.manifest, sealed.digest, settings, slot, &crate::platform())
        .map_err(|error| Error::bad_input(error.to_string()))?;
    // A target does not know the repository: what is relative to it is made absolute here.
    for reference in side.workload.secrets.values_mut() {
        match reference {
            SecretRef::File(path) => *path = workspace.root.join(&*path).display().to_string(),
            SecretRef::Command(command) => {
                let root = workspace.root.display().to_string().replace('\'', "'\\''");
                *command = format!("cd '{root}' && {command}");
            }
            SecretRef::Env(_) => {}
        }
    }
    Ok(side)
}
