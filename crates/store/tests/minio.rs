//! What MinIO says that credentials are wrong with, in our words. The conformance suite is in `conformance.rs`.

// Helpers of tests are tests, which the lint sees only in functions marked so.
#![allow(clippy::unwrap_used)]

mod servers;

use servers::Server;
use store::Store;

#[tokio::test]
async fn minio_says_that_credentials_are_wrong() {
    let Some(server) = Server::of("SEALIFT_TEST_MINIO") else { return };
    let wrong = Server { secret: "wrong-secret".to_owned(), ..server };
    let store = Store::open(&wrong.at("credentials")).await.unwrap();
    let error = store.create("refs/a", "a".into()).await.unwrap_err();
    assert!(error.to_string().contains("refuses the credentials"), "{error}");
}
