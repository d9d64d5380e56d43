//! What the tests of this crate share: layouts made by hand, trees, and where real servers are.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

pub mod engines;

use domain::{
    Digest, Event, EventSink, Events,
    config::{OciBuild, OciFile},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
};

/// Where a real server or tool is. Without it the test says so and passes, except in CI, where it fails.
pub fn real(variable: &str) -> Option<String> {
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => Some(value),
        _ if std::env::var("CI").as_deref() == Ok("true") => panic!("{variable} is not set; in CI nothing is left out"),
        _ => {
            eprintln!("not run: {variable} is not set");
            None
        }
    }
}

/// Keeps every line that a build prints.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl EventSink for Lines {
    fn emit(&self, event: Event) {
        if let Event::Output { line, .. } | Event::Note { text: line } | Event::Warning { text: line } = event {
            self.0.lock().unwrap().push(line);
        }
    }
}

impl Lines {
    pub fn events(&self) -> Events {
        Events::new(self.clone())
    }
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Keeps how tasks ended.
#[derive(Clone, Default)]
pub struct Ends(Arc<Mutex<Vec<String>>>);

impl EventSink for Ends {
    fn emit(&self, event: Event) {
        if let Event::TaskFinished { summary, .. } = event {
            self.0.lock().unwrap().push(summary);
        }
    }
}

impl Ends {
    pub fn events(&self) -> Events {
        Events::new(self.clone())
    }
    pub fn last(&self) -> String {
        self.0.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

struct OnTask<F>(&'static str, Mutex<Option<F>>);

impl<F: FnOnce() + Send + 'static> EventSink for OnTask<F> {
    fn emit(&self, event: Event) {
        if let Event::TaskStarted { name, .. } = event
            && name == self.0
            && let Some(act) = self.1.lock().unwrap().take()
        {
            act();
        }
    }
}

/// Events that do something once, when a task begins.
pub fn on_task(title: &'static str, act: impl FnOnce() + Send + 'static) -> Events {
    Events::new(OnTask(title, Mutex::new(Some(act))))
}

/// A small `oci` specification over the given files.
pub fn oci(files: &[(&str, &str, Option<u32>)]) -> OciBuild {
    OciBuild {
        base: "scratch".to_owned(),
        files: files
            .iter()
            .map(|(from, to, mode)| OciFile {
                from: (*from).to_owned(),
                to: (*to).to_owned(),
                mode: *mode,
                owner: None,
                platform: None,
            })
            .collect(),
        entrypoint: vec!["/app/run".to_owned()],
        cmd: vec!["--serve".to_owned()],
        env: BTreeMap::from([("PORT".to_owned(), "8080".to_owned())]),
        user: "1000".to_owned(),
        workdir: Some("/app".to_owned()),
        labels: BTreeMap::from([("team".to_owned(), "wine".to_owned())]),
        base_insecure: false,
        platforms: vec!["linux/amd64".to_owned()],
        ports: Vec::new(),
    }
}

pub fn created() -> jiff::Timestamp {
    "2024-05-06T07:08:09.5Z".parse().unwrap()
}

pub fn write(root: &Path, path: &str, text: &str, mode: u32) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The blobs of an image with these layers: the diff ID of each, what is after `tar` in its media type, and its bytes. Digest and size of its manifest.
pub fn blobs_of(root: &Path, layers: &[(Digest, &str, Vec<u8>)]) -> (Digest, usize) {
    let blobs = root.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        (digest, bytes.len())
    };
    let (mut diff_ids, mut descriptors) = (Vec::new(), Vec::new());
    for (diff_id, suffix, bytes) in layers {
        diff_ids.push(diff_id);
        let (digest, size) = put(bytes);
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        descriptors.push(serde_json::json!({"mediaType": media_type, "digest": digest, "size": size}));
    }
    let config =
        serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let (digest, size) = put(config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": descriptors,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size},
    });
    put(manifest.to_string().as_bytes())
}

/// A layout whose layers are these tar files. Media type and compression as asked.
pub fn layout_of(root: &Path, layers: &[Vec<u8>], gzip: bool) {
    let packed = |layer: &Vec<u8>| match gzip {
        true => (Digest::of(layer), "+gzip", compress(layer)),
        false => (Digest::of(layer), "", layer.clone()),
    };
    let (digest, size) = blobs_of(root, &layers.iter().map(packed).collect::<Vec<_>>());
    image::assemble(&digest, root).unwrap_or_else(|error| {
        // A hostile layer stops the verification, and the test wants to see who else stops it.
        drop(error);
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size}]});
        fs::write(root.join("index.json"), index.to_string()).unwrap();
        fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        placeholder(root, digest)
    });
}

fn placeholder(root: &Path, digest: Digest) -> image::Built {
    image::Built {
        layout: root.to_owned(),
        manifest: digest,
        config: digest,
        layers: Vec::new(),
        platform: String::new(),
        bytes: 0,
        index: None,
        platforms: Vec::new(),
        log_tail: Vec::new(),
    }
}

pub fn compress(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One raw tar entry: whatever the fields say, with a right checksum.
pub fn entry(name: &str, kind: u8, link: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    raw_entry(name.as_bytes(), kind, link.as_bytes(), mode, content, content.len() as u64)
}

pub fn raw_entry(name: &[u8], kind: u8, link: &[u8], mode: u32, content: &[u8], size: u64) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name);
    header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link);
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = header.to_vec();
    out.extend(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// One PAX record with its length in front.
pub fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length += 1;
    }
    format!("{length}{rest}").into_bytes()
}

/// Entries with the end mark.
pub fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = entries.concat();
    out.extend([0; 1024]);
    out
}

pub fn file(name: &str, content: &str) -> Vec<u8> {
    entry(name, b'0', "", 0o644, content.as_bytes())
}

pub fn folder(name: &str) -> Vec<u8> {
    entry(name, b'5', "", 0o755, b"")
}

pub fn symlink(name: &str, target: &str) -> Vec<u8> {
    entry(name, b'2', target, 0o777, b"")
}
