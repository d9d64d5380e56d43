//! What one client may take of the server: connections, sizes, and time in which nothing moves.
//!
//! - No connection is held by one who sends no head, or trickles it, or leaves it idle.
//! - No body is waited for that moves slower than [`Limits::progress_bytes`] in [`Limits::progress_time`]: it is cut with
//!   `RequestTimeout`, and an answer that is read so slowly with a closed connection. Time in which the server itself is busy
//!   does not count.
//! - No refusal is lost to a sender who is still sending: some of what is left of its body is read first.
//! - No more than [`Limits::connections`] are served at once; more wait in the queue of the listening socket.

use super::front::Front;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::{body::Incoming, rt};
use hyper_util::rt::TokioIo;
use s3s::{Body, HttpError, HttpResponse, S3Error, S3ErrorCode, StdError, s3_error};
use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::Sleep};

/// How much a client may take of a served store.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once. Others wait until one ends.
    pub connections: usize,
    /// How long the head of a request may take; also how long a connection may be idle.
    pub head_time: Duration,
    /// Bytes of a head.
    pub head_bytes: usize,
    /// Header fields of a head.
    pub head_fields: usize,
    /// Bytes of a body; 5 GiB in S3, for objects and parts alike.
    pub body_bytes: u64,
    /// How long a body may take for each [`Self::progress_bytes`].
    pub progress_time: Duration,
    /// How many bytes must move in [`Self::progress_time`].
    pub progress_bytes: u64,
    /// How long a request may wait for others that write the same key; then it is answered `503`.
    pub lock_time: Duration,
    /// How long requests that are under way may take to end once the server is to stop.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            head_time: Duration::from_secs(30),
            head_bytes: 32 * 1024,
            head_fields: 100,
            body_bytes: 5 << 30,
            progress_time: Duration::from_secs(30),
            progress_bytes: 30 * 1024,
            lock_time: super::directory::PATIENCE,
            drain_time: Duration::from_secs(10),
        }
    }
}

/// Measures how much moves in the time that is spent waiting for it.
#[derive(Debug)]
struct Meter {
    time: Duration,
    least: u64,
    moved: u64,
    waited: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Meter {
    fn new(limits: &Limits) -> Self {
        let (time, least) = (limits.progress_time, limits.progress_bytes);
        Self { time, least, moved: 0, waited: Duration::ZERO, since: None, timer: None }
    }

    /// Something moved.
    fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Nothing moves now: whether that has been so for too long. Wakes the task when it may have been.
    fn is_stalled(&mut self, context: &mut Context<'_>) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        // The timer may be one of an earlier wait. When it fires the time is looked at, and it is set again.
        loop {
            let spent = self.waited + since.elapsed();
            if spent >= self.time {
                if self.moved < self.least {
                    return true;
                }
                (self.moved, self.waited, self.since) = (0, Duration::ZERO, Some(Instant::now()));
                return self.is_stalled(context);
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.time - spent)));
            if timer.as_mut().poll(context).is_pending() {
                return false;
            }
            self.timer = None;
        }
    }
}

/// Why a body was cut.
type Verdict = Arc<OnceLock<S3ErrorCode>>;

/// The body of a request, which must move, and be no larger than it may.
struct Watched {
    body: Option<Incoming>,
    meter: Meter,
    left: u64,
    verdict: Verdict,
    unread: Unread,
}

/// A body that nobody wanted to the end.
type Unread = Arc<Mutex<Option<Incoming>>>;

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

/// How much of an unwanted body is read, and for how long.
const LINGER: u64 = 8 * 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Reads on, so that the sender comes to read why it is refused: closing a connection on what it sent would take the answer from it.
async fn linger(mut body: Incoming) {
    let mut left = LINGER;
    let reading = async {
        while let Some(Ok(frame)) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
            if left == 0 {
                break;
            }
        }
    };
    // Who is slower than that is told by a closed connection.
    let _ = tokio::time::timeout(LINGER_TIME, reading).await;
}

impl Watched {
    fn cut(&self, code: S3ErrorCode) -> StdError {
        let error = said(&code);
        let _ = self.verdict.set(code);
        Box::new(error)
    }
}

/// What a body was cut for, in words.
fn said(code: &S3ErrorCode) -> S3Error {
    match code {
        S3ErrorCode::EntityTooLarge => {
            s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size")
        }
        _ => s3_error!(
            RequestTimeout,
            "Your socket connection to the server was not written to within the timeout period. Idle connections will be closed."
        ),
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let Some(body) = this.body.as_mut() else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else {
            if this.meter.is_stalled(context) {
                return Poll::Ready(Some(Err(this.cut(S3ErrorCode::RequestTimeout))));
            }
            return Poll::Pending;
        };
        let Some(frame) = frame.transpose()? else { return Poll::Ready(None) };
        let length = frame.data_ref().map_or(0, Bytes::len);
        this.meter.moved(length);
        match this.left.checked_sub(length as u64) {
            Some(left) => this.left = left,
            None => return Poll::Ready(Some(Err(this.cut(S3ErrorCode::EntityTooLarge)))),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

/// Answers one request within the limits.
pub(super) async fn answer(
    front: Front,
    request: http::Request<Incoming>,
    limits: Arc<Limits>,
) -> Result<HttpResponse, HttpError> {
    let number = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let decoded = number("x-amz-decoded-content-length");
    if decoded.or_else(|| number("content-length")).is_some_and(|length| length > limits.body_bytes) {
        return refusal(&S3ErrorCode::EntityTooLarge);
    }
    // Bodies that are empty or lie in the first packet need no watch, as those of all reads.
    if request.body().is_end_stream() {
        return front.call(request.map(Body::from)).await;
    }
    // Chunks and their signatures come on top of what is kept, which was announced above; they are less than that.
    let left = decoded.map_or(limits.body_bytes, |decoded| decoded.saturating_mul(2).saturating_add(1 << 20));
    let (verdict, unread) = (Verdict::default(), Unread::default());
    // Who waits for leave to send has sent nothing, and reading would be that leave.
    let sends = !request.headers().contains_key(http::header::EXPECT);
    let request = request.map(|body| {
        let (verdict, unread) = (verdict.clone(), unread.clone());
        Body::http_body(Watched { body: Some(body), meter: Meter::new(&limits), left, verdict, unread })
    });
    let answer = front.call(request).await?;
    match verdict.get() {
        Some(code) if !answer.status().is_success() => refusal(code),
        _ => {
            let left = unread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(body) = left.filter(|_| sends) {
                linger(body).await;
            }
            Ok(answer)
        }
    }
}

fn refusal(code: &S3ErrorCode) -> Result<HttpResponse, HttpError> {
    let mut answer = said(code).to_http_response().map_err(|error| HttpError::new(Box::new(error)))?;
    answer.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    Ok(answer)
}

/// A connection whose reader must read.
pub(super) struct Guarded {
    stream: TokioIo<TcpStream>,
    meter: Meter,
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, limits: &Limits) -> Self {
        Self { stream: TokioIo::new(stream), meter: Meter::new(limits) }
    }

    fn watch(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            if self.meter.is_stalled(context) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Pending;
        }
        let written = ready!(written)?;
        self.meter.moved(written);
        Poll::Ready(Ok(written))
    }
}

impl rt::Read for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl rt::Write for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, from);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, from);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
