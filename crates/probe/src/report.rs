//! JSON metric reports, and the commands that make them.

use crate::{Context, command};
use domain::{Events, gate::Measurement};
use jiff::Timestamp;
use serde_json::Value;
use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

/// A longer report is refused before it is read.
const SIZE_LIMIT: u64 = 64 << 20;
/// The clock of a file system may lag behind the clock that programs read by a tick of the kernel.
const CLOCK_TICK: Duration = Duration::from_millis(20);
/// How far ahead a report's clock may be.
const AHEAD: Duration = Duration::from_secs(300);

/// What is wanted of a report.
pub(crate) struct Wanted<'a> {
    pub(crate) path: &'a str,
    pub(crate) value: &'a str,
    pub(crate) samples: Option<&'a str>,
    pub(crate) created: Option<&'a str>,
}

/// Makes the report, if a command is given, and reads it.
pub(crate) async fn measure(
    context: &Context,
    wanted: &Wanted<'_>,
    run: Option<&[String]>,
    timeout: Duration,
    now: impl Fn() -> Timestamp,
    events: &Events,
) -> Measurement {
    let path = context.repository.join(wanted.path);
    let before = std::fs::metadata(&path).ok().map(|data| stamp(&data));
    let started = SystemTime::now();
    if let Some(words) = run {
        let name = words.join(" ");
        let why = match command::run(context, words, timeout, events).await {
            Ok(ended) => match ended.status {
                Some(status) if status.success() => None,
                Some(status) => {
                    Some(format!("{name}, which makes {}, ended with {status}{}", wanted.path, ended.last_words()))
                }
                None => {
                    let seconds = timeout.as_secs_f64();
                    Some(format!(
                        "{name}, which makes {}, was killed after {seconds} s{}",
                        wanted.path,
                        ended.last_words()
                    ))
                }
            },
            Err(why) => Some(why),
        };
        if let Some(why) = why {
            return Measurement::Missing { why };
        }
    }
    let fresh = run.map(|_| Fresh { before, started });
    match read(&path, wanted, fresh, now()) {
        Ok(measurement) => measurement,
        Err(why) => Measurement::Missing { why },
    }
}

/// What tells a new report from the one that was there before.
struct Fresh {
    before: Option<(i64, i64, u64, u64)>,
    started: SystemTime,
}

fn stamp(data: &Metadata) -> (i64, i64, u64, u64) {
    (data.mtime(), data.mtime_nsec(), data.ino(), data.len())
}

fn read(path: &Path, wanted: &Wanted<'_>, fresh: Option<Fresh>, now: Timestamp) -> Result<Measurement, String> {
    let name = wanted.path;
    let data = std::fs::metadata(path).map_err(|error| format!("report {name} cannot be read: {error}"))?;
    if data.len() > SIZE_LIMIT {
        return Err(format!("report {name} has {} bytes, more than {SIZE_LIMIT}", data.len()));
    }
    let modified = data.modified().map_err(|error| format!("report {name} has no modification time: {error}"))?;
    if let Some(fresh) = &fresh {
        let old = fresh.before == Some(stamp(&data)) || modified + CLOCK_TICK < fresh.started;
        if old {
            return Err(format!("report {name} is stale: the command ended well and did not write it"));
        }
    }
    let bytes = std::fs::read(path).map_err(|error| format!("report {name} cannot be read: {error}"))?;
    let json: Value = serde_json::from_slice(&bytes)
        .map_err(|error| format!("report {name} is not JSON: {error} (NaN and Infinity are no JSON either)"))?;
    let at = match wanted.created {
        Some(pointer) => created(&json, pointer, name)?,
        None => Timestamp::try_from(modified).map_err(|error| format!("report {name}: {error}"))?,
    };
    if let (Some(fresh), Some(_)) = (&fresh, wanted.created) {
        // Reports often give whole seconds: one made in the second of the start is not older than it.
        let started = Timestamp::try_from(fresh.started).map_err(|error| error.to_string())?;
        if at.as_second() < started.as_second() {
            return Err(format!("report {name} is stale: it says {at}, and its command was started at {started}"));
        }
    }
    if at.duration_since(now) > jiff::SignedDuration::try_from(AHEAD).unwrap_or_default() {
        return Err(format!("report {name} is dated {at}, in the future: its age cannot be judged"));
    }
    let value = number(&json, wanted.value, name)?;
    let samples = match wanted.samples {
        Some(pointer) => count(&json, pointer, name)?,
        None => 1,
    };
    Ok(Measurement::Value { value, samples, at, notes: vec![format!("{name} {} = {value}", wanted.value)] })
}

fn at<'a>(json: &'a Value, pointer: &str, name: &str) -> Result<&'a Value, String> {
    json.pointer(pointer).ok_or_else(|| format!("report {name} has nothing at {pointer}"))
}

fn number(json: &Value, pointer: &str, name: &str) -> Result<f64, String> {
    let found = at(json, pointer, name)?;
    let number = found.as_f64().filter(|number| number.is_finite());
    number.ok_or_else(|| format!("report {name} has no number at {pointer} but {}", short(found)))
}

fn count(json: &Value, pointer: &str, name: &str) -> Result<u64, String> {
    let number = number(json, pointer, name)?;
    // Up to 2^53 every whole number is exact.
    if number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the line above
        return Ok(number as u64);
    }
    Err(format!("report {name} has no number of samples at {pointer} but {number}"))
}

fn created(json: &Value, pointer: &str, name: &str) -> Result<Timestamp, String> {
    let found = at(json, pointer, name)?;
    let time = found.as_str().and_then(|text| text.parse().ok());
    time.ok_or_else(|| format!("report {name} has no RFC 3339 time at {pointer} but {}", short(found)))
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}
