//! What a checkout must do: the snapshot, what is there, and the snapshot that was there last, read side by side in byte order of
//! path. Nothing is written, and nothing of the trees is held but what is to be told to people.

use crate::{
    cache::{Cache, manifest_key},
    cases::{self, Cases},
    error::{Error, Result, at},
    manifest::{Entry, Kind, ManifestReader, Shape},
    path,
    scan::{Current, Learned},
};
use domain::Digest;
use std::{
    cmp::Ordering,
    collections::BTreeSet,
    fs::File,
    io::{BufReader, BufWriter, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
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
    /// Paths to remove first.
    pub(crate) remove: Paths,
    /// Paths that the snapshot does not have and that stay.
    pub(crate) kept: Vec<Vec<u8>>,
    /// The data path itself is a file where it must be a directory, or the other way round.
    pub(crate) replace_root: bool,
    pub(crate) bytes: u64,
    /// What was learned about what is there; nothing for a restore.
    pub(crate) learned: Option<Learned>,
}

/// Any number of paths, in a file.
#[derive(Default)]
pub(crate) struct Paths {
    spool: Option<BufWriter<File>>,
    pub(crate) count: u64,
}

impl Paths {
    fn push(&mut self, cache: &Cache, path: &[u8]) -> Result<()> {
        let in_tmp = || at("write a list of paths in", cache.tmp());
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => none.insert(BufWriter::new(tempfile::tempfile_in(cache.tmp()).map_err(in_tmp())?)),
        };
        self.count += 1;
        let written = spool.write_all(&(path.len() as u32).to_le_bytes()).and_then(|()| spool.write_all(path));
        written.map_err(in_tmp())
    }

    /// Goes through them, in the order in which they came.
    pub(crate) fn each(self, cache: &Cache, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Some(spool) = self.spool else { return Ok(()) };
        let in_tmp = || at("read a list of paths in", cache.tmp());
        let mut file = spool.into_inner().map_err(|error| in_tmp()(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(in_tmp())?;
        let mut input = BufReader::new(file);
        let mut path = Vec::new();
        for _ in 0..self.count {
            let mut length = [0; 4];
            input.read_exact(&mut length).map_err(in_tmp())?;
            path.resize(u32::from_le_bytes(length) as usize, 0);
            input.read_exact(&mut path).map_err(in_tmp())?;
            take(&path)?;
        }
        Ok(())
    }
}

/// Something on disk that the snapshot does not have. Whether it is in the way is known when all that could be below it came by.
struct Extra {
    path: Vec<u8>,
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
    let mut base = base.map(|base| cache.open_manifest(&base)).transpose()?.flatten();
    let base_next = base.as_mut().map(Manifest::next_entry).transpose()?.flatten();
    let (same, remove, kept) = (Vec::new(), Paths::default(), Vec::new());
    let mut merge = Merge {
        cache,
        force,
        plan: Plan { same, remove, kept, replace_root, bytes: 0, learned: None },
        base,
        base_next,
        targets: Vec::new(),
        extras: Vec::new(),
        at_risk: 0,
        examples: BTreeSet::new(),
    };
    let mut next = || current.as_mut().map(Current::next).transpose().map(Option::flatten);
    if shape == Shape::File && !replace_root {
        merge.one_file(&mut target, next()?)?;
    } else if replace_root {
        while let Some(there) = next()? {
            merge.risk(&there)?;
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
    fn one_file(&mut self, target: &mut Manifest, there: Option<Entry>) -> Result<()> {
        let Some(entry) = target.next_entry()? else { return Ok(()) };
        let same = there.as_ref().is_some_and(|there| there.kind == entry.kind);
        if let Some(there) = there.filter(|_| !same) {
            let safe = self.base.as_ref().is_some_and(|base| base.shape() == Shape::File)
                && self.base_next.as_ref().is_some_and(|base| base.kind == there.kind);
            self.count(&there.path, safe);
        }
        self.wanted(&entry, same);
        // The end of the manifest is part of it.
        target.next_entry().map(drop)
    }

    fn trees(&mut self, target: &mut Manifest, mut next: impl FnMut() -> Result<Option<Entry>>) -> Result<()> {
        let (mut wanted, mut there) = (target.next_entry()?, next()?);
        loop {
            let order = match (&wanted, &there) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(wanted), Some(there)) => wanted.path.cmp(&there.path),
            };
            let entry = if order == Ordering::Greater { None } else { wanted.take() };
            let found = if order == Ordering::Less { None } else { there.take() };
            if let Some(path) = entry.as_ref().or(found.as_ref()).map(|entry| entry.path.as_slice()) {
                self.leave(|open| !path.starts_with(open))?;
            }
            match (entry, found) {
                (Some(entry), Some(found)) => self.both(&entry, &found)?,
                (Some(entry), None) => self.only_wanted(entry),
                (None, Some(found)) => self.only_there(found)?,
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

    fn both(&mut self, entry: &Entry, there: &Entry) -> Result<()> {
        let same = there.kind == entry.kind;
        if !same {
            self.risk(there)?;
            if there.kind == Kind::EmptyDirectory || entry.kind == Kind::EmptyDirectory {
                self.plan.remove.push(self.cache, &there.path)?;
            }
        }
        self.wanted(entry, same);
        Ok(())
    }

    fn only_wanted(&mut self, entry: Entry) {
        for extra in &mut self.extras {
            extra.is_folder |= entry.path.get(extra.path.len()) == Some(&b'/');
        }
        self.wanted(&entry, false);
        if entry.kind != Kind::EmptyDirectory {
            self.targets.push(entry.path);
        }
    }

    fn only_there(&mut self, there: Entry) -> Result<()> {
        if self.targets.iter().any(|target| there.path.get(target.len()) == Some(&b'/')) {
            self.risk(&there)?;
            return self.plan.remove.push(self.cache, &there.path);
        }
        let (safe, leaf) = (self.is_safe(&there)?, there.kind != Kind::EmptyDirectory);
        self.extras.push(Extra { path: there.path, leaf, safe, is_folder: false });
        Ok(())
    }

    /// What has been passed by is decided: it stays, unless it is in the way or `force` is given.
    fn leave(&mut self, passed: impl Fn(&[u8]) -> bool) -> Result<()> {
        while self.targets.pop_if(|target| passed(target)).is_some() {}
        while let Some(extra) = self.extras.pop_if(|extra| passed(&extra.path)) {
            match extra {
                // An empty directory that gets something in it.
                Extra { is_folder: true, leaf: false, .. } => {}
                Extra { is_folder: true, .. } => {
                    self.count(&extra.path, extra.safe);
                    self.plan.remove.push(self.cache, &extra.path)?;
                }
                _ if self.force => self.plan.remove.push(self.cache, &extra.path)?,
                _ => self.plan.kept.push(extra.path),
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
    // The data may not be there yet, or be replaced.
    let Some(folder) = data.ancestors().find(|folder| folder.is_dir()) else { return Ok(()) };
    let limits = rustix::fs::statvfs(folder).map_err(|error| at("look at the file system of", folder)(error.into()))?;
    let longest_name = usize::try_from(limits.f_namemax).unwrap_or(usize::MAX);
    let longest = path::LONGEST.saturating_sub(data.as_os_str().len() + 1);
    let mut seen = match are_one(folder) {
        Ok(one) => one.then(Cases::default),
        // Then only folders below it are written to, or nothing is.
        Err(Error::File { source, .. }) if source.kind() == ErrorKind::PermissionDenied => None,
        Err(error) => return Err(error),
    };
    if let Some(seen) = &mut seen {
        plan.kept.iter().for_each(|path| seen.stays(path));
    }
    let mut same = plan.same.iter();
    while let Some(entry) = target.next_entry()? {
        let wanted = !same.next().copied().unwrap_or(false);
        let long = |why| Error::Path { path: data.join(std::ffi::OsStr::from_bytes(&entry.path)), why };
        if wanted && entry.path.len() > longest {
            return Err(long("is longer than a path can be"));
        }
        if wanted && entry.path.split(|byte| *byte == b'/').any(|name| name.len() > longest_name) {
            return Err(long("has a name that is too long for the file system"));
        }
        if let Some(collides) = seen.as_mut().and_then(|seen| seen.take(&entry.path)) {
            return Err(cases::refused(data, collides));
        }
    }
    Ok(())
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
        let all: Vec<Vec<u8>> =
            (0..1000u32).map(|number| number.to_le_bytes()[..number as usize % 5].to_vec()).collect();
        for path in &all {
            paths.push(&cache, path).unwrap();
        }
        let mut back = Vec::new();
        paths
            .each(&cache, |path| {
                back.push(path.to_vec());
                Ok(())
            })
            .unwrap();
        assert_eq!(back, all);
    }
}
