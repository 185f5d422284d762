//! The lifecycle of flows: every flow opens, changes state and ends here, for all causes.
//!
//! [`FlowTable`] is plain data without side effects. [`Flows`] maintains everything that depends on
//! the flows consistent with it:
//!
//! | | opens | comes into a final state | leaves the table |
//! |---|---|---|---|
//! | service and backend counters | opened, open flows | closed by cause, duration, failure | the same, unless counted before |
//! | affinity | the client's entry holds its backend | the entry is let go | the same, unless done before |
//! | flow feed | opened | closed, the last packet counted in | the same, unless emitted before |
//! | NAT port | claimed | kept for stragglers | free |
//!
//! A flow leaves the table because a packet met a dead backend, it expired, its drain is over, its own address
//! is gone, its NAT port is the kernel's now, or a new flow needs its place; all of these are [`Flows::end`].
//!
//! Established flows may be in the in-kernel path as well (`fast.rs`): nominated by [`Flows::count_packet`], taken back
//! before a packet changes their state and in [`Flows::end`]; [`Flows::sweep`] takes in what its program did for them.
//!
//! One extension belongs here. A table that outlives the process is adopted in [`Flows::new`], which then rebuilds the
//! gauges and the affinity counts from the entries that it accepts.

use std::io;
use std::sync::Arc;

use vl3lb_common::addr::to_octets;
use vl3lb_common::flow_query::FlowSlice;
use vl3lb_common::snapshot::{MAX_SERVICES, WorkerPorts};
use vl3lb_common::stats::{CloseCause, FlowFailure, WorkerStats};
use vl3lb_common::{Backend, Duration, PortSet, Protocol, Snapshot, Timestamp};

use super::affinity::{AffinityTable, BackendId, ServiceClient};
use super::entry::HotEntry;
use super::fast::FastFlows;
use super::feed::FeedWriter;
use super::inserted::header_len;
use super::open::{NewFlow, OpenError};
use super::orphan::{Orphan, Orphans};
use super::overflow::Overflow;
use super::placed::OwnPlaced;
use super::state::{Direction, Lifetimes, State};
use super::table::{FlowId, FlowTable};
use super::tcp;
use crate::config::Timeouts;
use crate::packet::TcpSegment;

/// The flows of one worker, and all data derived from them.
pub(crate) struct Flows {
    pub(super) table: FlowTable,
    pub(super) affinity: AffinityTable,
    /// How long clients of a service keep their backend after a flow, by service slot; zero without affinity.
    pub(super) affinity_times: Box<[Duration]>,
    /// By flow: where the header of one that has one begins; see [`super::inserted`]. Memory that no flow needs costs none.
    pub(super) first_numbers: Box<[u32]>,
    /// Own addresses that wait for an index: the flows of others that are gone have all of them.
    waiting: Vec<[u8; 16]>,
    timeouts: Timeouts,
    pub(super) lifetimes: Lifetimes,
    pub(super) stats: Arc<WorkerStats>,
    pub(super) fast: FastFlows,
    feed: Option<FeedWriter>,
    orphans: Orphans,
    /// Shared with the other workers, if there are any.
    pub(super) overflow: Option<Arc<Overflow>>,
    /// The same.
    pub(super) placed: Option<OwnPlaced>,
}

impl std::fmt::Debug for Flows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flows")
            .field("table", &self.table)
            .field("affinity", &self.affinity)
            .finish_non_exhaustive()
    }
}

impl Flows {
    /// Allocates the flow table and the affinity table.
    ///
    /// # Errors
    /// The tables' memory cannot be mapped; see [`FlowTable::new`].
    pub(crate) fn new(
        capacity: u32,
        nat_ports: impl Into<WorkerPorts>,
        seed: u64,
        timeouts: Timeouts,
        stats: Arc<WorkerStats>,
    ) -> io::Result<Self> {
        let table = FlowTable::new(capacity, nat_ports, seed)?;
        let affinity = AffinityTable::new(capacity, seed)?;
        stats.flow_capacity.set(u64::from(capacity));
        Ok(Self {
            table,
            affinity,
            affinity_times: vec![Duration::ZERO; MAX_SERVICES].into_boxed_slice(),
            first_numbers: vec![0; capacity as usize].into_boxed_slice(),
            waiting: Vec::new(),
            timeouts,
            lifetimes: Lifetimes::new(&timeouts),
            stats,
            fast: FastFlows::new(),
            feed: None,
            orphans: Orphans::new(),
            overflow: None,
            placed: None,
        })
    }

    /// The entries, to look flows up and to read them.
    #[inline(always)]
    pub(crate) const fn table(&self) -> &FlowTable {
        &self.table
    }

    /// A flow, to change its MAC address or MSS. For its state, use [`advance`](Self::advance).
    #[inline(always)]
    pub(crate) fn entry_mut(&mut self, id: FlowId) -> &mut HotEntry {
        self.table.entry_mut(id)
    }

    /// Takes over own addresses and affinity times. Flows on an address that is gone end with
    /// [`CloseCause::InterfaceLost`] when a sweep or a packet meets them. Where 256 addresses are live or still have
    /// flows, others wait until the sweep has ended the flows of one that is gone; returns their number.
    /// O(services + addresses).
    pub(crate) fn set_snapshot(&mut self, snapshot: &Snapshot) -> usize {
        let services = snapshot.service_slots.iter().map(Option::as_ref);
        for (time, service) in self
            .affinity_times
            .iter_mut()
            .zip(services.chain(std::iter::repeat(None)))
        {
            *time = service.map_or(Duration::ZERO, |service| service.affinity);
        }
        let addresses = snapshot.addresses.iter().map(|&address| to_octets(address));
        self.waiting = self.table.set_local_addresses(addresses);
        if let Some(placed) = &self.placed {
            placed.switched(snapshot.generation);
        }
        self.waiting.len()
    }

    /// New flows get NAT ports that `flow_ports` has. O(NAT ports).
    pub(crate) fn use_ports(&mut self, flow_ports: &PortSet) {
        self.table.use_ports(flow_ports);
    }

    /// Opens a flow to `backend`, with a free NAT port that is `usable` (not a service's), chosen by `random`.
    ///
    /// A flow that has the same request key is ended first and leaves its port if it had the same backend; the
    /// caller knows that it has expired or is over ([`tcp::reopens`]). Where ports or entries have run out, the oldest
    /// flow that is over makes room, else a half-open TCP flow or a UDP flow; an established TCP flow never does.
    /// O(NAT ports / 64), and some 30 flows to read where room is short.
    ///
    /// # Errors
    /// Nothing can make room, or the client has its share; nothing is ended then.
    pub(crate) fn open(
        &mut self,
        new: &NewFlow,
        backend: &Backend,
        now: Timestamp,
        random: u64,
        usable: impl Fn(u16) -> bool,
    ) -> Result<FlowId, OpenError> {
        let room = self.table.make_room(new, now, random, usable)?;
        if let Some(id) = room.replaced {
            let cause = self.table.entry(id).state().close_cause();
            self.end(id, cause, now);
        }
        if let Some(id) = room.reclaimed {
            let is_over = self.table.entry(id).state().is_over();
            let cause = if is_over {
                CloseCause::Reclaimed
            } else {
                CloseCause::Evicted
            };
            self.end(id, cause, now);
        }
        let id = self
            .table
            .insert(new, room.nat_port, now)
            .ok_or(OpenError::TableFull)?;
        self.table.entry_mut(id).set_untimed(room.untimed);
        self.count_away(id, Overflow::opened);
        self.count_placed(id);
        let time = self.affinity_times[usize::from(new.service_slot.0)];
        if !time.is_zero() {
            self.hold_affinity(id, backend, time, now);
        }
        if let Some(feed) = self.subscribed_feed() {
            feed.emit_opened(&self.table, id, now);
        }
        self.account_opened(id);
        self.stats
            .backend(new.backend_slot)
            .nat_ports
            .set(u64::from(self.table.ports_used(new.backend_slot)));
        Ok(id)
    }

    /// How long a flow may be silent in `state`.
    pub(crate) const fn timeout(&self, state: State) -> Duration {
        state.timeout(&self.timeouts)
    }

    /// Moves a flow's state machine by a packet of `bytes` and sets its timer. Returns the former state if it
    /// changed. `segment` is that of a TCP packet; a fragment, which has none, changes no TCP state.
    #[inline(always)]
    pub(crate) fn advance(
        &mut self,
        id: FlowId,
        direction: Direction,
        segment: Option<&TcpSegment>,
        bytes: u32,
        now: Timestamp,
    ) -> Option<State> {
        if self.goes_on(id, direction, segment, now) {
            None
        } else {
            self.change(id, direction, segment, bytes, now)
        }
    }

    /// Whether a packet leaves the flow in its state. Takes it in then, and sets the timer; else nothing changes.
    #[inline(always)]
    pub(crate) fn goes_on(
        &mut self,
        id: FlowId,
        direction: Direction,
        segment: Option<&TcpSegment>,
        now: Timestamp,
    ) -> bool {
        let entry = self.table.entry_mut(id);
        let stays = match segment {
            Some(segment) => entry.is_open() && entry.sequence.continues(direction, segment),
            None => !entry.leaves_by_datagram(direction),
        };
        if stays {
            entry.refresh(now, &self.lifetimes);
        }
        stays
    }

    /// [`advance`](Self::advance) by a packet that may change the state.
    #[inline(never)]
    fn change(
        &mut self,
        id: FlowId,
        direction: Direction,
        segment: Option<&TcpSegment>,
        bytes: u32,
        now: Timestamp,
    ) -> Option<State> {
        // What the program has seen decides about the segment.
        if self.table.entry(id).is_promoted() {
            self.fold(id);
        }
        let before = self.table.entry(id).state();
        let after = match segment {
            Some(segment) => tcp::advance(before, &mut self.table.entry_mut(id).sequence, direction, segment),
            None => before.after_datagram(direction),
        };
        if after != before {
            self.enter(id, after, direction, Some(bytes), now);
            return Some(before);
        }
        let repeats_syn = |segment: &TcpSegment| segment.flags.syn() && direction == Direction::In;
        if before == State::Opening && segment.is_some_and(repeats_syn) {
            self.count_unanswered(id, now);
        }
        // A RST that does not count is no sign of life (RFC 7857 section 7).
        if segment.is_none_or(|segment| !segment.flags.rst()) {
            let lifetime = self.lifetimes.of(before);
            self.table.entry_mut(id).stay(before, now, lifetime);
        }
        None
    }

    /// Brings a flow into another state. A flow that is over then is accounted as ended now, though its entry
    /// and its NAT port stay for stragglers; one that goes on after all is accounted as opened again. `uncounted` are the bytes of
    /// the packet that is not counted yet.
    #[cold]
    pub(super) fn enter(
        &mut self,
        id: FlowId,
        after: State,
        direction: Direction,
        uncounted: Option<u32>,
        now: Timestamp,
    ) {
        if self.table.entry(id).is_promoted() {
            self.leave_for(id, after);
        }
        let is_counted = self.table.entry(id).is_counted();
        if after.is_over() && !is_counted {
            if let Some(feed) = self.subscribed_feed() {
                feed.emit_finished(&self.table, id, after, (direction, uncounted), now);
            }
            let entry = self.table.entry(id);
            // Not the client's own: it gave up.
            if after == State::Reset && entry.state() == State::Opening && direction == Direction::Out {
                self.count_failure(entry.backend(), FlowFailure::Reset);
            }
            self.account_end(id, after.close_cause(), now);
            self.table.entry_mut(id).set_counted(true);
        }
        self.table.touch(id, after, now, self.lifetimes.of(after));
        if is_counted && !after.is_over() {
            self.table.entry_mut(id).set_counted(false);
            self.account_opened(id);
            if let Some(feed) = self.subscribed_feed() {
                feed.emit_opened(&self.table, id, now);
            }
        }
    }

    /// Notes the window scale option of a SYN for the judgement of segments.
    pub(crate) fn note_window_scale(&mut self, id: FlowId, sender: Direction, scale: Option<u8>) {
        self.table.entry_mut(id).sequence.note_scale(sender, scale);
    }

    /// Notes for the next flow with the same NAT port that the backend has the connection, which has just finished, in
    /// TIME-WAIT, and the last timestamp that it had of the client.
    pub(crate) fn note_time_wait(&mut self, id: FlowId, timestamp: Option<u32>, now: Timestamp) {
        let entry = self.table.entry_mut(id);
        let inserted = if entry.has_header() { header_len(entry) } else { 0 };
        entry.sequence.begin_time_wait(inserted, timestamp, now);
    }

    /// Ends a flow: its keys, its NAT port and its entry are free at once.
    ///
    /// # Panics
    /// If `id` is not a live flow.
    #[cold]
    pub(crate) fn end(&mut self, id: FlowId, cause: CloseCause, now: Timestamp) {
        // Until then its NAT port is taken.
        if self.table.entry(id).is_promoted() {
            self.leave_fast_path(id);
        }
        if !self.table.entry(id).is_counted() {
            if let Some(feed) = self.subscribed_feed() {
                feed.emit_closed(&self.table, id, cause, now);
            }
            self.account_end(id, cause, now);
            let entry = self.table.entry(id);
            let is_tcp = entry.protocol == Protocol::Tcp.number();
            if is_tcp || entry.protocol == Protocol::Sctp.number() {
                let backend = || self.table.endpoint(entry).endpoint();
                match cause {
                    CloseCause::BackendDown | CloseCause::PortTaken => {
                        self.orphans.push(Orphan::new(*entry, backend()));
                    }
                    // The backend has accepted what its client has not confirmed.
                    CloseCause::Evicted if is_tcp && entry.state() == State::Answered => {
                        self.orphans
                            .push_half_open(Orphan::half_open(*entry, backend()), now);
                    }
                    _ => {}
                }
            }
        }
        self.count_away(id, Overflow::closed);
        self.uncount_placed(id);
        let backend = self.table.close(id);
        self.stats
            .backend(backend)
            .nat_ports
            .set(u64::from(self.table.ports_used(backend)));
    }

    /// Ends expired flows, those on an own address that is gone, and those for which `doomed` has a cause, among
    /// the next `budget` places of the table; see [`FlowTable::sweep_len`].
    pub(crate) fn sweep(
        &mut self,
        now: Timestamp,
        budget: usize,
        doomed: impl Fn(&HotEntry) -> Option<CloseCause>,
    ) {
        for _ in 0..budget.min(self.table.sweep_len()) {
            let Some(id) = self.table.next_at_cursor() else {
                continue;
            };
            if self.table.entry(id).is_promoted() {
                self.fold(id);
            }
            let entry = self.table.entry(id);
            let cause = if entry.expired(now) {
                Some(entry.state().close_cause())
            } else if self.table.is_departed(entry.local) {
                Some(CloseCause::InterfaceLost)
            } else {
                doomed(entry)
            };
            if let Some(cause) = cause {
                self.end(id, cause, now);
            }
        }
        let table = &mut self.table;
        self.waiting.retain(|&address| !table.add_local_address(address));
        self.stats.flow_entries.set(u64::from(self.table.len()));
    }

    /// The next TCP connection or SCTP association that has ended because its backend is down, for resets to both ends.
    pub(crate) fn next_orphan(&mut self) -> Option<Orphan> {
        self.orphans.pop()
    }

    /// Whether [`next_orphan`](Self::next_orphan) has one.
    pub(crate) fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// The backend that a client of a service with affinity is to get again.
    pub(crate) fn kept_backend(&self, key: &ServiceClient, now: Timestamp) -> Option<BackendId> {
        self.affinity.find(key, now)
    }

    /// The live flows among the `scan` entries from `cursor` on: see [`FlowTable::slice`].
    pub(crate) fn slice(&mut self, cursor: u32, scan: u32, now: Timestamp, worker: u16) -> FlowSlice {
        for id in self.table.promoted(cursor, scan) {
            self.fold(id);
        }
        self.table.slice(cursor, scan, now, worker, &self.timeouts)
    }

    /// Emits each flow that opens or closes from now on to `feed`, while it has a subscriber.
    pub(crate) fn set_feed(&mut self, feed: FeedWriter) {
        self.feed = Some(feed);
    }

    #[inline]
    fn subscribed_feed(&self) -> Option<&FeedWriter> {
        self.feed.as_ref().filter(|feed| feed.is_subscribed())
    }

    /// If the service has affinity, the client's entry holds the backend of a flow that was just opened.
    fn hold_affinity(&mut self, id: FlowId, backend: &Backend, time: Duration, now: Timestamp) {
        let key = client_key(self.table.entry(id));
        let begun = self.affinity.begin(&key, backend.into(), now, time);
        self.stats.affinity_evicted.add(u64::from(begun.evicted));
        self.table.entry_mut(id).set_epoch(begun.epoch);
    }
}

pub(super) const fn client_key(entry: &HotEntry) -> ServiceClient {
    ServiceClient {
        service: entry.service(),
        client: entry.client,
    }
}
