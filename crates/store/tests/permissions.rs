//! The least policy, proven on MinIO with credentials that have it: everything works; without one action, that one is named.
//!
//! The credentials are temporary ones of its token service, with the policy in them, and reach the store as those of AWS
//! do: by the environment. So each policy is tried in a process of its own, which is this test started again.

// Helpers of tests are tests, which the lint sees only in functions marked so.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod servers;

use servers::Server;
use sha2::{Digest as _, Sha256};
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};
use store::{Location, Store, least_policy, testing::conformance};

fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::digest([&pad(0x36)[..], message.as_bytes()].concat());
    Sha256::digest([&pad(0x5c)[..], &inner].concat()).to_vec()
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Seconds since 1970 as `20250101T000000Z` (days to a date by Howard Hinnant's algorithm).
fn timestamp() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (days, left) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", left / 3600, left / 60 % 60, left % 60)
}

/// Key, secret and token of temporary credentials with this policy, by `AssumeRole`.
fn assume(server: &Server, policy: &str) -> [String; 3] {
    let host = server.endpoint.strip_prefix("http://").unwrap();
    let body = format!("Action=AssumeRole&DurationSeconds=3600&Policy={}&Version=2011-06-15", escaped(policy));
    let (time, hash) = (timestamp(), hex::encode(Sha256::digest(&body)));
    let (day, kind) = (&time[..8], "application/x-www-form-urlencoded");
    let signed = "content-type;host;x-amz-date";
    let canonical = format!("POST\n/\n\ncontent-type:{kind}\nhost:{host}\nx-amz-date:{time}\n\n{signed}\n{hash}");
    let scope = format!("{day}/us-east-1/sts/aws4_request");
    let sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let first = hmac(format!("AWS4{}", server.secret).as_bytes(), day);
    let key = ["us-east-1", "sts", "aws4_request"].iter().fold(first, |key, part| hmac(&key, part));
    let signature = hex::encode(hmac(&key, &sign));
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: {kind}\r\nx-amz-date: {time}\r\n\
         content-length: {}\r\nauthorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, \
         Signature={signature}\r\n\r\n",
        body.len(),
        server.key,
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    ["AccessKeyId", "SecretAccessKey", "SessionToken"].map(|name| {
        let text = answer.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("{answer}")).1;
        text.split_once("</").unwrap().0.to_owned()
    })
}

/// Not a test of its own: what the others run with the credentials of a policy.
#[tokio::test(flavor = "multi_thread")]
async fn child_checks() {
    let Ok(prefix) = std::env::var("STORE_TEST_PREFIX") else { return };
    let bucket = std::env::var("STORE_TEST_BUCKET").unwrap();
    let endpoint = Some(std::env::var("STORE_TEST_ENDPOINT").unwrap());
    let location = Location::S3 { bucket, prefix, endpoint, region: None, credentials: None };
    let store = Store::open(&location).await.unwrap();
    for one in store.check_permissions().await.unwrap() {
        let verdict = if one.allowed { "allowed" } else { "denied" };
        let needed = match one {
            _ if one.needed => "needed",
            _ if one.unavoidable => "unavoidable",
            _ => "spare",
        };
        println!("\npermission {needed} {verdict} {} ({}: {})", one.action, one.why, one.detail);
    }
    if std::env::var("STORE_TEST_WORK").is_ok() {
        conformance(&store).await;
        println!("\nall of it works");
    }
}

/// What the check says with this policy: `needed allowed s3:GetObject`, …
fn checked(server: &Server, prefix: &str, policy: &str, work: bool) -> Vec<String> {
    let [key, secret, token] = assume(server, policy);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_checks", "--nocapture"]).env_clear();
    command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret).env("AWS_SESSION_TOKEN", token);
    command.env("STORE_TEST_PREFIX", prefix).env("STORE_TEST_BUCKET", &server.bucket);
    command.env("STORE_TEST_ENDPOINT", &server.endpoint).env("AWS_EC2_METADATA_DISABLED", "true");
    if work {
        command.env("STORE_TEST_WORK", "1");
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!work || text.contains("all of it works"), "{text}");
    let lines = text.lines().filter_map(|line| line.strip_prefix("permission "));
    lines.map(|line| line.split(" (").next().unwrap().to_owned()).collect()
}

const NEEDED: [&str; 6] = [
    "s3:ListBucket",
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListBucketMultipartUploads",
];

fn prefix() -> String {
    format!("permissions/{}", uuid::Uuid::new_v4())
}

#[test]
fn the_least_policy_suffices_for_everything() {
    let Some(server) = Server::of("SEALIFT_TEST_MINIO") else { return };
    let prefix = prefix();
    let found = checked(&server, &prefix, &least_policy(&server.bucket, &prefix), true);
    let mut all: Vec<String> = NEEDED.iter().map(|action| format!("needed allowed {action}")).collect();
    all.push("unavoidable allowed s3:ListBucket".to_owned());
    assert_eq!(found, all, "and nothing is allowed beyond it");
}

#[test]
fn without_one_action_exactly_that_one_is_named() {
    let Some(server) = Server::of("SEALIFT_TEST_MINIO") else { return };
    for missing in NEEDED {
        let prefix = prefix();
        let mut policy: serde_json::Value = serde_json::from_str(&least_policy(&server.bucket, &prefix)).unwrap();
        for statement in policy["Statement"].as_array_mut().unwrap() {
            statement["Action"].as_array_mut().unwrap().retain(|action| action != missing);
        }
        // A statement without an action is none.
        let statements = policy["Statement"].as_array_mut().unwrap();
        statements.retain(|statement| !statement["Action"].as_array().unwrap().is_empty());
        let found = checked(&server, &prefix, &policy.to_string(), false);
        let denied: Vec<_> = found.iter().filter_map(|line| line.strip_prefix("needed denied ")).collect();
        assert_eq!(denied, [missing], "{found:?}");
        let beyond = found.iter().filter(|line| !line.starts_with("needed ")).count();
        assert_eq!(beyond, usize::from(missing != "s3:ListBucket"), "{found:?}");
        assert_eq!(found.len(), NEEDED.len() + beyond, "{found:?}");
    }
}

#[test]
fn what_is_allowed_beyond_need_is_told() {
    let Some(server) = Server::of("SEALIFT_TEST_MINIO") else { return };
    let everything = serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [{ "Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"] }],
    });
    let found = checked(&server, &prefix(), &everything.to_string(), false);
    let spare: Vec<_> = found.iter().filter_map(|line| line.strip_prefix("spare allowed ")).collect();
    assert_eq!(spare, ["s3:ListAllMyBuckets", "s3:ListBucket", "s3:PutObject"], "{found:?}");
}
