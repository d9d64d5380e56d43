//! The version of a component, as it stands in the files that bear it.
//!
//! Every version-bearing file of a component must say the same version, wherever it stands and in whichever of the two
//! notations, SemVer 2.0 or PEP 440. Text comes in, decisions and new text come out: no file is opened here, and
//! [`VersionFile::set`] changes nothing but the versions themselves, to the byte.
//!
//! What is refused rather than guessed: a version inherited from elsewhere, a variable, a dynamic version, two different
//! versions in one file, and PEP 440 forms that SemVer cannot say (epochs, post-releases, four components).
//!
//! PEP 440 maps to SemVer as `1.2.0a1` to `1.2.0-alpha.1`, `b` to `beta`, `rc` to `rc`, `.dev3` to `-dev.3`, a local
//! part to build metadata, and `1.2` to `1.2.0`.

use crate::{Class, config::VersionSource};
use regex::Regex;
use semver::{BuildMetadata, Prerelease, Version};
use std::{fmt, ops::Range, sync::LazyLock};
use toml::de::{DeTable, DeValue};

/// Where in a file its version stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionKind {
    /// `package.version` and `workspace.package.version`.
    CargoToml,
    /// `project.version` and `tool.poetry.version`.
    Pyproject,
    /// The `version` of the outermost object.
    PackageJson,
    /// `__version__ = "…"` at the beginning of a line.
    Python,
    /// The label `version` or `org.opencontainers.image.version` of a Dockerfile.
    Dockerfile,
    /// A file that holds the version and nothing else.
    Plain,
    /// The one group of a regular expression, in which `^` and `$` are the ends of a line.
    Pattern(String),
}

impl VersionKind {
    /// Whether the file is Python's, whose tools demand PEP 440.
    fn is_python(&self) -> bool {
        matches!(self, Self::Pyproject | Self::Python)
    }

    /// What is looked for, in words.
    fn wanted(&self) -> String {
        match self {
            Self::CargoToml => "package.version or workspace.package.version".to_owned(),
            Self::Pyproject => "project.version or tool.poetry.version".to_owned(),
            Self::PackageJson => "\"version\"".to_owned(),
            Self::Python => "__version__ = \"…\"".to_owned(),
            Self::Dockerfile => "LABEL version".to_owned(),
            Self::Plain => "version".to_owned(),
            Self::Pattern(pattern) => format!("match for {pattern:?}"),
        }
    }
}

/// A file that bears the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionFile {
    /// Its path, as it is to be shown.
    pub path: String,
    /// Where in it the version stands.
    pub kind: VersionKind,
}

/// A version that was read, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// The version, as SemVer.
    pub version: Version,
}

/// Why a version cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// No known form, and no pattern.
    #[error("{path} is no file whose version Sealift knows to find: give it a pattern with one group")]
    UnknownKind {
        /// The file.
        path: String,
    },
    /// A pattern that is no regular expression with one group.
    #[error("the version pattern {pattern:?} of {path} {why}")]
    BadPattern {
        /// The file.
        path: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file is not what its name says.
    #[error("{path}:{line} cannot be read: {why}")]
    Malformed {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The parser's words.
        why: String,
    },
    /// There is no version in it.
    #[error("{path} has no {wanted}")]
    Missing {
        /// The file.
        path: String,
        /// What was looked for.
        wanted: String,
    },
    /// The version comes from somewhere else.
    #[error("{path}:{line} {why}")]
    Elsewhere {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// From where, and what to do.
        why: String,
    },
    /// Text that is no version.
    #[error("{path}:{line} says {text:?}, which is no version: {why}")]
    NotAVersion {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The text, cut to 80 characters.
        text: String,
        /// Why not.
        why: String,
    },
    /// Two versions in one file.
    #[error(transparent)]
    Disagreement(#[from] Disagreement),
    /// The version cannot be written in the notation of the file.
    #[error("{path} cannot say {version}: {why}")]
    Unwritable {
        /// The file.
        path: String,
        /// The version.
        version: Version,
        /// Why not.
        why: String,
    },
}

impl VersionError {
    /// The class of this failure: the repository's files are wrong.
    pub fn class(&self) -> Class {
        Class::BadInput
    }
}

/// Files, or places of one file, that say different versions, or none at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Disagreement {
    /// All that was read.
    pub found: Vec<Found>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.found.is_empty() {
            return f.write_str("no file bears the version");
        }
        f.write_str("the version files disagree: ")?;
        for (index, found) in self.found.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}:{} says {}", found.path, found.line, found.version)?;
        }
        Ok(())
    }
}

impl Disagreement {
    /// The class of this failure.
    pub fn class(&self) -> Class {
        Class::BadInput
    }
}

/// The one version that all files say.
pub fn agree(found: &[Found]) -> Result<Version, Disagreement> {
    match found.split_first() {
        Some((first, rest)) if rest.iter().all(|other| other.version == first.version) => Ok(first.version.clone()),
        _ => Err(Disagreement { found: found.to_vec() }),
    }
}

/// The kind of a file by its name; none if only a pattern can say where its version is.
pub fn detect_kind(path: &str) -> Option<VersionKind> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let container = |name: &str| file == name || file.starts_with(&format!("{name}."));
    match file {
        "Cargo.toml" => Some(VersionKind::CargoToml),
        "pyproject.toml" => Some(VersionKind::Pyproject),
        "package.json" => Some(VersionKind::PackageJson),
        "VERSION" | "VERSION.txt" | "version.txt" => Some(VersionKind::Plain),
        _ if file.ends_with(".py") => Some(VersionKind::Python),
        _ if container("Dockerfile") || container("Containerfile") || file.ends_with(".Dockerfile") => {
            Some(VersionKind::Dockerfile)
        }
        _ => None,
    }
}

impl VersionFile {
    /// A file whose kind follows from its name, or from a pattern.
    pub fn new(path: impl Into<String>, pattern: Option<&str>) -> Result<Self, VersionError> {
        let path = path.into();
        let kind = match pattern {
            None => detect_kind(&path).ok_or_else(|| VersionError::UnknownKind { path: path.clone() })?,
            Some(pattern) => {
                compile(&path, pattern)?;
                VersionKind::Pattern(pattern.to_owned())
            }
        };
        Ok(Self { path, kind })
    }

    /// The file of a configuration.
    pub fn of_source(source: &VersionSource) -> Result<Self, VersionError> {
        Self::new(&source.path, source.pattern.as_deref())
    }

    /// The version in the file's text. Where a file says it in several places, they must agree; the line is the first one.
    pub fn read(&self, text: &str) -> Result<Found, VersionError> {
        let places = self.places(text)?;
        let found = places.iter().map(|place| self.understand(text, place)).collect::<Result<Vec<_>, _>>()?;
        agree(&found)?;
        found.into_iter().next().ok_or_else(|| self.missing())
    }

    /// The file's text with this version in all its places, and everything else as it was. Python files get PEP 440;
    /// others keep the notation and the `v` that they have.
    pub fn set(&self, text: &str, version: &Version) -> Result<String, VersionError> {
        let mut changed = text.to_owned();
        for place in self.places(text)?.into_iter().rev() {
            let old = &text[place.clone()];
            let pep = self.kind.is_python() || (old.trim_start_matches('v').parse::<Version>().is_err());
            let new = if pep { pep440(version) } else { Ok(version.to_string()) };
            let new = new.map_err(|why| self.unwritable(version, why))?;
            let prefix = if old.starts_with('v') { "v" } else { "" };
            changed.replace_range(place, &format!("{prefix}{new}"));
        }
        let reread = self.read(&changed)?.version;
        if reread != *version {
            return Err(self.unwritable(version, format!("it would read back as {reread}")));
        }
        Ok(changed)
    }

    /// The byte ranges of all versions, in ascending order; never empty.
    fn places(&self, text: &str) -> Result<Vec<Range<usize>>, VersionError> {
        let mut places = match &self.kind {
            VersionKind::CargoToml => self.in_cargo_toml(text)?,
            VersionKind::Pyproject => self.in_pyproject(text)?,
            VersionKind::PackageJson => self.in_package_json(text)?,
            VersionKind::Python => groups(&PYTHON, text),
            VersionKind::Dockerfile => self.in_dockerfile(text)?,
            VersionKind::Plain => vec![trimmed(text)],
            VersionKind::Pattern(pattern) => groups(&compile(&self.path, pattern)?, text),
        };
        places.retain(|place| !place.is_empty());
        places.sort_by_key(|place| place.start);
        if places.is_empty() { Err(self.missing()) } else { Ok(places) }
    }

    fn understand(&self, text: &str, place: &Range<usize>) -> Result<Found, VersionError> {
        let written = &text[place.clone()];
        let line = line_of(text, place.start);
        let version = parse(written, self.kind.is_python()).map_err(|why| VersionError::NotAVersion {
            path: self.path.clone(),
            line,
            text: written.chars().take(80).collect(),
            why,
        })?;
        Ok(Found { path: self.path.clone(), line, version })
    }

    fn in_cargo_toml(&self, text: &str) -> Result<Vec<Range<usize>>, VersionError> {
        let document = self.toml(text)?;
        let root = document.get_ref();
        let mut places = Vec::new();
        if let Some(version) = lookup(root, &["package", "version"]) {
            if version.get_ref().is_table() {
                if lookup(root, &["workspace", "package", "version"]).is_none() {
                    let why = "takes its version from the workspace: name the workspace's Cargo.toml instead";
                    return Err(self.elsewhere(text, version.span().start, why));
                }
            } else {
                places.push(self.toml_string(text, version)?);
            }
        }
        if let Some(version) = lookup(root, &["workspace", "package", "version"]) {
            places.push(self.toml_string(text, version)?);
        }
        Ok(places)
    }

    fn in_pyproject(&self, text: &str) -> Result<Vec<Range<usize>>, VersionError> {
        let document = self.toml(text)?;
        let root = document.get_ref();
        let mut places = Vec::new();
        for keys in [&["project", "version"][..], &["tool", "poetry", "version"]] {
            if let Some(version) = lookup(root, keys) {
                places.push(self.toml_string(text, version)?);
            }
        }
        let dynamic = lookup(root, &["project", "dynamic"]);
        let is_dynamic = |list: &toml::Spanned<DeValue<'_>>| {
            list.get_ref().as_array().is_some_and(|a| a.iter().any(|item| item.get_ref().as_str() == Some("version")))
        };
        match dynamic.filter(|list| places.is_empty() && is_dynamic(list)) {
            Some(list) => {
                let why = "says that the version is dynamic: name the file that it is taken from instead";
                Err(self.elsewhere(text, list.span().start, why))
            }
            None => Ok(places),
        }
    }

    fn toml<'a>(&self, text: &'a str) -> Result<toml::Spanned<DeTable<'a>>, VersionError> {
        DeTable::parse(text).map_err(|error| VersionError::Malformed {
            path: self.path.clone(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            why: error.message().to_owned(),
        })
    }

    fn toml_string(&self, text: &str, value: &toml::Spanned<DeValue<'_>>) -> Result<Range<usize>, VersionError> {
        let span = value.span();
        let inner = span.start + 1..span.end.saturating_sub(1);
        match value.get_ref().as_str() {
            Some(version) if text.get(inner.clone()) == Some(version) => Ok(inner),
            Some(_) => {
                Err(self.elsewhere(text, span.start, "writes the version in an unusual way: use a plain string"))
            }
            None => Err(self.elsewhere(text, span.start, "has a version that is no string")),
        }
    }

    fn in_package_json(&self, text: &str) -> Result<Vec<Range<usize>>, VersionError> {
        serde_json::from_str::<serde_json::Value>(text).map_err(|error| VersionError::Malformed {
            path: self.path.clone(),
            line: error.line(),
            why: error.to_string(),
        })?;
        Ok(json_members(text, "version"))
    }

    fn in_dockerfile(&self, text: &str) -> Result<Vec<Range<usize>>, VersionError> {
        let places = dockerfile_labels(text);
        match places.iter().find(|place| text[(*place).clone()].contains('$')) {
            Some(place) => {
                let why = "takes the version from a variable: give the line that sets it a pattern, \
                           for example 'ARG VERSION=(\\S+)'";
                Err(self.elsewhere(text, place.start, why))
            }
            None => Ok(places),
        }
    }

    fn missing(&self) -> VersionError {
        VersionError::Missing { path: self.path.clone(), wanted: self.kind.wanted() }
    }

    fn elsewhere(&self, text: &str, at: usize, why: &str) -> VersionError {
        VersionError::Elsewhere { path: self.path.clone(), line: line_of(text, at), why: why.to_owned() }
    }

    fn unwritable(&self, version: &Version, why: String) -> VersionError {
        VersionError::Unwritable { path: self.path.clone(), version: version.clone(), why }
    }
}

/// How far a version goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bump {
    /// The next prerelease: `1.2.3` to `1.2.4-rc.1`, `1.2.4-rc.1` to `1.2.4-rc.2`.
    Prerelease,
    /// `1.2.3` to `1.2.4`; a prerelease becomes its release.
    Patch,
    /// `1.2.3` to `1.3.0`; `1.3.0-rc.1` becomes its release.
    Minor,
    /// `1.2.3` to `2.0.0`; `2.0.0-rc.1` becomes its release.
    Major,
}

impl Bump {
    /// The next version, always above the old one. Build metadata is dropped.
    pub fn apply(self, old: &Version) -> Version {
        let (major, minor, patch) = (old.major, old.minor, old.patch);
        let unreleased = !old.pre.is_empty();
        match self {
            Self::Major if unreleased && minor == 0 && patch == 0 => Version::new(major, 0, 0),
            Self::Major => Version::new(major.saturating_add(1), 0, 0),
            Self::Minor if unreleased && patch == 0 => Version::new(major, minor, 0),
            Self::Minor => Version::new(major, minor.saturating_add(1), 0),
            Self::Patch if unreleased => Version::new(major, minor, patch),
            Self::Patch => Version::new(major, minor, patch.saturating_add(1)),
            Self::Prerelease if unreleased => {
                Version { pre: next_prerelease(old.pre.as_str()), ..Version::new(major, minor, patch) }
            }
            Self::Prerelease => {
                Version { pre: next_prerelease("rc"), ..Version::new(major, minor, patch.saturating_add(1)) }
            }
        }
    }
}

/// `rc.1` to `rc.2`, and `rc` to `rc.1`.
fn next_prerelease(old: &str) -> Prerelease {
    let counted = old.rsplit_once('.').and_then(|(name, count)| Some((name, count.parse::<u64>().ok()?)));
    let next = match (counted, old.parse::<u64>()) {
        (Some((name, count)), _) => format!("{name}.{}", count.saturating_add(1)),
        (None, Ok(count)) => count.saturating_add(1).to_string(),
        (None, Err(_)) => format!("{old}.1"),
    };
    Prerelease::new(&next).unwrap_or(Prerelease::EMPTY)
}

/// Reads a version in either notation. Python's tools read `1.2.0-rc1` by PEP 440 and others by SemVer, and it is not the same.
fn parse(text: &str, python: bool) -> Result<Version, String> {
    let text = text.trim();
    let semver = || text.strip_prefix('v').unwrap_or(text).parse::<Version>();
    match (python, semver()) {
        (false, Ok(version)) => Ok(version),
        (true, Ok(version)) => parse_pep440(text).or_else(|why| {
            // `1.2.0-nightly.3` is no PEP 440 at all; a post-release is, and must not be taken for a prerelease.
            if PEP440.is_match(text) { Err(why) } else { Ok(version) }
        }),
        (_, Err(error)) => parse_pep440(text).map_err(|why| match PEP440.is_match(text) {
            true => why,
            false => format!("{error}; write MAJOR.MINOR.PATCH"),
        }),
    }
}

/// PEP 440 to SemVer.
fn parse_pep440(text: &str) -> Result<Version, String> {
    let parts = PEP440.captures(text).ok_or_else(|| "it is not PEP 440".to_owned())?;
    if parts.name("epoch").is_some() {
        return Err("SemVer has no epochs".to_owned());
    }
    if parts.name("post").is_some() {
        return Err("SemVer has no post-releases; raise the patch".to_owned());
    }
    let numbers = parts["release"].split('.').map(str::parse).collect::<Result<Vec<u64>, _>>();
    let numbers = numbers.map_err(|error| error.to_string())?;
    let (major, rest) = numbers.split_first().ok_or("it has no number")?;
    let (minor, patch) = match rest {
        [] => (0, 0),
        [minor] => (*minor, 0),
        [minor, patch] => (*minor, *patch),
        _ => return Err("SemVer has three components".to_owned()),
    };
    let count = |name: &str| parts.name(name).map_or("", |count| count.as_str()).parse::<u64>().unwrap_or(0);
    let mut identifiers = Vec::new();
    if let Some(phase) = parts.name("phase") {
        let phase = match phase.as_str().to_lowercase().as_str() {
            "a" | "alpha" => "alpha",
            "b" | "beta" => "beta",
            _ => "rc",
        };
        identifiers.push(format!("{phase}.{}", count("number")));
    }
    if parts.name("dev").is_some() {
        identifiers.push(format!("dev.{}", count("devnumber")));
    }
    let build = parts.name("local").map_or(String::new(), |local| local.as_str().replace('_', "."));
    Ok(Version {
        pre: Prerelease::new(&identifiers.join(".")).map_err(|error| error.to_string())?,
        build: BuildMetadata::new(&build).map_err(|error| error.to_string())?,
        ..Version::new(*major, minor, patch)
    })
}

/// SemVer to PEP 440, where it can be said there.
fn pep440(version: &Version) -> Result<String, String> {
    let mut text = format!("{}.{}.{}", version.major, version.minor, version.patch);
    let identifiers: Vec<&str> = version.pre.split('.').filter(|part| !part.is_empty()).collect();
    for pair in identifiers.chunks(2) {
        let form = match pair[0] {
            "alpha" => "a",
            "beta" => "b",
            "rc" => "rc",
            "dev" => ".dev",
            other => return Err(format!("PEP 440 has alpha, beta, rc and dev, but no {other:?}")),
        };
        text.push_str(form);
        text.push_str(pair.get(1).unwrap_or(&"0"));
    }
    if !version.build.is_empty() {
        text.push('+');
        text.push_str(&version.build);
    }
    // Two phases in a row, a phase after dev and the like: said by its own grammar.
    match parse_pep440(&text) {
        Ok(read) if read == *version => Ok(text),
        _ => Err(format!("PEP 440 cannot say the prerelease {:?}", version.pre.as_str())),
    }
}

#[expect(clippy::unwrap_used, reason = "a constant pattern, which every test compiles")]
static PYTHON: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?m)^__version__[ \t]*(?::[ \t]*[\w.]+[ \t]*)?=[ \t]*["']([^"'\r\n]+)["']"#).unwrap()
});

/// PEP 440, appendix B, in the spellings that it normalises.
#[expect(clippy::unwrap_used, reason = "a constant pattern, which every test compiles")]
static PEP440: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?xi)^v?
        (?:(?<epoch>[0-9]+)!)?
        (?<release>[0-9]+(?:\.[0-9]+)*)
        (?:[-_.]?(?<phase>alpha|beta|preview|pre|rc|a|b|c)[-_.]?(?<number>[0-9]*))?
        (?<post>-[0-9]+|[-_.]?(?:post|rev|r)[-_.]?[0-9]*)?
        (?<dev>[-_.]?dev[-_.]?(?<devnumber>[0-9]*))?
        (?:\+(?<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?$",
    )
    .unwrap()
});

fn compile(path: &str, pattern: &str) -> Result<Regex, VersionError> {
    let bad = |why: String| VersionError::BadPattern { path: path.to_owned(), pattern: pattern.to_owned(), why };
    let regex = Regex::new(&format!("(?m){pattern}"))
        .map_err(|error| bad(format!("is no regular expression: {}", error.to_string().replace('\n', " "))))?;
    match regex.captures_len() {
        2 => Ok(regex),
        other => Err(bad(format!("has {} groups, and needs exactly one, round the version", other - 1))),
    }
}

fn groups(regex: &Regex, text: &str) -> Vec<Range<usize>> {
    regex.captures_iter(text).filter_map(|captures| Some(captures.get(1)?.range())).collect()
}

fn trimmed(text: &str) -> Range<usize> {
    let start = text.len() - text.trim_start().len();
    start..start + text.trim().len()
}

/// The line of a byte, from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

fn lookup<'a, 'i>(table: &'a DeTable<'i>, keys: &[&str]) -> Option<&'a toml::Spanned<DeValue<'i>>> {
    let (first, rest) = keys.split_first()?;
    let value = table.get(*first)?;
    if rest.is_empty() { Some(value) } else { lookup(value.get_ref().as_table()?, rest) }
}

/// The insides of the string values under this key of the outermost object. The text is valid JSON.
fn json_members(text: &str, wanted: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (mut depth, mut at, mut key, mut places) = (0_usize, 0, None, Vec::new());
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => key = None,
            b'"' => {
                let start = at + 1;
                at = start;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                match key {
                    _ if depth != 1 => {}
                    None => key = text.get(start..at),
                    Some(key) if key == wanted => places.push(start..at),
                    Some(_) => {}
                }
            }
            _ => {}
        }
        at += 1;
    }
    places
}

const LABELS: [&str; 3] = ["version", "org.opencontainers.image.version", "org.label-schema.version"];

/// The values of the version labels of a Dockerfile, without quotes.
fn dockerfile_labels(text: &str) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    // Whether the line goes on with an instruction, and whether that is LABEL.
    let (mut continued, mut label) = (false, false);
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let offset = start;
        start += line.len();
        let body = line.trim();
        if body.starts_with('#') || (body.is_empty() && continued) {
            continue;
        }
        let mut from = offset + (line.len() - line.trim_start().len());
        if !continued {
            let word = body.split_whitespace().next().unwrap_or_default();
            label = word.eq_ignore_ascii_case("LABEL");
            from += word.len();
        }
        continued = body.ends_with('\\');
        if label {
            let end = offset + line.trim_end().len() - usize::from(continued);
            label_pairs(text, from..end.max(from), &mut places);
        }
    }
    places
}

/// `key=value` pairs with quotes, or the old form `key value…`.
fn label_pairs(text: &str, range: Range<usize>, places: &mut Vec<Range<usize>>) {
    let words = words(text, range);
    let key_of = |word: &Range<usize>| text[word.clone()].split_once('=').map(|(key, _)| key.trim_matches(['"', '\'']));
    if let [key, value, ..] = words.as_slice()
        && key_of(key).is_none()
        && LABELS.contains(&&text[key.clone()])
    {
        places.push(unquoted(text, value.clone()));
        return;
    }
    for word in words {
        if let Some(key) = key_of(&word).filter(|key| LABELS.contains(key)) {
            let value = word.start + text[word.clone()].find('=').unwrap_or(key.len()) + 1;
            places.push(unquoted(text, value..word.end));
        }
    }
}

/// Words separated by spaces outside quotes.
fn words(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let (mut words, mut begin, mut quote, mut escaped) = (Vec::new(), None, None, false);
    for (index, character) in text[range.clone()].char_indices() {
        let at = range.start + index;
        match (quote, character) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), close) if open == close => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, space) if space.is_whitespace() => {
                words.extend(begin.take().map(|begin| begin..at));
                continue;
            }
            _ => {}
        }
        begin.get_or_insert(at);
    }
    words.extend(begin.map(|begin| begin..range.end));
    words
}

fn unquoted(text: &str, range: Range<usize>) -> Range<usize> {
    let value = &text[range.clone()];
    let quoted =
        value.len() >= 2 && ['"', '\''].iter().any(|quote| value.starts_with(*quote) && value.ends_with(*quote));
    if quoted { range.start + 1..range.end - 1 } else { range }
}

#[cfg(test)]
mod tests;
