//! Where a store is, and opening it.

use crate::{
    Objects, Result, Settings, Store,
    decorate::{Log, Policy, Retry},
    embedded, s3,
};
use domain::secret::Secret;
use std::{path::PathBuf, sync::Arc};

/// Where a store is and how to talk to it: the resolved `[store]` section.
#[derive(Debug, Clone)]
pub enum Location {
    /// The embedded server over a directory, in this process, without a socket.
    Embedded {
        /// The directory.
        directory: PathBuf,
    },
    /// Any S3 endpoint.
    S3 {
        /// Bucket.
        bucket: String,
        /// Key prefix without slashes at its ends; may be empty.
        prefix: String,
        /// Endpoint URL; `None` is AWS itself.
        endpoint: Option<String>,
        /// Region.
        region: Option<String>,
        /// Access key and secret; `None` is the default chain of AWS.
        credentials: Option<(String, Secret)>,
    },
}

impl Store {
    /// Opens a location. Makes the directory of an embedded store; sends nothing to a remote one.
    pub async fn open(location: &Location) -> Result<Self> {
        Self::open_with(location, &Settings::default()).await
    }

    /// Opens a location, talked to in this way.
    pub async fn open_with(location: &Location, settings: &Settings) -> Result<Self> {
        let policy = Policy::new(settings);
        let s3 = match location {
            Location::Embedded { directory } => {
                s3::S3::embedded(embedded::Directory::open(directory)?, settings, policy.clone())
            }
            Location::S3 { bucket, prefix, endpoint, region, credentials } => {
                let entry = match credentials {
                    Some((access, secret)) => s3::Entry::Keys { access, secret, token: None },
                    None => s3::Entry::Chain { profile: None },
                };
                let (endpoint, region) = (endpoint.as_deref(), region.as_deref());
                s3::S3::remote(&s3::Remote { bucket, prefix, endpoint, region, entry }, settings, policy.clone())
                    .await?
            }
        };
        let s3 = Arc::new(s3);
        let mut objects: Arc<dyn Objects> = s3.clone();
        if let Some(sink) = &settings.log {
            objects = Log::new(objects, sink.clone());
        }
        let mut store = Self::over(Retry::with(objects, policy));
        store.s3 = Some(s3);
        Ok(store)
    }
}
