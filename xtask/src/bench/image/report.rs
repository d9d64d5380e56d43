//! The figures as JSON and as Markdown.

use super::Lab;
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

const TEXT: &str = "\
Each figure is the median of interleaved runs on the same machine, with the fastest and the slowest, the time of processors in the \
tool's own process (not the engine's and not the registry's, which do most of Docker's work) and the peak of its resident memory. \
A tool is timed from its start to its end, each step of its work as a process of its own, with everything written to disk that ran \
before. Engines and registries are private to each part of the bench, on this machine, over loopback; the docker CLI builds with \
BuildKit.

What is compared with what:

- **One changed file**: `sealift build` with the builder `oci` and then a push as a release does it, against `docker build` and \
`docker push` of the same files to the same registry. About half of each file compresses well. Once all files come as one folder \
(`COPY . /app`), and once libraries (nine tenths) come before sources, as those write a Dockerfile who know how layers are kept; \
the file that changes is one of the sources. Bytes are those of request bodies, counted by a proxy in a run of its own; the goal \
is the layer that changed and 64 KiB.
- **Cold build**: nothing in the engine, no cache. Sealift ends with the image verified on the disk; `docker build` ends with it in \
the engine. `docker build` and `docker save` do the same work, and the goal is against both; the build alone is there for those who \
want to know what the export costs. The Dockerfile copies 60 MB, and compresses and hashes them for some seconds.
- **Push**: 1 GiB that cannot be compressed, in eight layers, from the same OCI layout to an empty registry for each run, and the \
digest asked for afterwards. The goal is against the faster one of crane and skopeo.
- **Restore**: `sealift restore --into ENGINE` straight out of the embedded store, every signature and digest verified, against \
`docker pull` of the same image from a registry on the same machine, into an empty engine; and, without a goal, `sealift restore \
--image docker-archive` with `docker load` of the archive that it wrote.
- **Built again**: ten builds each in a fresh copy of the repository, on two paths of different length, with other modification times, \
order of creation, umask, time zone and locale, and no cache; `nix` with an empty Nix store each time. The time of the commit is the \
only clock that a build may see.
";

/// What one tool said to the registry for one work, as the proxy counted it.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    pub(super) tool: String,
    pub(super) work: String,
    pub(super) counted: Counted,
}

impl Traffic {
    fn line(&self) -> String {
        let Counted { requests, sent, received } = self.counted;
        format!("| {} | {} | {requests} | {sent} | {received} |\n", self.work, self.tool)
    }

    fn json(&self) -> Value {
        let Counted { requests, sent, received } = self.counted;
        json!({ "work": self.work, "tool": self.tool, "requests": requests, "sent": sent, "received": received })
    }
}

/// Writes `image.md` and `image.json`.
pub(super) fn write(to: &Path, lab: &Lab) -> Outcome {
    let tools = &lab.tools;
    let programs: [(&str, std::path::PathBuf, &[&str]); 5] = [
        ("sealift", tools.sealift.clone(), &["--version"]),
        ("docker CLI", tools.docker.clone(), &["--version"]),
        ("crane", tools.crane.clone(), &["version"]),
        ("skopeo", tools.skopeo.clone(), &["--version"]),
        ("nix", tools.nix.clone(), &["--version"]),
    ];
    let mut machine = Machine::look(&programs, lab.scratch.path());
    machine.extend(lab.provided.iter().map(|one| (format!("part {}", one.part.name()), one.source.clone())));
    let mut text =
        format!("# Images: what Sealift takes beside its peers\n\nMade by `{}`. {TEXT}\n", lab.options.words());
    text.push_str(&table::markdown(&lab.rows));
    if !lab.traffic.is_empty() {
        text.push_str(
            "\n## Requests and bytes\n\nSent are bodies of requests; received are whole answers.\n\n\
             | work | tool | requests | bytes sent | bytes received |\n|---|---|---:|---:|---:|\n",
        );
        text.extend(lab.traffic.iter().map(Traffic::line));
    }
    text.push_str(&machine.markdown());
    table::save(to, "image.md", &text)?;
    let whole = json!({
        "machine": machine.json(),
        "goals": lab.rows.iter().map(Row::json).collect::<Vec<_>>(),
        "traffic": lab.traffic.iter().map(Traffic::json).collect::<Vec<_>>(),
        "figures": lab.figures,
    });
    table::save(to, "image.json", &format!("{whole:#}\n"))
}
