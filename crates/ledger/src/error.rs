//! The one error type of this crate.

use crate::chain::ChainFault;
use domain::{Class, Digest, Name};

/// Why something is not trusted, or could not be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The text holds no PEM block.
    #[error("this is not a PEM file: an Ed25519 {wanted} key begins with -----BEGIN {} KEY-----", wanted.to_uppercase())]
    NotPem {
        /// `private` or `public`.
        wanted: &'static str,
    },
    /// A private key under a password.
    #[error(
        "the private key is encrypted ({label}); Sealift reads only plain PKCS#8, decrypt it with openssl pkey first"
    )]
    EncryptedKey {
        /// The label of the PEM block.
        label: String,
    },
    /// A PEM block of another kind, such as a certificate, or a public key where a private one is needed.
    #[error("the PEM block is {label:?}, but an Ed25519 {wanted} key is needed")]
    WrongPemLabel {
        /// `private` or `public`.
        wanted: &'static str,
        /// The label found.
        label: String,
    },
    /// A key of another algorithm.
    #[error("the {wanted} key is {algorithm}, but an Ed25519 key is needed")]
    WrongAlgorithm {
        /// `private` or `public`.
        wanted: &'static str,
        /// What it is, as far as it is known.
        algorithm: String,
    },
    /// An Ed25519 key whose bytes are wrong.
    #[error("the {wanted} key is damaged: {why}")]
    DamagedKey {
        /// `private` or `public`.
        wanted: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A name was given to a second key.
    #[error("two different keys are named {name}")]
    KeyNameTaken {
        /// The name.
        name: Name,
    },
    /// More bytes than are ever read.
    #[error("the {what} has {bytes} bytes, more than the {limit} that are ever read")]
    TooLarge {
        /// Bundle, payload or head.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Bytes that are no acceptable JSON.
    #[error("the {what} is not acceptable JSON: {why}")]
    Json {
        /// Bundle, payload, predicate or head.
        what: &'static str,
        /// The parser's words: not JSON at all, a key twice, too deep, a wrong type.
        why: String,
    },
    /// JSON that is no Sigstore bundle v0.3 with a DSSE envelope and a plain key.
    #[error("this is not a Sigstore bundle v0.3 with a plain public key: {why}")]
    NotABundle {
        /// What is missing or other.
        why: String,
    },
    /// None, or more than one signature in an envelope.
    #[error("the bundle has {found} signatures, and must have exactly one")]
    SignatureCount {
        /// How many there are.
        found: usize,
    },
    /// The envelope's payload type is not in-toto.
    #[error(
        "the payload type is {found:?} and not {:?}: a signature for one type proves nothing about another",
        crate::bundle::PAYLOAD_TYPE
    )]
    PayloadType {
        /// The type found.
        found: String,
    },
    /// The signer is none of the trusted keys.
    #[error("signed by a key that is not trusted (hint {hint:?}); trusted are {}", names(trusted))]
    UntrustedKey {
        /// The bundle's own hint, unproven.
        hint: String,
        /// Names of the trusted keys.
        trusted: Vec<Name>,
    },
    /// The hint names a trusted key, but the signature does not hold.
    #[error("the signature of {key} does not hold: the payload or the signature was changed after signing")]
    BadSignature {
        /// The trusted key that the hint names.
        key: Name,
    },
    /// A signed payload that is no in-toto Statement v1.
    #[error("the signed payload is not an in-toto Statement v1: {why}")]
    NotAStatement {
        /// What is missing or other.
        why: String,
    },
    /// The statement claims something else.
    #[error("the statement's predicate type is {found:?} and not {wanted:?}")]
    PredicateType {
        /// The type needed.
        wanted: String,
        /// The type found.
        found: String,
    },
    /// The statement is about other content.
    #[error("the statement is validly signed by {key}, but is not about {wanted}; it is about {about}")]
    OtherSubject {
        /// The signer.
        key: Name,
        /// The digest asked for.
        wanted: Digest,
        /// What it is about, at most five subjects.
        about: String,
    },
    /// Too few different trusted keys signed.
    #[error("{needed} different trusted keys must sign, and {} did{}", found.len(), reasons(refused))]
    Quorum {
        /// How many keys are needed.
        needed: usize,
        /// The keys that did sign, each once.
        found: Vec<Name>,
        /// Why the others do not count, in the order given.
        refused: Vec<String>,
    },
    /// A predicate that cannot be written as JSON, or an entry with an empty field.
    #[error("cannot sign: {why}")]
    Unsignable {
        /// What is wrong.
        why: String,
    },
    /// Text that identifies no log.
    #[error("{text:?} is not a log identity: write ENVIRONMENT/UUID")]
    BadLogId {
        /// What was given, cut to 120 characters.
        text: String,
    },
    /// The chain of an environment does not hold.
    #[error("the ledger of {environment} does not hold at entry {seq}: {fault}")]
    Chain {
        /// The environment whose ledger was read.
        environment: Name,
        /// The exact sequence number.
        seq: u64,
        /// What was done to it.
        fault: Box<ChainFault>,
    },
}

impl LedgerError {
    /// The class of this failure, which decides the exit code.
    pub fn class(&self) -> Class {
        match self {
            Self::NotPem { .. }
            | Self::EncryptedKey { .. }
            | Self::WrongPemLabel { .. }
            | Self::WrongAlgorithm { .. }
            | Self::DamagedKey { .. }
            | Self::KeyNameTaken { .. }
            | Self::BadLogId { .. } => Class::BadInput,
            Self::Quorum { .. } => Class::NotPermitted,
            Self::Unsignable { .. } => Class::Internal,
            Self::TooLarge { .. }
            | Self::Json { .. }
            | Self::NotABundle { .. }
            | Self::SignatureCount { .. }
            | Self::PayloadType { .. }
            | Self::UntrustedKey { .. }
            | Self::BadSignature { .. }
            | Self::NotAStatement { .. }
            | Self::PredicateType { .. }
            | Self::OtherSubject { .. }
            | Self::Chain { .. } => Class::Integrity,
        }
    }

    /// The sequence number at which a chain breaks.
    pub fn seq(&self) -> Option<u64> {
        match self {
            Self::Chain { seq, .. } => Some(*seq),
            _ => None,
        }
    }
}

fn names(names: &[Name]) -> String {
    if names.is_empty() {
        return "no keys at all".to_owned();
    }
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

fn reasons(refused: &[String]) -> String {
    if refused.is_empty() { String::new() } else { format!(" ({})", refused.join("; ")) }
}
