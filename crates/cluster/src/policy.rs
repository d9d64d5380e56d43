//! The container policy, as it is found on the running thing.

use domain::workload::{Relaxation, Workload};
use serde::Serialize;
use std::fmt;

/// One demand of the container policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// It does not run as root.
    User,
    /// It cannot write its root file system.
    ReadonlyRoot,
    /// No volume that its image asks for gives it a disk to write to.
    Volumes,
    /// It has no capabilities.
    Capabilities,
    /// It cannot gain privileges through setuid programs.
    NoNewPrivileges,
    /// The default system call filter is on.
    Seccomp,
    /// Its memory is limited.
    Memory,
    /// The number of its processes and threads is limited.
    Pids,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::User => "a user other than root",
            Self::ReadonlyRoot => "a read-only root file system",
            Self::Volumes => "no volume to write to",
            Self::Capabilities => "no capabilities",
            Self::NoNewPrivileges => "no new privileges",
            Self::Seccomp => "the default seccomp filter",
            Self::Memory => "a memory limit",
            Self::Pids => "a limit of processes",
        })
    }
}

/// Under which policy a workload really runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// The user, as the target names it.
    pub user: String,
    /// Whether that is root.
    pub root: bool,
    /// Whether its root file system cannot be written by it.
    pub readonly_root: bool,
    /// Where it can write to a disk all the same: volumes that its image asks for (`VOLUME`).
    pub volumes: Vec<String>,
    /// Capabilities that it has; `default` stands for the engine's default set.
    pub capabilities: Vec<String>,
    /// Whether setuid programs cannot raise its privileges.
    pub no_new_privileges: bool,
    /// Whether a system call filter is on.
    pub seccomp: bool,
    /// Memory limit in bytes.
    pub memory: Option<u64>,
    /// Limit of processes and threads.
    pub pids: Option<u64>,
    /// What this kind of target cannot promise at all; said here so that nobody assumes it.
    pub unenforced: Vec<Part>,
}

impl Policy {
    /// What differs from the policy, is not relaxed by name, and could have been had on this target.
    pub fn deviations(&self, workload: &Workload) -> Vec<String> {
        let relaxed = |relaxation| workload.relax.contains(&relaxation);
        let mut found = Vec::new();
        let mut demand = |part: Part, holds: bool, relaxed: bool, found_instead: String| {
            if !holds && !relaxed && !self.unenforced.contains(&part) {
                found.push(format!("{part} is demanded, found {found_instead}"));
            }
        };
        demand(Part::User, !self.root, relaxed(Relaxation::RunAsRoot), format!("user {}", self.user));
        let writable = relaxed(Relaxation::WritableRoot);
        demand(Part::ReadonlyRoot, self.readonly_root, writable, "a writable one".to_owned());
        // What may write its root may write a volume: both are disk space that nobody gave it by name.
        demand(Part::Volumes, self.volumes.is_empty(), writable, self.volumes.join(" "));
        let capable = relaxed(Relaxation::DefaultCapabilities);
        demand(Part::Capabilities, self.capabilities.is_empty(), capable, self.capabilities.join(" "));
        let privileges = relaxed(Relaxation::NewPrivileges);
        demand(Part::NoNewPrivileges, self.no_new_privileges, privileges, "that they are allowed".to_owned());
        demand(Part::Seccomp, self.seccomp, false, "none".to_owned());
        let limit = |limit: Option<u64>| limit.map_or("none".to_owned(), |limit| limit.to_string());
        let memory = self.memory.is_some_and(|bytes| bytes <= workload.memory);
        demand(Part::Memory, memory, false, limit(self.memory));
        let pids = self.pids.is_some_and(|count| count <= workload.pids);
        demand(Part::Pids, pids, false, limit(self.pids));
        found
    }
}
