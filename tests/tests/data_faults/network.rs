//! Rows 6 to 10 and 12: between the program and its store.

use crate::{
    Lane,
    common::{
        data::{Place, QUICK, Scene, open_uploads, served, server_is_tidy},
        network::{ACCESS, BUCKET, SECRET, Server, section},
        refused,
    },
};
use e2e::{
    Project, Run, Settings,
    campaign::{Random, Tally},
    proxy::{Among, Fault, Passed, Proxy},
};
use std::{path::PathBuf, time::Duration};

/// More requests of a kind than any command here makes.
const MOST: u64 = 60;
/// What any faulty run here may take: several requests, each with the deadline of [`QUICK`] and its size's share.
const BOUND: Duration = Duration::from_secs(60);

/// How often one request may be made: eight attempts, by each of two operations that ask the same.
const ATTEMPTS: usize = 16;

/// The servers that all lanes share: one of ours, and MinIO where the testbed has it.
pub(crate) struct Servers {
    owner: Project,
    ours: Server,
    minio: Option<Place>,
}

impl Servers {
    pub(crate) fn start() -> Self {
        let owner = Project::bare();
        let ours = Server::start(&owner, &owner.folder().join("served"), true);
        Self { ours, owner, minio: minio() }
    }

    fn folder(&self) -> PathBuf {
        self.owner.folder().join("served")
    }

    /// What everything that ran left in our server.
    pub(crate) fn tidy(&self) {
        server_is_tidy(&self.folder());
    }
}

/// `http://KEY:SECRET@HOST:PORT/BUCKET`.
fn minio() -> Option<Place> {
    let address = crate::common::testbed("SEALIFT_TEST_MINIO")?;
    let (credentials, place) = address.strip_prefix("http://").unwrap().split_once('@').unwrap();
    let (access, secret) = credentials.split_once(':').unwrap();
    let (host, bucket) = place.split_once('/').unwrap();
    Some(Place {
        host: host.to_owned(),
        bucket: bucket.trim_end_matches('/').to_owned(),
        prefix: format!("faults/{}", std::process::id()),
        keys: (access.to_owned(), secret.to_owned()),
    })
}

/// The row of `FAULTS.md`.
fn row(fault: Fault) -> &'static str {
    match fault {
        Fault::Internal | Fault::SlowDown | Fault::TooMany => "row 06 overload",
        Fault::ErrorInOk => "row 07 error in 200",
        Fault::Truncated | Fault::WrongLength | Fault::FlippedDown | Fault::FlippedUp => "row 08 damage on the way",
        Fault::Stalled | Fault::Silent | Fault::Trickle => "row 09 stalls",
        Fault::ResetAfter => "row 10 lost answers",
        Fault::Conflict => "row 11 conflicts",
        Fault::ResetBefore | Fault::Cut => "row 12 cut",
    }
}

/// The verbs that ask a store.
const VERBS: [&str; 3] = ["push", "pull", "verify"];

/// Faults that are waited for.
fn waits(fault: Fault) -> bool {
    matches!(fault, Fault::Stalled | Fault::Silent | Fault::Trickle | Fault::Cut | Fault::TooMany | Fault::ResetAfter)
}

/// Whether a verb makes requests that the fault can be done to: a push reads no object, what only reads sends none.
fn finds_something(fault: Fault, verb: &str) -> bool {
    match fault {
        Fault::FlippedUp => verb == "push",
        Fault::FlippedDown => verb != "push",
        _ => true,
    }
}

/// What a run takes that waits as long as it must: until the server wants to be asked again, or for what stands still.
fn at_least(fault: Fault, lasting: bool) -> Duration {
    let waits = matches!(fault, Fault::TooMany | Fault::Stalled | Fault::Silent) && !lasting;
    Duration::from_secs(u64::from(waits))
}

fn lane<'a, const N: usize>(servers: &'a Servers, fault: Fault, verbs: [&'static str; N]) -> Lane<'a> {
    let work = move |tally: &Tally| {
        let stream = 100 + fault as u64;
        let place = served(servers.ours.port, &format!("f{stream}/{}", verbs[0]));
        Link::new(&mut Random::new(tally.seed, stream), place).campaign(tally, fault, &verbs, true);
    };
    (format!("{} {fault:?} {}", row(fault), verbs.join(" ")), Box::new(work))
}

pub(crate) fn lanes(servers: &Servers) -> Vec<Lane<'_>> {
    let mut lanes: Vec<Lane<'_>> = Vec::new();
    let faults = || Fault::ALL.into_iter().filter(|fault| *fault != Fault::Conflict);
    // Those that wait longest come first, and each of their verbs by itself.
    for verb in VERBS {
        for fault in faults().filter(|fault| waits(*fault)) {
            lanes.push(lane(servers, fault, [verb]));
        }
    }
    for fault in [Fault::Cut, Fault::ResetBefore, Fault::ResetAfter] {
        // Each abort is waited for where there is no network: odd and even k side by side.
        let step = if fault == Fault::Cut { 2 } else { 1 };
        for first in 1..=step {
            let parts = move |tally: &Tally| parts_cut(tally, servers, fault, first, step);
            lanes.push((format!("{} parts {fault:?} {first}", row(fault)), Box::new(parts)));
        }
    }
    lanes.extend(faults().filter(|fault| !waits(*fault)).map(|fault| lane(servers, fault, VERBS)));
    if let Some(place) = &servers.minio {
        for fault in faults() {
            let lane = move |tally: &Tally| {
                let mut place = place.clone();
                place.prefix = format!("{}/{fault:?}", place.prefix);
                let mut random = Random::new(tally.seed, 200 + fault as u64);
                Link::new(&mut random, place).campaign(tally, fault, &VERBS[..2], false);
            };
            lanes.push((format!("{} {fault:?} MinIO", row(fault)), Box::new(lane)));
        }
    }
    lanes
}

/// A scene behind a proxy.
struct Link {
    scene: Scene,
    proxy: Proxy,
    /// Where the store says that it is, as errors name it.
    name: String,
}

impl Link {
    fn new(random: &mut Random, place: Place) -> Self {
        let port = place.host.rsplit(':').next().unwrap().parse().unwrap();
        let proxy = Proxy::before(port, random.clone());
        let name = format!("s3://{}/{}", place.bucket, place.prefix);
        let scene = Scene::small(random, Some((place, &proxy.endpoint(), QUICK)));
        scene.run(&["data", "push"]).ok();
        scene.verified();
        Self { scene, proxy, name }
    }

    /// The k-th request of each verb, for each k; once and, with `lasting`, from there on.
    fn campaign(&self, tally: &Tally, fault: Fault, verbs: &[&'static str], lasting: bool) {
        for verb in verbs.iter().copied() {
            // A network that was cut comes back by itself for nobody: once is from there on.
            if fault != Fault::Cut {
                self.each(tally, fault, verb, false);
            }
            let reads_as_pull = verb == "verify" && fault != Fault::FlippedDown;
            if fault == Fault::Cut || (lasting && !reads_as_pull) {
                self.each(tally, fault, verb, true);
            }
        }
    }

    fn each(&self, tally: &Tally, fault: Fault, verb: &'static str, lasting: bool) {
        for nth in 1..=MOST {
            if tally.given_up(row(fault)) {
                return;
            }
            self.prepare(verb);
            self.proxy.arm(fault, Among::All, nth, lasting);
            let run = self.scene.run(&["data", verb]);
            let passed = self.proxy.disarm();
            if passed.struck.is_empty() {
                tally.hold(row(fault), format!("{verb} without {fault:?}"), || {
                    run.ok();
                    assert!(nth > 1 || !finds_something(fault, verb), "it never struck");
                });
                return;
            }
            let what = format!("{fault:?} at request {nth} of {verb}, lasting: {lasting}, store {}", self.name);
            tally.attempt(row(fault), what, || self.judge(fault, verb, lasting, &run, &passed));
        }
        tally.lose(row(fault), format!("{verb} made more than {MOST} requests"));
    }

    fn prepare(&self, verb: &str) {
        match verb {
            "push" => self.scene.empty_store(),
            "pull" => self.scene.forget(),
            _ => {}
        }
    }

    /// How it ended, and that the next run finishes what it left.
    fn judge(&self, fault: Fault, verb: &str, lasting: bool, run: &Run, passed: &Passed) {
        let struck = passed.struck.join("\n");
        let told = || format!("struck:\n{struck}\n{}", run.told());
        let codes: &[i32] = match (fault, lasting) {
            // The server refuses a body that was damaged on its way, and that is told or mended.
            (Fault::FlippedUp, _) => &[0, 69, 73],
            // A byte a second is no standstill by the limits here, so that it may be the deadline that ends it.
            (Fault::Trickle, false) => &[0, 69],
            (Fault::FlippedDown, true) => &[73],
            (Fault::Cut, _) | (_, true) => &[69],
            // One fault is not the user's business.
            (_, false) => &[0],
        };
        assert!(run.code.is_some_and(|code| codes.contains(&code)), "wanted {codes:?}: {}", told());
        assert!(run.took < BOUND, "it took too long: {}", told());
        assert!(run.took >= at_least(fault, lasting), "it did not wait: {}", told());
        let most = passed.struck.iter().map(|one| passed.struck.iter().filter(|other| *other == one).count()).max();
        assert!(most <= Some(ATTEMPTS), "one request was made {most:?} times: {}", told());
        if run.code == Some(0) && !matches!(fault, Fault::ResetAfter | Fault::FlippedUp) {
            let again = passed.requests.iter().filter(|request| **request == passed.struck[0]).count();
            assert!(again >= 2, "it was not asked again: {}", told());
        }
        if let Some(code) = run.code.filter(|code| *code != 0) {
            let refusal = refused(run, code);
            let said = format!("{} {}", refusal.what, refusal.why);
            assert!(
                refusal.what.contains("data/raw") || said.contains(&self.name),
                "the step is not named: {}",
                told()
            );
            let object = ["packs/", "layouts/", "snapshots/", &self.name].iter().any(|name| said.contains(name));
            assert!(object, "neither the object nor the store is named: {}", told());
        }
        match verb {
            "push" => {
                if run.code != Some(0) {
                    self.scene.run(&["data", "push"]).ok();
                }
                self.scene.verified();
                self.scene.tidy();
            }
            "pull" => {
                self.scene.not_torn(&[]);
                self.scene.nothing_false_is_cached();
                if run.code != Some(0) {
                    self.scene.run(&["data", "pull"]).ok();
                }
                self.scene.whole();
            }
            _ => {
                if run.code != Some(0) {
                    self.scene.verified();
                }
                self.scene.whole();
            }
        }
    }
}

/// A large object goes in parts, which data has none of (a pack is sent whole) and models do: a fault at each request of that.
fn parts_cut(tally: &Tally, servers: &Servers, fault: Fault, first: u64, step: u64) {
    let row = row(fault);
    let folder = servers.owner.folder().join(format!("parts-{fault:?}-{first}"));
    let server = Server::start(&servers.owner, &folder, true);
    let mut random = Random::new(tally.seed, 400 + 20 * first + fault as u64);
    let proxy = Proxy::before(server.port, random.clone());
    let store = format!("{}\n{QUICK}", section(&proxy.endpoint(), BUCKET));
    let project = Project::service_with(Settings { model: true, gate: false, store, ..Settings::default() });
    let register = || {
        let invocation = project.sealift(["model", "register"]);
        invocation.env("STORE_ACCESS", ACCESS).env("STORE_SECRET", SECRET).run()
    };
    register().ok();
    // A part that is never answered is waited for as long as four megabytes take on the slowest line, which is minutes: silence
    // is tried with small bodies.
    for nth in (first..=MOST).step_by(step as usize) {
        // Another model each time; it is registered under its content.
        project.write("models/price.json", random.bytes((16 << 20) + 11));
        project.commit("another model");
        proxy.arm(fault, Among::Multipart, nth, false);
        let run = register();
        let passed = proxy.disarm();
        if passed.struck.is_empty() {
            tally.hold(row, format!("an upload in parts without {fault:?}"), || {
                run.ok();
                assert!(nth > 4, "an upload in parts made {nth} requests");
                server_is_tidy(&folder);
            });
            return;
        }
        if tally.given_up(row) {
            return;
        }
        tally.attempt(row, format!("{fault:?} at request {nth} of an upload in parts"), || {
            let wanted = if fault == Fault::Cut { 69 } else { 0 };
            assert_eq!(run.code, Some(wanted), "struck {:?}: {}", passed.struck, run.told());
            assert!(run.took < BOUND, "{}", run.told());
            if wanted != 0 {
                refused(&run, wanted).says(&["s3://"]);
                register().ok();
            }
            let open = open_uploads(&folder);
            assert!(open.is_empty(), "uploads in parts are open: {open:?}");
        });
    }
    tally.lose(row, format!("an upload in parts made more than {MOST} requests"));
}
