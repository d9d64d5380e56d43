//! Ed25519 keys (RFC 8032, pure) in the files that openssl and cosign read, and the set of trusted ones.
//!
//! A private key is written as PKCS#8 version 1, without the public half: OpenSSL before 3.2 refuses the version with it.
//! A key's bytes never show in Debug output, and no public key of small order is accepted.

use crate::LedgerError;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use domain::{Digest, Name, secret::Secret};
use ed25519_dalek::{
    Signer as _, VerifyingKey,
    pkcs8::{
        Document, EncodePrivateKey as _, EncodePublicKey as _, KeypairBytes, PrivateKeyInfoRef, SecretDocument,
        spki::{SubjectPublicKeyInfoRef, der::pem::LineEnding},
    },
};
use std::{collections::BTreeMap, fmt};

const PRIVATE: &str = "private";
const PUBLIC: &str = "public";

/// A private key. Debug shows its fingerprint only.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key of a seed. Whoever calls this has drawn the 32 bytes from the operating system's random source.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// Reads a plain PKCS#8 PEM file (`-----BEGIN PRIVATE KEY-----`), as written by `openssl genpkey -algorithm ed25519`.
    pub fn from_pem(text: &str) -> Result<Self, LedgerError> {
        check_label(PRIVATE, text)?;
        let damaged = |why: &dyn fmt::Display| LedgerError::DamagedKey { wanted: PRIVATE, why: why.to_string() };
        let (_, document) = SecretDocument::from_pem(text.trim()).map_err(|error| damaged(&error))?;
        let info = PrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|error| damaged(&error))?;
        check_algorithm(PRIVATE, &info.algorithm.oid.to_string())?;
        ed25519_dalek::SigningKey::try_from(info).map(Self).map_err(|error| damaged(&error))
    }

    /// The PKCS#8 PEM file. It is a secret: write it with mode 0600 and show it nowhere.
    pub fn to_pem(&self) -> Result<Secret, LedgerError> {
        let bytes = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let pem = bytes
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|error| LedgerError::DamagedKey { wanted: PRIVATE, why: error.to_string() })?;
        Ok(Secret::new(pem.as_str()))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, [redacted])", self.public().fingerprint())
    }
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo PEM file (`-----BEGIN PUBLIC KEY-----`), as written by `openssl pkey -pubout` and by
    /// `cosign public-key`.
    pub fn from_pem(text: &str) -> Result<Self, LedgerError> {
        check_label(PUBLIC, text)?;
        let damaged = |why: &dyn fmt::Display| LedgerError::DamagedKey { wanted: PUBLIC, why: why.to_string() };
        let (_, document) = Document::from_pem(text.trim()).map_err(|error| damaged(&error))?;
        let info = SubjectPublicKeyInfoRef::try_from(document.as_bytes()).map_err(|error| damaged(&error))?;
        check_algorithm(PUBLIC, &info.algorithm.oid.to_string())?;
        let key = VerifyingKey::try_from(info).map_err(|error| damaged(&error))?;
        if key.is_weak() {
            return Err(damaged(&"it is a point of small order, under which anyone can sign"));
        }
        Ok(Self(key))
    }

    /// The SubjectPublicKeyInfo PEM file.
    pub fn to_pem(&self) -> Result<String, LedgerError> {
        self.0
            .to_public_key_pem(LineEnding::LF)
            .map_err(|error| LedgerError::DamagedKey { wanted: PUBLIC, why: error.to_string() })
    }

    /// Base64 of the SHA-256 of the DER SubjectPublicKeyInfo: the hint of a Sigstore bundle.
    pub fn key_id(&self) -> String {
        STANDARD.encode(self.digest().as_bytes())
    }

    /// `ed25519:` and twelve hex digits, for people.
    pub fn fingerprint(&self) -> String {
        format!("ed25519:{}", self.digest().short())
    }

    /// Whether this signature of the message is this key's, by the strict rules (no malleable signature).
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }

    fn digest(&self) -> Digest {
        // RFC 8410: this is the whole DER of an Ed25519 SubjectPublicKeyInfo before its 32 bytes.
        let mut der = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        der.extend_from_slice(self.0.as_bytes());
        Digest::of(&der)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

/// The keys whose signatures count, by name. Two names for one key are one signer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys(BTreeMap<Name, PublicKey>);

impl TrustedKeys {
    /// No keys: nothing verifies.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only this key.
    pub fn one(name: Name, key: PublicKey) -> Self {
        Self(BTreeMap::from([(name, key)]))
    }

    /// Adds a key. A name that another key has already is refused.
    pub fn insert(&mut self, name: Name, key: PublicKey) -> Result<(), LedgerError> {
        match self.0.get(&name) {
            Some(known) if *known != key => Err(LedgerError::KeyNameTaken { name }),
            _ => {
                self.0.insert(name, key);
                Ok(())
            }
        }
    }

    /// The keys in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &PublicKey)> {
        self.0.iter()
    }

    /// The key of this name.
    pub fn get(&self, name: &str) -> Option<&PublicKey> {
        self.0.get(name)
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn names(&self) -> Vec<Name> {
        self.0.keys().cloned().collect()
    }
}

/// Says in words what a file is that is no plain Ed25519 PEM.
fn check_label(wanted: &'static str, text: &str) -> Result<(), LedgerError> {
    let label = text.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----")).map(|(label, _)| label);
    let label = crate::json::short(label.ok_or(LedgerError::NotPem { wanted })?);
    // The traditional format says it in a header below the label.
    let encrypted = label.contains("ENCRYPTED") || text.contains("Proc-Type: 4,ENCRYPTED");
    match (wanted, label.as_str()) {
        (PRIVATE, "PRIVATE KEY") | (PUBLIC, "PUBLIC KEY") => Ok(()),
        _ if encrypted => Err(LedgerError::EncryptedKey { label }),
        (_, "RSA PRIVATE KEY" | "RSA PUBLIC KEY") => {
            Err(LedgerError::WrongAlgorithm { wanted, algorithm: "RSA".to_owned() })
        }
        (_, "EC PRIVATE KEY" | "EC PARAMETERS") => {
            Err(LedgerError::WrongAlgorithm { wanted, algorithm: "ECDSA".to_owned() })
        }
        _ => Err(LedgerError::WrongPemLabel { wanted, label }),
    }
}

fn check_algorithm(wanted: &'static str, oid: &str) -> Result<(), LedgerError> {
    let algorithm = match oid {
        "1.3.101.112" => return Ok(()),
        "1.2.840.113549.1.1.1" => "RSA".to_owned(),
        "1.2.840.10045.2.1" => "ECDSA".to_owned(),
        "1.3.101.110" => "X25519 (for key exchange)".to_owned(),
        "1.3.101.113" => "Ed448".to_owned(),
        other => format!("of algorithm {other}"),
    };
    Err(LedgerError::WrongAlgorithm { wanted, algorithm })
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 8410, section 10.3 (private, version 1) and 10.1 (public).
    const PRIVATE_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const PUBLIC_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    // The same key in version 2, with attributes and the public half.
    const PRIVATE_V2_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB\n\
        Z9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PRIVATE KEY-----\n";

    #[test]
    fn the_keys_of_rfc_8410_are_read_and_written_byte_for_byte() {
        let key = SigningKey::from_pem(PRIVATE_PEM).unwrap();
        assert_eq!(key.to_pem().unwrap().reveal(), PRIVATE_PEM);
        assert_eq!(key.public().to_pem().unwrap(), PUBLIC_PEM);
        assert_eq!(PublicKey::from_pem(PUBLIC_PEM).unwrap(), key.public());
        assert_eq!(SigningKey::from_pem(PRIVATE_V2_PEM).unwrap().public(), key.public());
        assert_eq!(SigningKey::from_pem(&PRIVATE_PEM.replace('\n', "\r\n")).unwrap().public(), key.public());
        // Computed with: openssl pkey -pubin -outform DER | sha256sum.
        assert_eq!(key.public().fingerprint(), "ed25519:a1e9156054e0");
        assert_eq!(format!("{key:?}"), "SigningKey(ed25519:a1e9156054e0, [redacted])");
    }

    #[test]
    fn other_files_are_refused_in_words() {
        let private = |label: &str| {
            SigningKey::from_pem(&format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n"))
                .unwrap_err()
                .to_string()
        };
        assert!(private("ENCRYPTED PRIVATE KEY").contains("is encrypted"));
        assert!(private("ENCRYPTED SIGSTORE PRIVATE KEY").contains("is encrypted"));
        assert!(private("RSA PRIVATE KEY").contains("is RSA"));
        assert!(private("EC PRIVATE KEY").contains("is ECDSA"));
        assert!(private("OPENSSH PRIVATE KEY").contains("OPENSSH"));
        assert!(private("PRIVATE KEY").contains("damaged"));
        assert!(SigningKey::from_pem(PUBLIC_PEM).unwrap_err().to_string().contains("private key is needed"));
        assert!(PublicKey::from_pem(PRIVATE_PEM).unwrap_err().to_string().contains("public key is needed"));
        assert!(SigningKey::from_pem("hello").unwrap_err().to_string().contains("not a PEM file"));
        assert!(PublicKey::from_pem("").unwrap_err().to_string().contains("BEGIN PUBLIC KEY"));
        // An ECDSA key of openssl.
        let ecdsa = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEifwbbQeyySBAWICEROJQIpaQzfFj\n\
            ShfWRtwcUqxoGk7lw4R7GZRtuCJMUEnQTYxetNuvZIGoQAldOCj8DeNdlg==\n-----END PUBLIC KEY-----\n";
        assert!(PublicKey::from_pem(ecdsa).unwrap_err().to_string().contains("is ECDSA"));
    }

    #[test]
    fn a_point_of_small_order_is_no_key() {
        let mut der = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00, 1];
        der.resize(44, 0);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
        assert!(PublicKey::from_pem(&pem).unwrap_err().to_string().contains("small order"));
    }

    #[test]
    fn one_name_is_one_key() {
        let (a, b) = (SigningKey::from_seed([1; 32]).public(), SigningKey::from_seed([2; 32]).public());
        let name = || Name::new("ci").unwrap();
        let mut trusted = TrustedKeys::one(name(), a.clone());
        trusted.insert(name(), a).unwrap();
        assert_eq!(trusted.insert(name(), b), Err(LedgerError::KeyNameTaken { name: name() }));
        assert_eq!(trusted.len(), 1);
    }
}
