//! An image from a registry into a layout.
//!
//! Documents are read first and say what there is to fetch; blobs come into a staging folder beside the layout, each within its size and hashed; the whole is
//! verified there, and only then moved.

use super::{
    Access, Destination, TOGETHER,
    content::{Document, MAX_DEPTH, MAX_PARTS, Says, is_document, is_index},
    fail, manifests,
    session::{Doing, Purpose, Session, Tried, is_passing, origin},
};
use crate::{
    error::{Error, Result, count, joined},
    layout::{self, Built, MAX_DOCUMENTS, assemble, blobs_dir},
    spec::{CONFIG, DOCKER_CONFIG, Descriptor, INDEX, Index, Platform},
    unpack::Limits,
};
use bytes::Bytes;
use domain::{
    Class, Digest, Events,
    event::{Task, Unit},
};
use futures::{StreamExt, TryStreamExt};
use reqwest::{Method, Response, StatusCode, header};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::io::AsyncWriteExt;

/// How often a registry may send us on for one blob.
const MAX_REDIRECTS: usize = 5;

/// [`super::pull`] with credentials from where it is told.
pub(crate) async fn pull_with(
    from: &Destination,
    reference: &str,
    platforms: &[String],
    to: &Path,
    events: &Events,
    access: &Access,
) -> Result<Built> {
    let session = Session::open(from, Purpose::Read, Vec::new(), access).await?;
    let plan = plan(&session, reference, platforms).await?;
    let bytes = plan.blobs.values().map(|blob| blob.size).fold(0, u64::saturating_add);
    let refused = |why: String| fail("pull", &session.shown(reference), why, Class::Integrity);
    let most = Limits::default().bytes;
    if bytes > most {
        return Err(refused(format!("its blobs have {bytes} bytes, more than {most}")));
    }
    session.allow(bytes);
    let staging = staging_beside(to)?;
    let blobs = layout::create(staging.path())?;
    for document in &plan.documents {
        let path = blobs.join(document.digest.hex());
        fs::write(&path, &document.bytes).map_err(Error::file("write", &path))?;
    }
    let task = Arc::new(events.task(format!("pull {}", session.name), Some(bytes), Unit::Bytes));
    let have = blobs_dir(to);
    let fetching = plan.blobs.values().map(|blob| fetch(&session, blob, &have, &blobs, &task));
    let fetched: Vec<bool> = futures::stream::iter(fetching).buffer_unordered(TOGETHER).try_collect().await?;
    let (root, owned) = (plan.root, staging.path().to_owned());
    let verified = tokio::task::spawn_blocking(move || assemble(&root, &owned)).await;
    let mut built = joined("verify the image", verified)??;
    install(staging.path(), to)?;
    built.layout = to.to_owned();
    if let Some(task) = Arc::into_inner(task) {
        let number = fetched.iter().filter(|one| **one).count() as u64;
        task.finish(format!("{root}, {} fetched", count(number, "blob", "blobs")));
    }
    Ok(built)
}

/// How much may still be announced of documents, before any of it is fetched.
struct Budget {
    documents: usize,
    bytes: u64,
}

impl Budget {
    fn new() -> Self {
        Self { documents: MAX_PARTS, bytes: MAX_DOCUMENTS }
    }

    fn take(&mut self, bytes: u64) -> Result<(), String> {
        let none = || "its indexes are nested too deep, or are too many".to_owned();
        self.documents = self.documents.checked_sub(1).ok_or_else(none)?;
        let many = || format!("its documents are larger than {MAX_DOCUMENTS} bytes together");
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(many)?;
        Ok(())
    }
}

/// What there is to fetch.
struct Plan {
    root: Digest,
    documents: Vec<Document>,
    blobs: BTreeMap<Digest, Descriptor>,
}

async fn plan(session: &Session, reference: &str, platforms: &[String]) -> Result<Plan> {
    let refused = |why: String| fail("pull", &session.shown(reference), why, Class::Integrity);
    let Some(root) = manifests::get_document(session, reference).await? else {
        let cause = "there is no such tag or digest".to_owned();
        return Err(fail("pull", &session.shown(reference), cause, Class::NotFound));
    };
    let mut budget = Budget::new();
    budget.take(root.bytes.len() as u64).map_err(refused)?;
    let mut plan = Plan { root: root.digest, documents: Vec::new(), blobs: BTreeMap::new() };
    let (root, others) = match (&root.says, platforms.is_empty()) {
        (Says::Index(manifests), false) => choose(session, reference, manifests, platforms, &mut budget).await?,
        _ => (root, Vec::new()),
    };
    plan.root = root.digest;
    let mut seen = BTreeSet::from([root.digest]);
    let mut waiting: Vec<(Document, usize)> = vec![(root, 0)];
    waiting.extend(others.into_iter().filter(|other| seen.insert(other.digest)).map(|other| (other, 1)));
    while let Some((document, depth)) = waiting.pop() {
        if plan.documents.len() >= MAX_PARTS || depth >= MAX_DEPTH {
            return Err(refused("its indexes are nested too deep, or are too many".to_owned()));
        }
        match &document.says {
            Says::Index(manifests) => {
                let new: Vec<&Descriptor> = manifests.iter().filter(|child| seen.insert(child.digest)).collect();
                new.iter().try_for_each(|child| budget.take(child.size)).map_err(refused)?;
                for child in new {
                    waiting.push((child_of(session, child).await?, depth + 1));
                }
            }
            Says::Image { config, layers } => {
                for blob in layers.iter().chain([config]) {
                    acceptable(session, &document, blob, config)?;
                    let before = plan.blobs.insert(blob.digest, blob.clone());
                    if before.is_some_and(|before| before.size != blob.size) {
                        return Err(refused(format!("{} is named with two sizes", blob.digest)));
                    }
                }
            }
        }
        plan.documents.push(document);
    }
    if let (Some(Says::Image { config, .. }), [wanted]) =
        (plan.documents.iter().find(|one| one.digest == plan.root).map(|one| &one.says), platforms)
    {
        right_platform(session, reference, config, wanted).await?;
    }
    Ok(plan)
}

/// Refuses blobs that are not in the registry, or are not what an image consists of.
fn acceptable(session: &Session, document: &Document, blob: &Descriptor, config: &Descriptor) -> Result<()> {
    let what = session.shown(&document.digest.to_string());
    let refused = |why: String| fail("pull", &what, why, Class::Integrity);
    if blob.media_type.contains("nondistributable") || blob.media_type.contains("foreign") {
        return Err(refused(format!(
            "layer {} is foreign: it is not in the registry, and is not fetched",
            blob.digest
        )));
    }
    let is_config = std::ptr::eq(blob, config);
    if is_document(&blob.media_type) || (!is_config && matches!(blob.media_type.as_str(), CONFIG | DOCKER_CONFIG)) {
        return Err(refused(format!("layer {} is said to be of type {:?}", blob.digest, blob.media_type)));
    }
    Ok(())
}

async fn child_of(session: &Session, child: &Descriptor) -> Result<Document> {
    let reference = child.digest.to_string();
    let refused = |why: String| fail("pull", &session.shown(&reference), why, Class::Integrity);
    if !is_document(&child.media_type) {
        return Err(refused(format!("an index names it as {:?}", child.media_type)));
    }
    let document = manifests::get_document(session, &reference).await?;
    let document = document.ok_or_else(|| refused("an index names it, and it is not there".to_owned()))?;
    if document.media_type != child.media_type || document.bytes.len() as u64 != child.size {
        return Err(refused(format!(
            "an index names it as {:?} of {} bytes, and it is {:?} of {}",
            child.media_type,
            child.size,
            document.media_type,
            document.bytes.len()
        )));
    }
    Ok(document)
}

/// The manifests for some platforms: the only one itself, or an index of our own with the others beside it.
async fn choose(
    session: &Session,
    reference: &str,
    manifests: &[Descriptor],
    platforms: &[String],
    budget: &mut Budget,
) -> Result<(Document, Vec<Document>)> {
    let mut chosen: Vec<&Descriptor> = Vec::new();
    for wanted in platforms {
        let parsed =
            Platform::parse(wanted).ok_or_else(|| Error::bad(format!("platform {wanted:?} is not understood")))?;
        let fits = |one: &&Descriptor| one.platform.as_ref().is_some_and(|platform| is_for(platform, &parsed));
        let found = manifests.iter().find(fits).ok_or_else(|| {
            let there: Vec<String> =
                manifests.iter().filter_map(|one| one.platform.as_ref()).map(Platform::text).collect();
            let cause = format!("it has no image for {wanted}, only for {}", there.join(", "));
            fail("pull", &session.shown(reference), cause, Class::NotFound)
        })?;
        if !chosen.iter().any(|one| one.digest == found.digest) {
            chosen.push(found);
        }
    }
    if let Some(nested) = chosen.iter().find(|one| is_index(&one.media_type)) {
        let cause = format!("{} is an index where an image is expected", nested.digest);
        return Err(fail("pull", &session.shown(reference), cause, Class::Integrity));
    }
    let refused = |why: String| fail("pull", &session.shown(reference), why, Class::Integrity);
    chosen.iter().try_for_each(|one| budget.take(one.size)).map_err(refused)?;
    let mut documents = Vec::new();
    for one in &chosen {
        documents.push(child_of(session, one).await?);
    }
    if documents.len() == 1 {
        return Ok((documents.remove(0), Vec::new()));
    }
    let index = Index {
        schema_version: 2,
        media_type: Some(INDEX.to_owned()),
        manifests: chosen.into_iter().cloned().collect(),
        annotations: BTreeMap::new(),
    };
    let bytes = Bytes::from(layout::to_json(&index)?);
    let root =
        Document::read(bytes, Some(INDEX)).map_err(|why| Error::bad(format!("the index of {reference} {why}")))?;
    Ok((root, documents))
}

/// A variant that was not asked for may be any, as with `linux/arm64` and `linux/arm64/v8`.
fn is_for(platform: &Platform, wanted: &Platform) -> bool {
    platform.os == wanted.os
        && platform.architecture == wanted.architecture
        && (wanted.variant.is_none() || platform.variant == wanted.variant)
}

/// An image without an index says in its configuration what it is for.
async fn right_platform(session: &Session, reference: &str, config: &Descriptor, wanted: &str) -> Result<()> {
    let doing = Doing { action: "pull", what: session.shown(reference) };
    let parsed = Platform::parse(wanted).ok_or_else(|| Error::bad(format!("platform {wanted:?} is not understood")))?;
    if config.size > super::content::MAX_DOCUMENT {
        return Err(doing.failed(format!("its configuration has {} bytes", config.size), Class::Integrity));
    }
    let bytes = small_blob(session, config, &doing).await?;
    let said: Platform = crate::json::read(&bytes)
        .map_err(|error| doing.failed(format!("its configuration is not understood: {error}"), Class::Integrity))?;
    if is_for(&said, &parsed) {
        return Ok(());
    }
    Err(doing.failed(format!("it is for {}, not for {wanted}", said.text()), Class::NotFound))
}

/// A blob in memory, hashed.
pub(crate) async fn small_blob(session: &Session, blob: &Descriptor, doing: &Doing<'_>) -> Result<Bytes> {
    let mut tries = 0;
    let answer = loop {
        tries += 1;
        match get_blob(session, &blob.digest, 0, doing).await? {
            Ok(answer) => break answer,
            Err(cause) if tries >= session.access.patience.tries => return Err(doing.failed(cause, Class::Unavailable)),
            Err(_) => session.pause(tries, None, doing).await?,
        }
    };
    let bytes = session.read_bounded(answer, blob.size, doing).await?;
    if Digest::of(&bytes) != blob.digest || bytes.len() as u64 != blob.size {
        let cause = format!("the registry gives {} bytes with digest {}", bytes.len(), Digest::of(&bytes));
        return Err(doing.failed(cause, Class::Integrity));
    }
    Ok(bytes)
}

/// Asks for a blob from `offset` on, following the registry to where its bytes are. The inner error is one after which asking again may help.
pub(crate) async fn get_blob(
    session: &Session,
    digest: &Digest,
    offset: u64,
    doing: &Doing<'_>,
) -> Result<Result<Response, String>> {
    let mut url = session.url(&format!("blobs/{digest}"));
    let mut location: Option<String> = None;
    for _ in 0..=MAX_REDIRECTS {
        let next = location.take().map(|text| url.join(&text).map(|joined| (text, joined)));
        let (at, tried) = match next {
            None => (url.clone(), session.once(doing, ranged(session, &url, offset), None).await?),
            Some(Ok((_, joined))) if session.is_own(&url) && session.is_own(&joined) => {
                let tried = session.once(doing, ranged(session, &joined, offset), None).await?;
                (joined, tried)
            }
            Some(Ok((text, _))) => session.follow(&url, &text, offset, doing).await?,
            Some(Err(error)) => {
                return Err(doing.failed(format!("it names a place that is none: {error}"), Class::Integrity));
            }
        };
        let answer = match tried {
            Tried::Broken(cause) => return Ok(Err(cause)),
            Tried::Answer(answer) => answer,
        };
        url = at;
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(Ok(answer)),
            status if status.is_redirection() => {
                let text = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                let text = text.ok_or_else(|| doing.failed("it sends us nowhere", Class::Integrity))?;
                location = Some(text.to_owned());
            }
            status if is_passing(status) => return Ok(Err(format!("{} answers {status}", origin(&url)))),
            _ => return Err(session.refusal(doing, answer).await),
        }
    }
    Err(doing.failed(format!("it sends us on more than {MAX_REDIRECTS} times"), Class::Integrity))
}

fn ranged(session: &Session, url: &reqwest::Url, offset: u64) -> reqwest::RequestBuilder {
    let request = session.request(Method::GET, url.clone());
    if offset == 0 { request } else { request.header(header::RANGE, format!("bytes={offset}-")) }
}

/// Gets a blob into the staging folder; true when it came over the wire. One that turns out wrong is fetched once more.
async fn fetch(session: &Session, blob: &Descriptor, have: &Path, staging: &Path, task: &Arc<Task>) -> Result<bool> {
    let name = blob.digest.hex();
    let target = staging.join(&name);
    let there = have.join(&name);
    // What is taken over is hashed with all the others before the image is used.
    if fs::symlink_metadata(&there).is_ok_and(|metadata| metadata.is_file() && metadata.len() == blob.size)
        && intact(&there, &blob.digest).await?
        && fs::hard_link(&there, &target).is_ok()
    {
        task.advance(blob.size);
        return Ok(false);
    }
    let doing = Doing { action: "pull a blob", what: session.shown(&blob.digest.to_string()) };
    for attempt in 0..2 {
        match download(session, blob, &target, task, &doing).await? {
            None => return Ok(true),
            Some(wrong) if attempt > 0 => return Err(doing.failed(wrong, Class::Integrity)),
            Some(_) => task.grow(blob.size),
        }
    }
    Ok(true)
}

/// Whether a file that is there already has the bytes that it is named by; damage is healed by fetching it.
async fn intact(path: &Path, digest: &Digest) -> Result<bool> {
    let owned = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || crate::layer::hash_file(&owned)).await;
    Ok(joined("hash a blob", hashed)??.0 == *digest)
}

/// `None` when the file holds the blob; else what was wrong with the bytes that came.
async fn download(
    session: &Session,
    blob: &Descriptor,
    target: &Path,
    task: &Task,
    doing: &Doing<'_>,
) -> Result<Option<String>> {
    let mut file = tokio::fs::File::create(target).await.map_err(Error::file("create", target))?;
    let mut hash = Sha256::new();
    let (mut at, mut tries) = (0u64, 0);
    while at < blob.size || tries == 0 {
        tries += 1;
        let before = at;
        let broken = match get_blob(session, &blob.digest, at, doing).await? {
            Err(cause) => cause,
            Ok(answer) => {
                if let Err(wrong) = begins_right(&answer, at, blob.size) {
                    return Ok(Some(wrong));
                }
                if answer.status() == StatusCode::OK && at > 0 {
                    // It sends everything again.
                    task.grow(at);
                    at = 0;
                    hash = Sha256::new();
                    file = tokio::fs::File::create(target).await.map_err(Error::file("create", target))?;
                }
                match receive(session, answer, blob, target, &mut file, &mut hash, &mut at, task).await? {
                    Received::All => break,
                    Received::TooMuch => {
                        return Ok(Some(format!("the registry gives more than its {} bytes", blob.size)));
                    }
                    Received::Broken(cause) => cause,
                }
            }
        };
        if at > before {
            tries = 1;
        }
        if tries >= session.access.patience.tries {
            return Err(doing.failed(broken, Class::Unavailable));
        }
        session.pause(tries, None, doing).await?;
    }
    file.flush().await.map_err(Error::file("write", target))?;
    let digest = Digest::from_bytes(hash.finalize().into());
    Ok((digest != blob.digest).then(|| format!("the registry gives {at} bytes with digest {digest}")))
}

fn begins_right(answer: &Response, at: u64, size: u64) -> Result<(), String> {
    let whole = answer.status() == StatusCode::OK;
    let left = if whole { size } else { size - at };
    if let Some(length) = answer.content_length().filter(|length| *length != left) {
        return Err(format!("the registry announces {length} bytes where {left} are expected"));
    }
    let range = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    match range {
        Some(range) if !whole && !range.starts_with(&format!("bytes {at}-")) => {
            Err(format!("the registry gives the range {range:?} where {at} was asked for"))
        }
        _ => Ok(()),
    }
}

enum Received {
    All,
    TooMuch,
    Broken(String),
}

#[allow(clippy::too_many_arguments, reason = "what one transfer goes on with after the one before")]
async fn receive(
    session: &Session,
    mut answer: Response,
    blob: &Descriptor,
    target: &Path,
    file: &mut tokio::fs::File,
    hash: &mut Sha256,
    at: &mut u64,
    task: &Task,
) -> Result<Received> {
    loop {
        match session.piece(&mut answer).await {
            Err(cause) => return Ok(Received::Broken(cause)),
            Ok(None) if *at == blob.size => return Ok(Received::All),
            Ok(None) => return Ok(Received::Broken(format!("it ended after {at} of {} bytes", blob.size))),
            Ok(Some(piece)) => {
                if *at + piece.len() as u64 > blob.size {
                    return Ok(Received::TooMuch);
                }
                hash.update(&piece);
                file.write_all(&piece).await.map_err(Error::file("write", target))?;
                *at += piece.len() as u64;
                task.advance(piece.len() as u64);
            }
        }
    }
}

/// An empty folder beside the layout, on the same file system.
fn staging_beside(to: &Path) -> Result<tempfile::TempDir> {
    let parent =
        to.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned);
    fs::create_dir_all(&parent).map_err(Error::file("create", &parent))?;
    tempfile::Builder::new().prefix(".pull-").tempdir_in(&parent).map_err(Error::file("create a folder in", &parent))
}

/// Moves what was verified: blobs, then the files that make it an image.
fn install(staging: &Path, to: &Path) -> Result<()> {
    let target = layout::create(to)?;
    let blobs = blobs_dir(staging);
    for entry in fs::read_dir(&blobs).map_err(Error::file("read", &blobs))? {
        let entry = entry.map_err(Error::file("read", &blobs))?;
        let path = target.join(entry.file_name());
        fs::rename(entry.path(), &path).map_err(Error::file("write", &path))?;
    }
    for name in ["oci-layout", "index.json"] {
        let path = to.join(name);
        fs::rename(staging.join(name), &path).map_err(Error::file("write", &path))?;
    }
    Ok(())
}
