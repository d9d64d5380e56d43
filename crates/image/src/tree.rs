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
}

impl Tree {
    /// The tree of an existing image.
    pub(crate) fn of(layout: &Path, documents: &Documents, limits: &Limits) -> Result<Self> {
        let mut tree = Self::default();
        for descriptor in &documents.manifest.layers {
            let fail = |stop| stopped(descriptor.digest, stop);
            let mut reader = TarReader::new(read_layer(&blobs_dir(layout), descriptor, limits, limits.bytes)?);
            let mut upper: Vec<(Components, Node)> = Vec::new();
            while let Some(entry) = reader.next_entry().map_err(fail)? {
                let path = components(&entry.path).map_err(|why| Error::Hostile {
                    layer: descriptor.digest,
                    entry: String::from_utf8_lossy(&entry.path).into_owned(),
                    why,
                })?;
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
            self.nodes.entry(path[..end].to_vec()).or_insert(Node::Directory);
        }
        if !path.is_empty() {
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
