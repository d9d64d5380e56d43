//! `sealift gate`.

use crate::{exit::Exit, report::Report, shell::Shell, text};
use engine::{Error, Result, gates};

/// Measure the release that serves against the gates of its environment
///
/// The verdicts are signed, stored with the release and noted in the ledger; promotion asks for them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift gate staging\n\nExit codes: 0 ok, 1 warn, 2 crit, 3 inconclusive")]
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
    if settings.gates.is_empty() {
        return Err(Error::bad_input(format!("{0} has no gates: [environment.{0}] has no gates = […]", settings.name)));
    }
    let component = super::component(config, settings, arguments.component.as_deref())?;
    let next = config.environments.values().find(|other| other.after.as_ref() == Some(&settings.name));
    let world = shell.world(&workspace, &settings.name).await?;
    let subjects = gates::Subjects {
        project: &config.project,
        environment: settings,
        next,
        repository: &workspace.root,
        component: &component,
    };
    let judged = gates::run(&world, &subjects).await?;
    let paint = text::Paint::out();
    let verdict = paint.style(&judged.verdict.to_string(), text::verdict_style(judged.verdict));
    let mut words = format!(
        "{} in {}: {verdict}\n{}",
        judged.release,
        judged.environment,
        text::gates::gates(&judged.gates, "  ", &paint)
    );
    if let (domain::gate::Verdict::Ok, Some(next)) = (judged.verdict, next) {
        words.push_str(&format!("\n  next: sealift promote {} --to {}", judged.release, next.name));
    }
    Ok(Report::new(&judged, words).ending(Exit::of_verdict(judged.verdict)))
}
