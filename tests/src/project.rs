//! A project: a git repository in a folder of its own, with home, keys, store, ports and processes.

use crate::{
    ports::{self, Port},
    processes,
    run::{Run, Running},
    service::{sealift_program, service_program},
    settings::Settings,
};
use domain::Name;
use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// The component that the service is.
pub const COMPONENT: &str = "svc";

/// A repository and everything that belongs to it. Dropping it ends every process that runs because of it.
pub struct Project {
    folder: TempDir,
    root: PathBuf,
    ports: [Port; 2],
    /// What `Sealift.toml` says; written by [`Project::configure`].
    pub settings: Settings,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Project {
    /// An empty folder with a git repository without a commit.
    pub fn empty() -> Self {
        let project = Self::bare();
        project.git(["init", "--quiet", "--initial-branch=main"]);
        project.git(["config", "user.name", "Tess Ter"]);
        project.git(["config", "user.email", "tess@example.com"]);
        project
    }

    /// An empty folder, not even a git repository.
    pub fn bare() -> Self {
        let folder = tempfile::Builder::new().prefix("sealift-e2e-").tempdir().expect("a folder for the project");
        // Workloads run as another user when the tests run as root, and must get in.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the project's folder is opened");
        let root = folder.path().canonicalize().expect("the project's folder is there").join("repository");
        for name in ["repository", "home/.config", "tmp"] {
            fs::create_dir_all(folder.path().join(name)).expect("the project's folders are made");
        }
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime for the store");
        Self { folder, root, ports: [ports::take(), ports::take()], settings: Settings::default(), runtime }
    }

    /// A committed repository with the service at version 1.0.0 and these settings; nothing of Sealift was run in it.
    pub fn with(settings: Settings) -> Self {
        let mut project = Self::empty();
        project.settings = settings;
        project.write(".gitignore", "/build/\n/.sealift/\n/models/\n/data/raw/\n/reports/\n/ready\n");
        project.write("train.py", "# how the model was made\n");
        fs::create_dir_all(project.path("build")).expect("the folder is made");
        fs::copy(service_program(), project.path("build/service")).expect("the service is copied");
        for index in 0..5 {
            project.write(&format!("data/raw/part-{index}.csv"), format!("x,y\n{index},{}\n", index * 2));
        }
        project.model(2.0, 0.9);
        project.report(0.9);
        project.version("1.0.0");
        project.configure();
        project.commit("the service");
        project
    }

    /// The same with a signing key.
    pub fn service() -> Self {
        Self::service_with(Settings::default())
    }

    /// The same with a signing key and settings.
    pub fn service_with(settings: Settings) -> Self {
        let project = Self::with(settings);
        project.run(["keys", "new", "release"]).ok();
        project.commit("the key");
        project
    }

    /// A second project that begins where this one stands: repository, home, store and caches are copied, ports are new,
    /// nothing runs.
    pub fn fork(&self) -> Self {
        let mut other = Self::bare();
        other.settings = self.settings.clone();
        copy(&self.root, &other.root, Some(&self.root.join(".sealift/run")));
        copy(&self.home(), &other.home(), None);
        other.configure();
        other
    }

    /// The repository.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that holds everything of this project.
    pub fn folder(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    /// A path in the repository.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The home folder of the person who works here.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// The directory of the embedded store.
    pub fn store_folder(&self) -> PathBuf {
        self.path(".sealift/store")
    }

    /// The port of an environment.
    pub fn port(&self, environment: &str) -> u16 {
        self.ports[usize::from(environment == "production")].number
    }

    /// Writes a file in the repository, with the folders above it.
    pub fn write(&self, relative: &str, text: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap_or(&self.root)).expect("the folder is made");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
    }

    /// Reads a file in the repository.
    pub fn read(&self, relative: &str) -> String {
        let path = self.path(relative);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
    }

    /// Writes `Sealift.toml` from the settings.
    pub fn configure(&self) {
        self.write("Sealift.toml", self.settings.toml(&self.root, [self.ports[0].number, self.ports[1].number]));
    }

    /// Writes the version file.
    pub fn version(&self, version: &str) {
        self.write("pyproject.toml", format!("[project]\nname = \"svc\"\nversion = \"{version}\"\n"));
    }

    /// Writes the model and its metrics.
    pub fn model(&self, scale: f64, accuracy: f64) {
        self.write("models/price.json", format!("{{\"scale\": {scale}}}\n"));
        self.write("models/metrics.json", format!("{{\"accuracy\": {accuracy}}}\n"));
    }

    /// Writes the report that the gate `quality` reads.
    pub fn report(&self, accuracy: f64) {
        self.write("reports/evaluation.json", format!("{{\"accuracy\": {accuracy}, \"samples\": 100}}\n"));
    }

    /// A service that starts slowly gets ready now.
    pub fn let_start(&self) {
        self.write("ready", "");
    }

    /// Services that start slowly do not get ready until [`Project::let_start`].
    pub fn hold_start(&self) {
        let _ = fs::remove_file(self.path("ready"));
    }

    /// Runs git in the repository; it must succeed.
    #[track_caller]
    pub fn git<const N: usize>(&self, arguments: [&str; N]) -> String {
        let mut command = self.command("git");
        command.args(arguments);
        Running::start(command, format!("git {}", arguments.join(" "))).wait().ok().stdout
    }

    /// Commits everything.
    #[track_caller]
    pub fn commit(&self, message: &str) {
        self.git(["add", "--all"]);
        self.git(["commit", "--quiet", "--allow-empty", "--message", message]);
    }

    /// Cuts a release: settings changed, version bumped, committed, sealed.
    #[track_caller]
    pub fn release(&mut self, version: &str, change: impl FnOnce(&mut Settings)) -> Run {
        change(&mut self.settings);
        self.version(version);
        self.configure();
        self.commit(&format!("release {version}"));
        self.run(["release", "cut"]).ok()
    }

    /// A program with this project's environment, in the repository.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let home = self.home();
        command
            .current_dir(&self.root)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", home.join(".config"))
            .env("XDG_CACHE_HOME", home.join(".cache"))
            .env("TMPDIR", self.folder().join("tmp"))
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .env("USER", "tester")
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "Tess Ter")
            .env("GIT_AUTHOR_EMAIL", "tess@example.com")
            .env("GIT_COMMITTER_NAME", "Tess Ter")
            .env("GIT_COMMITTER_EMAIL", "tess@example.com")
            .env("GIT_AUTHOR_DATE", "2026-01-02T03:04:05Z")
            .env("GIT_COMMITTER_DATE", "2026-01-02T03:04:05Z")
            .env(processes::MARK, self.folder());
        command
    }

    /// A command line of Sealift that is not yet run.
    pub fn sealift<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Invocation {
        let arguments: Vec<OsString> = arguments.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let mut command = self.command(sealift_program());
        command.args(&arguments);
        Invocation { command, shown: format!("sealift {}", words.join(" ")) }
    }

    /// Runs Sealift and waits for its end.
    #[must_use = "a run says nothing until it is asked: ok(), fails(code)"]
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Run {
        self.sealift(arguments).run()
    }

    /// The same with `--format json`.
    #[must_use = "a run says nothing until it is asked: ok(), fails(code)"]
    #[track_caller]
    pub fn json<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Run {
        let arguments = arguments.into_iter().map(|word| word.as_ref().to_owned());
        self.run(arguments.chain(["--format".into(), "json".into()]).collect::<Vec<OsString>>())
    }

    /// Starts Sealift with `--format json`, so that steps can be waited for.
    pub fn spawn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Running {
        let arguments = arguments.into_iter().map(|word| word.as_ref().to_owned());
        self.sealift(arguments.chain(["--format".into(), "json".into()]).collect::<Vec<OsString>>()).spawn()
    }

    /// The version that answers in an environment; `None` when nothing does.
    pub fn answers(&self, environment: &str) -> Option<String> {
        let (_, body) = crate::http::get(self.port(environment), "/version").ok()?;
        let value: serde_json::Value = serde_json::from_str(&body).ok()?;
        value["version"].as_str().map(str::to_owned)
    }

    /// Ends everything that runs because of this project.
    pub fn stop_all(&self) {
        if let Err(problem) = processes::stop_all(self.folder()) {
            panic!("{problem}");
        }
    }

    pub(crate) fn name(text: &str) -> Name {
        Name::new(text).unwrap_or_else(|error| panic!("{text:?} is no name: {error}"))
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let stopped = processes::stop_all(self.folder());
        if std::env::var_os("SEALIFT_E2E_KEEP").is_some() {
            self.folder.disable_cleanup(true);
        }
        if let (Err(problem), false) = (stopped, std::thread::panicking()) {
            panic!("{problem}");
        }
    }
}

/// A command line that is not yet run.
pub struct Invocation {
    command: Command,
    shown: String,
}

impl Invocation {
    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value.as_ref());
        self.shown = format!("{name}={} {}", value.as_ref().to_string_lossy(), self.shown);
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs it in another folder.
    #[must_use]
    pub fn dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs it and waits for its end.
    #[must_use = "a run says nothing until it is asked: ok(), fails(code)"]
    #[track_caller]
    pub fn run(self) -> Run {
        self.spawn().wait()
    }

    /// Starts it.
    pub fn spawn(self) -> Running {
        Running::start(self.command, self.shown)
    }
}

/// Copies a folder; `without` is left out.
fn copy(from: &Path, to: &Path, without: Option<&Path>) {
    let failed = |error: std::io::Error| -> ! { panic!("{} cannot be copied: {error}", from.display()) };
    fs::create_dir_all(to).unwrap_or_else(|error| failed(error));
    for entry in fs::read_dir(from).unwrap_or_else(|error| failed(error)) {
        let entry = entry.unwrap_or_else(|error| failed(error));
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap_or_else(|error| failed(error));
        if without == Some(source.as_path()) {
            continue;
        }
        if kind.is_dir() {
            copy(&source, &target, without);
        } else if kind.is_symlink() {
            let link = fs::read_link(&source).unwrap_or_else(|error| failed(error));
            std::os::unix::fs::symlink(link, &target).unwrap_or_else(|error| failed(error));
        } else {
            fs::copy(&source, &target).unwrap_or_else(|error| failed(error));
        }
    }
}
