//! Where a store is, and opening it.

use crate::{Result, Store};
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
    pub async fn open(_location: &Location) -> Result<Self> {
        todo!()
    }
}

/// Runs the embedded server over TCP until `stop` resolves, then drains. Serves `sealift store serve`.
pub async fn serve(
    _directory: &std::path::Path,
    _listen: std::net::SocketAddr,
    _buckets: &[String],
    _credentials: Option<(String, domain::secret::Secret)>,
    _ready: impl FnOnce(std::net::SocketAddr) + Send,
    _stop: impl std::future::Future<Output = ()> + Send,
) -> Result<()> {
    todo!()
}
