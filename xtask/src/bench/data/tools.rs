//! The tools that are compared, each as its manual says it is used: one place of work, one prefix in the bucket.

use super::dataset::{self, Dataset};
use crate::bench::{sample::Sample, stopwatch::Stopwatch};
use crate::shell::{Outcome, capture};
use std::{
    cell::Cell,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

/// A tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Tool {
    Sealift,
    Dvc,
    /// dvc with more at a time than it takes by itself.
    DvcJobs,
    Restic,
    S5cmd,
    Rclone,
}

impl Tool {
    /// Every tool as its manual says; dvc with its defaults.
    pub(super) const ALL: [Self; 5] = [Self::Sealift, Self::Dvc, Self::Restic, Self::S5cmd, Self::Rclone];

    /// Whether taking the data in is a step of its own.
    pub(super) fn adds(self) -> bool {
        matches!(self, Self::Sealift | Self::Dvc | Self::DvcJobs)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sealift => "sealift",
            Self::Dvc => "dvc",
            Self::DvcJobs => "dvc-64-jobs",
            Self::Restic => "restic",
            Self::S5cmd => "s5cmd",
            Self::Rclone => "rclone",
        }
    }
}

/// Where the programs are, and what measures them.
pub(super) struct Programs {
    pub(super) sealift: PathBuf,
    pub(super) dvc: PathBuf,
    pub(super) restic: PathBuf,
    pub(super) s5cmd: PathBuf,
    pub(super) rclone: PathBuf,
    pub(super) stopwatch: Stopwatch,
}

impl Programs {
    pub(super) fn of(&self, tool: Tool) -> &Path {
        match tool {
            Tool::Sealift => &self.sealift,
            Tool::Dvc | Tool::DvcJobs => &self.dvc,
            Tool::Restic => &self.restic,
            Tool::S5cmd => &self.s5cmd,
            Tool::Rclone => &self.rclone,
        }
    }
}

/// A server, and how to speak to it.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) secret: String,
}

impl Server {
    /// The same server through a proxy.
    pub(super) fn through(&self, proxy: SocketAddr) -> Self {
        Self { address: proxy, ..self.clone() }
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A tool's place of work: a folder with the data in it, and a prefix in the bucket. The folder goes with it, the
/// prefix too unless there is much below it.
pub(super) struct Workplace<'a> {
    pub(super) tool: Tool,
    programs: &'a Programs,
    server: Server,
    data: &'a Dataset,
    folder: PathBuf,
    prefix: String,
    /// Bytes that were inserted since.
    grown: Cell<u64>,
}

/// More files than this are left on the server.
const MANY: u64 = 1000;

static NUMBER: AtomicUsize = AtomicUsize::new(0);

impl<'a> Workplace<'a> {
    /// A fresh one, with a copy of the data.
    pub(super) fn new(
        tool: Tool,
        programs: &'a Programs,
        server: &Server,
        data: &'a Dataset,
        under: &Path,
    ) -> Outcome<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", tool.name());
        let folder = under.join(&name);
        fs::create_dir_all(&folder).map_err(|cause| format!("{}: {cause}", folder.display()))?;
        let place = Self {
            tool,
            programs,
            server: server.clone(),
            data,
            folder,
            prefix: format!("bench/{name}"),
            grown: Cell::new(0),
        };
        data.copy(&place.data())?;
        place.prepare()?;
        Ok(place)
    }

    /// Where the data is.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Speaks to the server through another address from now on.
    pub(super) fn redirect(&mut self, server: &Server) -> Outcome {
        self.server = server.clone();
        match self.tool {
            Tool::Sealift => self.configure(),
            Tool::Dvc | Tool::DvcJobs => {
                self.dvc(&["remote", "modify", "store", "endpointurl", &self.server.endpoint()])
            }
            _ => Ok(()),
        }
    }

    fn configure(&self) -> Outcome {
        let text = format!(
            "[project]\nname = \"bench\"\n[store]\nbucket = \"{}\"\nprefix = \"{}\"\nendpoint = \"{}\"\n\
             access_key = \"env:AWS_ACCESS_KEY_ID\"\nsecret_key = \"env:AWS_SECRET_ACCESS_KEY\"\n\
             [data.raw]\npath = \"data\"\n",
            self.server.bucket,
            self.prefix,
            self.server.endpoint()
        );
        let path = self.folder.join("Sealift.toml");
        fs::write(&path, text).map_err(|cause| format!("{}: {cause}", path.display()))
    }

    fn dvc(&self, words: &[&str]) -> Outcome {
        capture(self.command(&self.programs.dvc).args(words)).map(drop)
    }

    fn prepare(&self) -> Outcome {
        match self.tool {
            Tool::Sealift => {
                capture(Command::new("git").args(["init", "--quiet"]).current_dir(&self.folder))?;
                self.configure()
            }
            Tool::Dvc | Tool::DvcJobs => {
                capture(Command::new("git").args(["init", "--quiet"]).current_dir(&self.folder))?;
                self.dvc(&["init", "--quiet"])?;
                self.dvc(&["config", "core.analytics", "false"])?;
                self.dvc(&["remote", "add", "--default", "store", &self.url()])?;
                self.dvc(&["remote", "modify", "store", "endpointurl", &self.server.endpoint()])
            }
            Tool::Restic => capture(self.command(&self.programs.restic).args(["init", "--quiet"])).map(drop),
            Tool::S5cmd | Tool::Rclone => Ok(()),
        }
    }

    fn url(&self) -> String {
        format!("s3://{}/{}", self.server.bucket, self.prefix)
    }

    /// A command in the folder, with credentials, its own caches, and nothing of the person who measures.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.folder.join("home"));
        command.env("LANG", "C.UTF-8").env("TMPDIR", std::env::temp_dir());
        command.env("AWS_ACCESS_KEY_ID", &self.server.key).env("AWS_SECRET_ACCESS_KEY", &self.server.secret);
        command.env("AWS_REGION", "us-east-1").env("AWS_DEFAULT_REGION", "us-east-1");
        let endpoint = self.server.endpoint();
        match self.tool {
            Tool::Sealift => {}
            Tool::Dvc | Tool::DvcJobs => {
                command.env("DVC_SITE_CACHE_DIR", self.folder.join("site")).env("DVC_NO_ANALYTICS", "1");
            }
            Tool::Restic => {
                let repository = format!("s3:{endpoint}/{}/{}", self.server.bucket, self.prefix);
                command.env("RESTIC_REPOSITORY", repository).env("RESTIC_PASSWORD", "bench");
            }
            Tool::S5cmd => {
                command.env("S3_ENDPOINT_URL", endpoint);
            }
            Tool::Rclone => {
                command.env("RCLONE_CONFIG_STORE_TYPE", "s3").env("RCLONE_CONFIG_STORE_PROVIDER", "Minio");
                command.env("RCLONE_CONFIG_STORE_ENV_AUTH", "true").env("RCLONE_CONFIG_STORE_ENDPOINT", endpoint);
                command.env("RCLONE_CONFIG", self.folder.join("rclone.conf"));
            }
        }
        command
    }

    fn run(&self, words: &[&str]) -> Outcome<Sample> {
        self.programs.stopwatch.measure(self.command(self.programs.of(self.tool)).args(words))
    }

    /// Takes the data in, for tools that do so apart.
    pub(super) fn add(&self) -> Outcome<Sample> {
        match self.tool {
            Tool::Sealift => self.run(&["data", "add", "raw"]),
            Tool::Dvc | Tool::DvcJobs => self.run(&["add", "--quiet", "data"]),
            _ => Err(format!("{} has no step of its own for adding", self.tool.name())),
        }
    }

    /// Inserts a hundred bytes in the middle of the first file.
    pub(super) fn insert(&self) -> Outcome {
        let text = [b'!'; 100];
        dataset::insert(&self.data(), &text)?;
        self.grown.set(self.grown.get() + text.len() as u64);
        Ok(())
    }

    /// Whether the data is what was added.
    pub(super) fn status(&self) -> Outcome<Sample> {
        match self.tool {
            Tool::Sealift => self.run(&["data", "status", "raw"]),
            Tool::Dvc | Tool::DvcJobs => self.run(&["status", "--quiet"]),
            _ => Err(format!("{} has no status", self.tool.name())),
        }
    }

    /// Sends it. With restic this is the whole backup.
    pub(super) fn push(&self) -> Outcome<Sample> {
        match self.tool {
            Tool::Sealift => self.run(&["data", "push", "raw"]),
            Tool::Dvc => self.run(&["push", "--quiet"]),
            Tool::DvcJobs => self.run(&["push", "--quiet", "--jobs", "64"]),
            Tool::Restic => self.run(&["backup", "--quiet", "data"]),
            Tool::S5cmd => self.run(&["--log", "error", "cp", "data/", &format!("{}/", self.url())]),
            Tool::Rclone => {
                let to = format!("store:{}/{}", self.server.bucket, self.prefix);
                self.run(&["copy", "--transfers", "64", "--s3-no-check-bucket", "data", &to])
            }
        }
    }

    /// Brings it back into an empty tree, with nothing of it cached, and looks whether all of it came.
    pub(super) fn pull(&self) -> Outcome<Sample> {
        let gone = |name: &str| {
            let path = self.folder.join(name);
            match fs::remove_dir_all(&path) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                    Err(format!("{}: {cause}", path.display()))
                }
                _ => Ok(()),
            }
        };
        for name in ["data", ".sealift", ".dvc/cache", ".dvc/tmp", "site", "home"] {
            gone(name)?;
        }
        let sample = match self.tool {
            Tool::Sealift => self.run(&["data", "pull", "raw"]),
            Tool::Dvc => self.run(&["pull", "--quiet"]),
            Tool::DvcJobs => self.run(&["pull", "--quiet", "--jobs", "64"]),
            Tool::Restic => self.run(&["restore", "--quiet", "latest", "--target", "."]),
            Tool::S5cmd => self.run(&["--log", "error", "cp", &format!("{}/*", self.url()), "data/"]),
            Tool::Rclone => {
                let from = format!("store:{}/{}", self.server.bucket, self.prefix);
                self.run(&["copy", "--transfers", "64", &from, "data"])
            }
        }?;
        Dataset { bytes: self.data.bytes + self.grown.get(), ..self.data.clone() }.came_back(&self.data())?;
        Ok(sample)
    }
}

impl Drop for Workplace<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        // Thousands of objects go with the server: to delete them here would keep it busy while the next tool is measured.
        if self.data.files > MANY && !matches!(self.tool, Tool::Sealift | Tool::Restic) {
            return;
        }
        let mut clean = Command::new(&self.programs.s5cmd);
        clean.env("AWS_ACCESS_KEY_ID", &self.server.key).env("AWS_SECRET_ACCESS_KEY", &self.server.secret);
        clean.env("AWS_REGION", "us-east-1").env("S3_ENDPOINT_URL", self.server.endpoint());
        // Room for the next one; a run that cannot clean up says so by its full disk.
        let _ = capture(clean.args(["rm", &format!("{}/*", self.url())]));
    }
}
