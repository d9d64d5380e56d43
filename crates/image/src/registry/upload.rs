//! One blob to a repository: it is there, or the registry mounts it from another of its repositories, or it is sent.
//!
//! A large blob is sent in pieces (`PATCH` with `Content-Range`); after a broken connection the registry is asked how far it got, and the rest is sent. A registry
//! that does not know the upload any more, or cannot resume, gets the blob from the beginning. Memory is a few buffers for each blob.
//!
//! A registry that was killed while it took a blob may have a torn record of it, and fails whenever it is asked for it (the
//! filesystem driver of `distribution` writes its links in place). Sending the blob again writes the record anew, so a question that ends in
//! such a failure counts as "not there" before an upload, and never after one.

use super::session::{Doing, Session, Tried, is_passing, wished_wait};
use crate::error::{Error, Result};
use bytes::Bytes;
use domain::{Class, Digest, event::Task};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url, header};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

/// How much is read and hashed at once.
const PIECE: u64 = 256 << 10;
/// How many pieces may wait for the network.
const WAITING: usize = 4;
/// Below this a registry that finds a piece too large is not asked again.
const SMALLEST_CHUNK: u64 = 64 << 10;

/// How a blob got to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    There,
    Mounted,
    Sent,
}

/// Where the bytes that go over the wire are counted.
#[derive(Clone)]
struct Counted {
    /// Those of this blob: a transfer that stands still is seen here.
    moved: Arc<AtomicU64>,
    /// Those of all.
    sent: Arc<AtomicU64>,
    task: Option<Arc<Task>>,
    /// How many there are.
    size: u64,
}

impl Counted {
    fn add(&self, bytes: u64) {
        let moved = self.moved.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        let Some(task) = &self.task else { return };
        // What is sent again is more to do, so that progress never runs backwards.
        let again = moved.saturating_sub(self.size).min(bytes);
        if again > 0 {
            task.grow(again);
        }
        task.advance(bytes);
    }
}

/// The memory of one piece while the connection has it. It comes back when the piece was sent or given up, so that a body of any size is read into the
/// same few buffers: the kernel would else have to give and take back fresh memory for every piece.
struct Lent {
    buffer: Vec<u8>,
    back: mpsc::Sender<Vec<u8>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // All was read when nobody waits for it any more.
        let _ = self.back.send(std::mem::take(&mut self.buffer));
    }
}

/// A blob on disk that is hashed while it is sent.
pub(crate) struct Source {
    digest: Digest,
    size: u64,
    path: PathBuf,
    checked: Mutex<Checked>,
}

struct Checked {
    hash: Sha256,
    /// How many bytes from the beginning were hashed.
    bytes: u64,
    /// Why it must not be sent.
    damage: Option<String>,
}

impl Source {
    pub(crate) fn new(digest: Digest, size: u64, path: PathBuf) -> Self {
        Self { digest, size, path, checked: Mutex::new(Checked { hash: Sha256::new(), bytes: 0, damage: None }) }
    }

    /// The bytes from `offset` to `end` as a body that counts them. The last bytes of the blob come only if its digest holds.
    fn body(self: &Arc<Self>, offset: u64, end: u64, counted: &Counted) -> Body {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(WAITING);
        let source = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = source.read(offset, end, &sender) {
                drop(sender.blocking_send(Err(error)));
            }
        });
        let counted = counted.clone();
        Body::wrap_stream(futures::stream::poll_fn(move |context| {
            let piece = receiver.poll_recv(context);
            if let std::task::Poll::Ready(Some(Ok(bytes))) = &piece {
                counted.add(bytes.len() as u64);
            }
            piece
        }))
    }

    fn read(&self, offset: u64, end: u64, sender: &tokio::sync::mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let file = File::open(&self.path)?;
        let (back, returned) = mpsc::channel();
        let (mut at, mut lent) = (offset, 0);
        while at < end {
            let wanted = usize::try_from((end - at).min(PIECE)).unwrap_or_default();
            let mut buffer = if lent <= WAITING { Vec::new() } else { returned.recv().unwrap_or_default() };
            lent += 1;
            buffer.resize(wanted, 0);
            if let Err(error) = file.read_exact_at(&mut buffer, at) {
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    self.damaged(format!("{} became shorter than {} bytes", self.path.display(), self.size));
                }
                return Err(error);
            }
            self.check(at, &buffer)?;
            at += wanted as u64;
            if sender.blocking_send(Ok(Bytes::from_owner(Lent { buffer, back: back.clone() }))).is_err() {
                // Nobody takes it any more: the request has ended.
                return Ok(());
            }
        }
        Ok(())
    }

    fn check(&self, at: u64, piece: &[u8]) -> io::Result<()> {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let end = at + piece.len() as u64;
        if at > checked.bytes {
            return Err(io::Error::other("bytes were left out"));
        }
        if end <= checked.bytes {
            // Sent again: it was hashed the first time.
            return Ok(());
        }
        let fresh = usize::try_from(checked.bytes - at).unwrap_or(0);
        checked.hash.update(&piece[fresh..]);
        checked.bytes = end;
        if end == self.size {
            let digest = Digest::from_bytes(checked.hash.clone().finalize().into());
            if digest != self.digest {
                let why = format!("{} has digest {digest}; it was not pushed", self.path.display());
                checked.damage = Some(why);
                return Err(io::Error::other("damaged"));
            }
        }
        Ok(())
    }

    /// The digest of nothing, which no piece brings here.
    fn check_empty(&self) {
        if Digest::of([]) != self.digest {
            self.damaged(format!("{} is empty, which has another digest; it was not pushed", self.path.display()));
        }
    }

    fn damaged(&self, why: String) {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).damage = Some(why);
    }

    /// Fails if the blob on disk is not what it should be.
    fn verdict(&self) -> Result<()> {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.damage.as_ref().map_or(Ok(()), |why| Err(Error::damaged(self.digest, why.clone())))
    }
}

/// Puts small bytes as a blob, unless they are there.
pub(crate) async fn put_bytes(session: &Session, bytes: &Bytes) -> Result<Digest> {
    let digest = Digest::of(bytes);
    if look(session, &session.repository.path, &digest, bytes.len() as u64).await? == Found::There {
        return Ok(digest);
    }
    let doing = Doing { action: "push a blob", what: session.shown(&digest.to_string()) };
    let begun = begin(session, &doing).await?;
    let url = with_digest(&begun.url, &digest);
    let answer = session.call(&doing, || octets(session.request(Method::PUT, url.clone())).body(bytes.clone())).await?;
    // After an answer that was lost the upload is gone, and the blob is there.
    if !answer.status().is_success() && answer.status() != StatusCode::NOT_FOUND {
        return Err(session.refusal(&doing, answer).await);
    }
    confirm(session, &digest, bytes.len() as u64, &doing).await?;
    Ok(digest)
}

/// Sees to it that the repository has a blob. `sent` counts the bytes that go over the wire.
pub(crate) async fn put(
    session: &Session,
    source: &Arc<Source>,
    sent: &Arc<AtomicU64>,
    task: Option<&Arc<Task>>,
) -> Result<Fate> {
    let advance = |fate: Fate| {
        if let Some(task) = task {
            task.advance(source.size);
        }
        Ok(fate)
    };
    if look(session, &session.repository.path, &source.digest, source.size).await? == Found::There {
        return advance(Fate::There);
    }
    let doing = Doing { action: "push a blob", what: session.shown(&source.digest.to_string()) };
    let mut begun = None;
    for path in &session.sources {
        if !has(session, path, &source.digest, source.size).await? {
            continue;
        }
        match mount(session, path, &source.digest, &doing).await {
            Ok(None) => {
                confirm(session, &source.digest, source.size, &doing).await?;
                return advance(Fate::Mounted);
            }
            // It would not, and has begun an upload instead.
            Ok(Some(upload)) => begun = Some(upload),
            // Mounting is only a saving: what is really wrong is so with a plain upload too, and is said there.
            Err(_) => {}
        }
        break;
    }
    let counted = Counted { moved: Arc::default(), sent: sent.clone(), task: task.cloned(), size: source.size };
    let mut starts = 0;
    loop {
        starts += 1;
        let upload = match begun.take() {
            Some(upload) => upload,
            None => begin(session, &doing).await?,
        };
        let mut transfer = Transfer { session, source, doing: &doing, upload, counted: &counted, resumed: false };
        match transfer.run().await? {
            None => {
                confirm(session, &source.digest, source.size, &doing).await?;
                return Ok(Fate::Sent);
            }
            Some(cause) if starts >= session.access.patience.tries => {
                return Err(doing.failed(cause, Class::Unavailable));
            }
            Some(_) => {
                session.pause(starts, None, &doing).await?;
            }
        }
    }
}

/// What a registry says of a blob.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    There,
    Absent,
    /// It failed again and again, in its own words.
    Failing(String),
}

/// Whether a repository has a blob. Another one that does not answer as it should, or that we may not read, has none for us.
async fn has(session: &Session, path: &str, digest: &Digest, size: u64) -> Result<bool> {
    match look(session, path, digest, size).await? {
        Found::There => Ok(true),
        Found::Failing(cause) if path == session.repository.path => {
            let doing = Doing { action: "look for a blob", what: session.shown(&digest.to_string()) };
            Err(doing.failed(cause, Class::Unavailable))
        }
        _ => Ok(false),
    }
}

async fn look(session: &Session, path: &str, digest: &Digest, size: u64) -> Result<Found> {
    let own = path == session.repository.path;
    let doing = Doing { action: "look for a blob", what: session.shown(&digest.to_string()) };
    let url = session.url_in(path, &format!("blobs/{digest}"));
    let answer = session.call(&doing, || session.request(Method::HEAD, url.clone())).await;
    let answer = match answer {
        Err(_) if !own => return Ok(Found::Absent),
        other => other?,
    };
    match answer.status() {
        StatusCode::NOT_FOUND => Ok(Found::Absent),
        // It is there, and its bytes are served by somebody else. We do not go there to hear so.
        status if status.is_redirection() => Ok(Found::There),
        status if status.is_success() => match length(&answer) {
            Some(other) if other != size && !own => Ok(Found::Absent),
            Some(other) if other != size => {
                let cause = format!("the registry says that it has {other} bytes, and it has {size}");
                Err(doing.failed(cause, Class::Integrity))
            }
            _ => Ok(Found::There),
        },
        _ if !own => Ok(Found::Absent),
        status if status.is_server_error() => Ok(Found::Failing(format!("the registry answers {status}"))),
        _ => Err(session.refusal(&doing, answer).await),
    }
}

/// Of a HEAD, whose body is empty.
fn length(answer: &Response) -> Option<u64> {
    answer.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn confirm(session: &Session, digest: &Digest, size: u64, doing: &Doing<'_>) -> Result<()> {
    if has(session, &session.repository.path, digest, size).await? {
        return Ok(());
    }
    Err(doing.failed("the registry took it and does not have it", Class::Integrity))
}

/// An upload that the registry has begun.
struct Upload {
    url: Url,
    /// The smallest piece that it takes.
    smallest: u64,
}

/// `None` when the blob was mounted.
async fn mount(session: &Session, from: &str, digest: &Digest, doing: &Doing<'_>) -> Result<Option<Upload>> {
    let mut url = session.url("blobs/uploads/");
    url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
    let answer = session.call(doing, || session.request(Method::POST, url.clone())).await?;
    match answer.status() {
        StatusCode::CREATED => Ok(None),
        StatusCode::ACCEPTED => upload_of(session, &url, &answer, doing).map(Some),
        _ => Err(session.refusal(doing, answer).await),
    }
}

async fn begin(session: &Session, doing: &Doing<'_>) -> Result<Upload> {
    let url = session.url("blobs/uploads/");
    let answer = session.call(doing, || session.request(Method::POST, url.clone())).await?;
    match answer.status() {
        StatusCode::ACCEPTED => upload_of(session, &url, &answer, doing),
        _ => Err(session.refusal(doing, answer).await),
    }
}

fn upload_of(session: &Session, from: &Url, answer: &Response, doing: &Doing<'_>) -> Result<Upload> {
    let url = location(session, from, answer, doing)?
        .ok_or_else(|| doing.failed("the registry does not say where to send it", Class::Unavailable))?;
    let smallest = answer.headers().get("oci-chunk-min-length").and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(Upload { url, smallest: smallest.unwrap_or(0) })
}

fn location(session: &Session, from: &Url, answer: &Response, doing: &Doing<'_>) -> Result<Option<Url>> {
    let Some(value) = answer.headers().get(header::LOCATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| doing.failed("the registry names a place that is none", Class::Integrity))?;
    session.own(from, text, doing).map(Some)
}

/// How many bytes the registry has, from `Range: 0-<last>`. `0-0` is what registries say of nothing.
fn offset_of(answer: &Response) -> Option<u64> {
    let text = answer.headers().get(header::RANGE)?.to_str().ok()?;
    let text = text.trim().trim_start_matches("bytes=").trim_start_matches("bytes ");
    let (first, last) = text.split_once('-')?;
    match (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?) {
        (0, 0) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}

fn with_digest(url: &Url, digest: &Digest) -> Url {
    let mut url = url.clone();
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    url
}

fn octets(request: RequestBuilder) -> RequestBuilder {
    request.header(header::CONTENT_TYPE, "application/octet-stream")
}

/// One upload from its beginning to its end.
struct Transfer<'a> {
    session: &'a Session,
    source: &'a Arc<Source>,
    doing: &'a Doing<'a>,
    upload: Upload,
    counted: &'a Counted,
    /// Whether some bytes were sent by a request that broke.
    resumed: bool,
}

impl Transfer<'_> {
    /// `None` when the blob was sent; else why it must be sent from the beginning.
    async fn run(&mut self) -> Result<Option<String>> {
        let size = self.source.size;
        let mut chunk = self.session.access.patience.chunk.max(self.upload.smallest).max(1);
        if size <= chunk {
            let url = with_digest(&self.upload.url, &self.source.digest);
            return self.finish(url, Some(size)).await;
        }
        let (mut at, mut reached, mut tries) = (0, 0, 0);
        while at < size {
            let end = at.saturating_add(chunk).min(size);
            let sent = self.send(at, end).await?;
            let misplaced = matches!(sent, Sent::Misplaced);
            match sent {
                Sent::Misplaced => {}
                Sent::To(offset) => {
                    (at, tries) = (offset, 0);
                    reached = reached.max(end);
                    continue;
                }
                Sent::Lost(cause) => return Ok(Some(cause)),
                Sent::TooLarge if chunk / 2 >= SMALLEST_CHUNK.max(self.upload.smallest) => chunk /= 2,
                Sent::TooLarge => {
                    return Err(self.doing.failed("the registry finds every piece too large", Class::Unavailable));
                }
                Sent::Broken(cause, wait) => {
                    tries += 1;
                    if tries >= self.session.access.patience.tries {
                        return Err(self.doing.failed(cause, Class::Unavailable));
                    }
                    self.session.pause(tries, wait, self.doing).await?;
                }
            }
            reached = reached.max(end);
            self.resumed = true;
            let Some(offset) = self.ask(reached).await? else {
                return Ok(Some("the registry does not know the upload any more".to_owned()));
            };
            if misplaced && offset == at {
                // One byte reads as none in its answer; and what it says twice in two ways cannot be gone on with.
                return Ok(Some("the registry is at another place of the blob than it says".to_owned()));
            }
            if offset > at {
                tries = 0;
            }
            at = offset;
        }
        let url = with_digest(&self.upload.url, &self.source.digest);
        self.finish(url, None).await
    }

    /// Sends the bytes from `at` to `end`.
    async fn send(&mut self, at: u64, end: u64) -> Result<Sent> {
        let body = self.source.body(at, end, self.counted);
        let request = octets(self.session.request(Method::PATCH, self.upload.url.clone()))
            .header(header::CONTENT_RANGE, format!("{at}-{}", end - 1))
            .header(header::CONTENT_LENGTH, end - at)
            .body(body);
        let tried = self.session.once(self.doing, request, Some(&self.counted.moved)).await?;
        self.source.verdict()?;
        let answer = match tried {
            Tried::Answer(answer) if answer.status().is_success() => answer,
            tried => return self.unsent(tried).await,
        };
        if let Some(url) = location(self.session, &self.upload.url, &answer, self.doing)? {
            self.upload.url = url;
        }
        match offset_of(&answer) {
            None => Ok(Sent::To(end)),
            Some(offset) if offset > end => Err(self.lie(offset, end)),
            Some(offset) if offset <= at => {
                Ok(Sent::Lost(format!("the registry has {offset} bytes after it took {end}")))
            }
            Some(offset) => Ok(Sent::To(offset)),
        }
    }

    /// What to make of a piece that was not taken.
    async fn unsent(&self, tried: Tried) -> Result<Sent> {
        let answer = match tried {
            Tried::Broken(cause) => return Ok(Sent::Broken(cause, None)),
            Tried::Answer(answer) => answer,
        };
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(Sent::Lost("the registry does not know the upload any more".to_owned())),
            StatusCode::PAYLOAD_TOO_LARGE => Ok(Sent::TooLarge),
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(Sent::Misplaced),
            status if is_passing(status) => {
                Ok(Sent::Broken(format!("the registry answers {status}"), wished_wait(&answer)))
            }
            _ => Err(self.session.refusal(self.doing, answer).await),
        }
    }

    fn lie(&self, offset: u64, sent: u64) -> Error {
        self.doing
            .failed(format!("the registry says that it has {offset} bytes, and was sent {sent}"), Class::Integrity)
    }

    /// How far the registry got; `None` when it does not know.
    async fn ask(&mut self, reached: u64) -> Result<Option<u64>> {
        let url = self.upload.url.clone();
        let answer = self.session.call(self.doing, || self.session.request(Method::GET, url.clone())).await?;
        if answer.status().is_redirection() {
            return Err(self.session.refusal(self.doing, answer).await);
        }
        if !answer.status().is_success() {
            return Ok(None);
        }
        if let Some(url) = location(self.session, &url, &answer, self.doing)? {
            self.upload.url = url;
        }
        match offset_of(&answer) {
            Some(offset) if offset > reached => Err(self.lie(offset, reached)),
            other => Ok(other),
        }
    }

    /// Ends the upload, with the whole blob as body if it has not been sent. `None` when the registry took it.
    async fn finish(&mut self, url: Url, whole: Option<u64>) -> Result<Option<String>> {
        let request = octets(self.session.request(Method::PUT, url));
        let request = match whole {
            Some(size) => request.header(header::CONTENT_LENGTH, size).body(self.source.body(0, size, self.counted)),
            None => request.header(header::CONTENT_LENGTH, 0),
        };
        if whole == Some(0) {
            // No byte is read, and so none was hashed.
            self.source.check_empty();
            self.source.verdict()?;
        }
        let tried = self.session.once(self.doing, request, Some(&self.counted.moved)).await?;
        self.source.verdict()?;
        let (cause, wait) = match tried {
            Tried::Answer(answer) if answer.status().is_success() => return Ok(None),
            Tried::Answer(answer) if answer.status() == StatusCode::BAD_REQUEST && self.resumed => {
                // Some take a resumed upload to pieces that do not fit together.
                return Ok(Some(format!("the registry answers {} to an upload that was resumed", answer.status())));
            }
            Tried::Answer(answer) if is_passing(answer.status()) => {
                (format!("the registry answers {}", answer.status()), wished_wait(&answer))
            }
            Tried::Answer(answer) if answer.status() == StatusCode::NOT_FOUND => {
                ("the registry does not know the upload any more".to_owned(), None)
            }
            Tried::Answer(answer) => return Err(self.session.refusal(self.doing, answer).await),
            Tried::Broken(cause) => (cause, None),
        };
        // The answer may have been lost after the registry took it.
        if let Some(wait) = wait {
            self.session.pause(1, Some(wait), self.doing).await?;
        }
        let (digest, size) = (self.source.digest, self.source.size);
        if has(self.session, &self.session.repository.path, &digest, size).await? {
            return Ok(None);
        }
        Ok(Some(cause))
    }
}

/// What became of a piece.
enum Sent {
    /// The registry has so many bytes.
    To(u64),
    Broken(String, Option<std::time::Duration>),
    TooLarge,
    /// The piece does not follow on what the registry has.
    Misplaced,
    Lost(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, thread};
    use tokio::sync::mpsc::channel;

    /// A blob of so many pieces and a half.
    fn source(folder: &std::path::Path, pieces: u64) -> (Arc<Source>, Vec<u8>) {
        let size = pieces * PIECE + PIECE / 2;
        let bytes: Vec<u8> = (0..size).map(|at| (at / 251 + at) as u8).collect();
        let path = folder.join("blob");
        std::fs::write(&path, &bytes).unwrap();
        (Arc::new(Source::new(Digest::of(&bytes), size, path)), bytes)
    }

    #[test]
    fn a_body_of_any_size_is_read_into_the_same_few_buffers() {
        let folder = tempfile::tempdir().unwrap();
        let (source, bytes) = source(folder.path(), 40);
        let (sender, mut receiver) = channel(WAITING);
        let reader = source.clone();
        let reading = thread::spawn(move || reader.read(PIECE, reader.size, &sender).map_err(|error| error.kind()));
        // The first piece was sent before: what follows it cannot be hashed without it.
        assert!(receiver.blocking_recv().is_none());
        assert_eq!(reading.join().unwrap(), Err(io::ErrorKind::Other));
        let (sender, mut receiver) = channel(WAITING);
        let reader = source.clone();
        let reading = thread::spawn(move || reader.read(0, reader.size, &sender));
        let (mut got, mut places) = (Vec::new(), BTreeSet::new());
        while let Some(piece) = receiver.blocking_recv() {
            let piece = piece.unwrap();
            places.insert(piece.as_ptr().addr());
            got.extend_from_slice(&piece);
        }
        reading.join().unwrap().unwrap();
        source.verdict().unwrap();
        assert!(got == bytes);
        assert!(places.len() <= WAITING + 1, "{} buffers", places.len());
    }

    #[test]
    fn a_body_that_nobody_takes_any_more_is_not_read_further() {
        let folder = tempfile::tempdir().unwrap();
        let (source, _) = source(folder.path(), 40);
        let (sender, mut receiver) = channel(WAITING);
        let reader = source.clone();
        let reading = thread::spawn(move || reader.read(0, reader.size, &sender));
        let held = [receiver.blocking_recv(), receiver.blocking_recv()];
        drop(receiver);
        drop(held);
        reading.join().unwrap().unwrap();
        assert!(source.checked.lock().unwrap().bytes < source.size);
        source.verdict().unwrap();
    }
}
