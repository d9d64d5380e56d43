//! A server whose paths are its faults.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) seen: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(AtomicU32::new(0));
        let count = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(serve(stream, count));
            }
        });
        Self { url, seen, task }
    }
}

/// Broken connections are made below HTTP: the first bytes tell which path is asked for.
async fn serve(mut stream: TcpStream, seen: Arc<AtomicU32>) {
    let mut start = [0; 16];
    let length = stream.peek(&mut start).await.unwrap_or(0);
    let start = &start[..length];
    if start.starts_with(b"GET /reset") {
        seen.fetch_add(1, Ordering::SeqCst);
        let _ = stream.set_zero_linger(); // the answer is RST
        return;
    }
    if start.starts_with(b"GET /truncated") {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await;
        return;
    }
    let service = service_fn(move |request| {
        let seen = seen.clone();
        async move { Ok::<_, Infallible>(answer(request, seen.fetch_add(1, Ordering::SeqCst)).await) }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, number: u32) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let respond = |status: u16, body: String| {
        let response = Response::builder().status(status).header("content-type", "application/json; charset=utf-8");
        response.header("x-number", number.to_string()).body(Full::new(Bytes::from(body))).unwrap()
    };
    match path.as_str() {
        "/ok" => respond(200, r#"{"status": "ready", "score": 0.9, "count": 3, "list": [1, {"a": 2.0}]}"#.into()),
        "/nan" => respond(200, r#"{"score": NaN}"#.into()),
        "/error" => respond(503, "busy".into()),
        "/redirect" => {
            let response = Response::builder().status(302).header("location", "/ok");
            response.body(Full::new(Bytes::new())).unwrap()
        }
        "/slow" => std::future::pending().await,
        "/huge" => respond(200, "x".repeat(17 << 20)),
        "/third" if number.is_multiple_of(3) => respond(500, "every third fails".into()),
        "/later" if number < 3 => respond(503, "not yet".into()),
        // The vulnerabilities of one package, as OSV tells them.
        "/v1/query" => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let known = serde_json::json!({"vulns": [{
                "id": "PYSEC-2019-179", "summary": "Unexpected memory usage", "aliases": ["CVE-2019-1010083"],
                "affected": [{"package": {"name": "flask", "ecosystem": "PyPI"}, "versions": ["0.5"],
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.0"}]}]}],
            }]});
            respond(200, if asked["package"]["name"] == "flask" { known.to_string() } else { "{}".into() })
        }
        "/echo" => {
            let header = request.headers().get("x-token").map(|value| value.to_str().unwrap().to_owned());
            let method = request.method().to_string();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            respond(201, serde_json::json!({"method": method, "body": body, "token": header}).to_string())
        }
        _ => respond(200, "{}".into()),
    }
}
