//! What `sealift init` concludes from the files of a repository.
//!
//! [`detect`] is a pure function of a [`Listing`]: it opens nothing and runs nothing, so what it is not shown it does
//! not know. Its output always parses with [`crate::config::parse`]. Whatever it could read somewhere is said to be
//! *found*, with the file; whatever it could not is *guessed*, and said so on the line itself: no guess looks like a fact.

mod code;
mod compose;
mod container;
mod write;

use crate::Name;
use std::collections::BTreeSet;

/// The files of a repository, as the caller saw them.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The name of the repository's folder, from which the project's is made.
    pub folder: String,
    /// Paths relative to the repository with forward slashes, and the text of those that [`wants_content`].
    pub files: Vec<(String, Option<String>)>,
    /// The address of git's `origin`, if there is one.
    pub git_remote: Option<String>,
    /// Whether a Docker Engine answers.
    pub docker: bool,
}

/// What was concluded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// The text of `Sealift.toml`. It is valid.
    pub toml: String,
    /// What was found and where, in sentences.
    pub found: Vec<String>,
    /// What was guessed and should be looked at, in sentences.
    pub guessed: Vec<String>,
}

/// Whether the caller should put a file's text (at most the first 64 KiB) into the listing.
pub fn wants_content(path: &str) -> bool {
    let file = file_name(path);
    let known =
        ["Cargo.toml", "pyproject.toml", "package.json", "requirements.txt", "VERSION", "VERSION.txt", "version.txt"];
    let source = [".py", ".rs", ".js", ".ts", ".mjs", ".go"].iter().any(|end| file.ends_with(end));
    let yaml = file.ends_with(".yml") || file.ends_with(".yaml");
    let orchestrated = is_compose(path) || in_kubernetes_folder(path);
    known.contains(&file) || source || is_dockerfile(path) || (yaml && orchestrated) || file.ends_with(".dvc")
}

/// Whether a folder of this name holds nothing of interest: dependencies, build results, other tools' state.
pub fn skips_folder(name: &str) -> bool {
    let skipped = [
        ".git",
        "target",
        "node_modules",
        ".venv",
        "venv",
        "__pycache__",
        ".sealift",
        ".tox",
        ".mypy_cache",
        ".pytest_cache",
        ".idea",
        ".vscode",
        ".next",
        "site-packages",
    ];
    skipped.contains(&name)
}

/// Reads the listing and writes a configuration.
pub fn detect(listing: &Listing) -> Detected {
    let repository = Repository::new(listing);
    let project = legal_name(&listing.folder, "project");
    let project = if project.as_str() == listing.folder {
        Finding::found(project, "the name of the folder")
    } else {
        Finding::guessed(project, "after the name of the folder")
    };
    let services = compose::services(&repository);
    let mut parts = code::parts(&repository, &project.value, &services);
    let data = code::data_sets(&repository);
    let models = code::models(&repository);
    if let Some(first) = parts.first_mut() {
        first.data = data.iter().map(|found| found.value.0.clone()).collect();
        first.models = models.iter().map(|found| found.value.name.clone()).collect();
    }
    write::configuration(&write::Findings { listing, repository: &repository, project, parts, data, models, services })
}

/// Something that was read somewhere, or not.
#[derive(Debug, Clone)]
struct Finding<T> {
    value: T,
    /// Where it was found, or why it was guessed.
    why: String,
    guessed: bool,
}

impl<T> Finding<T> {
    fn found(value: T, why: impl Into<String>) -> Self {
        Self { value, why: why.into(), guessed: false }
    }
    fn guessed(value: T, why: impl Into<String>) -> Self {
        Self { value, why: why.into(), guessed: true }
    }
}

/// How a component's image is made.
#[derive(Debug, Clone)]
enum Making {
    /// A Dockerfile, relative to the component.
    Dockerfile(String),
    /// A Rust binary in a `FROM scratch` image: package, and the folder of the workspace relative to the component.
    Rust { package: String, workspace: String },
    /// Nothing that could be told.
    Unknown,
}

/// A component that was made out.
#[derive(Debug, Clone)]
struct Part {
    name: Finding<Name>,
    path: String,
    making: Making,
    /// What it is, in words.
    what: String,
    versions: Vec<Finding<String>>,
    changelog: Option<String>,
    configs: Vec<String>,
    data: Vec<Name>,
    models: Vec<Name>,
    /// `None`: nothing runs.
    run: Option<Running>,
}

#[derive(Debug, Clone)]
struct Running {
    port: Finding<u16>,
    health: Finding<String>,
    /// Why the image runs as root, if it does.
    root: Option<String>,
    /// The source file that reads a variable `PORT`, if there is one.
    reads_port: Option<String>,
}

/// The listing, sorted and without what is skipped.
struct Repository<'a> {
    files: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Repository<'a> {
    fn new(listing: &'a Listing) -> Self {
        let plain = |path: &str| {
            !path.is_empty()
                && !path.starts_with('/')
                && !path.contains(['\\', '\0'])
                && !path.split('/').any(|part| part == "..")
        };
        let mut files: Vec<(&str, Option<&str>)> = listing
            .files
            .iter()
            .map(|(path, content)| (path.as_str(), content.as_deref()))
            .filter(|(path, _)| plain(path) && !path.split('/').any(skips_folder))
            .collect();
        files.sort_unstable();
        files.dedup_by_key(|(path, _)| *path);
        Self { files }
    }

    fn text(&self, path: &str) -> Option<&'a str> {
        let index = self.files.binary_search_by_key(&path, |(path, _)| path).ok()?;
        self.files[index].1
    }

    fn has(&self, path: &str) -> bool {
        self.files.binary_search_by_key(&path, |(path, _)| path).is_ok()
    }

    /// Files in a folder and below it; `.` is the whole repository.
    fn below(&self, folder: &str) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let prefix = if folder == "." { String::new() } else { format!("{folder}/") };
        self.files.iter().copied().filter(move |(path, _)| path.starts_with(&prefix))
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The folder of a path; `.` at the top.
fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(folder, _)| folder)
}

fn join(folder: &str, path: &str) -> String {
    if folder == "." { path.to_owned() } else { format!("{folder}/{path}") }
}

fn is_dockerfile(path: &str) -> bool {
    let file = file_name(path);
    file == "Dockerfile" || file == "Containerfile" || file.starts_with("Dockerfile.") || file.ends_with(".Dockerfile")
}

fn is_compose(path: &str) -> bool {
    let file = file_name(path);
    ["docker-compose.yml", "docker-compose.yaml", "compose.yml", "compose.yaml"].contains(&file)
}

fn in_kubernetes_folder(path: &str) -> bool {
    folder_of(path).split('/').any(|part| ["k8s", "kubernetes", "manifests", "helm", "charts"].contains(&part))
}

/// Folders whose files show how something is used or tested, not what it is.
fn is_aside(path: &str) -> bool {
    let aside = [
        "tests",
        "test",
        "examples",
        "example",
        "docs",
        "doc",
        "benches",
        ".devcontainer",
        ".github",
        "vendor",
        "third_party",
    ];
    folder_of(path).split('/').any(|part| aside.contains(&part))
}

/// A legal name that resembles the text.
fn legal_name(text: &str, otherwise: &str) -> Name {
    let mut name = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        let legal = c.is_ascii_alphanumeric() || c == '_';
        if legal && (c != '_' || !name.is_empty()) {
            name.push(c);
        } else if !legal && !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    name.truncate(50);
    let name = Name::new(name.trim_end_matches(['-', '_'])).or_else(|_| Name::new(otherwise));
    name.unwrap_or_else(|_| crate::config::placeholder_name())
}

/// The name, or with a number behind it if it is taken.
fn unused(name: Name, taken: &mut BTreeSet<Name>) -> Name {
    let mut candidate = name.clone();
    let mut number = 2_u32;
    while !taken.insert(candidate.clone()) {
        candidate = Name::new(format!("{name}-{number}")).unwrap_or_else(|_| name.clone());
        number += 1;
    }
    candidate
}

#[cfg(test)]
mod tests;
