//! `sealift restore`.

use super::source::Source;
use crate::{
    report::Report,
    shell::Shell,
    text::{bytes, count},
};
use domain::ReleaseName;
use engine::{Error, Result, Store, TrustedKeys, restore};
use std::path::PathBuf;

/// Bring a release out of the store into a folder, or its image into Docker, verified byte for byte
///
/// Needs only the store and a public key: no git, no registry, no Sealift.toml.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sealift restore wine@1.1.0 --to restored\n  sealift restore wine@1.1.0 --into docker\n  sealift restore wine@1.1.0 --image docker-archive --to wine.tar\n  sealift restore wine@1.1.0 --to restored --store s3://releases/wine --endpoint https://s3.example.com --key release.pub"
)]
pub(crate) struct Arguments {
    /// The release
    #[arg(value_name = "REF")]
    reference: String,
    /// A folder that does not exist yet, or is empty; the file of an archive with --image
    #[arg(long, value_name = "DIR|FILE", required_unless_present = "into")]
    to: Option<PathBuf>,
    /// Only the image, in this form
    #[arg(long, value_name = "FORM", requires = "to")]
    image: Option<Form>,
    /// Only the image, straight into this Docker Engine: `docker` (DOCKER_HOST, or the usual socket), unix:///PATH or
    /// tcp://HOST:PORT. An engine of this host may be given it by a listener on 127.0.0.1, open until it has it
    #[arg(long, value_name = "ENGINE", conflicts_with_all = ["to", "image"], value_parser = engine_address)]
    into: Option<String>,
    #[command(flatten)]
    source: Source,
}

/// The form of a restored image.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Form {
    /// A folder: an OCI image layout
    OciLayout,
    /// The same in one file
    OciArchive,
    /// What `docker load` takes
    DockerArchive,
}

/// An engine's address, or the word for the usual one.
fn engine_address(text: &str) -> std::result::Result<String, String> {
    match text {
        "docker" => Ok(text.to_owned()),
        _ if ["unix:///", "tcp://"].iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme)) => {
            Ok(text.to_owned())
        }
        _ => Err("write docker, unix:///PATH or tcp://HOST:PORT".to_owned()),
    }
}

/// The image, into an engine.
async fn into(
    shell: &Shell,
    store: &Store,
    trusted: &TrustedKeys,
    release: &ReleaseName,
    typed: &str,
) -> Result<Report> {
    let engine = Some(typed).filter(|typed| *typed != "docker");
    let loaded = restore::into_docker(store, trusted, release, engine, &shell.events).await?;
    let there = if loaded.was_there { "was there already, and is" } else { "is" };
    let host = engine.map(|address| format!("-H {} ", restore::shell_word(address))).unwrap_or_default();
    let words = format!(
        "the image of {release} {there} in the Docker Engine at {} as {}: {} ({})\n  next: docker {host}run --rm {}",
        loaded.engine, loaded.name, loaded.id, loaded.platform, loaded.name
    );
    Ok(Report::new(&loaded, words))
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let store = arguments.source.open_store(shell).await?;
    let trusted = arguments.source.trusted(shell)?;
    let release = arguments.source.resolve(shell, &store, &arguments.reference).await?;
    if let Some(typed) = &arguments.into {
        return into(shell, &store, &trusted, &release, typed).await;
    }
    let Some(to) = &arguments.to else {
        return Err(Error::Usage { message: "say where to: --to DIR or --into docker".to_owned() });
    };
    if let Some(form) = arguments.image {
        let form = match form {
            Form::OciLayout => restore::ImageForm::OciLayout,
            Form::OciArchive => restore::ImageForm::OciArchive,
            Form::DockerArchive => restore::ImageForm::DockerArchive,
        };
        let image = restore::image(&store, &trusted, &release, form, &shell.path(to), &shell.events).await?;
        let load = match form {
            restore::ImageForm::OciLayout => format!("skopeo inspect oci:{}", to.display()),
            restore::ImageForm::OciArchive => format!("skopeo inspect oci-archive:{}", to.display()),
            restore::ImageForm::DockerArchive => format!("docker load --input {}", to.display()),
        };
        let words = format!("the image of {release} is in {}: {}\n  next: {load}", to.display(), image.digest);
        return Ok(Report::new(&image, words));
    }
    let restored = restore::restore(&store, &trusted, &release, &shell.path(to), &shell.events).await?;
    let mut words = format!(
        "{} restored to {}: {}, {}, signed by {}; every digest holds",
        restored.release,
        restored.to.display(),
        count(restored.files, "file"),
        bytes(restored.bytes),
        restored.signer
    );
    if !restored.not_restored.is_empty() {
        words.push_str(&format!("\n  not in it: the values of the secrets {}", restored.not_restored.join(", ")));
    }
    words.push_str(&format!("\n  check: (cd {} && sha256sum -c SHA256SUMS)", to.display()));
    if let Some(run) = &restored.run {
        words.push_str(&format!("\n  run: {run}"));
    }
    Ok(Report::new(&restored, words))
}
