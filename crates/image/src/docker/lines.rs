//! Lines out of what arrives in pieces. A line without an end takes no more memory than any other: what is beyond its limit is dropped, and never told as a
//! line of its own, in which a secret would be cut in two and so not be known.

/// The longest line that is kept, in bytes; the rest of it is dropped.
pub(super) const LINE_LIMIT: usize = 4096;

/// What has arrived of a line.
#[derive(Default)]
pub(super) struct Lines(Vec<u8>);

/// A line without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    /// Whether there may have been more of it.
    pub(super) cut: bool,
}

impl Lines {
    /// Takes a piece, and gives the lines that it ends.
    pub(super) fn take(&mut self, piece: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for byte in piece {
            match byte {
                b'\n' => lines.push(self.end()),
                byte if self.0.len() < LINE_LIMIT => self.0.push(*byte),
                _ => {}
            }
        }
        lines
    }

    /// What stands without a newline at the end; it may be empty.
    pub(super) fn end(&mut self) -> Line {
        let bytes = std::mem::take(&mut self.0);
        let cut = bytes.len() >= LINE_LIMIT;
        let text = String::from_utf8_lossy(&bytes);
        // A character that was cut is none.
        let text = if cut { text.trim_end_matches(char::REPLACEMENT_CHARACTER) } else { &text };
        Line { text: text.trim_end().to_owned(), cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_what_is_too_long_is_dropped() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"one\r\ntw"), [Line { text: "one".to_owned(), cut: false }]);
        assert_eq!(lines.take(b"o\n").len(), 1);
        for _ in 0..1000 {
            assert_eq!(lines.take(&[b'x'; 1024]), []);
        }
        assert!(lines.0.capacity() <= 2 * LINE_LIMIT);
        let told = lines.take("é\nnext".as_bytes());
        assert_eq!(told, [Line { text: "x".repeat(LINE_LIMIT), cut: true }]);
        assert_eq!(lines.end(), Line { text: "next".to_owned(), cut: false });
        let mut long = vec![b'x'; LINE_LIMIT - 1];
        long.extend("é\n".as_bytes());
        assert_eq!(lines.take(&long), [Line { text: "x".repeat(LINE_LIMIT - 1), cut: true }]);
    }
}
