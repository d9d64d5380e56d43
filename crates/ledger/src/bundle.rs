//! The Sigstore bundle v0.3 with a plain Ed25519 key: the one object that Sealift signs and verifies.
//!
//! What is signed is the DSSE pre-authentication encoding (DSSE v1): `"DSSEv1" SP len(type) SP type SP len(body) SP body`.
//! The bytes are those that `cosign verify-blob-attestation` accepts. The hint is only a hint: it can choose the words of
//! an error, never the outcome. Members that a bundle may have besides (log entries, timestamps) are ignored.

use crate::{
    LedgerError,
    json::{self, short},
    keys::{PublicKey, SigningKey, TrustedKeys},
    statement::{Statement, Subject},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use domain::{Digest, Name};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The media type of a bundle, also as an OCI artifact type.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The only payload type that is signed or believed.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// No bundle larger than this is read: a manifest lists digests, not data.
pub const MAX_BUNDLE_BYTES: usize = 16 << 20;

/// A bundle that was just signed: its exact bytes, which are what is stored and hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle(Vec<u8>);

impl Bundle {
    /// Signs a statement.
    pub fn sign<P: Serialize>(key: &SigningKey, statement: &Statement<P>) -> Result<Self, LedgerError> {
        let payload = statement.to_payload()?;
        let signature = key.sign(&pre_authentication_encoding(PAYLOAD_TYPE, &payload));
        let wire = WireBundle {
            media_type: MEDIA_TYPE,
            verification_material: WireMaterial { public_key: WireHint { hint: key.public().key_id() } },
            dsse_envelope: WireEnvelope {
                payload: STANDARD.encode(&payload),
                payload_type: PAYLOAD_TYPE,
                signatures: [WireSignature { sig: STANDARD.encode(signature) }],
            },
        };
        let bytes = serde_json::to_vec(&wire).map_err(|error| LedgerError::Unsignable { why: error.to_string() })?;
        if bytes.len() > MAX_BUNDLE_BYTES {
            return Err(LedgerError::TooLarge { what: "bundle", bytes: bytes.len(), limit: MAX_BUNDLE_BYTES });
        }
        Ok(Self(bytes))
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes to store.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The SHA-256 of the bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}

/// A statement whose signature holds, and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The statement, read from exactly the bytes that were verified.
    pub statement: Statement,
    /// Those bytes.
    pub payload: Vec<u8>,
    /// The name under which the signer is trusted.
    pub key: Name,
    /// The signer's key.
    pub public_key: PublicKey,
    /// The SHA-256 of the whole bundle.
    pub bundle_digest: Digest,
}

impl Verified {
    /// Refuses a statement that is not about this content; gives the subject that is.
    pub fn require_subject(&self, wanted: Digest) -> Result<&Subject, LedgerError> {
        self.statement.subjects.iter().find(|subject| subject.sha256 == wanted).ok_or_else(|| {
            let about = &self.statement.subjects;
            let mut shown: Vec<String> =
                about.iter().take(5).map(|s| format!("{} ({})", short(&s.name), s.sha256)).collect();
            if about.len() > shown.len() {
                shown.push(format!("and {} more", about.len() - shown.len()));
            }
            LedgerError::OtherSubject { key: self.key.clone(), wanted, about: shown.join(", ") }
        })
    }

    /// Refuses another predicate type.
    pub fn require_type(&self, wanted: &str) -> Result<(), LedgerError> {
        self.statement.require_type(wanted)
    }

    /// The predicate in a type, if the predicate type is the wanted one.
    pub fn predicate<P: DeserializeOwned>(&self, wanted: &str) -> Result<P, LedgerError> {
        Ok(self.statement.clone().typed(wanted)?.predicate)
    }
}

/// Verifies a bundle against the trusted keys. What it is about is for the caller to demand:
/// [`Verified::require_subject`], [`Verified::require_type`].
pub fn verify(bytes: &[u8], trusted: &TrustedKeys) -> Result<Verified, LedgerError> {
    let envelope = Envelope::parse(bytes)?;
    let message = pre_authentication_encoding(&envelope.payload_type, &envelope.payload);
    let signer = trusted.iter().find(|(_, key)| key.verifies(&message, &envelope.signature));
    let Some((name, public_key)) = signer else {
        // Only now the hint, and only to say which of the two it was.
        return Err(match trusted.iter().find(|(_, key)| key.key_id() == envelope.hint) {
            Some((name, _)) => LedgerError::BadSignature { key: name.clone() },
            None => LedgerError::UntrustedKey { hint: short(&envelope.hint), trusted: trusted.names() },
        });
    };
    Ok(Verified {
        statement: Statement::parse(&envelope.payload)?,
        payload: envelope.payload,
        key: name.clone(),
        public_key: public_key.clone(),
        bundle_digest: Digest::of(bytes),
    })
}

/// What several signers said about the same thing.
#[derive(Debug, Clone, PartialEq)]
pub struct Quorum {
    /// One verified bundle for each key, in the order given.
    pub accepted: Vec<Verified>,
    /// Why the others did not count.
    pub refused: Vec<String>,
}

/// Verifies that at least `needed` *different* trusted keys signed statements of this predicate type about exactly the
/// same subjects as the first valid one. A second bundle of one key counts nothing, under whatever name it is trusted;
/// nor does a bundle that does not verify. What the predicates say is for the caller to compare.
pub fn verify_threshold<B: AsRef<[u8]>>(
    bundles: &[B],
    trusted: &TrustedKeys,
    predicate_type: &str,
    needed: usize,
) -> Result<Quorum, LedgerError> {
    let mut quorum = Quorum { accepted: Vec::new(), refused: Vec::new() };
    for (index, bytes) in bundles.iter().enumerate() {
        let number = index + 1;
        let checked = verify(bytes.as_ref(), trusted).and_then(|v| v.require_type(predicate_type).map(|()| v));
        let verified = match checked {
            Ok(verified) => verified,
            Err(error) => {
                quorum.refused.push(format!("bundle {number}: {error}"));
                continue;
            }
        };
        if quorum.accepted.iter().any(|other| other.public_key == verified.public_key) {
            quorum.refused.push(format!("bundle {number}: {} has signed already, and counts once", verified.key));
        } else if quorum.accepted.first().is_some_and(|first| digests(first) != digests(&verified)) {
            quorum.refused.push(format!("bundle {number}: {} signed other content", verified.key));
        } else {
            quorum.accepted.push(verified);
        }
    }
    // A threshold of nothing is a mistake of the caller's, and must not open a gate.
    let needed = needed.max(1);
    if quorum.accepted.len() < needed {
        let found = quorum.accepted.into_iter().map(|verified| verified.key).collect();
        return Err(LedgerError::Quorum { needed, found, refused: quorum.refused });
    }
    Ok(quorum)
}

fn digests(verified: &Verified) -> Vec<Digest> {
    let mut digests: Vec<Digest> = verified.statement.subjects.iter().map(|subject| subject.sha256).collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}

/// DSSE v1 PAE.
fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

/// The parts of a bundle that take part in its verification.
struct Envelope {
    hint: String,
    payload_type: String,
    payload: Vec<u8>,
    signature: [u8; 64],
}

impl Envelope {
    fn parse(bytes: &[u8]) -> Result<Self, LedgerError> {
        let bundle = json::parse("bundle", bytes, MAX_BUNDLE_BYTES)?;
        let not = |why: String| LedgerError::NotABundle { why };
        match bundle.get("mediaType").and_then(Value::as_str) {
            Some(MEDIA_TYPE) => {}
            Some(other) => return Err(not(format!("its mediaType is {:?}", short(other)))),
            None => return Err(not("it has no mediaType".to_owned())),
        }
        let material = bundle.get("verificationMaterial");
        let public_key = material.and_then(|material| material.get("publicKey")).filter(|key| key.is_object());
        let public_key = public_key.ok_or_else(|| not("it has no verificationMaterial.publicKey".to_owned()))?;
        let envelope = bundle.get("dsseEnvelope").ok_or_else(|| not("it has no dsseEnvelope".to_owned()))?;
        let text = |field: &str| {
            let value = envelope.get(field).and_then(Value::as_str);
            value.ok_or_else(|| not(format!("its envelope has no {field}")))
        };
        let payload_type = text("payloadType")?;
        if payload_type != PAYLOAD_TYPE {
            return Err(LedgerError::PayloadType { found: short(payload_type) });
        }
        let signatures = envelope.get("signatures").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let [signature] = signatures else {
            return Err(LedgerError::SignatureCount { found: signatures.len() });
        };
        let signature = signature.get("sig").and_then(Value::as_str);
        let signature = decode("sig", signature.ok_or_else(|| not("its signature has no sig".to_owned()))?)?;
        let signature = <[u8; 64]>::try_from(signature).map_err(|other| {
            not(format!("its signature has {} bytes, and an Ed25519 signature has 64", other.len()))
        })?;
        Ok(Self {
            hint: public_key.get("hint").and_then(Value::as_str).unwrap_or_default().to_owned(),
            payload_type: payload_type.to_owned(),
            payload: decode("payload", text("payload")?)?,
            signature,
        })
    }
}

/// DSSE demands that both alphabets are read; protobuf's JSON also leaves the padding out.
fn decode(field: &str, text: &str) -> Result<Vec<u8>, LedgerError> {
    let padded = text.ends_with('=');
    let url_safe = text.contains(['-', '_']);
    match (url_safe, padded) {
        (false, true) => STANDARD.decode(text),
        (false, false) => STANDARD_NO_PAD.decode(text),
        (true, true) => URL_SAFE.decode(text),
        (true, false) => URL_SAFE_NO_PAD.decode(text),
    }
    .map_err(|error| LedgerError::NotABundle { why: format!("its {field} is not base64: {error}") })
}

#[derive(Serialize)]
struct WireBundle {
    #[serde(rename = "mediaType")]
    media_type: &'static str,
    #[serde(rename = "verificationMaterial")]
    verification_material: WireMaterial,
    #[serde(rename = "dsseEnvelope")]
    dsse_envelope: WireEnvelope,
}

#[derive(Serialize)]
struct WireMaterial {
    #[serde(rename = "publicKey")]
    public_key: WireHint,
}

#[derive(Serialize)]
struct WireHint {
    hint: String,
}

#[derive(Serialize)]
struct WireEnvelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: &'static str,
    signatures: [WireSignature; 1],
}

#[derive(Serialize)]
struct WireSignature {
    sig: String,
}
