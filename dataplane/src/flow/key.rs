//! The two keys of a flow, and how they are hashed.

use super::endpoint::Endpoints;
use super::entry::HotEntry;
use super::index::{Hash, Kind};

/// The key of a flow in packets from its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestKey {
    pub client: [u8; 16],
    pub client_port: u16,
    /// Index of the own address that the client sends to.
    pub local: u8,
    pub service_port: u16,
    pub protocol: u8,
}

/// The key of a flow in packets from its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ReplyKey {
    pub backend: [u8; 16],
    pub backend_port: u16,
    /// Index of the own address that the backend sends to.
    pub local: u8,
    pub nat_port: u16,
    pub protocol: u8,
}

/// A key of a flow.
pub(super) trait Key: Copy {
    /// Which of the two.
    const KIND: Kind;

    /// Whether `entry` is this key's flow.
    fn names(&self, entry: &HotEntry, endpoints: &Endpoints) -> bool;

    fn hash(&self, seed: &HashSeed) -> Hash;
}

impl Key for RequestKey {
    const KIND: Kind = Kind::Request;

    #[inline(always)]
    fn names(&self, entry: &HotEntry, _: &Endpoints) -> bool {
        entry.client == self.client
            && entry.client_port == self.client_port
            && entry.local == self.local
            && entry.service_port == self.service_port
            && entry.protocol == self.protocol
    }

    #[inline(always)]
    fn hash(&self, seed: &HashSeed) -> Hash {
        let ports = (self.client_port, self.service_port);
        seed.hash(Self::KIND, &self.client, ports, self.local, self.protocol)
    }
}

impl Key for ReplyKey {
    const KIND: Kind = Kind::Reply;

    #[inline(always)]
    fn names(&self, entry: &HotEntry, endpoints: &Endpoints) -> bool {
        entry.nat_port == self.nat_port
            && entry.local == self.local
            && entry.protocol == self.protocol
            && endpoints
                .get(entry.endpoint())
                .is_at(&self.backend, self.backend_port)
    }

    #[inline(always)]
    fn hash(&self, seed: &HashSeed) -> Hash {
        let ports = (self.backend_port, self.nat_port);
        seed.hash(Self::KIND, &self.backend, ports, self.local, self.protocol)
    }
}

/// The secret of a table's hash: without it, an attacker cannot aim at one bucket.
pub(super) struct HashSeed([u64; 3]);

impl HashSeed {
    /// Three secrets from one seed (SplitMix64).
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }))
    }

    /// The hash of a client of a service.
    pub(super) fn client_hash(&self, client: &[u8; 16], service: u16) -> Hash {
        self.hash(Kind::Request, client, (0, service), 0, 0)
    }

    /// The hash of a client in a scope: see [`super::clients`].
    pub(super) fn scope_hash(&self, client: &[u8; 16], scope: u32) -> Hash {
        let [low, high] = [(scope & 0xffff) as u16, (scope >> 16) as u16];
        self.hash(Kind::Request, client, (low, high), 1, 0)
    }

    /// The hash of an address, port and protocol that flows are translated to, and of the index of an own address.
    pub(super) fn endpoint_hash(&self, address: &[u8; 16], port: u16, protocol: u8, local: u8) -> Hash {
        self.hash(Kind::Reply, address, (port, 0), local, protocol)
    }

    /// Two folded multiplications in the manner of wyhash.
    #[inline]
    fn hash(
        &self,
        kind: Kind,
        address: &[u8; 16],
        (port, own_port): (u16, u16),
        local: u8,
        protocol: u8,
    ) -> Hash {
        let [s0, s1, s2] = self.0;
        let (high, low) = halves(u128::from_ne_bytes(*address));
        let rest = u64::from(port)
            | u64::from(own_port) << 16
            | u64::from(local) << 32
            | u64::from(protocol) << 40
            | (kind as u64) << 48;
        let address = folded_multiply(high ^ s0, low ^ s1);
        Hash(folded_multiply(address ^ rest, s2 | 1))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves")]
const fn halves(value: u128) -> (u64, u64) {
    ((value >> 64) as u64, value as u64)
}

/// Multiplies to 128 bits and folds the halves together: every input bit reaches every output bit.
#[inline]
fn folded_multiply(x: u64, y: u64) -> u64 {
    let (high, low) = halves(u128::from(x) * u128::from(y));
    high ^ low
}
