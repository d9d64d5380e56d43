//! Running processes: who they are, how one is started so that it can be found again, how it is ended.

use rustix::{
    process::{Gid, Pid, PidfdFlags, Resource, Rlimit, Signal, Uid},
    thread::CapabilitySet,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
};

/// A process that is never mistaken for a later one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    start: u64,
    boot: String,
}

/// What `/proc/<pid>/stat` says.
struct Stat {
    state: char,
    group: i32,
    start: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses included: the fields begin after the last one.
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let state = fields.first()?.chars().next()?;
    Some(Stat { state, group: fields.get(2)?.parse().ok()?, start: fields.get(19)?.parse().ok()? })
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Identity {
    /// The process that has this pid now. A zombie has an identity too.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, start: stat(pid)?.start, boot: boot() })
    }

    /// Whether it still runs. A zombie does not.
    pub(super) fn alive(&self) -> bool {
        self.boot == boot()
            && stat(self.pid).is_some_and(|stat| stat.start == self.start && !matches!(stat.state, 'Z' | 'X' | 'x'))
    }

    /// Sends a signal to exactly this process; to one that ended meanwhile it is no error.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        let sent = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            // The descriptor pins the pid: what is alive under it now is what gets the signal.
            Ok(descriptor) if self.alive() => rustix::process::pidfd_send_signal(&descriptor, signal),
            Ok(_) | Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(rustix::io::Errno::NOSYS) if self.alive() => rustix::process::kill_process(pid, signal),
            Err(error) => Err(error),
        };
        match sent {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => other.map_err(io::Error::from),
        }
    }

    /// One `NAME: value` line of `/proc/<pid>/status`.
    pub(super) fn status(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
    }

    /// The soft limit of data memory, in bytes.
    pub(super) fn data_limit(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/limits", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Max data size"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

/// A process that carries the mark of a slot.
pub(super) struct Marked {
    pub(super) identity: Identity,
    /// It leads its process group: the program itself, not one of its children.
    pub(super) leads: bool,
    environment: Vec<u8>,
}

impl Marked {
    /// A variable of its environment.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        let variable = self
            .environment
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        Some(String::from_utf8_lossy(variable).into_owned())
    }
}

/// Name of the variable that marks every process of a slot.
pub(super) const MARK: &str = "SEALIFT_SLOT_DIR";

/// All live processes, ours excepted, that carry the mark of this slot directory.
pub(super) fn marked(slot: &Path) -> Vec<Marked> {
    let wanted = format!("{MARK}={}", slot.display());
    let own = std::process::id().cast_signed();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if !environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            continue;
        }
        let (Some(identity), Some(stat)) = (Identity::of(pid), stat(pid)) else { continue };
        if identity.alive() {
            found.push(Marked { leads: stat.group == pid, identity, environment });
        }
    }
    found
}

/// Whether a process runs from any slot below a directory.
pub(super) fn runs_below(directory: &Path) -> bool {
    let own = std::process::id().to_string();
    let prefix = format!("{MARK}={}/", directory.display());
    fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| *name != own).and_then(|name| name.parse().ok()) else {
            return false;
        };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(prefix.as_bytes()))
            && Identity::of(pid).is_some_and(|identity| identity.alive())
    })
}

/// Everything that a start needs. The environment holds secrets: it has no `Debug`.
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) directory: PathBuf,
    pub(super) output: File,
    pub(super) errors: File,
    pub(super) user: Option<u32>,
    pub(super) new_privileges: bool,
    pub(super) capabilities: bool,
    pub(super) memory: u64,
}

/// Starts a program. `ended` is called, on a thread of its own, if it ends while we live: so no zombie stays.
pub(super) fn launch(launch: Launch, ended: impl FnOnce(&Identity, String) + Send + 'static) -> io::Result<Identity> {
    let (report, answer) = mpsc::channel();
    let name = || std::thread::Builder::new().name("workload".to_owned());
    // The first thread gives up privileges for good; the second keeps ours, to write down how the child ended.
    let starter = name().spawn(move || start(launch, &report))?;
    let identity = answer.recv().map_err(|_| io::Error::other("the starting thread ended early"))??;
    let process = identity.clone();
    name().spawn(move || {
        if let Ok(Some(how)) = starter.join() {
            ended(&process, how);
        }
    })?;
    Ok(identity)
}

/// Starts a child from a thread that has given up what the child must not have, reports it, and waits for its end.
fn start(launch: Launch, report: &mpsc::Sender<io::Result<Identity>>) -> Option<String> {
    let memory = launch.memory;
    let mut child = match give_up(&launch).and_then(|()| command(launch).spawn()) {
        Ok(child) => child,
        Err(error) => {
            let _ = report.send(Err(error));
            return None;
        }
    };
    let pid = child.id().cast_signed();
    limit(pid, memory);
    // Until it is waited for, a child that ended is still listed.
    let reported = match Identity::of(pid) {
        Some(identity) => report.send(Ok(identity)).is_ok(),
        None => {
            let _ = report.send(Err(io::Error::other("/proc does not show the new process")));
            false
        }
    };
    if !reported {
        let _ = child.kill();
    }
    child.wait().ok().map(words)
}

/// What a thread gives up, its children never have; the rest of this process keeps it.
fn give_up(launch: &Launch) -> io::Result<()> {
    if !launch.new_privileges {
        rustix::thread::set_no_new_privs(true)?;
    }
    if !launch.capabilities {
        // Older kernels have no ambient set, and only root may shrink the bounding set; what is left is found by inspection.
        let _ = rustix::thread::clear_ambient_capability_set();
        for bit in 0..u64::BITS {
            let _ = rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit));
        }
    }
    // The thread becomes the user, not only the child: without CAP_SYS_RESOURCE (root in a container) limits can be set for
    // processes of one's own user only.
    if let Some(user) = launch.user {
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_gid(Gid::from_raw(user))?;
        rustix::thread::set_thread_uid(Uid::from_raw(user))?;
    }
    Ok(())
}

fn command(launch: Launch) -> Command {
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .env_clear()
        .envs(&launch.environment)
        .current_dir(&launch.directory)
        .stdin(Stdio::null())
        .stdout(launch.output)
        .stderr(launch.errors)
        .process_group(0);
    command
}

/// Limits are best effort here and read back by inspection.
fn limit(pid: i32, memory: u64) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    let exactly = |value| Rlimit { current: Some(value), maximum: Some(value) };
    let _ = rustix::process::prlimit(Some(pid), Resource::Core, exactly(0));
    let _ = rustix::process::prlimit(Some(pid), Resource::Data, exactly(memory));
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
