//! Images of several platforms, layouts that others made, and what skopeo and the engines say of ours.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use common::{compress, created, entry, file, oci, real, tar, write};
use domain::{Class, Digest, Events, config::OciBuild};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn labels() -> BTreeMap<String, String> {
    let label = |key: &str, value: &str| (format!("org.opencontainers.image.{key}"), value.to_owned());
    BTreeMap::from([label("version", "1.0.0"), label("source", "https://code.example/wine"), label("title", "wine")])
}

fn build(spec: &OciBuild, root: &Path, to: &Path) -> image::Result<image::Built> {
    image::build_oci(spec, root, &labels(), created(), to, &Events::nowhere())
}

/// An image for two platforms with a file of its own in each, and one in both.
fn two(root: &Path) -> (OciBuild, image::Built) {
    write(root, "amd64", "for amd64", 0o755);
    write(root, "arm64", "for arm64", 0o755);
    write(root, "etc/both", "for both", 0o644);
    let mut spec = oci(&[("etc", "/etc", None), ("amd64", "/app/run", None), ("arm64", "/app/run", None)]);
    spec.platforms = vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()];
    spec.files[1].platform = Some("linux/amd64".to_owned());
    spec.files[2].platform = Some("linux/arm64/v8".to_owned());
    spec.files[0].owner = Some((1000, 3_000_000));
    spec.ports = vec!["8080".to_owned(), "53/udp".to_owned()];
    let built = build(&spec, root, &root.join("layout")).unwrap();
    (spec, built)
}

fn blob(layout: &Path, digest: &Digest) -> Value {
    serde_json::from_slice(&fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap()).unwrap()
}

#[test]
fn several_platforms_are_an_index_and_each_has_its_own_files() {
    let root = tempfile::tempdir().unwrap();
    let (spec, built) = two(root.path());
    assert_eq!(built.root(), built.index.unwrap());
    let names: Vec<&str> = built.platforms.iter().map(|image| image.platform.as_str()).collect();
    assert_eq!(names, ["linux/amd64", "linux/arm64"]);
    assert_eq!((built.manifest, &built.layers), (built.platforms[0].manifest, &built.platforms[0].layers));
    assert_eq!(built.platforms[0].layers[0], built.platforms[1].layers[0], "what is the same is one layer");
    assert_ne!(built.platforms[0].layers[1], built.platforms[1].layers[1]);
    assert_eq!(image::open(&built.layout).unwrap(), built);
    let index = blob(&built.layout, &built.root());
    assert_eq!(index["annotations"]["org.opencontainers.image.source"], "https://code.example/wine");
    assert_eq!(index["manifests"][1]["platform"]["architecture"], "arm64");
    let manifest = blob(&built.layout, &built.platforms[1].manifest);
    assert_eq!(manifest["annotations"]["org.opencontainers.image.version"], "1.0.0");
    assert!(manifest["annotations"].get("org.opencontainers.image.title").is_none());
    let config = blob(&built.layout, &built.platforms[1].config);
    assert_eq!(config["config"]["ExposedPorts"], json!({"53/udp": {}, "8080/tcp": {}}));

    let blobs = image::blobs(&built.layout).unwrap();
    assert_eq!(blobs.last().unwrap().0, built.root());
    assert_eq!(blobs.len(), blobs.iter().map(|(digest, ..)| digest).collect::<BTreeSet<_>>().len());
    assert_eq!(blobs.iter().map(|(.., size)| size).sum::<u64>(), built.bytes);
    let place = |digest: &Digest| blobs.iter().position(|(there, ..)| there == digest).unwrap();
    for image in &built.platforms {
        assert!(image.layers.iter().chain([&image.config]).all(|child| place(child) < place(&image.manifest)));
        assert!(image.bytes < built.bytes);
    }
    // The one for this machine is unpacked.
    image::unpack(&built.layout, &root.path().join("rootfs"), &image::Limits::default()).unwrap();
    let host = if cfg!(target_arch = "aarch64") { "for arm64" } else { "for amd64" };
    assert_eq!(fs::read_to_string(root.path().join("rootfs/app/run")).unwrap(), host);
    let layer = fs::read(built.layout.join("blobs/sha256").join(built.layers[0].hex())).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.as_slice()));
    let owners: Vec<(String, u64, u64)> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.path().unwrap().display().to_string(), entry.header().uid().unwrap(), entry.header().gid().unwrap())
        })
        .collect();
    assert_eq!(owners, [("etc/".to_owned(), 1000, 3_000_000), ("etc/both".to_owned(), 1000, 3_000_000)]);

    let copy = root.path().join("copy");
    fs::create_dir_all(copy.join("blobs/sha256")).unwrap();
    for (digest, path, _) in &blobs {
        fs::copy(path, copy.join("blobs/sha256").join(digest.hex())).unwrap();
    }
    let assembled = image::assemble(&built.root(), &copy).unwrap();
    assert_eq!(image::Built { layout: built.layout.clone(), ..assembled }, built);
    let copied = image::copy_layout(&built.layout, &root.path().join("copied")).unwrap();
    assert_eq!(image::Built { layout: built.layout.clone(), ..copied }, built);

    for (change, text) in [
        (
            &(|spec: &mut OciBuild| spec.files[1].platform = Some("linux/s390x".to_owned())) as &dyn Fn(&mut OciBuild),
            "is no platform of the image",
        ),
        (&|spec| spec.platforms.push("linux/arm64/v8".to_owned()), "is named twice"),
        (&|spec| spec.platforms.push("linux".to_owned()), "is not understood"),
        (&|spec| spec.platforms.clear(), "has no platform"),
    ] {
        let mut spec = spec.clone();
        change(&mut spec);
        let error = build(&spec, root.path(), &root.path().join("other")).unwrap_err();
        assert!(error.class() == Class::BadInput && error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_base_of_several_platforms_keeps_what_only_it_says() {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().join("base");
    let foreign = Foreign::new(&base);
    let run = json!({
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30_000_000_000_i64, "Retries": 3}, "OnBuild": ["RUN x"],
        "StopSignal": "SIGQUIT", "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}}, "Cmd": ["old"], "Env": ["PATH=/bin"],
    });
    let one = foreign.image("amd64", &[("zstd", tar(&[file("a", "amd64")]))], run.clone());
    let other = foreign.image("arm64", &[("gzip", tar(&[file("a", "arm64")]))], run.clone());
    foreign.root(foreign.index(&[one.clone(), other]));
    write(root.path(), "run", "run", 0o755);
    let mut spec = oci(&[("run", "/app/run", None)]);
    spec.base = "oci-layout:base".to_owned();
    spec.platforms = vec!["linux/arm64".to_owned(), "linux/amd64".to_owned()];
    spec.ports = vec!["8080".to_owned()];
    let built = build(&spec, root.path(), &root.path().join("layout")).unwrap();
    assert_eq!(image::open(&built.layout).unwrap(), built);
    for image in &built.platforms {
        let config = blob(&built.layout, &image.config);
        assert_eq!(config["history"].as_array().unwrap().len(), image.layers.len());
        let config = config["config"].clone();
        for key in ["Healthcheck", "OnBuild", "StopSignal", "Volumes"] {
            assert_eq!(config[key], run[key], "{key}");
        }
        assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "8080/tcp": {}}));
        assert_eq!((&config["Cmd"], &config["Env"]), (&json!(["--serve"]), &json!(["PATH=/bin", "PORT=8080"])));
    }
    let manifest = blob(&built.layout, &built.platforms[1].manifest);
    assert_eq!(manifest["annotations"]["org.opencontainers.image.base.digest"], one["digest"]);
    assert!(manifest["layers"][0]["mediaType"].as_str().unwrap().ends_with("+zstd"));
    // Old engines do not read zstd: they find that layer unpacked.
    let mut archive = Vec::new();
    image::docker_archive_for(&built.layout, "linux/amd64", Some("wine:1"), &mut archive).unwrap();
    let out = root.path().join("out");
    tar::Archive::new(archive.as_slice()).unpack(&out).unwrap();
    let listed: Value = serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
    let plain = fs::read(out.join(listed[0]["Layers"][0].as_str().unwrap())).unwrap();
    assert_eq!(Digest::of(&plain).to_string(), blob(&out, &built.platforms[1].config)["rootfs"]["diff_ids"][0]);
    assert_eq!(image::open(&out).unwrap().manifest, built.platforms[1].manifest);
    spec.platforms = vec!["linux/s390x".to_owned()];
    let error = build(&spec, root.path(), &root.path().join("none")).unwrap_err();
    assert!(error.to_string().contains("it is for linux/amd64 and linux/arm64, not for linux/s390x"), "{error}");
}

/// Layouts as others write them, well or badly.
struct Foreign<'a> {
    layout: &'a Path,
}

impl<'a> Foreign<'a> {
    fn new(layout: &'a Path) -> Self {
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { layout }
    }

    fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn image(&self, architecture: &str, layers: &[(&str, Vec<u8>)], run: Value) -> Value {
        let identities: Vec<Digest> = layers.iter().map(|(_, layer)| Digest::of(layer)).collect();
        let layers: Vec<Value> = layers
            .iter()
            .map(|(packing, layer)| match *packing {
                "zstd" => self.put(&format!("{LAYER}+zstd"), &zstd::encode_all(layer.as_slice(), 3).unwrap()),
                "gzip" => self.put(&format!("{LAYER}+gzip"), &compress(layer)),
                _ => self.put(LAYER, layer),
            })
            .collect();
        let config = json!({"architecture": architecture, "os": "linux", "config": run,
            "rootfs": {"type": "layers", "diff_ids": identities}});
        let config = self.put(CONFIG, config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut descriptor = self.put(MANIFEST, manifest.to_string().as_bytes());
        descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
        descriptor
    }

    fn index(&self, manifests: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.put(INDEX, index.to_string().as_bytes())
    }

    fn root(&self, root: Value) {
        let index = json!({"schemaVersion": 2, "manifests": [root]});
        fs::write(self.layout.join("index.json"), index.to_string()).unwrap();
    }

    fn small(&self, architecture: &str) -> Value {
        self.image(architecture, &[("gzip", tar(&[file("a", architecture)]))], json!({}))
    }
}

#[test]
fn attestations_are_kept_and_are_no_platform() {
    let root = tempfile::tempdir().unwrap();
    let foreign = Foreign::new(root.path());
    let statement = foreign.put("application/vnd.in-toto+json", b"{}");
    let config = foreign.put(CONFIG, b"{\"architecture\":\"unknown\",\"os\":\"unknown\",\"config\":{},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}");
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [statement.clone()]});
    let mut attestation = foreign.put(MANIFEST, manifest.to_string().as_bytes());
    attestation["platform"] = json!({"architecture": "unknown", "os": "unknown"});
    let index = foreign.index(&[foreign.small("amd64"), attestation.clone()]);
    foreign.root(index.clone());
    let built = image::open(root.path()).unwrap();
    assert_eq!(built.platforms.len(), 1);
    assert_eq!(built.root().to_string(), index["digest"]);
    let blobs: Vec<String> = image::blobs(root.path()).unwrap().iter().map(|(digest, ..)| digest.to_string()).collect();
    assert_eq!(blobs.len(), 7);
    for kept in [&statement, &attestation, &config] {
        assert!(blobs.iter().any(|blob| kept["digest"] == **blob), "{kept}");
    }
    let hex = statement["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    fs::write(root.path().join("blobs/sha256").join(&hex), "[]").unwrap();
    let error = image::open(root.path()).unwrap_err();
    assert!(error.class() == Class::Integrity && error.to_string().contains(&hex), "{error}");
}

/// What is wrong with a layout, and what is said of it.
type Case<'a> = (&'a str, &'a dyn Fn(&Foreign<'_>), &'a str);

#[test]
fn layouts_that_mislead_are_refused() {
    let nested = |foreign: &Foreign<'_>, depth: usize| {
        (0..depth).fold(foreign.small("amd64"), |inner, _| foreign.index(&[inner]))
    };
    let foreign_layer = |foreign: &Foreign<'_>, media_type: &str, urls: Value| {
        let image = foreign.small("amd64");
        let hex = image["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        let mut manifest: Value =
            serde_json::from_slice(&fs::read(foreign.layout.join("blobs/sha256").join(hex)).unwrap()).unwrap();
        manifest["layers"][0]["mediaType"] = json!(media_type);
        manifest["layers"][0]["urls"] = urls;
        foreign.root(foreign.put(MANIFEST, manifest.to_string().as_bytes()));
    };
    let gzip = format!("{LAYER}+gzip");
    let cases: &[Case<'_>] = &[
        ("nothing", &|f| f.root(f.index(&[])), "0 images"),
        ("too deep", &|f| f.root(nested(f, 6)), "nested deeper than 4"),
        (
            "a loop",
            &|f| {
                // No index can hold its own digest; one that says so has other bytes.
                let own = Digest::of(b"loop");
                let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": INDEX, "digest": own, "size": 4}]});
                fs::write(f.layout.join("blobs/sha256").join(own.hex()), index.to_string()).unwrap();
                f.root(json!({"mediaType": INDEX, "digest": own, "size": index.to_string().len()}));
            },
            "with digest",
        ),
        (
            "too many",
            &|f| {
                let image = f.small("amd64");
                f.root(f.index(&vec![image; 1001]));
            },
            "more than 1000 manifests",
        ),
        (
            "two at once",
            &|f| {
                let image = f.small("amd64");
                let both = json!({"schemaVersion": 2, "manifests": [image], "config": {}, "layers": []});
                f.root(f.put(INDEX, both.to_string().as_bytes()));
            },
            "at once",
        ),
        (
            "an index for a manifest",
            &|f| {
                let mut index = f.index(&[f.small("amd64")]);
                index["mediaType"] = json!(MANIFEST);
                f.root(index);
            },
            "it is no image manifest",
        ),
        (
            "a manifest for an index",
            &|f| {
                let mut image = f.small("amd64");
                image["mediaType"] = json!(INDEX);
                f.root(image);
            },
            "it is no image index",
        ),
        (
            "another platform",
            &|f| {
                let mut image = f.small("amd64");
                image["platform"]["architecture"] = json!("arm64");
                f.root(f.index(&[image]));
            },
            "says that it is for linux/arm64, its configuration linux/amd64",
        ),
        (
            "two sizes",
            &|f| {
                let (one, mut other) = (f.small("amd64"), f.small("amd64"));
                other["size"] = json!(1);
                f.root(f.index(&[one, other]));
            },
            "and 1 bytes",
        ),
        (
            "a lying size",
            &|f| {
                let mut image = f.small("amd64");
                image["size"] = json!(1_000_000);
                f.root(image);
            },
            "not 1000000 bytes",
        ),
        (
            "two images",
            &|f| {
                let index = json!({"schemaVersion": 2, "manifests": [f.small("amd64"), f.small("arm64")]});
                fs::write(f.layout.join("index.json"), index.to_string()).unwrap();
            },
            "it holds 2 images where one is expected",
        ),
        (
            "a large manifest",
            &|f| {
                let filler = json!({"schemaVersion": 2, "manifests": [], "annotations": {"x": "y".repeat(4 << 20)}});
                f.root(f.put(INDEX, filler.to_string().as_bytes()));
            },
            "larger than 4194304 bytes",
        ),
        (
            "a foreign layer",
            &|f| foreign_layer(f, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", json!([])),
            "it is a foreign layer",
        ),
        (
            "Docker's foreign layer",
            &|f| {
                foreign_layer(
                    f,
                    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                    json!(["https://far.example/x"]),
                )
            },
            "to be fetched from https://far.example/x",
        ),
        (
            "a foreign layer that is not there",
            &|f| {
                let image = f.small("amd64");
                let hex = image["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
                let manifest = fs::read_to_string(f.layout.join("blobs/sha256").join(hex)).unwrap();
                let layer: Value = serde_json::from_str(&manifest).unwrap();
                let name = layer["layers"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
                fs::remove_file(f.layout.join("blobs/sha256").join(name)).unwrap();
                let manifest = manifest.replace("layer.v1.tar", "layer.nondistributable.v1.tar");
                f.root(f.put(MANIFEST, manifest.as_bytes()));
            },
            "it is a foreign layer",
        ),
        (
            "a layer with an address",
            &|f| foreign_layer(f, &gzip, json!(["https://far.example/x"])),
            "it is a foreign layer",
        ),
        (
            "a wrong identity",
            &|f| {
                let config = f.put(CONFIG, json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x")]}}).to_string().as_bytes());
                let layer = f.put(&gzip, &compress(&tar(&[file("a", "x")])));
                f.root(f.put(
                    MANIFEST,
                    json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string().as_bytes(),
                ));
            },
            "the configuration says",
        ),
        (
            "a wrong packing",
            &|f| {
                let layer = tar(&[entry("a", b'0', "", 0o644, b"x")]);
                let config = f.put(CONFIG, json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}}).to_string().as_bytes());
                let layer = f.put(&format!("{LAYER}+zstd"), &compress(&layer));
                f.root(f.put(
                    MANIFEST,
                    json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string().as_bytes(),
                ));
            },
            "it cannot be read",
        ),
        (
            "duplicate keys",
            &|f| {
                let image = f.small("amd64");
                let text = format!(r#"{{"schemaVersion":2,"manifests":[{image}],"manifests":[]}}"#);
                f.root(f.put(INDEX, text.as_bytes()));
            },
            "duplicate field",
        ),
        (
            "deep JSON",
            &|f| {
                let text = format!(r#"{{"schemaVersion":2,"manifests":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
                f.root(f.put(INDEX, text.as_bytes()));
            },
            "is not understood",
        ),
    ];
    for (name, make, text) in cases {
        let root = tempfile::tempdir().unwrap();
        make(&Foreign::new(root.path()));
        let error = image::open(root.path()).unwrap_err();
        assert!(matches!(error.class(), Class::Integrity | Class::BadInput), "{name}: {error}");
        assert!(error.to_string().contains(text), "{name}: {error}");
        if *name != "two images" {
            assert!(
                image::unpack(root.path(), &root.path().join("rootfs"), &image::Limits::default()).is_err(),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn a_base_of_a_registry_is_pinned_fetched_once_and_found_again() {
    let Some(registry) = real("SEALIFT_TEST_REGISTRY") else { return };
    let root = tempfile::tempdir().unwrap();
    let (_, base) = two(root.path());
    let repository = format!("{registry}/oci/{}", base.root().hex());
    let to = image::Destination { repository: repository.clone(), insecure: true };
    image::push(&base.layout, &to, &["1.0.0".to_owned()], &Events::nowhere()).await.unwrap();
    write(root.path(), "mine", "mine", 0o644);
    let mut spec = oci(&[("mine", "/etc/mine", None)]);
    spec.base = format!("{repository}:1.0.0");
    spec.base_insecure = true;
    spec.platforms = vec!["linux/arm64".to_owned()];
    let cache = root.path().join("cache");
    let error = image::fetch_base(&spec, &cache, &Events::nowhere()).await.unwrap_err();
    let pinned = format!("{repository}:1.0.0@{}", base.root());
    assert_eq!(error.hint(), Some(format!("write {pinned}").as_str()), "{error}");
    spec.base = pinned;
    let fetched = image::fetch_base(&spec, &cache, &Events::nowhere()).await.unwrap().unwrap();
    let labels = labels();
    let build = |spec: &OciBuild, fetched: &Path| {
        let to = tempfile::tempdir_in(root.path()).unwrap().keep();
        let inputs = image::OciInputs {
            spec,
            root: root.path(),
            labels: &labels,
            created: created(),
            base: Some(fetched),
            cache: &cache,
        };
        inputs.build(&to, &Events::nowhere())
    };
    let built = build(&spec, &fetched).unwrap();
    assert_eq!(image::open(&built.layout).unwrap(), built);
    assert_eq!(built.layers[..2], base.platforms[1].layers[..]);
    let annotations = &blob(&built.layout, &built.manifest)["annotations"];
    assert_eq!(annotations["org.opencontainers.image.base.name"], format!("{repository}:1.0.0"));
    assert_eq!(annotations["org.opencontainers.image.base.digest"], base.root().to_string());
    // Without the registry, from what was kept; and what was kept is not believed.
    let kept = fetched.join("blobs/sha256").join(built.layers[0].hex());
    let good = fs::read(&kept).unwrap();
    let mut elsewhere = spec.clone();
    elsewhere.base = elsewhere.base.replace(&registry, "127.0.0.1:1");
    let again = image::fetch_base(&elsewhere, &cache, &Events::nowhere()).await.unwrap().unwrap();
    assert_eq!((&again, build(&spec, &again).unwrap().manifest), (&fetched, built.manifest));
    let mut bad = good.clone();
    bad[30] ^= 1;
    fs::remove_file(&kept).unwrap();
    fs::write(&kept, &bad).unwrap();
    let error = build(&spec, &fetched).unwrap_err();
    assert_eq!(error.class(), Class::Integrity, "{error}");
    let fetched = image::fetch_base(&spec, &cache, &Events::nowhere()).await.unwrap().unwrap();
    assert_eq!(build(&spec, &fetched).unwrap().manifest, built.manifest);
    assert_eq!(fs::read(&kept).unwrap(), good);
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn skopeo_reads_and_copies_what_is_written() {
    let Some(skopeo) = real("SEALIFT_TEST_SKOPEO") else { return };
    let root = tempfile::tempdir().unwrap();
    let (_, built) = two(root.path());
    let at = |name: &str| root.path().join(name).display().to_string();
    let raw = run(&skopeo, &["inspect", "--raw", &format!("oci:{}", at("layout"))]);
    assert_eq!(Digest::of(raw.as_bytes()), built.root());
    run(&skopeo, &["copy", "--all", &format!("oci:{}", at("layout")), &format!("oci:{}:x", at("copy"))]);
    let copied = image::open(Path::new(&at("copy"))).unwrap();
    assert_eq!((copied.root(), copied.platforms), (built.root(), built.platforms.clone()));
    image::oci_archive(&built.layout, fs::File::create(at("image.tar")).unwrap()).unwrap();
    run(&skopeo, &["copy", "--all", &format!("oci-archive:{}", at("image.tar")), &format!("dir:{}", at("dir"))]);
    let said: Value = serde_json::from_str(&run(
        &skopeo,
        &["inspect", "--override-arch", "arm64", &format!("oci-archive:{}", at("image.tar"))],
    ))
    .unwrap();
    assert_eq!((&said["Architecture"], &said["Digest"]), (&json!("arm64"), &json!(built.root())));
    image::docker_archive_for(
        &built.layout,
        "linux/arm64",
        Some("reg.example/wine:1.0.0"),
        fs::File::create(at("docker.tar")).unwrap(),
    )
    .unwrap();
    let said: Value = serde_json::from_str(&run(
        &skopeo,
        &["inspect", "--override-arch", "arm64", "--config", &format!("docker-archive:{}", at("docker.tar"))],
    ))
    .unwrap();
    assert_eq!((&said["architecture"], &said["config"]["WorkingDir"]), (&json!("arm64"), &json!("/app")));
}

#[test]
fn the_engines_load_what_is_written() {
    let Some(cli) = real("SEALIFT_TEST_DOCKER_CLI") else { return };
    for variable in ["SEALIFT_TEST_DOCKER", "SEALIFT_TEST_DOCKER_NEWEST"] {
        let Some(engine) = real(variable) else { continue };
        let root = tempfile::tempdir().unwrap();
        let (_, built) = two(root.path());
        let name = format!("sealift-test.example/{}:1.0.0", built.root().hex());
        let path = root.path().join("docker.tar").display().to_string();
        image::docker_archive(&built.layout, Some(&name), fs::File::create(&path).unwrap()).unwrap();
        run(&cli, &["-H", &engine, "load", "-i", &path]);
        let id = run(&cli, &["-H", &engine, "image", "inspect", "--format", "{{.Id}}", &name]);
        let known = [built.root(), built.manifest, built.config].map(|digest| digest.to_string());
        assert!(known.iter().any(|digest| digest == id.trim()), "{variable}: {id} is none of {known:?}");
        run(&cli, &["-H", &engine, "image", "rm", &name]);
    }
}
