//! The first thing in which two images differ, for people who want to know why a build gave another digest.

use crate::{
    base::parse_platform,
    error::Result,
    layer::{BUFFER, read_failed, read_layer, stopped},
    layout::{Documents, blobs_dir, read_documents},
    spec::Descriptor,
    tarread::{Entry, TarReader},
    unpack::Limits,
};
use serde_json::Value;
use sha2::Digest as _;
use std::{collections::BTreeMap, path::Path};

/// Where two images part.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// A file's path in the image, or a field of the image's configuration.
    pub path: String,
    /// In what: `content`, `mode`, `modification time`, `only in the first`, …
    pub what: String,
}

/// The first file, in order of layers and then of paths, in which two images of one platform differ; then the first field of their
/// configurations. `None` when both are the same, byte for byte.
///
/// It needs room for the names of one layer of each at a time. Hostile layers are refused, and so is a platform that is not understood.
pub fn first_difference(first: &Path, second: &Path, platform: &str) -> Result<Option<Difference>> {
    let platform = parse_platform(platform)?;
    let (one, other) = (read_documents(first, Some(&platform))?, read_documents(second, Some(&platform))?);
    if one.manifest_descriptor.digest == other.manifest_descriptor.digest {
        return Ok(None);
    }
    let mut pairs = one.manifest.layers.iter().zip(&other.manifest.layers).enumerate();
    if let Some((number, (here, there))) = pairs.find(|(_, (here, there))| here.digest != there.digest) {
        let limits = Limits::default();
        let (here, there) = (entries(first, here, &limits)?, entries(second, there, &limits)?);
        let found = differing(&here, &there).unwrap_or_else(|| Difference {
            path: format!("layer {number}"),
            what: "the order of its entries, their headers or its compression".to_owned(),
        });
        return Ok(Some(found));
    }
    let layers = [one.manifest.layers.len(), other.manifest.layers.len()];
    if layers[0] != layers[1] {
        let what = format!("{} layers and {}", layers[0], layers[1]);
        return Ok(Some(Difference { path: "layers".to_owned(), what }));
    }
    Ok(Some(fields(&one, &other)))
}

/// An entry as it is compared.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    kind: String,
    link: Vec<u8>,
    mode: u32,
    mtime: u64,
    content: Option<[u8; 32]>,
}

fn entries(layout: &Path, layer: &Descriptor, limits: &Limits) -> Result<BTreeMap<Vec<u8>, Seen>> {
    let refused = |why: &str| read_failed(layer.digest, std::io::Error::other(why));
    let reader = read_layer(&blobs_dir(layout), layer, limits, limits.bytes)?;
    let mut archive = TarReader::new(reader);
    let mut found = BTreeMap::new();
    let mut buffer = vec![0; BUFFER];
    let mut names_left = limits.names;
    while let Some(entry) = archive.next_entry().map_err(|stop| stopped(layer.digest, stop))? {
        if found.len() as u64 >= limits.entries {
            return Err(refused("it has more entries than are allowed"));
        }
        let names = (entry.path.len() + entry.link.len()) as u64;
        names_left = names_left.checked_sub(names).ok_or_else(|| refused("its names are longer than is allowed"))?;
        let mut hasher = sha2::Sha256::new();
        loop {
            let read = archive.read(&mut buffer).map_err(|stop| stopped(layer.digest, stop))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        let content = (entry.size > 0).then(|| hasher.finalize().into());
        let Entry { path, link, kind, mode, mtime, .. } = entry;
        found.insert(path, Seen { kind: format!("{kind:?}"), link, mode, mtime, content });
    }
    Ok(found)
}

fn differing(here: &BTreeMap<Vec<u8>, Seen>, there: &BTreeMap<Vec<u8>, Seen>) -> Option<Difference> {
    let mut paths: Vec<&Vec<u8>> = here.keys().chain(there.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    paths.into_iter().find_map(|path| {
        let what = match (here.get(path), there.get(path)) {
            (Some(one), Some(other)) if one == other => return None,
            (Some(_), None) => "only in the first".to_owned(),
            (None, _) => "only in the second".to_owned(),
            (Some(one), Some(other)) if one.content != other.content => "content".to_owned(),
            (Some(one), Some(other)) if one.kind != other.kind => format!("{} and {}", one.kind, other.kind),
            (Some(one), Some(other)) if one.mode != other.mode => format!("mode {:o} and {:o}", one.mode, other.mode),
            (Some(one), Some(other)) if one.link != other.link => "where the link points".to_owned(),
            (Some(one), Some(other)) => format!("modification time {} and {}", one.mtime, other.mtime),
        };
        Some(Difference { path: format!("/{}", String::from_utf8_lossy(path).trim_start_matches("./")), what })
    })
}

/// The first member of the configuration, or else of the manifest, that is not the same.
fn fields(one: &Documents, other: &Documents) -> Difference {
    let json = |value: serde_json::Result<Value>| value.unwrap_or_default();
    let pairs = [
        ("configuration", json(serde_json::to_value(&one.config)), json(serde_json::to_value(&other.config))),
        ("manifest", json(serde_json::to_value(&one.manifest)), json(serde_json::to_value(&other.manifest))),
    ];
    let found = pairs.iter().find_map(|(name, one, other)| pointer(one, other).map(|at| (name, at)));
    match found {
        Some((name, (at, one, other))) => {
            Difference { path: format!("{name}{at}"), what: format!("{one} and {other}") }
        }
        None => Difference { path: "configuration".to_owned(), what: "fields that are not understood".to_owned() },
    }
}

/// Where two values part, and what is there.
fn pointer(one: &Value, other: &Value) -> Option<(String, String, String)> {
    let below = |name: String, one: &Value, other: &Value| {
        pointer(one, other).map(|(at, one, other)| (format!("/{name}{at}"), one, other))
    };
    match (one, other) {
        _ if one == other => None,
        (Value::Object(here), Value::Object(there)) => here.keys().chain(there.keys()).find_map(|key| {
            below(key.clone(), here.get(key).unwrap_or(&Value::Null), there.get(key).unwrap_or(&Value::Null))
        }),
        (Value::Array(here), Value::Array(there)) if here.len() == there.len() => {
            here.iter().zip(there).enumerate().find_map(|(at, (one, other))| below(at.to_string(), one, other))
        }
        _ => {
            let short = |value: &Value| value.to_string().chars().take(200).collect::<String>();
            Some((String::new(), short(one), short(other)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{layout, spec::LAYER_TAR};

    #[test]
    fn names_are_bounded_and_a_platform_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = layout::create(folder.path()).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        for number in 0..10 {
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            archive.append_data(&mut header, format!("name-{number}"), std::io::empty()).unwrap();
        }
        let layer = layout::put(&blobs, LAYER_TAR, &archive.into_inner().unwrap()).unwrap();
        let names = |names: u64| entries(folder.path(), &layer, &Limits { names, ..Limits::default() });
        assert_eq!(names(60).unwrap().len(), 10);
        let error = names(59).unwrap_err().to_string();
        assert!(error.contains("its names are longer"), "{error}");
        let error = first_difference(folder.path(), folder.path(), "linux").unwrap_err().to_string();
        assert!(error.contains("platform \"linux\" is not understood"), "{error}");
    }
}
