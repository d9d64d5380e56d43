//! The OCI image layout directory: one image, or an index of the same image for several platforms.
//!
//! `index.json` names what the layout holds: an image manifest, or an image index (that may name further indexes). That document is the
//! layout's *root*, and its digest the image's identity. Documents are read within bounds ([`MAX_DEPTH`], [`MAX_NAMED`],
//! [`MAX_DOCUMENTS`]), each is hashed before it is believed, and one that could be read as two kinds of document is refused. What else an
//! index names (BuildKit's attestations stand there as platform `unknown/unknown`) is kept and hashed, and is no platform.

use crate::{
    error::{Error, Result},
    layer::{Packing, check_layer, hash_file, in_parallel, persist, wrong_bytes},
    spec::{
        CONFIG, DOCKER_CONFIG, Descriptor, INDEX, ImageConfig, Index, LayoutFile, MANIFEST, Manifest, Platform, Shape,
        is_index, is_manifest,
    },
    unpack::Limits,
};
use domain::Digest;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
};

/// The largest manifest or index that is read, in bytes; registries refuse more as well.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// The largest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 8 << 20;
/// Bytes of all documents of a layout together.
pub(crate) const MAX_DOCUMENTS: u64 = 64 << 20;
/// How many indexes may be nested.
const MAX_DEPTH: usize = 4;
/// How many manifests all indexes of a layout may name together.
const MAX_NAMED: usize = 1000;
/// The most layers of one image; engines refuse more than 127.
pub(crate) const MAX_LAYERS: usize = 1000;

/// A verified image in a layout directory. With several platforms, `manifest`, `config`, `layers` and `platform` are those of the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The layout directory.
    pub layout: PathBuf,
    /// Digest of the image manifest: the image's identity, unless there is an index.
    pub manifest: Digest,
    /// Digest of the configuration, which classic Docker Engines use as the image's ID.
    pub config: Digest,
    /// Digests of the (compressed) layers, bottom first.
    pub layers: Vec<Digest>,
    /// What it runs on, for example `linux/amd64`.
    pub platform: String,
    /// Bytes of all different blobs together.
    pub bytes: u64,
    /// Digest of the image index that names the platforms, when the layout has one.
    pub index: Option<Digest>,
    /// The image for every platform, in the order of the index; at least one.
    pub platforms: Vec<PlatformImage>,
    /// The last lines that the build printed; empty for an image that was not built by an engine just now.
    pub log_tail: Vec<String>,
}

impl Built {
    /// The digest by which the whole image is known: that of its index, or of its only manifest.
    pub fn root(&self) -> Digest {
        self.index.unwrap_or(self.manifest)
    }
}

/// The image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformImage {
    /// What it runs on, for example `linux/arm64`.
    pub platform: String,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Digest of its configuration.
    pub config: Digest,
    /// Digests of its (compressed) layers, bottom first.
    pub layers: Vec<Digest>,
    /// Bytes of its different blobs together.
    pub bytes: u64,
}

/// Manifest and configuration of an image; their own digests hold, the layers are not read yet.
#[derive(Debug, Clone)]
pub(crate) struct Documents {
    pub(crate) manifest_descriptor: Descriptor,
    pub(crate) manifest: Manifest,
    pub(crate) config: ImageConfig,
}

impl Documents {
    /// Its blobs, children before parents.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifest.layers.iter().chain([&self.manifest.config, &self.manifest_descriptor])
    }

    fn image(&self) -> PlatformImage {
        let different: BTreeMap<Digest, u64> = self.blobs().map(|blob| (blob.digest, blob.size)).collect();
        PlatformImage {
            platform: self.config.platform().text(),
            manifest: self.manifest_descriptor.digest,
            config: self.manifest.config.digest,
            layers: self.manifest.layers.iter().map(|layer| layer.digest).collect(),
            bytes: different.values().sum(),
        }
    }
}

/// Everything that a layout's documents name. The documents were hashed; nothing else was read.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The index that is the root, if it is not a manifest.
    pub(crate) index: Option<Descriptor>,
    /// The image for every platform.
    pub(crate) images: Vec<Documents>,
    /// Blobs that are neither documents that were read nor layers of an image: what attestations name.
    others: Vec<Descriptor>,
    /// All blobs, each once, children before parents, the root last.
    pub(crate) order: Vec<Descriptor>,
}

pub(crate) fn blobs_dir(layout: &Path) -> PathBuf {
    layout.join("blobs").join("sha256")
}

/// Reads a layout with one image, for one platform or for several, and verifies every blob: digest, size, media type, and each layer's
/// identity before compression.
///
/// [`Error::Damaged`] names the blob that is not what it should be.
pub fn open(layout: &Path) -> Result<Built> {
    let contents = read_whole(layout)?;
    verify_contents(layout, &contents, &Limits::default())?;
    built(layout, &contents)
}

/// As [`open`], for a layout of this disk that [`open`] or a builder verified before: every blob is hashed again, and no layer is unpacked again, which
/// takes most of the time. The digests hold what was found then.
pub fn reopen(layout: &Path) -> Result<Built> {
    let contents = read_whole(layout)?;
    let directory = blobs_dir(layout);
    in_parallel(&contents.order, |blob| check_blob(&directory, blob))?;
    built(layout, &contents)
}

/// All blobs of the image, children before parents (layers, configuration, manifest, index): the order in which a store should get them.
/// Each once, the root last.
pub fn blobs(layout: &Path) -> Result<Vec<(Digest, PathBuf, u64)>> {
    let directory = blobs_dir(layout);
    let located = |blob: Descriptor| (blob.digest, directory.join(blob.digest.hex()), blob.size);
    Ok(read_whole(layout)?.order.into_iter().map(located).collect())
}

/// Makes a layout of a directory whose `blobs/sha256/` already holds the root (an image manifest or an image index) and everything that it
/// names, and verifies it.
pub fn assemble(root: &Digest, directory: &Path) -> Result<Built> {
    let bytes = read_bytes(&blobs_dir(directory).join(root.hex()), MAX_MANIFEST)?;
    if Digest::of(&bytes) != *root {
        return Err(Error::damaged(root, "its bytes have another digest"));
    }
    let shape = shape(&bytes, root)?;
    let index = shape.manifests.is_some();
    let usual = if index { INDEX } else { MANIFEST };
    let media_type = shape.media_type.unwrap_or_else(|| usual.to_owned());
    let mut descriptor = Descriptor::new(&media_type, *root, bytes.len() as u64);
    if !index {
        descriptor.platform = Some(read_image(&blobs_dir(directory), descriptor.clone())?.config.platform());
    }
    write_index(directory, descriptor)?;
    open(directory)
}

/// What a verified layout is.
fn built(layout: &Path, contents: &Contents) -> Result<Built> {
    let platforms: Vec<PlatformImage> = contents.images.iter().map(Documents::image).collect();
    let first = platforms.first().cloned().ok_or_else(|| none(layout))?;
    Ok(Built {
        layout: layout.to_owned(),
        manifest: first.manifest,
        config: first.config,
        layers: first.layers,
        platform: first.platform,
        bytes: contents.order.iter().map(|blob| blob.size).sum(),
        index: contents.index.as_ref().map(|index| index.digest),
        platforms,
        log_tail: Vec::new(),
    })
}

fn none(layout: &Path) -> Error {
    Error::damaged(layout.display(), "it holds 0 images where one is expected")
}

/// Hashes everything that reading the documents did not.
fn verify_contents(layout: &Path, contents: &Contents, limits: &Limits) -> Result<()> {
    contents.images.iter().try_for_each(|image| verify_layers(layout, image, limits))?;
    let directory = blobs_dir(layout);
    in_parallel(&contents.others, |blob| check_blob(&directory, blob))?;
    Ok(())
}

/// Verifies the layers of one image.
pub(crate) fn verify_layers(layout: &Path, documents: &Documents, limits: &Limits) -> Result<()> {
    let directory = blobs_dir(layout);
    let mut seen = BTreeSet::new();
    let pairs: Vec<(&Descriptor, &Digest)> = documents
        .manifest
        .layers
        .iter()
        .zip(&documents.config.rootfs.diff_ids)
        .filter(|(layer, identity)| seen.insert((layer.digest, layer.size, &layer.media_type, *identity)))
        .collect();
    in_parallel(&pairs, |(descriptor, identity)| {
        present(&directory, descriptor, "layer")?;
        check_layer(&directory, descriptor, identity, limits)
    })?;
    Ok(())
}

fn present(directory: &Path, descriptor: &Descriptor, noun: &str) -> Result<()> {
    let path = directory.join(descriptor.digest.hex());
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = format!("the {noun} is missing: {} does not exist", path.display());
            Err(Error::damaged(descriptor.digest, why))
        }
        Ok(found) if !found.is_file() => {
            Err(Error::damaged(descriptor.digest, format!("the {noun} is no file: {}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Hashes one blob.
pub(crate) fn check_blob(directory: &Path, descriptor: &Descriptor) -> Result<()> {
    present(directory, descriptor, "blob")?;
    let (digest, size) = hash_file(&directory.join(descriptor.digest.hex()))?;
    if digest != descriptor.digest || size != descriptor.size {
        return Err(wrong_bytes(descriptor, digest, size));
    }
    Ok(())
}

/// The one image of a layout, or the one for the platform; without a platform, of several the one for this machine.
pub(crate) fn read_documents(layout: &Path, platform: Option<&Platform>) -> Result<Documents> {
    let host = Platform::host();
    let mut images = read_contents(layout)?.images;
    let held: Vec<String> = images.iter().map(|image| image.config.platform().text()).collect();
    if platform.is_some() || images.len() > 1 {
        let wanted = platform.unwrap_or(&host);
        images.retain(|image| image.config.platform().matches(wanted));
        if images.is_empty() && !held.is_empty() {
            let why = format!("it is for {}, not for {}", held.join(" and "), wanted.text());
            return Err(Error::damaged(layout.display(), why));
        }
    }
    let found = images.len();
    match images.pop() {
        Some(only) if found == 1 => Ok(only),
        _ => Err(Error::damaged(layout.display(), format!("it holds {found} images where one is expected"))),
    }
}

/// Reads the documents of a layout whose root is one document.
pub(crate) fn read_whole(layout: &Path) -> Result<Contents> {
    let contents = read_contents(layout)?;
    if contents.index.is_none() && contents.images.len() != 1 {
        let why = format!("it holds {} images where one is expected, or an index of them", contents.images.len());
        return Err(Error::damaged(layout.display(), why));
    }
    if contents.images.is_empty() {
        return Err(none(layout));
    }
    Ok(contents)
}

/// Reads all documents of a layout, also of one that names several images without an index of them.
fn read_contents(layout: &Path) -> Result<Contents> {
    let marker = layout.join("oci-layout");
    let file: LayoutFile = parse(&read_bytes(&marker, MAX_CONFIG)?, marker.display())?;
    if file.image_layout_version != "1.0.0" {
        return Err(Error::damaged(
            marker.display(),
            format!("layout version {:?} is unknown", file.image_layout_version),
        ));
    }
    let path = layout.join("index.json");
    let index: Index = parse(&read_bytes(&path, MAX_MANIFEST)?, path.display())?;
    let mut roots: Vec<Descriptor> = Vec::new();
    for descriptor in index.manifests {
        // What a layout names beside images is not ours (the specification says to ignore it); one image may have several names.
        let ours =
            (is_index(&descriptor.media_type) || is_manifest(&descriptor.media_type)) && !is_attestation(&descriptor);
        if ours && roots.iter().all(|root| root.digest != descriptor.digest) {
            roots.push(descriptor);
        }
    }
    let mut walk = Walk {
        directory: blobs_dir(layout),
        above: Vec::new(),
        seen: BTreeMap::new(),
        named: 0,
        bytes: 0,
        contents: Contents { index: None, images: Vec::new(), others: Vec::new(), order: Vec::new() },
    };
    if let [root] = roots.as_slice()
        && is_index(&root.media_type)
    {
        walk.contents.index = Some(root.clone());
    }
    for root in roots {
        walk.visit(root)?;
    }
    Ok(walk.contents)
}

fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
}

/// A walk over the documents of a layout, parents on the way down, children noted first on the way up.
struct Walk {
    directory: PathBuf,
    /// The indexes that are being read, outermost first.
    above: Vec<Digest>,
    /// What was met, with its size: one digest has one size.
    seen: BTreeMap<Digest, u64>,
    named: usize,
    bytes: u64,
    contents: Contents,
}

impl Walk {
    fn visit(&mut self, descriptor: Descriptor) -> Result<()> {
        if self.above.contains(&descriptor.digest) {
            return Err(Error::damaged(descriptor.digest, "the index names itself, so it has no end"));
        }
        if self.seen.contains_key(&descriptor.digest) {
            return self.note(&descriptor).map(drop);
        }
        self.spend(&descriptor)?;
        if is_index(&descriptor.media_type) {
            return self.index(descriptor);
        }
        if is_attestation(&descriptor) || !is_manifest(&descriptor.media_type) {
            return self.other(descriptor);
        }
        let image = read_image(&self.directory, descriptor)?;
        self.spend(&image.manifest.config)?;
        for blob in image.blobs() {
            self.note(blob)?;
        }
        self.contents.images.push(image);
        Ok(())
    }

    fn index(&mut self, descriptor: Descriptor) -> Result<()> {
        if self.above.len() >= MAX_DEPTH {
            return Err(Error::damaged(descriptor.digest, format!("indexes are nested deeper than {MAX_DEPTH}")));
        }
        let bytes = read_document(&self.directory, &descriptor)?;
        let index: Index = parse(&bytes, descriptor.digest)?;
        self.named += index.manifests.len();
        if self.named > MAX_NAMED {
            return Err(Error::damaged(descriptor.digest, format!("its indexes name more than {MAX_NAMED} manifests")));
        }
        self.above.push(descriptor.digest);
        for child in index.manifests {
            let said = child.platform.clone();
            let before = self.contents.images.len();
            let (digest, image) = (child.digest, is_manifest(&child.media_type));
            self.visit(child)?;
            let (Some(said), Some(read), true) = (said, self.contents.images.get(before), image) else { continue };
            let is = read.config.platform();
            if (&said.os, &said.architecture) != (&is.os, &is.architecture) {
                let why = format!("the index says that it is for {}, its configuration {}", said.text(), is.text());
                return Err(Error::damaged(digest, why));
            }
        }
        self.above.pop();
        self.note(&descriptor)?;
        Ok(())
    }

    /// Something that is no image: kept whole when it is a manifest, and never understood.
    fn other(&mut self, descriptor: Descriptor) -> Result<()> {
        if is_manifest(&descriptor.media_type) {
            let manifest: Manifest = parse(&read_document(&self.directory, &descriptor)?, descriptor.digest)?;
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                if self.note(blob)? {
                    self.contents.others.push(blob.clone());
                }
            }
        } else {
            self.contents.others.push(descriptor.clone());
        }
        self.note(&descriptor).map(drop)
    }

    fn spend(&mut self, document: &Descriptor) -> Result<()> {
        self.bytes = self.bytes.saturating_add(document.size);
        if self.bytes > MAX_DOCUMENTS && (is_index(&document.media_type) || is_manifest(&document.media_type)) {
            let why = format!("the documents of its image are larger than {MAX_DOCUMENTS} bytes together");
            return Err(Error::damaged(document.digest, why));
        }
        Ok(())
    }

    /// Puts a blob in the order if it is not there; says whether it was not.
    fn note(&mut self, blob: &Descriptor) -> Result<bool> {
        match self.seen.insert(blob.digest, blob.size) {
            None => {
                self.contents.order.push(blob.clone());
                Ok(true)
            }
            Some(size) if size == blob.size => Ok(false),
            Some(size) => {
                Err(Error::damaged(blob.digest, format!("it is said to have {size} bytes, and {} bytes", blob.size)))
            }
        }
    }
}

/// Reads manifest and configuration, and checks what can be checked without the layers.
fn read_image(directory: &Path, manifest_descriptor: Descriptor) -> Result<Documents> {
    let manifest: Manifest = parse(&read_document(directory, &manifest_descriptor)?, manifest_descriptor.digest)?;
    if !matches!(manifest.config.media_type.as_str(), CONFIG | DOCKER_CONFIG) {
        return Err(Error::damaged(
            manifest_descriptor.digest,
            format!("its configuration is of type {:?}, so it is no image", manifest.config.media_type),
        ));
    }
    let config: ImageConfig = parse(&read_blob(directory, &manifest.config, MAX_CONFIG)?, manifest.config.digest)?;
    let (layers, identities) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != identities {
        return Err(Error::damaged(
            manifest.config.digest,
            format!("it names {identities} layers, the manifest {layers}"),
        ));
    }
    // A foreign layer is not here at all, so it is refused before anything looks for it.
    manifest.layers.iter().try_for_each(|layer| Packing::of(layer).map(drop))?;
    if layers > MAX_LAYERS {
        return Err(Error::damaged(manifest_descriptor.digest, format!("it has more than {MAX_LAYERS} layers")));
    }
    Ok(Documents { manifest_descriptor, manifest, config })
}

/// The bytes of a manifest or index, which are one of the two and of the type that they were announced as.
fn read_document(directory: &Path, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let bytes = read_blob(directory, descriptor, MAX_MANIFEST)?;
    check_document(&bytes, descriptor)?;
    Ok(bytes)
}

/// Whether bytes are a manifest or index of schema 2, not both, and of the type that their descriptor announces.
pub(crate) fn check_document(bytes: &[u8], descriptor: &Descriptor) -> Result<()> {
    let shape = shape(bytes, &descriptor.digest)?;
    let noun = if is_index(&descriptor.media_type) { "image index" } else { "image manifest" };
    let said = shape.media_type.as_deref().unwrap_or(&descriptor.media_type);
    let is_so = is_index(&descriptor.media_type) == shape.manifests.is_some();
    if shape.schema_version != 2 || said != descriptor.media_type || !is_so {
        let why = format!("it is no {noun} of schema 2 (announced as {}, it says {said})", descriptor.media_type);
        return Err(Error::damaged(descriptor.digest, why));
    }
    Ok(())
}

fn shape(bytes: &[u8], digest: &Digest) -> Result<Shape> {
    let shape: Shape = parse(bytes, digest)?;
    if shape.manifests.is_some() && (shape.config.is_some() || shape.layers.is_some()) {
        return Err(Error::damaged(digest, "it is an image index and an image manifest at once"));
    }
    Ok(shape)
}

pub(crate) fn read_blob(directory: &Path, descriptor: &Descriptor, most: u64) -> Result<Vec<u8>> {
    let bytes = read_bytes(&directory.join(descriptor.digest.hex()), most)?;
    let digest = Digest::of(&bytes);
    if digest != descriptor.digest || bytes.len() as u64 != descriptor.size {
        return Err(wrong_bytes(descriptor, digest, bytes.len() as u64));
    }
    Ok(bytes)
}

fn read_bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::damaged(path.display(), "it does not exist"));
        }
        other => other.map_err(Error::file("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    if bytes.len() as u64 > most {
        return Err(Error::damaged(path.display(), format!("it is larger than {most} bytes")));
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(bytes: &[u8], what: impl ToString) -> Result<T> {
    crate::json::read(bytes).map_err(|error| Error::damaged(what, format!("its JSON is not understood: {error}")))
}

/// Makes an empty layout.
pub(crate) fn create(layout: &Path) -> Result<PathBuf> {
    let directory = blobs_dir(layout);
    fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
    Ok(directory)
}

/// Stores bytes as a blob.
pub(crate) fn put(directory: &Path, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
    let digest = Digest::of(bytes);
    write_file(directory, &digest.hex(), bytes)?;
    Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
}

/// Writes configuration and manifest over layers that are there, then the index, which makes it an image. Verifies it.
pub(crate) fn seal(layout: &Path, config: &[u8], layers: Vec<Descriptor>, platform: Platform) -> Result<Built> {
    let manifest = put_image(&blobs_dir(layout), config, layers, platform, BTreeMap::new())?;
    write_index(layout, manifest)?;
    open(layout)
}

/// Stores configuration and manifest of one image.
pub(crate) fn put_image(
    directory: &Path,
    config: &[u8],
    layers: Vec<Descriptor>,
    platform: Platform,
    annotations: BTreeMap<String, String>,
) -> Result<Descriptor> {
    let config = put(directory, CONFIG, config)?;
    let media_type = Some(MANIFEST.to_owned());
    let manifest = Manifest { schema_version: 2, media_type, config, layers, annotations };
    let manifest = put(directory, MANIFEST, &to_json(&manifest)?)?;
    Ok(Descriptor { platform: Some(platform), ..manifest })
}

/// Makes what is there the layout of one root, whose layers the caller has just written or hashed: only the documents are read.
pub(crate) fn seal_hashed(layout: &Path, root: Descriptor) -> Result<Built> {
    write_index(layout, root)?;
    let contents = read_whole(layout)?;
    contents
        .images
        .iter()
        .flat_map(|image| &image.manifest.layers)
        .try_for_each(|layer| present(&blobs_dir(layout), layer, "layer"))?;
    built(layout, &contents)
}

/// Stores an image index.
pub(crate) fn put_index(
    directory: &Path,
    manifests: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
) -> Result<Descriptor> {
    let index = Index { schema_version: 2, media_type: Some(INDEX.to_owned()), manifests, annotations };
    put(directory, INDEX, &to_json(&index)?)
}

/// Writes `oci-layout` and `index.json`, which make a directory of blobs a layout.
pub(crate) fn write_index(layout: &Path, root: Descriptor) -> Result<()> {
    let index = Index {
        schema_version: 2,
        media_type: Some(INDEX.to_owned()),
        manifests: vec![root],
        annotations: BTreeMap::new(),
    };
    write_file(layout, "oci-layout", &to_json(&LayoutFile { image_layout_version: "1.0.0".to_owned() })?)?;
    write_file(layout, "index.json", &to_json(&index)?)
}

fn write_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(Error::file("create a file in", directory))?;
    file.write_all(bytes).map_err(Error::file("write", &directory.join(name)))?;
    persist(file, &directory.join(name))
}

pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::bad(format!("cannot be written as JSON: {error}")))
}
