//! Events drawn while work goes on: progress bars on a terminal, plain lines elsewhere, NDJSON for programs.
//!
//! Text goes to standard error, JSON to standard output. No renderer fails: when nobody can be told, nothing is said.

mod lines;
mod ndjson;
mod terminal;
mod words;

use domain::{Event, EventSink, Events};
use std::{
    io::{self, IsTerminal},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A renderer that is told the time, so that tests need no clock.
trait Draw: Send {
    /// Draws one event.
    fn event(&mut self, event: Event, now: Instant);
    /// Called about twice a second, so that long work is seen to go on.
    fn tick(&mut self, now: Instant);
    /// Leaves nothing half drawn.
    fn finish(&mut self);
}

/// The renderer in use; kept by the caller and finished before results are printed.
pub(crate) struct Drawing {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
}

struct Shared {
    draw: Mutex<Box<dyn Draw>>,
    finished: AtomicBool,
    wake: (Mutex<bool>, Condvar),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Box<dyn Draw>> {
        self.draw.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Sink(Arc<Shared>);

impl EventSink for Sink {
    fn emit(&self, event: Event) {
        // Work that was given up may still emit; its words must not fall between the results.
        if !self.0.finished.load(Ordering::Acquire) {
            self.0.lock().event(event, Instant::now());
        }
    }
}

/// Chooses the renderer for this process.
pub(crate) fn choose(json: bool) -> (Events, Drawing) {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if json {
        return start(Box::new(ndjson::NdJson::new(io::stdout())), false);
    }
    if io::stderr().is_terminal() && !set("CI") && !dumb {
        return start(Box::new(terminal::Terminal::new()), false);
    }
    start(Box::new(lines::Lines::new(io::stderr())), true)
}

fn start(draw: Box<dyn Draw>, ticks: bool) -> (Events, Drawing) {
    let shared = Arc::new(Shared {
        draw: Mutex::new(draw),
        finished: AtomicBool::new(false),
        wake: (Mutex::new(false), Condvar::new()),
    });
    let ticker = ticks.then(|| {
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || tick(&shared))
    });
    (Events::new(Sink(Arc::clone(&shared))), Drawing { shared, ticker })
}

/// Ticks until the drawing is finished.
fn tick(shared: &Shared) {
    let (lock, condition) = &shared.wake;
    let mut ended = lock.lock().unwrap_or_else(PoisonError::into_inner);
    while !*ended {
        let waited = condition.wait_timeout(ended, Duration::from_millis(500)).unwrap_or_else(PoisonError::into_inner);
        ended = waited.0;
        if !*ended {
            shared.lock().tick(Instant::now());
        }
    }
}

impl Drawing {
    /// Draws what is left and takes nothing more.
    pub(crate) fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let (lock, condition) = &self.shared.wake;
        *lock.lock().unwrap_or_else(PoisonError::into_inner) = true;
        condition.notify_all();
        if let Some(ticker) = self.ticker.take() {
            let _ = ticker.join();
        }
        if !self.shared.finished.swap(true, Ordering::AcqRel) {
            self.shared.lock().finish();
        }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        self.end();
    }
}
