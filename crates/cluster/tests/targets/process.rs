//! The process target: the conformance suite, and what only a process can get wrong.

use crate::common::{answers, files, free_port, wait_for, workload};
use async_trait::async_trait;
use cluster::testing::{Subject, conformance, get};
use cluster::{Error, ImageEntry, ImagePath, Process, Target};
use domain::workload::{Relaxation, Slot, SlotState, Workload};
use std::{
    any::Any,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

struct Bench {
    dir: tempfile::TempDir,
    rootfs: PathBuf,
    model: PathBuf,
    entry: ImageEntry,
    target: Process,
}

impl Bench {
    fn new() -> Self {
        let (dir, rootfs, model) = files();
        let target = Process::new(dir.path().join("slots"), "127.0.0.1".into());
        let entry =
            ImageEntry { entrypoint: vec!["/server".into()], env: vec!["FROM_IMAGE=yes".into()], ..Default::default() };
        Self { dir, rootfs, model, entry, target }
    }

    async fn prepare(&self, workload: &Workload) -> cluster::Result<()> {
        self.target.prepare(workload, 1, self.image(), &self.mounts()).await
    }

    async fn up(&self, workload: &Workload) {
        self.prepare(workload).await.unwrap();
        self.target.start(workload, 1).await.unwrap();
        wait_for("an answer", async || answers(workload.host_port)).await;
    }

    fn slot(&self, workload: &Workload) -> PathBuf {
        let place = &workload.place;
        let path = format!("slots/{}/{}/{}/{}", place.project, place.environment, place.component, place.slot);
        self.dir.path().join(path)
    }

    async fn state(&self, workload: &Workload) -> SlotState {
        let place = &workload.place;
        let observed = self.target.observe(&place.project, &place.environment, &place.component).await.unwrap();
        observed.slot(place.slot).clone()
    }
}

#[async_trait]
impl Subject for Bench {
    fn target(&self) -> &dyn Target {
        &self.target
    }
    fn workload(&self, slot: Slot, release: &str, port: u16) -> Workload {
        workload("wine", slot, release, port)
    }
    fn image(&self) -> ImagePath<'_> {
        ImagePath::Rootfs { dir: &self.rootfs, entry: &self.entry }
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
async fn processes_conform() {
    let bench = Bench::new();
    conformance(&bench).await;
}

#[tokio::test]
async fn environment_mounts_and_secrets_arrive_and_the_secret_is_in_no_file() {
    let bench = Bench::new();
    let workload = workload("wine", Slot::Blue, "one", free_port());
    bench.up(&workload).await;
    let port = workload.host_port;
    assert_eq!(get(port, "/env/FROM_IMAGE").unwrap().1, "yes");
    assert_eq!(get(port, "/env/TOKEN").unwrap().1, "hunter2");
    assert_eq!(get(port, "/env/HOME").unwrap().0, 404, "nothing is inherited");
    let model = get(port, "/env/MODEL").unwrap().1;
    assert_eq!(get(port, &format!("/file{model}")).unwrap(), (200, "grapes".to_owned()));
    let temporary = get(port, "/env/TMPDIR").unwrap().1;
    assert_eq!(get(port, &format!("/write{temporary}/x")).unwrap().0, 200);
    if rustix::process::geteuid().is_root() {
        let inside = bench.slot(&workload).join("rootfs/x");
        assert_eq!(get(port, &format!("/write{}", inside.display())).unwrap().0, 403, "its root is not writable");
    }
    let policy = bench.target.inspect_policy(&workload.place).await.unwrap();
    assert!(policy.no_new_privileges && policy.capabilities.is_empty() && !policy.root, "{policy:?}");
    assert_eq!(policy.memory, Some(workload.memory));
    bench.target.remove(&workload.place, 1).await.unwrap();
    bench.prepare(&workload).await.unwrap();
    assert!(!holds(bench.dir.path(), b"hunter2"));
}

/// Whether any file below holds these bytes.
fn holds(dir: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[tokio::test]
async fn a_child_that_was_never_recorded_is_found_by_its_mark() {
    let bench = Bench::new();
    let workload = workload("wine", Slot::Blue, "one", free_port());
    bench.prepare(&workload).await.unwrap();
    let state = bench.slot(&workload).join("state.json");
    let before = std::fs::read(&state).unwrap();
    bench.target.start(&workload, 1).await.unwrap();
    wait_for("an answer", async || answers(workload.host_port)).await;
    let running = bench.state(&workload).await;
    // As if the starter had been killed between the start and the record.
    std::fs::write(&state, before).unwrap();
    assert_eq!(bench.state(&workload).await, running);
    bench.target.start(&workload, 1).await.unwrap();
    assert_eq!(bench.state(&workload).await, running, "no second process was started");
    assert_ne!(std::fs::read_to_string(&state).unwrap().find("\"pid\""), None, "now it is recorded");
    bench.target.stop(&workload.place, 1, Duration::from_secs(5)).await.unwrap();
    assert!(!answers(workload.host_port));
}

#[tokio::test]
async fn a_recycled_pid_is_not_taken_for_the_workload() {
    let bench = Bench::new();
    let workload = workload("wine", Slot::Blue, "one", free_port());
    bench.up(&workload).await;
    bench.target.stop(&workload.place, 1, Duration::from_secs(5)).await.unwrap();
    let path = bench.slot(&workload).join("state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    state["process"]["pid"] = std::process::id().into(); // ours, with the other's start time
    state["ended"] = serde_json::Value::Null;
    std::fs::write(&path, serde_json::to_vec(&state).unwrap()).unwrap();
    let observed = bench.state(&workload).await;
    assert!(
        matches!(&observed, SlotState::Stopped { ended: Some(how), .. } if how.contains("nobody watched")),
        "{observed:?}"
    );
    bench.target.stop(&workload.place, 1, Duration::from_secs(5)).await.unwrap(); // and this test lives on
}

#[tokio::test]
async fn what_a_program_started_ends_with_it() {
    let bench = Bench::new();
    let workload = workload("wine", Slot::Blue, "one", free_port());
    bench.up(&workload).await;
    let child = get(workload.host_port, "/child").unwrap().1;
    let alive = || std::fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|line| line.contains("server"));
    assert!(alive());
    bench.target.stop(&workload.place, 1, Duration::from_secs(5)).await.unwrap();
    assert!(!alive());
}

#[tokio::test]
async fn what_cannot_be_executed_is_refused_with_its_cause() {
    let mut bench = Bench::new();
    let plain = workload("wine", Slot::Blue, "one", free_port());
    let refused = |error: Error, words: &str| {
        assert!(matches!(error, Error::Refused { .. }) && error.is_workloads_fault(), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    let mut missing = plain.clone();
    missing.command = Some(vec!["/nowhere".into()]);
    refused(bench.prepare(&missing).await.unwrap_err(), "no program /nowhere in the image");
    let mut unknown = plain.clone();
    unknown.env.insert("X".into(), "{mount:/other}".into());
    refused(bench.prepare(&unknown).await.unwrap_err(), "{mount:/other} names no mount");
    let mut secret = plain.clone();
    secret.secrets.insert("KEY".into(), "file:/nowhere/key".parse().unwrap());
    let error = bench.prepare(&secret).await.unwrap_err();
    assert!(error.to_string().contains("secret KEY (file:/nowhere/key)") && error.is_workloads_fault(), "{error}");
    assert_eq!(bench.state(&plain).await, SlotState::Empty, "nothing was put there");

    bench.entry.entrypoint = vec!["/other".into()];
    let other = bench.rootfs.join("other");
    std::fs::write(&other, "echo I am no program").unwrap();
    refused(bench.prepare(&plain).await.unwrap_err(), "neither a program (ELF) nor a script (#!)");
    let mut foreign = std::fs::read(bench.rootfs.join("server")).unwrap();
    foreign[18] ^= 1;
    std::fs::write(&other, foreign).unwrap();
    refused(bench.prepare(&plain).await.unwrap_err(), "another kind of machine");
    std::fs::copy(bench.rootfs.join("server"), &other).unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o644)).unwrap();
    bench.prepare(&plain).await.unwrap();
    refused(bench.target.start(&plain, 1).await.unwrap_err(), "cannot be executed: Permission denied");
    assert!(!bench.state(&plain).await.is_running());
}

#[tokio::test]
async fn a_program_that_ends_at_once_says_how() {
    let bench = Bench::new();
    let mut workload = workload("wine", Slot::Blue, "one", free_port());
    workload.env.insert("EXIT_WITH".into(), "7".into());
    bench.prepare(&workload).await.unwrap();
    bench.target.start(&workload, 1).await.unwrap();
    wait_for("the end", async || {
        let how = bench.target.alive(&workload.place).await.unwrap();
        how.is_some_and(|how| how.contains("code 7") && how.contains("told to exit with 7"))
    })
    .await;
    let zombies = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        stat.contains("(server) Z") && stat.contains(&format!(" Z {} ", std::process::id()))
    });
    assert_eq!(zombies.count(), 0);
}

#[tokio::test]
async fn a_relaxation_by_name_is_given() {
    if !rustix::process::geteuid().is_root() {
        return; // an ordinary user has nothing to give: there is no privilege that could be relaxed
    }
    let bench = Bench::new();
    let mut workload = workload("wine", Slot::Blue, "one", free_port());
    workload.relax = vec![Relaxation::RunAsRoot];
    bench.up(&workload).await;
    let policy = bench.target.inspect_policy(&workload.place).await.unwrap();
    assert!(policy.root && policy.capabilities.is_empty() && policy.no_new_privileges, "{policy:?}");
    bench.target.remove(&workload.place, 1).await.unwrap();
    workload.relax = vec![Relaxation::WritableRoot];
    bench.up(&workload).await;
    let inside = bench.slot(&workload).join("rootfs/x");
    assert_eq!(get(workload.host_port, &format!("/write{}", inside.display())).unwrap().0, 200);
    bench.target.remove(&workload.place, 1).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_workloads_cannot_enter_is_named() {
    if !rustix::process::geteuid().is_root() {
        return; // an ordinary user's workloads run as that user
    }
    let bench = Bench::new();
    let workload = workload("wine", Slot::Blue, "one", free_port());
    bench.prepare(&workload).await.unwrap();
    std::fs::set_permissions(bench.dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let error = bench.target.start(&workload, 1).await.unwrap_err();
    let folder = bench.dir.path().display().to_string();
    assert!(error.to_string().contains(&format!("cannot enter {folder}")), "{error}");
    assert_eq!(
        cluster::process::blocked_for_workloads(&bench.dir.path().join("slots")),
        Some(bench.dir.path().to_owned())
    );
}

#[tokio::test]
async fn root_in_a_closed_folder_keeps_slots_where_workloads_can_be() {
    if !rustix::process::geteuid().is_root() {
        return; // an ordinary user's workloads run as that user
    }
    let mut bench = Bench::new();
    let closed = bench.dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let refuge = bench.dir.path().join("refuge");
    bench.target = Process::new(closed.join("deep/run"), "127.0.0.1".into()).with_refuge(refuge.clone());
    let workload = workload("wine", Slot::Blue, "one", free_port());
    bench.up(&workload).await;
    bench.prepare(&workload).await.unwrap();
    assert!(
        closed.join("deep/run").is_symlink() && closed.join("deep/run").canonicalize().unwrap().starts_with(&refuge)
    );
    let elsewhere = Process::new(closed.join("deep/run"), "127.0.0.1".into());
    assert_eq!(elsewhere.alive(&workload.place).await.unwrap(), None, "it is found by whoever knows the root only");
    bench.target.remove(&workload.place, 1).await.unwrap();
    assert_eq!(bench.state(&workload).await, SlotState::Empty);
}

#[tokio::test]
async fn a_program_without_an_image_may_be_a_mounted_file() {
    let bench = Bench::new();
    let mut workload = workload("wine", Slot::Blue, "one", free_port());
    workload.command = Some(vec!["{mount:/models/quality.bin}".into()]);
    let mounts = vec![("/models/quality.bin".to_owned(), bench.rootfs.join("server"))];
    bench.target.prepare(&workload, 1, ImagePath::None, &mounts).await.unwrap();
    bench.target.start(&workload, 1).await.unwrap();
    wait_for("an answer", async || answers(workload.host_port)).await;
    bench.target.remove(&workload.place, 1).await.unwrap();
}

#[tokio::test]
async fn a_repository_made_again_at_the_same_path_begins_anew() {
    if !rustix::process::geteuid().is_root() {
        return; // an ordinary user's workloads run as that user
    }
    let mut bench = Bench::new();
    let closed = bench.dir.path().join("closed");
    let refuge = bench.dir.path().join("refuge");
    let root = closed.join("run");
    let close = || {
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    };
    let homes = || std::fs::read_dir(&refuge).unwrap().count();
    bench.target = Process::new(root.clone(), "127.0.0.1".into()).with_refuge(refuge.clone());
    close();
    let old = workload("wine", Slot::Blue, "one", free_port());
    bench.target.prepare(&old, 7, bench.image(), &bench.mounts()).await.unwrap();
    bench.target.start(&old, 7).await.unwrap();
    let running = Process::new(root.canonicalize().unwrap(), "127.0.0.1".into());
    std::fs::remove_dir_all(&closed).unwrap();
    close();
    let new = workload("wine", Slot::Blue, "two", free_port());
    bench.prepare(&new).await.unwrap(); // epoch 1: a new store has begun
    assert_eq!(homes(), 2, "what still runs is left alone");
    assert_eq!(running.alive(&old.place).await.unwrap(), None);
    running.stop(&old.place, 7, Duration::from_secs(5)).await.unwrap();
    std::fs::remove_dir_all(&closed).unwrap();
    close();
    bench.prepare(&new).await.unwrap();
    assert_eq!(homes(), 1, "orphans from which nothing runs are removed");
    assert!(bench.state(&new).await.release_digest().is_some());
    // A refuge that was cleared away is an empty one, not an error.
    std::fs::remove_dir_all(root.canonicalize().unwrap()).unwrap();
    assert_eq!(bench.state(&new).await, SlotState::Empty);
    bench.prepare(&new).await.unwrap();
    assert_eq!(homes(), 1);
}

#[tokio::test]
async fn what_an_image_lets_everybody_write_is_not_written() {
    if !rustix::process::geteuid().is_root() {
        return; // an ordinary user's workloads own their files
    }
    let bench = Bench::new();
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::create_dir(bench.rootfs.join("data")).unwrap();
    std::fs::write(bench.rootfs.join("data/file"), "image").unwrap();
    for path in ["", "data", "data/file"] {
        open(&bench.rootfs.join(path));
    }
    open(&bench.model);
    let mut workload = workload("wine", Slot::Blue, "one", free_port());
    bench.up(&workload).await;
    let port = workload.host_port;
    let write = |path: String| get(port, &format!("/write{path}")).unwrap().0;
    let inside = |path: &str| bench.slot(&workload).join("rootfs").join(path).display().to_string();
    for path in ["new", "data/new", "data/file"] {
        assert_eq!(write(inside(path)), 403, "{path}");
    }
    assert_eq!(write(get(port, "/env/MODEL").unwrap().1), 403);
    assert!(bench.target.inspect_policy(&workload.place).await.unwrap().readonly_root);
    open(Path::new(&inside("data/file")));
    let policy = bench.target.inspect_policy(&workload.place).await.unwrap();
    assert!(!policy.readonly_root, "modes are looked at");
    bench.target.remove(&workload.place, 1).await.unwrap();
    workload.relax = vec![Relaxation::WritableRoot];
    bench.up(&workload).await;
    assert_eq!(
        get(port, &format!("/write{}", bench.slot(&workload).join("rootfs/data/file").display())).unwrap().0,
        200
    );
    bench.target.remove(&workload.place, 1).await.unwrap();
}
