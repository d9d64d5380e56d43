//! `sealift data`.

use super::dvc;
use crate::{
    report::Report,
    shell::Shell,
    text::{self, Paint},
};
use domain::config;
use engine::{
    Result, Workspace,
    collect::{self, Place},
    data,
    data::VerifyOf,
};
use std::{
    path::{Component, Path},
    time::Duration,
};

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
    #[command(
        after_help = "Example:\n  sealift data pull\n  sealift data pull wine-quality --path 2024/ --path README"
    )]
    Pull {
        #[command(flatten)]
        what: Overwriting,
        /// Only this file or folder inside the one data set; may be given several times
        #[arg(long = "path", value_name = "PATH")]
        parts: Vec<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Write the files of snapshots from the local cache
    #[command(after_help = "Example:\n  git checkout v1.0.0 && sealift data checkout")]
    Checkout(Overwriting),
    /// Read snapshots back and check every byte
    #[command(
        after_help = "Example:\n  sealift data verify\n  sealift data verify --local\n  sealift data verify --remote backup"
    )]
    Verify {
        #[command(flatten)]
        sets: Sets,
        /// Check the local cache instead of the store
        #[arg(long, conflicts_with = "remote")]
        local: bool,
        /// A store of [store.remote.NAME]; without a name that of [store], which is meant without --remote too
        #[arg(long, value_name = "NAME", num_args = 0..=1)]
        remote: Option<Option<String>>,
    },
    /// Show what changed between two versions of a data set
    ///
    /// A version is a git revision or a snapshot's digest. Without any, HEAD is compared with the pointer as it is now.
    #[command(
        after_help = "Example:\n  sealift data diff wine-quality\n  sealift data diff wine-quality v1.0.0 v1.1.0"
    )]
    Diff {
        /// The data set
        #[arg(value_name = "DATA")]
        set: String,
        /// The first version; HEAD by default
        #[arg(value_name = "FROM")]
        from: Option<String>,
        /// The second version; the pointer in the work tree by default
        #[arg(value_name = "TO")]
        to: Option<String>,
    },
    /// Remove what no release, branch, tag or work tree needs; without --yes only say what that is
    ///
    /// What is kept is said by [policy.data] in Sealift.toml. The whole history of the branches and tags named there counts, and
    /// whatever is younger than the grace stays.
    #[command(after_help = "Example:\n  sealift data gc\n  sealift data gc --yes\n  sealift data gc --cache --yes")]
    Gc {
        #[command(flatten)]
        remote: Remote,
        /// Collect the cache of this host instead of the store
        #[arg(long, conflicts_with_all = ["remote", "grace"])]
        cache: bool,
        /// Keep what is younger than this, by the store's clock, instead of the policy's grace
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        grace: Option<Duration>,
        /// Remove it
        #[arg(long)]
        yes: bool,
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
    ImportDvc(dvc::Import),
    ExportDvc(dvc::Export),
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
        What::Pull { what: Overwriting { sets, force }, parts, remote } => {
            let all = data::pull(&workspace, &named(sets), parts, *force, remote.name()).await?;
            Report::new(&all, text::data::checked_out(&all, &paint))
        }
        What::Checkout(Overwriting { sets, force }) => {
            let all = data::checkout(&workspace, &named(sets), *force).await?;
            Report::new(&all, text::data::checked_out(&all, &paint))
        }
        What::Verify { sets, local, remote } => {
            let of = if *local {
                VerifyOf::Cache
            } else {
                VerifyOf::Store(remote.as_ref().and_then(|name| name.as_deref()))
            };
            let all = data::verify(&workspace, &named(sets), &of).await?;
            Report::new(&all, text::data::verified(&all, &paint))
        }
        What::Diff { set, from, to } => {
            let set = from_root(shell, &workspace, set);
            let diff = data::diff(&workspace, &set, from.as_deref(), to.as_deref()).await?;
            Report::new(&diff, text::data::diff(&diff))
        }
        What::Gc { remote, cache, grace, yes } => {
            let place = if *cache { Place::Cache } else { Place::Store(remote.remote.clone()) };
            let planned = collect::plan(&workspace, &place, *grace).await?;
            let plan = text::data::planned(&planned, &paint);
            let nothing = planned.plan.remove.is_empty();
            if *yes {
                if !nothing {
                    workspace.events.note(plan.clone());
                }
                // Also with nothing to remove: notes of a collection that died are put right.
                let done = collect::carry_out(&workspace, &place, planned).await?;
                let went = done.collected.as_ref().map(text::data::collected);
                return Ok(Report::new(&done, went.filter(|_| !nothing).unwrap_or(plan)));
            }
            if nothing {
                return Ok(Report::new(&planned, plan));
            }
            let mut again = "sealift data gc --yes".to_owned();
            if *cache {
                again.push_str(" --cache");
            }
            for (option, value) in
                [("--remote", remote.remote.clone()), ("--grace", grace.as_ref().map(config::duration::format))]
            {
                again.push_str(&value.map_or_else(String::new, |value| format!(" {option} {value}")));
            }
            Report::new(&planned, format!("{plan}\n  next: {again}"))
        }
        What::ImportDvc(import) => dvc::import(shell, &workspace, import).await?,
        What::ExportDvc(export) => dvc::export(shell, &workspace, export).await?,
        What::Log { set, limit } => {
            let all = data::log(&workspace, &from_root(shell, &workspace, set), *limit).await?;
            Report::new(&all, text::data::log(&all, &paint))
        }
    })
}

/// A duration as in the configuration: `7d`, `12h`, `0s`.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    config::duration::parse(text).ok_or_else(|| "is no duration: write 30s, 5m, 2h or 7d".to_owned())
}

/// A path that was typed in a folder below the root, as the root sees it. Names, and paths that lead elsewhere, stay
/// what they are: the engine says what is wrong with them.
pub(super) fn from_root(shell: &Shell, workspace: &Workspace, typed: &str) -> String {
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
