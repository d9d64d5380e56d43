//! Engines to build with, and what a test does with them besides.

use super::{real, write};
use bollard::{
    Docker,
    query_parameters::{ImportImageOptions, ListImagesOptions, RemoveImageOptions},
};
use domain::{Events, config::DockerBuild, secret::Secret};
use futures::TryStreamExt;
use image::Built;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

pub(crate) fn spec(engine: &str) -> DockerBuild {
    DockerBuild {
        context: ".".to_owned(),
        dockerfile: "Dockerfile".to_owned(),
        target: None,
        args: BTreeMap::new(),
        labels: BTreeMap::from([("team".to_owned(), "wine".to_owned())]),
        engine: Some(engine.to_owned()),
        platforms: Vec::new(),
        secrets: BTreeMap::new(),
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        no_cache: false,
    }
}

/// Which builder of which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Oldest,
    Newest,
    Classic,
}

/// An engine to build with; the classic builder is that of the oldest engine behind a socket that knows no sessions.
pub(crate) struct Engine {
    pub(crate) kind: Kind,
    pub(crate) address: String,
    /// The socket without anything between.
    pub(crate) direct: String,
    _folder: Option<tempfile::TempDir>,
}

pub(crate) async fn engines() -> Vec<Engine> {
    let mut engines = Vec::new();
    for (kind, variable) in [(Kind::Oldest, "SEALIFT_TEST_DOCKER"), (Kind::Newest, "SEALIFT_TEST_DOCKER_NEWEST")] {
        if let Some(address) = real(variable) {
            engines.push(Engine { kind, direct: address.clone(), address, _folder: None });
        }
    }
    if let Some(direct) = engines.first().filter(|engine| engine.kind == Kind::Oldest).map(|one| one.direct.clone()) {
        let folder = tempfile::tempdir().unwrap();
        let address = without_sessions(&direct, &folder.path().join("classic"));
        engines.push(Engine { kind: Kind::Classic, address, direct, _folder: Some(folder) });
    }
    engines
}

/// A socket before an engine that answers that there are no sessions.
fn without_sessions(upstream: &str, socket: &Path) -> String {
    let upstream = upstream.strip_prefix("unix://").unwrap().to_owned();
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let mut first = vec![0; 64 * 1024];
                let Ok(n @ 1..) = near.read(&mut first).await else { return };
                if String::from_utf8_lossy(&first[..n]).lines().next().unwrap_or_default().contains("/session") {
                    let _ = near.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
                    return;
                }
                let mut far = UnixStream::connect(&upstream).await.unwrap();
                if far.write_all(&first[..n]).await.is_ok() {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    format!("unix://{}", socket.display())
}

pub(crate) async fn build(spec: &DockerBuild, root: &Path, to: &Path) -> image::Result<Built> {
    let none = BTreeMap::new();
    image::build_docker(spec, root, &none, &BTreeMap::new(), to, &Events::nowhere()).await
}

pub(crate) fn connect(engine: &str) -> Docker {
    Docker::connect_with_unix(engine, 60, bollard::API_DEFAULT_VERSION).unwrap()
}

/// The configuration document of a built image.
pub(crate) fn configuration(built: &Built) -> serde_json::Value {
    serde_json::from_slice(&fs::read(built.layout.join("blobs/sha256").join(built.config.hex())).unwrap()).unwrap()
}

pub(crate) async fn load(docker: &Docker, archive: Vec<u8>) -> Vec<String> {
    let body = bollard::body_full(archive.into());
    let messages: Vec<_> = docker.import_image(ImportImageOptions::default(), body, None).try_collect().await.unwrap();
    messages.into_iter().filter_map(|message| message.stream).collect()
}

/// What a test built is removed again.
pub(crate) async fn remove(engine: &str, images: &[&Built]) {
    let docker = connect(engine);
    for built in images {
        for id in [built.config, built.manifest] {
            drop(docker.remove_image(&id.to_string(), None::<RemoveImageOptions>, None).await);
        }
    }
}

/// Something that no cache has seen.
pub(crate) fn uuid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}

/// A folder with a static shell, `/busybox`.
pub(crate) fn with_shell(dockerfile: &str) -> Option<tempfile::TempDir> {
    let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists()) else {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "busybox-static is not installed; in CI nothing is left out"
        );
        eprintln!("not run: busybox-static is not installed");
        return None;
    };
    let root = tempfile::tempdir().unwrap();
    fs::copy(busybox, root.path().join("busybox")).unwrap();
    write(root.path(), "Dockerfile", dockerfile, 0o644);
    Some(root)
}

/// IDs of the images with a label, whether tagged or not.
pub(crate) async fn labelled(docker: &Docker, label: &str) -> Vec<String> {
    let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
    let options = ListImagesOptions { all: true, filters: Some(filters), ..ListImagesOptions::default() };
    docker.list_images(Some(options)).await.unwrap().into_iter().map(|image| image.id).collect()
}

/// Waits until a condition holds; what it says is the failure.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

pub(crate) fn none_secrets() -> BTreeMap<String, Secret> {
    BTreeMap::new()
}

/// A file `large` of 32 MiB, which takes some time to send.
pub(crate) fn write_large(folder: &Path) {
    let large = (0_u64..4 << 20).flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
    fs::write(folder.join("large"), large.collect::<Vec<u8>>()).unwrap();
}
