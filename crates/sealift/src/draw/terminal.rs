//! Progress bars on a terminal: amount, rate and time left below, what has ended above.

use super::{Draw, words};
use crate::text::{Paint, plain};
use domain::{
    Event,
    event::{StepState, Unit},
};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// The renderer.
pub(super) struct Terminal {
    bars: MultiProgress,
    paint: Paint,
    tasks: BTreeMap<u64, Task>,
    step: Option<ProgressBar>,
}

struct Task {
    name: String,
    unit: Unit,
    bar: ProgressBar,
    began: Instant,
    done: u64,
    measured: bool,
}

impl Terminal {
    /// Draws on standard error.
    pub(super) fn new() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(15));
        Self { bars, paint: Paint::new(true), tasks: BTreeMap::new(), step: None }
    }

    fn say(&self, line: &str) {
        let _ = self.bars.println(line);
    }

    fn spinner(&self, text: String) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner()).with_message(text);
        bar.set_style(style(None));
        bar.enable_steady_tick(TURN);
        bar
    }
}

/// How a bar looks: with a total, or without one.
fn style(measured: Option<Unit>) -> ProgressStyle {
    let template = match measured {
        None => "{spinner} {wide_msg} {elapsed}",
        Some(Unit::Bytes) => {
            "{spinner} {wide_msg} {bar:24} {percent:>3} % {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left"
        }
        Some(Unit::Files | Unit::Items) => {
            "{spinner} {wide_msg} {bar:24} {percent:>3} % {pos}/{len} {per_sec} {eta} left"
        }
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}

impl Draw for Terminal {
    fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::TaskStarted { task, name, total, unit } => {
                let bar = self.spinner(plain(&name));
                if let Some(total) = total {
                    bar.set_style(style(Some(unit)));
                    bar.set_length(total);
                }
                let measured = total.is_some();
                self.tasks.insert(task, Task { name, unit, bar, began: now, done: 0, measured });
            }
            Event::TaskAdvanced { task, done, total } => {
                let Some(task) = self.tasks.get_mut(&task) else { return };
                if let (Some(_), false) = (total, task.measured) {
                    task.measured = true;
                    task.bar.set_style(style(Some(task.unit)));
                }
                if let Some(total) = total {
                    task.bar.set_length(total);
                }
                task.done = done;
                task.bar.set_position(done);
            }
            Event::TaskFinished { task, ok, summary } => {
                let Some(task) = self.tasks.remove(&task) else { return };
                task.bar.finish_and_clear();
                self.bars.remove(&task.bar);
                let elapsed = now.duration_since(task.began);
                self.say(&words::finished(&task.name, ok, &summary, task.done, task.unit, elapsed, &self.paint));
            }
            Event::Step { number, of, title, state, millis } => {
                if let Some(bar) = self.step.take() {
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                }
                match state {
                    StepState::Started => self.step = Some(self.spinner(format!("{number}/{of} {title}"))),
                    state => self.say(&words::step(number, of, &title, state, millis, &self.paint)),
                }
            }
            other => {
                if let Some(line) = words::sentence(&other, &self.paint) {
                    self.say(&line);
                }
            }
        }
    }

    fn tick(&mut self, _: Instant) {}

    fn finish(&mut self) {
        for (_, task) in std::mem::take(&mut self.tasks) {
            task.bar.finish_and_clear();
        }
        if let Some(bar) = self.step.take() {
            bar.finish_and_clear();
        }
        let _ = self.bars.clear();
    }
}
