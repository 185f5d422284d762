//! A configuration file in JSON.
//!
//! JSON is valid YAML, and programs often write it. The JSON parser is several times as fast: a thousand backends take a
//! fraction of a millisecond.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// YAML merges the value of this key into its mapping.
const MERGE: &str = "<<";

/// Parses a JSON object that has the same meaning in YAML, without duplicate keys. Otherwise `None`; the YAML parser then
/// reads it or reports the error.
pub(super) fn read(text: &str) -> Option<Value> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(text).ok().map(|Strict(value)| value)
}

/// A value without duplicate keys.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        let number = Number::from_f64(number).ok_or_else(|| E::custom("not a finite number"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let Strict(value) = entries.next_value()?;
            if key == MERGE || map.insert(key, value).is_some() {
                return Err(A::Error::custom("a key that is there already, or merges others"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::document::read_yaml;
    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u32>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            (0_u16..1000).prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
            // YAML has no control characters, quoted or not.
            "[ -~\u{a1}-\u{2ff}]{0,12}".prop_map(Value::from),
            prop::sample::select(vec!["53", "off", "yes", "~", "1e3", "", "- a", "a: b", "#"])
                .prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-zA-Z0-9 ]{1,8}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_means_the_same_as_yaml(value in values(), pretty: bool) {
            let value = serde_json::json!({"services": value});
            let text = if pretty { format!("\n{value:#}\n") } else { value.to_string() };
            prop_assert_eq!(read(&text), Some(value));
            prop_assert_eq!(read(&text), read_yaml(&text).ok());
        }
    }

    #[test]
    fn ambiguous_json_is_left_to_the_yaml_parser() {
        for text in [
            "",
            "[]",
            "null",
            "interface: nsm-1",
            "{interface: nsm-1}",
            "{\"a\": 1",
            "{\"a\": 1} # a comment",
            "{\"a\": 1, \"a\": 1}",
            "{\"services\": [{\"a\": 1, \"b\": 2, \"a\": 3}]}",
            "{\"<<\": {\"a\": 1}}",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
