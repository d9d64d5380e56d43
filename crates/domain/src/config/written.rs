//! Stage 1: the file as written. Each section is read by itself; what needs two sections is `validate`'s.

use super::{
    Component, Config, DataPolicy, DataSet, Environment, EnvironmentComponent, Model, OnWarn, Policy, Run, Signing,
    StoreConfig, Strategy, Target, Transfer, VersionSource, build, checks, keys,
    paths::{absolute_path, inside_repository},
    reader::{Node, Section},
};
use crate::{
    Name,
    workload::{HealthCheck, Relaxation},
};
use std::{collections::BTreeMap, time::Duration};
use toml::de::DeValue;

/// A name for what has a bad one or none: the problem is reported, and no one sees the rest.
pub(crate) fn nameless() -> Name {
    #[allow(clippy::expect_used, reason = "a constant")]
    Name::new("nameless").expect("a legal name")
}

/// Reads the whole file. What was wrong is in the reader.
pub(super) fn read(file: &Section<'_>) -> Config {
    file.only(&[keys::TOP]);
    let named = |key: &str| file.named(key);
    let stores = file.section("store", &[keys::STORE, keys::TRANSFER]);
    let stores = stores.as_ref();
    Config {
        project: project(file),
        source: source(file),
        store: stores.and_then(place).unwrap_or_else(|| StoreConfig::Embedded { path: ".sealift/store".to_owned() }),
        transfer: transfer(stores),
        remotes: stores.map(remotes).unwrap_or_default(),
        signing: signing(file),
        components: named("component")
            .into_iter()
            .filter_map(|(name, node)| Some((name.clone(), component(name, &node)?)))
            .collect(),
        data: named("data").into_iter().filter_map(|(name, node)| Some((name, data_set(&node)?))).collect(),
        models: named("model").into_iter().filter_map(|(name, node)| Some((name, model(&node)?))).collect(),
        gates: named("gate")
            .into_iter()
            .filter_map(|(name, node)| Some((name.clone(), checks::gate(name, &node)?)))
            .collect(),
        environments: named("environment")
            .into_iter()
            .filter_map(|(name, node)| Some((name.clone(), environment(name, &node)?)))
            .collect(),
        policy: Policy { data: data_policy(file) },
    }
}

fn project(file: &Section<'_>) -> Name {
    if !file.has("project") {
        file.missing("project", "is missing; write [project] and below it name = \"my-service\"");
    }
    let Some(project) = file.section("project", &[keys::PROJECT]) else { return nameless() };
    if !project.has("name") {
        project.missing("name", "is missing; write name = \"my-service\"");
    }
    project.parsed("name").unwrap_or_else(nameless)
}

fn source(file: &Section<'_>) -> Option<String> {
    // `project` has looked for unknown keys.
    let project = file.get("project")?.open()?;
    let source = project.filled("source")?;
    match url::Url::parse(&source) {
        Ok(url) if !url.username().is_empty() && url.scheme() != "ssh" || url.password().is_some() => {
            project.problem("source", "must not carry credentials: it is written into the image's labels");
        }
        Ok(url) if url.has_host() => {}
        _ => project.problem("source", "must be an address such as https://git.example.com/team/service"),
    }
    Some(source)
}

fn remotes(store: &Section<'_>) -> BTreeMap<Name, StoreConfig> {
    let remote = |(name, node): (Name, Node<'_>)| {
        let section = node.section(&[keys::REMOTE])?;
        let place = place(&section);
        if place.is_none() {
            section.missing("path", "is missing; write path = \"DIR\", or bucket = \"…\" and what belongs to it");
        }
        Some((name, place?))
    };
    store.named("remote").into_iter().filter_map(remote).collect()
}

fn transfer(store: Option<&Section<'_>>) -> Transfer {
    let defaults = Transfer::default();
    let Some(store) = store else { return defaults };
    let limit = |key: &str| {
        let text = store.text(key)?;
        let limit = bytes(&text).filter(|limit| *limit >= SLOWEST);
        if limit.is_none() {
            store.problem(key, "is no limit of bytes a second: write 10MiB or 500KiB, at least 16KiB");
        }
        limit
    };
    Transfer {
        upload_limit: limit("upload_limit"),
        download_limit: limit("download_limit"),
        deadline: store.span("deadline", defaults.deadline),
        stall_timeout: store.span("stall_timeout", defaults.stall_timeout),
    }
}

fn data_policy(file: &Section<'_>) -> DataPolicy {
    let all = || vec!["*".to_owned()];
    let week = Duration::from_secs(7 * 24 * 3600);
    let section = file.section("policy", &[keys::POLICY]);
    let Some(data) = section.and_then(|policy| policy.section("data", &[keys::POLICY_DATA])) else {
        return DataPolicy { branches: all(), tags: all(), grace: week };
    };
    let patterns = |key: &str| if data.has(key) { data.texts(key) } else { all() };
    DataPolicy { branches: patterns("branches"), tags: patterns("tags"), grace: data.duration("grace", week) }
}

/// Below this many bytes a second a limit only looks like a fault.
const SLOWEST: u64 = 16 * 1024;

/// The store that a section describes; `None` when it names neither a path nor a bucket.
fn place(store: &Section<'_>) -> Option<StoreConfig> {
    if !store.has("bucket") {
        for key in ["prefix", "endpoint", "region", "access_key", "secret_key"].into_iter().filter(|key| store.has(key))
        {
            store.problem(
                key,
                "belongs to a bucket, and none is named: write bucket = \"…\", or leave it out for the embedded store",
            );
        }
        return store.filled("path").map(|path| StoreConfig::Embedded { path });
    }
    if store.has("path") {
        store.problem("path", "a store is either a path (embedded) or a bucket; remove one of them");
    }
    if store.has("access_key") != store.has("secret_key") {
        let (there, other) =
            if store.has("access_key") { ("access_key", "secret_key") } else { ("secret_key", "access_key") };
        store.problem(there, format!("needs {other} beside it"));
    }
    Some(StoreConfig::S3 {
        bucket: store.filled("bucket").unwrap_or_default(),
        prefix: prefix(store),
        endpoint: store.filled("endpoint").inspect(|endpoint| http_url(store, endpoint)),
        region: store.filled("region"),
        access_key: store.parsed("access_key"),
        secret_key: store.parsed("secret_key"),
    })
}

fn prefix(store: &Section<'_>) -> String {
    let prefix = store.text("prefix").unwrap_or_default();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let parts_legal = prefix.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !(prefix.is_empty() || prefix.chars().all(legal) && parts_legal) {
        store.problem("prefix", "must be plain ASCII parts joined by single slashes, without a slash at its ends");
    }
    prefix
}

fn http_url(store: &Section<'_>, endpoint: &str) {
    match url::Url::parse(endpoint) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            store.problem("endpoint", "must not carry credentials; use access_key and secret_key = \"env:NAME\"");
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {}
        _ => store.problem("endpoint", "must be an address such as https://s3.example.com"),
    }
}

fn signing(file: &Section<'_>) -> Signing {
    let section = file.section("signing", &[keys::SIGNING]);
    let section = section.as_ref();
    let release = || Name::new("release").unwrap_or_else(|_| nameless());
    let trusted = section.and_then(|section| section.filled("trusted"));
    if let (Some(section), Some(path)) = (section, &trusted) {
        inside_repository(section.reader, &section.key("trusted"), "", path);
    }
    Signing {
        key: section.and_then(|section| section.parsed("key")).unwrap_or_else(release),
        private: section.and_then(|section| section.parsed("private")),
        trusted: trusted.unwrap_or_else(|| "deploy/keys".to_owned()),
    }
}

fn component(name: Name, node: &Node<'_>) -> Option<Component> {
    let section = node.section(&[keys::COMPONENT])?;
    let path = section.filled("path").unwrap_or_else(|| ".".to_owned());
    inside_repository(section.reader, &section.key("path"), "", &path);
    let changelog = section.filled("changelog");
    let config_files = section.texts("config_files");
    for (key, file) in changelog
        .iter()
        .map(|file| ("changelog".to_owned(), file))
        .chain(config_files.iter().enumerate().map(|(index, file)| (format!("config_files[{index}]"), file)))
    {
        inside_repository(section.reader, &format!("{}.{key}", section.path), &path, file);
    }
    let image = section.section("image", &[keys::IMAGE]);
    let component = Component {
        name,
        version_files: version_files(&section, &path),
        changelog,
        logic_version: section.filled("logic_version"),
        config_files,
        data: section.names("data"),
        models: section.names("models"),
        owners: section.texts("owners"),
        contracts: section.text_map("contracts"),
        build: build::build(&section, &path),
        registries: image.as_ref().map(build::registries).unwrap_or_default(),
        tags: build::tags(image.as_ref()),
        attach: image.as_ref().is_none_or(|image| image.boolean("attach", true)),
        sbom: build::sbom(&section),
        run: section.get("run").and_then(|node| run(&node)),
        smoke: checks::smoke(&section),
        path,
    };
    Some(component)
}

fn version_files(section: &Section<'_>, path: &str) -> Vec<VersionSource> {
    let Some(node) = section.get("version_files") else {
        section.missing(
            "version_files",
            "is missing; name the files that bear the version, for example version_files = [\"pyproject.toml\"]",
        );
        return Vec::new();
    };
    if node.value().as_array().is_some_and(|array| array.is_empty()) {
        node.problem("must name at least one file that bears the version");
    }
    node.items().iter().filter_map(|item| version_source(item, path)).collect()
}

fn version_source(item: &Node<'_>, path: &str) -> Option<VersionSource> {
    let (key, source) = match item.value() {
        DeValue::Table(_) => {
            let table = item.section(&[keys::VERSION_FILE])?;
            let source = VersionSource { path: table.needed("path", "\"FILE\""), pattern: table.filled("pattern") };
            if let Some(pattern) = &source.pattern {
                match regex::Regex::new(pattern) {
                    Ok(regex) if regex.captures_len() == 2 => {}
                    Ok(_) => table
                        .problem("pattern", "must have exactly one group, round the version: 'version = \"([^\"]+)\"'"),
                    Err(error) => table.problem("pattern", format!("is no regular expression: {}", last_line(&error))),
                }
            }
            (table.key("path"), source)
        }
        _ => (item.path().to_owned(), VersionSource { path: item.text()?.to_owned(), pattern: None }),
    };
    inside_repository(item.reader(), &key, path, &source.path);
    Some(source)
}

fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Keys of the other choices get a sentence of their own; all others are unknown.
pub(super) fn belongs(section: &Section<'_>, own: &[&keys::Keys], others: &[&keys::Keys], message: &str) {
    let all: Vec<&keys::Keys> = own.iter().chain(others).copied().collect();
    section.only(&all);
    let is_own = |key: &str| own.iter().any(|keys| keys.keys.contains(&key));
    let mut told: Vec<&str> = Vec::new();
    for key in others.iter().flat_map(|keys| keys.keys) {
        if section.has(key) && !is_own(key) && !told.contains(key) {
            section.problem(key, message);
            told.push(key);
        }
    }
}

pub(super) fn engine(section: &Section<'_>) -> Option<String> {
    let engine = section.filled("engine")?;
    if !["unix:///", "tcp://", "http://"].iter().any(|scheme| engine.starts_with(scheme)) {
        section.problem("engine", "must be unix:///PATH or tcp://HOST:PORT");
    }
    Some(engine)
}

fn run(node: &Node<'_>) -> Option<Run> {
    let section = node.section(&[keys::RUN])?;
    let relaxations = [
        ("writable-root", Relaxation::WritableRoot),
        ("run-as-root", Relaxation::RunAsRoot),
        ("default-capabilities", Relaxation::DefaultCapabilities),
        ("new-privileges", Relaxation::NewPrivileges),
    ];
    let (env, secrets) = checks::environment_variables(&section);
    let start_timeout = section.span("start_timeout", Duration::from_secs(30));
    let health = section.text("health").map(|path| {
        if !path.starts_with('/') {
            section.problem("health", "must be a path that begins with /, for example \"/health\"");
        }
        HealthCheck { path, start_timeout }
    });
    if section.has("start_timeout") && health.is_none() {
        section.problem("start_timeout", "has no effect without health");
    }
    let models: BTreeMap<Name, String> = section
        .named("models")
        .into_iter()
        .filter_map(|(name, node)| Some((name, node.text()?.to_owned())))
        .inspect(|(name, to)| absolute_path(section.reader, &format!("{}.models.{name}", section.path), to))
        .collect();
    let configs = section.text_map("configs");
    for (from, to) in &configs {
        let key = section.get("configs").and_then(|node| node.open()).map(|table| table.key(from));
        absolute_path(section.reader, &key.unwrap_or_default(), to);
    }
    Some(Run {
        command: section.command("command"),
        port: section.port("port"),
        env,
        secrets,
        models,
        configs,
        health,
        stop_timeout: section.duration("stop_timeout", Duration::from_secs(10)),
        memory: memory(&section),
        pids: section.integer("pids", 1, 4_194_304).unwrap_or(256),
        relax: section
            .get("relax")
            .map(|node| node.items().iter().filter_map(|item| item.one_of(&relaxations)).collect())
            .unwrap_or_default(),
    })
}

fn memory(section: &Section<'_>) -> u64 {
    const DEFAULT: u64 = 512 << 20;
    const LEAST: u64 = 6 << 20;
    let Some(text) = section.text("memory") else { return DEFAULT };
    match bytes(&text) {
        Some(bytes) if bytes >= LEAST => bytes,
        Some(_) => {
            section.problem("memory", "must be at least 6MiB, the least that a container engine accepts");
            DEFAULT
        }
        None => {
            section.problem("memory", "is no amount of memory: write 512MiB, 2GiB or 500MB");
            DEFAULT
        }
    }
}

pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim() {
        "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

fn data_set(node: &Node<'_>) -> Option<DataSet> {
    let section = node.section(&[keys::DATA])?;
    let path = section.needed("path", "\"data/raw\"");
    inside_repository(section.reader, &section.key("path"), "", &path);
    Some(DataSet { path })
}

fn model(node: &Node<'_>) -> Option<Model> {
    let section = node.section(&[keys::MODEL])?;
    let file = section.needed("file", "\"models/quality.json\"");
    let metrics = section.filled("metrics");
    let config = section.filled("config");
    for (key, path) in [("file", Some(&file)), ("metrics", metrics.as_ref()), ("config", config.as_ref())] {
        if let Some(path) = path {
            inside_repository(section.reader, &section.key(key), "", path);
        }
    }
    Some(Model { file, metrics, config, command: section.command("command"), data: section.names("data") })
}

#[derive(Clone, Copy)]
enum TargetWord {
    Process,
    Docker,
}

fn environment(name: Name, node: &Node<'_>) -> Option<Environment> {
    let section = node.open()?;
    let after: Option<Name> = section.parsed("after");
    let default = if section.has("after") { OnWarn::Alert } else { OnWarn::Block };
    let words = [("block", OnWarn::Block), ("alert", OnWarn::Alert)];
    let target = target(&section);
    Some(Environment {
        name,
        target,
        strategy: section.one_of("strategy", &[("recreate", Strategy::Recreate)]).unwrap_or(Strategy::Recreate),
        after,
        gates: section.names("gates"),
        on_warn: section.one_of("on_warn", &words).unwrap_or(default),
        evidence_max_age: section.span("evidence_max_age", Duration::from_secs(24 * 3600)),
        lease_ttl: lease_ttl(&section),
        components: section
            .named("component")
            .into_iter()
            .filter_map(|(name, node)| Some((name, environment_component(&node)?)))
            .collect(),
    })
}

/// Half of it must leave room for a slow renewal.
fn lease_ttl(section: &Section<'_>) -> Duration {
    let ttl = section.duration("lease_ttl", Duration::from_secs(15));
    if ttl < Duration::from_secs(2) {
        section.problem("lease_ttl", "must be at least 2s: the holder stops itself after half of it without a renewal");
    }
    ttl
}

fn target(section: &Section<'_>) -> Target {
    let host = || {
        let host = section.filled("host").unwrap_or_else(|| "127.0.0.1".to_owned());
        if host.parse::<std::net::IpAddr>().is_err() {
            section.problem("host", "must be an IP address to publish on, for example 127.0.0.1");
        }
        host
    };
    if !section.has("target") {
        section.missing("target", "is missing; write target = \"docker\" or \"process\"");
    }
    match section.one_of("target", &[("process", TargetWord::Process), ("docker", TargetWord::Docker)]) {
        Some(TargetWord::Process) => {
            belongs(
                section,
                &[keys::ENVIRONMENT, keys::TARGET_PROCESS],
                &[keys::TARGET_DOCKER],
                "belongs to target \"docker\"",
            );
            let root = section.filled("root").unwrap_or_else(|| ".sealift/run".to_owned());
            Target::Process { root, host: host() }
        }
        Some(TargetWord::Docker) => {
            belongs(
                section,
                &[keys::ENVIRONMENT, keys::TARGET_DOCKER],
                &[keys::TARGET_PROCESS],
                "belongs to target \"process\"",
            );
            Target::Docker { engine: engine(section), host: host() }
        }
        None => {
            section.only(&[keys::ENVIRONMENT, keys::TARGET_PROCESS, keys::TARGET_DOCKER]);
            Target::Process { root: String::new(), host: host() }
        }
    }
}

fn environment_component(node: &Node<'_>) -> Option<EnvironmentComponent> {
    let section = node.section(&[keys::ENVIRONMENT_COMPONENT])?;
    let (env, secrets) = checks::environment_variables(&section);
    Some(EnvironmentComponent { port: section.port("port"), env, secrets })
}
