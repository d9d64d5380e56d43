//! One image at a registry of our own, for the engine of this host and for as long as the value lives.
//!
//! An engine that pulls unpacks the first layers while it fetches the next; one that loads an archive begins only when it has all of it.
//!
//! What never happens here:
//!
//! - Nobody but this host is answered: it listens on 127.0.0.1, where engines take plain HTTP. Nobody is given anything who does not know the
//!   repository, whose name is a random UUID, and nothing is there but the manifest, configuration and layers of one image, by their digests.
//! - Nothing is taken: there is GET and HEAD, and no request's body is read.
//! - No blob comes to its end that is not what its digest says: each is hashed while it passes, and its last piece waits for that. The engine
//!   checks the digest again. The first blob that does not hold is remembered, and from then on nothing is given.

use crate::{
    error::{Error, Result},
    into::{Blobs, Plan},
    spec::Descriptor,
};
use bytes::Bytes;
use domain::{Digest, event::Task};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use std::{
    convert::Infallible,
    io,
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What is answered to a TLS greeting: engines try that first, and take this for the word that there is none.
const NO_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// The first byte of a TLS record that holds a greeting.
const TLS: u8 = 0x16;

/// What the registry has, and what it has seen.
struct Shelf {
    blobs: Arc<dyn Blobs>,
    plan: Arc<Plan>,
    repository: String,
    /// Until it is over; a connection may be held a moment longer.
    task: Mutex<Option<Task>>,
    moved: Arc<AtomicU64>,
    failure: Mutex<Option<Error>>,
    failed: CancellationToken,
}

/// The registry. It ends when it is dropped, and with it every connection.
pub(super) struct Loopback {
    shelf: Arc<Shelf>,
    address: String,
    serving: JoinHandle<()>,
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Loopback {
    /// `moved` counts the pieces that were given.
    pub(super) async fn open(
        blobs: &Arc<dyn Blobs>,
        plan: &Arc<Plan>,
        task: Task,
        moved: Arc<AtomicU64>,
    ) -> Result<Self> {
        let failed = Error::file("listen on", Path::new("127.0.0.1"));
        let bound = async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let address = listener.local_addr()?.to_string();
            Ok((listener, address))
        };
        let (listener, address) = bound.await.map_err(failed)?;
        let shelf = Arc::new(Shelf {
            blobs: blobs.clone(),
            plan: plan.clone(),
            repository: uuid::Uuid::new_v4().to_string(),
            task: Mutex::new(Some(task)),
            moved,
            failure: Mutex::new(None),
            failed: CancellationToken::new(),
        });
        let shared = shelf.clone();
        let serving = tokio::spawn(async move {
            // Connections go with the set, and the set with this task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(serve(stream, shared.clone()));
            }
        });
        Ok(Self { shelf, address, serving })
    }

    /// `127.0.0.1:PORT/REPOSITORY`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.address, self.shelf.repository)
    }

    /// Waits until a blob did not hold.
    pub(super) async fn failed(&self) {
        self.shelf.failed.cancelled().await;
    }

    /// Ends well what is shown of it.
    pub(super) fn finish(&self, summary: &str) {
        if let Some(task) = self.shelf.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.finish(summary);
        }
    }

    /// The first blob that did not hold.
    pub(super) fn failure(&self) -> Option<Error> {
        self.shelf.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

async fn serve(mut stream: TcpStream, shelf: Arc<Shelf>) {
    let mut first = [0];
    if matches!(stream.peek(&mut first).await, Ok(1)) && first[0] == TLS {
        return drop(stream.write_all(NO_TLS).await);
    }
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let shelf = shelf.clone();
        async move { Ok::<_, Infallible>(shelf.answer(&request).await) }
    });
    // How a connection ends is for the engine to say.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

impl Shelf {
    async fn answer(self: Arc<Self>, request: &Request<Incoming>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let path = request.uri().path();
        if path == "/v2/" {
            return status(StatusCode::OK);
        }
        let asked = path.strip_prefix("/v2/").and_then(|path| path.strip_prefix(self.repository.as_str()));
        let asked = asked.and_then(|rest| rest.strip_prefix('/')?.split_once('/'));
        let Some((kind, digest)) = asked else { return status(StatusCode::NOT_FOUND) };
        let image = &self.plan.image;
        let found = match digest.parse::<Digest>() {
            Ok(digest) if kind == "manifests" => Some(&image.manifest_descriptor).filter(|one| one.digest == digest),
            Ok(digest) if kind == "blobs" => {
                image.manifest.layers.iter().chain([&image.manifest.config]).find(|one| one.digest == digest)
            }
            _ => None,
        };
        let Some(blob) = found.filter(|_| !self.failed.is_cancelled()).cloned() else {
            return status(StatusCode::NOT_FOUND);
        };
        let head = Response::builder()
            .header(CONTENT_LENGTH, blob.size)
            .header("docker-content-digest", blob.digest.to_string())
            .header(CONTENT_TYPE, if kind == "manifests" { &blob.media_type } else { "application/octet-stream" });
        let body = match (request.method() == Method::HEAD, self.plan.document(&blob.digest)) {
            (true, _) => empty(),
            (false, Some(bytes)) => {
                Full::new(Bytes::copy_from_slice(bytes)).map_err(|never| match never {}).boxed_unsync()
            }
            (false, None) => self.layer(blob).await,
        };
        head.body(body).unwrap_or_else(|_| status(StatusCode::INTERNAL_SERVER_ERROR))
    }

    fn given(&self, bytes: u64) {
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.advance(bytes);
        }
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    fn fail(&self, error: Error) -> io::Error {
        let said = io::Error::other(error.to_string());
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.failed.cancel();
        said
    }

    /// A layer, whose last piece comes only when the whole is what its digest says.
    async fn layer(self: Arc<Self>, blob: Descriptor) -> Body {
        let stream = match self.blobs.open(&blob.digest).await {
            Ok(stream) => stream,
            Err(error) => {
                let said = self.fail(error);
                return StreamBody::new(futures::stream::iter([Err::<Frame<Bytes>, _>(said)])).boxed_unsync();
            }
        };
        let state = (self, stream, Sha256::new(), 0, None::<Bytes>, blob);
        let pieces =
            futures::stream::try_unfold(state, |(shelf, mut stream, mut hash, mut count, mut kept, blob)| async move {
                loop {
                    let piece = match stream.next().await {
                        Some(Ok(piece)) => piece,
                        Some(Err(error)) => return Err(shelf.fail(error)),
                        None => {
                            let digest = Digest::from_bytes(hash.clone().finalize().into());
                            if digest != blob.digest || count != blob.size {
                                return Err(shelf.fail(crate::layer::wrong_bytes(&blob, digest, count)));
                            }
                            let last =
                                kept.take().map(|last| (Frame::data(last), (shelf, stream, hash, count, None, blob)));
                            return Ok(last);
                        }
                    };
                    if piece.is_empty() {
                        continue;
                    }
                    hash.update(&piece);
                    count += piece.len() as u64;
                    if count > blob.size {
                        let why = format!("it has more than {} bytes", blob.size);
                        return Err(shelf.fail(Error::damaged(blob.digest, why)));
                    }
                    shelf.given(piece.len() as u64);
                    if let Some(before) = kept.replace(piece) {
                        return Ok(Some((Frame::data(before), (shelf, stream, hash, count, kept, blob))));
                    }
                }
            });
        StreamBody::new(pieces).boxed_unsync()
    }
}
