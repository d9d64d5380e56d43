//! From an out of DVC to a snapshot: its files are found, verified, put together beside the cache, and added.

use super::{
    config::Config,
    files::{Content, Named, Out},
    hash::{Kind, Sum, Sums, read_all},
    ignore::Ignore,
    listing,
    remote::{AT_ONCE, Opened},
};
use crate::{
    Added, Error, Repository, Result,
    error::{at, count},
    manifest::{Entry, Kind as Is, Manifest, Shape},
    path::shown,
    remote::blocking,
};
use domain::{
    Digest, Events,
    event::{Task, Unit},
};
use futures::{StreamExt as _, stream};
use rayon::prelude::*;
use rustix::fs::OFlags;
use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsStr,
    fs::File,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

/// What an import needs to know besides the out.
#[derive(Debug, Clone)]
pub struct Importing {
    /// The root of the DVC repository.
    pub root: PathBuf,
    /// Its configuration.
    pub config: Config,
    /// The remote to fetch from, if there is one.
    pub remote: Option<Opened>,
    /// Where the data is to be, instead of where DVC has it.
    pub to: Option<PathBuf>,
}

/// Where the files of an import came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct From {
    /// From where DVC has the data.
    pub workspace: u64,
    /// From DVC's cache.
    pub cache: u64,
    /// From what an earlier import had fetched before it was interrupted.
    pub earlier: u64,
    /// From the remote.
    pub remote: u64,
}

/// What an import did.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The snapshot and its pointer.
    pub added: Added,
    /// Where its files came from.
    pub from: From,
    /// The remote, if it was asked for anything.
    pub remote: Option<String>,
    /// Whether what is where the pointer points is the snapshot, as far as names tell.
    pub in_place: bool,
}

/// Where a file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Workspace,
    Cache,
    Earlier,
    Remote,
}

/// A file that is in the staging folder.
struct Taken {
    found: Found,
    sums: Sums,
    executable: bool,
}

/// The folders of one import.
#[derive(Clone)]
struct Places {
    kind: Kind,
    /// Where DVC has the data.
    data: PathBuf,
    /// The out is one file.
    single: bool,
    /// DVC's cache.
    cache: PathBuf,
    /// Where fetched objects are kept until the import has succeeded.
    incoming: PathBuf,
    /// Where the data is put together: a file, or a folder.
    staged: PathBuf,
}

impl Places {
    fn below(&self, base: &Path, path: &[u8]) -> PathBuf {
        if self.single { base.to_owned() } else { base.join(OsStr::from_bytes(path)) }
    }

    fn cached(&self, sum: &Sum, directory: bool) -> PathBuf {
        self.cache.join(self.kind.key(sum, directory))
    }

    fn kept(&self, sum: &Sum) -> PathBuf {
        self.incoming.join(sum.to_string())
    }
}

/// Takes an out into the cache of `repository` and writes its pointer. Only what is neither in the workspace nor in DVC's
/// cache is fetched.
pub async fn import(repository: &Repository, out: &Out, importing: &Importing, events: &Events) -> Result<Imported> {
    let enter = repository.clone();
    let _guard = blocking("open the cache", move || enter.cache().enter(None)).await?;
    let relative = out.path.strip_prefix(repository.root()).unwrap_or(&out.path).to_owned();
    let to = importing.to.clone().unwrap_or(relative.clone());
    let files = list(out, importing, events).await?;
    let tmp = repository.cache().tmp();
    let folder = tempfile::Builder::new().prefix("dvc-").tempdir_in(&tmp).map_err(at("write in", &tmp))?;
    let name = to.file_name().ok_or_else(|| Error::Path { path: to.clone(), why: "is no path of data" })?;
    let places = Places {
        kind: out.kind,
        data: out.path.clone(),
        single: matches!(out.content, Content::File(_)),
        cache: importing.config.cache(&importing.root.join(".dvc")),
        incoming: repository.cache().dir().join("dvc/incoming").join(out.kind.word()),
        staged: folder.path().join(name),
    };
    let task = events.task(format!("import {}", relative.display()), None, Unit::Bytes);
    let mut taken = take_local(&places, &files, &task, events).await?;
    let missing: Vec<usize> = (0..files.len()).filter(|number| taken[*number].is_none()).collect();
    let mut asked = None;
    if !missing.is_empty() {
        let remote = importing.remote.as_ref().ok_or_else(|| nowhere(out, &files, &missing, importing, None))?;
        asked = Some(remote.describe());
        fetch(remote, out, importing, &places, &files, &missing, &task).await?;
        let (places_, wanted) = (places.clone(), missing.iter().map(|at| files[*at].clone()).collect::<Vec<_>>());
        let fetched = blocking("take what was fetched", move || {
            wanted.par_iter().map(|file| stage_fetched(&places_, file)).collect::<Result<Vec<_>>>()
        })
        .await?;
        for (number, one) in missing.iter().zip(fetched) {
            taken[*number] = Some(one);
        }
    }
    let taken: Vec<Taken> = taken.into_iter().flatten().collect();
    let (expect, from) = expected(&places, &files, &taken, name)?;
    let (adding, staged, sink, at_) = (repository.clone(), places.staged.clone(), events.clone(), to.clone());
    let added = blocking("add data", move || {
        // A stage's out may be deeper than what git has of it.
        let folder = adding.data(&at_)?.full.parent().map(Path::to_owned).unwrap_or_default();
        std::fs::create_dir_all(&folder).map_err(at("make the directory", folder))?;
        adding.add_from(&at_, &staged, expect, &sink)
    })
    .await?;
    for (file, _) in files.iter().zip(&taken).filter(|(_, taken)| taken.found != Found::Workspace) {
        // What is not there was never fetched.
        let _ = std::fs::remove_file(places.kept(&file.sum));
    }
    let extra = beside(&importing.root, &places, &files)?;
    say_what_is_beside(&relative, &extra, events);
    task.finish(format!("{}, {} from the remote", count(added.pointer.files, "file"), from.remote));
    let in_place = importing.to.is_none() && from.workspace == files.len() as u64 && extra.is_empty();
    Ok(Imported { added, from, remote: asked, in_place })
}

/// The files of an out. A listing comes from DVC's cache, or else from the remote, and has the MD5 that names it.
async fn list(out: &Out, importing: &Importing, events: &Events) -> Result<Vec<Named>> {
    let sum = match &out.content {
        Content::File(file) => return Ok(vec![file.clone()]),
        Content::Files(files) => return Ok(files.clone()),
        Content::Listed(sum) => *sum,
    };
    let cached = importing.config.cache(&importing.root.join(".dvc")).join(out.kind.key(&sum, true));
    let mut bytes = None;
    if let Ok(found) = std::fs::metadata(&cached)
        && found.len() <= listing::LARGEST
    {
        let read = std::fs::read(&cached).map_err(at("read", &cached))?;
        if Sum::of(&read) == sum {
            bytes = Some(read);
        } else {
            events.warn(format!("{} is damaged in DVC's cache; the remote is asked", cached.display()));
        }
    }
    let shown_path = out.path.strip_prefix(&importing.root).unwrap_or(&out.path).display().to_string();
    if bytes.is_none() {
        let object = format!("the listing of {shown_path} (md5 {sum}.dir)");
        let Some(remote) = &importing.remote else {
            let places = format!("not in {}, and no remote is configured", cached.display());
            return Err(Error::DvcMissing { object, places });
        };
        let key = remote.key(out.kind, &sum, true);
        for attempt in 1.. {
            let Some(read) = remote.read(&key, listing::LARGEST).await? else {
                let places = format!("neither in DVC's cache nor in {}", remote.describe());
                return Err(Error::DvcMissing { object, places });
            };
            if Sum::of(&read) == sum {
                bytes = Some(read.to_vec());
                break;
            }
            if attempt == 2 {
                let why = format!("it has {} bytes with the MD5 {}", read.len(), Sum::of(&read));
                return Err(Error::DvcDamaged { object: format!("{key} in {} ({object})", remote.describe()), why });
            }
        }
    }
    let listed = listing::read(&bytes.unwrap_or_default());
    let listed =
        listed.map_err(|why| Error::Dvc { object: format!("the listing of {shown_path} (md5 {sum}.dir)"), why })?;
    let name = |file: listing::Listed| Named {
        path: file.path,
        sum: file.sum,
        size: None,
        executable: false,
        versions: BTreeMap::new(),
    };
    Ok(listed.into_iter().map(name).collect())
}

/// Puts whatever is on this host into the staging folder; `None` for what must be fetched.
async fn take_local(places: &Places, files: &[Named], task: &Task, events: &Events) -> Result<Vec<Option<Taken>>> {
    if !places.single {
        std::fs::create_dir_all(&places.staged).map_err(at("make the directory", &places.staged))?;
    }
    make_folders(places, files)?;
    let done = std::sync::atomic::AtomicU64::new(0);
    let (places, files, events) = (places.clone(), files.to_vec(), events.clone());
    let taken = blocking("look for data", move || {
        let one = |file: &Named| {
            let taken = local(&places, file, &events)?;
            let bytes = taken.as_ref().map_or(0, |taken| taken.sums.size);
            done.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            Ok(taken)
        };
        let taken = files.par_iter().map(one).collect::<Result<Vec<_>>>()?;
        Ok((taken, done.into_inner()))
    })
    .await?;
    task.advance(taken.1);
    Ok(taken.0)
}

fn make_folders(places: &Places, files: &[Named]) -> Result<()> {
    let mut last: &[u8] = b"";
    for file in files {
        let Some(end) = file.path.iter().rposition(|byte| *byte == b'/').filter(|_| !places.single) else { continue };
        if file.path[..end] != *last {
            last = &file.path[..end];
            let folder = places.staged.join(OsStr::from_bytes(last));
            std::fs::create_dir_all(&folder).map_err(at("make the directory", folder))?;
        }
    }
    Ok(())
}

/// Looks for one file in the workspace, among what was fetched before, and in DVC's cache.
fn local(places: &Places, file: &Named, events: &Events) -> Result<Option<Taken>> {
    let candidates = [
        (Found::Workspace, places.below(&places.data, &file.path)),
        (Found::Earlier, places.kept(&file.sum)),
        (Found::Cache, places.cached(&file.sum, false)),
    ];
    for (found, path) in candidates {
        let Some((sums, mode)) = sums_of(&path, places.kind)? else { continue };
        if sums.sum != file.sum || file.size.is_some_and(|size| size != sums.size) {
            match found {
                Found::Cache => events.warn(format!(
                    "{} is damaged in DVC's cache: its bytes have the MD5 {}",
                    path.display(),
                    sums.sum
                )),
                Found::Earlier => std::fs::remove_file(&path).map_err(at("remove", &path))?,
                Found::Workspace | Found::Remote => {}
            }
            continue;
        }
        // A bit that DVC does not know is kept where the person has it.
        let has = mode & 0o100 != 0;
        let executable = if found == Found::Workspace { has } else { file.executable };
        stage(&path, &places.below(&places.staged, &file.path), has, executable)?;
        return Ok(Some(Taken { found, sums, executable }));
    }
    Ok(None)
}

fn stage_fetched(places: &Places, file: &Named) -> Result<Taken> {
    let path = places.kept(&file.sum);
    let Some((sums, _)) = sums_of(&path, places.kind)? else {
        return Err(at("read", path)(std::io::Error::from(std::io::ErrorKind::NotFound)));
    };
    if sums.sum != file.sum {
        return Err(Error::Changing { path });
    }
    stage(&path, &places.below(&places.staged, &file.path), false, file.executable)?;
    Ok(Taken { found: Found::Remote, sums, executable: file.executable })
}

/// What the bytes of a regular file are, and its mode; `None` for anything else. A last link is not followed.
fn sums_of(path: &Path, kind: Kind) -> Result<Option<(Sums, u32)>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) => {
            let kind = error.kind();
            let nothing = matches!(kind, std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
                || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
            return if nothing { Ok(None) } else { Err(at("read", path)(error)) };
        }
    };
    let found = file.metadata().map_err(at("read", path))?;
    if !found.is_file() {
        return Ok(None);
    }
    let sums = read_all(&mut file, kind, |_| ()).map_err(at("read", path))?;
    Ok(Some((sums, found.permissions().mode())))
}

/// Links a file into the staging folder, or copies it where that cannot be or its mode is another one. That it is still what
/// it was is seen when it is added.
fn stage(from: &Path, to: &Path, has: bool, executable: bool) -> Result<()> {
    if has == executable && std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to).map_err(at("copy", from))?;
    let mode = if executable { 0o755 } else { 0o644 };
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode)).map_err(at("set the mode of", to))
}

/// Fetches what is missing, each content once, and verifies it. Kept by name until the import has succeeded.
async fn fetch(
    remote: &Opened,
    out: &Out,
    importing: &Importing,
    places: &Places,
    files: &[Named],
    missing: &[usize],
    task: &Task,
) -> Result<()> {
    std::fs::create_dir_all(&places.incoming).map_err(at("make the directory", &places.incoming))?;
    let contents: BTreeMap<Sum, usize> = missing.iter().map(|number| (files[*number].sum, *number)).collect();
    task.grow(contents.values().filter_map(|number| files[*number].size).sum());
    let root = &importing.root;
    let fetched = stream::iter(contents.into_values()).map(|number| async move {
        let there = fetch_one(remote, &key_of(remote, out, root, &files[number]), places, &files[number], task).await?;
        Ok::<_, Error>((!there).then_some(number))
    });
    let mut fetched = fetched.buffer_unordered(AT_ONCE);
    let mut lost = Vec::new();
    while let Some(one) = fetched.next().await {
        lost.extend(one?);
    }
    lost.sort_unstable();
    if lost.is_empty() { Ok(()) } else { Err(nowhere(out, files, &lost, importing, Some(remote))) }
}

/// Where an object is: under its MD5, or in a remote that keeps versions under its own path.
fn key_of(remote: &Opened, out: &Out, root: &Path, file: &Named) -> (String, Option<String>) {
    let version = file.versions.get(&remote.remote.name.to_lowercase()).cloned();
    let (true, Some(version)) = (remote.remote.is_versioned(), version) else {
        return (remote.key(out.kind, &file.sum, false), None);
    };
    let base = out.path.strip_prefix(root).unwrap_or(&out.path).to_string_lossy().into_owned();
    let key = match out.content {
        Content::File(_) => base,
        _ => format!("{base}/{}", String::from_utf8_lossy(&file.path)),
    };
    (key, Some(version))
}

/// Whether the object was there. Bytes with another MD5 or size are asked for once more, and then named.
async fn fetch_one(
    remote: &Opened,
    (key, version): &(String, Option<String>),
    places: &Places,
    file: &Named,
    task: &Task,
) -> Result<bool> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let fetched = remote.fetch(key, version.as_deref(), places.kind, &places.incoming, task).await?;
        let Some((temporary, sums)) = fetched else { return Ok(false) };
        if sums.sum == file.sum && file.size.is_none_or(|size| size == sums.size) {
            let kept = places.kept(&file.sum);
            std::fs::set_permissions(temporary.path(), std::fs::Permissions::from_mode(0o644))
                .map_err(at("write", temporary.path()))?;
            temporary.persist(&kept).map_err(|error| at("rename", &kept)(error.error))?;
            return Ok(true);
        }
        if attempt == 2 {
            let size = file.size.map(|size| format!(" and {size} bytes")).unwrap_or_default();
            return Err(Error::DvcDamaged {
                object: format!("{key} in {} ({})", remote.describe(), shown(&file.path)),
                why: format!(
                    "it has {} bytes with the MD5 {}, and DVC says MD5 {}{size}",
                    sums.size, sums.sum, file.sum
                ),
            });
        }
    }
}

/// The error for files that are in none of the places.
fn nowhere(out: &Out, files: &[Named], lost: &[usize], importing: &Importing, remote: Option<&Opened>) -> Error {
    let base = out.path.strip_prefix(&importing.root).unwrap_or(&out.path).display().to_string();
    let name = |number: &usize| {
        let file = &files[*number];
        match out.content {
            Content::File(_) => format!("{base} (md5 {})", file.sum),
            _ => format!("{base}/{} (md5 {})", shown(&file.path), file.sum),
        }
    };
    let named: Vec<String> = lost.iter().take(5).map(name).collect();
    let more = if lost.len() > 5 { format!(" and {} more", lost.len() - 5) } else { String::new() };
    let remote = match remote {
        Some(remote) => format!("{} does not have it", remote.describe()),
        None => "no remote is configured (core.remote, or --remote)".to_owned(),
    };
    let places = format!("it is neither in the workspace nor in DVC's cache with these bytes, and {remote}");
    Error::DvcMissing { object: format!("{}{more}", named.join(", ")), places }
}

/// The snapshot that these files are, which is what adding them must come to.
fn expected(places: &Places, files: &[Named], taken: &[Taken], name: &OsStr) -> Result<(Digest, From)> {
    let mut from = From::default();
    let mut manifest = Manifest {
        shape: if places.single { Shape::File } else { Shape::Tree },
        entries: Vec::with_capacity(files.len()),
    };
    for (file, taken) in files.iter().zip(taken) {
        match taken.found {
            Found::Workspace => from.workspace += 1,
            Found::Cache => from.cache += 1,
            Found::Earlier => from.earlier += 1,
            Found::Remote => from.remote += 1,
        }
        let path = if places.single { name.as_bytes().to_vec() } else { file.path.clone() };
        let Sums { size, sha256, .. } = taken.sums;
        manifest.entries.push(Entry { path, kind: Is::File { executable: taken.executable, size, digest: sha256 } });
    }
    let (digest, ..) = manifest.write().map_err(at("put together", &places.data))?;
    Ok((digest, from))
}

/// What is in the workspace's folder and is not of the out: path, and whether DVC does not see it.
fn beside(root: &Path, places: &Places, files: &[Named]) -> Result<Vec<(Vec<u8>, bool)>> {
    let mut extra = Vec::new();
    if places.single || !places.data.is_dir() {
        return Ok(extra);
    }
    let ours: HashSet<&[u8]> = files.iter().map(|file| file.path.as_slice()).collect();
    let mut ignore = Ignore::read(root, &places.data)?;
    let mut folders = vec![places.data.clone()];
    while let Some(folder) = folders.pop() {
        ignore.load_once(&folder)?;
        for entry in std::fs::read_dir(&folder).map_err(at("read the directory", &folder))? {
            let entry = entry.map_err(at("read the directory", &folder))?;
            let path = entry.path();
            if entry.file_type().map_err(at("read", &path))?.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(&places.data).unwrap_or(&path).as_os_str().as_bytes();
            if !ours.contains(relative) {
                extra.push((relative.to_vec(), ignore.hides(&path, false)));
            }
        }
    }
    extra.sort();
    Ok(extra)
}

fn say_what_is_beside(relative: &Path, extra: &[(Vec<u8>, bool)], events: &Events) {
    for (hidden, why) in [(true, "which .dvcignore hides"), (false, "which DVC does not track")] {
        let named: Vec<String> = extra.iter().filter(|one| one.1 == hidden).map(|one| shown(&one.0)).collect();
        if named.is_empty() {
            continue;
        }
        let more = if named.len() > 5 { format!(" and {} more", named.len() - 5) } else { String::new() };
        events.warn(format!(
            "{} has {}{more}, {why}: not part of the snapshot, but the next `sealift data add` would take it in",
            relative.display(),
            named[..named.len().min(5)].join(", ")
        ));
    }
}
