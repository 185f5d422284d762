//! Label selectors of Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::error::ConfigError;
use super::node::{self, Section};

/// The valid selectors, for errors.
pub(super) const SELECTOR_FORM: &str =
    "a mapping of labels to values, or text such as \"app=finance,tier in (web,api),!canary\"";

/// Requirements on labels, all of which must be met. An empty selector selects all objects.
///
/// Written as a mapping (`{app: finance}`) of labels and values, or as text in the syntax of `kubectl get -l`:
/// `app=finance,tier in (web,api),env!=test,zone,!canary`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: BTreeSet<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Requirement {
    label: String,
    rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    In(BTreeSet<String>),
    /// Also met where the label is missing.
    NotIn(BTreeSet<String>),
    Exists,
    Missing,
}

impl Selector {
    /// Whether there are no requirements.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object with `labels` is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.is_met(labels.get(&requirement.label)))
    }

    /// A label that an object must have, with the allowed values; `None` if there is no such requirement.
    pub fn demanded_values(&self) -> Option<(&str, &BTreeSet<String>)> {
        self.requirements
            .iter()
            .find_map(|requirement| match &requirement.rule {
                Rule::In(values) => Some((requirement.label.as_str(), values)),
                Rule::NotIn(_) | Rule::Exists | Rule::Missing => None,
            })
    }

    /// Each label with its required value or rule.
    pub fn shown(&self) -> BTreeMap<String, String> {
        let mut shown: BTreeMap<String, String> = BTreeMap::new();
        for Requirement { label, rule } in &self.requirements {
            let text = match rule {
                Rule::In(values) if values.len() == 1 => list(values),
                Rule::In(values) => format!("in ({})", list(values)),
                Rule::NotIn(values) => format!("not in ({})", list(values)),
                Rule::Exists => "exists".to_owned(),
                Rule::Missing => "missing".to_owned(),
            };
            shown
                .entry(label.clone())
                .and_modify(|rules| *rules = format!("{rules} and {text}"))
                .or_insert(text);
        }
        shown
    }

    /// Reads the mapping or text at `key`; `None` if it is absent or invalid. Values are text: `version: 1.10` would select
    /// 1.1.
    pub(super) fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
        if let Some(Value::Object(labels)) = section.value(key) {
            let mut is_text = true;
            for (label, value) in labels {
                if let Some((value, remedy)) = node::unquoted_text(value) {
                    let field = format!("{}.{label}", section.path(key));
                    let allowed = format!("the text of a label{remedy}");
                    section.errors().push(ConfigError::new(field, value, allowed));
                    is_text = false;
                }
            }
            if !is_text {
                return None;
            }
        }
        section.optional(key, SELECTOR_FORM, Self::of_value)
    }

    fn of_value(value: &Value) -> Option<Self> {
        match value {
            Value::Object(labels) => labels
                .iter()
                .map(|(label, value)| Requirement::equal(label, value.as_str()?))
                .collect::<Option<_>>()
                .map(|requirements| Self { requirements }),
            Value::String(text) => Self::parse(text),
            _ => None,
        }
    }

    /// Parses the syntax of `kubectl get -l`.
    pub fn parse(text: &str) -> Option<Self> {
        let requirements = split(text)?.into_iter().map(Requirement::parse);
        Some(Self {
            requirements: requirements.collect::<Option<_>>()?,
        })
    }

    /// One value for each label; `None` if one is malformed.
    pub fn equal(labels: &BTreeMap<String, String>) -> Option<Self> {
        let requirements = labels
            .iter()
            .map(|(label, value)| Requirement::equal(label, value));
        Some(Self {
            requirements: requirements.collect::<Option<_>>()?,
        })
    }

    /// Labels and values, if it can be written as a mapping.
    fn as_mapping(&self) -> Option<BTreeMap<&str, &str>> {
        let mut labels = BTreeMap::new();
        for Requirement { label, rule } in &self.requirements {
            let Rule::In(values) = rule else { return None };
            let mut values = values.iter();
            let (Some(value), None) = (values.next(), values.next()) else {
                return None;
            };
            if labels.insert(label.as_str(), value.as_str()).is_some() {
                return None;
            }
        }
        Some(labels)
    }
}

impl Requirement {
    fn is_met(&self, value: Option<&String>) -> bool {
        match (&self.rule, value) {
            (Rule::In(values), Some(value)) => values.contains(value),
            (Rule::NotIn(values), Some(value)) => !values.contains(value),
            (Rule::Exists, Some(_)) | (Rule::NotIn(_) | Rule::Missing, None) => true,
            (Rule::In(_) | Rule::Exists, None) | (Rule::Missing, Some(_)) => false,
        }
    }

    fn equal(label: &str, value: &str) -> Option<Self> {
        (is_label(label) && is_value(value)).then(|| Self {
            label: label.to_owned(),
            rule: Rule::In([value.to_owned()].into()),
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(label) = text.strip_prefix('!') {
            return Self::new(label, Rule::Missing);
        }
        if let Some(list) = text.strip_suffix(')') {
            let (head, list) = list.split_once('(')?;
            let values = values(list)?;
            let (label, word) = head.trim_end().rsplit_once(char::is_whitespace)?;
            return match word {
                "in" => Self::new(label, Rule::In(values)),
                "notin" => Self::new(label, Rule::NotIn(values)),
                _ => None,
            };
        }
        match text.split_once('=') {
            None => Self::new(text, Rule::Exists),
            Some((label, value)) => match label.strip_suffix('!') {
                Some(label) => Self::new(label, Rule::NotIn(values(value)?)),
                None => {
                    let value = value.strip_prefix('=').unwrap_or(value);
                    Self::new(label, Rule::In(values(value)?))
                }
            },
        }
    }

    fn new(label: &str, rule: Rule) -> Option<Self> {
        let label = label.trim();
        is_label(label).then(|| Self {
            label: label.to_owned(),
            rule,
        })
    }
}

/// Splits at commas outside brackets. An empty text has no parts.
fn split(text: &str) -> Option<Vec<&str>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    let mut parts = Vec::new();
    let mut start = 0;
    let mut within = false;
    for (index, letter) in text.char_indices() {
        match letter {
            '(' | ')' if within == (letter == '(') => return None,
            '(' | ')' => within = !within,
            ',' if !within => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!within).then_some(parts)
}

fn values(list: &str) -> Option<BTreeSet<String>> {
    list.split(',')
        .map(str::trim)
        .map(|value| is_value(value).then(|| value.to_owned()))
        .collect()
}

/// `[prefix/]name`: the prefix is a DNS name, the name at most 63 characters.
pub(super) fn is_label(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let part = |part: &str| {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty() && part.chars().all(letters) && !part.starts_with('-') && !part.ends_with('-')
    };
    prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(part))
        && !name.is_empty()
        && is_value(name)
}

/// At most 63 letters, digits, `-`, `_` and `.`, the last three not at the ends; may be empty.
fn is_value(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63 && text.chars().all(inner) && end(text.chars().next()) && end(text.chars().last())
}

fn list(values: &BTreeSet<String>) -> String {
    values.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// The syntax of `kubectl get -l` and of the API server.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = &self.label;
        match &self.rule {
            Rule::In(values) if values.len() == 1 => write!(f, "{label}={}", list(values)),
            Rule::In(values) => write!(f, "{label} in ({})", list(values)),
            Rule::NotIn(values) if values.len() == 1 => write!(f, "{label}!={}", list(values)),
            Rule::NotIn(values) => write!(f, "{label} notin ({})", list(values)),
            Rule::Exists => write!(f, "{label}"),
            Rule::Missing => write!(f, "!{label}"),
        }
    }
}

/// A mapping if possible, else text.
impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(labels) = self.as_mapping() else {
            return serializer.serialize_str(&self.to_string());
        };
        let mut map = serializer.serialize_map(Some(labels.len()))?;
        for (label, value) in labels {
            map.serialize_entry(label, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(label, value)| (label.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn all_requirements_must_be_met() {
        for (selector, object, selected) in [
            ("", "", true),
            ("app=finance", "app=finance,tier=web", true),
            ("app == finance", "app=finance", true),
            ("app=finance", "app=ledger", false),
            ("app=finance", "", false),
            ("app=finance,tier=web", "app=finance", false),
            ("app=finance , tier in (web, api)", "app=finance,tier=api", true),
            ("tier in (web,api)", "tier=db", false),
            ("tier in (web)", "tier=web", true),
            ("tier notin (web,api)", "tier=api", false),
            ("tier notin (web,api)", "", true),
            ("tier!=web", "tier=web", false),
            ("tier != web", "", true),
            ("canary", "canary=", true),
            ("canary", "app=a", false),
            ("!canary", "canary=yes", false),
            ("! canary", "app=a", true),
            ("canary=", "canary=", true),
            (
                "app.kubernetes.io/name=finance",
                "app.kubernetes.io/name=finance",
                true,
            ),
            ("in in (in)", "in=in", true),
            ("a in (x,y),a notin (y)", "a=y", false),
        ] {
            let parsed = Selector::parse(selector).unwrap_or_else(|| panic!("{selector} is read"));
            assert_eq!(
                parsed.matches(&labels(object)),
                selected,
                "{selector} on {object}"
            );
        }
    }

    #[test]
    fn malformed_selectors_are_rejected() {
        for text in [
            ",",
            "a=b,",
            "=b",
            "a=b=c",
            "a in",
            "a in ()x",
            "a in (b",
            "a in b)",
            "a in ((b))",
            "a of (b)",
            "a b",
            "a>1",
            "-a=b",
            "a=-b",
            "a/b/c=d",
            "/a=b",
            "A_/a=b",
            "a=b c",
            "!",
            "!a=b",
            "a!",
            "ä=b",
        ] {
            assert_eq!(Selector::parse(text), None, "{text}");
        }
        let long = "x".repeat(64);
        assert_eq!(Selector::parse(&format!("{long}=a")), None);
        assert_eq!(Selector::parse(&format!("a={long}")), None);
    }

    #[test]
    fn a_selector_of_equalities_is_written_as_a_mapping() {
        for (selector, json) in [
            ("app=finance,tier=web", r#"{"app":"finance","tier":"web"}"#),
            ("app in (a,b),tier=web", r#""app in (a,b),tier=web""#),
            ("", "{}"),
        ] {
            let selector = Selector::parse(selector).unwrap();
            assert_eq!(serde_json::to_string(&selector).unwrap(), json);
        }
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let values = prop::collection::btree_set("[xyz]", 1..3);
        let rule = prop_oneof![
            3 => values.clone().prop_map(Rule::In),
            1 => values.prop_map(Rule::NotIn),
            1 => Just(Rule::Exists),
            1 => Just(Rule::Missing),
        ];
        let requirement = ("[abc]", rule).prop_map(|(label, rule)| Requirement { label, rule });
        prop::collection::btree_set(requirement, 0..4).prop_map(|requirements| Selector { requirements })
    }

    proptest! {
        #[test]
        fn a_written_selector_parses_to_the_same(selector in selector()) {
            prop_assert_eq!(Selector::parse(&selector.to_string()), Some(selector.clone()));
            let value = serde_json::to_value(&selector).unwrap();
            prop_assert_eq!(Selector::of_value(&value), Some(selector));
        }
    }
}
