//! A DVC remote that is a folder of this host: plain files under the keys of the objects.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use std::{
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use store::{Body, ByteStream, Condition, Error, Meta, Objects, Page, Result};

/// A folder; it is made by the first write.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

const PIECE: u64 = 1 << 20;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}

async fn blocking<T: Send + 'static>(path: &Path, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|stopped| failed("use", path)(std::io::Error::other(stopped)))?
}

fn meta(found: &std::fs::Metadata) -> Meta {
    Meta { size: found.len(), etag: String::new(), modified: found.modified().ok() }
}

/// Nothing there, or a folder where an object would be.
fn absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

#[async_trait]
impl Objects for Folder {
    fn describe(&self) -> String {
        self.0.display().to_string()
    }

    async fn head(&self, key: &str) -> Result<Option<Meta>> {
        let path = self.0.join(key);
        match tokio::fs::metadata(&path).await {
            Ok(found) if found.is_file() => Ok(Some(meta(&found))),
            Ok(_) => Ok(None),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Option<(Meta, ByteStream)>> {
        let Some(found) = self.head(key).await? else { return Ok(None) };
        let path = self.0.join(key);
        let opened = path.clone();
        let range = range.unwrap_or(0..found.size);
        let begin = range.start;
        let file = blocking(&path, move || {
            let mut file = std::fs::File::open(&opened).map_err(failed("read", &opened))?;
            file.seek(SeekFrom::Start(begin)).map_err(failed("read", &opened))?;
            Ok(file)
        })
        .await?;
        let left = range.end.min(found.size).saturating_sub(begin);
        let body = stream::try_unfold((file, left), move |(mut file, left)| {
            let path = path.clone();
            async move {
                if left == 0 {
                    return Ok(None);
                }
                let opened = path.clone();
                blocking(&path, move || {
                    let mut piece = Vec::new();
                    let count = (&mut file).take(left.min(PIECE)).read_to_end(&mut piece);
                    let count = count.map_err(failed("read", &opened))? as u64;
                    let left = if count == 0 { 0 } else { left - count };
                    Ok((count > 0).then(|| (Bytes::from(piece), (file, left))))
                })
                .await
            }
        });
        Ok(Some((found, body.boxed())))
    }

    async fn put(&self, key: &str, body: Body, condition: Condition) -> Result<Meta> {
        let path = self.0.join(key);
        if condition != Condition::None {
            let source = std::io::Error::from(std::io::ErrorKind::Unsupported);
            return Err(failed("write by a condition", &path)(source));
        }
        // Small bodies come as bytes; a file is copied piece by piece and must be what it was.
        let source = match &body {
            Body::Bytes(bytes) => Err(bytes.clone()),
            Body::Sealed { path, digest, .. } => Ok((path.clone(), Some(*digest))),
            Body::File { path, .. } => Ok((path.clone(), None)),
        };
        let (to, length) = (path.clone(), body.length());
        blocking(&path, move || write(&to, source, length)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        let (root, prefix, after) = (self.0.clone(), prefix.to_owned(), after.map(str::to_owned));
        blocking(&self.0, move || {
            let mut entries = Vec::new();
            let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
            let mut folders = vec![folder];
            while let Some(folder) = folders.pop() {
                let path = root.join(&folder);
                let found = match std::fs::read_dir(&path) {
                    Ok(found) => found,
                    Err(error) if absent(&error) => continue,
                    Err(error) => return Err(failed("list", &path)(error)),
                };
                for entry in found {
                    let entry = entry.map_err(failed("list", &path))?;
                    let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
                    let key = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                    let found = std::fs::metadata(entry.path()).map_err(failed("read", &entry.path()))?;
                    if found.is_dir() {
                        folders.push(key);
                    } else if key.starts_with(&prefix) && after.as_ref().is_none_or(|after| key > *after) {
                        entries.push((key, meta(&found)));
                    }
                }
            }
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(Page { entries, more: false })
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let path = self.0.join(key);
        match tokio::fs::remove_file(&path).await {
            Err(error) if !absent(&error) => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

type Source = std::result::Result<(PathBuf, Option<domain::Digest>), Bytes>;

/// Writes an object by a temporary name, synced; read-only, as DVC's own are.
fn write(path: &Path, source: Source, length: u64) -> Result<Meta> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(failed("make the directory", folder))?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".sealift-")
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(failed("write", path))?;
    let mut written = 0;
    match source {
        Err(bytes) => {
            temporary.write_all(&bytes).map_err(failed("write", path))?;
            written += bytes.len() as u64;
        }
        Ok((from, expected)) => {
            let mut file = std::fs::File::open(&from).map_err(failed("read", &from))?;
            let mut hasher = super::hash::Hasher::new(super::hash::Kind::Md5);
            let mut buffer = vec![0; 256 << 10];
            loop {
                let count = file.read(&mut buffer).map_err(failed("read", &from))?;
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
                temporary.write_all(&buffer[..count]).map_err(failed("write", path))?;
                written += count as u64;
            }
            let found = hasher.finish().sha256;
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                return Err(Error::Changed { path: from, expected, found });
            }
        }
    }
    if written != length {
        let source =
            std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "what was to be written changed its length");
        return Err(failed("write", path)(source));
    }
    temporary.as_file().sync_all().map_err(failed("sync", path))?;
    temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o444)).map_err(failed("write", path))?;
    let file = temporary.persist(path).map_err(|error| failed("rename", path)(error.error))?;
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(failed("sync", folder))?;
    file.metadata().map(|found| meta(&found)).map_err(failed("read", path))
}
