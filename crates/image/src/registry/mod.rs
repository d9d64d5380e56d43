//! Images to and from registries (OCI distribution specification 1.1), as a client of our own: those that exist neither resume an upload nor mount a
//! blob, and follow a registry to wherever it points.
//!
//! | module | does |
//! |---|---|
//! | `reference`, `challenge` | reads names of repositories, and `WWW-Authenticate` |
//! | `session` | logs in, asks again, waits no longer than it may, and talks to nobody else |
//! | `content` | reads which documents and blobs a layout's image has |
//! | `upload` | one blob: there, mounted, or sent and resumed |
//! | `manifests` | documents by digest and by tag |
//! | `publish` | an image to several repositories |
//! | `pull` | an image into a layout |
//! | `referrers` | what is attached to an image |
//!
//! What never happens here:
//!
//! - Nothing is half visible: blobs first, then documents by digest, children before parents, at every destination; then the tags of a version, then those that
//!   move. A publish that dies is finished by the same call, which sends nothing twice.
//! - A tag that names a full version is never moved, and is looked at before anything is written. Registries have no conditional writes: a tag that another
//!   client writes at the same moment is noticed when it is read back, and deploys go by digest.
//! - What is sent was hashed: the compressed bytes of each blob while they are sent, its last bytes are held back until its digest holds, and documents before. A
//!   layer is not unpacked again here; builders end with [`crate::open`], and so must a layout that comes from elsewhere.
//! - Nothing of a pulled image is outside its staging folder before all of it is fetched, within the sizes that its documents name, and
//!   verified as by [`crate::open`].
//! - Nobody but the registry and its token server gets credentials; no redirect but that of a blob which is read is followed; plain HTTP only where it is named.
//!
//! How it fails: no answer in time is unavailable; 401 and 403 are not permitted; bytes, lengths, types and digests that do not hold,
//! a place that nobody is sent to, and a version tag that points elsewhere are integrity failures.

mod challenge;
mod content;
mod manifests;
mod publish;
mod pull;
mod reference;
mod referrers;
mod session;
#[cfg(test)]
mod tests;
mod upload;

use crate::{
    credentials,
    error::{Error, Result},
};
use domain::{Class, Digest, Events};
use session::{Doing, Purpose, Session};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) use reference::ImageName;
use reference::Repository;
pub use referrers::{Attached, Attachment};
#[allow(unused_imports, reason = "entries for fuzzing")]
pub(crate) use {challenge::challenges, content::document_understood, referrers::index_understood};

/// How many blobs are sent or fetched at once. A registry hashes and writes each on one processor and flushes it to its disk before it answers, so that
/// fewer leave it idle, above all those that are left over at the end.
pub(crate) const TOGETHER: usize = 8;

/// A repository of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// For example `registry.example/team/wine`.
    pub repository: String,
    /// Plain HTTP. Nothing falls back to it.
    pub insecure: bool,
}

impl Destination {
    /// Whether `repository` is another name of this one, or the same: hosts have no letter case, and Docker Hub has several names.
    pub fn is_at(&self, repository: &str) -> bool {
        match (Repository::parse(&self.repository), Repository::parse(repository)) {
            (Ok(one), Ok(other)) => one.is_same(&other),
            // What names no repository is the same as nothing but itself.
            _ => self.repository == repository,
        }
    }
}

/// What a push did at one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the image's index or manifest.
    pub digest: Digest,
    /// How many blobs were sent.
    pub blobs_sent: u64,
    /// How many were there already.
    pub blobs_there: u64,
    /// How many the registry took over from another of its repositories.
    pub mounted: u64,
    /// Bytes of blobs that went over the wire, those that were sent again included.
    pub bytes_sent: u64,
}

/// Where credentials are, and how long to wait.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// Docker's configuration folder.
    pub(crate) folder: Option<PathBuf>,
    /// Where credential helpers are, if not in `PATH`.
    pub(crate) helpers: Option<PathBuf>,
    pub(crate) patience: Patience,
}

impl Access {
    fn environment() -> Self {
        Self { folder: credentials::default_folder(), helpers: None, patience: Patience::default() }
    }

    #[cfg(test)]
    pub(crate) fn anonymous() -> Self {
        Self { folder: None, helpers: None, patience: Patience::default() }
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// To connect.
    pub(crate) connect: Duration,
    /// For the answer to a request without a body that is streamed.
    pub(crate) answer: Duration,
    /// For the next byte of a transfer.
    pub(crate) stall: Duration,
    /// For a credential helper.
    pub(crate) helper: Duration,
    /// For the whole work, beside the time that its bytes take at the slowest speed.
    pub(crate) total: Duration,
    /// Bytes a second.
    pub(crate) slowest: u64,
    /// The unit of the pauses between tries.
    pub(crate) step: Duration,
    /// How often the same thing is tried without getting any further.
    pub(crate) tries: u32,
    /// Bytes of one piece of an upload. What is not larger is sent with one request.
    pub(crate) chunk: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(60),
            stall: Duration::from_secs(120),
            helper: credentials::HELPER_TIMEOUT,
            total: Duration::from_secs(30 * 60),
            slowest: 64 << 10,
            step: Duration::from_millis(125),
            tries: 5,
            chunk: 32 << 20,
        }
    }
}

/// Pushes the image of a layout to one repository: [`publish`] with one destination.
pub async fn push(layout: &Path, to: &Destination, tags: &[String], events: &Events) -> Result<Pushed> {
    let mut pushed = publish(layout, std::slice::from_ref(to), tags, events).await?;
    pushed.pop().ok_or_else(|| Error::bad("no destination to push to"))
}

/// Pushes the image of a layout to every destination by digest, and then under `tags` everywhere. Run again, it sends nothing twice.
///
/// A tag that names a full version (`1.2.0`, `v1.2.0-rc.1`) and points to another image at any destination is [`Error::TagTaken`], found before anything is
/// written; other tags move. Credentials are those of `docker login`. The results are in the order of `to`.
pub async fn publish(layout: &Path, to: &[Destination], tags: &[String], events: &Events) -> Result<Vec<Pushed>> {
    publish::publish_with(layout, to, tags, events, &Access::environment()).await
}

/// Whether none of the tags that name a full version points to anything but `wanted`: else [`Error::TagTaken`].
pub async fn check_tags(to: &Destination, tags: &[String], wanted: &Digest) -> Result<()> {
    let session = Session::open(to, Purpose::Read, Vec::new(), &Access::environment()).await?;
    publish::check_tags_with(&session, tags, wanted).await
}

/// The digest to which a tag points, or that of a manifest which is there; `None` if there is no such thing.
///
/// It is what the registry says; only [`pull`] proves it.
pub async fn resolve(from: &Destination, reference: &str) -> Result<Option<Digest>> {
    let session = Session::open(from, Purpose::Read, Vec::new(), &Access::environment()).await?;
    manifests::head(&session, reference).await
}

/// The bytes of the document that has a digest, as the registry has them and proven by it.
pub(crate) async fn document(from: &Destination, digest: &Digest) -> Result<bytes::Bytes> {
    let session = Session::open(from, Purpose::Read, Vec::new(), &Access::environment()).await?;
    let reference = digest.to_string();
    let found = manifests::get(&session, &reference).await?;
    let gone = || fail("read the manifest", &session.shown(&reference), "it is not there".to_owned(), Class::NotFound);
    found.map(|fetched| fetched.bytes).ok_or_else(gone)
}

/// The digests that a document names, if it is an index. The error is a sentence without a subject.
pub(crate) fn listed(bytes: bytes::Bytes) -> std::result::Result<Vec<Digest>, String> {
    Ok(match content::Document::read(bytes, None)?.says {
        content::Says::Index(manifests) => manifests.into_iter().map(|one| one.digest).collect(),
        content::Says::Image { .. } => Vec::new(),
    })
}

/// Fetches the image that a tag or digest names into the layout `to`, verified as by [`crate::open`].
///
/// `platforms` chooses from an index; empty is all of it. One of several is the layout's image itself, and several, but not all, are put into an index of our
/// own; all of them keep the index, and so its digest. Blobs that `to` has already are not fetched again. Until everything is verified,
/// `to` is not touched.
pub async fn pull(
    from: &Destination,
    reference: &str,
    platforms: &[String],
    to: &Path,
    events: &Events,
) -> Result<crate::Built> {
    pull::pull_with(from, reference, platforms, to, events, &Access::environment()).await
}

/// Attaches Sigstore bundles to an image or index that is in the repository, and returns the digests of their manifests, in order.
///
/// A bundle that is attached already is not attached again. Where the registry has no referrers API, they are listed under the tag `sha256-<hex>`.
pub async fn attach(
    to: &Destination,
    subject: &Digest,
    bundles: &[Attachment],
    events: &Events,
) -> Result<Vec<Digest>> {
    let session = Session::open(to, Purpose::Write, Vec::new(), &Access::environment()).await?;
    referrers::attach_with(&session, subject, bundles, events).await
}

/// The Sigstore bundles that are attached to an image. Their signatures are not looked at; what others attach in other formats is left out.
pub async fn attached(from: &Destination, subject: &Digest) -> Result<Vec<Attached>> {
    let session = Session::open(from, Purpose::Read, Vec::new(), &Access::environment()).await?;
    referrers::attached_with(&session, subject).await
}

/// Whether the registry of a repository answers and takes the credentials of `docker login`.
pub async fn registry_ping(to: &Destination) -> Result<()> {
    let session = Session::open(to, Purpose::Write, Vec::new(), &Access::environment()).await?;
    ping(&session).await
}

async fn ping(session: &Session) -> Result<()> {
    let doing = Doing { action: "log in", what: session.name.clone() };
    // Asks for the rights to push; the root itself wants none where anonymous reading is allowed.
    let url = session.url_of_root();
    let answer = session.call(&doing, || session.request(reqwest::Method::GET, url.clone())).await?;
    if answer.status().is_success() { Ok(()) } else { Err(session.refusal(&doing, answer).await) }
}

fn fail(action: &str, what: &str, cause: String, class: Class) -> Error {
    Error::Registry { action: action.to_owned(), reference: what.to_owned(), cause, class }
}

/// An error with its causes, each said once, and without the address that was asked: it may hold a signature.
fn reasons(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = match error.downcast_ref::<reqwest::Error>() {
            Some(error) if error.is_connect() => "no connection".to_owned(),
            Some(error) if error.is_timeout() => "timed out".to_owned(),
            Some(error) if error.is_body() || error.is_decode() => "the transfer broke".to_owned(),
            Some(_) => "the request broke".to_owned(),
            None => error.to_string(),
        };
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}
