//! Finished flows, by backend, in the order in which they finished.
//!
//! A finished flow is kept for a while (RFC 7857 section 2), because its last packets may still be
//! on the way. When its backend has no port left or the table has no entry left, the oldest one
//! makes room. The queues are doubly linked through the entries, so that a flow that is revived
//! or expires leaves its queue in O(1).

use vl3lb_common::BackendSlot;
use zerocopy::{FromBytes, IntoBytes};

use super::counters::ColdEntry;
use super::mapping::Region;

/// The ends of one backend's queue: entry numbers plus one, 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes)]
#[repr(C)]
pub(super) struct Ends {
    oldest: u32,
    newest: u32,
}

const _: () = assert!(size_of::<Ends>() == 8);

/// All queues. The link towards the newer flow is in [`ColdEntry::next`].
pub(super) struct FinishedQueues {
    /// By backend slot.
    ends: Region<Ends>,
    /// By entry: the next older flow, plus one.
    older: Region<u32>,
}

impl FinishedQueues {
    /// Queues over zeroed memory are empty.
    pub(super) const fn new(ends: Region<Ends>, older: Region<u32>) -> Self {
        Self { ends, older }
    }

    /// The backend's finished flows, oldest first.
    pub(super) fn oldest_first<'a>(
        &self,
        backend: BackendSlot,
        cold: &'a [ColdEntry],
    ) -> impl Iterator<Item = u32> + use<'a> {
        let oldest = self.ends.get(backend.index()).map_or(0, |ends| ends.oldest);
        std::iter::successors(oldest.checked_sub(1), |&id| cold[id as usize].next.checked_sub(1))
    }

    /// Adds a flow that has just finished and is in no queue.
    pub(super) fn push(&mut self, backend: BackendSlot, id: u32, cold: &mut [ColdEntry]) {
        let ends = &mut self.ends[backend.index()];
        self.older[id as usize] = ends.newest;
        cold[id as usize].next = 0;
        match ends.newest.checked_sub(1) {
            None => ends.oldest = id + 1,
            Some(newest) => cold[newest as usize].next = id + 1,
        }
        ends.newest = id + 1;
    }

    /// Takes a flow out of its backend's queue.
    pub(super) fn remove(&mut self, backend: BackendSlot, id: u32, cold: &mut [ColdEntry]) {
        let ends = &mut self.ends[backend.index()];
        let older = std::mem::take(&mut self.older[id as usize]);
        let newer = std::mem::take(&mut cold[id as usize].next);
        match older.checked_sub(1) {
            None => ends.oldest = newer,
            Some(neighbor) => cold[neighbor as usize].next = newer,
        }
        match newer.checked_sub(1) {
            None => ends.newest = older,
            Some(neighbor) => self.older[neighbor as usize] = older,
        }
    }

    /// Whether no flow is in any queue.
    #[cfg(test)]
    pub(super) fn is_pristine(&self) -> bool {
        self.ends.iter().all(|ends| *ends == Ends::default()) && self.older.iter().all(|&link| link == 0)
    }
}
