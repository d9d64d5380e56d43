//! What the local cache could lose, and losing it.
//!
//! Kept are the snapshots that the caller names, and those that were last added or checked out at a data path of this cache.
//! A pack stays as long as a layout names it that stays. Nobody else may work with the cache meanwhile; before anything is
//! removed, what came to the cache since the plan was made is looked at once more.

use crate::{
    Repository,
    cache::{Cache, layout_key, manifest_key},
    error::{Error, Result, at},
    gc::{self, Collected, Object, Plan},
    stat::StatReader,
};
use domain::{Digest, Events, event::Unit};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use store::{Family, Store};

/// How long other commands are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The snapshot that was last added or checked out at a data path.
pub(crate) fn base_of(cache: &Cache, name: &str) -> Option<Digest> {
    StatReader::open(cache, name).base
}

impl Repository {
    /// What the cache could lose: packs, layouts and manifests that no snapshot of `keep` needs, nor one that was last added or
    /// checked out here. Like [`gc::plan`], it fails when a kept snapshot is there whose packs are not known.
    pub fn plan_cache_gc(&self, keep: &BTreeSet<Digest>) -> Result<Plan> {
        let _guard = self.cache().enter(None)?;
        let kept = Kept::find(self.cache(), keep, |_| false)?;
        let mut plan = Plan::default();
        for digest in keep {
            if kept.manifests.contains_key(digest) {
                plan.kept_snapshots += 1;
            } else if !kept.layouts.contains_key(digest) {
                plan.absent.push(*digest);
            }
        }
        let mut sort_out = |stays: bool, key: String, size: u64, why| {
            if stays {
                plan.kept_bytes += size;
            } else {
                plan.push(key, size, why);
            }
        };
        for (digest, size) in &kept.manifests {
            sort_out(kept.snapshots.contains(digest), manifest_key(digest), *size, gc::WHY_MANIFEST);
        }
        for (digest, size) in &kept.layouts {
            sort_out(kept.snapshots.contains(digest), layout_key(digest), *size, gc::WHY_LAYOUT);
        }
        for pack in self.cache().packs()? {
            let key = Store::key(Family::Pack, &pack.digest);
            sort_out(kept.packs.contains(&pack.digest), key, pack.size, gc::WHY_PACK);
        }
        Ok(plan)
    }

    /// Removes what the plan names, except what came to be needed since. [`Error::CacheBusy`] when other commands use the cache
    /// for longer than a few seconds.
    pub fn collect_cache(&self, plan: &Plan, events: &Events) -> Result<Collected> {
        let cache = self.cache();
        let _guard = alone(cache)?;
        let task = events.task("gc of the cache", Some(plan.remove.len() as u64), Unit::Items);
        let planned: BTreeSet<&str> = plan.remove.iter().map(|object| object.key.as_str()).collect();
        // What was not planned to go stays, whether it was kept or came since.
        let stays = |key: String| !planned.contains(key.as_str());
        let kept = Kept::find(cache, &BTreeSet::new(), |digest| {
            (cache.manifest(digest).exists() && stays(manifest_key(digest)))
                || (cache.layout(digest).exists() && stays(layout_key(digest)))
        })?;
        let mut collected = Collected::default();
        for object in &plan.remove {
            let Some((path, needed)) = kept.look_up(cache, object) else { continue };
            if needed {
                collected.spared.take(object.size);
                continue;
            }
            match std::fs::remove_file(&path) {
                Ok(()) => collected.removed.take(object.size),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(at("remove", path)(error)),
            }
            task.advance(1);
        }
        task.finish(format!("{} objects, {} bytes removed", collected.removed.objects, collected.removed.bytes));
        Ok(collected)
    }
}

/// What stays in a cache.
struct Kept {
    manifests: BTreeMap<Digest, u64>,
    layouts: BTreeMap<Digest, u64>,
    snapshots: BTreeSet<Digest>,
    packs: BTreeSet<Digest>,
}

impl Kept {
    fn find(cache: &Cache, keep: &BTreeSet<Digest>, also: impl Fn(&Digest) -> bool) -> Result<Self> {
        let (manifests, layouts) = (objects(cache, "snapshots")?, objects(cache, "layouts")?);
        let mut snapshots = keep.clone();
        for entry in std::fs::read_dir(cache.dir().join("stat")).into_iter().flatten().flatten() {
            snapshots.extend(entry.file_name().to_str().and_then(|name| base_of(cache, name)));
        }
        snapshots.extend(manifests.keys().chain(layouts.keys()).filter(|digest| also(digest)));
        let mut packs = BTreeSet::new();
        for digest in &snapshots {
            match cache.packs_of(digest)? {
                Some(named) => packs.extend(named.iter().map(|pack| pack.digest)),
                // A damaged layout was removed by the attempt to open it.
                None if keep.contains(digest) && (manifests.contains_key(digest) || layouts.contains_key(digest)) => {
                    let why =
                        "is missing or damaged in the cache, so the packs of a kept snapshot are not known".to_owned();
                    return Err(Error::Unsure { object: layout_key(digest), why, removed: 0 });
                }
                None => {}
            }
        }
        Ok(Self { manifests, layouts, snapshots, packs })
    }

    /// Where an object of a plan is, and whether it is needed; `None` for what is none of the cache's.
    fn look_up(&self, cache: &Cache, object: &Object) -> Option<(PathBuf, bool)> {
        let digest: Digest = object.key.rsplit('/').next()?.parse().ok()?;
        let snapshot = self.snapshots.contains(&digest);
        [
            (manifest_key(&digest), cache.manifest(&digest), snapshot),
            (layout_key(&digest), cache.layout(&digest), snapshot),
            (Store::key(Family::Pack, &digest), cache.pack(&digest), self.packs.contains(&digest)),
        ]
        .into_iter()
        .find(|(key, ..)| *key == object.key)
        .map(|(_, path, needed)| (path, needed))
    }
}

/// The objects of a family, with their sizes.
fn objects(cache: &Cache, family: &str) -> Result<BTreeMap<Digest, u64>> {
    let top = cache.dir().join(family);
    let list = |folder: &Path| match std::fs::read_dir(folder) {
        Ok(entries) => entries.collect::<std::io::Result<Vec<_>>>().map_err(at("read", folder)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at("read", folder)(error)),
    };
    let mut found = BTreeMap::new();
    for folder in list(&top)? {
        for entry in list(&folder.path())? {
            let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            if let (Some(digest), Ok(meta)) = (digest, entry.metadata()) {
                found.insert(digest, meta.len());
            }
        }
    }
    Ok(found)
}

/// Waits until nobody else works with the cache, and keeps it so.
fn alone(cache: &Cache) -> Result<File> {
    // Makes the directory, and cleans up after the dead.
    drop(cache.enter(None)?);
    let path = cache.dir().join("lock");
    let lock = File::options().append(true).open(&path).map_err(at("open", &path))?;
    let begun = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(std::fs::TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(Error::CacheBusy { path: cache.dir().to_owned() }),
            Err(std::fs::TryLockError::Error(error)) => return Err(at("lock", path)(error)),
        }
    }
}
