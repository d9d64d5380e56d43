//! The docker target against a real engine.

use crate::common::{answers, files, free_port, wait_for, workload};
use async_trait::async_trait;
use cluster::testing::{Subject, conformance, get};
use cluster::{Docker, Error, ImagePath, Target};
use domain::{
    Class, Digest,
    workload::{Relaxation, Slot, SlotState, Workload},
};
use std::{
    any::Any,
    path::{Path, PathBuf},
    time::Duration,
};

struct Bench {
    dir: tempfile::TempDir,
    archive: PathBuf,
    config: Digest,
    model: PathBuf,
    target: Docker,
    engine: String,
    component: String,
}

impl Bench {
    /// `None` where there is no engine to test with, which `CI=true` does not allow.
    fn new(component: &str) -> Option<Self> {
        let Ok(engine) = std::env::var("SEALIFT_TEST_DOCKER") else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "SEALIFT_TEST_DOCKER is not set");
            return None;
        };
        let (dir, rootfs, model) = files();
        let (archive, config) = archive(dir.path(), &rootfs.join("server"), "");
        let target = Docker::new(Some(engine.clone()), "127.0.0.1".into(), dir.path().join("state"));
        Some(Self { dir, archive, config, model, target, engine, component: component.to_owned() })
    }

    fn workload(&self, slot: Slot, release: &str, port: u16) -> Workload {
        let mut workload = workload(&self.component, slot, release, port);
        workload.image_config = Some(self.config);
        workload
    }

    async fn prepare(&self, workload: &Workload) -> cluster::Result<()> {
        self.target.prepare(workload, 1, self.image(), &self.mounts()).await
    }

    async fn up(&self, workload: &Workload) {
        self.prepare(workload).await.unwrap();
        self.target.start(workload, 1).await.unwrap();
        wait_for("an answer", async || answers(workload.host_port)).await;
    }
}

/// An image with one layer that holds the server, as `docker load` reads it, and its configuration's digest.
fn archive(dir: &Path, server: &Path, user: &str) -> (PathBuf, Digest) {
    archive_with(dir, server, user, false)
}

/// With `linked`, `/etc/passwd` is a symlink to the file.
fn archive_with(dir: &Path, server: &Path, user: &str, linked: bool) -> (PathBuf, Digest) {
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_path_with_name(server, "server").unwrap();
    let passwd = b"app:x:1234:1234::/:\ntoor:x:0:0::/:\n";
    let mut header = tar::Header::new_gnu();
    header.set_size(passwd.len() as u64);
    header.set_mode(0o644);
    layer.append_data(&mut header, if linked { "lib/users" } else { "etc/passwd" }, passwd.as_slice()).unwrap();
    if linked {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, "etc/passwd", "../lib/users").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Entrypoint": ["/server"], "Env": ["FROM_IMAGE=yes"], "User": user},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]},
        "history": [{"created_by": "test"}],
    }))
    .unwrap();
    let digest = Digest::of(&config);
    let config_name = format!("{}.json", digest.hex());
    let manifest =
        serde_json::to_vec(&serde_json::json!([{"Config": config_name, "RepoTags": null, "Layers": ["layer.tar"]}]));
    let path = dir.join(format!("image-{}.tar", digest.short()));
    let mut archive = tar::Builder::new(std::fs::File::create(&path).unwrap());
    for (name, bytes) in [("manifest.json", manifest.unwrap()), (&config_name, config), ("layer.tar", layer)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    archive.finish().unwrap();
    (path, digest)
}

#[async_trait]
impl Subject for Bench {
    fn target(&self) -> &dyn Target {
        &self.target
    }
    fn workload(&self, slot: Slot, release: &str, port: u16) -> Workload {
        Bench::workload(self, slot, release, port)
    }
    fn image(&self) -> ImagePath<'_> {
        ImagePath::DockerArchive(&self.archive)
    }
    fn mounts(&self) -> Vec<(String, PathBuf)> {
        vec![("/models/quality.bin".into(), self.model.clone())]
    }
    async fn crash(&self, workload: &Workload) {
        let _ = get(workload.host_port, "/crash");
    }
    async fn occupy(&self, port: u16) -> Box<dyn Any + Send> {
        Box::new(std::net::TcpListener::bind(("127.0.0.1", port)).unwrap())
    }
    async fn answers(&self, workload: &Workload) -> Option<bool> {
        Some(answers(workload.host_port))
    }
}

#[tokio::test]
async fn containers_conform() {
    let Some(bench) = Bench::new("conform") else { return };
    conformance(&bench).await;
}

#[tokio::test]
async fn environment_mounts_secrets_and_policy_arrive_inside() {
    let Some(bench) = Bench::new("inside") else { return };
    let workload = bench.workload(Slot::Blue, "one", free_port());
    bench.up(&workload).await;
    let port = workload.host_port;
    assert_eq!(get(port, "/env/FROM_IMAGE").unwrap().1, "yes");
    assert_eq!(get(port, "/env/TOKEN").unwrap().1, "hunter2");
    assert_eq!(get(port, "/env/MODEL").unwrap().1, "/models/quality.bin");
    assert_eq!(get(port, "/file/models/quality.bin").unwrap(), (200, "grapes".to_owned()));
    assert_eq!(get(port, "/write/x").unwrap().0, 403, "its root is not writable");
    assert_eq!(get(port, "/write/models/quality.bin").unwrap().0, 403, "nor are its mounts");
    assert_eq!(get(port, "/write/tmp/x").unwrap().0, 200);
    let status = get(port, "/file/proc/self/status").unwrap().1;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("Uid:"), "1000 1000 1000 1000");
    assert_eq!(
        (field("CapEff:"), field("NoNewPrivs:"), field("Seccomp:")),
        ("0000000000000000".into(), "1".into(), "2".into())
    );
    bench.target.remove(&workload.place, 1).await.unwrap();
    let engines = std::fs::read_dir(bench.dir.path().join("state")).unwrap().flatten();
    let left = engines.flat_map(|engine| std::fs::read_dir(engine.path().join("mounts")).unwrap());
    assert_eq!(left.count(), 0, "the files of a removed slot are removed");
}

#[tokio::test]
async fn another_image_than_the_releases_is_refused() {
    let Some(bench) = Bench::new("image") else { return };
    let mut workload = bench.workload(Slot::Blue, "one", free_port());
    workload.image_config = Some(Digest::of("another image"));
    let error = bench.prepare(&workload).await.unwrap_err();
    assert!(matches!(error, Error::Image { .. }) && error.class() == Class::Integrity, "{error}");
    workload.image_config = None;
    assert!(matches!(bench.prepare(&workload).await.unwrap_err(), Error::Image { .. }));
}

#[tokio::test]
async fn a_user_of_the_image_is_kept_unless_it_is_root() {
    let Some(mut bench) = Bench::new("user") else { return };
    let server = cluster::testing::build_server();
    for (user, uid) in [("app", "1234"), ("root", "1000"), ("0:0", "1000")] {
        (bench.archive, bench.config) = archive(bench.dir.path(), server, user);
        let workload = bench.workload(Slot::Blue, "one", free_port());
        bench.up(&workload).await;
        let status = get(workload.host_port, "/file/proc/self/status").unwrap().1;
        assert!(status.contains(&format!("Uid:\t{uid}\t")), "{user}: {status}");
        bench.target.remove(&workload.place, 1).await.unwrap();
    }
    (bench.archive, bench.config) = archive(bench.dir.path(), server, "toor");
    let mut workload = bench.workload(Slot::Blue, "one", free_port());
    let error = bench.prepare(&workload).await.unwrap_err();
    assert!(matches!(&error, Error::Policy { deviations, .. } if deviations.len() == 1), "{error}");
    assert!(error.is_workloads_fault() && error.to_string().contains("user toor"), "{error}");
    let place = workload.place.clone();
    let observed = bench.target.observe(&place.project, &place.environment, &place.component).await.unwrap();
    assert_eq!(observed.blue, SlotState::Empty, "what deviates is removed again");
    workload.relax = vec![Relaxation::RunAsRoot];
    bench.up(&workload).await;
    bench.target.remove(&place, 1).await.unwrap();
    for user in ["-0", "+0", "0x0", "nobody"] {
        (bench.archive, bench.config) = archive(bench.dir.path(), server, user);
        let workload = bench.workload(Slot::Blue, "one", free_port());
        let error = bench.prepare(&workload).await.unwrap_err();
        assert!(matches!(&error, Error::Policy { .. }) && error.to_string().contains("neither a number"), "{error}");
    }
    (bench.archive, bench.config) = archive_with(bench.dir.path(), server, "app", true);
    let workload = bench.workload(Slot::Blue, "one", free_port());
    bench.up(&workload).await;
    bench.target.remove(&place, 1).await.unwrap();
}

#[tokio::test]
async fn a_container_that_was_never_inspected_is_not_started() {
    let Some(bench) = Bench::new("unchecked") else { return };
    let workload = bench.workload(Slot::Blue, "one", free_port());
    bench.prepare(&workload).await.unwrap();
    let client = bollard::Docker::connect_with_unix(&bench.engine, 60, bollard::API_DEFAULT_VERSION).unwrap();
    let client = client.negotiate_version().await.unwrap();
    let name = workload.place.to_string();
    let made = client.inspect_container(&name, None).await.unwrap();
    let options = bollard::query_parameters::RemoveContainerOptionsBuilder::new().force(true).build();
    client.remove_container(&name, Some(options)).await.unwrap();
    // As if its maker had been killed before it looked at what the engine had made.
    let config = made.config.unwrap();
    let host = bollard::models::HostConfig { privileged: Some(true), ..made.host_config.unwrap() };
    let body = bollard::models::ContainerCreateBody {
        image: made.image,
        labels: config.labels,
        env: config.env,
        user: Some("root".into()),
        host_config: Some(host),
        ..Default::default()
    };
    let options = bollard::query_parameters::CreateContainerOptionsBuilder::new().name(&name).build();
    client.create_container(Some(options), body).await.unwrap();
    let error = bench.target.start(&workload, 1).await.unwrap_err();
    assert!(matches!(&error, Error::Policy { .. }) && error.to_string().contains("privileged"), "{error}");
    assert!(client.inspect_container(&name, None).await.is_err(), "it is removed");
}

#[tokio::test]
async fn a_stopped_container_whose_files_are_gone_is_not_prepared() {
    let Some(bench) = Bench::new("lost") else { return };
    let workload = bench.workload(Slot::Blue, "one", free_port());
    let place = &workload.place;
    let observe =
        async || bench.target.observe(&place.project, &place.environment, &place.component).await.unwrap().blue;
    bench.target.prepare(&workload, 5, bench.image(), &bench.mounts()).await.unwrap();
    assert!(matches!(observe().await, SlotState::Stopped { .. }));
    std::fs::remove_dir_all(bench.dir.path().join("state")).unwrap(); // with its checkout
    assert_eq!(observe().await, SlotState::Empty);
    let error = bench.target.start(&workload, 5).await.unwrap_err();
    assert!(matches!(&error, Error::NotPrepared { .. }) && error.to_string().contains("is gone"), "{error}");
    assert!(matches!(bench.prepare(&workload).await.unwrap_err(), Error::Fenced { found: 5, .. }), "its epoch counts");
    bench.target.prepare(&workload, 5, bench.image(), &bench.mounts()).await.unwrap();
    bench.target.start(&workload, 5).await.unwrap();
    wait_for("an answer", async || answers(workload.host_port)).await;
    bench.target.remove(place, 5).await.unwrap();
}

/// An engine that says who it is and then falls silent.
fn silent_engine(socket: &Path) {
    use std::io::{Read, Write};
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let line = request.lines().next().unwrap_or_default();
            let body = match line {
                line if line.contains("/version") => r#"{"ApiVersion":"1.41"}"#,
                line if line.contains("/containers/json") && request.contains("talker") => r#"[{"Id":"a"}]"#,
                line if line.contains("/containers/a/json") => r#"{"Id":"a"}"#,
                line if line.contains("/containers/a/logs") => {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                    silent.push(stream);
                    continue;
                }
                _ => {
                    silent.push(stream);
                    continue;
                }
            };
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
            let _ = write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        }
    });
}

#[tokio::test]
async fn an_engine_that_falls_silent_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    silent_engine(&socket);
    let target = Docker::new(Some(format!("unix://{}", socket.display())), "127.0.0.1".into(), dir.path().into())
        .with_patience(Duration::from_secs(1));
    let quiet = workload("quiet", Slot::Blue, "one", 1).place;
    let talker = workload("talker", Slot::Blue, "one", 1).place;
    for error in [
        target.alive(&quiet).await.unwrap_err(),
        target.stop(&quiet, 1, Duration::ZERO).await.unwrap_err(),
        target.logs(&talker, 5).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unavailable { .. }) && !error.is_workloads_fault(), "{error}");
    }
}

/// Starts what cannot live. The engine may say "running" before it sees the end; then `alive` sees it, some time between
/// two of its restarts.
async fn failed_start(target: &Docker, workload: &Workload) -> String {
    match target.start(workload, 1).await {
        Err(error @ Error::Refused { .. }) => return error.to_string(),
        other => other.unwrap(),
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(how) = target.alive(&workload.place).await.unwrap() {
            return how;
        }
        assert!(std::time::Instant::now() < deadline, "its end was never seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_program_that_ends_at_once_is_refused_with_its_log() {
    let Some(bench) = Bench::new("ending") else { return };
    let mut workload = bench.workload(Slot::Blue, "one", free_port());
    workload.env.insert("EXIT_WITH".into(), "7".into());
    bench.prepare(&workload).await.unwrap();
    let words = failed_start(&bench.target, &workload).await;
    assert!(words.contains("code 7") && words.contains("told to exit with 7"), "{words}");
    workload.env.remove("EXIT_WITH");
    workload.command = Some(vec!["/nowhere".into()]);
    bench.target.remove(&workload.place, 1).await.unwrap();
    bench.prepare(&workload).await.unwrap();
    let words = failed_start(&bench.target, &workload).await;
    assert!(words.contains("/nowhere"), "{words}");
    bench.target.remove(&workload.place, 1).await.unwrap();
}

#[tokio::test]
async fn a_name_that_belongs_to_someone_else_is_left_alone() {
    let Some(bench) = Bench::new("foreign") else { return };
    let workload = bench.workload(Slot::Blue, "one", free_port());
    bench.prepare(&workload).await.unwrap();
    let client = bollard::Docker::connect_with_unix(&bench.engine, 60, bollard::API_DEFAULT_VERSION).unwrap();
    let client = client.negotiate_version().await.unwrap();
    let body = bollard::models::ContainerCreateBody { image: Some(bench.config.to_string()), ..Default::default() };
    let name = workload.place.to_string().replace("blue", "green");
    let options = bollard::query_parameters::CreateContainerOptionsBuilder::new().name(&name).build();
    let image = client.inspect_container(&workload.place.to_string(), None).await.unwrap().image.unwrap();
    let body = bollard::models::ContainerCreateBody { image: Some(image), ..body };
    let foreign = client.create_container(Some(options), body).await.unwrap().id;
    let error = bench.prepare(&bench.workload(Slot::Green, "two", free_port())).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains("not ours"), "{error}");
    client.remove_container(&foreign, None).await.unwrap();
    bench.target.remove(&workload.place, 1).await.unwrap();
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_named() {
    let target = Docker::new(Some("unix:///nowhere/docker.sock".into()), "127.0.0.1".into(), "/nowhere".into());
    let error = target.stop(&workload("wine", Slot::Blue, "one", 1).place, 1, Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }) && !error.is_workloads_fault(), "{error}");
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.to_string().contains("unix:///nowhere/docker.sock"), "{error}");
}
