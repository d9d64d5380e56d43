//! The documents of an image (indexes and manifests) and the blobs that they name.

use crate::{
    error::{Error, Result},
    layout::{blobs, blobs_dir},
    spec::{DOCKER_MANIFEST, Descriptor, INDEX, MANIFEST},
};
use bytes::Bytes;
use domain::Digest;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{ErrorKind, Read},
    path::Path,
};

/// The largest document, in bytes: what registries take.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// How many documents an image may have, and how many layers each.
pub(crate) const MAX_PARTS: usize = 1000;
/// How deep indexes may be nested: an index of indexes is what buildx makes, and nobody needs more.
pub(crate) const MAX_DEPTH: usize = 4;
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Names the image below, as `registry/path:tag`.
const BASE_NAME: &str = "org.opencontainers.image.base.name";

/// What a document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Says {
    Index(Vec<Descriptor>),
    Image { config: Descriptor, layers: Vec<Descriptor> },
}

/// A document, read and checked by itself.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
    pub(crate) says: Says,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, INDEX | DOCKER_LIST)
}

pub(crate) fn is_document(media_type: &str) -> bool {
    is_index(media_type) || matches!(media_type, MANIFEST | DOCKER_MANIFEST)
}

impl Document {
    /// Reads a document. `announced` is the type by which it was named; the document must not contradict it. The reason is a sentence without a subject.
    pub(crate) fn read(bytes: Bytes, announced: Option<&str>) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(format!("is larger than {MAX_DOCUMENT} bytes"));
        }
        let wire: Wire =
            crate::json::read(&bytes).map_err(|error| format!("is JSON that is not understood: {error}"))?;
        if wire.schema_version != 2 {
            return Err(format!("is of schema {}", wire.schema_version));
        }
        let by_shape = if wire.manifests.is_some() { INDEX } else { MANIFEST };
        let said = wire.media_type.as_deref();
        if let (Some(announced), Some(said)) = (announced, said)
            && announced != said
        {
            return Err(format!("is announced as {announced:?} and says that it is {said:?}"));
        }
        let media_type = announced.or(said).unwrap_or(by_shape).to_owned();
        if !is_document(&media_type) {
            return Err(format!("is of type {media_type:?}, so it is no image"));
        }
        let says = match (wire.manifests, wire.config, wire.layers) {
            (Some(manifests), None, None) if is_index(&media_type) => Says::Index(manifests),
            (None, Some(config), Some(layers)) if !is_index(&media_type) => Says::Image { config, layers },
            _ => return Err(format!("does not have the fields of {media_type:?} and no others")),
        };
        let parts = match &says {
            Says::Index(manifests) => manifests.len(),
            Says::Image { layers, .. } => layers.len(),
        };
        if parts > MAX_PARTS {
            return Err(format!("names {parts} parts, more than {MAX_PARTS}"));
        }
        let annotations = wire.annotations.unwrap_or_default();
        Ok(Self { digest: Digest::of(&bytes), media_type, bytes, says, annotations })
    }
}

/// Whether bytes are a document of an image.
#[allow(dead_code, reason = "an entry for fuzzing")]
pub(crate) fn document_understood(bytes: &[u8]) -> bool {
    Document::read(Bytes::copy_from_slice(bytes), None).is_ok()
}

/// All that an image consists of.
#[derive(Debug)]
pub(crate) struct Content {
    /// Children before parents; the last is the image.
    pub(crate) documents: Vec<Document>,
    /// Configurations and layers, each once, the largest first, so that no large one is left over at the end.
    pub(crate) blobs: Vec<Descriptor>,
}

impl Content {
    /// Reads the image of a layout. Documents are hashed; of the blobs only existence and size are looked at.
    pub(crate) fn of_layout(layout: &Path) -> Result<Self> {
        let Some((root, _, _)) = blobs(layout)?.pop() else {
            return Err(Error::damaged(layout.display(), "it holds no image"));
        };
        let mut content = Self { documents: Vec::new(), blobs: Vec::new() };
        content.walk(layout, &root, None, 0)?;
        content.settle();
        for blob in &content.blobs {
            let path = blobs_dir(layout).join(blob.digest.hex());
            match std::fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_file() && metadata.len() == blob.size => {}
                Ok(metadata) => {
                    let why = format!("{} has {} bytes, not {}", path.display(), metadata.len(), blob.size);
                    return Err(Error::damaged(blob.digest, why));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(Error::damaged(blob.digest, format!("{} does not exist", path.display())));
                }
                Err(error) => return Err(Error::file("look at", &path)(error)),
            }
        }
        Ok(content)
    }

    /// Each blob once, the largest first.
    fn settle(&mut self) {
        let mut seen = BTreeSet::new();
        self.blobs.retain(|blob| seen.insert(blob.digest));
        self.blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    }

    fn walk(&mut self, layout: &Path, digest: &Digest, named: Option<&Descriptor>, depth: usize) -> Result<()> {
        if self.documents.iter().any(|document| document.digest == *digest) {
            return Ok(());
        }
        let damaged = |why: String| Error::damaged(digest, why);
        if depth >= MAX_DEPTH || self.documents.len() >= MAX_PARTS {
            return Err(damaged("its indexes are nested too deep, or are too many".to_owned()));
        }
        let bytes = read_document(&blobs_dir(layout).join(digest.hex()), digest)?;
        if Digest::of(&bytes) != *digest || named.is_some_and(|named| named.size != bytes.len() as u64) {
            return Err(damaged(format!("it has {} bytes with digest {}", bytes.len(), Digest::of(&bytes))));
        }
        let document = Document::read(bytes, named.map(|named| named.media_type.as_str()))
            .map_err(|why| damaged(format!("it {why}")))?;
        match &document.says {
            Says::Index(manifests) => {
                for child in manifests {
                    self.walk(layout, &child.digest, Some(child), depth + 1)?;
                }
            }
            Says::Image { config, layers } => self.blobs.extend(layers.iter().chain([config]).cloned()),
        }
        self.documents.push(document);
        Ok(())
    }

    /// The image itself.
    pub(crate) fn root(&self) -> Option<&Document> {
        self.documents.last()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add)
    }

    /// The repository of the image below, as the documents name it.
    pub(crate) fn base_name(&self) -> Option<&str> {
        let name = self.documents.iter().find_map(|document| document.annotations.get(BASE_NAME))?;
        let name = name.split_once('@').map_or(name.as_str(), |(name, _)| name);
        let slash = name.rfind('/').map_or(0, |at| at + 1);
        Some(name[slash..].find(':').map_or(name, |colon| &name[..slash + colon]))
    }
}

fn read_document(path: &Path, digest: &Digest) -> Result<Bytes> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::damaged(digest, format!("{} does not exist", path.display())));
        }
        other => other.map_err(Error::file("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(Error::damaged(digest, format!("it is larger than {MAX_DOCUMENT} bytes")));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    fn read(text: &str, announced: Option<&str>) -> Result<Document, String> {
        Document::read(Bytes::copy_from_slice(text.as_bytes()), announced)
    }

    #[test]
    fn a_document_that_contradicts_itself_or_its_name_is_refused() {
        let config = format!(r#""config":{{"mediaType":"c","digest":"{ZERO}","size":2}},"layers":[]"#);
        let image = format!(r#"{{"schemaVersion":2,{config}}}"#);
        assert_eq!(read(&image, None).unwrap().media_type, MANIFEST);
        assert!(document_understood(image.as_bytes()));
        assert!(matches!(read(r#"{"schemaVersion":2,"manifests":[]}"#, Some(INDEX)).unwrap().says, Says::Index(_)));
        let typed = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}",{config}}}"#);
        let both = format!(r#"{{"schemaVersion":2,"manifests":[],{config}}}"#);
        let twice = format!(r#"{{"schemaVersion":2,"schemaVersion":2,{config}}}"#);
        let deep = format!(r#"{{"schemaVersion":2,"x":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let many = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            vec![format!(r#"{{"mediaType":"m","digest":"{ZERO}","size":1}}"#); 1001].join(",")
        );
        for (text, announced, why) in [
            (image.as_str(), Some(INDEX), "does not have the fields"),
            (image.as_str(), Some("text/html"), "no image"),
            (typed.as_str(), Some(MANIFEST), "announced as"),
            (typed.as_str(), None, "does not have the fields"),
            (both.as_str(), None, "does not have the fields"),
            (twice.as_str(), None, "duplicate field"),
            (deep.as_str(), None, "recursion limit"),
            (many.as_str(), None, "more than 1000"),
            (r#"{"schemaVersion":1}"#, None, "schema 1"),
            ("", None, "not understood"),
        ] {
            let error = read(text, announced).unwrap_err();
            assert!(error.contains(why), "{text:.80}: {error}");
        }
        assert!(read(&" ".repeat(MAX_DOCUMENT as usize + 1), None).unwrap_err().contains("larger than"));
    }

    #[test]
    fn the_base_is_named_without_tag_and_digest() {
        for (name, expected) in [
            ("reg.example:5000/team/base:1.0", "reg.example:5000/team/base"),
            ("reg.example:5000/team/base@sha256:00", "reg.example:5000/team/base"),
            ("debian:12", "debian"),
            ("reg.example:5000/base", "reg.example:5000/base"),
        ] {
            let text = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"{BASE_NAME}":"{name}"}}}}"#);
            let content = Content { documents: vec![read(&text, None).unwrap()], blobs: Vec::new() };
            assert_eq!(content.base_name(), Some(expected));
        }
    }
}
