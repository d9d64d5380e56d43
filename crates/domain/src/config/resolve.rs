//! Stage 3: the configuration as one environment sees it.

use super::{Component, Config, DataSet, Environment, Model, Run, Target};
use crate::{Name, gate::Gate, names::Unknown};
use serde::Serialize;
use std::collections::BTreeMap;

impl Config {
    /// The component of that name.
    ///
    /// # Errors
    /// [`Unknown`] with near matches; the same holds for the other four.
    pub fn component(&self, name: &str) -> Result<&Component, Unknown> {
        find("component", &self.components, name)
    }

    /// The environment of that name.
    pub fn environment(&self, name: &str) -> Result<&Environment, Unknown> {
        find("environment", &self.environments, name)
    }

    /// The data set of that name.
    pub fn data_set(&self, name: &str) -> Result<&DataSet, Unknown> {
        find("data set", &self.data, name)
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Result<&Model, Unknown> {
        find("model", &self.models, name)
    }

    /// The gate of that name.
    pub fn gate(&self, name: &str) -> Result<&Gate, Unknown> {
        find("gate", &self.gates, name)
    }
}

fn find<'a, T>(kind: &'static str, among: &'a BTreeMap<Name, T>, name: &str) -> Result<&'a T, Unknown> {
    among.get(name).ok_or_else(|| Unknown::new(kind, name, among.keys()))
}

/// The configuration as one environment sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resolved {
    /// The project.
    pub project: Name,
    /// The environment as it is configured.
    pub environment: Environment,
    /// The environment's gates, in their order.
    pub gates: Vec<Gate>,
    /// Every component, its run section merged.
    pub components: BTreeMap<Name, ResolvedComponent>,
}

impl Resolved {
    /// The component of that name.
    ///
    /// # Errors
    /// [`Unknown`] with near matches.
    pub fn component(&self, name: &str) -> Result<&ResolvedComponent, Unknown> {
        find("component", &self.components, name)
    }
}

/// A component in an environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResolvedComponent {
    /// The component as it is configured, whatever the environment.
    pub component: Component,
    /// How it runs here; `None` when it does not run.
    pub run: Option<ResolvedRun>,
}

/// How a component runs in an environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResolvedRun {
    /// The run section with the environment's variables and secrets over it. No variable is in both.
    pub run: Run,
    /// The address where it is published.
    pub host: String,
    /// The port where it is published.
    pub host_port: u16,
}

/// The configuration as `environment` sees it. A variable of the environment takes the place of a secret of the same
/// name, and the other way round.
///
/// # Errors
/// [`Unknown`] with near matches when there is no such environment.
pub fn resolve(config: &Config, environment: &str) -> Result<Resolved, Unknown> {
    let environment = config.environment(environment)?;
    let host = match &environment.target {
        Target::Process { host, .. } | Target::Docker { host, .. } => host,
    };
    let resolved = |component: &Component| {
        let run = component.run.as_ref().zip(environment.components.get(&component.name)).map(|(run, settings)| {
            let mut run = run.clone();
            run.env.retain(|key, _| !settings.secrets.contains_key(key));
            run.secrets.retain(|key, _| !settings.env.contains_key(key));
            run.env.extend(settings.env.clone());
            run.secrets.extend(settings.secrets.clone());
            ResolvedRun { run, host: host.clone(), host_port: settings.port }
        });
        ResolvedComponent { component: component.clone(), run }
    };
    Ok(Resolved {
        project: config.project.clone(),
        environment: environment.clone(),
        gates: environment.gates.iter().map(|name| config.gate(name.as_str()).cloned()).collect::<Result<_, _>>()?,
        components: config.components.iter().map(|(name, component)| (name.clone(), resolved(component))).collect(),
    })
}
