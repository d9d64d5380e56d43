//! Probes against a server that misbehaves on demand, and against commands and reports.

// In a test, also outside the functions that clippy recognises, unwrapping is the assertion; what did not run is said.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod evidence;
mod requests;
mod scanners;
mod server;

use domain::gate::HttpRequest;
use std::time::Duration;

pub(crate) fn get(path: &str) -> HttpRequest {
    HttpRequest {
        name: path.trim_start_matches('/').into(),
        method: "GET".into(),
        path: path.into(),
        headers: Default::default(),
        body: None,
        status: None,
        expect_headers: Default::default(),
        expect_json: Default::default(),
        timeout: Duration::from_secs(10),
    }
}
