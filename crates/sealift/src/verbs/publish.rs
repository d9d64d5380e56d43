//! `sealift publish`.

use crate::{
    report::Report,
    shell::Shell,
    text::{Fields, count},
};
use domain::Name;
use engine::{Result, publish, releases};

/// Publish a sealed release's image and evidence to its registries again, out of the store
///
/// What is there is not sent again. Registries that were added to Sealift.toml since get it too. Of the tags only that of the
/// version is written; one that points to another image is never moved (73).
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift publish wine@1.0.0")]
pub(crate) struct Arguments {
    /// The release
    #[arg(value_name = "REF")]
    reference: String,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let store = workspace.store().await?;
    let components: Vec<Name> = workspace.config.components.keys().cloned().collect();
    let release = releases::resolve(&store, &arguments.reference, &components).await?;
    let done = publish::republish(&workspace, &store, &release).await?;
    let mut fields = Fields::new(8);
    fields.list(
        "registry",
        done.registries.iter().map(|one| {
            let sent = count(one.sent, "blob");
            format!("{}@{} as {} ({sent} sent, {} there)", one.repository, done.digest, one.tags.join(", "), one.there)
        }),
    );
    Ok(Report::new(&done, format!("{} is published\n{}", done.release, fields.finish())))
}
