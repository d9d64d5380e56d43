//! Paths inside a snapshot: bytes, `/` between components, escaped in text.

use std::fmt::Write as _;

/// The longest path or link target, in bytes (`PATH_MAX` of Linux, with its NUL).
pub(crate) const LONGEST: usize = 4095;

/// Escapes bytes for a manifest: everything but printable ASCII, and `%` and the space, becomes `%XX`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 8);
    for &byte in bytes {
        if matches!(byte, 0x21..=0x7e) && byte != b'%' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// Undoes [`escape`]. `None` for text that [`escape`] does not produce, so that every path has one spelling.
pub fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let byte = match tail {
                [high, low, ..] => hexadecimal(*high)? << 4 | hexadecimal(*low)?,
                _ => return None,
            };
            if matches!(byte, 0x21..=0x7e) && byte != b'%' {
                return None;
            }
            bytes.push(byte);
            rest = &tail[2..];
        } else if matches!(first, 0x21..=0x7e) {
            bytes.push(first);
            rest = tail;
        } else {
            return None;
        }
    }
    Some(bytes)
}

fn hexadecimal(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Why these bytes cannot be a path inside a snapshot, if they cannot.
pub(crate) fn problem(path: &[u8]) -> Option<&'static str> {
    if path.is_empty() {
        return Some("the path is empty");
    }
    if path.len() > LONGEST {
        return Some("the path is longer than 4095 bytes");
    }
    if path[0] == b'/' {
        return Some("the path is absolute");
    }
    if path.contains(&0) {
        return Some("the path holds a NUL byte");
    }
    path.split(|byte| *byte == b'/').find_map(|component| match component {
        b"" => Some("the path has an empty component"),
        b"." | b".." => Some("the path has a component '.' or '..'"),
        _ => None,
    })
}

/// Whether a component is what git keeps itself in, also on a file system that does not tell letters of either case apart or
/// passes over letters that cannot be seen, as HFS+ does. Whoever writes there decides what git runs.
pub(crate) fn leads_into_git(path: &std::path::Path) -> bool {
    let unseen = |letter: &char| matches!(letter, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    path.components().any(|part| {
        let name = part.as_os_str().to_string_lossy();
        name.chars().filter(|letter| !unseen(letter)).collect::<String>().eq_ignore_ascii_case(".git")
    })
}

/// A path for people: invalid UTF-8 replaced, control characters escaped.
pub fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escaping_is_readable_and_has_one_spelling() {
        assert_eq!(escape(b"a b/100%\n\xff"), "a%20b/100%25%0A%FF");
        for wrong in ["a b", "%41", "%2", "%", "%ff", "%zz", "ä", "\n"] {
            assert_eq!(unescape(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for bad in [&b""[..], b"/a", b"../a", b"a/..", b"a//b", b"a/", b"./a", b"a\0b", &[b'a'; 5000]] {
            assert!(problem(bad).is_some(), "{bad:?}");
        }
        for good in [&b"a"[..], b"a/b", b"..a/b..", b"\xff/\n"] {
            assert_eq!(problem(good), None, "{good:?}");
        }
        assert_eq!(shown(b"a\n\xff"), "a\\n\u{fffd}");
    }

    #[test]
    fn the_folder_of_git_is_known_however_it_is_spelled() {
        for bad in [".git", "a/.git/hooks", ".GIT/x", "sub/.Git", ".g\u{200c}it", "a/.git\u{feff}/b"] {
            assert!(leads_into_git(std::path::Path::new(bad)), "{bad:?}");
        }
        for good in ["git", ".github/x", "a.git", "a/.gitignore", "..git"] {
            assert!(!leads_into_git(std::path::Path::new(good)), "{good:?}");
        }
    }

    proptest! {
        #[test]
        fn escaping_round_trips(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let text = escape(&bytes);
            prop_assert_eq!(unescape(text.as_bytes()), Some(bytes));
        }

        #[test]
        fn what_unescapes_escapes_back(text in "[ -~]{0,20}") {
            if let Some(bytes) = unescape(text.as_bytes()) {
                prop_assert_eq!(escape(&bytes), text);
            }
        }
    }
}
