//! The figures as a table, as JSON and as Markdown, with the machine that they were made on.

use super::{Programs, goals::Row, proxy::Counted, tools::Tool};
use crate::shell::{Outcome, capture, find_program};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};

/// What the figures depend on besides the programs: no name and no path of it.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    facts: Vec<(&'static str, String)>,
}

impl Machine {
    pub(super) fn look(programs: &Programs, scratch: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let first = |program: &Path, words: &[&str]| {
            let text = capture(Command::new(program).args(words)).unwrap_or_default();
            text.lines().next().unwrap_or("unknown").trim().to_owned()
        };
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let model = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned());
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let gibibytes = memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 20;
        let file_system = find_program("df").map_or_else(String::new, |df| {
            let text = capture(Command::new(df).arg("--output=fstype").arg(scratch)).unwrap_or_default();
            text.lines().nth(1).unwrap_or("unknown").trim().to_owned()
        });
        let date = find_program("date").map_or_else(String::new, |date| first(&date, &["--utc", "+%Y-%m-%d"]));
        let mut facts = vec![
            ("date", date),
            ("processor", format!("{processors} × {model}")),
            ("memory", format!("{gibibytes} GiB")),
            ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
            ("file system", file_system),
        ];
        for (tool, words) in [
            (Tool::Sealift, &["--version"][..]),
            (Tool::Dvc, &["--version"]),
            (Tool::Restic, &["version"]),
            (Tool::S5cmd, &["version"]),
            (Tool::Rclone, &["version"]),
        ] {
            facts.push((tool.name(), first(programs.of(tool), words)));
        }
        Self { facts }
    }
}

/// What one tool said to the server for one work, as the proxy counted it.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    pub(super) tool: &'static str,
    pub(super) work: String,
    pub(super) counted: Counted,
}

impl Traffic {
    fn cells(&self) -> [String; 5] {
        let Counted { requests, sent, received } = self.counted;
        [self.work.clone(), self.tool.to_owned(), requests.to_string(), sent.to_string(), received.to_string()]
    }

    fn json(&self) -> Value {
        let Counted { requests, sent, received } = self.counted;
        json!({ "work": self.work, "tool": self.tool, "requests": requests, "sent": sent, "received": received })
    }
}

/// The table for a terminal.
pub(super) fn terminal(rows: &[Row]) -> String {
    let cells: Vec<[String; 6]> = rows.iter().map(Row::cells).collect();
    let heads = ["work", "ours", "peer", "ratio", "goal", ""].map(str::to_owned);
    let width = |column: usize| {
        cells.iter().chain([&heads]).map(|cells| cells[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |cells: &[String; 6]| {
        let padded = |(cell, width): (&String, &usize)| format!("{cell}{}", " ".repeat(width - cell.chars().count()));
        cells.iter().zip(&widths).map(padded).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    [&heads].into_iter().chain(&cells).map(line).collect::<Vec<_>>().join("\n")
}

/// How many goals are met.
pub(super) fn verdict(rows: &[Row]) -> String {
    let goals = rows.iter().filter(|row| row.met.is_some()).count();
    let met = rows.iter().filter(|row| row.met == Some(true)).count();
    format!("{met} of {goals} goals met")
}

/// Writes `data.md`, `data.json` and the plots.
pub(super) fn write(
    to: &Path,
    rows: &[Row],
    traffic: &[Traffic],
    machine: &Machine,
    plots: &[(&str, String)],
    figures: &Value,
    how: &str,
) -> Outcome {
    let save = |name: &str, text: &str| {
        let path = to.join(name);
        fs::create_dir_all(to)
            .and_then(|()| fs::write(&path, text))
            .map_err(|cause| format!("{}: {cause}", path.display()))
    };
    let mut text = format!(
        "# Data: what Sealift takes beside its peers\n\nMade by `{how}`. Each figure is the median of interleaved runs on the same \
         server (MinIO, unless said otherwise) on the same machine, with the fastest and the slowest, the time of processors in the tool's \
         own process (not the server's) and the peak of resident memory. A tool is timed from its start to its end, a Python's start included. \
         Each begins in a fresh repository below a fresh prefix, with its data just copied (so in the page cache), no cache of its own and \
         everything written to disk that ran before. dvc, restic and s5cmd run with their defaults, dvc once more with 64 jobs, and rclone \
         with 64 transfers; restic's backup is its add and its push in one. Pull removes the tree and every cache first. \
         Requests and bytes are counted by a proxy in runs of their own.\n\n{}.\n\n\
         | work | ours | peer | ratio | goal | |\n|---|---|---|---|---|---|\n",
        verdict(rows)
    );
    for row in rows {
        text.push_str(&format!("| {} |\n", row.cells().join(" | ")));
    }
    for (name, _) in plots {
        text.push_str(&format!("\n![{name}]({name})\n"));
    }
    text.push_str(
        "\n## Requests and bytes\n\nSent are bodies of requests; received are whole answers.\n\n\
         | work | tool | requests | bytes sent | bytes received |\n|---|---|---:|---:|---:|\n",
    );
    for line in traffic {
        text.push_str(&format!("| {} |\n", line.cells().join(" | ")));
    }
    text.push_str("\n## The machine\n\n| | |\n|---|---|\n");
    for (name, value) in &machine.facts {
        text.push_str(&format!("| {name} | {value} |\n"));
    }
    save("data.md", &text)?;
    let facts: serde_json::Map<String, Value> =
        machine.facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let whole = json!({
        "machine": facts,
        "goals": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "traffic": traffic.iter().map(Traffic::json).collect::<Vec<_>>(),
        "figures": figures,
    });
    save("data.json", &format!("{whole:#}\n"))?;
    plots.iter().try_for_each(|(name, svg)| save(name, svg))
}
