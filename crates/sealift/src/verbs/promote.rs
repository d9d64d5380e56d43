//! `sealift promote`.

use super::rollout::{self, Intent};
use crate::{report::Report, shell::Shell};
use domain::plan::Verb;
use engine::Result;

/// Lift a release to the next environment, through the gates of the one before
///
/// The release must have served the environment before (`after` in Sealift.toml) and have fresh verdicts of all its
/// gates, under the thresholds that were sealed with it. Missing or old evidence holds.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sealift promote wine@1.1.0 --to production\n  sealift promote wine@1.1.0 --to production --plan\n\nExit codes: 1, 2, 3 when a gate is warn, crit, inconclusive"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) what: What,
    /// Print what would be done, why and how long it may take; change nothing
    #[arg(long)]
    plan: bool,
}

/// What is to be promoted where.
#[derive(Debug, clap::Args)]
pub(crate) struct What {
    /// The release, such as wine@1.1.0
    #[arg(value_name = "RELEASE")]
    release: String,
    /// The environment that it is to serve
    #[arg(long, value_name = "ENV")]
    to: String,
    /// Which component, when RELEASE is only a version
    #[arg(long, value_name = "NAME")]
    component: Option<String>,
    /// Why; it is kept in the ledger
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl What {
    pub(super) fn intent(&self) -> Intent<'_> {
        Intent {
            verb: Verb::Promote,
            environment: &self.to,
            release: Some(&self.release),
            component: self.component.as_deref(),
            reason: self.reason.as_deref(),
        }
    }
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    rollout::run(shell, arguments.what.intent(), arguments.plan).await
}
