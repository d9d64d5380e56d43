//! SIGKILL at a hundred random moments each: of a push, a pull, a checkout, and the embedded server under pushes.
//!
//! The moments are spread over what a run takes that nobody kills, and follow from a seed that is printed. After every kill
//! nothing here is torn; the next run of the same command finishes; everything verifies, on this side and the other; no
//! temporary and no upload in parts is left. SIGINT and SIGTERM are asked to be more polite: a documented exit code, and
//! nothing left behind by themselves.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a helper of a test fails as the test does")]

mod common;

use common::{
    data::{Place, QUICK, Scene, open_uploads, served, server_is_tidy},
    network::{Server, section},
};
use e2e::{
    Project, Run, Running, Settings,
    campaign::{Random, Tally},
    proxy::{Among, Fault, Proxy},
    until,
};
use rustix::process::Signal;
use std::{path::PathBuf, thread, time::Duration};

/// Kills of each kind.
const KILLS: usize = 100;
/// Runs after which a lane gives up on killing in time.
const MOST: usize = 4 * KILLS;

/// What a run takes that nobody kills, learned from those that ended before they were killed.
struct Pace(Duration);

impl Pace {
    fn moment(&self, random: &mut Random) -> Duration {
        Duration::from_micros(random.below(self.0.as_micros() as u64))
    }

    fn learn(&mut self, took: Duration) {
        self.0 = (self.0 * 3 + took) / 4;
    }
}

/// Starts a command line and kills it at a random moment; the moment, when the kill came in time.
fn killed(scene: &Scene, line: &[&str], pace: &mut Pace, random: &mut Random) -> Option<Duration> {
    let moment = pace.moment(random);
    let mut running = scene.sealift(line).spawn();
    if running.ends_within(moment) {
        pace.learn(running.wait().ok().took);
        return None;
    }
    running.signal(Signal::KILL);
    let run = running.wait();
    if run.signal != Some(Signal::KILL.as_raw()) {
        pace.learn(run.ok().took);
        return None;
    }
    Some(moment)
}

/// Kills one of two scenes at a time until it was done often enough; `prepare` before, `after` with what must hold.
fn rounds(
    tally: &Tally,
    row: &str,
    scenes: &mut [Scene],
    random: &mut Random,
    line: &[&str],
    prepare: impl Fn(&mut Scene, usize),
    after: impl Fn(&Scene),
) {
    let mut paces: Vec<Pace> = Vec::new();
    for scene in scenes.iter_mut() {
        prepare(scene, 0);
        paces.push(Pace(scene.run(line).ok().took));
    }
    for round in 1..=MOST {
        if tally.count(row).tried == KILLS || tally.given_up(row) {
            return;
        }
        let (turn, which) = (round / scenes.len(), round % scenes.len());
        let scene = &mut scenes[which];
        prepare(scene, turn);
        let Some(moment) = killed(scene, line, &mut paces[which], random) else { continue };
        let what = format!("round {round}, killed after {moment:?}, store {which}");
        tally.attempt(row, what, || after(scene));
    }
}

/// A scene with a store in its folder, and one whose store is served by another process.
fn both(random: &mut Random, port: u16, prefix: &str) -> [Scene; 2] {
    let endpoint = format!("http://127.0.0.1:{port}");
    [Scene::new(random, None), Scene::new(random, Some((served(port, prefix), &endpoint, "")))]
}

/// What was answered to be pushed is there, before anything is pushed once more.
fn answered(scene: &Scene, run: &Run) {
    if run.code == Some(0) {
        scene.verified();
    }
}

/// Everything is in the store and whole, and nothing is left over.
fn pushed(scene: &Scene) {
    scene.run(&["data", "push"]).ok();
    scene.verified();
    scene.tidy();
    if scene.place.is_none() {
        server_is_tidy(&scene.project.store_folder());
    }
}

fn push(tally: &Tally, port: u16) {
    let mut random = Random::new(tally.seed, 1);
    let mut scenes = both(&mut random, port, "push");
    for scene in &scenes {
        scene.run(&["data", "push"]).ok(); // the store is probed once
    }
    let line = ["data", "push"];
    rounds(tally, "push", &mut scenes, &mut random, &line, |scene, _| scene.empty_store(), pushed);
}

fn pull(tally: &Tally, port: u16) {
    let mut random = Random::new(tally.seed, 2);
    let mut scenes = both(&mut random, port, "pull");
    for scene in &scenes {
        scene.run(&["data", "push"]).ok();
    }
    let line = ["data", "pull"];
    rounds(tally, "pull", &mut scenes, &mut random, &line, |scene, _| scene.forget(), pulled);
}

/// Nothing false is here, and the next pull brings everything.
fn pulled(scene: &Scene) {
    scene.not_torn(&[]);
    scene.nothing_false_is_cached();
    scene.run(&["data", "pull"]).ok();
    scene.whole();
    scene.run(&["data", "verify", "--local"]).ok();
}

/// From one version of the data to another, and into an empty place.
fn checkout(tally: &Tally) {
    let mut random = Random::new(tally.seed, 3);
    let mut scene = Scene::new(&mut random, None);
    let mut versions = vec![(scene.pointers(), scene.expected.clone())];
    scene.write(&mut random);
    scene.run(&["data", "add"]).ok();
    versions.push((scene.pointers(), scene.expected.clone()));
    let line = ["data", "checkout"];
    rounds(
        tally,
        "checkout",
        std::slice::from_mut(&mut scene),
        &mut random,
        &line,
        |scene, round| {
            let (texts, expected) = &versions[round % 2];
            scene.point(texts);
            scene.expected = expected.clone();
            if round % 3 == 0 {
                scene.remove_data();
            }
        },
        |scene| {
            scene.not_torn(&[&versions[0].1, &versions[1].1]);
            scene.run(&["data", "checkout"]).ok();
            scene.whole();
        },
    );
}

/// The server dies while two people push, and is there again at once.
fn server(tally: &Tally) {
    let mut random = Random::new(tally.seed, 4);
    let owner = Project::bare();
    let (folder, port) = (owner.folder().join("served"), owner.port("staging"));
    let mut server = Some(Server::listen(&owner, &folder, true, port));
    let endpoint = format!("http://127.0.0.1:{port}");
    let scenes = ["one", "two"].map(|prefix| {
        let scene = Scene::new(&mut random, Some((served(port, prefix), &endpoint, "")));
        scene.run(&["data", "push"]).ok();
        scene
    });
    scenes[0].empty_store();
    let mut pace = Pace(scenes[0].run(&["data", "push"]).ok().took);
    for round in 1..=MOST {
        if tally.count("server").tried == KILLS || tally.given_up("server") {
            break;
        }
        scenes.iter().for_each(Scene::empty_store);
        let moment = pace.moment(&mut random);
        let mut running = scenes.each_ref().map(|scene| scene.sealift(&["data", "push"]).spawn());
        let over = running[0].ends_within(moment) && running[1].ends_within(Duration::ZERO);
        drop(server.take());
        server = Some(Server::listen(&owner, &folder, true, port));
        let runs: Vec<Run> = running.into_iter().map(Running::wait).collect();
        if over {
            pace.learn(runs[0].took);
            continue;
        }
        tally.attempt("server", format!("round {round}, killed after {moment:?}"), || {
            for run in &runs {
                assert!(matches!(run.code, Some(0 | 69)), "{}", run.told());
                if run.code != Some(0) {
                    let _ = common::refused(run, 69);
                }
            }
            for (scene, run) in scenes.iter().zip(&runs) {
                answered(scene, run);
                pushed(scene);
            }
            server_is_tidy(&folder);
        });
    }
}

#[test]
fn sigkill_at_random_moments() {
    let tally = Tally::begin("sigkill");
    let owner = Project::bare();
    let folder = owner.folder().join("served");
    let shared = Server::start(&owner, &folder, true);
    let port = shared.port;
    thread::scope(|scope| {
        let lanes = [
            ("push", scope.spawn(|| push(&tally, port))),
            ("pull", scope.spawn(|| pull(&tally, port))),
            ("checkout", scope.spawn(|| checkout(&tally))),
            ("server", scope.spawn(|| server(&tally))),
        ];
        for (name, lane) in lanes {
            if let Err(panic) = lane.join() {
                tally.lose(name, format!("not begun or not gone on with: {:?}", panic.downcast_ref::<String>()));
            }
        }
    });
    tally.attempt("the server that was shared", "what the killed left in it", || server_is_tidy(&folder));
    let rows = ["push", "pull", "checkout", "server"];
    let short: Vec<&str> = rows.into_iter().filter(|row| tally.count(row).tried < KILLS).collect();
    tally.end(&rows, |tally, _, lost| {
        let each: Vec<String> = rows.iter().map(|row| format!("{row} {}", tally.count(row).survived)).collect();
        format!("{} survived, {lost} lost", each.join(", "))
    });
    assert!(short.is_empty(), "killed less than {KILLS} times: {short:?}");
}

// Signals that ask ---------------------------------------------------------------------------------------------------

/// A scene whose requests go through a proxy.
fn proxied(owner: &Project, server: &Server, prefix: &str) -> (Scene, Proxy) {
    let mut random = Random::new(1, 7);
    let proxy = Proxy::before(server.port, random.clone());
    let place: Place = served(server.port, prefix);
    let scene = Scene::new(&mut random, Some((place, &proxy.endpoint(), QUICK)));
    assert!(owner.folder() != scene.project.folder());
    (scene, proxy)
}

/// Interrupts a verb at each of its requests: it ends with 130, soon, and the next one finishes.
fn interrupted(verb: &str, before: impl Fn(&Scene), after: impl Fn(&Scene)) {
    let owner = Project::bare();
    let folder = owner.folder().join("served");
    let server = Server::start(&owner, &folder, true);
    let (scene, proxy) = proxied(&owner, &server, verb);
    scene.run(&["data", "push"]).ok();
    let mut interrupted = 0;
    for nth in 1.. {
        before(&scene);
        proxy.arm(Fault::Silent, Among::All, nth, false);
        let mut running = scene.sealift(&["data", verb]).spawn();
        until("the request is held, or the command is over", || {
            (proxy.struck() > 0 || running.ends_within(Duration::from_millis(5))).then_some(())
        });
        let struck = proxy.struck() > 0;
        if struck {
            running.signal(Signal::INT);
        }
        let run = running.wait();
        proxy.disarm();
        if !struck {
            run.ok();
            break;
        }
        let run = run.fails(130);
        assert!(run.took < Duration::from_secs(10), "{}", run.told());
        common::refused(&run, 130).then("the same command again");
        interrupted += 1;
        server_is_tidy(&folder);
        after(&scene);
        server_is_tidy(&folder);
    }
    assert!(interrupted >= 3, "a {verb} made only {interrupted} requests");
    e2e::tell(&format!("SIGINT: {verb} interrupted at each of {interrupted} requests, and finished"));
}

#[test]
fn sigint_at_each_request_of_a_push_leaves_what_the_next_push_finishes() {
    interrupted("push", Scene::empty_store, pushed);
}

#[test]
fn sigint_at_each_request_of_a_pull_leaves_what_the_next_pull_finishes() {
    interrupted("pull", Scene::forget, pulled);
}

/// At random moments, with the store in the repository: nothing waits for an answer there.
#[test]
fn sigint_at_random_moments() {
    let seed = e2e::campaign::seed();
    e2e::tell(&format!("SIGINT: random moments of seed {seed} (again: SEALIFT_TEST_SEED={seed})"));
    let mut random = Random::new(seed, 9);
    let scene = Scene::new(&mut random, None);
    let mut took = Pace(scene.run(&["data", "push"]).ok().took);
    let mut stopped = 0;
    for round in 0..20 {
        let verb = ["push", "pull"][round % 2];
        if verb == "push" {
            scene.empty_store()
        } else {
            scene.forget()
        }
        let moment = took.moment(&mut random);
        let mut running = scene.sealift(&["data", verb]).spawn();
        if running.ends_within(moment) {
            took.learn(running.wait().ok().took);
        } else {
            running.signal(Signal::INT);
            let run = running.wait();
            // Before its handler is there, the signal ends the process as it does any; nothing was begun then.
            let early = run.signal == Some(Signal::INT.as_raw());
            assert!(early || matches!(run.code, Some(0 | 130)), "{}", run.told());
            stopped += 1;
        }
        if verb == "push" { pushed(&scene) } else { pulled(&scene) }
    }
    assert!(stopped >= 5, "only {stopped} of 20 were interrupted");
}

/// An upload in parts that is interrupted is aborted before the program ends; one that is killed, by the next that sends it.
#[test]
fn no_upload_in_parts_stays_open() {
    let owner = Project::bare();
    let folder = owner.folder().join("served");
    let server = Server::start(&owner, &folder, true);
    let mut project = Project::service_with(Settings { model: true, gate: false, ..Settings::default() });
    let proxy = Proxy::before(server.port, Random::new(1, 8));
    project.settings.store = section(&proxy.endpoint(), common::network::BUCKET);
    project.configure();
    let register = || {
        let line = ["model", "register"];
        project.sealift(line).env("STORE_ACCESS", common::network::ACCESS).env("STORE_SECRET", common::network::SECRET)
    };
    let mut random = Random::new(1, 9);
    for signal in [Signal::INT, Signal::KILL] {
        project.write("models/price.json", random.bytes(17 << 20));
        project.commit("A large model");
        // Begin, three parts, completion: held at each.
        for nth in 1..=5 {
            proxy.arm(Fault::Silent, Among::Multipart, nth, false);
            let mut running = register().spawn();
            until("the request is held", || {
                assert!(!running.ends_within(Duration::from_millis(5)), "request {nth} was never made");
                (proxy.struck() > 0).then_some(())
            });
            running.signal(signal);
            let run = running.wait();
            proxy.disarm();
            if signal == Signal::INT {
                let run = run.fails(130);
                assert!(run.took < Duration::from_secs(30), "{}", run.told());
                let open = open_uploads(&folder);
                assert!(open.is_empty(), "interrupted at request {nth}, uploads are open: {open:?}");
            } else {
                run.killed();
            }
        }
        assert!(signal == Signal::INT || !open_uploads(&folder).is_empty(), "a kill left nothing to clear");
        register().run().ok();
        server_is_tidy(&folder);
    }
}

/// SIGTERM to a server under pushes: it ends with 0 and what it answered is there; pushes go on when it is back.
#[test]
fn sigterm_to_the_server_under_pushes() {
    let owner = Project::bare();
    let (folder, port) = (owner.folder().join("served"), owner.port("staging"));
    let start = || {
        let running = owner
            .sealift(
                ["store", "serve", "--bucket", common::network::BUCKET, "--dir"]
                    .map(PathBuf::from)
                    .into_iter()
                    .chain([folder.clone(), "--listen".into(), format!("127.0.0.1:{port}").into()]),
            )
            .env("AWS_ACCESS_KEY_ID", common::network::ACCESS)
            .env("AWS_SECRET_ACCESS_KEY", common::network::SECRET)
            .spawn();
        running.wait_for_line("that it listens", |line| line.contains("listening"));
        running
    };
    let mut server = start();
    let mut random = Random::new(2, 2);
    let scene = Scene::new(&mut random, Some((served(port, "term"), &format!("http://127.0.0.1:{port}"), QUICK)));
    let mut pace = Pace(scene.run(&["data", "push"]).ok().took);
    for _ in 0..10 {
        scene.empty_store();
        let mut running = scene.sealift(&["data", "push"]).spawn();
        running.ends_within(pace.moment(&mut random));
        server.signal(Signal::TERM);
        let ended = server.wait().ok();
        assert!(ended.took < Duration::from_secs(60) && ended.stdout.contains("stopped"), "{}", ended.told());
        server = start();
        let run = running.wait();
        assert!(matches!(run.code, Some(0 | 69)), "{}", run.told());
        pace.learn(run.took.min(pace.0 * 2));
        answered(&scene, &run);
        pushed(&scene);
        server_is_tidy(&folder);
    }
    server.signal(Signal::TERM);
    server.wait().ok();
}
