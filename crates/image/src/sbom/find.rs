//! Finds the lock files of a component and reads them.

use super::bill::{Bill, malformed};
use super::{cargo, javascript, python, system};
use crate::error::{Error, Result};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// How much is looked at; more is an error and not a shorter bill.
const MAX_DEPTH: usize = 32;
const MAX_ENTRIES: u64 = 1_000_000;
const MAX_LOCKS: usize = 1000;
const MAX_BYTES: u64 = 64 << 20;

/// Folders whose lock files are those of others, or that are made anew by a build.
const SKIPPED: [&str; 12] = [
    ".git",
    ".sealift",
    "target",
    "node_modules",
    "vendor",
    "third_party",
    ".venv",
    "venv",
    "site-packages",
    "__pycache__",
    ".tox",
    ".nox",
];

/// What a lock file is, by its name.
fn kind(name: &str) -> Option<&'static str> {
    Some(match name {
        "Cargo.lock" => "Cargo.lock",
        "poetry.lock" | "uv.lock" | "pdm.lock" | "pylock.toml" => "a Python lock file",
        "Pipfile.lock" => "Pipfile.lock",
        "package-lock.json" | "npm-shrinkwrap.json" => "a lock file of npm",
        "pnpm-lock.yaml" => "pnpm-lock.yaml",
        "yarn.lock" => "yarn.lock",
        name if name.starts_with("requirements") && name.ends_with(".txt") => "a requirements file",
        name if name.starts_with("pylock.") && name.ends_with(".toml") => "a Python lock file",
        _ => return None,
    })
}

/// Adds everything that the lock files below the folder name.
pub(crate) fn read(folder: &Path, bill: &mut Bill) -> Result<()> {
    for relative in locks(folder)? {
        let source = slashed(&relative);
        read_one(folder, &relative, &source, bill)?;
        bill.sources.insert(source);
    }
    Ok(())
}

fn slashed(path: &Path) -> String {
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn locks(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut entries = 0;
    let skipped = |entry: &walkdir::DirEntry| {
        entry.depth() > 0 && entry.file_type().is_dir() && SKIPPED.iter().any(|name| entry.file_name() == *name)
    };
    for entry in walkdir::WalkDir::new(folder).into_iter().filter_entry(|entry| !skipped(entry)) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(folder).to_owned();
            Error::file("list", &path)(error.into())
        })?;
        entries += 1;
        if entries > MAX_ENTRIES || entry.depth() > MAX_DEPTH {
            let what = format!("{} has too many or too deep folders to look for lock files", folder.display());
            return Err(Error::bad_with(what, "give the component a folder of its own, without data"));
        }
        let is_lock = entry.file_name().to_str().is_some_and(|name| kind(name).is_some());
        if is_lock && !entry.file_type().is_dir() {
            found.insert(entry.path().strip_prefix(folder).unwrap_or(entry.path()).to_owned());
        }
        if found.len() > MAX_LOCKS {
            return Err(Error::bad(format!("{} holds more than {MAX_LOCKS} lock files", folder.display())));
        }
    }
    Ok(found)
}

/// The text of a file that is inside the folder, also through links.
fn text(folder: &Path, relative: &Path) -> Result<String> {
    let path = folder.join(relative);
    let real = fs::canonicalize(&path).map_err(Error::file("read", &path))?;
    let root = fs::canonicalize(folder).map_err(Error::file("read", folder))?;
    if !real.starts_with(&root) || !real.is_file() {
        return Err(Error::bad(format!("{} is no file inside the component", slashed(relative))));
    }
    let mut bytes = Vec::new();
    let file = File::open(&real).map_err(Error::file("open", &real))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(Error::file("read", &real))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::bad(format!("{} is larger than {MAX_BYTES} bytes", slashed(relative))));
    }
    let text = String::from_utf8(bytes).map_err(|_| Error::bad(format!("{} is no UTF-8 text", slashed(relative))))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn read_one(folder: &Path, relative: &Path, source: &str, bill: &mut Bill) -> Result<()> {
    let name = relative.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let text = text(folder, relative)?;
    let what = kind(name).unwrap_or("a lock file");
    let result = match what {
        "a requirements file" => requirements(folder, relative, &text, source, bill, &mut BTreeSet::new()),
        what => parse(what, &text, source, bill),
    };
    malformed(source, what, result)
}

/// How many packages a file names, by what it is called: a lock file's name, or the path of a package database in an image. `None` when it is
/// neither. Includes of a requirements file are not followed. Nothing is read but the text.
pub fn packages_in(path: &str, text: &str) -> Result<Option<u64>> {
    let mut bill = Bill::default();
    let (what, result) = match kind(path.rsplit('/').next().unwrap_or_default()) {
        Some(what) => (what, parse(what, text, path, &mut bill)),
        None => match system::read_one(path.trim_start_matches('/'), text, &mut bill) {
            Some(result) => ("a list of installed packages", result),
            None => return Ok(None),
        },
    };
    malformed(path, what, result)?;
    Ok(Some(bill.parts.len() as u64))
}

fn parse(what: &str, text: &str, source: &str, bill: &mut Bill) -> std::result::Result<(), String> {
    match what {
        "Cargo.lock" => cargo::read(text, source, bill),
        "a Python lock file" => python::locked(text, source, bill),
        "Pipfile.lock" => python::pipfile(text, source, bill),
        "a lock file of npm" => javascript::npm(text, source, bill),
        "pnpm-lock.yaml" => javascript::pnpm(text, source, bill),
        "yarn.lock" => javascript::yarn(text, source, bill),
        _ => python::requirements(text, source, bill, &mut |_, _| Ok(())),
    }
}

/// Reads a requirements file and those that it includes, each once.
fn requirements(
    folder: &Path,
    relative: &Path,
    content: &str,
    source: &str,
    bill: &mut Bill,
    seen: &mut BTreeSet<PathBuf>,
) -> std::result::Result<(), String> {
    if !seen.insert(relative.to_owned()) {
        return Ok(());
    }
    if seen.len() > 64 {
        return Err("it includes more than 64 files".to_owned());
    }
    python::requirements(content, source, bill, &mut |path, bill| {
        if path.contains("://") {
            return Err(format!("it includes {path}, which is not in the repository"));
        }
        let mut included = PathBuf::new();
        for part in relative.parent().unwrap_or(Path::new("")).join(path).components() {
            match part {
                std::path::Component::ParentDir if !included.pop() => {
                    return Err(format!("it includes {path}, which is outside the component"));
                }
                std::path::Component::Normal(part) => included.push(part),
                std::path::Component::RootDir => {
                    return Err(format!("it includes {path}, which is outside the component"));
                }
                _ => {}
            }
        }
        let inner = text(folder, &included).map_err(|error| error.to_string())?;
        requirements(folder, &included, &inner, &slashed(&included), bill, seen)
    })
}
