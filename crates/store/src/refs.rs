//! References: small objects that are created once, or swapped by compare-and-swap.
//!
//! An answer of 412 or 409, or none at all, does not say whether our own write happened: a request may have been carried out
//! and its answer lost, and the client below may have sent it again. So the object is read back and compared byte for byte.

use crate::{Body, Condition, Error, Meta, Result, Store, content::collect};
use bytes::Bytes;
use futures::future::join_all;
use std::{collections::BTreeSet, time::Duration};

/// References are small. Larger ones are refused, so that a damaged store cannot fill the memory.
const LIMIT: u64 = 64 * 1024 * 1024;
/// How often a 409 is tried again before it is reported.
const CONFLICTS: u32 = 6;
/// How many writers race in the probe.
const RACERS: usize = 8;

/// The result of a compare-and-swap.
#[derive(Debug, Clone)]
pub enum Swap {
    /// It is ours; the new etag.
    Swapped(String),
    /// Someone else was quicker; what is there now.
    Lost(Option<Versioned>),
}

/// A small object and the etag it was read with.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its etag.
    pub etag: String,
}

/// Whether a create-only write made the object or found it with the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// New.
    New,
    /// It was there, byte for byte the same.
    Same,
}

impl Store {
    /// Create-only with read-back. Other content there is [`Error::Exists`].
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created> {
        let mut tried = 0;
        loop {
            let failure = match self.objects.put(key, Body::Bytes(bytes.clone()), Condition::Absent).await {
                Ok(_) => return Ok(Created::New),
                Err(failure) => failure,
            };
            let certain = match failure {
                Error::Precondition { .. } | Error::Conflict { .. } => true,
                Error::Unavailable { .. } => false,
                other => return Err(other),
            };
            match self.read(key).await {
                Ok(Some(there)) if there.bytes == bytes => {
                    return Ok(if certain { Created::Same } else { Created::New });
                }
                Ok(Some(there)) => return Err(Error::Exists { key: key.to_owned(), existing: there.bytes }),
                Ok(None) if certain && tried < CONFLICTS => {}
                Ok(None) | Err(_) => return Err(failure),
            }
            tried += 1;
            pause(tried).await;
        }
    }

    /// Reads a small mutable or create-only object whole.
    pub async fn read(&self, key: &str) -> Result<Option<Versioned>> {
        let mut first = None;
        for _ in 0..2 {
            let found = match self.objects.get(key, None).await {
                // A small body is read, and compared with what the server kept of it, before it is handed on.
                Err(error @ Error::Corrupt { .. }) => {
                    first = Some(first.unwrap_or(error));
                    continue;
                }
                found => found?,
            };
            let Some((meta, body)) = found else { return Ok(None) };
            if meta.size > LIMIT {
                return Err(Error::TooLarge { key: key.to_owned(), size: meta.size, limit: LIMIT });
            }
            match collect(body, meta.size).await {
                Ok(bytes) if bytes.len() as u64 == meta.size => {
                    return Ok(Some(Versioned { bytes, etag: meta.etag }));
                }
                Ok(bytes) => {
                    let what = format!("sent {} of the {} bytes of {key}", bytes.len(), meta.size);
                    first = Some(first.unwrap_or_else(|| Error::unavailable(self.describe(), what)));
                }
                Err(error) => first = Some(first.unwrap_or(error)),
            }
        }
        Err(first.unwrap_or(Error::Missing { key: key.to_owned() }))
    }

    /// Compare-and-swap: `expected` is the etag read before, `None` that it is absent. Bodies must be unique
    /// (carry an operation UUID), so that a lost answer can be told from a lost race by reading back.
    pub async fn swap(&self, key: &str, expected: Option<&str>, bytes: Bytes) -> Result<Swap> {
        let condition = expected.map_or(Condition::Absent, |etag| Condition::Match(etag.to_owned()));
        let mut tried = 0;
        loop {
            let failure = match self.objects.put(key, Body::Bytes(bytes.clone()), condition.clone()).await {
                Ok(meta) => return Ok(Swap::Swapped(meta.etag)),
                Err(failure) => failure,
            };
            let (certain, again) = match failure {
                Error::Precondition { .. } => (true, false),
                Error::Conflict { .. } => (true, true),
                Error::Unavailable { .. } => (false, false),
                other => return Err(other),
            };
            let there = match self.read(key).await {
                Ok(there) => there,
                Err(_) if !certain => return Err(failure),
                Err(error) => return Err(error),
            };
            let unchanged = there.as_ref().map(|there| there.etag.as_str()) == expected;
            match there {
                Some(there) if there.bytes == bytes => return Ok(Swap::Swapped(there.etag)),
                // Not ours, and not yet anyone else's: the write did not happen, as far as can be seen.
                _ if unchanged && again && tried < CONFLICTS => {}
                _ if unchanged => return Err(failure),
                there => return Ok(Swap::Lost(there)),
            }
            tried += 1;
            pause(tried).await;
        }
    }

    /// All keys with this prefix, in byte order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, Meta)>> {
        let mut all: Vec<(String, Meta)> = Vec::new();
        let mut begun = BTreeSet::new();
        loop {
            let after = all.last().map(|(key, _)| key.clone());
            let page = self.objects.list(prefix, after.as_deref()).await?;
            let got = page.entries.len();
            all.extend(page.entries);
            if !page.more {
                // Some servers (SeaweedFS) walk directory by directory, `a/b` before `a-b`.
                all.sort_by(|(one, _), (other, _)| one.cmp(other));
                return Ok(all);
            }
            // By its order a server may go back to a smaller key, but never to one behind which it was asked before.
            if got == 0 || !begun.insert(all.last().map(|(key, _)| key.clone())) {
                return Err(Error::unavailable(self.describe(), endless(prefix)));
            }
        }
    }

    /// Finds out whether conditional writes hold here (a race of a few writers on a fresh key). Remembered by the
    /// caller; an [`Error::Unavailable`] in words that say so when they do not.
    pub async fn probe_conditional_writes(&self) -> Result<()> {
        let key = format!("probes/{}", uuid::Uuid::new_v4());
        let result = self.probe(&key).await;
        let cleaned = self.objects.delete(&key).await;
        result.and(cleaned)
    }

    async fn probe(&self, key: &str) -> Result<()> {
        let refused = |what: &str| {
            let what =
                format!("does not keep conditional writes ({what}), so leases and the ledger would not be safe there");
            Err(Error::unavailable(self.describe(), what))
        };
        let mut won = self.race(key, None).await?;
        let [etag] = &mut won[..] else {
            return refused(&format!("{} of {RACERS} writers each created the same object", won.len()));
        };
        match self.objects.put(key, unique(), Condition::Absent).await {
            Err(Error::Precondition { .. } | Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
            Ok(_) => return refused("an object that exists was created again"),
        }
        let stale = Condition::Match("\"00000000000000000000000000000000\"".to_owned());
        match self.objects.put(key, unique(), stale).await {
            Err(Error::Precondition { .. } | Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
            Ok(_) => return refused("a write for another version replaced the object"),
        }
        let won = self.race(key, Some(etag)).await?;
        if won.len() != 1 {
            return refused(&format!("{} of {RACERS} writers each replaced the same version", won.len()));
        }
        Ok(())
    }

    /// Lets several writers swap the same version; the etags of those that were told that they won.
    async fn race(&self, key: &str, expected: Option<&str>) -> Result<Vec<String>> {
        let racers = (0..RACERS).map(|_| self.swap(key, expected, unique_bytes()));
        let mut won = Vec::new();
        for outcome in join_all(racers).await {
            match outcome {
                Ok(Swap::Swapped(etag)) => won.push(etag),
                Ok(Swap::Lost(_)) | Err(Error::Conflict { .. } | Error::Precondition { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(won)
    }
}

/// What a server does whose pages do not get on.
pub(crate) fn endless(what: &str) -> String {
    format!("lists {what} without an end: a page with nothing new in it says that there is more")
}

fn unique_bytes() -> Bytes {
    Bytes::from(format!("{{\"probe\":\"{}\"}}\n", uuid::Uuid::new_v4()))
}

fn unique() -> Body {
    Body::Bytes(unique_bytes())
}

/// Waits before another attempt: longer each time, and not in step with others.
pub(crate) async fn pause(attempt: u32) {
    let base = 20_u64 << attempt.min(6);
    let jitter = u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * base / 255;
    tokio::time::sleep(Duration::from_millis(base / 2 + jitter)).await;
}
