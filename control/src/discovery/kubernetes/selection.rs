//! The pods that selectors select, kept up with each change of a pod.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::cache::Change;
use super::inventory::Key;
use super::pod::PodRecord;
use crate::config::Selector;

/// Who a service belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Owner {
    /// The configuration file, by the position in it.
    File(usize),
    /// A Service.
    Service(Key),
}

/// All selections, indexed so that a change of a pod costs O(labels + matching selectors) and not O(selectors).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selections {
    by_owner: BTreeMap<Owner, Selection>,
    /// Owners of selectors that demand one of these values, by label and value.
    by_label: HashMap<String, HashMap<String, BTreeSet<Owner>>>,
    /// Owners of the other selectors.
    unindexed: BTreeSet<Owner>,
    /// Owners of the selections that a pod is in, by the pod's uid.
    by_pod: HashMap<Arc<str>, BTreeSet<Owner>>,
}

/// The pods that one selector selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    selector: Selector,
    /// `None`: in all namespaces that are watched.
    namespace: Option<String>,
    /// By uid.
    pods: BTreeMap<Arc<str>, Arc<PodRecord>>,
}

impl Selections {
    pub(super) fn get(&self, owner: &Owner) -> Option<&Selection> {
        self.by_owner.get(owner)
    }

    /// The owners of the selections that the pod of this uid is in.
    pub(super) fn of_pod(&self, uid: &str) -> impl Iterator<Item = &Owner> {
        self.by_pod.get(uid).into_iter().flatten()
    }

    /// Selects among `pods` for `owner` and replaces its selection. Cost: O(pods).
    pub(super) fn insert<'a>(
        &mut self,
        owner: &Owner,
        selector: &Selector,
        namespace: Option<&str>,
        pods: impl Iterator<Item = &'a Arc<PodRecord>>,
    ) {
        self.remove(owner);
        let mut selection = Selection {
            selector: selector.clone(),
            namespace: namespace.map(str::to_owned),
            pods: BTreeMap::new(),
        };
        for pod in pods.filter(|pod| selection.selects(pod)).collect::<Vec<_>>() {
            selection.pods.insert(Arc::clone(&pod.uid), Arc::clone(pod));
            let owners = self.by_pod.entry(Arc::clone(&pod.uid)).or_default();
            owners.insert(owner.clone());
        }
        match selector.demanded_values() {
            Some((label, values)) => {
                let by_value = self.by_label.entry(label.to_owned()).or_default();
                for value in values {
                    by_value.entry(value.clone()).or_default().insert(owner.clone());
                }
            }
            None => {
                self.unindexed.insert(owner.clone());
            }
        }
        self.by_owner.insert(owner.clone(), selection);
    }

    /// Forgets the selection of `owner`, if it has one.
    pub(super) fn remove(&mut self, owner: &Owner) {
        let Some(selection) = self.by_owner.remove(owner) else {
            return;
        };
        for uid in selection.pods.keys() {
            remove_from(&mut self.by_pod, uid, owner);
        }
        let Some((label, values)) = selection.selector.demanded_values() else {
            self.unindexed.remove(owner);
            return;
        };
        if let Some(by_value) = self.by_label.get_mut(label) {
            for value in values {
                remove_from(by_value, value, owner);
            }
            if by_value.is_empty() {
                self.by_label.remove(label);
            }
        }
    }

    /// Forgets the selections of the configuration file.
    pub(super) fn remove_file(&mut self) {
        let owners: Vec<Owner> = self.by_owner.keys().cloned().collect();
        for owner in owners.iter().filter(|owner| matches!(owner, Owner::File(_))) {
            self.remove(owner);
        }
    }

    /// Follows a change of a pod and returns the owners of the selections that it was or is in.
    pub(super) fn replace(&mut self, pod: &Change<PodRecord>) -> BTreeSet<Owner> {
        let mut affected = BTreeSet::new();
        if let Some(old) = &pod.old {
            affected = self.by_pod.remove(&old.uid).unwrap_or_default();
            for owner in &affected {
                if let Some(selection) = self.by_owner.get_mut(owner) {
                    selection.pods.remove(&old.uid);
                }
            }
        }
        if let Some(new) = &pod.new {
            let mut selecting = BTreeSet::new();
            for owner in self.candidates(new) {
                if self
                    .by_owner
                    .get(&owner)
                    .is_some_and(|selection| selection.selects(new))
                {
                    selecting.insert(owner);
                }
            }
            for owner in &selecting {
                if let Some(selection) = self.by_owner.get_mut(owner) {
                    selection.pods.insert(Arc::clone(&new.uid), Arc::clone(new));
                }
            }
            affected.extend(selecting.iter().cloned());
            if !selecting.is_empty() {
                self.by_pod.insert(Arc::clone(&new.uid), selecting);
            }
        }
        affected
    }

    /// The owners of selectors that may select `pod`.
    fn candidates(&self, pod: &PodRecord) -> Vec<Owner> {
        let by_label = pod
            .labels
            .iter()
            .filter_map(|(label, value)| self.by_label.get(label)?.get(value));
        by_label.flatten().chain(&self.unindexed).cloned().collect()
    }
}

impl Selection {
    pub(super) fn pods(&self) -> impl Iterator<Item = &PodRecord> {
        self.pods.values().map(Arc::as_ref)
    }

    fn selects(&self, pod: &PodRecord) -> bool {
        let namespace = self.namespace.as_ref();
        namespace.is_none_or(|namespace| *namespace == pod.namespace) && self.selector.matches(&pod.labels)
    }
}

/// Removes `owner` from the set at `key`, and the set if it is empty then.
fn remove_from<K, Q>(sets: &mut HashMap<K, BTreeSet<Owner>>, key: &Q, owner: &Owner)
where
    K: std::hash::Hash + Eq + std::borrow::Borrow<Q>,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if let Some(owners) = sets.get_mut(key) {
        owners.remove(owner);
        if owners.is_empty() {
            sets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{member, ready};
    use super::*;

    #[test]
    fn a_change_of_a_pod_is_compared_with_the_selectors_of_its_labels_only() {
        let mut selections = Selections::default();
        let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
        for position in 0..1000 {
            let app = if position == 7 {
                "finance".to_owned()
            } else {
                format!("app-{position}")
            };
            let selector = Selector::equal(&labels(&app)).unwrap();
            selections.insert(&Owner::File(position), &selector, None, std::iter::empty());
        }
        let pod = member(&ready("a", "10.0.0.1"));
        assert_eq!(selections.candidates(&pod), [Owner::File(7)]);
        let change = Change {
            old: None,
            new: Some(pod),
        };
        assert_eq!(selections.replace(&change), [Owner::File(7)].into());
        for position in 0..1000 {
            selections.remove(&Owner::File(position));
        }
        assert_eq!(selections, Selections::default(), "the index is empty again");
    }
}
