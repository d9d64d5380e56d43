//! The `nix` builder: a flake's output, by the user's own Nix.
//!
//! Nix is used as it is: its settings, store and daemon. What never happens: a lock file is not written (`--no-write-lock-file`), no result link is left in the
//! component, and an output that a second build does not give again is not taken where that was asked for.
//!
//! An image is whatever Nix expressions make of one: a docker archive (`dockerTools.buildImage`), an OCI archive or layout, or a program that
//! prints an archive (`dockerTools.streamLayeredImage`). A closure becomes a binary cache of files, as any web server or bucket serves it.

use crate::{
    command::{Artifact, Output},
    error::{Error, Result, count, joined},
    import::{import_docker_archive, import_layout},
    layer::hash_file,
    layout::Built,
    process::{Ended, Out, Run},
};
use domain::{
    Events,
    config::{NixBuild, NixOutput},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a program that prints an image may take.
const STREAM: Duration = Duration::from_secs(3600);

/// What Nix knows of an output, for the provenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NixFacts {
    /// The output's path in the store.
    pub store_path: String,
    /// The derivation that made it.
    pub deriver: String,
    /// The hash of its archive, as Nix writes it: `sha256:` and base 32.
    pub nar_hash: String,
    /// The store paths that it needs at run time, itself not counted.
    pub references: Vec<String>,
    /// The flake as it was locked (`.locked` of its metadata): where from, which revision, which `narHash`.
    pub source: Value,
    /// Whether a second build gave the same output.
    pub rebuilt: bool,
}

/// What the builder `nix` made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NixBuilt {
    /// The image, or the files of a binary cache: archives first, then what names them, `nix-cache-info` last.
    pub output: Output,
    /// What Nix knows of it.
    pub facts: NixFacts,
}

/// Builds an output of a flake in the component's folder and takes it to `to`, which is a folder of its own.
///
/// `signing` is the name of a key and the file with the secret key (`nix key generate-secret`): every path of a closure is signed with it.
/// A missing attribute or a failing builder is a failed build with the last lines of its log; an output that differs when it is built again, with
/// `rebuild`, is refused by name. When the future is dropped, Nix and what it started are killed.
pub async fn build_nix(
    spec: &NixBuild,
    folder: &Path,
    signing: Option<(&str, &Path)>,
    to: &Path,
    events: &Events,
) -> Result<NixBuilt> {
    let folder = std::path::absolute(folder).map_err(Error::file("find", folder))?;
    let nix = Nix { spec, folder: &folder, events };
    let (derivation, outputs) = nix.build().await?;
    if spec.rebuild {
        nix.rebuild(&derivation).await?;
    }
    let main = outputs.get("out").or_else(|| outputs.values().next());
    let main = main.cloned().ok_or_else(|| Error::bad(format!("{} has no output", spec.installable)))?;
    let facts = nix.facts(&derivation, &main).await?;
    let output = match spec.output {
        NixOutput::Image => Output::Image(nix.image(Path::new(&main), to).await?),
        NixOutput::Closure => {
            let paths: Vec<&String> = outputs.values().collect();
            Output::Files(nix.closure(&paths, &main, signing, to).await?)
        }
    };
    Ok(NixBuilt { output, facts })
}

/// The user's Nix and what it works at.
struct Nix<'a> {
    spec: &'a NixBuild,
    folder: &'a Path,
    events: &'a Events,
}

impl Nix<'_> {
    async fn run(&self, program: &OsStr, arguments: &[&str], out: Out) -> Result<Ended> {
        let arguments = arguments.iter().map(OsString::from).collect();
        Run { program, arguments, folder: self.folder, env: Vec::new(), timeout: None, out }.run(self.events).await
    }

    /// What every command about the flake gets.
    fn flake_arguments(&self) -> Vec<&str> {
        let mut arguments = vec!["--extra-experimental-features", "nix-command flakes", "--no-write-lock-file"];
        for (name, address) in &self.spec.overrides {
            arguments.extend(["--override-input", name, address]);
        }
        arguments
    }

    fn build_arguments(&self) -> Vec<&str> {
        let mut arguments = vec!["build", "--no-link", "--print-build-logs"];
        arguments.extend(self.flake_arguments());
        arguments.extend(self.spec.options.iter().map(String::as_str));
        arguments
    }

    /// The derivation and its outputs by name.
    async fn build(&self) -> Result<(String, BTreeMap<String, String>)> {
        let mut arguments = self.build_arguments();
        arguments.extend(["--json", &self.spec.installable]);
        let ended = self.run(self.spec.nix.as_ref(), &arguments, Out::Collect).await?;
        let ended = ended.success(&format!("nix build {}", self.spec.installable), None)?;
        let strange = |why: &str| Error::bad(format!("nix build {} said {why}", self.spec.installable));
        let built: Value =
            serde_json::from_slice(&ended.output).map_err(|error| strange(&format!("no JSON: {error}")))?;
        let [one] = built.as_array().map(Vec::as_slice).unwrap_or_default() else {
            return Err(strange(&format!("{} outputs where one is expected", built.as_array().map_or(0, Vec::len))));
        };
        let derivation = one["drvPath"].as_str().ok_or_else(|| strange("no derivation"))?.to_owned();
        let outputs = one["outputs"].as_object().ok_or_else(|| strange("no outputs"))?;
        let outputs = outputs.iter().filter_map(|(name, path)| Some((name.clone(), path.as_str()?.to_owned())));
        let outputs: BTreeMap<String, String> = outputs.collect();
        match outputs.values().find(|path| !Path::new(path).is_absolute()) {
            Some(path) => Err(strange(&format!("the output {path:?}, which is no path"))),
            None => Ok((derivation, outputs)),
        }
    }

    /// Builds again and compares.
    async fn rebuild(&self, derivation: &str) -> Result<()> {
        let mut arguments = self.build_arguments();
        arguments.extend(["--rebuild", &self.spec.installable]);
        let ended = self.run(self.spec.nix.as_ref(), &arguments, Out::Lines).await?;
        let differs = ended.tail.iter().any(|line| line.contains("may not be deterministic"));
        if differs && !ended.status.is_some_and(|status| status.success()) {
            return Err(Error::bad_with(
                format!("{} is not reproducible: {derivation} built again gives another output", self.spec.installable),
                "compare the two with nix build --rebuild --keep-failed and diffoscope",
            ));
        }
        ended.success(&format!("nix build --rebuild {}", self.spec.installable), None).map(drop)
    }

    /// Asks `nix-store`, whose answers are the same in every version.
    async fn query(&self, what: &str, path: &str) -> Result<Vec<String>> {
        let nix = Path::new(&self.spec.nix);
        let program = if nix.components().count() > 1 { nix.with_file_name("nix-store") } else { "nix-store".into() };
        let ended = self.run(program.as_os_str(), &["--query", what, path], Out::Collect).await?;
        let ended = ended.success(&format!("nix-store --query {what} {path}"), None)?;
        Ok(String::from_utf8_lossy(&ended.output).split_whitespace().map(str::to_owned).collect())
    }

    async fn facts(&self, derivation: &str, path: &str) -> Result<NixFacts> {
        let nar_hash = self.query("--hash", path).await?.into_iter().next().unwrap_or_default();
        let references = self.query("--references", path).await?;
        Ok(NixFacts {
            store_path: path.to_owned(),
            deriver: derivation.to_owned(),
            nar_hash,
            references: references.into_iter().filter(|reference| reference != path).collect(),
            source: self.source().await?,
            rebuilt: self.spec.rebuild,
        })
    }

    async fn source(&self) -> Result<Value> {
        let flake = self.spec.installable.split('#').next().unwrap_or_default();
        let flake = if flake.is_empty() { "." } else { flake };
        let mut arguments = vec!["flake", "metadata", "--json"];
        arguments.extend(self.flake_arguments());
        arguments.push(flake);
        let ended = self.run(self.spec.nix.as_ref(), &arguments, Out::Collect).await?;
        let ended = ended.success(&format!("nix flake metadata {flake}"), None)?;
        let mut metadata: Value = serde_json::from_slice(&ended.output)
            .map_err(|error| Error::bad(format!("nix flake metadata {flake} said no JSON: {error}")))?;
        Ok(match metadata["locked"].take() {
            Value::Null => metadata["resolved"].take(),
            locked => locked,
        })
    }

    async fn image(&self, path: &Path, to: &Path) -> Result<Built> {
        let metadata = fs::metadata(path).map_err(Error::file("read", path))?;
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            return self.streamed(path, to).await;
        }
        let (from, to, is_file) = (path.to_owned(), to.to_owned(), metadata.is_file());
        let work = tokio::task::spawn_blocking(move || {
            if is_file {
                return import_docker_archive(&from, &to);
            }
            if from.join("oci-layout").exists() {
                return import_layout(&from, &to);
            }
            Err(Error::bad_with(
                format!("{} is a folder and no OCI layout", from.display()),
                "an image is a docker archive, an OCI layout or archive, or a program that prints one; else write output = \"closure\"",
            ))
        });
        joined("take the image to", work.await)?
    }

    /// Runs a program that prints an archive.
    async fn streamed(&self, program: &Path, to: &Path) -> Result<Built> {
        let file = tempfile::NamedTempFile::new().map_err(Error::file("create a file in", &std::env::temp_dir()))?;
        let out = Out::File(file.reopen().map_err(Error::file("open", file.path()))?);
        let (arguments, env) = (Vec::new(), Vec::new());
        let timeout = Some(STREAM);
        let run = Run { program: program.as_os_str(), arguments, folder: self.folder, env, timeout, out };
        run.run(self.events).await?.success(&program.display().to_string(), timeout)?;
        let (path, to) = (file.path().to_owned(), to.to_owned());
        let work = tokio::task::spawn_blocking(move || import_docker_archive(&path, &to));
        let program = program.display();
        joined("take the image to", work.await)?.map_err(|error| match error {
            Error::BadInput { what, .. } => Error::bad(format!("what {program} printed: {what}")),
            other => other,
        })
    }

    async fn closure(
        &self,
        paths: &[&String],
        main: &str,
        signing: Option<(&str, &Path)>,
        to: &Path,
    ) -> Result<Vec<Artifact>> {
        fs::create_dir_all(to).map_err(Error::file("create", to))?;
        let folder = fs::canonicalize(to).map_err(Error::file("find", to))?;
        let mut url = format!("file://{}?compression=zstd&parallel-compression=false", for_url(&folder)?);
        if let Some((name, file)) = signing {
            let file = fs::canonicalize(file).map_err(Error::file("find the signing key", file))?;
            let key = fs::read_to_string(&file).map_err(Error::file("read the signing key", &file))?;
            if key.split(':').next() != Some(name) {
                return Err(Error::bad_with(
                    format!("{} holds no secret key of the name {name:?}", file.display()),
                    format!("make one with nix key generate-secret --key-name {name}"),
                ));
            }
            url.push_str(&format!("&secret-key={}", for_url(&file)?));
        }
        let mut arguments = vec!["--extra-experimental-features", "nix-command flakes", "copy", "--to", &url];
        arguments.extend(paths.iter().map(|path| path.as_str()));
        let ended = self.run(self.spec.nix.as_ref(), &arguments, Out::Lines).await?;
        ended.success(&format!("nix copy {main}"), None)?;
        let main = main.to_owned();
        let signed = signing.map(|(name, _)| name.to_owned());
        let work = tokio::task::spawn_blocking(move || cache_files(&folder, &main, signed.as_deref()));
        let files = joined("take the closure to", work.await)?;
        if let Ok(files) = &files {
            let paths = files.iter().filter(|file| file.path.ends_with(".narinfo")).count() as u64;
            self.events.note(format!("the closure has {}", count(paths, "store path", "store paths")));
        }
        files
    }
}

/// A path as Nix reads it in a store's address.
fn for_url(path: &Path) -> Result<String> {
    let text = path.to_str().filter(|text| !text.contains(['?', '#', '&', '%']) && !text.contains(char::is_whitespace));
    text.map(str::to_owned).ok_or_else(|| {
        Error::bad_with(
            format!("{} cannot be written in the address of a Nix store", path.display()),
            "use a folder without spaces and without ?, #, & and %",
        )
    })
}

/// The files of a binary cache, in the order in which they can be published: a reader that finds a name also finds what it names.
fn cache_files(folder: &Path, main: &str, signed: Option<&str>) -> Result<Vec<Artifact>> {
    let mut files: Vec<(u8, String, PathBuf)> = Vec::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(folder).to_owned();
            Error::file("list", &path)(error.into())
        })?;
        if !entry.file_type().is_file() {
            continue;
        }
        let relative = entry.path().strip_prefix(folder).unwrap_or(entry.path()).to_string_lossy().into_owned();
        let rank = match relative.as_str() {
            "nix-cache-info" => 2,
            name if name.ends_with(".narinfo") => 1,
            _ => 0,
        };
        files.push((rank, relative, entry.into_path()));
    }
    files.sort();
    let hash = Path::new(main).file_name().unwrap_or_default().to_string_lossy();
    let wanted = format!("{}.narinfo", hash.split('-').next().unwrap_or_default());
    let infos: Vec<_> = files.iter().filter(|(rank, ..)| *rank == 1).collect();
    if !infos.iter().any(|(_, name, _)| *name == wanted) || !files.iter().any(|(rank, ..)| *rank == 2) {
        return Err(Error::damaged(main, "nix copy ended well, and its binary cache does not have the path"));
    }
    for (_, name, path) in infos {
        let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
        let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let nar = field("URL:").filter(|url| files.iter().any(|(_, known, _)| known == url));
        if nar.is_none() {
            return Err(Error::damaged(name, "it names an archive that the binary cache does not have"));
        }
        if let Some(key) = signed
            && !text
                .lines()
                .any(|line| line.strip_prefix("Sig: ").is_some_and(|sig| sig.split(':').next() == Some(key)))
        {
            return Err(Error::damaged(name, format!("it is not signed by {key}")));
        }
    }
    files
        .into_iter()
        .map(|(_, path, file)| {
            let (digest, bytes) = hash_file(&file)?;
            Ok(Artifact { path, file, digest, bytes })
        })
        .collect()
}
