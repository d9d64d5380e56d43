//! What is found in images, layer by layer.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use common::{entry, file, layout_of, tar};
use domain::scan::{Inspection, User};
use image::{Limits, inspect};
use tempfile::TempDir;

fn look(layers: &[Vec<Vec<u8>>], gzip: bool) -> Inspection {
    let root = TempDir::new().unwrap();
    let layers: Vec<Vec<u8>> = layers.iter().map(|entries| tar(entries)).collect();
    layout_of(root.path(), &layers, gzip);
    let mut found = inspect(root.path(), &Limits::default()).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn setuid(name: &str) -> Vec<u8> {
    entry(name, b'0', "", 0o4755, b"x")
}

fn token() -> String {
    let body: String = "aB3dE5gH7jK9mN1pQ2sT4vW6xY8z".chars().cycle().take(36).collect();
    format!("ghp_{body}")
}

#[test]
fn setuid_files_count_as_a_container_sees_them() {
    let all = vec![
        setuid("bin/su"),
        setuid("usr/a/one"),
        setuid("usr/a/two"),
        setuid("opt/x/y"),
        entry("var/mail", b'5', "", 0o2775, b""),
    ];
    let found = look(std::slice::from_ref(&all), true);
    assert_eq!((found.setuid.join(" "), found.setuid_count), ("bin/su opt/x/y usr/a/one usr/a/two".to_owned(), 4));
    let later = vec![
        file("bin/su", "not setuid any more"),
        file("usr/.wh.a", ""),
        setuid("usr/a/three"),
        file("opt/.wh..wh..opq", ""),
        setuid("opt/z"),
        entry("opt/hard", b'1', "opt/z", 0o4755, b""),
        entry("opt/group", b'0', "", 0o2755, b"x"),
    ];
    let found = look(&[all, later], false);
    assert_eq!(found.setuid.join(" "), "opt/group opt/hard opt/z usr/a/three");
}

#[test]
fn a_secret_counts_even_when_a_later_layer_removes_it() {
    let key = token();
    let found = look(
        &[vec![file("app/settings.py", &format!("TOKEN = '{key}'"))], vec![file("app/.wh.settings.py", "")]],
        true,
    );
    assert_eq!(found.secret_count, 1, "{found:?}");
    assert_eq!(
        (found.secrets[0].rule.as_str(), found.secrets[0].place.as_str()),
        ("a GitHub token", "/app/settings.py in layer 1")
    );
    assert!(!format!("{found:?}").contains(&key), "the finding quotes the secret");
}

#[test]
fn a_secret_is_found_wherever_it_lies_in_a_large_file() {
    // Around the ends of the windows in which files are read.
    for at in [0, (256 << 10) - 60, (256 << 10) - 20, (256 << 10) + 1, (508 << 10) - 7, 700 << 10] {
        let mut text = ".".repeat(at);
        text.push_str(&token());
        text.push_str(&".".repeat(300 << 10));
        let found = look(&[vec![file("data/large", &text)]], true);
        assert_eq!(found.secret_count, 1, "at {at}");
    }
    assert_eq!(look(&[vec![file("data/large", &".".repeat(900 << 10))]], true).secret_count, 0);
}

#[test]
fn an_image_without_a_user_runs_as_root() {
    let found = look(&[vec![file("app/x", "x")]], true);
    assert!(matches!(found.user, User::Root { .. }));
    assert!(found.bytes > 0 && found.platform == "linux/amd64", "{found:?}");
}

#[test]
fn a_hostile_layer_is_an_error_and_no_image_without_findings() {
    let root = TempDir::new().unwrap();
    layout_of(root.path(), &[tar(&[file("../outside", "x")])], true);
    let why = inspect(root.path(), &Limits::default()).unwrap_err().to_string();
    assert!(why.contains("leaves the image"), "{why}");
    let root = TempDir::new().unwrap();
    layout_of(root.path(), &[tar(&[file("a", "x"), file("b", "x")])], true);
    let limits = Limits { entries: 1, ..Limits::default() };
    assert!(inspect(root.path(), &limits).unwrap_err().to_string().contains("more entries"));
}
