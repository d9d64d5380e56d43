//! The validated configuration: what every other crate sees. Every name in it refers to something that exists.

use crate::{
    Name,
    gate::{Gate, HttpRequest},
    secret::SecretRef,
    workload::{HealthCheck, Relaxation},
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// A validated `Sealift.toml`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// `[project] name`.
    pub project: Name,
    /// `[project] source`: where its sources are to be had, for the image's labels and the provenance.
    pub source: Option<String>,
    /// `[store]`.
    pub store: StoreConfig,
    /// `[store]`: how bytes travel to it and to the remotes.
    pub transfer: Transfer,
    /// `[store.remote.NAME]`: further stores that data can be pushed to and pulled from.
    pub remotes: BTreeMap<Name, StoreConfig>,
    /// `[signing]`.
    pub signing: Signing,
    /// `[component.NAME]`.
    pub components: BTreeMap<Name, Component>,
    /// `[data.NAME]`.
    pub data: BTreeMap<Name, DataSet>,
    /// `[model.NAME]`.
    pub models: BTreeMap<Name, Model>,
    /// `[gate.NAME]`.
    pub gates: BTreeMap<Name, Gate>,
    /// `[environment.NAME]`.
    pub environments: BTreeMap<Name, Environment>,
    /// `[policy]`.
    pub policy: Policy,
}

/// How bytes travel between this host and a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// `upload_limit` in bytes a second; `None` is no limit.
    pub upload_limit: Option<u64>,
    /// `download_limit` in bytes a second; `None` is no limit.
    pub download_limit: Option<u64>,
    /// `deadline`: how long one operation on the store is tried again before it has failed, five minutes by default.
    #[serde(with = "super::duration")]
    pub deadline: Duration,
    /// `stall_timeout`: how long a transfer may stand still, 30 seconds by default.
    #[serde(with = "super::duration")]
    pub stall_timeout: Duration,
}

impl Default for Transfer {
    fn default() -> Self {
        Self {
            upload_limit: None,
            download_limit: None,
            deadline: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// Rules of the project as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// `[policy.data]`.
    pub data: DataPolicy,
}

/// What of the data is kept when what nobody needs is collected. Releases and environments always keep theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataPolicy {
    /// `branches`: patterns of branches, local and remote-tracking, whose pointers keep their snapshots. All by default.
    pub branches: Vec<String>,
    /// `tags`: the same for tags. All by default.
    pub tags: Vec<String>,
    /// `grace`: younger objects are kept, whoever made them, seven days by default.
    #[serde(with = "super::duration")]
    pub grace: Duration,
}

/// Where everything is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StoreConfig {
    /// The embedded server over a directory relative to the repository (`path = ".sealift/store"`, the default).
    Embedded {
        /// The directory.
        path: String,
    },
    /// An S3 bucket.
    S3 {
        /// `bucket`.
        bucket: String,
        /// `prefix`, without slashes at its ends.
        prefix: String,
        /// `endpoint`; `None` is AWS.
        endpoint: Option<String>,
        /// `region`.
        region: Option<String>,
        /// `access_key`; without it AWS's default chain.
        access_key: Option<SecretRef>,
        /// `secret_key`.
        secret_key: Option<SecretRef>,
    },
}

/// How releases and ledger entries are signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signing {
    /// `key`: the name of the signing key. Its private half is `<config home>/sealift/keys/<project>/<key>.pem` unless `private` says otherwise.
    pub key: Name,
    /// `private`: where the private key (PKCS#8 PEM) is read from.
    pub private: Option<SecretRef>,
    /// `trusted`: the folder with public keys that are trusted, `deploy/keys` by default.
    pub trusted: String,
}

/// A deployable unit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Component {
    /// Its name.
    pub name: Name,
    /// `path` relative to the repository, `.` by default.
    pub path: String,
    /// `version_files`; all must agree. Never empty.
    pub version_files: Vec<VersionSource>,
    /// `changelog`.
    pub changelog: Option<String>,
    /// `logic_version`: part of the version key.
    pub logic_version: Option<String>,
    /// `config_files`: sealed with the release, their hash is part of the version key.
    pub config_files: Vec<String>,
    /// `data`: data sets that belong to it.
    pub data: Vec<Name>,
    /// `models`: models that belong to it.
    pub models: Vec<Name>,
    /// `owners`.
    pub owners: Vec<String>,
    /// `contracts`: name to version.
    pub contracts: BTreeMap<String, String>,
    /// `[component.NAME.build]`.
    pub build: Build,
    /// `[component.NAME.image] repository` or `repositories`: where the image is pushed as well, in this order.
    pub registries: Vec<Registry>,
    /// `[component.NAME.image] tags`: which tags it gets there; a prerelease gets its version only.
    pub tags: Vec<TagKind>,
    /// `[component.NAME.image] attach`: whether signature, provenance, SBOM and test results are attached to it there.
    pub attach: bool,
    /// `[component.NAME] sbom`: which tool lists what is in it.
    pub sbom: SbomTool,
    /// `[component.NAME.run]`; `None` when nothing is run.
    pub run: Option<Run>,
    /// `[[component.NAME.smoke]]`.
    pub smoke: Vec<HttpRequest>,
}

/// A repository of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Registry {
    /// `REGISTRY/PATH`, without scheme, tag or digest.
    pub repository: String,
    /// `insecure`: plain HTTP to it.
    pub insecure: bool,
}

/// A tag that a version gets in a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TagKind {
    /// `X.Y.Z`: never moved.
    Version,
    /// `X.Y`.
    Minor,
    /// `X`.
    Major,
    /// `latest`.
    Latest,
}

/// Who lists the packages of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SbomTool {
    /// syft where it is installed, and what Sealift reads itself.
    Auto,
    /// syft; without it the release is not cut.
    Syft,
    /// What Sealift reads itself.
    Own,
}

/// A file that bears the version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionSource {
    /// Relative to the component's path.
    pub path: String,
    /// A regular expression with one group, for files that have no known form.
    pub pattern: Option<String>,
}

/// How the image is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Build {
    /// `prepare`: commands run before, in the component's folder.
    pub prepare: Vec<Vec<String>>,
    /// The builder.
    pub builder: Builder,
}

/// Who builds the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "builder", rename_all = "kebab-case")]
pub enum Builder {
    /// `builder = "none"`: there is no image (data-only or configuration-only releases).
    None,
    /// `builder = "docker"`: a Dockerfile, built by a Docker Engine.
    Docker(DockerBuild),
    /// `builder = "oci"`: files in layers, without a daemon, reproducible.
    Oci(OciBuild),
    /// `builder = "nix"`: an output of a flake.
    Nix(NixBuild),
    /// `builder = "command"`: whatever a command leaves behind.
    Command(CommandBuild),
}

impl Builder {
    /// Whether an image comes of it, and not files or nothing.
    pub fn makes_image(&self) -> bool {
        match self {
            Self::None => false,
            Self::Docker(_) | Self::Oci(_) => true,
            Self::Nix(build) => build.output == NixOutput::Image,
            Self::Command(build) => !matches!(build.output, CommandOutput::Files(_)),
        }
    }

    /// The word in the configuration.
    pub fn word(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Docker(_) => "docker",
            Self::Oci(_) => "oci",
            Self::Nix(_) => "nix",
            Self::Command(_) => "command",
        }
    }
}

/// The `nix` builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NixBuild {
    /// `installable`, for example `.#image`; `.` by default.
    pub installable: String,
    /// `output`.
    pub output: NixOutput,
    /// `overrides`: `--override-input` of the flake, name to address.
    pub overrides: BTreeMap<String, String>,
    /// `rebuild`: whether it is built twice and refused when the two differ.
    pub rebuild: bool,
    /// `nix`: the program, `nix` by default.
    pub nix: String,
    /// `options`: further arguments of `nix build`.
    pub options: Vec<String>,
    /// `signing_key`: a file with the secret key that signs the closure.
    pub signing_key: Option<SecretRef>,
}

/// What the output of a flake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NixOutput {
    /// `output = "image"`: a docker archive, an OCI layout or archive, or a script that prints one.
    Image,
    /// `output = "closure"`: store paths; the release gets a binary cache of all that they need.
    Closure,
}

/// The `command` builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandBuild {
    /// `run`: the command and its arguments, run in the component's folder.
    pub run: Vec<String>,
    /// What it leaves behind: `oci_layout`, `docker_archive` or `artifacts`.
    pub output: CommandOutput,
    /// `env` added to the environment.
    pub env: BTreeMap<String, String>,
    /// `timeout`.
    #[serde(with = "super::duration")]
    pub timeout: Duration,
}

/// What a command leaves behind, relative to the component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandOutput {
    /// `oci_layout`: a folder.
    OciLayout(String),
    /// `docker_archive`: a file as `docker save` writes it.
    DockerArchive(String),
    /// `artifacts`: plain files by patterns.
    Files(Vec<String>),
}

/// The `docker` builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DockerBuild {
    /// `context`, relative to the component.
    pub context: String,
    /// `dockerfile`, relative to the context.
    pub dockerfile: String,
    /// `target` stage.
    pub target: Option<String>,
    /// `args`.
    pub args: BTreeMap<String, String>,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
    /// `engine`: `unix:///…` or `tcp://…`; the default engine without it.
    pub engine: Option<String>,
    /// `platforms`, for example `linux/arm64`; empty is the engine's own.
    pub platforms: Vec<String>,
    /// `secrets`: BuildKit secrets by id, for `RUN --mount=type=secret,id=…`.
    pub secrets: BTreeMap<String, SecretRef>,
    /// `cache_from`: images, or sources as BuildKit writes them (`type=registry,ref=…`).
    pub cache_from: Vec<String>,
    /// `cache_to`: the same, to be written.
    pub cache_to: Vec<String>,
    /// Whether nothing of the engine's cache may be used. No key of the configuration: `release verify --rebuild` sets it.
    #[serde(skip)]
    pub no_cache: bool,
}

/// The `oci` builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OciBuild {
    /// `base`: `scratch`, `oci-layout:PATH`, or `REGISTRY/PATH@sha256:…`.
    pub base: String,
    /// `base_insecure`: plain HTTP to the registry of the base.
    pub base_insecure: bool,
    /// `[[…files]]`: each entry is a layer.
    pub files: Vec<OciFile>,
    /// `entrypoint`.
    pub entrypoint: Vec<String>,
    /// `cmd`.
    pub cmd: Vec<String>,
    /// `env`.
    pub env: BTreeMap<String, String>,
    /// `user`, `1000` by default.
    pub user: String,
    /// `workdir`.
    pub workdir: Option<String>,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
    /// `platforms` (or `platform`), for example `linux/amd64`; more than one make an image index.
    pub platforms: Vec<String>,
    /// `ports` that it says it listens on: `8080`, `8080/udp`.
    pub ports: Vec<String>,
}

/// Files of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OciFile {
    /// A file or folder relative to the component.
    pub from: String,
    /// Absolute path in the image.
    pub to: String,
    /// Permission bits of files, for example 0o755; `None` keeps executable or not.
    pub mode: Option<u32>,
    /// `owner`: user and group id, `0:0` by default.
    pub owner: Option<(u32, u32)>,
    /// `platform`: only the image for this one gets it.
    pub platform: Option<String>,
}

/// How the component runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// `command`, if it is not the image's.
    pub command: Option<Vec<String>>,
    /// `port` inside.
    pub port: u16,
    /// `env`. In values: `{port}`, `{version}`, `{release}`, `{environment}`, `{model:NAME}` (where the model's file is), `{config:PATH}`.
    pub env: BTreeMap<String, String>,
    /// `secrets`.
    pub secrets: BTreeMap<String, SecretRef>,
    /// `models`: where models are put: name to absolute path.
    pub models: BTreeMap<Name, String>,
    /// `configs`: where configuration files are put: path in `config_files` to absolute path.
    pub configs: BTreeMap<String, String>,
    /// `health` and `start_timeout`.
    pub health: Option<HealthCheck>,
    /// `stop_timeout`.
    pub stop_timeout: Duration,
    /// `memory` in bytes.
    pub memory: u64,
    /// `pids`.
    pub pids: u64,
    /// `relax`.
    pub relax: Vec<Relaxation>,
}

/// A data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataSet {
    /// `path` of the data, relative to the repository. The pointer file stands beside it.
    pub path: String,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Model {
    /// `file`: the model's file, relative to the repository.
    pub file: String,
    /// `metrics`: a JSON file of numbers.
    pub metrics: Option<String>,
    /// `config`: the file whose hash is part of the version.
    pub config: Option<String>,
    /// `command`: what trains it, for the lineage.
    pub command: Option<Vec<String>>,
    /// `data`: data sets that it is trained on.
    pub data: Vec<Name>,
}

/// An environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Environment {
    /// Its name.
    pub name: Name,
    /// `target`.
    pub target: Target,
    /// `strategy`.
    pub strategy: Strategy,
    /// `after`: releases come here only from that environment, through its gates. `None`: `deploy` works directly.
    pub after: Option<Name>,
    /// `gates` that a release must pass in this environment before it leaves it.
    pub gates: Vec<Name>,
    /// `on_warn`: whether a warning blocks promotion out of here.
    pub on_warn: OnWarn,
    /// `evidence_max_age`: gate verdicts older than this no longer promote.
    pub evidence_max_age: Duration,
    /// `lease_ttl`.
    pub lease_ttl: Duration,
    /// `[environment.NAME.component.COMPONENT]`.
    pub components: BTreeMap<Name, EnvironmentComponent>,
}

/// What an environment sets for one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnvironmentComponent {
    /// `port` on the host. Never the same for two components of one host.
    pub port: u16,
    /// `env` added to and overriding the component's.
    pub env: BTreeMap<String, String>,
    /// `secrets` added to and overriding the component's.
    pub secrets: BTreeMap<String, SecretRef>,
}

/// How an environment runs its components.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "target", rename_all = "kebab-case")]
pub enum Target {
    /// Plain processes of this host from the unpacked image.
    Process {
        /// `root`: where they are unpacked and their state is kept.
        root: String,
        /// `host`: address to publish on.
        host: String,
    },
    /// Containers of a Docker Engine.
    Docker {
        /// `engine`.
        engine: Option<String>,
        /// `host`: address to publish on.
        host: String,
    },
}

/// How an environment moves from one release to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Stop the old, start the new; on failure the old is brought back.
    Recreate,
}

/// What a warning does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnWarn {
    /// It blocks (exit 1).
    Block,
    /// It is said, and blocks nothing.
    Alert,
}
