//! The command line of Sealift, as a library so that `cargo xtask` and the end-to-end tests run the same program.
//!
//! It reads intent and draws what comes of it; it decides nothing. What it does **not** do:
//!
//! - It never changes anything except through `engine`, and names no adapter.
//! - `--version`, `--help` and a wrong command line build no runtime, read no file and open no socket.
//! - No verb chooses an exit code or words for an error: [`exit`] and [`hint`] do, for all of them.
//! - Progress never goes to standard output, and a result never anywhere else. With `--format json` standard output is
//!   one JSON object a line: events, then one `result` or one `error`.
//! - A closed standard output is no failure and no panic.
//!
//! | module | holds |
//! |---|---|
//! | `command_line`, `verbs` | what can be typed; one file a verb |
//! | `shell` | what a verb is given: where, who, events, stop |
//! | [`exit`], [`hint`], `failure` | errors to exit codes, next commands, words |
//! | `draw` | events to progress bars, plain lines or NDJSON |
//! | `text` | results to tables and sentences |
//! | `signals` | SIGINT and SIGTERM to a stop |

mod command_line;
mod draw;
pub mod exit;
mod failure;
pub mod hint;
mod report;
mod shell;
mod signals;
mod text;
mod verbs;

use clap::Parser;
use command_line::{CommandLine, Format};
use exit::Exit;
use report::Printer;
use shell::Shell;
use std::{ffi::OsString, process::ExitCode};
use tokio_util::sync::CancellationToken;

/// Runs one command line, the program's name first, and returns the exit code of `exit`'s table.
pub fn main_with(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let line = match CommandLine::try_parse_from(&args) {
        Ok(line) => line,
        Err(error) => return failure::command_line(&error, command_line::wants_json(&args)).into(),
    };
    run(line).into()
}

/// Runs a verb in a runtime of its own and prints what comes of it.
fn run(line: CommandLine) -> Exit {
    let format = line.global.format;
    let verb = line.verb.name();
    let printer = Printer::new(format);
    let (runtime, prepared) = match prepare(&line) {
        Ok(runtime) => runtime,
        Err(error) => return printer.failure(&error, verb, None),
    };
    let (shell, drawing) = prepared;
    let stop = shell.stop.clone();
    let waits = line.verb.stops_by_itself();
    let (result, signal) = runtime.block_on(signals::guard(stop, waits, line.verb.run(&shell)));
    if signal.is_some() {
        // What the verb was uploading when it was dropped is being aborted; a second signal does not wait for that.
        let (_, _) = runtime.block_on(signals::guard(CancellationToken::new(), false, async {
            engine::settle().await;
            Ok(())
        }));
    }
    // Work on other threads that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    drawing.finish();
    match result {
        Ok(report) => printer.success(&report),
        Err(error) => printer.failure(&error, verb, signal),
    }
}

/// The runtime, and what the verb is given.
fn prepare(line: &CommandLine) -> engine::Result<(tokio::runtime::Runtime, (Shell, draw::Drawing))> {
    // The only TLS provider there is; installing it is a pointer, and a second time is refused without harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = match line.verb.is_quick() {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build().map_err(|source| engine::Error::File {
        action: "start threads in",
        path: "this process".into(),
        source,
    })?;
    let (events, drawing) = draw::choose(line.global.format == Format::Json);
    let shell = Shell::new(&line.global, events, CancellationToken::new())?;
    Ok((runtime, (shell, drawing)))
}
