//! `sealift smoke`.

use crate::{exit::Exit, report::Report, shell::Shell};
use engine::{Error, Result, releases};
use serde_json::json;

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
    let settings = workspace.config.environment(&arguments.environment)?;
    let component = super::component(&workspace.config, settings, arguments.component.as_deref())?;
    let world = shell.world(&workspace, &settings.name).await?;
    let current = releases::current(&world.store, &settings.name).await?;
    let running = current.components.get(&component).ok_or_else(|| Error::NotFound {
        message: format!("nothing serves {} for {component}", settings.name),
        next: Some(format!("sealift deploy {}", settings.name)),
    })?;
    let sealed = releases::read(&world.store, &world.trusted, &running.release).await?;
    let side = domain::compose::side(&sealed.manifest, sealed.digest, settings, running.slot, &engine::platform())
        .map_err(|error| Error::bad_input(error.to_string()))?;
    let (release, url) = (&running.release, side.workload.url());
    let value = json!({ "release": release, "environment": settings.name, "url": url, "requests": side.smoke.len() });
    if side.smoke.is_empty() {
        let text = format!("{release} has no smoke requests, so nothing is known of it at {url}");
        return Ok(Report::new(&value, text).ending(Exit::Inconclusive));
    }
    world.probes.smoke(&side, &shell.events).await.map_err(|why| Error::Unfit {
        release: release.clone(),
        why: format!("failed its smoke requests at {url}: {why}"),
    })?;
    let requests = crate::text::count(side.smoke.len() as u64, "smoke request");
    Ok(Report::new(&value, format!("{release} answers {requests} at {url} ({})", settings.name)))
}
