//! The sequence numbers of a TCP flow: what its segments are judged with, so that a sender who cannot see the connection
//! cannot change its state.
//!
//! One number per direction: the end of what was sent in order. A segment that begins there continues the connection,
//! and to guess the number takes 2^31 attempts on average, as many as a receiver that follows RFC 5961 demands for a
//! RST. Nearly all segments do continue, so an established flow costs two comparisons and one store per packet.
//!
//! Segments can be lost, or change their order, before they come here. Then the number moves
//! - with a segment that ends ahead of it, within the receiver's largest window, and acknowledges what the other end has
//!   sent to within a window: a forger must hit both (RFC 5961 section 5), or
//! - with an acknowledgment by the other end, in a segment that itself continues the connection.
//!
//! Old segments (retransmissions, keep-alives, probes of a zero window) move nothing.

use vl3lb_common::{Duration, Timestamp};
use zerocopy::{FromBytes, IntoBytes};

use super::state::{Direction, State};
use crate::packet::{TcpFlags, TcpSegment};

/// How far the client's first segment that gets here may be from its SYN.
const NEAR: u32 = 0xffff;
/// Windows count up to here, though RFC 7323 allows 1 GB: a larger gap is closed by the acknowledgment of it.
const LARGEST_WINDOW: u32 = 1 << 24;

/// In [`Sequence::scales`]: the SYN offered no window scale, or there was none yet.
const NO_SCALE: u8 = 0xf;

/// In [`Sequence::notes`]: the code of the state that a reset flow had.
const FORMER: u8 = 0xf;
/// In [`Sequence::notes`]: the backend reset the flow, else the client.
const RESET_BY_BACKEND: u8 = 0x10;
/// In [`Sequence::notes`]: the backend sent FIN before the client had confirmed the connection.
const EARLY_FIN: u8 = 0x20;
/// In [`Sequence::notes`]: the flow has finished, and the backend has the connection in TIME-WAIT.
const TIME_WAIT: u8 = 0x40;
/// In [`Sequence::notes`], with [`TIME_WAIT`]: the client sent timestamps; in place of the backend's number is the last
/// one of these that the backend had.
const TIMESTAMPED: u8 = 0x80;
/// How long a host keeps a connection in TIME-WAIT: Linux's time, the longest in use.
const TIME_WAIT_LENGTH: Duration = Duration::from_secs(60);

/// The sequence numbers of one TCP flow: twelve bytes of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes)]
#[repr(C)]
pub(crate) struct Sequence {
    /// By sender: the number behind what it has sent.
    end: [u32; 2],
    /// While opening, bytes of data in the SYN; after the SYN-ACK, bytes that the backend has sent since (RFC 7413). In
    /// TIME-WAIT, the second in which it began.
    early: u16,
    /// The window scales of both SYNs, the client's in the low half.
    scales: u8,
    notes: u8,
}

const _: () = assert!(size_of::<Sequence>() == 12);

/// What a host in TIME-WAIT judges a SYN by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SynNumbers {
    pub sequence: u32,
    /// TSval of RFC 7323.
    pub timestamp: Option<u32>,
}

/// Where a segment is in its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It begins where the last one ended.
    Next,
    /// It ends ahead of that, within the window, and knows what the other end has sent.
    Ahead,
    /// It ends before that, at most a window.
    Old,
    /// Nothing that this connection's sender would send.
    Outside,
}

impl Sequence {
    /// Before the first segment.
    pub(super) const NEW: Self = Self {
        end: [0; 2],
        early: 0,
        scales: NO_SCALE << 4 | NO_SCALE,
        notes: 0,
    };

    /// Of an open connection whose ends use no window scale.
    #[cfg(test)]
    pub(crate) const fn open_at(end: [u32; 2]) -> Self {
        Self { end, ..Self::NEW }
    }

    /// The number behind what `sender` has sent.
    #[inline]
    pub(crate) const fn end(&self, sender: Direction) -> u32 {
        self.end[sender as usize]
    }

    /// Whether a segment is the next one of an open connection and says nothing new about its state. Takes it in then.
    #[inline(always)]
    pub(super) const fn continues(&mut self, direction: Direction, segment: &TcpSegment) -> bool {
        const JUDGED: u8 = TcpFlags::FIN | TcpFlags::SYN | TcpFlags::RST | TcpFlags::ACK;
        let ahead = distance(segment.acknowledgment, self.end[direction.opposite() as usize]) > 0;
        let end = &mut self.end[direction as usize];
        if segment.flags.0 & JUDGED != TcpFlags::ACK || segment.sequence != *end || ahead {
            return false;
        }
        *end = segment.sequence.wrapping_add(segment.payload);
        true
    }

    /// The client's SYN, the first one or another.
    pub(super) const fn open(&mut self, syn: &TcpSegment) {
        self.end[Direction::In as usize] = syn.end();
        self.early = saturated(syn.payload);
    }

    /// The backend's SYN.
    pub(super) const fn answer(&mut self, syn: &TcpSegment) {
        self.end[Direction::Out as usize] = syn.end();
        // The backend knows best which SYN it answers. Data in it that is not acknowledged is sent again.
        if syn.flags.ack() {
            self.end[Direction::In as usize] = syn.acknowledgment;
        }
        self.early = 0;
    }

    /// Whether an answer to the SYN acknowledges it, with its data or without (RFC 9293 section 3.10.7.3).
    pub(super) const fn acknowledges_syn(&self, answer: &TcpSegment) -> bool {
        let unacknowledged = self.end[Direction::In as usize].wrapping_sub(answer.acknowledgment);
        answer.flags.ack() && unacknowledged <= self.early as u32
    }

    /// A segment of the backend after its SYN, before the client has confirmed it.
    pub(super) fn send_early(&mut self, segment: &TcpSegment) {
        if segment.sequence != self.end(Direction::Out) {
            return;
        }
        let end = segment.end();
        self.early = self
            .early
            .saturating_add(saturated(end.wrapping_sub(segment.sequence)));
        self.end[Direction::Out as usize] = end;
        if segment.flags.fin() {
            self.notes |= EARLY_FIN;
        }
    }

    /// Whether a segment of the client acknowledges the backend's SYN (RFC 9293 section 3.10.7.4: else it does not
    /// establish the connection). Takes it in then.
    pub(super) const fn confirm(&mut self, segment: &TcpSegment) -> bool {
        let unacknowledged = self.end[Direction::Out as usize].wrapping_sub(segment.acknowledgment);
        let end = &mut self.end[Direction::In as usize];
        let is_near = distance(segment.sequence, *end).unsigned_abs() <= NEAR;
        if !segment.flags.ack() || unacknowledged > self.early as u32 || !is_near {
            return false;
        }
        if distance(segment.end(), *end) > 0 {
            *end = segment.end();
        }
        true
    }

    /// Whether the backend has sent FIN before the client had confirmed the connection.
    pub(super) const fn is_early_fin(&self) -> bool {
        self.notes & EARLY_FIN != 0
    }

    /// Where a segment of an open connection is.
    pub(super) const fn judge(&self, direction: Direction, segment: &TcpSegment) -> Fit {
        let end = self.end[direction as usize];
        if segment.sequence == end {
            return Fit::Next;
        }
        let moved = distance(segment.end(), end);
        let in_window = moved.unsigned_abs() <= self.window(direction.opposite());
        match (in_window, moved > 0) {
            (true, true) if self.knows_other_end(direction, segment) => Fit::Ahead,
            (true, false) => Fit::Old,
            _ => Fit::Outside,
        }
    }

    /// Takes in what a segment with this judgement sends.
    pub(super) const fn follow(&mut self, fit: Fit, direction: Direction, segment: &TcpSegment) {
        if matches!(fit, Fit::Next | Fit::Ahead) {
            self.end[direction as usize] = segment.end();
        }
    }

    /// Takes in what a segment with this judgement acknowledges, if not all of it was seen.
    pub(super) const fn catch_up(&mut self, fit: Fit, direction: Direction, segment: &TcpSegment) {
        let acknowledged = distance(segment.acknowledgment, self.end[direction.opposite() as usize]);
        if matches!(fit, Fit::Next)
            && segment.flags.ack()
            && acknowledged > 0
            && acknowledged.unsigned_abs() <= self.window(direction)
        {
            self.end[direction.opposite() as usize] = segment.acknowledgment;
        }
    }

    /// Whether a segment acknowledges everything that the other end has sent.
    pub(super) const fn acknowledges_all(&self, direction: Direction, segment: &TcpSegment) -> bool {
        segment.flags.ack() && segment.acknowledgment == self.end[direction.opposite() as usize]
    }

    /// Notes the window scale option of a SYN. It counts only if both have it (RFC 7323 section 2.2).
    pub(super) fn note_scale(&mut self, sender: Direction, scale: Option<u8>) {
        let scale = scale.unwrap_or(NO_SCALE);
        self.scales = match sender {
            Direction::In => self.scales & 0xf0 | scale,
            Direction::Out => scale << 4 | self.scales & 0xf,
        };
    }

    /// The shift of the windows that `sender` offers behind its SYN.
    pub(crate) const fn scale(&self, sender: Direction) -> u8 {
        let (client, backend) = (self.scales & 0xf, self.scales >> 4);
        match sender {
            _ if client == NO_SCALE || backend == NO_SCALE => 0,
            Direction::In => client,
            Direction::Out => backend,
        }
    }

    /// Takes in what the in-kernel path has judged by the same rules: by direction, the number behind what was sent, and
    /// what was acknowledged.
    pub(crate) fn take_in(&mut self, ends: [u32; 2], acknowledged: [u32; 2]) {
        for direction in [Direction::In, Direction::Out] {
            let known = &mut self.end[direction as usize];
            for end in [
                ends[direction as usize],
                acknowledged[direction.opposite() as usize],
            ] {
                if distance(end, *known) > 0 {
                    *known = end;
                }
            }
        }
    }

    /// The largest window that `receiver` can offer, in bytes.
    pub(super) const fn window(&self, receiver: Direction) -> u32 {
        let (client, backend) = (self.scales & 0xf, self.scales >> 4);
        if client == NO_SCALE || backend == NO_SCALE {
            return 0xffff;
        }
        let scale = match receiver {
            Direction::In => client,
            Direction::Out => backend,
        };
        let window = 0xffff << scale;
        if window < LARGEST_WINDOW {
            window
        } else {
            LARGEST_WINDOW
        }
    }

    const fn knows_other_end(&self, direction: Direction, segment: &TcpSegment) -> bool {
        let end = self.end[direction.opposite() as usize];
        segment.flags.ack() && distance(segment.acknowledgment, end).unsigned_abs() <= self.window(direction)
    }

    /// Notes that the backend has the connection, which has just finished, in TIME-WAIT, and the last timestamp that it
    /// had of the client. It had `inserted` bytes more than the client has sent.
    pub(super) const fn begin_time_wait(&mut self, inserted: u32, timestamp: Option<u32>, now: Timestamp) {
        self.notes = TIME_WAIT;
        let end = &mut self.end[Direction::In as usize];
        *end = end.wrapping_add(inserted);
        self.early = seconds(now);
        if let Some(timestamp) = timestamp {
            self.notes |= TIMESTAMPED;
            self.end[Direction::Out as usize] = timestamp;
        }
    }

    /// Whether the backend would refuse another client's SYN in place of this connection, because it has that in
    /// TIME-WAIT and takes the SYN for an old one (RFC 1122 section 4.2.2.13, RFC 6191 section 2, as Linux has them). It
    /// answers with an ACK then, the client with RST, and the client tries again after a second.
    pub(super) const fn refuses(&self, syn: &SynNumbers, now: Timestamp) -> bool {
        let waits = self.notes & TIME_WAIT != 0;
        if !waits || seconds(now).wrapping_sub(self.early) as u64 > TIME_WAIT_LENGTH.as_secs() {
            return false;
        }
        let by_number = distance(syn.sequence, self.end[Direction::In as usize]);
        let progress = match syn.timestamp {
            Some(timestamp) if self.notes & TIMESTAMPED != 0 => {
                match distance(timestamp, self.end[Direction::Out as usize]) {
                    0 => by_number,
                    progress => progress,
                }
            }
            _ => by_number,
        };
        progress <= 0
    }

    /// Notes who reset the flow, and in which state it was.
    pub(super) const fn note_reset(&mut self, former: State, by: Direction) {
        let by = match by {
            Direction::In => 0,
            Direction::Out => RESET_BY_BACKEND,
        };
        self.notes = self.notes & EARLY_FIN | by | former as u8;
    }

    /// The state that a reset flow had, and who reset it.
    pub(super) const fn reset(&self) -> (State, Direction) {
        let by = if self.notes & RESET_BY_BACKEND == 0 {
            Direction::In
        } else {
            Direction::Out
        };
        (State::from_code(self.notes & FORMER), by)
    }
}

/// How far `to` is ahead of `from`; negative if it is behind. Numbers wrap around (RFC 9293 section 3.4).
const fn distance(to: u32, from: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "wraps around after 18 hours, and flows that are over do not live so long"
)]
const fn seconds(now: Timestamp) -> u16 {
    (now.0 / 1_000_000_000) as u16
}

#[expect(clippy::cast_possible_truncation, reason = "checked before")]
const fn saturated(bytes: u32) -> u16 {
    if bytes > u16::MAX as u32 {
        u16::MAX
    } else {
        bytes as u16
    }
}
