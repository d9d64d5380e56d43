//! A tar reader that trusts nothing: headers are checked, extension records are small, and what two readers could
//! understand differently is refused.
//!
//! It differs from the `tar` crate where a layer may come from anywhere: long names are read into memory only up to
//! [`MAX_NAME`] bytes, a PAX `size` that contradicts its header is an error (the *size smuggling* by which a second archive hides
//! inside a file for one of two readers), and sparse files and unknown entry types are errors instead of guesses. So are extension
//! records that readers combine differently (two PAX headers before one entry, a global one in between, an empty value, which
//! means "as in the header" to some), and anything but zeros after the end mark.
//! Formats: POSIX.1-2001 pax, ustar, GNU long names.

use std::io::{self, Read};

const BLOCK: usize = 512;
/// The longest name or link target, in bytes: PATH_MAX.
pub(crate) const MAX_NAME: u64 = 4096;
/// The most bytes of PAX records for one entry.
const MAX_PAX: u64 = 1 << 20;
/// The least size that the header's eleven octal digits cannot hold.
const BEYOND_OCTAL: u64 = 1 << 33;
/// No file is larger; more could not be counted together with its padding.
const LARGEST: u64 = i64::MAX as u64;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry's header.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// As written, without trailing slashes.
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) mtime: u64,
    pub(crate) size: u64,
}

/// Why reading stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The bytes could not be had.
    Io(io::Error),
    /// The bytes are no tar file, or one that is not accepted.
    Refused { entry: String, why: String },
}

/// Reads entry after entry.
pub(crate) struct TarReader<R> {
    inner: R,
    /// Bytes of the current entry that were not read.
    left: u64,
    /// Bytes after them up to the next block.
    padding: u64,
    current: String,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    /// Whether there was a PAX header, of however many records.
    pax: bool,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        !self.pax && self.path.is_none() && self.link.is_none()
    }
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0, current: "(start)".to_owned() }
    }

    pub(crate) fn refuse<T>(&self, why: impl Into<String>) -> Result<T, Stop> {
        Err(Stop::Refused { entry: self.current.clone(), why: why.into() })
    }

    /// The next entry; `None` after the last. What was not read of the one before is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, Stop> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                if !extensions.is_empty() {
                    return self.refuse("the archive ends between an extension record and its entry");
                }
                return Ok(None);
            };
            let size = self.number(&header[124..136], "size")?;
            match header[156] {
                b'L' => {
                    let name = self.small(size, MAX_NAME + 1)?;
                    self.set_once(&mut extensions.path, until_nul(&name).to_vec(), "path")?;
                }
                b'K' => {
                    let name = self.small(size, MAX_NAME + 1)?;
                    self.set_once(&mut extensions.link, until_nul(&name).to_vec(), "link")?;
                }
                b'x' => {
                    if std::mem::replace(&mut extensions.pax, true) {
                        return self.refuse("the entry after it has two PAX headers");
                    }
                    let records = self.small(size, MAX_PAX)?;
                    self.pax(&records, &mut extensions, false)?;
                }
                b'g' => {
                    if !extensions.is_empty() {
                        return self.refuse("a global PAX record stands between an extension record and its entry");
                    }
                    let records = self.small(size, MAX_PAX)?;
                    self.pax(&records, &mut extensions, true)?;
                }
                flag => return self.entry(&header, flag, size, extensions).map(Some),
            }
        }
    }

    /// Reads what is left of the current entry's content.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Stop> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        match self.inner.read(&mut buffer[..want]) {
            Ok(0) => self.refuse("the archive ends inside it"),
            Ok(n) => {
                self.left -= n as u64;
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(buffer),
            Err(error) => Err(Stop::Io(error)),
        }
    }

    /// Reads everything after the end mark, so that the whole stream is hashed. Only zeros may be there: a second archive
    /// would be seen by readers that go on, and by no other.
    pub(crate) fn drain(mut self) -> Result<R, Stop> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.inner.read(&mut buffer) {
                Ok(0) => return Ok(self.inner),
                Ok(read) if buffer[..read].iter().all(|byte| *byte == 0) => {}
                Ok(_) => return self.refuse("there is something after the end of the archive, which follows it"),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Io(error)),
            }
        }
    }

    fn entry(&mut self, header: &[u8; BLOCK], flag: u8, size: u64, extensions: Extensions) -> Result<Entry, Stop> {
        let mut path = extensions.path.unwrap_or_else(|| header_path(header));
        self.current = String::from_utf8_lossy(&path).into_owned();
        let link = extensions.link.unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        let size = match extensions.size {
            Some(pax) if pax == size || (pax >= BEYOND_OCTAL && size == 0) => pax,
            Some(pax) => return self.refuse(format!("its size is {size} in the header and {pax} in the PAX record")),
            None => size,
        };
        if size > LARGEST {
            return self.refuse(format!("its size, {size}, is larger than any file"));
        }
        let kind = match flag {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return self.refuse("it is a sparse file"),
            other => return self.refuse(format!("its type {:?} is unknown", char::from(other))),
        };
        if kind != Kind::File && size != 0 {
            return self.refuse(format!("it is no file and has {size} bytes of content"));
        }
        if path.contains(&0) || link.contains(&0) {
            return self.refuse("its name holds a NUL");
        }
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        (self.left, self.padding) = (size, padding(size));
        let mode = u32::try_from(self.number(&header[100..108], "mode")?).unwrap_or(u32::MAX) & 0o7777;
        let mtime = self.number(&header[136..148], "time").unwrap_or(0);
        Ok(Entry { path, link, kind, mode, mtime, size })
    }

    /// The next header block, or `None` at the end mark or the end of the stream between two entries.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, Stop> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return self.refuse("the archive ends inside the header after it"),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Io(error)),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let said = self.number(&block[148..156], "checksum")?;
        let sum = |i: usize, byte: &u8| if (148..156).contains(&i) { u64::from(b' ') } else { u64::from(*byte) };
        let computed: u64 = block.iter().enumerate().map(|(i, byte)| sum(i, byte)).sum();
        if said != computed {
            return self.refuse("the header after it has a wrong checksum");
        }
        Ok(Some(block))
    }

    fn skip_rest(&mut self) -> Result<(), Stop> {
        let skip = self.left + self.padding;
        let skipped = io::copy(&mut self.inner.by_ref().take(skip), &mut io::sink()).map_err(Stop::Io)?;
        if skipped < self.left {
            return self.refuse("the archive ends inside it");
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn small(&mut self, size: u64, most: u64) -> Result<Vec<u8>, Stop> {
        if size > most {
            return self.refuse(format!("the extension record after it has {size} bytes, more than {most}"));
        }
        (self.left, self.padding) = (size, padding(size));
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += self.read(&mut bytes[filled..])?;
        }
        Ok(bytes)
    }

    fn pax(&self, mut records: &[u8], extensions: &mut Extensions, global: bool) -> Result<(), Stop> {
        while !records.is_empty() {
            let malformed = || Stop::Refused {
                entry: self.current.clone(),
                why: "the PAX record after it is malformed".to_owned(),
            };
            let space = records.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length = std::str::from_utf8(&records[..space])
                .ok()
                .and_then(digits)
                .and_then(|length| usize::try_from(length).ok())
                .ok_or_else(malformed)?;
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &records[space + 1..length - 1];
            records = &records[length..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"comment" => {}
                _ if global => return self.refuse("a global PAX record sets attributes of every entry"),
                b"path" | b"linkpath" | b"size" if value.is_empty() => {
                    return self.refuse("the entry after it has an empty PAX record");
                }
                b"path" => self.set_once(&mut extensions.path, value.to_vec(), "path")?,
                b"linkpath" => self.set_once(&mut extensions.link, value.to_vec(), "link")?,
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(digits).ok_or_else(malformed)?;
                    if extensions.size.replace(size).is_some() {
                        return self.refuse("the entry after it has two sizes");
                    }
                }
                key if key.starts_with(b"GNU.sparse.") => return self.refuse("the entry after it is a sparse file"),
                // Times, owners and extended attributes: not kept.
                _ => {}
            }
        }
        Ok(())
    }

    fn set_once(&self, slot: &mut Option<Vec<u8>>, value: Vec<u8>, what: &str) -> Result<(), Stop> {
        if value.len() as u64 > MAX_NAME {
            return self.refuse(format!("the {what} of the entry after it is longer than {MAX_NAME} bytes"));
        }
        if slot.replace(value).is_some() {
            return self.refuse(format!("the entry after it has two {what}s"));
        }
        Ok(())
    }

    /// Octal digits, or GNU's base 256 when the first bit is set.
    fn number(&self, field: &[u8], what: &str) -> Result<u64, Stop> {
        if field[0] & 0x80 != 0 {
            let (high, low) = field.split_at(field.len() - 8);
            let zero = high.iter().enumerate().all(|(i, byte)| if i == 0 { *byte == 0x80 } else { *byte == 0 });
            // In the eight-byte fields the mark is in the number itself.
            let negative_or_huge = if high.is_empty() { low[0] != 0x80 } else { !zero || low[0] & 0x80 != 0 };
            if negative_or_huge {
                return self.refuse(format!("the {what} in the header after it is out of range"));
            }
            let low = low.iter().enumerate().map(|(i, byte)| if i == 0 { byte & 0x7f } else { *byte });
            return Ok(low.fold(0, |sum, byte| sum << 8 | u64::from(byte)));
        }
        let text = until_nul(field);
        let text = std::str::from_utf8(text).map(|text| text.trim_matches(' ')).unwrap_or("?");
        match u64::from_str_radix(text, 8) {
            Ok(number) if !text.starts_with('+') => Ok(number),
            _ if text.is_empty() => Ok(0),
            _ => self.refuse(format!("the {what} in the header after it is no number")),
        }
    }
}

/// A decimal number without the sign that the standard library would read.
fn digits(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn header_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    // Only POSIX ustar has the prefix field; GNU has times there.
    if header[257..263] == *b"ustar\0" && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}
