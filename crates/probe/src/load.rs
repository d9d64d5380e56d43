//! Many requests, and what their latencies and failures were.
//!
//! Percentiles are exact, by nearest rank: the smallest latency that at least p % of the requests do not exceed. A request
//! that failed counts in them as if it had taken its whole time-out: failing fast must not look fast.

use crate::http;
use domain::{
    Events,
    event::Unit,
    gate::{HttpRequest, Measurement, Statistic},
};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;
use std::time::Duration;

/// How many different failures are told.
const FIRST_ERRORS: usize = 5;

/// How a load came out. Latencies are in milliseconds; `None` when no request passed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadReport {
    /// How many requests were sent.
    pub samples: u64,
    /// How many of them failed.
    pub errors: u64,
    /// Median latency.
    pub p50: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
    /// Share of requests that failed; `None` when none was sent.
    pub error_rate: Option<f64>,
    /// The first different failures.
    pub first_errors: Vec<String>,
}

/// Sends the same request so many times, so many at once, on kept connections.
pub async fn load(base: &str, request: &HttpRequest, requests: u32, concurrency: u32, events: &Events) -> LoadReport {
    let task = events.task(format!("load {base}{}", request.path), Some(u64::from(requests)), Unit::Items);
    let client = match http::client(base, true) {
        Ok(client) => client,
        Err(why) => return LoadReport { first_errors: vec![why], ..LoadReport::of(Vec::new(), 0, Vec::new()) },
    };
    let mut latencies = Vec::with_capacity(requests as usize);
    let (mut errors, mut first_errors) = (0, Vec::<String>::new());
    let mut outcomes = stream::iter(0..requests)
        .map(|_| http::send(&client, base, request))
        .buffer_unordered(concurrency.max(1) as usize);
    while let Some(outcome) = outcomes.next().await {
        task.advance(1);
        if outcome.ok {
            latencies.push(outcome.latency);
            continue;
        }
        errors += 1;
        latencies.push(outcome.latency.max(request.timeout));
        let failure = outcome.failures.join("; ");
        if first_errors.len() < FIRST_ERRORS && !first_errors.contains(&failure) {
            first_errors.push(failure);
        }
    }
    let report = LoadReport::of(latencies, errors, first_errors);
    task.finish(report.summary());
    report
}

impl LoadReport {
    fn of(mut latencies: Vec<Duration>, errors: u64, first_errors: Vec<String>) -> Self {
        latencies.sort_unstable();
        let samples = latencies.len() as u64;
        let rank = |percent: usize| {
            // Nearest rank: ⌈p/100 · n⌉, counted from 1.
            let index = (percent * latencies.len()).div_ceil(100).max(1) - 1;
            let passed = samples > errors;
            latencies.get(index).filter(|_| passed).map(|latency| latency.as_secs_f64() * 1000.0)
        };
        #[allow(clippy::cast_precision_loss)] // a u32 of requests at most
        let error_rate = (samples > 0).then(|| errors as f64 / samples as f64);
        Self { samples, errors, p50: rank(50), p95: rank(95), p99: rank(99), max: rank(100), error_rate, first_errors }
    }

    /// The figures in one line.
    pub fn summary(&self) -> String {
        let figure = |name: &str, value: Option<f64>| value.map(|value| format!(", {name} {value:.1} ms"));
        let figures = [("p50", self.p50), ("p95", self.p95), ("p99", self.p99), ("max", self.max)];
        let figures: String = figures.into_iter().filter_map(|(name, value)| figure(name, value)).collect();
        format!("{} requests, {} failed{figures}", self.samples, self.errors)
    }

    /// One statistic as evidence.
    pub fn measurement(&self, statistic: Statistic, at: Timestamp) -> Measurement {
        let value = match statistic {
            Statistic::P50 => self.p50,
            Statistic::P95 => self.p95,
            Statistic::P99 => self.p99,
            Statistic::Max => self.max,
            Statistic::ErrorRate => self.error_rate,
        };
        let first = || self.first_errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        match value {
            Some(value) => {
                let notes = [vec![self.summary()], self.first_errors.clone()].concat();
                Measurement::Value { value, samples: self.samples, at, notes }
            }
            None if self.samples == 0 => Measurement::Missing { why: format!("no request was sent{}", first()) },
            None => Measurement::Missing { why: format!("none of {} requests passed{}", self.samples, first()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(latencies: &[u64], errors: u64) -> LoadReport {
        LoadReport::of(latencies.iter().copied().map(Duration::from_millis).collect(), errors, vec![])
    }

    #[test]
    fn percentiles_are_those_of_nearest_rank() {
        // The example of the definition: five values, P30 is the second, P40 the second, P50 the third, P100 the last.
        let five = report(&[50, 15, 35, 20, 40], 0);
        assert_eq!((five.p50, five.p95, five.p99, five.max), (Some(35.0), Some(50.0), Some(50.0), Some(50.0)));
        let hundred: Vec<u64> = (1..=100).collect();
        let hundred = report(&hundred, 0);
        assert_eq!((hundred.p50, hundred.p95, hundred.p99), (Some(50.0), Some(95.0), Some(99.0)));
        let one = report(&[7], 0);
        assert_eq!((one.p50, one.max, one.error_rate), (Some(7.0), Some(7.0), Some(0.0)));
    }

    #[test]
    fn no_evidence_is_no_success() {
        let at = Timestamp::UNIX_EPOCH;
        for statistic in [Statistic::P50, Statistic::ErrorRate] {
            assert!(matches!(report(&[], 0).measurement(statistic, at), Measurement::Missing { .. }));
        }
        let failed = report(&[9, 9], 2);
        assert!(matches!(failed.measurement(Statistic::P99, at), Measurement::Missing { .. }));
        assert!(matches!(
            failed.measurement(Statistic::ErrorRate, at),
            Measurement::Value { value: 1.0, samples: 2, .. }
        ));
    }
}
