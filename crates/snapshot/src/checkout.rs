//! Bringing a data path to the state of a snapshot, out of the cache.
//!
//! First a plan is made: what is there is compared with the snapshot and with the snapshot that was there last, and
//! nothing is written when something would be lost. Then files are written under temporary names, synced and renamed.

use crate::{
    Checkout,
    cache::{Cache, layout_key, manifest_key},
    error::{Error, Result, at},
    layout::{Chunk, LayoutReader, PackInfo},
    manifest::{Entry, Kind, ManifestReader, Shape},
    pack,
    scan::{self, Current, STAGING, place},
    stat::{Known, Stat, StatIndex},
};
use domain::{
    Digest, Events,
    event::{Task, Unit},
};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs::File,
    io::{BufReader, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Files above this are written one at a time, in windows of chunks.
const LARGE: u64 = 8 << 20;
const BATCH_BYTES: u64 = 128 << 20;
const BATCH_FILES: usize = 4096;
/// Up to this many files are synced one by one; more with one call for the file system.
const FEW: usize = 64;
const WINDOW: usize = 32;
const OPEN_PACKS: usize = 200;

/// Reads chunks out of cached packs and verifies each.
pub(crate) struct PackReader<'a> {
    cache: &'a Cache,
    snapshot: Digest,
    packs: Vec<PackInfo>,
    open: Mutex<HashMap<u32, Arc<File>>>,
}

impl<'a> PackReader<'a> {
    pub(crate) fn new(cache: &'a Cache, snapshot: Digest, packs: Vec<PackInfo>) -> Self {
        Self { cache, snapshot, packs, open: Mutex::default() }
    }

    fn file(&self, number: u32) -> Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&number) {
            return Ok(file.clone());
        }
        let digest = self.packs[number as usize].digest;
        let path = self.cache.pack(&digest);
        let file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::NotCached { object: store::Store::key(store::Family::Pack, &digest), snapshot: self.snapshot }
            }
            _ => at("open", path)(error),
        })?;
        if open.len() >= OPEN_PACKS {
            open.clear();
        }
        let file = Arc::new(file);
        open.insert(number, file.clone());
        Ok(file)
    }

    fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>> {
        let file = self.file(chunk.pack)?;
        let pack = &self.packs[chunk.pack as usize].digest;
        let mut payload = vec![0; chunk.stored as usize];
        let read = file.read_exact_at(&mut payload, chunk.offset);
        read.map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.cache.quarantine(pack, "it is too short"),
            _ => at("read", self.cache.pack(pack))(error),
        })?;
        pack::unpack(payload, chunk.length, &chunk.digest).map_err(|why| self.cache.quarantine(pack, why))
    }

    /// Pours the chunks of a file into `sink`; chunks and the whole file are verified.
    pub(crate) fn pour(
        &self,
        entry: &Entry,
        next: &mut dyn FnMut() -> Result<Option<Chunk>>,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
        task: &Task,
    ) -> Result<()> {
        let Some((_, digest)) = entry.content() else { return Ok(()) };
        let mut hasher = Sha256::new();
        let mut proven = false;
        loop {
            let mut window = Vec::new();
            while window.len() < WINDOW
                && let Some(chunk) = next()?
            {
                window.push(chunk);
            }
            if window.is_empty() {
                break;
            }
            let chunks: Vec<Vec<u8>> = window.par_iter().map(|chunk| self.chunk(chunk)).collect::<Result<_>>()?;
            // A file of one chunk has the chunk's digest, which was just verified.
            proven = window.len() == 1
                && window[0].digest == digest
                && entry.content() == Some((chunks[0].len() as u64, digest));
            for chunk in chunks {
                if !proven {
                    hasher.update(&chunk);
                }
                sink(&chunk)?;
                task.advance(chunk.len() as u64);
            }
        }
        if proven || Digest::from_bytes(hasher.finalize().into()) == digest {
            return Ok(());
        }
        let why = format!("the chunks of {} do not make up the file", crate::shown(&entry.path));
        Err(Error::Corrupt { object: layout_key(&self.snapshot), why })
    }
}

/// What must be done.
struct Plan {
    /// By number of the entry in the manifest: whether it is there already.
    same: Vec<bool>,
    /// Paths to remove first, in byte order.
    remove: Vec<Vec<u8>>,
    /// Paths that the snapshot does not have and that stay.
    kept: Vec<Vec<u8>>,
    /// The data path itself is a file where it must be a directory, or the other way round.
    replace_root: bool,
    bytes: u64,
}

type Manifest = ManifestReader<BufReader<File>>;

fn open_manifest(cache: &Cache, digest: &Digest) -> Result<Manifest> {
    cache.open_manifest(digest)?.ok_or_else(|| Error::NotCached { object: manifest_key(digest), snapshot: *digest })
}

fn plan(cache: &Cache, data: &Path, digest: &Digest, current: Option<&Current>, force: bool) -> Result<Plan> {
    let mut target = open_manifest(cache, digest)?;
    let shape = target.shape();
    let replace_root = current.is_some_and(|current| current.shape != shape);
    let entries: &[Entry] = current.filter(|_| !replace_root).map_or(&[], |current| &current.entries);
    let mut plan = Plan { same: Vec::new(), remove: Vec::new(), kept: Vec::new(), replace_root, bytes: 0 };
    let (mut at_risk, mut extra): (Vec<&Entry>, Vec<&Entry>) = (Vec::new(), Vec::new());
    let mut rest = entries;
    while let Some(entry) = target.next_entry()? {
        let before = rest.iter().take_while(|there| there.path < entry.path && shape == Shape::Tree).count();
        extra.extend(&rest[..before]);
        rest = &rest[before..];
        // The one entry of a snapshot of one file is the data path, whatever its name was.
        let there = rest.first().filter(|there| there.path == entry.path || shape == Shape::File);
        let same = there.is_some_and(|there| there.kind == entry.kind);
        if let Some(there) = there {
            rest = &rest[1..];
            if !same {
                at_risk.push(there);
                if there.kind == Kind::EmptyDirectory || entry.kind == Kind::EmptyDirectory {
                    plan.remove.push(there.path.clone());
                }
            }
        }
        if !same {
            plan.bytes += entry.content().map_or(0, |(size, _)| size);
        }
        plan.same.push(same);
    }
    extra.extend(rest);
    sort_out_extra(&mut plan, &mut open_manifest(cache, digest)?, &extra, &mut at_risk, force)?;
    if let Some(current) = current.filter(|_| replace_root) {
        at_risk = current.entries.iter().collect();
    }
    if !force {
        refuse_loss(cache, data, current.and_then(|current| current.index.base), at_risk)?;
    }
    Ok(plan)
}

/// Decides about what the snapshot does not have: it stays, unless it is in the way or `force` is given.
fn sort_out_extra<'a>(
    plan: &mut Plan,
    target: &mut Manifest,
    extra: &[&'a Entry],
    at_risk: &mut Vec<&'a Entry>,
    force: bool,
) -> Result<()> {
    if extra.is_empty() {
        return Ok(());
    }
    let mut folders: HashSet<Vec<u8>> = HashSet::new();
    let mut files: HashSet<Vec<u8>> = HashSet::new();
    while let Some(entry) = target.next_entry()? {
        folders.extend(ancestors(&entry.path).map(<[u8]>::to_vec));
        if entry.kind != Kind::EmptyDirectory {
            files.insert(entry.path);
        }
    }
    for entry in extra {
        let is_folder = folders.contains(&entry.path);
        if is_folder && entry.kind == Kind::EmptyDirectory {
            continue;
        }
        let in_the_way = is_folder || ancestors(&entry.path).any(|folder| files.contains(folder));
        if in_the_way {
            at_risk.push(entry);
        }
        if in_the_way || force {
            plan.remove.push(entry.path.clone());
        } else {
            plan.kept.push(entry.path.clone());
        }
    }
    plan.remove.sort();
    Ok(())
}

/// `a/b/c` → `a/b`, `a`.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = &rest[..rest.iter().rposition(|byte| *byte == b'/')?];
        Some(rest)
    })
}

/// Fails when one of these entries is not as the snapshot `base` has it, which means that it exists nowhere else.
fn refuse_loss(cache: &Cache, data: &Path, base: Option<Digest>, mut at_risk: Vec<&Entry>) -> Result<()> {
    at_risk.retain(|entry| entry.kind != Kind::EmptyDirectory);
    at_risk.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(mut base) = base.map(|base| cache.open_manifest(&base)).transpose()?.flatten() {
        let mut safe = HashSet::new();
        while let Some(entry) = base.next_entry()? {
            if let Ok(place) = at_risk.binary_search_by(|risk| risk.path.cmp(&entry.path))
                && at_risk[place].kind == entry.kind
            {
                safe.insert(entry.path);
            }
        }
        at_risk.retain(|entry| !safe.contains(&entry.path));
    }
    if at_risk.is_empty() {
        return Ok(());
    }
    let examples = at_risk.iter().take(5).map(|entry| crate::shown(&entry.path)).collect();
    Err(Error::LocalChanges { path: data.to_owned(), count: at_risk.len(), examples })
}

/// A temporary folder on the file system of the destination, so that a rename is enough.
struct Staging {
    folder: PathBuf,
    next: u64,
}

impl Staging {
    fn new(cache: &Cache, destination: &Path) -> Result<Self> {
        let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev());
        let near = device(&cache.tmp()).map_err(at("read", cache.tmp()))?;
        let there = device(destination).map_err(at("read", destination))?;
        let parent = if near == there { cache.tmp() } else { destination.join(STAGING) };
        if near != there {
            // What a killed checkout left; the lock of the data path is ours.
            let _ = std::fs::remove_dir_all(&parent);
        }
        std::fs::create_dir_all(&parent).map_err(at("make the directory", &parent))?;
        let folder =
            tempfile::Builder::new().prefix("checkout-").tempdir_in(&parent).map_err(at("write in", &parent))?;
        Ok(Self { folder: folder.keep(), next: 0 })
    }

    fn name(&mut self) -> PathBuf {
        self.next += 1;
        self.folder.join(self.next.to_string())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
        if let Some(parent) = self.folder.parent().filter(|parent| parent.ends_with(STAGING)) {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

/// A file, link or folder that is to get its name.
struct Job {
    entry: Entry,
    chunks: Vec<Chunk>,
    temporary: PathBuf,
}

struct Writer<'a> {
    data: &'a Path,
    shape: Shape,
    packs: PackReader<'a>,
    staging: Staging,
    /// Folders that were seen to be folders, not links.
    folders: HashSet<Vec<u8>>,
    jobs: Vec<Job>,
    bytes: u64,
    known: Vec<Known>,
    task: &'a Task,
}

/// Brings `data` to the state of the snapshot. With `name`, what is there is respected and remembered under that name;
/// without, `data` must be empty or absent. The caller holds the lock of the data path.
pub(crate) fn checkout(
    cache: &Cache,
    name: Option<&str>,
    data: &Path,
    digest: &Digest,
    force: bool,
    events: &Events,
) -> Result<Checkout> {
    let task = events.task(format!("checkout {}", data.display()), None, Unit::Bytes);
    let current = match name {
        Some(name) => {
            let looking = events.task(format!("compare {}", data.display()), None, Unit::Bytes);
            let current = scan::current(cache, name, data, true, Some(&looking))?;
            looking.finish("");
            current
        }
        None => None,
    };
    let plan = plan(cache, data, digest, current.as_ref(), force)?;
    task.grow(plan.bytes);
    let Some((manifest, layout)) = cache.open(digest)? else {
        return Err(Error::NotCached { object: layout_key(digest), snapshot: *digest });
    };
    let kept: Vec<String> = plan.kept.iter().map(|path| crate::shown(path)).collect();
    let mut result = Checkout {
        digest: *digest,
        written: 0,
        bytes: plan.bytes,
        unchanged: 0,
        removed: plan.remove.len() as u64,
        kept,
    };
    result.unchanged = plan.same.iter().filter(|same| **same).count() as u64;
    result.written = plan.same.len() as u64 - result.unchanged;
    let mut known = Vec::new();
    if result.written > 0 || result.removed > 0 || plan.replace_root || !data.exists() {
        let packs = layout.packs().to_vec();
        need_packs(cache, digest, &packs, result.written > 0)?;
        remove(data, &plan)?;
        known = write(cache, data, manifest, layout, PackReader::new(cache, *digest, packs), &plan, &task)?;
    }
    if let Some(name) = name {
        remember(cache, name, data, *digest, current, known, &plan)?;
    }
    if !result.kept.is_empty() {
        let (what, stay) = match result.kept.len() {
            1 => ("a file".to_owned(), "it stays"),
            many => (format!("{many} files"), "they stay"),
        };
        events.warn(format!("{} has {what} that snapshot {} does not have; {stay}", data.display(), digest.short()));
    }
    task.finish(format!("{} written, {} unchanged", result.written, result.unchanged));
    Ok(result)
}

/// Fails before anything is touched when a pack is missing.
fn need_packs(cache: &Cache, digest: &Digest, packs: &[PackInfo], any: bool) -> Result<()> {
    match packs.iter().find(|pack| any && !cache.has_pack(pack)) {
        Some(pack) => {
            Err(Error::NotCached { object: store::Store::key(store::Family::Pack, &pack.digest), snapshot: *digest })
        }
        None => Ok(()),
    }
}

fn remove(data: &Path, plan: &Plan) -> Result<()> {
    if plan.replace_root {
        let meta = std::fs::symlink_metadata(data).map_err(at("read", data))?;
        let removed = if meta.is_dir() { std::fs::remove_dir_all(data) } else { std::fs::remove_file(data) };
        return removed.map_err(at("remove", data));
    }
    for path in &plan.remove {
        let full = data.join(OsStr::from_bytes(path));
        let meta = std::fs::symlink_metadata(&full).map_err(at("read", &full))?;
        let removed = if meta.is_dir() { std::fs::remove_dir(&full) } else { std::fs::remove_file(&full) };
        removed.map_err(at("remove", &full))?;
        for folder in ancestors(path) {
            // Fails when something is left in it, which is when it must stay.
            if std::fs::remove_dir(data.join(OsStr::from_bytes(folder))).is_err() {
                break;
            }
        }
    }
    Ok(())
}

fn write(
    cache: &Cache,
    data: &Path,
    mut manifest: Manifest,
    mut layout: LayoutReader,
    packs: PackReader<'_>,
    plan: &Plan,
    task: &Task,
) -> Result<Vec<Known>> {
    let shape = manifest.shape();
    let destination = match shape {
        Shape::Tree => data,
        Shape::File => data.parent().unwrap_or(Path::new("/")),
    };
    std::fs::create_dir_all(destination).map_err(at("make the directory", destination))?;
    let staging = Staging::new(cache, destination)?;
    let mut writer = Writer {
        data,
        shape,
        packs,
        staging,
        folders: HashSet::new(),
        jobs: Vec::new(),
        bytes: 0,
        known: Vec::new(),
        task,
    };
    let mut number = 0;
    while let Some(entry) = manifest.next_entry()? {
        let wanted = !plan.same.get(number).copied().unwrap_or(false);
        number += 1;
        if let Some((size, digest)) = entry.content() {
            layout.begin(size, digest)?;
            if wanted && size > LARGE {
                writer.flush()?;
                writer.large(entry, &mut layout)?;
                continue;
            }
            let mut chunks = Vec::new();
            while let Some(chunk) = layout.next_chunk()? {
                if wanted {
                    chunks.push(chunk);
                }
            }
            if wanted {
                writer.bytes += size;
                writer.add(entry, chunks)?;
            }
        } else if wanted {
            writer.add(entry, Vec::new())?;
        }
    }
    layout.finish()?;
    writer.flush()?;
    sync_folders(data, shape, &writer.folders)?;
    Ok(writer.known)
}

impl Writer<'_> {
    fn add(&mut self, entry: Entry, chunks: Vec<Chunk>) -> Result<()> {
        let temporary = self.staging.name();
        self.jobs.push(Job { entry, chunks, temporary });
        if self.bytes >= BATCH_BYTES || self.jobs.len() >= BATCH_FILES { self.flush() } else { Ok(()) }
    }

    fn large(&mut self, entry: Entry, layout: &mut LayoutReader) -> Result<()> {
        let temporary = self.staging.name();
        let mut file = create(&temporary, &entry)?;
        let mut sink =
            |bytes: &[u8]| file.write_all(bytes).map_err(at("write", place(self.data, self.shape, &entry.path)));
        self.packs.pour(&entry, &mut || layout.next_chunk(), &mut sink, self.task)?;
        file.sync_all().map_err(at("write", &temporary))?;
        self.name(&Job { entry, chunks: Vec::new(), temporary })
    }

    fn flush(&mut self) -> Result<()> {
        let jobs = std::mem::take(&mut self.jobs);
        self.bytes = 0;
        if jobs.is_empty() {
            return Ok(());
        }
        let one_by_one = jobs.len() <= FEW;
        jobs.par_iter().try_for_each(|job| self.stage(job, one_by_one))?;
        if !one_by_one {
            sync_file_system(&self.staging.folder)?;
        }
        jobs.iter().try_for_each(|job| self.name(job))
    }

    /// Makes the file or link under its temporary name.
    fn stage(&self, job: &Job, sync: bool) -> Result<()> {
        let place = || place(self.data, self.shape, &job.entry.path);
        match &job.entry.kind {
            Kind::EmptyDirectory => Ok(()),
            Kind::Symlink { target } => std::os::unix::fs::symlink(OsStr::from_bytes(target), &job.temporary)
                .map_err(at("make the link", place())),
            Kind::File { .. } => {
                let mut file = create(&job.temporary, &job.entry)?;
                let mut chunks = job.chunks.iter().copied();
                let mut sink = |bytes: &[u8]| file.write_all(bytes).map_err(at("write", place()));
                self.packs.pour(&job.entry, &mut || Ok(chunks.next()), &mut sink, self.task)?;
                if sync {
                    file.sync_all().map_err(at("write", place()))?;
                }
                Ok(())
            }
        }
    }

    /// Gives a staged entry its name. Nothing is ever written through a link.
    fn name(&mut self, job: &Job) -> Result<()> {
        let place = place(self.data, self.shape, &job.entry.path);
        if self.shape == Shape::Tree {
            let mut folders: Vec<&[u8]> = ancestors(&job.entry.path).collect();
            if job.entry.kind == Kind::EmptyDirectory {
                folders.insert(0, &job.entry.path);
            }
            for folder in folders.into_iter().rev() {
                self.folder(folder)?;
            }
        }
        if job.entry.kind == Kind::EmptyDirectory {
            return Ok(());
        }
        std::fs::rename(&job.temporary, &place).map_err(at("rename a finished file to", &place))?;
        if let Some((_, digest)) = job.entry.content() {
            let meta = std::fs::symlink_metadata(&place).map_err(at("read", &place))?;
            self.known.push(Known { path: job.entry.path.clone(), stat: Stat::of(&meta), digest });
        }
        Ok(())
    }

    fn folder(&mut self, path: &[u8]) -> Result<()> {
        if self.folders.contains(path) {
            return Ok(());
        }
        let full = self.data.join(OsStr::from_bytes(path));
        match std::fs::symlink_metadata(&full) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(Error::Path { path: full, why: "is in the way of a directory of the snapshot" }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir(&full).map_err(at("make the directory", &full))?;
            }
            Err(error) => return Err(at("read", full)(error)),
        }
        self.folders.insert(path.to_vec());
        Ok(())
    }
}

fn create(temporary: &Path, entry: &Entry) -> Result<File> {
    let executable = matches!(entry.kind, Kind::File { executable: true, .. });
    let mode = if executable { 0o777 } else { 0o666 };
    File::options().write(true).create_new(true).mode(mode).open(temporary).map_err(at("write", temporary))
}

fn sync_file_system(folder: &Path) -> Result<()> {
    let opened = File::open(folder).map_err(at("open", folder))?;
    rustix::fs::syncfs(&opened).map_err(|error| at("write to the disk below", folder)(error.into()))
}

/// Makes the renames durable.
fn sync_folders(data: &Path, shape: Shape, folders: &HashSet<Vec<u8>>) -> Result<()> {
    let root = if shape == Shape::Tree { data } else { data.parent().unwrap_or(Path::new("/")) };
    if folders.len() > FEW {
        return sync_file_system(root);
    }
    let sync = |folder: &Path| File::open(folder).and_then(|opened| opened.sync_all()).map_err(at("write", folder));
    folders.iter().try_for_each(|folder| sync(&data.join(OsStr::from_bytes(folder))))?;
    sync(root)
}

/// Saves the stat index: what was there and vouched for, and what was written.
fn remember(
    cache: &Cache,
    name: &str,
    data: &Path,
    digest: Digest,
    current: Option<Current>,
    written: Vec<Known>,
    plan: &Plan,
) -> Result<()> {
    let mut known = written;
    if let Some(current) = current.filter(|_| !plan.replace_root) {
        let rewritten: HashSet<Vec<u8>> = known.iter().map(|known| known.path.clone()).collect();
        let stamp = current.index.stamp;
        // What was hashed in the very tick in which it was written stays unknown: see the rule in `stat`.
        let sure = |known: &Known| known.stat.mtime < stamp && known.stat.ctime < stamp;
        known.extend(current.index.known.into_iter().filter(|old| sure(old) && !rewritten.contains(&old.path)));
    }
    if let Some(file) = data.file_name().filter(|_| data.is_file()) {
        // A snapshot of one file is scanned under the name that it has on disk.
        known.iter_mut().for_each(|known| known.path = file.as_bytes().to_vec());
        known.truncate(1);
    }
    known.sort_by(|a, b| a.path.cmp(&b.path));
    StatIndex { stamp: cache.stamp()?, base: Some(digest), known }.save(cache, name)
}

/// Reads every byte of a cached snapshot and verifies it; files, bytes.
pub(crate) fn verify_cached(cache: &Cache, digest: &Digest, task: &Task) -> Result<(u64, u64)> {
    let Some((mut manifest, mut layout)) = cache.open(digest)? else {
        return Err(Error::NotCached { object: layout_key(digest), snapshot: *digest });
    };
    let packs = PackReader::new(cache, *digest, layout.packs().to_vec());
    let mut batch: Vec<(Entry, Vec<Chunk>)> = Vec::new();
    let mut bytes = 0;
    let check = |batch: &mut Vec<(Entry, Vec<Chunk>)>| {
        std::mem::take(batch).into_par_iter().try_for_each(|(entry, chunks)| {
            let mut chunks = chunks.into_iter();
            packs.pour(&entry, &mut || Ok(chunks.next()), &mut |_| Ok(()), task)
        })
    };
    while let Some(entry) = manifest.next_entry()? {
        let Some((size, digest)) = entry.content() else { continue };
        layout.begin(size, digest)?;
        if size > LARGE {
            packs.pour(&entry, &mut || layout.next_chunk(), &mut |_| Ok(()), task)?;
            continue;
        }
        let mut chunks = Vec::new();
        while let Some(chunk) = layout.next_chunk()? {
            chunks.push(chunk);
        }
        bytes += size;
        batch.push((entry, chunks));
        if bytes >= BATCH_BYTES || batch.len() >= BATCH_FILES {
            check(&mut batch)?;
            bytes = 0;
        }
    }
    check(&mut batch)?;
    let totals = manifest.totals();
    layout.finish()?;
    Ok((totals.files, totals.bytes))
}
