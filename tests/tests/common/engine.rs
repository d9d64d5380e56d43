//! A Docker Engine over its socket, without any client; and a private one that can be killed.

use super::Tmpfs;
use serde_json::Value;
use std::{
    fs::File,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// An engine that somebody else started.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    socket: PathBuf,
}

impl Engine {
    /// By its address, `unix://…`.
    pub(crate) fn at(address: &str) -> Self {
        let socket = address.strip_prefix("unix://").unwrap_or_else(|| panic!("{address} is no unix socket"));
        Self { socket: socket.into() }
    }

    /// `unix://…`.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// One request; status and body. HTTP/1.0, so that the end of the answer is the end of the connection.
    pub(crate) fn request(&self, method: &str, path: &str, body: &mut dyn Read) -> std::io::Result<(u16, Vec<u8>)> {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)?;
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let kind = if method == "POST" { "content-type: application/x-tar\r\n" } else { "" };
        write!(stream, "{method} {path} HTTP/1.0\r\nhost: docker\r\n{kind}content-length: {}\r\n\r\n", bytes.len())?;
        stream.write_all(&bytes)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len().saturating_sub(4));
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok((status, answer.split_off(end + 4)))
    }

    /// `GET`, which must succeed, as JSON.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, body) = self.request("GET", path, &mut std::io::empty()).unwrap();
        let text = String::from_utf8_lossy(&body);
        assert_eq!(status, 200, "GET {path}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("GET {path}: {error}: {text}"))
    }

    /// `POST` of a file, which must succeed.
    #[track_caller]
    pub(crate) fn post_file(&self, path: &str, file: &Path) -> String {
        let (status, body) = self.request("POST", path, &mut File::open(file).unwrap()).unwrap();
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(matches!(status, 200 | 201 | 204), "POST {path}: {status} {text}");
        text
    }

    /// Whether it answers.
    pub(crate) fn answers(&self) -> bool {
        self.request("GET", "/_ping", &mut std::io::empty()).is_ok_and(|(status, _)| status == 200)
    }

    /// The container that runs for an environment of a project.
    #[track_caller]
    pub(crate) fn container(&self, project: &str, environment: &str) -> Value {
        let filter = format!(r#"{{"label":["sealift.project={project}","sealift.environment={environment}"]}}"#);
        let found = self.get(&format!("/containers/json?filters={}", percent(&filter)));
        let list = found.as_array().unwrap();
        assert_eq!(list.len(), 1, "one container of {project} runs in {environment}: {found}");
        self.get(&format!("/containers/{}/json", list[0]["Id"].as_str().unwrap()))
    }

    /// Removes what a project left: containers, then images that are named here.
    pub(crate) fn clear(&self, project: &str, images: &[&str]) {
        let filter = format!(r#"{{"label":["sealift.project={project}"]}}"#);
        let path = format!("/containers/json?all=1&filters={}", percent(&filter));
        if let Ok((200, body)) = self.request("GET", &path, &mut std::io::empty()) {
            let list: Value = serde_json::from_slice(&body).unwrap_or_default();
            for container in list.as_array().into_iter().flatten() {
                let id = container["Id"].as_str().unwrap_or_default();
                let _ = self.request("DELETE", &format!("/containers/{id}?force=1&v=1"), &mut std::io::empty());
            }
        }
        for image in images {
            let _ = self.request("DELETE", &format!("/images/{image}?force=1"), &mut std::io::empty());
        }
    }
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A Docker Engine of one test, without a network, so that it disturbs no other. Its folder is its own file system,
/// because an overlay cannot lie on an overlay.
#[derive(Debug)]
pub(crate) struct PrivateEngine {
    child: Child,
    /// To ask it.
    pub(crate) engine: Engine,
    folder: PathBuf,
    program: PathBuf,
    /// Taken out only by [`PrivateEngine::again`].
    files: Option<Tmpfs>,
}

impl PrivateEngine {
    /// Starts a `dockerd` in a folder, which keeps its data. It finds its containerd and the others beside it or in the PATH.
    pub(crate) fn start_program(program: &Path, folder: &Path) -> Self {
        let files = Tmpfs::mount(folder, "size=512m");
        Self::over(program.to_owned(), folder.to_owned(), files)
    }

    fn over(program: PathBuf, folder: PathBuf, files: Tmpfs) -> Self {
        let engine = Engine { socket: folder.join("docker.sock") };
        std::fs::write(folder.join("none.json"), "{}").unwrap();
        let log = File::create(folder.join("log")).unwrap();
        let mut command = Command::new(&program);
        let beside = program.parent().filter(|parent| parent.is_absolute()).map(Path::to_path_buf);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env("PATH", std::env::join_paths(beside.into_iter().chain(std::env::split_paths(&path))).unwrap());
        command.arg("--data-root").arg(folder.join("data")).arg("--exec-root").arg(folder.join("exec"));
        command.arg("--pidfile").arg(folder.join("docker.pid")).arg("--config-file").arg(folder.join("none.json"));
        command.arg("-H").arg(engine.address()).args(["--bridge", "none", "--iptables=false", "--ip6tables=false"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("dockerd does not start: {error}"));
        let mut private = Self { child, engine, folder, program, files: Some(files) };
        let begun = Instant::now();
        while !private.engine.answers() {
            let said = || std::fs::read_to_string(private.folder.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(60), "dockerd does not answer:\n{}", said());
            assert!(private.child.try_wait().unwrap().is_none(), "dockerd ended:\n{}", said());
            thread::sleep(Duration::from_millis(50));
        }
        private
    }

    /// SIGKILL to it and the containerd that it started, as a machine that fails would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.kill_containerd();
    }

    /// Starts it again over the same data.
    pub(crate) fn again(mut self) -> Self {
        let (program, folder, files) = (self.program.clone(), self.folder.clone(), self.files.take().unwrap());
        let _ = std::fs::remove_file(folder.join("docker.pid"));
        drop(self);
        Self::over(program, folder, files)
    }

    /// Its containerd goes with it, and is waited for: a pid file of one that still ends would stop the next start.
    fn kill_containerd(&self) {
        let file = self.folder.join("exec/containerd/containerd.pid");
        let pid = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return };
        // A pid file may be older than what has that pid now; and what has ended has no words left.
        let ours = || {
            let words = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            String::from_utf8_lossy(&words).contains(&self.folder.display().to_string())
        };
        let begun = Instant::now();
        while ours() && begun.elapsed() < Duration::from_secs(15) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            thread::sleep(Duration::from_millis(10));
        }
        let _ = std::fs::remove_file(&file);
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let begun = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(15) {
                thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.kill_containerd();
    }
}
