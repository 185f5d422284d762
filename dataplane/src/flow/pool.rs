//! The entries of a flow table: which are in use, and which comes next.

use vl3lb_common::Timestamp;

use super::counters::ColdEntry;
use super::entry::HotEntry;
use super::header::Header;
use super::mapping::Region;

/// Header and entries. Entries are allocated from the front, so that a table that was never full does
/// not touch all its memory; released ones are reused first.
pub(super) struct Pool {
    /// One element.
    pub(super) header: Region<Header>,
    pub(super) hot: Region<HotEntry>,
    pub(super) cold: Region<ColdEntry>,
    /// One bit for each entry, set while it holds a flow.
    pub(super) live: Region<u64>,
}

impl Pool {
    #[inline]
    pub(super) fn header(&self) -> &Header {
        &self.header[0]
    }

    #[inline]
    pub(super) fn header_mut(&mut self) -> &mut Header {
        &mut self.header[0]
    }

    pub(super) fn is_full(&self) -> bool {
        self.header().len == self.header().capacity
    }

    #[inline]
    pub(super) fn is_live(&self, id: u32) -> bool {
        self.live
            .get(id as usize / 64)
            .is_some_and(|word| word >> (id % 64) & 1 != 0)
    }

    /// Takes a free entry. `None` if the pool is full.
    pub(super) fn allocate(&mut self, entry: HotEntry, now: Timestamp) -> Option<u32> {
        let header = &mut self.header[0];
        let id = if header.free != 0 {
            let id = header.free - 1;
            header.free = self.cold[id as usize].next;
            id
        } else if header.fresh < header.capacity {
            header.fresh += 1;
            header.fresh - 1
        } else {
            return None;
        };
        header.len += 1;
        // The next entry to allocate, which would otherwise be a cache miss of the next new flow.
        let next = if header.free != 0 {
            header.free - 1
        } else {
            header.fresh
        };
        self.hot.prefetch(next as usize);
        self.cold.prefetch(next as usize);
        self.hot[id as usize] = entry;
        self.cold[id as usize] = ColdEntry::new(now);
        self.live[id as usize / 64] |= 1 << (id % 64);
        Some(id)
    }

    /// Gives a live entry back.
    pub(super) fn release(&mut self, id: u32) {
        let header = &mut self.header[0];
        self.cold[id as usize].next = header.free;
        header.free = id + 1;
        header.len -= 1;
        // Otherwise an earlier guess (`FlowTable::prefetch_flow`) could find the flow that was here.
        self.hot[id as usize].forget();
        self.live[id as usize / 64] &= !(1 << (id % 64));
    }

    /// The first live entry from `from` on among the entries up to the next multiple of 64, and
    /// the next position, which is never after the last entry that was ever used. It reads one word.
    #[inline]
    pub(super) fn look_at(&self, from: u32) -> (Option<u32>, u32) {
        let word = self.live[from as usize / 64] >> (from % 64);
        if word == 0 {
            return (None, (from / 64 + 1) * 64);
        }
        let id = from + word.trailing_zeros();
        (Some(id), id + 1)
    }
}
