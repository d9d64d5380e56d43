//! Requests to one repository: logging in, asking again, and never talking to anybody else.
//!
//! - Credentials go to the registry's own scheme, host and port, and to its token server: over https, or where the registry itself is
//!   named insecure and the token server is it or this machine.
//! - A request that leaves the registry (a redirected blob) carries none, never goes from https to http, and not to
//!   a link-local address, whatever a name resolves to. (Where a proxy is configured it resolves the names, and only addresses that are written are seen here.)
//! - Every wait has an end: connecting, an answer, a transfer that stands still, and the whole work.

use super::{
    Access, Destination,
    challenge::{Challenge, challenges},
    fail, reasons,
    reference::Repository,
};
use crate::{
    credentials::{self, Login},
    error::Result,
};
use bytes::{Bytes, BytesMut};
use domain::Class;
use reqwest::{
    Client, ClientBuilder, Method, RequestBuilder, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{self, HeaderValue},
    redirect::Policy,
};
use serde::Deserialize;
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The largest answer of a token server, in bytes.
const MAX_TOKEN: u64 = 1 << 20;
/// How long before its end a token is not used any more.
const TOKEN_MARGIN: Duration = Duration::from_secs(20);
/// How long a token holds whose server does not say (the distribution specification's number).
const TOKEN_DEFAULT: u64 = 60;
/// A wish to wait for longer than this ends the work.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What a session is for; it decides which rights are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Write,
}

/// What a request does, for the error that may come of it.
pub(crate) struct Doing<'a> {
    /// A verb and its object: `push a blob`.
    pub(crate) action: &'a str,
    /// Repository with tag or digest.
    pub(crate) what: String,
}

impl Doing<'_> {
    pub(crate) fn failed(&self, cause: impl Into<String>, class: Class) -> crate::Error {
        fail(self.action, &self.what, cause.into(), class)
    }
}

/// How one try ended.
pub(crate) enum Tried {
    /// The registry answered.
    Answer(Response),
    /// It did not, or not in time. The text says why.
    Broken(String),
}

/// A connection to one repository of one registry.
pub(crate) struct Session {
    pub(crate) access: Access,
    client: Client,
    /// For hosts that the registry names: no credentials, and no address that nobody should be sent to. Most registries name none, and a client
    /// reads every certificate of the system when it is made.
    elsewhere: OnceLock<Client>,
    /// As it was written.
    pub(crate) name: String,
    pub(crate) repository: Repository,
    insecure: bool,
    base: Url,
    login: Login,
    purpose: Purpose,
    /// Other repositories of the registry from which blobs may be mounted.
    pub(crate) sources: Vec<String>,
    token: tokio::sync::Mutex<Token>,
    deadline: Mutex<Instant>,
}

#[derive(Default)]
struct Token {
    /// Counts the log-ins, so that of several requests that were refused together only one logs in.
    generation: u64,
    header: Option<HeaderValue>,
    expires: Option<Instant>,
    /// With which to get the next before this one ends.
    challenge: Option<Challenge>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Session {
    /// Reads credentials and sets up the clients; nothing is sent yet. `sources` are paths of repositories of the same registry from which blobs may be
    /// mounted.
    pub(crate) async fn open(
        to: &Destination,
        purpose: Purpose,
        sources: Vec<String>,
        access: &Access,
    ) -> Result<Self> {
        let repository = Repository::parse(&to.repository)?;
        let login = credentials::find(
            access.folder.as_deref(),
            access.helpers.as_deref(),
            access.patience.helper,
            &repository.host,
        )
        .await?;
        // Another crate may have chosen a TLS provider already; then that one serves.
        drop(rustls::crypto::ring::default_provider().install_default());
        let doing = Doing { action: "set up the connection", what: to.repository.clone() };
        let failed = |error: reqwest::Error| doing.failed(reasons(&error), Class::Internal);
        let builder = clients(&repository, access);
        // Over plain HTTP and past every proxy there is nobody whose certificate could be looked at.
        let bare = to.insecure && repository.is_loopback();
        let builder = if bare { builder.tls_certs_only([]) } else { builder };
        let client = builder.build().map_err(failed)?;
        let scheme = if to.insecure { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{}/v2/", repository.host))
            .map_err(|error| doing.failed(error.to_string(), Class::BadInput))?;
        let deadline = Mutex::new(Instant::now() + access.patience.total);
        Ok(Self {
            access: access.clone(),
            client,
            elsewhere: OnceLock::new(),
            name: to.repository.clone(),
            repository,
            insecure: to.insecure,
            base,
            login,
            purpose,
            sources,
            token: tokio::sync::Mutex::default(),
            deadline,
        })
    }

    fn elsewhere(&self, doing: &Doing<'_>) -> Result<&Client> {
        if let Some(client) = self.elsewhere.get() {
            return Ok(client);
        }
        let guard = Guard { loopback: self.repository.is_loopback() };
        let made = clients(&self.repository, &self.access).dns_resolver(guard).build();
        let made = made.map_err(|error| doing.failed(reasons(&error), Class::Internal))?;
        Ok(self.elsewhere.get_or_init(|| made))
    }

    /// Moves the end of the whole work away by what so many bytes may take at the slowest speed that is waited for. It begins now: what other
    /// repositories took meanwhile is not this one's.
    pub(crate) fn allow(&self, bytes: u64) {
        let slowest = self.access.patience.slowest.max(1);
        let mut deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Instant::now() + self.access.patience.total;
        *deadline = (*deadline).max(fresh) + Duration::from_secs(bytes / slowest);
    }

    fn deadline(&self) -> Instant {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of something in this repository: `blobs/sha256:…`, `manifests/1.0`.
    pub(crate) fn url(&self, rest: &str) -> Url {
        self.url_in(&self.repository.path, rest)
    }

    /// The address of something in another repository of the registry.
    pub(crate) fn url_in(&self, path: &str, rest: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{path}/{rest}"));
        url
    }

    /// The address at which a registry says whether it lets us in.
    pub(crate) fn url_of_root(&self) -> Url {
        self.base.clone()
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// `name@digest` or `name:tag`, for messages.
    pub(crate) fn shown(&self, reference: &str) -> String {
        let separator = if reference.contains(':') { '@' } else { ':' };
        format!("{}{separator}{reference}", self.name)
    }

    /// An address that the registry named, if it is its own: the same scheme, host and port.
    pub(crate) fn own(&self, from: &Url, location: &str, doing: &Doing<'_>) -> Result<Url> {
        let refused = |why: String| doing.failed(why, Class::Integrity);
        let url = from.join(location).map_err(|error| refused(format!("it names a place that is none: {error}")))?;
        if is_same(&self.base, &url) {
            return Ok(url);
        }
        let cause = if self.base.scheme() == "https" && url.scheme() != "https" && self.base.host() == url.host() {
            "the registry sends us from https to http; nothing was sent there (behind a proxy, set X-Forwarded-Proto)"
                .to_owned()
        } else {
            format!("the registry sends us to another host, {}; nothing was sent there", origin(&url))
        };
        Err(refused(cause))
    }

    /// Whether an address is of this registry.
    pub(crate) fn is_own(&self, url: &Url) -> bool {
        is_same(&self.base, url)
    }

    /// Sends a request to the registry until it is answered: logs in when it must, asks again after what passes. `build` makes the request anew each time.
    pub(crate) async fn call(&self, doing: &Doing<'_>, build: impl Fn() -> RequestBuilder) -> Result<Response> {
        let mut tries = 0;
        loop {
            tries += 1;
            let last = tries >= self.access.patience.tries;
            let wait = match self.once(doing, build(), None).await? {
                Tried::Answer(answer) if !last && is_passing(answer.status()) => wished_wait(&answer),
                Tried::Answer(answer) => return Ok(answer),
                Tried::Broken(cause) if last => return Err(doing.failed(cause, Class::Unavailable)),
                Tried::Broken(_) => None,
            };
            self.pause(tries, wait, doing).await?;
        }
    }

    /// Sends a request once, with a token that holds; a refused token is replaced, and the request sent again if its body can be. `moved` counts the bytes of
    /// a body that is streamed: silence is then counted from the last of them.
    pub(crate) async fn once(
        &self,
        doing: &Doing<'_>,
        request: RequestBuilder,
        moved: Option<&AtomicU64>,
    ) -> Result<Tried> {
        let request = request.build().map_err(|error| doing.failed(reasons(&error), Class::Internal))?;
        if !self.is_own(request.url()) {
            let cause = format!("{} is not the registry; credentials stay here", origin(request.url()));
            return Err(doing.failed(cause, Class::Integrity));
        }
        let mut request = request;
        let mut log_ins = 0;
        loop {
            let again = request.try_clone();
            let (generation, token) = self.authorization(doing).await?;
            if let Some(token) = token {
                request.headers_mut().insert(header::AUTHORIZATION, token);
            }
            let answer = match self.bounded(self.client.execute(request), moved).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return Ok(Tried::Broken(reasons(&error))),
                Err(silence) => return Ok(Tried::Broken(silence)),
            };
            if answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(Tried::Answer(answer));
            }
            log_ins += 1;
            if log_ins > 2 {
                return Err(
                    doing.failed("the registry answers 401 Unauthorized to what it let in", Class::NotPermitted)
                );
            }
            self.log_in(generation, &answer, doing).await?;
            match again {
                Some(again) => request = again,
                None => return Ok(Tried::Broken("the registry wants us to log in again".to_owned())),
            }
        }
    }

    /// Waits for an answer: as long as bytes move, at most until the work must be done.
    pub(crate) async fn bounded<T>(
        &self,
        answer: impl Future<Output = T>,
        moved: Option<&AtomicU64>,
    ) -> Result<T, String> {
        let patience = if moved.is_some() { self.access.patience.stall } else { self.access.patience.answer };
        let count = || moved.map_or(0, |moved| moved.load(Ordering::Relaxed));
        tokio::pin!(answer);
        let mut seen = count();
        loop {
            let end = (Instant::now() + patience).min(self.deadline());
            if let Ok(value) = tokio::time::timeout_at(end, &mut answer).await {
                return Ok(value);
            }
            if Instant::now() >= self.deadline() {
                return Err("it takes longer than the whole work may take".to_owned());
            }
            let now = count();
            if now == seen {
                return Err(format!("nothing moved for {} s", patience.as_secs_f32()));
            }
            seen = now;
        }
    }

    /// Waits before the next try: as long as the server wishes, or longer each time, never the same twice. Fails instead of waiting past the end of the work.
    pub(crate) async fn pause(&self, tries: u32, wish: Option<Duration>, doing: &Doing<'_>) -> Result<()> {
        let step = self.access.patience.step.saturating_mul(1 << tries.min(7));
        // Half of it is random, so that many clients that failed together do not come again together.
        let random = (uuid::Uuid::new_v4().as_u128() & 0xffff) as f64 / 65_536.0;
        let wait = wish.unwrap_or_else(|| step.mul_f64(0.5 + random / 2.0));
        if wait > LONGEST_WAIT || Instant::now() + wait > self.deadline() {
            let cause = format!("it wants us to wait for {} s, which is longer than we may", wait.as_secs());
            return Err(doing.failed(cause, Class::Unavailable));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// The token to send, if there is one; one that is about to end is replaced first.
    async fn authorization(&self, doing: &Doing<'_>) -> Result<(u64, Option<HeaderValue>)> {
        let mut token = self.token.lock().await;
        if let Login::Bearer(secret) = &self.login
            && token.header.is_none()
        {
            token.header = Some(secret_header(&format!("Bearer {secret}"), doing)?);
        }
        let ends = token.expires.is_some_and(|end| Instant::now() + TOKEN_MARGIN > end);
        if let (true, Some(challenge)) = (ends, token.challenge.clone()) {
            self.answer_challenge(&mut token, challenge, doing).await?;
        }
        Ok((token.generation, token.header.clone()))
    }

    async fn log_in(&self, generation: u64, answer: &Response, doing: &Doing<'_>) -> Result<()> {
        let mut token = self.token.lock().await;
        if token.generation != generation {
            return Ok(());
        }
        let offered: Vec<Challenge> = answer
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenges)
            .collect();
        let known = |scheme: &str| offered.iter().find(|challenge| challenge.scheme == scheme);
        let Some(challenge) = known("bearer").or_else(|| known("basic")).cloned() else {
            let cause = "the registry answers 401 Unauthorized and offers no way to log in that we know";
            return Err(doing.failed(cause, Class::NotPermitted));
        };
        self.answer_challenge(&mut token, challenge, doing).await
    }

    async fn answer_challenge(&self, token: &mut Token, challenge: Challenge, doing: &Doing<'_>) -> Result<()> {
        let denied = |cause: &str| doing.failed(cause, Class::NotPermitted);
        if challenge.scheme == "basic" {
            let Login::Basic(user, password) = &self.login else {
                return Err(denied(match self.login {
                    Login::Anonymous => {
                        "the registry answers 401 Unauthorized, and no credentials are known for it (docker login)"
                    }
                    _ => "the registry wants a user name and a password, and only a token is known (docker login)",
                }));
            };
            if token.header.is_some() {
                return Err(denied("the registry answers 401 Unauthorized to the credentials that are known for it"));
            }
            use base64::Engine as _;
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            token.header = Some(secret_header(&format!("Basic {pair}"), doing)?);
            token.generation += 1;
            return Ok(());
        }
        let mine = format!(
            "repository:{}:{}",
            self.repository.path,
            if self.purpose == Purpose::Write { "pull,push" } else { "pull" }
        );
        let mut scopes = vec![mine];
        scopes.extend(self.sources.iter().map(|path| format!("repository:{path}:pull")));
        let mut answer = self.fetch_token(&challenge, &scopes, doing).await?;
        if is_refusal(answer.status()) && scopes.len() > 1 {
            // A server may refuse everything for one repository that is not ours; mounting is only a saving.
            answer = self.fetch_token(&challenge, &scopes[..1], doing).await?;
        }
        let status = answer.status();
        if is_refusal(status) {
            return Err(denied(&format!("the registry's token server answers {status}")));
        }
        if !status.is_success() {
            return Err(doing.failed(format!("the registry's token server answers {status}"), Class::Unavailable));
        }
        let bytes = self.read_bounded(answer, MAX_TOKEN, doing).await?;
        let unknown = || doing.failed("the token server's answer is not understood", Class::Unavailable);
        let parsed: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| unknown())?;
        let secret = parsed.token.or(parsed.access_token).filter(|text| !text.is_empty()).ok_or_else(unknown)?;
        token.header = Some(secret_header(&format!("Bearer {secret}"), doing)?);
        let holds = Duration::from_secs(parsed.expires_in.unwrap_or(TOKEN_DEFAULT).clamp(30, 86_400));
        token.expires = Some(Instant::now() + holds);
        token.challenge = Some(challenge);
        token.generation += 1;
        Ok(())
    }

    async fn fetch_token(&self, challenge: &Challenge, scopes: &[String], doing: &Doing<'_>) -> Result<Response> {
        let refused = |cause: String| doing.failed(cause, Class::NotPermitted);
        let realm = challenge.get("realm").ok_or_else(|| refused("the registry names no token server".to_owned()))?;
        let mut url =
            Url::parse(realm).map_err(|_| refused(format!("the registry's token server {realm:?} is no address")))?;
        self.trust_realm(&url).map_err(|why| refused(format!("the registry's token server {} {why}", origin(&url))))?;
        let client = if self.is_own(&url) { &self.client } else { self.elsewhere(doing)? };
        let service = challenge.get("service").unwrap_or_default();
        let mut tries = 0;
        let request = match &self.login {
            Login::Identity(refresh) => {
                let mut form = vec![
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("client_id", "sealift"),
                    ("refresh_token", refresh),
                ];
                let all = scopes.join(" ");
                form.push(("scope", &all));
                let body = form_encoded(&form);
                client.post(url).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
            }
            other => {
                {
                    let mut pairs = url.query_pairs_mut();
                    if !service.is_empty() {
                        pairs.append_pair("service", service);
                    }
                    for scope in scopes {
                        pairs.append_pair("scope", scope);
                    }
                }
                match other {
                    Login::Basic(user, password) => client.get(url).basic_auth(user, Some(password)),
                    _ => client.get(url),
                }
            }
        };
        loop {
            tries += 1;
            let last = tries >= self.access.patience.tries;
            let again = request.try_clone().ok_or_else(|| refused("the request cannot be made".to_owned()))?;
            let wait = match self.bounded(again.send(), None).await {
                Ok(Ok(answer)) if !last && is_passing(answer.status()) => wished_wait(&answer),
                Ok(Ok(answer)) if answer.status().is_redirection() => {
                    return Err(refused("the registry's token server sends us elsewhere".to_owned()));
                }
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if last || is_guarded(&error) => {
                    return Err(doing.failed(format!("the token server: {}", reasons(&error)), Class::Unavailable));
                }
                Err(silence) if last => {
                    return Err(doing.failed(format!("the token server: {silence}"), Class::Unavailable));
                }
                _ => None,
            };
            self.pause(tries, wait, doing).await?;
        }
    }

    /// Whether credentials may go to a token server.
    fn trust_realm(&self, url: &Url) -> Result<(), &'static str> {
        let address = literal(url);
        if !self.is_own(url) && address.is_some_and(|address| is_forbidden(address, self.repository.is_loopback())) {
            return Err("is at an address that nobody is sent to");
        }
        match url.scheme() {
            "https" => Ok(()),
            "http" if !self.insecure => Err("is not https; nothing was sent there"),
            "http" if url.host() == self.base.host() || address.is_some_and(|address| address.is_loopback()) => Ok(()),
            "http" => Err("is another host without https; nothing was sent there"),
            _ => Err("is neither https nor http"),
        }
    }

    /// Follows the registry to another host, without credentials. Only for blobs that are read.
    pub(crate) async fn follow(
        &self,
        from: &Url,
        location: &str,
        offset: u64,
        doing: &Doing<'_>,
    ) -> Result<(Url, Tried)> {
        let refused = |cause: String| doing.failed(cause, Class::Integrity);
        let url = from.join(location).map_err(|error| refused(format!("it names a place that is none: {error}")))?;
        if from.scheme() == "https" && url.scheme() != "https" {
            return Err(refused(format!(
                "the registry sends us from https to {}; nothing was sent there",
                origin(&url)
            )));
        }
        if !matches!(url.scheme(), "https" | "http") || !url.username().is_empty() || url.password().is_some() {
            return Err(refused(format!("the registry sends us to {}, where no blob is", origin(&url))));
        }
        if literal(&url).is_some_and(|address| is_forbidden(address, self.repository.is_loopback())) {
            return Err(refused(format!(
                "the registry sends us to {}, an address that nobody is sent to; nothing was sent there",
                origin(&url)
            )));
        }
        let mut request = self.elsewhere(doing)?.get(url.clone());
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        }
        Ok((
            url,
            match self.bounded(request.send(), None).await {
                Ok(Ok(answer)) => Tried::Answer(answer),
                Ok(Err(error)) if is_guarded(&error) => return Err(refused(reasons(&error))),
                Ok(Err(error)) => Tried::Broken(reasons(&error)),
                Err(silence) => Tried::Broken(silence),
            },
        ))
    }

    /// The next piece of an answer's body, or `None` at its end.
    pub(crate) async fn piece(&self, answer: &mut Response) -> Result<Option<Bytes>, String> {
        // Time that runs while nothing comes is a stall; a counter that never moves says so.
        let still = AtomicU64::new(0);
        self.bounded(answer.chunk(), Some(&still)).await?.map_err(|error| reasons(&error))
    }

    /// The whole body of a small answer; a longer one is refused, whatever length it announced.
    pub(crate) async fn read_bounded(&self, mut answer: Response, most: u64, doing: &Doing<'_>) -> Result<Bytes> {
        let too_long = || doing.failed(format!("the answer is longer than {most} bytes"), Class::Integrity);
        if answer.content_length().is_some_and(|length| length > most) {
            return Err(too_long());
        }
        let mut bytes = BytesMut::new();
        loop {
            let piece = self.piece(&mut answer).await.map_err(|cause| doing.failed(cause, Class::Unavailable))?;
            let Some(piece) = piece else { return Ok(bytes.freeze()) };
            if bytes.len() as u64 + piece.len() as u64 > most {
                return Err(too_long());
            }
            bytes.extend_from_slice(&piece);
        }
    }

    /// An answer that is not the one that was hoped for, as an error with the registry's own words.
    pub(crate) async fn refusal(&self, doing: &Doing<'_>, answer: Response) -> crate::Error {
        let status = answer.status();
        let class = match status {
            status if is_refusal(status) => Class::NotPermitted,
            StatusCode::NOT_FOUND => Class::NotFound,
            status if status.is_redirection() => {
                // Only the origin: the rest may hold a signature.
                let to = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                let to =
                    to.and_then(|text| answer.url().join(text).ok()).map_or_else(|| "?".to_owned(), |url| origin(&url));
                let cause = format!("the registry sends us elsewhere ({to}), which is only followed for blobs");
                return doing.failed(cause, Class::Integrity);
            }
            _ => Class::Unavailable,
        };
        let said = self.said(answer).await;
        let separator = if said.is_empty() { "" } else { ": " };
        doing.failed(format!("the registry answers {status}{separator}{said}"), class)
    }

    /// The beginning of an error's body, on one line.
    async fn said(&self, mut answer: Response) -> String {
        let mut text = Vec::new();
        while text.len() < 400 {
            match self.piece(&mut answer).await {
                Ok(Some(piece)) => text.extend_from_slice(&piece),
                _ => break,
            }
        }
        let line: String =
            String::from_utf8_lossy(&text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        line.trim().chars().take(300).collect()
    }
}

/// What all clients of a session have in common.
fn clients(repository: &Repository, access: &Access) -> ClientBuilder {
    let builder = Client::builder();
    // As Go's clients do: what is on this machine is not asked for through a proxy.
    let builder = if repository.is_loopback() { builder.no_proxy() } else { builder };
    builder
        .redirect(Policy::none())
        .connect_timeout(access.patience.connect)
        .pool_max_idle_per_host(super::TOGETHER * 2)
        .tcp_nodelay(true)
        .referer(false)
        .user_agent(concat!("sealift/", env!("CARGO_PKG_VERSION")))
}

fn form_encoded(pairs: &[(&str, &str)]) -> String {
    let Ok(mut url) = Url::parse("http://form.invalid/") else { return String::new() };
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

/// A header that no log shows.
fn secret_header(text: &str, doing: &Doing<'_>) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| doing.failed("the credentials hold letters that no header can have", Class::NotPermitted))?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_same(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
        && other.username().is_empty()
        && other.password().is_none()
}

/// Scheme, host and port: the part of an address that holds no signature or token.
pub(crate) fn origin(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or("?"))
}

pub(crate) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// `Retry-After`, in seconds or as a date.
pub(crate) fn wished_wait(answer: &Response) -> Option<Duration> {
    let text = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(until.duration_since(jiff::Timestamp::now())).unwrap_or_default())
}

/// The address that a URL names itself, without a resolver.
fn literal(url: &Url) -> Option<IpAddr> {
    let name = url.host_str()?.trim_end_matches('.');
    // RFC 6761: whatever a resolver or a proxy would say.
    if name == "localhost" || name.ends_with(".localhost") {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    name.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Addresses that no registry may send us to: those where a cloud keeps its machine's keys, those of no machine, and this
/// machine, unless the registry is on it.
fn is_forbidden(address: IpAddr, loopback: bool) -> bool {
    let address = address.to_canonical();
    let special = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => {
            // fd00:ec2::254 is the same service by its other name.
            address.is_unicast_link_local() || address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
        }
    };
    special || address.is_unspecified() || address.is_multicast() || (address.is_loopback() && !loopback)
}

/// Resolves names, and refuses those that resolve to a forbidden address.
struct Guard {
    loopback: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{name} resolves to {address}, an address that nobody is sent to; nothing was sent there")]
struct Guarded {
    name: String,
    address: IpAddr,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let loopback = self.loopback;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if let Some(bad) = found.iter().find(|address| is_forbidden(address.ip(), loopback)) {
                return Err(Guarded { name: name.as_str().to_owned(), address: bad.ip() }.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether an error is of the guard, and asking again is useless.
fn is_guarded(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<Guarded>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    async fn session(repository: &str, insecure: bool) -> Session {
        let to = Destination { repository: repository.to_owned(), insecure };
        Session::open(&to, Purpose::Read, Vec::new(), &Access::anonymous()).await.unwrap()
    }

    #[tokio::test]
    async fn what_others_took_does_not_count() {
        let session = session("reg.example/wine", false).await;
        let patience = session.access.patience;
        let late = Instant::now();
        *session.deadline.lock().unwrap() = late;
        session.allow(0);
        assert!(session.deadline() >= late + patience.total);
        let before = session.deadline();
        session.allow(100 * patience.slowest);
        assert!(session.deadline() >= before + Duration::from_secs(100));
    }

    #[tokio::test]
    async fn credentials_go_to_the_registry_and_to_a_token_server_that_may_have_them() {
        let secure = session("reg.example/wine", false).await;
        let insecure = session("reg.example/wine", true).await;
        let url = |text: &str| Url::parse(text).unwrap();
        for good in ["https://auth.example/token", "https://reg.example/token"] {
            assert_eq!(secure.trust_realm(&url(good)), Ok(()), "{good}");
            assert_eq!(insecure.trust_realm(&url(good)), Ok(()), "{good}");
        }
        for http in ["http://reg.example/token", "http://reg.example:5001/token"] {
            assert!(secure.trust_realm(&url(http)).is_err(), "{http}");
            assert_eq!(insecure.trust_realm(&url(http)), Ok(()), "{http}");
        }
        for bad in
            ["http://auth.example/token", "ftp://reg.example/", "https://169.254.169.254/x", "https://[fe80::1]/"]
        {
            assert!(secure.trust_realm(&url(bad)).is_err(), "{bad}");
            assert!(insecure.trust_realm(&url(bad)).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn only_the_registry_itself_is_its_own() {
        let session = session("reg.example:5000/wine", false).await;
        let doing = Doing { action: "test", what: "it".to_owned() };
        let from = session.url("blobs/uploads/");
        for good in ["/v2/wine/blobs/uploads/1?_state=x", "https://reg.example:5000/elsewhere", "relative"] {
            assert!(session.own(&from, good, &doing).is_ok(), "{good}");
        }
        for bad in [
            "http://reg.example:5000/v2/x",
            "https://reg.example/v2/x",
            "https://evil.example/v2/x",
            "//evil.example/v2/x",
            "https://reg.example:5000@evil.example/",
            "https://u:p@reg.example:5000/",
            "file:///etc/passwd",
        ] {
            let error = session.own(&from, bad, &doing).unwrap_err();
            assert_eq!(error.class(), Class::Integrity, "{bad}");
        }
    }

    #[test]
    fn forbidden_addresses_are_known_in_every_disguise() {
        for text in [
            "169.254.169.254",
            "fe80::1",
            "::ffff:169.254.1.1",
            "fd00:ec2::254",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(is_forbidden(text.parse().unwrap(), true), "{text}");
        }
        for text in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_forbidden(text.parse().unwrap(), false) && !is_forbidden(text.parse().unwrap(), true), "{text}");
        }
        assert!(!is_forbidden("10.0.0.1".parse().unwrap(), false));
        // The URL parser knows the old forms of an address too.
        for text in ["http://0x7f.1/", "http://2130706433/", "http://[::1]/"] {
            assert!(literal(&Url::parse(text).unwrap()).unwrap().is_loopback(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_refused_for_a_registry_elsewhere() {
        let session = Arc::new(session("reg.example/wine", true).await);
        let doing = Doing { action: "read a blob", what: "it".to_owned() };
        let from = session.url("blobs/x");
        let error = session.follow(&from, "http://localhost:1/x", 0, &doing).await.err().unwrap();
        assert!(error.to_string().contains("nobody is sent to"), "{error}");
        assert_eq!(error.class(), Class::Integrity);
    }
}
