//! The build context on its way to the engine: read by a thread while it is sent, never whole in memory.

use crate::{
    context::Context,
    error::{Result, count, joined},
};
use bytes::Bytes;
use domain::{Events, event::Unit};
use futures::Stream;
use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};
use tokio::sync::mpsc;

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
pub(super) struct Sending {
    thread: tokio::task::JoinHandle<Result<()>>,
    receiver: Receiving,
}

impl Sending {
    /// How the sending ended, once the build has.
    pub(super) async fn end(self) -> Result<()> {
        drop(self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take());
        joined("send the build context from", self.thread.await)?
    }
}

/// The context as a request body, and the thread that fills it. `moved` counts the pieces that the engine took.
pub(super) fn send(
    context: Arc<Context>,
    events: &Events,
    moved: Arc<AtomicU64>,
) -> (impl Stream<Item = io::Result<Bytes>> + Send + 'static, Sending) {
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
    let shared = receiver.clone();
    let stream = futures::stream::poll_fn(move |task| {
        moved.fetch_add(1, Ordering::Relaxed);
        match &mut *shared.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(receiver) => receiver.poll_recv(task),
            None => Poll::Ready(None),
        }
    });
    (stream, Sending { thread, receiver })
}
