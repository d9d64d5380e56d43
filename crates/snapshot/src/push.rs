//! Push, in step with a gc that may be at work ([`crate::gc`] has the protocol), and the healing of what is damaged.

use crate::{
    Pointer, Pushed, Repository,
    cache::{OwnLayout, layout_key, manifest_key},
    checkout,
    error::{Error, Result, at, count},
    fence, ingest,
    remote::{self, Survey, blocking, failed},
};
use domain::{Digest, Events, event::Unit};
use std::path::PathBuf;
use store::Store;

impl Repository {
    /// Brings a snapshot of the cache into the store: packs, layout, and the manifest last. Can be interrupted and
    /// repeated. When the cache has lost bytes they are taken from the data again, if that is still what was added;
    /// otherwise [`Error::ChangedSinceAdd`]. A gc that removes what is needed is waited for, but not for
    /// ever ([`Repository::with_patience`]): then it is [`Error::Busy`].
    ///
    /// Two requests when there is nothing to do, if a page of a listing, from `gc/` on, reaches the manifest; otherwise one more
    /// for each object beyond it, or for each page, whichever is fewer.
    pub async fn push(&self, store: &Store, pointer: &Pointer, events: &Events) -> Result<Pushed> {
        let _guard = self.enter(None).await?;
        let digest = pointer.digest;
        let recalled = self.recall_damage(store);
        let mut rebuilt = false;
        loop {
            if let Some(own) = self.own_layout(store, &digest, events).await? {
                match self.push_packs(store, &digest, &own, events).await {
                    Err(Error::CachedPack { .. } | Error::NotCached { .. }) if !rebuilt => {}
                    Ok(pushed) => {
                        self.remember_damage(store, &recalled, [])?;
                        return Ok(pushed);
                    }
                    failed => return failed,
                }
            } else if rebuilt {
                return Err(Error::NotCached { object: manifest_key(&digest), snapshot: digest });
            }
            self.rebuild(pointer, events).await?;
            rebuilt = true;
        }
    }

    /// The cache's layout of a snapshot whose manifest it also has. When the store's layout is wrong this one may have come from
    /// there, so it is taken for what it is only after it led to every byte.
    async fn own_layout(&self, store: &Store, digest: &Digest, events: &Events) -> Result<Option<OwnLayout>> {
        let suspect = store.is_damaged(&layout_key(digest));
        let (cache, digest, events) = (self.cache().clone(), *digest, events.clone());
        blocking("open a snapshot", move || {
            if suspect && cache.open(&digest)?.is_some() {
                let task = events.task(format!("verify snapshot {} in the cache", digest.short()), None, Unit::Bytes);
                match checkout::verify_cached(&cache, &digest, &task) {
                    Err(Error::CachedLayout { .. }) => return Ok(None),
                    Err(Error::Corrupt { object, why }) if object == layout_key(&digest) => {
                        let _ = cache.quarantine_layout(&digest, why);
                        return Ok(None);
                    }
                    // What it leads to is missing or damaged, which the push finds as well.
                    Ok(_) | Err(Error::NotCached { .. } | Error::CachedPack { .. }) => task.finish(""),
                    Err(error) => return Err(error),
                }
            }
            Ok(cache.open_manifest(&digest)?.and(cache.copy_layout(&digest)?))
        })
        .await
    }

    async fn push_packs(&self, store: &Store, digest: &Digest, own: &OwnLayout, events: &Events) -> Result<Pushed> {
        let lost = failed("push", digest);
        let length = |path: PathBuf| std::fs::metadata(&path).map(|meta| meta.len()).map_err(at("read", path));
        let (manifest, layout) = (length(self.cache().manifest(digest))?, length(own.file.path().to_owned())?);
        let mut pushed = Pushed { uploaded_packs: 0, uploaded_bytes: 0, already: true };
        for _ in 0..fence::ROUNDS {
            fence::claim(store, digest).await.map_err(&lost)?;
            let survey = Survey::take(store, digest, &own.packs).await.map_err(&lost)?;
            if !survey.moment.spares(store, digest, &own.packs, self.patience(), events).await? {
                continue;
            }
            let missing = survey.missing(&own.packs);
            if missing.is_empty() && survey.has_both(digest, manifest, layout) {
                return Ok(pushed);
            }
            // Someone else may have pushed the same snapshot, packed otherwise.
            if survey.has_manifest(digest, manifest)
                && !store.is_damaged(&layout_key(digest))
                && let Some(theirs) = remote::remote_packs(store, self.cache(), digest).await?
            {
                let survey = Survey::take(store, digest, &theirs).await.map_err(&lost)?;
                if !survey.moment.spares(store, digest, &theirs, self.patience(), events).await? {
                    continue;
                }
                if survey.missing(&theirs).is_empty() {
                    return Ok(pushed);
                }
            }
            if let Some(lost) = missing.iter().find(|pack| !self.cache().has_pack(pack)) {
                let object = Store::key(store::Family::Pack, &lost.digest);
                return Err(Error::NotCached { object, snapshot: *digest });
            }
            let bytes = missing.iter().map(|pack| pack.size).sum::<u64>() + layout + manifest;
            let task = events.task(format!("push snapshot {}", digest.short()), Some(bytes), Unit::Bytes);
            pushed.already = false;
            remote::send_packs(store, self.cache(), digest, &missing, &task).await?;
            remote::send_small(store, &layout_key(digest), own.file.path().to_owned(), digest, &task).await?;
            pushed.uploaded_packs += missing.len() as u64;
            pushed.uploaded_bytes += bytes - manifest;
            // A gc that looked between survey and layout may have removed what the survey saw: no manifest yet.
            if !survey.moment.holds(store).await.map_err(&lost)? {
                task.finish("a gc was at work: looking again");
                continue;
            }
            remote::send_small(store, &manifest_key(digest), self.cache().manifest(digest), digest, &task).await?;
            pushed.uploaded_bytes += manifest;
            if !survey.moment.holds(store).await.map_err(&lost)? {
                task.finish("a gc was at work: looking again");
                continue;
            }
            task.finish(format!("{}, {}", count(missing.len() as u64, "pack"), count(bytes, "byte")));
            return Ok(pushed);
        }
        Err(Error::Busy { snapshot: *digest })
    }

    /// Takes into the cache again what it lost of a snapshot.
    pub(crate) async fn rebuild(&self, pointer: &Pointer, events: &Events) -> Result<()> {
        let data = self.data(&pointer.data())?;
        let (this, events, digest) = (self.clone(), events.clone(), pointer.digest);
        blocking("take data into the cache", move || {
            if std::fs::symlink_metadata(&data.full).is_err() {
                return Err(Error::NotCached { object: manifest_key(&digest), snapshot: digest });
            }
            let _guard = this.cache().enter(Some(&data.name))?;
            let label = data.relative.display().to_string();
            ingest::ingest(this.cache(), &data.name, &data.full, Some(digest), &label, &events)?;
            Ok(())
        })
        .await
    }

    /// Sends what the store has damaged of a snapshot, out of the cache; what that lacks comes from `copies` first. False
    /// when no copy is whole.
    pub(crate) async fn heal(&self, store: &Store, digest: &Digest, copies: &[Store], events: &Events) -> Result<bool> {
        // What was never committed is not damaged, and pushing is asked for by its own verb.
        if !store.is_damaged(&manifest_key(digest))
            && store.has(store::Family::Snapshot, digest).await.map_err(failed("look for", digest))?.is_none()
        {
            return Ok(false);
        }
        let mut left = copies.iter();
        loop {
            if let Some(own) = self.own_layout(store, digest, events).await? {
                match self.push_packs(store, digest, &own, events).await {
                    Ok(pushed) => return Ok(!pushed.already),
                    Err(Error::NotCached { .. } | Error::CachedPack { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            let Some(copy) = left.next() else { return Ok(false) };
            if let Err(error) = self.fetch_selected(copy, digest, events, None).await {
                events.warn(format!("{} cannot help: {error}", copy.describe()));
            }
        }
    }
}
