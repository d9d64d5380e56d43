//! What an image must not be, found by reading it: who it runs as, setuid files, secrets.
//!
//! Nothing is unpacked and no layer is held: entries go by once, in windows of bounded size. Secrets count in every layer,
//! also where a later one removes the file, for whoever has the image has them all; setuid files count as a container
//! would see them.
//!
//! The patterns are those that hardly anything but a secret matches. What was found is never quoted, only named: its kind
//! and its place. An encrypted private key is not a finding.

use crate::{
    error::{Error, Result},
    layer::{LayerReader, read_failed, read_layer, stopped},
    layout::{Documents, blobs_dir, read_whole},
    spec::{Descriptor, RunConfig},
    tarread::{Entry, Kind, TarReader},
    unpack::{Limits, components, whiteout},
};
use domain::scan::{Inspection, Secret, User};
use regex::bytes::Regex;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::LazyLock,
};

/// How much of a file is looked at at once.
const WINDOW: usize = 256 << 10;
/// No pattern is longer; so much of a window is looked at again with the next one.
const OVERLAP: usize = 4 << 10;
/// How many places are named of each kind.
const NAMED: usize = 100;
/// No honest image has more setuid files.
const MAX_SETUID: usize = 10_000;
/// How many secrets are told apart; more are not counted.
const MAX_SECRETS: usize = 10_000;
/// A token with fewer different characters is a placeholder.
const LEAST_DIFFERENT: usize = 8;

/// What a match is called, by how it begins.
const KINDS: [(&str, &str); 19] = [
    ("-----BEGIN", "a private key"),
    ("AGE-SECRET-KEY-", "an age key"),
    ("AKIA", "an AWS access key"),
    ("ASIA", "an AWS access key"),
    ("aws_secret", "an AWS secret key"),
    ("dckr_pat_", "a Docker Hub token"),
    ("gho_", "a GitHub token"),
    ("ghp_", "a GitHub token"),
    ("ghr_", "a GitHub token"),
    ("ghs_", "a GitHub token"),
    ("ghu_", "a GitHub token"),
    ("github_pat_", "a GitHub token"),
    ("glpat-", "a GitLab token"),
    ("npm_", "an npm token"),
    ("pypi-", "a PyPI token"),
    ("rk_live_", "a Stripe key"),
    ("sk_live_", "a Stripe key"),
    ("xox", "a Slack token"),
    ("AWS_SECRET", "an AWS secret key"),
];

/// Alternatives begin with fixed bytes, so that most of an image is passed over at the speed of a search for them.
static SECRET: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let alternatives = [
        r"-----BEGIN (?:(?:RSA|DSA|EC|OPENSSH) )?PRIVATE KEY-----(?:\\r)?(?:\r?\n|\\n)[A-Za-z0-9+/=]{40}",
        r"-----BEGIN PGP PRIVATE KEY BLOCK-----\r?\n(?:[A-Za-z]+: [^\n]{0,200}\n){0,8}\r?\n[A-Za-z0-9+/=]{40}",
        r"AGE-SECRET-KEY-1[A-Z0-9]{58}",
        r"(?:AKIA|ASIA)[A-Z2-7]{16}",
        r#"(?:aws_secret_access_key|AWS_SECRET_ACCESS_KEY)[ \t]{0,8}[=:][ \t]{0,8}["']?[A-Za-z0-9/+]{40}"#,
        r"dckr_pat_[A-Za-z0-9_-]{27}",
        r"gh[opsur]_[A-Za-z0-9]{36}",
        r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
        r"glpat-[A-Za-z0-9_-]{20}",
        r"npm_[A-Za-z0-9]{36}",
        r"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50}",
        r"[rs]k_live_[A-Za-z0-9]{24}",
        r"xox[abprs]-[0-9]{10,13}-[0-9]{10,13}-[A-Za-z0-9-]{24}",
    ];
    Regex::new(&format!("(?-u:{})", alternatives.join("|"))).ok()
});

/// Files that hold credentials by their name, and what in them is one.
static CREDENTIAL_FILES: LazyLock<Vec<(&'static [&'static str], Regex)>> = LazyLock::new(|| {
    let table: [(&'static [&'static str], &str); 6] = [
        (&[".netrc", "_netrc"], r"\bpassword\s+[^\s$]"),
        (&[".npmrc"], r"_(?:authToken|auth|password)\s*=\s*[^\s$]"),
        (&[".pypirc"], r"(?m)^\s*password\s*[:=]\s*[^\s$%]"),
        (&[".docker/config.json", ".dockercfg"], r#""(?:auth|identitytoken|password)"\s*:\s*"[^"]"#),
        (&[".git-credentials"], r"://[^/\s:@]+:[^/\s@]+@"),
        (&[".pgpass"], r"(?m)^[^#\s:]+:[^:\n]*:[^:\n]*:[^:\n]*:[^\s]"),
    ];
    table
        .into_iter()
        .filter_map(|(names, pattern)| Some((names, Regex::new(&format!("(?-u){pattern}")).ok()?)))
        .collect()
});

/// `NAME=value` where the name says that the value is a secret.
static ASSIGNMENT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let words = "PASSWORD|PASSWD|PASSPHRASE|TOKEN|SECRET|SECRET_KEY|API_KEY|APIKEY|ACCESS_KEY|PRIVATE_KEY";
    Regex::new(&format!(r#"(?i-u)(?:^|[\s|"'])((?:[a-z0-9_]*_)?(?:{words}))[= ]["']?([^\s"']+)"#)).ok()
});

/// Reads the images of a layout, one for each platform, and says what is in them.
///
/// The layout was verified before ([`crate::open`]); a layer that cannot be read is an error, not an image without findings.
pub fn inspect(layout: &Path, limits: &Limits) -> Result<Vec<Inspection>> {
    let contents = read_whole(layout)?;
    contents.images.iter().map(|image| inspect_image(layout, image, limits)).collect()
}

fn inspect_image(layout: &Path, image: &Documents, limits: &Limits) -> Result<Inspection> {
    let mut found = Found { entries_left: limits.entries, ..Found::default() };
    let mut allowed = limits.bytes;
    for (number, layer) in image.manifest.layers.iter().enumerate() {
        let reader = read_layer(&blobs_dir(layout), layer, limits, allowed)?;
        allowed = allowed.saturating_sub(found.layer(number, layer, reader)?);
    }
    let run = image.config.config.clone().unwrap_or_default();
    found.configuration(&run);
    for (number, step) in image.config.history.iter().flatten().enumerate() {
        found.step(number + 1, step.created_by.as_deref().unwrap_or_default());
        found.step(number + 1, step.comment.as_deref().unwrap_or_default());
    }
    let blobs: BTreeMap<_, u64> = image.blobs().map(|blob| (blob.digest, blob.size)).collect();
    let setuid = found.setuid.keys().take(NAMED).map(|path| shown(&path.join(&b'/')));
    Ok(Inspection {
        platform: image.config.platform().text(),
        manifest: image.manifest_descriptor.digest,
        user: user(run.user.as_deref().unwrap_or_default(), found.passwd.as_ref().map(|(_, file)| file.as_slice())),
        setuid: setuid.collect(),
        setuid_count: found.setuid.len() as u64,
        secret_count: found.secrets.len() as u64,
        secrets: found.secrets.into_iter().take(NAMED).collect(),
        bytes: blobs.values().sum(),
    })
}

/// What was found so far.
#[derive(Default)]
struct Found {
    /// Setuid and setgid files as a container sees them, and the layer that each is of.
    setuid: BTreeMap<Vec<Vec<u8>>, usize>,
    secrets: BTreeSet<Secret>,
    /// The layer that has `/etc/passwd`, and the file.
    passwd: Option<(usize, Vec<u8>)>,
    entries_left: u64,
}

impl Found {
    /// Reads a layer; how many bytes it unpacks to.
    fn layer(&mut self, number: usize, descriptor: &Descriptor, reader: LayerReader) -> Result<u64> {
        let layer = descriptor.digest;
        let mut archive = TarReader::new(reader);
        while let Some(entry) = archive.next_entry().map_err(|stop| stopped(layer, stop))? {
            let hostile = |why: String| Error::Hostile { layer, entry: shown(&entry.path), why };
            self.entries_left = match self.entries_left.checked_sub(1) {
                Some(left) => left,
                None => return Err(hostile("the image has more entries than are allowed".to_owned())),
            };
            let path = components(&entry.path).map_err(hostile)?;
            if let Some(hidden) = whiteout(&path) {
                let (below, opaque) = (hidden.path().clone(), hidden.is_opaque());
                self.setuid.retain(|path, of| {
                    *of >= number || !(path.starts_with(&below) && (!opaque || path.len() > below.len()))
                });
                let passwd = [b"etc".to_vec(), b"passwd".to_vec()];
                if passwd.starts_with(&below) {
                    self.passwd.take_if(|(of, _)| *of < number);
                }
                continue;
            }
            self.place(number, &path, &entry).map_err(hostile)?;
            if entry.kind == Kind::File {
                self.content(number, &path, &mut archive).map_err(|stop| stopped(layer, stop))?;
            }
        }
        let mut reader = archive.drain().map_err(|stop| stopped(layer, stop))?;
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(|error| read_failed(layer, error))?;
        Ok(reader.finish().2)
    }

    /// An entry takes the place of what was there.
    fn place(&mut self, number: usize, path: &[Vec<u8>], entry: &Entry) -> std::result::Result<(), String> {
        let linked = match entry.kind {
            Kind::HardLink => components(&entry.link).is_ok_and(|target| self.setuid.contains_key(&target)),
            _ => false,
        };
        if entry.kind != Kind::Directory {
            self.setuid.retain(|there, _| !there.starts_with(path));
            if is_passwd(path) {
                self.passwd = None;
            }
        }
        if linked || (entry.kind == Kind::File && entry.mode & 0o6000 != 0) {
            if self.setuid.len() >= MAX_SETUID {
                return Err(format!("the image has more than {MAX_SETUID} setuid files"));
            }
            self.setuid.insert(path.to_vec(), number);
        }
        Ok(())
    }

    /// Looks for secrets in a file, window by window.
    fn content(
        &mut self,
        number: usize,
        path: &[Vec<u8>],
        archive: &mut TarReader<LayerReader>,
    ) -> std::result::Result<(), crate::tarread::Stop> {
        let place = || format!("/{} in layer {}", shown(&path.join(&b'/')), number + 1);
        let (mut window, mut kept, mut first) = (vec![0; WINDOW], 0, true);
        loop {
            let mut filled = kept;
            while filled < window.len() {
                match archive.read(&mut window[filled..])? {
                    0 => break,
                    count => filled += count,
                }
            }
            let bytes = &window[..filled];
            for kind in secrets_in(bytes) {
                self.secret(kind, place());
            }
            if first {
                if let Some(kind) = credential_file(path, bytes) {
                    self.secret(kind, place());
                }
                if is_passwd(path) {
                    self.passwd = Some((number, bytes.to_vec()));
                }
            }
            if filled < window.len() {
                return Ok(());
            }
            first = false;
            window.copy_within(filled - OVERLAP.., 0);
            kept = OVERLAP;
        }
    }

    fn secret(&mut self, rule: &str, place: String) {
        if self.secrets.len() < MAX_SECRETS {
            self.secrets.insert(Secret { rule: rule.to_owned(), place });
        }
    }

    fn configuration(&mut self, run: &RunConfig) {
        for variable in run.env.iter().flatten() {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            let place = || format!("the variable {}", shown(name.as_bytes()));
            for kind in secrets_in(value.as_bytes()) {
                self.secret(kind, place());
            }
            if !assigned(format!("{name}={value}").as_bytes()).is_empty() {
                self.secret("a password or token", place());
            }
        }
        for (name, value) in run.labels.iter().flatten() {
            for kind in secrets_in(value.as_bytes()) {
                self.secret(kind, format!("the label {}", shown(name.as_bytes())));
            }
        }
        for word in run.entrypoint.iter().chain(&run.cmd).flatten() {
            for kind in secrets_in(word.as_bytes()) {
                self.secret(kind, "the command".to_owned());
            }
        }
    }

    fn step(&mut self, number: usize, text: &str) {
        for kind in secrets_in(text.as_bytes()) {
            self.secret(kind, format!("step {number} of the history"));
        }
        for name in assigned(text.as_bytes()) {
            self.secret("a password or token", format!("step {number} of the history, {name}"));
        }
    }
}

fn is_passwd(path: &[Vec<u8>]) -> bool {
    path.len() == 2 && path[0] == b"etc" && path[1] == b"passwd"
}

/// What a path or a name looks like to a person; nothing in it reaches a terminal as a command.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).take(300).collect()
}

/// The kinds of secrets in some bytes.
fn secrets_in(bytes: &[u8]) -> BTreeSet<&'static str> {
    let mut kinds = BTreeSet::new();
    let Some(pattern) = SECRET.as_ref() else { return kinds };
    let word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    for found in pattern.find_iter(bytes) {
        let text = found.as_bytes();
        let key = text.starts_with(b"-----");
        // A longer word that only begins like a token is none; the lengths of keys are not fixed.
        let exact = text.starts_with(b"AKIA") || text.starts_with(b"ASIA") || text.starts_with(b"npm_");
        let inside = word(found.start().checked_sub(1).and_then(|before| bytes.get(before)));
        let longer = exact && word(bytes.get(found.end()));
        let different: BTreeSet<&u8> = text.iter().rev().take(16).collect();
        let placeholder = different.len() < LEAST_DIFFERENT || text.ends_with(b"EXAMPLE");
        if !key && (inside || longer || placeholder || text.windows(7).any(|part| part == b"EXAMPLE")) {
            continue;
        }
        kinds.extend(KINDS.iter().find(|(begins, _)| text.starts_with(begins.as_bytes())).map(|(_, kind)| *kind));
    }
    kinds
}

/// What a file that holds credentials by its name holds.
fn credential_file(path: &[Vec<u8>], bytes: &[u8]) -> Option<&'static str> {
    let named = |name: &&str| {
        let parts: Vec<&[u8]> = name.split('/').map(str::as_bytes).collect();
        path.len() >= parts.len()
            && path[path.len() - parts.len()..].iter().zip(&parts).all(|(have, want)| have == want)
    };
    let of_name = CREDENTIAL_FILES.iter().find(|(names, _)| names.iter().any(named));
    of_name.filter(|(_, pattern)| pattern.is_match(bytes)).map(|_| "credentials")
}

/// The names that by themselves say that their value is a secret, where there is a value.
fn assigned(text: &[u8]) -> Vec<String> {
    let Some(pattern) = ASSIGNMENT.as_ref() else { return Vec::new() };
    let harmless = |value: &[u8]| {
        value.len() < 4
            || matches!(value, b"true" | b"false" | b"none" | b"null")
            || value.starts_with(b"/")
            || value.starts_with(b"$")
            || value.starts_with(b"{")
            || value.starts_with(b"<")
    };
    let found = pattern.captures_iter(text).filter_map(|captures| {
        let (name, value) = (captures.get(1)?.as_bytes(), captures.get(2)?.as_bytes());
        let assigned = text.get(captures.get(1)?.end()) == Some(&b'=');
        (assigned && !harmless(value)).then(|| shown(name))
    });
    found.collect()
}

/// Who `USER` is. A name is looked up in the image's own `/etc/passwd`.
fn user(written: &str, passwd: Option<&[u8]>) -> User {
    let name = written.split(':').next().unwrap_or_default().trim();
    let root = |says: String| User::Root { says };
    match (name, name.parse::<u32>()) {
        ("", _) => return root("it names no user".to_owned()),
        ("root", _) | (_, Ok(0)) => return root(format!("its user is {}", shown(name.as_bytes()))),
        (_, Ok(_)) => return User::Other { name: name.to_owned() },
        _ => {}
    }
    let Some(passwd) = passwd else {
        return User::Unknown { why: format!("its user is {}, and it has no /etc/passwd", shown(name.as_bytes())) };
    };
    let text = String::from_utf8_lossy(passwd);
    let line = text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name);
    let name = shown(name.as_bytes());
    match line.as_ref().and_then(|fields| fields.get(2)?.parse::<u32>().ok()) {
        Some(0) => root(format!("its user {name} has the id 0")),
        Some(_) => User::Other { name },
        None => User::Unknown { why: format!("its user is {name}, who is not in its /etc/passwd") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Built here, so that no scanner takes this file for one that holds secrets.
    fn token(prefix: &str, length: usize) -> String {
        let body: String = "aB3dE5gH7jK9mN1pQ2sT4vW6xY8z".chars().cycle().take(length).collect();
        format!("{prefix}{body}")
    }

    #[test]
    fn tokens_are_known_by_their_form() {
        let key = |kind: &str| format!("-----BEGIN {kind}PRIVATE KEY-----\n{}\n", token("", 64));
        for (text, kind) in [
            (key(""), "a private key"),
            (key("RSA "), "a private key"),
            (key("OPENSSH ").replace('\n', "\r\n"), "a private key"),
            (key("EC ").replace('\n', "\\n"), "a private key"),
            (format!("key = \"AKIA{}\"", "QWERTYUIOPASDF23"), "an AWS access key"),
            (format!("aws_secret_access_key = {}", token("", 40)), "an AWS secret key"),
            (token("ghp_", 36), "a GitHub token"),
            (token("npm_", 36), "an npm token"),
            (token("glpat-", 20), "a GitLab token"),
            (token("pypi-AgEIcHlwaS5vcmc", 50), "a PyPI token"),
            (token("sk_live_", 24), "a Stripe key"),
        ] {
            assert_eq!(secrets_in(text.as_bytes()).into_iter().collect::<Vec<_>>(), [kind], "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        for text in [
            "-----BEGIN PRIVATE KEY-----".to_owned(),
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n".to_owned(),
            format!("-----BEGIN ENCRYPTED PRIVATE KEY-----\n{}", token("", 64)),
            format!("-----BEGIN CERTIFICATE-----\n{}", token("", 64)),
            format!("AKIAIOSFODNN7{}", "EXAMPLE"),
            format!("ghp_{}", "x".repeat(36)),
            format!("my{}", token("ghp_", 36)),
            token("npm_", 60),
            "npm_config_cache".to_owned(),
        ] {
            assert!(secrets_in(text.as_bytes()).is_empty(), "{text}");
        }
    }

    #[test]
    fn names_say_that_a_value_is_a_secret() {
        let names = |text: &str| assigned(text.as_bytes()).join(",");
        assert_eq!(names("DATABASE_PASSWORD=hunter2"), "DATABASE_PASSWORD");
        assert_eq!(names("|2 api_token=abcd1234 LEVEL=3 /bin/sh -c make"), "api_token");
        for text in [
            "PASSWORD=",
            "API_TOKEN=$TOKEN",
            "TOKEN_FILE=/run/token",
            "PASSWORD=/run/secrets/x",
            "GPG_KEY=E3FF2839C048B25C",
            "SECRET=false",
            "MONKEY=banana",
            "say PASSWORD please",
        ] {
            assert_eq!(names(text), "", "{text}");
        }
    }

    #[test]
    fn credential_files_are_known_by_name_and_content() {
        let path = |text: &str| text.split('/').map(|part| part.as_bytes().to_vec()).collect::<Vec<_>>();
        let found = |name: &str, text: &str| credential_file(&path(name), text.as_bytes());
        assert!(found("root/.netrc", "machine x login y password hunter2").is_some());
        assert!(found("root/.npmrc", "//registry/:_authToken=abc").is_some());
        assert!(found("root/.npmrc", "//registry/:_authToken=${NPM_TOKEN}").is_none());
        assert!(found("root/.docker/config.json", r#"{"auths": {"x": {"auth": "eDp5"}}}"#).is_some());
        assert!(found("app/config.json", r#"{"auth": "eDp5"}"#).is_none());
        assert!(found("root/.docker/config.json", r#"{"credsStore": "pass"}"#).is_none());
        assert!(found("root/.pypirc", "[pypi]\nusername = x\npassword = y\n").is_some());
    }

    #[test]
    fn users_are_looked_up() {
        let passwd = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\nadmin:x:0:0::/:/bin/sh\n";
        let who = |name: &str| user(name, Some(passwd));
        for name in ["", "0", "root", "0:1000", "root:app", "admin", ":1000"] {
            assert!(matches!(who(name), User::Root { .. }), "{name}");
        }
        for name in ["1000", "app", "app:0", "65532:65532"] {
            assert!(matches!(who(name), User::Other { .. }), "{name}");
        }
        assert!(matches!(who("nobody"), User::Unknown { .. }));
        assert!(matches!(user("app", None), User::Unknown { .. }));
    }
}
