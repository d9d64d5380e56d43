//! Other people's programs: run in a process group of their own, line by line, and never left behind.

use crate::error::{Error, Result};
use domain::{Event, Events};
use rustix::process::{Pid, Signal};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

/// How many last lines an error shows.
const TAIL: usize = 20;
/// The longest line that is kept, in bytes; the rest of it is dropped.
const LINE_LIMIT: usize = 4096;
/// How long the last output may take to arrive once the program has ended and its group is gone.
const LAST_OUTPUT: Duration = Duration::from_secs(5);
/// The most that is collected of a program's output, in bytes.
const MAX_COLLECTED: usize = 64 << 20;

/// Where the standard output goes.
pub(crate) enum Out {
    /// Each line is an event.
    Lines,
    /// It is an answer to be parsed.
    Collect,
    /// It is content.
    File(File),
}

/// A program to be run.
pub(crate) struct Run<'a> {
    pub(crate) program: &'a OsStr,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) folder: &'a Path,
    pub(crate) env: Vec<(String, OsString)>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) out: Out,
}

/// How it ended.
pub(crate) struct Ended {
    /// `None`: it was killed when its time was over.
    pub(crate) status: Option<ExitStatus>,
    /// Its last lines, of both outputs, oldest first.
    pub(crate) tail: Vec<String>,
    /// What was collected.
    pub(crate) output: Vec<u8>,
}

/// Kills a process group when it goes out of scope, also when the future that waits for it is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // An empty group is the good case.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

type Lines = Arc<Mutex<VecDeque<String>>>;

impl Run<'_> {
    /// The program and its arguments, for people.
    pub(crate) fn shown(&self) -> String {
        let words = [self.program].into_iter().chain(self.arguments.iter().map(OsString::as_os_str));
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }

    /// Runs it to its end. Whatever its processes left running in its group is killed then.
    pub(crate) async fn run(self, events: &Events) -> Result<Ended> {
        let name = Path::new(self.program).file_name().unwrap_or(self.program).to_string_lossy().into_owned();
        let (collect, stdout) = match self.out {
            Out::Lines => (false, Stdio::piped()),
            Out::Collect => (true, Stdio::piped()),
            Out::File(file) => (false, file.into()),
        };
        // A relative program with a slash is one of the folder, wherever this process runs.
        let program = if Path::new(self.program).components().count() > 1 {
            self.folder.join(self.program).into_os_string()
        } else {
            self.program.to_owned()
        };
        let mut command = std::process::Command::new(program);
        command
            .args(&self.arguments)
            .current_dir(self.folder)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .process_group(0);
        let mut command = tokio::process::Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| {
            let what = format!("{} cannot be run: {error}", self.program.to_string_lossy());
            Error::bad_with(what, "install it, or write its path")
        })?;
        let group = Group(child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())));
        let (lines, output) = (Lines::default(), Arc::new(Mutex::new(Vec::new())));
        let mut readers = tokio::task::JoinSet::new();
        match child.stdout.take() {
            Some(pipe) if collect => drop(readers.spawn(keep(pipe, output.clone()))),
            Some(pipe) => drop(readers.spawn(say(pipe, name.clone(), lines.clone(), events.clone()))),
            None => {}
        }
        if let Some(pipe) = child.stderr.take() {
            readers.spawn(say(pipe, name, lines.clone(), events.clone()));
        }
        let waiting = async {
            match self.timeout {
                Some(timeout) => tokio::time::timeout(timeout, child.wait()).await.ok(),
                None => Some(child.wait().await),
            }
        };
        let status = waiting.await.transpose().map_err(|source| Error::File {
            action: "wait for",
            path: PathBuf::from(self.program),
            source,
        })?;
        drop(group); // what it left behind would hold the pipes open
        let finish = async { while readers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_OUTPUT, finish).await;
        let tail = lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let output = std::mem::take(&mut *output.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Ended { status, tail, output })
    }
}

impl Ended {
    /// That it ended well; else the build failed, with its last lines.
    pub(crate) fn success(self, what: &str, timeout: Option<Duration>) -> Result<Self> {
        let cause = match self.status {
            Some(status) if status.success() => return Ok(self),
            Some(status) => format!("{what} ended with {status}"),
            None => {
                format!("{what} was killed: it took longer than {} s", timeout.unwrap_or_default().as_secs_f64())
            }
        };
        Err(Error::BuildFailed { step: None, at: None, cause, log: self.tail })
    }
}

async fn keep(mut pipe: impl AsyncRead + Unpin, output: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.len() < MAX_COLLECTED {
            output.extend_from_slice(&buffer[..count]);
        }
    }
}

async fn say(pipe: impl AsyncRead + Unpin, source: String, lines: Lines, events: Events) {
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
