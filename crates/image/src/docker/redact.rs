//! Secrets out of what a build prints.

use domain::secret::Secret;
use std::collections::BTreeMap;

/// A line of a secret that is shorter is no secret by itself: it would blank out half of every log.
const SHORTEST_LINE: usize = 6;

/// Replaces secrets wherever the engine's words reach us: lines, steps, causes.
#[derive(Clone, Default)]
pub(super) struct Redactor(Vec<String>);

impl Redactor {
    pub(super) fn new(secrets: &BTreeMap<String, Secret>) -> Self {
        let mut all = Vec::new();
        for secret in secrets.values() {
            let value = secret.reveal();
            all.extend([value, value.trim()].map(str::to_owned));
            // Output is read line by line, and so a secret of several lines comes as its lines.
            all.extend(value.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE).map(str::to_owned));
        }
        all.retain(|text| !text.trim().is_empty());
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        Self(all)
    }

    pub(super) fn clean(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| {
            if text.contains(secret.as_str()) { text.replace(secret.as_str(), "[redacted]") } else { text }
        })
    }

    /// The same for a line whose end is missing: a secret that begins there and was cut is not known, and goes too.
    pub(super) fn clean_cut(&self, text: &str) -> String {
        let mut text = self.clean(text);
        let begun = |secret: &String| {
            let lengths = secret.char_indices().map(|(length, _)| length).take_while(|length| *length <= text.len());
            lengths.filter(|length| text.ends_with(&secret[..*length])).last().unwrap_or(0)
        };
        let begun = self.0.iter().map(begun).max().unwrap_or(0);
        text.truncate(text.len() - begun);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_replaced_whole_trimmed_and_line_by_line() {
        let secrets = BTreeMap::from([
            ("a".to_owned(), Secret::new("hunter2-long\n")),
            ("b".to_owned(), Secret::new("-----BEGIN\nabcdef012345\nxyz\n")),
            ("c".to_owned(), Secret::new("")),
            ("d".to_owned(), Secret::new("hunter2")),
        ]);
        let redactor = Redactor::new(&secrets);
        assert_eq!(redactor.clean("x hunter2-long y hunter2"), "x [redacted] y [redacted]");
        assert_eq!(redactor.clean("key abcdef012345."), "key [redacted].");
        assert_eq!(redactor.clean("xyz stays"), "xyz stays");
        assert_eq!(Redactor::default().clean("plain"), "plain");
        assert_eq!(redactor.clean_cut("a hunter2 b hunt"), "a [redacted] b ");
        assert_eq!(redactor.clean_cut("plain"), "plain");
        assert_eq!(Redactor::default().clean_cut("plain"), "plain");
    }
}
