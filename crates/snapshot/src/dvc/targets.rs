//! Which outs are meant: all of a repository, a `.dvc` file, a `dvc.lock`, a stage, or the data itself.

use super::{
    files::{Out, clean, of_dvc_file, of_lock},
    ignore::Ignore,
};
use crate::{Error, Result, error::at};
use std::path::{Path, PathBuf};

/// The root of the DVC repository that a path belongs to: the nearest folder above it with a folder `.dvc`.
pub fn root_of(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|folder| folder.join(".dvc").is_dir()).map(Path::to_owned)
}

/// The outs that `wanted` names, or all below `root`. `wanted` are paths as typed, relative to `root`, or names of stages.
pub fn find(root: &Path, wanted: &[String]) -> Result<Vec<Out>> {
    let mut outs = Vec::new();
    if wanted.is_empty() {
        let dvc = root_of(root).unwrap_or_else(|| root.to_owned());
        let mut ignore = Ignore::read(&dvc, root)?;
        let mut files = tracking(root, &mut ignore)?;
        // From the top down, because what lies in data that is tracked is data, whatever it is called.
        files.sort_by_key(|file| file.components().count());
        for file in files {
            if !outs.iter().any(|out: &Out| file.starts_with(&out.path)) {
                outs.extend(read(&file)?);
            }
        }
        if outs.is_empty() {
            let places = format!("no .dvc file and no dvc.lock below {} tracks anything", root.display());
            return Err(Error::DvcMissing { object: "data of DVC".to_owned(), places });
        }
    }
    for target in wanted {
        outs.extend(one(root, target)?);
    }
    outs.sort_by(|a, b| a.path.cmp(&b.path));
    outs.dedup_by(|a, b| a.path == b.path && a.content == b.content);
    Ok(outs)
}

fn read(file: &Path) -> Result<Vec<Out>> {
    if file.file_name().is_some_and(|name| name == "dvc.lock") { of_lock(file) } else { of_dvc_file(file) }
}

fn one(root: &Path, target: &str) -> Result<Vec<Out>> {
    let path = clean(&root.join(target));
    let named = target.ends_with(".dvc") || path.file_name().is_some_and(|name| name == "dvc.lock");
    if named && path.is_file() {
        return read(&path);
    }
    if let Some((file, stage)) = target.rsplit_once(':')
        && matches!(Path::new(file).file_name().and_then(|name| name.to_str()), Some("dvc.yaml" | "dvc.lock"))
    {
        let lock = clean(&root.join(file)).with_file_name("dvc.lock");
        let all = if lock.is_file() { of_lock(&lock)? } else { Vec::new() };
        let outs: Vec<Out> = all.into_iter().filter(|out| out.stage.as_deref() == Some(stage)).collect();
        return if outs.is_empty() { Err(unknown(target)) } else { Ok(outs) };
    }
    if path.file_name().is_some_and(|name| name == "dvc.yaml") && path.with_file_name("dvc.lock").is_file() {
        return of_lock(&path.with_file_name("dvc.lock"));
    }
    let mut beside = path.clone().into_os_string();
    beside.push(".dvc");
    let beside = PathBuf::from(beside);
    if beside.is_file() {
        let outs: Vec<Out> = of_dvc_file(&beside)?.into_iter().filter(|out| out.path == path).collect();
        if !outs.is_empty() {
            return Ok(outs);
        }
    }
    // A stage of the lock beside, or an out of a lock of the folders above.
    for folder in std::iter::once(root).chain(path.ancestors().skip(1).take_while(|folder| folder.starts_with(root))) {
        let lock = folder.join("dvc.lock");
        if !lock.is_file() {
            continue;
        }
        let is_meant = |out: &Out| {
            let stage = out.stage.as_deref().is_some_and(|stage| folder.join(stage) == path);
            stage || out.path == path
        };
        let outs: Vec<Out> = of_lock(&lock)?.into_iter().filter(is_meant).collect();
        if !outs.is_empty() {
            return Ok(outs);
        }
    }
    Err(unknown(target))
}

fn unknown(target: &str) -> Error {
    let places = "it is no .dvc file, no dvc.lock, no stage, and no data that one of them tracks".to_owned();
    Error::DvcMissing { object: target.to_owned(), places }
}

/// The files below a folder that track data, in order of path, without what DVC does not see.
fn tracking(folder: &Path, ignore: &mut Ignore) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        ignore.load_once(&folder)?;
        for entry in std::fs::read_dir(&folder).map_err(at("read the directory", &folder))? {
            let entry = entry.map_err(at("read the directory", &folder))?;
            let kind = entry.file_type().map_err(at("read", entry.path()))?;
            let name = entry.file_name();
            let path = entry.path();
            if kind.is_dir() {
                // Our own folder holds copies of what was tracked once.
                if name != ".sealift" && !ignore.hides(&path, true) {
                    folders.push(path);
                }
            } else if kind.is_file()
                && (name == "dvc.lock" || (name.as_encoded_bytes().ends_with(b".dvc") && name != ".dvc"))
                && !ignore.hides(&path, false)
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
