//! What a person sees of an error: what happened to what, why, and the command to run next.

use crate::{
    exit::{Exit, Signal, disk_is_full},
    hint::hint,
    text::{Paint, Style, plain},
};
use domain::Class;
use engine::{Error, causes};
use serde_json::{Value, json};
use std::{error::Error as StdError, io::Write};

/// An error in words.
pub(crate) struct Failure {
    message: String,
    causes: Vec<String>,
    tail: Vec<String>,
    details: Value,
    next: Option<String>,
    /// How the process ends.
    pub(crate) exit: Exit,
}

impl Failure {
    /// Puts an error into words. `verb` is what was typed.
    pub(crate) fn new(error: &Error, verb: &str, signal: Option<Signal>) -> Self {
        Self {
            message: plain(&error.to_string()),
            causes: cause_lines(error),
            tail: tail(error).iter().map(|line| plain(line)).collect(),
            details: details(error),
            next: hint(error, verb),
            exit: Exit::of_error(error, signal),
        }
    }

    /// For people.
    pub(crate) fn text(&self, paint: &Paint) -> String {
        let mut text = format!("{} {}", paint.style("error:", Style::Bad), indent(&self.message, "       "));
        for cause in &self.causes {
            text.push_str(&format!("\n  {} {}", paint.style("why:", Style::Dim), indent(cause, "       ")));
        }
        for line in &self.tail {
            text.push_str(&format!("\n  {} {line}", paint.style("│", Style::Dim)));
        }
        if let Some(next) = &self.next {
            text.push_str(&format!("\n  {} {next}", paint.style("next:", Style::Good)));
        }
        text
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let mut error = json!({
            "message": self.message,
            "causes": self.causes,
            "class": self.exit.word(),
            "exit": self.exit.code(),
            "next": self.next,
        });
        if !self.tail.is_empty() {
            error["output"] = json!(self.tail);
        }
        if !self.details.is_null() {
            error["details"] = self.details.clone();
        }
        json!({ "error": error })
    }
}

fn indent(text: &str, by: &str) -> String {
    text.replace('\n', &format!("\n{by}"))
}

/// The causes below an error, one line each; what the lines above say already is left out.
fn cause_lines(error: &Error) -> Vec<String> {
    let mut said = error.to_string();
    let mut lines: Vec<String> = Vec::new();
    let mut next = StdError::source(error);
    while let Some(cause) = next {
        let words = cause.to_string();
        if !words.is_empty() && !said.contains(&words) {
            said.push('\n');
            said.push_str(&words);
            lines.push(plain(&words));
        }
        next = if is_unavailable(cause) { deepest(cause) } else { cause.source() };
    }
    match error {
        Error::GateHolds { gates, .. } => {
            let verdicts = gates.iter().map(|gate| format!("gate {} is {}", gate.gate, gate.verdict));
            lines.extend(verdicts.filter(|verdict| !said.contains(verdict)));
        }
        Error::Drift { differences, .. } => lines.extend(differences.iter().map(|difference| {
            format!(
                "{}: sealed {}, offered {}",
                difference.field,
                short(&difference.sealed),
                short(&difference.offered)
            )
        })),
        _ => {}
    }
    if disk_is_full(error) {
        lines.push("the disk is full (space, quota or inodes)".to_owned());
    }
    lines
}

/// Whether this is a store's failure in our own words, below which a client library tells of its layers.
fn is_unavailable(cause: &(dyn StdError + 'static)) -> bool {
    let store = match cause.downcast_ref::<causes::Cause>() {
        Some(causes::Cause::Store(error)) => Some(error),
        _ => cause.downcast_ref::<causes::StoreError>(),
    };
    matches!(store, Some(causes::StoreError::Unavailable { .. }))
}

/// The cause at the bottom, which is the system's own answer; one that is no sentence is left out.
fn deepest<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    let mut last = error.source()?;
    while let Some(cause) = last.source() {
        last = cause;
    }
    (!last.to_string().contains(" { ")).then_some(last)
}

/// A value of the drift guard, cut where it tires.
fn short(value: &str) -> String {
    match value.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &value[..at]),
        None => value.to_owned(),
    }
}

/// The last lines of a program that failed.
fn tail(error: &Error) -> &[String] {
    match error {
        Error::Command { tail, .. } => tail,
        Error::Failed { cause: causes::Cause::Image(error), .. } => error.log_tail(),
        Error::Interrupted { source, .. } => tail(source),
        _ => &[],
    }
}

/// What programs want to read apart.
fn details(error: &Error) -> Value {
    match error {
        Error::Config { problems } => json!({ "problems": problems }),
        Error::GateHolds { verdict, gates, .. } => json!({ "verdict": verdict, "gates": gates }),
        Error::Drift { differences, legal, .. } => json!({ "differences": differences, "legal": legal.to_string() }),
        Error::Unknown(unknown) => json!({ "kind": unknown.kind, "near": unknown.near, "known": unknown.known }),
        _ => Value::Null,
    }
}

/// How a command line ends that clap did not take.
pub(crate) fn command_line_exit(error: &clap::Error) -> Exit {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
        _ => Exit::Failure(Class::Usage),
    }
}

/// Prints what clap has to say: help and version are results, everything else is a wrong command line (64, because
/// clap's own 2 would read as crit).
pub(crate) fn command_line(error: &clap::Error, json: bool) -> Exit {
    let exit = command_line_exit(error);
    if json && exit != Exit::Ok {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let failure = Failure {
            message: message.to_owned(),
            causes: Vec::new(),
            tail: Vec::new(),
            details: Value::Null,
            next: Some("sealift --help".to_owned()),
            exit,
        };
        let _ = writeln!(std::io::stdout(), "{}", failure.json());
    } else {
        let _ = error.print();
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{gate::Verdict, manifest::Difference};
    use expect_test::{Expect, expect};

    fn check(error: &Error, wanted: Expect) {
        wanted.assert_eq(&Failure::new(error, "deploy", None).text(&Paint::none()));
    }

    fn full() -> Error {
        Error::File { action: "write", path: "a".into(), source: std::io::Error::from_raw_os_error(28) }
    }

    #[test]
    fn an_error_has_three_parts() {
        check(
            &Error::Interrupted {
                release: "wine@1.1.0".parse().unwrap(),
                environment: "staging".into(),
                step: "prepare wine@1.1.0 in green".into(),
                serving: "wine@1.0.0 was left serving".into(),
                source: Box::new(full()),
            },
            expect![[r#"
                error: the rollout of wine@1.1.0 to staging was interrupted at "prepare wine@1.1.0 in green"; wine@1.0.0 was left serving
                  why: cannot write a
                  why: No space left on device (os error 28)
                  why: the disk is full (space, quota or inodes)
                  next: sealift resume staging"#]],
        );
    }

    #[test]
    fn drift_names_the_fields_and_the_legal_version() {
        check(
            &Error::Drift {
                release: "wine@1.1.0".parse().unwrap(),
                differences: vec![Difference {
                    field: "model quality".into(),
                    sealed: "sha256:aa".into(),
                    offered: "absent".into(),
                }],
                legal: semver::Version::new(1, 1, 1),
            },
            expect![[r#"
                error: wine@1.1.0 is sealed already with other content: model quality differ
                  why: model quality: sealed sha256:aa, offered absent
                  next: set the version to 1.1.1 in the version files, commit, then: sealift release cut wine"#]],
        );
    }

    #[test]
    fn a_commands_last_lines_are_shown_without_control_characters() {
        let tail = vec!["\u{1b}[31merror\u{1b}[0m: no such crate\r".to_owned()];
        check(
            &Error::Command { what: "the prepare command `cargo build`".into(), how: "exit status: 101".into(), tail },
            expect![[r#"
                error: the prepare command `cargo build` failed: exit status: 101
                  │ error: no such crate
                  next: mend what is named above, then the same command again"#]],
        );
    }

    #[test]
    fn the_layers_of_a_client_library_are_left_out() {
        #[derive(Debug, thiserror::Error)]
        #[error("dispatch failure")]
        struct Layer(#[source] std::io::Error);
        let source = Layer(std::io::Error::from_raw_os_error(111));
        let store = causes::StoreError::Unavailable {
            store: "s3://b".into(),
            what: "refuses the connection".into(),
            again: causes::Again::Nobody,
            source: Some(Box::new(source)),
        };
        check(
            &Error::Failed { doing: "list the releases".into(), cause: store.into() },
            expect![[r#"
                error: cannot list the releases
                  why: the store s3://b refuses the connection
                  why: Connection refused (os error 111)
                  next: sealift doctor"#]],
        );
    }

    #[test]
    fn json_carries_class_exit_and_details() {
        let error = Error::GateHolds {
            release: "wine@1.2.0".parse().unwrap(),
            environment: "staging".into(),
            verdict: Verdict::Crit,
            why: "gate quality is crit: accuracy 0.4 is below 0.5".into(),
            gates: vec![],
        };
        let value = Failure::new(&error, "promote", None).json();
        expect![[r#"{"error":{"causes":[],"class":"crit","details":{"gates":[],"verdict":"crit"},"exit":2,"message":"wine@1.2.0 may not leave staging: gate quality is crit: accuracy 0.4 is below 0.5","next":"sealift explain wine@1.2.0"}}"#]]
            .assert_eq(&value.to_string());
    }
}
