//! `sealift release`.

use super::source::Source;
use crate::{
    report::Report,
    shell::Shell,
    text::{Fields, bytes, count},
};
use domain::config::Registry;
use engine::{
    Error, Result,
    cut::CutResult,
    verify::{self, Asked, ReleaseVerified},
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
    /// Verify a release: every byte in the store and in registries, a restored folder, or a bundle in a file
    #[command(
        after_help = "Example:\n  sealift release verify wine@1.0.0\n  sealift release verify wine@1.0.0 --rebuild\n  sealift release verify wine@1.0.0 --registry registry.example.com/team/wine\n  sealift release verify --folder restored --key release.pub\n  sealift release verify --bundle release.sigstore.json --key release.pub model.json"
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
    /// Verify a folder that `sealift restore` made, without store and registry
    #[arg(long, value_name = "DIR", conflicts_with_all = ["store", "bundle", "what"])]
    folder: Option<PathBuf>,
    /// Do not ask the registries that it was sealed for
    #[arg(long)]
    no_registry: bool,
    /// Ask this repository too, to which `sealift publish` sent it later; `,insecure` speaks plain HTTP to it. May be given several times
    #[arg(long = "registry", value_name = "REPOSITORY[,insecure]", value_parser = registry, conflicts_with_all = ["bundle", "folder"])]
    registries: Vec<Registry>,
    /// Build the release again from its commit, without caches, and name the first file that differs
    #[arg(long, conflicts_with_all = ["bundle", "folder"])]
    rebuild: bool,
    #[command(flatten)]
    source: Source,
}

/// `REPOSITORY[,insecure]`.
fn registry(text: &str) -> std::result::Result<Registry, String> {
    let (repository, option) =
        text.split_once(',').map_or((text, None), |(repository, option)| (repository, Some(option)));
    if let Some(option) = option.filter(|option| *option != "insecure") {
        return Err(format!("{option:?} is no option of a registry; there is only insecure"));
    }
    Ok(Registry { repository: repository.to_owned(), insecure: option.is_some() })
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
    let mut fields = Fields::new(8);
    fields.add("bundle", format!("{} ({})", cut.key, cut.digest));
    fields.add("commit", &manifest.source.commit);
    fields.list(
        "image",
        manifest
            .images
            .iter()
            .map(|(platform, image)| format!("{platform} {} ({})", image.manifest, bytes(image.bytes))),
    );
    fields.list("index", manifest.index.iter().map(|index| index.digest.to_string()));
    fields.list(
        "registry",
        manifest.published.iter().zip(manifest.references()).map(|(to, at)| format!("{at} as {}", to.tags.join(", "))),
    );
    fields.list(
        "artifact",
        manifest.artifacts.iter().map(|(path, file)| format!("{path} {} ({})", file.digest, bytes(file.bytes))),
    );
    if let Some(sbom) = &manifest.sbom {
        fields.add("sbom", format!("{} listed by {}", count(sbom.components, "component"), sbom.tool));
    }
    fields.list(
        "model",
        manifest.models.iter().map(|(name, model)| format!("{name}@{} {}", model.version, model.digest)),
    );
    fields.list("data", manifest.data.iter().map(|(name, data)| format!("{name} {}", data.snapshot)));
    format!("{} {state}\n{}\n  next: sealift deploy ENV {}", cut.release, fields.finish(), cut.release)
}

async fn verify(shell: &Shell, arguments: &Verify) -> Result<Report> {
    let mut found = find(shell, arguments).await?;
    let key = arguments.source.key_file(shell, &found.signer)?;
    found.set_key(&key);
    Ok(Report::new(&found, verified(&found)))
}

async fn find(shell: &Shell, arguments: &Verify) -> Result<ReleaseVerified> {
    let trusted = arguments.source.trusted(shell)?;
    if let Some(bundle) = &arguments.bundle {
        let files: Vec<PathBuf> = arguments.what.iter().map(|file| shell.path(file.as_ref())).collect();
        return verify::verify_files(&shell.path(bundle), &trusted, &files).await;
    }
    if let Some(folder) = &arguments.folder {
        return verify::verify_folder(&shell.path(folder), &trusted, &shell.events).await;
    }
    let [reference] = &arguments.what[..] else {
        let message = "name one release, a bundle with --bundle FILE, or a restored folder with --folder DIR";
        return Err(Error::Usage { message: message.to_owned() });
    };
    let store = arguments.source.open_store(shell).await?;
    let release = arguments.source.resolve(shell, &store, reference).await?;
    // A release is verified without a project as well: then nothing says whether evidence is attached where it came later.
    let workspace = if arguments.registries.is_empty() { None } else { shell.workspace_if_any()? };
    let component = workspace.as_ref().and_then(|workspace| workspace.config.components.get(&release.component));
    let attach = component.map(|component| component.attach);
    let asked = Asked { sealed: !arguments.no_registry, also: arguments.registries.clone(), attach };
    let mut found = verify::verify(&store, &trusted, &release, &asked, &shell.events).await?;
    if arguments.rebuild {
        found.rebuilt = Some(verify::rebuild(&shell.workspace()?, &store, &found).await?);
    }
    Ok(found)
}

fn verified(found: &ReleaseVerified) -> String {
    let mut fields = Fields::new(8);
    fields.add("signed", format!("by {} as {}", found.signer, found.digest));
    fields.list(
        "holds",
        found.checked.iter().map(|checked| format!("{} {} ({})", checked.name, checked.digest, bytes(checked.bytes))),
    );
    fields.list(
        "evidence",
        found.evidence.iter().map(|claim| format!("{} by {} ({})", claim.kind, claim.signer, claim.bundle.short())),
    );
    if let Some(sbom) = &found.manifest.sbom {
        fields.add("sbom", format!("{} listed by {}", count(sbom.components, "component"), sbom.tool));
    }
    for registry in &found.registries {
        let attached = if !registry.evidence_asked {
            "whether evidence is attached was not asked".to_owned()
        } else if registry.attached.is_empty() {
            "nothing of it attached".to_owned()
        } else {
            format!("with {}", registry.attached.join(", "))
        };
        let place = format!("{}@{}", registry.repository, registry.digest);
        fields.add("registry", format!("{place} as {}, {attached}", registry.tags.join(", ")));
        for tag in &registry.moved {
            fields.add("", format!("  {tag} points to another image by now"));
        }
    }
    if let Some(rebuilt) = &found.rebuilt {
        fields.list("rebuilt", rebuilt.same.iter().map(|same| format!("the same: {same}")));
    }
    fields.list("anybody", &found.commands);
    let total: u64 = found.checked.iter().map(|checked| checked.bytes).sum();
    let parts = count(found.checked.len() as u64, "part");
    format!("{} is verified: its signature and {parts}, {}\n{}", found.release, bytes(total), fields.finish())
}
