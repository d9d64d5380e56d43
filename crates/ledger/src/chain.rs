//! The ledger of an environment: a chain of signed entries, and the verifier that names where it breaks.
//!
//! Each entry is a bundle under its own create-only key; it holds the SHA-256 of the exact bytes of the one before it,
//! and the identity of its log, so an entry fits in one place only. What the chain alone cannot show is a missing *end*:
//! for that there are anchors (the head object, the head inside every sealed manifest, a remembered maximum).
//!
//! No entry is believed because the store says so. The head object is not signed and proves nothing by itself: it may
//! lag behind (the write of an entry is the commit, the head follows), never lead.

use crate::{
    LedgerError,
    bundle::{self, Bundle, Verified},
    json,
    keys::{SigningKey, TrustedKeys},
    statement::{Statement, Subject, predicate_type},
};
use domain::{Digest, Name};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, str::FromStr};

/// The version of the entry and head formats.
pub const VERSION: u32 = 1;
/// No head object larger than this is read.
pub const MAX_HEAD_BYTES: usize = 64 << 10;

/// The identity of one log, fixed by its first entry: the environment, and a UUID, so that a log that was begun anew
/// under the same name is another one. Written `ENVIRONMENT/UUID`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    environment: Name,
    uuid: String,
}

impl LogId {
    /// The identity of a log; the UUID is the caller's, in lower-case hex with hyphens.
    pub fn new(environment: Name, uuid: &str) -> Result<Self, LedgerError> {
        format!("{environment}/{uuid}").parse()
    }

    /// The environment whose log it is.
    pub fn environment(&self) -> &Name {
        &self.environment
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.environment, self.uuid)
    }
}
impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for LogId {
    type Err = LedgerError;
    fn from_str(text: &str) -> Result<Self, LedgerError> {
        let bad = || LedgerError::BadLogId { text: text.chars().take(120).collect() };
        let (environment, uuid) = text.split_once('/').ok_or_else(bad)?;
        let shape = uuid.len() == 36
            && uuid.bytes().enumerate().all(|(index, byte)| match index {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        let environment = environment.parse().map_err(|_| bad())?;
        if shape { Ok(Self { environment, uuid: uuid.to_owned() }) } else { Err(bad()) }
    }
}
impl Serialize for LogId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for LogId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The predicate of a ledger entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// [`VERSION`].
    pub v: u32,
    /// Which log.
    pub log_id: LogId,
    /// Its place, from 1.
    pub seq: u64,
    /// The SHA-256 of the exact bytes of the previous entry's bundle; none for the first.
    pub prev: Option<Digest>,
    /// The writer's epoch; it never goes down.
    pub epoch: u64,
    /// Who did it: a person or a job.
    pub actor: String,
    /// What was done, such as `deploy.intent`.
    pub action: String,
    /// To what, and with which details.
    pub subject: BTreeMap<String, Value>,
    /// Why.
    pub reason: String,
    /// When, by the writer's clock. Order comes from `seq`, never from this.
    pub ts: Timestamp,
    /// The operation's UUID, by which a lost answer is reconciled.
    pub op: String,
}

/// What the caller says in an entry; place and links are added by [`next_entry`].
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// See [`Entry::epoch`].
    pub epoch: u64,
    /// See [`Entry::actor`].
    pub actor: String,
    /// See [`Entry::action`].
    pub action: String,
    /// See [`Entry::subject`].
    pub subject: BTreeMap<String, Value>,
    /// See [`Entry::reason`].
    pub reason: String,
    /// See [`Entry::ts`].
    pub ts: Timestamp,
    /// See [`Entry::op`].
    pub op: String,
    /// The artifacts that it is about, as in-toto subjects. With none, the log itself is the subject: its identity
    /// and the SHA-256 of that text.
    pub artifacts: Vec<Subject>,
}

/// The newest entry of a log: the content of `ledger/<env>/head.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// [`VERSION`].
    pub v: u32,
    /// Which log.
    pub log_id: LogId,
    /// The sequence of the newest entry.
    pub seq: u64,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// Its epoch.
    pub epoch: u64,
    /// Its operation.
    pub op: String,
}

impl Head {
    /// The object's bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, LedgerError> {
        let value = serde_json::to_value(self).map_err(|error| LedgerError::Unsignable { why: error.to_string() })?;
        json::canonical(&value)
    }

    /// Reads the object's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LedgerError> {
        let value = json::parse("head", bytes, MAX_HEAD_BYTES)?;
        let wrong = |why: String| LedgerError::Json { what: "head", why };
        let head: Self = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
        if head.v != VERSION {
            return Err(wrong(format!("its version is {}, and this program reads {VERSION}", head.v)));
        }
        if head.seq == 0 {
            return Err(wrong("its seq is 0, and entries are counted from 1".to_owned()));
        }
        Ok(head)
    }

    /// This head as something to remember.
    pub fn anchor(&self) -> Anchor {
        Anchor { seq: self.seq, digest: self.digest }
    }
}

/// An entry that is known to have been there: from a sealed manifest, another bucket, or a client's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Its sequence.
    pub seq: u64,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
}

/// The store key of an entry.
pub fn entry_key(environment: &Name, seq: u64) -> String {
    format!("ledger/{environment}/{seq:020}.sigstore.json")
}

/// The store key of the head.
pub fn head_key(environment: &Name) -> String {
    format!("ledger/{environment}/head.json")
}

/// The environment and sequence of an entry's key; none for any other key, the head's included.
pub fn parse_entry_key(key: &str) -> Option<(Name, u64)> {
    let (environment, file) = key.strip_prefix("ledger/")?.split_once('/')?;
    let digits = file.strip_suffix(".sigstore.json")?;
    let exact = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((environment.parse().ok()?, digits.parse().ok().filter(|_| exact)?))
}

/// An entry ready to be written: first create-only under `key`, which commits it, then the head by compare-and-swap.
#[derive(Debug, Clone, PartialEq)]
pub struct NextEntry {
    /// Its store key.
    pub key: String,
    /// The bundle.
    pub bytes: Vec<u8>,
    /// What it says.
    pub entry: Entry,
    /// The head once it is written.
    pub head: Head,
}

/// Signs the entry that follows `previous`, or the first of a log.
pub fn next_entry(
    log_id: &LogId,
    previous: Option<&Head>,
    draft: Draft,
    key: &SigningKey,
) -> Result<NextEntry, LedgerError> {
    let unsignable = |why: String| Err(LedgerError::Unsignable { why });
    for (field, text) in [("actor", &draft.actor), ("action", &draft.action), ("op", &draft.op)] {
        if text.is_empty() {
            return unsignable(format!("a ledger entry needs its {field}"));
        }
    }
    if let Some(head) = previous {
        if head.log_id != *log_id {
            return unsignable(format!("the head belongs to the log {}, not {log_id}", head.log_id));
        }
        if draft.epoch < head.epoch {
            return unsignable(format!("epoch {} is below the ledger's {}", draft.epoch, head.epoch));
        }
    }
    let entry = Entry {
        v: VERSION,
        log_id: log_id.clone(),
        seq: previous.map_or(0, |head| head.seq) + 1,
        prev: previous.map(|head| head.digest),
        epoch: draft.epoch,
        actor: draft.actor,
        action: draft.action,
        subject: draft.subject,
        reason: draft.reason,
        ts: draft.ts,
        op: draft.op,
    };
    let subjects = if draft.artifacts.is_empty() {
        vec![Subject::new(log_id.to_string(), Digest::of(log_id.to_string()))]
    } else {
        draft.artifacts
    };
    let statement =
        Statement { subjects, predicate_type: predicate_type::LEDGER_ENTRY.to_owned(), predicate: entry.clone() };
    let signed = Bundle::sign(key, &statement)?;
    let head = Head {
        v: VERSION,
        log_id: log_id.clone(),
        seq: entry.seq,
        digest: signed.digest(),
        epoch: entry.epoch,
        op: entry.op.clone(),
    };
    Ok(NextEntry { key: entry_key(log_id.environment(), entry.seq), bytes: signed.into_bytes(), entry, head })
}

/// Verifies one entry by itself: signature, type and format, not its place in the chain.
pub fn read_entry(bytes: &[u8], trusted: &TrustedKeys) -> Result<(Entry, Verified), LedgerError> {
    let verified = bundle::verify(bytes, trusted)?;
    let entry: Entry = verified.predicate(predicate_type::LEDGER_ENTRY)?;
    if entry.v != VERSION {
        let why = format!("its version is {}, and this program reads {VERSION}", entry.v);
        return Err(LedgerError::Json { what: "predicate", why });
    }
    Ok((entry, verified))
}

/// What was done to a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// The object is not what was signed.
    #[error("it was edited: {0}")]
    Edited(Box<LedgerError>),
    /// The object is signed, by someone else.
    #[error("it is signed by a wrong key: {0}")]
    WrongKey(Box<LedgerError>),
    /// The object is gone while later ones are there.
    #[error("it was deleted: the next entry that exists is {next}")]
    Deleted {
        /// The next sequence that there is.
        next: u64,
    },
    /// The objects were given or named out of order.
    #[error("it is out of order: it was given after entry {after}")]
    OutOfOrder {
        /// The sequence before it.
        after: u64,
    },
    /// The object under this sequence holds the entry of another one.
    #[error("its object holds entry {holds}: entries were reordered or renamed")]
    Reordered {
        /// The sequence inside.
        holds: u64,
    },
    /// Two histories: what follows was not written after this entry but after another one.
    #[error(
        "the history forks here: entry {next} follows {}, but {} is stored",
        or_nothing(follows),
        or_nothing(stored)
    )]
    Forked {
        /// The entry with the link.
        next: u64,
        /// The previous entry as the link names it.
        follows: Option<Digest>,
        /// The previous entry as it is.
        stored: Option<Digest>,
    },
    /// Another entry was here when it was anchored.
    #[error("it was rewritten: {by} names {anchored}, but {stored} is stored")]
    Rewritten {
        /// `an anchor` or `the head`.
        by: &'static str,
        /// The digest anchored.
        anchored: Digest,
        /// The digest found.
        stored: Digest,
    },
    /// The end is gone.
    #[error("the ledger was truncated: it is missing, although {by} names entry {named}")]
    Truncated {
        /// `an anchor` or `the head`.
        by: &'static str,
        /// The last sequence that must exist.
        named: u64,
    },
    /// The entry is another environment's.
    #[error("it belongs to the environment {found}: it was swapped in")]
    OtherEnvironment {
        /// The environment inside.
        found: Name,
    },
    /// The entry is of another log of the same environment.
    #[error("it belongs to the log {found}, not {expected}: it was swapped in")]
    OtherLog {
        /// The log inside.
        found: LogId,
        /// This log.
        expected: LogId,
    },
    /// A fenced writer wrote.
    #[error("its epoch {epoch} is below {before}, that of the entry before it: a fenced writer wrote it")]
    EpochDown {
        /// Its epoch.
        epoch: u64,
        /// The epoch before.
        before: u64,
    },
    /// The head names this entry with another epoch or operation.
    #[error("the head names it with another epoch or operation")]
    HeadDiffers,
}

fn or_nothing(digest: &Option<Digest>) -> String {
    digest.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string())
}

/// What a chain that holds is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How many entries there are.
    pub entries: u64,
    /// The newest entry; none in an empty ledger.
    pub last: Option<Head>,
    /// Up to which sequence a head or an anchor proves that nothing was cut off; 0 without either.
    pub anchored: u64,
    /// By how many entries the head object lags behind, which a crash can leave and the next writer mends.
    pub head_lag: u64,
}

/// Verifies a chain entry by entry. After an error it has nothing more to say: the chain is broken there.
#[derive(Debug, Clone)]
pub struct Chain {
    environment: Name,
    trusted: TrustedKeys,
    anchors: BTreeMap<u64, Vec<Digest>>,
    log_id: Option<LogId>,
    digests: Vec<Digest>,
    last: Option<Head>,
}

impl Chain {
    /// Begins to verify the ledger of an environment.
    pub fn verifier(environment: Name, trusted: TrustedKeys, anchors: Vec<Anchor>) -> Self {
        let mut by_seq: BTreeMap<u64, Vec<Digest>> = BTreeMap::new();
        for anchor in anchors {
            by_seq.entry(anchor.seq).or_default().push(anchor.digest);
        }
        Self { environment, trusted, anchors: by_seq, log_id: None, digests: Vec::new(), last: None }
    }

    /// Demands that it is this log, and not merely one of this environment.
    pub fn expect_log(mut self, log_id: LogId) -> Self {
        self.log_id = Some(log_id);
        self
    }

    /// Takes the next object: the sequence of its key, and its bytes. Keys come in ascending order.
    pub fn push(&mut self, seq: u64, bytes: &[u8]) -> Result<Entry, LedgerError> {
        let expected = self.digests.len() as u64 + 1;
        if seq > expected {
            return Err(self.fault(expected, ChainFault::Deleted { next: seq }));
        }
        if seq < expected {
            return Err(self.fault(seq, ChainFault::OutOfOrder { after: expected - 1 }));
        }
        let (entry, verified) = read_entry(bytes, &self.trusted).map_err(|error| {
            let fault = match error {
                LedgerError::UntrustedKey { .. } => ChainFault::WrongKey(Box::new(error)),
                error => ChainFault::Edited(Box::new(error)),
            };
            self.fault(seq, fault)
        })?;
        let digest = verified.bundle_digest;
        self.check_identity(seq, &entry, digest)?;
        self.check_links(seq, &entry)?;
        self.digests.push(digest);
        self.log_id = Some(entry.log_id.clone());
        self.last = Some(Head {
            v: VERSION,
            log_id: entry.log_id.clone(),
            seq,
            digest,
            epoch: entry.epoch,
            op: entry.op.clone(),
        });
        Ok(entry)
    }

    /// Whether this is the entry that belongs under this sequence of this log.
    fn check_identity(&self, seq: u64, entry: &Entry, digest: Digest) -> Result<(), LedgerError> {
        if entry.log_id.environment != self.environment {
            let found = entry.log_id.environment.clone();
            return Err(self.fault(seq, ChainFault::OtherEnvironment { found }));
        }
        if let Some(expected) = self.log_id.as_ref().filter(|expected| **expected != entry.log_id) {
            let (found, expected) = (entry.log_id.clone(), expected.clone());
            return Err(self.fault(seq, ChainFault::OtherLog { found, expected }));
        }
        if entry.seq != seq {
            return Err(self.fault(seq, ChainFault::Reordered { holds: entry.seq }));
        }
        let anchors = self.anchors.get(&seq).map(Vec::as_slice).unwrap_or_default();
        if let Some(anchored) = anchors.iter().copied().find(|anchored| *anchored != digest) {
            return Err(self.fault(seq, ChainFault::Rewritten { by: "an anchor", anchored, stored: digest }));
        }
        Ok(())
    }

    /// Whether it follows the entry before it.
    fn check_links(&self, seq: u64, entry: &Entry) -> Result<(), LedgerError> {
        let stored = self.digests.last().copied();
        if entry.prev != stored {
            // The link names another previous entry, so that one was replaced, unless an anchor vouches for it.
            let vouched = seq == 1 || self.anchors.contains_key(&(seq - 1));
            let at = if vouched { seq } else { seq - 1 };
            return Err(self.fault(at, ChainFault::Forked { next: seq, follows: entry.prev, stored }));
        }
        let before = self.last.as_ref().map_or(0, |last| last.epoch);
        if entry.epoch < before {
            return Err(self.fault(seq, ChainFault::EpochDown { epoch: entry.epoch, before }));
        }
        Ok(())
    }

    /// Ends the verification. Without a head and without anchors a missing end cannot be seen; [`Summary::anchored`]
    /// says how far it was.
    pub fn finish(self, head: Option<&Head>) -> Result<Summary, LedgerError> {
        let entries = self.digests.len() as u64;
        let anchored = self.anchors.keys().next_back().copied().unwrap_or(0);
        if anchored > entries {
            return Err(self.fault(entries + 1, ChainFault::Truncated { by: "an anchor", named: anchored }));
        }
        let Some(head) = head else {
            return Ok(Summary { entries, last: self.last, anchored, head_lag: 0 });
        };
        self.check_head(head)?;
        Ok(Summary { entries, last: self.last, anchored: anchored.max(head.seq), head_lag: entries - head.seq })
    }

    fn check_head(&self, head: &Head) -> Result<(), LedgerError> {
        if head.log_id.environment != self.environment {
            let found = head.log_id.environment.clone();
            return Err(self.fault(head.seq, ChainFault::OtherEnvironment { found }));
        }
        if let Some(expected) = self.log_id.as_ref().filter(|expected| **expected != head.log_id) {
            let (found, expected) = (head.log_id.clone(), expected.clone());
            return Err(self.fault(head.seq, ChainFault::OtherLog { found, expected }));
        }
        let entries = self.digests.len() as u64;
        if head.seq > entries {
            return Err(self.fault(entries + 1, ChainFault::Truncated { by: "the head", named: head.seq }));
        }
        let stored = usize::try_from(head.seq).ok().and_then(|seq| self.digests.get(seq.checked_sub(1)?)).copied();
        if let Some(stored) = stored.filter(|stored| *stored != head.digest) {
            let fault = ChainFault::Rewritten { by: "the head", anchored: head.digest, stored };
            return Err(self.fault(head.seq, fault));
        }
        match &self.last {
            Some(last) if last.seq == head.seq && last != head => Err(self.fault(head.seq, ChainFault::HeadDiffers)),
            _ => Ok(()),
        }
    }

    fn fault(&self, seq: u64, fault: ChainFault) -> LedgerError {
        LedgerError::Chain { environment: self.environment.clone(), seq, fault: Box::new(fault) }
    }
}
