//! What git keeps for DVC: `.dvc` files and `dvc.lock`, read; and a `.dvc` file, written so that everything which is not
//! ours in it stays as it was, comments and order of keys included.

use super::{
    hash::{Kind, Sum},
    listing,
};
use crate::{Error, Result, error::at};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

/// The largest file that is read: one with the versions of some hundred thousand files.
const LARGEST: u64 = 256 << 20;

#[derive(Deserialize)]
struct DvcFile {
    #[serde(default)]
    outs: Vec<OutText>,
    wdir: Option<String>,
    deps: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct LockFile {
    schema: Option<String>,
    stages: Option<BTreeMap<String, LockedStage>>,
}

#[derive(Deserialize)]
struct LockedStage {
    #[serde(default)]
    outs: Vec<OutText>,
}

#[derive(Deserialize)]
struct Pipeline {
    #[serde(default)]
    stages: BTreeMap<String, PipelineStage>,
}

#[derive(Deserialize)]
struct PipelineStage {
    wdir: Option<String>,
    outs: Option<serde_json::Value>,
    metrics: Option<serde_json::Value>,
    plots: Option<serde_json::Value>,
    /// What `foreach` and `matrix` repeat.
    #[serde(rename = "do")]
    repeated: Option<Box<PipelineStage>>,
}

impl PipelineStage {
    /// The stage itself, which may be written below `do`.
    fn definition(&self) -> &Self {
        self.repeated.as_deref().unwrap_or(self)
    }

    /// Whether the stage leaves this out to git.
    fn leaves_to_git(&self, path: &str) -> bool {
        let lists = [&self.outs, &self.metrics, &self.plots].into_iter().flatten().filter_map(|list| list.as_array());
        let mut written = lists.flatten().filter_map(|entry| entry.as_object()).flatten();
        written.any(|(written, flags)| flags["cache"] == false && could_be(written, path))
    }
}

/// Whether a path may be what is written with `${…}` in it.
fn could_be(written: &str, path: &str) -> bool {
    let Some((before, after)) = written.split_once("${") else { return is_path(path, written) };
    let Some(rest) = path.strip_prefix(before) else { return false };
    let after = after.split_once('}').map_or("", |(_, after)| after);
    (0..=rest.len()).any(|at| rest.is_char_boundary(at) && could_be(after, &rest[at..]))
}

#[derive(Deserialize)]
struct OutText {
    path: Option<String>,
    md5: Option<String>,
    hash: Option<String>,
    size: Option<u64>,
    isexec: Option<bool>,
    remote: Option<String>,
    cache: Option<bool>,
    etag: Option<String>,
    checksum: Option<String>,
    files: Option<Vec<FileText>>,
    cloud: Option<BTreeMap<String, CloudText>>,
}

#[derive(Deserialize)]
struct FileText {
    relpath: String,
    md5: Option<String>,
    size: Option<u64>,
    isexec: Option<bool>,
    cloud: Option<BTreeMap<String, CloudText>>,
}

#[derive(Deserialize)]
struct CloudText {
    version_id: Option<String>,
}

/// Where versions of a file are: remote and version.
pub type Versions = BTreeMap<String, String>;

/// One file that DVC names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Raw path below the out; its own name for an out that is one file.
    pub path: Vec<u8>,
    /// Its content.
    pub sum: Sum,
    /// Its size, if DVC wrote it down.
    pub size: Option<u64>,
    /// Whether DVC says that it may be executed.
    pub executable: bool,
    /// Its versions in remotes that keep files under their own names.
    pub versions: Versions,
}

/// What an out is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// One file.
    File(Named),
    /// A directory whose files are listed in an object.
    Listed(Sum),
    /// A directory whose files are listed here.
    Files(Vec<Named>),
}

/// An output that DVC tracks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Out {
    /// The `.dvc` file or `dvc.lock`.
    pub file: PathBuf,
    /// Where the data is.
    pub path: PathBuf,
    /// Its stage, if it is of `dvc.lock`.
    pub stage: Option<String>,
    /// How its MD5s were taken.
    pub kind: Kind,
    /// What it is.
    pub content: Content,
    /// The remote that it says it is in.
    pub remote: Option<String>,
    /// Whether DVC keeps it; false for what it leaves to git (`cache: false`).
    pub kept: bool,
}

/// A path without `.` and `..`.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}

/// Whether a path as written is `name`, but for `.` and slashes. One with `..` is not: where that leads, its folder decides.
fn is_path(written: &str, name: &str) -> bool {
    Path::new(written).components().filter(|part| *part != Component::CurDir).eq(Path::new(name).components())
}

fn wrong(file: &Path, why: impl Into<String>) -> Error {
    Error::Dvc { object: file.display().to_string(), why: why.into() }
}

fn parse<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T> {
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    // The length of the text is bounded; so is the depth. Without aliases nothing grows beyond the text.
    if let Some(budget) = &mut options.budget {
        budget.max_events = usize::MAX;
        budget.max_nodes = usize::MAX;
        budget.max_total_scalar_bytes = usize::MAX;
        budget.max_aliases = 0;
        budget.max_anchors = 0;
    }
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| wrong(file, format!("is not a file of DVC: {}", error.to_string().replace('\n', " "))))
}

fn read(file: &Path) -> Result<String> {
    let size = std::fs::metadata(file).map_err(at("read", file))?.len();
    if size > LARGEST {
        return Err(wrong(file, format!("has {size} bytes, which is too much for a file of DVC")));
    }
    std::fs::read_to_string(file).map_err(at("read", file))
}

/// The outs of a `.dvc` file.
pub fn of_dvc_file(file: &Path) -> Result<Vec<Out>> {
    let parsed: DvcFile = parse(&read(file)?, file)?;
    let folder = clean(&file.parent().unwrap_or(Path::new("")).join(parsed.wdir.unwrap_or_default()));
    parsed.outs.into_iter().map(|out| out_of(out, file, &folder, None)).collect()
}

/// The outs of a `dvc.lock`. A stage's folder is in the `dvc.yaml` beside it.
pub fn of_lock(file: &Path) -> Result<Vec<Out>> {
    let text = read(file)?;
    let parsed: LockFile = parse(&text, file)?;
    let stages = match parsed.stages {
        Some(stages) => stages,
        // Before schema 2.0 the stages stood alone.
        None if parsed.schema.is_none() => parse(&text, file)?,
        None => BTreeMap::new(),
    };
    let folder = file.parent().unwrap_or(Path::new(""));
    let yaml = folder.join("dvc.yaml");
    let pipeline: Pipeline =
        if yaml.is_file() { parse(&read(&yaml)?, &yaml)? } else { Pipeline { stages: BTreeMap::new() } };
    let mut outs = Vec::new();
    for (name, stage) in stages {
        // `stage@item` is an item of the stage.
        let written = pipeline.stages.get(&name).or_else(|| pipeline.stages.get(name.split('@').next()?));
        let written = written.map(PipelineStage::definition);
        let wdir = written.and_then(|stage| stage.wdir.clone()).filter(|wdir| !wdir.contains("${")).unwrap_or_default();
        let folder = clean(&folder.join(wdir));
        for out in stage.outs {
            let path = out.path.clone().unwrap_or_default();
            let mut out = out_of(out, file, &folder, Some(name.clone()))?;
            out.kept &= !written.is_some_and(|stage| stage.leaves_to_git(&path));
            outs.push(out);
        }
    }
    Ok(outs)
}

fn versions(cloud: Option<BTreeMap<String, CloudText>>) -> Versions {
    let cloud = cloud.unwrap_or_default().into_iter();
    cloud.filter_map(|(remote, at)| Some((remote.to_lowercase(), at.version_id?))).collect()
}

fn out_of(out: OutText, file: &Path, folder: &Path, stage: Option<String>) -> Result<Out> {
    let path = out.path.filter(|path| !path.is_empty()).ok_or_else(|| wrong(file, "has an out without a path"))?;
    if path.contains("://") || path.starts_with('/') {
        return Err(wrong(file, format!("tracks {path}, which is not in the repository")));
    }
    let kind = match out.hash.as_deref() {
        Some("md5") => Kind::Md5,
        None | Some("md5-dos2unix") => Kind::Dos2Unix,
        Some(other) => return Err(wrong(file, format!("has a {other} of {path}, and Sealift knows md5 only"))),
    };
    if out.md5.is_none() && out.files.is_none() {
        let why = match out.etag.or(out.checksum) {
            Some(_) => format!("tracks {path} by a name of its storage, not by an md5"),
            None => format!("has no md5 of {path} yet (dvc commit writes it)"),
        };
        return Err(wrong(file, why));
    }
    let sum = |text: Option<&str>, of: &str| {
        text.and_then(Sum::parse).ok_or_else(|| wrong(file, format!("has no usable md5 of {of}")))
    };
    let full = clean(&folder.join(&path));
    let content = match (out.files, out.md5.as_deref()) {
        (Some(files), _) => {
            let mut named = Vec::with_capacity(files.len());
            for entry in files {
                named.push(Named {
                    sum: sum(entry.md5.as_deref(), &entry.relpath)?,
                    path: entry.relpath.into_bytes(),
                    size: entry.size,
                    executable: entry.isexec.unwrap_or(false),
                    versions: versions(entry.cloud),
                });
            }
            listing::sorted(&mut named, |file| &file.path).map_err(|why| wrong(file, why))?;
            Content::Files(named)
        }
        (None, Some(md5)) if md5.ends_with(".dir") => Content::Listed(sum(md5.strip_suffix(".dir"), &path)?),
        (None, md5) => Content::File(Named {
            path: full.file_name().map(|name| name.as_encoded_bytes().to_vec()).unwrap_or_default(),
            sum: sum(md5, &path)?,
            size: out.size,
            executable: out.isexec.unwrap_or(false),
            versions: versions(out.cloud),
        }),
    };
    let kept = out.cache.unwrap_or(true);
    Ok(Out { file: file.to_owned(), path: full, stage, kind, content, remote: out.remote, kept })
}

/// What an existing `.dvc` file says of where DVC keeps the data `name` beside it: the remote, and whether DVC keeps it at all.
pub fn kept_in(text: &str, file: &Path, name: &str) -> Result<(Option<String>, bool)> {
    let parsed: DvcFile = parse(text, file)?;
    let out = parsed.outs.into_iter().find(|out| out.path.as_deref().is_some_and(|path| is_path(path, name)));
    Ok(out.map_or((None, true), |out| (out.remote, out.cache.unwrap_or(true))))
}

/// What is to be written of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// `…` or `….dir`.
    pub md5: String,
    /// Sum of the sizes.
    pub size: u64,
    /// Number of files, for a directory.
    pub files: Option<u64>,
    /// Whether it is one file that may be executed.
    pub executable: bool,
}

/// The text of a `.dvc` file for the data `name` beside it, made from the text that is there.
pub fn updated(old: Option<&str>, file: &Path, name: &str, new: &Written) -> Result<String> {
    let Some(old) = old.filter(|old| !old.trim().is_empty()) else {
        let mut text = String::from("outs:\n");
        for (number, (key, value)) in fields(new).into_iter().chain([("path", scalar(name))]).enumerate() {
            text.push_str(if number == 0 { "- " } else { "  " });
            text.push_str(&format!("{key}: {value}\n"));
        }
        return Ok(text);
    };
    let parsed: DvcFile = parse(old, file)?;
    if parsed.deps.is_some_and(|deps| !deps.is_empty()) {
        return Err(wrong(file, "records a dvc import, which an export would cut off from its source"));
    }
    if parsed.wdir.is_some_and(|wdir| !is_path(&wdir, "")) {
        return Err(wrong(file, "has a wdir, which an export does not write into"));
    }
    let index = parsed.outs.iter().position(|out| out.path.as_deref().is_some_and(|path| is_path(path, name)));
    let index = index.ok_or_else(|| wrong(file, format!("tracks other data than {name}")))?;
    let text = edited(old, index, new).ok_or_else(|| {
        wrong(file, "is written in a way that cannot be changed line by line (dvc commit puts it in DVC's own way)")
    })?;
    // What was meant is what a reader sees, or nothing is written.
    let check: DvcFile = parse(&text, file)?;
    let out = check.outs.get(index);
    let holds = out.is_some_and(|out| {
        out.md5.as_deref() == Some(new.md5.as_str())
            && out.hash.as_deref() == Some("md5")
            && out.size == Some(new.size)
            && out.isexec.unwrap_or(false) == new.executable
            && out.files.is_none()
            && out.cloud.is_none()
            && check.outs.len() == parsed.outs.len()
    });
    if holds { Ok(text) } else { Err(wrong(file, "cannot be changed line by line")) }
}

fn fields(new: &Written) -> Vec<(&'static str, String)> {
    let mut fields = vec![("md5", scalar(&new.md5)), ("size", new.size.to_string())];
    fields.extend(new.files.map(|files| ("nfiles", files.to_string())));
    if new.executable {
        fields.push(("isexec", "true".to_owned()));
    }
    fields.push(("hash", "md5".to_owned()));
    fields
}

/// A text as YAML: plain where nobody could take it for anything else, otherwise in double quotes.
fn scalar(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && !looks_like_something_else(text);
    if plain { text.to_owned() } else { serde_json::to_string(text).unwrap_or_default() }
}

/// Numbers, dates and words that YAML of any version reads as another thing than text.
fn looks_like_something_else(text: &str) -> bool {
    const WORDS: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];
    let number = |c: char| c.is_ascii_digit() || matches!(c, 'e' | 'E' | '.' | '_' | '+' | '-' | 'x' | 'o' | 'b');
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
        || (digits && text.chars().all(number))
        || (digits && text.starts_with("0x"))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn is_blank(line: &str) -> bool {
    let text = line.trim();
    text.is_empty() || text.starts_with('#')
}

/// Sets the fields of the out with this number, in block style; `None` where the text is in another style.
fn edited(text: &str, number: usize, new: &Written) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let outs = lines.iter().position(|line| line.trim_end() == "outs:" || line.starts_with("outs: #"))?;
    let dash = indent(lines[outs + 1..].iter().find(|line| !is_blank(line))?);
    let begins = |line: &String| indent(line) == dash && line[dash..].starts_with("- ");
    let ends = |line: &String| !is_blank(line) && (indent(line) < dash || (indent(line) == dash && !begins(line)));
    let end_of_list = (outs + 1..lines.len()).find(|at| ends(&lines[*at])).unwrap_or(lines.len());
    let items: Vec<usize> = (outs + 1..end_of_list).filter(|at| begins(&lines[*at])).collect();
    let from = *items.get(number)?;
    let to = items.get(number + 1).copied().unwrap_or(end_of_list);
    // The first key stands behind the dash; as a line of its own it is like the others.
    let inner = dash + lines[from][dash..].find(|c: char| c != '-' && c != ' ')?;
    lines[from].replace_range(dash..=dash, " ");
    let key_of = |line: &str| -> Option<String> {
        let plain = indent(line) == inner && !is_blank(line) && !line[inner..].starts_with('-');
        plain.then(|| line[inner..].split_once(':').map(|(key, _)| key.trim().to_owned())).flatten()
    };
    let mut item: Vec<String> = lines[from..to].to_vec();
    // Keys whose values are another matter from now on, with the lines that belong to them.
    let wanted = fields(new);
    for gone in ["md5", "size", "nfiles", "isexec", "hash", "files", "cloud", "etag", "version_id", "checksum"] {
        if wanted.iter().any(|(key, _)| *key == gone) {
            continue;
        }
        if let Some(place) = item.iter().position(|line| key_of(line).as_deref() == Some(gone)) {
            let nested =
                item[place + 1..].iter().take_while(|line| key_of(line).is_none() && !line.trim().starts_with('#'));
            let count = nested.count();
            item.drain(place..=place + count);
        }
    }
    let mut before = 0;
    for (key, value) in wanted {
        let place = item.iter().position(|line| key_of(line).as_deref() == Some(key));
        match place {
            Some(place) => {
                let comment = item[place].find(" #").map(|at| item[place][at..].to_owned()).unwrap_or_default();
                item[place] = format!("{}{key}: {value}{comment}", " ".repeat(inner));
                before = place + 1;
            }
            None => {
                item.insert(before, format!("{}{key}: {value}", " ".repeat(inner)));
                before += 1;
            }
        }
    }
    let first = item.iter().position(|line| key_of(line).is_some())?;
    item[first].replace_range(dash..=dash, "-");
    lines.splice(from..to, item);
    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outs(name: &str, text: &str) -> Result<Vec<Out>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let found = if name == "dvc.lock" { of_lock(&file) } else { of_dvc_file(&file) };
        found.map(|mut outs| {
            for out in &mut outs {
                out.path = out.path.strip_prefix(folder.path()).unwrap().to_owned();
            }
            outs
        })
    }

    const SUM: &str = "c9e54dcdc25c1fb64ed81c81d26609fd";

    #[test]
    fn what_a_stage_leaves_to_git_is_known_also_behind_a_template() {
        let folder = tempfile::tempdir().unwrap();
        let lock = format!(
            "schema: '2.0'\nstages:\n  t@a:\n    cmd: x\n    outs:\n    - path: m-a.json\n      hash: md5\n      md5: {SUM}\n    \
             - path: out/a\n      hash: md5\n      md5: {SUM}\n"
        );
        std::fs::write(folder.path().join("dvc.lock"), lock).unwrap();
        let yaml = "stages:\n  t:\n    foreach: [a]\n    do:\n      cmd: x\n      outs:\n      - out/${item}\n      metrics:\n      - m-${item}.json:\n          cache: false\n";
        std::fs::write(folder.path().join("dvc.yaml"), yaml).unwrap();
        let outs = of_lock(&folder.path().join("dvc.lock")).unwrap();
        let kept: Vec<bool> = outs.iter().map(|out| out.kept).collect();
        assert_eq!(kept, [false, true]);
        for (written, path, is) in [
            ("a", "./a", true),
            ("${x}", "", true),
            ("a${x}c", "abc", true),
            ("a${x}c${y}", "abcd", true),
            ("a${x}c", "abcd", false),
            ("é${x}é", "ééé", true),
        ] {
            assert_eq!(could_be(written, path), is, "{written} {path}");
        }
    }

    #[test]
    fn where_dvc_keeps_the_data_of_a_file_is_read() {
        let kept = |text: &str| kept_in(text, Path::new("a.dvc"), "a").unwrap();
        assert_eq!(kept("outs:\n- path: ./a\n  remote: r\n"), (Some("r".to_owned()), true));
        assert_eq!(kept("outs:\n- path: b\n  remote: r\n- path: a\n  cache: false\n"), (None, false));
    }

    #[test]
    fn both_generations_of_dvc_files_are_read() {
        let new =
            outs("data.dvc", &format!("outs:\n- md5: {SUM}.dir\n  size: 23\n  nfiles: 7\n  hash: md5\n  path: data\n"));
        let new = new.unwrap().pop().unwrap();
        assert_eq!((new.path.as_path(), new.kind), (Path::new("data"), Kind::Md5));
        assert_eq!(new.content, Content::Listed(Sum::parse(SUM).unwrap()));
        let old =
            outs("x.dvc", &format!("wdir: sub/..\nouts:\n- md5: {SUM}\n  size: 5\n  isexec: true\n  path: a b\n"));
        let old = old.unwrap().pop().unwrap();
        assert_eq!((old.path.as_path(), old.kind), (Path::new("a b"), Kind::Dos2Unix));
        let Content::File(file) = old.content else { panic!() };
        assert_eq!((file.size, file.executable, file.path.as_slice()), (Some(5), true, &b"a b"[..]));
        let digits = "12345678901234567890123456789012";
        let number = outs("x.dvc", &format!("outs:\n- md5: '{digits}'\n  hash: md5\n  path: n\n")).unwrap();
        assert!(matches!(&number[0].content, Content::File(file) if file.sum.to_string() == digits));
    }

    #[test]
    fn cloud_versions_are_read() {
        let text = format!(
            "outs:\n- path: data\n  hash: md5\n  files:\n  - relpath: b/c\n    md5: {SUM}\n    size: 3\n    cloud:\n      St:\n        etag: e\n        version_id: v1\n  - relpath: a\n    md5: {SUM}\n    size: 4\n"
        );
        let out = outs("data.dvc", &text).unwrap().pop().unwrap();
        let Content::Files(files) = out.content else { panic!() };
        assert_eq!(files[0].path, b"a");
        assert_eq!(files[1].versions.get("st").map(String::as_str), Some("v1"));
        let hostile = text.replace("relpath: a\n", "relpath: ../a\n");
        assert!(outs("data.dvc", &hostile).unwrap_err().to_string().contains("'..'"));
    }

    #[test]
    fn locks_of_both_schemas_are_read() {
        let stage = format!(
            "cmd: x\n    deps:\n    - path: d\n      md5: {SUM}\n    outs:\n    - path: m/o\n      hash: md5\n      md5: {SUM}\n      size: 1\n"
        );
        let new = outs("dvc.lock", &format!("schema: '2.0'\nstages:\n  train@1:\n    {stage}")).unwrap();
        assert_eq!((new[0].path.as_path(), new[0].stage.as_deref()), (Path::new("m/o"), Some("train@1")));
        let old = outs("dvc.lock", &format!("train:\n    {stage}")).unwrap();
        assert_eq!(old[0].path, new[0].path);
        assert_eq!(outs("dvc.lock", "schema: '2.0'\n").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, word) in [
            ("outs: 3\n", "not a file of DVC"),
            ("outs:\n- md5: 1\n", "without a path"),
            ("outs:\n- path: a\n", "no md5 of a yet"),
            ("outs:\n- path: a\n  etag: x\n", "by a name of its storage"),
            ("outs:\n- path: a\n  md5: zz\n", "no usable md5"),
            ("outs:\n- path: /a\n  md5: zz\n", "not in the repository"),
            ("outs:\n- path: s3://b/a\n  md5: zz\n", "not in the repository"),
            ("outs:\n- path: a\n  hash: sha1\n  md5: zz\n", "sha1"),
            ("a: &a [x]\nouts: [*a, *a]\n", "not a file of DVC"),
        ] {
            let error = outs("x.dvc", text).unwrap_err();
            assert!(error.to_string().contains(word), "{text:?}: {error}");
            assert_eq!(error.class(), domain::Class::BadInput);
        }
        assert!(outs("x.dvc", &"[".repeat(1_000_000)).is_err(), "a deep one");
    }

    fn directory() -> Written {
        Written { md5: format!("{SUM}.dir"), size: 23, files: Some(7), executable: false }
    }

    fn file() -> Written {
        Written { md5: SUM.to_owned(), size: 5, files: None, executable: true }
    }

    #[test]
    fn a_new_file_is_as_dvc_writes_it() {
        let at = Path::new("data.dvc");
        assert_eq!(
            updated(None, at, "data", &directory()).unwrap(),
            format!("outs:\n- md5: {SUM}.dir\n  size: 23\n  nfiles: 7\n  hash: md5\n  path: data\n")
        );
        assert_eq!(
            updated(None, at, "na ïve", &file()).unwrap(),
            format!("outs:\n- md5: {SUM}\n  size: 5\n  isexec: true\n  hash: md5\n  path: \"na ïve\"\n")
        );
        assert_eq!(scalar("12345678901234567890123456789012"), "\"12345678901234567890123456789012\"");
        assert_eq!(scalar("1234567890123456789012345678e012"), "\"1234567890123456789012345678e012\"");
        assert_eq!(scalar("yes"), "\"yes\"");
        assert_eq!(scalar("a: b"), "\"a: b\"");
    }

    #[test]
    fn comments_order_and_other_keys_stay() {
        let at = Path::new("data.dvc");
        let old = "# kept\nmeta:\n  who: me   # a note\nouts:\n# about it\n- path: data # the data\n  desc: raw\n  md5: 00000000000000000000000000000000 # sum\n  size: 1\n  isexec: true\n  # before labels\n  labels:\n  - a\n  - b\n- path: other\n  md5: 00000000000000000000000000000001\nfrozen: true\n";
        let new = updated(Some(old), at, "data", &directory()).unwrap();
        assert_eq!(
            new,
            format!(
                "# kept\nmeta:\n  who: me   # a note\nouts:\n# about it\n- path: data # the data\n  desc: raw\n  md5: {SUM}.dir # sum\n  size: 23\n  nfiles: 7\n  hash: md5\n  # before labels\n  labels:\n  - a\n  - b\n- path: other\n  md5: 00000000000000000000000000000001\nfrozen: true\n"
            )
        );
        assert_eq!(updated(Some(&new), at, "data", &directory()).unwrap(), new, "a second time nothing changes");
        let back = updated(Some(&new), at, "data", &file()).unwrap();
        assert!(back.contains("isexec: true") && !back.contains("nfiles"), "{back}");
        // The versions of another remote say nothing of the new content.
        let cloud = format!(
            "outs:\n- path: data\n  hash: md5\n  files:\n  - relpath: a\n    md5: {SUM}\n    cloud:\n      st:\n        version_id: x\n  desc: y\n"
        );
        let plain = updated(Some(&cloud), at, "data", &directory()).unwrap();
        assert!(!plain.contains("relpath") && !plain.contains("version_id") && plain.ends_with("desc: y\n"), "{plain}");
        let indented = format!("outs:\n  - md5: {SUM}\n    size: 1\n    path: data\n");
        assert!(updated(Some(&indented), at, "data", &file()).unwrap().starts_with("outs:\n  - md5: "));
    }

    #[test]
    fn what_cannot_be_edited_is_left_alone() {
        let at = Path::new("data.dvc");
        for (old, word) in [
            (format!("outs: [{{md5: {SUM}, path: data}}]\n"), "line by line"),
            (format!("outs:\n- md5: {SUM}\n  path: more\n"), "other data"),
            (format!("deps:\n- path: x\nouts:\n- md5: {SUM}\n  path: data\n"), "dvc import"),
            (format!("wdir: ..\nouts:\n- md5: {SUM}\n  path: data\n"), "wdir"),
            (format!("outs:\n- md5: {SUM}\n  path: ../data\n"), "other data"),
        ] {
            let error = updated(Some(&old), at, "data", &directory()).unwrap_err().to_string();
            assert!(error.contains(word), "{old}: {error}");
        }
    }
}
