//! HTTP by hand, for tests that must see, or send, just what is on the wire.

// Helpers of tests are tests, which the lint sees only in functions marked so; not every test uses all of them.
#![allow(clippy::unwrap_used, dead_code)]

pub(crate) mod signing;

use domain::secret::Secret;
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use store::Limits;

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header, by its lower-case name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of an error, or nothing.
    pub(crate) fn code(&self) -> String {
        self.between("Code").unwrap_or_default()
    }

    /// What is between the first tags of this name.
    pub(crate) fn between(&self, tag: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once(&format!("</{tag}>"))?.0.to_owned())
    }
}

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    held: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self::try_new(address).unwrap()
    }

    pub(crate) fn try_new(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream, held: Vec::new() })
    }

    /// The same connection, for another thread.
    pub(crate) fn again(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), held: Vec::new() }
    }

    /// Sends a request and reads the answer. `headers` end in `\r\n` each.
    pub(crate) fn call(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> std::io::Result<Answer> {
        self.send(method, path, headers, body)?;
        self.answer(method == "HEAD")
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        self.stream.write_all(&[head.as_bytes(), body].concat())
    }

    fn more(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 1 << 16];
        match self.stream.read(&mut buffer)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            got => {
                self.held.extend_from_slice(&buffer[..got]);
                Ok(())
            }
        }
    }

    pub(crate) fn answer(&mut self, without_body: bool) -> std::io::Result<Answer> {
        let end = loop {
            if let Some(at) = self.held.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.more()?;
        };
        let head = String::from_utf8_lossy(&self.held[..end]).into_owned();
        self.held.drain(..end);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        if without_body || matches!(status, 204 | 304) {
            return Ok(answer);
        }
        if answer.field("transfer-encoding").is_some() {
            answer.body = self.chunks()?;
            return Ok(answer);
        }
        let length = answer.field("content-length").map_or(0, |length| length.parse().unwrap());
        while self.held.len() < length {
            self.more()?;
        }
        answer.body = self.held.drain(..length).collect();
        Ok(answer)
    }

    fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = self.held.windows(2).position(|window| window == b"\r\n") {
                    break at;
                }
                self.more()?;
            };
            let length = usize::from_str_radix(std::str::from_utf8(&self.held[..end]).unwrap(), 16).unwrap();
            while self.held.len() < end + 2 + length + 2 {
                self.more()?;
            }
            body.extend_from_slice(&self.held[end + 2..end + 2 + length]);
            self.held.drain(..end + 2 + length + 2);
            if length == 0 {
                return Ok(body);
            }
        }
    }

    /// Whether the other side closes the connection within this time; what comes before is dropped.
    pub(crate) fn is_closed_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut buffer = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    return false;
                }
                Err(_) => return true,
            }
        }
    }
}

/// A served store in this process, on a runtime of its own.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    running: Option<JoinHandle<store::Result<()>>>,
}

impl Served {
    /// Without credentials.
    pub(crate) fn start(directory: &Path, limits: Limits) -> Self {
        Self::start_with(directory, limits, None)
    }

    /// With those of [`signing`].
    pub(crate) fn signed(directory: &Path) -> Self {
        let credentials = (signing::KEY.to_owned(), Secret::new(signing::SECRET));
        Self::start_with(directory, Limits::default(), Some(credentials))
    }

    fn start_with(directory: &Path, limits: Limits, credentials: Option<(String, Secret)>) -> Self {
        let directory = directory.to_owned();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, listening) = std::sync::mpsc::channel();
        let running = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let listen = "127.0.0.1:0".parse().unwrap();
            let stop = async {
                let _ = stopped.await;
            };
            let ready = move |address| ready.send(address).unwrap();
            runtime.block_on(store::serve_within(limits, &directory, listen, &[], credentials, ready, stop))
        });
        let address = listening.recv_timeout(Duration::from_secs(30)).unwrap();
        Self { address, stop: Some(stop), running: Some(running) }
    }

    /// Asks it to stop; it drains.
    pub(crate) fn begin_to_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.running.as_ref().unwrap().is_finished()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> store::Result<()> {
        drop(self.stop.take());
        self.running.take().unwrap().join().unwrap()
    }
}

/// A served store in a child process: this test's binary, run again with the name of the test that serves.
pub(crate) struct ServedApart {
    pub(crate) address: SocketAddr,
    child: Child,
}

/// What tells the child which directory to serve, and where to write its address.
const APART: &str = "STORE_TEST_SERVE";

impl ServedApart {
    /// Runs the test `name`, which must call [`serve_if_apart`], in a child.
    pub(crate) fn start(name: &str, directory: &Path) -> Self {
        let told = tempfile::tempdir().unwrap();
        let file = told.path().join("address");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.env(APART, format!("{}\n{}", directory.display(), file.display()));
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let address = loop {
            if let Ok(address) = std::fs::read_to_string(&file) {
                break address.parse().unwrap();
            }
            assert!(child.try_wait().unwrap().is_none(), "the child ended before it listened");
            assert!(Instant::now() < deadline, "the child does not listen");
            std::thread::sleep(Duration::from_millis(1));
        };
        Self { address, child }
    }

    /// SIGKILL, and waits until the child is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Serves until it is killed, when this process was started by [`ServedApart::start`].
pub(crate) fn serve_if_apart() {
    let Ok(told) = std::env::var(APART) else { return };
    let (directory, file) = told.split_once('\n').unwrap();
    let file = PathBuf::from(file);
    let ready = |address: SocketAddr| {
        // Its reader must not see half of it.
        let new = file.with_extension("new");
        std::fs::write(&new, address.to_string()).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let never = std::future::pending();
    runtime
        .block_on(store::serve_within(Limits::default(), Path::new(directory), listen, &[], None, ready, never))
        .unwrap();
}
