//! Buckets that other programs keep, entered as those programs are configured to: session tokens, named profiles, no
//! credentials at all.

use super::{Remote, S3};
use crate::Objects;
use aws_sdk_s3::{
    Client, Config,
    config::{BehaviorVersion, Builder, Credentials, Region, SharedCredentialsProvider},
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
pub async fn open(foreign: &Foreign) -> Arc<dyn Objects> {
    // What is common to all buckets (deadlines, stalls, repetition) is set up in one place; the keys are exchanged.
    let placeholder = ("none".to_owned(), Secret::new("none"));
    let credentials = match &foreign.access {
        Access::Chain { profile: None } => None,
        _ => Some(&placeholder),
    };
    let mut region = foreign.region.clone();
    let provider = match &foreign.access {
        Access::Chain { profile: None } => None,
        Access::Chain { profile: Some(profile) } => {
            let mut chain = aws_config::defaults(BehaviorVersion::latest()).profile_name(profile);
            if foreign.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")) && region.is_none() {
                region = Some("us-east-1".to_owned());
            }
            if let Some(region) = &region {
                chain = chain.region(Region::new(region.clone()));
            }
            let loaded = chain.load().await;
            region = region.or_else(|| loaded.region().map(ToString::to_string));
            loaded.credentials_provider()
        }
        Access::Keys { access, secret, token } => {
            let token = token.as_ref().map(|token| token.reveal().to_owned());
            Some(SharedCredentialsProvider::new(Credentials::new(access, secret.reveal(), token, None, "configuration")))
        }
        Access::Anonymous => None,
    };
    let mut s3 = S3::remote(&Remote {
        bucket: &foreign.bucket,
        prefix: &foreign.prefix,
        endpoint: foreign.endpoint.as_deref(),
        region: region.as_deref(),
        credentials,
    })
    .await;
    if credentials.is_some() {
        let anonymous = matches!(foreign.access, Access::Anonymous);
        let enter = |config: Builder| match (&provider, anonymous) {
            (Some(provider), _) => config.credentials_provider(provider.clone()),
            (None, true) => config.allow_no_auth(),
            (None, false) => config,
        };
        s3.client = changed(&s3.client, anonymous, enter);
        s3.bulk = changed(&s3.bulk, anonymous, enter);
    }
    Arc::new(s3)
}

fn changed(client: &Client, forget: bool, enter: impl Fn(Builder) -> Builder) -> Client {
    let mut config: Builder = Config::to_builder(client.config());
    if forget {
        config.set_credentials_provider(None);
    }
    Client::from_conf(enter(config).build())
}
