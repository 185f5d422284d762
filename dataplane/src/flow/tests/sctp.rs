//! The state machine of associations: which packets pass, and what they change.

use super::*;
use crate::flow::sctp::Tags;
use crate::packet::{SctpChunks, SctpPacket};
use Direction::{In, Out};
use proptest::prelude::*;

/// The tags of packets to the client and to the backend.
const CLIENT: u32 = 0xc1;
const BACKEND: u32 = 0xbe;

fn packet(kinds: u16, tag: u32) -> SctpPacket {
    SctpPacket {
        tag,
        chunks: SctpChunks(kinds),
        initiate_tag: 0,
        is_reflected: false,
    }
}

fn init(initiate_tag: u32) -> SctpPacket {
    SctpPacket {
        initiate_tag,
        ..packet(SctpChunks::INIT, 0)
    }
}

fn init_ack(tag: u32, initiate_tag: u32) -> SctpPacket {
    SctpPacket {
        initiate_tag,
        ..packet(SctpChunks::INIT_ACK, tag)
    }
}

fn reflected(kinds: u16, tag: u32) -> SctpPacket {
    SctpPacket {
        is_reflected: true,
        ..packet(kinds, tag)
    }
}

/// An association as a NAT sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Association {
    state: State,
    tags: Tags,
}

impl Association {
    fn opening() -> Self {
        Self {
            state: State::Opening,
            tags: Tags::of_init(CLIENT),
        }
    }

    fn established() -> Self {
        let mut association = Self::opening();
        for (direction, packet) in [
            (Out, init_ack(CLIENT, BACKEND)),
            (In, packet(SctpChunks::COOKIE_ECHO, BACKEND)),
            (Out, packet(SctpChunks::COOKIE_ACK, CLIENT)),
        ] {
            assert!(association.send(direction, &packet));
        }
        assert_eq!(association.state, State::Established);
        association
    }

    /// Whether the packet passes, which then counts.
    fn send(&mut self, direction: Direction, packet: &SctpPacket) -> bool {
        let passes = self.tags.pass(self.state, direction, packet);
        if passes {
            self.state = self.tags.advance(self.state, direction, packet);
        }
        passes
    }

    fn tags(&self) -> (u32, u32) {
        (self.tags.of(In), self.tags.of(Out))
    }
}

#[test]
fn an_association_opens_and_closes_by_the_chunks_of_both_ends() {
    use SctpChunks as Kind;
    let mut association = Association::opening();
    let steps = [
        (In, init(CLIENT), State::Opening),
        (Out, init_ack(CLIENT, BACKEND), State::Answered),
        (
            In,
            packet(Kind::COOKIE_ECHO | Kind::OTHER, BACKEND),
            State::Answered,
        ),
        (
            Out,
            packet(Kind::COOKIE_ACK | Kind::OTHER, CLIENT),
            State::Established,
        ),
        (In, packet(Kind::OTHER, BACKEND), State::Established),
        (Out, packet(Kind::OTHER, CLIENT), State::Established),
        (In, packet(Kind::SHUTDOWN, BACKEND), State::HalfClosedByClient),
        // It still has data to send.
        (Out, packet(Kind::OTHER, CLIENT), State::HalfClosedByClient),
        (
            In,
            packet(Kind::SHUTDOWN | Kind::OTHER, BACKEND),
            State::HalfClosedByClient,
        ),
        (Out, packet(Kind::SHUTDOWN_ACK, CLIENT), State::ClosingByBackend),
        (In, packet(Kind::SHUTDOWN_COMPLETE, BACKEND), State::Finished),
        // It did not arrive, and the client has forgotten the association.
        (Out, packet(Kind::SHUTDOWN_ACK, CLIENT), State::Finished),
        (In, reflected(Kind::SHUTDOWN_COMPLETE, CLIENT), State::Finished),
    ];
    for (at, (direction, packet, after)) in steps.into_iter().enumerate() {
        assert!(association.send(direction, &packet), "step {at}");
        assert_eq!(association.state, after, "step {at}");
    }
}

#[test]
fn a_backend_closes_first_and_both_close_at_once() {
    use SctpChunks as Kind;
    let mut association = Association::established();
    assert!(association.send(Out, &packet(Kind::SHUTDOWN, CLIENT)));
    assert_eq!(association.state, State::HalfClosedByBackend);
    // RFC 9260 section 9.2: a SHUTDOWN of both ends is answered by both.
    assert!(association.send(In, &packet(Kind::SHUTDOWN, BACKEND)));
    assert_eq!(association.state, State::HalfClosedByBackend);
    assert!(association.send(In, &packet(Kind::SHUTDOWN_ACK, BACKEND)));
    assert_eq!(association.state, State::ClosingByClient);
    assert!(association.send(Out, &packet(Kind::SHUTDOWN_COMPLETE, CLIENT)));
    assert_eq!(association.state, State::Finished);
}

#[test]
fn who_does_not_know_the_tag_changes_nothing_and_does_not_pass() {
    use SctpChunks as Kind;
    let closing = [
        Kind::ABORT,
        Kind::SHUTDOWN,
        Kind::SHUTDOWN_ACK,
        Kind::SHUTDOWN_COMPLETE,
        Kind::OTHER,
    ];
    for direction in [In, Out] {
        for kinds in closing {
            for packet in [packet(kinds, 0xbad), reflected(kinds, 0xbad), reflected(kinds, 0)] {
                let mut association = Association::established();
                let before = association;
                assert!(!association.send(direction, &packet), "{direction:?} {packet:?}");
                assert_eq!(association, before);
            }
        }
    }
    // Without the T bit the other direction's tag is as wrong as any.
    for (direction, tag) in [(In, CLIENT), (Out, BACKEND)] {
        let mut association = Association::established();
        assert!(!association.send(direction, &packet(Kind::ABORT, tag)));
        assert!(association.send(direction, &reflected(Kind::ABORT, tag)));
        assert_eq!(association.state, State::Reset);
    }
    // A backend opens no association.
    assert!(!Association::established().send(Out, &init(7)));
    // Half open, the backend's tag is not known: nothing but a handshake passes.
    assert!(!Association::opening().send(In, &packet(Kind::ABORT, 0)));
    assert!(!Association::opening().send(In, &packet(Kind::OTHER, BACKEND)));
}

#[test]
fn either_end_aborts_in_every_state() {
    for kinds in [SctpChunks::ABORT, SctpChunks::ABORT | SctpChunks::ERROR] {
        let mut opening = Association::opening();
        assert!(opening.send(Out, &packet(kinds, CLIENT)));
        assert_eq!(opening.state, State::Reset);
        let mut answered = Association::opening();
        assert!(answered.send(Out, &init_ack(CLIENT, BACKEND)));
        assert!(answered.send(In, &packet(kinds, BACKEND)));
        assert_eq!(answered.state, State::Reset);
        for (direction, tag) in [(In, BACKEND), (Out, CLIENT)] {
            let mut open = Association::established();
            assert!(open.send(direction, &packet(kinds, tag)));
            assert_eq!(open.state, State::Reset);
        }
    }
}

/// A server keeps nothing of an INIT, so each INIT ACK may offer another tag.
#[test]
fn the_tag_of_the_cookie_counts_and_not_that_of_the_last_init_ack() {
    for (first, last) in [(1, 2), (2, 1)] {
        let mut association = Association::opening();
        assert!(association.send(Out, &init_ack(CLIENT, 1)));
        assert!(association.send(In, &init(CLIENT)));
        assert!(association.send(Out, &init_ack(CLIENT, 2)));
        assert!(association.send(In, &packet(SctpChunks::COOKIE_ECHO, first)));
        assert_eq!(association.state, State::Answered, "{last}");
        assert!(association.send(Out, &packet(SctpChunks::COOKIE_ACK, CLIENT)));
        assert_eq!(
            (association.state, association.tags()),
            (State::Established, (first, CLIENT))
        );
    }
}

#[test]
fn a_client_that_starts_anew_gets_new_tags_when_the_backend_has_accepted_it() {
    use SctpChunks as Kind;
    let mut association = Association::established();
    let steps = [
        (In, init(3)),
        (Out, init_ack(3, 4)),
        (In, packet(Kind::COOKIE_ECHO, 4)),
    ];
    for (direction, packet) in &steps {
        assert!(association.send(*direction, packet));
        assert_eq!(
            (association.state, association.tags()),
            (State::Established, (BACKEND, CLIENT))
        );
    }
    assert!(association.send(Out, &packet(Kind::COOKIE_ACK, 3)));
    assert_eq!(
        (association.state, association.tags()),
        (State::Established, (4, 3))
    );
    // Lost behind the balancer: it is sent again.
    assert!(association.send(In, &packet(Kind::COOKIE_ECHO, 4)));
    assert!(association.send(Out, &packet(Kind::COOKIE_ACK, 3)));
    assert_eq!(association.tags(), (4, 3));
}

#[test]
fn a_former_association_of_the_port_can_be_closed_while_a_new_one_opens() {
    use SctpChunks as Kind;
    let mut association = Association::opening();
    let before = association;
    assert!(association.send(Out, &packet(Kind::SHUTDOWN_ACK, 0xf0)));
    assert!(association.send(In, &reflected(Kind::SHUTDOWN_COMPLETE, 0xf0)));
    assert_eq!(association, before);
    let mut open = Association::established();
    assert!(!open.send(Out, &packet(Kind::SHUTDOWN_ACK, 0xf0)));
}

#[derive(Debug, Clone, Copy)]
struct Forged(Direction, SctpPacket);

fn forged() -> impl Strategy<Value = Forged> {
    (
        any::<bool>(),
        0_u16..1 << 15,
        any::<bool>(),
        0x1000_u32..0x2000,
        any::<u32>(),
    )
        .prop_map(|(is_out, kinds, is_reflected, tag, initiate_tag)| {
            let packet = SctpPacket {
                tag,
                chunks: SctpChunks(kinds),
                initiate_tag,
                is_reflected,
            };
            Forged(if is_out { Out } else { In }, packet)
        })
}

proptest! {
    /// A sender who guesses wrong tags, but not the answer of a backend, ends no association and takes over none.
    #[test]
    fn forged_packets_change_no_open_association(packets in prop::collection::vec(forged(), 1..40)) {
        let mut association = Association::established();
        let before = association;
        for Forged(direction, packet) in packets {
            // Who can forge what comes from a backend can do more than this.
            if direction == Out && packet.chunks.has(SctpChunks::COOKIE_ACK) {
                continue;
            }
            association.send(direction, &packet);
            prop_assert_eq!((association.state, association.tags()), (before.state, before.tags()));
        }
        // It goes on, and ends by its own ends.
        prop_assert!(association.send(In, &packet(SctpChunks::SHUTDOWN, BACKEND)));
        prop_assert!(association.send(Out, &packet(SctpChunks::SHUTDOWN_ACK, CLIENT)));
        prop_assert!(association.send(In, &packet(SctpChunks::SHUTDOWN_COMPLETE, BACKEND)));
        prop_assert_eq!(association.state, State::Finished);
    }
}
