//! The identification of packets that may be fragmented.
//!
//! After translation many clients share the balancer's address, and their kernels may choose equal numbers: a receiver
//! would put fragments of two datagrams together (RFC 6864 section 5.3.1, RFC 7857 section 10, RFC 8200 section 4.5).
//! So each datagram that is fragmented, and each IPv4 packet that may be on its way, gets a number of the balancer's own.
//! Each worker has its own share of the numbers, the program of the fast path has the last one, and each counts for each pair of addresses and protocol (or a few that share
//! a counter by a keyed hash), from a random start, so that numbers towards one receiver say nothing about those towards
//! another (RFC 7739 section 5.3).

use std::hash::{BuildHasher, RandomState};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vl3lb_common::DropReason;

use crate::packet::{self, Family, Parsed};

/// Counters of one worker.
const COUNTERS: u64 = 1024;

/// The numbers of one worker.
#[derive(Debug)]
pub(super) struct Identifications {
    worker: u16,
    shares: u16,
    /// The next number in the worker's share, over IPv4 and IPv6.
    counters: [Box<[u32]>; 2],
    hasher: RandomState,
}

impl Identifications {
    /// The share of `worker` among those of `workers` workers and the in-kernel path.
    pub(super) fn new(worker: u16, workers: u16, seed: u64) -> Self {
        // Another sequence than that of the NAT ports.
        let mut random = StdRng::seed_from_u64(!seed);
        let mut counters = || (0..COUNTERS).map(|_| random.next_u32()).collect();
        Self {
            worker,
            shares: workers.max(1).saturating_add(1),
            counters: [counters(), counters()],
            hasher: RandomState::new(),
        }
    }

    /// The first of `count` numbers in a row for a translated packet that starts with `head`, of 16 bits over IPv4.
    ///
    /// # Errors
    /// [`DropReason::Internal`] if `parsed` is not of this packet.
    pub(super) fn next(&mut self, head: &[u8], parsed: &Parsed, count: u32) -> Result<u32, DropReason> {
        let (source, destination) = packet::addresses(head, parsed)?;
        Ok(self.take(parsed.family, (source, destination, parsed.protocol()), count))
    }

    fn take(&mut self, family: Family, path: ([u8; 16], [u8; 16], u8), count: u32) -> u32 {
        let (numbers, counters) = match family {
            Family::V4 => (1 << 16, &mut self.counters[0]),
            Family::V6 => (1_u64 << 32, &mut self.counters[1]),
        };
        let share = u32::try_from(numbers / u64::from(self.shares)).unwrap_or(u32::MAX);
        let place = usize::try_from(self.hasher.hash_one(path) % COUNTERS).unwrap_or(0);
        let counter = &mut counters[place];
        let next = *counter % share;
        // A row does not go on at the share's begin.
        let first = if count > share - next { 0 } else { next };
        *counter = (first + count.min(share)) % share;
        u32::from(self.worker) * share + first
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn path(destination: u8) -> ([u8; 16], [u8; 16], u8) {
        ([1; 16], [destination; 16], 17)
    }

    /// 3 and 7 do not divide 2^16.
    #[test]
    fn no_number_is_used_twice_by_any_worker_until_all_were_used() {
        for workers in [1, 2, 3, 7] {
            let share = (1 << 16) / (u32::from(workers) + 1);
            let mut seen = HashSet::new();
            for worker in 0..workers {
                let mut identifications = Identifications::new(worker, workers, 7);
                for _ in 0..share {
                    let number = identifications.take(Family::V4, path(1), 1);
                    // The rest is the in-kernel path's.
                    assert!(number < u32::from(workers) * share);
                    assert!(seen.insert(number), "{workers} workers: {number} twice");
                }
            }
        }
    }

    #[test]
    fn rows_do_not_overlap_within_a_share() {
        let mut identifications = Identifications::new(1, 3, 7);
        let mut seen = HashSet::new();
        for count in (1..=64).cycle().take(600) {
            let first = identifications.take(Family::V4, path(1), count);
            for number in first..first + count {
                assert!((16_384..32_768).contains(&number), "the share of worker 1");
                assert!(seen.insert(number));
            }
            if seen.len() > 14_000 {
                return;
            }
        }
        panic!("too few numbers");
    }

    #[test]
    fn numbers_over_ipv6_have_32_bits_and_workers_do_not_share_them() {
        let share = u32::MAX / 4;
        for worker in 0..3 {
            let mut identifications = Identifications::new(worker, 3, 7);
            for destination in 0..=255 {
                let number = identifications.take(Family::V6, path(destination), 1);
                assert_eq!(number / share, u32::from(worker), "{number}");
            }
        }
    }

    #[test]
    fn numbers_to_one_receiver_say_nothing_about_those_to_another() {
        let mut identifications = Identifications::new(0, 1, 7);
        let first: HashSet<u32> = (0..64)
            .map(|destination| identifications.take(Family::V6, path(destination), 1) >> 16)
            .collect();
        assert!(first.len() > 48, "starts are spread: {}", first.len());
    }
}
