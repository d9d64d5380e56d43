//! The findings as a configuration: every line says in a comment where it comes from.

use super::{
    Detected, Finding, Listing, Making, Part, Repository, Running, code::ModelFile, compose::Service,
    in_kubernetes_folder,
};
use crate::Name;
use std::collections::BTreeSet;

/// All that was made out.
pub(super) struct Findings<'a> {
    pub(super) listing: &'a Listing,
    pub(super) repository: &'a Repository<'a>,
    pub(super) project: Finding<Name>,
    pub(super) parts: Vec<Part>,
    pub(super) data: Vec<Finding<(Name, String)>>,
    pub(super) models: Vec<Finding<ModelFile>>,
    pub(super) services: Vec<Service>,
}

/// The text under construction, and what is told beside it.
#[derive(Default)]
struct Page {
    text: String,
    found: Vec<String>,
    guessed: Vec<String>,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn comment(&mut self, text: &str) {
        self.line(&format!("# {}", plain(text)));
    }

    fn header(&mut self, header: &str) {
        self.line("");
        self.line(header);
    }

    /// A key with its origin behind it.
    fn set<T>(&mut self, key: &str, value: &str, finding: &Finding<T>, section: &str) {
        let origin = if finding.guessed { "guessed" } else { "found" };
        let why = plain(&finding.why);
        self.line(&format!("{key} = {value} # {origin}: {why}"));
        let told = if finding.guessed { &mut self.guessed } else { &mut self.found };
        told.push(format!("{section}.{key} = {}: {why}", plain(value)));
    }
}

/// Text for a comment: one line, without control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn array<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| quote(text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}

/// Writes everything.
pub(super) fn configuration(findings: &Findings<'_>) -> Detected {
    let mut page = Page::default();
    page.line("# Sealift.toml, written by `sealift init` from what is in this repository.");
    page.line("# Behind each line stands where it was found, or why it was guessed: look at the guesses, then run `sealift doctor`.");
    page.line("# Every key with its default is in Sealift's deploy/Sealift.example.toml.");
    page.header("[project]");
    page.set("name", &quote(findings.project.value.as_str()), &findings.project, "project");
    page.header("[store]");
    page.line(
        "path = \".sealift/store\" # a folder of this machine; for a team, an S3 bucket (bucket, endpoint, region)",
    );
    for part in &findings.parts {
        component(&mut page, findings, part);
    }
    if findings.parts.is_empty() {
        nothing(&mut page);
    }
    data_and_models(&mut page, findings);
    let running: Vec<(&Part, &Running)> =
        findings.parts.iter().filter_map(|part| Some((part, part.run.as_ref()?))).collect();
    if running.is_empty() {
        page.line("");
        page.comment(
            "Nothing was found that runs, so there is no environment yet. With a Dockerfile, `sealift init` writes",
        );
        page.comment("the builder, the run section, a gate, and the environments staging and production.");
    } else {
        gate(&mut page, &running);
        environments(&mut page, findings, &running);
    }
    others(&mut page, findings);
    Detected { toml: page.text, found: page.found, guessed: page.guessed }
}

fn nothing(page: &mut Page) {
    page.line("");
    page.comment("No component was found. A component is what is released; the smallest one is a file with a version:");
    page.line("# [component.service]");
    page.line("# version_files = [\"VERSION\"]");
    page.guessed.push("no component was found: there is no Dockerfile and no package of a known sort".to_owned());
}

fn component(page: &mut Page, findings: &Findings<'_>, part: &Part) {
    let key = format!("component.{}", header_key(&part.name.value));
    page.header(&format!("[{key}] # {}; {}", part.what, plain(&part.name.why)));
    page.found.push(format!("component {}: {}; {}", part.name.value, part.what, plain(&part.name.why)));
    page.line(&format!("path = {}", quote(&part.path)));
    versions(page, part, &key);
    if let Some(changelog) = &part.changelog {
        page.line(&format!("changelog = {}", quote(changelog)));
    }
    if !part.configs.is_empty() {
        let why = Finding::guessed((), "sealed with every release; leave out what is not the service's");
        page.set("config_files", &array(&part.configs), &why, &key);
    }
    for (name, names) in [("data", &part.data), ("models", &part.models)] {
        if !names.is_empty() {
            page.line(&format!("{name} = {}", array(names)));
        }
    }
    build(page, findings, part, &key);
    if let Some(run) = &part.run {
        run_section(page, findings, part, run, &key);
    }
}

fn versions(page: &mut Page, part: &Part, key: &str) {
    let agreeing: Vec<&Finding<String>> = part.versions.iter().filter(|file| !file.guessed).collect();
    if let Some(first) = agreeing.first() {
        let why = Finding::found((), format!("version {}", first.why));
        page.set("version_files", &array(agreeing.iter().map(|file| &file.value)), &why, key);
    } else {
        let why = Finding::guessed((), "no file with a version was found; make this one, with 0.1.0 in it");
        page.set("version_files", &array(["VERSION"]), &why, key);
    }
    for file in part.versions.iter().filter(|file| file.guessed) {
        let message = format!("{} says version {}; make it agree and add it, or leave it out", file.value, file.why);
        page.comment(&message);
        page.guessed.push(format!("{key}.version_files: {message}"));
    }
}

fn build(page: &mut Page, findings: &Findings<'_>, part: &Part, key: &str) {
    page.header(&format!("[{key}.build]"));
    match &part.making {
        Making::Dockerfile(dockerfile) => {
            page.line("builder = \"docker\"");
            page.line(&format!("dockerfile = {}", quote(dockerfile)));
            if !findings.listing.docker {
                page.comment("No Docker Engine answered when this was written; building and running needs one.");
                page.guessed.push(format!("{key}.build: no Docker Engine answers here, and a Dockerfile needs one"));
            }
        }
        Making::Rust { package, workspace } => {
            let binary = if workspace == "." {
                format!("target/release/{package}")
            } else {
                format!("{workspace}/target/release/{package}")
            };
            page.line("builder = \"oci\" # the binary alone, without a Docker Engine");
            page.line(&format!(
                "prepare = [{}]",
                array(["cargo", "build", "--release", "--locked", "--package", package])
            ));
            let why = Finding::guessed((), "where cargo puts the binary");
            let to = format!("/{package}");
            page.set(
                "files",
                &format!("[{{ from = {}, to = {}, mode = \"0755\" }}]", quote(&binary), quote(&to)),
                &why,
                &format!("{key}.build"),
            );
            page.line(&format!("entrypoint = {}", array([to])));
        }
        Making::Unknown => page.line(
            "builder = \"none\" # no Dockerfile was found: a release has its files, data and models, but no image",
        ),
    }
    if let Some(repository) = findings.listing.git_remote.as_deref().and_then(registry) {
        page.line("");
        page.comment("To push the image to a registry as well:");
        page.line(&format!("# [{key}.image]"));
        let name = part.name.value.as_str();
        let whole = if super::file_name(&repository) == name { repository } else { format!("{repository}/{name}") };
        page.line(&format!("# repository = {}", quote(&whole)));
    }
}

/// The registry beside a git host, if it is known to have one.
fn registry(remote: &str) -> Option<String> {
    let rest = remote.split_once("://").map_or(remote, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest).replacen(':', "/", 1);
    let (host, path) = rest.split_once('/')?;
    let path = path.trim_end_matches('/').trim_end_matches(".git").to_lowercase();
    let legal =
        !path.is_empty() && path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    let registry = match host {
        "github.com" => "ghcr.io",
        "gitlab.com" => "registry.gitlab.com",
        _ => return None,
    };
    legal.then(|| format!("{registry}/{path}"))
}

fn run_section(page: &mut Page, findings: &Findings<'_>, part: &Part, run: &Running, key: &str) {
    let section = format!("{key}.run");
    page.header(&format!("[{section}]"));
    page.set("port", &run.port.value.to_string(), &run.port, &section);
    page.set("health", &quote(&run.health.value), &run.health, &section);
    if matches!(part.making, Making::Rust { .. }) {
        let why = match &run.reads_port {
            Some(file) => Finding::found((), format!("{file} reads PORT")),
            None => Finding::guessed((), "a process must listen on the port that it is given; say here how it is told"),
        };
        page.set("env", "{ PORT = \"{port}\" }", &why, &section);
    }
    if let Some(why) = &run.root {
        page.set("relax", "[\"run-as-root\"]", &Finding::found((), why), &section);
    } else {
        page.comment("It runs as an ordinary user with a read-only root and a writable /tmp. If it cannot:");
        page.line("# relax = [\"writable-root\"]");
    }
    if let Some(model) = findings.models.first().filter(|_| part.models.contains(&findings.models[0].value.name)) {
        let (name, file) = (&model.value.name, &model.value.file);
        page.comment("To hand it the model of the release, and not one in the image:");
        page.line(&format!("# models = {{ {} = {} }}", header_key(name), quote(&format!("/{file}"))));
    }
    page.header(&format!("[[{key}.smoke]]"));
    page.line("name = \"health\"");
    page.line(&format!("path = {}", quote(&run.health.value)));
}

/// A name as a part of a header or as a key.
fn header_key(name: &Name) -> String {
    if name.as_str().contains('.') { quote(name.as_str()) } else { name.to_string() }
}

fn data_and_models(page: &mut Page, findings: &Findings<'_>) {
    for set in &findings.data {
        let key = format!("data.{}", header_key(&set.value.0));
        page.header(&format!("[{key}] # next: sealift data add {}", set.value.0));
        page.set("path", &quote(&set.value.1), set, &key);
    }
    for model in &findings.models {
        let key = format!("model.{}", header_key(&model.value.name));
        page.header(&format!("[{key}] # next: sealift model register {}", model.value.name));
        page.set("file", &quote(&model.value.file), model, &key);
        if let Some(metrics) = &model.value.metrics {
            page.set("metrics", &quote(metrics), &Finding::found((), "it is there"), &key);
        }
        if !findings.data.is_empty() {
            let names = findings.data.iter().map(|set| &set.value.0);
            page.set("data", &array(names), &Finding::guessed((), "what it was trained on"), &key);
        }
    }
}

fn gate(page: &mut Page, running: &[(&Part, &Running)]) {
    page.header("[gate.quality]");
    page.header("[[gate.quality.check]]");
    page.line("name = \"smoke\"");
    page.line("kind = \"smoke\"");
    let paths: BTreeSet<&String> = running.iter().map(|(_, run)| &run.health.value).collect();
    let [path] = paths.into_iter().collect::<Vec<_>>()[..] else {
        page.line("");
        page.comment(
            "The components have no path in common, so there is no latency check: kind = \"load\" would need one.",
        );
        return;
    };
    page.header("[[gate.quality.check]]");
    page.line("name = \"latency\"");
    page.line("kind = \"load\"");
    page.line(&format!("path = {} # better: the request that matters most", quote(path)));
    page.line("requests = 100");
    page.line("statistic = \"p95\"");
    let why = Finding::guessed((), "milliseconds; measure it, then set what you promise");
    page.set("warn_above", "250", &why, "gate.quality.latency");
    page.line("crit_above = 1000");
}

fn environments(page: &mut Page, findings: &Findings<'_>, running: &[(&Part, &Running)]) {
    let docker = running.iter().any(|(part, _)| matches!(part.making, Making::Dockerfile(_)));
    let target = if docker { "docker" } else { "process" };
    let published: BTreeSet<u16> =
        findings.services.iter().flat_map(|service| &service.ports).filter_map(|(host, _)| *host).collect();
    let mut ports = (18_080..=u16::MAX).filter(|port| !published.contains(port));
    for environment in ["staging", "production"] {
        page.header(&format!("[environment.{environment}]"));
        page.line(&format!("target = \"{target}\""));
        if environment == "production" {
            page.line("after = \"staging\"");
        }
        page.line("gates = [\"quality\"]");
        for (part, _) in running {
            let key = format!("environment.{environment}.component.{}", header_key(&part.name.value));
            page.header(&format!("[{key}]"));
            let port = ports.next().unwrap_or_default();
            page.set("port", &port.to_string(), &Finding::guessed((), "free by the files seen here"), &key);
        }
    }
}

/// What was seen and is left alone.
fn others(page: &mut Page, findings: &Findings<'_>) {
    let mut seen: Vec<String> = Vec::new();
    for service in findings.services.iter().filter(|service| service.context.is_none()) {
        let image = service.image.as_deref().unwrap_or("no image");
        seen.push(format!(
            "service {} of {} ({image}) is not built here: run it as before",
            service.name, service.file
        ));
    }
    let manifests: Vec<&str> = findings
        .repository
        .files
        .iter()
        .map(|(path, _)| *path)
        .filter(|path| in_kubernetes_folder(path) && is_yaml(path))
        .collect();
    if let Some(first) = manifests.first() {
        seen.push(format!(
            "{} Kubernetes manifests ({first}, …) are left alone: there is no such target yet",
            manifests.len()
        ));
    }
    if seen.is_empty() {
        return;
    }
    page.line("");
    page.comment("Seen, and not used:");
    for line in seen {
        page.comment(&format!("- {line}"));
        page.found.push(plain(&line));
    }
}

fn is_yaml(path: &str) -> bool {
    path.ends_with(".yaml") || path.ends_with(".yml")
}
