//! `Sealift.toml` in three typed stages: as written, validated, resolved for one environment.
//!
//! - [`parse`] reads the text section by section with the places of its keys (stage 1), then checks what needs two
//!   sections (stage 2). It never stops at the first problem, and gives no [`Config`] unless there is none at all: every
//!   name in a `Config` refers to something that exists.
//! - [`resolve`] merges what one environment says over what the components say (stage 3).
//!
//! Nothing here opens a file: paths are checked by their text alone. No secret is accepted, only references to secrets,
//! and no message quotes what was written in the place of one.

mod build;
mod checks;
mod keys;
mod model;
mod paths;
mod problems;
mod reader;
mod resolve;
mod validate;
mod written;

#[cfg(test)]
mod tests;

pub use model::*;
pub use problems::{Problem, Problems};
pub use resolve::{Resolved, ResolvedComponent, ResolvedRun, resolve};
pub(crate) use written::nameless as placeholder_name;

/// Text beyond this is refused unread: nesting costs stack.
const MOST_BYTES: usize = 256 << 10;

/// Reads and validates the text of a configuration file. `file` is what the problems call it.
///
/// # Errors
/// All problems of the file at once. After a syntax error, what may only be its consequence (something missing, a
/// reference to it) is left out.
pub fn parse(text: &str, file: &str) -> Result<Config, Problems> {
    if text.len() > MOST_BYTES {
        let message = format!("is larger than {} KiB, which no configuration is", MOST_BYTES >> 10);
        return Err(Problems {
            file: file.to_owned(),
            list: vec![Problem { line: 1, column: 1, key: String::new(), message }],
        });
    }
    let (document, errors) = toml::de::DeTable::parse_recoverable(text);
    let reader = reader::Reader::new(text);
    for error in &errors {
        reader.syntax(error);
    }
    let config = written::read(&reader::Node::root(&reader, document.get_ref()));
    validate::check(&config, &reader);
    reader.finish(file)?;
    Ok(config)
}

/// Durations as text in configuration and JSON: `90s`, `1m 30s`, `250ms`.
pub mod duration {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    /// The shortest text: whole hours, minutes, seconds or milliseconds.
    pub fn format(duration: &Duration) -> String {
        match duration.as_millis() {
            0 => "0s".to_owned(),
            ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
            ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
            ms => format!("{ms}ms"),
        }
    }

    /// Reads `500ms`, `30s`, `5m`, `2h`, `7d` and sums of them (`1m 30s`, `1h30m`).
    pub fn parse(text: &str) -> Option<Duration> {
        let mut rest = text.trim();
        let mut total = Duration::ZERO;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let number: u64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let unit_length = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let millis = match &rest[..unit_length] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return None,
            };
            total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
            rest = rest[unit_length..].trim_start();
        }
        Some(total)
    }

    /// For serde's `with`.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(duration))
    }

    /// For serde's `with`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("{text:?} is not a duration: write 500ms, 30s, 5m, 2h or 7d"))
        })
    }
}

/// [`duration`] for an `Option`.
pub mod duration_option {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    /// For serde's `with`.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::duration::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// For serde's `with`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| {
                super::duration::parse(&text)
                    .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a duration")))
            })
            .transpose()
    }
}
