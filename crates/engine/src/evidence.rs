//! What is claimed of a release before it is sealed: that we signed it, how it was built, what is in it.
//!
//! Each claim is a Sigstore bundle under `attestations/<2>/<subject>/<bundle>.sigstore.json`, so that it can be attached to an
//! image in a registry byte for byte, and read by people who have never heard of Sealift:
//!
//! | predicate type | says |
//! |---|---|
//! | `https://sigstore.dev/cosign/sign/v1` | this digest is ours; what `cosign verify` asks for |
//! | `https://slsa.dev/provenance/v1` | from which commit, by which builder, when |
//! | `https://cyclonedx.org/bom` | which packages are in it |
//!
//! The provenance claims SLSA build level 1: it exists and it is honest. It was made by the same hands as the build, on a machine that
//! anybody may have had, and so proves no more than its signature. Of the dependencies it lists those that are known by digest: the
//! commit, the base image, data and models, files that lock dependencies. It does not list what a Dockerfile fetched.
//!
//! A claim that was stored before is not made again: a release that is cut a second time after it died has the evidence of
//! the first time, although the clock has moved on. Nothing here knows a registry.

use crate::{
    build::BuiltComponent,
    error::{Doing, Error, Result},
};
use domain::{
    Digest, Name,
    manifest::{self, Manifest},
};
use futures::{StreamExt, TryStreamExt, stream};
use ledger::{
    bundle::{self, Bundle, Verified},
    keys::{SigningKey, TrustedKeys},
    statement::{Statement, Subject, predicate_type},
};
use serde_json::{Value, json};
use store::Store;

/// How many bundles are read at once.
const READERS: usize = 16;
/// `buildType` of our provenance: the fields below it are those of `Sealift.toml`.
const BUILD_TYPE: &str = "urn:sealift:build:v1";
/// `builder.id`: whoever ran the program, wherever.
const BUILDER: &str = "urn:sealift:self-run";

/// A claim in the store.
#[derive(Debug, Clone)]
pub struct Claim {
    /// What the manifest says of it.
    pub evidence: manifest::Evidence,
    /// The bundle's exact bytes.
    pub bytes: Vec<u8>,
}

/// A claim whose signature holds.
#[derive(Debug, Clone)]
pub struct Attested {
    /// Where it is.
    pub key: String,
    /// What it says, and who signed it.
    pub verified: Verified,
    /// The bundle's exact bytes.
    pub bytes: Vec<u8>,
}

/// Where the claims about a subject are.
pub(crate) fn prefix(subject: &Digest) -> String {
    let hex = subject.hex();
    format!("attestations/{}/{hex}/", &hex[..2])
}

/// Where one claim is.
pub fn key(subject: &Digest, bundle: &Digest) -> String {
    format!("{}{}.sigstore.json", prefix(subject), bundle.hex())
}

/// A short word for a kind of claim.
pub fn word(predicate_type: &str) -> &str {
    match predicate_type {
        predicate_type::COSIGN_SIGNATURE => "signature",
        predicate_type::PROVENANCE => "provenance",
        predicate_type::SBOM => "sbom",
        predicate_type::TEST_RESULT => "test-result",
        predicate_type::GATE_VERDICT => "verdict",
        other => other,
    }
}

/// Signs and stores everything that is claimed of a release, and notes it in its manifest.
///
/// `sbom` is the document itself. Needs images, artifacts, data, models and the SBOM in the manifest already.
pub(crate) async fn record(
    store: &Store,
    trusted: &TrustedKeys,
    key: &SigningKey,
    manifest: &mut Manifest,
    built: &BuiltComponent,
    sbom: &[u8],
) -> Result<Vec<Claim>> {
    let subjects: Vec<Subject> =
        manifest.subjects().into_iter().filter(|subject| subject.name != "sbom").map(subject).collect();
    let about = manifest.root().or_else(|| subjects.first().map(|subject| subject.sha256));
    let about = about.ok_or_else(|| Error::Internal { message: format!("{} has no subject", manifest.release) })?;
    let there = about_subject(store, trusted, &about).await?;
    let document: Value = serde_json::from_slice(sbom)
        .map_err(|error| Error::Internal { message: format!("the SBOM is no JSON: {error}") })?;
    let mut claims = Vec::new();
    for (kind, predicate) in [
        (predicate_type::COSIGN_SIGNATURE, json!({})),
        (predicate_type::PROVENANCE, provenance(manifest, built)),
        (predicate_type::SBOM, document),
    ] {
        // What a build made, and nothing that it was only given, is what its provenance is about.
        let about_build = kind == predicate_type::PROVENANCE && subjects.iter().any(was_built);
        let subjects = subjects.iter().filter(|subject| !about_build || was_built(subject)).cloned().collect();
        let statement = Statement { subjects, predicate_type: kind.to_owned(), predicate: predicate.clone() };
        let known = there.iter().find(|known| {
            known.verified.public_key.key_id() == key.public().key_id()
                && same_claim(&known.verified.statement, &statement)
        });
        let doing = || format!("record the {} of {}", word(kind), manifest.release);
        let (bundle, bytes) = match known {
            Some(known) => (known.verified.bundle_digest, known.bytes.clone()),
            None => {
                let bundle = Bundle::sign(key, &statement).doing(doing())?;
                let (digest, bytes) = (bundle.digest(), bundle.into_bytes());
                store.create(&self::key(&about, &digest), bytes.clone().into()).await.doing(doing())?;
                (digest, bytes)
            }
        };
        claims.push(Claim {
            evidence: manifest::Evidence { predicate_type: kind.to_owned(), subject: about, bundle },
            bytes,
        });
    }
    manifest.evidence = claims.iter().map(|claim| claim.evidence.clone()).collect();
    Ok(claims)
}

/// Whether a build made it: `image/…` and `artifact/…` of [`Manifest::subjects`].
fn was_built(subject: &Subject) -> bool {
    ["image/", "artifact/"].iter().any(|made| subject.name.starts_with(made))
}

fn subject(subject: manifest::Subject) -> Subject {
    Subject::new(subject.name, subject.digest)
}

/// Whether a claim that is there says what a new one would, times and run aside.
fn same_claim(there: &Statement, new: &Statement) -> bool {
    let same_subjects = |there: &Statement| {
        let mut digests: Vec<Digest> = there.subjects.iter().map(|subject| subject.sha256).collect();
        digests.sort_unstable();
        digests
    };
    let says = |statement: &Statement| match statement.predicate_type.as_str() {
        predicate_type::PROVENANCE => statement.predicate.get("buildDefinition").cloned(),
        _ => Some(statement.predicate.clone()),
    };
    there.predicate_type == new.predicate_type && same_subjects(there) == same_subjects(new) && says(there) == says(new)
}

/// SLSA provenance v1.
fn provenance(manifest: &Manifest, built: &BuiltComponent) -> Value {
    let source = &manifest.source;
    let mut dependencies = vec![json!({
        "uri": built.source.as_ref().map_or_else(
            || format!("urn:sealift:source:{}", manifest.project),
            |source| format!("git+{source}@{}", manifest.source.commit),
        ),
        "digest": {"gitCommit": source.commit},
    })];
    dependencies.extend(built.materials.iter().map(|material| json!(material)));
    for (name, data) in &manifest.data {
        dependencies.push(json!({"name": format!("data/{name}"), "digest": {"sha256": data.snapshot.hex()}}));
    }
    for (name, model) in &manifest.models {
        let name = format!("model/{name}@{}", model.version);
        dependencies.push(json!({"name": name, "digest": {"sha256": model.digest.hex()}}));
    }
    let sbom = manifest.sbom.as_ref().map(|sbom| json!({"name": "sbom", "digest": {"sha256": sbom.digest.hex()}}));
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "component": manifest.release.component,
                "version": manifest.release.version,
                "build": built.definition,
                "source": {"commit": source.commit, "branch": source.branch},
            },
            "internalParameters": {"tool": manifest.provenance.tool, "platforms": manifest.images.keys().collect::<Vec<_>>()},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"sealift": env!("CARGO_PKG_VERSION")}},
            "metadata": {
                "invocationId": built.invocation,
                "startedOn": built.started,
                "finishedOn": built.finished,
            },
            "byproducts": sbom.into_iter().collect::<Vec<_>>(),
        },
    })
}

/// Every claim about a subject that a trusted key signed. One that nobody whom we trust has signed says nothing, and is left out.
pub async fn about_subject(store: &Store, trusted: &TrustedKeys, subject: &Digest) -> Result<Vec<Attested>> {
    let doing = || format!("read the evidence about {subject}");
    let keys = store.list(&prefix(subject)).await.doing(doing())?;
    let read = |key: String| async move {
        let Some(object) = store.read(&key).await.doing(doing())? else { return Ok(None) };
        let bytes = object.bytes.to_vec();
        let verified = bundle::verify(&bytes, trusted).ok();
        let verified = verified.filter(|verified| verified.require_subject(*subject).is_ok());
        Ok::<_, Error>(verified.map(|verified| Attested { key, verified, bytes }))
    };
    let found: Vec<Option<Attested>> =
        stream::iter(keys.into_iter().map(|(key, _)| read(key))).buffered(READERS).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// What was found of a claim that a release names.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Checked {
    /// `signature`, `provenance`, `sbom`.
    pub kind: String,
    /// The full predicate type.
    pub predicate_type: String,
    /// SHA-256 of the bundle.
    pub bundle: Digest,
    /// Who signed it.
    pub signer: Name,
    /// Where it is, in the store or in a folder.
    pub at: String,
}

/// Verifies one claim that a release names, in bytes that came from `at`.
pub fn check(
    evidence: &manifest::Evidence,
    bytes: &[u8],
    at: &str,
    trusted: &TrustedKeys,
    manifest: &Manifest,
) -> Result<Checked> {
    let kind = word(&evidence.predicate_type).to_owned();
    let integrity = |message: String| Error::Integrity { message };
    let verified = bundle::verify(bytes, trusted).doing(format!("verify the {kind} at {at}"))?;
    if Digest::of(bytes) != evidence.bundle {
        let found = Digest::of(bytes);
        return Err(integrity(format!(
            "the {kind} at {at} is the bundle {found}, and {} was sealed with {}",
            manifest.release, evidence.bundle
        )));
    }
    verified.require_type(&evidence.predicate_type).doing(format!("verify the {kind} at {at}"))?;
    verified
        .require_subject(evidence.subject)
        .doing(format!("verify that the {kind} at {at} is about {}", manifest.release))?;
    if let (predicate_type::SBOM, Some(sbom)) = (evidence.predicate_type.as_str(), &manifest.sbom) {
        let listed = verified.statement.predicate.get("components").and_then(Value::as_array).map_or(0, Vec::len);
        if listed as u64 != sbom.components {
            let message = format!(
                "the SBOM at {at} lists {listed} components, and {} says {}",
                manifest.release, sbom.components
            );
            return Err(integrity(message));
        }
    }
    let predicate_type = evidence.predicate_type.clone();
    Ok(Checked { kind, predicate_type, bundle: evidence.bundle, signer: verified.key, at: at.to_owned() })
}

/// The bytes of a claim that a release names.
pub async fn read(store: &Store, evidence: &manifest::Evidence, manifest: &Manifest) -> Result<Vec<u8>> {
    let (kind, key) = (word(&evidence.predicate_type), key(&evidence.subject, &evidence.bundle));
    let object = store.read(&key).await.doing(format!("read the {kind} of {}", manifest.release))?;
    let object = object
        .ok_or_else(|| Error::not_found(format!("the {kind} of {} is not in the store ({key})", manifest.release)))?;
    let found = Digest::of(&object.bytes);
    if found != evidence.bundle {
        let (release, sealed) = (&manifest.release, evidence.bundle);
        let message = format!("the {kind} at {key} is the bundle {found}, and {release} was sealed with {sealed}");
        return Err(Error::Integrity { message });
    }
    Ok(object.bytes.to_vec())
}
