//! One HTTP request at a time, for readiness and proof. No keep-alive, no TLS, loopback and Unix sockets only.

use crate::shell::Outcome;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// `GET path` from a loopback port: the status and the body.
pub(super) fn get(port: u16, path: &str) -> Outcome<(u16, String)> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|cause| format!("{address}: {cause}"))?;
    let limits = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    limits.map_err(|cause| format!("{address}: {cause}"))?;
    exchange(stream, &address.to_string(), path)
}

/// `GET path` from a Unix socket: the status and the body.
pub(super) fn get_unix(socket: &Path, path: &str) -> Outcome<(u16, String)> {
    let named = |cause: std::io::Error| format!("{}: {cause}", socket.display());
    let stream = UnixStream::connect(socket).map_err(named)?;
    stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(named)?;
    exchange(stream, "localhost", path)
}

/// HTTP/1.0, so that the end of the connection is the end of the body.
fn exchange(mut stream: impl Read + Write, host: &str, path: &str) -> Outcome<(u16, String)> {
    let mut answer = Vec::new();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        .and_then(|()| stream.read_to_end(&mut answer))
        .map_err(|cause| format!("{host}{path}: {cause}"))?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| format!("{host}{path}: the answer is not HTTP: {head:.80}"))?;
    Ok((status, body.to_owned()))
}
