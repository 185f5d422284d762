//! The TCP state of a flow, as far as a generator needs it (RFC 9293).

use crate::frame::template::Segment;
use crate::frame::{Layout, be32, flags};
use crate::load::tally::Errors;

/// The first sequence number of each connection.
const FIRST_SEQUENCE: u32 = 1_000_000;

/// A connection of segments made here: no retransmission, no window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connection {
    pub(super) established: bool,
    /// The next sequence number to send.
    sequence: u32,
    /// The next one expected from the other side.
    acknowledgment: u32,
}

impl Connection {
    pub(super) const fn new() -> Self {
        Self {
            established: false,
            sequence: FIRST_SEQUENCE,
            acknowledgment: 0,
        }
    }

    /// The first segment of the handshake.
    pub(super) const SYN: Segment = Segment {
        flags: flags::SYN,
        sequence: FIRST_SEQUENCE,
        acknowledgment: 0,
    };

    /// The last segment of the handshake.
    pub(super) const fn acknowledge(&mut self) -> Segment {
        self.sequence = FIRST_SEQUENCE.wrapping_add(1);
        self.segment(flags::ACK)
    }

    /// A segment with `length` bytes of data.
    pub(super) const fn data(&mut self, length: u32) -> Segment {
        let segment = self.segment(flags::PSH | flags::ACK);
        self.sequence = self.sequence.wrapping_add(length);
        segment
    }

    /// The segment that closes the connection.
    pub(super) const fn reset(&self) -> Segment {
        self.segment(flags::RST | flags::ACK)
    }

    const fn segment(&self, flags: u8) -> Segment {
        Segment {
            flags,
            sequence: self.sequence,
            acknowledgment: self.acknowledgment,
        }
    }

    /// Follows a received segment.
    pub(super) fn receive(&mut self, frame: &[u8], layout: &Layout, errors: &mut Errors) {
        let received = frame[layout.transport + 13];
        if received & flags::RST != 0 {
            errors.reset += 1;
            return;
        }
        let syn = received & flags::SYN != 0;
        let length = u32::try_from(layout.end - layout.payload).unwrap_or(0) + u32::from(syn);
        let end = be32(frame, layout.transport + 4).wrapping_add(length);
        self.established |= syn && received & flags::ACK != 0;
        // Not backwards: numbers are compared modulo 2^32 (section 3.4).
        if syn || end.wrapping_sub(self.acknowledgment) < 1 << 31 {
            self.acknowledgment = end;
        }
    }
}
