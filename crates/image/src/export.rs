//! An engine's image into a layout.
//!
//! It comes as an archive, in one of four forms: `docker save` of old engines, that of 25 and newer with `blobs/sha256/`, that of the containerd image
//! store, whose layers are compressed already, and BuildKit's OCI archive. An archive whose layers are compressed keeps its manifest, layers and configuration
//! byte for byte: their digests are those that the engine knows. Other layers are compressed here while they arrive, and are never on the disk as they came,
//! always in the same way, so that one image has one manifest digest wherever it was built; the configuration is kept byte for byte.
//!
//! Attestations that BuildKit puts beside an image are left out: what was built and how is said by us, over the digest.

use crate::{
    error::{Error, Result, count, joined},
    import::{SavedImage, join, parent},
    json,
    layer::{BUFFER, Written, check_layer, in_parallel, write_blob},
    layout::{self, blobs_dir},
    spec::{Descriptor, ImageConfig, Index, LAYER_GZIP, LAYER_TAR, Manifest, Platform, is_index, is_manifest},
    tarread::{Kind, Stop, TarReader},
    unpack::Limits,
};
use bytes::Bytes;
use domain::{
    Digest, Events,
    event::{Task, Unit},
};
use flate2::read::MultiGzDecoder;
use futures::Stream;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tokio_util::{
    io::{StreamReader, SyncIoBridge},
    sync::CancellationToken,
};

/// How deep BuildKit nests indexes: the archive's own, and one around image and attestations.
const DEEPEST_INDEX: usize = 3;
/// What the archives of old engines say of their image.
const SAVED: &str = "manifest.json";
/// How much of a file tells whether it is a tar file: two of its blocks.
const BEGINNING: usize = 1024;

/// An image whose blobs are in the layout.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) manifest: Descriptor,
    pub(crate) config: Digest,
}

/// Which image is expected, and what is said of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    /// How messages call it.
    pub(crate) what: String,
    /// The engine, for messages.
    pub(crate) engine: String,
    /// What it was built from, for messages.
    pub(crate) dockerfile: String,
    /// The one to take if the archive has images for several platforms.
    pub(crate) platform: Option<Platform>,
    /// Annotations of the manifest, where it is written here.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Expected {
    /// That an image has no layers. BuildKit writes `null` for them, and other engines refuse to save it.
    pub(crate) fn empty(&self) -> Error {
        let what =
            format!("{} makes an image without a single file, which a Docker Engine cannot save", self.dockerfile);
        Error::bad_with(what, "copy something into it, or set build.builder to none")
    }
}

/// How a manifest may have no layers.
#[derive(Deserialize)]
struct Layers {
    layers: Option<Vec<serde::de::IgnoredAny>>,
}

/// Reads the archive from the engine and writes the image's blobs into the layout `to`. The layout's index is not written. It stops when the future is dropped.
pub(crate) async fn receive(
    archive: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    expected: Expected,
    to: &Path,
    events: &Events,
) -> Result<Image> {
    use futures::StreamExt as _;
    let stopped = CancellationToken::new();
    let _guard = stopped.clone().drop_guard();
    let archive = Box::pin(archive.take_until(stopped.cancelled_owned()));
    let mut reader = SyncIoBridge::new(StreamReader::new(archive));
    let (to, events) = (to.to_owned(), events.clone());
    let work = tokio::task::spawn_blocking(move || {
        let silent = |cause: String| Error::Engine {
            engine: expected.engine.clone(),
            action: format!("save {}", expected.what),
            cause,
        };
        // While it builds there is nothing to save yet.
        if reader.fill_buf().map_err(|error| silent(error.to_string()))?.is_empty() {
            return Err(silent("it sent nothing".to_owned()));
        }
        let blobs = layout::create(&to)?;
        let folder = tempfile::tempdir_in(&to).map_err(Error::file("create a folder in", &to))?;
        let task = events.task("save the image", None, Unit::Bytes);
        let saved = spool(reader, folder.path(), &blobs, &expected, &task)?;
        let bytes = task.done();
        let image = convert(&saved, &expected, &to)?;
        task.finish(format!("{}, {}", image.manifest.digest, count(bytes, "byte", "bytes")));
        Ok(image)
    });
    joined("save the image to", work.await)?
}

/// What a file of the archive became.
enum Kept {
    File(PathBuf),
    /// An uncompressed layer, compressed while it arrived: a blob of the layout.
    Layer(Written),
}

/// Name in the archive to what is ours; names of the archive never become paths.
#[derive(Default)]
struct Saved {
    files: HashMap<Vec<u8>, Kept>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

/// Takes the archive apart.
fn spool(reader: impl Read, folder: &Path, blobs: &Path, expected: &Expected, task: &Task) -> Result<Saved> {
    entries(reader, folder, blobs, task).map_err(|stop| match stop {
        Received::Stop(Stop::Io(error)) => Error::Engine {
            engine: expected.engine.clone(),
            action: format!("save {}", expected.what),
            cause: error.to_string(),
        },
        Received::Stop(Stop::Refused { entry, why }) => {
            Error::damaged(&expected.what, format!("the engine's archive at {entry:?}: {why}"))
        }
        Received::Local(error) => error,
    })
}

enum Received {
    Stop(Stop),
    Local(Error),
}

impl From<Stop> for Received {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<Error> for Received {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

fn entries(reader: impl Read, folder: &Path, blobs: &Path, task: &Task) -> Result<Saved, Received> {
    let mut archive = TarReader::new(reader);
    let mut saved = Saved::default();
    while let Some(entry) = archive.next_entry()? {
        match entry.kind {
            Kind::Symlink | Kind::HardLink => {
                // Old engines save equal layers once: `<id>/layer.tar -> ../<other id>/layer.tar`.
                let parent = if entry.kind == Kind::Symlink { parent(&entry.path) } else { b"" };
                saved.links.insert(entry.path.clone(), join(parent, &entry.link));
            }
            Kind::File => {
                let path = folder.join(saved.files.len().to_string());
                saved.files.insert(entry.path, file(&mut archive, path, blobs, task)?);
            }
            _ => {}
        }
    }
    // Whoever sends it is still sending its end.
    archive.drain()?;
    Ok(saved)
}

/// Takes one file: a layer as a blob, anything else as it is.
fn file(archive: &mut TarReader<impl Read>, path: PathBuf, blobs: &Path, task: &Task) -> Result<Kept, Received> {
    let mut beginning = vec![0; BEGINNING];
    let mut known = 0;
    while known < BEGINNING {
        match archive.read(&mut beginning[known..])? {
            0 => break,
            read => known += read,
        }
    }
    beginning.truncate(known);
    task.advance(known as u64);
    let layer = is_tar(&beginning);
    let mut beginning = beginning.as_slice();
    let mut stopped = None;
    let mut read = |buffer: &mut [u8]| {
        if !beginning.is_empty() {
            return beginning.read(buffer).map_err(Error::file("read", &path));
        }
        let read = archive.read(buffer).map_err(|stop| {
            // It goes out by `stopped`.
            stopped = Some(stop);
            Error::bad("the engine's archive ended")
        })?;
        task.advance(read as u64);
        Ok(read)
    };
    let kept =
        if layer { write_blob(blobs, read).map(Kept::Layer) } else { keep_file(&path, &mut read).map(Kept::File) };
    match stopped {
        Some(stop) => Err(Received::Stop(stop)),
        None => Ok(kept?),
    }
}

fn keep_file(path: &Path, read: &mut impl FnMut(&mut [u8]) -> Result<usize>) -> Result<PathBuf> {
    let mut file = File::create_new(path).map_err(Error::file("create", path))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match read(&mut buffer)? {
            0 => return Ok(path.to_owned()),
            read => file.write_all(&buffer[..read]).map_err(Error::file("write", path))?,
        }
    }
}

/// A tar file has its magic in the first header, and an empty one is two blocks of zeros.
fn is_tar(beginning: &[u8]) -> bool {
    let empty = || beginning.get(..BEGINNING).is_some_and(|blocks| blocks.iter().all(|byte| *byte == 0));
    beginning.get(257..262) == Some(b"ustar") || empty()
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Saved {
    fn has(&self, name: &str) -> bool {
        self.files.contains_key(name.as_bytes())
    }

    fn find(&self, what: &str, name: &str) -> Result<&Kept> {
        let mut name = name.as_bytes();
        for _ in 0..8 {
            if let Some(kept) = self.files.get(name) {
                return Ok(kept);
            }
            match self.links.get(name) {
                Some(target) => name = target,
                None => break,
            }
        }
        Err(Error::damaged(what, format!("the engine's archive does not have {:?}", String::from_utf8_lossy(name))))
    }

    /// A file that is no uncompressed layer.
    fn file(&self, what: &str, name: &str) -> Result<&Path> {
        match self.find(what, name)? {
            Kept::File(path) => Ok(path),
            Kept::Layer(_) => Err(Error::damaged(what, format!("the engine's {name} is a tar file"))),
        }
    }

    fn read(&self, what: &str, name: &str) -> Result<Vec<u8>> {
        let path = self.file(what, name)?;
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(Error::file("open", path))?;
        file.take(layout::MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
        if bytes.len() as u64 > layout::MAX_MANIFEST {
            return Err(Error::damaged(
                what,
                format!("the engine's {name} is larger than {} bytes", layout::MAX_MANIFEST),
            ));
        }
        Ok(bytes)
    }

    fn document<T: DeserializeOwned>(&self, what: &str, name: &str) -> Result<T> {
        let bytes = self.read(what, name)?;
        let read = if name == SAVED { json::read_saved(&bytes) } else { json::read(&bytes) };
        read.map_err(|why| Error::damaged(what, format!("the engine's {name} is not understood: {why}")))
    }

    /// The image's manifest, if the archive has one that is not only for old readers.
    fn manifest(&self, expected: &Expected) -> Result<Option<(Descriptor, Manifest)>> {
        let what = &expected.what;
        if !self.has("index.json") {
            return Ok(None);
        }
        let index: Index = self.document(what, "index.json")?;
        let mut candidates = index.manifests;
        for _ in 0..DEEPEST_INDEX {
            let mut flat = Vec::new();
            for descriptor in candidates {
                if is_index(&descriptor.media_type) {
                    flat.extend(self.document::<Index>(what, &blob_name(&descriptor.digest))?.manifests);
                } else {
                    flat.push(descriptor);
                }
            }
            candidates = flat;
        }
        // Attestations stand beside the image as `unknown/unknown`; images for other platforms may be named without being there.
        candidates.retain(|one| {
            is_manifest(&one.media_type)
                && one.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
                && self.has(&blob_name(&one.digest))
        });
        candidates.dedup_by_key(|one| one.digest);
        if let (Some(platform), true) = (&expected.platform, candidates.len() > 1) {
            candidates.retain(|one| one.platform.as_ref() == Some(platform));
        }
        match candidates.as_slice() {
            [one] => {
                let name = blob_name(&one.digest);
                if self.document::<Layers>(what, &name)?.layers.is_none_or(|layers| layers.is_empty()) {
                    return Err(expected.empty());
                }
                Ok(Some((one.clone(), self.document(what, &name)?)))
            }
            several => Err(Error::damaged(what, format!("the engine saved {} images instead of one", several.len()))),
        }
    }
}

fn convert(saved: &Saved, expected: &Expected, to: &Path) -> Result<Image> {
    let what = &expected.what;
    if let Some((descriptor, manifest)) = saved.manifest(expected)? {
        if manifest.layers.iter().all(|layer| layer.media_type != LAYER_TAR) {
            return keep(saved, descriptor, &manifest, what, to);
        }
        let layers: Vec<String> = manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect();
        return repack(saved, &blob_name(&manifest.config.digest), &layers, expected, to);
    }
    let images: Vec<SavedImage> = saved.document(what, SAVED)?;
    let [image] = images.as_slice() else {
        return Err(Error::damaged(what, format!("the engine saved {} images instead of one", images.len())));
    };
    repack(saved, &image.config, image.layers.as_deref().unwrap_or_default(), expected, to)
}

fn same_number(what: &str, layers: usize, config: &ImageConfig) -> Result<()> {
    let named = config.rootfs.diff_ids.len();
    if layers == named {
        return Ok(());
    }
    let layers = count(layers as u64, "layer", "layers");
    Err(Error::damaged(what, format!("the engine saved {layers}, the configuration names {named}")))
}

/// Takes the engine's own blobs.
fn keep(saved: &Saved, descriptor: Descriptor, manifest: &Manifest, what: &str, to: &Path) -> Result<Image> {
    let blobs = blobs_dir(to);
    let config: ImageConfig = saved.document(what, &blob_name(&manifest.config.digest))?;
    same_number(what, manifest.layers.len(), &config)?;
    for one in manifest.layers.iter().chain([&manifest.config, &descriptor]) {
        let path = blobs.join(one.digest.hex());
        if path.exists() {
            continue;
        }
        let from = saved.file(what, &blob_name(&one.digest))?;
        fs::set_permissions(from, fs::Permissions::from_mode(0o644)).map_err(Error::file("set the mode of", from))?;
        fs::rename(from, &path).map_err(Error::file("rename a blob to", &path))?;
    }
    let pairs: Vec<(&Descriptor, &Digest)> = manifest.layers.iter().zip(&config.rootfs.diff_ids).collect();
    in_parallel(&pairs, |(layer, diff_id)| check_layer(&blobs, layer, diff_id, &Limits::default()))?;
    let descriptor = Descriptor { platform: Some(config.platform()), annotations: BTreeMap::new(), ..descriptor };
    Ok(Image { manifest: descriptor, config: manifest.config.digest })
}

/// Compresses what is not yet, and writes a manifest over it.
fn repack(saved: &Saved, config: &str, names: &[String], expected: &Expected, to: &Path) -> Result<Image> {
    let (what, blobs) = (&expected.what, blobs_dir(to));
    let config_bytes = saved.read(what, config)?;
    let config: ImageConfig = json::read(&config_bytes)
        .map_err(|error| Error::damaged(what, format!("the engine's configuration is not understood: {error}")))?;
    same_number(what, names.len(), &config)?;
    let files = names.iter().map(|name| saved.find(what, name)).collect::<Result<Vec<_>>>()?;
    let pairs: Vec<(&Kept, &Digest)> = files.into_iter().zip(&config.rootfs.diff_ids).collect();
    let written = in_parallel(&pairs, |(kept, diff_id)| {
        let layer = match kept {
            Kept::Layer(layer) => layer.clone(),
            Kept::File(path) => compress(path, &blobs, what)?,
        };
        if layer.diff_id != **diff_id {
            let why = format!("the engine saved layer {} where the configuration names {diff_id}", layer.diff_id);
            return Err(Error::damaged(what, why));
        }
        Ok(layer)
    })?;
    let layers = written.iter().map(|layer| Descriptor::new(LAYER_GZIP, layer.digest, layer.size)).collect();
    let manifest = layout::put_image(&blobs, &config_bytes, layers, config.platform(), expected.annotations.clone())?;
    Ok(Image { manifest, config: Digest::of(&config_bytes) })
}

fn compress(path: &Path, blobs: &Path, what: &str) -> Result<Written> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let mut magic = [0; 4];
    let known = file.read(&mut magic).map_err(Error::file("read", path))?;
    let reader = BufReader::with_capacity(BUFFER, File::open(path).map_err(Error::file("open", path))?);
    let mut plain: Box<dyn Read> = match &magic[..known] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            return Err(Error::damaged(what, "a layer is compressed with zstd and no manifest says so"));
        }
        _ => Box::new(reader),
    };
    write_blob(blobs, |buffer| plain.read(buffer).map_err(Error::file("read", path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Class;

    #[test]
    fn documents_with_a_key_twice_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let saved = |name: &str, text: &str| {
            let path = folder.path().join("document");
            fs::write(&path, text).unwrap();
            Saved { files: HashMap::from([(name.as_bytes().to_vec(), Kept::File(path))]), ..Saved::default() }
        };
        let good = r#"[{"Config": "c", "Layers": ["a"], "RepoTags": ["a:1"]}]"#;
        saved(SAVED, good).document::<Vec<SavedImage>>("x", SAVED).unwrap();
        for (bad, words) in [
            (r#"[{"Config": "c", "config": "d", "Layers": []}]"#, "\"Config\" to some readers"),
            (r#"[{"Config": "c", "Layers": [], "x": {"a": 1, "a": 2}}]"#, "duplicate field `a`"),
        ] {
            let error = saved(SAVED, bad).document::<Vec<SavedImage>>("x", SAVED).err().unwrap();
            assert!(error.to_string().contains(words) && error.to_string().contains(SAVED), "{error}");
            assert_eq!(error.class(), Class::Integrity);
        }
        let index = r#"{"schemaVersion": 2, "manifests": [], "annotations": {"a": "1", "a": "2"}}"#;
        let error = saved("index.json", index).document::<Index>("x", "index.json").err().unwrap();
        assert!(error.to_string().contains("index.json is not understood: duplicate field `a`"), "{error}");
        assert_eq!(error.class(), Class::Integrity);
    }
}
