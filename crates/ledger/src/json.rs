//! Strict JSON: what two readers could understand differently is refused.
//!
//! `serde_json` keeps the last of two equal keys, other parsers the first: a signed text must not mean two things.

use crate::LedgerError;
use serde::{
    Serialize, Serializer,
    de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};
use serde_json::{Map, Number, Value};
use std::fmt;

/// How deep arrays and objects may be nested.
pub const MAX_DEPTH: usize = 64;

/// Parses one JSON text, refusing more than `limit` bytes, equal keys in one object, nesting beyond [`MAX_DEPTH`],
/// and anything after the text. `what` names the text in the error.
pub fn parse(what: &'static str, bytes: &[u8], limit: usize) -> Result<Value, LedgerError> {
    if bytes.len() > limit {
        return Err(LedgerError::TooLarge { what, bytes: bytes.len(), limit });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = Strict { depth: MAX_DEPTH }.deserialize(&mut deserializer);
    parsed
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| LedgerError::Json { what, why: error.to_string() })
}

/// JSON bytes with the keys of every object sorted and no spaces: the same value gives the same bytes, whatever
/// features of `serde_json` another crate of the build turned on.
pub(crate) fn canonical(value: &Value) -> Result<Vec<u8>, LedgerError> {
    serde_json::to_vec(&Sorted(value)).map_err(|error| LedgerError::Unsignable { why: error.to_string() })
}

pub(crate) struct Sorted<'a>(pub(crate) &'a Value);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => {
                let mut sequence = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    sequence.serialize_element(&Sorted(item))?;
                }
                sequence.end()
            }
            Value::Object(members) => {
                let mut members: Vec<(&String, &Value)> = members.iter().collect();
                members.sort_by_key(|(key, _)| *key);
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    map.serialize_entry(key, &Sorted(value))?;
                }
                map.end()
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        match self.depth {
            0 => Err(E::custom(format!("it is nested deeper than {MAX_DEPTH}"))),
            depth => Ok(Self { depth: depth - 1 }),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(inner)?;
            if members.contains_key(&key) {
                return Err(de::Error::custom(format!("the key {:?} is given twice", short(&key))));
            }
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

/// The first 80 characters: errors quote hostile text.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn why(text: &str) -> String {
        parse("payload", text.as_bytes(), 1 << 20).unwrap_err().to_string()
    }

    #[test]
    fn values_come_through_unchanged() {
        let text = r#"{"a":[1,-2,2.5,true,null,"ä\n"],"b":{"c":18446744073709551615}}"#;
        let value = parse("payload", text.as_bytes(), 1 << 20).unwrap();
        assert_eq!(value, json!({"a": [1, -2, 2.5, true, null, "ä\n"], "b": {"c": u64::MAX}}));
        assert_eq!(
            canonical(&json!({"b": 1, "a": {"d": 2, "c": [ {"z": 0, "y": 0} ]}})).unwrap(),
            br#"{"a":{"c":[{"y":0,"z":0}],"d":2},"b":1}"#
        );
    }

    #[test]
    fn ambiguity_is_refused_in_words() {
        assert!(why(r#"{"a":{"k":1,"k":2}}"#).contains(r#"the key "k" is given twice"#));
        // The same key in another spelling.
        assert!(why(r#"{"k":1,"\u006b":2}"#).contains("given twice"));
        assert!(why("{} {}").contains("trailing characters"));
        assert!(why("1e999").contains("out of range"));
        assert!(why("{\"a\":NaN}").contains("not acceptable JSON"));
        assert!(why("").contains("EOF"));
        assert!(parse("payload", b"\"\xff\"", 99).is_err());
        assert!(why(r#""\ud800""#).contains("surrogate") || why(r#""\ud800""#).contains("hex escape"));
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse("payload", nested(MAX_DEPTH).as_bytes(), 1 << 20).is_ok());
        assert!(why(&nested(MAX_DEPTH + 1)).contains("nested deeper than 64"));
        assert!(why(&nested(10_000)).contains("nested deeper than 64"));
        assert!(why(&"{\"a\":".repeat(10_000)).contains("nested deeper than 64"));
        let error = parse("payload", b"[1,2]", 4).unwrap_err();
        assert_eq!(error, LedgerError::TooLarge { what: "payload", bytes: 5, limit: 4 });
    }
}
