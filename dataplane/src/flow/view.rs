//! Copying flows out of the table for the command line and the API.

use vl3lb_common::addr::{Protocol, from_octets};
use vl3lb_common::flow_query::{FlowRecord, FlowSlice};
use vl3lb_common::{Duration, Timestamp};

use super::state::Direction;
use super::table::{FlowId, FlowTable};
use crate::config::Timeouts;

impl FlowTable {
    /// The flows among the `scan` entries from `cursor` on of which the in-kernel path has a record.
    pub(super) fn promoted(&self, cursor: u32, scan: u32) -> Vec<FlowId> {
        let end = cursor.saturating_add(scan.max(1)).min(self.pool.header().fresh);
        (cursor..end)
            .filter(|&id| self.pool.is_live(id))
            .map(FlowId)
            .filter(|&id| self.entry(id).is_promoted())
            .collect()
    }

    /// The live flows among the `scan` entries from `cursor` on, expired ones left out. `timeouts`
    /// are those in use; the idle time of a flow follows from them.
    ///
    /// At least one entry is read, so that a reader makes progress. Allocates; not for the packet path.
    pub(crate) fn slice(
        &self,
        cursor: u32,
        scan: u32,
        now: Timestamp,
        worker: u16,
        timeouts: &Timeouts,
    ) -> FlowSlice {
        let fresh = self.pool.header().fresh;
        let end = cursor.saturating_add(scan.max(1)).min(fresh);
        let mut flows = Vec::new();
        let mut at = cursor;
        while at < end {
            let (found, next) = self.pool.look_at(at);
            at = next;
            if let Some(id) = found.filter(|id| *id < end && !self.entry(FlowId(*id)).expired(now)) {
                flows.extend(self.record(FlowId(id), now, worker, timeouts));
            }
        }
        FlowSlice {
            flows,
            next: (end < fresh).then_some(end),
        }
    }

    /// A copy of one flow; see [`slice`](Self::slice) for `timeouts`. `None` for a protocol that no flow has.
    pub(super) fn record(
        &self,
        id: FlowId,
        now: Timestamp,
        worker: u16,
        timeouts: &Timeouts,
    ) -> Option<FlowRecord> {
        let (entry, counters) = (self.entry(id), self.counters(id));
        let backend = self.endpoint(entry);
        let expires_in = entry.expires_in(now);
        let age = now.since(counters.created());
        // A flow at its end is not refreshed: then this is the time since it got there.
        let idle = entry.state().timeout(timeouts).saturating_sub(expires_in);
        Some(FlowRecord {
            worker,
            protocol: Protocol::from_number(entry.protocol)?,
            client: from_octets(entry.client),
            client_port: entry.client_port,
            service_address: from_octets(self.local_address(entry.local)),
            service_port: entry.service_port,
            nat_port: entry.nat_port,
            backend: from_octets(backend.address),
            backend_port: backend.port,
            service: entry.service(),
            backend_slot: entry.backend(),
            state: entry.state().shown(),
            age_micros: micros(age),
            idle_micros: micros(idle.min(age)),
            expires_micros: micros(expires_in),
            packets_in: counters.packets(Direction::In),
            bytes_in: counters.bytes(Direction::In),
            packets_out: counters.packets(Direction::Out),
            bytes_out: counters.bytes(Direction::Out),
            fast: entry.is_promoted(),
        })
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
