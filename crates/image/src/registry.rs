//! A layout to a registry: blobs, then the manifest by digest, then the tags.
//!
//! Blobs that are there are skipped, so a push that was interrupted is finished by the next. Blobs are streamed from disk; a transfer
//! that stands still is given up. Between the check of a version tag and its writing another client may write it: registries have no
//! conditional writes; the tag is read back, and deploys go by digest.

use crate::{
    credentials,
    docker::causes,
    error::{Error, Result, count},
    layer::BUFFER,
    layout::{Built, blobs, blobs_dir, open, read_documents},
};
use domain::{Class, Digest, Events, event::Unit};
use futures::StreamExt;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use reqwest::{Method, StatusCode, header};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::io::ReaderStream;

/// A transfer without a byte for so long has failed.
const STALL: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(15);
/// A request that carries no blob has failed without an answer for so long.
const REQUEST: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 4;
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// Pushes the image of a layout to `repository` (for example `registry.example/team/wine`), by digest and then under `tags`. `insecure` is plain HTTP.
///
/// A tag that names a full version (`1.2.0`, `v1.2.0-rc.1`) and points to another image is [`Error::TagTaken`], found before anything is pushed; other tags
/// move. Credentials are those of `docker login`.
pub async fn push(layout: &Path, repository: &str, tags: &[String], insecure: bool, events: &Events) -> Result<()> {
    let folder = credentials::default_folder();
    push_with(layout, repository, tags, insecure, folder.as_deref(), events).await
}

/// Whether the registry of `repository` answers and takes the credentials of `docker login`.
pub async fn registry_ping(repository: &str, insecure: bool) -> Result<()> {
    let folder = credentials::default_folder();
    Target::connect(repository, insecure, folder.as_deref()).await.map(|_| ())
}

async fn push_with(
    layout: &Path,
    repository: &str,
    tags: &[String],
    insecure: bool,
    folder: Option<&Path>,
    events: &Events,
) -> Result<()> {
    let owned = layout.to_owned();
    let built = crate::error::joined("read the layout", tokio::task::spawn_blocking(move || open(&owned)).await)??;
    let target = Target::connect(repository, insecure, folder).await?;
    for tag in tags.iter().filter(|tag| is_version(tag)) {
        target.refuse_other(tag, &built).await?;
    }
    push_blobs(&target, layout, &built, events).await?;
    let bytes = read_manifest(layout, &built)?;
    let media_type = read_documents(layout, None)?.manifest_descriptor.media_type;
    let by_digest = built.manifest.to_string();
    target.put_manifest(&by_digest, &bytes, &media_type).await?;
    target.confirm(&by_digest, &built.manifest).await?;
    for tag in tags {
        if is_version(tag) {
            target.refuse_other(tag, &built).await?;
        }
        target.put_manifest(tag, &bytes, &media_type).await?;
        target.confirm(tag, &built.manifest).await?;
    }
    events.note(format!(
        "pushed {repository}@{}{}",
        built.manifest,
        if tags.is_empty() { String::new() } else { format!(" as {}", tags.join(", ")) }
    ));
    Ok(())
}

/// Whether a tag names one full version, which never moves. `+` is no letter of a tag; `_` stands for it.
fn is_version(tag: &str) -> bool {
    semver::Version::parse(&tag.strip_prefix('v').unwrap_or(tag).replacen('_', "+", 1)).is_ok()
}

fn read_manifest(layout: &Path, built: &Built) -> Result<Vec<u8>> {
    let path = blobs_dir(layout).join(built.manifest.hex());
    std::fs::read(&path).map_err(Error::file("read", &path))
}

async fn push_blobs(target: &Target, layout: &Path, built: &Built, events: &Events) -> Result<()> {
    let list: Vec<_> = blobs(layout)?.into_iter().filter(|(digest, ..)| *digest != built.manifest).collect();
    let total = list.iter().map(|(_, _, size)| size).sum();
    let task = Arc::new(events.task(format!("push {}", target.repository), Some(total), Unit::Bytes));
    let (mut sent, mut there) = (0, 0);
    for (digest, path, size) in &list {
        if target.has_blob(digest).await? {
            there += 1;
            task.advance(*size);
            continue;
        }
        target.put_blob(digest, path, *size, &task).await?;
        sent += 1;
    }
    if let Some(task) = Arc::into_inner(task) {
        task.finish(format!("{} sent, {there} there already", count(sent, "blob", "blobs")));
    }
    Ok(())
}

/// A repository that answers.
struct Target {
    client: Client,
    http: reqwest::Client,
    auth: RegistryAuth,
    reference: Reference,
    repository: String,
    base: String,
}

impl Target {
    async fn connect(repository: &str, insecure: bool, folder: Option<&Path>) -> Result<Self> {
        let reference = reference(repository)?;
        let registry = reference.resolve_registry().to_owned();
        let auth = credentials::find(folder, None, reference.registry()).await?;
        // Another crate may have chosen a TLS provider already; then that one serves.
        drop(rustls::crypto::ring::default_provider().install_default());
        let protocol = if insecure { ClientProtocol::Http } else { ClientProtocol::Https };
        let config = ClientConfig {
            protocol,
            use_monolithic_push: true,
            connect_timeout: Some(CONNECT),
            user_agent: concat!("sealift/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let failed = |cause: String| fail("set up the connection", &registry, cause, Class::Internal);
        let client = Client::try_from(config).map_err(|error| failed(causes(&error)))?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .build()
            .map_err(|error| failed(causes(&error)))?;
        client.store_auth_if_needed(&registry, &auth).await;
        let base = format!("{}://{registry}/v2/{}", if insecure { "http" } else { "https" }, reference.repository());
        let target = Self { client, http, auth, reference, repository: repository.to_owned(), base };
        target.token().await?;
        Ok(target)
    }

    /// A token for pushing. The client keeps it and gets a new one when it has expired.
    async fn token(&self) -> Result<Option<String>> {
        let result = retried(|| self.client.auth(&self.reference, &self.auth, RegistryOperation::Push)).await;
        result.map_err(|error| self.refused("log in", &self.repository, &error))
    }

    fn refused(&self, action: &str, what: &str, error: &OciDistributionError) -> Error {
        let class = match error {
            OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. } => {
                Class::NotPermitted
            }
            OciDistributionError::ServerError { code: 401 | 403, .. } => Class::NotPermitted,
            OciDistributionError::DigestError(_) => Class::Integrity,
            _ => Class::Unavailable,
        };
        fail(action, what, causes(error), class)
    }

    async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let text = digest.to_string();
        let result = retried(|| self.client.blob_exists(&self.reference, &text)).await;
        result.map_err(|error| self.refused("look for a blob", &format!("{}@{digest}", self.repository), &error))
    }

    async fn put_blob(&self, digest: &Digest, path: &Path, size: u64, task: &Arc<domain::event::Task>) -> Result<()> {
        let what = format!("{}@{digest}", self.repository);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let sent = Arc::new(AtomicU64::new(0));
            let file = tokio::fs::File::open(path).await.map_err(Error::file("open", path))?;
            let (counter, progress) = (sent.clone(), task.clone());
            let stream = ReaderStream::with_capacity(file, BUFFER).map(move |chunk| {
                let chunk = chunk.map_err(OciDistributionError::IoError)?;
                counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                progress.advance(chunk.len() as u64);
                Ok(chunk)
            });
            let text = digest.to_string();
            let upload = self.client.push_blob_stream(&self.reference, stream, &text, Some(size));
            let result = tokio::select! {
                result = upload => result.map(drop),
                () = stalled(&sent) => return Err(fail("push a blob", &what, format!("nothing moved for {} s", STALL.as_secs()), Class::Unavailable)),
            };
            match result {
                Ok(()) if self.has_blob(digest).await? => return Ok(()),
                Ok(()) => {
                    return Err(fail(
                        "push a blob",
                        &what,
                        "the registry took it and does not have it".to_owned(),
                        Class::Integrity,
                    ));
                }
                Err(error) if attempt < ATTEMPTS && is_passing(&error) => {
                    // What is sent again is more to do, so that progress never runs backwards.
                    task.grow(sent.load(Ordering::Relaxed));
                    pause(attempt).await;
                }
                Err(error) => return Err(self.refused("push a blob", &what, &error)),
            }
        }
    }

    /// A request for a manifest; the registry's client cannot put one by digest everywhere.
    async fn manifest_request(
        &self,
        method: Method,
        name: &str,
        body: Option<(&[u8], &str)>,
    ) -> Result<reqwest::Response> {
        let what = format!("{}:{name}", self.repository);
        let action = if method == Method::PUT { "push the manifest" } else { "read the manifest" };
        let url = format!("{}/manifests/{name}", self.base);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut request = self.http.request(method.clone(), &url).header(header::ACCEPT, ACCEPT);
            request = match (self.token().await?, &self.auth) {
                (Some(token), _) => request.bearer_auth(token),
                (None, RegistryAuth::Basic(user, password)) => request.basic_auth(user, Some(password)),
                (None, _) => request,
            };
            if let Some((bytes, media_type)) = body {
                request = request.header(header::CONTENT_TYPE, media_type).body(bytes.to_vec());
            }
            match request.send().await {
                Ok(answer) if attempt < ATTEMPTS && is_passing_status(answer.status()) => {}
                Ok(answer) if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    return Err(fail(
                        action,
                        &what,
                        format!("the registry answers {}", answer.status()),
                        Class::NotPermitted,
                    ));
                }
                Ok(answer) => return Ok(answer),
                Err(error) if attempt < ATTEMPTS && !error.is_timeout() => {}
                Err(error) => return Err(fail(action, &what, causes(&error), Class::Unavailable)),
            }
            pause(attempt).await;
        }
    }

    async fn put_manifest(&self, name: &str, bytes: &[u8], media_type: &str) -> Result<()> {
        let answer = self.manifest_request(Method::PUT, name, Some((bytes, media_type))).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let said = answer.text().await.unwrap_or_default();
        let said: String = said.chars().take(400).collect();
        Err(fail(
            "push the manifest",
            &format!("{}:{name}", self.repository),
            format!("the registry answers {status}: {said}"),
            Class::Unavailable,
        ))
    }

    /// The digest that a tag or digest has at the registry.
    async fn head(&self, name: &str) -> Result<Option<String>> {
        let what = format!("{}:{name}", self.repository);
        let answer = self.manifest_request(Method::HEAD, name, None).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            status if status.is_success() => {}
            status => {
                return Err(fail(
                    "read the manifest",
                    &what,
                    format!("the registry answers {status}"),
                    Class::Unavailable,
                ));
            }
        }
        let said =
            answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()).map(str::to_owned);
        if said.is_some() {
            return Ok(said);
        }
        // The header is optional: then the bytes tell.
        let answer = self.manifest_request(Method::GET, name, None).await?;
        let bytes = answer
            .bytes()
            .await
            .map_err(|error| fail("read the manifest", &what, causes(&error), Class::Unavailable))?;
        Ok(Some(Digest::of(&bytes).to_string()))
    }

    async fn confirm(&self, name: &str, wanted: &Digest) -> Result<()> {
        let is = self.head(name).await?;
        if is.as_deref() == Some(&wanted.to_string()) {
            return Ok(());
        }
        let cause = format!("it was pushed as {wanted} and reads back as {}", is.as_deref().unwrap_or("nothing"));
        Err(fail("confirm the manifest", &format!("{}:{name}", self.repository), cause, Class::Integrity))
    }

    async fn refuse_other(&self, tag: &str, built: &Built) -> Result<()> {
        match self.head(tag).await? {
            Some(is) if is != built.manifest.to_string() => Err(Error::TagTaken {
                repository: self.repository.clone(),
                tag: tag.to_owned(),
                is,
                wanted: built.manifest,
            }),
            _ => Ok(()),
        }
    }
}

fn reference(repository: &str) -> Result<Reference> {
    let hint = "write REGISTRY/PATH without a tag, for example registry.example/team/wine";
    let bad = |why: String| Error::bad_with(format!("{repository:?} is not a repository: {why}"), hint);
    let last = repository.rsplit('/').next().unwrap_or_default();
    if repository.contains('@') || (last.contains(':') && repository.contains('/')) {
        return Err(bad("it has a tag or a digest".to_owned()));
    }
    repository.parse().map_err(|error: oci_client::ParseError| bad(error.to_string()))
}

fn fail(action: &str, what: &str, cause: String, class: Class) -> Error {
    Error::Registry { action: action.to_owned(), reference: what.to_owned(), cause, class }
}

/// Returns when the counter has stood still for [`STALL`].
async fn stalled(sent: &AtomicU64) {
    let mut seen = sent.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(STALL).await;
        let now = sent.load(Ordering::Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}

/// Asks again after a passing failure. Silence is not asked again: it has taken long enough.
async fn retried<T, F: Future<Output = Result<T, OciDistributionError>>>(
    mut request: impl FnMut() -> F,
) -> Result<T, OciDistributionError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let silent = |_| OciDistributionError::GenericError(Some(format!("no answer within {} s", REQUEST.as_secs())));
        match tokio::time::timeout(REQUEST, request()).await.map_err(silent)? {
            Err(error) if attempt < ATTEMPTS && is_passing(&error) => pause(attempt).await,
            other => return other,
        }
    }
}

/// Whether the same request may succeed in a moment.
fn is_passing(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ServerError { code, .. } => *code >= 500 || *code == 429,
        OciDistributionError::RequestError(error) => error.status().is_none_or(is_passing_status),
        _ => false,
    }
}

fn is_passing_status(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// A quarter of a second, doubled each time.
async fn pause(attempt: u32) {
    tokio::time::sleep(Duration::from_millis(125 << attempt.min(6))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_versions_never_move_and_other_tags_do() {
        for tag in ["1.2.0", "v1.2.0", "1.2.0-rc.1", "1.2.0_build.5"] {
            assert!(is_version(tag), "{tag}");
        }
        for tag in ["1.2", "1", "latest", "v1", "main"] {
            assert!(!is_version(tag), "{tag}");
        }
    }

    #[test]
    fn a_repository_has_no_tag() {
        assert_eq!(reference("127.0.0.1:5000/team/wine").unwrap().resolve_registry(), "127.0.0.1:5000");
        for bad in ["127.0.0.1:5000/wine:1.0.0", "reg.example/wine@sha256:00", "Reg/UPPER", ""] {
            let error = reference(bad).unwrap_err();
            assert_eq!(error.class(), Class::BadInput, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_registry_that_is_not_there_is_unavailable() {
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout");
        crate::layout::create(&layout).unwrap();
        let platform = crate::spec::Platform::parse("linux/amd64").unwrap();
        let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        crate::layout::seal(&layout, config, Vec::new(), platform).unwrap();
        // A port that was just free: nothing listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = push_with(&layout, &format!("127.0.0.1:{port}/wine"), &[], true, None, &Events::nowhere())
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Unavailable);
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
    }
}
