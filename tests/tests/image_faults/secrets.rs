//! Row 28: a canary, in the environment and as a BuildKit secret, is found nowhere.

use crate::common::{self, engine::Engine, refused, tree};
use e2e::{
    Project, Run, Running, Settings,
    campaign::{Lane, Random, Tally},
};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

const ROW: &str = "row 28 a canary secret";

pub(crate) fn lanes() -> Vec<Lane<'static>> {
    let mut lanes: Vec<Lane<'static>> = Vec::new();
    for (index, variable) in ["SEALIFT_TEST_DOCKER", "SEALIFT_TEST_DOCKER_NEWEST"].into_iter().enumerate() {
        let Some(address) = common::testbed(variable) else { continue };
        let lane = move |tally: &Tally| canary(tally, &address, 2800 + index as u64);
        lanes.push((format!("{ROW} {variable}"), Box::new(lane)));
    }
    lanes
}

/// Looks at the arguments of every process of this host, again and again, until it is dropped.
struct Watch<'a> {
    canary: &'a str,
    ended: AtomicBool,
    looked: AtomicU64,
    found: Mutex<BTreeSet<String>>,
}

impl<'a> Watch<'a> {
    fn of(canary: &'a str) -> Self {
        Self { canary, ended: AtomicBool::new(false), looked: AtomicU64::new(0), found: Mutex::default() }
    }

    fn look(&self) {
        while !self.ended.load(Ordering::SeqCst) {
            for entry in fs::read_dir("/proc").unwrap().flatten() {
                let name = entry.file_name();
                if !name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
                    continue;
                }
                let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                self.looked.fetch_add(1, Ordering::SeqCst);
                if has(&words, self.canary) {
                    self.found.lock().unwrap().insert(String::from_utf8_lossy(&words).into_owned());
                }
            }
            thread::park_timeout(Duration::from_millis(2));
        }
    }
}

fn has(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

/// A Dockerfile whose steps read the secret and print it.
fn dockerfile(ending: &str) -> String {
    let script = format!("cat /run/secrets/token; echo; echo the secret is $(cat /run/secrets/token) >&2; {ending}");
    let run = serde_json::json!([
        "/busybox",
        "sh",
        "-c",
        format!("PATH=/; alias cat='/busybox cat'; cat() {{ /busybox cat \"$@\"; }}; {script}")
    ]);
    format!(
        "FROM scratch\nCOPY busybox /busybox\nCOPY pyproject.toml /version\nCOPY build/service /service\n\
         RUN --mount=type=secret,id=token,required=true {run}\nENTRYPOINT [\"/service\"]\n"
    )
}

fn project(address: &str, busybox: &Path) -> Project {
    let build = format!("builder = \"docker\"\nengine = \"{address}\"\nsecrets = {{ token = \"env:CANARY_BUILD\" }}");
    let project = Project::service_with(Settings { gate: false, build, ..Settings::default() });
    let with = "[component.svc.run]\nsecrets = { API_TOKEN = \"env:CANARY_RUN\" }\n";
    let text = project.read("Sealift.toml").replacen("[component.svc.run]\n", with, 1);
    project.write("Sealift.toml", text);
    fs::copy(busybox, project.path("busybox")).unwrap();
    project.write(".dockerignore", "*\n!busybox\n!build/service\n!pyproject.toml\n");
    project.write("Dockerfile", dockerfile("exit 0"));
    project.commit("Secrets, as references");
    project
}

fn canary(tally: &Tally, address: &str, stream: u64) {
    let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.exists()) else {
        return common::must_run("there is no static busybox");
    };
    let mut random = Random::new(tally.seed, stream);
    // Made here, so that it is in no source file and in no program.
    let canary = format!("canary{:016x}{:016x}", random.number(), random.number());
    let project = project(address, busybox);
    let engine = Engine::at(address);
    let watch = Watch::of(&canary);
    let said = Mutex::new(String::new());
    let run = |arguments: &[&str]| -> Run {
        let mut command = project.command(e2e::sealift_program());
        // An innocent variable that is named nowhere, and those that the configuration names.
        command.args(arguments).env("CANARY_BUILD", &canary).env("CANARY_RUN", &canary).env("CI_JOB_TOKEN", &canary);
        let run = Running::start(command, format!("sealift {}", arguments.join(" "))).wait();
        said.lock().unwrap().push_str(&format!("{}\n{}", run.stdout, run.stderr));
        run
    };
    let clean = |what: &str, run: &Run| {
        assert!(
            !has(run.stdout.as_bytes(), &canary) && !has(run.stderr.as_bytes(), &canary),
            "{what} printed the secret"
        );
    };
    thread::scope(|scope| {
        let looking = scope.spawn(|| watch.look());
        let attempt = |what: &str, work: &mut dyn FnMut()| {
            if !tally.given_up(ROW) {
                tally.attempt(ROW, format!("{what} with {address}"), work);
            }
        };
        attempt("a build that prints it", &mut || {
            for line in [&["release", "cut"][..], &["release", "cut", "--format", "json"]] {
                clean("release cut", &run(line).ok());
            }
            // The step ran with the secret: otherwise there would be nothing to find.
            assert!(said.lock().unwrap().contains("the secret is"), "the step did not run:\n{}", said.lock().unwrap());
        });
        attempt("a rollout of it", &mut || {
            for line in [&["deploy", "staging"][..], &["smoke", "staging"], &["status"], &["explain", "svc@1.0.0"]] {
                clean(line[0], &run(line).ok());
            }
        });
        attempt("a restore of it", &mut || {
            clean("restore", &run(&["restore", "svc@1.0.0", "--to", "restored"]).ok());
            assert!(project.path("restored/rootfs/service").is_file());
        });
        for (number, ending) in ["exit 7", "exec /busybox nothing-of-that-name"].into_iter().enumerate() {
            attempt("a build that fails after printing it", &mut || {
                project.version(&format!("1.{}.0", number + 1));
                project.write("Dockerfile", dockerfile(ending));
                project.commit("It fails");
                for line in [&["release", "cut"][..], &["release", "cut", "--format", "json"]] {
                    let failed = run(line);
                    assert_ne!(failed.code, Some(0), "{}", failed.told());
                    clean("a failing build", &failed);
                    if line.len() == 2 {
                        let _ = refused(&failed, 65);
                    }
                }
            });
        }
        attempt("a secret that is not set", &mut || {
            project.version("1.9.0");
            project.write("Dockerfile", dockerfile("exit 0"));
            project.commit("It would go well");
            let run = project.run(["release", "cut"]);
            let code = run.code.filter(|code| *code != 0).unwrap_or(66);
            refused(&run, code).says(&["CANARY_BUILD"]);
        });
        attempt("a build that dies", &mut || {
            project.write("Dockerfile", dockerfile("/busybox sleep 30"));
            project.commit("It takes long");
            let mut command = project.command(e2e::sealift_program());
            command.args(["build"]).env("CANARY_BUILD", &canary).env("RUST_BACKTRACE", "full");
            let mut running = Running::start(command, "sealift build".to_owned());
            running.ends_within(Duration::from_millis(random.below(1500) + 500));
            running.signal(rustix::process::Signal::INT);
            clean("a build that was stopped", &running.wait());
        });
        attempt("everything that was written", &mut || {
            let mut searched = 0;
            for (path, bytes) in tree(project.folder()) {
                assert!(!has(&bytes, &canary), "the secret is in {}", path.display());
                searched += bytes.len();
            }
            assert!(searched > 1_000_000, "only {searched} bytes were searched");
        });
        attempt("what the engine keeps", &mut || {
            let images = engine.get("/images/json");
            // The lanes beside this one have images of their own there, and remove them.
            let commits = project.git(["rev-list", "--all"]);
            let ours = |image: &&serde_json::Value| {
                let revision = image["Labels"]["org.opencontainers.image.revision"].as_str();
                revision.is_some_and(|revision| commits.contains(revision))
            };
            let mut looked = 0;
            for image in images.as_array().unwrap().iter().filter(ours) {
                let id = image["Id"].as_str().unwrap();
                let history = engine.get(&format!("/images/{id}/history"));
                let inspected = engine.get(&format!("/images/{id}/json"));
                assert!(!has(history.to_string().as_bytes(), &canary), "the secret is in the history of {id}");
                assert!(!has(inspected.to_string().as_bytes(), &canary), "the secret is in {id}");
                let (status, saved) =
                    engine.request("GET", &format!("/images/{id}/get"), &mut std::io::empty()).unwrap();
                assert_eq!(status, 200);
                assert!(!has(&saved, &canary), "the secret is in a layer of {id}");
                looked += 1;
            }
            // An engine with containerd's image store keeps none: what is built is streamed out of it.
            let keeps_none = engine.get("/info")["DriverStatus"].to_string().contains("io.containerd.snapshotter");
            assert!(looked > 0 || keeps_none, "the engine has no image of ours: {images}");
        });
        watch.ended.store(true, Ordering::SeqCst);
        looking.join().unwrap();
    });
    tally.attempt(ROW, format!("arguments of all processes with {address}"), || {
        let looked = watch.looked.load(Ordering::SeqCst);
        assert!(looked > 1000, "only {looked} processes were looked at");
        assert_eq!(*watch.found.lock().unwrap(), BTreeSet::new());
    });
    tally.hold(ROW, "the services have what the others may not have", || {
        let holders = e2e::processes::of(project.folder()).into_iter();
        let with = holders.filter(|pid| has(&fs::read(format!("/proc/{pid}/environ")).unwrap_or_default(), &canary));
        assert!(with.count() >= 1, "the canary never was in a service");
    });
}
