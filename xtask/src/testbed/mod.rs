//! `cargo xtask testbed`: the real programs that the tests are run against.
//!
//! A *part* is one of them. It is provided once (Debian package, Go module, crate or Python package, at a
//! pinned version, kept in the user's cache folder), and, if it is a server, started afresh for each run
//! on a free loopback port with its own temporary folders. Nothing here replaces a part by a
//! double, reuses a server that was already running, or leaves one behind: a [`Testbed`] that is
//! dropped stops what it started, by process id.

mod http;
mod judges;
mod peers;
mod prove;
mod provide;
mod servers;

pub(crate) use provide::{Provided, provide};
pub(crate) use servers::{Testbed, guarded};

use crate::shell::Outcome;
use std::{path::Path, process::ExitCode};

/// One program that tests need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// A private Docker Engine, the oldest that Sealift supports.
    Docker,
    /// Another, the newest, which keeps images as containerd does.
    DockerNewest,
    /// An OCI registry without authentication.
    Registry,
    /// An S3 server that is not ours.
    Minio,
    /// Another: objects in volumes, behind a filer.
    Seaweedfs,
    /// Another: objects as the files of a folder.
    Versity,
    /// The verifier of Sigstore bundles.
    Cosign,
    /// The reader of image archives and registries.
    Skopeo,
    /// Another, of those who wrote the library that most others are made with.
    Crane,
    /// The maker of software bills of materials.
    Syft,
    /// The finder of secrets.
    Gitleaks,
    /// The scanner of Python packages.
    PipAudit,
    /// The scanner of Cargo lock files.
    CargoAudit,
    /// The S3 client that operators have.
    Awscli,
    /// The S3 client that is known for its speed.
    S5cmd,
    /// The copier between all kinds of stores.
    Rclone,
    /// The backup program whose repositories are packs, as ours are.
    Restic,
    /// The keeper of data sets beside git, and a Python with boto3.
    Dvc,
    /// Licences, bans and sources of our dependencies.
    CargoDeny,
    /// The evaluator of `flake.nix`.
    Nix,
}

impl Part {
    /// Every part, servers first.
    pub(crate) const ALL: [Self; 20] = [
        Self::Docker,
        Self::DockerNewest,
        Self::Registry,
        Self::Minio,
        Self::Seaweedfs,
        Self::Versity,
        Self::Cosign,
        Self::Skopeo,
        Self::Crane,
        Self::Syft,
        Self::Gitleaks,
        Self::PipAudit,
        Self::CargoAudit,
        Self::Awscli,
        Self::S5cmd,
        Self::Rclone,
        Self::Restic,
        Self::Dvc,
        Self::CargoDeny,
        Self::Nix,
    ];
    /// What the workspace's tests ask for by `SEALIFT_TEST_*`.
    pub(crate) const FOR_TESTS: [Self; 19] = [
        Self::Docker,
        Self::DockerNewest,
        Self::Registry,
        Self::Minio,
        Self::Seaweedfs,
        Self::Versity,
        Self::Cosign,
        Self::Skopeo,
        Self::Crane,
        Self::Syft,
        Self::Gitleaks,
        Self::PipAudit,
        Self::CargoAudit,
        Self::Awscli,
        Self::S5cmd,
        Self::Rclone,
        Self::Restic,
        Self::Dvc,
        Self::Nix,
    ];
    /// The S3 servers.
    pub(crate) const BUCKETS: [Self; 3] = [Self::Minio, Self::Versity, Self::Seaweedfs];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::DockerNewest => "docker-newest",
            Self::Registry => "registry",
            Self::Minio => "minio",
            Self::Seaweedfs => "seaweedfs",
            Self::Versity => "versity",
            Self::Cosign => "cosign",
            Self::Skopeo => "skopeo",
            Self::Crane => "crane",
            Self::Syft => "syft",
            Self::Gitleaks => "gitleaks",
            Self::PipAudit => "pip-audit",
            Self::CargoAudit => "cargo-audit",
            Self::Awscli => "awscli",
            Self::S5cmd => "s5cmd",
            Self::Rclone => "rclone",
            Self::Restic => "restic",
            Self::Dvc => "dvc",
            Self::CargoDeny => "cargo-deny",
            Self::Nix => "nix",
        }
    }

    fn parse(name: &str) -> Outcome<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|part| part.name()).collect();
            format!("no part is called '{name}'; there are {}", known.join(", "))
        })
    }
}

/// The task: without a command it provides, starts, proves and stops; with one it runs it among the servers.
pub(crate) fn run(args: &[String]) -> Outcome<ExitCode> {
    let (names, command) = match args.iter().position(|word| word == "--") {
        Some(at) => (&args[..at], Some(&args[at + 1..])),
        None => (args, None),
    };
    let (names, must_run) = match names.split_first() {
        Some((first, rest)) if first == "run" => (rest, true),
        _ => (names, false),
    };
    let named = names.iter().map(|name| Part::parse(name)).collect::<Outcome<Vec<_>>>()?;
    match command {
        Some([]) => Err("nothing follows '--'; say: cargo xtask testbed -- CMD…".to_owned()),
        None if must_run => Err("'testbed run' needs a command; say: cargo xtask testbed run -- CMD…".to_owned()),
        Some([program, rest @ ..]) => {
            let parts = if named.is_empty() { Part::FOR_TESTS.to_vec() } else { named };
            let testbed = Testbed::start(&provide_all(&parts)?)?;
            let status = servers::guarded(Path::new(program))
                .args(rest)
                .envs(testbed.environment())
                .status()
                .map_err(|cause| format!("{program} did not start: {cause}"))?;
            drop(testbed);
            Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
        }
        None => {
            let parts = if named.is_empty() { Part::ALL.to_vec() } else { named };
            let provided = provide_all(&parts)?;
            let testbed = Testbed::start(&provided)?;
            prove::table(&provided, &testbed)
        }
    }
}

/// Provides every part or says of each one why not.
fn provide_all(parts: &[Part]) -> Outcome<Vec<Provided>> {
    let mut ready = Vec::new();
    let mut problems = Vec::new();
    for (part, outcome) in provide(parts) {
        match outcome {
            Ok(provided) => ready.push(provided),
            Err(problem) => problems.push(format!("{}: {problem}", part.name())),
        }
    }
    if problems.is_empty() { Ok(ready) } else { Err(problems.join("\n")) }
}
