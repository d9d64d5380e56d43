//! A cold build of a Dockerfile: through the builder `docker`, and with the docker CLI, on both engines.
//!
//! Sealift ends with the image verified on this disk, out of the engine's hands; `docker build` leaves it in the engine. What does
//! the same work is `docker build` and then `docker save`, and the goal is against these two; the build alone is shown as well.

use super::{Lab, payload, project::Project, remove};
use crate::{
    bench::{goals::Row, sample::Samples},
    shell::Outcome,
    testbed::Part,
};
use std::fs;

/// Twelve seconds of work for one processor, and what it makes: a small compilation, as far as an engine can tell.
const DOCKERFILE: &str = r#"FROM scratch
COPY busybox /bin/busybox
COPY src /src
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox tar -c /src | /bin/busybox gzip -9 > /src.tar.gz"]
RUN ["/bin/busybox", "sh", "-c", "for n in 1 2 3 4 5 6 7 8; do /bin/busybox cat /src/*/* | /bin/busybox sha512sum; done > /sums"]
CMD ["/bin/busybox", "sha512sum", "/src.tar.gz"]
"#;

/// What may be added to the time of the docker CLI.
const OVERHEAD: f64 = 0.05;

pub(super) fn measure(lab: &mut Lab) -> Outcome {
    let servers = lab.servers(&[Part::Docker, Part::DockerNewest])?;
    let root = lab.folder("cold")?;
    let app = root.join("app");
    let bytes = lab.options.scaled(60_000_000);
    payload::tree(&app.join("src"), bytes, 1)?;
    let dockerfile = app.join("Dockerfile");
    fs::write(&dockerfile, DOCKERFILE).map_err(|cause| format!("{}: {cause}", dockerfile.display()))?;
    let busybox = app.join("busybox");
    fs::copy("/bin/busybox", &busybox).map_err(|cause| format!("busybox: {cause}"))?;
    let project = Project::new(&lab.tools, &root, "builder = \"docker\"\ncontext = \"app\"\n", "")?;
    let saved = root.join("saved.tar");
    let saved_name = saved.display().to_string();
    for (name, engine) in servers.engines()? {
        project.configure(&format!("builder = \"docker\"\ncontext = \"app\"\nengine = \"{engine}\"\n"), "")?;
        let (mut ours, mut builds, mut saves) = (Samples::default(), Samples::default(), Samples::default());
        for round in 0..lab.options.rounds {
            for turn in 0..2 {
                lab.tools.empty(engine)?;
                lab.say(&format!("round {} of {}: {name}, cold", round + 1, lab.options.rounds));
                if (round + turn) % 2 == 0 {
                    remove_if_there(&root.join(".sealift"))?;
                    ours.push(lab.time("sealift build", &project.build(&lab.tools))?);
                } else {
                    let docker = |words: &[&str]| lab.tools.docker(engine, &app, words);
                    builds.push(lab.time("docker build", &docker(&["build", "--quiet", "--tag", "cold", "."]))?);
                    saves.push(lab.time("docker save", &docker(&["save", "--output", &saved_name, "cold"]))?);
                    fs::remove_file(&saved).map_err(|cause| format!("{}: {cause}", saved.display()))?;
                }
            }
        }
        let work = format!("cold build of a Dockerfile, {name}");
        let both = builds.with(&saves);
        lab.add([
            Row::overhead(&work, &ours, ("docker build and save", &both), OVERHEAD),
            Row::beside(&work, &ours, ("docker build", &builds)),
        ]);
        for (tool, samples) in [("sealift", &ours), ("docker build", &builds), ("docker save", &saves)] {
            lab.keep(format!("cold, {name}: {tool}"), samples);
        }
    }
    drop(servers);
    remove(&root)
}

fn remove_if_there(folder: &std::path::Path) -> Outcome {
    if folder.exists() { remove(folder) } else { Ok(()) }
}
