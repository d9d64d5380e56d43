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
    /// `[component.NAME.image] repository`: where the image is pushed as well, if anywhere.
    pub repository: Option<String>,
    /// `[component.NAME.image] insecure`: plain HTTP to that registry.
    pub insecure_registry: bool,
    /// `[component.NAME.run]`; `None` when nothing is run.
    pub run: Option<Run>,
    /// `[[component.NAME.smoke]]`.
    pub smoke: Vec<HttpRequest>,
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
}

/// The `oci` builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OciBuild {
    /// `base`: `scratch`, or `oci-layout:PATH`.
    pub base: String,
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
    /// `platform`, for example `linux/amd64`.
    pub platform: String,
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
