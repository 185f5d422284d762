//! How a service spreads new flows over the backends of one address family.
//!
//! The control side builds all data that depends on the set of backends only; a worker adds its round-robin cursor and the
//! current numbers of flows.

use crate::backend::{Backend, BackendSlot};
use crate::maglev::Maglev;

/// The rule that picks a backend for a new flow. All honour weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// By hash of the client's address and port: balancers with the same backends agree.
    Maglev,
    /// One after the other, each worker on its own.
    RoundRobin,
    /// The backend with the fewest flows for its weight.
    LeastConnections,
}

impl Scheduler {
    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
        }
    }
}

/// The backends of one family that take new flows, ready to pick from.
#[derive(Debug, Clone)]
pub enum Pool {
    /// No backend: new flows are rejected.
    Empty,
    /// Slots in the order of the Maglev table's positions.
    Maglev {
        table: Maglev,
        backends: Box<[BackendSlot]>,
    },
    /// A cycle in which each backend appears in proportion to its weight, evenly spread.
    Cycle(Box<[BackendSlot]>),
    /// Candidates with their weights.
    LeastFlows(Box<[(BackendSlot, u16)]>),
}

/// The longest cycle; weights are scaled down to fit.
const LONGEST_CYCLE: u32 = 4096;

impl Pool {
    /// Builds the pool from those of `backends`, all of one family, that take new flows and have a
    /// weight.
    ///
    /// Cost: that of [`Maglev::build`] at most; control side only.
    pub fn build(scheduler: Scheduler, backends: &[Backend]) -> Self {
        let active: Vec<&Backend> = backends
            .iter()
            .filter(|backend| backend.takes_new_flows())
            .collect();
        if active.is_empty() {
            return Self::Empty;
        }
        match scheduler {
            Scheduler::Maglev => match Maglev::build(active.iter().copied()) {
                Some(table) => Self::Maglev {
                    table,
                    backends: active.iter().map(|b| b.slot).collect(),
                },
                None => Self::Empty,
            },
            Scheduler::RoundRobin => Self::Cycle(smooth_cycle(&active)),
            Scheduler::LeastConnections => {
                Self::LeastFlows(active.iter().map(|b| (b.slot, b.weight)).collect())
            }
        }
    }

    /// Whether `slot` may be picked. O(backends), with round-robin O(cycle); control side only.
    pub fn contains(&self, slot: BackendSlot) -> bool {
        match self {
            Self::Empty => false,
            Self::Maglev { backends, .. } => backends.contains(&slot),
            Self::Cycle(cycle) => cycle.contains(&slot),
            Self::LeastFlows(candidates) => candidates.iter().any(|&(other, _)| other == slot),
        }
    }

    /// The backend that [`pick`](Self::pick) picks if it depends on neither `cursor` nor `flows`.
    #[inline]
    pub fn pick_by_hash(&self, hash: u64) -> Option<BackendSlot> {
        match self {
            Self::Maglev { table, backends } => backends.get(table.lookup(hash)).copied(),
            Self::Empty | Self::Cycle(_) | Self::LeastFlows(_) => None,
        }
    }

    /// Picks a backend that `has_room`: the one that [`pick`](Self::pick) picks, else one of the others. Which one of them
    /// depends on the hash or the cursor, so that the flows of a full backend spread over all others.
    ///
    /// Cost: O(1) while the first has room, else O(backends).
    pub fn pick_with_room(
        &self,
        hash: u64,
        cursor: u64,
        flows: impl Fn(BackendSlot) -> u64,
        has_room: impl Fn(BackendSlot) -> bool,
    ) -> Option<BackendSlot> {
        let first = self.pick(hash, cursor, &flows)?;
        if has_room(first) {
            return Some(first);
        }
        match self {
            Self::Empty => None,
            Self::Maglev { backends, .. } => next_with_room(backends, hash.rotate_left(32), has_room),
            Self::Cycle(cycle) => next_with_room(cycle, cursor, has_room),
            Self::LeastFlows(candidates) => least_loaded(candidates, flows, has_room),
        }
    }

    /// Picks a backend. `hash` is [`crate::hash::selection_hash`], `cursor` the worker's round-robin cursor
    /// of this service, `flows` the number of flows that a backend has now.
    ///
    /// Cost: O(1), with least-connections O(backends).
    #[inline]
    pub fn pick(&self, hash: u64, cursor: u64, flows: impl Fn(BackendSlot) -> u64) -> Option<BackendSlot> {
        match self {
            Self::Empty => None,
            Self::Maglev { .. } => self.pick_by_hash(hash),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the remainder is below the cycle's length"
            )]
            Self::Cycle(cycle) => cycle.get((cursor % cycle.len() as u64) as usize).copied(),
            Self::LeastFlows(candidates) => least_loaded(candidates, flows, |_| true),
        }
    }
}

/// The candidate with the fewest flows for its weight of those with room.
#[inline]
fn least_loaded(
    candidates: &[(BackendSlot, u16)],
    flows: impl Fn(BackendSlot) -> u64,
    has_room: impl Fn(BackendSlot) -> bool,
) -> Option<BackendSlot> {
    candidates
        .iter()
        .filter(|&&(slot, _)| has_room(slot))
        // flows / weight, compared without division.
        .map(|&(slot, weight)| (slot, (flows(slot) + 1) * u64::from(u16::MAX) / u64::from(weight)))
        .min_by_key(|&(_, load)| load)
        .map(|(slot, _)| slot)
}

/// The first with room after a position that `number` chooses.
fn next_with_room(
    slots: &[BackendSlot],
    number: u64,
    has_room: impl Fn(BackendSlot) -> bool,
) -> Option<BackendSlot> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the remainder is below the number of slots"
    )]
    let start = (number % slots.len().max(1) as u64) as usize;
    let (before, after) = slots.split_at(start);
    after.iter().chain(before).copied().find(|&slot| has_room(slot))
}

/// Smooth weighted round-robin (as in nginx): in each step every backend gains its weight, the richest is
/// picked and pays the total.
fn smooth_cycle(active: &[&Backend]) -> Box<[BackendSlot]> {
    let total: u32 = active.iter().map(|b| u32::from(b.weight)).sum();
    let scale = total.div_ceil(LONGEST_CYCLE).max(1);
    let weights: Vec<i64> = active
        .iter()
        .map(|b| i64::from(u32::from(b.weight).div_ceil(scale)))
        .collect();
    let divisor = weights.iter().copied().reduce(gcd).unwrap_or(1);
    let weights: Vec<i64> = weights.into_iter().map(|weight| weight / divisor).collect();
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0; weights.len()];
    (0..total)
        .map(|_| {
            credit
                .iter_mut()
                .zip(&weights)
                .for_each(|(credit, weight)| *credit += weight);
            let richest = (0..credit.len())
                .max_by_key(|&i| (credit[i], std::cmp::Reverse(i)))
                .unwrap_or(0);
            credit[richest] -= total;
            active[richest].slot
        })
        .collect()
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Protocol;
    use crate::backend::{BackendState, Generation, ServiceSlot};

    fn backends(weights: &[u16]) -> Vec<Backend> {
        (1_u8..)
            .zip(weights)
            .map(|(host, &weight)| Backend {
                slot: BackendSlot(u32::from(host)),
                since: Generation(1),
                service: ServiceSlot(0),
                address: [10, 0, 0, host].into(),
                port: 80,
                protocol: Protocol::Udp,
                weight,
                state: BackendState::Active,
                mac: None,
            })
            .collect()
    }

    fn picks(pool: &Pool, count: u64) -> Vec<u32> {
        (0..count)
            .filter_map(|cursor| pool.pick(cursor * 7919, cursor, |_| 0))
            .map(|slot| slot.0)
            .collect()
    }

    #[test]
    fn round_robin_spreads_a_heavy_backend() {
        let pool = Pool::build(Scheduler::RoundRobin, &backends(&[1, 1, 1]));
        assert_eq!(picks(&pool, 6), [1, 2, 3, 1, 2, 3]);
        let pool = Pool::build(Scheduler::RoundRobin, &backends(&[200, 100, 0]));
        assert_eq!(picks(&pool, 6), [1, 2, 1, 1, 2, 1]);
    }

    #[test]
    fn least_connections_compares_flows_per_weight() {
        let pool = Pool::build(Scheduler::LeastConnections, &backends(&[1, 2]));
        let pick = |flows: [u64; 2]| pool.pick(0, 0, |slot| flows[slot.0 as usize - 1]).unwrap().0;
        assert_eq!(pick([0, 0]), 2);
        assert_eq!(pick([0, 2]), 1);
        assert_eq!(pick([5, 9]), 2);
        assert_eq!(pick([4, 10]), 1);
    }

    #[test]
    fn a_full_backend_is_passed_over_and_its_flows_spread_over_all_others() {
        for scheduler in [
            Scheduler::Maglev,
            Scheduler::RoundRobin,
            Scheduler::LeastConnections,
        ] {
            let pool = Pool::build(scheduler, &backends(&[5, 1, 1, 1]));
            let pick = |cursor: u64, full: &[u32]| {
                let has_room = |slot: BackendSlot| !full.contains(&slot.0);
                let hash = cursor.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                pool.pick_with_room(hash, cursor, |slot| (cursor + u64::from(slot.0)) % 3, has_room)
            };
            let mut got = [0; 5];
            for cursor in 0..4000 {
                let slot = pick(cursor, &[1]).unwrap().0;
                got[slot as usize] += 1;
                assert_eq!(pick(cursor, &[1, 2, 3]), Some(BackendSlot(4)), "{scheduler:?}");
                assert_eq!(pick(cursor, &[1, 2, 3, 4]), None, "{scheduler:?}");
            }
            assert_eq!(got[1], 0, "{scheduler:?}");
            assert!(
                got[2..].iter().all(|&flows| flows > 500),
                "{scheduler:?}: {got:?}"
            );
        }
        assert_eq!(Pool::Empty.pick_with_room(1, 1, |_| 0, |_| true), None);
    }

    #[test]
    fn only_active_backends_with_a_weight_are_picked() {
        for scheduler in [
            Scheduler::Maglev,
            Scheduler::RoundRobin,
            Scheduler::LeastConnections,
        ] {
            let mut set = backends(&[1, 0, 1]);
            set[0].state = BackendState::Draining {
                since: crate::Timestamp(0),
            };
            let picked = picks(&Pool::build(scheduler, &set), 50);
            assert!(
                picked.iter().all(|&slot| slot == 3) && picked.len() == 50,
                "{scheduler:?}"
            );
            for state in [BackendState::Down, BackendState::Gone] {
                set[2].state = state;
                assert!(
                    matches!(Pool::build(scheduler, &set), Pool::Empty),
                    "{scheduler:?}"
                );
            }
        }
    }
}
