//! What a workload needs, fetched and verified onto this host.
//!
//! Everything is fetched by digest into the cache and hashed on the way; what is there already is hashed again before
//! it is used, so that a corrupt cache heals instead of spreading. Nothing here knows which target will use it.

use crate::error::{Doing, Error, Result};
use cluster::{ImageEntry, ImageForm, ImagePath};
use domain::{Digest, Events, event::Unit, workload::Workload};
use serde::Deserialize;
use std::{
    fs,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};
use store::{Family, Store};

/// OCI manifests and configurations are small.
const DOCUMENT_LIMIT: u64 = 8 << 20;

/// An image and files on this host. Temporary folders vanish with it.
pub struct Staged {
    image: Form,
    /// Path inside the workload, and the verified file on this host.
    pub mounts: Vec<(String, PathBuf)>,
}

enum Form {
    None,
    Rootfs { dir: tempfile::TempDir, entry: ImageEntry },
    Archive { file: tempfile::TempPath },
}

impl Staged {
    /// The image in the form that the target asked for.
    pub fn image(&self) -> ImagePath<'_> {
        match &self.image {
            Form::None => ImagePath::None,
            Form::Rootfs { dir, entry } => ImagePath::Rootfs { dir: dir.path(), entry },
            Form::Archive { file } => ImagePath::DockerArchive(file),
        }
    }
}

/// Fetches everything that a workload needs.
pub async fn stage(
    store: &Store,
    cache: &Path,
    workload: &Workload,
    form: ImageForm,
    events: &Events,
) -> Result<Staged> {
    let mut mounts = Vec::new();
    for mount in &workload.mounts {
        let path = fetch_blob(store, cache, &mount.digest, &mount.what, events).await?;
        mounts.push((mount.path.clone(), path));
    }
    let Some(manifest) = &workload.image else { return Ok(Staged { image: Form::None, mounts }) };
    let layout = fetch_image(store, cache, manifest, &workload.release.to_string(), events).await?;
    let temporary = cache.join("tmp");
    fs::create_dir_all(&temporary).map_err(Error::file("make the folder", &temporary))?;
    image::remove_abandoned(&temporary);
    let image = match form {
        ImageForm::Rootfs => {
            let dir = tempfile::tempdir_in(&temporary).map_err(Error::file("make a folder in", &temporary))?;
            let to = dir.path().to_owned();
            let unpacked = blocking(move || image::unpack(&layout, &to, &image::Limits::default())).await?;
            let unpacked = unpacked.doing(format!("unpack the image of {}", workload.release))?;
            let entry = ImageEntry {
                entrypoint: unpacked.entrypoint,
                cmd: unpacked.cmd,
                env: unpacked.env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
                workdir: unpacked.workdir.unwrap_or_default(),
                user: unpacked.user.unwrap_or_default(),
            };
            Form::Rootfs { dir, entry }
        }
        ImageForm::DockerArchive => {
            let mut file =
                tempfile::NamedTempFile::new_in(&temporary).map_err(Error::file("make a file in", &temporary))?;
            let release = workload.release.to_string();
            let file = blocking(move || {
                image::docker_archive(&layout, None, std::io::BufWriter::new(file.as_file_mut()))
                    .map(|()| file.into_temp_path())
            })
            .await?;
            Form::Archive { file: file.doing(format!("write an archive of the image of {release}"))? }
        }
    };
    Ok(Staged { image, mounts })
}

/// Where an image's layout is kept in the cache.
pub fn layout_path(cache: &Path, manifest: &Digest) -> PathBuf {
    cache.join("images").join(manifest.hex())
}

/// The parts of an OCI manifest or index that say which blobs belong to it.
#[derive(Deserialize)]
struct OciManifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
}

fn read_document(digest: &Digest, bytes: &[u8]) -> Result<OciManifest> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Integrity { message: format!("the image manifest {digest} is not readable: {error}") })
}

/// Fetches an image, or an index with all of its images, into an OCI layout folder of the cache, and verifies it whole.
pub async fn fetch_image(store: &Store, cache: &Path, manifest: &Digest, of: &str, events: &Events) -> Result<PathBuf> {
    let layout = layout_path(cache, manifest);
    if layout.join("index.json").is_file() {
        let checked = layout.clone();
        if blocking(move || image::reopen(&checked)).await?.is_ok_and(|built| built.root() == *manifest) {
            return Ok(layout);
        }
        events.warn(format!("the cached image of {of} is damaged; it is fetched again"));
        fs::remove_dir_all(&layout).map_err(Error::file("remove", &layout))?;
    }
    let doing = || format!("fetch the image of {of}");
    let bytes = store.get_bytes(Family::Blob, manifest, DOCUMENT_LIMIT).await.doing(doing())?;
    let parent = layout.parent().unwrap_or(cache).to_owned();
    fs::create_dir_all(&parent).map_err(Error::file("make the folder", &parent))?;
    image::remove_abandoned(&parent);
    let building = tempfile::tempdir_in(&parent).map_err(Error::file("make a folder in", &parent))?;
    let blobs = building.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(Error::file("make the folder", &blobs))?;
    let keep = |digest: &Digest, bytes: &[u8]| {
        let path = blobs.join(digest.hex());
        fs::write(&path, bytes).map_err(Error::file("write", &path))
    };
    keep(manifest, &bytes)?;
    let document = read_document(manifest, &bytes)?;
    let mut wanted = vec![];
    for child in &document.manifests {
        let bytes = store.get_bytes(Family::Blob, &child.digest, DOCUMENT_LIMIT).await.doing(doing())?;
        keep(&child.digest, &bytes)?;
        let image = read_document(&child.digest, &bytes)?;
        if !image.manifests.is_empty() {
            let message = format!("the image index {manifest} holds an index, {}", child.digest);
            return Err(Error::Integrity { message });
        }
        wanted.extend(image.config.into_iter().chain(image.layers));
    }
    wanted.extend(document.config.into_iter().chain(document.layers));
    let task = events.task(format!("fetch the image of {of}"), None, Unit::Bytes);
    for descriptor in wanted {
        let to = blobs.join(descriptor.digest.hex());
        if !to.exists() {
            store.get_file(Family::Blob, &descriptor.digest, &to, Some(&task)).await.doing(doing())?;
        }
    }
    task.finish("fetched and verified");
    let (root, wanted) = (building.path().to_owned(), *manifest);
    blocking(move || image::assemble(&wanted, &root)).await?.doing(doing())?;
    // Another process may have been quicker; its layout was verified just as ours.
    match fs::rename(building.path(), &layout) {
        Ok(()) => drop(building.keep()),
        Err(_) if layout.join("index.json").is_file() => {}
        Err(error) => return Err(Error::File { action: "rename a folder to", path: layout, source: error }),
    }
    Ok(layout)
}

/// Fetches one blob into the cache; a cached one is hashed again first.
pub async fn fetch_blob(store: &Store, cache: &Path, digest: &Digest, what: &str, events: &Events) -> Result<PathBuf> {
    let path = cache.join("blobs").join(digest.hex());
    let hashed = path.clone();
    if path.is_file() && blocking(move || digest_of(&hashed)).await?? == *digest {
        return Ok(path);
    }
    let parent = path.parent().unwrap_or(cache);
    fs::create_dir_all(parent).map_err(Error::file("make the folder", parent))?;
    image::remove_abandoned(parent);
    let task = events.task(format!("fetch {what}"), None, Unit::Bytes);
    store.get_file(Family::Blob, digest, &path, Some(&task)).await.doing(format!("fetch {what}"))?;
    task.finish("fetched and verified");
    Ok(path)
}

/// The SHA-256 of a file, read in pieces.
pub fn digest_of(path: &Path) -> Result<Digest> {
    use sha2::Digest as _;
    let mut reader = BufReader::with_capacity(1 << 20, fs::File::open(path).map_err(Error::file("read", path))?);
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = reader.read(&mut buffer).map_err(Error::file("read", path))?;
        if count == 0 {
            return Ok(Digest::from_bytes(hasher.finalize().into()));
        }
        hasher.update(&buffer[..count]);
    }
}

/// Runs blocking work beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Internal { message: format!("a worker of Sealift itself failed: {error}") })
}
