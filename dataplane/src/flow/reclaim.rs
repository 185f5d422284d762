//! Flows that may make room for another one, by endpoint and class, in the order in which they go.
//!
//! A flow that is over is kept for a while (RFC 7857 section 2), because its last packets may still be on the way. A
//! half-open TCP flow or a UDP flow is kept until its timer ends, because it may go on. When an endpoint has no NAT port
//! left or the table no entry, one of these makes room. An established TCP flow never does.
//!
//! The queues are doubly linked through the entries, so that a flow enters, leaves or changes its queue in O(1). A flow
//! enters at the end; packets do not move it. So a client that repeats its SYN does not keep its place for ever.

use vl3lb_common::snapshot::MAX_BACKENDS;
use zerocopy::{FromBytes, IntoBytes};

use super::counters::ColdEntry;
use super::endpoint::EndpointId;
use super::mapping::Region;
use super::pool::Pool;
use super::state::State;

/// The classes of flows that may make room, first to go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Class {
    /// Over: finished in order, or reset.
    Over,
    /// TCP before the handshake is complete.
    HalfOpen,
    /// UDP without a reply.
    Unreplied,
    /// UDP with a reply.
    Replied,
}

impl Class {
    pub(super) const ALL: [Self; 4] = [Self::Over, Self::HalfOpen, Self::Unreplied, Self::Replied];

    /// The classes of flows that are not over.
    pub(super) const LIVE: [Self; 3] = [Self::HalfOpen, Self::Unreplied, Self::Replied];

    /// The class of flows in this state; `None` if they never make room.
    #[inline]
    pub(super) const fn of(state: State) -> Option<Self> {
        match state {
            State::Finished | State::Reset => Some(Self::Over),
            State::Opening | State::Answered => Some(Self::HalfOpen),
            State::Unreplied => Some(Self::Unreplied),
            State::Replied => Some(Self::Replied),
            State::Established
            | State::HalfClosedByClient
            | State::HalfClosedByBackend
            | State::ClosingByClient
            | State::ClosingByBackend => None,
        }
    }
}

/// The queues of a table.
pub(super) const QUEUES: usize = Class::ALL.len() * MAX_BACKENDS;
/// Words of the set of queues that have flows.
pub(super) const OCCUPIED_WORDS: usize = Class::ALL.len() * WORDS;
/// The same for one class: a bit for each endpoint.
const WORDS: usize = MAX_BACKENDS / 64;

/// The ends of one queue: entry numbers plus one, 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes)]
#[repr(C)]
pub(super) struct Ends {
    oldest: u32,
    newest: u32,
}

const _: () = assert!(size_of::<Ends>() == 8);

/// All queues. The link towards the newer flow is in [`ColdEntry::next`], the other one in
/// [`HotEntry::older`](super::HotEntry).
pub(super) struct Queues {
    /// By endpoint, then by class.
    ends: Region<Ends>,
    /// By class, then by endpoint: a bit for each queue that has flows.
    occupied: Region<u64>,
}

impl Queues {
    /// Queues over zeroed memory are empty.
    pub(super) const fn new(ends: Region<Ends>, occupied: Region<u64>) -> Self {
        Self { ends, occupied }
    }

    /// The flows of a queue, the first to go first.
    pub(super) fn oldest_first<'a>(
        &self,
        endpoint: EndpointId,
        class: Class,
        cold: &'a [ColdEntry],
    ) -> impl Iterator<Item = u32> + use<'a> {
        let oldest = self.ends.get(at(endpoint, class)).map_or(0, |ends| ends.oldest);
        std::iter::successors(oldest.checked_sub(1), |&id| cold[id as usize].next.checked_sub(1))
    }

    /// The first endpoint from number `from` on, and then from 0 on, that has flows of this class. O([`MAX_BACKENDS`] /
    /// 64).
    pub(super) fn next_endpoint(&self, class: Class, from: u32) -> Option<EndpointId> {
        let words = self.occupied.get(class as usize * WORDS..)?.get(..WORDS)?;
        let (first, before) = ((from / 64) as usize % WORDS, (1_u64 << (from % 64)) - 1);
        // The first word is visited twice: first the bits from `from` on, last those before it.
        for step in 0..=WORDS {
            let at = (first + step) % WORDS;
            let word = match step {
                0 => words[at] & !before,
                WORDS => words[at] & before,
                _ => words[at],
            };
            if word != 0 {
                return u32::try_from(at * 64)
                    .ok()
                    .map(|base| EndpointId(base + word.trailing_zeros()));
            }
        }
        None
    }

    /// Adds a flow that is in no queue at the end of one.
    pub(super) fn push(&mut self, endpoint: EndpointId, class: Class, id: u32, pool: &mut Pool) {
        let ends = &mut self.ends[at(endpoint, class)];
        pool.hot[id as usize].older = ends.newest;
        pool.cold[id as usize].next = 0;
        match ends.newest.checked_sub(1) {
            None => {
                ends.oldest = id + 1;
                self.occupied[word(endpoint, class)] |= bit(endpoint);
            }
            Some(newest) => pool.cold[newest as usize].next = id + 1,
        }
        ends.newest = id + 1;
    }

    /// Takes a flow out of its queue.
    pub(super) fn remove(&mut self, endpoint: EndpointId, class: Class, id: u32, pool: &mut Pool) {
        let ends = &mut self.ends[at(endpoint, class)];
        let older = std::mem::take(&mut pool.hot[id as usize].older);
        let newer = std::mem::take(&mut pool.cold[id as usize].next);
        match older.checked_sub(1) {
            None => ends.oldest = newer,
            Some(neighbor) => pool.cold[neighbor as usize].next = newer,
        }
        match newer.checked_sub(1) {
            None => ends.newest = older,
            Some(neighbor) => pool.hot[neighbor as usize].older = older,
        }
        if ends.oldest == 0 {
            self.occupied[word(endpoint, class)] &= !bit(endpoint);
        }
    }

    /// Whether no flow is in any queue.
    #[cfg(test)]
    pub(super) fn is_pristine(&self) -> bool {
        self.ends.iter().all(|ends| *ends == Ends::default()) && self.occupied.iter().all(|&word| word == 0)
    }
}

const fn at(endpoint: EndpointId, class: Class) -> usize {
    endpoint.index() * Class::ALL.len() + class as usize
}

const fn word(endpoint: EndpointId, class: Class) -> usize {
    class as usize * WORDS + endpoint.index() / 64
}

const fn bit(endpoint: EndpointId) -> u64 {
    1 << (endpoint.0 % 64)
}
