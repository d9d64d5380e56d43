//! The classes of failure. Every library error has one; `sealift` maps it to an exit code.

use serde::Serialize;

/// What kind of failure an error is, which decides the exit code and whether a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The command line is wrong (64).
    Usage,
    /// Configuration or data is wrong (65).
    BadInput,
    /// A named thing does not exist (66).
    NotFound,
    /// A service cannot be reached or does not answer properly: Docker, store, registry (69).
    Unavailable,
    /// A fault of Sealift or of the machine below it: a full disk, a failing write (70).
    Internal,
    /// A digest, signature, chain or drift guard does not hold (73).
    Integrity,
    /// Someone holds the lease, or the plan is stale; the same command may succeed later (75).
    Busy,
    /// Approval, freeze or protection forbids it (77).
    NotPermitted,
}
