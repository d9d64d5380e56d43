//! `sealift explain`.

use crate::{report::Report, shell::Shell, text};
use domain::{Name, ReleaseName};
use engine::{Result, Workspace, releases, status::Explanation};
use serde_json::json;

/// Tell everything about a release: where it comes from, what was judged of it, where it has been
///
/// REF is a release (wine@1.1.0), a version where there is one component only, a component for its newest release, or an
/// environment for what serves there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift explain wine@1.1.0\n  sealift explain production")]
pub(crate) struct Arguments {
    /// What is to be explained
    #[arg(value_name = "REF")]
    reference: String,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let config = &workspace.config;
    let store = workspace.store().await?;
    let trusted = super::trusted(&workspace)?;
    let log = super::logs(&workspace).await?;
    let environments: Vec<Name> = config.environments.keys().cloned().collect();
    let (mut all, mut words) = (Vec::new(), Vec::new());
    for release in meant(&workspace, &store, &arguments.reference).await? {
        let found = engine::status::explain(&store, &trusted, &release, &environments, &log).await?;
        let commands = verification(&found, &config.signing.trusted);
        words.push(text::explain::explain(&found, &commands, &text::Paint::out()));
        let mut value = serde_json::to_value(&found).unwrap_or_default();
        value["verify"] = json!(commands);
        all.push(value);
    }
    match <[_; 1]>::try_from(all) {
        Ok([one]) => Ok(Report::new(&one, words.concat())),
        Err(all) => Ok(Report::new(&all, words.join("\n\n"))),
    }
}

/// The releases that a word means: those that serve an environment of that name, or one release.
async fn meant(workspace: &Workspace, store: &engine::Store, reference: &str) -> Result<Vec<ReleaseName>> {
    let config = &workspace.config;
    if let (Some(environment), None) = (config.environments.get(reference), config.components.get(reference)) {
        let current = releases::current(store, &environment.name).await?;
        if current.components.is_empty() {
            return Err(engine::Error::NotFound {
                message: format!("nothing serves {reference}"),
                next: Some(format!("sealift deploy {reference}")),
            });
        }
        return Ok(current.components.into_values().map(|running| running.release).collect());
    }
    let components: Vec<Name> = config.components.keys().cloned().collect();
    Ok(vec![releases::resolve(store, reference, &components).await?])
}

/// How to check a release, with Sealift and without it.
fn verification(found: &Explanation, keys: &str) -> Vec<String> {
    let mut commands = vec![format!("sealift release verify {}", found.manifest.release)];
    commands.extend(engine::verify::commands(&found.manifest, &format!("{keys}/{}.pub", found.signer)));
    commands
}
