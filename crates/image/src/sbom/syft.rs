//! What syft finds in an image. It runs offline, with a deadline, and what it prints is checked before it is used.

use crate::layout::{Documents, write_index};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long syft may take for one image.
const DEADLINE: Duration = Duration::from_secs(600);
/// The most that it may print, in bytes.
const MAX_OUTPUT: u64 = 512 << 20;

/// What it found, by its own references.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) version: String,
    pub(crate) components: BTreeMap<String, Value>,
    pub(crate) needs: BTreeMap<String, BTreeSet<String>>,
}

/// Where syft is: `SEALIFT_SYFT`, or the first in PATH.
pub(crate) fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SEALIFT_SYFT").filter(|named| !named.is_empty()) {
        return Some(named.into());
    }
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join("syft")).find(|path| path.is_file())
}

/// Scans every image of a layout. The error is a sentence's end.
pub(crate) fn scan(program: &Path, layout: &Path, images: &[Documents]) -> Result<Found, String> {
    let bytes = run(program, &["version".as_ref(), "-o".as_ref(), "json".as_ref()], Duration::from_secs(60))?;
    let version: Value = serde_json::from_slice(&bytes).map_err(|_| "its version is not understood".to_owned())?;
    let version = version["version"].as_str().ok_or("it does not say its version")?;
    let mut found = Found { version: version.to_owned(), ..Found::default() };
    for documents in images {
        // It takes no index of several platforms, so each image is shown to it as a layout of its own.
        let single = tempfile::tempdir().map_err(|error| format!("a folder for it cannot be made: {error}"))?;
        let blobs =
            std::path::absolute(layout.join("blobs")).map_err(|error| format!("{}: {error}", layout.display()))?;
        std::os::unix::fs::symlink(blobs, single.path().join("blobs"))
            .map_err(|error| format!("a folder for it cannot be made: {error}"))?;
        let mut descriptor = documents.manifest_descriptor.clone();
        descriptor.annotations = BTreeMap::new();
        write_index(single.path(), descriptor).map_err(|error| error.to_string())?;
        let mut source = std::ffi::OsString::from("oci-dir:");
        source.push(single.path());
        let arguments =
            ["scan".as_ref(), source.as_os_str(), "-o".as_ref(), "cyclonedx-json@1.6".as_ref(), "-q".as_ref()];
        take(&run(program, &arguments, DEADLINE)?, &mut found)?;
    }
    Ok(found)
}

/// Checks a document of syft's and takes its components and dependencies.
fn take(bytes: &[u8], found: &mut Found) -> Result<(), String> {
    let mut document: Value = serde_json::from_slice(bytes).map_err(|error| format!("it printed no JSON: {error}"))?;
    if document["bomFormat"] != "CycloneDX" || document["specVersion"] != "1.6" {
        return Err("it printed no CycloneDX 1.6".to_owned());
    }
    let components = match document["components"].take() {
        Value::Null => Vec::new(),
        Value::Array(components) => components,
        _ => return Err("its components are no list".to_owned()),
    };
    for component in components {
        let text = |key: &str| component[key].as_str().filter(|text| !text.is_empty());
        let (Some(reference), Some(_), Some(_)) = (text("bom-ref"), text("type"), text("name")) else {
            return Err("it printed a component without reference, type or name".to_owned());
        };
        found.components.insert(reference.to_owned(), component);
    }
    for entry in document["dependencies"].as_array().into_iter().flatten() {
        let Some(of) = entry["ref"].as_str().filter(|of| found.components.contains_key(*of)) else { continue };
        let needs = entry["dependsOn"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let needs: Vec<String> = needs.filter(|name| found.components.contains_key(*name)).map(str::to_owned).collect();
        found.needs.entry(of.to_owned()).or_default().extend(needs);
    }
    Ok(())
}

/// Kills what is left of a process group when it goes out of scope.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // An empty group is the good case.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

fn run(program: &Path, arguments: &[&std::ffi::OsStr], deadline: Duration) -> Result<Vec<u8>, String> {
    let file = || tempfile::tempfile().map_err(|error| format!("a file for its output cannot be made: {error}"));
    let (mut output, mut errors) = (file()?, file()?);
    let handle =
        |file: &File| file.try_clone().map_err(|error| format!("a file for its output cannot be made: {error}"));
    let mut child = Command::new(program)
        .args(arguments)
        .env("SYFT_CHECK_FOR_APP_UPDATE", "false")
        .env("SYFT_JAVA_USE_NETWORK", "false")
        .env("SYFT_GOLANG_SEARCH_REMOTE_LICENSES", "false")
        .env("SYFT_JAVASCRIPT_SEARCH_REMOTE_LICENSES", "false")
        .env("SYFT_PYTHON_SEARCH_REMOTE_LICENSES", "false")
        .stdin(Stdio::null())
        .stdout(handle(&output)?)
        .stderr(handle(&errors)?)
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
    let group = Group(Pid::from_raw(child.id().cast_signed()));
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() > deadline || size(&output) > MAX_OUTPUT => {
                drop(group);
                let _ = child.wait();
                return Err(format!(
                    "{} took longer than {} s or printed too much",
                    program.display(),
                    deadline.as_secs()
                ));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(format!("{} cannot be waited for: {error}", program.display())),
        }
    };
    let read = |file: &mut File, most: u64| {
        let mut bytes = Vec::new();
        let result = file.rewind().and_then(|()| file.take(most).read_to_end(&mut bytes));
        result.map(|_| bytes).map_err(|error| format!("its output cannot be read: {error}"))
    };
    if !status.success() {
        let said = read(&mut errors, 4096)?;
        let last = String::from_utf8_lossy(&said)
            .trim()
            .lines()
            .last()
            .unwrap_or_default()
            .chars()
            .take(300)
            .collect::<String>();
        return Err(format!("{} ended with {status}: {last}", program.display()));
    }
    read(&mut output, MAX_OUTPUT)
}

fn size(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_document_is_taken() {
        let with = |text: &str| take(text.as_bytes(), &mut Found::default());
        assert!(with("").unwrap_err().contains("no JSON"));
        assert!(with(r#"{"bomFormat": "CycloneDX", "specVersion": "1.4"}"#).unwrap_err().contains("1.6"));
        let head = r#"{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": "#;
        assert!(with(&format!("{head}3}}")).unwrap_err().contains("no list"));
        assert!(with(&format!(r#"{head}[{{"type": "library"}}]}}"#)).unwrap_err().contains("without reference"));
        let mut found = Found::default();
        let text = format!(
            r#"{head}[{{"type": "library", "name": "a", "bom-ref": "a"}}], "dependencies": [{{"ref": "a", "dependsOn": ["a", "gone"]}}]}}"#
        );
        take(text.as_bytes(), &mut found).unwrap();
        assert_eq!(found.needs["a"].len(), 1);
    }
}
