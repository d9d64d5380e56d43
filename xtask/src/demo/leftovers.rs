//! What the demo's environments run, found by the marks that it bears, and stopped.
//!
//! Nothing is stopped by its name: a process must carry this demo's folder in its environment, a container this demo's
//! project in its labels.

use super::{
    http::{ask_engine, escaped},
    stage::GLANCE,
};
use crate::shell::Outcome;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// What Sealift sets for every process that it runs: the folder of its slot.
const SLOT: &str = "SEALIFT_SLOT_DIR";
/// And the folder of all slots as it is configured, which is a symlink where workloads cannot enter the demo's folder.
const ROOT: &str = "SEALIFT_ROOT";
/// What the demo sets for every command that it runs: its folder.
pub(super) const MARK: &str = "SEALIFT_DEMO_FOLDER";
/// The label of every container that Sealift runs.
const PROJECT: &str = "sealift.project";
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Stops the processes that belong to the demo in `folder`; says what they were.
pub(super) fn stop_processes(folder: &Path) -> Outcome<Vec<String>> {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mut said = Vec::new();
    for (pid, slot) in marked(&folder) {
        said.push(match slot {
            Some(slot) => format!("process {} in {slot}", pid.as_raw_nonzero()),
            None => format!("process {} of a command", pid.as_raw_nonzero()),
        });
        let _ = kill_process(pid, Signal::TERM);
    }
    let begun = Instant::now();
    let mut killed = false;
    while let Some((pid, _)) = marked(&folder).into_iter().next() {
        if begun.elapsed() > STOP_WITHIN * 2 {
            return Err(format!("process {} does not end", pid.as_raw_nonzero()));
        }
        if begun.elapsed() > STOP_WITHIN && !killed {
            killed = true;
            for (pid, _) in marked(&folder) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        thread::sleep(GLANCE);
    }
    Ok(said)
}

/// Removes the folder outside the demo's to which `run` leads where workloads cannot enter the demo's own.
pub(super) fn remove_refuge(folder: &Path) -> Outcome {
    match fs::read_link(folder.join("run")) {
        Ok(refuge) if refuge.is_dir() => {
            fs::remove_dir_all(&refuge).map_err(|cause| format!("{} cannot be removed: {cause}", refuge.display()))
        }
        _ => Ok(()),
    }
}

/// Live processes with a mark of `folder`, and the slot that each is in.
fn marked(folder: &Path) -> Vec<(Pid, Option<String>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let (Some(pid), Ok(environment)) = (pid, fs::read(entry.path().join("environ"))) else { continue };
        let value = |name: &str| {
            let entries = environment.split(|byte| *byte == 0);
            let mut values = entries.filter_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
            values.next().map(|value| PathBuf::from(String::from_utf8_lossy(value).into_owned()))
        };
        let rooted = value(ROOT).is_some_and(|root| root.starts_with(folder));
        let slot = value(SLOT).and_then(|slot| match slot.strip_prefix(folder) {
            Ok(inside) => Some(inside.display().to_string()),
            Err(_) => rooted.then(|| slot.display().to_string()),
        });
        let ours = slot.is_some() || value(MARK).is_some_and(|marked| marked == folder);
        // What has ended and was not waited for yet is listed, but shows no environment.
        if ours && pid != rustix::process::getpid() {
            found.push((pid, slot));
        }
    }
    found
}

/// Stops and removes the containers of `project` in the engine behind `socket`; says what they were.
pub(super) fn stop_containers(socket: &Path, project: &str) -> Outcome<Vec<String>> {
    let filters = json!({ "label": [format!("{PROJECT}={project}")] }).to_string();
    let (status, body) = ask_engine(socket, "GET", &format!("/containers/json?all=1&filters={}", escaped(&filters)))?;
    let list: Vec<Value> = match (status, serde_json::from_str(&body)) {
        (200, Ok(list)) => list,
        _ => return Err(format!("the engine does not list its containers: {status} {body:.200}")),
    };
    let mut said = Vec::new();
    for container in &list {
        let Some(id) = container["Id"].as_str() else { continue };
        let name = container["Names"][0].as_str().unwrap_or(id).trim_start_matches('/');
        if container["State"] == "running" {
            ask_engine(socket, "POST", &format!("/containers/{id}/stop?t=10"))?;
        }
        let (status, body) = ask_engine(socket, "DELETE", &format!("/containers/{id}?force=1&v=1"))?;
        if !matches!(status, 204 | 404) {
            return Err(format!("the engine does not remove container {name}: {status} {body:.200}"));
        }
        said.push(format!("container {name}"));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_processes_with_the_mark_of_the_folder_are_stopped() {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let start = |name: &str, value: PathBuf| {
            let child = Command::new("sleep").arg("60").env(name, &value).spawn().unwrap();
            // Between its start and its first instruction a program shows no environment.
            let begun = Instant::now();
            while !fs::read_to_string(format!("/proc/{}/environ", child.id())).unwrap().contains(name) {
                assert!(begun.elapsed() < STOP_WITHIN, "the process never shows its environment");
                thread::sleep(GLANCE);
            }
            child
        };
        let mut slot = start(SLOT, ours.path().canonicalize().unwrap().join("run/wine/staging/wine/blue"));
        let mut command = start(MARK, ours.path().canonicalize().unwrap());
        let mut stranger = start(SLOT, other.path().canonicalize().unwrap().join("run/wine/staging/wine/blue"));
        let said = stop_processes(ours.path()).unwrap();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said.iter().any(|line| line.ends_with(" in run/wine/staging/wine/blue")), "{said:?}");
        assert!(!slot.wait().unwrap().success() && !command.wait().unwrap().success());
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
