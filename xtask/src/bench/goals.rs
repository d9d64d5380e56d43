//! Goals: what must hold, and whether it does.

use super::sample::{Samples, seconds};
use serde_json::{Value, json};

/// One line of the table.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) work: String,
    pub(super) ours: String,
    pub(super) peer: String,
    /// How many times better than the peer, or what is compared with the bound.
    pub(super) ratio: Option<f64>,
    pub(super) goal: String,
    /// `None` where it is only for information.
    pub(super) met: Option<bool>,
    /// By how much it is missed.
    pub(super) short: String,
}

impl Row {
    /// Our time against a peer's: at least `factor` times faster.
    pub(super) fn faster(work: &str, ours: &Samples, peer: (&str, &Samples), factor: f64) -> Self {
        let ratio = peer.1.median() / ours.median();
        let met = ratio >= factor;
        let short = if met { String::new() } else { format!("{:.0} % short", (1.0 - ratio / factor) * 100.0) };
        Self {
            work: work.to_owned(),
            ours: ours.words(),
            peer: format!("{} {}", peer.0, peer.1.words()),
            ratio: Some(ratio),
            goal: format!("≥ {factor} ×"),
            met: Some(met),
            short,
        }
    }

    /// For information: no goal.
    pub(super) fn beside(work: &str, ours: &Samples, peer: (&str, &Samples)) -> Self {
        Self { goal: String::new(), met: None, short: String::new(), ..Self::faster(work, ours, peer, 1.0) }
    }

    /// A time that must not be exceeded.
    pub(super) fn within(work: &str, ours: &Samples, bound: f64, peer: (&str, &Samples)) -> Self {
        let time = ours.median();
        Self {
            work: work.to_owned(),
            ours: ours.words(),
            peer: format!("{} {}", peer.0, peer.1.words()),
            ratio: Some(peer.1.median() / time),
            goal: format!("≤ {}", seconds(bound)),
            met: Some(time <= bound),
            short: if time <= bound { String::new() } else { format!("{} over", seconds(time - bound)) },
        }
    }

    /// Our time against a peer's: no more than `share` above it.
    pub(super) fn overhead(work: &str, ours: &Samples, peer: (&str, &Samples), share: f64) -> Self {
        let ratio = ours.median() / peer.1.median();
        let met = ratio <= 1.0 + share;
        Self {
            ratio: Some(peer.1.median() / ours.median()),
            goal: format!("≤ {:.0} % more", share * 100.0),
            met: Some(met),
            short: if met { String::new() } else { format!("{:.0} % more", (ratio - 1.0) * 100.0) },
            ..Self::faster(work, ours, peer, 1.0)
        }
    }

    /// A count that must not be exceeded.
    pub(super) fn at_most(work: &str, count: u64, unit: &str, bound: u64) -> Self {
        let shown = |count: u64| match unit {
            "MiB" => format!("{:.2} MiB", count as f64 / f64::from(1 << 20)),
            unit => format!("{count} {unit}"),
        };
        Self {
            work: work.to_owned(),
            ours: shown(count),
            peer: String::new(),
            ratio: None,
            goal: format!("≤ {}", shown(bound)),
            met: Some(count <= bound),
            short: if count <= bound { String::new() } else { format!("{} over", shown(count - bound)) },
        }
    }

    /// Work that grew by `grown`: its time may grow by no more.
    pub(super) fn linear(work: &str, small: &Samples, large: &Samples, grown: f64) -> Self {
        let ratio = large.median() / small.median();
        Self {
            work: work.to_owned(),
            ours: large.words(),
            peer: format!("a tenth of it {}", small.words()),
            ratio: Some(ratio),
            goal: format!("≤ {grown} ×"),
            met: Some(ratio <= grown),
            short: if ratio <= grown { String::new() } else { format!("{:.0} % over", (ratio / grown - 1.0) * 100.0) },
        }
    }

    pub(super) fn cells(&self) -> [String; 6] {
        let verdict = match self.met {
            None => String::new(),
            Some(true) => "met".to_owned(),
            Some(false) => format!("not met: {}", self.short),
        };
        let ratio = self.ratio.map_or_else(String::new, |ratio| {
            // Near one the second digit says which is faster.
            if ratio < 2.0 { format!("{ratio:.2} ×") } else { format!("{ratio:.1} ×") }
        });
        [self.work.clone(), self.ours.clone(), self.peer.clone(), ratio, self.goal.clone(), verdict]
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "work": self.work, "ours": self.ours, "peer": self.peer, "ratio": self.ratio, "goal": self.goal, "met": self.met,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample::Sample;
    use std::time::Duration;

    fn took(milliseconds: u64) -> Samples {
        let mut samples = Samples::default();
        let time = Duration::from_millis(milliseconds);
        samples.push(Sample { time, cpu: time, memory: 10 << 20 });
        samples
    }

    #[test]
    fn a_goal_is_met_or_missed_by_so_much() {
        let (ours, dvc) = (took(1000), took(4500));
        let row = Row::faster("add", &ours, ("dvc", &dvc), 5.0);
        assert_eq!((row.met, row.cells()[5].as_str()), (Some(false), "not met: 10 % short"));
        assert_eq!(Row::faster("add", &ours, ("dvc", &dvc), 4.5).met, Some(true));
        assert_eq!(Row::beside("add", &ours, ("dvc", &dvc)).met, None);
        assert_eq!(Row::within("push", &ours, 2.0, ("dvc", &dvc)).met, Some(true));
        assert_eq!(Row::within("push", &dvc, 2.0, ("dvc", &dvc)).short, "2.50 s over");
        assert_eq!(Row::overhead("build", &took(1040), ("docker", &ours), 0.05).met, Some(true));
        assert_eq!(Row::overhead("build", &took(1100), ("docker", &ours), 0.05).short, "10 % more");
        assert_eq!(Row::at_most("requests", 31, "requests", 30).short, "1 requests over");
        assert_eq!(Row::at_most("sent", 1 << 20, "MiB", 1 << 20).met, Some(true));
        assert_eq!(Row::linear("grow", &ours, &took(10_001), 10.0).met, Some(false));
    }
}
