//! The embedded server, in this process and over TCP: the conformance suite, and what only it promises.

// Helpers of tests are tests, which the lint sees only in functions marked so.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use bytes::Bytes;
use domain::secret::Secret;
use futures::future::join_all;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use store::{Body, Condition, Created, Error, Family, Location, Store, testing::conformance};
use tokio::{sync::oneshot, task::JoinHandle};

async fn embedded(directory: &Path) -> Store {
    Store::open(&Location::Embedded { directory: directory.to_owned() }).await.unwrap()
}

struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<store::Result<()>>,
}

impl Served {
    async fn start(directory: PathBuf) -> Self {
        let (ready, listening) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move {
            let credentials = Some(("key".to_owned(), Secret::new("secret")));
            let ready = |address| ready.send(address).unwrap();
            let stop = async {
                let _ = stopped.await;
            };
            let listen = "127.0.0.1:0".parse().unwrap();
            store::serve(&directory, listen, &["releases".to_owned()], credentials, ready, stop).await
        });
        Self { address: listening.await.unwrap(), stop, running }
    }

    fn location(&self, bucket: &str, secret: &str) -> Location {
        Location::S3 {
            bucket: bucket.to_owned(),
            prefix: "some/prefix".to_owned(),
            endpoint: Some(format!("http://{}", self.address)),
            region: None,
            credentials: Some(("key".to_owned(), Secret::new(secret))),
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_process_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conformance(&embedded(directory.path()).await).await;
    let left: Vec<_> = std::fs::read_dir(directory.path().join("uploads")).unwrap().collect();
    assert!(left.is_empty(), "no upload is left behind: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path().to_owned()).await;
    let store = Store::open(&served.location("releases", "secret")).await.unwrap();
    conformance(&store).await;
    let left: Vec<_> = std::fs::read_dir(directory.path().join("uploads")).unwrap().collect();
    assert!(left.is_empty(), "no upload is left behind: {left:?}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_server_is_said_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path().to_owned()).await;
    let said = async |location: Location| {
        let error = Store::open(&location).await.unwrap().create("refs/a", Bytes::from("a")).await.unwrap_err();
        assert_eq!(error.class(), domain::Class::Unavailable);
        error.to_string()
    };
    let wrong = said(served.location("releases", "wrong")).await;
    assert!(wrong.contains("refuses the credentials"), "{wrong}");
    assert!(!wrong.contains("wrong\""), "the secret is not shown");
    let bucket = said(served.location("no-such-bucket", "secret")).await;
    assert!(bucket.contains("has no bucket \"no-such-bucket\""), "{bucket}");
    let gone = served.location("releases", "secret");
    served.stop().await;
    let refused = said(gone).await;
    assert!(refused.contains("refuses the connection"), "{refused}");
}

#[tokio::test]
async fn it_is_not_served_to_others_without_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let listen = "0.0.0.0:0".parse().unwrap();
    let open = store::serve(directory.path(), listen, &[], None, |_| {}, std::future::pending()).await.unwrap_err();
    assert!(matches!(open, Error::Open { .. }), "{open:?}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let busy = store::serve(directory.path(), listen, &[], None, |_| {}, std::future::pending()).await.unwrap_err();
    assert!(busy.to_string().contains(&listen.to_string()), "{busy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_of_one_directory_exclude_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path().to_owned()).await;
    let mut location = served.location("sealift", "secret");
    if let Location::S3 { prefix, .. } = &mut location {
        prefix.clear();
    }
    let stores =
        [embedded(directory.path()).await, embedded(directory.path()).await, Store::open(&location).await.unwrap()];
    for round in 0..10 {
        let key = format!("refs/{round}");
        let racers = (0..24).map(|racer| {
            let (store, key) = (stores[racer % 3].clone(), key.clone());
            tokio::spawn(async move { store.create(&key, Bytes::from(format!("racer {racer}"))).await })
        });
        let won = join_all(racers).await.into_iter().filter(|outcome| outcome.as_ref().unwrap().is_ok()).count();
        assert_eq!(won, 1);
    }
    served.stop().await;
}

#[tokio::test]
async fn a_key_and_a_key_below_it_coexist() {
    let directory = tempfile::tempdir().unwrap();
    let store = embedded(directory.path()).await;
    let long = format!("x/{}", "long".repeat(60));
    let mut keys = vec!["a", "a/b", "a/b/c", "a-b", "a0", "a//b", "../up", "a/", ".hidden", "ä ö?#%", long.as_str()];
    for key in &keys {
        store.create(key, Bytes::from((*key).to_owned())).await.unwrap();
    }
    keys.sort_unstable();
    let listed = store.list("").await.unwrap();
    assert_eq!(listed.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), keys);
    for key in &keys {
        assert_eq!(store.read(key).await.unwrap().unwrap().bytes, *key);
        store.objects().delete(key).await.unwrap();
    }
    assert!(store.list("").await.unwrap().is_empty());
    let left = std::fs::read_dir(directory.path().join("buckets/sealift")).unwrap().count();
    assert_eq!(left, 0, "empty directories are removed");
}

#[tokio::test]
async fn many_keys_come_in_pages() {
    let directory = tempfile::tempdir().unwrap();
    let store = embedded(directory.path()).await;
    let keys: Vec<String> = (0..1100).map(|number| format!("pages/{:02}/{number:05}", number % 7)).collect();
    for chunk in keys.chunks(64) {
        join_all(chunk.iter().map(|key| store.create(key, Bytes::from("x")))).await.into_iter().for_each(|it| {
            assert_eq!(it.unwrap(), Created::New);
        });
    }
    let mut expected = keys;
    expected.sort();
    let first = store.objects().list("pages/", None).await.unwrap();
    assert!(first.more);
    assert_eq!(first.entries.len(), 1000);
    assert!(store.list("pages/").await.unwrap().iter().map(|(key, _)| key).eq(&expected));
}

/// The file of an object in the directory of a store.
fn file_of(directory: &Path, key: &str) -> PathBuf {
    directory.join("buckets/sealift").join(format!("{key}@"))
}

#[tokio::test]
async fn a_byte_that_flips_on_the_disk_is_found_wherever_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = embedded(directory.path()).await;
    let digest = store.put_bytes(Family::Blob, Bytes::from("content")).await.unwrap();
    store.create("refs/one", Bytes::from("reference")).await.unwrap();
    for key in [Store::key(Family::Blob, &digest), "refs/one".to_owned()] {
        let path = file_of(directory.path(), &key);
        let good = std::fs::read(&path).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let error = if key.starts_with("refs") {
                store.read(&key).await.map(drop).unwrap_err()
            } else {
                store.get_bytes(Family::Blob, &digest, 100).await.map(drop).unwrap_err()
            };
            assert_eq!(error.class(), domain::Class::Integrity, "byte {position}: {error:?}");
            assert!(error.to_string().contains(&key), "byte {position}: {error}");
        }
        for length in [0, 3, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            let error = store.read(&key).await.map(drop).unwrap_err();
            assert_eq!(error.class(), domain::Class::Integrity, "cut to {length}: {error:?}");
        }
        std::fs::write(&path, &good).unwrap();
    }
    let path = file_of(directory.path(), &Store::key(Family::Blob, &digest));
    std::fs::write(&path, "cut").unwrap();
    store.put_bytes(Family::Blob, Bytes::from("content")).await.unwrap();
    assert_eq!(store.verify(Family::Blob, &digest).await.unwrap(), 7, "storing it again heals it");
}

#[tokio::test]
async fn temporaries_of_the_dead_go_and_those_of_the_living_stay() {
    let directory = tempfile::tempdir().unwrap();
    let sessions = directory.path().join("tmp");
    let living = embedded(directory.path()).await;
    living.create("refs/a", Bytes::from("a")).await.unwrap();
    let dead = sessions.join("dead");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join("lock"), "").unwrap();
    std::fs::write(dead.join("0"), "half an obj").unwrap();
    // A lock that cannot be opened now says nothing of who holds it.
    let unknown = sessions.join("unknown");
    std::fs::create_dir(&unknown).unwrap();
    std::os::unix::fs::symlink("lock", unknown.join("lock")).unwrap();
    let second = embedded(directory.path()).await;
    second.create("refs/b", Bytes::from("b")).await.unwrap();
    assert!(!dead.exists() && unknown.exists());
    std::fs::remove_dir_all(&unknown).unwrap();
    assert_eq!(std::fs::read_dir(&sessions).unwrap().count(), 2, "those of the two that live");
    living.create("refs/c", Bytes::from("c")).await.unwrap();
    drop((living, second));
    assert_eq!(std::fs::read_dir(&sessions).unwrap().count(), 0, "a clean end leaves nothing");
}

#[tokio::test]
async fn a_format_of_the_future_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(embedded(directory.path()).await);
    std::fs::write(directory.path().join("format"), "sealift-store 9\n").unwrap();
    let error = Store::open(&Location::Embedded { directory: directory.path().to_owned() }).await.unwrap_err();
    assert!(error.to_string().contains("another format"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_upload_is_aborted() {
    let directory = tempfile::tempdir().unwrap();
    let store = embedded(&directory.path().join("store")).await;
    let path = directory.path().join("large");
    std::fs::write(&path, vec![7; 64 << 20]).unwrap();
    let uploads = directory.path().join("store/uploads");
    let uploading = store.clone();
    let task = tokio::spawn(async move {
        let body = Body::File { path, offset: 0, length: 64 << 20 };
        uploading.objects().put("large", body, Condition::None).await
    });
    store::testing::until("the upload has begun", || {
        std::fs::read_dir(&uploads).unwrap().next().is_some() || task.is_finished()
    })
    .await;
    task.abort();
    let ended = task.await;
    assert!(ended.is_err_and(|error| error.is_cancelled()), "it was cancelled in the middle");
    store.settle().await;
    assert_eq!(std::fs::read_dir(&uploads).unwrap().count(), 0, "nothing is left behind");
    assert!(store.list("").await.unwrap().is_empty());
}

/// What a second process does in the tests below: this same program, told by its environment.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process() {
    let Ok(role) = std::env::var("STORE_TEST_ROLE") else { return };
    let directory = PathBuf::from(std::env::var("STORE_TEST_DIRECTORY").unwrap());
    let store = embedded(&directory).await;
    match role.as_str() {
        "race" => {
            for round in 0..ROUNDS {
                let won = store.create(&format!("refs/{round}"), Bytes::from("child")).await.is_ok();
                if won {
                    store.create(&format!("won/{round}/child"), Bytes::from("x")).await.unwrap();
                }
            }
        }
        "write" => {
            for round in 0_u8.. {
                let bytes = vec![round; 1000 + usize::from(round) * 20_011];
                store.objects().put("one", Body::Bytes(bytes.into()), Condition::None).await.unwrap();
            }
        }
        "hold" => {
            let lease = store.lease("staging", "deploy", Duration::from_secs(600), Duration::ZERO).await.unwrap();
            std::future::pending::<()>().await;
            drop(lease);
        }
        other => panic!("{other}"),
    }
}

const ROUNDS: usize = 150;

struct Second(std::process::Child);

impl Second {
    fn start(role: &str, directory: &Path) -> Self {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_second_process", "--quiet"]);
        command.env("STORE_TEST_ROLE", role).env("STORE_TEST_DIRECTORY", directory);
        Self(command.stdout(std::process::Stdio::null()).spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_directory_have_one_winner_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = embedded(directory.path()).await;
    let mut second = Second::start("race", directory.path());
    store::testing::until("the other process has begun", || file_of(directory.path(), "refs/0").exists()).await;
    let mut won = 0;
    // From the end, so that the two meet.
    for round in (0..ROUNDS).rev() {
        won += usize::from(store.create(&format!("refs/{round}"), Bytes::from("parent")).await.is_ok());
    }
    assert!(second.0.wait().unwrap().success());
    let theirs = store.list("won/").await.unwrap().len();
    assert_eq!(won + theirs, ROUNDS, "one winner each");
    assert!(theirs > 0, "both were there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_the_old_object_or_the_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = embedded(directory.path()).await;
    for round in 0..12 {
        let second = Second::start("write", directory.path());
        // It writes all the time, so the kill comes at any place of a write.
        let path = file_of(directory.path(), "one");
        let first = std::fs::metadata(&path).ok().and_then(|meta| meta.modified().ok());
        store::testing::until("it writes", || {
            std::fs::metadata(&path).ok().and_then(|meta| meta.modified().ok()) != first
        })
        .await;
        second.kill();
        let there = store.read("one").await.unwrap().unwrap();
        let value = there.bytes[0];
        assert_eq!(there.bytes.len(), 1000 + usize::from(value) * 20_011, "round {round}: whole");
        assert!(there.bytes.iter().all(|byte| *byte == value));
        assert_eq!(store.list("").await.unwrap().len(), 1, "no partial object is listed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_killed_process_is_taken_over_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = embedded(directory.path()).await;
    let second = Second::start("hold", directory.path());
    let path = file_of(directory.path(), "locks/staging.json");
    store::testing::until("the other process holds the lease", || path.exists()).await;
    let (ttl, pid) = (Duration::from_secs(30), second.0.id());
    let busy = store.lease("staging", "us", ttl, Duration::ZERO).await.unwrap_err();
    assert!(busy.to_string().contains(&format!("pid {pid}")), "{busy}");
    second.kill();
    let lease = store.lease("staging", "us", ttl, Duration::ZERO).await.unwrap();
    assert_eq!(lease.epoch, 2);
    lease.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_checksum_is_verified_before_the_old_object_goes() {
    use aws_sdk_s3::{config::*, primitives::ByteStream, types::ChecksumAlgorithm as Algorithm};
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path().join("store")).await;
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .endpoint_url(format!("http://{}", served.address))
        .region(Region::new("us-east-1"))
        .force_path_style(true)
        .retry_config(retry::RetryConfig::disabled())
        .build();
    let client = aws_sdk_s3::Client::from_conf(config);
    let path = directory.path().join("body");
    std::fs::write(&path, vec![5; 3_000_000]).unwrap();
    let algorithms = [Algorithm::Crc32, Algorithm::Crc32C, Algorithm::Crc64Nvme, Algorithm::Sha1, Algorithm::Sha256];
    for algorithm in algorithms {
        let put = || client.put_object().bucket("releases").key("one");
        // From a file the body is sent in signed chunks with the checksum behind it.
        let body = ByteStream::from_path(&path).await.unwrap();
        let output = put().checksum_algorithm(algorithm.clone()).body(body).send().await.unwrap();
        let wrong = put().body(ByteStream::from_static(b"other"));
        let wrong = match algorithm {
            Algorithm::Crc32 => wrong.checksum_crc32("AAAAAA=="),
            Algorithm::Crc32C => wrong.checksum_crc32_c("AAAAAA=="),
            Algorithm::Crc64Nvme => wrong.checksum_crc64_nvme("AAAAAAAAAAA="),
            Algorithm::Sha1 => wrong.checksum_sha1("AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            _ => wrong.checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        };
        let refused = wrong.send().await.unwrap_err();
        assert_eq!(refused.into_service_error().meta().code(), Some("BadDigest"), "{algorithm:?}");
        let bytes = client.get_object().bucket("releases").key("one").send().await.unwrap();
        assert_eq!(bytes.e_tag(), output.e_tag(), "the old object is intact");
        assert_eq!(bytes.body.collect().await.unwrap().into_bytes(), vec![5; 3_000_000], "and verifies");
    }
    served.stop().await;
}

/// A server that answers every request in the same way.
async fn answering(answer: &'static [u8]) -> Store {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 1 << 16];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
            });
        }
    });
    let credentials = Some(("key".to_owned(), Secret::new("secret")));
    let (bucket, prefix) = ("releases".to_owned(), String::new());
    // It answers no better the next time.
    let settings = store::Settings { attempts: 2, pause: Duration::from_millis(1), ..Default::default() };
    let location = Location::S3 { bucket, prefix, endpoint, region: None, credentials };
    Store::open_with(&location, &settings).await.unwrap()
}

#[tokio::test]
async fn an_error_inside_of_an_answer_200_is_a_failure() {
    let store = answering(
        b"HTTP/1.1 200 OK\r\ncontent-length: 45\r\nconnection: close\r\n\r\n<Error><Code>InternalError</Code></Error>     ",
    )
    .await;
    let put = store.objects().put("refs/a", Body::Bytes(Bytes::from("a")), Condition::Absent).await.unwrap_err();
    assert!(matches!(put, Error::Unavailable { .. }), "{put:?}");
    let get = store.read("refs/a").await.unwrap_err();
    assert!(matches!(get, Error::Unavailable { .. }), "{get:?}");
}

#[tokio::test]
async fn a_body_that_ends_early_is_a_failure() {
    let store =
        answering(b"HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: 1000\r\nconnection: close\r\n\r\nshort").await;
    let read = store.read("refs/a").await.unwrap_err();
    assert!(read.to_string().contains("5 of 1000 bytes"), "{read}");
}

#[tokio::test]
async fn opening_is_quick() {
    let directory = tempfile::tempdir().unwrap();
    let store = embedded(directory.path()).await;
    store.create("refs/a", Bytes::from("a")).await.unwrap();
    let begun = Instant::now();
    for _ in 0..5 {
        assert!(embedded(directory.path()).await.read("refs/a").await.unwrap().is_some());
    }
    let each = begun.elapsed() / 5;
    println!("opening and reading one reference takes {each:?}");
    assert!(each < Duration::from_millis(500), "{each:?}");
}

fn record_of(directory: &Path, key: &str) -> std::fs::File {
    let path = directory.join("buckets/sealift").join(format!("{key}@"));
    std::fs::File::options().read(true).write(true).open(path).unwrap()
}

#[tokio::test]
async fn one_damaged_object_hides_no_other_and_heals() {
    let directory = tempfile::tempdir().unwrap();
    let store = embedded(directory.path()).await;
    let digest = store.put_bytes(Family::Pack, Bytes::from("one")).await.unwrap();
    store.put_bytes(Family::Pack, Bytes::from("two")).await.unwrap();
    let key = Store::key(Family::Pack, &digest);
    record_of(directory.path(), &key).set_len(2).unwrap();
    // It is listed, with a size that makes whoever has it send it again.
    let listed = store.list("").await.unwrap();
    assert_eq!(listed.len(), 2);
    let (_, meta) = listed.iter().find(|(listed, _)| *listed == key).unwrap();
    assert_eq!((meta.size, meta.etag.trim_matches('"')), (0, "damaged"));
    assert!(meta.modified.is_some(), "its age is known");
    // To read it, or ask for it, names it.
    for error in [store.objects().head(&key).await.unwrap_err(), store.verify(Family::Pack, &digest).await.unwrap_err()]
    {
        assert!(matches!(&error, Error::Damaged { key: named, .. } if *named == key), "{error}");
    }
    store.put_bytes(Family::Pack, Bytes::from("one")).await.unwrap();
    assert_eq!(store.verify(Family::Pack, &digest).await.unwrap(), 3);
    // And it can be removed.
    record_of(directory.path(), &key).set_len(2).unwrap();
    store.objects().delete(&key).await.unwrap();
    assert_eq!(store.list("").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_torn_description_of_one_upload_hides_no_other_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let torn = directory.path().join("uploads/0123456789abcdef0123456789abcdef");
    {
        let store = embedded(directory.path()).await;
        store.create("releases/a", Bytes::from("a")).await.unwrap();
        std::fs::create_dir(&torn).unwrap();
        std::fs::write(torn.join("meta.json"), b"{\"buck").unwrap();
        assert_eq!(store.unfinished_uploads("packs/").await.unwrap(), []);
    }
    // The next process to write removes it.
    let store = embedded(directory.path()).await;
    store.create("releases/b", Bytes::from("b")).await.unwrap();
    assert!(!torn.exists());
}

/// Not a test of its own: what the next one runs with few descriptors.
#[tokio::test]
async fn child_sends_many_parts() {
    let Ok(directory) = std::env::var("STORE_TEST_MANY_PARTS") else { return };
    let store = embedded(Path::new(&directory)).await;
    let file = tempfile::NamedTempFile::new_in(&directory).unwrap();
    file.as_file().set_len(PARTS * (8 << 20)).unwrap();
    let body = Body::File { path: file.path().to_owned(), offset: 0, length: PARTS * (8 << 20) };
    store.objects().put("files/many", body, Condition::None).await.unwrap();
    println!("\nit is stored");
}

const PARTS: u64 = 34;

#[test]
fn many_parts_need_few_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("sh");
    // Enough for what a process and a store of its own need, and not for all parts.
    command.args(["-c", "ulimit -n 40; exec \"$0\" --exact child_sends_many_parts --nocapture"]);
    command.arg(std::env::current_exe().unwrap()).env("STORE_TEST_MANY_PARTS", directory.path());
    let output = command.output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("it is stored"), "{told}");
}
