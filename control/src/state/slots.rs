//! A table with stable indexes.

use std::collections::BTreeSet;

use vl3lb_common::snapshot::{BackendSlot, ServiceSlot};

/// A table of `T` by slot. The lowest free slot is given out first, so the table stays dense.
#[derive(Debug)]
pub(super) struct Slots<T> {
    entries: Vec<Option<T>>,
    free: BTreeSet<usize>,
    limit: usize,
}

/// A slot that was just given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Assigned {
    pub(super) index: usize,
    /// Whether someone had the slot before, so that its counters do not start at 0.
    pub(super) used_before: bool,
}

impl<T> Slots<T> {
    /// An empty table of at most `limit` slots.
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            entries: Vec::new(),
            free: BTreeSet::new(),
            limit,
        }
    }

    /// Takes a slot; the entry is made once its number is known. `None` if all are taken.
    pub(super) fn insert(&mut self, make: impl FnOnce(Assigned) -> T) -> Option<usize> {
        let assigned = match self.free.pop_first() {
            Some(index) => Assigned {
                index,
                used_before: true,
            },
            None if self.entries.len() < self.limit => {
                self.entries.push(None);
                Assigned {
                    index: self.entries.len() - 1,
                    used_before: false,
                }
            }
            None => return None,
        };
        self.entries[assigned.index] = Some(make(assigned));
        Some(assigned.index)
    }

    /// Gives a slot back. An empty one stays empty.
    pub(super) fn remove(&mut self, index: usize) -> Option<T> {
        let entry = self.entries.get_mut(index)?.take()?;
        self.free.insert(index);
        Some(entry)
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        self.entries.get(index)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.entries.get_mut(index)?.as_mut()
    }

    /// The taken slots, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| Some((index, entry.as_ref()?)))
    }

    /// The taken slots, in order, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        let entries = self.entries.iter_mut().enumerate();
        entries.filter_map(|(index, entry)| Some((index, entry.as_mut()?)))
    }

    /// All slots up to the highest that was ever taken, each mapped; free ones are `None`.
    pub(super) fn map<U>(&self, mut make: impl FnMut(usize, &T) -> U) -> Vec<Option<U>> {
        let entries = self.entries.iter().enumerate();
        entries
            .map(|(index, entry)| entry.as_ref().map(|entry| make(index, entry)))
            .collect()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "indexes stay below MAX_SERVICES")]
pub(super) const fn service_slot(index: usize) -> ServiceSlot {
    ServiceSlot(index as u16)
}

#[expect(clippy::cast_possible_truncation, reason = "indexes stay below MAX_BACKENDS")]
pub(super) const fn backend_slot(index: usize) -> BackendSlot {
    BackendSlot(index as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_slot_is_reused_and_marked_as_used_before() {
        let mut slots = Slots::new(3);
        for index in 0..3 {
            assert_eq!(slots.insert(|assigned| assigned.used_before), Some(index));
        }
        assert_eq!(slots.insert(|_| true), None);
        assert_eq!(slots.remove(2), Some(false));
        assert_eq!(slots.remove(0), Some(false));
        assert_eq!(slots.remove(0), None);
        assert_eq!(slots.insert(|assigned| assigned.used_before), Some(0));
        assert_eq!(slots.get(0), Some(&true));
        assert_eq!(slots.iter().map(|(index, _)| index).collect::<Vec<_>>(), [0, 1]);
    }
}
