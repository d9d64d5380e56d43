//! The ledger of an environment in the store: read it, verify it, append to it.
//!
//! It is also the journal of rollouts: an intent is written before a step and its outcome after it. The create-only
//! write of entry `seq + 1` is the commit; `head.json` follows it and may lag. A writer carries the epoch of its lease,
//! and refuses to write behind an entry of a higher one.
//!
//! It knows nothing of what the entries mean; [`crate::status`] reads them as history, [`crate::rollout`] as a journal.

use crate::{
    error::{Doing, Error, Result},
    workspace::Clock,
};
use domain::{Digest, Name, manifest::Anchor};
use futures::{StreamExt, TryStreamExt, stream};
use ledger::{
    chain::{self, Chain, Draft, Entry, Head, LogId, Summary},
    keys::{SigningKey, TrustedKeys},
    statement::Subject,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};
use store::{Created, Store, Swap};

/// How many entries are read at once.
const READERS: usize = 16;

/// The ledger of one environment, for reading.
#[derive(Clone)]
pub struct Log {
    store: Store,
    environment: Name,
    trusted: TrustedKeys,
    memory: Option<PathBuf>,
}

/// One verified entry and where it stands.
#[derive(Debug, Clone)]
pub struct Record {
    /// What it says.
    pub entry: Entry,
    /// SHA-256 of its bytes.
    pub digest: Digest,
}

impl Log {
    /// The ledger of an environment. `memory` is a folder where the newest entry seen is remembered, so that a
    /// truncation is noticed.
    pub fn new(store: Store, environment: Name, trusted: TrustedKeys, memory: Option<&Path>) -> Self {
        let memory = memory.map(|folder| folder.join(format!("{environment}.json")));
        Self { store, environment, trusted, memory }
    }

    /// The environment.
    pub fn environment(&self) -> &Name {
        &self.environment
    }

    /// The newest entry: what `head.json` names, and any entry after it whose writer died before it moved the head.
    pub async fn head(&self) -> Result<Option<Head>> {
        let doing = || format!("read the ledger of {}", self.environment);
        let stored = self.store.read(&chain::head_key(&self.environment)).await.doing(doing())?;
        let mut head = match stored {
            Some(stored) => Some(self.confirm(Head::parse(&stored.bytes).doing(doing())?).await?),
            None => None,
        };
        loop {
            let seq = head.as_ref().map_or(0, |head| head.seq) + 1;
            let key = chain::entry_key(&self.environment, seq);
            let Some(next) = self.store.read(&key).await.doing(doing())? else { break };
            let (entry, _) = chain::read_entry(&next.bytes, &self.trusted).doing(format!("verify {key}"))?;
            let follows = head.as_ref().map(|head| head.digest);
            if entry.seq != seq || entry.prev != follows || *entry.log_id.environment() != self.environment {
                return Err(Error::Integrity {
                    message: format!(
                        "entry {seq} of the ledger of {} does not follow the one before it",
                        self.environment
                    ),
                });
            }
            head = Some(Head {
                v: chain::VERSION,
                log_id: entry.log_id,
                seq,
                digest: Digest::of(&next.bytes),
                epoch: entry.epoch,
                op: entry.op,
            });
        }
        self.check_memory(head.as_ref())?;
        Ok(head)
    }

    /// `head.json` is not signed: it counts only when the entry that it names is there, signed, and is that one.
    async fn confirm(&self, head: Head) -> Result<Head> {
        let key = chain::entry_key(&self.environment, head.seq);
        let broken = |what: &str| Error::Integrity {
            message: format!("the head of the ledger of {} names entry {}, which {what}", self.environment, head.seq),
        };
        let stored = self.store.read(&key).await.doing(format!("read {key}"))?.ok_or_else(|| broken("is missing"))?;
        let (entry, _) = chain::read_entry(&stored.bytes, &self.trusted).doing(format!("verify {key}"))?;
        let same = Digest::of(&stored.bytes) == head.digest
            && (entry.seq, entry.epoch, &entry.op, &entry.log_id) == (head.seq, head.epoch, &head.op, &head.log_id)
            && *entry.log_id.environment() == self.environment;
        if same { Ok(head) } else { Err(broken("is another one")) }
    }

    /// The newest entries as far back as `wanted` says yes, oldest first, each verified and linked to the one after it. It
    /// reads only those, however long the ledger is; what lies before them is not looked at.
    pub async fn newest(&self, mut wanted: impl FnMut(&Entry) -> bool) -> Result<Vec<Record>> {
        let Some(head) = self.head().await? else { return Ok(Vec::new()) };
        let mut records = Vec::new();
        let mut next = Some((head.seq, head.digest));
        while let Some((seq, digest)) = next {
            let key = chain::entry_key(&self.environment, seq);
            let stored = self.store.read(&key).await.doing(format!("read {key}"))?;
            let broken = |what: &str| Error::Integrity {
                message: format!("entry {seq} of the ledger of {} {what}", self.environment),
            };
            let stored = stored.ok_or_else(|| broken("is missing"))?;
            if Digest::of(&stored.bytes) != digest {
                return Err(broken("is not the one that the entry after it names"));
            }
            let (entry, _) = chain::read_entry(&stored.bytes, &self.trusted).doing(format!("verify {key}"))?;
            next = entry.prev.map(|prev| (seq - 1, prev)).filter(|(seq, _)| *seq > 0);
            if !wanted(&entry) {
                break;
            }
            records.push(Record { entry, digest });
        }
        records.reverse();
        Ok(records)
    }

    /// Every entry, verified as a chain.
    pub async fn records(&self) -> Result<Vec<Record>> {
        Ok(self.walk(Vec::new()).await?.0)
    }

    /// Verifies the whole chain against the head, what this client remembers, and further anchors.
    pub async fn verify(&self, anchors: Vec<Anchor>) -> Result<(Vec<Record>, Summary)> {
        self.walk(anchors).await
    }

    async fn walk(&self, anchors: Vec<Anchor>) -> Result<(Vec<Record>, Summary)> {
        let doing = || format!("verify the ledger of {}", self.environment);
        // The head is read first: entries written while we walk are then beyond it, never missing.
        let head = self.store.read(&chain::head_key(&self.environment)).await.doing(doing())?;
        let head = head.map(|head| Head::parse(&head.bytes)).transpose().doing(doing())?;
        let keys = self.store.list(&format!("ledger/{}/", self.environment)).await.doing(doing())?;
        let keys: Vec<(u64, String)> =
            keys.into_iter().filter_map(|(key, _)| chain::parse_entry_key(&key).map(|(_, seq)| (seq, key))).collect();
        let mut all: Vec<chain::Anchor> =
            anchors.into_iter().map(|anchor| chain::Anchor { seq: anchor.seq, digest: anchor.digest }).collect();
        all.extend(self.remembered()?.map(|anchor| chain::Anchor { seq: anchor.seq, digest: anchor.digest }));
        let mut chain = Chain::verifier(self.environment.clone(), self.trusted.clone(), all);
        let mut objects = stream::iter(keys)
            .map(|(seq, key)| async move {
                let object = self.store.read(&key).await.doing(format!("read {key}"))?;
                let object =
                    object.ok_or_else(|| Error::Integrity { message: format!("{key} vanished while it was read") })?;
                Ok::<_, Error>((seq, object.bytes))
            })
            .buffered(READERS);
        let mut records = Vec::new();
        while let Some((seq, bytes)) = objects.try_next().await? {
            let entry = chain.push(seq, &bytes).doing(doing())?;
            records.push(Record { entry, digest: Digest::of(&bytes) });
        }
        drop(objects);
        let summary = chain.finish(head.as_ref()).doing(doing())?;
        if let Some(last) = &summary.last {
            self.remember(last)?;
        }
        Ok((records, summary))
    }

    fn remembered(&self) -> Result<Option<Anchor>> {
        let Some(path) = &self.memory else { return Ok(None) };
        match std::fs::read(path) {
            // A torn memory is no evidence of anything; the next look writes it anew.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::File { action: "read", path: path.clone(), source: error }),
        }
    }

    fn check_memory(&self, head: Option<&Head>) -> Result<()> {
        if let Some(anchor) = self.remembered()?
            && head.is_none_or(|head| head.seq < anchor.seq)
        {
            let newest = head.map_or(0, |head| head.seq);
            return Err(Error::Integrity {
                message: format!(
                    "the ledger of {} was truncated: this host has seen entry {}, and the newest in the store is {newest}",
                    self.environment, anchor.seq
                ),
            });
        }
        Ok(())
    }

    fn remember(&self, head: &Head) -> Result<()> {
        let Some(path) = &self.memory else { return Ok(()) };
        if self.remembered()?.is_some_and(|anchor| anchor.seq >= head.seq) {
            return Ok(());
        }
        let anchor = Anchor { seq: head.seq, digest: head.digest };
        write_atomically(path, &serde_json::to_vec(&anchor).unwrap_or_default())
    }
}

/// Writes a small local file: temporary name, then rename. It is a memory or a cache, so it is not fsynced.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(Error::file("make the folder", parent))?;
    let file = tempfile::NamedTempFile::new_in(parent).map_err(Error::file("write in", parent))?;
    std::fs::write(file.path(), bytes).map_err(Error::file("write", path))?;
    file.persist(path).map_err(|error| Error::File {
        action: "replace",
        path: path.to_owned(),
        source: error.error,
    })?;
    Ok(())
}

/// A writer of one ledger, for one operation under one lease.
pub struct Journal {
    log: Log,
    key: SigningKey,
    actor: String,
    op: String,
    epoch: u64,
    head: Option<Head>,
    clock: Arc<dyn Clock>,
}

impl Journal {
    /// Opens the ledger for writing with the epoch of a lease that is held.
    pub async fn open(
        log: Log,
        key: SigningKey,
        actor: String,
        op: String,
        epoch: u64,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let head = log.head().await?;
        let mut journal = Self { log, key, actor, op, epoch, head, clock };
        journal.refuse_if_overtaken()?;
        journal.repair_head().await?;
        Ok(journal)
    }

    /// The newest entry.
    pub fn anchor(&self) -> Option<Anchor> {
        self.head.as_ref().map(|head| Anchor { seq: head.seq, digest: head.digest })
    }

    /// The epoch that writes.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The operation that writes.
    pub fn op(&self) -> &str {
        &self.op
    }

    /// The log that is written.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Appends one entry: after this it is committed and will be seen by everyone.
    pub async fn append(
        &mut self,
        action: &str,
        subject: BTreeMap<String, Value>,
        reason: &str,
        artifacts: Vec<Subject>,
    ) -> Result<Anchor> {
        let doing = || format!("write \"{action}\" to the ledger of {}", self.log.environment);
        loop {
            let log_id = match &self.head {
                Some(head) => head.log_id.clone(),
                None => LogId::new(self.log.environment.clone(), &self.op).doing(doing())?,
            };
            let draft = Draft {
                epoch: self.epoch,
                actor: self.actor.clone(),
                action: action.to_owned(),
                subject: subject.clone(),
                reason: reason.to_owned(),
                ts: self.clock.now(),
                op: self.op.clone(),
                artifacts: artifacts.clone(),
            };
            let next = chain::next_entry(&log_id, self.head.as_ref(), draft, &self.key).doing(doing())?;
            match self.log.store.create(&next.key, next.bytes.into()).await {
                Ok(Created::New | Created::Same) => {
                    let anchor = Anchor { seq: next.head.seq, digest: next.head.digest };
                    self.head = Some(next.head);
                    self.repair_head().await?;
                    return Ok(anchor);
                }
                // Someone wrote here: either a newer epoch, and we are fenced, or an older writer's last word.
                Err(store::Error::Exists { .. }) => {
                    self.head = self.log.head().await?;
                    self.refuse_if_overtaken()?;
                }
                Err(error) => return Err(error).doing(doing()),
            }
        }
    }

    fn refuse_if_overtaken(&self) -> Result<()> {
        match &self.head {
            Some(head) if head.epoch > self.epoch => Err(store::Error::Fenced {
                environment: self.log.environment.to_string(),
                ours: self.epoch,
                newest: head.epoch,
            })
            .doing(format!("write to the ledger of {}", self.log.environment)),
            _ => Ok(()),
        }
    }

    /// Moves `head.json` up to the newest entry; whoever is further is right.
    async fn repair_head(&mut self) -> Result<()> {
        let Some(head) = &self.head else { return Ok(()) };
        let doing = || format!("move the head of the ledger of {}", self.log.environment);
        let key = chain::head_key(&self.log.environment);
        let bytes = head.to_bytes().doing(doing())?;
        let mut stored = self.log.store.read(&key).await.doing(doing())?;
        loop {
            if let Some(stored) = &stored
                && Head::parse(&stored.bytes).doing(doing())?.seq >= head.seq
            {
                break;
            }
            let expected = stored.as_ref().map(|stored| stored.etag.as_str());
            match self.log.store.swap(&key, expected, bytes.clone().into()).await.doing(doing())? {
                Swap::Swapped(_) => break,
                Swap::Lost(current) => stored = current,
            }
        }
        self.log.remember(head)
    }
}
