//! `sealift model`.

use crate::{
    report::Report,
    shell::Shell,
    text::{self, Paint},
};
use engine::{Result, models};
use serde_json::json;
use std::path::PathBuf;

/// Keep models with their metrics and their lineage
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift model register quality\n  sealift model show quality")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Store a model with its metrics, its commit, its data and the command that trained it
    #[command(after_help = "Example:\n  sealift model register\n  sealift model register quality")]
    Register {
        /// The model; without it all of Sealift.toml
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// List registered versions, oldest first
    #[command(after_help = "Example:\n  sealift model list\n  sealift model list quality")]
    List {
        /// The model; without it all of them
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Show one version: metrics and lineage
    #[command(after_help = "Example:\n  sealift model show quality\n  sealift model show quality@2026-11-21-3f9a2c")]
    Show {
        /// NAME@VERSION, or NAME for its newest
        #[arg(value_name = "REF")]
        reference: String,
    },
    /// Fetch a version's bytes, verified
    #[command(after_help = "Example:\n  sealift model download quality --to models/quality.json")]
    Download {
        /// NAME@VERSION, or NAME for its newest
        #[arg(value_name = "REF")]
        reference: String,
        /// A file, or a folder in which it keeps its own name
        #[arg(long, value_name = "PATH", default_value = ".")]
        to: PathBuf,
    },
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    Ok(match &arguments.what {
        What::Register { name } => {
            let all = models::register(&workspace, name.as_deref()).await?;
            let lines: Vec<String> = all
                .iter()
                .map(|one| {
                    let state = if one.new { "registered" } else { "was registered before" };
                    format!("{} {state}  {}", one.record.reference(), text::explain::metrics(&one.record.metrics))
                })
                .map(|line| line.trim_end().to_owned())
                .collect();
            Report::new(&all, lines.join("\n"))
        }
        What::List { name } => {
            let all = models::list(&workspace, name.as_deref()).await?;
            Report::new(&all, text::data::models(&all, &Paint::out()))
        }
        What::Show { reference } => {
            let record = models::show(&workspace, reference).await?;
            Report::new(&record, text::data::model(&record))
        }
        What::Download { reference, to } => {
            let (record, path) = models::download(&workspace, reference, &shell.path(to)).await?;
            let words = format!("{} is in {} ({}, verified)", record.reference(), path.display(), record.digest);
            Report::new(&json!({ "record": record, "path": path }), words)
        }
    })
}
