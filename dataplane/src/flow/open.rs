//! Room for a new flow: a NAT port and an entry, and the flows that have to make room.

use thiserror::Error;
use vl3lb_common::{BackendSlot, Duration, ServiceSlot, Timestamp};

use super::entry::HotEntry;
use super::key::{Key, ReplyKey};
use super::state::State;
use super::table::{FlowId, FlowTable};

/// Limit of the search for a finished flow whose port suits a new flow. The oldest one does, unless
/// another service shares the backend.
const RECLAIM_SCAN: usize = 32;
/// Limit of the search for an expired entry when the table is full.
const EVICT_SCAN: usize = 64;

/// The parameters of a new flow.
#[derive(Debug, Clone, Copy)]
pub struct NewFlow {
    pub client: [u8; 16],
    pub client_port: u16,
    /// Index of an own address: from [`FlowTable::find_local`].
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
}

/// Room for a new flow: its NAT port, and the flows that have to end for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) nat_port: u16,
    /// The flow that has the request key, or an expired one of a full table.
    pub(super) replaced: Option<FlowId>,
    /// A finished flow of the same backend.
    pub(super) reclaimed: Option<FlowId>,
}

/// The reason why a flow could not be opened. No other flow was ended for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// All entries hold open flows.
    #[error("no entry left in the flow table")]
    TableFull,
    /// All NAT ports of this backend belong to open flows.
    #[error("no NAT port left towards this backend")]
    PortsExhausted,
}

impl FlowTable {
    /// Finds room for a flow; see [`super::Flows::open`]. O(NAT ports / 64).
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
        let entry = HotEntry::new(new, 0);
        let request = entry.request_key().hash(&self.seed);
        let mut replaced = self.find(request, entry.request_key());
        let (nat_port, mut reclaimed) = self.choose_port(&entry, new.nat_port, replaced, random, usable)?;
        if self.pool.is_full() && replaced.is_none() && reclaimed.is_none() {
            reclaimed = self.finished_flows(new.backend_slot).next();
            if reclaimed.is_none() {
                replaced = Some(self.expired_near_cursor(now).ok_or(OpenError::TableFull)?);
            }
        }
        Ok(Room {
            nat_port,
            replaced,
            reclaimed,
        })
    }

    /// A NAT port for a flow, and the finished flow that has to go first if it owns that port.
    ///
    /// A flow that replaces one with the same request key keeps its port: the backend, where the old
    /// connection may be in TIME-WAIT, then sees sequence numbers and timestamps of the same client
    /// continue, and accepts the SYN (RFC 9293 section 3.10.7.4, RFC 6191). It would reject another
    /// client's SYN to that port half of the time.
    fn choose_port(
        &self,
        new: &HotEntry,
        wanted: Option<u16>,
        replaced: Option<FlowId>,
        random: u64,
        usable: impl Fn(u16) -> bool,
    ) -> Result<(u16, Option<FlowId>), OpenError> {
        let backend = BackendSlot(new.backend_slot);
        let owner = |nat_port| {
            self.find_reply(&ReplyKey {
                nat_port,
                ..new.reply_key()
            })
        };
        // Not if yet another flow has this reply key.
        let inherited = |id: FlowId| {
            let old = self.entry(id);
            let port = old.nat_port;
            let suits =
                old.backend_slot == backend.0 && usable(port) && owner(port).is_none_or(|owner| owner == id);
            suits.then_some(port)
        };
        if let Some(port) = replaced.and_then(inherited) {
            return Ok((port, None));
        }
        let acceptable = |port| usable(port) && owner(port).is_none();
        let free = wanted
            .filter(|&port| self.ports.is_free(backend, port) && acceptable(port))
            .or_else(|| self.ports.find_free(backend, random, acceptable));
        if let Some(port) = free {
            return Ok((port, None));
        }
        self.finished_flows(backend)
            .take(RECLAIM_SCAN)
            .find_map(|id| Some((inherited(id)?, Some(id))))
            .ok_or(OpenError::PortsExhausted)
    }

    /// The finished flows of a backend, oldest first.
    fn finished_flows(&self, backend: BackendSlot) -> impl Iterator<Item = FlowId> {
        self.finished.oldest_first(backend, &self.pool.cold).map(FlowId)
    }

    /// An expired flow, if one is among the next few entries after the sweep's cursor. The cursor
    /// moves on, so that the next search looks elsewhere.
    fn expired_near_cursor(&mut self, now: Timestamp) -> Option<FlowId> {
        for _ in 0..EVICT_SCAN {
            let Some(id) = self.next_at_cursor() else { continue };
            if self.entry(id).expired(now) {
                return Some(id);
            }
        }
        None
    }
}
