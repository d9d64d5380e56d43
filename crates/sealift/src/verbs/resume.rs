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
    let environments = super::environments(&workspace.config, arguments.environment.as_deref())?;
    let (mut all, mut words, mut exit, mut failed) = (Vec::new(), Vec::new(), Exit::Ok, None);
    for environment in environments {
        let world = shell.world(&workspace, &environment).await?;
        match engine::rollout::resume(&world, &environment).await {
            Ok(finished) => {
                let report = rollout::report(&workspace, &finished);
                if exit == Exit::Ok {
                    exit = report.exit;
                }
                all.push(json!({ "environment": environment, "rollout": finished }));
                words.push(report.text);
            }
            // One environment that cannot go on now does not keep the others from going on.
            Err(error) => match failed {
                None => failed = Some(error),
                Some(_) => shell.events.warn(format!("{environment}: {error}")),
            },
        }
    }
    match failed {
        Some(error) => {
            words.iter().for_each(|text| shell.events.note(text.clone()));
            Err(error)
        }
        None => Ok(Report::new(&all, words.join("\n")).ending(exit)),
    }
}
