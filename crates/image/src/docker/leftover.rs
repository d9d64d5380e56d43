//! What a build made in the engine and does not need if it ends early. It goes when its guard is dropped: by a plain request on a
//! connection of its own, because whoever cancels a build may end the runtime next.
//!
//! An image that was in the engine before the build never goes: a build out of the cache gives the image of an earlier one, which a person may have
//! tagged, and what a step prints may name any image.

use super::Engine;
use crate::error::Result;
use bollard::query_parameters::ListImagesOptions;
use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::net::UnixStream,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long an engine may take to remove one image, and how long one may be in use by a step that is being stopped.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_ANSWER: u64 = 64 * 1024;

/// Images that go unless they are kept.
pub(super) struct Leftover {
    address: String,
    /// Hexadecimal IDs of the images that were there before.
    before: BTreeSet<String>,
    images: Mutex<Vec<String>>,
}

/// An ID as it is compared: the classic builder shows the first twelve digits, without the algorithm.
fn digits(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

impl Leftover {
    /// Begins before the build: what the engine has now stays.
    pub(super) async fn new(engine: &Engine) -> Result<Self> {
        let action = "list its images before the build";
        // With those that single steps have left.
        let all = ListImagesOptions { all: true, ..ListImagesOptions::default() };
        let images = engine.ask(action, engine.docker.list_images(Some(all))).await?;
        let images = images.map_err(|error| engine.lost(action, &error))?;
        let before = images.iter().map(|image| digits(&image.id).to_owned()).collect();
        Ok(Self { address: engine.address.clone(), before, images: Mutex::new(Vec::new()) })
    }

    /// An image that the build has made, by its ID or the beginning of it.
    pub(super) fn add(&self, id: &str) {
        let shown = digits(id);
        let next = self.before.range(shown.to_owned()..).next();
        if next.is_some_and(|before| before.starts_with(shown)) {
            return;
        }
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if !images.iter().any(|image| image == id) {
            images.push(id.to_owned());
        }
    }

    /// The build was good: they stay.
    pub(super) fn keep(self) {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Removes an image; false if it is in use.
fn remove(address: &str, id: &str) -> io::Result<bool> {
    let request = format!("DELETE /images/{id}?noprune=1 HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
    if let Some(path) = address.strip_prefix("unix://") {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        return exchange(stream, &request);
    }
    let stream = connect(address.split_once("://").map_or("", |(_, host)| host))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    exchange(stream, &request)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<bool> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    Ok(!answer.starts_with(b"HTTP/1.1 409"))
}

/// Whoever drops a build waits for this: an engine that is gone without a word must not take as long as the system would.
fn connect(host: &str) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    let deadline = Instant::now() + PATIENCE;
    for address in host.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Removes the newest first; what is left is in use.
fn remove_all(address: &str, mut images: Vec<String>) -> io::Result<Vec<String>> {
    while let Some(newest) = images.last() {
        if !remove(address, newest)? {
            break;
        }
        images.pop();
    }
    Ok(images)
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let images = std::mem::take(&mut *self.images.lock().unwrap_or_else(PoisonError::into_inner));
        // An engine that does not answer has its images found by their label later.
        let Ok(left) = remove_all(&self.address, images) else { return };
        if left.is_empty() {
            return;
        }
        // The step that was at work ends when its connection does, which may be after this: the runtime closes it.
        let (address, deadline) = (self.address.clone(), Instant::now() + PATIENCE);
        let retry = move || {
            let mut left = left;
            while !left.is_empty() && Instant::now() < deadline {
                std::thread::sleep(PAUSE);
                match remove_all(&address, left) {
                    Ok(still) => left = still,
                    Err(_) => return,
                }
            }
        };
        drop(std::thread::Builder::new().name("docker-leftover".to_owned()).spawn(retry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_never_removed() {
        let before = ["0123456789abcdef", "fedcba9876543210"].map(str::to_owned).into();
        let leftover = Leftover { address: "unix:///nowhere".to_owned(), before, images: Mutex::default() };
        for id in ["sha256:0123456789abcdef", "0123456789ab", "fedcba987654", "sha256:ffff", "0123456789ac", "ffff"] {
            leftover.add(id);
        }
        assert_eq!(*leftover.images.lock().unwrap(), ["sha256:ffff", "0123456789ac", "ffff"]);
    }

    #[test]
    fn an_engine_that_listens_is_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        connect(&listener.local_addr().unwrap().to_string()).unwrap();
        assert!(connect("").is_err());
    }
}
