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
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

const FORMAT: &str = "sealift-store 1\n";
const STRIPES: usize = 64;
/// Unfinished uploads older than this are cleared.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a request usually waits for others that write the same key.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How files and directories are made durable: a place for tests to let it fail.
#[derive(Debug, Clone, Copy)]
struct Disk {
    file: fn(&File) -> std::io::Result<()>,
    directory: fn(&File) -> std::io::Result<()>,
}

/// A new name is not among the data of a directory, and fdatasync may leave it behind: directories take a whole fsync.
const DISK: Disk = Disk { file: File::sync_data, directory: File::sync_all };

/// A store's directory, opened once a process.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    stripes: Vec<Stripe>,
    session: Mutex<Option<Session>>,
    next: AtomicU64,
    patience: Duration,
    disk: Disk,
}

/// One lock of many keys: the flag excludes the threads of this process, whom flock would not, and flock other processes.
#[derive(Debug, Default)]
struct Stripe {
    taken: Mutex<bool>,
    freed: Condvar,
    /// The lock file, opened when first needed.
    file: Mutex<Option<Arc<File>>>,
}

impl Stripe {
    fn file(&self, path: &Path) -> S3Result<Arc<File>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*file {
            return Ok(file.clone());
        }
        let opened = Arc::new(lock_file(path).map_err(failed("create", path))?);
        Ok(file.insert(opened).clone())
    }

    /// Takes the lock, or says that it is busy for too long.
    fn take(&self, path: &Path, patience: Duration) -> S3Result<Taken<'_>> {
        let deadline = Instant::now() + patience;
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_timeout_while(taken, patience, |taken| *taken);
        let (mut taken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(busy());
        }
        *taken = true;
        drop(taken);
        let mut held = Taken { stripe: self, file: None };
        let file = self.file(path)?;
        lock_until(&file, path, deadline)?;
        held.file = Some(file);
        Ok(held)
    }
}

/// A stripe that is held; free again when this goes.
struct Taken<'a> {
    stripe: &'a Stripe,
    file: Option<Arc<File>>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.file.take()
            && flock(&file, FlockOperation::Unlock).is_err()
        {
            // Closing it unlocks it too; the next one opens it anew.
            *self.stripe.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        *self.stripe.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.stripe.freed.notify_one();
    }
}

fn busy() -> s3s::S3Error {
    s3_error!(
        ServiceUnavailable,
        "Others are writing this key, or one of its neighbours, for too long. Please try again."
    )
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
    disk: Disk,
}

impl Temporary {
    /// Puts what was written on the disk. A failure is final: the kernel says it once, and forgets what it could not write.
    pub(super) fn sync(&self) -> S3Result<()> {
        (self.disk.file)(&self.file).map_err(failed("fsync", &self.path))
    }

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
        Self::open_within(root, PATIENCE)
    }

    /// [`Self::open`], with the time that a request waits for others that write the same key.
    pub(super) fn open_within(root: &Path, patience: Duration) -> Result<Arc<Self>> {
        Self::build(root, patience, DISK)
    }

    fn build(root: &Path, patience: Duration, disk: Disk) -> Result<Arc<Self>> {
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
        let stripes = (0..STRIPES).map(|_| Stripe::default()).collect();
        let (root, session, next) = (root.to_owned(), Mutex::new(None), AtomicU64::new(0));
        Ok(Arc::new(Self { root, stripes, session, next, patience, disk }))
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
        Ok(Temporary { file: file.map_err(failed("create", &path))?, path, placed: false, disk: self.disk })
    }

    /// A name for a directory of this process's session. What is moved there is gone for others at once, and removed when this
    /// process ends at the latest; what is made there can get its place in one step.
    pub(super) fn aside(&self) -> S3Result<PathBuf> {
        Ok(self.session()?.join(format!("d{}", self.next.fetch_add(1, Ordering::Relaxed))))
    }

    /// Clears what dead processes left, and begins a session of this one.
    pub(super) fn begin(&self) -> S3Result<()> {
        self.session().map(drop)
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
        lock_until(&door, &door_path, Instant::now() + self.patience)?;
        self.clear_dead()?;
        let path = self.root.join("tmp").join(uuid::Uuid::new_v4().to_string());
        fs::create_dir(&path).map_err(failed("create", &path))?;
        let held_path = path.join("lock");
        let held = lock_file(&held_path).map_err(failed("create", &held_path))?;
        lock_until(&held, &held_path, Instant::now() + self.patience)?;
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
            // An upload gets its place together with its description, and loses both together: one without is a leftover.
            let gone = super::uploads::is_leftover(&entry.path());
            if gone || age.is_some_and(|age| age > ABANDONED) {
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
        let path = self.root.join("locks").join(format!("{stripe:02x}"));
        let held = self.stripes[stripe].take(&path, self.patience)?;
        let result = work();
        drop(held);
        result
    }

    /// Makes a finished record the object, if the preconditions hold. It must be fsynced already.
    ///
    /// The directory is fsynced when the lock is free again, so that others who wait for it share that fsync. No writer is told of
    /// the new object, nor refused because of it, before it is durable; a reader may see it before.
    pub(super) fn commit(
        &self,
        bucket: &str,
        key: &str,
        mut new: Temporary,
        conditions: &Preconditions,
    ) -> S3Result<()> {
        let target = self.bucket(bucket).join(path_of(key));
        let (parent, result) = self.locked(bucket, key, || {
            if conditions.if_match.is_some() || conditions.if_none_match.is_some() {
                let result = conditions.check(record::open(&target)?.map(|opened| opened.record).as_ref());
                if result.is_err() {
                    return Ok((open_parent(&target), result));
                }
            }
            self.place(bucket, &mut new, &target).map(|parent| (Some(parent), Ok(())))
        })?;
        if let Some((parent, path)) = parent {
            (self.disk.directory)(&parent).map_err(failed("fsync", &path))?;
        }
        result
    }

    /// Renames; the directory that is to be fsynced then.
    fn place(&self, bucket: &str, new: &mut Temporary, target: &Path) -> S3Result<(File, PathBuf)> {
        let parent = target.parent().unwrap_or(target);
        // A delete may remove the directory that we just made, because it is empty; then it is made again.
        for _ in 0..100 {
            match fs::rename(&new.path, target) {
                Ok(()) => {
                    new.placed = true;
                    // It holds the object, so that it is there as long as the key is locked.
                    return Ok((File::open(parent).map_err(failed("open", parent))?, parent.to_owned()));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.bucket_exists(bucket)?;
                    self.make_directories(&self.bucket(bucket), parent)?;
                }
                Err(error) => return Err(failed("write", target)(error)),
            }
        }
        Err(s3_error!(OperationAborted))
    }

    /// Makes the directories from `bucket` down to `path`, durably.
    fn make_directories(&self, bucket: &Path, path: &Path) -> S3Result<()> {
        let Ok(below) = path.strip_prefix(bucket) else { return Ok(()) };
        let mut at = bucket.to_owned();
        for part in below {
            let parent = at.clone();
            at.push(part);
            match fs::create_dir(&at) {
                Ok(()) => {
                    let opened = File::open(&parent).map_err(failed("open", &parent))?;
                    (self.disk.directory)(&opened).map_err(failed("fsync", &parent))?;
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // A delete removed the empty parent meanwhile: the caller begins again.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(failed("create", &at)(error)),
            }
        }
        Ok(())
    }

    /// Removes an object; absent is fine.
    pub(super) fn remove(&self, bucket: &str, key: &str, conditions: &Preconditions) -> S3Result<()> {
        self.bucket_exists(bucket)?;
        let target = self.bucket(bucket).join(path_of(key));
        let removed = self.locked(bucket, key, || {
            if conditions.if_match.is_some() {
                conditions.check(record::open(&target)?.map(|opened| opened.record).as_ref())?;
            }
            match fs::remove_file(&target) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    return Ok(None);
                }
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
            let Some(parent) = parent else { return Ok(None) };
            match File::open(parent) {
                Ok(opened) => Ok(Some((opened, parent.to_owned()))),
                // Another delete was quicker with the empty directory, and makes that durable.
                Err(_) if !parent.exists() => Ok(None),
                Err(error) => Err(failed("open", parent)(error)),
            }
        })?;
        match removed {
            Some((parent, path)) => (self.disk.directory)(&parent).map_err(failed("fsync", &path)),
            None => Ok(()),
        }
    }
}

/// The directory of a path, for an fsync. `None` when it is gone.
fn open_parent(path: &Path) -> Option<(File, PathBuf)> {
    let parent = path.parent()?;
    Some((File::open(parent).ok()?, parent.to_owned()))
}

/// Every process on a directory must agree on it, whatever its version: FNV-1a, fixed for ever.
fn stripe(bucket: &str, key: &str) -> usize {
    let bytes = bucket.bytes().chain(*b"/").chain(key.bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    usize::try_from((hash >> 32) % STRIPES as u64).unwrap_or(0)
}

/// Locks a file against other processes, until a moment. They hold it for so short a time that asking again is waiting enough.
fn lock_until(file: &File, path: &Path, deadline: Instant) -> S3Result<()> {
    let mut pause = Duration::from_micros(50);
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() >= deadline => return Err(busy()),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
            Err(error) => return Err(failed("lock", path)(error.into())),
        }
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::embedded::receive::{Claims, receive};
    use bytes::Bytes;
    use s3s::{Body, S3ErrorCode, dto::StreamingBlob};
    use std::os::unix::fs::FileExt as _;

    fn eio(_: &File) -> std::io::Result<()> {
        Err(rustix::io::Errno::IO.into())
    }

    async fn put(directory: &Arc<Directory>, body: Vec<u8>, conditions: Preconditions) -> S3Result<()> {
        let commit = move |directory: &Directory, received: crate::embedded::receive::Received| {
            directory.commit(BUCKET, "a/key", received.temporary, &conditions)
        };
        let body = StreamingBlob::from(Body::from(Bytes::from(body)));
        receive(directory.clone(), Some(body), Claims::default(), Record::default(), commit).await
    }

    fn there(directory: &Directory) -> Option<Vec<u8>> {
        let opened = directory.open_object(BUCKET, "a/key").ok()?;
        let mut body = vec![0; usize::try_from(opened.size).unwrap()];
        opened.file.read_exact_at(&mut body, 0).unwrap();
        Some(body)
    }

    fn temporaries(directory: &Directory) -> usize {
        fs::read_dir(directory.session().unwrap()).unwrap().count() - 1
    }

    fn is_eio(error: &s3s::S3Error) {
        assert_eq!(*error.code(), S3ErrorCode::InternalError);
        let message = error.message().unwrap();
        assert!(message.contains("cannot fsync") && message.contains("Input/output error"), "{message}");
    }

    #[tokio::test]
    async fn what_cannot_be_fsynced_is_not_said_to_be_there() {
        let root = tempfile::tempdir().unwrap();
        let good = Directory::open(root.path()).unwrap();
        put(&good, b"old".to_vec(), Preconditions::default()).await.unwrap();
        let etag = good.open_object(BUCKET, "a/key").unwrap().record.etag;

        let files = Directory::build(root.path(), PATIENCE, Disk { file: eio, ..DISK }).unwrap();
        for size in [3, 5 << 20] {
            is_eio(&put(&files, vec![7; size], Preconditions::default()).await.unwrap_err());
            assert_eq!(there(&good).unwrap(), b"old", "the old object is intact");
            assert_eq!(temporaries(&files), 0);
        }

        let directories = Directory::build(root.path(), PATIENCE, Disk { directory: eio, ..DISK }).unwrap();
        // Nobody is refused because of what may not be durable.
        let absent = || Preconditions { if_none_match: Some(ETagCondition::Any), ..Preconditions::default() };
        is_eio(&put(&directories, b"new".to_vec(), absent()).await.unwrap_err());
        assert_eq!(there(&good).unwrap(), b"old");
        let matching = Preconditions { if_match: Some(ETagCondition::ETag(s3s::dto::ETag::Strong(etag))), ..absent() };
        let matching = Preconditions { if_none_match: None, ..matching };
        is_eio(&put(&directories, b"new".to_vec(), matching).await.unwrap_err());
        is_eio(&directories.remove(BUCKET, "a/key", &Preconditions::default()).unwrap_err());
        assert_eq!(temporaries(&directories), 0);
    }

    #[test]
    fn the_stripe_of_a_key_is_the_same_in_every_version() {
        assert_eq!([stripe("sealift", "a"), stripe("sealift", "refs/heads/main"), stripe("", "")], STRIPES_OF_THREE);
    }

    /// As the first version computed them: processes of two versions may write one directory.
    const STRIPES_OF_THREE: [usize; 3] = [39, 35, 12];
}
