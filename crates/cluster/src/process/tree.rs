//! Copying trees and files so that they survive a crash, and who can reach them.

use crate::{Error, Result};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Copies a directory: files (as reflinks where the file system can), directories and symlinks. Setuid bits are dropped, and
/// everything is made readable, since owners are not kept. Only a `writable` copy keeps what the image lets groups and others
/// write; with `owner`, it belongs to that user.
pub(super) fn copy(from: &Path, to: &Path, writable: bool, owner: Option<u32>) -> Result<()> {
    let mode = fs::symlink_metadata(from).map_err(Error::file("read", from))?.permissions().mode();
    fs::create_dir(to).map_err(Error::file("create", to))?;
    let entries = fs::read_dir(from).map_err(Error::file("list", from))?;
    for entry in entries {
        let entry = entry.map_err(Error::file("list", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(Error::file("read", &source))?;
        if kind.is_dir() {
            copy(&source, &target, writable, owner)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&source).map_err(Error::file("read", &source))?;
            std::os::unix::fs::symlink(link, &target).map_err(Error::file("create", &target))?;
        } else if kind.is_file() {
            copy_file(&source, &target, writable)?;
            own(&target, owner)?;
        } else {
            let strange = std::io::Error::other("it is neither a file, a directory nor a symlink");
            return Err(Error::File { action: "copy", path: source, source: strange });
        }
    }
    fs::set_permissions(to, Permissions::from_mode(mode & kept(writable) | 0o755))
        .map_err(Error::file("change", to))?;
    own(to, owner)
}

/// The bits of a mode that a copy keeps.
fn kept(writable: bool) -> u32 {
    if writable { 0o777 } else { 0o755 }
}

/// Copies one file durably. It becomes readable, and executable for all if it was for anyone.
pub(super) fn copy_file(from: &Path, to: &Path, writable: bool) -> Result<()> {
    fs::copy(from, to).map_err(Error::file("copy to", to))?;
    let file = File::open(to).map_err(Error::file("open", to))?;
    let mode = file.metadata().map_err(Error::file("read", to))?.permissions().mode() & kept(writable);
    let executable = if mode & 0o111 == 0 { 0 } else { 0o111 };
    file.set_permissions(Permissions::from_mode(mode | 0o444 | executable)).map_err(Error::file("change", to))?;
    file.sync_all().map_err(Error::file("sync", to))
}

/// Gives a file to a user.
pub(super) fn own(path: &Path, owner: Option<u32>) -> Result<()> {
    match owner {
        Some(user) => std::os::unix::fs::lchown(path, Some(user), Some(user)).map_err(Error::file("give away", path)),
        None => Ok(()),
    }
}

/// Makes the directories that are missing below `root`, and `root` itself, searchable for everybody.
pub(super) fn make_dirs(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_dirs(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(Error::file("change", path)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::file("create", path)(error)),
    }
}

/// Replaces a file so that after a crash either the old or the new content is there.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(Error::file("create", &temporary))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::file("write", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::file("replace", path))?;
    path.parent().map_or(Ok(()), sync)
}

/// Makes the names in a directory durable.
pub(super) fn sync(directory: &Path) -> Result<()> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(Error::file("sync", directory))
}

/// Removes a tree if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The file of a refuge that says which path is a symlink to it. Names of projects never begin with a dot.
const ORIGIN: &str = ".origin";

/// Gives slots a home that workloads can enter: a `root` that is closed to them and not used yet becomes a symlink to a new
/// folder in `refuge`. From then on the symlink is followed, whatever becomes of the folder above it; once it is gone, so is
/// what it led to: a new one leads to a new folder, and old ones of the same path are removed unless something runs there.
pub(super) fn settle(root: &Path, refuge: &Path) -> Result<()> {
    let root = std::path::absolute(root).map_err(Error::file("resolve", root))?;
    if let Ok(home) = fs::read_link(&root) {
        return if home.starts_with(refuge) { keep(&root, &home) } else { Ok(()) };
    }
    if super::blocked_for_workloads(&root).is_none() {
        return Ok(());
    }
    // Fails if slots are in it; then they stay, and their start says what is in the way.
    match fs::remove_dir(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Ok(()),
        _ => {}
    }
    let home = refuge.join(uuid::Uuid::new_v4().to_string());
    keep(&root, &home)?;
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    }
    match std::os::unix::fs::symlink(&home, &root) {
        Ok(()) => remove_orphans(&root, &home, refuge),
        // Another writer of this very moment was quicker; its folder is as good.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => remove(&home),
        Err(error) => Err(Error::file("create", &root)(error)),
    }
}

/// A refuge that is there and says whose it is: also after it was cleared away, or after the repository was moved.
fn keep(root: &Path, home: &Path) -> Result<()> {
    make_dirs(home)?;
    let origin = home.join(ORIGIN);
    let bytes = root.as_os_str().as_encoded_bytes();
    let said = fs::read(&origin).unwrap_or_default();
    if said == bytes || (!said.is_empty() && fs::read_link(path_of(said)).is_ok_and(|link| link == home)) {
        return Ok(());
    }
    write(&origin, bytes)
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}

/// Removes the folders of `refuge` that `root` once led to, except its `home` and those from which something still runs.
fn remove_orphans(root: &Path, home: &Path, refuge: &Path) -> Result<()> {
    for entry in fs::read_dir(refuge).map_err(Error::file("list", refuge))?.flatten() {
        let orphan = entry.path();
        let is_of_root = fs::read(orphan.join(ORIGIN)).is_ok_and(|said| said == root.as_os_str().as_encoded_bytes());
        let resolved = fs::canonicalize(&orphan).unwrap_or_else(|_| orphan.clone());
        if is_of_root && orphan != home && !super::live::runs_below(&resolved) {
            remove(&orphan)?;
        }
    }
    Ok(())
}

/// Whether a user other than root could change a file or directory of this tree. What cannot be looked at counts as such.
pub(super) fn writable(user: u32, path: &Path) -> bool {
    let Ok(data) = fs::symlink_metadata(path) else { return true };
    if data.is_symlink() {
        return false; // it has no mode of its own, and where it leads is another path
    }
    if data.uid() == user || data.permissions().mode() & 0o022 != 0 {
        return true;
    }
    if !data.is_dir() {
        return false;
    }
    let Ok(mut entries) = fs::read_dir(path) else { return true };
    entries.any(|entry| entry.map_or(true, |entry| writable(user, &entry.path())))
}

/// The first existing folder on the way to `path`, itself included, that a user cannot pass through.
pub(super) fn blocked_for(user: u32, path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let mut folders: Vec<&Path> = absolute.ancestors().collect();
    folders.reverse();
    folders.into_iter().find(|folder| fs::metadata(folder).is_ok_and(|data| !passable(&data, user))).map(Path::to_owned)
}

fn passable(data: &fs::Metadata, user: u32) -> bool {
    let mode = data.permissions().mode();
    match (data.uid() == user, data.gid() == user) {
        (true, _) => mode & 0o100 != 0,
        (_, true) => mode & 0o010 != 0,
        _ => mode & 0o001 != 0,
    }
}
