//! `cargo xtask demo`, from outside: its exit code, its key lines, and what is left of it.
//!
//! The real program is run, with a real build of the example and real servers; nothing is replaced. The Docker story
//! needs `SEALIFT_TEST_DOCKER=unix://…`; without it that test says so and, with `CI=true`, fails.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test's helpers fail the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Mutex,
};

/// Both stories share a build folder, and two cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The program `cargo xtask`, built as `cargo xtask` builds it.
fn xtask() -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "xtask", "--message-format", "json-render-diagnostics"]);
    let output = cargo.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let artifacts = messages.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let found = artifacts.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    let mut programs = found.filter(|path| path.file_name().is_some_and(|name| name == "xtask"));
    programs.next().unwrap()
}

/// A demo in a folder of its own.
struct Demo {
    program: PathBuf,
    folder: tempfile::TempDir,
    engine: Option<String>,
}

impl Demo {
    fn new(engine: Option<String>) -> Self {
        // Under `target`, where an ordinary user may write and the workload's user may read.
        let parent = root().join("target/tmp");
        fs::create_dir_all(&parent).unwrap();
        let folder = tempfile::Builder::new().prefix("demo-").tempdir_in(parent).unwrap();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { program: xtask(), folder, engine }
    }

    /// Runs `xtask demo` with further words.
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.arg("demo").args(words).arg("--folder").arg(self.folder.path());
        if !words.contains(&"--stop") {
            command.arg("--build-folder").arg(root().join("target/example/demo"));
        }
        command.env_remove("DOCKER_HOST");
        command.envs(self.engine.iter().map(|engine| ("DOCKER_HOST", engine)));
        command.output().unwrap()
    }

    /// Types to the `sealift` that the demo leaves, in the demo's folder.
    fn sealift(&self, words: &[&str]) -> (i32, String) {
        let mut command = Command::new(self.folder.path().join("bin/sealift"));
        command.args(words).current_dir(self.folder.path());
        command.envs(self.engine.iter().map(|engine| ("DOCKER_HOST", engine)));
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.run(&["--stop"]);
    }
}

/// Both streams, for the message of a failed test.
fn both(output: &Output) -> String {
    format!(
        "{}\n---- errors ----\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// What every story must tell, in this order.
const TOLD: [&str; 16] = [
    "$ git init --quiet",
    "$ cargo build --release",
    "$ sealift keys new release",
    "$ sealift data add wine-quality",
    "$ sealift release cut",
    "$ sealift gate staging",
    "$ sealift promote wine@1.0.0 --to production",
    "$ sealift promote wine@1.1.0 --to production",
    "$ sealift promote wine@1.2.0 --to production",
    "# (exit 2)",
    "$ sealift rollback production --reason",
    "$ rm -rf wine",
    "$ sealift restore wine@1.1.0",
    "\"release\":\"wine@1.1.0\"",
    "$ sealift audit verify",
    "Measured in this run:",
];

/// Plays the story and checks what it told and left.
fn plays(target: &str, engine: Option<String>) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let demo = Demo::new(engine);
    let output = demo.run(&["--target", target]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let mut rest: &str = &text;
    for wanted in TOLD {
        let at = rest.find(wanted).unwrap_or_else(|| panic!("{wanted:?} is not told in its place:\n{}", both(&output)));
        rest = &rest[at + wanted.len()..];
    }
    let widest = text.lines().filter(|line| line.starts_with(['#', '─'])).map(|line| line.chars().count()).max();
    assert!(widest <= Some(110), "a line of the demo's own has {widest:?} columns");
    assert!(text.contains(&format!("target  {target}")), "{text}");
    assert_accuracies(&text);
    let line = |words: &[&str]| text.lines().any(|line| words.iter().all(|word| line.contains(word)));
    for words in
        [&["image", "linux/", "sha256:"][..], &["sbom", "components listed by sealift"], &["sha256sum -c SHA256SUMS"]]
    {
        assert!(line(words), "the demo does not print {words:?}:\n{text}");
    }
    assert!(line(&["cosign verify-blob-attestation", "release.sigstore.json"]), "no command for cosign:\n{text}");

    let again = demo.run(&["--stop"]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), "stopped: nothing ran\n", "something was left running");
    for words in [&["status"][..], &["history", "production"], &["explain", "wine@1.1.0"], &["audit", "verify"]] {
        let (code, text) = demo.sealift(words);
        assert_eq!(code, 0, "sealift {words:?}: {text}");
        let (_, json) = demo.sealift(&[words, &["--format", "json"]].concat());
        let last: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
        assert!(last.get("result").is_some(), "sealift {words:?} --format json: {json}");
    }
    let (_, history) = demo.sealift(&["history", "production"]);
    assert!(history.contains("rollback") && !history.contains("wine@1.2.0"), "{history}");
}

/// The second model is better, and the third release is next to useless.
fn assert_accuracies(text: &str) {
    let accuracy = |release: &str| -> f64 {
        let line = text.lines().find(|line| line.contains(&format!("accuracy of {release}"))).unwrap();
        line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
    };
    let [first, better, bad] = ["wine@1.0.0", "wine@1.1.0", "wine@1.2.0"].map(accuracy);
    assert!(better > first && first > 0.5 && bad < 0.1, "{first} {better} {bad}");
}

#[test]
fn without_a_daemon_the_story_is_told_and_nothing_is_left_running() {
    plays("process", None);
}

#[test]
fn with_a_docker_engine_the_story_is_told_and_nothing_is_left_running() {
    match std::env::var("SEALIFT_TEST_DOCKER") {
        Ok(engine) => plays("docker", Some(engine)),
        Err(_) if std::env::var_os("CI").is_some_and(|value| value == "true") => {
            panic!("CI=true and SEALIFT_TEST_DOCKER is not set: run it by `cargo xtask ci`")
        }
        Err(_) => eprintln!("not run: SEALIFT_TEST_DOCKER is not set"),
    }
}

#[test]
fn an_engine_that_was_asked_for_and_does_not_answer_is_a_failure() {
    let demo = Demo::new(Some("unix:///no/such/engine.sock".to_owned()));
    let output = demo.run(&["--target", "docker"]);
    assert_eq!(output.status.code(), Some(69), "{}", both(&output));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("no Docker Engine answers at unix:///no/such/engine.sock"), "{errors}");
    assert!(errors.contains("cargo xtask demo --target process"), "{errors}");
}

#[test]
fn the_configurations_of_the_example_are_valid_and_differ_only_in_who_runs_it() {
    let read = |name: &str| {
        let text = fs::read_to_string(root().join("deploy/examples/wine").join(name)).unwrap();
        let config = domain::config::parse(&text, name).unwrap_or_else(|problems| panic!("{problems}"));
        (text, config)
    };
    let ((text, process), (docker_text, docker)) = (read("Sealift.toml"), read("Sealift.docker.toml"));
    assert_eq!(process.gates, docker.gates);
    assert_eq!(process.data, docker.data);
    assert_eq!(process.models, docker.models);
    let lines = |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    let (text, docker_text) = (lines(&text), lines(&docker_text));
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        let mut found: Vec<String> = these.iter().filter(|line| !those.contains(line)).cloned().collect();
        found.dedup();
        found
    };
    let about = ["builder", "files", "entrypoint", "platform", "env", "target", "root"];
    for line in only(&text, &docker_text).iter().chain(&only(&docker_text, &text)) {
        assert!(about.iter().any(|key| line.starts_with(&format!("{key} = "))), "the two differ in: {line}");
    }
}
