//! `cargo xtask bench image`: what images cost with Sealift, beside the docker CLI, crane and skopeo.
//!
//! Every figure comes from runs side by side on one machine: the same files, engines and registries of their own for each part,
//! another tool first in each round, everything written to disk that ran before. A tool is run as its manual says, and timed from
//! the start of its process to its end. Bytes are counted by a proxy in runs of their own, so that nothing stands between client
//! and registry where time is measured.
//!
//! It never fails because something is slow. A tool that fails is an error: the time would say nothing. That the image
//! is there afterwards is asked of the registry after `push`, and of the engine (that it has one at all) after `restore`. What differs between builds that should be the same is a goal that is not met.

mod again;
mod changed;
mod engines;
mod payload;
mod project;
mod push;
mod report;
mod restore;
mod tools;

use super::{goals::Row, sample::Sample, setup, stopwatch::Stopwatch, table};
use crate::{
    shell::{Outcome, capture, cargo, workspace_root},
    testbed::{Part, Provided, Testbed},
};
use report::Traffic;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};
use tools::Tools;

const USAGE: &str = "\
usage: cargo xtask bench image [--quick] [--rounds N] [--only PART,…] [--to DIR] [--programs DIR]

  --quick         a tenth of the bytes and one round, for a look; its table says nothing of the goals' sizes
  --rounds N      how often each work is done by each tool; 3 by default
  --only PART,…   of: changed, cold, push, restore, again
  --to DIR        where image.md and image.json go; docs/bench by default, nowhere if anything is left out
  --programs DIR  a folder with `sealift` and `examples/push`; without it a release build of both is made
";
const PARTS: [&str; 5] = ["changed", "cold", "push", "restore", "again"];

struct Options {
    quick: bool,
    rounds: usize,
    only: Vec<String>,
    to: Option<PathBuf>,
    programs: Option<PathBuf>,
}

impl Options {
    fn parse(args: &[String]) -> Outcome<Self> {
        let mut options = Self { quick: false, rounds: 3, only: Vec::new(), to: None, programs: None };
        let mut rounds = None;
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--rounds" => rounds = Some(setup::rounds(value()?, USAGE)?),
                "--only" => options.only = setup::only(value()?, &PARTS, USAGE)?,
                "--to" => options.to = Some(PathBuf::from(value()?)),
                "--programs" => options.programs = Some(setup::existing(value()?)?),
                other => return Err(format!("bench image has no option '{other}'\n{USAGE}")),
            }
        }
        options.rounds = rounds.unwrap_or(if options.quick { 1 } else { 3 });
        if options.to.is_none() && !options.quick && options.only.is_empty() {
            options.to = Some(workspace_root().join("docs/bench"));
        }
        Ok(options)
    }

    /// How the same would be measured again.
    fn words(&self) -> String {
        setup::again("image", self.rounds, self.quick, &self.only)
    }

    fn has(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// A tenth where a look is enough.
    fn scaled(&self, bytes: u64) -> u64 {
        if self.quick { bytes / 10 } else { bytes }
    }
}

/// Everything that the measurements share.
struct Lab {
    options: Options,
    tools: Tools,
    provided: Vec<Provided>,
    scratch: tempfile::TempDir,
    rows: Vec<Row>,
    traffic: Vec<Traffic>,
    figures: BTreeMap<String, Value>,
    begun: Instant,
}

/// The task.
pub(super) fn run(args: &[String]) -> Outcome<ExitCode> {
    if args.iter().any(|arg| matches!(arg.as_str(), "--help" | "-h" | "help")) {
        print!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse(args)?;
    let stopwatch = Stopwatch::start()?;
    let folder = options.programs.clone().map_or_else(build, Ok)?;
    let provided =
        setup::provided(&[Part::Docker, Part::DockerNewest, Part::Registry, Part::Skopeo, Part::Crane, Part::Nix])?;
    let scratch = setup::scratch()?;
    let tools = Tools::find(&folder, &provided, stopwatch, scratch.path())?;
    let mut lab = Lab {
        options,
        tools,
        provided,
        scratch,
        rows: Vec::new(),
        traffic: Vec::new(),
        figures: BTreeMap::new(),
        begun: Instant::now(),
    };
    lab.measure()?;
    println!("\n{}\n\n{}", table::terminal(&lab.rows), table::verdict(&lab.rows));
    if let Some(to) = &lab.options.to {
        report::write(to, &lab)?;
        println!("written to {}", to.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The release build of the program, and of the example that does nothing but push.
fn build() -> Outcome<PathBuf> {
    println!("building sealift in release mode");
    let mut command = cargo();
    command.args(["build", "--release", "--package", "sealift", "--package", "image", "--bin", "sealift"]);
    command.args(["--example", "push", "--message-format", "json-render-diagnostics"]);
    // Some features are for tests only, and a person's build has none of them.
    command.env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION").current_dir(workspace_root());
    let messages = capture(&mut command)?;
    let found = messages.lines().rev().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let ours = message["reason"] == "compiler-artifact" && message["target"]["name"] == "sealift";
        let program = if ours { message["executable"].as_str() } else { None };
        Path::new(program?).parent().map(Path::to_path_buf)
    });
    found.ok_or_else(|| "cargo does not say where it put the program sealift".to_owned())
}

impl Lab {
    fn measure(&mut self) -> Outcome {
        if self.options.has("changed") {
            changed::measure(self)?;
        }
        if self.options.has("cold") {
            engines::measure(self)?;
        }
        if self.options.has("push") {
            push::measure(self)?;
        }
        if self.options.has("restore") {
            restore::measure(self)?;
        }
        if self.options.has("again") {
            again::measure(self)?;
        }
        Ok(())
    }

    fn say(&self, words: &str) {
        println!("{:>5.0} s  {words}", self.begun.elapsed().as_secs_f64());
    }

    /// Keeps lines of the table, and shows them: a run takes long.
    fn add(&mut self, rows: impl IntoIterator<Item = Row>) {
        for row in rows {
            self.say(row.cells().join("  ").trim_end());
            self.rows.push(row);
        }
    }

    /// Measures one run, and shows it.
    fn time(&self, what: &str, command: &Command) -> Outcome<Sample> {
        let sample = self.tools.stopwatch.measure(command)?;
        self.say(&format!("  {what}: {}", sample.words()));
        Ok(sample)
    }

    /// Servers of these parts, fresh.
    fn servers(&self, parts: &[Part]) -> Outcome<Servers> {
        let chosen: Vec<Provided> = self.provided.iter().filter(|one| parts.contains(&one.part)).cloned().collect();
        Testbed::start(&chosen).map(Servers)
    }

    /// A fresh folder; it goes with the bench, or earlier.
    fn folder(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.scratch.path().join(name);
        std::fs::create_dir_all(&path).map_err(|cause| format!("{}: {cause}", path.display()))?;
        Ok(path)
    }

    fn keep(&mut self, name: impl Into<String>, samples: &super::sample::Samples) {
        self.figures.insert(name.into(), json!(samples.json()));
    }
}

/// Running servers.
struct Servers(Testbed);

impl Servers {
    fn value(&self, name: &str) -> Outcome<&str> {
        let found = self.0.environment().find_map(|(known, value)| (known == name).then_some(value));
        found.ok_or_else(|| format!("{name} was not started"))
    }

    /// The registry's `HOST:PORT`.
    fn registry(&self) -> Outcome<&str> {
        self.value("SEALIFT_TEST_REGISTRY")
    }

    /// Both engines, by the names that the table has for them.
    fn engines(&self) -> Outcome<[(&'static str, &str); 2]> {
        Ok([
            ("Docker 20.10", self.value("SEALIFT_TEST_DOCKER")?),
            ("the newest Docker", self.value("SEALIFT_TEST_DOCKER_NEWEST")?),
        ])
    }
}

/// Removes a folder that is no longer needed: disks are small.
fn remove(folder: &Path) -> Outcome {
    std::fs::remove_dir_all(folder).map_err(|cause| format!("{}: {cause}", folder.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]
mod tests {
    use super::*;

    #[test]
    fn options_and_what_is_wrong_with_them() {
        let parse = |words: &[&str]| Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let whole = parse(&[]).unwrap();
        assert!(whole.to.is_some() && whole.has("push") && whole.rounds == 3 && whole.scaled(20) == 20);
        let part = parse(&["--quick", "--only", "push,again"]).unwrap();
        assert_eq!(part.words(), "cargo xtask bench image --rounds 1 --quick --only push,again");
        assert!(part.to.is_none() && part.has("again") && !part.has("cold") && part.scaled(20) == 2);
        for (words, wrong) in [(&["--only", "pus"][..], "'pus'"), (&["--rounds", "0"], "'0'"), (&["--fast"], "usage")] {
            assert!(parse(words).err().unwrap().contains(wrong));
        }
    }
}
