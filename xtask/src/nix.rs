//! The check of `flake.nix` on a machine that cannot reach nixpkgs.
//!
//! Nix runs with a store, a state and a home of its own in a temporary folder, and with the double of nixpkgs under
//! `tests/nix/stub`. Proven: the lock file fits the inputs; every output evaluates for every system; the source filter
//! keeps each member of the workspace; the package, the image and the checks build a small workspace by the flake's own
//! phases, bit for bit the same twice. **Not** proven: how nixpkgs itself behaves, and the build of Sealift under Nix.

use crate::shell::{Outcome, capture, show};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const CONFIGURATION: &str = "\
experimental-features = nix-command flakes
sandbox = false
substituters =
build-users-group =
flake-registry =
";

/// Nix in a folder of its own, over a copy of the work tree.
struct Nix<'a> {
    program: &'a Path,
    home: PathBuf,
    tree: PathBuf,
    path: String,
}

/// Checks the flake with the program `nix`.
pub(crate) fn check(program: &Path) -> Outcome {
    let folder = tempfile::Builder::new().prefix("sealift-nix-").tempdir();
    let folder = folder.map_err(|cause| format!("no temporary folder for Nix: {cause}"))?;
    let nix = Nix::new(program, folder.path())?;
    let outcome = nix.run_checks();
    // Store paths are read-only, and a folder that cannot be written cannot be emptied.
    let writable = capture(Command::new("chmod").args(["-R", "u+w"]).arg(folder.path()));
    outcome.and(writable.map(drop))
}

impl<'a> Nix<'a> {
    fn new(program: &'a Path, folder: &Path) -> Outcome<Self> {
        let home = folder.join("home");
        let tree = folder.join("tree");
        let named = |cause: std::io::Error| format!("{}: {cause}", folder.display());
        fs::create_dir_all(home.join("conf")).map_err(named)?;
        fs::create_dir_all(home.join("tmp")).map_err(named)?;
        fs::write(home.join("conf/nix.conf"), CONFIGURATION).map_err(named)?;
        copy_work_tree(&tree)?;
        // The toolchain's own folder first: the proxies of rustup need a home that a build does not have.
        let toolchain = capture(Command::new("rustc").args(["--print", "sysroot"]))?;
        let path = format!("{}/bin:/usr/local/bin:/usr/bin:/bin", toolchain.trim());
        Ok(Self { program, home, tree, path })
    }

    fn run_checks(&self) -> Outcome {
        let metadata = self.run(&["flake", "metadata", "--json", "--no-update-lock-file"], &[])?;
        let metadata: serde_json::Value =
            serde_json::from_str(&metadata).map_err(|cause| format!("nix flake metadata: {cause}"))?;
        let inputs = metadata["locks"]["nodes"]["root"]["inputs"].as_object().map(|inputs| inputs.len());
        if inputs != Some(1) {
            return Err(format!("flake.lock should have the one input nixpkgs and has {inputs:?}"));
        }
        println!("flake.lock fits flake.nix");

        self.run_with_double(&["flake", "check"], &[])?;
        println!("every output evaluates and every check builds (over the double of nixpkgs, a small workspace)");

        let outputs = ["default", "image"].map(|name| format!("path:{}#{name}", self.tree.display()));
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let built = self.run_with_double(&["build", "--no-link", "--json"], &outputs)?;
        self.run_with_double(&["build", "--no-link", "--rebuild"], &outputs)?;
        println!("the package and the image are the same bit for bit when built again");

        let built: serde_json::Value = serde_json::from_str(&built).map_err(|cause| format!("nix build: {cause}"))?;
        let output = |at: usize| built[at]["outputs"]["out"].as_str().unwrap_or_default().to_owned();
        let said = capture(&mut Command::new(format!("{}/bin/sealift", output(0))))?;
        let archive = self.home.join("image.tar");
        let file = fs::File::create(&archive).map_err(|cause| format!("{}: {cause}", archive.display()))?;
        let streamed = Command::new(output(1)).stdout(file).status();
        streamed.map_err(|cause| format!("{}: {cause}", output(1)))?;
        let listed = capture(Command::new("tar").arg("-tf").arg(&archive))?;
        if !listed.lines().any(|line| line == "manifest.json") {
            return Err(format!("the image's archive has no manifest.json, only:\n{listed}"));
        }
        println!("the package runs ({}) and the image is an archive with a manifest", said.trim());
        println!("not proven here: nixpkgs itself, and the build of the whole workspace under Nix");
        Ok(())
    }

    /// `nix ARGS`, on the copy of the work tree unless installables are named.
    fn run(&self, args: &[&str], installables: &[&str]) -> Outcome<String> {
        let mut command = Command::new(self.program);
        command.args(args).env_clear().env("PATH", &self.path).env("NIX_REMOTE", "local");
        for (name, folder) in [
            ("NIX_STORE_DIR", "store"),
            ("NIX_STATE_DIR", "state"),
            ("NIX_LOG_DIR", "log"),
            ("NIX_CONF_DIR", "conf"),
            ("HOME", ""),
            ("XDG_CACHE_HOME", "cache"),
            ("TMPDIR", "tmp"),
        ] {
            command.env(name, self.home.join(folder));
        }
        command.env("SEALIFT_STUB_PATH", &self.path).env("SEALIFT_STUB_SOURCE", self.tree.join("tests/nix/tiny"));
        if installables.is_empty() {
            command.arg(format!("path:{}", self.tree.display()));
        } else {
            command.args(installables);
        }
        println!("{}", show(&command));
        capture(command.current_dir(&self.home))
    }

    fn run_with_double(&self, args: &[&str], installables: &[&str]) -> Outcome<String> {
        let double = format!("path:{}", self.tree.join("tests/nix/stub").display());
        let mut all = args.to_vec();
        all.extend(["--impure", "--no-write-lock-file", "--override-input", "nixpkgs", &double, "--print-build-logs"]);
        self.run(&all, installables)
    }
}

/// What git would take into a commit now; neither its own folder nor build results.
fn copy_work_tree(to: &Path) -> Outcome {
    let listed = capture(Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (Path::new(name), to.join(name));
        // Listed and yet gone: removed in the work tree.
        if from.symlink_metadata().is_err() {
            continue;
        }
        let folder = to.parent().unwrap_or(&to);
        fs::create_dir_all(folder).map_err(|cause| format!("{}: {cause}", folder.display()))?;
        fs::copy(from, &to).map_err(|cause| format!("{name}: {cause}"))?;
    }
    Ok(())
}
