//! A layout to what other tools take: an archive for `docker load`, an OCI archive, or a copy of the layout.
//!
//! The archive for Docker is both things at once, as Docker's own `save` has made it since version 25: an OCI layout, which the containerd image
//! store reads (so the image keeps its digest, and all of its platforms), and a `manifest.json` over the same files, which every older
//! engine and skopeo's `docker-archive:` read (so the image's ID is its configuration digest). Those read one image: that of this machine's platform, or
//! of the one that was asked for.
//!
//! Every blob is hashed on its way out: what is written either is what the image's digest says, or the call fails.

use crate::{
    error::{Error, Result},
    layer::{Hashing, Packing, read_failed, read_layer, wrong_bytes},
    layercache,
    layout::{self, Contents, Documents, blobs_dir, read_documents, read_whole, to_json},
    registry::ImageName,
    spec::{Descriptor, INDEX, Index, Platform},
    unpack::Limits,
};
use domain::Digest;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

/// The file `oci-layout`.
pub(crate) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Writes the image of a layout as an archive for `docker load` (20.10 and newer) or `skopeo copy docker-archive:…`.
///
/// `reference`, for example `registry.example/wine:1.2.0`, is the name that the image gets when it is loaded; without it, it has only its ID.
/// Of an index, every platform is in the archive; a reader that takes one image gets the one for this machine, or the first.
/// The same layout and reference give the same bytes.
pub fn docker_archive(layout: &Path, reference: Option<&str>, out: impl Write) -> Result<()> {
    let contents = read_whole(layout)?;
    let host = Platform::host();
    let own = contents.images.iter().position(|image| image.config.platform().matches(&host)).unwrap_or(0);
    let image = contents.images[own].clone();
    let root = match &contents.index {
        Some(index) => index.clone(),
        None => with_platform(&image),
    };
    write_docker_archive(layout, &contents.order, root, &image, reference, out)
}

/// As [`docker_archive`], with the image for one platform of an index only.
pub fn docker_archive_for(layout: &Path, platform: &str, reference: Option<&str>, out: impl Write) -> Result<()> {
    let image = read_documents(layout, Some(&crate::base::parse_platform(platform)?))?;
    let mut order: Vec<Descriptor> = Vec::new();
    for blob in image.blobs() {
        if order.iter().all(|there| there.digest != blob.digest) {
            order.push(blob.clone());
        }
    }
    write_docker_archive(layout, &order, with_platform(&image), &image, reference, out)
}

pub(crate) fn with_platform(image: &Documents) -> Descriptor {
    Descriptor { platform: Some(image.config.platform()), ..image.manifest_descriptor.clone() }
}

/// The file `manifest.json` of an archive with one image: names of its files, and of itself.
pub(crate) fn docker_manifest(config: String, name: Option<String>, layers: Vec<String>) -> Result<Vec<u8>> {
    to_json(&[DockerManifest { config, repo_tags: name.map(|name| vec![name]), layers }])
}

fn write_docker_archive(
    layout: &Path,
    blobs: &[Descriptor],
    mut root: Descriptor,
    image: &Documents,
    reference: Option<&str>,
    out: impl Write,
) -> Result<()> {
    let name = reference.map(tagged).transpose()?;
    if let Some(name) = &name {
        let tag = name.rsplit_once(':').map(|(_, tag)| tag.to_owned()).unwrap_or_default();
        root.annotations.insert("io.containerd.image.name".to_owned(), full_name(name));
        root.annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag);
    }
    let mut archive = tar::Builder::new(out);
    append_blobs(&mut archive, layout, blobs)?;
    let mut layers = Vec::new();
    for (layer, identity) in image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids) {
        // Engines before 23 do not know zstd.
        layers.push(match Packing::of(layer)? {
            Packing::Zstd => append_unpacked(&mut archive, layout, layer, identity)?,
            Packing::Plain | Packing::Gzip => blob_name(&layer.digest),
        });
    }
    let docker = docker_manifest(blob_name(&image.manifest.config.digest), name, layers)?;
    append_bytes(&mut archive, "index.json", &to_json(&index_of(root))?)?;
    append_bytes(&mut archive, "manifest.json", &docker)?;
    append_bytes(&mut archive, "oci-layout", OCI_LAYOUT)?;
    archive.into_inner().map_err(failed)?.flush().map_err(failed)
}

/// Writes a layout with everything in it as one tar file, for `skopeo copy oci-archive:…` and `podman load`. The same layout gives the same bytes.
pub fn oci_archive(layout: &Path, out: impl Write) -> Result<()> {
    let contents = read_whole(layout)?;
    let mut archive = tar::Builder::new(out);
    append_blobs(&mut archive, layout, &contents.order)?;
    append_bytes(&mut archive, "index.json", &to_json(&index_of(root_of(&contents)))?)?;
    append_bytes(&mut archive, "oci-layout", OCI_LAYOUT)?;
    archive.into_inner().map_err(failed)?.flush().map_err(failed)
}

/// Copies a layout, with nothing in the copy that does not belong to the image, and verifies the copy.
pub fn copy_layout(layout: &Path, to: &Path) -> Result<layout::Built> {
    let contents = read_whole(layout)?;
    let (from_blobs, to_blobs) = (blobs_dir(layout), layout::create(to)?);
    for blob in &contents.order {
        layercache::copy(&from_blobs.join(blob.digest.hex()), &to_blobs.join(blob.digest.hex()))?;
    }
    layout::write_index(to, root_of(&contents))?;
    layout::open(to)
}

fn root_of(contents: &Contents) -> Descriptor {
    match &contents.index {
        Some(index) => index.clone(),
        None => with_platform(&contents.images[0]),
    }
}

pub(crate) fn index_of(root: Descriptor) -> Index {
    Index { schema_version: 2, media_type: Some(INDEX.to_owned()), manifests: vec![root], annotations: BTreeMap::new() }
}

pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn failed(error: io::Error) -> Error {
    Error::file("write", Path::new("(the image archive)"))(error)
}

/// A name with a tag; engines refuse one without, and a digest is no name to load under.
pub(crate) fn tagged(reference: &str) -> Result<String> {
    let parsed =
        ImageName::parse(reference).map_err(|error| Error::bad_with(error.to_string(), "write REPOSITORY:TAG"))?;
    match (parsed.tag, parsed.digest) {
        (Some(_), None) => Ok(reference.to_owned()),
        (None, None) => Ok(format!("{reference}:latest")),
        _ => Err(Error::bad_with(
            format!("{reference:?} names an image by digest"),
            "an archive is loaded under REPOSITORY:TAG",
        )),
    }
}

/// As containerd names images: with the registry and, for Docker Hub, `library/`.
fn full_name(name: &str) -> String {
    match ImageName::parse(name) {
        Ok(ImageName { name, tag: Some(tag), .. }) => format!("{name}:{tag}"),
        _ => name.to_owned(),
    }
}

pub(crate) fn header(size: u64, mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// All blobs sorted by digest, each hashed as it is written.
fn append_blobs(archive: &mut tar::Builder<impl Write>, layout: &Path, blobs: &[Descriptor]) -> Result<()> {
    append_directory(archive, "blobs/")?;
    append_directory(archive, "blobs/sha256/")?;
    let mut sorted: Vec<&Descriptor> = blobs.iter().collect();
    sorted.sort_by_key(|blob| blob.digest);
    for blob in sorted {
        let path = blobs_dir(layout).join(blob.digest.hex());
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::damaged(blob.digest, format!("{} does not exist", path.display())),
            _ => Error::file("open", &path)(error),
        })?;
        let mut source = Hashing::new(io::BufReader::with_capacity(crate::layer::BUFFER, file));
        let mut header = header(blob.size, 0o644, tar::EntryType::Regular);
        archive.append_data(&mut header, blob_name(&blob.digest), (&mut source).take(blob.size)).map_err(failed)?;
        // More than it should have is damage too.
        io::copy(&mut source, &mut io::sink()).map_err(Error::file("read", &path))?;
        let (_, digest, size) = source.finish();
        if digest != blob.digest || size != blob.size {
            return Err(wrong_bytes(blob, digest, size));
        }
    }
    Ok(())
}

/// Appends a layer unpacked; returns its name. It is read twice, because a tar entry says its size first.
fn append_unpacked(
    archive: &mut tar::Builder<impl Write>,
    layout: &Path,
    layer: &Descriptor,
    identity: &Digest,
) -> Result<String> {
    let limits = Limits::default();
    let read = || read_layer(&blobs_dir(layout), layer, &limits, limits.bytes);
    let mut first = read()?;
    io::copy(&mut first, &mut io::sink()).map_err(|error| read_failed(layer.digest, error))?;
    let (_, found, size) = first.finish();
    if found != *identity {
        let why = format!("the layer unpacks to {found}, the configuration says {identity}");
        return Err(Error::damaged(layer.digest, why));
    }
    let name = format!("layers/{}.tar", identity.hex());
    archive.append_data(&mut header(size, 0o644, tar::EntryType::Regular), &name, read()?).map_err(failed)?;
    Ok(name)
}

fn append_directory(archive: &mut tar::Builder<impl Write>, name: &str) -> Result<()> {
    archive.append_data(&mut header(0, 0o755, tar::EntryType::Directory), name, std::io::empty()).map_err(failed)
}

pub(crate) fn append_bytes(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
    archive.append_data(&mut header(bytes.len() as u64, 0o644, tar::EntryType::Regular), name, bytes).map_err(failed)
}
