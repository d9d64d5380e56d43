//! The repository that `status` is measured in: one release, one environment, one process.

use crate::shell::{Outcome, capture, find_program};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{fs, path::Path, process::Command};

const CONFIGURATION: &str = r#"[project]
name = "bench"

[component.sleeper]
version_files = [{ path = "VERSION", pattern = '([0-9.]+)' }]

[component.sleeper.build]
builder = "oci"
files = [{ from = "sleep", to = "/sleep", mode = "0755" }]
entrypoint = ["/sleep", "100000"]
platform = "PLATFORM"

[component.sleeper.run]
port = 8080

[environment.staging]
target = "process"
component.sleeper.port = 18079
"#;

/// The repository; what runs from it stops with it.
pub(super) struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    /// Makes a repository whose service is this machine's `sleep`, releases it and deploys it.
    pub(super) fn prepare(program: &Path) -> Outcome<Self> {
        let folder = tempfile::tempdir().map_err(|cause| format!("no temporary folder: {cause}"))?;
        let scene = Self { folder };
        let root = scene.folder.path();
        let named = |cause: std::io::Error| format!("{}: {cause}", root.display());
        let sleep = find_program("sleep").ok_or("there is no program 'sleep'")?;
        fs::copy(sleep, root.join("sleep")).map_err(named)?;
        let platform = if std::env::consts::ARCH == "aarch64" { "linux/arm64" } else { "linux/amd64" };
        fs::write(root.join("Sealift.toml"), CONFIGURATION.replace("PLATFORM", platform)).map_err(named)?;
        fs::write(root.join("VERSION"), "1.0.0\n").map_err(named)?;
        fs::write(root.join(".gitignore"), "/.sealift/\n/home/\n").map_err(named)?;
        let run = |program: &Path, words: &[&str]| {
            let mut command = Command::new(program);
            command.args(words);
            scene.set(&mut command);
            capture(&mut command).map(drop)
        };
        let git = find_program("git").ok_or("git is not installed")?;
        run(&git, &["init", "--quiet"])?;
        run(program, &["keys", "new", "release"])?;
        run(&git, &["add", "--all"])?;
        let identity =
            ["-c", "user.name=bench", "-c", "user.email=bench@sealift.invalid", "-c", "commit.gpgsign=false"];
        run(&git, &[&identity[..], &["commit", "--quiet", "--message", "feat: sleep"]].concat())?;
        run(program, &["release", "cut"])?;
        run(program, &["deploy", "staging", "sleeper@1.0.0"])?;
        Ok(scene)
    }

    /// Lets `command` work in the repository, with keys of its own.
    pub(super) fn set(&self, command: &mut Command) {
        let root = self.folder.path();
        command.current_dir(root).env("XDG_CONFIG_HOME", root.join("home"));
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let folder = self.folder.path().canonicalize().unwrap_or_else(|_| self.folder.path().to_owned());
        // The root as configured: where workloads cannot enter the folder it is a symlink, and slots lie elsewhere.
        let wanted = format!("SEALIFT_ROOT={}/", folder.display());
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
            else {
                continue;
            };
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(wanted.as_bytes())) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
        }
    }
}
