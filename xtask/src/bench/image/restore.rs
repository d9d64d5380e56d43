//! An image out of the store into a Docker Engine, beside `docker pull` of the same image from a registry on this machine.

use super::{Lab, payload, project::Project, remove};
use crate::{
    bench::{
        goals::Row,
        sample::{Sample, Samples},
    },
    shell::{Outcome, capture},
    testbed::Part,
};
use std::{fs, path::Path};

/// How an image comes into an engine.
const WAYS: [&str; 3] = ["sealift restore --into", "docker pull", "sealift restore and docker load"];

pub(super) fn measure(lab: &mut Lab) -> Outcome {
    let bytes = lab.options.scaled(500_000_000);
    let servers = lab.servers(&[Part::Docker, Part::DockerNewest, Part::Registry])?;
    let root = lab.folder("restore")?;
    payload::tree(&root.join("app/lib"), bytes, 1)?;
    let build =
        "builder = \"oci\"\nbase = \"scratch\"\nfiles = [{ from = \"app\", to = \"/app\" }]\nentrypoint = [\"/app\"]\n";
    let project = Project::new(&lab.tools, &root, build, "")?;
    lab.say("cutting the release that is restored");
    capture(&mut lab.tools.sealift(&root, &["keys", "new", "release"]))?;
    project.commit(&lab.tools)?;
    capture(&mut lab.tools.sealift(&root, &["release", "cut"]))?;
    let image = project.image(&lab.tools)?;
    let repository = format!("{}/bench/restore", servers.registry()?);
    capture(&mut lab.tools.push(&image.layout, &repository, "edge"))?;
    // What the build left on this disk would be taken instead of the store's.
    let cache = root.join(".sealift/cache");
    for (name, engine) in servers.engines()? {
        let mut samples: [Samples; 3] = Default::default();
        for round in 0..lab.options.rounds {
            for turn in 0..WAYS.len() {
                let way = (round + turn) % WAYS.len();
                lab.tools.empty(engine)?;
                lab.say(&format!("round {} of {}: into {name}", round + 1, lab.options.rounds));
                if cache.exists() {
                    remove(&cache)?;
                }
                let sample = match way {
                    0 => lab.time(WAYS[0], &lab.tools.sealift(&root, &["restore", "svc@1.0.0", "--into", engine]))?,
                    1 => {
                        let words = ["pull", "--quiet", &format!("{repository}:edge")];
                        lab.time(WAYS[1], &lab.tools.docker(engine, &root, &words))?
                    }
                    _ => restored(lab, &root, engine)?,
                };
                samples[way].push(sample);
                let held = capture(&mut lab.tools.docker(engine, &root, &["image", "ls", "--quiet"]))?;
                if held.trim().is_empty() {
                    return Err(format!("{name} has no image after it was brought there"));
                }
            }
        }
        let [into, pull, archive] = &samples;
        let work = format!("{} MB out of the store into {name}", bytes / 1_000_000);
        let by_archive = format!("{work}, by an archive");
        let peer = "docker pull from a registry of this machine";
        lab.add([Row::faster(&work, into, (peer, pull), 1.0), Row::beside(&by_archive, archive, (peer, pull))]);
        for (tool, samples) in WAYS.iter().zip(&samples) {
            lab.keep(format!("restore, {name}: {tool}"), samples);
        }
    }
    drop(servers);
    remove(&root)
}

/// `sealift restore` of the image alone, and `docker load` of the archive that it wrote.
fn restored(lab: &Lab, root: &Path, engine: &str) -> Outcome<Sample> {
    let archive = root.join("restored.tar");
    match fs::remove_file(&archive) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{}: {cause}", archive.display()));
        }
        _ => {}
    }
    let words = ["restore", "svc@1.0.0", "--image", "docker-archive", "--to", "restored.tar"];
    let restored = lab.time("sealift restore", &lab.tools.sealift(root, &words))?;
    let load = lab.tools.docker(engine, root, &["load", "--quiet", "--input", "restored.tar"]);
    Ok(restored.then(lab.time("docker load", &load)?))
}
