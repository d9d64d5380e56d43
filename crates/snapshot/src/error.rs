//! What fails in this crate. Facts that name the file or object; `sealift` adds the next command.

use domain::{Class, Digest};
use std::{io, path::PathBuf};

/// The result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A local file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: "read", "write", "rename", …
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file had another size, time or inode after it was hashed than before.
    #[error("{} changed while it was being read", path.display())]
    Changing {
        /// Which file.
        path: PathBuf,
    },
    /// A fifo, socket or device.
    #[error("{} is a {kind}, which a snapshot cannot hold", path.display())]
    Kind {
        /// Which file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A path that cannot be a data set, or cannot be written safely.
    #[error("{} {why}", path.display())]
    Path {
        /// Which path.
        path: PathBuf,
        /// Why not, as the rest of the sentence.
        why: &'static str,
    },
    /// A pointer file that is none.
    #[error("{} is not a valid data pointer: {why}", path.display())]
    Pointer {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A manifest that breaks the rules of the format.
    #[error("{object} is not a valid snapshot manifest: line {line}: {why}")]
    Manifest {
        /// Which object.
        object: String,
        /// Line number, from 1.
        line: u64,
        /// Which rule.
        why: String,
    },
    /// An object's bytes are not what they must be.
    #[error("{object} is corrupt: {why}")]
    Corrupt {
        /// Its key.
        object: String,
        /// In which way.
        why: String,
    },
    /// A pack in the local cache is damaged; it was moved to the cache's `quarantine` folder.
    #[error("packs/{}/{} is corrupt in the cache: {why}", &pack.hex()[..2], pack.hex())]
    CachedPack {
        /// Which pack.
        pack: Digest,
        /// In which way.
        why: String,
    },
    /// A layout in the local cache is wrong, as whole packs prove; it was moved to the cache's `quarantine` folder.
    #[error("{} is corrupt in the cache: {why}", crate::layout_key(snapshot))]
    CachedLayout {
        /// Of which snapshot.
        snapshot: Digest,
        /// In which way.
        why: String,
    },
    /// Something is needed from the cache and is not there.
    #[error("{object} of snapshot {} is not in the cache", snapshot.short())]
    NotCached {
        /// Its key.
        object: String,
        /// The snapshot that needs it.
        snapshot: Digest,
    },
    /// The cache has lost bytes of the snapshot and the data is no longer what was added.
    #[error("{} changed between add and push: snapshot {} can no longer be made from it", path.display(), snapshot.short())]
    ChangedSinceAdd {
        /// The data.
        path: PathBuf,
        /// What was added.
        snapshot: Digest,
    },
    /// A checkout would overwrite or remove what was changed locally.
    #[error("{} has local changes that are in no snapshot: {}{}", path.display(), examples.join(", "), more(*count, examples.len()))]
    LocalChanges {
        /// The data.
        path: PathBuf,
        /// How many files.
        count: usize,
        /// The first of them.
        examples: Vec<String>,
    },
    /// A restore into a directory that holds something.
    #[error("{} is not an empty directory", path.display())]
    NotEmpty {
        /// Which directory.
        path: PathBuf,
    },
    /// A verification found damage.
    #[error("snapshot {} is damaged: {}{}", snapshot.short(), problems[..problems.len().min(10)].join("; "), more(problems.len(), 10))]
    Damaged {
        /// Which snapshot.
        snapshot: Digest,
        /// Every problem, each naming its object or file.
        problems: Vec<String>,
        /// Whether it is the cache's copy; otherwise it is a store's.
        cached: bool,
    },
    /// The store failed.
    #[error("cannot {action} snapshot {}", snapshot.short())]
    Store {
        /// What was tried: "push", "fetch", "verify".
        action: &'static str,
        /// Which snapshot.
        snapshot: Digest,
        /// How.
        #[source]
        source: Box<store::Error>,
    },
    /// A file of DVC that is none, or that asks for what Sealift cannot do.
    #[error("{object} {why}")]
    Dvc {
        /// Which file, entry or setting.
        object: String,
        /// What is wrong with it, as the rest of the sentence.
        why: String,
    },
    /// DVC names bytes that are nowhere.
    #[error("{object} is missing: {places}")]
    DvcMissing {
        /// What is missing: file and MD5.
        object: String,
        /// Where it was looked for.
        places: String,
    },
    /// An object of a DVC remote has other bytes than its name says.
    #[error("{object} is damaged: {why}")]
    DvcDamaged {
        /// Which object, where.
        object: String,
        /// In which way.
        why: String,
    },
    /// A DVC remote failed.
    #[error("cannot {action} the DVC remote {remote}")]
    DvcRemote {
        /// What was tried: "read", "list", "write".
        action: &'static str,
        /// Which remote.
        remote: String,
        /// How.
        #[source]
        source: Box<store::Error>,
    },
    /// A gc removes what a push needs, and does not come to an end.
    #[error("a gc is removing what snapshot {} needs; try again when it has ended", snapshot.short())]
    Busy {
        /// Which snapshot.
        snapshot: Digest,
    },
    /// Another command works with the cache.
    #[error("the cache {} is in use by another command; try again when it has ended", path.display())]
    CacheBusy {
        /// Which cache.
        path: PathBuf,
    },
    /// A gc cannot tell what must stay, so it removes nothing from then on.
    #[error("{object} {why}; {}", removed_until(*removed))]
    Unsure {
        /// Which object.
        object: String,
        /// What is wrong with it, as the rest of the sentence.
        why: String,
        /// How many objects were removed before that was seen.
        removed: u64,
    },
    /// The store failed during a gc.
    #[error("cannot {action}")]
    Gc {
        /// What was tried, as the rest of the sentence.
        action: &'static str,
        /// How.
        #[source]
        source: Box<store::Error>,
    },
    /// A part that was asked for and is not in the snapshot.
    #[error("{part} is not in snapshot {}", snapshot.short())]
    NoSuchPart {
        /// Which part.
        part: String,
        /// Which snapshot.
        snapshot: Digest,
    },
    /// A worker thread panicked; a fault of Sealift.
    #[error("a worker stopped unexpectedly while it was to {what}")]
    Worker {
        /// What it was to do.
        what: &'static str,
    },
}

impl Error {
    /// The class, for the exit code.
    pub fn class(&self) -> Class {
        match self {
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Class::NotFound,
                io::ErrorKind::PermissionDenied => Class::BadInput,
                _ => Class::Internal,
            },
            Self::Changing { .. }
            | Self::Kind { .. }
            | Self::Path { .. }
            | Self::Pointer { .. }
            | Self::Dvc { .. }
            | Self::ChangedSinceAdd { .. } => Class::BadInput,
            Self::Manifest { .. }
            | Self::Corrupt { .. }
            | Self::CachedPack { .. }
            | Self::CachedLayout { .. }
            | Self::DvcDamaged { .. }
            | Self::Damaged { .. }
            | Self::Unsure { .. } => Class::Integrity,
            Self::NotCached { .. } | Self::DvcMissing { .. } | Self::NoSuchPart { .. } => Class::NotFound,
            Self::Busy { .. } | Self::CacheBusy { .. } => Class::Busy,
            Self::LocalChanges { .. } => Class::NotPermitted,
            Self::NotEmpty { .. } => Class::Usage,
            Self::Store { source, .. } | Self::DvcRemote { source, .. } | Self::Gc { source, .. } => source.class(),
            Self::Worker { .. } => Class::Internal,
        }
    }
}

fn removed_until(removed: u64) -> String {
    match removed {
        0 => "nothing was removed".to_owned(),
        some => format!(
            "{} that no kept snapshot needed went before that was seen, and nothing since",
            count(some, "object")
        ),
    }
}

fn more(count: usize, named: usize) -> String {
    if count > named { format!(" and {} more", count - named) } else { String::new() }
}

/// A number with its noun, as people say it.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Adds the action and the path to an IO error.
pub(crate) fn at(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { action, path, source }
}
