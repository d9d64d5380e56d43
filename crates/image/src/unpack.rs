//! A layout to a root file system.
//!
//! Layers may come from anywhere, so nothing in them is believed. Every path is walked component by component with open
//! directory handles that never follow a symbolic link; files are created, never opened; a hard link may only name
//! a plain file that is already inside. Owners, extended attributes, setuid and setgid bits are not kept. Devices, FIFOs, sparse files, a path
//! that occurs twice in a layer, a parent that is a symbolic link, and more bytes, entries or compression than [`Limits`] allow are refused,
//! and then nothing of the image stays. It needs no privilege.

use crate::{
    error::{Error, Result},
    layer::{BUFFER, LayerReader, read_failed, read_layer, stopped},
    layout::{Documents, blobs_dir, read_documents},
    spec::Descriptor,
    tarread::{Entry, Kind, TarReader},
    tree::{Components, shown},
};
use domain::Digest;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Write,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

/// How much an image may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Uncompressed bytes of all layers together.
    pub bytes: u64,
    /// Entries of all layers together.
    pub entries: u64,
    /// Bytes of all paths of a layer together: they are kept in memory while it is unpacked.
    pub names: u64,
    /// Uncompressed bytes for each compressed byte of a layer. gzip itself cannot exceed 1032.
    pub ratio: u64,
    /// Uncompressed bytes of a layer below which its ratio does not matter.
    pub ratio_from: u64,
}

impl Default for Limits {
    /// 64 GiB, two million entries, 256 MiB of paths, ratio 200 from 256 MiB on.
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 2_000_000, names: 256 << 20, ratio: 200, ratio_from: 256 << 20 }
    }
}

/// What was unpacked, and how the image wants to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the image manifest.
    pub manifest: Digest,
    /// Digest of its configuration.
    pub config: Digest,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, in order.
    pub env: Vec<(String, String)>,
    /// `WorkingDir`.
    pub workdir: Option<String>,
    /// `User`.
    pub user: Option<String>,
    /// `ExposedPorts`, for example `8080/tcp`.
    pub exposed: Vec<String>,
    /// Paths that lost their setuid or setgid bit.
    pub stripped: Vec<String>,
    /// Uncompressed bytes of the layers.
    pub bytes: u64,
    /// Entries of the layers.
    pub entries: u64,
}

/// Unpacks the image of a layout into `to`, which must not exist yet or be empty.
///
/// Each layer's identity is checked on the way. On any error `to` is left empty. [`Error::Hostile`] names the layer and the entry.
pub fn unpack(layout: &Path, to: &Path, limits: &Limits) -> Result<Unpacked> {
    let documents = read_documents(layout, None)?;
    fs::create_dir_all(to).map_err(Error::file("create", to))?;
    if fs::read_dir(to).map_err(Error::file("list", to))?.next().is_some() {
        return Err(Error::bad(format!("{} is not empty; an image is unpacked into an empty folder", to.display())));
    }
    let result = unpack_layers(layout, to, &documents, limits);
    if result.is_err() {
        clear(to)?;
    }
    result
}

fn clear(to: &Path) -> Result<()> {
    for entry in fs::read_dir(to).map_err(Error::file("list", to))? {
        let entry = entry.map_err(Error::file("list", to))?;
        let path = entry.path();
        let is_dir = entry.file_type().map_err(Error::file("read the type of", &path))?.is_dir();
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::file("remove", &path))?;
    }
    Ok(())
}

fn unpack_layers(layout: &Path, to: &Path, documents: &Documents, limits: &Limits) -> Result<Unpacked> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, to, flags, Mode::empty()).map_err(|e| Error::file("open", to)(e.into()))?;
    let (mut bytes, mut entries, mut stripped) = (0, 0, Vec::new());
    for (descriptor, diff_id) in documents.manifest.layers.iter().zip(&documents.config.rootfs.diff_ids) {
        sized(&blobs_dir(layout), descriptor)?;
        let reader = read_layer(&blobs_dir(layout), descriptor, limits, limits.bytes - bytes)?;
        let mut layer = Layer {
            root: &root,
            to,
            descriptor,
            seen: BTreeMap::new(),
            names_left: limits.names,
            entries_left: limits.entries - entries,
            stripped: &mut stripped,
        };
        let (uncompressed, count) = layer.apply(reader)?;
        entries = limits.entries - layer.entries_left;
        bytes += count;
        if uncompressed != *diff_id {
            return Err(Error::damaged(
                descriptor.digest,
                format!("the layer unpacks to {uncompressed}, the configuration says {diff_id}"),
            ));
        }
    }
    let run = documents.config.config.clone().unwrap_or_default();
    let env = run.env.unwrap_or_default();
    Ok(Unpacked {
        manifest: documents.manifest_descriptor.digest,
        config: documents.manifest.config.digest,
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env: env.iter().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        workdir: run.working_dir.filter(|text| !text.is_empty()),
        user: run.user.filter(|text| !text.is_empty()),
        exposed: run.exposed_ports.unwrap_or_default().into_keys().collect(),
        stripped,
        bytes,
        entries,
    })
}

/// The ratio of a layer is counted from its size, so its size must be that of its file.
fn sized(blobs: &Path, descriptor: &Descriptor) -> Result<()> {
    let path = blobs.join(descriptor.digest.hex());
    let found = fs::symlink_metadata(&path).map_err(Error::file("look at layer", &path))?;
    if found.is_file() && found.len() == descriptor.size {
        return Ok(());
    }
    let why = format!("the layer is no file of {} bytes: {} has {}", descriptor.size, path.display(), found.len());
    Err(Error::damaged(descriptor.digest, why))
}

/// Splits an entry's path; an error says why it is refused.
pub(crate) fn components(path: &[u8]) -> std::result::Result<Components, String> {
    if path.starts_with(b"/") {
        return Err("its path is absolute".to_owned());
    }
    let mut parts = Components::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its path leaves the image".to_owned()),
            part if part.contains(&0) => return Err("a name in its path has a NUL".to_owned()),
            part if part.len() > 255 => return Err("a name in its path is longer than 255 bytes".to_owned()),
            part => parts.push(part.to_vec()),
        }
    }
    if parts.len() > 256 {
        return Err("it is more than 256 folders deep".to_owned());
    }
    Ok(parts)
}

/// What a whiteout entry hides.
pub(crate) enum Hidden {
    /// One path of the layers below.
    Path(Components),
    /// Everything that the layers below have in a folder.
    Below(Components),
}

impl Hidden {
    pub(crate) fn path(&self) -> &Components {
        match self {
            Self::Path(path) | Self::Below(path) => path,
        }
    }
    pub(crate) fn is_opaque(&self) -> bool {
        matches!(self, Self::Below(_))
    }
}

/// Reads `.wh.NAME` and `.wh..wh..opq` (OCI image specification, "Whiteouts").
pub(crate) fn whiteout(path: &Components) -> Option<Hidden> {
    let (last, parent) = path.split_last()?;
    let name = last.strip_prefix(b".wh.")?;
    if name == b".wh..opq" {
        return Some(Hidden::Below(parent.to_vec()));
    }
    let mut hidden = parent.to_vec();
    hidden.push(name.to_vec());
    Some(Hidden::Path(hidden))
}

/// One layer that is being applied.
struct Layer<'a> {
    root: &'a OwnedFd,
    to: &'a Path,
    descriptor: &'a Descriptor,
    /// What this layer wrote, as [`key`]; `true` for a folder.
    seen: BTreeMap<Vec<u8>, bool>,
    names_left: u64,
    entries_left: u64,
    stripped: &'a mut Vec<String>,
}

impl Layer<'_> {
    fn apply(&mut self, reader: LayerReader) -> Result<(Digest, u64)> {
        let layer = self.descriptor.digest;
        let mut archive = TarReader::new(reader);
        while let Some(entry) = archive.next_entry().map_err(|stop| stopped(layer, stop))? {
            self.entries_left = match self.entries_left.checked_sub(1) {
                Some(left) => left,
                None => return self.refuse(&entry, "the image has more entries than are allowed"),
            };
            self.entry(&entry, &mut archive)?;
        }
        let mut reader = archive.drain().map_err(|stop| stopped(layer, stop))?;
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(|error| read_failed(layer, error))?;
        let (_, digest, count) = reader.finish();
        Ok((digest, count))
    }

    fn refuse<T>(&self, entry: &Entry, why: impl Into<String>) -> Result<T> {
        Err(Error::Hostile {
            layer: self.descriptor.digest,
            entry: String::from_utf8_lossy(&entry.path).into_owned(),
            why: why.into(),
        })
    }

    /// A system call failed: the entry is refused where its cause is in the image, else the machine is at fault.
    fn failed<T>(&self, entry: &Entry, action: &'static str, error: Errno) -> Result<T> {
        match error {
            Errno::LOOP | Errno::NOTDIR => self.refuse(entry, "its parent is a symbolic link or no folder"),
            Errno::NAMETOOLONG => self.refuse(entry, "its name is too long for the file system"),
            Errno::INVAL | Errno::ILSEQ => self.refuse(entry, "its name is not possible on this file system"),
            other => Err(Error::file(action, &self.to.join(OsStr::from_bytes(&entry.path)))(other.into())),
        }
    }

    fn entry(&mut self, entry: &Entry, archive: &mut TarReader<LayerReader>) -> Result<()> {
        let path = match components(&entry.path) {
            Ok(path) => path,
            Err(why) => return self.refuse(entry, why),
        };
        if let Some(hidden) = whiteout(&path) {
            return self.hide(entry, &hidden);
        }
        let is_directory = entry.kind == Kind::Directory;
        if path.is_empty() {
            return if is_directory { Ok(()) } else { self.refuse(entry, "it would replace the root folder") };
        }
        let key = key(&path);
        self.names_left = match self.names_left.checked_sub(key.len() as u64) {
            Some(left) => left,
            None => return self.refuse(entry, "the paths of the layer are longer together than is allowed"),
        };
        if let Some(was_directory) = self.seen.insert(key, is_directory)
            && !(was_directory && is_directory)
        {
            return self.refuse(entry, "its path occurs twice in the layer");
        }
        let (name, parent) = (path[path.len() - 1].as_slice(), &path[..path.len() - 1]);
        let directory = self.parent(entry, parent)?;
        match entry.kind {
            Kind::Directory => self.make_directory(entry, &directory, name),
            Kind::File => self.write_file(entry, &directory, name, archive),
            Kind::Symlink => self.make_symlink(entry, &directory, name),
            Kind::HardLink => self.make_hard_link(entry, &directory, name),
            Kind::CharDevice | Kind::BlockDevice => self.refuse(entry, "it is a device"),
            Kind::Fifo => self.refuse(entry, "it is a FIFO"),
        }
    }

    /// Opens a folder inside, creating what is missing, following nothing.
    fn parent(&self, entry: &Entry, path: &[Vec<u8>]) -> Result<OwnedFd> {
        let mut directory = self.root.try_clone().map_err(Error::file("open", self.to))?;
        for part in path {
            directory = match open_directory(&directory, part) {
                Err(Errno::NOENT) => {
                    if let Err(error) = rustix::fs::mkdirat(&directory, part.as_slice(), Mode::from_raw_mode(0o755)) {
                        return self.failed(entry, "create the folder of", error);
                    }
                    open_directory(&directory, part).or_else(|error| self.failed(entry, "open the folder of", error))?
                }
                Err(error) => return self.failed(entry, "open the folder of", error),
                Ok(directory) => directory,
            };
        }
        Ok(directory)
    }

    fn make_directory(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        match kind_of(parent, name) {
            Ok(Some(FileType::Directory)) => {}
            Ok(Some(_)) => {
                // A folder takes the place of what a lower layer had there; it is never made through a link.
                rustix::fs::unlinkat(parent, name, AtFlags::empty())
                    .or_else(|error| self.failed(entry, "replace", error))?;
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
                    .or_else(|error| self.failed(entry, "create", error))?;
            }
            Ok(None) => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
                .or_else(|error| self.failed(entry, "create", error))?,
            Err(error) => return self.failed(entry, "look at", error),
        }
        let made = open_directory(parent, name).or_else(|error| self.failed(entry, "open", error))?;
        // The owner must be able to fill and to remove it, whoever that is here.
        let mode = Mode::from_raw_mode(entry.mode & 0o1777 | 0o700);
        self.note_stripped(entry);
        rustix::fs::fchmod(&made, mode).or_else(|error| self.failed(entry, "set the mode of", error))
    }

    fn write_file(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &[u8],
        archive: &mut TarReader<LayerReader>,
    ) -> Result<()> {
        self.make_room(entry, parent, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
            .or_else(|error| self.failed(entry, "create", error))?;
        let mut file = fs::File::from(handle);
        let path = || self.to.join(OsStr::from_bytes(&entry.path));
        let mut buffer = vec![0; BUFFER.min(usize::try_from(entry.size).unwrap_or(BUFFER))];
        loop {
            let read = archive.read(&mut buffer).map_err(|stop| stopped(self.descriptor.digest, stop))?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read]).map_err(|error| Error::file("write", &path())(error))?;
        }
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        rustix::fs::fchmod(&file, mode).or_else(|error| self.failed(entry, "set the mode of", error))?;
        self.note_stripped(entry);
        // Python and make compare modification times with those of files made from them.
        let modified = Timespec { tv_sec: i64::try_from(entry.mtime).unwrap_or(0), tv_nsec: 0 };
        let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
        let times = Timestamps { last_access: unchanged, last_modification: modified };
        rustix::fs::futimens(&file, &times).or_else(|error| self.failed(entry, "set the time of", error))
    }

    fn make_symlink(&self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        if entry.link.is_empty() {
            return self.refuse(entry, "it is a symbolic link to nothing");
        }
        self.make_room(entry, parent, name)?;
        // Where it points does not matter: nothing here follows it.
        rustix::fs::symlinkat(entry.link.as_slice(), parent, name).or_else(|error| self.failed(entry, "create", error))
    }

    fn make_hard_link(&self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        let target = match components(&entry.link) {
            Ok(target) if !target.is_empty() => target,
            Ok(_) => return self.refuse(entry, "it is a hard link to the root folder"),
            Err(why) => return self.refuse(entry, format!("it is a hard link out of the image ({why})")),
        };
        let mut directory = self.root.try_clone().map_err(Error::file("open", self.to))?;
        let (last, folders) = (target[target.len() - 1].as_slice(), &target[..target.len() - 1]);
        for part in folders {
            directory = match open_directory(&directory, part) {
                Ok(directory) => directory,
                Err(_) => {
                    return self.refuse(
                        entry,
                        format!("it is a hard link to {}, which is not a plain file in the image", shown(&target)),
                    );
                }
            };
        }
        if kind_of(&directory, last) != Ok(Some(FileType::RegularFile)) {
            return self.refuse(
                entry,
                format!("it is a hard link to {}, which is not a plain file in the image", shown(&target)),
            );
        }
        self.make_room(entry, parent, name)?;
        rustix::fs::linkat(&directory, last, parent, name, AtFlags::empty()).or_else(|error| match error {
            Errno::NOENT => self.refuse(entry, "it is a hard link to itself"),
            Errno::MLINK => self.refuse(entry, "its file has more hard links than the file system allows"),
            error => self.failed(entry, "create the hard link", error),
        })
    }

    /// Removes what a lower layer has at this name.
    fn make_room(&self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        remove(parent, name).or_else(|error| self.failed(entry, "replace", error))
    }

    fn hide(&self, entry: &Entry, hidden: &Hidden) -> Result<()> {
        let path = hidden.path();
        if path.iter().any(|part| part.is_empty() || part == b"." || part == b"..") {
            return self.refuse(entry, "it is a deletion of no name");
        }
        let (parent, name) = match hidden {
            Hidden::Below(path) => (path.as_slice(), None),
            Hidden::Path(path) => (&path[..path.len() - 1], path.last()),
        };
        let mut directory = self.root.try_clone().map_err(Error::file("open", self.to))?;
        for part in parent {
            directory = match open_directory(&directory, part) {
                Ok(directory) => directory,
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return self.failed(entry, "open the folder of", error),
            };
        }
        match name {
            Some(_) if self.brings(path) => self.refuse(entry, "it deletes what the same layer brings"),
            Some(name) => remove(&directory, name).or_else(|error| self.failed(entry, "remove", error)),
            None => self.hide_lower(&directory, path).or_else(|error| self.failed(entry, "empty the folder of", error)),
        }
    }

    /// Removes what this layer has not written itself.
    fn hide_lower(&self, directory: &OwnedFd, path: &Components) -> rustix::io::Result<()> {
        for name in names(directory)? {
            let mut below = path.clone();
            below.push(name);
            let name = below[below.len() - 1].as_slice();
            if !self.brings(&below) {
                remove(directory, name)?;
            } else if kind_of(directory, name)? == Some(FileType::Directory) {
                self.hide_lower(&open_directory(directory, name)?, &below)?;
            }
        }
        Ok(())
    }

    /// Whether this layer wrote the path or something below it.
    fn brings(&self, path: &Components) -> bool {
        let key = key(path);
        let next = self.seen.range(key.clone()..).next();
        next.and_then(|(seen, _)| seen.strip_prefix(key.as_slice())).is_some_and(|rest| matches!(rest, [] | [0, ..]))
    }

    fn note_stripped(&mut self, entry: &Entry) {
        if entry.mode & 0o6000 != 0 {
            self.stripped.push(String::from_utf8_lossy(&entry.path).into_owned());
        }
    }
}

/// A path in as few bytes as it can be. What is below a folder follows it directly, because no name has a NUL.
fn key(path: &[Vec<u8>]) -> Vec<u8> {
    path.join(&0)
}

fn open_directory(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn kind_of(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<Option<FileType>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes a file, a link or a whole folder, following nothing. Absent is fine.
fn remove(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    match kind_of(parent, name)? {
        None => Ok(()),
        Some(FileType::Directory) => {
            let directory = open_directory(parent, name)?;
            for below in names(&directory)? {
                remove(&directory, &below)?;
            }
            rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
        }
        Some(_) => rustix::fs::unlinkat(parent, name, AtFlags::empty()),
    }
}
