//! A proxy before an S3 server that does one thing wrong: the fault proxy of `FAULTS.md`.
//!
//! It passes whole HTTP/1.1 requests on, one a connection, until a request comes that the armed [`Fault`] can be done to and
//! that is the k-th of these; then it does it, once or from there on. Everything that passed is remembered, so that a
//! campaign knows whether the fault struck at all and, when it did not, that every k was tried.
//!
//! It never changes a request that no fault is meant for, and it never answers in the server's place unless that is the
//! fault. What the client holds back, it waits for no longer than [`PATIENCE`].

use crate::campaign::Random;
use rustix::net::sockopt::set_socket_linger;
use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Result, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long the proxy holds a connection that stalls, at most.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// 500 InternalError, without asking the server.
    Internal,
    /// 503 SlowDown, without asking the server.
    SlowDown,
    /// 429 with `Retry-After: 1`, without asking the server.
    TooMany,
    /// `200 OK` whose body is an `<Error>`, without asking the server.
    ErrorInOk,
    /// The server's answer ends at a random byte of its body.
    Truncated,
    /// The answer's `Content-Length` is one more than its body has.
    WrongLength,
    /// One bit of an object's body is flipped on the way to the client.
    FlippedDown,
    /// One bit of a request's body is flipped on the way to the server.
    FlippedUp,
    /// The answer stops at a random byte of its body, and nothing more comes.
    Stalled,
    /// The request is taken and never answered.
    Silent,
    /// The answer comes at one byte a second.
    Trickle,
    /// The connection is reset before the request reaches the server.
    ResetBefore,
    /// The connection is reset after the server has done what was asked: the answer is lost.
    ResetAfter,
    /// A conditional write is answered 409 at first, and when it is sent again it is done and answered 412.
    Conflict,
    /// The network goes away in the middle of this request, and stays away until the proxy is disarmed.
    Cut,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Internal,
        Self::SlowDown,
        Self::TooMany,
        Self::ErrorInOk,
        Self::Truncated,
        Self::WrongLength,
        Self::FlippedDown,
        Self::FlippedUp,
        Self::Stalled,
        Self::Silent,
        Self::Trickle,
        Self::ResetBefore,
        Self::ResetAfter,
        Self::Conflict,
        Self::Cut,
    ];

    /// Whether it can be done to this request; what needs an answer with a body is asked again when that is known.
    fn suits(self, request: &Request) -> bool {
        match self {
            Self::FlippedUp => request.method == "PUT" && !request.body.is_empty(),
            Self::FlippedDown => request.method == "GET" && request.of_object(),
            Self::Truncated | Self::WrongLength | Self::Stalled | Self::Trickle => request.method == "GET",
            Self::ErrorInOk => request.method != "HEAD" && request.method != "DELETE",
            Self::Conflict => request.conditional(),
            _ => true,
        }
    }

    /// Whether the server is asked before it is done.
    fn after_the_answer(self) -> bool {
        matches!(
            self,
            Self::Truncated | Self::WrongLength | Self::Stalled | Self::Trickle | Self::FlippedDown | Self::ResetAfter
        )
    }
}

/// Which requests are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// All that the fault can be done to.
    All,
    /// Of these, writes with `If-Match` or `If-None-Match`.
    Conditional,
    /// Of these, what belongs to uploads in parts.
    Multipart,
}

/// What is armed.
#[derive(Debug, Clone, Copy)]
struct Plan {
    fault: Fault,
    among: Among,
    nth: u64,
    lasting: bool,
}

/// What passed since the proxy was armed.
#[derive(Debug, Clone, Default)]
pub struct Passed {
    /// Every request: method and target.
    pub requests: Vec<String>,
    /// Those that the fault was done to.
    pub struck: Vec<String>,
}

#[derive(Debug)]
struct State {
    to: u16,
    plan: Option<Plan>,
    seen: u64,
    cut: bool,
    /// The target whose next attempt is answered 412.
    conflicted: Option<String>,
    random: Random,
    passed: Passed,
}

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Before the server at `port` of this host; positions in bodies follow from the seed.
    pub fn before(port: u16, random: Random) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap_or_else(|error| panic!("no port: {error}"));
        let own = listener.local_addr().map_or(0, |address| address.port());
        let state = Arc::new(Mutex::new(State {
            to: port,
            plan: None,
            seen: 0,
            cut: false,
            conflicted: None,
            random,
            passed: Passed::default(),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (state.clone(), stop.clone());
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let (state, stopped) = (shared.clone(), stopped.clone());
                // A connection that breaks is what the client has to cope with.
                thread::spawn(move || drop(pass(client, &state, &stopped)));
            }
        });
        Self { port: own, state, stop, thread: Some(thread) }
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The server is at another port from now on.
    pub fn lead_to(&self, port: u16) {
        lock(&self.state).to = port;
    }

    /// Does `fault` to the `nth` request (from 1) of those that it is for, or to that one and all that follow.
    pub fn arm(&self, fault: Fault, among: Among, nth: u64, lasting: bool) {
        let mut state = lock(&self.state);
        state.plan = Some(Plan { fault, among, nth, lasting });
        state.seen = 0;
        state.conflicted = None;
        state.passed = Passed::default();
    }

    /// How often the fault was done since the proxy was armed.
    pub fn struck(&self) -> usize {
        lock(&self.state).passed.struck.len()
    }

    /// Passes everything on again; what passed since it was armed, or since the last time this was asked.
    pub fn disarm(&self) -> Passed {
        let mut state = lock(&self.state);
        state.plan = None;
        state.cut = false;
        state.seen = 0;
        std::mem::take(&mut state.passed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A request, read whole.
struct Request {
    method: String,
    target: String,
    head: Vec<String>,
    body: Vec<u8>,
}

impl Request {
    fn value(head: &[String], name: &str) -> Option<String> {
        head.iter().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    /// Reads one; `None` when the client has no more.
    fn read(client: &TcpStream) -> Result<Option<Self>> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let first = head.first().cloned().unwrap_or_default();
        let mut words = first.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if Self::value(&head, "expect").is_some() {
            (&*client).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        assert!(Self::value(&head, "transfer-encoding").is_none(), "the proxy does not read chunked requests: {first}");
        let length = Self::value(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(Some(Self { method: method.to_owned(), target: target.to_owned(), head, body }))
    }

    fn shown(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// Whether an object is meant, rather than a bucket: `/bucket/key`.
    fn of_object(&self) -> bool {
        let path = self.target.split('?').next().unwrap_or_default();
        path.trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty())
    }

    fn conditional(&self) -> bool {
        let carries = |name| Self::value(&self.head, name).is_some();
        matches!(self.method.as_str(), "PUT" | "POST") && (carries("if-match") || carries("if-none-match"))
    }

    fn multipart(&self) -> bool {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        query.split('&').any(|part| part.starts_with("uploadId=") || part == "uploads" || part.starts_with("uploads="))
    }

    /// As it goes to the server, which is to close the connection after its answer.
    fn bytes(&self) -> Vec<u8> {
        let dropped = |line: &&String| {
            let name = line.split(':').next().unwrap_or_default();
            !["connection", "expect"].iter().any(|dropped| name.eq_ignore_ascii_case(dropped))
        };
        let head: Vec<&str> = self.head.iter().filter(dropped).map(String::as_str).collect();
        let mut bytes = format!("{}\r\nconnection: close\r\n\r\n", head.join("\r\n")).into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The server's answer: head lines and body.
struct Answer {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: Vec<u8>) -> Result<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        Ok(Self { head: head.split("\r\n").map(str::to_owned).collect(), body: bytes[end + 4..].to_vec() })
    }

    fn good(&self) -> bool {
        self.head.first().and_then(|line| line.split(' ').nth(1)).is_some_and(|code| code.starts_with('2'))
    }

    /// The head with another length, or its own.
    fn head_bytes(&self, length: Option<usize>) -> Vec<u8> {
        let kept = |line: &&String| {
            let name = line.split(':').next().unwrap_or_default();
            !name.eq_ignore_ascii_case("connection")
                && (length.is_none() || !name.eq_ignore_ascii_case("content-length"))
        };
        let mut lines: Vec<String> = self.head.iter().filter(kept).cloned().collect();
        lines.extend(length.map(|length| format!("content-length: {length}")));
        lines.push("connection: close".to_owned());
        format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
    }
}

/// What happens to this request, by the plan: nothing, or the fault. Called once before the server is asked and, for faults
/// that need an answer, once after.
fn strikes(state: &Mutex<State>, request: &Request, answer: Option<&Answer>) -> Option<Fault> {
    let mut state = lock(state);
    let plan = state.plan?;
    if plan.fault.after_the_answer() != answer.is_some() || !plan.fault.suits(request) {
        return None;
    }
    let counted = match plan.among {
        Among::All => true,
        Among::Conditional => request.conditional(),
        Among::Multipart => request.multipart(),
    };
    if !counted {
        return None;
    }
    let needs_body = plan.fault != Fault::ResetAfter;
    if answer.is_some_and(|answer| needs_body && (!answer.good() || answer.body.len() < 2)) {
        return None;
    }
    state.seen += 1;
    if state.seen != plan.nth && !(plan.lasting && state.seen > plan.nth) {
        return None;
    }
    state.passed.struck.push(request.shown());
    match plan.fault {
        Fault::Cut => state.cut = true,
        Fault::Conflict => state.conflicted = Some(request.target.clone()),
        _ => {}
    }
    Some(plan.fault)
}

/// The next close of this connection is a reset.
fn reset(stream: &TcpStream) {
    // What cannot be reset is closed, which is a fault as well.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Read);
}

fn pass(client: TcpStream, state: &Mutex<State>, stopped: &AtomicBool) -> Result<()> {
    client.set_nodelay(true)?;
    if lock(state).cut {
        reset(&client);
        return Ok(());
    }
    let Some(mut request) = Request::read(&client)? else { return Ok(()) };
    lock(state).passed.requests.push(request.shown());
    let to = lock(state).to;
    let conflicted = lock(state).conflicted.take_if(|target| *target == request.target).is_some();
    match strikes(state, &request, None) {
        Some(Fault::Internal) => return refuse(&client, 500, "InternalError", ""),
        Some(Fault::SlowDown) => return refuse(&client, 503, "SlowDown", ""),
        Some(Fault::TooMany) => return refuse(&client, 429, "TooManyRequests", "retry-after: 1\r\n"),
        Some(Fault::ErrorInOk) => return refuse(&client, 200, "InternalError", ""),
        Some(Fault::Conflict) if !conflicted => return refuse(&client, 409, "ConditionalRequestConflict", ""),
        Some(Fault::ResetBefore) => {
            reset(&client);
            return Ok(());
        }
        Some(Fault::Silent) => return hold(&client, stopped, None),
        Some(Fault::Cut) => {
            let bytes = request.bytes();
            let server = TcpStream::connect(("127.0.0.1", to))?;
            (&server).write_all(&bytes[..bytes.len() - request.body.len().div_ceil(2)])?;
            reset(&server);
            reset(&client);
            return Ok(());
        }
        Some(Fault::FlippedUp) => {
            let at = lock(state).random.below(request.body.len() as u64 * 8);
            request.body[(at / 8) as usize] ^= 1 << (at % 8);
        }
        _ => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", to))?;
    server.set_nodelay(true)?;
    server.write_all(&request.bytes())?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let mut answer = Answer::parse(answer)?;
    if conflicted {
        return refuse(&client, 412, "PreconditionFailed", "");
    }
    let fault = strikes(state, &request, Some(&answer));
    let some = fault.map_or(0, |_| lock(state).random.below(answer.body.len() as u64) as usize);
    match fault {
        Some(Fault::ResetAfter) => {
            reset(&client);
            return Ok(());
        }
        Some(Fault::Truncated) => {
            (&client).write_all(&answer.head_bytes(None))?;
            (&client).write_all(&answer.body[..some])?;
            return client.shutdown(Shutdown::Both);
        }
        Some(Fault::WrongLength) => {
            (&client).write_all(&answer.head_bytes(Some(answer.body.len() + 1)))?;
            (&client).write_all(&answer.body)?;
            return client.shutdown(Shutdown::Both);
        }
        Some(Fault::Stalled) => {
            (&client).write_all(&answer.head_bytes(None))?;
            (&client).write_all(&answer.body[..some])?;
            return hold(&client, stopped, None);
        }
        Some(Fault::Trickle) => {
            (&client).write_all(&answer.head_bytes(None))?;
            return hold(&client, stopped, Some(&answer.body));
        }
        Some(Fault::FlippedDown) => {
            let at = lock(state).random.below(answer.body.len() as u64 * 8);
            answer.body[(at / 8) as usize] ^= 1 << (at % 8);
        }
        _ => {}
    }
    (&client).write_all(&answer.head_bytes(None))?;
    (&client).write_all(&answer.body)?;
    client.shutdown(Shutdown::Both)
}

/// Answers in the server's place.
fn refuse(mut client: &TcpStream, status: u16, code: &str, more: &str) -> Result<()> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>the fault proxy says so</Message>\
         <RequestId>1</RequestId></Error>"
    );
    let head = format!(
        "HTTP/1.1 {status} Fault\r\ncontent-type: application/xml\r\n{more}connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes())?;
    client.write_all(body.as_bytes())?;
    client.shutdown(Shutdown::Both)
}

/// Keeps the connection until the client leaves it; meanwhile sends a byte of `body` a second.
fn hold(mut client: &TcpStream, stopped: &AtomicBool, body: Option<&[u8]>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut rest = body.unwrap_or_default().iter();
    let mut next = Instant::now();
    client.set_read_timeout(Some(Duration::from_millis(100)))?;
    while Instant::now() < until && !stopped.load(Ordering::SeqCst) {
        if Instant::now() >= next
            && let Some(byte) = rest.next()
        {
            client.write_all(&[*byte])?;
            next += Duration::from_secs(1);
        }
        match client.read(&mut [0; 1]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that counts what reaches it and answers every request the same.
    fn server(bodies: Arc<Mutex<Vec<Vec<u8>>>>) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(Some(request)) = Request::read(&client) else { continue };
                bodies.lock().expect("no panic").push(request.body);
                let _ = (&client).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789");
            }
        });
        port
    }

    fn ask(proxy: &Proxy, first: &str, head: &str, body: &[u8]) -> (String, Result<usize>) {
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).expect("the proxy listens");
        stream.set_read_timeout(Some(Duration::from_millis(400))).expect("a timeout");
        let head = format!("{first} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{head}\r\n", body.len());
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        (String::from_utf8_lossy(&answer).into_owned(), read)
    }

    /// Whether the answer is there up to some byte, and not whole.
    fn short(text: &str) -> bool {
        text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() < 10 && "0123456789".starts_with(body))
    }

    #[test]
    fn each_fault_strikes_its_request_and_no_other() {
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let proxy = Proxy::before(server(bodies.clone()), Random::new(1, 1));
        let get = |proxy: &Proxy| ask(proxy, "GET /b/k", "", b"");
        let put = |proxy: &Proxy| ask(proxy, "PUT /b/k", "if-none-match: *\r\n", b"abcdef");
        for fault in Fault::ALL {
            bodies.lock().expect("no panic").clear();
            proxy.arm(fault, Among::All, 2, false);
            let by_put = matches!(fault, Fault::FlippedUp | Fault::Conflict);
            let one = |proxy: &Proxy| if by_put { put(proxy) } else { get(proxy) };
            assert!(one(&proxy).0.ends_with("0123456789"), "{fault:?} struck the first");
            let (text, read) = one(&proxy);
            let reached = bodies.lock().expect("no panic").clone();
            match fault {
                Fault::Internal => assert!(text.starts_with("HTTP/1.1 500 ") && text.contains("InternalError")),
                Fault::SlowDown => assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("SlowDown")),
                Fault::TooMany => assert!(text.starts_with("HTTP/1.1 429 ") && text.contains("retry-after: 1")),
                Fault::ErrorInOk => assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("<Error>")),
                Fault::Truncated => assert!(short(&text) && text.contains("content-length: 10")),
                Fault::WrongLength => assert!(text.ends_with("0123456789") && text.contains("content-length: 11")),
                Fault::FlippedDown => assert!(text.contains("content-length: 10") && !text.ends_with("0123456789")),
                Fault::FlippedUp => assert!(reached[1].len() == 6 && reached[1] != b"abcdef"),
                Fault::Stalled => assert!(short(&text) && read.is_err()),
                Fault::Trickle => assert!(text.ends_with("\r\n\r\n0") && read.is_err()),
                Fault::Silent => assert!(text.is_empty() && read.is_err()),
                Fault::ResetBefore | Fault::ResetAfter | Fault::Cut => assert!(text.is_empty()),
                Fault::Conflict => {
                    assert!(text.starts_with("HTTP/1.1 409 "), "{text}");
                    assert!(one(&proxy).0.starts_with("HTTP/1.1 412 "));
                }
            }
            let server_asked = !matches!(
                fault,
                Fault::Internal
                    | Fault::SlowDown
                    | Fault::TooMany
                    | Fault::ErrorInOk
                    | Fault::Silent
                    | Fault::ResetBefore
            );
            if !matches!(fault, Fault::Cut | Fault::Conflict) {
                assert_eq!(bodies.lock().expect("no panic").len(), 1 + usize::from(server_asked), "{fault:?}");
                assert!(one(&proxy).0.ends_with("0123456789"), "{fault:?} struck the third");
            } else if fault == Fault::Cut {
                assert!(one(&proxy).0.is_empty(), "the network came back by itself");
            }
            assert_eq!(proxy.disarm().struck.len(), 1, "{fault:?}");
            assert!(one(&proxy).0.ends_with("0123456789"), "{fault:?} stayed");
            proxy.disarm();
        }
    }

    #[test]
    fn a_lasting_fault_strikes_until_it_is_taken_away() {
        let proxy = Proxy::before(server(Arc::default()), Random::new(1, 1));
        proxy.arm(Fault::Internal, Among::All, 2, true);
        let codes: Vec<bool> = (0..4).map(|_| ask(&proxy, "GET /b/k", "", b"").0.contains(" 500 ")).collect();
        assert_eq!(codes, [false, true, true, true]);
        let passed = proxy.disarm();
        assert_eq!((passed.requests.len(), passed.struck.len()), (4, 3));
        assert!(!ask(&proxy, "GET /b/k", "", b"").0.contains(" 500 "));
    }
}
