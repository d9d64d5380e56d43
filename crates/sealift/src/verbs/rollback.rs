//! `sealift rollback`.

use super::rollout::{self, Intent};
use crate::{report::Report, shell::Shell};
use domain::plan::Verb;
use engine::Result;

/// Go back to the release that served before
///
/// Everything comes from the store: no git, no build, no gate. Health and smoke are checked all the same.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sealift rollback production --reason \"answers are wrong since 14:00\"\n  sealift rollback production --to wine@1.0.0 --plan"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) what: What,
    /// Print what would be done, why and how long it may take; change nothing
    #[arg(long)]
    plan: bool,
}

/// What is to be taken back, and how far.
#[derive(Debug, clap::Args)]
pub(crate) struct What {
    /// The environment
    #[arg(value_name = "ENV")]
    environment: String,
    /// A release that has served it; without this the one before
    #[arg(long, value_name = "RELEASE")]
    to: Option<String>,
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
            verb: Verb::Rollback,
            environment: &self.environment,
            release: self.to.as_deref(),
            component: self.component.as_deref(),
            reason: self.reason.as_deref(),
        }
    }
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    rollout::run(shell, arguments.what.intent(), arguments.plan).await
}
