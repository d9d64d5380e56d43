//! The verbs: a repository's data paths, its cache, and a store.

use crate::{
    cache::{Cache, Guard, layout_key, manifest_key},
    checkout,
    error::{Error, Result, at, count},
    fence, ingest,
    manifest::{self, Diff, Manifest, ManifestWriter, Shape},
    path,
    pointer::{Pointer, write_text},
    remote::{self, blocking},
    scan,
};
use domain::{
    Digest, Events,
    event::{Task, Unit},
};
use std::{
    collections::HashSet,
    path::{Component, Path, PathBuf},
    time::Duration,
};
use store::Store;

/// A repository with data paths, and the cache that serves it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    root: PathBuf,
    cache: Cache,
    patience: Duration,
}

/// What `add` did.
#[derive(Debug, Clone)]
pub struct Added {
    /// The pointer as it is now.
    pub pointer: Pointer,
    /// Where it is.
    pub pointer_path: PathBuf,
    /// Bytes of chunks that the cache did not have, as stored.
    pub new_bytes: u64,
    /// Whether the pointer file changed.
    pub changed: bool,
}

/// How data stands against its pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is what the pointer says.
    Clean,
    /// It is not. Paths as people read them; all lists are empty when the manifest is not in the cache to compare with.
    Modified {
        /// Only in the data.
        added: Vec<String>,
        /// Only in the snapshot.
        removed: Vec<String>,
        /// In both, with other content, mode or target.
        changed: Vec<String>,
    },
    /// Nothing is there.
    Missing,
}

/// What `status` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The data against the pointer.
    pub state: State,
    /// Whether the cache has all of the snapshot, so that a checkout needs no store.
    pub cached: bool,
    /// The pointer.
    pub pointer: Pointer,
}

/// What `push` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Packs that were sent.
    pub uploaded_packs: u64,
    /// Bytes that were sent: packs, layout and manifest.
    pub uploaded_bytes: u64,
    /// Whether the store had everything already.
    pub already: bool,
}

/// What a checkout or restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// The snapshot that is there now.
    pub digest: Digest,
    /// Entries written.
    pub written: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Entries that were there already.
    pub unchanged: u64,
    /// Entries removed: with force all that the snapshot does not have, otherwise unchanged ones that were in the way.
    pub removed: u64,
    /// What the snapshot does not have and what stayed, as people read it.
    pub kept: Vec<String>,
}

/// What a verification read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Files whose every byte was read.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Packs that were read.
    pub packs: u64,
}

/// A data path, resolved.
pub(crate) struct Data {
    pub(crate) full: PathBuf,
    pub(crate) relative: PathBuf,
    pub(crate) name: String,
}

impl Repository {
    /// `root` is the folder that data paths and pointers are relative to; the cache is made when it is needed.
    pub fn new(root: PathBuf, cache: PathBuf) -> Self {
        Self { root, cache: Cache::new(cache), patience: fence::PATIENCE }
    }

    /// How long a push waits for a gc that is removing what it needs; 90 seconds unless it is set here. A gc that died holds
    /// on for half a minute.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Reads a pointer file; its path is absolute or relative to the root.
    pub fn pointer(&self, path: &Path) -> Result<Pointer> {
        Pointer::read(&self.under_root(path))
    }

    /// Takes the data at `path` (relative to the root) into the cache, writes its pointer beside it, and keeps the data
    /// out of git. Unchanged files are not read again.
    pub fn add(&self, path: &Path, events: &Events) -> Result<Added> {
        let data = self.data(path)?;
        let full = data.full.clone();
        self.add_as(&data, &data.name, &full, None, events)
    }

    /// The same for data that was put together at `source` and is to be pointed to at `path`, where nothing is read or
    /// written. Nothing is kept of a source that is not the snapshot `expect`.
    pub(crate) fn add_from(&self, path: &Path, source: &Path, expect: Digest, events: &Events) -> Result<Added> {
        let data = self.data(path)?;
        let name = Cache::data_name(source);
        let added = self.add_as(&data, &name, source, Some(expect), events);
        let _ = std::fs::remove_file(self.cache.stat_index(&name));
        added
    }

    fn add_as(
        &self,
        data: &Data,
        index: &str,
        source: &Path,
        expect: Option<Digest>,
        events: &Events,
    ) -> Result<Added> {
        let name = data.relative.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| !name.contains('\n')) else {
            return Err(Error::Path { path: data.full.clone(), why: "has a name that a pointer file cannot hold" });
        };
        let _guard = self.cache.enter(Some(&data.name))?;
        let label = data.relative.display().to_string();
        let ingested = ingest::ingest(&self.cache, index, source, expect, &label, events)?;
        let pointer_path = Pointer::beside(&data.full);
        let pointer = Pointer {
            digest: ingested.digest,
            bytes: ingested.totals.bytes,
            files: ingested.totals.files,
            path: PathBuf::from(name),
            at: pointer_path.clone(),
        };
        // Ignored before the pointer is there: git never sees data that is tracked by Sealift.
        self.ignore(&data.full, name)?;
        let changed = pointer.write(&pointer_path)?;
        Ok(Added { pointer, pointer_path, new_bytes: ingested.new_bytes, changed })
    }

    /// The folder that data paths are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Compares the data of a pointer file with its snapshot.
    pub fn status(&self, pointer: &Path, events: &Events) -> Result<Status> {
        let pointer = self.pointer(pointer)?;
        let data = self.data(&pointer.data())?;
        let _guard = self.cache.enter(None)?;
        let manifest = self.cache.open_manifest(&pointer.digest)?;
        let cached = manifest.is_some() && self.cache.has_packs_of(&pointer.digest)?;
        let task = events.task(format!("status {}", data.relative.display()), None, Unit::Bytes);
        let Some(mut current) = scan::current(&self.cache, &data.name, &data.full, true, Some(&task))? else {
            task.finish("missing");
            return Ok(Status { state: State::Missing, cached, pointer });
        };
        let state = compare(manifest, &mut current, &pointer.digest)?;
        current.finish()?.save_if_idle(&self.cache, &data.name)?;
        task.finish(if state == State::Clean { "clean" } else { "modified" });
        Ok(Status { state, cached, pointer })
    }

    /// [`crate::complete`], for whom what this cache has noted as damaged in the store is missing.
    pub async fn complete(&self, store: &Store, digest: &Digest) -> Result<Vec<String>> {
        self.recall_damage(store);
        remote::complete(store, digest).await
    }

    /// [`crate::hold`], for whom what this cache has noted as damaged in the store is missing.
    pub async fn hold(
        &self,
        store: &Store,
        digest: &Digest,
        patience: Duration,
        events: &Events,
    ) -> Result<Vec<String>> {
        self.recall_damage(store);
        remote::hold(store, digest, patience, events).await
    }

    /// Brings a snapshot of the store into the cache, verified.
    pub async fn fetch(&self, store: &Store, digest: &Digest, events: &Events) -> Result<()> {
        let _guard = self.enter(None).await?;
        self.fetch_selected(store, digest, events, None).await
    }

    /// The same for some of its packs. What is damaged there is noted.
    pub(crate) async fn fetch_selected(
        &self,
        store: &Store,
        digest: &Digest,
        events: &Events,
        select: Option<remote::Select<'_>>,
    ) -> Result<()> {
        let recalled = self.recall_damage(store);
        let fetched = remote::fetch(store, &self.cache, digest, events, select).await;
        let mut keys = vec![manifest_key(digest), layout_key(digest)];
        if let Err(Error::Store { source, .. }) = &fetched
            && let store::Error::Corrupt { key, .. } | store::Error::Damaged { key, .. } = &**source
        {
            keys.push(key.clone());
        }
        let noted = self.remember_damage(store, &recalled, keys);
        fetched.and(noted)
    }

    /// Whether a checkout that found damage in the cache is to be tried once more after a fetch: what was damaged was put in
    /// quarantine. A layout that is wrong again came from the store just now, so it is wrong there, which is noted.
    pub(crate) fn try_again(
        &self,
        store: &Store,
        digest: &Digest,
        error: &Error,
        again: &mut HashSet<String>,
    ) -> Result<bool> {
        match error {
            Error::CachedPack { pack, .. } => Ok(again.insert(Store::key(store::Family::Pack, pack))),
            Error::CachedLayout { why, .. } | Error::Corrupt { why, .. } if is_of_layout(error, digest) => {
                let object = layout_key(digest);
                // It may be wrong in a way that shows without any pack.
                let _ = self.cache.quarantine_layout(digest, String::new());
                if again.insert(object.clone()) {
                    return Ok(true);
                }
                let recalled = self.recall_damage(store);
                store.found_damaged(&object);
                self.remember_damage(store, &recalled, [object.clone()])?;
                Err(Error::Corrupt { object, why: why.clone() })
            }
            _ => Ok(false),
        }
    }

    /// [`Repository::fetch`] of what is missing, then [`Repository::checkout`]. Packs and the layout that turn out to be damaged
    /// in the cache are fetched again, once each.
    pub async fn pull(&self, store: &Store, pointer: &Pointer, force: bool, events: &Events) -> Result<Checkout> {
        let mut again = HashSet::new();
        loop {
            self.fetch(store, &pointer.digest, events).await?;
            let (this, owned, sink) = (self.clone(), pointer.clone(), events.clone());
            match blocking("check out data", move || this.checkout(&owned, force, &sink)).await {
                Err(error) if self.try_again(store, &pointer.digest, &error, &mut again)? => {}
                other => return other,
            }
        }
    }

    /// Brings the data of a pointer to its snapshot, out of the cache alone. Without `force`, local changes are
    /// [`Error::LocalChanges`] before anything is touched, and files that the snapshot does not have stay.
    pub fn checkout(&self, pointer: &Pointer, force: bool, events: &Events) -> Result<Checkout> {
        let data = self.data(&pointer.data())?;
        let _guard = self.cache.enter(Some(&data.name))?;
        checkout::checkout(&self.cache, Some(&data.name), &data.full, &pointer.digest, force, events)
    }

    /// Brings a snapshot of the store into `to`, an empty or absent directory; no pointer is needed. A snapshot of one
    /// file becomes that file in it. It is written beside `to` and gets its name when it is whole, so a restore that is
    /// interrupted leaves `to` as it was, and the next clears away the rest. (A mount point cannot be exchanged:
    /// there the files are written in place.)
    pub async fn restore(&self, store: &Store, digest: &Digest, to: &Path, events: &Events) -> Result<Checkout> {
        if std::fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) || to.is_file() {
            return Err(Error::NotEmpty { path: to.to_owned() });
        }
        let mut again = HashSet::new();
        loop {
            self.fetch(store, digest, events).await?;
            let (this, digest_, to, sink) = (self.clone(), *digest, to.to_owned(), events.clone());
            let restored = blocking("restore data", move || this.restore_cached(&digest_, &to, &sink)).await;
            match restored {
                Err(error) if self.try_again(store, digest, &error, &mut again)? => {}
                other => return other,
            }
        }
    }

    fn restore_cached(&self, digest: &Digest, to: &Path, events: &Events) -> Result<Checkout> {
        // What is there is exchanged under its own name, whatever way leads to it.
        let real = if to.exists() { std::fs::canonicalize(to) } else { std::path::absolute(to) };
        let to = real.map_err(at("resolve", to))?;
        if path::leads_into_git(&to) {
            return Err(Error::Path { path: to, why: "lies in a .git folder" });
        }
        let name = Cache::data_name(&to);
        // Alone with this folder, so what is beside it is of nobody who lives.
        let _guard = self.cache.enter(Some(&name))?;
        let Some(parent) = to.parent() else { return self.restore_in(digest, &to, events) };
        // The folders in which a new name comes to be: that of the data and those of folders above it that are not there yet.
        let mut made: Vec<&Path> = parent.ancestors().take_while(|folder| !folder.exists()).collect();
        made.push(made.last().map_or(parent, |last| last.parent().unwrap_or(last)));
        std::fs::create_dir_all(parent).map_err(at("make the directory", parent))?;
        let beside = parent.join(format!(".sealift-restore-{}", &name[..16]));
        match std::fs::remove_dir_all(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at("remove", beside)(error)),
            _ => {}
        }
        match std::fs::create_dir(&beside) {
            // Only the folder itself is ours to write in.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && to.exists() => {
                return self.restore_in(digest, &to, events);
            }
            made => made.map_err(at("make the directory", &beside))?,
        }
        if let Ok(there) = std::fs::metadata(&to) {
            std::fs::set_permissions(&beside, there.permissions()).map_err(at("set the mode of", &beside))?;
        }
        let done = self.restore_in(digest, &beside, events).and_then(|done| {
            match std::fs::rename(&beside, &to) {
                Ok(()) => {}
                Err(error) => match error.kind() {
                    std::io::ErrorKind::DirectoryNotEmpty => return Err(Error::NotEmpty { path: to.clone() }),
                    std::io::ErrorKind::ResourceBusy | std::io::ErrorKind::CrossesDevices => {
                        return self.restore_in(digest, &to, events);
                    }
                    _ => return Err(at("rename what was restored to", &to)(error)),
                },
            }
            for folder in &made {
                std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(at("write", folder))?;
            }
            Ok(done)
        });
        if beside.exists() {
            // The error that made it useless is what matters; the next restore removes it.
            let _ = std::fs::remove_dir_all(&beside);
        }
        done
    }

    /// Writes a snapshot of the cache into a folder that is empty or absent.
    fn restore_in(&self, digest: &Digest, to: &Path, events: &Events) -> Result<Checkout> {
        let mut manifest = self
            .cache
            .open_manifest(digest)?
            .ok_or_else(|| Error::NotCached { object: manifest_key(digest), snapshot: *digest })?;
        let data = match (manifest.shape(), manifest.next_entry()?) {
            (Shape::File, Some(entry)) => scan::place(to, Shape::Tree, &entry.path),
            _ => to.to_owned(),
        };
        checkout::checkout(&self.cache, None, &data, digest, false, events)
    }

    /// Reads every byte of the data, if it is there, and of what the cache has of its snapshot. [`Error::Damaged`] names
    /// every file and object that is not what the pointer says. [`Error::NotCached`] when there is no data, and no
    /// whole snapshot in the cache either: then nothing was verified.
    pub fn verify_local(&self, pointer: &Pointer, events: &Events) -> Result<Verified> {
        let data = self.data(&pointer.data())?;
        let _guard = self.cache.enter(None)?;
        let digest = pointer.digest;
        let task = events.task(format!("verify {}", data.relative.display()), None, Unit::Bytes);
        let mut verified = Verified { files: 0, bytes: 0, packs: 0 };
        let mut problems = Vec::new();
        let mut lost = Some(manifest_key(&digest));
        if let Some(mut current) = scan::current(&self.cache, &data.name, &data.full, false, Some(&task))? {
            lost = None;
            let shown = data.relative.display();
            let state = compare(self.cache.open_manifest(&digest)?, &mut current, &digest)?;
            let learned = current.finish()?;
            (verified.files, verified.bytes) = (learned.files, learned.bytes);
            match state {
                State::Modified { added, removed, changed } => {
                    if added.is_empty() && removed.is_empty() && changed.is_empty() {
                        problems.push(format!("{shown} is not what {digest} names"));
                    }
                    problems.extend(added.iter().map(|path| format!("{shown}/{path} is not in the snapshot")));
                    problems.extend(removed.iter().map(|path| format!("{shown}/{path} is missing")));
                    problems.extend(changed.iter().map(|path| format!("{shown}/{path} is not as in the snapshot")));
                }
                State::Clean | State::Missing => {}
            }
        }
        let in_cache = self.verify_cache(&digest, &task, &mut verified.packs, &mut problems)?;
        if !problems.is_empty() {
            return Err(Error::Damaged { snapshot: digest, problems, cached: true });
        }
        if lost.is_some() {
            let (files, bytes) = in_cache.map_err(|object| Error::NotCached { object, snapshot: digest })?;
            verified = Verified { files, bytes, ..verified };
        }
        task.finish(format!("{}, {}", count(verified.files, "file"), count(verified.packs, "pack")));
        Ok(verified)
    }

    /// Files and bytes of a snapshot that is whole in the cache, or what is missing first. Damage is a problem.
    fn verify_cache(
        &self,
        digest: &Digest,
        task: &Task,
        read: &mut u64,
        problems: &mut Vec<String>,
    ) -> Result<std::result::Result<(u64, u64), String>> {
        if self.cache.open_manifest(digest)?.is_none() {
            return Ok(Err(manifest_key(digest)));
        }
        let Some(packs) = self.cache.packs_of(digest)? else { return Ok(Err(layout_key(digest))) };
        let mut lost = None;
        for pack in packs {
            let path = self.cache.pack(&pack.digest);
            let mut file = match std::fs::File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    lost.get_or_insert(Store::key(store::Family::Pack, &pack.digest));
                    continue;
                }
                Err(error) => return Err(at("open", path)(error)),
            };
            task.grow(pack.size);
            if crate::layout::hash_rest(&mut file).map_err(at("read", &path))? != pack.digest {
                lost.get_or_insert(Store::key(store::Family::Pack, &pack.digest));
                problems.push(self.cache.quarantine(&pack.digest, "its bytes have another digest").to_string());
            }
            task.advance(pack.size);
            *read += 1;
        }
        match lost {
            Some(lost) => Ok(Err(lost)),
            None => checkout::verify_cached(&self.cache, digest, task).map(Ok),
        }
    }

    /// The manifest of a snapshot in the cache, whole in memory; `None` when it is not there.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<Manifest>> {
        let Some(mut reader) = self.cache.open_manifest(digest)? else { return Ok(None) };
        let mut manifest = Manifest { shape: reader.shape(), entries: Vec::new() };
        while let Some(entry) = reader.next_entry()? {
            manifest.entries.push(entry);
        }
        Ok(Some(manifest))
    }

    /// What changed between two snapshots. Manifests come from the cache, else from the store; one that is in neither is
    /// [`Error::NotCached`] without a store.
    pub async fn compare(&self, store: Option<&Store>, old: &Digest, new: &Digest, events: &Events) -> Result<Diff> {
        let _guard = self.enter(None).await?;
        let task = events.task(format!("compare {} with {}", old.short(), new.short()), None, Unit::Items);
        let mut opened = Vec::new();
        for digest in [old, new] {
            let (cache, wanted) = (self.cache.clone(), *digest);
            let reader = match blocking("open a manifest", move || cache.open_manifest(&wanted)).await? {
                Some(reader) => reader,
                None => {
                    let Some(store) = store else {
                        return Err(Error::NotCached { object: manifest_key(digest), snapshot: *digest });
                    };
                    // Not kept: a manifest in the cache stands for the rest of its snapshot.
                    let file = remote::download_manifest(store, &self.cache, digest).await?;
                    let file = std::fs::File::open(file.path()).map_err(at("open", file.path()))?;
                    crate::ManifestReader::new(std::io::BufReader::new(file), manifest_key(digest))?
                }
            };
            opened.push(reader);
        }
        let diff = blocking("compare manifests", move || {
            let [old, new] = &mut opened[..] else { return Ok(Diff::default()) };
            manifest::join(|| old.next_entry(), || new.next_entry())
        })
        .await?;
        task.finish(format!(
            "{} added, {} removed, {} changed",
            diff.added.len(),
            diff.removed.len(),
            diff.changed.len()
        ));
        Ok(diff)
    }

    pub(crate) async fn enter(&self, data: Option<&str>) -> Result<Guard> {
        let (cache, data) = (self.cache.clone(), data.map(str::to_owned));
        blocking("open the cache", move || cache.enter(data.as_deref())).await
    }

    fn under_root(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Resolves a data path, which must be inside the root and apart from the cache.
    pub(crate) fn data(&self, path: &Path) -> Result<Data> {
        let outside = || Error::Path { path: path.to_owned(), why: "is not inside the repository" };
        let full = self.under_root(path);
        let relative = match full.strip_prefix(&self.root) {
            Ok(relative) => relative.to_owned(),
            Err(_) => {
                let root = std::fs::canonicalize(&self.root).map_err(at("read", &self.root))?;
                full.strip_prefix(root).map_err(|_| outside())?.to_owned()
            }
        };
        let relative: PathBuf = relative.components().filter(|part| *part != Component::CurDir).collect();
        if relative.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(outside());
        }
        let full = self.root.join(&relative);
        if path::leads_into_git(&relative) {
            return Err(Error::Path { path: full, why: "lies in a .git folder" });
        }
        self.stays_inside(&relative, &full)?;
        let plain = |path: &Path| std::path::absolute(path).map_err(at("resolve", path));
        let (cache, there) = (plain(&self.root.join(self.cache.dir()))?, plain(&full)?);
        if relative.as_os_str().is_empty() || cache.starts_with(&there) || there.starts_with(&cache) {
            return Err(Error::Path { path: full, why: "contains the cache or lies in it" });
        }
        Ok(Data { name: Cache::data_name(&relative), full, relative })
    }

    /// Fails when a folder above the data is a link that leads out of the repository, or into the cache.
    fn stays_inside(&self, relative: &Path, full: &Path) -> Result<()> {
        let mut above = self.root.clone();
        for part in relative.parent().into_iter().flat_map(Path::components) {
            above.push(part);
            match std::fs::symlink_metadata(&above) {
                Ok(meta) if !meta.is_symlink() => continue,
                Ok(_) => {}
                // Nothing below it is there either.
                Err(_) => return Ok(()),
            }
            let root = std::fs::canonicalize(&self.root).map_err(at("read", &self.root))?;
            let target = std::fs::canonicalize(&above).map_err(at("follow the link", &above))?;
            if !target.starts_with(&root) {
                let why = "is below a symbolic link that leads out of the repository";
                return Err(Error::Path { path: full.to_owned(), why });
            }
            if target.strip_prefix(&root).is_ok_and(path::leads_into_git) {
                return Err(Error::Path { path: full.to_owned(), why: "is below a symbolic link into a .git folder" });
            }
            if std::fs::canonicalize(self.root.join(self.cache.dir())).is_ok_and(|cache| target.starts_with(cache)) {
                return Err(Error::Path { path: full.to_owned(), why: "is below a symbolic link into the cache" });
            }
        }
        Ok(())
    }

    /// Adds the data to the `.gitignore` beside it.
    fn ignore(&self, full: &Path, name: &str) -> Result<()> {
        let file = full.with_file_name(".gitignore");
        let _alone = self.cache.enter(Some("gitignore"))?;
        let old = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(at("read", file)(error)),
        };
        let mut line = String::from("/");
        for character in name.chars() {
            if matches!(character, '*' | '?' | '[' | ']' | '\\' | ' ') {
                line.push('\\');
            }
            line.push(character);
        }
        if old.lines().any(|there| there == line) {
            return Ok(());
        }
        let gap = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
        write_text(&file, &format!("{old}{gap}{line}\n")).map(drop)
    }
}

fn is_of_layout(error: &Error, digest: &Digest) -> bool {
    match error {
        Error::CachedLayout { snapshot, .. } => snapshot == digest,
        Error::Corrupt { object, .. } => *object == layout_key(digest),
        _ => false,
    }
}

type Opened = crate::ManifestReader<std::io::BufReader<std::fs::File>>;

/// The data against a manifest, or without one against the digest alone.
fn compare(manifest: Option<Opened>, current: &mut scan::Current<'_>, digest: &Digest) -> Result<State> {
    let nothing = || State::Modified { added: Vec::new(), removed: Vec::new(), changed: Vec::new() };
    let Some(mut manifest) = manifest else {
        // Whatever a manifest cannot hold is not what the digest names.
        let Ok(mut made) = ManifestWriter::new(std::io::sink(), current.shape) else { return Ok(nothing()) };
        while let Some(entry) = current.next()? {
            if made.push(&entry).is_err() {
                return Ok(nothing());
            }
        }
        return Ok(if made.finish().is_ok_and(|(found, ..)| found == *digest) { State::Clean } else { nothing() });
    };
    if manifest.shape() == Shape::File && current.shape == Shape::File {
        // One file is compared by content; its name is the pointer's business.
        let there = current.next()?;
        let same = manifest.next_entry()?.map(|entry| entry.kind) == there.as_ref().map(|entry| entry.kind.clone());
        let changed = there.iter().map(|entry| crate::shown(&entry.path)).collect();
        return Ok(if same {
            State::Clean
        } else {
            State::Modified { added: Vec::new(), removed: Vec::new(), changed }
        });
    }
    let shapes_differ = manifest.shape() != current.shape;
    let diff = manifest::join(|| manifest.next_entry(), || current.next())?;
    if diff.is_empty() && !shapes_differ {
        return Ok(State::Clean);
    }
    let shown = |paths: Vec<Vec<u8>>| paths.iter().map(|path| crate::shown(path)).collect();
    Ok(State::Modified { added: shown(diff.added), removed: shown(diff.removed), changed: shown(diff.changed) })
}
