//! From a sealed release and an environment to what a target is asked to run.

use crate::{
    Digest, Name,
    config::{Environment, Target},
    manifest::Manifest,
    names::Unknown,
    plan::Side,
    workload::{Mount, Place, Slot, Workload},
};

/// Why a release cannot run in an environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// The release has no `run` section: there is nothing to start.
    #[error("{release} has nothing to run: it was sealed without a run section")]
    NothingToRun {
        /// The release.
        release: String,
    },
    /// The environment says nothing about the component.
    #[error("{environment} has no section for the component {component} (which host port?)")]
    NoPort {
        /// The environment.
        environment: Name,
        /// The component.
        component: Name,
    },
    /// A model or configuration file is named that the release does not have.
    #[error("{release} runs with {unknown}")]
    Unknown {
        /// The release.
        release: String,
        /// What is missing, with near matches.
        unknown: Unknown,
    },
    /// There is no image for the platform.
    #[error("{release} has no image for {platform}; it has {has}")]
    NoPlatform {
        /// The release.
        release: String,
        /// What is needed.
        platform: String,
        /// What there is.
        has: String,
    },
}

/// Composes the workload of a release (its `digest` is the bundle's) for a slot of an environment.
pub fn side(
    manifest: &Manifest,
    digest: Digest,
    environment: &Environment,
    slot: Slot,
    platform: &str,
) -> Result<Side, ComposeError> {
    let release = manifest.release.to_string();
    let component = &manifest.release.component;
    let run = manifest.run.as_ref().ok_or_else(|| ComposeError::NothingToRun { release: release.clone() })?;
    let settings = environment
        .components
        .get(component)
        .ok_or_else(|| ComposeError::NoPort { environment: environment.name.clone(), component: component.clone() })?;
    let host = match &environment.target {
        Target::Process { host, .. } | Target::Docker { host, .. } => host.clone(),
    };
    let image = manifest.image(platform);
    if image.is_none() && !manifest.images.is_empty() {
        let has: Vec<&str> = manifest.images.keys().map(String::as_str).collect();
        return Err(ComposeError::NoPlatform { release, platform: platform.to_owned(), has: has.join(", ") });
    }
    let mounts = mounts(manifest, run)?;
    // What the environment sets replaces the component's, also where one has a plain value and the other a secret.
    let mut secrets = run.secrets.clone();
    secrets.retain(|name, _| !settings.env.contains_key(name));
    secrets.extend(settings.secrets.clone());
    let mut env = run.env.clone();
    env.retain(|name, _| !settings.secrets.contains_key(name));
    env.extend(settings.env.clone());
    for value in env.values_mut() {
        *value = substitute(value, manifest, &environment.name);
    }
    let workload = Workload {
        place: Place {
            project: manifest.project.clone(),
            environment: environment.name.clone(),
            component: component.clone(),
            slot,
        },
        release: manifest.release.clone(),
        release_digest: digest,
        image: image.map(|image| image.manifest),
        image_config: image.map(|image| image.config),
        command: run
            .command
            .as_ref()
            .map(|words| words.iter().map(|word| substitute(word, manifest, &environment.name)).collect()),
        env,
        secrets,
        mounts,
        container_port: run.port,
        host_port: settings.port,
        host,
        health: run.health.clone(),
        stop_timeout: run.stop_timeout,
        memory: run.memory,
        pids: run.pids,
        relax: run.relax.clone(),
    };
    Ok(Side { release: manifest.release.clone(), digest, workload, smoke: manifest.smoke.clone() })
}

fn mounts(manifest: &Manifest, run: &crate::manifest::Run) -> Result<Vec<Mount>, ComposeError> {
    let unknown = |unknown: Unknown| ComposeError::Unknown { release: manifest.release.to_string(), unknown };
    let mut mounts = Vec::new();
    for (name, path) in &run.models {
        let model = manifest
            .models
            .get(name)
            .ok_or_else(|| unknown(Unknown::new("model", name.as_str(), manifest.models.keys())))?;
        mounts.push(Mount {
            what: format!("model {name}@{}", model.version),
            digest: model.digest,
            path: path.clone(),
        });
    }
    for (file, path) in &run.configs {
        let found = manifest
            .configuration
            .get(file)
            .ok_or_else(|| unknown(Unknown::new("configuration file", file, manifest.configuration.keys())))?;
        mounts.push(Mount { what: format!("configuration {file}"), digest: found.digest, path: path.clone() });
    }
    Ok(mounts)
}

/// Replaces `{version}`, `{release}`, `{environment}`, `{model:NAME}` and `{config:FILE}`; `{port}` and `{mount:PATH}` are the
/// target's to replace, and anything else in braces stays as it is.
fn substitute(value: &str, manifest: &Manifest, environment: &Name) -> String {
    let mut result = value
        .replace("{version}", &manifest.release.version.to_string())
        .replace("{release}", &manifest.release.to_string())
        .replace("{environment}", environment.as_str());
    if let Some(run) = &manifest.run {
        for (name, path) in &run.models {
            result = result.replace(&format!("{{model:{name}}}"), &format!("{{mount:{path}}}"));
        }
        for (file, path) in &run.configs {
            result = result.replace(&format!("{{config:{file}}}"), &format!("{{mount:{path}}}"));
        }
    }
    result
}
