//! What one run of a program took, and what many runs say.

use crate::shell::{Outcome, show, tail};
use serde_json::{Value, json};
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use wait4::Wait4 as _;

/// One run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Wall time from start to end.
    pub(super) time: Duration,
    /// Time of processors, in the process and what it waited for: what a busy machine changes least.
    pub(super) cpu: Duration,
    /// Peak of resident memory in bytes, as the kernel counts it for the process and what it waited for.
    pub(super) memory: u64,
}

/// Runs a program to its end, its output thrown away; when it fails, nothing was measured.
pub(super) fn measure(command: &mut Command) -> Outcome<Sample> {
    let shown = show(command);
    let errors = tempfile::tempfile().map_err(|cause| format!("no temporary file: {cause}"))?;
    let kept = errors.try_clone().map_err(|cause| format!("no temporary file: {cause}"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    // What an earlier run left to be written is not this one's work.
    rustix::fs::sync();
    let begun = Instant::now();
    let child = command.spawn().map_err(|cause| format!("{shown} did not start: {cause}"))?;
    let ended = child.wait4().map_err(|cause| format!("{shown} was not waited for: {cause}"))?;
    let time = begun.elapsed();
    if !ended.status.success() {
        let mut text = String::new();
        let mut kept = kept;
        let _ = std::io::Seek::rewind(&mut kept);
        let _ = std::io::Read::read_to_string(&mut kept, &mut text);
        return Err(format!("{shown} ended with {}\n{}", ended.status, tail(&text, 20)));
    }
    Ok(Sample { time, cpu: ended.rusage.utime + ended.rusage.stime, memory: ended.rusage.maxrss })
}

impl Sample {
    /// `1.23 s, CPU 0.90 s, 45 MiB`.
    pub(super) fn words(&self) -> String {
        let (time, cpu) = (seconds(self.time.as_secs_f64()), seconds(self.cpu.as_secs_f64()));
        format!("{time}, CPU {cpu}, {} MiB", self.memory >> 20)
    }

    /// This and then another, as one work.
    pub(super) fn then(self, next: Self) -> Self {
        Self { time: self.time + next.time, cpu: self.cpu + next.cpu, memory: self.memory.max(next.memory) }
    }
}

/// Several runs of the same work.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(Vec<Sample>);

impl Samples {
    pub(super) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Each run of this and the same run of the other as one: work in two steps.
    pub(super) fn with(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(first, next)| first.then(*next)).collect())
    }

    fn times(&self) -> Vec<f64> {
        let mut times: Vec<f64> = self.0.iter().map(|sample| sample.time.as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    /// The middle time in seconds.
    pub(super) fn median(&self) -> f64 {
        middle(&self.times())
    }

    /// The middle time of processors in seconds.
    pub(super) fn cpu(&self) -> f64 {
        let mut times: Vec<f64> = self.0.iter().map(|sample| sample.cpu.as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        middle(&times)
    }

    /// The fastest and the slowest.
    pub(super) fn spread(&self) -> (f64, f64) {
        let times = self.times();
        (times.first().copied().unwrap_or(f64::NAN), times.last().copied().unwrap_or(f64::NAN))
    }

    /// The highest peak of memory.
    pub(super) fn memory(&self) -> u64 {
        self.0.iter().map(|sample| sample.memory).max().unwrap_or(0)
    }

    /// `1.23 s (1.20 to 1.31), CPU 0.90 s, 45 MiB`.
    pub(super) fn words(&self) -> String {
        let (least, most) = self.spread();
        let (time, cpu) = (seconds(self.median()), seconds(self.cpu()));
        format!("{time} ({} to {}), CPU {cpu}, {} MiB", bare(least), bare(most), self.memory() >> 20)
    }

    pub(super) fn json(&self) -> Value {
        let (least, most) = self.spread();
        json!({
            "median_s": self.median(), "least_s": least, "most_s": most, "cpu_s": self.cpu(), "runs": self.0.len(),
            "peak_bytes": self.memory(),
        })
    }
}

fn middle(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// Seconds with as many digits as mean something.
pub(super) fn seconds(value: f64) -> String {
    format!("{} s", bare(value))
}

fn bare(value: f64) -> String {
    if value < 0.1 {
        format!("{value:.3}")
    } else if value < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.1}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]
mod tests {
    use super::*;

    fn samples(times: &[u64]) -> Samples {
        let one = |ms: &u64| {
            let time = Duration::from_millis(*ms);
            Sample { time, cpu: time / 2, memory: *ms << 20 }
        };
        Samples(times.iter().map(one).collect())
    }

    #[test]
    fn medians_spreads_and_sums() {
        let odd = samples(&[300, 100, 200]);
        assert_eq!((odd.median(), odd.spread(), odd.memory()), (0.2, (0.1, 0.3), 300 << 20));
        assert_eq!(samples(&[100, 300]).median(), 0.2);
        assert_eq!(odd.with(&samples(&[1000, 1000, 1000])).words(), "1.20 s (1.10 to 1.30), CPU 0.60 s, 1000 MiB");
        assert_eq!(odd.words(), "0.20 s (0.10 to 0.30), CPU 0.10 s, 300 MiB");
        assert!(samples(&[]).median().is_nan());
    }

    #[test]
    fn a_program_is_measured_and_one_that_fails_is_no_figure() {
        let sample = measure(&mut Command::new("true")).unwrap();
        assert!(sample.memory > 0 && sample.time > Duration::ZERO);
        let failed = measure(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(failed.contains("why") && failed.contains('3'), "{failed}");
    }
}
