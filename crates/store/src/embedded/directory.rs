//! The directory: buckets, temporaries, locks, and the commit of a record.

use super::{
    BUCKET, failed,
    names::path_of,
    record::{self, Opened, Record},
};
use crate::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use s3s::{S3Result, dto::ETagCondition, s3_error};
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

const FORMAT: &str = "sealift-store 1\n";
const STRIPES: usize = 64;
/// Unfinished uploads older than this are cleared.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);

/// A store's directory, opened once a process.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    /// The lock files, opened when first needed. The mutex excludes the threads of this process, whom flock would not.
    stripes: Vec<Mutex<Option<File>>>,
    session: Mutex<Option<Session>>,
    next: AtomicU64,
}

/// Where this process writes; removed when it ends, or by another process when it was killed.
#[derive(Debug)]
struct Session {
    path: PathBuf,
    _lock: File,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// What must hold for a commit.
#[derive(Debug, Default)]
pub(super) struct Preconditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
}

impl Preconditions {
    fn check(&self, existing: Option<&Record>) -> S3Result<()> {
        let same = |condition: &ETagCondition| match (condition, existing) {
            (_, None) => false,
            (ETagCondition::Any, Some(_)) => true,
            (ETagCondition::ETag(etag), Some(record)) => etag.value() == record.etag,
        };
        match (&self.if_match, &self.if_none_match) {
            (Some(_), _) if existing.is_none() => Err(s3_error!(NoSuchKey)),
            (Some(condition), _) if !same(condition) => Err(s3_error!(PreconditionFailed)),
            (_, Some(condition)) if same(condition) => Err(s3_error!(PreconditionFailed)),
            _ => Ok(()),
        }
    }
}

/// A file that is being written; it is removed unless it was committed.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) path: PathBuf,
    pub(super) file: File,
    placed: bool,
}

impl Temporary {
    /// It has another name now.
    pub(super) fn placed(&mut self) {
        self.placed = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn lock_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

pub(super) fn sync_directory(path: &Path) -> S3Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("fsync", path))
}

impl Directory {
    /// Opens the directory of a store, or makes it with its default bucket.
    pub(crate) fn open(root: &Path) -> Result<Arc<Self>> {
        let marker = root.join("format");
        match fs::read_to_string(&marker) {
            Ok(found) if found == FORMAT => {}
            Ok(found) => {
                let what = format!("has another format ({:?}) than this version reads", found.trim());
                return Err(Error::unavailable(root.display().to_string(), what));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Self::make(root, &marker)?,
            Err(error) => return Err(Error::file("read", &marker)(error)),
        }
        let stripes = (0..STRIPES).map(|_| Mutex::new(None)).collect();
        Ok(Arc::new(Self { root: root.to_owned(), stripes, session: Mutex::new(None), next: AtomicU64::new(0) }))
    }

    /// The marker gets its name when everything that it promises is durable, and is durable itself afterwards.
    fn make(root: &Path, marker: &Path) -> Result<()> {
        let sync = |path: &Path| {
            File::open(path).and_then(|directory| directory.sync_all()).map_err(Error::file("fsync", path))
        };
        let root = std::path::absolute(root).map_err(Error::file("resolve", root))?;
        let new: Vec<&Path> = root.ancestors().take_while(|path| !path.exists()).collect();
        for part in [&format!("buckets/{BUCKET}"), "uploads", "tmp", "locks"] {
            let path = root.join(part);
            fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        }
        sync(&root.join("buckets"))?;
        sync(&root)?;
        new.iter().filter_map(|path| path.parent()).try_for_each(sync)?;
        // Two processes may both come here; what they write is the same.
        let mut file = tempfile::NamedTempFile::new_in(&root).map_err(Error::file("create", &root))?;
        file.write_all(FORMAT.as_bytes()).map_err(Error::file("write", marker))?;
        file.as_file().sync_all().map_err(Error::file("fsync", marker))?;
        file.persist(marker).map_err(|failed| Error::file("rename", marker)(failed.error))?;
        sync(&root)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn bucket(&self, bucket: &str) -> PathBuf {
        self.root.join("buckets").join(bucket)
    }

    /// The names of all buckets and when they were made, in order.
    pub(super) fn buckets(&self) -> S3Result<Vec<(String, SystemTime)>> {
        let path = self.root.join("buckets");
        let mut buckets = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed("list", &path))? {
            let entry = entry.map_err(failed("list", &path))?;
            if let Ok(name) = entry.file_name().into_string() {
                let made = entry.metadata().and_then(|meta| meta.created().or_else(|_| meta.modified()));
                buckets.push((name, made.unwrap_or(SystemTime::UNIX_EPOCH)));
            }
        }
        buckets.sort();
        Ok(buckets)
    }

    pub(super) fn bucket_exists(&self, bucket: &str) -> S3Result<()> {
        if self.bucket(bucket).is_dir() { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    /// Makes a bucket; false when it is there.
    pub(super) fn make_bucket(&self, bucket: &str) -> S3Result<bool> {
        let path = self.bucket(bucket);
        match fs::create_dir(&path) {
            Ok(()) => sync_directory(&self.root.join("buckets")).map(|()| true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(failed("create", &path)(error)),
        }
    }

    /// Removes a bucket that has no object.
    pub(super) fn remove_bucket(&self, bucket: &str) -> S3Result<()> {
        self.bucket_exists(bucket)?;
        // Only empty directories go, so that an object which is put at the same time stops it.
        remove_empty(&self.bucket(bucket)).map_err(|error| match error.kind() {
            ErrorKind::DirectoryNotEmpty => s3_error!(BucketNotEmpty),
            _ => failed("remove", &self.bucket(bucket))(error),
        })
    }

    pub(super) fn open_object(&self, bucket: &str, key: &str) -> S3Result<Opened> {
        match record::open(&self.bucket(bucket).join(path_of(key)))? {
            Some(opened) => Ok(opened),
            None => self.bucket_exists(bucket).and(Err(s3_error!(NoSuchKey))),
        }
    }

    /// A new file to write, in this process's session.
    pub(super) fn temporary(&self) -> S3Result<Temporary> {
        let session = self.session()?;
        let path = session.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path);
        Ok(Temporary { file: file.map_err(failed("create", &path))?, path, placed: false })
    }

    fn session(&self) -> S3Result<PathBuf> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = &*session {
            return Ok(session.path.clone());
        }
        for part in ["tmp", "locks", "uploads"] {
            let path = self.root.join(part);
            fs::create_dir_all(&path).map_err(failed("create", &path))?;
        }
        let door_path = self.root.join("locks/sessions");
        let door = lock_file(&door_path).map_err(failed("create", &door_path))?;
        lock(&door, &door_path)?;
        self.clear_dead()?;
        let path = self.root.join("tmp").join(uuid::Uuid::new_v4().to_string());
        fs::create_dir(&path).map_err(failed("create", &path))?;
        let held_path = path.join("lock");
        let held = lock_file(&held_path).map_err(failed("create", &held_path))?;
        lock(&held, &held_path)?;
        *session = Some(Session { path: path.clone(), _lock: held });
        Ok(path)
    }

    /// Removes the sessions of dead processes and abandoned uploads. The door is locked, so no session is half made.
    fn clear_dead(&self) -> S3Result<()> {
        let sessions = self.root.join("tmp");
        for entry in fs::read_dir(&sessions).map_err(failed("list", &sessions))?.flatten() {
            let dead = match File::open(entry.path().join("lock")) {
                Ok(held) => flock(&held, FlockOperation::NonBlockingLockExclusive).is_ok(),
                // Any other failure, as being out of descriptors, says nothing of who holds it.
                Err(error) => error.kind() == ErrorKind::NotFound,
            };
            if dead {
                // What cannot be removed now is tried again by the next process.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let uploads = self.root.join("uploads");
        for entry in fs::read_dir(&uploads).map_err(failed("list", &uploads))?.flatten() {
            let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > ABANDONED) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    pub(super) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// Holds the lock of a key's stripe while `work` runs, against the threads of all processes.
    pub(super) fn locked<T>(&self, bucket: &str, key: &str, work: impl FnOnce() -> S3Result<T>) -> S3Result<T> {
        let stripe = stripe(bucket, key);
        let mut guard: MutexGuard<'_, Option<File>> =
            self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.root.join("locks").join(format!("{stripe:02x}"));
        if guard.is_none() {
            *guard = Some(lock_file(&path).map_err(failed("create", &path))?);
        }
        let Some(file) = &*guard else { return Err(s3_error!(InternalError)) };
        lock(file, &path)?;
        let result = work();
        flock(file, FlockOperation::Unlock).map_err(|error| failed("unlock", &path)(error.into()))?;
        result
    }

    /// Makes a finished record the object, if the preconditions hold. It must be fsynced already.
    pub(super) fn commit(
        &self,
        bucket: &str,
        key: &str,
        mut new: Temporary,
        conditions: &Preconditions,
    ) -> S3Result<()> {
        let target = self.bucket(bucket).join(path_of(key));
        self.locked(bucket, key, || {
            if conditions.if_match.is_some() || conditions.if_none_match.is_some() {
                conditions.check(record::open(&target)?.map(|opened| opened.record).as_ref())?;
            }
            self.place(bucket, &mut new, &target)
        })
    }

    fn place(&self, bucket: &str, new: &mut Temporary, target: &Path) -> S3Result<()> {
        let parent = target.parent().unwrap_or(target);
        // A delete may remove the directory that we just made, because it is empty; then it is made again.
        for _ in 0..100 {
            match fs::rename(&new.path, target) {
                Ok(()) => {
                    new.placed = true;
                    return sync_directory(parent);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.bucket_exists(bucket)?;
                    make_directories(&self.bucket(bucket), parent)?;
                }
                Err(error) => return Err(failed("write", target)(error)),
            }
        }
        Err(s3_error!(OperationAborted))
    }

    /// Removes an object; absent is fine.
    pub(super) fn remove(&self, bucket: &str, key: &str, conditions: &Preconditions) -> S3Result<()> {
        self.bucket_exists(bucket)?;
        let target = self.bucket(bucket).join(path_of(key));
        self.locked(bucket, key, || {
            if conditions.if_match.is_some() {
                conditions.check(record::open(&target)?.map(|opened| opened.record).as_ref())?;
            }
            match fs::remove_file(&target) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
                Err(error) => return Err(failed("remove", &target)(error)),
            }
            let bucket = self.bucket(bucket);
            let mut parent = target.parent();
            while let Some(path) = parent.filter(|path| *path != bucket) {
                if fs::remove_dir(path).is_err() {
                    break;
                }
                parent = path.parent();
            }
            parent.map_or(Ok(()), |path| match sync_directory(path) {
                // Another delete was quicker with the empty directory.
                Err(_) if !path.exists() => Ok(()),
                result => result,
            })
        })
    }
}

/// Every process on a directory must agree on it, whatever its version: FNV-1a, fixed for ever.
fn stripe(bucket: &str, key: &str) -> usize {
    let bytes = bucket.bytes().chain(*b"/").chain(key.bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    usize::try_from((hash >> 32) % STRIPES as u64).unwrap_or(0)
}

fn lock(file: &File, path: &Path) -> S3Result<()> {
    loop {
        match flock(file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed("lock", path)(error.into())),
        }
    }
}

/// Makes the directories from `bucket` down to `path`, durably.
fn make_directories(bucket: &Path, path: &Path) -> S3Result<()> {
    let Ok(below) = path.strip_prefix(bucket) else { return Ok(()) };
    let mut at = bucket.to_owned();
    for part in below {
        let parent = at.clone();
        at.push(part);
        match fs::create_dir(&at) {
            Ok(()) => sync_directory(&parent)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            // A delete removed the empty parent meanwhile: the caller begins again.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("create", &at)(error)),
        }
    }
    Ok(())
}

fn remove_empty(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        } else {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
    }
    fs::remove_dir(path)
}
