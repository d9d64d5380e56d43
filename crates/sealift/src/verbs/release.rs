//! `sealift release`.

use super::source::Source;
use crate::{
    report::Report,
    shell::Shell,
    text::{Fields, bytes, count},
};
use engine::{
    Error, Result,
    cut::CutResult,
    restore::{self, ReleaseVerified},
};
use std::path::PathBuf;

/// Cut a signed release, or verify one
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift release cut\n  sealift release verify wine@1.0.0")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Build, publish and seal the current commit as a release
    ///
    /// The work tree must be clean and all version files must agree. A version that is sealed already with the same
    /// content is left as it is; with other content it is refused (73).
    #[command(after_help = "Example:\n  sealift release cut\n  sealift release cut wine")]
    Cut {
        /// Which component, when there are several
        #[arg(value_name = "COMPONENT")]
        component: Option<String>,
    },
    /// Verify a release: in the store every byte of it, or a bundle in a file without any store
    #[command(
        after_help = "Example:\n  sealift release verify wine@1.0.0\n  sealift release verify --bundle release.sigstore.json --key release.pub model.json"
    )]
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The release, or with --bundle files that are to belong to it
    #[arg(value_name = "REF|FILE")]
    what: Vec<String>,
    /// Verify this bundle instead of one in the store
    #[arg(long, value_name = "FILE", conflicts_with = "store")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    match &arguments.what {
        What::Cut { component } => {
            let workspace = shell.workspace()?;
            let cut = engine::cut::cut(&workspace, component.as_deref()).await?;
            Ok(Report::new(&cut, sealed(&cut)))
        }
        What::Verify(arguments) => verify(shell, arguments).await,
    }
}

fn sealed(cut: &CutResult) -> String {
    let manifest = &cut.manifest;
    let state = if cut.new { "sealed" } else { "was sealed before with the same content" };
    let mut fields = Fields::new(7);
    fields.add("bundle", format!("{} ({})", cut.key, cut.digest));
    fields.add("commit", &manifest.source.commit);
    fields.list(
        "image",
        manifest
            .images
            .iter()
            .map(|(platform, image)| format!("{platform} {} ({})", image.manifest, bytes(image.bytes))),
    );
    fields.list(
        "model",
        manifest.models.iter().map(|(name, model)| format!("{name}@{} {}", model.version, model.digest)),
    );
    fields.list("data", manifest.data.iter().map(|(name, data)| format!("{name} {}", data.snapshot)));
    format!("{} {state}\n{}\n  next: sealift deploy ENV {}", cut.release, fields.finish(), cut.release)
}

async fn verify(shell: &Shell, arguments: &Verify) -> Result<Report> {
    if let Some(bundle) = &arguments.bundle {
        let trusted = arguments.source.trusted(shell)?;
        let files: Vec<PathBuf> = arguments.what.iter().map(|file| shell.path(file.as_ref())).collect();
        let found = restore::verify_offline(&shell.path(bundle), &trusted, &files).await?;
        return Ok(Report::new(&found, verified(&found)));
    }
    let [reference] = &arguments.what[..] else {
        return Err(Error::Usage { message: "name one release, or a bundle with --bundle FILE".to_owned() });
    };
    let store = arguments.source.open_store(shell).await?;
    let trusted = arguments.source.trusted(shell)?;
    let release = arguments.source.resolve(shell, &store, reference).await?;
    let found = restore::verify(&store, &trusted, &release, &shell.events).await?;
    Ok(Report::new(&found, verified(&found)))
}

fn verified(found: &ReleaseVerified) -> String {
    let mut fields = Fields::new(7);
    fields.add("signed", format!("by {} as {}", found.signer, found.digest));
    fields.list(
        "holds",
        found.checked.iter().map(|checked| format!("{} {} ({})", checked.name, checked.digest, bytes(checked.bytes))),
    );
    let total: u64 = found.checked.iter().map(|checked| checked.bytes).sum();
    let parts = count(found.checked.len() as u64, "part");
    format!("{} is verified: its signature and {parts}, {}\n{}", found.release, bytes(total), fields.finish())
}
