//! `cargo xtask bench`: how long a person waits for `sealift`, beside `git`.
//!
//! Measured is the wall time from the start of a process to its end, with its output thrown away, in a release build and a warm
//! file cache: `--version` (start-up alone), and `status` in a small repository with one release serving one environment (a
//! process of this host), after the same `status` has been run. The four commands take turns, so that a busy moment of the
//! machine meets all of them, and which is first changes with each round. Median, fastest, and the middle half are shown.
//!
//! It never fails because something is slow: the machine that is measured on decides nothing.

mod data;
mod goals;
mod image;
mod proxy;
mod sample;
mod scene;
mod setup;
mod stopwatch;
mod table;

use crate::shell::{Outcome, capture, cargo, workspace_root};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

const USAGE: &str = "\
usage: cargo xtask bench [--rounds N] [--program FILE]
       cargo xtask bench data --help
       cargo xtask bench image --help

  --rounds N      how often each command is run; 40 by default, at least 20
  --program FILE  the sealift to measure; without it a release build is made
";
const ROUNDS: usize = 40;
const LEAST_ROUNDS: usize = 20;

/// What was asked for.
struct Options {
    rounds: usize,
    program: Option<PathBuf>,
}

impl Options {
    fn parse(args: &[String]) -> Outcome<Self> {
        let mut options = Self { rounds: ROUNDS, program: None };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--rounds" => {
                    let number = value()?;
                    options.rounds =
                        number.parse().map_err(|_| format!("--rounds needs a number, not '{number}'\n{USAGE}"))?;
                    if options.rounds < LEAST_ROUNDS {
                        return Err(format!("fewer than {LEAST_ROUNDS} rounds say little\n{USAGE}"));
                    }
                }
                "--program" => {
                    let path = value()?;
                    let found = Path::new(path).canonicalize().map_err(|cause| format!("{path}: {cause}"))?;
                    options.program = Some(found);
                }
                other => return Err(format!("bench has no option '{other}'\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

/// One command that is measured.
struct Contender {
    name: &'static str,
    program: PathBuf,
    arguments: &'static [&'static str],
    /// What it should stay under, and what it stands beside.
    goal: Option<(Duration, usize)>,
    times: Vec<Duration>,
}

/// The task.
pub(crate) fn run(args: &[String]) -> Outcome<ExitCode> {
    if let [word] = args
        && word == stopwatch::WORD
    {
        return stopwatch::serve();
    }
    let of_another = args.first().is_some_and(|arg| arg == "data" || arg == "image");
    if !of_another && args.iter().any(|arg| matches!(arg.as_str(), "--help" | "-h" | "help")) {
        print!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    }
    match args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some(("data", rest)) => return data::run(rest),
        Some(("image", rest)) => return image::run(rest),
        _ => {}
    }
    let Options { rounds, program } = Options::parse(args)?;
    let program = program.map_or_else(build, Ok)?;
    println!("measuring {}", program.display());
    let scene = scene::Scene::prepare(&program)?;
    let mut contenders = contenders(&program)?;
    for contender in &mut contenders {
        contender.run(&scene)?; // warm, and not counted
    }
    println!("{rounds} rounds of each, taking turns");
    for round in 0..rounds {
        for turn in 0..4 {
            let contender = &mut contenders[(round + turn) % 4];
            let time = contender.run(&scene)?;
            contender.times.push(time);
        }
    }
    print_table(&mut contenders);
    Ok(ExitCode::SUCCESS)
}

/// The release build of the program.
fn build() -> Outcome<PathBuf> {
    println!("building sealift in release mode");
    let mut command = cargo();
    command.args(["build", "--release", "--package", "sealift", "--message-format", "json-render-diagnostics"]);
    // Some features are for tests only, and a person's build has none of them.
    command.env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION").current_dir(workspace_root());
    let messages = capture(&mut command)?;
    let found = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let ours = message["reason"] == "compiler-artifact" && message["target"]["name"] == "sealift";
        if ours { message["executable"].as_str().map(PathBuf::from) } else { None }
    });
    found.ok_or_else(|| "cargo does not say where it put the program sealift".to_owned())
}

fn contenders(program: &Path) -> Outcome<[Contender; 4]> {
    let git = crate::shell::find_program("git").ok_or("git is not installed")?;
    let contender = |name, program: &Path, arguments, goal| Contender {
        name,
        program: program.to_owned(),
        arguments,
        goal,
        times: Vec::new(),
    };
    Ok([
        contender("git --version", &git, &["--version"], None),
        contender("sealift --version", program, &["--version"], Some((Duration::from_millis(20), 0))),
        contender("git status", &git, &["status"], None),
        contender("sealift status", program, &["status"], Some((Duration::from_millis(50), 2))),
    ])
}

impl Contender {
    fn run(&self, scene: &scene::Scene) -> Outcome<Duration> {
        let mut command = Command::new(&self.program);
        command.args(self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        scene.set(&mut command);
        let begun = Instant::now();
        let status = command.status().map_err(|cause| format!("{} did not start: {cause}", self.name))?;
        let took = begun.elapsed();
        if status.success() {
            Ok(took)
        } else {
            Err(format!("{} ended with {status}, so its time says nothing", self.name))
        }
    }
}

fn print_table(contenders: &mut [Contender]) {
    for contender in contenders.iter_mut() {
        contender.times.sort_unstable();
    }
    println!("\n{:<19} {:>9} {:>9} {:>19}  {:>8}  goal", "", "median", "fastest", "middle half", "to git");
    for contender in contenders.iter() {
        let at = |share: f64| quantile(&contender.times, share);
        let (ratio, goal) = match contender.goal {
            None => (String::new(), String::new()),
            Some((goal, beside)) => {
                let git = quantile(&contenders[beside].times, 0.5);
                let met = if at(0.5) <= goal { "met" } else { "not met here" };
                (
                    format!("{:.1} x", at(0.5).as_secs_f64() / git.as_secs_f64().max(1e-9)),
                    format!("under {} ms: {met}", goal.as_millis()),
                )
            }
        };
        println!(
            "{:<19} {:>6.1} ms {:>6.1} ms {:>19}  {ratio:>8}  {goal}",
            contender.name,
            at(0.5).as_secs_f64() * 1000.0,
            at(0.0).as_secs_f64() * 1000.0,
            format!("{:.1} to {:.1} ms", at(0.25).as_secs_f64() * 1000.0, at(0.75).as_secs_f64() * 1000.0),
        );
    }
}

/// The value below which a share of the sorted times lies, by nearest rank.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // a few dozen
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let times: Vec<Duration> = (1..=20).map(Duration::from_millis).collect();
        let found = [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| quantile(&times, share).as_millis());
        assert_eq!(found, [1, 5, 10, 15, 20]);
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn too_few_rounds_and_unknown_options_are_refused() {
        let run = |words: &[&str]| run(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap_err();
        assert!(run(&["--rounds", "3"]).contains("fewer than 20"));
        assert!(run(&["--rounds", "many"]).contains("'many'"));
        assert!(run(&["--fast"]).contains("usage"));
    }
}
