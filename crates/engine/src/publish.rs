//! What was built, into the store and the registries. The release's bundle comes after all of it.

use crate::{
    build::BuiltComponent,
    error::{Doing, Result},
    workspace::Workspace,
};
use domain::{
    config::{Component, Registry, TagKind},
    event::Unit,
};
use semver::Version;
use store::{Family, Store};

/// Puts what a build made into the store, children before parents.
pub(crate) async fn store_built(workspace: &Workspace, store: &Store, built: &BuiltComponent) -> Result<()> {
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

/// Puts an image into every registry of its component.
pub(crate) async fn push(workspace: &Workspace, component: &Component, built: &BuiltComponent) -> Result<()> {
    let Some(layout) = &built.layout else { return Ok(()) };
    let tags = tags(&built.version, &component.tags);
    for Registry { repository, insecure } in &component.registries {
        image::push(layout, repository, &tags, *insecure, &workspace.events)
            .await
            .doing(format!("push the image of {} to {repository}", component.name))?;
    }
    Ok(())
}

/// `X.Y.Z`, `X.Y`, `X`, `latest`, as the configuration says; a prerelease only its own.
pub(crate) fn tags(version: &Version, kinds: &[TagKind]) -> Vec<String> {
    let Version { major, minor, .. } = version;
    let of_release = |kind: &&TagKind| version.pre.is_empty() || **kind == TagKind::Version;
    let kinds = kinds.iter().filter(of_release);
    let tag = |kind: &TagKind| match kind {
        TagKind::Version => version.to_string(),
        TagKind::Minor => format!("{major}.{minor}"),
        TagKind::Major => major.to_string(),
        TagKind::Latest => "latest".to_owned(),
    };
    kinds.map(tag).collect()
}
