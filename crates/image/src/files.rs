//! The files of an image to be: what goes where, and each layer's bytes.

use crate::{
    context::STATE,
    error::{Error, Result},
    layer::{BUFFER, BlobWriter, Hashing, NewEntry, Written, append_owned},
    seen::Stat,
    tree::{Components, Node, Tree, shown},
};
use domain::{Digest, config::OciFile, event::Task};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::Read,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

/// One entry of a layer to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) path: Components,
    /// User and group.
    pub(crate) owner: (u32, u32),
    pub(crate) content: Content,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Directory,
    File { from: PathBuf, mode: u32, stat: Stat },
    Symlink { target: PathBuf },
}

impl Item {
    pub(crate) fn directory(path: Components, owner: (u32, u32)) -> Self {
        Self { path, owner, content: Content::Directory }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.content == Content::Directory
    }

    pub(crate) fn bytes(&self) -> u64 {
        match &self.content {
            Content::File { stat, .. } => stat.size,
            _ => 0,
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test(path: Components, size: u64) -> Self {
        let content = Content::File { from: PathBuf::new(), mode: 0o644, stat: Stat::of_size(size) };
        Self { path, owner: (0, 0), content }
    }
}

/// Decides the entries of one `files` entry, sorted by path, and notes them in the tree.
pub(crate) fn plan(file: &OciFile, root: &Path, tree: &mut Tree) -> Result<Vec<Item>> {
    let from = root.join(&file.from);
    if let Some(mode) = file.mode.filter(|mode| mode & !0o777 != 0) {
        return Err(Error::bad_with(
            format!("files entry {:?} has mode {mode:o}", file.from),
            "only permission bits, for example 0o755",
        ));
    }
    let metadata = match fs::symlink_metadata(&from) {
        Ok(metadata) => metadata,
        Err(error) => {
            let hint = "it is looked for relative to the component's path; if a command makes it, name that under build.prepare";
            return Err(Error::bad_with(
                format!("files entry {:?} cannot be read at {}: {error}", file.from, from.display()),
                hint,
            ));
        }
    };
    let mut target = destination(&file.to)?;
    // A symbolic link that is named itself stands for what it points to, as with cp.
    let metadata =
        if metadata.is_symlink() { fs::metadata(&from).map_err(|e| unreadable(&from, &e))? } else { metadata };
    if !metadata.is_dir() && file.to.ends_with('/') {
        let name = Path::new(&file.from)
            .file_name()
            .ok_or_else(|| Error::bad(format!("files entry {:?} has no file name", file.from)))?;
        target.push(name.as_bytes().to_vec());
    }
    let last = if metadata.is_dir() { None } else { Some(file_name(&mut target, file)?) };
    let mut real = tree
        .resolve(&target)
        .map_err(|why| Error::bad(format!("files entry {:?} to {:?}: {why}", file.from, file.to)))?;
    let owner = file.owner.unwrap_or_default();
    let mut items = Vec::new();
    for end in 1..=real.len() {
        if tree.get(&real[..end]).is_none() {
            // The folder that is copied belongs to the owner named, what is above it to root.
            let itself = last.is_none() && end == real.len();
            items.push(Item::directory(real[..end].to_vec(), if itself { owner } else { (0, 0) }));
        }
    }
    match last {
        None => collect(&from, &real, file, &mut items)?,
        Some(name) => {
            real.push(name);
            items.push(item(&from, real, &metadata, file)?);
        }
    }
    // A folder that is there keeps its mode: /tmp of a base stays writable by all.
    items.retain(|item| !(item.is_directory() && tree.get(&item.path) == Some(&Node::Directory)));
    items.sort_by(|a, b| a.path.cmp(&b.path));
    for entry in &items {
        place(tree, entry)?;
    }
    Ok(items)
}

/// Takes the file's own name off its path.
fn file_name(target: &mut Components, file: &OciFile) -> Result<Vec<u8>> {
    target.pop().ok_or_else(|| {
        Error::bad_with(
            format!("files entry {:?} is a file and goes to {:?}", file.from, file.to),
            "name the file's path in the image",
        )
    })
}

fn place(tree: &mut Tree, entry: &Item) -> Result<()> {
    let node = match &entry.content {
        Content::Directory => Node::Directory,
        Content::Symlink { target } => Node::Symlink(target.as_os_str().as_bytes().to_vec()),
        Content::File { .. } => Node::Other,
    };
    let conflict = match tree.get(&entry.path) {
        Some(there) => (*there == Node::Directory) != (node == Node::Directory),
        None => false,
    };
    if conflict {
        return Err(Error::bad(format!(
            "{} would be a folder and a file at once, or replace a symbolic link by a folder",
            shown(&entry.path)
        )));
    }
    tree.insert(entry.path.clone(), node);
    Ok(())
}

fn destination(to: &str) -> Result<Components> {
    let parts: Components =
        to.split('/').filter(|part| !part.is_empty() && *part != ".").map(|part| part.as_bytes().to_vec()).collect();
    let unsafe_part = parts.iter().any(|part| part == b".." || part.contains(&0) || part.starts_with(b".wh."));
    if !to.starts_with('/') || unsafe_part {
        return Err(Error::bad_with(format!("files entry goes to {to:?}"), "write an absolute path without .. in it"));
    }
    Ok(parts)
}

fn collect(directory: &Path, path: &Components, file: &OciFile, items: &mut Vec<Item>) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(|e| unreadable(directory, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| unreadable(directory, &e))?;
        let from = entry.path();
        let name = entry.file_name().into_vec();
        if name == STATE {
            continue;
        }
        if name.starts_with(b".wh.") {
            return Err(Error::bad(format!(
                "{} cannot be in an image: names that begin with .wh. mean a deletion there",
                from.display()
            )));
        }
        let mut below = path.clone();
        below.push(name);
        let metadata = entry.metadata().map_err(|e| unreadable(&from, &e))?;
        if metadata.is_dir() {
            items.push(Item::directory(below.clone(), file.owner.unwrap_or_default()));
            collect(&from, &below, file, items)?;
        } else {
            items.push(item(&from, below, &metadata, file)?);
        }
    }
    Ok(())
}

fn item(from: &Path, path: Components, metadata: &fs::Metadata, file: &OciFile) -> Result<Item> {
    let owner = file.owner.unwrap_or_default();
    if metadata.is_symlink() {
        let target = fs::read_link(from).map_err(|e| unreadable(from, &e))?;
        return Ok(Item { path, owner, content: Content::Symlink { target } });
    }
    if !metadata.is_file() {
        return Err(Error::bad(format!("{} is neither a file, a folder nor a symbolic link", from.display())));
    }
    let executable = metadata.permissions().mode() & 0o100 != 0;
    let mode = file.mode.unwrap_or(if executable { 0o755 } else { 0o644 });
    Ok(Item { path, owner, content: Content::File { from: from.to_owned(), mode, stat: Stat::of(metadata) } })
}

pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::bad(format!("{} cannot be read: {error}", path.display()))
}

fn changed(path: &Path, how: &str) -> Error {
    Error::bad_with(
        format!("{} changed while it was read: {how}", path.display()),
        "build again when nothing writes to it",
    )
}

/// Hashes a file that is to have so many bytes.
pub(crate) fn hash_source(path: &Path, size: u64) -> Result<Digest> {
    let mut source = Hashing::new(Exactly::open(path, size, None)?);
    let outcome = std::io::copy(&mut source, &mut std::io::sink());
    let (source, digest, _) = source.finish();
    source.settle(outcome.map(drop).map_err(|error| unreadable(path, &error)))?;
    Ok(digest)
}

/// Writes one layer. `digests` are those of the sources: a file that has another by now makes it fail.
pub(crate) fn write_layer(
    items: &[Item],
    seconds: u64,
    blobs: &Path,
    digests: &HashMap<PathBuf, Digest>,
    task: &Task,
) -> Result<Written> {
    let failed = |error| Error::file("write a layer in", blobs)(error);
    let mut archive = tar::Builder::new(BlobWriter::create(blobs)?);
    for entry in items {
        let mut path = entry.path.join(&b'/');
        let (kind, link, mode) = match &entry.content {
            Content::Directory => (tar::EntryType::Directory, &b""[..], 0o755),
            Content::Symlink { target } => (tar::EntryType::Symlink, target.as_os_str().as_bytes(), 0o777),
            Content::File { mode, .. } => (tar::EntryType::Regular, &b""[..], *mode),
        };
        if kind == tar::EntryType::Directory {
            path.push(b'/');
        }
        let new = NewEntry { kind, path: &path, link, mode, mtime: seconds, size: entry.bytes() };
        match &entry.content {
            Content::File { from, stat, .. } => {
                let mut source = Hashing::new(Exactly::open(from, stat.size, Some(task))?);
                let outcome = append_owned(&mut archive, &new, entry.owner, &mut source).map_err(failed);
                let (source, digest, _) = source.finish();
                source.settle(outcome)?;
                if digests.get(from) != Some(&digest) {
                    return Err(changed(from, "its bytes are others"));
                }
            }
            _ => append_owned(&mut archive, &new, entry.owner, std::io::empty()).map_err(failed)?,
        }
    }
    archive.into_inner().map_err(failed)?.finish(blobs)
}

/// A file that must have as many bytes as were announced in its header; else the archive would be torn.
pub(crate) struct Exactly<'a> {
    file: File,
    path: PathBuf,
    size: u64,
    left: u64,
    task: Option<&'a Task>,
    failure: Option<std::io::Error>,
}

impl<'a> Exactly<'a> {
    pub(crate) fn open(path: &Path, size: u64, task: Option<&'a Task>) -> Result<Self> {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        Ok(Self { file, path: path.to_owned(), size, left: size, task, failure: None })
    }

    /// Whether it was read whole and ends there, when it was written away with this outcome.
    pub(crate) fn settle(mut self, outcome: Result<()>) -> Result<()> {
        if let Some(error) = self.failure.take() {
            return Err(unreadable(&self.path, &error));
        }
        outcome?;
        let more = self.file.read(&mut [0]).map_err(|error| unreadable(&self.path, &error))?;
        if self.left != 0 || more != 0 {
            return Err(changed(&self.path, &format!("it no longer has {} bytes", self.size)));
        }
        Ok(())
    }
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len()).min(BUFFER);
        match self.file.read(&mut buffer[..want]) {
            Ok(read) => {
                self.left -= read as u64;
                if let Some(task) = self.task.filter(|_| read > 0) {
                    task.advance(read as u64);
                }
                Ok(read)
            }
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}
