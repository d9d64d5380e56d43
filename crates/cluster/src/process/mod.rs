//! Plain processes of this host (Linux): no daemon, no root needed.
//!
//! A slot is the directory `<root>/<project>/<environment>/<component>/<slot>/` with `rootfs` (a copy of the unpacked
//! image), `mounts`, `tmp` (the workload's `TMPDIR`), `state.json`, `exit.json` and `log`. A slot is filled beside and renamed
//! into place, with `state.json` as its last file, so a slot that is there is whole.
//!
//! The program runs on the host's own file system, it does not see `rootfs` as `/`. So it must be static, or made for this
//! host: a program whose dynamic loader comes with the image is refused. It leads a process group of its own, so that Ctrl-C
//! does not reach it, and outlives whoever started it. Its environment is the image's and the workload's, nothing inherited.
//!
//! **Identity.** A process is its pid, its start time and the boot id, so a recycled pid is never taken for it. It counts once
//! that is recorded in `state.json`. Should the starter die between the start and the record, the child is still found: it
//! carries `SEALIFT_SLOT_DIR`, `SEALIFT_RELEASE_DIGEST` and `SEALIFT_EPOCH` in its environment, and `/proc/*/environ` of the
//! processes that we may read is searched for them. (A program that overwrites its own environment block in that moment would
//! not be found.) The same mark finds the children that a stopped program leaves behind; they end with it, as in a container.
//!
//! **Policy.** No new privileges, no capabilities, no core dumps (they would hold secrets) and a limit on data memory are
//! inherited from the starting thread or set right after the start. As root, the program runs as uid 1000, and since `rootfs`
//! belongs to root, and keeps no write bits of groups and others, it cannot write it (inspected file by file). What a plain process cannot have without a daemon is listed in
//! [`Policy::unenforced`]: a seccomp filter, a process limit (the system counts per user, not per program), and, where we are an
//! ordinary user ourselves, a read-only root.
//!
//! **Root's folders.** Root's own folders are often closed to uid 1000 (`/root` is). A new `root` in such a place becomes a symlink
//! to a new folder under `/var/lib/sealift/run`, which keeps that path in `.origin`; one that is in use already stays, and is
//! refused. The name of the folder is random and only the symlink knows it: who deletes the repository and makes it again at the
//! same path begins anew, and does not meet slots of higher epochs. A folder without its symlink is removed when the next one for
//! the same path is made, unless something still runs from it.
//!
//! Failure cases: port in use (the holder is named), a program that cannot be executed, a secret that cannot be read, files
//! that uid 1000 cannot reach, a disk that is full. The exit status of a program is known only if whoever started it still
//! lived when it ended.

use crate::{Error, ImageForm, ImagePath, Policy, Result, Target};
use async_trait::async_trait;
use domain::{
    Name,
    workload::{Observed, Place, Slot, Workload},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

mod live;
mod program;
mod slot;
mod tree;

use slot::SlotDir;

/// The user that workloads run as when we are root.
pub const WORKLOAD_UID: u32 = 1000;

/// Where slots go when we are root and workloads cannot enter the folder that was named.
const REFUGE: &str = "/var/lib/sealift/run";

/// Runs workloads as processes of this host.
#[derive(Debug, Clone)]
pub struct Process {
    root: PathBuf,
    refuge: PathBuf,
    host: String,
}

impl Process {
    /// Keeps its slots under `root`, which is made when needed. `host` is the address for people; a workload is published
    /// on its own.
    pub fn new(root: PathBuf, host: String) -> Self {
        Self { root, refuge: REFUGE.into(), host }
    }

    /// Uses another folder than `/var/lib/sealift/run` where `root` is closed to workloads.
    pub fn with_refuge(self, refuge: PathBuf) -> Self {
        Self { refuge, ..self }
    }

    async fn at<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce(SlotDir) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let root = self.root.clone();
        let name = place.to_string();
        tokio::task::spawn_blocking(move || work(SlotDir::open(&root, place)?))
            .await
            .unwrap_or_else(|error| Err(Error::Stuck { place: name, why: format!("its worker ended early: {error}") }))
    }
}

/// The first folder above or at `root` that keeps uid 1000 out, when we are root ourselves. Workloads cannot be run there.
pub fn blocked_for_workloads(root: &Path) -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() { tree::blocked_for(WORKLOAD_UID, root) } else { None }
}

#[async_trait]
impl Target for Process {
    fn describe(&self) -> String {
        format!("processes of {} under {}", self.host, self.root.display())
    }

    fn image_form(&self) -> ImageForm {
        ImageForm::Rootfs
    }

    async fn observe(&self, project: &Name, environment: &Name, component: &Name) -> Result<Observed> {
        let place = |slot| Place {
            project: project.clone(),
            environment: environment.clone(),
            component: component.clone(),
            slot,
        };
        Ok(Observed {
            blue: self.at(place(Slot::Blue), |slot| slot.observe()).await?,
            green: self.at(place(Slot::Green), |slot| slot.observe()).await?,
        })
    }

    async fn prepare(
        &self,
        workload: &Workload,
        epoch: u64,
        image: ImagePath<'_>,
        mounts: &[(String, PathBuf)],
    ) -> Result<()> {
        let image = match image {
            ImagePath::Rootfs { dir, entry } => Some((dir.to_owned(), entry.clone())),
            ImagePath::None => None,
            ImagePath::DockerArchive(path) => {
                let why = format!("the process target needs an unpacked image, not {}", path.display());
                return Err(Error::Image { place: workload.place.to_string(), why });
            }
        };
        let (workload, mounts) = (workload.clone(), mounts.to_vec());
        tree::settle(&self.root, &self.refuge)?;
        self.at(workload.place.clone(), move |slot| slot.prepare(workload, epoch, image, &mounts)).await
    }

    async fn start(&self, workload: &Workload, epoch: u64) -> Result<()> {
        let workload = workload.clone();
        self.at(workload.place.clone(), move |slot| slot.start(&workload, epoch)).await
    }

    async fn stop(&self, place: &Place, epoch: u64, timeout: Duration) -> Result<()> {
        self.at(place.clone(), move |slot| slot.stop(epoch, timeout)).await
    }

    async fn remove(&self, place: &Place, epoch: u64) -> Result<()> {
        self.at(place.clone(), move |slot| slot.remove(epoch)).await
    }

    async fn logs(&self, place: &Place, lines: usize) -> Result<Vec<String>> {
        self.at(place.clone(), move |slot| slot.logs(lines)).await
    }

    async fn alive(&self, place: &Place) -> Result<Option<String>> {
        self.at(place.clone(), |slot| slot.alive()).await
    }

    async fn inspect_policy(&self, place: &Place) -> Result<Policy> {
        self.at(place.clone(), |slot| slot.inspect_policy()).await
    }
}
