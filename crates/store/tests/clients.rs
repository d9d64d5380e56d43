//! The clients that people have, as judges of the embedded server over TCP.
//!
//! `SEALIFT_TEST_AWS`, `_S5CMD`, `_RCLONE`, `_RESTIC`, `_DVC` and `_PYTHON` (one that has boto3) say where the programs are, as
//! `cargo xtask testbed` does. Without one it judges nothing, which is a failure when `CI=true`. What S3 answers in detail is
//! asked in `clients/s3.py`.

// Helpers of tests are tests, which the lint sees only in functions marked so.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use domain::secret::Secret;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};
use tokio::sync::oneshot;

const KEY: &str = "a-key-of-tests";
const SECRET: &str = "a-secret/of+tests";
const BUCKET: &str = "judged";
/// Larger than what any of the clients sends in one piece.
const LARGE: usize = 20 * 1024 * 1024;

/// A server, and a place for its client.
struct Judged {
    program: PathBuf,
    endpoint: String,
    temporary: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: Option<thread::JoinHandle<store::Result<()>>>,
}

impl Judged {
    /// Serves for the client that `variable` names.
    fn by(variable: &str) -> Option<Self> {
        let program = std::env::var_os(variable).filter(|text| !text.is_empty());
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(program.is_some() || !ci, "{variable} is not set; cargo xtask testbed says how to have it");
        let Some(program) = program else {
            println!("not run: {variable} is not set");
            return None;
        };
        let temporary = tempfile::tempdir().unwrap();
        fs::create_dir(temporary.path().join("home")).unwrap();
        let directory = temporary.path().join("store");
        let (ready, listening) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let listen = "127.0.0.1:0".parse().unwrap();
            let credentials = Some((KEY.to_owned(), Secret::new(SECRET)));
            let ready = move |address| ready.send(address).unwrap();
            let stop = async {
                let _ = stopped.await;
            };
            runtime.block_on(store::serve(&directory, listen, &[BUCKET.to_owned()], credentials, ready, stop))
        });
        let endpoint = format!("http://{}", listening.recv().unwrap());
        Some(Self { program: program.into(), endpoint, temporary, stop: Some(stop), running: Some(running) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join("home").join(name)
    }

    /// Runs the client; its standard output, or a failure with all it said.
    fn run(&self, variables: &[(&str, &str)], arguments: &[&str]) -> String {
        let (good, said) = self.outcome(variables, arguments);
        assert!(good, "{arguments:?}: {said}");
        said
    }

    fn outcome(&self, variables: &[(&str, &str)], arguments: &[&str]) -> (bool, String) {
        let home = self.temporary.path().join("home");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let output = Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .envs([("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_REGION", "us-east-1")])
            .envs([("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_EC2_METADATA_DISABLED", "true"), ("LC_ALL", "C.UTF-8")])
            .envs(variables.iter().copied())
            .env("PATH", path)
            .env("HOME", &home)
            .current_dir(&home)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return (true, text);
        }
        (false, format!("{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }

    /// A directory `data` with a large file, a small one, an empty one, and a name that must be escaped.
    fn data(&self) -> Vec<(String, Vec<u8>)> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let large = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let large: Vec<u8> = large.take(LARGE / 8).flatten().collect();
        let files = [
            ("large.bin", large),
            ("some/small.txt", b"hello".to_vec()),
            ("some/empty", Vec::new()),
            ("some/odd ü+%20 name", b"odd".to_vec()),
        ];
        let files: Vec<(String, Vec<u8>)> = files.map(|(name, body)| (name.to_owned(), body)).into();
        for (name, body) in &files {
            let path = self.path("data").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, body).unwrap();
        }
        files
    }

    /// What `directory` has of the files, which must be all of them.
    fn has(&self, directory: &Path, files: &[(String, Vec<u8>)]) {
        for (name, body) in files {
            let path = directory.join(name);
            let got = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(got == *body, "{} is not what was uploaded", path.display());
        }
    }

    fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.running.take().unwrap().join().unwrap().unwrap();
        let uploads = self.temporary.path().join("store/uploads");
        let left: Vec<_> = fs::read_dir(uploads).unwrap().flatten().map(|entry| entry.path()).collect();
        let left: Vec<_> = left.iter().filter(|path| path.join("meta.json").exists()).collect();
        assert!(left.is_empty() || self.program.ends_with("python"), "no upload is left behind: {left:?}");
    }
}

fn aws_cli() {
    let Some(judged) = Judged::by("SEALIFT_TEST_AWS") else { return };
    let files = judged.data();
    let endpoint = judged.endpoint.clone();
    let aws = |arguments: &[&str]| judged.run(&[], &[&["--endpoint-url", &endpoint], arguments].concat());
    let outcome = |arguments: &[&str]| judged.outcome(&[], &[&["--endpoint-url", &endpoint], arguments].concat());
    aws(&["s3", "cp", "--only-show-errors", "--recursive", "data", "s3://judged/aws/"]);
    let listed = aws(&["s3", "ls", "--recursive", "s3://judged/aws/"]);
    assert!(files.iter().all(|(name, _)| listed.contains(name.as_str())), "{listed}");
    assert!(aws(&["s3", "ls", "s3://judged/aws/"]).contains("PRE some/"));
    assert_eq!(aws(&["s3", "sync", "data", "s3://judged/aws/"]), "", "nothing is to be done");
    aws(&["s3", "cp", "--only-show-errors", "s3://judged/aws/large.bin", "s3://judged/copied/large.bin"]);
    aws(&["s3", "sync", "--only-show-errors", "s3://judged/copied", "copied"]);
    judged.has(&judged.path("copied"), &files[..1]);
    aws(&["s3", "cp", "--only-show-errors", "--recursive", "s3://judged/aws", "back"]);
    judged.has(&judged.path("back"), &files);
    let range = ["s3api", "get-object", "--bucket", BUCKET, "--key", "aws/large.bin", "--range", "bytes=9-18", "part"];
    aws(&range);
    assert_eq!(fs::read(judged.path("part")).unwrap(), files[0].1[9..19]);
    let exclusive = ["s3api", "put-object", "--bucket", BUCKET, "--key", "aws/large.bin", "--content-md5", "AAAA"];
    assert!(!outcome(&exclusive).0, "a wrong MD5 is refused");
    aws(&["s3", "rm", "--only-show-errors", "--recursive", "s3://judged/"]);
    let (good, listed) = outcome(&["s3", "ls", "--recursive", "s3://judged/"]);
    assert!(listed.trim().is_empty() || (!good && !listed.contains("aws/")), "{listed}");
    judged.stop();
}

fn s5cmd() {
    let Some(judged) = Judged::by("SEALIFT_TEST_S5CMD") else { return };
    let files = judged.data();
    let endpoint = judged.endpoint.clone();
    let s5cmd = |arguments: &[&str]| judged.run(&[], &[&["--endpoint-url", &endpoint], arguments].concat());
    s5cmd(&["cp", "--part-size", "5", "--concurrency", "4", "data/", "s3://judged/s5/"]);
    let listed = s5cmd(&["ls", "s3://judged/s5/*"]);
    assert!(files.iter().all(|(name, _)| listed.contains(name.as_str())), "{listed}");
    s5cmd(&["cp", "s3://judged/s5/*", "s3://judged/copied/"]);
    s5cmd(&["cp", "--part-size", "5", "--concurrency", "4", "s3://judged/copied/*", "back/"]);
    judged.has(&judged.path("back"), &files);
    s5cmd(&["sync", "data/", "s3://judged/synced/"]);
    fs::remove_file(judged.path("data/some/small.txt")).unwrap();
    s5cmd(&["sync", "--delete", "data/", "s3://judged/synced/"]);
    assert!(!s5cmd(&["ls", "s3://judged/synced/*"]).contains("small.txt"));
    assert_eq!(s5cmd(&["cat", "s3://judged/s5/some/small.txt"]), "hello");
    s5cmd(&["rm", "s3://judged/*"]);
    let (_, listed) = judged.outcome(&[], &["--endpoint-url", &endpoint, "ls", "s3://judged/*"]);
    assert!(!listed.contains("large.bin"), "{listed}");
    judged.stop();
}

fn rclone() {
    let Some(judged) = Judged::by("SEALIFT_TEST_RCLONE") else { return };
    let files = judged.data();
    let endpoint = judged.endpoint.clone();
    let config = judged.path("none.conf");
    let variables = [
        ("RCLONE_CONFIG", config.to_str().unwrap()),
        ("RCLONE_CONFIG_J_TYPE", "s3"),
        ("RCLONE_CONFIG_J_PROVIDER", "Other"),
        ("RCLONE_CONFIG_J_ENV_AUTH", "true"),
        ("RCLONE_CONFIG_J_ENDPOINT", &endpoint),
        ("RCLONE_S3_UPLOAD_CUTOFF", "6M"),
        ("RCLONE_S3_CHUNK_SIZE", "5M"),
    ];
    let rclone = |arguments: &[&str]| judged.run(&variables, arguments);
    rclone(&["sync", "data", "j:judged/rc"]);
    rclone(&["check", "--download", "data", "j:judged/rc"]);
    rclone(&["check", "data", "j:judged/rc"]);
    rclone(&["copy", "j:judged/rc", "j:judged/copied"]);
    rclone(&["copy", "j:judged/copied", "back"]);
    judged.has(&judged.path("back"), &files);
    let range = rclone(&["cat", "--offset", "1", "--count", "3", "j:judged/rc/some/small.txt"]);
    assert_eq!(range, "ell");
    let listed = rclone(&["lsf", "--recursive", "--files-only", "j:judged/rc"]);
    assert_eq!(listed.lines().count(), files.len(), "{listed}");
    rclone(&["moveto", "j:judged/rc/some/small.txt", "j:judged/rc/moved"]);
    assert_eq!(rclone(&["cat", "j:judged/rc/moved"]), "hello");
    rclone(&["delete", "j:judged"]);
    assert_eq!(rclone(&["lsf", "--recursive", "--files-only", "j:judged"]), "");
    judged.stop();
}

fn restic() {
    let Some(judged) = Judged::by("SEALIFT_TEST_RESTIC") else { return };
    let files = judged.data();
    let repository = format!("s3:{}/{BUCKET}/restic", judged.endpoint);
    let variables = [("RESTIC_PASSWORD", "of tests"), ("RESTIC_REPOSITORY", repository.as_str())];
    let restic = |arguments: &[&str]| judged.run(&variables, &[&["--no-cache"], arguments].concat());
    restic(&["init"]);
    restic(&["backup", "data"]);
    fs::write(judged.path("data/some/new"), "new").unwrap();
    restic(&["backup", "data"]);
    restic(&["check", "--read-data"]);
    restic(&["restore", "latest", "--target", "back"]);
    judged.has(&judged.path("back/data"), &files);
    assert_eq!(fs::read(judged.path("back/data/some/new")).unwrap(), b"new");
    restic(&["forget", "--keep-last", "1", "--prune"]);
    restic(&["check", "--read-data"]);
    judged.stop();
}

fn dvc() {
    let Some(judged) = Judged::by("SEALIFT_TEST_DVC") else { return };
    let files = judged.data();
    let endpoint = judged.endpoint.clone();
    let home = judged.path(".site");
    let variables = [
        ("DVC_NO_ANALYTICS", "1"),
        ("DVC_SITE_CACHE_DIR", home.to_str().unwrap()),
        ("DVC_GLOBAL_CONFIG_DIR", home.to_str().unwrap()),
        ("DVC_SYSTEM_CONFIG_DIR", home.to_str().unwrap()),
    ];
    let dvc = |arguments: &[&str]| judged.run(&variables, arguments);
    dvc(&["init", "--quiet", "--no-scm"]);
    dvc(&["remote", "add", "--default", "judged", "s3://judged/dvc"]);
    dvc(&["remote", "modify", "judged", "endpointurl", &endpoint]);
    dvc(&["add", "--quiet", "data"]);
    let before = dvc(&["status", "-c"]);
    assert!(before.contains("new:"), "{before}");
    dvc(&["push", "--quiet"]);
    assert!(dvc(&["status", "-c"]).contains("in sync"));
    // What comes back can only come from the server.
    fs::remove_dir_all(judged.path("data")).unwrap();
    fs::remove_dir_all(judged.path(".dvc/cache")).unwrap();
    dvc(&["pull", "--quiet"]);
    judged.has(&judged.path("data"), &files);
    let after = dvc(&["status", "-c"]);
    assert!(after.contains("in sync"), "{after}");
    judged.stop();
}

fn boto3_finds_what_s3_promises() {
    let Some(judged) = Judged::by("SEALIFT_TEST_PYTHON") else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/s3.py");
    let said = judged.run(&[], &[script.to_str().unwrap(), &judged.endpoint.clone(), BUCKET]);
    println!("{said}");
    judged.stop();
}

/// All at once: they wait more for themselves than for a processor, whatever the number of threads that tests are run by.
#[test]
fn the_clients_that_people_have_are_served() {
    let clients: [(&str, fn()); 6] = [
        ("dvc", dvc),
        ("aws", aws_cli),
        ("restic", restic),
        ("boto3", boto3_finds_what_s3_promises),
        ("rclone", rclone),
        ("s5cmd", s5cmd),
    ];
    let running =
        clients.map(|(name, client)| (name, thread::Builder::new().name(name.to_owned()).spawn(client).unwrap()));
    let failed: Vec<&str> =
        running.into_iter().filter_map(|(name, client)| client.join().err().map(|_| name)).collect();
    assert!(failed.is_empty(), "not served: {failed:?}; why is said above");
}
