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
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        for round in 0..lab.options.rounds {
            for turn in 0..2 {
                lab.tools.empty(engine)?;
                lab.say(&format!("round {} of {}: into {name}", round + 1, lab.options.rounds));
                if (round + turn) % 2 == 0 {
                    if cache.exists() {
                        remove(&cache)?;
                    }
                    ours.push(restored(lab, &root, engine)?);
                } else {
                    let pull = lab.tools.docker(engine, &root, &["pull", "--quiet", &format!("{repository}:edge")]);
                    theirs.push(lab.time("docker pull", &pull)?);
                }
                let held = capture(&mut lab.tools.docker(engine, &root, &["image", "ls", "--quiet"]))?;
                if held.trim().is_empty() {
                    return Err(format!("{name} has no image after it was brought there"));
                }
            }
        }
        let work = format!("{} MB out of the store into {name}", bytes / 1_000_000);
        lab.add([Row::faster(&work, &ours, ("docker pull from a registry of this machine", &theirs), 1.0)]);
        for (tool, samples) in [("sealift", &ours), ("docker pull", &theirs)] {
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
