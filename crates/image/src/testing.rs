//! Parsers of this crate that nobody outside needs, as functions of bytes: for fuzzing. Only with the feature `testing`.
//!
//! Each says whether it accepted the bytes.

use crate::{
    credentials, docker,
    ignorefile::IgnoreFile,
    registry,
    tarread::{Kind, TarReader},
};

/// A tar archive, read to its end.
///
/// # Panics
///
/// When an entry that was accepted has a NUL in its name, or content that the archive does not have.
pub fn tar(bytes: &[u8]) -> bool {
    let mut archive = TarReader::new(bytes);
    let mut content = 0;
    let mut buffer = [0; 512];
    loop {
        let entry = match archive.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(_) => return false,
        };
        assert!(!entry.path.contains(&0) && !entry.link.contains(&0), "a NUL in {entry:?}");
        assert!(entry.kind == Kind::File || entry.size == 0, "content of {entry:?}");
        assert!(entry.mode <= 0o7777);
        let mut left = entry.size;
        loop {
            match archive.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => left -= read as u64,
                Err(_) => return false,
            }
        }
        assert_eq!(left, 0, "content of {entry:?} is missing");
        content += entry.size;
    }
    assert!(content <= bytes.len() as u64);
    archive.drain().is_ok()
}

/// A manifest or index that a registry sent.
pub fn registry_document(bytes: &[u8]) -> bool {
    registry::document_understood(bytes)
}

/// A registry's list of what is attached to an image.
pub fn referrers(bytes: &[u8]) -> bool {
    registry::index_understood(bytes)
}

/// Docker's `config.json`.
pub fn docker_config(bytes: &[u8]) -> bool {
    credentials::understood(bytes)
}

/// A `WWW-Authenticate` header: accepted when it has a way to log in.
pub fn challenge(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !registry::challenges(text).is_empty())
}

/// A `.dockerignore`.
///
/// # Panics
///
/// When two looks at one path differ.
pub fn ignore_file(bytes: &[u8]) -> bool {
    let Ok(file) = IgnoreFile::parse(".dockerignore", &String::from_utf8_lossy(bytes)) else { return false };
    for path in ["", "a", "src/a.py", "docs/keep.md", "a/b/c/d/e", "\u{fffd}"] {
        assert_eq!(file.ignores(path.as_bytes()), file.ignores(path.as_bytes()));
        let _ = file.may_return_below(path);
    }
    true
}

/// A Dockerfile, in which the lines of steps are found: accepted when there is one.
///
/// # Panics
///
/// When a line is found that the file does not have.
pub fn dockerfile(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let last = text.lines().count();
    let steps = [
        "[1/2] FROM scratch",
        "[2/2] COPY a /a",
        "[stage 2/3] RUN echo b",
        "[internal] load build definition",
        "Step 2/3 : COPY a /a",
        "RUN echo b",
    ];
    let found = docker::dockerfile_lines(&text, &steps);
    assert!(found.iter().all(|line| (1..=last).contains(line)), "{found:?} of {last} lines");
    !found.is_empty()
}
