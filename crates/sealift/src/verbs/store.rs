//! `sealift store`.

use super::source::Source;
use crate::{report, report::Report, shell::Shell};
use domain::secret::Secret;
use engine::{Error, Result, error::Doing, releases};
use serde_json::json;
use std::{net::SocketAddr, path::PathBuf};

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
    /// Ask whether a store answers and keeps conditional writes, without which leases and the ledger are not safe
    #[command(
        after_help = "Example:\n  sealift store check\n  sealift store check --store s3://releases/wine --endpoint http://127.0.0.1:9000"
    )]
    Check(Source),
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
        What::Check(source) => check(shell, source).await,
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

async fn check(shell: &Shell, source: &Source) -> Result<Report> {
    let store = source.open_store(shell).await?;
    let found = releases::list(&store, None).await?.len();
    store.probe_conditional_writes().await.doing("rely on conditional writes")?;
    let words = format!(
        "{} answers and keeps conditional writes; {} in it",
        store.describe(),
        crate::text::count(found as u64, "release")
    );
    let value = json!({ "store": store.describe(), "releases": found, "conditional_writes": true });
    Ok(Report::new(&value, words))
}
