//! An HTTP service that predicts the quality of a wine from eleven measurements.
//!
//! - It starts with a whole model or not at all.
//! - At SIGTERM it takes no more connections, finishes the requests that it has, and exits with 0.
//!
//! | variable | default | |
//! |---|---|---|
//! | `MODEL_PATH` | `/models/model.json` | the model |
//! | `HOST` | `0.0.0.0` | the address to listen on |
//! | `PORT` | `8080` | the port; 0 takes a free one |
//! | `RELEASE` | | what was deployed, shown by `/version` |

mod metrics;
mod predict;
mod service;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wine_model::{Model, sha256};

use crate::service::{Service, VERSION};

/// Container engines kill after ten seconds; this is below.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// A client that has sent nothing for so long is let go.
const IDLE_LIMIT: Duration = Duration::from_secs(75);

/// After an `accept` that failed, for instance when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Settings {
    model: PathBuf,
    address: SocketAddr,
    release: Option<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let settings = settings(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    let (model, digest) = load(&settings.model)?;
    let loaded = format!("model {} (sha256 {digest}) from {}", model.version, settings.model.display());
    let service = Arc::new(Service::new(model, digest, settings.release));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime.block_on(serve(settings.address, service, &loaded))
}

fn settings(variable: impl Fn(&str) -> Option<String>) -> Result<Settings, String> {
    let host = variable("HOST").unwrap_or_else(|| "0.0.0.0".into());
    let host: IpAddr = host.parse().map_err(|_| format!("HOST is {host:?}, not an IP address"))?;
    let port = variable("PORT").unwrap_or_else(|| "8080".into());
    let port: u16 = port.parse().map_err(|_| format!("PORT is {port:?}, not a number from 0 to 65535"))?;
    Ok(Settings {
        model: variable("MODEL_PATH").unwrap_or_else(|| "/models/model.json".into()).into(),
        address: SocketAddr::new(host, port),
        release: variable("RELEASE"),
    })
}

fn load(path: &std::path::Path) -> Result<(Model, String), String> {
    let bytes = std::fs::read(path)
        .map_err(|error| format!("cannot read the model {}: {error} (MODEL_PATH names it)", path.display()))?;
    let model = Model::parse(&bytes).map_err(|error| format!("cannot use the model {}: {error}", path.display()))?;
    Ok((model, sha256(&bytes)))
}

async fn serve(address: SocketAddr, service: Arc<Service>, loaded: &str) -> Result<(), String> {
    // Before the listener: a signal that comes right after the first answer must not kill.
    let handler = |kind| signal(kind).map_err(|error| format!("cannot handle signals: {error}"));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let listener = TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let address = listener.local_addr().map_err(|error| format!("cannot tell the address listened on: {error}"))?;
    log(&format!("{VERSION} listens on http://{address} with {loaded}"));

    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped(&mut terminate, &mut interrupt) => break,
        };
        match accepted {
            Ok((stream, _)) => connect(stream, &service, &connections),
            Err(error) => {
                log(&format!("cannot accept a connection: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    service.drain();
    let open = connections.count();
    log(&format!("stopping: {open} connections to finish"));
    tokio::time::timeout(DRAIN_LIMIT, connections.shutdown()).await.map_err(|_| {
        format!("requests did not finish within {} s of the signal, and were cut off", DRAIN_LIMIT.as_secs())
    })?;
    log("stopped");
    Ok(())
}

async fn stopped(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {},
        _ = interrupt.recv() => {},
    }
}

fn connect(stream: tokio::net::TcpStream, service: &Arc<Service>, connections: &GracefulShutdown) {
    // Without it a long answer on a kept-alive connection waits for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = Arc::clone(service);
    let handler = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { service.answer(request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .serve_connection(TokioIo::new(stream), handler);
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        // A client that went away is not an event for the operator.
        let _ = connection.await;
    });
}

/// One line for the operator. A closed standard error is no reason to stop serving.
fn log(line: &str) {
    let _ = writeln!(std::io::stderr(), "wine: {line}");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wine_model::{FORMAT, Feature, Term};

    /// A small model whose features are not in the order of the alphabet.
    pub(crate) fn model() -> Model {
        Model {
            format: FORMAT,
            version: "test".into(),
            algorithm: "by hand".into(),
            features: vec![
                Feature { name: "sulphates".into(), mean: 0.5, deviation: 0.1 },
                Feature { name: "alcohol".into(), mean: 10.0, deviation: 1.0 },
            ],
            intercept: 6.0,
            terms: vec![Term { of: vec![0], weight: 1.0 }, Term { of: vec![1], weight: 0.5 }],
            lowest: 3,
            highest: 8,
        }
    }

    pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn settings_have_defaults_and_bad_ones_are_named() {
        let defaults = settings(|_| None).unwrap();
        assert_eq!(defaults.address.to_string(), "0.0.0.0:8080");
        assert_eq!(defaults.model, PathBuf::from("/models/model.json"));
        for (bad, value) in [("PORT", "eighty"), ("PORT", "65536"), ("HOST", "nowhere")] {
            let error = settings(|name| (name == bad).then(|| value.to_owned())).unwrap_err();
            assert!(error.contains(bad) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn the_image_is_labelled_with_the_version() {
        let label = format!("LABEL org.opencontainers.image.version=\"{VERSION}\"\n");
        assert!(include_str!("../../Dockerfile").contains(&label), "Dockerfile and wine/Cargo.toml name one version");
    }
}
