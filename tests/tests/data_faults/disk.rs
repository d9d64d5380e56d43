//! Rows 2 to 4: what the disk of this machine does, and local files that were cut short.

use crate::{
    Lane,
    common::{
        self, Tmpfs,
        data::{QUICK, Scene, served, server_is_tidy},
        network::Server,
        refused, succeed,
    },
};
use e2e::{
    Project, Run, Running,
    campaign::{Random, Tally},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// More fsyncs of one thread, or steps of a disk's size, than any command here needs.
const MOST: u64 = 80;

pub(crate) fn has_strace() -> bool {
    let found = !common::outcome(Command::new("sh").args(["-c", "command -v strace"])).1.is_empty();
    if !found {
        common::must_run("there is no strace");
    }
    found
}

pub(crate) fn lanes() -> Vec<Lane<'static>> {
    let mut lanes: Vec<Lane<'static>> = Vec::new();
    if has_strace() {
        for verb in ["add", "push", "pull", "checkout"] {
            lanes.push((format!("row 02 fsync of {verb}"), Box::new(move |tally| fsync(tally, verb))));
        }
        lanes.push(("row 02 fsync of the server".to_owned(), Box::new(fsync_of_server)));
    }
    if common::root("a file system that is full") {
        for verb in ["add", "push", "pull", "checkout"] {
            lanes.push((format!("row 03 full disk of {verb}"), Box::new(move |tally| full(tally, verb))));
        }
    }
    lanes.push(("row 04 torn pointer".to_owned(), Box::new(torn_pointer)));
    for kind in ["stat", "packs", "layouts", "snapshots"] {
        lanes.push((format!("row 04 torn {kind}"), Box::new(move |tally| torn(tally, kind))));
    }
    lanes
}

/// Data that was added, and for what comes after it pushed.
fn scene(tally: &Tally, stream: u64, verb: &str) -> Scene {
    let scene = Scene::small(&mut Random::new(tally.seed, stream), None);
    if verb != "add" {
        scene.run(&["data", "push"]).ok();
    }
    scene
}

/// As it is before the verb that is tried.
fn prepare(scene: &Scene, verb: &str) {
    match verb {
        "add" => {
            let _ = fs::remove_dir_all(scene.project.path(".sealift/cache"));
            let _ = fs::remove_file(scene.project.path("data/raw.snapshot.toml"));
        }
        "push" => scene.empty_store(),
        "pull" => scene.forget(),
        _ => scene.remove_data(),
    }
}

/// The next run finishes, and everything verifies.
#[track_caller]
fn finished(scene: &Scene, verb: &str) {
    scene.run(&["data", verb]).ok();
    scene.whole();
    match verb {
        "add" => drop(scene.run(&["data", "verify", "--local"]).ok()),
        "push" => scene.verified(),
        _ => drop(scene.run(&["data", "status"]).ok().says("clean")),
    }
    server_is_tidy(&scene.project.store_folder());
}

/// Row 2: the n-th fsync of a thread fails, for every n until none does.
fn fsync(tally: &Tally, verb: &'static str) {
    let row = "row 02 fsync";
    let scene = scene(tally, 600, verb);
    let log = scene.project.folder().join("injected");
    for nth in 1..=MOST {
        prepare(&scene, verb);
        let mut command = scene.project.command("strace");
        command.args(tracer(&log, &nth.to_string()));
        command.arg(e2e::sealift_program()).args(["data", verb]);
        let run = Running::start(command, format!("data {verb} with fsync {nth} failing")).wait();
        let log = fs::read_to_string(&log).unwrap();
        if !log.contains("(INJECTED)") {
            tally.hold(row, format!("{verb} without a failing fsync"), || {
                run.ok();
                assert!(nth > 1, "data {verb} makes no fsync");
            });
            return;
        }
        if tally.given_up(row) {
            return;
        }
        tally.attempt(row, format!("fsync {nth} of {verb}"), || {
            let refusal = refused(&run, run.code.filter(|code| matches!(code, 69 | 70)).unwrap_or(70));
            let said = format!("{} {}", refusal.what, refusal.why);
            assert!(said.contains("os error 5") || said.contains("fsync"), "{}", run.told());
            nothing_named_after(&log);
            scene.not_torn(&[]);
            finished(&scene, verb);
        });
    }
    tally.lose(row, format!("data {verb} made more than {MOST} fsyncs a thread"));
}

/// How strace lets fsyncs fail: `when` is a number, or a number and a plus.
fn tracer(log: &Path, when: &str) -> Vec<String> {
    let calls = "trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat";
    let inject = format!("inject=fsync,fdatasync:error=EIO:when={when}");
    let line = ["-f", "-qq", "-y", "-s", "4096", "-e", calls, "-e", &inject, "-o"];
    line.iter().map(|word| (*word).to_owned()).chain([log.display().to_string()]).collect()
}

/// In what strace wrote: no file whose fsync failed was given a name afterwards, as if it were safe on the disk.
#[track_caller]
pub(crate) fn nothing_named_after(log: &str) {
    let mut waiting = std::collections::BTreeMap::new();
    let mut failed: Vec<String> = Vec::new();
    let mut seen = false;
    for line in log.lines() {
        let (process, rest) = line.trim_start().split_once(' ').unwrap_or_default();
        let rest = rest.trim_start();
        if rest.starts_with("fsync(") || rest.starts_with("fdatasync(") {
            let path = rest.split_once('<').and_then(|(_, rest)| rest.split('>').next()).unwrap_or_default();
            waiting.insert(process.to_owned(), path.to_owned());
        }
        if line.contains("(INJECTED)") {
            seen = true;
            let path = waiting.get(process).unwrap_or_else(|| panic!("whose fsync failed? {line}"));
            failed.extend(Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()));
        } else if rest.starts_with("rename") || rest.starts_with("link") {
            let from = rest.split('"').nth(1).unwrap_or_default();
            let from = Path::new(from).file_name().unwrap_or_default().to_string_lossy().into_owned();
            assert!(!failed.contains(&from), "{from} was never safe on the disk, and got a name: {line}");
        }
    }
    assert!(seen, "no fsync failed");
}

/// Row 2 on the server's side: what it cannot make durable it does not say it has.
fn fsync_of_server(tally: &Tally) {
    const THREADS: u64 = 12;
    let row = "row 02 fsync";
    let owner = Project::bare();
    let (folder, log) = (owner.folder().join("served"), owner.folder().join("injected"));
    let port = owner.port("staging");
    let place = served(port, "fsync");
    let mut healthy = Some(Server::listen(&owner, &folder, true, port));
    let endpoint = format!("http://127.0.0.1:{port}");
    let scene = Scene::small(&mut Random::new(tally.seed, 650), Some((place, &endpoint, QUICK)));
    scene.run(&["data", "push"]).ok();
    for (nth, lasting) in (1..=THREADS).flat_map(|nth| [(nth, false), (nth, true)]) {
        scene.empty_store();
        drop(healthy.take());
        let _ = fs::remove_file(&log);
        let when = format!("{nth}{}", if lasting { "+" } else { "" });
        // With -D the tracer is a child of what it traces, so that the server is what is ended.
        let traced = tracer(&log, &when);
        let runner: Vec<&str> = ["strace", "-D"].into_iter().chain(traced.iter().map(String::as_str)).collect();
        let ill = Server::under(&runner, &owner, &folder, true, port);
        let run = scene.run(&["data", "push"]);
        drop(ill);
        healthy = Some(Server::listen(&owner, &folder, true, port));
        let log = fs::read_to_string(&log).unwrap();
        if !log.contains("(INJECTED)") {
            tally.hold(row, "a server without a failing fsync", || {
                run.ok();
                assert!(nth > 1, "the server makes no fsync");
            });
            return;
        }
        if tally.given_up(row) {
            return;
        }
        tally.attempt(row, format!("fsync {when} of each thread of the server"), || {
            nothing_named_after(&log);
            if run.code != Some(0) {
                refused(&run, 69).says(&["s3://"]);
            } else {
                // What was answered with success is there.
                scene.verified();
            }
            scene.run(&["data", "push"]).ok();
            scene.verified();
            scene.tidy();
            server_is_tidy(&folder);
        });
    }
}

/// Row 3: a disk with room for a little more each time, until it suffices; then the same with inodes.
fn full(tally: &Tally, verb: &'static str) {
    for what in ["bytes", "inodes"] {
        let scene = scene(tally, 700, verb);
        // What this verb writes to.
        let place = scene.project.path(match verb {
            "add" => ".sealift",
            "push" => ".sealift/store",
            "pull" => ".sealift/cache",
            _ => "data",
        });
        for step in 1..=MOST {
            if fits(tally, &scene, verb, &place, what, step) || tally.given_up("row 03 full disk") {
                break;
            }
            assert!(step < MOST, "data {verb} never fits");
        }
    }
}

/// One size of the disk; whether it suffices.
fn fits(tally: &Tally, scene: &Scene, verb: &str, place: &Path, what: &str, step: u64) -> bool {
    let row = "row 03 full disk";
    let options = match what {
        "bytes" => format!("size={}k,mode=755", step * 16),
        _ => format!("size=64m,nr_inodes={},mode=755", step * 3),
    };
    // The pointer lies beside the data, and so on the same disk.
    let pointers = (verb == "checkout").then(|| scene.pointers());
    if verb != "push" {
        prepare(scene, verb);
    } else {
        let _ = fs::remove_dir_all(place);
    }
    if verb == "checkout" {
        let _ = fs::remove_dir_all(place);
    }
    let disk = Tmpfs::mount(place, &options);
    if let Some(texts) = &pointers
        && fs::write(place.join("raw.snapshot.toml"), &texts[0]).is_err()
    {
        return false; // no room for what git would have written
    }
    let run = scene.run(&["data", verb]);
    let fits = run.code == Some(0);
    if fits {
        tally.hold(row, format!("{verb} with {options}, which is enough"), || {
            assert!(step > 1, "the disk was never full");
            scene.whole();
            if verb == "push" {
                scene.verified();
            }
        });
    } else {
        tally.attempt(row, format!("{verb} with {options}"), || {
            refused(&run, 70).says(&["full"]).then("free space");
            if verb == "add" {
                assert!(!scene.project.path("data/raw.snapshot.toml").exists(), "a pointer to what is not kept");
            }
            scene.not_torn(&[]);
            // With room, the same command does what was not done.
            succeed(Command::new("mount").args(["-o", "remount,size=64m,nr_inodes=10000"]).arg(&disk.path));
            finished(scene, verb);
        });
    }
    drop(disk);
    if verb == "push" {
        // The store was on the disk that is gone.
        let _ = fs::remove_dir_all(place);
    }
    if let Some(texts) = &pointers {
        scene.point(texts);
    }
    fits
}

/// Row 4: the pointer cut short at every byte.
fn torn_pointer(tally: &Tally) {
    let row = "row 04 torn";
    let scene = scene(tally, 800, "push");
    let text = scene.pointers().remove(0);
    for length in 0..text.len() {
        if tally.given_up(row) {
            return;
        }
        scene.point(&[text[..length].to_owned()]);
        let verb = ["status", "push", "checkout", "pull"][length % 4];
        let run = scene.run(&["data", verb]);
        tally.attempt(row, format!("the pointer cut to {length} of {} bytes, data {verb}", text.len()), || {
            if run.code == Some(0) {
                // Only what ends lines may be missing from a pointer that says the same.
                assert!(text[length..].trim().is_empty(), "{}", run.told());
            } else {
                refused(&run, 65).says(&["raw.snapshot.toml"]);
            }
            scene.whole();
        });
    }
    scene.point(&[text]);
    tally.attempt(row, "the pointer whole again", || finished(&scene, "pull"));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let found = common::data::entries(folder);
    let file = |(path, entry)| matches!(entry, common::data::Entry::File(..)).then(|| folder.join::<PathBuf>(path));
    found.into_iter().filter_map(file).collect()
}

/// Row 4: one kind of file of the cache, cut short at every byte of its tail and at some places before.
fn torn(tally: &Tally, kind: &'static str) {
    const TAIL: usize = 40;
    let row = "row 04 torn";
    let scene = scene(tally, 900, "push");
    let mut random = Random::new(tally.seed, 901);
    let folder = scene.project.path(".sealift/cache/data").join(kind);
    let found = files(&folder);
    assert!(!found.is_empty(), "the cache has no {kind}");
    for file in found {
        let whole = fs::read(&file).unwrap();
        let tail = whole.len().saturating_sub(TAIL)..whole.len();
        let before = (0..8).map(|_| random.below(whole.len() as u64) as usize);
        for (index, length) in tail.chain(before).chain([0]).enumerate() {
            if tally.given_up(row) {
                return;
            }
            replace(&file, &whole[..length]);
            tally.attempt(row, format!("{kind} cut to {length} of {} bytes, case {index}", whole.len()), || {
                read_torn(&scene, kind, index);
                healed(kind, &file, &whole);
            });
        }
        // And one bit in the middle, which no length tells.
        for index in 0..8 {
            let mut bytes = whole.clone();
            let at = random.below(bytes.len() as u64 * 8);
            bytes[(at / 8) as usize] ^= 1 << (at % 8);
            replace(&file, &bytes);
            tally.attempt(row, format!("{kind} with bit {at} flipped, case {index}"), || {
                read_torn(&scene, kind, index);
                // A checkout and a pull read what they need, which a pack's own index is not; a verification reads all.
                if kind == "packs" && fs::read(&file).unwrap() != whole {
                    refused(&scene.run(&["data", "verify", "--local"]), 73).then("sealift data pull");
                    scene.run(&["data", "pull"]).ok();
                }
                healed(kind, &file, &whole);
            });
        }
    }
    tally.hold(row, format!("{kind} in the end"), || drop(scene.run(&["data", "verify", "--local"]).ok()));
}

/// What was torn is what it was. The index remembers times, which are other ones.
fn healed(kind: &str, file: &Path, whole: &[u8]) {
    assert!(kind == "stat" || fs::read(file).unwrap() == whole, "{} was not healed", file.display());
}

/// A file of the cache may be read-only.
fn replace(file: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
}

/// What is torn is never believed: no command says or writes anything wrong, and a pull heals.
fn read_torn(scene: &Scene, kind: &str, index: usize) {
    if kind == "stat" {
        // What it remembered is found out again; also when the data changed behind it.
        let changed = scene.project.path("data/raw/run.sh");
        let before = fs::read(&changed).unwrap();
        if index % 2 == 1 {
            let mut other = before.clone();
            other[0] ^= 1;
            fs::write(&changed, other).unwrap();
            scene.run(&["data", "status"]).ok().says("modified");
            fs::write(&changed, &before).unwrap();
        }
        scene.run(&["data", "status"]).ok().says("clean");
        return scene.whole();
    }
    scene.remove_data();
    match index % 3 {
        0 => {
            let run = scene.run(&["data", "checkout"]);
            told_or_whole(scene, &run);
        }
        1 => {
            let run = scene.run(&["data", "verify", "--local"]);
            assert_ne!(run.code, Some(0), "what is torn verifies: {}", run.told());
            let _ = refused(&run, run.code.filter(|code| matches!(code, 66 | 73)).unwrap_or(73));
        }
        _ => {}
    }
    scene.run(&["data", "pull"]).ok();
    scene.whole();
}

/// A checkout from a damaged cache either says so, and that a pull mends it, or is right.
fn told_or_whole(scene: &Scene, run: &Run) {
    scene.not_torn(&[]);
    match run.code {
        Some(0) => scene.whole(),
        code => {
            refused(run, code.filter(|code| matches!(code, 66 | 73)).unwrap_or(73)).then("sealift data pull");
        }
    }
}
