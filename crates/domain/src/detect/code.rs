//! Components, data sets and models, made out from folders, manifests and source text.

use super::{
    Finding, Making, Part, Repository, Running, compose::Service, container, file_name, folder_of,
    in_kubernetes_folder, is_aside, is_dockerfile, join, legal_name, unused,
};
use crate::{Name, version::VersionFile};
use std::collections::BTreeSet;

/// A model that was made out.
#[derive(Debug, Clone)]
pub(super) struct ModelFile {
    pub(super) name: Name,
    pub(super) file: String,
    pub(super) metrics: Option<String>,
}

/// Where a component is, before its files are read.
struct Site {
    name: Finding<Name>,
    path: String,
    making: Making,
}

/// The components: services that a compose file builds, folders with a Dockerfile, else Rust servers, else the
/// repository itself if it is a package of a known sort.
pub(super) fn parts(repository: &Repository<'_>, project: &Name, services: &[Service]) -> Vec<Part> {
    let mut sites = with_dockerfile(repository, project, services);
    if sites.is_empty() {
        sites = rust_servers(repository);
    }
    if sites.is_empty() {
        sites = packages(repository, project);
    }
    let mut taken = BTreeSet::new();
    let folders: Vec<String> = sites.iter().map(|site| site.path.clone()).collect();
    let alone = sites.len() == 1;
    let part = |mut site: Site| {
        site.name.value = unused(site.name.value, &mut taken);
        let others: Vec<&str> =
            folders.iter().map(String::as_str).filter(|path| *path != site.path && *path != ".").collect();
        describe(repository, site, &others, services, alone)
    };
    sites.into_iter().map(part).collect()
}

fn with_dockerfile(repository: &Repository<'_>, project: &Name, services: &[Service]) -> Vec<Site> {
    let mut covered = BTreeSet::new();
    let mut sites = Vec::new();
    for service in services {
        let Some(context) = &service.context else { continue };
        let dockerfile = service.dockerfile.clone().unwrap_or_else(|| "Dockerfile".to_owned());
        let whole = join(context, dockerfile.trim_start_matches("./"));
        if repository.has(&whole) && covered.insert(whole) {
            let name = Finding::found(
                legal_name(&service.name, "service"),
                format!("service {} in {}", service.name, service.file),
            );
            sites.push(Site { name, path: context.clone(), making: Making::Dockerfile(dockerfile) });
        }
    }
    let mut folders = BTreeSet::new();
    // The plain name sorts before its variants (Dockerfile before Dockerfile.dev), and one a folder is enough.
    for (path, _) in repository.files.iter().filter(|(path, _)| is_dockerfile(path) && !is_aside(path)) {
        let folder = folder_of(path);
        if covered.contains(*path) || covered.iter().any(|whole| folder_of(whole) == folder) || !folders.insert(folder)
        {
            continue;
        }
        let (home, dockerfile) = home_of(repository, path);
        if covered.iter().any(|whole| folder_of(whole) == home) {
            continue;
        }
        let name = if home == "." {
            Finding::found(project.clone(), "the repository's name")
        } else {
            Finding::found(legal_name(file_name(home), "service"), format!("the folder of {path}"))
        };
        sites.push(Site { name, path: home.to_owned(), making: Making::Dockerfile(dockerfile) });
    }
    sites
}

/// A Dockerfile in a folder of its own (`docker/`, `deploy/`) belongs to the folder above.
fn home_of<'a>(repository: &Repository<'_>, dockerfile: &'a str) -> (&'a str, String) {
    let folder = folder_of(dockerfile);
    let own = ["docker", ".docker", "deploy", "build", "container", "containers", "ci"].contains(&file_name(folder));
    if own && folder != "." && !MANIFESTS.iter().any(|manifest| repository.has(&join(folder, manifest))) {
        let home = folder_of(folder);
        let below = if home == "." { dockerfile } else { &dockerfile[home.len() + 1..] };
        return (home, below.to_owned());
    }
    (folder, file_name(dockerfile).to_owned())
}

const MANIFESTS: [&str; 5] = ["Cargo.toml", "pyproject.toml", "package.json", "requirements.txt", "setup.py"];
const RUST_SERVERS: [&str; 11] =
    ["axum", "actix-web", "hyper", "warp", "rocket", "tiny_http", "tonic", "poem", "salvo", "tide", "rouille"];

/// Packages with a binary that depend on an HTTP server.
fn rust_servers(repository: &Repository<'_>) -> Vec<Site> {
    let workspaces: Vec<&str> = repository
        .files
        .iter()
        .filter(|(path, text)| file_name(path) == "Cargo.toml" && text.is_some_and(|text| text.contains("[workspace")))
        .map(|(path, _)| folder_of(path))
        .collect();
    let site = |(path, text): &(&str, Option<&str>)| {
        let folder = folder_of(path);
        let manifest: toml::Table =
            text.filter(|_| file_name(path) == "Cargo.toml" && !is_aside(path))?.parse().ok()?;
        let package = manifest.get("package")?.get("name")?.as_str()?.to_owned();
        let server = manifest.get("dependencies")?.as_table()?.keys().any(|key| RUST_SERVERS.contains(&key.as_str()));
        if !(server && repository.has(&join(folder, "src/main.rs"))) {
            return None;
        }
        let around = workspaces
            .iter()
            .find(|around| **around == "." || folder.starts_with(&format!("{around}/")) || folder == **around);
        let workspace = around.map_or_else(|| ".".to_owned(), |around| up(folder, around));
        let name = Finding::found(legal_name(&package, "service"), format!("package.name in {path}"));
        Some(Site { name, path: folder.to_owned(), making: Making::Rust { package, workspace } })
    };
    repository.files.iter().filter_map(site).collect()
}

/// The way from a folder up to one around it: `../..`, or `.`.
fn up(folder: &str, around: &str) -> String {
    let depth = |path: &str| if path == "." { 0 } else { path.split('/').count() };
    let steps = depth(folder).saturating_sub(depth(around));
    if steps == 0 { ".".to_owned() } else { vec![".."; steps].join("/") }
}

fn packages(repository: &Repository<'_>, project: &Name) -> Vec<Site> {
    let is_package = |folder: &str| MANIFESTS.iter().any(|manifest| repository.has(&join(folder, manifest)));
    if is_package(".") {
        let name = Finding::found(project.clone(), "the repository's name");
        return vec![Site { name, path: ".".to_owned(), making: Making::Unknown }];
    }
    let folders: BTreeSet<&str> =
        repository.files.iter().filter(|(path, _)| !is_aside(path)).map(|(path, _)| folder_of(path)).collect();
    let site = |folder: &str| Site {
        name: Finding::found(legal_name(file_name(folder), "package"), format!("the folder {folder}")),
        path: folder.to_owned(),
        making: Making::Unknown,
    };
    folders.into_iter().filter(|folder| !folder.contains('/') && is_package(folder)).map(site).collect()
}

fn describe(repository: &Repository<'_>, site: Site, others: &[&str], services: &[Service], alone: bool) -> Part {
    let Site { name, path, making } = site;
    let own = |file: &str| !others.iter().any(|other| file.starts_with(&format!("{other}/"))) && !is_aside(file);
    let files: Vec<(&str, Option<&str>)> = repository.below(&path).filter(|(file, _)| own(file)).collect();
    let kind = kind(repository, &path);
    let dockerfile = match &making {
        Making::Dockerfile(dockerfile) => Some(join(&path, dockerfile.trim_start_matches("./"))),
        _ => None,
    };
    let container = dockerfile.as_deref().and_then(|path| repository.text(path)).map(container::read);
    let runs = match &making {
        Making::Dockerfile(_) => container.as_ref().is_none_or(|container| container.starts),
        Making::Rust { .. } => true,
        Making::Unknown => false,
    };
    let run = runs.then(|| {
        let service =
            services.iter().find(|service| service.context.as_deref() == Some(&path) && !service.ports.is_empty());
        let container = container.unwrap_or_default();
        let user = container.user.as_deref().unwrap_or_default();
        let root =
            matches!(user.split(':').next(), Some("root" | "0")).then(|| format!("USER {user} in its Dockerfile"));
        let file = dockerfile.as_deref().unwrap_or_default();
        let read = ["PORT\"", "PORT'", "env.PORT"];
        let reads_port = sources(&files).find(|(_, text)| read.iter().any(|word| text.contains(word)));
        Running {
            reads_port: reads_port.map(|(file, _)| file.to_owned()),
            port: port(&container, file, service, &files, kind),
            health: health(repository, &container, file, &files, alone),
            root,
        }
    });
    let versions = versions(repository, &path, &files, dockerfile.as_deref());
    let changelog =
        ["CHANGELOG.md", "Changelog.md"].into_iter().find(|file| repository.has(&join(&path, file))).map(str::to_owned);
    let configs = configs(&path, &files);
    Part {
        name,
        path,
        making,
        what: kind.words.to_owned(),
        versions,
        changelog,
        configs,
        data: Vec::new(),
        models: Vec::new(),
        run,
    }
}

/// A sort of service, and where it listens unless it is told otherwise.
#[derive(Clone, Copy)]
struct Kind {
    words: &'static str,
    port: u16,
}

fn kind(repository: &Repository<'_>, path: &str) -> Kind {
    let text = |file: &str| repository.text(&join(path, file)).unwrap_or_default().to_lowercase();
    let python = format!("{}{}", text("pyproject.toml"), text("requirements.txt"));
    let frameworks = [
        ("fastapi", "Python with FastAPI", 8000),
        ("streamlit", "Python with Streamlit", 8501),
        ("flask", "Python with Flask", 5000),
        ("django", "Python with Django", 8000),
        ("aiohttp", "Python with aiohttp", 8080),
        ("uvicorn", "Python with uvicorn", 8000),
        ("gunicorn", "Python with gunicorn", 8000),
    ];
    if let Some((_, words, port)) = frameworks.iter().find(|(word, ..)| python.contains(word)) {
        return Kind { words, port: *port };
    }
    match () {
        () if !python.is_empty() || repository.has(&join(path, "setup.py")) => Kind { words: "Python", port: 8000 },
        () if repository.has(&join(path, "package.json")) => Kind { words: "Node.js", port: 3000 },
        () if repository.has(&join(path, "Cargo.toml")) => Kind { words: "Rust", port: 8080 },
        () => Kind { words: "a service of no known sort", port: 8080 },
    }
}

fn port(
    container: &container::Dockerfile,
    dockerfile: &str,
    service: Option<&Service>,
    files: &[(&str, Option<&str>)],
    kind: Kind,
) -> Finding<u16> {
    if let Some((port, how)) = container.port {
        return Finding::found(port, format!("{how} in {dockerfile}"));
    }
    if let Some(service) = service {
        return Finding::found(service.ports[0].1, format!("ports of service {} in {}", service.name, service.file));
    }
    let in_source =
        r"(?i:\bport\s*[=:]\s*|listen\(\s*|(?:0\.0\.0\.0|127\.0\.0\.1|localhost|\[::\]):)([1-9][0-9]{3,4})\b";
    if let Ok(regex) = regex::Regex::new(in_source) {
        let number = |text: &str| regex.captures(text).and_then(|found| found[1].parse().ok());
        if let Some((file, port)) = sources(files).find_map(|(file, text)| Some((file, number(text)?))) {
            return Finding::found(port, format!("it stands in {file}"));
        }
    }
    Finding::guessed(kind.port, format!("usual for {}", kind.words))
}

/// Texts in a programming language.
fn sources<'a>(files: &'a [(&'a str, Option<&'a str>)]) -> impl Iterator<Item = (&'a str, &'a str)> {
    let source = |path: &str| [".py", ".rs", ".js", ".ts", ".mjs", ".go"].iter().any(|end| path.ends_with(end));
    files.iter().filter(move |(path, _)| source(path)).filter_map(|(path, text)| Some((*path, (*text)?)))
}

fn health(
    repository: &Repository<'_>,
    container: &container::Dockerfile,
    dockerfile: &str,
    files: &[(&str, Option<&str>)],
    alone: bool,
) -> Finding<String> {
    if let Some(path) = &container.health {
        return Finding::found(path.clone(), format!("HEALTHCHECK in {dockerfile}"));
    }
    for path in
        ["/ready", "/readyz", "/health/ready", "/health", "/healthz", "/livez", "/api/health", "/ping", "/status"]
    {
        let quoted = [format!("\"{path}\""), format!("'{path}'")];
        if let Some((file, _)) = sources(files).find(|(_, text)| quoted.iter().any(|quoted| text.contains(quoted))) {
            return Finding::found(path.to_owned(), format!("it stands in {file}"));
        }
    }
    let mut manifests = repository.files.iter().filter(|(path, _)| alone && in_kubernetes_folder(path));
    if let Some((file, path)) = manifests.find_map(|(file, text)| Some((file, container::probe_path((*text)?)?))) {
        return Finding::found(path, format!("a probe in {file}"));
    }
    Finding::guessed(
        "/health".to_owned(),
        "no such path was seen in the source; it must answer 2xx once the service is ready",
    )
}

/// Files that bear the version: the first that has one, and all that agree with it.
fn versions(
    repository: &Repository<'_>,
    path: &str,
    files: &[(&str, Option<&str>)],
    dockerfile: Option<&str>,
) -> Vec<Finding<String>> {
    let mut candidates: Vec<String> =
        ["Cargo.toml", "pyproject.toml", "package.json", "VERSION", "VERSION.txt", "version.txt"]
            .map(|file| join(path, file))
            .to_vec();
    candidates
        .extend(files.iter().map(|(file, _)| *file).filter(|file| file_name(file) == "__init__.py").map(str::to_owned));
    candidates.extend(dockerfile.map(str::to_owned));
    let top = if path == "." { "." } else { &up(path, ".") };
    if path != "." {
        candidates.extend(["Cargo.toml", "pyproject.toml", "package.json", "VERSION"].map(str::to_owned));
    }
    let relative = |file: &str| {
        let below = if path == "." { Some(file) } else { file.strip_prefix(&format!("{path}/")) };
        below.map_or_else(|| format!("{top}/{file}"), str::to_owned)
    };
    let mut versions: Vec<Finding<String>> = Vec::new();
    let mut first = None;
    for file in candidates {
        let text = repository.text(&file);
        let Some(found) = text.and_then(|text| VersionFile::new(file.as_str(), None).ok()?.read(text).ok()) else {
            continue;
        };
        // Files above the component are only asked when none of its own has a version.
        if first.is_some() && relative(&file).starts_with("..") {
            break;
        }
        match first.get_or_insert_with(|| found.version.clone()) {
            version if *version == found.version => {
                versions.push(Finding::found(relative(&file), found.version.to_string()))
            }
            _ => versions.push(Finding::guessed(relative(&file), found.version.to_string())),
        }
    }
    versions
}

fn configs(path: &str, files: &[(&str, Option<&str>)]) -> Vec<String> {
    let folders = ["config", "configs", "conf"].map(|folder| join(path, folder));
    let plain = |file: &str| {
        let known = [".toml", ".yaml", ".yml", ".json", ".ini"].iter().any(|end| file.ends_with(end));
        known && !file.to_lowercase().contains("secret") && folders.iter().any(|folder| folder_of(file) == folder)
    };
    let below = |file: &str| if path == "." { file.to_owned() } else { file[path.len() + 1..].to_owned() };
    files.iter().map(|(file, _)| *file).filter(|file| plain(file)).map(below).take(20).collect()
}

const MODEL_FOLDERS: [&str; 4] = ["models", "model", "artifacts", "weights"];

fn is_model(path: &str) -> bool {
    let binary = [".pkl", ".joblib", ".onnx", ".pt", ".pth", ".safetensors", ".h5", ".gguf"]
        .iter()
        .any(|end| path.ends_with(end));
    let stem = file_name(path).to_lowercase();
    let other =
        ["metric", "config", "param", "report", "eval", "schema", "package", "token", "metadata", "manifest", "result"];
    let json = stem.ends_with(".json") && !other.iter().any(|word| stem.contains(word));
    let at_home = folder_of(path).split('/').any(|part| MODEL_FOLDERS.contains(&part))
        && !path.split('/').any(|part| part == "src");
    at_home && (binary || json) && !is_aside(path)
}

/// Data sets: what DVC or Sealift already tracks, and folders called data.
pub(super) fn data_sets(repository: &Repository<'_>) -> Vec<Finding<(Name, String)>> {
    let mut sets: Vec<Finding<String>> = Vec::new();
    let apart = |sets: &[Finding<String>], path: &str| {
        let inside = |a: &str, b: &str| a == b || a.starts_with(&format!("{b}/"));
        !sets.iter().any(|set| inside(&set.value, path) || inside(path, &set.value))
    };
    for (path, _) in &repository.files {
        for end in [".snapshot.toml", ".dvc"] {
            let Some(data) = path.strip_suffix(end) else { continue };
            let tracked =
                !file_name(data).is_empty() && !path.starts_with(".dvc/") && !is_model(data) && !is_aside(path);
            if tracked && apart(&sets, data) {
                sets.push(Finding::found(data.to_owned(), format!("tracked by {path}")));
            }
        }
    }
    for (path, _) in repository.files.iter().filter(|(path, _)| !is_aside(path)) {
        let parts: Vec<&str> = path.split('/').collect();
        let Some(at) = parts[..parts.len() - 1].iter().position(|part| ["data", "dataset", "datasets"].contains(part))
        else {
            continue;
        };
        let folder = parts[..=at].join("/");
        let matter = ![".gitkeep", ".gitignore", "README.md"].contains(&file_name(path))
            && !path.ends_with(".py")
            && !path.ends_with(".rs");
        if at <= 1 && matter && apart(&sets, &folder) {
            sets.push(Finding::guessed(folder.clone(), format!("a folder called {}", parts[at])));
        }
    }
    let mut taken = BTreeSet::new();
    let named = |set: Finding<String>| {
        let name = unused(legal_name(file_name(&set.value), "data"), &mut taken);
        Finding { value: (name, set.value), why: set.why, guessed: set.guessed }
    };
    sets.into_iter().map(named).collect()
}

/// Model files in folders that are called so.
pub(super) fn models(repository: &Repository<'_>) -> Vec<Finding<ModelFile>> {
    let mut taken = BTreeSet::new();
    let mut files = BTreeSet::new();
    let mut models = Vec::new();
    for (path, _) in &repository.files {
        let file = path.strip_suffix(".dvc").unwrap_or(path);
        if models.len() == 10 || !is_model(file) || !files.insert(file) {
            continue;
        }
        let stem = file_name(file).rsplit_once('.').map_or(file, |(stem, _)| stem);
        let name = unused(legal_name(stem, "model"), &mut taken);
        let metrics = [folder_of(file), "reports", "."].map(|folder| join(folder, "metrics.json"));
        let metrics = metrics.into_iter().find(|path| repository.has(path));
        let why = format!("a model by its place and name ({path})");
        models.push(Finding::guessed(ModelFile { name, file: file.to_owned(), metrics }, why));
    }
    models
}
