//! The header of a flow table: its shape, and the few numbers that change.

use vl3lb_common::snapshot::WorkerPorts;
use zerocopy::{FromBytes, IntoBytes};

/// Own addresses at most, those that are gone but have flows included: a flow refers to its own by one byte.
pub(super) const MAX_LOCALS: usize = 256;

const MAGIC: [u8; 8] = *b"vl3flow\0";
/// Raised whenever the meaning of any byte of the mapping changes.
const VERSION: u32 = 6;

/// The header. The lengths of all arrays, and so their offsets, follow from it.
#[derive(FromBytes, IntoBytes)]
#[repr(C)]
pub(super) struct Header {
    magic: [u8; 8],
    version: u32,
    header_bytes: u32,
    /// Flows at most.
    pub(super) capacity: u32,
    /// Buckets of the index.
    pub(super) buckets: u32,
    /// Seed of the index's hash.
    pub(super) seed: u64,
    /// The first NAT port.
    pub(super) first_port: u16,
    /// The distance of NAT ports.
    pub(super) port_step: u16,
    /// Number of NAT ports.
    pub(super) ports: u16,
    /// Backend slots; as many endpoints have a map of ports.
    pub(super) backends: u16,
    /// Live flows.
    pub(super) len: u32,
    /// Entries from here on were never used.
    pub(super) fresh: u32,
    /// The last freed entry plus one; 0: none.
    pub(super) free: u32,
    /// The position of the sweep.
    pub(super) cursor: u32,
    /// Indexes of own addresses given out so far.
    pub(super) locals: u32,
    /// Flows that are not over.
    pub(super) live: u32,
    /// By index: the address, which may be gone from the interface.
    pub(super) local_addresses: [[u8; 16]; MAX_LOCALS],
    /// By index: the address while it is on the interface, else [`NO_ADDRESS`].
    pub(super) current_addresses: [[u8; 16]; MAX_LOCALS],
    /// By index: flows that refer to it.
    pub(super) local_flows: [u32; MAX_LOCALS],
}

/// Marks an unused entry: the unspecified address, which no interface has.
pub(super) const NO_ADDRESS: [u8; 16] = [0; 16];

#[expect(clippy::cast_possible_truncation, reason = "some kilobytes, asserted below")]
const HEADER_BYTES: u32 = size_of::<Header>() as u32;
const _: () =
    assert!(HEADER_BYTES == 64 + 4096 + 4096 + 1024 && std::mem::offset_of!(Header, local_addresses) == 64);

/// The parameters of a new table.
pub(super) struct Shape {
    pub(super) capacity: u32,
    pub(super) buckets: u32,
    pub(super) seed: u64,
    pub(super) ports: WorkerPorts,
    pub(super) backends: u16,
}

impl Header {
    pub(super) const fn new(shape: &Shape) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            header_bytes: HEADER_BYTES,
            capacity: shape.capacity,
            buckets: shape.buckets,
            seed: shape.seed,
            first_port: shape.ports.first,
            port_step: shape.ports.step,
            ports: shape.ports.count,
            backends: shape.backends,
            len: 0,
            fresh: 0,
            free: 0,
            cursor: 0,
            locals: 0,
            live: 0,
            local_addresses: [NO_ADDRESS; MAX_LOCALS],
            current_addresses: [NO_ADDRESS; MAX_LOCALS],
            local_flows: [0; MAX_LOCALS],
        }
    }

    /// Own addresses and those that are gone, by index.
    pub(super) fn known_addresses(&self) -> &[[u8; 16]] {
        let known = (self.locals as usize).min(MAX_LOCALS);
        &self.local_addresses[..known]
    }

    /// Own addresses by index; [`NO_ADDRESS`] where one is gone.
    #[inline(always)]
    pub(super) fn current_addresses(&self) -> &[[u8; 16]] {
        let known = (self.locals as usize).min(MAX_LOCALS);
        &self.current_addresses[..known]
    }
}
