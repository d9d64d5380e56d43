//! The build context: which files, and their deterministic tar stream.
//!
//! Sealift's own state (`.sealift` in the context's root: caches, the embedded store) is never part of it: it changes with every build.

use crate::{
    error::{Error, Result},
    files::Exactly,
    ignorefile::IgnoreFile,
    layer::{NewEntry, append},
};
use domain::{config::DockerBuild, event::Task};
use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Component, Path, PathBuf},
};

/// The time of every file in a context: 2000-01-01. Docker's cache does not look at it, so the same content gives the same
/// image; zip files, and so Python wheels, cannot hold one before 1980.
const CONTEXT_TIME: u64 = 946_684_800;

/// BuildKit looks at the first kilobyte to tell an archive from a Dockerfile, and a longer name would fill it with its own record.
const LONGEST_FIRST: usize = 99;

/// Sealift's own folder in a repository.
pub(crate) const STATE: &[u8] = b".sealift";

/// One path of the context.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Included {
    /// Relative to the context, `/` between parts.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: IncludedKind,
    pub(crate) mode: u32,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum IncludedKind {
    Directory,
    File { size: u64 },
    Symlink { target: PathBuf },
}

/// A context that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) root: PathBuf,
    /// Sorted by path.
    pub(crate) entries: Vec<Included>,
    /// Bytes of the files.
    pub(crate) bytes: u64,
    /// Sockets and FIFOs, which are not sent.
    pub(crate) left_out: Vec<String>,
}

/// Decides what is sent. `<Dockerfile>.dockerignore` goes before `.dockerignore`; the Dockerfile and `.dockerignore` are always sent.
pub(crate) fn scan(spec: &DockerBuild, component: &Path) -> Result<Context> {
    let root = component.join(&spec.context);
    if !root.is_dir() {
        return Err(Error::bad_with(
            format!("the build context {} is no folder", root.display()),
            "set build.context, relative to the component's path",
        ));
    }
    let dockerfile = Path::new(&spec.dockerfile);
    if dockerfile.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        let what = format!("the Dockerfile {:?} is not inside the build context", spec.dockerfile);
        return Err(Error::bad_with(what, "move it below build.context, or make build.context the folder above it"));
    }
    if !root.join(dockerfile).is_file() {
        let what = format!("there is no Dockerfile at {}", root.join(dockerfile).display());
        return Err(Error::bad_with(what, "set build.dockerfile, relative to build.context"));
    }
    let ignore = ignore_file(&root, &spec.dockerfile)?;
    let always: Vec<Vec<u8>> = [spec.dockerfile.as_str(), ".dockerignore"].map(normal).into();
    let mut context = Context { root: root.clone(), entries: Vec::new(), bytes: 0, left_out: Vec::new() };
    walk(&root, &[], &ignore, &always, &mut context)?;
    context.entries.sort();
    Ok(context)
}

fn normal(path: &str) -> Vec<u8> {
    let parts: Vec<&[u8]> =
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::as_bytes).collect();
    parts.join(&b'/')
}

fn ignore_file(root: &Path, dockerfile: &str) -> Result<IgnoreFile> {
    for name in [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()] {
        let path = root.join(&name);
        match fs::read(&path) {
            Ok(bytes) => return IgnoreFile::parse(&path.display().to_string(), &String::from_utf8_lossy(&bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(&path, &error)),
        }
    }
    Ok(IgnoreFile::default())
}

fn walk(directory: &Path, path: &[u8], ignore: &IgnoreFile, always: &[Vec<u8>], context: &mut Context) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(|e| unreadable(directory, &e))? {
        let entry = entry.map_err(|e| unreadable(directory, &e))?;
        let below = if path.is_empty() {
            entry.file_name().as_bytes().to_vec()
        } else {
            [path, b"/", entry.file_name().as_bytes()].concat()
        };
        if below == STATE {
            continue;
        }
        let from = entry.path();
        let kind = entry.file_type().map_err(|e| unreadable(&from, &e))?;
        let wanted = always.contains(&below);
        let leads_to_wanted = always.iter().any(|path| path.starts_with(&[&below[..], b"/"].concat()));
        let ignored = ignore.ignores(&below) && !wanted;
        let skip_folder =
            kind.is_dir() && !leads_to_wanted && !ignore.may_return_below(&String::from_utf8_lossy(&below));
        if ignored && (!kind.is_dir() || skip_folder) {
            continue;
        }
        let metadata = entry.metadata().map_err(|e| unreadable(&from, &e))?;
        if kind.is_dir() {
            walk(&from, &below, ignore, always, context)?;
        }
        if ignored {
            continue;
        }
        if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
            context.left_out.push(from.display().to_string());
            continue;
        }
        let kind = if kind.is_dir() {
            IncludedKind::Directory
        } else if kind.is_symlink() {
            IncludedKind::Symlink { target: fs::read_link(&from).map_err(|e| unreadable(&from, &e))? }
        } else {
            context.bytes += metadata.len();
            IncludedKind::File { size: metadata.len() }
        };
        context.entries.push(Included { path: below, kind, mode: metadata.mode() & 0o7777 });
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    let hint = "make it readable, or name it in .dockerignore";
    Error::bad_with(format!("{} of the build context cannot be read: {error}", path.display()), hint)
}

impl Context {
    /// Writes the tar stream. Sorted, owned by 0:0, of one fixed time.
    pub(crate) fn write(&self, out: impl Write, task: &Task) -> Result<()> {
        let failed = |error| Error::file("send", &self.root)(error);
        let mut archive = tar::Builder::new(out);
        if self.entries.first().is_some_and(|first| first.path.len() > LONGEST_FIRST) {
            let root = NewEntry {
                kind: tar::EntryType::Directory,
                path: b"./",
                link: b"",
                mode: 0o755,
                mtime: CONTEXT_TIME,
                size: 0,
            };
            append(&mut archive, &root, io::empty()).map_err(failed)?;
        }
        for entry in &self.entries {
            let mut path = entry.path.clone();
            let (kind, link, size) = match &entry.kind {
                IncludedKind::Directory => (tar::EntryType::Directory, &b""[..], 0),
                IncludedKind::Symlink { target } => (tar::EntryType::Symlink, target.as_os_str().as_bytes(), 0),
                IncludedKind::File { size } => (tar::EntryType::Regular, &b""[..], *size),
            };
            if kind == tar::EntryType::Directory {
                path.push(b'/');
            }
            let new = NewEntry { kind, path: &path, link, mode: entry.mode, mtime: CONTEXT_TIME, size };
            if kind == tar::EntryType::Regular {
                let from = self.root.join(OsStr::from_bytes(&entry.path));
                let mut source = Exactly::open(&from, size, Some(task))?;
                let outcome = append(&mut archive, &new, &mut source).map_err(failed);
                source.settle(outcome)?;
            } else {
                append(&mut archive, &new, io::empty()).map_err(failed)?;
            }
        }
        archive.into_inner().map_err(failed)?.flush().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Events, event::Unit};
    use std::collections::BTreeMap;

    fn spec() -> DockerBuild {
        DockerBuild {
            context: ".".to_owned(),
            dockerfile: "Dockerfile".to_owned(),
            target: None,
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            engine: None,
            platforms: Vec::new(),
            secrets: BTreeMap::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            no_cache: false,
        }
    }

    fn paths(context: &Context) -> Vec<String> {
        context.entries.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
    }

    #[test]
    fn the_context_leaves_out_what_is_ignored_and_always_has_the_build_files() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("Dockerfile", "FROM scratch"),
            (".dockerignore", "*\n!src\n!docs/keep.md\n**/*.pyc\n"),
            ("src/a.py", "a"),
            ("src/a.pyc", "a"),
            ("docs/keep.md", "k"),
            ("docs/drop.md", "d"),
            ("node_modules/x/y", "y"),
            (".sealift/store/blob", "b"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let context = scan(&spec(), root.path()).unwrap();
        assert_eq!(paths(&context), [".dockerignore", "Dockerfile", "docs/keep.md", "src", "src/a.py"]);
        fs::remove_file(root.path().join(".dockerignore")).unwrap();
        assert!(!paths(&scan(&spec(), root.path()).unwrap()).iter().any(|path| path.starts_with(".sealift")));
        fs::write(root.path().join(".dockerignore"), "*").unwrap();
        fs::write(root.path().join("Dockerfile.dockerignore"), "docs\nnode_modules\nsrc\nDockerfile\n*ignore").unwrap();
        let context = scan(&spec(), root.path()).unwrap();
        assert_eq!(paths(&context), [".dockerignore", "Dockerfile"]);
    }

    #[test]
    fn the_same_files_give_the_same_stream() {
        let streams: Vec<Vec<u8>> = (0..2)
            .map(|round| {
                let root = tempfile::tempdir().unwrap();
                let mut names = ["Dockerfile", "b", "a", "sub/c"];
                if round == 1 {
                    names.reverse();
                }
                for name in names {
                    fs::create_dir_all(root.path().join("sub")).unwrap();
                    fs::write(root.path().join(name), name).unwrap();
                }
                std::os::unix::fs::symlink("a", root.path().join("link")).unwrap();
                let context = scan(&spec(), root.path()).unwrap();
                let mut stream = Vec::new();
                context.write(&mut stream, &Events::nowhere().task("context", None, Unit::Bytes)).unwrap();
                stream
            })
            .collect();
        assert!(streams[0] == streams[1]);
    }

    #[test]
    fn a_long_first_name_does_not_hide_that_it_is_an_archive() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("Dockerfile"), "FROM scratch").unwrap();
        let long = format!("{}.txt", "A".repeat(150));
        for (name, first) in [("a", "Dockerfile"), (long.as_str(), "./")] {
            fs::write(root.path().join(name), name).unwrap();
            let mut stream = Vec::new();
            let context = scan(&spec(), root.path()).unwrap();
            context.write(&mut stream, &Events::nowhere().task("context", None, Unit::Bytes)).unwrap();
            assert!(stream.starts_with(format!("{first}\0").as_bytes()), "{name}");
            let mut archive = tar::Archive::new(&stream[..]);
            let paths = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
            assert!(paths.collect::<Vec<_>>().contains(&PathBuf::from(name)));
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let error = scan(&spec(), root.path()).unwrap_err();
        assert!(error.to_string().contains("there is no Dockerfile at"), "{error}");
        assert!(error.hint().unwrap().contains("build.dockerfile"));
        let error = scan(&DockerBuild { dockerfile: "../Dockerfile".to_owned(), ..spec() }, root.path()).unwrap_err();
        assert!(error.to_string().contains("not inside"), "{error}");
        let error = scan(&DockerBuild { context: "nowhere".to_owned(), ..spec() }, root.path()).unwrap_err();
        assert!(error.to_string().contains("nowhere is no folder"), "{error}");
    }
}
