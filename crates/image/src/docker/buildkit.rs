//! A build by the engine's BuildKit: asked for by its own protocol (`/grpc`), which knows caches, exporters and progress, while the engine
//! asks us for context and secrets over `/session`.
//!
//! An engine with the containerd image store sends the image to us, and it is never an image of the engine's. One without can only keep it, and
//! it is saved from there.

use super::{
    Engine, Failed, Request, Stopped, annotations, causes,
    connection::{Transport, Upgraded},
    progress::Progress,
    session::{self, METHODS, Offer},
};
use crate::error::{Error, Result};
use bollard::moby::buildkit::v1::{
    CacheOptions, CacheOptionsEntry, SolveRequest, SolveResponse, StatusRequest, StatusResponse,
    control_client::ControlClient,
};
use bytes::Bytes;
use domain::Events;
use futures::{FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

/// The most that one message of the engine's may have; BuildKit's own limit.
const LARGEST_MESSAGE: usize = 16 << 20;
/// The most that BuildKit takes as one secret.
const LARGEST_SECRET: usize = 500 * 1024;
/// How long the last lines may take once the build has ended.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Where the image goes.
pub(super) enum Output {
    /// It becomes an image of the engine, without a tag.
    Engine,
    /// Its OCI archive is sent here.
    Archive(mpsc::Sender<io::Result<Bytes>>),
}

/// What the engine said of the image that it made.
pub(super) struct Made {
    /// Digest of its configuration, if the engine told.
    pub(super) config: Option<String>,
    pub(super) log: Vec<String>,
}

/// An engine with BuildKit, and the session that it may ask.
pub(super) struct BuildKit {
    pub(super) session: String,
    pub(super) connection: Transport,
    ended: CancellationToken,
    /// Both connections end with the build, however it ends.
    _guard: DropGuard,
}

/// One message while it builds.
enum Said {
    Status(StatusResponse),
    Solved(Result<SolveResponse, Status>),
}

/// Opens the session by which an engine shows that it has BuildKit; if not, why.
pub(super) async fn open(engine: &Engine) -> Result<Result<BuildKit, String>> {
    let ended = CancellationToken::new();
    let session = Uuid::new_v4().simple().to_string();
    let mut headers = vec![
        ("X-Docker-Expose-Session-Uuid", session.clone()),
        ("X-Docker-Expose-Session-Name", "sealift".to_owned()),
        ("X-Docker-Expose-Session-Sharedkey", String::new()),
    ];
    headers.extend(METHODS.map(|method| ("X-Docker-Expose-Session-Grpc-Method", method.to_owned())));
    Ok(match engine.upgrade("/session", &headers, &ended).await? {
        Upgraded::Yes(connection) => Ok(BuildKit { session, connection, _guard: ended.clone().drop_guard(), ended }),
        Upgraded::NotThere(said) => Err(said),
    })
}

/// Refuses what BuildKit would refuse late or in other words.
pub(super) fn check(request: &Request<'_>, containerd: bool) -> Result<()> {
    for (id, secret) in request.secrets {
        let bytes = secret.reveal().len();
        if bytes > LARGEST_SECRET {
            return Err(Error::bad(format!("secret {id} has {bytes} bytes; BuildKit takes at most {LARGEST_SECRET}")));
        }
    }
    for written in &request.spec.cache_to {
        let entry = cache_entry(written, true)?;
        if !containerd && entry.r#type != "inline" {
            let what = format!(
                "the cache cannot be written to {written:?}: this Docker Engine keeps images without containerd, and such an engine only writes a cache into the image itself"
            );
            let hint = "write cache_to = [\"type=inline\"] and name the pushed image in cache_from, or switch the engine's containerd image store on";
            return Err(Error::bad_with(what, hint));
        }
    }
    request.spec.cache_from.iter().try_for_each(|written| cache_entry(written, false).map(drop))
}

/// `REFERENCE`, or `type=registry,ref=REFERENCE,…` as BuildKit's own tools write it.
fn cache_entry(written: &str, export: bool) -> Result<CacheOptionsEntry> {
    if !written.contains('=') {
        let mut attrs = HashMap::from([("ref".to_owned(), written.to_owned())]);
        if export {
            attrs.insert("mode".to_owned(), "max".to_owned());
        }
        return Ok(CacheOptionsEntry { r#type: "registry".to_owned(), attrs });
    }
    let mut attrs = HashMap::new();
    for pair in written.split(',') {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Error::bad_with(
                format!("the cache {written:?} is not understood at {pair:?}"),
                "write an image reference, or type=registry,ref=REFERENCE",
            )
        })?;
        attrs.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    let kind = attrs.remove("type").ok_or_else(|| {
        Error::bad_with(format!("the cache {written:?} has no type"), "write type=registry,ref=REFERENCE")
    })?;
    if kind == "local" {
        let what = format!("the cache {written:?} is a folder, which is not served to the engine");
        return Err(Error::bad_with(what, "use a registry: type=registry,ref=REFERENCE"));
    }
    Ok(CacheOptionsEntry { r#type: kind, attrs })
}

fn solve_request(request: &Request<'_>, session: &str, context_path: &str, archive: bool) -> Result<SolveRequest> {
    let spec = request.spec;
    let mut frontend_attrs = HashMap::from([
        ("context".to_owned(), format!("http://buildkit-session{context_path}")),
        ("filename".to_owned(), spec.dockerfile.clone()),
        // As `docker build` does: an image that the engine has is not asked for again.
        ("image-resolve-mode".to_owned(), "local".to_owned()),
    ]);
    let target = spec.target.as_ref().map(|target| ("target".to_owned(), target.clone()));
    let platform = request.platform.map(|platform| ("platform".to_owned(), platform.to_owned()));
    // For the frontend, a key without a value is all steps.
    let no_cache = spec.no_cache.then(|| ("no-cache".to_owned(), String::new()));
    frontend_attrs.extend(target.into_iter().chain(platform).chain(no_cache));
    frontend_attrs.extend(spec.args.iter().map(|(key, value)| (format!("build-arg:{key}"), value.clone())));
    frontend_attrs.extend(request.labels.iter().map(|(key, value)| (format!("label:{key}"), value.clone())));
    let entries_of =
        |list: &[String], export| list.iter().map(|one| cache_entry(one, export)).collect::<Result<Vec<_>>>();
    let imports = entries_of(&spec.cache_from, false)?;
    if !imports.is_empty() {
        // The frontend has its own way to be told of caches; BuildKit's own tools use both.
        let named: Vec<_> = imports.iter().map(|one| json!({"Type": one.r#type, "Attrs": one.attrs})).collect();
        frontend_attrs.insert("cache-imports".to_owned(), serde_json::Value::from(named).to_string());
    }
    let annotations = annotations(&request.labels).into_iter().filter(|_| archive);
    let cache = CacheOptions { exports: entries_of(&spec.cache_to, true)?, imports, ..CacheOptions::default() };
    Ok(SolveRequest {
        r#ref: Uuid::new_v4().simple().to_string(),
        exporter_deprecated: if archive { "oci" } else { "moby" }.to_owned(),
        exporter_attrs_deprecated: annotations.map(|(key, value)| (format!("annotation.{key}"), value)).collect(),
        session: session.to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs,
        cache: Some(cache),
        ..SolveRequest::default()
    })
}

impl BuildKit {
    /// Builds. What was sent or saved is counted by `moved`, so that a long upload is no silence.
    pub(super) async fn build(
        self,
        engine: &Engine,
        request: &Request<'_>,
        output: Output,
        events: &Events,
    ) -> Result<Made> {
        let Self { session, connection, ended, _guard } = self;
        let (archive, image) = match output {
            Output::Engine => (false, None),
            Output::Archive(sender) => (true, Some(sender)),
        };
        let moved = Arc::new(AtomicU64::new(0));
        let context_path = format!("/{}", Uuid::new_v4().simple());
        let offer = Arc::new(Offer {
            context: request.context.clone(),
            context_path: context_path.clone(),
            secrets: request.secrets.clone(),
            image: Mutex::new(image),
            events: events.clone(),
            moved: moved.clone(),
            sendings: Mutex::default(),
        });
        tokio::spawn(session::serve(offer.clone(), connection));
        let channel = control(engine, &ended).await?;
        let client = ControlClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let solve = solve_request(request, &session, &context_path, archive)?;
        let mut progress = Progress::new(events, request.redactor.clone());
        let outcome = follow(engine, client, solve, &moved, &mut progress).await;
        // The receiver of the archive must see its end.
        drop(offer.image.lock().unwrap_or_else(PoisonError::into_inner).take());
        let sendings = std::mem::take(&mut *offer.sendings.lock().unwrap_or_else(PoisonError::into_inner));
        for sending in sendings {
            // What went wrong with the context explains what went wrong with the build.
            if let Err(error @ Error::BadInput { .. }) = sending.end().await {
                return Err(error);
            }
        }
        match outcome {
            Ok(mut response) => {
                let mut digest = |key: &str| response.exporter_response.remove(key);
                // Without containerd an image's digest is that of its configuration, and old engines know no other word for it.
                let by_config = digest("containerimage.config.digest");
                let config = if archive { by_config } else { by_config.or_else(|| digest("containerimage.digest")) };
                Ok(Made { log: progress.finish(config.clone().unwrap_or_else(|| "built".to_owned())), config })
            }
            Err(stopped) => {
                let (step, log) = progress.end();
                Err(engine.failed(why(stopped), step, log, request))
            }
        }
    }
}

/// Whether the build is at fault or the engine.
fn why(stopped: Stopped<Status>) -> Failed {
    use std::error::Error as _;
    match stopped {
        Stopped::Silent(cause) => Failed::Lost(cause),
        // A status that was not sent by the engine but made here has what went wrong with the connection inside.
        Stopped::Failed(status) if status.source().is_some() => Failed::Lost(causes(&status)),
        Stopped::Failed(status) => match status.code() {
            Code::Unavailable | Code::Cancelled | Code::Aborted | Code::DeadlineExceeded => {
                Failed::Lost(status.message().to_owned())
            }
            _ => Failed::Build(status.message().to_owned()),
        },
    }
}

/// Solves, and takes what is said meanwhile.
async fn follow(
    engine: &Engine,
    client: ControlClient<Channel>,
    request: SolveRequest,
    moved: &AtomicU64,
    progress: &mut Progress,
) -> Result<SolveResponse, Stopped<Status>> {
    let (mut solving, mut telling) = (client.clone(), client);
    let status = StatusRequest { r#ref: request.r#ref.clone() };
    let solved = async move { solving.solve(request).await.map(tonic::Response::into_inner) };
    let solved = solved.map(|outcome| Ok::<_, Status>(Said::Solved(outcome))).into_stream().boxed();
    // That the engine stopped telling is no failure of the build.
    let told = async move { telling.status(status).await.map(tonic::Response::into_inner) };
    let told = told.try_flatten_stream().map_ok(Said::Status).take_while(|said| std::future::ready(said.is_ok()));
    let mut said = futures::stream::select(solved, told.boxed());
    let mut outcome = None;
    loop {
        let next = match &outcome {
            None => engine.next(&mut said, || moved.load(Ordering::Relaxed)).await?,
            Some(_) => match tokio::time::timeout(LAST_LINES, said.next()).await {
                Ok(next) => next.transpose().map_err(Stopped::Failed)?,
                Err(_) => None,
            },
        };
        match next {
            Some(Said::Status(status)) => progress.take(status),
            Some(Said::Solved(solved)) => outcome = Some(solved),
            None => break,
        }
    }
    match outcome {
        Some(outcome) => outcome.map_err(Stopped::Failed),
        None => Err(Stopped::Silent("it stopped answering".to_owned())),
    }
}

/// A client of the engine's BuildKit.
async fn control(engine: &Engine, ended: &CancellationToken) -> Result<Channel> {
    let connection = match engine.upgrade("/grpc", &[], ended).await? {
        Upgraded::Yes(connection) => connection,
        Upgraded::NotThere(said) => {
            let cause = format!("it has a session but no BuildKit behind it ({said})");
            return Err(Error::Engine { engine: engine.address.clone(), action: "open /grpc".to_owned(), cause });
        }
    };
    let once = Mutex::new(Some(TokioIo::new(connection)));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let connection = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(connection.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    let lost = |error: tonic::transport::Error| Error::Engine {
        engine: engine.address.clone(),
        action: "open BuildKit's API".to_owned(),
        cause: causes(&error),
    };
    // The name is never looked up: the connection is there already.
    let endpoint = Endpoint::try_from("http://docker").map_err(lost)?;
    engine.ask("open BuildKit's API", endpoint.connect_with_connector(connector)).await?.map_err(lost)
}
