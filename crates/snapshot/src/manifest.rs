//! The snapshot manifest: what is in a data tree, one line an entry, readable in a stream.

use crate::{
    error::{Error, Result},
    path,
};
use domain::Digest;
use sha2::{Digest as _, Sha256};
use std::{
    cmp::Ordering,
    io::{BufRead, Read, Write},
};

/// The first word of a manifest.
pub(crate) const MAGIC: &str = "sealift-snapshot";
/// The version that this crate writes and reads.
pub(crate) const VERSION: u32 = 1;
/// Manifests larger than this are refused before they are read: 512 MiB, some three million files.
pub(crate) const LARGEST: u64 = 512 << 20;
/// A line is at most two escaped paths and a few numbers.
const LONGEST_LINE: u64 = 6 * path::LONGEST as u64 + 200;

/// Whether a snapshot is a directory or one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A directory; paths are relative to it.
    Tree,
    /// One file; the only entry is that file under its own name.
    File,
}

impl Shape {
    fn word(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::File => "file",
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Whether its owner may execute it.
        executable: bool,
        /// Size in bytes.
        size: u64,
        /// SHA-256 of its content.
        digest: Digest,
    },
    /// A symbolic link, never followed.
    Symlink {
        /// Where it points, as written.
        target: Vec<u8>,
    },
    /// A directory with nothing in it. Other directories are implied by the paths.
    EmptyDirectory,
}

/// One line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path, any bytes but NUL, `/` between components.
    pub path: Vec<u8>,
    /// What is there.
    pub kind: Kind,
}

impl Entry {
    /// Size and digest of a regular file.
    pub fn content(&self) -> Option<(u64, Digest)> {
        match &self.kind {
            Kind::File { size, digest, .. } => Some((*size, *digest)),
            _ => None,
        }
    }

    fn line(&self) -> String {
        let path = path::escape(&self.path);
        match &self.kind {
            Kind::File { executable, size, digest } => {
                format!("{} {size} {} {path}\n", if *executable { 'x' } else { 'f' }, digest.hex())
            }
            Kind::Symlink { target } => format!("l {} {path}\n", path::escape(target)),
            Kind::EmptyDirectory => format!("d {path}\n"),
        }
    }
}

/// The last line: counts that a reader checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// All entries.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

/// The rules between entries: rising order, no duplicate, nothing below a file.
#[derive(Default)]
struct Order {
    last: Vec<u8>,
    /// Paths that are byte prefixes of the last one: whatever may still turn out to be an ancestor.
    open: Vec<Vec<u8>>,
    totals: Totals,
}

impl Order {
    fn take(&mut self, shape: Shape, entry: &Entry) -> std::result::Result<(), &'static str> {
        if let Some(why) = path::problem(&entry.path) {
            return Err(why);
        }
        if self.totals.entries > 0 {
            match self.last.as_slice().cmp(&entry.path) {
                Ordering::Less => {}
                Ordering::Equal => return Err("the path is there twice"),
                Ordering::Greater => return Err("the paths are not in byte order"),
            }
        }
        if shape == Shape::File {
            let plain = matches!(entry.kind, Kind::File { .. }) && !entry.path.contains(&b'/');
            if self.totals.entries > 0 || !plain {
                return Err("a snapshot of one file holds exactly one regular file");
            }
        }
        while self.open.last().is_some_and(|prefix| !entry.path.starts_with(prefix)) {
            self.open.pop();
        }
        if self.open.iter().any(|prefix| entry.path.get(prefix.len()) == Some(&b'/')) {
            return Err("the path lies below an entry that has nothing below it");
        }
        self.open.push(entry.path.clone());
        self.last.clone_from(&entry.path);
        if let Kind::Symlink { target } = &entry.kind
            && (target.is_empty() || target.len() > path::LONGEST || target.contains(&0))
        {
            return Err("the target of the link is not legal");
        }
        self.totals.entries += 1;
        if let Some((size, _)) = entry.content() {
            self.totals.files += 1;
            self.totals.bytes = self.totals.bytes.checked_add(size).ok_or("the sizes exceed 64 bits")?;
        }
        Ok(())
    }
}

/// Writes a manifest entry by entry and computes its digest on the way.
pub struct ManifestWriter<W> {
    output: W,
    shape: Shape,
    order: Order,
    hasher: Sha256,
    room: u64,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins with the header line.
    pub fn new(output: W, shape: Shape) -> std::io::Result<Self> {
        let mut writer = Self { output, shape, order: Order::default(), hasher: Sha256::new(), room: LARGEST };
        writer.line(&format!("{MAGIC} {VERSION} {}\n", shape.word()))?;
        Ok(writer)
    }

    /// Adds an entry. `InvalidData` when it breaks a rule of the format; entries must come in order. `FileTooLarge` when nobody
    /// could read the manifest, which is true of [`ManifestWriter::finish`] as well.
    pub fn push(&mut self, entry: &Entry) -> std::io::Result<()> {
        self.order.take(self.shape, entry).map_err(|why| {
            std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{}: {why}", path::shown(&entry.path)))
        })?;
        self.line(&entry.line())
    }

    /// Writes the last line; the digest of the whole is the identity of the snapshot.
    pub fn finish(mut self) -> std::io::Result<(Digest, Totals, W)> {
        let totals = self.order.totals;
        self.line(&format!("end {} {} {}\n", totals.entries, totals.files, totals.bytes))?;
        self.output.flush()?;
        Ok((Digest::from_bytes(self.hasher.finalize().into()), totals, self.output))
    }

    fn line(&mut self, line: &str) -> std::io::Result<()> {
        let left = self.room.checked_sub(line.len() as u64);
        self.room = left.ok_or(std::io::ErrorKind::FileTooLarge)?;
        self.hasher.update(line.as_bytes());
        self.output.write_all(line.as_bytes())
    }
}

/// Reads a manifest entry by entry and refuses whatever a writer would not have written.
pub struct ManifestReader<R> {
    input: R,
    object: String,
    shape: Shape,
    order: Order,
    line: u64,
    buffer: Vec<u8>,
    ended: bool,
}

impl<R: BufRead> ManifestReader<R> {
    /// Reads the header line. `object` names the manifest in errors.
    pub fn new(input: R, object: impl Into<String>) -> Result<Self> {
        let mut reader = Self {
            input,
            object: object.into(),
            shape: Shape::Tree,
            order: Order::default(),
            line: 0,
            buffer: Vec::new(),
            ended: false,
        };
        reader.read_line()?;
        let version = format!("{MAGIC} {VERSION} ");
        reader.shape = match reader.buffer.strip_prefix(version.as_bytes()) {
            Some(b"tree") => Shape::Tree,
            Some(b"file") => Shape::File,
            _ => return Err(reader.wrong("the first line is not that of a manifest of version 1")),
        };
        Ok(reader)
    }

    /// Directory or file.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What was read so far; after the end, the totals of the snapshot.
    pub fn totals(&self) -> Totals {
        self.order.totals
    }

    /// The next entry, or `None` after a correct last line.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        self.read_line()?;
        if self.buffer.starts_with(b"end ") {
            self.check_end()?;
            self.ended = true;
            return Ok(None);
        }
        let entry = parse(&self.buffer).map_err(|why| self.wrong(why))?;
        self.order.take(self.shape, &entry).map_err(|why| wrong(&self.object, self.line, why))?;
        Ok(Some(entry))
    }

    fn check_end(&mut self) -> Result<()> {
        let Totals { entries, files, bytes } = self.order.totals;
        if self.buffer != format!("end {entries} {files} {bytes}").as_bytes() {
            return Err(self.wrong("the counts of the last line do not agree"));
        }
        if self.shape == Shape::File && entries != 1 {
            return Err(self.wrong("a snapshot of one file holds exactly one regular file"));
        }
        match self.input.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) => Err(self.wrong("there is more after the last line")),
            Err(error) => Err(self.wrong(&error.to_string())),
        }
    }

    fn read_line(&mut self) -> Result<()> {
        self.buffer.clear();
        self.line += 1;
        let read = self.input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut self.buffer);
        read.map_err(|error| wrong(&self.object, self.line, &error.to_string()))?;
        if self.buffer.pop() == Some(b'\n') { Ok(()) } else { Err(self.wrong("the line has no end")) }
    }

    fn wrong(&self, why: &str) -> Error {
        wrong(&self.object, self.line, why)
    }
}

fn wrong(object: &str, line: u64, why: &str) -> Error {
    Error::Manifest { object: object.to_owned(), line, why: why.to_owned() }
}

fn parse(line: &[u8]) -> std::result::Result<Entry, &'static str> {
    let columns: Vec<&[u8]> = line.splitn(5, |byte| *byte == b' ').collect();
    let unescape = |text: &[u8]| path::unescape(text).ok_or("the path is not escaped as it must be");
    let (path, kind) = match columns.as_slice() {
        [mode @ (b"f" | b"x"), size, digest, path] => {
            let kind = Kind::File {
                executable: *mode == b"x",
                size: number(size).ok_or("the size is not a number")?,
                digest: hexadecimal(digest).ok_or("the digest is not 64 hex digits")?,
            };
            (path, kind)
        }
        [b"l", target, path] => (path, Kind::Symlink { target: unescape(target)? }),
        [b"d", path] => (path, Kind::EmptyDirectory),
        _ => return Err("the line is of no known kind"),
    };
    Ok(Entry { path: unescape(path)?, kind })
}

fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let value: u64 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

fn hexadecimal(text: &[u8]) -> Option<Digest> {
    let text = std::str::from_utf8(text).ok()?;
    if text.len() == 64 { text.parse().ok() } else { None }
}

/// A whole manifest in memory, for [`diff`] and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Directory or file.
    pub shape: Shape,
    /// The entries in byte order of path.
    pub entries: Vec<Entry>,
}

impl Manifest {
    /// Reads all of it.
    pub fn read(input: impl BufRead, object: &str) -> Result<Self> {
        let mut reader = ManifestReader::new(input, object)?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            entries.push(entry);
        }
        Ok(Self { shape: reader.shape(), entries })
    }

    /// The digest, the totals and the text.
    pub fn write(&self) -> std::io::Result<(Digest, Totals, Vec<u8>)> {
        let mut writer = ManifestWriter::new(Vec::new(), self.shape)?;
        for entry in &self.entries {
            writer.push(entry)?;
        }
        writer.finish()
    }
}

/// What differs between two snapshots; raw paths in byte order (show them with [`crate::shown`]).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Only in the second.
    pub added: Vec<Vec<u8>>,
    /// Only in the first.
    pub removed: Vec<Vec<u8>>,
    /// In both, with other content, mode or target.
    pub changed: Vec<Vec<u8>>,
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Compares two manifests.
pub fn diff(a: &Manifest, b: &Manifest) -> Diff {
    let (mut old, mut new) = (a.entries.iter(), b.entries.iter());
    let joined = join(|| Ok(old.next().cloned()), || Ok(new.next().cloned()));
    joined.unwrap_or_default()
}

/// Merges two sorted sequences of entries.
pub(crate) fn join(
    mut old: impl FnMut() -> Result<Option<Entry>>,
    mut new: impl FnMut() -> Result<Option<Entry>>,
) -> Result<Diff> {
    let mut result = Diff::default();
    let mut left = old()?;
    while let Some(right) = new()? {
        while let Some(entry) = left.take_if(|entry| entry.path < right.path) {
            result.removed.push(entry.path);
            left = old()?;
        }
        match left.take_if(|entry| entry.path == right.path) {
            Some(entry) => {
                if entry.kind != right.kind {
                    result.changed.push(right.path);
                }
                left = old()?;
            }
            None => result.added.push(right.path),
        }
    }
    while let Some(entry) = left {
        result.removed.push(entry.path);
        left = old()?;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_reader_would_take_is_not_written() {
        let entry = |name: &str| Entry { path: name.into(), kind: Kind::EmptyDirectory };
        let begun = |room| {
            let mut writer = ManifestWriter::new(Vec::new(), Shape::Tree).unwrap();
            writer.room = room;
            writer
        };
        let whole = "d a\nd b\nend 2 0 0\n".len() as u64;
        for room in 0..=whole {
            let mut writer = begun(room);
            let done = writer.push(&entry("a")).and_then(|()| writer.push(&entry("b"))).and_then(|()| writer.finish());
            match done {
                Ok(_) => assert_eq!(room, whole),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
                    assert!(room < whole);
                }
            }
        }
    }
}
