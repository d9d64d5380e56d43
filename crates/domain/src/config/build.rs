//! How a component is built and where its image goes, as it is written: `[component.NAME.build]` and `[component.NAME.image]`.

use super::{
    Build, Builder, CommandBuild, CommandOutput, DockerBuild, NixBuild, NixOutput, OciBuild, OciFile, Registry,
    SbomTool, TagKind, checks, keys,
    paths::{absolute_path, inside_repository},
    reader::{Node, Section},
    written::engine,
};
use std::time::Duration;

/// Every tag, in the order in which they are written.
const TAGS: [TagKind; 4] = [TagKind::Version, TagKind::Minor, TagKind::Major, TagKind::Latest];

/// `repository`, or `repositories`; `insecure` is for all of them, or names those that it is for.
pub(super) fn registries(image: &Section<'_>) -> Vec<Registry> {
    if image.has("repository") && image.has("repositories") {
        image.problem("repository", "stands beside repositories; keep one of them");
    }
    let written = if image.has("repositories") {
        let listed = image.texts("repositories");
        if listed.is_empty() {
            image.problem("repositories", "must name at least one repository");
        }
        listed
    } else {
        vec![image.needed("repository", "\"registry.example.com/team/service\"")]
    };
    let key = if image.has("repositories") { "repositories" } else { "repository" };
    for (number, repository) in written.iter().enumerate().filter(|(_, repository)| !repository.is_empty()) {
        let after_host = repository.rsplit('/').next().unwrap_or_default();
        if repository.contains("://") || repository.contains('@') || after_host.contains(':') {
            let form = "must be a repository without scheme, tag or digest: registry.example.com/team/service";
            image.problem(key, form);
        }
        if written[..number].contains(repository) {
            image.problem(key, format!("names {repository} twice"));
        }
    }
    let some_insecure: Option<Vec<String>> =
        image.get("insecure").filter(|node| node.value().as_array().is_some()).map(|node| node.texts());
    for unknown in some_insecure.iter().flatten().filter(|one| !written.contains(one)) {
        image.problem("insecure", format!("names {unknown}, which is none of its repositories"));
    }
    let all_insecure = some_insecure.is_none() && image.boolean("insecure", false);
    let insecure = |repository: &String| all_insecure || some_insecure.iter().flatten().any(|one| one == repository);
    let named = written.into_iter().filter(|repository| !repository.is_empty());
    named.map(|repository| Registry { insecure: insecure(&repository), repository }).collect()
}

/// The tags that a version gets; all of them unless some are named. `X.Y.Z` is always among them.
pub(super) fn tags(image: Option<&Section<'_>>) -> Vec<TagKind> {
    let Some(node) = image.and_then(|image| image.get("tags")) else { return TAGS.to_vec() };
    let words = [
        ("version", TagKind::Version),
        ("minor", TagKind::Minor),
        ("major", TagKind::Major),
        ("latest", TagKind::Latest),
    ];
    let mut tags: Vec<TagKind> = node.items().iter().filter_map(|item| item.one_of(&words)).collect();
    tags.push(TagKind::Version);
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// Who lists the packages.
pub(super) fn sbom(component: &Section<'_>) -> SbomTool {
    let words = [("auto", SbomTool::Auto), ("syft", SbomTool::Syft), ("own", SbomTool::Own)];
    component.one_of("sbom", &words).unwrap_or(SbomTool::Auto)
}

#[derive(Clone, Copy)]
enum BuilderWord {
    None,
    Docker,
    Oci,
    Nix,
    Command,
}

/// `[component.NAME.build]`.
pub(super) fn build(component: &Section<'_>, path: &str) -> Build {
    let nothing = Build { prepare: Vec::new(), builder: Builder::None };
    let Some(section) = component.get("build").and_then(|node| node.open()) else { return nothing };
    let words = [
        ("docker", BuilderWord::Docker),
        ("oci", BuilderWord::Oci),
        ("nix", BuilderWord::Nix),
        ("command", BuilderWord::Command),
        ("none", BuilderWord::None),
    ];
    if !section.has("builder") {
        let choices = "is missing; write builder = \"docker\", \"oci\", \"nix\", \"command\" or \"none\"";
        section.missing("builder", choices);
    }
    let prepare = section.get("prepare").map(|node| node.items()).unwrap_or_default();
    let prepare = prepare.iter().map(Node::texts).filter(|words| !words.is_empty()).collect();
    let all = [keys::BUILD_DOCKER, keys::BUILD_OCI, keys::BUILD_NIX, keys::BUILD_COMMAND];
    let word = section.text("builder").unwrap_or_default();
    let only = |own: Option<&'static keys::Keys>| keys_of(&section, own, &word);
    let builder = match section.one_of("builder", &words) {
        None => {
            section.only(&[keys::BUILD, all[0], all[1], all[2], all[3]]);
            Builder::None
        }
        Some(BuilderWord::None) => {
            only(None);
            Builder::None
        }
        Some(BuilderWord::Docker) => {
            only(Some(keys::BUILD_DOCKER));
            Builder::Docker(docker_build(&section, path))
        }
        Some(BuilderWord::Oci) => {
            only(Some(keys::BUILD_OCI));
            Builder::Oci(oci_build(&section, path))
        }
        Some(BuilderWord::Nix) => {
            only(Some(keys::BUILD_NIX));
            Builder::Nix(nix_build(&section))
        }
        Some(BuilderWord::Command) => {
            only(Some(keys::BUILD_COMMAND));
            Builder::Command(command_build(&section, path))
        }
    };
    Build { prepare, builder }
}

/// Refuses the keys of other builders in words that name the builder that they belong to.
fn keys_of(section: &Section<'_>, own: Option<&'static keys::Keys>, word: &str) {
    let builders = [
        ("docker", keys::BUILD_DOCKER),
        ("oci", keys::BUILD_OCI),
        ("nix", keys::BUILD_NIX),
        ("command", keys::BUILD_COMMAND),
    ];
    let all: Vec<&keys::Keys> = [keys::BUILD].into_iter().chain(builders.map(|(_, keys)| keys)).collect();
    section.only(&all);
    let mut told: Vec<&str> = own.map(|own| own.keys.to_vec()).unwrap_or_default();
    for (other, keys) in builders.into_iter().filter(|(other, _)| *other != word) {
        for key in keys.keys.iter().filter(|key| section.has(key)) {
            if told.contains(key) {
                continue;
            }
            told.push(key);
            match own {
                Some(_) => section.problem(key, format!("belongs to builder \"{other}\"")),
                None => section.problem(key, "builder \"none\" has no such key"),
            }
        }
    }
}

fn docker_build(section: &Section<'_>, path: &str) -> DockerBuild {
    let context = section.filled("context").unwrap_or_else(|| ".".to_owned());
    inside_repository(section.reader, &section.key("context"), path, &context);
    let args = section.text_map("args");
    let secrets = section.secrets("secrets");
    for (key, value) in &args {
        checks::not_in_the_clear(section, "args", key, value, "build arguments stay in the image's history");
    }
    for id in secrets.keys().filter(|id| id.is_empty() || id.contains([',', '=', '\0', '/'])) {
        section.problem("secrets", format!("{id:?} is no id of a BuildKit secret"));
    }
    let dockerfile = section.filled("dockerfile").unwrap_or_else(|| "Dockerfile".to_owned());
    inside_repository(section.reader, &section.key("dockerfile"), &format!("{path}/{context}"), &dockerfile);
    DockerBuild {
        context,
        dockerfile,
        target: section.filled("target"),
        args,
        labels: section.text_map("labels"),
        engine: engine(section),
        platforms: platforms(section, Vec::new()),
        secrets,
        cache_from: section.texts("cache_from"),
        cache_to: section.texts("cache_to"),
        no_cache: false,
    }
}

/// `platforms`, each once; `default` without the key.
fn platforms(section: &Section<'_>, default: Vec<String>) -> Vec<String> {
    if !section.has("platforms") {
        return default;
    }
    let mut platforms = Vec::new();
    for platform in section.texts("platforms") {
        if !is_platform(&platform) {
            section.problem("platforms", PLATFORM);
        } else if platforms.contains(&platform) {
            section.problem("platforms", format!("names {platform} twice"));
        } else {
            platforms.push(platform);
        }
    }
    if platforms.is_empty() {
        section.problem("platforms", "must name at least one, for example linux/amd64");
        return default;
    }
    platforms
}

const PLATFORM: &str = "must be linux/ARCHITECTURE, for example linux/amd64";

fn is_platform(platform: &str) -> bool {
    let filled = |part: &&str| !part.is_empty();
    match platform.split('/').collect::<Vec<_>>()[..] {
        ["linux", ref rest @ ..] => matches!(rest.len(), 1 | 2) && rest.iter().all(filled),
        _ => false,
    }
}

fn oci_build(section: &Section<'_>, path: &str) -> OciBuild {
    let base = section.filled("base").unwrap_or_else(|| "scratch".to_owned());
    base_is_pinned(section, path, &base);
    if section.has("base_insecure") && (base == "scratch" || base.starts_with("oci-layout:")) {
        section.problem("base_insecure", "has no effect: the base comes from no registry");
    }
    if !section.has("files") {
        section.missing("files", "is missing; write files = [{ from = \"dist/app\", to = \"/app\" }]");
    }
    let env = section.text_map("env");
    for (key, value) in &env {
        checks::not_in_the_clear(section, "env", key, value, "the environment of an image is public");
    }
    if section.has("platform") && section.has("platforms") {
        section.problem("platform", "stands beside platforms; keep one of them");
    }
    let platform = section.filled("platform").unwrap_or_else(|| "linux/amd64".to_owned());
    if !is_platform(&platform) {
        section.problem("platform", PLATFORM);
    }
    let platforms = platforms(section, vec![platform]);
    let files: Vec<OciFile> = section.each("files").iter().map(|file| oci_file(file, path, &platforms)).collect();
    let workdir = section.filled("workdir");
    if let Some(workdir) = &workdir {
        absolute_path(section.reader, &section.key("workdir"), workdir);
    }
    let ports = section.texts("ports");
    for port in &ports {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        if number.parse::<u16>().map_or(true, |number| number == 0) || !["tcp", "udp", "sctp"].contains(&protocol) {
            section.problem("ports", format!("{port:?} is no port: write \"8080\" or \"8080/udp\""));
        }
    }
    OciBuild {
        base,
        base_insecure: section.boolean("base_insecure", false),
        files,
        entrypoint: section.texts("entrypoint"),
        cmd: section.texts("cmd"),
        env,
        user: section.filled("user").unwrap_or_else(|| "1000".to_owned()),
        workdir,
        labels: section.text_map("labels"),
        platforms,
        ports,
    }
}

/// A base that could be another one tomorrow is none.
fn base_is_pinned(section: &Section<'_>, path: &str, base: &str) {
    if base == "scratch" {
        return;
    }
    if let Some(layout) = base.strip_prefix("oci-layout:") {
        return inside_repository(section.reader, &section.key("base"), path, layout);
    }
    match base.split_once('@') {
        Some((name, digest)) if name.contains('/') && !name.contains("://") => {
            if !digest.starts_with("sha256:") || digest.parse::<crate::Digest>().is_err() {
                section
                    .problem("base", "must end in a digest: registry.example.com/team/base@sha256:… (64 hex digits)");
            }
        }
        None if base.contains('/') && !base.contains("://") => {
            let pin = "must be pinned by its digest: registry.example.com/team/base@sha256:…; \
                       `skopeo inspect docker://IMAGE` or `crane digest IMAGE` says it";
            section.problem("base", pin);
        }
        _ => {
            let forms = "must be \"scratch\", \"oci-layout:PATH\" or \"registry.example.com/team/base@sha256:…\"";
            section.problem("base", forms);
        }
    }
}

fn oci_file(file: &Section<'_>, path: &str, platforms: &[String]) -> OciFile {
    file.only(&[keys::OCI_FILE]);
    let from = file.needed("from", "\"dist/app\"");
    if !from.is_empty() {
        inside_repository(file.reader, &file.key("from"), path, &from);
    }
    let to = file.needed("to", "\"/app\"");
    if !to.is_empty() {
        absolute_path(file.reader, &file.key("to"), &to);
    }
    let mode = file.text("mode").and_then(|text| {
        let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o777);
        if mode.is_none() {
            file.problem("mode", "must be octal permission bits without setuid, for example \"0755\"");
        }
        mode
    });
    let owner = file.text("owner").and_then(|text| {
        let (user, group) = text.split_once(':').unwrap_or((&text, &text));
        let owner = user.parse().ok().zip(group.parse().ok());
        if owner.is_none() {
            file.problem("owner", "must be numbers, for example \"1000:1000\"; names are not the same everywhere");
        }
        owner
    });
    let platform = file.filled("platform");
    if platform.as_ref().is_some_and(|platform| !platforms.contains(platform)) {
        file.problem("platform", format!("is none of the platforms of the image: {}", platforms.join(", ")));
    }
    OciFile { from, to, mode, owner, platform }
}

fn nix_build(section: &Section<'_>) -> NixBuild {
    let words = [("image", NixOutput::Image), ("closure", NixOutput::Closure)];
    if !section.has("output") {
        section.missing("output", "is missing; write output = \"image\" or \"closure\"");
    }
    let installable = section.filled("installable").unwrap_or_else(|| ".".to_owned());
    if installable.starts_with('-') {
        section.problem("installable", "must not begin with -; write .#NAME");
    }
    NixBuild {
        installable,
        output: section.one_of("output", &words).unwrap_or(NixOutput::Image),
        overrides: section.text_map("overrides"),
        rebuild: section.boolean("rebuild", false),
        nix: section.filled("nix").unwrap_or_else(|| "nix".to_owned()),
        options: section.texts("options"),
        signing_key: section.parsed("signing_key"),
    }
}

fn command_build(section: &Section<'_>, path: &str) -> CommandBuild {
    if !section.has("run") {
        section.missing("run", "is missing; write run = [\"make\", \"dist\"]");
    }
    let kinds = ["oci_layout", "docker_archive", "artifacts"];
    let given: Vec<&str> = kinds.into_iter().filter(|key| section.has(key)).collect();
    let output = match given[..] {
        ["oci_layout"] => CommandOutput::OciLayout(section.needed("oci_layout", "\"build/image\"")),
        ["docker_archive"] => CommandOutput::DockerArchive(section.needed("docker_archive", "\"build/image.tar\"")),
        ["artifacts"] => {
            let patterns = section.texts("artifacts");
            if patterns.is_empty() {
                section.problem("artifacts", "must name at least one pattern, for example \"dist/*.whl\"");
            }
            CommandOutput::Files(patterns)
        }
        [] => {
            let choices =
                "is missing; say what the command leaves: artifacts = [\"dist/*.whl\"], oci_layout or docker_archive";
            section.missing("artifacts", choices);
            CommandOutput::Files(Vec::new())
        }
        [first, ..] => {
            section.problem(first, format!("only one of {} can be said", given.join(", ")));
            CommandOutput::Files(Vec::new())
        }
    };
    let paths: Vec<&String> = match &output {
        CommandOutput::OciLayout(path) | CommandOutput::DockerArchive(path) => vec![path],
        CommandOutput::Files(patterns) => patterns.iter().collect(),
    };
    for written in paths.into_iter().filter(|written| !written.is_empty()) {
        inside_repository(section.reader, &section.key(given.first().copied().unwrap_or("artifacts")), path, written);
    }
    let env = section.text_map("env");
    for (key, value) in &env {
        checks::not_in_the_clear(section, "env", key, value, "leave it to the environment that the command inherits");
    }
    CommandBuild {
        run: section.command("run").unwrap_or_default(),
        output,
        env,
        timeout: section.span("timeout", Duration::from_secs(3600)),
    }
}
