//! `sealift audit`.

use super::source;
use crate::{
    report::Report,
    shell::Shell,
    text::{Paint, Style, Table, at, count},
};
use domain::{Digest, Name, manifest::Anchor};
use engine::{
    Error, Result, TrustedKeys, Workspace,
    chain::{self, Chain, Head, Summary},
    error::Doing,
    releases,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Read and verify the ledger
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift audit log production\n  sealift audit verify")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show the entries of an environment's ledger, verified on the way
    #[command(
        after_help = "Example:\n  sealift audit log production\n  sealift audit log production --limit 200 --format json"
    )]
    Log {
        /// The environment; without it all of them
        #[arg(value_name = "ENV")]
        environment: Option<String>,
        /// The newest so many of each environment
        #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50)]
        limit: usize,
    },
    /// Verify signatures, order and completeness of the ledger
    ///
    /// Compared with the head, with what this host remembers and with the heads that were sealed into releases. With
    /// --offline a copy of the bucket is enough (ledger/ and, for more anchors, releases/).
    #[command(
        after_help = "Example:\n  sealift audit verify\n  aws s3 cp --recursive s3://releases/wine export && sealift audit verify --offline export --key release.pub\n\nExit codes: 73 when the chain is broken; the entry is named"
    )]
    Verify {
        /// The environment; without it all of them
        #[arg(value_name = "ENV")]
        environment: Option<String>,
        /// Verify a copy of the bucket in this folder, without any store
        #[arg(long, value_name = "DIR")]
        offline: Option<PathBuf>,
        /// A public key that is trusted; without it those of Sealift.toml
        #[arg(long = "key", value_name = "PUB.pem", requires = "offline")]
        keys: Vec<PathBuf>,
    },
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    match &arguments.what {
        What::Log { environment, limit } => log(shell, environment.as_deref(), *limit).await,
        What::Verify { environment, offline: Some(folder), keys } => {
            offline(shell, environment.as_deref(), &shell.path(folder), keys)
        }
        What::Verify { environment, .. } => verify(shell, environment.as_deref()).await,
    }
}

async fn log(shell: &Shell, wanted: Option<&str>, limit: usize) -> Result<Report> {
    let workspace = shell.workspace()?;
    let log_of = super::logs(&workspace).await?;
    let paint = Paint::out();
    let (mut all, mut words) = (Vec::new(), Vec::new());
    for environment in super::environments(&workspace.config, wanted)? {
        let mut records = log_of(&environment).records().await?;
        records.drain(..records.len().saturating_sub(limit));
        let mut table = Table::new(["ENTRY", "WHEN", "ACTION", "ABOUT", "EPOCH", "WHO", "REASON", "DIGEST"]);
        for record in &records {
            let entry = &record.entry;
            table.row([
                entry.seq.to_string().into(),
                at(entry.ts).into(),
                entry.action.clone().into(),
                about(&entry.subject).into(),
                entry.epoch.to_string().into(),
                entry.actor.clone().into(),
                entry.reason.clone().into(),
                record.digest.short().into(),
            ]);
        }
        let name = paint.style(environment.as_str(), Style::Bold);
        words.push(match records.is_empty() {
            true => format!("{name}: no entry yet"),
            false => format!("{name}\n{}", table.render("  ", &paint)),
        });
        let entries: Vec<Value> =
            records.iter().map(|record| json!({ "digest": record.digest, "entry": record.entry })).collect();
        all.push(json!({ "environment": environment, "entries": entries }));
    }
    Ok(Report::new(&all, words.join("\n\n")))
}

/// What an entry is about, in a few words.
fn about(subject: &BTreeMap<String, Value>) -> String {
    let text = |key: &str| subject.get(key).and_then(Value::as_str);
    let mut words: Vec<String> = Vec::new();
    match (text("title"), text("release")) {
        (Some(title), _) => words.push(title.to_owned()),
        (None, Some(release)) => words.push(release.to_owned()),
        _ => {}
    }
    for key in ["verb", "gate", "verdict", "ending", "error"] {
        words.extend(text(key).map(str::to_owned));
    }
    if text("direction") == Some("back") {
        words.push("(on the way back)".to_owned());
    }
    words.join(" ")
}

async fn verify(shell: &Shell, wanted: Option<&str>) -> Result<Report> {
    let workspace = shell.workspace()?;
    let log_of = super::logs(&workspace).await?;
    let mut anchors = sealed_anchors(&workspace).await?;
    let mut found = Vec::new();
    for environment in super::environments(&workspace.config, wanted)? {
        let of_it = anchors.remove(&environment).unwrap_or_default();
        let (_, summary) = log_of(&environment).verify(of_it).await?;
        found.push((environment, summary));
    }
    Ok(report(&found))
}

/// The heads that were sealed into releases, by environment.
async fn sealed_anchors(workspace: &Workspace) -> Result<BTreeMap<Name, Vec<Anchor>>> {
    let (store, trusted) = (workspace.store().await?, super::trusted(workspace)?);
    let mut anchors: BTreeMap<Name, Vec<Anchor>> = BTreeMap::new();
    for release in releases::list(&store, None).await? {
        let sealed = releases::read(&store, &trusted, &release).await?;
        for (environment, anchor) in sealed.manifest.anchors {
            anchors.entry(environment).or_default().push(anchor);
        }
    }
    Ok(anchors)
}

/// Verifies a copy of the bucket. Nothing but files and keys is used.
fn offline(shell: &Shell, wanted: Option<&str>, folder: &Path, keys: &[PathBuf]) -> Result<Report> {
    let trusted = match (keys, shell.workspace_if_any()?) {
        ([], Some(workspace)) => workspace.trusted_keys()?,
        ([], None) => {
            return Err(Error::Usage { message: "--key is needed, because there is no Sealift.toml here".to_owned() });
        }
        (keys, _) => source::trusted_files(shell, keys)?,
    };
    let ledgers = folder.join("ledger");
    let mut environments: Vec<String> = names(&ledgers)?;
    if let Some(wanted) = wanted {
        if !environments.iter().any(|name| name == wanted) {
            return Err(domain::names::Unknown::new("ledger", wanted, &environments).into());
        }
        environments = vec![wanted.to_owned()];
    }
    if environments.is_empty() {
        return Err(Error::not_found(format!("there is no ledger in {}", ledgers.display())));
    }
    let mut anchors = exported_anchors(&folder.join("releases"), &trusted)?;
    let mut found = Vec::new();
    for name in environments {
        let environment = Name::new(name).map_err(|error| Error::bad_input(error.to_string()))?;
        let of_it = anchors.remove(&environment).unwrap_or_default();
        let summary = walk(folder, &environment, &trusted, of_it)?;
        found.push((environment, summary));
    }
    Ok(report(&found))
}

/// One ledger of an export.
fn walk(folder: &Path, environment: &Name, trusted: &TrustedKeys, anchors: Vec<Anchor>) -> Result<Summary> {
    let doing = || format!("verify the exported ledger of {environment}");
    let anchors = anchors.into_iter().map(|anchor| chain::Anchor { seq: anchor.seq, digest: anchor.digest }).collect();
    let mut chain = Chain::verifier(environment.clone(), trusted.clone(), anchors);
    let mut entries: Vec<(u64, String)> = names(&folder.join("ledger").join(environment.as_str()))?
        .into_iter()
        .filter_map(|file| {
            let key = format!("ledger/{environment}/{file}");
            chain::parse_entry_key(&key).map(|(_, seq)| (seq, key))
        })
        .collect();
    entries.sort();
    for (seq, key) in entries {
        let path = folder.join(key);
        let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
        chain.push(seq, &bytes).doing(doing())?;
    }
    let path = folder.join(chain::head_key(environment));
    let head = match fs::read(&path) {
        Ok(bytes) => Some(Head::parse(&bytes).doing(doing())?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::File { action: "read", path, source: error }),
    };
    chain.finish(head.as_ref()).doing(doing())
}

fn exported_anchors(folder: &Path, trusted: &TrustedKeys) -> Result<BTreeMap<Name, Vec<Anchor>>> {
    let mut anchors: BTreeMap<Name, Vec<Anchor>> = BTreeMap::new();
    if !folder.is_dir() {
        return Ok(anchors);
    }
    for component in names(folder)? {
        for file in names(&folder.join(&component))?.into_iter().filter(|file| file.ends_with(".sigstore.json")) {
            let path = folder.join(&component).join(file);
            let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
            for (environment, anchor) in releases::verify(&bytes, trusted)?.manifest.anchors {
                anchors.entry(environment).or_default().push(anchor);
            }
        }
    }
    Ok(anchors)
}

/// The names in a folder, in order.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("there is no folder {}", folder.display())),
        _ => Error::File { action: "read the folder", path: folder.to_owned(), source: error },
    })?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file("read the folder", folder))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn report(found: &[(Name, Summary)]) -> Report {
    let paint = Paint::out();
    let last = |summary: &Summary| summary.last.as_ref().map(|head| (head.seq, head.digest));
    let (mut all, mut lines) = (Vec::new(), Vec::new());
    for (environment, summary) in found {
        let digest: Option<Digest> = last(summary).map(|(_, digest)| digest);
        all.push(json!({
            "environment": environment,
            "entries": summary.entries,
            "last": digest,
            "anchored": summary.anchored,
            "head_lag": summary.head_lag,
        }));
        let newest = digest.map_or_else(String::new, |digest| format!(", newest {digest}"));
        let lag = match summary.head_lag {
            0 => String::new(),
            lag => format!(
                ", the head lags {} behind (the next writer mends it)",
                count(lag, "entry").replace("entrys", "entries")
            ),
        };
        let entries = if summary.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", summary.entries) };
        let mark = paint.style("✓", Style::Good);
        lines.push(format!("{mark} {environment}: {entries}, anchored up to {}{newest}{lag}", summary.anchored));
    }
    Report::new(&all, lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_it_is_about() {
        let subject = |value: Value| serde_json::from_value::<BTreeMap<String, Value>>(value).unwrap();
        let step = subject(json!({ "title": "stop wine@1.0.0 in blue", "direction": "back", "step": 1 }));
        assert_eq!(about(&step), "stop wine@1.0.0 in blue (on the way back)");
        let judged = subject(json!({ "release": "wine@1.1.0", "gate": "quality", "verdict": "crit" }));
        assert_eq!(about(&judged), "wine@1.1.0 quality crit");
    }
}
