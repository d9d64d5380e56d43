//! `.dir` objects: the files of a directory, byte for byte as Python's `json.dumps(…, sort_keys=True)` writes them.
//!
//! A listing that names a path twice, a path below a file, or a path that leads elsewhere is refused as a whole, before
//! anything of it is used.

use super::hash::Sum;
use crate::path;
use serde::Deserialize;
use std::fmt::Write as _;

/// The largest `.dir` that is read.
pub(crate) const LARGEST: u64 = 256 << 20;

/// One file of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Raw bytes of its path below the directory.
    pub path: Vec<u8>,
    /// Its content.
    pub sum: Sum,
}

/// The bytes of the object; `files` in any order.
pub fn write(files: &mut [Listed]) -> Vec<u8> {
    files.sort_by_cached_key(|file| code_points(&file.path));
    let mut text = String::from("[");
    for (number, file) in files.iter().enumerate() {
        if number > 0 {
            text.push_str(", ");
        }
        let _ = write!(text, "{{\"md5\": \"{}\", \"relpath\": ", file.sum);
        string(&mut text, &file.path);
        text.push('}');
    }
    text.push(']');
    text.into_bytes()
}

/// A path as Python has it: code points, and a lone surrogate for each byte that is no UTF-8.
fn code_points(bytes: &[u8]) -> Vec<u32> {
    let mut points = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        points.extend(chunk.valid().chars().map(u32::from));
        points.extend(chunk.invalid().iter().map(|byte| 0xdc00 + u32::from(*byte)));
    }
    points
}

fn string(text: &mut String, bytes: &[u8]) {
    text.push('"');
    for point in code_points(bytes) {
        match point {
            0x22 => text.push_str("\\\""),
            0x5c => text.push_str("\\\\"),
            0x08 => text.push_str("\\b"),
            0x0c => text.push_str("\\f"),
            0x0a => text.push_str("\\n"),
            0x0d => text.push_str("\\r"),
            0x09 => text.push_str("\\t"),
            0x20..=0x7e => text.extend(char::from_u32(point)),
            0x1_0000.. => {
                let rest = point - 0x1_0000;
                let _ = write!(text, "\\u{:04x}\\u{:04x}", 0xd800 + (rest >> 10), 0xdc00 + (rest & 0x3ff));
            }
            _ => {
                let _ = write!(text, "\\u{point:04x}");
            }
        }
    }
    text.push('"');
}

#[derive(Deserialize)]
struct Item {
    md5: String,
    relpath: RelPath,
}

/// A JSON string that may hold lone surrogates, which stand for bytes.
struct RelPath(Vec<u8>);

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = RelPath;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<RelPath, E> {
                without_surrogates(bytes).map(RelPath).ok_or_else(|| E::custom("a path with half a character"))
            }
        }
        // Asked for bytes, the parser gives a lone surrogate as the three bytes that UTF-8 would have for it.
        deserializer.deserialize_bytes(Visitor)
    }
}

/// `ED B2 80`…`ED B3 BF` are U+DC80…U+DCFF: bytes 80…FF of the name. Other surrogates are none of a name.
fn without_surrogates(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut raw = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        if first == 0xed
            && let [second @ 0xa0..=0xbf, third, after @ ..] = tail
        {
            let point = 0xd000 | (u32::from(*second) & 0x3f) << 6 | u32::from(*third) & 0x3f;
            if !(0xdc80..=0xdcff).contains(&point) {
                return None;
            }
            raw.push((point & 0xff) as u8);
            rest = after;
        } else {
            raw.push(first);
            rest = tail;
        }
    }
    Some(raw)
}

/// Reads a listing; `Err` says what is wrong with it. The result is in byte order of path.
pub fn read(bytes: &[u8]) -> Result<Vec<Listed>, String> {
    let items: Vec<Item> = serde_json::from_slice(bytes).map_err(|error| format!("is no list of files ({error})"))?;
    let mut files = Vec::with_capacity(items.len());
    for item in items {
        let shown = path::shown(&item.relpath.0);
        let sum = Sum::parse(&item.md5).ok_or_else(|| format!("has no MD5 of {shown}"))?;
        files.push(Listed { path: item.relpath.0, sum });
    }
    sorted(&mut files, |file| &file.path)?;
    Ok(files)
}

/// Brings entries in byte order of path, and says what keeps their paths from being a tree.
pub(crate) fn sorted<T>(entries: &mut [T], path_of: impl Fn(&T) -> &Vec<u8>) -> Result<(), String> {
    entries.sort_by(|a, b| path_of(a).cmp(path_of(b)));
    let mut all = std::collections::HashSet::with_capacity(entries.len());
    for entry in entries.iter() {
        let path = path_of(entry);
        if let Some(problem) = path::problem(path) {
            return Err(format!("names {:?}: {problem}", path::shown(path)));
        }
        if !all.insert(path.as_slice()) {
            return Err(format!("names {} twice", path::shown(path)));
        }
    }
    for entry in entries.iter() {
        let path = path_of(entry);
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            if all.contains(&path[..at]) {
                return Err(format!("has {} as a file and as a folder", path::shown(&path[..at])));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &str = r#"[{"md5": "9dd4e461268c8034f5c8564e155c67a6", "relpath": "a-b/x"}, {"md5": "a53108f7543b75adbb34afc035d4cdf6", "relpath": "link"}, {"md5": "7b774effe4a349c6dd82ad4f4f21d34c", "relpath": "na\u00efve \ud83d\ude00.txt"}, {"md5": "e1671797c52e15f763380b45e841ec32", "relpath": "q\"uo\tte.txt"}, {"md5": "a53108f7543b75adbb34afc035d4cdf6", "relpath": "run.sh"}, {"md5": "7ac062d8a84466e70d9b899c0821a51c", "relpath": "sub/crlf.txt"}, {"md5": "d41d8cd98f00b204e9800998ecf8427e", "relpath": "zero"}]"#;

    #[test]
    fn the_golden_listing_is_written_byte_for_byte() {
        assert_eq!(GOLDEN.len(), 491);
        let mut files = read(GOLDEN.as_bytes()).unwrap();
        assert_eq!(files[2].path, "naïve 😀.txt".as_bytes());
        files.reverse();
        assert_eq!(String::from_utf8(write(&mut files)).unwrap(), GOLDEN);
        assert_eq!(Sum::of(&write(&mut files)).to_string(), "c9e54dcdc25c1fb64ed81c81d26609fd");
        assert_eq!(write(&mut []), b"[]");
    }

    #[test]
    fn names_that_are_no_text_are_as_python_has_them() {
        let sum = Sum([0x11; 16]);
        let paths: [&[u8]; 5] = [b"\xff\n", b"\x7f", b"a/b", b"\xf0\x9f\x98\x80", b"\xef\xbf\xbd"];
        let mut files: Vec<Listed> = paths.iter().map(|path| Listed { path: path.to_vec(), sum }).collect();
        let text = String::from_utf8(write(&mut files)).unwrap();
        let order = ["a/b", r"\u007f", r"\udcff\n", r"\ufffd", r"\ud83d\ude00"];
        let places: Vec<usize> = order.iter().map(|name| text.find(&format!("\"{name}\"")).expect(name)).collect();
        assert!(places.is_sorted(), "{text}");
        let mut back = read(text.as_bytes()).unwrap();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        assert_eq!(back, files);
        assert_eq!(write(&mut back), text.as_bytes());
    }

    #[test]
    fn hostile_listings_are_refused() {
        let item = |path: &str| format!("{{\"md5\": \"d41d8cd98f00b204e9800998ecf8427e\", \"relpath\": \"{path}\"}}");
        for paths in [
            &["../x"][..],
            &["/etc/passwd"],
            &["a/../../b"],
            &[""],
            &["a\\u0000b"],
            &["a//b"],
            &["./a"],
            &["a", "a"],
            &["a", "a-b", "a/b"],
            &["\\ud800"],
            &["\\udc41"],
        ] {
            let text = format!("[{}]", paths.iter().map(|path| item(path)).collect::<Vec<_>>().join(", "));
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        for text in ["", "{}", "[1]", "[{\"md5\": \"zz\", \"relpath\": \"a\"}]", "[{\"relpath\": \"a\"}]", "[[[[[["] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read("[".repeat(1_000_000).as_bytes()).is_err(), "a deep one");
        let swapped = r#"[ {"relpath":"a", "md5":"d41d8cd98f00b204e9800998ecf8427e", "size": 0} ]"#;
        assert_eq!(read(swapped.as_bytes()).unwrap().len(), 1, "other spellings of the same JSON are read");
    }

    proptest! {
        #[test]
        fn listings_round_trip(paths in proptest::collection::btree_set(proptest::collection::vec(1u8.., 1..12), 0..20)) {
            let usable = |path: &Vec<u8>| path::problem(path).is_none() && !path.contains(&b'/');
            let mut files: Vec<Listed> = paths.into_iter().filter(usable).map(|path| Listed { sum: Sum::of(&path), path }).collect();
            let bytes = write(&mut files);
            files.sort_by(|a, b| a.path.cmp(&b.path));
            prop_assert_eq!(read(&bytes).unwrap(), files);
        }
    }
}
