//! The servers of others that tests run against, as `cargo xtask testbed` starts them.
//!
//! `SEALIFT_TEST_MINIO`, `SEALIFT_TEST_SEAWEEDFS` and `SEALIFT_TEST_VERSITY` = `http://KEY:SECRET@127.0.0.1:PORT/BUCKET` say
//! where they are. Without one nothing is tested there, which is a failure when `CI=true`.

// Helpers of tests are tests, which the lint sees only in functions marked so; and not every test uses all of them.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub)]

use domain::secret::Secret;
use store::Location;

/// A server of the testbed.
#[derive(Debug, Clone)]
pub struct Server {
    /// `http://HOST:PORT`.
    pub endpoint: String,
    /// Bucket.
    pub bucket: String,
    /// Access key.
    pub key: String,
    /// Secret key.
    pub secret: String,
}

impl Server {
    /// What the variable says.
    pub fn of(variable: &str) -> Option<Self> {
        let text = std::env::var(variable).ok().filter(|text| !text.is_empty());
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(text.is_some() || !ci, "{variable} is not set; cargo xtask testbed says how to have it");
        let Some(text) = text else {
            println!("not run: {variable} is not set");
            return None;
        };
        let parts = || {
            let (user, rest) = text.strip_prefix("http://")?.split_once('@')?;
            let ((key, secret), (host, bucket)) = (user.split_once(':')?, rest.split_once('/')?);
            Some((key, secret, host, bucket))
        };
        let (key, secret, host, bucket) =
            parts().unwrap_or_else(|| panic!("{variable} is not http://KEY:SECRET@HOST:PORT/BUCKET"));
        Some(Self {
            endpoint: format!("http://{host}"),
            bucket: bucket.trim_end_matches('/').to_owned(),
            key: key.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// A prefix of this test in its bucket.
    pub fn at(&self, prefix: &str) -> Location {
        Location::S3 {
            bucket: self.bucket.clone(),
            prefix: format!("{prefix}/{}", std::process::id()),
            endpoint: Some(self.endpoint.clone()),
            region: None,
            credentials: Some((self.key.clone(), Secret::new(&self.secret))),
        }
    }
}
