//! Which pods a service selects, kept up with each change of a pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cache::Change;
use super::pod::PodRecord;
use crate::config::Selector;

/// The pods that one selector selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    selector: Selector,
    /// `None`: in all namespaces that are watched.
    namespace: Option<String>,
    /// By uid.
    pods: BTreeMap<Arc<str>, Arc<PodRecord>>,
}

impl Selection {
    /// Selects among `pods`. Cost: O(pods).
    pub(super) fn new<'a>(
        selector: &Selector,
        namespace: Option<&str>,
        pods: impl Iterator<Item = &'a Arc<PodRecord>>,
    ) -> Self {
        let mut selection = Self {
            selector: selector.clone(),
            namespace: namespace.map(str::to_owned),
            pods: BTreeMap::new(),
        };
        let selected = pods.filter(|pod| selection.selects(pod));
        selection.pods = selected
            .map(|pod| (Arc::clone(&pod.uid), Arc::clone(pod)))
            .collect();
        selection
    }

    /// Takes note of a pod. Whether it was or is among those selected. Cost: O(log(pods)).
    pub(super) fn replace(&mut self, pod: &Change<PodRecord>) -> bool {
        let was = pod.old.as_ref().and_then(|was| self.pods.remove(&was.uid));
        let is = pod.new.as_ref().filter(|is| self.selects(is));
        if let Some(is) = is {
            self.pods.insert(Arc::clone(&is.uid), Arc::clone(is));
        }
        was.is_some() || is.is_some()
    }

    pub(super) fn has(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &PodRecord> {
        self.pods.values().map(Arc::as_ref)
    }

    fn selects(&self, pod: &PodRecord) -> bool {
        let namespace = self.namespace.as_ref();
        namespace.is_none_or(|namespace| *namespace == pod.namespace) && self.selector.matches(&pod.labels)
    }
}
