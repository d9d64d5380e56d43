//! A build by the classic builder of an engine that has no BuildKit: `POST /build` with the context as its body.
//!
//! Its cache makes the same context, Dockerfile, arguments and labels give the same image. It cannot label what single steps leave, so what a build
//! that ends early has made is remembered from its own words and removed ([`super::leftover`]).

use super::{Engine, Failed, LOG_LINES, Request, Stopped, causes, leftover::Leftover, lines::Lines, sending};
use crate::error::{Error, Result};
use bollard::{
    models::{BuildInfo, BuildInfoAux, ImageId},
    query_parameters::BuildImageOptions,
};
use domain::{Event, Events, event::Unit};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// What a build has said so far.
#[derive(Default)]
struct Progress {
    id: Option<String>,
    step: Option<String>,
    steps: u64,
    partial: Lines,
    log: VecDeque<String>,
    /// Images that it says it has made, not those that it took from its cache. A step may print such words too.
    made: Vec<String>,
    from_cache: bool,
}

/// Refuses what this builder cannot do.
pub(super) fn check(request: &Request<'_>, said: &str) -> Result<()> {
    let spec = request.spec;
    let asked = [
        ("secrets", !request.secrets.is_empty() || !spec.secrets.is_empty()),
        ("cache_to", !spec.cache_to.is_empty()),
        ("cache_from", spec.cache_from.iter().any(|one| one.contains('='))),
    ];
    let asked: Vec<&str> = asked.into_iter().filter(|(_, asked)| *asked).map(|(word, _)| word).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let what = format!(
        "the Docker Engine has no BuildKit (asked for a session it says {said:?}), and its classic builder knows no {}",
        asked.join(" and no ")
    );
    Err(Error::bad_with(
        what,
        "use a Docker Engine with BuildKit (20.10 and newer on Linux), or take these keys out of the build",
    ))
}

/// Builds, and gives the image's ID and the last lines.
pub(super) async fn build(
    engine: &Engine,
    request: &Request<'_>,
    leftover: &Leftover,
    events: &Events,
) -> Result<(String, Vec<String>)> {
    let spec = request.spec;
    let options = BuildImageOptions {
        dockerfile: spec.dockerfile.clone(),
        target: spec.target.clone().unwrap_or_default(),
        buildargs: Some(spec.args.clone().into_iter().collect()),
        labels: Some(request.labels.clone().into_iter().collect()),
        platform: request.platform.unwrap_or_default().to_owned(),
        cachefrom: Some(spec.cache_from.clone()).filter(|list| !list.is_empty()),
        nocache: spec.no_cache,
        rm: true,
        forcerm: true,
        ..BuildImageOptions::default()
    };
    let moved = Arc::new(AtomicU64::new(0));
    let (body, sending) = sending::send(request.context.clone(), events, moved.clone());
    let task = events.task("docker build", None, Unit::Items);
    let mut progress = Progress::default();
    let mut stream = engine.docker.build_image(options, None, Some(bollard::body_try_stream(body)));
    let outcome = loop {
        match engine.next(&mut stream, || moved.load(Ordering::Relaxed)).await {
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
            Ok(Some(info)) => {
                let before = progress.steps;
                let started = progress.take(info, events);
                progress.made.iter().for_each(|id| leftover.add(id));
                if started > before {
                    if before == 0 {
                        task.grow(progress.total());
                    }
                    task.advance(started - before);
                }
            }
        }
    };
    drop(stream);
    // What went wrong with the context explains what went wrong with the build, but a build may also end without reading all of it.
    if let Err(error @ Error::BadInput { .. }) = sending.end().await {
        return Err(error);
    }
    progress.end_line(events);
    let log: Vec<String> = progress.log.into();
    match (outcome, progress.id) {
        (Ok(()), Some(id)) => {
            task.finish(id.clone());
            Ok((id, log))
        }
        (Ok(()), None) => Err(engine.failed(Failed::Lost("its stream ended".to_owned()), progress.step, log, request)),
        (Err(stopped), _) => Err(engine.failed(why(stopped), progress.step, log, request)),
    }
}

/// Whether the build is at fault or the engine.
fn why(stopped: Stopped<bollard::errors::Error>) -> Failed {
    use bollard::errors::Error as Bollard;
    match stopped {
        Stopped::Silent(cause) => Failed::Lost(cause),
        Stopped::Failed(Bollard::DockerStreamError { error }) => Failed::Build(error),
        Stopped::Failed(Bollard::DockerResponseServerError { status_code: 400..=499, message }) => {
            Failed::Build(message)
        }
        Stopped::Failed(other) => Failed::Lost(causes(&other)),
    }
}

impl Progress {
    /// Takes one message and returns the number of steps that have begun.
    fn take(&mut self, info: BuildInfo, events: &Events) -> u64 {
        if let Some(BuildInfoAux::Default(ImageId { id: Some(id) })) = info.aux {
            self.id = Some(id);
        }
        if let Some(status) = info.status {
            // Progress of a pull is many lines a second; its ends are enough.
            if info.progress_detail.is_none_or(|detail| detail.total.is_none()) {
                let subject = info.id.map(|id| format!("{id}: ")).unwrap_or_default();
                self.line(format!("{subject}{status}"), events);
            }
        }
        for line in self.partial.take(info.stream.unwrap_or_default().as_bytes()) {
            self.line(line.text, events);
        }
        self.steps
    }

    fn line(&mut self, line: String, events: &Events) {
        if line.trim().is_empty() {
            return;
        }
        if line.starts_with("Step ") && line.contains(" : ") {
            self.steps += 1;
            self.step = Some(line.clone());
            // The first step is the base, which was there before.
            self.from_cache = line.contains(" : FROM ");
        }
        match line.strip_prefix(" ---> ").map(str::trim) {
            Some("Using cache") => self.from_cache = true,
            Some(id) if id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && !self.from_cache => {
                self.made.push(id.to_owned());
            }
            _ => {}
        }
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(line.clone());
        events.emit(Event::Output { source: "docker build".to_owned(), line });
    }

    fn end_line(&mut self, events: &Events) {
        let rest = self.partial.end();
        self.line(rest.text, events);
    }

    /// How many steps the first step said there are.
    fn total(&self) -> u64 {
        let of = self.step.as_deref().and_then(|step| step.split_once('/')).map(|(_, rest)| rest);
        of.and_then(|rest| rest.split(' ').next()).and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}
