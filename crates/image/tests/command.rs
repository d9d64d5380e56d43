//! The `command` builder, and archives that others made.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use common::{Lines, created, layout_of, real, write};
use domain::{
    Class, Digest, Events,
    config::{CommandBuild, CommandOutput},
};
use flate2::{Compression, write::GzEncoder};
use image::{Artifact, Error, Output, build_command, docker_archive, import_docker_archive};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

fn shell(script: &str, output: CommandOutput) -> CommandBuild {
    let run = ["sh", "-c", script].map(str::to_owned).to_vec();
    CommandBuild { run, output, env: BTreeMap::new(), timeout: Duration::from_secs(60) }
}

fn globs(patterns: &[&str]) -> CommandOutput {
    CommandOutput::Files(patterns.iter().map(|text| (*text).to_owned()).collect())
}

async fn build(spec: &CommandBuild, root: &Path) -> Result<Output, Error> {
    let to = tempfile::tempdir_in(root.parent().unwrap()).unwrap().keep();
    build_command(spec, root, "1.2.0", created(), &to, &Events::nowhere()).await
}

async fn files(spec: &CommandBuild, root: &Path) -> Vec<Artifact> {
    match build(spec, root).await.unwrap() {
        Output::Files(files) => files,
        Output::Image(_) => panic!("an image"),
    }
}

/// A folder for the component in a folder for everything.
fn component() -> (tempfile::TempDir, std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("component");
    fs::create_dir(&folder).unwrap();
    (root, folder)
}

#[tokio::test]
async fn a_command_sees_its_variables_and_its_files_are_taken_in_order() {
    let (_root, folder) = component();
    let script = "mkdir -p dist/sub && printf %s \"$SEALIFT_VERSION $SOURCE_DATE_EPOCH $OWN\" > dist/b.whl && echo a > dist/a.whl && echo c > dist/sub/c.whl && echo no > dist/x.txt && pwd -P && echo \"$SEALIFT_OUTPUT\" >&2";
    let mut spec = shell(script, globs(&["dist/**/*.whl", "dist/a.*"]));
    spec.env.insert("OWN".to_owned(), "mine".to_owned());
    let lines = Lines::default();
    let to = tempfile::tempdir().unwrap();
    let output = build_command(&spec, &folder, "1.2.0", created(), to.path(), &lines.events()).await.unwrap();
    let Output::Files(files) = output else { panic!("an image") };
    let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["dist/a.whl", "dist/b.whl", "dist/sub/c.whl"]);
    assert_eq!(fs::read_to_string(&files[1].file).unwrap(), "1.2.0 1714979289 mine");
    for file in &files {
        let bytes = fs::read(&file.file).unwrap();
        assert_eq!((file.digest, file.bytes), (Digest::of(&bytes), bytes.len() as u64));
        assert!(file.file.starts_with(to.path()), "{}", file.file.display());
    }
    let folder = folder.canonicalize().unwrap().display().to_string();
    assert_eq!(lines.all().iter().filter(|line| **line == folder).count(), 2, "{:?}", lines.all());
}

#[tokio::test]
async fn a_command_that_fails_is_named_with_its_status_and_last_lines() {
    let (_root, folder) = component();
    let error = build(&shell("echo first; echo boom >&2; exit 7", globs(&["*"])), &folder).await.unwrap_err();
    assert!(error.to_string().contains("exit status: 7"), "{error}");
    assert!(error.log_tail().iter().any(|line| line == "boom"), "{:?}", error.log_tail());
    assert_eq!(error.class(), Class::BadInput);
    let mut missing = shell("", globs(&["*"]));
    missing.run = vec!["/no/such/program".to_owned()];
    let error = build(&missing, &folder).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/program cannot be run"), "{error}");
    write(&folder, "tool.sh", "#!/bin/sh\necho x > out\n", 0o755);
    let mut own = shell("", globs(&["out"]));
    own.run = vec!["./tool.sh".to_owned()];
    assert_eq!(files(&own, &folder).await.len(), 1);
}

fn is_alive(file: &Path) -> bool {
    let pid = fs::read_to_string(file).unwrap_or_default();
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // A zombie that nobody waits for is dead.
    !pid.trim().is_empty() && !state.is_empty() && !state.contains(") Z ")
}

fn eventually(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_running_after_a_timeout_a_cancellation_or_an_end() {
    let (_root, folder) = component();
    let script = "sleep 1000 & echo $! > child; wait";
    let mut spec = shell(script, globs(&["*"]));
    spec.timeout = Duration::from_millis(300);
    let error = build(&spec, &folder).await.unwrap_err();
    assert!(error.to_string().contains("took longer than 0.3 s"), "{error}");
    let child = folder.join("child");
    eventually("a process survived the timeout", || child.exists() && !is_alive(&child));
    fs::remove_file(&child).unwrap();
    spec.timeout = Duration::from_secs(600);
    let (task_folder, task_spec) = (folder.clone(), spec.clone());
    let task = tokio::spawn(async move { build(&task_spec, &task_folder).await });
    eventually("the command did not start", || is_alive(&child));
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    eventually("a process survived the cancellation", || !is_alive(&child));
    // A child that keeps running after a good end.
    let good = shell("sleep 1000 & echo $! > child", globs(&["child"]));
    assert_eq!(files(&good, &folder).await.len(), 1);
    eventually("a process survived the end", || !is_alive(&child));
}

#[tokio::test]
async fn files_that_lack_lead_out_or_are_none_are_refused() {
    let (root, folder) = component();
    write(root.path(), "secret", "s", 0o600);
    write(&folder, "in/real.txt", "x", 0o644);
    symlink(root.path().join("secret"), folder.join("leads-out")).unwrap();
    symlink("in/real.txt", folder.join("leads-in")).unwrap();
    symlink(root.path(), folder.join("folder-out")).unwrap();
    for (pattern, expected) in [
        ("*.whl", "the command left no file that matches \"*.whl\""),
        ("in", "the command left no file that matches \"in\""),
        ("leads-out", "leads-out is a link out of the component"),
        ("folder-out/secret", "folder-out is a link out of the component"),
        ("../secret", "\"../secret\" is no pattern"),
        ("/etc/passwd", "\"/etc/passwd\" is no pattern"),
    ] {
        let error = build(&shell("true", globs(&[pattern])), &folder).await.unwrap_err();
        assert!(error.to_string().starts_with(expected), "{pattern}: {error}");
        assert_eq!(error.class(), Class::BadInput);
    }
    let inside = files(&shell("true", globs(&["leads-in"])), &folder).await;
    assert_eq!(inside[0].bytes, 1);
    let fifo = build(&shell("mkfifo pipe", globs(&["pipe"])), &folder).await.unwrap_err();
    assert!(fifo.to_string().contains("pipe is no plain file"), "{fifo}");
}

fn tar_of(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The form that engines before 25 and Nix write.
fn classic(layer: &[u8], config_layer: Digest) -> Vec<u8> {
    let config = serde_json::json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [config_layer]}});
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["abc/layer.tar"]}]);
    tar_of(&[
        ("abc/layer.tar", layer.to_vec()),
        ("c.json", config.to_string().into_bytes()),
        ("manifest.json", manifest.to_string().into_bytes()),
    ])
}

fn import(root: &Path, bytes: &[u8]) -> Result<image::Built, Error> {
    let folder = tempfile::tempdir_in(root).unwrap().keep();
    fs::write(folder.join("archive"), bytes).unwrap();
    import_docker_archive(&folder.join("archive"), &folder.join("layout"))
}

#[test]
fn one_image_in_every_form_of_archive_has_one_digest() {
    let root = tempfile::tempdir().unwrap();
    let layer = tar_of(&[("hello", b"hello".to_vec())]);
    let digest = Digest::of(&layer);
    let plain = import(root.path(), &classic(&layer, digest)).unwrap();
    assert_eq!(image::open(&plain.layout).unwrap().root(), plain.root());
    let packed = import(root.path(), &gzip(&classic(&layer, digest))).unwrap();
    let packed_layer = import(root.path(), &classic(&gzip(&layer), digest)).unwrap();
    let zstd_layer = import(root.path(), &classic(&zstd::encode_all(layer.as_slice(), 1).unwrap(), digest)).unwrap();
    for other in [packed, packed_layer, zstd_layer] {
        assert_eq!(other.root(), plain.root());
    }
    // What we write is read again, and is the same image.
    let mut both = Vec::new();
    docker_archive(&plain.layout, Some("x:1"), &mut both).unwrap();
    assert_eq!(import(root.path(), &both).unwrap().root(), plain.root());
    // An OCI archive keeps its manifest, also one that is not of our making.
    layout_of(&root.path().join("foreign"), &[layer], false);
    let foreign = image::open(&root.path().join("foreign")).unwrap();
    let mut entries = vec![("oci-layout", fs::read(foreign.layout.join("oci-layout")).unwrap())];
    entries.push(("index.json", fs::read(foreign.layout.join("index.json")).unwrap()));
    let blobs: Vec<(String, Vec<u8>)> = image::blobs(&foreign.layout)
        .unwrap()
        .into_iter()
        .map(|(digest, path, _)| (format!("blobs/sha256/{}", digest.hex()), fs::read(path).unwrap()))
        .collect();
    entries.extend(blobs.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())));
    assert_eq!(import(root.path(), &tar_of(&entries)).unwrap().root(), foreign.root());
    assert_ne!(foreign.root(), plain.root());
}

#[test]
fn hostile_and_damaged_archives_are_refused_and_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let layer = tar_of(&[("hello", b"hello".to_vec())]);
    let good = classic(&layer, Digest::of(&layer));
    let manifest = |text: &str| tar_of(&[("manifest.json", text.as_bytes().to_vec())]);
    let mut device = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Char);
    header.set_size(0);
    device.append_data(&mut header, "dev", std::io::empty()).unwrap();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("another layer", classic(&layer, Digest::of("x")), "where its configuration names"),
        ("no archive", b"hello".repeat(500), "is refused"),
        ("nothing", tar_of(&[("a", vec![])]), "is no image archive"),
        ("two images", manifest(r#"[{"Config": "a"}, {"Config": "b"}]"#), "holds 2 images"),
        ("no JSON", manifest("[{"), "manifest.json is not understood"),
        ("out of the archive", manifest(r#"[{"Config": "../../../../etc/hostname"}]"#), "does not have"),
        ("twice", tar_of(&[("a", vec![1]), ("./a", vec![2])]), "its path occurs twice"),
        ("a device", device.into_inner().unwrap(), "it is no file, folder or link"),
        ("a bomb", gzip(&tar_of(&[("zero", vec![0; 300 << 20])])), "more bytes than are allowed"),
    ];
    for (name, bytes, expected) in cases {
        let folder = tempfile::tempdir_in(root.path()).unwrap();
        fs::write(folder.path().join("archive"), bytes).unwrap();
        let error = import_docker_archive(&folder.path().join("archive"), &folder.path().join("layout")).unwrap_err();
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert!(matches!(error.class(), Class::BadInput | Class::Integrity), "{name}");
        assert!(!folder.path().join("layout/index.json").exists(), "{name}");
    }
    // Cut anywhere, it is refused: never taken as a smaller image, never a panic.
    let last_document = good.len() - 1024 - 512; // the end mark, and the block that holds the last document
    for end in (0..last_document).step_by(97) {
        assert!(import(root.path(), &good[..end]).is_err(), "{end}");
    }
}

#[tokio::test]
async fn a_command_leaves_a_layout_or_an_archive() {
    let (root, folder) = component();
    let layer = tar_of(&[("hello", b"hello".to_vec())]);
    layout_of(&root.path().join("image"), std::slice::from_ref(&layer), true);
    fs::write(root.path().join("image.tar"), classic(&layer, Digest::of(&layer))).unwrap();
    let root_digest = image::open(&root.path().join("image")).unwrap().root();
    let spec =
        shell("cp -r ../image \"$SEALIFT_OUTPUT\"; echo made", CommandOutput::OciLayout("out/../made".to_owned()));
    let error = build(&spec, &folder).await.unwrap_err();
    assert!(error.to_string().contains("is no path inside"), "{error}");
    let spec = shell("cp -r ../image \"$SEALIFT_OUTPUT\"; echo made", CommandOutput::OciLayout("made".to_owned()));
    let Output::Image(built) = build(&spec, &folder).await.unwrap() else { panic!("files") };
    assert_eq!((built.root(), built.log_tail), (root_digest, vec!["made".to_owned()]));
    let spec = shell("cp ../image.tar \"$SEALIFT_OUTPUT\"", CommandOutput::DockerArchive("made.tar".to_owned()));
    assert!(matches!(build(&spec, &folder).await.unwrap(), Output::Image(_)));
    for (output, expected) in [
        (CommandOutput::OciLayout("none".to_owned()), "the command left no none"),
        (CommandOutput::OciLayout(".".to_owned()), "is no OCI layout"),
        (CommandOutput::DockerArchive("out.tar".to_owned()), "out.tar is a link out of the component"),
    ] {
        let error = build(&shell("ln -sf ../image.tar out.tar", output), &folder).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let blob = built.layout.parent().unwrap().join("component/made/blobs/sha256").join(built.layers[0].hex());
    let moved = root.path().join("elsewhere");
    fs::rename(&blob, &moved).unwrap();
    symlink(&moved, &blob).unwrap();
    let error = build(&shell("true", CommandOutput::OciLayout("made".to_owned())), &folder).await.unwrap_err();
    assert!(error.to_string().contains("is no plain file"), "{error}");
}

/// skopeo writes archives of both kinds from a layout of ours, and what is read of them is the same image.
#[test]
fn archives_of_skopeo_are_understood() {
    let Some(skopeo) = real("SEALIFT_TEST_SKOPEO") else { return };
    let root = tempfile::tempdir().unwrap();
    let layer = tar_of(&[("hello", b"hello".to_vec())]);
    let ours = import(root.path(), &classic(&layer, Digest::of(&layer))).unwrap();
    for kind in ["docker-archive", "oci-archive"] {
        let archive = root.path().join(kind);
        let output = Command::new(&skopeo)
            .args(["--insecure-policy", "copy"])
            .arg(format!("oci:{}", ours.layout.display()))
            .arg(format!("{kind}:{}:x:1", archive.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let built = import_docker_archive(&archive, &root.path().join(format!("{kind}-layout"))).unwrap();
        assert_eq!(built.config, ours.config, "{kind}");
        assert_eq!(built.root(), ours.root(), "{kind}");
    }
}
