//! What a build made in the engine and does not need if it ends early. It goes when its guard is dropped: by a plain request on a
//! connection of its own, because whoever cancels a build may end the runtime next.

use super::Engine;
use std::{
    io::{self, Read, Write},
    net::TcpStream,
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
    images: Mutex<Vec<String>>,
}

impl Leftover {
    pub(super) fn new(engine: &Engine) -> Self {
        Self { address: engine.address.clone(), images: Mutex::new(Vec::new()) }
    }

    pub(super) fn add(&self, id: &str) {
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
    let stream = TcpStream::connect(address.split_once("://").map_or("", |(_, host)| host))?;
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
