//! The pointer file that git keeps in place of the data.

use crate::error::{Error, Result, at};
use domain::Digest;
use serde::Deserialize;
use std::{
    io::Write as _,
    path::{Component, Path, PathBuf},
};

/// What every pointer file's name ends with.
pub const SUFFIX: &str = ".snapshot.toml";
/// What every pointer file begins with, in every version of the format.
pub const HEADER: &str = "# Sealift data pointer.";

/// The content of `<data>.snapshot.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// Identity of the snapshot: the SHA-256 of its manifest.
    pub digest: Digest,
    /// Sum of the sizes of its files.
    pub bytes: u64,
    /// How many regular files it has.
    pub files: u64,
    /// The data, relative to the folder of the pointer.
    pub path: PathBuf,
    /// Where the pointer file is, absolute or relative to the repository's root; not part of its text.
    pub at: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    v: u32,
    digest: Digest,
    bytes: u64,
    files: u64,
    path: String,
}

impl Pointer {
    /// The pointer's path for a data path: `data/raw` → `data/raw.snapshot.toml`.
    pub fn beside(data: &Path) -> PathBuf {
        let mut name = data.as_os_str().to_owned();
        name.push(SUFFIX);
        PathBuf::from(name)
    }

    /// The data path: the pointer's folder and [`Pointer::path`].
    pub fn data(&self) -> PathBuf {
        self.at.parent().unwrap_or(Path::new("")).join(&self.path)
    }

    /// Reads and checks a pointer file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::InvalidData => {
                Error::Pointer { path: path.to_owned(), why: "it is not UTF-8".to_owned() }
            }
            _ => at("read the data pointer", path)(source),
        })?;
        Self::parse(&text, path)
    }

    /// Parses the text of a pointer that is at `path` (which is not read): for pointers out of git history.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let bad = |why: String| Error::Pointer { path: path.to_owned(), why };
        let written: Written = toml::from_str(text).map_err(|error| bad(error.message().to_owned()))?;
        if written.v != 1 {
            return Err(bad(format!("its version is {}, and this program reads version 1", written.v)));
        }
        let data = PathBuf::from(&written.path);
        let plain = data.components().all(|part| matches!(part, Component::Normal(_)));
        if written.path.is_empty() || written.path.contains('\0') || !plain {
            return Err(bad(format!("path {:?} leads out of its folder", written.path)));
        }
        Ok(Self { digest: written.digest, bytes: written.bytes, files: written.files, path: data, at: path.to_owned() })
    }

    /// The deterministic text of the file.
    pub fn text(&self) -> String {
        let path = toml::Value::String(self.path.to_string_lossy().into_owned());
        format!(
            "{HEADER} The data is not in git: `sealift data pull` brings it, `sealift data add` renews this file.\n\
             v = 1\ndigest = \"{}\"\nbytes = {}\nfiles = {}\npath = {path}\n",
            self.digest, self.bytes, self.files
        )
    }

    /// Writes the file by a temporary name, fsync and rename; false when it had this text already.
    pub fn write(&self, path: &Path) -> Result<bool> {
        write_text(path, &self.text())
    }
}

/// Replaces a small text file atomically; false when it has this text already.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<bool> {
    if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut file = tempfile::Builder::new()
        .prefix(".sealift-")
        .permissions(permissions)
        .tempfile_in(folder)
        .map_err(at("write", path))?;
    file.write_all(text.as_bytes()).map_err(at("write", path))?;
    file.as_file().sync_all().map_err(at("write", path))?;
    file.persist(path).map_err(|error| at("rename", path)(error.error))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Pointer {
        Pointer {
            digest: Digest::of("abc"),
            bytes: 3,
            files: 1,
            path: PathBuf::from("ra\"w"),
            at: PathBuf::from("data/raw.snapshot.toml"),
        }
    }

    #[test]
    fn the_text_is_fixed() {
        expect_test::expect![[r##"
            # Sealift data pointer. The data is not in git: `sealift data pull` brings it, `sealift data add` renews this file.
            v = 1
            digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            bytes = 3
            files = 1
            path = 'ra"w'
        "##]]
        .assert_eq(&example().text());
        assert_eq!(Pointer::parse(&example().text(), &example().at).unwrap(), example());
        assert_eq!(example().data(), Path::new("data/ra\"w"));
        assert_eq!(Pointer::beside(Path::new("data/raw")), Path::new("data/raw.snapshot.toml"));
    }

    #[test]
    fn pointers_that_lead_elsewhere_or_are_of_another_version_are_refused() {
        let text = example().text();
        for (from, to) in [
            ("v = 1", "v = 2"),
            ("'ra\"w'", "'../x'"),
            ("'ra\"w'", "'/etc'"),
            ("'ra\"w'", "''"),
            ("sha256:b", "sha256:B"),
            ("files = 1", "files = -1"),
            ("files = 1", "flies = 1"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            let error = Pointer::parse(&changed, Path::new("p.snapshot.toml")).unwrap_err();
            assert_eq!(error.class(), domain::Class::BadInput, "{to}");
            assert!(error.to_string().contains("p.snapshot.toml"), "{error}");
        }
    }
}
