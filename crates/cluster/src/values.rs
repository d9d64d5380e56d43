//! Environment variables of a workload: placeholders filled in, secrets read.
//!
//! A secret's value lives in the returned map and nowhere else: not in errors, not in files.

use crate::{Error, Result};
use domain::{
    secret::{Secret, SecretRef},
    workload::Workload,
};
use rustix::{
    fs::OFlags,
    process::{Pid, Signal},
};
use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read},
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// How long the command of a `cmd:` secret may take.
const SECRET_COMMAND: Duration = Duration::from_secs(30);
/// How much the command of a `cmd:` secret may print; no variable of a process may be longer (Linux, `MAX_ARG_STRLEN`).
const SECRET_LIMIT: usize = 128 << 10;

/// Replaces `{port}` and `{mount:PATH}`; other braces stay as they are.
pub(crate) fn fill(
    text: &str,
    port: u16,
    place_of: &dyn Fn(&str) -> Option<String>,
) -> std::result::Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("{port}") {
            out.push_str(&port.to_string());
            rest = after;
        } else if let Some((path, after)) = from.strip_prefix("{mount:").and_then(|tail| tail.split_once('}')) {
            out.push_str(&place_of(path).ok_or_else(|| format!("{{mount:{path}}} names no mount of the release"))?);
            rest = after;
        } else {
            out.push('{');
            rest = &from[1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The configured variables with their placeholders filled.
pub(crate) fn environment(
    workload: &Workload,
    port: u16,
    place_of: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for (name, value) in &workload.env {
        let value = fill(value, port, place_of)
            .map_err(|why| Error::refused(&workload.place, format!("environment variable {name}: {why}")))?;
        out.insert(name.clone(), value);
    }
    Ok(out)
}

/// Reads every secret. It blocks: call it off the runtime's threads.
pub(crate) fn secrets(workload: &Workload) -> Result<BTreeMap<String, Secret>> {
    let mut out = BTreeMap::new();
    for (name, reference) in &workload.secrets {
        let failed = |why: String| Error::Secret { name: name.clone(), reference: reference.to_string(), why };
        let value = read(reference).map_err(failed)?;
        if value.contains('\0') {
            return Err(failed("it has a NUL character".to_owned()));
        }
        out.insert(name.clone(), Secret::new(value));
    }
    Ok(out)
}

fn read(reference: &SecretRef) -> std::result::Result<String, String> {
    match reference {
        SecretRef::Env(name) => match std::env::var(name) {
            Ok(value) => Ok(value),
            Err(std::env::VarError::NotPresent) => Err(format!("the environment variable {name} is not set")),
            Err(std::env::VarError::NotUnicode(_)) => Err("it is not UTF-8".to_owned()),
        },
        SecretRef::File(path) => text(std::fs::read(path).map_err(|error| error.to_string())?),
        SecretRef::Command(command) => run(command, SECRET_COMMAND),
    }
}

/// Runs a command as a process group of its own and takes what it prints. What it leaves behind may hold its output open:
/// it is over when the command itself has ended.
fn run(command: &str, limit: Duration) -> std::result::Result<String, String> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null()) // it may say the secret
        .process_group(0)
        .spawn()
        .map_err(|error| format!("sh cannot be run: {error}"))?;
    let taken = take(&mut child, limit);
    if taken.is_err() {
        if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }
    text(taken?)
}

fn take(child: &mut Child, limit: Duration) -> std::result::Result<Vec<u8>, String> {
    let mut pipe = child.stdout.take().ok_or("its output is lost")?;
    let flags = rustix::fs::fcntl_getfl(&pipe).map_err(|error| error.to_string())?;
    rustix::fs::fcntl_setfl(&pipe, flags | OFlags::NONBLOCK).map_err(|error| error.to_string())?;
    let started = Instant::now();
    let mut bytes = Vec::new();
    loop {
        // Looked at before the pipe, so that nothing which it printed is left there.
        let ended = child.try_wait().map_err(|error| error.to_string())?;
        drain(&mut pipe, &mut bytes)?;
        match ended {
            Some(status) if status.success() => return Ok(bytes),
            Some(status) => return Err(format!("its command failed ({status})")),
            None if started.elapsed() > limit => {
                return Err(format!("its command took longer than {} s", limit.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Reads what is in a pipe, without waiting for more.
fn drain(pipe: &mut ChildStdout, bytes: &mut Vec<u8>) -> std::result::Result<(), String> {
    let mut buffer = [0; 8192];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
        if bytes.len() > SECRET_LIMIT {
            return Err(format!("its command prints more than {SECRET_LIMIT} bytes"));
        }
    }
}

fn text(bytes: Vec<u8>) -> std::result::Result<String, String> {
    let mut text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        let place = |path: &str| (path == "/m").then(|| "/slot/m".to_owned());
        assert_eq!(
            fill("0.0.0.0:{port} {mount:/m} {\"a\": {}}", 80, &place).unwrap(),
            "0.0.0.0:80 /slot/m {\"a\": {}}"
        );
        assert!(fill("{mount:/other}", 80, &place).unwrap_err().contains("/other"));
    }

    #[test]
    fn a_failing_secret_is_named_and_not_shown() {
        assert_eq!(read(&SecretRef::Command("printf 'a\\n\\n'".into())).unwrap(), "a\n");
        let why = read(&SecretRef::Command("echo hunter2; exit 3".into())).unwrap_err();
        assert!(why.contains("exit status: 3") && !why.contains("hunter2"), "{why}");
        assert!(read(&SecretRef::Env("SEALIFT_TEST_UNSET".into())).unwrap_err().contains("SEALIFT_TEST_UNSET"));
    }

    #[test]
    fn what_a_command_leaves_behind_does_not_hold_its_secret_back() {
        let started = Instant::now();
        assert_eq!(read(&SecretRef::Command("sleep 61 & echo hunter2".into())).unwrap(), "hunter2");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_command_without_an_end_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        // In a subshell, so that the command has a grandchild that holds its output.
        let command = format!("(sleep 62 & echo $! > {}; wait); true", pid.display());
        let why = run(&command, Duration::from_secs(1)).unwrap_err();
        assert!(why.contains("longer than 1 s"), "{why}");
        let pid: String = std::fs::read_to_string(&pid).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            stat.contains("(sleep)") && !stat.contains(") Z ")
        };
        while runs() {
            assert!(Instant::now() < deadline, "the grandchild still runs");
            std::thread::yield_now();
        }
        let why = run("cat /dev/zero", Duration::from_secs(20)).unwrap_err();
        assert!(why.contains("prints more than"), "{why}");
    }
}
