//! A proxy that counts what a client sends to a server, and may delay each request as a distant server would.
//!
//! It understands just enough of HTTP/1.1 to know where a request begins and ends; answers pass as they are. It changes
//! nothing, retries nothing and speaks no TLS.

use crate::shell::Outcome;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// What went through.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// Requests that the client made.
    pub(super) requests: u64,
    /// Bytes of their bodies.
    pub(super) sent: u64,
    /// Bytes that came back, heads included.
    pub(super) received: u64,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    stopped: AtomicBool,
}

/// A running proxy; it stops when it is dropped.
pub(super) struct Proxy {
    address: SocketAddr,
    counters: Arc<Counters>,
}

impl Proxy {
    /// Stands in front of the server at `upstream`.
    pub(super) fn start(upstream: SocketAddr, delay: Duration) -> Outcome<Self> {
        let named = |cause: std::io::Error| format!("no loopback port for the proxy: {cause}");
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(named)?;
        let address = listener.local_addr().map_err(named)?;
        let counters = Arc::new(Counters::default());
        let shared = counters.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let counters = shared.clone();
                // A connection that breaks is between the two of them: both see it closed.
                thread::spawn(move || drop(connect(client, upstream, delay, &counters)));
            }
        });
        Ok(Self { address, counters })
    }

    /// Where clients connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What went through since the last call.
    pub(super) fn take(&self) -> Counted {
        Counted {
            requests: self.counters.requests.swap(0, Ordering::Relaxed),
            sent: self.counters.sent.swap(0, Ordering::Relaxed),
            received: self.counters.received.swap(0, Ordering::Relaxed),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.counters.stopped.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

fn connect(client: TcpStream, upstream: SocketAddr, delay: Duration, counters: &Arc<Counters>) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut answers, mut to_client, shared) = (server.try_clone()?, client.try_clone()?, counters.clone());
    let back = thread::spawn(move || {
        let mut buffer = vec![0; 128 << 10];
        while let Ok(count @ 1..) = answers.read(&mut buffer) {
            shared.received.fetch_add(count as u64, Ordering::Relaxed);
            if to_client.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let forwarded = forward(&mut BufReader::with_capacity(128 << 10, client), &mut &server, delay, counters);
    let _ = server.shutdown(Shutdown::Write);
    let _ = back.join();
    forwarded
}

/// Passes requests on until the client closes.
fn forward(
    client: &mut impl BufRead,
    server: &mut impl Write,
    delay: Duration,
    counters: &Counters,
) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        loop {
            let begun = head.len();
            if client.read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
            if matches!(&head[begun..], b"\r\n" | b"\n") {
                break;
            }
        }
        counters.requests.fetch_add(1, Ordering::Relaxed);
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        server.write_all(&head)?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let value =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        if value("transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
            chunks(client, server, counters)?;
        } else if let Some(length) = value("content-length").and_then(|length| length.parse().ok()) {
            pass(client, server, length, counters)?;
        }
    }
}

/// Passes `length` bytes of a body on.
fn pass(client: &mut impl BufRead, server: &mut impl Write, length: u64, counters: &Counters) -> std::io::Result<()> {
    let passed = std::io::copy(&mut client.by_ref().take(length), server)?;
    counters.sent.fetch_add(passed, Ordering::Relaxed);
    if passed == length { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

/// Passes a chunked body on, with its trailers.
fn chunks(client: &mut impl BufRead, server: &mut impl Write, counters: &Counters) -> std::io::Result<()> {
    loop {
        let size = line(client, server)?;
        let digits = size.split([';', '\r', '\n']).next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| std::io::ErrorKind::InvalidData)?;
        if size == 0 {
            while !matches!(line(client, server)?.as_str(), "\r\n" | "\n") {}
            return Ok(());
        }
        pass(client, server, size, counters)?;
        line(client, server)?;
    }
}

fn line(client: &mut impl BufRead, server: &mut impl Write) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if client.read_until(b'\n', &mut bytes)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    server.write_all(&bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]
mod tests {
    use super::*;
    use std::time::Instant;

    fn forwarded(text: &str) -> (String, Counted) {
        let (mut server, counters) = (Vec::new(), Counters::default());
        forward(&mut text.as_bytes(), &mut server, Duration::ZERO, &counters).unwrap();
        let proxy = Proxy { address: ([127, 0, 0, 1], 9).into(), counters: Arc::new(counters) };
        (String::from_utf8(server).unwrap(), proxy.take())
    }

    #[test]
    fn requests_pass_unchanged_and_are_counted() {
        let text = "GET /a HTTP/1.1\r\nHost: x\r\n\r\nPUT /b HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /PUT /c HTTP/1.1\r\n\
                    Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nx-trailer: 1\r\n\r\nHEAD /d HTTP/1.1\r\n\r\n";
        let (passed, counted) = forwarded(text);
        assert_eq!(passed, text);
        assert_eq!(counted, Counted { requests: 4, sent: 9, received: 0 });
    }

    #[test]
    fn a_delayed_connection_serves_request_after_request() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let upstream = server.local_addr().unwrap();
        let serving = thread::spawn(move || {
            let (mut connection, _) = server.accept().unwrap();
            let mut reader = BufReader::new(connection.try_clone().unwrap());
            for _ in 0..2 {
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap() > 2 {
                    line.clear();
                }
                connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            }
        });
        let delay = Duration::from_millis(20);
        let proxy = Proxy::start(upstream, delay).unwrap();
        let begun = Instant::now();
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let mut answer = [0; 27];
            client.read_exact(&mut answer).unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 204"));
        }
        assert!(begun.elapsed() >= delay * 2);
        serving.join().unwrap();
        let counted = proxy.take();
        assert_eq!((counted.requests, counted.sent, counted.received), (2, 0, 54));
        assert_eq!(proxy.take(), Counted::default());
    }
}
