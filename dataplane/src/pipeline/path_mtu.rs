//! Segment sizes that were lowered because a path takes less.
//!
//! Not the word of a router, which anybody can forge, but a suspicion that ends by itself: after ten minutes (RFC 1191
//! section 6.3, RFC 8201 section 4) the flow has the segment size again that its ends agreed on. It never goes below
//! what 552 bytes over IPv4 (as in Linux) and 1,280 over IPv6 (RFC 8200 section 5) leave: otherwise one packet could
//! make thousands of each super-packet.

use std::collections::VecDeque;

use vl3lb_common::{Duration, Protocol, Timestamp};

use super::size::plain_headers;
use crate::flow::{FlowId, Flows, RequestKey};
use crate::packet::{Family, least_path_mtu};

/// Lowered flows at most; the one lowered first has its size back early.
const FLOWS: usize = 4096;
/// How long a size stays lowered.
pub(super) const LIFETIME: Duration = Duration::from_secs(600);

/// The flows of one worker whose segment size is lowered, in the order of time.
#[derive(Debug)]
pub(super) struct PathMtus {
    lowered: VecDeque<Lowered>,
}

#[derive(Debug)]
struct Lowered {
    id: FlowId,
    /// Which flow it was: an entry may be another one's meanwhile.
    key: RequestKey,
    created: Timestamp,
    before: u16,
    until: Timestamp,
}

impl Default for PathMtus {
    fn default() -> Self {
        Self {
            lowered: VecDeque::with_capacity(FLOWS),
        }
    }
}

impl PathMtus {
    /// A packet of the flow with `mtu` bytes is as long as the path takes: the flow's super-packets are segmented to that.
    /// Does nothing for UDP.
    pub(super) fn lower(&mut self, flows: &mut Flows, id: FlowId, family: Family, mtu: u32, now: Timestamp) {
        let entry = *flows.table().entry(id);
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).max(least_path_mtu(family));
        let size = mtu - plain_headers(family);
        if entry.protocol != Protocol::Tcp.number() || (entry.mss != 0 && entry.mss <= size) {
            return;
        }
        if self.lowered.len() == FLOWS
            && let Some(first) = self.lowered.pop_front()
        {
            first.restore(flows);
        }
        self.lowered.push_back(Lowered {
            id,
            key: entry.request_key(),
            created: flows.table().counters(id).created(),
            before: entry.mss,
            until: now + LIFETIME,
        });
        flows.entry_mut(id).mss = size;
    }

    /// Gives flows whose time is over their size back. O(such flows).
    pub(super) fn expire(&mut self, flows: &mut Flows, now: Timestamp) {
        while let Some(first) = self.lowered.pop_front_if(|first| first.until <= now) {
            first.restore(flows);
        }
    }
}

impl Lowered {
    fn restore(&self, flows: &mut Flows) {
        let entry = flows.table().entry(self.id);
        let is_same =
            entry.request_key() == self.key && flows.table().counters(self.id).created() == self.created;
        // It may have been lowered twice; 0 is unknown, more than any.
        let rank = |mss: u16| mss.wrapping_sub(1);
        if is_same && rank(self.before) > rank(entry.mss) {
            flows.entry_mut(self.id).mss = self.before;
        }
    }
}
