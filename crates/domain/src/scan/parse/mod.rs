//! Reports of scanners, each format to one [`Report`].
//!
//! The bytes are a stranger's: their size is bounded before, their depth by the JSON reader (128 levels), and of every
//! finding only what is needed is kept, without control characters and never the secret that a scanner quotes.

mod audit;
mod gitleaks;
mod images;
mod sarif;

use super::{Format, Report};
use crate::Digest;
use serde::{Deserialize, de::DeserializeOwned};

/// A longer report is refused before it is read.
pub const SIZE_LIMIT: usize = 64 << 20;
/// A longer text of a finding is cut.
const TEXT_LIMIT: usize = 160;

/// Why a report is no evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// It is too long.
    #[error("has {bytes} bytes, more than {SIZE_LIMIT}")]
    TooLarge {
        /// How long it is.
        bytes: usize,
    },
    /// It ends in the middle.
    #[error("is torn: {why}")]
    Torn {
        /// Where.
        why: String,
    },
    /// It is something else.
    #[error("is no {format} report: {why}")]
    OtherFormat {
        /// What was expected.
        format: Format,
        /// What does not fit.
        why: String,
    },
    /// It is a report, and of a scan that did not happen.
    #[error("is of a scan that proves nothing: {why}")]
    NoScan {
        /// Why.
        why: String,
    },
}

/// Reads a report.
pub fn parse(format: Format, bytes: &[u8]) -> Result<Report, Unusable> {
    match bytes {
        bytes if bytes.len() > SIZE_LIMIT => return Err(Unusable::TooLarge { bytes: bytes.len() }),
        bytes if bytes.iter().all(u8::is_ascii_whitespace) => return Err(Unusable::Empty),
        _ => {}
    }
    match format {
        Format::Trivy => images::trivy(bytes),
        Format::Grype => images::grype(bytes),
        Format::PipAudit => audit::pip(bytes),
        Format::CargoAudit => audit::cargo(bytes),
        Format::Sarif => sarif::sarif(bytes),
        Format::Gitleaks => gitleaks::gitleaks(bytes),
    }
}

fn json<T: DeserializeOwned>(format: Format, bytes: &[u8]) -> Result<T, Unusable> {
    serde_json::from_slice(bytes).map_err(|error| {
        if error.is_eof() {
            Unusable::Torn { why: error.to_string() }
        } else {
            Unusable::OtherFormat { format, why: error.to_string() }
        }
    })
}

fn other(format: Format, why: impl Into<String>) -> Unusable {
    Unusable::OtherFormat { format, why: why.into() }
}

fn no_scan(why: impl Into<String>) -> Unusable {
    Unusable::NoScan { why: why.into() }
}

/// A text of a report for people: one line, no control characters, not long.
fn text(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let mut clean: String = line.chars().filter(|c| !c.is_control()).take(TEXT_LIMIT).collect();
    if line.chars().count() > TEXT_LIMIT {
        clean.push('…');
    }
    clean
}

fn texts(all: Option<Vec<String>>) -> Vec<String> {
    all.unwrap_or_default().iter().map(|one| text(one)).collect()
}

/// The digests in names like `sha256:…` and `repository@sha256:…`.
fn digests<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Digest> {
    let mut found: Vec<Digest> = Vec::new();
    for name in names {
        let digest = name.rsplit_once('@').map_or(name, |(_, digest)| digest);
        if let Some(digest) = digest.strip_prefix("sha256:").and_then(|_| digest.parse().ok())
            && !found.contains(&digest)
        {
            found.push(digest);
        }
    }
    found
}

/// A time as scanners write it; what is no time is none, and the file's own counts.
fn time(text: Option<&str>) -> Option<jiff::Timestamp> {
    text?.parse().ok()
}

/// An array that may be `null` or absent.
fn nullable<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
