//! One command line: while it runs, and what came of it.

use crate::wait::DEADLINE;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A command line that has ended. Its result must be looked at.
#[derive(Debug, Clone)]
pub struct Run {
    /// What was run.
    pub command: String,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Run {
    /// It ended with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.fails(0)
    }

    /// It ended with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.told());
        self
    }

    /// SIGKILL ended it.
    #[track_caller]
    pub fn killed(self) -> Self {
        assert_eq!(self.signal, Some(Signal::KILL.as_raw()), "{}", self.told());
        self
    }

    /// It printed these words, anywhere.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(
            self.stdout.contains(words) || self.stderr.contains(words),
            "it does not say {words:?}: {}",
            self.told()
        );
        self
    }

    /// Every line of standard output as JSON (`--format json`).
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line:?} in {}", self.told()))
        };
        self.stdout.lines().map(parse).collect()
    }

    /// The `result` of `--format json`: the last line.
    #[track_caller]
    pub fn result(&self) -> Value {
        self.last("result")
    }

    /// The `error` of `--format json`: the last line.
    #[track_caller]
    pub fn error(&self) -> Value {
        self.last("error")
    }

    #[track_caller]
    fn last(&self, key: &str) -> Value {
        let last = self.json().pop().unwrap_or_default();
        last.get(key).unwrap_or_else(|| panic!("there is no {key:?}: {}", self.told())).clone()
    }

    /// Everything about it, for a failing test.
    pub fn told(&self) -> String {
        format!(
            "`{}` ended with code {:?}, signal {:?} after {:.2?}\n--- standard output\n{}\n--- standard error\n{}\n---",
            self.command, self.code, self.signal, self.took, self.stdout, self.stderr
        )
    }
}

/// Text that grows while somebody waits for it.
#[derive(Default)]
struct Output {
    text: Mutex<(String, bool)>,
    grown: Condvar,
}

impl Output {
    fn read(self: Arc<Self>, stream: impl Read) {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            self.lock().0.push_str(&String::from_utf8_lossy(&line));
            self.grown.notify_all();
            line.clear();
        }
        self.lock().1 = true;
        self.grown.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (String, bool)> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        self.lock().0.clone()
    }
}

/// A command line that runs. It is killed when it is dropped before it was waited for.
pub struct Running {
    command: String,
    pid: Pid,
    out: Arc<Output>,
    err: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    ended: mpsc::Receiver<ExitStatus>,
    status: Option<ExitStatus>,
    started: Instant,
}

impl Running {
    /// Starts a command.
    pub fn start(mut command: Command, shown: String) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child: Child = command.spawn().unwrap_or_else(|error| panic!("`{shown}` cannot be started: {error}"));
        let pid = Pid::from_child(&child);
        let (out, err) = (Arc::new(Output::default()), Arc::new(Output::default()));
        let mut readers = Vec::new();
        if let Some(stream) = child.stdout.take() {
            let out = out.clone();
            readers.push(std::thread::spawn(move || out.read(stream)));
        }
        if let Some(stream) = child.stderr.take() {
            let err = err.clone();
            readers.push(std::thread::spawn(move || err.read(stream)));
        }
        let (tell, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if let Ok(status) = child.wait() {
                let _ = tell.send(status);
            }
        });
        Self { command: shown, pid, out, err, readers, ended, status: None, started }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal; to one that has ended it is no failure.
    pub fn signal(&mut self, signal: Signal) {
        if self.status.is_none() {
            self.status = self.ended.try_recv().ok();
        }
        if self.status.is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Whether it ends within `time`; it goes on otherwise.
    pub fn ends_within(&mut self, time: Duration) -> bool {
        if self.status.is_none() {
            self.status = self.ended.recv_timeout(time).ok();
        }
        self.status.is_some()
    }

    /// Waits until a line of standard output satisfies `wanted`, and returns that line.
    #[track_caller]
    pub fn wait_for_line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        let mut text = self.out.lock();
        loop {
            let whole = text.0.rfind('\n').map_or("", |end| &text.0[..end]);
            if let Some(line) = whole.lines().find(|line| wanted(line)) {
                return line.to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if text.1 || left.is_zero() {
                let printed = text.0.clone();
                drop(text);
                panic!("`{}` never printed {what}:\n{printed}\n---\n{}", self.command, self.err.text());
            }
            text = self.out.grown.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until it has begun a step of this kind of title (`--format json`).
    #[track_caller]
    pub fn wait_for_step(&self, words: &str) {
        self.wait_for_line(&format!("the step {words:?}"), |line| {
            serde_json::from_str::<Value>(line).is_ok_and(|event| {
                event["event"] == "step"
                    && event["state"] == "started"
                    && event["title"].as_str().is_some_and(|title| title.contains(words))
            })
        });
    }

    /// Waits for its end; after the deadline it is killed and the test fails.
    #[must_use = "a run says nothing until it is asked: ok(), fails(code)"]
    #[track_caller]
    pub fn wait(mut self) -> Run {
        let status = match self.status.take() {
            Some(status) => Ok(status),
            None => self.ended.recv_timeout(DEADLINE),
        };
        let took = self.started.elapsed();
        let Ok(status) = status else {
            let _ = kill_process(self.pid, Signal::KILL);
            panic!(
                "`{}` did not end within {} s:\n{}\n---\n{}",
                self.command,
                DEADLINE.as_secs(),
                self.out.text(),
                self.err.text()
            );
        };
        self.status = Some(status);
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Run {
            command: self.command.clone(),
            code: status.code(),
            signal: status.signal(),
            stdout: self.out.text(),
            stderr: self.err.text(),
            took,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
