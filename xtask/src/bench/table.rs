//! What every bench prints and saves: the table of goals, and the machine that they were measured on.

use super::goals::Row;
use crate::shell::{Outcome, capture, find_program};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the figures depend on besides the programs: no name and no path of it.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    facts: Vec<(String, String)>,
}

impl Machine {
    /// Looks at this machine, at the file system of `scratch`, and asks each program for its version.
    pub(super) fn look(programs: &[(&str, PathBuf, &[&str])], scratch: &Path) -> Self {
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
        let mut facts: Vec<(String, String)> = facts.drain(..).map(|(name, value)| (name.to_owned(), value)).collect();
        facts.extend(programs.iter().map(|(name, program, words)| ((*name).to_owned(), first(program, words))));
        Self { facts }
    }

    /// Adds more of the same kind.
    pub(super) fn extend(&mut self, facts: impl IntoIterator<Item = (String, String)>) {
        self.facts.extend(facts);
    }

    /// As a table of Markdown, below a heading.
    pub(super) fn markdown(&self) -> String {
        let lines = self.facts.iter().map(|(name, value)| format!("| {name} | {value} |\n"));
        format!("\n## The machine\n\n| | |\n|---|---|\n{}", lines.collect::<String>())
    }

    pub(super) fn json(&self) -> Value {
        Value::Object(self.facts.iter().map(|(name, value)| (name.clone(), json!(value))).collect())
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

/// The rows as a table of Markdown, below how many goals are met.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut text =
        format!("{}.\n\n| work | ours | peer | ratio | goal | |\n|---|---|---|---|---|---|\n", verdict(rows));
    for row in rows {
        text.push_str(&format!("| {} |\n", row.cells().join(" | ")));
    }
    text
}

/// Writes a file of results.
pub(super) fn save(to: &Path, name: &str, text: &str) -> Outcome {
    let path = to.join(name);
    fs::create_dir_all(to).and_then(|()| fs::write(&path, text)).map_err(|cause| format!("{}: {cause}", path.display()))
}
