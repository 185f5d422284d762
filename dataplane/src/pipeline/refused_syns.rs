//! SYNs that were refused under overload, to recognize their retransmissions.
//!
//! A host repeats a SYN that is not answered after a second, and after three (RFC 6298 section 2.1, RFC 9293 MUST-19);
//! a flood with forged sources makes new ones, since to repeat each of them would halve it. So a SYN is remembered by a
//! keyed hash of its addresses, ports and sequence number, in a table of fixed size whose oldest entries make room.

use std::hash::{BuildHasher, RandomState};

use vl3lb_common::{Duration, Timestamp};

/// Sets of the table, and SYNs in each: a million SYNs, 4 MB. A flood of 800,000 a second leaves five in six of them for
/// a second. The memory is not touched before the first SYN is refused.
const SETS: usize = 1 << 16;
const WAYS: usize = 16;
/// The time after the first SYN in which another one is taken for its retransmission. Sooner, it may be a copy.
const SOONEST: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(10);
/// Nanoseconds for each step of an entry's time, of which there are 256.
const STEP: u64 = 100_000_000;

/// The SYNs that a worker has refused lately.
pub(super) struct RefusedSyns {
    /// The newest of a set is the first. An entry has 24 bits of the hash and 8 bits of time; 0 is none.
    sets: Box<[[u32; WAYS]]>,
    hasher: RandomState,
}

/// What the retransmission of a SYN has in common with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Syn {
    pub(super) source: [u8; 16],
    /// Source and destination.
    pub(super) ports: [u16; 2],
    pub(super) sequence: u32,
}

impl std::fmt::Debug for RefusedSyns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefusedSyns").finish_non_exhaustive()
    }
}

impl Default for RefusedSyns {
    fn default() -> Self {
        Self {
            sets: vec![[0; WAYS]; SETS].into(),
            hasher: RandomState::new(),
        }
    }
}

impl RefusedSyns {
    /// Whether `syn` was refused before, long enough ago for a retransmission; otherwise it is noted as refused now.
    pub(super) fn is_retransmission(&mut self, syn: &Syn, now: Timestamp) -> bool {
        let hash = self.hasher.hash_one(syn);
        let [set, tag] = [hash >> 32, hash & 0xffff_ff00].map(|part| u32::try_from(part).unwrap_or(0));
        // Never that of no entry.
        let tag = tag | 0x100;
        let set = &mut self.sets[set as usize % SETS];
        #[expect(clippy::cast_possible_truncation, reason = "the lower bits")]
        let step = (now.0 / STEP) as u8;
        let age = |entry: u32| {
            let steps = step.wrapping_sub(entry.to_le_bytes()[0]);
            Duration::from_nanos(u64::from(steps) * STEP)
        };
        let known = set
            .iter()
            .copied()
            .find(|&entry| entry & 0xffff_ff00 == tag && age(entry) <= LATEST);
        let Some(entry) = known else {
            set.copy_within(..WAYS - 1, 1);
            set[0] = tag | u32::from(step);
            return false;
        };
        age(entry) >= SOONEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn(number: u32) -> Syn {
        Syn {
            source: [7; 16],
            ports: [40_000, 8080],
            sequence: number,
        }
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp(millis * 1_000_000)
    }

    #[test]
    fn a_syn_that_comes_again_after_a_second_is_a_retransmission() {
        let mut refused = RefusedSyns::default();
        assert!(!refused.is_retransmission(&syn(1), at(0)));
        assert!(!refused.is_retransmission(&syn(1), at(10)), "a copy");
        assert!(!refused.is_retransmission(&syn(2), at(1_000)), "another one");
        assert!(refused.is_retransmission(&syn(1), at(1_000)));
        assert!(refused.is_retransmission(&syn(1), at(3_000)), "not admitted then");
        assert!(!refused.is_retransmission(&syn(1), at(11_000)), "too late");
        assert!(refused.is_retransmission(&syn(1), at(12_000)));
    }

    #[test]
    fn a_flood_leaves_most_of_the_last_second() {
        let mut refused = RefusedSyns::default();
        let found = |refused: &mut RefusedSyns, from: u32, millis| {
            let retransmitted = |&n: &u32| refused.is_retransmission(&syn(n), at(millis));
            (from..from + 1_000).filter(retransmitted).count()
        };
        let mistaken = |n: &u32| refused.is_retransmission(&syn(*n), at(u64::from(n / 800)));
        let mistaken = (0..800_000).filter(mistaken).count();
        // Each meets half a set of 16 with tags of 24 bits: less than one in all.
        assert!(mistaken < 10, "{mistaken}");
        assert!(found(&mut refused, 0, 1_000) > 700);
        assert!(found(&mut refused, 900_000, 1_000) < 3, "of other flows");
    }
}
