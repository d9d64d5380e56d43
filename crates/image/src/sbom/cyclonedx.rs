//! The document: <https://cyclonedx.org/docs/1.6/json/>.

use super::{
    Sbom, SbomRequest,
    bill::{Bill, Kind, Part, purl, same_package},
    syft::Found,
};
use crate::{error::Result, layout::to_json};
use domain::Digest;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The components and dependencies of the document, by reference.
struct Content {
    components: BTreeMap<String, Value>,
    needs: BTreeMap<String, BTreeSet<String>>,
    roots: BTreeSet<String>,
}

/// Writes the bill. What syft found stands as it said; what is only ours is added.
pub(crate) fn write(
    request: &SbomRequest<'_>,
    bill: &Bill,
    image: Option<Digest>,
    found: Option<Found>,
) -> Result<Sbom> {
    let own = format!("sealift {}", env!("CARGO_PKG_VERSION"));
    let mut tools = vec![json!({"type": "application", "name": "sealift", "version": env!("CARGO_PKG_VERSION")})];
    let tool = match &found {
        None => own,
        Some(found) => {
            tools.insert(0, json!({"type": "application", "name": "syft", "version": found.version}));
            format!("syft {} and {own}", found.version)
        }
    };
    let unlisted = bill.unlisted().filter(|_| found.is_none());
    let content = content(bill, found);
    let (component, reference) = component(request, image);
    let mut properties = vec![property("sealift:sbom:tool", &tool)];
    properties.extend(bill.sources.iter().map(|source| property("sealift:sbom:source", source)));
    properties.extend(unlisted.as_deref().map(|text| property("sealift:sbom:unlisted", text)));
    if content.components.is_empty() && bill.unread.is_empty() {
        let text = "no lock file and no database of installed packages was found";
        properties.push(property("sealift:sbom:empty", text));
    }
    let mut dependencies = vec![json!({"ref": reference, "dependsOn": content.roots})];
    dependencies.extend(content.needs.iter().map(|(of, needs)| json!({"ref": of, "dependsOn": needs})));
    let components = content.components.len() as u64;
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": request.created.to_string(),
            "tools": {"components": tools},
            "component": component,
            "properties": properties,
        },
        "components": content.components.into_values().collect::<Vec<_>>(),
        "dependencies": dependencies,
    });
    document["serialNumber"] = serial(&to_json(&document)?).into();
    Ok(Sbom { bytes: to_json(&document)?, components, tool })
}

/// A UUID of version 8, which is one for uses of one's own (RFC 9562): the head of the SHA-256 of all the rest.
fn serial(bytes: &[u8]) -> String {
    let mut head = [0; 16];
    head.copy_from_slice(&Digest::of(bytes).as_bytes()[..16]);
    uuid::Builder::from_custom_bytes(head).into_uuid().urn().to_string()
}

fn property(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

fn component(request: &SbomRequest<'_>, image: Option<Digest>) -> (Value, String) {
    let (name, version) = (request.name, request.version);
    match image {
        Some(digest) => {
            let purl = purl("oci", "", &name.to_lowercase(), Some(&digest.to_string()), &[("tag", version)]);
            let component = json!({
                "type": "container", "bom-ref": purl, "name": name, "version": version, "purl": purl,
                "hashes": [{"alg": "SHA-256", "content": digest.hex()}],
                "properties": [property("sealift:image:digest", &digest.to_string())],
            });
            (component, purl)
        }
        None => {
            let reference = format!("component:{name}@{version}");
            (json!({"type": "application", "bom-ref": reference, "name": name, "version": version}), reference)
        }
    }
}

fn content(bill: &Bill, found: Option<Found>) -> Content {
    let (mut components, mut needs) = found.map(|found| (found.components, found.needs)).unwrap_or_default();
    let mut theirs: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    let mut has_system = false;
    for (reference, component) in &components {
        has_system |= component["type"] == Kind::OperatingSystem.word();
        if let Some(purl) = component["purl"].as_str() {
            theirs.entry(same_package(purl)).or_insert_with(|| reference.clone());
        }
    }
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    for (reference, part) in &bill.parts {
        if part.kind == Kind::OperatingSystem && has_system {
            continue;
        }
        let known = part.purl.as_ref().and_then(|purl| theirs.get(&same_package(purl)));
        let name = known.unwrap_or(reference).clone();
        match known.and_then(|known| components.get_mut(known)).and_then(Value::as_object_mut) {
            Some(known) => complete(known, part),
            None => drop(components.insert(name.clone(), written(reference, part))),
        }
        names.insert(reference, name);
    }
    for (of, ours) in &bill.needs {
        if let Some(of) = names.get(of.as_str()) {
            let ours = ours.iter().filter_map(|name| names.get(name.as_str()).cloned()).filter(|name| name != of);
            needs.entry(of.clone()).or_default().extend(ours);
        }
    }
    let mut roots: BTreeSet<String> = bill.roots.iter().filter_map(|name| names.get(name.as_str()).cloned()).collect();
    // What nothing needs and nobody says more about is in the component for its own sake.
    let needed: BTreeSet<&String> = needs.values().flatten().collect();
    roots.extend(components.keys().filter(|name| !needed.contains(name)).cloned());
    Content { components, needs, roots }
}

/// Adds to a component of syft's what only our side knows.
fn complete(known: &mut Map<String, Value>, part: &Part) {
    if !part.hashes.is_empty() && !known.contains_key("hashes") {
        known.insert("hashes".to_owned(), hashes(part));
    }
    if !part.licenses.is_empty() && !known.contains_key("licenses") {
        known.insert("licenses".to_owned(), licenses(&part.licenses));
    }
    let ours = part.sources.iter().map(|source| property("sealift:source", source));
    match known.get_mut("properties").and_then(Value::as_array_mut) {
        Some(properties) => properties.extend(ours),
        None => drop(known.insert("properties".to_owned(), ours.collect())),
    }
}

fn hashes(part: &Part) -> Value {
    part.hashes.iter().map(|hash| json!({"alg": hash.algorithm, "content": hash.hex})).collect()
}

fn written(reference: &str, part: &Part) -> Value {
    let mut component = Map::new();
    let mut set = |key: &str, value: Value| drop(component.insert(key.to_owned(), value));
    set("type", part.kind.word().into());
    set("bom-ref", reference.into());
    if let Some(group) = &part.group {
        set("group", group.as_str().into());
    }
    set("name", part.name.as_str().into());
    if let Some(version) = &part.version {
        set("version", version.as_str().into());
    }
    if !part.hashes.is_empty() {
        set("hashes", hashes(part));
    }
    if !part.licenses.is_empty() {
        set("licenses", licenses(&part.licenses));
    }
    if let Some(purl) = &part.purl {
        set("purl", purl.as_str().into());
    }
    let mut properties: Vec<Value> = part.sources.iter().map(|source| property("sealift:source", source)).collect();
    properties.extend(part.requirement.iter().map(|text| property("sealift:requirement", text)));
    set("properties", properties.into());
    Value::Object(component)
}

/// The identifiers of the SPDX list that packages commonly name. Another text is a name and not an identifier, which is never wrong.
const SPDX: [&str; 42] = [
    "0BSD",
    "AFL-2.1",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-2.0",
    "Artistic-2.0",
    "BlueOak-1.0.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "HPND",
    "ISC",
    "LGPL-2.0-only",
    "LGPL-2.0-or-later",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "NCSA",
    "OFL-1.1",
    "OpenSSL",
    "PSF-2.0",
    "Python-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "WTFPL",
    "X11",
    "Zlib",
    "ZPL-2.1",
    "curl",
];

/// Whether a text is identifiers with AND and OR between, and parentheses that match.
fn is_expression(text: &str) -> bool {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let (mut depth, mut wants_name) = (0_usize, true);
    for word in spaced.split_whitespace() {
        match word {
            "(" if wants_name => depth += 1,
            ")" if !wants_name && depth > 0 => depth -= 1,
            "AND" | "OR" if !wants_name => wants_name = true,
            word if wants_name && SPDX.contains(&word) => wants_name = false,
            _ => return false,
        }
    }
    depth == 0 && !wants_name
}

fn licenses(texts: &BTreeSet<String>) -> Value {
    let one = |text: &str| {
        let key = if SPDX.contains(&text) { "id" } else { "name" };
        json!({"license": {key: text}})
    };
    match texts.first() {
        Some(only) if texts.len() == 1 && is_expression(only) && !SPDX.contains(&only.as_str()) => {
            json!([{"expression": only}])
        }
        _ => texts.iter().map(|text| one(text)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_an_identifier_an_expression_or_a_name() {
        let of = |texts: &[&str]| licenses(&texts.iter().map(|text| (*text).to_owned()).collect()).to_string();
        assert_eq!(of(&["MIT"]), r#"[{"license":{"id":"MIT"}}]"#);
        assert_eq!(of(&["MIT OR (Apache-2.0 AND ISC)"]), r#"[{"expression":"MIT OR (Apache-2.0 AND ISC)"}]"#);
        assert_eq!(of(&["BSD"]), r#"[{"license":{"name":"BSD"}}]"#);
        assert_eq!(of(&["MIT OR ISC", "Z"]), r#"[{"license":{"name":"MIT OR ISC"}},{"license":{"name":"Z"}}]"#);
        for text in ["MIT OR", "(MIT", "MIT)", "MIT ISC", "OR", ""] {
            assert!(!is_expression(text), "{text}");
        }
    }
}
