//! DVC's configuration: four INI files, each overriding the ones before it, and the remote that a name means.

use super::files::clean;
use crate::{Error, Result, error::at};
use domain::secret::Secret;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use store::{Access, Foreign};

/// Where DVC's files outside of a repository are. The caller knows the environment; this crate does not read it.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Folder of the system's `config` (`/etc/xdg/dvc`).
    pub system: PathBuf,
    /// Folder of the person's `config` (`~/.config/dvc`).
    pub global: PathBuf,
    /// The home folder, for `~`.
    pub home: PathBuf,
    /// The file that `AWS_SHARED_CREDENTIALS_FILE` names, which goes before a remote's `credentialpath`.
    pub credentials_file: Option<PathBuf>,
}

type Section = BTreeMap<String, String>;

/// The merged configuration of a repository.
#[derive(Debug, Clone, Default)]
pub struct Config {
    sections: BTreeMap<String, Section>,
}

/// Settings of a remote that hold paths, relative to the file that they are in.
const PATHS: [&str; 3] = ["url", "credentialpath", "configpath"];

impl Config {
    /// Reads what there is of the four files. `dvc` is the folder `.dvc`.
    pub fn read(dvc: &Path, surroundings: &Surroundings) -> Result<Self> {
        let mut config = Self::default();
        for (folder, name) in [
            (surroundings.system.as_path(), "config"),
            (surroundings.global.as_path(), "config"),
            (dvc, "config"),
            (dvc, "config.local"),
        ] {
            let file = folder.join(name);
            let text = match std::fs::read_to_string(&file) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at("read", file)(error)),
            };
            let sections = parse(&text).map_err(|(line, why)| Error::Dvc {
                object: file.display().to_string(),
                why: format!("is no configuration of DVC: line {line}: {why}"),
            })?;
            config.merge(sections, folder, &surroundings.home);
        }
        Ok(config)
    }

    fn merge(&mut self, sections: BTreeMap<String, Section>, folder: &Path, home: &Path) {
        for (name, section) in sections {
            let is_remote = name.starts_with("remote ");
            let into = self.sections.entry(name.clone()).or_default();
            for (key, value) in section {
                let path = (is_remote && PATHS.contains(&key.as_str())) || (name == "cache" && key == "dir");
                let value = if path { resolve(folder, home, &value) } else { value };
                into.insert(key, value);
            }
        }
    }

    fn get(&self, section: &str, key: &str) -> Option<&str> {
        self.sections.get(section)?.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `core.remote`.
    pub fn default_remote(&self) -> Option<&str> {
        self.get("core", "remote")
    }

    /// `cache.dir`, or `.dvc/cache`.
    pub fn cache(&self, dvc: &Path) -> PathBuf {
        self.get("cache", "dir").map_or_else(|| dvc.join("cache"), PathBuf::from)
    }

    /// The names of all remotes.
    pub fn remotes(&self) -> Vec<&str> {
        let name = |section: &'_ String| -> Option<(usize, usize)> {
            section.strip_prefix("remote ").map(|name| (section.len() - name.len(), section.len()))
        };
        self.sections.keys().filter_map(|key| name(key).map(|(from, to)| &key[from..to])).collect()
    }

    /// The remote of a name; `remote://other/path` is the other one with a path below it.
    pub fn remote(&self, name: &str) -> Result<Remote> {
        let settings = self.settings(&name.to_lowercase(), 0)?;
        let Some(url) = settings.get("url") else {
            return Err(Error::Dvc { object: format!("the DVC remote {name}"), why: "has no url".to_owned() });
        };
        Remote::new(name, url, settings.clone())
    }

    fn settings(&self, name: &str, depth: usize) -> Result<Section> {
        let object = || format!("the DVC remote {name}");
        let Some(section) = self.sections.get(&format!("remote {name}")) else {
            let known = match self.remotes() {
                known if known.is_empty() => "there is none".to_owned(),
                known => format!("there are {}", known.join(", ")),
            };
            return Err(Error::DvcMissing { object: object(), places: format!("in DVC's configuration {known}") });
        };
        let mut settings = section.clone();
        if let Some(rest) = section.get("url").and_then(|url| url.strip_prefix("remote://")) {
            if depth > 10 {
                return Err(Error::Dvc { object: object(), why: "refers to itself".to_owned() });
            }
            let (base, path) = rest.split_once('/').unwrap_or((rest, ""));
            let base = self.settings(&base.to_lowercase(), depth + 1)?;
            let below = base.get("url").map(|url| format!("{}/{path}", url.trim_end_matches('/')));
            settings.extend(below.map(|url| ("url".to_owned(), url)));
            for (key, value) in base {
                settings.entry(key).or_insert(value);
            }
        }
        Ok(settings)
    }
}

/// A path of a configuration file; URLs stay.
fn resolve(folder: &Path, home: &Path, value: &str) -> String {
    if value.contains("://") || value.starts_with('/') {
        return value.to_owned();
    }
    let path = match value.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None if value == "~" => home.to_owned(),
        None => clean(&folder.join(value)),
    };
    path.to_string_lossy().into_owned()
}

/// Sections with their keys in lower case, as DVC has them: `remote NAME` for `['remote "NAME"']`.
fn parse(text: &str) -> std::result::Result<BTreeMap<String, Section>, (usize, &'static str)> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let mut section = String::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim().trim_start_matches('\u{feff}');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.rfind(']').map(|end| rest[..end].trim()).ok_or((number + 1, "a section without ]"))?;
            section = section_name(name);
            sections.entry(section.clone()).or_default();
        } else {
            let (key, value) = line.split_once('=').ok_or((number + 1, "neither a section nor a setting"))?;
            let value = unquote(value.trim()).ok_or((number + 1, "a quote that does not end"))?;
            sections.entry(section.clone()).or_default().insert(key.trim().to_lowercase(), value);
        }
    }
    Ok(sections)
}

/// `'remote "st"'` → `remote st`.
fn section_name(text: &str) -> String {
    let quoted =
        |text: &str, quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)).map(str::to_owned);
    let text = quoted(text, '\'').or_else(|| quoted(text, '"')).unwrap_or_else(|| text.to_owned()).to_lowercase();
    let named = text.trim().strip_prefix("remote").and_then(|name| quoted(name.trim(), '"'));
    named.map_or(text.trim().to_owned(), |name| format!("remote {name}"))
}

/// A value without its quotes or the comment behind it.
fn unquote(text: &str) -> Option<String> {
    match text.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let rest = &text[1..];
            rest.find(quote).map(|end| rest[..end].to_owned())
        }
        _ => Some(text.split('#').next().unwrap_or_default().trim_end().to_owned()),
    }
}

/// Where the objects of a remote are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `s3://BUCKET/PREFIX`.
    S3 {
        /// Bucket.
        bucket: String,
        /// Without slashes at its ends.
        prefix: String,
    },
    /// A folder of this host.
    Folder(PathBuf),
}

/// A DVC remote.
#[derive(Clone)]
pub struct Remote {
    /// Its name, or its URL when it has none.
    pub name: String,
    /// Where it is.
    pub place: Place,
    settings: Section,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The settings may be secret.
        write!(f, "Remote({}: {})", self.name, self.url())
    }
}

/// What a remote may ask for on writing that Sealift does not do.
const UNKNOWN: [&str; 10] = [
    "acl",
    "sse",
    "sse_kms_key_id",
    "sse_customer_algorithm",
    "sse_customer_key",
    "grant_read",
    "grant_read_acp",
    "grant_write_acp",
    "grant_full_control",
    "shared",
];

impl Remote {
    fn new(name: &str, url: &str, settings: Section) -> Result<Self> {
        let place = match url.split_once("://") {
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                Place::S3 { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() }
            }
            Some(("file", path)) => Place::Folder(PathBuf::from(path)),
            None => Place::Folder(PathBuf::from(url)),
            Some((scheme, _)) => {
                return Err(Error::Dvc {
                    object: format!("the DVC remote {name}"),
                    why: format!("is at {scheme}://, and Sealift reads and writes s3:// and folders only"),
                });
            }
        };
        Ok(Self { name: name.to_owned(), place, settings })
    }

    /// A remote that no configuration names: an S3 URL, or a folder.
    pub fn at(url: &str, endpoint: Option<&str>, region: Option<&str>) -> Result<Self> {
        let mut settings = Section::new();
        settings.extend(endpoint.map(|endpoint| ("endpointurl".to_owned(), endpoint.to_owned())));
        settings.extend(region.map(|region| ("region".to_owned(), region.to_owned())));
        Self::new(url, url, settings)
    }

    /// Where it is, as DVC writes it.
    pub fn url(&self) -> String {
        match &self.place {
            Place::S3 { bucket, prefix } if prefix.is_empty() => format!("s3://{bucket}"),
            Place::S3 { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
            Place::Folder(path) => path.display().to_string(),
        }
    }

    /// A setting.
    pub(crate) fn setting(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn is_set(&self, key: &str) -> bool {
        self.setting(key).is_some_and(|value| matches!(value.to_lowercase().as_str(), "true" | "yes" | "on" | "1"))
    }

    /// Whether it keeps files under their own names.
    pub fn is_versioned(&self) -> bool {
        self.is_set("version_aware") || self.is_set("worktree")
    }

    /// The folder of objects below the remote that is a mirror of the workspace.
    pub(crate) fn objects_below(&self) -> &'static str {
        if self.is_set("worktree") { ".dvc/" } else { "" }
    }

    /// Settings that a write would not honour.
    pub fn not_honoured(&self) -> Vec<&str> {
        UNKNOWN.into_iter().filter(|key| self.setting(key).is_some()).collect()
    }

    /// How its bucket is entered; `None` for a folder.
    pub fn foreign(&self, surroundings: &Surroundings) -> Result<Option<Foreign>> {
        let Place::S3 { bucket, prefix } = &self.place else { return Ok(None) };
        let bad = |why: String| Error::Dvc { object: format!("the DVC remote {}", self.name), why };
        if self.setting("ssl_verify").is_some_and(|value| value.eq_ignore_ascii_case("false")) {
            let why = "has ssl_verify = false, and Sealift does not talk to a server that it cannot recognise \
                       (name its authority in AWS_CA_BUNDLE)";
            return Err(bad(why.to_owned()));
        }
        let mut endpoint = self.setting("endpointurl").map(str::to_owned);
        if let Some(url) = endpoint.as_mut().filter(|url| !url.contains("://")) {
            let plain = self.setting("use_ssl").is_some_and(|value| value.eq_ignore_ascii_case("false"));
            *url = format!("{}://{url}", if plain { "http" } else { "https" });
        }
        let keys = (self.setting("access_key_id"), self.setting("secret_access_key"));
        let profile = self.setting("profile");
        let access = match keys {
            _ if self.is_set("allow_anonymous_login") => Access::Anonymous,
            (Some(access), Some(secret)) => Access::Keys {
                access: access.to_owned(),
                secret: Secret::new(secret),
                token: self.setting("session_token").map(Secret::new),
            },
            (Some(_), None) | (None, Some(_)) => {
                return Err(bad("has only one of access_key_id and secret_access_key".to_owned()));
            }
            (None, None) => match self.credentials_file(surroundings) {
                Some(file) => profile_keys(&file, profile.unwrap_or("default")).map_err(bad)?,
                None => Access::Chain { profile: profile.map(str::to_owned) },
            },
        };
        let region = self.setting("region").map(str::to_owned);
        Ok(Some(Foreign { bucket: bucket.clone(), prefix: prefix.clone(), endpoint, region, access }))
    }

    fn credentials_file(&self, surroundings: &Surroundings) -> Option<PathBuf> {
        let named = self.setting("credentialpath").or_else(|| self.setting("configpath")).map(PathBuf::from)?;
        Some(surroundings.credentials_file.clone().unwrap_or(named))
    }
}

/// The keys of a profile in a credentials file of AWS.
fn profile_keys(file: &Path, profile: &str) -> std::result::Result<Access, String> {
    let shown = file.display();
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("names {shown}, which cannot be read: {error}"))?;
    let sections =
        parse(&text).map_err(|(line, why)| format!("names {shown}, which is wrong in line {line}: {why}"))?;
    let lower = profile.to_lowercase();
    let section = sections.get(&lower).or_else(|| sections.get(&format!("profile {lower}")));
    let get = |key: &str| section.and_then(|section| section.get(key)).filter(|value| !value.is_empty());
    match (get("aws_access_key_id"), get("aws_secret_access_key")) {
        (Some(access), Some(secret)) => Ok(Access::Keys {
            access: access.clone(),
            secret: Secret::new(secret),
            token: get("aws_session_token").map(Secret::new),
        }),
        _ => Err(format!(
            "names {shown}, where the profile {profile} has no keys (for a role or a sign-on, set AWS_CONFIG_FILE and profile instead)"
        )),
    }
}

/// The text of a configuration with a remote added or changed, and made the default when there is none. Everything else
/// stays as it is written.
pub fn with_remote(text: &str, name: &str, settings: &[(&str, &str)]) -> std::result::Result<String, String> {
    let sections = parse(text).map_err(|(line, why)| format!("is wrong in line {line}: {why}"))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let header = |lines: &[String], wanted: &str| {
        lines.iter().position(|line| {
            let line = line.trim();
            line.strip_prefix('[')
                .and_then(|rest| rest.rfind(']').map(|end| section_name(rest[..end].trim())))
                .is_some_and(|name| name == wanted)
        })
    };
    let set = |lines: &mut Vec<String>, section: &str, written: String, key: &str, value: &str| {
        let at = header(lines, section).unwrap_or_else(|| {
            lines.push(written);
            lines.len() - 1
        });
        let end = (at + 1..lines.len()).find(|line| lines[*line].trim().starts_with('[')).unwrap_or(lines.len());
        let there = (at + 1..end)
            .find(|line| lines[*line].split_once('=').is_some_and(|(found, _)| found.trim().eq_ignore_ascii_case(key)));
        let value = if value.contains(['#', ',', '"', '\'']) || value != value.trim() {
            format!("\"{value}\"")
        } else {
            value.to_owned()
        };
        let line = format!("    {key} = {value}");
        match there {
            Some(place) => lines[place] = line,
            None => {
                let mut place = end;
                while place > at + 1 && lines[place - 1].trim().is_empty() {
                    place -= 1;
                }
                lines.insert(place, line);
            }
        }
    };
    if sections.get("core").and_then(|core| core.get("remote")).is_none() {
        if header(&lines, "core").is_none() {
            lines.insert(0, "[core]".to_owned());
        }
        set(&mut lines, "core", "[core]".to_owned(), "remote", name);
    }
    let section = format!("remote {}", name.to_lowercase());
    for (key, value) in settings {
        set(&mut lines, &section, format!("['remote \"{name}\"']"), key, value);
    }
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(folder: &Path) -> Surroundings {
        Surroundings {
            system: folder.join("system"),
            global: folder.join("global"),
            home: folder.join("home"),
            credentials_file: None,
        }
    }

    fn config(files: &[(&str, &str)]) -> (tempfile::TempDir, Config, Surroundings) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let around = surroundings(folder.path());
        let config = Config::read(&folder.path().join("repo/.dvc"), &around).unwrap();
        (folder, config, around)
    }

    #[test]
    fn later_files_override_earlier_ones() {
        let (folder, config, around) = config(&[
            ("system/config", "[core]\n    remote = one\n['remote \"st\"']\n    region = a\n    profile = system\n"),
            ("global/config", "['remote \"st\"']\n    region = b\n    endpointurl = http://global:1\n"),
            (
                "repo/.dvc/config",
                "# a comment\n[core]\n    remote = St\n    autostage = true\n['remote \"St\"']\n    url = s3://bucket/some/where/ # why\n    region = c\n",
            ),
            (
                "repo/.dvc/config.local",
                "['remote \"st\"']\n    access_key_id = me\n    secret_access_key = \"a#b\"\n    session_token = t\n",
            ),
        ]);
        assert_eq!(config.default_remote(), Some("St"));
        assert_eq!(config.remotes(), ["st"]);
        let remote = config.remote(config.default_remote().unwrap()).unwrap();
        assert_eq!(remote.url(), "s3://bucket/some/where");
        let foreign = remote.foreign(&around).unwrap().unwrap();
        assert_eq!(foreign.region.as_deref(), Some("c"));
        assert_eq!(foreign.endpoint.as_deref(), Some("http://global:1"));
        let Access::Keys { access, secret, token } = &foreign.access else { panic!("{foreign:?}") };
        assert_eq!((access.as_str(), secret.reveal(), token.as_ref().unwrap().reveal()), ("me", "a#b", "t"));
        assert!(!format!("{remote:?} {foreign:?}").contains("a#b"), "secrets do not show");
        assert_eq!(config.cache(&folder.path().join("repo/.dvc")), folder.path().join("repo/.dvc/cache"));
    }

    #[test]
    fn paths_are_relative_to_their_file_and_remotes_may_refer_to_others() {
        let (folder, config, around) = config(&[
            ("global/config", "[cache]\n    dir = ../shared\n"),
            (
                "repo/.dvc/config",
                "['remote \"base\"']\n    url = ../../storage\n['remote \"sub\"']\n    url = remote://base/deep\n\
                 ['remote \"home\"']\n    url = ~/there\n['remote \"loop\"']\n    url = remote://loop/x\n\
                 ['remote \"cloud\"']\n    url = gs://bucket\n['remote \"keys\"']\n    url = s3://b\n    credentialpath = keys.ini\n    profile = Team\n\
                 ['remote \"open\"']\n    url = s3://b\n    allow_anonymous_login = true\n['remote \"loose\"']\n    url = s3://b\n    ssl_verify = false\n",
            ),
            (
                "repo/.dvc/keys.ini",
                "[default]\naws_access_key_id = no\n[Team]\naws_access_key_id=AK\naws_secret_access_key=SK\n",
            ),
        ]);
        let at = |name: &str| config.remote(name).unwrap().place;
        assert_eq!(at("base"), Place::Folder(folder.path().join("storage")));
        assert_eq!(at("sub"), Place::Folder(folder.path().join("storage/deep")));
        assert_eq!(at("HOME"), Place::Folder(folder.path().join("home/there")));
        assert_eq!(config.cache(Path::new("x")), folder.path().join("shared"));
        let access = |name: &str| config.remote(name).unwrap().foreign(&around).map(|found| found.unwrap().access);
        assert!(matches!(access("keys").unwrap(), Access::Keys { access, .. } if access == "AK"));
        assert!(matches!(access("open").unwrap(), Access::Anonymous));
        assert!(access("loose").unwrap_err().to_string().contains("ssl_verify"));
        for (name, word) in [("loop", "itself"), ("cloud", "gs://"), ("none", "there are base, cloud")] {
            let error = config.remote(name).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(config.remote("none").unwrap_err().class(), domain::Class::NotFound);
    }

    #[test]
    fn a_remote_is_added_and_what_else_is_written_stays() {
        let fresh = with_remote("", "st", &[("url", "s3://b/p"), ("endpointurl", "http://h:1")]).unwrap();
        assert_eq!(
            fresh,
            "[core]\n    remote = st\n['remote \"st\"']\n    url = s3://b/p\n    endpointurl = http://h:1\n"
        );
        let old = "# ours\n[core]\n    remote = other\n\n['remote \"other\"']\n    url = /o   # there\n['remote \"st\"']\n    url = s3://old\n    region = r\n";
        let new = with_remote(old, "st", &[("url", "s3://new")]).unwrap();
        assert_eq!(new, old.replace("s3://old", "s3://new"));
        assert_eq!(with_remote(&fresh, "st", &[("url", "s3://b/p")]).unwrap(), fresh);
    }

    #[test]
    fn what_is_no_configuration_names_its_line() {
        assert_eq!(parse("[core\n").unwrap_err().0, 1);
        assert_eq!(parse("[core]\nremote\n").unwrap_err().0, 2);
        assert_eq!(parse("[core]\n\nremote = \"x\n").unwrap_err().0, 3);
    }
}
