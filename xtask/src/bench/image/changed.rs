//! One file of 500 MB changes: building and pushing again, with the builder `oci` and with both Docker Engines.

use super::{
    Lab, Servers,
    payload::{self, FILE},
    project::{Image, Project},
    remove,
    report::Traffic,
};
use crate::{
    bench::{
        goals::Row,
        proxy::{Counted, Proxy},
        sample::{Sample, Samples},
    },
    shell::{Outcome, capture},
    testbed::Part,
};
use std::{path::PathBuf, time::Duration};

/// What may be sent besides the layer that changed: configuration, manifest, and questions.
const BESIDES: u64 = 64 << 10;

/// How the files are brought into the image.
struct Shape {
    name: &'static str,
    files: &'static str,
    dockerfile: &'static str,
}

const SHAPES: [Shape; 2] = [
    Shape { name: "one folder", files: r#"{ from = "app", to = "/app" }"#, dockerfile: "FROM scratch\nCOPY . /app\n" },
    // As those do who know how layers are kept.
    Shape {
        name: "libraries before sources",
        files: r#"{ from = "app/lib", to = "/app/lib" }, { from = "app/src", to = "/app/src" }"#,
        dockerfile: "FROM scratch\nCOPY lib /app/lib\nCOPY src /app/src\n",
    },
];

pub(super) fn measure(lab: &mut Lab) -> Outcome {
    SHAPES.iter().try_for_each(|shape| one(lab, shape))
}

/// The place of work of one shape.
struct Work<'a> {
    lab: &'a Lab,
    servers: &'a Servers,
    project: Project,
    app: PathBuf,
    dockerfile: String,
    changes: u64,
}

impl Work<'_> {
    fn change(&mut self) -> Outcome {
        self.changes += 1;
        payload::write(&self.app.join("src/part000/file00001"), FILE, 1_000_000 + self.changes)
    }

    /// Builds and pushes with Sealift.
    fn ours(&self, registry: &str) -> Outcome<(Sample, Image)> {
        let built = self.lab.time("sealift build", &self.project.build(&self.lab.tools))?;
        let image = self.project.image(&self.lab.tools)?;
        let push = self.lab.tools.push(&image.layout, &format!("{registry}/bench/ours"), "edge");
        Ok((built.then(self.lab.time("push", &push)?), image))
    }

    /// Builds and pushes with the docker CLI.
    fn theirs(&self, name: &str, engine: &str, registry: &str) -> Outcome<Sample> {
        let image = format!("{registry}/bench/{}:edge", name.to_lowercase().replace(' ', "-"));
        let build = ["build", "--quiet", "--tag", &image, "--file", &self.dockerfile, "."];
        let tools = &self.lab.tools;
        let built = self.lab.time(&format!("{name}: docker build"), &tools.docker(engine, &self.app, &build))?;
        let push = tools.docker(engine, &self.app, &["push", "--quiet", &image]);
        Ok(built.then(self.lab.time(&format!("{name}: docker push"), &push)?))
    }

    /// Each builds and pushes once, another first in each round.
    fn round(&self, round: usize, into: &mut [Samples; 3]) -> Outcome {
        let (registry, engines) = (self.servers.registry()?, self.servers.engines()?);
        for turn in 0..3 {
            let who = (round + turn) % 3;
            let sample = match who {
                0 => self.ours(registry)?.0,
                other => self.theirs(engines[other - 1].0, engines[other - 1].1, registry)?,
            };
            into[who].push(sample);
        }
        Ok(())
    }
}

fn one(lab: &mut Lab, shape: &Shape) -> Outcome {
    let bytes = lab.options.scaled(500_000_000);
    let servers = lab.servers(&[Part::Docker, Part::DockerNewest, Part::Registry])?;
    let root = lab.folder("changed")?;
    let app = root.join("app");
    lab.say(&format!("writing {} MB: {}", bytes / 1_000_000, shape.name));
    payload::tree(&app.join("lib"), bytes / 10 * 9, 1)?;
    payload::tree(&app.join("src"), bytes / 10, 500_000)?;
    let build = format!("builder = \"oci\"\nbase = \"scratch\"\nfiles = [{}]\nentrypoint = [\"/app\"]\n", shape.files);
    let project = Project::new(&lab.tools, &root, &build, "")?;
    // Beside the context, not in it.
    project.write("Dockerfile", shape.dockerfile)?;
    let dockerfile = root.join("Dockerfile").display().to_string();
    let (mut first, mut again) = (<[Samples; 3]>::default(), <[Samples; 3]>::default());
    let sent = {
        let mut work = Work { lab, servers: &servers, project, app, dockerfile, changes: 0 };
        work.round(0, &mut first)?;
        for round in 0..lab.options.rounds {
            lab.say(&format!("round {} of {}: one file changes", round + 1, lab.options.rounds));
            work.change()?;
            work.round(round, &mut again)?;
        }
        count(&mut work)?
    };
    rows(lab, shape, bytes, (&first, &again), &sent);
    drop(servers);
    remove(&root)
}

/// What is sent for one more change.
struct Sent {
    /// The layers that are new.
    layer: u64,
    ours: Counted,
    theirs: [(&'static str, Counted); 2],
}

fn count(work: &mut Work<'_>) -> Outcome<Sent> {
    work.lab.say("counting what is sent for one changed file");
    let registry = work.servers.registry()?;
    let upstream = registry.parse().map_err(|cause| format!("{registry}: {cause}"))?;
    let before = work.project.image(&work.lab.tools)?;
    work.change()?;
    capture(&mut work.project.build(&work.lab.tools))?;
    let image = work.project.image(&work.lab.tools)?;
    let proxy = Proxy::start(upstream, Duration::ZERO)?;
    let through = proxy.address().to_string();
    capture(&mut work.lab.tools.push(&image.layout, &format!("{through}/bench/ours"), "edge"))?;
    let ours = proxy.take();
    let mut theirs = [("", Counted::default()); 2];
    for (slot, (name, engine)) in theirs.iter_mut().zip(work.servers.engines()?) {
        work.theirs(name, engine, &through)?;
        *slot = (name, proxy.take());
    }
    Ok(Sent { layer: image.newer_than(&before), ours, theirs })
}

fn rows(lab: &mut Lab, shape: &Shape, bytes: u64, (first, again): (&[Samples; 3], &[Samples; 3]), sent: &Sent) {
    let names = ["docker build and push, 20.10", "docker build and push, newest"];
    let what = format!("one changed file in {} MB ({})", bytes / 1_000_000, shape.name);
    let mut rows = Vec::new();
    for (peer, name) in names.into_iter().enumerate() {
        rows.push(Row::faster(&format!("{what}: build and push"), &again[0], (name, &again[peer + 1]), 5.0));
    }
    let mut row = Row::at_most("bytes sent for it", sent.ours.sent, "MiB", sent.layer + BESIDES);
    let mebibytes = |bytes: u64| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
    row.peer = sent
        .theirs
        .iter()
        .map(|(name, counted)| format!("{name} {}", mebibytes(counted.sent)))
        .collect::<Vec<_>>()
        .join(", ");
    rows.push(row);
    for (peer, name) in names.into_iter().enumerate() {
        let work = format!("the first time ({}): build and push", shape.name);
        rows.push(Row::beside(&work, &first[0], (name, &first[peer + 1])));
    }
    lab.add(rows);
    let work = format!("push of one changed file ({})", shape.name);
    let line = |tool: &str, counted| Traffic { tool: tool.to_owned(), work: work.clone(), counted };
    lab.traffic.push(line("sealift", sent.ours));
    lab.traffic.extend(sent.theirs.iter().map(|(name, counted)| line(name, *counted)));
    for (name, samples) in ["sealift", names[0], names[1]].into_iter().zip(again) {
        lab.keep(format!("changed, {}: {name}", shape.name), samples);
    }
}
