//! Rows 20 to 22: what is corrupt in cache and store, and what somebody wrote there on purpose.

use crate::{
    Lane,
    common::{
        data::{Entry, Scene, entries},
        objects, refused,
    },
};
use domain::Digest;
use e2e::campaign::{Random, Tally};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use store::{Body, Condition};

/// What reading anything hostile may take.
const BOUND: Duration = Duration::from_secs(60);

pub(crate) fn lanes() -> Vec<Lane<'static>> {
    vec![
        ("row 20 corrupt cache".to_owned(), Box::new(corrupt_cache) as Box<dyn FnOnce(&Tally) + Send>),
        ("row 20 corrupt store".to_owned(), Box::new(corrupt_store)),
        ("row 21 manifests".to_owned(), Box::new(manifests)),
        ("row 21 huge manifest".to_owned(), Box::new(huge_manifest)),
        ("row 21 pointers".to_owned(), Box::new(pointers)),
        ("row 22 bombs".to_owned(), Box::new(bombs)),
    ]
}

fn scene(tally: &Tally, stream: u64) -> Scene {
    let scene = Scene::small(&mut Random::new(tally.seed, stream), None);
    scene.run(&["data", "push"]).ok();
    scene
}

/// The ways in which an object of the cache is damaged.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Emptied,
    Flipped,
    Longer,
    Gone,
}

const DAMAGES: [Damage; 4] = [Damage::Emptied, Damage::Flipped, Damage::Longer, Damage::Gone];

fn damage(file: &Path, how: Damage, random: &mut Random) {
    let mut bytes = fs::read(file).unwrap();
    fs::remove_file(file).unwrap();
    match how {
        Damage::Gone => return,
        Damage::Emptied => bytes.clear(),
        Damage::Longer => bytes.extend_from_slice(&random.bytes(7)),
        Damage::Flipped => {
            let at = random.below(bytes.len() as u64 * 8);
            bytes[(at / 8) as usize] ^= 1 << (at % 8);
        }
    }
    fs::write(file, bytes).unwrap();
}

fn mend(file: &Path, whole: &[u8]) {
    let _ = fs::remove_file(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, whole).unwrap();
}

/// Row 20: whatever of the cache is damaged is found when it is read, and healed from the store, or from the data.
fn corrupt_cache(tally: &Tally) {
    let row = "row 20 corrupt objects";
    let scene = scene(tally, 1000);
    let mut random = Random::new(tally.seed, 1001);
    let cache = scene.project.path(".sealift/cache/data");
    let kept: Vec<(PathBuf, Vec<u8>)> = entries(&cache)
        .into_iter()
        .filter(|(path, _)| ["packs", "layouts", "snapshots"].iter().any(|kind| path.starts_with(kind)))
        .filter_map(|(path, entry)| match entry {
            Entry::File(_, bytes) => Some((cache.join(path), bytes)),
            _ => None,
        })
        .collect();
    assert!(kept.len() >= 3, "the cache has {} objects", kept.len());
    for (file, whole) in &kept {
        for how in DAMAGES {
            for into in ["pull", "checkout", "push"] {
                if tally.given_up(row) {
                    return;
                }
                mend(file, whole);
                damage(file, how, &mut random);
                let name = file.strip_prefix(&cache).unwrap().display().to_string();
                tally.attempt(row, format!("{name} {how:?}, {into}"), || match into {
                    "pull" => {
                        scene.remove_data();
                        scene.run(&["data", "pull"]).ok();
                        scene.whole();
                    }
                    "checkout" => {
                        scene.remove_data();
                        let run = scene.run(&["data", "checkout"]);
                        scene.not_torn(&[]);
                        if run.code != Some(0) {
                            let code = run.code.filter(|code| matches!(code, 66 | 70 | 73)).unwrap_or(73);
                            let _ = refused(&run, code);
                        }
                        scene.run(&["data", "pull"]).ok();
                        scene.whole();
                    }
                    _ => {
                        // The store has nothing, the cache is damaged: the data itself is still here.
                        scene.empty_store();
                        scene.run(&["data", "push"]).ok();
                        scene.verified();
                        scene.whole();
                    }
                });
            }
        }
        mend(file, whole);
    }
    let quarantine = entries(&cache.join("quarantine"));
    tally.attempt(row, "what was damaged is kept aside", || assert!(!quarantine.is_empty()));
}

/// Row 20: damage in the store is named, never written into the tree, and healed by a push of who has the data.
fn corrupt_store(tally: &Tally) {
    let row = "row 20 corrupt objects";
    let scene = scene(tally, 1100);
    let store = scene.project.store_folder();
    for key in scene.keys() {
        let body = objects::body(&objects::file(&store, &key));
        for share in [0.0, 0.4, 1.0] {
            if tally.given_up(row) {
                return;
            }
            tally.attempt(row, format!("{key} in the store with a bit flipped at {share}"), || {
                objects::replace(&scene.project, &key, objects::flipped(body.clone(), share));
                let aside = scene.project.folder().join("cache");
                fs::rename(scene.project.path(".sealift/cache"), &aside).unwrap();
                scene.remove_data();
                let run = scene.run(&["data", "pull"]);
                refused(&run, 73).says(&[&key]);
                scene.not_torn(&[]);
                let _ = fs::remove_dir_all(scene.project.path(".sealift/cache"));
                fs::rename(&aside, scene.project.path(".sealift/cache")).unwrap();
                scene.run(&["data", "checkout"]).ok();
                let run = scene.run(&["data", "verify"]);
                let said = format!("{}{}", run.stdout, run.stderr);
                assert!(said.contains(&key), "it is not named: {}", run.told());
                if run.code != Some(0) {
                    refused(&run, 73).then("sealift data push");
                    scene.run(&["data", "push"]).ok();
                }
                scene.verified();
                scene.whole();
                assert!(objects::body(&objects::file(&store, &key)) == body, "it was not healed");
            });
        }
    }
}

/// Puts an object into the store as anybody may who may write there.
fn put(scene: &Scene, key: &str, bytes: Vec<u8>) {
    let store = scene.store();
    scene.project.block_on(store.objects().put(key, Body::Bytes(bytes.into()), Condition::None)).unwrap();
}

fn key(family: &str, digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{family}/{}/{hex}", &hex[..2])
}

fn pointer_to(digest: &Digest) -> String {
    format!("v = 1\ndigest = \"{digest}\"\nbytes = 1\nfiles = 1\npath = \"raw\"\n")
}

/// A manifest of these lines, without what its writer would refuse.
fn manifest(lines: &[&str]) -> Vec<u8> {
    let mut text = String::from("sealift-snapshot 1 tree\n");
    let (mut files, mut bytes) = (0, 0u64);
    for line in lines {
        text.push_str(line);
        text.push('\n');
        if line.starts_with(['f', 'x']) {
            files += 1;
            bytes = bytes.wrapping_add(line.split(' ').nth(1).and_then(|size| size.parse().ok()).unwrap_or(0));
        }
    }
    text.push_str(&format!("end {} {files} {bytes}\n", lines.len()));
    text.into_bytes()
}

/// SHA-256 of nothing: an empty file needs no layout record.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Everything of the project but what Sealift keeps for itself, and what lies around the project.
fn surroundings(scene: &Scene) -> Vec<PathBuf> {
    let all = entries(scene.project.folder()).into_keys();
    let own = |path: &PathBuf| {
        path.starts_with("repository/.sealift") || path.starts_with("repository/.git") || path.starts_with("home")
    };
    all.filter(|path| !own(path)).collect()
}

/// Row 21: a manifest that breaks a rule is refused before anything is written, by pull, checkout and verify.
fn manifests(tally: &Tally) {
    let row = "row 21 hostile descriptions";
    let scene = scene(tally, 1200);
    // A layout that is whole, so that only the manifest is wrong: it says where nothing is.
    let good = objects::body(&objects::file(
        &scene.project.store_folder(),
        scene.keys().iter().find(|key| key.starts_with("layouts/")).unwrap(),
    ));
    scene.remove_data();
    let file = |path: &str| format!("f 0 {EMPTY} {path}");
    let deep = file(&vec!["d"; 10_000].join("/"));
    let long = file(&"x".repeat(4096));
    let (up, absolute, dot, inner) = (file("../evil"), file("/tmp/evil"), file("./a"), file("a/../../evil"));
    let (nul, raw, lower, plain) = (file("a%00b"), file("a b"), file("a%2fb"), file("a"));
    let (none, slash, twice, back) = (file(""), file("a/"), file("a//b"), file("%2E%2E/evil"));
    let (below, later) = (file("a/b"), file("b"));
    let huge = format!("f 18446744073709551615 {EMPTY} a");
    let more = format!("f 1 {EMPTY} b");
    let long_number = format!("f 00 {EMPTY} a");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a path that leads out", manifest(&[&up])),
        ("a path that leads out further on", manifest(&[&inner])),
        ("a path that leads out in disguise", manifest(&[&back])),
        ("an absolute path", manifest(&[&absolute])),
        ("a dot", manifest(&[&dot])),
        ("NUL", manifest(&[&nul])),
        ("a space", manifest(&[&raw])),
        ("a slash in disguise", manifest(&[&lower])),
        ("an empty path", manifest(&[&none])),
        ("a slash at the end", manifest(&[&slash])),
        ("an empty part", manifest(&[&twice])),
        ("one path twice", manifest(&[&plain, &plain])),
        ("the wrong order", manifest(&[&later, &plain])),
        ("an entry below a file", manifest(&[&plain, &below])),
        ("an entry below a link that leads out", manifest(&["l ../../.. a", &below])),
        ("an entry below an empty folder", manifest(&["d a", &below])),
        ("a link to nothing", manifest(&["l  a"])),
        ("a link with NUL", manifest(&["l a%00b a"])),
        ("a depth of 10,000", manifest(&[&deep])),
        ("a path that is too long", manifest(&[&long])),
        ("sizes whose sum is no number", manifest(&[&huge, &more])),
        ("a number in another form", manifest(&[&long_number])),
        ("an unknown kind", manifest(&["c 1 5 a"])),
        ("a device", manifest(&["b 8 0 a"])),
        ("a digest that is none", manifest(&["f 0 xyz a"])),
        ("totals that lie", b"sealift-snapshot 1 tree\nend 7 7 7\n".to_vec()),
        ("no end", b"sealift-snapshot 1 tree\n".to_vec()),
        ("more after the end", [manifest(&[&plain]), b"x".to_vec()].concat()),
        ("another version", b"sealift-snapshot 2 tree\nend 0 0 0\n".to_vec()),
        ("nothing", Vec::new()),
        ("no text", vec![0xff; 4096]),
        ("one endless line", vec![b'f'; 8 << 20]),
    ];
    let before = surroundings(&scene);
    for (what, text) in cases {
        let digest = Digest::of(&text);
        put(&scene, &key("snapshots", &digest), text);
        put(&scene, &key("layouts", &digest), good.clone());
        scene.point(&[pointer_to(&digest)]);
        for line in [&["data", "pull"][..], &["data", "pull", "--force"], &["data", "verify"], &["data", "checkout"]] {
            let run = scene.run(line);
            tally.attempt(row, format!("{what}, {line:?}"), || {
                let code = match line {
                    // It never got into the cache.
                    ["data", "checkout"] => 66,
                    _ => run.code.filter(|code| matches!(code, 65 | 73)).unwrap_or(73),
                };
                let next = if code == 66 { "sealift data pull" } else { "git log" };
                let _ = refused(&run, code).says(&[&digest.hex()[..12]]).then(next);
                assert!(run.took < BOUND, "{}", run.told());
                assert_eq!(surroundings(&scene), before, "something was written: {}", run.told());
            });
        }
    }
    tally.attempt(row, "names that differ in case only are two names here", || {
        let text = manifest(&[&file("A"), &file("a")]);
        let digest = Digest::of(&text);
        put(&scene, &key("snapshots", &digest), text);
        put(&scene, &key("layouts", &digest), layout(&digest, &[0, 0, 0, 0, 0]));
        scene.point(&[pointer_to(&digest)]);
        scene.run(&["data", "pull"]).ok();
        let found: Vec<PathBuf> = entries(&scene.project.path("data/raw")).into_keys().collect();
        assert_eq!(found, [PathBuf::from("A"), PathBuf::from("a")]);
    });
}

/// A layout whose frame holds `content`: a table of packs, then records, then a zero byte.
fn layout(snapshot: &Digest, content: &[u8]) -> Vec<u8> {
    let frame = zstd::encode_all(content, 1).unwrap();
    let rest = [snapshot.as_bytes().as_slice(), &frame].concat();
    let sum = Digest::of(&rest);
    [b"SLLAYOUT".as_slice(), &1u32.to_le_bytes(), sum.as_bytes(), &rest].concat()
}

/// Row 21: a manifest larger than any manifest may be is refused by its size, not read.
fn huge_manifest(tally: &Tally) {
    let row = "row 21 hostile descriptions";
    let scene = scene(tally, 1300);
    scene.remove_data();
    let sparse = scene.project.folder().join("sparse");
    let length = (512 << 20) + 1;
    fs::File::create(&sparse).unwrap().set_len(length).unwrap();
    let digest = Digest::of("any");
    let store = scene.store();
    let body = Body::File { path: sparse, offset: 0, length };
    scene.project.block_on(store.objects().put(&key("snapshots", &digest), body, Condition::None)).unwrap();
    scene.point(&[pointer_to(&digest)]);
    for verb in ["pull", "verify"] {
        let run = scene.run(&["data", verb]);
        tally.attempt(row, format!("a manifest of more than 512 MiB, {verb}"), || {
            let code = run.code.filter(|code| matches!(code, 65 | 73)).unwrap_or(65);
            refused(&run, code).says(&[&digest.hex(), &length.to_string()]);
            assert!(run.took < Duration::from_secs(20), "it was read: {}", run.told());
            assert!(!scene.project.path("data/raw").exists());
        });
    }
}

/// Row 21: pointers.
fn pointers(tally: &Tally) {
    let row = "row 21 hostile descriptions";
    let scene = scene(tally, 1400);
    let good = scene.pointers().remove(0);
    let digest = good.lines().find(|line| line.starts_with("digest")).unwrap().to_owned();
    let with = |path: &str| format!("v = 1\n{digest}\nbytes = 1\nfiles = 1\npath = {path}\n");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a path that leads out", with("\"../raw\"").into()),
        ("a path that leads far out", with("\"../../../etc\"").into()),
        ("an absolute path", with("\"/etc\"").into()),
        ("an empty path", with("\"\"").into()),
        ("a dot", with("\".\"").into()),
        ("NUL", with("\"raw\\u0000\"").into()),
        ("a path that is a number", with("7").into()),
        ("one key twice", format!("{}path = \"raw\"\n", with("\"raw\"")).into()),
        ("an unknown key", format!("{}more = 1\n", with("\"raw\"")).into()),
        ("another version", good.replace("v = 1", "v = 2").into()),
        ("a negative number", good.replace("files = ", "files = -").into()),
        ("a number beyond all", good.replace("bytes = ", "bytes = 9999999999999999999").into()),
        ("no digest", good.replace(&digest, "").into()),
        ("a digest that is too short", good.replace(&digest, "digest = \"sha256:abcd\"").into()),
        ("a digest that leads out", good.replace(&digest, "digest = \"sha256:../../../../etc/passwd\"").into()),
        ("another algorithm", good.replace("sha256:", "md5:").into()),
        ("no text", vec![0xff, 0xfe, 0x00]),
        ("a depth of 10,000", format!("v = {}", "[".repeat(10_000)).into()),
        ("tables 10,000 deep", format!("[{}]\nv = 1\n", vec!["a"; 10_000].join(".")).into()),
        ("16 MiB of comment", format!("#{}", "x".repeat(16 << 20)).into()),
    ];
    let before = surroundings(&scene);
    for (what, text) in cases {
        scene.project.write("data/raw.snapshot.toml", &text);
        for verb in ["status", "pull", "checkout", "push", "verify"] {
            let run = scene.run(&["data", verb]);
            tally.attempt(row, format!("a pointer with {what}, {verb}"), || {
                refused(&run, 65).says(&["raw.snapshot.toml"]);
                assert!(run.took < BOUND, "{}", run.told());
                assert_eq!(surroundings(&scene), before, "something was written: {}", run.told());
            });
        }
    }
    scene.point(&[good]);
    tally.attempt(row, "the pointer as it was", || {
        scene.run(&["data", "pull"]).ok();
        scene.whole();
    });
}

/// Row 22: what is compressed here grows without end. Archives are no part of data: `data` unpacks none.
fn bombs(tally: &Tally) {
    let row = "row 22 bombs";
    let scene = scene(tally, 1500);
    scene.remove_data();
    let text = manifest(&[&format!("f 4 {} a", Digest::of("abcd").hex())]);
    let digest = Digest::of(&text);
    put(&scene, &key("snapshots", &digest), text);
    scene.point(&[pointer_to(&digest)]);
    let zeros = vec![0; 1 << 30];
    let table = |count: u32| [count.to_le_bytes().as_slice(), &[7; 40]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a layout of a gigabyte of zeros", zeros),
        ("a table of four billion packs", table(u32::MAX)),
        ("a table of a million packs that ends after one", table(1 << 20)),
        ("a file in 2^60 chunks", [table(1), vec![0x80; 8], vec![0x10]].concat()),
        ("a number without an end", [table(1), vec![0xff; 4096]].concat()),
        ("a record for no file", [table(1), vec![1, 0, 0, 4], vec![1; 1 << 20]].concat()),
    ];
    for (what, content) in cases {
        put(&scene, &key("layouts", &digest), layout(&digest, &content));
        for verb in ["pull", "verify"] {
            let run = limited(&scene, verb);
            tally.attempt(row, format!("{what}, {verb}"), || {
                refused(&run, 73).says(&[&digest.hex()]).then("sealift data push");
                assert!(run.took < BOUND, "{}", run.told());
                assert!(!scene.project.path("data/raw").exists(), "something was written: {}", run.told());
            });
        }
    }
    // A chunk that says it has four bytes and has a gigabyte.
    let bomb = zstd::encode_all(&vec![0; 256 << 20][..], 1).unwrap();
    let pack = pack(&Digest::of("abcd"), 4, &bomb);
    let name = Digest::of(&pack);
    let size = pack.len() as u64;
    put(&scene, &key("packs", &name), pack);
    let stored = u32::try_from(bomb.len()).unwrap();
    let mut content = [1u32.to_le_bytes().as_slice(), name.as_bytes(), &size.to_le_bytes(), &[1, 0, 0]].concat();
    let mut left = stored;
    while left >= 0x80 {
        content.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    content.extend([left as u8, 0]);
    put(&scene, &key("layouts", &digest), layout(&digest, &content));
    for verb in ["pull", "verify"] {
        let run = limited(&scene, verb);
        tally.attempt(row, format!("a chunk that inflates, {verb}"), || {
            let _ = refused(&run, 73);
            assert!(run.took < BOUND, "{}", run.told());
            let written = entries(&scene.project.path("data/raw"));
            assert!(
                written.values().all(|entry| !matches!(entry, Entry::File(..))),
                "something was written: {written:?}"
            );
        });
    }
}

/// A run that may have half a gigabyte of memory.
fn limited(scene: &Scene, verb: &str) -> e2e::Run {
    let mut command = scene.project.command("sh");
    let program = e2e::sealift_program();
    // Data, not addresses: threads reserve more than they use.
    command.args(["-c", &format!("ulimit -d 524288 && exec {} data {verb}", program.display())]);
    e2e::Running::start(command, format!("sealift data {verb} with half a gigabyte")).wait()
}

/// A pack of one payload, as `snapshot` describes it.
fn pack(chunk: &Digest, length: u32, payload: &[u8]) -> Vec<u8> {
    let stored = u32::try_from(payload.len()).unwrap();
    let index =
        [chunk.as_bytes().as_slice(), &0u64.to_le_bytes(), &length.to_le_bytes(), &stored.to_le_bytes()].concat();
    let footer = [
        Digest::of(&index).as_bytes().as_slice(),
        &u64::from(stored).to_le_bytes(),
        &1u32.to_le_bytes(),
        &1u32.to_le_bytes(),
        b"SLPACK\r\n",
    ]
    .concat();
    [payload, &index, &footer].concat()
}
