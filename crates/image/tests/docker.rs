//! The `docker` builder against a real engine (`SEALIFT_TEST_DOCKER=unix:///…`), and against one that lies.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use bollard::{
    Docker,
    query_parameters::{ImportImageOptions, RemoveImageOptions},
};
use common::{Lines, created, oci, real, write};
use domain::{Class, Events, config::DockerBuild};
use futures::TryStreamExt;
use image::Error;
use std::{collections::BTreeMap, fs, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

fn spec(engine: &str) -> DockerBuild {
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
    }
}

fn connect(engine: &str) -> Docker {
    Docker::connect_with_unix(engine, 60, bollard::API_DEFAULT_VERSION).unwrap()
}

/// The configuration document of a built image.
fn configuration(built: &image::Built) -> serde_json::Value {
    serde_json::from_slice(&fs::read(built.layout.join("blobs/sha256").join(built.config.hex())).unwrap()).unwrap()
}

async fn load(docker: &Docker, archive: Vec<u8>) -> Vec<String> {
    let body = bollard::body_full(archive.into());
    let messages: Vec<_> = docker.import_image(ImportImageOptions::default(), body, None).try_collect().await.unwrap();
    messages.into_iter().filter_map(|message| message.stream).collect()
}

#[tokio::test]
async fn a_dockerfile_becomes_a_layout_and_the_same_sources_the_same_image() {
    let Some(engine) = real("SEALIFT_TEST_DOCKER") else { return };
    let version = image::docker_ping(Some(&engine)).await.unwrap();
    assert!(version.contains("API"), "{version}");
    let root = tempfile::tempdir().unwrap();
    let dockerfile = "FROM scratch AS first\nARG GREETING=none\nLABEL greeting=$GREETING\nCOPY hello /hello\nCOPY sub /sub\nENV A=b\nFROM first\nCOPY more /more\n";
    write(root.path(), "Dockerfile", dockerfile, 0o644);
    write(root.path(), ".dockerignore", "sub/*\n!sub/kept\n", 0o644);
    write(root.path(), "hello", "hello", 0o755);
    write(root.path(), "sub/kept", "kept", 0o644);
    write(root.path(), "sub/ignored", "ignored", 0o644);
    write(root.path(), "more", "more", 0o644);
    let mut spec = spec(&engine);
    spec.args.insert("GREETING".to_owned(), uuid());
    let labels = BTreeMap::from([("org.opencontainers.image.version".to_owned(), "1.0.0".to_owned())]);
    let lines = Lines::default();
    let built =
        image::build_docker(&spec, root.path(), &labels, &root.path().join("layout"), &lines.events()).await.unwrap();
    assert_eq!(built.layers.len(), 3);
    assert!(lines.all().iter().any(|line| line.starts_with("Step 1/")), "{:?}", lines.all());
    assert!(built.log_tail.iter().any(|line| line.contains("Successfully built")), "{:?}", built.log_tail);
    let found = &configuration(&built)["config"]["Labels"];
    assert_eq!(found["greeting"], spec.args["GREETING"].as_str());
    assert_eq!((&found["team"], &found["org.opencontainers.image.version"]), (&"wine".into(), &"1.0.0".into()));
    assert!(found[image::BUILD_LABEL].as_str().is_some_and(|text| text.len() == 36), "{found}");
    let rootfs = root.path().join("rootfs");
    let unpacked = image::unpack(&built.layout, &rootfs, &image::Limits::default()).unwrap();
    assert!(unpacked.env.contains(&("A".to_owned(), "b".to_owned())));
    assert_eq!(fs::read_to_string(rootfs.join("hello")).unwrap(), "hello");
    assert_eq!(fs::read_to_string(rootfs.join("sub/kept")).unwrap(), "kept");
    assert!(!rootfs.join("sub/ignored").exists());
    // Again, from another folder: the engine's cache gives the same image, and so the same digests.
    let other = tempfile::tempdir().unwrap();
    for path in ["Dockerfile", ".dockerignore", "hello", "sub/kept", "sub/ignored", "more"] {
        write(
            other.path(),
            path,
            &fs::read_to_string(root.path().join(path)).unwrap(),
            if path == "hello" { 0o755 } else { 0o644 },
        );
    }
    let again = image::build_docker(&spec, other.path(), &labels, &other.path().join("layout"), &Events::nowhere())
        .await
        .unwrap();
    assert_eq!((again.manifest, again.config), (built.manifest, built.config));
    // A target stops before the last stage.
    spec.target = Some("first".to_owned());
    let first =
        image::build_docker(&spec, root.path(), &labels, &root.path().join("first"), &Events::nowhere()).await.unwrap();
    assert_eq!(first.layers, built.layers[..2]);
    remove(&engine, &[&built, &first]).await;
}

#[tokio::test]
async fn equal_layers_are_an_image_and_no_layers_are_bad_input() {
    let Some(engine) = real("SEALIFT_TEST_DOCKER") else { return };
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "hello", &uuid(), 0o755);
    write(root.path(), "Dockerfile", "FROM scratch\nCOPY hello /a\nCOPY hello /a\n", 0o644);
    let to = tempfile::tempdir().unwrap();
    let built = image::build_docker(&spec(&engine), root.path(), &BTreeMap::new(), to.path(), &Events::nowhere())
        .await
        .unwrap();
    assert_eq!((built.layers.len(), built.layers[0]), (2, built.layers[1]));
    let mut archive = Vec::new();
    image::docker_archive(&built.layout, None, &mut archive).unwrap();
    load(&connect(&engine), archive).await;
    remove(&engine, &[&built]).await;
    write(root.path(), "Dockerfile", "FROM scratch\nLABEL nothing=inside\n", 0o644);
    let error = image::build_docker(&spec(&engine), root.path(), &BTreeMap::new(), to.path(), &Events::nowhere())
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::BadInput);
    assert!(error.to_string().contains("without a single file"), "{error}");
}

/// What a test built is removed again.
async fn remove(engine: &str, images: &[&image::Built]) {
    let docker = connect(engine);
    for built in images {
        for id in [built.config, built.manifest] {
            drop(docker.remove_image(&id.to_string(), None::<RemoveImageOptions>, None).await);
        }
    }
}

/// Something that no cache has seen.
fn uuid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_step_that_fails_is_named_with_the_last_lines() {
    let Some(engine) = real("SEALIFT_TEST_DOCKER") else { return };
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "Dockerfile", "FROM scratch\nCOPY hello /hello\nCOPY nowhere /there\n", 0o644);
    write(root.path(), "hello", "hello", 0o644);
    let error = image::build_docker(
        &spec(&engine),
        root.path(),
        &BTreeMap::new(),
        &root.path().join("layout"),
        &Events::nowhere(),
    )
    .await
    .unwrap_err();
    let Error::BuildFailed { step, cause, log } = &error else { panic!("{error:?}") };
    assert_eq!(error.class(), Class::BadInput);
    assert!(step.as_ref().unwrap().contains("COPY nowhere"), "{error}");
    assert!(cause.contains("nowhere"), "{error}");
    assert!(!log.is_empty() && log.len() <= 20, "{log:?}");
    write(root.path(), "Dockerfile", "FROM scratch\nNONSENSE\n", 0o644);
    let error = image::build_docker(
        &spec(&engine),
        root.path(),
        &BTreeMap::new(),
        &root.path().join("layout"),
        &Events::nowhere(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.class(), Class::BadInput);
    assert!(error.to_string().to_lowercase().contains("nonsense"), "{error}");
}

#[tokio::test]
async fn a_command_that_fails_shows_what_it_printed() {
    let Some(engine) = real("SEALIFT_TEST_DOCKER") else { return };
    let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists()) else {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "busybox-static is not installed; in CI nothing is left out"
        );
        return eprintln!("not run: busybox-static is not installed");
    };
    let root = tempfile::tempdir().unwrap();
    fs::copy(busybox, root.path().join("busybox")).unwrap();
    // The engine mixes the two outputs as they come, so both fit into what is kept whatever their order.
    let run = "RUN [\"/busybox\", \"sh\", \"-c\", \"for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do echo line $n; done; echo it broke here >&2; exit 7\"]";
    write(root.path(), "Dockerfile", &format!("FROM scratch\nCOPY busybox /busybox\n{run}\n"), 0o644);
    let error = image::build_docker(
        &spec(&engine),
        root.path(),
        &BTreeMap::new(),
        &root.path().join("layout"),
        &Events::nowhere(),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, Error::BuildFailed { .. }), "{error:?}");
    assert!(error.to_string().contains("non-zero code: 7"), "{error}");
    let log = error.log_tail();
    assert_eq!(log.len(), 20);
    assert!(
        log.iter().any(|line| line.contains("it broke here")) && log.iter().any(|line| line == "line 17"),
        "{log:?}"
    );
}

#[tokio::test]
async fn an_archive_loads_with_the_images_own_id() {
    let Some(engine) = real("SEALIFT_TEST_DOCKER") else { return };
    let docker = connect(&engine).negotiate_version().await.unwrap();
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "hello", &uuid(), 0o755);
    write(root.path(), "etc/a", "a", 0o644);
    let built = image::build_oci(
        &oci(&[("hello", "/hello", None), ("etc", "/etc", None)]),
        root.path(),
        &BTreeMap::new(),
        created(),
        &root.path().join("layout"),
        &Events::nowhere(),
    )
    .unwrap();
    let name = format!("sealift-test.example/{}:1.0.0", uuid());
    for reference in [None, Some(name.as_str())] {
        let mut archive = Vec::new();
        image::docker_archive(&built.layout, reference, &mut archive).unwrap();
        let said = load(&docker, archive).await;
        let id = if reference.is_some() { name.clone() } else { built.config.to_string() };
        let shown = match docker.inspect_image(&id).await {
            Ok(shown) => shown,
            // The containerd image store knows an image by its manifest.
            Err(_) => docker
                .inspect_image(&built.manifest.to_string())
                .await
                .unwrap_or_else(|error| panic!("{error}: {said:?}")),
        };
        let shown_id = shown.id.unwrap();
        assert!(
            [built.config.to_string(), built.manifest.to_string()].contains(&shown_id),
            "{shown_id} is neither digest of {built:?}"
        );
        assert_eq!(shown.config.unwrap().labels.unwrap()["team"], "wine");
        drop(docker.remove_image(&id, None::<RemoveImageOptions>, None).await);
    }
    remove(&engine, &[&built]).await;
}

/// An engine of a few lines: it takes the build, answers with these lines, and ends cleanly or breaks off.
async fn lying_engine(socket: &Path, lines: &'static [&'static str], clean: bool) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut buffer = [0; 64 * 1024];
                loop {
                    let n = stream.read(&mut buffer).await.unwrap_or(0);
                    if n == 0 {
                        return;
                    }
                    seen.extend(&buffer[..n]);
                    let text = String::from_utf8_lossy(&seen).into_owned();
                    if text.contains("GET /") && text.contains("/version") {
                        let body = r#"{"Version":"20.10.0","ApiVersion":"1.41"}"#;
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        stream.write_all(answer.as_bytes()).await.unwrap();
                        seen.clear();
                    } else if text.contains("POST /") && seen.ends_with(b"0\r\n\r\n") {
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
                        for line in lines {
                            stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.unwrap();
                        }
                        if clean {
                            stream.write_all(b"0\r\n\r\n").await.unwrap();
                        }
                        return;
                    }
                }
            });
        }
    });
}

#[tokio::test]
async fn an_end_of_stream_without_an_image_is_a_failure() {
    const LINES: &[&str] =
        &["{\"stream\":\"Step 1/2 : FROM scratch\\n\"}\n", "{\"stream\":\" ---> \\nStep 2/2 : COPY hello /\\n\"}\n"];
    for (number, clean) in [(0, true), (1, false)] {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join(format!("engine-{number}"));
        lying_engine(&socket, LINES, clean).await;
        let context = root.path().join("context");
        write(&context, "Dockerfile", "FROM scratch\nCOPY hello /\n", 0o644);
        write(&context, "hello", "hello", 0o644);
        let engine = format!("unix://{}", socket.display());
        let error = image::build_docker(
            &spec(&engine),
            &context,
            &BTreeMap::new(),
            &root.path().join("layout"),
            &Events::nowhere(),
        )
        .await
        .unwrap_err();
        let Error::BuildLost { step, log, .. } = &error else { panic!("{error:?}") };
        assert_eq!(error.class(), Class::Unavailable);
        assert_eq!(step.as_deref(), Some("Step 2/2 : COPY hello /"));
        assert!(log.iter().any(|line| line == "Step 1/2 : FROM scratch"), "{log:?}");
        assert!(error.to_string().contains(&engine) && error.to_string().contains("without an image"), "{error}");
        assert!(!root.path().join("layout/index.json").exists());
    }
}

#[tokio::test]
async fn a_killed_engine_is_seen_in_mid_build() {
    let Some(real_engine) = real("SEALIFT_TEST_DOCKER") else { return };
    // The connection is cut between us and a real engine, as a kill would cut it, without stopping the engine of other tests.
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("cut");
    let upstream = real_engine.strip_prefix("unix://").unwrap().to_owned();
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = tokio::net::UnixStream::connect(&upstream).await.unwrap();
            tokio::spawn(async move {
                let (mut near_read, mut near_write) = near.split();
                let (mut far_read, mut far_write) = far.split();
                let mut buffer = vec![0; 64 * 1024];
                let mut answer = Vec::new();
                let up = tokio::io::copy(&mut near_read, &mut far_write);
                let down = async {
                    loop {
                        let n = far_read.read(&mut buffer).await.unwrap_or(0);
                        if n == 0 || near_write.write_all(&buffer[..n]).await.is_err() {
                            return;
                        }
                        answer.extend(&buffer[..n]);
                        if String::from_utf8_lossy(&answer).contains("Step 2/") {
                            return;
                        }
                    }
                };
                tokio::select! { _ = up => {}, () = down => {} }
            });
        }
    });
    let context = root.path().join("context");
    write(&context, "Dockerfile", &format!("FROM scratch\nLABEL run={}\nCOPY hello /\n", uuid()), 0o644);
    write(&context, "hello", "hello", 0o644);
    let engine = format!("unix://{}", socket.display());
    let error = image::build_docker(
        &spec(&engine),
        &context,
        &BTreeMap::new(),
        &root.path().join("layout"),
        &Events::nowhere(),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, Error::BuildLost { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Unavailable);
}

#[tokio::test]
async fn no_engine_is_said_with_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let engine = format!("unix://{}", folder.path().join("nobody.sock").display());
    let error = image::docker_ping(Some(&engine)).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.to_string().contains(&engine), "{error}");
    let error = image::build_docker(&spec(&engine), folder.path(), &BTreeMap::new(), folder.path(), &Events::nowhere())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::EngineUnreachable { .. }), "{error:?}");
    assert_eq!(image::docker_ping(Some("ssh://host")).await.unwrap_err().class(), Class::BadInput);
}
