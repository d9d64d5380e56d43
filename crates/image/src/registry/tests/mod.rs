//! Against a registry that does what it is told; see `crates/image/tests/registry.rs` for a real one.

mod fake;
mod hostile;

use super::{
    Access, Attachment, Destination, Pushed,
    publish::{check_tags_with, publish_with},
    referrers::{attach_with, attached_with},
    session::{Purpose, Session},
};
use crate::{Error, layout, layout::Built, spec};
use domain::{Class, Digest, Events};
use fake::{Fake, Reply, access, answer};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// Bytes that do not compress and depend only on the seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A tar with one file, so that the layer is one that unpacks.
fn tar_of(content: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    archive.append_data(&mut header, "data", content).unwrap();
    archive.into_inner().unwrap()
}

/// A layout whose layers are these, uncompressed, so that their sizes are known.
fn layout_with(root: &Path, layers: &[Vec<u8>]) -> Built {
    let to = root.join("layout");
    let blobs = layout::create(&to).unwrap();
    let mut descriptors = Vec::new();
    let mut identities = Vec::new();
    for content in layers {
        let tar = tar_of(content);
        descriptors.push(layout::put(&blobs, spec::LAYER_TAR, &tar).unwrap());
        identities.push(format!("\"{}\"", Digest::of(&tar)));
    }
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        identities.join(",")
    );
    let platform = spec::Platform::parse("linux/amd64").unwrap();
    layout::seal(&to, config.as_bytes(), descriptors, platform).unwrap()
}

async fn push(built: &Built, to: &Destination, tags: &[&str], access: &Access) -> Result<Pushed, Error> {
    let pushed = publish(built, std::slice::from_ref(to), tags, access).await?;
    Ok(pushed[0].clone())
}

async fn publish(built: &Built, to: &[Destination], tags: &[&str], access: &Access) -> Result<Vec<Pushed>, Error> {
    let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
    publish_with(&built.layout, to, &tags, &Events::nowhere(), access).await
}

fn docker_folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    folder
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[]);
    // A port that was just free: nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let to = Destination { repository: format!("127.0.0.1:{port}/wine"), insecure: true };
    let error = push(&built, &to, &[], &access(None)).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_the_registry_stands() {
    for cut in [1, 100_000, 256 << 10, 700_001, 1_999_999] {
        let folder = tempfile::tempdir().unwrap();
        let built = layout_with(folder.path(), &[noise(1, 2_000_000)]);
        let fake = Fake::plain().await;
        fake.with(|state| state.cut_after = Some(cut));
        let pushed = push(&built, &fake.at("wine"), &["1.0.0"], &access(None)).await.unwrap();
        let total: u64 = crate::blobs(&built.layout).unwrap().iter().map(|(_, _, size)| size).sum();
        fake.with(|state| {
            // Every byte of every blob and manifest once, and the manifest once more under its tag; a cut may fall into a small blob, which begins again.
            let manifest = state.manifests[&("wine".to_owned(), "1.0.0".to_owned())].1.len();
            let config = 400;
            // One byte is what a registry cannot tell from none.
            let again = if cut == 1 { 1 + (256 << 10) } else { 0 };
            let most = total as usize + manifest + config + again;
            assert!(state.body_bytes <= most, "cut at {cut}: {} bytes, {most} expected", state.body_bytes);
            assert_eq!(state.blobs.len(), 2);
        });
        assert_eq!((pushed.blobs_sent, pushed.blobs_there, pushed.mounted), (2, 0, 0));
    }
}

#[tokio::test]
async fn a_registry_that_forgets_an_upload_gets_the_blob_again() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[noise(2, 900_000)]);
    let forgot = AtomicUsize::new(0);
    let fake = Fake::start(move |request, state| {
        if request.method == "PATCH"
            && request.headers["content-range"].starts_with("262144-")
            && forgot.fetch_add(1, SeqCst) == 0
        {
            state.uploads.clear();
        }
        None
    })
    .await;
    let pushed = push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap();
    assert_eq!(pushed.blobs_sent, 2);
    assert!(pushed.bytes_sent > 900_000 + 262_144, "{}", pushed.bytes_sent);
    fake.with(|state| assert_eq!(state.blobs.len(), 2));
}

#[tokio::test]
async fn pieces_that_are_too_large_become_smaller() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[noise(3, 900_000)]);
    let fake = Fake::start(|request, _| {
        (request.method == "PATCH" && request.body.len() > 70_000).then(|| answer(413, &[], "too large"))
    })
    .await;
    push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap();
    fake.with(|state| assert_eq!(state.blobs.len(), 2));
}

#[tokio::test]
async fn damage_on_disk_is_seen_before_the_registry_has_the_blob() {
    for size in [1000, 900_000] {
        let folder = tempfile::tempdir().unwrap();
        let built = layout_with(folder.path(), &[noise(4, size)]);
        let path = layout::blobs_dir(&built.layout).join(built.layers[0].hex());
        let mut bytes = fs::read(&path).unwrap();
        bytes[size / 2] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let fake = Fake::plain().await;
        let error = push(&built, &fake.at("wine"), &["1.0.0"], &access(None)).await.unwrap_err();
        assert!(matches!(&error, Error::Damaged { why, .. } if why.contains("not pushed")), "{error}");
        fake.with(|state| {
            assert!(state.manifests.is_empty());
            assert!(!state.blobs.contains_key(&("wine".to_owned(), built.layers[0].to_string())));
        });
        fs::write(&path, b"short").unwrap();
        let error = push(&built, &fake.at("wine"), &["1.0.0"], &access(None)).await.unwrap_err();
        assert_eq!(error.class(), Class::Integrity);
    }
}

#[tokio::test]
async fn blobs_are_mounted_from_the_other_destinations() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[noise(5, 400_000), noise(6, 1000)]);
    for refuses in [false, true] {
        let fake = Fake::plain().await;
        fake.with(|state| state.refuses_mounts = refuses);
        let pushed = publish(&built, &[fake.at("one"), fake.at("two")], &["1.0.0"], &access(None)).await.unwrap();
        assert_eq!((pushed[0].blobs_sent, pushed[0].mounted), (3, 0));
        let (sent, mounted) = if refuses { (3, 0) } else { (0, 3) };
        assert_eq!((pushed[1].blobs_sent, pushed[1].mounted), (sent, mounted));
        assert_eq!(pushed[1].bytes_sent == 0, !refuses);
        // No upload was begun that nobody ended.
        fake.with(|state| assert!(state.uploads.is_empty()));
    }
}

#[tokio::test]
async fn a_publish_that_died_at_the_fourth_of_five_is_finished_by_running_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[noise(7, 600_000)]);
    let (dead, mended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (dies, back) = (dead.clone(), mended.clone());
    let dying = Fake::start(move |request, _| {
        if request.method == "PATCH" && back.load(SeqCst) == 0 {
            dies.store(1, SeqCst);
        }
        (dies.load(SeqCst) == 1 && back.load(SeqCst) == 0).then_some(Reply::Cut)
    })
    .await;
    let fakes = [Fake::plain().await, Fake::plain().await, Fake::plain().await, dying, Fake::plain().await];
    let to: Vec<Destination> = fakes.iter().enumerate().map(|(n, fake)| fake.at(&format!("wine{n}"))).collect();
    let tags = ["1.0.0", "1.0", "1", "latest"];
    let error = publish(&built, &to, &tags, &access(None)).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.to_string().contains("wine3"), "{error}");
    for (number, fake) in fakes.iter().enumerate() {
        fake.with(|state| {
            // Nothing half visible: no tag anywhere, by digest everything or nothing.
            assert!(
                state.manifests.keys().all(|(_, name)| name.starts_with("sha256:")),
                "{:?}",
                state.manifests.keys()
            );
            assert_eq!(state.manifests.len(), usize::from(number < 3));
        });
    }
    assert_eq!(dead.load(SeqCst), 1);
    mended.store(1, SeqCst);
    let pushed = publish(&built, &to, &tags, &access(None)).await.unwrap();
    // The small blob of the fourth may have come through before it died.
    assert!(pushed[..3].iter().all(|one| (one.blobs_sent, one.blobs_there, one.bytes_sent) == (0, 2, 0)), "{pushed:?}");
    assert!(pushed[3].blobs_sent >= 1 && pushed[4].blobs_sent == 2, "{pushed:?}");
    // And once more: nothing is written at all.
    let before: Vec<usize> = fakes.iter().map(writes).collect();
    publish(&built, &to, &tags, &access(None)).await.unwrap();
    assert_eq!(fakes.iter().map(writes).collect::<Vec<_>>(), before);
    for fake in &fakes {
        fake.with(|state| {
            assert_eq!(state.manifests.len(), 5);
            for name in ["manifests/sha256:", "manifests/1.0.0", "manifests/1.0", "manifests/1", "manifests/latest"] {
                let exact = |path: &str| path.ends_with(name) || (name.ends_with(':') && path.contains(name));
                let puts = state.log.iter().filter(|one| one.method == "PUT" && exact(one.path())).count();
                assert_eq!(puts, 1, "{name}");
            }
        });
    }
}

fn writes(fake: &Fake) -> usize {
    fake.with(|state| state.log.iter().filter(|one| !matches!(one.method.as_str(), "GET" | "HEAD")).count())
}

#[tokio::test]
async fn a_version_that_points_elsewhere_stops_everything_before_the_first_byte() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[noise(8, 1000)]);
    let (one, two) = (Fake::plain().await, Fake::plain().await);
    let is = two.with(|state| state.document("wine", "1.0.0", spec::MANIFEST, b"{}"));
    let to = [one.at("wine"), two.at("wine")];
    let error = publish(&built, &to, &["latest", "1.0.0"], &access(None)).await.unwrap_err();
    assert!(
        matches!(&error, Error::TagTaken { tag, is: there, .. } if tag == "1.0.0" && *there == is.to_string()),
        "{error:?}"
    );
    assert_eq!((writes(&one), writes(&two)), (0, 0));
    let session = Session::open(&to[1], Purpose::Read, Vec::new(), &access(None)).await.unwrap();
    let tags = ["1.0.0".to_owned(), "latest".to_owned()];
    assert!(check_tags_with(&session, &tags, &built.root()).await.is_err());
    assert!(check_tags_with(&session, &tags, &is).await.is_ok());
    let error = publish(&built, &to, &["no/tag"], &access(None)).await.unwrap_err();
    assert_eq!(error.class(), Class::BadInput);
}

#[tokio::test]
async fn logging_in_again_when_a_token_ends_and_refreshing_with_an_identity_token() {
    // "me:secret", and an identity token, each for a registry whose tokens hold for seven requests.
    for (entry, method) in [(r#""auth":"bWU6c2VjcmV0""#, "GET"), (r#""identitytoken":"refresh me""#, "POST")] {
        let folder = tempfile::tempdir().unwrap();
        let built = layout_with(folder.path(), &[noise(9, 900_000)]);
        let (mut issued, mut used) = (0, 0);
        let fake = Fake::start(move |request, _| {
            if request.path() == "/token" {
                issued += 1;
                used = 0;
                let authorized = match request.method.as_str() {
                    "GET" => request.headers.get("authorization").map(String::as_str) == Some("Basic bWU6c2VjcmV0"),
                    _ => String::from_utf8_lossy(&request.body).contains("refresh_token=refresh+me"),
                };
                let body = format!(r#"{{"access_token":"t{issued}","expires_in":300}}"#);
                return Some(if authorized { answer(200, &[], body) } else { answer(401, &[], "") });
            }
            used += 1;
            let good = request.headers.get("authorization") == Some(&format!("Bearer t{issued}"));
            let realm =
                format!("Bearer realm=\"http://{}/token\",service=\"the \\\"service\\\"\"", request.headers["host"]);
            (!good || used > 7).then(|| answer(401, &[("WWW-Authenticate", &realm)], "who are you"))
        })
        .await;
        let config = format!(r#"{{"auths":{{"{}":{{{entry}}}}}}}"#, fake.address);
        let docker = docker_folder(&config);
        push(&built, &fake.at("wine"), &["1.0.0"], &access(Some(docker.path()))).await.unwrap();
        fake.with(|state| {
            let asked = state.log.iter().filter(|one| one.path() == "/token").collect::<Vec<_>>();
            assert!(asked.len() > 1 && asked.iter().all(|one| one.method == method), "{asked:?}");
            let said = format!("{}{}", asked[0].target, String::from_utf8_lossy(&asked[0].body));
            assert!(said.contains("scope=repository%3Awine%3Apull%2Cpush"), "{said}");
            assert!(said.contains("service=the+%22service%22"), "{said}");
            assert!(state.manifests.contains_key(&("wine".to_owned(), "1.0.0".to_owned())));
        });
        // Without credentials it is a refusal, in words that help.
        let error = push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap_err();
        assert_eq!(error.class(), Class::NotPermitted, "{error}");
    }
}

#[tokio::test]
async fn wrong_passwords_are_a_refusal_and_are_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[]);
    let fake = Fake::start(|_, _| Some(answer(401, &[("WWW-Authenticate", "Basic realm=\"r\"")], "no"))).await;
    let docker = docker_folder(&format!(r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#, fake.address));
    let error = push(&built, &fake.at("wine"), &[], &access(Some(docker.path()))).await.unwrap_err();
    assert_eq!(error.class(), Class::NotPermitted);
    assert!(
        error.to_string().contains("credentials that are known") && !error.to_string().contains("secret"),
        "{error}"
    );
    let error = push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap_err();
    assert!(error.to_string().contains("docker login"), "{error}");
    fake.with(|state| assert!(state.log.len() <= 4, "{}", state.log.len()));
}

#[tokio::test]
async fn what_passes_is_asked_again_and_a_wish_to_wait_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[noise(10, 1000)]);
    let mut number = 0;
    let fake = Fake::start(move |_, _| {
        number += 1;
        match number % 5 {
            0 => Some(answer(503, &[], "busy")),
            4 if number == 4 => Some(answer(429, &[("Retry-After", "1")], "slow down")),
            _ => None,
        }
    })
    .await;
    let began = Instant::now();
    push(&built, &fake.at("wine"), &["1.0.0"], &access(None)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    let fake = Fake::start(|_, _| Some(answer(429, &[("Retry-After", "86400")], "tomorrow"))).await;
    let error = push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap_err();
    assert!(error.to_string().contains("86400") && error.class() == Class::Unavailable, "{error}");
    let date = jiff::fmt::rfc2822::to_string(
        &(jiff::Timestamp::now() + Duration::from_secs(86_400)).to_zoned(jiff::tz::TimeZone::UTC),
    )
    .unwrap();
    let fake = Fake::start(move |_, _| Some(answer(503, &[("Retry-After", &date)], "tomorrow"))).await;
    let error = push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap_err();
    assert!(error.to_string().contains("wait for 86"), "{error}");
}

#[tokio::test]
async fn silence_ends() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[noise(11, 600_000)]);
    let mut access = access(None);
    access.patience.answer = Duration::from_millis(200);
    access.patience.stall = Duration::from_millis(200);
    access.patience.tries = 2;
    for part in ["/v2/wine/blobs/sha256", "/blobs/uploads/", "?_state=262144", "/manifests/"] {
        let fake = Fake::start(move |request, _| request.target.contains(part).then_some(Reply::Silence)).await;
        let error =
            tokio::time::timeout(Duration::from_secs(20), push(&built, &fake.at("wine"), &[], &access)).await.unwrap();
        let error = error.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{part}: {error}");
        assert!(error.to_string().contains("nothing moved"), "{part}: {error}");
    }
    // The whole work has an end too, however often it gets a little further.
    access.patience.total = Duration::from_millis(300);
    access.patience.slowest = u64::MAX;
    access.patience.tries = 1_000_000;
    let fake = Fake::start(|_, _| Some(answer(503, &[], "later"))).await;
    let error =
        tokio::time::timeout(Duration::from_secs(20), push(&built, &fake.at("wine"), &[], &access)).await.unwrap();
    assert_eq!(error.unwrap_err().class(), Class::Unavailable);
}

fn bundle(text: &str) -> Attachment {
    Attachment {
        bytes: text.as_bytes().to_vec(),
        predicate_type: "https://sigstore.dev/cosign/sign/v1".to_owned(),
        created: "2024-05-06T07:08:09Z".parse().unwrap(),
    }
}

async fn writer(fake: &Fake) -> Session {
    Session::open(&fake.at("wine"), Purpose::Write, Vec::new(), &access(None)).await.unwrap()
}

#[tokio::test]
async fn bundles_are_attached_once_with_and_without_a_referrers_api() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[]);
    for api in [true, false] {
        let fake = Fake::plain().await;
        fake.with(|state| state.has_referrers = api);
        push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap();
        let session = writer(&fake).await;
        let root = built.root();
        assert!(attached_with(&session, &root).await.unwrap().is_empty());
        let one = attach_with(&session, &root, &[bundle("one")], &Events::nowhere()).await.unwrap();
        let later = Attachment { created: "2025-01-01T00:00:00Z".parse().unwrap(), ..bundle("one") };
        let both = attach_with(&session, &root, &[later, bundle("two")], &Events::nowhere()).await.unwrap();
        assert_eq!(both[0], one[0]);
        let found = attached_with(&session, &root).await.unwrap();
        let mut texts: Vec<&[u8]> = found.iter().map(|one| one.bytes.as_slice()).collect();
        texts.sort_unstable();
        assert_eq!(texts, [b"one", b"two"]);
        assert!(found.iter().all(|one| both.contains(&one.manifest) && one.predicate_type.ends_with("sign/v1")));
        let tag = ("wine".to_owned(), format!("sha256-{}", root.hex()));
        fake.with(|state| assert_eq!(state.manifests.contains_key(&tag), !api));
        let elsewhere =
            attach_with(&session, &Digest::of(b"?"), &[bundle("one")], &Events::nowhere()).await.unwrap_err();
        assert_eq!(elsewhere.class(), Class::NotFound);
    }
}

#[tokio::test]
async fn a_listed_bundle_whose_record_is_torn_is_put_again_and_an_error_for_who_reads() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[]);
    let torn: Arc<Mutex<Option<String>>> = Arc::default();
    let told = torn.clone();
    // It fails whenever it is asked, until the document is put again.
    let fake = Fake::start(move |request, _| {
        let mut torn = told.lock().unwrap();
        let hit = torn.as_ref().is_some_and(|digest| request.target.ends_with(&format!("manifests/{digest}")));
        if hit && request.method == "PUT" {
            *torn = None;
        }
        (hit && request.method != "PUT").then(|| answer(500, &[], "torn"))
    })
    .await;
    push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap();
    let (session, root) = (writer(&fake).await, built.root());
    let both = [bundle("one"), bundle("two")];
    let digests = attach_with(&session, &root, &both, &Events::nowhere()).await.unwrap();
    *torn.lock().unwrap() = Some(digests[0].to_string());
    let error = attached_with(&session, &root).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert_eq!(attach_with(&session, &root, &both, &Events::nowhere()).await.unwrap(), digests);
    assert!(torn.lock().unwrap().is_none(), "it was put again");
    assert_eq!(attached_with(&session, &root).await.unwrap().len(), 2);
    // The tag that lists them is no entry: where it is torn, nothing is written over it.
    let tag = format!("sha256-{}", root.hex());
    *torn.lock().unwrap() = Some(tag.clone());
    let error = attach_with(&session, &root, &both, &Events::nowhere()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(torn.lock().unwrap().is_some(), "{tag} was written");
}

#[tokio::test]
async fn a_bundle_that_was_taken_away_is_missed_by_who_reads_and_put_back_by_who_attaches() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[]);
    let fake = Fake::plain().await;
    push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap();
    let (session, root) = (writer(&fake).await, built.root());
    let both = [bundle("one"), bundle("two")];
    let digests = attach_with(&session, &root, &both, &Events::nowhere()).await.unwrap();
    let place = ("wine".to_owned(), digests[0].to_string());
    fake.with(|state| state.manifests.remove(&place).unwrap());
    let error = attached_with(&session, &root).await.unwrap_err();
    assert!(error.to_string().contains("it is listed and not there"), "{error}");
    let listed = |fake: &Fake| fake.with(|state| state.count("PUT", &format!("manifests/sha256-{}", root.hex())));
    let before = listed(&fake);
    assert_eq!(attach_with(&session, &root, &both, &Events::nowhere()).await.unwrap(), digests);
    assert_eq!(attached_with(&session, &root).await.unwrap().len(), 2);
    // The list names it still.
    assert_eq!(listed(&fake), before);
}

#[tokio::test]
async fn a_lost_race_for_the_fallback_tag_is_run_again_and_both_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[]);
    let races = Arc::new(AtomicUsize::new(0));
    let counted = races.clone();
    let root = built.root();
    let other = serde_json::json!({"mediaType": spec::MANIFEST, "digest": Digest::of(b"other"), "size": 5, "artifactType": "application/x"});
    let list = serde_json::json!({"schemaVersion": 2, "mediaType": spec::INDEX, "manifests": [other]}).to_string();
    let fake = Fake::start(move |request, state| {
        let tag = format!("sha256-{}", root.hex());
        // Somebody who had read the empty tag writes it right after us: before it is read back, and after.
        let after_write = request.is("GET", &tag) && state.count("PUT", &tag) > 0;
        if after_write && matches!(counted.fetch_add(1, SeqCst), 0 | 3) {
            state.document("wine", &tag, spec::INDEX, list.as_bytes());
        }
        None
    })
    .await;
    push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap();
    let session = writer(&fake).await;
    attach_with(&session, &root, &[bundle("mine")], &Events::nowhere()).await.unwrap();
    assert_eq!(attached_with(&session, &root).await.unwrap().len(), 1);
    let (_, bytes) = fake.with(|state| state.manifests[&("wine".to_owned(), format!("sha256-{}", root.hex()))].clone());
    let list: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 2, "{list}");
    fake.with(|state| assert!(state.count("PUT", "manifests/sha256-") >= 3));
    assert!(races.load(SeqCst) >= 4);
}

#[tokio::test]
async fn what_the_api_does_not_list_is_listed_by_the_tag() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[]);
    let empty = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, spec::INDEX);
    let fake = Fake::start(move |request, _| {
        let asked = request.is("GET", "/referrers/");
        asked.then(|| answer(200, &[("Content-Type", spec::INDEX)], empty.clone()))
    })
    .await;
    push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap();
    let session = writer(&fake).await;
    let root = built.root();
    attach_with(&session, &root, &[bundle("one")], &Events::nowhere()).await.unwrap();
    assert_eq!(attached_with(&session, &root).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_listed_while_ours_was_written_down_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[]);
    let root = built.root();
    let tag = format!("sha256-{}", root.hex());
    let other = serde_json::json!({"mediaType": spec::MANIFEST, "digest": Digest::of(b"other"), "size": 5, "artifactType": "application/x"});
    let list = serde_json::json!({"schemaVersion": 2, "mediaType": spec::INDEX, "manifests": [other]}).to_string();
    let place = ("wine".to_owned(), tag.clone());
    let (mut looked, mut written) = (0, 0);
    let fake = Fake::start(move |request, state| {
        if request.is("HEAD", &tag) {
            looked += 1;
            if looked == 1 {
                // After we read the tag, and before we write it.
                state.document("wine", &tag, spec::INDEX, list.as_bytes());
            }
        }
        if request.is("PUT", &tag) {
            written += 1;
            // Our first write loses against another one at the same moment.
            return (written == 1).then(|| answer(201, &[], ""));
        }
        None
    })
    .await;
    push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap();
    let session = writer(&fake).await;
    attach_with(&session, &root, &[bundle("mine")], &Events::nowhere()).await.unwrap();
    assert_eq!(attached_with(&session, &root).await.unwrap().len(), 1);
    fake.with(|state| {
        let list: serde_json::Value = serde_json::from_slice(&state.manifests[&place].1).unwrap();
        assert_eq!(list["manifests"].as_array().unwrap().len(), 2, "{list}");
        assert_eq!((state.count("PUT", &place.1), state.count("HEAD", &place.1)), (2, 3));
    });
}

#[tokio::test]
async fn a_blob_that_cannot_be_mounted_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[noise(12, 5000)]);
    for status in [400, 401, 403, 404, 405, 500] {
        // The mount is refused, or the other repository does not say what it has.
        for looks in [false, true] {
            let fake = Fake::start(move |request, _| {
                let hit = if looks { request.is("HEAD", "/v2/one/blobs/sha256") } else { request.is("POST", "mount=") };
                (hit && request.target.contains("two") != looks).then(|| answer(status, &[], "no"))
            })
            .await;
            let access = access(None);
            fake.with(|state| {
                state.blobs.extend(
                    layout::blobs(&built.layout)
                        .unwrap()
                        .into_iter()
                        .map(|(digest, path, _)| (("one".to_owned(), digest.to_string()), fs::read(path).unwrap())),
                );
            });
            let session =
                Session::open(&fake.at("two"), Purpose::Write, vec!["one".to_owned()], &access).await.unwrap();
            for (digest, path, size) in layout::blobs(&built.layout).unwrap() {
                let source = Arc::new(super::upload::Source::new(digest, size, path));
                let fate = super::upload::put(&session, &source, &Arc::default(), None).await.unwrap();
                assert_eq!(fate, super::upload::Fate::Sent, "{status} {looks}");
            }
        }
    }
}

/// All files below a folder, with their bytes.
fn files(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let all = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().map(|entry| entry.unwrap().into_path());
    all.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}
