//! What scanners found, what is allowed, and what an image must not be: evidence for gates.
//!
//! Words: a *report* is what a scanner wrote, read by [`parse`]; a *finding* is one thing that it says; the *allow-list*
//! names findings that may pass, each with a reason and the day on which it counts again; an *inspection* is what was found
//! in an image by rules of our own.
//!
//! What never happens here:
//!
//! - A report that is empty, torn, of another format, or that examined nothing is never a report without findings
//!   ([`Unusable`] says why). SARIF and gitleaks do not say what they examined: there an empty list is a report without findings.
//! - A report about another image is never evidence for this one, and one that does not say what it is about only where the
//!   check says `subject = "any"`.
//! - An entry of the allow-list never holds for ever, and never without a reason.
//! - One more finding never makes a verdict better.
//! - No sentence quotes a secret that was found. (A SARIF tool may write one into its message, which is read only where its rule says nothing of
//!   itself.)
//!
//! | module | does |
//! |---|---|
//! | [`parse`] | six formats of reports to one |
//! | [`allow`] | the allow-list as it is written |
//! | [`decide`] | a report, or inspections, to a verdict with its reasons |
//! | [`cvss`] | a CVSS 3 vector to a severity |

pub mod allow;
pub mod cvss;
pub mod decide;
pub mod parse;

pub use allow::Allow;
pub use parse::{Unusable, parse};

use crate::Digest;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, time::Duration};

/// How bad a finding is. A scanner that does not say it leaves a finding without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Hardly worth a line.
    Negligible,
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
    /// Critical.
    Critical,
}

impl Severity {
    /// All, from the least to the worst, with their words.
    pub const WORDS: [(&'static str, Self); 5] = [
        ("negligible", Self::Negligible),
        ("low", Self::Low),
        ("medium", Self::Medium),
        ("high", Self::High),
        ("critical", Self::Critical),
    ];

    /// What a scanner's word means, in any case; `None` for `UNKNOWN` and for words that are not known.
    pub fn of_word(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "negligible" | "none" | "informational" | "info" => Some(Self::Negligible),
            "low" => Some(Self::Low),
            "medium" | "moderate" => Some(Self::Medium),
            "high" | "important" => Some(Self::High),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }

    /// What a CVSS score means, by the scale of CVSS 3: from 4 medium, from 7 high, from 9 critical.
    pub fn of_score(score: f64) -> Option<Self> {
        match score {
            score if !(0.0..=10.0).contains(&score) => None,
            score if score >= 9.0 => Some(Self::Critical),
            score if score >= 7.0 => Some(Self::High),
            score if score >= 4.0 => Some(Self::Medium),
            score if score > 0.0 => Some(Self::Low),
            _ => Some(Self::Negligible),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, severity)| severity == self).map_or("?", |(word, _)| word);
        f.pad(word)
    }
}

/// The scanner whose JSON is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `trivy … --format json`, schema version 2.
    Trivy,
    /// `grype … -o json`.
    Grype,
    /// `pip-audit --format json`.
    PipAudit,
    /// `cargo audit --json`.
    CargoAudit,
    /// SARIF 2.1.0 of any tool.
    Sarif,
    /// `gitleaks … --report-format json`.
    Gitleaks,
}

impl Format {
    /// All, with their words.
    pub const WORDS: [(&'static str, Self); 6] = [
        ("trivy", Self::Trivy),
        ("grype", Self::Grype),
        ("pip-audit", Self::PipAudit),
        ("cargo-audit", Self::CargoAudit),
        ("sarif", Self::Sarif),
        ("gitleaks", Self::Gitleaks),
    ];

    /// Whether a report of this format can say which image it is about.
    pub fn names_image(self) -> bool {
        matches!(self, Self::Trivy | Self::Grype | Self::Sarif)
    }

    /// The exit code by which the tool itself says that it ended well and found something.
    pub fn code_of_findings(self) -> Option<i32> {
        matches!(self, Self::PipAudit | Self::CargoAudit | Self::Gitleaks).then_some(1)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, format)| format == self).map_or("?", |(word, _)| word);
        f.pad(word)
    }
}

/// What a report must be about to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// The release's image, and it must say so.
    Image,
    /// Anything: it is not compared.
    Any,
}

/// A `scan` check: which report, and what it may say. Sealed with the release, the allow-list with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// The format of the report.
    pub format: Format,
    /// The report, relative to the repository.
    pub path: String,
    /// A command that makes it. It sees the variables of every check, `SEALIFT_OUTPUT`, and of a release with an image
    /// `SEALIFT_IMAGE_DIGEST` and `SEALIFT_IMAGE_LAYOUT`.
    pub run: Option<Vec<String>>,
    /// How long that command may take.
    #[serde(with = "crate::config::duration")]
    pub timeout: Duration,
    /// Findings of this severity or a worse one are critical.
    pub crit: Severity,
    /// Findings of this severity or a worse one are warnings.
    pub warn: Severity,
    /// The severity of a finding that has none.
    pub unknown: Severity,
    /// What the report must be about.
    pub subject: About,
    /// The allow-list's file, relative to the repository.
    pub allow: Option<String>,
    /// What was in it when the release was sealed; `None` before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Vec<Allow>>,
}

/// One thing that a scanner says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `CVE-2024-1234`, `RUSTSEC-2020-0071`, the name of a rule.
    pub id: String,
    /// Other names of the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The package, or the file.
    pub package: Option<String>,
    /// The package's version, or the line of the file.
    pub version: Option<String>,
    /// How bad, if the scanner says it.
    pub severity: Option<Severity>,
    /// In words.
    pub title: String,
}

/// What a scanner wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who wrote it.
    pub tool: String,
    /// What it says that it examined, for people.
    pub target: String,
    /// The digests that it says it is about: an image's manifest, index or configuration.
    pub about: Vec<Digest>,
    /// When it was made, if it says so.
    pub created: Option<jiff::Timestamp>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// What a reader should know besides: things that the tool itself left out.
    pub notes: Vec<String>,
}

/// How much a rule about images weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// It is critical.
    Crit,
    /// It is a warning.
    Warn,
    /// It is not looked at.
    Ignore,
}

impl Weight {
    /// All, with their words.
    pub const WORDS: [(&'static str, Self); 3] = [("crit", Self::Crit), ("warn", Self::Warn), ("ignore", Self::Ignore)];
}

/// An `image` check: what the release's image must not be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ImageRules {
    /// It runs as root, or names no user.
    pub root: Weight,
    /// It holds setuid or setgid files.
    pub setuid: Weight,
    /// A secret is in a layer, a variable or the history.
    pub secrets: Weight,
    /// It has more bytes than this: critical. Of all blobs as they are stored.
    pub max_size: Option<u64>,
    /// It has grown by more than this share against the previous release's image: critical.
    pub max_growth: Option<f64>,
}

/// Who an image runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "user", rename_all = "kebab-case")]
pub enum User {
    /// Root, and how it says so.
    Root {
        /// `no user`, `user root`.
        says: String,
    },
    /// Somebody else.
    Other {
        /// As it is written.
        name: String,
    },
    /// It cannot be known.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// Where something that looks like a secret is. The secret itself is not here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Secret {
    /// What it is: `a private key`.
    pub rule: String,
    /// Where: `/app/id_rsa in layer 3`, `the variable API_TOKEN`, `step 4 of the history`.
    pub place: String,
}

/// What was found in the image of one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// `linux/amd64`.
    pub platform: String,
    /// Digest of the image's manifest.
    pub manifest: Digest,
    /// Who it runs as.
    pub user: User,
    /// The first setuid and setgid files that a container of it sees.
    pub setuid: Vec<String>,
    /// How many there are.
    pub setuid_count: u64,
    /// The first secrets.
    pub secrets: Vec<Secret>,
    /// How many there are.
    pub secret_count: u64,
    /// Bytes of all its blobs.
    pub bytes: u64,
}

/// What is known of the previous release's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "previous", rename_all = "kebab-case")]
pub enum PreviousImage {
    /// There is none: nothing to compare with.
    None,
    /// There should be one.
    Unknown {
        /// Why it is not known.
        why: String,
    },
    /// Its sizes.
    Known {
        /// Which release.
        release: String,
        /// Bytes by platform.
        bytes: BTreeMap<String, u64>,
    },
}
