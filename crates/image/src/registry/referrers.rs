//! What is attached to an image: manifests whose `subject` it is, listed by the registry's referrers API, or where it has none under the tag `sha256-<hex>` of
//! the image's digest (OCI distribution 1.1, "Referrers Tag Schema").
//!
//! The tag is read, extended and written, which two writers can do at once. It is looked at once more right before it is written, and what moved meanwhile is
//! read again; afterwards it is read back twice, the second time after twice as long as the round took, and written again while ours is missing. So ours
//! is there to stay unless another writer takes longer than that. An entry written between our last look and our write is lost: registries have no
//! conditional write.

use super::{
    content::{MAX_DOCUMENT, MAX_PARTS},
    fail, manifests,
    session::{Doing, Session},
    upload,
};
use crate::{
    error::Result,
    layout::MAX_DOCUMENTS,
    spec::{Descriptor, INDEX, MANIFEST},
};
use bytes::Bytes;
use domain::{Class, Digest, Events};
use jiff::Timestamp;
use reqwest::{Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A Sigstore bundle: the type of the layer, and of the artifact.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const CONTENT: &str = "dev.sigstore.bundle.content";
const PREDICATE: &str = "dev.sigstore.bundle.predicateType";
const CREATED: &str = "org.opencontainers.image.created";
/// The largest bundle that is read, in bytes. SBOMs are in them.
const MAX_BUNDLE: u64 = 32 << 20;
/// How many pages of a list are read.
const MAX_PAGES: usize = 50;
/// The most that all bundles of an image may have together, in bytes.
const MAX_BUNDLES: u64 = 256 << 20;
/// The longest wait for somebody else who writes the same tag.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How often a tag is written that somebody else writes at the same time.
const ROUNDS: u32 = 10;

/// A Sigstore bundle to attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The bundle's exact bytes.
    pub bytes: Vec<u8>,
    /// What its statement says, for example `https://slsa.dev/provenance/v1`.
    pub predicate_type: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A Sigstore bundle that is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Digest of the manifest that attaches it.
    pub manifest: Digest,
    /// Its media type.
    pub artifact_type: String,
    /// What the manifest says that its statement says; empty if it does not.
    pub predicate_type: String,
    /// The bundle.
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Named {
    fn new(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    config: Named,
    layers: Vec<Named>,
    #[serde(default)]
    subject: Option<Named>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Entries are kept as they came: another client's fields must survive our writing.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    manifests: Vec<serde_json::Value>,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

impl List {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let list: Self = crate::json::read(bytes).map_err(|error| format!("the list of what is attached: {error}"))?;
        if list.schema_version != 2 || list.media_type.as_deref().is_some_and(|media_type| media_type != INDEX) {
            return Err("the list of what is attached is no image index".to_owned());
        }
        if list.manifests.len() > MAX_PARTS {
            return Err(format!("the list of what is attached has more than {MAX_PARTS} entries"));
        }
        list.entries()?;
        Ok(list)
    }

    fn entries(&self) -> Result<Vec<Named>, String> {
        let read = |value: &serde_json::Value| {
            Named::deserialize(value).map_err(|error| format!("an entry of the list of what is attached: {error}"))
        };
        self.manifests.iter().map(read).collect()
    }
}

/// Whether bytes are a list of what is attached.
#[allow(dead_code, reason = "an entry for fuzzing")]
pub(crate) fn index_understood(bytes: &[u8]) -> bool {
    List::read(bytes).is_ok()
}

fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// [`super::attach`] over a session.
pub(crate) async fn attach_with(
    session: &Session,
    subject: &Digest,
    bundles: &[Attachment],
    events: &Events,
) -> Result<Vec<Digest>> {
    let reference = subject.to_string();
    let Some(image) = manifests::get_document(session, &reference).await? else {
        let cause = "the image is not there".to_owned();
        return Err(fail("attach", &session.shown(&reference), cause, Class::NotFound));
    };
    let target = Named::new(&image.media_type, &image.bytes);
    let there = bundles_of(session, subject, Gone::Skipped).await?;
    let (mut digests, mut unlisted) = (Vec::new(), Vec::new());
    let mut new = 0;
    for bundle in bundles {
        let layer = Named::new(BUNDLE, &bundle.bytes);
        if let Some(found) = there.iter().find(|(_, manifest)| manifest.layers[0].digest == layer.digest) {
            digests.push(found.0);
            continue;
        }
        let empty = Bytes::from_static(b"{}");
        upload::put_bytes(session, &empty).await?;
        upload::put_bytes(session, &Bytes::copy_from_slice(&bundle.bytes)).await?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: Some(BUNDLE.to_owned()),
            config: Named::new(EMPTY, &empty),
            layers: vec![layer],
            subject: Some(target.clone()),
            annotations: BTreeMap::from([
                (CONTENT.to_owned(), "dsse-envelope".to_owned()),
                (PREDICATE.to_owned(), bundle.predicate_type.clone()),
                (CREATED.to_owned(), bundle.created.to_string()),
            ]),
        };
        let bytes = Bytes::from(crate::layout::to_json(&manifest)?);
        let entry = Named {
            artifact_type: manifest.artifact_type,
            annotations: manifest.annotations,
            ..Named::new(MANIFEST, &bytes)
        };
        let reference = entry.digest.to_string();
        let listed = manifests::put(session, &reference, &bytes, MANIFEST).await?;
        manifests::confirm(session, &reference, &entry.digest).await?;
        digests.push(entry.digest);
        new += 1;
        if !listed {
            unlisted.push(entry);
        }
    }
    if !unlisted.is_empty() {
        // That there is an API does not say that it knows them.
        let listed = from_api(session, subject).await?.unwrap_or_default();
        unlisted.retain(|entry| !listed.iter().any(|one| one.digest == entry.digest));
    }
    if !unlisted.is_empty() {
        list_by_tag(session, subject, &unlisted).await?;
    }
    events.note(format!(
        "attached {new} of {} bundles to {}, the others were there",
        bundles.len(),
        session.shown(&reference)
    ));
    Ok(digests)
}

/// Adds entries to the tag that lists what is attached, until they are there to stay.
async fn list_by_tag(session: &Session, subject: &Digest, entries: &[Named]) -> Result<()> {
    let tag = fallback_tag(subject);
    let doing = Doing { action: "list what is attached", what: session.shown(&tag) };
    for round in 1..=ROUNDS {
        let began = Instant::now();
        let (mut list, _, read) = read_tag(session, &tag, &doing).await?;
        if add(&mut list, entries)? {
            let bytes = Bytes::from(crate::layout::to_json(&list)?);
            if bytes.len() as u64 > MAX_DOCUMENT {
                return Err(
                    doing.failed(format!("the list would be larger than {MAX_DOCUMENT} bytes"), Class::BadInput)
                );
            }
            if manifests::head(session, &tag).await? != read {
                session.pause(round.min(3), None, &doing).await?;
                continue;
            }
            manifests::put(session, &tag, &bytes, INDEX).await?;
        }
        let took = began.elapsed();
        if holds(session, &tag, entries, &doing).await? {
            // Somebody who had read the tag before we wrote it writes it now.
            let step = session.access.patience.step;
            let least = step + step.mul_f64(f64::from(round) / 4.0);
            session.pause(1, Some((took * 2).min(MAX_PAUSE).max(least)), &doing).await?;
            if holds(session, &tag, entries, &doing).await? {
                return Ok(());
            }
        } else {
            session.pause(round.min(3), None, &doing).await?;
        }
    }
    Err(doing.failed("others write the tag all the time; the bundles are there by digest", Class::Busy))
}

async fn holds(session: &Session, tag: &str, entries: &[Named], doing: &Doing<'_>) -> Result<bool> {
    let (_, listed, _) = read_tag(session, tag, doing).await?;
    Ok(entries.iter().all(|entry| listed.iter().any(|one| one.digest == entry.digest)))
}

/// True when something was added.
fn add(list: &mut List, entries: &[Named]) -> Result<bool> {
    let listed = list.entries().map_err(crate::Error::bad)?;
    let mut changed = false;
    for entry in entries.iter().filter(|entry| !listed.iter().any(|one| one.digest == entry.digest)) {
        let value = serde_json::to_value(entry)
            .map_err(|error| crate::Error::bad(format!("an entry cannot be written as JSON: {error}")))?;
        list.manifests.push(value);
        changed = true;
    }
    Ok(changed)
}

/// The list under the tag, its entries, and the digest that the tag had.
async fn read_tag(session: &Session, tag: &str, doing: &Doing<'_>) -> Result<(List, Vec<Named>, Option<Digest>)> {
    let Some(fetched) = manifests::get(session, tag).await? else {
        let list = List {
            schema_version: 2,
            media_type: Some(INDEX.to_owned()),
            manifests: Vec::new(),
            others: BTreeMap::new(),
        };
        return Ok((list, Vec::new(), None));
    };
    let refused = |why: String| doing.failed(why, Class::Integrity);
    let list = List::read(&fetched.bytes).map_err(refused)?;
    let entries = list.entries().map_err(refused)?;
    Ok((list, entries, Some(fetched.digest)))
}

/// What the referrers API lists; `None` where there is none.
async fn from_api(session: &Session, subject: &Digest) -> Result<Option<Vec<Named>>> {
    let doing = Doing { action: "list what is attached", what: session.shown(&subject.to_string()) };
    let mut url = session.url(&format!("referrers/{subject}"));
    let mut found = Vec::new();
    for page in 0..MAX_PAGES {
        let answer = session.call(&doing, || session.request(Method::GET, url.clone())).await?;
        let media_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_list = media_type.is_some_and(|text| text.split(';').next().unwrap_or_default().trim() == INDEX);
        match answer.status() {
            StatusCode::OK if is_list => {}
            // Some answer with a page of their own to whatever they do not know.
            StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST
                if page == 0 =>
            {
                return Ok(None);
            }
            _ => return Err(session.refusal(&doing, answer).await),
        }
        let link = answer.headers().get(header::LINK).and_then(|value| value.to_str().ok()).and_then(next_link);
        let next = link.map(|link| session.own(&url, &link, &doing)).transpose()?;
        let bytes = session.read_bounded(answer, MAX_DOCUMENT, &doing).await?;
        let entries = List::read(&bytes).and_then(|list| list.entries());
        found.extend(entries.map_err(|why| doing.failed(why, Class::Integrity))?);
        if found.len() > MAX_PARTS {
            return Err(doing.failed(format!("the list has more than {MAX_PARTS} entries"), Class::Integrity));
        }
        match next {
            Some(next) if next != url => url = next,
            _ => return Ok(Some(found)),
        }
    }
    Err(doing.failed(format!("the list has more than {MAX_PAGES} pages"), Class::Integrity))
}

/// The address in `<…>; rel="next"`.
fn next_link(header: &str) -> Option<String> {
    let (address, parameters) = header.strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').any(|one| matches!(one.trim(), "rel=\"next\"" | "rel=next"));
    is_next.then(|| address.to_owned())
}

/// What becomes of an entry whose manifest is not there, or is never given because its record is torn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gone {
    /// Who reads is told that something is missing.
    Refused,
    /// Who attaches puts it back.
    Skipped,
}

/// The manifests of attached bundles, each with one layer, from wherever the registry lists them.
async fn bundles_of(session: &Session, subject: &Digest, gone: Gone) -> Result<Vec<(Digest, Manifest)>> {
    let tag = fallback_tag(subject);
    let doing = Doing { action: "read what is attached", what: session.shown(&subject.to_string()) };
    // A registry that learned the API later may still have the tag.
    let mut listed = from_api(session, subject).await?.unwrap_or_default();
    listed.extend(read_tag(session, &tag, &doing).await?.1);
    if listed.len() > MAX_PARTS {
        return Err(doing.failed(format!("more than {MAX_PARTS} entries are listed"), Class::Integrity));
    }
    let mut bytes_left = MAX_DOCUMENTS;
    let mut found: Vec<(Digest, Manifest)> = Vec::new();
    for entry in listed {
        let is_other = entry.artifact_type.as_deref().is_some_and(|artifact_type| artifact_type != BUNDLE);
        if is_other || entry.media_type != MANIFEST || found.iter().any(|(digest, _)| *digest == entry.digest) {
            continue;
        }
        let refused = |why: String| {
            fail("read what is attached", &session.shown(&entry.digest.to_string()), why, Class::Integrity)
        };
        let fetched = match gone {
            Gone::Refused => manifests::get(session, &entry.digest.to_string()).await?,
            Gone::Skipped => manifests::get_unless_torn(session, &entry.digest).await?,
        };
        let fetched = match fetched {
            Some(fetched) => fetched,
            None if gone == Gone::Skipped => continue,
            None => return Err(refused("it is listed and not there".to_owned())),
        };
        bytes_left = bytes_left.checked_sub(fetched.bytes.len() as u64).ok_or_else(|| {
            doing.failed(format!("its manifests have more than {MAX_DOCUMENTS} bytes together"), Class::Integrity)
        })?;
        let manifest: Manifest = crate::json::read(&fetched.bytes)
            .map_err(|error| refused(format!("its JSON is not understood: {error}")))?;
        let artifact_type = manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type);
        if artifact_type != BUNDLE {
            continue;
        }
        if manifest.subject.as_ref().map(|subject| subject.digest) != Some(*subject) {
            return Err(refused(format!("it is listed with {subject} and is about another image")));
        }
        if manifest.layers.len() != 1 || manifest.layers[0].media_type != BUNDLE {
            return Err(refused("it says that it is a bundle, and does not hold one".to_owned()));
        }
        found.push((entry.digest, manifest));
    }
    Ok(found)
}

/// [`super::attached`] over a session.
pub(crate) async fn attached_with(session: &Session, subject: &Digest) -> Result<Vec<Attached>> {
    let bundles = bundles_of(session, subject, Gone::Refused).await?;
    let bytes = bundles.iter().map(|(_, manifest)| manifest.layers[0].size).fold(0, u64::saturating_add);
    if bytes > MAX_BUNDLES {
        let doing = Doing { action: "read what is attached", what: session.shown(&subject.to_string()) };
        let cause = format!("the bundles have {bytes} bytes together, more than {MAX_BUNDLES}");
        return Err(doing.failed(cause, Class::Integrity));
    }
    let mut attached = Vec::new();
    for (manifest, document) in bundles {
        let layer = &document.layers[0];
        let bytes = blob(session, layer).await?;
        attached.push(Attached {
            manifest,
            artifact_type: BUNDLE.to_owned(),
            predicate_type: document.annotations.get(PREDICATE).cloned().unwrap_or_default(),
            bytes,
        });
    }
    Ok(attached)
}

/// A small blob, whole.
async fn blob(session: &Session, named: &Named) -> Result<Vec<u8>> {
    let doing = Doing { action: "read a bundle", what: session.shown(&named.digest.to_string()) };
    if named.size > MAX_BUNDLE {
        return Err(doing.failed(format!("it has {} bytes, more than {MAX_BUNDLE}", named.size), Class::Integrity));
    }
    let descriptor = Descriptor::new(&named.media_type, named.digest, named.size);
    let bytes = super::pull::small_blob(session, &descriptor, &doing).await?;
    Ok(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_listed_survives() {
        let zero = Digest::of(b"zero");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","annotations":{{"a":"b"}},"manifests":[{{"mediaType":"{MANIFEST}","digest":"{zero}","size":3,"artifactType":"x","data":"e30=","platform":{{"os":"linux"}}}}]}}"#
        );
        let mut list = List::read(text.as_bytes()).unwrap();
        let entry = Named::new(MANIFEST, b"new");
        assert!(add(&mut list, std::slice::from_ref(&entry)).unwrap());
        assert!(!add(&mut list, &[entry]).unwrap());
        let written: serde_json::Value = serde_json::from_slice(&crate::layout::to_json(&list).unwrap()).unwrap();
        assert_eq!(written["annotations"]["a"], "b");
        assert_eq!(written["manifests"][0]["data"], "e30=");
        assert_eq!(written["manifests"][0]["platform"]["os"], "linux");
        assert_eq!(written["manifests"][1]["size"], 3);
    }

    #[test]
    fn a_list_that_is_none_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"schemaVersion":1,"manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[{"digest":"x"}]}"#,
            r#"{"schemaVersion":2,"mediaType":"x","manifests":[]}"#,
        ] {
            assert!(!index_understood(text.as_bytes()), "{text}");
        }
        assert!(index_understood(br#"{"schemaVersion":2,"manifests":[]}"#));
    }

    #[test]
    fn the_next_page_is_found() {
        assert_eq!(next_link(r#"</v2/a?n=1&last=b>; rel="next""#).as_deref(), Some("/v2/a?n=1&last=b"));
        assert_eq!(next_link(r#"</v2/a>; rel="prev""#), None);
        assert_eq!(next_link("nothing"), None);
    }
}
