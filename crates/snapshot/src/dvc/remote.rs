//! An open DVC remote: asking for objects, fetching them hashed, writing them.

use super::{
    config::{Remote, Surroundings},
    folder::Folder,
    hash::{Hasher, Kind, Sum, Sums},
};
use crate::{Error, Result, error::at};
use bytes::Bytes;
use domain::event::Task;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};
use store::{Body, ByteStream, Condition, Objects};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;

/// How many questions are under way at a time.
pub(crate) const AT_ONCE: usize = 24;
/// Up to so many objects are asked for one by one; more by listing, a folder of objects at a time.
const FEW: usize = 300;

/// An open remote. Cheap to clone.
#[derive(Clone)]
pub struct Opened {
    /// The remote.
    pub remote: Remote,
    objects: Arc<dyn Objects>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({})", self.describe())
    }
}

impl Opened {
    /// Opens a remote. Nothing is sent to it yet.
    pub async fn open(remote: &Remote, surroundings: &Surroundings) -> Result<Self> {
        let objects: Arc<dyn Objects> = match (remote.foreign(surroundings)?, &remote.place) {
            (Some(foreign), _) => store::open_foreign(&foreign).await.map_err(|source| Error::DvcRemote {
                action: "open",
                remote: remote.url(),
                source: Box::new(source),
            })?,
            (None, super::Place::Folder(folder)) => Arc::new(Folder(folder.clone())),
            (None, super::Place::S3 { .. }) => {
                return Err(Error::Dvc { object: remote.url(), why: "has no way in".to_owned() });
            }
        };
        Ok(Self::over(remote.clone(), objects))
    }

    /// Over any objects, for tests.
    pub fn over(remote: Remote, objects: Arc<dyn Objects>) -> Self {
        Self { remote, objects }
    }

    /// Where it is, for people.
    pub fn describe(&self) -> String {
        self.objects.describe()
    }

    /// Waits for what was begun in the background and must not be left behind.
    pub async fn settle(&self) {
        self.objects.settle().await;
    }

    /// The key of an object.
    pub(crate) fn key(&self, kind: Kind, sum: &Sum, directory: bool) -> String {
        let below = if kind == Kind::Md5 { self.remote.objects_below() } else { "" };
        format!("{below}{}", kind.key(sum, directory))
    }

    pub(crate) fn failed(&self, action: &'static str) -> impl Fn(store::Error) -> Error + use<> {
        let remote = self.describe();
        move |source| Error::DvcRemote { action, remote: remote.clone(), source: Box::new(source) }
    }

    async fn open_object(&self, key: &str, version: Option<&str>) -> Result<Option<(u64, ByteStream)>> {
        let found = match version {
            Some(version) => self.objects.get_version(key, version).await,
            None => self.objects.get(key, None).await,
        };
        Ok(found.map_err(self.failed("read"))?.map(|(meta, body)| (meta.size, body)))
    }

    /// A small object whole; `None` when it is not there.
    pub(crate) async fn read(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        let Some((size, mut body)) = self.open_object(key, None).await? else { return Ok(None) };
        let mut all = Vec::new();
        while let Some(piece) = body.try_next().await.map_err(self.failed("read"))? {
            if all.len() as u64 + piece.len() as u64 > limit {
                let why = format!("has {size} bytes, more than the {limit} that are read");
                return Err(Error::Dvc { object: key.to_owned(), why });
            }
            all.extend_from_slice(&piece);
        }
        Ok(Some(Bytes::from(all)))
    }

    /// Fetches an object into a temporary file of `folder`, synced, with what its bytes are; `None` when it is not there.
    pub(crate) async fn fetch(
        &self,
        key: &str,
        version: Option<&str>,
        kind: Kind,
        folder: &Path,
        task: &Task,
    ) -> Result<Option<(NamedTempFile, Sums)>> {
        let Some((_, mut body)) = self.open_object(key, version).await? else { return Ok(None) };
        let temporary = tempfile::Builder::new().prefix("part-").tempfile_in(folder).map_err(at("write in", folder))?;
        let file = temporary.reopen().map_err(at("write", temporary.path()))?;
        let mut file = tokio::io::BufWriter::with_capacity(256 << 10, tokio::fs::File::from_std(file));
        let mut hasher = Hasher::new(kind);
        while let Some(piece) = body.try_next().await.map_err(self.failed("read"))? {
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(at("write", temporary.path()))?;
            task.advance(piece.len() as u64);
        }
        file.flush().await.map_err(at("write", temporary.path()))?;
        Ok(Some((temporary, hasher.finish())))
    }

    /// What the bytes of an object are; `None` when it is not there.
    pub(crate) async fn sums(&self, key: &str, task: &Task) -> Result<Option<Sums>> {
        let Some((_, mut body)) = self.open_object(key, None).await? else { return Ok(None) };
        let mut hasher = Hasher::new(Kind::Md5);
        while let Some(piece) = body.try_next().await.map_err(self.failed("read"))? {
            hasher.update(&piece);
            task.advance(piece.len() as u64);
        }
        Ok(Some(hasher.finish()))
    }

    /// The sizes of these objects, of those that are there.
    pub(crate) async fn sizes(&self, sums: &[Sum]) -> Result<HashMap<Sum, u64>> {
        if sums.len() <= FEW {
            let asked = stream::iter(sums.iter().copied()).map(|sum| async move {
                let found = self.objects.head(&self.key(Kind::Md5, &sum, false)).await;
                Ok::<_, Error>(found.map_err(self.failed("ask"))?.map(|meta| (sum, meta.size)))
            });
            let found: Vec<_> = asked.buffer_unordered(AT_ONCE).try_collect().await?;
            return Ok(found.into_iter().flatten().collect());
        }
        let mut folders: BTreeMap<String, HashMap<String, Sum>> = BTreeMap::new();
        for sum in sums {
            let key = self.key(Kind::Md5, sum, false);
            let folder = key.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
            folders.entry(folder).or_default().insert(key, *sum);
        }
        let listed = stream::iter(folders).map(|(folder, wanted)| self.list(folder, wanted));
        let found: Vec<Vec<(Sum, u64)>> = listed.buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn list(&self, folder: String, wanted: HashMap<String, Sum>) -> Result<Vec<(Sum, u64)>> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.objects.list(&folder, after.as_deref()).await.map_err(self.failed("list"))?;
            after = page.entries.last().map(|(key, _)| key.clone());
            let ours = page.entries.into_iter().filter_map(|(key, meta)| Some((*wanted.get(&key)?, meta.size)));
            found.extend(ours);
            if !page.more || after.is_none() {
                return Ok(found);
            }
        }
    }

    /// The size of one object.
    pub(crate) async fn size(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.objects.head(key).await.map_err(self.failed("ask"))?.map(|meta| meta.size))
    }

    /// Writes an object and compares what the remote says of its size.
    pub(crate) async fn put(&self, key: &str, body: Body) -> Result<()> {
        let length = body.length();
        let written = self.objects.put(key, body, Condition::None).await.map_err(self.failed("write"))?;
        if written.size == length {
            return Ok(());
        }
        let why = format!("{} of its {length} bytes were kept", written.size);
        Err(Error::DvcDamaged { object: format!("{key} at {}", self.describe()), why })
    }
}
