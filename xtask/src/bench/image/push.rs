//! A push of 1 GiB in eight layers to an empty registry.

use super::{
    Lab, payload,
    project::{Image, Project},
    remove,
};
use crate::{
    bench::{goals::Row, sample::Samples},
    shell::{Outcome, capture},
    testbed::Part,
};
use std::process::Command;

const LAYERS: u64 = 8;
const TOOLS: [&str; 3] = ["sealift", "crane", "skopeo"];

pub(super) fn measure(lab: &mut Lab) -> Outcome {
    let bytes = lab.options.scaled(1 << 30);
    let root = lab.folder("push")?;
    let app = root.join("app");
    std::fs::create_dir_all(&app).map_err(|cause| format!("{}: {cause}", app.display()))?;
    let mut files = Vec::new();
    for layer in 0..LAYERS {
        // A layer that travels with its own size, whoever compresses it.
        payload::noise(&app.join(format!("layer{layer}")), bytes / LAYERS, layer + 1)?;
        files.push(format!("{{ from = \"app/layer{layer}\", to = \"/layer{layer}\" }}"));
    }
    let build =
        format!("builder = \"oci\"\nbase = \"scratch\"\nfiles = [{}]\nentrypoint = [\"/layer0\"]\n", files.join(", "));
    let project = Project::new(&lab.tools, &root, &build, "")?;
    lab.say(&format!("building {} MiB in {LAYERS} layers", bytes >> 20));
    let image = project.image(&lab.tools)?;
    if image.layers.len() as u64 != LAYERS {
        return Err(format!("the image to push has {} layers and not {LAYERS}", image.layers.len()));
    }
    let mut figures = <[Samples; 3]>::default();
    // The first warms the page cache for all, and is not counted.
    for round in 0..=lab.options.rounds {
        for turn in 0..TOOLS.len() {
            let who = (round + turn) % TOOLS.len();
            // Empty for each: what is there would not be sent.
            let servers = lab.servers(&[Part::Registry])?;
            let registry = servers.registry()?;
            lab.say(&format!("round {round} of {}: push with {}", lab.options.rounds, TOOLS[who]));
            let sample = lab.time(TOOLS[who], &command(lab, TOOLS[who], &image, registry))?;
            arrived(lab, registry, &image)?;
            if round > 0 {
                figures[who].push(sample);
            }
        }
    }
    let work = format!("push {} MiB in {LAYERS} layers", bytes >> 20);
    let peers = [(TOOLS[1], &figures[1]), (TOOLS[2], &figures[2])];
    let faster = usize::from(peers[1].1.median() < peers[0].1.median());
    lab.add([Row::faster(&work, &figures[0], peers[faster], 1.0), Row::beside(&work, &figures[0], peers[1 - faster])]);
    for (tool, samples) in TOOLS.into_iter().zip(&figures) {
        lab.keep(format!("push: {tool}"), samples);
    }
    remove(&root)
}

fn command(lab: &Lab, tool: &str, image: &Image, registry: &str) -> Command {
    let layout = image.layout.display().to_string();
    let target = format!("{registry}/bench/large:edge");
    match tool {
        "crane" => {
            let mut command = lab.tools.command(&lab.tools.crane, &image.layout);
            command.args(["push", "--insecure", &layout, &target]);
            command
        }
        "skopeo" => {
            let mut command = lab.tools.command(&lab.tools.skopeo, &image.layout);
            command.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
            command.args([format!("oci:{layout}"), format!("docker://{target}")]);
            command
        }
        _ => lab.tools.push(&image.layout, &format!("{registry}/bench/large"), "edge"),
    }
}

/// Whether the registry has the very image: another digest would be another work.
fn arrived(lab: &Lab, registry: &str, image: &Image) -> Outcome {
    let mut command = lab.tools.command(&lab.tools.crane, &image.layout);
    let digest = capture(command.args(["digest", "--insecure", &format!("{registry}/bench/large:edge")]))?;
    if digest.trim() == image.digest {
        Ok(())
    } else {
        Err(format!("the registry has {} and not {}", digest.trim(), image.digest))
    }
}
