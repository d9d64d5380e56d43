//! The figures as a table, as JSON and as Markdown, with the machine that they were made on.

use super::{Programs, tools::Tool};
use crate::{
    bench::{
        goals::Row,
        proxy::Counted,
        table::{self, Machine},
    },
    shell::Outcome,
};
use serde_json::{Value, json};
use std::path::Path;

/// The machine and the tools of this bench.
pub(super) fn machine(programs: &Programs, scratch: &Path) -> Machine {
    let tool = |tool: Tool, words: &'static [&'static str]| (tool.name(), programs.of(tool).to_owned(), words);
    let tools = [
        tool(Tool::Sealift, &["--version"]),
        tool(Tool::Dvc, &["--version"]),
        tool(Tool::Restic, &["version"]),
        tool(Tool::S5cmd, &["version"]),
        tool(Tool::Rclone, &["version"]),
    ];
    Machine::look(&tools, scratch)
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
    let mut text = format!(
        "# Data: what Sealift takes beside its peers\n\nMade by `{how}`. Each figure is the median of interleaved runs on the same \
         server (MinIO, unless said otherwise) on the same machine, with the fastest and the slowest, the time of processors in the tool's \
         own process (not the server's) and the peak of resident memory. A tool is timed from its start to its end, a Python's start included. \
         Each begins in a fresh repository below a fresh prefix, with its data just copied (so in the page cache), no cache of its own and \
         everything written to disk that ran before. dvc, restic and s5cmd run with their defaults, dvc once more with 64 jobs, and rclone \
         with 64 transfers; restic's backup is its add and its push in one. Pull removes the tree and every cache first. \
         Requests and bytes are counted by a proxy in runs of their own.\n\n{}",
        table::markdown(rows)
    );
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
    text.push_str(&machine.markdown());
    table::save(to, "data.md", &text)?;
    let whole = json!({
        "machine": machine.json(),
        "goals": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "traffic": traffic.iter().map(Traffic::json).collect::<Vec<_>>(),
        "figures": figures,
    });
    table::save(to, "data.json", &format!("{whole:#}\n"))?;
    plots.iter().try_for_each(|(name, svg)| table::save(to, name, svg))
}
