//! An image straight into a Docker Engine: into both real ones (`SEALIFT_TEST_DOCKER` and `SEALIFT_TEST_DOCKER_NEWEST`, each
//! `unix:///…`), out of sources that lie, and into scripted ones that do.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use bollard::{Docker, models::ImageInspect, query_parameters::RemoveImageOptions};
use bytes::Bytes;
use common::{Lines, blobs_of, compress, created, file, oci, real, tar, write};
use domain::{Class, Digest, Events};
use flate2::{Compression, write::GzEncoder};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use image::{BlobStream, Blobs, Error, LayoutBlobs, Loaded};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

const ENGINES: [&str; 2] = ["SEALIFT_TEST_DOCKER", "SEALIFT_TEST_DOCKER_NEWEST"];

fn connect(engine: &str) -> Docker {
    Docker::connect_with_unix(engine, 60, bollard::API_DEFAULT_VERSION).unwrap()
}

/// Something that no engine has seen.
fn uuid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}

/// A layout of layers with these media types, each with one file that is new; and its root.
fn layout(root: &Path, kinds: &[&str]) -> Digest {
    let made = |(number, kind): (usize, &&str)| {
        let times = if *kind == "large" { 200_000 } else { 2000 };
        let plain = tar(&[file(&format!("file{number}"), &uuid().repeat(times))]);
        let diff_id = Digest::of(&plain);
        let (suffix, bytes) = match *kind {
            "plain" | "large" => ("", plain),
            "gzip" => ("+gzip", compress(&plain)),
            // As pigz and estargz do: what the end says is the size of the last part only.
            "parts" => ("+gzip", [compress(&plain[..5000]), compress(&plain[5000..])].concat()),
            _ => ("+zstd", zstd::encode_all(&plain[..], 3).unwrap()),
        };
        (diff_id, suffix, bytes)
    };
    let layers: Vec<_> = kinds.iter().enumerate().map(made).collect();
    let (manifest, _) = blobs_of(root, &layers);
    image::assemble(&manifest, root).unwrap().root()
}

async fn load(engine: &str, layout: &Path, root: &Digest, name: &str) -> image::Result<Loaded> {
    image::load_docker(Some(engine), root, name, Arc::new(LayoutBlobs::new(layout)), &Events::nowhere()).await
}

async fn shown(docker: &Docker, name: &str) -> Option<ImageInspect> {
    docker.inspect_image(name).await.ok()
}

async fn remove(docker: &Docker, name: &str) {
    docker.remove_image(name, None::<RemoveImageOptions>, None).await.unwrap();
}

/// A source with something wrong in it.
struct Lying {
    inner: LayoutBlobs,
    /// About which blob.
    about: Digest,
    lie: Lie,
    asked: AtomicBool,
}

impl Lying {
    fn new(root: &Path, about: Digest, lie: Lie) -> Arc<Self> {
        Arc::new(Self { inner: LayoutBlobs::new(root), about, lie, asked: AtomicBool::new(false) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    /// The last byte is another.
    Byte,
    /// The last byte is missing.
    Short,
    /// There is one more.
    Long,
    /// It ends in an error.
    Broken,
    /// It says another size of itself.
    Size,
    /// The last byte is another, with the highest bit, wherever it is read: what gzip says of its size is far too much.
    Top,
    /// The last byte is another the first time only.
    Once,
}

impl Blobs for Lying {
    fn open(&self, digest: &Digest) -> BoxFuture<'static, image::Result<BlobStream>> {
        let (opening, lie) = (self.inner.open(digest), self.lie);
        if *digest != self.about || lie == Lie::Size || (lie == Lie::Once && self.asked.swap(true, Ordering::Relaxed)) {
            return opening;
        }
        let cause = "the disk is gone".to_owned();
        let error = Error::Source { digest: *digest, cause, class: Class::Unavailable };
        async move {
            let mut bytes = Vec::new();
            let mut stream = opening.await?;
            while let Some(piece) = stream.next().await {
                bytes.extend(piece?);
            }
            let mut pieces = Vec::new();
            match lie {
                Lie::Byte | Lie::Once => *bytes.last_mut().unwrap() ^= 1,
                Lie::Top => *bytes.last_mut().unwrap() ^= 0x80,
                Lie::Short => drop(bytes.pop()),
                Lie::Long => bytes.push(0),
                Lie::Broken => pieces.push(Err(error)),
                Lie::Size => {}
            }
            pieces.insert(0, Ok(Bytes::from(bytes)));
            Ok(futures::stream::iter(pieces).boxed())
        }
        .boxed()
    }

    fn end(&self, digest: &Digest, size: u64) -> BoxFuture<'static, image::Result<Bytes>> {
        if *digest == self.about && self.lie == Lie::Size {
            return async { Ok(Bytes::from_static(&[7, 7, 0, 0])) }.boxed();
        }
        if *digest == self.about && self.lie == Lie::Top {
            let end = self.inner.end(digest, size);
            return async move {
                let mut end = end.await?.to_vec();
                *end.last_mut().unwrap() ^= 0x80;
                Ok(end.into())
            }
            .boxed();
        }
        self.inner.end(digest, size)
    }
}

fn layers_of(layout: &Path) -> Vec<Digest> {
    image::open(layout).unwrap().layers
}

#[tokio::test]
async fn an_image_comes_as_it_was_sealed_under_its_name_and_once() {
    for address in ENGINES.into_iter().filter_map(real) {
        for kinds in [&["gzip", "plain", "gzip"][..], &["gzip", "parts"], &["zstd", "gzip"]] {
            let root = tempfile::tempdir().unwrap();
            let digest = layout(root.path(), kinds);
            let (docker, name) = (connect(&address), format!("into-{}:1.2.3", uuid()));
            let (lines, blobs) = (Lines::default(), Arc::new(LayoutBlobs::new(root.path())));
            let loading = image::load_docker(Some(&address), &digest, &name, blobs, &lines.events()).await;
            let loaded = loading.unwrap();
            assert!(!lines.all().iter().any(|line| line.contains("cannot pull")), "{:?}", lines.all());
            assert!(!loaded.was_there && loaded.name == name && loaded.engine == address, "{loaded:?}");
            assert!(loaded.id == loaded.manifest || loaded.id == loaded.config, "{loaded:?}");
            assert_eq!(loaded.manifest, digest);
            let image = shown(&docker, &name).await.unwrap();
            assert_eq!(image.id, Some(loaded.id.to_string()), "{kinds:?}");
            assert_eq!(image.repo_tags, Some(vec![name.clone()]));
            let elsewhere = image.repo_digests.unwrap_or_default();
            assert!(!elsewhere.iter().any(|one| one.contains("127.0.0.1")), "{elsewhere:?}");
            let config = fs::read(root.path().join("blobs/sha256").join(loaded.config.hex())).unwrap();
            let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
            let layers = serde_json::json!(image.root_fs.unwrap().layers);
            assert_eq!(layers, config["rootfs"]["diff_ids"], "{kinds:?}");
            // What the engine gives back is the same image.
            let mut saved = tempfile::NamedTempFile::new().unwrap();
            let mut export = Box::pin(docker.export_image(&name));
            while let Some(piece) = export.next().await {
                std::io::Write::write_all(&mut saved, &piece.unwrap()).unwrap();
            }
            let back = tempfile::tempdir().unwrap();
            let back = image::import_docker_archive(saved.path(), &back.path().join("layout")).unwrap();
            assert_eq!(back.config, loaded.config, "{kinds:?}");
            // Again there is nothing to send, and another name is only that.
            let again = load(&address, root.path(), &digest, &format!("{name}-again")).await.unwrap();
            assert!(again.was_there && again.id == loaded.id, "{again:?}");
            remove(&docker, &format!("{name}-again")).await;
            remove(&docker, &name).await;
            assert!(shown(&docker, &loaded.id.to_string()).await.is_none(), "nothing else holds it");
        }
    }
}

#[tokio::test]
async fn of_several_platforms_the_engines_is_taken() {
    for address in ENGINES.into_iter().filter_map(real) {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "run", &uuid(), 0o755);
        let mut spec = oci(&[("run", "/run", None)]);
        spec.platforms = vec!["linux/arm64".to_owned(), "linux/amd64".to_owned()];
        let to = root.path().join("layout");
        let built = image::build_oci(&spec, root.path(), &BTreeMap::new(), created(), &to, &Events::nowhere()).unwrap();
        let (docker, name) = (connect(&address), format!("into-{}:1", uuid()));
        let version = docker.version().await.unwrap();
        let wanted = format!("{}/{}", version.os.unwrap(), version.arch.unwrap());
        let own = built.platforms.iter().find(|one| one.platform == wanted).unwrap();
        let loaded = load(&address, &to, &built.root(), &name).await.unwrap();
        assert_eq!((loaded.platform, loaded.manifest, loaded.config), (wanted, own.manifest, own.config));
        remove(&docker, &name).await;
        // An image that is for others is refused before anything is sent.
        let other = built.platforms.iter().find(|one| one.manifest != own.manifest).unwrap();
        let error = load(&address, &to, &other.manifest, &name).await.unwrap_err();
        assert!(error.class() == Class::BadInput && error.to_string().contains("not for"), "{error}");
        assert_eq!(error.hint(), Some("sealift restore RELEASE --to DIR"));
        assert!(shown(&docker, &name).await.is_none() && shown(&docker, &other.config.to_string()).await.is_none());
    }
}

#[tokio::test]
async fn a_source_that_lies_gives_no_image_and_no_name() {
    for address in ENGINES.into_iter().filter_map(real) {
        let docker = connect(&address);
        for lie in [Lie::Byte, Lie::Short, Lie::Long, Lie::Broken, Lie::Top, Lie::Size, Lie::Once] {
            let root = tempfile::tempdir().unwrap();
            let digest = layout(root.path(), &["gzip", "gzip", "plain"]);
            let about = layers_of(root.path())[1];
            let blobs = Lying::new(root.path(), about, lie);
            let (name, lines) = (format!("into-{}:1", uuid()), Lines::default());
            let outcome = image::load_docker(Some(&address), &digest, &name, blobs, &lines.events()).await;
            if lie == Lie::Once {
                // What was read wrong once is read again, and the image brought anew.
                assert_eq!(outcome.unwrap().manifest, digest);
                assert!(lines.all().iter().any(|line| line.contains("was read wrong")), "{:?}", lines.all());
                remove(&docker, &name).await;
                continue;
            }
            if lie == Lie::Size {
                // Only a guess was wrong; an engine that is sent layers as they are does not hear of it.
                let loaded = outcome.unwrap();
                let plain = loaded.id == loaded.config;
                assert_eq!(lines.all().iter().any(|line| line.contains("another size")), plain, "{:?}", lines.all());
                remove(&docker, &name).await;
                continue;
            }
            let error = outcome.unwrap_err();
            let class = if lie == Lie::Broken { Class::Unavailable } else { Class::Integrity };
            assert_eq!(error.class(), class, "{lie:?}: {error}");
            assert!(error.to_string().contains(&about.to_string()), "{lie:?}: {error}");
            let built = image::open(root.path()).unwrap();
            for name in [name, built.manifest.to_string(), built.config.to_string()] {
                assert!(shown(&docker, &name).await.is_none(), "{lie:?} left {name}");
            }
        }
    }
}

#[tokio::test]
async fn documents_that_lie_and_names_that_are_none_are_refused_without_an_engine_hearing_of_it() {
    let heard = Heard::default();
    let engine = scripted(&heard, Behaviour::Honest).await;
    let root = tempfile::tempdir().unwrap();
    let digest = layout(root.path(), &["gzip"]);
    let built = image::open(root.path()).unwrap();
    for about in [built.manifest, built.config] {
        for lie in [Lie::Byte, Lie::Short, Lie::Long] {
            let blobs = Lying::new(root.path(), about, lie);
            let nowhere = Events::nowhere();
            let loading = image::load_docker(Some(&engine.address), &digest, "x:1", blobs, &nowhere);
            let error = loading.await.unwrap_err();
            assert_eq!(error.class(), Class::Integrity, "{lie:?}: {error}");
            assert!(error.to_string().contains(&about.to_string()), "{lie:?}: {error}");
        }
    }
    let error = load(&engine.address, root.path(), &digest, "x:1.0.0+build").await.unwrap_err();
    assert_eq!(error.class(), Class::BadInput, "{error}");
    assert!(heard.all().iter().all(|request| request.starts_with("GET ")), "{:?}", heard.all());
}

#[tokio::test]
async fn no_engine_is_unavailable_and_named() {
    let root = tempfile::tempdir().unwrap();
    let digest = layout(root.path(), &["gzip"]);
    for address in [format!("unix://{}/none.sock", root.path().display()), "tcp://127.0.0.1:1".to_owned()] {
        let error = load(&address, root.path(), &digest, "x:1").await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable);
        assert!(error.to_string().contains(&address), "{error}");
    }
}

/// What a scripted engine does with an archive.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Behaviour {
    Honest,
    /// It says that it loaded an image, and has another one then.
    Other,
    /// It says that it could not unpack the image, which it has.
    Packed,
    /// It answers before it has read anything.
    Full,
    /// It hangs up in the middle.
    Dies,
    /// It keeps manifests, and is where our loopback is not.
    Far,
    /// It keeps manifests, and does nothing about a pull.
    Waits,
    /// It keeps manifests, says that it pulled, and has another image then.
    Liar,
    /// It keeps manifests, and says from the beginning that it has the image; it has a name that a killed run of ours left.
    Has,
    /// The same, and our loopback is not where it is.
    FarHas,
}

impl Behaviour {
    fn keeps_manifests(self) -> bool {
        matches!(self, Self::Far | Self::Waits | Self::Liar | Self::Has | Self::FarHas)
    }
}

const LEFT: &str = "127.0.0.1:4711/7f3c0f9e-51a2-4b8a-9f0e-0d1c2b3a4f5e";

/// How long something is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The requests of a scripted engine, and how much of an archive it got.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn add(&self, request: impl Into<String>) {
        self.0.lock().unwrap().push(request.into());
    }
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
    fn has(&self, word: &str) -> bool {
        self.all().iter().any(|request| request.contains(word))
    }
}

struct Scripted {
    address: String,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const OTHER: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000ff";

async fn scripted(heard: &Heard, behaviour: Behaviour) -> Scripted {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let heard = heard.clone();
    let task = tokio::spawn(async move {
        let loaded = Arc::new(Mutex::new(matches!(behaviour, Behaviour::Has | Behaviour::FarHas)));
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, heard.clone(), loaded.clone(), behaviour));
        }
    });
    Scripted { address: format!("unix://{}", socket.display()), task, _folder: folder }
}

/// Answers requests of one connection.
async fn answer(mut stream: UnixStream, heard: Heard, loaded: Arc<Mutex<bool>>, behaviour: Behaviour) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let mut words = head.split(' ');
        let request = format!("{} {}", words.next()?, words.next()?);
        heard.add(&request);
        let there = *loaded.lock().unwrap();
        let missing = (404, r#"{"message":"no such image"}"#.to_owned());
        let (status, body) = if request.ends_with("/version") {
            (200, r#"{"ApiVersion":"1.41","Version":"20.10.0","Os":"linux","Arch":"amd64"}"#.to_owned())
        } else if request.ends_with("/info") && behaviour.keeps_manifests() {
            (200, r#"{"ID":"X","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#.to_owned())
        } else if request.contains("/images/create") && matches!(behaviour, Behaviour::Far | Behaviour::FarHas) {
            (500, r#"{"message":"connection refused"}"#.to_owned())
        } else if request.contains("/images/create") && behaviour == Behaviour::Waits {
            return std::future::pending().await;
        } else if request.contains("/images/create") {
            (200, r#"{"status":"Download complete"}"#.to_owned())
        } else if request.ends_with("/info") {
            (200, r#"{"ID":"X","DriverStatus":[["Backing Filesystem","extfs"]]}"#.to_owned())
        } else if request.contains("/images/load") {
            if behaviour == Behaviour::Full {
                (500, r#"{"message":"no space left on device"}"#.to_owned())
            } else {
                if !read_body(&mut stream, behaviour).await {
                    heard.add("BROKEN OFF");
                    return None;
                }
                heard.add("WHOLE");
                *loaded.lock().unwrap() = true;
                let said = match behaviour {
                    Behaviour::Packed => {
                        r#"{"stream":"Error unpacking image x: no space left on device\n"}"#.to_owned()
                    }
                    _ => format!(r#"{{"stream":"Loaded image ID: {OTHER}\n"}}"#),
                };
                (200, said)
            }
        } else if request.starts_with("GET ") && request.ends_with("/json") {
            let id = request.rsplit('/').nth(1)?.replace("%3A", ":");
            let known = there && (behaviour != Behaviour::Other || id == OTHER);
            let names = format!(r#"["wine@{id}","{LEFT}@{id}","127.0.0.1:4711/team/wine@{id}"]"#);
            if known { (200, format!(r#"{{"Id":"{id}","RepoDigests":{names}}}"#)) } else { missing }
        } else if request.starts_with("DELETE ") {
            if request.contains("sha256%3A") || request.contains("/sha256:") {
                *loaded.lock().unwrap() = false;
            }
            (200, "[]".to_owned())
        } else {
            (201, String::new())
        };
        let reason = if status < 300 { "OK" } else { "Failed" };
        let answer = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// Whether a chunked body came to its end.
async fn read_body(stream: &mut UnixStream, behaviour: Behaviour) -> bool {
    let (mut last, mut buffer, mut all) = (Vec::new(), vec![0; 65536], 0);
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(read) => {
                all += read;
                last.extend_from_slice(&buffer[..read]);
                last.drain(..last.len().saturating_sub(7));
            }
        }
        if behaviour == Behaviour::Dies && all > 1000 {
            return false;
        }
        if last.ends_with(b"\r\n0\r\n\r\n") {
            return true;
        }
    }
}

#[tokio::test]
async fn an_engine_that_ends_with_something_else_has_no_name_for_it() {
    for (behaviour, class, says) in [
        (Behaviour::Other, Class::Integrity, OTHER),
        (Behaviour::Packed, Class::Unavailable, "Error unpacking"),
        (Behaviour::Full, Class::Unavailable, "no space left"),
        (Behaviour::Dies, Class::Unavailable, "could not load the image"),
    ] {
        let heard = Heard::default();
        let engine = scripted(&heard, behaviour).await;
        let root = tempfile::tempdir().unwrap();
        let digest = layout(root.path(), &["gzip", "plain"]);
        let error = load(&engine.address, root.path(), &digest, "wine:1.0.0").await.unwrap_err();
        assert_eq!(error.class(), class, "{behaviour:?}: {error}");
        assert!(error.to_string().contains(says), "{behaviour:?}: {error}");
        assert!(!heard.has("/tag?"), "{behaviour:?}: {:?}", heard.all());
        if behaviour == Behaviour::Packed {
            // What it could not unpack does not count as there the next time.
            assert!(error.hint().unwrap().contains("system df"), "{error}");
            load(&engine.address, root.path(), &digest, "wine:1.0.0").await.unwrap_err();
            assert!(!heard.has("/tag?"), "{:?}", heard.all());
        }
        assert_eq!(heard.has(&format!("DELETE /images/{OTHER}")), behaviour == Behaviour::Other, "{:?}", heard.all());
    }
    let heard = Heard::default();
    let engine = scripted(&heard, Behaviour::Honest).await;
    let root = tempfile::tempdir().unwrap();
    let digest = layout(root.path(), &["gzip", "plain"]);
    let loaded = load(&engine.address, root.path(), &digest, "team/wine:1.0.0").await.unwrap();
    assert_eq!(loaded.id, loaded.config);
    assert!(heard.has("/tag?repo=team%2Fwine&tag=1.0.0"), "{:?}", heard.all());
}

#[tokio::test]
async fn an_engine_that_cannot_pull_from_here_is_sent_the_image_and_one_that_lies_about_it_has_no_name_for_it() {
    let root = tempfile::tempdir().unwrap();
    let digest = layout(root.path(), &["gzip", "zstd"]);
    let (heard, lines) = (Heard::default(), Lines::default());
    let engine = scripted(&heard, Behaviour::Far).await;
    let blobs = Arc::new(LayoutBlobs::new(root.path()));
    let loading = image::load_docker(Some(&engine.address), &digest, "wine:1.0.0", blobs, &lines.events()).await;
    let loaded = loading.unwrap();
    assert_eq!(loaded.id, digest, "as it was sealed");
    assert!(
        heard.has("/images/create?fromImage=127.0.0.1") && heard.has("WHOLE") && heard.has("/tag?"),
        "{:?}",
        heard.all()
    );
    assert!(lines.all().iter().any(|line| line.contains("connection refused")), "{:?}", lines.all());
    let heard = Heard::default();
    let engine = scripted(&heard, Behaviour::Liar).await;
    let error = load(&engine.address, root.path(), &digest, "wine:1.0.0").await.unwrap_err();
    assert_eq!(error.class(), Class::Integrity, "{error}");
    assert!(heard.has("DELETE /images/127.0.0.1") && !heard.has("/tag?"), "{:?}", heard.all());
}

#[tokio::test]
async fn an_engine_that_keeps_manifests_is_not_believed_that_it_has_an_image_and_keeps_no_name_of_ours() {
    let root = tempfile::tempdir().unwrap();
    let digest = layout(root.path(), &["gzip", "zstd"]);
    for (behaviour, sent) in [(Behaviour::Has, false), (Behaviour::FarHas, true)] {
        let heard = Heard::default();
        let engine = scripted(&heard, behaviour).await;
        let loaded = load(&engine.address, root.path(), &digest, "wine:1.0.0").await.unwrap();
        assert_eq!((loaded.was_there, heard.has("WHOLE")), (!sent, sent), "{:?}", heard.all());
        let all = heard.all();
        let at = |word: &str| all.iter().position(|request| request.contains(word));
        assert!(at("/images/create").unwrap() < at("/tag?").unwrap(), "{all:?}");
        let gone: Vec<String> = all
            .iter()
            .filter(|request| request.starts_with("DELETE ") && request.contains("127.0.0.1:4711"))
            .map(|request| request.replace("%3A", ":").replace("%2F", "/").replace("%40", "@"))
            .collect();
        assert_eq!(gone, [format!("DELETE /images/{LEFT}@{digest}")], "{all:?}");
    }
}

#[tokio::test]
async fn a_blob_that_is_read_wrong_once_is_read_again() {
    let root = tempfile::tempdir().unwrap();
    let digest = layout(root.path(), &["gzip", "plain"]);
    let built = image::open(root.path()).unwrap();
    for about in [built.manifest, built.config, built.layers[0], built.layers[1]] {
        let heard = Heard::default();
        let engine = scripted(&heard, Behaviour::Honest).await;
        let (blobs, nowhere) = (Lying::new(root.path(), about, Lie::Once), Events::nowhere());
        image::load_docker(Some(&engine.address), &digest, "x:1", blobs, &nowhere).await.unwrap();
        assert!(heard.has("WHOLE") && heard.has("/tag?"), "{:?}", heard.all());
    }
}

#[tokio::test]
async fn an_image_for_another_platform_is_no_damage() {
    let heard = Heard::default();
    let engine = scripted(&heard, Behaviour::Honest).await;
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "run", &uuid(), 0o755);
    let mut spec = oci(&[("run", "/run", None)]);
    spec.platforms = vec!["linux/arm64".to_owned()];
    let to = root.path().join("layout");
    let built = image::build_oci(&spec, root.path(), &BTreeMap::new(), created(), &to, &Events::nowhere()).unwrap();
    let error = load(&engine.address, &to, &built.root(), "x:1").await.unwrap_err();
    assert_eq!((error.class(), error.hint()), (Class::BadInput, Some("sealift restore RELEASE --to DIR")), "{error}");
    assert!(error.to_string().contains("is for linux/arm64, not for the engine's linux/amd64"), "{error}");
}

/// The answer of a registry to a request, as it comes.
async fn asked(address: &str, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request}\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn our_registry_has_one_image_for_those_who_know_its_name_and_ends_with_the_command() {
    let root = tempfile::tempdir().unwrap();
    let digest = layout(root.path(), &["gzip", "plain"]);
    let damaged = layers_of(root.path())[1];
    let heard = Heard::default();
    let engine = scripted(&heard, Behaviour::Waits).await;
    let blobs = Lying::new(root.path(), damaged, Lie::Byte);
    let (address, nowhere) = (engine.address.clone(), Events::nowhere());
    let loading =
        tokio::spawn(async move { image::load_docker(Some(&address), &digest, "wine:1.0.0", blobs, &nowhere).await });
    let pulling = async {
        loop {
            assert!(!loading.is_finished(), "{:?}", heard.all());
            let all = heard.all();
            match all.iter().find_map(|request| request.split_once("fromImage=127.0.0.1")) {
                Some((_, rest)) => break rest.split_once('&').unwrap().0.replace("%3A", ":").replace("%2F", "/"),
                None => tokio::task::yield_now().await,
            }
        }
    };
    let name: String = tokio::time::timeout(PATIENCE, pulling).await.unwrap();
    let (port, repository) = name.trim_start_matches(':').split_once('/').unwrap();
    let registry = format!("127.0.0.1:{port}");
    let whole = layers_of(root.path())[0];
    for (request, status) in [
        ("GET /v2/ HTTP/1.1".to_owned(), 200),
        (format!("GET /v2/{repository}/manifests/{digest} HTTP/1.1"), 200),
        (format!("HEAD /v2/{repository}/blobs/{whole} HTTP/1.1"), 200),
        (format!("GET /v2/{repository}/blobs/{whole} HTTP/1.1"), 200),
        (format!("GET /v2/{repository}/manifests/{whole} HTTP/1.1"), 404),
        (format!("GET /v2/{repository}/manifests/latest HTTP/1.1"), 404),
        (format!("GET /v2/{repository}/tags/list HTTP/1.1"), 404),
        (format!("GET /v2/{repository}/blobs/../../../etc/passwd HTTP/1.1"), 404),
        (format!("GET /v2/{repository}x/manifests/{digest} HTTP/1.1"), 404),
        (format!("GET /v2/other/manifests/{digest} HTTP/1.1"), 404),
        (format!("PUT /v2/{repository}/manifests/{digest} HTTP/1.1"), 405),
        (format!("DELETE /v2/{repository}/manifests/{digest} HTTP/1.1"), 405),
        ("\x16\x03\x01 a greeting".to_owned(), 400),
    ] {
        let answer = asked(&registry, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer:.200}");
    }
    // The one that does not hold stops before its end, and everything with it.
    let answer = asked(&registry, &format!("GET /v2/{repository}/blobs/{damaged} HTTP/1.1")).await;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let size = fs::metadata(root.path().join("blobs/sha256").join(damaged.hex())).unwrap().len();
    assert!((body.len() as u64) < size, "{} of {size}", body.len());
    let error = loading.await.unwrap().unwrap_err();
    assert!(error.class() == Class::Integrity && error.to_string().contains(&damaged.to_string()), "{error}");
    assert!(!heard.has("/tag?") && !heard.has("/images/load"), "{:?}", heard.all());
    // Nobody listens any more, as soon as the task that did has heard of it.
    let ended = async { while tokio::net::TcpStream::connect(&registry).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
}

#[tokio::test]
async fn an_archive_with_a_damaged_blob_never_comes_to_its_end() {
    for lie in [Lie::Byte, Lie::Short, Lie::Long, Lie::Broken, Lie::Top] {
        let heard = Heard::default();
        let engine = scripted(&heard, Behaviour::Honest).await;
        let root = tempfile::tempdir().unwrap();
        // The first is more than the client keeps back, so the engine has begun to read when it breaks off.
        let digest = layout(root.path(), &["large", "gzip", "plain", "gzip"]);
        for about in layers_of(root.path()) {
            let blobs = Lying::new(root.path(), about, lie);
            let nowhere = Events::nowhere();
            let loading = image::load_docker(Some(&engine.address), &digest, "x:1", blobs, &nowhere);
            let error = loading.await.unwrap_err();
            let class = if lie == Lie::Broken { Class::Unavailable } else { Class::Integrity };
            assert_eq!(error.class(), class, "{lie:?}: {error}");
            assert!(error.to_string().contains(&about.to_string()), "{lie:?}: {error}");
        }
        assert!(heard.has("/images/load") && !heard.has("WHOLE") && !heard.has("/tag?"), "{lie:?}: {:?}", heard.all());
    }
}

#[tokio::test]
async fn a_layer_that_unpacks_to_far_too_much_is_not_sent() {
    let zeros = || std::io::Read::take(std::io::repeat(0), 300 << 20);
    let (mut one, mut parts) = (GzEncoder::new(Vec::new(), Compression::default()), Vec::new());
    std::io::copy(&mut zeros(), &mut one).unwrap();
    let one = one.finish().unwrap();
    // Each part says that it is small.
    let mut small = GzEncoder::new(Vec::new(), Compression::default());
    std::io::copy(&mut std::io::Read::take(zeros(), 10 << 20), &mut small).unwrap();
    let small = small.finish().unwrap();
    (0..30).for_each(|_| parts.extend_from_slice(&small));
    for (suffix, bytes) in [("gzip", one), ("gzip", parts), ("zstd", zstd::encode_all(zeros(), 1).unwrap())] {
        let heard = Heard::default();
        let engine = scripted(&heard, Behaviour::Honest).await;
        let root = tempfile::tempdir().unwrap();
        let digest = bomb(root.path(), suffix, &bytes);
        let error = load(&engine.address, root.path(), &digest, "x:1").await.unwrap_err();
        assert!(matches!(error, Error::Hostile { .. }), "{suffix}: {error}");
        assert!(!heard.has("WHOLE") && !heard.has("/tag?"), "{:?}", heard.all());
    }
}

/// A layout of one layer that nobody has unpacked; its manifest.
fn bomb(root: &Path, suffix: &str, layer: &[u8]) -> Digest {
    blobs_of(root, &[(Digest::of("nobody looks"), &format!("+{suffix}"), layer.to_vec())]).0
}
