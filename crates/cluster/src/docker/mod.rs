//! Containers of a Docker Engine, 20.10 and newer, through its API.
//!
//! A slot is one container named by its place and known by its labels (`sealift.project`, `.environment`, `.component`, `.slot`,
//! `.release`, `.release_digest`, `.epoch`); the labels decide, the name is for people. Containers with the labels of a place
//! that is filled anew are replaced, whoever left them. Nothing here is remembered between calls but two things under `state`,
//! in a folder for each engine: the files that are mounted, and which id the engine gave to an image that was verified.
//!
//! **The image is that of the release**, or nothing is created. A classic engine's image id *is* the configuration digest. An
//! engine with the containerd image store uses the digest of a manifest that it made itself, so there the image is exported once
//! and the configuration in it is hashed. Containers are created from that id, never from a tag.
//!
//! **Policy** (DESIGN §11): the container is inspected after its creation and again before every start, and removed if it deviates
//! in a point that the configuration does not relax by name. A user is a plain decimal number or a name that the image's
//! `/etc/passwd` has; anything else might be root to some engine, and counts as root.
//!
//! Mounts are read-only bind mounts of files under `state`, so they need an engine on this host; so does naming who holds a port.
//! Containers outlive the checkout that they were deployed from, so `state` is best a folder of the host ([`state_folder`]). A
//! stopped container whose mounted file is gone cannot be started: its slot counts as empty and is filled anew from the store.
//! Secrets are environment variables of the container, read when it is created. Restart policy `unless-stopped`: a crashed
//! container counts as ended while it waits for its restart. Where the engine has an init program, the workload runs behind it,
//! so that SIGTERM ends also a program that has no handler for it.
//!
//! No request waits for ever: the engine answers within a minute and streams go on within a minute; only while it packs or
//! unpacks an image it may be silent for ten.
//!
//! Failure cases: no engine ([`Error::Unavailable`] with the address tried), an image that is not the release's, a name that
//! belongs to a container of someone else, a start that the engine refuses (its answer is given, and the last log lines).

use crate::{Error, ImageForm, ImagePath, Policy, Result, Target, error, port};
use async_trait::async_trait;
use bollard::{
    API_DEFAULT_VERSION,
    errors::Error as Failure,
    models::{ContainerInspectResponse, ContainerState, ContainerSummary, ContainerSummaryStateEnum, Mount},
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
        StopContainerOptionsBuilder,
    },
};
use domain::{
    Digest, Name,
    workload::{Observed, Place, Slot, SlotState, Workload},
};
use futures::{Stream, StreamExt};
use rustix::fs::Access;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

mod container;
mod image;
mod mounts;

/// What the engine has for each answer if nothing else was said.
const ANSWER: Duration = Duration::from_secs(60);
/// How long the engine may work on an image without a word: it unpacks what was sent, or packs what is asked for.
const IMAGE_WORK: Duration = Duration::from_secs(600);
/// How long the first answer of an engine may take.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long a container may take from the engine's answer until it runs or has ended.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Where files of containers are kept: on the host, as containers are, else in `repository`, the folder of a checkout. The
/// host's folder is `/var/lib/sealift/docker` for root and `sealift/docker` in the user's folder of states (`XDG_STATE_HOME`,
/// else `~/.local/state`) for others. Whoever runs in a container shares with the engine's host the checkout at best.
pub fn state_folder(repository: PathBuf) -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let contained = ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists());
    let states = match rustix::process::geteuid().is_root() {
        true => Some(PathBuf::from("/var/lib")),
        false => variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state"))),
    };
    let folder = states.map(|states| states.join("sealift/docker")).filter(|_| !contained);
    folder.filter(|folder| can_be_made(folder)).unwrap_or(repository)
}

/// Whether a folder could be written, without making it.
fn can_be_made(folder: &Path) -> bool {
    let there = folder.ancestors().find(|path| path.exists());
    there.is_some_and(|path| path.is_dir() && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok())
}

/// Runs workloads as containers of a Docker Engine.
pub struct Docker {
    address: String,
    host: String,
    state: PathBuf,
    client: OnceCell<bollard::Docker>,
    folder: OnceCell<PathBuf>,
    /// How long the engine may take to answer a request, and the next item of a stream to come.
    answer: Duration,
}

impl Docker {
    /// `engine` is `unix://…` or `tcp://…`; without it `DOCKER_HOST` counts, and else the usual socket. `host` is the address
    /// for people; a workload is published on its own. `state` is a directory for mounted files, made when needed.
    pub fn new(engine: Option<String>, host: String, state: PathBuf) -> Self {
        let address = engine
            .or_else(|| std::env::var("DOCKER_HOST").ok().filter(|address| !address.is_empty()))
            .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
        let state = std::path::absolute(&state).unwrap_or(state);
        Self { address, host, state, client: OnceCell::new(), folder: OnceCell::new(), answer: ANSWER }
    }

    /// Waits this long for each answer, in whole seconds, instead of a minute.
    pub fn with_patience(self, answer: Duration) -> Self {
        Self { answer, ..self }
    }

    /// Whether the engine shares this host's files and ports.
    fn is_local(&self) -> bool {
        self.address.starts_with("unix://")
    }

    async fn client(&self) -> Result<&bollard::Docker> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<bollard::Docker> {
        let unavailable =
            |why: String| Error::Unavailable { what: "the Docker Engine", address: self.address.clone(), why };
        let connected = if self.is_local() {
            bollard::Docker::connect_with_unix(&self.address, self.answer.as_secs(), API_DEFAULT_VERSION)
        } else if self.address.starts_with("tcp://") || self.address.starts_with("http://") {
            bollard::Docker::connect_with_http(&self.address, self.answer.as_secs(), API_DEFAULT_VERSION)
        } else {
            return Err(unavailable("only unix:// and tcp:// addresses are understood".to_owned()));
        };
        let client = connected.map_err(|error| unavailable(said(&error)))?;
        match tokio::time::timeout(FIRST_ANSWER, client.negotiate_version()).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(unavailable(said(&error))),
            Err(_) => Err(unavailable(format!("no answer within {} s", FIRST_ANSWER.as_secs()))),
        }
    }

    /// The folder of this engine in `state`: two engines of one host know nothing of each other's containers and images.
    async fn folder(&self) -> Result<&Path> {
        let find = || async {
            let info = self.client().await?.info().await.map_err(self.failed("describe", "itself"))?;
            let name = info.id.filter(|id| !id.is_empty()).unwrap_or_else(|| self.address.clone());
            Ok(self.state.join(Digest::of(name.as_bytes()).short()))
        };
        self.folder.get_or_try_init(find).await.map(PathBuf::as_path)
    }

    /// Turns a failure of the client into ours: an answer of the engine is one thing, no answer another.
    fn failed(&self, action: &'static str, object: impl ToString) -> impl FnOnce(Failure) -> Error {
        let (address, object) = (self.address.clone(), object.to_string());
        move |error| match error {
            Failure::DockerResponseServerError { message, .. } => Error::Engine { action, object, why: message },
            Failure::DockerStreamError { error } => Error::Engine { action, object, why: error },
            error => Error::Unavailable { what: "the Docker Engine", address, why: said(&error) },
        }
    }

    /// A client whose requests may take longer before their first answer.
    async fn patient(&self, patience: Duration) -> Result<bollard::Docker> {
        Ok(self.client().await?.clone().with_timeout(patience))
    }

    /// The next item of a stream, or why there is none in time.
    async fn next<T>(
        &self,
        stream: &mut (impl Stream<Item = std::result::Result<T, Failure>> + Unpin + Send),
        action: &'static str,
        object: &(impl ToString + Sync),
    ) -> Result<Option<T>> {
        match tokio::time::timeout(self.answer, stream.next()).await {
            Ok(item) => item.transpose().map_err(self.failed(action, object.to_string())),
            Err(_) => Err(self.silent(self.answer, action, object)),
        }
    }

    fn silent(&self, patience: Duration, action: &'static str, object: &impl ToString) -> Error {
        let why = format!("nothing moved for {} s while it was to {action} {}", patience.as_secs(), object.to_string());
        Error::Unavailable { what: "the Docker Engine", address: self.address.clone(), why }
    }

    async fn containers(&self, labels: Vec<String>) -> Result<Vec<ContainerSummary>> {
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let client = self.client().await?;
        let mut found = client.list_containers(Some(options)).await.map_err(self.failed("list", "its containers"))?;
        // The one that runs speaks for its slot, and else the newest.
        found.sort_by_key(|container| (!runs(container), std::cmp::Reverse(container.created)));
        Ok(found)
    }

    async fn of_place(&self, place: &Place) -> Result<Vec<ContainerSummary>> {
        let mut labels = of_component(&place.project, &place.environment, &place.component);
        labels.push(format!("{}={}", container::SLOT, place.slot));
        self.containers(labels).await
    }

    /// The container that stands for a slot.
    async fn find(&self, place: &Place) -> Result<Option<(String, ContainerInspectResponse)>> {
        let Some(id) = self.of_place(place).await?.into_iter().find_map(|container| container.id) else {
            return Ok(None);
        };
        let found = self.client().await?.inspect_container(&id, None).await;
        match found {
            Ok(found) => Ok(Some((id, found))),
            Err(Failure::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.failed("inspect", place)(error)),
        }
    }

    async fn state(&self, container: &ContainerSummary) -> Result<SlotState> {
        let id = container.id.clone().unwrap_or_default();
        let (release_digest, epoch) = identity(container)?;
        if runs(container) {
            return Ok(SlotState::Running { release_digest, epoch, id: short(&id) });
        }
        let inspected = self.client().await?.inspect_container(&id, None).await;
        let inspected = inspected.map_err(self.failed("inspect", short(&id)))?;
        Ok(SlotState::Stopped { release_digest, epoch, ended: inspected.state.as_ref().and_then(ended) })
    }

    /// Removes every container of a place, and the images that nothing else needs; `keep` is about to be needed.
    async fn clear(&self, place: &Place, keep: Option<&str>) -> Result<()> {
        for container in self.of_place(place).await? {
            let Some(id) = container.id else { continue };
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            match self.client().await?.remove_container(&id, Some(options)).await {
                Ok(()) | Err(Failure::DockerResponseServerError { status_code: 404, .. }) => {}
                Err(error) => return Err(self.failed("remove", place)(error)),
            }
            if let Some(image) = container.image_id.filter(|image| Some(image.as_str()) != keep) {
                self.drop_image(&image).await?;
            }
        }
        Ok(())
    }

    /// Creates the container of a workload from its verified image; returns its id.
    async fn create(
        &self,
        workload: &Workload,
        epoch: u64,
        archive: &Path,
        environment: Vec<String>,
        binds: Vec<Mount>,
    ) -> Result<String> {
        let place = &workload.place;
        let image = self.ensure_image(workload, archive).await?;
        let user = self.image_user(workload, &image).await?;
        let init = self.has_init().await?;
        let body = container::body(workload, epoch, &image, user, environment, binds, init);
        let options = CreateContainerOptionsBuilder::new().name(&place.to_string()).build();
        match self.client().await?.create_container(Some(options), body).await {
            Ok(created) => Ok(created.id),
            Err(Failure::DockerResponseServerError { status_code: 409, message }) => {
                let why = format!("a container named {place} is not ours to replace: {message}");
                Err(Error::refused(place, why))
            }
            Err(error) => Err(self.failed("create", place)(error)),
        }
    }

    /// Removes a container that deviates from the policy.
    async fn assert_policy(&self, id: &str, workload: &Workload) -> Result<()> {
        let place = &workload.place;
        let deviations = self.policy(id, place).await?.deviations(workload);
        if deviations.is_empty() {
            return Ok(());
        }
        self.clear(place, None).await?;
        Err(Error::Policy { place: place.to_string(), deviations })
    }

    /// Refuses to replace what must not be replaced. `true`: the very release runs already.
    async fn is_there(&self, workload: &Workload, epoch: u64) -> Result<bool> {
        for container in self.of_place(&workload.place).await? {
            match self.state(&container).await? {
                SlotState::Running { release_digest, epoch: found, .. } => {
                    error::fence(&workload.place, epoch, found)?;
                    if release_digest == workload.release_digest {
                        return Ok(true);
                    }
                    let place = workload.place.to_string();
                    return Err(Error::Occupied { place, release: release_digest.short() });
                }
                SlotState::Stopped { epoch: found, .. } => error::fence(&workload.place, epoch, found)?,
                SlotState::Empty => {}
            }
        }
        Ok(false)
    }

    async fn until_running(&self, place: &Place) -> Result<()> {
        let started = Instant::now();
        loop {
            let Some((_, container)) = self.find(place).await? else { return Err(Error::nothing(place)) };
            let state = container.state.unwrap_or_default();
            if state.running == Some(true) && state.restarting != Some(true) {
                return Ok(());
            }
            if let Some(how) = ended(&state) {
                let log = self.logs(place, 20).await.unwrap_or_default();
                return Err(Error::Refused {
                    place: place.to_string(),
                    why: format!("it ended at once: it {how}"),
                    log,
                });
            }
            if started.elapsed() > START_PATIENCE {
                let why = format!("the engine says neither that it runs nor that it ended: {:?}", state.status);
                return Err(Error::Stuck { place: place.to_string(), why });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[async_trait]
impl Target for Docker {
    fn describe(&self) -> String {
        format!("containers of the Docker Engine at {} published on {}", self.address, self.host)
    }

    fn image_form(&self) -> ImageForm {
        ImageForm::DockerArchive
    }

    async fn observe(&self, project: &Name, environment: &Name, component: &Name) -> Result<Observed> {
        let all = self.containers(of_component(project, environment, component)).await?;
        let mut observed = Observed { blue: SlotState::Empty, green: SlotState::Empty };
        for (slot, state) in [(Slot::Blue, &mut observed.blue), (Slot::Green, &mut observed.green)] {
            let name = slot.to_string();
            let mine = all.iter().find(|container| {
                container.labels.as_ref().is_some_and(|labels| labels.get(container::SLOT) == Some(&name))
            });
            if let Some(container) = mine {
                *state = self.state(container).await?;
                // What cannot be started again is not prepared: it is to be filled anew, from the store.
                if !state.is_running() && self.lost_mount(container).await?.is_some() {
                    *state = SlotState::Empty;
                }
            }
        }
        Ok(observed)
    }

    async fn prepare(
        &self,
        workload: &Workload,
        epoch: u64,
        image: ImagePath<'_>,
        mounts: &[(String, PathBuf)],
    ) -> Result<()> {
        if self.is_there(workload, epoch).await? {
            return Ok(());
        }
        let place = &workload.place;
        let archive = match image {
            ImagePath::DockerArchive(path) => path,
            ImagePath::None => return Err(Error::refused(place, "the release has no image to make a container from")),
            ImagePath::Rootfs { dir, .. } => {
                let why = format!("the docker target needs an archive, not the directory {}", dir.display());
                return Err(Error::Image { place: place.to_string(), why });
            }
        };
        let environment = container::environment(workload).await?;
        let image = self.ensure_image(workload, archive).await?;
        self.clear(place, Some(&image)).await?;
        let binds = self.place_mounts(workload, epoch, mounts).await?;
        let mut attempts = 0;
        let id = loop {
            attempts += 1;
            let made = self.create(workload, epoch, archive, environment.clone(), binds.clone()).await;
            match made {
                // Another environment's slot was emptied meanwhile, and the image went with it.
                Err(Error::Engine { .. }) if attempts < 3 => {}
                made => break made?,
            }
        };
        self.assert_policy(&id, workload).await
    }

    async fn start(&self, workload: &Workload, epoch: u64) -> Result<()> {
        let place = &workload.place;
        let Some(container) = self.of_place(place).await?.into_iter().next() else { return Err(Error::nothing(place)) };
        if let SlotState::Running { release_digest, epoch: found, .. }
        | SlotState::Stopped { release_digest, epoch: found, .. } = self.state(&container).await?
        {
            error::fence(place, epoch, found)?;
            error::same_release(place, &workload.release_digest, &release_digest)?;
        }
        if runs(&container) {
            return self.until_running(place).await;
        }
        if let Some(path) = self.lost_mount(&container).await? {
            let found = format!("a container whose mounted file {} is gone", path.display());
            return Err(Error::NotPrepared { place: place.to_string(), found });
        }
        if self.is_local() {
            let (host, number) = (workload.host.clone(), workload.host_port);
            let taken = tokio::task::spawn_blocking(move || port::taken(&host, number)).await;
            if let Ok(Some(why)) = taken {
                return Err(Error::refused(place, why));
            }
        }
        let id = container.id.unwrap_or_default();
        // Again: whoever created it may have ended before its policy was looked at.
        self.assert_policy(&id, workload).await?;
        match self.client().await?.start_container(&id, None).await {
            Ok(()) => {}
            Err(Failure::DockerResponseServerError { message, .. }) => {
                let log = self.logs(place, 20).await.unwrap_or_default();
                return Err(Error::Refused { place: place.to_string(), why: message, log });
            }
            Err(error) => return Err(self.failed("start", place)(error)),
        }
        let started = self.until_running(place).await;
        if let Err(Error::Refused { .. }) = started {
            self.stop(place, epoch, Duration::ZERO).await?; // or it is restarted for ever
        }
        started
    }

    async fn stop(&self, place: &Place, epoch: u64, timeout: Duration) -> Result<()> {
        let seconds = i32::try_from(timeout.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let client = self.patient(timeout + self.answer).await?;
        let all = self.of_place(place).await?;
        fence(place, epoch, &all)?;
        for container in all {
            let Some(id) = container.id.clone().filter(|_| runs(&container)) else { continue };
            let options = StopContainerOptionsBuilder::new().t(seconds).build();
            match client.stop_container(&id, Some(options)).await {
                Ok(()) | Err(Failure::DockerResponseServerError { status_code: 404, .. }) => {}
                Err(error) => return Err(self.failed("stop", place)(error)),
            }
        }
        Ok(())
    }

    async fn remove(&self, place: &Place, epoch: u64) -> Result<()> {
        fence(place, epoch, &self.of_place(place).await?)?;
        self.clear(place, None).await?;
        self.drop_mounts(place).await
    }

    async fn logs(&self, place: &Place, lines: usize) -> Result<Vec<String>> {
        let Some((id, _)) = self.find(place).await? else { return Ok(Vec::new()) };
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let mut stream = self.client().await?.logs(&id, Some(options));
        let mut text = Vec::new();
        while let Some(output) = self.next(&mut stream, "read the log of", place).await? {
            text.extend(output.into_bytes());
        }
        let mut all: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
        Ok(all.split_off(all.len().saturating_sub(lines)))
    }

    async fn alive(&self, place: &Place) -> Result<Option<String>> {
        let Some((_, container)) = self.find(place).await? else { return Ok(Some("nothing is there".to_owned())) };
        let state = container.state.unwrap_or_default();
        if state.running == Some(true) && state.restarting != Some(true) {
            return Ok(None);
        }
        let Some(mut how) = ended(&state) else { return Ok(Some("it was never started".to_owned())) };
        let last = self.logs(place, 3).await?;
        if !last.is_empty() {
            how = format!("{how}; it last printed: {}", last.join(" | "));
        }
        Ok(Some(how))
    }

    async fn inspect_policy(&self, place: &Place) -> Result<Policy> {
        let Some((id, _)) = self.find(place).await? else { return Err(Error::nothing(place)) };
        self.policy(&id, place).await
    }
}

fn of_component(project: &Name, environment: &Name, component: &Name) -> Vec<String> {
    vec![
        format!("{}={project}", container::PROJECT),
        format!("{}={environment}", container::ENVIRONMENT),
        format!("{}={component}", container::COMPONENT),
    ]
}

/// Whether it must be stopped before it is replaced: one that waits for its restart is not at rest.
fn runs(container: &ContainerSummary) -> bool {
    use ContainerSummaryStateEnum::{PAUSED, RESTARTING, RUNNING};
    matches!(container.state, Some(RUNNING | PAUSED | RESTARTING))
}

/// How it ended, in words; `None` if it never ran.
fn ended(state: &ContainerState) -> Option<String> {
    // An engine's zero time: it never finished.
    let finished = state.finished_at.as_deref().is_some_and(|at| !at.starts_with("0001-"));
    if !finished || (state.running == Some(true) && state.restarting != Some(true)) {
        return None;
    }
    let code = state.exit_code.unwrap_or(-1);
    let mut how = match (state.oom_killed, code) {
        (Some(true), _) => "was killed: out of memory".to_owned(),
        (_, 129..=192) => format!("was killed by signal {} (code {code})", code - 128),
        _ => format!("exited with code {code}"),
    };
    if let Some(error) = state.error.as_deref().filter(|error| !error.is_empty()) {
        how = format!("{how}: {error}");
    }
    Some(how)
}

/// No container of a place is of a newer writer.
fn fence(place: &Place, epoch: u64, containers: &[ContainerSummary]) -> Result<()> {
    containers.iter().try_for_each(|container| error::fence(place, epoch, identity(container)?.1))
}

/// Release and epoch of a container, from its labels.
fn identity(container: &ContainerSummary) -> Result<(Digest, u64)> {
    let label = |name: &str| container.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
    let damaged = |what: &str| Error::Engine {
        action: "describe",
        object: format!("container {}", short(container.id.as_deref().unwrap_or_default())),
        why: format!("its label {what} is missing or not legible"),
    };
    let digest =
        label(container::DIGEST).and_then(|digest| digest.parse().ok()).ok_or_else(|| damaged(container::DIGEST))?;
    let epoch =
        label(container::EPOCH).and_then(|epoch| epoch.parse().ok()).ok_or_else(|| damaged(container::EPOCH))?;
    Ok((digest, epoch))
}

fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// An error with its causes: the client's own sentence often leaves out why.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
