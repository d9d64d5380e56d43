//! Layouts and tar archives made by hand: whatever their fields say, with right checksums and digests.

use domain::Digest;
use serde_json::{Value, json};
use std::{fs, path::Path};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// One tar entry.
pub(crate) fn entry(name: &str, kind: u8, link: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    raw_entry(name, kind, link, mode, content, content.len() as u64)
}

/// One tar entry whose header claims a size.
pub(crate) fn raw_entry(name: &str, kind: u8, link: &str, mode: u32, content: &[u8], size: u64) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = header.to_vec();
    out.extend(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

pub(crate) fn file(name: &str, content: &str) -> Vec<u8> {
    entry(name, b'0', "", 0o644, content.as_bytes())
}

pub(crate) fn folder(name: &str) -> Vec<u8> {
    entry(name, b'5', "", 0o755, b"")
}

pub(crate) fn symlink(name: &str, target: &str) -> Vec<u8> {
    entry(name, b'2', target, 0o777, b"")
}

/// A PAX header of these records.
pub(crate) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3; // a space, an equals sign and the end of the line
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length += 1;
        }
        bytes.extend(format!("{length} {key}=").into_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    entry("pax", b'x', "", 0o644, &bytes)
}

/// Entries with the end mark.
pub(crate) fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = entries.concat();
    out.extend([0; 1024]);
    out
}

/// A layout's folder; blobs are put into it by their digest.
pub(crate) struct Layout<'a>(pub(crate) &'a Path);

impl Layout<'_> {
    /// Makes it anew.
    pub(crate) fn new(path: &Path) -> Layout<'_> {
        let _ = fs::remove_dir_all(path);
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Layout(path)
    }

    /// Stores a blob; its descriptor.
    pub(crate) fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.0.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Writes `index.json`.
    pub(crate) fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        fs::write(self.0.join("index.json"), index.to_string()).unwrap();
    }

    /// An image's configuration over these layers; `more` is merged into it.
    pub(crate) fn config(&self, layers: &[Vec<u8>], more: Value) -> Value {
        let identities: Vec<Digest> = layers.iter().map(Digest::of).collect();
        let mut config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": identities}});
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    }

    /// A whole image of plain layers, as the only one of the layout.
    pub(crate) fn image(&self, layers: &[Vec<u8>], more: Value) {
        let config = self.put(CONFIG, self.config(layers, more).to_string().as_bytes());
        let layers: Vec<Value> = layers.iter().map(|layer| self.put(LAYER, layer)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.index(&[self.put(MANIFEST, manifest.to_string().as_bytes())]);
    }
}
