use crate::{get, server::Server};
use domain::{
    Events,
    gate::{Expectation, Measurement, Statistic},
    workload::HealthCheck,
};
use jiff::Timestamp;
use probe::{Unhealthy, load, request, server_time, smoke, wait_healthy};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

#[tokio::test]
async fn each_expectation_that_fails_is_told_with_what_was_found() {
    let server = Server::start().await;
    let mut wanted = get("/ok");
    wanted.expect_headers.insert("content-type".into(), "application/json".into());
    wanted.expect_headers.insert("x-number".into(), String::new());
    for (pointer, expectation) in [
        ("/status", Expectation::Equals("ready".into())),
        ("/count", Expectation::Equals(serde_json::json!(3.0))),
        ("/list", Expectation::Equals(serde_json::json!([1.0, {"a": 2}]))),
        ("/score", Expectation::Between(0.9, 1.0)),
        ("/list/1/a", Expectation::Present),
    ] {
        wanted.expect_json.insert(pointer.into(), expectation);
    }
    let outcome = request(&server.url, &wanted).await;
    assert_eq!((outcome.ok, outcome.status, outcome.failures.as_slice()), (true, Some(200), [].as_slice()));

    wanted.status = Some(204);
    wanted.expect_headers.insert("content-type".into(), "text/html".into());
    wanted.expect_headers.insert("x-missing".into(), String::new());
    wanted.expect_json.insert("/status".into(), Expectation::Equals("asleep".into()));
    wanted.expect_json.insert("/score".into(), Expectation::Between(0.95, 1.0));
    wanted.expect_json.insert("/nowhere".into(), Expectation::Present);
    let outcome = request(&server.url, &wanted).await;
    assert_eq!(
        outcome.failures,
        [
            "status 204 expected, found 200",
            "header content-type: text/html expected, found application/json; charset=utf-8",
            "header x-missing expected, found none",
            "/nowhere expected, found nothing there",
            "/score from 0.95 to 1 expected, found 0.9",
            "/status = \"asleep\" expected, found \"ready\"",
        ]
    );
    assert!(!outcome.ok);
}

#[tokio::test]
async fn method_headers_and_body_are_sent() {
    let server = Server::start().await;
    let mut wanted = get("/echo");
    wanted.method = "post".into();
    wanted.body = Some("grapes".into());
    wanted.headers.insert("x-token".into(), "t".into());
    wanted.status = Some(201);
    for (pointer, value) in [("/method", "POST"), ("/body", "grapes"), ("/token", "t")] {
        wanted.expect_json.insert(pointer.into(), Expectation::Equals(value.into()));
    }
    assert_eq!(request(&server.url, &wanted).await.failures, Vec::<String>::new());
}

#[tokio::test]
async fn faults_are_failures_with_their_cause() {
    let server = Server::start().await;
    let mut not_a_number = get("/nan");
    not_a_number.expect_json.insert("/score".into(), Expectation::Between(0.0, 1.0));
    let mut slow = get("/slow");
    slow.timeout = Duration::from_millis(50);
    let table = [
        (not_a_number, "a JSON answer expected"),
        (slow, "no complete answer within 0.050 s"),
        (get("/error"), "a 2xx status expected, found 503"),
        (get("/redirect"), "a 2xx status expected, found 302"),
        (get("/huge"), "longer than"),
        (get("/truncated"), "its body"),
    ];
    for (wanted, words) in table {
        let outcome = request(&server.url, &wanted).await;
        assert!(!outcome.ok && outcome.failures.len() == 1, "{outcome:?}");
        assert!(outcome.failures[0].contains(words), "{outcome:?}");
    }
    let before = server.seen.load(Ordering::SeqCst);
    let outcome = request(&server.url, &get("/reset")).await;
    assert!(!outcome.ok && outcome.status.is_none(), "{outcome:?}");
    assert_eq!(server.seen.load(Ordering::SeqCst), before + 1, "nothing is sent twice");
    let url = server.url.clone();
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let outcome = request(&format!("http://{nobody}"), &get("/ok")).await;
    assert!(outcome.failures[0].contains("refused"), "{outcome:?}");
    for base in [url.replace("http://", "no url "), "https://127.0.0.1:1".into()] {
        assert!(!request(&base, &get("/ok")).await.ok);
    }
}

#[tokio::test]
async fn smoke_runs_all_in_order_and_none_is_no_success() {
    let server = Server::start().await;
    let requests = [get("/ok"), get("/error"), get("/other")];
    let report = smoke(&server.url, &requests, &Events::nowhere()).await;
    let names: Vec<&str> = report.outcomes.iter().map(|outcome| outcome.name.as_str()).collect();
    assert_eq!((names.as_slice(), report.ok(), report.passed()), (["ok", "error", "other"].as_slice(), false, 2));
    assert_eq!(report.failures(), ["error: a 2xx status expected, found 503"]);
    let Measurement::Value { value, samples: 3, .. } = report.measurement(Timestamp::UNIX_EPOCH) else { panic!() };
    assert!((value - 2.0 / 3.0).abs() < 1e-12);
    assert!(serde_json::to_string(&report).unwrap().contains("latency_ms"));
    let none = smoke(&server.url, &[], &Events::nowhere()).await;
    assert!(!none.ok());
    assert!(matches!(none.measurement(Timestamp::UNIX_EPOCH), Measurement::Missing { .. }));
}

fn health(path: &str, timeout: Duration) -> HealthCheck {
    HealthCheck { path: path.into(), start_timeout: timeout }
}

#[tokio::test]
async fn healthy_is_waited_for() {
    let server = Server::start().await;
    let took = wait_healthy(&server.url, &health("/later", Duration::from_secs(20)), async || None).await.unwrap();
    assert!(took < Duration::from_secs(20));
    assert!(server.seen.load(Ordering::SeqCst) >= 4);
}

#[tokio::test]
async fn what_dies_or_never_answers_well_is_given_up() {
    let server = Server::start().await;
    let error =
        wait_healthy(&server.url, &health("/error", Duration::from_millis(60)), async || None).await.unwrap_err();
    assert!(matches!(&error, Unhealthy::TimedOut { last, .. } if last.contains("503")), "{error}");
    // It dies long before its time is over, and nobody waits for that.
    let asked = AtomicU32::new(0);
    let dying = async || (asked.fetch_add(1, Ordering::SeqCst) > 1).then(|| "exited with code 3".to_owned());
    let error = wait_healthy(&server.url, &health("/error", Duration::from_secs(600)), dying).await.unwrap_err();
    assert!(error.to_string().contains("exited with code 3"), "{error}");
    // Another program answers on the port of a workload that is gone.
    let gone = async || Some("exited with code 1".to_owned());
    let error = wait_healthy(&server.url, &health("/ok", Duration::from_secs(600)), gone).await.unwrap_err();
    assert!(matches!(error, Unhealthy::Died { .. }));
}

#[tokio::test]
async fn load_counts_every_request() {
    let server = Server::start().await;
    let report = load(&server.url, &get("/third"), 30, 4, &Events::nowhere()).await;
    assert_eq!((report.samples, report.errors), (30, 10));
    assert_eq!(server.seen.load(Ordering::SeqCst), 30);
    assert!((report.error_rate.unwrap() - 1.0 / 3.0).abs() < 1e-12);
    assert!(report.p50.unwrap() < 10_000.0, "two thirds passed");
    assert_eq!(report.p95, Some(10_000.0), "a failed request counts with its whole time-out");
    assert_eq!(report.first_errors, ["a 2xx status expected, found 500"]);
    let Measurement::Value { samples: 30, .. } = report.measurement(Statistic::ErrorRate, Timestamp::UNIX_EPOCH) else {
        panic!()
    };
}

#[tokio::test]
async fn a_load_without_answers_is_missing_evidence() {
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let report = load(&format!("http://{nobody}"), &get("/ok"), 5, 2, &Events::nowhere()).await;
    assert_eq!((report.samples, report.errors, report.error_rate), (5, 5, Some(1.0)));
    assert!(matches!(report.measurement(Statistic::P99, Timestamp::UNIX_EPOCH), Measurement::Missing { .. }));
    let none = load("http://127.0.0.1:1", &get("/ok"), 0, 2, &Events::nowhere()).await;
    assert!(matches!(none.measurement(Statistic::ErrorRate, Timestamp::UNIX_EPOCH), Measurement::Missing { .. }));
}

#[tokio::test]
async fn a_servers_clock_is_read() {
    let server = Server::start().await;
    let theirs = server_time(&server.url).await.unwrap();
    assert!(theirs.duration_until(Timestamp::now()).abs() < jiff::SignedDuration::from_mins(1));
    let error = server_time("http://127.0.0.1:1").await.unwrap_err();
    assert!(error.contains("refused"), "{error}");
}
