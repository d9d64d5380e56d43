//! What a verb gives back, and printing it.

use crate::{
    command_line::Format,
    exit::{Exit, Signal},
    failure,
    text::Paint,
};
use engine::Error;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};

/// The result of a verb in both forms, and how the process ends.
#[derive(Debug)]
pub(crate) struct Report {
    /// For `--format json`.
    pub(crate) value: Value,
    /// For people, without a newline at its end.
    pub(crate) text: String,
    /// How the process ends.
    pub(crate) exit: Exit,
}

impl Report {
    /// A success.
    pub(crate) fn new(value: &impl Serialize, text: impl Into<String>) -> Self {
        Self { value: serde_json::to_value(value).unwrap_or(Value::Null), text: text.into(), exit: Exit::Ok }
    }

    /// A result that ends the process in another way.
    pub(crate) fn ending(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

/// Prints results and failures in the form that was asked for.
pub(crate) struct Printer {
    format: Format,
}

impl Printer {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Prints a result on standard output.
    pub(crate) fn success(&self, report: &Report) -> Exit {
        let text = match self.format {
            Format::Text => report.text.clone(),
            Format::Json => json!({ "result": report.value, "exit": report.exit.code() }).to_string(),
        };
        match line(&text) {
            Ok(()) => report.exit,
            Err(error) => self.failure(&error, "", None),
        }
    }

    /// Prints a failure: for people on standard error, as JSON as the last line of standard output.
    pub(crate) fn failure(&self, error: &Error, verb: &str, signal: Option<Signal>) -> Exit {
        let failure = failure::Failure::new(error, verb, signal);
        match self.format {
            Format::Json => drop(line(&failure.json().to_string())),
            Format::Text => {
                let paint = Paint::new(io::stderr().is_terminal());
                // Nobody can be told when standard error is gone as well.
                let _ = writeln!(io::stderr(), "{}", failure.text(&paint));
            }
        }
        failure.exit
    }
}

/// Writes one piece of text and a newline to standard output. A reader that has gone is no failure.
pub(crate) fn line(text: &str) -> engine::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::File { action: "write to", path: "standard output".into(), source: error })
        }
        _ => Ok(()),
    }
}
