//! Models: artifacts with lineage and metrics.
//!
//! A model's bytes are a blob; its record is a signed statement (`urn:sealift:model:v1`) about that blob, created once
//! under `models/<name>/<version>.sigstore.json`. Registering the same bytes again is a no-op; other bytes under a version that
//! exists are an integrity failure.

use crate::{
    artifacts::{blocking, digest_of},
    data,
    error::{Doing, Error, Result},
    git,
    workspace::Workspace,
};
use domain::{
    Digest, Name,
    config::Model,
    event::Unit,
    model::{Lineage, ModelRecord, metrics, version_name},
    names::Unknown,
};
use ledger::{
    bundle::{self, Bundle},
    keys::TrustedKeys,
    statement::{Statement, Subject},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use store::{Created, Family, Store};

/// The predicate type of a model's record.
pub const MODEL_TYPE: &str = "urn:sealift:model:v1";

/// What `model register` did.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Registered {
    /// The record.
    pub record: ModelRecord,
    /// Whether it is new; the same bytes and configuration may have been registered before.
    pub new: bool,
}

fn key(name: &Name, version: &str) -> String {
    format!("models/{name}/{version}.sigstore.json")
}

/// Registers the models of the configuration, or one of them.
pub async fn register(workspace: &Workspace, wanted: Option<&str>) -> Result<Vec<Registered>> {
    let config = &workspace.config;
    let names: Vec<Name> = match wanted {
        Some(name) => {
            config.model(name)?;
            config.models.keys().filter(|known| known.as_str() == name).cloned().collect()
        }
        None => config.models.keys().cloned().collect(),
    };
    if names.is_empty() {
        return Err(Error::not_found("Sealift.toml has no [model.NAME] section"));
    }
    let key = workspace.signing_key()?;
    let store = workspace.store_for_writing().await?;
    let trusted = workspace.trusted_keys()?;
    let mut registered = Vec::new();
    for name in names {
        let settings = &config.models[&name];
        registered.push(register_one(workspace, &store, &trusted, &key, &name, settings).await?);
    }
    Ok(registered)
}

async fn register_one(
    workspace: &Workspace,
    store: &Store,
    trusted: &TrustedKeys,
    signing: &ledger::keys::SigningKey,
    name: &Name,
    settings: &Model,
) -> Result<Registered> {
    let file = workspace.root.join(&settings.file);
    let digest = local_digest(&file, name).await?;
    if let Some(record) = find(store, trusted, name, &digest).await? {
        return Ok(Registered { record, new: false });
    }
    let bytes = fs::metadata(&file).map_err(Error::file("read", &file))?.len();
    let config = match &settings.config {
        Some(path) => Some(digest_of(&workspace.root.join(path))?),
        None => None,
    };
    let numbers = match &settings.metrics {
        Some(path) => read_metrics(&workspace.root.join(path))?,
        None => BTreeMap::new(),
    };
    let mut snapshots = BTreeMap::new();
    for set in &settings.data {
        let path = &workspace.config.data_set(set.as_str())?.path;
        snapshots.insert(set.clone(), data::pointer(&workspace.root, path)?.digest);
    }
    let head = git::head(&workspace.root).await.ok();
    let now = workspace.now();
    let date = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let record = ModelRecord {
        v: 1,
        name: name.clone(),
        version: version_name(date, config.as_ref(), &digest),
        digest,
        bytes,
        file: file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        metrics: numbers,
        lineage: Lineage {
            commit: head.as_ref().map(|head| head.commit.clone()),
            dirty: head.as_ref().is_some_and(|head| !head.changed.is_empty()),
            data: snapshots,
            command: settings.command.clone(),
            config,
        },
        registered: now,
    };
    let reference = record.reference();
    let task = workspace.events.task(format!("store model {reference}"), Some(bytes), Unit::Bytes);
    store.put_file(Family::Blob, &digest, &file, Some(&task)).await.doing(format!("store model {reference}"))?;
    task.finish("stored");
    let statement = Statement {
        subjects: vec![Subject::new(format!("model/{reference}"), digest)],
        predicate_type: MODEL_TYPE.to_owned(),
        predicate: &record,
    };
    let doing = || format!("register model {reference}");
    let bundle = Bundle::sign(signing, &statement).doing(doing())?;
    match store.create(&key(name, &record.version), bundle.into_bytes().into()).await {
        Ok(Created::New | Created::Same) => Ok(Registered { record, new: true }),
        Err(store::Error::Exists { .. }) => Err(Error::Integrity {
            message: format!(
                "model {reference} is registered already with other bytes; its configuration must change, or another day come"
            ),
        }),
        Err(error) => Err(error).doing(doing()),
    }
}

/// The digest of a model's local file.
async fn local_digest(file: &Path, name: &Name) -> Result<Digest> {
    if !file.is_file() {
        return Err(Error::not_found(format!("the file of model {name} is not there: {}", file.display())));
    }
    let path = file.to_owned();
    blocking(move || digest_of(&path)).await?
}

fn read_metrics(path: &Path) -> Result<BTreeMap<String, f64>> {
    let text = fs::read_to_string(path).map_err(Error::file("read the metrics in", path))?;
    let document: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| Error::bad_input(format!("the metrics file {} is no JSON: {error}", path.display())))?;
    Ok(metrics(&document))
}

/// The registered version that has these bytes: what a release seals.
pub async fn find(store: &Store, trusted: &TrustedKeys, name: &Name, digest: &Digest) -> Result<Option<ModelRecord>> {
    Ok(versions(store, trusted, name).await?.into_iter().rev().find(|record| record.digest == *digest))
}

async fn versions(store: &Store, trusted: &TrustedKeys, name: &Name) -> Result<Vec<ModelRecord>> {
    let keys = store.list(&format!("models/{name}/")).await.doing(format!("list the versions of model {name}"))?;
    let mut records = Vec::new();
    for (key, _) in keys {
        let Some(object) = store.read(&key).await.doing(format!("read {key}"))? else { continue };
        let verified = bundle::verify(&object.bytes, trusted).doing(format!("verify {key}"))?;
        let record: ModelRecord = verified.predicate(MODEL_TYPE).doing(format!("verify {key}"))?;
        verified.require_subject(record.digest).doing(format!("verify {key}"))?;
        if record.name != *name {
            return Err(Error::Integrity { message: format!("{key} holds model {}", record.reference()) });
        }
        records.push(record);
    }
    records.sort_by_key(|record| record.registered);
    Ok(records)
}

/// All registered versions, or those of one model, oldest first.
pub async fn list(workspace: &Workspace, wanted: Option<&str>) -> Result<Vec<ModelRecord>> {
    let (store, trusted) = (workspace.store().await?, workspace.trusted_keys()?);
    let mut names: Vec<Name> = store
        .list("models/")
        .await
        .doing("list the models")?
        .iter()
        .filter_map(|(key, _)| key.strip_prefix("models/")?.split_once('/')?.0.parse().ok())
        .collect();
    names.dedup();
    if let Some(wanted) = wanted {
        if !names.iter().any(|name| name.as_str() == wanted) {
            return Err(Unknown::new("registered model", wanted, &names).into());
        }
        names.retain(|name| name.as_str() == wanted);
    }
    let mut records = Vec::new();
    for name in names {
        records.extend(versions(&store, &trusted, &name).await?);
    }
    Ok(records)
}

/// One version: `quality@2026-11-21-3f9a2c`, or `quality` for its newest.
pub async fn show(workspace: &Workspace, reference: &str) -> Result<ModelRecord> {
    let all = list(workspace, None).await?;
    let found = all.iter().rev().find(|record| record.reference() == reference || record.name.as_str() == reference);
    found.cloned().ok_or_else(|| Unknown::new("model", reference, all.iter().map(ModelRecord::reference)).into())
}

/// Writes a model's bytes, verified, to a file, or into a folder under its own name.
pub async fn download(workspace: &Workspace, reference: &str, to: &Path) -> Result<(ModelRecord, PathBuf)> {
    let record = show(workspace, reference).await?;
    let to = if to.is_dir() { to.join(&record.file) } else { to.to_owned() };
    if to.exists()
        && blocking({
            let to = to.clone();
            move || digest_of(&to)
        })
        .await??
            != record.digest
    {
        return Err(Error::bad_input(format!("{} exists already with other content", to.display())));
    }
    let store = workspace.store().await?;
    let task = workspace.events.task(format!("download {}", record.reference()), Some(record.bytes), Unit::Bytes);
    store
        .get_file(Family::Blob, &record.digest, &to, Some(&task))
        .await
        .doing(format!("download {}", record.reference()))?;
    task.finish("verified");
    Ok((record, to))
}
