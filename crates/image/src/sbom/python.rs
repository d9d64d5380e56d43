//! Python's lock files: `requirements*.txt`, `Pipfile.lock`, and the TOML ones (`poetry.lock`, `uv.lock`, `pdm.lock`, `pylock.toml`), which
//! differ in words and not in what they say; and the metadata of what is installed.

use super::bill::{Bill, Hash, Part, normal_python_name, purl, without_credentials};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

/// Whether a text can be the name of a distribution (PEP 508).
fn is_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    edge(text.as_bytes().first())
        && edge(text.as_bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn purl_name(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

fn package(name: &str, version: Option<&str>, qualifiers: &[(&str, &str)], source: &str) -> Part {
    let purl = purl("pypi", "", &purl_name(name), version, qualifiers);
    Part {
        name: name.to_owned(),
        version: version.map(str::to_owned),
        purl: Some(purl),
        sources: BTreeSet::from([source.to_owned()]),
        ..Part::default()
    }
}

/// The name at the start of a requirement, and what follows it and its extras.
fn split_requirement(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|character: char| !(character.is_ascii_alphanumeric() || "._-".contains(character)))
        .unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    rest = rest.trim_start();
    if let Some(extras) = rest.strip_prefix('[') {
        rest = extras.split_once(']')?.1.trim_start();
    }
    is_name(name).then_some((name, rest))
}

/// Reads a requirements file. `include` gives the text and the source of a file that it names with `-r`.
///
/// What is pinned is a package with its version; what is only asked for is one without, so that nothing lacks.
pub(crate) fn requirements(
    text: &str,
    source: &str,
    bill: &mut Bill,
    include: &mut dyn FnMut(&str, &mut Bill) -> Result<(), String>,
) -> Result<(), String> {
    let mut logical = String::new();
    for (number, line) in text.lines().enumerate() {
        let line = if line.trim_start().starts_with('#') { "" } else { line };
        if let Some(continued) = line.strip_suffix('\\') {
            logical.push_str(continued);
            continue;
        }
        logical.push_str(line);
        let whole = std::mem::take(&mut logical);
        let line = whole.split(" #").next().unwrap_or_default().trim();
        requirement(line, source, bill, include).map_err(|why| format!("line {}: {why}", number + 1))?;
    }
    requirement(logical.trim(), source, bill, include).map_err(|why| format!("last line: {why}"))
}

fn requirement(
    line: &str,
    source: &str,
    bill: &mut Bill,
    include: &mut dyn FnMut(&str, &mut Bill) -> Result<(), String>,
) -> Result<(), String> {
    if line.is_empty() {
        return Ok(());
    }
    let long = || line.strip_prefix("--requirement").filter(|path| path.starts_with([' ', '=', '\t']));
    // The short option may have its file without a space.
    if let Some(path) = line.strip_prefix("-r").or_else(long) {
        let path = path.trim_matches([' ', '=', '\t', '"', '\'']);
        return if path.is_empty() { Err("it includes a file without a name".to_owned()) } else { include(path, bill) };
    }
    let editable = ["-e ", "--editable ", "--editable="].iter().find_map(|option| line.strip_prefix(option));
    if line.starts_with('-') && editable.is_none() {
        return Ok(()); // an option of pip, such as the address of an index
    }
    let mut hashes = BTreeSet::new();
    let mut text = editable.unwrap_or(line).trim();
    if let Some((before, after)) = text.split_once("--hash") {
        text = before.trim();
        for word in format!("--hash{after}").split_whitespace() {
            match word.strip_prefix("--hash=") {
                Some(hash) => drop(hashes.insert(Hash::tagged(hash)?)),
                None => return Err(format!("{word:?} is no --hash=…")),
            }
        }
    }
    text = text.split(" --").next().unwrap_or_default();
    let part = part_of(text, source)?;
    if let Some(mut part) = part {
        part.hashes = hashes;
        let pinned = part.version.is_some();
        part.requirement = if pinned { None } else { part.requirement };
        bill.add(part);
    }
    Ok(())
}

fn part_of(text: &str, source: &str) -> Result<Option<Part>, String> {
    let text = text.split(" ;").next().unwrap_or_default().trim();
    let is_url = text.contains("://");
    if is_url && !text.contains(" @ ") && split_requirement(text).is_none_or(|(_, rest)| !rest.starts_with('@')) {
        // `git+https://…#egg=name`
        let name = text.split_once("egg=").map(|(_, rest)| rest.split(['&', '[']).next().unwrap_or_default());
        return Ok(Some(match name.filter(|name| is_name(name)) {
            Some(name) => package(name, None, &[address(text)], source),
            None => Part { kind: Default::default(), ..Part::local(&without_credentials(text), None, source) },
        }));
    }
    if text == "."
        || text.starts_with("./")
        || text.starts_with("../")
        || text.starts_with('/')
        || text.starts_with(".[")
    {
        if !text.ends_with(".whl") && !text.ends_with(".tar.gz") {
            return Ok(None); // a folder of the repository, which has its own files
        }
        return Ok(Some(Part { kind: Default::default(), ..Part::local(text, None, source) }));
    }
    let (name, rest) = split_requirement(text).ok_or_else(|| format!("{text:?} is no requirement"))?;
    let rest = rest.split(';').next().unwrap_or_default().trim();
    if let Some(url) = rest.strip_prefix('@') {
        return Ok(Some(package(name, None, &[address(url.trim())], source)));
    }
    let pin = rest.trim_matches(['(', ')']).trim();
    let version = pin.strip_prefix("===").or(pin.strip_prefix("==")).map(str::trim);
    if let Some(version) = version.filter(|version| !version.contains([',', '*']) && !version.is_empty()) {
        return Ok(Some(package(name, Some(version), &[], source)));
    }
    if !rest.is_empty() && !rest.starts_with(['=', '<', '>', '!', '~', '(']) {
        return Err(format!("{rest:?} after {name} is no version"));
    }
    let mut part = package(name, None, &[], source);
    part.requirement = Some(if rest.is_empty() { "any".to_owned() } else { rest.to_owned() });
    Ok(Some(part))
}

/// The qualifier for where a package is taken from.
fn address(url: &str) -> (&'static str, &str) {
    let kind = if url.starts_with("git+") || url.starts_with("hg+") { "vcs_url" } else { "download_url" };
    (kind, url)
}

/// Reads `Pipfile.lock`.
pub(crate) fn pipfile(text: &str, source: &str, bill: &mut Bill) -> Result<(), String> {
    let lock: Json = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let lock = lock.as_object().ok_or("it is no table")?;
    if !lock.contains_key("_meta") {
        return Err("it has no \"_meta\"".to_owned());
    }
    for (group, packages) in lock.iter().filter(|(group, _)| *group != "_meta") {
        let packages = packages.as_object().ok_or_else(|| format!("{group:?} is no table"))?;
        for (name, entry) in packages {
            if !is_name(name) {
                return Err(format!("{name:?} is no name of a package"));
            }
            let version = entry.get("version").and_then(Json::as_str).map(|text| text.trim_start_matches('='));
            let git = entry.get("git").and_then(Json::as_str).map(|url| format!("git+{url}"));
            let mut part = package(name, version, git.as_ref().map(|url| ("vcs_url", url.as_str())).as_slice(), source);
            for hash in entry.get("hashes").and_then(Json::as_array).into_iter().flatten() {
                part.hashes.insert(Hash::tagged(hash.as_str().ok_or("a hash is no text")?)?);
            }
            bill.add(part);
        }
    }
    Ok(())
}

/// A package of a TOML lock.
struct Locked {
    reference: String,
    version: Option<String>,
    /// Normal name and, where the lock says it, version.
    needs: Vec<(String, Option<String>)>,
}

/// Reads `poetry.lock`, `uv.lock`, `pdm.lock` and `pylock.toml`.
pub(crate) fn locked(text: &str, source: &str, bill: &mut Bill) -> Result<(), String> {
    let lock: Table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let old_hashes = lock.get("metadata").and_then(|table| table.get("files"));
    let packages = match lock.get("package").or(lock.get("packages")) {
        None => return Ok(()), // the lock of a project that needs nothing
        Some(packages) => packages.as_array().ok_or("its packages are no list")?,
    };
    let mut by_name: BTreeMap<String, Vec<Locked>> = BTreeMap::new();
    for package in packages {
        let package = package.as_table().ok_or("a package is no table")?;
        let name = package.get("name").and_then(Value::as_str).filter(|name| is_name(name));
        let name = name.ok_or("a package has no name")?;
        let mut part = locked_part(package, name, source)?;
        let files = old_hashes.and_then(|table| table.get(name));
        hashes(package, files, &mut part).map_err(|why| format!("{name}: {why}"))?;
        let version = part.version.clone();
        let locked = Locked { reference: bill.add(part), version, needs: needs(package) };
        by_name.entry(normal_python_name(name)).or_default().push(locked);
    }
    let mut all = BTreeSet::new();
    for locked in by_name.values().flatten() {
        all.insert(locked.reference.clone());
        bill.knows_needs(&locked.reference);
        for (name, version) in &locked.needs {
            let found = by_name.get(name).into_iter().flatten();
            // One that is only for another platform or extra is not in the lock.
            for target in found.filter(|target| version.is_none() || target.version == *version) {
                bill.need(&locked.reference, &target.reference);
            }
        }
    }
    bill.root_tops(&all);
    Ok(())
}

fn locked_part(entry: &Table, name: &str, source: &str) -> Result<Part, String> {
    let version = entry.get("version").and_then(Value::as_str);
    let from = entry.get("source").and_then(Value::as_table);
    let text = |table: &Table, key: &str| table.get(key).and_then(Value::as_str).map(str::to_owned);
    let kind = from.and_then(|from| text(from, "type"));
    let local = ["virtual", "editable", "directory", "path"].iter().any(|key| {
        from.is_some_and(|from| from.contains_key(*key))
            || kind.as_deref() == Some(key)
            || entry.get("directory").is_some()
    });
    if local || entry.get("path").is_some() && version.is_none() {
        return Ok(Part::local(name, version, source));
    }
    if version.is_none() && from.is_none() && entry.get("vcs").is_none() && entry.get("archive").is_none() {
        return Err(format!("{name} has no version"));
    }
    let git = from.and_then(|from| {
        let plain =
            text(from, "git").or_else(|| (kind.as_deref() == Some("git")).then(|| text(from, "url")).flatten())?;
        let commit = text(from, "resolved_reference").map(|commit| format!("@{commit}")).unwrap_or_default();
        Some(format!("git+{plain}{commit}"))
    });
    let download = from.filter(|_| git.is_none()).and_then(|from| {
        let by_type = (kind.as_deref() == Some("url")).then(|| text(from, "url")).flatten();
        by_type.or_else(|| text(from, "url").filter(|_| kind.is_none()))
    });
    let mut qualifiers = Vec::new();
    qualifiers.extend(git.as_deref().map(|url| ("vcs_url", url)));
    qualifiers.extend(download.as_deref().map(|url| ("download_url", url)));
    Ok(package(name, version, &qualifiers, source))
}

fn hashes(entry: &Table, old: Option<&Value>, part: &mut Part) -> Result<(), String> {
    let lists = ["files", "wheels"].iter().filter_map(|key| entry.get(*key)).chain(old);
    let files = lists.filter_map(Value::as_array).flatten();
    for file in files.chain(["sdist", "archive"].iter().filter_map(|key| entry.get(*key))) {
        if let Some(hash) = file.get("hash").and_then(Value::as_str) {
            part.hashes.insert(Hash::tagged(hash)?);
        }
        for (algorithm, hex) in file.get("hashes").and_then(Value::as_table).into_iter().flatten() {
            let hex = hex.as_str().ok_or("a hash is no text")?;
            part.hashes.insert(Hash::new(algorithm, hex).ok_or_else(|| format!("{hex:?} is no {algorithm} hash"))?);
        }
    }
    Ok(())
}

/// Poetry has a table, pdm a list of requirements, uv and PEP 751 a list of tables; uv also has groups.
fn needs(entry: &Table) -> Vec<(String, Option<String>)> {
    let groups = ["optional-dependencies", "dev-dependencies"].iter().filter_map(|key| entry.get(*key)?.as_table());
    let lists =
        entry.get("dependencies").into_iter().chain(groups.flat_map(|table| table.iter().map(|(_, list)| list)));
    let mut names = Vec::new();
    for list in lists {
        match list {
            Value::Table(table) => names.extend(table.keys().map(|name| (normal_python_name(name), None))),
            Value::Array(items) => names.extend(items.iter().filter_map(|item| match item {
                Value::String(text) => split_requirement(text).map(|(name, _)| (normal_python_name(name), None)),
                Value::Table(table) => {
                    let version = table.get("version").and_then(Value::as_str).map(str::to_owned);
                    table.get("name").and_then(Value::as_str).map(|name| (normal_python_name(name), version))
                }
                _ => None,
            })),
            _ => {}
        }
    }
    names
}

/// Reads `*.dist-info/METADATA` or `*.egg-info/PKG-INFO`: the package, and the normal names of what it needs without an extra.
///
/// Format: core metadata specifications of packaging.python.org, an e-mail header.
pub(crate) fn metadata(text: &str, source: &str) -> Result<(Part, Vec<String>), String> {
    let (mut name, mut version, mut expression, mut license) = (None, None, None, None);
    let (mut classifiers, mut needs) = (BTreeSet::new(), Vec::new());
    for line in text.lines().take_while(|line| !line.trim().is_empty()) {
        // A line that begins with a space continues the one before, which none of the fields here needs.
        let Some((key, value)) = line.split_once(':').filter(|_| !line.starts_with([' ', '\t'])) else { continue };
        let value = value.trim();
        match key.to_ascii_lowercase().as_str() {
            "name" => name = name.or(Some(value)),
            "version" => version = version.or(Some(value)),
            "license-expression" => expression = Some(value),
            "license" if !value.is_empty() && value != "UNKNOWN" && value.len() <= 80 => license = Some(value),
            "classifier" => {
                if let Some(rest) = value.strip_prefix("License ::") {
                    classifiers.insert(rest.rsplit("::").next().unwrap_or_default().trim().to_owned());
                }
            }
            "requires-dist" if !value.contains("extra ==") => {
                needs.extend(split_requirement(value).map(|(name, _)| normal_python_name(name)));
            }
            _ => {}
        }
    }
    let name = name.filter(|name| is_name(name)).ok_or("it names no package")?;
    let version = version.filter(|version| !version.is_empty()).ok_or("it has no version")?;
    let mut part = package(name, Some(version), &[], source);
    part.licenses = match expression.or(license) {
        Some(text) => BTreeSet::from([text.to_owned()]),
        None => classifiers,
    };
    Ok((part, needs))
}

#[cfg(test)]
#[path = "python_tests.rs"]
mod tests;
