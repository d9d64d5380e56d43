//! What is installed in an image: Debian's and Alpine's package databases, Python's installed distributions, and which system it is.
//!
//! Layers are read as streams, in order, and only the few files that matter are kept, each as the uppermost layer has it:
//! what a later layer deletes is not in the bill. Nothing is unpacked. Every layer must unpack to what the configuration says.
//!
//! RPM's databases (SQLite, Berkeley DB, ndb) are not read: that one is there is noted, and the bill says so where syft did not list what it has.

use super::bill::{Bill, Kind as PartKind, Part, malformed, normal_python_name, purl};
use super::python;
use crate::{
    error::{Error, Result},
    layer::{BUFFER, LayerReader, read_failed, read_layer, stopped},
    layout::{Documents, blobs_dir},
    tarread::{Entry, Kind, TarReader},
    unpack::{Limits, components, whiteout},
};
use domain::Digest;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The largest file that is read, and the most of all of them together, in bytes.
const MAX_FILE: u64 = 64 << 20;
const MAX_FILES: u64 = 256 << 20;

type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// Adds what is installed in the image of a layout.
pub(crate) fn read(layout: &Path, documents: &Documents, bill: &mut Bill) -> Result<()> {
    let mut wanted = BTreeSet::new();
    // Some installers link equal files, also those that matter, to ones that do not; then these are read too.
    let mut files = scan(layout, documents, &mut wanted)?;
    if !wanted.is_empty() {
        files = scan(layout, documents, &mut wanted)?;
    }
    let texts: BTreeMap<String, String> = files
        .iter()
        .filter(|(path, _)| matters(path))
        .map(|(path, bytes)| (String::from_utf8_lossy(path).into_owned(), String::from_utf8_lossy(bytes).into_owned()))
        .collect();
    let unread = files.keys().filter(|path| is_rpm_database(path));
    bill.unread.extend(unread.map(|path| format!("/{}", String::from_utf8_lossy(path))));
    let system = ["usr/lib/os-release", "etc/os-release"].iter().find_map(|path| texts.get(*path));
    let system = system.map(|text| System::read(text)).unwrap_or_default();
    if let Some(part) = system.part() {
        bill.add(part);
    }
    for (path, text) in &texts {
        let source = format!("/{path}");
        let Some(result) = database(path, text, &system, bill) else { continue };
        malformed(&source, "a database of installed packages", result)?;
        bill.sources.insert(source);
    }
    python_packages(&texts, bill)
}

/// Reads a database of installed packages by its path in the image; `None` when it is none.
fn database(path: &str, text: &str, system: &System, bill: &mut Bill) -> Option<std::result::Result<(), String>> {
    let source = format!("/{path}");
    Some(match path {
        "lib/apk/db/installed" | "usr/lib/apk/db/installed" => alpine(text, &source, system, bill),
        "var/lib/dpkg/status" => debian(text, &source, system, bill),
        path if path.starts_with("var/lib/dpkg/status.d/") => debian(text, &source, system, bill),
        _ => return None,
    })
}

/// Reads a file of an image that says what is installed; `None` when it is none.
pub(crate) fn read_one(path: &str, text: &str, bill: &mut Bill) -> Option<std::result::Result<(), String>> {
    match path.rsplit('/').next() {
        Some("os-release") => {
            Some(System::read(text).part().map(|part| drop(bill.add(part))).ok_or("it has no ID".into()))
        }
        Some("METADATA" | "PKG-INFO") => Some(python::metadata(text, path).map(|(part, _)| drop(bill.add(part)))),
        _ => database(path, text, &System::default(), bill),
    }
}

/// Whether a file says what is installed.
fn matters(path: &[u8]) -> bool {
    let known: [&[u8]; 5] = [
        b"usr/lib/os-release",
        b"etc/os-release",
        b"lib/apk/db/installed",
        b"usr/lib/apk/db/installed",
        b"var/lib/dpkg/status",
    ];
    let distroless = path.strip_prefix(b"var/lib/dpkg/status.d/").is_some_and(|name| !name.ends_with(b".md5sums"));
    known.contains(&path)
        || distroless
        || path.ends_with(b".dist-info/METADATA")
        || path.ends_with(b".egg-info/PKG-INFO")
}

/// Whether a file is a database of installed packages that is not read here.
fn is_rpm_database(path: &[u8]) -> bool {
    let folders: [&[u8]; 2] = [b"var/lib/rpm/", b"usr/lib/sysimage/rpm/"];
    let names: [&[u8]; 3] = [b"rpmdb.sqlite", b"Packages", b"Packages.db"];
    folders.iter().filter_map(|folder| path.strip_prefix(*folder)).any(|name| names.contains(&name))
}

/// Reads what matters, and what is wanted besides. Targets of hard links that were not kept are added to `wanted`.
fn scan(layout: &Path, documents: &Documents, wanted: &mut BTreeSet<Vec<u8>>) -> Result<Files> {
    let limits = Limits::default();
    let mut scan = Scan { files: Files::new(), wanted, bytes_left: MAX_FILES, entries_left: limits.entries };
    let mut bytes = 0;
    for (descriptor, diff_id) in documents.manifest.layers.iter().zip(&documents.config.rootfs.diff_ids) {
        let layer = descriptor.digest;
        let mut archive = TarReader::new(read_layer(&blobs_dir(layout), descriptor, &limits, limits.bytes - bytes)?);
        let mut upper = Files::new();
        while let Some(entry) = archive.next_entry().map_err(|stop| stopped(layer, stop))? {
            scan.entry(layer, &entry, &mut archive, &mut upper)?;
        }
        scan.files.append(&mut upper);
        let mut reader = archive.drain().map_err(|stop| stopped(layer, stop))?;
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(|error| read_failed(layer, error))?;
        let (_, uncompressed, count) = reader.finish();
        bytes += count;
        if uncompressed != *diff_id {
            let why = format!("the layer unpacks to {uncompressed}, the configuration says {diff_id}");
            return Err(Error::damaged(layer, why));
        }
    }
    Ok(scan.files)
}

struct Scan<'a> {
    files: Files,
    wanted: &'a mut BTreeSet<Vec<u8>>,
    bytes_left: u64,
    entries_left: u64,
}

impl Scan<'_> {
    fn entry(
        &mut self,
        layer: Digest,
        entry: &Entry,
        archive: &mut TarReader<LayerReader>,
        upper: &mut Files,
    ) -> Result<()> {
        let hostile = |why: &str| {
            let entry = String::from_utf8_lossy(&entry.path).into_owned();
            Error::Hostile { layer, entry, why: why.to_owned() }
        };
        self.entries_left =
            self.entries_left.checked_sub(1).ok_or_else(|| hostile("the image has more entries than are allowed"))?;
        let path = components(&entry.path).map_err(|why| hostile(&why))?;
        if let Some(hidden) = whiteout(&path) {
            let below = hidden.path().join(&b'/');
            remove(&mut self.files, &below, hidden.is_opaque());
            return Ok(());
        }
        let path = path.join(&b'/');
        if entry.kind == Kind::Directory {
            self.files.remove(&path);
            return Ok(());
        }
        remove(&mut self.files, &path, false);
        let keep = matters(&path) || self.wanted.contains(&path);
        match entry.kind {
            Kind::File | Kind::HardLink if !keep && is_rpm_database(&path) => drop(upper.insert(path, Vec::new())),
            Kind::File if keep => {
                if entry.size > MAX_FILE || entry.size > self.bytes_left {
                    return Err(hostile("it is larger than a list of installed packages can be"));
                }
                self.bytes_left -= entry.size;
                let mut bytes = Vec::new();
                let mut buffer = vec![0; BUFFER];
                loop {
                    let read = archive.read(&mut buffer).map_err(|stop| stopped(layer, stop))?;
                    if read == 0 {
                        break;
                    }
                    bytes.extend_from_slice(&buffer[..read]);
                }
                upper.insert(path, bytes);
            }
            Kind::HardLink if keep => {
                let target = components(&entry.link).map_err(|why| hostile(&why))?.join(&b'/');
                match upper.get(&target).or_else(|| self.files.get(&target)).cloned() {
                    Some(bytes) => {
                        self.bytes_left = self
                            .bytes_left
                            .checked_sub(bytes.len() as u64)
                            .ok_or_else(|| hostile("the lists of installed packages are larger than they can be"))?;
                        drop(upper.insert(path, bytes));
                    }
                    None => drop(self.wanted.insert(target)),
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Removes what is below a path, and the path itself if that is asked for. What is below stands together, in the order of the names.
fn remove(files: &mut Files, path: &[u8], keep_itself: bool) {
    if path.is_empty() {
        return files.clear();
    }
    // The character after a slash is 0.
    let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
    let below: Vec<Vec<u8>> = files.range(from..to).map(|(name, _)| name.clone()).collect();
    for name in below {
        files.remove(&name);
    }
    if !keep_itself {
        files.remove(path);
    }
}

/// What `os-release` says.
#[derive(Debug, Default)]
struct System {
    id: String,
    version: String,
    name: String,
}

impl System {
    fn read(text: &str) -> Self {
        let mut system = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            let value = value.trim_matches(['"', '\'']).to_owned();
            match key {
                "ID" => system.id = value,
                "VERSION_ID" => system.version = value,
                "PRETTY_NAME" => system.name = value,
                _ => {}
            }
        }
        system
    }

    fn part(&self) -> Option<Part> {
        let mut part =
            Part::local(&self.id, Some(&self.version).filter(|v| !v.is_empty()).map(String::as_str), "/os-release");
        part.kind = PartKind::OperatingSystem;
        (!self.id.is_empty()).then_some(part)
    }

    fn distro(&self) -> String {
        match (self.id.as_str(), self.version.as_str()) {
            ("", _) => String::new(),
            (id, "") => id.to_owned(),
            (id, version) => format!("{id}-{version}"),
        }
    }

    fn id_or<'a>(&'a self, other: &'a str) -> &'a str {
        if self.id.is_empty() { other } else { &self.id }
    }
}

/// The stanzas of a Debian control file. Continuation lines are of no interest here.
fn stanzas(text: &str) -> impl Iterator<Item = BTreeMap<String, &str>> {
    text.split("\n\n").filter(|stanza| !stanza.trim().is_empty()).map(|stanza| {
        let fields = stanza.lines().filter(|line| !line.starts_with([' ', '\t']));
        let fields = fields.filter_map(|line| line.split_once(':'));
        fields.map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim())).collect()
    })
}

/// What is asked for by several names; the first of the alternatives that is there is taken.
struct Wishes {
    provided: BTreeMap<String, String>,
    wishes: Vec<(String, Vec<Vec<String>>)>,
}

impl Wishes {
    fn grant(self, bill: &mut Bill) {
        for (reference, wishes) in self.wishes {
            bill.knows_needs(&reference);
            for alternatives in wishes {
                if let Some(target) = alternatives.iter().find_map(|name| self.provided.get(name)) {
                    bill.need(&reference, target);
                }
            }
        }
    }
}

fn debian(text: &str, source: &str, system: &System, bill: &mut Bill) -> std::result::Result<(), String> {
    let mut wishes = Wishes { provided: BTreeMap::new(), wishes: Vec::new() };
    let mut all = BTreeSet::new();
    for stanza in stanzas(text) {
        let name = stanza.get("package").copied().ok_or("an entry has no Package")?;
        // `status.d` of distroless images has no Status; there it means that it is installed.
        let installed = stanza.get("status").is_none_or(|status| status.ends_with(" installed"));
        if !installed {
            continue;
        }
        let version = stanza.get("version").filter(|version| !version.is_empty());
        let version = *version.ok_or_else(|| format!("{name} has no Version"))?;
        let architecture = stanza.get("architecture").copied().unwrap_or_default();
        let (upstream, upstream_version) = match stanza.get("source").copied().unwrap_or_default().split_once(" (") {
            Some((upstream, version)) => (upstream, version.trim_end_matches(')')),
            None => (stanza.get("source").copied().unwrap_or_default(), ""),
        };
        let upstream =
            if upstream_version.is_empty() { upstream.to_owned() } else { format!("{upstream}@{upstream_version}") };
        let distro = system.distro();
        let qualifiers = [("arch", architecture), ("distro", distro.as_str()), ("upstream", upstream.as_str())];
        let purl = purl("deb", system.id_or("debian"), name, Some(version), &qualifiers);
        let reference = bill.add(Part::package(name, version, purl, source));
        let names = |field: &str| {
            let text = stanza.get(field).copied().unwrap_or_default();
            let plain = |word: &str| word.trim().split([' ', '(', ':']).next().unwrap_or_default().to_owned();
            text.split(',')
                .map(|wish| wish.split('|').map(plain).filter(|name| !name.is_empty()).collect::<Vec<_>>())
                .filter(|wish| !wish.is_empty())
                .collect::<Vec<_>>()
        };
        for provided in names("provides").into_iter().flatten() {
            wishes.provided.entry(provided).or_insert_with(|| reference.clone());
        }
        wishes.provided.insert(name.to_owned(), reference.clone());
        let mut wished = names("depends");
        wished.extend(names("pre-depends"));
        all.insert(reference.clone());
        wishes.wishes.push((reference, wished));
    }
    wishes.grant(bill);
    bill.root_tops(&all);
    Ok(())
}

/// Alpine's database: <https://wiki.alpinelinux.org/wiki/Apk_spec>. Its `C:` is a hash of a control file, not of the package.
fn alpine(text: &str, source: &str, system: &System, bill: &mut Bill) -> std::result::Result<(), String> {
    let mut wishes = Wishes { provided: BTreeMap::new(), wishes: Vec::new() };
    let mut all = BTreeSet::new();
    for stanza in text.split("\n\n").filter(|stanza| !stanza.trim().is_empty()) {
        let field = |key: &str| stanza.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
        let (name, version) = (field("P:"), field("V:"));
        if name.is_empty() || version.is_empty() {
            return Err("an entry has no P: or no V:".to_owned());
        }
        let distro = system.distro();
        let upstream = if field("o:") == name { "" } else { field("o:") };
        let qualifiers = [("arch", field("A:")), ("distro", distro.as_str()), ("upstream", upstream)];
        let purl = purl("apk", system.id_or("alpine"), name, Some(version), &qualifiers);
        let mut part = Part::package(name, version, purl, source);
        part.licenses.extend(Some(field("L:").to_owned()).filter(|text| !text.is_empty()));
        let reference = bill.add(part);
        let plain = |word: &str| word.split(['=', '<', '>', '~']).next().unwrap_or_default().to_owned();
        for provided in field("p:").split_whitespace().map(plain) {
            wishes.provided.entry(provided).or_insert_with(|| reference.clone());
        }
        wishes.provided.insert(name.to_owned(), reference.clone());
        let wished = field("D:").split_whitespace().filter(|word| !word.starts_with('!'));
        all.insert(reference.clone());
        wishes.wishes.push((reference, wished.map(|word| vec![plain(word)]).collect()));
    }
    wishes.grant(bill);
    bill.root_tops(&all);
    Ok(())
}

/// A distribution: its normal name, its reference, and the normal names of what it needs.
type Distribution = (String, String, Vec<String>);

/// Distributions that are installed in one folder need each other.
fn python_packages(texts: &BTreeMap<String, String>, bill: &mut Bill) -> Result<()> {
    let mut folders: BTreeMap<&str, Vec<Distribution>> = BTreeMap::new();
    for (path, text) in texts {
        let Some((folder, _)) = path.rsplit_once('/').filter(|(_, name)| matches!(*name, "METADATA" | "PKG-INFO"))
        else {
            continue;
        };
        let site = folder.rsplit_once('/').map_or("", |(site, _)| site);
        let source = format!("/{path}");
        let (part, needs) =
            malformed(&source, "the metadata of a Python distribution", python::metadata(text, &source))?;
        bill.sources.insert(source);
        let name = normal_python_name(&part.name);
        folders.entry(site).or_default().push((name, bill.add(part), needs));
    }
    for packages in folders.values() {
        let by_name: BTreeMap<&str, &str> = packages.iter().map(|(name, to, _)| (name.as_str(), to.as_str())).collect();
        for (_, reference, needs) in packages {
            bill.knows_needs(reference);
            for target in needs.iter().filter_map(|name| by_name.get(name.as_str())) {
                bill.need(reference, target);
            }
        }
        bill.root_tops(&packages.iter().map(|(_, reference, _)| reference.clone()).collect());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sbom::tests::never_panics;

    const STATUS: &str = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\nSource: glibc (2.36)\nProvides: libc\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1\nPre-Depends: libc6 (>= 2.36)\nDepends: missing | libc:any\nDescription: shell\n more: text\n";
    const INSTALLED: &str = "C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\np:so:libc.musl-x86_64.so.1=1\n\nC:Q1d=\nP:busybox\nV:1.36.1-r5\nA:x86_64\nL:GPL-2.0-only\no:busybox\nD:so:libc.musl-x86_64.so.1 !other\n\n";

    fn system() -> System {
        System::read("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\nVERSION_ID=\"12\"\n")
    }

    #[test]
    fn debian_packages_are_those_that_are_installed() {
        let mut bill = Bill::default();
        debian(STATUS, "/var/lib/dpkg/status", &system(), &mut bill).unwrap();
        let references: Vec<_> = bill.parts.keys().map(String::as_str).collect();
        let libc = "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12&upstream=glibc%402.36";
        assert_eq!(references, ["pkg:deb/debian/bash@5.2-1?arch=amd64&distro=debian-12", libc]);
        assert_eq!(bill.needs[references[0]], BTreeSet::from([libc.to_owned()]));
        assert!(debian("Status: x\n", "s", &system(), &mut Bill::default()).is_err());
        never_panics(STATUS, |text| debian(text, "s", &system(), &mut Bill::default()));
    }

    #[test]
    fn alpine_packages_have_licences_and_needs() {
        let mut bill = Bill::default();
        alpine(INSTALLED, "/lib/apk/db/installed", &System::default(), &mut bill).unwrap();
        let busybox = "pkg:apk/alpine/busybox@1.36.1-r5?arch=x86_64";
        assert_eq!(bill.parts[busybox].licenses, BTreeSet::from(["GPL-2.0-only".to_owned()]));
        assert_eq!(bill.needs[busybox], BTreeSet::from(["pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64".to_owned()]));
        assert!(alpine("P:x\n", "s", &System::default(), &mut Bill::default()).is_err());
        never_panics(INSTALLED, |text| alpine(text, "s", &System::default(), &mut Bill::default()));
    }

    #[test]
    fn deleting_a_folder_deletes_what_is_below_and_nothing_beside() {
        let mut files: Files =
            ["a/b", "a/b/c", "a/bc"].iter().map(|path| (path.as_bytes().to_vec(), Vec::new())).collect();
        remove(&mut files, b"a/b", true);
        assert_eq!(files.len(), 2);
        remove(&mut files, b"a/b", false);
        assert_eq!(files.into_keys().collect::<Vec<_>>(), [b"a/bc".to_vec()]);
    }
}
