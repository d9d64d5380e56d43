//! What a container is created with, and what is found when it is inspected.

use super::Docker;
use crate::{Error, Policy, Result, values};
use bollard::models::{ContainerCreateBody, HostConfig, Mount, PortBinding, RestartPolicy, RestartPolicyNameEnum};
use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use domain::workload::{Place, Relaxation, Workload};
use futures::StreamExt;
use std::{collections::HashMap, io::Read};

pub(super) const PROJECT: &str = "sealift.project";
pub(super) const ENVIRONMENT: &str = "sealift.environment";
pub(super) const COMPONENT: &str = "sealift.component";
pub(super) const SLOT: &str = "sealift.slot";
pub(super) const RELEASE: &str = "sealift.release";
pub(super) const DIGEST: &str = "sealift.release_digest";
pub(super) const EPOCH: &str = "sealift.epoch";

/// The user when the image names none or root.
const ORDINARY_USER: &str = "1000:1000";
/// Where a program may write, in memory.
const TMP: (&str, &str) = ("/tmp", "rw,nosuid,nodev,mode=1777");

/// `NAME=value` of everything configured. Secrets are read here, off the runtime's threads.
pub(super) async fn environment(workload: &Workload) -> Result<Vec<String>> {
    let workload = workload.clone();
    let place = workload.place.to_string();
    let work = move || {
        let inside = |path: &str| workload.mounts.iter().any(|mount| mount.path == path).then(|| path.to_owned());
        let plain = values::environment(&workload, workload.container_port, &inside)?;
        let secrets = values::secrets(&workload)?;
        let plain = plain.into_iter().filter(|(name, _)| !secrets.contains_key(name));
        let mut out: Vec<String> = plain.map(|(name, value)| format!("{name}={value}")).collect();
        out.extend(secrets.iter().map(|(name, secret)| format!("{name}={}", secret.reveal())));
        Ok(out)
    };
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::Stuck { place, why: format!("its worker ended early: {error}") }))
}

/// The request that creates the container of a workload.
pub(super) fn body(
    workload: &Workload,
    epoch: u64,
    image: &str,
    user: Option<String>,
    environment: Vec<String>,
    mounts: Vec<Mount>,
    init: bool,
) -> ContainerCreateBody {
    let place = &workload.place;
    let port = format!("{}/tcp", workload.container_port);
    let labels = [
        (PROJECT, place.project.to_string()),
        (ENVIRONMENT, place.environment.to_string()),
        (COMPONENT, place.component.to_string()),
        (SLOT, place.slot.to_string()),
        (RELEASE, workload.release.to_string()),
        (DIGEST, workload.release_digest.to_string()),
        (EPOCH, epoch.to_string()),
    ];
    let command = workload.command.as_ref().map(|words| {
        let inside = |path: &str| Some(path.to_owned());
        let fill =
            |word: &String| values::fill(word, workload.container_port, &inside).unwrap_or_else(|_| word.clone());
        words.iter().map(fill).collect()
    });
    ContainerCreateBody {
        image: Some(image.to_owned()),
        user,
        env: Some(environment),
        entrypoint: command,
        exposed_ports: Some(vec![port.clone()]),
        labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        host_config: Some(HostConfig { init: Some(init), ..host_config(workload, &port, mounts) }),
        ..Default::default()
    }
}

fn host_config(workload: &Workload, port: &str, mounts: Vec<Mount>) -> HostConfig {
    let relaxed = |relaxation| workload.relax.contains(&relaxation);
    let limit = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let binding = PortBinding { host_ip: Some(workload.host.clone()), host_port: Some(workload.host_port.to_string()) };
    HostConfig {
        readonly_rootfs: Some(!relaxed(Relaxation::WritableRoot)),
        tmpfs: Some(HashMap::from([(TMP.0.to_owned(), TMP.1.to_owned())])),
        security_opt: (!relaxed(Relaxation::NewPrivileges)).then(|| vec!["no-new-privileges".to_owned()]),
        cap_drop: (!relaxed(Relaxation::DefaultCapabilities)).then(|| vec!["ALL".to_owned()]),
        privileged: Some(false),
        memory: Some(limit(workload.memory)),
        memory_swap: Some(limit(workload.memory)), // the same: no swap on top
        pids_limit: Some(limit(workload.pids)),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
            maximum_retry_count: None,
        }),
        port_bindings: Some(HashMap::from([(port.to_owned(), Some(vec![binding]))])),
        mounts: Some(mounts),
        ..Default::default()
    }
}

/// Whether a `USER` of an image is root by number or name. Other names are looked up once the container is there.
fn is_root(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or_default();
    name.is_empty() || name == "root" || name.parse::<u64>().is_ok_and(|uid| uid == 0)
}

impl Docker {
    /// Whether the engine has an init program to put before the workload. As the first process of a container a program
    /// that has no handler for SIGTERM ignores it, and its stop takes until SIGKILL; behind an init it ends at once.
    pub(super) async fn has_init(&self) -> Result<bool> {
        let info = self.client().await?.info().await.map_err(self.failed("describe", "itself"))?;
        // An engine that tried and did not find it says N/A; a version without a commit is an empty one.
        let commit = info.init_commit.and_then(|commit| commit.id);
        Ok(info.init_binary.is_some_and(|name| !name.is_empty()) && commit.is_some_and(|id| id != "N/A"))
    }

    /// Which user to ask for: the image's own if it is not root, else uid 1000, else, where relaxed, what the image says.
    pub(super) async fn image_user(&self, workload: &Workload, image: &str) -> Result<Option<String>> {
        if workload.relax.contains(&Relaxation::RunAsRoot) {
            return Ok(None);
        }
        let inspected = self.client().await?.inspect_image(image).await.map_err(self.failed("inspect image", image))?;
        let user = inspected.config.and_then(|config| config.user).unwrap_or_default();
        Ok(Some(if is_root(&user) { ORDINARY_USER.to_owned() } else { user }))
    }

    /// The policy of a container, as the engine has it.
    pub(super) async fn policy(&self, id: &str, place: &Place) -> Result<Policy> {
        let client = self.client().await?;
        let container = client.inspect_container(id, None).await.map_err(self.failed("inspect", place))?;
        let info = client.info().await.map_err(self.failed("describe", "itself"))?;
        let host = container.host_config.unwrap_or_default();
        let user = container.config.and_then(|config| config.user).unwrap_or_default();
        let root = is_root(&user) || self.passwd_says_root(id, &user).await?;
        let options = host.security_opt.clone().unwrap_or_default();
        let dropped = host.cap_drop.iter().flatten().any(|name| name.eq_ignore_ascii_case("ALL"));
        let privileged = host.privileged == Some(true);
        let mut capabilities: Vec<String> = if dropped { Vec::new() } else { vec!["default".to_owned()] };
        capabilities.extend(host.cap_add.unwrap_or_default());
        if privileged {
            capabilities.push("privileged".to_owned());
        }
        let filter = info.security_options.iter().flatten().any(|option| option.starts_with("name=seccomp"));
        let unconfined = options.iter().any(|option| option.starts_with("seccomp") && option.ends_with("unconfined"));
        let positive =
            |limit: Option<i64>| limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
        Ok(Policy {
            user: if user.is_empty() { "root".to_owned() } else { user },
            root,
            readonly_root: host.readonly_rootfs == Some(true),
            capabilities,
            no_new_privileges: options
                .iter()
                .any(|option| option.starts_with("no-new-privileges") && !option.ends_with("false")),
            seccomp: filter && !unconfined && !privileged,
            memory: positive(host.memory),
            pids: positive(host.pids_limit),
            unenforced: Vec::new(),
        })
    }

    /// Whether a user's name stands for uid 0 in the container's `/etc/passwd`. A name that is not there cannot be started.
    async fn passwd_says_root(&self, id: &str, user: &str) -> Result<bool> {
        let name = user.split(':').next().unwrap_or_default();
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(false);
        }
        let options = DownloadFromContainerOptionsBuilder::new().path("/etc/passwd").build();
        let mut stream = self.client().await?.download_from_container(id, Some(options));
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(false),
                Err(error) => return Err(self.failed("read /etc/passwd of", id)(error)),
            }
        }
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut text = String::new();
        for entry in archive.entries().into_iter().flatten().flatten() {
            let _ = entry.take(1 << 20).read_to_string(&mut text);
        }
        Ok(text.lines().any(|line| {
            let mut fields = line.split(':');
            fields.next() == Some(name) && fields.nth(1).is_some_and(is_root)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::is_root;

    #[test]
    fn root_has_several_names() {
        for root in ["", "root", "0", "0:0", "00", "root:staff", ":1000"] {
            assert!(is_root(root), "{root}");
        }
        for other in ["1000", "app", "1000:0", "nobody:nogroup"] {
            assert!(!is_root(other), "{other}");
        }
    }
}
