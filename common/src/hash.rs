//! Hashes: which worker owns a flow, and the place of a backend in a Maglev table.
//!
//! The first is keyed, so that no sender can aim at one worker; the steer program computes it in C too. The second must
//! give every balancer with the same configuration the same table: golden vectors in the tests keep it stable across
//! releases. The flow table's own hash is keyed and private to it.

use std::net::IpAddr;

use crate::addr::{Protocol, to_octets};

/// The secret of the hash that selects the worker of a flow; one for all workers and the steer program.
///
/// The hash is multilinear: a sum of products of the input's words and secret numbers, modulo 2^64, whose upper half is
/// independent for any two inputs (Lemire and Kaser, "Strongly universal string hashing is fast", 2014). So nobody
/// without the key can choose inputs that meet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OwnerKey([u64; Self::WORDS]);

impl std::fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnerKey")
    }
}

impl OwnerKey {
    /// Secret numbers: one to begin with, one for each word of the input.
    pub const WORDS: usize = 7;

    /// The key that follows from a seed, which should be random.
    pub fn from_seed(seed: u64) -> Self {
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }))
    }

    /// The secret numbers, for the steer program.
    pub const fn words(&self) -> [u64; Self::WORDS] {
        self.0
    }

    /// The hash that selects the worker of a flow, over the client's side of it. The steer program computes the same:
    /// `vl3lb_owner_hash` in `dataplane/bpf/owner.h`.
    pub fn hash(&self, client: &[u8; 16], client_port: u16, service_port: u16, protocol: u8) -> u32 {
        (self.tuple_hash(client, client_port, service_port, protocol) >> 32) as u32
    }

    /// The hash that finds a flow in the index of the in-kernel path, whose program computes the same:
    /// `vl3lb_tuple_hash`. Its upper half is [`hash`](Self::hash).
    #[inline]
    pub fn tuple_hash(
        &self,
        source: &[u8; 16],
        source_port: u16,
        destination_port: u16,
        protocol: u8,
    ) -> u64 {
        let [first, address @ .., ports, last] = &self.0;
        let mut sum = *first;
        for (key, word) in address.iter().zip(source.chunks_exact(4)) {
            let word = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
            sum = sum.wrapping_add(key.wrapping_mul(word.into()));
        }
        let both = u64::from(source_port) << 16 | u64::from(destination_port);
        sum = sum.wrapping_add(ports.wrapping_mul(both));
        sum = sum.wrapping_add(last.wrapping_mul(protocol.into()));
        // Otherwise neighbouring clients and ports, whose sums are equally far apart, might meet at one worker.
        (sum ^ sum >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The hash that selects the worker of a client of services with affinity: over its address alone, so that
    /// one worker has all its flows.
    pub fn client_hash(&self, client: &[u8; 16]) -> u32 {
        self.hash(client, 0, 0, 0)
    }
}

/// Maps a 32-bit hash evenly to `0..n`.
pub const fn reduce(hash: u32, n: u32) -> u32 {
    ((hash as u64 * n as u64) >> 32) as u32
}

/// A 64-bit finaliser (MurmurHash3's fmix64): every input bit reaches every output bit.
const fn mix64(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

fn halves(address: &[u8; 16]) -> (u64, u64) {
    let value = u128::from_be_bytes(*address);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the address")]
    ((value >> 64) as u64, value as u64)
}

/// Hash of a backend's identity under a seed, stable for ever. For Maglev permutations.
pub fn backend_hash(address: IpAddr, port: u16, protocol: Protocol, seed: u64) -> u64 {
    let (high, low) = halves(&to_octets(address));
    let tail = u64::from(port) << 8 | u64::from(protocol.number());
    mix64(mix64(mix64(seed ^ high) ^ low) ^ tail)
}

/// Hash of a flow's client side, stable for ever: which Maglev slot a new flow uses. Balancers
/// with the same configuration agree on it. With port 0 it is the same for all flows of a client.
pub fn selection_hash(client: &[u8; 16], client_port: u16) -> u64 {
    let (high, low) = halves(client);
    mix64(mix64(mix64(high ^ 0x7633_6c62) ^ low) ^ u64::from(client_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> OwnerKey {
        OwnerKey::from_seed(0x5eed)
    }

    /// Whoever chooses 1,000 flows that meet at one worker, under a key that he knows, meets them spread under another.
    #[test]
    fn flows_that_meet_under_one_key_are_spread_under_another() {
        let client = to_octets("172.16.1.100".parse().unwrap());
        let at = |seed, port| reduce(OwnerKey::from_seed(seed).hash(&client, port, 8080, 6), 8);
        for seed in 1..20 {
            let aimed: Vec<u16> = (1024..=u16::MAX)
                .filter(|&port| at(seed, port) == 0)
                .take(1_000)
                .collect();
            assert_eq!(aimed.len(), 1_000);
            let most = (0..8).map(|worker| {
                aimed
                    .iter()
                    .filter(|&&port| at(seed + 100, port) == worker)
                    .count()
            });
            assert!(most.max() < Some(300), "seed {seed}");
        }
    }

    #[test]
    fn golden_vectors() {
        let v6 = to_octets("2001:db8::64".parse().unwrap());
        let got = [
            backend_hash("172.16.1.2".parse().unwrap(), 8081, Protocol::Tcp, 1),
            selection_hash(&v6, 40000),
        ];
        assert_eq!(
            got,
            [7_111_511_152_000_266_987, 5_469_719_957_998_292_226],
            "changing a hash moves flows between balancers and releases"
        );
    }

    #[test]
    fn owners_are_spread_evenly() {
        let client = to_octets("172.16.1.100".parse().unwrap());
        let mut counts = [0_u32; 3];
        for port in 1024..=u16::MAX {
            counts[reduce(key().hash(&client, port, 8080, 6), 3) as usize] += 1;
        }
        let share = (65536 - 1024) / 3;
        assert!(
            counts.iter().all(|count| count.abs_diff(share) < share / 50),
            "{counts:?}"
        );
    }

    #[test]
    fn neighboring_clients_are_spread_evenly() {
        for workers in [2_u16, 3, 8] {
            let mut counts = vec![0_u32; workers.into()];
            for host in 0..6_000_u16 {
                let [high, low] = host.to_be_bytes();
                let client = to_octets([10, 0, high, low].into());
                counts[reduce(key().client_hash(&client), workers.into()) as usize] += 1;
            }
            let share = 6_000 / u32::from(workers);
            assert!(
                counts.iter().all(|count| count.abs_diff(share) < share / 5),
                "{counts:?}"
            );
        }
    }
}
