//! `cargo xtask demo`: a service with real data and a trained model, from a commit to production and back.
//!
//! The whole story is played with the verbs of `sealift` in a repository of its own, and every figure is measured in
//! that run. What is **not** here: nothing outside the demo's folder is written (keys, git's settings and build output
//! are in it too), nothing that was running before is touched but what an earlier demo in the same folder left, and
//! nothing runs any more at the end unless `--keep` asks for it. A folder that no demo made is never emptied.
//!
//! | module | holds |
//! |---|---|
//! | `story` | the chapters |
//! | `stage` | commands as typed, words between them, signals |
//! | `wine` | the example as a repository, and the edits in it |
//! | `leftovers` | finding and stopping what runs |
//! | `http` | questions to services and to the Docker Engine |

mod http;
mod leftovers;
mod stage;
mod story;
mod wine;

use crate::shell::{Outcome, find_program, workspace_root};
use stage::Stage;
use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};
use wine::{Ports, Target};

const USAGE: &str = "\
usage: cargo xtask demo [--target docker|process] [--keep | --stop] [--folder DIR] [--build-folder DIR]

  --target TARGET     docker: built and run by a Docker Engine on this host; process: without any daemon.
                      Without it: docker when an engine answers, else process
  --keep              leave staging and production running at the end
  --stop              only stop what a demo in the folder left running
  --folder DIR        where everything is put; target/demo by default
  --build-folder DIR  where cargo builds the example; FOLDER/build by default. It is kept between runs

Example:
  cargo xtask demo --target process
";

/// Programs that the demo types, and why.
const TOOLS: [(&str, &str); 6] = [
    ("git", "the repository"),
    ("cargo", "the example is built with it"),
    ("cc", "the linker of Rust programs: install a C compiler"),
    ("sh", "the restored release is started by a script"),
    ("rm", "the repository is deleted with it"),
    ("sha256sum", "the restored files are verified with it"),
];
/// The file by which a folder is known as a demo's.
const SIGN: &str = ".sealift-demo";
/// The service is unavailable; busy: the codes of Sealift.
const UNAVAILABLE: u8 = 69;
const BUSY: u8 = 75;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    target: Option<Target>,
    keep: bool,
    stop: bool,
    folder: PathBuf,
    build: Option<PathBuf>,
}

impl Options {
    fn parse(args: &[String]) -> Outcome<Self> {
        let mut options =
            Self { target: None, keep: false, stop: false, folder: workspace_root().join("target/demo"), build: None };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--keep" => options.keep = true,
                "--stop" => options.stop = true,
                "--target" => {
                    options.target = Some(match value()?.as_str() {
                        "docker" => Target::Docker,
                        "process" => Target::Process,
                        other => return Err(format!("no target is called '{other}'; there are docker and process")),
                    });
                }
                "--folder" => options.folder = absolute(value()?)?,
                "--build-folder" => options.build = Some(absolute(value()?)?),
                other => return Err(format!("demo has no option '{other}'\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

fn absolute(path: &str) -> Outcome<PathBuf> {
    std::path::absolute(path).map_err(|cause| format!("{path}: {cause}"))
}

/// Where everything is, all of it in one folder.
#[derive(Debug, Clone)]
struct Layout {
    /// The folder.
    folder: PathBuf,
    /// As it is shown: relative to the workspace when it is in it.
    shown: String,
    /// The working copy.
    repository: PathBuf,
    /// Build output of the example.
    build: PathBuf,
    /// Name of the project.
    project: String,
}

impl Layout {
    fn new(folder: &Path, build: Option<PathBuf>, target: Target) -> Self {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let here = workspace_root();
        let shown = folder.strip_prefix(here.canonicalize().unwrap_or(here)).map(Path::to_owned);
        // One Docker Engine may serve demos in several folders: their containers must not meet.
        let mut hasher = DefaultHasher::new();
        folder.hash(&mut hasher);
        let project = match target {
            Target::Process => "wine".to_owned(),
            Target::Docker => format!("wine-{:04x}", hasher.finish() & 0xffff),
        };
        Self {
            shown: shown.unwrap_or_else(|_| folder.clone()).display().to_string(),
            repository: folder.join("wine"),
            build: build.unwrap_or_else(|| folder.join("build")),
            folder,
            project,
        }
    }

    fn at(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// What every command sees.
    fn environment(&self) -> Vec<(String, String)> {
        let old = std::env::var("PATH").unwrap_or_default();
        // The cargo that runs this task builds the example too.
        let cargo =
            std::env::var("CARGO").ok().and_then(|cargo| Some(Path::new(&cargo).parent()?.display().to_string()));
        let cargo = cargo.filter(|folder| !folder.is_empty()).map(|folder| format!("{folder}:")).unwrap_or_default();
        [
            ("PATH", format!("{}:{cargo}{old}", self.at("bin"))),
            ("XDG_CONFIG_HOME", self.at("home")),
            ("CARGO_TARGET_DIR", self.build.display().to_string()),
            ("GIT_CONFIG_GLOBAL", self.at("home/gitconfig")),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            (leftovers::MARK, self.folder.display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

/// The task.
pub(crate) fn run(args: &[String]) -> Outcome<ExitCode> {
    if args.iter().any(|arg| matches!(arg.as_str(), "--help" | "-h" | "help")) {
        print!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse(args)?;
    if options.stop {
        let layout = Layout::new(&options.folder, None, Target::Process);
        let _alone = match layout.folder.join(SIGN).exists().then(|| alone(&layout)).transpose()? {
            Some(None) => return Ok(busy(&layout)),
            held => held,
        };
        let said = stop(&layout, engine().ok().as_deref())?;
        leftovers::remove_refuge(&layout.folder)?;
        println!("stopped: {}", if said.is_empty() { "nothing ran".to_owned() } else { said.join(", ") });
        return Ok(ExitCode::SUCCESS);
    }
    let missing: Vec<String> = TOOLS
        .iter()
        .filter(|(tool, _)| find_program(tool).is_none())
        .map(|(tool, why)| format!("  {tool} ({why})"))
        .collect();
    if !missing.is_empty() {
        eprintln!(
            "error: the demo needs programs that are not here:\n{}\n  next: install them and try again",
            missing.join("\n")
        );
        return Ok(ExitCode::from(UNAVAILABLE));
    }
    let (target, engine, why) = match choose(options.target) {
        Ok(chosen) => chosen,
        Err(problem) => {
            eprintln!("error: {problem}\n  next: start a Docker Engine, or: cargo xtask demo --target process");
            return Ok(ExitCode::from(UNAVAILABLE));
        }
    };
    fs::create_dir_all(&options.folder).map_err(|cause| format!("{}: {cause}", options.folder.display()))?;
    let layout = Layout::new(&options.folder, options.build.clone(), target);
    let Some(_alone) = alone(&layout)? else {
        return Ok(busy(&layout));
    };
    start_clean(&layout, engine.as_deref())?;
    let ports = Ports::free()?;
    let mut stage = Stage::open(&layout.folder, layout.environment())?;
    let begun = Instant::now();
    let outcome = story::play(&mut stage, &layout, target, ports, &why);
    end(&stage, &layout, engine.as_deref(), outcome, options.keep, begun)
}

fn busy(layout: &Layout) -> ExitCode {
    eprintln!("error: another demo runs in {}\n  next: wait for it, or name another --folder", layout.shown);
    ExitCode::from(BUSY)
}

/// Which target, the engine's socket, and why in a sentence.
fn choose(asked: Option<Target>) -> Outcome<(Target, Option<PathBuf>, String)> {
    let engine = engine();
    match (asked, engine) {
        (Some(Target::Process), engine) => Ok((Target::Process, engine.ok(), "as asked for".to_owned())),
        (Some(Target::Docker), Err(why)) => Err(why),
        (_, Ok(socket)) => {
            let why = format!("a Docker Engine answers at {}", socket.display());
            Ok((Target::Docker, Some(socket), why))
        }
        (None, Err(why)) => Ok((Target::Process, None, why)),
    }
}

/// The socket of the Docker Engine that `DOCKER_HOST` names, or of the usual one, if it answers.
fn engine() -> Outcome<PathBuf> {
    let host = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let host = host.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    let socket = host.strip_prefix("unix://").map(PathBuf::from).ok_or_else(|| {
        format!(
            "the engine at {host} cannot be used: models are mounted, which needs an engine on this host (unix://…)"
        )
    })?;
    match http::ask_engine(&socket, "GET", "/_ping") {
        Ok((200, _)) => Ok(socket),
        Ok((status, _)) => Err(format!("the Docker Engine at {host} answers with {status}")),
        Err(_) => Err(format!("no Docker Engine answers at {host}")),
    }
}

/// Takes the folder for this demo alone, as long as the file is held. A folder with anything in it must be a demo's.
fn alone(layout: &Layout) -> Outcome<Option<fs::File>> {
    let named = |cause: std::io::Error| format!("{}: {cause}", layout.folder.display());
    let sign = layout.folder.join(SIGN);
    if !sign.exists() && fs::read_dir(&layout.folder).map_err(named)?.next().is_some() {
        return Err(format!(
            "{} holds something that no demo made, and the demo would remove it; name another --folder",
            layout.folder.display()
        ));
    }
    let file = fs::File::options().create(true).truncate(false).write(true).open(sign).map_err(named)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(cause)) => Err(named(cause)),
    }
}

/// Stops and removes what an earlier demo left, except for build output; makes `sealift` and git's settings.
fn start_clean(layout: &Layout, engine: Option<&Path>) -> Outcome {
    for what in stop(layout, engine)? {
        println!("stopped {what}, left by an earlier run");
    }
    leftovers::remove_refuge(&layout.folder)?;
    let named = |cause: std::io::Error| format!("{}: {cause}", layout.folder.display());
    for entry in fs::read_dir(&layout.folder).map_err(named)? {
        let path = entry.map_err(named)?.path();
        let kept = path == layout.build || path.file_name().is_some_and(|name| name == SIGN);
        if kept {
            continue;
        }
        let removed =
            if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|cause| format!("{} cannot be removed: {cause}", path.display()))?;
    }
    fs::create_dir_all(layout.folder.join("home")).map_err(named)?;
    let settings = "[user]\n\tname = Sealift demo\n\temail = demo@sealift.invalid\n[init]\n\tdefaultBranch = main\n\
                    [advice]\n\tdetachedHead = false\n";
    fs::write(layout.folder.join("home/gitconfig"), settings).map_err(named)?;
    install(layout)
}

/// Puts `sealift` into the demo's `bin`: this very program, and a script that sets it up as the demo does, so that it can
/// be used in the folder afterwards.
fn install(layout: &Layout) -> Outcome {
    let named = |cause: std::io::Error| format!("{}: {cause}", layout.at("bin"));
    let program = layout.folder.join("bin/program");
    fs::create_dir_all(&program).map_err(named)?;
    let this = std::env::current_exe().map_err(|cause| format!("this program does not find itself: {cause}"))?;
    let link = program.join("sealift");
    if fs::hard_link(&this, &link).is_err() {
        fs::copy(&this, &link).map_err(named)?;
    }
    let engine = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let engine = engine.map(|host| format!(" DOCKER_HOST='{}'", host.replace('\'', "'\\''"))).unwrap_or_default();
    let script = format!(
        "#!/bin/sh\n# sealift with the keys, the git settings and the build folder of the demo. In the demo's folder itself it works\n\
         # on the repository in it.\nhere=$(cd \"$(dirname \"$0\")/..\" && pwd -P)\n\
         export XDG_CONFIG_HOME=\"$here/home\" GIT_CONFIG_GLOBAL=\"$here/home/gitconfig\"\n\
         export CARGO_TARGET_DIR='{}'{engine}\n\
         if [ \"$(pwd -P)\" = \"$here\" ] && [ -d wine ]; then cd wine; fi\n\
         exec \"$here/bin/program/sealift\" \"$@\"\n",
        layout.build.display().to_string().replace('\'', "'\\''")
    );
    let path = layout.folder.join("bin/sealift");
    fs::write(&path, script).map_err(named)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(named)
}

/// Stops everything of this demo; says what it was.
fn stop(layout: &Layout, engine: Option<&Path>) -> Outcome<Vec<String>> {
    let mut said = leftovers::stop_processes(&layout.folder)?;
    if let Some(socket) = engine {
        let docker = Layout::new(&layout.folder, None, Target::Docker);
        said.extend(leftovers::stop_containers(socket, &docker.project)?);
    }
    Ok(said)
}

/// Stops what runs, and says how it went and how it goes on.
fn end(
    stage: &Stage,
    layout: &Layout,
    engine: Option<&Path>,
    outcome: Outcome<story::Figures>,
    keep: bool,
    begun: Instant,
) -> Outcome<ExitCode> {
    let keep = keep && outcome.is_ok();
    println!();
    if !keep {
        let said = stop(layout, engine)?;
        stage.say(&format!(
            "Nothing is left running. Stopped: {}.",
            if said.is_empty() { "nothing ran".to_owned() } else { said.join(", ") }
        ));
    }
    let figures = match outcome {
        Ok(figures) => figures,
        Err(problem) => {
            eprintln!(
                "error: the demo ended early: {problem}\n  next: look around in {}, or run it again",
                layout.shown
            );
            return Ok(stage.stopped().map_or(ExitCode::FAILURE, |stop| ExitCode::from(stop.code())));
        }
    };
    figures.print(begun.elapsed());
    farewell(layout, keep);
    Ok(ExitCode::SUCCESS)
}

/// What to try next, and how to remove everything.
fn farewell(layout: &Layout, keep: bool) {
    let Layout { shown, project, .. } = layout;
    println!("\nLook around, with the same sealift, store and keys:");
    println!("  cd {shown} && export PATH=\"$PWD/bin:$PATH\"");
    println!("  sealift status");
    println!("  sealift history production");
    println!("  sealift explain wine@1.1.0 --format json");
    println!("  sealift audit log production");
    if keep {
        println!("  sealift rollback production --to wine@1.1.0");
        println!("Staging and production are left running, as --keep asks.");
    } else {
        println!("  sealift rollback staging --to wine@1.1.0 && sealift smoke staging");
    }
    println!("\nRelease your own service: sealift init, in its repository.");
    println!("\nRemove everything:");
    let usual = layout.folder == workspace_root().join("target/demo");
    let folder = if usual { String::new() } else { format!(" --folder {shown}") };
    println!("  cargo xtask demo --stop{folder} && rm -rf {shown}");
    if project != "wine" {
        println!("  docker image prune --all --force --filter label=demo={project}");
    }
}

/// Seconds for people.
fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Outcome<Options> {
        Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let options = parse(&["--target", "docker", "--keep", "--folder", "/tmp/x"]).unwrap();
        assert_eq!(
            (options.target, options.keep, options.folder),
            (Some(Target::Docker), true, PathBuf::from("/tmp/x"))
        );
        assert_eq!(parse(&[]).unwrap().folder, workspace_root().join("target/demo"));
        assert!(parse(&["--target", "swarm"]).unwrap_err().contains("'swarm'"));
        assert!(parse(&["--target"]).unwrap_err().contains("needs a value"));
        assert!(parse(&["--fast"]).unwrap_err().contains("'--fast'"));
    }

    #[test]
    fn a_folder_that_no_demo_made_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path(), None, Target::Process);
        fs::write(folder.path().join("letter"), "dear").unwrap();
        assert!(alone(&layout).unwrap_err().contains("no demo made"));
        assert!(!folder.path().join(SIGN).exists());
        fs::remove_file(folder.path().join("letter")).unwrap();
        let held = alone(&layout).unwrap();
        assert!(held.is_some() && alone(&layout).unwrap().is_none());
    }

    #[test]
    fn a_second_run_starts_clean_and_keeps_what_cargo_built() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path(), None, Target::Process);
        for path in ["build/release", "wine/src", "store/blobs"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        start_clean(&layout, None).unwrap();
        let mut left: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["bin", "build", "home"]);
        assert!(folder.path().join("build/release").is_dir());
    }
}
