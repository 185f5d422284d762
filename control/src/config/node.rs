//! Reads a tree of values by path and collects all errors.
//!
//! serde would stop at the first error and name types instead of the allowed values. Here an invalid value adds an error
//! and is replaced by its default; callers check for errors before they use the result.

use std::fmt;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::error::ConfigError;

/// The position of a value: a path, or an item of the list at that path. Formatted for errors only, because a file may
/// have thousands of valid items.
#[derive(Debug, Clone)]
pub(super) struct Position {
    path: Rc<str>,
    item: Option<usize>,
}

impl From<&str> for Position {
    fn from(path: &str) -> Self {
        Self {
            path: path.into(),
            item: None,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.item {
            Some(item) => write!(f, "{}[{item}]", self.path),
            None => f.write_str(&self.path),
        }
    }
}

impl Position {
    /// The position of `key` in the mapping at this place.
    fn key(&self, key: &str) -> String {
        let key = if key.is_empty() { "\"\"" } else { key };
        match (self.item, &*self.path) {
            (None, "") => key.to_owned(),
            _ => format!("{self}.{key}"),
        }
    }
}

/// The keys of one mapping, with its position.
pub(super) struct Section<'a> {
    place: Position,
    entries: Option<&'a Map<String, Value>>,
    /// False if the value is no mapping, for which there is an error already.
    readable: bool,
    errors: &'a mut Vec<ConfigError>,
}

impl<'a> Section<'a> {
    /// Reads `value` as a mapping; keys other than `known` are errors. An absent value is an empty mapping.
    pub(super) fn new(
        place: impl Into<Position>,
        value: Option<&'a Value>,
        known: &[&str],
        errors: &'a mut Vec<ConfigError>,
    ) -> Self {
        let place = place.into();
        let mut readable = true;
        let entries = match value {
            None | Some(Value::Null) => None,
            Some(Value::Object(entries)) => Some(entries),
            Some(other) => {
                let path = place.to_string();
                let field = if path.is_empty() { "configuration" } else { &path };
                errors.push(ConfigError::new(
                    field,
                    shown(other),
                    format!("a mapping of {}", known.join(", ")),
                ));
                readable = false;
                None
            }
        };
        let unknown = entries.into_iter().flat_map(Map::iter);
        for (key, value) in unknown.filter(|(key, _)| !known.contains(&key.as_str())) {
            errors.push(ConfigError::new(
                place.key(key),
                format!("unknown key (value {})", shown(value)),
                known.join(", "),
            ));
        }
        Self {
            place,
            entries,
            readable,
            errors,
        }
    }

    /// The path of `key`.
    pub(super) fn path(&self, key: &str) -> String {
        self.place.key(key)
    }

    /// The raw value of `key`; an empty one (null) counts as absent.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.entries?.get(key).filter(|value| !value.is_null())
    }

    /// The value of `key` after `parse`; `None` if it is absent or invalid. If only its quotes are, the error says so.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let parsed = parse(value);
        if parsed.is_none() {
            match without_quotes(value).filter(|bare| parse(bare).is_some()) {
                Some(_) => self.reject(key, quoted(value), format!("{allowed}, without quotes")),
                None => self.reject(key, shown(value), allowed),
            }
        }
        parsed
    }

    /// The text of `key` after `parse`; `None` if it is absent or invalid. A number, boolean or null is invalid whatever its
    /// spelling: YAML has lost that.
    pub(super) fn optional_text<T>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.entries?.get(key)?;
        if let Some((value, remedy)) = unquoted_text(value) {
            self.reject(key, value, format!("{allowed}{remedy}"));
            return None;
        }
        self.optional(key, allowed, |value| parse(value.as_str()?))
    }

    /// As [`Self::optional_text`], but the key must be there.
    pub(super) fn required_text<T>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let is_there = self.entries.is_some_and(|entries| entries.contains_key(key));
        if self.readable && !is_there {
            self.reject(key, "missing", allowed);
            return None;
        }
        self.optional_text(key, allowed, parse)
    }

    /// As [`Self::optional`], but the key must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        if self.readable && self.value(key).is_none() {
            self.reject(key, "missing", allowed);
            return None;
        }
        self.optional(key, allowed, parse)
    }

    /// The items of the list at `key`, each with its path; none if it is absent.
    pub(super) fn list(&mut self, key: &str, allowed: &str) -> Vec<(Position, &'a Value)> {
        match self.value(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let path: Rc<str> = self.path(key).into();
                let place = |item| Position {
                    path: Rc::clone(&path),
                    item: Some(item),
                };
                let items = items.iter().enumerate();
                items.map(|(index, item)| (place(index), item)).collect()
            }
            Some(other) => {
                self.reject(key, shown(other), allowed);
                Vec::new()
            }
        }
    }

    /// Adds an error for `value` at `key`.
    pub(super) fn reject(&mut self, key: &str, value: impl Into<String>, allowed: impl Into<String>) {
        let field = self.path(key);
        self.errors.push(ConfigError::new(field, value, allowed));
    }

    /// The list of errors, for nested sections.
    pub(super) fn errors(&mut self) -> &mut Vec<ConfigError> {
        self.errors
    }
}

/// A value in an error: scalars as text, others as one line of JSON.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() || text.contains(char::is_whitespace) => {
            format!("{text:?}")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A duration or the port of a server as text: `0` and `"0"` are the same.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// For a value in the place of a text that YAML has read as a number, boolean or null: that value, and the remedy with a
/// leading separator. `version: 1.10` has become 1.1 then, and `007` 7.
pub(super) fn unquoted_text(value: &Value) -> Option<(String, &'static str)> {
    match value {
        Value::Number(number) => Some((
            format!("the number {number}"),
            "; put it in quotes, so that it stays the text that it is",
        )),
        Value::Bool(truth) => Some((
            format!("the boolean {truth}"),
            "; put it in quotes, so that it stays the text that it is",
        )),
        Value::Null => Some((
            "null".to_owned(),
            "; put it in quotes if it is a text, or leave the key out",
        )),
        Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What a quoted number or boolean would be without its quotes; also for the items of a list.
fn without_quotes(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) => {
            let bare: Value = serde_json::from_str(text.trim()).ok()?;
            (bare.is_number() || bare.is_boolean()).then_some(bare)
        }
        Value::Array(items) => {
            let bare = |item: &Value| without_quotes(item).unwrap_or_else(|| item.clone());
            Some(Value::Array(items.iter().map(bare).collect()))
        }
        _ => None,
    }
}

/// A value with its quotes, in an error about them.
fn quoted(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?} in quotes"),
        other => format!("{other} with quotes"),
    }
}

/// An integer within `range`; quoted numbers are invalid.
pub(super) fn number(value: &Value, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
    value.as_u64().filter(|number| range.contains(number))
}
