//! The `docker` builder: a Dockerfile through a real Docker Engine (20.10 and newer), and the engine's image into a layout.
//!
//! The classic builder is used: it is in every engine. Its cache makes the same context, Dockerfile, arguments and labels give the same image, so the newest
//! image of a build stays in the engine, without a tag; older ones of the same build are removed after [`KEEP`]. They are found by [`BUILD_LABEL`],
//! which is also how images of an interrupted build are found. (The classic builder cannot label the containers of single steps.)

use crate::{
    context::{self, Context},
    error::{Error, Result, count, joined},
    export,
    layout::Built,
};
use bollard::{
    Docker,
    models::{BuildInfo, BuildInfoAux, ImageId},
    query_parameters::{BuildImageOptions, ListImagesOptions, RemoveImageOptions},
};
use bytes::Bytes;
use domain::{Digest, Event, Events, config::DockerBuild, event::Unit};
use futures::{Stream, StreamExt};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::{self, Write},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
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
const LOG_LINES: usize = 20;

/// Builds an image with a Docker Engine and writes it as a layout to `to`.
///
/// `context_root` is the component's folder. The context is sent as Docker would, `.dockerignore` included; the engine's output comes as
/// [`Event::Output`] lines. `labels` win over those of the configuration. A build that fails is [`Error::BuildFailed`] with its step and last lines; a stream that ends or
/// breaks without an image is [`Error::BuildLost`]; no engine is [`Error::EngineUnreachable`].
pub async fn build_docker(
    spec: &DockerBuild,
    context_root: &Path,
    labels: &BTreeMap<String, String>,
    to: &Path,
    events: &Events,
) -> Result<Built> {
    let engine = Engine::connect(spec.engine.as_deref(), BUILD_TIMEOUT).await?;
    let (owned, component) = (spec.clone(), context_root.to_owned());
    let context = joined(
        "read the build context in",
        tokio::task::spawn_blocking(move || context::scan(&owned, &component)).await,
    )??;
    for path in &context.left_out {
        events.warn(format!("{path} is no file and is not sent with the build context"));
    }
    let mut all_labels = spec.labels.clone();
    all_labels.extend(labels.clone());
    let build = build_identity(spec, &all_labels);
    all_labels.insert(BUILD_LABEL.to_owned(), build.clone());
    let (id, log_tail) = engine.build(spec, all_labels, context, events).await?;
    let built = export::export(&engine, &id, to, events).await?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    engine.remove_older(&build, &id, now.saturating_sub(KEEP), events).await;
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
fn build_identity(spec: &DockerBuild, labels: &BTreeMap<String, String>) -> String {
    let names = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
    let title = labels.get("org.opencontainers.image.title");
    let what = (&spec.context, &spec.dockerfile, &spec.target, names(&spec.args), names(labels), title);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Digest::of(format!("{what:?}")).as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A connection to an engine that has answered.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) docker: Docker,
    pub(crate) address: String,
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
pub(crate) enum Stopped {
    /// The client library says.
    Failed(bollard::errors::Error),
    /// It was not waited for any longer.
    Silent(String),
}

/// What a build has said so far.
#[derive(Default)]
struct Progress {
    id: Option<String>,
    step: Option<String>,
    steps: u64,
    partial: String,
    log: VecDeque<String>,
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
    async fn next<T>(
        &self,
        stream: &mut (impl Stream<Item = std::result::Result<T, bollard::errors::Error>> + Unpin),
        moved: impl Fn() -> u64,
    ) -> std::result::Result<Option<T>, Stopped> {
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
    pub(crate) fn save(&self, id: &str) -> impl Stream<Item = io::Result<Bytes>> + use<> {
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

    pub(crate) fn lost(&self, action: impl Into<String>, error: &bollard::errors::Error) -> Error {
        Error::Engine { engine: self.address.clone(), action: action.into(), cause: causes(error) }
    }

    async fn build(
        &self,
        spec: &DockerBuild,
        labels: BTreeMap<String, String>,
        context: Context,
        events: &Events,
    ) -> Result<(String, Vec<String>)> {
        let options = BuildImageOptions {
            dockerfile: spec.dockerfile.clone(),
            target: spec.target.clone().unwrap_or_default(),
            buildargs: Some(spec.args.clone().into_iter().collect()),
            labels: Some(labels.into_iter().collect()),
            rm: true,
            forcerm: true,
            ..BuildImageOptions::default()
        };
        let (body, sender) = send(context, events);
        let task = events.task("docker build", None, Unit::Items);
        let mut progress = Progress::default();
        let mut stream = self.docker.build_image(options, None, Some(bollard::body_try_stream(body)));
        let outcome = loop {
            match self.next(&mut stream, || sender.moved.load(Ordering::Relaxed)).await {
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
                Ok(Some(info)) => {
                    let before = progress.steps;
                    let started = progress.take(info, events);
                    if started > before {
                        if before == 0 {
                            task.grow(progress.total());
                        }
                        task.advance(started - before);
                    }
                }
            }
        };
        drop(stream);
        // What went wrong with the context explains what went wrong with the build, but a build may also end without reading all of it.
        let sent = sender.end().await;
        if let Err(error @ Error::BadInput { .. }) = sent {
            return Err(error);
        }
        progress.end_line(events);
        let log: Vec<String> = progress.log.into();
        match (outcome, progress.id) {
            (Ok(()), Some(id)) => {
                let action = || format!("show image {id} that it has just built");
                let shown = self.ask(&action(), self.docker.inspect_image(&id)).await?;
                let shown = shown.map_err(|error| self.lost(action(), &error))?;
                if shown.root_fs.and_then(|files| files.layers).is_none_or(|layers| layers.is_empty()) {
                    let what = format!(
                        "{} makes an image without a single file, which a Docker Engine cannot save",
                        spec.dockerfile
                    );
                    return Err(Error::bad_with(what, "copy something into it, or set build.builder to none"));
                }
                task.finish(id.clone());
                Ok((id, log))
            }
            (Ok(()), None) => {
                let cause = "its stream ended".to_owned();
                Err(Error::BuildLost { engine: self.address.clone(), step: progress.step, cause, log })
            }
            (Err(Stopped::Failed(error)), _) => Err(self.failed(error, progress.step, log)),
            (Err(Stopped::Silent(cause)), _) => {
                Err(Error::BuildLost { engine: self.address.clone(), step: progress.step, cause, log })
            }
        }
    }

    /// Whether the build is at fault or the engine.
    fn failed(&self, error: bollard::errors::Error, step: Option<String>, log: Vec<String>) -> Error {
        use bollard::errors::Error as Bollard;
        match error {
            Bollard::DockerStreamError { error } => Error::BuildFailed { step, cause: error, log },
            Bollard::DockerResponseServerError { status_code: 400..=499, message } => {
                Error::BuildFailed { step, cause: message, log }
            }
            other => Error::BuildLost { engine: self.address.clone(), step, cause: causes(&other), log },
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

impl Progress {
    /// Takes one message and returns the number of steps that have begun.
    fn take(&mut self, info: BuildInfo, events: &Events) -> u64 {
        if let Some(BuildInfoAux::Default(ImageId { id: Some(id) })) = info.aux {
            self.id = Some(id);
        }
        if let Some(status) = info.status {
            // Progress of a pull is many lines a second; its ends are enough.
            if info.progress_detail.is_none_or(|detail| detail.total.is_none()) {
                let subject = info.id.map(|id| format!("{id}: ")).unwrap_or_default();
                self.line(format!("{subject}{status}"), events);
            }
        }
        self.partial.push_str(&info.stream.unwrap_or_default());
        while let Some(end) = self.partial.find('\n') {
            let rest = self.partial.split_off(end + 1);
            let line = std::mem::replace(&mut self.partial, rest);
            self.line(line.trim_end().to_owned(), events);
        }
        self.steps
    }

    fn line(&mut self, line: String, events: &Events) {
        if line.trim().is_empty() {
            return;
        }
        if line.starts_with("Step ") && line.contains(" : ") {
            self.steps += 1;
            self.step = Some(line.clone());
        }
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(line.clone());
        events.emit(Event::Output { source: "docker build".to_owned(), line });
    }

    fn end_line(&mut self, events: &Events) {
        let rest = std::mem::take(&mut self.partial);
        self.line(rest.trim_end().to_owned(), events);
    }

    /// How many steps the first step said there are.
    fn total(&self) -> u64 {
        let of = self.step.as_deref().and_then(|step| step.split_once('/')).map(|(_, rest)| rest);
        of.and_then(|rest| rest.split(' ').next()).and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

/// Writes to the engine from a thread that reads files.
struct Channel(mpsc::Sender<io::Result<Bytes>>);

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The end of the channel that the request reads. It can be taken away, or a thread could wait for ever for an engine that stopped reading.
type Receiving = Arc<Mutex<Option<mpsc::Receiver<io::Result<Bytes>>>>>;

/// A context that is being sent.
struct Sending {
    /// Counts the pieces that the engine took.
    moved: Arc<AtomicU64>,
    thread: tokio::task::JoinHandle<Result<()>>,
    receiver: Receiving,
}

impl Sending {
    /// How the sending ended, once the build has.
    async fn end(self) -> Result<()> {
        drop(self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take());
        joined("send the build context from", self.thread.await)?
    }
}

/// The context as a request body, and the thread that fills it.
fn send(context: Context, events: &Events) -> (impl Stream<Item = io::Result<Bytes>> + Send + 'static, Sending) {
    let (sender, receiver) = mpsc::channel(16);
    let task = events.task("send the build context", Some(context.bytes).filter(|bytes| *bytes > 0), Unit::Bytes);
    let thread = tokio::task::spawn_blocking(move || {
        let buffered = io::BufWriter::with_capacity(64 * 1024, Channel(sender.clone()));
        let outcome = context.write(buffered, &task);
        match &outcome {
            Ok(()) => task.finish(count(context.entries.len() as u64, "entry", "entries")),
            // The body must not end as if it were whole.
            Err(error) => drop(sender.blocking_send(Err(io::Error::other(error.to_string())))),
        }
        outcome
    });
    let receiver: Receiving = Arc::new(Mutex::new(Some(receiver)));
    let moved = Arc::new(AtomicU64::new(0));
    let (shared, counted) = (receiver.clone(), moved.clone());
    let stream = futures::stream::poll_fn(move |task| {
        counted.fetch_add(1, Ordering::Relaxed);
        match &mut *shared.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(receiver) => receiver.poll_recv(task),
            None => Poll::Ready(None),
        }
    });
    (stream, Sending { moved, thread, receiver })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(engine: String) -> DockerBuild {
        DockerBuild {
            context: ".".to_owned(),
            dockerfile: "Dockerfile".to_owned(),
            target: None,
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            engine: Some(engine),
            platforms: Vec::new(),
            secrets: BTreeMap::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
        }
    }

    #[test]
    fn the_build_label_tells_what_is_built_and_not_which_run() {
        let labels = |title: &str, version: &str| {
            BTreeMap::from([
                ("org.opencontainers.image.title".to_owned(), title.to_owned()),
                ("org.opencontainers.image.version".to_owned(), version.to_owned()),
            ])
        };
        let spec = spec("unix:///x".to_owned());
        let identity = build_identity(&spec, &labels("wine", "1.0.0"));
        assert_eq!(identity, build_identity(&spec, &labels("wine", "1.1.0")));
        assert_ne!(identity, build_identity(&spec, &labels("beer", "1.0.0")));
        assert_eq!((identity.len(), &identity[14..15]), (36, "8"));
    }

    /// Answers a version to whoever asks, and reads everything else without ever answering: an engine whose process stands still.
    /// With `ping`, that is answered too; with `say`, a request but those gets this beginning of an answer.
    async fn frozen_engine(socket: &Path, ping: bool, say: &'static str) -> Engine {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut buffer = [0; 64 * 1024];
                    let mut said = false;
                    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                        let line = text.lines().next().unwrap_or_default();
                        let body = match () {
                            () if line.contains("/version") => r#"{"Version":"20.10.0","ApiVersion":"1.41"}"#,
                            () if line.contains("/_ping") && ping => "OK",
                            () if !said && !line.contains("/_ping") => {
                                said = true;
                                if !say.is_empty() {
                                    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                                    let answer = format!("{head}{:x}\r\n{say}\r\n", say.len());
                                    stream.write_all(answer.as_bytes()).await.unwrap();
                                }
                                continue;
                            }
                            () => continue,
                        };
                        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
                        let answer = format!("{head} {}\r\n\r\n{body}", body.len());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let mut engine = Engine::connect(Some(&format!("unix://{}", socket.display())), 60).await.unwrap();
        let short = Duration::from_millis(300);
        engine.patience = Patience { build: short, export: short, answer: short };
        engine
    }

    const LINE: &str = "{\"stream\":\"Step 1/2 : FROM scratch\\n\"}\n";

    #[tokio::test]
    async fn a_build_in_a_frozen_engine_ends() {
        for (number, (ping, say)) in [(false, ""), (false, LINE), (true, LINE)].into_iter().enumerate() {
            let root = tempfile::tempdir().unwrap();
            let sockets = tempfile::tempdir().unwrap();
            let engine = frozen_engine(&sockets.path().join("socket"), ping, say).await;
            std::fs::write(root.path().join("Dockerfile"), "FROM scratch\nCOPY f /f\n").unwrap();
            std::fs::write(root.path().join("f"), "f").unwrap();
            let spec = spec(engine.address.clone());
            let context = context::scan(&spec, root.path()).unwrap();
            let events = Events::nowhere();
            let building = engine.build(&spec, BTreeMap::new(), context, &events);
            let built = tokio::time::timeout(Duration::from_secs(30), building).await.expect("it ends");
            let error = built.unwrap_err();
            let Error::BuildLost { step, cause, .. } = &error else { panic!("{number}: {error:?}") };
            assert_eq!(error.class(), domain::Class::Unavailable);
            assert_eq!(cause.contains("does not answer a ping"), !ping, "{number}: {error}");
            assert!(cause.contains("it said nothing"), "{number}: {error}");
            assert_eq!(step.is_some(), !say.is_empty(), "{number}: {error}");
        }
    }

    #[tokio::test]
    async fn an_image_that_stops_arriving_is_given_up() {
        for say in ["", LINE] {
            let root = tempfile::tempdir().unwrap();
            let engine = frozen_engine(&root.path().join("socket"), false, say).await;
            let to = root.path().join("layout");
            let events = Events::nowhere();
            let saving = export::export(&engine, "sha256:abc", &to, &events);
            let saved = tokio::time::timeout(Duration::from_secs(30), saving).await.expect("it ends");
            let error = saved.unwrap_err();
            assert!(matches!(&error, Error::Engine { .. }), "{error:?}");
            let why = if say.is_empty() { "does not answer a ping" } else { "it stopped sending" };
            assert!(error.to_string().contains(why), "{error}");
            let inspected = engine.ask("show an image", engine.docker.inspect_image("abc")).await;
            assert!(inspected.unwrap_err().to_string().contains("could not show an image: it did not answer"));
        }
    }

    #[tokio::test]
    async fn older_images_of_the_same_build_are_removed_and_the_newest_stays() {
        let Some(address) = std::env::var("SEALIFT_TEST_DOCKER").ok().filter(|text| !text.is_empty()) else {
            assert_ne!(
                std::env::var("CI").as_deref(),
                Ok("true"),
                "SEALIFT_TEST_DOCKER is not set; in CI nothing is left out"
            );
            return;
        };
        let engine = Engine::connect(Some(&address), 60).await.unwrap();
        let spec = spec(address);
        let mut ids = Vec::new();
        let title = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let labels = BTreeMap::from([("org.opencontainers.image.title".to_owned(), title.trim().to_owned())]);
        let build = build_identity(&spec, &labels);
        for content in ["one", "two"] {
            let root = tempfile::tempdir().unwrap();
            std::fs::write(root.path().join("Dockerfile"), "FROM scratch\nCOPY f /f\n").unwrap();
            std::fs::write(root.path().join("f"), format!("{content} {title}")).unwrap();
            build_docker(&spec, root.path(), &labels, &root.path().join("layout"), &Events::nowhere()).await.unwrap();
            let filters = HashMap::from([("label".to_owned(), vec![format!("{BUILD_LABEL}={build}")])]);
            let options = ListImagesOptions { filters: Some(filters), ..ListImagesOptions::default() };
            let found = engine.docker.list_images(Some(options)).await.unwrap().into_iter().map(|image| image.id);
            ids.extend(found.filter(|id| !ids.contains(id)).collect::<Vec<_>>());
        }
        assert_eq!(ids.len(), 2, "both are young and stay");
        let far_future = Duration::from_secs(1 << 40);
        engine.remove_older(&build, &ids[1], far_future, &Events::nowhere()).await;
        assert!(engine.docker.inspect_image(&ids[0]).await.is_err());
        engine.docker.inspect_image(&ids[1]).await.unwrap();
        engine.docker.remove_image(&ids[1], None::<RemoveImageOptions>, None).await.unwrap();
    }
}
