//! One request and what its answer must be; smoke tests; waiting until healthy.

use domain::{
    Event, Events,
    event::Unit,
    gate::{Expectation, HttpRequest, Measurement},
    workload::HealthCheck,
};
use jiff::Timestamp;
use reqwest::{Client, Method, Url, redirect::Policy};
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Answers are read up to this length; a longer one fails.
const BODY_LIMIT: usize = 16 << 20;
/// How long one health request may take.
const HEALTH_REQUEST: Duration = Duration::from_secs(2);

/// How one request came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The request's name.
    pub name: String,
    /// Whether everything was as expected.
    pub ok: bool,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// From sending until the last byte of the answer, or until it failed.
    #[serde(rename = "latency_ms", serialize_with = "milliseconds")]
    pub latency: Duration,
    /// Each expectation that failed, with what was found.
    pub failures: Vec<String>,
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64() * 1000.0)
}

/// How a smoke test came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SmokeReport {
    /// Every request, in order.
    pub outcomes: Vec<Outcome>,
}

impl SmokeReport {
    /// Whether there was at least one request and all passed.
    pub fn ok(&self) -> bool {
        !self.outcomes.is_empty() && self.outcomes.iter().all(|outcome| outcome.ok)
    }

    /// How many passed.
    pub fn passed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.ok).count()
    }

    /// One sentence for each request that failed.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.outcomes.iter().filter(|outcome| !outcome.ok);
        failed.map(|outcome| format!("{}: {}", outcome.name, outcome.failures.join("; "))).collect()
    }

    /// The share that passed, as evidence.
    pub fn measurement(&self, at: Timestamp) -> Measurement {
        if self.outcomes.is_empty() {
            return Measurement::Missing { why: "there are no smoke requests".to_owned() };
        }
        #[allow(clippy::cast_precision_loss)] // a handful of requests
        let value = self.passed() as f64 / self.outcomes.len() as f64;
        Measurement::Value { value, samples: self.outcomes.len() as u64, at, notes: self.failures() }
    }
}

/// Sends one request. Whatever goes wrong is in the outcome.
pub async fn request(base: &str, request: &HttpRequest) -> Outcome {
    match client(base, false) {
        Ok(client) => send(&client, base, request).await,
        Err(why) => failed(request, why, Duration::ZERO),
    }
}

/// Sends all requests in order, each on a connection of its own; none is skipped because an earlier one failed.
pub async fn smoke(base: &str, requests: &[HttpRequest], events: &Events) -> SmokeReport {
    let task = events.task(format!("smoke {base}"), Some(requests.len() as u64), Unit::Items);
    let mut report = SmokeReport { outcomes: Vec::with_capacity(requests.len()) };
    for wanted in requests {
        let outcome = request(base, wanted).await;
        for failure in &outcome.failures {
            events.emit(Event::Output { source: format!("smoke {}", outcome.name), line: failure.clone() });
        }
        report.outcomes.push(outcome);
        task.advance(1);
    }
    task.finish(format!("{} of {} requests passed", report.passed(), requests.len()));
    report
}

/// A client for one server. With `pooled`, connections are kept between requests.
pub(crate) fn client(base: &str, pooled: bool) -> Result<Client, String> {
    // Building any client needs a provider, even one that will only speak plain HTTP. A program that set one keeps it.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let mut builder = Client::builder().no_proxy().redirect(Policy::none()).retry(reqwest::retry::never());
    if !pooled {
        builder = builder.pool_max_idle_per_host(0);
    }
    if !base.starts_with("https:") {
        builder = builder.tls_certs_only([]); // reading the system's certificates takes longer than a request
    }
    builder.build().map_err(|error| format!("no HTTP client: {}", causes(&error)))
}

pub(crate) async fn send(client: &Client, base: &str, request: &HttpRequest) -> Outcome {
    let started = Instant::now();
    let sent = tokio::time::timeout(request.timeout, answer(client, base, request)).await;
    let latency = started.elapsed();
    match sent {
        Ok(Ok(answer)) => {
            let failures = judge(request, &answer);
            let (name, status) = (request.name.clone(), Some(answer.status));
            Outcome { name, ok: failures.is_empty(), status, latency, failures }
        }
        Ok(Err(why)) => failed(request, why, latency),
        Err(_) => failed(request, format!("no complete answer within {:.3} s", request.timeout.as_secs_f64()), latency),
    }
}

fn failed(request: &HttpRequest, why: String, latency: Duration) -> Outcome {
    Outcome { name: request.name.clone(), ok: false, status: None, latency, failures: vec![why] }
}

struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Vec<u8>,
}

async fn answer(client: &Client, base: &str, request: &HttpRequest) -> Result<Answer, String> {
    let url = format!("{}{}", base.trim_end_matches('/'), request.path);
    let url: Url = url.parse().map_err(|error| format!("{url:?} is not a URL: {error}"))?;
    let method = Method::from_bytes(request.method.to_uppercase().as_bytes())
        .map_err(|_| format!("{:?} is not an HTTP method", request.method))?;
    let mut builder = client.request(method, url);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    if let Some(body) = &request.body {
        builder = builder.body(body.clone());
    }
    let mut response = builder.send().await.map_err(|error| causes(&error))?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| format!("its body: {}", causes(&error)))? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(format!("its body is longer than {BODY_LIMIT} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), body })
}

fn judge(request: &HttpRequest, answer: &Answer) -> Vec<String> {
    let mut failures = Vec::new();
    match request.status {
        Some(status) if status != answer.status => {
            failures.push(format!("status {} expected, found {}", status, answer.status))
        }
        None if !(200..300).contains(&answer.status) => {
            failures.push(format!("a 2xx status expected, found {}", answer.status))
        }
        _ => {}
    }
    for (name, expected) in &request.expect_headers {
        let found = answer.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        match found {
            None => failures.push(format!("header {name} expected, found none")),
            Some(found) if !same_header(expected, &found) => {
                failures.push(format!("header {name}: {expected} expected, found {}", shown(&found)));
            }
            Some(_) => {}
        }
    }
    if request.expect_json.is_empty() {
        return failures;
    }
    match serde_json::from_slice::<Value>(&answer.body) {
        Ok(json) => {
            let judged = request.expect_json.iter().filter_map(|(pointer, wanted)| judge_value(&json, pointer, wanted));
            failures.extend(judged);
        }
        Err(error) => failures
            .push(format!("a JSON answer expected: {error} in {}", shown(&String::from_utf8_lossy(&answer.body)))),
    }
    failures
}

/// An empty expectation is any value. Parameters (`; charset=…`) may follow what is expected.
fn same_header(expected: &str, found: &str) -> bool {
    expected.is_empty() || expected == found || found.split(';').next().is_some_and(|value| value.trim() == expected)
}

fn judge_value(json: &Value, pointer: &str, wanted: &Expectation) -> Option<String> {
    let Some(found) = json.pointer(pointer) else { return Some(format!("{pointer} expected, found nothing there")) };
    match wanted {
        Expectation::Present => None,
        Expectation::Equals(value) => {
            (!equal(value, found)).then(|| format!("{pointer} = {value} expected, found {}", shown(&found.to_string())))
        }
        Expectation::Between(low, high) => {
            let holds = found.as_f64().is_some_and(|number| *low <= number && number <= *high);
            (!holds).then(|| format!("{pointer} from {low} to {high} expected, found {}", shown(&found.to_string())))
        }
    }
}

/// JSON equality in which 1 and 1.0 are the same number.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(_), Value::Number(_)) => {
            left == right || (left.as_f64().is_some() && left.as_f64() == right.as_f64())
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| equal(left, right)))
        }
        _ => left == right,
    }
}

fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(120).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// An error with its causes; the outermost one of the client rarely says what happened.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Why something did not get healthy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unhealthy {
    /// It ended before it answered.
    #[error("it ended {:.1} s after its start: {words}", after.as_secs_f64())]
    Died {
        /// How long after the start.
        after: Duration,
        /// How it ended, and its last words.
        words: String,
    },
    /// It runs and did not answer well in time.
    #[error("{path} did not answer with 2xx within {:.1} s; the last answer: {last}", after.as_secs_f64())]
    TimedOut {
        /// The path that was asked.
        path: String,
        /// How long it was given.
        after: Duration,
        /// What the last request found.
        last: String,
    },
}

/// Asks until the answer is 2xx, at growing intervals, and gives up at the end of the time or as soon as `still_alive`
/// returns how the workload ended. It is asked last of all, so that the answer of another program on the same port is not
/// taken for that of a workload that has ended. Returns how long it took.
pub async fn wait_healthy<A, F>(base: &str, check: &HealthCheck, still_alive: A) -> Result<Duration, Unhealthy>
where
    A: Fn() -> F,
    F: Future<Output = Option<String>>,
{
    let started = Instant::now();
    let mut interval = Duration::from_millis(10);
    let mut last;
    loop {
        let left = check.start_timeout.saturating_sub(started.elapsed());
        let timeout = HEALTH_REQUEST.min(left).max(Duration::from_millis(1));
        let outcome = request(base, &health_request(check, timeout)).await;
        if let Some(words) = still_alive().await {
            return Err(Unhealthy::Died { after: started.elapsed(), words });
        }
        if outcome.ok {
            return Ok(started.elapsed());
        }
        last = outcome.failures.join("; ");
        let left = check.start_timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(Unhealthy::TimedOut { path: check.path.clone(), after: check.start_timeout, last });
        }
        tokio::time::sleep(interval.min(left)).await;
        interval = (interval * 3 / 2).min(Duration::from_secs(1));
    }
}

fn health_request(check: &HealthCheck, timeout: Duration) -> HttpRequest {
    HttpRequest {
        name: "health".to_owned(),
        method: "GET".to_owned(),
        path: check.path.clone(),
        headers: Default::default(),
        body: None,
        status: None,
        expect_headers: Default::default(),
        expect_json: Default::default(),
        timeout,
    }
}
