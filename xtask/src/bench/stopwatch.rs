//! A small process that starts what is measured.
//!
//! Linux counts the memory of whoever starts a program as that program's first peak. The bench itself grows, with a proxy's
//! hundreds of connections; this process does nothing but start, wait and tell, and stays at a few MiB.

use super::sample::{Sample, measure};
use crate::{
    shell::{Outcome, show},
    testbed::guarded,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    sync::Mutex,
    time::Duration,
};

/// How the process is asked for on the command line.
pub(super) const WORD: &str = "--stopwatch";

/// The process; it ends when it is dropped.
pub(super) struct Stopwatch {
    child: Child,
    /// `None` once it was told to end.
    pipes: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

impl Stopwatch {
    /// Starts it, as early as possible.
    pub(super) fn start() -> Outcome<Self> {
        let program = std::env::current_exe().map_err(|cause| format!("this program is nowhere: {cause}"))?;
        let mut command = guarded(&program);
        command.args(["bench", WORD]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|cause| format!("the stopwatch did not start: {cause}"))?;
        let pipes = child.stdin.take().zip(child.stdout.take().map(BufReader::new));
        Ok(Self { child, pipes: Mutex::new(pipes) })
    }

    /// Runs a program to its end as [`measure`] does, with nothing but the environment that was set on it.
    pub(super) fn measure(&self, command: &Command) -> Outcome<Sample> {
        let answer = self.ask(&question(command)?).map_err(|cause| format!("the stopwatch stopped: {cause}"))?;
        match answer["failed"].as_str() {
            Some(failed) => Err(failed.to_owned()),
            None => read(&answer).ok_or_else(|| format!("the stopwatch says: {answer}")),
        }
    }

    fn ask(&self, question: &Value) -> std::io::Result<Value> {
        let mut pipes = self.pipes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (to, from) = pipes.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
        writeln!(to, "{question}")?;
        let mut line = String::new();
        from.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        drop(self.pipes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let _ = self.child.wait();
    }
}

/// The process itself: answers until nobody asks.
pub(super) fn serve() -> Outcome<ExitCode> {
    let mut out = std::io::stdout();
    for line in std::io::stdin().lines() {
        let line = line.map_err(|cause| format!("the stopwatch was not asked: {cause}"))?;
        let answer = match command(&line).and_then(|mut command| measure(&mut command)) {
            Ok(sample) => json!({
                "time": sample.time.as_secs_f64(), "cpu": sample.cpu.as_secs_f64(), "memory": sample.memory,
            }),
            Err(problem) => json!({ "failed": problem }),
        };
        writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(|cause| format!("nobody listens: {cause}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn question(command: &Command) -> Outcome<Value> {
    let text = |word: &OsStr| word.to_str().map(str::to_owned).ok_or_else(|| format!("{} is not text", show(command)));
    let arguments = command.get_args().map(text).collect::<Outcome<Vec<_>>>()?;
    let mut environment = BTreeMap::new();
    for (name, value) in command.get_envs() {
        environment.insert(text(name)?, text(value.unwrap_or_default())?);
    }
    let folder = command.get_current_dir().map(|folder| text(folder.as_os_str())).transpose()?;
    Ok(json!({
        "program": text(command.get_program())?, "arguments": arguments, "environment": environment, "folder": folder,
    }))
}

fn command(line: &str) -> Outcome<Command> {
    let asked: Value = serde_json::from_str(line).map_err(|cause| format!("not a question: {cause}"))?;
    let program = asked["program"].as_str().ok_or("a question without a program")?;
    let mut command = Command::new(program);
    command.env_clear().args(asked["arguments"].as_array().into_iter().flatten().filter_map(Value::as_str));
    let pairs = asked["environment"].as_object().into_iter().flatten();
    command.envs(pairs.filter_map(|(name, value)| Some((name, value.as_str()?))));
    if let Some(folder) = asked["folder"].as_str() {
        command.current_dir(folder);
    }
    Ok(command)
}

fn read(answer: &Value) -> Option<Sample> {
    let duration = |name: &str| Duration::try_from_secs_f64(answer[name].as_f64()?).ok();
    Some(Sample { time: duration("time")?, cpu: duration("cpu")?, memory: answer["memory"].as_u64()? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_what_is_run() {
        let mut asked = Command::new("sh");
        asked.args(["-c", "test \"$WORD\" = 'a b' && test -z \"$HOME\" && test \"$PWD\" = /"]);
        asked.env_clear().env("WORD", "a b").current_dir("/");
        let line = question(&asked).unwrap().to_string();
        let sample = measure(&mut command(&line).unwrap()).unwrap();
        assert!(sample.memory > 0);
        assert!(command("{}").is_err());
        assert_eq!(read(&json!({ "time": 1.5, "cpu": 0.5, "memory": 7 })).unwrap().memory, 7);
    }
}
