//! What these tests need beside the harness: refusals taken apart, a store over the network, things that go wrong on
//! purpose, and the real programs of the testbed.
//!
//! Nothing here is shared between tests, and everything that is started or mounted goes with its value.
#![allow(dead_code, reason = "each test program uses its part of this module")]

pub(crate) mod data;
pub(crate) mod engine;
pub(crate) mod network;
pub(crate) mod objects;
pub(crate) mod registry;

use e2e::Run;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// An error as a person reads it: what happened to what, why, and the command to run next.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// What happened to what.
    pub(crate) what: String,
    /// Why, one cause a line.
    pub(crate) why: String,
    /// The next command.
    pub(crate) next: String,
    /// Everything that was written, and how it ended.
    text: String,
    /// Only what was written.
    written: String,
}

impl Refusal {
    /// What happened and why name all of these.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            let said = self.what.contains(word) || self.why.contains(word);
            assert!(said, "the error does not say {word:?}:\n{}", self.text);
        }
        self
    }

    /// The next command contains this.
    #[track_caller]
    pub(crate) fn then(self, next: &str) -> Self {
        assert!(self.next.contains(next), "the next command is not {next:?}:\n{}", self.text);
        self
    }

    /// Nothing that was written contains this.
    #[track_caller]
    pub(crate) fn never_says(self, word: &str) -> Self {
        assert!(!self.written.contains(word), "the error says {word:?}:\n{}", self.text);
        self
    }
}

/// Takes a run apart that ended with `code` and told why. An error without a next command fails the test.
#[track_caller]
pub(crate) fn refused(run: &Run, code: i32) -> Refusal {
    let (text, written) = (run.told(), format!("{}{}", run.stdout, run.stderr));
    assert_eq!(run.code, Some(code), "{text}");
    assert!(!run.stderr.contains("panicked"), "{text}");
    let mut refusal = Refusal { what: String::new(), why: String::new(), next: String::new(), text, written };
    let mut part = None;
    for line in run.stderr.lines() {
        let (begins, rest) = [("error: ", 0), ("  why: ", 1), ("  next: ", 2)]
            .iter()
            .find_map(|(mark, index)| Some((Some(*index), line.strip_prefix(mark)?)))
            .unwrap_or((None, line));
        part = begins.or(part);
        let into = match part {
            Some(0) => &mut refusal.what,
            Some(1) => &mut refusal.why,
            Some(_) => &mut refusal.next,
            None => continue,
        };
        if !into.is_empty() {
            into.push('\n');
        }
        into.push_str(rest);
    }
    assert!(!refusal.what.is_empty(), "nothing says what happened:\n{}", refusal.text);
    assert!(!refusal.next.is_empty(), "nothing says what to run next:\n{}", refusal.text);
    refusal
}

/// The value of a testbed variable. Unset is a failure where everything must be run (`CI=true`), and is said elsewhere.
pub(crate) fn testbed(variable: &str) -> Option<String> {
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => Some(value),
        _ => {
            must_run(&format!("{variable} is not set (cargo xtask testbed -- cargo test -p e2e)"));
            None
        }
    }
}

/// Says that a test cannot run here, and fails it where everything must be run.
pub(crate) fn must_run(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "not run: {why}");
    println!("not run: {why}");
}

/// Whether this is root. Where it is not, says so, or fails where everything must be run.
pub(crate) fn root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        must_run(&format!("{what} needs root"));
    }
    root
}

/// Runs a program to its end; its standard output. A failure carries everything it said.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let (ok, text) = outcome(command);
    assert!(ok, "{command:?} failed:\n{text}");
    text
}

/// Runs a program to its end; whether it succeeded, and all that it said.
#[track_caller]
pub(crate) fn outcome(command: &mut Command) -> (bool, String) {
    let output = command.stdin(std::process::Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), said.concat())
}

/// A small file system of its own; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Tmpfs {
    /// Where it is.
    pub(crate) path: PathBuf,
}

impl Tmpfs {
    /// Mounts `size` (as `mount` writes it) at `path`, which is made.
    pub(crate) fn mount(path: &Path, options: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", options, "sealift-test"]).arg(path));
        Self { path: path.to_owned() }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, because a process that a failed test left may still have its folder here.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

/// Every file below a folder with its bytes, by path relative to it: to show that nothing was changed.
pub(crate) fn tree(folder: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut files = std::collections::BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).into_iter().flatten() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let name = entry.path().strip_prefix(folder).unwrap().to_owned();
                files.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}
