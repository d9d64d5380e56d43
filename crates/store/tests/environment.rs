//! What a store takes from the environment: certificates that are trusted, and who asks, by the default chain of AWS.
//!
//! A process cannot change its own environment safely, so each case runs in a process of its own: this test started again,
//! with that environment and no other.

// Helpers of tests are tests, which the lint sees only in functions marked so.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod scripted;

use domain::secret::Secret;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use scripted::{Say, Scripted, object};
use std::{net::SocketAddr, path::Path, process::Command, sync::Arc};
use store::{Family, Location, Store};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// Not a test of its own: what the others run with an environment.
#[tokio::test(flavor = "multi_thread")]
async fn child_works() {
    let Ok(endpoint) = std::env::var("STORE_TEST_ENDPOINT") else { return };
    let location = Location::S3 {
        bucket: "releases".to_owned(),
        prefix: "environment".to_owned(),
        endpoint: Some(endpoint),
        region: None,
        credentials: None,
    };
    let store = match Store::open(&location).await {
        Ok(store) => store,
        Err(error) => return println!("\nfailed: {error}"),
    };
    let done = async {
        store.create(&format!("refs/{}", uuid::Uuid::new_v4()), "a".into()).await?;
        let digest = store.put_bytes(Family::Blob, vec![3; 3 << 20].into()).await?;
        store.get_bytes(Family::Blob, &digest, 4 << 20).await
    };
    match done.await {
        Ok(bytes) => println!("\nworked: {} bytes", bytes.len()),
        Err(error) => println!("\nfailed: {error}"),
    }
}

/// What the child says in this environment.
fn said(endpoint: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_works", "--nocapture"]).env_clear().env("STORE_TEST_ENDPOINT", endpoint);
    // Nobody is asked over the network who we are, unless a case says so.
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", "/nonexistent");
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find(|line| line.starts_with("worked: ") || line.starts_with("failed: "));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// Blocking work beside a server on the same runtime.
async fn ask(endpoint: &str, environment: &[(&'static str, &str)]) -> String {
    let endpoint = endpoint.to_owned();
    let environment: Vec<(&'static str, String)> =
        environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    tokio::task::spawn_blocking(move || {
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        said(&endpoint, &environment)
    })
    .await
    .unwrap()
}

/// The embedded server with credentials, until the sender is dropped.
async fn served(directory: &Path) -> (SocketAddr, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let (tell, told) = oneshot::channel();
    let directory = directory.to_owned();
    tokio::spawn(async move {
        let credentials = Some(("the-key".to_owned(), Secret::new("the-secret")));
        let any = "127.0.0.1:0".parse().unwrap();
        let ready = |address| tell.send(address).unwrap();
        let stop = async { drop(stopped.await) };
        store::serve(&directory, any, &["releases".to_owned()], credentials, ready, stop).await.unwrap();
    });
    (told.await.unwrap(), stop)
}

/// A new authority, as PEM, and an address whose certificate is from it and where `behind` answers.
async fn secured(behind: SocketAddr) -> (String, SocketAddr) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = authority.self_signed(&key).unwrap();
    let issuer = Issuer::new(authority, key);
    let server_key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = CertificateParams::new(names).unwrap().signed_by(&server_key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], PrivateKeyDer::Pkcs8(server_key.serialize_der().into()))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate ends here.
                let Ok(mut secured) = acceptor.accept(stream).await else { return };
                let mut plain = tokio::net::TcpStream::connect(behind).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut secured, &mut plain).await;
            });
        }
    });
    (certificate.pem(), address)
}

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "the-key"), ("AWS_SECRET_ACCESS_KEY", "the-secret")];

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_ones_own_is_trusted_when_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (address, _stop) = served(&directory.path().join("store")).await;
    let (pem, secured) = secured(address).await;
    let endpoint = format!("https://localhost:{}", secured.port());
    let bundle = directory.path().join("ca.pem");
    std::fs::write(&bundle, pem).unwrap();
    let bundle = bundle.display().to_string();
    for name in ["AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
        let said = ask(&endpoint, &[KEYS[0], KEYS[1], (name, bundle.as_str())]).await;
        assert_eq!(said, "worked: 3145728 bytes", "{name}");
    }
    // A proxy's variables do not matter to an address that they except.
    let said = ask(
        &endpoint,
        &[
            KEYS[0],
            KEYS[1],
            ("AWS_CA_BUNDLE", &bundle),
            ("HTTPS_PROXY", "http://127.0.0.1:9"),
            ("NO_PROXY", "localhost"),
        ],
    )
    .await;
    assert_eq!(said, "worked: 3145728 bytes");
    // Another authority, or none of ours: refused, and in words.
    let (other, _) = self::secured(address).await;
    let wrong = directory.path().join("other.pem");
    std::fs::write(&wrong, other).unwrap();
    for environment in [vec![("AWS_CA_BUNDLE", wrong.display().to_string())], Vec::new()] {
        let mut all = KEYS.to_vec();
        all.extend(environment.iter().map(|(name, value)| (*name, value.as_str())));
        let said = ask(&endpoint, &all).await;
        assert!(said.contains("has a certificate that is not trusted"), "{said}");
        assert!(!said.contains("times in"), "asked once: {said}");
    }
    let missing = ask(&endpoint, &[KEYS[0], KEYS[1], ("AWS_CA_BUNDLE", "/nonexistent/ca.pem")]).await;
    assert_eq!(missing, "failed: read the certificates of AWS_CA_BUNDLE from /nonexistent/ca.pem");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_found_in_the_environment_and_in_profiles() {
    let directory = tempfile::tempdir().unwrap();
    let (address, _stop) = served(&directory.path().join("store")).await;
    let endpoint = format!("http://{address}");
    assert_eq!(ask(&endpoint, &KEYS).await, "worked: 3145728 bytes");

    let (config, keys) = (directory.path().join("config"), directory.path().join("credentials"));
    std::fs::write(
        &keys,
        "[default]\naws_access_key_id = other\naws_secret_access_key = other\n\
         [team]\naws_access_key_id = the-key\naws_secret_access_key = the-secret\n",
    )
    .unwrap();
    let program = "printf '{\"Version\":1,\"AccessKeyId\":\"the-key\",\"SecretAccessKey\":\"the-secret\"}'";
    let program = format!("[profile asked]\nregion = eu-central-1\ncredential_process = {program}\n");
    std::fs::write(&config, format!("[profile team]\nregion = eu-west-1\n{program}")).unwrap();
    let (config, keys) = (config.display().to_string(), keys.display().to_string());
    let files = [("AWS_CONFIG_FILE", config.as_str()), ("AWS_SHARED_CREDENTIALS_FILE", keys.as_str())];
    for profile in ["team", "asked"] {
        let said = ask(&endpoint, &[files[0], files[1], ("AWS_PROFILE", profile)]).await;
        assert_eq!(said, "worked: 3145728 bytes", "{profile}");
    }
    let wrong = ask(&endpoint, &files).await;
    assert!(wrong.contains("refuses the credentials (InvalidAccessKeyId)"), "the default profile is another: {wrong}");
    let none = ask(&endpoint, &[]).await;
    assert!(none.contains("cannot be asked, because no credentials were found"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_token_and_a_region_are_sent_along() {
    let server = Scripted::start(|_| Say::Bytes(object(b"well"))).await;
    let endpoint = format!("http://{}", server.address);
    let environment = [KEYS[0], KEYS[1], ("AWS_SESSION_TOKEN", "the-token"), ("AWS_REGION", "ap-south-1")];
    ask(&endpoint, &environment).await;
    let asked = server.asked();
    assert_eq!(asked[0].header("x-amz-security-token"), Some("the-token"));
    let signed = asked[0].header("authorization").unwrap();
    assert!(signed.contains("Credential=the-key/") && signed.contains("/ap-south-1/s3/aws4_request"), "{signed}");
    assert!(signed.contains("x-amz-security-token"), "the token is signed: {signed}");
}
