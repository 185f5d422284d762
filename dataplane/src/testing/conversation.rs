//! The sequence numbers of a TCP connection, as two hosts choose them.

use super::builder::{Tcp, flags};
use crate::flow::Direction;
use crate::packet::{TcpFlags, TcpSegment};

/// A connection whose segments all arrive, in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// By sender: the next sequence number.
    next: [u32; 2],
}

impl Default for Conversation {
    fn default() -> Self {
        Self::new(1_000, 3_000_000_000)
    }
}

impl Conversation {
    /// With these initial sequence numbers: the client's, the backend's.
    pub(crate) const fn new(client: u32, backend: u32) -> Self {
        Self {
            next: [client, backend],
        }
    }

    /// The sequence number that the next segment of `sender` begins with.
    pub(crate) const fn next(&self, sender: Direction) -> u32 {
        self.next[sender as usize]
    }

    /// The next segment in `direction`, with these flags.
    pub(crate) const fn segment(&mut self, direction: Direction, bits: u8, payload: u32) -> TcpSegment {
        let acknowledgment = if bits & flags::ACK == 0 {
            0
        } else {
            self.next(direction.opposite())
        };
        let segment = TcpSegment {
            flags: TcpFlags(bits),
            sequence: self.next(direction),
            acknowledgment,
            payload,
        };
        if !segment.flags.rst() {
            self.next[direction as usize] = segment.end();
        }
        segment
    }

    /// The header of [`segment`](Self::segment).
    pub(crate) fn header(&mut self, direction: Direction, bits: u8, payload: usize) -> Tcp<'static> {
        let payload = u32::try_from(payload).expect("a packet's payload");
        let segment = self.segment(direction, bits, payload);
        Tcp {
            flags: bits,
            sequence: segment.sequence,
            acknowledgment: segment.acknowledgment,
            options: &[],
        }
    }
}
