//! `sealift store`.

use super::source::Source;
use crate::{
    report,
    report::Report,
    shell::Shell,
    text,
    text::{Cell, Paint, Style, Table},
};
use domain::{config::StoreConfig, secret::Secret};
use engine::{Error, Permission, Result, error::Doing, releases};
use serde_json::json;
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// Serve a local S3 store, or check one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sealift store serve --dir /srv/store --listen 127.0.0.1:9000 --bucket releases\n  sealift store check"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Serve a folder as an S3 bucket until SIGINT or SIGTERM
    ///
    /// Credentials are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; without them only this host may connect.
    #[command(
        after_help = "Example:\n  AWS_ACCESS_KEY_ID=me AWS_SECRET_ACCESS_KEY=secret \\\n    sealift store serve --dir /srv/store --listen 127.0.0.1:9000 --bucket releases"
    )]
    Serve {
        /// The folder; it is made when it is not there
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Address and port; port 0 takes a free one
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9000")]
        listen: SocketAddr,
        /// A bucket to serve; may be given several times
        #[arg(long = "bucket", value_name = "NAME", required = true)]
        buckets: Vec<String>,
    },
    /// Ask whether a store answers, permits what is needed, and keeps conditional writes
    ///
    /// Each permission is proven by doing it once on keys of its own below probes/, which are removed again. Without
    /// conditional writes leases and the ledger are not safe.
    #[command(
        after_help = "Example:\n  sealift store check\n  sealift store check --store s3://releases/wine --endpoint http://127.0.0.1:9000\n  sealift store check --policy > policy.json"
    )]
    Check {
        #[command(flatten)]
        source: Source,
        /// Print the least IAM policy that suffices for this bucket and prefix, and do nothing else
        #[arg(long)]
        policy: bool,
    },
    /// Count what is in a store, by kind
    #[command(after_help = "Example:\n  sealift store stat")]
    Stat(Source),
}

impl Arguments {
    /// The server drains by itself when it is told to stop.
    pub(crate) fn stops_by_itself(&self) -> bool {
        matches!(self.what, What::Serve { .. })
    }
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    match &arguments.what {
        What::Serve { dir, listen, buckets } => serve(shell, &shell.path(dir), *listen, buckets).await,
        What::Check { source, policy: true } => policy(shell, source),
        What::Check { source, policy: false } => check(shell, source).await,
        What::Stat(source) => stat(shell, source).await,
    }
}

async fn serve(shell: &Shell, dir: &std::path::Path, listen: SocketAddr, buckets: &[String]) -> Result<Report> {
    let credentials = credentials()?;
    let json = shell.json;
    let ready = move |address: SocketAddr| {
        let names = buckets.join(", ");
        let line = match json {
            true => json!({ "event": "listening", "address": address, "buckets": buckets }).to_string(),
            false => format!("listening on http://{address}, bucket {names}, in {}", dir.display()),
        };
        // Whoever started the server waits for this line; when nobody reads it the server serves all the same.
        let _ = report::line(&line);
    };
    let stop = shell.stop.clone();
    engine::serve(dir, listen, buckets, credentials, ready, async move { stop.cancelled().await })
        .await
        .doing(format!("serve {}", dir.display()))?;
    Ok(Report::new(&json!({ "stopped": true }), "stopped"))
}

/// Both halves from the environment, or neither.
fn credentials() -> Result<Option<(String, Secret)>> {
    let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (read("AWS_ACCESS_KEY_ID"), read("AWS_SECRET_ACCESS_KEY")) {
        (Some(access), Some(secret)) => Ok(Some((access, Secret::new(secret)))),
        (None, None) => Ok(None),
        _ => Err(Error::Usage { message: "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set".to_owned() }),
    }
}

fn policy(shell: &Shell, source: &Source) -> Result<Report> {
    match source.place(shell)? {
        StoreConfig::S3 { bucket, prefix, .. } => {
            let policy = engine::least_policy(&bucket, &prefix);
            let value: serde_json::Value = serde_json::from_str(&policy).unwrap_or_default();
            Ok(Report::new(&value, policy.trim_end()))
        }
        StoreConfig::Embedded { path } => Err(Error::Usage {
            message: format!(
                "the store in {path} is a folder: who may write there is said by its owner and mode, not by a policy"
            ),
        }),
    }
}

async fn check(shell: &Shell, source: &Source) -> Result<Report> {
    let store = source.open_store(shell).await?;
    let permissions = store.check_permissions().await.doing("try what a store must permit")?;
    let denied: Vec<&Permission> = permissions.iter().filter(|one| one.needed && !one.allowed).collect();
    if !denied.is_empty() {
        let list: Vec<String> =
            denied.iter().map(|one| format!("{} ({}): {}", one.action, one.why, one.detail)).collect();
        return Err(Error::NotPermitted {
            message: format!("{} does not permit {}", store.describe(), list.join("; ")),
            next: Some("sealift store check --policy".to_owned()),
        });
    }
    let found = releases::list(&store, None).await?.len();
    store.probe_conditional_writes().await.doing("rely on conditional writes")?;
    let mut words = format!(
        "{} answers and keeps conditional writes; {} in it",
        store.describe(),
        text::count(found as u64, "release")
    );
    if !permissions.is_empty() {
        words.push_str(&format!("\n{}", permitted(&permissions)));
    }
    let value = json!({
        "store": store.describe(),
        "releases": found,
        "conditional_writes": true,
        "permissions": permissions.iter().map(described).collect::<Vec<_>>(),
    });
    Ok(Report::new(&value, words))
}

fn described(one: &Permission) -> serde_json::Value {
    json!({
        "action": one.action,
        "why": one.why,
        "needed": one.needed,
        "unavoidable": one.unavoidable,
        "allowed": one.allowed,
        "detail": one.detail,
    })
}

/// The permissions under each other; what is allowed and not needed is said apart.
fn permitted(permissions: &[Permission]) -> String {
    let mut table = Table::new(["PERMISSION", "PROVEN", "FOR"]);
    for one in permissions.iter().filter(|one| one.needed) {
        table.row([one.action.into(), Cell::new("yes", Style::Good), one.why.into()]);
    }
    let mut words = table.render("  ", &Paint::out());
    let mut more = permissions.iter().filter(|one| !one.needed && !one.unavoidable && one.allowed).peekable();
    if more.peek().is_some() {
        words.push_str("\n  more than is needed (`sealift store check --policy` prints what suffices):");
        for one in more {
            words.push_str(&format!("\n    {}: {}", one.action, one.why));
        }
    }
    for one in permissions.iter().filter(|one| one.unavoidable) {
        words.push_str(&format!("\n  unavoidable: {}: {}", one.action, one.why));
    }
    words
}

/// Objects and bytes by the first part of their keys.
async fn stat(shell: &Shell, source: &Source) -> Result<Report> {
    let store = source.open_store(shell).await?;
    let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.objects().list("", after.as_deref()).await.doing(format!("list {}", store.describe()))?;
        for (key, meta) in &page.entries {
            let kind = kinds.entry(key.split('/').next().unwrap_or_default().to_owned()).or_default();
            *kind = (kind.0 + 1, kind.1 + meta.size);
        }
        after = page.entries.last().map(|(key, _)| key.clone());
        if !page.more || after.is_none() {
            break;
        }
    }
    let (objects, size) = kinds.values().fold((0, 0), |sum, kind| (sum.0 + kind.0, sum.1 + kind.1));
    let mut table = Table::new(["KIND", "OBJECTS", "SIZE"]);
    for (kind, (objects, size)) in &kinds {
        table.row([kind.clone().into(), objects.to_string().into(), text::bytes(*size).into()]);
    }
    let total = format!("{}: {}, {}", store.describe(), text::count(objects, "object"), text::bytes(size));
    let words = if kinds.is_empty() { total } else { format!("{total}\n{}", table.render("  ", &Paint::out())) };
    let of = |(kind, (objects, bytes)): (&String, &(u64, u64))| {
        (kind.clone(), json!({ "objects": objects, "bytes": bytes }))
    };
    let kinds: serde_json::Map<String, serde_json::Value> = kinds.iter().map(of).collect();
    Ok(Report::new(&json!({ "store": store.describe(), "objects": objects, "bytes": size, "kinds": kinds }), words))
}
