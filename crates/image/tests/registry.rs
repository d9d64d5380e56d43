//! A real registry (`SEALIFT_TEST_REGISTRY=127.0.0.1:PORT`) and skopeo (`SEALIFT_TEST_SKOPEO=/path/skopeo`).
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use common::{Lines, created, oci, real, write};
use domain::{Class, Events};
use image::Error;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

fn build(root: &Path, text: &str) -> image::Built {
    write(root, "hello", text, 0o755);
    write(root, "etc/a", "a", 0o644);
    let spec = oci(&[("hello", "/hello", None), ("etc", "/etc", None)]);
    let to = tempfile::tempdir_in(root).unwrap().keep();
    image::build_oci(&spec, root, &BTreeMap::new(), created(), &to, &Events::nowhere()).unwrap()
}

fn unique() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}

fn at(repository: &str) -> image::Destination {
    image::Destination { repository: repository.to_owned(), insecure: true }
}

fn tags(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Asked without our own client: the test judges it.
async fn digest_at(registry: &str, path: &str, tag: &str) -> Option<String> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let url = format!("http://{registry}/v2/{path}/manifests/{tag}");
    let types = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
    let answer = reqwest::Client::new().get(url).header("accept", types).send().await.unwrap();
    if answer.status().as_u16() == 404 {
        return None;
    }
    Some(domain::Digest::of(answer.error_for_status().unwrap().bytes().await.unwrap()).to_string())
}

#[tokio::test]
async fn an_image_is_pushed_once_and_a_version_never_moves() {
    let Some(registry) = real("SEALIFT_TEST_REGISTRY") else { return };
    let root = tempfile::tempdir().unwrap();
    let path = format!("test/{}", unique());
    let repository = format!("{registry}/{path}");
    let (one, two) = (build(root.path(), "one"), build(root.path(), "two"));
    let all = tags(&["1.0.0", "1.0", "1", "latest"]);
    image::push(&one.layout, &at(&repository), &all, &Events::nowhere()).await.unwrap();
    for tag in &all {
        assert_eq!(digest_at(&registry, &path, tag).await, Some(one.manifest.to_string()), "{tag}");
    }
    // Again: nothing to do, nothing wrong.
    let lines = Lines::default();
    image::push(&one.layout, &at(&repository), &all, &lines.events()).await.unwrap();
    assert!(lines.all().iter().any(|line| line.contains(&one.manifest.to_string())));
    // Another image under the same version: refused before anything is pushed, and no tag moves.
    let error =
        image::push(&two.layout, &at(&repository), &tags(&["latest", "1.0.0"]), &Events::nowhere()).await.unwrap_err();
    assert!(
        matches!(&error, Error::TagTaken { tag, is, .. } if tag == "1.0.0" && *is == one.manifest.to_string()),
        "{error:?}"
    );
    assert_eq!(error.class(), Class::Integrity);
    assert_eq!(digest_at(&registry, &path, "latest").await, Some(one.manifest.to_string()));
    // A new version moves the tags that move.
    image::push(&two.layout, &at(&repository), &tags(&["1.0.1", "1.0", "latest"]), &Events::nowhere()).await.unwrap();
    assert_eq!(digest_at(&registry, &path, "1.0.0").await, Some(one.manifest.to_string()));
    assert_eq!(digest_at(&registry, &path, "1.0").await, Some(two.manifest.to_string()));
    // Without tags it goes by digest alone.
    image::push(&two.layout, &at(&format!("{repository}-untagged")), &[], &Events::nowhere()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_layout_is_not_pushed() {
    let Some(registry) = real("SEALIFT_TEST_REGISTRY") else { return };
    let root = tempfile::tempdir().unwrap();
    let built = build(root.path(), "damaged");
    let blob = built.layout.join("blobs/sha256").join(built.layers[0].hex());
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let path = format!("test/{}", unique());
    let error = image::push(&built.layout, &at(&format!("{registry}/{path}")), &tags(&["1.0.0"]), &Events::nowhere())
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Integrity);
    assert_eq!(digest_at(&registry, &path, "1.0.0").await, None);
}

/// Forwards to the registry, counts what goes up, and after so many bytes cuts every connection, as one that was killed.
struct Between {
    address: String,
    up: Arc<AtomicUsize>,
}

async fn between(registry: String, budget: usize) -> Between {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let up = Arc::new(AtomicUsize::new(0));
    let counter = up.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (counter, registry) = (counter.clone(), registry.clone());
            tokio::spawn(async move {
                if counter.load(SeqCst) >= budget {
                    return;
                }
                let mut far = TcpStream::connect(&registry).await.unwrap();
                let (mut near_read, mut near_write) = near.split();
                let (mut far_read, mut far_write) = far.split();
                let up = async {
                    let mut buffer = [0; 4096];
                    loop {
                        let n = near_read.read(&mut buffer).await.unwrap_or(0);
                        let before = counter.fetch_add(n, SeqCst);
                        if n == 0 || before + n >= budget || far_write.write_all(&buffer[..n]).await.is_err() {
                            return;
                        }
                    }
                };
                let down = tokio::io::copy(&mut far_read, &mut near_write);
                tokio::select! { () = up => {}, _ = down => {} }
            });
        }
    });
    Between { address, up }
}

/// An image with layers that do not compress, so that it is larger than what gets through.
fn noisy(root: &Path, layers: usize) -> image::Built {
    let mut files = Vec::new();
    for number in 0..layers {
        let noise: String = (0..8000).map(|_| unique()).collect();
        write(root, &format!("noise{number}"), &noise, 0o644);
        files.push((format!("noise{number}"), format!("/noise{number}")));
    }
    let files: Vec<(&str, &str, Option<u32>)> =
        files.iter().map(|(from, to)| (from.as_str(), to.as_str(), None)).collect();
    let to = tempfile::tempdir_in(root).unwrap().keep();
    image::build_oci(&oci(&files), root, &BTreeMap::new(), created(), &to, &Events::nowhere()).unwrap()
}

#[tokio::test]
async fn a_registry_that_dies_in_mid_push_is_a_failure_and_the_next_push_sends_only_the_rest() {
    let Some(registry) = real("SEALIFT_TEST_REGISTRY") else { return };
    let root = tempfile::tempdir().unwrap();
    let built = noisy(root.path(), 1);
    assert!(built.bytes > 120_000, "{}", built.bytes);
    let path = format!("test/{}", unique());
    for budget in [1, 20_000, 100_000] {
        let dying = between(registry.clone(), budget).await;
        let to = at(&format!("{}/{path}", dying.address));
        let error = image::push(&built.layout, &to, &tags(&["1.0.0"]), &Events::nowhere()).await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
        assert!(error.to_string().contains(&path), "{error}");
        assert_eq!(digest_at(&registry, &path, "1.0.0").await, None);
    }
    let to = at(&format!("{registry}/{path}"));
    image::push(&built.layout, &to, &tags(&["1.0.0"]), &Events::nowhere()).await.unwrap();
    assert_eq!(digest_at(&registry, &path, "1.0.0").await, Some(built.root().to_string()));
    // A larger image, one blob of which is there when the registry dies: it does not go over the wire again.
    let more = noisy(root.path(), 4);
    let first = noisy_layer(&more, &registry, &path).await;
    let counting = between(registry.clone(), usize::MAX).await;
    let to = at(&format!("{}/{path}", counting.address));
    let pushed = image::push(&more.layout, &to, &tags(&["2.0.0"]), &Events::nowhere()).await.unwrap();
    assert_eq!((pushed.blobs_there, pushed.blobs_sent), (1, 4));
    let requests = 32 << 10;
    assert!(pushed.bytes_sent < more.bytes - first, "{pushed:?}");
    assert!(counting.up.load(SeqCst) as u64 <= more.bytes - first + requests, "{}", counting.up.load(SeqCst));
    let before = counting.up.load(SeqCst);
    let again = image::push(&more.layout, &to, &tags(&["2.0.0"]), &Events::nowhere()).await.unwrap();
    assert_eq!((again.blobs_there, again.blobs_sent, again.bytes_sent), (5, 0, 0));
    assert!(counting.up.load(SeqCst) - before < requests as usize);
}

/// Puts one layer of the image where it is to go, as a push that was killed leaves it, and gives its size.
async fn noisy_layer(built: &image::Built, registry: &str, path: &str) -> u64 {
    let layer = built.layers[0];
    let bytes = fs::read(built.layout.join("blobs/sha256").join(layer.hex())).unwrap();
    let client = reqwest::Client::new();
    let begun = client.post(format!("http://{registry}/v2/{path}/blobs/uploads/")).send().await.unwrap();
    let location = begun.headers()["location"].to_str().unwrap().to_owned();
    let size = bytes.len() as u64;
    let put = client.put(format!("{location}&digest={layer}")).body(bytes).send().await.unwrap();
    assert_eq!(put.status().as_u16(), 201);
    size
}

#[tokio::test]
async fn several_destinations_get_one_image_and_share_what_the_registry_has() {
    let Some(registry) = real("SEALIFT_TEST_REGISTRY") else { return };
    let root = tempfile::tempdir().unwrap();
    let built = noisy(root.path(), 2);
    let paths: Vec<String> = (0..3).map(|_| format!("test/{}", unique())).collect();
    let to: Vec<image::Destination> = paths.iter().map(|path| at(&format!("{registry}/{path}"))).collect();
    let all = tags(&["1.0.0", "latest"]);
    let pushed = image::publish(&built.layout, &to, &all, &Events::nowhere()).await.unwrap();
    assert_eq!(pushed.iter().map(|one| one.blobs_sent).collect::<Vec<_>>(), [3, 0, 0]);
    assert_eq!(pushed.iter().map(|one| one.mounted).collect::<Vec<_>>(), [0, 3, 3]);
    for (path, to) in paths.iter().zip(&to) {
        for tag in &all {
            assert_eq!(digest_at(&registry, path, tag).await, Some(built.root().to_string()));
            assert_eq!(image::resolve(to, tag).await.unwrap(), Some(built.root()));
        }
    }
    // A version that is taken at the last of them stops the publish before the first.
    let other = build(root.path(), "other");
    image::push(&other.layout, &to[2], &tags(&["2.0.0"]), &Events::nowhere()).await.unwrap();
    let error = image::publish(&built.layout, &to, &tags(&["2.0.0"]), &Events::nowhere()).await.unwrap_err();
    assert!(matches!(&error, Error::TagTaken { repository, .. } if *repository == to[2].repository), "{error}");
    assert_eq!(image::resolve(&to[0], "2.0.0").await.unwrap(), None);
    assert!(image::check_tags(&to[2], &tags(&["2.0.0"]), &other.root()).await.is_ok());
    assert!(image::check_tags(&to[2], &tags(&["2.0.0"]), &built.root()).await.is_err());
    image::registry_ping(&to[0]).await.unwrap();
}

#[tokio::test]
async fn what_was_pushed_is_pulled_the_same_also_after_its_tag_moved() {
    let Some(registry) = real("SEALIFT_TEST_REGISTRY") else { return };
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (build(root.path(), "one"), build(root.path(), "two"));
    let to = at(&format!("{registry}/test/{}", unique()));
    image::push(&one.layout, &to, &tags(&["latest"]), &Events::nowhere()).await.unwrap();
    let layout = root.path().join("pulled");
    let pulled = image::pull(&to, "latest", &[], &layout, &Events::nowhere()).await.unwrap();
    assert_eq!((pulled.root(), pulled.config, &pulled.layers), (one.root(), one.config, &one.layers));
    assert_eq!(image::open(&layout).unwrap().root(), one.root());
    image::push(&two.layout, &to, &tags(&["latest"]), &Events::nowhere()).await.unwrap();
    let by_digest = image::pull(&to, &one.root().to_string(), &[], &layout, &Events::nowhere()).await.unwrap();
    assert_eq!(by_digest.root(), one.root());
    assert_eq!(image::resolve(&to, "latest").await.unwrap(), Some(two.root()));
}

/// A signature as the ledger makes it, so that this crate's tests need no ledger: a Sigstore bundle over a DSSE envelope, pure Ed25519.
fn signed(key: &ed25519_dalek::SigningKey, subject: &domain::Digest) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use ed25519_dalek::{Signer as _, pkcs8::EncodePublicKey as _};
    let payload = serde_json::json!({"_type": "https://in-toto.io/Statement/v1", "predicate": {},
        "predicateType": "https://sigstore.dev/cosign/sign/v1",
        "subject": [{"name": "wine", "digest": {"sha256": subject.hex()}}]})
    .to_string();
    let kind = "application/vnd.in-toto+json";
    let message = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
    let der = key.verifying_key().to_public_key_der().unwrap();
    let hint = STANDARD.encode(domain::Digest::of(der.as_bytes()).as_bytes());
    serde_json::json!({"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hint}},
        "dsseEnvelope": {"payload": STANDARD.encode(&payload), "payloadType": kind,
            "signatures": [{"sig": STANDARD.encode(key.sign(message.as_bytes()).to_bytes())}]}})
    .to_string()
    .into_bytes()
}

#[tokio::test]
async fn cosign_accepts_a_signature_that_was_attached_and_no_other() {
    use ed25519_dalek::pkcs8::{EncodePublicKey as _, spki::der::pem::LineEnding};
    let (Some(registry), Some(cosign)) = (real("SEALIFT_TEST_REGISTRY"), real("SEALIFT_TEST_COSIGN")) else { return };
    let root = tempfile::tempdir().unwrap();
    let built = build(root.path(), "signed");
    let to = at(&format!("{registry}/test/{}", unique()));
    image::push(&built.layout, &to, &tags(&["1.0.0"]), &Events::nowhere()).await.unwrap();
    let verify = |key: &ed25519_dalek::SigningKey| {
        let path = root.path().join("key.pub");
        fs::write(&path, key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap()).unwrap();
        let output = Command::new(&cosign)
            .args(["verify", "--insecure-ignore-tlog=true", "--allow-http-registry", "--key"])
            .arg(&path)
            .arg(format!("{}@{}", to.repository, built.root()))
            .env("HOME", root.path())
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (right, wrong) =
        (ed25519_dalek::SigningKey::from_bytes(&[7; 32]), ed25519_dalek::SigningKey::from_bytes(&[8; 32]));
    assert!(!verify(&right).0, "nothing is attached yet");
    let attachment = image::Attachment {
        bytes: signed(&right, &built.root()),
        predicate_type: "https://sigstore.dev/cosign/sign/v1".to_owned(),
        created: created(),
    };
    let provenance =
        image::Attachment { bytes: b"{}".to_vec(), predicate_type: "urn:x".to_owned(), ..attachment.clone() };
    let both = [attachment.clone(), provenance];
    let digests = image::attach(&to, &built.root(), &both, &Events::nowhere()).await.unwrap();
    assert_eq!(image::attach(&to, &built.root(), &both, &Events::nowhere()).await.unwrap(), digests);
    let found = image::attached(&to, &built.root()).await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.iter().any(|one| one.bytes == attachment.bytes && one.manifest == digests[0]));
    let (accepted, said) = verify(&right);
    assert!(accepted, "{said}");
    assert!(!verify(&wrong).0);
}

#[test]
fn skopeo_takes_the_layout_and_the_archive() {
    let Some(skopeo) = real("SEALIFT_TEST_SKOPEO") else { return };
    let root = tempfile::tempdir().unwrap();
    let built = build(root.path(), "skopeo");
    let archive = root.path().join("image.tar");
    image::docker_archive(&built.layout, Some("wine.example/wine:1.0.0"), fs::File::create(&archive).unwrap()).unwrap();
    let inspect = |arguments: &[&str]| {
        let output = Command::new(&skopeo).arg("inspect").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let config = fs::read(built.layout.join("blobs/sha256").join(built.config.hex())).unwrap();
    let oci = format!("oci:{}", built.layout.display());
    let docker = format!("docker-archive:{}", archive.display());
    assert_eq!(inspect(&["--raw", "--config", &oci]), config);
    assert_eq!(inspect(&["--raw", "--config", &docker]), config);
    assert_eq!(domain::Digest::of(inspect(&["--raw", &oci])), built.manifest);
    // A copy reads every layer and checks it. To `dir:` it keeps the configuration as it is; to `oci:` a docker archive is translated.
    for (number, (source, kind)) in [(&oci, "oci"), (&docker, "oci"), (&docker, "dir")].into_iter().enumerate() {
        let to = root.path().join(format!("copy-{number}"));
        let output = Command::new(&skopeo)
            .args(["--insecure-policy", "copy", "--quiet", source, &format!("{kind}:{}", to.display())])
            .output()
            .unwrap();
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
        match kind {
            "oci" => assert_eq!(image::open(&to).unwrap().layers.len(), built.layers.len()),
            _ => assert_eq!(fs::read(to.join(built.config.hex())).unwrap(), config),
        }
    }
}
