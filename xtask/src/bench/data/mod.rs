//! `cargo xtask bench data`: what data costs with Sealift, beside dvc, restic, s5cmd and rclone.
//!
//! Every figure comes from runs side by side: the same server, the same bytes, a fresh place of work and a fresh prefix for each
//! tool and round, and another tool first in each round. A tool is run as its manual says; its time is from the start of the
//! process to its end, its memory what the kernel says of it. Requests and bytes are counted by a proxy in runs of
//! their own, so that nothing stands between client and server where time is measured; only the row with a delay goes
//! through the proxy with every tool.
//!
//! It never fails because something is slow. A tool that fails, or does not bring everything back, is an error: its
//! time would say nothing.

mod dataset;
mod plot;
mod report;
mod tools;

use super::{
    goals::Row,
    proxy::{self, Proxy},
    sample::{Sample, Samples},
    setup,
    stopwatch::Stopwatch,
    table,
};
use crate::{
    shell::{Outcome, workspace_root},
    testbed::{Part, Testbed, guarded},
};
use dataset::Dataset;
use plot::{Line, Plot};
use report::Traffic;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ExitCode, Stdio},
    time::{Duration, Instant},
};
use tools::{Programs, Server, Tool, Workplace};

const USAGE: &str = "\
usage: cargo xtask bench data [--quick] [--rounds N] [--only PART,…] [--without TOOL,…]
                              [--to DIR] [--program FILE]

  --quick         a tenth of the data, for a look; its table says nothing of the goals' sizes
  --rounds N      how often each work is done by each tool; 3 by default
  --only PART,…   of: small, delay, large, growth, server
  --without TOOL,… leaves out: dvc, restic, s5cmd, rclone; their goals are then not in the table
  --to DIR        where data.md, data.json and the plots go; docs/bench by default, nowhere if anything is left out
  --program FILE  the sealift to measure; without it a release build is made
";
/// What a distant server takes for an answer.
const DELAY: Duration = Duration::from_millis(30);
const SERVER_PARTS: [&str; 5] = ["small", "delay", "large", "growth", "server"];

struct Options {
    quick: bool,
    rounds: usize,
    only: Vec<String>,
    without: Vec<Tool>,
    to: Option<PathBuf>,
    program: Option<PathBuf>,
}

impl Options {
    fn parse(args: &[String]) -> Outcome<Self> {
        let mut options =
            Self { quick: false, rounds: 3, only: Vec::new(), without: Vec::new(), to: None, program: None };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--rounds" => options.rounds = setup::rounds(value()?, USAGE)?,
                "--only" => options.only = setup::only(value()?, &SERVER_PARTS, USAGE)?,
                "--without" => {
                    for name in value()?.split(',') {
                        let tool = Tool::ALL.into_iter().find(|tool| tool.name() == name && *tool != Tool::Sealift);
                        options.without.push(tool.ok_or_else(|| format!("there is no peer '{name}'\n{USAGE}"))?);
                    }
                }
                "--to" => options.to = Some(PathBuf::from(value()?)),
                "--program" => options.program = Some(setup::existing(value()?)?),
                other => return Err(format!("bench data has no option '{other}'\n{USAGE}")),
            }
        }
        if options.to.is_none() && !options.quick && options.only.is_empty() && options.without.is_empty() {
            options.to = Some(workspace_root().join("docs/bench"));
        }
        Ok(options)
    }

    /// How the same would be measured again.
    fn words(&self) -> String {
        let mut words = setup::again("data", self.rounds, self.quick, &self.only);
        if !self.without.is_empty() {
            let names: Vec<_> = self.without.iter().map(|tool| tool.name()).collect();
            words = format!("{words} --without {}", names.join(","));
        }
        words
    }

    fn has(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// Whether the tool was left out.
    fn skips(&self, tool: Tool) -> bool {
        let tool = if tool == Tool::DvcJobs { Tool::Dvc } else { tool };
        self.without.contains(&tool)
    }

    /// A tenth where a look is enough.
    fn scaled(&self, count: u64) -> u64 {
        if self.quick { count / 10 } else { count }
    }
}

/// What is done with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Add,
    Push,
    PushAgain,
    Status,
    Pull,
    /// Add and push after a few bytes were inserted.
    Insert,
}

type Figures = BTreeMap<(Tool, Work), Samples>;

/// Everything that the measurements share.
struct Lab<'a> {
    options: &'a Options,
    programs: &'a Programs,
    minio: Server,
    scratch: &'a Path,
    rows: Vec<Row>,
    traffic: Vec<Traffic>,
    plots: Vec<(&'static str, String)>,
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
    let sealift = options.program.clone().map_or_else(super::build, Ok)?;
    let provided = setup::provided(&[Part::Minio, Part::Dvc, Part::Restic, Part::S5cmd, Part::Rclone])?;
    let testbed = Testbed::start(&provided)?;
    let program = |part: Part| {
        let found = provided.iter().find(|one| one.part == part).map(|one| one.program.clone());
        found.ok_or_else(|| format!("{} was not provided", part.name()))
    };
    let programs = Programs {
        sealift,
        dvc: program(Part::Dvc)?,
        restic: program(Part::Restic)?,
        s5cmd: program(Part::S5cmd)?,
        rclone: program(Part::Rclone)?,
        stopwatch,
    };
    let url = testbed.environment().find(|(name, _)| *name == "SEALIFT_TEST_MINIO").map(|(_, url)| url.to_owned());
    let minio = server(&url.ok_or("MinIO was not started")?)?;
    let scratch = setup::scratch()?;
    let mut lab = Lab {
        options: &options,
        programs: &programs,
        minio,
        scratch: scratch.path(),
        rows: Vec::new(),
        traffic: Vec::new(),
        plots: Vec::new(),
        figures: BTreeMap::new(),
        begun: Instant::now(),
    };
    lab.measure()?;
    println!("\n{}\n\n{}", table::terminal(&lab.rows), table::verdict(&lab.rows));
    if let Some(to) = &options.to {
        let machine = report::machine(&programs, scratch.path());
        let how = options.words();
        report::write(to, &lab.rows, &lab.traffic, &machine, &lab.plots, &json!(lab.figures), &how)?;
        println!("written to {}", to.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// `http://KEY:SECRET@HOST:PORT/BUCKET`.
fn server(url: &str) -> Outcome<Server> {
    let parts = || {
        let (credentials, place) = url.strip_prefix("http://")?.split_once('@')?;
        let ((key, secret), (address, bucket)) = (credentials.split_once(':')?, place.split_once('/')?);
        let [key, secret, bucket] = [key, secret, bucket].map(str::to_owned);
        Some(Server { address: address.parse().ok()?, bucket, key, secret })
    };
    parts().ok_or_else(|| "the address of MinIO is not of the form http://KEY:SECRET@HOST:PORT/BUCKET".to_owned())
}

impl Lab<'_> {
    fn measure(&mut self) -> Outcome {
        if self.options.has("small") || self.options.has("growth") {
            self.small()?;
        }
        if self.options.has("delay") {
            self.delay()?;
        }
        if self.options.has("large") {
            self.large()?;
        }
        if self.options.has("server") {
            self.server()?;
        }
        Ok(())
    }

    fn say(&self, words: &str) {
        println!("{:>5.0} s  {words}", self.begun.elapsed().as_secs_f64());
    }

    /// Keeps lines of the table, and shows them: a run takes long.
    fn add(&mut self, rows: impl IntoIterator<Item = Row>) {
        for row in rows {
            // Its peer was left out, as was asked.
            if row.ratio.is_some_and(f64::is_nan) {
                continue;
            }
            self.say(row.cells().join("  ").trim_end());
            self.rows.push(row);
        }
    }

    fn place<'d>(&'d self, tool: Tool, server: &Server, data: &'d Dataset) -> Outcome<Workplace<'d>> {
        Workplace::new(tool, self.programs, server, data, self.scratch)
    }

    /// One tool's whole turn with one set of data.
    fn turn(&self, tool: Tool, data: &Dataset, insert: bool, into: &mut Figures) -> Outcome {
        let mut keep = |work, sample: Sample| {
            self.say(&format!("  {} {work:?}: {}", tool.name(), sample.words()));
            into.entry((tool, work)).or_default().push(sample);
        };
        let place = self.place(tool, &self.minio, data)?;
        let adds = tool.adds();
        if adds {
            keep(Work::Add, place.add()?);
        }
        keep(Work::Push, place.push()?);
        if adds && !insert {
            keep(Work::PushAgain, place.push()?);
            keep(Work::Status, place.status()?);
        }
        if insert && matches!(tool, Tool::Sealift | Tool::Restic) {
            place.insert()?;
            let added = adds.then(|| place.add()).transpose()?;
            let pushed = place.push()?;
            keep(Work::Insert, added.map_or(pushed, |added| added.then(pushed)));
        }
        keep(Work::Pull, place.pull()?);
        Ok(())
    }

    /// Turns of several tools, another first in each round; dvc with many jobs has one, for it takes long.
    fn turns(&self, tools: &[Tool], data: &Dataset, rounds: usize, insert: bool) -> Outcome<Figures> {
        let mut figures = Figures::new();
        for round in 0..rounds {
            for turn in 0..tools.len() {
                let tool = tools[(round + turn) % tools.len()];
                if self.options.skips(tool) || round > 0 && tool == Tool::DvcJobs {
                    continue;
                }
                self.say(&format!("round {} of {rounds}: {} with {}", round + 1, tool.name(), words(data)));
                self.turn(tool, data, insert, &mut figures)?;
            }
        }
        Ok(figures)
    }

    fn keep(&mut self, name: &str, figures: &Figures) {
        let all = figures.iter().map(|((tool, work), samples)| (format!("{} {work:?}", tool.name()), samples.json()));
        self.figures.insert(name.to_owned(), Value::Object(all.collect()));
    }

    fn small(&mut self) -> Outcome {
        let (rounds, count) = (self.options.rounds, self.options.scaled(20_000));
        let tools = [Tool::Sealift, Tool::Dvc, Tool::Restic, Tool::S5cmd, Tool::Rclone, Tool::DvcJobs];
        let data = Dataset::small(self.scratch, count)?;
        let middle = self.turns(&tools, &data, rounds, false)?;
        let what = words(&data);
        let of = |tool, work| middle.get(&(tool, work)).cloned().unwrap_or_default();
        let ours = |work| of(Tool::Sealift, work);
        let whole = ours(Work::Add).with(&ours(Work::Push));
        let mut rows = vec![
            Row::faster(&format!("add {what}"), &ours(Work::Add), ("dvc", &of(Tool::Dvc, Work::Add)), 5.0),
            Row::faster("push them", &ours(Work::Push), ("dvc", &of(Tool::Dvc, Work::Push)), 13.0),
            Row::faster("push them", &ours(Work::Push), ("restic backup", &of(Tool::Restic, Work::Push)), 2.0),
            Row::beside("add and push them", &whole, ("restic backup", &of(Tool::Restic, Work::Push))),
            Row::faster("push them", &ours(Work::Push), ("s5cmd", &of(Tool::S5cmd, Work::Push)), 4.0),
            Row::beside("push them", &ours(Work::Push), ("rclone", &of(Tool::Rclone, Work::Push))),
            Row::beside("push them", &ours(Work::Push), ("dvc --jobs 64", &of(Tool::DvcJobs, Work::Push))),
        ];
        let (first, again) = self.counted(&data)?;
        rows.push(Row::at_most("requests of that push", first.requests, "requests", 30));
        rows.extend([
            Row::faster("pull and verify them", &ours(Work::Pull), ("dvc", &of(Tool::Dvc, Work::Pull)), 6.0),
            Row::faster(
                "pull and verify them",
                &ours(Work::Pull),
                ("restic restore", &of(Tool::Restic, Work::Pull)),
                1.0,
            ),
            Row::beside("pull and verify them", &ours(Work::Pull), ("s5cmd", &of(Tool::S5cmd, Work::Pull))),
            Row::beside("pull and verify them", &ours(Work::Pull), ("rclone", &of(Tool::Rclone, Work::Pull))),
            Row::beside("pull and verify them", &ours(Work::Pull), ("dvc --jobs 64", &of(Tool::DvcJobs, Work::Pull))),
            Row::faster(
                "push with nothing new",
                &ours(Work::PushAgain),
                ("dvc", &of(Tool::Dvc, Work::PushAgain)),
                10.0,
            ),
            Row::at_most("requests of that push", again.requests, "requests", 2),
            Row::faster("status", &ours(Work::Status), ("dvc", &of(Tool::Dvc, Work::Status)), 10.0),
        ]);
        self.keep("small", &middle);
        self.add(rows);
        self.traffic(count / 10)?;
        std::fs::remove_dir_all(&data.folder).map_err(|cause| format!("{}: {cause}", data.folder.display()))?;
        if self.options.has("growth") { self.growth(&middle, count) } else { Ok(()) }
    }

    /// What every tool says to the server, with a tenth of the files.
    fn traffic(&mut self, count: u64) -> Outcome {
        let data = Dataset::small(self.scratch, count)?;
        let proxy = Proxy::start(self.minio.address, Duration::ZERO)?;
        let mut lines = Vec::new();
        for tool in Tool::ALL.into_iter().filter(|tool| !self.options.skips(*tool)) {
            self.say(&format!("counting what {} says", tool.name()));
            let place = self.place(tool, &self.minio.through(proxy.address()), &data)?;
            if tool.adds() {
                place.add()?;
            }
            let mut note = |work| lines.push(Traffic { tool: tool.name(), work, counted: proxy.take() });
            proxy.take();
            place.push()?;
            note(format!("push {}", words(&data)));
            place.push()?;
            note("push with nothing new".to_owned());
            place.pull()?;
            note("pull".to_owned());
        }
        self.traffic.extend(lines);
        std::fs::remove_dir_all(&data.folder).map_err(|cause| format!("{}: {cause}", data.folder.display()))
    }

    /// What a first and a second push send.
    fn counted(&self, data: &Dataset) -> Outcome<(proxy::Counted, proxy::Counted)> {
        self.say("counting requests");
        let proxy = Proxy::start(self.minio.address, Duration::ZERO)?;
        let place = self.place(Tool::Sealift, &self.minio.through(proxy.address()), data)?;
        place.add()?;
        proxy.take();
        place.push()?;
        let first = proxy.take();
        place.push()?;
        Ok((first, proxy.take()))
    }

    fn growth(&mut self, middle: &Figures, count: u64) -> Outcome {
        let few = Dataset::small(self.scratch, count / 10)?;
        let small = self.turns(&Tool::ALL, &few, 1, false)?;
        let many = Dataset::small(self.scratch, count * 10)?;
        let large = self.turns(&[Tool::Sealift, Tool::Restic], &many, 1, false)?;
        let of = |figures: &Figures, work| figures.get(&(Tool::Sealift, work)).cloned().unwrap_or_default();
        let mut memory = 0;
        for (work, name) in [
            (Work::Add, "add"),
            (Work::Push, "push"),
            (Work::PushAgain, "push with nothing new"),
            (Work::Status, "status"),
            (Work::Pull, "pull"),
        ] {
            let (before, after) = (of(middle, work), of(&large, work));
            self.add([Row::linear(&format!("{name} of {} files", many.files), &before, &after, 10.0)]);
            memory = memory.max(after.memory());
        }
        self.add([Row::at_most(&format!("peak memory with {} files", many.files), memory, "MiB", 128 << 20)]);
        let sizes = [(&few, &small), (&Dataset { files: count, ..few.clone() }, middle), (&many, &large)];
        let plots = [("push", Work::Push), ("pull", Work::Pull)].map(|(title, work)| Plot {
            title: format!("{title}, files of 1 to 20 KiB"),
            across: "files",
            marks: sizes.iter().map(|(data, _)| (data.files as f64, data.files.to_string())).collect(),
            lines: lines(&sizes.map(|(data, figures)| (data.files as f64, figures)), work),
        });
        self.plots.push(("files.svg", plot::svg(&plots)));
        self.keep("few", &small);
        self.keep("many", &large);
        for data in [&few, &many] {
            std::fs::remove_dir_all(&data.folder).map_err(|cause| format!("{}: {cause}", data.folder.display()))?;
        }
        Ok(())
    }

    fn delay(&mut self) -> Outcome {
        let data = Dataset::small(self.scratch, self.options.scaled(20_000))?;
        let proxy = Proxy::start(self.minio.address, DELAY)?;
        let distant = self.minio.through(proxy.address());
        let tools = Tool::ALL;
        let mut figures = Figures::new();
        for round in 0..self.options.rounds {
            for turn in 0..tools.len() {
                let tool = tools[(round + turn) % tools.len()];
                // Alone it takes longer than all others in all rounds.
                if self.options.skips(tool) || round > 0 && tool == Tool::Dvc {
                    continue;
                }
                self.say(&format!("{} ms a request: {}", DELAY.as_millis(), tool.name()));
                let mut place = self.place(tool, &self.minio, &data)?;
                if tool.adds() {
                    place.add()?;
                }
                place.redirect(&distant)?;
                let pushed = place.push()?;
                self.say(&format!("  {}", pushed.words()));
                figures.entry((tool, Work::Push)).or_default().push(pushed);
                place.redirect(&self.minio)?;
            }
        }
        let of = |tool| figures.get(&(tool, Work::Push)).cloned().unwrap_or_default();
        let work = format!("push at {} ms a request", DELAY.as_millis());
        self.add([
            Row::within(&work, &of(Tool::Sealift), 2.0, ("restic backup", &of(Tool::Restic))),
            Row::beside(&work, &of(Tool::Sealift), ("s5cmd", &of(Tool::S5cmd))),
            Row::beside(&work, &of(Tool::Sealift), ("rclone", &of(Tool::Rclone))),
            Row::beside(&work, &of(Tool::Sealift), ("dvc", &of(Tool::Dvc))),
        ]);
        self.keep("delay", &figures);
        Ok(())
    }

    fn large(&mut self) -> Outcome {
        let tools = [Tool::Sealift, Tool::Dvc, Tool::Restic, Tool::S5cmd];
        let gibibyte = self.options.scaled(1 << 30);
        let data = Dataset::single(self.scratch, gibibyte)?;
        let figures = self.turns(&tools, &data, self.options.rounds, true)?;
        let of = |tool, work| figures.get(&(tool, work)).cloned().unwrap_or_default();
        let ours = |work| of(Tool::Sealift, work);
        let what = words(&data);
        let sent = self.inserted(&data)?.map(|counted| counted.sent);
        let memory =
            figures.iter().filter(|((tool, _), _)| *tool == Tool::Sealift).map(|(_, samples)| samples.memory());
        let memory = memory.max().unwrap_or_default();
        self.add([
            Row::beside(&format!("add {what}"), &ours(Work::Add), ("dvc", &of(Tool::Dvc, Work::Add))),
            Row::faster(&format!("push {what}"), &ours(Work::Push), ("s5cmd", &of(Tool::S5cmd, Work::Push)), 1.0),
            Row::beside(&format!("push {what}"), &ours(Work::Push), ("dvc", &of(Tool::Dvc, Work::Push))),
            Row::faster(&format!("pull {what}"), &ours(Work::Pull), ("dvc", &of(Tool::Dvc, Work::Pull)), 2.0),
            Row::beside(&format!("pull {what}"), &ours(Work::Pull), ("s5cmd", &of(Tool::S5cmd, Work::Pull))),
            Row::faster(
                "100 bytes inserted: add and push",
                &ours(Work::Insert),
                ("restic backup", &of(Tool::Restic, Work::Insert)),
                1.5,
            ),
            Row::at_most("100 bytes inserted: sent", sent[0], "MiB", 1 << 20),
            Row::at_most(&format!("peak memory with {what}"), memory, "MiB", 128 << 20),
        ]);
        self.keep("large", &figures);
        let quarter = Dataset::single(self.scratch, gibibyte / 4)?;
        let sixteenth = Dataset::single(self.scratch, gibibyte / 16)?;
        let (small, middle) = (self.turns(&tools, &sixteenth, 1, true)?, self.turns(&tools, &quarter, 1, true)?);
        let sizes = [(&sixteenth, &small), (&quarter, &middle), (&data, &figures)];
        let plots = [("push", Work::Push), ("pull", Work::Pull)].map(|(title, work)| Plot {
            title: format!("{title}, one file"),
            across: "size",
            marks: sizes.iter().map(|(data, _)| (data.bytes as f64, format!("{} MiB", data.bytes >> 20))).collect(),
            lines: lines(&sizes.map(|(data, figures)| (data.bytes as f64, figures)), work),
        });
        self.plots.push(("bytes.svg", plot::svg(&plots)));
        self.keep("sixteenth", &small);
        self.keep("quarter", &middle);
        Ok(())
    }

    /// What is sent after 100 bytes were inserted: by us and by restic.
    fn inserted(&mut self, data: &Dataset) -> Outcome<[proxy::Counted; 2]> {
        let proxy = Proxy::start(self.minio.address, Duration::ZERO)?;
        let mut sent = [proxy::Counted::default(); 2];
        for (tool, sent) in [Tool::Sealift, Tool::Restic].into_iter().zip(&mut sent) {
            if self.options.skips(tool) {
                continue;
            }
            self.say(&format!("counting bytes of {}", tool.name()));
            let mut place = self.place(tool, &self.minio, data)?;
            let add = |place: &Workplace<'_>| if tool == Tool::Sealift { place.add().map(drop) } else { Ok(()) };
            add(&place)?;
            place.push()?;
            place.insert()?;
            add(&place)?;
            place.redirect(&self.minio.through(proxy.address()))?;
            proxy.take();
            place.push()?;
            *sent = proxy.take();
            place.redirect(&self.minio)?;
        }
        for (tool, counted) in [Tool::Sealift, Tool::Restic].into_iter().zip(sent) {
            if self.options.skips(tool) {
                continue;
            }
            let work = format!("push {} with 100 bytes inserted", words(data));
            self.traffic.push(Traffic { tool: tool.name(), work, counted });
        }
        Ok(sent)
    }

    /// The embedded server beside MinIO, with s5cmd as the client of both.
    fn server(&mut self) -> Outcome {
        let folder = self.scratch.join("store");
        let embedded = Embedded::start(&self.programs.sealift, &folder, &self.minio)?;
        let servers = [("embedded", embedded.server.clone()), ("MinIO", self.minio.clone())];
        let kinds = [("4 KiB", self.options.scaled(5_000), 4096), ("64 MiB", self.options.scaled(8).max(4), 64 << 20)];
        for (size, count, each) in kinds {
            let data = Dataset::equal(self.scratch, count, each)?;
            let mut figures = [[Samples::default(), Samples::default()], [Samples::default(), Samples::default()]];
            // Each is short: more of them, and the first warms both servers.
            for round in 0..self.options.rounds + 3 {
                for turn in 0..servers.len() {
                    let index = (round + turn) % servers.len();
                    let (name, server) = &servers[index];
                    self.say(&format!("{count} objects of {size}: {name}"));
                    let place = self.place(Tool::S5cmd, server, &data)?;
                    let (put, get) = (place.push()?, place.pull()?);
                    self.say(&format!("  PUT {}; GET {}", put.words(), get.words()));
                    if round > 0 {
                        figures[index][0].push(put);
                        figures[index][1].push(get);
                    }
                }
            }
            for (operation, index) in [("PUT", 0), ("GET", 1)] {
                let work = format!("embedded server: {operation} of {count} × {size}");
                // Memory is that of the client, which is the same.
                self.add([Row::faster(&work, &figures[0][index], ("MinIO", &figures[1][index]), 1.0)]);
                for (server, samples) in [("embedded", &figures[0][index]), ("MinIO", &figures[1][index])] {
                    self.figures.insert(format!("{server} {operation} {size}"), samples.json());
                }
            }
        }
        drop(embedded);
        Ok(())
    }
}

/// The lines of a plot: a tool each, ours first.
fn lines(sizes: &[(f64, &Figures)], work: Work) -> Vec<Line> {
    let line = |tool: Tool| {
        let point = |(size, figures): &(f64, &Figures)| Some((*size, figures.get(&(tool, work))?.median()));
        let points: Vec<_> = sizes.iter().filter_map(point).collect();
        (!points.is_empty()).then_some(Line { name: tool.name(), points })
    };
    Tool::ALL.into_iter().filter_map(line).collect()
}

fn words(data: &Dataset) -> String {
    match data.files {
        1 => format!("{} MiB", data.bytes >> 20),
        files => format!("{files} files ({} MB)", data.bytes / 1_000_000),
    }
}

/// `sealift store serve`, stopped when it is dropped.
struct Embedded {
    child: Child,
    server: Server,
}

impl Embedded {
    fn start(program: &Path, folder: &Path, like: &Server) -> Outcome<Self> {
        let mut command = guarded(program);
        command.args([
            "store",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--bucket",
            &like.bucket,
            "--format",
            "json",
            "--dir",
        ]);
        command.arg(folder).env("AWS_ACCESS_KEY_ID", &like.key).env("AWS_SECRET_ACCESS_KEY", &like.secret);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|cause| format!("sealift store serve did not start: {cause}"))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            // What it prints later is one line at its end, which fits into the pipe.
            let _ = BufReader::new(out).read_line(&mut line);
        }
        let address = serde_json::from_str::<Value>(&line).ok().and_then(|said| said["address"].as_str()?.parse().ok());
        let address = address.ok_or_else(|| format!("sealift store serve does not say where it listens: {line}"))?;
        Ok(Self { child, server: Server { address, ..like.clone() } })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]
mod tests {
    use super::*;

    #[test]
    fn options_and_what_is_wrong_with_them() {
        let parse = |words: &[&str]| Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let whole = parse(&[]).unwrap();
        assert!(whole.to.is_some() && whole.has("delay") && whole.scaled(20) == 20);
        let part = parse(&["--quick", "--only", "small,server", "--rounds", "1"]).unwrap();
        assert_eq!(part.words(), "cargo xtask bench data --rounds 1 --quick --only small,server");
        assert!(part.to.is_none() && part.has("server") && !part.has("large") && part.scaled(20) == 2);
        assert!(
            parse(&["--without", "dvc,rclone"])
                .is_ok_and(|options| options.to.is_none() && options.skips(Tool::DvcJobs))
        );
        for (words, wrong) in [
            (&["--without", "sealift"][..], "'sealift'"),
            (&["--only", "smal"], "'smal'"),
            (&["--rounds", "0"], "'0'"),
            (&["--fast"], "usage"),
        ] {
            assert!(parse(words).err().unwrap().contains(wrong));
        }
    }

    #[test]
    fn a_server_is_read_from_its_address() {
        let server = server("http://me:secret@127.0.0.1:9000/bucket").unwrap();
        assert_eq!((server.address.port(), server.bucket.as_str(), server.secret.as_str()), (9000, "bucket", "secret"));
        assert!(super::server("127.0.0.1:9000").is_err());
    }
}
