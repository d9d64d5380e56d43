//! A registry in memory that does what it is told: it keeps what it gets, counts it, and lies where a test wants it to.

use super::super::{Access, Destination, Patience};
use domain::Digest;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A request with its body, or what came of it before the connection was cut.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let url = reqwest::Url::parse(&format!("http://x{}", self.target)).unwrap();
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// Exactly these bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// The bytes, then the same letter for ever.
    Endless(Vec<u8>),
    /// The bytes, then one letter every so often.
    Trickle(Vec<u8>, Duration),
    /// No answer, and no end.
    Silence,
    /// The end of the connection.
    Cut,
}

pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Reply {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Reply::Answer(status, headers, body.into())
}

type Hook = Box<dyn FnMut(&Request, &mut State) -> Option<Reply> + Send>;

#[derive(Default)]
pub(crate) struct State {
    /// Blobs by repository and digest.
    pub(crate) blobs: BTreeMap<(String, String), Vec<u8>>,
    /// Documents by repository and digest or tag, with their type.
    pub(crate) manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    pub(crate) uploads: BTreeMap<String, Vec<u8>>,
    pub(crate) log: Vec<Request>,
    pub(crate) body_bytes: usize,
    /// After so many bytes of bodies the connection ends, once.
    pub(crate) cut_after: Option<usize>,
    pub(crate) has_referrers: bool,
    pub(crate) refuses_mounts: bool,
}

impl State {
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.log.iter().filter(|request| request.is(method, part)).count()
    }

    /// Puts a document where a pull finds it, under its digest and a tag.
    pub(crate) fn document(&mut self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        for name in [tag.to_owned(), digest.to_string()] {
            self.manifests.insert((repository.to_owned(), name), (media_type.to_owned(), bytes.to_vec()));
        }
        digest
    }

    pub(crate) fn blob(&mut self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.blobs.insert((repository.to_owned(), digest.to_string()), bytes.to_vec());
        digest
    }
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub(crate) async fn start(hook: impl FnMut(&Request, &mut State) -> Option<Reply> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let hook: Arc<Mutex<Hook>> = Arc::new(Mutex::new(Box::new(hook)));
        let (serving, own) = (state.clone(), address.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, hook, own) = (serving.clone(), hook.clone(), own.clone());
                // A client that goes away in the middle is what some of the tests are about.
                tokio::spawn(async move { serve(stream, &state, &hook, &own).await.ok() });
            }
        });
        Self { address, state }
    }

    pub(crate) async fn plain() -> Self {
        Self::start(|_, _| None).await
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    pub(crate) fn at(&self, repository: &str) -> Destination {
        Destination { repository: format!("{}/{repository}", self.address), insecure: true }
    }
}

/// Impatient, so that no test waits for long, with credentials from a folder if there is one.
pub(crate) fn access(folder: Option<&Path>) -> Access {
    let patience = Patience {
        answer: Duration::from_secs(2),
        stall: Duration::from_secs(2),
        step: Duration::from_millis(4),
        tries: 4,
        chunk: 256 << 10,
        ..Patience::default()
    };
    Access { folder: folder.map(Path::to_owned), helpers: None, patience }
}

async fn serve(mut stream: TcpStream, state: &Mutex<State>, hook: &Mutex<Hook>, own: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default().to_owned(), first.next().unwrap_or_default().to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut request = Request { method, target, headers, body: Vec::new() };
    let mut cut = false;
    let mut buffer = vec![0; 16 << 10];
    while request.body.len() < length && !cut {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            break;
        }
        let mut state = state.lock().unwrap();
        let taken = state.cut_after.map_or(n, |left| left.min(n));
        cut = taken < n;
        state.cut_after = if cut { None } else { state.cut_after.map(|left| left - taken) };
        state.body_bytes += taken;
        request.body.extend_from_slice(&buffer[..taken]);
    }
    let reply = {
        let mut state = state.lock().unwrap();
        state.log.push(request.clone());
        let hooked = if cut { None } else { (hook.lock().unwrap())(&request, &mut state) };
        let whole = request.body.len() == length;
        match hooked {
            Some(reply) => reply,
            None => {
                let reply = registry(&request, &mut state, own);
                if whole && !cut { reply } else { Reply::Cut }
            }
        }
    };
    send(&mut stream, &request, reply).await
}

async fn send(stream: &mut TcpStream, request: &Request, reply: Reply) -> std::io::Result<()> {
    match reply {
        Reply::Cut => Ok(()),
        Reply::Silence => std::future::pending().await,
        Reply::Raw(bytes) => stream.write_all(&bytes).await,
        Reply::Endless(bytes) => {
            stream.write_all(&bytes).await?;
            loop {
                stream.write_all(&[b'x'; 4096]).await?;
            }
        }
        Reply::Trickle(bytes, pause) => {
            stream.write_all(&bytes).await?;
            loop {
                tokio::time::sleep(pause).await;
                stream.write_all(b"x").await?;
            }
        }
        Reply::Answer(status, headers, body) => {
            let mut text = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
            if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
                text.push_str(&format!("Content-Length: {}\r\n", body.len()));
            }
            for (name, value) in headers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            text.push_str("\r\n");
            stream.write_all(text.as_bytes()).await?;
            if request.method != "HEAD" {
                stream.write_all(&body).await?;
            }
            stream.shutdown().await
        }
    }
}

/// What an honest registry does.
fn registry(request: &Request, state: &mut State, own: &str) -> Reply {
    let path = request.path().trim_start_matches("/v2/").to_owned();
    let method = request.method.as_str();
    if path.is_empty() || path == "/v2" {
        return answer(200, &[], "{}");
    }
    if let Some((repository, rest)) = path.split_once("/blobs/uploads/") {
        return upload(request, state, repository, rest, own);
    }
    if let Some((repository, digest)) = path.split_once("/blobs/") {
        return match state.blobs.get(&(repository.to_owned(), digest.to_owned())) {
            None => answer(404, &[], "no blob"),
            Some(bytes) => match request.headers.get("range") {
                None => answer(200, &[], bytes.clone()),
                Some(range) => {
                    let from: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
                    let shown = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                    answer(206, &[("Content-Range", &shown)], bytes[from..].to_vec())
                }
            },
        };
    }
    if let Some((repository, subject)) = path.split_once("/referrers/") {
        return if state.has_referrers { referrers(state, repository, subject) } else { answer(404, &[], "") };
    }
    let Some((repository, name)) = path.split_once("/manifests/") else { return answer(404, &[], "no such page") };
    let key = (repository.to_owned(), name.to_owned());
    if method == "PUT" {
        let media_type = request.headers["content-type"].clone();
        let digest = state.document(repository, name, &media_type, &request.body).to_string();
        let subject = state.has_referrers && String::from_utf8_lossy(&request.body).contains("\"subject\"");
        let mut headers = vec![("Docker-Content-Digest", digest.as_str())];
        headers.extend(subject.then_some(("OCI-Subject", "yes")));
        return answer(201, &headers, "");
    }
    match state.manifests.get(&key) {
        None => answer(404, &[], "no manifest"),
        Some((media_type, bytes)) => {
            let digest = Digest::of(bytes).to_string();
            answer(200, &[("Content-Type", media_type), ("Docker-Content-Digest", &digest)], bytes.clone())
        }
    }
}

fn upload(request: &Request, state: &mut State, repository: &str, id: &str, own: &str) -> Reply {
    match request.method.as_str() {
        "POST" => {
            if let (Some(digest), Some(from)) = (request.query("mount"), request.query("from"))
                && let Some(bytes) = state.blobs.get(&(from, digest.clone())).cloned()
                && !state.refuses_mounts
            {
                state.blobs.insert((repository.to_owned(), digest), bytes);
                return answer(201, &[], "");
            }
            let id = format!("u{}", state.log.len());
            state.uploads.insert(id.clone(), Vec::new());
            answer(202, &[("Location", &format!("http://{own}/v2/{repository}/blobs/uploads/{id}?_state=s"))], "")
        }
        method => {
            let Some(have) = state.uploads.get_mut(id) else { return answer(404, &[], "no upload") };
            if let Some(range) = request.headers.get("content-range") {
                let from: usize = range.split('-').next().unwrap().parse().unwrap();
                if from != have.len() {
                    return answer(416, &[("Range", &format!("0-{}", have.len().saturating_sub(1)))], "");
                }
            }
            have.extend_from_slice(&request.body);
            let location = format!("/v2/{repository}/blobs/uploads/{id}?_state={}", have.len());
            let range = format!("0-{}", have.len().saturating_sub(1));
            match method {
                "GET" => answer(204, &[("Location", &location), ("Range", &range)], ""),
                "PATCH" => answer(202, &[("Location", &location), ("Range", &range)], ""),
                "PUT" => {
                    let bytes = state.uploads.remove(id).unwrap();
                    let digest = request.query("digest").unwrap();
                    if Digest::of(&bytes).to_string() != digest {
                        return answer(400, &[], "DIGEST_INVALID");
                    }
                    state.blobs.insert((repository.to_owned(), digest), bytes);
                    answer(201, &[], "")
                }
                _ => answer(405, &[], ""),
            }
        }
    }
}

fn referrers(state: &State, repository: &str, subject: &str) -> Reply {
    let mut seen = BTreeSet::new();
    let mut entries = Vec::new();
    for ((_, _), (media_type, bytes)) in state.manifests.iter().filter(|((place, _), _)| place == repository) {
        let document: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        if document["subject"]["digest"] == subject && seen.insert(Digest::of(bytes)) {
            entries.push(serde_json::json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len(),
                "artifactType": document["artifactType"]}));
        }
    }
    let list = serde_json::json!({"schemaVersion": 2, "mediaType": crate::spec::INDEX, "manifests": entries});
    answer(200, &[("Content-Type", crate::spec::INDEX)], list.to_string())
}
