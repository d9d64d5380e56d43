//! What a root file system holds, from the headers of its layers: enough to know where a new file would go.

use crate::{
    error::{Error, Result},
    layer::{persist, read_layer, stopped},
    layout::{Documents, blobs_dir},
    spec::Descriptor,
    tarread::{Kind, TarReader},
    unpack::{Limits, components, whiteout},
};
use domain::Digest;
use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
};

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

/// One path of a layer: what is there, or what is hidden below.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    path: Vec<u8>,
    node: Node,
}

/// What layers hold that were read whole and verified before: `listings/<digest>-<identity>`.
#[derive(Debug)]
pub(crate) struct Listings {
    folder: PathBuf,
}

const MAGIC: &[u8; 8] = b"SLLIST\0\x01";

impl Listings {
    pub(crate) fn open(cache: &Path) -> Result<Self> {
        let folder = cache.join("listings");
        std::fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        crate::abandoned::remove_abandoned(&folder);
        Ok(Self { folder })
    }

    /// Whether a layer with this digest was seen to unpack to this identity.
    pub(crate) fn known(&self, layer: &Descriptor, identity: &Digest) -> bool {
        self.read(layer, identity).is_some()
    }

    fn file(&self, layer: &Descriptor, identity: &Digest) -> PathBuf {
        let name = format!("{} {} {} {identity}", layer.digest, layer.size, layer.media_type);
        self.folder.join(Digest::of(name.as_bytes()).hex())
    }

    fn read(&self, layer: &Descriptor, identity: &Digest) -> Option<Vec<Listed>> {
        let bytes = std::fs::read(self.file(layer, identity)).ok()?;
        let (content, checksum) = bytes.split_last_chunk::<32>()?;
        if Digest::of(content).as_bytes() != checksum {
            return None;
        }
        let mut rest = content.strip_prefix(MAGIC)?;
        let mut listed = Vec::new();
        while let Some((kind, after)) = rest.split_first() {
            let (path, after) = text(after)?;
            let (link, after) = text(after)?;
            let node = match kind {
                b'd' => Node::Directory,
                b'l' => Node::Symlink(link.to_vec()),
                _ => Node::Other,
            };
            listed.push(Listed { path: path.to_vec(), node });
            rest = after;
        }
        Some(listed)
    }

    fn write(&self, layer: &Descriptor, identity: &Digest, listed: &[Listed]) -> Result<()> {
        let mut bytes = MAGIC.to_vec();
        for Listed { path, node } in listed {
            let (kind, link) = match node {
                Node::Directory => (b'd', &b""[..]),
                Node::Symlink(target) => (b'l', target.as_slice()),
                Node::Other => (b'o', &b""[..]),
            };
            bytes.push(kind);
            for text in [path.as_slice(), link] {
                bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
                bytes.extend_from_slice(text);
            }
        }
        let checksum = Digest::of(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        let path = self.file(layer, identity);
        let mut file =
            tempfile::NamedTempFile::new_in(&self.folder).map_err(Error::file("create a file in", &self.folder))?;
        file.write_all(&bytes).map_err(Error::file("write", &path))?;
        persist(file, &path)
    }
}

fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// Reads what a layer holds; `entries` counts those of all layers.
fn list(layout: &Path, layer: &Descriptor, limits: &Limits, entries: &mut u64) -> Result<Vec<Listed>> {
    let fail = |stop| stopped(layer.digest, stop);
    let mut reader = TarReader::new(read_layer(&blobs_dir(layout), layer, limits, limits.bytes)?);
    let mut listed = Vec::new();
    let mut waiting = 0;
    while let Some(entry) = reader.next_entry().map_err(fail)? {
        *entries += 1;
        if *entries > limits.entries {
            return Err(hostile(layer, &entry.path, "the image has more entries than are allowed"));
        }
        let path = components(&entry.path).map_err(|why| hostile(layer, &entry.path, &why))?;
        waiting += weight(&path) + entry.link.len() as u64;
        if waiting > limits.names {
            return Err(hostile(layer, &entry.path, LONG));
        }
        let node = match entry.kind {
            Kind::Directory => Node::Directory,
            Kind::Symlink => Node::Symlink(entry.link),
            _ => Node::Other,
        };
        listed.push(Listed { path: entry.path, node });
    }
    Ok(listed)
}

const LONG: &str = "the paths of the image are longer together than is allowed";

fn hostile(layer: &Descriptor, path: &[u8], why: &str) -> Error {
    let entry = String::from_utf8_lossy(path).into_owned();
    Error::Hostile { layer: layer.digest, entry, why: why.to_owned() }
}

impl Tree {
    /// The tree of an existing image, whose layers were verified. With `listings`, layers that were listed before are not read again.
    pub(crate) fn of(
        layout: &Path,
        documents: &Documents,
        limits: &Limits,
        listings: Option<&Listings>,
    ) -> Result<Self> {
        let mut tree = Self::default();
        let mut entries = 0;
        for (layer, identity) in documents.manifest.layers.iter().zip(&documents.config.rootfs.diff_ids) {
            let listed = match listings.and_then(|listings| listings.read(layer, identity)) {
                Some(listed) => {
                    entries += listed.len() as u64;
                    listed
                }
                None => {
                    let listed = list(layout, layer, limits, &mut entries)?;
                    listings.map_or(Ok(()), |listings| listings.write(layer, identity, &listed))?;
                    listed
                }
            };
            tree.apply(layer, listed, limits)?;
        }
        Ok(tree)
    }

    /// Lays one layer over the tree: first what it hides, then what it has.
    fn apply(&mut self, layer: &Descriptor, listed: Vec<Listed>, limits: &Limits) -> Result<()> {
        let mut upper = Vec::new();
        for Listed { path, node } in listed {
            let parts = components(&path).map_err(|why| hostile(layer, &path, &why))?;
            match whiteout(&parts) {
                Some(hidden) => self.remove_below(hidden.path(), hidden.is_opaque()),
                None => upper.push((parts, node)),
            }
        }
        for (path, node) in upper {
            self.insert(path, node);
            if self.names > limits.names {
                return Err(hostile(layer, b"(all)", LONG));
            }
        }
        Ok(())
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
    use crate::{layer::BlobWriter, layout};

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
        let tree = |limits: Limits| Tree::of(root.path(), &documents, &limits, None);
        let whole = tree(Limits::default()).unwrap();
        assert_eq!(whole.nodes.len(), 12);
        let listings = Listings::open(&root.path().join("cache")).unwrap();
        let identity = &documents.config.rootfs.diff_ids[0];
        let layer = &documents.manifest.layers[0];
        for known in [false, true, true] {
            assert_eq!(listings.known(layer, identity), known);
            let listed = Tree::of(root.path(), &documents, &Limits::default(), Some(&listings)).unwrap();
            assert_eq!(listed.nodes, whole.nodes);
        }
        assert!(!listings.known(layer, &layer.digest));
        assert!(tree(Limits { entries: 10, ..Limits::default() }).is_ok());
        let error = tree(Limits { entries: 9, ..Limits::default() }).unwrap_err();
        assert!(error.to_string().contains("more entries"), "{error}");
        let error = tree(Limits { names: 500, ..Limits::default() }).unwrap_err();
        assert!(error.to_string().contains("paths of the image are longer"), "{error}");
    }
}
