//! The servers of one run: started on free loopback ports, waited for, stopped when dropped.
//!
//! Each server dies with this task even if the task is killed (`setpriv --pdeathsig`, where there is one), and is
//! otherwise asked to stop by its process id and killed only if it does not. Nothing outlives the [`Testbed`]: data,
//! sockets, logs and the private Docker Engine's bridge go with it.

use super::{Part, Provided, http, provide::debian_program};
use crate::shell::{Outcome, capture, find_program, tail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(60);
/// The folder of a run, and the bridge of its engine, are called by the process that made them.
const FOLDER: &str = "sealift-testbed-";
/// Of each engine that may run: how its bridge begins, and the second numbers of its containers' and networks' addresses.
const OLDEST: Engine = Engine { bridge: "sealift", containers: 208, networks: 224 };
const NEWEST: Engine = Engine { bridge: "sealnew", containers: 192, networks: 240 };
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

/// Of every S3 server: the one who may do everything, and a bucket that is there.
pub(super) const BUCKET_KEY: &str = "sealift-test";
pub(super) const BUCKET_SECRET: &str = "sealift-test-secret";
const BUCKET: &str = "sealift-test";

/// The running servers, and where the programs are.
#[derive(Debug)]
pub(crate) struct Testbed {
    // Fields are dropped in this order: the servers stop before the bridges and the folders go.
    servers: Vec<Server>,
    bridges: Vec<Bridge>,
    environment: Vec<(String, String)>,
    folder: TempDir,
}

impl Testbed {
    /// Starts the server of each part that is one, and waits until it answers.
    pub(crate) fn start(provided: &[Provided]) -> Outcome<Self> {
        sweep();
        let folder = tempfile::Builder::new()
            .prefix(&format!("{FOLDER}{}-", std::process::id()))
            .tempdir()
            .map_err(|cause| format!("no temporary folder for the servers: {cause}"))?;
        let mut testbed = Self { servers: Vec::new(), bridges: Vec::new(), environment: Vec::new(), folder };
        for one in provided {
            let value = match one.part {
                Part::Docker => testbed.start_docker("docker", &one.program, OLDEST)?,
                Part::DockerNewest => testbed.start_docker("docker-newest", &one.program, NEWEST)?,
                Part::Registry => testbed.start_registry(&one.program)?,
                Part::Minio => testbed.start_minio(&one.program)?,
                Part::Seaweedfs => testbed.start_seaweedfs(&one.program)?,
                Part::Versity => testbed.start_versity(&one.program)?,
                Part::Cosign
                | Part::Skopeo
                | Part::Crane
                | Part::Syft
                | Part::Gitleaks
                | Part::PipAudit
                | Part::CargoAudit
                | Part::Awscli
                | Part::S5cmd
                | Part::Rclone
                | Part::Restic
                | Part::Dvc
                | Part::CargoDeny
                | Part::Nix => one.program.display().to_string(),
            };
            if let Some(name) = variable(one.part) {
                testbed.environment.push((name.to_owned(), value));
            }
            for (name, program) in program_variables(one) {
                // Both engines bring the client.
                if testbed.environment().all(|(known, _)| known != name) {
                    testbed.environment.push((name.to_owned(), program.display().to_string()));
                }
            }
        }
        Ok(testbed)
    }

    /// `SEALIFT_TEST_*`, for the tests.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of the variable of `part`.
    pub(super) fn value(&self, part: Part) -> Option<&str> {
        let wanted = variable(part)?;
        self.environment().find_map(|(name, value)| (name == wanted).then_some(value))
    }

    /// A fresh folder that goes with the testbed.
    pub(super) fn scratch(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).map_err(|cause| format!("{}: {cause}", path.display()))?;
        Ok(path)
    }

    fn start_docker(&mut self, name: &'static str, program: &Path, engine: Engine) -> Outcome<String> {
        let run = self.scratch(name)?;
        let socket = run.join("docker.sock");
        let bridge = Bridge::make(engine)?;
        let mut command = guarded(program);
        // It starts the containerd, shim and runc that lie beside it; Debian's are all in the folders of the system.
        let beside = program.parent().into_iter().map(Path::to_path_buf);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(beside.chain(std::env::split_paths(&path)));
        command.env("PATH", path.map_err(|cause| format!("the path for {name}: {cause}"))?);
        command.arg("--data-root").arg(run.join("data")).arg("--exec-root").arg(run.join("exec"));
        command.arg("--pidfile").arg(run.join("docker.pid")).arg("--config-file").arg(run.join("none.json"));
        command.arg("-H").arg(format!("unix://{}", socket.display()));
        command.args(["--bridge", &bridge.name(), "--default-address-pool"]);
        command.arg(format!("base={}0/24,size=28", bridge.networks()));
        // Without a configuration file of its own the engine would read the machine's.
        fs::write(run.join("none.json"), "{}").map_err(|cause| format!("{}: {cause}", run.display()))?;
        self.bridges.push(bridge);
        let answers = || http::get_unix(&socket, "/_ping").is_ok_and(|(status, _)| status == 200);
        self.servers.push(Server::start(name, &mut command, &run, answers)?);
        Ok(format!("unix://{}", socket.display()))
    }

    fn start_registry(&mut self, program: &Path) -> Outcome<String> {
        let run = self.scratch("registry")?;
        let (server, ports) = on_free_ports("docker-registry", |ports: [u16; 1]| {
            let configuration = run.join("config.yml");
            let text = format!(
                "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {data}}}\n  \
                 delete: {{enabled: true}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
                data = run.join("data").display(),
                port = ports[0],
            );
            fs::write(&configuration, text).map_err(|cause| format!("{}: {cause}", configuration.display()))?;
            let answers = || http::get(ports[0], "/v2/").is_ok_and(|(status, _)| status == 200);
            Server::start("docker-registry", guarded(program).arg("serve").arg(&configuration), &run, answers)
        })?;
        self.servers.push(server);
        Ok(format!("127.0.0.1:{}", ports[0]))
    }

    fn start_minio(&mut self, program: &Path) -> Outcome<String> {
        let run = self.scratch("minio")?;
        // A folder of the drive is a bucket, so that no client is needed to make one.
        make_folder(&run.join("data").join(BUCKET))?;
        let (server, ports) = on_free_ports("minio", |ports: [u16; 2]| {
            let mut command = guarded(program);
            command.args(["server", "--quiet", "--address", &format!("127.0.0.1:{}", ports[0])]);
            command.args(["--console-address", &format!("127.0.0.1:{}", ports[1]), "--certs-dir"]);
            command.arg(run.join("certs")).arg(run.join("data"));
            command.env("MINIO_ROOT_USER", BUCKET_KEY).env("MINIO_ROOT_PASSWORD", BUCKET_SECRET);
            command.envs([("MINIO_UPDATE", "off"), ("MINIO_BROWSER", "off"), ("MINIO_CALLHOME_ENABLE", "off")]);
            let answers = || http::get(ports[0], "/minio/health/ready").is_ok_and(|(status, _)| status == 200);
            Server::start("minio", &mut command, &run, answers)
        })?;
        self.servers.push(server);
        Ok(bucket_address(ports[0]))
    }

    fn start_seaweedfs(&mut self, program: &Path) -> Outcome<String> {
        let run = self.scratch("seaweedfs")?;
        make_folder(&run.join("data"))?;
        let (server, ports) = on_free_ports("seaweedfs", |ports: [u16; 10]| {
            let mut command = guarded(program);
            command.args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false"]);
            // Users are made through the IAM requests of the S3 port.
            command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam.readOnly=false"]);
            command.arg(format!("-bucket={BUCKET}")).arg(format!("-dir={}", run.join("data").display()));
            // Each service has two ports, and the second would else be the first plus 10,000, which need not exist.
            for (service, pair) in ["s3", "master", "volume", "filer", "admin"].into_iter().zip(ports.chunks(2)) {
                command.arg(format!("-{service}.port={}", pair[0])).arg(format!("-{service}.port.grpc={}", pair[1]));
            }
            command.env("AWS_ACCESS_KEY_ID", BUCKET_KEY).env("AWS_SECRET_ACCESS_KEY", BUCKET_SECRET).env("HOME", &run);
            // 403: the bucket is there and not for strangers. Before that it is a 404, or no answer.
            let answers = || http::get(ports[0], &format!("/{BUCKET}")).is_ok_and(|(status, _)| status == 403);
            Server::start("seaweedfs", &mut command, &run, answers)
        })?;
        self.servers.push(server);
        Ok(bucket_address(ports[0]))
    }

    fn start_versity(&mut self, program: &Path) -> Outcome<String> {
        let run = self.scratch("versity")?;
        // As with MinIO, a folder is a bucket. Users are made by `versitygw admin create-user`.
        for folder in [&format!("data/{BUCKET}"), "versions", "users"] {
            make_folder(&run.join(folder))?;
        }
        let (server, ports) = on_free_ports("versity", |ports: [u16; 1]| {
            let mut command = guarded(program);
            command.args(["--port", &format!("127.0.0.1:{}", ports[0]), "--health", "/healthy", "--quiet"]);
            command.args(["--iam-cache-disable", "--iam-dir"]).arg(run.join("users"));
            command.args(["posix", "--versioning-dir"]).arg(run.join("versions")).arg(run.join("data"));
            command.env("ROOT_ACCESS_KEY_ID", BUCKET_KEY).env("ROOT_SECRET_ACCESS_KEY", BUCKET_SECRET);
            let answers = || http::get(ports[0], "/healthy").is_ok_and(|(status, _)| status == 200);
            Server::start("versity", &mut command, &run, answers)
        })?;
        self.servers.push(server);
        Ok(bucket_address(ports[0]))
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        // All at once; each is waited for when its `Server` is dropped, after this.
        for server in &mut self.servers {
            server.ask_to_stop();
        }
    }
}

fn make_folder(path: &Path) -> Outcome {
    fs::create_dir_all(path).map_err(|cause| format!("{}: {cause}", path.display()))
}

fn bucket_address(port: u16) -> String {
    format!("http://{BUCKET_KEY}:{BUCKET_SECRET}@127.0.0.1:{port}/{BUCKET}")
}

/// The environment variable by which tests find `part`.
fn variable(part: Part) -> Option<&'static str> {
    match part {
        Part::Docker => Some("SEALIFT_TEST_DOCKER"),
        Part::DockerNewest => Some("SEALIFT_TEST_DOCKER_NEWEST"),
        Part::Registry => Some("SEALIFT_TEST_REGISTRY"),
        Part::Minio => Some("SEALIFT_TEST_MINIO"),
        Part::Seaweedfs => Some("SEALIFT_TEST_SEAWEEDFS"),
        Part::Versity => Some("SEALIFT_TEST_VERSITY"),
        Part::Cosign => Some("SEALIFT_TEST_COSIGN"),
        Part::Skopeo => Some("SEALIFT_TEST_SKOPEO"),
        Part::Crane => Some("SEALIFT_TEST_CRANE"),
        Part::Syft => Some("SEALIFT_TEST_SYFT"),
        Part::Gitleaks => Some("SEALIFT_TEST_GITLEAKS"),
        Part::PipAudit => Some("SEALIFT_TEST_PIP_AUDIT"),
        Part::CargoAudit => Some("SEALIFT_TEST_CARGO_AUDIT"),
        Part::Awscli => Some("SEALIFT_TEST_AWS"),
        Part::S5cmd => Some("SEALIFT_TEST_S5CMD"),
        Part::Rclone => Some("SEALIFT_TEST_RCLONE"),
        Part::Restic => Some("SEALIFT_TEST_RESTIC"),
        Part::Dvc => Some("SEALIFT_TEST_DVC"),
        Part::Nix => Some("SEALIFT_TEST_NIX"),
        Part::CargoDeny => None,
    }
}

/// More variables, of the parts whose first does not name a program that tests may need too.
fn program_variables(one: &Provided) -> Vec<(&'static str, PathBuf)> {
    let program = one.program.clone();
    match one.part {
        Part::Docker => docker_client().chain([("SEALIFT_TEST_DOCKERD", program)]).collect(),
        Part::DockerNewest => docker_client().chain([("SEALIFT_TEST_DOCKERD_NEWEST", program)]).collect(),
        Part::Registry => vec![("SEALIFT_TEST_REGISTRY_PROGRAM", program)],
        Part::Minio => vec![("SEALIFT_TEST_MINIO_PROGRAM", program)],
        Part::Seaweedfs => vec![("SEALIFT_TEST_SEAWEEDFS_PROGRAM", program)],
        Part::Versity => vec![("SEALIFT_TEST_VERSITY_PROGRAM", program)],
        Part::Dvc => vec![("SEALIFT_TEST_PYTHON", program.with_file_name("python"))],
        _ => Vec::new(),
    }
}

/// Debian's client of the Docker Engine. It builds with both engines, with the classic builder (`DOCKER_BUILDKIT=0`) and,
/// for its release has that client inside, with BuildKit (`DOCKER_BUILDKIT=1`) without the plugin `buildx`.
fn docker_client() -> impl Iterator<Item = (&'static str, PathBuf)> {
    debian_program("docker").map(|client| ("SEALIFT_TEST_DOCKER_CLI", client)).into_iter()
}

/// Removes what a run left that was killed: its servers are gone by then, its folder and its bridge are not.
fn sweep() {
    let gone = |digits: &str| digits.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let temporary = std::env::temp_dir();
    for name in names(&temporary) {
        if name.strip_prefix(FOLDER).and_then(|rest| rest.split('-').next()).is_some_and(gone) {
            let _ = fs::remove_dir_all(temporary.join(name));
        }
    }
    for name in names(Path::new("/sys/class/net")) {
        for engine in [OLDEST, NEWEST] {
            let pid = name.strip_prefix(engine.bridge).filter(|pid| gone(pid));
            if let Some(pid) = pid.and_then(|pid| pid.parse().ok()) {
                drop(Bridge { engine, pid });
            }
        }
    }
}

/// `program`, told by the kernel to end when this task does.
pub(crate) fn guarded(program: &Path) -> Command {
    match find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Free ports, tried again where another process took one between the look and the start.
fn on_free_ports<const N: usize>(
    name: &str,
    start: impl Fn([u16; N]) -> Outcome<Server>,
) -> Outcome<(Server, [u16; N])> {
    let mut problem = String::new();
    for _ in 0..3 {
        let ports = free_ports().map_err(|cause| format!("no free loopback port for {name}: {cause}"))?;
        match start(ports) {
            Ok(server) => return Ok((server, ports)),
            Err(why) => problem = why,
        }
    }
    Err(problem)
}

fn free_ports<const N: usize>() -> std::io::Result<[u16; N]> {
    let mut ports = [0; N];
    // All are held until all are known, so that they differ.
    let mut held = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// One server process.
#[derive(Debug)]
struct Server {
    name: &'static str,
    child: Child,
    /// A second SIGTERM means "at once" to some.
    asked: bool,
}

impl Server {
    /// Starts `command` with its output in a log under `run`, and waits until `answers`.
    fn start(name: &'static str, command: &mut Command, run: &Path, answers: impl Fn() -> bool) -> Outcome<Self> {
        let log = run.join("log");
        let named = |cause: std::io::Error| format!("{}: {cause}", log.display());
        let output = fs::File::create(&log).map_err(named)?;
        let errors = output.try_clone().map_err(named)?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).current_dir(run);
        let child = command.spawn().map_err(|cause| format!("{name} did not start: {cause}"))?;
        let mut server = Self { name, child, asked: false };
        let begun = Instant::now();
        loop {
            let said = || tail(&fs::read_to_string(&log).unwrap_or_default(), 30);
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("{name} ended with {status} before it answered; its last lines:\n{}", said()));
            }
            if answers() {
                return Ok(server);
            }
            if begun.elapsed() > READY_WITHIN {
                let seconds = READY_WITHIN.as_secs();
                return Err(format!("{name} did not answer within {seconds} s; its last lines:\n{}", said()));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Server {
    fn ask_to_stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // A child that was not waited for keeps its id, so the signal reaches nobody else.
        if let (false, Ok(None), Some(pid)) = (self.asked, self.child.try_wait(), pid) {
            let _ = kill_process(pid, Signal::TERM);
            self.asked = true;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ask_to_stop();
        let begun = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if begun.elapsed() > STOPPED_WITHIN {
                eprintln!("testbed: {} did not stop within {} s and was killed", self.name, STOPPED_WITHIN.as_secs());
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What tells the networks of two engines of one run apart.
#[derive(Debug, Clone, Copy)]
struct Engine {
    bridge: &'static str,
    containers: u32,
    networks: u32,
}

/// The network of one private Docker Engine: a bridge of its own, because two engines on one machine would share
/// `docker0` and give two containers one address. Named and numbered by the process that made it.
#[derive(Debug)]
struct Bridge {
    engine: Engine,
    pid: u32,
}

impl Bridge {
    fn make(engine: Engine) -> Outcome<Self> {
        let bridge = Self { engine, pid: std::process::id() };
        bridge.tool("ip", &["link", "add", &bridge.name(), "type", "bridge"])?;
        bridge.tool("ip", &["address", "add", &format!("{}1/24", bridge.containers()), "dev", &bridge.name()])?;
        bridge.tool("ip", &["link", "set", &bridge.name(), "up"])?;
        Ok(bridge)
    }

    fn name(&self) -> String {
        format!("{}{}", self.engine.bridge, self.pid)
    }

    /// The first three numbers of the containers' addresses.
    fn containers(&self) -> String {
        format!("10.{}.{}.", self.engine.containers + (self.pid / 256) % 16, self.pid % 256)
    }

    /// The same of the networks that the engine's clients make.
    fn networks(&self) -> String {
        format!("10.{}.{}.", self.engine.networks + (self.pid / 256) % 16, self.pid % 256)
    }

    fn tool(&self, name: &str, args: &[&str]) -> Outcome<String> {
        let program = find_program(name).ok_or_else(|| format!("there is no program '{name}'"))?;
        capture(Command::new(program).args(args))
    }

    /// An engine that stops leaves its clients' bridges and its rules: both are known by their addresses.
    fn remove(&self) -> Outcome {
        let ours = [self.name(), self.containers(), self.networks()];
        for line in self.tool("ip", &["-oneline", "-4", "address"])?.lines() {
            if let Some(device) = line.split_whitespace().nth(1)
                && line.contains(&format!(" {}", self.networks()))
            {
                self.remove_rules(device)?;
                self.tool("ip", &["link", "delete", device])?;
            }
        }
        for word in ours {
            self.remove_rules(&word)?;
        }
        self.tool("ip", &["link", "delete", &self.name()]).map(drop)
    }

    fn remove_rules(&self, word: &str) -> Outcome {
        // The newest engine keeps strangers from its containers' addresses in the third; not every kernel has it.
        for table in ["filter", "nat", "raw"] {
            let rules = self.tool("iptables", &["--wait", "--table", table, "--list-rules"]);
            let rules = if table == "raw" { rules.unwrap_or_default() } else { rules? };
            for rule in rules.lines() {
                if let Some(rule) = rule.strip_prefix("-A ")
                    && rule.split(' ').any(|part| part == word || (word.ends_with('.') && part.starts_with(word)))
                {
                    let mut delete = vec!["--wait", "--table", table, "-D"];
                    delete.extend(rule.split(' '));
                    self.tool("iptables", &delete)?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Err(problem) = self.remove() {
            eprintln!("testbed: the network {} is left: {problem}", self.name());
        }
    }
}
