//! What the program has to know of a flow.

use vl3lb_common::sync::atomic::{AtomicU64, Ordering};

use vl3lb_common::MacAddr;
use vl3lb_common::hash::OwnerKey;

use super::layout::{
    BACKEND, BYTES, CLIENT, DELTAS, HOPS, LOCAL, MTUS, NUMBERS, PACKETS, PATHS, PORTS, PROTOCOL, USED,
    WINDOWS, pair, side, word, words,
};
use crate::flow::Direction;

/// Where packets of one direction go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hop {
    /// No meaning on a raw-IP link.
    pub(crate) mac: MacAddr,
    /// The client's address was learned from its packets: it holds while they come from there.
    pub(crate) is_learned: bool,
    /// The longest IP packet.
    pub(crate) mtu: u16,
}

/// A flow for the program. Arrays are by [`Direction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promotion {
    pub(crate) client: [u8; 16],
    pub(crate) local: [u8; 16],
    pub(crate) backend: [u8; 16],
    pub(crate) client_port: u16,
    pub(crate) service_port: u16,
    pub(crate) nat_port: u16,
    pub(crate) backend_port: u16,
    pub(crate) protocol: u8,
    pub(crate) hops: [Hop; 2],
    /// TCP: the number behind what was sent, and the largest window that the sender of a direction offers.
    pub(crate) ends: [u32; 2],
    pub(crate) windows: [u32; 2],
    /// The backend has not replied: its first packet is the worker's.
    pub(crate) is_unreplied: bool,
}

impl Promotion {
    /// The hashes of the tuples that packets of both directions have.
    pub(super) fn hashes(&self, key: &OwnerKey) -> [u64; 2] {
        [
            key.tuple_hash(&self.client, self.client_port, self.service_port, self.protocol),
            key.tuple_hash(&self.backend, self.backend_port, self.nat_port, self.protocol),
        ]
    }

    /// Writes a record that no index word names. `key` is that of the program's hash.
    pub(super) fn write(&self, record: &[AtomicU64], key: &OwnerKey) {
        let set = |at: usize, value: u64| record[at].store(value, Ordering::Relaxed);
        for (at, address) in [
            (CLIENT, self.client),
            (LOCAL, self.local),
            (BACKEND, self.backend),
        ] {
            let [first, second] = words(address);
            set(at, first);
            set(at + 1, second);
        }
        let [a, b] = self.client_port.to_be_bytes();
        let [c, d] = self.service_port.to_be_bytes();
        let [e, f] = self.nat_port.to_be_bytes();
        let [g, h] = self.backend_port.to_be_bytes();
        set(PORTS, word([a, b, c, d, e, f, g, h]));
        set(PROTOCOL, word([self.protocol, 0, 0, 0, 0, 0, 0, 0]));
        write_hops(record, &self.hops);
        set(WINDOWS, pair(self.windows[0], self.windows[1]));
        set(
            DELTAS,
            pair(
                delta(&self.client, &self.backend).into(),
                delta(&self.backend, &self.client).into(),
            ),
        );
        let [to_backend, to_client] = [self.backend, self.client].map(|receiver| {
            let hash = key.tuple_hash(&receiver, 0, 0, self.protocol) >> 32;
            u32::try_from(hash).unwrap_or_default()
        });
        set(PATHS, pair(to_backend, to_client));
        for direction in [Direction::In, Direction::Out] {
            let at = side(direction);
            set(at + PACKETS, 0);
            set(at + BYTES, 0);
            set(at + USED, 0);
            let (end, other) = (
                self.ends[direction as usize],
                self.ends[direction.opposite() as usize],
            );
            set(at + NUMBERS, pair(end, other));
        }
    }
}

/// Writes the next hops, each as a whole. The record may be in use.
pub(super) fn write_hops(record: &[AtomicU64], hops: &[Hop; 2]) {
    for (at, hop) in hops.iter().enumerate() {
        let [a, b, c, d, e, f] = hop.mac.0;
        let value = word([a, b, c, d, e, f, u8::from(hop.is_learned), 0]);
        record[HOPS + at].store(value, Ordering::Relaxed);
    }
    let ([a, b], [c, d]) = (hops[0].mtu.to_ne_bytes(), hops[1].mtu.to_ne_bytes());
    record[MTUS].store(word([a, b, c, d, 0, 0, 0, 0]), Ordering::Relaxed);
}

/// The change of a checksum's sum when one address of a packet becomes another (RFC 1624). The program swaps the
/// sender's for the receiver's; the balancer's own stays.
fn delta(from: &[u8; 16], to: &[u8; 16]) -> u16 {
    let sum = |address: &[u8; 16], mask: u16| -> u32 {
        address
            .chunks_exact(2)
            .map(|bytes| u32::from(u16::from_ne_bytes([bytes[0], bytes[1]]) ^ mask))
            .sum()
    };
    let mut whole = sum(to, 0) + sum(from, u16::MAX);
    while whole > u32::from(u16::MAX) {
        whole = (whole & 0xffff) + (whole >> 16);
    }
    u16::try_from(whole).unwrap_or(u16::MAX)
}
