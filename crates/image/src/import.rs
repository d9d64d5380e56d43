//! Image archives and folders that somebody else's tool left, into a layout.
//!
//! A `docker save` archive has a `manifest.json` over its files, in the form of before and of since version 25; one without is taken for an OCI
//! layout in a tar file. Either may be compressed with gzip. Nothing in an archive is believed: its names never become paths, a name may occur once,
//! entries, bytes and compression are limited, and every layer must be the one that the configuration names. Layers of a docker
//! archive are compressed anew, always in the same way, so that one image has one manifest digest.

use crate::{
    error::{Error, Result, count},
    json,
    layer::{BUFFER, Written, in_parallel, persist, write_blob},
    layout::{self, Built, MAX_LAYERS, blobs_dir, read_whole},
    spec::{Descriptor, ImageConfig, LAYER_GZIP},
    tarread::{Kind, Stop, TarReader},
    unpack::Limits,
};
use domain::Digest;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufReader, Read, Write},
    path::{Path, PathBuf},
};

/// The most entries of an archive: layers, their old side files, folders.
const MAX_ENTRIES: usize = 20_000;
/// The largest JSON document of an archive, in bytes.
const MAX_DOCUMENT: u64 = 8 << 20;

/// What `manifest.json` says of an image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SavedImage {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) layers: Option<Vec<String>>,
}

/// Makes a layout of an archive with one image: of `docker save`, of `skopeo copy … docker-archive:` or `oci-archive:`, or of Nix's
/// `dockerTools`; plain or compressed with gzip.
pub fn import_docker_archive(archive: &Path, to: &Path) -> Result<Built> {
    layout::create(to)?;
    let folder = tempfile::tempdir_in(to).map_err(Error::file("create a folder in", to))?;
    let saved = receive(archive, folder.path())?;
    if saved.files.contains_key(b"manifest.json".as_slice()) {
        return convert(&saved, to);
    }
    if saved.files.contains_key(b"index.json".as_slice()) && saved.files.contains_key(b"oci-layout".as_slice()) {
        let staged = saved.as_layout(&folder.path().join("layout"))?;
        return copy(&staged, to);
    }
    Err(Error::bad_with(
        format!("{} is no image archive: it has neither manifest.json nor index.json", saved.name),
        "make it with docker save, or as an OCI archive",
    ))
}

/// Makes a layout of the image that the `index.json` of an archive names, whatever its `manifest.json` says: an archive of `docker save` has
/// both, and engines differ in which one they read.
pub fn import_oci_archive(archive: &Path, to: &Path) -> Result<Built> {
    layout::create(to)?;
    let folder = tempfile::tempdir_in(to).map_err(Error::file("create a folder in", to))?;
    let saved = receive(archive, folder.path())?;
    let staged = saved.as_layout(&folder.path().join("layout"))?;
    copy(&staged, to)
}

/// Copies a layout that somebody else's tool made, with nothing but what belongs to the image, and verifies the copy.
pub fn import_layout(from: &Path, to: &Path) -> Result<Built> {
    for name in ["oci-layout", "index.json"] {
        let path = from.join(name);
        if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            return Err(Error::bad(format!("{} is no OCI layout: it has no file {name}", from.display())));
        }
    }
    copy(from, to)
}

fn copy(from: &Path, to: &Path) -> Result<Built> {
    let contents = read_whole(from)?;
    let (from, blobs) = (blobs_dir(from), layout::create(to)?);
    for blob in &contents.order {
        let (path, target) = (from.join(blob.digest.hex()), blobs.join(blob.digest.hex()));
        if !fs::symlink_metadata(&path).map_err(Error::file("read", &path))?.is_file() {
            return Err(Error::damaged(blob.digest, format!("{} is no plain file", path.display())));
        }
        let file = tempfile::NamedTempFile::new_in(&blobs).map_err(Error::file("create a file in", &blobs))?;
        fs::copy(&path, file.path()).map_err(Error::file("copy", &path))?;
        persist(file, &target)?;
    }
    let root = match (contents.index, contents.images.into_iter().next()) {
        (Some(index), _) => index,
        (None, Some(image)) => Descriptor { platform: Some(image.config.platform()), ..image.manifest_descriptor },
        (None, None) => return Err(Error::bad(format!("{} holds no image", from.display()))),
    };
    layout::write_index(to, root)?;
    // It hashes every blob, so what changed while it was copied does not get through.
    layout::open(to)
}

/// Name in the archive to a file of ours.
struct Saved {
    /// The archive, for errors.
    name: String,
    files: HashMap<Vec<u8>, PathBuf>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

fn limit(packed: u64) -> u64 {
    let limits = Limits::default();
    limits.bytes.min(limits.ratio_from.max(packed.saturating_mul(limits.ratio)))
}

/// What one level of compression hides, by its first bytes.
fn plain(path: &Path) -> Result<Box<dyn Read + Send>> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let mut magic = Vec::new();
    file.take(4).read_to_end(&mut magic).map_err(Error::file("read", path))?;
    let reader = BufReader::with_capacity(BUFFER, File::open(path).map_err(Error::file("open", path))?);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(reader))),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader).map_err(Error::file("read", path))?;
            decoder.window_log_max(crate::layer::ZSTD_WINDOW_LOG).map_err(Error::file("read", path))?;
            Box::new(decoder)
        }
        _ => Box::new(reader),
    })
}

fn receive(archive: &Path, folder: &Path) -> Result<Saved> {
    let name = archive.display().to_string();
    let packed = fs::metadata(archive).map_err(Error::file("read", archive))?.len();
    let mut left = limit(packed);
    let mut reader = TarReader::new(plain(archive)?);
    let mut saved = Saved { name: name.clone(), files: HashMap::new(), links: HashMap::new() };
    let stopped = |stop: Stop| match stop {
        Stop::Io(error) => Error::bad(format!("{name} cannot be read: {error}")),
        Stop::Refused { entry, why } => Error::bad(format!("{name} is refused at {entry:?}: {why}")),
    };
    let refused = |entry: &[u8], why: &str| {
        Error::bad(format!("{name} is refused at {:?}: {why}", String::from_utf8_lossy(entry)))
    };
    let (mut entries, mut buffer) = (0, vec![0; BUFFER]);
    while let Some(entry) = reader.next_entry().map_err(stopped)? {
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(refused(&entry.path, "the archive has more entries than an image has"));
        }
        let path = join(b"", &entry.path);
        if matches!(entry.kind, Kind::File | Kind::Symlink | Kind::HardLink)
            && (saved.files.contains_key(&path) || saved.links.contains_key(&path))
        {
            return Err(refused(&entry.path, "its path occurs twice in the archive"));
        }
        match entry.kind {
            Kind::Symlink | Kind::HardLink => {
                // Classic engines save equal layers once: `<id>/layer.tar -> ../<other id>/layer.tar`.
                let parent = if entry.kind == Kind::Symlink { parent(&path) } else { b"" };
                let target = join(parent, &entry.link);
                saved.links.insert(path, target);
            }
            Kind::File => {
                left = left
                    .checked_sub(entry.size)
                    .ok_or_else(|| refused(&entry.path, "the archive unpacks to more bytes than are allowed"))?;
                let to = folder.join(saved.files.len().to_string());
                let mut file = File::create_new(&to).map_err(Error::file("create", &to))?;
                loop {
                    let read = reader.read(&mut buffer).map_err(stopped)?;
                    if read == 0 {
                        break;
                    }
                    file.write_all(&buffer[..read]).map_err(Error::file("write", &to))?;
                }
                saved.files.insert(path, to);
            }
            Kind::Directory => {}
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                return Err(refused(&entry.path, "it is no file, folder or link"));
            }
        }
    }
    Ok(saved)
}

/// The folder that a name of the archive is in.
pub(crate) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |at| &path[..at])
}

/// A name of the archive below another, without `.` and `..`.
pub(crate) fn join(parent: &[u8], relative: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = parent.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    for part in relative.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

impl Saved {
    fn find(&self, name: &str) -> Result<&Path> {
        let mut bytes = join(b"", name.as_bytes());
        for _ in 0..8 {
            if let Some(path) = self.files.get(&bytes) {
                return Ok(path);
            }
            match self.links.get(&bytes) {
                Some(target) => bytes.clone_from(target),
                None => break,
            }
        }
        Err(Error::damaged(&self.name, format!("it does not have {name:?}")))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.find(name)?;
        let size = fs::metadata(path).map_err(Error::file("read", path))?.len();
        if size > MAX_DOCUMENT {
            return Err(Error::damaged(&self.name, format!("{name:?} is larger than {MAX_DOCUMENT} bytes")));
        }
        fs::read(path).map_err(Error::file("read", path))
    }

    /// The archive as the folder that it is of. Only blobs by their digest and the two documents.
    fn as_layout(&self, to: &Path) -> Result<PathBuf> {
        let blobs = layout::create(to)?;
        for (name, path) in &self.files {
            let name = String::from_utf8_lossy(name);
            let target = match name.as_ref() {
                "index.json" | "oci-layout" => to.join(name.as_ref()),
                name => match name.strip_prefix("blobs/sha256/").and_then(|hex| hex.parse::<Digest>().ok()) {
                    Some(digest) => blobs.join(digest.hex()),
                    None => continue,
                },
            };
            fs::rename(path, &target).map_err(Error::file("move a file to", &target))?;
        }
        Ok(to.to_owned())
    }
}

fn convert(saved: &Saved, to: &Path) -> Result<Built> {
    let misread = |what: &str, why: String| Error::damaged(&saved.name, format!("{what} is not understood: {why}"));
    let images: Vec<SavedImage> =
        json::read_saved(&saved.document("manifest.json")?).map_err(|why| misread("manifest.json", why))?;
    let [image] = images.as_slice() else {
        let found = count(images.len() as u64, "image", "images");
        return Err(Error::bad_with(format!("{} holds {found} instead of one", saved.name), "save one image alone"));
    };
    let config_bytes = saved.document(&image.config)?;
    let config: ImageConfig = json::read(&config_bytes).map_err(|why| misread("its configuration", why))?;
    let names = image.layers.clone().unwrap_or_default();
    if names.len() != config.rootfs.diff_ids.len() {
        let found = count(names.len() as u64, "layer", "layers");
        let why = format!("it has {found}, its configuration names {}", config.rootfs.diff_ids.len());
        return Err(Error::damaged(&saved.name, why));
    }
    if names.len() > MAX_LAYERS {
        return Err(Error::bad(format!("{} has {} layers, more than {MAX_LAYERS}", saved.name, names.len())));
    }
    let files = names.iter().map(|name| saved.find(name)).collect::<Result<Vec<_>>>()?;
    let pairs: Vec<(&Path, &Digest)> = files.into_iter().zip(&config.rootfs.diff_ids).collect();
    let blobs = blobs_dir(to);
    let written = in_parallel(&pairs, |(path, diff_id)| {
        let layer = compress(path, &blobs, &saved.name)?;
        if layer.diff_id != **diff_id {
            let why = format!("it has layer {} where its configuration names {diff_id}", layer.diff_id);
            return Err(Error::damaged(&saved.name, why));
        }
        Ok(layer)
    })?;
    let descriptors = written.iter().map(|layer| Descriptor::new(LAYER_GZIP, layer.digest, layer.size)).collect();
    layout::seal(to, &config_bytes, descriptors, config.platform())
}

fn compress(path: &Path, blobs: &Path, archive: &str) -> Result<Written> {
    let mut left = limit(fs::metadata(path).map_err(Error::file("read", path))?.len());
    let mut plain = plain(path)?;
    write_blob(blobs, |buffer| {
        let read = plain
            .read(buffer)
            .map_err(|error| Error::damaged(archive, format!("a layer cannot be unpacked: {error}")))?;
        left = left.checked_sub(read as u64).ok_or_else(|| {
            Error::bad(format!("{archive} is refused: a layer unpacks to more bytes than are allowed"))
        })?;
        Ok(read)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Imports an archive of one image, whose two documents are these texts.
    fn imported(config: &str, manifest: &str, layer: &[u8]) -> Result<Built> {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let files = [("config.json", config.as_bytes()), ("manifest.json", manifest.as_bytes()), ("layer.tar", layer)];
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).unwrap();
        }
        let path = folder.path().join("archive.tar");
        fs::write(&path, archive.into_inner().unwrap()).unwrap();
        import_docker_archive(&path, &folder.path().join("to"))
    }

    #[test]
    fn one_layer_named_a_thousand_times_and_once_more_is_refused() {
        let layer = tar::Builder::new(Vec::new()).into_inner().unwrap();
        let made = |count: usize| {
            let identities = vec![Digest::of(&layer); count];
            let config =
                json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": identities}});
            let manifest = json!([{"Config": "config.json", "Layers": vec!["layer.tar"; count]}]);
            imported(&config.to_string(), &manifest.to_string(), &layer)
        };
        assert_eq!(made(2).unwrap().layers.len(), 2);
        let error = made(1001).unwrap_err().to_string();
        assert!(error.contains("1001 layers, more than 1000"), "{error}");
    }

    #[test]
    fn documents_with_a_key_twice_are_refused() {
        let layer = tar::Builder::new(Vec::new()).into_inner().unwrap();
        let config = |more: &str| {
            let identity = Digest::of(&layer);
            format!(
                r#"{{"architecture": "amd64", "os": "linux", "rootfs": {{"type": "layers", "diff_ids": ["{identity}"]}}{more}}}"#
            )
        };
        let manifest = |more: &str| format!(r#"[{{"Config": "config.json", "Layers": ["layer.tar"]{more}}}]"#);
        imported(&config(""), &manifest(""), &layer).unwrap();
        for (config, manifest, words) in [
            (config(r#", "x": {"a": 1, "a": 2}"#), manifest(""), ["its configuration is not understood", "`a`"]),
            (config(""), manifest(r#", "x": {"a": 1, "a": 2}"#), ["manifest.json is not understood", "`a`"]),
            (
                config(""),
                manifest(r#", "layers": []"#),
                ["manifest.json is not understood", "\"Layers\" to some readers"],
            ),
        ] {
            let error = imported(&config, &manifest, &layer).unwrap_err();
            assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
            assert_eq!(error.class(), domain::Class::Integrity, "{error}");
        }
    }
}
