//! `sealift history`.

use crate::{report::Report, shell::Shell, text};
use engine::Result;
use serde_json::json;

/// Show the rollouts of an environment, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift history production\n  sealift history production --limit 5 --format json")]
pub(crate) struct Arguments {
    /// The environment; without it all of them
    #[arg(value_name = "ENV")]
    environment: Option<String>,
    /// At most this many of each environment
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 20)]
    limit: usize,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let log = super::logs(&workspace).await?;
    let paint = text::Paint::out();
    let (mut all, mut words) = (Vec::new(), Vec::new());
    for environment in super::environments(&workspace.config, arguments.environment.as_deref())? {
        let mut rollouts = engine::status::history(&log(&environment)).await?;
        rollouts.truncate(arguments.limit);
        words.push(text::history::history(environment.as_str(), &rollouts, &paint));
        all.push(json!({ "environment": environment, "rollouts": rollouts }));
    }
    Ok(Report::new(&all, words.join("\n\n")))
}
