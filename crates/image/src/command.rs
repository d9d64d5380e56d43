//! The `command` builder: any program that leaves an OCI layout, a docker archive or plain files.

use crate::{
    error::{Error, Result, count, joined},
    import::{import_docker_archive, import_layout},
    layer::{BUFFER, Hashing},
    layout::Built,
    process::{Out, Run},
};
use domain::{
    Digest, Events,
    config::{CommandBuild, CommandOutput},
};
use regex::Regex;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// The most files that a build may leave.
const MAX_FILES: usize = 100_000;

/// A file that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its name in the release: relative, with `/` between the parts.
    pub path: String,
    /// A copy of its own, which nothing changes any more.
    pub file: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: u64,
}

/// What a build leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one for each build")]
pub enum Output {
    /// An image, in a verified layout.
    Image(Built),
    /// Plain files, in the order in which they are to be published.
    Files(Vec<Artifact>),
}

/// Runs a command in the component's folder and takes what it leaves to `to`.
///
/// It is no shell. It sees the environment of this process, `env`, and `SEALIFT_VERSION`, `SOURCE_DATE_EPOCH` (from `created`) and `SEALIFT_OUTPUT`: the path at
/// which the layout or archive is expected, or the component's folder where files are taken. Its lines become events. When it ends, fails, takes too long or is
/// cancelled (the future is dropped), its process group is killed.
///
/// A pattern that matches no file, a file that is a link out of the component, and one that changes while it is copied are bad input.
pub async fn build_command(
    spec: &CommandBuild,
    folder: &Path,
    version: &str,
    created: jiff::Timestamp,
    to: &Path,
    events: &Events,
) -> Result<Output> {
    let Some((program, arguments)) = spec.run.split_first() else {
        return Err(Error::bad_with("the builder \"command\" has no command", "write run = [\"make\", \"image\"]"));
    };
    let folder = std::path::absolute(folder).map_err(Error::file("find", folder))?;
    let output = match &spec.output {
        CommandOutput::OciLayout(path) | CommandOutput::DockerArchive(path) => inside(&folder, path)?,
        CommandOutput::Files(_) => folder.clone(),
    };
    let mut env: Vec<(String, OsString)> = spec.env.iter().map(|(key, value)| (key.clone(), value.into())).collect();
    env.push(("SEALIFT_VERSION".to_owned(), version.into()));
    env.push(("SOURCE_DATE_EPOCH".to_owned(), created.as_second().max(0).to_string().into()));
    env.push(("SEALIFT_OUTPUT".to_owned(), output.clone().into()));
    let run = Run {
        program: program.as_ref(),
        arguments: arguments.iter().map(OsString::from).collect(),
        folder: &folder,
        env,
        timeout: Some(spec.timeout),
        out: Out::Lines,
    };
    let shown = run.shown();
    let ended = run.run(events).await?.success(&shown, Some(spec.timeout))?;
    let (kind, to, tail) = (spec.output.clone(), to.to_owned(), ended.tail);
    let work = tokio::task::spawn_blocking(move || take(&kind, &folder, &output, &to, tail));
    let output = joined("take what the command left to", work.await)?.map_err(|error| match error {
        Error::BadInput { what, hint: None } => Error::bad_with(what, format!("look at what {shown} writes")),
        other => other,
    })?;
    if let Output::Files(files) = &output {
        events.note(format!("{} built", count(files.len() as u64, "file", "files")));
    }
    Ok(output)
}

/// A path of the configuration below the component.
fn inside(folder: &Path, path: &str) -> Result<PathBuf> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if path.is_empty() || !plain {
        return Err(Error::bad_with(
            format!("{path:?} is no path inside the component"),
            "write it relative, without ..",
        ));
    }
    Ok(folder.join(path))
}

/// Where a path really is, if that is still in the component.
fn really_inside(folder: &Path, path: &Path, shown: &str) -> Result<PathBuf> {
    let root = fs::canonicalize(folder).map_err(Error::file("find", folder))?;
    let real = match fs::canonicalize(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::bad(format!("the command left no {shown}")));
        }
        other => other.map_err(Error::file("find", path))?,
    };
    if !real.starts_with(&root) {
        return Err(Error::bad(format!("{shown} is a link out of the component, to {}", real.display())));
    }
    Ok(real)
}

fn take(kind: &CommandOutput, folder: &Path, output: &Path, to: &Path, tail: Vec<String>) -> Result<Output> {
    let built = match kind {
        CommandOutput::Files(patterns) => return files(patterns, folder, to).map(Output::Files),
        CommandOutput::OciLayout(path) => import_layout(&really_inside(folder, output, path)?, to)?,
        CommandOutput::DockerArchive(path) => {
            let real = really_inside(folder, output, path)?;
            let before = Stamp::of(&real)?;
            let built = import_docker_archive(&real, to)?;
            before.still(&real, path)?;
            built
        }
    };
    Ok(Output::Image(Built { log_tail: tail, ..built }))
}

/// What changes when a file is written.
#[derive(Debug, PartialEq, Eq)]
struct Stamp(u64, u64, u64, i64, i64, i64, i64);

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(Error::file("read", path))?;
        Ok(Self(
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ))
    }

    fn still(&self, path: &Path, shown: &str) -> Result<()> {
        if *self == Self::of(path)? {
            return Ok(());
        }
        Err(Error::bad(format!("{shown} changed while it was read; the command left something running")))
    }
}

/// A pattern: `*` and `?` within a name, `[…]` one character, `**` any number of folders.
struct Pattern {
    text: String,
    /// The folders before the first wildcard.
    base: PathBuf,
    regex: Regex,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let cleaned = text.trim_start_matches("./");
        let bad = || Error::bad_with(format!("{text:?} is no pattern of files"), "write it as dist/*.whl");
        let parts: Vec<&str> = cleaned.split('/').collect();
        if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return Err(bad());
        }
        let wild = |part: &&str| part.contains(['*', '?', '[']);
        let plain = parts.iter().take(parts.len() - 1).take_while(|part| !wild(part));
        let base = plain.collect::<PathBuf>();
        let mut expression = String::from("^");
        for (number, part) in parts.iter().enumerate() {
            let last = number + 1 == parts.len();
            match (*part, last) {
                ("**", false) => expression.push_str("(?:[^/]+/)*"),
                ("**", true) => expression.push_str(".+"),
                (part, last) => {
                    expression.push_str(&name_expression(part).ok_or_else(bad)?);
                    expression.push_str(if last { "" } else { "/" });
                }
            }
        }
        expression.push('$');
        let regex = Regex::new(&expression).map_err(|_| bad())?;
        Ok(Self { text: text.to_owned(), base, regex })
    }
}

fn name_expression(part: &str) -> Option<String> {
    let mut expression = String::new();
    let mut rest = part.chars();
    while let Some(character) = rest.next() {
        match character {
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '[' => {
                let (class, after) = rest.as_str().split_once(']')?;
                let (negated, class) = match class.strip_prefix(['!', '^']) {
                    Some(class) => ("^/", class),
                    None => ("", class),
                };
                // Escaped one by one, except the hyphen of a range.
                let escaped: String = class
                    .chars()
                    .map(|c| if c == '-' { "-".to_owned() } else { regex::escape(&c.to_string()) })
                    .collect();
                expression.push_str(&format!("[{negated}{escaped}]"));
                rest = after.chars();
            }
            other => expression.push_str(&regex::escape(&other.to_string())),
        }
    }
    Some(expression)
}

/// Copies every file that a pattern matches, in the order of the names.
fn files(patterns: &[String], folder: &Path, to: &Path) -> Result<Vec<Artifact>> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for pattern in patterns {
        let pattern = Pattern::parse(pattern)?;
        let matched = matches(&pattern, folder)?;
        if matched.is_empty() {
            return Err(Error::bad(format!("the command left no file that matches {:?}", pattern.text)));
        }
        found.extend(matched);
        if found.len() > MAX_FILES {
            return Err(Error::bad(format!("the patterns match more than {MAX_FILES} files")));
        }
    }
    found.iter().map(|(path, real)| copy(path, real, to)).collect()
}

fn matches(pattern: &Pattern, folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut matched = BTreeMap::new();
    let base = folder.join(&pattern.base);
    if fs::symlink_metadata(&base).is_err() {
        return Ok(matched);
    }
    let shown = pattern.base.display().to_string();
    let start = if pattern.base.as_os_str().is_empty() { base.clone() } else { really_inside(folder, &base, &shown)? };
    for entry in walkdir::WalkDir::new(&start).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(&start).to_owned();
            Error::file("list", &path)(error.into())
        })?;
        let below = entry.path().strip_prefix(&start).unwrap_or(entry.path());
        let relative = pattern.base.join(below);
        if entry.file_type().is_dir() {
            continue;
        }
        let Some(name) = relative.to_str() else {
            if pattern.regex.is_match(&relative.to_string_lossy()) {
                return Err(Error::bad(format!("{} has a name that is no UTF-8", relative.display())));
            }
            continue;
        };
        if !pattern.regex.is_match(name) {
            continue;
        }
        let real = if entry.file_type().is_symlink() {
            let real = really_inside(folder, entry.path(), name)?;
            if real.is_dir() {
                continue;
            }
            real
        } else {
            entry.path().to_owned()
        };
        if !fs::metadata(&real).map_err(Error::file("read", &real))?.is_file() {
            return Err(Error::bad(format!("{name} is no plain file")));
        }
        matched.insert(name.to_owned(), real);
    }
    Ok(matched)
}

fn copy(path: &str, real: &Path, to: &Path) -> Result<Artifact> {
    let target = to.join(path);
    let folder = target.parent().unwrap_or(to);
    fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    let before = Stamp::of(real)?;
    let mut from = File::open(real).map_err(Error::file("open", real))?;
    let copy = File::create_new(&target).map_err(Error::file("create", &target))?;
    let mut hashing = Hashing::new(copy);
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).map_err(Error::file("read", real))?;
        if read == 0 {
            break;
        }
        hashing.write_all(&buffer[..read]).map_err(Error::file("write", &target))?;
    }
    let (_, digest, bytes) = hashing.finish();
    before.still(real, path)?;
    if bytes != before.2 {
        return Err(Error::bad(format!("{path} changed while it was read; the command left something running")));
    }
    Ok(Artifact { path: path.to_owned(), file: target, digest, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_and_folders() {
        let is = |pattern: &str, name: &str| Pattern::parse(pattern).unwrap().regex.is_match(name);
        assert!(
            is("dist/*.whl", "dist/a-1.0.whl") && !is("dist/*.whl", "dist/x/a.whl") && !is("dist/*.whl", "dist/awhl")
        );
        assert!(is("**/*.crate", "a.crate") && is("**/*.crate", "x/y/a.crate"));
        assert!(is("a/**", "a/b/c") && !is("a/**", "a"));
        assert!(is("v[0-9].?", "v1.x") && !is("v[!0-9]", "v1") && is("./a+b", "a+b") && !is("a+b", "aab"));
        assert!(!is("x[!a]y", "x/y"));
        for bad in ["", "/etc/passwd", "../x", "a//b", "a[", "a/"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Pattern::parse("a/b/*.c").unwrap().base, Path::new("a/b"));
        assert_eq!(Pattern::parse("a/b").unwrap().base, Path::new("a"));
    }
}
