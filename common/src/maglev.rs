//! Weighted Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4).

use crate::backend::Backend;
use crate::hash;

/// Slots of a table: a prime, at least a hundred times the backends for which the shares are to
/// be within one percent. The same number as in the paper's large configuration.
pub const TABLE_SIZE: usize = SLOTS as usize;
const SLOTS: u32 = 65_537;
/// While more slots than these are free, a backend walks along its permutation to the next free one. After that
/// it computes which free slot comes first: half of all steps would be for the last 256 slots.
const FEW: usize = 256;

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
        let mut last = Vec::new();
        loop {
            for candidate in &mut candidates {
                // A backend of half the weight takes a turn in every second round.
                candidate.credit += candidate.weight;
                if candidate.credit < heaviest {
                    continue;
                }
                candidate.credit -= heaviest;
                let slot = if free > FEW {
                    candidate.take_next(&mut taken)
                } else {
                    if last.is_empty() {
                        last = taken.free();
                    }
                    candidate.take_nearest(&mut last)
                };
                slots[slot as usize] = candidate.position;
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

/// The slots that are taken: a bit each, so that the search for a free one stays in the L1 cache.
struct Taken([u64; TABLE_SIZE / 64 + 1]);

impl Default for Taken {
    fn default() -> Self {
        Self([0; TABLE_SIZE / 64 + 1])
    }
}

impl Taken {
    fn take(&mut self, slot: u32) {
        self.0[slot as usize / 64] |= 1 << (slot % 64);
    }

    fn is_free(&self, slot: u32) -> bool {
        self.0[slot as usize / 64] >> (slot % 64) & 1 == 0
    }

    /// The slots that are free.
    fn free(&self) -> Vec<u32> {
        (0..SLOTS).filter(|&slot| self.is_free(slot)).collect()
    }
}

struct Candidate {
    position: u16,
    weight: u32,
    credit: u32,
    /// The next slot of its permutation of all slots, and how far it is from each to the one after.
    next: u32,
    skip: u32,
    /// The inverse of `skip` modulo the size of the table; `None` until it is needed.
    inverse: Option<u32>,
    identity: u64,
}

impl Candidate {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "positions are limited to u16::MAX above, remainders are small"
    )]
    fn new(position: usize, backend: &Backend) -> Self {
        let hash = |seed| hash::backend_hash(backend.address, backend.port, backend.protocol, seed);
        let skip = (hash(2) % (TABLE_SIZE as u64 - 1)) as u32 + 1;
        Self {
            position: position as u16,
            weight: u32::from(backend.weight),
            credit: 0,
            next: (hash(1) % TABLE_SIZE as u64) as u32,
            skip,
            inverse: None,
            identity: hash(3),
        }
    }

    /// Takes the next free slot of this backend's permutation. The table has one.
    fn take_next(&mut self, taken: &mut Taken) -> u32 {
        // The size of the table is prime: all slots come before one comes again.
        let mut slot = self.next;
        while !taken.is_free(slot) {
            slot = wrapped(slot + self.skip);
        }
        taken.take(slot);
        self.next = wrapped(slot + self.skip);
        slot
    }

    /// Takes the slot that [`Self::take_next`] would, out of the `free` ones, which are sorted.
    fn take_nearest(&mut self, free: &mut Vec<u32>) -> u32 {
        let skip = self.skip;
        let inverse = *self.inverse.get_or_insert_with(|| inverse_of(skip));
        // The permutation comes to `next + steps * skip` after so many steps.
        let start = SLOTS - self.next;
        let steps = free.iter().map(|&slot| product(wrapped(slot + start), inverse));
        let steps = steps.min().expect("the table has a free slot");
        let slot = wrapped(self.next + product(steps, skip));
        let index = free.binary_search(&slot).expect("what is nearest is free");
        free.remove(index);
        self.next = wrapped(slot + skip);
        slot
    }
}

/// The sum of two numbers below the size of the table, modulo that.
const fn wrapped(sum: u32) -> u32 {
    // Of a sum below the size of the table this is far above it: a minimum, not a branch.
    let less = sum.wrapping_sub(SLOTS);
    if less < sum { less } else { sum }
}

/// The product of two numbers below the size of the table, modulo that.
#[expect(clippy::cast_possible_truncation, reason = "both parts are below 2^17")]
const fn product(a: u32, b: u32) -> u32 {
    // The size is 2^16 + 1, so that 2^16 is -1: no division, and several at a time.
    let product = a as u64 * b as u64;
    let (low, high) = ((product & 0xffff) as u32, (product >> 16) as u32);
    wrapped(low + SLOTS - high)
}

/// By Fermat's little theorem: `number` to the power of the size of the table less 2.
const fn inverse_of(number: u32) -> u32 {
    let (mut result, mut square, mut exponent) = (1, number, SLOTS - 2);
    while exponent > 0 {
        if exponent % 2 == 1 {
            result = product(result, square);
        }
        square = product(square, square);
        exponent /= 2;
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr::Protocol;
    use crate::backend::{BackendSlot, BackendState, ServiceSlot};

    fn backend(host: u16, weight: u16) -> Backend {
        let [a, b] = host.to_be_bytes();
        Backend {
            slot: BackendSlot(u32::from(host)),
            since: crate::backend::Generation(1),
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

    #[test]
    fn products_are_those_of_arithmetic() {
        let numbers = [0, 1, 2, 255, 256, 257, 32_768, 65_534, 65_535, 65_536];
        for (a, b) in numbers.into_iter().flat_map(|a| numbers.map(|b| (a, b))) {
            assert_eq!(
                u64::from(product(a, b)),
                u64::from(a) * u64::from(b) % TABLE_SIZE as u64,
                "{a} * {b}"
            );
        }
    }

    #[test]
    fn every_step_has_an_inverse() {
        for number in [1, 2, 3, 255, 256, 257, 32_768, 65_535, 65_536] {
            assert_eq!(product(number, inverse_of(number)), 1, "{number}");
        }
    }

    /// The table as the paper builds it: each backend walks to its next free slot, to the end.
    fn walked(backends: &[Backend]) -> Vec<u16> {
        let mut candidates: Vec<_> = backends
            .iter()
            .enumerate()
            .map(|(position, backend)| Candidate::new(position, backend))
            .collect();
        let heaviest = candidates.iter().map(|candidate| candidate.weight).max().unwrap();
        candidates.sort_by_key(|candidate| (candidate.next, candidate.skip, candidate.identity));
        let mut slots = vec![None; TABLE_SIZE];
        while slots.contains(&None) {
            for candidate in &mut candidates {
                candidate.credit += candidate.weight;
                if candidate.credit < heaviest || !slots.contains(&None) {
                    continue;
                }
                candidate.credit -= heaviest;
                while slots[candidate.next as usize].is_some() {
                    candidate.next = (candidate.next + candidate.skip) % SLOTS;
                }
                slots[candidate.next as usize] = Some(candidate.position);
            }
        }
        slots.into_iter().flatten().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_table_is_that_of_the_paper(weights in prop::collection::vec(1_u16..=10, 1..400)) {
            let backends: Vec<_> = (1..).zip(&weights).map(|(host, &weight)| backend(host, weight)).collect();
            prop_assert_eq!(&*Maglev::build(&backends).unwrap().slots, walked(&backends));
        }

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

        /// Of the slots that change their owner, few change between backends whose weight stays.
        #[test]
        fn a_weight_that_changes_moves_little_more_than_it_must(
            count in 3_u16..60, chosen in 0_u16..60,
            before in 1_u16..=10, after in 1_u16..=10, others in 1_u16..=10,
        ) {
            let chosen = u32::from(chosen % count + 1);
            let with = |weight: u16| -> Vec<_> {
                (1..=count).map(|host| backend(host, if u32::from(host) == chosen { weight } else { others })).collect()
            };
            let (owned_before, owned_after) = (owners(&with(before)), owners(&with(after)));
            let of_chosen = |owners: &[u32]| owners.iter().filter(|&&owner| owner == chosen).count();
            let must = of_chosen(&owned_before).abs_diff(of_chosen(&owned_after));
            let moved = owned_before.iter().zip(&owned_after).filter(|(before, after)| before != after).count();
            // One slot in a hundred at most, as measured: what others give up, they take from each other.
            let limit = must + TABLE_SIZE / 50;
            prop_assert!(moved <= limit, "{moved} slots moved, {must} had to, at most {limit} allowed");
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
