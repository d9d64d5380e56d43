//! Sealed releases in the store: find, read, verify; and what an environment serves.
//!
//! A release is believed because of its signature, never because of where it lies. It is read without git, registry
//! or configuration: a store and trusted keys are enough.

use crate::{
    error::{Doing, Error, Result},
    evidence,
};
use domain::{
    Digest, Name, ReleaseName,
    manifest::{Manifest, SCHEMA},
    names::Unknown,
    state::{Current, Running},
};
use futures::{StreamExt, TryStreamExt, stream};
use ledger::{bundle, keys::TrustedKeys, statement::predicate_type};
use store::{Family, Store};

/// How many objects are asked for at once.
const READERS: usize = 16;

/// A release whose signature holds.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// What it consists of.
    pub manifest: Manifest,
    /// SHA-256 of the bundle: the release's identity.
    pub digest: Digest,
    /// The bundle's exact bytes.
    pub bytes: Vec<u8>,
    /// The name of the key that signed it.
    pub signer: Name,
}

/// The key of a release's bundle.
pub fn key(release: &ReleaseName) -> String {
    format!("releases/{}/{}.sigstore.json", release.component, release.version)
}

/// The key of an environment's current state.
pub fn current_key(environment: &Name) -> String {
    format!("envs/{environment}/current.json")
}

/// Reads and verifies a release.
pub async fn read(store: &Store, trusted: &TrustedKeys, release: &ReleaseName) -> Result<Sealed> {
    find(store, trusted, release).await?.ok_or_else(|| Error::NotFound {
        message: format!("{release} is not in the store {}", store.describe()),
        next: Some("sealift status".to_owned()),
    })
}

/// Reads and verifies a release, if it is there.
pub async fn find(store: &Store, trusted: &TrustedKeys, release: &ReleaseName) -> Result<Option<Sealed>> {
    let key = key(release);
    let Some(object) = store.read(&key).await.doing(format!("read {release}"))? else { return Ok(None) };
    let sealed = verify(&object.bytes, trusted).map_err(|error| named(&key, error))?;
    if sealed.manifest.release != *release {
        let message =
            format!("{key} holds {}: the bundle of another release was put in its place", sealed.manifest.release);
        return Err(Error::Integrity { message });
    }
    Ok(Some(sealed))
}

fn named(key: &str, error: Error) -> Error {
    match error {
        Error::Failed { cause, .. } => Error::Failed { doing: format!("verify {key}"), cause },
        other => other,
    }
}

/// Verifies the bytes of a bundle as a release.
pub fn verify(bytes: &[u8], trusted: &TrustedKeys) -> Result<Sealed> {
    let doing = "verify the release";
    let verified = bundle::verify(bytes, trusted).doing(doing)?;
    let manifest: Manifest = verified.predicate(predicate_type::RELEASE).doing(doing)?;
    if manifest.schema != SCHEMA {
        return Err(Error::bad_input(format!(
            "{} has manifest format {}, and this program reads {SCHEMA}",
            manifest.release, manifest.schema
        )));
    }
    for subject in manifest.subjects() {
        verified.require_subject(subject.digest).doing(format!("verify {} of {}", subject.name, manifest.release))?;
    }
    Ok(Sealed { manifest, digest: verified.bundle_digest, bytes: bytes.to_vec(), signer: verified.key })
}

/// Every release in the store, or those of one component, in order of component and version.
pub async fn list(store: &Store, component: Option<&Name>) -> Result<Vec<ReleaseName>> {
    let prefix = component.map_or_else(|| "releases/".to_owned(), |component| format!("releases/{component}/"));
    let keys = store.list(&prefix).await.doing("list the releases")?;
    let mut releases: Vec<ReleaseName> = keys
        .iter()
        .filter_map(|(key, _)| {
            let (component, file) = key.strip_prefix("releases/")?.split_once('/')?;
            let version = file.strip_suffix(".sigstore.json")?.parse().ok()?;
            Some(ReleaseName { component: component.parse().ok()?, version })
        })
        .collect();
    releases.sort();
    Ok(releases)
}

/// Finds out which release a person means: `wine@1.2.0`, `1.2.0` where there is one component only, or `wine` for its newest.
pub async fn resolve(store: &Store, text: &str, components: &[Name]) -> Result<ReleaseName> {
    let candidates = list(store, None).await?;
    let unknown = || Error::Unknown(Unknown::new("release", text, candidates.iter().map(ToString::to_string)));
    if let Ok(name) = text.parse::<ReleaseName>() {
        return candidates.iter().find(|release| **release == name).cloned().ok_or_else(unknown);
    }
    let version = text.strip_prefix('v').unwrap_or(text).parse::<semver::Version>();
    if let (Ok(version), [component]) = (version, components) {
        let name = ReleaseName { component: component.clone(), version };
        return candidates.iter().find(|release| **release == name).cloned().ok_or_else(unknown);
    }
    candidates.iter().rev().find(|release| release.component.as_str() == text).cloned().ok_or_else(unknown)
}

/// What of a release is not in the store, in words. Asks by HEAD: presence and size, not content.
pub async fn missing(store: &Store, manifest: &Manifest) -> Result<Vec<String>> {
    let blobs = manifest.blobs();
    let found: Vec<Option<String>> = stream::iter(blobs)
        .map(|subject| async move {
            let there = store.has(Family::Blob, &subject.digest).await.doing(format!("look for {}", subject.name))?;
            Ok::<_, Error>(
                there.is_none().then(|| format!("{} ({})", subject.name, Store::key(Family::Blob, &subject.digest))),
            )
        })
        .buffered(READERS)
        .try_collect()
        .await?;
    let mut missing: Vec<String> = found.into_iter().flatten().collect();
    for claim in &manifest.evidence {
        let key = evidence::key(&claim.subject, &claim.bundle);
        let kind = evidence::word(&claim.predicate_type);
        if store.read(&key).await.doing(format!("look for the {kind}"))?.is_none() {
            missing.push(format!("{kind} ({key})"));
        }
    }
    for (name, data) in &manifest.data {
        let keys = snapshot::complete(store, &data.snapshot).await.doing(format!("look for data {name}"))?;
        missing.extend(keys.into_iter().map(|key| format!("data/{name} ({key})")));
    }
    Ok(missing)
}

/// The release that `current.json` names, verified, and found to be the very bundle that it names.
pub async fn serving(store: &Store, trusted: &TrustedKeys, environment: &Name, running: &Running) -> Result<Sealed> {
    let sealed = read(store, trusted, &running.release).await?;
    if sealed.digest != running.digest {
        return Err(Error::Integrity {
            message: format!(
                "{} names {} as {}, and that release is {}",
                current_key(environment),
                running.release,
                running.digest,
                sealed.digest
            ),
        });
    }
    Ok(sealed)
}

/// What an environment serves, as the store has it.
pub async fn current(store: &Store, environment: &Name) -> Result<Current> {
    let key = current_key(environment);
    match store.read(&key).await.doing(format!("read what {environment} serves"))? {
        Some(stored) => parse_current(&key, &stored.bytes),
        None => Ok(Current::empty(environment.clone())),
    }
}

/// Reads the bytes of `current.json`.
pub fn parse_current(key: &str, bytes: &[u8]) -> Result<Current> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Integrity { message: format!("{key} is not readable: {error}") })
}
