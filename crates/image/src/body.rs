//! A request's body that a thread writes while it is sent: never whole in memory, and never at its end unless it was written to its end.

use bytes::Bytes;
use futures::Stream;
use std::{
    fmt::Display,
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinHandle},
};

/// How much goes at once.
pub(crate) const PIECE: usize = 256 * 1024;
/// How many pieces wait.
pub(crate) const PIECES: usize = 16;

/// Collects what is written into pieces. Whoever writes flushes it at the end.
pub(crate) struct Channel {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..fits]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(fits)
    }
    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The end of the channel that the request reads. It can be taken away, or a thread could wait for ever for a server that stopped reading.
type Receiving = Arc<Mutex<Option<mpsc::Receiver<io::Result<Bytes>>>>>;

/// A body that is being written.
pub(crate) struct Writing<E> {
    thread: JoinHandle<Result<(), E>>,
    receiver: Receiving,
}

impl<E> Writing<E> {
    /// How the writing ended, once nobody reads the body any more.
    pub(crate) async fn end(self) -> Result<Result<(), E>, JoinError> {
        drop(self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.thread.await
    }
}

/// What `write` writes, as a body; an error of it breaks the body off. `moved` counts the pieces that were asked for.
pub(crate) fn written<E: Display + Send + 'static>(
    moved: Arc<AtomicU64>,
    write: impl FnOnce(&mut Channel) -> Result<(), E> + Send + 'static,
) -> (impl Stream<Item = io::Result<Bytes>> + Send + 'static, Writing<E>) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let thread = tokio::task::spawn_blocking(move || {
        let mut channel = Channel { sender, piece: Vec::with_capacity(PIECE) };
        let outcome = write(&mut channel);
        if let Err(error) = &outcome {
            drop(channel.sender.blocking_send(Err(io::Error::other(error.to_string()))));
        }
        outcome
    });
    let receiver: Receiving = Arc::new(Mutex::new(Some(receiver)));
    let shared = receiver.clone();
    let stream = futures::stream::poll_fn(move |context| {
        moved.fetch_add(1, Ordering::Relaxed);
        match &mut *shared.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(receiver) => receiver.poll_recv(context),
            None => Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into()))),
        }
    });
    (stream, Writing { thread, receiver })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;

    #[tokio::test]
    async fn a_body_ends_as_its_writer_does() {
        let whole = |outcome: Result<(), &'static str>| async move {
            let (body, writing) = written(Arc::default(), move |channel| {
                channel.write_all(&vec![7; 3 * PIECE + 5]).unwrap();
                channel.flush().unwrap();
                outcome
            });
            let pieces: Vec<io::Result<Bytes>> = body.collect().await;
            assert_eq!(writing.end().await.unwrap(), outcome);
            let read: usize = pieces.iter().flatten().map(Bytes::len).sum();
            assert_eq!(read, 3 * PIECE + 5);
            pieces.last().unwrap().as_ref().err().map(ToString::to_string)
        };
        assert_eq!(whole(Ok(())).await, None);
        assert_eq!(whole(Err("no more")).await.as_deref(), Some("no more"));
    }

    #[tokio::test]
    async fn a_writer_whom_nobody_reads_is_stopped_and_the_body_does_not_end_as_if_it_were_whole() {
        let (mut body, writing) = written(Arc::default(), |channel| {
            let mut count = 0;
            // Never ends by itself.
            while channel.write_all(&[0; PIECE]).is_ok() {
                count += 1;
            }
            Err(count)
        });
        body.next().await.unwrap().unwrap();
        let written = writing.end().await.unwrap().unwrap_err();
        assert!((1..=PIECES + 2).contains(&written), "{written}");
        assert!(body.next().await.unwrap().is_err());
    }
}
