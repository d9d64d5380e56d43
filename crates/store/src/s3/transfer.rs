//! Bodies under way: guarded against standing still and against crawling, limited in rate, counted, compared.

use super::S3;
use crate::{ByteStream, Digest, Error, Result, decorate::Pace};
use aws_sdk_s3::primitives::{ByteStream as Sending, ByteStreamError};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest as _, Sha256};
use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// A body goes out in pieces of this size, unless a limit asks for smaller ones.
const PIECE: usize = 256 * 1024;
/// What may still be on its way in the buffers of the system when all of a body was handed over.
const BUFFERED: u64 = 4 * 1024 * 1024;
/// The longest that one attempt may take, besides what its size allows it. A deadline may be shorter.
const ATTEMPT: Duration = Duration::from_secs(60);

/// How far a request has come.
pub(super) struct Moving {
    size: u64,
    pub(super) sent: AtomicU64,
    /// When it last moved, or when its limit lets it go on.
    last: Mutex<Instant>,
}

impl Moving {
    /// A request with a body of this size.
    pub(super) fn new(size: u64) -> Arc<Self> {
        Arc::new(Self { size, sent: AtomicU64::new(0), last: Mutex::new(Instant::now()) })
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn moved(&self, at: Instant) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

/// A body on its way up.
struct Upload {
    rest: Bytes,
    piece: usize,
    pace: Option<Arc<Pace>>,
    waiting: Option<Pin<Box<Sleep>>>,
    moving: Arc<Moving>,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.piece.min(self.rest.len());
        if self.waiting.is_none()
            && let Some(pace) = &self.pace
        {
            let from = pace.reserve(length);
            self.moving.moved(from);
            self.waiting = Some(Box::pin(sleep_until(from)));
        }
        if let Some(waiting) = &mut self.waiting {
            if waiting.poll_unpin(context).is_pending() {
                return Poll::Pending;
            }
            self.waiting = None;
        }
        self.moving.moved(Instant::now());
        self.moving.sent.fetch_add(length as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl S3 {
    /// The longest that one attempt may take.
    pub(super) fn attempt(&self, size: u64) -> Duration {
        self.settings.deadline.min(ATTEMPT) + self.settings.moving(size)
    }

    /// A body to send, and how far it has come.
    pub(super) fn upload(&self, bytes: Bytes) -> (Sending, Arc<Moving>) {
        let moving = Moving::new(bytes.len() as u64);
        if bytes.is_empty() || self.local {
            return (Sending::from(bytes), moving);
        }
        let piece = self.up.as_ref().map_or(PIECE, |pace| pace.piece());
        let (pace, watched) = (self.up.clone(), moving.clone());
        // The client may ask for the body again, for a redirect; it repeats nothing else.
        let body = aws_sdk_s3::primitives::SdkBody::retryable(move || {
            let (rest, pace, moving) = (bytes.clone(), pace.clone(), watched.clone());
            aws_sdk_s3::primitives::SdkBody::from_body_1_x(Upload { rest, piece, pace, waiting: None, moving })
        });
        (Sending::new(body), moving)
    }

    /// Runs one request: it must move, be answered, and end in time.
    pub(super) async fn watched<T>(
        &self,
        key: &str,
        moving: &Moving,
        request: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let until = Instant::now() + self.attempt(moving.size);
        let mut request = pin!(request);
        loop {
            let sent = moving.sent.load(Ordering::Relaxed);
            let buffered = if sent >= moving.size { moving.size.min(BUFFERED) } else { 0 };
            let patience = self.settings.stall_timeout + self.settings.moving(buffered);
            let stall = moving.last() + patience;
            if let Ok(result) = timeout_at(stall.min(until), &mut request).await {
                return result;
            }
            let now = Instant::now();
            let stalled = now >= moving.last() + patience;
            if !stalled && now < until {
                continue;
            }
            let (sent, size) = (moving.sent.load(Ordering::Relaxed), moving.size);
            let what = if !stalled {
                format!("did not finish a request for {key} within {:.1} s", self.attempt(size).as_secs_f64())
            } else if sent < size {
                format!("stopped taking {key} after {sent} of {size} bytes")
            } else {
                format!("does not answer in time ({key})")
            };
            return Err(self.passing(what));
        }
    }

    /// A body on its way down.
    pub(super) fn receiving(&self, key: &str, body: Sending, length: u64, expected: Option<Digest>) -> ByteStream {
        let receiving = Receiving {
            store: self.name.clone(),
            local: self.local,
            key: key.to_owned(),
            body,
            length,
            arrived: 0,
            stall: self.settings.stall_timeout,
            until: Instant::now() + self.attempt(length),
            hasher: Sha256::new(),
            expected,
        };
        crate::decorate::paced(receiving.stream(), self.down.clone())
    }
}

/// A body that is arriving.
struct Receiving {
    store: String,
    local: bool,
    key: String,
    body: Sending,
    length: u64,
    arrived: u64,
    stall: Duration,
    until: Instant,
    hasher: Sha256,
    /// What the server kept as its SHA-256, when it was asked for.
    expected: Option<Digest>,
}

impl Receiving {
    fn stream(self) -> ByteStream {
        stream::try_unfold(Some(self), |receiving| async move {
            let Some(mut receiving) = receiving else { return Ok(None) };
            match receiving.next().await? {
                Some(chunk) => Ok(Some((chunk, Some(receiving)))),
                None => Ok(None),
            }
        })
        .boxed()
    }

    fn failed(&self, what: String, cause: Option<ByteStreamError>) -> Error {
        let mut failure = Error::passing(&self.store, what);
        if let Error::Unavailable { again, source, .. } = &mut failure {
            *source = cause.map(|cause| Box::new(cause) as _);
            if self.local {
                *again = crate::Again::Never;
            }
        }
        failure
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let stall = Instant::now() + self.stall;
        let Ok(next) = timeout_at(stall.min(self.until), self.body.next()).await else {
            let what = if stall <= self.until { "stopped sending" } else { "is too slow in sending" };
            return Err(
                self.failed(format!("{what} {} after {} of {} bytes", self.key, self.arrived, self.length), None)
            );
        };
        match next {
            Some(Ok(chunk)) => {
                self.arrived += chunk.len() as u64;
                if self.expected.is_some() {
                    self.hasher.update(&chunk);
                }
                // A body that trickles is never late for its next byte.
                if Instant::now() >= self.until && self.arrived < self.length {
                    let what = format!("is too slow in sending {}", self.key);
                    return Err(self.failed(format!("{what} after {} of {} bytes", self.arrived, self.length), None));
                }
                Ok(Some(chunk))
            }
            Some(Err(error)) => {
                let what = format!("broke off {} after {} of {} bytes", self.key, self.arrived, self.length);
                Err(self.failed(what, Some(error)))
            }
            None if self.arrived != self.length => {
                let what = format!("sent {} of the {} bytes of {}", self.arrived, self.length, self.key);
                Err(self.failed(what, None))
            }
            None => match self.expected {
                Some(expected) => {
                    let found = Digest::from_bytes(std::mem::take(&mut self.hasher).finalize().into());
                    let corrupt = || Error::Corrupt { key: self.key.clone(), expected, found };
                    if found == expected { Ok(None) } else { Err(corrupt()) }
                }
                None => Ok(None),
            },
        }
    }
}
