//! Data that comes from DVC and goes to it, with the real dvc as judge (`SEALIFT_TEST_DVC`, and `SEALIFT_TEST_PYTHON` of the same
//! environment; MinIO for versions in the cloud).
//!
//! What an import took is what dvc itself checks out; what an export wrote, a fresh clone pulls with dvc and calls in sync.
//! Where DVC loses or believes something that it should not, Sealift is shown to do neither.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, and a test that cannot run says so"
)]

mod common;

use common::{
    data::{Entry, entries},
    network::{ACCESS, BUCKET, SECRET, Server, exchange},
    refused, succeed, testbed,
};
use e2e::{
    Invocation, Project, Run,
    campaign::Random,
    proxy::{Among, Fault, Proxy},
    until,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

/// Several command lines of dvc in one interpreter, which takes a second to start.
const DRIVER: &str = "
import json, sys
from dvc.cli import main
for line in json.loads(sys.argv[1]):
    print('>>>', *line, flush=True)
    code = main(line)
    if code:
        sys.exit(code)
";

/// A git repository that dvc was begun in, and the folders beside it.
struct Bench {
    project: Project,
    dvc: PathBuf,
    python: PathBuf,
}

impl Bench {
    fn new() -> Option<Self> {
        let dvc = PathBuf::from(testbed("SEALIFT_TEST_DVC")?);
        let python = PathBuf::from(testbed("SEALIFT_TEST_PYTHON")?);
        let project = Project::empty();
        project.write("Sealift.toml", "[project]\nname = \"fixture\"\n");
        project.write(".gitignore", "/.sealift/\n");
        let bench = Self { project, dvc, python };
        bench.dvc(&["init --quiet"]);
        Some(bench)
    }

    /// With a default remote that is a folder beside the repository.
    fn with_folder() -> Option<Self> {
        let bench = Self::new()?;
        let remote = bench.remote();
        bench.dvc(&[&format!("remote add --quiet --default store {}", remote.display())]);
        Some(bench)
    }

    fn remote(&self) -> PathBuf {
        self.project.folder().join("remote")
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.project.path(relative)
    }

    fn around(&self, mut command: Command, folder: &Path) -> Command {
        let site = self.project.folder().join("site");
        command.current_dir(folder).env("DVC_NO_ANALYTICS", "1").env("DVC_SITE_CACHE_DIR", &site);
        command.env("DVC_SYSTEM_CONFIG_DIR", &site);
        command
    }

    /// Runs dvc in the repository; it must succeed.
    #[track_caller]
    fn dvc(&self, lines: &[&str]) -> String {
        self.dvc_in(self.project.root(), lines)
    }

    /// The same in another folder, with the credentials of [`Server`].
    #[track_caller]
    fn dvc_in(&self, folder: &Path, lines: &[&str]) -> String {
        let mut command = self.around(self.project.command(&self.dvc), folder);
        command.env("AWS_ACCESS_KEY_ID", ACCESS).env("AWS_SECRET_ACCESS_KEY", SECRET);
        let split = |line: &&str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        if let [line] = lines {
            return succeed(command.args(split(line)));
        }
        let lines: Vec<Vec<String>> = lines.iter().map(split).collect();
        let mut python = self.around(self.project.command(&self.python), folder);
        python.env("AWS_ACCESS_KEY_ID", ACCESS).env("AWS_SECRET_ACCESS_KEY", SECRET);
        succeed(python.args(["-c", DRIVER]).arg(json!(lines).to_string()))
    }

    #[track_caller]
    fn script(&self, text: &str, arguments: &[&str]) -> String {
        let mut command = self.around(self.project.command(&self.python), self.project.root());
        succeed(command.args(["-c", text]).args(arguments))
    }

    /// Sealift in a folder, as this bench's DVC is configured.
    fn sealift(&self, folder: &Path, line: &[&str]) -> Invocation {
        let site = self.project.folder().join("site");
        self.project.sealift(line).dir(folder).env("DVC_SYSTEM_CONFIG_DIR", site)
    }

    #[track_caller]
    fn run(&self, line: &[&str]) -> Run {
        self.sealift(self.project.root(), line).run()
    }

    /// The result of a verb that succeeds, in the repository.
    #[track_caller]
    fn json(&self, line: &[&str]) -> Value {
        self.json_in(self.project.root(), line)
    }

    #[track_caller]
    fn json_in(&self, folder: &Path, line: &[&str]) -> Value {
        self.sealift(folder, &[line, &["--format", "json"]].concat()).run().ok().result()
    }

    /// A clone of what is committed: no data, no caches.
    fn clone_to(&self, name: &str) -> PathBuf {
        let to = self.project.folder().join(name);
        self.project.git(["clone", "--quiet", ".", to.to_str().unwrap()]);
        to
    }

    /// What dvc itself checks out in a fresh clone, and that it calls it in sync.
    #[track_caller]
    fn pulled(&self, name: &str, data: &str) -> BTreeMap<PathBuf, Entry> {
        let clone = self.clone_to(name);
        let said = self.dvc_in(&clone, &["pull --quiet", "status --cloud", "status"]);
        assert!(said.contains("in sync") && said.contains("up to date"), "{said}");
        entries(&clone.join(data))
    }

    /// Removes what this host has: the data, and both caches.
    fn forget(&self, data: &[&str]) {
        for data in data {
            let path = self.path(data);
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
        for cache in [".dvc/cache", ".sealift"] {
            let _ = fs::remove_dir_all(self.path(cache));
        }
    }
}

/// How many files [`write_data`] writes; two have the same content.
const FILES: u64 = 13;

/// Names and contents of every kind that DVC can hold.
fn write_data(project: &Project) {
    let mut random = Random::new(7, 1);
    for name in [
        "a-b/x",
        "a/x",
        "sub/deep/er",
        "naïve 😀.txt",
        "q\"uo\te.txt",
        "日本語/データ.csv",
        "#hash: - {x}",
        " a\\b\nc ",
    ] {
        project.write(&format!("data/{name}"), format!("this is {name}\n"));
    }
    project.write("data/sub/crlf.txt", "hello\r\nworld\r\n");
    project.write("data/zero", "");
    project.write("data/same-1", "twice");
    project.write("data/same-2", "twice");
    project.write("data/large.bin", random.bytes(3_000_000));
}

/// Sum over the sources of an import.
fn from(result: &Value, place: &str) -> u64 {
    result.as_array().unwrap().iter().map(|data| data["from"][place].as_u64().unwrap()).sum()
}

fn digests(result: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    result.as_array().unwrap().iter().map(|data| (text(&data["path"]), text(&data["digest"]))).collect()
}

/// An object of a remote that is a folder, by its MD5.
fn object(remote: &Path, md5: &str) -> PathBuf {
    remote.join("files/md5").join(&md5[..2]).join(&md5[2..])
}

fn md5_in(text: &str) -> String {
    text.lines().find_map(|line| line.split_once("md5: ")).unwrap().1.to_owned()
}

/// Overwrites a file that dvc made read-only.
fn damage(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
}

// In ------------------------------------------------------------------------------------------------------------------

/// `.dvc` files and the outs of a pipeline, out of the workspace, DVC's cache and two remotes; `.dvcignore`, `remote:` and
/// `cache: false` are honoured, and nothing of DVC's changes.
#[test]
fn what_dvc_tracks_is_imported_from_wherever_it_is() {
    let Some(bench) = Bench::with_folder() else { return };
    let project = &bench.project;
    write_data(project);
    project.write(".dvcignore", "*.tmp\n");
    project.write("data/skip.tmp", "not DVC's");
    project.write("model.bin", "a model");
    fs::set_permissions(project.path("model.bin"), fs::Permissions::from_mode(0o755)).unwrap();
    project.write("side/table.csv", "1,2\n");
    let other = project.folder().join("other");
    let make = "mkdir -p out && printf trained > out/weights && printf 1 > metrics.json";
    project.write(
        "dvc.yaml",
        format!(
            "stages:\n  train:\n    foreach: [one]\n    do:\n      cmd: {make}\n      deps: [data]\n      outs: [out]\n      \
             metrics:\n      - metrics.json:\n          cache: false\n"
        ),
    );
    bench.dvc(&[
        // In the person's own configuration, which is none of the repository's.
        &format!("remote add --quiet --global other {}", other.display()),
        "add --quiet data model.bin side/table.csv",
        "repro --quiet",
    ]);
    let side = project.read("side/table.csv.dvc");
    project.write("side/table.csv.dvc", format!("{side}  remote: other\n"));
    bench.dvc(&["push --quiet"]);
    assert!(object(&other, &md5_in(&side)).is_file(), "dvc honours remote:");
    project.commit("with DVC");

    // From where the data is.
    let run = bench.run(&["data", "import-dvc", "--format", "json"]).ok();
    assert!(run.stdout.contains("metrics.json") && run.stdout.contains("skip.tmp"), "{}", run.told());
    let first = run.result();
    let paths: Vec<String> = digests(&first).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["data", "model.bin", "out", "side/table.csv"]);
    let files = FILES + 3;
    assert_eq!((from(&first, "workspace"), from(&first, "cache"), from(&first, "remote")), (files, 0, 0), "{first}");
    assert_eq!(first[0]["tracked_by"], "data.dvc");
    assert_eq!(first[2]["tracked_by"], "dvc.lock");
    let dirty = project.git(["status", "--porcelain"]);
    let new = |line: &str| line.starts_with("?? ") && line.ends_with(".snapshot.toml");
    assert!(dirty.lines().all(new) && dirty.lines().count() == 4, "{dirty}");
    fs::remove_file(project.path("data/skip.tmp")).unwrap();
    let expected = [entries(&project.path("data")), entries(&project.path("out"))];

    // From DVC's cache, which is believed for nothing but its bytes.
    for data in ["data", "out"] {
        fs::remove_dir_all(project.path(data)).unwrap();
    }
    for data in ["model.bin", "side/table.csv"] {
        fs::remove_file(project.path(data)).unwrap();
    }
    let cached = object(&project.path(".dvc/cache"), &md5_in(&project.read("model.bin.dvc")));
    damage(&cached, b"a madel");
    let second = bench.json(&["data", "import-dvc"]);
    assert_eq!((from(&second, "cache"), from(&second, "remote")), (files - 1, 1), "{second}");
    assert_eq!(digests(&second), digests(&first));
    assert_eq!(fs::read(&cached).unwrap(), b"a madel", "DVC's cache is DVC's");
    bench.run(&["data", "checkout", "data", "out", "model.bin", "side/table.csv"]).ok();
    assert_eq!([entries(&project.path("data")), entries(&project.path("out"))], expected);
    assert_eq!(fs::metadata(project.path("model.bin")).unwrap().permissions().mode() & 0o111, 0o111);
    let said = bench.dvc(&["status"]);
    assert!(said.contains("up to date"), "dvc finds what was checked out: {said}");

    // From the remotes, in a clone that has nothing.
    let clone = bench.clone_to("clone");
    let third = bench.json_in(&clone, &["data", "import-dvc"]);
    assert_eq!((from(&third, "workspace"), from(&third, "remote")), (0, files), "{third}");
    assert_eq!(digests(&third), digests(&first));
    assert!(third[3]["remote"].as_str().unwrap().ends_with("/other"), "{third}");
    assert!(third.as_array().unwrap().iter().all(|data| data["in_place"] == false));

    // One target, in each of the ways to name it.
    for (folder, target, path) in [
        ("", "model.bin", "model.bin"),
        ("side", "table.csv.dvc", "side/table.csv"),
        ("", "dvc.yaml:train@one", "out"),
        ("", "dvc.lock", "out"),
        ("", "train@one", "out"),
    ] {
        // What the stage leaves to git is no target of ours.
        let named = bench.json_in(&clone.join(folder), &["data", "import-dvc", target]);
        let paths = digests(&named).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert!(paths.contains(&path.to_owned()) && named[0]["changed"] == false, "{target}: {named}");
    }
    let moved = bench.json_in(&clone, &["data", "import-dvc", "model.bin", "--to", "models/elsewhere.bin"]);
    assert_eq!(moved[0]["pointer_file"], "models/elsewhere.bin.snapshot.toml");
    refused(&bench.sealift(&clone, &["data", "import-dvc", "--to", "x"]).run(), 64).says(&["--to"]);
    refused(&bench.run(&["data", "import-dvc", "nix"]), 66).says(&["nix"]).then("dvc list");
    refused(&bench.run(&["data", "import-dvc", "--remote", "stoer"]), 66).says(&["other, store"]).then("dvc remote");
}

/// DVC 2.x: objects at `ab/cdef…`, MD5s of text without carriage returns. What real dvc checks out is what is imported.
#[test]
fn repositories_of_dvc_2_are_imported() {
    let Some(bench) = Bench::with_folder() else { return };
    let script = r#"
import hashlib, json, os, sys
root = sys.argv[1]
def put(bytes_, text, suffix=''):
    sum_ = hashlib.md5(bytes_.replace(b'\r\n', b'\n') if text else bytes_).hexdigest()
    path = os.path.join(root, sum_[:2], sum_[2:] + suffix)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, 'wb').write(bytes_)
    return sum_
files = {'crlf.txt': (b'hello\r\nworld\r\n', True), 'sub/binary': (b'\x00a\r\nb', False), 'plain': (b'x\n', True)}
listing = [{'md5': put(*files[name]), 'relpath': name} for name in sorted(files)]
assert listing[0]['md5'].startswith('0f723ae7'), listing
directory = put(json.dumps(listing, sort_keys=True).encode(), False, '.dir')
size = sum(len(files[name][0]) for name in files)
open('data.dvc', 'w').write(f'outs:\n- md5: {directory}.dir\n  size: {size}\n  nfiles: 3\n  path: data\n')
one = put(b'one\r\n', True)
open('one.csv.dvc', 'w').write(f'# made long ago\nouts:\n- md5: {one}\n  size: 5\n  path: one.csv\n')
"#;
    bench.script(script, &[bench.remote().to_str().unwrap()]);
    bench.project.write(".gitignore", "/.sealift/\n/data\n/one.csv\n");
    bench.project.commit("of long ago");
    let imported = bench.json(&["data", "import-dvc"]);
    assert_eq!(from(&imported, "remote"), 4, "{imported}");
    bench.run(&["data", "checkout", "data", "one.csv"]).ok();
    let expected = bench.clone_to("judge");
    bench.dvc_in(&expected, &["pull --quiet"]);
    assert_eq!(entries(&bench.path("data")), entries(&expected.join("data")));
    assert_eq!(fs::read(bench.path("one.csv")).unwrap(), b"one\r\n");
    assert_eq!(fs::read(bench.path("data/crlf.txt")).unwrap(), b"hello\r\nworld\r\n");

    // From the cache that real dvc made of it, and then on to 3.x, with the comment of the file that was there.
    bench.forget(&["data", "one.csv"]);
    fs::rename(expected.join(".dvc/cache"), bench.path(".dvc/cache")).unwrap();
    let cached = bench.json(&["data", "import-dvc"]);
    assert_eq!((from(&cached, "cache"), digests(&cached)), (4, digests(&imported)), "{cached}");
    bench.run(&["data", "checkout", "data", "one.csv"]).ok();
    bench.run(&["data", "export-dvc", "data", "one.csv"]).ok();
    assert!(bench.project.read("one.csv.dvc").starts_with("# made long ago\nouts:\n- md5: "));
    bench.project.commit("of today");
    assert_eq!(bench.pulled("today", "data"), entries(&bench.path("data")));
}

/// `version_aware`: objects under their own names, each commit with its own versions.
#[test]
fn versions_in_the_cloud_are_imported() {
    let Some(address) = testbed("SEALIFT_TEST_MINIO") else { return };
    let Some(bench) = Bench::new() else { return };
    let (keys, place) = address.strip_prefix("http://").unwrap().split_once('@').unwrap();
    let (access, secret) = keys.split_once(':').unwrap();
    let endpoint = format!("http://{}", place.split_once('/').unwrap().0);
    let bucket = format!("versions-{}", std::process::id());
    let script = "
import boto3, sys
endpoint, access, secret, bucket = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=access, aws_secret_access_key=secret, region_name='us-east-1')
s3.create_bucket(Bucket=bucket)
s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={'Status': 'Enabled'})
";
    bench.script(script, &[&endpoint, access, secret, &bucket]);
    bench.project.write("data/naïve.txt", "first");
    bench.project.write("data/sub/same", "same");
    bench.project.write("one.csv", "first");
    bench.dvc(&[
        &format!("remote add --quiet --default cloud s3://{bucket}/data"),
        &format!("remote modify cloud endpointurl {endpoint}"),
        "remote modify cloud version_aware true",
        &format!("remote modify --local cloud access_key_id {access}"),
        &format!("remote modify --local cloud secret_access_key {secret}"),
        "add --quiet data one.csv",
        "push --quiet",
    ]);
    assert!(bench.project.read("data.dvc").contains("version_id:"), "{}", bench.project.read("data.dvc"));
    bench.project.commit("first");
    bench.project.write("data/naïve.txt", "second");
    bench.project.write("one.csv", "second");
    bench.dvc(&["add --quiet data one.csv", "push --quiet"]);
    bench.project.commit("second");
    for (revision, text) in [("HEAD", "second"), ("HEAD~1", "first")] {
        bench.project.git(["checkout", "--quiet", revision]);
        bench.forget(&["data", "one.csv"]);
        let imported = bench.json(&["data", "import-dvc"]);
        assert_eq!(from(&imported, "remote"), 3, "{imported}");
        bench.run(&["data", "checkout", "data", "one.csv"]).ok();
        assert_eq!(bench.project.read("data/naïve.txt"), text);
        assert_eq!(bench.project.read("one.csv"), text);
        assert_eq!(bench.project.read("data/sub/same"), "same");
        fs::remove_file(bench.path("data.snapshot.toml")).unwrap();
        fs::remove_file(bench.path("one.csv.snapshot.toml")).unwrap();
    }
    // Such a remote holds files, not objects: nothing of ours is put where dvc would not look.
    bench.run(&["data", "add", "data"]).ok();
    refused(&bench.run(&["data", "export-dvc", "data"]), 65).says(&["version_aware"]).never_says(secret);
}

// Out -----------------------------------------------------------------------------------------------------------------

/// Two thousand files to an S3 server and back, with keys from the configuration and from the environment. The longest of these
/// tests is among the first.
#[test]
fn after_an_export_to_s3_dvc_pulls_two_thousand_files() {
    let Some(bench) = Bench::new() else { return };
    let project = &bench.project;
    let server = Server::start(project, &project.folder().join("served"), true);
    for index in 0..2_000 {
        project.write(&format!("data/{:02}/é {index}.csv", index % 50), format!("{index}\n"));
    }
    bench.run(&["data", "add", "data"]).ok();
    let url = format!("s3://{BUCKET}/dvc");
    let line = ["data", "export-dvc", "data", "--remote", &url, "--endpoint", &server.endpoint(), "--save-as", "cloud"];
    let export = |line: &[&str]| {
        let line = [line, &["--region", "us-east-1", "--format", "json"]].concat();
        let invocation = bench.sealift(project.root(), &line);
        invocation.env("AWS_ACCESS_KEY_ID", ACCESS).env("AWS_SECRET_ACCESS_KEY", SECRET).run().ok().result()
    };
    let exported = export(&line);
    assert_eq!((&exported[0]["files"], &exported[0]["sent"]), (&json!(2000), &json!(2001)), "{exported}");
    assert_eq!(export(&line)[0]["sent"], 0, "what is there is not sent again");
    let config = project.read(".dvc/config");
    assert!(config.contains("remote = cloud") && config.contains(&url) && !config.contains(SECRET), "{config}");
    project.commit("exported");

    // What dvc writes of the same data is what was written, byte for byte; and the remote has all of it.
    let said = bench.dvc(&["add --quiet data", "status --cloud"]);
    assert!(said.contains("in sync"), "{said}");
    assert_eq!(project.git(["status", "--porcelain"]), "", "dvc add changes nothing");
    assert_eq!(bench.pulled("fresh", "data"), entries(&project.path("data")));

    // And back: the same snapshot, with keys out of .dvc/config.local.
    let clone = bench.clone_to("back");
    fs::remove_file(clone.join("data.snapshot.toml")).unwrap();
    bench.dvc_in(
        &clone,
        &[
            &format!("remote modify --local cloud access_key_id {ACCESS}"),
            &format!("remote modify --local cloud secret_access_key {SECRET}"),
        ],
    );
    let back = bench.json_in(&clone, &["data", "import-dvc"]);
    assert_eq!(from(&back, "remote"), 2000);
    assert!(project.read("data.snapshot.toml").contains(back[0]["digest"].as_str().unwrap()), "{back}");
    fs::remove_file(clone.join(".dvc/config.local")).unwrap();
    fs::remove_dir_all(clone.join(".sealift")).unwrap();
    let none = bench.sealift(&clone, &["data", "import-dvc"]).env("AWS_EC2_METADATA_DISABLED", "true");
    let wrong = none.env("AWS_ACCESS_KEY_ID", ACCESS).env("AWS_SECRET_ACCESS_KEY", "wrong").run();
    refused(&wrong, 69).says(&["cannot import data from DVC", "refuses the credentials"]);
}

/// What DVC cannot hold is named; what is in the `.dvc` file stays; and what dvc pulls is the rest.
#[test]
fn what_dvc_cannot_hold_is_said_by_name() {
    let Some(bench) = Bench::with_folder() else { return };
    let project = &bench.project;
    write_data(project);
    project.write("data/run.sh", "#!/bin/sh\n");
    fs::set_permissions(project.path("data/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(project.path("data/nothing/here")).unwrap();
    symlink("a/x", project.path("data/link")).unwrap();
    symlink("/etc/hostname", project.path("data/away")).unwrap();
    project.write("tool", "#!/bin/sh\n");
    fs::set_permissions(project.path("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    let odd = project.path("data").join(OsStr::from_bytes(b"not utf-8 \xff"));
    fs::write(&odd, "odd").unwrap();
    // An older file of DVC, with what its people wrote into it.
    let older = "# the measurements\nouts:\n- path: data   # here\n  md5: 00000000000000000000000000000000.dir\n  desc: raw\n  \
                 meta:\n    owner: tess\nmeta:\n  x: 1\n";
    project.write("data.dvc", older);
    bench.run(&["data", "add", "data", "tool"]).ok();
    let run = bench.run(&["data", "export-dvc", "data", "tool", "--format", "json"]).ok();
    let result = run.result();
    assert_eq!(result[0]["left_out"], json!(["nothing/here", "away", "not utf-8 \u{fffd}"]), "{result}");
    for (name, words) in [
        ("nothing/here", "empty directories"),
        ("not utf-8", "such a name"),
        ("away", "links"),
        ("link", "copy"),
        ("run.sh", "executable bit"),
    ] {
        let said = run.stdout.lines().any(|line| line.contains(name) && line.contains(words));
        assert!(said, "{name}: {}", run.told());
    }
    let text = project.read("data.dvc");
    for kept in
        ["# the measurements\n", "path: data   # here\n", "  desc: raw\n  meta:\n    owner: tess\nmeta:\n  x: 1\n"]
    {
        assert!(text.contains(kept), "{kept:?} is gone: {text}");
    }
    project.commit("exported");
    let mut expected = entries(&project.path("data"));
    for gone in [&b"nothing"[..], b"nothing/here", b"away", b"not utf-8 \xff"] {
        assert!(expected.remove(Path::new(OsStr::from_bytes(gone))).is_some(), "{gone:?} {expected:?}");
    }
    let bytes = |path: &str| fs::read(project.path("data").join(path)).unwrap();
    expected.insert("link".into(), Entry::File(false, bytes("a/x")));
    expected.insert("run.sh".into(), Entry::File(false, bytes("run.sh")));
    assert_eq!(bench.pulled("fresh", "data"), expected);
    let tool = fs::metadata(project.folder().join("fresh/tool")).unwrap();
    assert_eq!(tool.permissions().mode() & 0o100, 0o100, "one file keeps its bit");

    // Where dvc would not look, nothing is sent.
    let two = project.folder().join("two");
    bench.dvc(&[&format!("remote add --quiet --system two {}", two.display())]);
    let tool = project.read("tool.dvc");
    project.write("tool.dvc", format!("{tool}  remote: two\n"));
    refused(&bench.run(&["data", "export-dvc", "tool", "--remote", "store"]), 65).says(&["remote: two"]);
    assert_eq!(bench.json(&["data", "export-dvc", "tool"])[0]["remote"], two.to_str().unwrap());
    project.write("tool.dvc", format!("{tool}  cache: false\n"));
    refused(&bench.run(&["data", "export-dvc", "tool"]), 65).says(&["tool.dvc", "cache: false"]);
    refused(&bench.run(&["data", "export-dvc", "tool", "--remote", "two", "--region", "eu"]), 64).says(&["--region"]);
    refused(&bench.run(&["data", "export-dvc", "tool", "--remote", "gs://x/y"]), 65).says(&["gs://"]);
    let text = bench.run(&["data", "export-dvc", "data", "--remote", "../elsewhere"]).ok();
    assert!(text.stdout.contains("a plain `dvc pull` asks another remote"), "{}", text.told());
}

// Where DVC fails -----------------------------------------------------------------------------------------------------

/// An object that was deleted from the remote: dvc remembers that the directory was complete and says "up to date". An
/// export asks, and sends it again.
#[test]
fn an_object_that_was_deleted_is_sent_again() {
    let Some(bench) = Bench::with_folder() else { return };
    let project = &bench.project;
    write_data(project);
    bench.run(&["data", "add", "data"]).ok();
    bench.dvc(&["add --quiet data", "push --quiet"]);
    project.commit("pushed");
    let listing = object(&bench.remote(), &md5_in(&project.read("data.dvc")));
    let files: Value = serde_json::from_slice(&fs::read(&listing).unwrap()).unwrap();
    let md5 = files[0]["md5"].as_str().unwrap();
    fs::remove_file(object(&bench.remote(), md5)).unwrap();
    let said = bench.dvc(&["push"]);
    println!("dvc push with an object missing says: {said}");
    let healed = bench.json(&["data", "export-dvc", "data"]);
    let lost = !said.contains("1 file pushed");
    assert_eq!(healed[0]["sent"], u64::from(lost), "{healed}");
    assert!(object(&bench.remote(), md5).is_file());
    assert_eq!(project.git(["status", "--porcelain", "data.dvc"]), "", "what dvc wrote stays");
    // The listing itself, and then all: nothing is remembered of a remote.
    fs::remove_file(&listing).unwrap();
    assert_eq!(bench.json(&["data", "export-dvc", "data"])[0]["sent"], 1);
    fs::remove_dir_all(bench.remote()).unwrap();
    assert_eq!(
        bench.json(&["data", "export-dvc", "data"])[0]["sent"],
        FILES - 1 + 1,
        "each content once, and the listing"
    );
    assert_eq!(bench.pulled("fresh", "data"), entries(&project.path("data")));
}

/// A remote object that was cut short or changed: dvc pulls it, exits with 0 and has wrong bytes. An import names it and
/// takes nothing; an export mends it.
#[test]
fn damaged_objects_of_a_remote_are_named_and_mended() {
    let Some(bench) = Bench::with_folder() else { return };
    let project = &bench.project;
    write_data(project);
    bench.dvc(&["add --quiet data", "push --quiet"]);
    project.commit("pushed");
    let listing = object(&bench.remote(), &md5_in(&project.read("data.dvc")));
    let files: Value = serde_json::from_slice(&fs::read(&listing).unwrap()).unwrap();
    let file = files.as_array().unwrap().iter().find(|file| file["relpath"] == "large.bin").unwrap();
    let victim = object(&bench.remote(), file["md5"].as_str().unwrap());
    let whole = fs::read(&victim).unwrap();
    let mut flipped = whole.clone();
    flipped[1_234_567] ^= 1;
    let clone = bench.clone_to("clone");
    let short = &whole[..whole.len() / 2];
    for bytes in [short, b"", &flipped] {
        damage(&victim, bytes);
        let run = bench.sealift(&clone, &["data", "import-dvc"]).run();
        refused(&run, 73).says(&["large.bin", file["md5"].as_str().unwrap()]).then("export-dvc PATH --verify");
        assert!(!clone.join("data.snapshot.toml").exists() && !clone.join("data").exists(), "{}", run.told());
    }
    damage(&listing, b"[]");
    fs::remove_dir_all(clone.join(".sealift")).unwrap();
    refused(&bench.sealift(&clone, &["data", "import-dvc"]).run(), 73).says(&["the listing of data"]);
    fs::remove_file(&victim).unwrap();
    damage(&listing, files.to_string().as_bytes());
    // The listing as dvc writes it; its spelling is part of its name.
    bench.run(&["data", "add", "data"]).ok();
    let mended = bench.json(&["data", "export-dvc", "data"]);
    assert_eq!((&mended[0]["sent"], &mended[0]["healed"]), (&json!(2), &json!(1)), "{mended}");
    // A size is seen at once; other bytes of the same size when they are read back.
    for (bytes, verify) in [(short, false), (&flipped[..], true)] {
        damage(&victim, bytes);
        let line =
            if verify { &["data", "export-dvc", "data", "--verify"][..] } else { &["data", "export-dvc", "data"] };
        let mended = bench.json(line);
        assert_eq!((&mended[0]["sent"], &mended[0]["healed"]), (&json!(1), &json!(1)), "{mended}");
        assert!(fs::read(&victim).unwrap() == whole, "it is whole again");
    }
    // What an import that failed had fetched is not fetched again.
    damage(&victim, short);
    refused(&bench.sealift(&clone, &["data", "import-dvc"]).run(), 73).says(&["large.bin"]);
    bench.run(&["data", "export-dvc", "data"]).ok();
    let imported = bench.json_in(&clone, &["data", "import-dvc"]);
    assert!(
        from(&imported, "remote") + from(&imported, "earlier") == FILES && from(&imported, "earlier") > 0,
        "{imported}"
    );
    assert_eq!(fs::read_dir(clone.join(".sealift/cache/data/dvc/incoming/md5")).unwrap().count(), 0, "nothing is left");
    // And one that is nowhere is missing, by name.
    fs::remove_file(&victim).unwrap();
    fs::remove_dir_all(clone.join(".sealift")).unwrap();
    refused(&bench.sealift(&clone, &["data", "import-dvc"]).run(), 66)
        .says(&["data/large.bin"])
        .then("export-dvc PATH");
    assert_eq!(bench.project.read("data.snapshot.toml"), fs::read_to_string(clone.join("data.snapshot.toml")).unwrap());
}

/// Ctrl-C while parts of a large file are on their way: no upload stays open, and the next run goes on.
#[test]
fn an_interrupted_export_leaves_no_upload_behind() {
    let Some(bench) = Bench::new() else { return };
    let project = &bench.project;
    let server = Server::start(project, &project.folder().join("served"), false);
    let proxy = Proxy::before(server.port, Random::new(3, 3));
    let mut random = Random::new(5, 5);
    project.write("data/large.bin", random.bytes(24 << 20));
    project.write("data/small", "small");
    bench.run(&["data", "add", "data"]).ok();
    let config = format!(
        "[core]\n    remote = open\n['remote \"open\"']\n    url = s3://{BUCKET}/dvc\n    endpointurl = {}\n    \
         region = us-east-1\n    allow_anonymous_login = true\n",
        proxy.endpoint()
    );
    project.write(".dvc/config", config);
    let uploads = || {
        let (status, _, body) = exchange(server.port, &format!("GET /{BUCKET}?uploads"), "", b"");
        assert_eq!(status, 200);
        String::from_utf8(body).unwrap().matches("<UploadId>").count()
    };
    // The first request of an upload makes it; a part of it is never answered.
    proxy.arm(Fault::Silent, Among::Multipart, 3, true);
    let mut running = bench.sealift(project.root(), &["data", "export-dvc", "data"]).spawn();
    until("a part is on its way", || (proxy.struck() > 0).then_some(()));
    assert_eq!(uploads(), 1);
    proxy.disarm();
    running.signal(Signal::INT);
    let _ = running.wait().fails(130);
    assert_eq!(uploads(), 0, "an upload is left");
    assert!(!project.path("data.dvc").exists(), "the file that dvc reads comes last");
    let exported = bench.json(&["data", "export-dvc", "data"]);
    assert_eq!(exported[0]["files"], 2);
    assert_eq!(uploads(), 0);
    project.commit("exported");
    assert_eq!(bench.pulled("fresh", "data"), entries(&project.path("data")));
}

/// `dvc gc -w -c` removes what the commit before needs. What was imported stays for every commit.
#[test]
fn a_gc_keeps_what_older_commits_imported() {
    let Some(bench) = Bench::with_folder() else { return };
    let project = &bench.project;
    let mut texts = Vec::new();
    for text in ["first", "second"] {
        project.write("data/file", text);
        bench.dvc(&["add --quiet data", "push --quiet"]);
        bench.run(&["data", "import-dvc"]).ok();
        bench.run(&["data", "push", "data"]).ok();
        project.commit(text);
        texts.push(text);
    }
    bench.dvc(&["gc --quiet --workspace --cloud --force"]);
    bench.run(&["data", "gc", "--grace", "0s", "--yes"]).ok();
    bench.run(&["data", "gc", "--cache", "--yes"]).ok();
    fs::remove_dir_all(project.path(".sealift/cache")).unwrap();
    project.git(["checkout", "--quiet", "HEAD~1"]);
    let lost = bench.sealift(project.root(), &["data", "import-dvc"]).run();
    fs::remove_dir_all(project.path("data")).unwrap();
    bench.run(&["data", "pull", "data"]).ok();
    assert_eq!(project.read("data/file"), texts[0]);
    // What dvc lost, an import cannot find either; it says so and leaves the pointer alone.
    refused(&lost, 66).says(&["data"]);
    assert_eq!(project.git(["status", "--porcelain"]), "");
}
