//! `cargo xtask`: the verbs of Sealift, and the tasks of this workspace.
//!
//! One module a task, and a flat match; whatever is no task is typed to `sealift` as it stands. What is **not** here: no
//! task knows how Sealift works inside (they run programs, as a person would), and none installs anything outside the
//! user's cache folder except Debian packages, which it names before it does. Called by the name `sealift`, it is
//! that program and has no tasks.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tasks talk to the person who typed them")]

mod bench;
mod ci;
mod demo;
mod nix;
mod shell;
mod testbed;

use std::{ffi::OsString, path::Path, process::ExitCode};

const USAGE: &str = "\
usage: cargo xtask TASK, or any verb of sealift

  demo [--target docker|process] the whole story in a repository of its own, under target/demo
  bench                          how long a person waits for sealift, beside git
  bench data|image               what data and images cost, beside the tools that others use
  ci                             format, lints, licences, arrows, tests with real servers, Nix; the counts last
  testbed [PART…]                provide, start and prove what the tests need, then stop it again
  testbed [run] [PART…] -- CMD…  run a command with the servers up and SEALIFT_TEST_* set

";

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    if Path::new(&name).file_name().is_some_and(|name| name == "sealift") {
        return sealift(args);
    }
    let words: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let (task, rest) = match words.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("help", &[][..]),
    };
    let outcome = match task {
        "bench" => bench::run(rest),
        "ci" => ci::run(rest),
        "demo" => demo::run(rest),
        "testbed" => testbed::run(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return sealift(vec!["--help".into()]);
        }
        _ => return sealift(args),
    };
    outcome.unwrap_or_else(|problem| {
        eprintln!("error: {problem}");
        ExitCode::FAILURE
    })
}

/// Types `args` to `sealift`.
fn sealift(args: Vec<OsString>) -> ExitCode {
    sealift::main_with(std::iter::once("sealift".into()).chain(args))
}
