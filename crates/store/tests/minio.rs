//! The conformance suite against MinIO, a server that is not ours.
//!
//! `SEALIFT_TEST_MINIO` = `http://KEY:SECRET@127.0.0.1:PORT/BUCKET` says where it is; `cargo xtask testbed` starts one. Without
//! it nothing is tested here, which is a failure when `CI=true`.

// Helpers of tests are tests, which the lint sees only in functions marked so.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use domain::secret::Secret;
use store::{Location, Store, testing::conformance};

/// `http://KEY:SECRET@HOST:PORT/BUCKET`.
fn location(text: &str, wrong: bool) -> Location {
    let rest = text.strip_prefix("http://").expect("SEALIFT_TEST_MINIO begins with http://");
    let (user, rest) = rest.split_once('@').expect("SEALIFT_TEST_MINIO has KEY:SECRET@");
    let (key, secret) = user.split_once(':').expect("SEALIFT_TEST_MINIO has KEY:SECRET");
    let (host, bucket) = rest.split_once('/').expect("SEALIFT_TEST_MINIO has /BUCKET");
    Location::S3 {
        bucket: bucket.trim_end_matches('/').to_owned(),
        prefix: format!("conformance/{}", std::process::id()),
        endpoint: Some(format!("http://{host}")),
        region: None,
        credentials: Some((key.to_owned(), Secret::new(if wrong { "wrong-secret" } else { secret }))),
    }
}

fn server() -> Option<String> {
    let server = std::env::var("SEALIFT_TEST_MINIO").ok().filter(|server| !server.is_empty());
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(server.is_some() || !ci, "SEALIFT_TEST_MINIO is not set; cargo xtask testbed says how to have it");
    if server.is_none() {
        println!("not run: SEALIFT_TEST_MINIO is not set");
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_conforms() {
    let Some(server) = server() else { return };
    conformance(&Store::open(&location(&server, false)).await.unwrap()).await;
}

#[tokio::test]
async fn minio_says_that_credentials_are_wrong() {
    let Some(server) = server() else { return };
    let store = Store::open(&location(&server, true)).await.unwrap();
    let error = store.create("refs/a", "a".into()).await.unwrap_err();
    assert!(error.to_string().contains("refuses the credentials"), "{error}");
}
