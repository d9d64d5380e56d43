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

async fn digest_at(registry: &str, path: &str, tag: &str) -> Option<String> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = oci_client::Client::try_from(oci_client::client::ClientConfig {
        protocol: oci_client::client::ClientProtocol::Http,
        ..Default::default()
    })
    .unwrap();
    let reference = format!("{registry}/{path}:{tag}").parse().unwrap();
    client.fetch_manifest_digest(&reference, &oci_client::secrets::RegistryAuth::Anonymous).await.ok()
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

/// Forwards so many bytes to the registry, then cuts every connection, as one that was killed.
async fn dying_registry(registry: String, budget: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let budget = Arc::new(AtomicUsize::new(budget));
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (budget, registry) = (budget.clone(), registry.clone());
            tokio::spawn(async move {
                let mut far = TcpStream::connect(&registry).await.unwrap();
                let (mut near_read, mut near_write) = near.split();
                let (mut far_read, mut far_write) = far.split();
                let up = async {
                    let mut buffer = [0; 4096];
                    loop {
                        let n = near_read.read(&mut buffer).await.unwrap_or(0);
                        let within = budget.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(n)).is_ok();
                        if n == 0 || !within || far_write.write_all(&buffer[..n]).await.is_err() {
                            budget.store(if within { budget.load(SeqCst) } else { 0 }, SeqCst);
                            return;
                        }
                    }
                };
                let down = tokio::io::copy(&mut far_read, &mut near_write);
                tokio::select! { () = up => {}, _ = down => {} }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_registry_that_dies_in_mid_push_is_a_failure_and_the_next_push_finishes() {
    let Some(registry) = real("SEALIFT_TEST_REGISTRY") else { return };
    let root = tempfile::tempdir().unwrap();
    // Does not compress, so that the layer is larger than what gets through.
    let noise: String = (0..8000).map(|_| unique()).collect();
    let built = build(root.path(), &noise);
    assert!(built.bytes > 120_000, "{}", built.bytes);
    let path = format!("test/{}", unique());
    for budget in [1, 20_000, 100_000] {
        let dying = dying_registry(registry.clone(), budget).await;
        let error = image::push(&built.layout, &at(&format!("{dying}/{path}")), &tags(&["1.0.0"]), &Events::nowhere())
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
        assert!(error.to_string().contains(&path), "{error}");
        assert_eq!(digest_at(&registry, &path, "1.0.0").await, None);
    }
    image::push(&built.layout, &at(&format!("{registry}/{path}")), &tags(&["1.0.0"]), &Events::nowhere())
        .await
        .unwrap();
    assert_eq!(digest_at(&registry, &path, "1.0.0").await, Some(built.manifest.to_string()));
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
