//! `sealift plan`.

use super::{deploy, promote, rollback, rollout};
use crate::{report::Report, shell::Shell, text};
use engine::{Error, Result};
use std::{fs, path::PathBuf};

/// Make a plan and keep it, to be read and applied later
///
/// A plan is bound to the newest entry of the environment's ledger: once that has moved, `apply` refuses it (75).
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift plan deploy staging wine@1.0.0 -o plan.json\n  sealift apply plan.json")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Write the plan to this file; without it the plan is only printed
    #[arg(short, long, global = true, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What can be planned.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// Plan to roll a sealed release out to an environment
    #[command(after_help = "Example:\n  sealift plan deploy staging wine@1.0.0 -o plan.json")]
    Deploy(deploy::What),
    /// Plan to lift a release to the next environment
    #[command(after_help = "Example:\n  sealift plan promote wine@1.0.0 --to production -o plan.json")]
    Promote(promote::What),
    /// Plan to go back to the release that served before
    #[command(after_help = "Example:\n  sealift plan rollback production -o plan.json")]
    Rollback(rollback::What),
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let intent = match &arguments.what {
        What::Deploy(what) => what.intent(),
        What::Promote(what) => what.intent(),
        What::Rollback(what) => what.intent(),
    };
    let (_, plan) = rollout::prepare(shell, &workspace, intent).await?;
    let mut words = text::plan::plan(&plan);
    if let Some(output) = &arguments.output {
        let path = shell.path(output);
        let mut bytes = serde_json::to_vec_pretty(&plan).unwrap_or_default();
        bytes.push(b'\n');
        fs::write(&path, bytes).map_err(Error::file("write the plan to", &path))?;
        words.push_str(&format!("\n  next: sealift apply {}", output.display()));
    }
    Ok(Report::new(&plan, words))
}
