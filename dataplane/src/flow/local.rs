//! The balancer's own addresses: flows refer to them by an index of one byte.
//!
//! An address that leaves the interface keeps its index while flows refer to it, so that these can be ended, and
//! gets the same index if it comes back meanwhile. Then the index is free for another address.
//!
//! Flows of clients in the balancer's own network namespace refer to their own address by a second index, that of its
//! *local clients*. It is part of both keys of a flow, and no packet that comes in by the interface is looked up with it. So
//! nobody outside can send in the name of a local client, and replies to one are found by a second look-up, which only
//! packets without another flow get to. Both indexes share endpoints, so that two flows never have one NAT port.

use super::header::{Header, MAX_LOCALS, NO_ADDRESS};
use super::table::FlowTable;

/// The second index of an own address is its first one plus this. Addresses with a larger first index have none.
const LOCAL_CLIENTS: u8 = 0x80;

impl FlowTable {
    /// Makes `addresses` the own ones. Returns those that found no index, because 256 addresses are in use or still
    /// have flows. O(addresses x known addresses).
    pub(crate) fn set_local_addresses(&mut self, addresses: impl Iterator<Item = [u8; 16]>) -> Vec<[u8; 16]> {
        let header = self.pool.header_mut();
        header.current_addresses = [NO_ADDRESS; MAX_LOCALS];
        addresses.filter(|address| !header.add_local(*address)).collect()
    }

    /// Makes `address` an own one too. False if no index is free. O(known addresses).
    pub(crate) fn add_local_address(&mut self, address: [u8; 16]) -> bool {
        self.pool.header_mut().add_local(address)
    }

    /// The index of an own address. O(known addresses).
    #[inline(always)]
    pub(crate) fn find_local(&self, address: &[u8; 16]) -> Option<u8> {
        const { assert!(MAX_LOCALS == 1 << u8::BITS) };
        let address = u128::from_ne_bytes(*address);
        let current = self.pool.header().current_addresses();
        let is_it = |current: &[u8; 16]| u128::from_ne_bytes(*current) == address;
        // Nearly always.
        if current.first().is_some_and(is_it) {
            return Some(0);
        }
        u8::try_from(current.iter().position(is_it)?).ok()
    }

    /// The index of an address that was an own one and still has flows.
    #[cold]
    pub(crate) fn find_departed(&self, address: &[u8; 16]) -> Option<u8> {
        let header = self.pool.header();
        let index = header
            .known_addresses()
            .iter()
            .position(|known| known == address)?;
        let departed = header.current_addresses[index] == NO_ADDRESS && header.local_flows[index] > 0;
        departed.then_some(u8::try_from(index).ok()?)
    }

    /// Whether the address with this index was an own one and is none any more.
    #[inline]
    pub(crate) fn is_departed(&self, index: u8) -> bool {
        let (header, index) = (self.pool.header(), usize::from(index));
        header.current_addresses[index] != header.local_addresses[index]
    }

    /// The index for local clients of the own address with this index. `None` for the 129th address and all further ones.
    pub(crate) fn local_clients(&self, own: u8) -> Option<u8> {
        self.pool.header().local_clients(own)
    }

    /// Whether flows with this index are those of local clients.
    #[inline]
    pub(crate) fn is_local_client(&self, index: u8) -> bool {
        index >= LOCAL_CLIENTS && u32::from(index) >= self.pool.header().locals
    }

    /// The first index of the own address with this one.
    pub(super) fn own_index(&self, index: u8) -> u8 {
        if self.is_local_client(index) {
            index & !LOCAL_CLIENTS
        } else {
            index
        }
    }

    /// The address with this index, an own one or one that is gone; all zeros if there is none.
    #[inline]
    pub(crate) fn local_address(&self, index: u8) -> [u8; 16] {
        self.pool.header().local_addresses[usize::from(index)]
    }
}

impl Header {
    /// Adds an own address, under the index that it had before if it still has flows. False if no index is free.
    fn add_local(&mut self, address: [u8; 16]) -> bool {
        let known = self.known_addresses().iter().position(|&known| known == address);
        let has_flows = |header: &Self, index: usize| {
            let own = u8::try_from(index).ok();
            let second = own.and_then(|own| header.local_clients(own)).map(usize::from);
            header.local_flows[index] > 0 || second.is_some_and(|second| header.local_flows[second] > 0)
        };
        let free = |header: &Self| {
            (0..header.locals as usize)
                .find(|&index| header.current_addresses[index] == NO_ADDRESS && !has_flows(header, index))
        };
        // It may be in use as the second one of another address.
        let fresh = |header: &Self| {
            Some(header.locals as usize).filter(|&next| next < MAX_LOCALS && header.local_flows[next] == 0)
        };
        let Some(index) = known.or_else(|| free(self)).or_else(|| fresh(self)) else {
            return false;
        };
        self.local_addresses[index] = address;
        self.current_addresses[index] = address;
        self.locals = self.locals.max(u32::try_from(index + 1).unwrap_or(u32::MAX));
        let second = u8::try_from(index).ok().and_then(|own| self.local_clients(own));
        if let Some(second) = second {
            self.local_addresses[usize::from(second)] = address;
            self.current_addresses[usize::from(second)] = address;
        }
        true
    }

    fn local_clients(&self, own: u8) -> Option<u8> {
        let second = own.checked_add(LOCAL_CLIENTS)?;
        (u32::from(second) >= self.locals).then_some(second)
    }
}
