//! Checks, measurements and verdicts: how evidence decides whether a release may pass.
//!
//! Across checks the worst verdict wins: crit > inconclusive > warn > ok. Evidence that is missing, stale, thin or not
//! a number is *inconclusive*: it holds, it never promotes. No measurement is never a success.

mod decide;

pub use decide::{check, gate};

use crate::{Digest, scan};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, time::Duration};

/// How a check or a gate came out. Ordered by how bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Good evidence, within its bounds.
    Ok,
    /// Good evidence, out of the warning bound.
    Warn,
    /// No decision: evidence is missing, stale, thin or not a number.
    Inconclusive,
    /// Good evidence, out of the critical bound.
    Crit,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Inconclusive => "inconclusive",
            Self::Crit => "crit",
        })
    }
}

/// A gate: a named set of checks. Sealed into the release with its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Its name.
    pub name: crate::Name,
    /// Its checks, in the order of the configuration. An empty gate is inconclusive.
    pub checks: Vec<Check>,
}

/// One check: where the evidence comes from and what it must show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Its name, unique in the gate.
    pub name: crate::Name,
    /// Where the evidence comes from.
    pub source: Source,
    /// Absolute bounds on the value.
    pub bounds: Bounds,
    /// A bound relative to the release that runs in the environment to be promoted to.
    pub relative: Option<Relative>,
    /// Fewer samples than this are inconclusive.
    pub required_samples: u64,
    /// Evidence older than this is inconclusive.
    #[serde(with = "crate::config::duration_option", default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// How often it is measured.
    pub count: u32,
    /// The time between two measurements.
    #[serde(with = "crate::config::duration")]
    pub interval: Duration,
    /// How many measurements may be crit before the check is (0: none).
    pub failure_limit: u32,
}

/// Where evidence comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Source {
    /// The component's smoke requests: value is the share that passed (1 is all), samples their number.
    Smoke,
    /// Requests of our own to the environment.
    Load {
        /// What is sent.
        request: HttpRequest,
        /// How many requests.
        requests: u32,
        /// How many at once.
        concurrency: u32,
        /// What is measured.
        statistic: Statistic,
    },
    /// A JSON report file, optionally made by a command first.
    Report {
        /// Path relative to the repository.
        path: String,
        /// JSON pointer of the value, for example `/metrics/accuracy`.
        value: String,
        /// JSON pointer of the number of samples.
        samples: Option<String>,
        /// JSON pointer of an RFC 3339 time at which it was made; without it the file's modification time counts.
        created: Option<String>,
        /// A command that makes it. It sees `SEALIFT_URL`, `SEALIFT_ENVIRONMENT`, `SEALIFT_COMPONENT`, `SEALIFT_RELEASE`.
        run: Option<Vec<String>>,
        /// How long that command may take.
        #[serde(with = "crate::config::duration")]
        timeout: Duration,
    },
    /// A command whose exit code is the verdict: 0 ok, 1 warn, 2 crit, anything else inconclusive. It sees the same variables.
    Command {
        /// The command and its arguments.
        run: Vec<String>,
        /// How long it may take.
        #[serde(with = "crate::config::duration")]
        timeout: Duration,
    },
    /// The report of a scanner, optionally made by a command first.
    Scan(scan::Rules),
    /// Rules of our own about the release's image.
    Image(scan::ImageRules),
}

/// What is measured of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistic {
    /// Median latency in milliseconds.
    P50,
    /// 95th percentile of latency in milliseconds.
    P95,
    /// 99th percentile of latency in milliseconds.
    P99,
    /// Longest latency in milliseconds.
    Max,
    /// Share of requests that failed (connection, time-out, or a status that was not expected), 0 to 1.
    ErrorRate,
}

/// One HTTP request and what its answer must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HttpRequest {
    /// Its name, for reports.
    pub name: String,
    /// `GET`, `POST`, …
    pub method: String,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// Request headers.
    pub headers: BTreeMap<String, String>,
    /// Request body.
    pub body: Option<String>,
    /// The expected status; `None` is any 2xx.
    pub status: Option<u16>,
    /// Headers that the answer must have; an empty value means any.
    pub expect_headers: BTreeMap<String, String>,
    /// JSON pointer to what must be there.
    pub expect_json: BTreeMap<String, Expectation>,
    /// How long the answer may take.
    #[serde(with = "crate::config::duration")]
    pub timeout: Duration,
}

/// What a JSON value must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expectation {
    /// It is there.
    Present,
    /// It equals this.
    Equals(serde_json::Value),
    /// It is a number within these limits.
    Between(f64, f64),
}

/// Absolute bounds. A value beyond a bound (not equal to it) is warn or crit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Below this is a warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_below: Option<f64>,
    /// Below this is critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crit_below: Option<f64>,
    /// Above this is a warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_above: Option<f64>,
    /// Above this is critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crit_above: Option<f64>,
}

/// A bound relative to the running release's own recorded value of the same check.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Relative {
    /// Which direction is good.
    pub better: Better,
    /// Worse by more than this share (0.02 is 2 %) is a warning.
    pub warn_worse: Option<f64>,
    /// Worse by more than this share is critical.
    pub crit_worse: Option<f64>,
}

/// Which direction of a value is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// What a probe brought back for one check, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "evidence", rename_all = "kebab-case")]
pub enum Measurement {
    /// A value with its samples.
    Value {
        /// The value; it may be NaN, which decides nothing.
        value: f64,
        /// How many samples stand behind it.
        samples: u64,
        /// When it was made.
        at: jiff::Timestamp,
        /// What it says of itself, for people: failed requests, percentiles.
        notes: Vec<String>,
    },
    /// What a scanner wrote.
    Scan {
        /// Its report.
        report: scan::Report,
        /// SHA-256 of the report's bytes.
        digest: Digest,
        /// When it was made: as it says itself, else when the file was written.
        at: jiff::Timestamp,
        /// What identifies the release's images: manifests, index, configurations.
        image: Vec<Digest>,
    },
    /// What was found in the release's images.
    Images {
        /// One inspection a platform.
        inspections: Vec<scan::Inspection>,
        /// What they have grown from.
        previous: scan::PreviousImage,
    },
    /// A verdict of the source itself (a command).
    Judged {
        /// The verdict.
        verdict: Verdict,
        /// Why.
        notes: Vec<String>,
    },
    /// Nothing, and why.
    Missing {
        /// Why.
        why: String,
    },
}

/// What is known of the running release's value of the same check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "baseline", rename_all = "kebab-case")]
pub enum Baseline {
    /// No release runs there yet: a relative bound has nothing to compare with and holds.
    FirstRelease,
    /// A release runs, and no value of it is recorded: inconclusive.
    Unrecorded {
        /// Which release.
        release: String,
    },
    /// Its recorded value.
    Value {
        /// Which release.
        release: String,
        /// The value.
        value: f64,
    },
}

/// How one check came out, with every reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The check.
    pub check: crate::Name,
    /// The verdict.
    pub verdict: Verdict,
    /// The value that decided (the worst one measured), if there was a number.
    pub value: Option<f64>,
    /// Why, in sentences with the value and the bound.
    pub reasons: Vec<String>,
}

/// How a gate came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateResult {
    /// The gate.
    pub gate: crate::Name,
    /// The worst verdict of its checks.
    pub verdict: Verdict,
    /// Every check.
    pub checks: Vec<CheckResult>,
}
