//! Where a store is, and opening it.

use crate::{Result, Store, embedded, s3};
use domain::secret::Secret;
use std::path::PathBuf;

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
        let objects = match location {
            Location::Embedded { directory } => s3::S3::embedded(embedded::Directory::open(directory)?),
            Location::S3 { bucket, prefix, endpoint, region, credentials } => {
                s3::S3::remote(&s3::Remote {
                    bucket,
                    prefix,
                    endpoint: endpoint.as_deref(),
                    region: region.as_deref(),
                    credentials: credentials.as_ref(),
                })
                .await
            }
        };
        Ok(Self::over(std::sync::Arc::new(objects)))
    }
}
