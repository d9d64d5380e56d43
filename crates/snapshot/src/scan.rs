//! Walking a data path, and hashing files that must not change meanwhile.

use crate::{
    cache::Cache,
    error::{Error, Result, at},
    manifest::{Entry, Kind, Shape},
    stat::{Known, Stat, StatIndex},
};
use domain::{Digest, event::Task};
use rayon::prelude::*;
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    io::Read,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// Staging folder of a checkout onto another file system than the cache's; never part of a snapshot.
pub(crate) const STAGING: &str = ".sealift-tmp";

/// Something in a data tree.
pub(crate) struct Found {
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
}

/// What it is.
pub(crate) enum What {
    File { executable: bool, stat: Stat },
    Symlink { target: Vec<u8> },
    EmptyDirectory,
}

/// What is at a data path.
pub(crate) struct Scan {
    pub(crate) shape: Shape,
    /// In byte order of path.
    pub(crate) found: Vec<Found>,
}

impl Scan {
    /// Bytes in regular files.
    pub(crate) fn bytes(&self) -> u64 {
        let size = |found: &Found| if let What::File { stat, .. } = &found.what { stat.size } else { 0 };
        self.found.iter().map(size).sum()
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
    let meta = match std::fs::symlink_metadata(data) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("read", data)(error)),
    };
    if meta.is_symlink() {
        return Err(Error::Path { path: data.to_owned(), why: "is a symbolic link; name what it points to" });
    }
    if !meta.is_dir() {
        let path = data.file_name().unwrap_or_default().as_bytes().to_vec();
        let what = classify(data, &meta)?;
        return Ok(Some(Scan { shape: Shape::File, found: vec![Found { path, what }] }));
    }
    let mut found = Vec::new();
    let mut folders = vec![Vec::new()];
    while let Some(folder) = folders.pop() {
        let place = if folder.is_empty() { data.to_owned() } else { data.join(OsStr::from_bytes(&folder)) };
        let mut empty = true;
        for entry in std::fs::read_dir(&place).map_err(at("read the directory", &place))? {
            let entry = entry.map_err(at("read the directory", &place))?;
            let name = entry.file_name().into_vec();
            if folder.is_empty() && name == STAGING.as_bytes() {
                continue;
            }
            empty = false;
            let path = if folder.is_empty() { name } else { [folder.as_slice(), b"/", &name].concat() };
            let meta = entry.metadata().map_err(at("read", entry.path()))?;
            if meta.is_dir() {
                folders.push(path);
            } else {
                found.push(Found { what: classify(&entry.path(), &meta)?, path });
            }
        }
        if empty && !folder.is_empty() {
            found.push(Found { path: folder, what: What::EmptyDirectory });
        }
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(Scan { shape: Shape::Tree, found }))
}

fn classify(path: &Path, meta: &Metadata) -> Result<What> {
    let kind = meta.file_type();
    if kind.is_file() {
        Ok(What::File { executable: meta.permissions().mode() & 0o100 != 0, stat: Stat::of(meta) })
    } else if kind.is_symlink() {
        let target = std::fs::read_link(path).map_err(at("read the link", path))?;
        Ok(What::Symlink { target: target.into_os_string().into_vec() })
    } else {
        let kind = if kind.is_fifo() {
            "fifo"
        } else if kind.is_socket() {
            "socket"
        } else {
            "device"
        };
        Err(Error::Kind { path: path.to_owned(), kind })
    }
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
        // Not following links and not blocking: the path may have become a link or a fifo since the scan.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = match File::options().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::Changing { path }),
            Err(error) => return Err(at("read", path)(error)),
        };
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

/// SHA-256 of a file, in a stream.
pub(crate) fn hash(path: PathBuf, stat: Stat, task: Option<&Task>) -> Result<Digest> {
    let mut file = Steady::open(path, stat)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; usize::try_from(stat.size.clamp(1, 1 << 20)).unwrap_or(1 << 20)];
    let mut read = 0;
    loop {
        let count = file.fill(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        read += count as u64;
        if let Some(task) = task {
            task.advance(count as u64);
        }
    }
    file.close(read)?;
    Ok(Digest::from_bytes(hasher.finalize().into()))
}

/// What a data path holds now, with digests.
pub(crate) struct Current {
    pub(crate) shape: Shape,
    pub(crate) entries: Vec<Entry>,
    pub(crate) index: StatIndex,
    /// How many files had to be read.
    pub(crate) hashed: usize,
}

/// Hashes what the index does not vouch for. `trust` false reads everything. `None` when nothing is there.
pub(crate) fn current(
    cache: &Cache,
    name: &str,
    data: &Path,
    trust: bool,
    task: Option<&Task>,
) -> Result<Option<Current>> {
    let stamp = cache.stamp()?;
    let Some(scan) = scan(data)? else { return Ok(None) };
    let old = StatIndex::load(cache, name);
    if let Some(task) = task {
        task.grow(scan.bytes());
    }
    let shape = scan.shape;
    let results: Vec<(Entry, Option<(Known, bool)>)> = scan
        .found
        .into_par_iter()
        .map(|found| {
            let kind = match found.what {
                What::Symlink { target } => Kind::Symlink { target },
                What::EmptyDirectory => Kind::EmptyDirectory,
                What::File { executable, stat } => {
                    let trusted = old.digest(&found.path, &stat).filter(|_| trust);
                    let digest = match trusted {
                        Some(digest) => {
                            if let Some(task) = task {
                                task.advance(stat.size);
                            }
                            digest
                        }
                        None => hash(place(data, shape, &found.path), stat, task)?,
                    };
                    let known = Known { path: found.path.clone(), stat, digest };
                    let kind = Kind::File { executable, size: stat.size, digest };
                    return Ok((Entry { path: found.path, kind }, Some((known, trusted.is_none()))));
                }
            };
            Ok((Entry { path: found.path, kind }, None))
        })
        .collect::<Result<_>>()?;
    let mut current = Current {
        shape,
        entries: Vec::with_capacity(results.len()),
        index: StatIndex { stamp, base: old.base, known: Vec::new() },
        hashed: 0,
    };
    for (entry, known) in results {
        current.entries.push(entry);
        if let Some((known, hashed)) = known {
            current.index.known.push(known);
            current.hashed += usize::from(hashed);
        }
    }
    Ok(Some(current))
}
