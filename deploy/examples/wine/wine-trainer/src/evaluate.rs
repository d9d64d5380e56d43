//! Asks a running service about every held-out wine, and reports how good it is.
//!
//! - The report is there only if every wine was answered, by one and the same model; an older one is removed first,
//!   so that it cannot be
//!   taken for this one.
//! - It sees the service as any client does: what it measures includes the service's own mistakes.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::data::{FEATURES, Wine};
use crate::files;
use crate::train::{Metrics, Outcome, measure};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The part of an answer to `/predict` that is measured.
#[derive(Debug, Deserialize)]
struct Answer {
    quality: u8,
    score: f64,
    model: String,
}

/// What the report says.
#[derive(Debug, Serialize)]
pub struct EvaluationReport {
    /// How good the answers were.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Whom was asked.
    pub url: String,
    /// The version of the model that answered.
    pub model: String,
    /// What the service says about itself.
    pub service: Value,
    /// When, as RFC 3339.
    pub created: String,
}

/// Asks and reports.
///
/// # Errors
/// The service cannot be reached, refuses a wine, or changes its model meanwhile; the report cannot be written.
pub fn evaluate(url: &str, wines: &[Wine], out: &Path) -> Result<EvaluationReport, String> {
    files::remove(out)?;
    let url = url.trim_end_matches('/');
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).proxy(None);
    let agent = config.build().new_agent();
    let (mut outcomes, mut model) = (Vec::with_capacity(wines.len()), None);
    for (at, wine) in wines.iter().enumerate() {
        let answer = ask(&agent, url, wine).map_err(|error| format!("row {} of {}: {error}", at + 1, wines.len()))?;
        outcomes.push(Outcome { actual: wine.quality, quality: answer.quality, score: answer.score });
        let first = model.get_or_insert_with(|| answer.model.clone());
        if *first != answer.model {
            return Err(format!("the service changed from model {first} to {} while it was asked", answer.model));
        }
    }
    let report = EvaluationReport {
        metrics: measure(&outcomes)?,
        url: url.to_owned(),
        model: model.unwrap_or_default(),
        service: version(&agent, url)?,
        created: created()?,
    };
    files::write_json(out, &report)?;
    Ok(report)
}

fn ask(agent: &ureq::Agent, url: &str, wine: &Wine) -> Result<Answer, String> {
    let features: serde_json::Map<String, Value> =
        FEATURES.iter().zip(wine.features).map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    let address = format!("{url}/predict");
    let answer = agent.post(&address).send_json(json!({ "features": features }));
    let text = body(&address, answer)?;
    serde_json::from_str(&text).map_err(|error| format!("{address} answered {text:?}: {error}"))
}

fn version(agent: &ureq::Agent, url: &str) -> Result<Value, String> {
    let address = format!("{url}/version");
    let text = body(&address, agent.get(&address).call())?;
    serde_json::from_str(&text).map_err(|error| format!("{address} answered {text:?}: {error}"))
}

fn body(address: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<String, String> {
    let mut answer = answer.map_err(|error| format!("{address} does not answer: {error}"))?;
    let status = answer.status();
    let text =
        answer.body_mut().read_to_string().map_err(|error| format!("{address}: the answer ended early: {error}"))?;
    if status.is_success() { Ok(text) } else { Err(format!("{address} answered {status}: {}", text.trim())) }
}

fn created() -> Result<String, String> {
    let now = jiff::Timestamp::now().round(jiff::Unit::Second);
    now.map(|now| now.to_string()).map_err(|error| format!("cannot tell the time: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    /// Gives each connection the next of some answers.
    fn service(answers: &'static [&'static str]) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (at, answer) in answers.iter().enumerate() {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let mut part = [0; 4096];
                // Two predictions end with the brace of their body, and what follows has no body.
                let end: &[u8] = if at < 2 { b"}" } else { b"\r\n\r\n" };
                while !request.ends_with(end) {
                    let read = stream.read(&mut part).unwrap();
                    request.extend_from_slice(&part[..read]);
                }
                let (status, body) = answer.split_once(' ').unwrap();
                write!(
                    stream,
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
            }
        });
        format!("http://{address}")
    }

    fn wines() -> Vec<Wine> {
        vec![Wine { features: [1.0; 11], quality: 5 }, Wine { features: [2.0; 11], quality: 6 }]
    }

    #[test]
    fn a_report_is_what_was_answered() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("reports/evaluation.json");
        let url = service(&[
            r#"200 {"quality":5,"score":5.25,"model":"m"}"#,
            r#"200 {"quality":5,"score":5.25,"model":"m"}"#,
            r#"200 {"version":"1.0.0"}"#,
        ]);
        evaluate(&url, &wines(), &out).unwrap();
        let report: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
        assert_eq!(report["n"], 2);
        assert_eq!(report["accuracy"], 0.5);
        assert_eq!(report["mae"], 0.5);
        assert_eq!(report["model"], "m");
        assert_eq!(report["url"], url);
        assert_eq!(report["service"]["version"], "1.0.0");
        report["created"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }

    #[test]
    fn an_evaluation_that_fails_leaves_no_report() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("evaluation.json");
        let cases: [(&'static [&'static str], &str); 4] = [
            (&[r#"200 {"quality":5,"score":5.25,"model":"m"}"#, r#"500 {"error":"x"}"#], "row 2 of 2"),
            (&[r#"200 {"quality":5,"score":null,"model":"m"}"#], "invalid type: null"),
            (
                &[r#"200 {"quality":5,"score":5,"model":"m"}"#, r#"200 {"quality":5,"score":5,"model":"n"}"#],
                "changed from model m to n",
            ),
            (&[], "does not answer"),
        ];
        for (answers, reason) in cases {
            std::fs::write(&out, "an older one").unwrap();
            let error = evaluate(&service(answers), &wines(), &out).unwrap_err();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
            assert!(!out.exists(), "{reason}");
        }
    }
}
