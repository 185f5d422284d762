//! Per-flow packet and byte counters, and the time of opening.

use vl3lb_common::Timestamp;
use zerocopy::{FromBytes, IntoBytes};

use super::state::Direction;

/// Packet and byte counters: half a cache line. They saturate at 2^40 - 1 packets and 2^48 - 1 bytes;
/// those of services and backends do not.
///
/// A number is in two pieces, so that three of six bytes and two of five fit. Nearly always counting is one
/// addition to the lower piece.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes)]
#[repr(C, align(32))]
pub(crate) struct ColdEntry {
    /// A finished flow's successor in the queue of its backend, or a free entry's in the list of
    /// free ones; plus one, 0 for none.
    pub(super) next: u32,
    packets: [u32; 2],
    bytes: [u32; 2],
    /// Microseconds on the workers' clock.
    created: u32,
    created_upper: u16,
    bytes_upper: [u16; 2],
    packets_upper: [u8; 2],
}

const _: () = assert!(size_of::<ColdEntry>() == 32);

impl ColdEntry {
    #[expect(clippy::cast_possible_truncation, reason = "the two pieces")]
    pub(super) const fn new(now: Timestamp) -> Self {
        let micros = now.0 / 1000;
        Self {
            next: 0,
            packets: [0; 2],
            bytes: [0; 2],
            created: micros as u32,
            created_upper: (micros >> u32::BITS) as u16,
            bytes_upper: [0; 2],
            packets_upper: [0; 2],
        }
    }

    /// When the flow was opened, in whole microseconds.
    #[inline]
    pub(crate) fn created(&self) -> Timestamp {
        Timestamp(whole(self.created, self.created_upper) * 1000)
    }

    /// Packets that went in `direction`.
    #[inline]
    pub(crate) fn packets(&self, direction: Direction) -> u64 {
        let at = direction as usize;
        whole(self.packets[at], self.packets_upper[at])
    }

    /// Bytes that went in `direction`, of IP packets.
    #[inline]
    pub(crate) fn bytes(&self, direction: Direction) -> u64 {
        let at = direction as usize;
        whole(self.bytes[at], self.bytes_upper[at])
    }

    /// Counts one packet. Returns the number of packets in this direction, modulo 2^32.
    #[inline(always)]
    pub(crate) fn count(&mut self, direction: Direction, bytes: u32) -> u32 {
        let at = direction as usize;
        let (packets, carry) = self.packets[at].overflowing_add(1);
        self.packets[at] = packets;
        if carry {
            self.carry_packets(at);
        }
        let (bytes, carry) = self.bytes[at].overflowing_add(bytes);
        self.bytes[at] = bytes;
        if carry {
            self.carry_bytes(at);
        }
        self.packets[at]
    }

    /// Counts `packets` of `bytes` together.
    #[expect(clippy::cast_possible_truncation, reason = "the two pieces")]
    pub(crate) fn add(&mut self, direction: Direction, packets: u64, bytes: u64) {
        let at = direction as usize;
        let packets = self.packets(direction).saturating_add(packets).min((1 << 40) - 1);
        (self.packets[at], self.packets_upper[at]) = (packets as u32, (packets >> u32::BITS) as u8);
        let bytes = self.bytes(direction).saturating_add(bytes).min((1 << 48) - 1);
        (self.bytes[at], self.bytes_upper[at]) = (bytes as u32, (bytes >> u32::BITS) as u16);
    }

    /// Takes back a packet that was counted and then not sent.
    #[expect(clippy::cast_possible_truncation, reason = "the two pieces")]
    pub(crate) fn uncount(&mut self, direction: Direction, bytes: u32) {
        let at = direction as usize;
        let packets = self.packets(direction).saturating_sub(1);
        (self.packets[at], self.packets_upper[at]) = (packets as u32, (packets >> u32::BITS) as u8);
        let bytes = self.bytes(direction).saturating_sub(bytes.into());
        (self.bytes[at], self.bytes_upper[at]) = (bytes as u32, (bytes >> u32::BITS) as u16);
    }

    #[cold]
    fn carry_packets(&mut self, at: usize) {
        match self.packets_upper[at].checked_add(1) {
            Some(upper) => self.packets_upper[at] = upper,
            None => self.packets[at] = u32::MAX,
        }
    }

    #[cold]
    fn carry_bytes(&mut self, at: usize) {
        match self.bytes_upper[at].checked_add(1) {
            Some(upper) => self.bytes_upper[at] = upper,
            None => self.bytes[at] = u32::MAX,
        }
    }
}

#[inline]
fn whole(lower: u32, upper: impl Into<u64>) -> u64 {
    upper.into() << u32::BITS | u64::from(lower)
}

impl std::fmt::Debug for ColdEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let both = [Direction::In, Direction::Out];
        f.debug_struct("ColdEntry")
            .field("created", &self.created())
            .field("packets", &both.map(|direction| self.packets(direction)))
            .field("bytes", &both.map(|direction| self.bytes(direction)))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{In, Out};

    #[test]
    fn directions_are_counted_apart() {
        let mut entry = ColdEntry::new(Timestamp(1_234_567));
        entry.count(In, 60);
        entry.count(Out, 1500);
        entry.count(Out, 1500);
        assert_eq!((entry.packets(In), entry.bytes(In)), (1, 60));
        assert_eq!((entry.packets(Out), entry.bytes(Out)), (2, 3000));
        assert_eq!(entry.created(), Timestamp(1_234_000));
    }

    #[test]
    fn the_time_of_opening_lasts_for_years() {
        let years = Timestamp(8 * 365 * 86_400 * 1_000_000_000);
        assert_eq!(ColdEntry::new(years).created(), years);
    }

    #[test]
    fn counters_carry_into_their_upper_piece() {
        let mut entry = ColdEntry::new(Timestamp(0));
        for at in [0, 1] {
            (entry.packets[at], entry.bytes[at]) = (u32::MAX, u32::MAX - 9);
        }
        entry.count(Out, 60);
        assert_eq!((entry.packets(Out), entry.bytes(Out)), (1 << 32, (1 << 32) + 50));
        assert_eq!(
            (entry.packets(In), entry.bytes(In)),
            ((1 << 32) - 1, (1 << 32) - 10)
        );
    }

    #[test]
    fn a_packet_is_taken_back_over_the_border_of_the_pieces() {
        let mut entry = ColdEntry::new(Timestamp(0));
        (entry.packets[1], entry.bytes[1]) = (u32::MAX, u32::MAX - 9);
        let before = entry;
        entry.count(Out, 60);
        entry.uncount(Out, 60);
        assert_eq!(entry, before);
        entry.uncount(In, 60);
        assert_eq!((entry.packets(In), entry.bytes(In)), (0, 0));
    }

    #[test]
    fn counters_saturate() {
        let mut entry = ColdEntry::new(Timestamp(0));
        (entry.packets[0], entry.packets_upper[0]) = (u32::MAX - 1, u8::MAX);
        (entry.bytes[0], entry.bytes_upper[0]) = (u32::MAX - 1, u16::MAX);
        for _ in 0..3 {
            entry.count(In, 60);
            assert_eq!(entry.packets(In), (1 << 40) - 1);
        }
        assert!(entry.bytes(In) >= (1 << 48) - 100);
    }
}
