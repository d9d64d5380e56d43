//! What a root file system holds, from the headers of its layers: enough to know where a new file would go.

use crate::{
    error::{Error, Result},
    layer::{read_layer, stopped},
    layout::{Documents, blobs_dir},
    tarread::{Kind, TarReader},
    unpack::{Limits, components, whiteout},
};
use std::{collections::BTreeMap, path::Path};

/// A path in an image, component by component.
pub(crate) type Components = Vec<Vec<u8>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    Symlink(Vec<u8>),
    Other,
}

/// All paths of an image so far.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<Components, Node>,
    /// Bytes that the names of its nodes ever took, at least.
    names: u64,
}

/// What a path takes in memory, about: the names and what holds them.
fn weight(path: &[Vec<u8>]) -> u64 {
    path.iter().map(|part| part.len() as u64 + 32).sum()
}

impl Tree {
    /// The tree of an existing image.
    pub(crate) fn of(layout: &Path, documents: &Documents, limits: &Limits) -> Result<Self> {
        let mut tree = Self::default();
        let mut entries = 0;
        for descriptor in &documents.manifest.layers {
            let fail = |stop| stopped(descriptor.digest, stop);
            let mut reader = TarReader::new(read_layer(&blobs_dir(layout), descriptor, limits, limits.bytes)?);
            let mut upper: Vec<(Components, Node)> = Vec::new();
            let mut waiting = 0;
            let hostile = |path: &[u8], why: String| {
                let entry = String::from_utf8_lossy(path).into_owned();
                Error::Hostile { layer: descriptor.digest, entry, why }
            };
            let long = || "the paths of the image are longer together than is allowed".to_owned();
            while let Some(entry) = reader.next_entry().map_err(fail)? {
                entries += 1;
                if entries > limits.entries {
                    return Err(hostile(&entry.path, "the image has more entries than are allowed".to_owned()));
                }
                let path = components(&entry.path).map_err(|why| hostile(&entry.path, why))?;
                waiting += weight(&path) + entry.link.len() as u64;
                if waiting > limits.names {
                    return Err(hostile(&entry.path, long()));
                }
                if let Some(hidden) = whiteout(&path) {
                    tree.remove_below(hidden.path(), hidden.is_opaque());
                    continue;
                }
                let node = match entry.kind {
                    Kind::Directory => Node::Directory,
                    Kind::Symlink => Node::Symlink(entry.link),
                    _ => Node::Other,
                };
                upper.push((path, node));
            }
            for (path, node) in upper {
                tree.insert(path, node);
                if tree.names > limits.names {
                    return Err(hostile(b"(all)", long()));
                }
            }
        }
        Ok(tree)
    }

    pub(crate) fn get(&self, path: &[Vec<u8>]) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(crate) fn insert(&mut self, path: Components, node: Node) {
        if node != Node::Directory {
            self.remove_below(&path, true);
        }
        for end in 1..path.len() {
            if !self.nodes.contains_key(&path[..end]) {
                self.names += weight(&path[..end]);
                self.nodes.insert(path[..end].to_vec(), Node::Directory);
            }
        }
        if !path.is_empty() {
            self.names += weight(&path);
            self.nodes.insert(path, node);
        }
    }

    fn remove_below(&mut self, path: &[Vec<u8>], keep_itself: bool) {
        let all = self
            .nodes
            .range(path.to_vec()..)
            .map(|(candidate, _)| candidate)
            .take_while(|candidate| candidate.starts_with(path));
        let doomed: Vec<Components> =
            all.filter(|candidate| !keep_itself || candidate.len() > path.len()).cloned().collect();
        for candidate in doomed {
            self.nodes.remove(&candidate);
        }
    }

    /// Where `path` really is when symbolic links of the image are followed, and which of the directories on the way are missing.
    /// An error says which part of the path is no directory.
    pub(crate) fn resolve(&self, path: &[Vec<u8>]) -> std::result::Result<Components, String> {
        let mut real: Components = Vec::new();
        let mut rest: Vec<Vec<u8>> = path.iter().rev().cloned().collect();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    real.pop();
                    continue;
                }
                _ => real.push(part),
            }
            match self.get(&real) {
                Some(Node::Symlink(target)) => {
                    links += 1;
                    if links > 40 {
                        return Err(format!("{} has too many symbolic links", shown(path)));
                    }
                    real.pop();
                    if target.starts_with(b"/") {
                        real.clear();
                    }
                    rest.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                }
                Some(Node::Other) => return Err(format!("{} is no directory in the image", shown(&real))),
                Some(Node::Directory) | None => {}
            }
        }
        Ok(real)
    }
}

/// A path for people.
pub(crate) fn shown(path: &[Vec<u8>]) -> String {
    format!("/{}", path.iter().map(|part| String::from_utf8_lossy(part)).collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{layer::BlobWriter, layout, spec::Descriptor};
    use std::io::Write as _;

    #[test]
    fn a_tree_obeys_the_limits_of_entries_and_names() {
        let root = tempfile::tempdir().unwrap();
        let blobs = layout::create(root.path()).unwrap();
        let mut blob = BlobWriter::create(&blobs).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        for number in 0..10 {
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            header.set_mode(0o644);
            archive.append_data(&mut header, format!("a/b/{number}"), std::io::empty()).unwrap();
        }
        blob.write_all(&archive.into_inner().unwrap()).unwrap();
        let written = blob.finish(&blobs).unwrap();
        let config = serde_json::json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [written.diff_id]}});
        let layer = Descriptor::new(crate::spec::LAYER_GZIP, written.digest, written.size);
        let platform = crate::spec::Platform::parse("linux/amd64").unwrap();
        layout::seal(root.path(), config.to_string().as_bytes(), vec![layer], platform).unwrap();
        let documents = layout::read_documents(root.path(), None).unwrap();
        let tree = |limits: Limits| Tree::of(root.path(), &documents, &limits);
        assert_eq!(tree(Limits::default()).unwrap().nodes.len(), 12);
        assert!(tree(Limits { entries: 10, ..Limits::default() }).is_ok());
        let error = tree(Limits { entries: 9, ..Limits::default() }).unwrap_err();
        assert!(error.to_string().contains("more entries"), "{error}");
        let error = tree(Limits { names: 500, ..Limits::default() }).unwrap_err();
        assert!(error.to_string().contains("paths of the image are longer"), "{error}");
    }
}
