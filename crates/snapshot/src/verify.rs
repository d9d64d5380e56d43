//! Reading a stored snapshot back, pack by pack, and remembering what was found damaged.
//!
//! Packs are numbered in the order in which the files need them, so a few of them are on this disk at any time
//! ([`WINDOW`] at 16 MiB); one that is needed again later is read again. What was damaged is noted in the cache, by store:
//! the next push, also of another process, counts it as missing. Nothing else about a store is ever remembered.

use crate::{
    Repository, Verified,
    cache::{Cache, layout_key},
    error::{Error, Result, at, count},
    layout::{CHUNK_COUNTS, Chunk, PackInfo},
    manifest::Entry,
    pack,
    remote::{self, blocking, failed},
};
use domain::{
    Class, Digest, Events,
    event::{Task, Unit},
};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fs::File,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use store::{Family, Store};
use tokio::task::JoinHandle;

/// Packs that are kept on this disk.
const WINDOW: usize = 12;
/// Packs that are read ahead.
const AHEAD: usize = 4;
/// Files above this are read in groups of chunks.
const LARGE: u64 = 8 << 20;
const GROUP: usize = 16;
const BATCH_BYTES: u64 = 16 << 20;
const BATCH_FILES: usize = 4096;

impl Repository {
    /// Reads everything of a snapshot back from the store, past the cache, and verifies every object, chunk and file.
    /// What is damaged is sent again if the cache has it whole, with a warning, and everything is read once more;
    /// otherwise [`Error::Damaged`] names every bad object, and the next push counts them as missing. Needs free space for a
    /// few packs, whatever the size of the snapshot.
    pub async fn verify_remote(&self, store: &Store, digest: &Digest, events: &Events) -> Result<Verified> {
        self.verify_and_heal(store, digest, &[], events).await
    }

    /// [`Repository::verify_remote`], where what the cache does not have whole may come from other stores.
    pub async fn verify_and_heal(
        &self,
        store: &Store,
        digest: &Digest,
        copies: &[Store],
        events: &Events,
    ) -> Result<Verified> {
        let _guard = self.enter(None).await?;
        let found = self.verify_stored(store, digest, events).await;
        let damage = match &found {
            Err(error) if error.class() == Class::Integrity => error.to_string(),
            _ => return found,
        };
        match self.heal(store, digest, copies, events).await {
            Ok(true) => {}
            Ok(false) => return found,
            Err(error) => {
                events.warn(format!("what is damaged of snapshot {} could not be sent again: {error}", digest.short()));
                return found;
            }
        }
        let verified = self.verify_stored(store, digest, events).await?;
        events.warn(format!("{damage}; it was sent again out of the cache and is whole now"));
        Ok(verified)
    }

    async fn verify_stored(&self, store: &Store, digest: &Digest, events: &Events) -> Result<Verified> {
        let recalled = self.recall_damage(store);
        let tmp = self.cache().tmp();
        let folder = tempfile::Builder::new().prefix("verify-").tempdir_in(&tmp).map_err(at("write in", &tmp))?;
        let scratch = Cache::new(folder.path().to_owned());
        std::fs::create_dir_all(scratch.tmp()).map_err(at("make the directory", scratch.tmp()))?;
        let verified = verify(store, &scratch, digest, events).await;
        let mut keys = vec![layout_key(digest), crate::cache::manifest_key(digest)];
        if let Ok(Some(packs)) = scratch.packs_of(digest) {
            keys.extend(packs.iter().map(|pack| Store::key(Family::Pack, &pack.digest)));
        }
        if verified.is_ok() {
            // A layout is proven by what it leads to, and by nothing else.
            store.mended(&layout_key(digest));
        }
        let noted = self.remember_damage(store, &recalled, keys);
        verified.and_then(|verified| noted.map(|()| verified))
    }

    fn damage_file(&self, store: &Store) -> PathBuf {
        self.cache().dir().join("damaged").join(&Digest::of(store.describe()).hex()[..16])
    }

    fn noted_damage(&self, store: &Store) -> BTreeSet<String> {
        let noted = std::fs::read_to_string(self.damage_file(store)).unwrap_or_default();
        noted.lines().map(str::to_owned).collect()
    }

    /// Tells the store value what an earlier process found damaged; what that is.
    pub(crate) fn recall_damage(&self, store: &Store) -> BTreeSet<String> {
        let noted = self.noted_damage(store);
        noted.iter().for_each(|key| store.found_damaged(key));
        noted
    }

    /// Notes which of these are damaged now, and forgets what of `recalled` is not any more. What others noted meanwhile stays:
    /// this store value knows nothing of it.
    pub(crate) fn remember_damage(
        &self,
        store: &Store,
        recalled: &BTreeSet<String>,
        keys: impl IntoIterator<Item = String>,
    ) -> Result<()> {
        let path = self.damage_file(store);
        let new: BTreeSet<String> = keys.into_iter().filter(|key| store.is_damaged(key)).collect();
        let healed: BTreeSet<&String> = recalled.iter().filter(|key| !store.is_damaged(key)).collect();
        if healed.is_empty() && new.is_subset(&self.noted_damage(store)) {
            return Ok(());
        }
        let _alone = self.cache().enter(Some("damaged"))?;
        let mut damaged = self.noted_damage(store);
        damaged.retain(|key| !healed.contains(key));
        damaged.extend(new);
        if damaged.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at("remove", path)(error)),
                _ => Ok(()),
            };
        }
        let folder = self.cache().dir().join("damaged");
        std::fs::create_dir_all(&folder).map_err(at("make the directory", folder))?;
        let text: String = damaged.iter().map(|key| format!("{key}\n")).collect();
        crate::pointer::write_text(&path, &text).map(drop)
    }
}

/// Reads everything of a snapshot back and verifies every pack, chunk and file. Manifest and layout stay in `scratch`.
async fn verify(store: &Store, scratch: &Cache, digest: &Digest, events: &Events) -> Result<Verified> {
    let packs = match remote::fetch_description(store, scratch, digest).await {
        Ok(packs) => packs,
        Err(Error::Store { source, .. }) if remote::is_damage(&source) => {
            return Err(Error::Damaged { snapshot: *digest, problems: vec![source.to_string()], cached: false });
        }
        Err(error) => return Err(error),
    };
    let total = packs.iter().map(|pack| pack.size).sum();
    let task = Arc::new(events.task(format!("verify snapshot {}", digest.short()), Some(total), Unit::Bytes));
    let stopped = Arc::new(AtomicBool::new(false));
    // When nobody waits for the result any more, the thread below ends at its next pack.
    let _stop = Stop(stopped.clone());
    let read = packs.len() as u64;
    let window = Window {
        store: store.clone(),
        scratch: scratch.clone(),
        snapshot: *digest,
        packs,
        runtime: tokio::runtime::Handle::current(),
        slots: HashMap::new(),
        recent: VecDeque::new(),
        ahead: 0,
        task: task.clone(),
        stopped,
        problems: BTreeSet::new(),
        wrong_layout: false,
    };
    let (cache, snapshot) = (scratch.clone(), *digest);
    let (files, bytes) = blocking("verify a snapshot", move || window.run(&cache, &snapshot)).await?;
    if let Some(task) = Arc::into_inner(task) {
        task.finish(format!("{}, {}", count(files, "file"), count(bytes, "byte")));
    }
    Ok(Verified { files, bytes, packs: read })
}

struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A pack of the snapshot.
enum Slot {
    Coming(JoinHandle<Result<File>>),
    Here(Arc<File>),
    Bad,
}

/// The packs that are on this disk.
struct Window {
    store: Store,
    scratch: Cache,
    snapshot: Digest,
    packs: Vec<PackInfo>,
    runtime: tokio::runtime::Handle,
    slots: HashMap<u32, Slot>,
    /// Those that are here, the least recently used first.
    recent: VecDeque<u32>,
    /// The first that was never asked for.
    ahead: u32,
    task: Arc<Task>,
    stopped: Arc<AtomicBool>,
    problems: BTreeSet<String>,
    /// Whether whole packs say that the layout is wrong.
    wrong_layout: bool,
}

impl Drop for Window {
    fn drop(&mut self) {
        for slot in self.slots.values() {
            if let Slot::Coming(coming) = slot {
                coming.abort();
            }
        }
    }
}

type Files = HashMap<u32, Option<Arc<File>>>;

impl Window {
    fn run(mut self, cache: &Cache, digest: &Digest) -> Result<(u64, u64)> {
        let Some((mut manifest, mut layout)) = cache.open(digest)? else {
            return Err(Error::NotCached { object: layout_key(digest), snapshot: *digest });
        };
        let mut batch: Vec<(Entry, Vec<Chunk>)> = Vec::new();
        let mut bytes = 0;
        while let Some(entry) = manifest.next_entry()? {
            let Some((size, digest)) = entry.content() else { continue };
            layout.begin(size, digest)?;
            if size > LARGE {
                self.batch(std::mem::take(&mut batch))?;
                bytes = 0;
                self.large(&entry, &mut || layout.next_chunk())?;
                continue;
            }
            let mut chunks = Vec::new();
            while let Some(chunk) = layout.next_chunk()? {
                chunks.push(chunk);
            }
            bytes += size + chunks.len() as u64 * CHUNK_COUNTS;
            batch.push((entry, chunks));
            if bytes >= BATCH_BYTES || batch.len() >= BATCH_FILES {
                self.batch(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        self.batch(batch)?;
        layout.finish()?;
        // A pack in which no file has a chunk is still part of what is stored.
        while (self.ahead as usize) < self.packs.len() {
            self.file(self.ahead)?;
        }
        while let Some(number) = self.slots.iter().find(|(_, slot)| matches!(slot, Slot::Coming(_))).map(|(n, _)| *n) {
            self.file(number)?;
        }
        if self.wrong_layout {
            self.store.found_damaged(&layout_key(digest));
        }
        if !self.problems.is_empty() {
            return Err(Error::Damaged {
                snapshot: *digest,
                problems: std::mem::take(&mut self.problems).into_iter().collect(),
                cached: false,
            });
        }
        Ok((manifest.totals().files, manifest.totals().bytes))
    }

    /// The files of the packs of these chunks; `None` for a damaged one.
    fn files<'a>(&mut self, chunks: impl Iterator<Item = &'a Chunk>) -> Result<Files> {
        let mut files = Files::new();
        for number in chunks.map(|chunk| chunk.pack).collect::<BTreeSet<_>>() {
            files.insert(number, self.file(number)?);
        }
        Ok(files)
    }

    fn batch(&mut self, batch: Vec<(Entry, Vec<Chunk>)>) -> Result<()> {
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            // As many as need no more packs than stay here.
            let mut needed = BTreeSet::new();
            let fits = |(_, chunks): &&(Entry, Vec<Chunk>)| {
                needed.extend(chunks.iter().map(|chunk| chunk.pack));
                needed.len() <= WINDOW
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = later;
            let files = self.files(now.iter().flat_map(|(_, chunks)| chunks))?;
            let (packs, layout) = (&self.packs, layout_key(&self.snapshot));
            let problems: Vec<String> = now
                .par_iter()
                .filter_map(|(entry, chunks)| {
                    let mut hasher = Sha256::new();
                    for chunk in chunks {
                        match read(&files, &layout, packs, chunk) {
                            Some(Ok(bytes)) => hasher.update(&bytes),
                            Some(Err(problem)) => return Some(problem),
                            // The pack was named already.
                            None => return None,
                        }
                    }
                    self.differs(entry, hasher)
                })
                .collect();
            self.wrong_layout |= !problems.is_empty();
            self.problems.extend(problems);
        }
        Ok(())
    }

    fn large(&mut self, entry: &Entry, next: &mut dyn FnMut() -> Result<Option<Chunk>>) -> Result<()> {
        let mut hasher = Some(Sha256::new());
        let layout = layout_key(&self.snapshot);
        loop {
            let mut group = Vec::with_capacity(GROUP);
            while group.len() < GROUP
                && let Some(chunk) = next()?
            {
                group.push(chunk);
            }
            if group.is_empty() {
                break;
            }
            let files = self.files(group.iter())?;
            let chunks: Vec<_> = group.par_iter().map(|chunk| read(&files, &layout, &self.packs, chunk)).collect();
            for chunk in chunks {
                match (chunk, &mut hasher) {
                    (Some(Ok(bytes)), Some(hasher)) => hasher.update(&bytes),
                    (Some(Ok(_)), None) => {}
                    (Some(Err(problem)), _) => {
                        self.wrong_layout = true;
                        self.problems.insert(problem);
                        hasher = None;
                    }
                    (None, _) => hasher = None,
                }
            }
        }
        let problem = hasher.and_then(|hasher| self.differs(entry, hasher));
        self.wrong_layout |= problem.is_some();
        self.problems.extend(problem);
        Ok(())
    }

    fn differs(&self, entry: &Entry, hasher: Sha256) -> Option<String> {
        let found = Digest::from_bytes(hasher.finalize().into());
        let (_, digest) = entry.content()?;
        let path = crate::shown(&entry.path);
        (found != digest)
            .then(|| format!("{}: the chunks of {path} do not make up the file", layout_key(&self.snapshot)))
    }

    /// A pack, read and verified; `None` when it is damaged, which is then among the problems.
    fn file(&mut self, number: u32) -> Result<Option<Arc<File>>> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Error::Worker { what: "verify a snapshot" });
        }
        self.begin(number);
        let until = (number as usize + AHEAD).min(self.packs.len()) as u32;
        while self.ahead < until {
            self.begin(self.ahead);
        }
        let arrived = match self.slots.remove(&number) {
            Some(Slot::Coming(coming)) => {
                self.runtime.block_on(coming).map_err(|_| Error::Worker { what: "verify a snapshot" })?.map(Arc::new)
            }
            Some(Slot::Here(file)) => Ok(file),
            Some(Slot::Bad) | None => {
                self.slots.insert(number, Slot::Bad);
                return Ok(None);
            }
        };
        let problem = match arrived {
            Ok(file) => {
                self.recent.retain(|other| *other != number);
                self.recent.push_back(number);
                self.slots.insert(number, Slot::Here(file.clone()));
                while self.recent.len() > WINDOW
                    && let Some(oldest) = self.recent.pop_front()
                {
                    self.slots.remove(&oldest);
                }
                return Ok(Some(file));
            }
            Err(Error::Store { source, .. }) if remote::is_damage(&source) => source.to_string(),
            // Its bytes have its digest, and another number than the layout says.
            Err(error @ Error::Corrupt { .. }) => {
                self.wrong_layout = true;
                error.to_string()
            }
            Err(error) => return Err(error),
        };
        self.problems.insert(problem);
        self.slots.insert(number, Slot::Bad);
        Ok(None)
    }

    /// Begins to read a pack that is not here.
    fn begin(&mut self, number: u32) {
        self.ahead = self.ahead.max(number + 1);
        if self.slots.contains_key(&number) {
            return;
        }
        let (store, scratch, task) = (self.store.clone(), self.scratch.clone(), self.task.clone());
        let (pack, snapshot) = (self.packs[number as usize], self.snapshot);
        let coming = self.runtime.spawn(async move {
            let file = scratch.temp()?;
            let got = store.get_file(Family::Pack, &pack.digest, file.path(), Some(&task)).await;
            let size = got.map_err(failed("verify", &snapshot))?;
            remote::same_size(&snapshot, &pack, size)?;
            // Open it and let its name go: its space is free when it is closed.
            File::open(file.path()).map_err(at("open", file.path()))
        });
        self.slots.insert(number, Slot::Coming(coming));
    }
}

/// A chunk, verified; why not, if it is not what the layout says, which is then wrong, for the pack has its digest; `None` when
/// the pack has not.
fn read(
    files: &Files,
    layout: &str,
    packs: &[PackInfo],
    chunk: &Chunk,
) -> Option<std::result::Result<Vec<u8>, String>> {
    let file = files.get(&chunk.pack)?.as_ref()?;
    let mut payload = vec![0; chunk.stored as usize];
    let read = file.read_exact_at(&mut payload, chunk.offset).map_err(|error| error.to_string());
    let chunk_of = read.and_then(|()| pack::unpack(payload, chunk.length, &chunk.digest));
    let key = || Store::key(Family::Pack, &packs[chunk.pack as usize].digest);
    Some(chunk_of.map_err(|why| format!("{layout}: it says something else of {} than is in it: {why}", key())))
}
