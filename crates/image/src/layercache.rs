//! Layers that were made before, so that what has not changed is not compressed again.
//!
//! `layers/<key>` says which blob the layer of a key is; `layers/blobs/<hex>` are the blobs. The key covers everything that decides a layer's
//! bytes (names, owners, modes, sizes, digests, time, and how it is compressed), so a record is never out of date; it has a checksum over itself and its
//! key, so one that is damaged, or stands under another key, is none. A blob is hashed before it is used again, and one that is not what its name says is
//! made anew. Files whose names begin with `.tmp` are being written, by whomever, and are left alone until nobody has written to them for a week (see `abandoned`). Nothing here is needed: it may be removed at any time.

use crate::{
    abandoned::remove_abandoned,
    error::{Error, Result},
    files::{Content, Item},
    layer::{Written, hash_file, persist},
    tree::Components,
};
use domain::Digest;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fs, io,
    io::Write as _,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// What the key of a layer begins with. It names how layers are compressed: another backend, level or version of it that gives other bytes
/// (a test with a fixed digest tells) needs another word here.
const FORMAT: &[u8] = b"sealift layer 2, gzip 5 by zlib-rs in blocks\n";

/// Bytes of blobs that are kept at least; the least recently used go first.
const KEPT: u64 = 4 << 30;

/// What identifies a layer before it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(Digest);

impl Key {
    /// The key of these entries with this time.
    pub(crate) fn of(items: &[Item], seconds: u64, digests: &HashMap<PathBuf, Digest>) -> Result<Self> {
        let mut hash = Sha256::new();
        hash.update(FORMAT);
        hash.update(seconds.to_le_bytes());
        for Item { path, owner, content } in items {
            update_path(&mut hash, path);
            hash.update(owner.0.to_le_bytes());
            hash.update(owner.1.to_le_bytes());
            match content {
                Content::Directory => hash.update(b"d"),
                Content::Symlink { target } => {
                    hash.update(b"l");
                    update_bytes(&mut hash, target.as_os_str().as_bytes());
                }
                Content::File { from, mode, stat } => {
                    let digest =
                        digests.get(from).ok_or_else(|| Error::bad(format!("{} was not hashed", from.display())))?;
                    hash.update(b"f");
                    hash.update(mode.to_le_bytes());
                    hash.update(stat.size.to_le_bytes());
                    hash.update(digest.as_bytes());
                }
            }
        }
        Ok(Self(Digest::from_bytes(hash.finalize().into())))
    }
}

fn update_path(hash: &mut Sha256, path: &Components) {
    update_bytes(hash, &path.join(&b'/'));
}

fn update_bytes(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

#[derive(Serialize, Deserialize)]
struct Record {
    digest: Digest,
    size: u64,
    diff_id: Digest,
    /// Over all of this and the key: nothing else tells that a diff ID is another one.
    check: Digest,
}

impl Record {
    fn of(key: &Key, written: &Written) -> Self {
        let Written { digest, size, diff_id } = *written;
        Self { digest, size, diff_id, check: Self::check(key, digest, size, diff_id) }
    }

    fn check(key: &Key, digest: Digest, size: u64, diff_id: Digest) -> Digest {
        Digest::of(format!("{} {digest} {size} {diff_id}", key.0))
    }

    fn holds(&self, key: &Key) -> bool {
        self.check == Self::check(key, self.digest, self.size, self.diff_id)
    }
}

/// The folder of layers that were made before.
#[derive(Debug)]
pub(crate) struct LayerCache {
    records: PathBuf,
    blobs: PathBuf,
}

impl LayerCache {
    pub(crate) fn open(cache: &Path) -> Result<Self> {
        let records = cache.join("layers");
        let blobs = records.join("blobs");
        fs::create_dir_all(&blobs).map_err(Error::file("create", &blobs))?;
        remove_abandoned(&records);
        remove_abandoned(&blobs);
        Ok(Self { records, blobs })
    }

    fn record(&self, key: &Key) -> Option<Record> {
        let read = fs::read(self.records.join(key.0.hex())).ok();
        read.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok()).filter(|record| record.holds(key))
    }

    /// Whether the layer of a key was made before. Only [`LayerCache::take`] finds out whether it is still what it was.
    pub(crate) fn knows(&self, key: &Key) -> bool {
        self.record(key).is_some()
    }

    /// Puts the layer of a key into a layout, when it was made before and is still what it was.
    pub(crate) fn take(&self, key: &Key, layout_blobs: &Path) -> Result<Option<Written>> {
        let path = self.records.join(key.0.hex());
        let Some(record) = self.record(key) else { return Ok(None) };
        let (kept, to) = (self.blobs.join(record.digest.hex()), layout_blobs.join(record.digest.hex()));
        match link(&kept, &to) {
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        }
        if hash_file(&to)? != (record.digest, record.size) {
            for wrong in [&path, &kept, &to] {
                remove(wrong)?;
            }
            return Ok(None);
        }
        touch(&kept);
        touch(&path);
        Ok(Some(Written { digest: record.digest, size: record.size, diff_id: record.diff_id }))
    }

    /// Remembers a layer that was just written into a layout.
    pub(crate) fn keep(&self, key: &Key, written: &Written, layout_blobs: &Path) -> Result<()> {
        let name = written.digest.hex();
        link(&layout_blobs.join(&name), &self.blobs.join(&name))?;
        let record = Record::of(key, written);
        let mut file =
            tempfile::NamedTempFile::new_in(&self.records).map_err(Error::file("create a file in", &self.records))?;
        let path = self.records.join(key.0.hex());
        file.write_all(&crate::layout::to_json(&record)?).map_err(Error::file("write", &path))?;
        persist(file, &path)
    }

    /// Removes what was not used for longest, when there is more than `KEPT` and more than twice of what was just built.
    pub(crate) fn trim(&self, built: u64) -> Result<()> {
        self.trim_to(KEPT.max(built.saturating_mul(2)))
    }

    fn trim_to(&self, most: u64) -> Result<()> {
        let mut blobs = files_of(&self.blobs)?;
        let mut bytes: u64 = blobs.iter().map(|(_, size, _)| size).sum();
        if bytes <= most {
            return Ok(());
        }
        blobs.sort_by_key(|(_, _, used)| *used);
        for (path, size, _) in blobs {
            if bytes <= most {
                break;
            }
            remove(&path)?;
            bytes -= size;
        }
        for (path, ..) in files_of(&self.records)? {
            let record = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            if record.is_none_or(|record| !self.blobs.join(record.digest.hex()).exists()) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

fn files_of(folder: &Path) -> Result<Vec<(PathBuf, u64, SystemTime)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::file("list", folder))? {
        let entry = entry.map_err(Error::file("list", folder))?;
        if entry.file_name().as_bytes().starts_with(b".tmp") {
            continue; // another build is writing it
        }
        // One that another build has just removed is no file of this folder any more.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() {
            files.push((entry.path(), metadata.len(), metadata.modified().map_err(Error::file("look at", folder))?));
        }
    }
    Ok(files)
}

/// Marks as just used. A failure only makes it go earlier.
fn touch(path: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let _ =
        rustix::fs::utimensat(CWD, path, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty());
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Gives a blob a second place: a hard link where that is possible, else a copy. What was there is replaced.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    remove(to)?;
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        // Another build of the same layer was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::file("link a layer to", to)(error)),
        Err(_) => copy(from, to),
    }
}

/// Copies a blob, visible only when it is whole.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(folder).map_err(Error::file("create a file in", folder))?;
    fs::copy(from, file.path()).map_err(Error::file("copy a blob to", to))?;
    persist(file, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::BlobWriter;

    fn layer(blobs: &Path, text: &str) -> Written {
        let mut blob = BlobWriter::create(blobs).unwrap();
        blob.write_all(text.as_bytes()).unwrap();
        blob.finish(blobs).unwrap()
    }

    fn key(number: u64) -> Key {
        Key::of(&[], number, &HashMap::new()).unwrap()
    }

    #[test]
    fn a_layer_is_taken_again_and_a_damaged_one_is_not() {
        let (cache, one, two) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let layers = LayerCache::open(cache.path()).unwrap();
        let written = layer(one.path(), "text");
        assert!(layers.take(&key(1), two.path()).unwrap().is_none() && !layers.knows(&key(1)));
        layers.keep(&key(1), &written, one.path()).unwrap();
        assert!(layers.knows(&key(1)) && !layers.knows(&key(2)));
        let taken = layers.take(&key(1), two.path()).unwrap().unwrap();
        assert_eq!((taken.digest, taken.size, taken.diff_id), (written.digest, written.size, written.diff_id));
        assert!(layers.take(&key(2), two.path()).unwrap().is_none());
        let kept = layers.blobs.join(written.digest.hex());
        let mut bytes = fs::read(&kept).unwrap();
        bytes[12] ^= 1;
        fs::write(&kept, bytes).unwrap();
        assert!(layers.take(&key(1), two.path()).unwrap().is_none());
        assert!(!kept.exists() && !two.path().join(written.digest.hex()).exists());
    }

    #[test]
    fn a_record_that_was_changed_or_moved_is_none() {
        let (cache, layout) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let layers = LayerCache::open(cache.path()).unwrap();
        let written = layer(layout.path(), "text");
        layers.keep(&key(1), &written, layout.path()).unwrap();
        let record = |number: u64| layers.records.join(key(number).0.hex());
        fs::copy(record(1), record(2)).unwrap();
        assert!(layers.take(&key(2), layout.path()).unwrap().is_none());
        assert!(layers.take(&key(1), layout.path()).unwrap().is_some());
        let text = fs::read_to_string(record(1)).unwrap();
        let changed = text.replace(&written.diff_id.hex(), &Digest::of(b"another").hex());
        assert_ne!(changed, text);
        fs::write(record(1), changed).unwrap();
        assert!(layers.take(&key(1), layout.path()).unwrap().is_none());
    }

    #[test]
    fn what_is_being_written_is_not_removed() {
        let (cache, layout) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let layers = LayerCache::open(cache.path()).unwrap();
        layers.keep(&key(1), &layer(layout.path(), "text"), layout.path()).unwrap();
        let (record, blob) = (
            tempfile::NamedTempFile::new_in(&layers.records).unwrap(),
            tempfile::NamedTempFile::new_in(&layers.blobs).unwrap(),
        );
        layers.trim_to(0).unwrap();
        assert!(record.path().exists() && blob.path().exists());
        assert!(layers.take(&key(1), layout.path()).unwrap().is_none());
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let (cache, layout) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let layers = LayerCache::open(cache.path()).unwrap();
        for number in 0..4u64 {
            let written = layer(layout.path(), &format!("text {number}"));
            layers.keep(&key(number), &written, layout.path()).unwrap();
            let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + number);
            fs::File::open(layers.blobs.join(written.digest.hex())).unwrap().set_modified(old).unwrap();
        }
        let all = files_of(&layers.blobs).unwrap();
        layers.take(&key(0), layout.path()).unwrap().unwrap();
        layers.trim_to(all.iter().map(|(_, size, _)| size).sum::<u64>() / 2).unwrap();
        let there: Vec<bool> =
            (0..4).map(|number| layers.take(&key(number), layout.path()).unwrap().is_some()).collect();
        assert_eq!(there, [true, false, false, true]);
        assert_eq!(files_of(&layers.records).unwrap().len(), 2);
    }
}
