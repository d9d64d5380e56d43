//! Pulling a part of a snapshot: only the packs that it needs are fetched, and only what lies at or below it is touched.
//!
//! As a checkout, it first makes a plan and writes nothing when something would be lost or could not be written whole; files are
//! then written under temporary names, synced and renamed, and never through a link. What is there already is found by reading it.
//! The plan is made once more when everything was fetched, and what is replaced or removed is looked at right before. The data is
//! not at the snapshot afterwards, so the index of the data path keeps its base.
//!
//! The paths of what lies in the part are in memory, unlike in a checkout: some hundred bytes for each entry of it.

use crate::{
    Checkout, Pointer, Repository,
    cache::{Cache, layout_key},
    cache_gc::base_of,
    cases,
    checkout::PackReader,
    error::{Error, Result, at},
    layout::{CHUNK_COUNTS, Chunk, PackInfo, hash_rest},
    manifest::{Entry, Kind, Shape},
    path,
    plan::{Fits, Seen, changed, open_base, open_manifest, still},
    remote::blocking,
    repository::Data,
    scan::{STAGING, place},
    stat::Stat,
};
use domain::{
    Digest, Events,
    event::{Task, Unit},
};
use rayon::prelude::*;
use rustix::fs::OFlags;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ffi::OsStr,
    fs::File,
    io::{ErrorKind, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};
use store::{Family, Store};

/// Files above this are written one at a time.
const LARGE: u64 = 8 << 20;
const BATCH_BYTES: u64 = 32 << 20;
const BATCH_FILES: usize = 1024;
/// Up to this many files are synced one by one; more with one call for the file system.
const FEW: usize = 64;

/// Hears of what lies on disk: its path, and what it is if it can be in a snapshot.
type Tell<'a, S> = dyn FnMut(&mut S, Vec<u8>, Option<(Kind, Stat)>) -> Result<()> + 'a;

impl Repository {
    /// Brings only what lies at or below `parts` (paths inside the data, `/` between components) to the snapshot of the
    /// pointer; everything else stays untouched. Fetches only the packs that this needs. Without `force`, local changes there
    /// are [`Error::LocalChanges`] before anything is touched, and files that the snapshot does not have stay. A part that the
    /// snapshot does not have is [`Error::NoSuchPart`].
    pub async fn pull_part(
        &self,
        store: &Store,
        pointer: &Pointer,
        parts: &[String],
        force: bool,
        events: &Events,
    ) -> Result<Checkout> {
        let digest = pointer.digest;
        let parts = Arc::new(Parts::new(parts)?);
        let data = Arc::new(self.data(&pointer.data())?);
        let _guard = self.enter(Some(&data.name)).await?;
        let mut again = HashSet::new();
        loop {
            self.fetch_selected(store, &digest, events, Some(&|_| Ok(Vec::new()))).await?;
            let (cache, wanted, there) = (self.cache().clone(), parts.clone(), data.clone());
            let plan =
                Arc::new(blocking("compare data", move || Plan::make(&cache, &digest, &wanted, &there, force)).await?);
            let needed = |cache: &Cache| plan.packs(cache, &digest, &parts);
            self.fetch_selected(store, &digest, events, Some(&needed)).await?;
            let (cache, wanted, there, sink) = (self.cache().clone(), parts.clone(), data.clone(), events.clone());
            let done = blocking("check out data", move || {
                // What was there may have changed while packs were fetched.
                Plan::make(&cache, &digest, &wanted, &there, force)?.execute(&cache, &digest, &wanted, &there, &sink)
            });
            match done.await {
                Err(error) if self.try_again(store, &digest, &error, &mut again)? => {}
                // Something that was there is not any more, and its packs are needed after all.
                Err(Error::NotCached { object, .. }) if again.insert(object.clone()) => {}
                other => return other,
            }
        }
    }
}

/// The parts that were asked for.
struct Parts(Vec<Vec<u8>>);

impl Parts {
    fn new(parts: &[String]) -> Result<Self> {
        let mut all = BTreeSet::new();
        for part in parts {
            let trimmed = part.trim_end_matches('/');
            let trimmed = trimmed.strip_prefix("./").unwrap_or(trimmed);
            if path::problem(trimmed.as_bytes()).is_some() {
                return Err(Error::Path { path: PathBuf::from(part), why: "is not a path inside the data" });
            }
            all.insert(trimmed.as_bytes().to_vec());
        }
        Ok(Self(all.into_iter().collect()))
    }

    /// Which part has this entry.
    fn of(&self, path: &[u8]) -> Option<usize> {
        self.0.iter().position(|part| {
            path.strip_prefix(part.as_slice()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        })
    }
}

/// What is at a path on disk.
enum There {
    Nothing,
    Folder,
    /// And its stat from before it was read.
    Leaf(Kind, Stat),
    /// A fifo, socket or device, or a file that cannot be read: in no snapshot.
    Other,
}

fn look(path: &Path) -> Result<There> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(There::Nothing);
        }
        Err(error) => return Err(at("read", path)(error)),
    };
    if meta.is_dir() {
        return Ok(There::Folder);
    }
    if meta.is_symlink() {
        let target = std::fs::read_link(path).map_err(at("read the link", path))?.into_os_string().into_vec();
        return Ok(There::Leaf(Kind::Symlink { target }, Stat::of(&meta)));
    }
    if !meta.is_file() {
        return Ok(There::Other);
    }
    // It may have become a link or a fifo since.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut file = File::options().read(true).custom_flags(flags).open(path).map_err(at("read", path))?;
    let digest = hash_rest(&mut file).map_err(at("read", path))?;
    let executable = meta.permissions().mode() & 0o100 != 0;
    Ok(There::Leaf(Kind::File { executable, size: meta.len(), digest }, Stat::of(&meta)))
}

/// `a/b/c` → `a`, `a/b`.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| &path[..end])
}

/// What must be done. Entries of the parts are numbered in the order of the manifest.
#[derive(Default)]
struct Plan {
    /// Whether an entry is there already.
    same: Vec<bool>,
    bytes: u64,
    /// What is in the way or not in the snapshot: files, links and whole folders, in byte order.
    remove: BTreeSet<Vec<u8>>,
    /// What the snapshot does not have and what stays.
    kept: Vec<Vec<u8>>,
    /// What would be lost, unless the base has it.
    at_risk: BTreeMap<Vec<u8>, Option<Kind>>,
    /// What was seen of what is replaced or removed; nothing is respected with `force`.
    seen: HashMap<Vec<u8>, Seen>,
    force: bool,
    entries: HashSet<Vec<u8>>,
    folders: HashSet<Vec<u8>>,
}

impl Plan {
    fn make(cache: &Cache, digest: &Digest, parts: &Parts, data: &Data, force: bool) -> Result<Self> {
        let mut plan = Self { force, ..Self::default() };
        let mut manifest = open_manifest(cache, digest)?;
        let shape = manifest.shape();
        let root = match (std::fs::symlink_metadata(&data.full), shape) {
            (Ok(meta), Shape::Tree) if !meta.is_dir() => Some("is not a directory, as it is in the snapshot"),
            (Ok(meta), Shape::File) if !meta.is_file() => Some("is not a file, as it is in the snapshot"),
            _ => None,
        };
        if let Some(why) = root {
            return Err(Error::Path { path: data.full.clone(), why });
        }
        let mut found = vec![false; parts.0.len()];
        let mut looked = HashSet::new();
        while let Some(entry) = manifest.next_entry()? {
            let Some(part) = parts.of(&entry.path) else { continue };
            found[part] = true;
            plan.compare(entry, data, shape, &mut looked)?;
        }
        // A part may lie in another: what is in that one was counted there.
        let missing = parts
            .0
            .iter()
            .zip(&found)
            .find(|(part, found)| !**found && !plan.entries.contains(*part) && !plan.folders.contains(*part));
        if let Some((part, _)) = missing {
            return Err(Error::NoSuchPart { part: crate::shown(part), snapshot: *digest });
        }
        if shape == Shape::Tree {
            for part in &parts.0 {
                plan.extra(part, data, force)?;
            }
        }
        plan.kept.sort();
        plan.kept.dedup();
        if !force {
            plan.refuse_loss(cache, data)?;
        }
        Ok(plan)
    }

    fn compare(&mut self, entry: Entry, data: &Data, shape: Shape, looked: &mut HashSet<Vec<u8>>) -> Result<()> {
        for folder in ancestors(&entry.path).filter(|_| shape == Shape::Tree) {
            if looked.insert(folder.to_vec())
                && let There::Leaf(..) | There::Other = self.risk(folder, data)?
            {
                self.remove.insert(folder.to_vec());
            }
            self.folders.insert(folder.to_vec());
        }
        let there = look(&place(&data.full, shape, &entry.path))?;
        // What is below a link is not there.
        let hidden = ancestors(&entry.path).any(|folder| self.remove.contains(folder));
        let same = !hidden
            && match (&there, &entry.kind) {
                (There::Folder, Kind::EmptyDirectory) => true,
                (There::Leaf(kind, _), wanted) => kind == wanted,
                _ => false,
            };
        if !same && !hidden {
            match there {
                There::Nothing => {}
                There::Folder => {
                    self.below(&entry.path, data, &mut |plan, path, there| {
                        plan.lose(path, there);
                        Ok(())
                    })?;
                    self.remove.insert(entry.path.clone());
                }
                There::Leaf(kind, stat) => {
                    self.lose(entry.path.clone(), Some((kind, stat)));
                    if entry.kind == Kind::EmptyDirectory {
                        self.remove.insert(entry.path.clone());
                    }
                }
                There::Other => self.lose(entry.path.clone(), None),
            }
        }
        if !same {
            self.bytes += entry.content().map_or(0, |(size, _)| size);
        }
        self.same.push(same);
        self.entries.insert(entry.path);
        Ok(())
    }

    /// Looks at a folder of the snapshot; whatever else is there is at risk.
    fn risk(&mut self, folder: &[u8], data: &Data) -> Result<There> {
        let there = look(&place(&data.full, Shape::Tree, folder))?;
        match &there {
            There::Leaf(kind, stat) => self.lose(folder.to_vec(), Some((kind.clone(), *stat))),
            There::Other => self.lose(folder.to_vec(), None),
            There::Nothing | There::Folder => {}
        }
        Ok(there)
    }

    /// Takes note of something that is to be replaced or removed.
    fn lose(&mut self, path: Vec<u8>, there: Option<(Kind, Stat)>) {
        if let Some((kind, stat)) = &there {
            self.seen.insert(path.clone(), Seen::new(&path, kind, *stat));
        }
        self.at_risk.insert(path, there.map(|(kind, _)| kind));
    }

    /// Tells of every file and link below a folder on disk.
    fn below(&mut self, folder: &[u8], data: &Data, tell: &mut Tell<'_, Self>) -> Result<()> {
        let mut folders = vec![folder.to_vec()];
        while let Some(folder) = folders.pop() {
            let full = place(&data.full, Shape::Tree, &folder);
            for entry in std::fs::read_dir(&full).map_err(at("read the directory", &full))? {
                let name = entry.map_err(at("read the directory", &full))?.file_name().into_vec();
                let path = [folder.as_slice(), b"/", &name].concat();
                match look(&place(&data.full, Shape::Tree, &path))? {
                    There::Nothing => {}
                    There::Folder => folders.push(path),
                    There::Leaf(kind, stat) => tell(self, path, Some((kind, stat)))?,
                    There::Other => tell(self, path, None)?,
                }
            }
        }
        Ok(())
    }

    /// What lies on disk at or below a part, and not in the snapshot: it stays, unless `force` is given.
    fn extra(&mut self, part: &[u8], data: &Data, force: bool) -> Result<()> {
        let under_link = ancestors(part).any(|folder| self.remove.contains(folder));
        if under_link || self.remove.contains(part) {
            return Ok(());
        }
        if !matches!(look(&place(&data.full, Shape::Tree, part))?, There::Folder) {
            return Ok(());
        }
        self.below(part, data, &mut |plan, path, _| {
            let gone = plan.remove.contains(&path) || ancestors(&path).any(|folder| plan.remove.contains(folder));
            if gone || plan.entries.contains(&path) {
                return Ok(());
            }
            if force {
                plan.remove.insert(path);
            } else {
                plan.kept.push(path);
            }
            Ok(())
        })
    }

    /// Fails when something at risk is not as the snapshot that was last there has it.
    fn refuse_loss(&mut self, cache: &Cache, data: &Data) -> Result<()> {
        if let Some(base) = base_of(cache, &data.name)
            && let Some(mut base) = open_base(cache, &base)?
        {
            while let Some(entry) = base.next_entry()? {
                if self.at_risk.get(&entry.path).is_some_and(|kind| kind.as_ref() == Some(&entry.kind)) {
                    self.at_risk.remove(&entry.path);
                }
            }
        }
        if self.at_risk.is_empty() {
            return Ok(());
        }
        let examples = self.at_risk.keys().take(5).map(|path| crate::shown(path)).collect();
        Err(Error::LocalChanges { path: data.full.clone(), count: self.at_risk.len(), examples })
    }

    /// Goes through the entries that must be written, with their chunks.
    fn each(
        &self,
        cache: &Cache,
        digest: &Digest,
        parts: &Parts,
        take: &mut dyn FnMut(Shape, Entry, Vec<Chunk>) -> Result<()>,
    ) -> Result<Vec<PackInfo>> {
        let Some((mut manifest, mut layout)) = cache.open(digest)? else {
            return Err(Error::NotCached { object: layout_key(digest), snapshot: *digest });
        };
        let (shape, packs) = (manifest.shape(), layout.packs().to_vec());
        let mut number = 0;
        while let Some(entry) = manifest.next_entry()? {
            let wanted = parts.of(&entry.path).is_some() && {
                number += 1;
                !self.same.get(number - 1).copied().unwrap_or(false)
            };
            let mut chunks = Vec::new();
            if let Some((size, digest)) = entry.content() {
                layout.begin(size, digest)?;
                while let Some(chunk) = layout.next_chunk()? {
                    if wanted {
                        chunks.push(chunk);
                    }
                }
            }
            if wanted {
                take(shape, entry, chunks)?;
            }
        }
        Ok(packs)
    }

    /// The packs that must be in the cache.
    fn packs(&self, cache: &Cache, digest: &Digest, parts: &Parts) -> Result<Vec<PackInfo>> {
        let mut numbers = BTreeSet::new();
        let packs = self.each(cache, digest, parts, &mut |_, _, chunks| {
            numbers.extend(chunks.iter().map(|chunk| chunk.pack as usize));
            Ok(())
        })?;
        Ok(numbers.into_iter().map(|number| packs[number]).collect())
    }

    /// Fails, before anything is touched, when an entry of the part could not get its name.
    fn can_be_written(
        &self,
        cache: &Cache,
        digest: &Digest,
        parts: &Parts,
        data: &Path,
        are_one: &dyn Fn(&Path) -> Result<bool>,
    ) -> Result<()> {
        let mut manifest = open_manifest(cache, digest)?;
        if manifest.shape() == Shape::File || self.same.iter().all(|same| *same) {
            return Ok(());
        }
        let Some(mut fits) = Fits::new(data, &self.kept, are_one)? else { return Ok(()) };
        let mut same = self.same.iter();
        while let Some(entry) = manifest.next_entry()? {
            if parts.of(&entry.path).is_some() {
                fits.take(&entry.path, !same.next().copied().unwrap_or(false))?;
            }
        }
        Ok(())
    }

    /// Removes what is in the way. Without `force` only what was seen, so a folder stays in which there is something else by now.
    fn take_away(&self, data: &Data, path: &[u8]) -> Result<()> {
        let full = place(&data.full, Shape::Tree, path);
        let meta = match std::fs::symlink_metadata(&full) {
            Ok(meta) => meta,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            Err(error) => return Err(at("read", full)(error)),
        };
        let removed = if !meta.is_dir() {
            if !self.force {
                still(&data.full, path, &full, self.seen.get(path))?;
            }
            std::fs::remove_file(&full)
        } else if self.force {
            std::fs::remove_dir_all(&full)
        } else {
            for entry in std::fs::read_dir(&full).map_err(at("read the directory", &full))? {
                let name = entry.map_err(at("read the directory", &full))?.file_name().into_vec();
                self.take_away(data, &[path, b"/", &name].concat())?;
            }
            match std::fs::remove_dir(&full) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => return Err(changed(&data.full, path)),
                removed => removed,
            }
        };
        removed.map_err(at("remove", full))
    }

    fn execute(&self, cache: &Cache, digest: &Digest, parts: &Parts, data: &Data, events: &Events) -> Result<Checkout> {
        let needed = self.packs(cache, digest, parts)?;
        if let Some(lost) = needed.iter().find(|pack| !cache.has_pack(pack)) {
            return Err(Error::NotCached { object: Store::key(Family::Pack, &lost.digest), snapshot: *digest });
        }
        self.can_be_written(cache, digest, parts, &data.full, &cases::are_one_in)?;
        let names: Vec<String> = parts.0.iter().map(|part| crate::shown(part)).collect();
        let label = format!("checkout {} of {}", names.join(", "), data.relative.display());
        let task = events.task(label, Some(self.bytes), Unit::Bytes);
        self.remove.iter().try_for_each(|path| self.take_away(data, path))?;
        let unchanged = self.same.iter().filter(|same| **same).count() as u64;
        let written = self.same.len() as u64 - unchanged;
        if written > 0 {
            let packs = cache.packs_of(digest)?;
            let packs = packs.ok_or_else(|| Error::NotCached { object: layout_key(digest), snapshot: *digest })?;
            let mut writer = Writer::new(self, cache, data, PackReader::new(cache, *digest, packs), &task)?;
            self.each(cache, digest, parts, &mut |shape, entry, chunks| writer.add(shape, entry, chunks))?;
            writer.finish()?;
        }
        let kept: Vec<String> = self.kept.iter().map(|path| crate::shown(path)).collect();
        if !kept.is_empty() {
            let what = crate::error::count(kept.len() as u64, "file");
            events.warn(format!(
                "{} has {what} there that snapshot {} does not have; nothing of that is touched",
                data.full.display(),
                digest.short()
            ));
        }
        task.finish(format!("{written} written, {unchanged} unchanged"));
        let removed = self.remove.len() as u64;
        Ok(Checkout { digest: *digest, written, bytes: self.bytes, unchanged, removed, kept })
    }
}

/// An entry that is to get its name.
struct Job {
    shape: Shape,
    entry: Entry,
    chunks: Vec<Chunk>,
    temporary: PathBuf,
}

struct Writer<'a> {
    plan: &'a Plan,
    data: &'a Data,
    packs: PackReader<'a>,
    staging: tempfile::TempDir,
    /// The folder above it, when that is ours too.
    beside: Option<PathBuf>,
    folders: HashSet<PathBuf>,
    jobs: Vec<Job>,
    bytes: u64,
    next: u64,
    task: &'a Task,
}

impl<'a> Writer<'a> {
    fn new(plan: &'a Plan, cache: &Cache, data: &'a Data, packs: PackReader<'a>, task: &'a Task) -> Result<Self> {
        let above = data.full.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(above).map_err(at("make the directory", above))?;
        let near = if data.full.is_dir() { &data.full } else { above };
        let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).map_err(at("read", path));
        let beside = (device(&cache.tmp())? != device(near)?).then(|| near.join(STAGING));
        if let Some(beside) = &beside {
            // What a killed one left; the lock of the data path is ours.
            let _ = std::fs::remove_dir_all(beside);
            std::fs::create_dir_all(beside).map_err(at("make the directory", beside))?;
        }
        let folder = beside.clone().unwrap_or_else(|| cache.tmp());
        let staging = tempfile::Builder::new().prefix("part-").tempdir_in(&folder).map_err(at("write in", &folder))?;
        let (folders, jobs) = (HashSet::new(), Vec::new());
        Ok(Self { plan, data, packs, staging, beside, folders, jobs, bytes: 0, next: 0, task })
    }

    fn add(&mut self, shape: Shape, entry: Entry, chunks: Vec<Chunk>) -> Result<()> {
        self.next += 1;
        let temporary = self.staging.path().join(self.next.to_string());
        let size = entry.content().map_or(0, |(size, _)| size);
        if size > LARGE {
            self.flush()?;
        }
        self.bytes += size + chunks.len() as u64 * CHUNK_COUNTS;
        self.jobs.push(Job { shape, entry, chunks, temporary });
        if self.bytes >= BATCH_BYTES || self.jobs.len() >= BATCH_FILES || size > LARGE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let jobs = std::mem::take(&mut self.jobs);
        self.bytes = 0;
        let one_by_one = jobs.len() <= FEW;
        jobs.par_iter().try_for_each(|job| self.stage(job, one_by_one))?;
        if !one_by_one {
            sync_all_below(self.staging.path())?;
        }
        jobs.iter().try_for_each(|job| self.name(job))
    }

    fn stage(&self, job: &Job, sync: bool) -> Result<()> {
        let shown = || place(&self.data.full, job.shape, &job.entry.path);
        match &job.entry.kind {
            Kind::EmptyDirectory => Ok(()),
            Kind::Symlink { target } => std::os::unix::fs::symlink(OsStr::from_bytes(target), &job.temporary)
                .map_err(at("make the link", shown())),
            Kind::File { executable, .. } => {
                let mode = if *executable { 0o777 } else { 0o666 };
                let opened = File::options().write(true).create_new(true).mode(mode).open(&job.temporary);
                let mut file = opened.map_err(at("write", shown()))?;
                let mut chunks = job.chunks.iter().copied();
                let mut sink = |bytes: &[u8]| file.write_all(bytes).map_err(at("write", shown()));
                self.packs.pour(&job.entry, &mut || Ok(chunks.next()), &mut sink, self.task)?;
                if sync { file.sync_all().map_err(at("write", shown())) } else { Ok(()) }
            }
        }
    }

    /// Gives a staged entry its name. The folders above it are made, or seen to be folders and no links.
    fn name(&mut self, job: &Job) -> Result<()> {
        let full = place(&self.data.full, job.shape, &job.entry.path);
        if job.shape == Shape::Tree {
            self.folder(self.data.full.clone())?;
            for folder in ancestors(&job.entry.path) {
                self.folder(place(&self.data.full, Shape::Tree, folder))?;
            }
        }
        if job.entry.kind == Kind::EmptyDirectory {
            return self.folder(full);
        }
        if !self.plan.force {
            let path = &job.entry.path;
            // What was in the way is gone by now: what is there came since.
            let seen = self.plan.seen.get(path).filter(|_| !self.plan.remove.contains(path));
            still(&self.data.full, path, &full, seen)?;
        }
        std::fs::rename(&job.temporary, &full).map_err(at("rename a finished file to", &full))
    }

    fn folder(&mut self, full: PathBuf) -> Result<()> {
        if self.folders.contains(&full) {
            return Ok(());
        }
        match std::fs::symlink_metadata(&full) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(Error::Path { path: full, why: "is in the way of a directory of the snapshot" }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                std::fs::create_dir(&full).map_err(at("make the directory", &full))?;
            }
            Err(error) => return Err(at("read", full)(error)),
        }
        self.folders.insert(full);
        Ok(())
    }

    /// Makes the names durable.
    fn finish(mut self) -> Result<()> {
        self.flush()?;
        let above = self.data.full.parent().unwrap_or(Path::new("/")).to_owned();
        if self.folders.len() > FEW {
            sync_all_below(&above)?;
        } else {
            self.folders.insert(above);
            for folder in &self.folders {
                File::open(folder).and_then(|opened| opened.sync_all()).map_err(at("write", folder))?;
            }
        }
        Ok(())
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            let _ = std::fs::remove_dir_all(beside);
        }
    }
}

fn sync_all_below(folder: &Path) -> Result<()> {
    let opened = File::open(folder).map_err(at("open", folder))?;
    rustix::fs::syncfs(&opened).map_err(|error| at("write to the disk below", folder)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_whose_names_collide_where_case_makes_no_difference_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let full = root.path().join(path);
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(full, path).unwrap();
        };
        ["all/p/a/x", "all/p/A/y", "all/q/b", "all/P/b"].into_iter().for_each(write);
        let repository = Repository::new(root.path().to_owned(), root.path().join("cache"));
        let digest = repository.add(Path::new("all"), &Events::nowhere()).unwrap().pointer.digest;
        let cache = repository.cache();
        let data = repository.data(Path::new("elsewhere")).unwrap();
        let check = |parts: &[&str], one: bool| {
            let parts = Parts::new(&parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>()).unwrap();
            let plan = Plan::make(cache, &digest, &parts, &data, false).unwrap();
            plan.can_be_written(cache, &digest, &parts, &data.full, &|_| Ok(one))
        };
        check(&["p"], false).unwrap();
        for part in ["p/A", "q", "P"] {
            check(&[part], true).unwrap();
        }
        for parts in [&["p"][..], &["p/A", "p/a"], &["P", "p/a"]] {
            let error = check(parts, true).unwrap_err();
            assert!(error.to_string().contains("only in case"), "{parts:?}: {error}");
        }
        // What stays there must not be written over either.
        write("elsewhere/q/B");
        let error = check(&["q"], true).unwrap_err();
        assert!(error.to_string().contains("elsewhere/q"), "{error}");
        check(&["q"], false).unwrap();
    }
}
