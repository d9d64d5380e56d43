use super::{super::*, check, gate};
use crate::Name;
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn now() -> jiff::Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn accuracy() -> Check {
    Check {
        name: Name::new("accuracy").unwrap(),
        source: Source::Report {
            path: "metrics.json".to_owned(),
            value: "/accuracy".to_owned(),
            samples: Some("/samples".to_owned()),
            created: None,
            run: None,
            timeout: Duration::from_secs(1),
        },
        bounds: Bounds { warn_below: Some(0.7), crit_below: Some(0.5), ..Bounds::default() },
        relative: None,
        required_samples: 100,
        max_age: Some(Duration::from_secs(3600)),
        count: 1,
        interval: Duration::ZERO,
        failure_limit: 0,
    }
}

fn value(value: f64) -> Measurement {
    Measurement::Value { value, samples: 200, at: now(), notes: Vec::new() }
}

fn says(check: &Check, measurements: &[Measurement], baseline: &Baseline, expected: &Expect) {
    let result = super::check(check, measurements, baseline, now());
    expected.assert_eq(&format!("{}: {}", result.verdict, result.reasons.join(" | ")));
}

#[test]
fn absolute_bounds_say_value_and_bound() {
    let first = Baseline::FirstRelease;
    says(&accuracy(), &[value(0.312)], &first, &expect!["crit: accuracy 0.312 is below the critical bound 0.5"]);
    says(&accuracy(), &[value(0.6)], &first, &expect!["warn: accuracy 0.6 is below the warning bound 0.7"]);
    says(&accuracy(), &[value(0.7)], &first, &expect!["ok: accuracy 0.7 is within its lower bound 0.7"]);
    says(&accuracy(), &[value(0.812_345_678)], &first, &expect!["ok: accuracy 0.8123 is within its lower bound 0.7"]);
    says(
        &accuracy(),
        &[value(0.499_999_99)],
        &first,
        &expect!["crit: accuracy 0.49999999 is below the critical bound 0.5"],
    );
}

#[test]
fn evidence_that_is_no_evidence_decides_nothing() {
    let first = Baseline::FirstRelease;
    says(&accuracy(), &[], &first, &expect!["inconclusive: accuracy: there is no measurement"]);
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(check(&accuracy(), &[value(number)], &first, now()).verdict, Verdict::Inconclusive);
    }
    says(
        &accuracy(),
        &[value(f64::NAN)],
        &first,
        &expect!["inconclusive: accuracy: the value is NaN, which decides nothing"],
    );
    let at = |text: &str| Measurement::Value { value: 0.9, samples: 200, at: text.parse().unwrap(), notes: Vec::new() };
    says(
        &accuracy(),
        &[at("2026-03-01T10:00:00Z")],
        &first,
        &expect!["inconclusive: accuracy 0.9 is 2h old; it may be 1h"],
    );
    says(
        &accuracy(),
        &[at("2026-03-02T12:00:00Z")],
        &first,
        &expect![
            "inconclusive: accuracy 0.9 is dated 2026-03-02T12:00:00Z, which is in the future: its age is unknown"
        ],
    );
    let thin = Measurement::Value { value: 0.2, samples: 3, at: now(), notes: vec!["3 of 4898 rows".to_owned()] };
    says(
        &accuracy(),
        &[thin],
        &first,
        &expect!["inconclusive: accuracy 0.2 stands on 3 samples; 100 are required | accuracy: 3 of 4898 rows"],
    );
    let missing = Measurement::Missing { why: "metrics.json: no such file".to_owned() };
    says(
        &accuracy(),
        &[missing],
        &first,
        &expect!["inconclusive: accuracy: nothing was measured: metrics.json: no such file"],
    );
}

#[test]
fn crit_wins_over_inconclusive_and_the_limit_counts_crits() {
    let first = Baseline::FirstRelease;
    let mut check = accuracy();
    check.count = 3;
    let missing = Measurement::Missing { why: "timed out".to_owned() };
    says(
        &check,
        &[value(0.1), missing.clone(), value(0.9)],
        &first,
        &expect![
            "crit: accuracy 0.1 is below the critical bound 0.5 | accuracy: nothing was measured: timed out | accuracy 0.9 is within its lower bound 0.7"
        ],
    );
    says(
        &check,
        &[value(0.9), value(0.9)],
        &first,
        &expect!["inconclusive: accuracy 0.9 is within its lower bound 0.7 | accuracy: there are 2 of 3 measurements"],
    );
    check.failure_limit = 1;
    says(
        &check,
        &[value(0.1), value(0.9), value(0.9)],
        &first,
        &expect![
            "warn: accuracy 0.1 is below the critical bound 0.5 | accuracy 0.9 is within its lower bound 0.7 | accuracy: 1 of 3 measurements are critical; 1 may be"
        ],
    );
    assert_eq!(super::check(&check, &[value(0.1), value(0.2), value(0.9)], &first, now()).verdict, Verdict::Crit);
    assert_eq!(super::check(&check, &[value(0.1), value(0.2), value(0.9)], &first, now()).value, Some(0.1));
}

#[test]
fn relative_bounds_compare_with_the_running_release() {
    let mut check = accuracy();
    check.bounds = Bounds::default();
    check.relative = Some(Relative { better: Better::Higher, warn_worse: Some(0.02), crit_worse: Some(0.05) });
    let base = |value| Baseline::Value { release: "wine@1.0.0".to_owned(), value };
    says(
        &check,
        &[value(0.7)],
        &base(0.8),
        &expect!["crit: accuracy 0.7 is 12.5 % worse than the 0.8 of wine@1.0.0; the critical bound is 5 %"],
    );
    says(
        &check,
        &[value(0.78)],
        &base(0.8),
        &expect!["warn: accuracy 0.78 is 2.5 % worse than the 0.8 of wine@1.0.0; the warning bound is 2 %"],
    );
    says(&check, &[value(0.81)], &base(0.8), &expect!["ok: accuracy 0.81 is within its relative bound"]);
    says(
        &check,
        &[value(0.2)],
        &Baseline::FirstRelease,
        &expect![
            "ok: accuracy 0.2 is within its relative bound | accuracy 0.2 is the first: no release runs there to compare with"
        ],
    );
    let unrecorded = Baseline::Unrecorded { release: "wine@1.0.0".to_owned() };
    says(
        &check,
        &[value(0.9)],
        &unrecorded,
        &expect!["inconclusive: accuracy 0.9 cannot be compared: no value of wine@1.0.0 is recorded"],
    );
    check.relative = Some(Relative { better: Better::Lower, warn_worse: None, crit_worse: Some(0.05) });
    assert_eq!(super::check(&check, &[value(0.0)], &base(0.0), now()).verdict, Verdict::Ok);
    says(
        &check,
        &[value(0.01)],
        &base(0.0),
        &expect![
            "inconclusive: accuracy 0.01 is worse than the 0 of wine@1.0.0, of which there are no shares; an absolute bound would decide"
        ],
    );
    says(
        &check,
        &[value(-1.0)],
        &base(-2.0),
        &expect!["crit: accuracy -1 is 50 % worse than the -2 of wine@1.0.0; the critical bound is 5 %"],
    );
    assert_eq!(super::check(&check, &[value(1.0)], &base(f64::NAN), now()).verdict, Verdict::Inconclusive);
}

#[test]
fn a_command_judges_itself() {
    let judged = Measurement::Judged { verdict: Verdict::Warn, notes: vec!["PSI 0.21".to_owned()] };
    says(
        &accuracy(),
        &[judged],
        &Baseline::FirstRelease,
        &expect!["warn: accuracy: its command says warn | accuracy: PSI 0.21"],
    );
}

#[test]
fn an_empty_gate_and_a_check_left_out_hold() {
    let empty = Gate { name: Name::new("quality").unwrap(), checks: Vec::new() };
    assert_eq!(gate(&empty, Vec::new()).verdict, Verdict::Inconclusive);
    let one = Gate { checks: vec![accuracy()], ..empty };
    let result = gate(&one, Vec::new());
    assert_eq!(result.verdict, Verdict::Inconclusive);
    assert_eq!(result.checks[0].reasons, ["accuracy: it was not carried out"]);
}

fn some_check() -> impl Strategy<Value = Check> {
    let bound = || proptest::option::of(-2.0..2.0_f64);
    let share = || proptest::option::of(0.0..1.0_f64);
    (bound(), bound(), share(), share(), any::<bool>(), 0..3_u32).prop_map(|(a, b, warn, crit, lower, limit)| {
        let mut check = accuracy();
        check.failure_limit = limit;
        let pair = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => (Some(a.max(b)), Some(a.min(b))),
            other => other,
        };
        let (larger, smaller) = pair(a, b);
        let (crit_worse, warn_worse) = pair(crit, warn);
        check.bounds = if lower {
            Bounds { warn_above: smaller, crit_above: larger, ..Bounds::default() }
        } else {
            Bounds { warn_below: larger, crit_below: smaller, ..Bounds::default() }
        };
        let better = if lower { Better::Lower } else { Better::Higher };
        check.relative = Some(Relative { better, warn_worse, crit_worse });
        check
    })
}

fn some_baseline() -> impl Strategy<Value = Baseline> {
    let release = "wine@1.0.0".to_owned();
    prop_oneof![
        Just(Baseline::FirstRelease),
        Just(Baseline::Unrecorded { release: release.clone() }),
        Just(Baseline::Value { release: release.clone(), value: 0.0 }),
        (-2.0..2.0_f64).prop_map(move |value| Baseline::Value { release: release.clone(), value }),
    ]
}

fn some_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Ok), Just(Verdict::Warn), Just(Verdict::Inconclusive), Just(Verdict::Crit)]
}

proptest! {
    #[test]
    fn a_worse_value_never_makes_a_better_verdict(
        check in some_check(),
        baseline in some_baseline(),
        values in proptest::collection::vec(-3.0..3.0_f64, 1..5),
        which in any::<prop::sample::Index>(),
        by in 0.0..3.0_f64,
    ) {
        let lower = matches!(check.relative, Some(Relative { better: Better::Lower, .. }));
        let mut worse = values.clone();
        let changed = which.index(values.len());
        worse[changed] += if lower { by } else { -by };
        let verdict = |values: &[f64]| {
            let measurements: Vec<Measurement> = values.iter().map(|v| value(*v)).collect();
            super::check(&check, &measurements, &baseline, now()).verdict
        };
        prop_assert!(verdict(&worse) >= verdict(&values), "{:?} then {:?}", verdict(&values), verdict(&worse));
    }

    #[test]
    fn more_checks_never_make_a_gate_better(verdicts in proptest::collection::vec(some_verdict(), 0..5), more in some_verdict()) {
        let named = |index: usize| Check { name: Name::new(format!("c{index}")).unwrap(), ..accuracy() };
        let result = |(index, verdict): (usize, &Verdict)| CheckResult {
            check: named(index).name,
            verdict: *verdict,
            value: None,
            reasons: Vec::new(),
        };
        let judge = |verdicts: &[Verdict]| {
            let checks = (0..verdicts.len()).map(named).collect();
            let all = Gate { name: Name::new("quality").unwrap(), checks };
            gate(&all, verdicts.iter().enumerate().map(result).collect()).verdict
        };
        let mut longer = verdicts.clone();
        longer.push(more);
        prop_assert!(verdicts.is_empty() || judge(&longer) >= judge(&verdicts));
        prop_assert_eq!(judge(&longer), longer.iter().copied().max().unwrap());
    }

    #[test]
    fn less_evidence_is_never_ok(check in some_check(), baseline in some_baseline(), wanted in 1..4_u32) {
        let check = Check { count: wanted, ..check };
        let measurements: Vec<Measurement> = (1..wanted).map(|_| value(0.0)).collect();
        prop_assert!(super::check(&check, &measurements, &baseline, now()).verdict >= Verdict::Inconclusive);
    }
}
