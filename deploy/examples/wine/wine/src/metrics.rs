//! What the service counts, in the text format of Prometheus (version 0.0.4).
//!
//! - No label takes its value from a client: an unknown path is counted as `other`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The upper bounds of the latency histogram in seconds; the last bucket, without a bound, is implied.
const BOUNDS: [f64; 11] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0];

#[derive(Debug, Default)]
struct Histogram {
    /// Observations in each bucket alone, not added up; one more than there are bounds.
    buckets: [u64; BOUNDS.len() + 1],
    sum: f64,
}

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(&'static str, u16), u64>,
    errors: BTreeMap<&'static str, u64>,
    predictions: BTreeMap<u8, u64>,
    latency: BTreeMap<&'static str, Histogram>,
}

/// The counters of one process.
#[derive(Debug, Default)]
pub struct Metrics {
    counts: Mutex<Counts>,
}

impl Metrics {
    /// Counts an answered request.
    pub fn observe(&self, path: &'static str, code: u16, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut counts = self.lock();
        *counts.requests.entry((path, code)).or_default() += 1;
        match code {
            400..=499 => *counts.errors.entry("client").or_default() += 1,
            500.. => *counts.errors.entry("server").or_default() += 1,
            _ => {}
        }
        let histogram = counts.latency.entry(path).or_default();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        histogram.buckets[bucket] += 1;
        histogram.sum += seconds;
    }

    /// Counts a prediction by what it said.
    pub fn predicted(&self, quality: u8) {
        *self.lock().predictions.entry(quality).or_default() += 1;
    }

    /// All counters as text; `info` are lines of the caller's own, put first.
    pub fn render(&self, info: &str) -> String {
        let counts = self.lock();
        let mut text = info.to_owned();
        // Writing to a String cannot fail; the results below are dropped for that reason.
        head(&mut text, "wine_requests_total", "counter", "Answered requests by path and status code.");
        for ((path, code), count) in &counts.requests {
            let _ = writeln!(text, "wine_requests_total{{path=\"{path}\",code=\"{code}\"}} {count}");
        }
        head(&mut text, "wine_errors_total", "counter", "Answers of 4xx (the client's fault) and 5xx (ours).");
        for fault in ["client", "server"] {
            let count = counts.errors.get(fault).copied().unwrap_or_default();
            let _ = writeln!(text, "wine_errors_total{{fault=\"{fault}\"}} {count}");
        }
        head(&mut text, "wine_predictions_total", "counter", "Predictions by the quality that they said.");
        for (quality, count) in &counts.predictions {
            let _ = writeln!(text, "wine_predictions_total{{quality=\"{quality}\"}} {count}");
        }
        head(&mut text, "wine_request_duration_seconds", "histogram", "Time from a request's head to its answer.");
        for (path, histogram) in &counts.latency {
            render_histogram(&mut text, path, histogram);
        }
        text
    }

    /// A panic while counting leaves counters that are still numbers.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two comment lines before a metric.
pub fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn render_histogram(text: &mut String, path: &str, histogram: &Histogram) {
    let mut total = 0;
    for (bound, count) in BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]).zip(histogram.buckets) {
        total += count;
        let _ = writeln!(text, "wine_request_duration_seconds_bucket{{path=\"{path}\",le=\"{bound}\"}} {total}");
    }
    let _ = writeln!(text, "wine_request_duration_seconds_sum{{path=\"{path}\"}} {}", histogram.sum);
    let _ = writeln!(text, "wine_request_duration_seconds_count{{path=\"{path}\"}} {total}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_errors_are_told_apart() {
        let metrics = Metrics::default();
        metrics.observe("/predict", 200, Duration::from_micros(100));
        metrics.observe("/predict", 400, Duration::from_millis(2));
        metrics.observe("/predict", 500, Duration::from_secs(3));
        metrics.predicted(6);
        let text = metrics.render("# first\n");
        for line in [
            "# first",
            "wine_requests_total{path=\"/predict\",code=\"400\"} 1",
            "wine_errors_total{fault=\"client\"} 1",
            "wine_errors_total{fault=\"server\"} 1",
            "wine_predictions_total{quality=\"6\"} 1",
            "wine_request_duration_seconds_bucket{path=\"/predict\",le=\"0.0001\"} 1",
            "wine_request_duration_seconds_bucket{path=\"/predict\",le=\"0.0025\"} 2",
            "wine_request_duration_seconds_bucket{path=\"/predict\",le=\"+Inf\"} 3",
            "wine_request_duration_seconds_count{path=\"/predict\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
