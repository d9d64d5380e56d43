//! A registry of a test's own, over a folder that can be looked into.

use super::network::exchange;
use std::{
    fs::{self, File},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const ACCEPT: &str = "accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json\r\n";

/// A registry that runs until it is dropped.
pub(crate) struct Registry {
    program: String,
    folder: PathBuf,
    port: u16,
    child: Child,
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
        let child = Self::spawn(program, folder);
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

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn start_again(&mut self) {
        self.stop();
        self.child = Self::spawn(&self.program, &self.folder);
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

    /// The file of a blob.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.folder.join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
