//! What every bench beside peers begins with: options that they share, programs of the testbed, a folder to work in.

use crate::{
    shell::Outcome,
    testbed::{Part, Provided, provide},
};
use std::path::{Path, PathBuf};

/// A number above 0.
pub(super) fn rounds(text: &str, usage: &str) -> Outcome<usize> {
    let number = text.parse().ok().filter(|rounds| *rounds > 0);
    number.ok_or_else(|| format!("--rounds needs a number above 0, not '{text}'\n{usage}"))
}

/// `PART,…`, each of them one that there is.
pub(super) fn only(text: &str, parts: &[&str], usage: &str) -> Outcome<Vec<String>> {
    let only: Vec<String> = text.split(',').map(str::to_owned).collect();
    match only.iter().find(|part| !parts.contains(&part.as_str())) {
        Some(wrong) => Err(format!("there is no part '{wrong}'\n{usage}")),
        None => Ok(only),
    }
}

/// A file or folder that is there.
pub(super) fn existing(path: &str) -> Outcome<PathBuf> {
    Path::new(path).canonicalize().map_err(|cause| format!("{path}: {cause}"))
}

/// How the same would be measured again.
pub(super) fn again(bench: &str, rounds: usize, quick: bool, only: &[String]) -> String {
    let mut words = format!("cargo xtask bench {bench} --rounds {rounds}");
    if quick {
        words.push_str(" --quick");
    }
    if !only.is_empty() {
        words = format!("{words} --only {}", only.join(","));
    }
    words
}

/// All of these parts of the testbed.
pub(super) fn provided(parts: &[Part]) -> Outcome<Vec<Provided>> {
    let all = provide(parts).into_iter();
    all.map(|(part, outcome)| outcome.map_err(|problem| format!("{}: {problem}", part.name()))).collect()
}

/// A folder that goes with the bench.
pub(super) fn scratch() -> Outcome<tempfile::TempDir> {
    let made = tempfile::Builder::new().prefix("sealift-bench-").tempdir();
    made.map_err(|cause| format!("no temporary folder: {cause}"))
}
