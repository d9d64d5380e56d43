//! `sealift doctor`.

use crate::{
    exit::Exit,
    report::Report,
    shell::Shell,
    text::{Paint, Style},
};
use domain::Class;
use engine::{
    Result,
    doctor::{Finding, State},
};

/// Check every part of a set-up, and say how to mend what is not well
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sealift doctor\n  sealift doctor --format json\n\nExit codes: 0 when everything needed works, otherwise that of the first part that does not"
)]
pub(crate) struct Arguments {}

pub(crate) async fn run(shell: &Shell, _: &Arguments) -> Result<Report> {
    let findings = engine::doctor::run(&shell.start, &shell.host, &shell.events).await;
    Ok(Report::new(&findings, words(&findings, &Paint::out())).ending(exit(&findings)))
}

/// The first part that does not work decides. Whatever is missing or wrong here is bad configuration.
fn exit(findings: &[Finding]) -> Exit {
    let Some(bad) = findings.iter().find(|finding| finding.state == State::Bad) else { return Exit::Ok };
    Exit::Failure(match bad.class {
        Some(class @ (Class::Unavailable | Class::Integrity | Class::Internal)) => class,
        _ => Class::BadInput,
    })
}

fn words(findings: &[Finding], paint: &Paint) -> String {
    let width = findings.iter().map(|finding| finding.part.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for finding in findings {
        let (mark, style) = match finding.state {
            State::Good => ("✓", Style::Good),
            State::Warning => ("!", Style::Warning),
            State::Bad => ("✗", Style::Bad),
        };
        let below = format!("\n{}", " ".repeat(width + 4));
        let text = finding.text.replace('\n', &below);
        lines.push(format!("{} {:<width$}  {text}", paint.style(mark, style), finding.part));
        if let Some(mend) = &finding.mend {
            lines.push(format!("  {:<width$}  {} {mend}", "", paint.style("mend:", Style::Good)));
        }
    }
    let bad = findings.iter().filter(|finding| finding.state == State::Bad).count();
    lines.push(match bad {
        0 => "everything that is needed works".to_owned(),
        count => {
            format!("{} not work", crate::text::count(count as u64, "part") + if count == 1 { " does" } else { " do" })
        }
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn finding(part: &'static str, state: State, class: Option<Class>) -> Finding {
        let mend = (state != State::Good).then(|| "sealift init".to_owned());
        Finding { part, state, text: "one\ntwo".to_owned(), mend, class }
    }

    #[test]
    fn findings_say_how_to_mend() {
        let findings = [finding("git", State::Good, None), finding("configuration", State::Bad, Some(Class::NotFound))];
        expect![[r#"
            ✓ git            one
                             two
            ✗ configuration  one
                             two
                             mend: sealift init
            1 part does not work"#]]
        .assert_eq(&words(&findings, &Paint::none()));
    }

    #[test]
    fn the_first_bad_part_decides() {
        let with = |class| exit(&[finding("a", State::Warning, None), finding("b", State::Bad, Some(class))]).code();
        assert_eq!(with(Class::Unavailable), 69);
        assert_eq!(with(Class::NotFound), 65);
        assert_eq!(with(Class::NotPermitted), 65);
        assert_eq!(exit(&[finding("a", State::Warning, None)]).code(), 0);
    }
}
