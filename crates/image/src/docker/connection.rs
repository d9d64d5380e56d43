//! Connections to the engine that become something else than HTTP: `/session`, on which the engine calls us, and `/grpc`, on which we call
//! its BuildKit. Both are asked for by an upgrade, and both end at once when the build does ([`Transport`]).

use super::{Engine, causes};
use crate::error::{Error, Result};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// The longest head of an answer that is read.
const LONGEST_HEAD: usize = 16 * 1024;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What the engine made of the wish.
pub(super) enum Upgraded {
    /// The connection is ours.
    Yes(Transport),
    /// This engine knows no such thing, in its own words.
    NotThere(String),
}

/// A connection that ends when the build does, whoever still holds it: servers and clients are tasks of their own.
pub(super) struct Transport {
    stream: Box<dyn Stream>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Transport {
    fn has_ended(&mut self, context: &mut Context<'_>) -> bool {
        self.ended.as_mut().poll(context).is_ready()
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.has_ended(context) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.has_ended(context) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Transport {
    type ConnectInfo = ();
    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl Engine {
    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        if let Some(path) = self.address.strip_prefix("unix://") {
            return Ok(Box::new(UnixStream::connect(path).await?));
        }
        let host = self.address.split_once("://").map_or(self.address.as_str(), |(_, host)| host);
        let stream = TcpStream::connect(host.trim_end_matches('/')).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    /// Asks for the connection at `path` of the API. It lives until `ended`.
    pub(super) async fn upgrade(
        &self,
        path: &str,
        headers: &[(&str, String)],
        ended: &CancellationToken,
    ) -> Result<Upgraded> {
        let action = format!("open {path}");
        let version = self.docker.client_version();
        let mut head = format!("POST /v{}.{}{path} HTTP/1.1\r\n", version.major_version, version.minor_version);
        head.push_str("Host: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n");
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str("\r\n");
        let asking = async {
            let mut stream = self.dial().await?;
            stream.write_all(head.as_bytes()).await?;
            let answer = read_head(&mut stream).await?;
            Ok::<_, io::Error>((stream, answer))
        };
        let failed = |error: io::Error| Error::Engine {
            engine: self.address.clone(),
            action: action.clone(),
            cause: causes(&error),
        };
        let (stream, answer) = self.ask(&action, asking).await?.map_err(failed)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).unwrap_or(0);
        let first = answer.lines().next().unwrap_or_default().to_owned();
        match status {
            101 => Ok(Upgraded::Yes(Transport { stream, ended: Box::pin(ended.clone().cancelled_owned()) })),
            400 | 404 | 405 | 501 => Ok(Upgraded::NotThere(first)),
            _ => Err(failed(io::Error::other(format!("it answered {first:?}")))),
        }
    }
}

/// Byte by byte: what follows the head is no longer ours to read.
async fn read_head(stream: &mut Box<dyn Stream>) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == LONGEST_HEAD {
            return Err(io::Error::other("its answer has no end"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
