//! Multipart uploads: a directory each, one record a part, assembled into one record when they are completed.

use super::{
    directory::{Directory, Preconditions, Temporary, sync_directory},
    failed,
    receive::{Received, by_name, hasher},
    record::{self, Opened, Record},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::{Digest as _, Md5};
use s3s::{S3Error, S3ErrorCode, S3Result, dto::CompletedPart, s3_error};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::PathBuf,
};

/// Every part but the last must have this size, as in S3.
const SMALLEST: u64 = 5 * 1024 * 1024;

/// `meta.json` of an upload.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Upload {
    #[serde(default)]
    pub(super) id: String,
    pub(super) bucket: String,
    pub(super) key: String,
    /// The description that the object will have; its time is that of the beginning.
    pub(super) record: Record,
    /// The checksum algorithm that was asked for.
    pub(super) algorithm: Option<String>,
}

/// One part, as listings show it.
pub(super) struct PartInfo {
    pub(super) number: i32,
    pub(super) size: u64,
    pub(super) record: Record,
}

fn path_of(directory: &Directory, id: &str) -> S3Result<PathBuf> {
    // The id becomes a path: nothing but our own ids may.
    let ours = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if ours { Ok(directory.uploads().join(id)) } else { Err(s3_error!(NoSuchUpload)) }
}

fn part_name(number: i32) -> String {
    format!("{number:05}@")
}

/// Begins an upload; its id.
pub(super) fn begin(directory: &Directory, mut upload: Upload) -> S3Result<String> {
    directory.bucket_exists(&upload.bucket)?;
    upload.record.touch();
    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut new = directory.temporary()?;
    let json = serde_json::to_vec(&upload).map_err(S3Error::internal_error)?;
    new.file.write_all(&json).map_err(failed("write", &new.path))?;
    let path = path_of(directory, &id)?;
    fs::create_dir(&path).map_err(failed("create", &path))?;
    fs::rename(&new.path, path.join("meta.json")).map_err(failed("write", &path))?;
    Ok(id)
}

/// The upload of this id, when it is one of this key.
pub(super) fn find(directory: &Directory, id: &str, bucket: &str, key: &str) -> S3Result<Upload> {
    match read(directory, id)? {
        Some(upload) if upload.bucket == bucket && upload.key == key => Ok(upload),
        _ => Err(s3_error!(NoSuchUpload)),
    }
}

fn read(directory: &Directory, id: &str) -> S3Result<Option<Upload>> {
    let path = path_of(directory, id)?.join("meta.json");
    match fs::read(&path) {
        Ok(json) => {
            let mut upload: Upload = serde_json::from_slice(&json).map_err(S3Error::internal_error)?;
            id.clone_into(&mut upload.id);
            Ok(Some(upload))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// All unfinished uploads of a bucket, by key.
pub(super) fn list(directory: &Directory, bucket: &str, prefix: &str) -> S3Result<Vec<Upload>> {
    directory.bucket_exists(bucket)?;
    let path = directory.uploads();
    let mut uploads = Vec::new();
    for entry in fs::read_dir(&path).map_err(failed("list", &path))?.flatten() {
        let name = entry.file_name();
        if let Some(upload) = name.to_str().and_then(|id| read(directory, id).transpose()).transpose()?
            && upload.bucket == bucket
            && upload.key.starts_with(prefix)
        {
            uploads.push(upload);
        }
    }
    uploads.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
    Ok(uploads)
}

/// Keeps a received part.
pub(super) fn keep(directory: &Directory, id: &str, number: i32, mut part: Received) -> S3Result<Record> {
    let target = path_of(directory, id)?.join(part_name(number));
    match fs::rename(&part.temporary.path, &target) {
        Ok(()) => part.temporary.placed(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(s3_error!(NoSuchUpload)),
        Err(error) => return Err(failed("write", &target)(error)),
    }
    Ok(part.record)
}

/// The parts that have arrived, by number.
pub(super) fn parts(directory: &Directory, id: &str) -> S3Result<Vec<PartInfo>> {
    let path = path_of(directory, id)?;
    let mut parts = Vec::new();
    for entry in fs::read_dir(&path).map_err(failed("list", &path))?.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix('@')).and_then(|number| number.parse().ok());
        if let Some(number) = number
            && let Some(Opened { record, size, .. }) = record::open(&entry.path())?
        {
            parts.push(PartInfo { number, size, record });
        }
    }
    parts.sort_by_key(|part| part.number);
    Ok(parts)
}

/// Removes an upload.
pub(super) fn abort(directory: &Directory, id: &str) -> S3Result<()> {
    let path = path_of(directory, id)?;
    match fs::remove_dir_all(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(s3_error!(NoSuchUpload)),
        // A part that arrives in this moment; the client may ask again.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Err(s3_error!(OperationAborted)),
        Err(error) => Err(failed("remove", &path)(error)),
    }
}

/// Assembles the listed parts into the object. Nothing of the old object changes before the last check has passed.
pub(super) fn complete(
    directory: &Directory,
    upload: Upload,
    listed: &[CompletedPart],
    claimed: &BTreeMap<String, String>,
    size: Option<i64>,
    conditions: &Preconditions,
) -> S3Result<Record> {
    let parts = chosen(directory, &upload, listed)?;
    let total: u64 = parts.iter().map(|part| part.size).sum();
    if size.is_some_and(|size| u64::try_from(size) != Ok(total)) {
        return Err(s3_error!(InvalidRequest, "the parts do not have the size that was announced"));
    }
    let mut record = upload.record;
    record.etag = composite_etag(&parts)?;
    record.checksums = composite_sums(&parts);
    record.touch();
    let new = directory.temporary()?;
    let mut at = 0;
    for part in &parts {
        append(part, &new, &mut at)?;
    }
    whole_sums_hold(&new, total, claimed, &mut record)?;
    let tail = record.tail(total);
    new.file.write_all_at(&tail, total).map_err(failed("write", &new.path))?;
    new.file.sync_data().map_err(failed("fsync", &new.path))?;
    directory.commit(&upload.bucket, &upload.key, new, conditions)?;
    let path = path_of(directory, &upload.id)?;
    // The object is committed; a leftover of the upload is cleared later.
    let _ = fs::remove_dir_all(&path);
    sync_directory(&directory.uploads())?;
    Ok(record)
}

/// The parts that the client lists, opened and compared with what it says of them.
fn chosen(directory: &Directory, upload: &Upload, listed: &[CompletedPart]) -> S3Result<Vec<Opened>> {
    if listed.is_empty() {
        return Err(s3_error!(MalformedXML, "a multipart upload has at least one part"));
    }
    let path = path_of(directory, &upload.id)?;
    let mut parts: Vec<Opened> = Vec::with_capacity(listed.len());
    let mut last = 0;
    for wanted in listed {
        let number = wanted.part_number.unwrap_or(0);
        if number <= last {
            return Err(s3_error!(InvalidPartOrder));
        }
        last = number;
        if parts.last().is_some_and(|part| part.size < SMALLEST) {
            return Err(s3_error!(EntityTooSmall));
        }
        let part = record::open(&path.join(part_name(number)))?.ok_or_else(|| s3_error!(InvalidPart))?;
        let same_etag = wanted.e_tag.as_ref().is_none_or(|etag| etag.value() == part.record.etag);
        let same_sum = |name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| part.record.checksums.get(name).is_none_or(|sum| sum == wanted))
        };
        let same = same_etag
            && same_sum("crc32", &wanted.checksum_crc32)
            && same_sum("crc32c", &wanted.checksum_crc32c)
            && same_sum("crc64nvme", &wanted.checksum_crc64nvme)
            && same_sum("sha1", &wanted.checksum_sha1)
            && same_sum("sha256", &wanted.checksum_sha256);
        if !same {
            return Err(s3_error!(InvalidPart));
        }
        parts.push(part);
    }
    Ok(parts)
}

fn composite_etag(parts: &[Opened]) -> S3Result<String> {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(hex::decode(&part.record.etag).map_err(S3Error::internal_error)?);
    }
    Ok(format!("{}-{}", hex::encode(md5.finalize()), parts.len()))
}

/// Composite checksums, for those algorithms that every part has. CRC64NVME has none.
fn composite_sums(parts: &[Opened]) -> BTreeMap<String, String> {
    let mut sums = BTreeMap::new();
    for name in ["crc32", "crc32c", "sha1", "sha256"] {
        let raw: Option<Vec<Vec<u8>>> = parts
            .iter()
            .map(|part| part.record.checksums.get(name).and_then(|sum| STANDARD.decode(sum).ok()))
            .collect();
        if let Some(raw) = raw {
            let mut hasher = hasher(std::iter::once(name));
            hasher.update(&raw.concat());
            sums.extend(
                by_name(hasher.finalize()).into_iter().map(|(name, sum)| (name, format!("{sum}-{}", parts.len()))),
            );
        }
    }
    sums
}

/// Copies a part's body to the end of the new record, in the kernel where the file system can.
fn append(part: &Opened, new: &Temporary, at: &mut u64) -> S3Result<()> {
    let mut from = 0;
    while from < part.size {
        let wanted = usize::try_from(part.size - from).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(&part.file, Some(&mut from), &new.file, Some(at), wanted) {
            Ok(0) => return Err(super::damaged(&new.path, "a part became shorter")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {}
            Err(
                rustix::io::Errno::XDEV
                | rustix::io::Errno::NOSYS
                | rustix::io::Errno::INVAL
                | rustix::io::Errno::OPNOTSUPP,
            ) => {
                let mut buffer = vec![0; wanted.min(1 << 20)];
                let got = part.file.read_at(&mut buffer, from).map_err(failed("read", &new.path))?;
                new.file.write_all_at(&buffer[..got], *at).map_err(failed("write", &new.path))?;
                if got == 0 {
                    return Err(super::damaged(&new.path, "a part became shorter"));
                }
                from += got as u64;
                *at += got as u64;
            }
            Err(error) => return Err(failed("write", &new.path)(error.into())),
        }
    }
    Ok(())
}

/// Compares checksums that the client gave for the whole object; composite ones end in `-<parts>`.
fn whole_sums_hold(
    new: &Temporary,
    total: u64,
    claimed: &BTreeMap<String, String>,
    record: &mut Record,
) -> S3Result<()> {
    let refused = |name: &str| {
        let what = format!("The {} you specified did not match the parts.", name.to_uppercase());
        S3Error::with_message(S3ErrorCode::BadDigest, what)
    };
    let mut whole = Vec::new();
    for (name, sum) in claimed {
        if !sum.contains('-') {
            whole.push(name.as_str());
        } else if record.checksums.get(name).is_some_and(|ours| ours != sum) {
            return Err(refused(name));
        }
    }
    if whole.is_empty() {
        return Ok(());
    }
    let mut hasher = hasher(whole.iter().copied());
    let mut buffer = vec![0; 1 << 20];
    let mut reader = (&new.file).take(total);
    std::io::Seek::rewind(&mut &new.file).map_err(failed("read", &new.path))?;
    loop {
        let got = reader.read(&mut buffer).map_err(failed("read", &new.path))?;
        if got == 0 {
            break;
        }
        hasher.update(&buffer[..got]);
    }
    for (name, sum) in by_name(hasher.finalize()) {
        if claimed.get(&name) != Some(&sum) {
            return Err(refused(&name));
        }
        record.checksums.insert(name, sum);
    }
    Ok(())
}
