//! `sealift data`.

use crate::{
    report::Report,
    shell::Shell,
    text::{self, Paint},
};
use engine::{Result, Workspace, data, data::VerifyOf};
use std::path::{Component, Path};

/// Keep data sets that are too large for git
///
/// A snapshot is taken into the local cache, named by its digest in a small pointer file beside the data, and pushed to
/// the store apart. Data sets are named by [data.NAME] or by path; without any, all of Sealift.toml are meant.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift data add data/raw && git add data/raw.snapshot.toml\n  sealift data push")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Take a snapshot and write the pointer file
    #[command(after_help = "Example:\n  sealift data add data/raw")]
    Add(Sets),
    /// Show whether data is as it was added, and whether the store has it
    #[command(after_help = "Example:\n  sealift data status\n  sealift data status --remote backup")]
    Status {
        #[command(flatten)]
        sets: Sets,
        #[command(flatten)]
        remote: Remote,
    },
    /// Send snapshots to the store; what is there already is not sent again
    #[command(after_help = "Example:\n  sealift data push\n  sealift data push wine-quality --remote backup")]
    Push {
        #[command(flatten)]
        sets: Sets,
        #[command(flatten)]
        remote: Remote,
    },
    /// Fetch snapshots from the store and write their files
    #[command(after_help = "Example:\n  sealift data pull\n  sealift data pull wine-quality --force")]
    Pull {
        #[command(flatten)]
        what: Overwriting,
        #[command(flatten)]
        remote: Remote,
    },
    /// Write the files of snapshots from the local cache
    #[command(after_help = "Example:\n  git checkout v1.0.0 && sealift data checkout")]
    Checkout(Overwriting),
    /// Read snapshots back and check every byte
    #[command(after_help = "Example:\n  sealift data verify\n  sealift data verify --local")]
    Verify {
        #[command(flatten)]
        sets: Sets,
        /// Check the local cache instead of the store
        #[arg(long, conflicts_with = "remote")]
        local: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show the versions of a data set in git's history
    #[command(after_help = "Example:\n  sealift data log wine-quality")]
    Log {
        /// The data set
        #[arg(value_name = "DATA")]
        set: String,
        /// At most this many
        #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 20)]
        limit: usize,
    },
}

#[derive(Debug, clap::Args)]
struct Sets {
    /// Names or paths of data sets; without any, all of Sealift.toml
    #[arg(value_name = "DATA")]
    sets: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Remote {
    /// A store of [store.remote.NAME] instead of that of [store]
    #[arg(long, value_name = "NAME")]
    remote: Option<String>,
}

impl Remote {
    fn name(&self) -> Option<&str> {
        self.remote.as_deref()
    }
}

#[derive(Debug, clap::Args)]
struct Overwriting {
    #[command(flatten)]
    sets: Sets,
    /// Overwrite and remove files that were changed here and are in no snapshot
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let paint = Paint::out();
    let named = |sets: &Sets| sets.sets.iter().map(|set| from_root(shell, &workspace, set)).collect::<Vec<_>>();
    Ok(match &arguments.what {
        What::Add(sets) => {
            let all = data::add(&workspace, &named(sets)).await?;
            Report::new(&all, text::data::added(&all, &paint))
        }
        What::Status { sets, remote } => {
            let all = data::status(&workspace, &named(sets), remote.name()).await?;
            Report::new(&all, text::data::status(&all, &paint))
        }
        What::Push { sets, remote } => {
            let all = data::push(&workspace, &named(sets), remote.name()).await?;
            Report::new(&all, text::data::pushed(&all, &paint))
        }
        What::Pull { what: Overwriting { sets, force }, remote } => {
            let all = data::pull(&workspace, &named(sets), &[], *force, remote.name()).await?;
            Report::new(&all, text::data::checked_out(&all, &paint))
        }
        What::Checkout(Overwriting { sets, force }) => {
            let all = data::checkout(&workspace, &named(sets), *force).await?;
            Report::new(&all, text::data::checked_out(&all, &paint))
        }
        What::Verify { sets, local, remote } => {
            let of = if *local { VerifyOf::Cache } else { VerifyOf::Store(remote.name()) };
            let all = data::verify(&workspace, &named(sets), &of).await?;
            Report::new(&all, text::data::verified(&all, &paint))
        }
        What::Log { set, limit } => {
            let all = data::log(&workspace, &from_root(shell, &workspace, set), *limit).await?;
            Report::new(&all, text::data::log(&all, &paint))
        }
    })
}

/// A path that was typed in a folder below the root, as the root sees it. Names, and paths that lead elsewhere, stay
/// what they are: the engine says what is wrong with them.
fn from_root(shell: &Shell, workspace: &Workspace, typed: &str) -> String {
    let path = Path::new(typed);
    let upwards = path.components().any(|part| part == Component::ParentDir);
    if upwards || workspace.config.data.contains_key(typed) {
        return typed.to_owned();
    }
    let full: std::path::PathBuf = shell.path(path).components().filter(|part| *part != Component::CurDir).collect();
    match full.strip_prefix(&workspace.root).ok().and_then(Path::to_str) {
        Some(relative) if !relative.is_empty() => relative.to_owned(),
        _ => typed.to_owned(),
    }
}
