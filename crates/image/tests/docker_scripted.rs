//! The `docker` builder against engines that lie, break off and are killed: scripted ones, and sockets before real ones
//! (`SEALIFT_TEST_DOCKER` and `SEALIFT_TEST_DOCKER_NEWEST`, each `unix:///…`).
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use common::{
    engines::{Kind, build, engines, holds, spec, uuid, write_large},
    write,
};
use domain::Class;
use image::Error;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

/// An engine of a few lines: it takes the build, answers with these lines, and ends cleanly or breaks off. It never has an image. It counts its builds.
async fn lying_engine(socket: &Path, lines: &'static [&'static str], clean: bool) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(socket).unwrap();
    let builds = Arc::new(AtomicUsize::new(0));
    let counted = builds.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
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
                    } else if text.contains("/images/") {
                        let listed = text.lines().next().is_some_and(|line| line.contains("/images/json"));
                        let (status, body) =
                            if listed { ("200 OK", "[]") } else { ("404 Not Found", r#"{"message":"No such image"}"#) };
                        let head = "Content-Type: application/json\r\nConnection: close\r\nContent-Length";
                        let answer = format!("HTTP/1.1 {status}\r\n{head}: {}\r\n\r\n{body}", body.len());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                        return;
                    } else if text.contains("/session") {
                        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                        return;
                    } else if text.contains("POST /") && seen.ends_with(b"0\r\n\r\n") {
                        counted.fetch_add(1, Ordering::Relaxed);
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
    builds
}

// The image goes by a request that waits, and its engine is served by this runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_a_build_beside_this_one_removed_is_built_once_more() {
    const LINES: &[&str] = &[
        "{\"stream\":\"Step 1/1 : FROM scratch\\n\"}\n",
        "{\"aux\":{\"ID\":\"sha256:1111111111111111111111111111111111111111111111111111111111111111\"}}\n",
    ];
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("engine");
    let builds = lying_engine(&socket, LINES, true).await;
    write(&root.path().join("context"), "Dockerfile", "FROM scratch\n", 0o644);
    let spec = spec(&format!("unix://{}", socket.display()));
    let error = build(&spec, &root.path().join("context"), &root.path().join("layout")).await.unwrap_err();
    assert!(error.to_string().contains("show image sha256:1111") && error.to_string().contains("No such"), "{error}");
    assert_eq!((error.class(), builds.load(Ordering::Relaxed)), (Class::Unavailable, 2));
}

/// A socket before an engine that changes some of the engine's bytes, wherever they come, but not how many they are. It counts how often.
fn changed(upstream: &str, socket: &Path, from: &'static str, to: &'static str) -> (String, Arc<AtomicUsize>) {
    assert_eq!(from.len(), to.len());
    let upstream = upstream.strip_prefix("unix://").unwrap().to_owned();
    let listener = UnixListener::bind(socket).unwrap();
    let changes = Arc::<AtomicUsize>::default();
    let counted = changes.clone();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = UnixStream::connect(&upstream).await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                let (mut near_read, mut near_write) = near.split();
                let (mut far_read, mut far_write) = far.split();
                let up = tokio::io::copy(&mut near_read, &mut far_write);
                let down = async {
                    let (mut buffer, mut held) = (vec![0; 64 * 1024], Vec::new());
                    while let Ok(n @ 1..) = far_read.read(&mut buffer).await {
                        held.extend_from_slice(&buffer[..n]);
                        while let Some(at) = held.windows(from.len()).position(|bytes| bytes == from.as_bytes()) {
                            held[at..at + to.len()].copy_from_slice(to.as_bytes());
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                        // What may go on in the next piece waits for it; with fewer letters an answer might end like this.
                        let begun = (5..from.len()).rev().find(|n| held.ends_with(&from.as_bytes()[..*n])).unwrap_or(0);
                        let rest = held.split_off(held.len() - begun);
                        if near_write.write_all(&std::mem::replace(&mut held, rest)).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! { _ = up => {}, () = down => {} }
            });
        }
    });
    (format!("unix://{}", socket.display()), changes)
}

#[tokio::test]
async fn an_archive_that_arrives_damaged_is_no_failure_of_the_build() {
    for engine in engines().await.into_iter().filter(|engine| engine.kind == Kind::Newest) {
        let root = tempfile::tempdir().unwrap();
        let salt = uuid();
        write(root.path(), "Dockerfile", &format!("FROM scratch\nLABEL salt={salt}\nCOPY large /large\n"), 0o644);
        write_large(root.path());
        let socket = root.path().join("changed");
        let (address, changes) = changed(&engine.direct, &socket, "blobs/sha256/", "blobs/sha652/");
        let built = build(&spec(&address), root.path(), &root.path().join("layout")).await;
        assert!(changes.load(Ordering::Relaxed) > 0, "nothing was changed on the way: {built:?}");
        let error = built.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        assert_eq!(error.class(), Class::Integrity);
    }
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
        let error = build(&spec(&engine), &context, &root.path().join("layout")).await.unwrap_err();
        let Error::BuildLost { step, log, .. } = &error else { panic!("{error:?}") };
        assert_eq!(error.class(), Class::Unavailable);
        assert_eq!(step.as_deref(), Some("Step 2/2 : COPY hello /"));
        assert!(log.iter().any(|line| line == "Step 1/2 : FROM scratch"), "{log:?}");
        assert!(error.to_string().contains(&engine) && error.to_string().contains("without an image"), "{error}");
        assert!(!root.path().join("layout/index.json").exists());
    }
}

/// A socket before an engine that cuts every connection, as a kill would, once the engine has said something.
fn cut_after(upstream: &str, socket: &Path, said: &str) -> String {
    let (upstream, said) = (upstream.strip_prefix("unix://").unwrap().to_owned(), said.to_owned());
    let listener = UnixListener::bind(socket).unwrap();
    let cut = tokio_util::sync::CancellationToken::new();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! { accepted = listener.accept() => accepted, () = cut.cancelled() => return };
            let (mut near, _) = accepted.unwrap();
            let mut far = UnixStream::connect(&upstream).await.unwrap();
            let (cut, said) = (cut.clone(), said.clone());
            tokio::spawn(async move {
                let (mut near_read, mut near_write) = near.split();
                let (mut far_read, mut far_write) = far.split();
                let up = tokio::io::copy(&mut near_read, &mut far_write);
                let down = async {
                    let mut buffer = vec![0; 64 * 1024];
                    loop {
                        let n = far_read.read(&mut buffer).await.unwrap_or(0);
                        if n == 0 || near_write.write_all(&buffer[..n]).await.is_err() {
                            return;
                        }
                        if holds(&buffer[..n], &said) {
                            cut.cancel();
                        }
                    }
                };
                tokio::select! { () = async { drop(tokio::join!(up, down)); } => {}, () = cut.cancelled() => {} }
            });
        }
    });
    format!("unix://{}", socket.display())
}

#[tokio::test]
async fn a_killed_engine_is_seen_in_mid_build() {
    for engine in engines().await {
        let root = tempfile::tempdir().unwrap();
        let marker = uuid();
        let context = root.path().join("context");
        write(&context, "Dockerfile", &format!("FROM scratch\nLABEL run={marker}\nCOPY hello /{marker}\n"), 0o644);
        write(&context, "hello", "hello", 0o644);
        // The engine names the step when it begins.
        let said = if engine.kind == Kind::Classic { "Step 2/" } else { "COPY hello" };
        let cut = cut_after(engine.address.as_str(), &root.path().join("cut"), said);
        let error = build(&spec(&cut), &context, &root.path().join("layout")).await.unwrap_err();
        assert!(matches!(error, Error::BuildLost { .. }), "{:?}: {error:?}", engine.kind);
        assert_eq!(error.class(), Class::Unavailable);
        assert!(!root.path().join("layout/index.json").exists());
    }
}

#[tokio::test]
async fn no_engine_is_said_with_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let engine = format!("unix://{}", folder.path().join("nobody.sock").display());
    let error = image::docker_ping(Some(&engine)).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.to_string().contains(&engine), "{error}");
    let error = build(&spec(&engine), folder.path(), folder.path()).await.unwrap_err();
    assert!(matches!(error, Error::EngineUnreachable { .. }), "{error:?}");
    assert_eq!(image::docker_ping(Some("ssh://host")).await.unwrap_err().class(), Class::BadInput);
}
