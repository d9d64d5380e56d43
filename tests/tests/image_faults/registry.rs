//! Rows 18 and 19: a registry that dies in the middle of a push, and one whose tags are moved afterwards.

use crate::common::{
    self, objects, refused,
    registry::{Registry, kill},
};
use e2e::{
    Project, Settings,
    campaign::{Lane, Random, Tally},
};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::Child,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

const DIES: &str = "row 18 a dying registry";
const MOVED: &str = "row 19 moved tags";
/// Bytes before the end of a push at which the image is in the registry, and its evidence or its tags are not.
const AFTER_THE_IMAGE: u64 = 4_000;
/// Pushes that die.
const DEATHS: u64 = 12;

pub(crate) fn lanes() -> Vec<Lane<'static>> {
    let Some(program) = common::testbed("SEALIFT_TEST_REGISTRY_PROGRAM") else { return Vec::new() };
    let again = program.clone();
    let dies = move |tally: &Tally| dies(tally, &program);
    let moved = move |tally: &Tally| moved(tally, &again);
    vec![(DIES.to_owned(), Box::new(dies)), (MOVED.to_owned(), Box::new(moved))]
}

/// Everything that the image of a visible tag names is there.
fn whole(registry: &Registry, repository: &str, tag: &str) {
    let manifest = registry.document(repository, tag);
    let layers = manifest["layers"].as_array().unwrap().iter();
    for descriptor in layers.chain([&manifest["config"]]) {
        let digest = descriptor["digest"].as_str().unwrap();
        let status = registry.status(repository, "blobs", digest);
        assert_eq!(status, 200, "tag {tag} names {digest}, which is not there");
    }
}

/// A proxy before the registry that kills it after so many bytes of requests, and is as dead as it until it is revived.
struct Mortal {
    port: u16,
    passed: Arc<AtomicU64>,
    dies_at: Arc<AtomicU64>,
    dead: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Mortal {
    fn before(registry: &Registry) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            passed: Arc::default(),
            dies_at: Arc::new(AtomicU64::new(u64::MAX)),
            dead: Arc::default(),
            ended: Arc::default(),
        };
        let (passed, dies_at) = (proxy.passed.clone(), proxy.dies_at.clone());
        let (dead, ended) = (proxy.dead.clone(), proxy.ended.clone());
        let (to, child) = (registry.port, registry.child.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                if dead.load(Ordering::SeqCst) {
                    let _ = client.shutdown(Shutdown::Both);
                    continue;
                }
                let (passed, dies_at, dead, child) = (passed.clone(), dies_at.clone(), dead.clone(), child.clone());
                thread::spawn(move || drop(carry(&client, to, &passed, &dies_at, &dead, &child)));
            }
        });
        proxy
    }

    fn dies_at(&self, byte: u64) {
        self.passed.store(0, Ordering::SeqCst);
        self.dies_at.store(byte, Ordering::SeqCst);
        self.dead.store(false, Ordering::SeqCst);
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn carry(
    client: &TcpStream,
    to: u16,
    passed: &AtomicU64,
    dies_at: &AtomicU64,
    dead: &AtomicBool,
    child: &Mutex<Child>,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(("127.0.0.1", to))?;
    server.set_nodelay(true)?;
    let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let (mut from, mut into) = (client.try_clone()?, server);
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let before = passed.fetch_add(count as u64, Ordering::SeqCst);
        let limit = dies_at.load(Ordering::SeqCst);
        if before + count as u64 > limit || dead.load(Ordering::SeqCst) {
            dead.store(true, Ordering::SeqCst);
            let some = usize::try_from(limit.saturating_sub(before)).unwrap_or(0).min(count);
            let _ = into.write_all(&buffer[..some]);
            kill(child);
            let _ = client.shutdown(Shutdown::Both);
            break;
        }
        into.write_all(&buffer[..count])?;
    }
    into.shutdown(Shutdown::Both)
}

/// A project whose image has some layers that no compression makes smaller, pushed to `repository`.
fn project(random: &mut Random) -> Project {
    let mut project = Project::service_with(Settings { gate: false, ..Settings::default() });
    let mut files = String::from("{ from = \"build/service\", to = \"/service\", mode = \"0755\" }");
    for part in 0..3 {
        project.write(&format!("build/part-{part}"), random.bytes(200_000));
        files.push_str(&format!(", {{ from = \"build/part-{part}\", to = \"/part-{part}\" }}"));
    }
    // The version is in the image, so that each version is another image.
    files.push_str(", { from = \"pyproject.toml\", to = \"/version\" }");
    project.settings.build = format!("builder = \"oci\"\nfiles = [{files}]\nentrypoint = [\"/service\"]");
    project.configure();
    project.commit("Large files");
    project
}

fn pushed_to(project: &mut Project, address: &str, repository: &str, version: &str) {
    project.settings.more =
        format!("\n[component.svc.image]\nrepository = \"{address}/{repository}\"\ninsecure = true\n");
    project.version(version);
    project.configure();
    project.commit(version);
}

fn sealed(project: &Project, version: &str) -> String {
    let manifest = project.json(["explain", &format!("svc@{version}")]).ok().result()["manifest"].clone();
    manifest.pointer("/images/linux~1amd64/manifest").and_then(Value::as_str).unwrap().to_owned()
}

/// Row 18.
fn dies(tally: &Tally, program: &str) {
    let mut random = Random::new(tally.seed, 1800);
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(program, folder.path());
    let proxy = Mortal::before(&registry);
    let address = format!("127.0.0.1:{}", proxy.port);
    let mut project = project(&mut random);
    pushed_to(&mut project, &address, "team/clean", "1.0.0");
    proxy.dies_at(u64::MAX);
    project.run(["release", "cut"]).ok();
    let total = proxy.passed();
    assert!(total > 600_000, "a push is of {total} bytes only");
    let (mut struck, mut repeated) = (0, Vec::new());
    for try_ in 0..DEATHS {
        if tally.given_up(DIES) {
            return;
        }
        // The heads of the first requests, then somewhere in each twelfth of the push; at last among the evidence and the tags.
        let byte = match try_ {
            0 => 10,
            last if last == DEATHS - 1 => total - AFTER_THE_IMAGE,
            middle => total * middle / DEATHS + random.below(total / DEATHS),
        };
        let (repository, version) = (format!("team/try-{try_}"), format!("1.0.{}", try_ + 1));
        pushed_to(&mut project, &address, &repository, &version);
        let before = objects::keys(&project.store_folder(), "releases/").len();
        proxy.dies_at(byte);
        let run = project.run(["release", "cut"]);
        let died = proxy.dead.load(Ordering::SeqCst);
        registry.start_again();
        proxy.dies_at(u64::MAX);
        if !died {
            // Pushes differ by some bytes of heads; only the last may get away with it.
            tally.hold(DIES, format!("byte {byte} of {total} is never reached"), || {
                run.ok();
                assert_eq!(try_, DEATHS - 1);
            });
            continue;
        }
        struck += 1;
        let marks = tags(&version);
        tally.attempt(DIES, format!("death at byte {byte} of {total}"), || {
            refused(&run, 69).says(&[&address]);
            assert_eq!(objects::keys(&project.store_folder(), "releases/").len(), before, "it was sealed");
            for mark in &marks {
                if registry.head(&repository, mark).0 == 200 {
                    whole(&registry, &repository, mark);
                }
            }
            project.run(["release", "cut"]).ok();
            repeated.push(proxy.passed());
            assert!(
                proxy.passed() <= total + 64 * 1024,
                "{} bytes in the second push, {total} in a whole one",
                proxy.passed()
            );
            let digest = sealed(&project, &version);
            for mark in &marks {
                assert_eq!(registry.head(&repository, mark), (200, digest.clone()), "tag {mark}");
                whole(&registry, &repository, mark);
            }
            assert_eq!(registry.head(&repository, &digest), (200, digest));
        });
    }
    if tally.given_up(DIES) {
        return;
    }
    tally.attempt(DIES, "records that the death tore", || torn(&mut project, &registry, &proxy, total));
    tally.attempt(DIES, "what was there is not sent again", || {
        assert!(struck > 6, "only {struck} pushes died");
        // Blobs go side by side, so that little is whole before the end; but when the image was there, it is not sent again.
        let last = repeated.last().copied().unwrap_or(total);
        assert!(last < total / 2, "{last} bytes in the last second push of {total}: {repeated:?}");
    });
}

/// The registry writes its records in place: one that is killed there fails ever after when it is asked for that blob.
fn torn(project: &mut Project, registry: &Registry, proxy: &Mortal, total: u64) {
    let (repository, version) = ("team/torn", "1.1.0");
    pushed_to(project, &format!("127.0.0.1:{}", proxy.port), repository, version);
    proxy.dies_at(total - AFTER_THE_IMAGE);
    refused(&project.run(["release", "cut"]), 69);
    registry.start_again();
    proxy.dies_at(u64::MAX);
    let repositories = registry.folder.join("data/docker/registry/v2/repositories").join(repository);
    // It dies before its first tag: what a tag names was confirmed before.
    let _ = fs::remove_dir_all(repositories.join("_manifests/tags"));
    let mut torn = 0;
    for (records, kind) in [("_layers/sha256", "blobs"), ("_manifests/revisions/sha256", "manifests")] {
        for record in fs::read_dir(repositories.join(records)).unwrap() {
            let record = record.unwrap();
            fs::write(record.path().join("link"), b"").unwrap();
            let digest = format!("sha256:{}", record.file_name().display());
            let status = registry.status(repository, kind, &digest);
            assert!(status >= 500, "{kind} {digest}: {status}");
            torn += 1;
        }
    }
    assert!(torn > 3, "only {torn} records were there to be torn");
    project.run(["release", "cut"]).ok();
    let digest = sealed(project, version);
    for mark in &tags(version) {
        assert_eq!(registry.head(repository, mark), (200, digest.clone()), "tag {mark}");
        whole(registry, repository, mark);
    }
}

/// The tags of a version.
fn tags(version: &str) -> Vec<String> {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().unwrap(), parts.next().unwrap());
    vec![version.to_owned(), format!("{major}.{minor}"), major.to_owned(), "latest".to_owned()]
}

/// Row 19.
fn moved(tally: &Tally, program: &str) {
    let mut random = Random::new(tally.seed, 1900);
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(program, folder.path());
    let address = registry.address();
    let repository = "team/moved";
    let mut project = project(&mut random);
    pushed_to(&mut project, &address, repository, "1.0.0");
    project.run(["release", "cut"]).ok();
    let old = registry.manifest(repository, "1.0.0");
    let ways = ["all tags moved back", "the version's tag alone", "every manifest deleted", "the registry gone"];
    for (number, how) in ways.into_iter().enumerate() {
        if tally.given_up(MOVED) {
            return;
        }
        let version = format!("1.{}.0", number + 1);
        pushed_to(&mut project, &address, repository, &version);
        project.run(["release", "cut"]).ok();
        let digest = sealed(&project, &version);
        let put = |tag: &str| registry.put(repository, tag, &old);
        match number {
            0 => tags(&version).iter().for_each(|tag| put(tag)),
            1 => put(&version),
            2 => registry.delete(repository, &digest),
            _ => registry.stop(),
        }
        tally.attempt(MOVED, how, || {
            // Without the cache, so that everything is fetched by its digest.
            let _ = fs::remove_dir_all(project.path(".sealift/cache/images"));
            project.run(["deploy", "staging"]).ok();
            assert_eq!(project.answers("staging").as_deref(), Some(&*version));
            let release = format!("svc@{version}");
            project.run(["restore", &release, "--to", &format!("restored-{number}")]).ok();
            let archive = fs::read(project.path(&format!("restored-{number}/image-linux-amd64.tar"))).unwrap();
            let hex = digest.trim_start_matches("sha256:").as_bytes();
            assert!(archive.windows(hex.len()).any(|part| part == hex), "the image is not {digest}");
            assert_eq!(project.current("staging").components["svc"].release.to_string(), release);
            fs::remove_dir_all(project.path(&format!("restored-{number}"))).unwrap();
        });
    }
}
