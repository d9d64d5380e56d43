//! Content-addressed objects on S3-compatible storage, small mutable objects by compare-and-swap, and leases.
//!
//! Words: an *object* is bytes under a *key*; *content* is an object whose key is its SHA-256; a *reference* is a small object
//! that is created once or swapped; a *lease* says who may write an environment, and its *epoch* which writer is newest.
//!
//! What this crate does **not** do, so that nobody needs to look for it:
//!
//! - It does not interpret what it stores, knows no release and no snapshot format, and prints nothing.
//! - No content is handed out whole or written under its name before its bytes were hashed; a mismatch is fetched once more,
//!   and then [`Error::Corrupt`] names the key. [`Store::get_range`] is the exception, and says so.
//! - No conditional write is believed on its answer alone: after 412, 409 or a lost answer the object is read back and
//!   compared, so bodies of swaps must be unique.
//! - No key is deleted by a condition and nothing is committed by COPY: servers ignore preconditions there.
//! - No lease depends on a wall clock, and none is ever deleted.
//! - Nothing larger than [`Store::get_bytes`] is asked for is ever held whole in memory; uploads above 16 MiB go in parts.
//!
//! How it fails: unreachable, refused or misbehaving servers are [`Error::Unavailable`] in words; damaged bytes are
//! [`Error::Corrupt`] or [`Error::Damaged`]; lost races are values ([`Swap::Lost`]) or [`Error::Held`]. What was begun when a
//! process dies is an orphan, never a dangling reference.
//!
//! | module | holds |
//! |---|---|
//! | [`Objects`] | the small interface that every store implements and every decorator wraps |
//! | `content`, `refs`, `lease` | [`Store`]: verified content, create-only and swapped objects, leases |
//! | `s3` | any S3 endpoint through aws-sdk-s3; which permissions it needs, and whether it has them |
//! | [`decorate`] | retries, limits, a log; what every opened store has around it |
//! | `embedded` | our own S3 server over a directory, in this process or over TCP |
//! | `testing` | memory, faults and the conformance suite (feature `testing`) |

mod content;
pub mod decorate;
mod embedded;
mod error;
mod lease;
mod location;
mod objects;
mod refs;
mod s3;
mod settings;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use content::{Family, Store};
pub use domain::Digest;
pub use embedded::{Limits, serve, serve_within};
pub use error::{Again, Error, Result};
pub use lease::{Holder, Lease, LeaseState};
pub use location::Location;
pub use objects::{Body, ByteStream, Condition, Meta, Objects, Page};
pub use refs::{Created, Swap, Versioned};
pub use s3::{Access, Foreign, Permission, Unfinished, least_policy, open_foreign, settle};
pub use settings::Settings;
