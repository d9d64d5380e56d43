//! Results in words: tables, times, sizes, colours. Nothing here reads a clock; `now` is an argument.

pub(crate) mod data;
pub(crate) mod dvc;
pub(crate) mod explain;
pub(crate) mod gates;
pub(crate) mod history;
pub(crate) mod plan;
pub(crate) mod status;
mod table;

pub(crate) use table::{Cell, Table};

use domain::gate::Verdict;
use jiff::Timestamp;
use std::{fmt::Write, time::Duration};

/// How a word is drawn on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// As it is.
    Plain,
    /// A heading.
    Bold,
    /// Less important.
    Dim,
    /// Well.
    Good,
    /// Worth a look.
    Warning,
    /// Not well.
    Bad,
}

/// Draws styles, or leaves them out where nobody would see them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    colour: bool,
}

impl Paint {
    /// Colours on a terminal, unless `NO_COLOR` is set or the terminal has none.
    pub(crate) fn new(terminal: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colour: terminal && !set("NO_COLOR") && !dumb }
    }

    /// For standard output.
    pub(crate) fn out() -> Self {
        Self::new(std::io::IsTerminal::is_terminal(&std::io::stdout()))
    }

    /// No colour at all.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { colour: false }
    }

    /// The text in a style.
    pub(crate) fn style(&self, text: &str, style: Style) -> String {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Warning => "33",
            Style::Bad => "31",
            Style::Plain => return text.to_owned(),
        };
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// The style of a verdict.
pub(crate) fn verdict_style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Ok => Style::Good,
        Verdict::Warn | Verdict::Inconclusive => Style::Warning,
        Verdict::Crit => Style::Bad,
    }
}

/// A size: `214 MiB`, `1.5 KiB`, `12 B`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value >= 99.95 { format!("{value:.0} {}", UNITS[unit]) } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A time that something took: `12 ms`, `1.2 s`, `3 min 12 s`, `2 h 5 min`.
pub(crate) fn took(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match duration.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms @ 1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A bound on time in few letters, without tenths: `42s`, `1m 30s`.
pub(crate) fn bound(duration: Duration) -> String {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    match seconds {
        0..120 => format!("{seconds}s"),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{}m {}s", seconds / 60, seconds % 60),
    }
}

/// An instant in UTC: `2026-11-21 14:03:22Z`.
pub(crate) fn at(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// How long ago: `5 min ago`, `3 d ago`.
pub(crate) fn ago(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(time).as_secs();
    let words = match seconds.unsigned_abs() {
        0..5 => return "just now".to_owned(),
        n @ 5..60 => format!("{n} s"),
        n @ 60..3600 => format!("{} min", n / 60),
        n @ 3600..172_800 => format!("{} h", n / 3600),
        n => format!("{} d", n / 86_400),
    };
    if seconds < 0 { format!("{words} ahead of this clock") } else { format!("{words} ago") }
}

/// A count with its noun: `1 file`, `3 files`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Text of another program without escape sequences and control characters, so that it cannot move our cursor.
pub(crate) fn plain(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => match characters.next() {
                // CSI: parameters, then one final byte.
                Some('[') => while characters.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // OSC: until BEL or ESC.
                Some(']') => while characters.next().is_some_and(|c| c != '\u{7}' && c != '\u{1b}') {},
                _ => {}
            },
            '\n' => clean.push('\n'),
            '\t' => clean.push(' '),
            other if other.is_control() => {}
            other => clean.push(other),
        }
    }
    clean
}

/// Lines that begin with a right-padded key.
pub(crate) struct Fields {
    text: String,
    width: usize,
}

impl Fields {
    /// Keys of at most `width` characters.
    pub(crate) fn new(width: usize) -> Self {
        Self { text: String::new(), width }
    }

    /// One line; an empty key continues the one above.
    pub(crate) fn add(&mut self, key: &str, value: impl AsRef<str>) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let _ = write!(self.text, "  {key:<width$}  {}", value.as_ref(), width = self.width);
    }

    /// Several lines under one key; nothing when there are none.
    pub(crate) fn list(&mut self, key: &str, values: impl IntoIterator<Item = impl AsRef<str>>) {
        let mut key = key;
        for value in values {
            self.add(key, value);
            key = "";
        }
    }

    /// All lines.
    pub(crate) fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_in_few_letters() {
        let sizes = [0, 1023, 1024, 1536, 104_857_600, 1 << 30, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "100 MiB", "1.0 GiB", "16384 PiB"]);
        let times = [0, 999, 1250, 61_000, 7_500_000].map(|ms| took(Duration::from_millis(ms)));
        assert_eq!(times, ["0 ms", "999 ms", "1.2 s", "1 min 1 s", "2 h 5 min"]);
        let bounds = [1, 42_000, 90_000, 600_000, 130_000].map(|ms| bound(Duration::from_millis(ms)));
        assert_eq!(bounds, ["1s", "42s", "90s", "10m", "2m 10s"]);
    }

    #[test]
    fn instants_are_utc_and_relative() {
        let now: Timestamp = "2026-11-21T14:03:22.5Z".parse().unwrap();
        assert_eq!(at(now), "2026-11-21 14:03:22Z");
        let before = |seconds: i64| ago(Timestamp::from_second(now.as_second() - seconds).unwrap(), now);
        assert_eq!(
            [0, 42, 300, 7200, 400_000].map(before),
            ["just now", "42 s ago", "5 min ago", "2 h ago", "4 d ago"]
        );
        assert_eq!(before(-60), "59 s ahead of this clock");
    }

    #[test]
    fn other_programs_cannot_move_the_cursor() {
        assert_eq!(plain("\u{1b}[2J\u{1b}[31mred\u{1b}[0m\r\u{8}\tx\u{1b}]0;title\u{7}y"), "red xy");
    }

    #[test]
    fn without_colour_nothing_is_added() {
        assert_eq!(Paint::none().style("a", Style::Bad), "a");
        assert_eq!(Paint { colour: true }.style("a", Style::Bad), "\u{1b}[31ma\u{1b}[0m");
    }
}
