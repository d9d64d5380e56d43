//! One JSON object a line, for programs. Progress of a task is thinned out to a few lines a second.

use super::Draw;
use domain::Event;
use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, Instant},
};

/// The least time between two lines about the progress of one task.
const PAUSE: Duration = Duration::from_millis(200);

/// The renderer.
pub(super) struct NdJson<W> {
    out: W,
    said: BTreeMap<u64, Instant>,
}

impl<W: Write + Send> NdJson<W> {
    /// Writes to `out`.
    pub(super) fn new(out: W) -> Self {
        Self { out, said: BTreeMap::new() }
    }
}

impl<W: Write + Send> Draw for NdJson<W> {
    fn event(&mut self, event: Event, now: Instant) {
        match &event {
            Event::TaskAdvanced { task, .. } => {
                if self.said.get(task).is_some_and(|said| now.duration_since(*said) < PAUSE) {
                    return;
                }
                self.said.insert(*task, now);
            }
            Event::TaskFinished { task, .. } => drop(self.said.remove(task)),
            _ => {}
        }
        if let Ok(line) = serde_json::to_string(&event) {
            let _ = writeln!(self.out, "{line}");
        }
    }

    fn tick(&mut self, _: Instant) {}

    fn finish(&mut self) {
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::event::Unit;
    use expect_test::expect;

    #[test]
    fn one_object_a_line_and_not_every_advance() {
        let mut out = Vec::new();
        let mut json = NdJson { out: &mut out, said: BTreeMap::new() };
        let now = Instant::now();
        json.event(Event::TaskStarted { task: 1, name: "push".into(), total: Some(9), unit: Unit::Bytes }, now);
        for done in 1..9 {
            json.event(Event::TaskAdvanced { task: 1, done, total: Some(9) }, now + Duration::from_millis(30 * done));
        }
        json.event(Event::TaskFinished { task: 1, ok: true, summary: "done".into() }, now);
        json.event(Event::Note { text: "a\nb".into() }, now);
        expect![[r#"
            {"event":"task-started","task":1,"name":"push","total":9,"unit":"bytes"}
            {"event":"task-advanced","task":1,"done":1,"total":9}
            {"event":"task-advanced","task":1,"done":8,"total":9}
            {"event":"task-finished","task":1,"ok":true,"summary":"done"}
            {"event":"note","text":"a\nb"}
        "#]]
        .assert_eq(&String::from_utf8(out).unwrap());
    }
}
