//! The tracker beside two hosts that exchange data over a path that loses, repeats and reorders, on both sides of it,
//! while somebody forges segments.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::flow::sequence::Sequence;
use crate::flow::tcp::advance;
use crate::packet::{TcpFlags, TcpSegment};
use crate::testing::builder::flags::{ACK, FIN, RST, SYN};
use Direction::{In, Out};

/// A plain, slow TCP. Offsets count from its initial sequence number; the SYN is 0, the FIN is `length` + 1.
struct Host {
    initial: u32,
    /// Bytes to send.
    length: u64,
    next: u64,
    acknowledged: u64,
    /// Offsets of the other one that have arrived, and the pieces behind a gap.
    received: u64,
    pieces: Vec<(u64, u64)>,
    window: u64,
}

impl Host {
    fn new(initial: u32, length: u64, window: u64) -> Self {
        Self {
            initial,
            length,
            next: 1,
            acknowledged: 1,
            received: 1,
            pieces: Vec::new(),
            window,
        }
    }

    /// The offset behind the FIN.
    const fn end(&self) -> u64 {
        self.length + 2
    }

    const fn number(&self, offset: u64) -> u32 {
        self.initial.wrapping_add(low(offset))
    }

    /// New data, or a repetition, or an ACK alone.
    fn send(&mut self, other: &Self, random: &mut StdRng) -> TcpSegment {
        let limit = self.end().min(self.acknowledged + other.window);
        let from = if self.next < limit && random.random_bool(0.8) {
            self.next
        } else if self.acknowledged < self.next && random.random_bool(0.7) {
            self.acknowledged
        } else {
            self.next
        };
        let to = limit.min(from + random.random_range(0..60_000)).max(from);
        self.next = self.next.max(to);
        let fin = to == self.end() && from < to;
        TcpSegment {
            flags: TcpFlags(if fin { FIN | ACK } else { ACK }),
            sequence: self.number(from),
            acknowledgment: other.number(self.received),
            payload: u32::try_from(to - from - u64::from(fin)).unwrap(),
        }
    }

    fn receive(&mut self, segment: &TcpSegment, other: &Self) {
        let offset = |number: u32, near: u64, initial: u32| {
            let near_number = initial.wrapping_add(low(near));
            near.wrapping_add_signed(i64::from(number.wrapping_sub(near_number).cast_signed()))
        };
        let acknowledged = offset(segment.acknowledgment, self.acknowledged, self.initial);
        self.acknowledged = self.acknowledged.max(acknowledged.min(self.next));
        let from = offset(segment.sequence, self.received, other.initial);
        self.pieces.push((
            from,
            from + u64::from(segment.end().wrapping_sub(segment.sequence)),
        ));
        while let Some(at) = self
            .pieces
            .iter()
            .position(|&(from, to)| from <= self.received && to > self.received)
        {
            self.received = self.pieces.swap_remove(at).1;
        }
        self.pieces.retain(|&(_, to)| to > self.received);
    }

    const fn is_done(&self, other: &Self) -> bool {
        self.acknowledged == self.end() && self.received == other.end()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap around")]
const fn low(offset: u64) -> u32 {
    offset as u32
}

/// Takes a segment of a queue: mostly the oldest.
fn take(queue: &mut Vec<TcpSegment>, random: &mut StdRng) -> Option<TcpSegment> {
    if queue.is_empty() {
        return None;
    }
    let at = if random.random_bool(0.8) {
        0
    } else {
        random.random_range(0..queue.len().min(5))
    };
    Some(queue.remove(at))
}

struct Tracker {
    state: State,
    sequence: Sequence,
}

impl Tracker {
    fn see(&mut self, direction: Direction, segment: &TcpSegment) {
        let continues = self.state.is_open() && self.sequence.continues(direction, segment);
        if !continues {
            self.state = advance(self.state, &mut self.sequence, direction, segment);
        }
    }
}

fn segment(flags: u8, sequence: u32, acknowledgment: u32) -> TcpSegment {
    TcpSegment {
        flags: TcpFlags(flags),
        sequence,
        acknowledgment,
        payload: 0,
    }
}

/// Plays a whole connection; the tracker at its end.
fn play(initial: [u32; 2], length: [u64; 2], scale: u8, loss: f64, seed: u64) -> Tracker {
    let mut random = StdRng::seed_from_u64(seed);
    let window = 0xffff << scale;
    let mut hosts = [0, 1].map(|side| Host::new(initial[side], length[side], window));
    let mut tracker = Tracker {
        state: State::Opening,
        sequence: Sequence::NEW,
    };
    tracker.sequence.note_scale(In, Some(scale));
    tracker.see(In, &segment(SYN, initial[0], 0));
    tracker.sequence.note_scale(Out, Some(scale));
    tracker.see(Out, &segment(SYN | ACK, initial[1], initial[0].wrapping_add(1)));
    tracker.see(
        In,
        &segment(ACK, initial[0].wrapping_add(1), initial[1].wrapping_add(1)),
    );
    // By direction: on the way to the tracker, and from it.
    let (mut before, mut behind) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for step in 0..200_000_u32 {
        let done = hosts[0].is_done(&hosts[1]) && hosts[1].is_done(&hosts[0]);
        if done && before.iter().chain(&behind).all(Vec::is_empty) {
            return tracker;
        }
        // Nothing is lost at the end, so that there is one.
        let loss = if step < 400 { loss } else { 0.0 };
        let side = random.random_range(0..2);
        let direction = [In, Out][side];
        match random.random_range(0..4) {
            0 if !done && before[side].len() < 40 => {
                let [client, backend] = &mut hosts;
                let (host, other) = if side == 0 {
                    (client, backend)
                } else {
                    (backend, client)
                };
                let segment = host.send(other, &mut random);
                if !random.random_bool(loss) {
                    before[side].push(segment);
                }
            }
            1 => {
                if let Some(segment) = take(&mut before[side], &mut random) {
                    tracker.see(direction, &segment);
                    if !random.random_bool(loss) {
                        behind[side].push(segment);
                    }
                    if random.random_bool(loss) {
                        behind[side].push(segment);
                    }
                }
            }
            2 => {
                if let Some(segment) = take(&mut behind[side], &mut random) {
                    let [client, backend] = &mut hosts;
                    let (other, host) = if side == 0 {
                        (client, backend)
                    } else {
                        (backend, client)
                    };
                    host.receive(&segment, other);
                }
            }
            _ => forge(&mut tracker, direction, &mut random),
        }
        for (host, sender) in hosts.iter().zip([In, Out]) {
            let ahead = tracker
                .sequence
                .end(sender)
                .wrapping_sub(host.number(host.next))
                .cast_signed();
            assert!(
                ahead <= 0,
                "the tracker is {ahead} ahead of what {sender:?} has sent"
            );
        }
    }
    panic!("the hosts did not finish: {:?}", tracker.state);
}

/// A segment whose numbers are wrong changes nothing.
fn forge(tracker: &mut Tracker, direction: Direction, random: &mut StdRng) {
    let far = random.random_range(1 << 25..u32::MAX - (1 << 25));
    let wrong = TcpSegment {
        flags: TcpFlags([FIN | ACK, RST, RST | ACK, SYN, ACK, SYN | ACK][random.random_range(0..6)]),
        sequence: tracker.sequence.end(direction).wrapping_add(far),
        acknowledgment: random.random(),
        payload: random.random_range(0..1_460),
    };
    let (state, sequence) = (tracker.state, tracker.sequence);
    tracker.see(direction, &wrong);
    assert_eq!((tracker.state, tracker.sequence), (state, sequence), "{wrong:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_connection_that_closes_in_order_is_finished(
        initial: [u32; 2],
        length in prop::array::uniform2(prop_oneof![Just(0_u64), 1_u64..2_000, 1_u64..3_000_000]),
        scale in 0_u8..8,
        loss in 0.0..0.3,
        seed: u64,
    ) {
        let tracker = play(initial, length, scale, loss, seed);
        prop_assert_eq!(tracker.state, State::Finished);
    }
}
