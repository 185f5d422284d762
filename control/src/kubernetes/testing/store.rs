//! The objects of the server and the history of their changes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// The kind in the plural.
    pub(super) resource: String,
    /// Empty: an object of the cluster.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The key of `object`.
    pub(super) fn of(object: &Value) -> Self {
        let metadata = &object["metadata"];
        Self::new(
            &format!("{}s", object["kind"].as_str().unwrap().to_lowercase()),
            metadata["namespace"].as_str().unwrap_or_default(),
            metadata["name"].as_str().unwrap(),
        )
    }
}

pub(super) struct Store {
    objects: BTreeMap<Key, Value>,
    version: u64,
    history: Vec<Change>,
    /// Earlier versions are forgotten.
    oldest: u64,
}

/// One change of an object, which has version `at` afterwards; no object: a bookmark.
struct Change {
    at: u64,
    key: Key,
    before: Option<Value>,
    after: Option<Value>,
}

impl Store {
    pub(super) const fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 100,
            history: Vec::new(),
            oldest: 0,
        }
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.objects.iter()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    /// Writes an object, or deletes it. Returns the object with its new version.
    pub(super) fn set(&mut self, key: Key, object: Option<Value>) -> Value {
        self.version += 1;
        let before = self.objects.remove(&key);
        let after = object.map(|object| versioned(object, self.version));
        if let Some(after) = &after {
            self.objects.insert(key.clone(), after.clone());
        }
        let written = after.clone().or_else(|| before.clone()).unwrap_or_default();
        self.history.push(Change {
            at: self.version,
            key,
            before,
            after,
        });
        written
    }

    pub(super) fn bookmark(&mut self, resource: &str, namespace: &str) {
        self.version += 1;
        self.history.push(Change {
            at: self.version,
            key: Key::new(resource, namespace, ""),
            before: None,
            after: None,
        });
    }

    /// Forgets the history.
    pub(super) const fn compact(&mut self) {
        self.oldest = self.version;
    }

    /// Whether a watch can start at `version`.
    pub(super) const fn remembers(&self, version: u64) -> bool {
        version >= self.oldest
    }

    /// The next event after `version` about objects that `covers` and `selects` accept, and its version.
    pub(super) fn after(
        &self,
        version: u64,
        covers: impl Fn(&Key) -> bool,
        selects: impl Fn(&Value) -> bool,
    ) -> Option<(u64, Value)> {
        let seen = self.history.partition_point(|change| change.at <= version);
        let mut changes = self.history[seen..].iter().filter(|change| covers(&change.key));
        changes.find_map(|change| Some((change.at, change.event(&selects)?)))
    }
}

impl Change {
    /// The event of a watch of the objects that `selects` accepts.
    fn event(&self, selects: impl Fn(&Value) -> bool) -> Option<Value> {
        let was = self.before.as_ref().filter(|object| selects(object));
        let is = self.after.as_ref().filter(|object| selects(object));
        let (kind, object) = match (was, is) {
            (None, None) if self.before.is_none() && self.after.is_none() => (
                "BOOKMARK",
                &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}}),
            ),
            (None, None) => return None,
            (None, Some(object)) => ("ADDED", object),
            (Some(_), Some(object)) => ("MODIFIED", object),
            (Some(object), None) => ("DELETED", object),
        };
        Some(json!({"type": kind, "object": versioned(object.clone(), self.at)}))
    }
}

fn versioned(mut object: Value, version: u64) -> Value {
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    object
}
