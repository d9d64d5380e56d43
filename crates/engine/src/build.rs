//! From sources to what is built of them, on this host. Nothing is published here.
//!
//! What was built from a clean commit is *kept* on this host: its images and files in the cache, and a note of them beside
//! (`builds/<component>-<version>.json`). A release that is cut again after it died publishes what it had built, byte for byte, because
//! some of it may be published already and not every builder gives the same bytes twice. The note holds for one commit, one
//! version and one `[component.NAME.build]`, and everything that it names is hashed before it is believed.
//!
//! A note that another replaces leaves the digest of its image behind, also where what is built comes from no commit: whether a tag in a registry is of
//! this host is asked later, and nothing else knows. What is behind is told and never published.

use crate::{
    artifacts::{blocking, digest_of, layout_path},
    cut::{component, version},
    error::{Doing, Error, Result},
    git::{self, Head},
    keyring,
    workspace::Workspace,
};
use domain::{
    Digest, Event, Name,
    config::{Builder, Component},
    event::Unit,
    manifest,
    secret::{Secret, SecretRef},
};
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// How many lines of a failed command are shown.
const TAIL: usize = 20;
/// How many bytes of a line are told at once.
const LINE: u64 = 64 << 10;
/// The clock of a build that is to be reproduced: seconds since 1970 (<https://reproducible-builds.org/specs/source-date-epoch/>).
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What was built of a component.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuiltComponent {
    /// The component.
    pub component: Name,
    /// Its version.
    pub version: Version,
    /// `docker`, `oci`, `nix`, `command` or `none`.
    pub builder: String,
    /// Images by platform; none for a component without a builder, or one that builds plain files.
    pub images: BTreeMap<String, manifest::Image>,
    /// The image index, when there are several.
    pub index: Option<manifest::File>,
    /// The images' OCI layout on this host.
    pub layout: Option<PathBuf>,
    /// Plain files by their path in the release.
    pub artifacts: BTreeMap<String, BuiltFile>,
    /// Where the sources are to be had, if the configuration says so.
    pub source: Option<String>,
    /// What went into it and is known by digest: the base, files that lock dependencies.
    pub materials: Vec<Material>,
    /// `[component.NAME.build]` as it was.
    pub definition: Value,
    /// A UUID of this build.
    pub invocation: String,
    /// When it began.
    pub started: jiff::Timestamp,
    /// When it was done.
    pub finished: jiff::Timestamp,
}

/// A plain file that a build left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuiltFile {
    /// Where it is on this host.
    pub file: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

/// Something that went into a build: a resource descriptor of in-toto.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Material {
    /// What it is.
    pub uri: String,
    /// Algorithm and digest in hex.
    pub digest: BTreeMap<String, String>,
}

impl Material {
    fn sha256(uri: impl Into<String>, digest: &Digest) -> Self {
        Self { uri: uri.into(), digest: BTreeMap::from([("sha256".to_owned(), digest.hex())]) }
    }
}

impl BuiltComponent {
    /// What a registry knows the image by.
    pub fn root(&self) -> Option<Digest> {
        let only = || self.images.values().next().map(|image| image.manifest);
        self.index.as_ref().map(|index| index.digest).or_else(only)
    }
}

/// A note of what was built, so that it can be published a second time.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    commit: String,
    /// What may be published again; nothing where the last build was from something that no commit has.
    built: Option<BuiltComponent>,
    /// The images of the notes that this one replaced, each once.
    #[serde(default)]
    before: Vec<Digest>,
}

impl Note {
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// The images that were noted here, this one and all before.
    fn roots(&self) -> Vec<Digest> {
        let mut roots = self.before.clone();
        roots.extend(self.built.as_ref().and_then(BuiltComponent::root).filter(|root| !self.before.contains(root)));
        roots
    }
}

/// Builds components, all of them when none is named. Nothing is published.
pub async fn build(workspace: &Workspace, wanted: &[String]) -> Result<Vec<BuiltComponent>> {
    let mut built = Vec::new();
    let head = git::head(&workspace.root).await.ok();
    let components: Vec<&Component> = match wanted {
        [] => workspace.config.components.values().collect(),
        names => names.iter().map(|name| component(workspace, Some(name))).collect::<Result<_>>()?,
    };
    for component in components {
        let version = version(workspace, component)?;
        let done = build_one(workspace, component, &version, head.as_ref()).await?;
        if let Some(before) = &head {
            // What was changed while it was built may be in it, also where it was put back since.
            let mut now = git::head(&workspace.root).await?;
            now.changed.extend(before.changed.clone());
            if now.commit != before.commit {
                now.changed.push("HEAD".to_owned());
            }
            keep(workspace, &now, &done).await?;
        }
        built.push(done);
    }
    Ok(built)
}

/// What was built from this very commit before, if all of it is still there and whole.
pub(crate) async fn kept(
    workspace: &Workspace,
    component: &Component,
    version: &Version,
    head: &Head,
) -> Option<BuiltComponent> {
    let note = Note::read(&note_path(workspace, &component.name, version))?;
    let built = note.built?;
    let same = note.commit == head.commit && built.definition == definition(component);
    let layout = built.layout.clone();
    let root = built.root();
    let files: Vec<BuiltFile> = built.artifacts.values().cloned().collect();
    let whole = same
        && blocking(move || {
            let image = layout.is_none_or(|layout| image::reopen(&layout).is_ok_and(|open| Some(open.root()) == root));
            image && files.iter().all(|file| digest_of(&file.file).is_ok_and(|digest| digest == file.digest))
        })
        .await
        .unwrap_or(false);
    if whole && !(built.images.is_empty() && built.artifacts.is_empty()) {
        let commit = head.commit.get(..12).unwrap_or(&head.commit);
        workspace
            .events
            .note(format!("{}@{version} was built from {commit} before; that is published", component.name));
        return Some(built);
    }
    None
}

/// The images that this host noted for a version, of whichever commits; whether they are still there does not matter.
pub(crate) fn noted_roots(workspace: &Workspace, component: &Name, version: &Version) -> Vec<Digest> {
    Note::read(&note_path(workspace, component, version)).map(|note| note.roots()).unwrap_or_default()
}

/// Notes what was built, unless it was built from something that no commit has: then only what was noted before stays known.
pub(crate) async fn keep(workspace: &Workspace, head: &Head, built: &BuiltComponent) -> Result<()> {
    let path = note_path(workspace, &built.component, &built.version);
    let before = noted_roots(workspace, &built.component, &built.version);
    let note = if head.changed.is_empty() {
        Note { commit: head.commit.clone(), built: Some(built.clone()), before }
    } else {
        Note { before, ..Note::default() }
    };
    let folder = path.parent().unwrap_or(&path);
    fs::create_dir_all(folder).map_err(Error::file("make the folder", folder))?;
    image::remove_abandoned(folder);
    let bytes = serde_json::to_vec(&note)
        .map_err(|error| Error::Internal { message: format!("the note of a build cannot be written: {error}") })?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::file("make a file in", folder))?;
    std::io::Write::write_all(&mut file, &bytes).map_err(Error::file("write", &path))?;
    file.persist(&path).map_err(|error| Error::file("write", &path)(error.error))?;
    Ok(())
}

fn note_path(workspace: &Workspace, component: &Name, version: &Version) -> PathBuf {
    workspace.cache().join("builds").join(format!("{component}-{version}.json"))
}

/// The build's section as provenance shows it: references to secrets, never their values.
fn definition(component: &Component) -> Value {
    serde_json::to_value(&component.build).unwrap_or_default()
}

/// `SOURCE_DATE_EPOCH` if it is set, else the time of the commit, else 1970.
fn created(head: Option<&Head>) -> Result<jiff::Timestamp> {
    match std::env::var(EPOCH) {
        Ok(text) if !text.is_empty() => {
            let second = text.parse().ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
            second.ok_or_else(|| {
                Error::bad_input(format!("{EPOCH} is {text:?}, which is no number of seconds since 1970"))
            })
        }
        _ => Ok(head.map(|head| head.committed).unwrap_or_default()),
    }
}

/// Builds one component without anything that a build before it has left.
pub(crate) async fn build_afresh(
    workspace: &Workspace,
    component: &Component,
    version: &Version,
    head: &Head,
) -> Result<BuiltComponent> {
    let mut component = component.clone();
    match &mut component.build.builder {
        Builder::Docker(spec) => spec.no_cache = true,
        // What is in the store of Nix is built once more, and must come out the same.
        Builder::Nix(spec) => spec.rebuild = true,
        Builder::Oci(_) | Builder::Command(_) | Builder::None => {}
    }
    let layers = tempfile::tempdir().map_err(Error::file("make a folder in", &std::env::temp_dir()))?;
    build_with(workspace, &component, version, Some(head), layers.path()).await
}

/// Builds one component from the work tree as it is.
pub(crate) async fn build_one(
    workspace: &Workspace,
    component: &Component,
    version: &Version,
    head: Option<&Head>,
) -> Result<BuiltComponent> {
    build_with(workspace, component, version, head, &workspace.cache().join("layers")).await
}

/// The same with `layers` for what makes a build of layers quicker.
async fn build_with(
    workspace: &Workspace,
    component: &Component,
    version: &Version,
    head: Option<&Head>,
    layers: &Path,
) -> Result<BuiltComponent> {
    let started = workspace.now();
    let folder = workspace.root.join(&component.path);
    for command in &component.build.prepare {
        prepare(workspace, &folder, command).await?;
    }
    let images = workspace.cache().join("images");
    fs::create_dir_all(&images).map_err(Error::file("make the folder", &images))?;
    image::remove_abandoned(&images);
    let temporary = tempfile::tempdir_in(&images).map_err(Error::file("make a folder in", &images))?;
    let mut built = BuiltComponent {
        component: component.name.clone(),
        version: version.clone(),
        builder: component.build.builder.word().to_owned(),
        images: BTreeMap::new(),
        index: None,
        layout: None,
        artifacts: BTreeMap::new(),
        source: workspace.config.source.clone(),
        materials: materials(component, &folder)?,
        definition: definition(component),
        invocation: uuid::Uuid::new_v4().to_string(),
        started,
        finished: started,
    };
    if let Some(made) = builder(workspace, component, version, head, layers, temporary.path()).await? {
        built.materials.extend(made.materials);
        match made.output {
            image::Output::Image(image) => take_image(workspace, &mut built, image, temporary)?,
            image::Output::Files(files) => take_files(workspace, &mut built, files, temporary)?,
        }
    }
    built.finished = workspace.now();
    Ok(built)
}

/// The labels of the image, which are also the annotations of its manifest (OCI image specification, "Annotations").
fn labels(
    workspace: &Workspace,
    component: &Component,
    version: &Version,
    head: Option<&Head>,
    created: jiff::Timestamp,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("title", component.name.to_string()),
        ("version", version.to_string()),
        ("created", created.to_string()),
    ]);
    if let Some(head) = head {
        labels.insert("revision", head.commit.clone());
    }
    if let Some(source) = &workspace.config.source {
        labels.insert("source", source.clone());
    }
    labels.into_iter().map(|(name, value)| (format!("org.opencontainers.image.{name}"), value)).collect()
}

/// What a builder left in its temporary folder.
struct Made {
    output: image::Output,
    materials: Vec<Material>,
}

async fn builder(
    workspace: &Workspace,
    component: &Component,
    version: &Version,
    head: Option<&Head>,
    layers: &Path,
    to: &Path,
) -> Result<Option<Made>> {
    let folder = workspace.root.join(&component.path);
    let created = created(head)?;
    let labels = labels(workspace, component, version, head, created);
    let events = &workspace.events;
    let doing = || format!("build {}", component.name);
    let mut materials = Vec::new();
    let output = match &component.build.builder {
        Builder::None => return Ok(None),
        Builder::Docker(spec) => {
            let secrets = secrets(workspace, &spec.secrets)?;
            let built = image::build_docker(spec, &folder, &labels, &secrets, to, events).await;
            image::Output::Image(built.doing(doing())?)
        }
        Builder::Oci(spec) => {
            let cache = layers.to_owned();
            let base = image::fetch_base(spec, &cache, events).await.doing(doing())?;
            let (spec, to, events) = (spec.clone(), to.to_owned(), events.clone());
            let built = blocking(move || {
                let inputs = image::OciInputs {
                    spec: &spec,
                    root: &folder,
                    labels: &labels,
                    created,
                    base: base.as_deref(),
                    cache: &cache,
                };
                inputs.build(&to, &events)
            });
            image::Output::Image(built.await?.doing(doing())?)
        }
        Builder::Nix(spec) => {
            let key = spec.signing_key.as_ref().map(|key| NixKey::read(key, &workspace.root)).transpose()?;
            let signing = key.as_ref().map(|key| (key.name.as_str(), key.file.path()));
            let built = image::build_nix(spec, &folder, signing, to, events).await.doing(doing())?;
            materials.extend(nix_materials(&built.facts));
            built.output
        }
        Builder::Command(spec) => {
            image::build_command(spec, &folder, &version.to_string(), created, to, events).await.doing(doing())?
        }
    };
    Ok(Some(Made { output, materials }))
}

/// The values of a build's secrets. They go to the engine's session and nowhere else.
fn secrets(workspace: &Workspace, references: &BTreeMap<String, SecretRef>) -> Result<BTreeMap<String, Secret>> {
    let read = |(id, reference): (&String, &SecretRef)| {
        Ok((id.clone(), Secret::new(keyring::read_secret(reference, &workspace.root)?)))
    };
    references.iter().map(read).collect()
}

/// The secret key of Nix in a file that only its owner can read, and that goes with the build.
struct NixKey {
    name: String,
    file: tempfile::NamedTempFile,
}

impl NixKey {
    fn read(reference: &SecretRef, root: &Path) -> Result<Self> {
        let text = keyring::read_secret(reference, root)?;
        let name = text.split_once(':').map(|(name, _)| name.to_owned()).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Error::BadInput {
            message: "the signing key of Nix has no name: it must be what `nix key generate-secret` prints".to_owned(),
            next: Some("nix key generate-secret --key-name KEY-1 > nix.key".to_owned()),
        })?;
        let file = tempfile::NamedTempFile::new().map_err(Error::file("make a file in", &std::env::temp_dir()))?;
        fs::write(file.path(), text).map_err(Error::file("write", file.path()))?;
        Ok(Self { name, file })
    }
}

/// The locked flake, as Nix identifies it.
fn nix_materials(facts: &image::NixFacts) -> Vec<Material> {
    let text = |field: &str| facts.source.get(field).and_then(Value::as_str).map(str::to_owned);
    let mut materials = Vec::new();
    if let Some(hash) = text("narHash") {
        let place = text("url").or_else(|| text("path")).unwrap_or_else(|| "flake".to_owned());
        materials
            .push(Material { uri: format!("nix:{place}"), digest: BTreeMap::from([("narHash".to_owned(), hash)]) });
    }
    materials
}

/// Moves an image's layout to its place in the cache.
fn take_image(
    workspace: &Workspace,
    built: &mut BuiltComponent,
    image: image::Built,
    temporary: tempfile::TempDir,
) -> Result<()> {
    let layout = layout_path(&workspace.cache(), &image.root());
    let whole = |layout: &Path| image::reopen(layout).is_ok_and(|there| there.root() == image.root());
    if !whole(&layout) {
        // What a crash or a bad disk left there heals here.
        if layout.exists() {
            fs::remove_dir_all(&layout).map_err(Error::file("remove", &layout))?;
        }
        let kept = temporary.keep();
        if let Err(error) = fs::rename(&kept, &layout) {
            fs::remove_dir_all(&kept).map_err(Error::file("remove", &kept))?;
            // A concurrent build of the same image may have been quicker.
            if !whole(&layout) {
                return Err(Error::file("rename a folder to", &layout)(error));
            }
        }
    }
    for image in image.platforms {
        let image::PlatformImage { platform, manifest, config, layers, bytes, .. } = image;
        built.images.insert(platform, manifest::Image { manifest, config, layers, bytes });
    }
    if let Some(digest) = image.index {
        let path = layout.join("blobs/sha256").join(digest.hex());
        let bytes = fs::metadata(&path).map_err(Error::file("read", &path))?.len();
        built.index = Some(manifest::File { digest, bytes });
    }
    built.layout = Some(layout);
    Ok(())
}

/// Moves files to their place in the cache: a folder named by all of them.
fn take_files(
    workspace: &Workspace,
    built: &mut BuiltComponent,
    files: Vec<image::Artifact>,
    temporary: tempfile::TempDir,
) -> Result<()> {
    let sums: String = files.iter().map(|file| format!("{}  {}\n", file.digest.hex(), file.path)).collect();
    let folder = workspace.cache().join("artifacts");
    fs::create_dir_all(&folder).map_err(Error::file("make the folder", &folder))?;
    let place = folder.join(Digest::of(sums).hex());
    let temporary = temporary.keep();
    let moved = fs::rename(&temporary, &place);
    for file in files {
        let inside = file.file.strip_prefix(&temporary).map(Path::to_owned);
        let inside = inside.map_err(|_| Error::Internal {
            message: format!("the artifact {} is at {}, outside of its build", file.path, file.file.display()),
        })?;
        let image::Artifact { path, digest, bytes, .. } = file;
        built.artifacts.insert(path, BuiltFile { file: place.join(inside), digest, bytes });
    }
    if moved.is_err() {
        // The same files were built before. What is there may have been touched since: it is replaced.
        let whole =
            built.artifacts.values().all(|file| digest_of(&file.file).is_ok_and(|digest| digest == file.digest));
        if whole {
            return fs::remove_dir_all(&temporary).map_err(Error::file("remove", &temporary));
        }
        fs::remove_dir_all(&place).map_err(Error::file("remove", &place))?;
        fs::rename(&temporary, &place).map_err(Error::file("rename a folder to", &place))?;
    }
    Ok(())
}

/// What goes into a build and has a digest: the base that the configuration pins, and files that lock dependencies.
fn materials(component: &Component, folder: &Path) -> Result<Vec<Material>> {
    let mut materials = Vec::new();
    if let Builder::Oci(spec) = &component.build.builder
        && let Some((name, digest)) = spec.base.split_once('@')
        && let Ok(digest) = digest.parse::<Digest>()
    {
        materials.push(Material::sha256(format!("docker://{name}"), &digest));
    }
    for name in LOCKS {
        let path = folder.join(name);
        if path.is_file() {
            materials.push(Material::sha256(format!("file:{name}"), &digest_of(&path)?));
        }
    }
    Ok(materials)
}

/// Files beside a component that pin what it depends on.
const LOCKS: &[&str] = &[
    "Cargo.lock",
    "flake.lock",
    "package-lock.json",
    "pnpm-lock.yaml",
    "poetry.lock",
    "requirements.txt",
    "uv.lock",
    "yarn.lock",
];

/// Runs one command of `prepare`, its lines as events.
async fn prepare(workspace: &Workspace, folder: &Path, command: &[String]) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let shown = command.join(" ");
    let failed =
        |how: String, tail: Vec<String>| Error::Command { what: format!("the prepare command `{shown}`"), how, tail };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("it cannot be started: {error}"), Vec::new()))?;
    let task = workspace.events.task(format!("run {shown}"), None, Unit::Items);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (out, err, status) = tokio::join!(lines(workspace, program, out), lines(workspace, program, err), child.wait());
    let status = status.map_err(|error| failed(error.to_string(), Vec::new()))?;
    if status.success() {
        task.finish("done");
        return Ok(());
    }
    let mut tail: Vec<String> = out.into_iter().chain(err).collect();
    tail.drain(..tail.len().saturating_sub(TAIL));
    Err(failed(status.to_string(), tail))
}

/// Passes lines on as they come and keeps the last ones.
async fn lines(workspace: &Workspace, source: &str, stream: Option<impl AsyncRead + Unpin>) -> Vec<String> {
    let mut tail = Vec::new();
    let Some(stream) = stream else { return tail };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    // A line without an end is told in pieces: it must not fill the memory.
    while matches!((&mut reader).take(LINE).read_until(b'\n', &mut line).await, Ok(count) if count > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        workspace.events.emit(Event::Output { source: source.to_owned(), line: text.clone() });
        tail.push(text);
        if tail.len() > TAIL {
            tail.remove(0);
        }
        line.clear();
    }
    tail
}
