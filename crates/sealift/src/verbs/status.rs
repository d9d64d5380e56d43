//! `sealift status`.

use crate::{
    report::Report,
    shell::Shell,
    text::{self, Paint, status::Standing},
};
use engine::{Result, Workspace};

/// Show what serves in every environment, and what needs a hand
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift status\n  sealift status production --format json")]
pub(crate) struct Arguments {
    /// The environment; without it all of them
    #[arg(value_name = "ENV")]
    environment: Option<String>,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let mut all = Vec::new();
    for environment in super::environments(&workspace.config, arguments.environment.as_deref())? {
        all.push(standing(shell, &workspace, &environment).await?);
    }
    let words = text::status::status(workspace.config.project.as_str(), &all, workspace.now(), &Paint::out());
    Ok(Report::new(&all, words))
}

async fn standing(shell: &Shell, workspace: &Workspace, environment: &domain::Name) -> Result<Standing> {
    let settings = workspace.config.environment(environment.as_str())?;
    let world = shell.world(workspace, environment).await?;
    let status = engine::status::environment(&world, settings, &workspace.config.project).await?;
    let open = engine::status::open_rollout(&world.log(environment)).await?;
    Ok(Standing::new(status, open))
}
