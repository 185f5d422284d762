//! The frames of fragments that wait for the first one of their datagram.

use crate::pipeline::{Origin, Ticket};
use crate::port::{Frame, packet_frames};

/// Packets that wait, in the order in which they came. The engine bounds their number.
#[derive(Debug)]
pub(super) struct Waiting<F> {
    frames: Vec<F>,
    /// Of each packet.
    tickets: Vec<(Ticket, Origin)>,
}

impl<F: Frame> Waiting<F> {
    pub(super) fn new() -> Self {
        Self {
            frames: Vec::with_capacity(256),
            tickets: Vec::with_capacity(256),
        }
    }

    /// Keeps a packet, which came in by `origin`.
    pub(super) fn keep(&mut self, ticket: Ticket, origin: Origin, packet: impl Iterator<Item = F>) {
        self.frames.extend(packet);
        self.tickets.push((ticket, origin));
    }

    /// Moves the oldest packet with this ticket to `packet` and returns how it came in. O(waiting packets).
    pub(super) fn take(&mut self, ticket: Ticket, packet: &mut Vec<F>) -> Option<Origin> {
        let index = self.tickets.iter().position(|&(own, _)| own == ticket)?;
        let mut start = 0;
        for _ in 0..index {
            start += packet_frames(&self.frames[start..]);
        }
        let length = packet_frames(&self.frames[start..]);
        packet.extend(self.frames.drain(start..start + length));
        Some(self.tickets.remove(index).1)
    }

    /// All frames, for the end.
    pub(super) fn into_frames(self) -> Vec<F> {
        self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemFrame, frame, frames_of};

    fn take(waiting: &mut Waiting<MemFrame>, ticket: u32) -> Option<(Origin, Vec<Vec<u8>>)> {
        let mut packet = Vec::new();
        let origin = waiting.take(Ticket(ticket), &mut packet)?;
        Some((
            origin,
            packet.iter().map(|frame| frame.bytes().to_vec()).collect(),
        ))
    }

    #[test]
    fn packets_are_returned_whole_by_ticket_and_in_order() {
        let mut waiting = Waiting::new();
        waiting.keep(Ticket(7), Origin::Queue, frames_of(b"abcd", 2).into_iter());
        waiting.keep(Ticket(8), Origin::Handoff, std::iter::once(frame(b"e")));
        waiting.keep(Ticket(7), Origin::Handoff, std::iter::once(frame(b"f")));
        assert_eq!(take(&mut waiting, 9), None);
        let whole = vec![b"ab".to_vec(), b"cd".to_vec()];
        assert_eq!(take(&mut waiting, 7), Some((Origin::Queue, whole)));
        assert_eq!(
            take(&mut waiting, 7),
            Some((Origin::Handoff, vec![b"f".to_vec()]))
        );
        assert_eq!(take(&mut waiting, 7), None);
        let left: Vec<_> = waiting.into_frames();
        assert_eq!(left.iter().map(Frame::bytes).collect::<Vec<_>>(), [b"e"]);
    }
}
