//! Beginning: looks at a repository and writes a configuration that works.
//!
//! What is concluded is `domain::detect`'s decision; here files are listed and read, and nothing that exists is replaced.

use crate::{
    error::{Error, Result},
    workspace::CONFIG,
};
use domain::detect::{Listing, detect, skips_folder, wants_content};
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Files larger than this are not read: nothing that is looked for is so large.
const READ_LIMIT: u64 = 256 << 10;
/// No more files than this are looked at.
const FILE_LIMIT: usize = 20_000;
/// What git must not see.
const IGNORED: &str = ".sealift/";

/// What `init` did or would do.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The configuration file.
    pub path: PathBuf,
    /// Its text.
    pub toml: String,
    /// What was found.
    pub found: Vec<String>,
    /// What was guessed, to be looked over.
    pub guessed: Vec<String>,
    /// Whether it was written.
    pub written: bool,
}

/// Looks at `root`, and writes `Sealift.toml` and a line of `.gitignore` when `write` is set.
pub fn run(root: &Path, docker: bool, remote: Option<String>, write: bool) -> Result<Report> {
    let path = root.join(CONFIG);
    if path.exists() {
        return Err(Error::BadInput {
            message: format!("{} exists already; nothing was written", path.display()),
            next: Some("sealift doctor".to_owned()),
        });
    }
    let name = std::path::absolute(root)
        .ok()
        .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_default();
    let listing = Listing { folder: name, files: list(root)?, git_remote: remote, docker };
    let detected = detect(&listing);
    if write {
        fs::write(&path, &detected.toml).map_err(Error::file("write", &path))?;
        ignore(root)?;
    }
    Ok(Report { path, toml: detected.toml, found: detected.found, guessed: detected.guessed, written: write })
}

/// Paths relative to the root, with the text of small files that are text.
fn list(root: &Path) -> Result<Vec<(String, Option<String>)>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(Error::file("read the folder", &folder))?;
        for entry in entries {
            let entry = entry.map_err(Error::file("read the folder", &folder))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(Error::file("read", &path))?;
            let name = entry.file_name();
            if kind.is_dir() {
                if !name.to_str().is_some_and(skips_folder) {
                    folders.push(path);
                }
            } else if kind.is_file()
                && files.len() < FILE_LIMIT
                && let Some(relative) = path.strip_prefix(root).ok().and_then(Path::to_str)
            {
                let small = entry.metadata().is_ok_and(|metadata| metadata.len() <= READ_LIMIT);
                let text = if small && wants_content(relative) {
                    fs::read(&path).ok().and_then(|bytes| String::from_utf8(bytes).ok())
                } else {
                    None
                };
                files.push((relative.to_owned(), text));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn ignore(root: &Path) -> Result<()> {
    let path = root.join(".gitignore");
    let mut text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::File { action: "read", path, source: error }),
    };
    if text.lines().any(|line| line.trim() == IGNORED) {
        return Ok(());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(IGNORED);
    text.push('\n');
    fs::write(&path, text).map_err(Error::file("write", &path))
}
