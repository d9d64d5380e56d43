//! The `docker` builder: a Dockerfile through a real Docker Engine (20.10 and newer), and the engine's image into a layout.
//!
//! BuildKit builds wherever the engine has it ([`buildkit`]), the classic builder only where it has not ([`classic`]); which one is said.
//!
//! What never happens here:
//!
//! - A secret is in no layer, history, argument, event or error: it is answered to BuildKit's question ([`session`]) and redacted from whatever the
//!   engine says ([`redact`]). The classic builder, which cannot do that, gets none.
//! - An end of a build's stream is never taken for a success.
//! - A build that is dropped leaves nothing in the engine: its connections end, and with them its steps; an image that it has made
//!   already is removed, and one that was there before never is ([`leftover`]).
//!
//! An engine that keeps its images without containerd can only build into itself. The newest image of a build stays there, without a tag, so
//! that it can be started or built again without loading it; older ones of the same build are removed after [`KEEP`]. They are found by [`BUILD_LABEL`], which is
//! also how what a killed build left is found. An image's age is what it says itself, and so the time of its commit where the build says so: a build beside this one may
//! remove an image that is not saved yet. It is then built once more, which the cache makes quick.

mod buildkit;
mod classic;
mod connection;
mod dockerfile;
mod leftover;
mod lines;
mod load;
mod loopback;
mod progress;
mod redact;
mod sending;
mod session;
#[cfg(test)]
mod tests;

pub use load::{Loaded, load_docker};

use crate::{
    context::{self, Context},
    error::{Error, Result, joined},
    export::{self, Expected, Image},
    layout::{self, Built},
    spec::{Descriptor, Platform},
};
use bollard::{
    Docker,
    query_parameters::{ListImagesOptions, RemoveImageOptions},
};
use bytes::Bytes;
use dockerfile::Dockerfile;
use domain::{Digest, Events, config::DockerBuild, secret::Secret};
use futures::{Stream, StreamExt};
use leftover::Leftover;
use redact::Redactor;
use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::mpsc;

/// The label that every image built here has. Its value is a UUID of *what* is built (Dockerfile, context, target, names), not of the run: a value
/// of its own for each run would void the engine's cache, and with it equal images for equal sources.
pub const BUILD_LABEL: &str = "sealift.build";
/// How long an older image of the same build stays, so that a build beside this one can still export it.
const KEEP: Duration = Duration::from_secs(3600);
/// How long the engine may take to begin to answer: it does so only after it has the whole context, or has packed the whole image.
const BUILD_TIMEOUT: u64 = 3600;
const PING_TIMEOUT: u64 = 10;
/// How long a build may say nothing before the engine is asked whether it is still there; a quiet step may take long.
const BUILD_SILENCE: Duration = Duration::from_secs(600);
/// How often in a row an engine that answers may be silent before the build is given up all the same.
const SILENCES: u32 = 6;
/// How long an image that is being saved may stand still, once it has begun to arrive.
const EXPORT_SILENCE: Duration = Duration::from_secs(60);
/// How long a question may take that is answered out of the engine's own records.
const ANSWER: Duration = Duration::from_secs(30);
/// How many of the last lines are kept.
const LOG_LINES: usize = 20;
/// Labels that are annotations of the manifest too.
const ANNOTATIONS: &str = "org.opencontainers.image.";

/// Builds an image with a Docker Engine and writes it as a layout to `to`.
///
/// `context_root` is the component's folder. The context is sent as Docker would, `.dockerignore` included; the engine's output comes as
/// [`domain::Event::Output`] lines. `labels` win over those of the configuration; `secrets` are the values of `spec.secrets`, by the same names.
/// Several platforms are built one after another and become one image index. A build that fails is [`Error::BuildFailed`] with its step, its line in the
/// Dockerfile and its last lines; a stream that ends or breaks without an image is [`Error::BuildLost`]; no engine is [`Error::EngineUnreachable`]. Dropping the
/// future stops the build.
pub async fn build_docker(
    spec: &DockerBuild,
    context_root: &Path,
    labels: &BTreeMap<String, String>,
    secrets: &BTreeMap<String, Secret>,
    to: &Path,
    events: &Events,
) -> Result<Built> {
    if let Some(missing) = spec.secrets.keys().find(|id| !secrets.contains_key(*id)) {
        return Err(Error::bad(format!("the value of the build secret {missing} was not read")));
    }
    let engine = Engine::connect(spec.engine.as_deref(), BUILD_TIMEOUT).await?;
    let (owned, component) = (spec.clone(), context_root.to_owned());
    let context = joined(
        "read the build context in",
        tokio::task::spawn_blocking(move || context::scan(&owned, &component)).await,
    )??;
    for path in &context.left_out {
        events.warn(format!("{path} is no file and is not sent with the build context"));
    }
    let dockerfile = std::fs::read(context.root.join(&spec.dockerfile)).unwrap_or_default();
    let dockerfile = Dockerfile::parse(&String::from_utf8_lossy(&dockerfile));
    let mut all_labels = spec.labels.clone();
    all_labels.extend(labels.clone());
    let platforms: Vec<Option<&str>> = match spec.platforms.as_slice() {
        [] => vec![None],
        named => named.iter().map(|platform| Some(platform.as_str())).collect(),
    };
    let context = Arc::new(context);
    let redactor = Redactor::new(secrets);
    let mut manifests = Vec::new();
    let mut log_tail = Vec::new();
    for platform in platforms {
        let mut labels = all_labels.clone();
        let build = build_identity(spec, &labels, platform);
        labels.insert(BUILD_LABEL.to_owned(), build.clone());
        let context = context.clone();
        let request =
            Request { spec, labels, platform, context, secrets, dockerfile: &dockerfile, redactor: &redactor };
        let (manifest, id, log) = engine.build(&request, to, events).await?;
        if let Some(id) = id {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            engine.remove_older(&build, &id, now.saturating_sub(KEEP), events).await;
        }
        manifests.push(manifest);
        log_tail = log;
    }
    let built = match manifests.as_slice() {
        [one] => layout::seal_hashed(to, one.clone())?,
        _ => {
            let index = layout::put_index(&layout::blobs_dir(to), manifests, annotations(&all_labels))?;
            layout::seal_hashed(to, index)?
        }
    };
    Ok(Built { log_tail, ..built })
}

/// The engine's version and API, for example `20.10.24 (API 1.41)`, if one answers within ten seconds.
/// `engine` is `unix:///…` or `tcp://…`; without it `DOCKER_HOST`, then the usual sockets.
pub async fn docker_ping(engine: Option<&str>) -> Result<String> {
    let engine = Engine::connect(engine, PING_TIMEOUT).await?;
    let version = engine.ask("say its version", engine.docker.version()).await?;
    let version = version.map_err(|error| engine.lost("say its version", &error))?;
    let unknown = || "unknown".to_owned();
    Ok(format!("{} (API {})", version.version.unwrap_or_else(unknown), version.api_version.unwrap_or_else(unknown)))
}

/// A UUID (version 8: RFC 9562) of what is built.
fn build_identity(spec: &DockerBuild, labels: &BTreeMap<String, String>, platform: Option<&str>) -> String {
    let names = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
    let title = labels.get("org.opencontainers.image.title");
    let what = (&spec.context, &spec.dockerfile, &spec.target, names(&spec.args), names(labels), title, platform);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Digest::of(format!("{what:?}")).as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn annotations(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let standard = labels.iter().filter(|(key, _)| key.starts_with(ANNOTATIONS));
    standard.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// One build for one platform.
struct Request<'a> {
    spec: &'a DockerBuild,
    labels: BTreeMap<String, String>,
    platform: Option<&'a str>,
    context: Arc<Context>,
    secrets: &'a BTreeMap<String, Secret>,
    dockerfile: &'a Dockerfile,
    redactor: &'a Redactor,
}

/// A connection to an engine that has answered.
#[derive(Clone)]
struct Engine {
    docker: Docker,
    address: String,
    patience: Patience,
}

/// How long an engine may be silent. The client library's own limit is on the heads of answers alone.
#[derive(Debug, Clone, Copy)]
struct Patience {
    build: Duration,
    export: Duration,
    answer: Duration,
}

/// Why the next item of an engine's stream is not there.
enum Stopped<E> {
    /// The client library says.
    Failed(E),
    /// It was not waited for any longer.
    Silent(String),
}

/// Who is at fault that there is no image, and what is said of it.
enum Failed {
    /// The build.
    Build(String),
    /// The engine, or the way to it.
    Lost(String),
}

/// A build for one platform: its manifest in the layout, the engine's ID of the image if it keeps it, and the last lines.
type Whole = (Descriptor, Option<String>, Vec<String>);

/// What became of an image that the engine has built.
enum Taken {
    Whole(Whole),
    /// The engine does not have it any more; how that showed.
    Gone(Error),
}

/// Whether the receiver's error is why the build failed, which only says that the image was not taken.
fn explains(receiver: &Error, build: &Error) -> bool {
    match (receiver, build) {
        (Error::File { .. }, _) => true,
        (
            Error::Damaged { .. } | Error::Hostile { .. },
            Error::BuildFailed { cause, .. } | Error::BuildLost { cause, .. },
        ) => cause.contains(session::UNWRITTEN),
        _ => false,
    }
}

impl Engine {
    async fn connect(engine: Option<&str>, timeout: u64) -> Result<Self> {
        let address = engine.map_or_else(default_address, str::to_owned);
        let unreachable =
            |error: bollard::errors::Error| Error::EngineUnreachable { engine: address.clone(), cause: causes(&error) };
        let version = bollard::API_DEFAULT_VERSION;
        let docker = if address.starts_with("unix://") {
            Docker::connect_with_unix(&address, timeout, version)
        } else if address.starts_with("tcp://") || address.starts_with("http://") {
            Docker::connect_with_http(&address, timeout, version)
        } else {
            return Err(Error::bad_with(
                format!("the engine address {address:?} is not understood"),
                "write unix:///path/to/docker.sock or tcp://host:port",
            ));
        };
        let docker = docker.map_err(unreachable)?;
        let asked = tokio::time::timeout(Duration::from_secs(PING_TIMEOUT), docker.negotiate_version()).await;
        let docker = match asked {
            Ok(answer) => answer.map_err(unreachable)?,
            Err(_) => {
                let cause = format!("it did not answer within {PING_TIMEOUT} s");
                return Err(Error::EngineUnreachable { engine: address, cause });
            }
        };
        let patience = Patience { build: BUILD_SILENCE, export: EXPORT_SILENCE, answer: ANSWER };
        Ok(Self { docker, address, patience })
    }

    /// The answer to a question, if it comes in time.
    async fn ask<T>(&self, action: &str, question: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout(self.patience.answer, question).await.map_err(|_| Error::Engine {
            engine: self.address.clone(),
            action: action.to_owned(),
            cause: format!("it did not answer within {} s", self.patience.answer.as_secs()),
        })
    }

    /// The next item of a stream. After a silence in which `moved` did not grow either the engine must answer a ping, and it
    /// may not be silent for ever.
    async fn next<T, E>(
        &self,
        stream: &mut (impl Stream<Item = std::result::Result<T, E>> + Unpin),
        moved: impl Fn() -> u64,
    ) -> std::result::Result<Option<T>, Stopped<E>> {
        let (mut silences, mut before) = (0, moved());
        loop {
            if let Ok(next) = tokio::time::timeout(self.patience.build, stream.next()).await {
                return next.transpose().map_err(Stopped::Failed);
            }
            let now = moved();
            silences = if now > before { 0 } else { silences + 1 };
            before = now;
            let silent = self.patience.build.as_secs() * u64::from(silences);
            if silences == SILENCES {
                return Err(Stopped::Silent(format!("it said nothing for {silent} s")));
            }
            if silences > 0 && !matches!(self.ask("answer a ping", self.docker.ping()).await, Ok(Ok(_))) {
                return Err(Stopped::Silent(format!("it said nothing for {silent} s and does not answer a ping")));
            }
        }
    }

    /// The archive of an image. Its beginning may take long, because the engine packs it whole first; then it must flow.
    fn save(&self, id: &str) -> impl Stream<Item = io::Result<Bytes>> + use<> {
        let stream = Box::pin(self.docker.export_image(id));
        futures::stream::try_unfold((self.clone(), stream, false), |(engine, mut stream, begun)| async move {
            let next = if begun {
                let limit = engine.patience.export;
                match tokio::time::timeout(limit, stream.next()).await {
                    Ok(next) => next.transpose().map_err(Stopped::Failed),
                    Err(_) => Err(Stopped::Silent(format!("it stopped sending for {} s", limit.as_secs()))),
                }
            } else {
                engine.next(&mut stream, || 0).await
            };
            match next {
                Ok(next) => Ok(next.map(|bytes| (bytes, (engine, stream, true)))),
                Err(Stopped::Failed(error)) => Err(io::Error::other(causes(&error))),
                Err(Stopped::Silent(cause)) => Err(io::Error::other(cause)),
            }
        })
    }

    fn lost(&self, action: impl Into<String>, error: &bollard::errors::Error) -> Error {
        Error::Engine { engine: self.address.clone(), action: action.into(), cause: causes(error) }
    }

    /// Builds for one platform; once more if the image was removed before it was saved.
    async fn build(&self, request: &Request<'_>, to: &Path, events: &Events) -> Result<Whole> {
        match self.build_once(request, to, events).await? {
            Taken::Whole(whole) => return Ok(whole),
            Taken::Gone(error) => {
                events.warn(format!("the image was removed before it was saved, and is built again: {error}"))
            }
        }
        match self.build_once(request, to, events).await? {
            Taken::Whole(whole) => Ok(whole),
            Taken::Gone(error) => Err(error),
        }
    }

    async fn build_once(&self, request: &Request<'_>, to: &Path, events: &Events) -> Result<Taken> {
        let kit = match buildkit::open(self).await? {
            Ok(kit) => kit,
            Err(said) => {
                classic::check(request, &said)?;
                events
                    .warn(format!("the Docker Engine at {} has no BuildKit; its classic builder builds", self.address));
                let leftover = Leftover::new(self).await?;
                let (id, log) = classic::build(self, request, &leftover, events).await?;
                return self.keep(request, id, log, leftover, to, events).await;
            }
        };
        let containerd = self.keeps_images_with_containerd().await?;
        buildkit::check(request, containerd)?;
        events.note(format!("BuildKit of the Docker Engine at {} builds", self.address));
        if !containerd {
            let leftover = Leftover::new(self).await?;
            let made = kit.build(self, request, buildkit::Output::Engine, events).await?;
            let Some(id) = made.config else {
                let cause = "it does not name the image that it has built".to_owned();
                return Err(self.failed(Failed::Lost(cause), None, made.log, request));
            };
            return self.keep(request, id, made.log, leftover, to, events).await;
        }
        let (sender, receiver) = mpsc::channel(16);
        let archive = futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let expected = self.expected("the image that was just built", request);
        let building = kit.build(self, request, buildkit::Output::Archive(sender), events);
        let (made, received) = tokio::join!(building, export::receive(archive, expected, to, events));
        let (made, image) = match (made, received) {
            (Ok(made), Ok(image)) => (made, image),
            (Err(error), Err(why)) if explains(&why, &error) => return Err(why),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        Ok(Taken::Whole((Self::same_image(image, made.config)?, None, made.log)))
    }

    /// Takes an image that the engine has made and keeps. If the engine has it no more, it was removed beside this build: what it made is not at fault.
    async fn keep(
        &self,
        request: &Request<'_>,
        id: String,
        log: Vec<String>,
        leftover: Leftover,
        to: &Path,
        events: &Events,
    ) -> Result<Taken> {
        leftover.add(&id);
        let taken = self.take(request, &id, to, events).await;
        match taken {
            Ok(manifest) => {
                leftover.keep();
                Ok(Taken::Whole((manifest, Some(id), log)))
            }
            Err(error) => {
                let shown = self.ask("show an image", self.docker.inspect_image(&id)).await;
                match shown {
                    Ok(Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })) => {
                        Ok(Taken::Gone(error))
                    }
                    _ => Err(error),
                }
            }
        }
    }

    /// The manifest of an image that the engine keeps.
    async fn take(&self, request: &Request<'_>, id: &str, to: &Path, events: &Events) -> Result<Descriptor> {
        let action = || format!("show image {id} that it has just built");
        let expected = self.expected(&format!("image {id}"), request);
        let shown = self.ask(&action(), self.docker.inspect_image(id)).await?;
        let shown = shown.map_err(|error| self.lost(action(), &error))?;
        if shown.root_fs.and_then(|files| files.layers).is_none_or(|layers| layers.is_empty()) {
            return Err(expected.empty());
        }
        let image = export::receive(self.save(id), expected, to, events).await?;
        Self::same_image(image, Some(id.to_owned()))
    }

    fn expected(&self, what: &str, request: &Request<'_>) -> Expected {
        Expected {
            what: what.to_owned(),
            engine: self.address.clone(),
            dockerfile: request.spec.dockerfile.clone(),
            platform: request.platform.and_then(Platform::parse),
            annotations: annotations(&request.labels),
        }
    }

    /// That what arrived is what the engine said that it built: by its configuration, or by the manifest where that is the image's ID.
    fn same_image(image: Image, id: Option<String>) -> Result<Descriptor> {
        let (config, manifest) = (image.config.to_string(), image.manifest.digest.to_string());
        match id {
            Some(id) if id != config && id != manifest => {
                let why = format!("the engine sent image {manifest} with configuration {config} instead");
                Err(Error::damaged(&id, why))
            }
            _ => Ok(image.manifest),
        }
    }

    async fn keeps_images_with_containerd(&self) -> Result<bool> {
        let info = self.ask("describe itself", self.docker.info()).await?;
        let info = info.map_err(|error| self.lost("describe itself", &error))?;
        let mut pairs = info.driver_status.unwrap_or_default().into_iter();
        Ok(pairs.any(|pair| pair.iter().any(|word| word == "io.containerd.snapshotter.v1")))
    }

    /// The error of a build: which step, where in the Dockerfile, and nothing of a secret.
    fn failed(&self, failed: Failed, step: Option<String>, log: Vec<String>, request: &Request<'_>) -> Error {
        let (dockerfile, redactor) = (request.dockerfile, request.redactor);
        let step = step.map(|step| redactor.clean(&step));
        match failed {
            Failed::Lost(cause) => {
                Error::BuildLost { engine: self.address.clone(), step, cause: redactor.clean(&cause), log }
            }
            Failed::Build(cause) => {
                let of_step = |step: &String| dockerfile.line_of_vertex(step).or_else(|| dockerfile.line_of_step(step));
                let line = Dockerfile::line_in_message(&cause).or_else(|| step.as_ref().and_then(of_step));
                let at = line.map(|line| format!("{}:{line}", request.spec.dockerfile));
                Error::BuildFailed { step, at, cause: redactor.clean(&cause), log }
            }
        }
    }

    /// Removes images of the same build that nothing uses and that were made before a time (since 1970). That it fails harms nothing.
    async fn remove_older(&self, build: &str, keep: &str, before: Duration, events: &Events) {
        let label = format!("{BUILD_LABEL}={build}");
        let filters =
            HashMap::from([("label".to_owned(), vec![label]), ("dangling".to_owned(), vec!["true".to_owned()])]);
        let options = ListImagesOptions { filters: Some(filters), ..ListImagesOptions::default() };
        let images = match self.ask("list its images", self.docker.list_images(Some(options))).await {
            Ok(Ok(images)) => images,
            Ok(Err(error)) => {
                return events.warn(format!("older images of this build could not be listed: {}", causes(&error)));
            }
            Err(error) => return events.warn(format!("older images of this build could not be listed: {error}")),
        };
        let oldest = i64::try_from(before.as_secs()).unwrap_or(0);
        for image in images.into_iter().filter(|image| image.id != keep && image.created < oldest) {
            // Without force: an image that a container uses stays.
            let removing = self.docker.remove_image(&image.id, None::<RemoveImageOptions>, None);
            let removed = match self.ask("remove an image", removing).await {
                Ok(removed) => removed,
                Err(error) => {
                    return events.warn(format!("the older image {} could not be removed: {error}", image.id));
                }
            };
            match removed {
                Ok(_) => events.note(format!("removed the older image {} of the same build from the engine", image.id)),
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
                Err(error) => {
                    events.warn(format!("the older image {} could not be removed: {}", image.id, causes(&error)))
                }
            }
        }
    }
}

fn default_address() -> String {
    if let Ok(host) = std::env::var("DOCKER_HOST")
        && !host.is_empty()
    {
        return host;
    }
    let system = Path::new("/var/run/docker.sock");
    let rootless = std::env::var_os("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("docker.sock"));
    match rootless {
        Some(socket) if !system.exists() && socket.exists() => format!("unix://{}", socket.display()),
        _ => format!("unix://{}", system.display()),
    }
}

/// Reads a Dockerfile and looks for steps in it: an entry for fuzzing. Lines that are found are lines that it has.
#[cfg(feature = "testing")]
pub(crate) fn dockerfile_lines(text: &str, steps: &[&str]) -> Vec<usize> {
    let file = Dockerfile::parse(text);
    steps.iter().flat_map(|step| [file.line_of_vertex(step), file.line_of_step(step)]).flatten().collect()
}

/// An error with what caused it: the outer ones of HTTP clients say little.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        next = inner.source();
    }
    text
}
