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
    let parts = |tally: &Tally| parts_cut(tally, servers);
    lanes.push(("row 12 parts".to_owned(), Box::new(parts)));
    let probe = |tally: &Tally| first_contact(tally, servers.ours.port);
    lanes.push(("row 10 first contact".to_owned(), Box::new(probe)));
    lanes.extend(faults().filter(|fault| !waits(*fault)).map(|fault| lane(servers, fault, VERBS)));
    if let Some(place) = &servers.minio {
        let lane = move |tally: &Tally| {
            let mut random = Random::new(tally.seed, 200);
            let scene = Link::new(&mut random, place.clone());
            for fault in faults() {
                scene.campaign(tally, fault, &VERBS, false);
            }
        };
        lanes.push(("row 06 to 12 MinIO".to_owned(), Box::new(lane)));
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
        scene.run(&["data", "verify"]).ok();
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
                tally.attempt(row(fault), format!("{verb} without {fault:?}"), || run.ok());
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
            (Fault::FlippedDown, true) => &[73],
            (Fault::Cut, _) | (_, true) => &[69],
            // One fault is not the user's business.
            (_, false) => &[0],
        };
        assert!(run.code.is_some_and(|code| codes.contains(&code)), "wanted {codes:?}: {}", told());
        assert!(run.took < BOUND, "it took too long: {}", told());
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
                self.scene.run(&["data", "verify"]).ok();
                self.scene.tidy();
            }
            "pull" => {
                self.scene.not_torn(&[]);
                if run.code != Some(0) {
                    self.scene.run(&["data", "pull"]).ok();
                }
                self.scene.whole();
            }
            _ => {
                if run.code != Some(0) {
                    self.scene.run(&["data", "verify"]).ok();
                }
                self.scene.whole();
            }
        }
    }
}

/// The first write to a store asks whether it keeps its word: what breaks then is told as such, and asked again.
fn first_contact(tally: &Tally, port: u16) {
    let mut random = Random::new(tally.seed, 300);
    let link = Link::new(&mut random, served(port, "first"));
    let (fault, row) = (Fault::ResetAfter, row(Fault::ResetAfter));
    for nth in 1..=MOST {
        std::fs::remove_dir_all(link.scene.project.path(".sealift/probed")).unwrap();
        link.prepare("push");
        link.proxy.arm(fault, Among::All, nth, false);
        let run = link.scene.run(&["data", "push"]);
        let passed = link.proxy.disarm();
        let what = format!("{fault:?} at request {nth} of the first push to a store");
        if passed.struck.is_empty() {
            tally.attempt(row, what, || run.ok());
            return;
        }
        if tally.given_up(row) {
            return;
        }
        tally.attempt(row, what, || link.judge(fault, "push", false, &run, &passed));
    }
    tally.lose(row, format!("a first push made more than {MOST} requests"));
}

/// A large object goes in parts: the network goes away at each request of that.
fn parts_cut(tally: &Tally, servers: &Servers) {
    let row = "row 12 cut";
    let folder = servers.owner.folder().join("parts");
    let server = Server::start(&servers.owner, &folder, true);
    let mut random = Random::new(tally.seed, 400);
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
    for fault in [Fault::Cut, Fault::Internal, Fault::ResetBefore, Fault::ResetAfter] {
        for nth in 1..=MOST {
            // Another model each time; it is registered under its content.
            project.write("models/price.json", random.bytes((17 << 20) + 11));
            project.commit("another model");
            proxy.arm(fault, Among::Multipart, nth, false);
            let run = register();
            let passed = proxy.disarm();
            if passed.struck.is_empty() {
                tally.attempt(row, format!("an upload in parts without {fault:?}"), || run.ok());
                break;
            }
            if tally.given_up(row) {
                return;
            }
            tally.attempt(row, format!("{fault:?} at request {nth} of an upload in parts"), || {
                let wanted = if fault == Fault::Cut { 69 } else { 0 };
                assert_eq!(run.code, Some(wanted), "struck {:?}: {}", passed.struck, run.told());
                assert!(run.took < BOUND, "{}", run.told());
                if wanted != 0 {
                    let refusal = refused(&run, wanted);
                    refusal.says(&["s3://"]);
                    register().ok();
                }
                let open = open_uploads(&folder);
                assert!(open.is_empty(), "uploads in parts are open: {open:?}");
            });
        }
    }
    tally.attempt(row, "what uploads in parts left in the server", || server_is_tidy(&folder));
}
