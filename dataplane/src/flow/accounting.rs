//! What flows count for: their services, their backends and their clients' affinity.
//!
//! The lifecycle calls these where a flow opens, fails or ends, and where a packet of it is sent.

use vl3lb_common::stats::{CONNECT_BOUNDS, CloseCause, DURATION_BOUNDS, FlowFailure, Traffic, WorkerStats};
use vl3lb_common::{BackendSlot, Duration, ServiceSlot, Timestamp};

use super::lifecycle::{Flows, client_key};
use super::state::{Direction, State};
use super::table::FlowId;

/// Less than the initial retransmission time by the inaccuracy of timers.
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(900);

impl Flows {
    /// Counts the time from SYN to the backend's SYN-ACK.
    #[inline(never)]
    pub(crate) fn count_connect(&self, id: FlowId, now: Timestamp) {
        let micros = micros_since(self.table.counters(id).created(), now);
        let (service, backend) = self.table.entry(id).owner();
        let connect = &self.stats.service(service).connect;
        connect.observe(micros, &CONNECT_BOUNDS);
        self.stats.backend(backend).flows_answered.add(1);
    }

    /// Counts an ICMP error that reports a flow's backend as unreachable, unless the backend has replied before:
    /// once, however often that is reported. The flow goes on.
    pub(crate) fn count_unreachable(&mut self, id: FlowId) {
        let entry = self.table.entry_mut(id);
        if matches!(entry.state(), State::Opening | State::Unreplied) && entry.note_failure() {
            let backend = entry.backend();
            self.count_failure(backend, FlowFailure::Unreachable);
        }
    }

    /// Counts a flow whose client repeats its SYN, since the backend has not answered the first one for a second, the
    /// initial retransmission time of RFC 6298: once, and not if the backend was reported as unreachable. A client that
    /// repeats it earlier says nothing about the backend.
    pub(super) fn count_unanswered(&mut self, id: FlowId, now: Timestamp) {
        let waited = now.since(self.table.counters(id).created());
        let entry = self.table.entry_mut(id);
        if waited >= FIRST_RETRANSMISSION && entry.note_failure() {
            let backend = entry.backend();
            self.stats.backend(backend).flows_unanswered.add(1);
        }
    }

    /// Counts a translated packet of `bytes` for its flow, and for the flow's [owner](HotEntry::owner).
    #[inline(always)]
    pub(crate) fn count_packet(
        &mut self,
        id: FlowId,
        owner: (ServiceSlot, BackendSlot),
        direction: Direction,
        bytes: u32,
    ) {
        let (service, backend) = traffic(&self.stats, owner, direction);
        service.count(bytes.into());
        backend.count(bytes.into());
        let packets = self.table.count(id, direction, bytes);
        if packets & self.fast.mask == 0 {
            self.nominate(id);
        }
    }

    /// Takes back what [`count_packet`](Self::count_packet) counted for a packet that then was not sent.
    #[cold]
    pub(crate) fn uncount_packet(
        &mut self,
        id: FlowId,
        owner: (ServiceSlot, BackendSlot),
        direction: Direction,
        bytes: u32,
    ) {
        let (service, backend) = traffic(&self.stats, owner, direction);
        service.uncount(bytes.into());
        backend.uncount(bytes.into());
        self.table.counters_mut(id).uncount(direction, bytes);
    }

    /// Counts a flow as opened.
    pub(super) fn account_opened(&self, id: FlowId) {
        let (service, backend) = self.table.entry(id).owner();
        self.stats.service(service).flows_opened.add(1);
        let stats = self.stats.backend(backend);
        stats.flows_opened.add(1);
        stats.flows.add(1);
    }

    /// Takes the end of a flow into counters and affinity; once, while the entry still has its last state.
    pub(super) fn account_end(&mut self, id: FlowId, cause: CloseCause, now: Timestamp) {
        let entry = self.table.entry(id);
        let slot = entry.backend();
        let key = client_key(entry);
        if let Some(epoch) = entry.epoch() {
            let time = self.affinity_times[key.service.index()];
            self.affinity.end(&key, (slot, epoch), now, time);
            // A reset flow that goes on does not hold the client's entry again, which lasts for a while anyway.
            self.table.entry_mut(id).clear_epoch();
        }
        let entry = self.table.entry(id);
        let flows = &self.stats.backend(slot).flows;
        flows.set(flows.get().saturating_sub(1));
        if entry.state() == State::Opening && cause == CloseCause::Idle {
            self.count_failure(slot, FlowFailure::Timeout);
        }
        let service = self.stats.service(key.service);
        service.flows_closed[cause as usize].add(1);
        let micros = micros_since(self.table.counters(id).created(), now);
        service.duration.observe(micros, &DURATION_BOUNDS);
    }

    pub(super) fn count_failure(&self, backend: BackendSlot, failure: FlowFailure) {
        self.stats.backend(backend).flows_failed[failure as usize].add(1);
    }
}

fn micros_since(earlier: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.since(earlier).as_micros()).unwrap_or(u64::MAX)
}

/// The traffic counters of a flow's owner.
#[inline(always)]
pub(super) fn traffic(
    stats: &WorkerStats,
    (service, backend): (ServiceSlot, BackendSlot),
    direction: Direction,
) -> (&Traffic, &Traffic) {
    let (service, backend) = (stats.service(service), stats.backend(backend));
    match direction {
        Direction::In => (&service.inbound, &backend.inbound),
        Direction::Out => (&service.outbound, &backend.outbound),
    }
}
