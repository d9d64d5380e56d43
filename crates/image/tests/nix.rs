//! The `nix` builder with the real Nix (`SEALIFT_TEST_NIX=/path/to/nix`), in a store of its own.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use common::{Lines, layout_of, real, write};
use domain::{
    Class, Digest, Events,
    config::{NixBuild, NixOutput},
};
use image::{Artifact, Error, NixBuilt, Output, build_nix};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// No inputs, no network; the host's /bin/sh is the builder.
const FLAKE: &str = r#"{
  description = "fixture";
  outputs =
    { self, ... }@inputs:
    let
      system = "x86_64-linux";
      mk = name: script: derivation {
        inherit name system;
        builder = "/bin/sh";
        args = [ "-c" script ];
        PATH = "/usr/bin:/bin";
        src = ./payload.txt;
        archive = ./image.tar;
      };
      dep = mk "fixture-dep-1.0" ''printf 'dep\n' > "$out"'';
    in
    {
      packages.${system} = {
        default = mk "fixture-1.0.0" ''
          mkdir -p "$out/bin"
          { cat "$src"; printf '%s\n' '${dep}'; } > "$out/bin/payload"
        '';
        archive = mk "image.tar" ''cp "$archive" "$out"'';
        packed = mk "image.tar.gz" ''gzip -n < "$archive" > "$out"'';
        folder = mk "image" ''mkdir "$out"; tar -xf "$archive" -C "$out"'';
        stream = mk "stream-image" ''{ echo '#!/bin/sh'; echo "exec cat $archive"; } > "$out"; chmod +x "$out"'';
        streamFails = mk "stream-fails" ''{ echo '#!/bin/sh'; echo "echo no layers >&2; exit 9"; } > "$out"; chmod +x "$out"'';
        impure = mk "fixture-impure-1.0.0" ''mkdir -p "$out"; date +%s%N > "$out/now"; head -c8 /dev/urandom >> "$out/now"'';
        fails = mk "fixture-fails-1.0.0" "echo boom >&2; exit 7";
        input = mk "fixture-input" ''printf '%s\n' '${inputs.other.word or "none"}' > "$out"'';
      };
    };
}
"#;

/// A Nix that leaves the one of this machine alone: programs `nix` and `nix-store` with a store below a temporary folder.
struct Hermetic {
    root: tempfile::TempDir,
    component: PathBuf,
}

impl Hermetic {
    fn new() -> Option<Self> {
        let real = real("SEALIFT_TEST_NIX")?;
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name).display().to_string();
        let settings = "experimental-features = nix-command flakes\nsandbox = false\nsubstituters =\nbuild-users-group =\nflake-registry =\n";
        write(root.path(), "conf/nix.conf", settings, 0o644);
        for name in ["nix", "nix-store"] {
            let program = Path::new(&real).with_file_name(name).display().to_string();
            let script = format!(
                "#!/bin/sh\nexport NIX_STORE_DIR={store} NIX_STATE_DIR={state} NIX_LOG_DIR={log} NIX_CONF_DIR={conf} HOME={home} NIX_REMOTE=local\n: \"${{XDG_CACHE_HOME:={cache}}}\"\nexport XDG_CACHE_HOME\nexec {program} \"$@\"\n",
                store = at("store"),
                state = at("state"),
                log = at("log"),
                conf = at("conf"),
                home = at("home"),
                cache = at("cache"),
            );
            write(root.path(), &format!("bin/{name}"), &script, 0o755);
        }
        fs::create_dir(root.path().join("home")).unwrap();
        let component = root.path().join("component");
        write(&component, "flake.nix", FLAKE, 0o644);
        write(&component, "payload.txt", "payload\n", 0o644);
        layout_of(&root.path().join("image"), &[layer()], true);
        let archive = fs::File::create(component.join("image.tar")).unwrap();
        image::docker_archive(&root.path().join("image"), Some("fixture:1"), archive).unwrap();
        Some(Self { root, component })
    }

    fn nix(&self) -> PathBuf {
        self.root.path().join("bin/nix")
    }

    fn spec(&self, attribute: &str, output: NixOutput) -> NixBuild {
        NixBuild {
            installable: format!("path:{}#{attribute}", self.component.display()),
            output,
            overrides: BTreeMap::new(),
            rebuild: false,
            nix: self.nix().display().to_string(),
            options: Vec::new(),
            signing_key: None,
        }
    }

    fn to(&self) -> PathBuf {
        tempfile::tempdir_in(self.root.path()).unwrap().keep()
    }

    async fn build(&self, spec: &NixBuild) -> Result<NixBuilt, Error> {
        build_nix(spec, &self.component, None, &self.to(), &Events::nowhere()).await
    }

    /// Runs Nix itself, as its users do.
    fn run(&self, program: &str, arguments: &[&str], cache: &str) -> std::process::Output {
        Command::new(self.root.path().join("bin").join(program))
            .args(arguments)
            .env("XDG_CACHE_HOME", self.root.path().join(cache))
            .output()
            .unwrap()
    }

    fn succeed(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments, "cache");
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Hermetic {
    fn drop(&mut self) {
        // Folders of a store are read-only; root does not mind, others would leave them behind.
        let _ = Command::new("chmod").args(["-R", "u+w"]).arg(self.root.path()).status();
    }
}

fn layer() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(5);
    archive.append_data(&mut header, "hello", b"hello".as_slice()).unwrap();
    archive.into_inner().unwrap()
}

fn root_digest(built: &NixBuilt) -> Digest {
    match &built.output {
        Output::Image(image) => image.root(),
        Output::Files(_) => panic!("files"),
    }
}

#[tokio::test]
async fn an_image_in_every_form_is_the_same_image() {
    let Some(nix) = Hermetic::new() else { return };
    let wanted = image::open(&nix.root.path().join("image")).unwrap();
    for attribute in ["archive", "packed", "stream"] {
        let built = nix.build(&nix.spec(attribute, NixOutput::Image)).await.unwrap();
        let Output::Image(image) = &built.output else { panic!("files") };
        assert_eq!(image.config, wanted.config, "{attribute}");
        assert_eq!(image::open(&image.layout).unwrap().root(), image.root());
    }
    assert_eq!(root_digest(&nix.build(&nix.spec("folder", NixOutput::Image)).await.unwrap()), wanted.root());
    let error = nix.build(&nix.spec("default", NixOutput::Image)).await.unwrap_err();
    assert!(error.to_string().contains("is a folder and no OCI layout"), "{error}");
    let error = nix.build(&nix.spec("streamFails", NixOutput::Image)).await.unwrap_err();
    assert!(error.to_string().contains("exit status: 9") && error.log_tail() == ["no layers"], "{error}");
    assert!(!nix.component.join("flake.lock").exists() && !nix.component.join("result").exists());
}

#[tokio::test]
async fn a_build_is_known_and_one_that_fails_says_why() {
    let Some(nix) = Hermetic::new() else { return };
    let mut spec = nix.spec("default", NixOutput::Closure);
    spec.rebuild = true;
    let facts = nix.build(&spec).await.unwrap().facts;
    assert!(facts.store_path.ends_with("-fixture-1.0.0"), "{facts:?}");
    assert!(facts.deriver.ends_with("-fixture-1.0.0.drv"), "{facts:?}");
    assert!(facts.nar_hash.starts_with("sha256:"), "{facts:?}");
    assert_eq!(facts.references.len(), 1);
    assert!(facts.source["narHash"].as_str().unwrap().starts_with("sha256-"), "{facts:?}");
    assert!(facts.rebuilt);
    let lines = Lines::default();
    let failing = nix.spec("fails", NixOutput::Closure);
    let error = build_nix(&failing, &nix.component, None, &nix.to(), &lines.events()).await.unwrap_err();
    assert!(error.log_tail().iter().any(|line| line.contains("boom")), "{:?}", error.log_tail());
    assert!(lines.all().iter().any(|line| line.contains("boom")), "{:?}", lines.all());
    assert_eq!(error.class(), Class::BadInput);
    let error = nix.build(&nix.spec("absent", NixOutput::Closure)).await.unwrap_err();
    assert!(error.log_tail().iter().any(|line| line.contains("absent")), "{:?}", error.log_tail());
    let mut missing = nix.spec("default", NixOutput::Closure);
    missing.nix = "/no/such/nix".to_owned();
    assert!(nix.build(&missing).await.unwrap_err().to_string().contains("/no/such/nix cannot be run"));
}

#[tokio::test]
async fn an_output_that_differs_when_it_is_built_again_is_refused_by_name() {
    let Some(nix) = Hermetic::new() else { return };
    let mut spec = nix.spec("impure", NixOutput::Closure);
    nix.build(&spec).await.unwrap();
    spec.rebuild = true;
    let error = nix.build(&spec).await.unwrap_err();
    assert!(error.to_string().contains("is not reproducible"), "{error}");
    assert!(error.to_string().contains("fixture-impure-1.0.0.drv"), "{error}");
}

#[tokio::test]
async fn an_override_and_options_reach_nix() {
    let Some(nix) = Hermetic::new() else { return };
    for (name, word) in [("one", "first"), ("two", "second")] {
        write(
            nix.root.path(),
            &format!("{name}/flake.nix"),
            &format!("{{ outputs = _: {{ word = \"{word}\"; }}; }}"),
            0o644,
        );
    }
    let address = |name: &str| format!("path:{}", nix.root.path().join(name).display());
    let flake = FLAKE.replace("  outputs =", &format!("  inputs.other.url = \"{}\";\n  outputs =", address("one")));
    write(&nix.component, "flake.nix", &flake, 0o644);
    let mut spec = nix.spec("input", NixOutput::Closure);
    spec.options = vec!["--impure".to_owned()];
    let read = |built: NixBuilt| fs::read_to_string(built.facts.store_path).unwrap();
    assert_eq!(read(nix.build(&spec).await.unwrap()), "first\n");
    spec.overrides.insert("other".to_owned(), address("two"));
    assert_eq!(read(nix.build(&spec).await.unwrap()), "second\n");
    assert!(!nix.component.join("flake.lock").exists(), "the lock file is the user's");
    spec.options = vec!["--no-such-option".to_owned()];
    let error = nix.build(&spec).await.unwrap_err();
    assert!(error.log_tail().iter().any(|line| line.contains("no-such-option")), "{:?}", error.log_tail());
}

/// What a person does with the artifacts: puts them into a folder, which is a binary cache.
fn restored(files: &[Artifact], to: &Path) {
    for file in files {
        let bytes = fs::read(&file.file).unwrap();
        assert_eq!(Digest::of(&bytes), file.digest);
        assert_eq!(bytes.len() as u64, file.bytes);
        let path = to.join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[tokio::test]
async fn a_closure_is_signed_deleted_and_comes_back_from_its_artifacts() {
    let Some(nix) = Hermetic::new() else { return };
    let key = |name: &str| {
        let path = nix.root.path().join(name);
        fs::write(&path, nix.succeed("nix", &["key", "generate-secret", "--key-name", name])).unwrap();
        path
    };
    let (ours, other) = (key("fixture-1"), key("other-1"));
    let public = |path: &Path| {
        let command = format!("{} key convert-secret-to-public < {}", nix.nix().display(), path.display());
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let spec = nix.spec("default", NixOutput::Closure);
    let wrong = build_nix(&spec, &nix.component, Some(("fixture-1", &other)), &nix.to(), &Events::nowhere()).await;
    assert!(wrong.unwrap_err().to_string().contains("holds no secret key of the name \"fixture-1\""));
    let signing = Some(("fixture-1", ours.as_path()));
    let built = build_nix(&spec, &nix.component, signing, &nix.to(), &Events::nowhere()).await.unwrap();
    let again = build_nix(&spec, &nix.component, signing, &nix.to(), &Events::nowhere()).await.unwrap();
    let Output::Files(files) = &built.output else { panic!("an image") };
    let Output::Files(same) = &again.output else { panic!("an image") };
    let names = |files: &[Artifact]| files.iter().map(|file| (file.path.clone(), file.digest)).collect::<Vec<_>>();
    assert_eq!(names(files), names(same), "a closure is the same bytes when it is taken again");
    let rank = |path: &str| if path == "nix-cache-info" { 2 } else { u8::from(path.ends_with(".narinfo")) };
    let ranks: Vec<u8> = files.iter().map(|file| rank(&file.path)).collect();
    assert_eq!(ranks, [0, 0, 1, 1, 2], "two archives, what names them, then the cache's own file");

    let cache = nix.root.path().join("published");
    restored(files, &cache);
    let path = built.facts.store_path.clone();
    let content = fs::read(format!("{path}/bin/payload")).unwrap();
    let closure = nix.succeed("nix-store", &["--query", "--requisites", &path]);
    let closure: Vec<&str> = closure.split_whitespace().collect();
    let delete: Vec<&str> = ["--delete", "--ignore-liveness"].into_iter().chain(closure.iter().copied()).collect();
    nix.succeed("nix-store", &delete);
    assert!(closure.iter().all(|path| !Path::new(path).exists()));
    let url = format!("file://{}", cache.display());
    let fetch = |key: &str, cache: &str| {
        let arguments =
            ["build", "--no-link", "--max-jobs", "0", "--substituters", &url, "--trusted-public-keys", key, &path];
        nix.run("nix", &arguments, cache)
    };
    let refused = fetch(&public(&other), "cache-wrong-key");
    assert!(!refused.status.success() && !Path::new(&path).exists(), "a closure was taken without its key");
    let taken = fetch(&public(&ours), "cache-right-key");
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    assert_eq!(fs::read(format!("{path}/bin/payload")).unwrap(), content);
    assert!(closure.iter().all(|path| Path::new(path).exists()));
    println!("nix: a closure of {} paths restored from {} artifacts", closure.len(), files.len());
}
