//! `sealift audit`.

use super::source::Source;
use crate::{
    report::Report,
    shell::Shell,
    text::{Paint, Style, Table, at},
};
use domain::{
    Digest, Name,
    manifest::{Anchor, Manifest},
};
use engine::{
    Error, Result, Store, TrustedKeys,
    chain::{self, Chain, Head, Summary},
    error::Doing,
    journal::Log,
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
        #[arg(long, value_name = "DIR", conflicts_with = "store")]
        offline: Option<PathBuf>,
        #[command(flatten)]
        source: Source,
    },
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    match &arguments.what {
        What::Log { environment, limit } => log(shell, environment.as_deref(), *limit).await,
        What::Verify { environment, offline: Some(folder), source } => {
            offline(environment.as_deref(), &shell.path(folder), &source.trusted(shell)?)
        }
        What::Verify { environment, offline: None, source } => verify(shell, environment.as_deref(), source).await,
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

async fn verify(shell: &Shell, wanted: Option<&str>, source: &Source) -> Result<Report> {
    let store = source.open_store(shell).await?;
    let trusted = source.trusted(shell)?;
    // What this host remembers belongs to the repository's own store, not to one that was typed.
    let workspace = if source.is_typed() { None } else { shell.workspace_if_any()? };
    let memory = workspace.as_ref().map(|workspace| workspace.ledger_memory(&store));
    let environments = match &workspace {
        Some(workspace) => super::environments(&workspace.config, wanted)?,
        None => in_store(&store, wanted).await?,
    };
    let mut anchors = sealed_anchors(&store, &trusted).await?;
    let mut found = Vec::new();
    for environment in environments {
        let of_it = anchors.remove(&environment).unwrap_or_default();
        let log = Log::new(store.clone(), environment.clone(), trusted.clone(), memory.as_deref());
        let (records, summary) = log.verify(of_it).await?;
        let current = releases::current(&store, &environment).await?;
        let disagreements = domain::state::disagreements(&current, &engine::status::rollouts(&records)?);
        if !disagreements.is_empty() {
            let key = releases::current_key(&environment);
            return Err(Error::Integrity {
                message: format!("{key} is not what the ledger says: {}", disagreements.join("; ")),
            });
        }
        found.push((environment, summary));
    }
    Ok(report(&found))
}

/// The environments that have a ledger in a store.
async fn in_store(store: &Store, wanted: Option<&str>) -> Result<Vec<Name>> {
    let keys = store.list("ledger/").await.doing("list the ledgers")?;
    let mut names: Vec<Name> =
        keys.iter().filter_map(|(key, _)| chain::parse_entry_key(key).map(|(name, _)| name)).collect();
    names.dedup();
    select(names, wanted, &store.describe())
}

/// The ledger that is wanted among those found, or all of them.
fn select(mut found: Vec<Name>, wanted: Option<&str>, place: &str) -> Result<Vec<Name>> {
    if let Some(wanted) = wanted {
        if !found.iter().any(|name| name.as_str() == wanted) {
            return Err(domain::names::Unknown::new("ledger", wanted, &found).into());
        }
        found.retain(|name| name.as_str() == wanted);
    }
    match found.is_empty() {
        true => Err(Error::not_found(format!("there is no ledger in {place}"))),
        false => Ok(found),
    }
}

/// The heads that were sealed into releases, by environment.
async fn sealed_anchors(store: &Store, trusted: &TrustedKeys) -> Result<BTreeMap<Name, Vec<Anchor>>> {
    let mut anchors: BTreeMap<Name, Vec<Anchor>> = BTreeMap::new();
    for release in releases::list(store, None).await? {
        let sealed = releases::read(store, trusted, &release).await?;
        for (environment, anchor) in sealed.manifest.anchors {
            anchors.entry(environment).or_default().push(anchor);
        }
    }
    Ok(anchors)
}

/// Verifies a copy of the bucket. Nothing but files and keys is used.
fn offline(wanted: Option<&str>, folder: &Path, trusted: &TrustedKeys) -> Result<Report> {
    let ledgers = folder.join("ledger");
    let mut anchors = exported_anchors(&folder.join("releases"), trusted)?;
    // A ledger that a release has an anchor in must be there, also when its whole folder is gone.
    let mut found: Vec<Name> = names(&ledgers)?.into_iter().filter_map(|name| Name::new(name).ok()).collect();
    found.extend(anchors.keys().cloned());
    found.sort();
    found.dedup();
    let environments = select(found, wanted, &ledgers.display().to_string())?;
    let mut found = Vec::new();
    for environment in environments {
        let of_it = anchors.remove(&environment).unwrap_or_default();
        let summary = walk(folder, &environment, trusted, of_it)?;
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
            for (environment, anchor) in sealed(&bytes, trusted, &path)?.anchors {
                anchors.entry(environment).or_default().push(anchor);
            }
        }
    }
    Ok(anchors)
}

/// The manifest in an exported bundle; an error names the file.
fn sealed(bytes: &[u8], trusted: &TrustedKeys, path: &Path) -> Result<Manifest> {
    match releases::verify(bytes, trusted) {
        Ok(sealed) => Ok(sealed.manifest),
        Err(Error::Failed { cause, .. }) => Err(Error::Failed { doing: format!("verify {}", path.display()), cause }),
        Err(other) => Err(other),
    }
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
            lag => format!(", the head lags {} behind (the next writer mends it)", entries(lag)),
        };
        let mark = paint.style("✓", Style::Good);
        lines.push(format!(
            "{mark} {environment}: {}, anchored up to {}{newest}{lag}",
            entries(summary.entries),
            summary.anchored
        ));
    }
    Report::new(&all, lines.join("\n"))
}

fn entries(number: u64) -> String {
    if number == 1 { "1 entry".to_owned() } else { format!("{number} entries") }
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
