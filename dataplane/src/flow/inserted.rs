//! Bytes that the balancer inserts at the start of a client's stream, and the two sequences of numbers that follow.
//!
//! ```text
//! client's numbers           ISS  F                    F + n
//! client's stream                 [ n bytes ...       )
//! backend's stream                [ header )[ n bytes ...       )
//! backend's numbers          ISS  F         F + length          F + length + n
//! ```
//!
//! The state of a flow ([`super::tcp`]) is in the client's numbers. Until the backend has acknowledged the header, numbers
//! inside of it are F to the client, so that it sends its first bytes again, with the header, when the header was lost.
//! From then on both sequences are `length` apart, and F is no longer needed.

use crate::packet::{ProxyHeader, TcpSegment};

use super::entry::HotEntry;
use super::lifecycle::Flows;
use super::state::{Direction, State};
use super::table::FlowId;

/// Where the inserted bytes of a flow are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// The number of the first byte; means nothing once they are acknowledged.
    first: u32,
    length: u32,
    acknowledged: bool,
}

/// How a client's segment goes to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// With this sequence number.
    Numbered(u32),
    /// With its own number, and the inserted bytes before its payload.
    BehindHeader,
    /// A SYN: with its own number, without its payload.
    Bare,
}

impl Inserted {
    /// The backend's number for what is `number` to the client.
    pub(crate) const fn to_backend(self, number: u32) -> u32 {
        if !self.acknowledged && distance(number, self.first) < 0 {
            return number;
        }
        number.wrapping_add(self.length)
    }

    /// The client's number for what is `number` to the backend.
    pub(crate) const fn to_client(self, number: u32) -> u32 {
        if self.acknowledged {
            return number.wrapping_sub(self.length);
        }
        let into = distance(number, self.first);
        if into <= 0 {
            number
        } else if into <= self.length.cast_signed() {
            self.first
        } else {
            number.wrapping_sub(self.length)
        }
    }

    /// How many of the inserted bytes an acknowledgment of the backend leaves: so much of its window is theirs.
    pub(crate) const fn unacknowledged(&self, acknowledgment: u32) -> u32 {
        if self.acknowledged {
            return 0;
        }
        let into = distance(acknowledgment, self.first);
        if into <= 0 {
            self.length
        } else {
            self.length.saturating_sub(into.unsigned_abs())
        }
    }

    /// How a segment that continues behind the SYN goes to the backend. `state` is the flow's, `end` the number behind what
    /// the client has sent.
    pub(crate) const fn passage(&self, segment: &TcpSegment, state: State, end: u32) -> Passage {
        let number = segment.sequence;
        if segment.flags.syn() {
            return if segment.payload > 0 {
                Passage::Bare
            } else {
                Passage::Numbered(number)
            };
        }
        if self.acknowledged || number != self.first {
            return Passage::Numbered(self.to_backend(number));
        }
        let is_open = !matches!(state, State::Opening | State::Answered);
        if segment.flags.rst() {
            // It has to be exact (RFC 5961 section 3.2): the backend has the header, most probably. If not, it asks
            // by a challenge ACK, and the client repeats the RST.
            let has_header = is_open && !matches!(state, State::Reset);
            return Passage::Numbered(if has_header {
                self.to_backend(number)
            } else {
                number
            });
        }
        // The first data behind the header that has just been sent. If the header is lost they come again, as no new ones.
        let is_new = is_open && segment.payload > 0 && number == end;
        if !segment.flags.ack() || matches!(state, State::Opening) || is_new {
            return Passage::Numbered(self.to_backend(number));
        }
        Passage::BehindHeader
    }
}

impl Flows {
    /// Where the inserted bytes of a flow are that has some.
    pub(crate) fn inserted(&self, id: FlowId) -> Inserted {
        let entry = self.table.entry(id);
        Inserted {
            first: self.first_numbers[id.index()],
            length: header_len(entry),
            acknowledged: entry.is_header_acknowledged(),
        }
    }

    /// How a client's segment of such a flow goes to the backend. A SYN that opens says where the inserted bytes begin.
    pub(crate) fn passage(&mut self, id: FlowId, segment: &TcpSegment) -> Passage {
        let entry = self.table.entry(id);
        let (state, end) = (entry.state(), entry.sequence.end(Direction::In));
        if state == State::Opening && segment.flags.syn() {
            self.first_numbers[id.index()] = segment.sequence.wrapping_add(1);
        }
        self.inserted(id).passage(segment, state, end)
    }

    /// Takes in an acknowledgment of the backend of such a flow, and returns where the inserted bytes are from now on. Its
    /// SYN says where they begin.
    pub(crate) fn note_acknowledged(&mut self, id: FlowId, segment: &TcpSegment) -> Inserted {
        let state = self.table.entry(id).state();
        let inserted = self.inserted(id);
        if !segment.flags.ack() {
            return inserted;
        }
        if segment.flags.syn() {
            if matches!(state, State::Opening | State::Answered) {
                self.first_numbers[id.index()] = segment.acknowledgment;
            }
        } else if state != State::Opening && inserted.unacknowledged(segment.acknowledgment) == 0 {
            self.table.entry_mut(id).note_header_acknowledged();
        }
        self.inserted(id)
    }
}

/// The length of the bytes inserted into the stream of a flow's client.
#[expect(clippy::cast_possible_truncation, reason = "52 at most")]
pub(super) fn header_len(entry: &HotEntry) -> u32 {
    ProxyHeader::len_for(&entry.client) as u32
}

/// How far `to` is ahead of `from`; negative if it is behind (RFC 9293 section 3.4).
const fn distance(to: u32, from: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::TcpFlags;
    use crate::testing::builder::flags;

    const LENGTH: u32 = 28;

    const fn inserted(first: u32, acknowledged: bool) -> Inserted {
        Inserted {
            first,
            length: LENGTH,
            acknowledged,
        }
    }

    #[test]
    fn numbers_are_the_headers_length_apart_behind_it_and_equal_before() {
        for first in [1_000, u32::MAX - 10, 5, 0] {
            let at = |offset: i32| first.wrapping_add_signed(offset);
            let pending = inserted(first, false);
            for (client, backend) in [(-1, -1), (0, 28), (1, 29), (70_000, 70_028)] {
                assert_eq!(pending.to_backend(at(client)), at(backend), "{client}");
            }
            for (backend, client) in [
                (-1, -1),
                (0, 0),
                (1, 0),
                (27, 0),
                (28, 0),
                (29, 1),
                (70_028, 70_000),
            ] {
                assert_eq!(pending.to_client(at(backend)), at(client), "{backend}");
            }
            for (acknowledged, left) in [(-1, 28), (0, 28), (1, 27), (27, 1), (28, 0), (1_000, 0)] {
                assert_eq!(pending.unacknowledged(at(acknowledged)), left, "{acknowledged}");
            }
            // Wherever the connection is by then, also after 2 GB.
            let done = inserted(first, true);
            for number in [0, 1, i32::MAX, i32::MIN] {
                assert_eq!(done.to_backend(at(number)), at(number).wrapping_add(LENGTH));
                assert_eq!(done.to_client(done.to_backend(at(number))), at(number));
                assert_eq!(done.unacknowledged(at(number)), 0);
            }
        }
    }

    #[test]
    fn the_header_goes_with_what_begins_the_stream_unless_it_was_just_sent() {
        use Passage::{Bare, BehindHeader, Numbered};
        use flags::{ACK, FIN, RST, SYN};
        let (before, first) = (999, 1_000);
        let moved = first + LENGTH;
        for (case, bits, number, payload, state, end, expected) in [
            (
                "the handshake's ACK",
                ACK,
                first,
                0,
                State::Answered,
                first,
                BehindHeader,
            ),
            (
                "data in place of it",
                ACK,
                first,
                9,
                State::Answered,
                first,
                BehindHeader,
            ),
            (
                "the ACK again",
                ACK,
                first,
                0,
                State::Established,
                first,
                BehindHeader,
            ),
            (
                "new data",
                ACK,
                first,
                9,
                State::Established,
                first,
                Numbered(moved),
            ),
            (
                "data again",
                ACK,
                first,
                9,
                State::Established,
                first + 9,
                BehindHeader,
            ),
            (
                "later data",
                ACK,
                first + 9,
                9,
                State::Established,
                first + 9,
                Numbered(moved + 9),
            ),
            (
                "no data at all",
                ACK | FIN,
                first,
                0,
                State::Established,
                first,
                BehindHeader,
            ),
            (
                "a keep-alive",
                ACK,
                before,
                0,
                State::Established,
                first,
                Numbered(before),
            ),
            ("a SYN", SYN, before, 0, State::Opening, 0, Numbered(before)),
            ("a SYN with data", SYN, before, 9, State::Opening, 0, Bare),
            ("no ACK", 0, first, 9, State::Answered, first, Numbered(moved)),
            (
                "before the SYN-ACK",
                ACK,
                first,
                9,
                State::Opening,
                first,
                Numbered(moved),
            ),
            (
                "RST before the header",
                RST,
                first,
                0,
                State::Answered,
                first,
                Numbered(first),
            ),
            (
                "RST behind it",
                RST,
                first,
                0,
                State::Established,
                first,
                Numbered(moved),
            ),
            ("RST again", RST, first, 0, State::Reset, first, Numbered(first)),
        ] {
            let segment = TcpSegment {
                flags: TcpFlags(bits),
                sequence: number,
                acknowledgment: 7,
                payload,
            };
            assert_eq!(
                inserted(first, false).passage(&segment, state, end),
                expected,
                "{case}"
            );
        }
        let again = TcpSegment {
            flags: TcpFlags(ACK),
            sequence: first,
            acknowledgment: 7,
            payload: 9,
        };
        assert_eq!(
            inserted(first, true).passage(&again, State::Established, first + 9),
            Numbered(moved),
            "an acknowledged header is not sent again"
        );
    }
}
