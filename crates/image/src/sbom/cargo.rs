//! `Cargo.lock`, versions 1 to 4.

use super::bill::{Bill, Hash, Part, purl};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Package>,
    /// In a published package's lock of version 1: the package itself.
    root: Option<Package>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

const CRATES_IO: [&str; 2] =
    ["registry+https://github.com/rust-lang/crates.io-index", "sparse+https://index.crates.io/"];

/// Reads the packages and what each needs. The packages of the workspace are what the component needs.
pub(crate) fn read(text: &str, source: &str, bill: &mut Bill) -> Result<(), String> {
    let lock: Lock = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let mut by_name: BTreeMap<&str, Vec<(&Package, String)>> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for package in lock.package.iter().chain(&lock.root) {
        let reference = bill.add(part(package, &lock.metadata, source)?);
        all.insert(reference.clone());
        by_name.entry(&package.name).or_default().push((package, reference));
    }
    for (package, reference) in by_name.values().flatten() {
        bill.knows_needs(reference);
        for dependency in &package.dependencies {
            let target = resolve(&by_name, dependency)
                .ok_or_else(|| format!("{} needs {dependency:?}, which the file does not have", package.name))?;
            bill.need(reference, target);
        }
    }
    bill.root_tops(&all);
    Ok(())
}

fn part(package: &Package, metadata: &BTreeMap<String, String>, source: &str) -> Result<Part, String> {
    let (name, version) = (package.name.as_str(), package.version.as_str());
    if name.is_empty() || version.is_empty() {
        return Err("a package has no name or no version".to_owned());
    }
    let Some(from) = &package.source else { return Ok(Part::local(name, Some(version), source)) };
    let registry = from.strip_prefix("registry+").or(from.strip_prefix("sparse+"));
    let qualifiers = match registry {
        _ if CRATES_IO.contains(&from.as_str()) => Vec::new(),
        Some(url) => vec![("repository_url", url)],
        None => vec![("vcs_url", from.as_str())],
    };
    let mut part = Part::package(name, version, purl("cargo", "", name, Some(version), &qualifiers), source);
    let old = metadata.get(&format!("checksum {name} {version} ({from})")).filter(|text| *text != "<none>");
    if let Some(checksum) = package.checksum.as_ref().or(old) {
        let hash = Hash::new("sha256", checksum).ok_or_else(|| format!("the checksum of {name} is no SHA-256"))?;
        part.hashes.insert(hash);
    }
    Ok(part)
}

/// `name`, `name version` or `name version (source)`, as short as the lock could make it.
fn resolve<'a>(by_name: &'a BTreeMap<&str, Vec<(&Package, String)>>, text: &str) -> Option<&'a str> {
    let mut words = text.splitn(3, ' ');
    let (name, version) = (words.next()?, words.next());
    let source = words.next().map(|word| word.trim_start_matches('(').trim_end_matches(')'));
    let found = by_name.get(name)?.iter().find(|(package, _)| {
        version.is_none_or(|version| version == package.version)
            && source.is_none_or(|source| package.source.as_deref().is_none_or(|known| same_source(known, source)))
    });
    found.map(|(_, reference)| reference.as_str())
}

/// A git source ends with `#commit` in the package and, in lock files of version 1 and 2, not in those who need it.
fn same_source(known: &str, named: &str) -> bool {
    known == named || known.split('#').next() == Some(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sbom::tests::never_panics;

    const LOCK: &str = r#"version = 4

[[package]]
name = "app"
version = "0.1.0"
dependencies = ["left", "right 2.0.0"]

[[package]]
name = "left"
version = "1.0.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
dependencies = ["right 1.0.0"]

[[package]]
name = "right"
version = "1.0.0"
source = "git+https://example.org/right?tag=v1#0123"

[[package]]
name = "right"
version = "2.0.0"
source = "registry+https://crates.example/index"
"#;

    #[test]
    fn packages_their_needs_and_the_roots_are_read() {
        let mut bill = Bill::default();
        read(LOCK, "Cargo.lock", &mut bill).unwrap();
        let references: Vec<_> = bill.parts.keys().map(String::as_str).collect();
        expect_test::expect![[r#"
            [
                "application:app@0.1.0",
                "pkg:cargo/left@1.0.0",
                "pkg:cargo/right@1.0.0?vcs_url=git%2Bhttps:%2F%2Fexample.org%2Fright%3Ftag%3Dv1%230123",
                "pkg:cargo/right@2.0.0?repository_url=https:%2F%2Fcrates.example%2Findex",
            ]
        "#]]
        .assert_debug_eq(&references);
        assert_eq!(bill.roots, BTreeSet::from([references[0].to_owned()]));
        assert_eq!(bill.needs[references[0]].len(), 2);
        assert!(bill.needs[references[1]].contains(references[2]));
        assert_eq!(bill.parts[references[1]].hashes.len(), 1);
    }

    #[test]
    fn version_one_has_its_checksums_at_the_end() {
        let text = r#"
[[package]]
name = "a"
version = "1.0.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
dependencies = ["b 1.0.0 (git+https://example.org/b)"]
[[package]]
name = "b"
version = "1.0.0"
source = "git+https://example.org/b#99"
[metadata]
"checksum a 1.0.0 (registry+https://github.com/rust-lang/crates.io-index)" = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
"checksum b 1.0.0 (git+https://example.org/b#99)" = "<none>"
"#;
        let mut bill = Bill::default();
        read(text, "Cargo.lock", &mut bill).unwrap();
        assert_eq!(bill.parts["pkg:cargo/a@1.0.0"].hashes.len(), 1);
        assert_eq!(bill.needs["pkg:cargo/a@1.0.0"].len(), 1);
    }

    #[test]
    fn what_is_malformed_is_named_and_nothing_panics() {
        let with = |text: &str| read(text, "Cargo.lock", &mut Bill::default()).unwrap_err();
        assert!(with("[[package]]\nname = 3").contains("string"), "{}", with("[[package]]\nname = 3"));
        let missing = with("[[package]]\nname=\"a\"\nversion=\"1\"\ndependencies=[\"gone\"]");
        assert_eq!(missing, "a needs \"gone\", which the file does not have");
        never_panics(LOCK, |text| read(text, "Cargo.lock", &mut Bill::default()));
    }
}
