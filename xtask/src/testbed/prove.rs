//! One real request to each part, and a table of what came back.

use super::{Part, Provided, Testbed, http, judges, peers, provide::debian_program, servers};
use crate::shell::{Outcome, capture};
use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

/// Proves each part and prints a line for it; a part without proof makes the task fail.
pub(super) fn table(provided: &[Provided], testbed: &Testbed) -> Outcome<ExitCode> {
    println!("{:<13} {:<42} {:>8}  proof", "part", "from", "provided");
    let mut failed = 0;
    for one in provided {
        let proof = prove(one, testbed);
        failed += usize::from(proof.is_err());
        let said = proof.unwrap_or_else(|problem| format!("FAILED: {problem}"));
        println!("{:<13} {:<42} {:>6.1} s  {said}", one.part.name(), one.source, one.took.as_secs_f64());
    }
    for (name, value) in testbed.environment() {
        println!("{name}={value}");
    }
    println!("{} proven, {failed} failed; the servers are stopped again", provided.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn prove(one: &Provided, testbed: &Testbed) -> Outcome<String> {
    let first_line = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
    match one.part {
        Part::Docker | Part::DockerNewest => prove_docker(one.part, testbed),
        Part::Registry => prove_registry(testbed),
        Part::Minio | Part::Seaweedfs | Part::Versity => prove_bucket(one.part, testbed),
        Part::S5cmd | Part::Rclone | Part::Restic | Part::Dvc => peers::prove(one, testbed),
        Part::Cosign => {
            let said = capture(Command::new(&one.program).arg("version"))?;
            let version = said.lines().find(|line| line.starts_with("GitVersion"));
            version.map(|line| format!("version: {line}")).ok_or_else(|| format!("no version in: {said}"))
        }
        Part::Crane | Part::Syft | Part::Gitleaks => judges::prove(one, testbed),
        Part::Skopeo | Part::Awscli | Part::CargoDeny | Part::Nix | Part::PipAudit | Part::CargoAudit => {
            capture(Command::new(&one.program).arg("--version")).map(first_line)
        }
    }
}

/// Builds an image `FROM scratch` around a static program and runs it.
fn prove_docker(part: Part, testbed: &Testbed) -> Outcome<String> {
    let host = testbed.value(part).ok_or("it was not started")?;
    let socket = host.strip_prefix("unix://").unwrap_or(host);
    let (_, version) = http::get_unix(Path::new(socket), "/version")?;
    let (_, info) = http::get_unix(Path::new(socket), "/info")?;
    let version: serde_json::Value = serde_json::from_str(&version).map_err(|cause| format!("/version: {cause}"))?;
    let info: serde_json::Value = serde_json::from_str(&info).map_err(|cause| format!("/info: {cause}"))?;

    let context = testbed.scratch(&format!("{}-proof", part.name()))?;
    let (source, dockerfile) = (context.join("main.rs"), context.join("Dockerfile"));
    fs::write(&source, "fn main() { println!(\"said from scratch\"); }")
        .and_then(|()| fs::write(&dockerfile, "FROM scratch\nCOPY main /main\nUSER 1000\nENTRYPOINT [\"/main\"]\n"))
        .map_err(|cause| format!("{}: {cause}", context.display()))?;
    let mut compile = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    capture(compile.args(["-C", "target-feature=+crt-static", "main.rs"]).current_dir(&context))?;
    let client = debian_program("docker").ok_or("there is no program 'docker' (Debian package docker.io)")?;
    let docker = |build_kit: &str, args: &[&str]| {
        let mut command = Command::new(&client);
        command.args(["-H", host]).args(args).env_remove("DOCKER_HOST").env("DOCKER_BUILDKIT", build_kit);
        capture(command.current_dir(&context))
    };
    // With the classic builder, and with BuildKit.
    docker("0", &["build", "--quiet", "--tag", "proof", "."])?;
    docker("1", &["build", "--quiet", "--no-cache", "--tag", "proof", "."])?;
    let said = docker("1", &["run", "--rm", "--read-only", "--cap-drop", "ALL", "--memory", "64m", "proof"])?;
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or("?").to_owned();
    Ok(format!(
        "engine {} (API {}), {}, cgroup v{}; built with both builders and ran a container: {}",
        text(&version, "Version"),
        text(&version, "ApiVersion"),
        text(&info, "Driver"),
        text(&info, "CgroupVersion"),
        said.trim(),
    ))
}

fn prove_registry(testbed: &Testbed) -> Outcome<String> {
    let address = testbed.value(Part::Registry).ok_or("it was not started")?;
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).ok_or("its address has no port")?;
    let (status, body) = http::get(port, "/v2/_catalog")?;
    if status == 200 { Ok(format!("GET /v2/_catalog: {}", body.trim())) } else { Err(format!("status {status}")) }
}

/// A stranger's request that is refused, and, where the S3 client is there too, a signed write and read.
fn prove_bucket(part: Part, testbed: &Testbed) -> Outcome<String> {
    let bucket = Bucket::of(testbed, part).ok_or("it was not started")?;
    let (status, _) = http::get(bucket.port()?, &format!("/{}", bucket.name))?;
    if status != 403 {
        return Err(format!("status {status} for an unsigned request"));
    }
    let Some(aws) = testbed.value(Part::Awscli) else {
        return Ok("refuses an unsigned request".to_owned());
    };
    let home = testbed.scratch(&format!("{}-proof", part.name()))?;
    fs::write(home.join("hello"), SAID).map_err(|cause| format!("{}: {cause}", home.display()))?;
    let run = |args: &[&str]| -> Outcome<String> {
        let mut command = bucket.client(Path::new(aws), &home);
        capture(command.args(["--endpoint-url", &bucket.endpoint, "--region", "us-east-1"]).args(args))
    };
    let object = format!("s3://{}/proof/hello", bucket.name);
    run(&["s3", "cp", "--quiet", "hello", &object])?;
    let read = run(&["s3", "cp", "--quiet", &object, "-"])?;
    same(&read).map(|()| format!("{object} written and read, strangers refused"))
}

/// What the proofs write, and expect to read.
pub(super) const SAID: &str = "said from a bucket";

pub(super) fn same(read: &str) -> Outcome {
    if read == SAID { Ok(()) } else { Err(format!("read '{read}'")) }
}

/// The bucket of a running S3 server.
pub(super) struct Bucket {
    /// `http://127.0.0.1:PORT`.
    pub(super) endpoint: String,
    pub(super) name: String,
}

impl Bucket {
    pub(super) fn of(testbed: &Testbed, part: Part) -> Option<Self> {
        let (_, address) = testbed.value(part)?.rsplit_once('@')?;
        let (address, name) = address.split_once('/')?;
        Some(Self { endpoint: format!("http://{address}"), name: name.to_owned() })
    }

    fn port(&self) -> Outcome<u16> {
        let port = self.endpoint.rsplit(':').next().and_then(|port| port.parse().ok());
        port.ok_or_else(|| format!("{} has no port", self.endpoint))
    }

    /// `program` in the folder `home`, with the server's credentials and nothing else of this environment.
    pub(super) fn client(&self, program: &Path, home: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home).current_dir(home);
        command.env("AWS_ACCESS_KEY_ID", servers::BUCKET_KEY).env("AWS_SECRET_ACCESS_KEY", servers::BUCKET_SECRET);
        command.env("AWS_DEFAULT_REGION", "us-east-1").stdin(Stdio::null());
        command
    }
}
