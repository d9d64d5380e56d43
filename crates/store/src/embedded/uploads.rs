//! Multipart uploads: a directory each, one record a part, assembled into one record when they are completed.

use super::{
    answers::part_number,
    checksums::{self, Kind},
    directory::{Directory, Preconditions, Temporary, sync_directory},
    failed,
    receive::{Received, by_name, hasher},
    record::{self, Opened, Piece, Record},
};
use md5::{Digest as _, Md5};
use s3s::{S3Error, S3ErrorCode, S3Result, dto::CompletedPart, s3_error};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
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
    /// Whether the checksum of the object is one of its bytes, rather than of its parts' checksums.
    #[serde(default)]
    pub(super) full: bool,
}

impl Upload {
    /// The kind of checksum that the object will have.
    pub(super) fn kind(&self) -> Option<Kind> {
        self.algorithm.as_ref().map(|_| if self.full { Kind::Full } else { Kind::Composite })
    }

    /// Parts come with the checksum of the upload, or with none.
    pub(super) fn takes(&self, algorithm: Option<&str>) -> S3Result<()> {
        match (self.algorithm.as_deref(), algorithm) {
            (Some(expected), Some(actual)) if expected == actual => Ok(()),
            // A whole object's checksum can be made of those that we compute.
            (None, _) | (Some(_), None) if self.full || self.algorithm.is_none() => Ok(()),
            (expected, actual) => Err(s3_error!(
                InvalidRequest,
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                expected.map_or("null".to_owned(), str::to_uppercase),
                actual.map_or("null".to_owned(), str::to_uppercase)
            )),
        }
    }
}

/// Which uploads a listing is to show.
#[derive(Debug, Default)]
pub(super) struct UploadQuery {
    pub(super) prefix: String,
    pub(super) delimiter: Option<String>,
    /// Only those behind this key; of this key only those behind the id, if there is one.
    pub(super) after: Option<(String, Option<String>)>,
    pub(super) limit: usize,
}

/// One page of a listing of uploads.
#[derive(Debug, Default)]
pub(super) struct UploadPage {
    pub(super) uploads: Vec<Upload>,
    pub(super) prefixes: Vec<String>,
    /// The last key and id, when there are more.
    pub(super) next: Option<(String, String)>,
}

/// One part, as listings show it.
pub(super) struct PartInfo {
    pub(super) number: i32,
    pub(super) size: u64,
    pub(super) record: Record,
}

pub(super) fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn path_of(directory: &Directory, id: &str) -> S3Result<PathBuf> {
    // The id becomes a path: nothing but our own ids may.
    if is_id(id) { Ok(directory.uploads().join(id)) } else { Err(s3_error!(NoSuchUpload)) }
}

fn part_name(number: i32) -> String {
    format!("{number:05}@")
}

/// Begins an upload; its id.
pub(super) fn begin(directory: &Directory, mut upload: Upload) -> S3Result<String> {
    directory.bucket_exists(&upload.bucket)?;
    upload.record.touch();
    // Ids of one key are listed in the order in which their uploads began, as in S3.
    let random = uuid::Uuid::new_v4().simple().to_string();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let id = format!("{:016x}{}", now.as_nanos() & u128::from(u64::MAX), &random[16..]);
    let mut new = directory.temporary()?;
    let json = serde_json::to_vec(&upload).map_err(S3Error::internal_error)?;
    new.file.write_all(&json).map_err(failed("write", &new.path))?;
    new.sync()?;
    let (path, aside) = (path_of(directory, &id)?, directory.aside()?);
    fs::create_dir(&aside).map_err(failed("create", &aside))?;
    // It gets its place with everything that belongs to it, or not at all.
    fs::rename(&new.path, aside.join("meta.json")).map_err(failed("write", &aside))?;
    fs::rename(&aside, &path).map_err(failed("create", &path))?;
    Ok(id)
}

/// The upload of this id, when it is one of this key.
pub(super) fn find(directory: &Directory, id: &str, bucket: &str, key: &str) -> S3Result<Upload> {
    let found = if is_id(id) { read(directory, id)? } else { None };
    match found {
        Some(upload) if upload.bucket == bucket && upload.key == key => Ok(upload),
        _ => directory.bucket_exists(bucket).and(Err(s3_error!(NoSuchUpload))),
    }
}

fn read(directory: &Directory, id: &str) -> S3Result<Option<Upload>> {
    let path = path_of(directory, id)?.join("meta.json");
    match fs::read(&path) {
        // One whose description was torn is none, and is removed with the abandoned.
        Ok(json) => Ok(serde_json::from_slice(&json).ok().map(|upload| Upload { id: id.to_owned(), ..upload })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// Whether a directory of an upload has no description, or one that cannot be read. Doubt is no.
pub(super) fn is_leftover(path: &Path) -> bool {
    match fs::read(path.join("meta.json")) {
        Ok(json) => serde_json::from_slice::<Upload>(&json).is_err(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// All unfinished uploads of a bucket, by key and id.
fn all(directory: &Directory, bucket: &str) -> S3Result<Vec<Upload>> {
    let path = directory.uploads();
    let mut uploads = Vec::new();
    for entry in fs::read_dir(&path).map_err(failed("list", &path))?.flatten() {
        let name = entry.file_name();
        let id = name.to_str().filter(|id| is_id(id));
        if let Some(upload) = id.and_then(|id| read(directory, id).transpose()).transpose()?
            && upload.bucket == bucket
        {
            uploads.push(upload);
        }
    }
    uploads.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
    Ok(uploads)
}

/// A page of the unfinished uploads of a bucket.
pub(super) fn list(directory: &Directory, bucket: &str, query: &UploadQuery) -> S3Result<UploadPage> {
    directory.bucket_exists(bucket)?;
    let mut page = UploadPage::default();
    let mut last = (String::new(), String::new());
    let delimiter = query.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
    for upload in all(directory, bucket)? {
        let Some(rest) = upload.key.strip_prefix(&query.prefix) else { continue };
        if let Some((key, id)) = &query.after {
            let within = delimiter.is_some_and(|delimiter| key.ends_with(delimiter) && upload.key.starts_with(key));
            let before = upload.key < *key || (upload.key == *key && id.as_ref().is_none_or(|id| upload.id <= *id));
            if within || before {
                continue;
            }
        }
        let common = delimiter.and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len() + query.prefix.len()));
        let common = common.map(|end| upload.key[..end].to_owned());
        if common.is_some() && page.prefixes.last() == common.as_ref() {
            continue;
        }
        if page.uploads.len() + page.prefixes.len() == query.limit {
            page.next = (query.limit > 0).then_some(last);
            break;
        }
        match common {
            Some(prefix) => {
                last = (prefix.clone(), upload.id);
                page.prefixes.push(prefix);
            }
            None => {
                last = (upload.key.clone(), upload.id.clone());
                page.uploads.push(upload);
            }
        }
    }
    Ok(page)
}

/// Removes the uploads of a bucket that is gone, so that a later one of its name does not show them.
pub(super) fn forget(directory: &Directory, bucket: &str) -> S3Result<()> {
    for upload in all(directory, bucket)? {
        match abort(directory, &upload.id) {
            Err(error) if *error.code() == S3ErrorCode::NoSuchUpload => {}
            result => result?,
        }
    }
    Ok(())
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
    if remove(directory, id)? { Ok(()) } else { Err(s3_error!(NoSuchUpload)) }
}

/// Removes the directory of an upload in one step, so that no kill leaves an upload without its parts. False when it is gone.
fn remove(directory: &Directory, id: &str) -> S3Result<bool> {
    let (path, aside) = (path_of(directory, id)?, directory.aside()?);
    match fs::rename(&path, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("remove", &path)(error)),
    }
    // What cannot be removed now is removed with the session.
    let _ = fs::remove_dir_all(&aside);
    sync_directory(&directory.uploads())?;
    Ok(true)
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
    let kind = upload.kind();
    let mut record = upload.record;
    record.etag = composite_etag(parts.iter().map(|part| part.record.etag.as_str()))?;
    if let Some((algorithm, kind)) = upload.algorithm.as_deref().zip(kind) {
        let sum = checksums::of_parts(algorithm, kind, &parts);
        record.checksums = sum.into_iter().map(|sum| (algorithm.to_owned(), sum)).collect();
    }
    record.upload = Some(upload.id.clone());
    let claims = still_claimed(&record, claimed)?;
    record.parts = pieces(&parts, upload.algorithm.as_deref());
    record.touch();
    let new = directory.temporary()?;
    let mut at = 0;
    let path = path_of(directory, &upload.id)?;
    for part in &parts {
        append(&path, part, &new, &mut at)?;
    }
    whole_sums_hold(&new, total, &claims, &mut record)?;
    let tail = record.tail(total);
    new.file.write_all_at(&tail, total).map_err(failed("write", &new.path))?;
    new.sync()?;
    directory.commit(&upload.bucket, &upload.key, new, conditions)?;
    // The object is committed: an upload that stays is one that its client, or time, aborts.
    let _ = remove(directory, &upload.id);
    Ok(record)
}

/// The parts that the client lists, compared with what it says of them. None stays open: there may be ten thousand.
fn chosen(directory: &Directory, upload: &Upload, listed: &[CompletedPart]) -> S3Result<Vec<PartInfo>> {
    if listed.is_empty() {
        return Err(s3_error!(MalformedXML));
    }
    let path = path_of(directory, &upload.id)?;
    let mut parts: Vec<PartInfo> = Vec::with_capacity(listed.len());
    let mut last = 0;
    for wanted in listed {
        let number = part_number(wanted.part_number.unwrap_or(0))?;
        if number <= last {
            return Err(s3_error!(InvalidPartOrder));
        }
        last = number;
        if parts.last().is_some_and(|part| part.size < SMALLEST) {
            return Err(s3_error!(EntityTooSmall));
        }
        let part = open_part(&path, number)?;
        let Some(etag) = &wanted.e_tag else {
            return Err(s3_error!(MalformedXML));
        };
        let sum = sum_of(wanted)?;
        let ours = &part.record.checksums;
        match sum {
            // Nothing is known to be right that cannot be compared.
            Some((name, _)) if !ours.contains_key(name) => return Err(checksums::bad_digest(name)),
            Some((name, sum)) if ours.get(name) != Some(sum) => return Err(invalid_part()),
            _ if etag.value() != part.record.etag => return Err(invalid_part()),
            _ => {}
        }
        if upload.kind() == Some(Kind::Composite)
            && let Some(algorithm) = &upload.algorithm
            && sum.is_none_or(|(name, _)| name != algorithm)
        {
            return Err(s3_error!(
                InvalidRequest,
                "The upload was created using a {algorithm} checksum. The complete request must include the checksum for each part. It was missing for part {number} in the request."
            ));
        }
        parts.push(PartInfo { number, size: part.size, record: part.record });
    }
    Ok(parts)
}

fn open_part(path: &Path, number: i32) -> S3Result<Opened> {
    record::open(&path.join(part_name(number)))?.ok_or_else(invalid_part)
}

/// The checksum that a client lists with a part, if it does.
fn sum_of(wanted: &CompletedPart) -> S3Result<Option<(&'static str, &String)>> {
    let sums = [
        ("crc32", &wanted.checksum_crc32),
        ("crc32c", &wanted.checksum_crc32c),
        ("crc64nvme", &wanted.checksum_crc64nvme),
        ("sha1", &wanted.checksum_sha1),
        ("sha256", &wanted.checksum_sha256),
    ];
    let mut listed = sums.into_iter().filter_map(|(name, sum)| Some((name, sum.as_ref()?)));
    let Some((name, sum)) = listed.next() else { return Ok(None) };
    if listed.next().is_some() {
        return Err(s3_error!(InvalidArgument, "Invalid Base64 or multiple checksums present in request"));
    }
    if !checksums::has_form(name, sum) {
        return Err(s3_error!(InvalidArgument, "Invalid Base64 or multiple checksums present in request"));
    }
    Ok(Some((name, sum)))
}

fn composite_etag<'a>(etags: impl Iterator<Item = &'a str>) -> S3Result<String> {
    let mut md5 = Md5::new();
    let mut count = 0;
    for etag in etags {
        md5.update(hex::decode(etag).map_err(|_| invalid_part())?);
        count += 1;
    }
    Ok(format!("{}-{count}", hex::encode(md5.finalize())))
}

/// The object that an upload became, when it is asked to become it once more: a client whose first answer was lost asks again.
pub(super) fn completed(
    directory: &Directory,
    id: &str,
    bucket: &str,
    key: &str,
    listed: &[CompletedPart],
) -> S3Result<Option<Record>> {
    let there = match directory.open_object(bucket, key) {
        Ok(opened) => opened.record,
        Err(error) if *error.code() == S3ErrorCode::NoSuchKey => return Ok(None),
        Err(error) => return Err(error),
    };
    let numbers = listed.iter().map(|part| part.part_number.unwrap_or_default());
    let same = there.upload.as_deref() == Some(id) && numbers.eq(there.parts.iter().map(|part| part.number));
    if !same {
        return Ok(None);
    }
    let etags = listed.iter().map(|part| part.e_tag.as_ref().map_or("", |etag| etag.value()));
    Ok((composite_etag(etags)? == there.etag).then_some(there))
}

fn invalid_part() -> S3Error {
    let what = "One or more of the specified parts could not be found.  The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.";
    s3_error!(InvalidPart, "{what}")
}

/// What the object remembers of its parts.
fn pieces(parts: &[PartInfo], algorithm: Option<&str>) -> Vec<Piece> {
    let sums = |part: &PartInfo| {
        let kept = |(name, _): &(&String, &String)| Some(name.as_str()) == algorithm;
        part.record.checksums.iter().filter(kept).map(|(name, sum)| (name.clone(), sum.clone())).collect()
    };
    parts.iter().map(|part| Piece { number: part.number, size: part.size, checksums: sums(part) }).collect()
}

/// The checksums that the client gave for the object and that must still be computed; those that are known are compared here.
fn still_claimed(record: &Record, claimed: &BTreeMap<String, String>) -> S3Result<BTreeMap<String, String>> {
    let mut rest = BTreeMap::new();
    for (name, sum) in claimed {
        match record.checksums.get(name) {
            // The number of parts behind a composite one may be left out.
            Some(ours) if ours == sum || ours.split('-').next() == Some(sum) => {}
            Some(_) => return Err(checksums::bad_digest(name)),
            None if sum.contains('-') => {
                return Err(s3_error!(InvalidRequest, "the upload was not begun with the checksum {name}"));
            }
            None => {
                rest.insert(name.clone(), sum.clone());
            }
        }
    }
    Ok(rest)
}

/// Copies a part's body to the end of the new record, in the kernel where the file system can.
fn append(path: &Path, chosen: &PartInfo, new: &Temporary, at: &mut u64) -> S3Result<()> {
    let part = open_part(path, chosen.number)?;
    // It may have been sent once more since it was chosen.
    if (&part.record.etag, part.size) != (&chosen.record.etag, chosen.size) {
        return Err(invalid_part());
    }
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

/// Compares checksums that the client gave for the whole object and that its parts do not tell.
fn whole_sums_hold(
    new: &Temporary,
    total: u64,
    claimed: &BTreeMap<String, String>,
    record: &mut Record,
) -> S3Result<()> {
    if claimed.is_empty() {
        return Ok(());
    }
    let mut hasher = hasher(claimed.keys().map(String::as_str));
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
            return Err(checksums::bad_digest(&name));
        }
        record.checksums.insert(name, sum);
    }
    Ok(())
}
