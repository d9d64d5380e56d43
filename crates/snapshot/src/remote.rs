//! Between cache and store: sending, fetching, and what is missing there.
//!
//! What a store has is asked of the store each time, never remembered: an object that was deleted or cut short behind
//! our back is found by the next push. One page of a listing usually answers for everything at once, because the keys
//! of layouts, packs and snapshots follow each other. Sizes are all that it tells, so what the store value was found to have
//! damaged counts as missing.

use crate::{
    cache::{Cache, layout_key, manifest_key},
    error::{Error, Result, at, count},
    fence::{self, Moment},
    layout::{self, LayoutReader, PackInfo, hash_rest},
    manifest::{self, ManifestReader},
};
use domain::{
    Digest, Events,
    event::{Task, Unit},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::{
    collections::HashMap,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use store::{Body, Condition, Family, Store};
use tokio::io::AsyncWriteExt as _;

/// Packs that travel at the same time, piece by piece.
const CONCURRENT: usize = 8;
/// Questions that are asked at the same time.
const QUESTIONS: usize = 32;
/// Up to this many objects are asked for one by one.
const FEW: usize = 64;
/// A page of a listing costs as much as so many questions side by side.
const WORTH_A_PAGE: usize = 8;

/// Runs blocking work beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Worker { what })?
}

pub(crate) fn failed(action: &'static str, snapshot: &Digest) -> impl Fn(store::Error) -> Error + use<> {
    let snapshot = *snapshot;
    move |source| Error::Store { action, snapshot, source: Box::new(source) }
}

/// Sizes of what the store has of a snapshot, and the state of gc before that was asked for.
pub(crate) struct Survey {
    sizes: HashMap<String, u64>,
    pub(crate) moment: Moment,
}

impl Survey {
    /// Asks for manifest, layout and these packs: one listing, and then for what lies beyond its first page.
    pub(crate) async fn take(store: &Store, digest: &Digest, packs: &[PackInfo]) -> store::Result<Self> {
        let packs = packs.iter().map(|pack| Store::key(Family::Pack, &pack.digest));
        let mut wanted: Vec<String> = packs.chain([layout_key(digest), manifest_key(digest)]).collect();
        wanted.sort();
        wanted.dedup();
        // What a gc says of itself comes before everything else, and is read first.
        let page = store.objects().list("", Some(fence::PREFIX)).await?;
        let mut survey = Self { sizes: HashMap::new(), moment: Moment::default() };
        for (key, meta) in &page.entries {
            survey.moment.notice(key, meta);
        }
        let left = survey.absorb(&page, &wanted)?;
        if page.more && page.entries.last().is_some_and(|(key, _)| key.starts_with(fence::PREFIX)) {
            survey.moment = Moment::ask(store).await?;
        }
        survey.ask(store, left).await?;
        survey.sizes.retain(|key, _| !store.is_damaged(key));
        Ok(survey)
    }

    /// Takes what one page says of the wanted keys, which are sorted; those that it says nothing of.
    fn absorb<'a>(&mut self, page: &store::Page, wanted: &'a [String]) -> store::Result<&'a [String]> {
        let there = page.entries.iter().filter(|(key, _)| wanted.binary_search(key).is_ok());
        self.sizes.extend(there.map(|(key, meta)| (key.clone(), meta.size)));
        match page.entries.last() {
            _ if !page.more => Ok(&[]),
            Some((last, _)) => Ok(&wanted[wanted.partition_point(|key| key <= last)..]),
            None => Err(store::Error::Damaged {
                key: "the listing of the store".to_owned(),
                what: "a page is empty and says that there is more".to_owned(),
            }),
        }
    }

    /// Few keys are asked for one by one. Many are found by pages that begin at the next of them, as long as a page
    /// answers for several.
    async fn ask(&mut self, store: &Store, mut left: &[String]) -> store::Result<()> {
        while left.len() > FEW {
            let from = &left[0][..left[0].len() - 1];
            let page = store.objects().list("", Some(from)).await?;
            let rest = self.absorb(&page, left)?;
            let answered = left.len() - rest.len();
            left = rest;
            if answered < WORTH_A_PAGE {
                break;
            }
        }
        let answers: Vec<_> = stream::iter(left)
            .map(|key| async move {
                match store.objects().head(key).await {
                    // What has no shape any more is as good as absent.
                    Err(store::Error::Damaged { .. }) => Ok((key, None)),
                    answer => answer.map(|meta| (key, meta)),
                }
            })
            .buffer_unordered(QUESTIONS)
            .try_collect()
            .await?;
        self.sizes.extend(answers.into_iter().filter_map(|(key, meta)| Some((key.clone(), meta?.size))));
        Ok(())
    }

    fn size(&self, key: &str) -> Option<u64> {
        self.sizes.get(key).copied()
    }

    /// The packs that are not there with their size.
    pub(crate) fn missing(&self, packs: &[PackInfo]) -> Vec<PackInfo> {
        let there = |pack: &PackInfo| self.size(&Store::key(Family::Pack, &pack.digest)) == Some(pack.size);
        packs.iter().filter(|pack| !there(pack)).copied().collect()
    }

    /// Whether manifest and layout are there with these sizes.
    pub(crate) fn has_both(&self, digest: &Digest, manifest: u64, layout: u64) -> bool {
        self.has_manifest(digest, manifest) && self.size(&layout_key(digest)) == Some(layout)
    }

    pub(crate) fn has_manifest(&self, digest: &Digest, size: u64) -> bool {
        self.size(&manifest_key(digest)) == Some(size)
    }

    /// The keys of layout, packs and manifest that are not there.
    fn absent(&self, digest: &Digest, packs: &[PackInfo]) -> Vec<String> {
        let layout = Some(layout_key(digest)).filter(|key| self.size(key).is_none());
        let packs = self.missing(packs).into_iter().map(|pack| Store::key(Family::Pack, &pack.digest));
        let manifest = Some(manifest_key(digest)).filter(|key| self.size(key).is_none());
        layout.into_iter().chain(packs).chain(manifest).collect()
    }
}

/// Sends one file under `key`. A lost answer or a conflict is settled by asking for what is there now.
async fn send(store: &Store, key: &str, path: &Path, length: u64, digest: &Digest, task: &Task) -> store::Result<()> {
    let sent = Arc::new(AtomicU64::new(0));
    let body = Body::Sealed { path: path.to_owned(), length, digest: *digest, sent: sent.clone() };
    let mut sending = std::pin::pin!(store.objects().put(key, body, Condition::None));
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut shown = 0;
    let mut show = |to: u64| {
        if to > shown {
            task.advance(to - shown);
            shown = to;
        }
    };
    let answer = loop {
        tokio::select! {
            answer = &mut sending => break answer,
            _ = tick.tick() => show(sent.load(Ordering::Relaxed).min(length)),
        }
    };
    let meta = match answer {
        Ok(meta) => meta,
        // What is known to be damaged has this size already, and a refusal is no lost answer.
        Err(error) if error.may_be_done() && !store.is_damaged(key) => match store.objects().head(key).await {
            Ok(Some(meta)) if meta.size == length => meta,
            _ => return Err(error),
        },
        Err(error) => return Err(error),
    };
    if meta.size != length {
        let what = format!("has {} bytes of the {length} that were sent", meta.size);
        return Err(store::Error::Damaged { key: key.to_owned(), what });
    }
    store.mended(key);
    show(length);
    Ok(())
}

/// Sends packs of the cache. A pack that is damaged here is quarantined and named.
pub(crate) async fn send_packs(
    store: &Store,
    cache: &Cache,
    digest: &Digest,
    packs: &[PackInfo],
    task: &Task,
) -> Result<()> {
    stream::iter(packs.to_vec())
        .map(|pack| async move {
            let path = cache.pack(&pack.digest);
            let key = Store::key(Family::Pack, &pack.digest);
            match send(store, &key, &path, pack.size, &pack.digest, task).await {
                Err(store::Error::Changed { .. }) => {
                    Err(cache.quarantine(&pack.digest, "its bytes have another digest"))
                }
                other => other.map_err(failed("push", digest)),
            }
        })
        .buffer_unordered(CONCURRENT)
        .try_collect()
        .await
}

/// Sends a layout or a manifest of the cache.
pub(crate) async fn send_small(store: &Store, key: &str, path: PathBuf, digest: &Digest, task: &Task) -> Result<()> {
    let opened = path.clone();
    let (length, content) = blocking("hash a layout", move || {
        let mut file = File::open(&opened).map_err(at("open", &opened))?;
        let content = hash_rest(&mut file).map_err(at("read", &opened))?;
        Ok((file.metadata().map_err(at("read", &opened))?.len(), content))
    })
    .await?;
    send(store, key, &path, length, &content, task).await.map_err(failed("push", digest))
}

/// The packs that the store's own layout of a snapshot names; `None` when that layout is absent or invalid.
pub(crate) async fn remote_packs(store: &Store, cache: &Cache, digest: &Digest) -> Result<Option<Vec<PackInfo>>> {
    let Some(layout) = download_layout(store, cache, digest).await? else { return Ok(None) };
    let (cache, digest) = (cache.clone(), *digest);
    blocking("read a layout", move || {
        let Some(mut manifest) = cache.open_manifest(&digest)? else { return Ok(None) };
        match LayoutReader::open(layout.path(), &digest).and_then(|reader| reader.check(&mut manifest)) {
            Ok(packs) => Ok(Some(packs)),
            Err(Error::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await
}

async fn download_layout(store: &Store, cache: &Cache, digest: &Digest) -> Result<Option<tempfile::NamedTempFile>> {
    let file = cache.temp()?;
    Ok(copy_layout(store, digest, file.path()).await?.then_some(file))
}

/// Streams the layout of a snapshot into a file; false when the store has none. One that was damaged on its way, as the
/// server's checksum tells, is asked for a second time.
pub(crate) async fn copy_layout(store: &Store, digest: &Digest, to: &Path) -> Result<bool> {
    match copy_layout_once(store, digest, to).await {
        Err(Error::Store { source, .. }) if matches!(*source, store::Error::Corrupt { .. }) => {
            copy_layout_once(store, digest, to).await
        }
        other => other,
    }
}

async fn copy_layout_once(store: &Store, digest: &Digest, to: &Path) -> Result<bool> {
    let lost = failed("fetch", digest);
    let Some((meta, mut body)) = store.objects().get(&layout_key(digest), None).await.map_err(&lost)? else {
        return Ok(false);
    };
    let too_large = |size| lost(store::Error::TooLarge { key: layout_key(digest), size, limit: layout::LARGEST });
    if meta.size > layout::LARGEST {
        return Err(too_large(meta.size));
    }
    let mut file = tokio::fs::File::create(to).await.map_err(at("write", to))?;
    let mut size = 0;
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(&lost)?;
        size += bytes.len() as u64;
        // Whatever it said before.
        if size > layout::LARGEST {
            return Err(too_large(size));
        }
        file.write_all(&bytes).await.map_err(at("write", to))?;
    }
    file.flush().await.map_err(at("write", to))?;
    Ok(true)
}

/// Which of a snapshot's packs are needed. It is asked again when the store turns out to have them packed otherwise.
pub(crate) type Select<'a> = &'a (dyn Fn(&Cache) -> Result<Vec<PackInfo>> + Send + Sync);

/// Brings what the cache lacks of a snapshot: manifest, layout, and all packs, or those that are selected.
pub(crate) async fn fetch(
    store: &Store,
    cache: &Cache,
    digest: &Digest,
    events: &Events,
    select: Option<Select<'_>>,
) -> Result<()> {
    let (opened, snapshot) = (cache.clone(), *digest);
    let known =
        blocking("open a snapshot", move || Ok(opened.open_manifest(&snapshot)?.and(opened.packs_of(&snapshot)?)))
            .await?;
    let needed = |packs: Vec<PackInfo>| select.map_or(Ok(packs), |select| select(cache));
    if let Some(packs) = known {
        match fetch_packs(store, cache, digest, &needed(packs)?, events).await {
            Ok(()) => return Ok(()),
            // Someone else may have pushed the same snapshot packed otherwise: the store's own layout decides.
            Err(Error::Store { source, .. }) if is_damage(&source) => {}
            Err(error) => return Err(error),
        }
    }
    let packs = fetch_description(store, cache, digest).await?;
    fetch_packs(store, cache, digest, &needed(packs)?, events).await
}

async fn fetch_packs(store: &Store, cache: &Cache, digest: &Digest, packs: &[PackInfo], events: &Events) -> Result<()> {
    let missing: Vec<PackInfo> = packs.iter().filter(|pack| !cache.has_pack(pack)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let total = missing.iter().map(|pack| pack.size).sum();
    let task = events.task(format!("fetch snapshot {}", digest.short()), Some(total), Unit::Bytes);
    let shared = &task;
    stream::iter(missing)
        .map(|pack| fetch_pack(store, cache, digest, pack, shared))
        .buffer_unordered(CONCURRENT)
        .try_collect::<()>()
        .await?;
    task.finish(count(total, "byte"));
    Ok(())
}

pub(crate) fn is_damage(error: &store::Error) -> bool {
    matches!(error, store::Error::Corrupt { .. } | store::Error::Damaged { .. } | store::Error::Missing { .. })
}

async fn fetch_pack(store: &Store, cache: &Cache, digest: &Digest, pack: PackInfo, task: &Task) -> Result<()> {
    let file = cache.temp()?;
    let got = store.get_file(Family::Pack, &pack.digest, file.path(), Some(task)).await;
    let size = got.map_err(failed("fetch", digest))?;
    same_size(digest, &pack, size)?;
    place(cache, file, cache.pack(&pack.digest)).await
}

/// Fails when a pack has another size than the layout says.
pub(crate) fn same_size(snapshot: &Digest, pack: &PackInfo, size: u64) -> Result<()> {
    if size == pack.size {
        return Ok(());
    }
    let why = format!("it says that packs/…/{} has {} bytes, and it has {size}", pack.digest.hex(), pack.size);
    Err(Error::Corrupt { object: layout_key(snapshot), why })
}

/// Commits what was written over the name of a temporary file.
async fn place(cache: &Cache, file: tempfile::NamedTempFile, to: PathBuf) -> Result<()> {
    let cache = cache.clone();
    blocking("write to the cache", move || {
        // The handle is of the file that was replaced under this name: open what is there now.
        let path = file.into_temp_path();
        let now = File::open(&path).map_err(at("open", &*path))?;
        cache.commit(tempfile::NamedTempFile::from_parts(now, path), &to)
    })
    .await
}

/// A verified manifest, under a temporary name.
pub(crate) async fn download_manifest(
    store: &Store,
    cache: &Cache,
    digest: &Digest,
) -> Result<tempfile::NamedTempFile> {
    let lost = failed("fetch", digest);
    let size = store.has(Family::Snapshot, digest).await.map_err(&lost)?;
    let size = size.ok_or_else(|| lost(store::Error::Missing { key: manifest_key(digest) }))?;
    if size > manifest::LARGEST {
        return Err(lost(store::Error::TooLarge { key: manifest_key(digest), size, limit: manifest::LARGEST }));
    }
    let manifest = cache.temp()?;
    store.get_file(Family::Snapshot, digest, manifest.path(), None).await.map_err(&lost)?;
    Ok(manifest)
}

/// Manifest and layout: both are checked before either gets its name. A damaged layout is fetched a second time.
pub(crate) async fn fetch_description(store: &Store, cache: &Cache, digest: &Digest) -> Result<Vec<PackInfo>> {
    let lost = failed("fetch", digest);
    let missing = |key: String| lost(store::Error::Missing { key });
    let manifest = download_manifest(store, cache, digest).await?;
    let mut attempt = 0;
    let (layout, packs) = loop {
        attempt += 1;
        let layout = download_layout(store, cache, digest).await?.ok_or_else(|| missing(layout_key(digest)))?;
        let (paths, snapshot) = ((manifest.path().to_owned(), layout.path().to_owned()), *digest);
        let checked = blocking("check a layout", move || {
            let input = File::open(&paths.0).map_err(at("open", &paths.0))?;
            let mut reader = ManifestReader::new(BufReader::new(input), manifest_key(&snapshot))?;
            match LayoutReader::open(&paths.1, &snapshot) {
                Ok(layout) => layout.check(&mut reader),
                Err(error) => {
                    // A manifest that breaks the rules is the graver news.
                    while reader.next_entry()?.is_some() {}
                    Err(error)
                }
            }
        })
        .await;
        match checked {
            Ok(packs) => break (layout, packs),
            Err(Error::Corrupt { .. }) if attempt == 1 => {}
            Err(error) => {
                if matches!(error, Error::Corrupt { .. }) {
                    store.found_damaged(&layout_key(digest));
                }
                return Err(error);
            }
        }
    };
    place(cache, layout, cache.layout(digest)).await?;
    place(cache, manifest, cache.manifest(digest)).await?;
    Ok(packs)
}

/// The keys that a restore of the snapshot would miss: manifest, layout, and packs absent or of another size. Empty
/// means restorable as far as sizes tell. A layout that cannot be read is an error that names it.
pub async fn complete(store: &Store, digest: &Digest) -> Result<Vec<String>> {
    let packs = packs_of(store, digest).await?.unwrap_or_default();
    let survey = Survey::take(store, digest, &packs).await.map_err(failed("look for", digest))?;
    Ok(survey.absent(digest, &packs))
}

/// As [`complete`], and no gc that looks from now on removes anything of the snapshot, as after a push. Whoever names the
/// snapshot where a gc finds it, such as in a release, asks before and once more afterwards: what a gc removed in
/// between is then among the keys, and a gc that begins later finds it named.
///
/// A gc that removes something of it right now is waited for, for `patience`, and then it is [`Error::Busy`].
pub async fn hold(store: &Store, digest: &Digest, patience: Duration, events: &Events) -> Result<Vec<String>> {
    let lost = failed("hold", digest);
    for _ in 0..fence::ROUNDS {
        fence::claim(store, digest).await.map_err(&lost)?;
        let packs = packs_of(store, digest).await?.unwrap_or_default();
        let survey = Survey::take(store, digest, &packs).await.map_err(&lost)?;
        if survey.moment.spares(store, digest, &packs, patience, events).await? {
            return Ok(survey.absent(digest, &packs));
        }
    }
    Err(Error::Busy { snapshot: *digest })
}

/// The packs that the store's layout of a snapshot names; `None` without a layout.
async fn packs_of(store: &Store, digest: &Digest) -> Result<Option<Vec<PackInfo>>> {
    let file = tempfile::NamedTempFile::new().map_err(at("write a temporary file in", std::env::temp_dir()))?;
    if !copy_layout(store, digest, file.path()).await? {
        return Ok(None);
    }
    let snapshot = *digest;
    blocking("read a layout", move || Ok(Some(LayoutReader::open(file.path(), &snapshot)?.packs().to_vec()))).await
}
