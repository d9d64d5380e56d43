//! One file a verb: its arguments with their help, and what it asks of the engine.

pub(crate) mod abort;
pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod build;
pub(crate) mod data;
pub(crate) mod deploy;
pub(crate) mod doctor;
mod dvc;
pub(crate) mod explain;
pub(crate) mod gate;
pub(crate) mod history;
pub(crate) mod init;
pub(crate) mod keys;
pub(crate) mod model;
pub(crate) mod plan;
pub(crate) mod promote;
pub(crate) mod publish;
pub(crate) mod release;
pub(crate) mod restore;
pub(crate) mod resume;
pub(crate) mod rollback;
mod rollout;
pub(crate) mod smoke;
mod source;
pub(crate) mod status;
pub(crate) mod store;

use domain::{
    Name,
    config::{Config, Environment},
};
use engine::{Error, Result, Workspace, journal::Log};

/// The environments that are meant: one, or all of the configuration in the order in which releases pass through them.
fn environments(config: &Config, wanted: Option<&str>) -> Result<Vec<Name>> {
    if let Some(name) = wanted {
        return Ok(vec![config.environment(name)?.name.clone()]);
    }
    let mut all: Vec<(usize, Name)> =
        config.environments.keys().map(|name| (depth(config, name), name.clone())).collect();
    all.sort();
    Ok(all.into_iter().map(|(_, name)| name).collect())
}

/// How many environments a release passes before this one.
fn depth(config: &Config, name: &Name) -> usize {
    let before = |name: &Name| config.environments.get(name).and_then(|environment| environment.after.clone());
    // A circle is refused by the configuration; the bound is for the reader who does not know that.
    std::iter::successors(before(name), before).take(config.environments.len()).count()
}

/// The component that is meant: the one named, or the only one that the environment runs.
fn component(config: &Config, environment: &Environment, wanted: Option<&str>) -> Result<Name> {
    if let Some(name) = wanted {
        return Ok(config.component(name)?.name.clone());
    }
    let mut names = environment.components.keys();
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(only.clone()),
        (None, _) => Err(Error::bad_input(format!(
            "{0} runs no component: Sealift.toml has no [environment.{0}.component.NAME]",
            environment.name
        ))),
        _ => {
            let all: Vec<&str> = environment.components.keys().map(Name::as_str).collect();
            Err(Error::Usage { message: format!("say which with --component: {}", all.join(", ")) })
        }
    }
}

/// The ledgers of a workspace, for reading.
async fn logs(workspace: &Workspace) -> Result<impl Fn(&Name) -> Log> {
    let (store, trusted) = (workspace.store().await?, trusted(workspace)?);
    let memory = workspace.ledger_memory(&store);
    Ok(move |name: &Name| Log::new(store.clone(), name.clone(), trusted.clone(), Some(&memory)))
}

/// The trusted keys; none where none was made yet, and then nothing is believed.
fn trusted(workspace: &Workspace) -> Result<engine::TrustedKeys> {
    workspace.trusted_keys().or_else(|error| match error {
        Error::NotFound { .. } => Ok(engine::TrustedKeys::new()),
        other => Err(other),
    })
}
