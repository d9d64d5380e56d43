//! Rows 21 and 22: bases that lie, through the verbs that would have to believe them.

use crate::{
    common::{refused, tree},
    layouts::{CONFIG, INDEX, LAYER, Layout, MANIFEST, entry, file, folder, pax, raw_entry, symlink, tar},
};
use domain::Digest;
use e2e::{
    Project, Run, Settings,
    campaign::{Lane, Random, Tally},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

const DOCUMENTS: &str = "row 21 hostile documents";
const LAYERS: &str = "row 22 hostile layers";
/// What refusing anything may take on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

pub(crate) fn lanes() -> Vec<Lane<'static>> {
    let mut lanes: Vec<Lane<'static>> = vec![(DOCUMENTS.to_owned(), Box::new(documents))];
    for part in 0..PARTS {
        let lane = move |tally: &Tally| layers(tally, part);
        lanes.push((format!("{LAYERS} {part}"), Box::new(lane)));
    }
    lanes
}

/// A project that builds over a base in its folder `base`, and something precious beside its repository.
fn project() -> Project {
    let build = "builder = \"oci\"\nbase = \"oci-layout:base\"\n\
                 files = [{ from = \"build/service\", to = \"/service\", mode = \"0755\" }]\nentrypoint = [\"/service\"]";
    let mut project = Project::service_with(Settings { gate: false, build: build.to_owned(), ..Settings::default() });
    project.write(".gitignore", format!("{}/base/\n/restored/\n", project.read(".gitignore")));
    project.commit("A base");
    project.settings.component = String::new();
    fs::create_dir(precious(&project)).unwrap();
    fs::write(precious(&project).join("file"), "precious").unwrap();
    project
}

fn precious(project: &Project) -> PathBuf {
    project.folder().join("precious")
}

/// Everything that no build, deploy or restore may touch.
fn outside(project: &Project) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = tree(project.folder());
    files.retain(|path, _| !path.starts_with("repository/.sealift") && !path.starts_with("repository/base"));
    files.retain(|path, _| !path.starts_with("repository/.git") && !path.starts_with("home"));
    files
}

/// Refused in time, in words, without a panic, with nothing outside and no half of an image.
fn is_refused(project: &Project, run: &Run, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let code = run.code.filter(|code| matches!(code, 65 | 73)).unwrap_or(65);
    let _ = refused(run, code);
    assert!(run.took < BOUND, "it took {:?}", run.took);
    assert!(*before == outside(project), "something was written outside");
    assert!(!project.path("restored").exists(), "half a restore was left");
    for folder in ["images", "tmp"] {
        for entry in fs::read_dir(project.path(".sealift/cache").join(folder)).into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name.len() == 64, "{name} was left in the cache's {folder}");
        }
    }
}

// Row 21 ---------------------------------------------------------------------------------------------------------------

/// A way to make a layout that no reader may accept.
type Make = Box<dyn Fn(&Path)>;

fn documents(tally: &Tally) {
    let project = project();
    let base = project.path("base");
    Layout::new(&base).image(&[tar(&[file("ordinary", "x")])], json!({}));
    project.run(["build"]).ok();
    for (what, make) in lies() {
        if tally.given_up(DOCUMENTS) {
            return;
        }
        make(&base);
        let before = outside(&project);
        tally.attempt(DOCUMENTS, what, || is_refused(&project, &project.run(["build"]), &before));
    }
    // Any byte of any document, as a disk or somebody else changes it: never believed.
    let mut random = Random::new(tally.seed, 2100);
    for _ in 0..24 {
        if tally.given_up(DOCUMENTS) {
            return;
        }
        Layout::new(&base).image(&[tar(&[file("ordinary", "x")])], json!({}));
        let blobs: Vec<PathBuf> =
            fs::read_dir(base.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()).collect();
        let path = &blobs[random.below(blobs.len() as u64) as usize];
        let mut bytes = fs::read(path).unwrap();
        let at = random.below(bytes.len() as u64 * 8);
        bytes[(at / 8) as usize] ^= 1 << (at % 8);
        fs::write(path, bytes).unwrap();
        let before = outside(&project);
        tally.attempt(DOCUMENTS, format!("bit {at} of {}", path.display()), || {
            is_refused(&project, &project.run(["build"]), &before);
        });
    }
}

/// An image whose manifest is changed before it is stored.
fn with_manifest(change: impl Fn(&Layout<'_>, &mut Value) + 'static) -> Make {
    Box::new(move |path| {
        let layout = Layout::new(path);
        let layers = [tar(&[file("ordinary", "x")])];
        let config = layout.put(CONFIG, layout.config(&layers, json!({})).to_string().as_bytes());
        let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": [layout.put(LAYER, &layers[0])]});
        change(&layout, &mut manifest);
        let text = match &manifest {
            Value::String(raw) => raw.clone(),
            other => other.to_string(),
        };
        layout.index(&[layout.put(MANIFEST, text.as_bytes())]);
    })
}

/// An image whose configuration is changed before it is stored.
fn with_config(change: impl Fn(&mut Value) + 'static) -> Make {
    with_manifest(move |layout, manifest| {
        let layers = [tar(&[file("ordinary", "x")])];
        let mut config = layout.config(&layers, json!({}));
        change(&mut config);
        let text = match &config {
            Value::String(raw) => raw.clone(),
            other => other.to_string(),
        };
        manifest["config"] = layout.put(CONFIG, text.as_bytes());
    })
}

/// An `index.json` of one's own, over a good image.
fn with_index(change: impl Fn(&Layout<'_>, Value) -> String + 'static) -> Make {
    Box::new(move |path| {
        let layout = Layout::new(path);
        layout.image(&[tar(&[file("ordinary", "x")])], json!({}));
        let index: Value = serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
        fs::write(path.join("index.json"), change(&layout, index["manifests"][0].clone())).unwrap();
    })
}

fn index_of(manifests: &[Value]) -> String {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string()
}

fn deep() -> String {
    format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))
}

#[allow(clippy::too_many_lines, reason = "one list of what somebody may write")]
fn lies() -> Vec<(&'static str, Make)> {
    let set = |pointer: &'static str, value: Value| {
        with_manifest(move |_, manifest| *manifest.pointer_mut(pointer).unwrap() = value.clone())
    };
    let raw_index = |text: String| with_index(move |_, _| text.clone());
    let elsewhere = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    vec![
        ("a configuration of another digest", set("/config/digest", json!(elsewhere))),
        ("a layer of another digest", set("/layers/0/digest", json!(elsewhere))),
        ("a digest that is a path", set("/layers/0/digest", json!("sha256:../../../../precious/file"))),
        ("a digest that is an absolute path", set("/layers/0/digest", json!("sha256:/etc/passwd"))),
        ("a digest of another length", set("/layers/0/digest", json!("sha256:abc"))),
        ("a digest in capitals", set("/layers/0/digest", json!(elsewhere.to_uppercase()))),
        ("a digest of another algorithm", set("/layers/0/digest", json!(format!("sha512:{}", "0".repeat(128))))),
        ("a layer that is longer than it says", set("/layers/0/size", json!(1))),
        ("a layer that is shorter than it says", set("/layers/0/size", json!(1_u64 << 40))),
        ("a layer of a negative size", set("/layers/0/size", json!(-1))),
        ("a layer of half a byte", set("/layers/0/size", json!(1.5))),
        ("a layer of a size beyond numbers", set("/layers/0/size", json!(1e300))),
        ("a layer of a size in words", set("/layers/0/size", json!("1"))),
        ("a layer of an unknown type", set("/layers/0/mediaType", json!("application/octet-stream"))),
        ("a layer that is a manifest", set("/layers/0/mediaType", json!(MANIFEST))),
        ("a layer that is called compressed", set("/layers/0/mediaType", json!(format!("{LAYER}+gzip")))),
        ("a layer that is called compressed with zstd", set("/layers/0/mediaType", json!(format!("{LAYER}+zstd")))),
        (
            "a foreign layer",
            with_manifest(|_, manifest| {
                manifest["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
                manifest["layers"][0]["urls"] = json!(["http://169.254.169.254/latest/meta-data"]);
            }),
        ),
        (
            "a layer that is not to be distributed",
            set("/layers/0/mediaType", json!("application/vnd.oci.image.layer.nondistributable.v1.tar")),
        ),
        ("no layers at all but identities", set("/layers", json!([]))),
        ("layers that are nothing", set("/layers", json!(null))),
        ("layers that are a word", set("/layers", json!("layers"))),
        ("a manifest of schema 1", set("/schemaVersion", json!(1))),
        ("a manifest that says that it is an index", set("/mediaType", json!(INDEX))),
        ("a configuration that is none", set("/config/mediaType", json!("application/vnd.oci.empty.v1+json"))),
        ("a manifest that is a list", with_manifest(|_, manifest| *manifest = json!([]))),
        ("a manifest that is no JSON", with_manifest(|_, manifest| *manifest = json!("{\"schemaVersion\": 2,"))),
        (
            "a manifest with a key twice",
            with_manifest(|_, manifest| {
                let text = manifest.to_string();
                *manifest = json!(text.replacen("\"layers\"", "\"layers\":[],\"layers\"", 1));
            }),
        ),
        (
            "a manifest with a key in another case as well",
            with_manifest(|_, manifest| {
                let text = manifest.to_string();
                *manifest = json!(text.replacen("\"layers\"", "\"Layers\":[],\"layers\"", 1));
            }),
        ),
        (
            "a manifest over 4 MiB",
            with_manifest(|_, manifest| manifest["annotations"] = json!({"filler": "x".repeat(4 << 20)})),
        ),
        (
            "a manifest of depth 10,000",
            with_manifest(|_, manifest| {
                let text = manifest.to_string();
                *manifest = json!(text.replacen('{', &format!("{{\"extra\":{},", deep()), 1));
            }),
        ),
        ("a configuration that is no JSON", with_config(|config| *config = json!("nothing"))),
        ("another identity of the layer", with_config(move |config| config["rootfs"]["diff_ids"] = json!([elsewhere]))),
        (
            "too many identities",
            with_config(move |config| config["rootfs"]["diff_ids"] = json!([elsewhere, elsewhere])),
        ),
        ("no identities", with_config(|config| config["rootfs"]["diff_ids"] = json!([]))),
        ("no file system at all", with_config(|config| config["rootfs"] = json!(null))),
        (
            "a configuration with a key twice",
            with_config(|config| {
                let text = config.to_string();
                *config = json!(text.replacen("\"rootfs\"", "\"rootfs\":{\"type\":\"layers\"},\"rootfs\"", 1));
            }),
        ),
        ("a configuration of depth 10,000", with_config(|config| *config = json!(deep()))),
        ("an index that names nothing", raw_index(index_of(&[]))),
        (
            "an index of another image",
            raw_index(index_of(&[json!({"mediaType": MANIFEST, "digest": elsewhere, "size": 2})])),
        ),
        ("an index that is no JSON", raw_index("index".to_owned())),
        ("an index that is empty", raw_index(String::new())),
        ("an index of depth 10,000", raw_index(deep())),
        (
            "an index with a key twice",
            with_index(|_, manifest| {
                index_of(&[manifest]).replacen("\"manifests\"", "\"manifests\":[],\"manifests\"", 1)
            }),
        ),
        (
            "two images where there is one platform",
            with_index(|layout, manifest| {
                let config = layout.put(CONFIG, layout.config(&[], json!({})).to_string().as_bytes());
                let other = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []});
                index_of(&[manifest, layout.put(MANIFEST, other.to_string().as_bytes())])
            }),
        ),
        (
            "an index that is its own child",
            with_index(|layout, _| {
                // No digest can be that of a document that holds it; a name of its own can be claimed.
                let digest = Digest::of(b"a loop");
                let descriptor = json!({"mediaType": INDEX, "digest": digest, "size": 300});
                fs::write(
                    layout.0.join("blobs/sha256").join(digest.hex()),
                    index_of(std::slice::from_ref(&descriptor)),
                )
                .unwrap();
                index_of(&[descriptor])
            }),
        ),
        (
            "indexes in indexes, a hundred deep",
            with_index(|layout, manifest| {
                let nested = (0..100).fold(manifest, |child, _| layout.put(INDEX, index_of(&[child]).as_bytes()));
                index_of(&[nested])
            }),
        ),
        ("an index of a hundred thousand images", with_index(|_, manifest| index_of(&vec![manifest; 100_000]))),
        (
            "an index of 1 GB",
            Box::new(|path| {
                Layout::new(path);
                File::create(path.join("index.json")).unwrap().set_len(1 << 30).unwrap();
            }),
        ),
        (
            "a manifest of 1 GB",
            with_index(|layout, _| {
                let digest = Digest::of(b"large");
                let file = File::create(layout.0.join("blobs/sha256").join(digest.hex())).unwrap();
                file.set_len(1 << 30).unwrap();
                index_of(&[json!({"mediaType": MANIFEST, "digest": digest, "size": 1_u64 << 30})])
            }),
        ),
        (
            "another version of layouts",
            Box::new(|path| {
                Layout::new(path).image(&[], json!({}));
                fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
            }),
        ),
        (
            "no mark of a layout",
            Box::new(|path| {
                Layout::new(path).image(&[], json!({}));
                fs::remove_file(path.join("oci-layout")).unwrap();
            }),
        ),
        (
            "an index that never answers",
            Box::new(|path| {
                Layout::new(path);
                fifo(&path.join("index.json"));
            }),
        ),
        (
            "a layer that never answers",
            Box::new(|path| {
                let layout = Layout::new(path);
                let layer = tar(&[file("ordinary", "x")]);
                layout.image(std::slice::from_ref(&layer), json!({}));
                let blob = path.join("blobs/sha256").join(Digest::of(&layer).hex());
                fs::remove_file(&blob).unwrap();
                fifo(&blob);
            }),
        ),
        (
            "a layer without an end",
            Box::new(|path| {
                let layout = Layout::new(path);
                let layer = tar(&[file("ordinary", "x")]);
                layout.image(std::slice::from_ref(&layer), json!({}));
                let blob = path.join("blobs/sha256").join(Digest::of(&layer).hex());
                fs::remove_file(&blob).unwrap();
                std::os::unix::fs::symlink("/dev/zero", &blob).unwrap();
            }),
        ),
    ]
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

// Row 22 ---------------------------------------------------------------------------------------------------------------

/// Lanes that share the list.
const PARTS: usize = 3;

fn layers(tally: &Tally, part: usize) {
    let mut random = Random::new(tally.seed, 2200 + part as u64);
    let project = project();
    let base = project.path("base");
    for (number, (what, entries)) in attacks(&project, &mut random).into_iter().enumerate() {
        if number % PARTS != part || tally.given_up(LAYERS) {
            continue;
        }
        Layout::new(&base).image(&[tar(&[vec![file("before", "x")], entries].concat())], json!({}));
        let version = format!("1.0.{}", number + 1);
        project.version(&version);
        project.commit(&version);
        let before = outside(&project);
        tally.attempt(LAYERS, what, || {
            let cut = project.run(["release", "cut"]);
            if cut.code != Some(0) {
                return is_refused(&project, &cut, &before);
            }
            // A builder may pass a base on that it does not unpack; nobody unpacks it.
            let run = project.run(["deploy", "staging"]);
            is_refused(&project, &run, &before);
            assert!(run.stderr.contains("is refused at entry"), "the entry is not named: {}", run.told());
            let release = format!("svc@{version}");
            let run = project.run(["restore", &release, "--to", "restored"]);
            is_refused(&project, &run, &before);
            assert!(run.stderr.contains("is refused at entry"), "the entry is not named: {}", run.told());
            assert_eq!(project.answers("staging"), None, "it runs");
            assert!(project.current("staging").components.is_empty(), "it is said to run");
        });
    }
    if part == 0 {
        // What is no attack goes through, so that the refusals above are about the attacks.
        Layout::new(&base).image(&[tar(&[folder("etc"), file("etc/motd", "x"), symlink("a", "etc")])], json!({}));
        project.version("2.0.0");
        project.commit("An ordinary base");
        project.run(["release", "cut"]).ok();
        project.run(["deploy", "staging"]).ok();
        assert_eq!(project.answers("staging").as_deref(), Some("2.0.0"));
    }
}

fn attacks(project: &Project, random: &mut Random) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    // Where an image is unpacked lies some folders below the repository.
    let up = format!("{}precious/file", "../".repeat(3 + random.below(4) as usize));
    let absolute = precious(project).join("file").display().to_string();
    let there = precious(project).display().to_string();
    let long = |path: &str, of: Vec<u8>| vec![pax(&[("path", path.as_bytes())]), of];
    let zeros = vec![0; 1 << 20];
    vec![
        ("traversal", vec![file(&up, "x")]),
        ("traversal in a PAX path", long(&up, file("f", "x"))),
        ("traversal in a GNU long name", vec![entry("x", b'L', "", 0, up.as_bytes()), file("f", "x")]),
        ("an absolute path", vec![pax(&[("path", absolute.as_bytes())]), file("f", "x")]),
        (
            "a symlink, then a file through it",
            vec![pax(&[("linkpath", there.as_bytes())]), symlink("d", "x"), file("d/file", "x")],
        ),
        (
            "a symlink, then a folder of that name",
            vec![pax(&[("linkpath", there.as_bytes())]), symlink("d", "x"), folder("d"), file("d/file", "x")],
        ),
        (
            "a symlink, then a file of that name",
            vec![pax(&[("linkpath", absolute.as_bytes())]), symlink("f", "x"), file("f", "x")],
        ),
        (
            "a symlink over two",
            vec![symlink("a", "b"), pax(&[("linkpath", there.as_bytes())]), symlink("b", "x"), file("a/file", "x")],
        ),
        ("a hard link out", vec![pax(&[("linkpath", up.as_bytes())]), entry("h", b'1', "x", 0o644, b"")]),
        ("an absolute hard link", vec![pax(&[("linkpath", absolute.as_bytes())]), entry("h", b'1', "x", 0o644, b"")]),
        (
            "a hard link to a symlink out",
            vec![pax(&[("linkpath", absolute.as_bytes())]), symlink("s", "x"), entry("h", b'1', "s", 0o644, b"")],
        ),
        ("a character device", vec![entry("null", b'3', "", 0o666, b"")]),
        ("a block device", vec![entry("disk", b'4', "", 0o660, b"")]),
        ("a FIFO", vec![entry("pipe", b'6', "", 0o666, b"")]),
        (
            "PAX size smuggling",
            vec![pax(&[("size", b"0")]), raw_entry("f", b'0', "", 0o644, &file("hidden", "x"), 1024)],
        ),
        ("two PAX headers", vec![pax(&[("path", b"a")]), pax(&[("mtime", b"1")]), file("f", "x")]),
        ("an empty PAX path", long("", file("f", "x"))),
        ("a NUL in a PAX path", long("a\0b", file("f", "x"))),
        ("a sparse file", vec![entry("s", b'S', "", 0o644, b"")]),
        (
            "a PAX sparse file",
            vec![pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"1099511627776")]), file("f", "x")],
        ),
        ("a path twice", vec![file("f", "x"), file("f", "y")]),
        ("a file as a folder", vec![file("f", "x"), file("f/x", "y")]),
        ("an archive after the end", vec![vec![0; 1024], file("hidden", "x")]),
        ("a torn file", vec![raw_entry("f", b'0', "", 0o644, b"x", 1 << 30)]),
        ("an unknown type", vec![entry("v", b'V', "", 0o644, b"")]),
        (
            "a deletion through a symlink",
            vec![pax(&[("linkpath", there.as_bytes())]), symlink("d", "x"), file("d/.wh.file", "")],
        ),
        (
            "a deletion of everything through a symlink",
            vec![pax(&[("linkpath", there.as_bytes())]), symlink("d", "x"), file("d/.wh..wh..opq", "")],
        ),
        ("the root as a symlink", vec![symlink(".", "x")]),
        ("a folder too deep", long(&"d/".repeat(300), file("f", "x"))),
        ("names without an end", long(&"n".repeat(4097), file("f", "x"))),
        ("a file of more than all bytes", vec![raw_entry("f", b'0', "", 0o644, &zeros, 0o7_777_777_777)]),
    ]
}
