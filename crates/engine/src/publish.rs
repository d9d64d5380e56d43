//! What was built, into the store and the registries. The release's bundle comes after all of it.
//!
//! An image is first everywhere by its digest, then its evidence is attached, and only then do the tags point to it: nobody who
//! pulls by a tag gets an image without its signature. What is there already is not sent again, so a publication that died is
//! finished by the next one. The tag of a full version never moves, and is looked at before anything is written.

use crate::{
    artifacts,
    build::BuiltComponent,
    error::{Cause, Doing, Error, Result},
    evidence::{self, Claim},
    releases,
    workspace::Workspace,
};
use domain::{
    Digest, ReleaseName,
    config::{Component, TagKind},
    event::Unit,
    manifest::{self, Published},
};
use ledger::{keys::TrustedKeys, statement::predicate_type};
use semver::Version;
use serde::Serialize;
use std::path::Path;
use store::{Family, Store};

/// Puts what a build made into the store, children before parents.
pub(crate) async fn store_built(workspace: &Workspace, store: &Store, built: &BuiltComponent) -> Result<()> {
    for (path, file) in &built.artifacts {
        store.put_file(Family::Blob, &file.digest, &file.file, None).await.doing(format!("store {path}"))?;
    }
    let Some(layout) = &built.layout else { return Ok(()) };
    let doing = || format!("store the image of {}", built.component);
    let blobs = image::blobs(layout).doing("read the image that was built")?;
    let total = blobs.iter().map(|(_, _, size)| size).sum();
    let task = workspace.events.task(doing(), Some(total), Unit::Bytes);
    for (digest, path, _) in &blobs {
        store.put_file(Family::Blob, digest, path, Some(&task)).await.doing(doing())?;
    }
    task.finish("stored and verified");
    Ok(())
}

/// A registry of the configuration as a place to push to.
pub(crate) fn destination(registry: &domain::config::Registry) -> image::Destination {
    image::Destination { repository: registry.repository.clone(), insecure: registry.insecure }
}

/// Whether two names are of one repository.
pub(crate) fn same_place(one: &str, other: &str) -> bool {
    image::Destination { repository: one.to_owned(), insecure: false }.is_at(other)
}

/// Where a component's image goes, and under which tags, when `others` of its versions are sealed already.
pub(crate) fn destinations(component: &Component, version: &Version, others: &[Version]) -> Vec<Published> {
    let tags = tags(version, &component.tags, others);
    let published = |registry: &domain::config::Registry| Published {
        repository: registry.repository.clone(),
        insecure: registry.insecure,
        tags: tags.clone(),
        attached: component.attach,
    };
    component.registries.iter().map(published).collect()
}

/// Puts an image with its evidence into every registry.
pub(crate) async fn push(
    workspace: &Workspace,
    layout: &Path,
    root: &Digest,
    to: &[Published],
    claims: &[Claim],
    created: jiff::Timestamp,
) -> Result<Vec<image::Pushed>> {
    let Some(tags) = to.first().map(|published| published.tags.clone()) else { return Ok(Vec::new()) };
    let attached: Vec<bool> = to.iter().map(|published| published.attached).collect();
    let to: Vec<image::Destination> = to
        .iter()
        .map(|Published { repository, insecure, .. }| image::Destination {
            repository: repository.clone(),
            insecure: *insecure,
        })
        .collect();
    for destination in &to {
        let doing = format!("look at the tags of {}", destination.repository);
        image::check_tags(destination, &tags, root).await.doing(doing)?;
    }
    let doing = || format!("push the image {root}");
    let pushed = image::publish(layout, &to, &[], &workspace.events).await.doing(doing())?;
    let attachments: Vec<image::Attachment> = claims
        .iter()
        .map(|claim| image::Attachment {
            bytes: claim.bytes.clone(),
            predicate_type: claim.evidence.predicate_type.clone(),
            created,
        })
        .collect();
    for (destination, _) in to.iter().zip(attached).filter(|(_, attached)| *attached) {
        let doing = format!("attach the evidence to {}@{root}", destination.repository);
        image::attach(destination, root, &attachments, &workspace.events).await.doing(doing)?;
    }
    image::publish(layout, &to, &tags, &workspace.events).await.doing(doing())?;
    Ok(pushed)
}

/// A tag of a version that is taken, told apart: `noted` are all images that this host has noted for that version. Where the tag points to another, it
/// was not this host that died between pushing and sealing, and only who built that image can finish it.
pub(crate) fn taken_elsewhere(error: Error, release: &ReleaseName, noted: &[Digest]) -> Error {
    match error {
        Error::Failed { cause: Cause::Image(image::Error::TagTaken { repository, tag, is, wanted }), .. }
            if noted.iter().all(|noted| noted.to_string() != is) =>
        {
            Error::TakenElsewhere { release: release.clone(), repository, tag, is, wanted }
        }
        other => other,
    }
}

/// `X.Y.Z`, `X.Y`, `X`, `latest`, as the configuration says; a prerelease only its own. A moving tag never goes back: where a later
/// version of its kind is sealed, that one keeps it.
fn tags(version: &Version, kinds: &[TagKind], others: &[Version]) -> Vec<String> {
    let Version { major, minor, .. } = version;
    let later = |same: &dyn Fn(&Version) -> bool| {
        others.iter().any(|other| other.pre.is_empty() && other > version && same(other))
    };
    let gets = |kind: &&TagKind| match kind {
        TagKind::Version => true,
        _ if !version.pre.is_empty() => false,
        TagKind::Minor => !later(&|other| (other.major, other.minor) == (*major, *minor)),
        TagKind::Major => !later(&|other| other.major == *major),
        TagKind::Latest => !later(&|_| true),
    };
    let tag = |kind: &TagKind| match kind {
        TagKind::Version => version.to_string(),
        TagKind::Minor => format!("{major}.{minor}"),
        TagKind::Major => major.to_string(),
        TagKind::Latest => "latest".to_owned(),
    };
    kinds.iter().filter(gets).map(tag).collect()
}

/// What came of publishing a release again.
#[derive(Debug, Clone, Serialize)]
pub struct Republished {
    /// The release.
    pub release: ReleaseName,
    /// What registries know its image by.
    pub digest: Digest,
    /// Where it is now, whole and under its tags.
    pub registries: Vec<Arrived>,
}

/// What one registry got.
#[derive(Debug, Clone, Serialize)]
pub struct Arrived {
    /// `REGISTRY/PATH`.
    pub repository: String,
    /// The tags that point to it.
    pub tags: Vec<String>,
    /// Blobs that were sent.
    pub sent: u64,
    /// Blobs that were there.
    pub there: u64,
}

/// What was found out about a release since it was sealed: test results and verdicts of gates that are about its image too.
async fn later_claims(store: &Store, trusted: &TrustedKeys, root: &Digest, release: &Digest) -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for place in [root, release] {
        for found in evidence::about_subject(store, trusted, place).await? {
            let predicate_type = found.verified.statement.predicate_type.clone();
            let later = [predicate_type::TEST_RESULT, predicate_type::GATE_VERDICT].contains(&predicate_type.as_str());
            if later && found.verified.require_subject(*root).is_ok() {
                let evidence =
                    manifest::Evidence { predicate_type, subject: *root, bundle: found.verified.bundle_digest };
                claims.push(Claim { evidence, bytes: found.bytes });
            }
        }
    }
    Ok(claims)
}

/// Publishes a sealed release out of the store: to the registries that it was sealed for, and those of the configuration that are new.
///
/// Test results and verdicts that came later are attached with the evidence that it was sealed with. Moving tags are left as they are where a later release may have them: only the tag of the version is written.
pub async fn republish(workspace: &Workspace, store: &Store, release: &ReleaseName) -> Result<Republished> {
    let trusted = workspace.trusted_keys()?;
    let sealed = releases::read(store, &trusted, release).await?;
    let manifest = &sealed.manifest;
    let root = manifest.root().ok_or_else(|| Error::BadInput {
        message: format!("{release} has no image to publish"),
        next: Some(format!("sealift explain {release}")),
    })?;
    let version_tag = vec![release.version.to_string()];
    let mut to: Vec<Published> = manifest.published.clone();
    if let Some(component) = workspace.config.components.get(&release.component) {
        let known = |new: &Published| to.iter().all(|old| !same_place(&old.repository, &new.repository));
        let new: Vec<Published> = destinations(component, &release.version, &[]).into_iter().filter(known).collect();
        to.extend(new);
    }
    if to.is_empty() {
        return Err(Error::BadInput {
            message: format!("{release} is to go to no registry"),
            next: Some(format!("write [component.{}.image] in Sealift.toml", release.component)),
        });
    }
    let component = workspace.config.components.get(&release.component);
    for published in &mut to {
        published.tags.clone_from(&version_tag);
        // How a registry is spoken to is what the configuration says today.
        let today = component
            .and_then(|it| it.registries.iter().find(|one| same_place(&one.repository, &published.repository)));
        if let Some(today) = today {
            published.insecure = today.insecure;
        }
    }
    let name = release.to_string();
    let layout = artifacts::fetch_image(store, &workspace.cache(), &root, &name, &workspace.events).await?;
    let mut claims = Vec::new();
    for evidence in &manifest.evidence {
        let bytes = evidence::read(store, evidence, manifest).await?;
        evidence::check(evidence, &bytes, &evidence::key(&evidence.subject, &evidence.bundle), &trusted, manifest)?;
        claims.push(Claim { evidence: evidence.clone(), bytes });
    }
    claims.extend(later_claims(store, &trusted, &root, &sealed.digest).await?);
    let pushed = push(workspace, &layout, &root, &to, &claims, manifest.source.committed).await?;
    let registries = to
        .into_iter()
        .zip(pushed)
        .map(|(to, pushed)| Arrived {
            repository: to.repository,
            tags: to.tags,
            sent: pushed.blobs_sent,
            there: pushed.blobs_there,
        })
        .collect();
    Ok(Republished { release: release.clone(), digest: root, registries })
}
