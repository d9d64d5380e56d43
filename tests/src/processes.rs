//! Everything that runs because of a project, found by the marks in its environment, and ended by pid.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

/// The variable that every process started for a project inherits; its value is the project's folder.
pub const MARK: &str = "SEALIFT_E2E";
/// The variable that the process target gives to workloads, whose environment is otherwise their own.
const SLOT_MARK: &str = "SEALIFT_SLOT_DIR";
/// And the folder of all slots as it is configured, which may be a symlink to elsewhere.
const ROOT_MARK: &str = "SEALIFT_ROOT";
const PATIENCE: Duration = Duration::from_secs(20);

/// Pids of all live processes that belong to the project in `folder`, this program excepted.
pub fn of(folder: &Path) -> Vec<i32> {
    pinned(folder).into_iter().map(|(pid, _)| pid).collect()
}

/// Ends all of them and waits until they are gone; says which would not go.
pub fn stop_all(folder: &Path) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = pinned(folder);
        if found.is_empty() {
            return Ok(());
        }
        for (_, descriptor) in &found {
            // One that ended meanwhile is no failure.
            let _ = pidfd_send_signal(descriptor, Signal::KILL);
        }
        if Instant::now() > deadline {
            return Err(format!(
                "these processes could not be ended: {:?}",
                found.iter().map(|(pid, _)| pid).collect::<Vec<_>>()
            ));
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn pinned(folder: &Path) -> Vec<(i32, OwnedFd)> {
    let own = std::process::id().cast_signed();
    let folder = folder.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        let Some(descriptor) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            continue;
        };
        // Read after the pid is pinned: what is seen here is what a signal would reach. A zombie's is empty.
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|variable| belongs(&String::from_utf8_lossy(variable), &folder)) {
            found.push((pid, descriptor));
        }
    }
    found
}

fn belongs(variable: &str, folder: &str) -> bool {
    variable.split_once('=').is_some_and(|(name, value)| {
        (name == MARK || name == SLOT_MARK || name == ROOT_MARK)
            && value.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}
