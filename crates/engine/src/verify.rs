//! `release verify`: whether a release is what it says, and how anybody can find that out without Sealift.
//!
//! Asked of the store: the bundle's signature, every byte by its digest, the evidence that it was sealed with, and, unless that
//! is left out, each registry that it was sealed for, and those that are named besides ([`Asked`]): that the image is there byte for byte, that the
//! version's tag points to it, and that the evidence is attached. Asked of a restored folder: the same, without any server. [`rebuild`] builds the same commit again.
//!
//! Nothing is repaired here, and nothing that was not hashed counts. A moving tag (`1.2`, `latest`) that points elsewhere is
//! said and is no failure; the tag of the full version is one.

use crate::{
    artifacts::{self, blocking, digest_of},
    build::{self, BuiltComponent},
    cut,
    error::{Doing, Error, Result},
    evidence, git,
    publish::same_place,
    releases,
    releases::Sealed,
    restore,
    workspace::Workspace,
};
use domain::{
    Digest, Events, Name, ReleaseName,
    config::Registry,
    event::Unit,
    manifest::{self, Manifest, Published},
};
use ledger::{bundle, keys::TrustedKeys};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use store::{Family, Store};

/// What `release verify` found.
#[derive(Debug, Clone, Serialize)]
pub struct ReleaseVerified {
    /// The release.
    pub release: ReleaseName,
    /// SHA-256 of its bundle.
    pub digest: Digest,
    /// The key that signed it.
    pub signer: String,
    /// What was hashed, with its digest and what it was: `image/linux-amd64`, `model/quality@…`, a file's path.
    pub checked: Vec<Checked>,
    /// The claims that it was sealed with.
    pub evidence: Vec<evidence::Checked>,
    /// The registries that were asked.
    pub registries: Vec<RegistryVerified>,
    /// What came of building it again, if that was asked for.
    pub rebuilt: Option<Rebuilt>,
    /// Commands by which anybody can do the same.
    pub commands: Vec<String>,
    /// The manifest, for those who read on.
    pub manifest: Manifest,
    /// Where the image is to be: the registries that the release was sealed for, and those that were named besides.
    #[serde(skip)]
    places: Vec<Published>,
}

impl ReleaseVerified {
    /// Has the commands name the file of the public key.
    pub fn set_key(&mut self, key: &str) {
        self.commands = commands_for(&self.manifest, &self.places, key);
    }
}

/// Which registries are asked about a release.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Those that it was sealed for.
    pub sealed: bool,
    /// These besides: `sealift publish` may have sent it there later, which no manifest says. How one of them is spoken to is what is said here.
    pub also: Vec<Registry>,
    /// Whether the configuration says of the component that evidence is attached; `None` where there is no configuration.
    pub attach: Option<bool>,
}

impl Asked {
    /// The places to ask, each once. A release that came somewhere later has its version's tag there. Whether its evidence is expected there is what the
    /// configuration says of the component, because by that `publish` attached it or did not; where there is none it is as in all the others, and where
    /// there are no others it is not asked for, which the result says.
    fn places(&self, manifest: &Manifest) -> Vec<Published> {
        let sealed = &manifest.published;
        let attached = self.attach.unwrap_or(!sealed.is_empty() && sealed.iter().all(|place| place.attached));
        let mut places = if self.sealed { manifest.published.clone() } else { Vec::new() };
        for Registry { repository, insecure } in &self.also {
            let known = manifest.published.iter().find(|place| same_place(&place.repository, repository));
            let mut place = known.cloned().unwrap_or_else(|| Published {
                repository: repository.clone(),
                insecure: *insecure,
                tags: vec![manifest.release.version.to_string()],
                attached,
            });
            place.insecure = *insecure;
            places.retain(|other| !same_place(&other.repository, repository));
            places.push(place);
        }
        places
    }
}

/// One thing that was hashed.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    /// What.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
    /// Bytes that were hashed.
    pub bytes: u64,
}

/// What a registry has of the image.
#[derive(Debug, Clone, Serialize)]
pub struct RegistryVerified {
    /// `REGISTRY/PATH`.
    pub repository: String,
    /// What is there by its digest: every blob was fetched and hashed.
    pub digest: Digest,
    /// Bytes that were hashed.
    pub bytes: u64,
    /// Tags that point to it.
    pub tags: Vec<String>,
    /// Moving tags that point to another image by now.
    pub moved: Vec<String>,
    /// What is attached to it, of the release's evidence.
    pub attached: Vec<String>,
    /// Whether the evidence was asked for. Where it is not attached by configuration, or nothing says that it is, it was not.
    pub evidence_asked: bool,
}

/// What came of building a release again.
#[derive(Debug, Clone, Serialize)]
pub struct Rebuilt {
    /// What is the same, digest for digest.
    pub same: Vec<String>,
    /// Its builder.
    pub builder: String,
}

/// Verifies a release in the store, and in the registries that are asked.
pub async fn verify(
    store: &Store,
    trusted: &TrustedKeys,
    release: &ReleaseName,
    asked: &Asked,
    events: &Events,
) -> Result<ReleaseVerified> {
    let sealed = releases::read(store, trusted, release).await?;
    if sealed.manifest.root().is_none() && !asked.also.is_empty() {
        return Err(Error::bad_input(format!("{release} has no image that a registry could have")));
    }
    let mut checked = Vec::new();
    let blobs = sealed.manifest.blobs();
    let task = events.task(format!("verify {release}"), Some(blobs.len() as u64), Unit::Items);
    for subject in blobs {
        let bytes = store.verify(Family::Blob, &subject.digest).await.doing(format!("verify {}", subject.name))?;
        task.advance(1);
        checked.push(Checked { name: subject.name, digest: subject.digest, bytes });
    }
    task.finish("all digests hold");
    let cache = tempfile::tempdir().map_err(Error::file("make a folder in", &std::env::temp_dir()))?;
    for (name, data) in &sealed.manifest.data {
        let repository = snapshot::Repository::new(cache.path().to_owned(), cache.path().join("cache"));
        let found =
            repository.verify_remote(store, &data.snapshot, events).await.doing(format!("verify data {name}"))?;
        checked.push(Checked { name: format!("data/{name}"), digest: data.snapshot, bytes: found.bytes });
    }
    let mut claims = Vec::new();
    for claim in &sealed.manifest.evidence {
        let bytes = evidence::read(store, claim, &sealed.manifest).await?;
        let at = evidence::key(&claim.subject, &claim.bundle);
        claims.push(evidence::check(claim, &bytes, &at, trusted, &sealed.manifest)?);
    }
    let mut found = verified(sealed, checked, claims);
    for place in asked.places(&found.manifest) {
        found.registries.push(registry(&found.manifest, &place, trusted, events).await?);
    }
    found.places = Asked { sealed: true, ..asked.clone() }.places(&found.manifest);
    Ok(found)
}

fn verified(sealed: Sealed, checked: Vec<Checked>, evidence: Vec<evidence::Checked>) -> ReleaseVerified {
    ReleaseVerified {
        release: sealed.manifest.release.clone(),
        digest: sealed.digest,
        signer: sealed.signer.to_string(),
        checked,
        evidence,
        registries: Vec::new(),
        rebuilt: None,
        commands: commands(&sealed.manifest, &format!("deploy/keys/{}.pub", sealed.signer)),
        places: sealed.manifest.published.clone(),
        manifest: sealed.manifest,
    }
}

/// Whether a registry has the image of a release byte for byte, under its tag, with its evidence.
async fn registry(
    manifest: &Manifest,
    published: &Published,
    trusted: &TrustedKeys,
    events: &Events,
) -> Result<RegistryVerified> {
    let release = &manifest.release;
    let Published { repository, insecure, tags, .. } = published;
    let to = image::Destination { repository: repository.clone(), insecure: *insecure };
    let root = manifest.root().ok_or_else(|| Error::Internal { message: format!("{release} has no image") })?;
    let doing = || format!("verify {release} in {repository}");
    let again = || Some(format!("sealift publish {release}"));
    let reference = root.to_string();
    if image::resolve(&to, &reference).await.doing(doing())?.is_none() {
        return Err(Error::NotFound {
            message: format!("{repository} does not have {root} of {release}"),
            next: again(),
        });
    }
    let (mut right, mut moved) = (Vec::new(), Vec::new());
    for tag in tags {
        match image::resolve(&to, tag).await.doing(doing())? {
            Some(digest) if digest == root => right.push(tag.clone()),
            None if *tag == release.version.to_string() => {
                let message = format!("{repository} has no tag {tag} for {release}");
                return Err(Error::NotFound { message, next: again() });
            }
            None => moved.push(format!("{tag} (gone)")),
            Some(is) => {
                if *tag == release.version.to_string() {
                    let message =
                        format!("the tag {repository}:{tag} points to {is}, and {release} was sealed with {root}");
                    return Err(Error::Integrity { message });
                }
                moved.push(tag.clone());
            }
        }
    }
    let folder = tempfile::tempdir().map_err(Error::file("make a folder in", &std::env::temp_dir()))?;
    let layout = folder.path().join("image");
    let pulled = image::pull(&to, &reference, &[], &layout, events).await.doing(doing())?;
    let images: BTreeMap<String, Digest> =
        pulled.platforms.iter().map(|image| (image.platform.clone(), image.manifest)).collect();
    let sealed: BTreeMap<String, Digest> =
        manifest.images.iter().map(|(platform, image)| (platform.clone(), image.manifest)).collect();
    if images != sealed || pulled.root() != root {
        let message = format!("{repository}@{root} holds other images than {release} was sealed with");
        return Err(Error::Integrity { message });
    }
    let attached = if published.attached { attached(manifest, &to, root, trusted).await? } else { Vec::new() };
    let (digest, bytes) = (root, pulled.bytes);
    let evidence_asked = published.attached;
    Ok(RegistryVerified { repository: repository.clone(), digest, bytes, tags: right, moved, attached, evidence_asked })
}

/// The evidence of a release that is attached to its image. All of it must be, and nothing about another image.
async fn attached(
    manifest: &Manifest,
    to: &image::Destination,
    root: Digest,
    trusted: &TrustedKeys,
) -> Result<Vec<String>> {
    let release = &manifest.release;
    let place = format!("{}@{root}", to.repository);
    let there = image::attached(to, &root).await.doing(format!("read what is attached to {place}"))?;
    for one in &there {
        // What others attached with keys that nobody here trusts says nothing; what ours say must be about this image.
        if let Ok(verified) = bundle::verify(&one.bytes, trusted)
            && let Err(error) = verified.require_subject(root)
        {
            let kind = evidence::word(&verified.statement.predicate_type).to_owned();
            let message = format!("the {kind} attached to {place} is about another image: {error}");
            return Err(Error::Integrity { message });
        }
    }
    let mut found = Vec::new();
    for claim in &manifest.evidence {
        let kind = evidence::word(&claim.predicate_type);
        let one = there.iter().find(|one| Digest::of(&one.bytes) == claim.bundle).ok_or_else(|| Error::NotFound {
            message: format!("the {kind} of {release} is not attached to {place}"),
            next: Some(format!("sealift publish {release}")),
        })?;
        evidence::check(claim, &one.bytes, &place, trusted, manifest)?;
        found.push(kind.to_owned());
    }
    Ok(found)
}

/// Verifies a bundle in a file without any store: its signature, and that each given file belongs to the release.
pub async fn verify_files(bundle: &Path, trusted: &TrustedKeys, files: &[PathBuf]) -> Result<ReleaseVerified> {
    let sealed = read_bundle(bundle, trusted)?;
    let subjects = sealed.manifest.subjects();
    let mut checked = Vec::new();
    for file in files {
        if !file.is_file() {
            return Err(Error::not_found(format!("there is no file {}", file.display())));
        }
        let path = file.clone();
        let digest = blocking(move || digest_of(&path)).await??;
        let subject = subjects.iter().find(|subject| subject.digest == digest).ok_or_else(|| Error::Integrity {
            message: format!("{} ({digest}) is no part of {}", file.display(), sealed.manifest.release),
        })?;
        let bytes = fs::metadata(file).map_err(Error::file("read", file))?.len();
        checked.push(Checked { name: format!("{} is {}", file.display(), subject.name), digest, bytes });
    }
    Ok(verified(sealed, checked, Vec::new()))
}

fn read_bundle(bundle: &Path, trusted: &TrustedKeys) -> Result<Sealed> {
    let bytes = fs::read(bundle).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("there is no bundle at {}", bundle.display())),
        _ => Error::File { action: "read", path: bundle.to_owned(), source: error },
    })?;
    releases::verify(&bytes, trusted)
}

/// Verifies a folder that `restore` made, without any server: everything in it that the release consists of.
pub async fn verify_folder(folder: &Path, trusted: &TrustedKeys, events: &Events) -> Result<ReleaseVerified> {
    let sealed = read_bundle(&folder.join("release.sigstore.json"), trusted)?;
    let manifest = &sealed.manifest;
    let mut checked = Vec::new();
    let mut plain: Vec<(String, String, Digest)> = Vec::new();
    for (path, file) in &manifest.configuration {
        plain.push((format!("config/{path}"), format!("config/{path}"), file.digest));
    }
    for (path, file) in &manifest.artifacts {
        plain.push((format!("artifact/{path}"), format!("artifacts/{path}"), file.digest));
    }
    for (name, model) in &manifest.models {
        plain.push((format!("model/{name}@{}", model.version), restore::model_file(manifest, name), model.digest));
    }
    if let Some(sbom) = &manifest.sbom {
        plain.push(("sbom".to_owned(), restore::SBOM_FILE.to_owned(), sbom.digest));
    }
    for (name, path, digest) in plain {
        let full = folder.join(&path);
        let bytes = fs::metadata(&full).map_err(|_| lacks(folder, &path, manifest))?.len();
        let hashed = blocking(move || digest_of(&full)).await??;
        if hashed != digest {
            let at = folder.join(&path);
            let message = format!("{} is {hashed}, and {} was sealed with {digest}", at.display(), manifest.release);
            return Err(Error::Integrity { message });
        }
        checked.push(Checked { name, digest, bytes });
    }
    for (platform, image) in &manifest.images {
        checked.push(archive(folder, platform, image, manifest).await?);
    }
    for (name, data) in &manifest.data {
        checked.push(data_set(folder, name, data, manifest, events).await?);
    }
    let mut claims = Vec::new();
    for claim in &manifest.evidence {
        let path = restore::evidence_file(claim);
        let full = folder.join(&path);
        let bytes = fs::read(&full).map_err(|_| lacks(folder, &path, manifest))?;
        claims.push(evidence::check(claim, &bytes, &full.display().to_string(), trusted, manifest)?);
    }
    Ok(verified(sealed, checked, claims))
}

fn lacks(folder: &Path, path: &str, manifest: &Manifest) -> Error {
    Error::NotFound {
        message: format!("{} lacks {path} of {}", folder.display(), manifest.release),
        next: Some(format!("sealift restore {} --to DIR", manifest.release)),
    }
}

/// An image's archive holds the sealed configuration, and with it every layer by its identity before compression.
async fn archive(folder: &Path, platform: &str, image: &manifest::Image, of: &Manifest) -> Result<Checked> {
    let path = restore::image_file(platform);
    let full = folder.join(&path);
    if !full.is_file() {
        return Err(lacks(folder, &path, of));
    }
    let bytes = fs::metadata(&full).map_err(Error::file("read", &full))?.len();
    let temporary = tempfile::tempdir().map_err(Error::file("make a folder in", &std::env::temp_dir()))?;
    let (archive, to) = (full.clone(), temporary.path().join("layout"));
    let imported = blocking(move || image::import_docker_archive(&archive, &to)).await?;
    let imported = imported.map_err(|error| torn(&full, error))?;
    if imported.config != image.config {
        let (is, release) = (imported.config, &of.release);
        let message =
            format!("{} holds the image {is}, and {release} was sealed with {}", full.display(), image.config);
        return Err(Error::Integrity { message });
    }
    // Engines with a containerd store read the other half of the archive.
    let (again, to) = (full.clone(), temporary.path().join("oci"));
    let loaded = blocking(move || image::import_oci_archive(&again, &to)).await?.map_err(|error| torn(&full, error))?;
    if loaded.root() != image.manifest {
        let (is, release) = (loaded.root(), &of.release);
        let message = format!(
            "{} holds the image {is} as well, and {release} was sealed with {}",
            full.display(),
            image.manifest
        );
        return Err(Error::Integrity { message });
    }
    let rootfs = folder.join("rootfs");
    if *platform == crate::platform() && rootfs.is_dir() {
        let (layout, root) = (temporary.path().join("layout"), temporary.path().to_owned());
        let folder = folder.to_owned();
        let same = blocking(move || -> Result<bool> {
            let unpacked = root.join("rootfs");
            fs::create_dir(&unpacked).map_err(Error::file("make the folder", &unpacked))?;
            image::unpack(&layout, &unpacked, &image::Limits::default()).doing("unpack the image")?;
            Ok(restore::sums(&root, &unpacked)? == restore::sums(&folder, &folder.join("rootfs"))?)
        });
        if !same.await?? {
            let message = format!("{} is not the image that {} was sealed with", rootfs.display(), of.release);
            return Err(Error::Integrity { message });
        }
    }
    Ok(Checked { name: format!("image/{} ({path})", platform.replace('/', "-")), digest: image.config, bytes })
}

/// An archive that cannot be read was whole when it was restored.
fn torn(archive: &Path, error: image::Error) -> Error {
    match error.class() {
        domain::Class::BadInput | domain::Class::Integrity => {
            let message = format!("{} is not the archive that was restored: {error}", archive.display());
            Error::Integrity { message }
        }
        _ => Error::Failed { doing: format!("verify {}", archive.display()), cause: error.into() },
    }
}

async fn data_set(
    folder: &Path,
    name: &Name,
    data: &manifest::Data,
    of: &Manifest,
    events: &Events,
) -> Result<Checked> {
    let cache = tempfile::tempdir().map_err(Error::file("make a folder in", &std::env::temp_dir()))?;
    let root = std::path::absolute(folder).map_err(Error::file("resolve", folder))?;
    let repository = snapshot::Repository::new(root, cache.path().to_owned());
    let (pointer, events) = (restore::data_pointer(name), events.clone());
    if !folder.join(&pointer).is_file() {
        return Err(lacks(folder, &pointer.to_string_lossy(), of));
    }
    let found = blocking(move || repository.status(&pointer, &events)).await?;
    let found = found.doing(format!("verify data {name} in {}", folder.display()))?;
    if found.state != snapshot::State::Clean || found.pointer.digest != data.snapshot {
        let (at, snapshot) = (folder.join("data").join(name.as_str()), data.snapshot);
        let message = format!("{} is not the snapshot {snapshot} that {} was sealed with", at.display(), of.release);
        return Err(Error::Integrity { message });
    }
    Ok(Checked { name: format!("data/{name}"), digest: data.snapshot, bytes: data.bytes })
}

/// Builds a release again from the work tree, which must be at its commit, and refuses any difference by naming the first file.
///
/// Nothing that was built before is taken for it: no note of a build, no layers of ours, no cache of an engine; what Nix has is built once
/// more. What `prepare` and a `command` keep between two runs is theirs.
pub async fn rebuild(workspace: &Workspace, store: &Store, found: &ReleaseVerified) -> Result<Rebuilt> {
    let (manifest, release) = (&found.manifest, &found.release);
    let head = git::head(&workspace.root).await?;
    let stands = |what: String| Error::BadInput {
        message: format!("{release} cannot be built again here: {what}"),
        next: Some(format!("git worktree add ../{release} {} && cd ../{release}", manifest.source.commit)),
    };
    if head.commit != manifest.source.commit {
        return Err(stands(format!("HEAD is {}, and it was built from {}", head.commit, manifest.source.commit)));
    }
    if !head.changed.is_empty() {
        return Err(stands(format!("the work tree has changes that are not committed: {}", head.changed.join(", "))));
    }
    let component = cut::component(workspace, Some(release.component.as_str()))?;
    let built = build::build_afresh(workspace, component, &release.version, &head).await?;
    let mut same = Vec::new();
    for (platform, image) in &manifest.images {
        let again = built.images.get(platform).ok_or_else(|| Error::Integrity {
            message: format!("{release} built again has no image for {platform}"),
        })?;
        if again.manifest != image.manifest {
            return Err(differs(workspace, store, manifest, platform, &built).await);
        }
        same.push(format!("image {platform} {}", image.manifest));
    }
    for (path, file) in &manifest.artifacts {
        match built.artifacts.get(path) {
            Some(again) if again.digest == file.digest => same.push(format!("artifact {path} {}", file.digest)),
            again => {
                let is = again.map_or_else(|| "absent".to_owned(), |again| again.digest.to_string());
                let message =
                    format!("{release} built again differs: artifact {path} is {is}, sealed was {}", file.digest);
                return Err(Error::Integrity { message });
            }
        }
    }
    let new_image = built.images.keys().find(|platform| !manifest.images.contains_key(*platform));
    let new_file = built.artifacts.keys().find(|path| !manifest.artifacts.contains_key(*path));
    if let Some(more) = new_image.or(new_file) {
        let message = format!("{release} built again differs: it has {more}, which was not sealed");
        return Err(Error::Integrity { message });
    }
    let index = |index: &Option<manifest::File>| index.as_ref().map(|index| index.digest);
    if index(&built.index) != index(&manifest.index) {
        let message = format!("{release} built again differs: its images are the same, and its image index is another");
        return Err(Error::Integrity { message });
    }
    if same.is_empty() {
        return Err(Error::bad_input(format!("{release} has neither image nor artifact that could be built again")));
    }
    Ok(Rebuilt { same, builder: built.builder })
}

async fn differs(
    workspace: &Workspace,
    store: &Store,
    manifest: &Manifest,
    platform: &str,
    built: &BuiltComponent,
) -> Error {
    let (release, sealed, again) = (&manifest.release, &manifest.images[platform], &built.images[platform]);
    let first = async {
        let name = release.to_string();
        let cached = workspace.cache();
        let layout = artifacts::fetch_image(store, &cached, &sealed.manifest, &name, &workspace.events).await?;
        let (platform, other) = (platform.to_owned(), built.layout.clone().unwrap_or_default());
        blocking(move || image::first_difference(&layout, &other, &platform)).await?.doing("compare the images")
    };
    let what = match first.await {
        Ok(Some(first)) => format!("{} ({})", first.path, first.what),
        Ok(None) => "no file, only the manifest".to_owned(),
        Err(error) => format!("what, could not be found out: {error}"),
    };
    let (was, is) = (sealed.manifest, again.manifest);
    let message = format!("{release} built again differs for {platform}: first in {what}; sealed {was}, built {is}");
    Error::Integrity { message }
}

/// Commands that prove the same with other people's programs, once a restored folder is there. `key` is the file of the public key.
pub fn commands(manifest: &Manifest, key: &str) -> Vec<String> {
    commands_for(manifest, &manifest.published, key)
}

fn commands_for(manifest: &Manifest, places: &[Published], key: &str) -> Vec<String> {
    let release = &manifest.release;
    let (key, folder) = (restore::shell_word(key), format!("out/{release}"));
    let mut commands = Vec::new();
    for published in places {
        let Some(root) = manifest.root() else { continue };
        let reference = format!("{}@{root}", published.repository);
        let (http, tls) = if published.insecure { (" --allow-http-registry", " --tls-verify=false") } else { ("", "") };
        if published.attached {
            commands.push(format!("cosign verify --key {key} --insecure-ignore-tlog=true{http} {reference}"));
        }
        for (kind, word) in [("slsaprovenance1", "provenance"), ("cyclonedx", "sbom")] {
            if published.attached && manifest.evidence.iter().any(|claim| evidence::word(&claim.predicate_type) == word)
            {
                commands.push(format!(
                    "cosign verify-attestation --key {key} --insecure-ignore-tlog=true{http} --type {kind} {reference}"
                ));
            }
        }
        commands.push(format!(
            "test \"$(skopeo inspect{tls} --raw docker://{reference} | sha256sum | cut -d' ' -f1)\" = {}",
            root.hex()
        ));
    }
    commands.push(format!("sealift restore {release} --to {folder} && (cd {folder} && sha256sum -c SHA256SUMS)"));
    if let Some(file) = a_file(manifest) {
        commands.push(format!(
            "cosign verify-blob-attestation --key {key} --bundle {folder}/release.sigstore.json \
             --insecure-ignore-tlog=true --type urn:sealift:release:v1 {}",
            restore::shell_word(&format!("{folder}/{file}"))
        ));
    }
    commands
}

/// A file of a restored release that the signature covers.
fn a_file(manifest: &Manifest) -> Option<String> {
    let configuration = manifest.configuration.keys().next().map(|path| format!("config/{path}"));
    let artifact = || manifest.artifacts.keys().next().map(|path| format!("artifacts/{path}"));
    let model = || manifest.models.keys().next().map(|name| restore::model_file(manifest, name));
    let sbom = || manifest.sbom.as_ref().map(|_| restore::SBOM_FILE.to_owned());
    configuration.or_else(artifact).or_else(model).or_else(sbom)
}
