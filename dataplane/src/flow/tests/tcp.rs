//! The TCP state machine as a table of conversations.

use super::*;
use crate::flow::sequence::Sequence;
use crate::flow::tcp::{advance, opens, reopens};
use crate::packet::{TcpFlags, TcpSegment};
use crate::testing::builder::flags::{ACK, CWR, ECE, FIN, RST, SYN};
use crate::testing::conversation::Conversation;
use Direction::{In, Out};
use State::*;

/// A flow that follows a connection.
#[derive(Clone, Copy)]
struct Watched {
    state: State,
    sequence: Sequence,
    ends: Conversation,
}

impl Watched {
    /// After the client's SYN.
    fn new() -> Self {
        let mut ends = Conversation::new(u32::MAX - 3, u32::MAX);
        let mut sequence = Sequence::NEW;
        let state = advance(Opening, &mut sequence, In, &ends.segment(In, SYN, 0));
        Self {
            state,
            sequence,
            ends,
        }
    }

    /// After the handshake.
    fn open() -> Self {
        let mut watched = Self::new();
        watched.play(&[(Out, SYN | ACK), (In, ACK)]);
        assert_eq!(watched.state, Established);
        watched
    }

    fn see(&mut self, direction: Direction, segment: &TcpSegment) -> State {
        let continues = self.state.is_open() && self.sequence.continues(direction, segment);
        if !continues {
            self.state = advance(self.state, &mut self.sequence, direction, segment);
        }
        self.state
    }

    /// The ends' next segments, without data.
    fn play(&mut self, segments: &[(Direction, u8)]) -> State {
        for &(direction, flags) in segments {
            self.send(direction, flags, 0);
        }
        self.state
    }

    /// An end's next segment.
    fn send(&mut self, direction: Direction, flags: u8, payload: u32) -> TcpSegment {
        let segment = self.ends.segment(direction, flags, payload);
        self.see(direction, &segment);
        segment
    }

    /// A segment of somebody else: `sequence` and `acknowledgment` are how far it is off.
    fn forge(&mut self, direction: Direction, flags: u8, sequence: u32, acknowledgment: u32) -> State {
        let segment = TcpSegment {
            flags: TcpFlags(flags),
            sequence: self.ends.next(direction).wrapping_add(sequence),
            acknowledgment: self.ends.next(direction.opposite()).wrapping_add(acknowledgment),
            payload: 0,
        };
        self.see(direction, &segment)
    }
}

#[test]
fn conversations_end_where_they_should() {
    let play = |segments: &[(Direction, u8)]| Watched::new().play(segments);
    let after_open = |segments: &[(Direction, u8)]| Watched::open().play(segments);
    let rows = [
        ("SYN", play(&[]), Opening),
        ("SYN-ACK", play(&[(Out, SYN | ACK)]), Answered),
        ("handshake", play(&[(Out, SYN | ACK), (In, ACK)]), Established),
        (
            "simultaneous open",
            play(&[(Out, SYN), (In, SYN | ACK)]),
            Established,
        ),
        ("no SYN-ACK, then data of the client", play(&[(In, ACK)]), Opening),
        ("ACK of an older connection", play(&[(Out, ACK)]), Opening),
        ("refused", play(&[(Out, RST | ACK)]), Reset),
        ("data", after_open(&[(In, ACK), (Out, ACK)]), Established),
        (
            "client closes",
            after_open(&[(In, FIN | ACK)]),
            HalfClosedByClient,
        ),
        (
            "backend closes",
            after_open(&[(Out, FIN | ACK)]),
            HalfClosedByBackend,
        ),
        (
            "data after FIN",
            after_open(&[(In, FIN | ACK), (Out, ACK), (In, ACK)]),
            HalfClosedByClient,
        ),
        (
            "both close",
            after_open(&[(In, FIN | ACK), (Out, FIN | ACK)]),
            ClosingByBackend,
        ),
        (
            "both close, client last",
            after_open(&[(Out, FIN | ACK), (In, FIN | ACK)]),
            ClosingByClient,
        ),
        (
            "finished",
            after_open(&[(In, FIN | ACK), (Out, FIN | ACK), (In, ACK)]),
            Finished,
        ),
        (
            "finished, client last",
            after_open(&[(Out, FIN | ACK), (In, FIN | ACK), (Out, ACK)]),
            Finished,
        ),
        (
            "RST at the end",
            after_open(&[(In, FIN | ACK), (Out, FIN | ACK), (In, ACK), (In, RST)]),
            Finished,
        ),
        (
            "RST instead of the last ACK",
            after_open(&[(In, FIN | ACK), (Out, FIN | ACK), (In, RST)]),
            Reset,
        ),
        ("RST of the client", after_open(&[(In, RST)]), Reset),
        ("RST of the backend", after_open(&[(Out, RST | ACK)]), Reset),
        ("RST of both", after_open(&[(Out, RST), (In, RST)]), Reset),
        (
            "RST, then data of its sender",
            after_open(&[(In, RST), (In, ACK)]),
            Established,
        ),
        (
            "RST, then a challenge ACK of its receiver",
            after_open(&[(In, RST), (Out, ACK)]),
            Reset,
        ),
        (
            "RST, then data of both",
            after_open(&[(In, RST), (Out, ACK), (In, ACK)]),
            Established,
        ),
        (
            "RST, then FIN of its sender",
            after_open(&[(In, RST), (In, FIN | ACK)]),
            HalfClosedByClient,
        ),
        (
            "FIN, RST, then data of its sender",
            after_open(&[(In, FIN | ACK), (Out, RST), (Out, ACK)]),
            HalfClosedByClient,
        ),
        (
            "RST crosses the SYN-ACK",
            play(&[(In, RST), (Out, SYN | ACK)]),
            Reset,
        ),
        (
            "RST crosses the SYN-ACK, and was not the client's",
            play(&[(In, RST), (Out, SYN | ACK), (In, ACK)]),
            Established,
        ),
        (
            "refused, but not by the backend",
            play(&[(Out, RST | ACK), (Out, SYN | ACK), (In, ACK)]),
            Established,
        ),
        ("SYN, RST, ACK", play(&[(In, RST), (In, ACK)]), Reset),
        (
            "RST instead of the first ACK",
            play(&[(Out, SYN | ACK), (In, RST)]),
            Reset,
        ),
        ("SYN after RST", after_open(&[(In, RST), (In, SYN)]), Reset),
        ("SYN on an open flow", after_open(&[(In, SYN)]), Established),
        (
            "SYN-ACK on an open flow",
            after_open(&[(Out, SYN | ACK)]),
            Established,
        ),
        (
            "client closes with its first ACK",
            play(&[(Out, SYN | ACK), (In, FIN | ACK)]),
            HalfClosedByClient,
        ),
    ];
    for (conversation, state, expected) in rows {
        assert_eq!(state, expected, "{conversation}");
    }
}

/// RFC 9293 section 3.10.7.4: else the sender of a SYN with a forged source gets a flow that is kept for hours.
#[test]
fn only_an_acknowledgment_of_the_backends_syn_establishes() {
    for off in [1, 2, 1_460, 0xffff, 1 << 20, 1 << 31, u32::MAX, u32::MAX - 1] {
        let mut watched = Watched::new();
        assert_eq!(watched.forge(In, ACK, 0, off), Opening, "before the SYN-ACK");
        watched.play(&[(Out, SYN | ACK)]);
        for flags in [ACK, FIN | ACK, SYN | ACK] {
            assert_eq!(watched.forge(In, flags, 0, off), Answered, "{off} {flags:#x}");
        }
        assert_eq!(watched.forge(In, ACK, 1 << 20, 0), Answered);
        assert_eq!(watched.play(&[(In, ACK)]), Established);
    }
    // A challenge ACK of the backend proves nothing.
    let mut watched = Watched::new();
    watched.play(&[(Out, SYN | ACK)]);
    watched.forge(In, ACK, 0, 77);
    assert_eq!(watched.play(&[(Out, ACK)]), Answered);
    // With a state that a RST interrupted, too.
    assert_eq!(watched.play(&[(In, RST)]), Reset);
    assert_eq!(watched.forge(In, ACK, 0, 77), Reset);
}

#[test]
fn the_latest_syn_and_the_latest_answer_count() {
    let mut watched = Watched::new();
    // The client has started anew, and the backend answers that SYN.
    watched.ends = Conversation::new(77, 88);
    assert_eq!(
        watched.play(&[(In, SYN), (Out, SYN | ACK), (In, ACK)]),
        Established
    );
    // Somebody else's SYN does not prevent the connection.
    let mut watched = Watched::new();
    let mut forged = Conversation::new(12_345, 1);
    watched.see(In, &forged.segment(In, SYN, 0));
    assert_eq!(watched.play(&[(Out, SYN | ACK), (In, ACK)]), Established);
    assert_eq!(watched.play(&[(In, RST)]), Reset);
}

/// RFC 7413: data in the SYN, and of the backend before the client's first ACK.
#[test]
fn tcp_fast_open_is_followed() {
    for (taken, early_fin) in [(true, false), (false, false), (true, true)] {
        let mut watched = Watched::new();
        watched.ends = Conversation::new(100, 200);
        let before = watched.ends;
        watched.send(In, SYN, 500);
        if !taken {
            watched.ends = before;
            let _ = watched.ends.segment(In, SYN, 0);
        }
        watched.send(Out, SYN | ACK, 0);
        let acknowledged = watched.ends;
        watched.send(Out, ACK, 3_000);
        if early_fin {
            assert_eq!(watched.play(&[(Out, FIN | ACK)]), Answered);
        }
        if !taken {
            // The client acknowledges the SYN alone first, and repeats its data.
            let mut first = acknowledged;
            watched.see(In, &first.segment(In, ACK, 500));
            watched.ends.segment(In, ACK, 500);
        }
        let open = if early_fin {
            HalfClosedByBackend
        } else {
            Established
        };
        assert_eq!(watched.play(&[(In, ACK)]), open, "{taken} {early_fin}");
        assert_eq!(watched.play(&[(In, RST)]), Reset, "the numbers are right");
    }
}

#[test]
fn a_refusal_acknowledges_the_syn() {
    let mut watched = Watched::new();
    assert_eq!(watched.forge(Out, RST | ACK, 0, 1), Opening);
    assert_eq!(
        watched.forge(Out, RST | ACK, 77, 0),
        Reset,
        "its own number is any"
    );
    let mut watched = Watched::new();
    let unknown = TcpSegment {
        flags: TcpFlags(RST),
        sequence: 0,
        acknowledgment: 0,
        payload: 0,
    };
    assert_eq!(watched.see(Out, &unknown), Opening, "RFC 9293 section 3.10.7.3");
}

/// RFC 5961 section 3.2.
#[test]
fn only_the_exact_rst_resets() {
    for direction in [In, Out] {
        for off in [1, 2, 1_000, 0xffff, 1 << 24, 1 << 31, u32::MAX] {
            let mut watched = Watched::open();
            for flags in [RST, RST | ACK, RST | SYN, RST | FIN] {
                assert_eq!(watched.forge(direction, flags, off, 0), Established, "{off}");
            }
            assert_eq!(watched.forge(direction, RST, 0, off), Reset);
        }
    }
}

/// RFC 5961 section 5: a forger has to hit the window and the acknowledgment.
#[test]
fn a_fin_counts_in_the_window_only() {
    // Sequence and acknowledgment of the FIN, counted from the right ones; whether it counts.
    let rows = [
        (0, 0, true),
        (0, 1 << 20, true),
        (1, 0, true),
        (0xfffe, 0, true),
        (0xffff, 0, false),
        (1 << 20, 0, false),
        (1 << 31, 0, false),
        (u32::MAX - 1, 0, false),
        (1_000, 0xffff, true),
        (1_000, 0_u32.wrapping_sub(0xffff), true),
        (1_000, 0x1_0000, false),
        (1_000, 1 << 31, false),
    ];
    for (sequence, acknowledgment, counts) in rows {
        for (direction, closed) in [(In, HalfClosedByClient), (Out, HalfClosedByBackend)] {
            let state = Watched::open().forge(direction, FIN | ACK, sequence, acknowledgment);
            let expected = if counts { closed } else { Established };
            assert_eq!(state, expected, "{sequence} {acknowledgment} {direction:?}");
        }
        let state = Watched::open().forge(In, FIN, sequence, 0);
        assert_eq!(state == HalfClosedByClient, sequence == 0, "without ACK");
    }
}

#[test]
fn a_window_is_as_large_as_both_syns_allow() {
    // Scales of client and backend; the largest gap that a client's segment may leave.
    for (scales, largest) in [
        ((None, None), 0xffff),
        ((Some(7), None), 0xffff),
        ((None, Some(7)), 0xffff),
        ((Some(0), Some(7)), 0xffff << 7),
        ((Some(14), Some(14)), 1 << 24),
    ] {
        let mut watched = Watched::open();
        watched.sequence.note_scale(In, scales.0);
        watched.sequence.note_scale(Out, scales.1);
        let mut beyond = watched;
        assert_eq!(beyond.forge(In, FIN | ACK, largest, 0), Established, "{scales:?}");
        assert_eq!(
            watched.forge(In, FIN | ACK, largest - 1, 0),
            HalfClosedByClient,
            "{scales:?}"
        );
    }
}

#[test]
fn the_last_ack_acknowledges_the_fin() {
    for (first, last, closing) in [(In, Out, ClosingByBackend), (Out, In, ClosingByClient)] {
        let mut watched = Watched::open();
        watched.play(&[(first, FIN | ACK), (last, FIN | ACK)]);
        for off in [1, 77, u32::MAX, u32::MAX - 1] {
            assert_eq!(watched.forge(first, ACK, 0, off), closing, "{off}");
        }
        assert_eq!(watched.forge(first, ACK, 1 << 20, 0), closing);
        // One that repeats its FIN acknowledges the other one's, too.
        let mut repeated = watched;
        assert_eq!(repeated.forge(first, FIN | ACK, u32::MAX, 0), Finished);
        assert_eq!(watched.play(&[(first, ACK)]), Finished);
    }
}

#[test]
fn repeated_fins_change_nothing() {
    for direction in [In, Out] {
        let mut watched = Watched::open();
        let fin = watched.send(direction, FIN | ACK, 100);
        let closed = watched.state;
        assert_eq!(watched.see(direction, &fin), closed);
        watched.play(&[(direction.opposite(), FIN | ACK)]);
        let closing = watched.state;
        assert_eq!(
            watched.see(direction, &fin),
            closing,
            "it is older than the last FIN"
        );
    }
}

/// Lost before they come here, out of order, repeated, probes: the numbers stay right, which an exact RST shows.
#[test]
fn segments_of_an_open_connection_are_followed() {
    type Story = fn(&mut Watched, Direction);
    let stories: [(&str, Story); 8] = [
        ("keep-alive", |watched, from| {
            watched.forge(from, ACK, u32::MAX, 0);
            watched.play(&[(from.opposite(), ACK)]);
        }),
        ("a super-packet", |watched, from| {
            watched.send(from, ACK, 65_000);
        }),
        (
            "a segment lost on its way here, and sent again",
            |watched, from| {
                let lost = watched.ends.segment(from, ACK, 1_460);
                watched.send(from, ACK, 1_460);
                watched.see(from, &lost);
            },
        ),
        (
            "the last one of all is lost, and acknowledged later",
            |watched, from| {
                let lost = watched.ends.segment(from, ACK, 30_000);
                watched.ends.segment(from, ACK, 30_000);
                watched.play(&[(from.opposite(), ACK)]);
                watched.see(from, &lost);
            },
        ),
        ("two swapped segments", |watched, from| {
            let first = watched.ends.segment(from, ACK, 1_460);
            watched.send(from, ACK, 1_460);
            watched.see(from, &first);
        }),
        ("both directions swapped", |watched, from| {
            let first = [from, from.opposite()].map(|side| watched.ends.segment(side, ACK, 1_460));
            watched.send(from, ACK, 1_460);
            watched.send(from.opposite(), ACK, 1_460);
            watched.see(from, &first[0]);
            watched.see(from.opposite(), &first[1]);
        }),
        ("a probe of a closed window", |watched, from| {
            let mut probing = *watched;
            let probe = probing.ends.segment(from, ACK, 1);
            watched.see(from, &probe);
            watched.see(from, &probe);
            watched.send(from, ACK, 1_000);
        }),
        ("4 GB", |watched, from| {
            for _ in 0..70_000 {
                watched.send(from, ACK, 65_000);
                watched.play(&[(from.opposite(), ACK)]);
            }
        }),
    ];
    for (story, play) in stories {
        for from in [In, Out] {
            let mut watched = Watched::open();
            play(&mut watched, from);
            assert_eq!(watched.state, Established, "{story}, from {from:?}");
            for side in [In, Out] {
                assert_eq!(watched.sequence.end(side), watched.ends.next(side), "{story}");
            }
        }
    }
}

#[test]
fn only_a_bare_syn_on_a_flow_that_is_over_begins_a_new_one() {
    for state in State::ALL {
        let over = matches!(state, ClosingByClient | ClosingByBackend | Finished | Reset);
        assert_eq!(reopens(state, TcpFlags(SYN)), over, "{state:?}");
        for flags in [SYN | ACK, SYN | RST, SYN | FIN, ACK, FIN | ACK, RST, 0] {
            assert!(!reopens(state, TcpFlags(flags)), "{state:?} {flags:#x}");
        }
    }
    // ECN set-up (RFC 3168 section 6.1.1) is a SYN with ECE and CWR.
    assert!(opens(TcpFlags(SYN | ECE | CWR)));
}

#[test]
fn no_segment_leads_out_of_tcp() {
    let is_udp = |state| matches!(state, Unreplied | Replied);
    for state in State::ALL.into_iter().filter(|state| !is_udp(*state)) {
        for flags in 0..=u8::MAX {
            for direction in [In, Out] {
                let mut watched = Watched::open();
                watched.sequence.note_reset(Established, direction);
                watched.state = state;
                let next = watched.forge(direction, flags, 0, 0);
                assert!(!is_udp(next), "{state:?} {flags:#x}");
            }
        }
    }
}
