//! A server that answers each request as a script says, byte for byte: what no honest server can be made to do.

// Helpers of tests are tests, which the lint sees only in functions marked so; and not every test uses all of them.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use domain::secret::Secret;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use store::{Location, Settings, Store};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// From 0.
    pub number: usize,
    /// `GET`, …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The head, in lower case.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub enum Say {
    /// These bytes, and the connection stays open.
    Bytes(Vec<u8>),
    /// These bytes, then the end of the connection.
    Close(Vec<u8>),
    /// A reset instead of an answer.
    Reset,
    /// These bytes, then nothing, for ever.
    Stall(Vec<u8>),
    /// The first bytes at once, the others one by one with a pause.
    Drip(Vec<u8>, Vec<u8>, Duration),
}

/// An answer with this status, these headers and this body.
pub fn answer(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for header in headers.split('\n').filter(|header| !header.is_empty()) {
        bytes.extend_from_slice(format!("{header}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// An error as S3 writes it.
pub fn error(status: u16, code: &str) -> Vec<u8> {
    error_with(status, code, "")
}

/// An error as S3 writes it, with headers.
pub fn error_with(status: u16, code: &str, headers: &str) -> Vec<u8> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said so</Message></Error>");
    answer(status, &format!("content-type: application/xml\n{headers}"), body)
}

/// An object.
pub fn object(bytes: &[u8]) -> Vec<u8> {
    answer(200, "etag: \"one\"\nlast-modified: Wed, 01 Jan 2025 00:00:00 GMT", bytes)
}

/// The answer to a write.
pub fn written() -> Vec<u8> {
    answer(200, "etag: \"one\"", "")
}

/// The server.
pub struct Scripted {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Scripted {
    /// Answers as `script` says.
    pub async fn start(script: impl Fn(&Asked) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, script) = (Arc::new(Mutex::new(Vec::new())), Arc::new(script));
        let seen = asked.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(converse(stream, seen.clone(), script.clone()));
            }
        });
        Self { address, asked, serving }
    }

    /// Everything that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How many requests there were whose method and target begin so.
    pub fn count(&self, method: &str, target: &str) -> usize {
        self.asked().iter().filter(|asked| asked.method == method && asked.target.contains(target)).count()
    }

    /// Where it is.
    pub fn location(&self) -> Location {
        Location::S3 {
            bucket: "bucket".to_owned(),
            prefix: String::new(),
            endpoint: Some(format!("http://{}", self.address)),
            region: None,
            credentials: Some(("key".to_owned(), Secret::new("secret"))),
        }
    }

    /// A store there with little patience.
    pub async fn store(&self) -> Store {
        Store::open_with(&self.location(), &hasty()).await.unwrap()
    }
}

/// Patience for tests.
pub fn hasty() -> Settings {
    Settings {
        deadline: Duration::from_secs(4),
        stall_timeout: Duration::from_millis(400),
        attempts: 4,
        pause: Duration::from_millis(5),
        ..Settings::default()
    }
}

async fn converse(
    mut stream: TcpStream,
    asked: Arc<Mutex<Vec<Asked>>>,
    script: Arc<impl Fn(&Asked) -> Say + Send + Sync + 'static>,
) {
    let mut buffer = Vec::new();
    while let Some(mut request) = request(&mut stream, &mut buffer).await {
        let say = {
            let mut asked = asked.lock().unwrap();
            request.number = asked.len();
            asked.push(request.clone());
            script(&request)
        };
        let sent = match say {
            Say::Bytes(bytes) => stream.write_all(&bytes).await,
            Say::Close(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            Say::Reset => {
                // With a linger of zero, the end of a connection is a reset.
                stream.set_zero_linger().unwrap();
                return;
            }
            Say::Stall(bytes) => {
                let _ = stream.write_all(&bytes).await;
                std::future::pending::<()>().await;
                return;
            }
            Say::Drip(first, rest, pause) => {
                let _ = stream.write_all(&first).await;
                for byte in rest {
                    tokio::time::sleep(pause).await;
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                }
                Ok(())
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The next request, whose body has a length.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Asked> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut first = head.lines().next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let head = head.lines().map(lower_name).collect::<Vec<_>>().join("\n");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
    while buffer.len() < end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let rest = buffer.split_off(end + length);
    let body = buffer[end..].to_vec();
    *buffer = rest;
    Some(Asked { number: 0, method, target, head, body })
}

fn lower_name(line: &str) -> String {
    match line.split_once(':') {
        Some((name, value)) => format!("{}:{value}", name.to_ascii_lowercase()),
        None => line.to_owned(),
    }
}
