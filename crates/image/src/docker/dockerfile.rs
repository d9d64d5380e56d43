//! Where in a Dockerfile a step of a build stands. Nothing here decides what is built: a file that is not understood gives no line, never an error.
//!
//! Read as BuildKit's parser reads it: parser directives, comments, continuation lines (with comments and empty lines in between), heredocs.
//! A step of BuildKit is named `[STAGE N/M] RUN …`: the N-th of those instructions of its stage that make a step (`FROM` of an image, `ADD`,
//! `COPY`, `RUN`, `WORKDIR`; triggers of the base come in between and make M larger). The classic builder counts every instruction.

use regex::Regex;
use std::sync::LazyLock;

/// One instruction and the line where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Instruction {
    line: usize,
    /// Upper case.
    keyword: String,
    /// What follows, continuation lines joined.
    rest: String,
    /// Number of the stage, from 0; `None` before the first `FROM`.
    stage: Option<usize>,
}

/// One `FROM`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stage {
    line: usize,
    base: String,
    /// Lower case.
    name: Option<String>,
    /// The base is an image: neither `scratch` nor an earlier stage.
    of_image: bool,
}

/// What a Dockerfile says, as far as lines go.
#[derive(Debug, Default, Clone)]
pub(super) struct Dockerfile {
    instructions: Vec<Instruction>,
    stages: Vec<Stage>,
}

static NAME: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^\[(?:[a-z0-9]+/[a-z0-9/]+(?:->[a-z0-9/]+)? )?(?:(\S+) +)?(\d+)/(\d+)\] (.*)").ok());
static STEP: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^Step (\d+)/\d+ : ").ok());
static PARSE_ERROR: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)(?:parse error (?:on )?line |Dockerfile:)(\d+)").ok());
static HEREDOC: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"^\d*<<(-?)(?:"([^"<]+)"|'([^'<]+)'|([A-Za-z_][A-Za-z0-9_.-]*))$"#).ok());

impl Dockerfile {
    pub(super) fn parse(text: &str) -> Self {
        let lines: Vec<&str> = text.strip_prefix('\u{feff}').unwrap_or(text).lines().collect();
        let escape = escape_character(&lines);
        let mut file = Self::default();
        let mut at = 0;
        while at < lines.len() {
            let first = lines[at].trim();
            if first.is_empty() || first.starts_with('#') {
                at += 1;
                continue;
            }
            let (text, after) = logical_line(&lines, at, escape);
            let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
            let keyword = keyword.to_ascii_uppercase();
            let after = if matches!(keyword.as_str(), "RUN" | "COPY" | "ADD" | "ONBUILD") {
                after_heredocs(&lines, after, rest)
            } else {
                after
            };
            file.add(at + 1, keyword, rest.trim().to_owned());
            at = after;
        }
        file
    }

    fn add(&mut self, line: usize, keyword: String, rest: String) {
        if keyword == "FROM" {
            let mut words = rest.split_whitespace().skip_while(|word| word.starts_with("--"));
            let base = words.next().unwrap_or_default().to_owned();
            let is_as = words.next().is_some_and(|word| word.eq_ignore_ascii_case("as"));
            let name = words.next().filter(|_| is_as).map(str::to_lowercase);
            let lower = base.to_lowercase();
            let earlier = self.stages.iter().any(|stage| stage.name.as_ref() == Some(&lower));
            self.stages.push(Stage { line, of_image: base != "scratch" && !earlier, base, name });
        }
        let stage = self.stages.len().checked_sub(1);
        self.instructions.push(Instruction { line, keyword, rest, stage });
    }

    /// The line of what BuildKit calls a step, for example `[builder 2/3] RUN make`.
    pub(super) fn line_of_vertex(&self, name: &str) -> Option<usize> {
        if let Some(image) = name.strip_prefix("[internal] load metadata for ") {
            return self.line_of_base(image);
        }
        let found = NAME.as_ref()?.captures(name)?;
        let stage = match found.get(1).map(|stage| stage.as_str()) {
            None => self.stages.len().checked_sub(1).filter(|last| *last == 0),
            Some(stage) => self.stage_named(stage),
        };
        let text = &found[4];
        let keyword = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        let (Some(stage), Ok(number), Ok(of)) = (stage, found[2].parse::<usize>(), found[3].parse::<usize>()) else {
            return self.line_of_text(&keyword, text, None);
        };
        let steps: Vec<&Instruction> = self.instructions.iter().filter(|one| one.makes_step_of(stage)).collect();
        let base = usize::from(self.stages[stage].of_image);
        if keyword == "FROM" {
            return Some(self.stages[stage].line);
        }
        // Triggers of the base are steps, but not of this file.
        let triggers = of.checked_sub(base + steps.len())?;
        let index = number.checked_sub(base + 1)?;
        let Some(own) = index.checked_sub(triggers) else { return Some(self.stages[stage].line) };
        match steps.get(own) {
            Some(step) if step.keyword == keyword => Some(step.line),
            _ => self.line_of_text(&keyword, text, Some(stage)),
        }
    }

    /// The line of what the classic builder calls a step, for example `Step 2/3 : RUN make`.
    pub(super) fn line_of_step(&self, step: &str) -> Option<usize> {
        let number: usize = STEP.as_ref()?.captures(step)?[1].parse().ok()?;
        self.instructions.get(number.checked_sub(1)?).map(|instruction| instruction.line)
    }

    /// The line that an engine's message names itself.
    pub(super) fn line_in_message(message: &str) -> Option<usize> {
        PARSE_ERROR.as_ref()?.captures(message)?[1].parse().ok()
    }

    fn stage_named(&self, name: &str) -> Option<usize> {
        let lower = name.to_lowercase();
        let named = self.stages.iter().rposition(|stage| stage.name.as_ref() == Some(&lower));
        let numbered = || lower.strip_prefix("stage-").and_then(|number| number.parse::<usize>().ok());
        named.or_else(numbered).filter(|stage| *stage < self.stages.len())
    }

    fn line_of_base(&self, image: &str) -> Option<usize> {
        let short = |name: &str| {
            let name = name.trim().trim_start_matches("docker.io/").trim_start_matches("library/").to_owned();
            let last = name.rsplit('/').next().unwrap_or_default();
            if last.contains(':') || name.contains('@') { name } else { format!("{name}:latest") }
        };
        let wanted = short(image);
        self.stages.iter().find(|stage| stage.of_image && short(&stage.base) == wanted).map(|stage| stage.line)
    }

    /// The only instruction that reads like this; variables may have been replaced in `text`, so its beginning counts.
    fn line_of_text(&self, keyword: &str, text: &str, stage: Option<usize>) -> Option<usize> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let rest = words(text).split_off(1.min(words(text).len()));
        let mut same = self.instructions.iter().filter(|one| {
            one.keyword == keyword && (stage.is_none() || one.stage == stage) && words(&one.rest) == rest
        });
        let first = same.next()?;
        same.next().is_none().then_some(first.line)
    }
}

impl Instruction {
    fn makes_step_of(&self, stage: usize) -> bool {
        self.stage == Some(stage) && matches!(self.keyword.as_str(), "ADD" | "COPY" | "RUN" | "WORKDIR")
    }
}

/// `# escape=` among the directives, which stand before everything else.
fn escape_character(lines: &[&str]) -> char {
    for line in lines {
        let Some((key, value)) = line.trim().strip_prefix('#').and_then(|comment| comment.split_once('=')) else {
            return '\\';
        };
        let key = key.trim().to_ascii_lowercase();
        if key == "escape" {
            return value.trim().chars().next().filter(|one| matches!(one, '`' | '\\')).unwrap_or('\\');
        }
        if key.is_empty() || !key.chars().all(|one| one.is_ascii_alphanumeric()) {
            return '\\';
        }
    }
    '\\'
}

/// An instruction with its continuation lines joined, and the number of the line after it.
fn logical_line(lines: &[&str], first: usize, escape: char) -> (String, usize) {
    let mut text = String::new();
    let mut at = first;
    while let Some(line) = lines.get(at) {
        at += 1;
        let trimmed = line.trim();
        if at > first + 1 && (trimmed.is_empty() || trimmed.starts_with('#')) {
            continue;
        }
        let ended = line.trim_end();
        let body = ended.strip_suffix(escape).filter(|body| !body.ends_with(escape));
        text.push_str(body.unwrap_or(ended).trim_start_matches(if text.is_empty() {
            char::is_whitespace
        } else {
            |_| false
        }));
        if body.is_none() {
            break;
        }
    }
    (text, at)
}

/// The number of the line after the heredocs that an instruction names. One that never ends is none: old parsers know no heredocs.
fn after_heredocs(lines: &[&str], after: usize, rest: &str) -> usize {
    let Some(heredoc) = HEREDOC.as_ref() else { return after };
    let mut at = after;
    for word in rest.split_whitespace() {
        let Some(found) = heredoc.captures(word) else { continue };
        let chomp = &found[1] == "-";
        let name = (2..=4).find_map(|group| found.get(group)).map_or("", |name| name.as_str());
        let is_end = |line: &&str| if chomp { line.trim_start_matches('\t') == name } else { **line == *name };
        match lines[at..].iter().position(is_end) {
            Some(end) => at += end + 1,
            None => return after,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = r#"# syntax=docker/dockerfile:1
# a comment
ARG BASE=busybox

FROM ${BASE} AS Builder
ENV A=b
RUN make \
    # a comment in between

    --all
COPY <<ONE <<-"TWO" /there/
RUN nonsense
ONE
	TWO
RUN <<EOF
echo COPY this is no instruction
EOF
FROM scratch
COPY --from=builder /a /a
WORKDIR /work
ONBUILD RUN later
from builder
Run echo $((1<<2)) \\
run last
"#;

    #[test]
    fn steps_of_buildkit_are_found_by_stage_and_number() {
        let file = Dockerfile::parse(FILE);
        for (name, line) in [
            ("[builder 1/4] FROM docker.io/library/busybox", Some(5)),
            ("[builder 2/4] RUN make     --all", Some(7)),
            ("[builder 3/4] COPY <<ONE <<-TWO /there/", Some(11)),
            ("[builder 4/4] RUN <<EOF (echo COPY this is no instruction)", Some(15)),
            ("[linux/arm64 builder 4/4] RUN <<EOF", Some(15)),
            ("[linux/amd64->arm64 builder 4/4] RUN <<EOF", Some(15)),
            ("[stage-1 1/2] COPY --from=builder /a /a", Some(19)),
            ("[stage-1 2/2] WORKDIR /work", Some(20)),
            ("[stage-2 1/2] RUN echo $((1<<2)) \\\\", Some(23)),
            ("[stage-2 2/2] RUN last", Some(24)),
            // Two triggers of the base stand before the first own step.
            ("[stage-2 1/4] RUN trigger", Some(22)),
            ("[stage-2 3/4] RUN echo 4", Some(23)),
            ("[internal] load build definition from Dockerfile", None),
            ("exporting to image", None),
            ("[nobody 1/9] RUN last", Some(24)),
        ] {
            assert_eq!(file.line_of_vertex(name), line, "{name}");
        }
        let one = Dockerfile::parse("FROM a/b:1\nRUN x\n");
        assert_eq!(one.line_of_vertex("[2/2] RUN x"), Some(2));
        assert_eq!(one.line_of_vertex("[1/2] FROM docker.io/a/b:1@sha256:00"), Some(1));
        assert_eq!(one.line_of_vertex("[internal] load metadata for docker.io/a/b:1"), Some(1));
        let hub = Dockerfile::parse("\nFROM --platform=linux/amd64 python AS x\n");
        assert_eq!(hub.line_of_vertex("[internal] load metadata for docker.io/library/python:latest"), Some(2));
    }

    #[test]
    fn steps_of_the_classic_builder_are_counted() {
        let file = Dockerfile::parse(FILE);
        let table =
            [("Step 1/12 : ARG BASE=busybox", 3), ("Step 4/12 : RUN make     --all", 7), ("Step 13/13 : RUN last", 24)];
        for (step, line) in table {
            assert_eq!(file.line_of_step(step), Some(line), "{step}");
        }
        for step in ["Step 0/2 : X", "Step 99/99 : X", "x"] {
            assert_eq!(file.line_of_step(step), None);
        }
        let said = "dockerfile parse error line 7: unknown instruction: NONSENSE";
        assert_eq!(Dockerfile::line_in_message(said), Some(7));
        assert_eq!(Dockerfile::line_in_message("no line"), None);
    }

    #[test]
    fn directives_and_endless_heredocs_are_read_as_they_are_meant() {
        let file = Dockerfile::parse("# escape=`\nFROM scratch\nCOPY a `\n  c:\\\nCOPY b /b\n");
        assert_eq!(file.line_of_vertex("[2/2] COPY b /b"), Some(5));
        let file = Dockerfile::parse("FROM scratch\nRUN cat <<EOF\nRUN second\n");
        assert_eq!(file.line_of_vertex("[2/2] RUN second"), Some(3));
        let file = Dockerfile::parse("FROM scratch\r\nRUN a \\\r\n  b\r\nRUN c\r\n");
        assert_eq!(file.line_of_vertex("[2/2] RUN c"), Some(4));
    }

    proptest! {
        #[test]
        fn whatever_stands_there_gives_a_line_of_the_file_or_none(
            lines in prop::collection::vec(prop_oneof![
                Just("FROM scratch"), Just("FROM x AS y"), Just("RUN a \\"), Just("RUN <<EOF"), Just("EOF"), Just("# c"),
                Just("# escape=`"), Just(""), Just("COPY a b"), Just("\\"), Just("RUN <<-'A' <<B"), Just("ÄÖ `"),
                Just("ONBUILD COPY a b"),
            ], 0..30),
            stage in prop_oneof![Just(""), Just("y "), Just("stage-1 "), Just("stage-99999999999999999999 "), Just("linux/amd64 ")],
            number in 0_u64..40, of in 0_u64..40,
        ) {
            let text = lines.join("\n");
            let file = Dockerfile::parse(&text);
            let count = text.lines().count();
            let found = file.line_of_vertex(&format!("[{stage}{number}/{of}] RUN a"));
            prop_assert!(found.is_none_or(|line| (1..=count).contains(&line)));
            let step = file.line_of_step(&format!("Step {number}/{of} : RUN a"));
            prop_assert!(step.is_none_or(|line| (1..=count).contains(&line)));
        }

        #[test]
        fn arbitrary_text_is_no_panic(text in "\\PC{0,200}", name in "\\PC{0,60}") {
            let file = Dockerfile::parse(&text);
            file.line_of_vertex(&name);
            file.line_of_step(&name);
            Dockerfile::line_in_message(&name);
        }

        #[test]
        fn padding_moves_the_line_by_as_much(comments in 0_usize..20, continued in 0_usize..10) {
            let (before, inside) = ("# c\n".repeat(comments), " \\\n  x".repeat(continued));
            let text = format!("{before}FROM scratch\nRUN a{inside}\nCOPY b /b\n");
            let line = Dockerfile::parse(&text).line_of_vertex("[2/2] COPY b /b");
            prop_assert_eq!(line, Some(comments + 1 + 1 + continued + 1));
        }
    }
}
