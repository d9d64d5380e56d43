//! Plain lines, for CI and files: when work begins, every ten seconds while it lasts, and when it ends.
//!
//! Work that is over within a second has one line only, its end.

use super::{Draw, words};
use crate::text::Paint;
use domain::{
    Event,
    event::{StepState, Unit},
};
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// After this a begun task is worth a line of its own.
const PATIENCE: Duration = Duration::from_secs(1);
/// At most one line for each piece of work in this time.
const PAUSE: Duration = Duration::from_secs(10);

/// The renderer.
pub(super) struct Lines<W> {
    out: W,
    paint: Paint,
    tasks: BTreeMap<u64, Work>,
    step: Option<Work>,
}

/// A task or a step under way.
struct Work {
    name: String,
    done: u64,
    total: Option<u64>,
    unit: Unit,
    began: Instant,
    /// When it was last spoken of.
    said: Option<Instant>,
}

impl<W: Write + Send> Lines<W> {
    /// Writes to `out`.
    pub(super) fn new(out: W) -> Self {
        let paint = Paint::new(std::io::stderr().is_terminal());
        Self { out, paint, tasks: BTreeMap::new(), step: None }
    }

    fn say(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
    }
}

impl Work {
    fn new(name: String, total: Option<u64>, unit: Unit, now: Instant) -> Self {
        Self { name, done: 0, total, unit, began: now, said: None }
    }

    /// The line that is due now, if one is.
    fn due(&mut self, now: Instant) -> Option<String> {
        let elapsed = now.duration_since(self.began);
        let due = match self.said {
            None => elapsed >= PATIENCE,
            Some(said) => now.duration_since(said) >= PAUSE,
        };
        if !due {
            return None;
        }
        let first = self.said.replace(now).is_none();
        let so_far = if self.done > 0 || self.total.is_some() {
            format!("  {}", words::progress(self.done, self.total, self.unit, elapsed))
        } else if first {
            String::new()
        } else {
            format!("  {} so far", crate::text::took(elapsed))
        };
        Some(format!("… {}{so_far}", self.name))
    }
}

impl<W: Write + Send> Draw for Lines<W> {
    fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::TaskStarted { task, name, total, unit } => {
                self.tasks.insert(task, Work::new(name, total, unit, now));
            }
            Event::TaskAdvanced { task, done, total } => {
                if let Some(work) = self.tasks.get_mut(&task) {
                    (work.done, work.total) = (done, total);
                }
                self.tick(now);
            }
            Event::TaskFinished { task, ok, summary } => {
                if let Some(work) = self.tasks.remove(&task) {
                    let elapsed = now.duration_since(work.began);
                    let line = words::finished(&work.name, ok, &summary, work.done, work.unit, elapsed, &self.paint);
                    self.say(&line);
                }
            }
            Event::Step { number, of, title, state: StepState::Started, .. } => {
                self.step = Some(Work::new(format!("{number}/{of} {title}"), None, Unit::Items, now));
            }
            Event::Step { number, of, title, state, millis } => {
                self.step = None;
                let line = words::step(number, of, &title, state, millis, &self.paint);
                self.say(&line);
            }
            other => {
                if let Some(line) = words::sentence(&other, &self.paint) {
                    self.say(&line);
                }
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        let due: Vec<String> = self.tasks.values_mut().chain(&mut self.step).filter_map(|work| work.due(now)).collect();
        for line in due {
            self.say(&line);
        }
    }

    fn finish(&mut self) {
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::gate::Verdict;
    use expect_test::expect;

    #[test]
    fn lines_begin_end_and_come_every_ten_seconds() {
        let mut out = Vec::new();
        let mut lines = Lines { out: &mut out, paint: Paint::none(), tasks: BTreeMap::new(), step: None };
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mib = |count: u64| count << 20;
        let name = || "push wine-quality".to_owned();
        lines.event(Event::TaskStarted { task: 1, name: name(), total: Some(mib(200)), unit: Unit::Bytes }, at(0.0));
        lines.event(Event::TaskAdvanced { task: 1, done: mib(10), total: Some(mib(200)) }, at(0.5));
        lines.event(Event::TaskAdvanced { task: 1, done: mib(20), total: Some(mib(200)) }, at(1.0));
        lines.event(Event::TaskAdvanced { task: 1, done: mib(100), total: Some(mib(200)) }, at(5.0));
        lines.tick(at(11.0));
        lines.event(Event::TaskFinished { task: 1, ok: true, summary: "3 packs".into() }, at(12.5));
        lines.event(Event::TaskStarted { task: 2, name: "quick".into(), total: None, unit: Unit::Items }, at(13.0));
        lines.event(Event::TaskFinished { task: 2, ok: false, summary: "stopped".into() }, at(13.1));
        let step =
            |state, millis| Event::Step { number: 3, of: 8, title: "stop wine@1.0.0 in blue".into(), state, millis };
        lines.event(step(StepState::Started, None), at(20.0));
        lines.tick(at(21.0));
        lines.tick(at(31.5));
        lines.event(step(StepState::Done, Some(12_300)), at(32.3));
        lines.event(step(StepState::AlreadyDone, Some(2)), at(33.0));
        lines.event(step(StepState::Failed, Some(2)), at(33.0));
        lines.event(
            Event::Output { source: "cargo".into(), line: "\u{1b}[1m   Compiling wine\u{1b}[0m".into() },
            at(34.0),
        );
        let reasons = vec!["0.41 is below 0.5".to_owned()];
        lines.event(Event::Checked { check: "quality/accuracy".into(), verdict: Verdict::Crit, reasons }, at(34.0));
        lines.event(Event::Warning { text: "HEAD is detached".into() }, at(34.0));
        lines.finish();
        expect![[r#"
            … push wine-quality  10 %, 20.0 MiB of 200 MiB, 20.0 MiB/s, 9.0 s left
            … push wine-quality  50 %, 100 MiB of 200 MiB, 9.1 MiB/s, 11.0 s left
            ✓ push wine-quality: 3 packs  12.5 s, 100 MiB at 8.0 MiB/s
            ✗ quick: stopped  100 ms
            … 3/8 stop wine@1.0.0 in blue
            … 3/8 stop wine@1.0.0 in blue  11.5 s so far
            ✓ 3/8 stop wine@1.0.0 in blue  12.3 s
            = 3/8 stop wine@1.0.0 in blue (already so)  2 ms
            ✗ 3/8 stop wine@1.0.0 in blue failed  2 ms
              cargo │    Compiling wine
            crit         quality/accuracy: 0.41 is below 0.5
            warning: HEAD is detached
        "#]]
        .assert_eq(&String::from_utf8(out).unwrap());
    }
}
