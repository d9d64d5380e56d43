//! What a checkout must do: the snapshot, what is there, and the snapshot that was there last, read side by side in byte order of
//! path. Nothing is written, and nothing of the trees is held but what is to be told to people.

use crate::{
    cache::{Cache, manifest_key},
    cases::{self, Cases},
    error::{Error, Result, at},
    layout::hash_rest,
    manifest::{Entry, Kind, ManifestReader, Shape},
    path,
    scan::{Current, Learned, STAGING},
    stat::Stat,
};
use domain::Digest;
use std::{
    cmp::Ordering,
    collections::BTreeSet,
    fs::File,
    io::{BufReader, BufWriter, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// How many of the local changes are named.
const EXAMPLES: usize = 5;

pub(crate) type Manifest = ManifestReader<BufReader<File>>;

pub(crate) fn open_manifest(cache: &Cache, digest: &Digest) -> Result<Manifest> {
    cache.open_manifest(digest)?.ok_or_else(|| Error::NotCached { object: manifest_key(digest), snapshot: *digest })
}

/// What must be done.
pub(crate) struct Plan {
    /// By number of the entry in the manifest: whether it is there already.
    pub(crate) same: Vec<bool>,
    /// What to remove first.
    pub(crate) remove: Paths,
    /// Files and links that give way to others, in the order of the manifest.
    pub(crate) replaced: Paths,
    /// Whether what changes meanwhile may be lost.
    pub(crate) force: bool,
    /// Paths that the snapshot does not have and that stay.
    pub(crate) kept: Vec<Vec<u8>>,
    /// The data path itself is a file where it must be a directory, or the other way round.
    pub(crate) replace_root: bool,
    pub(crate) bytes: u64,
    /// What was learned about what is there; nothing for a restore.
    pub(crate) learned: Option<Learned>,
}

/// What the comparison saw at a path, so that nothing else is overwritten or removed in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) path: Vec<u8>,
    /// Of a file or link; nothing of a directory.
    stat: Stat,
    /// Of the content or the target.
    digest: Digest,
}

impl Seen {
    pub(crate) fn new(path: &[u8], kind: &Kind, stat: Stat) -> Self {
        let digest = match kind {
            Kind::File { digest, .. } => *digest,
            Kind::Symlink { target } => Digest::of(target),
            Kind::EmptyDirectory => Digest::of(b""),
        };
        Self { path: path.to_vec(), stat, digest }
    }

    /// Whether this is there, untouched. A new ctime alone may be our own doing, when another name of the same file was
    /// replaced: then it is read.
    fn is_at(&self, full: &Path, meta: &std::fs::Metadata) -> Result<bool> {
        if meta.is_dir() {
            return Ok(self.stat == Stat::default());
        }
        let now = Stat::of(meta);
        if now == self.stat {
            return Ok(true);
        }
        if now != (Stat { ctime: now.ctime, ..self.stat }) {
            return Ok(false);
        }
        if meta.is_symlink() {
            let target = std::fs::read_link(full).map_err(at("read the link", full))?;
            return Ok(Digest::of(target.as_os_str().as_bytes()) == self.digest);
        }
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(full);
        Ok(file.and_then(|mut file| hash_rest(&mut file)).map_err(at("read", full))? == self.digest)
    }
}

/// Fails when there is something else at `full` than the comparison saw, to be asked right before it is lost: whoever changed it
/// meanwhile keeps it. No system replaces a file on the condition that it is still the same, so a moment remains.
pub(crate) fn still(data: &Path, path: &[u8], full: &Path, seen: Option<&Seen>) -> Result<()> {
    let same = match std::fs::symlink_metadata(full) {
        Ok(meta) => seen.map_or(Ok(false), |seen| seen.is_at(full, &meta))?,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => true,
        Err(error) => return Err(at("read", full)(error)),
    };
    if same { Ok(()) } else { Err(changed(data, path)) }
}

/// What is said of something that was changed while it was about to be replaced.
pub(crate) fn changed(data: &Path, path: &[u8]) -> Error {
    Error::LocalChanges { path: data.to_owned(), count: 1, examples: vec![crate::shown(path)] }
}

/// Any number of paths and what was seen there, in a file.
#[derive(Default)]
pub(crate) struct Paths {
    spool: Option<BufWriter<File>>,
    pub(crate) count: u64,
}

/// Reads them again, in the order in which they came.
pub(crate) struct PathsReader {
    input: Option<BufReader<File>>,
    left: u64,
    tmp: PathBuf,
}

impl PathsReader {
    pub(crate) fn next(&mut self) -> Result<Option<Seen>> {
        let Some(input) = self.input.as_mut().filter(|_| self.left > 0) else { return Ok(None) };
        self.left -= 1;
        let mut read = || {
            let mut length = [0; 4];
            input.read_exact(&mut length)?;
            let mut path = vec![0; u32::from_le_bytes(length) as usize];
            input.read_exact(&mut path)?;
            let (mut stat, mut digest) = ([0; Stat::BYTES], [0; 32]);
            input.read_exact(&mut stat)?;
            input.read_exact(&mut digest)?;
            Ok(Seen { path, stat: Stat::from_bytes(&stat), digest: Digest::from_bytes(digest) })
        };
        read().map(Some).map_err(at("read a list of paths in", &self.tmp))
    }
}

impl Paths {
    fn push(&mut self, cache: &Cache, seen: &Seen) -> Result<()> {
        let path = &seen.path;
        let in_tmp = || at("write a list of paths in", cache.tmp());
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => none.insert(BufWriter::new(tempfile::tempfile_in(cache.tmp()).map_err(in_tmp())?)),
        };
        self.count += 1;
        let length = (path.len() as u32).to_le_bytes();
        let parts = [&length[..], path, &seen.stat.to_bytes(), seen.digest.as_bytes()];
        parts.into_iter().try_for_each(|part| spool.write_all(part)).map_err(in_tmp())
    }

    pub(crate) fn reader(self, cache: &Cache) -> Result<PathsReader> {
        let (left, tmp) = (self.count, cache.tmp());
        let Some(spool) = self.spool else { return Ok(PathsReader { input: None, left: 0, tmp }) };
        let in_tmp = || at("read a list of paths in", cache.tmp());
        let mut file = spool.into_inner().map_err(|error| in_tmp()(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(in_tmp())?;
        Ok(PathsReader { input: Some(BufReader::new(file)), left, tmp })
    }
}

/// Something on disk that the snapshot does not have. Whether it is in the way is known when all that could be below it came by.
struct Extra {
    seen: Seen,
    /// A file or link, not an empty directory.
    leaf: bool,
    /// The snapshot that was there last has it as it is.
    safe: bool,
    is_folder: bool,
}

struct Merge<'a> {
    cache: &'a Cache,
    force: bool,
    plan: Plan,
    base: Option<Manifest>,
    base_next: Option<Entry>,
    /// Files and links of the snapshot whose paths the current one begins with.
    targets: Vec<Vec<u8>>,
    /// The same of what the snapshot does not have.
    extras: Vec<Extra>,
    at_risk: usize,
    examples: BTreeSet<Vec<u8>>,
}

/// The snapshot that was there last, if the cache has its bytes: what it alone has of a file is otherwise the last copy.
pub(crate) fn open_base(cache: &Cache, base: &Digest) -> Result<Option<Manifest>> {
    if cache.has_packs_of(base)? { cache.open_manifest(base) } else { Ok(None) }
}

/// Compares what is there with a snapshot. Without `force`, [`Error::LocalChanges`] when something would be lost that is in no
/// snapshot.
pub(crate) fn plan(
    cache: &Cache,
    data: &Path,
    digest: &Digest,
    mut current: Option<Current<'_>>,
    force: bool,
) -> Result<Plan> {
    let mut target = open_manifest(cache, digest)?;
    let shape = target.shape();
    let replace_root = current.as_ref().is_some_and(|current| current.shape != shape);
    let base = current.as_ref().filter(|_| !force).and_then(|current| current.base);
    let mut base = base.map(|base| open_base(cache, &base)).transpose()?.flatten();
    let base_next = base.as_mut().map(Manifest::next_entry).transpose()?.flatten();
    let (same, remove, replaced, kept) = (Vec::new(), Paths::default(), Paths::default(), Vec::new());
    let mut merge = Merge {
        cache,
        force,
        plan: Plan { same, remove, replaced, force, kept, replace_root, bytes: 0, learned: None },
        base,
        base_next,
        targets: Vec::new(),
        extras: Vec::new(),
        at_risk: 0,
        examples: BTreeSet::new(),
    };
    let mut next = || current.as_mut().map(Current::next_seen).transpose().map(Option::flatten);
    if shape == Shape::File && !replace_root {
        merge.one_file(&mut target, next()?)?;
    } else if replace_root {
        while let Some((there, stat)) = next()? {
            merge.risk(&there)?;
            merge.plan.remove.push(cache, &Seen::new(&there.path, &there.kind, stat))?;
        }
        while let Some(entry) = target.next_entry()? {
            merge.wanted(&entry, false);
        }
    } else {
        merge.trees(&mut target, next)?;
    }
    let Merge { mut plan, at_risk, examples, .. } = merge;
    if at_risk > 0 && !force {
        let examples = examples.iter().map(|path| crate::shown(path)).collect();
        return Err(Error::LocalChanges { path: data.to_owned(), count: at_risk, examples });
    }
    plan.kept.sort();
    plan.learned = current.map(Current::finish).transpose()?;
    Ok(plan)
}

impl Merge<'_> {
    /// The one entry of a snapshot of one file is the data path, whatever its name was.
    fn one_file(&mut self, target: &mut Manifest, there: Option<(Entry, Stat)>) -> Result<()> {
        let Some(entry) = target.next_entry()? else { return Ok(()) };
        let same = there.as_ref().is_some_and(|(there, _)| there.kind == entry.kind);
        if let Some((there, stat)) = there.filter(|_| !same) {
            self.plan.replaced.push(self.cache, &Seen::new(&entry.path, &there.kind, stat))?;
            let safe = self.base.as_ref().is_some_and(|base| base.shape() == Shape::File)
                && self.base_next.as_ref().is_some_and(|base| base.kind == there.kind);
            self.count(&there.path, safe);
        }
        self.wanted(&entry, same);
        // The end of the manifest is part of it.
        target.next_entry().map(drop)
    }

    fn trees(&mut self, target: &mut Manifest, mut next: impl FnMut() -> Result<Option<(Entry, Stat)>>) -> Result<()> {
        let (mut wanted, mut there) = (target.next_entry()?, next()?);
        loop {
            let order = match (&wanted, &there) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(wanted), Some((there, _))) => wanted.path.cmp(&there.path),
            };
            let entry = if order == Ordering::Greater { None } else { wanted.take() };
            let found = if order == Ordering::Less { None } else { there.take() };
            let first = entry.as_ref().or(found.as_ref().map(|(found, _)| found));
            if let Some(path) = first.map(|entry| entry.path.as_slice()) {
                self.leave(|open| !path.starts_with(open))?;
            }
            match (entry, found) {
                (Some(entry), Some((found, stat))) => self.both(&entry, &found, stat)?,
                (Some(entry), None) => self.only_wanted(entry),
                (None, Some((found, stat))) => self.only_there(&found, stat)?,
                (None, None) => {}
            }
            if order != Ordering::Greater {
                wanted = target.next_entry()?;
            }
            if order != Ordering::Less {
                there = next()?;
            }
        }
        self.leave(|_| true)
    }

    fn wanted(&mut self, entry: &Entry, same: bool) {
        if !same {
            self.plan.bytes += entry.content().map_or(0, |(size, _)| size);
        }
        self.plan.same.push(same);
    }

    fn both(&mut self, entry: &Entry, there: &Entry, stat: Stat) -> Result<()> {
        let same = there.kind == entry.kind;
        if !same {
            self.risk(there)?;
            let folder = there.kind == Kind::EmptyDirectory || entry.kind == Kind::EmptyDirectory;
            let list = if folder { &mut self.plan.remove } else { &mut self.plan.replaced };
            list.push(self.cache, &Seen::new(&there.path, &there.kind, stat))?;
        }
        self.wanted(entry, same);
        Ok(())
    }

    fn only_wanted(&mut self, entry: Entry) {
        for extra in &mut self.extras {
            extra.is_folder |= entry.path.get(extra.seen.path.len()) == Some(&b'/');
        }
        self.wanted(&entry, false);
        if entry.kind != Kind::EmptyDirectory {
            self.targets.push(entry.path);
        }
    }

    fn only_there(&mut self, there: &Entry, stat: Stat) -> Result<()> {
        let seen = Seen::new(&there.path, &there.kind, stat);
        if self.targets.iter().any(|target| there.path.get(target.len()) == Some(&b'/')) {
            self.risk(there)?;
            return self.plan.remove.push(self.cache, &seen);
        }
        let (safe, leaf) = (self.is_safe(there)?, there.kind != Kind::EmptyDirectory);
        self.extras.push(Extra { seen, leaf, safe, is_folder: false });
        Ok(())
    }

    /// What has been passed by is decided: it stays, unless it is in the way or `force` is given.
    fn leave(&mut self, passed: impl Fn(&[u8]) -> bool) -> Result<()> {
        while self.targets.pop_if(|target| passed(target)).is_some() {}
        while let Some(extra) = self.extras.pop_if(|extra| passed(&extra.seen.path)) {
            match extra {
                // An empty directory that gets something in it.
                Extra { is_folder: true, leaf: false, .. } => {}
                Extra { is_folder: true, .. } => {
                    self.count(&extra.seen.path, extra.safe);
                    self.plan.remove.push(self.cache, &extra.seen)?;
                }
                _ if self.force => self.plan.remove.push(self.cache, &extra.seen)?,
                _ => self.plan.kept.push(extra.seen.path),
            }
        }
        Ok(())
    }

    /// Takes note of something that would be lost, unless it is as the last snapshot has it.
    fn risk(&mut self, there: &Entry) -> Result<()> {
        if there.kind != Kind::EmptyDirectory {
            let safe = self.is_safe(there)?;
            self.count(&there.path, safe);
        }
        Ok(())
    }

    fn count(&mut self, path: &[u8], safe: bool) {
        if safe || self.force {
            return;
        }
        self.at_risk += 1;
        self.examples.insert(path.to_vec());
        if self.examples.len() > EXAMPLES {
            self.examples.pop_last();
        }
    }

    /// Whether the snapshot that was there last has this entry as it is. To be asked for in rising order of path.
    fn is_safe(&mut self, there: &Entry) -> Result<bool> {
        let Some(base) = &mut self.base else { return Ok(false) };
        while self.base_next.as_ref().is_some_and(|entry| entry.path < there.path) {
            self.base_next = base.next_entry()?;
        }
        Ok(self.base_next.as_ref() == Some(there))
    }
}

/// Fails, before anything is written, when an entry could not be: its path or a name in it is too long for the file system, or
/// the file system takes it for another one.
pub(crate) fn can_be_written(cache: &Cache, data: &Path, digest: &Digest, plan: &Plan) -> Result<()> {
    can_be_written_in(cache, data, digest, plan, &cases::are_one_in)
}

fn can_be_written_in(
    cache: &Cache,
    data: &Path,
    digest: &Digest,
    plan: &Plan,
    are_one: &dyn Fn(&Path) -> Result<bool>,
) -> Result<()> {
    let mut target = open_manifest(cache, digest)?;
    let tree = target.shape() == Shape::Tree;
    if !tree || plan.same.iter().all(|same| *same) {
        return Ok(());
    }
    let Some(mut fits) = Fits::new(data, &plan.kept, are_one)? else { return Ok(()) };
    let mut same = plan.same.iter();
    while let Some(entry) = target.next_entry()? {
        fits.take(&entry.path, !same.next().copied().unwrap_or(false))?;
    }
    Ok(())
}

/// Whether entries of a tree can get their names below a folder.
pub(crate) struct Fits<'a> {
    data: &'a Path,
    longest: usize,
    longest_name: usize,
    seen: Option<Cases>,
}

impl<'a> Fits<'a> {
    /// `kept` is what is there besides.
    pub(crate) fn new(
        data: &'a Path,
        kept: &[Vec<u8>],
        are_one: &dyn Fn(&Path) -> Result<bool>,
    ) -> Result<Option<Self>> {
        // The data may not be there yet, or be replaced.
        let Some(folder) = data.ancestors().find(|folder| folder.is_dir()) else { return Ok(None) };
        let limits =
            rustix::fs::statvfs(folder).map_err(|error| at("look at the file system of", folder)(error.into()))?;
        // It is tried out where a trace of it would never be part of a snapshot, and the next one finds it.
        let staging = if folder == data {
            folder.join(STAGING)
        } else {
            let whose = Digest::of(data.as_os_str().as_bytes()).hex();
            folder.join(format!("{STAGING}-{}", &whose[..16]))
        };
        let made = std::fs::create_dir_all(&staging).map_err(at("make the directory", &staging));
        let one = made.and_then(|()| are_one(&staging));
        // With what a killed one left in it; the lock of the data path is ours.
        let _ = std::fs::remove_dir_all(&staging);
        let mut seen = match one {
            Ok(one) => one.then(Cases::default),
            // Then only folders below it are written to, or nothing is.
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::PermissionDenied => None,
            Err(error) => return Err(error),
        };
        if let Some(seen) = &mut seen {
            kept.iter().for_each(|path| seen.stays(path));
        }
        Ok(Some(Self {
            data,
            longest: path::LONGEST.saturating_sub(data.as_os_str().len() + 1),
            longest_name: usize::try_from(limits.f_namemax).unwrap_or(usize::MAX),
            seen,
        }))
    }

    /// Takes the next entry in byte order of path, which is written when it is `wanted` and there already otherwise.
    pub(crate) fn take(&mut self, path: &[u8], wanted: bool) -> Result<()> {
        let long = |why| Error::Path { path: self.data.join(std::ffi::OsStr::from_bytes(path)), why };
        if wanted && path.len() > self.longest {
            return Err(long("is longer than a path can be"));
        }
        if wanted && path.split(|byte| *byte == b'/').any(|name| name.len() > self.longest_name) {
            return Err(long("has a name that is too long for the file system"));
        }
        match self.seen.as_mut().and_then(|seen| seen.take(path)) {
            Some(collides) => Err(cases::refused(self.data, collides)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Repository;
    use domain::Events;

    fn added(files: &[&str]) -> (tempfile::TempDir, Cache, Digest) {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join("data").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        let repository = Repository::new(root.path().to_owned(), root.path().join("cache"));
        let pointer = repository.add(Path::new("data"), &Events::nowhere()).unwrap().pointer;
        (root, Cache::new(repository.cache().dir().to_owned()), pointer.digest)
    }

    fn written(cache: &Cache, data: &Path, digest: &Digest, kept: &[&str], one: bool) -> Result<()> {
        let mut plan = plan(cache, data, digest, None, false).unwrap();
        plan.kept.extend(kept.iter().map(|path| path.as_bytes().to_vec()));
        can_be_written_in(cache, data, digest, &plan, &|_| Ok(one))
    }

    #[test]
    fn what_a_killed_trial_left_is_found_by_the_next_whether_the_data_is_there_or_not() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        for there in [false, true] {
            if there {
                std::fs::create_dir(&data).unwrap();
            }
            let tried = std::cell::RefCell::new(PathBuf::new());
            let try_out = || {
                Fits::new(&data, &[], &|folder| {
                    tried.replace(folder.to_owned());
                    Ok(false)
                })
            };
            assert!(try_out().unwrap().is_some());
            let folder = tried.borrow().clone();
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join(".sealift-Case-left"), "").unwrap();
            assert!(try_out().unwrap().is_some());
            assert_eq!(*tried.borrow(), folder);
            let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(left.len(), usize::from(there), "{left:?}");
            assert!(!folder.exists());
        }
    }

    #[test]
    fn names_that_collide_are_refused_where_case_makes_no_difference() {
        let (root, cache, digest) = added(&["a/x", "A/y", "b"]);
        let data = root.path().join("elsewhere");
        written(&cache, &data, &digest, &[], false).unwrap();
        let error = written(&cache, &data, &digest, &[], true).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{} differs", data.join("a").display())), "{error}");
        assert!(!data.exists());
        // What stays there must not be written over either.
        let (_root, cache, digest) = added(&["a/x", "b"]);
        written(&cache, &data, &digest, &["other"], true).unwrap();
        written(&cache, &data, &digest, &["B"], false).unwrap();
        let error = written(&cache, &data, &digest, &["B"], true).unwrap_err();
        assert!(error.to_string().contains("elsewhere/b differs"), "{error}");
    }

    #[test]
    fn what_is_too_long_for_its_place_is_refused_before_anything_is_written() {
        let (root, cache, digest) = added(&["deep/er/file"]);
        let far = |length: usize| {
            let mut far = root.path().join("far");
            while far.as_os_str().len() + 1 < length {
                far.push("d".repeat((length - far.as_os_str().len() - 1).min(200)));
            }
            far
        };
        let room = path::LONGEST - "/deep/er/file".len();
        written(&cache, &far(room), &digest, &[], false).unwrap();
        let error = written(&cache, &far(room + 2), &digest, &[], false).unwrap_err();
        assert!(error.to_string().ends_with("deep/er/file is longer than a path can be"), "{error}");
        assert!(!root.path().join("far").exists());
    }

    #[test]
    fn paths_come_back_as_they_were() {
        let (_root, cache, _) = added(&["a"]);
        let mut paths = Paths::default();
        let seen = |number: u32| Seen {
            path: number.to_le_bytes()[..number as usize % 5].to_vec(),
            stat: Stat { size: 1, mtime: -2, ctime: i64::from(number), inode: u64::MAX },
            digest: Digest::of(number.to_le_bytes()),
        };
        for number in 0..1000 {
            paths.push(&cache, &seen(number)).unwrap();
        }
        let mut reader = paths.reader(&cache).unwrap();
        for number in 0..1000 {
            assert_eq!(reader.next().unwrap(), Some(seen(number)));
        }
        assert_eq!(reader.next().unwrap(), None);
        assert_eq!(Paths::default().reader(&cache).unwrap().next().unwrap(), None);
    }
}
