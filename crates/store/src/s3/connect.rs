//! Making clients: for an endpoint, for AWS, and for the server in this process.

use super::S3;
use crate::embedded::{self, BUCKET, Directory, InProcess};
use aws_sdk_s3::{
    Client, Config,
    config::{
        BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
        StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use domain::secret::Secret;
use std::{sync::Arc, time::Duration};
use tokio_util::task::TaskTracker;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one attempt of a small request may take. Contended conditional writes take seconds on some servers.
const ATTEMPT: Duration = Duration::from_secs(25);
/// How often a request is sent at most.
const ATTEMPTS: u32 = 5;
/// The region that servers other than AWS expect.
const REGION: &str = "us-east-1";

/// A remote location, borrowed.
pub(crate) struct Remote<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) prefix: &'a str,
    pub(crate) endpoint: Option<&'a str>,
    pub(crate) region: Option<&'a str>,
    pub(crate) credentials: Option<&'a (String, Secret)>,
}

impl S3 {
    /// The embedded server over a directory, without a socket.
    pub(crate) fn embedded(directory: Arc<Directory>) -> Self {
        let name = format!("{} (embedded)", directory.root().display());
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(InProcess(embedded::service(directory, None)))
            .endpoint_url("http://embedded")
            .region(Region::from_static(REGION))
            .force_path_style(true)
            .allow_no_auth()
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            // What fails here does not heal by being asked again.
            .retry_config(RetryConfig::disabled())
            .build();
        let client = Client::from_conf(config);
        let bulk = client.clone();
        let prefix = String::new();
        Self { client, bulk, bucket: BUCKET.to_owned(), prefix, name, aborts: TaskTracker::new() }
    }

    /// A bucket at an endpoint. Nothing is sent to it yet.
    pub(crate) async fn remote(remote: &Remote<'_>) -> Self {
        let http = http_client(remote.endpoint);
        let mut config = match remote.credentials {
            Some((key, secret)) => Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .credentials_provider(Credentials::new(key, secret.reveal(), None, None, "Sealift.toml")),
            None => {
                let mut chain = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone());
                // Without a region the chain asks the network for one, which takes seconds where there is none.
                if let Some(region) = remote.region.or(remote.endpoint.map(|_| REGION)) {
                    chain = chain.region(Region::new(region.to_owned()));
                }
                aws_sdk_s3::config::Builder::from(&chain.load().await)
            }
        };
        if remote.credentials.is_some() || remote.region.is_some() {
            config = config.region(Region::new(remote.region.unwrap_or(REGION).to_owned()));
        }
        if let Some(endpoint) = remote.endpoint {
            config = config.endpoint_url(endpoint);
        }
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT);
        let stalls = StalledStreamProtectionConfig::enabled()
            .upload_enabled(true)
            // Bodies that we receive have a guard of their own.
            .download_enabled(false)
            .grace_period(super::STALL)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(Duration::from_millis(200))
            .with_max_backoff(Duration::from_secs(5));
        let bulk = config
            .http_client(http)
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .stalled_stream_protection(stalls)
            .retry_config(retries)
            .timeout_config(timeouts.clone().build())
            .build();
        let quick = bulk.to_builder().timeout_config(timeouts.operation_attempt_timeout(ATTEMPT).build()).build();
        let prefix = remote.prefix.trim_matches('/');
        let at = remote.endpoint.map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        let name = format!("s3://{}{}{prefix}{at}", remote.bucket, if prefix.is_empty() { "" } else { "/" });
        Self {
            client: Client::from_conf(quick),
            bulk: Client::from_conf(bulk),
            bucket: remote.bucket.to_owned(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            name,
            aborts: TaskTracker::new(),
        }
    }
}

/// Plain HTTP does not load root certificates, which takes longer than a whole `status`.
fn http_client(endpoint: Option<&str>) -> SharedHttpClient {
    if endpoint.is_some_and(|endpoint| endpoint.to_ascii_lowercase().starts_with("http://")) {
        return Builder::new().build_http();
    }
    Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).build()
    })
}
