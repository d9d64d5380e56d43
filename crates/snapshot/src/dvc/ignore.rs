//! `.dvcignore`: what DVC does not see.

use crate::{Error, Result};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::path::{Path, PathBuf};

/// The files `.dvcignore` from the root of a DVC repository down to a folder, and below it as they are met.
pub(crate) struct Ignore {
    root: PathBuf,
    files: Vec<Gitignore>,
}

impl Ignore {
    /// Reads those from the root down to `folder`, and that of every folder below it.
    pub(crate) fn read(root: &Path, folder: &Path) -> Result<Self> {
        let mut ignore = Self { root: root.to_owned(), files: Vec::new() };
        let below = folder.strip_prefix(root).unwrap_or(Path::new("")).to_owned();
        let mut at = root.to_owned();
        ignore.load(&at)?;
        for part in below.components() {
            at.push(part);
            ignore.load(&at)?;
        }
        Ok(ignore)
    }

    /// Takes the `.dvcignore` of a folder that lies deeper than those before it, unless it was taken.
    pub(crate) fn load_once(&mut self, folder: &Path) -> Result<()> {
        if self.files.iter().any(|file| file.path() == folder) { Ok(()) } else { self.load(folder) }
    }

    fn load(&mut self, folder: &Path) -> Result<()> {
        let file = folder.join(".dvcignore");
        if !file.is_file() {
            return Ok(());
        }
        let mut builder = GitignoreBuilder::new(folder);
        let bad =
            |error: ignore::Error| Error::Dvc { object: file.display().to_string(), why: format!("is wrong: {error}") };
        if let Some(error) = builder.add(&file) {
            return Err(bad(error));
        }
        self.files.push(builder.build().map_err(bad)?);
        Ok(())
    }

    /// Whether DVC does not see the path, itself or for a folder above it. What lies outside is seen.
    pub(crate) fn hides(&self, path: &Path, directory: bool) -> bool {
        let Ok(below) = path.strip_prefix(&self.root) else { return false };
        let mut at = self.root.clone();
        let mut parts = below.components().peekable();
        while let Some(part) = parts.next() {
            at.push(part);
            let directory = directory || parts.peek().is_some();
            if self.hides_itself(&at, directory) {
                return true;
            }
        }
        false
    }

    fn hides_itself(&self, path: &Path, directory: bool) -> bool {
        // DVC's own list, before all files.
        let name = path.file_name().unwrap_or_default();
        let mut hidden = name == ".git" || (directory && (name == ".hg" || name == ".dvc"));
        for file in self.files.iter().filter(|file| path.starts_with(file.path())) {
            match file.matched(path, directory) {
                ignore::Match::Ignore(_) => hidden = true,
                ignore::Match::Whitelist(_) => hidden = false,
                ignore::Match::None => {}
            }
        }
        hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_hold_from_their_folder_down() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("data/sub")).unwrap();
        std::fs::write(root.join(".dvcignore"), "*.tmp\n/build/\n# no\n").unwrap();
        std::fs::write(root.join("data/.dvcignore"), "!keep.tmp\n/only\n").unwrap();
        let ignore = Ignore::read(root, &root.join("data/sub")).unwrap();
        for (path, directory, hidden) in [
            ("a.tmp", false, true),
            ("data/sub/a.tmp", false, true),
            ("data/keep.tmp", false, false),
            ("keep.tmp", false, true),
            ("data/only", false, true),
            ("data/sub/only", false, false),
            ("build/x/y", false, true),
            ("data/build/x", false, false),
            ("data/.git/x", false, true),
            (".dvc/config", false, true),
            ("data/x.csv", false, false),
        ] {
            assert_eq!(ignore.hides(&root.join(path), directory), hidden, "{path}");
        }
    }
}
