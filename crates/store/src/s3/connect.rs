//! Making clients: for an endpoint, for AWS, and for the server in this process.

use super::S3;
use crate::{
    Error, Result, Settings,
    decorate::{Pace, Policy},
    embedded::{self, BUCKET, Directory, InProcess},
};
use aws_config::{
    environment::EnvironmentVariableRegionProvider, meta::region::RegionProviderChain,
    profile::ProfileFileRegionProvider,
};
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
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use domain::secret::Secret;
use std::{sync::Arc, time::Duration};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// The region that servers other than AWS expect.
const REGION: &str = "us-east-1";

/// A remote location, borrowed.
pub(crate) struct Remote<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) prefix: &'a str,
    pub(crate) endpoint: Option<&'a str>,
    pub(crate) region: Option<&'a str>,
    pub(crate) entry: Entry<'a>,
}

/// Who asks.
pub(crate) enum Entry<'a> {
    /// The default chain of AWS: environment, profiles, web identity, containers, instances.
    Chain {
        /// `None` is the profile that the environment names.
        profile: Option<&'a str>,
    },
    /// Keys that are known.
    Keys { access: &'a str, secret: &'a Secret, token: Option<&'a Secret> },
    /// Requests are not signed.
    Anonymous,
}

impl S3 {
    /// The embedded server over a directory, without a socket.
    pub(crate) fn embedded(directory: Arc<Directory>, settings: &Settings, policy: Arc<Policy>) -> Self {
        let name = format!("{} (embedded)", directory.root().display());
        let config = base(Config::builder().behavior_version(BehaviorVersion::latest()))
            .http_client(InProcess(embedded::service(directory, None)))
            .endpoint_url("http://embedded")
            .region(Region::from_static(REGION))
            .allow_no_auth()
            .timeout_config(TimeoutConfig::disabled())
            .build();
        Self {
            client: Client::from_conf(config),
            bucket: BUCKET.to_owned(),
            prefix: String::new(),
            name,
            aborts: super::aborts(),
            local: true,
            settings: settings.clone(),
            policy,
            up: None,
            down: None,
        }
    }

    /// A bucket at an endpoint. Nothing is sent to it yet.
    pub(crate) async fn remote(remote: &Remote<'_>, settings: &Settings, policy: Arc<Policy>) -> Result<Self> {
        let http = http_client(remote.endpoint)?;
        let plain = || Config::builder().behavior_version(BehaviorVersion::latest());
        let region = || Region::new(remote.region.unwrap_or(REGION).to_owned());
        let mut config = match &remote.entry {
            Entry::Keys { access, secret, token } => {
                let token = token.map(|token| token.reveal().to_owned());
                let keys = Credentials::new(*access, secret.reveal(), token, None, "configuration");
                plain().credentials_provider(keys).region(region())
            }
            Entry::Anonymous => plain().allow_no_auth().region(region()),
            Entry::Chain { profile } => {
                let mut chain = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone());
                if let Some(profile) = profile {
                    chain = chain.profile_name(*profile);
                }
                let given = RegionProviderChain::first_try(remote.region.map(|region| Region::new(region.to_owned())));
                let regions = match (remote.region, remote.endpoint) {
                    (Some(_), _) => given,
                    (None, None) => given.or_default_provider(),
                    // What is only a habit comes last, and nobody is asked over the network for it.
                    (None, Some(_)) => {
                        let mut files = ProfileFileRegionProvider::builder();
                        if let Some(profile) = profile {
                            files = files.profile_name(*profile);
                        }
                        given
                            .or_else(EnvironmentVariableRegionProvider::new())
                            .or_else(files.build())
                            .or_else(Region::from_static(REGION))
                    }
                };
                aws_sdk_s3::config::Builder::from(&chain.region(regions).load().await)
            }
        };
        if let Some(endpoint) = remote.endpoint {
            config = config.endpoint_url(endpoint);
        }
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT.min(settings.stall_timeout))
            .disable_read_timeout()
            .disable_operation_timeout()
            .disable_operation_attempt_timeout()
            .build();
        let config = base(config).http_client(http).timeout_config(timeouts).build();
        let prefix = remote.prefix.trim_matches('/');
        let at = remote.endpoint.map(|endpoint| format!(" at {}", without_user(endpoint))).unwrap_or_default();
        let name = format!("s3://{}{}{prefix}{at}", remote.bucket, if prefix.is_empty() { "" } else { "/" });
        Ok(Self {
            client: Client::from_conf(config),
            bucket: remote.bucket.to_owned(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            name,
            aborts: super::aborts(),
            local: false,
            settings: settings.clone(),
            policy,
            up: settings.upload_limit.map(Pace::new),
            down: settings.download_limit.map(Pace::new),
        })
    }
}

/// What all clients have in common. They send each request once, and leave checksums and stalls to us.
fn base(config: aws_sdk_s3::config::Builder) -> aws_sdk_s3::config::Builder {
    config
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .retry_config(RetryConfig::disabled())
}

/// An endpoint as it may be shown: a user and a password in it stay out of logs.
fn without_user(endpoint: &str) -> String {
    let Some((scheme, rest)) = endpoint.split_once("://") else { return endpoint.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => endpoint.to_owned(),
    }
}

/// The certificates of the file that `AWS_CA_BUNDLE` names are trusted instead of the system's, as other AWS clients do it.
/// Without it the system's are read, for which `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured.
fn trusted() -> Result<TlsContext> {
    let mut trust = TrustStore::default();
    if let Some(bundle) = std::env::var_os("AWS_CA_BUNDLE").filter(|bundle| !bundle.is_empty()) {
        let bundle = std::path::PathBuf::from(bundle);
        let pem =
            std::fs::read(&bundle).map_err(Error::file("read the certificates of AWS_CA_BUNDLE from", &bundle))?;
        trust = TrustStore::empty().with_pem_certificate(pem);
    }
    TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| Error::unavailable("TLS", format!("cannot be set up: {error}")))
}

/// Plain HTTP does not load root certificates, which takes longer than a whole `status`.
fn http_client(endpoint: Option<&str>) -> Result<SharedHttpClient> {
    if endpoint.is_some_and(|endpoint| endpoint.to_ascii_lowercase().starts_with("http://")) {
        return Ok(Builder::new().build_http());
    }
    let trusted = trusted()?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(trusted.clone()).build()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_shown_without_its_user() {
        assert_eq!(without_user("https://key:se@cret@host:9000/path@x"), "https://host:9000/path@x");
        assert_eq!(without_user("http://host/a@b"), "http://host/a@b");
    }
}
