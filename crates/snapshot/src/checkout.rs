//! Bringing a data path to the state of a snapshot, out of the cache.
//!
//! First a plan is made: what is there is compared with the snapshot and with the snapshot that was there last, and
//! nothing is written when something would be lost or could not be written whole ([`crate::plan`]). Then files are written under
//! temporary names, synced and renamed. Right before something is replaced or removed it is looked at once more: what was changed
//! since the plan was made stays, and the checkout ends there.

use crate::{
    Checkout,
    cache::{Cache, layout_key},
    error::{Error, Result, at},
    layout::{CHUNK_COUNTS, Chunk, LayoutReader, PackInfo},
    manifest::{Entry, Kind, Shape},
    pack,
    plan::{Manifest, PathsReader, Plan, Seen, can_be_written, changed, plan, still},
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
    io::{ErrorKind, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use store::{Family, Store};
use tempfile::NamedTempFile;

/// Files above this are written one at a time, in windows of chunks.
const LARGE: u64 = 8 << 20;
const BATCH_BYTES: u64 = 64 << 20;
const BATCH_FILES: usize = 4096;
/// Up to this many files are synced one by one; more with one call for the file system.
const FEW: usize = 64;
/// Bytes of chunks of a large file that are in memory at a time.
const WINDOW: u64 = 8 << 20;
/// Of a large file, so much is sent to the disk at a time.
const EARLY: usize = 64 << 20;
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
            ErrorKind::NotFound => {
                Error::NotCached { object: Store::key(Family::Pack, &digest), snapshot: self.snapshot }
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
            ErrorKind::UnexpectedEof => self.blame(&file, pack, "it is too short".to_owned()),
            _ => at("read", self.cache.pack(pack))(error),
        })?;
        pack::unpack(payload, chunk.length, &chunk.digest).map_err(|why| self.blame(&file, pack, why))
    }

    /// What is damaged when a pack does not have what the layout says: its own digest tells which of the two.
    fn blame(&self, file: &File, pack: &Digest, why: String) -> Error {
        match hash_at(file) {
            Ok(found) if found == *pack => {
                let why = format!("it says something else of {} than is in it: {why}", Store::key(Family::Pack, pack));
                self.cache.quarantine_layout(&self.snapshot, why)
            }
            Ok(_) => self.cache.quarantine(pack, why),
            Err(error) => at("read", self.cache.pack(pack))(error),
        }
    }

    /// Pours the chunks of a file into `sink`; chunks and the whole file are verified.
    pub(crate) fn pour(
        &self,
        entry: &Entry,
        next: &mut dyn FnMut() -> Result<Option<Chunk>>,
        sink: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
        task: &Task,
    ) -> Result<()> {
        let Some((size, digest)) = entry.content() else { return Ok(()) };
        let mut hasher = Sha256::new();
        let (mut proven, mut poured) = (false, 0);
        // Many small files are read side by side, a chunk of each; of a large one, which is alone, some chunks.
        let limit = if size > LARGE { WINDOW } else { 1 };
        let mut ready: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut window = Vec::new();
            let mut bytes = 0;
            while bytes < limit
                && let Some(chunk) = next()?
            {
                bytes += u64::from(chunk.length);
                window.push(chunk);
            }
            if window.is_empty() && ready.is_empty() {
                break;
            }
            let last = std::mem::take(&mut ready);
            let mut take = || {
                for chunk in &last {
                    if !proven {
                        hasher.update(chunk);
                    }
                    sink(chunk)?;
                    poured += chunk.len() as u64;
                    task.advance(chunk.len() as u64);
                }
                Ok(())
            };
            // The next chunks are read and verified while the last ones are hashed and written.
            let (taken, read) = match window.as_slice() {
                [] => (take(), Ok(Vec::new())),
                [one] => (take(), self.chunk(one).map(|chunk| vec![chunk])),
                many => rayon::join(take, || many.par_iter().map(|chunk| self.chunk(chunk)).collect()),
            };
            taken?;
            ready = read?;
            // A file of one chunk has the chunk's digest, which was just verified.
            proven |= window.len() == 1 && window[0].digest == digest && ready[0].len() as u64 == size;
        }
        if (proven && poured == size) || Digest::from_bytes(hasher.finalize().into()) == digest {
            return Ok(());
        }
        let why = format!("the chunks of {} do not make up the file", crate::shown(&entry.path));
        Err(self.cache.quarantine_layout(&self.snapshot, why))
    }
}

/// SHA-256 of a file that others read at the same time.
fn hash_at(file: &File) -> std::io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
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
    /// What is replaced and was seen by the plan, and the next of it; `None` when nothing is respected.
    replaced: Option<(PathsReader, Option<Seen>)>,
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
        // A restore is alone with what it writes.
        plan.force |= name.is_none();
        let packs = PackReader::new(cache, *digest, packs);
        written = Some(write(cache, data, manifest, layout, packs, &mut plan, &task)?);
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
        Some(pack) => Err(Error::NotCached { object: Store::key(Family::Pack, &pack.digest), snapshot: *digest }),
        None => Ok(()),
    }
}

fn remove(cache: &Cache, data: &Path, plan: &mut Plan) -> Result<()> {
    let one_file = plan.replace_root && std::fs::symlink_metadata(data).is_ok_and(|meta| !meta.is_dir());
    let mut remove = std::mem::take(&mut plan.remove).reader(cache)?;
    while let Some(seen) = remove.next()? {
        let full = if one_file { data.to_owned() } else { data.join(OsStr::from_bytes(&seen.path)) };
        if !plan.force {
            still(data, &seen.path, &full, Some(&seen))?;
        }
        let removed = match std::fs::symlink_metadata(&full) {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir(&full),
            Ok(_) => std::fs::remove_file(&full),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => return Err(changed(data, &seen.path)),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(at("remove", full)(error)),
            _ => {}
        }
        for folder in ancestors(&seen.path).filter(|_| !one_file) {
            // Fails when something is left in it, which is when it must stay.
            if std::fs::remove_dir(data.join(OsStr::from_bytes(folder))).is_err() {
                break;
            }
        }
    }
    if !plan.replace_root || one_file {
        return Ok(());
    }
    // What a killed checkout left in it; the lock of the data path is ours.
    let _ = std::fs::remove_dir_all(data.join(STAGING));
    match std::fs::remove_dir(data) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
            // Something came since the plan was made.
            let first = std::fs::read_dir(data).into_iter().flatten().flatten().next();
            Err(changed(data, first.map(|entry| entry.file_name()).unwrap_or_default().as_bytes()))
        }
        Err(error) if error.kind() != ErrorKind::NotFound => Err(at("remove", data)(error)),
        _ => Ok(()),
    }
}

fn write(
    cache: &Cache,
    data: &Path,
    mut manifest: Manifest,
    mut layout: LayoutReader,
    packs: PackReader<'_>,
    plan: &mut Plan,
    task: &Task,
) -> Result<NamedTempFile> {
    let shape = manifest.shape();
    let destination = match shape {
        Shape::Tree => data,
        Shape::File => data.parent().unwrap_or(Path::new("/")),
    };
    std::fs::create_dir_all(destination).map_err(at("make the directory", destination))?;
    let staging = Staging::new(cache, destination)?;
    let replaced = std::mem::take(&mut plan.replaced).reader(cache)?;
    let mut writer = Writer {
        data,
        shape,
        packs,
        staging,
        replaced: (!plan.force).then_some((replaced, None)),
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
        let file = create(&temporary, &entry)?;
        let shown = || place(self.data, self.shape, &entry.path);
        let (full, due) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            let file = &file;
            // The disk works while chunks are read and hashed; otherwise all of it would be left to the last call.
            let early = scope.spawn(move || due.into_iter().try_for_each(|()| file.sync_data()));
            let mut written = 0;
            let mut sink = |bytes: &[u8]| {
                let mut file = file;
                file.write_all(bytes).map_err(at("write", shown()))?;
                written += bytes.len();
                if written >= EARLY {
                    written = 0;
                    // When one is under way already, or has failed, which is looked at below.
                    let _ = full.try_send(());
                }
                Ok(())
            };
            let poured = self.packs.pour(&entry, &mut || layout.next_chunk(), &mut sink, self.task);
            drop(full);
            let early = early.join().map_err(|_| Error::Worker { what: "write a large file" })?;
            poured.and(early.map_err(at("write", shown())))
        })?;
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
        if let Some((replaced, next)) = &mut self.replaced {
            while next.as_ref().is_none_or(|seen| seen.path.as_slice() < path) {
                *next = match replaced.next()? {
                    Some(seen) => Some(seen),
                    None => break,
                };
            }
            still(self.data, path, &place, next.as_ref().filter(|seen| seen.path == path))?;
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
                Err(error) if error.kind() == ErrorKind::NotFound => {
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
    stat::commit(cache, name, index.finish(cache.stamp(data)?, Some(digest))?)
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
