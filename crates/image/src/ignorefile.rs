//! `.dockerignore`, exactly as Docker reads it (`moby/patternmatcher`): patterns are cleaned paths from the root of the context, the last match
//! wins, a match of a folder matches all below it. This is not `.gitignore`: `*.log` means the root folder only.

use crate::error::{Error, Result};
use regex::bytes::Regex;

/// The patterns of one file, in order.
#[derive(Debug, Default)]
pub(crate) struct IgnoreFile {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    cleaned: String,
    exception: bool,
    regex: Regex,
}

impl IgnoreFile {
    /// Reads the text; `name` is for errors.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (exception, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            if pattern.is_empty() {
                if exception {
                    return Err(Error::bad(format!("{name} line {}: \"!\" names nothing", number + 1)));
                }
                continue;
            }
            let cleaned = clean(pattern);
            let regex = Regex::new(&expression(&cleaned)).map_err(|_| {
                Error::bad(format!("{name} line {}: pattern {pattern:?} is not understood", number + 1))
            })?;
            patterns.push(Pattern { cleaned, exception, regex });
        }
        Ok(Self { patterns })
    }

    /// Whether a path (relative, `/` between parts) is left out of the context.
    pub(crate) fn ignores(&self, path: &[u8]) -> bool {
        let mut ignored = false;
        for pattern in &self.patterns {
            // A pattern that would change nothing is not asked.
            if pattern.exception == ignored && prefixes(path).any(|prefix| pattern.regex.is_match(prefix)) {
                ignored = !pattern.exception;
            }
        }
        ignored
    }

    /// Whether an exception might bring back something below a folder that is left out.
    pub(crate) fn may_return_below(&self, folder: &str) -> bool {
        let below = format!("{folder}/");
        self.patterns.iter().filter(|pattern| pattern.exception).any(|pattern| {
            let literal = pattern.cleaned.split(['*', '?', '[', '\\']).next().unwrap_or_default();
            let has_wildcards = literal.len() < pattern.cleaned.len();
            if has_wildcards {
                below.starts_with(literal) || literal.starts_with(&below)
            } else {
                format!("{literal}/").starts_with(&below) || below.starts_with(&format!("{literal}/"))
            }
        })
    }
}

/// The path itself and each folder above it.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    slashes.chain([path.len()]).map(|end| &path[..end])
}

/// Go's `filepath.Clean`, then one leading slash off.
fn clean(pattern: &str) -> String {
    let rooted = pattern.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match parts.join("/") {
        empty if empty.is_empty() => if rooted { "/" } else { "." }.to_owned(),
        cleaned => cleaned,
    }
}

/// The pattern as a regular expression.
fn expression(pattern: &str) -> String {
    let mut out = String::from("(?s)^");
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '*' if !in_class && chars.peek() == Some(&'*') => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                out.push_str(if chars.peek().is_none() { ".*" } else { "(.*/)?" });
            }
            '*' if !in_class => out.push_str("[^/]*"),
            '?' if !in_class => out.push_str("[^/]"),
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '-' if in_class => out.push('-'),
            '\\' => out.push_str(&regex::escape(&chars.next().unwrap_or('\\').to_string())),
            literal => out.push_str(&regex::escape(&literal.to_string())),
        }
    }
    out.push('$');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_docker_says_that_they_mean() {
        // patterns, path, left out?
        let table: &[(&str, &str, bool)] = &[
            ("*.log", "a.log", true),
            ("*.log", "sub/a.log", false),
            ("**/*.log", "sub/deep/a.log", true),
            ("**/*.log", "a.log", true),
            ("sub", "sub/deep/a", true),
            ("sub/", "sub/deep/a", true),
            ("/sub", "sub/a", true),
            ("./sub/../sub", "sub/a", true),
            ("sub", "subway", false),
            ("sub/*", "sub/a", true),
            ("sub/*", "sub", false),
            ("*/temp*", "a/temporary.txt", true),
            ("*/temp*", "temporary.txt", false),
            ("*/*/temp*", "a/b/temp", true),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("temp?", "temp/", false),
            ("# comment\n#x\ny", "#x", false),
            (" y ", "y", true),
            ("\\#x", "#x", true),
            ("*\n!README.md", "README.md", false),
            ("*\n!README.md", "other", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", false),
            ("docs\n!docs/keep.md", "docs/keep.md", false),
            ("docs\n!docs/keep.md", "docs/drop.md", true),
            ("!a\n*", "a", true),
            ("**", "any/thing", true),
            ("a/**", "a/b/c", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("a/**/c", "a/xc", false),
            ("**/foo", "foo", true),
            ("**/foo", "x/foo/y", true),
            ("[ab].txt", "a.txt", true),
            ("[^ab].txt", "a.txt", false),
            ("[a-c]", "b", true),
            ("a.txt", "aXtxt", false),
            ("a+(b)", "a+(b)", true),
            ("\u{feff}x", "x", true),
            (".", "a", false),
            ("", "a", false),
            ("a\r\nb\r\n", "b", true),
        ];
        for (patterns, path, expected) in table {
            let file = IgnoreFile::parse(".dockerignore", patterns).unwrap();
            assert_eq!(file.ignores(path.as_bytes()), *expected, "{patterns:?} on {path:?}");
        }
    }

    #[test]
    fn a_folder_is_skipped_only_if_no_exception_can_reach_into_it() {
        let file = IgnoreFile::parse("x", "node_modules\ndocs\n!docs/keep/*.md").unwrap();
        assert!(!file.may_return_below("node_modules"));
        assert!(file.may_return_below("docs"));
        assert!(file.may_return_below("docs/keep"));
        assert!(IgnoreFile::parse("x", "a\n!**/keep").unwrap().may_return_below("a"));
        assert!(!IgnoreFile::parse("x", "a\n!ab").unwrap().may_return_below("a"));
    }

    #[test]
    fn a_pattern_that_means_nothing_is_named_with_its_line() {
        assert_eq!(
            IgnoreFile::parse(".dockerignore", "ok\n[").unwrap_err().to_string(),
            r#".dockerignore line 2: pattern "[" is not understood"#
        );
        assert!(IgnoreFile::parse(".dockerignore", "!").is_err());
    }
}
