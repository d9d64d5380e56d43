//! What a container is created with, and what is found when it is inspected.

use super::Docker;
use crate::{Error, Policy, Result, values};
use bollard::models::{ContainerCreateBody, HostConfig, Mount, PortBinding, RestartPolicy, RestartPolicyNameEnum};
use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use domain::workload::{Place, Relaxation, Workload};
use futures::StreamExt;
use std::{
    collections::HashMap,
    io::Read,
    path::{Path, PathBuf},
};

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

/// What the `USER` of an image stands for, before any look into the image.
#[derive(Debug, PartialEq, Eq)]
enum User<'a> {
    Root,
    Number,
    /// To be looked up.
    Name(&'a str),
    /// Engines disagree about what this is (`-0`, `+0`, `0x0`), or cannot start it.
    Strange,
}

fn user_of(user: &str) -> User<'_> {
    let name = user.split(':').next().unwrap_or_default();
    match name.bytes().next() {
        None => User::Root,
        _ if name == "root" => User::Root,
        Some(b'0'..=b'9') => match is_number(name).then(|| name.parse::<u32>()) {
            Some(Ok(0)) => User::Root,
            Some(Ok(_)) => User::Number,
            _ => User::Strange,
        },
        Some(first) if first.is_ascii_alphabetic() || first == b'_' => User::Name(name),
        Some(_) => User::Strange,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether every line of an `/etc/passwd` for this name, and there is one, has a plain number other than that of root.
fn is_ordinary(passwd: &str, name: &str) -> bool {
    let lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut ids = lines.filter(|fields| fields.first() == Some(&name)).map(|fields| fields.get(2).copied()).peekable();
    ids.peek().is_some()
        && ids.all(|id| id.is_some_and(|id| is_number(id) && id.parse::<u32>().is_ok_and(|id| id != 0)))
}

/// A file of a container, as the engine packs it.
enum Packed {
    Regular(String),
    Link(PathBuf),
    Other,
}

/// More than any `/etc/passwd` has.
const PASSWD_LIMIT: usize = 4 << 20;

/// The only entry of an archive.
fn packed(archive: &[u8]) -> Packed {
    let mut archive = tar::Archive::new(archive);
    let Some(Ok(mut entry)) = archive.entries().ok().and_then(|mut entries| entries.next()) else {
        return Packed::Other;
    };
    match entry.header().entry_type() {
        kind if kind.is_file() => {
            let mut bytes = Vec::new();
            match entry.read_to_end(&mut bytes) {
                Ok(_) => Packed::Regular(String::from_utf8_lossy(&bytes).into_owned()),
                Err(_) => Packed::Other,
            }
        }
        kind if kind.is_symlink() => match entry.link_name() {
            Ok(Some(link)) => Packed::Link(link.into_owned()),
            _ => Packed::Other,
        },
        _ => Packed::Other,
    }
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
        Ok(Some(if user_of(&user) == User::Root { ORDINARY_USER.to_owned() } else { user }))
    }

    /// The policy of a container, as the engine has it.
    pub(super) async fn policy(&self, id: &str, place: &Place) -> Result<Policy> {
        let client = self.client().await?;
        let container = client.inspect_container(id, None).await.map_err(self.failed("inspect", place))?;
        let info = client.info().await.map_err(self.failed("describe", "itself"))?;
        let host = container.host_config.unwrap_or_default();
        let user = container.config.and_then(|config| config.user).unwrap_or_default();
        let (root, known) = match user_of(&user) {
            User::Root => (true, true),
            User::Number => (false, true),
            User::Strange => (true, false),
            User::Name(name) => {
                let passwd = self.passwd(id).await?;
                let listed = passwd.lines().any(|line| line.split(':').next() == Some(name));
                (!is_ordinary(&passwd, name), listed)
            }
        };
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
        // Mounts of ours are read-only, and what is in memory is not in this list.
        let mounts = container.mounts.unwrap_or_default().into_iter().filter(|mount| mount.rw != Some(false));
        let volumes = mounts.filter_map(|mount| mount.destination).collect();
        let positive =
            |limit: Option<i64>| limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
        Ok(Policy {
            user: match (user.is_empty(), known) {
                (true, _) => "root".to_owned(),
                (false, true) => user,
                (false, false) => format!("{user} (neither a number nor a name in the image's /etc/passwd)"),
            },
            root,
            readonly_root: host.readonly_rootfs == Some(true),
            volumes,
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

    /// The container's `/etc/passwd`, if that is a regular file or a symlink to one; otherwise nothing.
    async fn passwd(&self, id: &str) -> Result<String> {
        let mut path = PathBuf::from("/etc/passwd");
        for _ in 0..2 {
            match self.packed_file(id, &path).await? {
                Packed::Regular(text) => return Ok(text),
                Packed::Link(to) => path = Path::new("/etc").join(to),
                Packed::Other => break,
            }
        }
        Ok(String::new())
    }

    async fn packed_file(&self, id: &str, path: &Path) -> Result<Packed> {
        let options = DownloadFromContainerOptionsBuilder::new().path(&path.display().to_string()).build();
        let mut stream = self.client().await?.download_from_container(id, Some(options)).boxed();
        let mut bytes = Vec::new();
        loop {
            match self.next(&mut stream, "read /etc/passwd of", &id).await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => return Ok(packed(&bytes)),
                Err(Error::Engine { .. }) => return Ok(Packed::Other), // there is none
                Err(error) => return Err(error),
            }
            if bytes.len() > PASSWD_LIMIT {
                return Ok(Packed::Other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_several_names_and_some_that_only_some_engines_know() {
        for root in ["", "root", "0", "0:0", "00", "root:staff", ":1000"] {
            assert_eq!(user_of(root), User::Root, "{root}");
        }
        for strange in ["-0", "+0", "0x0", "0x0:1", "-1", " 0", "1e3", "99999999999999999999", "\u{660}"] {
            assert_eq!(user_of(strange), User::Strange, "{strange}");
        }
        for number in ["1000", "1000:0", "01"] {
            assert_eq!(user_of(number), User::Number, "{number}");
        }
        assert_eq!(user_of("nobody:nogroup"), User::Name("nobody"));
    }

    #[test]
    fn a_name_is_ordinary_only_where_it_is_listed_with_a_number() {
        let passwd = "app:x:1234:0::/:\ntoor:x:0:0::/:\nplus:x:+0:0::/:\ntwice:x:5:5::/:\ntwice:x:00:0::/:\nshort:x\n";
        assert!(is_ordinary(passwd, "app"));
        for name in ["toor", "plus", "twice", "short", "nobody", ""] {
            assert!(!is_ordinary(passwd, name), "{name}");
        }
    }

    #[test]
    fn links_and_files_are_told_apart() {
        let mut link = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        link.append_link(&mut header, "passwd", "../usr/lib/passwd").unwrap();
        assert!(
            matches!(packed(&link.into_inner().unwrap()), Packed::Link(to) if to == Path::new("../usr/lib/passwd"))
        );
        assert!(matches!(packed(b"no archive"), Packed::Other));
    }
}
