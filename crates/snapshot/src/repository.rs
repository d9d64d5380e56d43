//! The verbs: a repository's data paths, its cache, and a store.

use crate::{
    cache::{Cache, Guard, OwnLayout, layout_key, manifest_key},
    checkout,
    error::{Error, Result, at},
    ingest,
    manifest::{self, Manifest, Shape},
    pointer::{Pointer, write_text},
    remote::{self, Survey, blocking, failed},
    scan,
};
use domain::{
    Digest, Events,
    event::{Task, Unit},
};
use std::path::{Component, Path, PathBuf};
use store::Store;

/// A repository with data paths, and the cache that serves it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    root: PathBuf,
    cache: Cache,
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
struct Data {
    full: PathBuf,
    relative: PathBuf,
    name: String,
}

impl Repository {
    /// `root` is the folder that data paths and pointers are relative to; the cache is made when it is needed.
    pub fn new(root: PathBuf, cache: PathBuf) -> Self {
        Self { root, cache: Cache::new(cache) }
    }

    /// Reads a pointer file; its path is absolute or relative to the root.
    pub fn pointer(&self, path: &Path) -> Result<Pointer> {
        Pointer::read(&self.under_root(path))
    }

    /// Takes the data at `path` (relative to the root) into the cache, writes its pointer beside it, and keeps the data
    /// out of git. Unchanged files are not read again.
    pub fn add(&self, path: &Path, events: &Events) -> Result<Added> {
        let data = self.data(path)?;
        let name = data.relative.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| !name.contains('\n')) else {
            return Err(Error::Path { path: data.full, why: "has a name that a pointer file cannot hold" });
        };
        let _guard = self.cache.enter(Some(&data.name))?;
        let label = data.relative.display().to_string();
        let ingested = ingest::ingest(&self.cache, &data.name, &data.full, None, &label, events)?;
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

    /// Compares the data of a pointer file with its snapshot.
    pub fn status(&self, pointer: &Path, events: &Events) -> Result<Status> {
        let pointer = self.pointer(pointer)?;
        let data = self.data(&pointer.data())?;
        let _guard = self.cache.enter(None)?;
        let packs = self.cache.packs_of(&pointer.digest)?;
        let manifest = self.cache.open_manifest(&pointer.digest)?;
        let cached =
            manifest.is_some() && packs.is_some_and(|packs| packs.iter().all(|pack| self.cache.has_pack(pack)));
        let task = events.task(format!("status {}", data.relative.display()), None, Unit::Bytes);
        let Some(current) = scan::current(&self.cache, &data.name, &data.full, true, Some(&task))? else {
            task.finish("missing");
            return Ok(Status { state: State::Missing, cached, pointer });
        };
        let state = compare(manifest, &current, &pointer.digest)?;
        if current.hashed > 0 {
            self.cache.save_if_idle(&data.name, &current.index)?;
        }
        task.finish(if state == State::Clean { "clean" } else { "modified" });
        Ok(Status { state, cached, pointer })
    }

    /// Brings a snapshot of the cache into the store: packs, layout, and the manifest last. Can be interrupted and
    /// repeated. When the cache has lost bytes they are taken from the data again, if that is still what was added;
    /// otherwise [`Error::ChangedSinceAdd`].
    pub async fn push(&self, store: &Store, pointer: &Pointer, events: &Events) -> Result<Pushed> {
        let _guard = self.enter(None).await?;
        let digest = pointer.digest;
        let mut rebuilt = false;
        loop {
            let (cache, opened) = (self.cache.clone(), digest);
            let own =
                blocking("open a snapshot", move || Ok(cache.open_manifest(&opened)?.and(cache.copy_layout(&opened)?)))
                    .await?;
            if let Some(own) = own {
                match self.push_packs(store, &digest, &own, events).await {
                    Err(Error::CachedPack { .. } | Error::NotCached { .. }) if !rebuilt => {}
                    other => return other,
                }
            } else if rebuilt {
                return Err(Error::NotCached { object: manifest_key(&digest), snapshot: digest });
            }
            self.rebuild(pointer, events).await?;
            rebuilt = true;
        }
    }

    async fn push_packs(&self, store: &Store, digest: &Digest, own: &OwnLayout, events: &Events) -> Result<Pushed> {
        let packs = &own.packs;
        let length = |path: PathBuf| std::fs::metadata(&path).map(|meta| meta.len()).map_err(at("read", path));
        let (manifest, layout) = (length(self.cache.manifest(digest))?, length(own.file.path().to_owned())?);
        let survey = Survey::take(store, digest, packs).await.map_err(failed("push", digest))?;
        let missing = survey.missing(packs);
        let already = Pushed { uploaded_packs: 0, uploaded_bytes: 0, already: true };
        if missing.is_empty() && survey.has_both(digest, manifest, layout) {
            return Ok(already);
        }
        // Someone else may have pushed the same snapshot, packed otherwise.
        if survey.has_manifest(digest, manifest)
            && let Some(theirs) = remote::remote_packs(store, &self.cache, digest).await?
        {
            let survey = Survey::take(store, digest, &theirs).await.map_err(failed("push", digest))?;
            if survey.missing(&theirs).is_empty() {
                return Ok(already);
            }
        }
        if let Some(lost) = missing.iter().find(|pack| !self.cache.has_pack(pack)) {
            return Err(Error::NotCached { object: Store::key(store::Family::Pack, &lost.digest), snapshot: *digest });
        }
        let uploaded_bytes = missing.iter().map(|pack| pack.size).sum::<u64>() + layout + manifest;
        let task = events.task(format!("push snapshot {}", digest.short()), Some(uploaded_bytes), Unit::Bytes);
        remote::send_packs(store, &self.cache, digest, &missing, &task).await?;
        remote::send_small(store, &layout_key(digest), own.file.path().to_owned(), digest, &task).await?;
        remote::send_small(store, &manifest_key(digest), self.cache.manifest(digest), digest, &task).await?;
        task.finish(format!("{} packs, {uploaded_bytes} bytes", missing.len()));
        Ok(Pushed { uploaded_packs: missing.len() as u64, uploaded_bytes, already: false })
    }

    /// Takes into the cache again what it lost of a snapshot.
    async fn rebuild(&self, pointer: &Pointer, events: &Events) -> Result<()> {
        let data = self.data(&pointer.data())?;
        let (this, events, digest) = (self.clone(), events.clone(), pointer.digest);
        blocking("take data into the cache", move || {
            if std::fs::symlink_metadata(&data.full).is_err() {
                return Err(Error::NotCached { object: manifest_key(&digest), snapshot: digest });
            }
            let _guard = this.cache.enter(Some(&data.name))?;
            let label = data.relative.display().to_string();
            ingest::ingest(&this.cache, &data.name, &data.full, Some(digest), &label, &events)?;
            Ok(())
        })
        .await
    }

    /// Brings a snapshot of the store into the cache, verified.
    pub async fn fetch(&self, store: &Store, digest: &Digest, events: &Events) -> Result<()> {
        let _guard = self.enter(None).await?;
        remote::fetch(store, &self.cache, digest, events, None).await.map(drop)
    }

    /// [`Repository::fetch`] of what is missing, then [`Repository::checkout`]. A pack that turns out to be damaged in
    /// the cache is fetched again, once.
    pub async fn pull(&self, store: &Store, pointer: &Pointer, force: bool, events: &Events) -> Result<Checkout> {
        self.fetch(store, &pointer.digest, events).await?;
        let (this, owned, sink) = (self.clone(), pointer.clone(), events.clone());
        let first = blocking("check out data", move || this.checkout(&owned, force, &sink)).await;
        let Err(Error::CachedPack { .. }) = &first else { return first };
        self.fetch(store, &pointer.digest, events).await?;
        let (this, owned, sink) = (self.clone(), pointer.clone(), events.clone());
        blocking("check out data", move || this.checkout(&owned, force, &sink)).await
    }

    /// Brings the data of a pointer to its snapshot, out of the cache alone. Without `force`, local changes are
    /// [`Error::LocalChanges`] before anything is touched, and files that the snapshot does not have stay.
    pub fn checkout(&self, pointer: &Pointer, force: bool, events: &Events) -> Result<Checkout> {
        let data = self.data(&pointer.data())?;
        let _guard = self.cache.enter(Some(&data.name))?;
        checkout::checkout(&self.cache, Some(&data.name), &data.full, &pointer.digest, force, events)
    }

    /// Brings a snapshot of the store into `to`, an empty or absent directory; no pointer is needed. A snapshot of one
    /// file becomes that file in it.
    pub async fn restore(&self, store: &Store, digest: &Digest, to: &Path, events: &Events) -> Result<Checkout> {
        if std::fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) || to.is_file() {
            return Err(Error::NotEmpty { path: to.to_owned() });
        }
        self.fetch(store, digest, events).await?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (this, digest_, to, sink) = (self.clone(), *digest, to.to_owned(), events.clone());
            let restored = blocking("restore data", move || this.restore_cached(&digest_, &to, &sink)).await;
            match restored {
                Err(Error::CachedPack { .. }) if attempt == 1 => self.fetch(store, digest, events).await?,
                other => return other,
            }
        }
    }

    fn restore_cached(&self, digest: &Digest, to: &Path, events: &Events) -> Result<Checkout> {
        let _guard = self.cache.enter(None)?;
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

    /// Reads everything of a snapshot back from the store, past the cache, and verifies every object, chunk and file.
    /// [`Error::Damaged`] names every bad object. Needs as much free space as the snapshot has in packs.
    pub async fn verify_remote(&self, store: &Store, digest: &Digest, events: &Events) -> Result<Verified> {
        let _guard = self.enter(None).await?;
        let tmp = self.cache.tmp();
        let folder = tempfile::Builder::new().prefix("verify-").tempdir_in(&tmp).map_err(at("write in", &tmp))?;
        let scratch = Cache::new(folder.path().to_owned());
        std::fs::create_dir_all(scratch.tmp()).map_err(at("make the directory", scratch.tmp()))?;
        remote::verify(store, &scratch, digest, events).await
    }

    /// Reads every byte of the data, if it is there, and of what the cache has of its snapshot. [`Error::Damaged`] names
    /// every file and object that is not what the pointer says.
    pub fn verify_local(&self, pointer: &Pointer, events: &Events) -> Result<Verified> {
        let data = self.data(&pointer.data())?;
        let _guard = self.cache.enter(None)?;
        let digest = pointer.digest;
        let task = events.task(format!("verify {}", data.relative.display()), None, Unit::Bytes);
        let mut verified = Verified { files: 0, bytes: 0, packs: 0 };
        let mut problems = Vec::new();
        if let Some(current) = scan::current(&self.cache, &data.name, &data.full, false, Some(&task))? {
            verified.files = current.index.known.len() as u64;
            verified.bytes = current.index.known.iter().map(|known| known.stat.size).sum();
            let shown = data.relative.display();
            match compare(self.cache.open_manifest(&digest)?, &current, &digest)? {
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
        self.verify_cache(&digest, &task, &mut verified, &mut problems)?;
        if !problems.is_empty() {
            return Err(Error::Damaged { snapshot: digest, problems });
        }
        task.finish(format!("{} files, {} packs", verified.files, verified.packs));
        Ok(verified)
    }

    fn verify_cache(
        &self,
        digest: &Digest,
        task: &Task,
        verified: &mut Verified,
        problems: &mut Vec<String>,
    ) -> Result<()> {
        let Some(packs) = self.cache.packs_of(digest)? else { return Ok(()) };
        let mut whole = true;
        for pack in packs {
            let path = self.cache.pack(&pack.digest);
            let mut file = match std::fs::File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    whole = false;
                    continue;
                }
                Err(error) => return Err(at("open", path)(error)),
            };
            task.grow(pack.size);
            if crate::layout::hash_rest(&mut file).map_err(at("read", &path))? != pack.digest {
                whole = false;
                problems.push(self.cache.quarantine(&pack.digest, "its bytes have another digest").to_string());
            }
            task.advance(pack.size);
            verified.packs += 1;
        }
        if whole {
            checkout::verify_cached(&self.cache, digest, task)?;
        }
        Ok(())
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

    async fn enter(&self, data: Option<&str>) -> Result<Guard> {
        let (cache, data) = (self.cache.clone(), data.map(str::to_owned));
        blocking("open the cache", move || cache.enter(data.as_deref())).await
    }

    fn under_root(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Resolves a data path, which must be inside the root and apart from the cache.
    fn data(&self, path: &Path) -> Result<Data> {
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
        let plain = |path: &Path| std::path::absolute(path).map_err(at("resolve", path));
        let (cache, there) = (plain(&self.root.join(self.cache.dir()))?, plain(&full)?);
        if relative.as_os_str().is_empty() || cache.starts_with(&there) || there.starts_with(&cache) {
            return Err(Error::Path { path: full, why: "contains the cache or lies in it" });
        }
        Ok(Data { name: Cache::data_name(&relative), full, relative })
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

/// The data against a manifest, or without one against the digest alone.
fn compare(
    manifest: Option<crate::ManifestReader<std::io::BufReader<std::fs::File>>>,
    current: &scan::Current,
    digest: &Digest,
) -> Result<State> {
    let nothing = || State::Modified { added: Vec::new(), removed: Vec::new(), changed: Vec::new() };
    let Some(mut manifest) = manifest else {
        let made = Manifest { shape: current.shape, entries: current.entries.clone() }.write();
        // Whatever a manifest cannot hold is not what the digest names.
        return Ok(if made.is_ok_and(|(found, ..)| found == *digest) { State::Clean } else { nothing() });
    };
    if manifest.shape() == Shape::File && current.shape == Shape::File {
        // One file is compared by content; its name is the pointer's business.
        let same =
            manifest.next_entry()?.map(|entry| entry.kind) == current.entries.first().map(|entry| entry.kind.clone());
        let changed = current.entries.iter().map(|entry| crate::shown(&entry.path)).collect();
        return Ok(if same {
            State::Clean
        } else {
            State::Modified { added: Vec::new(), removed: Vec::new(), changed }
        });
    }
    let shapes_differ = manifest.shape() != current.shape;
    let diff = manifest::join(|| manifest.next_entry(), current.entries.iter().cloned())?;
    if diff.is_empty() && !shapes_differ {
        return Ok(State::Clean);
    }
    let shown = |paths: Vec<Vec<u8>>| paths.iter().map(|path| crate::shown(path)).collect();
    Ok(State::Modified { added: shown(diff.added), removed: shown(diff.removed), changed: shown(diff.changed) })
}
