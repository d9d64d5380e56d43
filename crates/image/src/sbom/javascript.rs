//! JavaScript's lock files: `package-lock.json` and `npm-shrinkwrap.json` (versions 1 to 3), `pnpm-lock.yaml` (5 to 9), `yarn.lock` (1, and the YAML of 2 and later).

use super::bill::{Bill, Hash, Part, purl};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

type Object = Map<String, Value>;

fn text<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get(key).and_then(Value::as_str)
}

fn object<'a>(entry: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    entry.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// A package by its name, which may have a scope; what was fetched from elsewhere than a registry says where.
fn package(name: &str, version: &str, resolved: Option<&str>, source: &str) -> Result<Part, String> {
    if name.is_empty() || version.is_empty() {
        return Err("a package has no name or no version".to_owned());
    }
    let (scope, plain) = match name.strip_prefix('@').and_then(|_| name.split_once('/')) {
        Some((scope, plain)) => (scope, plain),
        None => ("", name),
    };
    let git = resolved.filter(|url| url.starts_with("git"));
    let qualifiers: Vec<_> = git.map(|url| ("vcs_url", url)).into_iter().collect();
    let mut part = Part::package(plain, version, purl("npm", scope, plain, Some(version), &qualifiers), source);
    part.group = Some(scope.to_owned()).filter(|scope| !scope.is_empty());
    Ok(part)
}

fn add_integrity(part: &mut Part, integrity: Option<&str>) -> Result<(), String> {
    if let Some(integrity) = integrity {
        part.hashes.extend(Hash::integrity(integrity).map_err(|why| format!("{}: {why}", part.name))?);
    }
    Ok(())
}

/// Reads `package-lock.json` or `npm-shrinkwrap.json`.
pub(crate) fn npm(text: &str, source: &str, bill: &mut Bill) -> Result<(), String> {
    let lock: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if !lock.is_object() {
        return Err("it is no table".to_owned());
    }
    match (lock.get("packages"), lock.get("dependencies")) {
        (Some(packages), _) => npm_flat(packages.as_object().ok_or("its packages are no table")?, source, bill),
        (None, Some(nested)) => {
            let nested = nested.as_object().ok_or("its dependencies are no table")?;
            let mut scopes = Vec::new();
            npm_nested(nested, source, bill, &mut scopes)
        }
        (None, None) if lock.get("lockfileVersion").is_some() => Ok(()),
        (None, None) => Err("it has neither packages nor dependencies nor a lockfileVersion".to_owned()),
    }
}

const DEPENDENCIES: [&str; 4] = ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies"];

fn npm_flat(packages: &Object, source: &str, bill: &mut Bill) -> Result<(), String> {
    let mut references: BTreeMap<&str, String> = BTreeMap::new();
    for (path, entry) in packages.iter().filter(|(path, _)| !path.is_empty()) {
        if entry.get("link").and_then(Value::as_bool) == Some(true) {
            continue;
        }
        let installed = path.rsplit_once("node_modules/").map(|(_, name)| name);
        let part = match (installed, text(entry, "version")) {
            (Some(installed), Some(version)) => {
                let name = text(entry, "name").unwrap_or(installed);
                let mut part = package(name, version, text(entry, "resolved"), source)?;
                add_integrity(&mut part, text(entry, "integrity"))?;
                part.licenses.extend(text(entry, "license").map(str::to_owned));
                part
            }
            (Some(installed), None) => return Err(format!("{installed} has no version")),
            (None, version) => Part::local(text(entry, "name").unwrap_or(path), version, source),
        };
        references.insert(path, bill.add(part));
    }
    for (path, entry) in packages {
        if let Some(reference) = references.get(path.as_str()) {
            bill.knows_needs(reference);
        } else if !path.is_empty() {
            continue;
        }
        for name in DEPENDENCIES.iter().flat_map(|key| object(entry, key)).map(|(name, _)| name) {
            // Optional ones, peers, and what only a published package would install may not be there.
            let Some(target) = npm_find(packages, &references, path, name) else { continue };
            match references.get(path.as_str()) {
                Some(reference) => bill.need(reference, &target),
                None => drop(bill.roots.insert(target)),
            }
        }
    }
    Ok(())
}

/// Node's own rule: the nearest `node_modules` on the way up.
fn npm_find(packages: &Object, references: &BTreeMap<&str, String>, from: &str, name: &str) -> Option<String> {
    let mut folder = from;
    loop {
        let path =
            if folder.is_empty() { format!("node_modules/{name}") } else { format!("{folder}/node_modules/{name}") };
        if let Some(reference) = references.get(path.as_str()) {
            return Some(reference.clone());
        }
        if let Some(target) = packages.get(&path).and_then(|entry| text(entry, "resolved")) {
            return references.get(target).cloned();
        }
        folder = match folder.rfind("/node_modules/") {
            Some(at) => &folder[..at],
            None if folder.is_empty() => return None,
            None => folder.rfind('/').filter(|_| !folder.starts_with("node_modules/")).map_or("", |at| &folder[..at]),
        };
    }
}

/// Version 1: the folders as nested tables. `scopes` are the tables on the way up, for Node's rule.
fn npm_nested(
    tables: &Object,
    source: &str,
    bill: &mut Bill,
    scopes: &mut Vec<BTreeMap<String, String>>,
) -> Result<(), String> {
    let mut scope = BTreeMap::new();
    for (name, entry) in tables {
        let version = text(entry, "version").ok_or_else(|| format!("{name} has no version"))?;
        let alias = version.strip_prefix("npm:").and_then(|alias| alias.rsplit_once('@'));
        let (real, version) = alias.unwrap_or((name, version));
        let part = match version.strip_prefix("file:") {
            Some(path) => Part::local(name, None, path),
            None => {
                let from = Some(version).filter(|version| version.contains("://")).or(text(entry, "resolved"));
                let mut part = package(real, version, from, source)?;
                add_integrity(&mut part, text(entry, "integrity"))?;
                part
            }
        };
        scope.insert(name.clone(), bill.add(part));
    }
    let all: BTreeSet<String> = scope.values().cloned().collect();
    let outermost = scopes.is_empty();
    scopes.push(scope);
    for (name, entry) in tables {
        if let Some(nested) = entry.get("dependencies").and_then(Value::as_object) {
            npm_nested(nested, source, bill, scopes)?;
        }
        let Some(reference) = scopes.last().and_then(|scope| scope.get(name)).cloned() else { continue };
        bill.knows_needs(&reference);
        let nested = entry.get("dependencies").and_then(Value::as_object);
        for (needed, _) in object(entry, "requires") {
            let below = nested.and_then(|nested| nested.get(needed)).and_then(|entry| text(entry, "version"));
            let target = match below {
                Some(version) => package(needed, version, None, source).ok().map(|part| part.reference()),
                None => scopes.iter().rev().find_map(|scope| scope.get(needed)).cloned(),
            };
            if let Some(target) = target.filter(|target| bill.parts.contains_key(target)) {
                bill.need(&reference, &target);
            }
        }
    }
    scopes.pop();
    if outermost {
        bill.root_tops(&all);
    }
    Ok(())
}

fn yaml(text: &str) -> Result<Value, String> {
    let mut options = serde_saphyr::Options::default();
    if let Some(budget) = options.budget.as_mut() {
        // Locks have no anchors; large ones have many nodes.
        budget.max_events = 20_000_000;
        budget.max_nodes = 10_000_000;
        budget.max_total_scalar_bytes = 128 << 20;
        budget.max_depth = 64;
        budget.max_aliases = 16;
        budget.max_anchors = 16;
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().chars().take(200).collect()
    })
}

/// `name@1.0.0(peer@2.0.0)`, `/name@1.0.0`, `/name/1.0.0_peer`: name and version.
fn pnpm_key(key: &str) -> Option<(&str, &str)> {
    let plain = key.strip_prefix('/').unwrap_or(key);
    let plain = plain.split('(').next()?;
    let after_scope = if plain.starts_with('@') { plain.find('/')? + 1 } else { 0 };
    let at = plain[after_scope..].find(['@', '/'])? + after_scope;
    let (name, version) = (&plain[..at], &plain[at + 1..]);
    let version = if plain[at..].starts_with('/') { version.split('_').next()? } else { version };
    (!name.is_empty() && !version.is_empty()).then_some((name, version))
}

/// Reads `pnpm-lock.yaml`.
pub(crate) fn pnpm(source_text: &str, source: &str, bill: &mut Bill) -> Result<(), String> {
    let lock = yaml(source_text)?;
    if lock.get("lockfileVersion").is_none() {
        return Err("it has no lockfileVersion".to_owned());
    }
    let mut references: BTreeMap<&str, String> = BTreeMap::new();
    for (key, entry) in object(&lock, "packages") {
        let resolution = entry.get("resolution").unwrap_or(&Value::Null);
        let from = text(resolution, "repo").or(text(resolution, "tarball"));
        let (name, version) = match (text(entry, "name"), text(entry, "version"), pnpm_key(key)) {
            (Some(name), Some(version), _) => (name, version),
            (_, Some(version), Some((name, _))) => (name, version),
            (_, _, Some(pair)) => pair,
            _ => return Err(format!("{key:?} names no package and version")),
        };
        let git = text(resolution, "repo").map(|repo| format!("git+{repo}"));
        let mut part = package(name, version, git.as_deref().or(from), source)?;
        add_integrity(&mut part, text(resolution, "integrity"))?;
        references.insert(key, bill.add(part));
    }
    let find = |name: &str, version: &Value| -> Option<String> {
        let version = version.as_str().or_else(|| text(version, "version"))?;
        let forms = [
            version.to_owned(),
            format!("{name}@{version}"),
            format!("/{name}@{version}"),
            format!("/{name}/{version}"),
        ];
        let plain = |form: &String| form.split('(').next().map(str::to_owned);
        let known = |form: &str| references.get(form).cloned();
        forms
            .iter()
            .find_map(|form| known(form))
            .or_else(|| forms.iter().filter_map(plain).find_map(|form| known(&form)))
    };
    let snapshots = object(&lock, "snapshots").chain(object(&lock, "packages"));
    for (key, entry) in snapshots {
        let reference =
            references.get(key.as_str()).or_else(|| references.get(key.split('(').next().unwrap_or_default()));
        let Some(reference) = reference.cloned() else { return Err(format!("{key:?} is a snapshot of no package")) };
        bill.knows_needs(&reference);
        for (name, version) in ["dependencies", "optionalDependencies"].iter().flat_map(|list| object(entry, list)) {
            if let Some(target) = find(name, version) {
                bill.need(&reference, &target);
            }
        }
    }
    let importers = object(&lock, "importers").map(|(_, importer)| importer).chain([&lock]);
    for (name, version) in importers.flat_map(|importer| DEPENDENCIES.iter().flat_map(|key| object(importer, key))) {
        bill.roots.extend(find(name, version));
    }
    Ok(())
}

/// One block of a `yarn.lock`.
#[derive(Default)]
struct Block {
    patterns: Vec<String>,
    fields: BTreeMap<String, String>,
    needs: Vec<(String, String)>,
}

/// Reads `yarn.lock`.
pub(crate) fn yarn(source_text: &str, source: &str, bill: &mut Bill) -> Result<(), String> {
    let is_yaml = source_text.lines().any(|line| line.starts_with("__metadata:"));
    let blocks = if is_yaml { yarn_yaml(source_text)? } else { yarn_one(source_text)? };
    let mut by_pattern: BTreeMap<&str, String> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for block in &blocks {
        let first = block.patterns.first().ok_or("a block has no name")?;
        let (name, range) = pattern(first).ok_or_else(|| format!("{first:?} names no package"))?;
        let version = block.fields.get("version").ok_or_else(|| format!("{name} has no version"))?;
        let resolution = block.fields.get("resolution").map(String::as_str);
        // An alias is resolved to another name.
        let real = match range.strip_prefix("npm:").and_then(pattern) {
            Some((real, _)) => real,
            None => resolution.and_then(pattern).map_or(name, |(real, _)| real),
        };
        let workspace = resolution.is_some_and(|text| text.contains("@workspace:"));
        let part = if workspace {
            Part::local(real, Some(version).filter(|text| *text != "0.0.0-use.local").map(String::as_str), source)
        } else {
            let mut part = package(real, version, block.fields.get("resolved").map(String::as_str), source)?;
            add_integrity(&mut part, block.fields.get("integrity").map(String::as_str))?;
            part
        };
        let reference = bill.add(part);
        all.insert(reference.clone());
        by_pattern.extend(block.patterns.iter().map(|pattern| (pattern.as_str(), reference.clone())));
    }
    for block in &blocks {
        let Some(reference) = block.patterns.first().and_then(|first| by_pattern.get(first.as_str())) else { continue };
        bill.knows_needs(reference);
        for (name, range) in &block.needs {
            let forms = [format!("{name}@{range}"), format!("{name}@npm:{range}")];
            if let Some(target) = forms.iter().find_map(|form| by_pattern.get(form.as_str())) {
                bill.need(reference, target);
            }
        }
    }
    bill.root_tops(&all);
    Ok(())
}

/// `name@range`, where the name may begin with `@`.
fn pattern(text: &str) -> Option<(&str, &str)> {
    let at = text.get(1..)?.find('@')? + 1;
    Some((&text[..at], &text[at + 1..]))
}

fn yarn_yaml(source_text: &str) -> Result<Vec<Block>, String> {
    let lock = yaml(source_text)?;
    let lock = lock.as_object().ok_or("it is no table")?;
    let blocks = lock.iter().filter(|(key, _)| *key != "__metadata").map(|(key, entry)| Block {
        patterns: key.split(", ").map(str::to_owned).collect(),
        fields: ["version", "resolution"]
            .iter()
            .filter_map(|key| {
                let value = entry.get(*key)?;
                Some(((*key).to_owned(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            })
            .collect(),
        needs: object(entry, "dependencies")
            .filter_map(|(name, range)| Some((name.clone(), range.as_str()?.to_owned())))
            .collect(),
    });
    Ok(blocks.collect())
}

/// Yarn's first own format: blocks with two and four spaces of indentation, words bare or as JSON texts.
fn yarn_one(source_text: &str) -> Result<Vec<Block>, String> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut in_needs = false;
    for (number, line) in source_text.lines().enumerate() {
        let at = |why: &str| format!("line {}: {why}", number + 1);
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let words = words(content).ok_or_else(|| at("a quote is not closed"))?;
        match line.len() - line.trim_start().len() {
            0 => {
                let names = content.strip_suffix(':').ok_or_else(|| at("a block's head has no colon at its end"))?;
                let patterns = names.split(", ").map(|name| name.trim_matches('"').to_owned()).collect();
                blocks.push(Block { patterns, ..Block::default() });
                in_needs = false;
            }
            2 => {
                let block = blocks.last_mut().ok_or_else(|| at("a field stands before the first block"))?;
                in_needs = matches!(content, "dependencies:" | "optionalDependencies:");
                if let [key, value] = words.as_slice() {
                    block.fields.insert(key.clone(), value.clone());
                } else if !content.ends_with(':') {
                    return Err(at("a field is not a word and a value"));
                }
            }
            4 => {
                let block = blocks.last_mut().ok_or_else(|| at("a field stands before the first block"))?;
                match words.as_slice() {
                    [name, range] if in_needs => block.needs.push((name.clone(), range.clone())),
                    [_, _] => {}
                    _ => return Err(at("a dependency is not a name and a range")),
                }
            }
            _ => return Err(at("the indentation is none of yarn's")),
        }
    }
    if blocks.is_empty() && !source_text.contains("yarn lockfile v1") {
        return Err("it is no lock of yarn".to_owned());
    }
    Ok(blocks)
}

fn words(content: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find(' ').unwrap_or(rest.len())),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Some(words)
}

#[cfg(test)]
#[path = "javascript_tests.rs"]
mod tests;
