//! A store over the network, and a proxy before it that lies.

use e2e::Project;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

/// The bucket of [`Server`].
pub(crate) const BUCKET: &str = "releases";
/// Credentials of [`Server`].
pub(crate) const ACCESS: &str = "AKIATESTTESTTEST";
/// The other half.
pub(crate) const SECRET: &str = "not-a-real-secret-but-a-long-one";

/// `sealift store serve` over a folder, killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Where it listens.
    pub(crate) port: u16,
}

impl Server {
    /// Serves `folder`, with credentials or for anybody on this host.
    pub(crate) fn start(project: &Project, folder: &Path, credentials: bool) -> Self {
        Self::listen(project, folder, credentials, 0)
    }

    /// The same on a port of one's own.
    pub(crate) fn listen(project: &Project, folder: &Path, credentials: bool, port: u16) -> Self {
        Self::under(&[], project, folder, credentials, port)
    }

    /// The same, run by another program: its command line up to what it is to run.
    pub(crate) fn under(runner: &[&str], project: &Project, folder: &Path, credentials: bool, port: u16) -> Self {
        let program = e2e::sealift_program();
        let mut command = match runner.split_first() {
            None => project.command(program),
            Some((runner, line)) => {
                let mut command = project.command(runner);
                command.args(line).arg(program);
                command
            }
        };
        command.args(["store", "serve", "--bucket", BUCKET, "--listen", &format!("127.0.0.1:{port}"), "--dir"]);
        command.arg(folder);
        if credentials {
            command.env("AWS_ACCESS_KEY_ID", ACCESS).env("AWS_SECRET_ACCESS_KEY", SECRET);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        // It ends with the process if that dies instead of listening.
        let read = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        let port = line
            .split_once("127.0.0.1:")
            .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        let Some(port) = port else {
            let _ = child.kill();
            panic!("the store does not say where it listens: {line:?} ({read:?})");
        };
        Self { child, port }
    }

    /// Its address.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of `[store]` for a bucket at an endpoint, with the credentials of two variables.
pub(crate) fn section(endpoint: &str, bucket: &str) -> String {
    section_with(endpoint, bucket, PREFIX)
}

/// The prefix that [`section`] writes.
pub(crate) const PREFIX: &str = "team";

/// The same with a prefix of one's own.
pub(crate) fn section_with(endpoint: &str, bucket: &str, prefix: &str) -> String {
    format!(
        "bucket = \"{bucket}\"\nprefix = \"{prefix}\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n\
         access_key = \"env:STORE_ACCESS\"\nsecret_key = \"env:STORE_SECRET\""
    )
}

/// A proxy before an S3 server that does not keep its word: whatever comes of a conditional write, it says that it was
/// done. One thread a connection, one request a connection.
#[derive(Debug)]
pub(crate) struct Liar {
    port: u16,
    /// How often it lied.
    pub(crate) lies: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Liar {
    /// Before the server at `port` of this host.
    pub(crate) fn before(to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, lies) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (stop.clone(), lies.clone());
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), counter) = (client, counter.clone()) else { continue };
                // A connection that breaks is what the client has to cope with.
                thread::spawn(move || pass(&client, to, &counter));
            }
        });
        Self { port, lies, stop, thread: Some(thread) }
    }

    /// Its address.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn pass(client: &TcpStream, to: u16, lies: &AtomicU64) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let value = |name: &str| {
        head.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let length: u64 = value("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let conditional = value("if-none-match").or(value("if-match")).is_some() && head[0].starts_with("PUT ");
    if value("expect").is_some() {
        (&*client).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    head.retain(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !["connection", "expect"].iter().any(|dropped| name.eq_ignore_ascii_case(dropped))
    });
    head.push("connection: close".to_owned());
    let mut server = TcpStream::connect(("127.0.0.1", to))?;
    server.set_nodelay(true)?;
    server.write_all(format!("{}\r\n\r\n", head.join("\r\n")).as_bytes())?;
    std::io::copy(&mut reader.take(length), &mut server)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    if conditional && !answer.starts_with(b"HTTP/1.1 200") {
        lies.fetch_add(1, Ordering::SeqCst);
        answer = b"HTTP/1.1 200 OK\r\netag: \"0123456789abcdef0123456789abcdef\"\r\ncontent-length: 0\r\n\
                   connection: close\r\n\r\n"
            .to_vec();
    }
    (&*client).write_all(&answer)?;
    client.shutdown(Shutdown::Both)
}

/// One HTTP request to a server of this host: status, head and body.
pub(crate) fn exchange(port: u16, first: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = format!(
        "{first} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head ends");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, head, answer.split_off(end + 4))
}
