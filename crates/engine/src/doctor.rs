//! Checks every part of a set-up and says how to mend each.
//!
//! Each check stands alone: a part that fails does not hide the others. Nothing is changed, except that the check of
//! conditional writes puts and removes objects under `probes/` in the store.

use crate::{
    error::{Error, Result},
    git,
    rollout::chain,
    workspace::{Host, Workspace},
};
use domain::{
    Events,
    config::{Builder, StoreConfig, Target},
};
use serde::Serialize;
use std::{path::Path, time::Duration};
use store::Store;

/// Less free space than this is worth a word.
const LOW_DISK: u64 = 2 << 30;
/// A clock that differs by more than this makes S3 signatures fail.
const MAX_SKEW: Duration = Duration::from_secs(300);

/// How a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It works.
    Good,
    /// It works, with something to know.
    Warning,
    /// It does not work.
    Bad,
}

/// What was found of one part.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Which part.
    pub part: &'static str,
    /// How it stands.
    pub state: State,
    /// In a sentence.
    pub text: String,
    /// How to mend it.
    pub mend: Option<String>,
    /// The class of the failure, for the exit code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<domain::Class>,
}

fn good(part: &'static str, text: impl Into<String>) -> Finding {
    Finding { part, state: State::Good, text: text.into(), mend: None, class: None }
}

fn warning(part: &'static str, text: impl Into<String>, mend: &str) -> Finding {
    Finding { part, state: State::Warning, text: text.into(), mend: Some(mend.to_owned()), class: None }
}

fn bad(part: &'static str, error: &Error, mend: &str) -> Finding {
    Finding { part, state: State::Bad, text: chain(error), mend: Some(mend.to_owned()), class: Some(error.class()) }
}

/// Checks everything that can be checked from `start`.
pub async fn run(start: &Path, host: &Host, events: &Events) -> Vec<Finding> {
    let mut findings = vec![git_part(start).await];
    let workspace = match Workspace::open(start, host.clone(), events.clone()) {
        Ok(workspace) => {
            findings.push(good("configuration", format!("{} is valid", workspace.root.join("Sealift.toml").display())));
            workspace
        }
        Err(error) => {
            let mend = match error {
                Error::NoWorkspace { .. } => "sealift init",
                _ => "mend the lines named above in Sealift.toml",
            };
            findings.push(bad("configuration", &error, mend));
            findings.push(disk_part(start));
            return findings;
        }
    };
    findings.extend(key_parts(&workspace));
    findings.extend(store_parts(&workspace).await);
    findings.extend(docker_parts(&workspace).await);
    findings.extend(registry_parts(&workspace).await);
    findings.push(disk_part(&workspace.root));
    findings
}

async fn git_part(start: &Path) -> Finding {
    match git::head(start).await {
        Ok(head) if head.changed.is_empty() => {
            let at = head.branch.unwrap_or_else(|| "a detached HEAD".to_owned());
            good("git", format!("{} on {at}, clean", &head.commit[..12]))
        }
        Ok(head) => warning(
            "git",
            format!("{} paths have changes that are not committed", head.changed.len()),
            "git add -A && git commit (before `sealift release cut`)",
        ),
        Err(error) => {
            let mend = match &error {
                Error::Git(git::GitError::NoGit) => "apt-get install git",
                Error::Git(git::GitError::NoRepository { .. }) => "git init && git add -A && git commit",
                _ => "git add -A && git commit",
            };
            bad("git", &error, mend)
        }
    }
}

fn key_parts(workspace: &Workspace) -> Vec<Finding> {
    let new = format!("sealift keys new {}", workspace.config.signing.key);
    let mut findings = Vec::new();
    match workspace.trusted_keys() {
        Ok(trusted) => {
            findings.push(good("trusted keys", format!("{} in {}", trusted.len(), workspace.config.signing.trusted)))
        }
        Err(error) => findings.push(bad("trusted keys", &error, &new)),
    }
    match workspace.signing_key() {
        Ok(key) => {
            findings.push(good(
                "signing key",
                format!("{} ({})", workspace.config.signing.key, key.public().fingerprint()),
            ));
        }
        Err(error @ Error::NotPermitted { .. }) => findings.push(bad("signing key", &error, "sealift keys list")),
        // Whoever only reads needs no key.
        Err(error) => findings.push(warning("signing key", chain(&error), &new)),
    }
    findings
}

async fn store_parts(workspace: &Workspace) -> Vec<Finding> {
    let mend = "mend [store] in Sealift.toml, or start the server (`sealift store serve --help`)";
    let store = match workspace.store().await {
        Ok(store) => store,
        Err(error) => return vec![bad("store", &error, mend)],
    };
    let mut findings = Vec::new();
    match reachable(&store).await {
        Ok(count) => findings.push(good("store", format!("{} answers; {count} releases", store.describe()))),
        Err(error) => {
            findings.push(bad("store", &error, mend));
            return findings;
        }
    }
    findings.push(match store.probe_conditional_writes().await {
        Ok(()) => good("conditional writes", "one winner in a race of writers"),
        Err(error) => {
            let error = Error::Failed { doing: "rely on conditional writes".to_owned(), cause: error.into() };
            bad(
                "conditional writes",
                &error,
                "use a store that enforces If-None-Match and If-Match (AWS, MinIO, SeaweedFS, `sealift store serve`)",
            )
        }
    });
    findings.push(clock_part(workspace).await);
    findings
}

async fn reachable(store: &Store) -> Result<usize> {
    Ok(crate::releases::list(store, None).await?.len())
}

/// The store's clock against ours: S3 signatures and evidence ages depend on it. Leases do not.
async fn clock_part(workspace: &Workspace) -> Finding {
    let StoreConfig::S3 { endpoint: Some(endpoint), .. } = &workspace.config.store else {
        return good("clock", format!("{} here; no other clock to compare with", workspace.now()));
    };
    match probe::server_time(endpoint).await {
        Ok(theirs) => {
            let skew = workspace.now().duration_since(theirs).unsigned_abs();
            if skew > MAX_SKEW {
                let text = format!("this host and the store differ by {} s", skew.as_secs());
                let mend = "set the clock (`timedatectl set-ntp true`)";
                Finding { state: State::Bad, class: Some(domain::Class::Unavailable), ..warning("clock", text, mend) }
            } else {
                good("clock", format!("within {} s of the store's", skew.as_secs().max(1)))
            }
        }
        Err(why) => warning("clock", format!("the store's time is not known: {why}"), "see the store above"),
    }
}

async fn docker_parts(workspace: &Workspace) -> Vec<Finding> {
    let mut engines: Vec<Option<String>> = Vec::new();
    let builds = workspace.config.components.values().filter_map(|component| match &component.build.builder {
        Builder::Docker(build) => Some(build.engine.clone()),
        _ => None,
    });
    let runs = workspace.config.environments.values().filter_map(|environment| match &environment.target {
        Target::Docker { engine, .. } => Some(engine.clone()),
        Target::Process { .. } => None,
    });
    for engine in builds.chain(runs) {
        if !engines.contains(&engine) {
            engines.push(engine);
        }
    }
    if engines.is_empty() {
        return vec![good("docker", "not needed by this configuration")];
    }
    let mut findings = Vec::new();
    for engine in engines {
        let name = engine.clone().unwrap_or_else(|| "the default engine".to_owned());
        findings.push(match image::docker_ping(engine.as_deref()).await {
            Ok(version) => good("docker", format!("{name} answers, version {version}")),
            Err(error) => {
                let error = Error::Failed { doing: format!("reach {name}"), cause: error.into() };
                bad(
                    "docker",
                    &error,
                    "start the engine (`systemctl start docker`), or use builder = \"oci\" and target = \"process\"",
                )
            }
        });
    }
    findings
}

async fn registry_parts(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for component in workspace.config.components.values() {
        for registry in &component.registries {
            let repository = &registry.repository;
            findings.push(match image::registry_ping(&crate::publish::destination(registry)).await {
                Ok(()) => good("registry", format!("{repository} answers")),
                Err(error) => {
                    let error =
                        Error::Failed { doing: format!("reach the registry of {repository}"), cause: error.into() };
                    bad("registry", &error, "docker login, or mend [component.NAME.image] in Sealift.toml")
                }
            });
        }
    }
    if findings.is_empty() {
        findings.push(good("registry", "none configured; images are kept in the store"));
    }
    findings
}

fn disk_part(path: &Path) -> Finding {
    match rustix::fs::statvfs(path) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let text = format!("{} MiB and {} inodes free for {}", free >> 20, stat.f_favail, path.display());
            if free < LOW_DISK || (stat.f_files > 0 && stat.f_favail < 10_000) {
                warning("disk", text, "remove .sealift/cache (it is only a cache), or make room")
            } else {
                good("disk", text)
            }
        }
        Err(error) => bad(
            "disk",
            &Error::File { action: "ask the file system of", path: path.to_owned(), source: error.into() },
            "see the path",
        ),
    }
}
