//! `cargo xtask ci`: everything that must hold before a change lands, in stages, the counts last.
//!
//! No stage is left out silently: one that could not run says why, and with `CI=true` that is a failure, as is every
//! ignored test. A failed stage does not keep the later ones from running. The last line has the form
//! `N passed, N failed, N skipped` and counts tests; the exit code also counts stages.

use crate::{
    nix,
    shell::{Outcome, capture, cargo, show, workspace_root},
    testbed::{Part, Provided, Testbed, provide},
};
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

const LICENCES: &str = "deny.toml";
const EXAMPLE: &str = "deploy/examples/wine/Cargo.toml";
/// Names a clone of the RustSec database or its address; without it advisories are not checked.
const ADVISORIES: &str = "SEALIFT_ADVISORY_DATABASE";
/// The address in `deny.toml`.
const ADVISORIES_ADDRESS: &str = "https://github.com/rustsec/advisory-db";

/// The file to which tests of many cases append one line of what they counted; it is shown with the summary.
const SUMMARY: &str = "SEALIFT_TEST_SUMMARY";
/// The stores that must each have come through the suite of conformance.
const STORES: [&str; 5] = ["memory", "embedded", "minio", "seaweedfs", "versity"];
/// The campaigns that must each have lost nothing.
const CAMPAIGNS: [&str; 3] = ["faults", "sigkill", "images"];
/// The engines that must each have built, run and restored an image, and the tools of others that must each have judged one.
const SUPPLY: [&str; 6] = ["engine 20.10", "engine newest", "cosign", "crane", "skopeo", "syft"];

/// How a stage ended.
enum Ended {
    Passed,
    Failed(String),
    NotRun(String),
}

/// What the stages share.
struct Run {
    /// `CI=true`: nothing may be left out.
    strict: bool,
    tests: Tests,
    /// What the tests appended to the file [`SUMMARY`].
    said: Vec<String>,
    parts: Vec<(Part, Outcome<Provided>)>,
    stages: Vec<(&'static str, Ended, Duration)>,
}

/// One stage: its name on the command line and in the summary, and what it does.
type Stage = (&'static str, fn(&mut Run) -> Ended);

/// Cheap ones first: a reader wants the format error before the half hour of tests.
const STAGES: [Stage; 9] = [
    ("testbed", provide_parts),
    ("format", format),
    ("architecture", architecture),
    ("deny", deny),
    ("advisories", advisories),
    ("nix", flake),
    ("clippy", clippy),
    ("test", test),
    ("example", example),
];

/// The task: all stages, or those that are named.
pub(crate) fn run(args: &[String]) -> Outcome<ExitCode> {
    let known = || STAGES.map(|(name, _)| name).join(", ");
    if let Some(wrong) = args.iter().find(|arg| !STAGES.iter().any(|(name, _)| name == arg)) {
        return Err(format!("no stage is called '{wrong}'; there are {}", known()));
    }
    std::env::set_current_dir(workspace_root()).map_err(|cause| format!("the workspace's folder: {cause}"))?;
    let strict = std::env::var_os("CI").is_some_and(|value| value == "true");
    let mut run = Run { strict, tests: Tests::default(), said: Vec::new(), parts: Vec::new(), stages: Vec::new() };
    for (name, stage) in STAGES {
        if !args.is_empty() && !args.iter().any(|arg| arg == name) {
            continue;
        }
        println!("\n==== {name} ====");
        let begun = Instant::now();
        let ended = stage(&mut run);
        let took = begun.elapsed();
        match &ended {
            Ended::Passed => println!("---- {name}: passed in {:.1} s", took.as_secs_f64()),
            Ended::Failed(why) => println!("{why}\n---- {name}: FAILED after {:.1} s", took.as_secs_f64()),
            Ended::NotRun(why) => println!("---- {name}: not run: {why}"),
        }
        run.stages.push((name, ended, took));
    }
    Ok(run.summary())
}

impl Run {
    /// Prints the stages, what was left out, and the counts; decides the exit code.
    fn summary(&self) -> ExitCode {
        println!("\n==== summary ====");
        let mut good = self.tests.failed == 0;
        for (name, ended, took) in &self.stages {
            let (word, detail) = match ended {
                Ended::Passed => ("passed", String::new()),
                Ended::Failed(why) => ("FAILED", format!(": {:.100}", why.lines().next().unwrap_or_default())),
                Ended::NotRun(why) => ("not run", format!(": {why}")),
            };
            println!("{name:<13} {word:<8} {:>7.1} s{detail}", took.as_secs_f64());
            good &= match ended {
                Ended::Passed => true,
                Ended::Failed(_) => false,
                // There is nowhere to get the database from on a machine without it: said, and no more.
                Ended::NotRun(_) => !self.strict || *name == "advisories",
            };
        }
        for line in &self.said {
            println!("{line}");
        }
        for name in &self.tests.names_failed {
            println!("failed test: {name}");
        }
        for name in &self.tests.names_ignored {
            println!("ignored test: {name}");
        }
        if self.strict && self.tests.ignored > 0 {
            println!("CI=true: {} ignored tests are a failure", self.tests.ignored);
            good = false;
        }
        let Tests { passed, failed, ignored, left_out, .. } = &self.tests;
        let skipped = ignored + left_out;
        println!("tests: {} run, {passed} passed, {failed} failed, {skipped} not run", passed + failed);
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// The parts that could be provided, of those named.
    fn provided(&self, wanted: &[Part]) -> Vec<Provided> {
        let found = self.parts.iter().filter(|(part, _)| wanted.contains(part));
        found.filter_map(|(_, outcome)| outcome.as_ref().ok().cloned()).collect()
    }

    /// The program of one part; provided now if the stage `testbed` was not among those named.
    fn program(&self, part: Part) -> Outcome<Provided> {
        match self.parts.iter().find(|(have, _)| *have == part) {
            Some((_, outcome)) => outcome.clone(),
            None => {
                provide(&[part]).pop().map_or_else(|| Err("nothing was provided".to_owned()), |(_, outcome)| outcome)
            }
        }
    }

    /// A part that cannot be had is a failure where nothing may be left out.
    fn left_out(&self, why: String) -> Ended {
        if self.strict { Ended::Failed(why) } else { Ended::NotRun(why) }
    }
}

// The stages --------------------------------------------------------------------------------------------------------

fn provide_parts(run: &mut Run) -> Ended {
    run.parts = provide(&Part::ALL);
    let mut problems = Vec::new();
    for (part, outcome) in &run.parts {
        match outcome {
            Ok(one) => println!("{:<13} {:<42} {:>6.1} s", part.name(), one.source, one.took.as_secs_f64()),
            Err(problem) => problems.push(format!("{}: {problem}", part.name())),
        }
    }
    if problems.is_empty() { Ended::Passed } else { run.left_out(problems.join("; ")) }
}

fn format(_: &mut Run) -> Ended {
    let workspace = capture(cargo().args(["fmt", "--all", "--", "--check", "--color", "never"]));
    let example =
        capture(cargo().args(["fmt", "--all", "--manifest-path", EXAMPLE, "--", "--check", "--color", "never"]));
    ended(workspace.and(example))
}

fn architecture(run: &mut Run) -> Ended {
    let mut command = cargo();
    command.args(["test", "--package", "e2e", "--test", "architecture"]);
    // Its tests run again, and are counted, with all the others.
    match stream(&mut command, &mut Tests::default()) {
        Err(why) if run.strict => Ended::Failed(why),
        other => ended(other),
    }
}

fn deny(run: &mut Run) -> Ended {
    match run.program(Part::CargoDeny) {
        Err(why) => run.left_out(why),
        Ok(tool) => {
            let check = |manifest, checks| capture(&mut cargo_deny(&tool, manifest, Path::new(LICENCES), checks));
            let workspace = check("Cargo.toml", &["licenses", "bans", "sources"]);
            // The example is a workspace of its own, held to the same licences and sources.
            ended(workspace.and_then(|_| check(EXAMPLE, &["licenses", "sources"])))
        }
    }
}

fn cargo_deny(tool: &Provided, manifest: &str, configuration: &Path, checks: &[&str]) -> Command {
    let mut command = Command::new(&tool.program);
    command.args(["--color", "never", "--log-level", "error", "--manifest-path", manifest, "--config"]);
    command.arg(configuration).args(["check", "--hide-inclusion-graph"]).args(checks);
    command
}

fn advisories(run: &mut Run) -> Ended {
    let Ok(database) = std::env::var(ADVISORIES) else {
        return Ended::NotRun(format!("no database of advisories here; name a clone or an address in {ADVISORIES}"));
    };
    match run.program(Part::CargoDeny) {
        Err(why) => run.left_out(why),
        Ok(tool) => ended(check_advisories(&tool, &database)),
    }
}

/// Checks with git told to take `database`, a folder or an address, for the one that `deny.toml` names, and with a
/// copy of its own, so that what was named here is not found again elsewhere.
fn check_advisories(tool: &Provided, database: &str) -> Outcome<String> {
    let folder = tempfile::tempdir().map_err(|cause| format!("no temporary folder: {cause}"))?;
    let configuration = folder.path().join("deny.toml");
    let text = std::fs::read_to_string(LICENCES).map_err(|cause| format!("{LICENCES}: {cause}"))?;
    let place = format!("[advisories]\ndb-path = \"{}\"\n", folder.path().join("databases").display());
    let text = text.replace("[advisories]\n", &place);
    std::fs::write(&configuration, text).map_err(|cause| format!("{}: {cause}", configuration.display()))?;
    let mut command = cargo_deny(tool, "Cargo.toml", &configuration, &["advisories"]);
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", format!("url.{database}.insteadOf"));
    capture(command.env("GIT_CONFIG_VALUE_0", ADVISORIES_ADDRESS))
}

fn flake(run: &mut Run) -> Ended {
    match run.program(Part::Nix) {
        Err(why) => run.left_out(why),
        Ok(tool) => ended(nix::check(&tool.program).map(|()| String::new())),
    }
}

fn clippy(_: &mut Run) -> Ended {
    let mut workspace = cargo();
    workspace.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let mut example = cargo();
    example.args(["clippy", "--quiet", "--all-targets", "--target-dir", "target/example", "--manifest-path", EXAMPLE]);
    example.args(["--", "-D", "warnings"]);
    ended(capture(&mut workspace).and_then(|_| capture(&mut example)))
}

fn test(run: &mut Run) -> Ended {
    if run.parts.is_empty() {
        run.parts = provide(&Part::FOR_TESTS);
        // Where the stage `testbed` ran, it has said so.
        for (part, outcome) in &run.parts {
            if let Err(why) = outcome {
                println!("lacking: {}: {why}", part.name());
            }
        }
    }
    let testbed = match Testbed::start(&run.provided(&Part::FOR_TESTS)) {
        Ok(testbed) => testbed,
        Err(why) => return Ended::Failed(why),
    };
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(cause) => return Ended::Failed(format!("no temporary folder: {cause}")),
    };
    let summary = folder.path().join("summary");
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]).envs(testbed.environment()).env(SUMMARY, &summary);
    let outcome = stream(&mut command, &mut run.tests);
    drop(testbed);
    println!("the slowest test programs:");
    for (program, seconds) in run.tests.slowest(10) {
        println!("{seconds:>8.1} s  {program}");
    }
    // No test appended anything: no file, and everything is lacking.
    let said = std::fs::read_to_string(&summary).unwrap_or_default();
    run.said = said.lines().map(str::to_owned).collect();
    let lacking = lacking(&run.said);
    for what in &lacking {
        println!("lacking: {what}");
    }
    let ended = judged(ended(outcome), &lacking, run.strict);
    if matches!(ended, Ended::NotRun(_)) {
        run.tests.leave_out(lacking.len() as u64);
    }
    ended
}

/// Tests that ended well and left something out have not run, which is a failure where nothing may be left out.
fn judged(ended: Ended, lacking: &[String], strict: bool) -> Ended {
    match ended {
        Ended::Passed if !lacking.is_empty() => {
            let why = format!("the tests ended well and left out: {}", lacking.join("; "));
            if strict { Ended::Failed(why) } else { Ended::NotRun(why) }
        }
        ended => ended,
    }
}

/// What the tests did not say that they must: each store conforms, each campaign lost nothing, and each engine and judge was
/// asked.
fn lacking(said: &[String]) -> Vec<String> {
    let lines = |beginning: String| said.iter().filter(move |line| line.starts_with(&beginning));
    let stores = STORES.iter().filter_map(|store| {
        let none = lines(format!("conformance: {store}: ")).next().is_none();
        none.then(|| format!("conformance of the store {store}"))
    });
    let campaigns = CAMPAIGNS.iter().filter_map(|campaign| {
        let mut found = lines(format!("campaign: {campaign}: ")).peekable();
        let good = found.peek().is_some() && found.all(|line| line.contains(", 0 lost"));
        (!good).then(|| format!("the campaign {campaign} with nothing lost"))
    });
    let supply = SUPPLY.iter().filter_map(|judge| {
        let none = lines(format!("supply: {judge}")).next().is_none();
        none.then(|| format!("the supply chain with {judge}"))
    });
    stores.chain(campaigns).chain(supply).collect()
}

fn example(run: &mut Run) -> Ended {
    let mut command = cargo();
    command.args(["test", "--no-fail-fast", "--target-dir", "target/example", "--manifest-path", EXAMPLE]);
    ended(stream(&mut command, &mut run.tests))
}

fn ended(outcome: Outcome<String>) -> Ended {
    match outcome {
        Ok(_) => Ended::Passed,
        Err(why) => Ended::Failed(why),
    }
}

// Counting ----------------------------------------------------------------------------------------------------------

/// The sum of the `test result:` lines.
#[derive(Debug, Default)]
struct Tests {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Those that said nothing of what they are there for.
    left_out: u64,
    names_failed: Vec<String>,
    names_ignored: Vec<String>,
    /// The test program that runs now.
    program: String,
    /// Each that ended, with its seconds.
    programs: Vec<(String, f64)>,
}

impl Tests {
    /// Counts tests that ended well because there was nothing to test as not run.
    fn leave_out(&mut self, count: u64) {
        self.passed = self.passed.saturating_sub(count);
        self.left_out += count;
    }

    /// Takes in one line of `cargo test`.
    fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let field = counts.split([';', '.']).map(str::trim).find_map(|field| field.strip_suffix(what));
                field.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            self.passed += count("passed");
            self.failed += count("failed");
            self.ignored += count("ignored");
            let seconds = counts.rsplit_once("finished in ").and_then(|(_, time)| time.strip_suffix('s')?.parse().ok());
            self.programs.push((std::mem::take(&mut self.program), seconds.unwrap_or_default()));
        } else if let Some((source, file)) =
            line.trim_start().strip_prefix("Running ").and_then(|run| run.split_once(" ("))
        {
            let file = file.rsplit('/').next().unwrap_or_default();
            self.program = format!("{} ({source})", file.rsplit_once('-').map_or(file, |(name, _)| name));
        } else if let Some(package) = line.trim_start().strip_prefix("Doc-tests ") {
            self.program = format!("{package} (documentation)");
        } else if let Some((name, verdict)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            if verdict == "FAILED" {
                self.names_failed.push(name.to_owned());
            } else if verdict.starts_with("ignored") {
                self.names_ignored.push(name.to_owned());
            }
        }
    }
}

impl Tests {
    /// The `count` test programs that took longest, the longest first.
    fn slowest(&self, count: usize) -> Vec<(&str, f64)> {
        let mut all: Vec<_> = self.programs.iter().map(|(name, seconds)| (name.as_str(), *seconds)).collect();
        all.sort_by(|one, other| other.1.total_cmp(&one.1));
        all.truncate(count);
        all
    }
}

/// Runs `command` with its output shown as it comes and counted; a failure carries the output's end.
fn stream(command: &mut Command, tests: &mut Tests) -> Outcome<String> {
    let shown = show(command);
    println!("{shown}");
    let failed_before = tests.failed;
    let named = |cause: std::io::Error| format!("the output of {shown}: {cause}");
    // One pipe for both: cargo names a test program on one stream, and the program says its result on the other.
    let (output, input) = std::io::pipe().map_err(named)?;
    let errors = input.try_clone().map_err(named)?;
    let spawned = command.env("CARGO_TERM_COLOR", "never").stdin(Stdio::null()).stdout(input).stderr(errors).spawn();
    // The command keeps its ends of the pipe, which would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned.map_err(|cause| format!("{shown} did not start: {cause}"))?;
    let mut end = End::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line.map_err(named)?).into_owned();
        println!("{line}");
        tests.read(&line);
        end.read(line);
    }
    let status = child.wait().map_err(|cause| format!("{shown}: {cause}"))?;
    if status.success() {
        return Ok(String::new());
    }
    if tests.failed == failed_before {
        // A test program that did not build or was killed printed no result; it must not count as nothing.
        tests.failed += 1;
        tests.names_failed.push(format!("(none was counted) {shown}"));
    }
    Err(format!("{shown} ended with {status}\n{}", end.text()))
}

/// What is worth repeating of a long output: what the failed tests said, or else its last lines.
#[derive(Default)]
struct End {
    inside: bool,
    failures: Vec<String>,
    last: VecDeque<String>,
}

impl End {
    fn read(&mut self, line: String) {
        // libtest prints `---- name stdout ----` and what the test said, until the list of failures.
        if line.starts_with("---- ") && line.ends_with(" ----") {
            self.inside = true;
        } else if line == "failures:" || line.starts_with("test result: ") {
            self.inside = false;
        }
        if self.inside && self.failures.len() < 400 {
            self.failures.push(line.clone());
        }
        if self.last.len() == 60 {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    fn text(self) -> String {
        if self.failures.is_empty() { Vec::from(self.last).join("\n") } else { self.failures.join("\n") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_and_failures_named() {
        let mut tests = Tests::default();
        for line in [
            "running 3 tests",
            "test config::reads ... ok",
            "test config::fails ... FAILED",
            "test slow - ignored ... ignored, needs a server",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 12.30s",
        ] {
            tests.read(line);
        }
        assert_eq!((tests.passed, tests.failed, tests.ignored), (41, 1, 1));
        assert_eq!(tests.names_failed, ["config::fails"]);
        assert_eq!(tests.names_ignored, ["slow - ignored"]);
    }

    #[test]
    fn the_slowest_programs_are_named() {
        let mut tests = Tests::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/domain-0123456789abcdef)",
            "test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.30s",
            "     Running tests/faults.rs (target/debug/deps/faults-0123456789abcdef)",
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 12.30s",
            "   Doc-tests domain",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
        ] {
            tests.read(line);
        }
        assert_eq!(tests.slowest(2), [("faults (tests/faults.rs)", 12.3), ("domain (documentation)", 1.0)]);
    }

    #[test]
    fn a_store_a_campaign_or_a_judge_that_is_not_heard_of_is_lacking() {
        let mut said: Vec<String> = STORES.map(|store| format!("conformance: {store}: 40 checks passed in 2 s")).into();
        said.extend(SUPPLY.map(|judge| format!("supply: {judge}: 3 images")));
        for campaign in ["faults: 90 tried, 90 survived", "images: 40 tried, 40 survived"] {
            said.push(format!("campaign: {campaign}, 0 lost, seed 7"));
        }
        said.push("campaign: sigkill: push 100, pull 100 survived, 0 lost, seed 7".to_owned());
        assert_eq!(lacking(&said), Vec::<String>::new());
        let without = |beginning: &str| {
            let kept: Vec<String> = said.iter().filter(|line| !line.starts_with(beginning)).cloned().collect();
            lacking(&kept)
        };
        assert_eq!(without("conformance: minio"), ["conformance of the store minio"]);
        assert_eq!(without("campaign: images"), ["the campaign images with nothing lost"]);
        assert_eq!(without("supply: engine newest"), ["the supply chain with engine newest"]);
        let last = said.len() - 1;
        said[last] = "campaign: sigkill: push 100, pull 99 survived, 10 lost, seed 7".to_owned();
        assert_eq!(lacking(&said), ["the campaign sigkill with nothing lost"]);
        assert_eq!(lacking(&[]).len(), STORES.len() + CAMPAIGNS.len() + SUPPLY.len());
    }

    #[test]
    fn what_was_left_out_has_not_run() {
        let lacking = ["conformance of the store minio".to_owned()];
        assert!(matches!(judged(Ended::Passed, &lacking, false), Ended::NotRun(why) if why.contains("minio")));
        assert!(matches!(judged(Ended::Passed, &lacking, true), Ended::Failed(why) if why.contains("minio")));
        assert!(matches!(judged(Ended::Passed, &[], true), Ended::Passed));
        assert!(matches!(judged(Ended::Failed("x".to_owned()), &lacking, false), Ended::Failed(why) if why == "x"));
        let mut tests = Tests { passed: 7, ..Tests::default() };
        tests.leave_out(2);
        assert_eq!((tests.passed, tests.left_out), (5, 2));
    }

    #[test]
    fn only_what_failed_tests_said_is_repeated() {
        let mut end = End::default();
        for line in ["test a ... FAILED", "", "---- a stdout ----", "it broke", "failures:", "    a", "test result: x"]
        {
            end.read(line.to_owned());
        }
        assert_eq!(end.text(), "---- a stdout ----\nit broke");
    }

    #[test]
    fn a_run_without_results_counts_as_a_failure() {
        let mut tests = Tests::default();
        let outcome = stream(&mut Command::new("false"), &mut tests);
        assert!(outcome.unwrap_err().starts_with("false ended with"));
        assert_eq!(tests.failed, 1);
    }
}
