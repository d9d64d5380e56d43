//! The words of events, the same for every renderer of text.

use crate::text::{Paint, Style, bytes, plain, took, verdict_style};
use domain::{
    Event,
    event::{StepState, Unit},
};
use std::time::Duration;

/// An amount of work: `12.3 MiB`, `40 files`.
pub(crate) fn amount(count: u64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => bytes(count),
        Unit::Files => crate::text::count(count, "file"),
        Unit::Items => count.to_string(),
    }
}

/// How far a task is: `45 %, 90 MiB of 200 MiB, 12 MiB/s, 9.1 s left`.
pub(crate) fn progress(done: u64, total: Option<u64>, unit: Unit, elapsed: Duration) -> String {
    let mut parts = Vec::new();
    match total {
        Some(total) if total > 0 => {
            parts.push(format!("{} %", done.min(total).saturating_mul(100) / total));
            parts.push(format!("{} of {}", amount(done, unit), amount(total, unit)));
        }
        _ => parts.push(amount(done, unit)),
    }
    let seconds = elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
    if rate >= 1.0 {
        parts.push(match unit {
            Unit::Bytes => format!("{}/s", bytes(rate as u64)),
            Unit::Files | Unit::Items => format!("{rate:.0}/s"),
        });
        if let Some(total) = total.filter(|total| *total > done) {
            let left = Duration::from_secs_f64(((total - done) as f64 / rate).min(1e9));
            parts.push(format!("{} left", took(left)));
        }
    }
    parts.join(", ")
}

/// The end of a task: `✓ push wine-quality: 3 packs  1.2 s (40 MiB/s)`.
pub(crate) fn finished(
    name: &str,
    ok: bool,
    summary: &str,
    done: u64,
    unit: Unit,
    elapsed: Duration,
    paint: &Paint,
) -> String {
    let mark = if ok { paint.style("✓", Style::Good) } else { paint.style("✗", Style::Bad) };
    let rate = match unit {
        // A rate over a moment says nothing.
        Unit::Bytes if done >= 1 << 20 && elapsed >= Duration::from_millis(100) => {
            let per_second = done as f64 / elapsed.as_secs_f64().max(0.001);
            format!(", {} at {}/s", bytes(done), bytes(per_second as u64))
        }
        Unit::Bytes if done > 0 => format!(", {}", bytes(done)),
        _ => String::new(),
    };
    let tail = paint.style(&format!("{}{rate}", took(elapsed)), Style::Dim);
    format!("{mark} {}: {}  {tail}", plain(name), plain(summary))
}

/// A step that is not just begun: `✓ 3/8 stop wine@1.0.0 in blue  12 ms`.
pub(crate) fn step(
    number: usize,
    of: usize,
    title: &str,
    state: StepState,
    millis: Option<u64>,
    paint: &Paint,
) -> String {
    let (mark, style, note) = match state {
        StepState::Started => ("…", Style::Dim, ""),
        StepState::Done => ("✓", Style::Good, ""),
        StepState::AlreadyDone => ("=", Style::Good, " (already so)"),
        StepState::Failed => ("✗", Style::Bad, " failed"),
    };
    let time = millis.map_or_else(String::new, |ms| format!("  {}", took(Duration::from_millis(ms))));
    format!("{} {number}/{of} {title}{note}{}", paint.style(mark, style), paint.style(&time, Style::Dim))
}

/// Events that are one line in themselves; tasks and steps are drawn by their renderers.
pub(crate) fn sentence(event: &Event, paint: &Paint) -> Option<String> {
    match event {
        Event::Output { source, line } => {
            let line = plain(line);
            Some(format!("  {}", paint.style(&format!("{source} │ {}", line.replace('\n', " ")), Style::Dim)))
        }
        Event::Checked { check, verdict, reasons } => {
            let word = paint.style(&format!("{verdict:<12}"), verdict_style(*verdict));
            Some(format!("{word} {check}: {}", plain(&reasons.join("; "))))
        }
        Event::Warning { text } => Some(format!("{} {}", paint.style("warning:", Style::Warning), plain(text))),
        Event::Note { text } => Some(plain(text)),
        _ => None,
    }
}
