//! The allow-list as it is written.
//!
//! ```toml
//! [[allow]]
//! id = "CVE-2024-1234"
//! package = "openssl"            # optional
//! reason = "the code that it is in is never called"
//! expires = "2027-01-31"         # counts again from that day on, by UTC
//! ```

use super::Finding;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

/// A longer list is refused before it is read.
pub const SIZE_LIMIT: usize = 1 << 20;

/// A finding that may pass until a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// The finding, by its name or another name of the same.
    pub id: String,
    /// Only in this package; in all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Why.
    pub reason: String,
    /// From this day on, by UTC, it counts again.
    pub expires: Date,
}

impl Allow {
    /// Whether the entry is about a finding, expired or not.
    pub fn is_about(&self, finding: &Finding) -> bool {
        let named = std::iter::once(&finding.id).chain(&finding.aliases).any(|id| id.eq_ignore_ascii_case(&self.id));
        named && self.package.as_ref().is_none_or(|package| finding.package.as_ref() == Some(package))
    }
}

/// Why an allow-list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is too long.
    #[error("has {0} bytes, more than {SIZE_LIMIT}")]
    TooLarge(usize),
    /// It is not what it must be.
    #[error("is no allow-list: {0}")]
    Malformed(String),
    /// An entry says too little.
    #[error("allows {id} without {what}")]
    Incomplete {
        /// Which entry.
        id: String,
        /// What is missing.
        what: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    allow: Vec<Allow>,
}

/// Reads the text of an allow-list. Every entry has an id, a reason and a day.
pub fn read(text: &str) -> Result<Vec<Allow>, Unreadable> {
    if text.len() > SIZE_LIMIT {
        return Err(Unreadable::TooLarge(text.len()));
    }
    let written: Written = toml::from_str(text).map_err(|error| Unreadable::Malformed(error.to_string()))?;
    for entry in &written.allow {
        let incomplete = |what| Unreadable::Incomplete { id: entry.id.clone(), what };
        if entry.id.trim().is_empty() {
            return Err(Unreadable::Malformed("an entry has an empty id, which would allow nothing".to_owned()));
        }
        if entry.reason.trim().is_empty() {
            return Err(incomplete("a reason"));
        }
        if entry.package.as_ref().is_some_and(|package| package.is_empty()) {
            return Err(incomplete("the name of its package; leave package out to allow it in all"));
        }
    }
    Ok(written.allow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_needs_id_reason_and_day() {
        let good = "[[allow]]\nid = \"CVE-1\"\nreason = \"not called\"\nexpires = \"2027-01-31\"\n";
        let list = read(good).unwrap();
        assert_eq!((list[0].id.as_str(), list[0].expires.to_string().as_str()), ("CVE-1", "2027-01-31"));
        assert_eq!(read("").unwrap(), []);
        for (text, words) in [
            (good.replace("reason = \"not called\"\n", ""), "missing field `reason`"),
            (good.replace("expires = \"2027-01-31\"\n", ""), "missing field `expires`"),
            (good.replace("not called", " "), "allows CVE-1 without a reason"),
            (good.replace("2027-01-31", "next year"), "is no allow-list"),
            (good.replace("CVE-1", " "), "empty id"),
            (good.replace("reason", "resaon"), "unknown field `resaon`"),
            (format!("{good}package = \"\"\n"), "without the name of its package"),
            (good.replace("[[allow]]", "[[alow]]"), "unknown field `alow`"),
            ("x".repeat(SIZE_LIMIT + 1), "more than"),
        ] {
            let why = read(&text).unwrap_err().to_string();
            assert!(why.contains(words), "{why}");
        }
    }
}
