//! Layers as streams: written deterministically, read within limits and hashed on the way.

use crate::{
    error::{Error, Result},
    gzip::{GzipWriter, Pool},
    spec::{DOCKER_LAYER, DOCKER_LAYER_ZSTD, Descriptor, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, is_foreign},
    tarread::Stop,
    unpack::Limits,
};
use domain::Digest;
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How much is read at once.
pub(crate) const BUFFER: usize = 128 * 1024;

/// A layer that was written into a layout.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
}

/// Hashes and counts what goes through.
pub(crate) struct Hashing<T> {
    inner: T,
    hash: Sha256,
    count: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new(), count: 0 }
    }

    pub(crate) fn finish(self) -> (T, Digest, u64) {
        (self.inner, Digest::from_bytes(self.hash.finalize().into()), self.count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.count += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.count += read as u64;
        Ok(read)
    }
}

/// A gzip blob that is being written beside its final name.
///
/// The same tar gives the same blob, on any number of threads ([`crate::gzip`]).
pub(crate) struct BlobWriter {
    stream: Hashing<GzipWriter<Hashing<BufWriter<tempfile::NamedTempFile>>>>,
}

impl BlobWriter {
    pub(crate) fn create(blobs: &Path) -> Result<Self> {
        let file = tempfile::NamedTempFile::new_in(blobs).map_err(Error::file("create a file in", blobs))?;
        let hashed = Hashing::new(BufWriter::with_capacity(BUFFER, file));
        Ok(Self { stream: Hashing::new(GzipWriter::new(hashed, Pool::shared())) })
    }

    /// Gives the blob its name, which is its digest.
    pub(crate) fn finish(self, blobs: &Path) -> Result<Written> {
        let (gzip, diff_id, _) = self.stream.finish();
        let hashed = gzip.finish().map_err(Error::file("write a layer in", blobs))?;
        let (buffered, digest, size) = hashed.finish();
        let file = buffered.into_inner().map_err(|e| e.into_error()).map_err(Error::file("write a layer in", blobs))?;
        persist(file, &blobs.join(digest.hex()))?;
        Ok(Written { digest, size, diff_id })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Writes the blob of a layer. `read` fills a buffer with what is next of its tar; its errors are returned as they are.
pub(crate) fn write_blob(blobs: &Path, mut read: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Written> {
    let mut blob = BlobWriter::create(blobs)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match read(&mut buffer)? {
            0 => return blob.finish(blobs),
            read => blob.write_all(&buffer[..read]).map_err(Error::file("write a layer in", blobs))?,
        }
    }
}

/// Renames a temporary file to its final name, readable by all as other tools write blobs.
pub(crate) fn persist(file: tempfile::NamedTempFile, to: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o644))
        .map_err(Error::file("set the mode of", to))?;
    file.persist(to).map_err(|error| error.error).map_err(Error::file("rename a blob to", to))?;
    Ok(())
}

/// A tar entry to be written; names are bytes, as they are on disk.
pub(crate) struct NewEntry<'a> {
    pub(crate) kind: tar::EntryType,
    pub(crate) path: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) mtime: u64,
    pub(crate) size: u64,
}

/// Appends an entry that belongs to 0:0.
pub(crate) fn append(
    archive: &mut tar::Builder<impl Write>,
    entry: &NewEntry<'_>,
    content: impl Read,
) -> io::Result<()> {
    append_owned(archive, entry, (0, 0), content)
}

/// Appends an entry, with GNU records for long names. (The `tar` crate's own way refuses long names that are not UTF-8.)
pub(crate) fn append_owned(
    archive: &mut tar::Builder<impl Write>,
    entry: &NewEntry<'_>,
    owner: (u32, u32),
    content: impl Read,
) -> io::Result<()> {
    for (name, kind) in [(entry.path, tar::EntryType::GNULongName), (entry.link, tar::EntryType::GNULongLink)] {
        if name.len() > 100 {
            let long = NewEntry {
                kind,
                path: b"././@LongLink",
                link: b"",
                mode: 0o644,
                mtime: 0,
                size: name.len() as u64 + 1,
            };
            archive.append(&header(&long, (0, 0)), name.chain(&[0][..]))?;
        }
    }
    archive.append(&header(entry, owner), content)
}

fn header(entry: &NewEntry<'_>, (user, group): (u32, u32)) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(entry.kind);
    header.set_mode(entry.mode);
    header.set_uid(u64::from(user));
    header.set_gid(u64::from(group));
    header.set_mtime(entry.mtime);
    header.set_size(entry.size);
    if let Some(gnu) = header.as_gnu_mut() {
        let (path, link) = (entry.path.len().min(100), entry.link.len().min(100));
        gnu.name[..path].copy_from_slice(&entry.path[..path]);
        gnu.linkname[..link].copy_from_slice(&entry.link[..link]);
    }
    header.set_cksum();
    header
}

/// To how many bytes a layer may unpack. `allowed` is what is left of [`Limits::bytes`].
pub(crate) fn most(descriptor: &Descriptor, limits: &Limits, allowed: u64) -> u64 {
    allowed.min(limits.ratio_from.max(descriptor.size.saturating_mul(limits.ratio)))
}

/// More came out of a layer than its limits allow.
#[derive(Debug, thiserror::Error)]
#[error("it unpacks to more than {limit} bytes, from {compressed} compressed ones")]
struct TooMuch {
    limit: u64,
    compressed: u64,
}

/// Ends with an error after so many bytes.
pub(crate) struct Capped<R> {
    inner: R,
    left: u64,
    limit: u64,
    compressed: u64,
}

impl<R> Capped<R> {
    pub(crate) fn new(inner: R, descriptor: &Descriptor, limits: &Limits, allowed: u64) -> Self {
        let limit = most(descriptor, limits, allowed);
        Self { inner, left: limit, limit, compressed: descriptor.size }
    }
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(TooMuch { limit: self.limit, compressed: self.compressed })),
        }
        Ok(read)
    }
}

/// The uncompressed bytes of a layer, hashed as they are read.
pub(crate) type LayerReader = Hashing<Box<dyn Read + Send>>;

/// How the bytes of a layer are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// How a layer is packed, by its media type. One that is not here but wherever its manifest says is refused.
    pub(crate) fn of(descriptor: &Descriptor) -> Result<Self> {
        if is_foreign(&descriptor.media_type) || !descriptor.urls.is_empty() {
            let from = descriptor.urls.first().map(|url| format!(", to be fetched from {url}")).unwrap_or_default();
            return Err(Error::Hostile {
                layer: descriptor.digest,
                entry: "(all)".to_owned(),
                why: format!(
                    "it is a foreign layer ({}{from}); only layers that come with the image are read",
                    descriptor.media_type
                ),
            });
        }
        match descriptor.media_type.as_str() {
            LAYER_TAR => Ok(Self::Plain),
            LAYER_GZIP | DOCKER_LAYER => Ok(Self::Gzip),
            LAYER_ZSTD | DOCKER_LAYER_ZSTD => Ok(Self::Zstd),
            other => Err(Error::damaged(
                descriptor.digest,
                format!("its media type {other:?} is no layer that is understood (tar, gzip, zstd)"),
            )),
        }
    }
}

/// Opens a layer of a layout. `allowed` is what is left of [`Limits::bytes`].
pub(crate) fn read_layer(blobs: &Path, descriptor: &Descriptor, limits: &Limits, allowed: u64) -> Result<LayerReader> {
    let path = blobs.join(descriptor.digest.hex());
    let packing = Packing::of(descriptor)?;
    let file = File::open(&path).map_err(Error::file("open layer", &path))?;
    let buffered = BufReader::with_capacity(BUFFER, file);
    let inner = unpacked(packing, buffered).map_err(|error| read_failed(descriptor.digest, error))?;
    Ok(Hashing::new(Box::new(Capped::new(inner, descriptor, limits, allowed))))
}

/// A zstd frame may ask for at most this much memory (128 MiB), as the `zstd` program allows by itself.
pub(crate) const ZSTD_WINDOW_LOG: u32 = 27;

/// What is packed in the bytes of a layer.
pub(crate) fn unpacked<'a>(
    packing: Packing,
    packed: impl BufRead + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match packing {
        Packing::Plain => Box::new(packed),
        Packing::Gzip => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(packed))),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        }
    })
}

/// Checks a layer in one pass: digest and size of the blob, and its identity before compression.
pub(crate) fn check_layer(blobs: &Path, descriptor: &Descriptor, diff_id: &Digest, limits: &Limits) -> Result<()> {
    let path = blobs.join(descriptor.digest.hex());
    let packing = Packing::of(descriptor)?;
    let mut packed = Hashing::new(File::open(&path).map_err(Error::file("open layer", &path))?);
    let failed = |error| read_failed(descriptor.digest, error);
    let buffered = BufReader::with_capacity(BUFFER, &mut packed);
    let outcome = unpacked(packing, buffered).and_then(|plain| {
        let mut reader = Hashing::new(Capped::new(plain, descriptor, limits, limits.bytes));
        io::copy(&mut reader, &mut io::sink()).map(|_| reader.finish().1)
    });
    // What the decompressor left is part of the blob, and a wrong blob is told as that, not as what its bytes happen to be.
    io::copy(&mut packed, &mut io::sink()).map_err(Error::file("read layer", &path))?;
    let (_, digest, size) = packed.finish();
    if digest != descriptor.digest || size != descriptor.size {
        return Err(wrong_bytes(descriptor, digest, size));
    }
    let identity = outcome.map_err(failed)?;
    if identity != *diff_id {
        return Err(Error::damaged(
            descriptor.digest,
            format!("the layer unpacks to {identity}, the configuration says {diff_id}"),
        ));
    }
    Ok(())
}

/// A blob that is not what its descriptor says.
pub(crate) fn wrong_bytes(descriptor: &Descriptor, digest: Digest, size: u64) -> Error {
    let why = format!("it has {size} bytes with digest {digest}, not {} bytes", descriptor.size);
    Error::damaged(descriptor.digest, why)
}

/// What a failed reading of a layer means.
pub(crate) fn stopped(layer: Digest, stop: Stop) -> Error {
    match stop {
        Stop::Refused { entry, why } => Error::Hostile { layer, entry, why },
        Stop::Io(error) => read_failed(layer, error),
    }
}

/// What a failed read of a layer's bytes means: a bomb, or damage.
pub(crate) fn read_failed(layer: Digest, error: io::Error) -> Error {
    if error.get_ref().is_some_and(|inner| inner.is::<TooMuch>()) {
        return Error::Hostile { layer, entry: "(all)".to_owned(), why: error.to_string() };
    }
    Error::damaged(layer, format!("it cannot be read: {error}"))
}

/// Hashes a file of the layout.
pub(crate) fn hash_file(path: &Path) -> Result<(Digest, u64)> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let mut hashing = Hashing::new(file);
    let mut buffer = vec![0; BUFFER];
    while hashing.read(&mut buffer).map_err(Error::file("read", path))? > 0 {}
    let (_, digest, size) = hashing.finish();
    Ok((digest, size))
}

/// Does `work` for every item on as many threads as there are processors. Results are in the order of the items.
pub(crate) fn in_parallel<T: Sync, U: Send>(items: &[T], work: impl Fn(&T) -> Result<U> + Sync) -> Result<Vec<U>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<U>)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let result = work(item);
                    if result.is_err() {
                        // The others stop after what they are at.
                        next.store(items.len(), Ordering::Relaxed);
                    }
                    results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
