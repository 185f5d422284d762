//! Room for a new flow: a NAT port and an entry, and the flows that have to make room.
//!
//! Flows that are over go first. Then live ones go ([`super::victim`]). An established TCP flow never does.
//!
//! The backend may have the former connection of a port in TIME-WAIT, where it takes a SYN only if its timestamp, or
//! without timestamps its sequence number, is ahead of the last one that it had (RFC 6191). For two clients that is so
//! half of the time. Both are known of a flow that is over, so the oldest one is taken that lets the SYN pass. Sequence
//! numbers differ at random from connection to connection, so among [`RECLAIM_SCAN`] flows there is always one. But the
//! timestamps of one host are all ahead of another one's, or all behind. A client that is behind too many others gets a
//! port by its sequence number alone, and its SYN goes without timestamps, which its connection then does not have
//! (RFC 7323 section 3.2). Nothing else is rewritten: both ends see each other's numbers, in SACK too.
//!
//! A client has a share (RFC 6888 REQ-4): a number of flows, and at most half of the table's entries or an endpoint's NAT
//! ports once all but one in sixteen are used. So one client cannot lock the others out with flows that never make room,
//! and may still use nearly everything while nobody else needs it. Tables of less than 128 have no such reserve. A client beyond its share gets a new flow in exchange
//! for one of its own only.

use thiserror::Error;
use vl3lb_common::{BackendSlot, Duration, ServiceSlot, Timestamp};

use super::clients::Scope;
use super::endpoint::{Endpoint, EndpointId};
use super::key::{Key, RequestKey};
use super::reclaim::Class;
use super::sequence::SynNumbers;
use super::state::State;
use super::table::{FlowId, FlowTable};

/// Limit of the search for a flow that is over and whose port suits a new flow. The oldest one does, unless a service
/// listens at its port by now.
const RECLAIM_SCAN: usize = 32;
/// Limit of the search for an expired entry when the table is full.
const EXPIRED_SCAN: usize = 64;
/// A flow that was opened within this time may be a connection attempt that goes on. The backend may refuse the first SYN
/// where it still has a half-open connection of the port's former flow; the client repeats it after a second (RFC 6298
/// section 2.1), and it must then come from the same port.
const YOUNG: Duration = Duration::from_secs(2);
/// Young flows that end the search for one that is not: all others come to the end of their queue soon.
const OLD_SCAN: usize = 4;

/// The parameters of a new flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewFlow {
    pub client: [u8; 16],
    pub client_port: u16,
    /// Index of an own address: from [`FlowTable::find_local`], or of a local client from [`FlowTable::local_clients`].
    pub local: u8,
    pub service_port: u16,
    pub protocol: u8,
    pub backend: [u8; 16],
    pub backend_port: u16,
    pub backend_slot: BackendSlot,
    pub service_slot: ServiceSlot,
    pub client_mac: [u8; 6],
    pub hop_generation: u16,
    pub timeout: Duration,
    pub state: State,
    /// A NAT port to be taken if it is still free: from [`FlowTable::free_port`].
    pub nat_port: Option<u16>,
    /// The flow is opened away from its client's home: see [`super::overflow`].
    pub away: bool,
    /// Another worker may have room: no live flow has to make it here.
    pub elsewhere: bool,
    /// The client's SYN, of a TCP flow.
    pub syn: Option<SynNumbers>,
    /// Flows that the client may have in this table, those that are over not counted.
    pub client_flows: u32,
    /// The flow that has the request key, expired or over.
    pub predecessor: Predecessor,
}

/// The flow with the request key of one that is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Predecessor {
    /// To be looked for.
    Unknown,
    /// Looked for; there may be none.
    Known(Option<FlowId>),
}

impl NewFlow {
    pub(super) const fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: self.backend,
            port: self.backend_port,
            protocol: self.protocol,
            local: self.local,
        }
    }
}

/// Room for a new flow: its NAT port, and the flows that have to end for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) nat_port: u16,
    /// The SYN passes at the backend without its timestamps only.
    pub(super) untimed: bool,
    /// The flow that has the request key, or an expired one of a full table.
    pub(super) replaced: Option<FlowId>,
    /// A flow that is over, or a live one that makes room.
    pub(super) reclaimed: Option<FlowId>,
}

/// A flow whose NAT port a new one can take.
#[derive(Debug, Clone, Copy)]
struct Reclaimable {
    id: FlowId,
    /// See [`Room::untimed`].
    untimed: bool,
}

/// The reason why a flow could not be opened. No other flow was ended for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum OpenError {
    /// All entries hold open flows.
    #[error("no entry left in the flow table")]
    TableFull,
    /// All NAT ports of this backend belong to open flows.
    #[error("no NAT port left towards this backend")]
    PortsExhausted,
    /// The client has its share, and none of its flows can make room.
    #[error("the client has its share of flows")]
    ClientLimit,
}

impl FlowTable {
    /// Finds room for a flow; see [`super::Flows::open`]. Without pressure O(NAT ports / 64). Where ports or entries have
    /// run out, some 30 flows more are read at most.
    ///
    /// # Errors
    /// If nothing can make room, or `backend_slot` is not below [`MAX_BACKENDS`] (no ports then).
    ///
    /// [`MAX_BACKENDS`]: vl3lb_common::snapshot::MAX_BACKENDS
    pub(super) fn make_room(
        &mut self,
        new: &NewFlow,
        now: Timestamp,
        random: u64,
        usable: impl Fn(u16) -> bool,
    ) -> Result<Room, OpenError> {
        let endpoint = Endpoint {
            local: self.own_index(new.local),
            ..new.endpoint()
        };
        let endpoint = self
            .endpoints
            .resolve(new.backend_slot, &endpoint, &self.seed)
            .ok_or(OpenError::PortsExhausted)?;
        let mut replaced = match new.predecessor {
            Predecessor::Unknown => self.predecessor(new),
            Predecessor::Known(found) => {
                debug_assert_eq!(found, self.predecessor(new), "nothing changes after a look-up");
                found
            }
        };
        let unused = self.unused_port(new, endpoint, replaced, random, &usable);
        let mut untimed = false;
        let (nat_port, mut reclaimed) = if let Some(error) = self.share_used(new, endpoint, replaced) {
            if new.elsewhere {
                return Err(error);
            }
            let own = self
                .own_flow(endpoint, &new.client, replaced, &usable)
                .ok_or(error)?;
            (unused.unwrap_or_else(|| self.entry(own).nat_port), Some(own))
        } else if let Some(port) = unused {
            (port, None)
        } else {
            let found = self.reclaimable(endpoint, new.syn, now, &usable);
            let id = found
                .map(|found| found.id)
                .or_else(|| self.evictable(endpoint, &usable).filter(|_| !new.elsewhere))
                .ok_or(OpenError::PortsExhausted)?;
            untimed = found.is_some_and(|found| found.untimed);
            (self.entry(id).nat_port, Some(id))
        };
        if self.pool.is_full() && replaced.is_none() && reclaimed.is_none() {
            reclaimed = self.evictable_anywhere(now);
            if reclaimed.is_none() {
                replaced = Some(self.expired_near_cursor(now).ok_or(OpenError::TableFull)?);
            }
        }
        Ok(Room {
            nat_port,
            untimed,
            replaced,
            reclaimed,
        })
    }

    /// The flow that has the request key of a new one.
    fn predecessor(&self, new: &NewFlow) -> Option<FlowId> {
        let request = RequestKey {
            client: new.client,
            client_port: new.client_port,
            local: new.local,
            service_port: new.service_port,
            protocol: new.protocol,
        };
        self.find(request.hash(&self.seed), request)
    }

    /// A NAT port for a flow that no other flow has to leave.
    ///
    /// A flow that replaces one with the same request key keeps its port: the backend, where the old
    /// connection may be in TIME-WAIT, then sees sequence numbers and timestamps of the same client
    /// continue, and accepts the SYN (RFC 9293 section 3.10.7.4, RFC 6191). It would reject another
    /// client's SYN to that port half of the time.
    fn unused_port(
        &self,
        new: &NewFlow,
        endpoint: EndpointId,
        replaced: Option<FlowId>,
        random: u64,
        usable: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let inherited = replaced
            .map(|id| self.entry(id))
            .filter(|old| old.endpoint() == endpoint)
            .map(|old| old.nat_port)
            .filter(|&port| usable(port));
        let wanted = || {
            new.nat_port
                .filter(|&port| self.ports.is_free(endpoint, port) && usable(port))
        };
        inherited
            .or_else(wanted)
            .or_else(|| self.ports.find_free(endpoint, random, &usable))
    }

    /// The flow to the endpoint that makes room first: the oldest that is over and lets the SYN pass, but rather a
    /// half-open one than a young one that is over.
    fn reclaimable(
        &self,
        endpoint: EndpointId,
        syn: Option<SynNumbers>,
        now: Timestamp,
        usable: impl Fn(u16) -> bool,
    ) -> Option<Reclaimable> {
        let untimed_syn = syn.filter(|syn| syn.timestamp.is_some()).map(|syn| SynNumbers {
            timestamp: None,
            ..syn
        });
        let is_usable = |id| usable(self.entry(id).nat_port);
        let is_old = |id| now.since(self.counters(id).created()) >= YOUNG;
        let passes = |id, syn: SynNumbers| !self.entry(id).sequence.refuses(&syn, now);
        let over = || {
            self.queues
                .oldest_first(endpoint, Class::Over, &self.pool.cold)
                .take(RECLAIM_SCAN)
                .map(FlowId)
                .filter(|&id| is_usable(id))
        };
        // What can be taken if no flow lets the SYN pass as it is.
        let (mut without_timestamps, mut oldest) = (None, None);
        let mut young = 0;
        for id in over() {
            if !is_old(id) {
                young += 1;
                if young == OLD_SCAN {
                    break;
                }
            } else if syn.is_none_or(|syn| passes(id, syn)) {
                return Some(Reclaimable { id, untimed: false });
            } else {
                if without_timestamps.is_none() && untimed_syn.is_some_and(|syn| passes(id, syn)) {
                    without_timestamps = Some(Reclaimable { id, untimed: true });
                }
                oldest = oldest.or(Some(id));
            }
        }
        let as_it_is = |id| Reclaimable { id, untimed: false };
        without_timestamps.or_else(|| {
            oldest
                .or_else(|| self.oldest_half_open(endpoint, |id| is_old(id) && is_usable(id)))
                .or_else(|| over().next())
                .map(as_it_is)
        })
    }

    /// Why the client gets no more flows than it has, if it does not; the one that is `replaced` is not counted.
    fn share_used(&self, new: &NewFlow, endpoint: EndpointId, replaced: Option<FlowId>) -> Option<OpenError> {
        let live = replaced
            .map(|id| self.entry(id))
            .filter(|old| !old.state().is_over());
        // Counted where it matters only: without a limit, and with room in the table, the count decides nothing.
        let in_table = || self.clients.flows(&new.client, Scope::Table, &self.seed);
        if new.client_flows < u32::MAX && in_table() - u32::from(live.is_some()) >= new.client_flows {
            return Some(OpenError::ClientLimit);
        }
        let to_endpoint = live.filter(|old| old.endpoint() == endpoint);
        let (ports, capacity) = (self.ports.usable(), self.capacity());
        let used = self.endpoints.live(endpoint) - u32::from(to_endpoint.is_some());
        if used >= ports - reserve(ports) {
            let scope = Scope::Endpoint(endpoint);
            if self.clients.flows(&new.client, scope, &self.seed) > ports / 2 {
                let left = used < ports;
                return Some(if left {
                    OpenError::ClientLimit
                } else {
                    OpenError::PortsExhausted
                });
            }
        }
        let used = self.pool.header().live - u32::from(live.is_some());
        (used >= capacity - reserve(capacity) && in_table() > capacity / 2).then_some(if used < capacity {
            OpenError::ClientLimit
        } else {
            OpenError::TableFull
        })
    }

    /// An expired flow, if one is among the next few entries after the sweep's cursor. The cursor
    /// moves on, so that the next search looks elsewhere.
    fn expired_near_cursor(&mut self, now: Timestamp) -> Option<FlowId> {
        for _ in 0..EXPIRED_SCAN {
            let Some(id) = self.next_at_cursor() else { continue };
            if self.entry(id).expired(now) {
                return Some(id);
            }
        }
        None
    }
}

/// How many of `all` NAT ports or entries are kept for clients that have less than half of them.
const fn reserve(all: u32) -> u32 {
    if all < 128 { 0 } else { all / 16 }
}
