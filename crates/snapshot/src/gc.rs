//! Removing from a store what no kept snapshot needs, beside pushes that go on.
//!
//! A plan is made first, printed by whoever asked for it, and then carried out. Only objects of `packs/`, `layouts/` and
//! `snapshots/` are ever removed (and this module's own notes, `claims/`), never one that a snapshot of `keep` needs.
//!
//! What is kept: snapshots of `keep`; snapshots that are *young*, which is judged by the server's clock alone: an object's
//! time against that of an object that gc itself just wrote, an object without a time being young; snapshots that are
//! *claimed*; and every pack that the layout of any of them names. When the layout of one of them cannot be read nothing is
//! removed any more ([`Error::Unsure`], which says what went before). A snapshot of `keep` of which the store has neither
//! manifest nor layout is no error, since it may be in another store, or not pushed yet; [`Plan::absent`] names it.
//!
//! # A gc beside a running push loses nothing
//!
//! A **push** of a snapshot S does this:
//!
//! 1. *claim*: writes `claims/<2>/<S>`, a few bytes that are new each time;
//! 2. *survey*: asks for `gc/epoch.json`, `gc/intent.json` and then for the objects of S, in this order. In a small store that is
//!    one page of a listing that begins at `gc/`. If there is an intent that names an object of S, it waits until the intent
//!    is gone and begins again at 1. If everything is there it has ended;
//! 3. sends missing packs, then the layout;
//! 4. if `gc/epoch.json` is no longer what the survey saw, begins again at 1;
//! 5. sends the manifest, and looks at the epoch as in 4 once more.
//!
//! A **gc**, alone under a lease, does this for each batch of the objects that it planned to remove:
//!
//! 1. writes `gc/intent.json`, which names them;
//! 2. replaces `gc/epoch.json`;
//! 3. *looks*: lists `claims/`, `snapshots/`, `layouts/`. A snapshot is spared if it is kept or young, if its claim is young, or
//!    if its claim, manifest or layout was written since the plan was made. So is every pack that is named by a layout that
//!    is there now, with or without a manifest, unless the plan removes that layout and its snapshot is not spared;
//! 4. removes the others of the batch: manifests before layouts before packs; 5. removes the intent.
//!
//! Why that is safe. Take a push that ended, and a look of a gc.
//!
//! - *Claim before look*: the gc spares S, all that its layout names, and removes nothing of it. (If the claim is older than
//!   the plan and not young, the push ended before a gc whose `keep` does not have S: that is what was asked for.)
//! - *Look before claim, nothing was missing* (the push with nothing to do): the intent was written before the look, so before the
//!   survey. If the survey did not see it, it was gone by then; a gc removes its intent last, so what the survey then
//!   saw of S is what was left. If it saw it, it read what it names, and the next batch has another intent and another look.
//! - *Look between survey and layout*: the epoch was replaced before the look. If the survey saw the new one, then the intent was
//!   there before the survey, and the argument above holds. If it saw the old one, step 4 sees the new one: the push surveys
//!   again and sends what was removed meanwhile.
//! - *Look after the layout*: the gc spares what the layout names, though there is no manifest yet. If S itself is to be removed
//!   by a plan older than the claim, the look in step 5 finds the epoch changed, and the push begins again.
//! - *Two pushes* do not meet: both claim, and what both send is the same or named by a layout that either wrote.
//! - *A fetch* writes nothing and is not waited for: if the snapshot is removed under it, it fails and names the missing object.
//!   Manifests go first, so whoever finds one later finds all of it.
//! - *A gc that dies* leaves its intent. The next gc removes it when it has the lease; a push that finds itself named waits until
//!   the lease is free, or stood still for its time, takes it over and removes the intent. Then it surveys.
//!
//! What remains is what no store can exclude. None takes a condition on a DELETE: a gc may be frozen between its last look at its
//! lease and the next request, for longer than half of the lease's time, and then thaw. And where a survey is one page of a listing,
//! the epoch must have been read before the keys behind it: S3 promises a listing sorted by key and as of after it was asked for,
//! not that it was read in that order. A server that reads `packs/` first and `gc/` afterwards, with the whole batch of a gc in
//! between, would show objects that are about to go beside a newer epoch.
//!
//! In numbers: a request of a gc that changes something begins at most half of the lease's time after the lease was last confirmed,
//! and is given up, and not sent again, after another quarter. In the last quarter nothing is sent. So what remains of a network
//! that goes away is a single request that was sent before and lies on its way, or in the server, for longer than that quarter and
//! for as long as a push needs to take the lease and to send what is missing.
//!
//! So a push costs one small write more when nothing is to be done, and three small requests more otherwise.

use crate::{
    cache::{layout_key, manifest_key},
    error::{Error, Result},
    fence::{self, CLAIMS, EPOCH, INTENT, Intent, LEASE, LEASE_TTL},
    layout::LayoutReader,
    remote::{blocking, copy_layout, is_damage},
};
use domain::{
    Digest, Events,
    event::{Task, Unit},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, SystemTime},
};
use store::{Body, Condition, Family, Lease, Meta, Store};

/// How many objects an intent names. A push that needs one of them waits for so many removals at most.
const BATCH: usize = 1000;
/// Removals and layouts under way at once.
const CONCURRENT: usize = 16;
/// How long a gc waits for another one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Its size.
    pub size: u64,
    /// Why it is not needed.
    pub why: &'static str,
}

/// Objects that were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn take(&mut self, size: u64) {
        self.objects += 1;
        self.bytes += size;
    }
}

/// What a gc would remove, and what it would leave.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Plan {
    /// In the order of removal: manifests, layouts, packs; each in byte order of key.
    pub remove: Vec<Object>,
    /// Bytes of all of them.
    pub remove_bytes: u64,
    /// How many snapshots of `keep` are there.
    pub kept_snapshots: u64,
    /// Their manifests, layouts and packs.
    pub kept_bytes: u64,
    /// What no kept snapshot needs and what stays, because it is younger than `grace` or belongs to a snapshot that is.
    pub young: Tally,
    /// Snapshots of `keep` that are not there at all.
    pub absent: Vec<Digest>,
    /// Age in seconds below which an object is young.
    pub grace_seconds: u64,
    /// Entity tags of the claims as they were.
    #[serde(skip)]
    claims: BTreeMap<Digest, String>,
    /// Claims that have had their time.
    #[serde(skip)]
    expired: Vec<Digest>,
    /// Whether a gc died and left its intent, or is at work.
    #[serde(skip)]
    unfinished: bool,
}

impl Plan {
    pub(crate) fn push(&mut self, key: String, size: u64, why: &'static str) {
        self.remove_bytes += size;
        self.remove.push(Object { key, size, why });
    }
}

/// What a gc removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Collected {
    /// What is gone now.
    pub removed: Tally,
    /// What was planned and stays, because something came to need it since the plan was made.
    pub spared: Tally,
}

pub(crate) const WHY_MANIFEST: &str = "its snapshot is not kept";
pub(crate) const WHY_LAYOUT: &str = "the snapshot that it describes is not kept";
pub(crate) const WHY_PACK: &str = "no kept snapshot has a chunk in it";

fn lost(action: &'static str) -> impl Fn(store::Error) -> Error + use<> {
    move |source| Error::Gc { action, source: Box::new(source) }
}

/// The digest in a key of this family, if it is one.
fn digest_of(key: &str, prefix: &str) -> Option<Digest> {
    let hex = key.strip_prefix(prefix)?.get(3..)?;
    let digest: Digest = hex.parse().ok().filter(|_| hex.len() == 64)?;
    (key == format!("{prefix}{}/{hex}", &hex[..2])).then_some(digest)
}

const LAYOUTS: &str = "layouts/";
const MANIFESTS: &str = Family::Snapshot.prefix();
const PACKS: &str = Family::Pack.prefix();

/// Lists a family page by page; keys that are none of it are left alone.
async fn each(store: &Store, prefix: &str, mut take: impl FnMut(Digest, Meta)) -> Result<()> {
    let mut after: Option<String> = None;
    let mut begun = BTreeSet::new();
    loop {
        let failed = lost("list a store for a gc");
        let page = store.objects().list(prefix, after.as_deref()).await.map_err(&failed)?;
        after = page.entries.last().map(|(key, _)| key.clone());
        for (key, meta) in page.entries {
            if let Some(digest) = digest_of(&key, prefix) {
                take(digest, meta);
            }
        }
        if !page.more {
            return Ok(());
        }
        if after.is_none() {
            let why = "is listed as an empty page with more to come".to_owned();
            return Err(Error::Unsure { object: prefix.to_owned(), why, removed: 0 });
        }
        if !begun.insert(after.clone()) {
            let what = format!("lists {prefix} without an end: a page with nothing new in it says that there is more");
            return Err(failed(store::Error::unavailable(store.describe(), what)));
        }
    }
}

/// Sends one request of a gc that changes something: right behind a look at its lease, and not for so long that another may
/// have the lease when it, or its repetition, is sent.
pub(crate) async fn in_time<T>(
    store: &Store,
    lease: &Lease,
    request: impl Future<Output = store::Result<T>>,
) -> store::Result<T> {
    lease.check()?;
    let late = |_| {
        let what = "did not answer a gc as long as it could be sure of its lease";
        store::Error::unavailable(store.describe(), what)
    };
    tokio::time::timeout(LEASE_TTL / 4, request).await.map_err(late)?
}

/// Decides what is young.
#[derive(Debug, Clone, Copy)]
struct Clock {
    now: Option<SystemTime>,
    grace: Duration,
}

impl Clock {
    /// The server's time: that of an object which was just written there.
    async fn read(store: &Store, key: &str, body: Body, grace: Duration) -> Result<Self> {
        let lost = lost("learn the time of a store");
        store.objects().put(key, body, Condition::None).await.map_err(&lost)?;
        let meta = store.objects().head(key).await.map_err(&lost)?;
        Ok(Self { now: meta.and_then(|meta| meta.modified), grace })
    }

    fn young(&self, meta: &Meta) -> bool {
        let (Some(now), Some(modified)) = (self.now, meta.modified) else { return true };
        // Servers round to whole seconds, so an object may be almost one second younger than it looks.
        let grace = if self.grace.is_zero() { self.grace } else { self.grace + Duration::from_secs(1) };
        match now.duration_since(modified) {
            Ok(age) => age < grace,
            Err(_) => !grace.is_zero(),
        }
    }
}

/// Who needs a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Young,
    Kept,
}

/// What is protected, as it becomes known: it only grows.
struct Look<'a> {
    store: &'a Store,
    keep: &'a BTreeSet<Digest>,
    /// What the plan knows; `None` while it is being made.
    planned: Option<Planned<'a>>,
    /// Layouts that were read, by entity tag.
    read: HashMap<Digest, String>,
    packs: HashMap<Digest, Need>,
}

/// Claims when the plan was made, and what it removes.
struct Planned<'a> {
    claims: &'a BTreeMap<Digest, String>,
    manifests: HashSet<Digest>,
    layouts: HashSet<Digest>,
}

/// What a look saw.
#[derive(Default)]
struct Seen {
    claims: BTreeMap<Digest, String>,
    expired: HashSet<Digest>,
    /// Snapshots that are not removed.
    spared: HashSet<Digest>,
    manifests: BTreeMap<Digest, u64>,
    layouts: BTreeMap<Digest, u64>,
}

impl Look<'_> {
    /// Lists claims, manifests and layouts, and reads the layouts that protect packs.
    async fn look(&mut self, clock: Clock) -> Result<Seen> {
        let mut seen = Seen { spared: self.keep.iter().copied().collect(), ..Seen::default() };
        let planned = self.planned.as_ref();
        each(self.store, CLAIMS, |digest, meta| {
            let etag = fence::plain(&meta.etag);
            if clock.young(&meta) || planned.is_some_and(|plan| plan.claims.get(&digest) != Some(&etag)) {
                seen.spared.insert(digest);
            } else {
                seen.expired.insert(digest);
            }
            seen.claims.insert(digest, etag);
        })
        .await?;
        each(self.store, MANIFESTS, |digest, meta| {
            if clock.young(&meta) || planned.is_some_and(|plan| !plan.manifests.contains(&digest)) {
                seen.spared.insert(digest);
            }
            seen.manifests.insert(digest, meta.size);
        })
        .await?;
        let mut unread = Vec::new();
        each(self.store, LAYOUTS, |digest, meta| {
            if clock.young(&meta) || planned.is_some_and(|plan| !plan.layouts.contains(&digest)) {
                seen.spared.insert(digest);
            }
            let etag = fence::plain(&meta.etag);
            if seen.spared.contains(&digest) && (etag.is_empty() || self.read.get(&digest) != Some(&etag)) {
                unread.push((digest, etag));
            }
            seen.layouts.insert(digest, meta.size);
        })
        .await?;
        for digest in self.keep {
            if seen.manifests.contains_key(digest) && !seen.layouts.contains_key(digest) {
                let why = "is missing, so the packs of a kept snapshot are not known".to_owned();
                return Err(Error::Unsure { object: layout_key(digest), why, removed: 0 });
            }
        }
        self.read_layouts(unread).await?;
        Ok(seen)
    }

    async fn read_layouts(&mut self, unread: Vec<(Digest, String)>) -> Result<()> {
        let store = self.store;
        let mut reading = stream::iter(unread)
            .map(|(digest, etag)| async move { Ok((packs_of(store, &digest).await?, digest, etag)) })
            .buffer_unordered(CONCURRENT);
        while let Some((packs, digest, etag)) = reading.try_next().await? {
            let Some(packs) = packs else {
                // Removed since it was listed. Whoever is pushing it finds out; if it is kept, nobody may have done that.
                if self.keep.contains(&digest) {
                    let why = "vanished while it was being read".to_owned();
                    return Err(Error::Unsure { object: layout_key(&digest), why, removed: 0 });
                }
                continue;
            };
            let need = if self.keep.contains(&digest) { Need::Kept } else { Need::Young };
            for pack in packs {
                let known = self.packs.entry(pack).or_insert(need);
                *known = need.max(*known);
            }
            self.read.insert(digest, etag);
        }
        Ok(())
    }
}

/// The packs that a stored layout names; `None` when there is no layout.
async fn packs_of(store: &Store, digest: &Digest) -> Result<Option<Vec<Digest>>> {
    let folder = std::env::temp_dir();
    let file = tempfile::NamedTempFile::new_in(&folder).map_err(crate::error::at("write in", folder))?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match copy_layout(store, digest, file.path()).await {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(Error::Store { source, .. }) if is_damage(&source) => {
                let why = format!("is damaged, so the packs that it needs are not known: {source}");
                return Err(Error::Unsure { object: layout_key(digest), why, removed: 0 });
            }
            Err(error) => return Err(error),
        }
        let (path, snapshot) = (file.path().to_owned(), *digest);
        let read = blocking("read a layout", move || {
            Ok(LayoutReader::open(&path, &snapshot)?.packs().iter().map(|pack| pack.digest).collect())
        });
        match read.await {
            Ok(packs) => return Ok(Some(packs)),
            // A transfer may have been damaged once.
            Err(Error::Corrupt { .. }) if attempt == 1 => {}
            Err(Error::Corrupt { object, why }) => {
                let why = format!("is corrupt, so the packs that it needs are not known: {why}");
                return Err(Error::Unsure { object, why, removed: 0 });
            }
            Err(error) => return Err(error),
        }
    }
}

/// Finds out what a gc would remove. Writes one small object, to learn the server's time, and removes nothing.
pub async fn plan(store: &Store, keep: &BTreeSet<Digest>, grace: Duration, events: &Events) -> Result<Plan> {
    let task = events.task("plan gc", None, Unit::Items);
    let clock = Clock::read(store, fence::CLOCK, fence::unique(), grace).await?;
    let mut look = Look { store, keep, planned: None, read: HashMap::new(), packs: HashMap::new() };
    let seen = look.look(clock).await?;
    let mut plan = Plan { grace_seconds: grace.as_secs(), ..Plan::default() };
    let mut sort_out = |digest: &Digest, key: String, size: u64, why| {
        task.advance(1);
        if keep.contains(digest) {
            plan.kept_bytes += size;
        } else if seen.spared.contains(digest) {
            plan.young.take(size);
        } else {
            plan.push(key, size, why);
        }
    };
    for (digest, size) in &seen.manifests {
        sort_out(digest, manifest_key(digest), *size, WHY_MANIFEST);
    }
    for (digest, size) in &seen.layouts {
        sort_out(digest, layout_key(digest), *size, WHY_LAYOUT);
    }
    each(store, PACKS, |digest, meta| {
        task.advance(1);
        match look.packs.get(&digest) {
            Some(Need::Kept) => plan.kept_bytes += meta.size,
            Some(Need::Young) => plan.young.take(meta.size),
            None if clock.young(&meta) => plan.young.take(meta.size),
            None => plan.push(Store::key(Family::Pack, &digest), meta.size, WHY_PACK),
        }
    })
    .await?;
    plan.kept_snapshots = keep.iter().filter(|digest| seen.manifests.contains_key(digest)).count() as u64;
    let nowhere = |digest: &&Digest| !seen.manifests.contains_key(digest) && !seen.layouts.contains_key(digest);
    plan.absent = keep.iter().filter(nowhere).copied().collect();
    (plan.claims, plan.expired) = (seen.claims, seen.expired.into_iter().collect());
    let intent = store.objects().head(INTENT).await.map_err(lost("look for another gc"))?;
    plan.unfinished = intent.is_some();
    task.finish(format!("{} objects, {} bytes to remove", plan.remove.len(), plan.remove_bytes));
    Ok(plan)
}

/// Removes what the plan names, except what came to be needed since: by `keep` as it is now, or by a push. Another gc at work
/// is [`store::Error::Held`]. One that is interrupted leaves nothing that the next one, or a push, does not put right.
pub async fn collect(store: &Store, plan: &Plan, keep: &BTreeSet<Digest>, events: &Events) -> Result<Collected> {
    if plan.remove.is_empty() && plan.expired.is_empty() && !plan.unfinished {
        return Ok(Collected::default());
    }
    let begin = lost("begin a gc");
    // Leases, on which all of this rests, need a store that keeps conditions.
    store.probe_conditional_writes().await.map_err(&begin)?;
    let op = format!("gc {}", uuid::Uuid::new_v4());
    let lease = store.lease(LEASE, &op, LEASE_TTL, PATIENCE).await.map_err(&begin)?;
    let task = events.task("gc", Some(plan.remove.len() as u64), Unit::Items);
    let of_family = |family| plan.remove.iter().filter_map(move |object| digest_of(&object.key, family)).collect();
    let planned = Planned { claims: &plan.claims, manifests: of_family(MANIFESTS), layouts: of_family(LAYOUTS) };
    let look = Look { store, keep, planned: Some(planned), read: HashMap::new(), packs: HashMap::new() };
    let mut gc = Gc { store, lease: &lease, look, grace: Duration::from_secs(plan.grace_seconds), op, task: &task };
    let mut collected = Collected::default();
    match gc.run(plan, &mut collected).await {
        Ok(()) => {
            lease.release().await.map_err(lost("end a gc"))?;
            task.finish(format!("{} objects, {} bytes removed", collected.removed.objects, collected.removed.bytes));
            Ok(collected)
        }
        // No removal is under way, so nobody needs to wait. Earlier batches were removed, each after a look of its own.
        Err(Error::Unsure { object, why, .. }) => {
            let _ = lease.release().await;
            Err(Error::Unsure { object, why, removed: collected.removed.objects })
        }
        // A removal may still be under way: the lease is left to run out.
        Err(error) => Err(error),
    }
}

/// The snapshot whose manifest or layout this is.
fn snapshot_of(key: &str) -> Option<Digest> {
    digest_of(key, MANIFESTS).or_else(|| digest_of(key, LAYOUTS))
}

struct Gc<'a> {
    store: &'a Store,
    lease: &'a Lease,
    look: Look<'a>,
    grace: Duration,
    op: String,
    task: &'a Task,
}

impl Gc<'_> {
    async fn run(&mut self, plan: &Plan, collected: &mut Collected) -> Result<()> {
        // Of a gc that died: we have its lease.
        self.clear().await?;
        let expired: Vec<Object> = plan
            .expired
            .iter()
            .map(|digest| Object { key: fence::claim_key(digest), size: 0, why: "it has had its time" })
            .collect();
        for family in [MANIFESTS, LAYOUTS, PACKS] {
            let of_family = |object: &&Object| digest_of(&object.key, family).is_some();
            let objects: Vec<&Object> = plan.remove.iter().filter(of_family).collect();
            for batch in objects.chunks(BATCH) {
                self.batch(batch, collected).await?;
            }
        }
        // Claims are no part of what was asked for, and not counted.
        for batch in expired.iter().collect::<Vec<_>>().chunks(BATCH) {
            self.batch(batch, &mut Collected::default()).await?;
        }
        Ok(())
    }

    /// One batch of the protocol.
    async fn batch(&mut self, batch: &[&Object], collected: &mut Collected) -> Result<()> {
        let failed = lost("tell pushes of a gc");
        let keys = batch.iter().map(|object| object.key.clone()).collect();
        let op = format!("{} {}", self.op, uuid::Uuid::new_v4());
        let intent = Intent { v: 1, op, epoch: self.lease.epoch, keys };
        let body = Body::Bytes(serde_json::to_vec(&intent).unwrap_or_default().into());
        let telling = async { Ok(Clock::read(self.store, INTENT, body, self.grace).await) };
        let clock = in_time(self.store, self.lease, telling).await.map_err(&failed)??;
        let renewing = self.store.objects().put(EPOCH, fence::unique(), Condition::None);
        in_time(self.store, self.lease, renewing).await.map_err(&failed)?;
        let seen = match self.look.look(clock).await {
            Ok(seen) => seen,
            Err(error) => {
                // Nothing of this batch is removed: no push needs to wait.
                let _ = self.clear().await;
                return Err(error);
            }
        };
        let (remove, spare): (Vec<&Object>, Vec<&Object>) =
            batch.iter().copied().partition(|object| self.is_free(object, &seen));
        let (store, lease, task) = (self.store, self.lease, self.task);
        stream::iter(remove)
            .map(Ok)
            .try_for_each_concurrent(CONCURRENT, |object| async move {
                let failed = lost("remove what no snapshot needs");
                in_time(store, lease, store.objects().delete(&object.key)).await.map_err(&failed)?;
                store.mended(&object.key);
                task.advance(1);
                Ok::<(), Error>(())
            })
            .await?;
        for object in batch.iter().filter(|object| self.is_free(object, &seen)) {
            collected.removed.take(object.size);
        }
        for object in spare {
            collected.spared.take(object.size);
        }
        self.clear().await
    }

    /// Whether nothing needs this object after all.
    fn is_free(&self, object: &Object, seen: &Seen) -> bool {
        if let Some(snapshot) = snapshot_of(&object.key) {
            return !seen.spared.contains(&snapshot);
        }
        digest_of(&object.key, PACKS).is_some_and(|pack| !self.look.packs.contains_key(&pack))
            || digest_of(&object.key, CLAIMS).is_some_and(|claimed| seen.expired.contains(&claimed))
    }

    async fn clear(&self) -> Result<()> {
        let failed = lost("end a batch of a gc");
        in_time(self.store, self.lease, self.store.objects().delete(INTENT)).await.map_err(&failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_keys_are_objects_of_a_family() {
        let digest = Digest::of("x");
        let key = manifest_key(&digest);
        assert_eq!(digest_of(&key, MANIFESTS), Some(digest));
        assert_eq!(digest_of(&key, LAYOUTS), None);
        for wrong in
            [key.to_uppercase(), key.replace("snapshots/", "snapshots/0"), format!("{key}0"), "snapshots/".into()]
        {
            assert_eq!(digest_of(&wrong, MANIFESTS), None, "{wrong}");
        }
        assert_eq!(digest_of(&format!("snapshots/zz/{}", digest.hex()), MANIFESTS), None);
    }

    #[test]
    fn age_is_judged_by_the_server_alone_and_doubt_is_young() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let meta = |modified| Meta { size: 1, etag: String::new(), modified };
        let clock = Clock { now: at(1000), grace: Duration::from_secs(100) };
        assert!(!clock.young(&meta(at(899))));
        assert!(clock.young(&meta(at(900))), "a server rounds its times down");
        assert!(clock.young(&meta(at(2000))) && clock.young(&meta(None)));
        assert!(Clock { now: None, ..clock }.young(&meta(at(1))));
        let none = Clock { grace: Duration::ZERO, ..clock };
        assert!(!none.young(&meta(at(1000))) && none.young(&meta(None)));
    }
}
