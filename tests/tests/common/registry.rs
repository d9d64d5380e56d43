//! A registry of a test's own, over a folder that can be looked into.

use super::network::exchange;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

const ACCEPT: &str = "accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json\r\n";

/// A registry that runs until it is dropped.
pub(crate) struct Registry {
    program: String,
    /// Where its data is.
    pub(crate) folder: PathBuf,
    /// Where it listens.
    pub(crate) port: u16,
    /// Its process, for those who kill it.
    pub(crate) child: Arc<Mutex<Child>>,
}

impl Registry {
    pub(crate) fn start(program: &str, folder: &Path) -> Self {
        fs::create_dir_all(folder.join("data")).unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            folder.join("data").display()
        );
        fs::write(folder.join("config.yml"), config).unwrap();
        let child = Arc::new(Mutex::new(Self::spawn(program, folder)));
        let registry = Self { program: program.to_owned(), folder: folder.to_owned(), port, child };
        registry.ready();
        registry
    }

    fn spawn(program: &str, folder: &Path) -> Child {
        let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let mut command = Command::new(program);
        command.arg("serve").arg(folder.join("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn ready(&self) {
        let said = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let answers = || TcpStream::connect(("127.0.0.1", self.port)).is_ok().then_some(());
        e2e::until(&format!("the registry answers; it said:\n{}", said()), answers);
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn stop(&self) {
        kill(&self.child);
    }

    pub(crate) fn start_again(&self) {
        self.stop();
        *self.child.lock().unwrap() = Self::spawn(&self.program, &self.folder);
        self.ready();
    }

    /// Status and digest of what a tag or digest names.
    pub(crate) fn head(&self, repository: &str, reference: &str) -> (u16, String) {
        let first = format!("HEAD /v2/{repository}/manifests/{reference}");
        let (status, head, _) = exchange(self.port, &first, ACCEPT, b"");
        let digest = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("docker-content-digest: ").map(str::to_owned));
        (status, digest.unwrap_or_default())
    }

    /// Status of a blob or a manifest (`blobs`, `manifests`).
    pub(crate) fn status(&self, repository: &str, kind: &str, reference: &str) -> u16 {
        exchange(self.port, &format!("HEAD /v2/{repository}/{kind}/{reference}"), ACCEPT, b"").0
    }

    /// A manifest that must be there: its type and its bytes.
    #[track_caller]
    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> (String, Vec<u8>) {
        let first = format!("GET /v2/{repository}/manifests/{reference}");
        let (status, head, body) = exchange(self.port, &first, ACCEPT, b"");
        assert_eq!(status, 200, "{repository}:{reference}");
        let kind = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-type").then(|| value.trim().to_owned())
        });
        (kind.unwrap(), body)
    }

    /// The same, read.
    #[track_caller]
    pub(crate) fn document(&self, repository: &str, reference: &str) -> Value {
        serde_json::from_slice(&self.manifest(repository, reference).1).unwrap()
    }

    /// Writes a manifest under a tag, over whatever is there.
    #[track_caller]
    pub(crate) fn put(&self, repository: &str, tag: &str, (kind, bytes): &(String, Vec<u8>)) {
        let first = format!("PUT /v2/{repository}/manifests/{tag}");
        let (status, ..) = exchange(self.port, &first, &format!("content-type: {kind}\r\n"), bytes);
        assert_eq!(status, 201, "{repository}:{tag}");
    }

    /// Deletes a manifest by its digest.
    #[track_caller]
    pub(crate) fn delete(&self, repository: &str, digest: &str) {
        let first = format!("DELETE /v2/{repository}/manifests/{digest}");
        assert_eq!(exchange(self.port, &first, "", b"").0, 202, "{repository}@{digest}");
    }

    /// The file of a blob.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.folder.join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// Everything that it keeps, each with its file and the time of the last write: the same again when nothing was sent to it, be it something
    /// that was there before.
    pub(crate) fn everything(&self) -> BTreeMap<PathBuf, (u64, i64, i64)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.folder.join("data")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = path.symlink_metadata().unwrap();
                if metadata.is_dir() {
                    folders.push(path.clone());
                }
                found.insert(path, (metadata.ino(), metadata.mtime(), metadata.mtime_nsec()));
            }
        }
        found
    }
}

/// SIGKILL, and it is gone.
pub(crate) fn kill(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap();
    let _ = child.kill();
    let _ = child.wait();
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
