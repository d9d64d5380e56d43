//! The program as it is typed: exit codes, both forms of an error, and what happens when nobody reads.

use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

/// The program in a folder, with an environment of its own.
fn sealift(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealift"));
    command.args(line.split(' ')).current_dir(folder).env_clear().stdin(Stdio::null());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", folder).env("USER", "tester");
    command.env("GIT_CEILING_DIRECTORIES", folder.parent().unwrap_or(folder));
    command
}

fn run(folder: &Path, line: &str) -> Output {
    sealift(folder, line).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

#[test]
fn without_a_configuration_the_next_command_is_init() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), "status");
    assert_eq!(output.status.code(), Some(66));
    assert_eq!(text(&output.stdout), "", "results only");
    let error = text(&output.stderr);
    assert!(error.starts_with("error: there is no Sealift.toml in "), "{error}");
    assert!(error.ends_with("  next: sealift init\n"), "{error}");
}

#[test]
fn json_ends_with_one_object_that_says_class_exit_and_next() {
    let folder = tempfile::tempdir().unwrap();
    for (line, exit, class) in [("status --format json", 66, "not-found"), ("--format json nope", 64, "usage")] {
        let output = run(folder.path(), line);
        assert_eq!(output.status.code(), Some(exit), "{line}");
        let lines = text(&output.stdout);
        let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        assert_eq!(last["error"]["exit"], exit, "{last}");
        assert_eq!(last["error"]["class"], class, "{last}");
        assert!(last["error"]["next"].is_string(), "{last}");
    }
}

#[test]
fn all_problems_of_a_configuration_are_shown_with_their_places() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("Sealift.toml"),
        "[project]\nnmae = \"x\"\n[environment.staging]\ntarget = \"moon\"\n",
    )
    .unwrap();
    let output = run(folder.path(), "status");
    assert_eq!(output.status.code(), Some(65));
    let error = text(&output.stderr);
    for place in ["Sealift.toml:2:1:", "Sealift.toml:4:"] {
        assert!(error.contains(place), "{place} in {error}");
    }
    let output = run(folder.path(), "status --format json");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(value["error"]["details"]["problems"]["list"].as_array().unwrap().len() >= 2, "{value}");
}

#[test]
fn a_folder_that_is_not_there_is_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), "-C nowhere status");
    assert_eq!(output.status.code(), Some(66));
    assert!(text(&output.stderr).contains("nowhere"), "{output:?}");
}

#[test]
fn nobody_reading_is_no_failure_and_a_full_disk_is_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Sealift.toml"), CONFIGURATION).unwrap();
    let mut child = sealift(folder.path(), "status").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = sealift(folder.path(), "status").stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(70));
    assert!(text(&output.stderr).contains("the disk is full"), "{output:?}");
}

#[test]
fn keys_are_made_once_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Sealift.toml"), CONFIGURATION).unwrap();
    assert_eq!(run(folder.path(), "keys new").status.code(), Some(0));
    assert!(folder.path().join("deploy/keys/release.pub").is_file());
    let again = run(folder.path(), "keys new");
    assert_eq!(again.status.code(), Some(65));
    assert!(text(&again.stderr).contains("next: sealift keys list"), "{again:?}");
    let listed: Value = serde_json::from_slice(&run(folder.path(), "keys list --format json").stdout).unwrap();
    assert_eq!(listed["result"][0]["name"], "release");
    assert_eq!(listed["result"][0]["signs"], true);
}

#[test]
fn verbs_on_an_empty_store_answer_in_words() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Sealift.toml"), CONFIGURATION).unwrap();
    assert_eq!(run(folder.path(), "keys new").status.code(), Some(0));
    for (line, exit, wanted) in [
        ("history", 0, "staging: no rollout yet"),
        ("audit verify", 0, "staging: 0 entries"),
        ("audit log staging", 0, "staging: no entry yet"),
        ("resume", 0, "Nothing to do"),
        ("deploy staging", 66, "there is no release of tiny yet"),
        ("deploy stagign", 66, "did you mean staging?"),
        ("rollback staging", 66, "no earlier release of tiny"),
        ("smoke staging", 66, "nothing serves staging"),
        ("gate staging", 65, "staging has no gates"),
        ("explain tiny", 66, "there are none yet"),
        ("promote 1.0.0 --to staging", 66, "there is no release"),
        ("apply nowhere.json", 66, "nowhere.json"),
        ("release cut", 66, "is not in a git repository"),
        ("restore tiny --to out --store nowhere", 66, "there is no store in"),
        ("store check", 0, "keeps conditional writes"),
    ] {
        let output = run(folder.path(), line);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{line}: {all}");
        assert!(all.contains(wanted), "{line}: {all}");
    }
}

const CONFIGURATION: &str = r#"
[project]
name = "tiny"
[component.tiny]
version_files = ["pyproject.toml"]
[component.tiny.run]
port = 8080
command = ["/bin/service"]
[environment.staging]
target = "process"
[environment.staging.component.tiny]
port = 18081
"#;
