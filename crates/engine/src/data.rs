//! Data sets of the workspace: names and paths to snapshots.
//!
//! The work is done by `snapshot`; here names of `[data.NAME]` become pointer files. A data set is named by its name or
//! by its path; a store is that of `[store]`, or a remote by its name in `[store.remote.NAME]`.

use crate::{
    artifacts::blocking,
    error::{Doing, Error, Result},
    git,
    workspace::Workspace,
};
use domain::{Digest, names::Unknown};
use jiff::Timestamp;
use serde::Serialize;
use snapshot::{Pointer, Repository};
use std::path::{Path, PathBuf};
use store::Store;

/// A data set that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) name: String,
    pub(crate) path: String,
}

/// What `data add` did.
#[derive(Debug, Clone, Serialize)]
pub struct Added {
    /// Name, or path for one that the configuration does not have.
    pub name: String,
    /// Path of the data.
    pub path: String,
    /// The pointer file, which is to be committed.
    pub pointer_file: String,
    /// The snapshot.
    pub digest: Digest,
    /// Bytes of all files.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
    /// Bytes that the cache did not have.
    pub new_bytes: u64,
    /// Whether the pointer changed.
    pub changed: bool,
}

/// How a data set stands.
#[derive(Debug, Clone, Serialize)]
pub struct DataStatus {
    /// Name.
    pub name: String,
    /// Path of the data.
    pub path: String,
    /// `not added`, `clean`, `modified`, `missing`.
    pub state: &'static str,
    /// The snapshot that the pointer names.
    pub digest: Option<Digest>,
    /// Its bytes.
    pub bytes: u64,
    /// Its files.
    pub files: u64,
    /// Files that are new, gone and different, at most as many as are worth reading.
    pub added: Vec<String>,
    /// Gone.
    pub removed: Vec<String>,
    /// Different.
    pub changed: Vec<String>,
    /// Whether the store has all of it; `None` when the store could not be asked.
    pub pushed: Option<bool>,
    /// Whether this host's cache has all of it.
    pub cached: bool,
}

/// What `data push` did.
#[derive(Debug, Clone, Serialize)]
pub struct PushedData {
    /// Name.
    pub name: String,
    /// The snapshot.
    pub digest: Digest,
    /// Packs that were sent.
    pub packs: u64,
    /// Bytes that were sent.
    pub bytes: u64,
    /// Whether the store had all of it before.
    pub already: bool,
}

/// What `data pull` and `data checkout` did.
#[derive(Debug, Clone, Serialize)]
pub struct CheckedOut {
    /// Name.
    pub name: String,
    /// Path of the data.
    pub path: String,
    /// The snapshot.
    pub digest: Digest,
    /// Files that were written.
    pub written: u64,
    /// Files that were there already.
    pub unchanged: u64,
    /// Files that were removed.
    pub removed: u64,
}

/// What `data verify` found.
#[derive(Debug, Clone, Serialize)]
pub struct VerifiedData {
    /// Name.
    pub name: String,
    /// The snapshot.
    pub digest: Digest,
    /// Where: `store` or `cache`.
    pub place: &'static str,
    /// Files that were checked.
    pub files: u64,
    /// Bytes that were hashed.
    pub bytes: u64,
}

/// One version of a data set in git's history.
#[derive(Debug, Clone, Serialize)]
pub struct DataRevision {
    /// Commit.
    pub commit: String,
    /// When.
    pub committed: Timestamp,
    /// Who.
    pub author: String,
    /// First line of the message.
    pub subject: String,
    /// The snapshot; `None` where the pointer was removed.
    pub digest: Option<Digest>,
    /// Its bytes.
    pub bytes: u64,
    /// Its files.
    pub files: u64,
}

/// The snapshots of a workspace.
pub fn repository(workspace: &Workspace) -> Repository {
    Repository::new(workspace.root.clone(), workspace.cache().join("data"))
}

/// The pointer file beside a path.
pub fn pointer_file(root: &Path, path: &str) -> PathBuf {
    root.join(format!("{}.snapshot.toml", path.trim_end_matches('/')))
}

/// Reads the pointer of a data set.
pub fn pointer(root: &Path, path: &str) -> Result<Pointer> {
    let file = pointer_file(root, path);
    if !file.is_file() {
        return Err(Error::NotFound {
            message: format!("{path} has no snapshot yet (there is no {})", file.display()),
            next: Some(format!("sealift data add {path}")),
        });
    }
    Pointer::read(&file).doing(format!("read {}", file.display()))
}

/// The data sets that names or paths mean; all of them when none is given.
pub(crate) fn sets(workspace: &Workspace, wanted: &[String]) -> Result<Vec<Set>> {
    let config = &workspace.config;
    if wanted.is_empty() {
        if config.data.is_empty() {
            return Err(Error::NotFound {
                message: "Sealift.toml has no [data.NAME] section".to_owned(),
                next: Some("sealift data add PATH".to_owned()),
            });
        }
        return Ok(config
            .data
            .iter()
            .map(|(name, set)| Set { name: name.to_string(), path: set.path.clone() })
            .collect());
    }
    wanted.iter().map(|text| one(workspace, text)).collect()
}

fn one(workspace: &Workspace, text: &str) -> Result<Set> {
    let config = &workspace.config;
    let path = text.trim_end_matches('/').trim_start_matches("./");
    let found = config.data.iter().find(|(name, set)| name.as_str() == text || set.path.trim_end_matches('/') == path);
    if let Some((name, set)) = found {
        return Ok(Set { name: name.to_string(), path: set.path.trim_end_matches('/').to_owned() });
    }
    let inside = !Path::new(path).is_absolute() && !Path::new(path).components().any(|part| part.as_os_str() == "..");
    if inside && (workspace.root.join(path).symlink_metadata().is_ok() || pointer_file(&workspace.root, path).is_file())
    {
        return Ok(Set { name: path.to_owned(), path: path.to_owned() });
    }
    let known = config.data.keys().map(ToString::to_string).chain(config.data.values().map(|set| set.path.clone()));
    Err(Unknown::new("data set or path", text, known.collect::<Vec<_>>()).into())
}

/// The name of the data at a path. One that the configuration does not have is called by its path, and that is said.
pub(crate) fn name_of(workspace: &Workspace, path: &str) -> String {
    let mut known = workspace.config.data.iter();
    if let Some((name, _)) = known.find(|(_, data)| data.path.trim_end_matches('/') == path) {
        return name.to_string();
    }
    workspace.events.warn(format!(
        "no component uses {path} yet: add [data.NAME] with path = {path:?} to Sealift.toml, and NAME to a component's data"
    ));
    path.to_owned()
}

/// Takes snapshots into the local cache and writes pointer files.
pub async fn add(workspace: &Workspace, wanted: &[String]) -> Result<Vec<Added>> {
    let mut all = Vec::new();
    for set in sets(workspace, wanted)? {
        let (repository, events) = (repository(workspace), workspace.events.clone());
        let path = workspace.root.join(&set.path);
        let added = blocking(move || repository.add(&path, &events)).await?.doing(format!("add {}", set.path))?;
        let file = added.pointer_path.strip_prefix(&workspace.root).unwrap_or(&added.pointer_path);
        all.push(Added {
            name: name_of(workspace, &set.path),
            path: set.path,
            pointer_file: file.display().to_string(),
            digest: added.pointer.digest,
            bytes: added.pointer.bytes,
            files: added.pointer.files,
            new_bytes: added.new_bytes,
            changed: added.changed,
        });
    }
    Ok(all)
}

/// How data sets stand: one `stat` a file, and a few questions to the store.
pub async fn status(workspace: &Workspace, wanted: &[String], remote: Option<&str>) -> Result<Vec<DataStatus>> {
    let store = match place(workspace, remote).await {
        Err(error @ Error::Unknown(_)) => return Err(error),
        Err(error) => {
            workspace.events.warn(format!("whether data is pushed cannot be told: {error}"));
            None
        }
        Ok(store) => Some(store),
    };
    let mut all = Vec::new();
    for set in sets(workspace, wanted)? {
        let file = pointer_file(&workspace.root, &set.path);
        let mut status = DataStatus {
            name: set.name.clone(),
            path: set.path.clone(),
            state: "not added",
            digest: None,
            bytes: 0,
            files: 0,
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
            pushed: None,
            cached: false,
        };
        if file.is_file() {
            let pointer = pointer(&workspace.root, &set.path)?;
            (status.digest, status.bytes, status.files) = (Some(pointer.digest), pointer.bytes, pointer.files);
            let (data, events) = (repository(workspace), workspace.events.clone());
            let found = blocking(move || data.status(&file, &events)).await?;
            let found = found.doing(format!("compare {} with its snapshot", set.path))?;
            status.cached = found.cached;
            match found.state {
                snapshot::State::Clean => status.state = "clean",
                snapshot::State::Missing => status.state = "missing",
                snapshot::State::Modified { added, removed, changed } => {
                    status.state = "modified";
                    (status.added, status.removed, status.changed) = (added, removed, changed);
                }
            }
            if let Some(store) = &store {
                match repository(workspace).complete(store, &pointer.digest).await {
                    Ok(missing) => status.pushed = Some(missing.is_empty()),
                    Err(error) => {
                        workspace.events.warn(format!("whether {} is pushed cannot be told: {error}", set.path));
                    }
                }
            }
        }
        all.push(status);
    }
    Ok(all)
}

/// The store that data goes to or comes from.
pub(crate) async fn place(workspace: &Workspace, remote: Option<&str>) -> Result<Store> {
    match remote {
        None => workspace.store().await,
        Some(name) => workspace.remote(name).await,
    }
}

/// Sends snapshots to the store.
pub async fn push(workspace: &Workspace, wanted: &[String], remote: Option<&str>) -> Result<Vec<PushedData>> {
    let store = place(workspace, remote).await?;
    let mut all = Vec::new();
    for set in sets(workspace, wanted)? {
        let pointer = pointer(&workspace.root, &set.path)?;
        let pushed = repository(workspace)
            .push(&store, &pointer, &workspace.events)
            .await
            .doing(format!("push {}", set.path))?;
        all.push(PushedData {
            name: set.name,
            digest: pointer.digest,
            packs: pushed.uploaded_packs,
            bytes: pushed.uploaded_bytes,
            already: pushed.already,
        });
    }
    Ok(all)
}

/// Fetches snapshots and writes their files; with `parts`, only what is at or below these paths inside the one data set.
pub async fn pull(
    workspace: &Workspace,
    wanted: &[String],
    parts: &[String],
    force: bool,
    remote: Option<&str>,
) -> Result<Vec<CheckedOut>> {
    let sets = sets(workspace, wanted)?;
    if !parts.is_empty() && sets.len() != 1 {
        let names: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
        return Err(Error::Usage { message: format!("--path is about one data set; say which: {}", names.join(", ")) });
    }
    let store = place(workspace, remote).await?;
    let mut all = Vec::new();
    for set in sets {
        let pointer = pointer(&workspace.root, &set.path)?;
        let (repository, events) = (repository(workspace), &workspace.events);
        let done = if parts.is_empty() {
            repository.pull(&store, &pointer, force, events).await
        } else {
            // As a shell completes them, paths may begin with that of the data.
            let inside = |part: &String| part.strip_prefix(&format!("{}/", set.path)).unwrap_or(part).to_owned();
            let parts: Vec<String> = parts.iter().map(inside).collect();
            repository.pull_part(&store, &pointer, &parts, force, events).await
        };
        all.push(checked_out(set.clone(), pointer.digest, &done.doing(format!("pull {}", set.path))?));
    }
    Ok(all)
}

/// Writes files of snapshots from the local cache.
pub async fn checkout(workspace: &Workspace, wanted: &[String], force: bool) -> Result<Vec<CheckedOut>> {
    let mut all = Vec::new();
    for set in sets(workspace, wanted)? {
        let pointer = pointer(&workspace.root, &set.path)?;
        let digest = pointer.digest;
        let (repository, events) = (repository(workspace), workspace.events.clone());
        let done = blocking(move || repository.checkout(&pointer, force, &events)).await?;
        all.push(checked_out(set.clone(), digest, &done.doing(format!("check out {}", set.path))?));
    }
    Ok(all)
}

fn checked_out(set: Set, digest: Digest, done: &snapshot::Checkout) -> CheckedOut {
    CheckedOut {
        name: set.name,
        path: set.path,
        digest,
        written: done.written,
        unchanged: done.unchanged,
        removed: done.removed,
    }
}

/// What a verification reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyOf<'a> {
    /// The store of `[store]`, or the remote of that name.
    Store(Option<&'a str>),
    /// This host's cache.
    Cache,
}

/// Reads snapshots back, from the store or the cache, and checks every byte. What is damaged in a store is sent again out of
/// whatever has it whole: the cache, or another store of the configuration. All are read, also after one that is damaged; the first failure is the
/// answer.
pub async fn verify(workspace: &Workspace, wanted: &[String], of: &VerifyOf<'_>) -> Result<Vec<VerifiedData>> {
    let store = match of {
        VerifyOf::Store(remote) => Some(place(workspace, *remote).await?),
        VerifyOf::Cache => None,
    };
    let copies = match &store {
        Some(store) => others(workspace, store).await,
        None => Vec::new(),
    };
    let mut all = Vec::new();
    let mut failed = None;
    for set in sets(workspace, wanted)? {
        let pointer = pointer(&workspace.root, &set.path)?;
        let digest = pointer.digest;
        let (repository, events) = (repository(workspace), workspace.events.clone());
        let found = match &store {
            Some(store) => repository.verify_and_heal(store, &digest, &copies, &events).await,
            None => blocking(move || repository.verify_local(&pointer, &events)).await?,
        };
        let place = if store.is_some() { "store" } else { "cache" };
        match found.doing(format!("verify {}", set.path)) {
            Ok(found) => {
                all.push(VerifiedData { name: set.name, digest, place, files: found.files, bytes: found.bytes })
            }
            Err(error) if failed.is_none() => failed = Some(error),
            Err(error) => workspace.events.warn(error.to_string()),
        }
    }
    match failed {
        None => Ok(all),
        Some(error) => {
            for whole in &all {
                workspace.events.note(format!("{} is whole: every byte was read", whole.name));
            }
            Err(error)
        }
    }
}

/// The other stores of the configuration. One that cannot be opened cannot help, which is no failure of what is verified.
async fn others(workspace: &Workspace, store: &Store) -> Vec<Store> {
    let remotes = workspace.config.remotes.keys().map(|name| Some(name.as_str()));
    let mut others = Vec::new();
    for name in std::iter::once(None).chain(remotes) {
        if let Ok(other) = place(workspace, name).await
            && other.describe() != store.describe()
        {
            others.push(other);
        }
    }
    others
}

/// How two versions of a data set differ.
#[derive(Debug, Clone, Serialize)]
pub struct DataDiff {
    /// Name.
    pub name: String,
    /// The first version, as it was named.
    pub from: String,
    /// Its snapshot; `None` where there was none.
    pub old: Option<Digest>,
    /// The second version, as it was named.
    pub to: String,
    /// Its snapshot; `None` where there was none.
    pub new: Option<Digest>,
    /// Only in the second. Paths as people read them.
    pub added: Vec<String>,
    /// Only in the first.
    pub removed: Vec<String>,
    /// In both, with other content, mode or target.
    pub changed: Vec<String>,
}

/// What changed between two versions of a data set: `from` is HEAD by default, `to` the pointer as it is in the work tree.
/// A version is a git revision, or a snapshot's whole digest.
pub async fn diff(workspace: &Workspace, wanted: &str, from: Option<&str>, to: Option<&str>) -> Result<DataDiff> {
    let set = one(workspace, wanted)?;
    let old = version(workspace, &set, Some(from.unwrap_or("HEAD"))).await?;
    let new = version(workspace, &set, to).await?;
    let mut diff = DataDiff {
        name: set.name.clone(),
        from: from.unwrap_or("HEAD").to_owned(),
        old,
        to: to.unwrap_or("work tree").to_owned(),
        new,
        added: Vec::new(),
        removed: Vec::new(),
        changed: Vec::new(),
    };
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let store = workspace.store().await.ok();
            let found = repository(workspace).compare(store.as_ref(), &old, &new, &workspace.events).await;
            let found = found.doing(format!("compare two versions of {}", set.path))?;
            let words = |paths: Vec<Vec<u8>>| paths.iter().map(|path| snapshot::shown(path)).collect();
            (diff.added, diff.removed, diff.changed) = (words(found.added), words(found.removed), words(found.changed));
        }
        (None, None) => {
            return Err(Error::NotFound {
                message: format!("{} has no snapshot in either version", set.path),
                next: Some(format!("sealift data log {}", set.name)),
            });
        }
        _ => {}
    }
    Ok(diff)
}

/// The snapshot that a version of a data set names.
async fn version(workspace: &Workspace, set: &Set, text: Option<&str>) -> Result<Option<Digest>> {
    let Some(text) = text else { return Ok(Some(pointer(&workspace.root, &set.path)?.digest)) };
    if let Ok(digest) = text.parse::<Digest>() {
        return Ok(Some(digest));
    }
    let file = format!("{}.snapshot.toml", set.path);
    let Some(pointer) = git::text_at(&workspace.root, text, &file).await? else { return Ok(None) };
    let pointer = Pointer::parse(&pointer, Path::new(&file)).doing(format!("read {file} of {text}"))?;
    Ok(Some(pointer.digest))
}

/// The versions of a data set in git's history, newest first.
pub async fn log(workspace: &Workspace, wanted: &str, limit: usize) -> Result<Vec<DataRevision>> {
    let set = one(workspace, wanted)?;
    git::head(&workspace.root).await?;
    let file = format!("{}.snapshot.toml", set.path);
    let revisions = git::revisions(&workspace.root, &file, limit).await?;
    Ok(revisions
        .into_iter()
        .map(|revision| {
            let pointer = revision.text.as_deref().and_then(|text| Pointer::parse(text, Path::new(&file)).ok());
            DataRevision {
                commit: revision.commit,
                committed: revision.committed,
                author: revision.author,
                subject: revision.subject,
                digest: pointer.as_ref().map(|pointer| pointer.digest),
                bytes: pointer.as_ref().map_or(0, |pointer| pointer.bytes),
                files: pointer.as_ref().map_or(0, |pointer| pointer.files),
            }
        })
        .collect())
}
