//! The embedded server over TCP.

use super::{directory::Directory, service};
use crate::{Error, Result};
use domain::secret::Secret;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use std::{future::Future, net::SocketAddr, path::Path, time::Duration};
use tokio::net::{TcpListener, TcpStream};

/// How long requests that are under way may take to end once the server is to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request.
const HEAD: Duration = Duration::from_secs(30);

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
    if credentials.is_none() && !listen.ip().is_loopback() {
        return Err(Error::Open { listen });
    }
    let directory = Directory::open(directory)?;
    for bucket in buckets {
        let failed = |error: s3s::S3Error| {
            let what = format!("cannot make the bucket {bucket}: {}", error.message().unwrap_or("no reason given"));
            let store = directory.root().display().to_string();
            if *error.code() == s3s::S3ErrorCode::Custom(super::FULL.into()) {
                return Error::Full { store, what };
            }
            Error::unavailable(store, what)
        };
        if !s3s::path::check_bucket_name(bucket) {
            return Err(Error::BadBucket { bucket: bucket.clone() });
        }
        directory.make_bucket(bucket).map_err(failed)?;
    }
    let listener = TcpListener::bind(listen).await.map_err(|source| Error::Listen { listen, source })?;
    let address = listener.local_addr().map_err(|source| Error::Listen { listen, source })?;
    let service = service(directory, credentials.as_ref());
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    let graceful = GracefulShutdown::new();
    ready(address);
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener) => {
                let connection = server.serve_connection(TokioIo::new(accepted), service.clone()).into_owned();
                let watched = graceful.watch(connection);
                // A connection that breaks is its client's to report.
                tokio::spawn(async move { drop(watched.await) });
            }
        }
    }
    drop(listener);
    // Whoever is not done by then is cut off; what it was writing is a temporary.
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
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
