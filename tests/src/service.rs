//! The service that is released, compiled by the same `rustc` as the tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

const SOURCE: &str = include_str!("../fixtures/service.rs");

/// The compiled service: a static program. It is kept beside the test programs by the digest of its source.
pub fn service_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = target_folder().join("e2e");
        fs::create_dir_all(&folder).expect("the folder of fixtures is made");
        let program = folder.join(format!("service-{}", domain::Digest::of(SOURCE).short()));
        if !program.exists() {
            compile(&folder, &program);
        }
        program
    })
}

/// `target/debug`, or whatever profile these tests were built in.
fn target_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test program");
    let folder = test.parent().expect("the test program is in a folder");
    if folder.ends_with("deps") { folder.parent().unwrap_or(folder).to_owned() } else { folder.to_owned() }
}

/// The program under test: what the runs of a project are runs of.
pub fn sealift_program() -> PathBuf {
    let program = target_folder().join("sealift-under-test");
    assert!(program.exists(), "{} is not there; build the package e2e", program.display());
    program
}

fn compile(folder: &Path, program: &Path) {
    let build = tempfile::tempdir_in(folder).expect("a folder to compile in");
    let (source, compiled) = (build.path().join("service.rs"), build.path().join("service"));
    fs::write(&source, SOURCE).expect("the service's source is written");
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "opt-level=s", "-C", "strip=symbols"])
        .args(["-C", "panic=abort", "-o"])
        .args([&compiled, &source])
        .output()
        .expect("rustc runs");
    assert!(output.status.success(), "rustc: {}", String::from_utf8_lossy(&output.stderr));
    // By renaming, so that two test programs at once both find a whole one.
    fs::rename(&compiled, program).expect("the service is put in place");
}
