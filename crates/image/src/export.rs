//! An engine's image into a layout.
//!
//! `docker save` has three forms: the classic one, the one of 25 and newer with `blobs/sha256/`, and that of the containerd image store, whose layers may be
//! compressed already. All have a `manifest.json` over the files, which is what is read. Layers are compressed anew, always in
//! the same way, so that one image has one manifest digest wherever it was built; the configuration is kept byte for byte.

use crate::{
    docker::Engine,
    error::{Error, Result, count, joined},
    layer::{BUFFER, BlobWriter, Written, in_parallel},
    layout::{self, Built},
    spec::{Descriptor, ImageConfig, LAYER_GZIP},
    tarread::{Kind, Stop, TarReader},
};
use domain::{Digest, Events, event::Unit};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read, Write},
    path::{Path, PathBuf},
};
use tokio_util::io::{StreamReader, SyncIoBridge};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Saves the image from the engine and writes it as a layout.
pub(crate) async fn export(engine: &Engine, id: &str, to: &Path, events: &Events) -> Result<Built> {
    let reader = SyncIoBridge::new(StreamReader::new(Box::pin(engine.save(id))));
    let (to, id, events, address) = (to.to_owned(), id.to_owned(), events.clone(), engine.address.clone());
    let work = tokio::task::spawn_blocking(move || {
        let action = format!("save image {id}");
        layout::create(&to)?;
        let folder = tempfile::tempdir_in(&to).map_err(Error::file("create a folder in", &to))?;
        let task = events.task("save the image", None, Unit::Bytes);
        let saved = receive(reader, folder.path(), &task).map_err(|stop| match stop {
            Received::Stop(Stop::Io(error)) => {
                Error::Engine { engine: address.clone(), action: action.clone(), cause: error.to_string() }
            }
            Received::Stop(Stop::Refused { entry, why }) => {
                Error::damaged(&id, format!("the engine's archive at {entry:?}: {why}"))
            }
            Received::Local(error) => error,
        })?;
        let bytes = task.done();
        task.finish(count(bytes, "byte", "bytes"));
        convert(&saved, &id, &to, &events)
    });
    joined("save the image to", work.await)?
}

enum Received {
    Stop(Stop),
    Local(Error),
}

impl From<Stop> for Received {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// Name in the archive to a file of ours; names of the archive never become paths.
struct Saved {
    files: HashMap<Vec<u8>, PathBuf>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

fn receive(reader: impl Read, folder: &Path, task: &domain::event::Task) -> Result<Saved, Received> {
    let mut archive = TarReader::new(reader);
    let mut saved = Saved { files: HashMap::new(), links: HashMap::new() };
    let mut buffer = vec![0; BUFFER];
    while let Some(entry) = archive.next_entry()? {
        match entry.kind {
            Kind::Symlink | Kind::HardLink => {
                // Classic engines save equal layers once: `<id>/layer.tar -> ../<other id>/layer.tar`.
                let parent = if entry.kind == Kind::Symlink { parent(&entry.path) } else { b"" };
                saved.links.insert(entry.path.clone(), join(parent, &entry.link));
            }
            Kind::File => {
                let path = folder.join(saved.files.len().to_string());
                let mut file = File::create_new(&path).map_err(|e| Received::Local(Error::file("create", &path)(e)))?;
                loop {
                    let read = archive.read(&mut buffer)?;
                    if read == 0 {
                        break;
                    }
                    file.write_all(&buffer[..read]).map_err(|e| Received::Local(Error::file("write", &path)(e)))?;
                    task.advance(read as u64);
                }
                saved.files.insert(entry.path, path);
            }
            _ => {}
        }
    }
    Ok(saved)
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |at| &path[..at])
}

fn join(parent: &[u8], relative: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = parent.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    for part in relative.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

impl Saved {
    fn find(&self, id: &str, name: &str) -> Result<&Path> {
        let mut name = name.as_bytes();
        for _ in 0..8 {
            if let Some(path) = self.files.get(name) {
                return Ok(path);
            }
            match self.links.get(name) {
                Some(target) => name = target,
                None => break,
            }
        }
        Err(Error::damaged(id, format!("the engine's archive does not have {:?}", String::from_utf8_lossy(name))))
    }
}

fn convert(saved: &Saved, id: &str, to: &Path, events: &Events) -> Result<Built> {
    let read = |name: &str| -> Result<Vec<u8>> {
        let path = saved.find(id, name)?;
        std::fs::read(path).map_err(Error::file("read", path))
    };
    let misread = |what: &str, error: serde_json::Error| {
        Error::damaged(id, format!("the engine's {what} is not understood: {error}"))
    };
    let images: Vec<SavedImage> =
        serde_json::from_slice(&read("manifest.json")?).map_err(|e| misread("manifest.json", e))?;
    let [image] = images.as_slice() else {
        return Err(Error::damaged(id, format!("the engine saved {} images instead of one", images.len())));
    };
    let config_bytes = read(&image.config)?;
    let config: ImageConfig = serde_json::from_slice(&config_bytes).map_err(|e| misread("configuration", e))?;
    let names = image.layers.clone().unwrap_or_default();
    if names.len() != config.rootfs.diff_ids.len() {
        return Err(Error::damaged(
            id,
            format!(
                "the engine saved {}, the configuration names {}",
                count(names.len() as u64, "layer", "layers"),
                config.rootfs.diff_ids.len()
            ),
        ));
    }
    let files = names.iter().map(|name| saved.find(id, name)).collect::<Result<Vec<_>>>()?;
    let pairs: Vec<(&Path, &Digest)> = files.into_iter().zip(&config.rootfs.diff_ids).collect();
    let blobs = layout::blobs_dir(to);
    let task = events.task("compress layers", Some(pairs.len() as u64), Unit::Items);
    let written = in_parallel(&pairs, |(path, diff_id)| {
        let layer = compress(path, &blobs, id)?;
        if layer.diff_id != **diff_id {
            return Err(Error::damaged(
                id,
                format!("the engine saved layer {} where the configuration names {diff_id}", layer.diff_id),
            ));
        }
        task.advance(1);
        Ok(layer)
    })?;
    let descriptors = written.iter().map(|layer| Descriptor::new(LAYER_GZIP, layer.digest, layer.size)).collect();
    let built = layout::seal(to, &config_bytes, descriptors, config.platform())?;
    task.finish(format!("{}, {}", built.manifest, count(built.bytes, "byte", "bytes")));
    Ok(built)
}

fn compress(path: &Path, blobs: &Path, id: &str) -> Result<Written> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let mut magic = [0; 4];
    let known = file.read(&mut magic).map_err(Error::file("read", path))?;
    let reader = BufReader::with_capacity(BUFFER, File::open(path).map_err(Error::file("open", path))?);
    let mut plain: Box<dyn Read> = match &magic[..known] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            return Err(Error::damaged(id, "a layer is compressed with zstd, which is not understood"));
        }
        _ => Box::new(reader),
    };
    let mut blob = BlobWriter::create(blobs)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = plain.read(&mut buffer).map_err(Error::file("read", path))?;
        if read == 0 {
            return blob.finish(blobs);
        }
        blob.write_all(&buffer[..read]).map_err(Error::file("write a layer in", blobs))?;
    }
}
