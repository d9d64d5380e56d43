//! An image out of wherever its blobs are into one stream that a Docker Engine loads, without an archive on this disk.
//!
//! What never happens here:
//!
//! - No archive comes to its end that holds a blob which is not what its digest says: each is hashed while it passes, and the
//!   documents that make blobs an image come last. Whoever reads the stream sees it break off instead.
//! - No layer is longer than was said before it: its size stands in front of it, and one that unpacks to more or less breaks the
//!   stream off. What gzip says of its own size is only a guess (it is modulo 4 GiB, of the last member alone, and not hashed yet), so
//!   nobody is accused by it: a layer about which it was wrong, or says too much, is unpacked once for its size, and the archive begins anew.
//! - No layer unpacks to more than [`Limits`] allow it, nor all of them together, also not where they are only measured.
//! - Nothing is believed of a source: documents are read within the bounds of the layout, from a folder that vanishes.

use crate::{
    body::{self, Channel, PIECE, PIECES, Writing},
    error::{Error, Result},
    layer::{Capped, Packing, most, read_failed, unpacked},
    layout::{self, Documents, MAX_DOCUMENTS, blobs_dir, read_documents, read_whole, to_json},
    spec::{Descriptor, INDEX, MANIFEST, Platform, Shape, is_index, is_manifest},
    unpack::Limits,
};
use bytes::Bytes;
use domain::{Digest, event::Task};
use futures::{Stream, StreamExt as _, future::BoxFuture, stream::BoxStream};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::{self, BufRead, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};
use tokio::sync::mpsc;

/// How many documents are read of one image, and how large one may be; `layout` has closer bounds for each kind.
const DOCUMENTS: usize = 3000;
const DOCUMENT: u64 = 8 << 20;

/// The bytes of a blob as they arrive.
pub type BlobStream = BoxStream<'static, Result<Bytes>>;

/// Where the blobs of an image are. Nothing that comes from there is believed.
pub trait Blobs: Send + Sync {
    /// All of a blob.
    fn open(&self, digest: &Digest) -> BoxFuture<'static, Result<BlobStream>>;
    /// The last four bytes of a blob of this size.
    fn end(&self, digest: &Digest, size: u64) -> BoxFuture<'static, Result<Bytes>>;
    /// Whether a blob that was just read wrong is what its digest says when all of it is read once more.
    fn holds(&self, digest: &Digest) -> BoxFuture<'static, bool> {
        let (opening, digest) = (self.open(digest), *digest);
        Box::pin(async move {
            let Ok(mut stream) = opening.await else { return false };
            let mut hash = Sha256::new();
            while let Some(piece) = stream.next().await {
                let Ok(piece) = piece else { return false };
                hash.update(&piece);
            }
            Digest::from_bytes(hash.finalize().into()) == digest
        })
    }
}

/// Names what a document names; everything else is read by `layout`.
#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
}

/// A blob in memory, hashed; read once more if it is wrong.
async fn small(blobs: &dyn Blobs, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
    match small_once(blobs, digest, limit).await {
        Err(first @ (Error::Damaged { .. } | Error::Source { .. })) => {
            small_once(blobs, digest, limit).await.map_err(|_| first)
        }
        other => other,
    }
}

async fn small_once(blobs: &dyn Blobs, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
    let mut stream = blobs.open(digest).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() as u64 > limit {
            return Err(Error::damaged(digest, format!("it is larger than {limit} bytes")));
        }
    }
    let found = Digest::of(&bytes);
    if found != *digest {
        let why = format!("it has {} bytes with digest {found}", bytes.len());
        return Err(Error::damaged(digest, why));
    }
    Ok(bytes)
}

/// The image for one platform: its manifest and configuration, verified, and their bytes.
pub(crate) struct Plan {
    pub(crate) image: Documents,
    manifest: Vec<u8>,
    config: Vec<u8>,
}

impl Plan {
    /// The bytes of its manifest or its configuration.
    pub(crate) fn document(&self, digest: &Digest) -> Option<&[u8]> {
        let documents = [
            (self.image.manifest_descriptor.digest, &self.manifest),
            (self.image.manifest.config.digest, &self.config),
        ];
        documents.into_iter().find(|(known, _)| known == digest).map(|(_, bytes)| bytes.as_slice())
    }
}

/// Reads the documents of an image or an index, and takes the image for one platform.
pub(crate) async fn plan(blobs: &dyn Blobs, root: &Digest, platform: &Platform) -> Result<Plan> {
    let folder = tempfile::tempdir().map_err(Error::file("create a folder in", &std::env::temp_dir()))?;
    let directory = layout::create(folder.path())?;
    let (mut wanted, mut seen, mut bytes_of_all) = (vec![*root], BTreeSet::new(), 0);
    let mut whole = Descriptor::new(MANIFEST, *root, 0);
    while let Some(digest) = wanted.pop() {
        if !seen.insert(digest) {
            continue;
        }
        let bytes = small(blobs, &digest, DOCUMENT).await?;
        bytes_of_all += bytes.len() as u64;
        if seen.len() > DOCUMENTS || bytes_of_all > MAX_DOCUMENTS {
            return Err(Error::damaged(root, "it has more documents than an image has"));
        }
        let misread = |error: String| Error::damaged(digest, format!("its JSON is not understood: {error}"));
        let shape: Shape = crate::json::read(&bytes).map_err(misread)?;
        if digest == *root {
            let usual = if shape.manifests.is_some() { INDEX } else { MANIFEST };
            whole = Descriptor::new(shape.media_type.as_deref().unwrap_or(usual), digest, bytes.len() as u64);
        }
        // A configuration is a document too, and names nothing.
        if shape.manifests.is_some() || shape.layers.is_some() {
            let names: Names = crate::json::read(&bytes).map_err(misread)?;
            let document = |one: &&Descriptor| is_manifest(&one.media_type) || is_index(&one.media_type);
            let all = names.manifests.iter().flatten().filter(document).chain(&names.config);
            wanted.extend(all.map(|one| one.digest));
        }
        let path = directory.join(digest.hex());
        fs::write(&path, &bytes).map_err(Error::file("write", &path))?;
    }
    layout::write_index(folder.path(), whole)?;
    let misread = |error| match error {
        // It is no layout that a person knows.
        Error::Damaged { what, why } if what == folder.path().display().to_string() => Error::damaged(root, why),
        other => other,
    };
    let held: Vec<Platform> =
        read_whole(folder.path()).map_err(misread)?.images.iter().map(|image| image.config.platform()).collect();
    if !held.iter().any(|one| one.matches(platform)) {
        let held: Vec<String> = held.iter().map(Platform::text).collect();
        return Err(Error::bad_with(
            format!("image {root} is for {}, not for the engine's {}", held.join(" and "), platform.text()),
            "sealift restore RELEASE --to DIR",
        ));
    }
    let image = read_documents(folder.path(), Some(platform)).map_err(misread)?;
    let read = |digest: &Digest| {
        let path = directory.join(digest.hex());
        fs::read(&path).map_err(Error::file("read", &path))
    };
    Ok(Plan { manifest: read(&image.manifest_descriptor.digest)?, config: read(&image.manifest.config.digest)?, image })
}

/// What an engine is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Everything as it was sealed: for an engine that keeps manifests and compressed layers.
    Sealed,
    /// Layers unpacked here: an engine that keeps neither is spared that, and does it slower.
    Plain,
}

/// Why an archive broke off.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The size of a layer was guessed wrong.
    Misjudged,
    /// Nobody reads it any more.
    Unread,
    Failed(Error),
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misjudged => formatter.write_str("begun anew"),
            Self::Unread => formatter.write_str("nobody reads it"),
            Self::Failed(error) => error.fmt(formatter),
        }
    }
}

/// An archive that is being sent.
pub(crate) struct Sending(Writing<Broken>);

impl Sending {
    /// How the making ended, once the engine has answered.
    pub(crate) async fn end(self) -> Result<(), Broken> {
        match self.0.end().await {
            Ok(outcome) => outcome,
            Err(error) => crate::error::joined::<()>("write the archive in", Err(error)).map_err(Broken::Failed),
        }
    }
}

/// Sizes of the layers before compression, as far as they were found by unpacking them.
pub(crate) type Sizes = BTreeMap<usize, u64>;

/// The archive of an image, without a name. `moved` counts the pieces that the engine took.
pub(crate) fn send(
    blobs: &Arc<dyn Blobs>,
    plan: &Arc<Plan>,
    form: Form,
    sizes: Sizes,
    task: Arc<Task>,
    moved: Arc<AtomicU64>,
) -> (impl Stream<Item = io::Result<Bytes>> + Send + 'static, Sending) {
    let (blobs, plan, runtime) = (blobs.clone(), plan.clone(), tokio::runtime::Handle::current());
    let (body, writing) = body::written(moved, move |channel| {
        let (allowed, out) = (Limits::default().bytes, tar::Builder::new(channel));
        Making { blobs, plan: &plan, form, sizes, allowed, runtime, task: &task, out }.all()
    });
    (body, Sending(writing))
}

/// A blob that arrives, hashed and counted. Reading goes on behind the digest's back while the archive is written.
struct Arriving<'a> {
    pieces: mpsc::Receiver<Result<Bytes>>,
    piece: Bytes,
    hash: Sha256,
    count: u64,
    failed: Option<Error>,
    task: Option<&'a Task>,
}

impl BufRead for Arriving<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                None => break,
                Some(Ok(piece)) => {
                    self.hash.update(&piece);
                    self.count += piece.len() as u64;
                    if let Some(task) = self.task {
                        task.advance(piece.len() as u64);
                    }
                    self.piece = piece;
                }
                Some(Err(error)) => {
                    let said = io::Error::other(error.to_string());
                    self.failed = Some(error);
                    return Err(said);
                }
            }
        }
        Ok(&self.piece)
    }
    fn consume(&mut self, amount: usize) {
        self.piece = self.piece.split_off(amount);
    }
}

impl Read for Arriving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let read = there.len().min(buffer.len());
        buffer[..read].copy_from_slice(&there[..read]);
        self.consume(read);
        Ok(read)
    }
}

impl Arriving<'_> {
    /// Whether it was what its descriptor says, to its last byte. `reading` is how its use ended, and counts only if it was.
    fn end(mut self, blob: &Descriptor) -> Result<()> {
        while self.failed.is_none() && self.count <= blob.size {
            match self.fill_buf() {
                Ok([]) | Err(_) => break,
                Ok(there) => {
                    let there = there.len();
                    self.consume(there);
                }
            }
        }
        if let Some(error) = self.failed {
            return Err(error);
        }
        let (digest, count) = (Digest::from_bytes(self.hash.finalize().into()), self.count);
        if digest != blob.digest || count != blob.size {
            return Err(crate::layer::wrong_bytes(blob, digest, count));
        }
        Ok(())
    }
}

/// An archive in the making.
struct Making<'a> {
    blobs: Arc<dyn Blobs>,
    plan: &'a Plan,
    form: Form,
    sizes: Sizes,
    /// What is left of [`Limits::bytes`].
    allowed: u64,
    runtime: tokio::runtime::Handle,
    task: &'a Task,
    out: tar::Builder<&'a mut Channel>,
}

impl Making<'_> {
    fn all(&mut self) -> Result<(), Broken> {
        let plan = self.plan;
        let layers = &plan.image.manifest.layers;
        let mut coming = layers.first().map(|first| self.fetch(first));
        let (mut names, mut sent) = (Vec::new(), BTreeSet::new());
        for (index, layer) in layers.iter().enumerate() {
            let next = layers.get(index + 1).map(|next| self.fetch(next));
            let pieces = std::mem::replace(&mut coming, next);
            let identity = plan.image.config.rootfs.diff_ids[index];
            let plain = self.form == Form::Plain;
            let named = if plain { identity } else { layer.digest };
            let name = crate::archive::blob_name(&named);
            names.push(name.clone());
            if let (true, Some(pieces)) = (sent.insert(named), pieces) {
                let packing = Packing::of(layer).map_err(Broken::Failed)?;
                let packing = if plain { packing } else { Packing::Plain };
                self.layer(index, layer, packing, &name, pieces)?;
            }
        }
        let config = crate::archive::blob_name(&plan.image.manifest.config.digest);
        self.bytes(&config, &plan.config)?;
        if self.form == Form::Plain {
            let manifest = crate::archive::docker_manifest(config, None, names).map_err(Broken::Failed)?;
            self.bytes("manifest.json", &manifest)?;
        } else {
            let root = crate::archive::with_platform(&plan.image);
            let index = to_json(&crate::archive::index_of(root)).map_err(Broken::Failed)?;
            let manifest = crate::archive::blob_name(&plan.image.manifest_descriptor.digest);
            self.bytes(&manifest, &plan.manifest)?;
            self.bytes("index.json", &index)?;
            self.bytes("oci-layout", crate::archive::OCI_LAYOUT)?;
        }
        self.out.finish().and_then(|()| self.out.get_mut().flush()).map_err(|_| Broken::Unread)
    }

    /// Begins to fetch a blob.
    fn fetch(&self, blob: &Descriptor) -> mpsc::Receiver<Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let opening = self.blobs.open(&blob.digest);
        self.runtime.spawn(async move {
            let mut stream = match opening.await {
                Ok(stream) => stream,
                Err(error) => return drop(sender.send(Err(error)).await),
            };
            while let Some(piece) = stream.next().await {
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    fn arriving<'b>(pieces: mpsc::Receiver<Result<Bytes>>, task: Option<&'b Task>) -> Arriving<'b> {
        Arriving { pieces, piece: Bytes::new(), hash: Sha256::new(), count: 0, failed: None, task }
    }

    fn layer(
        &mut self,
        index: usize,
        layer: &Descriptor,
        packing: Packing,
        name: &str,
        pieces: mpsc::Receiver<Result<Bytes>>,
    ) -> Result<(), Broken> {
        let size = self.size(index, layer, packing)?;
        if self.form == Form::Plain && size > most(layer, &Limits::default(), self.allowed) {
            if !self.sizes.contains_key(&index) {
                return Err(Broken::Misjudged); // only a guess: it is measured first
            }
            return Err(Broken::Failed(Error::Hostile {
                layer: layer.digest,
                entry: "(all)".to_owned(),
                why: format!("it unpacks to {size} bytes, from {} compressed ones", layer.size),
            }));
        }
        if self.form == Form::Plain {
            self.allowed -= size; // it is not more, by the bound above
        }
        let mut packed = Self::arriving(pieces, Some(self.task));
        let mut header = crate::archive::header(size, 0o644, tar::EntryType::Regular);
        header.set_path(name).map_err(|_| Broken::Unread)?;
        header.set_cksum();
        let copied = unpacked(packing, &mut packed).map(|mut plain| copy(&header, &mut self.out, &mut plain, size));
        let copied = copied.unwrap_or_else(|error| Copied::Unreadable(error.to_string()));
        // A wrong blob is told as that, not as what its bytes happen to be.
        if !matches!(copied, Copied::Unread) {
            packed.end(layer).map_err(Broken::Failed)?;
        }
        match copied {
            Copied::Whole => Ok(()),
            Copied::Unread => Err(Broken::Unread),
            Copied::Other => Err(Broken::Misjudged),
            Copied::Unreadable(why) => {
                Err(Broken::Failed(Error::damaged(layer.digest, format!("it cannot be read: {why}"))))
            }
        }
    }

    /// How long a layer is, unpacked: as was found, or as it says.
    fn size(&self, index: usize, layer: &Descriptor, packing: Packing) -> Result<u64, Broken> {
        match (packing, self.sizes.get(&index)) {
            (Packing::Plain, _) => Ok(layer.size),
            (_, Some(size)) => Ok(*size),
            (Packing::Gzip, None) if layer.size >= 4 => {
                let end = self.runtime.block_on(self.blobs.end(&layer.digest, layer.size)).map_err(Broken::Failed)?;
                let end: [u8; 4] = end.as_ref().try_into().map_err(|_| Broken::Misjudged)?;
                Ok(u64::from(u32::from_le_bytes(end)))
            }
            (Packing::Gzip | Packing::Zstd, None) => Err(Broken::Misjudged),
        }
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), Broken> {
        crate::archive::append_bytes(&mut self.out, name, bytes).map_err(|_| Broken::Unread)
    }
}

enum Copied {
    Whole,
    /// It has another size.
    Other,
    Unread,
    Unreadable(String),
}

/// One entry of the archive; never more than its size.
fn copy(header: &tar::Header, out: &mut tar::Builder<&mut Channel>, from: &mut dyn Read, size: u64) -> Copied {
    let out = out.get_mut();
    if out.write_all(header.as_bytes()).is_err() {
        return Copied::Unread;
    }
    let (mut buffer, mut left) = (vec![0; PIECE], size);
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => return Copied::Unreadable(error.to_string()),
        };
        match left.checked_sub(read as u64) {
            Some(fewer) => left = fewer,
            None => return Copied::Other,
        }
        if out.write_all(&buffer[..read]).is_err() {
            return Copied::Unread;
        }
    }
    if left > 0 {
        return Copied::Other;
    }
    let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
    if out.write_all(&[0; 512][..padding]).is_err() { Copied::Unread } else { Copied::Whole }
}

/// Sizes of all layers before compression, found by unpacking them.
pub(crate) async fn measure(blobs: &Arc<dyn Blobs>, plan: &Arc<Plan>) -> Result<Sizes> {
    let (blobs, plan, runtime) = (blobs.clone(), plan.clone(), tokio::runtime::Handle::current());
    let measuring = tokio::task::spawn_blocking(move || -> Result<Sizes> {
        let limits = Limits::default();
        let (mut sizes, mut allowed) = (Sizes::new(), limits.bytes);
        for (index, layer) in plan.image.manifest.layers.iter().enumerate() {
            let (sender, pieces) = mpsc::channel(PIECES);
            let mut stream = runtime.block_on(blobs.open(&layer.digest))?;
            runtime.spawn(async move {
                while let Some(piece) = stream.next().await {
                    if sender.send(piece).await.is_err() {
                        return;
                    }
                }
            });
            let mut packed = Making::arriving(pieces, None);
            let counted = Packing::of(layer).and_then(|packing| {
                let failed = |error| read_failed(layer.digest, error);
                let plain = unpacked(packing, &mut packed).map_err(failed)?;
                io::copy(&mut Capped::new(plain, layer, &limits, allowed), &mut io::sink()).map_err(failed)
            });
            packed.end(layer)?;
            let size = counted?;
            allowed -= size; // no more was let through
            sizes.insert(index, size);
        }
        Ok(sizes)
    });
    crate::error::joined("measure the layers of", measuring.await)?
}

/// The blobs of a layout on this disk.
#[derive(Debug, Clone)]
pub struct LayoutBlobs(PathBuf);

impl LayoutBlobs {
    /// Those of this layout.
    pub fn new(layout: &Path) -> Self {
        Self(blobs_dir(layout))
    }
}

impl Blobs for LayoutBlobs {
    fn open(&self, digest: &Digest) -> BoxFuture<'static, Result<BlobStream>> {
        let path = self.0.join(digest.hex());
        Box::pin(async move {
            let file = tokio::fs::File::open(&path).await.map_err(Error::file("open", &path))?;
            let pieces = tokio_util::io::ReaderStream::with_capacity(file, PIECE);
            Ok(pieces.map(move |piece| piece.map_err(Error::file("read", &path))).boxed())
        })
    }

    fn end(&self, digest: &Digest, size: u64) -> BoxFuture<'static, Result<Bytes>> {
        use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
        let path = self.0.join(digest.hex());
        Box::pin(async move {
            let mut file = tokio::fs::File::open(&path).await.map_err(Error::file("open", &path))?;
            let mut end = Vec::new();
            file.seek(io::SeekFrom::Start(size.saturating_sub(4))).await.map_err(Error::file("read", &path))?;
            file.take(4).read_to_end(&mut end).await.map_err(Error::file("read", &path))?;
            Ok(end.into())
        })
    }
}
