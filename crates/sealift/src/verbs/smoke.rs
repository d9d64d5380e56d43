//! `sealift smoke`.

use crate::{
    exit::Exit,
    report::Report,
    shell::Shell,
    text::{Cell, Paint, Style, Table, count, took},
};
use engine::{
    Result,
    gates::{self, Smoked},
};

/// Send the smoke requests of the release that serves
///
/// Nothing is recorded and nothing is changed. A release without smoke requests proves nothing: that is inconclusive.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift smoke staging\n\nExit codes: 2 when a request fails, 3 when there is none")]
pub(crate) struct Arguments {
    /// The environment
    #[arg(value_name = "ENV")]
    environment: String,
    /// Which component, when the environment runs several
    #[arg(long, value_name = "NAME")]
    component: Option<String>,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let config = &workspace.config;
    let settings = config.environment(&arguments.environment)?;
    let component = super::component(config, settings, arguments.component.as_deref())?;
    let world = shell.world(&workspace, &settings.name).await?;
    let subjects = gates::Subjects {
        project: &config.project,
        environment: settings,
        next: None,
        repository: &workspace.root,
        component: &component,
    };
    let smoked = gates::smoke(&world, &subjects).await?;
    let exit = match (smoked.report.outcomes.is_empty(), smoked.ok) {
        (true, _) => Exit::Inconclusive,
        (false, true) => Exit::Ok,
        (false, false) => Exit::Crit,
    };
    Ok(Report::new(&smoked, words(&smoked, &Paint::out())).ending(exit))
}

fn words(smoked: &Smoked, paint: &Paint) -> String {
    let outcomes = &smoked.report.outcomes;
    let place = format!("{} in {} at {}", smoked.release, smoked.environment, smoked.url);
    if outcomes.is_empty() {
        return format!("{place}: no smoke requests, so nothing is known of it");
    }
    let mut table = Table::new(["REQUEST", "RESULT", "STATUS", "TOOK", "WHY"]);
    for outcome in outcomes {
        let result = if outcome.ok { Cell::new("ok", Style::Good) } else { Cell::new("failed", Style::Bad) };
        table.row([
            outcome.name.clone().into(),
            result,
            outcome.status.map_or_else(|| "-".to_owned(), |status| status.to_string()).into(),
            took(outcome.latency).into(),
            outcome.failures.join("; ").into(),
        ]);
    }
    let requests = count(outcomes.len() as u64, "request");
    let hint = if smoked.ok { String::new() } else { format!("\n  next: sealift explain {}", smoked.release) };
    format!("{place}: {} of {requests} passed\n{}{hint}", smoked.report.passed(), table.render("  ", paint))
}
