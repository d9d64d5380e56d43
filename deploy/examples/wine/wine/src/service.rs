//! The answers of the service.
//!
//! - It knows nothing of sockets: a request goes in, an answer comes out.
//! - It never writes a file, and reads none after its start.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use wine_model::Model;

use crate::metrics::{Metrics, head};
use crate::predict::predict;

/// The version of this component.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Eleven numbers need a hundredth of it.
const BODY_LIMIT: usize = 64 * 1024;

/// A running service.
pub struct Service {
    model: Model,
    digest: String,
    release: Option<String>,
    metrics: Metrics,
    draining: AtomicBool,
}

type Answer = Response<Full<Bytes>>;

impl Service {
    /// A service of one model; `digest` is the SHA-256 of its file, `release` the name of what was deployed.
    pub fn new(model: Model, digest: String, release: Option<String>) -> Self {
        Self { model, digest, release, metrics: Metrics::default(), draining: AtomicBool::new(false) }
    }

    /// From now on `/ready` says no.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Answers a request and counts it.
    ///
    /// # Errors
    /// There are none: what goes wrong is an answer too.
    pub async fn answer<B>(&self, request: Request<B>) -> Result<Answer, Infallible>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let started = Instant::now();
        let path = known(request.uri().path());
        let answer = self.route(path, request).await;
        self.metrics.observe(path, answer.status().as_u16(), started.elapsed());
        Ok(answer)
    }

    async fn route<B>(&self, path: &'static str, request: Request<B>) -> Answer
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let method = request.method();
        match path {
            "/predict" if method == Method::POST => self.predict(request.into_body()).await,
            "/predict" => wrong_method("POST"),
            OTHER => refuse(StatusCode::NOT_FOUND, "there is /predict, /health, /ready, /version and /metrics"),
            _ if method != Method::GET && method != Method::HEAD => wrong_method("GET, HEAD"),
            "/health" => json(StatusCode::OK, &json!({ "status": "ok" })),
            "/ready" => self.ready(),
            "/version" => json(StatusCode::OK, &self.version()),
            _ => plain(self.metrics.render(&self.info())),
        }
    }

    async fn predict<B>(&self, body: B) -> Answer
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return refuse(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is longer than {BODY_LIMIT} bytes"));
            }
            Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("the body did not arrive: {error}")),
        };
        match predict(&self.model, &body) {
            Ok(answer) => {
                self.metrics.predicted(answer.quality);
                json(StatusCode::OK, &answer)
            }
            Err(reason) => refuse(StatusCode::BAD_REQUEST, &reason),
        }
    }

    fn ready(&self) -> Answer {
        if self.draining.load(Ordering::Relaxed) {
            return json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "ready": false, "reason": "shutting down" }));
        }
        json(StatusCode::OK, &json!({ "ready": true, "model": self.model.version }))
    }

    fn version(&self) -> Value {
        json!({
            "version": VERSION,
            "release": self.release,
            "model": { "version": self.model.version, "sha256": self.digest },
        })
    }

    fn info(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        head(&mut text, "wine_build_info", "gauge", "Always 1; the labels say what runs.");
        let release = escape(self.release.as_deref().unwrap_or_default());
        let _ = writeln!(text, "wine_build_info{{version=\"{VERSION}\",release=\"{release}\"}} 1");
        head(&mut text, "wine_model_info", "gauge", "Always 1; the labels say which model predicts.");
        let version = escape(&self.model.version);
        let _ = writeln!(text, "wine_model_info{{version=\"{version}\",sha256=\"{}\"}} 1", self.digest);
        text
    }
}

const OTHER: &str = "other";

fn known(path: &str) -> &'static str {
    ["/predict", "/health", "/ready", "/version", "/metrics"].into_iter().find(|known| *known == path).unwrap_or(OTHER)
}

/// As the text format of Prometheus wants the value of a label.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            respond(status, "application/json", body)
        }
        Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string().into_bytes()),
    }
}

fn plain(text: String) -> Answer {
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes())
}

fn refuse(status: StatusCode, reason: &str) -> Answer {
    json(status, &json!({ "error": reason }))
}

fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, &format!("the method must be {allowed}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tests::{block_on, model};

    fn ask(service: &Service, method: &str, path: &str, body: &str) -> (u16, String) {
        let request =
            Request::builder().method(method).uri(path).body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        block_on(async {
            let answer = service.answer(request).await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(body.to_vec()).unwrap())
        })
    }

    fn service() -> Service {
        Service::new(model(), "ab".repeat(32), Some("wine \"1.0.0\"".into()))
    }

    #[test]
    fn every_path_answers() {
        let service = service();
        let good = r#"{"features": {"alcohol": 12.0, "sulphates": 0.5}}"#;
        for (method, path, body, status, part) in [
            ("GET", "/health", "", 200, r#""status":"ok""#),
            ("GET", "/ready", "", 200, r#""ready":true"#),
            ("GET", "/version", "", 200, VERSION),
            ("GET", "/version", "", 200, &"ab".repeat(32)),
            ("POST", "/predict", good, 200, r#""quality":7"#),
            ("POST", "/predict", "{}", 400, "missing field `features`"),
            ("POST", "/predict", &" ".repeat(BODY_LIMIT + 1), 413, "longer than"),
            ("GET", "/predict", "", 405, "must be POST"),
            ("POST", "/health", "", 405, "must be GET"),
            ("GET", "/elsewhere", "", 404, "/predict"),
            ("GET", "/metrics", "", 200, "wine_requests_total{path=\"other\",code=\"404\"} 1"),
            ("GET", "/metrics", "", 200, r#"release="wine \"1.0.0\"""#),
            ("GET", "/metrics", "", 200, "wine_predictions_total{quality=\"7\"} 1"),
        ] {
            let (got, text) = ask(&service, method, path, body);
            assert_eq!(got, status, "{method} {path}: {text}");
            assert!(text.contains(part), "{method} {path}: {part:?} is not in {text}");
        }
    }

    #[test]
    fn a_service_that_drains_is_not_ready_and_still_answers() {
        let service = service();
        service.drain();
        assert_eq!(ask(&service, "GET", "/ready", "").0, 503);
        assert_eq!(ask(&service, "GET", "/health", "").0, 200);
    }
}
