//! Fragmented datagrams: only the first fragment has ports, the others follow its flow.
//!
//! All fragments of a datagram meet at one worker, its tracker, which learns the ports from the first one and hands
//! them on, in order, to the worker that owns the flow; that one learns them too. The datagram is not reassembled. A
//! later fragment that overtakes the first one is dropped and counted. Datagrams in flight are bounded, so a flood
//! harms its sender only (RFC 4787 REQ-14).

use vl3lb_common::hash::{owner_hash, reduce};
use vl3lb_common::{DropReason, Duration, Protocol, Timestamp};

use crate::pipeline::Origin;
use crate::pipeline::policy::Policy;
use crate::pipeline::tuple::Tuple;

/// The datagram that a fragment is part of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) protocol: u8,
    pub(super) id: u32,
    /// Source and destination port; the first fragment only.
    pub(super) ports: Option<(u16, u16)>,
}

/// What to do with a fragment.
pub(super) enum Step {
    /// The tracker of its datagram is that worker.
    Handoff(u16),
    /// The ports of its datagram are known.
    Known(Tracked),
}

/// A datagram whose ports are known.
pub(super) struct Tracked {
    pub(super) tuple: Tuple,
    number: u16,
}

impl Tracked {
    /// The IPv4 identification of the translated fragments. Many clients share the balancer's address, and their kernels
    /// may choose equal ones (RFC 6864 section 5.3.1, RFC 7857 section 10).
    pub(super) const fn identification(&self, policy: &Policy) -> u16 {
        self.number
            .wrapping_mul(policy.workers)
            .wrapping_add(policy.worker)
    }
}

/// What the fragments of one datagram have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    source: [u8; 16],
    local: u8,
    protocol: u8,
    id: u32,
}

impl Key {
    fn hash(&self) -> u32 {
        let [a, b, c, d] = self.id.to_be_bytes();
        owner_hash(
            &self.source,
            u16::from_be_bytes([a, b]),
            u16::from_be_bytes([c, d]),
            self.protocol,
        )
    }

    /// The worker where the fragments of this datagram meet.
    fn tracker(&self, workers: u16) -> u16 {
        u16::try_from(reduce(self.hash(), u32::from(workers))).unwrap_or(0)
    }
}

/// A datagram whose first fragment was seen.
#[derive(Debug, Clone, Copy)]
struct Datagram {
    key: Key,
    ports: (u16, u16),
    /// Counts datagrams of this worker: makes the new identification.
    number: u16,
    seen: Timestamp,
}

/// Sets of datagrams; a datagram can be in one set only.
const SETS: usize = 512;
/// Datagrams per set.
const WAYS: usize = 4;
/// How long the rest of a datagram is waited for: at least 2 s (RFC 6146 section 4, FRAGMENT_MIN).
const LIFETIME: Duration = Duration::from_secs(3);

/// The datagrams in flight at one worker: 2,048 at most.
#[derive(Debug)]
pub(in crate::pipeline) struct FragmentTable {
    sets: Box<[[Option<Datagram>; WAYS]]>,
    number: u16,
}

impl Default for FragmentTable {
    fn default() -> Self {
        Self {
            sets: vec![[None; WAYS]; SETS].into_boxed_slice(),
            number: 0,
        }
    }
}

impl FragmentTable {
    /// Notes a first fragment, or finds the ports that it had.
    ///
    /// # Errors
    /// The protocol has no ports, the table is full, or the first fragment was not seen in time.
    pub(super) fn track(
        &mut self,
        policy: &Policy,
        source: [u8; 16],
        local: u8,
        part: Part,
        origin: Origin,
        now: Timestamp,
    ) -> Result<Step, DropReason> {
        let protocol = Protocol::from_number(part.protocol).ok_or(DropReason::UnsupportedProtocol)?;
        let key = Key {
            source,
            local,
            protocol: part.protocol,
            id: part.id,
        };
        let tracker = key.tracker(policy.workers);
        let is_at_tracker = origin != Origin::Queue || tracker == policy.worker;
        let datagram = match part.ports {
            Some(_) if !is_at_tracker => return Ok(Step::Handoff(tracker)),
            Some(ports) => self.learn(key, ports, now).ok_or(DropReason::FragmentTableFull)?,
            None => match self.find(&key, now) {
                Some(datagram) => datagram,
                None if !is_at_tracker => return Ok(Step::Handoff(tracker)),
                None => return Err(DropReason::FragmentUnmatched),
            },
        };
        let (source_port, destination_port) = datagram.ports;
        Ok(Step::Known(Tracked {
            tuple: Tuple {
                protocol,
                source_port,
                destination_port,
                local,
            },
            number: datagram.number,
        }))
    }

    fn set(&self, key: &Key) -> usize {
        // The workers' share is taken from the high bits; these are the low ones.
        key.hash() as usize % SETS
    }

    fn find(&self, key: &Key, now: Timestamp) -> Option<Datagram> {
        self.sets[self.set(key)]
            .iter()
            .flatten()
            .find(|d| d.key == *key && now.since(d.seen) < LIFETIME)
            .copied()
    }

    /// Remembers the ports of a datagram; `None` if its set is full of younger ones.
    fn learn(&mut self, key: Key, ports: (u16, u16), now: Timestamp) -> Option<Datagram> {
        let set = self.set(&key);
        let ways = &self.sets[set];
        let same = ways
            .iter()
            .position(|way| way.is_some_and(|datagram| datagram.key == key));
        let free = || {
            ways.iter()
                .position(|way| way.is_none_or(|datagram| now.since(datagram.seen) >= LIFETIME))
        };
        let place = same.or_else(free)?;
        self.number = self.number.wrapping_add(1);
        let datagram = Datagram {
            key,
            ports,
            number: self.number,
            seen: now,
        };
        self.sets[set][place] = Some(datagram);
        Some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> Key {
        Key {
            source: [7; 16],
            local: 0,
            protocol: 17,
            id,
        }
    }

    #[test]
    fn a_datagram_is_known_until_its_time_is_over() {
        let mut table = FragmentTable::default();
        let start = Timestamp(1);
        assert!(table.find(&key(1), start).is_none());
        assert!(table.learn(key(1), (40_000, 53), start).is_some());
        assert_eq!(table.find(&key(1), start).map(|d| d.ports), Some((40_000, 53)));
        assert!(table.find(&key(2), start).is_none());
        assert!(
            table
                .find(&key(1), start + Duration::from_millis(2_999))
                .is_some()
        );
        assert!(table.find(&key(1), start + LIFETIME).is_none());
    }

    #[test]
    fn a_flood_of_first_fragments_does_not_push_out_the_others() {
        let mut table = FragmentTable::default();
        let start = Timestamp(1);
        assert!(table.learn(key(0), (1, 2), start).is_some());
        let dropped = (1..100_000)
            .filter(|&id| table.learn(key(id), (3, 4), start).is_none())
            .count();
        assert_eq!(dropped, 99_999 - (SETS * WAYS - 1));
        assert_eq!(table.find(&key(0), start).map(|d| d.ports), Some((1, 2)));
        assert!(table.learn(key(200_000), (3, 4), start + LIFETIME).is_some());
    }
}
