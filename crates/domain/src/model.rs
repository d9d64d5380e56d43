//! A model: an artifact with lineage and metrics, named `name@date-confighash`.

use crate::{Digest, Name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is recorded of one registered model version. Stored as a create-only object beside the model's bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Format version, 1.
    pub v: u32,
    /// The model's name.
    pub name: Name,
    /// `date-confighash`, for example `2026-11-21-3f9a2c`.
    pub version: String,
    /// Digest of its bytes; they are at `blobs/sha256/…`.
    pub digest: Digest,
    /// Size in bytes.
    pub bytes: u64,
    /// File name that it had.
    pub file: String,
    /// Numbers from its metrics file, nested keys joined by `.`.
    pub metrics: BTreeMap<String, f64>,
    /// Where it comes from.
    pub lineage: Lineage,
    /// When it was registered.
    pub registered: jiff::Timestamp,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The git commit, if there was a repository with one.
    pub commit: Option<String>,
    /// Whether the work tree had changes beside that commit.
    pub dirty: bool,
    /// Data sets that it was trained on, with their snapshots.
    pub data: BTreeMap<Name, Digest>,
    /// The command that trained it.
    pub command: Option<Vec<String>>,
    /// Digest of the configuration file.
    pub config: Option<Digest>,
}

impl ModelRecord {
    /// `name@version`.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// The version of a model: its date and the first six digits of its configuration's hash. A model without a
/// configuration file is named by its own digest.
pub fn version_name(date: jiff::civil::Date, config: Option<&Digest>, model: &Digest) -> String {
    format!("{date}-{}", &config.unwrap_or(model).hex()[..6])
}

/// The numbers of a metrics document, nested keys joined by `.`; booleans, texts and lists are left out.
pub fn metrics(document: &serde_json::Value) -> BTreeMap<String, f64> {
    fn walk(prefix: &str, value: &serde_json::Value, into: &mut BTreeMap<String, f64>) {
        match value {
            serde_json::Value::Number(number) => {
                if let Some(number) = number.as_f64() {
                    into.insert(prefix.to_owned(), number);
                }
            }
            serde_json::Value::Object(fields) => {
                for (key, value) in fields {
                    let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&path, value, into);
                }
            }
            _ => {}
        }
    }
    let mut numbers = BTreeMap::new();
    walk("", document, &mut numbers);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_date_and_the_configurations_hash() {
        let date = jiff::civil::date(2026, 11, 21);
        let (config, model) = (Digest::of("abc"), Digest::of("model"));
        assert_eq!(version_name(date, Some(&config), &model), "2026-11-21-ba7816");
        assert_eq!(version_name(date, None, &model), format!("2026-11-21-{}", &model.hex()[..6]));
    }

    #[test]
    fn metrics_are_flat_numbers() {
        let document = serde_json::json!({"accuracy": 0.5, "test": {"n": 10, "name": "x"}, "list": [1]});
        assert_eq!(metrics(&document), BTreeMap::from([("accuracy".to_owned(), 0.5), ("test.n".to_owned(), 10.0)]));
    }
}
