//! `sealift data import-dvc` and `sealift data export-dvc`.

use super::data::from_root;
use crate::{
    report::Report,
    shell::Shell,
    text::{self, Paint},
};
use engine::{Result, Workspace, dvc};

/// Take data that DVC keeps into snapshots
///
/// Bytes come from the workspace, from DVC's cache, or from the remote that DVC would ask, and only if their MD5 is the one that DVC
/// wrote down. A pointer file is written beside each .dvc file; nothing of DVC's is changed. Without a target, all .dvc and
/// dvc.lock files below the root are meant. DVC 2.x and 3.x are read, and remotes on S3 and in folders.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sealift data import-dvc\n  sealift data import-dvc data/raw.dvc --remote backup\n  \
    sealift data import-dvc dvc.yaml:train --remote s3://bucket/dvc"
)]
pub(crate) struct Import {
    /// .dvc files, dvc.lock files, stages, or the data itself; without any, all that DVC keeps
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// A remote of DVC's configuration, an S3 URL or a folder, instead of the remote that DVC would ask
    #[arg(long, value_name = "NAME|URL")]
    remote: Option<String>,
    /// Where the one data set is to be, instead of where DVC has it
    #[arg(long, value_name = "PATH")]
    to: Option<String>,
}

/// Bring snapshots into a DVC remote, and write the .dvc files
///
/// What is written, `dvc pull` reads and `dvc status --cloud` calls in sync. Objects that the remote has are not sent again;
/// one with another size is, and with --verify also one with other bytes. The data must be checked out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift data export-dvc --remote backup\n  \
    sealift data export-dvc data/raw --remote s3://bucket/dvc --endpoint http://minio:9000 --save-as new")]
pub(crate) struct Export {
    /// Names or paths of data sets; without any, all of Sealift.toml
    #[arg(value_name = "DATA")]
    sets: Vec<String>,
    /// A remote of DVC's configuration, an S3 URL or a folder; without it, the remote that DVC would ask
    #[arg(long, value_name = "NAME|URL")]
    remote: Option<String>,
    /// The endpoint of an S3 URL that is not on AWS
    #[arg(long, value_name = "URL", requires = "remote")]
    endpoint: Option<String>,
    /// The region of an S3 URL
    #[arg(long, value_name = "REGION", requires = "remote")]
    region: Option<String>,
    /// Write the remote into .dvc/config under this name, as the default where there is none
    #[arg(long, value_name = "NAME", requires = "remote")]
    save_as: Option<String>,
    /// Read back what the remote has, instead of comparing sizes
    #[arg(long)]
    verify: bool,
}

pub(crate) async fn import(shell: &Shell, workspace: &Workspace, arguments: &Import) -> Result<Report> {
    let targets: Vec<String> = arguments.targets.iter().map(|typed| from_root(shell, workspace, typed)).collect();
    let remote = arguments.remote.as_deref().map(|typed| remote(shell, typed));
    let to = arguments.to.as_deref().map(|typed| from_root(shell, workspace, typed));
    let import = dvc::Import { targets: &targets, remote: remote.as_deref(), to: to.as_deref() };
    let all = dvc::import(workspace, &shell.around_dvc(), &import).await?;
    Ok(Report::new(&all, text::dvc::imported(&all, &Paint::out())))
}

pub(crate) async fn export(shell: &Shell, workspace: &Workspace, arguments: &Export) -> Result<Report> {
    let sets: Vec<String> = arguments.sets.iter().map(|typed| from_root(shell, workspace, typed)).collect();
    let remote = arguments.remote.as_deref().map(|typed| remote(shell, typed));
    let export = dvc::Export {
        sets: &sets,
        remote: remote.as_deref(),
        endpoint: arguments.endpoint.as_deref(),
        region: arguments.region.as_deref(),
        verify: arguments.verify,
        save: arguments.save_as.as_deref(),
    };
    let all = dvc::export(workspace, &shell.around_dvc(), &export).await?;
    Ok(Report::new(&all, text::dvc::exported(&all, &Paint::out())))
}

/// A folder is relative to the one that was asked for; names and URLs stay.
fn remote(shell: &Shell, typed: &str) -> String {
    let folder = typed.contains('/') && !typed.contains("://");
    if folder { shell.path(typed.as_ref()).display().to_string() } else { typed.to_owned() }
}
