//! The data that is moved: the same bytes on every machine, none of them compressible.

use crate::shell::Outcome;
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

/// What a tool is given to keep.
#[derive(Debug, Clone)]
pub(super) struct Dataset {
    /// The folder.
    pub(super) folder: PathBuf,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Random enough, and fast: xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn write(&mut self, file: File, length: u64) -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        for _ in 0..length / 8 {
            out.write_all(&self.next().to_le_bytes())?;
        }
        out.write_all(&self.next().to_le_bytes()[..(length % 8) as usize])?;
        out.flush()
    }
}

impl Dataset {
    /// `count` files of 1 to 20 KiB, a hundred a folder.
    pub(super) fn small(under: &Path, count: u64) -> Outcome<Self> {
        let folder = under.join(format!("small-{count}"));
        let mut random = Random(count | 1);
        let mut bytes = 0;
        for index in 0..count {
            let parent = folder.join(format!("{:05}", index / 100));
            if index % 100 == 0 {
                fs::create_dir_all(&parent).map_err(|cause| format!("{}: {cause}", parent.display()))?;
            }
            let length = 1024 + random.next() % (19 * 1024);
            let path = parent.join(format!("{index:07}.bin"));
            let file = File::create(&path).and_then(|file| random.write(file, length));
            file.map_err(|cause| format!("{}: {cause}", path.display()))?;
            bytes += length;
        }
        Ok(Self { folder, files: count, bytes })
    }

    /// One file.
    pub(super) fn single(under: &Path, bytes: u64) -> Outcome<Self> {
        Self::equal(under, 1, bytes)
    }

    /// `count` files of the same size.
    pub(super) fn equal(under: &Path, count: u64, each: u64) -> Outcome<Self> {
        let folder = under.join(format!("equal-{count}-{each}"));
        fs::create_dir_all(&folder).map_err(|cause| format!("{}: {cause}", folder.display()))?;
        let mut random = Random(each | 1);
        for index in 0..count {
            let path = folder.join(format!("{index:05}.bin"));
            let file = File::create(&path).and_then(|file| random.write(file, each));
            file.map_err(|cause| format!("{}: {cause}", path.display()))?;
        }
        Ok(Self { folder, files: count, bytes: count * each })
    }

    /// The same data somewhere else, to be kept and changed.
    pub(super) fn copy(&self, to: &Path) -> Outcome {
        let mut command = std::process::Command::new("cp");
        command.args(["--recursive", "--no-target-directory", "--reflink=auto"]).arg(&self.folder).arg(to);
        crate::shell::capture(&mut command).map(drop)
    }

    /// Whether what a tool brought back is this, by number of files and bytes: enough to know that it did its work.
    pub(super) fn came_back(&self, folder: &Path) -> Outcome {
        let (files, bytes) = count(folder).map_err(|cause| format!("{}: {cause}", folder.display()))?;
        if (files, bytes) == (self.files, self.bytes) {
            return Ok(());
        }
        Err(format!(
            "{} has {files} files and {bytes} bytes, and {} and {} were stored: the time says nothing",
            folder.display(),
            self.files,
            self.bytes
        ))
    }
}

fn count(folder: &Path) -> std::io::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            let (more, below) = count(&entry.path())?;
            (files, bytes) = (files + more, bytes + below);
        } else {
            (files, bytes) = (files + 1, bytes + meta.len());
        }
    }
    Ok((files, bytes))
}

/// Inserts `text` in the middle of the first file of a folder.
pub(super) fn insert(folder: &Path, text: &[u8]) -> Outcome {
    let first = fs::read_dir(folder).ok().and_then(|mut entries| entries.next()?.ok());
    let path = first.ok_or_else(|| format!("{} has no file", folder.display()))?.path();
    let edit = || -> std::io::Result<()> {
        use std::io::{Read, Seek};
        let half = fs::metadata(&path)?.len() / 2;
        let other = path.with_extension("new");
        let (mut from, mut to) = (File::open(&path)?, File::create(&other)?);
        std::io::copy(&mut Read::by_ref(&mut from).take(half), &mut to)?;
        to.write_all(text)?;
        from.seek(std::io::SeekFrom::Start(half))?;
        std::io::copy(&mut from, &mut to)?;
        fs::rename(other, &path)
    };
    edit().map_err(|cause| format!("{}: {cause}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]
mod tests {
    use super::*;

    #[test]
    fn the_same_data_every_time_and_what_is_missing_is_seen() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, second) = (Dataset::small(a.path(), 150).unwrap(), Dataset::small(b.path(), 150).unwrap());
        let file = "00001/0000149.bin";
        assert_eq!(fs::read(first.folder.join(file)).unwrap(), fs::read(second.folder.join(file)).unwrap());
        assert_eq!(first.bytes, second.bytes);
        first.came_back(&second.folder).unwrap();
        fs::remove_file(second.folder.join(file)).unwrap();
        assert!(first.came_back(&second.folder).unwrap_err().contains("149 files"));
    }

    #[test]
    fn an_insert_moves_the_second_half() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "abcd").unwrap();
        insert(folder.path(), b"--").unwrap();
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"ab--cd");
    }
}
