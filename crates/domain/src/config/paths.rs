//! Paths in the configuration: decided by their text alone, for nothing here looks at a disk.

use super::reader::Reader;

/// Reports a path that is absolute, or that leaves the repository when it is followed from `base`.
pub(super) fn inside_repository(reader: &Reader<'_>, key: &str, base: &str, path: &str) {
    if path.starts_with('/') || path.contains('\\') || path.contains('\0') {
        reader.problem(key, "must be a relative path with forward slashes");
        return;
    }
    let mut depth = 0_i64;
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            reader.problem(key, "leads out of the repository");
            return;
        }
    }
}

/// Reports a path of an image or a container that is not absolute and plain.
pub(super) fn absolute_path(reader: &Reader<'_>, key: &str, path: &str) {
    let plain = path
        .strip_prefix('/')
        .is_some_and(|rest| !rest.split('/').any(|part| matches!(part, "." | "..")) && !rest.contains('\0'));
    if !plain {
        reader.problem(key, "must be an absolute path without . and .., for example \"/app\"");
    }
}

/// The parts of a path, without `.` and empty ones, to compare two.
pub(super) fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect()
}
