//! `sealift store serve` as an operator runs it: where it may listen, how it starts after a crash, how it stops.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a helper of a test fails as the test does")]

mod common;

use common::{
    data::{server_is_tidy, temporaries},
    network::{ACCESS, BUCKET, SECRET, exchange},
    refused,
};
use e2e::{Invocation, Project, Running, until};
use rustix::process::Signal;
use std::{
    ffi::OsString,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    time::Duration,
};

/// A body that the server does not hold in memory until it is whole.
const LARGE: usize = 6 << 20;

fn serve(project: &Project, listen: &str) -> Invocation {
    let line = ["store", "serve", "--bucket", BUCKET, "--listen", listen, "--dir"].map(OsString::from);
    project.sealift(line.into_iter().chain([folder(project).into()]))
}

fn folder(project: &Project) -> PathBuf {
    project.folder().join("served")
}

/// Waits until it listens; its port.
fn port(running: &Running) -> u16 {
    let line = running.wait_for_line("where it listens", |line| line.contains("listening"));
    let digits = line.split("http://").nth(1).unwrap().split(',').next().unwrap().rsplit(':').next().unwrap();
    digits.parse().unwrap_or_else(|_| panic!("no port in {line:?}"))
}

/// Without credentials anybody could write to the store, so only this host may ask.
#[test]
fn it_refuses_to_listen_beyond_this_host_without_credentials() {
    let project = Project::bare();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.7:9000"] {
        let run = serve(&project, listen).run();
        let words = ["is not a loopback address", "no credentials are set", "anyone could write"];
        refused(&run, 64).says(&words).then("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
        assert!(!run.stdout.contains("listening"), "{}", run.told());
        assert!(!folder(&project).exists(), "a refused server made its folder");
    }
    // Half of the credentials is a mistake, not a permission.
    let run = serve(&project, "127.0.0.1:0").env("AWS_ACCESS_KEY_ID", ACCESS).run();
    refused(&run, 64).says(&["only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"]);
    let run = serve(&project, "0.0.0.0:0").env("AWS_SECRET_ACCESS_KEY", SECRET).run();
    refused(&run, 64).never_says(SECRET);
    // An empty variable is none.
    let empty = serve(&project, "0.0.0.0:0").env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", "");
    let _ = refused(&empty.run(), 64);
}

/// With credentials it listens everywhere, and asks everybody for them.
#[test]
fn with_credentials_it_listens_everywhere_and_asks_for_them() {
    let project = Project::bare();
    let mut running =
        serve(&project, "0.0.0.0:0").env("AWS_ACCESS_KEY_ID", ACCESS).env("AWS_SECRET_ACCESS_KEY", SECRET).spawn();
    let port = port(&running);
    for first in [format!("GET /{BUCKET}?list-type=2"), format!("PUT /{BUCKET}/a"), format!("DELETE /{BUCKET}/a")] {
        let (status, _, body) = exchange(port, &first, "", b"");
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(status == 403 && body.contains("AccessDenied"), "{first}: {status} {body}");
    }
    running.signal(Signal::TERM);
    running.wait().ok();
}

#[test]
fn a_port_that_is_taken_and_a_name_that_is_none_are_told() {
    let project = Project::bare();
    let mut running = serve(&project, "127.0.0.1:0").spawn();
    let taken = format!("127.0.0.1:{}", port(&running));
    let refusal = refused(&serve(&project, &taken).run(), 69);
    refusal.says(&[&format!("cannot listen on {taken}")]).then("--listen");
    let line = ["store", "serve", "--bucket", "No_Name", "--listen", "127.0.0.1:0", "--dir"].map(OsString::from);
    let run = project.sealift(line.into_iter().chain([folder(&project).into()])).run();
    refused(&run, 64).says(&["No_Name", "not a bucket name"]);
    running.signal(Signal::INT);
    let _ = running.wait().ok();
}

/// A request whose body has come only in part.
fn half_a_put(port: u16, key: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(e2e::DEADLINE)).unwrap();
    let head = format!("PUT /{BUCKET}/{key} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body[..body.len() / 2]).unwrap();
    stream
}

/// Waits until the server has begun to write what is being sent to it.
fn begun(project: &Project, many: usize) {
    until("the server writes what it is sent", || {
        let written = |path: &PathBuf| {
            let meta = fs::metadata(folder(project).join(path));
            !path.ends_with("lock") && meta.is_ok_and(|meta| meta.is_file() && meta.len() > 0)
        };
        let open = temporaries(&folder(project)).into_iter().filter(written);
        (open.count() >= many).then_some(())
    });
}

/// Killed in the middle of writes: what was there is there, what was half is not, and a start clears it away.
#[test]
fn it_starts_after_a_kill_and_clears_its_temporaries() {
    let project = Project::bare();
    let body = vec![7; LARGE];
    for round in 0..3 {
        let mut running = serve(&project, "127.0.0.1:0").spawn();
        let at = port(&running);
        if round > 0 {
            let (status, _, found) = exchange(at, &format!("GET /{BUCKET}/old"), "", b"");
            assert!(status == 200 && found == body, "what was there is gone after a kill: {status}");
            let (status, ..) = exchange(at, &format!("GET /{BUCKET}/new"), "", b"");
            assert_eq!(status, 404, "half an object is there");
            let (_, _, list) = exchange(at, &format!("GET /{BUCKET}?list-type=2"), "", b"");
            let list = String::from_utf8_lossy(&list).into_owned();
            assert!(list.contains("<Key>old</Key>") && list.contains("<KeyCount>1</KeyCount>"), "{list}");
        }
        let (status, ..) = exchange(at, &format!("PUT /{BUCKET}/old"), "", &body);
        assert_eq!(status, 200);
        // The first write of this process clears what the one before it left.
        server_is_tidy(&folder(&project));
        let streams = [half_a_put(at, "new", &body), half_a_put(at, "old", &body)];
        begun(&project, 2);
        running.signal(Signal::KILL);
        running.wait().killed();
        drop(streams);
    }
}

/// SIGTERM: no new connection is taken, the request under way is finished and answered, and the exit code is 0.
#[test]
fn sigterm_drains() {
    for signal in [Signal::TERM, Signal::INT] {
        let project = Project::bare();
        let body = vec![3; LARGE];
        let mut running = serve(&project, "127.0.0.1:0").spawn();
        let at = port(&running);
        let mut stream = half_a_put(at, "under-way", &body);
        begun(&project, 1);
        running.signal(signal);
        until("it takes no more connections", || TcpStream::connect(("127.0.0.1", at)).is_err().then_some(()));
        assert!(!running.ends_within(Duration::from_millis(100)), "it did not wait for the request under way");
        stream.write_all(&body[body.len() / 2..]).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let run = running.wait().ok();
        assert!(run.stdout.contains("stopped"), "{}", run.told());
        let left: Vec<PathBuf> = temporaries(&folder(&project));
        assert!(left.is_empty(), "a drained server leaves temporaries: {left:?}");
        assert_eq!(fs::read_dir(folder(&project).join("tmp")).unwrap().count(), 0, "its session is left");
        let mut running = serve(&project, "127.0.0.1:0").spawn();
        let at = port(&running);
        let (status, _, found) = exchange(at, &format!("GET /{BUCKET}/under-way"), "", b"");
        assert!(status == 200 && found == body, "what was answered is not there: {status}");
        running.signal(Signal::KILL);
        running.wait().killed();
    }
}

/// Somebody who never finishes cannot keep it from stopping.
#[test]
fn a_client_that_stands_still_does_not_hold_up_the_end() {
    let project = Project::bare();
    let mut running = serve(&project, "127.0.0.1:0").spawn();
    let at = port(&running);
    let stream = half_a_put(at, "never", &vec![1; LARGE]);
    begun(&project, 1);
    running.signal(Signal::TERM);
    assert!(running.ends_within(Duration::from_secs(30)), "a client that stands still holds up the end");
    running.wait().ok();
    drop(stream);
}
