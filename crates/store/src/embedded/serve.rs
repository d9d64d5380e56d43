//! The embedded server over TCP.

use super::{
    directory::Directory,
    limits::{self, Guarded, Limits},
    service,
};
use crate::{Error, Result};
use domain::secret::Secret;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioTimer, server::graceful::GracefulShutdown};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{future::Future, net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// What a connection reads at once; large bodies arrive in pieces of up to this size.
const READ: usize = 512 * 1024;

/// Runs the embedded server over TCP until `stop` resolves, then drains. Serves `sealift store serve`.
///
/// `buckets` are made when they are not there. It listens before `ready` is called with the address (port 0 is any free
/// one). Without credentials only unsigned requests are accepted, and only on a loopback address ([`Error::Open`]).
pub async fn serve(
    directory: &Path,
    listen: SocketAddr,
    buckets: &[String],
    credentials: Option<(String, Secret)>,
    ready: impl FnOnce(SocketAddr) + Send,
    stop: impl Future<Output = ()> + Send,
) -> Result<()> {
    serve_within(Limits::default(), directory, listen, buckets, credentials, ready, stop).await
}

/// [`serve`], within other limits than the usual ones.
///
/// What processes that were killed left behind is removed before it listens.
pub async fn serve_within(
    limits: Limits,
    directory: &Path,
    listen: SocketAddr,
    buckets: &[String],
    credentials: Option<(String, Secret)>,
    ready: impl FnOnce(SocketAddr) + Send,
    stop: impl Future<Output = ()> + Send,
) -> Result<()> {
    if credentials.is_none() && !listen.ip().is_loopback() {
        return Err(Error::Open { listen });
    }
    let directory = prepare(directory, &limits, buckets)?;
    raise_descriptors();
    let listener = TcpListener::bind(listen).await.map_err(|source| Error::Listen { listen, source })?;
    let address = listener.local_addr().map_err(|source| Error::Listen { listen, source })?;
    let front = service(directory, credentials.as_ref());
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits.head_time);
    server.max_header_size(limits.head_bytes).max_headers(limits.head_fields).max_buf_size(READ);
    let graceful = GracefulShutdown::new();
    let (slots, limits) = (Arc::new(Semaphore::new(limits.connections)), Arc::new(limits));
    ready(address);
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            // One that has no slot is not accepted, and waits in the queue of the socket.
            let slot = slots.clone().acquire_owned().await;
            (accept(&listener).await, slot)
        };
        tokio::select! {
            () = &mut stop => break,
            (stream, slot) = next => {
                let (front, limits) = (front.clone(), limits.clone());
                let guarded = Guarded::new(stream, &limits);
                let service = service_fn(move |request| limits::answer(front.clone(), request, limits.clone()));
                let watched = graceful.watch(server.serve_connection(guarded, service));
                tokio::spawn(async move {
                    // A connection that breaks is its client's to report.
                    drop(watched.await);
                    drop(slot);
                });
            }
        }
    }
    drop(listener);
    // Whoever is not done by then is cut off; what it was writing is a temporary.
    let _ = tokio::time::timeout(limits.drain_time, graceful.shutdown()).await;
    Ok(())
}

/// Takes as many descriptors as the system lets this process have: each connection needs one or two. What it does not let it
/// have is waited for where connections are accepted.
fn raise_descriptors() {
    let allowed = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, ..allowed });
}

/// Opens the directory, clears what the dead left in it, and makes the buckets.
fn prepare(directory: &Path, limits: &Limits, buckets: &[String]) -> Result<Arc<Directory>> {
    let directory = Directory::open_within(directory, limits.lock_time)?;
    let failed = |what: String| {
        let store = directory.root().display().to_string();
        move |error: s3s::S3Error| {
            let what = format!("{what}: {}", error.message().unwrap_or("no reason given"));
            if *error.code() == s3s::S3ErrorCode::Custom(super::FULL.into()) {
                return Error::Full { store, what };
            }
            Error::unavailable(store, what)
        }
    };
    directory.begin().map_err(failed("cannot begin to write".to_owned()))?;
    for bucket in buckets {
        if !s3s::path::check_bucket_name(bucket) {
            return Err(Error::BadBucket { bucket: bucket.clone() });
        }
        directory.make_bucket(bucket).map_err(failed(format!("cannot make the bucket {bucket}")))?;
    }
    Ok(directory)
}

/// The next connection. Being out of descriptors is waited out, not fatal.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it, small answers wait 40 ms for an acknowledgement. Failing to set it costs only time.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
