//! The local cache: packs, layouts, manifests and stat indexes, shared by commands that run at once.

use crate::{
    error::{Error, Result, at},
    layout::{self, LayoutReader, PackInfo, hash_rest},
    manifest::{self, ManifestReader},
};
use domain::Digest;
use std::{
    fs::File,
    io::{BufReader, Seek, SeekFrom, Write as _},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};
use tempfile::NamedTempFile;

/// Nanoseconds that the clocks of two file systems may differ by: the coarsest that is in use counts whole seconds, by twos.
const ELSEWHERE: i64 = 2_000_000_000;

/// The cache directory. Whatever has its final name is whole: files are written to `tmp`, fsynced and renamed.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    dir: PathBuf,
}

/// A held lock of a data path, released when dropped or when the process ends.
pub(crate) struct Guard {
    _cache: File,
    _data: Option<File>,
}

/// A private copy of a layout, and its packs.
pub(crate) struct OwnLayout {
    pub(crate) file: NamedTempFile,
    pub(crate) packs: Vec<PackInfo>,
}

impl Cache {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// Makes the directory, git-ignored, and takes part in it; with `data`, alone for this data path. Waits for
    /// another command that works on the same data. Temporary files of dead commands are removed by whoever is alone.
    pub(crate) fn enter(&self, data: Option<&str>) -> Result<Guard> {
        std::fs::create_dir_all(self.tmp()).map_err(at("make the directory", self.tmp()))?;
        let ignore = self.dir.join(".gitignore");
        if !ignore.exists() {
            crate::pointer::write_text(&ignore, "*\n")?;
        }
        let cache = self.lock_file("lock")?;
        let path = self.dir.join("lock");
        if cache.try_lock().is_ok() {
            for entry in std::fs::read_dir(self.tmp()).map_err(at("read", self.tmp()))?.flatten() {
                let _ = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    std::fs::remove_dir_all(entry.path())
                } else {
                    std::fs::remove_file(entry.path())
                };
            }
            cache.unlock().map_err(at("unlock", &path))?;
        }
        cache.lock_shared().map_err(at("lock", &path))?;
        let data = match data {
            Some(name) => {
                let file = self.lock_file(&format!("{name}.lock"))?;
                file.lock().map_err(at("lock", self.dir.join(format!("{name}.lock"))))?;
                Some(file)
            }
            None => None,
        };
        Ok(Guard { _cache: cache, _data: data })
    }

    /// Does something that is not worth waiting for, unless another command is changing the data path.
    pub(crate) fn if_idle(&self, data: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let lock = self.lock_file(&format!("{data}.lock"))?;
        if lock.try_lock().is_ok() { work() } else { Ok(()) }
    }

    fn lock_file(&self, name: &str) -> Result<File> {
        let path = self.dir.join(name);
        File::options().create(true).append(true).open(&path).map_err(at("open", path))
    }

    /// A new temporary file, removed unless it is committed.
    pub(crate) fn temp(&self) -> Result<NamedTempFile> {
        NamedTempFile::new_in(self.tmp()).map_err(at("write a temporary file in", self.tmp()))
    }

    /// Gives a finished temporary file its name, durably.
    pub(crate) fn commit(&self, file: NamedTempFile, to: &Path) -> Result<()> {
        file.as_file().sync_all().map_err(at("write", to))?;
        let folder = to.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(folder).map_err(at("make the directory", folder))?;
        file.persist(to).map_err(|error| at("rename", to)(error.error))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at("write", folder))
    }

    /// The clock of the file system, in nanoseconds: what a file at `data` gets as its time when it is written now. Data on another
    /// file system than the cache has another clock, or a coarser one: then it is two seconds less, so that more is read again.
    pub(crate) fn stamp(&self, data: &Path) -> Result<i64> {
        let mut file = self.temp()?;
        file.write_all(b"t").map_err(at("write", file.path()))?;
        let meta = file.as_file().metadata().map_err(at("read", file.path()))?;
        let time = meta.modified().map_err(at("read", file.path()))?;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let stamp = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        let there = data.ancestors().find_map(|near| std::fs::symlink_metadata(near).ok());
        let same = there.is_some_and(|there| there.dev() == meta.dev());
        Ok(if same { stamp } else { stamp.saturating_sub(ELSEWHERE) })
    }

    fn object(&self, family: &str, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir.join(family).join(&hex[..2]).join(hex)
    }
    pub(crate) fn pack(&self, digest: &Digest) -> PathBuf {
        self.object("packs", digest)
    }
    pub(crate) fn manifest(&self, digest: &Digest) -> PathBuf {
        self.object("snapshots", digest)
    }
    pub(crate) fn layout(&self, digest: &Digest) -> PathBuf {
        self.object("layouts", digest)
    }
    pub(crate) fn stat_index(&self, data: &str) -> PathBuf {
        self.dir.join("stat").join(data)
    }

    pub(crate) fn chunk_index(&self) -> PathBuf {
        self.dir.join("chunks")
    }

    /// The name of a data path in this cache.
    pub(crate) fn data_name(relative: &Path) -> String {
        Digest::of(relative.as_os_str().as_bytes()).hex()[..32].to_owned()
    }

    /// Opens a manifest that is there and has its digest; a damaged one is removed and counts as absent. So does one that is too
    /// large to be read, but it stays: nothing says that it is damaged.
    pub(crate) fn open_manifest(&self, digest: &Digest) -> Result<Option<ManifestReader<BufReader<File>>>> {
        let path = self.manifest(digest);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("open", path)(error)),
        };
        let size = file.metadata().map_err(at("read", &path))?.len();
        if size > manifest::LARGEST {
            return Ok(None);
        }
        if hash_rest(&mut file).map_err(at("read", &path))? != *digest {
            let _ = std::fs::remove_file(&path);
            return Ok(None);
        }
        file.seek(SeekFrom::Start(0)).map_err(at("read", &path))?;
        ManifestReader::new(BufReader::with_capacity(64 << 10, file), manifest_key(digest)).map(Some)
    }

    /// Opens a layout that is there and has its checksum; a damaged one is removed and counts as absent.
    pub(crate) fn open_layout(&self, digest: &Digest) -> Result<Option<LayoutReader>> {
        let path = self.layout(digest);
        if !path.exists() {
            return Ok(None);
        }
        match LayoutReader::open(&path, digest) {
            Ok(reader) => Ok(Some(reader)),
            Err(Error::Corrupt { .. }) => {
                let _ = std::fs::remove_file(&path);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Manifest and layout, checked against each other; `None` when either is missing.
    pub(crate) fn open(&self, digest: &Digest) -> Result<Option<(ManifestReader<BufReader<File>>, LayoutReader)>> {
        Ok(self.open_manifest(digest)?.zip(self.open_layout(digest)?))
    }

    /// The packs of a snapshot whose manifest and layout are both here.
    pub(crate) fn packs_of(&self, digest: &Digest) -> Result<Option<Vec<PackInfo>>> {
        Ok(self.open_layout(digest)?.map(|layout| layout.packs().to_vec()))
    }

    /// A copy of a layout that no other command replaces while it is being pushed: what is sent must name the packs that
    /// were sent.
    pub(crate) fn copy_layout(&self, digest: &Digest) -> Result<Option<OwnLayout>> {
        if self.open_layout(digest)?.is_none() {
            return Ok(None);
        }
        let (from, file) = (self.layout(digest), self.temp()?);
        std::fs::copy(&from, file.path()).map_err(at("copy", from))?;
        let packs = LayoutReader::open(file.path(), digest)?.packs().to_vec();
        Ok(Some(OwnLayout { file, packs }))
    }

    /// Whether a pack is here with its size. Its bytes are verified when they are read or sent.
    pub(crate) fn has_pack(&self, pack: &PackInfo) -> bool {
        std::fs::metadata(self.pack(&pack.digest)).is_ok_and(|meta| meta.len() == pack.size)
    }

    /// Whether all packs of a snapshot are here, so that nothing of it is lost with its data.
    pub(crate) fn has_packs_of(&self, digest: &Digest) -> Result<bool> {
        Ok(self.packs_of(digest)?.is_some_and(|packs| packs.iter().all(|pack| self.has_pack(pack))))
    }

    /// All packs that are here.
    pub(crate) fn packs(&self) -> Result<Vec<PackInfo>> {
        let mut packs = Vec::new();
        let top = self.dir.join("packs");
        if !top.exists() {
            return Ok(packs);
        }
        for folder in std::fs::read_dir(&top).map_err(at("read", &top))? {
            let folder = folder.map_err(at("read", &top))?.path();
            for entry in std::fs::read_dir(&folder).map_err(at("read", &folder))? {
                let entry = entry.map_err(at("read", &folder))?;
                let digest = entry.file_name().to_str().and_then(|name| name.parse().ok());
                if let (Some(digest), Ok(meta)) = (digest, entry.metadata()) {
                    packs.push(PackInfo { digest, size: meta.len() });
                }
            }
        }
        packs.sort_by_key(|pack| pack.digest);
        Ok(packs)
    }

    /// Moves a damaged pack aside, where it can be examined and is not used again.
    pub(crate) fn quarantine(&self, pack: &Digest, why: impl Into<String>) -> Error {
        let folder = self.dir.join("quarantine");
        let _ = std::fs::create_dir_all(&folder);
        let _ = std::fs::rename(self.pack(pack), folder.join(pack.hex()));
        Error::CachedPack { pack: *pack, why: why.into() }
    }

    /// The same for a layout that has its checksum and is wrong: packs that are whole say so.
    pub(crate) fn quarantine_layout(&self, snapshot: &Digest, why: String) -> Error {
        let folder = self.dir.join("quarantine");
        let _ = std::fs::create_dir_all(&folder);
        let _ = std::fs::rename(self.layout(snapshot), folder.join(format!("layout-{}", snapshot.hex())));
        Error::CachedLayout { snapshot: *snapshot, why }
    }
}

/// The key of a manifest in the store.
pub(crate) fn manifest_key(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("snapshots/{}/{hex}", &hex[..2])
}

/// The key under which something of this crate is in the store, for errors.
pub(crate) fn layout_key(digest: &Digest) -> String {
    layout::key(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_another_file_system_is_not_trusted_to_the_second() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        std::fs::create_dir_all(cache.tmp()).unwrap();
        let before = cache.stamp(&folder.path().join("not/there/yet")).unwrap();
        // Always a file system of its own.
        let elsewhere = cache.stamp(Path::new("/proc/self")).unwrap() + ELSEWHERE;
        let after = cache.stamp(folder.path()).unwrap();
        assert!(before <= elsewhere && elsewhere <= after, "{before} {elsewhere} {after}");
    }
}
