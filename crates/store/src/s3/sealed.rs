//! A file whose digest is known, on its way up: read, hashed and sent piece by piece, so that many may travel at a time in little
//! memory. The last piece is held back until the digest of all of them is right, so a file that changed never becomes an object.

use super::{Moving, S3};
use crate::{Body as Source, Digest, Error, Result, decorate::Pace};
use aws_sdk_s3::primitives::{ByteStream as Sending, SdkBody};
use bytes::Bytes;
use futures::FutureExt as _;
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::Read as _,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Instant, Sleep, sleep_until},
};

/// A piece, and how many of them are read ahead.
const PIECE: usize = 256 * 1024;
const AHEAD: usize = 3;

/// What is wrong with the file, for whoever asked to send it: the client only hears that the body broke off.
pub(super) type Wrong = Arc<Mutex<Option<Error>>>;

/// Takes what is wrong, if anything is.
pub(super) fn take(wrong: &Wrong) -> Option<Error> {
    wrong.lock().unwrap_or_else(PoisonError::into_inner).take()
}

struct Reader {
    source: Source,
    path: PathBuf,
    length: u64,
    piece: usize,
    wrong: Wrong,
}

impl Reader {
    fn run(&self, pieces: &Sender<Bytes>) {
        if let Err(error) = self.read(pieces) {
            *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }

    fn read(&self, pieces: &Sender<Bytes>) -> Result<()> {
        let mut file = File::open(&self.path).map_err(Error::file("read", &self.path))?;
        let mut hasher = Sha256::new();
        let mut left = self.length;
        while left > 0 {
            let mut piece = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(self.piece)];
            file.read_exact(&mut piece).map_err(|source| {
                let source = match source.kind() {
                    std::io::ErrorKind::UnexpectedEof => std::io::Error::new(source.kind(), "it became shorter"),
                    _ => source,
                };
                Error::file("read", &self.path)(source)
            })?;
            hasher.update(&piece);
            left -= piece.len() as u64;
            if left == 0 {
                self.source.seal_holds(&Digest::from_bytes(std::mem::take(&mut hasher).finalize().into()))?;
            }
            if pieces.blocking_send(Bytes::from(piece)).is_err() {
                // Nobody sends it any more.
                return Ok(());
            }
        }
        Ok(())
    }
}

struct Upload {
    /// Begins when it is asked for the first piece: the client keeps a body that it may never send.
    reader: Option<Reader>,
    pieces: Receiver<Bytes>,
    sender: Option<Sender<Bytes>>,
    piece: Option<Bytes>,
    rest: u64,
    pace: Option<Arc<Pace>>,
    waiting: Option<Pin<Box<Sleep>>>,
    moving: Arc<Moving>,
    sent: Arc<AtomicU64>,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, std::io::Error>>> {
        if self.rest == 0 {
            return Poll::Ready(None);
        }
        if let (Some(reader), Some(sender)) = (self.reader.take(), self.sender.take()) {
            self.sent.store(0, Ordering::Relaxed);
            tokio::task::spawn_blocking(move || reader.run(&sender));
        }
        if self.piece.is_none() {
            let Some(piece) = ready!(self.pieces.poll_recv(context)) else {
                return Poll::Ready(Some(Err(std::io::Error::other("the file cannot be sent"))));
            };
            if let Some(pace) = &self.pace {
                let from = pace.reserve(piece.len());
                self.moving.moved(from);
                self.waiting = Some(Box::pin(sleep_until(from)));
            }
            self.piece = Some(piece);
        }
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.poll_unpin(context));
            self.waiting = None;
        }
        let Some(piece) = self.piece.take() else { return Poll::Ready(None) };
        let length = piece.len() as u64;
        self.rest -= length.min(self.rest);
        self.moving.moved(Instant::now());
        self.moving.sent.fetch_add(length, Ordering::Relaxed);
        self.sent.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest)
    }
}

impl S3 {
    /// A sealed file to send, how far it has come, and what turned out to be wrong with it.
    pub(super) fn upload_sealed(
        &self,
        source: &Source,
        path: PathBuf,
        length: u64,
        sent: Arc<AtomicU64>,
    ) -> (Sending, Arc<Moving>, Wrong) {
        let (moving, wrong) = (Moving::new(length), Wrong::default());
        let piece = self.up.as_ref().map_or(PIECE, |pace| pace.piece());
        let (pace, watched, told, source) = (self.up.clone(), moving.clone(), wrong.clone(), source.clone());
        // The client may ask for the body again, for a redirect; it repeats nothing else.
        let body = SdkBody::retryable(move || {
            let (sender, pieces) = channel(AHEAD);
            let reader = Reader { source: source.clone(), path: path.clone(), length, piece, wrong: told.clone() };
            SdkBody::from_body_1_x(Upload {
                reader: Some(reader),
                pieces,
                sender: Some(sender),
                piece: None,
                rest: length,
                pace: pace.clone(),
                waiting: None,
                moving: watched.clone(),
                sent: sent.clone(),
            })
        });
        (Sending::new(body), moving, wrong)
    }
}
