//! The programs that are compared, each as its manual says it is used, with nothing of the person who measures.

use crate::{
    bench::stopwatch::Stopwatch,
    shell::{Outcome, capture, find_program, is_executable},
    testbed::{Part, Provided},
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Where the programs are, and what measures them.
pub(super) struct Tools {
    pub(super) sealift: PathBuf,
    /// The example of the crate `image`: a push and nothing else, as a release does it.
    pub(super) push: PathBuf,
    pub(super) docker: PathBuf,
    pub(super) crane: PathBuf,
    pub(super) skopeo: PathBuf,
    pub(super) nix: PathBuf,
    pub(super) stopwatch: Stopwatch,
    home: PathBuf,
}

impl Tools {
    pub(super) fn find(folder: &Path, provided: &[Provided], stopwatch: Stopwatch, scratch: &Path) -> Outcome<Self> {
        let program = |part: Part| {
            let found = provided.iter().find(|one| one.part == part).map(|one| one.program.clone());
            found.ok_or_else(|| format!("{} was not provided", part.name()))
        };
        let ours = |name: &str| {
            let path = folder.join(name);
            if is_executable(&path) { Ok(path) } else { Err(format!("{} is no program", path.display())) }
        };
        let home = scratch.join("home");
        std::fs::create_dir_all(&home).map_err(|cause| format!("{}: {cause}", home.display()))?;
        // Debian's, as the engine: one of another release may be first on the path.
        let docker = Path::new("/usr/bin/docker").to_path_buf();
        Ok(Self {
            sealift: ours("sealift")?,
            push: ours("examples/push")?,
            docker: Some(docker)
                .filter(|path| is_executable(path))
                .or_else(|| find_program("docker"))
                .ok_or("no docker")?,
            crane: program(Part::Crane)?,
            skopeo: program(Part::Skopeo)?,
            nix: program(Part::Nix)?,
            stopwatch,
            home,
        })
    }

    /// `program` in `folder`.
    pub(super) fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &self.home).env("XDG_CONFIG_HOME", self.home.join("config")).env("LANG", "C.UTF-8");
        command.env("TMPDIR", std::env::temp_dir());
        command
    }

    pub(super) fn sealift(&self, folder: &Path, words: &[&str]) -> Command {
        let mut command = self.command(&self.sealift, folder);
        command.args(words);
        command
    }

    /// The docker CLI with BuildKit, which is its default since release 23.
    pub(super) fn docker(&self, engine: &str, folder: &Path, words: &[&str]) -> Command {
        let mut command = self.command(&self.docker, folder);
        command.env("DOCKER_BUILDKIT", "1").args(["-H", engine]).args(words);
        command
    }

    /// A push of a layout to `repository:tag`, over plain HTTP.
    pub(super) fn push(&self, layout: &Path, repository: &str, tag: &str) -> Command {
        let mut command = self.command(&self.push, layout);
        command.arg(layout).args([repository, tag]);
        command
    }

    /// Everything that an engine keeps of images and builds goes.
    pub(super) fn empty(&self, engine: &str) -> Outcome {
        let folder = self.home.clone();
        let run = |words: &[&str]| capture(&mut self.docker(engine, &folder, words)).map(drop);
        run(&["system", "prune", "--all", "--force"])?;
        run(&["builder", "prune", "--all", "--force"])
    }
}
