//! The OCI image layout directory.

use crate::{
    error::{Error, Result},
    layer::{hash_file, in_parallel, persist, read_failed, read_layer},
    spec::{
        CONFIG, DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, INDEX, ImageConfig, Index, LayoutFile, MANIFEST, Manifest,
        Platform,
    },
    unpack::Limits,
};
use domain::Digest;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
};

/// The largest manifest, index or configuration that is read, in bytes (registries refuse more than four).
const MAX_DOCUMENT: u64 = 8 << 20;

/// A verified image in a layout directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The layout directory.
    pub layout: PathBuf,
    /// Digest of the image manifest: the image's identity.
    pub manifest: Digest,
    /// Digest of the configuration, which classic Docker Engines use as the image's ID.
    pub config: Digest,
    /// Digests of the (compressed) layers, bottom first.
    pub layers: Vec<Digest>,
    /// What it runs on, for example `linux/amd64`.
    pub platform: String,
    /// Bytes of all different blobs together.
    pub bytes: u64,
    /// The last lines that the build printed; empty for an image that was not built by an engine just now.
    pub log_tail: Vec<String>,
}

/// Manifest and configuration of a layout; their own digests hold, the layers are not read yet.
#[derive(Debug, Clone)]
pub(crate) struct Documents {
    pub(crate) manifest_descriptor: Descriptor,
    pub(crate) manifest: Manifest,
    pub(crate) config: ImageConfig,
}

pub(crate) fn blobs_dir(layout: &Path) -> PathBuf {
    layout.join("blobs").join("sha256")
}

/// Reads a layout with one image and verifies every blob: digest, size, media type, and each layer's identity
/// before compression.
///
/// [`Error::Damaged`] names the blob that is not what it should be.
pub fn open(layout: &Path) -> Result<Built> {
    verify(layout, None, &Limits::default()).map(|(built, _)| built)
}

/// All blobs of the image, children before parents (layers, configuration, manifest): the order in which a store should get them. Each once.
pub fn blobs(layout: &Path) -> Result<Vec<(Digest, PathBuf, u64)>> {
    let documents = read_documents(layout, None)?;
    let directory = blobs_dir(layout);
    let all = documents.manifest.layers.iter().chain([&documents.manifest.config, &documents.manifest_descriptor]);
    let mut list: Vec<(Digest, PathBuf, u64)> = Vec::new();
    for descriptor in all {
        if !list.iter().any(|(digest, ..)| *digest == descriptor.digest) {
            list.push((descriptor.digest, directory.join(descriptor.digest.hex()), descriptor.size));
        }
    }
    Ok(list)
}

/// Makes a layout of a directory whose `blobs/sha256/` already holds the manifest and everything that it names, and verifies it.
pub fn assemble(manifest: &Digest, directory: &Path) -> Result<Built> {
    let path = blobs_dir(directory).join(manifest.hex());
    let bytes = read_bytes(&path)?;
    if Digest::of(&bytes) != *manifest {
        return Err(Error::damaged(manifest, "the manifest's bytes have another digest"));
    }
    let document: Manifest = parse(&bytes, manifest)?;
    let config: ImageConfig =
        parse(&read_bytes(&blobs_dir(directory).join(document.config.digest.hex()))?, document.config.digest)?;
    let media_type = document.media_type.clone().unwrap_or_else(|| MANIFEST.to_owned());
    write_index(
        directory,
        Descriptor { platform: Some(config.platform()), ..Descriptor::new(&media_type, *manifest, bytes.len() as u64) },
    )?;
    open(directory)
}

pub(crate) fn verify(layout: &Path, platform: Option<&Platform>, limits: &Limits) -> Result<(Built, Documents)> {
    let documents = read_documents(layout, platform)?;
    let directory = blobs_dir(layout);
    let pairs: Vec<(&Descriptor, &Digest)> =
        documents.manifest.layers.iter().zip(&documents.config.rootfs.diff_ids).collect();
    in_parallel(&pairs, |(descriptor, diff_id)| verify_layer(&directory, descriptor, diff_id, limits))?;
    let built = Built {
        layout: layout.to_owned(),
        manifest: documents.manifest_descriptor.digest,
        config: documents.manifest.config.digest,
        layers: documents.manifest.layers.iter().map(|layer| layer.digest).collect(),
        platform: documents.config.platform().text(),
        bytes: blobs(layout)?.iter().map(|(_, _, size)| size).sum(),
        log_tail: Vec::new(),
    };
    Ok((built, documents))
}

fn verify_layer(directory: &Path, descriptor: &Descriptor, diff_id: &Digest, limits: &Limits) -> Result<()> {
    let path = directory.join(descriptor.digest.hex());
    if let Err(error) = fs::symlink_metadata(&path)
        && error.kind() == io::ErrorKind::NotFound
    {
        return Err(Error::damaged(
            descriptor.digest,
            format!("the layer is missing: {} does not exist", path.display()),
        ));
    }
    let (digest, size) = hash_file(&path)?;
    if digest != descriptor.digest || size != descriptor.size {
        return Err(Error::damaged(
            descriptor.digest,
            format!("the layer has {size} bytes with digest {digest}, not {} bytes", descriptor.size),
        ));
    }
    let mut reader = read_layer(directory, descriptor, limits, limits.bytes)?;
    io::copy(&mut reader, &mut io::sink()).map_err(|error| read_failed(descriptor.digest, error))?;
    let (_, uncompressed, _) = reader.finish();
    if uncompressed != *diff_id {
        return Err(Error::damaged(
            descriptor.digest,
            format!("the layer unpacks to {uncompressed}, the configuration says {diff_id}"),
        ));
    }
    Ok(())
}

/// Reads index, manifest and configuration, and checks what can be checked without the layers.
pub(crate) fn read_documents(layout: &Path, platform: Option<&Platform>) -> Result<Documents> {
    let marker = layout.join("oci-layout");
    let text = read_bytes(&marker)?;
    let file: LayoutFile = parse(&text, marker.display())?;
    if file.image_layout_version != "1.0.0" {
        return Err(Error::damaged(
            marker.display(),
            format!("layout version {:?} is unknown", file.image_layout_version),
        ));
    }
    let index_path = layout.join("index.json");
    let index: Index = parse(&read_bytes(&index_path)?, index_path.display())?;
    let manifest_descriptor = choose(layout, index, platform)?;
    let directory = blobs_dir(layout);
    let manifest: Manifest = parse(&read_blob(&directory, &manifest_descriptor)?, manifest_descriptor.digest)?;
    let known_type =
        manifest.media_type.as_deref().is_none_or(|media_type| matches!(media_type, MANIFEST | DOCKER_MANIFEST));
    if manifest.schema_version != 2 || !known_type {
        return Err(Error::damaged(manifest_descriptor.digest, "it is no image manifest of schema 2"));
    }
    if !matches!(manifest.config.media_type.as_str(), CONFIG | DOCKER_CONFIG) {
        return Err(Error::damaged(
            manifest_descriptor.digest,
            format!("its configuration is of type {:?}, so it is no image", manifest.config.media_type),
        ));
    }
    let config: ImageConfig = parse(&read_blob(&directory, &manifest.config)?, manifest.config.digest)?;
    let (layers, identities) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != identities {
        return Err(Error::damaged(
            manifest.config.digest,
            format!("it names {identities} layers, the manifest {layers}"),
        ));
    }
    Ok(Documents { manifest_descriptor, manifest, config })
}

/// The image of an index: the only one, or the one of the platform. An index may be nested once, as buildx writes it.
fn choose(layout: &Path, index: Index, platform: Option<&Platform>) -> Result<Descriptor> {
    let mut candidates = Vec::new();
    for descriptor in index.manifests {
        if descriptor.media_type == INDEX || descriptor.media_type.ends_with("manifest.list.v2+json") {
            let nested: Index = parse(&read_blob(&blobs_dir(layout), &descriptor)?, descriptor.digest)?;
            candidates.extend(nested.manifests);
        } else {
            candidates.push(descriptor);
        }
    }
    // Attestations of BuildKit stand beside the images as `unknown/unknown`.
    candidates.retain(|d| {
        matches!(d.media_type.as_str(), MANIFEST | DOCKER_MANIFEST)
            && d.platform.as_ref().is_none_or(|p| p.os != "unknown")
    });
    if let (Some(platform), true) = (platform, candidates.len() > 1) {
        candidates.retain(|candidate| candidate.platform.as_ref() == Some(platform));
    }
    let found = candidates.len();
    match candidates.pop() {
        Some(only) if found == 1 => Ok(only),
        _ => Err(Error::damaged(layout.display(), format!("it holds {found} images where one is expected"))),
    }
}

pub(crate) fn read_blob(directory: &Path, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let bytes = read_bytes(&directory.join(descriptor.digest.hex()))?;
    let digest = Digest::of(&bytes);
    if digest != descriptor.digest || bytes.len() as u64 != descriptor.size {
        let why = format!("it has {} bytes with digest {digest}, not {} bytes", bytes.len(), descriptor.size);
        return Err(Error::damaged(descriptor.digest, why));
    }
    Ok(bytes)
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::damaged(path.display(), "it does not exist"));
        }
        other => other.map_err(Error::file("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(Error::damaged(path.display(), format!("it is larger than {MAX_DOCUMENT} bytes")));
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(bytes: &[u8], what: impl ToString) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::damaged(what, format!("its JSON is not understood: {error}")))
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
    let directory = blobs_dir(layout);
    let config = put(&directory, CONFIG, config)?;
    let media_type = Some(MANIFEST.to_owned());
    let manifest = Manifest { schema_version: 2, media_type, config, layers, annotations: Default::default() };
    let manifest = put(&directory, MANIFEST, &to_json(&manifest)?)?;
    write_index(layout, Descriptor { platform: Some(platform), ..manifest })?;
    open(layout)
}

fn write_index(layout: &Path, manifest: Descriptor) -> Result<()> {
    let index = Index { schema_version: 2, media_type: Some(INDEX.to_owned()), manifests: vec![manifest] };
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
