//! Keys to paths below a bucket's directory, and back; see the module above for the rules.

use std::path::PathBuf;

/// Longer parts of a key are broken, because file names have at most 255 bytes and every byte may become three.
const BREAK: usize = 80;

/// What a name in a bucket's directory stands for, with its decoded bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// An object; the rest of its key.
    Object(Vec<u8>),
    /// A directory of a key part; the part.
    Part(Vec<u8>),
    /// A directory of the beginning of a long part.
    Beginning(Vec<u8>),
}

/// The file of an object, relative to its bucket's directory.
pub(super) fn path_of(key: &str) -> PathBuf {
    let mut path = PathBuf::new();
    let mut parts = key.split('/').peekable();
    while let Some(part) = parts.next() {
        let mut rest = part.as_bytes();
        while rest.len() >= BREAK {
            path.push(escape(&rest[..BREAK]) + "+");
            rest = &rest[BREAK..];
        }
        let name = escape(rest);
        path.push(match (parts.peek(), name.is_empty()) {
            (None, _) => name + "@",
            (Some(_), true) => "%".to_owned(),
            (Some(_), false) => name,
        });
    }
    path
}

/// What a file name stands for; `None` when it is not one of ours.
pub(super) fn entry_of(name: &str) -> Option<Entry> {
    if let Some(name) = name.strip_suffix('@') {
        return Some(Entry::Object(unescape(name)?));
    }
    if let Some(name) = name.strip_suffix('+') {
        return Some(Entry::Beginning(unescape(name)?));
    }
    Some(Entry::Part(if name == "%" { Vec::new() } else { unescape(name)? }))
}

fn escape(bytes: &[u8]) -> String {
    let mut name = String::with_capacity(bytes.len());
    for (position, &byte) in bytes.iter().enumerate() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'=' | b',' => name.push(char::from(byte)),
            b'.' if position > 0 => name.push('.'),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

fn unescape(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let digits = rest.get(..2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = &rest[2..];
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'=' | b',' | b'.' => bytes.push(first),
            _ => return None,
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_and_a_key_below_it_have_different_files() {
        assert_eq!(path_of("a").to_str(), Some("a@"));
        assert_eq!(path_of("a/b").to_str(), Some("a/b@"));
        assert_eq!(path_of("../x/").to_str(), Some("%2E./x/@"));
        assert_eq!(path_of("a//b").to_str(), Some("a/%/b@"));
        assert_eq!(path_of("a@").to_str(), Some("a%40@"));
    }

    proptest! {
        #[test]
        fn a_path_gives_its_key_back(key in "[ -~äöü/.]{1,300}") {
            let mut bytes = Vec::new();
            for name in path_of(&key).iter() {
                let name = name.to_str().unwrap();
                prop_assert!(name.len() <= 255 && name != "." && name != "..");
                match entry_of(name).unwrap() {
                    Entry::Object(rest) | Entry::Beginning(rest) => bytes.extend(rest),
                    Entry::Part(part) => {
                        bytes.extend(part);
                        bytes.push(b'/');
                    }
                }
            }
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), key);
        }
    }
}
