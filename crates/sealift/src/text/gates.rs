//! Verdicts and their reasons.

use super::{Paint, verdict_style};
use domain::gate::{GateResult, Verdict};

/// Gates, one line each, and below them the checks that are not ok; those that are were said while they were made.
pub(crate) fn gates(gates: &[GateResult], indent: &str, paint: &Paint) -> String {
    let mut lines = Vec::new();
    for gate in gates {
        let verdict = paint.style(&format!("{:<12}", gate.verdict), verdict_style(gate.verdict));
        lines.push(format!("{indent}{verdict} gate {}", gate.gate));
        for check in gate.checks.iter().filter(|check| check.verdict != Verdict::Ok) {
            let verdict = paint.style(&format!("{:<12}", check.verdict), verdict_style(check.verdict));
            lines.push(format!("{indent}  {verdict} {}: {}", check.check, check.reasons.join("; ")));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Name, gate::CheckResult};
    use expect_test::expect;

    #[test]
    fn every_check_says_why() {
        let check = |name: &str, verdict, reason: &str| CheckResult {
            check: Name::new(name).unwrap(),
            verdict,
            value: None,
            reasons: vec![reason.to_owned()],
        };
        let checks = vec![
            check("latency", Verdict::Ok, "p95 2.1 is within its bounds (200 samples)"),
            check("accuracy", Verdict::Crit, "0.41 is below 0.5"),
        ];
        let result = GateResult { gate: Name::new("quality").unwrap(), verdict: Verdict::Crit, checks };
        expect![[r#"
              crit         gate quality
                crit         accuracy: 0.41 is below 0.5"#]]
        .assert_eq(&gates(&[result], "", &Paint::none()));
    }
}
