//! What BuildKit says while it builds: vertexes (steps) that begin, end or fail, and what they print.

use super::{
    LOG_LINES,
    lines::{Line, Lines},
    redact::Redactor,
};
use bollard::moby::buildkit::v1::{StatusResponse, Vertex};
use domain::{
    Event, Events,
    event::{Task, Unit},
};
use std::collections::{HashMap, HashSet, VecDeque};

/// A step as it stands.
#[derive(Default)]
struct Step {
    name: String,
    started: bool,
    completed: bool,
    error: String,
    /// What it printed and has not ended with a newline, for each of its streams.
    partial: HashMap<i64, Lines>,
    log: VecDeque<String>,
}

/// What a build has said so far. Nothing leaves it unredacted.
pub(super) struct Progress {
    events: Events,
    redactor: Redactor,
    task: Task,
    steps: HashMap<String, Step>,
    /// The step that began last and has not ended.
    latest: Option<String>,
    /// What was fetched or written and is told once, at its end.
    told: HashSet<String>,
    log: VecDeque<String>,
}

fn keep(log: &mut VecDeque<String>, line: String) {
    if log.len() == LOG_LINES {
        log.pop_front();
    }
    log.push_back(line);
}

/// A step that was stopped because another failed says this.
fn was_stopped(error: &str) -> bool {
    error.contains("context canceled") || error.contains("context cancelled")
}

impl Progress {
    pub(super) fn new(events: &Events, redactor: Redactor) -> Self {
        Self {
            events: events.clone(),
            redactor,
            task: events.task("docker build", None, Unit::Items),
            steps: HashMap::new(),
            latest: None,
            told: HashSet::new(),
            log: VecDeque::new(),
        }
    }

    pub(super) fn take(&mut self, status: StatusResponse) {
        for vertex in status.vertexes {
            self.vertex(vertex);
        }
        for item in status.statuses {
            // Progress of a transfer is many messages a second; its end is enough.
            if item.completed.is_some() && self.told.insert(format!("{} {}", item.vertex, item.id)) {
                self.line(&item.id);
            }
        }
        for log in status.logs {
            let step = self.steps.entry(log.vertex.clone()).or_default();
            for line in step.partial.entry(log.stream).or_default().take(&log.msg) {
                self.printed(&log.vertex, &line);
            }
        }
        for warning in status.warnings {
            let text = self.redactor.clean(&String::from_utf8_lossy(&warning.short));
            self.events.warn(format!("docker build: {text}"));
        }
    }

    fn vertex(&mut self, vertex: Vertex) {
        if !self.steps.contains_key(&vertex.digest) {
            self.task.grow(1);
        }
        let name = self.redactor.clean(&vertex.name);
        let step = self.steps.entry(vertex.digest.clone()).or_default();
        let started = vertex.started.is_some() && !step.started;
        let completed = vertex.completed.is_some() && !step.completed;
        step.started |= started;
        step.completed |= completed;
        step.name.clone_from(&name);
        if !vertex.error.is_empty() {
            step.error.clone_from(&vertex.error);
        }
        if started {
            self.latest = Some(vertex.digest.clone());
            self.line(&name);
        }
        if completed {
            self.end_lines(&vertex.digest);
            self.task.advance(1);
            if vertex.cached {
                self.line(&format!("{name}: cached"));
            }
        }
        if !vertex.error.is_empty() && completed && !was_stopped(&vertex.error) {
            self.line(&format!("{name}: {}", vertex.error));
        }
    }

    /// What stands without a newline at the end is a line too.
    fn end_lines(&mut self, digest: &str) {
        let partial = self.steps.get_mut(digest).map(|step| std::mem::take(&mut step.partial)).unwrap_or_default();
        for mut rest in partial.into_values() {
            self.printed(digest, &rest.end());
        }
    }

    fn printed(&mut self, step: &str, line: &Line) {
        let text = if line.cut { self.redactor.clean_cut(&line.text) } else { self.redactor.clean(&line.text) };
        self.tell(Some(step), text);
    }

    fn line(&mut self, line: &str) {
        self.tell(None, self.redactor.clean(line));
    }

    /// Takes a line that has no secret any more.
    fn tell(&mut self, step: Option<&str>, line: String) {
        if line.trim().is_empty() {
            return;
        }
        if let Some(step) = step.and_then(|digest| self.steps.get_mut(digest)) {
            keep(&mut step.log, line.clone());
        }
        keep(&mut self.log, line.clone());
        self.events.emit(Event::Output { source: "docker build".to_owned(), line });
    }

    /// The build made an image; its last lines.
    pub(super) fn finish(self, summary: String) -> Vec<String> {
        self.task.finish(summary);
        self.log.into()
    }

    /// The step that failed, or was at work, and its last lines, or the build's.
    pub(super) fn end(mut self) -> (Option<String>, Vec<String>) {
        let digests: Vec<String> = self.steps.keys().cloned().collect();
        digests.iter().for_each(|digest| self.end_lines(digest));
        let failed = self.steps.values().find(|step| !step.error.is_empty() && !was_stopped(&step.error));
        let at = failed.or_else(|| {
            let latest = self.latest.as_ref().and_then(|digest| self.steps.get(digest));
            latest.filter(|step| !step.completed || !step.error.is_empty())
        });
        let name = at.map(|step| step.name.clone());
        let log = at.map(|step| &step.log).filter(|log| !log.is_empty()).unwrap_or(&self.log);
        (name, log.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::moby::buildkit::v1::VertexLog;
    use domain::secret::Secret;
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<String>>>);

    impl domain::EventSink for Told {
        fn emit(&self, event: Event) {
            if let Event::Output { line, .. } = event {
                self.0.lock().unwrap().push(line);
            }
        }
    }

    #[test]
    fn a_secret_at_the_end_of_a_line_that_is_too_long_is_not_told_in_part() {
        let secrets = BTreeMap::from([("token".to_owned(), Secret::new("hunter2-long"))]);
        let told = Told::default();
        let mut progress = Progress::new(&Events::new(told.clone()), Redactor::new(&secrets));
        let msg = format!("{}hunter2-long and more\nhunter2-long\n", "x".repeat(super::super::lines::LINE_LIMIT - 5));
        let log = VertexLog { vertex: "sha256:a".to_owned(), msg: msg.into_bytes(), ..VertexLog::default() };
        progress.take(StatusResponse { logs: vec![log], ..StatusResponse::default() });
        let (_, log) = progress.end();
        let told = told.0.lock().unwrap().clone();
        assert_eq!(told, ["x".repeat(super::super::lines::LINE_LIMIT - 5), "[redacted]".to_owned()]);
        assert_eq!(log, told);
    }
}
