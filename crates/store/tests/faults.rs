//! The S3 client against a server that misbehaves: what its user gets, and when.
//!
//! The real client over a real socket; only the server is a script.

// Helpers of tests are tests, which the lint sees only in functions marked so.
#![allow(clippy::unwrap_used)]

mod scripted;

use bytes::Bytes;
use domain::Class;
use scripted::{Asked, Say, Scripted, answer, error, error_with, hasty, object, written};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::{Created, Digest, Error, Family, Location, Store, Swap};

/// It failed as unavailable, with these words, within this time.
#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, Error>, begun: Instant, within: f64, words: &[&str]) {
    let took = begun.elapsed().as_secs_f64();
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} in {error}");
    }
    assert!(took < within, "{took} s: {error}");
}

fn absent() -> Say {
    Say::Bytes(error(404, "NoSuchKey"))
}

#[tokio::test]
async fn an_internal_error_passes_or_is_told_with_the_number_of_attempts() {
    for failures in [2, usize::MAX] {
        let server = Scripted::start(move |asked| {
            Say::Bytes(if asked.number < failures { error(500, "InternalError") } else { object(b"well") })
        })
        .await;
        let (store, begun) = (server.store().await, Instant::now());
        let read = store.read("releases/a").await;
        if failures == 2 {
            assert_eq!(read.unwrap().unwrap().bytes, "well");
            assert_eq!(server.asked().len(), 3);
        } else {
            unavailable(read, begun, 2.0, &["answers 500 InternalError for releases/a", "4 times in"]);
            assert_eq!(server.asked().len(), 4);
        }
    }
}

#[tokio::test]
async fn slow_down_is_obeyed_for_conditional_writes_too() {
    for failures in [3, usize::MAX] {
        let server = Scripted::start(move |asked| {
            Say::Bytes(if asked.number < failures { error(503, "SlowDown") } else { written() })
        })
        .await;
        let (store, begun) = (server.store().await, Instant::now());
        let created = store.create("releases/a", Bytes::from("one")).await;
        if failures == 3 {
            // It said that it did nothing: no reading back was needed.
            assert_eq!(created.unwrap(), Created::New);
            assert_eq!(server.count("PUT", "/bucket/releases/a"), 4);
            assert_eq!(server.asked().len(), 4);
        } else {
            unavailable(created, begun, 3.0, &["is overloaded (503 SlowDown, releases/a)", "4 times in"]);
        }
    }
}

#[tokio::test]
async fn retry_after_is_waited_for_and_never_past_the_deadline() {
    let server = Scripted::start(|asked| match asked.number {
        0 => Say::Bytes(error_with(429, "TooManyRequests", "Retry-After: 1")),
        _ => Say::Bytes(object(b"well")),
    })
    .await;
    let (store, begun) = (server.store().await, Instant::now());
    assert_eq!(store.read("releases/a").await.unwrap().unwrap().bytes, "well");
    assert!(begun.elapsed() >= Duration::from_secs(1), "the server's second was kept");

    for asks in ["Retry-After: 3600", "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT"] {
        let server = Scripted::start(move |_| Say::Bytes(error_with(429, "TooManyRequests", asks))).await;
        let (store, begun) = (server.store().await, Instant::now());
        unavailable(store.read("releases/a").await, begun, 1.0, &["is overloaded (429 TooManyRequests, releases/a)"]);
        assert_eq!(server.asked().len(), 1, "nobody waits an hour within four seconds");
    }
}

#[tokio::test]
async fn a_success_whose_body_is_an_error_is_a_failure() {
    let server = Scripted::start(|_| Say::Bytes(error(200, "InternalError"))).await;
    let (store, begun) = (server.store().await, Instant::now());
    let bytes = Bytes::from("content");
    let put = store.put_bytes(Family::Blob, bytes).await;
    unavailable(put, begun, 3.0, &["does not say the size and entity tag", "4 times in"]);
    let begun = Instant::now();
    unavailable(
        store.create("releases/a", "a".into()).await,
        begun,
        6.0,
        &["answers 200 InternalError for releases/a"],
    );
    let begun = Instant::now();
    unavailable(store.read("releases/a").await, begun, 3.0, &["does not say the size and entity tag"]);
    let begun = Instant::now();
    unavailable(store.list("releases/").await, begun, 3.0, &["releases/", "4 times in"]);
    let begun = Instant::now();
    let (digest, file) = large(20 << 20);
    let put = store.put_file(Family::Pack, &digest, file.path(), None).await;
    unavailable(put, begun, 6.0, &["does not say the size and entity tag of packs/"]);
    // Neither an error nor an entity tag.
    let server = Scripted::start(|asked| match asked.method.as_str() {
        "PUT" => Say::Bytes(answer(200, "", "")),
        _ => absent(),
    })
    .await;
    let (store, begun) = (server.store().await, Instant::now());
    let created = store.create("releases/a", "a".into()).await;
    unavailable(created, begun, 3.0, &["answered a write of releases/a without an entity tag", "4 times in"]);
}

/// A file of zeros, to go up in parts.
fn large(size: u64) -> (Digest, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    (Digest::of(vec![0; usize::try_from(size).unwrap()]), file)
}

/// A store there with the patience that a part of 8 MiB needs on a machine that is busy.
async fn patient(server: &Scripted) -> Store {
    let settings = store::Settings { stall_timeout: Duration::from_secs(2), ..hasty() };
    Store::open_with(&server.location(), &settings).await.unwrap()
}

/// Answers an upload in parts well, except for what `otherwise` says.
async fn multipart(otherwise: impl Fn(&Asked) -> Option<Say> + Send + Sync + 'static) -> Scripted {
    Scripted::start(move |asked| {
        if let Some(say) = otherwise(asked) {
            return say;
        }
        let (method, target) = (asked.method.as_str(), asked.target.as_str());
        Say::Bytes(match method {
            "HEAD" => answer(404, "", ""),
            "POST" if target.ends_with("?uploads") => answer(
                200,
                "",
                "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>",
            ),
            "PUT" => written(),
            "DELETE" => answer(204, "", ""),
            _ => answer(200, "", "<CompleteMultipartUploadResult><ETag>\"one\"</ETag></CompleteMultipartUploadResult>"),
        })
    })
    .await
}

fn is_complete(asked: &Asked) -> bool {
    asked.method == "POST" && asked.target.contains("uploadId=id")
}

#[tokio::test]
async fn an_upload_that_is_not_completed_is_aborted() {
    let (digest, file) = large(20 << 20);
    // Completed with 200 and an error inside, for ever; and answered well, but nothing is there.
    for inside in [true, false] {
        let server =
            multipart(move |asked| (inside && is_complete(asked)).then(|| Say::Bytes(error(200, "InternalError"))))
                .await;
        let (store, begun) = (patient(&server).await, Instant::now());
        let put = store.put_file(Family::Pack, &digest, file.path(), None).await;
        let words = if inside { "InternalError" } else { "does not show packs/" };
        unavailable(put, begun, 6.0, &[words]);
        assert_eq!(server.count("PUT", "partNumber"), 3, "what was sent is not sent again");
        assert!(server.count("DELETE", "uploadId=id") >= 1, "it is aborted");
    }
}

#[tokio::test]
async fn only_the_part_that_failed_is_sent_again() {
    let (digest, file) = large(20 << 20);
    let failed = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let completed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (count, done) = (failed.clone(), completed.clone());
    let server = multipart(move |asked| {
        use std::sync::atomic::Ordering;
        if asked.method == "PUT" && asked.target.contains("partNumber=2") {
            return match count.fetch_add(1, Ordering::SeqCst) {
                0 => Some(Say::Reset),
                1 => Some(Say::Bytes(error(500, "InternalError"))),
                // Its bytes were damaged on the way, and the server has seen it.
                2 => Some(Say::Bytes(error(400, "BadDigest"))),
                _ => None,
            };
        }
        if is_complete(asked) {
            done.store(true, Ordering::SeqCst);
        }
        let size = 20 << 20;
        let there = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\netag: \"one\"\r\n\r\n").into_bytes();
        (asked.method == "HEAD" && done.load(Ordering::SeqCst)).then_some(Say::Bytes(there))
    })
    .await;
    assert!(patient(&server).await.put_file(Family::Pack, &digest, file.path(), None).await.unwrap());
    assert_eq!(server.count("PUT", "partNumber=1"), 1);
    assert_eq!(server.count("PUT", "partNumber=2"), 4);
    assert_eq!(server.count("PUT", "partNumber=3"), 1);
    assert_eq!(server.count("DELETE", ""), 0);
}

#[tokio::test]
async fn a_conflict_is_read_and_tried_again_and_a_failed_condition_is_compared() {
    // 409, nothing there; then 412, and what is there is ours, or another's.
    for (there, ours) in [(&b"ours"[..], true), (b"theirs", false)] {
        let server = Scripted::start(move |asked| match (asked.method.as_str(), asked.number) {
            ("PUT", 0) => Say::Bytes(error(409, "ConditionalRequestConflict")),
            ("PUT", _) => Say::Bytes(error(412, "PreconditionFailed")),
            (_, 1) => absent(),
            _ => Say::Bytes(object(there)),
        })
        .await;
        let created = server.store().await.create("releases/a", Bytes::from("ours")).await;
        match created {
            Ok(created) => assert!(ours && created == Created::Same),
            Err(Error::Exists { existing, .. }) => assert!(!ours && existing == there),
            Err(error) => panic!("{error}"),
        }
        assert_eq!((server.count("PUT", ""), server.count("GET", "")), (2, 2));
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_cut_off_is_read_back_and_not_repeated() {
    let server = Scripted::start(|asked| match asked.method.as_str() {
        "PUT" => Say::Reset,
        _ => Say::Bytes(object(b"ours")),
    })
    .await;
    let swapped = server.store().await.swap("locks/a.json", Some("\"zero\""), Bytes::from("ours")).await.unwrap();
    assert!(matches!(&swapped, Swap::Swapped(etag) if etag == "\"one\""), "{swapped:?}");
    assert_eq!(server.count("PUT", ""), 1);
    // What is there is not ours, and not what was expected: a lost race, and no write over it.
    let server = Scripted::start(|asked| match asked.method.as_str() {
        "PUT" => Say::Reset,
        _ => Say::Bytes(object(b"theirs")),
    })
    .await;
    let swapped = server.store().await.swap("locks/a.json", Some("\"zero\""), Bytes::from("ours")).await.unwrap();
    assert!(matches!(&swapped, Swap::Lost(Some(there)) if there.bytes == "theirs"), "{swapped:?}");
    assert_eq!(server.count("PUT", ""), 1);
    // It is still as it was before: it did not happen, and is tried again.
    let server = Scripted::start(|asked| match (asked.method.as_str(), asked.number) {
        ("PUT", 0) => Say::Reset,
        ("PUT", _) => Say::Bytes(written()),
        _ => Say::Bytes(object(b"before")),
    })
    .await;
    let swapped = server.store().await.swap("locks/a.json", Some("\"one\""), Bytes::from("ours")).await.unwrap();
    assert!(matches!(swapped, Swap::Swapped(_)), "{swapped:?}");
    assert_eq!(server.count("PUT", ""), 2);
}

#[tokio::test]
async fn resets_pass_for_content_and_end_in_words() {
    for resets in [2, usize::MAX] {
        let server = Scripted::start(move |asked| match asked.method.as_str() {
            "HEAD" => Say::Bytes(answer(404, "", "")),
            _ if asked.number <= resets => Say::Reset,
            _ => Say::Bytes(written()),
        })
        .await;
        let (store, begun) = (server.store().await, Instant::now());
        let put = store.put_bytes(Family::Blob, Bytes::from("content")).await;
        if resets == 2 {
            assert_eq!(put.unwrap(), Digest::of("content"));
        } else {
            unavailable(put, begun, 3.0, &["cut the connection", "4 times in"]);
        }
    }
}

/// The bytes that a `Range` asks for, well answered.
fn ranged(asked: &Asked, whole: &[u8]) -> Vec<u8> {
    let Some(range) = asked.header("range") else { return object(whole) };
    let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
    let said = format!("etag: \"one\"\ncontent-range: bytes {from}-{to}/{}", whole.len());
    answer(206, &said, &whole[from..=to])
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_on_from_there() {
    let whole: Arc<Vec<u8>> = Arc::new(noise(3 << 20));
    for stalls in [false, true] {
        let bytes = whole.clone();
        let server = Scripted::start(move |asked| {
            let mut answer = ranged(asked, &bytes);
            if asked.number < 2 {
                answer.truncate(answer.len() / 2);
                return if stalls { Say::Stall(answer) } else { Say::Close(answer) };
            }
            Say::Bytes(answer)
        })
        .await;
        let store = server.store().await;
        let got = store.get_bytes(Family::Pack, &Digest::of(&*whole), 4 << 20).await.unwrap();
        assert!(got == *whole);
        let asked = server.asked();
        let ranges: Vec<_> = asked.iter().map(|asked| asked.header("range").is_some()).collect();
        assert_eq!(ranges, [false, true, true], "what had arrived is not fetched again");
    }
}

#[tokio::test]
async fn a_body_that_always_breaks_off_or_stands_still_is_given_up_in_time() {
    let small = noise(1000);
    let digest = Digest::of(&small);
    for (stalls, words) in [(false, "broke off blobs/sha256/"), (true, "stopped sending blobs/sha256/")] {
        let bytes = small.clone();
        let server = Scripted::start(move |asked| {
            let mut answer = ranged(asked, &bytes);
            answer.truncate(answer.len() - 500);
            if stalls { Say::Stall(answer) } else { Say::Close(answer) }
        })
        .await;
        let (store, begun) = (server.store().await, Instant::now());
        unavailable(
            store.get_bytes(Family::Blob, &digest, 1 << 20).await,
            begun,
            8.0,
            &[words, "after 500 of 1000 bytes", "4 times in"],
        );
    }
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_not_put_together() {
    let whole: Arc<Vec<u8>> = Arc::new(noise(3 << 20));
    let bytes = whole.clone();
    let server = Scripted::start(move |asked| {
        let mut answer = ranged(asked, &bytes);
        if asked.number == 0 {
            answer.truncate(answer.len() / 2);
            return Say::Close(answer);
        }
        let text = String::from_utf8_lossy(&answer[..200]).replace("\"one\"", "\"two\"");
        let mut changed = text.as_bytes()[..200].to_vec();
        changed.extend_from_slice(&answer[200..]);
        Say::Bytes(changed)
    })
    .await;
    let store = server.store().await;
    let (_, mut body) = store.objects().get("files/large", None).await.unwrap().unwrap();
    let mut failure = None;
    while let Some(chunk) = futures::StreamExt::next(&mut body).await {
        failure = chunk.err();
    }
    let failure = failure.unwrap();
    assert!(failure.to_string().contains("has another files/large than when its reading began"), "{failure}");
}

#[tokio::test]
async fn one_byte_a_second_is_too_slow_in_both_directions() {
    // Down: each byte comes in time, all of them do not.
    let bytes = noise(1000);
    let digest = Digest::of(&bytes);
    let server = Scripted::start(move |_| {
        let whole = object(&bytes);
        let head = whole.len() - 1000;
        Say::Drip(whole[..head].to_vec(), whole[head..].to_vec(), Duration::from_millis(100))
    })
    .await;
    let patience = store::Settings { deadline: Duration::from_secs(2), ..hasty() };
    let store = Store::open_with(&server.location(), &patience).await.unwrap();
    let begun = Instant::now();
    unavailable(store.get_bytes(Family::Blob, &digest, 1 << 20).await, begun, 6.0, &["within 2.0 s"]);

    // Up: a server that takes nothing more.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let silent = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    let Location::S3 { bucket, prefix, region, credentials, .. } = server.location() else { panic!() };
    let location = Location::S3 { bucket, prefix, endpoint: Some(endpoint), region, credentials };
    let store = Store::open_with(&location, &store::Settings { attempts: 2, ..hasty() }).await.unwrap();
    let begun = Instant::now();
    let put =
        store.objects().put("blobs/a", store::Body::Bytes(vec![1; 16 << 20].into()), store::Condition::None).await;
    unavailable(put, begun, 6.0, &["stopped taking blobs/a after ", "of 16777216 bytes", "2 times in"]);
    silent.abort();
}

#[tokio::test]
async fn silence_and_absence_are_told_apart() {
    let server = Scripted::start(|_| Say::Stall(Vec::new())).await;
    let (store, begun) = (server.store().await, Instant::now());
    unavailable(store.read("releases/a").await, begun, 4.0, &["does not answer in time (releases/a)", "4 times in"]);
    let location = server.location();
    let silent = server.address;
    drop(server);
    // Its task may still hold the listener for a moment.
    store::testing::until("nobody listens", || std::net::TcpStream::connect(silent).is_err()).await;
    let (store, begun) = (Store::open_with(&location, &hasty()).await.unwrap(), Instant::now());
    unavailable(store.read("releases/a").await, begun, 2.0, &["refuses the connection: nothing listens there"]);
}

#[tokio::test]
async fn a_deadline_ends_everything() {
    let server = Scripted::start(|_| Say::Bytes(error(500, "InternalError"))).await;
    let endless = store::Settings {
        attempts: 1000,
        pause: Duration::from_millis(200),
        deadline: Duration::from_secs(1),
        ..hasty()
    };
    let (store, begun) = (Store::open_with(&server.location(), &endless).await.unwrap(), Instant::now());
    unavailable(store.read("releases/a").await, begun, 2.0, &["answers 500 InternalError"]);
}

#[tokio::test]
async fn wrong_lengths_and_ranges_are_seen() {
    // More than was announced, and a range that is another.
    let bytes = noise(1000);
    let digest = Digest::of(&bytes);
    let server = Scripted::start(move |asked| match asked.header("range") {
        None => Say::Close([object(&bytes[..400]), bytes[400..].to_vec()].concat()),
        Some(_) => Say::Bytes(object(&bytes)),
    })
    .await;
    let store = server.store().await;
    let got = store.get_bytes(Family::Blob, &digest, 1 << 20).await.unwrap_err();
    assert!(matches!(got, Error::Corrupt { .. }), "400 of 1000 bytes are not the object: {got}");
    let ranged = store.get_range(Family::Blob, &digest, 10..20).await.unwrap_err();
    assert!(ranged.to_string().contains("does not keep to a range"), "{ranged}");
    // A write that is answered well, of which less is there.
    let server = multipart(|asked| {
        let there = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\netag: \"one\"\r\n\r\n".to_vec();
        (asked.method == "HEAD").then_some(Say::Bytes(there))
    })
    .await;
    let (digest, file) = large(20 << 20);
    let (store, begun) = (server.store().await, Instant::now());
    let put = store.put_file(Family::Pack, &digest, file.path(), None).await;
    unavailable(put, begun, 6.0, &["does not show packs/"]);
    assert!(server.count("DELETE", "uploadId=id") >= 1);
}

#[tokio::test]
async fn a_flipped_bit_is_fetched_again_and_one_that_stays_is_corrupt() {
    let bytes = noise(1000);
    let digest = Digest::of(&bytes);
    for flips in [1, usize::MAX] {
        let right = bytes.clone();
        let server = Scripted::start(move |asked| {
            let mut sent = right.clone();
            if asked.number < flips {
                sent[500] ^= 0x20;
            }
            Say::Bytes(object(&sent))
        })
        .await;
        let store = server.store().await;
        let got = store.get_bytes(Family::Blob, &digest, 1 << 20).await;
        if flips == 1 {
            assert_eq!(got.unwrap(), bytes);
        } else {
            let error = got.unwrap_err();
            assert_eq!(error.class(), Class::Integrity);
            assert!(matches!(&error, Error::Corrupt { expected, .. } if *expected == digest), "{error}");
            assert!(store.is_damaged(&Store::key(Family::Blob, &digest)));
        }
        assert_eq!(server.asked().len(), 2, "once more, and no oftener");
    }
    // On the way up the server sees it, by the checksum that came with it.
    let server = Scripted::start(|asked| match (asked.method.as_str(), asked.number) {
        ("HEAD", _) => Say::Bytes(answer(404, "", "")),
        (_, 1) => Say::Bytes(error(400, "BadDigest")),
        _ => Say::Bytes(written()),
    })
    .await;
    server.store().await.put_bytes(Family::Blob, Bytes::from("content")).await.unwrap();
    assert_eq!(server.count("PUT", ""), 2);
    assert!(server.asked()[1].header("x-amz-checksum-sha256").is_some());
}

#[tokio::test]
async fn what_will_not_change_is_asked_once() {
    for (status, code, words) in [
        (403, "AccessDenied", "does not permit this to them (AccessDenied, releases/a)"),
        (403, "SignatureDoesNotMatch", "refuses the credentials (SignatureDoesNotMatch)"),
        (404, "NoSuchBucket", "has no bucket \"bucket\""),
        (400, "InvalidRequest", "answers 400 InvalidRequest for releases/a"),
    ] {
        let server = Scripted::start(move |_| Say::Bytes(error(status, code))).await;
        let (store, begun) = (server.store().await, Instant::now());
        unavailable(store.read("releases/a").await, begun, 2.0, &[words]);
        assert_eq!(server.asked().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn the_log_has_every_request_and_no_secret() {
    let server = Scripted::start(|asked| match asked.number {
        0 => Say::Bytes(error(503, "SlowDown")),
        _ => Say::Bytes(object(b"precious content")),
    })
    .await;
    let entries: Arc<std::sync::Mutex<Vec<store::decorate::Entry>>> = Arc::default();
    let told = entries.clone();
    let log: store::decorate::Sink = Arc::new(move |entry| told.lock().unwrap().push(entry.clone()));
    let settings = store::Settings { log: Some(log), ..hasty() };
    let store = Store::open_with(&server.location(), &settings).await.unwrap();
    store.read("releases/a").await.unwrap();
    let entries = entries.lock().unwrap().clone();
    let outcomes: Vec<_> = entries.iter().map(|entry| (entry.operation, entry.key.as_str(), entry.bytes)).collect();
    assert_eq!(outcomes, [("get", "releases/a", 0), ("get", "releases/a", 16)]);
    assert!(entries[0].outcome.contains("is overloaded") && entries[1].outcome == "ok");
    let text = format!("{entries:?} {settings:?} {store:?}");
    assert!(!text.contains("secret") && !text.contains("precious"), "{text}");
}

#[tokio::test]
async fn limits_hold_on_the_wire() {
    let bytes = noise(60_000);
    let digest = Digest::of(&bytes);
    let sent = bytes.clone();
    let server = Scripted::start(move |asked| match asked.method.as_str() {
        "HEAD" => Say::Bytes(answer(404, "", "")),
        "GET" => Say::Bytes(object(&sent)),
        _ => Say::Bytes(written()),
    })
    .await;
    let limited = store::Settings { upload_limit: Some(100_000), download_limit: Some(100_000), ..hasty() };
    let store = Store::open_with(&server.location(), &limited).await.unwrap();
    let begun = Instant::now();
    store.put_bytes(Family::Blob, bytes.clone().into()).await.unwrap();
    let up = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    assert_eq!(store.get_bytes(Family::Blob, &digest, 1 << 20).await.unwrap(), bytes);
    let down = begun.elapsed().as_secs_f64();
    for took in [up, down] {
        assert!((0.4..3.0).contains(&took), "60 kB at 100 kB/s take about half a second: {up} s up, {down} s down");
    }
    // The limit is longer than the patience for standing still, and no failure for it.
    let server = Scripted::start(|_| Say::Bytes(written())).await;
    let crawling = store::Settings { upload_limit: Some(1_000), attempts: 1, ..hasty() };
    let store = Store::open_with(&server.location(), &crawling).await.unwrap();
    let puts = (0..4).map(|number| {
        let store = store.clone();
        let body = store::Body::Bytes(vec![number; 500].into());
        async move { store.objects().put(&format!("blobs/{number}"), body, store::Condition::None).await }
    });
    for put in futures::future::join_all(puts).await {
        put.unwrap();
    }
}

/// An object of 20 MiB with this entity tag, as HEAD tells it.
fn there(etag: &str) -> Say {
    let size = 20 << 20;
    Say::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\netag: \"{etag}\"\r\n\r\n").into_bytes())
}

#[tokio::test]
async fn damage_that_could_not_be_replaced_stays_damage() {
    let (digest, file) = large(20 << 20);
    let key = Store::key(Family::Blob, &digest);
    for (status, code) in [(500, "InternalError"), (403, "AccessDenied"), (404, "NoSuchUpload")] {
        // What is there has the right size, for it is the damaged object.
        let server = multipart(move |asked| match asked.method.as_str() {
            "HEAD" => Some(there("damaged")),
            "GET" => Some(Say::Bytes(answer(200, "", "<ListMultipartUploadsResult></ListMultipartUploadsResult>"))),
            _ => is_complete(asked).then(|| Say::Bytes(error(status, code))),
        })
        .await;
        let store = patient(&server).await;
        store.found_damaged(&key);
        let healed = store.put_file(Family::Blob, &digest, file.path(), None).await;
        assert!(healed.is_err() && store.is_damaged(&key), "{code}: {healed:?}");
    }
}

#[tokio::test]
async fn a_heal_whose_answer_was_lost_is_seen_by_another_entity_tag() {
    let (digest, file) = large(20 << 20);
    let key = Store::key(Family::Blob, &digest);
    let completed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let server = multipart(move |asked| {
        use std::sync::atomic::Ordering;
        match asked.method.as_str() {
            "HEAD" => Some(there(if completed.load(Ordering::SeqCst) { "healed" } else { "damaged" })),
            "GET" => Some(Say::Bytes(answer(200, "", "<ListMultipartUploadsResult></ListMultipartUploadsResult>"))),
            _ if is_complete(asked) => {
                completed.store(true, Ordering::SeqCst);
                Some(Say::Reset)
            }
            _ => None,
        }
    })
    .await;
    let store = patient(&server).await;
    store.found_damaged(&key);
    assert!(store.put_file(Family::Blob, &digest, file.path(), None).await.unwrap());
    assert!(!store.is_damaged(&key));
}

#[tokio::test]
async fn create_only_in_parts_does_not_take_anothers_object_for_ours() {
    let (_, file) = large(20 << 20);
    let server = multipart(|asked| match asked.method.as_str() {
        // It came into being while ours was sent.
        "HEAD" if asked.number > 0 => Some(there("theirs")),
        _ => is_complete(asked).then(|| Say::Bytes(error(500, "InternalError"))),
    })
    .await;
    let body = store::Body::File { path: file.path().to_owned(), offset: 0, length: 20 << 20 };
    let put = patient(&server).await.objects().put("files/a", body, store::Condition::Absent).await;
    assert!(put.is_err(), "{put:?}");
}

#[tokio::test]
async fn a_server_that_asks_to_wait_for_ever_is_no_panic() {
    for said in ["18446744073709551615", "99999999999999999999999", "4294967295"] {
        let asks = format!("Retry-After: {said}");
        let server = Scripted::start(move |_| Say::Bytes(error_with(429, "TooManyRequests", &asks))).await;
        let (store, begun) = (server.store().await, Instant::now());
        unavailable(store.read("releases/a").await, begun, 2.0, &["is overloaded"]);
        assert_eq!(server.asked().len(), 1, "there is no time for so much patience");
    }
}

#[tokio::test]
async fn a_flipped_bit_of_a_reference_is_fetched_again() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use sha2::Digest as _;
    for flips in [1, usize::MAX] {
        let right = b"{\"epoch\":1}".to_vec();
        let sum = STANDARD.encode(sha2::Sha256::digest(&right));
        let server = Scripted::start(move |asked| {
            let mut sent = right.clone();
            if asked.number < flips {
                sent[3] ^= 1;
            }
            Say::Bytes(answer(200, &format!("etag: \"one\"\nx-amz-checksum-sha256: {sum}"), sent))
        })
        .await;
        let read = server.store().await.read("envs/production/current.json").await;
        match read {
            Ok(read) => assert!(flips == 1 && read.unwrap().bytes == "{\"epoch\":1}"),
            Err(error) => assert!(flips > 1 && matches!(error, Error::Corrupt { .. }), "{error}"),
        }
        assert_eq!(server.asked().len(), 2);
    }
}

#[tokio::test]
async fn a_listing_that_does_not_advance_ends_and_names_the_server() {
    let keys = "<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>packs/a</Key><Size>1</Size><ETag>\"one\"</ETag></Contents></ListBucketResult>";
    let uploads = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>packs/a</NextKeyMarker><NextUploadIdMarker>id</NextUploadIdMarker><Upload><Key>packs/a</Key><UploadId>id</UploadId></Upload></ListMultipartUploadsResult>";
    let server = Scripted::start(move |asked| {
        let page = if asked.target.contains("uploads") { uploads } else { keys };
        Say::Bytes(answer(200, "content-type: application/xml", page))
    })
    .await;
    let (store, begun) = (server.store().await, Instant::now());
    let bound = Duration::from_secs(3);
    let listed = tokio::time::timeout(bound, store.list("packs/")).await.expect("it ends");
    unavailable(listed, begun, 3.0, &[&server.address.to_string(), "packs/"]);
    let begun = Instant::now();
    let listed = tokio::time::timeout(bound, store.unfinished_uploads("packs/")).await.expect("it ends");
    unavailable(listed, begun, 3.0, &[&server.address.to_string(), "packs/"]);
    assert!(server.asked().len() <= 6, "{}", server.asked().len());
}

/// Answers a check of permissions well, except for what `otherwise` says.
async fn permitting(otherwise: impl Fn(&Asked) -> Option<Say> + Send + Sync + 'static) -> Scripted {
    let uploads = "<ListMultipartUploadsResult></ListMultipartUploadsResult>";
    multipart(move |asked| {
        let target = asked.target.as_str();
        otherwise(asked).or_else(|| {
            (asked.method == "GET").then(|| {
                Say::Bytes(match target {
                    _ if target.contains("list-type") => answer(200, "", "<ListBucketResult></ListBucketResult>"),
                    _ if target.contains("uploads") => answer(200, "", uploads),
                    _ => object(b"plain"),
                })
            })
        })
    })
    .await
}

#[tokio::test]
async fn a_check_of_permissions_ends_when_a_needless_question_is_not_answered() {
    let server = permitting(|asked| {
        (asked.method == "GET" && (asked.target == "/" || asked.target.starts_with("/?")))
            .then(|| Say::Stall(Vec::new()))
    })
    .await;
    let store = server.store().await;
    let checked = tokio::time::timeout(Duration::from_secs(6), store.check_permissions()).await.expect("it ends");
    assert!(checked.unwrap().iter().all(|permission| permission.allowed));
}

#[tokio::test]
async fn a_check_of_permissions_that_fails_removes_its_probe() {
    // Everything that comes after the probe was written.
    for (method, part) in [("GET", "/probes/"), ("GET", "list-type"), ("HEAD", "/probes/"), ("GET", "uploads")] {
        let server = permitting(move |asked| {
            (asked.method == method && asked.target.contains(part)).then(|| Say::Bytes(error(400, "InvalidRequest")))
        })
        .await;
        server.store().await.check_permissions().await.unwrap_err();
        let asked = server.asked();
        let probe = &asked.iter().find(|asked| asked.method == "PUT").unwrap().target;
        let probe = probe.split('?').next().unwrap();
        let removed = |asked: &&Asked| {
            asked.method == "DELETE" && asked.target.starts_with(probe) && !asked.target.contains("uploadId")
        };
        assert!(asked.iter().any(|asked| removed(&asked)), "{method} {part}");
    }
}

#[tokio::test]
async fn content_that_is_there_after_all_is_stored() {
    // The answer is lost, as often as it is sent.
    let server = Scripted::start(|asked| match (asked.method.as_str(), asked.number) {
        ("HEAD", 0) => Say::Bytes(answer(404, "", "")),
        ("HEAD", _) => Say::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\netag: \"one\"\r\n\r\n".to_vec()),
        _ => Say::Reset,
    })
    .await;
    let put = server.store().await.put_bytes(Family::Blob, Bytes::from("content")).await;
    assert_eq!(put.unwrap(), Digest::of("content"));
    // Where it was refused, what is there says nothing.
    let server = Scripted::start(|asked| match (asked.method.as_str(), asked.number) {
        ("HEAD", 0) => Say::Bytes(answer(404, "", "")),
        ("HEAD", _) => Say::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\netag: \"one\"\r\n\r\n".to_vec()),
        _ => Say::Bytes(error(403, "AccessDenied")),
    })
    .await;
    server.store().await.put_bytes(Family::Blob, Bytes::from("content")).await.unwrap_err();
}
