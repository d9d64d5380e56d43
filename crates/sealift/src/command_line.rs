//! What can be typed, and what is true for every verb.

use crate::{report::Report, shell::Shell, verbs};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{ffi::OsString, path::PathBuf};

/// Seal every release, lift it through its gates.
#[derive(Debug, Parser)]
#[command(
    name = "sealift",
    version,
    max_term_width = 110,
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = false,
    after_help = "Example:\n  sealift init && sealift doctor\n  sealift release cut && sealift deploy staging && sealift gate staging\n  sealift promote wine@1.0.0 --to production\n\n\
Exit codes:\n  0 ok · 1 gate warn · 2 gate crit · 3 gate inconclusive · 64 usage · 65 bad config or data · 66 not found\n  \
69 unreachable · 70 internal · 73 integrity · 75 busy or stale · 77 not permitted · 130/143 signals"
)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Work in this folder
    #[arg(short = 'C', long, global = true, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// How results and progress are written
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// The form of everything that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// One JSON object a line: events, then a result or an error
    Json,
}

/// Whether a command line that could not be read asked for JSON.
pub(crate) fn wants_json(args: &[OsString]) -> bool {
    args.iter().any(|arg| arg == "--format=json")
        || args.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}

/// One variant a verb; the words for `--help` stand with each verb's arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Init(verbs::init::Arguments),
    Doctor(verbs::doctor::Arguments),
    Status(verbs::status::Arguments),
    Explain(verbs::explain::Arguments),
    History(verbs::history::Arguments),
    Build(verbs::build::Arguments),
    Release(verbs::release::Arguments),
    Publish(verbs::publish::Arguments),
    Data(verbs::data::Arguments),
    Model(verbs::model::Arguments),
    Deploy(verbs::deploy::Arguments),
    Smoke(verbs::smoke::Arguments),
    Gate(verbs::gate::Arguments),
    Promote(verbs::promote::Arguments),
    Rollback(verbs::rollback::Arguments),
    Restore(verbs::restore::Arguments),
    Resume(verbs::resume::Arguments),
    Abort(verbs::abort::Arguments),
    Plan(verbs::plan::Arguments),
    Apply(verbs::apply::Arguments),
    Audit(verbs::audit::Arguments),
    Keys(verbs::keys::Arguments),
    Store(verbs::store::Arguments),
}

impl Verb {
    /// The verb as it is typed.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Init(_) => "init",
            Self::Doctor(_) => "doctor",
            Self::Status(_) => "status",
            Self::Explain(_) => "explain",
            Self::History(_) => "history",
            Self::Build(_) => "build",
            Self::Release(_) => "release",
            Self::Publish(_) => "publish",
            Self::Data(_) => "data",
            Self::Model(_) => "model",
            Self::Deploy(_) => "deploy",
            Self::Smoke(_) => "smoke",
            Self::Gate(_) => "gate",
            Self::Promote(_) => "promote",
            Self::Rollback(_) => "rollback",
            Self::Restore(_) => "restore",
            Self::Resume(_) => "resume",
            Self::Abort(_) => "abort",
            Self::Plan(_) => "plan",
            Self::Apply(_) => "apply",
            Self::Audit(_) => "audit",
            Self::Keys(_) => "keys",
            Self::Store(_) => "store",
        }
    }

    /// Whether it asks a few small things and is done, so that one thread is enough.
    pub(crate) fn is_quick(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Explain(_) | Self::History(_) | Self::Keys(_) | Self::Init(_))
    }

    /// Whether it ends by itself, in order, when it is told to stop.
    pub(crate) fn stops_by_itself(&self) -> bool {
        match self {
            Self::Deploy(_)
            | Self::Promote(_)
            | Self::Rollback(_)
            | Self::Resume(_)
            | Self::Abort(_)
            | Self::Apply(_)
            | Self::Gate(_) => true,
            Self::Store(arguments) => arguments.stops_by_itself(),
            _ => false,
        }
    }

    /// Carries it out.
    pub(crate) async fn run(self, shell: &Shell) -> engine::Result<Report> {
        match self {
            Self::Init(arguments) => verbs::init::run(shell, &arguments).await,
            Self::Doctor(arguments) => verbs::doctor::run(shell, &arguments).await,
            Self::Status(arguments) => verbs::status::run(shell, &arguments).await,
            Self::Explain(arguments) => verbs::explain::run(shell, &arguments).await,
            Self::History(arguments) => verbs::history::run(shell, &arguments).await,
            Self::Build(arguments) => verbs::build::run(shell, &arguments).await,
            Self::Release(arguments) => verbs::release::run(shell, &arguments).await,
            Self::Publish(arguments) => verbs::publish::run(shell, &arguments).await,
            Self::Data(arguments) => verbs::data::run(shell, &arguments).await,
            Self::Model(arguments) => verbs::model::run(shell, &arguments).await,
            Self::Deploy(arguments) => verbs::deploy::run(shell, &arguments).await,
            Self::Smoke(arguments) => verbs::smoke::run(shell, &arguments).await,
            Self::Gate(arguments) => verbs::gate::run(shell, &arguments).await,
            Self::Promote(arguments) => verbs::promote::run(shell, &arguments).await,
            Self::Rollback(arguments) => verbs::rollback::run(shell, &arguments).await,
            Self::Restore(arguments) => verbs::restore::run(shell, &arguments).await,
            Self::Resume(arguments) => verbs::resume::run(shell, &arguments).await,
            Self::Abort(arguments) => verbs::abort::run(shell, &arguments).await,
            Self::Plan(arguments) => verbs::plan::run(shell, &arguments).await,
            Self::Apply(arguments) => verbs::apply::run(shell, &arguments).await,
            Self::Audit(arguments) => verbs::audit::run(shell, &arguments).await,
            Self::Keys(arguments) => verbs::keys::run(shell, &arguments).await,
            Self::Store(arguments) => verbs::store::run(shell, &arguments).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Every command below `command`, with its full name.
    fn all(command: &clap::Command, prefix: &str, into: &mut Vec<(String, clap::Command)>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = format!("{prefix} {}", sub.get_name());
            into.push((name.clone(), sub.clone()));
            all(sub, &name, into);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_verb_has_words_and_a_worked_example() {
        let mut commands = Vec::new();
        all(&CommandLine::command(), "sealift", &mut commands);
        assert!(commands.len() > 35, "{}", commands.len());
        for (name, mut command) in commands {
            let help = command.render_help().to_string();
            assert!(command.get_about().is_some(), "{name} says nothing of itself");
            assert!(help.contains("Example"), "{name} has no example:\n{help}");
            assert!(help.contains("sealift "), "{name}'s example names no command");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let shown = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!shown.is_empty(), "{name} {argument} has no help");
            }
        }
    }

    #[test]
    fn an_unknown_verb_offers_the_near_one_and_is_a_usage_error() {
        let error = CommandLine::try_parse_from(["sealift", "depoly", "staging"]).unwrap_err();
        assert!(error.to_string().contains("'deploy'"), "{error}");
        let error = CommandLine::try_parse_from(["sealift", "data", "psuh"]).unwrap_err();
        assert!(error.to_string().contains("'push'"), "{error}");
        for line in [&["sealift"][..], &["sealift", "deploy"], &["sealift", "status", "--nope"]] {
            let error = CommandLine::try_parse_from(line).unwrap_err();
            assert_eq!(crate::failure::command_line_exit(&error).code(), 64, "{line:?}");
        }
        for line in [&["sealift", "--help"][..], &["sealift", "--version"], &["sealift", "data", "push", "--help"]] {
            let error = CommandLine::try_parse_from(line).unwrap_err();
            assert_eq!(crate::failure::command_line_exit(&error).code(), 0, "{line:?}");
        }
    }

    #[test]
    fn json_is_noticed_on_a_line_that_cannot_be_read() {
        let args = |line: &[&str]| line.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(&args(&["sealift", "nope", "--format", "json"])));
        assert!(wants_json(&args(&["sealift", "--format=json", "nope"])));
        assert!(!wants_json(&args(&["sealift", "nope", "json"])));
    }

    #[test]
    fn the_verbs_of_the_design_can_be_typed() {
        for line in [
            "deploy staging",
            "deploy staging wine@1.0.0 --plan --component wine --reason because",
            "promote wine@1.0.0 --to production",
            "rollback production --to 1.0.0",
            "plan deploy staging wine@1.0.0 -o p.json",
            "plan rollback production -o p.json",
            "apply p.json",
            "release verify wine@1.0.0",
            "release verify --bundle a.json --key k.pub a b",
            "restore wine@1.1.0 --to out --store s3://bucket/prefix --endpoint http://127.0.0.1:1 --key k.pub",
            "store serve --dir d --listen 127.0.0.1:0 --bucket b",
            "audit verify staging --offline dir --key k.pub",
            "-C /tmp status --format json",
            "status -C /tmp",
            "data pull --force raw",
            "model download quality --to models/q.json",
            "resume",
            "abort staging",
        ] {
            let words = std::iter::once("sealift").chain(line.split(' '));
            assert!(CommandLine::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
