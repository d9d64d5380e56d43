//! The trust boundary of Sealift: who signed what, and in which order.
//!
//! Everything that Sealift signs is one kind of object: a **bundle** (Sigstore bundle v0.3 with a plain Ed25519 key)
//! around a **statement** (in-toto Statement v1), whose subjects are digests and whose predicate says what is claimed.
//! Releases, approvals, verdicts, provenance and ledger entries differ only in the predicate type. The **chain** is a
//! sequence of such bundles for one environment, each holding the SHA-256 of the exact bytes before it.
//!
//! What this crate does **not** do, and so what no verification depends on: it opens no file or socket, reads no clock
//! and no environment variable, draws no random number (the seed of a key is an argument), and prints nothing. No
//! payload is read before its signature holds; none is serialised again to be verified; no key is believed because a
//! bundle names it. JSON with a key given twice, deeper than [`json::MAX_DEPTH`] or larger than
//! [`bundle::MAX_BUNDLE_BYTES`] is read by nobody.
//!
//! It fails with [`LedgerError`], in one variant for each way in which trust can be missing, so that a wrong key, an
//! edited payload and another subject are told apart; a broken chain names the exact sequence ([`LedgerError::seq`]).
//!
//! | module | holds |
//! |---|---|
//! | [`keys`] | Ed25519 keys from and to PEM, the set of trusted keys |
//! | [`statement`] | in-toto statements, their subjects, the predicate types |
//! | [`bundle`] | signing and verifying, one signature or a quorum |
//! | [`chain`] | ledger entries, the head, the verifier of a whole chain |
//! | [`json`] | strict JSON |

pub mod bundle;
pub mod chain;
mod error;
pub mod json;
pub mod keys;
pub mod statement;

pub use bundle::{Bundle, Quorum, Verified, verify, verify_threshold};
pub use chain::{
    Anchor, Chain, ChainFault, Draft, Entry, Head, LogId, NextEntry, Summary, entry_key, head_key, next_entry,
    parse_entry_key, read_entry,
};
pub use error::LedgerError;
pub use keys::{PublicKey, SigningKey, TrustedKeys};
pub use statement::{Statement, Subject, predicate_type};
