//! Weighted Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4).

use crate::hash;
use crate::snapshot::Backend;

/// Slots of a table: a prime, at least a hundred times the backends for which the shares are to
/// be within one percent. The same number as in the paper's large configuration.
pub const TABLE_SIZE: usize = SLOTS as usize;
const SLOTS: u32 = 65_537;

/// A lookup table from hash to a position in a list of backends.
#[derive(Clone, PartialEq, Eq)]
pub struct Maglev {
    slots: Box<[u16]>,
}

impl Maglev {
    /// Builds the table for `backends`, whose positions it will hand out; weight 0 gets no slot.
    /// `None` if no backend has a weight. Only identities and weights count, not the order.
    ///
    /// Cost: O(TABLE_SIZE), about a millisecond and 128 KiB; runs on the control side only.
    /// Limit: 65,535 backends.
    pub fn build<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> Option<Self> {
        let mut candidates: Vec<Candidate> = backends
            .into_iter()
            .take(usize::from(u16::MAX))
            .enumerate()
            .filter(|(_, backend)| backend.weight > 0)
            .map(|(position, backend)| Candidate::new(position, backend))
            .collect();
        let heaviest = candidates.iter().map(|candidate| candidate.weight).max()?;
        // Turns are taken in the order of identities, so that every balancer builds the same table.
        candidates.sort_by_key(|candidate| (candidate.next, candidate.skip, candidate.identity));

        let mut slots = vec![u16::MAX; TABLE_SIZE].into_boxed_slice();
        let mut taken = Taken::default();
        let mut free = TABLE_SIZE;
        loop {
            for candidate in &mut candidates {
                // A backend of half the weight takes a turn in every second round.
                candidate.credit += candidate.weight;
                if candidate.credit < heaviest {
                    continue;
                }
                candidate.credit -= heaviest;
                slots[candidate.take_next(&mut taken)] = candidate.position;
                free -= 1;
                if free == 0 {
                    return Some(Self { slots });
                }
            }
        }
    }

    /// The position of the backend for `hash`, in the list that the table was built from.
    #[inline]
    pub fn lookup(&self, hash: u64) -> usize {
        // The remainder is below TABLE_SIZE.
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is below 65,537")]
        let slot = (hash % TABLE_SIZE as u64) as usize;
        usize::from(self.slots[slot])
    }
}

impl std::fmt::Debug for Maglev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maglev")
            .field("slots", &self.slots.len())
            .finish()
    }
}

/// Which slots somebody has: a bit each, so that looking for a free one stays in the nearest cache.
struct Taken([u64; TABLE_SIZE / 64 + 1]);

impl Default for Taken {
    fn default() -> Self {
        Self([0; TABLE_SIZE / 64 + 1])
    }
}

impl Taken {
    /// Takes `slot`. Whether it was free.
    fn take(&mut self, slot: usize) -> bool {
        let (word, bit) = (&mut self.0[slot / 64], 1 << (slot % 64));
        let was_free = *word & bit == 0;
        *word |= bit;
        was_free
    }
}

struct Candidate {
    position: u16,
    weight: u32,
    credit: u32,
    /// The next slot of its permutation of all slots, and how far it is from each to the one after.
    next: u32,
    skip: u32,
    identity: u64,
}

impl Candidate {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "positions are cut to u16::MAX above, remainders are small"
    )]
    fn new(position: usize, backend: &Backend) -> Self {
        let hash = |seed| hash::backend_hash(backend.address, backend.port, backend.protocol, seed);
        Self {
            position: position as u16,
            weight: u32::from(backend.weight),
            credit: 0,
            next: (hash(1) % TABLE_SIZE as u64) as u32,
            skip: (hash(2) % (TABLE_SIZE as u64 - 1)) as u32 + 1,
            identity: hash(3),
        }
    }

    /// Takes the next slot of this backend's permutation that nobody has. The table has a free one.
    fn take_next(&mut self, taken: &mut Taken) -> usize {
        loop {
            let slot = self.next;
            // Both are below the size of the table, which is prime: all slots come before one comes again.
            self.next += self.skip;
            if self.next >= SLOTS {
                self.next -= SLOTS;
            }
            if taken.take(slot as usize) {
                return slot as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr::Protocol;
    use crate::snapshot::{BackendSlot, BackendState, ServiceSlot};

    fn backend(host: u16, weight: u16) -> Backend {
        let [a, b] = host.to_be_bytes();
        Backend {
            slot: BackendSlot(u32::from(host)),
            since: crate::snapshot::Generation(1),
            service: ServiceSlot(0),
            address: [10, 0, a, b].into(),
            port: 8081,
            protocol: Protocol::Tcp,
            weight,
            state: BackendState::Active,
            mac: None,
        }
    }

    fn owners(backends: &[Backend]) -> Vec<u32> {
        let table = Maglev::build(backends).unwrap();
        (0..TABLE_SIZE as u64)
            .map(|hash| backends[table.lookup(hash)].slot.0)
            .collect()
    }

    #[test]
    fn no_weight_no_table() {
        assert!(Maglev::build(&[]).is_none());
        assert!(Maglev::build(&[backend(1, 0)]).is_none());
    }

    #[test]
    fn golden_table() {
        // Balancers of different releases must agree: a change here moves flows.
        let backends: Vec<_> = (1..=3).map(|host| backend(host, 1)).collect();
        assert_eq!(owners(&backends)[..12], [1, 1, 1, 2, 3, 2, 3, 1, 2, 1, 2, 1]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1_u16..=10, 1..40)) {
            let backends: Vec<_> = (1..).zip(&weights).map(|(host, &weight)| backend(host, weight)).collect();
            let owners = owners(&backends);
            let total: u32 = weights.iter().map(|&w| u32::from(w)).sum();
            for backend in &backends {
                let got = owners.iter().filter(|&&slot| slot == backend.slot.0).count() as f64;
                let want = TABLE_SIZE as f64 * f64::from(backend.weight) / f64::from(total);
                prop_assert!((got - want).abs() / want < 0.02, "{got} slots, expected about {want}");
            }
        }

        #[test]
        fn order_does_not_matter(count in 2_u16..40, rotation in 1_usize..39) {
            let backends: Vec<_> = (1..=count).map(|host| backend(host, 1 + host % 3)).collect();
            let mut rotated = backends.clone();
            rotated.rotate_left(rotation % backends.len());
            prop_assert_eq!(owners(&backends), owners(&rotated));
        }

        #[test]
        fn removing_one_backend_moves_few_of_the_others(count in 3_u16..60, gone in 0_u16..60) {
            let backends: Vec<_> = (1..=count).map(|host| backend(host, 1)).collect();
            let gone = gone % count + 1;
            let rest: Vec<_> = backends.iter().filter(|b| b.slot.0 != u32::from(gone)).cloned().collect();
            let moved = owners(&backends)
                .into_iter()
                .zip(owners(&rest))
                .filter(|&(before, after)| before != u32::from(gone) && before != after)
                .count();
            let limit = 1.3 / f64::from(count) * TABLE_SIZE as f64;
            prop_assert!((moved as f64) <= limit, "{moved} slots moved, at most {limit:.0} allowed");
        }
    }
}
