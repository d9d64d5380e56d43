//! Buckets that other programs keep, entered as those programs are configured to: session tokens, named profiles, no
//! credentials at all.

use super::{Entry, Remote, S3};
use crate::{
    Objects, Result, Settings,
    decorate::{Policy, Retry},
};
use domain::secret::Secret;
use std::sync::Arc;

/// A bucket of another program.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// Bucket.
    pub bucket: String,
    /// Key prefix without slashes at its ends; may be empty.
    pub prefix: String,
    /// Endpoint URL; `None` is AWS itself.
    pub endpoint: Option<String>,
    /// Region; `None` is what the profile or the environment says.
    pub region: Option<String>,
    /// How it is entered.
    pub access: Access,
}

/// How a [`Foreign`] bucket is entered.
#[derive(Debug, Clone)]
pub enum Access {
    /// The default chain of AWS, with a profile of its files.
    Chain {
        /// `None` is the profile that the environment names.
        profile: Option<String>,
    },
    /// Keys that are known.
    Keys {
        /// The access key.
        access: String,
        /// The secret key.
        secret: Secret,
        /// The session token of temporary keys.
        token: Option<Secret>,
    },
    /// Requests are not signed.
    Anonymous,
}

/// Opens a bucket of another program. Nothing is sent to it yet.
pub async fn open(foreign: &Foreign) -> Result<Arc<dyn Objects>> {
    let settings = Settings::default();
    let policy = Policy::new(&settings);
    let entry = match &foreign.access {
        Access::Chain { profile } => Entry::Chain { profile: profile.as_deref() },
        Access::Keys { access, secret, token } => Entry::Keys { access, secret, token: token.as_ref() },
        Access::Anonymous => Entry::Anonymous,
    };
    let remote = Remote {
        bucket: &foreign.bucket,
        prefix: &foreign.prefix,
        endpoint: foreign.endpoint.as_deref(),
        region: foreign.region.as_deref(),
        entry,
    };
    let s3 = S3::remote(&remote, &settings, policy.clone()).await?;
    Ok(Retry::with(Arc::new(s3), policy))
}
