//! The content of a release, and the guard against changing it.
//!
//! A manifest says everything that is needed to run, judge and restore one release of one component, by digest. It is
//! the predicate (`urn:sealift:release:v1`) of a signed in-toto statement whose subjects are [`Manifest::subjects`].
//! It knows nothing of environments: ports and hosts are not part of a release.

use crate::{
    Digest, Name, ReleaseName,
    gate::{Gate, HttpRequest},
    secret::SecretRef,
    workload::{HealthCheck, Relaxation},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// The version of the format that this program writes.
pub const SCHEMA: u32 = 1;

/// One sealed release of one component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version, [`SCHEMA`].
    pub schema: u32,
    /// The project.
    pub project: Name,
    /// `component@version`.
    pub release: ReleaseName,
    /// What must change when the content does.
    pub key: VersionKey,
    /// The commit that it was built from.
    pub source: Source,
    /// Images by platform (`linux/amd64`).
    pub images: BTreeMap<String, Image>,
    /// The image index over `images`, when there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<File>,
    /// Plain files that the build left, by path: wheels, binaries, a binary cache.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub artifacts: BTreeMap<String, File>,
    /// The list of what is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<Sbom>,
    /// Signed statements about what is in it, made before it was sealed: signature, provenance, SBOM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// Where the image is in registries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// Configuration files by path.
    pub configuration: BTreeMap<String, File>,
    /// Data sets.
    pub data: BTreeMap<Name, Data>,
    /// Models.
    pub models: BTreeMap<Name, Model>,
    /// Names and versions of contracts that it keeps.
    pub contracts: BTreeMap<String, String>,
    /// How it runs.
    pub run: Option<Run>,
    /// Its smoke requests.
    pub smoke: Vec<HttpRequest>,
    /// The gates with their thresholds, as they were when it was sealed.
    pub gates: BTreeMap<Name, Gate>,
    /// SHA-256 of `gates` as compact JSON: what a gate's verdict is bound to.
    pub gates_digest: Digest,
    /// The release before it.
    pub previous: Option<Previous>,
    /// The newest ledger entry of each environment when it was sealed: an anchor against truncation.
    pub anchors: BTreeMap<Name, Anchor>,
    /// How it was built. Build level 1 of SLSA is all that it claims.
    pub provenance: Provenance,
}

/// Component, version, logic version and configuration hash: the same key must mean the same content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionKey {
    /// `component@version`.
    pub release: ReleaseName,
    /// `logic_version` of the component.
    pub logic_version: Option<String>,
    /// SHA-256 over the configuration files' paths and digests.
    pub config_hash: Digest,
}

/// Where the code comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Full commit id.
    pub commit: String,
    /// Whether the work tree had changes; a sealed release never does.
    pub dirty: bool,
    /// Branch, if HEAD was on one.
    pub branch: Option<String>,
    /// When it was committed.
    pub committed: jiff::Timestamp,
}

/// One image for one platform. Its blobs are in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the OCI manifest: the image's identity.
    pub manifest: Digest,
    /// Digest of its configuration.
    pub config: Digest,
    /// Digests of its layers, lowest first.
    pub layers: Vec<Digest>,
    /// Size of all blobs in bytes.
    pub bytes: u64,
}

/// A software bill of materials (CycloneDX JSON). Its file is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sbom {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// How many components it lists.
    pub components: u64,
    /// Which tools made it, with their versions.
    pub tool: String,
}

/// A Sigstore bundle under `attestations/` of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What kind of claim it is.
    pub predicate_type: String,
    /// What it is about: the image, or the first subject of a release without one.
    pub subject: Digest,
    /// SHA-256 of the bundle.
    pub bundle: Digest,
}

/// A repository of a registry that has the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// `REGISTRY/PATH`.
    pub repository: String,
    /// Whether it is reached over plain HTTP.
    pub insecure: bool,
    /// The tags that were given to it.
    pub tags: Vec<String>,
    /// Whether the release's evidence is attached to it there.
    pub attached: bool,
}

/// A file in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

/// A data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Digest of the snapshot's manifest.
    pub snapshot: Digest,
    /// Where it stands in the repository.
    pub path: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// `date-confighash`.
    pub version: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub bytes: u64,
    /// Its metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Where it comes from.
    pub lineage: crate::model::Lineage,
}

/// How the component runs, without what belongs to an environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The command, if it is not the image's.
    pub command: Option<Vec<String>>,
    /// Port inside.
    pub port: u16,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Where secrets are read from; values are never sealed.
    pub secrets: BTreeMap<String, SecretRef>,
    /// Where models are put.
    pub models: BTreeMap<Name, String>,
    /// Where configuration files are put.
    pub configs: BTreeMap<String, String>,
    /// When it counts as started.
    pub health: Option<HealthCheck>,
    /// How long it may take to stop.
    #[serde(with = "crate::config::duration")]
    pub stop_timeout: Duration,
    /// Memory limit in bytes.
    pub memory: u64,
    /// Process limit.
    pub pids: u64,
    /// Named exceptions to the container policy.
    pub relax: Vec<Relaxation>,
}

/// The release before this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// Its name.
    pub release: ReleaseName,
    /// Digest of its bundle.
    pub digest: Digest,
}

/// A ledger entry that is known to exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Its sequence number.
    pub seq: u64,
    /// SHA-256 of its exact bytes.
    pub digest: Digest,
}

/// How it was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// `sealift 0.1.0`.
    pub tool: String,
    /// `docker`, `oci`, `nix`, `command` or `none`.
    pub builder: String,
    /// Commands run before the build.
    pub prepare: Vec<Vec<String>>,
    /// Who sealed it.
    pub actor: String,
    /// When the build began.
    pub started: jiff::Timestamp,
    /// When it was sealed.
    pub sealed: jiff::Timestamp,
}

/// A name and a digest that the signature covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// For people: `model/quality`.
    pub name: String,
    /// SHA-256 of the file.
    pub digest: Digest,
}

impl Manifest {
    /// Every digest in the release, each once, in a fixed order: these become the statement's subjects.
    pub fn subjects(&self) -> Vec<Subject> {
        let mut subjects: Vec<Subject> = Vec::new();
        let mut add = |name: String, digest: Digest| {
            if subjects.iter().all(|subject| subject.digest != digest) {
                subjects.push(Subject { name, digest });
            }
        };
        for (platform, image) in &self.images {
            let platform = platform.replace('/', "-");
            add(format!("image/{platform}"), image.manifest);
            add(format!("image/{platform}/config"), image.config);
            for (number, layer) in image.layers.iter().enumerate() {
                add(format!("image/{platform}/layer/{number}"), *layer);
            }
        }
        if let Some(index) = &self.index {
            add("image/index".to_owned(), index.digest);
        }
        for (path, file) in &self.artifacts {
            add(format!("artifact/{path}"), file.digest);
        }
        for (name, model) in &self.models {
            add(format!("model/{name}@{}", model.version), model.digest);
        }
        for (name, data) in &self.data {
            add(format!("data/{name}"), data.snapshot);
        }
        for (path, file) in &self.configuration {
            add(format!("config/{path}"), file.digest);
        }
        if let Some(sbom) = &self.sbom {
            add("sbom".to_owned(), sbom.digest);
        }
        if subjects.is_empty() {
            // A statement needs a subject; a release with nothing but thresholds is the thresholds.
            subjects.push(Subject { name: "gates".to_owned(), digest: self.gates_digest });
        }
        subjects
    }

    /// Whole blobs that must be in the store for the release to be restorable (snapshots are checked apart).
    pub fn blobs(&self) -> Vec<Subject> {
        let snapshots: Vec<Digest> = self.data.values().map(|data| data.snapshot).collect();
        let mut blobs = self.subjects();
        blobs.retain(|subject| !snapshots.contains(&subject.digest) && subject.name != "gates");
        blobs
    }

    /// What a registry knows the image by: the index over all platforms, or the only image.
    pub fn root(&self) -> Option<Digest> {
        self.index.as_ref().map(|index| index.digest).or_else(|| match self.images.len() {
            1 => self.images.values().next().map(|image| image.manifest),
            _ => None,
        })
    }

    /// Every name that the image has in registries, by digest: `REGISTRY/PATH@sha256:…`.
    pub fn references(&self) -> Vec<String> {
        let root = self.root();
        let reference = |published: &Published| root.map(|root| format!("{}@{root}", published.repository));
        self.published.iter().filter_map(reference).collect()
    }

    /// The image for this machine's platform, or the only one.
    pub fn image(&self, platform: &str) -> Option<&Image> {
        self.images.get(platform).or_else(|| if self.images.len() == 1 { self.images.values().next() } else { None })
    }
}

/// SHA-256 over configuration files: `digest  path\n` in order of path, as `sha256sum` prints it.
pub fn config_hash(files: &BTreeMap<String, File>) -> Digest {
    let text: String = files.iter().map(|(path, file)| format!("{}  {path}\n", file.digest.hex())).collect();
    Digest::of(text)
}

/// SHA-256 of gates as compact JSON.
pub fn gates_digest(gates: &BTreeMap<Name, Gate>) -> Digest {
    Digest::of(serde_json::to_vec(gates).unwrap_or_default())
}

/// One field in which two manifests of the same release differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which field: `model/quality`.
    pub field: String,
    /// What is sealed.
    pub sealed: String,
    /// What was about to be sealed.
    pub offered: String,
}

/// The drift guard: in what the *content* of two manifests differs. Times, actors, anchors and the commit's identity
/// are not content: the same bytes sealed again are the same release.
pub fn differences(sealed: &Manifest, offered: &Manifest) -> Vec<Difference> {
    let fields = |manifest: &Manifest| -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        for (platform, image) in &manifest.images {
            fields.insert(format!("image {platform}"), image.manifest.to_string());
        }
        for (path, file) in &manifest.artifacts {
            fields.insert(format!("artifact {path}"), file.digest.to_string());
        }
        for (path, file) in &manifest.configuration {
            fields.insert(format!("config {path}"), file.digest.to_string());
        }
        for (name, data) in &manifest.data {
            fields.insert(format!("data {name}"), data.snapshot.to_string());
        }
        for (name, model) in &manifest.models {
            fields.insert(format!("model {name}"), model.digest.to_string());
        }
        for (name, version) in &manifest.contracts {
            fields.insert(format!("contract {name}"), version.clone());
        }
        let json = |value: serde_json::Result<String>| value.unwrap_or_default();
        fields.insert("run".to_owned(), json(serde_json::to_string(&manifest.run)));
        fields.insert("smoke".to_owned(), json(serde_json::to_string(&manifest.smoke)));
        fields.insert("gates".to_owned(), manifest.gates_digest.to_string());
        fields.insert("logic_version".to_owned(), manifest.key.logic_version.clone().unwrap_or_default());
        fields
    };
    let (sealed, offered) = (fields(sealed), fields(offered));
    let names: std::collections::BTreeSet<&String> = sealed.keys().chain(offered.keys()).collect();
    let absent = || "absent".to_owned();
    names
        .into_iter()
        .filter(|name| sealed.get(*name) != offered.get(*name))
        .map(|name| Difference {
            field: name.clone(),
            sealed: sealed.get(name).cloned().unwrap_or_else(absent),
            offered: offered.get(name).cloned().unwrap_or_else(absent),
        })
        .collect()
}

/// The smallest version that other content could legally have: the next patch, or the next prerelease number's patch.
pub fn next_legal(version: &semver::Version) -> semver::Version {
    if version.pre.is_empty() {
        semver::Version::new(version.major, version.minor, version.patch + 1)
    } else {
        let next = match version.pre.as_str().rsplit_once('.') {
            Some((head, number)) if number.parse::<u64>().is_ok() => {
                format!("{head}.{}", number.parse::<u64>().unwrap_or(0) + 1)
            }
            _ => format!("{}.1", version.pre),
        };
        let mut legal = semver::Version::new(version.major, version.minor, version.patch);
        legal.pre = semver::Prerelease::new(&next).unwrap_or(semver::Prerelease::EMPTY);
        legal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_legal_version() {
        let next = |text: &str| next_legal(&text.parse().unwrap()).to_string();
        assert_eq!(next("1.2.3"), "1.2.4");
        assert_eq!(next("1.2.3-rc.1"), "1.2.3-rc.2");
        assert_eq!(next("1.2.3-rc"), "1.2.3-rc.1");
    }

    #[test]
    fn the_configuration_hash_is_what_sha256sum_would_print_hashed() {
        let files = BTreeMap::from([("a".to_owned(), File { digest: Digest::of("x"), bytes: 1 })]);
        assert_eq!(config_hash(&files), Digest::of(format!("{}  a\n", Digest::of("x").hex())));
    }
}
