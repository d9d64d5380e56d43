//! A load on any S3 server, in the manner of warp: one operation, one size, so many connections, so many seconds.
//!
//! ```text
//! load ENDPOINT BUCKET KEY SECRET OPERATION SIZE CONNECTIONS SECONDS [OBJECTS] [PAYLOAD]
//! load http://127.0.0.1:9000 bucket key secret put 4096 16 5
//! ```
//!
//! OPERATION is `put`, `get`, `head`, `list` or `delete` (each deletes what it put before, untimed). Requests are signed with
//! SigV4; PAYLOAD `signed` (as s5cmd and the SDKs sign over plain HTTP) or `unsigned` (as over TLS). Keys go around OBJECTS names, so
//! that a disk does not fill up. It spends as little as it can on itself: a thread and a connection each, no client library.
//!
//! It never counts an answer that is not 2xx or whose body has another length than was put: those end the run.

// An example prints, and ends at the first thing that is wrong.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use sha2::{Digest as _, Sha256};
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[derive(Clone)]
struct Settings {
    host: String,
    bucket: String,
    key: String,
    secret: String,
    operation: String,
    size: usize,
    connections: usize,
    seconds: u64,
    objects: usize,
    signed: bool,
}

impl Settings {
    fn read() -> Self {
        let given: Vec<String> = std::env::args().skip(1).collect();
        assert!(
            given.len() >= 8,
            "load ENDPOINT BUCKET KEY SECRET OPERATION SIZE CONNECTIONS SECONDS [OBJECTS] [PAYLOAD]"
        );
        let size = given[5].parse().unwrap();
        let usual = if size >= 1 << 20 { 16 } else { 2000 };
        Self {
            host: given[0].trim_start_matches("http://").trim_end_matches('/').to_owned(),
            bucket: given[1].clone(),
            key: given[2].clone(),
            secret: given[3].clone(),
            operation: given[4].clone(),
            size,
            connections: given[6].parse().unwrap(),
            seconds: given[7].parse().unwrap(),
            objects: given.get(8).map_or(usual, |objects| objects.parse().unwrap()),
            signed: given.get(9).is_none_or(|payload| payload == "signed"),
        }
    }
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

/// Year, month, day of a day since 1970 (Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

fn stamp() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// One connection.
struct Client {
    settings: Settings,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn new(settings: &Settings) -> Self {
        let stream = TcpStream::connect(&settings.host).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { settings: settings.clone(), stream, buffer: vec![0; 1 << 20] }
    }

    fn head(&self, method: &str, path: &str, query: &str, payload: &str, length: usize) -> String {
        let (time, it) = (stamp(), &self.settings);
        let day = &time[..8];
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{}\nx-amz-content-sha256:{payload}\nx-amz-date:{time}\n\nhost;x-amz-content-sha256;x-amz-date\n{payload}",
            it.host
        );
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        let digest = hex::encode(Sha256::digest(canonical));
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}");
        let mut key = hmac(format!("AWS4{}", it.secret).as_bytes(), day.as_bytes());
        for part in ["us-east-1", "s3", "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        let signature = hex::encode(hmac(&key, to_sign.as_bytes()));
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        format!(
            "{method} {target} HTTP/1.1\r\nhost: {}\r\nx-amz-content-sha256: {payload}\r\nx-amz-date: {time}\r\ncontent-length: {length}\r\nauthorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}\r\n\r\n",
            it.host, it.key
        )
    }

    /// One request; the length of the answer's body.
    fn call(&mut self, method: &str, path: &str, query: &str, body: &[u8], payload: &str) -> usize {
        let mut head = self.head(method, path, query, payload, body.len()).into_bytes();
        if body.len() <= 1 << 16 {
            head.extend_from_slice(body);
            self.stream.write_all(&head).unwrap();
        } else {
            self.stream.write_all(&head).unwrap();
            self.stream.write_all(body).unwrap();
        }
        let (mut have, end) = (0, b"\r\n\r\n");
        let behind = loop {
            let got = self.stream.read(&mut self.buffer[have..]).unwrap();
            assert!(got > 0, "the server closed the connection");
            have += got;
            if let Some(at) = self.buffer[..have].windows(4).position(|window| window == end) {
                break at + 4;
            }
        };
        let text = String::from_utf8_lossy(&self.buffer[..behind]).to_ascii_lowercase();
        let status: u16 = text.split(' ').nth(1).unwrap().parse().unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let wanted = field("content-length:").map(|length| length.parse::<usize>().unwrap());
        assert!((200..300).contains(&status), "{text}{}", String::from_utf8_lossy(&self.buffer[behind..have]));
        let body = have - behind;
        if method == "HEAD" || status == 204 {
            return 0;
        }
        let Some(wanted) = wanted else { return self.chunked(behind, have) };
        let mut left = wanted - body;
        while left > 0 {
            let room = left.min(self.buffer.len());
            let got = self.stream.read(&mut self.buffer[..room]).unwrap();
            assert!(got > 0, "the server closed the connection in a body");
            left -= got;
        }
        wanted
    }

    /// Reads a chunked body to its end, for listings, which fit the buffer.
    fn chunked(&mut self, behind: usize, mut have: usize) -> usize {
        while !self.buffer[behind..have].ends_with(b"0\r\n\r\n") {
            let got = self.stream.read(&mut self.buffer[have..]).unwrap();
            assert!(got > 0, "the server closed the connection in a body");
            have += got;
        }
        have - behind
    }

    fn operate(&mut self, operation: &str, number: usize, body: &[u8], payload: &str) {
        let path = format!("/{}/load/{:02}/{number:06}", self.settings.bucket, number % 16);
        match operation {
            "put" => {
                self.call("PUT", &path, "", body, payload);
            }
            "get" => assert_eq!(self.call("GET", &path, "", &[], EMPTY), self.settings.size),
            "head" => assert_eq!(self.call("HEAD", &path, "", &[], EMPTY), 0),
            "delete" => assert_eq!(self.call("DELETE", &path, "", &[], EMPTY), 0),
            "list" => {
                let path = format!("/{}", self.settings.bucket);
                self.call("GET", &path, "list-type=2&prefix=load%2F", &[], EMPTY);
            }
            other => panic!("no operation {other}"),
        }
    }
}

/// Runs one operation over and over on every connection; the latencies.
fn run(settings: &Settings, operation: &str, only: Option<usize>, body: &Arc<Vec<u8>>) -> (Vec<Duration>, Duration) {
    let payload = if settings.signed { hex::encode(Sha256::digest(&**body)) } else { "UNSIGNED-PAYLOAD".to_owned() };
    let start = Arc::new(Barrier::new(settings.connections + 1));
    let workers: Vec<_> = (0..settings.connections)
        .map(|worker| {
            let (settings, operation, payload) = (settings.clone(), operation.to_owned(), payload.clone());
            let (body, start) = (body.clone(), start.clone());
            thread::spawn(move || {
                let mut client = Client::new(&settings);
                let mut took = Vec::new();
                start.wait();
                let begun = Instant::now();
                let mut number = worker;
                while only.map_or(begun.elapsed().as_secs() < settings.seconds, |count| number < count) {
                    let one = Instant::now();
                    client.operate(&operation, number % settings.objects, &body, &payload);
                    took.push(one.elapsed());
                    number += settings.connections;
                }
                took
            })
        })
        .collect();
    start.wait();
    let begun = Instant::now();
    let mut all: Vec<Duration> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    all.sort_unstable();
    (all, begun.elapsed())
}

fn main() {
    let settings = Settings::read();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let body: Arc<Vec<u8>> = Arc::new(noise.flatten().take(settings.size).collect());
    if settings.operation != "put" {
        run(&settings, "put", Some(settings.objects), &body);
    }
    let only = (settings.operation == "delete").then_some(settings.objects);
    let (took, elapsed) = run(&settings, &settings.operation, only, &body);
    let per_second = took.len() as f64 / elapsed.as_secs_f64();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)].as_secs_f64() * 1000.0;
    println!(
        "{} {} x{}: {per_second:.0} ops/s, {:.1} MB/s; ms: median {:.2}, 90% {:.2}, 99% {:.2}, longest {:.2}; {} requests in {:.1} s",
        settings.operation,
        settings.size,
        settings.connections,
        per_second * settings.size as f64 / 1e6,
        at(50),
        at(90),
        at(99),
        at(100),
        took.len(),
        elapsed.as_secs_f64(),
    );
}
