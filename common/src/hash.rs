//! Hashes: which worker owns a flow, and the place of a backend in a Maglev table.
//!
//! Both are part of the product's behaviour: the first is computed by the steer program in C too,
//! the second must give every balancer with the same configuration the same table. Golden vectors
//! in the tests keep them stable across releases. The flow table's own hash is keyed and private
//! to it.

use std::net::IpAddr;

use crate::addr::{Protocol, to_octets};

const MULTIPLIER: u32 = 0x9e37_79b1;

const fn mix32(hash: u32, word: u32) -> u32 {
    let hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

/// The hash that selects the worker of a flow, over the client's side of it. The steer program computes the
/// same: `vl3lb_owner_hash` in `dataplane/bpf/owner.h`.
pub fn owner_hash(client: &[u8; 16], client_port: u16, service_port: u16, protocol: u8) -> u32 {
    let mut hash = MULTIPLIER;
    for word in client.chunks_exact(4) {
        hash = mix32(hash, u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    hash = mix32(hash, u32::from(client_port) << 16 | u32::from(service_port));
    mix32(hash, u32::from(protocol))
}

/// The hash that selects the worker of a client of services with affinity: over its address alone, so that
/// one worker has all its flows.
pub fn client_hash(client: &[u8; 16]) -> u32 {
    owner_hash(client, 0, 0, 0)
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

    #[test]
    fn golden_vectors() {
        let v4 = to_octets("172.16.1.100".parse().unwrap());
        let v6 = to_octets("2001:db8::64".parse().unwrap());
        let got = [
            u64::from(owner_hash(&v4, 40000, 8080, 6)),
            u64::from(owner_hash(&v6, 40000, 8080, 17)),
            backend_hash("172.16.1.2".parse().unwrap(), 8081, Protocol::Tcp, 1),
            selection_hash(&v6, 40000),
        ];
        assert_eq!(
            got,
            [
                878_419_769,
                3_433_654_144,
                7_111_511_152_000_266_987,
                5_469_719_957_998_292_226
            ],
            "changing a hash moves flows between workers, balancers and releases"
        );
    }

    #[test]
    fn owners_are_spread_evenly() {
        let client = to_octets("172.16.1.100".parse().unwrap());
        let mut counts = [0_u32; 3];
        for port in 1024..=u16::MAX {
            counts[reduce(owner_hash(&client, port, 8080, 6), 3) as usize] += 1;
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
                counts[reduce(client_hash(&client), workers.into()) as usize] += 1;
            }
            let share = 6_000 / u32::from(workers);
            assert!(
                counts.iter().all(|count| count.abs_diff(share) < share / 5),
                "{counts:?}"
            );
        }
    }
}
