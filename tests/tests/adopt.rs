//! A new user with a Python service: `sealift init` writes what works, and at most three lines are edited by hand.
//!
//! The repository is of the usual kind (Dockerfile, pyproject.toml, a data folder, a server of the standard library) and
//! knows nothing of Sealift.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, and counts are printed"
)]

mod common;

use common::{engine::Engine, outcome, succeed, testbed};
use e2e::{Project, http};
use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const APP: &str = r#""""Predicts the price of a house, in the simplest way that could work."""
import csv
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__version__ = "0.3.0"
PORT = int(os.environ.get("PORT", "8000"))


class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/health":
            self.answer(200, {"status": "ok", "version": __version__})
        else:
            self.answer(404, {"error": "not found"})

    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        area = json.loads(self.rfile.read(length))["area"]
        self.answer(200, {"price": area * 3.5})


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()
"#;

const DOCKERFILE: &str = r#"FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml app.py ./
RUN ["python", "-m", "py_compile", "app.py"]
EXPOSE 8000
USER 1000
CMD ["python", "app.py"]
"#;

/// The repository as its owners have it: committed, without a word of Sealift.
fn python_repository(dockerfile: bool) -> Project {
    let project = Project::empty();
    project.write("app.py", APP);
    project.write("pyproject.toml", "[project]\nname = \"house-prices\"\nversion = \"0.3.0\"\ndependencies = []\n");
    project.write("README.md", "# House prices\n");
    // The data was never in git: it is why they want a tool.
    project.write(".gitignore", "__pycache__/\ndata/\n");
    project.write("data/houses.csv", "area,price\n100,350\n120,420\n");
    project.write("data/more/flats.csv", "area,price\n40,140\n");
    if dockerfile {
        project.write("Dockerfile", DOCKERFILE);
        project.write(".dockerignore", ".git\n.sealift\ndata\n");
    }
    project.commit("A service");
    project
}

/// Lines that differ between what was written and what was made of it.
fn edited(before: &str, after: &str) -> usize {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    changed + before.len().abs_diff(after.len())
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// `python:3.11-slim` of a minimal tree: this host's interpreter, its standard library and the shared libraries they need.
/// (The real one cannot be pulled here; what matters is that a real Dockerfile finds it under its name.)
fn import_python(engine: &Engine, folder: &Path) {
    let ask = "import sys, sysconfig; print(getattr(sys, '_base_executable', None) or sys.executable); \
               print(sysconfig.get_path('stdlib')); print(sysconfig.get_path('platstdlib'))";
    let said = succeed(Command::new("python3").args(["-I", "-c", ask]));
    let mut lines = said.lines().map(PathBuf::from);
    let program = fs::canonicalize(lines.next().unwrap()).unwrap();
    let libraries: BTreeSet<PathBuf> = lines.collect();
    let root = folder.join("rootfs");
    let put = |from: &Path| {
        let to = root.join(from.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    put(&program);
    let mut objects = vec![program.clone()];
    for library in &libraries {
        copy_library(library, &root.join(library.strip_prefix("/").unwrap()), &mut objects);
    }
    for line in outcome(Command::new("ldd").args(&objects)).1.lines() {
        if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/') && !word.ends_with(':')) {
            put(Path::new(path));
        }
    }
    let bin = root.join("usr/local/bin");
    fs::create_dir_all(&bin).unwrap();
    for name in ["python", "python3"] {
        let _ = std::os::unix::fs::symlink(&program, bin.join(name));
    }
    fs::create_dir_all(root.join("tmp")).unwrap();
    open_folders(&root);
    let archive = folder.join("python.tar");
    succeed(Command::new("tar").arg("-C").arg(&root).args(["--owner=0", "--group=0", "-cf"]).arg(&archive).arg("."));
    let path = "/images/create?fromSrc=-&repo=python&tag=3.11-slim&changes=ENV%20PATH%3D/usr/local/bin:/usr/bin:/bin";
    let said = engine.post_file(path, &archive);
    assert!(said.contains("sha256:"), "{said}");
}

/// A folder of another user may be closed to others; in an image everybody must get in.
fn open_folders(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            open_folders(&entry.path());
        }
    }
}

/// The standard library without what a small image leaves out; shared objects are noted.
fn copy_library(from: &Path, to: &Path, objects: &mut Vec<PathBuf>) {
    const LEFT_OUT: [&str; 11] = [
        "test",
        "tests",
        "idlelib",
        "turtledemo",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "ensurepip",
        "lib2to3",
        "tkinter",
        "pydoc_data",
    ];
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let (source, target) = (entry.path(), to.join(&name));
        let Ok(kind) = fs::metadata(&source) else { continue };
        if LEFT_OUT.contains(&name.as_str()) || name.starts_with("config-") {
            continue;
        }
        if kind.is_dir() {
            copy_library(&source, &target, objects);
        } else {
            fs::copy(&source, &target).unwrap();
            if name.contains(".so") {
                objects.push(source);
            }
        }
    }
}

/// Containers and images of this test go, however it ends.
struct Cleared<'a>(&'a Engine, &'static str);

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        self.0.clear(self.1, &["python:3.11-slim"]);
    }
}

#[test]
fn a_python_service_is_adopted_with_two_edited_lines() {
    let Some(address) = testbed("SEALIFT_TEST_DOCKER") else { return };
    let engine = Engine::at(&address);
    let project = python_repository(true);
    let _cleared = Cleared(&engine, "repository");
    import_python(&engine, &project.home());
    let run = |line: &[&str]| project.sealift(line).env("DOCKER_HOST", &address).run();

    let said = run(&["init"]).ok();
    let written = project.read("Sealift.toml");
    for word in ["Dockerfile", "pyproject.toml", "data", "next:"] {
        assert!(said.stdout.contains(word), "init does not tell of {word}: {}", said.told());
    }
    assert!(written.contains("builder = \"docker\"") && written.contains("port = 8000"), "{written}");
    assert!(project.read(".gitignore").contains(".sealift/"));
    // A second one changes nothing.
    run(&["init"]).fails(65);
    assert_eq!(project.read("Sealift.toml"), written);
    run(&["keys", "new"]).ok();

    // What a person edits here: the two ports, as others may use the proposed ones.
    let ports = [free_port(), free_port()];
    let mut edit = written.clone();
    for (proposed, port) in ["18080", "18081"].into_iter().zip(ports) {
        assert!(edit.contains(&format!("port = {proposed}")), "{edit}");
        edit = edit.replace(&format!("port = {proposed}"), &format!("port = {port}"));
    }
    project.write("Sealift.toml", &edit);
    let lines = edited(&written, &edit);
    println!("lines of Sealift.toml that were edited: {lines}");
    assert!(lines <= 3, "{lines} lines were edited");

    run(&["data", "add"]).ok();
    project.commit("Sealift");
    run(&["doctor"]).ok();
    run(&["data", "push"]).ok();
    for line in [&["release", "cut"][..], &["deploy", "staging"], &["smoke", "staging"], &["gate", "staging"]] {
        run(line).ok();
    }
    let component = release(&project);
    run(&["promote", &component, "--to", "production"]).ok();
    for port in ports {
        assert_eq!(http::get(port, "/health").unwrap().0, 200);
        let (status, body) = http::post(port, "/predict", "{\"area\": 100}").unwrap();
        assert_eq!((status, body.contains("350")), (200, true), "{body}");
    }
    // It runs as the policy says, in an image that knows nothing of it.
    let container = engine.container("repository", "production");
    assert_eq!(container["HostConfig"]["ReadonlyRootfs"], true);
    assert_eq!(container["Config"]["User"], "1000");
    run(&["status"]).ok().says("serving");
    run(&["audit", "verify"]).ok();
    // And it is brought back from the store with its data.
    run(&["restore", &component, "--to", "restored"]).ok();
    let restored = tree_names(&project.path("restored"));
    assert!(restored.iter().any(|name| name.ends_with("houses.csv")), "{restored:?}");
    assert!(restored.iter().any(|name| name.ends_with(".tar")), "{restored:?}");
}

/// Without a Docker Engine or a Dockerfile: what is released is the data and the configuration.
#[test]
fn a_python_repository_without_docker_is_released_as_it_is() {
    let project = python_repository(false);
    let nowhere = format!("unix://{}", project.folder().join("none.sock").display());
    let run = |line: &[&str]| project.sealift(line).env("DOCKER_HOST", &nowhere).run();
    let planned = run(&["init", "--plan"]).ok();
    assert!(!project.path("Sealift.toml").exists(), "--plan wrote something: {}", planned.told());
    run(&["init"]).ok();
    let written = project.read("Sealift.toml");
    assert!(written.contains("builder = \"none\""), "{written}");
    run(&["keys", "new"]).ok();
    run(&["data", "add"]).ok();
    project.commit("Sealift");
    run(&["doctor"]).ok();
    run(&["release", "cut"]).ok();
    assert_eq!(project.read("Sealift.toml"), written, "no line was edited");
    let release = release(&project);
    run(&["release", "verify", &release]).ok();
    run(&["explain", &release]).ok().says("0.3.0");
    run(&["restore", &release, "--to", "restored"]).ok();
    let restored = tree_names(&project.path("restored"));
    assert!(restored.iter().any(|name| name.ends_with("houses.csv")), "{restored:?}");
}

/// The same service as a plain process of this host's Python: its script is configuration, put beside it read-only.
#[test]
fn a_python_service_runs_as_a_process_without_docker() {
    let project = python_repository(false);
    let nowhere = format!("unix://{}", project.folder().join("none.sock").display());
    let run = |line: &[&str]| project.sealift(line).env("DOCKER_HOST", &nowhere).run();
    run(&["init"]).ok();
    run(&["keys", "new"]).ok();
    let python = succeed(Command::new("python3").args(["-I", "-c", "import sys; print(sys.executable)"]));
    let python = fs::canonicalize(python.trim()).unwrap();
    // Where root starts it, a workload runs as another user, who may be shut out of where this host has its Python.
    let shut_out = rustix::process::geteuid().is_root() && !open_to_others(&python);
    let relax = if shut_out { "relax = [\"run-as-root\"]\n" } else { "" };
    let component = component(&project);
    let section = format!(
        "\n[component.{component}.run]\ncommand = [\"{}\", \"{{config:app.py}}\"]\nport = 8000\n\
         env = {{ PORT = \"{{port}}\" }}\nhealth = \"/health\"\nconfigs = {{ \"app.py\" = \"/app/app.py\" }}\n{relax}\n\
         [environment.staging]\ntarget = \"process\"\n[environment.staging.component.{component}]\nport = {}\n",
        python.display(),
        project.port("staging")
    );
    let text = project.read("Sealift.toml").replacen("version_files", "config_files = [\"app.py\"]\nversion_files", 1);
    project.write("Sealift.toml", format!("{text}{section}"));
    run(&["data", "add"]).ok();
    project.commit("Sealift");
    for line in [&["release", "cut"][..], &["deploy", "staging"], &["audit", "verify"]] {
        run(line).ok();
    }
    let (status, body) = http::get(project.port("staging"), "/health").unwrap();
    assert_eq!((status, body.contains("0.3.0")), (200, true), "{body}");
}

fn open_to_others(path: &Path) -> bool {
    let open = |folder: &Path| fs::metadata(folder).is_ok_and(|data| data.permissions().mode() & 0o001 != 0);
    path.ancestors().skip(1).all(open)
}

/// The name of the only component that `init` wrote.
fn component(project: &Project) -> String {
    let text = project.read("Sealift.toml");
    let line = text.lines().find_map(|line| line.strip_prefix("[component.")).expect("init found a component");
    line.split([']', '.']).next().unwrap().to_owned()
}

fn release(project: &Project) -> String {
    format!("{}@0.3.0", component(project))
}

fn tree_names(folder: &Path) -> Vec<String> {
    common::tree(folder).into_keys().map(|path| path.display().to_string()).collect()
}
