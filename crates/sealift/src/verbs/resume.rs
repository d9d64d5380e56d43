//! `sealift resume`.

use super::rollout;
use crate::{exit::Exit, report::Report, shell::Shell};
use engine::Result;
use serde_json::json;

/// Go on with rollouts that were interrupted
///
/// The world is looked at again and only what is missing is done. A second resume does nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift resume\n  sealift resume staging")]
pub(crate) struct Arguments {
    /// The environment; without it all of them
    #[arg(value_name = "ENV")]
    environment: Option<String>,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let (mut all, mut words, mut exit) = (Vec::new(), Vec::new(), Exit::Ok);
    for environment in super::environments(&workspace.config, arguments.environment.as_deref())? {
        let world = shell.world(&workspace, &environment).await?;
        let finished = engine::rollout::resume(&world, &environment).await?;
        let report = rollout::report(&workspace, &finished);
        if exit == Exit::Ok {
            exit = report.exit;
        }
        all.push(json!({ "environment": environment, "rollout": finished }));
        words.push(report.text);
    }
    Ok(Report::new(&all, words.join("\n")).ending(exit))
}
