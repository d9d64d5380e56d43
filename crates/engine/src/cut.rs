//! From a commit to a sealed release: build, publish, seal.
//!
//! The order is that of the store: children before parents, the release's bundle last, create-only. So a cut that dies
//! anywhere leaves at most orphans, and is finished by doing it again. What is published is byte for byte what was
//! built: images are taken from their layout on disk, never built a second time.

use crate::{
    artifacts::{blocking, digest_of},
    build, data,
    error::{Doing, Error, Result},
    evidence,
    git::{self, Head},
    journal::Log,
    models, publish, releases,
    workspace::Workspace,
};
use domain::{
    Digest, Name, ReleaseName,
    config::{Component, SbomTool, VersionSource},
    manifest::{self, Anchor, Manifest, Provenance, VersionKey},
    version::{VersionFile, agree},
};
use ledger::{
    bundle::Bundle,
    keys::{SigningKey, TrustedKeys},
    statement::{Statement, Subject, predicate_type},
};
use semver::Version;
use serde::Serialize;
use std::{collections::BTreeMap, fs, time::Duration};
use store::{Family, Store};

/// How long a collection that removes what a release needs is waited for; longer than the lease of a dead one.
const PATIENCE: Duration = Duration::from_secs(90);

/// A sealed release.
#[derive(Debug, Clone, Serialize)]
pub struct CutResult {
    /// Its name.
    pub release: ReleaseName,
    /// SHA-256 of its bundle.
    pub digest: Digest,
    /// Where the bundle is.
    pub key: String,
    /// Whether it is new; the same content may have been sealed before.
    pub new: bool,
    /// What it consists of.
    pub manifest: Manifest,
}

/// The component that a name means; without a name the only one.
pub fn component<'a>(workspace: &'a Workspace, name: Option<&str>) -> Result<&'a Component> {
    let components = &workspace.config.components;
    match name {
        Some(name) => Ok(workspace.config.component(name)?),
        None if components.len() == 1 => {
            Ok(components.values().next().ok_or_else(|| Error::not_found("there is no component"))?)
        }
        None => {
            let names: Vec<&str> = components.keys().map(Name::as_str).collect();
            Err(Error::Usage { message: format!("say which component: {}", names.join(", ")) })
        }
    }
}

/// The version that all version files of a component agree on.
pub fn version(workspace: &Workspace, component: &Component) -> Result<Version> {
    let folder = workspace.root.join(&component.path);
    let mut found = Vec::new();
    for VersionSource { path, pattern } in &component.version_files {
        let full = folder.join(path);
        let text = fs::read_to_string(&full).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::not_found(format!("the version file {} of {} is not there", full.display(), component.name))
            }
            _ => Error::File { action: "read", path: full.clone(), source: error },
        })?;
        let file = VersionFile::new(path.clone(), pattern.as_deref()).map_err(|e| Error::bad_input(e.to_string()))?;
        found.push(file.read(&text).map_err(|error| Error::bad_input(error.to_string()))?);
    }
    let version = agree(&found).map_err(|error| Error::bad_input(format!("{}: {error}", component.name)))?;
    if !version.build.is_empty() {
        return Err(Error::bad_input(format!(
            "{} has version {version}: build metadata (+{}) cannot be part of a release's name",
            component.name, version.build
        )));
    }
    Ok(version)
}

/// Cuts a release of a component: clean tree, agreeing versions, build, publish, seal.
pub async fn cut(workspace: &Workspace, wanted: Option<&str>) -> Result<CutResult> {
    let component = component(workspace, wanted)?;
    let head = clean_head(workspace).await?;
    let version = version(workspace, component)?;
    let release = ReleaseName { component: component.name.clone(), version: version.clone() };
    let (key, trusted) = (workspace.signing_key()?, workspace.trusted_keys()?);
    let store = workspace.store_for_writing().await?;
    let started = workspace.now();
    let sealed = releases::find(&store, &trusted, &release).await?;
    let content = Content::gather(workspace, &store, &trusted, component).await?;
    let mut offered = content.manifest(workspace, component, &release, &head, started).await;

    if let Some(sealed) = &sealed {
        // The same commit with the same content is the same release: nothing is built again.
        offered.images = sealed.manifest.images.clone();
        offered.artifacts = sealed.manifest.artifacts.clone();
        let differences = manifest::differences(&sealed.manifest, &offered);
        if !differences.is_empty() {
            return Err(drift(release, differences));
        }
        if sealed.manifest.source.commit == head.commit {
            publish_data(workspace, &store, &content).await?;
            return Ok(result(&release, sealed.digest, false, sealed.manifest.clone()));
        }
    }
    let built = match build::kept(workspace, component, &version, &head).await {
        Some(built) => built,
        None => {
            let built = build::build_one(workspace, component, &version, Some(&head)).await?;
            let now = clean_head(workspace).await?;
            if now.commit != head.commit {
                let moved = format!("HEAD moved from {} to {} while it was built", head.commit, now.commit);
                return Err(Error::bad_input(moved));
            }
            build::keep(workspace, &head, &built).await?;
            built
        }
    };
    offered.images = built.images.clone();
    offered.index = built.index.clone();
    let file = |file: &build::BuiltFile| manifest::File { digest: file.digest, bytes: file.bytes };
    offered.artifacts = built.artifacts.iter().map(|(path, built)| (path.clone(), file(built))).collect();
    if let Some(sealed) = sealed {
        let differences = manifest::differences(&sealed.manifest, &offered);
        if !differences.is_empty() {
            return Err(drift(release, differences));
        }
        publish_data(workspace, &store, &content).await?;
        return Ok(result(&release, sealed.digest, false, sealed.manifest));
    }
    publish_data(workspace, &store, &content).await?;
    publish_configuration(workspace, &store, component, &content).await?;
    publish::store_built(workspace, &store, &built).await?;
    let bill = bill_of_materials(workspace, component, &release, &head, &built).await?;
    offered.sbom = Some(manifest::Sbom {
        digest: store.put_bytes(Family::Blob, bill.bytes.clone().into()).await.doing("store the SBOM")?,
        bytes: bill.bytes.len() as u64,
        components: bill.components,
        tool: bill.tool,
    });
    let claims = evidence::record(&store, &trusted, &key, &mut offered, &built, &bill.bytes).await?;
    if let (Some(layout), Some(root)) = (&built.layout, offered.root()) {
        let sealed = releases::list(&store, Some(&release.component)).await?;
        let others: Vec<Version> = sealed.into_iter().map(|release| release.version).collect();
        offered.published = publish::destinations(component, &version, &others);
        let pushed = publish::push(workspace, layout, &root, &offered.published, &claims, head.committed).await;
        // What was built just now replaced the note of what was built before, and the note still knows it.
        let noted = || build::noted_roots(workspace, &component.name, &version);
        pushed.map_err(|error| publish::taken_elsewhere(error, &release, &noted()))?;
    }
    offered.previous = previous(&store, &trusted, &release).await?;
    offered.anchors = anchors(workspace, &store, &trusted).await?;
    offered.provenance.sealed = workspace.now();
    let sealed = seal(&store, &trusted, &key, offered).await?;
    publish_data(workspace, &store, &content).await?;
    Ok(sealed)
}

/// The commit, when nothing is changed beside it.
async fn clean_head(workspace: &Workspace) -> Result<Head> {
    let head = git::head(&workspace.root).await?;
    if !head.changed.is_empty() {
        let mut shown: Vec<&str> = head.changed.iter().take(5).map(String::as_str).collect();
        let more = head.changed.len() - shown.len();
        let rest = format!("and {more} more");
        if more > 0 {
            shown.push(&rest);
        }
        return Err(Error::BadInput {
            message: format!("the work tree has changes that are not committed: {}", shown.join(", ")),
            next: Some("git add -A && git commit".to_owned()),
        });
    }
    if head.branch.is_none() {
        workspace.events.note(format!("HEAD is detached at {}; the release names no branch", &head.commit[..12]));
    }
    Ok(head)
}

fn drift(release: ReleaseName, differences: Vec<manifest::Difference>) -> Error {
    let legal = manifest::next_legal(&release.version);
    Error::Drift { release, differences, legal }
}

fn result(release: &ReleaseName, digest: Digest, new: bool, manifest: Manifest) -> CutResult {
    CutResult { release: release.clone(), digest, key: releases::key(release), new, manifest }
}

/// Everything but the image that goes into a release.
struct Content {
    configuration: BTreeMap<String, manifest::File>,
    data: BTreeMap<Name, manifest::Data>,
    models: BTreeMap<Name, manifest::Model>,
    gates: BTreeMap<Name, domain::gate::Gate>,
}

impl Content {
    async fn gather(
        workspace: &Workspace,
        store: &Store,
        trusted: &TrustedKeys,
        component: &Component,
    ) -> Result<Self> {
        let mut configuration = BTreeMap::new();
        for path in &component.config_files {
            let full = workspace.root.join(&component.path).join(path);
            let bytes = fs::metadata(&full).map_err(Error::file("read", &full))?.len();
            configuration.insert(path.clone(), manifest::File { digest: digest_of(&full)?, bytes });
        }
        let mut sets = BTreeMap::new();
        for name in &component.data {
            sets.insert(name.clone(), snapshot_of(workspace, store, name).await?);
        }
        let mut versions = BTreeMap::new();
        for name in &component.models {
            versions.insert(name.clone(), model_of(workspace, store, trusted, name).await?);
        }
        let gates = crate::gates::sealed(&workspace.config.gates, &workspace.root)?;
        Ok(Self { configuration, data: sets, models: versions, gates })
    }

    async fn manifest(
        &self,
        workspace: &Workspace,
        component: &Component,
        release: &ReleaseName,
        head: &Head,
        started: jiff::Timestamp,
    ) -> Manifest {
        let gates = self.gates.clone();
        Manifest {
            schema: manifest::SCHEMA,
            project: workspace.config.project.clone(),
            release: release.clone(),
            key: VersionKey {
                release: release.clone(),
                logic_version: component.logic_version.clone(),
                config_hash: manifest::config_hash(&self.configuration),
            },
            source: manifest::Source {
                commit: head.commit.clone(),
                dirty: false,
                branch: head.branch.clone(),
                committed: head.committed,
            },
            images: BTreeMap::new(),
            index: None,
            artifacts: BTreeMap::new(),
            sbom: None,
            evidence: Vec::new(),
            published: Vec::new(),
            configuration: self.configuration.clone(),
            data: self.data.clone(),
            models: self.models.clone(),
            contracts: component.contracts.clone(),
            run: component.run.as_ref().map(sealed_run),
            smoke: component.smoke.clone(),
            gates_digest: manifest::gates_digest(&gates),
            gates,
            previous: None,
            anchors: BTreeMap::new(),
            provenance: Provenance {
                tool: format!("sealift {}", env!("CARGO_PKG_VERSION")),
                builder: component.build.builder.word().to_owned(),
                prepare: component.build.prepare.clone(),
                actor: workspace.actor().await,
                started,
                sealed: started,
            },
        }
    }
}

fn sealed_run(run: &domain::config::Run) -> manifest::Run {
    manifest::Run {
        command: run.command.clone(),
        port: run.port,
        env: run.env.clone(),
        secrets: run.secrets.clone(),
        models: run.models.clone(),
        configs: run.configs.clone(),
        health: run.health.clone(),
        stop_timeout: run.stop_timeout,
        memory: run.memory,
        pids: run.pids,
        relax: run.relax.clone(),
    }
}

/// The snapshot of a data set: what its pointer says, which must be what lies there, unless nothing does.
async fn snapshot_of(workspace: &Workspace, store: &Store, name: &Name) -> Result<manifest::Data> {
    let path = workspace.config.data_set(name.as_str())?.path.trim_end_matches('/').to_owned();
    let pointer = data::pointer(&workspace.root, &path)?;
    let (repository, events, file) =
        (data::repository(workspace), workspace.events.clone(), data::pointer_file(&workspace.root, &path));
    let found = blocking(move || repository.status(&file, &events)).await?;
    let found = found.doing(format!("compare {path} with its snapshot"))?;
    if let snapshot::State::Modified { added, removed, changed } = &found.state {
        let count = added.len() + removed.len() + changed.len();
        let example = changed.iter().chain(added).chain(removed).next().cloned().unwrap_or_default();
        return Err(Error::BadInput {
            message: format!("data {name} has changed since it was added: {count} files, for example {path}/{example}"),
            next: Some(format!("sealift data add {path}")),
        });
    }
    if !found.cached
        && !data::repository(workspace)
            .complete(store, &pointer.digest)
            .await
            .doing(format!("look for data {name}"))?
            .is_empty()
    {
        return Err(Error::NotFound {
            message: format!("the snapshot {} of data {name} is neither in the cache nor in the store", pointer.digest),
            next: Some(format!("sealift data add {path}")),
        });
    }
    Ok(manifest::Data { snapshot: pointer.digest, path, bytes: pointer.bytes, files: pointer.files })
}

/// The registered version of a model's file.
async fn model_of(workspace: &Workspace, store: &Store, trusted: &TrustedKeys, name: &Name) -> Result<manifest::Model> {
    let settings = workspace.config.model(name.as_str())?;
    let file = workspace.root.join(&settings.file);
    if !file.is_file() {
        return Err(Error::NotFound {
            message: format!("the file of model {name} is not there: {}", settings.file),
            next: Some(format!("sealift model download {name} --to {}", settings.file)),
        });
    }
    let path = file.clone();
    let digest = blocking(move || digest_of(&path)).await??;
    let record = models::find(store, trusted, name, &digest).await?.ok_or_else(|| Error::BadInput {
        message: format!("{} ({}) is not a registered version of model {name}", settings.file, digest.short()),
        next: Some(format!("sealift model register {name}")),
    })?;
    Ok(manifest::Model {
        version: record.version,
        digest: record.digest,
        bytes: record.bytes,
        metrics: record.metrics,
        lineage: record.lineage,
    })
}

/// What is in what was built.
async fn bill_of_materials(
    workspace: &Workspace,
    component: &Component,
    release: &ReleaseName,
    head: &Head,
    built: &build::BuiltComponent,
) -> Result<image::Sbom> {
    let folder = workspace.root.join(&component.path);
    let (layout, release, created) = (built.layout.clone(), release.clone(), head.committed);
    let tool = match component.sbom {
        SbomTool::Auto => image::SbomTool::Auto,
        SbomTool::Syft => image::SbomTool::Syft,
        SbomTool::Own => image::SbomTool::Own,
    };
    let (events, doing) = (workspace.events.clone(), format!("list what is in {release}"));
    let made = blocking(move || {
        let version = release.version.to_string();
        image::sbom(&image::SbomRequest {
            folder: &folder,
            layout: layout.as_deref(),
            name: release.component.as_str(),
            version: &version,
            created,
            tool,
            syft: None,
            events: &events,
        })
    });
    made.await?.doing(doing)
}

/// Puts the configuration files into the store.
async fn publish_configuration(
    workspace: &Workspace,
    store: &Store,
    component: &Component,
    content: &Content,
) -> Result<()> {
    for (path, file) in &content.configuration {
        let full = workspace.root.join(&component.path).join(path);
        store.put_file(Family::Blob, &file.digest, &full, None).await.doing(format!("store {path}"))?;
    }
    Ok(())
}

/// Sees to it that the store has the data sets whole, and that no collection removes them from now on unless it began long
/// before. Done once more when the release is sealed, also by a cut that finds it sealed: a collection that began later finds
/// the release, and what an earlier one removed meanwhile is pushed again.
async fn publish_data(workspace: &Workspace, store: &Store, content: &Content) -> Result<()> {
    for name in content.data.keys() {
        let path = &workspace.config.data_set(name.as_str())?.path;
        let pointer = data::pointer(&workspace.root, path)?;
        let missing = data::repository(workspace).hold(store, &pointer.digest, PATIENCE, &workspace.events).await;
        if !missing.doing(format!("look for data {name}"))?.is_empty() {
            data::repository(workspace)
                .push(store, &pointer, &workspace.events)
                .await
                .doing(format!("push data {name}"))?;
        }
    }
    Ok(())
}

async fn previous(store: &Store, trusted: &TrustedKeys, release: &ReleaseName) -> Result<Option<manifest::Previous>> {
    let earlier = releases::list(store, Some(&release.component)).await?;
    let Some(before) = earlier.into_iter().rev().find(|earlier| earlier.version < release.version) else {
        return Ok(None);
    };
    let sealed = releases::read(store, trusted, &before).await?;
    Ok(Some(manifest::Previous { release: before, digest: sealed.digest }))
}

async fn anchors(workspace: &Workspace, store: &Store, trusted: &TrustedKeys) -> Result<BTreeMap<Name, Anchor>> {
    let mut anchors = BTreeMap::new();
    for environment in workspace.config.environments.keys() {
        let memory = workspace.ledger_memory(store);
        let log = Log::new(store.clone(), environment.clone(), trusted.clone(), Some(&memory));
        if let Some(head) = log.head().await? {
            anchors.insert(environment.clone(), Anchor { seq: head.seq, digest: head.digest });
        }
    }
    Ok(anchors)
}

/// Signs the manifest and creates its object. Of two who seal the same release at once, one is first.
async fn seal(store: &Store, trusted: &TrustedKeys, key: &SigningKey, manifest: Manifest) -> Result<CutResult> {
    let release = manifest.release.clone();
    let doing = || format!("seal {release}");
    let subjects = manifest.subjects().into_iter().map(|subject| Subject::new(subject.name, subject.digest)).collect();
    let statement = Statement { subjects, predicate_type: predicate_type::RELEASE.to_owned(), predicate: &manifest };
    let bundle = Bundle::sign(key, &statement).doing(doing())?;
    let digest = bundle.digest();
    match store.create(&releases::key(&release), bundle.into_bytes().into()).await {
        Ok(_) => Ok(result(&release, digest, true, manifest)),
        Err(store::Error::Exists { existing, .. }) => {
            let sealed = releases::verify(&existing, trusted)?;
            let differences = manifest::differences(&sealed.manifest, &manifest);
            if differences.is_empty() {
                return Ok(result(&release, sealed.digest, false, sealed.manifest));
            }
            Err(drift(release, differences))
        }
        Err(error) => Err(error).doing(doing()),
    }
}
