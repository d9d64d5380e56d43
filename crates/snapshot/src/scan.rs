//! Walking a data path, and hashing files that must not change meanwhile.
//!
//! The walk is a stream in byte order of path, made by a thread of its own that runs ahead by some thousands of entries. Of a tree
//! it holds the names in the folders on the way to where it is, nothing else. A folder is opened relative to the one above,
//! and never through a link.

use crate::{
    cache::Cache,
    cases,
    error::{self, Error, Result, at},
    manifest::{Entry, Kind, Shape},
    path,
    stat::{self, Stat, StatReader, StatWriter},
};
use domain::{Digest, event::Task};
use rayon::prelude::*;
use rustix::{
    fd::{AsFd as _, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags, RawDir},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use std::{
    cmp::Ordering,
    collections::{HashSet, VecDeque},
    ffi::OsStr,
    fs::File,
    io::Read,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering as Order},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};
use tempfile::NamedTempFile;

/// Staging folder of a checkout onto another file system than the cache's; never part of a snapshot.
pub(crate) const STAGING: &str = ".sealift-tmp";
/// Entries that the walk hands over at once, and how many times that it may be ahead.
const AHEAD: (usize, usize) = (256, 128);
/// Bytes of paths and targets that it hands over at once: few entries when they are long.
const AHEAD_BYTES: usize = 128 << 10;
/// Open folders of one walk; those further up are opened again when it comes back to them.
const OPEN_FOLDERS: usize = 48;
/// Entries that are compared and hashed at once.
const BATCH: usize = 1024;
/// Files up to this size are read with one call.
const ONE_READ: u64 = 1 << 20;

/// Something in a data tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
}

/// What it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    File { executable: bool, stat: Stat },
    Symlink { target: Vec<u8>, stat: Stat },
    EmptyDirectory,
}

/// What is at a data path: a stream in byte order of path.
pub(crate) struct Scan {
    pub(crate) shape: Shape,
    ahead: Option<Receiver<Ahead>>,
    batch: std::vec::IntoIter<Found>,
    /// Bytes in regular files that the walk has seen, and how many of them the task knows of.
    seen: Arc<AtomicU64>,
    told: u64,
    colliding: Colliding,
}

enum Ahead {
    Batch(Vec<Found>),
    Failed(Error),
    End(Colliding),
}

/// Names in one folder that differ only in the case of letters.
#[derive(Debug, Default)]
pub(crate) struct Colliding {
    first: Option<(Vec<u8>, Vec<u8>)>,
    count: u64,
}

impl std::fmt::Display for Colliding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((one, other)) = &self.first else { return Ok(()) };
        write!(f, "{} and {}", crate::shown(one), crate::shown(other))?;
        if self.count > 1 {
            write!(f, ", and {} more,", error::count(self.count - 1, "pair"))?;
        }
        write!(f, " differ only in the case of letters: where that makes no difference, not both can be checked out")
    }
}

impl Scan {
    /// Names that collide where case makes no difference; known at the end.
    pub(crate) fn colliding(&self) -> Option<&Colliding> {
        Some(&self.colliding).filter(|colliding| colliding.count > 0)
    }

    /// The next entry. The task learns how much the walk has seen to come.
    pub(crate) fn next(&mut self, task: Option<&Task>) -> Result<Option<Found>> {
        loop {
            if let Some(found) = self.batch.next() {
                return Ok(Some(found));
            }
            let Some(ahead) = &self.ahead else { return Ok(None) };
            let message = ahead.recv();
            let seen = self.seen.load(Order::Relaxed);
            if let Some(task) = task.filter(|_| seen > self.told) {
                task.grow(seen - self.told);
                self.told = seen;
            }
            match message {
                Ok(Ahead::Batch(batch)) => self.batch = batch.into_iter(),
                Ok(Ahead::Failed(error)) => return Err(error),
                Ok(Ahead::End(colliding)) => (self.ahead, self.colliding) = (None, colliding),
                // A walk that stops without a word has not seen everything.
                Err(_) => return Err(Error::Worker { what: "walk a data path" }),
            }
        }
    }
}

/// Where an entry of a snapshot is on disk.
pub(crate) fn place(data: &Path, shape: Shape, path: &[u8]) -> PathBuf {
    match shape {
        Shape::Tree => data.join(OsStr::from_bytes(path)),
        Shape::File => data.to_owned(),
    }
}

/// Walks a data path; `None` when nothing is there. Links are not followed.
pub(crate) fn scan(data: &Path) -> Result<Option<Scan>> {
    let seen = Arc::new(AtomicU64::new(0));
    let stat = match rustix::fs::lstat(data) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(at("read", data)(error.into())),
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind.is_symlink() {
        return Err(Error::Path { path: data.to_owned(), why: "is a symbolic link; name what it points to" });
    }
    if !kind.is_dir() {
        let path = data.file_name().unwrap_or_default().as_bytes().to_vec();
        let what = classify(data, &stat)?;
        seen.store(Stat::raw(&stat).size, Order::Relaxed);
        let (sender, ahead) = sync_channel(2);
        let _ = sender.send(Ahead::Batch(vec![Found { path, what }]));
        let _ = sender.send(Ahead::End(Colliding::default()));
        return Ok(Some(Scan {
            shape: Shape::File,
            ahead: Some(ahead),
            batch: Vec::new().into_iter(),
            seen,
            told: 0,
            colliding: Colliding::default(),
        }));
    }
    let walk = Walk::new(data)?;
    let (sender, ahead) = sync_channel(AHEAD.1);
    let counter = seen.clone();
    let run = move || {
        let message = match walk.run(&sender, &counter) {
            Ok(colliding) => Ahead::End(colliding),
            Err(error) => Ahead::Failed(error),
        };
        let _ = sender.send(message);
    };
    std::thread::Builder::new().name("walk".to_owned()).spawn(run).map_err(at("start a thread to walk", data))?;
    Ok(Some(Scan {
        shape: Shape::Tree,
        ahead: Some(ahead),
        batch: Vec::new().into_iter(),
        seen,
        told: 0,
        colliding: Colliding::default(),
    }))
}

fn classify(path: &Path, stat: &rustix::fs::Stat) -> Result<What> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            return Ok(What::File { executable: stat.st_mode & 0o100 != 0, stat: Stat::raw(stat) });
        }
        FileType::Symlink => {
            let target = std::fs::read_link(path).map_err(at("read the link", path))?;
            return Ok(What::Symlink { target: target.into_os_string().into_vec(), stat: Stat::raw(stat) });
        }
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        _ => "device",
    };
    Err(Error::Kind { path: path.to_owned(), kind })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    Folder,
    /// A folder that was empty when its place in the order depended on that.
    Hollow,
    Other,
}

#[derive(Clone, Copy)]
struct Name {
    start: u32,
    length: u16,
    listed: Listed,
}

/// The names in a folder, in the order of the paths below them.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    all: Vec<Name>,
}

impl Names {
    fn of(&self, name: Name) -> &[u8] {
        &self.bytes[name.start as usize..][..usize::from(name.length)]
    }

    fn sort(&mut self) {
        let Self { bytes, all } = self;
        let of = |name: &Name| &bytes[name.start as usize..][..usize::from(name.length)];
        // What is in a folder comes where its name with a slash does.
        let behind = |name: &Name, length: usize| {
            of(name).get(length).copied().or((name.listed == Listed::Folder).then_some(b'/'))
        };
        all.sort_unstable_by(|a, b| {
            let common = of(a).len().min(of(b).len());
            let order = of(a)[..common].cmp(&of(b)[..common]);
            if order == Ordering::Equal { behind(a, common).cmp(&behind(b, common)) } else { order }
        });
    }
}

/// A folder that is being walked.
struct Frame {
    folder: Option<OwnedFd>,
    names: Names,
    next: usize,
    /// Length of the path up to its names, slash included.
    above: usize,
}

struct Walk {
    data: PathBuf,
    path: Vec<u8>,
    frames: Vec<Frame>,
    buffer: Vec<u8>,
    colliding: Colliding,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Walk {
    fn new(data: &Path) -> Result<Self> {
        let mut walk = Self {
            data: data.to_owned(),
            path: Vec::new(),
            frames: Vec::new(),
            buffer: Vec::with_capacity(32 << 10),
            colliding: Colliding::default(),
        };
        let root = rustix::fs::open(data, FOLDER, Mode::empty());
        let root = root.map_err(|error| at("read the directory", data)(error.into()))?;
        let names = walk.list(&root)?;
        walk.frames.push(Frame { folder: Some(root), names, next: 0, above: 0 });
        Ok(walk)
    }

    fn run(mut self, sender: &SyncSender<Ahead>, seen: &AtomicU64) -> Result<Colliding> {
        let mut batch = Vec::with_capacity(AHEAD.0);
        let mut bytes = 0;
        while let Some(found) = self.next()? {
            bytes += found.path.len();
            match &found.what {
                What::File { stat, .. } => drop(seen.fetch_add(stat.size, Order::Relaxed)),
                What::Symlink { target, .. } => bytes += target.len(),
                What::EmptyDirectory => {}
            }
            batch.push(found);
            if batch.len() == AHEAD.0 || bytes >= AHEAD_BYTES {
                bytes = 0;
                let full = std::mem::replace(&mut batch, Vec::with_capacity(AHEAD.0));
                if sender.send(Ahead::Batch(full)).is_err() {
                    // Nobody listens any more.
                    return Ok(self.colliding);
                }
            }
        }
        let _ = sender.send(Ahead::Batch(batch));
        Ok(self.colliding)
    }

    fn full(&self) -> PathBuf {
        self.data.join(OsStr::from_bytes(&self.path))
    }

    fn next(&mut self) -> Result<Option<Found>> {
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            let Some(name) = frame.names.all.get(frame.next).copied() else {
                self.frames.pop();
                continue;
            };
            frame.next += 1;
            self.path.truncate(frame.above);
            self.path.extend_from_slice(frame.names.of(name));
            if self.path.len() > path::LONGEST {
                return Err(Error::Path { path: self.full(), why: "is longer than a snapshot can hold" });
            }
            let what = match name.listed {
                Listed::Hollow => Some(What::EmptyDirectory),
                Listed::Folder => self.enter(name)?,
                Listed::Other => Some(self.look(name)?),
            };
            if let Some(what) = what {
                return Ok(Some(Found { path: self.path.clone(), what }));
            }
        }
    }

    /// Goes into the folder that the path is now.
    fn enter(&mut self, name: Name) -> Result<Option<What>> {
        self.reopen()?;
        let Some(Frame { folder: Some(above), names, .. }) = self.frames.last() else { return Err(lost()) };
        let opened = rustix::fs::openat(above, names.of(name), FOLDER, Mode::empty());
        let folder = opened.map_err(|error| self.failed("read the directory", error))?;
        let names = self.list(&folder)?;
        if names.all.is_empty() {
            return Ok(Some(What::EmptyDirectory));
        }
        self.path.push(b'/');
        self.frames.push(Frame { folder: Some(folder), names, next: 0, above: self.path.len() });
        if let Some(far) = self.frames.len().checked_sub(OPEN_FOLDERS).filter(|far| *far > 0) {
            self.frames[far].folder = None;
        }
        Ok(None)
    }

    /// Opens the folder that is being walked again, if it was closed; step by step, so that no link is followed.
    fn reopen(&mut self) -> Result<()> {
        let Some(Frame { folder: None, above, .. }) = self.frames.last() else { return Ok(()) };
        let Some(Frame { folder: Some(root), .. }) = self.frames.first() else { return Err(lost()) };
        let parts = self.path[..above - 1].split(|byte| *byte == b'/');
        let mut folder: Option<OwnedFd> = None;
        for part in parts {
            let from = folder.as_ref().map_or(root.as_fd(), |folder| folder.as_fd());
            let opened = rustix::fs::openat(from, part, FOLDER, Mode::empty());
            folder = Some(opened.map_err(|error| self.failed("read the directory", error))?);
        }
        if let Some(frame) = self.frames.last_mut() {
            frame.folder = folder;
        }
        Ok(())
    }

    fn look(&mut self, name: Name) -> Result<What> {
        self.reopen()?;
        let Some(Frame { folder: Some(folder), names, .. }) = self.frames.last() else { return Err(lost()) };
        let stat = rustix::fs::statat(folder, names.of(name), AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|error| self.failed("read", error))?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            // It was none when the folder was listed.
            return Err(Error::Changing { path: self.full() });
        }
        classify(&self.full(), &stat)
    }

    fn failed(&self, action: &'static str, error: Errno) -> Error {
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Error::Changing { path: self.full() },
            other => at(action, self.full())(other.into()),
        }
    }

    /// The names in a folder, sorted.
    fn list(&mut self, folder: &OwnedFd) -> Result<Names> {
        let mut names = self.read(folder, false)?;
        names.sort();
        // The entry of an empty folder has no slash, which matters only to names that begin with its own.
        let mut moved = false;
        for place in 1..names.all.len() {
            let (before, name) = (names.all[place - 1], names.all[place]);
            if name.listed == Listed::Folder && names.of(before).starts_with(names.of(name)) {
                let opened = rustix::fs::openat(folder, names.of(name), FOLDER, Mode::empty());
                let inner = opened.map_err(|error| self.failed("read a directory in", error))?;
                if self.read(&inner, true)?.all.is_empty() {
                    names.all[place].listed = Listed::Hollow;
                    moved = true;
                }
            }
        }
        if moved {
            names.sort();
        }
        names.all.shrink_to_fit();
        self.collide(&names);
        Ok(names)
    }

    /// Takes note of names that differ only in case.
    fn collide(&mut self, names: &Names) {
        // What has no other case cannot collide with anything.
        if names.all.iter().all(|name| cases::is_folded(names.of(*name))) {
            return;
        }
        let mut seen = HashSet::with_capacity(names.all.len());
        for name in &names.all {
            let hash = cases::hash(names.of(*name));
            if seen.insert(hash) {
                continue;
            }
            self.colliding.count += 1;
            if self.colliding.first.is_none()
                && let Some(other) = names.all.iter().find(|other| cases::hash(names.of(**other)) == hash)
            {
                let slash: &[u8] = if self.path.is_empty() { b"" } else { b"/" };
                let path = |name: &Name| [self.path.as_slice(), slash, names.of(*name)].concat();
                self.colliding.first = Some((path(other), path(name)));
            }
        }
    }

    /// The names in a folder as they come; with `any`, at least one if there is one.
    fn read(&mut self, folder: &OwnedFd, any: bool) -> Result<Names> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut names = Names::default();
        let result = self.fill(folder, any, &mut names, &mut buffer);
        self.buffer = buffer;
        result.map(|()| names)
    }

    fn fill(&self, folder: &OwnedFd, any: bool, names: &mut Names, buffer: &mut Vec<u8>) -> Result<()> {
        let mut entries = RawDir::new(folder, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|error| self.failed("read the directory", error))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || (!any && self.frames.is_empty() && name == STAGING.as_bytes()) {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
                    FileType::from_raw_mode(stat.map_err(|error| self.failed("read an entry of", error))?.st_mode)
                }
                kind => kind,
            };
            let listed = if kind.is_dir() { Listed::Folder } else { Listed::Other };
            let (Ok(start), Ok(length)) = (u32::try_from(names.bytes.len()), u16::try_from(name.len())) else {
                return Err(Error::Path { path: self.full(), why: "holds more names than can be sorted" });
            };
            names.bytes.extend_from_slice(name);
            names.all.push(Name { start, length, listed });
            if any {
                break;
            }
        }
        Ok(())
    }
}

fn lost() -> Error {
    Error::Worker { what: "walk a data path" }
}

/// A file that is read once and must stay what it was: size, times and inode are compared before and after.
pub(crate) struct Steady {
    path: PathBuf,
    file: File,
    stat: Stat,
}

impl Steady {
    /// Opens it and checks that it is still what the scan saw.
    pub(crate) fn open(path: PathBuf, stat: Stat) -> Result<Self> {
        let file = open(&path)?;
        let now = Stat::of(&file.metadata().map_err(at("read", &path))?);
        if now != stat { Err(Error::Changing { path }) } else { Ok(Self { path, file, stat }) }
    }

    /// Fills the buffer as far as the file goes.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read(&mut buffer[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at("read", &self.path)(error)),
            }
        }
        Ok(done)
    }

    /// Checks, after all `read` bytes, that it did not change and that the path still leads to it.
    pub(crate) fn close(self, read: u64) -> Result<()> {
        let after = Stat::of(&self.file.metadata().map_err(at("read", &self.path))?);
        let there = std::fs::symlink_metadata(&self.path).map(|meta| Stat::of(&meta));
        if read != self.stat.size || after != self.stat || there.ok() != Some(self.stat) {
            return Err(Error::Changing { path: self.path });
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    // Not following links and not blocking: the path may have become a link or a fifo since the scan.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    File::options().read(true).custom_flags(flags).open(path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound || Errno::from_io_error(&error) == Some(Errno::LOOP) {
            Error::Changing { path: path.to_owned() }
        } else {
            at("read", path)(error)
        }
    })
}

/// Reads a small file whole into `buffer`. Whatever happens to a file shows in the times of its inode, so one look after reading
/// is enough: that it was what the scan saw, and that it still is.
pub(crate) fn read_whole(path: PathBuf, stat: Stat, buffer: &mut Vec<u8>) -> Result<()> {
    let mut file = open(&path)?;
    let size = usize::try_from(stat.size).unwrap_or(usize::MAX - 1);
    // One byte more than expected, so that a file that grew is noticed.
    buffer.resize(size + 1, 0);
    let mut done = 0;
    while done < size {
        match file.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(at("read", path)(error)),
        }
    }
    let after = Stat::of(&file.metadata().map_err(at("read", &path))?);
    buffer.truncate(done);
    if done != size || after != stat { Err(Error::Changing { path }) } else { Ok(()) }
}

/// SHA-256 of a file, in a stream.
fn hash(path: PathBuf, stat: Stat, buffer: &mut Vec<u8>, task: Option<&Task>) -> Result<Digest> {
    let advance = |count: u64| {
        if let Some(task) = task {
            task.advance(count);
        }
    };
    if stat.size <= ONE_READ {
        read_whole(path, stat, buffer)?;
        advance(stat.size);
        return Ok(Digest::of(&buffer));
    }
    let mut file = Steady::open(path, stat)?;
    let mut hasher = Sha256::new();
    buffer.resize(ONE_READ as usize, 0);
    let mut read = 0;
    loop {
        let count = file.fill(buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        read += count as u64;
        advance(count as u64);
    }
    file.close(read)?;
    Ok(Digest::from_bytes(hasher.finalize().into()))
}

/// What a data path holds now, with digests: a stream in byte order of path.
pub(crate) struct Current<'a> {
    pub(crate) shape: Shape,
    /// The snapshot that was last added or checked out here.
    pub(crate) base: Option<Digest>,
    /// Regular files and bytes that came so far.
    files: u64,
    bytes: u64,
    data: &'a Path,
    scan: Scan,
    old: StatReader,
    index: StatWriter,
    trust: bool,
    task: Option<&'a Task>,
    stamp: i64,
    hashed: usize,
    ready: VecDeque<(Entry, Stat)>,
}

/// What a comparison learned.
pub(crate) struct Learned {
    /// A stat index of what is there.
    pub(crate) index: NamedTempFile,
    pub(crate) base: Option<Digest>,
    /// How many files had to be read.
    pub(crate) hashed: usize,
    /// Regular files and bytes in them.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// Hashes what the index does not vouch for. `trust` false reads everything. `None` when nothing is there.
pub(crate) fn current<'a>(
    cache: &Cache,
    name: &str,
    data: &'a Path,
    trust: bool,
    task: Option<&'a Task>,
) -> Result<Option<Current<'a>>> {
    let stamp = cache.stamp(data)?;
    let Some(scan) = scan(data)? else { return Ok(None) };
    let old = StatReader::open(cache, name);
    Ok(Some(Current {
        shape: scan.shape,
        base: old.base,
        files: 0,
        bytes: 0,
        data,
        scan,
        old,
        index: StatWriter::new(cache)?,
        trust,
        task,
        stamp,
        hashed: 0,
        ready: VecDeque::new(),
    }))
}

impl Current<'_> {
    /// The next entry.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        Ok(self.next_seen()?.map(|(entry, _)| entry))
    }

    /// The next entry, and the stat of a file or link from before it was read.
    pub(crate) fn next_seen(&mut self) -> Result<Option<(Entry, Stat)>> {
        if self.ready.is_empty() {
            self.look()?;
        }
        Ok(self.ready.pop_front())
    }

    /// Reads to the end; what was learned.
    pub(crate) fn finish(mut self) -> Result<Learned> {
        while self.next()?.is_some() {}
        let index = self.index.finish(self.stamp, self.base)?;
        Ok(Learned { index, base: self.base, hashed: self.hashed, files: self.files, bytes: self.bytes })
    }

    fn look(&mut self) -> Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut unknown = 0;
        while batch.len() < BATCH
            && let Some(found) = self.scan.next(self.task)?
        {
            let mut trusted = None;
            if let What::File { stat, .. } = &found.what {
                trusted = self.old.digest(&found.path, stat).filter(|_| self.trust);
                match (trusted, self.task) {
                    (None, _) => unknown += 1,
                    (Some(_), Some(task)) => task.advance(stat.size),
                    (Some(_), None) => {}
                }
            }
            batch.push((found, trusted));
        }
        self.hashed += unknown;
        if unknown > 0 {
            let (data, shape, task) = (self.data, self.shape, self.task);
            batch.par_iter_mut().try_for_each_init(Vec::new, |buffer, (found, digest)| {
                if let (What::File { stat, .. }, None) = (&found.what, &digest) {
                    *digest = Some(hash(place(data, shape, &found.path), *stat, buffer, task)?);
                }
                Ok(())
            })?;
        }
        for (Found { path, what }, digest) in batch {
            let (kind, stat) = match (what, digest) {
                (What::File { executable, stat }, Some(digest)) => {
                    self.index.push(&path, &stat, &digest)?;
                    self.files += 1;
                    self.bytes += stat.size;
                    (Kind::File { executable, size: stat.size, digest }, stat)
                }
                (What::File { .. }, None) => return Err(Error::Worker { what: "hash a file" }),
                (What::Symlink { target, stat }, _) => (Kind::Symlink { target }, stat),
                (What::EmptyDirectory, _) => (Kind::EmptyDirectory, Stat::default()),
            };
            self.ready.push_back((Entry { path, kind }, stat));
        }
        Ok(())
    }
}

impl Learned {
    /// Keeps it, unless another command is changing the data path or has done so meanwhile.
    pub(crate) fn save_if_idle(self, cache: &Cache, data: &str) -> Result<()> {
        cache.if_idle(data, || {
            if self.hashed > 0 && StatReader::open(cache, data).base == self.base {
                stat::commit(cache, data, self.index)
            } else {
                Ok(())
            }
        })
    }
}

#[cfg(test)]
mod tests;
