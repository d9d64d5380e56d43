//! What a verb is given: where it works, who acts, where events go, and how it is told to stop.

use crate::command_line::Global;
use domain::{Events, Name};
use engine::{Error, Host, Result, Workspace, rollout::World};
use std::{
    env,
    path::{Path, PathBuf},
};
use tokio_util::sync::CancellationToken;

/// Read once, at the start, from the process's environment; nothing below reads it again.
pub(crate) struct Shell {
    /// The folder that was asked for, absolute.
    pub(crate) start: PathBuf,
    /// The machine and the person.
    pub(crate) host: Host,
    /// Where events go.
    pub(crate) events: Events,
    /// Cancelled by a signal.
    pub(crate) stop: CancellationToken,
    /// Whether results are JSON.
    pub(crate) json: bool,
}

impl Shell {
    /// Finds the folder and the host.
    pub(crate) fn new(global: &Global, events: Events, stop: CancellationToken) -> Result<Self> {
        let start = global.directory.clone().unwrap_or_else(|| PathBuf::from("."));
        let found = start.canonicalize().map_err(Error::file("go to the folder", &start))?;
        let json = global.format == crate::command_line::Format::Json;
        Ok(Self { start: found, host: host(), events, stop, json })
    }

    /// The repository that the folder belongs to.
    pub(crate) fn workspace(&self) -> Result<Workspace> {
        Workspace::open(&self.start, self.host.clone(), self.events.clone())
    }

    /// The repository, if there is one here; a broken configuration is an error all the same.
    pub(crate) fn workspace_if_any(&self) -> Result<Option<Workspace>> {
        match self.workspace() {
            Ok(workspace) => Ok(Some(workspace)),
            Err(Error::NoWorkspace { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What an environment is worked on through.
    pub(crate) async fn world(&self, workspace: &Workspace, environment: &Name) -> Result<World> {
        engine::rollout::world(workspace, environment, self.stop.clone()).await
    }

    /// Where DVC's files outside of a repository are, as DVC finds them.
    pub(crate) fn around_dvc(&self) -> engine::dvc::Surroundings {
        let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
        let shared = env::var("XDG_CONFIG_DIRS").ok().and_then(|list| list.split(':').next().map(PathBuf::from));
        let shared = shared.filter(|path| path.is_absolute()).unwrap_or_else(|| PathBuf::from("/etc/xdg"));
        engine::dvc::Surroundings {
            system: folder("DVC_SYSTEM_CONFIG_DIR").unwrap_or_else(|| shared.join("dvc")),
            global: folder("DVC_GLOBAL_CONFIG_DIR").unwrap_or_else(|| self.host.config_home.join("dvc")),
            home: env::home_dir().unwrap_or_else(|| PathBuf::from("/")),
            credentials_file: folder("AWS_SHARED_CREDENTIALS_FILE"),
        }
    }

    /// A path as typed, relative to the folder that was asked for.
    pub(crate) fn path(&self, typed: &Path) -> PathBuf {
        self.start.join(typed)
    }
}

/// The configuration folder and the user, from the environment.
fn host() -> Host {
    let home = || env::home_dir().unwrap_or_else(|| PathBuf::from("/")).join(".config");
    let config_home = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let user = ["USER", "LOGNAME"].iter().find_map(|name| env::var(name).ok().filter(|user| !user.is_empty()));
    let user = user.unwrap_or_else(|| "unknown".to_owned());
    let actor = format!("{user}@{}", gethostname::gethostname().to_string_lossy());
    Host { config_home: config_home.unwrap_or_else(home), actor }
}
