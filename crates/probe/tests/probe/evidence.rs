use crate::{get, server::Server};
use domain::{
    Event, EventSink, Events,
    gate::{Measurement, Source, Statistic, Verdict},
};
use jiff::{SignedDuration, Timestamp};
use probe::{Context, measure};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

struct Bench {
    dir: tempfile::TempDir,
    lines: Arc<Mutex<Vec<String>>>,
}

struct Lines(Arc<Mutex<Vec<String>>>);
impl EventSink for Lines {
    fn emit(&self, event: Event) {
        if let Event::Output { line, .. } = event {
            self.0.lock().unwrap().push(line);
        }
    }
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), lines: Arc::default() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path().join("report.json"), text).unwrap();
    }

    async fn measure(&self, source: &Source) -> Measurement {
        let context = Context {
            url: "http://127.0.0.1:1".into(),
            environment: "staging".into(),
            component: "wine".into(),
            release: "wine@1.0.0".into(),
            repository: self.path().to_owned(),
            image: None,
            identities: Vec::new(),
        };
        measure("http://127.0.0.1:1", &context, source, &[], Timestamp::now, &Events::new(Lines(self.lines.clone())))
            .await
    }

    /// Why there is no evidence.
    async fn missing(&self, source: &Source) -> String {
        match self.measure(source).await {
            Measurement::Missing { why } => why,
            other => panic!("evidence was found: {other:?}"),
        }
    }
}

fn shell(script: &str) -> Vec<String> {
    vec!["sh".into(), "-c".into(), script.into()]
}

fn report(samples: Option<&str>, created: Option<&str>, run: Option<&str>) -> Source {
    Source::Report {
        path: "report.json".into(),
        value: "/metrics/accuracy".into(),
        samples: samples.map(Into::into),
        created: created.map(Into::into),
        run: run.map(shell),
        timeout: Duration::from_secs(20),
    }
}

fn command(script: &str, timeout: Duration) -> Source {
    Source::Command { run: shell(script), timeout }
}

#[tokio::test]
async fn a_report_is_read_with_its_samples_and_time() {
    let bench = Bench::new();
    bench.write(r#"{"metrics": {"accuracy": 0.91}, "n": 400, "made": "2024-05-01T10:00:00Z"}"#);
    let found = bench.measure(&report(Some("/n"), Some("/made"), None)).await;
    let Measurement::Value { value, samples, at, .. } = found else { panic!("{found:?}") };
    assert_eq!((value, samples, at), (0.91, 400, "2024-05-01T10:00:00Z".parse().unwrap()));
    let found = bench.measure(&report(None, None, None)).await;
    let Measurement::Value { samples: 1, at, .. } = found else { panic!("{found:?}") };
    assert!(at.duration_until(Timestamp::now()) < SignedDuration::from_mins(5), "the file's own time");
}

#[tokio::test]
async fn what_a_report_does_not_say_is_missing() {
    let bench = Bench::new();
    let plain = report(None, None, None);
    assert!(bench.missing(&plain).await.contains("report.json cannot be read"));
    for (text, words) in [
        (r#"{"metrics": {"accuracy": NaN}}"#, "is not JSON"),
        (r#"{"metrics": {"accuracy": "NaN"}}"#, "no number at /metrics/accuracy but \"NaN\""),
        (r#"{"metrics": {"accuracy": null}}"#, "no number at /metrics/accuracy but null"),
        (r#"{"metrics": {}}"#, "nothing at /metrics/accuracy"),
        ("", "is not JSON"),
    ] {
        bench.write(text);
        let why = bench.missing(&plain).await;
        assert!(why.contains(words), "{text}: {why}");
    }
    bench.write(r#"{"metrics": {"accuracy": 1}, "n": 1.5, "made": "yesterday", "late": "2999-01-01T00:00:00Z"}"#);
    assert!(bench.missing(&report(Some("/n"), None, None)).await.contains("number of samples"));
    assert!(bench.missing(&report(Some("/other"), None, None)).await.contains("nothing at /other"));
    assert!(bench.missing(&report(None, Some("/made"), None)).await.contains("RFC 3339"));
    assert!(bench.missing(&report(None, Some("/late"), None)).await.contains("in the future"));
}

#[tokio::test]
async fn a_report_that_its_command_did_not_make_is_stale() {
    let bench = Bench::new();
    bench.write(r#"{"metrics": {"accuracy": 0.9}, "made": "2024-05-01T10:00:00Z"}"#);
    let why = bench.missing(&report(None, None, Some("true"))).await;
    assert!(why.contains("report.json is stale"), "{why}");
    let rewrites = r#"echo '{"metrics": {"accuracy": 0.8}, "made": "2024-05-01T10:00:00Z"}' > report.json"#;
    let why = bench.missing(&report(None, Some("/made"), Some(rewrites))).await;
    assert!(why.contains("stale") && why.contains("2024-05-01"), "{why}");
    // Of another length, since two writes within one tick of the file system's clock look alike otherwise.
    let again = r#"echo '{"metrics": {"accuracy": 0.75}}' > report.json"#;
    let found = bench.measure(&report(None, None, Some(again))).await;
    assert!(matches!(found, Measurement::Value { value: 0.75, .. }), "{found:?}");
}

#[tokio::test]
async fn a_command_that_fails_makes_no_report() {
    let bench = Bench::new();
    bench.write(r#"{"metrics": {"accuracy": 0.9}}"#);
    let why = bench.missing(&report(None, None, Some("echo out of grapes >&2; exit 4"))).await;
    assert!(why.contains("exit status: 4") && why.contains("out of grapes"), "{why}");
    let Source::Report { run, .. } = &mut report(None, None, None) else { unreachable!() };
    *run = Some(vec!["nowhere-to-be-found".into()]);
    let source = Source::Command { run: run.clone().unwrap(), timeout: Duration::from_secs(1) };
    assert!(bench.missing(&source).await.contains("nowhere-to-be-found cannot be run"));
}

#[tokio::test]
async fn a_command_judges_by_its_exit_code_and_sees_what_it_judges() {
    let bench = Bench::new();
    let table = [(0, Verdict::Ok), (1, Verdict::Warn), (2, Verdict::Crit), (3, Verdict::Inconclusive)];
    for (code, expected) in table {
        let script = format!("echo $SEALIFT_URL $SEALIFT_ENVIRONMENT $SEALIFT_COMPONENT $SEALIFT_RELEASE; exit {code}");
        let found = bench.measure(&command(&script, Duration::from_secs(20))).await;
        let Measurement::Judged { verdict, notes } = found else { panic!("{found:?}") };
        assert_eq!(verdict, expected);
        assert_eq!(notes[1], "http://127.0.0.1:1 staging wine wine@1.0.0");
    }
    assert_eq!(bench.lines.lock().unwrap().len(), 4, "every line was an event");
    let found = bench.measure(&command("kill -9 $$", Duration::from_secs(20))).await;
    assert!(matches!(found, Measurement::Judged { verdict: Verdict::Inconclusive, .. }), "{found:?}");
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
    let bench = Bench::new();
    let script = "sleep 600 & echo $! > child; echo waiting; wait";
    let why = bench.missing(&command(script, Duration::from_secs(1))).await;
    assert!(why.contains("was killed") && why.contains("waiting"), "{why}");
    until_gone(bench.path()).await;
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_any_more_is_killed() {
    let bench = Bench::new();
    let script = "sleep 600 & echo $! > child.new; mv child.new child; wait";
    let source = command(script, Duration::from_secs(600));
    let measuring = bench.measure(&source);
    let started = async {
        while !bench.path().join("child").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        found = measuring => panic!("{found:?}"),
        () = started => {}
    }
    until_gone(bench.path()).await;
}

/// Waits until the process whose number a script left behind does not run any more.
async fn until_gone(dir: &Path) {
    let child = std::fs::read_to_string(dir.join("child")).unwrap().trim().to_owned();
    let runs = || {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.contains("(sleep)") && !stat.contains("(sleep) Z")
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while runs() {
        assert!(std::time::Instant::now() < deadline, "{child} still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn smoke_and_load_are_measured_at_the_given_time() {
    let server = Server::start().await;
    let bench = Bench::new();
    let context = Context {
        url: server.url.clone(),
        environment: "staging".into(),
        component: "wine".into(),
        release: "wine@1.0.0".into(),
        repository: bench.path().to_owned(),
        image: None,
        identities: Vec::new(),
    };
    let now = || Timestamp::UNIX_EPOCH;
    let smoke = [get("/ok")];
    let found = measure(&server.url, &context, &Source::Smoke, &smoke, now, &Events::nowhere()).await;
    assert!(
        matches!(found, Measurement::Value { value: 1.0, samples: 1, at, .. } if at == Timestamp::UNIX_EPOCH),
        "{found:?}"
    );
    let load = Source::Load { request: get("/ok"), requests: 20, concurrency: 3, statistic: Statistic::Max };
    let found = measure(&server.url, &context, &load, &[], now, &Events::nowhere()).await;
    let Measurement::Value { value, samples: 20, .. } = found else { panic!("{found:?}") };
    assert!(value > 0.0 && value < 10_000.0);
}
