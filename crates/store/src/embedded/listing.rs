//! Listings in byte order of key, with prefix, delimiter and a place to begin after.
//!
//! A record of a wrong shape does not hide the others: it is listed with no bytes and the entity tag `damaged`, which no object
//! has, so that whoever has its content sends it again, and whoever has no need of it can remove it.

use super::{
    directory::Directory,
    failed, is_damaged,
    names::{Entry, entry_of},
    record,
};
use s3s::{S3Result, s3_error};
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The entity tag of what cannot be read.
const DAMAGED_ETAG: &str = "damaged";

/// What is asked for.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) bucket: String,
    pub(super) prefix: String,
    pub(super) delimiter: Option<String>,
    /// Only what comes after this key.
    pub(super) after: String,
    /// Whether `after` is a common prefix that was listed already, so that nothing below it is wanted either.
    pub(super) after_prefix: bool,
    pub(super) limit: usize,
}

/// Where a page begins by a key: one that ends in the delimiter is the common prefix at which the last page ended.
pub(super) fn marked(
    bucket: &str,
    prefix: Option<&String>,
    delimiter: Option<&String>,
    marker: Option<&String>,
    limit: usize,
) -> Query {
    let after = marker.cloned().unwrap_or_default();
    let delimiter = delimiter.cloned().filter(|delimiter| !delimiter.is_empty());
    Query {
        bucket: bucket.to_owned(),
        prefix: prefix.cloned().unwrap_or_default(),
        after_prefix: delimiter.as_deref().is_some_and(|it| !after.is_empty() && after.ends_with(it)),
        after,
        delimiter,
        limit,
    }
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Object { key: String, size: u64, etag: String, modified_ms: u64 },
    Prefix(String),
}

impl Item {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Object { key, .. } => key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// A page: the items, and whether there are more.
pub(super) fn list(directory: &Directory, query: &Query) -> S3Result<(Vec<Item>, bool)> {
    directory.bucket_exists(&query.bucket)?;
    let mut walk = Walk { query, items: Vec::new(), more: false };
    if query.limit > 0 {
        walk.directory(&directory.bucket(&query.bucket), &mut Vec::new())?;
    }
    Ok((walk.items, walk.more))
}

struct Walk<'a> {
    query: &'a Query,
    items: Vec<Item>,
    more: bool,
}

impl Walk<'_> {
    /// Lists what is below one directory, whose keys all begin with `key`. It stops once `more` is known.
    fn directory(&mut self, path: &Path, key: &mut Vec<u8>) -> S3Result<()> {
        let begin = key.len();
        for (name, is_object, child) in entries(path)? {
            key.truncate(begin);
            key.extend_from_slice(&name);
            if is_object {
                self.object(key, &child)?;
            } else if self.may_hold(key) && !self.whole_prefix(key, &child)? {
                self.directory(&child, key)?;
            }
            if self.more {
                break;
            }
        }
        key.truncate(begin);
        Ok(())
    }

    /// Whether keys that begin with `key` can be wanted.
    fn may_hold(&self, key: &[u8]) -> bool {
        let (prefix, after) = (self.query.prefix.as_bytes(), self.query.after.as_bytes());
        let matches = key.starts_with(prefix) || prefix.starts_with(key);
        matches && (key > after || after.starts_with(key)) && !self.listed(key)
    }

    /// Whether this lies below the common prefix at which the last page ended.
    fn listed(&self, key: &[u8]) -> bool {
        self.query.after_prefix && key.starts_with(self.query.after.as_bytes())
    }

    /// The common prefix that a key falls under, if it does.
    fn common<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let delimiter = self.query.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty())?.as_bytes();
        let rest = key.get(self.query.prefix.len()..)?;
        let at = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
        Some(&key[..self.query.prefix.len() + at + delimiter.len()])
    }

    /// Lists a directory as one common prefix without walking it. False when it must be walked.
    fn whole_prefix(&mut self, key: &[u8], path: &Path) -> S3Result<bool> {
        let after = self.query.after.as_bytes();
        if self.common(key) != Some(key) || !key.starts_with(self.query.prefix.as_bytes()) || after.starts_with(key) {
            return Ok(false);
        }
        if holds_object(path)? {
            let prefix = text(key)?;
            self.push(Item::Prefix(prefix));
        }
        Ok(true)
    }

    fn object(&mut self, key: &[u8], path: &Path) -> S3Result<()> {
        let wanted = key.starts_with(self.query.prefix.as_bytes()) && key > self.query.after.as_bytes();
        if !wanted || self.listed(key) {
            return Ok(());
        }
        if let Some(common) = self.common(key) {
            if self.items.last().map(|item| item.name().as_bytes()) != Some(common) {
                let prefix = text(common)?;
                self.push(Item::Prefix(prefix));
            }
            return Ok(());
        }
        if self.items.len() == self.query.limit {
            self.more = true;
            return Ok(());
        }
        let (size, etag, modified_ms) = match record::open(path) {
            Ok(Some(opened)) => (opened.size, opened.record.etag, opened.record.modified_ms),
            // It was removed since its directory was read.
            Ok(None) => return Ok(()),
            Err(error) if is_damaged(&error) => (0, DAMAGED_ETAG.to_owned(), written(path)),
            Err(error) => return Err(error),
        };
        self.push(Item::Object { key: text(key)?, size, etag, modified_ms });
        Ok(())
    }

    fn push(&mut self, item: Item) {
        if self.items.len() == self.query.limit {
            self.more = true;
        } else {
            self.items.push(item);
        }
    }
}

/// When a file was written, in milliseconds since 1970; now, where that cannot be told.
fn written(path: &Path) -> u64 {
    let modified = fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or_else(|_| SystemTime::now());
    u64::try_from(modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn text(key: &[u8]) -> S3Result<String> {
    String::from_utf8(key.to_vec()).map_err(|_| s3_error!(InternalError, "a file name is not that of a key"))
}

/// The entries of a directory in byte order of what they stand for: name, whether it is an object, path.
fn entries(path: &Path) -> S3Result<Vec<(Vec<u8>, bool, PathBuf)>> {
    let read = match fs::read_dir(path) {
        Ok(read) => read,
        // Removed since its parent was read, because it became empty.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", path)(error)),
    };
    let mut entries = Vec::new();
    for entry in read {
        let entry = entry.map_err(failed("list", path))?;
        match entry.file_name().to_str().and_then(entry_of) {
            Some(Entry::Object(name)) => entries.push((name, true, entry.path())),
            Some(Entry::Beginning(name)) => entries.push((name, false, entry.path())),
            Some(Entry::Part(mut name)) => {
                name.push(b'/');
                entries.push((name, false, entry.path()));
            }
            // Not one of ours.
            None => {}
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

/// Whether any object is below a directory; empty ones are left by deletes.
fn holds_object(path: &Path) -> S3Result<bool> {
    for (_, is_object, child) in entries(path)? {
        if is_object || holds_object(&child)? {
            return Ok(true);
        }
    }
    Ok(false)
}
