//! Row 17: engines that are killed in the middle of a build and of an export.

use crate::{
    common::{
        self,
        engine::{Engine, PrivateEngine},
        objects,
    },
    layouts::{entry, file, tar},
};
use domain::Digest;
use e2e::{
    Project, Settings,
    campaign::{Lane, Random, Tally},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

const ROW: &str = "row 17 a killed engine";
/// Kills of one engine in each phase.
const KILLS: u64 = 4;
/// How a request is known: of a build by BuildKit, and of an export.
const PHASES: [(&str, &[u8]); 2] = [("build", b"/grpc"), ("export", b"/get")];

pub(crate) fn lanes() -> Vec<Lane<'static>> {
    let mut lanes: Vec<Lane<'static>> = Vec::new();
    for (index, variable) in ["SEALIFT_TEST_DOCKERD", "SEALIFT_TEST_DOCKERD_NEWEST"].into_iter().enumerate() {
        let Some(program) = common::testbed(variable) else { continue };
        if !common::root("a private Docker Engine") {
            continue;
        }
        let stream = 1700 + index as u64;
        let lane = move |tally: &Tally| killed(tally, Path::new(&program), stream);
        lanes.push((format!("{ROW} {variable}"), Box::new(lane)));
    }
    lanes
}

/// What the next request of a kind will come to.
#[derive(Clone, Copy)]
struct Armed {
    word: &'static [u8],
    /// Bytes of its answer that are let through.
    after: u64,
}

/// A socket before an engine's that stops an answer after so many bytes and says so.
struct Stopper {
    address: String,
    armed: Arc<Mutex<Option<Armed>>>,
    /// Bytes of the answers to the request that was armed for.
    passed: Arc<AtomicU64>,
    stopped: mpsc::Receiver<UnixStream>,
}

impl Stopper {
    fn before(engine: PathBuf, socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (armed, passed) = (Arc::new(Mutex::new(None)), Arc::new(AtomicU64::new(0)));
        let (sender, stopped) = mpsc::channel();
        let (arm, count) = (armed.clone(), passed.clone());
        // It lives until the test program ends; the socket goes with the test's folder.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (engine, arm, count, sender) = (engine.clone(), arm.clone(), count.clone(), sender.clone());
                thread::spawn(move || drop(carry(&client, &engine, &arm, &count, &sender)));
            }
        });
        Self { address: format!("unix://{}", socket.display()), armed, passed, stopped }
    }

    fn arm(&self, word: &'static [u8], after: u64) {
        self.passed.store(0, Ordering::SeqCst);
        *self.armed.lock().unwrap() = Some(Armed { word, after });
    }

    fn disarm(&self) -> u64 {
        *self.armed.lock().unwrap() = None;
        self.passed.load(Ordering::SeqCst)
    }
}

fn carry(
    client: &UnixStream,
    engine: &Path,
    armed: &Arc<Mutex<Option<Armed>>>,
    passed: &AtomicU64,
    stopped: &mpsc::Sender<UnixStream>,
) -> std::io::Result<()> {
    let engine = UnixStream::connect(engine)?;
    let meant = Arc::new(Mutex::new(false));
    let (mut from, mut into, noticed, arm) = (client.try_clone()?, engine.try_clone()?, meant.clone(), armed.clone());
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let word = arm.lock().unwrap().map(|armed| armed.word);
            if let Some(word) = word
                && buffer[..count].windows(word.len()).any(|part| part == word)
            {
                *noticed.lock().unwrap() = true;
            }
            if into.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = into.shutdown(Shutdown::Write);
    });
    let (mut from, mut into) = (engine, client.try_clone()?);
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(mut count @ 1..) = from.read(&mut buffer) {
        let mut hold = false;
        if *meant.lock().unwrap() {
            let mut armed = armed.lock().unwrap();
            if let Some(Armed { after, .. }) = *armed {
                let before = passed.fetch_add(count as u64, Ordering::SeqCst);
                if before + count as u64 > after {
                    count = usize::try_from(after.saturating_sub(before)).unwrap_or(0);
                    hold = true;
                    *armed = None;
                }
            }
        }
        into.write_all(&buffer[..count])?;
        if hold {
            let _ = stopped.send(into.try_clone()?);
            // Reading on without passing it on, so that the engine goes on as far as it gets.
            while let Ok(1..) = from.read(&mut buffer) {}
            break;
        }
    }
    into.shutdown(Shutdown::Both)
}

/// The service, built by an engine in several steps.
fn project(address: &str) -> Project {
    let settings =
        Settings { gate: false, build: format!("builder = \"docker\"\nengine = \"{address}\""), ..Settings::default() };
    let project = Project::service_with(settings);
    let steps = "FROM scratch\nCOPY pyproject.toml /version\nCOPY build/service /service\nCOPY train.py /a\n\
                 COPY train.py /b\nENTRYPOINT [\"/service\"]\n";
    project.write("Dockerfile", steps);
    project.write(".dockerignore", "*\n!build/service\n!pyproject.toml\n!train.py\n");
    project.commit("Docker");
    project
}

fn killed(tally: &Tally, program: &Path, stream: u64) {
    let mut random = Random::new(tally.seed, stream);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("engine");
    let mut private = PrivateEngine::start_program(program, &home);
    let stopper = Stopper::before(home.join("docker.sock"), &folder.path().join("stop.sock"));
    let project = project(&stopper.address);
    let mut number = 0;
    let mut next = |project: &Project| {
        number += 1;
        project.version(&format!("1.0.{number}"));
        project.commit("The next version");
    };
    // How much an engine says when nothing happens to it.
    let mut totals = Vec::new();
    for (_, word) in PHASES {
        next(&project);
        stopper.arm(word, u64::MAX);
        project.run(["release", "cut"]).ok();
        let total = stopper.disarm();
        assert!(total > 0, "no request has {:?}", String::from_utf8_lossy(word));
        totals.push(total);
    }
    for ((phase, word), total) in PHASES.into_iter().zip(totals) {
        for kill in 0..KILLS {
            if tally.given_up(ROW) {
                return;
            }
            // The first byte of the answer, then somewhere in it; the answers of two builds differ a little in length.
            let after = if kill == 0 { 0 } else { random.below(total.saturating_mul(9) / 10) };
            next(&project);
            let sealed = objects::keys(&project.store_folder(), "releases/").len();
            stopper.arm(word, after);
            let running = project.spawn(["release", "cut"]);
            let held = stopper.stopped.recv_timeout(Duration::from_secs(60));
            let Ok(held) = held else {
                tally.lose(ROW, format!("the {phase} was never stopped at byte {after} of {total}"));
                let _ = running.wait();
                continue;
            };
            private.kill();
            let _ = held.shutdown(Shutdown::Both);
            drop(held);
            let run = running.wait();
            let what = format!("{phase} at byte {after} of {total} with {}", program.display());
            // Back before anything is judged, so that a loss does not spoil the next try.
            private = private.again();
            tally.attempt(ROW, what, || {
                assert_eq!(run.code, Some(69), "{}", run.told());
                let error = run.error();
                assert!(error.to_string().contains("Docker Engine"), "the engine is not named: {}", run.told());
                assert!(error["next"].is_string(), "{}", run.told());
                assert_eq!(objects::keys(&project.store_folder(), "releases/").len(), sealed, "it was sealed");
                nothing_half(&project);
                project.run(["release", "cut"]).ok();
                project.run(["release", "verify", &format!("svc@{}", project_version(&project))]).ok();
                nothing_half(&project);
                labelled(&private.engine);
            });
        }
    }
    tally.attempt(ROW, format!("orphans of {}", program.display()), || collected(&project, &private.engine, &mut next));
}

fn project_version(project: &Project) -> String {
    project.read("pyproject.toml").rsplit_once("version = \"").unwrap().1.trim_end_matches("\"\n").to_owned()
}

/// The cache has whole layouts and nothing else.
fn nothing_half(project: &Project) {
    for entry in fs::read_dir(project.path(".sealift/cache/images")).into_iter().flatten() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()), "{name} was left in the cache");
    }
}

/// Every image without a name says what build it is of, and no container was left.
fn labelled(engine: &Engine) {
    for image in engine.get("/images/json").as_array().unwrap() {
        assert!(image["Labels"]["sealift.build"].is_string(), "an orphan without a label: {image}");
    }
    assert_eq!(engine.get("/containers/json?all=1"), json!([]), "a container was left");
}

/// What an older build of the same left is removed by the next one, once it is so old that nobody exports it any more.
fn collected(project: &Project, engine: &Engine, next: &mut impl FnMut(&Project)) {
    let images = engine.get("/images/json");
    if images == json!([]) {
        return; // Its images were taken out of it and none was kept, whoever died meanwhile.
    }
    let label = images[0]["Labels"]["sealift.build"].as_str().expect("the last build has an image").to_owned();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("orphan.tar");
    fs::write(&archive, orphan(&label)).unwrap();
    engine.post_file("/images/load?quiet=1", &archive);
    let old = |engine: &Engine| {
        let images = engine.get("/images/json");
        images.as_array().unwrap().iter().filter(|image| image["Created"].as_i64().unwrap() < 1_000_000_000).count()
    };
    assert_eq!(old(engine), 1, "the orphan was not loaded");
    next(project);
    project.run(["release", "cut"]).ok();
    assert_eq!(old(engine), 0, "the orphan of 2000 is still there");
}

/// A docker archive of an image of the year 2000 with this label and no name.
fn orphan(label: &str) -> Vec<u8> {
    let layer = tar(&[file("orphan", "orphan")]);
    let config = json!({"architecture": "amd64", "os": "linux", "created": "2000-01-01T00:00:00Z",
        "config": {"Labels": {"sealift.build": label}},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}});
    let manifest: Value = json!([{"Config": "config.json", "RepoTags": null, "Layers": ["layer.tar"]}]);
    tar(&[
        entry("layer.tar", b'0', "", 0o644, &layer),
        entry("config.json", b'0', "", 0o644, config.to_string().as_bytes()),
        entry("manifest.json", b'0', "", 0o644, manifest.to_string().as_bytes()),
    ])
}
