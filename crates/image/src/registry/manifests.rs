//! Documents at a registry, by digest and by tag.
//!
//! A registry that was killed while it took a document may have a torn record of it, and fails whenever it is asked for it (see `upload`). What is known by its
//! digest is put once more and confirmed: it counts as "not there" before that, and never afterwards. A torn record of a *tag* stays an error, because
//! nothing says what the tag pointed to, and the tag of a version must not be written over: a person deletes that tag at the registry, and publishes again.

use super::{
    content::{DOCKER_LIST, Document, MAX_DOCUMENT},
    session::{Doing, Session},
};
use crate::{
    error::Result,
    spec::{DOCKER_MANIFEST, INDEX, MANIFEST},
};
use bytes::Bytes;
use domain::{Class, Digest};
use reqwest::{Method, Response, StatusCode, header};

/// A document as a registry gave it.
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    /// As the answer announced it, without parameters.
    pub(crate) media_type: Option<String>,
    pub(crate) bytes: Bytes,
}

fn accept() -> String {
    [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST].join(", ")
}

fn path(reference: &str) -> String {
    format!("manifests/{reference}")
}

/// The digest that the registry says a tag or digest has; `None` when there is none.
pub(crate) async fn head(session: &Session, reference: &str) -> Result<Option<Digest>> {
    let doing = Doing { action: "read the manifest", what: session.shown(reference) };
    let answer = ask(session, Method::HEAD, reference, &doing).await?;
    head_of(session, reference, answer, &doing).await
}

async fn head_of(session: &Session, reference: &str, answer: Response, doing: &Doing<'_>) -> Result<Option<Digest>> {
    match answer.status() {
        StatusCode::NOT_FOUND => Ok(None),
        // Some have no HEAD, and the header is optional: then the bytes tell.
        StatusCode::METHOD_NOT_ALLOWED => Ok(get(session, reference).await?.map(|fetched| fetched.digest)),
        status if status.is_success() => match said_digest(&answer, doing)? {
            Some(digest) => Ok(Some(digest)),
            None => Ok(get(session, reference).await?.map(|fetched| fetched.digest)),
        },
        _ => Err(session.refusal(doing, answer).await),
    }
}

/// Whether a repository has a document, asked before it is sent. A registry that fails at this question whenever it is asked may have a
/// torn record of it, which sending it again mends.
pub(crate) async fn is_there(session: &Session, digest: &Digest) -> Result<bool> {
    let reference = digest.to_string();
    let doing = Doing { action: "look for the manifest", what: session.shown(&reference) };
    let answer = ask(session, Method::HEAD, &reference, &doing).await?;
    if answer.status().is_server_error() {
        return Ok(false);
    }
    Ok(head_of(session, &reference, answer, &doing).await? == Some(*digest))
}

fn said_digest(answer: &Response, doing: &Doing<'_>) -> Result<Option<Digest>> {
    let Some(value) = answer.headers().get("docker-content-digest") else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or_else(|| doing.failed("the registry answers with a digest that is none", Class::Integrity))
}

/// A document; its digest is that of its bytes, and the one that was asked for, if a digest was. `None` when there is none.
pub(crate) async fn get(session: &Session, reference: &str) -> Result<Option<Fetched>> {
    let doing = Doing { action: "read the manifest", what: session.shown(reference) };
    let answer = ask(session, Method::GET, reference, &doing).await?;
    fetched(session, reference, answer, &doing).await
}

async fn ask(session: &Session, method: Method, reference: &str, doing: &Doing<'_>) -> Result<Response> {
    let url = session.url(&path(reference));
    session.call(doing, || session.request(method.clone(), url.clone()).header(header::ACCEPT, accept())).await
}

async fn fetched(session: &Session, reference: &str, answer: Response, doing: &Doing<'_>) -> Result<Option<Fetched>> {
    match answer.status() {
        StatusCode::NOT_FOUND => return Ok(None),
        StatusCode::OK => {}
        _ => return Err(session.refusal(doing, answer).await),
    }
    let said = said_digest(&answer, doing)?;
    let media_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
    let bytes = session.read_bounded(answer, MAX_DOCUMENT, doing).await?;
    let digest = Digest::of(&bytes);
    let wanted = reference.parse::<Digest>().ok().filter(|_| reference.contains(':'));
    if let Some(other) = said.filter(|said| *said != digest).or(wanted.filter(|wanted| *wanted != digest)) {
        let cause = format!("the registry gives {} bytes with digest {digest} for {other}", bytes.len());
        return Err(doing.failed(cause, Class::Integrity));
    }
    Ok(Some(Fetched { digest, media_type, bytes }))
}

/// A document that its writer puts again when it is not there: what the registry fails to give whenever it is asked counts as gone, for its record may
/// be torn.
pub(crate) async fn get_unless_torn(session: &Session, digest: &Digest) -> Result<Option<Fetched>> {
    let reference = digest.to_string();
    let doing = Doing { action: "read the manifest", what: session.shown(&reference) };
    let answer = ask(session, Method::GET, &reference, &doing).await?;
    if answer.status().is_server_error() {
        return Ok(None);
    }
    fetched(session, &reference, answer, &doing).await
}

/// A document of an image.
pub(crate) async fn get_document(session: &Session, reference: &str) -> Result<Option<Document>> {
    let doing = Doing { action: "read the manifest", what: session.shown(reference) };
    let Some(fetched) = get(session, reference).await? else { return Ok(None) };
    let document = Document::read(fetched.bytes, fetched.media_type.as_deref());
    document.map(Some).map_err(|why| doing.failed(format!("what the registry gives {why}"), Class::Integrity))
}

/// Writes a document under its digest or a tag; true when the registry says that it lists it with its subject.
pub(crate) async fn put(session: &Session, reference: &str, bytes: &Bytes, media_type: &str) -> Result<bool> {
    let doing = Doing { action: "push the manifest", what: session.shown(reference) };
    let url = session.url(&path(reference));
    let request =
        || session.request(Method::PUT, url.clone()).header(header::CONTENT_TYPE, media_type).body(bytes.clone());
    let answer = session.call(&doing, request).await?;
    if !answer.status().is_success() {
        return Err(session.refusal(&doing, answer).await);
    }
    Ok(answer.headers().contains_key("oci-subject"))
}

/// Fails unless the registry says that a tag or digest is `wanted`.
pub(crate) async fn confirm(session: &Session, reference: &str, wanted: &Digest) -> Result<()> {
    let is = head(session, reference).await?;
    if is == Some(*wanted) {
        return Ok(());
    }
    let doing = Doing { action: "confirm the manifest", what: session.shown(reference) };
    let is = is.map_or_else(|| "nothing".to_owned(), |is| is.to_string());
    Err(doing.failed(format!("it was pushed as {wanted} and reads back as {is}"), Class::Integrity))
}
