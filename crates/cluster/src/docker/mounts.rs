//! Files beside the image: kept under the target's state directory and bound read-only into the container.

use super::Docker;
use crate::{Error, Result};
use bollard::{
    errors::Error as Failure,
    models::{ContainerSummary, Mount, MountType},
};
use domain::workload::{Place, Workload};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

impl Docker {
    async fn mounts_of(&self, place: &Place) -> Result<PathBuf> {
        Ok(self.folder().await?.join("mounts").join(place.to_string()))
    }

    /// A file or folder of this host that a container needs for its start and that is not there any more.
    pub(super) async fn lost_mount(&self, container: &ContainerSummary) -> Result<Option<PathBuf>> {
        if !self.is_local() {
            return Ok(None);
        }
        let id = container.id.as_deref().unwrap_or_default();
        let inspected = match self.client().await?.inspect_container(id, None).await {
            Ok(inspected) => inspected,
            Err(Failure::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
            Err(error) => return Err(self.failed("inspect", super::short(id))(error)),
        };
        let mounts = inspected.host_config.and_then(|host| host.mounts).unwrap_or_default();
        let sources = mounts.into_iter().filter(|mount| mount.typ == Some(MountType::BIND)).filter_map(|m| m.source);
        let is_lost = |path: &PathBuf| {
            fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        Ok(sources.map(PathBuf::from).find(is_lost))
    }

    /// Puts the files of a workload in place of those of the slot's former content.
    pub(super) async fn place_mounts(
        &self,
        workload: &Workload,
        epoch: u64,
        given: &[(String, PathBuf)],
    ) -> Result<Vec<Mount>> {
        self.drop_mounts(&workload.place).await?;
        if workload.mounts.is_empty() {
            return Ok(Vec::new());
        }
        if !self.is_local() {
            let why = format!("its files can only be mounted by an engine on this host, and {} is not", self.address);
            return Err(Error::refused(&workload.place, why));
        }
        let dir = self.mounts_of(&workload.place).await?.join(format!("{epoch}-{}", workload.release_digest.short()));
        let mut mounts = Vec::new();
        for (index, mount) in workload.mounts.iter().enumerate() {
            let Some((_, source)) = given.iter().find(|(path, _)| *path == mount.path) else {
                let why = format!("no file was given for {} at {}", mount.what, mount.path);
                return Err(Error::refused(&workload.place, why));
            };
            let target = dir.join(index.to_string());
            let (from, to) = (source.clone(), target.clone());
            tokio::task::spawn_blocking(move || copy(&from, &to)).await.unwrap_or_else(|error| {
                Err(Error::Stuck { place: workload.place.to_string(), why: format!("its worker ended early: {error}") })
            })?;
            mounts.push(Mount {
                target: Some(mount.path.clone()),
                source: Some(target.display().to_string()),
                typ: Some(MountType::BIND),
                read_only: Some(true),
                ..Default::default()
            });
        }
        Ok(mounts)
    }

    /// Removes the files of a slot.
    pub(super) async fn drop_mounts(&self, place: &Place) -> Result<()> {
        let dir = self.mounts_of(place).await?;
        match tokio::fs::remove_dir_all(&dir).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", dir)(error)),
            _ => Ok(()),
        }
    }
}

/// Copies a file durably; everybody may read it, since the container's user is not ours.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    }
    fs::copy(from, to).map_err(Error::file("copy to", to))?;
    let file = fs::File::open(to).map_err(Error::file("open", to))?;
    let mode = file.metadata().map_err(Error::file("read", to))?.permissions().mode() & 0o777;
    let executable = if mode & 0o111 == 0 { 0 } else { 0o111 };
    file.set_permissions(fs::Permissions::from_mode(mode | 0o444 | executable)).map_err(Error::file("change", to))?;
    file.sync_all().map_err(Error::file("sync", to))
}
