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
    let fresh = match make(context, wanted.path, run, timeout, None, events).await {
        Ok(made) => made,
        Err(why) => return Measurement::Missing { why },
    };
    match read(&path, wanted, fresh.as_ref(), now()) {
        Ok(measurement) => measurement,
        Err(why) => Measurement::Missing { why },
    }
}

/// Runs the command that makes a report, if there is one; what comes back tells whether it did. `findings` is the exit
/// code besides 0 by which it says that it ended well.
pub(crate) async fn make(
    context: &Context,
    path: &str,
    run: Option<&[String]>,
    timeout: Duration,
    findings: Option<i32>,
    events: &Events,
) -> Result<Option<Fresh>, String> {
    let Some(words) = run else { return Ok(None) };
    let full = context.repository.join(path);
    let before = std::fs::metadata(&full).ok().map(|data| stamp(&data));
    let started = SystemTime::now();
    let name = words.join(" ");
    let ended = command::run(context, words, Some(&full), timeout, events).await?;
    match ended.status {
        Some(status) if status.success() => Ok(Some(Fresh { before, started, found: false })),
        Some(status) if findings.is_some() && status.code() == findings => {
            Ok(Some(Fresh { before, started, found: true }))
        }
        Some(status) => Err(format!("{name}, which makes {path}, ended with {status}{}", ended.last_words())),
        None => {
            let seconds = timeout.as_secs_f64();
            Err(format!("{name}, which makes {path}, was killed after {seconds} s{}", ended.last_words()))
        }
    }
}

/// What tells a new report from the one that was there before.
pub(crate) struct Fresh {
    before: Option<(i64, i64, u64, u64)>,
    started: SystemTime,
    /// Whether the command said by its exit code that it found something.
    pub(crate) found: bool,
}

fn stamp(data: &Metadata) -> (i64, i64, u64, u64) {
    (data.mtime(), data.mtime_nsec(), data.ino(), data.len())
}

/// The bytes of a report and when they were written; with `fresh` only what the command has written.
pub(crate) fn load(path: &Path, name: &str, fresh: Option<&Fresh>) -> Result<(Vec<u8>, SystemTime), String> {
    let data = std::fs::metadata(path).map_err(|error| format!("report {name} cannot be read: {error}"))?;
    if data.len() > SIZE_LIMIT {
        return Err(format!("report {name} has {} bytes, more than {SIZE_LIMIT}", data.len()));
    }
    let modified = data.modified().map_err(|error| format!("report {name} has no modification time: {error}"))?;
    if let Some(fresh) = fresh {
        let old = fresh.before == Some(stamp(&data)) || modified + CLOCK_TICK < fresh.started;
        if old {
            return Err(format!("report {name} is stale: the command ended well and did not write it"));
        }
    }
    let bytes = std::fs::read(path).map_err(|error| format!("report {name} cannot be read: {error}"))?;
    Ok((bytes, modified))
}

/// That a report's own time is neither before its command was started nor in the future.
pub(crate) fn plausible(at: Timestamp, name: &str, fresh: Option<&Fresh>, now: Timestamp) -> Result<(), String> {
    if let Some(fresh) = fresh {
        // Reports often give whole seconds: one made in the second of the start is not older than it.
        let started = Timestamp::try_from(fresh.started).map_err(|error| error.to_string())?;
        if at.as_second() < started.as_second() {
            return Err(format!("report {name} is stale: it says {at}, and its command was started at {started}"));
        }
    }
    if at.duration_since(now) > jiff::SignedDuration::try_from(AHEAD).unwrap_or_default() {
        return Err(format!("report {name} is dated {at}, in the future: its age cannot be judged"));
    }
    Ok(())
}

fn read(path: &Path, wanted: &Wanted<'_>, fresh: Option<&Fresh>, now: Timestamp) -> Result<Measurement, String> {
    let name = wanted.path;
    let (bytes, modified) = load(path, name, fresh)?;
    let json: Value = serde_json::from_slice(&bytes)
        .map_err(|error| format!("report {name} is not JSON: {error} (NaN and Infinity are no JSON either)"))?;
    let at = match wanted.created {
        Some(pointer) => created(&json, pointer, name)?,
        None => Timestamp::try_from(modified).map_err(|error| format!("report {name}: {error}"))?,
    };
    plausible(at, name, fresh.filter(|_| wanted.created.is_some()), now)?;
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
