//! Measurements of what runs: smoke requests, health, load, metric reports, commands.
//!
//! A probe brings back evidence and judges none of it: bounds and verdicts are `domain::gate`'s. What this crate does **not** do:
//! it never turns missing evidence into a success. A report that is not there, is older than the command that was to make it,
//! lies in the future or holds no number is [`Measurement::Missing`]; so is a load of which no request passed, and a
//! smoke test without requests. It follows no redirect, uses no proxy, retries nothing, and prints nothing.
//!
//! Failure cases are values, not errors: an [`Outcome`] lists every expectation that failed with what was found, a
//! [`Measurement::Missing`] says why. The only error is [`Unhealthy`].
//!
//! | module | holds |
//! |---|---|
//! | `http` | one request and what its answer must be; smoke; waiting until healthy |
//! | `load` | many requests, exact percentiles by nearest rank |
//! | `report` | JSON metric reports |
//! | `scan` | reports of scanners |
//! | `clock` | the time that a server says it is |
//! | `command` | commands that make a report or are the verdict |

use domain::{
    Digest, Events,
    gate::{HttpRequest, Measurement, Source},
};
use jiff::Timestamp;
use std::path::PathBuf;

mod clock;
mod command;
mod http;
mod load;
mod report;
mod scan;

pub use clock::server_time;
pub use http::{Outcome, SmokeReport, Unhealthy, request, smoke, wait_healthy};
pub use load::{LoadReport, load};

/// What a measurement is of.
#[derive(Debug, Clone)]
pub struct Context {
    /// Base URL of the component in the environment, for commands.
    pub url: String,
    /// The environment.
    pub environment: String,
    /// The component.
    pub component: String,
    /// The release, `wine@1.2.0`.
    pub release: String,
    /// Root of the repository: where commands run, and what report paths are relative to.
    pub repository: PathBuf,
    /// The release's image for this platform on this host, where a scanner can be given it.
    pub image: Option<ImageOnHost>,
    /// What identifies the release's images: manifests, index, configurations.
    pub identities: Vec<Digest>,
}

/// An image as it lies on this host.
#[derive(Debug, Clone)]
pub struct ImageOnHost {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Its OCI layout folder.
    pub layout: PathBuf,
}

/// Takes one measurement. `base` is where requests go, `smoke_requests` the component's own, `now` the clock for what is
/// measured here (a report's own time is the report's). Dropping the future kills a command that it started.
pub async fn measure(
    base: &str,
    context: &Context,
    source: &Source,
    smoke_requests: &[HttpRequest],
    now: impl Fn() -> Timestamp,
    events: &Events,
) -> Measurement {
    match source {
        Source::Smoke => smoke(base, smoke_requests, events).await.measurement(now()),
        Source::Load { request, requests, concurrency, statistic } => {
            load(base, request, *requests, *concurrency, events).await.measurement(*statistic, now())
        }
        Source::Report { path, value, samples, created, run, timeout } => {
            let wanted = report::Wanted { path, value, samples: samples.as_deref(), created: created.as_deref() };
            report::measure(context, &wanted, run.as_deref(), *timeout, now, events).await
        }
        Source::Command { run, timeout } => command::judge(context, run, *timeout, events).await,
        Source::Scan(rules) => scan::measure(context, rules, now, events).await,
        // Images are read where the store is; a probe has none.
        Source::Image(_) => Measurement::Missing { why: "images are not inspected over HTTP".to_owned() },
    }
}
