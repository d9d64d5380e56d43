//! A layout to what `docker load` takes.
//!
//! The archive is both things at once, as Docker's own `save` has made it since version 25: an OCI layout, which the containerd image
//! store reads (so the image keeps its manifest digest), and a `manifest.json` over the same files, which every older
//! engine and skopeo's `docker-archive:` read (so the image's ID is its configuration digest).

use crate::{
    error::{Error, Result},
    layout::{blobs, open, read_documents},
    spec::{Descriptor, INDEX, Index},
};
use serde::Serialize;
use std::{fs::File, io::Write, path::Path};

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
/// The layout is verified first. The same layout and reference give the same bytes.
pub fn docker_archive(layout: &Path, reference: Option<&str>, out: impl Write) -> Result<()> {
    open(layout)?;
    let documents = read_documents(layout, None)?;
    let name = reference.map(tagged).transpose()?;
    let mut archive = tar::Builder::new(out);
    let path = |descriptor: &Descriptor| format!("blobs/sha256/{}", descriptor.digest.hex());
    let docker = DockerManifest {
        config: path(&documents.manifest.config),
        repo_tags: name.as_ref().map(|name| vec![name.clone()]),
        layers: documents.manifest.layers.iter().map(path).collect(),
    };
    let mut manifest = documents.manifest_descriptor.clone();
    manifest.platform = Some(documents.config.platform());
    if let Some(name) = &name {
        let tag = name.rsplit_once(':').map(|(_, tag)| tag.to_owned()).unwrap_or_default();
        manifest.annotations.insert("io.containerd.image.name".to_owned(), full_name(name));
        manifest.annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag);
    }
    let index = Index {
        schema_version: 2,
        media_type: Some(INDEX.to_owned()),
        manifests: vec![manifest],
        annotations: Default::default(),
    };
    append_directory(&mut archive, "blobs/")?;
    append_directory(&mut archive, "blobs/sha256/")?;
    let mut list = blobs(layout)?;
    list.sort();
    for (digest, from, size) in list {
        let file = File::open(&from).map_err(Error::file("open", &from))?;
        let mut header = header(size, 0o644, tar::EntryType::Regular);
        archive.append_data(&mut header, format!("blobs/sha256/{}", digest.hex()), file).map_err(failed)?;
    }
    append_bytes(&mut archive, "index.json", &crate::layout::to_json(&index)?)?;
    append_bytes(&mut archive, "manifest.json", &crate::layout::to_json(&[docker])?)?;
    append_bytes(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.into_inner().map_err(failed)?.flush().map_err(failed)
}

fn failed(error: std::io::Error) -> Error {
    Error::file("write", Path::new("(the image archive)"))(error)
}

/// A name with a tag; engines refuse one without, and a digest is no name to load under.
fn tagged(reference: &str) -> Result<String> {
    let parsed: oci_client::Reference = reference
        .parse()
        .map_err(|error| Error::bad_with(format!("{reference:?} names no image: {error}"), "write REPOSITORY:TAG"))?;
    match (parsed.tag(), parsed.digest()) {
        (Some(_), None) if reference.rsplit('/').next().is_some_and(|last| last.contains(':')) => {
            Ok(reference.to_owned())
        }
        (_, None) => Ok(format!("{reference}:latest")),
        _ => Err(Error::bad_with(
            format!("{reference:?} names an image by digest"),
            "an archive is loaded under REPOSITORY:TAG",
        )),
    }
}

/// As containerd names images: with the registry and, for Docker Hub, `library/`.
fn full_name(name: &str) -> String {
    match name.parse::<oci_client::Reference>() {
        Ok(reference) => reference.whole(),
        Err(_) => name.to_owned(),
    }
}

fn header(size: u64, mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append_directory(archive: &mut tar::Builder<impl Write>, name: &str) -> Result<()> {
    archive.append_data(&mut header(0, 0o755, tar::EntryType::Directory), name, std::io::empty()).map_err(failed)
}

fn append_bytes(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
    archive.append_data(&mut header(bytes.len() as u64, 0o644, tar::EntryType::Regular), name, bytes).map_err(failed)
}
