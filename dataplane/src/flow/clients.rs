//! How many flows a client has: in the whole table, and towards one endpoint.
//!
//! Counts are kept in a sketch of fixed size (count-min with two rows): a count is never too small. It is too large if
//! other keys share its counter in both rows. With as many counters as this, that adds about 16 when all flows of a full
//! table have different clients; a client meets one heavy client in both rows with a probability of 1 to the square of
//! the row's length. The hash is keyed, so nobody can aim at another client's counters.
//!
//! So a flood with forged sources costs no memory, and a flow is counted in and out in O(1).

use super::endpoint::EndpointId;
use super::key::HashSeed;
use super::mapping::Region;

/// Rows of the sketch.
const ROWS: usize = 2;
/// Flows of the table for each counter of a row.
const FLOWS_PER_COUNTER: u32 = 16;
const FEWEST_COUNTERS: u32 = 1 << 14;
const MOST_COUNTERS: u32 = 1 << 20;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The client's flows in the table.
    Table,
    /// The client's flows to one endpoint.
    Endpoint(EndpointId),
}

/// Counts of flows that are not over, by client.
pub(super) struct Clients {
    /// One row after the other.
    counters: Region<u32>,
}

impl Clients {
    /// Counters for a table of `flows` flows, all rows together: half a byte for each flow, but 128 KB at least.
    pub(super) const fn counters_for(flows: u32) -> usize {
        let row = flows / FLOWS_PER_COUNTER;
        let row = if row < FEWEST_COUNTERS {
            FEWEST_COUNTERS
        } else {
            row
        };
        let row = if row > MOST_COUNTERS { MOST_COUNTERS } else { row };
        row as usize * ROWS
    }

    /// No flows, over zeroed memory of [`counters_for`](Self::counters_for) counters.
    pub(super) const fn new(counters: Region<u32>) -> Self {
        Self { counters }
    }

    /// Flows of a client; never less than there are.
    #[inline]
    pub(super) fn flows(&self, client: &[u8; 16], scope: Scope, seed: &HashSeed) -> u32 {
        let [first, second] = self.places(client, scope, seed);
        self.counters[first].min(self.counters[second])
    }

    /// A flow begins.
    #[inline]
    pub(super) fn add(&mut self, client: &[u8; 16], scope: Scope, seed: &HashSeed) {
        for place in self.places(client, scope, seed) {
            self.counters[place] += 1;
        }
    }

    /// A flow ends that [`add`](Self::add) counted.
    #[inline]
    pub(super) fn remove(&mut self, client: &[u8; 16], scope: Scope, seed: &HashSeed) {
        for place in self.places(client, scope, seed) {
            self.counters[place] -= 1;
        }
    }

    /// Whether there is no flow.
    #[cfg(test)]
    pub(super) fn is_pristine(&self) -> bool {
        self.counters.iter().all(|&count| count == 0)
    }

    #[inline]
    fn places(&self, client: &[u8; 16], scope: Scope, seed: &HashSeed) -> [usize; ROWS] {
        let scope = match scope {
            Scope::Table => 0,
            Scope::Endpoint(id) => id.0 + 1,
        };
        let hash = seed.scope_hash(client, scope).0;
        let row = self.counters.len() / ROWS;
        // A half of the hash, scaled to the row's length.
        let place = |half: u64| ((half * row as u64) >> 32) as usize;
        [place(hash >> 32), row + place(hash & u64::from(u32::MAX))]
    }
}
