//! `sealift deploy`.

use super::rollout::{self, Intent};
use crate::{report::Report, shell::Shell};
use domain::plan::Verb;
use engine::Result;

/// Roll a sealed release out to an environment
///
/// The release is started beside the one that serves, must answer its health check and its smoke requests, and only
/// then is recorded as serving. If it fails, the previous release is brought back by itself.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sealift deploy staging\n  sealift deploy staging wine@1.1.0 --reason \"better model\"\n  sealift deploy staging wine@1.1.0 --plan"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) what: What,
    /// Print what would be done, why and how long it may take; change nothing
    #[arg(long)]
    plan: bool,
}

/// What is to be deployed where.
#[derive(Debug, clap::Args)]
pub(crate) struct What {
    /// The environment
    #[arg(value_name = "ENV")]
    environment: String,
    /// The release, such as wine@1.1.0; without it the newest
    #[arg(value_name = "RELEASE")]
    release: Option<String>,
    /// Which component, when the environment runs several
    #[arg(long, value_name = "NAME")]
    component: Option<String>,
    /// Why; it is kept in the ledger
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl What {
    pub(super) fn intent(&self) -> Intent<'_> {
        Intent {
            verb: Verb::Deploy,
            environment: &self.environment,
            release: self.release.as_deref(),
            component: self.component.as_deref(),
            reason: self.reason.as_deref(),
        }
    }
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    rollout::run(shell, arguments.what.intent(), arguments.plan).await
}
