//! What a stock cosign says about a bundle of ours. `SEALIFT_TEST_COSIGN` is its path.

// Helpers of tests are tests, which clippy cannot see.
#![allow(clippy::unwrap_used)]

use domain::Digest;
use ledger::{Bundle, SigningKey, Statement, Subject, predicate_type};
use serde_json::json;
use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

fn verify(cosign: &str, dir: &Path, predicate_type: &str, file: &str) -> Output {
    Command::new(cosign)
        .current_dir(dir)
        // cosign keeps a cache under HOME, and must not need the network.
        .env("HOME", dir)
        .args(["verify-blob-attestation", "--key", "ed.pub", "--bundle", "release.sigstore.json"])
        .args(["--insecure-ignore-tlog=true", "--type", predicate_type, file])
        .output()
        .unwrap()
}

#[test]
fn cosign_verifies_a_release_and_refuses_another_file() {
    let Ok(cosign) = env::var("SEALIFT_TEST_COSIGN") else {
        assert_ne!(
            env::var("CI").as_deref(),
            Ok("true"),
            "SEALIFT_TEST_COSIGN must be the path of cosign under CI=true"
        );
        println!("not run: SEALIFT_TEST_COSIGN is not set");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::from_seed([1; 32]);
    fs::write(dir.path().join("ed.pub"), key.public().to_pem().unwrap()).unwrap();
    fs::write(dir.path().join("model.bin"), "weights").unwrap();
    fs::write(dir.path().join("other.bin"), "other weights").unwrap();
    let statement = Statement {
        subjects: vec![
            Subject::new("model.bin", Digest::of("weights")),
            Subject::new("config.toml", Digest::of("config")),
        ],
        predicate_type: predicate_type::RELEASE.to_owned(),
        predicate: json!({"release": "wine@1.0.0"}),
    };
    let bundle = Bundle::sign(&key, &statement).unwrap();
    fs::write(dir.path().join("release.sigstore.json"), bundle.as_bytes()).unwrap();

    let good = verify(&cosign, dir.path(), predicate_type::RELEASE, "model.bin");
    let said = String::from_utf8_lossy(&good.stderr).into_owned() + &String::from_utf8_lossy(&good.stdout);
    assert!(good.status.success() && said.contains("Verified OK"), "{said}");

    let other = verify(&cosign, dir.path(), predicate_type::RELEASE, "other.bin");
    assert!(!other.status.success(), "cosign accepted a file that is not in the release");
    let other = verify(&cosign, dir.path(), predicate_type::PROVENANCE, "model.bin");
    assert!(!other.status.success(), "cosign accepted another predicate type");

    let stranger = SigningKey::from_seed([2; 32]).public().to_pem().unwrap();
    fs::write(dir.path().join("ed.pub"), stranger).unwrap();
    let wrong = verify(&cosign, dir.path(), predicate_type::RELEASE, "model.bin");
    assert!(!wrong.status.success(), "cosign accepted a wrong key");
}
