//! Targets for tests: one in memory that behaves like the real ones, an injector of faults, and the conformance suite.

use crate::{Error, ImageForm, ImagePath, Part, Policy, Result, Target, error};
use async_trait::async_trait;
use domain::{
    Digest, Name,
    workload::{Observed, Place, Relaxation, Slot, SlotState, Workload},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

mod conformance;
mod server;

pub use conformance::{Subject, conformance};
pub use server::{SERVER_SOURCE, build_server, get};

/// A target in memory. Clones share their world, as two programs on one host do.
#[derive(Clone, Default)]
pub struct InMemory {
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    slots: BTreeMap<Place, Content>,
    unhealthy: BTreeSet<Digest>,
    refused: BTreeSet<Digest>,
    taken: BTreeMap<u16, String>,
    operations: Vec<String>,
}

struct Content {
    workload: Workload,
    epoch: u64,
    running: bool,
    ended: Option<String>,
    log: Vec<String>,
}

impl Content {
    fn state(&self) -> SlotState {
        let (release_digest, epoch) = (self.workload.release_digest, self.epoch);
        if self.running {
            SlotState::Running { release_digest, epoch, id: "memory".to_owned() }
        } else {
            SlotState::Stopped { release_digest, epoch, ended: self.ended.clone() }
        }
    }
}

impl InMemory {
    /// An empty world.
    pub fn new() -> Self {
        Self::default()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Workloads of this release run and never get healthy.
    pub fn set_unhealthy(&self, release: Digest) {
        self.world().unhealthy.insert(release);
    }

    /// Workloads of this release cannot be started.
    pub fn refuse_start(&self, release: Digest) {
        self.world().refused.insert(release);
    }

    /// Some other program takes a port.
    pub fn occupy(&self, port: u16, holder: impl Into<String>) {
        self.world().taken.insert(port, holder.into());
    }

    /// That program is gone.
    pub fn vacate(&self, port: u16) {
        self.world().taken.remove(&port);
    }

    /// The workload in a slot ends by itself.
    pub fn crash(&self, place: &Place, how: impl Into<String>) {
        if let Some(content) = self.world().slots.get_mut(place) {
            content.running = false;
            content.ended = Some(how.into());
        }
    }

    /// Whether what runs in a slot answers well: what a health check or a smoke request would find.
    pub fn is_healthy(&self, place: &Place) -> bool {
        let world = self.world();
        world
            .slots
            .get(place)
            .is_some_and(|slot| slot.running && !world.unhealthy.contains(&slot.workload.release_digest))
    }

    /// The release that answers on a port.
    pub fn serving(&self, port: u16) -> Option<Digest> {
        let world = self.world();
        let running = world.slots.values().find(|slot| slot.running && slot.workload.host_port == port);
        running.map(|slot| slot.workload.release_digest)
    }

    /// Every slot that is not empty, to compare the ends of two runs.
    pub fn slots(&self) -> BTreeMap<Place, SlotState> {
        self.world().slots.iter().map(|(place, content)| (place.clone(), content.state())).collect()
    }

    /// What changed the world so far, in order: `start shop-production-wine-blue 3f…`.
    pub fn operations(&self) -> Vec<String> {
        self.world().operations.clone()
    }
}

fn note(world: &mut World, what: &str, place: &Place, release: Option<&Digest>) {
    let release = release.map(|digest| format!(" {}", digest.short())).unwrap_or_default();
    world.operations.push(format!("{what} {place}{release}"));
}

#[async_trait]
impl Target for InMemory {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn image_form(&self) -> ImageForm {
        ImageForm::Rootfs
    }

    async fn observe(&self, project: &Name, environment: &Name, component: &Name) -> Result<Observed> {
        let world = self.world();
        let state = |slot| {
            let place = Place {
                project: project.clone(),
                environment: environment.clone(),
                component: component.clone(),
                slot,
            };
            world.slots.get(&place).map_or(SlotState::Empty, Content::state)
        };
        Ok(Observed { blue: state(Slot::Blue), green: state(Slot::Green) })
    }

    async fn prepare(
        &self,
        workload: &Workload,
        epoch: u64,
        _: ImagePath<'_>,
        mounts: &[(String, PathBuf)],
    ) -> Result<()> {
        let mut world = self.world();
        let place = &workload.place;
        if let Some(old) = world.slots.get(place) {
            error::fence(place, epoch, old.epoch)?;
            if old.running && old.workload.release_digest == workload.release_digest {
                return Ok(());
            }
            if old.running {
                let release = old.workload.release_digest.short();
                return Err(Error::Occupied { place: place.to_string(), release });
            }
        }
        for mount in &workload.mounts {
            if !mounts.iter().any(|(path, _)| *path == mount.path) {
                let why = format!("no file was given for {} at {}", mount.what, mount.path);
                return Err(Error::refused(place, why));
            }
        }
        note(&mut world, "prepare", place, Some(&workload.release_digest));
        let content = Content { workload: workload.clone(), epoch, running: false, ended: None, log: Vec::new() };
        world.slots.insert(place.clone(), content);
        Ok(())
    }

    async fn start(&self, workload: &Workload, epoch: u64) -> Result<()> {
        let mut world = self.world();
        let place = &workload.place;
        let Some(slot) = world.slots.get(place) else { return Err(Error::nothing(place)) };
        error::fence(place, epoch, slot.epoch)?;
        error::same_release(place, &workload.release_digest, &slot.workload.release_digest)?;
        if slot.running {
            return Ok(());
        }
        if world.refused.contains(&workload.release_digest) {
            let (place, why) = (place.to_string(), "it cannot be executed".to_owned());
            return Err(Error::Refused { place, why, log: vec!["refused by the test".to_owned()] });
        }
        let port = workload.host_port;
        let other = world.slots.iter().find(|(_, slot)| slot.running && slot.workload.host_port == port);
        let holder = other.map(|(place, _)| place.to_string()).or_else(|| world.taken.get(&port).cloned());
        if let Some(holder) = holder {
            let why = format!("port {port} of {} is in use by {holder}", workload.host);
            return Err(Error::refused(place, why));
        }
        note(&mut world, "start", place, Some(&workload.release_digest));
        if let Some(slot) = world.slots.get_mut(place) {
            slot.running = true;
            slot.ended = None;
            slot.log.push(format!("listening on {port}"));
        }
        Ok(())
    }

    async fn stop(&self, place: &Place, epoch: u64, _: Duration) -> Result<()> {
        let mut world = self.world();
        let Some(slot) = world.slots.get_mut(place) else { return Ok(()) };
        error::fence(place, epoch, slot.epoch)?;
        if !slot.running {
            return Ok(());
        }
        slot.running = false;
        slot.ended = Some("stopped by SIGTERM".to_owned());
        note(&mut world, "stop", place, None);
        Ok(())
    }

    async fn remove(&self, place: &Place, epoch: u64) -> Result<()> {
        let mut world = self.world();
        if let Some(slot) = world.slots.get(place) {
            error::fence(place, epoch, slot.epoch)?;
        }
        if world.slots.remove(place).is_some() {
            note(&mut world, "remove", place, None);
        }
        Ok(())
    }

    async fn logs(&self, place: &Place, lines: usize) -> Result<Vec<String>> {
        let mut log = self.world().slots.get(place).map(|slot| slot.log.clone()).unwrap_or_default();
        Ok(log.split_off(log.len().saturating_sub(lines)))
    }

    async fn alive(&self, place: &Place) -> Result<Option<String>> {
        Ok(match self.world().slots.get(place) {
            None => Some("nothing is there".to_owned()),
            Some(slot) if slot.running => None,
            Some(slot) => Some(slot.ended.clone().unwrap_or_else(|| "it was never started".to_owned())),
        })
    }

    async fn inspect_policy(&self, place: &Place) -> Result<Policy> {
        let world = self.world();
        let Some(slot) = world.slots.get(place) else { return Err(Error::nothing(place)) };
        let relaxed = |relaxation| slot.workload.relax.contains(&relaxation);
        let root = relaxed(Relaxation::RunAsRoot);
        Ok(Policy {
            user: if root { "root".to_owned() } else { "1000".to_owned() },
            root,
            readonly_root: !relaxed(Relaxation::WritableRoot),
            volumes: Vec::new(),
            capabilities: relaxed(Relaxation::DefaultCapabilities).then(|| "default".to_owned()).into_iter().collect(),
            no_new_privileges: !relaxed(Relaxation::NewPrivileges),
            seccomp: true,
            memory: Some(slot.workload.memory),
            pids: Some(slot.workload.pids),
            unenforced: Vec::<Part>::new(),
        })
    }
}

/// What happens to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing bad.
    None,
    /// It fails and nothing was done.
    Before,
    /// It is done and its answer is lost.
    After,
}

/// Decides the fault of each operation by its name (`target.start`). One closure may serve the store's operations too, so
/// that a test counts both together.
pub type Injector = Arc<dyn Fn(&str) -> Fault + Send + Sync>;

/// A target whose operations fail when the injector says so.
pub struct FaultyTarget {
    inner: Arc<dyn Target>,
    injector: Injector,
}

impl FaultyTarget {
    /// Wraps a target.
    pub fn new(inner: Arc<dyn Target>, injector: Injector) -> Self {
        Self { inner, injector }
    }

    async fn around<T>(&self, operation: &str, act: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let lost = |when: &str| Error::Unavailable {
            what: "the target",
            address: self.inner.describe(),
            why: format!("injected fault {when} {operation}"),
        };
        match (self.injector)(operation) {
            Fault::None => act.await,
            Fault::Before => Err(lost("before")),
            Fault::After => {
                act.await?;
                Err(lost("after"))
            }
        }
    }
}

#[async_trait]
impl Target for FaultyTarget {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn image_form(&self) -> ImageForm {
        self.inner.image_form()
    }
    async fn observe(&self, project: &Name, environment: &Name, component: &Name) -> Result<Observed> {
        self.around("target.observe", self.inner.observe(project, environment, component)).await
    }
    async fn prepare(
        &self,
        workload: &Workload,
        epoch: u64,
        image: ImagePath<'_>,
        mounts: &[(String, PathBuf)],
    ) -> Result<()> {
        self.around("target.prepare", self.inner.prepare(workload, epoch, image, mounts)).await
    }
    async fn start(&self, workload: &Workload, epoch: u64) -> Result<()> {
        self.around("target.start", self.inner.start(workload, epoch)).await
    }
    async fn stop(&self, place: &Place, epoch: u64, timeout: Duration) -> Result<()> {
        self.around("target.stop", self.inner.stop(place, epoch, timeout)).await
    }
    async fn remove(&self, place: &Place, epoch: u64) -> Result<()> {
        self.around("target.remove", self.inner.remove(place, epoch)).await
    }
    async fn logs(&self, place: &Place, lines: usize) -> Result<Vec<String>> {
        self.around("target.logs", self.inner.logs(place, lines)).await
    }
    async fn alive(&self, place: &Place) -> Result<Option<String>> {
        self.around("target.alive", self.inner.alive(place)).await
    }
    async fn inspect_policy(&self, place: &Place) -> Result<Policy> {
        self.around("target.inspect_policy", self.inner.inspect_policy(place)).await
    }
}
