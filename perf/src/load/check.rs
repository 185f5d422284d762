//! Checks received packets: once, in order, intact, and in the right flow.

use super::payload::Stamp;
use super::tally::Tally;

/// Sequence numbers below the highest one of a flow that are remembered.
const WINDOW: u32 = 256;
const WORDS: usize = WINDOW as usize / 64;

/// The state of one thread's flows: 48 bytes for each.
#[derive(Debug)]
pub(crate) struct Checker {
    run: u16,
    /// Number of this thread's first flow, and the distance to its next one, in the stamps.
    first: u32,
    step: u32,
    flows: Vec<Flow>,
    /// Packets whose intended time is before this are not counted (the warm-up).
    count_from: u64,
}

#[derive(Debug, Clone, Default)]
struct Flow {
    /// The next sequence number to send.
    next: u32,
    /// One more than the highest sequence number that came back.
    expected: u32,
    /// Which of the `WINDOW` numbers below `expected` came back, by number modulo `WINDOW`.
    seen: [u64; WORDS],
}

/// The kind of a received payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Comes back for the first time.
    New {
        stamp: Stamp,
        /// A later one of its flow came before it (RFC 4737 section 3.3).
        reordered: bool,
    },
    /// Came back before (RFC 5560).
    Duplicate(Stamp),
    /// Changed on its way, or it came to a flow that it does not belong to.
    Wrong,
    /// Sent by an earlier run.
    Stray,
}

impl Checker {
    /// For the flows `first`, `first + step`, ... of a run, `flows` of them.
    pub(crate) fn new(run: u16, first: u32, step: u32, flows: u32, count_from: u64) -> Self {
        Self {
            run,
            first,
            step,
            flows: vec![Flow::default(); flows as usize],
            count_from,
        }
    }

    /// The stamp of the next packet of `flow`, one of this thread's, from 0.
    pub(crate) fn stamp(&mut self, flow: u32, intended: u64, sent: u64) -> Stamp {
        let state = &mut self.flows[flow as usize];
        let sequence = state.next;
        state.next = state.next.wrapping_add(1);
        Stamp {
            run: self.run,
            flow: self.first + flow * self.step,
            sequence,
            intended,
            sent,
        }
    }

    /// Counts a packet that goes out.
    pub(crate) fn sent(&self, stamp: &Stamp, len: usize, tally: &mut Tally) {
        if stamp.intended >= self.count_from {
            tally.sent += 1;
            tally.bytes_sent += len as u64;
        }
    }

    /// Counts a payload that arrived at `flow`. Returns its stamp if it is one that counts in latencies:
    /// here for the first time, and sent after the warm-up.
    pub(crate) fn received(
        &mut self,
        flow: u32,
        payload: &[u8],
        len: usize,
        tally: &mut Tally,
    ) -> Option<Stamp> {
        let finding = self.look_at(flow, payload);
        let counts = |stamp: &Stamp| stamp.intended >= self.count_from;
        match finding {
            Finding::New { stamp, reordered } if counts(&stamp) => {
                tally.received += 1;
                tally.bytes_received += len as u64;
                tally.reordered += u64::from(reordered);
                Some(stamp)
            }
            Finding::Duplicate(stamp) if counts(&stamp) => {
                tally.duplicated += 1;
                None
            }
            Finding::Wrong => {
                tally.errors.payload += 1;
                None
            }
            Finding::New { .. } | Finding::Duplicate(_) | Finding::Stray => None,
        }
    }

    fn look_at(&mut self, flow: u32, payload: &[u8]) -> Finding {
        let Ok(stamp) = Stamp::read(payload) else {
            return Finding::Wrong;
        };
        if stamp.run != self.run {
            return Finding::Stray;
        }
        let number = self.first + flow * self.step;
        let Some(state) = self.flows.get_mut(flow as usize) else {
            return Finding::Wrong;
        };
        if stamp.flow != number || stamp.sequence >= state.next {
            return Finding::Wrong;
        }
        state.place(stamp)
    }
}

impl Flow {
    fn place(&mut self, stamp: Stamp) -> Finding {
        let sequence = stamp.sequence;
        let (word, bit) = position(sequence);
        if sequence >= self.expected {
            // The numbers in between have not been seen; their places hold older ones.
            if sequence - self.expected >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                for skipped in self.expected..sequence {
                    let (word, bit) = position(skipped);
                    self.seen[word] &= !bit;
                }
            }
            self.seen[word] |= bit;
            self.expected = sequence + 1;
            return Finding::New {
                stamp,
                reordered: false,
            };
        }
        // Too old to know whether it came before: more likely late than twice.
        let remembered = self.expected - sequence <= WINDOW;
        if remembered && self.seen[word] & bit != 0 {
            return Finding::Duplicate(stamp);
        }
        if remembered {
            self.seen[word] |= bit;
        }
        Finding::New {
            stamp,
            reordered: true,
        }
    }
}

const fn position(sequence: u32) -> (usize, u64) {
    let place = sequence % WINDOW;
    ((place / 64) as usize, 1 << (place % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::payload::STAMP_LEN;
    use proptest::prelude::*;

    const FLOWS: u32 = 4;

    struct Network {
        checker: Checker,
        tally: Tally,
        sent: Vec<(u32, Vec<u8>)>,
    }

    impl Network {
        /// Sends `packets` packets, one each nanosecond, over the flows in turn.
        fn new(packets: u32, count_from: u64) -> Self {
            let mut network = Self {
                checker: Checker::new(7, 1, 3, FLOWS, count_from),
                tally: Tally::default(),
                sent: Vec::new(),
            };
            for number in 0..packets {
                let flow = number % FLOWS;
                let stamp = network.checker.stamp(flow, number.into(), number.into());
                let mut payload = vec![0; STAMP_LEN];
                stamp.write(&mut payload);
                network.checker.sent(&stamp, 64, &mut network.tally);
                network.sent.push((flow, payload));
            }
            network
        }

        fn deliver(&mut self, index: usize) {
            let (flow, payload) = self.sent[index].clone();
            self.checker.received(flow, &payload, 64, &mut self.tally);
        }

        fn faults(&self) -> (u64, u64, u64, u64) {
            let tally = &self.tally;
            (
                tally.lost(),
                tally.duplicated,
                tally.reordered,
                tally.errors.payload,
            )
        }
    }

    #[test]
    fn a_faultless_network_has_no_faults() {
        let mut network = Network::new(1000, 0);
        (0..1000).for_each(|index| network.deliver(index));
        assert_eq!(network.faults(), (0, 0, 0, 0));
        assert_eq!((network.tally.sent, network.tally.received), (1000, 1000));
        assert_eq!(network.tally.bytes_received, 64_000);
    }

    #[test]
    fn each_fault_is_counted_as_its_kind() {
        type Row = (&'static str, fn(&mut Network), (u64, u64, u64, u64));
        let table: [Row; 8] = [
            ("one lost", |n| (1..100).for_each(|i| n.deliver(i)), (1, 0, 0, 0)),
            (
                "one twice",
                |n| (0..100).chain([42]).for_each(|i| n.deliver(i)),
                (0, 1, 0, 0),
            ),
            (
                "neighbours of one flow swapped",
                |n| {
                    (0..40)
                        .chain([44, 40])
                        .chain(41..44)
                        .chain(45..100)
                        .for_each(|i| n.deliver(i))
                },
                (0, 0, 1, 0),
            ),
            (
                "neighbours of two flows swapped: no fault",
                |n| [1, 0].into_iter().chain(2..100).for_each(|i| n.deliver(i)),
                (0, 0, 0, 0),
            ),
            (
                "one flipped bit",
                |n| {
                    n.sent[3].1[10] ^= 4;
                    (0..100).for_each(|i| n.deliver(i));
                },
                (1, 0, 0, 1),
            ),
            (
                "a packet of one flow delivered to another",
                |n| {
                    n.sent[3].0 = 2;
                    (0..100).for_each(|i| n.deliver(i));
                },
                (1, 0, 0, 1),
            ),
            ("nothing at all", |_| {}, (100, 0, 0, 0)),
            (
                "something that was never sent",
                |n| {
                    (0..100).for_each(|i| n.deliver(i));
                    let mut payload = vec![0; STAMP_LEN];
                    Stamp {
                        run: 7,
                        flow: 1,
                        sequence: 25,
                        intended: 0,
                        sent: 0,
                    }
                    .write(&mut payload);
                    n.checker.received(0, &payload, 64, &mut n.tally);
                },
                (0, 0, 0, 1),
            ),
        ];
        for (what, deliver, faults) in table {
            let mut network = Network::new(100, 0);
            deliver(&mut network);
            assert_eq!(network.faults(), faults, "{what}");
        }
    }

    #[test]
    fn an_earlier_run_is_ignored() {
        let mut network = Network::new(4, 0);
        let mut payload = vec![0; STAMP_LEN];
        let old = Stamp {
            run: 6,
            flow: 1,
            sequence: 0,
            intended: 0,
            sent: 0,
        };
        old.write(&mut payload);
        network.checker.received(0, &payload, 64, &mut network.tally);
        assert_eq!(network.faults(), (4, 0, 0, 0));
        assert_eq!(network.tally.received, 0);
    }

    #[test]
    fn the_warm_up_is_not_counted() {
        let mut network = Network::new(100, 40);
        (0..100).for_each(|index| network.deliver(index));
        assert_eq!((network.tally.sent, network.tally.received), (60, 60));
        assert_eq!(network.faults(), (0, 0, 0, 0));
    }

    proptest! {
        /// Any subset, any repetition, any order: what is counted adds up to what was done.
        #[test]
        fn counts_add_up(
            delivered in proptest::collection::vec(0_usize..64, 0..256)
        ) {
            let mut network = Network::new(64, 0);
            delivered.iter().for_each(|&index| network.deliver(index));
            let unique = delivered.iter().collect::<std::collections::HashSet<_>>().len() as u64;
            prop_assert_eq!(network.tally.received, unique);
            prop_assert_eq!(network.tally.lost(), 64 - unique);
            prop_assert_eq!(network.tally.duplicated, delivered.len() as u64 - unique);
            prop_assert_eq!(network.tally.errors.payload, 0);
        }

        #[test]
        fn gaps_of_any_length_leave_no_false_duplicate(gaps in proptest::collection::vec(1_u32..600, 1..20)) {
            let mut flow = Flow { next: u32::MAX, ..Flow::default() };
            let mut sequence = 0;
            for gap in gaps {
                let stamp = Stamp { run: 0, flow: 0, sequence, intended: 0, sent: 0 };
                prop_assert_eq!(flow.place(stamp), Finding::New { stamp, reordered: false });
                prop_assert_eq!(flow.place(stamp), Finding::Duplicate(stamp));
                sequence += gap;
            }
        }
    }
}
