//! In-toto Statement v1: subjects (names and digests), and a predicate about them.
//!
//! A statement is turned into bytes once, to be signed. Nothing is ever turned into bytes again to be compared.

use crate::{LedgerError, bundle::MAX_BUNDLE_BYTES, json};
use domain::Digest;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The `_type` of a statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// The predicate types that Sealift writes.
pub mod predicate_type {
    /// A sealed release; the predicate is the manifest.
    pub const RELEASE: &str = "urn:sealift:release:v1";
    /// One entry of an environment's ledger.
    pub const LEDGER_ENTRY: &str = "urn:sealift:ledger-entry:v1";
    /// The verdict of a gate: SLSA verification summary v1.
    pub const GATE_VERDICT: &str = "https://slsa.dev/verification_summary/v1";
    /// A smoke test: in-toto test result v0.1.
    pub const TEST_RESULT: &str = "https://in-toto.io/attestation/test-result/v0.1";
    /// How an artifact was built: SLSA provenance v1.
    pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
    /// What is in an artifact: CycloneDX; the predicate is the document.
    pub const SBOM: &str = "https://cyclonedx.org/bom";
    /// cosign's signature of an image; the predicate is `{}`.
    pub const COSIGN_SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";
}

/// One thing that a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Its name in the release, for people and for lookup; the digest is the identity.
    pub name: String,
    /// Its SHA-256.
    pub sha256: Digest,
}

impl Subject {
    /// A subject.
    pub fn new(name: impl Into<String>, sha256: Digest) -> Self {
        Self { name: name.into(), sha256 }
    }
}

/// A statement; `P` is a type of predicate, or any JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement<P = Value> {
    /// What it is about; at least one.
    pub subjects: Vec<Subject>,
    /// What kind of claim the predicate is.
    pub predicate_type: String,
    /// The claim.
    pub predicate: P,
}

impl<P: Serialize> Statement<P> {
    /// The bytes to be signed: no spaces, the statement's members in the order of its specification, the
    /// predicate's sorted. A float that is not finite becomes `null`, as JSON has none.
    pub fn to_payload(&self) -> Result<Vec<u8>, LedgerError> {
        let unsignable = |why: String| LedgerError::Unsignable { why };
        if self.subjects.is_empty() {
            return Err(unsignable("a statement needs at least one subject".to_owned()));
        }
        if let Some(subject) = self.subjects.iter().find(|subject| subject.name.is_empty()) {
            return Err(unsignable(format!("the subject {} has no name", subject.sha256)));
        }
        let predicate = serde_json::to_value(&self.predicate).map_err(|error| unsignable(error.to_string()))?;
        if !predicate.is_object() {
            return Err(unsignable("a predicate is a JSON object".to_owned()));
        }
        let subject = self
            .subjects
            .iter()
            .map(|subject| WireSubject { name: &subject.name, digest: WireDigest { sha256: subject.sha256.hex() } })
            .collect();
        let wire = WireStatement {
            kind: STATEMENT_TYPE,
            subject,
            predicate_type: &self.predicate_type,
            predicate: json::Sorted(&predicate),
        };
        let payload = serde_json::to_vec(&wire).map_err(|error| unsignable(error.to_string()))?;
        // What could not be read back must not be signed: too deep, or no statement of ours.
        Statement::parse(&payload).map_err(|error| unsignable(error.to_string()))?;
        Ok(payload)
    }
}

impl Statement {
    /// Reads a payload whose signature has been verified.
    pub fn parse(payload: &[u8]) -> Result<Self, LedgerError> {
        let mut value = json::parse("payload", payload, MAX_BUNDLE_BYTES)?;
        let not = |why: &str| LedgerError::NotAStatement { why: why.to_owned() };
        match value.get("_type") {
            Some(Value::String(kind)) if kind == STATEMENT_TYPE => {}
            Some(other) => return Err(not(&format!("its _type is {}", json::short(&other.to_string())))),
            None => return Err(not("it has no _type")),
        }
        let predicate_type = value
            .get("predicateType")
            .and_then(Value::as_str)
            .ok_or_else(|| not("it has no predicateType"))?
            .to_owned();
        let subjects = value.get("subject").and_then(Value::as_array).ok_or_else(|| not("it has no subjects"))?;
        if subjects.is_empty() {
            return Err(not("it has no subjects"));
        }
        let subjects = subjects.iter().map(read_subject).collect::<Result<_, _>>()?;
        let predicate = value.get_mut("predicate").map(Value::take).filter(Value::is_object);
        let predicate = predicate.ok_or_else(|| not("its predicate is no object"))?;
        Ok(Self { subjects, predicate_type, predicate })
    }

    /// The statement with its predicate in a type, if the predicate type is the wanted one.
    pub fn typed<P: DeserializeOwned>(self, wanted: &str) -> Result<Statement<P>, LedgerError> {
        self.require_type(wanted)?;
        let predicate = serde_json::from_value(self.predicate)
            .map_err(|error| LedgerError::Json { what: "predicate", why: error.to_string() })?;
        Ok(Statement { subjects: self.subjects, predicate_type: self.predicate_type, predicate })
    }

    /// Refuses another predicate type.
    pub fn require_type(&self, wanted: &str) -> Result<(), LedgerError> {
        if self.predicate_type == wanted {
            return Ok(());
        }
        Err(LedgerError::PredicateType { wanted: wanted.to_owned(), found: json::short(&self.predicate_type) })
    }
}

fn read_subject(value: &Value) -> Result<Subject, LedgerError> {
    let not = |why: String| LedgerError::NotAStatement { why };
    let name = value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| not("a subject has no name".to_owned()))?;
    let digits = value.pointer("/digest/sha256").and_then(Value::as_str);
    let digits = digits.ok_or_else(|| not(format!("the subject {:?} has no sha256", json::short(name))))?;
    // In-toto writes bare hex; the form with a prefix, which `Digest` reads too, is not it.
    let digest = digits.parse().ok().filter(|_| digits.len() == 64);
    let digest =
        digest.ok_or_else(|| not(format!("the sha256 of the subject {:?} is no digest", json::short(name))))?;
    Ok(Subject::new(name, digest))
}

#[derive(Serialize)]
struct WireStatement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: Vec<WireSubject<'a>>,
    #[serde(rename = "predicateType")]
    predicate_type: &'a str,
    predicate: json::Sorted<'a>,
}

#[derive(Serialize)]
struct WireSubject<'a> {
    name: &'a str,
    digest: WireDigest,
}

#[derive(Serialize)]
struct WireDigest {
    sha256: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn statement(predicate: Value) -> Statement {
        Statement {
            subjects: vec![Subject::new("wine.txt", Digest::of("abc"))],
            predicate_type: predicate_type::RELEASE.to_owned(),
            predicate,
        }
    }

    #[test]
    fn the_payload_is_exact_and_reads_back() {
        let original = statement(json!({"z": 1, "a": {"y": null, "b": [1.5]}}));
        let payload = original.to_payload().unwrap();
        assert_eq!(
            String::from_utf8(payload.clone()).unwrap(),
            r#"{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"wine.txt","digest":{"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}}],"predicateType":"urn:sealift:release:v1","predicate":{"a":{"b":[1.5],"y":null},"z":1}}"#
        );
        assert_eq!(Statement::parse(&payload).unwrap(), original);
    }

    #[test]
    fn what_no_reader_would_accept_is_not_signed() {
        let why = |statement: Statement| statement.to_payload().unwrap_err().to_string();
        assert!(why(Statement { subjects: vec![], ..statement(json!({})) }).contains("at least one subject"));
        assert!(why(statement(json!([]))).contains("JSON object"));
        let nameless = vec![Subject::new("", Digest::of(""))];
        assert!(why(Statement { subjects: nameless, ..statement(json!({})) }).contains("has no name"));
        let deep = (0..80).fold(json!(0), |inner, _| json!([inner]));
        assert!(why(statement(json!({"deep": deep}))).contains("nested deeper"));
    }

    #[test]
    fn what_is_no_statement_is_told_so() {
        let why = |text: &str| Statement::parse(text.as_bytes()).unwrap_err().to_string();
        let good = String::from_utf8(statement(json!({})).to_payload().unwrap()).unwrap();
        assert!(why("{}").contains("no _type"));
        assert!(why(&good.replace("Statement/v1", "Statement/v0.1")).contains("its _type is"));
        assert!(why(&good.replace("predicateType", "predicateKind")).contains("no predicateType"));
        assert!(why(&good.replace("sha256", "sha512")).contains("no sha256"));
        assert!(why(&good.replace("ba7816", "BA7816")).contains("no digest"));
        assert!(why(&good.replace("ba7816", "sha256:ba7816")).contains("no digest"));
        assert!(why(&good.replace("\"predicate\":{}", "\"predicate\":0")).contains("no object"));
    }

    #[test]
    fn a_predicate_type_is_demanded_by_name() {
        let error = statement(json!({})).typed::<Value>(predicate_type::PROVENANCE).unwrap_err();
        assert!(error.to_string().contains(r#""urn:sealift:release:v1" and not "https://slsa.dev/provenance/v1""#));
        assert!(statement(json!({})).typed::<Value>(predicate_type::RELEASE).is_ok());
    }
}
