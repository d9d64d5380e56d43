//! Environment variables of a workload: placeholders filled in, secrets read.
//!
//! A secret's value lives in the returned map and nowhere else: not in errors, not in files.

use crate::{Error, Result};
use domain::{
    secret::{Secret, SecretRef},
    workload::Workload,
};
use std::{
    collections::BTreeMap,
    io::Read,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long the command of a `cmd:` secret may take.
const SECRET_COMMAND: Duration = Duration::from_secs(30);

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
        SecretRef::Command(command) => run(command),
    }
}

fn run(command: &str) -> std::result::Result<String, String> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null()) // it may say the secret
        .spawn()
        .map_err(|error| format!("sh cannot be run: {error}"))?;
    let mut pipe = child.stdout.take().ok_or("its output is lost")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).map(|_| bytes)
    });
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < SECRET_COMMAND => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("its command took longer than {} s", SECRET_COMMAND.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    if !status.success() {
        return Err(format!("its command failed ({status})"));
    }
    text(reader.join().map_err(|_| "its output is lost")?.map_err(|error| error.to_string())?)
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
}
