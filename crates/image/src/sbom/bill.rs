//! The bill while it is collected: parts by reference, what depends on what, and how a part is named for everybody (a package URL).
//!
//! A part found twice is one part with two sources. A licence is only what a file states; nothing is guessed.

use crate::error::{Error, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::collections::{BTreeMap, BTreeSet};

/// What a part is, in the words of CycloneDX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    #[default]
    Library,
    /// A part of the repository itself: a workspace member, the project of a lock file.
    Application,
    OperatingSystem,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Library => "library",
            Self::Application => "application",
            Self::OperatingSystem => "operating-system",
        }
    }
}

/// A hash of a part's distribution file.
///
/// Python locks name every file of a version; a part then has several hashes of one kind, of which one is that of the file
/// that was installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hash {
    pub(crate) algorithm: &'static str,
    pub(crate) hex: String,
}

impl Hash {
    /// Reads `sha256:<hex>`, as Python locks write it.
    pub(crate) fn tagged(text: &str) -> std::result::Result<Self, String> {
        let (algorithm, hex) = text.split_once([':', '=']).ok_or_else(|| format!("{text:?} is no hash"))?;
        Self::new(algorithm, hex).ok_or_else(|| format!("{text:?} is no hash that is known"))
    }

    pub(crate) fn new(algorithm: &str, hex: &str) -> Option<Self> {
        let (algorithm, digits) = match algorithm {
            "md5" => ("MD5", 32),
            "sha1" => ("SHA-1", 40),
            "sha256" => ("SHA-256", 64),
            "sha384" => ("SHA-384", 96),
            "sha512" => ("SHA-512", 128),
            _ => return None,
        };
        let good = hex.len() == digits && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        good.then(|| Self { algorithm, hex: hex.to_ascii_lowercase() })
    }

    /// Reads a subresource integrity text: `sha512-<base64>`, several with spaces between.
    pub(crate) fn integrity(text: &str) -> std::result::Result<Vec<Self>, String> {
        let one = |word: &str| {
            let (algorithm, value) = word.split_once('-')?;
            let bytes = BASE64_STANDARD.decode(value.split('?').next()?).ok()?;
            Self::new(algorithm, &bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        };
        text.split_whitespace().map(|word| one(word).ok_or_else(|| format!("{word:?} is no integrity hash"))).collect()
    }
}

/// One thing that is in the component.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Part {
    pub(crate) kind: Kind,
    pub(crate) group: Option<String>,
    pub(crate) name: String,
    /// Absent where a file asks for a package without saying which.
    pub(crate) version: Option<String>,
    /// Absent for parts of the repository, which no registry has.
    pub(crate) purl: Option<String>,
    pub(crate) licenses: BTreeSet<String>,
    pub(crate) hashes: BTreeSet<Hash>,
    /// Lock files below the component's folder, or paths in the image.
    pub(crate) sources: BTreeSet<String>,
    /// What a file asks for, where it does not say which version that is.
    pub(crate) requirement: Option<String>,
}

impl Part {
    /// A package of a registry.
    pub(crate) fn package(name: &str, version: &str, purl: String, source: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: Some(version.to_owned()),
            purl: Some(purl),
            sources: BTreeSet::from([source.to_owned()]),
            ..Self::default()
        }
    }

    /// A part of the repository.
    pub(crate) fn local(name: &str, version: Option<&str>, source: &str) -> Self {
        Self {
            kind: Kind::Application,
            name: name.to_owned(),
            version: version.map(str::to_owned),
            sources: BTreeSet::from([source.to_owned()]),
            ..Self::default()
        }
    }

    /// How others refer to it, the same in every bill.
    pub(crate) fn reference(&self) -> String {
        match (&self.purl, &self.version) {
            (Some(purl), _) => purl.clone(),
            (None, Some(version)) => format!("{}:{}@{version}", self.kind.word(), self.name),
            (None, None) => format!("{}:{}", self.kind.word(), self.name),
        }
    }
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bill {
    pub(crate) parts: BTreeMap<String, Part>,
    /// What each part needs. A part that is not here says nothing about it; one with an empty set needs nothing.
    pub(crate) needs: BTreeMap<String, BTreeSet<String>>,
    /// What the component itself needs.
    pub(crate) roots: BTreeSet<String>,
    /// The files that were read.
    pub(crate) sources: BTreeSet<String>,
    /// Databases in the image that were seen and are not read.
    pub(crate) unread: BTreeSet<String>,
}

impl Bill {
    /// What the image has and only syft lists.
    pub(crate) fn unlisted(&self) -> Option<String> {
        let files: Vec<&str> = self.unread.iter().map(String::as_str).collect();
        (!files.is_empty())
            .then(|| format!("RPM packages are not listed, {} is read by syft alone", files.join(" and ")))
    }

    /// Adds a part, or what it has of news to the one that is known already. Its reference.
    pub(crate) fn add(&mut self, part: Part) -> String {
        let reference = part.reference();
        match self.parts.get_mut(&reference) {
            None => drop(self.parts.insert(reference.clone(), part)),
            Some(known) => {
                known.licenses.extend(part.licenses);
                known.hashes.extend(part.hashes);
                known.sources.extend(part.sources);
                known.requirement = known.requirement.take().or(part.requirement);
            }
        }
        reference
    }

    /// Notes that all needs of a part are known.
    pub(crate) fn knows_needs(&mut self, of: &str) -> &mut BTreeSet<String> {
        self.needs.entry(of.to_owned()).or_default()
    }

    /// Notes one need.
    pub(crate) fn need(&mut self, of: &str, what: &str) {
        if of != what {
            self.knows_needs(of).insert(what.to_owned());
        }
    }

    /// Takes as needs of the component whatever of these nothing else of these needs.
    pub(crate) fn root_tops(&mut self, references: &BTreeSet<String>) {
        let inner: BTreeSet<&String> =
            references.iter().filter_map(|reference| self.needs.get(reference)).flatten().collect();
        let tops: Vec<String> = references.iter().filter(|reference| !inner.contains(reference)).cloned().collect();
        // In a ring each needs another; then all of them are the component's.
        self.roots.extend(if tops.is_empty() { references.iter().cloned().collect() } else { tops });
    }
}

/// The error for a file that is malformed.
pub(crate) fn malformed<T>(source: &str, what: &str, result: std::result::Result<T, String>) -> Result<T> {
    result.map_err(|why| {
        Error::bad_with(
            format!("{source} is not understood as {what}: {why}"),
            "mend or remove the file; a bill of materials is not written around it",
        )
    })
}

/// Writes a package URL: <https://github.com/package-url/purl-spec>. Qualifiers are sorted, empty ones left out.
pub(crate) fn purl(
    kind: &str,
    namespace: &str,
    name: &str,
    version: Option<&str>,
    qualifiers: &[(&str, &str)],
) -> String {
    let mut text = format!("pkg:{kind}/");
    for part in namespace.split('/').filter(|part| !part.is_empty()) {
        text.push_str(&encode(part));
        text.push('/');
    }
    text.push_str(&encode(name));
    if let Some(version) = version {
        text.push('@');
        text.push_str(&encode(version));
    }
    let qualifiers: BTreeMap<_, _> = qualifiers.iter().filter(|(_, value)| !value.is_empty()).copied().collect();
    for (number, (key, value)) in qualifiers.into_iter().enumerate() {
        text.push(if number == 0 { '?' } else { '&' });
        let value = if key.ends_with("_url") { without_credentials(value) } else { value.to_owned() };
        text.push_str(&format!("{key}={}", encode(&value)));
    }
    text
}

/// A URL without the user and password that lock files sometimes hold: a bill of materials is for everybody.
pub(crate) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => encoded.push(byte.into()),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

/// A package URL without what tools write differently: qualifiers, encoding, and the spelling of Python names.
pub(crate) fn same_package(purl: &str) -> Vec<u8> {
    let plain = purl.split(['?', '#']).next().unwrap_or_default();
    let mut bytes = Vec::with_capacity(plain.len());
    let mut rest = plain.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let decoded = (*byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match decoded {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    if bytes.starts_with(b"pkg:pypi/") {
        return normal_python_name(&String::from_utf8_lossy(&bytes)).into_bytes();
    }
    bytes
}

/// PEP 503: lower case, and one `-` for each run of `-`, `_` and `.`, up to the version.
pub(crate) fn normal_python_name(text: &str) -> String {
    let (name, rest) = text.split_at(text.find('@').unwrap_or(text.len()));
    let mut normal = String::with_capacity(text.len());
    for character in name.chars() {
        match character {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            other => normal.extend(other.to_lowercase()),
        }
    }
    normal + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_are_written_as_the_specification_says() {
        assert_eq!(purl("cargo", "", "serde", Some("1.0.0+b"), &[]), "pkg:cargo/serde@1.0.0%2Bb");
        assert_eq!(purl("npm", "@types", "node", Some("20.1.0"), &[]), "pkg:npm/%40types/node@20.1.0");
        let qualifiers = [("distro", "debian-12"), ("arch", "amd64"), ("upstream", "")];
        let debian = purl("deb", "debian", "libc6", Some("1:2.36-9"), &qualifiers);
        assert_eq!(debian, "pkg:deb/debian/libc6@1:2.36-9?arch=amd64&distro=debian-12");
        assert_eq!(same_package(&debian), same_package("pkg:deb/debian/libc6@1%3A2.36-9?distro=bookworm"));
        assert_eq!(same_package("pkg:pypi/Zope.Interface@6.0"), same_package("pkg:pypi/zope-interface@6.0"));
        assert_eq!(without_credentials("git+https://u:t@example.org/x@v1"), "git+https://example.org/x@v1");
        assert!(!purl("cargo", "", "a", None, &[("vcs_url", "git+https://u:t@example.org/x")]).contains("u:t"));
        assert_ne!(same_package("pkg:pypi/a@6.0"), same_package("pkg:pypi/a@6.1"));
    }

    #[test]
    fn hashes_have_the_length_of_their_kind() {
        let hex = "ab".repeat(32);
        assert_eq!(Hash::tagged(&format!("sha256:{hex}")).unwrap().algorithm, "SHA-256");
        assert!(Hash::tagged(&format!("sha512:{hex}")).is_err());
        assert!(Hash::tagged("sha256").is_err());
        let parsed = Hash::integrity("sha1-qUqP5cyxm6YcTAhz05Hph5gvu9M= md5-CY9rzUYh03PK3k6DJie09g==").unwrap();
        assert_eq!(parsed[0].hex, "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3");
        assert!(Hash::integrity("sha512-short").is_err());
    }

    #[test]
    fn a_ring_of_parts_still_belongs_to_the_component() {
        let mut bill = Bill::default();
        bill.need("a", "b");
        bill.need("b", "a");
        bill.root_tops(&BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!(bill.roots.len(), 2);
    }
}
