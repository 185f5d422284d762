//! Ageing: flows that expired or are doomed are closed a few at a time.

use vl3lb_common::Timestamp;
use vl3lb_common::stats::CloseCause;

use super::entry::HotEntry;
use super::table::{ClosedFlow, FlowId, FlowTable};

impl FlowTable {
    /// Closes expired flows, and those for which `doomed` has a cause, among the next entries.
    ///
    /// Looks at `budget` places at most, each of them a live flow or up to 64 entries without one,
    /// and goes on there the next time. A call covers the whole table if `budget` is
    /// [`sweep_len`](Self::sweep_len) or more, and no more than that.
    pub fn sweep(
        &mut self,
        now: Timestamp,
        budget: usize,
        doomed: impl Fn(&HotEntry) -> Option<CloseCause>,
        mut ended: impl FnMut(ClosedFlow, CloseCause),
    ) {
        for _ in 0..budget.min(self.sweep_len()) {
            let Some(id) = self.next_at_cursor() else { continue };
            let entry = self.entry(id);
            if entry.expired(now) {
                let cause = entry.state().close_cause();
                ended(self.end(id, cause, now), cause);
            } else if let Some(cause) = doomed(entry) {
                ended(self.end(id, cause, now), cause);
            }
        }
    }

    /// Places that a sweep of the whole table looks at.
    pub fn sweep_len(&self) -> usize {
        let fresh = self.pool.header().fresh as usize;
        // Each live flow, and the end of each 64 entries.
        self.len() as usize + fresh.div_ceil(64)
    }

    /// The next live flow, and moves the cursor behind it; `None` if there is none in the rest of the
    /// cursor's 64 entries, which it leaves then.
    pub(super) fn next_at_cursor(&mut self) -> Option<FlowId> {
        let header = self.pool.header();
        let (fresh, cursor) = (header.fresh, header.cursor);
        if fresh == 0 {
            return None;
        }
        let from = if cursor < fresh { cursor } else { 0 };
        let (found, next) = self.pool.look_at(from);
        self.pool.header_mut().cursor = next;
        found.map(FlowId)
    }
}
