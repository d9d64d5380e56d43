//! `cargo xtask`: the tasks of this workspace.
//!
//! One module a task, and a flat match. What is **not** here: no task knows how Sealift works
//! inside (they run programs, as a person would), and none installs anything outside the user's
//! cache folder except Debian packages, which it names before it does.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tasks talk to the person who typed them")]

mod ci;
mod nix;
mod shell;
mod testbed;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  ci                            format, lints, licences, arrows, tests with real servers, Nix; the counts last
  testbed [PART…]               provide, start and prove what the tests need, then stop it again
  testbed [run] [PART…] -- CMD… run a command with the servers up and SEALIFT_TEST_* set
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = match args.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("help", &[][..]),
    };
    let outcome = match task {
        "ci" => ci::run(rest),
        "testbed" => testbed::run(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        other => Err(format!("no task is called '{other}'\n{USAGE}")),
    };
    outcome.unwrap_or_else(|problem| {
        eprintln!("error: {problem}");
        ExitCode::FAILURE
    })
}
