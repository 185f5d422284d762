//! Endpoints: the (address, port, protocol) to which flows are translated, and the own address from which.
//!
//! Several backend slots may have the same endpoint: two services on one backend, or a backend that left and came back
//! while flows of its former slot go on. Whatever must not be shared by two flows to one endpoint (NAT ports), and
//! whatever makes room there, belongs to the endpoint and not to the slot. Flows from different own addresses cannot
//! collide, so each own address has endpoints, and so NAT ports, of its own.
//!
//! An endpoint keeps its number while it has flows. A slot has one endpoint for each own address while it has flows, since
//! the control side gives it to another backend only then.

use vl3lb_common::BackendSlot;
use vl3lb_common::snapshot::MAX_BACKENDS;
use zerocopy::{FromBytes, IntoBytes};

use super::header::MAX_LOCALS;
use super::key::HashSeed;
use super::mapping::Region;

/// Places in the hash table of endpoints: half of them are free when every number is in use.
pub(super) const PLACES: usize = 2 * MAX_BACKENDS;

/// Where flows are translated to, and from which own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub address: [u8; 16],
    pub port: u16,
    pub protocol: u8,
    /// Index of the own address.
    pub local: u8,
}

/// Elements of the table of endpoints by slot and own address. Untouched ones cost no memory.
pub(super) const SLOT_ENDPOINTS: usize = MAX_BACKENDS * MAX_LOCALS;

/// The number of an endpoint in one flow table, below [`MAX_BACKENDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndpointId(pub(super) u32);

impl EndpointId {
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One endpoint, in half a cache line: each packet of its flows reads it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes)]
#[repr(C, align(32))]
pub(crate) struct Record {
    pub address: [u8; 16],
    pub port: u16,
    protocol: u8,
    /// 1 if the number stands for an endpoint.
    known: u8,
    /// Flows in the table.
    flows: u32,
    /// Those of them that are not over.
    live: u32,
    local: u8,
    _unused: [u8; 3],
}

const _: () = assert!(size_of::<Record>() == 32);

impl Record {
    fn is(&self, endpoint: &Endpoint) -> bool {
        self.known != 0
            && self.is_at(&endpoint.address, endpoint.port)
            && (self.protocol, self.local) == (endpoint.protocol, endpoint.local)
    }

    /// Whether the endpoint has this address and port.
    #[inline(always)]
    pub(super) fn is_at(&self, address: &[u8; 16], port: u16) -> bool {
        self.port == port && self.address == *address
    }

    pub(super) const fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: self.address,
            port: self.port,
            protocol: self.protocol,
            local: self.local,
        }
    }
}

/// All endpoints of a flow table.
pub(super) struct Endpoints {
    /// By number.
    records: Region<Record>,
    /// By hash, with linear probing: the number plus one, 0 for a free place.
    places: Region<u32>,
    /// By backend slot, then by own address: the number plus one of the endpoint that it had last, 0 for none.
    of_slot: Region<u32>,
    /// Flows by backend slot.
    slot_flows: Region<u32>,
    /// One element.
    numbers: Region<Numbers>,
}

/// Which numbers are in use.
#[derive(FromBytes, IntoBytes)]
#[repr(C)]
pub(super) struct Numbers {
    /// Numbers below this were given out.
    given: u32,
    /// Where the search for a number without flows goes on when all were given out.
    cursor: u32,
}

impl Endpoints {
    /// No endpoints, over zeroed memory.
    pub(super) const fn new(
        records: Region<Record>,
        places: Region<u32>,
        of_slot: Region<u32>,
        slot_flows: Region<u32>,
        numbers: Region<Numbers>,
    ) -> Self {
        Self {
            records,
            places,
            of_slot,
            slot_flows,
            numbers,
        }
    }

    /// The endpoint of a slot's flows, if it is `endpoint`. O(1).
    pub(super) fn known(&self, slot: BackendSlot, endpoint: &Endpoint) -> Option<EndpointId> {
        let id = self
            .of_slot
            .get(slot_endpoint(slot, endpoint.local))?
            .checked_sub(1)?;
        self.records[id as usize].is(endpoint).then_some(EndpointId(id))
    }

    /// The number of `endpoint`, from now on that of `slot`. O(1), but O([`MAX_BACKENDS`]) if all numbers have been
    /// given out. `None` if there is no such slot, it has flows to another endpoint, or all numbers have flows.
    pub(super) fn resolve(
        &mut self,
        slot: BackendSlot,
        endpoint: &Endpoint,
        seed: &HashSeed,
    ) -> Option<EndpointId> {
        if let Some(id) = self.known(slot, endpoint) {
            return Some(id);
        }
        let former = self
            .of_slot
            .get(slot_endpoint(slot, endpoint.local))?
            .checked_sub(1);
        let former = former.map(|id| &self.records[id as usize]);
        let has_former = former.is_some_and(|former| former.local == endpoint.local && former.flows > 0);
        if has_former && *self.slot_flows.get(slot.index())? > 0 {
            return None;
        }
        let id = match self.find(endpoint, seed) {
            Ok(id) => id,
            Err(_) => self.add(endpoint, seed)?,
        };
        self.of_slot[slot_endpoint(slot, endpoint.local)] = id.0 + 1;
        Some(id)
    }

    /// The endpoint with this number.
    #[inline(always)]
    pub(super) fn get(&self, id: EndpointId) -> &Record {
        &self.records[id.index()]
    }

    /// The endpoint of a slot that has flows from an own address.
    pub(super) fn of_flows(&self, slot: BackendSlot, local: u8) -> EndpointId {
        EndpointId(self.of_slot[slot_endpoint(slot, local)].saturating_sub(1))
    }

    /// Flows of a slot. O(1).
    pub(super) fn slot_flows(&self, slot: BackendSlot) -> u32 {
        self.slot_flows.get(slot.index()).copied().unwrap_or(0)
    }

    /// Flows of an endpoint that are not over. O(1).
    pub(super) fn live(&self, id: EndpointId) -> u32 {
        self.records[id.index()].live
    }

    /// A flow of `slot` entered the table.
    pub(super) fn opened(&mut self, slot: BackendSlot, id: EndpointId) {
        self.slot_flows[slot.index()] += 1;
        self.records[id.index()].flows += 1;
    }

    /// A flow of `slot` left the table.
    pub(super) fn closed(&mut self, slot: BackendSlot, id: EndpointId) {
        self.slot_flows[slot.index()] -= 1;
        self.records[id.index()].flows -= 1;
    }

    /// A flow to this endpoint is over, or is none of those any more.
    pub(super) fn set_live(&mut self, id: EndpointId, live: bool) {
        let count = &mut self.records[id.index()].live;
        *count = if live { *count + 1 } else { *count - 1 };
    }

    /// Whether there is no flow.
    #[cfg(test)]
    pub(super) fn is_pristine(&self) -> bool {
        self.slot_flows.iter().all(|&flows| flows == 0)
            && self
                .records
                .iter()
                .all(|record| record.flows == 0 && record.live == 0)
    }

    /// The number of an endpoint, or the place where it belongs.
    fn find(&self, endpoint: &Endpoint, seed: &HashSeed) -> Result<EndpointId, usize> {
        let mut at = place(endpoint, seed);
        loop {
            match self.places[at].checked_sub(1) {
                None => return Err(at),
                Some(id) if self.records[id as usize].is(endpoint) => return Ok(EndpointId(id)),
                Some(_) => at = (at + 1) % PLACES,
            }
        }
    }

    /// Gives a number to an endpoint that has none.
    fn add(&mut self, endpoint: &Endpoint, seed: &HashSeed) -> Option<EndpointId> {
        let given = &mut self.numbers[0].given;
        let id = if (*given as usize) < self.records.len() {
            *given += 1;
            *given - 1
        } else {
            let id = self.unused()?;
            let old = self.records[id as usize].endpoint();
            self.forget(&old, seed);
            id
        };
        let at = self.find(endpoint, seed).err()?;
        self.records[id as usize] = Record {
            address: endpoint.address,
            port: endpoint.port,
            protocol: endpoint.protocol,
            known: 1,
            flows: 0,
            live: 0,
            local: endpoint.local,
            _unused: [0; 3],
        };
        self.places[at] = id + 1;
        Some(EndpointId(id))
    }

    /// A number without flows.
    fn unused(&mut self) -> Option<u32> {
        let cursor = &mut self.numbers[0].cursor;
        for _ in 0..self.records.len() {
            let id = *cursor;
            *cursor = if (id as usize) + 1 < self.records.len() {
                id + 1
            } else {
                0
            };
            if self.records[id as usize].flows == 0 {
                return Some(id);
            }
        }
        None
    }

    /// Takes an endpoint out of the hash table: later ones of its run move up, so that no search ends too early.
    fn forget(&mut self, endpoint: &Endpoint, seed: &HashSeed) {
        let mut free = place(endpoint, seed);
        loop {
            match self.places[free].checked_sub(1) {
                None => return,
                Some(id) if self.records[id as usize].is(endpoint) => break,
                Some(_) => free = (free + 1) % PLACES,
            }
        }
        let mut at = free;
        loop {
            at = (at + 1) % PLACES;
            let Some(id) = self.places[at].checked_sub(1) else {
                break;
            };
            let home = place(&self.records[id as usize].endpoint(), seed);
            // Moves if its search passes the free place: the free place is not before its home.
            let displaced = (at + PLACES - home) % PLACES;
            let gap = (at + PLACES - free) % PLACES;
            if displaced >= gap {
                self.places[free] = self.places[at];
                free = at;
            }
        }
        self.places[free] = 0;
    }
}

/// The place of a slot's endpoint; out of the table for a slot that cannot be.
const fn slot_endpoint(slot: BackendSlot, local: u8) -> usize {
    slot.index()
        .saturating_mul(MAX_LOCALS)
        .saturating_add(local as usize)
}

fn place(endpoint: &Endpoint, seed: &HashSeed) -> usize {
    let hash = seed.endpoint_hash(
        &endpoint.address,
        endpoint.port,
        endpoint.protocol,
        endpoint.local,
    );
    (hash.0 >> 32) as usize % PLACES
}
