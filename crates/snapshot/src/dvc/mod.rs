//! The DVC bridge: data that DVC tracks becomes a snapshot, and a snapshot becomes a remote that `dvc pull` reads.
//!
//! Words are DVC's: an *out* is a file or directory that a `.dvc` file or `dvc.lock` tracks; its *objects* are named by MD5; a
//! *`.dir`* is the object that lists a directory's files; a *remote* is an S3 prefix or a folder with objects.
//!
//! What never happens:
//!
//! - An import writes nothing of DVC's: not the data, not `.dvc/cache`, not the remote, not the `.dvc` file. It puts the out
//!   together beside the cache, by hard links where it can, and only a pointer file comes to be.
//! - No byte is believed for its name, its mode or its place: what an import takes, from the workspace, the cache (which DVC
//!   trusts for being read-only) or the remote, had the MD5 that DVC names when it was read, and what becomes of it is the
//!   snapshot of exactly those bytes, or nothing.
//! - A listing that leads elsewhere is refused before anything of it is used.
//! - An export remembers nothing of a remote: it asks for every object each time, so one that was deleted or cut short is
//!   sent again. A `.dir` is written after every file that it lists, and the `.dvc` file after the `.dir`.
//! - No object larger than [`export`]'s small ones is held in memory, and no upload is left behind.
//! - Keys and secrets of DVC's configuration are in no message.
//!
//! What DVC cannot hold is said by name and left out (empty directories, links out of the data or to folders, names that are not
//! UTF-8, `.dvcignore` in the data), or becomes something simpler (executable bits below a directory, links to files).
//!
//! How it fails: [`crate::Error::Dvc`] for files that are not DVC's or ask for what is not supported,
//! [`crate::Error::DvcMissing`] for objects that are nowhere, [`crate::Error::DvcDamaged`] for objects with other bytes,
//! [`crate::Error::DvcRemote`] for a remote that fails. What an import has fetched is kept until it has succeeded, so that
//! the next one goes on from there.

mod config;
mod export;
mod files;
mod folder;
mod hash;
mod ignore;
mod import;
mod known;
mod listing;
mod remote;
mod targets;

pub use config::{Config, Place, Remote, Surroundings, with_remote};
pub use export::{Exported, Exporting, export, remote_of};
pub use files::{Content, Named, Out, Versions, Written, kept_in, of_dvc_file, of_lock, updated};
pub use hash::{Hasher, Kind, Sum, Sums};
pub use import::{From, Imported, Importing, import};
pub use listing::{Listed, read as read_listing, write as write_listing};
pub use remote::Opened;
pub use targets::{find, root_of};
