//! What a client may take of the embedded server, asked for with raw sockets and short limits.

#![allow(clippy::unwrap_used)]

mod raw;

use raw::{Client, Served};
use std::{
    io::{Read as _, Write as _},
    path::Path,
    time::{Duration, Instant},
};
use store::Limits;

const SHORT: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(20);

fn uploads_and_temporaries(directory: &Path) -> usize {
    let files = |path: std::path::PathBuf| std::fs::read_dir(path).unwrap().flatten().count();
    let sessions = std::fs::read_dir(directory.join("tmp")).unwrap().flatten();
    // Each session has its lock.
    sessions.map(|session| files(session.path()) - 1).sum::<usize>() + files(directory.join("uploads"))
}

/// Waits until nothing unfinished is left on the disk.
fn settles(directory: &Path) {
    let deadline = Instant::now() + LONG;
    while uploads_and_temporaries(directory) > 0 {
        assert!(Instant::now() < deadline, "a temporary stays");
        std::thread::yield_now();
    }
}

#[test]
fn a_head_must_come_and_a_connection_must_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path(), Limits { head_time: SHORT, ..Limits::default() });
    // Nothing, half a head, and nothing more after an answer.
    let mut silent = Client::new(served.address);
    let mut half = Client::new(served.address);
    half.stream.write_all(b"GET /sealift/a HTTP/1.1\r\nhost: te").unwrap();
    let mut idle = Client::new(served.address);
    assert_eq!(idle.call("GET", "/sealift/a", "", &[]).unwrap().code(), "NoSuchKey");
    for (what, client) in [("silent", &mut silent), ("half", &mut half), ("idle", &mut idle)] {
        assert!(client.is_closed_within(LONG), "the {what} one is closed");
    }
    // One that uses its connection keeps it for longer than that.
    let mut busy = Client::new(served.address);
    let begun = Instant::now();
    while begun.elapsed() < SHORT * 3 {
        assert_eq!(busy.call("HEAD", "/sealift/a", "", &[]).unwrap().status, 404);
    }
    served.end().unwrap();
}

#[test]
fn a_head_has_a_size_and_a_number_of_fields() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { head_bytes: 4096, head_fields: 20, ..Limits::default() };
    let served = Served::start(directory.path(), limits);
    let call = |headers: &str| Client::new(served.address).call("GET", "/sealift/a", headers, &[]).unwrap();
    assert_eq!(call(&format!("x-a: {}\r\n", "a".repeat(3000))).status, 404);
    assert_eq!(call(&format!("x-a: {}\r\n", "a".repeat(5000))).status, 431);
    assert_eq!(call(&"x-a: a\r\n".repeat(15)).status, 404);
    assert_eq!(call(&"x-a: a\r\n".repeat(30)).status, 431);
    served.end().unwrap();
}

#[test]
fn a_body_has_a_size() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path(), Limits { body_bytes: 1000, ..Limits::default() });
    let mut client = Client::new(served.address);
    assert_eq!(client.call("PUT", "/sealift/a", "", &[7; 1000]).unwrap().status, 200);
    // Refused for what is announced: the body is not sent at all.
    for (path, field) in
        [("/sealift/a", "content-length: 1001"), ("/sealift/a?partNumber=1&uploadId=0", "content-length: 1001")]
    {
        let mut client = Client::new(served.address);
        write!(client.stream, "PUT {path} HTTP/1.1\r\nhost: test\r\n{field}\r\n\r\n").unwrap();
        let answer = client.answer(false).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (400, "EntityTooLarge"), "{}", answer.text());
        assert!(client.is_closed_within(LONG));
    }
    // Refused for what comes, where nothing is announced.
    let mut client = Client::new(served.address);
    client.stream.write_all(b"PUT /sealift/a HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let chunk = format!("3e8\r\n{}\r\n", "b".repeat(1000));
    client.stream.write_all(chunk.repeat(2).as_bytes()).unwrap();
    let answer = client.answer(false).unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (400, "EntityTooLarge"), "{}", answer.text());
    let kept = Client::new(served.address).call("GET", "/sealift/a", "", &[]).unwrap();
    assert_eq!(kept.body, [7; 1000], "the old object is intact");
    settles(directory.path());
    served.end().unwrap();
}

#[test]
fn who_is_refused_while_sending_hears_why() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path(), Limits::default());
    let body = vec![7; 6 << 20];
    let mut client = Client::new(served.address);
    for round in 0..5 {
        // By its head, and by what it asks for.
        let tags = client.call("PUT", "/sealift/a", "x-amz-tagging: a=b\r\n", &body).unwrap();
        assert_eq!((tags.status, tags.code().as_str()), (501, "NotImplemented"), "{round}");
        let bucket = client.call("PUT", "/nothing/a?partNumber=1&uploadId=0", "", &body).unwrap();
        assert_eq!((bucket.status, bucket.code().as_str()), (404, "NoSuchBucket"), "{round}");
    }
    // One who asks for leave is refused at once, and sends nothing.
    let head = "PUT /sealift/a HTTP/1.1\r\nhost: test\r\nx-amz-tagging: a=b\r\nexpect: 100-continue\r\ncontent-length: 6000000\r\n\r\n";
    let mut polite = Client::new(served.address);
    polite.stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(polite.answer(false).unwrap().status, 501);
    settles(directory.path());
    served.end().unwrap();
}

#[test]
fn a_body_must_move() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { progress_time: SHORT, progress_bytes: 4096, ..Limits::default() };
    let served = Served::start(directory.path(), limits);
    let mut stalled = Client::new(served.address);
    stalled.stream.write_all(b"PUT /sealift/a HTTP/1.1\r\nhost: test\r\ncontent-length: 5000000\r\n\r\nbegun").unwrap();
    let answer = stalled.answer(false).unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (400, "RequestTimeout"), "{}", answer.text());
    assert!(stalled.is_closed_within(LONG));
    // Bytes now and then are not enough, whatever their number is in the end.
    let mut trickling = Client::new(served.address);
    trickling.stream.write_all(b"PUT /sealift/a HTTP/1.1\r\nhost: test\r\ncontent-length: 5000000\r\n\r\n").unwrap();
    let mut reader = trickling.again();
    let begun = Instant::now();
    let writing = std::thread::spawn(move || {
        while begun.elapsed() < LONG && trickling.stream.write_all(b"x").is_ok() {
            std::thread::park_timeout(SHORT / 10);
        }
        begun.elapsed()
    });
    let answer = reader.answer(false).unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (400, "RequestTimeout"), "{}", answer.text());
    assert!(reader.is_closed_within(LONG));
    assert!(writing.join().unwrap() < LONG, "it is cut off");
    // One that is slow, but moves, is served.
    let mut slow = Client::new(served.address);
    slow.stream.write_all(b"PUT /sealift/a HTTP/1.1\r\nhost: test\r\ncontent-length: 60000\r\n\r\n").unwrap();
    for _ in 0..12 {
        slow.stream.write_all(&[3; 5000]).unwrap();
        std::thread::park_timeout(SHORT / 5);
    }
    assert_eq!(slow.answer(false).unwrap().status, 200);
    settles(directory.path());
    served.end().unwrap();
}

#[test]
fn an_answer_must_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { progress_time: SHORT, progress_bytes: 4096, connections: 1, ..Limits::default() };
    let served = Served::start(directory.path(), limits);
    let large = vec![9; 32 << 20];
    let mut client = Client::new(served.address);
    assert_eq!(client.call("PUT", "/sealift/large", "", &large).unwrap().status, 200);
    client.send("GET", "/sealift/large", "", &[]).unwrap();
    // The only connection that there may be is held by one who does not read; another one is served once that is cut off.
    let mut next = Client::new(served.address);
    assert_eq!(next.call("HEAD", "/sealift/large", "", &[]).unwrap().status, 200);
    let mut all = Vec::new();
    let end = client.stream.read_to_end(&mut all);
    assert!(end.is_err() || all.len() < large.len(), "the answer is cut off");
    served.end().unwrap();
}

#[test]
fn connections_are_bounded_and_others_wait_their_turn() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path(), Limits { connections: 3, ..Limits::default() });
    let mut held: Vec<Client> = (0..3).map(|_| Client::new(served.address)).collect();
    for client in &mut held {
        assert_eq!(client.call("HEAD", "/sealift/a", "", &[]).unwrap().status, 404);
    }
    let mut waiting = Client::new(served.address);
    waiting.send("HEAD", "/sealift/a", "", &[]).unwrap();
    waiting.stream.set_read_timeout(Some(SHORT)).unwrap();
    waiting.answer(true).unwrap_err();
    drop(held.pop());
    waiting.stream.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(waiting.answer(true).unwrap().status, 404, "its turn has come");
    served.end().unwrap();
}

#[test]
fn a_key_that_others_write_for_too_long_is_503() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path(), Limits { lock_time: SHORT, ..Limits::default() });
    let mut client = Client::new(served.address);
    assert_eq!(client.call("PUT", "/sealift/a", "", b"old").unwrap().status, 200);
    // As another process would hold them: a lock belongs to the opened file.
    let locks: Vec<std::fs::File> = std::fs::read_dir(directory.path().join("locks"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().len() == 2)
        .map(|entry| std::fs::File::open(entry.path()).unwrap())
        .collect();
    for lock in &locks {
        lock.lock().unwrap();
    }
    let begun = Instant::now();
    let refused = client.call("PUT", "/sealift/a", "", b"new").unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (503, "ServiceUnavailable"), "{}", refused.text());
    let deleted = client.call("DELETE", "/sealift/a", "", &[]).unwrap();
    assert_eq!((deleted.status, deleted.code().as_str()), (503, "ServiceUnavailable"), "{}", deleted.text());
    assert!(begun.elapsed() >= SHORT * 2, "it waits its time");
    assert_eq!(client.call("GET", "/sealift/a", "", &[]).unwrap().body, b"old", "who reads does not wait");
    drop(locks);
    assert_eq!(client.call("PUT", "/sealift/a", "", b"new").unwrap().status, 200);
    settles(directory.path());
    served.end().unwrap();
}

/// Sends half of a body of eight bytes, once the server has begun to read it.
fn begin_to_put(client: &mut Client) {
    let head = "PUT /sealift/a HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\nexpect: 100-continue\r\n\r\n";
    client.stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(client.answer(true).unwrap().status, 100);
    client.stream.write_all(b"half").unwrap();
}

#[test]
fn it_drains() {
    let directory = tempfile::tempdir().unwrap();
    let mut served = Served::start(directory.path(), Limits::default());
    let mut idle = Client::new(served.address);
    assert_eq!(idle.call("HEAD", "/sealift/a", "", &[]).unwrap().status, 404);
    let mut under_way = Client::new(served.address);
    begin_to_put(&mut under_way);
    served.begin_to_stop();
    assert!(idle.is_closed_within(LONG), "idle connections are closed");
    let deadline = Instant::now() + LONG;
    while Client::try_new(served.address).is_ok_and(|mut client| client.call("HEAD", "/sealift/a", "", &[]).is_ok()) {
        assert!(Instant::now() < deadline, "new connections are refused");
    }
    assert!(!served.has_ended(), "a request is under way");
    under_way.stream.write_all(b" of ").unwrap();
    assert_eq!(under_way.answer(false).unwrap().status, 200, "it is finished");
    served.end().unwrap();
    let again = Served::start(directory.path(), Limits::default());
    let kept = Client::new(again.address).call("GET", "/sealift/a", "", &[]).unwrap();
    assert_eq!(kept.body, b"half of ");
    again.end().unwrap();
}

#[test]
fn a_drain_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let mut served = Served::start(directory.path(), Limits { drain_time: SHORT, ..Limits::default() });
    let mut stuck = Client::new(served.address);
    begin_to_put(&mut stuck);
    let begun = Instant::now();
    served.begin_to_stop();
    served.end().unwrap();
    assert!(begun.elapsed() < LONG);
    let left = std::fs::read_dir(directory.path().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "a clean end leaves nothing");
}

#[test]
fn a_signature_that_cannot_be_checked_is_refused_in_clear_words() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path(), Limits::default());
    let signed = "authorization: AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\nx-amz-date: 20260101T000000Z\r\n";
    let answer = Client::new(served.address).call("GET", "/sealift/a", signed, &[]).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("has no credentials"), "{}", answer.text());
    served.end().unwrap();
}

#[test]
fn what_is_said_of_the_decoded_length_lifts_no_limit() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path(), Limits { body_bytes: 2 << 20, ..Limits::default() });
    let mut client = Client::new(served.address);
    let head = "PUT /sealift/a HTTP/1.1\r\nhost: test\r\nx-amz-decoded-content-length: 2097152\r\ntransfer-encoding: chunked\r\n\r\n";
    client.stream.write_all(head.as_bytes()).unwrap();
    let piece = [b"100000\r\n", &vec![0; 1 << 20][..], b"\r\n"].concat();
    // What is refused may be read for a while, and is not kept.
    let mut sent = 0;
    while sent < 64 && client.stream.write_all(&piece).is_ok() {
        sent += 1;
        let kept: u64 = sizes(&directory.path().join("tmp"));
        assert!(kept < 8 << 20, "{kept} bytes are kept of at most 2 MiB");
    }
    assert!(sent < 64, "{sent} MiB were taken of at most 2");
    settles(directory.path());
    served.end().unwrap();
}

/// The bytes of all files below a folder.
fn sizes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => sizes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
