//! The example as a repository of its own, and the edits that the story makes in it.

use super::stage::Stage;
use crate::shell::{Outcome, workspace_root};
use std::{fs, net::TcpListener, path::Path};

/// The example in the workspace.
pub(super) const EXAMPLE: &str = "deploy/examples/wine";
/// What the example's own `.gitignore` leaves out, and the configurations, one of which is put in by hand.
const NOT_COPIED: [&str; 8] =
    ["target", "dist", "data", "model", "reports", ".sealift", "Sealift.toml", "Sealift.docker.toml"];

/// How environments are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Builder `docker`, target `docker`.
    Docker,
    /// Builder `oci`, target `process`.
    Process,
}

impl Target {
    /// As it is written.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Process => "process",
        }
    }

    /// The example's configuration for it.
    fn configuration(self) -> &'static str {
        match self {
            Self::Docker => "Sealift.docker.toml",
            Self::Process => "Sealift.toml",
        }
    }
}

/// Free loopback ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// Of staging.
    pub(super) staging: u16,
    /// Of production.
    pub(super) production: u16,
    /// Of the restored release.
    pub(super) restored: u16,
}

impl Ports {
    /// Three that are free now. All are held until all are known, so that they differ.
    pub(super) fn free() -> Outcome<Self> {
        let named = |cause: std::io::Error| format!("there is no free loopback port: {cause}");
        let hold = || TcpListener::bind(("127.0.0.1", 0)).map_err(named);
        let (staging, production, restored) = (hold()?, hold()?, hold()?);
        let port = |held: &TcpListener| held.local_addr().map(|address| address.port()).map_err(named);
        Ok(Self { staging: port(&staging)?, production: port(&production)?, restored: port(&restored)? })
    }
}

/// Copies the example to `to` with the configuration for `target`, adapted to the demo; returns the changes made in it.
pub(super) fn copy(to: &Path, target: Target, project: &str, ports: Ports) -> Outcome<Vec<(String, String)>> {
    let example = workspace_root().join(EXAMPLE);
    copy_folder(&example, to, &NOT_COPIED)?;
    let from = example.join(target.configuration());
    let text = fs::read_to_string(&from).map_err(|cause| format!("{}: {cause}", from.display()))?;
    let (text, changes) = adapt(&text, target, project, ports)?;
    let file = to.join("Sealift.toml");
    fs::write(&file, text).map_err(|cause| format!("{}: {cause}", file.display()))?;
    Ok(changes)
}

/// The configuration with the demo's ports, and with everything that must outlive the repository outside of it.
fn adapt(text: &str, target: Target, project: &str, ports: Ports) -> Outcome<(String, Vec<(String, String)>)> {
    let line = |old: &str, new: String| (old.to_owned(), new);
    let mut changes = vec![line("path = \".sealift/store\"", "path = \"../store\"".to_owned())];
    match target {
        Target::Process => {
            changes.push(line("root = \".sealift/run\"", "root = \"../run\"".to_owned()));
            if std::env::consts::ARCH == "aarch64" {
                changes.push(line("platform = \"linux/amd64\"", "platform = \"linux/arm64\"".to_owned()));
            }
        }
        Target::Docker => {
            changes.push(line("name = \"wine\"", format!("name = \"{project}\"")));
            changes.push(line(
                "builder = \"docker\"",
                format!("builder = \"docker\"\nlabels = {{ demo = \"{project}\" }}"),
            ));
        }
    }
    changes.push(line("component.wine.port = 18080", format!("component.wine.port = {}", ports.staging)));
    changes.push(line("component.wine.port = 18081", format!("component.wine.port = {}", ports.production)));
    let mut adapted = text.to_owned();
    for (old, new) in &changes {
        let mut found = false;
        let lines: Vec<&str> = adapted
            .lines()
            .map(|line| {
                if line == old {
                    found = true;
                    new
                } else {
                    line
                }
            })
            .collect();
        if !found {
            return Err(format!("{EXAMPLE}/{} has no line `{old}`", target.configuration()));
        }
        adapted = lines.join("\n") + "\n";
    }
    Ok((adapted, changes))
}

fn copy_folder(from: &Path, to: &Path, leave_out: &[&str]) -> Outcome {
    let named = |cause: std::io::Error| format!("copying {} to {}: {cause}", from.display(), to.display());
    fs::create_dir_all(to).map_err(named)?;
    for entry in fs::read_dir(from).map_err(named)? {
        let entry = entry.map_err(named)?;
        let (path, name) = (entry.path(), entry.file_name());
        if leave_out.iter().any(|left_out| name == *left_out) {
            continue;
        }
        if path.is_dir() {
            copy_folder(&path, &to.join(name), &[])?;
        } else {
            fs::copy(&path, to.join(name)).map_err(named)?;
        }
    }
    Ok(())
}

/// Raises the version in the files that bear it; the lock file follows at the next build.
pub(super) fn raise(stage: &Stage, repository: &Path, from: &str, to: &str) -> Outcome {
    edit(stage, repository, "wine/Cargo.toml", &format!("version = \"{from}\""), &format!("version = \"{to}\""))?;
    let label = |version: &str| format!("LABEL org.opencontainers.image.version=\"{version}\"");
    edit(stage, repository, "Dockerfile", &label(from), &label(to))
}

/// The edit that breaks the service without anything noticing but an evaluation.
pub(super) fn simplify(stage: &Stage, repository: &Path) -> Outcome {
    let old = "let values: Vec<f64> = model.feature_names().map(|name| given[name]).collect();";
    let new = "let values: Vec<f64> = given.values().copied().collect();";
    edit(stage, repository, "wine/src/predict.rs", old, new)
}

/// Replaces the one place of `old` in a file, and shows it.
fn edit(stage: &Stage, repository: &Path, file: &str, old: &str, new: &str) -> Outcome {
    let path = repository.join(file);
    let named = |cause: std::io::Error| format!("{}: {cause}", path.display());
    let text = fs::read_to_string(&path).map_err(named)?;
    // A test in the same file may speak of the line; only the line itself counts.
    let places = text.lines().filter(|line| line.trim() == old).count();
    if places != 1 {
        return Err(format!("{file} has {places} lines `{old}`, and the demo edits the only one"));
    }
    fs::write(&path, text.replacen(old, new, 1)).map_err(named)?;
    stage.changed(file, old, new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_has_every_line_that_the_demo_changes() {
        let ports = Ports { staging: 1, production: 2, restored: 3 };
        for target in [Target::Process, Target::Docker] {
            let folder = tempfile::tempdir().unwrap();
            let changes = copy(folder.path(), target, "wine-1234", ports).unwrap();
            let text = fs::read_to_string(folder.path().join("Sealift.toml")).unwrap();
            for (old, new) in &changes {
                assert!(text.contains(new.as_str()), "{new}");
                let stays = new.lines().any(|line| line == old);
                assert_eq!(text.lines().any(|line| line == old), stays, "{old}");
            }
            assert!(!folder.path().join("Sealift.docker.toml").exists());
            let stage = Stage::open(folder.path(), Vec::new()).unwrap();
            raise(&stage, folder.path(), "1.0.0", "1.1.0").unwrap();
            simplify(&stage, folder.path()).unwrap();
            assert!(simplify(&stage, folder.path()).unwrap_err().contains("has 0 lines"));
        }
    }
}
