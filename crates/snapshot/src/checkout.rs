//! Bringing a data path to the state of a snapshot, out of the cache.
//!
//! First a plan is made: what is there is compared with the snapshot and with the snapshot that was there last, and
//! nothing is written when something would be lost or could not be written whole ([`crate::plan`]). Then files are written under temporary names, synced and renamed.

use crate::{
    Checkout,
    cache::{Cache, layout_key},
    error::{Error, Result, at},
    layout::{CHUNK_COUNTS, Chunk, LayoutReader, PackInfo},
    manifest::{Entry, Kind, Shape},
    pack,
    plan::{Manifest, Plan, can_be_written, plan},
    scan::{self, STAGING, place},
    stat::{self, Known, Stat, StatReader, StatWriter},
};
use domain::{
    Digest, Events,
    event::{Task, Unit},
};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tempfile::NamedTempFile;

/// Files above this are written one at a time, in windows of chunks.
const LARGE: u64 = 8 << 20;
const BATCH_BYTES: u64 = 64 << 20;
const BATCH_FILES: usize = 4096;
/// Up to this many files are synced one by one; more with one call for the file system.
const FEW: usize = 64;
/// Bytes of chunks of a large file that are in memory at a time.
const WINDOW: u64 = 8 << 20;
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
        // Many small files are read side by side, a chunk of each; of a large one, which is alone, some chunks.
        let limit = if entry.content().is_some_and(|(size, _)| size > LARGE) { WINDOW } else { 1 };
        loop {
            let mut window = Vec::new();
            let mut bytes = 0;
            while bytes < limit
                && let Some(chunk) = next()?
            {
                bytes += u64::from(chunk.length);
                window.push(chunk);
            }
            if window.is_empty() {
                break;
            }
            let chunks: Vec<Vec<u8>> = match window.as_slice() {
                [one] => vec![self.chunk(one)?],
                many => many.par_iter().map(|chunk| self.chunk(chunk)).collect::<Result<_>>()?,
            };
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

/// `a/b/c` → `a/b`, `a`.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = &rest[..rest.iter().rposition(|byte| *byte == b'/')?];
        Some(rest)
    })
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
    folders: Folders,
    jobs: Vec<Job>,
    bytes: u64,
    /// What was written, as it is on disk.
    known: StatWriter,
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
    let looking = name.map(|_| events.task(format!("compare {}", data.display()), None, Unit::Bytes));
    let current = match name {
        Some(name) => scan::current(cache, name, data, true, looking.as_ref())?,
        None => None,
    };
    let mut plan = plan(cache, data, digest, current, force)?;
    if let Some(looking) = looking {
        looking.finish("");
    }
    task.grow(plan.bytes);
    let Some((manifest, layout)) = cache.open(digest)? else {
        return Err(Error::NotCached { object: layout_key(digest), snapshot: *digest });
    };
    let kept: Vec<String> = plan.kept.iter().map(|path| crate::shown(path)).collect();
    let removed = plan.remove.count;
    let mut result = Checkout { digest: *digest, written: 0, bytes: plan.bytes, unchanged: 0, removed, kept };
    result.unchanged = plan.same.iter().filter(|same| **same).count() as u64;
    result.written = plan.same.len() as u64 - result.unchanged;
    let mut written = None;
    if result.written > 0 || result.removed > 0 || plan.replace_root || !data.exists() {
        let packs = layout.packs().to_vec();
        need_packs(cache, digest, &packs, result.written > 0)?;
        can_be_written(cache, data, digest, &plan)?;
        remove(cache, data, &mut plan)?;
        written = Some(write(cache, data, manifest, layout, PackReader::new(cache, *digest, packs), &plan, &task)?);
    }
    if let Some(name) = name {
        remember(cache, name, data, *digest, plan, written)?;
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

fn remove(cache: &Cache, data: &Path, plan: &mut Plan) -> Result<()> {
    if plan.replace_root {
        let meta = std::fs::symlink_metadata(data).map_err(at("read", data))?;
        let removed = if meta.is_dir() { std::fs::remove_dir_all(data) } else { std::fs::remove_file(data) };
        return removed.map_err(at("remove", data));
    }
    std::mem::take(&mut plan.remove).each(cache, |path| {
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
        Ok(())
    })
}

fn write(
    cache: &Cache,
    data: &Path,
    mut manifest: Manifest,
    mut layout: LayoutReader,
    packs: PackReader<'_>,
    plan: &Plan,
    task: &Task,
) -> Result<NamedTempFile> {
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
        folders: Folders::default(),
        jobs: Vec::new(),
        bytes: 0,
        known: StatWriter::new(cache)?,
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
                writer.bytes += size + chunks.len() as u64 * CHUNK_COUNTS;
                writer.add(entry, chunks)?;
            }
        } else if wanted {
            writer.add(entry, Vec::new())?;
        }
    }
    layout.finish()?;
    writer.flush()?;
    writer.folders.sync(data, shape)?;
    writer.known.finish(0, None)
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
        let path = job.entry.path.as_slice();
        if job.entry.kind == Kind::EmptyDirectory {
            return self.folders.enter(self.data, path);
        }
        if self.shape == Shape::Tree
            && let Some(folder) = ancestors(path).next()
        {
            self.folders.enter(self.data, folder)?;
        }
        std::fs::rename(&job.temporary, &place).map_err(at("rename a finished file to", &place))?;
        if let Some((_, digest)) = job.entry.content() {
            let meta = std::fs::symlink_metadata(&place).map_err(at("read", &place))?;
            self.known.push(path, &Stat::of(&meta), &digest)?;
        }
        Ok(())
    }
}

/// The folders above what gets its name. Names come in byte order of path, so what is in a folder comes without a break, and those on
/// the way to the last one are all that must be known.
#[derive(Default)]
struct Folders {
    last: Vec<u8>,
    /// Some of those that were entered, to be synced.
    first: Vec<Vec<u8>>,
    count: usize,
}

impl Folders {
    /// Makes the folders down to this one, or sees that they are folders and no links.
    fn enter(&mut self, data: &Path, folder: &[u8]) -> Result<()> {
        let ends = |path: &[u8], end: usize| path.len() == end || path.get(end) == Some(&b'/');
        let common = self.last.iter().zip(folder).take_while(|(a, b)| a == b).count();
        let known = (1..=common).rev().find(|end| ends(&self.last, *end) && ends(folder, *end)).unwrap_or(0);
        for end in (known + 1..=folder.len()).filter(|end| ends(folder, *end)) {
            let path = &folder[..end];
            let full = data.join(OsStr::from_bytes(path));
            match std::fs::symlink_metadata(&full) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(Error::Path { path: full, why: "is in the way of a directory of the snapshot" }),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    std::fs::create_dir(&full).map_err(at("make the directory", &full))?;
                }
                Err(error) => return Err(at("read", full)(error)),
            }
            self.count += 1;
            if self.count <= FEW {
                self.first.push(path.to_vec());
            }
        }
        self.last = folder.to_vec();
        Ok(())
    }

    /// Makes the renames durable.
    fn sync(&self, data: &Path, shape: Shape) -> Result<()> {
        let root = if shape == Shape::Tree { data } else { data.parent().unwrap_or(Path::new("/")) };
        if self.count > FEW {
            return sync_file_system(root);
        }
        let sync = |folder: &Path| File::open(folder).and_then(|opened| opened.sync_all()).map_err(at("write", folder));
        self.first.iter().try_for_each(|folder| sync(&data.join(OsStr::from_bytes(folder))))?;
        sync(root)
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

/// Saves the stat index: what was there and vouched for, and what was written.
fn remember(
    cache: &Cache,
    name: &str,
    data: &Path,
    digest: Digest,
    plan: Plan,
    written: Option<NamedTempFile>,
) -> Result<()> {
    let read = |file: &NamedTempFile| stat::reread(file);
    let mut new = written.as_ref().map(read).transpose()?.flatten();
    // What was hashed in the very tick in which it was written stays unknown: see the rule in `stat`.
    let learned = plan.learned.as_ref().filter(|_| !plan.replace_root);
    let mut old = learned.map(|learned| read(&learned.index)).transpose()?.flatten();
    let mut next_new = || new.as_mut().and_then(StatReader::next_any);
    let mut next_old = || old.as_mut().and_then(StatReader::next_sure);
    let mut index = StatWriter::new(cache)?;
    if let Some(file) = data.file_name().filter(|_| data.is_file()) {
        // A snapshot of one file is scanned under the name that it has on disk.
        if let Some(Known { stat, digest, .. }) = next_new().or_else(next_old) {
            index.push(file.as_bytes(), &stat, &digest)?;
        }
    } else {
        let (mut new, mut old) = (next_new(), next_old());
        loop {
            let Known { path, stat, digest } = match (new.take(), old.take()) {
                (None, None) => break,
                (Some(left), Some(right)) if right.path < left.path => {
                    (new, old) = (Some(left), next_old());
                    right
                }
                (Some(left), right) => {
                    // Of a path that is in both, what was written counts.
                    old = if right.as_ref().is_some_and(|right| right.path == left.path) { next_old() } else { right };
                    new = next_new();
                    left
                }
                (None, Some(right)) => {
                    old = next_old();
                    right
                }
            };
            index.push(&path, &stat, &digest)?;
        }
    }
    stat::commit(cache, name, index.finish(cache.stamp()?, Some(digest))?)
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
        bytes += size + chunks.len() as u64 * CHUNK_COUNTS;
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
