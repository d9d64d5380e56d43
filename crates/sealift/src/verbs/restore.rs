//! `sealift restore`.

use super::source::Source;
use crate::{
    report::Report,
    shell::Shell,
    text::{bytes, count},
};
use engine::{Result, restore};
use std::path::PathBuf;

/// Bring a release out of the store into a folder, verified byte for byte
///
/// Needs only the store and a public key: no git, no registry, no Sealift.toml.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sealift restore wine@1.1.0 --to restored\n  sealift restore wine@1.1.0 --image docker-archive --to wine.tar\n  sealift restore wine@1.1.0 --to restored --store s3://releases/wine --endpoint https://s3.example.com --key release.pub"
)]
pub(crate) struct Arguments {
    /// The release
    #[arg(value_name = "REF")]
    reference: String,
    /// A folder that does not exist yet, or is empty; the file of an archive with --image
    #[arg(long, value_name = "DIR|FILE")]
    to: PathBuf,
    /// Only the image, in this form
    #[arg(long, value_name = "FORM")]
    image: Option<Form>,
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

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let store = arguments.source.open_store(shell).await?;
    let trusted = arguments.source.trusted(shell)?;
    let release = arguments.source.resolve(shell, &store, &arguments.reference).await?;
    if let Some(form) = arguments.image {
        let form = match form {
            Form::OciLayout => restore::ImageForm::OciLayout,
            Form::OciArchive => restore::ImageForm::OciArchive,
            Form::DockerArchive => restore::ImageForm::DockerArchive,
        };
        let to = shell.path(&arguments.to);
        let image = restore::image(&store, &trusted, &release, form, &to, &shell.events).await?;
        let load = match form {
            restore::ImageForm::OciLayout => format!("skopeo inspect oci:{}", arguments.to.display()),
            restore::ImageForm::OciArchive => format!("skopeo inspect oci-archive:{}", arguments.to.display()),
            restore::ImageForm::DockerArchive => format!("docker load --input {}", arguments.to.display()),
        };
        let words =
            format!("the image of {release} is in {}: {}\n  next: {load}", arguments.to.display(), image.digest);
        return Ok(Report::new(&image, words));
    }
    let restored = restore::restore(&store, &trusted, &release, &shell.path(&arguments.to), &shell.events).await?;
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
    words.push_str(&format!("\n  check: (cd {} && sha256sum -c SHA256SUMS)", arguments.to.display()));
    if let Some(run) = &restored.run {
        words.push_str(&format!("\n  run: {run}"));
    }
    Ok(Report::new(&restored, words))
}
