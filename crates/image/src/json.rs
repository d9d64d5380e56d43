//! JSON that two readers cannot understand differently.
//!
//! A key twice is the last one to some readers and the first to others; Go's readers, which engines and registries are, also take
//! `Layers` for `layers`. So a document of an image has no key twice, none of the specification's in other letters, and is no deeper than
//! serde_json goes (128), at every place: also where nobody looks.

use serde::{
    Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use std::{collections::BTreeSet, fmt};

/// The words of the image specification: a key that is one of these in other letters is refused.
const WORDS: [&str; 13] = [
    "architecture",
    "config",
    "diff_ids",
    "digest",
    "layers",
    "manifests",
    "mediaType",
    "os",
    "platform",
    "rootfs",
    "schemaVersion",
    "urls",
    "variant",
];
/// Maps whose keys are their author's: labels, paths, ports.
const FREE: [&str; 5] = ["annotations", "Labels", "ExposedPorts", "Volumes", "OnBuild"];

/// The words of a docker archive's `manifest.json`, which begin with capitals; those of the specification mean nothing there.
const SAVED_WORDS: [&str; 5] = ["Config", "LayerSources", "Layers", "Parent", "RepoTags"];

/// Reads a document that comes from elsewhere; the reason of a refusal names the key.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    read_as(bytes, &WORDS)
}

/// The same of a docker archive's `manifest.json`.
pub(crate) fn read_saved<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    read_as(bytes, &SAVED_WORDS)
}

fn read_as<T: DeserializeOwned>(bytes: &[u8], words: &'static [&'static str]) -> Result<T, String> {
    check(bytes, words)?;
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Refuses bytes that are no such JSON; the reason names the key.
fn check(bytes: &[u8], words: &'static [&'static str]) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let checked = Keys { words, free: false }.deserialize(&mut reader).and_then(|()| reader.end());
    checked.map_err(|error| error.to_string())
}

/// Any value without a key twice, and without one of these words in other letters.
#[derive(Clone, Copy)]
struct Keys {
    words: &'static [&'static str],
    /// A map whose keys are its author's; what is in it is as anywhere.
    free: bool,
}

impl<'de> DeserializeSeed<'de> for Keys {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keys {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Self { free: false, ..self })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !self.free
                && let Some(word) = self.words.iter().find(|word| word.eq_ignore_ascii_case(&key) && **word != key)
            {
                return Err(de::Error::custom(format_args!("the key {key:?} is {word:?} to some readers")));
            }
            map.next_value_seed(Self { free: FREE.contains(&key.as_str()), ..self })?;
            if let Some(twice) = seen.replace(key) {
                return Err(de::Error::custom(format_args!("duplicate field `{twice}`")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_readers_understand_differently_is_refused() {
        for good in
            ["{}", "[]", "1", r#"{"a":{"a":[{"a":1},{"a":2}]},"config":{"Labels":{"Size":"1","size":"2"},"Env":[]}}"#]
        {
            assert_eq!(check(good.as_bytes(), &WORDS), Ok(()), "{good}");
        }
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        for (bad, why) in [
            (r#"{"a":1,"a":1}"#, "duplicate field"),
            (r#"{"a":[{"b":{"c":1,"c":2}}]}"#, "duplicate field"),
            (r#"{"annotations":{"a":"1","a":"2"}}"#, "duplicate field"),
            (r#"{"layers":[],"Layers":[]}"#, "\"layers\" to some readers"),
            (r#"{"manifests":[{"DIGEST":"x"}]}"#, "\"digest\" to some readers"),
            (r#"{"annotations":{"a":{"Layers":1}}}"#, "\"layers\" to some readers"),
            (r#"{"a":1"#, "EOF"),
            (r#"{"a":1}{}"#, "trailing"),
            (&deep, "recursion limit"),
        ] {
            let error = check(bad.as_bytes(), &WORDS).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
        let saved = |text: &str| check(text.as_bytes(), &SAVED_WORDS);
        assert_eq!(
            saved(r#"[{"Config":"c","Layers":["config"],"LayerSources":{"sha256:0":{"mediaType":"x"}}}]"#),
            Ok(())
        );
        for (bad, why) in [
            (r#"[{"Config":"c","config":"d"}]"#, "\"Config\" to some readers"),
            (r#"[{"Layers":[],"Layers":["x"]}]"#, "duplicate field"),
        ] {
            assert!(saved(bad).unwrap_err().contains(why), "{bad}");
        }
    }
}
