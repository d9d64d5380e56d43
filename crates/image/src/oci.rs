//! The `oci` builder: files in layers, without a daemon, the same bytes everywhere.

use crate::{
    context::STATE,
    error::{Error, Result, count},
    layer::{BUFFER, BlobWriter, NewEntry, Written, append, in_parallel},
    layout::{self, Built},
    spec::{Descriptor, History, ImageConfig, LAYER_GZIP, Platform, RootFs, RunConfig},
    tree::{Components, Node, Tree, shown},
    unpack::Limits,
};
use domain::{
    Events,
    config::{OciBuild, OciFile},
    event::{Task, Unit},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

/// Builds an image from files below `root` and writes it as a layout to `to`.
///
/// Each entry of `files` is one layer above the base, in the order given: a file goes to `to` (or into it, when it ends with a slash), the content of a folder
/// below `to`. Every file belongs to 0:0, has the time `created`, and the mode that the entry names, or 755 and 644 by its executable bit;
/// folders have 755. Folders on the way are created where neither the base nor an earlier layer has them; symbolic links of the base on the way are followed.
/// `labels` win over those of the configuration. Folders named `.sealift`, Sealift's own state, are left out.
///
/// The same inputs give the same digest, wherever, by whomever and whenever it is built.
pub fn build_oci(
    spec: &OciBuild,
    root: &Path,
    labels: &BTreeMap<String, String>,
    created: jiff::Timestamp,
    to: &Path,
    events: &Events,
) -> Result<Built> {
    let platform = Platform::parse(spec.platforms.first().map_or("", String::as_str)).ok_or_else(|| {
        Error::bad_with(
            format!("platform {:?} is not understood", spec.platforms.first()),
            "write os/architecture, for example linux/amd64",
        )
    })?;
    let blobs = layout::create(to)?;
    let mut base = base(&spec.base, root, &platform, to)?;
    let plans = spec.files.iter().map(|file| plan(file, root, &mut base.tree)).collect::<Result<Vec<_>>>()?;
    let total = plans.iter().flatten().map(Item::bytes).sum();
    let task = events.task(format!("build {}", count(plans.len() as u64, "layer", "layers")), Some(total), Unit::Bytes);
    let seconds = u64::try_from(created.as_second()).unwrap_or(0);
    let written = in_parallel(&plans, |items| write_layer(items, seconds, &blobs, &task))?;
    let bytes: u64 = written.iter().map(|layer| layer.size).sum();
    let config = configuration(spec, labels, created, base.config, &platform, &written);
    let mut descriptors = base.layers;
    descriptors.extend(written.iter().map(|layer| Descriptor::new(LAYER_GZIP, layer.digest, layer.size)));
    let built = layout::seal(to, &layout::to_json(&config)?, descriptors, platform)?;
    task.finish(format!("{}, {} compressed", built.manifest, count(bytes, "byte", "bytes")));
    Ok(built)
}

/// What is below the new layers.
struct Base {
    tree: Tree,
    layers: Vec<Descriptor>,
    config: Option<ImageConfig>,
}

fn base(text: &str, root: &Path, platform: &Platform, to: &Path) -> Result<Base> {
    if text == "scratch" {
        return Ok(Base { tree: Tree::default(), layers: Vec::new(), config: None });
    }
    let Some(path) = text.strip_prefix("oci-layout:") else {
        return Err(Error::bad_with(format!("base {text:?} is not understood"), "write scratch, or oci-layout:PATH"));
    };
    let path = root.join(path);
    if !path.join("index.json").is_file() {
        let hint = "make one with: skopeo copy docker://IMAGE oci:PATH";
        return Err(Error::bad_with(
            format!("base {text}: {} is no OCI layout (it has no index.json)", path.display()),
            hint,
        ));
    }
    let limits = Limits::default();
    let documents = layout::read_documents(&path, Some(platform))?;
    layout::verify_layers(&path, &documents, &limits)?;
    let tree = Tree::of(&path, &documents, &limits)?;
    for layer in &documents.manifest.layers {
        let (from, to) =
            (layout::blobs_dir(&path).join(layer.digest.hex()), layout::blobs_dir(to).join(layer.digest.hex()));
        if !to.exists() {
            fs::copy(&from, &to).map_err(Error::file("copy a base layer to", &to))?;
        }
    }
    Ok(Base { tree, layers: documents.manifest.layers, config: Some(documents.config) })
}

/// One entry of a layer to be.
#[derive(Debug)]
enum Item {
    Directory { path: Components },
    File { path: Components, from: PathBuf, size: u64, mode: u32 },
    Symlink { path: Components, target: PathBuf },
}

impl Item {
    fn path(&self) -> &Components {
        match self {
            Self::Directory { path } | Self::File { path, .. } | Self::Symlink { path, .. } => path,
        }
    }
    fn bytes(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            _ => 0,
        }
    }
}

/// Decides the entries of one layer, sorted by path, and notes them in the tree.
fn plan(file: &OciFile, root: &Path, tree: &mut Tree) -> Result<Vec<Item>> {
    let from = root.join(&file.from);
    if let Some(mode) = file.mode.filter(|mode| mode & !0o777 != 0) {
        return Err(Error::bad_with(
            format!("files entry {:?} has mode {mode:o}", file.from),
            "only permission bits, for example 0o755",
        ));
    }
    let metadata = match fs::symlink_metadata(&from) {
        Ok(metadata) => metadata,
        Err(error) => {
            let hint = "it is looked for relative to the component's path; if a command makes it, name that under build.prepare";
            return Err(Error::bad_with(
                format!("files entry {:?} cannot be read at {}: {error}", file.from, from.display()),
                hint,
            ));
        }
    };
    let mut target = destination(&file.to)?;
    // A symbolic link that is named itself stands for what it points to, as with cp.
    let metadata =
        if metadata.is_symlink() { fs::metadata(&from).map_err(|e| unreadable(&from, &e))? } else { metadata };
    if !metadata.is_dir() && file.to.ends_with('/') {
        let name = Path::new(&file.from)
            .file_name()
            .ok_or_else(|| Error::bad(format!("files entry {:?} has no file name", file.from)))?;
        target.push(name.as_bytes().to_vec());
    }
    let last = if metadata.is_dir() { None } else { Some(file_name(&mut target, file)?) };
    let mut real = tree
        .resolve(&target)
        .map_err(|why| Error::bad(format!("files entry {:?} to {:?}: {why}", file.from, file.to)))?;
    let mut items = Vec::new();
    for end in 1..=real.len() {
        if tree.get(&real[..end]).is_none() {
            items.push(Item::Directory { path: real[..end].to_vec() });
        }
    }
    match last {
        None => collect(&from, &real, file.mode, &mut items)?,
        Some(name) => {
            real.push(name);
            items.push(item(&from, real, &metadata, file.mode)?);
        }
    }
    // A folder that is there keeps its mode: /tmp of a base stays writable by all.
    items.retain(|item| !(matches!(item, Item::Directory { path } if tree.get(path) == Some(&Node::Directory))));
    items.sort_by(|a, b| a.path().cmp(b.path()));
    for entry in &items {
        place(tree, entry)?;
    }
    Ok(items)
}

/// Takes the file's own name off its path.
fn file_name(target: &mut Components, file: &OciFile) -> Result<Vec<u8>> {
    target.pop().ok_or_else(|| {
        Error::bad_with(
            format!("files entry {:?} is a file and goes to {:?}", file.from, file.to),
            "name the file's path in the image",
        )
    })
}

fn place(tree: &mut Tree, entry: &Item) -> Result<()> {
    let path = entry.path();
    let node = match entry {
        Item::Directory { .. } => Node::Directory,
        Item::Symlink { target, .. } => Node::Symlink(target.as_os_str().as_bytes().to_vec()),
        Item::File { .. } => Node::Other,
    };
    let conflict = match tree.get(path) {
        Some(there) => (*there == Node::Directory) != (node == Node::Directory),
        None => false,
    };
    if conflict {
        return Err(Error::bad(format!(
            "{} would be a folder and a file at once, or replace a symbolic link by a folder",
            shown(path)
        )));
    }
    tree.insert(path.clone(), node);
    Ok(())
}

fn destination(to: &str) -> Result<Components> {
    let parts: Components =
        to.split('/').filter(|part| !part.is_empty() && *part != ".").map(|part| part.as_bytes().to_vec()).collect();
    let unsafe_part = parts.iter().any(|part| part == b".." || part.contains(&0) || part.starts_with(b".wh."));
    if !to.starts_with('/') || unsafe_part {
        return Err(Error::bad_with(format!("files entry goes to {to:?}"), "write an absolute path without .. in it"));
    }
    Ok(parts)
}

fn collect(directory: &Path, path: &Components, mode: Option<u32>, items: &mut Vec<Item>) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(|e| unreadable(directory, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| unreadable(directory, &e))?;
        let from = entry.path();
        let name = entry.file_name().into_vec();
        if name == STATE {
            continue;
        }
        if name.starts_with(b".wh.") {
            return Err(Error::bad(format!(
                "{} cannot be in an image: names that begin with .wh. mean a deletion there",
                from.display()
            )));
        }
        let mut below = path.clone();
        below.push(name);
        let metadata = entry.metadata().map_err(|e| unreadable(&from, &e))?;
        if metadata.is_dir() {
            items.push(Item::Directory { path: below.clone() });
            collect(&from, &below, mode, items)?;
        } else {
            items.push(item(&from, below, &metadata, mode)?);
        }
    }
    Ok(())
}

fn item(from: &Path, path: Components, metadata: &fs::Metadata, mode: Option<u32>) -> Result<Item> {
    if metadata.is_symlink() {
        let target = fs::read_link(from).map_err(|e| unreadable(from, &e))?;
        return Ok(Item::Symlink { path, target });
    }
    if !metadata.is_file() {
        return Err(Error::bad(format!("{} is neither a file, a folder nor a symbolic link", from.display())));
    }
    let executable = metadata.permissions().mode() & 0o100 != 0;
    let mode = mode.unwrap_or(if executable { 0o755 } else { 0o644 });
    Ok(Item::File { path, from: from.to_owned(), size: metadata.len(), mode })
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::bad(format!("{} cannot be read: {error}", path.display()))
}

fn write_layer(items: &[Item], seconds: u64, blobs: &Path, task: &Task) -> Result<Written> {
    let failed = |error| Error::file("write a layer in", blobs)(error);
    let mut archive = tar::Builder::new(BlobWriter::create(blobs)?);
    for entry in items {
        let mut path = entry.path().join(&b'/');
        let (kind, link, mode) = match entry {
            Item::Directory { .. } => (tar::EntryType::Directory, &b""[..], 0o755),
            Item::Symlink { target, .. } => (tar::EntryType::Symlink, target.as_os_str().as_bytes(), 0o777),
            Item::File { mode, .. } => (tar::EntryType::Regular, &b""[..], *mode),
        };
        if kind == tar::EntryType::Directory {
            path.push(b'/');
        }
        let new = NewEntry { kind, path: &path, link, mode, mtime: seconds, size: entry.bytes() };
        match entry {
            Item::File { from, size, .. } => {
                let mut source = Exactly::open(from, *size, Some(task))?;
                let outcome = append(&mut archive, &new, &mut source).map_err(failed);
                source.settle(outcome)?;
            }
            _ => append(&mut archive, &new, std::io::empty()).map_err(failed)?,
        }
    }
    archive.into_inner().map_err(failed)?.finish(blobs)
}

/// A file that must have as many bytes as were announced in its header; else the archive would be torn.
pub(crate) struct Exactly<'a> {
    file: File,
    path: PathBuf,
    size: u64,
    left: u64,
    task: Option<&'a Task>,
    failure: Option<std::io::Error>,
}

impl<'a> Exactly<'a> {
    pub(crate) fn open(path: &Path, size: u64, task: Option<&'a Task>) -> Result<Self> {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        Ok(Self { file, path: path.to_owned(), size, left: size, task, failure: None })
    }

    /// Whether it was read whole and ends there, when it was written away with this outcome.
    pub(crate) fn settle(mut self, outcome: Result<()>) -> Result<()> {
        if let Some(error) = self.failure.take() {
            return Err(unreadable(&self.path, &error));
        }
        outcome?;
        let more = self.file.read(&mut [0]).map_err(|error| unreadable(&self.path, &error))?;
        if self.left != 0 || more != 0 {
            return Err(Error::bad_with(
                format!("{} changed while it was read: it no longer has {} bytes", self.path.display(), self.size),
                "build again when nothing writes to it",
            ));
        }
        Ok(())
    }
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len()).min(BUFFER);
        match self.file.read(&mut buffer[..want]) {
            Ok(read) => {
                self.left -= read as u64;
                if let Some(task) = self.task.filter(|_| read > 0) {
                    task.advance(read as u64);
                }
                Ok(read)
            }
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}

fn configuration(
    spec: &OciBuild,
    labels: &BTreeMap<String, String>,
    created: jiff::Timestamp,
    base: Option<ImageConfig>,
    platform: &Platform,
    layers: &[Written],
) -> ImageConfig {
    let whole_second = jiff::Timestamp::from_second(created.as_second()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let created = Some(whole_second.to_string());
    let (mut run, mut diff_ids, mut history) = match base {
        Some(base) => (base.config.unwrap_or_default(), base.rootfs.diff_ids, base.history.unwrap_or_default()),
        None => Default::default(),
    };
    diff_ids.extend(layers.iter().map(|layer| layer.diff_id));
    history.extend(spec.files.iter().map(|file| History {
        created: created.clone(),
        created_by: Some(format!("sealift: {} -> {}", file.from, file.to)),
        ..History::default()
    }));
    run_configuration(&mut run, spec, labels);
    ImageConfig {
        created,
        author: None,
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        config: Some(run),
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
        history: Some(history),
    }
}

/// Lays the specification over what the base says. A new entrypoint voids the base's command, as in a Dockerfile.
fn run_configuration(run: &mut RunConfig, spec: &OciBuild, labels: &BTreeMap<String, String>) {
    if !spec.entrypoint.is_empty() {
        run.entrypoint = Some(spec.entrypoint.clone());
        run.cmd = None;
    }
    if !spec.cmd.is_empty() {
        run.cmd = Some(spec.cmd.clone());
    }
    let env = run.env.get_or_insert_default();
    for (key, value) in &spec.env {
        let assignment = format!("{key}={value}");
        let prefix = format!("{key}=");
        match env.iter_mut().find(|there| there.starts_with(&prefix)) {
            Some(there) => *there = assignment,
            None => env.push(assignment),
        }
    }
    if env.is_empty() {
        run.env = None;
    }
    run.user = Some(spec.user.clone());
    if let Some(workdir) = &spec.workdir {
        run.working_dir = Some(workdir.clone());
    }
    let all = run.labels.get_or_insert_default();
    all.extend(spec.labels.clone());
    all.extend(labels.clone());
    if all.is_empty() {
        run.labels = None;
    }
}
