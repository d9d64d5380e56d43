//! A release out of the store, with nothing but a public key: no git, no registry, no configuration.
//!
//! Everything is verified before it counts: the bundle by its signature, every blob by its digest, data by its manifest. An image that goes
//! straight into a Docker Engine is hashed on its way, and has no name there before the engine shows that it is the sealed one.
//! The folder is written beside its final name and renamed at the end, so a restore that dies leaves no half of one.

use crate::{
    artifacts::{self, blocking, digest_of},
    error::{Doing, Error, Result},
    evidence,
    releases::{self, Sealed},
};
use bytes::Bytes;
use domain::{Digest, Events, ReleaseName, manifest::Manifest};
use futures::{StreamExt as _, future::BoxFuture};
use ledger::keys::TrustedKeys;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use store::{Family, Store};

/// What came out of a restore.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// The release.
    pub release: ReleaseName,
    /// SHA-256 of its bundle.
    pub digest: Digest,
    /// The key that signed it.
    pub signer: String,
    /// The folder.
    pub to: PathBuf,
    /// Files that were written.
    pub files: u64,
    /// Bytes that were fetched and verified.
    pub bytes: u64,
    /// How to run it, if it can be run here.
    pub run: Option<String>,
    /// What a release cannot bring back: names of secrets.
    pub not_restored: Vec<String>,
}

/// Restores a release into a folder that does not exist yet or is empty.
pub async fn restore(
    store: &Store,
    trusted: &TrustedKeys,
    release: &ReleaseName,
    to: &Path,
    events: &Events,
) -> Result<Restored> {
    let there = to.symlink_metadata().ok();
    let occupied = there
        .is_some_and(|there| !there.is_dir() || fs::read_dir(to).map_or(true, |mut entries| entries.next().is_some()));
    if occupied {
        return Err(Error::BadInput {
            message: format!("{} exists and is not an empty folder; nothing was written", to.display()),
            next: Some(format!("sealift restore {release} --to {}-{}", to.display(), release.version)),
        });
    }
    let sealed = releases::read(store, trusted, release).await?;
    let missing = releases::missing(store, &sealed.manifest).await?;
    if !missing.is_empty() {
        return Err(Error::not_found(format!("{release} cannot be restored: the store lacks {}", missing.join(", "))));
    }
    let absolute = std::path::absolute(to).map_err(Error::file("resolve", to))?;
    let parent = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    fs::create_dir_all(&parent).map_err(Error::file("make the folder", &parent))?;
    let building = tempfile::Builder::new()
        .prefix(".sealift-restore-")
        .tempdir_in(&parent)
        .map_err(Error::file("make a folder in", &parent))?;
    let mut restoring = Restoring {
        store,
        sealed: &sealed,
        root: building.path(),
        events,
        sums: BTreeMap::new(),
        bytes: 0,
        entry: Vec::new(),
    };
    restoring.all().await?;
    let (files, bytes) = (restoring.sums.len() as u64, restoring.bytes);
    let runnable = building.path().join("run.sh").is_file();
    fs::set_permissions(building.path(), fs::Permissions::from_mode(0o755))
        .map_err(Error::file("set the mode of", building.path()))?;
    if absolute.exists() {
        fs::remove_dir(&absolute).map_err(Error::file("replace the empty folder", &absolute))?;
    }
    fs::rename(building.path(), &absolute).map_err(Error::file("rename a folder to", &absolute))?;
    drop(building.keep());
    let secrets = sealed.manifest.run.as_ref().map(|run| run.secrets.keys().cloned().collect()).unwrap_or_default();
    Ok(Restored {
        release: release.clone(),
        digest: sealed.digest,
        signer: sealed.signer.to_string(),
        run: runnable.then(|| format!("PORT=8080 {}/run.sh", to.display())),
        to: to.to_owned(),
        files,
        bytes,
        not_restored: secrets,
    })
}

/// The form of a restored image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageForm {
    /// A folder: an OCI image layout.
    OciLayout,
    /// The same in one file.
    OciArchive,
    /// What `docker load` takes.
    DockerArchive,
}

/// A restored image.
#[derive(Debug, Clone, Serialize)]
pub struct RestoredImage {
    /// The release.
    pub release: ReleaseName,
    /// Digest of its manifest, or of the index over all platforms.
    pub digest: Digest,
    /// Where it is.
    pub to: PathBuf,
}

/// An image in a Docker Engine.
#[derive(Debug, Clone, Serialize)]
pub struct LoadedImage {
    /// The release.
    pub release: ReleaseName,
    /// Digest of its image: of the manifest, or of the index over all platforms.
    pub digest: Digest,
    /// Address of the engine.
    pub engine: String,
    /// Its name there.
    pub name: String,
    /// The engine's ID of it: the digest of the platform's manifest, or of its configuration.
    pub id: Digest,
    /// The platform, which is the engine's.
    pub platform: String,
    /// Whether the engine had it already.
    pub was_there: bool,
}

/// Brings the image of a release into a Docker Engine, straight out of the store. Without an address `DOCKER_HOST` counts, and else the usual socket.
///
/// The engine ends with the sealed image, by its digest, and the name; or no name was given, and what it named before it names still.
pub async fn into_docker(
    store: &Store,
    trusted: &TrustedKeys,
    release: &ReleaseName,
    engine: Option<&str>,
    events: &Events,
) -> Result<LoadedImage> {
    let sealed = releases::read(store, trusted, release).await?;
    let digest = sealed.manifest.root().ok_or_else(|| Error::not_found(format!("{release} has no image")))?;
    let name = format!("{}:{}", release.component, release.version);
    let blobs = Arc::new(Stored(store.clone()));
    let loaded = image::load_docker(engine, &digest, &name, blobs, events).await;
    let doing = format!("bring the image of {release} into Docker");
    let loaded = match loaded {
        // What does not hold is in the store: its own command says what else does not.
        Err(error @ (image::Error::Damaged { .. } | image::Error::Source { .. })) => match error.class() {
            domain::Class::Integrity => return Err(Error::Integrity { message: format!("cannot {doing}: {error}") }),
            domain::Class::NotFound => {
                let next = Some(format!("sealift release verify {release}"));
                return Err(Error::NotFound { message: format!("cannot {doing}: {error}"), next });
            }
            _ => Err(error).doing(doing)?,
        },
        other => other.doing(doing)?,
    };
    Ok(LoadedImage {
        release: release.clone(),
        digest,
        engine: loaded.engine,
        name: loaded.name,
        id: loaded.id,
        platform: loaded.platform,
        was_there: loaded.was_there,
    })
}

/// Blobs of the store as they are: who reads them hashes them. One that was read wrong is read again by the store, which remembers it if it is.
struct Stored(Store);

impl image::Blobs for Stored {
    fn open(&self, digest: &Digest) -> BoxFuture<'static, image::Result<image::BlobStream>> {
        let (store, digest) = (self.0.clone(), *digest);
        Box::pin(async move {
            let key = Store::key(Family::Blob, &digest);
            let lost = move |error: store::Error| unread(&digest, &error);
            match store.objects().get(&key, None).await.map_err(lost)? {
                Some((_, body)) => Ok(body.map(move |piece| piece.map_err(lost)).boxed()),
                None => Err(lost(store::Error::Missing { key })),
            }
        })
    }

    fn end(&self, digest: &Digest, size: u64) -> BoxFuture<'static, image::Result<Bytes>> {
        let (store, digest) = (self.0.clone(), *digest);
        Box::pin(async move {
            let range = size.saturating_sub(4)..size;
            store.get_range(Family::Blob, &digest, range).await.map_err(|error| unread(&digest, &error))
        })
    }

    fn holds(&self, digest: &Digest) -> BoxFuture<'static, bool> {
        let (store, digest) = (self.0.clone(), *digest);
        Box::pin(async move { store.verify(Family::Blob, &digest).await.is_ok() })
    }
}

fn unread(digest: &Digest, error: &store::Error) -> image::Error {
    image::Error::Source { digest: *digest, cause: error.to_string(), class: error.class() }
}

/// Restores only the image of a release, to a path that does not exist yet.
pub async fn image(
    store: &Store,
    trusted: &TrustedKeys,
    release: &ReleaseName,
    form: ImageForm,
    to: &Path,
    events: &Events,
) -> Result<RestoredImage> {
    if to.symlink_metadata().is_ok() {
        return Err(Error::BadInput {
            message: format!("{} is there already; nothing was written", to.display()),
            next: Some(format!("sealift restore {release} --to {}-{}", to.display(), release.version)),
        });
    }
    let sealed = releases::read(store, trusted, release).await?;
    let digest = sealed.manifest.root().ok_or_else(|| Error::not_found(format!("{release} has no image")))?;
    let absolute = std::path::absolute(to).map_err(Error::file("resolve", to))?;
    let parent = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    fs::create_dir_all(&parent).map_err(Error::file("make the folder", &parent))?;
    let building = tempfile::Builder::new()
        .prefix(".sealift-restore-")
        .tempdir_in(&parent)
        .map_err(Error::file("make a folder in", &parent))?;
    let layout = artifacts::fetch_image(store, building.path(), &digest, &release.to_string(), events).await?;
    let reference = format!("{}:{}", release.component, release.version);
    let made = building.path().join("made");
    let written = made.clone();
    let doing = format!("write the image of {release}");
    blocking(move || -> Result<()> {
        if form == ImageForm::OciLayout {
            return image::copy_layout(&layout, &written).map(drop).doing(doing);
        }
        let file = fs::File::create(&written).map_err(Error::file("create", &written))?;
        let mut out = std::io::BufWriter::new(file);
        match form {
            ImageForm::OciArchive => image::oci_archive(&layout, &mut out),
            _ => image::docker_archive(&layout, Some(&reference), &mut out),
        }
        .doing(doing)?;
        let file = out.into_inner().map_err(|error| Error::file("write", &written)(error.into_error()))?;
        file.sync_all().map_err(Error::file("write", &written))
    })
    .await??;
    fs::rename(&made, &absolute).map_err(Error::file("rename to", &absolute))?;
    Ok(RestoredImage { release: release.clone(), digest, to: to.to_owned() })
}

struct Restoring<'a> {
    store: &'a Store,
    sealed: &'a Sealed,
    root: &'a Path,
    events: &'a Events,
    /// Relative path to digest: becomes `SHA256SUMS`.
    sums: BTreeMap<String, Digest>,
    bytes: u64,
    /// What the image for this machine runs by itself.
    entry: Vec<String>,
}

impl Restoring<'_> {
    async fn all(&mut self) -> Result<()> {
        let manifest = &self.sealed.manifest;
        self.write("release.sigstore.json", &self.sealed.bytes)?;
        let pretty = serde_json::to_vec_pretty(manifest).unwrap_or_default();
        self.write("manifest.json", &pretty)?;
        for (path, file) in &manifest.artifacts {
            self.blob(&format!("artifacts/{path}"), &file.digest, &format!("artifact {path}")).await?;
        }
        if let Some(sbom) = &manifest.sbom {
            self.blob(SBOM_FILE, &sbom.digest, "the SBOM").await?;
        }
        for claim in &manifest.evidence {
            let bytes = evidence::read(self.store, claim, manifest).await?;
            self.write(&evidence_file(claim), &bytes)?;
        }
        for (path, file) in &manifest.configuration {
            self.blob(&format!("config/{path}"), &file.digest, &format!("configuration {path}")).await?;
        }
        for (name, model) in &manifest.models {
            self.blob(&model_file(manifest, name), &model.digest, &format!("model {name}")).await?;
        }
        self.data().await?;
        self.images().await?;
        self.run_script()?;
        let sums: String = self.sums.iter().map(|(path, digest)| sum_line(path, digest)).collect();
        let path = self.root.join("SHA256SUMS");
        fs::write(&path, sums).map_err(Error::file("write", &path))
    }

    /// A path of the release, which must not leave the folder.
    fn inside(&self, path: &str) -> Result<PathBuf> {
        if Path::new(path).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            let message = format!("{path:?} of {} would leave the folder", self.sealed.manifest.release);
            return Err(Error::Integrity { message });
        }
        Ok(self.root.join(path))
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let full = self.inside(path)?;
        let parent = full.parent().unwrap_or(self.root);
        fs::create_dir_all(parent).map_err(Error::file("make the folder", parent))?;
        fs::write(&full, bytes).map_err(Error::file("write", &full))?;
        self.sums.insert(path.to_owned(), Digest::of(bytes));
        Ok(())
    }

    async fn blob(&mut self, path: &str, digest: &Digest, what: &str) -> Result<()> {
        let full = self.inside(path)?;
        let parent = full.parent().unwrap_or(self.root);
        fs::create_dir_all(parent).map_err(Error::file("make the folder", parent))?;
        self.bytes += self.store.get_file(Family::Blob, digest, &full, None).await.doing(format!("restore {what}"))?;
        self.sums.insert(path.to_owned(), *digest);
        Ok(())
    }

    async fn data(&mut self) -> Result<()> {
        let cache = self.root.join(".cache");
        for (name, data) in &self.sealed.manifest.data {
            let repository = snapshot::Repository::new(self.root.to_owned(), cache.clone());
            let folder = self.root.join("data").join(name.as_str());
            fs::create_dir_all(self.root.join("data")).map_err(Error::file("make the folder", &folder))?;
            repository
                .restore(self.store, &data.snapshot, &folder, self.events)
                .await
                .doing(format!("restore data {name}"))?;
            self.bytes += data.bytes;
            let pointer = snapshot::Pointer {
                digest: data.snapshot,
                bytes: data.bytes,
                files: data.files,
                path: name.as_str().into(),
                at: data_pointer(name),
            };
            self.write(&pointer.at.to_string_lossy(), pointer.text().as_bytes())?;
            let (root, folder) = (self.root.to_owned(), folder.clone());
            self.sums.extend(blocking(move || sums(&root, &folder)).await??);
        }
        if cache.exists() {
            fs::remove_dir_all(&cache).map_err(Error::file("remove", &cache))?;
        }
        Ok(())
    }

    /// Each image as an archive for `docker load`, and this machine's unpacked as `rootfs`.
    async fn images(&mut self) -> Result<()> {
        let release = self.sealed.manifest.release.to_string();
        let cache = self.root.join(".images");
        for (platform, image) in &self.sealed.manifest.images {
            let layout = artifacts::fetch_image(self.store, &cache, &image.manifest, &release, self.events).await?;
            let name = image_file(platform);
            let path = self.root.join(&name);
            let rootfs = (*platform == crate::platform()).then(|| self.root.join("rootfs"));
            let reference =
                format!("{}:{}", self.sealed.manifest.release.component, self.sealed.manifest.release.version);
            let root = self.root.to_owned();
            let made = blocking(move || -> Result<(Digest, Vec<String>, BTreeMap<String, Digest>)> {
                let mut files = BTreeMap::new();
                let file = fs::File::create(&path).map_err(Error::file("create", &path))?;
                image::docker_archive(&layout, Some(&reference), std::io::BufWriter::new(file))
                    .doing("write the image's archive")?;
                let mut entry = Vec::new();
                if let Some(rootfs) = rootfs {
                    fs::create_dir_all(&rootfs).map_err(Error::file("make the folder", &rootfs))?;
                    let unpacked =
                        image::unpack(&layout, &rootfs, &image::Limits::default()).doing("unpack the image")?;
                    entry = [unpacked.entrypoint, unpacked.cmd].concat();
                    files = sums(&root, &rootfs)?;
                }
                Ok((digest_of(&path)?, entry, files))
            });
            let (digest, entry, files) = made.await??;
            self.sums.extend(files);
            self.entry.extend(entry);
            self.bytes += image.bytes;
            self.sums.insert(name, digest);
        }
        if cache.exists() {
            fs::remove_dir_all(&cache).map_err(Error::file("remove", &cache))?;
        }
        Ok(())
    }

    /// A script that runs the restored release here without anything else, when it has an image for this machine.
    fn run_script(&mut self) -> Result<()> {
        let manifest = &self.sealed.manifest;
        let Some(run) = &manifest.run else { return Ok(()) };
        if !manifest.images.contains_key(&crate::platform()) {
            return Ok(());
        }
        let Some(command) = self.command(run) else { return Ok(()) };
        let mut script = format!(
            "#!/bin/sh\n# Runs {} as it was sealed ({}).\nset -eu\ncd \"$(dirname \"$0\")\"\nhere=$(pwd)\nport=${{PORT:-{}}}\n",
            manifest.release, self.sealed.digest, run.port
        );
        for (name, value) in &run.env {
            let _ = writeln!(script, "export {name}={}", self.value(run, value));
        }
        for (name, reference) in &run.secrets {
            let _ = writeln!(
                script,
                ": \"${{{name}:?set {name}: its value is a secret ({reference}) and is not sealed}}\""
            );
        }
        let _ = writeln!(script, "exec {command} \"$@\"");
        self.write("run.sh", script.as_bytes())?;
        let path = self.root.join("run.sh");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(Error::file("set the mode of", &path))
    }

    fn command(&self, run: &domain::manifest::Run) -> Option<String> {
        let words = run.command.as_ref().unwrap_or(&self.entry);
        let (program, arguments) = words.split_first()?;
        let program = format!("\"$here\"/rootfs{}", quote(&format!("/{}", program.trim_start_matches('/'))));
        let arguments: Vec<String> = arguments.iter().map(|word| self.value(run, word)).collect();
        Some([vec![program], arguments].concat().join(" "))
    }

    /// A sealed environment value as shell words.
    fn value(&self, run: &domain::manifest::Run, value: &str) -> String {
        let manifest = &self.sealed.manifest;
        let mut text = value
            .replace("{version}", &manifest.release.version.to_string())
            .replace("{release}", &manifest.release.to_string())
            .replace("{environment}", "restored");
        let mut shell = Vec::new();
        for name in run.models.keys() {
            let marker = format!("{{model:{name}}}");
            let path = format!("\u{1}/{}\u{2}", model_file(manifest, name));
            text = text.replace(&marker, &path);
        }
        for file in run.configs.keys() {
            text = text.replace(&format!("{{config:{file}}}"), &format!("\u{1}/config/{file}\u{2}"));
        }
        text = text.replace("{port}", "\u{3}");
        // Everything that is text is quoted; what only the host knows stays a variable.
        for (index, part) in text.split(['\u{1}', '\u{2}']).enumerate() {
            let variable = if index % 2 == 1 { "\"$here\"" } else { "" };
            let pieces: Vec<String> =
                part.split('\u{3}').map(|piece| if piece.is_empty() { String::new() } else { quote(piece) }).collect();
            shell.push(format!("{variable}{}", pieces.join("\"$port\"")));
        }
        let joined = shell.concat();
        if joined.is_empty() { "''".to_owned() } else { joined }
    }
}

/// The bill of materials in a restored folder.
pub(crate) const SBOM_FILE: &str = "sbom.cdx.json";

/// A claim in a restored folder.
pub(crate) fn evidence_file(claim: &domain::manifest::Evidence) -> String {
    format!("evidence/{}.sigstore.json", evidence::word(&claim.predicate_type))
}

/// The pointer of a data set in a restored folder.
pub(crate) fn data_pointer(name: &domain::Name) -> PathBuf {
    PathBuf::from(format!("data/{name}.snapshot.toml"))
}

/// The archive of an image in a restored folder.
pub(crate) fn image_file(platform: &str) -> String {
    format!("image-{}.tar", platform.replace('/', "-"))
}

/// Where a model is put in a restored folder.
pub(crate) fn model_file(manifest: &Manifest, name: &domain::Name) -> String {
    let file = manifest
        .run
        .as_ref()
        .and_then(|run| run.models.get(name))
        .and_then(|path| Path::new(path).file_name())
        .map(|file| file.to_string_lossy().into_owned());
    format!("models/{name}/{}", file.unwrap_or_else(|| name.to_string()))
}

/// A word for a shell: as it is where that is safe, else quoted.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-@:+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { quote(word) }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A line of `sha256sum`: a name with a line break or a backslash is escaped, and the line begins with one then.
fn sum_line(path: &str, digest: &Digest) -> String {
    let escaped = path.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
    let mark = if escaped == path { "" } else { "\\" };
    format!("{mark}{}  {escaped}\n", digest.hex())
}

/// Digests of all regular files below a folder, by path relative to the root. Names that are not UTF-8 are left out of
/// `SHA256SUMS`: the snapshot's manifest has verified them already.
pub(crate) fn sums(root: &Path, folder: &Path) -> Result<BTreeMap<String, Digest>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    if folder.is_file() {
        folders.clear();
        insert(root, folder, &mut found)?;
    }
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::file("read the folder", &folder))? {
            let entry = entry.map_err(Error::file("read the folder", &folder))?;
            let kind = entry.file_type().map_err(Error::file("read", &entry.path()))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                insert(root, &entry.path(), &mut found)?;
            }
        }
    }
    Ok(found)
}

fn insert(root: &Path, file: &Path, into: &mut BTreeMap<String, Digest>) -> Result<()> {
    if let Some(path) = file.strip_prefix(root).ok().and_then(Path::to_str) {
        into.insert(path.to_owned(), digest_of(file)?);
    }
    Ok(())
}
