//! Changes of JSON documents by their structure, for fuzz targets. For bytes see `vl3lb_testbed::mutation`.

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Map, Value};
use vl3lb_testbed::mutation::change_text;

/// Changes one value of `document`, chosen evenly among all: it becomes a special value or one of `words`, is removed,
/// doubled, wrapped, changed as text, or takes the place of another one.
pub(crate) fn change_json(rng: &mut StdRng, document: &mut Value, words: &[Value]) {
    let count = values(document);
    let other = value_at(document, &mut rng.random_range(0..count))
        .cloned()
        .unwrap_or_default();
    let Some(value) = value_at(document, &mut rng.random_range(0..count)) else {
        return;
    };
    match rng.random_range(0..10) {
        0 | 1 if !words.is_empty() => *value = words[rng.random_range(0..words.len())].clone(),
        2 => *value = special(rng),
        3 => *value = other,
        4 => *value = Value::Array(vec![value.take()]),
        5 => *value = Value::Object(Map::from_iter([("key".to_owned(), value.take())])),
        _ => change_inside(rng, value, other),
    }
}

/// Changes what `value` consists of.
fn change_inside(rng: &mut StdRng, value: &mut Value, other: Value) {
    match value {
        Value::Null | Value::Bool(_) => *value = special(rng),
        Value::Number(number) => {
            let near = number.as_i64().unwrap_or_default();
            *value = match rng.random_range(0..4) {
                0 => near.wrapping_add(1).into(),
                1 => near.wrapping_neg().into(),
                2 => number.to_string().into(),
                _ => special(rng),
            };
        }
        Value::String(text) => change_text(rng, text),
        Value::Array(items) => match (rng.random_range(0..4), items.len()) {
            (0, 1..) => drop(items.remove(rng.random_range(0..items.len()))),
            (1, 1..) => {
                let item = items[rng.random_range(0..items.len())].clone();
                items.insert(rng.random_range(0..=items.len()), item);
            }
            (2, 2..) => {
                let (one, two) = (rng.random_range(0..items.len()), rng.random_range(0..items.len()));
                items.swap(one, two);
            }
            _ => items.push(other),
        },
        Value::Object(entries) => {
            let key = (!entries.is_empty())
                .then(|| entries.keys().nth(rng.random_range(0..entries.len())).cloned())
                .flatten();
            match (rng.random_range(0..3), key) {
                (0, Some(key)) => drop(entries.remove(&key)),
                (1, Some(key)) => {
                    let value = entries.remove(&key).unwrap_or_default();
                    let mut key = key;
                    change_text(rng, &mut key);
                    entries.insert(key, value);
                }
                (_, key) => {
                    let mut key = key.unwrap_or_default();
                    change_text(rng, &mut key);
                    entries.insert(key, other);
                }
            }
        }
    }
}

/// A value that programs tend to misread.
fn special(rng: &mut StdRng) -> Value {
    const TEXTS: [&str; 24] = [
        "",
        " ",
        "0",
        "-1",
        "1.10",
        "007",
        "0x1f",
        "12e4",
        "true",
        "no",
        "off",
        "null",
        "~",
        "\u{0}",
        "\n",
        "é",
        "a/b",
        "*",
        "::1",
        "0.0.0.0",
        "255.255.255.255",
        "172.16.1.2",
        "1970-01-01T00:00:00Z",
        "99999999999999999999",
    ];
    match rng.random_range(0..10) {
        0 => Value::Null,
        1 => Value::Bool(rng.random()),
        2 => Value::from(rng.random::<i64>()),
        3 => Value::from(
            [0, 1, 65_535, 65_536, i64::from(i32::MIN), i64::from(i32::MAX)][rng.random_range(0..6)],
        ),
        4 => Value::from([0.0, -0.5, 1.5, 1e300][rng.random_range(0..4)]),
        5 => Value::Array(Vec::new()),
        6 => Value::Object(Map::new()),
        7 => Value::from("x".repeat(rng.random_range(0..300))),
        _ => Value::from(TEXTS[rng.random_range(0..TEXTS.len())]),
    }
}

/// The number of values in `document`, itself included.
pub(crate) fn values(document: &Value) -> usize {
    1 + match document {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(entries) => entries.values().map(values).sum(),
        _ => 0,
    }
}

/// The value number `number`, in the order of a walk. Afterwards `number` is how many were missing.
fn value_at<'a>(document: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return Some(document);
    }
    *number -= 1;
    match document {
        Value::Array(items) => items.iter_mut().find_map(|item| value_at(item, number)),
        Value::Object(entries) => entries.values_mut().find_map(|value| value_at(value, number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_value_of_a_document_is_reached() {
        let mut document = json!({"a": [1, {"b": null}], "c": "text"});
        assert_eq!(values(&document), 6);
        for number in 0..6 {
            assert!(value_at(&mut document, &mut { number }).is_some(), "{number}");
        }
        assert!(value_at(&mut document, &mut 6).is_none());
    }

    #[test]
    fn most_changes_change_and_a_seed_repeats_them() {
        let before = json!({"services": [{"name": "finance", "port": 8080}], "dns": {"zone": "a"}});
        let changed = |seed| {
            let mut document = before.clone();
            change_json(&mut StdRng::seed_from_u64(seed), &mut document, &[json!("word")]);
            document
        };
        assert!((0..200).filter(|seed| changed(*seed) != before).count() > 150);
        assert_eq!(changed(7), changed(7));
    }
}
