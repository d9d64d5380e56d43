//! One HTTP request at a time: to services on the loopback, and to a Docker Engine's socket. No keep-alive, no TLS.

use crate::shell::Outcome;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Stopping a container may take its ten seconds of grace.
const PATIENCE: Duration = Duration::from_secs(60);

/// A status and a body.
pub(super) type Answer = (u16, String);

/// Asks a service on a loopback port; a `body` is JSON.
pub(super) fn ask(port: u16, method: &str, path: &str, body: Option<&str>) -> Outcome<Answer> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let named = |cause: std::io::Error| format!("http://{address}{path}: {cause}");
    let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(named)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(named)?;
    exchange(stream, &address.to_string(), method, path, body)
}

/// Asks a Docker Engine at its socket.
pub(super) fn ask_engine(socket: &Path, method: &str, path: &str) -> Outcome<Answer> {
    let named = |cause: std::io::Error| format!("{}: {cause}", socket.display());
    let stream = UnixStream::connect(socket).map_err(named)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(named)?;
    exchange(stream, "localhost", method, path, None)
}

/// HTTP/1.0, so that the end of the connection is the end of the body.
fn exchange(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Outcome<Answer> {
    let body = body.unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_end(&mut answer))
        .map_err(|cause| format!("{method} {host}{path}: {cause}"))?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| format!("{method} {host}{path}: the answer is not HTTP: {head:.80}"))?;
    Ok((status, body.to_owned()))
}

/// `text` as part of a query.
pub(super) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_request_is_whole_and_its_answer_taken_apart() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            let mut buffer = [0; 1024];
            while !String::from_utf8_lossy(&seen).ends_with("{\"a\":1}") {
                let count = stream.read(&mut buffer).unwrap();
                seen.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(b"HTTP/1.0 201 Created\r\nX: y\r\n\r\nyes").unwrap();
            String::from_utf8(seen).unwrap()
        });
        assert_eq!(ask(port, "POST", "/x", Some("{\"a\":1}")).unwrap(), (201, "yes".to_owned()));
        assert!(server.join().unwrap().starts_with("POST /x HTTP/1.0\r\n"));
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(escaped("{\"label\":[\"a=b\"]}"), "%7B%22label%22%3A%5B%22a%3Db%22%5D%7D");
    }
}
