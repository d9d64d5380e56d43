//! What libraries tell the world while they work. Libraries emit; only `sealift` draws.

use crate::gate::Verdict;
use serde::Serialize;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// One thing that happened. The JSON form (one object a line, `--format json`) is tagged by `event`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A measurable piece of work began.
    TaskStarted {
        /// Identity within this process.
        task: u64,
        /// What it does, for example `push wine-quality`.
        name: String,
        /// How much there is to do, if that is known.
        total: Option<u64>,
        /// What `total` and `done` count.
        unit: Unit,
    },
    /// It got further. `done` is absolute.
    TaskAdvanced {
        /// Which one.
        task: u64,
        /// How much is done.
        done: u64,
        /// The total, which may have become known or have grown.
        total: Option<u64>,
    },
    /// It ended.
    TaskFinished {
        /// Which one.
        task: u64,
        /// Whether it did what it was to do.
        ok: bool,
        /// What came of it, in a few words.
        summary: String,
    },
    /// A step of a plan began, was found done, ended or failed.
    Step {
        /// Number of the step, from 1.
        number: usize,
        /// How many the plan has.
        of: usize,
        /// What it does, in words.
        title: String,
        /// How it stands.
        state: StepState,
        /// How long it took, once it has ended.
        millis: Option<u64>,
    },
    /// A line that another program printed (a build, a container, a command).
    Output {
        /// Which program.
        source: String,
        /// The line, without its newline.
        line: String,
    },
    /// One check of a gate was decided.
    Checked {
        /// `gate/check`.
        check: String,
        /// How it came out.
        verdict: Verdict,
        /// Why.
        reasons: Vec<String>,
    },
    /// Something a person should know that is no failure.
    Warning {
        /// The sentence.
        text: String,
    },
    /// Something that was done, in a sentence.
    Note {
        /// The sentence.
        text: String,
    },
}

/// What a task counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Files.
    Files,
    /// Requests, steps, anything else.
    Items,
}

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// It began.
    Started,
    /// The world was already as the step would make it.
    AlreadyDone,
    /// It ended well.
    Done,
    /// It failed.
    Failed,
}

/// Where events go.
pub trait EventSink: Send + Sync {
    /// Takes one event. It must not block for long and must not fail.
    fn emit(&self, event: Event);
}

/// A cheap handle to a sink, passed to everything that works for longer than a moment.
#[derive(Clone)]
pub struct Events(Arc<dyn EventSink>);

struct Nowhere;
impl EventSink for Nowhere {
    fn emit(&self, _: Event) {}
}

static NEXT_TASK: AtomicU64 = AtomicU64::new(1);

impl Events {
    /// Sends events to `sink`.
    pub fn new(sink: impl EventSink + 'static) -> Self {
        Self(Arc::new(sink))
    }
    /// Drops every event.
    pub fn nowhere() -> Self {
        Self::new(Nowhere)
    }
    /// Emits one event.
    pub fn emit(&self, event: Event) {
        self.0.emit(event);
    }
    /// Says a sentence about something done.
    pub fn note(&self, text: impl Into<String>) {
        self.emit(Event::Note { text: text.into() });
    }
    /// Says a sentence of warning.
    pub fn warn(&self, text: impl Into<String>) {
        self.emit(Event::Warning { text: text.into() });
    }
    /// Begins a task. It ends as failed when the handle is dropped without [`Task::finish`].
    pub fn task(&self, name: impl Into<String>, total: Option<u64>, unit: Unit) -> Task {
        let id = NEXT_TASK.fetch_add(1, Ordering::Relaxed);
        self.emit(Event::TaskStarted { task: id, name: name.into(), total, unit });
        Task {
            events: self.clone(),
            id,
            done: AtomicU64::new(0),
            total: AtomicU64::new(total.unwrap_or(0)),
            open: true,
        }
    }
}

/// A running task; it may be shared between threads.
pub struct Task {
    events: Events,
    id: u64,
    done: AtomicU64,
    total: AtomicU64,
    open: bool,
}

impl Task {
    /// Adds to what is done.
    pub fn advance(&self, by: u64) {
        let done = self.done.fetch_add(by, Ordering::Relaxed) + by;
        self.events.emit(Event::TaskAdvanced { task: self.id, done, total: self.total() });
    }
    /// Adds to what there is to do.
    pub fn grow(&self, by: u64) {
        self.total.fetch_add(by, Ordering::Relaxed);
        let done = self.done.load(Ordering::Relaxed);
        self.events.emit(Event::TaskAdvanced { task: self.id, done, total: self.total() });
    }
    /// What is done so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
    fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed)).filter(|total| *total > 0)
    }
    /// Ends it well.
    pub fn finish(mut self, summary: impl Into<String>) {
        self.open = false;
        self.events.emit(Event::TaskFinished { task: self.id, ok: true, summary: summary.into() });
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.open {
            self.events.emit(Event::TaskFinished { task: self.id, ok: false, summary: "stopped".to_owned() });
        }
    }
}
