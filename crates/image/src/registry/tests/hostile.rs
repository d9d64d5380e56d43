//! Registries that lie. Each is refused in its own words, and what was there stays as it was.

use super::super::pull::pull_with;
use super::*;
use serde_json::json;

const INDEX: &str = spec::INDEX;
const MANIFEST: &str = spec::MANIFEST;

struct Image {
    root: Digest,
    layer: Digest,
    bytes: Vec<u8>,
}

/// Puts an image with one layer into the registry, under the tag `1.0.0`.
fn image(fake: &Fake, seed: u64, size: usize) -> Image {
    let layer = tar_of(&noise(seed, size));
    let identity = Digest::of(&layer);
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [identity]}})
        .to_string();
    fake.with(|state| {
        let layer_digest = state.blob("wine", &layer);
        let config_digest = state.blob("wine", config.as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": spec::CONFIG, "digest": config_digest, "size": config.len()},
            "layers": [{"mediaType": spec::LAYER_TAR, "digest": layer_digest, "size": layer.len()}]});
        let root = state.document("wine", "1.0.0", MANIFEST, manifest.to_string().as_bytes());
        Image { root, layer: layer_digest, bytes: layer.clone() }
    })
}

async fn pull(fake: &Fake, reference: &str, platforms: &[&str], to: &Path, access: &Access) -> Result<Built, Error> {
    let platforms: Vec<String> = platforms.iter().map(|one| (*one).to_owned()).collect();
    pull_with(&fake.at("wine"), reference, &platforms, to, &Events::nowhere(), access).await
}

/// Pulls beside things that must stay as they are, and gives the error.
async fn refused(fake: &Fake, reference: &str, access: &Access) -> Error {
    let root = tempfile::tempdir().unwrap();
    let to = root.path().join("layout");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("mine"), "mine").unwrap();
    fs::write(root.path().join("beside"), "beside").unwrap();
    let before = files(root.path());
    let wait = Duration::from_secs(60);
    let result = tokio::time::timeout(wait, pull(fake, reference, &[], &to, access)).await.unwrap();
    assert_eq!(files(root.path()), before, "something is left behind");
    result.unwrap_err()
}

#[tokio::test]
async fn an_image_is_pulled_and_what_is_there_is_not_fetched_again() {
    let fake = Fake::plain().await;
    let image = image(&fake, 20, 700_000);
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("deep/layout");
    let access = access(None);
    let built = pull(&fake, "1.0.0", &[], &to, &access).await.unwrap();
    assert_eq!((built.root(), built.layers.clone()), (image.root, vec![image.layer]));
    assert_eq!(crate::open(&to).unwrap().root(), image.root);
    let fetched = fake.with(|state| state.count("GET", "/blobs/"));
    let again = pull(&fake, &image.root.to_string(), &["linux/amd64"], &to, &access).await.unwrap();
    assert_eq!(again.root(), image.root);
    // The configuration is looked at for its platform.
    assert!(fake.with(|state| state.count("GET", "/blobs/")) <= fetched + 1);
    // Damage is healed.
    fs::write(layout::blobs_dir(&to).join(image.layer.hex()), vec![0; image.bytes.len()]).unwrap();
    pull(&fake, "1.0.0", &[], &to, &access).await.unwrap();
    assert_eq!(crate::open(&to).unwrap().root(), image.root);
    // Only the layout is left beside nothing.
    assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1);
    let error = pull(&fake, "1.0.0", &["linux/arm64"], &to, &access).await.unwrap_err();
    assert!(error.to_string().contains("linux/amd64") && error.class() == Class::NotFound, "{error}");
    let error = pull(&fake, "2.0.0", &[], &to, &access).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
}

/// Puts an index of three platforms into the registry under the tag `all`, and gives the digests of its images.
fn platforms(fake: &Fake) -> (Digest, Vec<Digest>) {
    let mut entries = Vec::new();
    let mut digests = Vec::new();
    for (number, architecture) in ["amd64", "arm64", "s390x"].into_iter().enumerate() {
        let layer = tar_of(&noise(40 + number as u64, 2000));
        let identities = [Digest::of(&layer)];
        let config =
            json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": identities}})
                .to_string();
        fake.with(|state| {
            let (layer_digest, config_digest) = (state.blob("wine", &layer), state.blob("wine", config.as_bytes()));
            let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
                "config": {"mediaType": spec::CONFIG, "digest": config_digest, "size": config.len()},
                "layers": [{"mediaType": spec::LAYER_TAR, "digest": layer_digest, "size": layer.len()}]})
            .to_string();
            let digest = state.document("wine", architecture, MANIFEST, manifest.as_bytes());
            entries.push(json!({"mediaType": MANIFEST, "digest": digest, "size": manifest.len(),
                "platform": {"os": "linux", "architecture": architecture}}));
            digests.push(digest);
        });
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    (fake.with(|state| state.document("wine", "all", INDEX, index.as_bytes())), digests)
}

#[tokio::test]
async fn platforms_are_chosen_and_an_index_that_is_taken_whole_keeps_its_digest() {
    let fake = Fake::plain().await;
    let (index, images) = platforms(&fake);
    let folder = tempfile::tempdir().unwrap();
    let to = |name: &str| folder.path().join(name);
    let access = access(None);
    let all = pull(&fake, "all", &[], &to("all"), &access).await.unwrap();
    assert_eq!((all.root(), all.index, all.platforms.len()), (index, Some(index), 3));
    let one = pull(&fake, "all", &["linux/arm64"], &to("one"), &access).await.unwrap();
    assert_eq!((one.root(), one.index, one.platform.as_str()), (images[1], None, "linux/arm64"));
    let two = pull(&fake, "all", &["linux/s390x", "linux/amd64"], &to("two"), &access).await.unwrap();
    let chosen: Vec<Digest> = two.platforms.iter().map(|image| image.manifest).collect();
    assert_eq!(chosen, [images[2], images[0]]);
    assert!(two.index.is_some_and(|own| own != index));
    let error = pull(&fake, "all", &["linux/riscv64"], &to("none"), &access).await.unwrap_err();
    assert!(error.to_string().contains("linux/amd64, linux/arm64, linux/s390x"), "{error}");
    assert!(!to("none").exists());
    // And back: an index goes to another repository as it is.
    let other = Fake::plain().await;
    let pushed = push(&all, &other.at("copy"), &["1.0.0"], &access).await.unwrap();
    assert_eq!((pushed.digest, pushed.blobs_sent), (index, 6));
    other.with(|state| assert_eq!(state.manifests.len(), 5));
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let mut broken = 0;
    let fake = Fake::start(move |request, state| {
        let digest = request.path().split("/blobs/").nth(1)?.to_owned();
        let bytes = state.blobs.get(&("wine".to_owned(), digest)).filter(|bytes| bytes.len() > 500_000)?;
        broken += 1;
        if broken > 2 || request.method != "GET" {
            return None;
        }
        let from = request
            .headers
            .get("range")
            .map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
        let status = if from == 0 {
            "200 OK".to_owned()
        } else {
            format!("206 Partial\r\nContent-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len())
        };
        let mut raw = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", bytes.len() - from).into_bytes();
        raw.extend_from_slice(&bytes[from..from + 200_000]);
        Some(Reply::Raw(raw))
    })
    .await;
    let image = image(&fake, 21, 700_000);
    let folder = tempfile::tempdir().unwrap();
    let built = pull(&fake, "1.0.0", &[], &folder.path().join("layout"), &access(None)).await.unwrap();
    assert_eq!(built.root(), image.root);
    fake.with(|state| {
        let ranges: Vec<_> = state.log.iter().filter_map(|one| one.headers.get("range")).collect();
        assert_eq!(ranges, ["bytes=200000-", "bytes=400000-"]);
    });
}

#[tokio::test]
async fn blobs_of_another_length_digest_or_end_are_refused() {
    type Lie = fn(&[u8]) -> Reply;
    let lies: &[(&str, Lie)] = &[
        ("with digest", |bytes| {
            let mut bytes = bytes.to_vec();
            bytes[1000] ^= 1;
            answer(200, &[], bytes)
        }),
        ("announces", |bytes| answer(200, &[], bytes[..1000].to_vec())),
        ("announces", |bytes| answer(200, &[], [bytes, b"more"].concat())),
        ("announces", |_| answer(200, &[("Content-Length", "99999999999999")], "x")),
        ("gives more than", |bytes| {
            Reply::Endless([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".as_slice(), bytes].concat())
        }),
        ("ended after", |bytes| {
            Reply::Raw([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".as_slice(), &bytes[..9]].concat())
        }),
        ("range", |bytes| answer(206, &[("Content-Range", "bytes 5-9/10")], bytes.to_vec())),
    ];
    for (words, lie) in lies {
        let fake = Fake::start(move |request, state| {
            let digest = request.path().split("/blobs/").nth(1)?.to_owned();
            let bytes = state.blobs.get(&("wine".to_owned(), digest)).filter(|bytes| bytes.len() > 50_000)?;
            (request.method == "GET").then(|| lie(bytes))
        })
        .await;
        let image = image(&fake, 22, 60_000);
        let error = refused(&fake, "1.0.0", &access(None)).await;
        assert!(
            error.to_string().contains(words) && error.to_string().contains(&image.layer.hex()),
            "{words}: {error}"
        );
        let class = if *words == "ended after" { Class::Unavailable } else { Class::Integrity };
        assert_eq!(error.class(), class, "{error}");
        if class == Class::Integrity {
            // Once more may help against a bad cable, and no oftener.
            assert_eq!(fake.with(|state| state.count("GET", &image.layer.hex())), 2, "{words}");
        }
    }
}

#[tokio::test]
async fn documents_that_lie_are_refused() {
    let big = vec![b' '; (4 << 20) + 1];
    let honest = json!({"schemaVersion": 2, "manifests": []}).to_string();
    type Lie = Box<dyn Fn() -> Reply + Send>;
    let of = |media_type: &'static str, body: Vec<u8>| -> Lie {
        Box::new(move || answer(200, &[("Content-Type", media_type)], body.clone()))
    };
    let wrong_digest: Lie = {
        let (body, other) = (honest.clone(), Digest::of(b"other").to_string());
        Box::new(move || answer(200, &[("Content-Type", INDEX), ("Docker-Content-Digest", &other)], body.clone()))
    };
    let endless: Lie = Box::new(|| {
        Reply::Endless(format!("HTTP/1.1 200 OK\r\nContent-Type: {MANIFEST}\r\nConnection: close\r\n\r\n").into_bytes())
    });
    let lies: Vec<(&str, Lie)> = vec![
        ("longer than 4194304", of(MANIFEST, big)),
        ("longer than 4194304", endless),
        ("is of type \"text/html\"", of("text/html", honest.clone().into_bytes())),
        ("does not have the fields", of(MANIFEST, honest.clone().into_bytes())),
        ("not understood", of(MANIFEST, b"<html>".to_vec())),
        ("with digest", wrong_digest),
    ];
    for (words, lie) in lies {
        let fake = Fake::start(move |request, _| request.is("GET", "/manifests/").then(&lie)).await;
        let error = refused(&fake, "1.0.0", &access(None)).await;
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.class(), Class::Integrity);
    }
    // By digest, the bytes of another document.
    let fake = Fake::start(|request, state| {
        let (media_type, bytes) = state.manifests[&("wine".to_owned(), "1.0.0".to_owned())].clone();
        request.is("GET", "/manifests/").then(|| answer(200, &[("Content-Type", &media_type)], bytes))
    })
    .await;
    image(&fake, 23, 10);
    let error = refused(&fake, &Digest::of(b"wanted").to_string(), &access(None)).await;
    assert!(error.to_string().contains("with digest") && error.class() == Class::Integrity, "{error}");
}

#[tokio::test]
async fn indexes_that_are_deep_many_or_lie_about_their_children_are_refused() {
    let entry = |media_type: &str, digest: Digest, size: usize| json!({"mediaType": media_type, "digest": digest, "size": size, "platform": {"os": "linux", "architecture": "amd64"}});
    let index = |entries: Vec<serde_json::Value>| {
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string()
    };
    let fake = Fake::plain().await;
    let image = image(&fake, 24, 10);
    let size = fake.with(|state| state.manifests[&("wine".to_owned(), "1.0.0".to_owned())].1.len());
    let mut below = (image.root, size, MANIFEST);
    let mut texts = Vec::new();
    for _ in 0..10 {
        let text = index(vec![entry(below.2, below.0, below.1)]);
        below = (fake.with(|state| state.document("wine", "deep", INDEX, text.as_bytes())), text.len(), INDEX);
        texts.push(text);
    }
    let documents = [
        ("nested too deep", texts.last().unwrap().clone()),
        ("names it as", index(vec![entry(MANIFEST, image.root, size + 1)])),
        ("names it as", index(vec![entry("application/x", image.root, size)])),
        ("announced as", index(vec![entry(spec::DOCKER_MANIFEST, image.root, size)])),
        ("is not there", index(vec![entry(MANIFEST, Digest::of(b"gone"), 4)])),
        ("more than 1000", index(vec![entry(MANIFEST, image.root, size); 1001])),
    ];
    for (words, text) in documents {
        let reply = text.clone();
        let lying = Fake::start(move |request, _| {
            request.is("GET", "/manifests/lie").then(|| answer(200, &[("Content-Type", INDEX)], reply.clone()))
        })
        .await;
        lying.with(|state| state.manifests = fake.with(|other| other.manifests.clone()));
        if words == "announced as" {
            // It gives the type that was named, over bytes that say another.
            lying.with(|state| {
                let key = ("wine".to_owned(), image.root.to_string());
                let bytes = state.manifests[&key].1.clone();
                state.manifests.insert(key, (spec::DOCKER_MANIFEST.to_owned(), bytes));
            });
        }
        let error = refused(&lying, "lie", &access(None)).await;
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.class(), Class::Integrity);
    }
}

#[tokio::test]
async fn documents_that_are_too_large_together_are_not_fetched() {
    let children = |count: usize, size: usize| {
        let entries: Vec<_> = (0..count)
            .map(|number| {
                json!({"mediaType": MANIFEST, "digest": Digest::of(number.to_string()), "size": size,
                    "platform": {"os": "linux", "architecture": format!("a{number}")}})
            })
            .collect();
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string()
    };
    for (words, text) in [("bytes together", children(17, 4 << 20)), ("too many", children(1000, 1))] {
        let fake = Fake::plain().await;
        fake.with(|state| state.document("wine", "large", INDEX, text.as_bytes()));
        let error = refused(&fake, "large", &access(None)).await;
        assert!(error.to_string().contains(words) && error.class() == Class::Integrity, "{error}");
        let folder = tempfile::tempdir().unwrap();
        let all: Vec<String> = (0..17).map(|number| format!("linux/a{number}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let error = pull(&fake, "large", &all, &folder.path().join("to"), &access(None)).await.unwrap_err();
        let chosen = if words == "too many" { "is not there" } else { words };
        assert!(error.to_string().contains(chosen), "{error}");
        let most = usize::from(words == "too many");
        assert_eq!(fake.with(|state| state.count("GET", "/manifests/sha256:")), most);
    }
}

#[tokio::test]
async fn more_is_not_read_than_can_be_attached() {
    let folder = tempfile::tempdir().unwrap();
    let root = layout_with(folder.path(), &[]).root();
    let bundle_type = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let entry = |bytes: &[u8], kind: &str| json!({"mediaType": MANIFEST, "digest": Digest::of(bytes), "size": bytes.len(), "artifactType": kind});
    let list = |entries: Vec<serde_json::Value>| {
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string()
    };
    // Nine bundles, each as large as one may be.
    let fake = Fake::plain().await;
    let mut entries = Vec::new();
    for number in 0..9 {
        let bytes = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": bundle_type,
            "layers": [{"mediaType": bundle_type, "digest": Digest::of(number.to_string()), "size": 32 << 20}],
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}"), "size": 2},
            "subject": {"mediaType": MANIFEST, "digest": root, "size": 3}})
        .to_string();
        fake.with(|state| state.document("wine", "x", MANIFEST, bytes.as_bytes()));
        entries.push(entry(bytes.as_bytes(), bundle_type));
    }
    let tag = format!("sha256-{}", root.hex());
    fake.with(|state| state.document("wine", &tag, INDEX, list(entries).as_bytes()));
    let error = attached_with(&writer(&fake).await, &root).await.unwrap_err();
    assert!(error.to_string().contains("bytes together") && error.class() == Class::Integrity, "{error}");
    assert_eq!(fake.with(|state| state.count("GET", "/blobs/")), 0);
    // Pages without an end, and a page beside a tag.
    let many = move |from: usize| list((from..from + 600).map(|n| entry(n.to_string().as_bytes(), "x")).collect());
    for pages in [true, false] {
        let mut page = 0;
        let fake = Fake::start(move |request, _| {
            if !request.target.contains("/referrers/") {
                return None;
            }
            page += 1;
            let link = format!("<{}?page={page}>; rel=\"next\"", request.path());
            let mut headers = vec![("Content-Type", INDEX)];
            headers.extend(pages.then_some(("Link", link.as_str())));
            Some(answer(200, &headers, many(page * 600)))
        })
        .await;
        fake.with(|state| state.document("wine", &tag, INDEX, many(0).as_bytes()));
        let error = attached_with(&writer(&fake).await, &root).await.unwrap_err();
        assert!(error.to_string().contains("more than 1000 entries"), "{error}");
        assert!(fake.with(|state| state.log.len()) <= 3);
    }
}

#[tokio::test]
async fn foreign_layers_and_layers_that_are_documents_are_refused_by_name() {
    for (media_type, words) in [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "is foreign"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", "is foreign"),
        (MANIFEST, "is said to be of type"),
    ] {
        let fake = Fake::plain().await;
        let image = image(&fake, 25, 10);
        let manifest = json!({"schemaVersion": 2, "config": {"mediaType": spec::CONFIG, "digest": Digest::of(b"c"), "size": 1},
            "layers": [{"mediaType": media_type, "digest": image.layer, "size": 3, "urls": ["http://169.254.169.254/"]}]});
        fake.with(|state| state.document("wine", "foreign", MANIFEST, manifest.to_string().as_bytes()));
        let error = refused(&fake, "foreign", &access(None)).await;
        assert!(error.to_string().contains(words) && error.to_string().contains(&image.layer.hex()), "{error}");
        assert_eq!(fake.with(|state| state.count("GET", "/blobs/")), 0);
    }
}

#[tokio::test]
async fn credentials_stay_when_a_blob_is_elsewhere_and_nobody_is_followed_anywhere_else() {
    let elsewhere = Fake::plain().await;
    let other = elsewhere.address.clone();
    let hook = move |request: &fake::Request, state: &mut fake::State| {
        if !request.headers.contains_key("authorization") {
            return Some(answer(401, &[("WWW-Authenticate", "Basic realm=\"r\"")], ""));
        }
        let path = request.path().to_owned();
        (request.method == "GET" && path.contains("/blobs/") && !state.has_referrers)
            .then(|| answer(307, &[("Location", &format!("http://{other}{path}?signature=s"))], ""))
    };
    let fake = Fake::start(hook).await;
    let image = image(&fake, 26, 1000);
    elsewhere.with(|state| state.blobs = fake.with(|own| own.blobs.clone()));
    let docker = docker_folder(&format!(
        r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}},"{}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#,
        fake.address, elsewhere.address
    ));
    let folder = tempfile::tempdir().unwrap();
    let access = access(Some(docker.path()));
    let built = pull(&fake, "1.0.0", &[], &folder.path().join("layout"), &access).await.unwrap();
    assert_eq!(built.root(), image.root);
    elsewhere.with(|state| {
        assert!(state.count("GET", "signature=s") >= 2);
        assert!(state.log.iter().all(|one| !one.headers.contains_key("authorization")));
        assert!(state.log.iter().all(|one| !one.headers.contains_key("referer")));
    });
}

#[tokio::test]
async fn redirects_and_locations_to_elsewhere_are_refused_and_nothing_is_sent_there() {
    let elsewhere = Fake::plain().await;
    let redirects = [
        ("nobody is sent to", "http://169.254.169.254/latest/meta-data".to_owned()),
        ("nobody is sent to", "http://[fe80::1]/".to_owned()),
        ("nobody is sent to", "http://0xa9fea9fe/".to_owned()),
        ("where no blob is", "ftp://127.0.0.1/x".to_owned()),
        ("where no blob is", format!("http://user:pw@{}/x", elsewhere.address)),
        ("a place that is none", "http://[".to_owned()),
        ("more than 5 times", "/v2/wine/blobs/again".to_owned()),
    ];
    for (words, location) in redirects {
        let fake = Fake::start(move |request, _| {
            request.is("GET", "/blobs/").then(|| answer(302, &[("Location", &location)], ""))
        })
        .await;
        image(&fake, 27, 10);
        let error = refused(&fake, "1.0.0", &access(None)).await;
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.class(), Class::Integrity, "{error}");
    }
    // Documents are not looked for elsewhere at all, and nothing is written there: neither the upload's place nor that of a later piece.
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[noise(28, 600_000)]);
    for (method, part, status) in [
        ("GET", "/manifests/", 307),
        ("PUT", "/manifests/", 307),
        ("POST", "/blobs/uploads/", 202),
        ("PATCH", "", 202),
        ("POST", "/blobs/uploads/", 307),
    ] {
        let location = format!("http://{}/v2/wine/blobs/uploads/x", elsewhere.address);
        let fake = Fake::start(move |request, _| {
            request.is(method, part).then(|| answer(status, &[("Location", &location), ("Range", "0-262143")], ""))
        })
        .await;
        let error = if method == "GET" {
            refused(&fake, "1.0.0", &access(None)).await
        } else {
            push(&built, &fake.at("wine"), &["1.0.0"], &access(None)).await.unwrap_err()
        };
        let words = ["sends us to another host", "sends us elsewhere"];
        assert!(words.iter().any(|words| error.to_string().contains(words)), "{method} {part}: {error}");
        assert_eq!(error.class(), Class::Integrity, "{error}");
    }
    elsewhere.with(|state| assert!(state.log.is_empty(), "{:?}", state.log));
}

#[tokio::test]
async fn lies_about_an_upload_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let built = layout_with(folder.path(), &[noise(29, 900_000)]);
    // It says that it has more than was sent; that it has a blob of another size; that it has what it then has not.
    type Hook = fn(&fake::Request, &mut fake::State) -> Option<Reply>;
    let lies: [(&str, Hook); 3] = [
        ("and was sent", |request, _| {
            let location = request.target.clone();
            (request.method == "PATCH").then(|| answer(202, &[("Range", "0-880000"), ("Location", &location)], ""))
        }),
        ("says that it has 5 bytes", |request, _| {
            request.is("HEAD", "/blobs/sha256").then(|| answer(200, &[("Content-Length", "5")], ""))
        }),
        ("does not have it", |request, _| request.is("HEAD", "/blobs/sha256").then(|| answer(404, &[], ""))),
    ];
    for (words, lie) in lies {
        let fake = Fake::start(lie).await;
        let error = push(&built, &fake.at("wine"), &["1.0.0"], &access(None)).await.unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.class(), Class::Integrity);
        fake.with(|state| assert!(state.manifests.is_empty()));
    }
    // A document that reads back as another.
    let fake = Fake::start(|request, state| {
        let written = state.count("PUT", "/manifests/") > 0;
        (written && request.is("HEAD", "/manifests/"))
            .then(|| answer(200, &[("Docker-Content-Digest", &Digest::of(b"other").to_string())], ""))
    })
    .await;
    let error = push(&built, &fake.at("wine"), &[], &access(None)).await.unwrap_err();
    assert!(error.to_string().contains("reads back as") && error.class() == Class::Integrity, "{error}");
}

#[tokio::test]
async fn a_download_that_trickles_ends_with_the_whole_work() {
    let fake = Fake::start(|request, state| {
        let digest = request.path().split("/blobs/").nth(1)?.to_owned();
        state.blobs.get(&("wine".to_owned(), digest)).filter(|bytes| bytes.len() > 50_000)?;
        let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
        Some(Reply::Trickle(head, Duration::from_millis(20)))
    })
    .await;
    image(&fake, 30, 60_000);
    let mut access = access(None);
    access.patience.total = Duration::from_millis(600);
    access.patience.slowest = u64::MAX;
    let began = Instant::now();
    let error = refused(&fake, "1.0.0", &access).await;
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn what_is_attached_to_another_image_or_is_no_bundle_is_refused() {
    let built_in = tempfile::tempdir().unwrap();
    let built = layout_with(built_in.path(), &[]);
    let bundle_type = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let descriptor = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()});
    let about = |subject: Digest, layers: serde_json::Value| {
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": bundle_type, "layers": layers,
            "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
            "subject": {"mediaType": MANIFEST, "digest": subject, "size": 3}})
        .to_string()
    };
    let root = built.root();
    let good = json!([descriptor(bundle_type, b"bundle")]);
    let huge = json!([{"mediaType": bundle_type, "digest": Digest::of(b"bundle"), "size": 1u64 << 40}]);
    for (words, manifest, there) in [
        ("is about another image", about(Digest::of(b"other"), good.clone()), true),
        ("does not hold one", about(root, json!([])), true),
        ("does not hold one", about(root, json!([descriptor("text/plain", b"bundle")])), true),
        ("more than", about(root, huge), true),
        ("listed and not there", about(root, good), false),
    ] {
        let fake = Fake::plain().await;
        fake.with(|state| {
            let digest = Digest::of(manifest.as_bytes());
            if there {
                state.document("wine", "x", MANIFEST, manifest.as_bytes());
            }
            let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
                {"mediaType": MANIFEST, "digest": digest, "size": manifest.len(), "artifactType": bundle_type}]});
            state.document("wine", &format!("sha256-{}", root.hex()), INDEX, list.to_string().as_bytes());
        });
        let error = attached_with(&writer(&fake).await, &root).await.unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.class(), Class::Integrity);
    }
}

#[tokio::test]
async fn a_document_with_a_key_twice_is_refused_wherever_it_comes_from() {
    let built_in = tempfile::tempdir().unwrap();
    let root = layout_with(built_in.path(), &[]).root();
    let (tag, two) = (format!("sha256-{}", root.hex()), r#"{"a": "1", "a": "2"}"#);
    let bundle_type = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let list = |entry: &str| format!(r#"{{"schemaVersion": 2, "mediaType": "{INDEX}", "manifests": [{entry}]}}"#);
    let entry = |bytes: &str, more: &str| {
        let (digest, size) = (Digest::of(bytes), bytes.len());
        format!(
            r#"{{"mediaType": "{MANIFEST}", "digest": "{digest}", "size": {size}, "artifactType": "{bundle_type}"{more}}}"#
        )
    };
    let doubled = list(&entry("x", &format!(r#", "annotations": {two}"#)));

    // The list of what is attached: under the tag, where it is not written over either, and from the API.
    let fake = Fake::plain().await;
    fake.with(|state| state.document("wine", &tag, INDEX, doubled.as_bytes()));
    let error = attached_with(&writer(&fake).await, &root).await.unwrap_err();
    assert!(error.to_string().contains("duplicate field `a`"), "{error}");
    assert!(error.to_string().contains("the list of what is attached"), "{error}");
    assert_eq!(error.class(), Class::Integrity);
    let reply = doubled.clone();
    let fake = Fake::start(move |request, _| {
        request.target.contains("/referrers/").then(|| answer(200, &[("Content-Type", INDEX)], reply.clone()))
    })
    .await;
    let error = attached_with(&writer(&fake).await, &root).await.unwrap_err();
    assert!(error.to_string().contains("duplicate field `a`") && error.class() == Class::Integrity, "{error}");

    // The manifest of a bundle.
    let manifest = format!(
        r#"{{"schemaVersion": 2, "mediaType": "{MANIFEST}", "artifactType": "{bundle_type}", "annotations": {two},
            "config": {{"mediaType": "application/vnd.oci.empty.v1+json", "digest": "{0}", "size": 2}},
            "layers": [{{"mediaType": "{bundle_type}", "digest": "{0}", "size": 2}}],
            "subject": {{"mediaType": "{MANIFEST}", "digest": "{root}", "size": 3}}}}"#,
        Digest::of(b"{}")
    );
    let fake = Fake::plain().await;
    fake.with(|state| {
        state.document("wine", "x", MANIFEST, manifest.as_bytes());
        state.document("wine", &tag, INDEX, list(&entry(&manifest, "")).as_bytes());
    });
    let error = attached_with(&writer(&fake).await, &root).await.unwrap_err();
    assert!(error.to_string().contains("duplicate field `a`"), "{error}");
    assert!(error.to_string().contains(&Digest::of(&manifest).to_string()), "{error}");
    assert_eq!((error.class(), fake.with(|state| state.count("GET", "/blobs/"))), (Class::Integrity, 0));

    // The configuration that says what an image is for: before a layer is fetched.
    let fake = Fake::plain().await;
    let config = r#"{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "x": {"a": 1, "a": 2}}"#;
    fake.with(|state| {
        let digest = state.blob("wine", config.as_bytes());
        let layer = state.blob("wine", b"layer");
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": spec::CONFIG, "digest": digest, "size": config.len()},
            "layers": [{"mediaType": spec::LAYER_TAR, "digest": layer, "size": 5}]});
        state.document("wine", "twice", MANIFEST, manifest.to_string().as_bytes())
    });
    let folder = tempfile::tempdir().unwrap();
    let error = pull(&fake, "twice", &["linux/amd64"], &folder.path().join("to"), &access(None)).await.unwrap_err();
    assert!(error.to_string().contains("wine:twice: its configuration"), "{error}");
    assert!(error.to_string().contains("duplicate field `a`") && error.class() == Class::Integrity, "{error}");
    assert_eq!(fake.with(|state| state.count("GET", "/blobs/")), 1);
}
