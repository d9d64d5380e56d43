//! `sealift abort`.

use super::rollout;
use crate::{report::Report, shell::Shell};
use engine::Result;

/// Give up a rollout that was interrupted, and bring the previous release back
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift status\n  sealift abort staging")]
pub(crate) struct Arguments {
    /// The environment
    #[arg(value_name = "ENV")]
    environment: String,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let environment = workspace.config.environment(&arguments.environment)?.name.clone();
    let world = shell.world(&workspace, &environment).await?;
    let log = world.log(&environment);
    let open = engine::status::open_rollout(&log).await?;
    if let Some(open) = open {
        let back = match &open.from {
            Some(from) => format!("{from} is brought back"),
            None => "nothing served before, and nothing will".to_owned(),
        };
        shell.events.note(format!("{} is cleared out of {environment}; {back}", open.release));
    }
    let finished = engine::rollout::abort(&world, &environment).await?;
    let words = rollout::words(&workspace, &finished);
    Ok(Report::new(&finished, words))
}
