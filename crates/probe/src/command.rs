//! Commands of the repository, run with a time limit and without a shell.
//!
//! A command leads a process group of its own. Whatever of that group is left when it ends, when its time is over or when
//! its future is dropped, is killed: a gate leaves nothing running.

use crate::Context;
use domain::{
    Event, Events,
    gate::{Measurement, Verdict},
};
use rustix::process::{Pid, Signal};
use std::{
    collections::VecDeque,
    os::unix::process::CommandExt,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, BufReader},
    process::Command,
};

/// How many of the last lines are kept.
const TAIL: usize = 20;
/// A line that is longer is cut.
const LINE_LIMIT: usize = 8 << 10;
/// How long the last output may be on its way after the command has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

type Lines = Arc<Mutex<VecDeque<String>>>;

/// How a command ended.
pub(crate) struct Ended {
    /// Its status; `None`: it was killed when its time was over.
    pub(crate) status: Option<ExitStatus>,
    /// Its last lines, of both outputs.
    pub(crate) tail: Vec<String>,
}

impl Ended {
    /// What it printed last, to be appended to a sentence.
    pub(crate) fn last_words(&self) -> String {
        if self.tail.is_empty() { String::new() } else { format!("; it last printed:\n  {}", self.tail.join("\n  ")) }
    }
}

/// Kills a process group when it goes out of scope.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // An empty group is the good case.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Runs a command in the repository; each line that it prints becomes an event. `output` is where its report is to be.
pub(crate) async fn run(
    context: &Context,
    words: &[String],
    output: Option<&Path>,
    timeout: Duration,
    events: &Events,
) -> Result<Ended, String> {
    let Some((program, arguments)) = words.split_first() else { return Err("no command is given".to_owned()) };
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .current_dir(&context.repository)
        .env("SEALIFT_URL", &context.url)
        .env("SEALIFT_ENVIRONMENT", &context.environment)
        .env("SEALIFT_COMPONENT", &context.component)
        .env("SEALIFT_RELEASE", &context.release)
        .envs(output.map(|path| ("SEALIFT_OUTPUT", path)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    // A variable of ours that does not apply must not be somebody else's.
    command.env_remove("SEALIFT_IMAGE_DIGEST").env_remove("SEALIFT_IMAGE_LAYOUT");
    if let Some(image) = &context.image {
        command.env("SEALIFT_IMAGE_DIGEST", image.digest.to_string()).env("SEALIFT_IMAGE_LAYOUT", &image.layout);
    }
    let mut command = Command::from(command);
    let mut child = command.kill_on_drop(true).spawn().map_err(|error| format!("{program} cannot be run: {error}"))?;
    let group = Group(child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())));
    let lines = Lines::default();
    let mut readers = tokio::task::JoinSet::new();
    if let Some(pipe) = child.stdout.take() {
        readers.spawn(read(pipe, program.clone(), lines.clone(), events.clone()));
    }
    if let Some(pipe) = child.stderr.take() {
        readers.spawn(read(pipe, program.clone(), lines.clone(), events.clone()));
    }
    let status = match tokio::time::timeout(timeout, child.wait()).await {
        Ok(Ok(status)) => Some(status),
        Ok(Err(error)) => return Err(format!("{program} cannot be waited for: {error}")),
        Err(_) => None,
    };
    drop(group); // what it left behind would hold the pipes open
    let finish = async { while readers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_OUTPUT, finish).await;
    let tail = lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
    Ok(Ended { status, tail })
}

async fn read(pipe: impl AsyncRead + Unpin, source: String, lines: Lines, events: Events) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    let say = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
        line.clear();
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == TAIL {
            lines.pop_front();
        }
        lines.push_back(text.clone());
        drop(lines);
        events.emit(Event::Output { source: source.clone(), line: text });
    };
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        for byte in &buffer[..count] {
            match byte {
                b'\n' => say(&mut line),
                byte if line.len() < LINE_LIMIT => line.push(*byte),
                _ => {}
            }
        }
    }
    if !line.is_empty() {
        say(&mut line);
    }
}

/// A command whose exit code is the verdict.
pub(crate) async fn judge(context: &Context, words: &[String], timeout: Duration, events: &Events) -> Measurement {
    let ended = match run(context, words, None, timeout, events).await {
        Ok(ended) => ended,
        Err(why) => return Measurement::Missing { why },
    };
    let name = words.join(" ");
    let Some(status) = ended.status else {
        let why = format!("{name} was killed: it took longer than {} s{}", timeout.as_secs_f64(), ended.last_words());
        return Measurement::Missing { why };
    };
    let (verdict, meaning) = match status.code() {
        Some(0) => (Verdict::Ok, "ok"),
        Some(1) => (Verdict::Warn, "warn"),
        Some(2) => (Verdict::Crit, "crit"),
        _ => (Verdict::Inconclusive, "inconclusive"),
    };
    let mut notes = vec![format!("{name} ended with {status}: {meaning}")];
    notes.extend(ended.tail);
    Measurement::Judged { verdict, notes }
}
