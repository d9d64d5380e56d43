//! Every parser of bytes that may come from anywhere, as a function of them: for libFuzzer (`fuzz/`) and for the seeded driver that
//! runs with the tests (`tests/tests/fuzzing.rs`).
//!
//! A parser says whether it accepted the bytes. What it accepted keeps its invariants, or it panics: what was unpacked lies
//! inside, what was verified is what was signed, what was written as JSON is JSON. [`Parser::seeds`] are all accepted.

use crate::layouts::{CONFIG, LAYER, Layout, MANIFEST, entry, file, folder, pax, symlink, tar};
use domain::{
    Digest, Events, Name,
    scan::{self, Format},
};
use image::{Limits, SbomRequest, SbomTool, testing};
use ledger::{
    bundle::{self, Bundle},
    keys::{SigningKey, TrustedKeys},
    statement::{Statement, Subject, predicate_type},
};
use serde_json::{Value, json};
use std::{fs, io::Write, os::unix::fs::MetadataExt, path::Path};

/// One parser.
pub struct Parser {
    /// Its name, which is that of its fuzz target.
    pub name: &'static str,
    /// Reads the bytes; whether they were accepted.
    pub parse: fn(&[u8]) -> bool,
    /// Bytes that are accepted.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What its format is made of.
    pub words: &'static [&'static str],
    /// How often the driver of the tests runs it.
    pub runs: u32,
    /// Makes changed bytes consistent where a checksum would only hide what is behind it.
    pub mend: Option<fn(&mut [u8])>,
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "\"\"",
    "\\u0000",
    "\\ud800",
    "[[[[[[[[",
    "sha256:",
    "mediaType",
    "digest",
    "size",
    "layers",
    "config",
    "manifests",
    "schemaVersion",
    "urls",
    "platform",
];
const TAR: &[&str] = &[
    "../",
    "/",
    "\0",
    "ustar\0",
    "path=",
    "linkpath=",
    "size=",
    "GNU.sparse.major=1",
    ".wh.",
    ".wh..wh..opq",
    "././@LongLink",
];
const TOML: &[&str] =
    &["[", "]", "[[", "]]", "=", "\"", "\"\"\"", "'", "{", "}", "name", "version", "source", "dependencies", "\n"];
const YAML: &[&str] = &["- ", ": ", "&a", "*a", "!!binary", "|", ">", "{", "}", "[", "]", "? ", "<<: ", "---", "\n  "];
const WORDS: &[&str] =
    &["\n", "\r\n", "\t", " ", "#", "!", "*", "**", "?", "[a-", "\\", "/", "../", "=", "\"", ":", ",", "@", "\u{feff}"];

const DOCKERFILE: &[&str] = &[
    "FROM a AS b\n",
    "RUN <<E\n",
    "E\n",
    "\\\n",
    "# escape=`\n",
    "# syntax=x\n",
    "`\n",
    "ONBUILD ",
    "COPY --from=b ",
    "\"",
    "\r\n",
    "<<-\"E\"",
    "#",
    "\t",
];

/// Runs one by its name.
///
/// # Panics
///
/// When there is none of that name, and when the parser has a fault.
pub fn run(name: &str, bytes: &[u8]) -> bool {
    let parser = all().into_iter().find(|parser| parser.name == name);
    (parser.unwrap_or_else(|| panic!("there is no parser {name}")).parse)(bytes)
}

/// All of them.
pub fn all() -> Vec<Parser> {
    let one = |name, parse, seeds, words, runs| Parser { name, parse, seeds, words, runs, mend: None };
    vec![
        Parser { mend: Some(checksums), ..one("tar", testing::tar, tars, TAR, 4000) },
        Parser { mend: Some(checksums), ..one("unpack", |bytes| unpacked(LAYER, bytes, true), tars, TAR, 500) },
        one(
            "layer_gzip",
            |bytes| unpacked("application/vnd.oci.image.layer.v1.tar+gzip", bytes, false),
            gzips,
            TAR,
            250,
        ),
        one(
            "layer_zstd",
            |bytes| unpacked("application/vnd.oci.image.layer.v1.tar+zstd", bytes, false),
            zstds,
            TAR,
            250,
        ),
        one("layout_index", |bytes| layout(bytes, Part::Index), || documents(Part::Index), JSON, 400),
        one("manifest", |bytes| layout(bytes, Part::Manifest), || documents(Part::Manifest), JSON, 400),
        one("image_config", |bytes| layout(bytes, Part::Config), || documents(Part::Config), JSON, 400),
        one(
            "registry_document",
            testing::registry_document,
            || [documents(Part::Manifest), documents(Part::Index)].concat(),
            JSON,
            4000,
        ),
        one("referrers", testing::referrers, referrers, JSON, 4000),
        Parser { mend: Some(checksums), ..one("docker_archive", docker_archive, docker_archives, JSON, 300) },
        one("docker_config", testing::docker_config, docker_configs, JSON, 4000),
        one("challenge", testing::challenge, challenges, WORDS, 6000),
        one("ignore_file", testing::ignore_file, ignore_files, WORDS, 800),
        one("dockerfile", testing::dockerfile, dockerfiles, DOCKERFILE, 4000),
        one("cargo_lock", |bytes| lock("Cargo.lock", bytes), cargo_locks, TOML, 500),
        one("python_lock", |bytes| lock("uv.lock", bytes), python_locks, TOML, 400),
        one("poetry_lock", |bytes| lock("poetry.lock", bytes), poetry_locks, TOML, 400),
        one("requirements", |bytes| lock("requirements.txt", bytes), requirements, WORDS, 500),
        one("pipfile_lock", |bytes| lock("Pipfile.lock", bytes), pipfiles, JSON, 400),
        one("npm_lock", |bytes| lock("package-lock.json", bytes), npm_locks, JSON, 500),
        one("pnpm_lock", |bytes| lock("pnpm-lock.yaml", bytes), pnpm_locks, YAML, 400),
        one("yarn_lock", |bytes| lock("yarn.lock", bytes), yarn_locks, YAML, 400),
        one("dpkg", |bytes| installed("var/lib/dpkg/status", bytes), dpkgs, WORDS, 250),
        one("apk", |bytes| installed("lib/apk/db/installed", bytes), apks, WORDS, 250),
        one(
            "python_metadata",
            |bytes| installed("usr/lib/python3/site-packages/a-1.dist-info/METADATA", bytes),
            metadatas,
            WORDS,
            250,
        ),
        one("trivy", |bytes| report(Format::Trivy, bytes), || vec![scan_report("trivy")], JSON, 1000),
        one("grype", |bytes| report(Format::Grype, bytes), || vec![scan_report("grype")], JSON, 1000),
        one("pip_audit", |bytes| report(Format::PipAudit, bytes), || vec![scan_report("pip-audit")], JSON, 1500),
        one("cargo_audit", |bytes| report(Format::CargoAudit, bytes), || vec![scan_report("cargo-audit")], JSON, 1500),
        one("sarif", |bytes| report(Format::Sarif, bytes), || vec![scan_report("sarif")], JSON, 1500),
        one("gitleaks", |bytes| report(Format::Gitleaks, bytes), || vec![scan_report("gitleaks")], JSON, 1500),
        one("allow_list", allow_list, allow_lists, TOML, 3000),
        one("bundle", signed, || vec![bundle_of().into_bytes()], JSON, 1500),
        one("statement", |bytes| Statement::parse(bytes).is_ok(), statements, JSON, 4000),
    ]
}

/// A folder, in memory where there is one: nothing here has to last, and a disk would be what is measured.
fn temporary() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).unwrap_or_else(|error| panic!("no folder: {error}"))
}

// Archives -------------------------------------------------------------------------------------------------------------

fn tars() -> Vec<Vec<u8>> {
    vec![
        tar(&[folder("a"), file("a/b", "content"), symlink("link", "../a"), entry("hard", b'1', "a/b", 0o644, b"")]),
        tar(&[
            pax(&[("path", b"a/long/name"), ("mtime", b"1.5")]),
            file("x", "content"),
            entry("p", b'0', "", 0o4755, b"x"),
        ]),
        tar(&[
            entry("././@LongLink", b'L', "", 0, &[b'n'; 150]),
            file("n", "x"),
            file("a/.wh.gone", ""),
            file("b/.wh..wh..opq", ""),
        ]),
        tar(&[entry("comment", b'g', "", 0, b"21 comment=by a test\n")]),
        tar(&[]),
    ]
}

/// Writes right checksums into what would be headers.
fn checksums(bytes: &mut [u8]) {
    let mut at = 0;
    while at + 512 <= bytes.len() {
        let header = &mut bytes[at..at + 512];
        if header.iter().all(|byte| *byte == 0) {
            return;
        }
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = header[124..136].iter().take_while(|byte| byte.is_ascii_digit());
        let size = digits.fold(0_usize, |size, digit| size.saturating_mul(8).saturating_add(usize::from(digit & 7)));
        at = at.saturating_add(512).saturating_add(size.saturating_add(511) / 512 * 512);
    }
}

fn limits() -> Limits {
    Limits { bytes: 8 << 20, entries: 2000, names: 1 << 20, ratio: 100, ratio_from: 1 << 20 }
}

/// An image of one layer, unpacked beside something that nobody may touch.
fn unpacked(media_type: &str, bytes: &[u8], plain: bool) -> bool {
    let root = temporary();
    let path = root.path();
    write(&path.join("precious"), b"precious");
    let folder = path.join("layout");
    let layout = Layout::new(&folder);
    // Of compressed bytes nobody knows what they unpack to, but he who made them.
    let identity = if plain { bytes.to_vec() } else { plain_of(bytes).unwrap_or_default() };
    let config = layout.put(CONFIG, layout.config(&[identity], json!({})).to_string().as_bytes());
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layout.put(media_type, bytes)]});
    layout.index(&[layout.put(MANIFEST, manifest.to_string().as_bytes())]);
    let to = path.join("to");
    let result = image::unpack(layout.0, &to, &limits());
    let names = fs::read_dir(path).map_or(0, Iterator::count);
    assert!(names == 3 || (names == 2 && !to.exists()), "something lies beside what was unpacked");
    assert_eq!(read(&path.join("precious")), b"precious");
    assert!(fs::metadata(path.join("precious")).is_ok_and(|metadata| metadata.nlink() == 1), "linked to from inside");
    match &result {
        Ok(unpacked) => ordinary(&to, unpacked.bytes),
        Err(_) => {
            assert!(!to.exists() || fs::read_dir(&to).is_ok_and(|mut entries| entries.next().is_none()), "left behind")
        }
    }
    result.is_ok()
}

/// Only files, folders and links, none of them setuid, and of no more bytes than were unpacked.
fn ordinary(at: &Path, bytes: u64) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let kind = metadata.file_type();
        assert!(kind.is_file() || kind.is_dir() || kind.is_symlink(), "{} is something else", path.display());
        assert!(kind.is_symlink() || metadata.mode() & 0o6000 == 0, "{} is setuid", path.display());
        assert!(!kind.is_file() || metadata.len() <= bytes, "{} is too long", path.display());
        if kind.is_dir() {
            ordinary(&path, bytes);
        }
    }
}

fn gzips() -> Vec<Vec<u8>> {
    tars().iter().map(|tar| packed(tar)).collect()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.unwrap_or_else(|error| panic!("gzip: {error}"))
}

fn zstds() -> Vec<Vec<u8>> {
    tars().iter().map(|tar| zstd::encode_all(&tar[..], 3).unwrap_or_else(|error| panic!("zstd: {error}"))).collect()
}

/// What the bytes unpack to, up to a bound.
fn plain_of(bytes: &[u8]) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut plain = Vec::new();
    let most = 8 << 20;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes).take(most).read_to_end(&mut plain).ok()?;
    } else {
        zstd::Decoder::new(bytes).ok()?.take(most).read_to_end(&mut plain).ok()?;
    }
    Some(plain)
}

fn docker_archive(bytes: &[u8]) -> bool {
    let root = temporary();
    write(&root.path().join("precious"), b"precious");
    write(&root.path().join("archive"), bytes);
    let to = root.path().join("to");
    let result = image::import_docker_archive(&root.path().join("archive"), &to);
    assert_eq!(fs::read_dir(root.path()).map_or(0, Iterator::count) - usize::from(to.exists()), 2);
    if let Ok(built) = &result {
        // It is an image that verifies.
        assert!(image::open(&to).is_ok_and(|again| again.manifest == built.manifest));
    }
    result.is_ok()
}

fn docker_archives() -> Vec<Vec<u8>> {
    let layer = tar(&[file("f", "x")]);
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"], "Entrypoint": ["/f"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}})
    .to_string();
    let manifest = json!([{"Config": "config.json", "RepoTags": ["a:b"], "Layers": ["1/layer.tar"]}]).to_string();
    let parts = |layer: Vec<Vec<u8>>| {
        let config = file("config.json", &config);
        tar(&[vec![folder("1")], layer, vec![config, file("manifest.json", &manifest)]].concat())
    };
    let linked = vec![entry("2/layer.tar", b'0', "", 0o644, &layer), symlink("1/layer.tar", "../2/layer.tar")];
    let plain = parts(vec![entry("1/layer.tar", b'0', "", 0o644, &layer)]);
    vec![packed(&plain), parts(vec![entry("1/layer.tar", b'0', "", 0o644, &packed(&layer))]), parts(linked), plain]
}

// Documents of images --------------------------------------------------------------------------------------------------

/// The document of a layout that the bytes are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Index,
    Manifest,
    Config,
}

fn layer() -> Vec<u8> {
    tar(&[file("f", "x")])
}

fn config_of(layout: &Layout<'_>) -> Value {
    let run = json!({"config": {"User": "1000", "Env": ["A=b"], "Entrypoint": ["/f"], "Volumes": {"/v": {}}, "Labels": {"a": "b"}},
        "history": [{"created_by": "COPY f /f"}], "created": "2024-05-06T07:08:09Z"});
    layout.config(&[layer()], run)
}

fn layout(bytes: &[u8], part: Part) -> bool {
    let root = temporary();
    let layout = root.path().join("layout");
    let layout = Layout::new(&layout);
    fill(&layout, bytes, part);
    let opened = image::open(layout.0);
    if let Ok(built) = &opened {
        let blobs = image::blobs(layout.0).unwrap_or_else(|error| panic!("open and not listed: {error}"));
        assert!(blobs.iter().any(|(digest, ..)| *digest == built.manifest));
        assert!(blobs.iter().all(|(_, path, _)| path.starts_with(layout.0)), "a blob is elsewhere");
        assert!(!built.platforms.is_empty());
    }
    let unpacked = image::unpack(layout.0, &root.path().join("to"), &limits());
    assert!(opened.is_ok() || unpacked.is_err() || part == Part::Index, "unpacked what does not open");
    opened.is_ok()
}

/// A layout with one document of its own; the others name it rightly. What it is not given, it has.
fn fill(layout: &Layout<'_>, bytes: &[u8], part: Part) -> [Vec<u8>; 3] {
    let own = |of: Part, ordinary: Vec<u8>| if of == part && !bytes.is_empty() { bytes.to_vec() } else { ordinary };
    let layer = layout.put(LAYER, &layer());
    let config = own(Part::Config, config_of(layout).to_string().into_bytes());
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": layout.put(CONFIG, &config), "layers": [layer],
        "annotations": {"org.opencontainers.image.version": "1.0.0"}});
    let manifest = own(Part::Manifest, manifest.to_string().into_bytes());
    let mut named = layout.put(MANIFEST, &manifest);
    named["platform"] = json!({"architecture": "amd64", "os": "linux"});
    layout.index(&[named]);
    let index = own(Part::Index, read(&layout.0.join("index.json")));
    write(&layout.0.join("index.json"), &index);
    [index, manifest, config]
}

fn documents(part: Part) -> Vec<Vec<u8>> {
    let root = temporary();
    let path = root.path().join("layout");
    let [index, manifest, config] = fill(&Layout::new(&path), b"", part);
    vec![match part {
        Part::Index => index,
        Part::Manifest => manifest,
        Part::Config => config,
    }]
}

fn referrers() -> Vec<Vec<u8>> {
    let list = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"mediaType": MANIFEST, "digest": Digest::of(b"a"), "size": 10, "artifactType": bundle::MEDIA_TYPE,
         "annotations": {"dev.sigstore.bundle.predicateType": predicate_type::RELEASE}}]});
    vec![list.to_string().into_bytes(), br#"{"schemaVersion":2,"manifests":[]}"#.to_vec()]
}

// Words of registries and Docker -----------------------------------------------------------------------------------------

fn docker_configs() -> Vec<Vec<u8>> {
    let full = json!({"auths": {"registry.example:5000": {"auth": "bWU6cGFzczp3b3Jk"}, "other.example": {"username": "u", "password": "p"}},
        "credHelpers": {"helped.example": "pass"}, "credsStore": "secretservice", "HttpHeaders": {"User-Agent": "x"}});
    vec![full.to_string().into_bytes(), b"{}".to_vec()]
}

fn challenges() -> Vec<Vec<u8>> {
    let one = "Bearer realm=\"https://auth.example/token\",service=\"registry\",scope=\"repository:a/b:pull,push\"";
    [one, "Basic realm=\"x, \\\"y\\\"\"", "Basic realm=a, Bearer realm=\"b\", error = \"invalid_token\""]
        .map(|text| text.as_bytes().to_vec())
        .into()
}

fn ignore_files() -> Vec<Vec<u8>> {
    ["*\n!src\n!docs/keep.md\n**/*.pyc\n", "# comment\n\n/build\n[a-c]?.txt\na/**/b\n\\!x\n"]
        .map(|text| text.as_bytes().to_vec())
        .into()
}

fn dockerfiles() -> Vec<Vec<u8>> {
    text(
        "# syntax=docker/dockerfile:1\nFROM scratch AS one\nCOPY a /a\n\nFROM one\nRUN echo \\\n  # a comment\n  b\nRUN <<E\necho b\nE\nENTRYPOINT [\"/a\"]\n",
    )
}

// Lock files and lists of packages -----------------------------------------------------------------------------------------

fn bill(folder: &Path, layout: Option<&Path>) -> bool {
    let events = Events::nowhere();
    let created = jiff::Timestamp::UNIX_EPOCH;
    let request = SbomRequest {
        folder,
        layout,
        name: "a",
        version: "1.0.0",
        created,
        tool: SbomTool::Own,
        syft: None,
        events: &events,
    };
    let Ok(sbom) = image::sbom(&request) else { return false };
    let document: Value =
        serde_json::from_slice(&sbom.bytes).unwrap_or_else(|error| panic!("no JSON was written: {error}"));
    assert_eq!(document["bomFormat"], "CycloneDX");
    let components = document["components"].as_array().map_or(0, Vec::len);
    assert_eq!(components as u64, sbom.components);
    true
}

fn lock(name: &str, bytes: &[u8]) -> bool {
    let root = temporary();
    write(&root.path().join(name), bytes);
    bill(root.path(), None)
}

/// A file of an image.
fn installed(path: &str, bytes: &[u8]) -> bool {
    let root = temporary();
    let (layout, empty) = (root.path().join("layout"), root.path().join("empty"));
    fs::create_dir(&empty).unwrap_or_else(|error| panic!("no folder: {error}"));
    Layout::new(&layout).image(&[tar(&[entry(path, b'0', "", 0o644, bytes)])], json!({}));
    bill(&empty, Some(&layout))
}

fn text(text: &str) -> Vec<Vec<u8>> {
    vec![text.as_bytes().to_vec()]
}

fn cargo_locks() -> Vec<Vec<u8>> {
    text(
        "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n\
         checksum = \"0000000000000000000000000000000000000000000000000000000000000000\"\ndependencies = [\n \"b 2.0.0\",\n]\n\n\
         [[package]]\nname = \"b\"\nversion = \"2.0.0\"\nsource = \"git+https://example.com/b?rev=1#abc\"\n",
    )
}

fn python_locks() -> Vec<Vec<u8>> {
    text(
        "version = 1\nrequires-python = \">=3.11\"\n\n[[package]]\nname = \"a\"\nversion = \"1.0\"\nsource = { registry = \"https://pypi.org/simple\" }\n\
         dependencies = [{ name = \"b\" }]\nsdist = { url = \"https://example.com/a.tar.gz\", \
         hash = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\", size = 1 }\n\n\
         [[package]]\nname = \"b\"\nversion = \"2.0\"\nsource = { registry = \"https://pypi.org/simple\" }\n",
    )
}

fn poetry_locks() -> Vec<Vec<u8>> {
    text(
        "[[package]]\nname = \"a\"\nversion = \"1.0\"\ndescription = \"\"\noptional = false\npython-versions = \">=3.8\"\n\
         files = [{file = \"a.whl\", hash = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"}]\n\n\
         [package.dependencies]\nb = \">=2\"\n\n[[package]]\nname = \"b\"\nversion = \"2.0\"\noptional = true\nfiles = []\n\n\
         [metadata]\nlock-version = \"2.0\"\npython-versions = \"^3.11\"\ncontent-hash = \"00\"\n",
    )
}

fn requirements() -> Vec<Vec<u8>> {
    text(
        "# pinned\na==1.0 \\\n    --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000\n\
         B.c[extra]==2.0 ; python_version >= \"3.8\"\n--index-url https://example.com/simple\n",
    )
}

fn pipfiles() -> Vec<Vec<u8>> {
    let lock = json!({"_meta": {"hash": {"sha256": "00"}, "pipfile-spec": 6},
        "default": {"a": {"version": "==1.0", "hashes": [format!("sha256:{}", "0".repeat(64))], "markers": "python_version >= '3'"}},
        "develop": {"b": {"version": "==2.0"}}});
    vec![lock.to_string().into_bytes()]
}

fn npm_locks() -> Vec<Vec<u8>> {
    let three = json!({"name": "x", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": {
        "": {"name": "x", "version": "1.0.0", "dependencies": {"a": "^1"}},
        "node_modules/a": {"version": "1.0.0", "resolved": "https://registry.npmjs.org/a/-/a-1.0.0.tgz", "license": "MIT",
            "integrity": format!("sha512-{}", base64_zeros()), "dependencies": {"@s/b": "2"}},
        "node_modules/@s/b": {"version": "2.0.0", "dev": true}}});
    let one = json!({"name": "x", "version": "1.0.0", "lockfileVersion": 1, "dependencies": {
        "a": {"version": "1.0.0", "requires": {"b": "2"}, "dependencies": {"b": {"version": "2.0.0"}}}}});
    vec![three.to_string().into_bytes(), one.to_string().into_bytes()]
}

fn base64_zeros() -> String {
    format!("{}==", "A".repeat(86))
}

fn pnpm_locks() -> Vec<Vec<u8>> {
    text(
        "lockfileVersion: '9.0'\n\nimporters:\n\n  .:\n    dependencies:\n      a:\n        specifier: ^1\n        version: 1.0.0\n\n\
         packages:\n\n  a@1.0.0:\n    resolution: {integrity: sha512-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==}\n\n\
         snapshots:\n\n  a@1.0.0: {}\n",
    )
}

fn yarn_locks() -> Vec<Vec<u8>> {
    text(
        "# yarn lockfile v1\n\n\na@^1.0.0, a@^1.1.0:\n  version \"1.1.0\"\n  resolved \"https://registry.yarnpkg.com/a/-/a-1.1.0.tgz#00\"\n  \
         integrity sha512-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n  dependencies:\n    b \"^2.0.0\"\n\n\
         b@^2.0.0:\n  version \"2.0.0\"\n",
    )
}

fn dpkgs() -> Vec<Vec<u8>> {
    text(
        "Package: libc6\nStatus: install ok installed\nSource: glibc (2.36-9)\nArchitecture: amd64\nVersion: 2.36-9+deb12u4\nDepends: libgcc-s1\n\
         Description: GNU C Library\n more words\n .\n\nPackage: removed\nStatus: deinstall ok config-files\nVersion: 1\n\n",
    )
}

fn apks() -> Vec<Vec<u8>> {
    text(
        "C:Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\nD:so:libc.musl-x86_64.so.1\nF:lib\nR:ld-musl-x86_64.so.1\n\nP:zlib\nV:1.3\n\n",
    )
}

fn metadatas() -> Vec<Vec<u8>> {
    text(
        "Metadata-Version: 2.1\nName: a\nVersion: 1.0\nLicense: MIT\nRequires-Dist: b (>=2) ; extra == 'x'\n\nText below.\n",
    )
}

// Reports and statements ---------------------------------------------------------------------------------------------------

fn scan_report(name: &str) -> Vec<u8> {
    match name {
        "trivy" => include_bytes!("../../crates/domain/src/scan/parse/fixtures/trivy.json").to_vec(),
        "grype" => include_bytes!("../../crates/domain/src/scan/parse/fixtures/grype.json").to_vec(),
        "pip-audit" => include_bytes!("../../crates/domain/src/scan/parse/fixtures/pip-audit.json").to_vec(),
        "cargo-audit" => include_bytes!("../../crates/domain/src/scan/parse/fixtures/cargo-audit.json").to_vec(),
        "sarif" => include_bytes!("../../crates/domain/src/scan/parse/fixtures/sarif.json").to_vec(),
        _ => include_bytes!("../../crates/domain/src/scan/parse/fixtures/gitleaks.json").to_vec(),
    }
}

fn report(format: Format, bytes: &[u8]) -> bool {
    scan::parse(format, bytes).is_ok()
}

fn allow_list(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(list) = scan::allow::read(text) else { return false };
    assert!(
        list.iter().all(|entry| !entry.id.trim().is_empty() && !entry.reason.trim().is_empty()),
        "allowed without a reason"
    );
    true
}

fn allow_lists() -> Vec<Vec<u8>> {
    text(
        "[[allow]]\nid = \"CVE-2024-1\"\npackage = \"libc6\"\nreason = \"not reachable\"\nexpires = \"2027-01-31\"\n\n\
         [[allow]]\nid = \"RUSTSEC-2024-0001\"\nreason = \"a test only\"\nexpires = \"2026-12-31\"\n",
    )
}

fn key() -> SigningKey {
    SigningKey::from_seed([7; 32])
}

fn statement() -> Statement<Value> {
    Statement {
        subjects: vec![Subject::new("svc", Digest::of(b"svc"))],
        predicate_type: predicate_type::RELEASE.to_owned(),
        predicate: json!({"release": "svc@1.0.0", "files": [1, 2, 3]}),
    }
}

fn bundle_of() -> Bundle {
    Bundle::sign(&key(), &statement()).unwrap_or_else(|error| panic!("not signed: {error}"))
}

fn statements() -> Vec<Vec<u8>> {
    vec![statement().to_payload().unwrap_or_default()]
}

/// Whatever is verified is the one thing that the key ever signed.
fn signed(bytes: &[u8]) -> bool {
    let name = Name::new("release").unwrap_or_else(|error| panic!("no name: {error}"));
    let trusted = TrustedKeys::one(name, key().public());
    let Ok(verified) = bundle::verify(bytes, &trusted) else { return false };
    assert_eq!(verified.payload, statements()[0], "verified what was never signed");
    true
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
