//! stub
use serde::{Deserialize, Serialize};
/// How a check or a gate came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict { /// a
 Ok, /// b
 Warn, /// c
 Inconclusive, /// d
 Crit }
