//! The part of a flow that every packet reads. Its counters are in [`super::counters`], and the address that it is
//! translated to in [`super::endpoint`].

use vl3lb_common::snapshot::MAX_BACKENDS;
use vl3lb_common::{BackendSlot, Duration, ServiceSlot, Timestamp};
use zerocopy::{FromBytes, IntoBytes};

use super::affinity::AffinityEpoch;
use super::endpoint::EndpointId;
use super::key::RequestKey;
use super::open::NewFlow;
use super::sctp::Tags;
use super::sequence::Sequence;
use super::state::{Direction, Lifetimes, State};

/// Nanoseconds in the unit of deadlines.
const CENTISECOND: u64 = 10_000_000;
/// The longest timeout that a deadline can express, in centiseconds: 124 days. Deadlines wrap
/// around after 497 days and compare by their signed distance.
const MAX_TIMEOUT: u64 = 0x3fff_ffff;

/// In [`HotEntry::flags`]: see [`HotEntry::is_untimed`].
const UNTIMED: u8 = 1;
/// In [`HotEntry::flags`]: see [`HotEntry::is_counted`].
const COUNTED: u8 = 2;
/// In [`HotEntry::flags`]: see [`HotEntry::is_client_mac_learned`].
const LEARNED: u8 = 4;

/// In [`HotEntry::marks`]: see [`HotEntry::is_away`].
const AWAY: u8 = 1;
/// In [`HotEntry::marks`]: see [`HotEntry::is_by_client`].
const BY_CLIENT: u8 = 2;
/// In [`HotEntry::marks`]: see [`HotEntry::note_failure`].
const REPORTED: u8 = 4;
/// In [`HotEntry::marks`]: see [`HotEntry::has_header`].
const HEADER: u8 = 8;
/// In [`HotEntry::marks`]: see [`HotEntry::is_header_acknowledged`].
const HEADER_ACKNOWLEDGED: u8 = 16;
/// In [`HotEntry::marks`]: see [`HotEntry::clear_single_header`].
const SINGLE_HEADER: u8 = 32;
/// In [`HotEntry::marks`]: see [`HotEntry::has_option`].
const OPTION: u8 = 64;
/// In [`HotEntry::marks`]: see [`HotEntry::is_uncaptured`].
const UNCAPTURED: u8 = 128;

/// In [`HotEntry::flags`]: see [`HotEntry::epoch`].
const HAS_EPOCH: u8 = 8;
/// Where in [`HotEntry::flags`] the epoch's number is.
const EPOCH_SHIFT: u32 = 4;

/// The part of a flow that every packet reads: one cache line. Addresses are 16 bytes, IPv4 as
/// IPv4-mapped.
///
/// Addresses, ports, protocol, endpoint and slots are the flow's identity and stay as they are while it is open; the
/// index relies on them. The backend's address and port are those of the endpoint, which all its flows share: see
/// [`FlowTable::endpoint`](super::FlowTable::endpoint).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes)]
#[repr(C, align(64))]
pub(crate) struct HotEntry {
    pub client: [u8; 16],
    /// Centiseconds on the workers' clock, modulo 2^32.
    deadline: u32,
    /// TCP: what its segments are judged with. SCTP: its [`Tags`].
    pub(crate) sequence: Sequence,
    /// The next older flow in the queue of those that make room, plus one; 0 for none.
    pub(super) older: u32,
    pub client_port: u16,
    pub service_port: u16,
    /// Source port towards the backend.
    pub nat_port: u16,
    /// Index of the own address that both sides talk to; see `FlowTable::local_address`.
    pub local: u8,
    /// IP protocol number.
    pub protocol: u8,
    state: u8,
    flags: u8,
    /// The number of the endpoint; see [`HotEntry::endpoint`].
    endpoint: u16,
    backend_slot: u16,
    service_slot: u16,
    /// Next hop towards the client.
    pub client_mac: [u8; 6],
    /// The generation of next hops for which `client_mac` holds.
    pub hop_generation: u16,
    /// TCP: maximum segment size of the flow; 0 while unknown. UDP: see [`HotEntry::mark_use`].
    pub mss: u16,
    /// More flags: [`AWAY`], [`BY_CLIENT`], [`REPORTED`], [`HEADER`], [`HEADER_ACKNOWLEDGED`],
    /// [`SINGLE_HEADER`], [`OPTION`] and [`UNCAPTURED`].
    marks: u8,
    /// 1 if the in-kernel path has a record of the flow.
    promoted: u8,
}

const _: () = assert!(size_of::<HotEntry>() == 64);
const _: () = assert!(std::mem::offset_of!(HotEntry, client_port) == 36);
const _: () = assert!(std::mem::offset_of!(HotEntry, marks) == 62);
const _: () = assert!(MAX_BACKENDS <= 1 << u16::BITS);

impl HotEntry {
    /// The entry of a new flow, without a timer.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "slots and endpoints are below MAX_BACKENDS"
    )]
    pub(super) const fn new(new: &NewFlow, endpoint: EndpointId, nat_port: u16) -> Self {
        Self {
            client: new.client,
            deadline: 0,
            sequence: Sequence::NEW,
            older: 0,
            client_port: new.client_port,
            service_port: new.service_port,
            nat_port,
            local: new.local,
            protocol: new.protocol,
            state: new.state as u8,
            flags: 0,
            endpoint: endpoint.0 as u16,
            backend_slot: new.backend_slot.0 as u16,
            service_slot: new.service_slot.0,
            client_mac: new.client_mac,
            hop_generation: new.hop_generation,
            mss: 0,
            marks: if new.away { AWAY } else { 0 },
            promoted: 0,
        }
    }

    /// Makes the entry match no key: none has protocol 0.
    pub(super) const fn forget(&mut self) {
        self.protocol = 0;
    }

    /// The flow's state.
    #[inline]
    pub(crate) const fn state(&self) -> State {
        State::from_code(self.state)
    }

    /// The verification tags of an SCTP flow.
    pub(crate) const fn tags(&self) -> Tags {
        zerocopy::transmute!(self.sequence)
    }

    /// Sets them.
    pub(super) const fn set_tags(&mut self, tags: Tags) {
        self.sequence = zerocopy::transmute!(tags);
    }

    /// Whether its state [is open](State::is_open): compares the code, which is faster.
    #[inline(always)]
    pub(super) const fn is_open(&self) -> bool {
        const FIRST: u8 = State::Established as u8;
        const LAST: u8 = State::HalfClosedByBackend as u8;
        FIRST <= self.state && self.state <= LAST
    }

    /// Whether a packet without a TCP segment changes its state: see [`State::after_datagram`].
    #[inline(always)]
    pub(super) const fn leaves_by_datagram(&self, direction: Direction) -> bool {
        matches!(direction, Direction::Out) && self.state == State::Unreplied as u8
    }

    /// [`stay`](Self::stay) in the state in which it is.
    #[inline(always)]
    pub(super) const fn refresh(&mut self, now: Timestamp, lifetimes: &Lifetimes) {
        if let Some(lifetime) = lifetimes.of_code(self.state) {
            self.expire_after(now, lifetime);
        }
    }

    /// The service and the backend that the flow counts for.
    #[inline(always)]
    pub(crate) const fn owner(&self) -> (ServiceSlot, BackendSlot) {
        (self.service(), self.backend())
    }

    /// The service that the flow counts for.
    #[inline(always)]
    pub(crate) const fn service(&self) -> ServiceSlot {
        ServiceSlot(self.service_slot)
    }

    /// The slot of the backend that the flow counts for.
    #[inline(always)]
    pub(crate) const fn backend(&self) -> BackendSlot {
        BackendSlot(self.backend_slot as u32)
    }

    /// Where the flow is translated to.
    #[inline(always)]
    pub(super) const fn endpoint(&self) -> EndpointId {
        EndpointId(self.endpoint as u32)
    }

    /// The key of the client's packets.
    #[inline]
    pub(crate) const fn request_key(&self) -> RequestKey {
        RequestKey {
            client: self.client,
            client_port: self.client_port,
            local: self.local,
            service_port: self.service_port,
            protocol: self.protocol,
        }
    }

    /// Whether the flow was silent for longer than its timeout. Never true too early, and less than
    /// 20 ms late.
    #[inline]
    pub(crate) const fn expired(&self, now: Timestamp) -> bool {
        signed_distance(self.deadline, centiseconds(now)) < 0
    }

    /// Time until the flow expires, in steps of 10 ms; zero if it has.
    pub(crate) const fn expires_in(&self, now: Timestamp) -> Duration {
        let left = signed_distance(self.deadline, centiseconds(now));
        if left < 0 {
            return Duration::ZERO;
        }
        Duration::from_millis(left.unsigned_abs() as u64 * 10)
    }

    /// Whether the flow's end is accounted. The entry may stay for stragglers.
    #[inline]
    pub(crate) const fn is_counted(&self) -> bool {
        self.flags & COUNTED != 0
    }

    /// Marks the flow's end as accounted, or as to be accounted again.
    #[inline]
    pub(crate) const fn set_counted(&mut self, counted: bool) {
        self.set_flag(COUNTED, counted);
    }

    /// Whether the client's SYN goes to the backend without its timestamps: see [`super::open`].
    #[inline]
    pub(crate) const fn is_untimed(&self) -> bool {
        self.flags & UNTIMED != 0
    }

    /// Sets whether the client's SYN goes to the backend without its timestamps.
    #[inline]
    pub(super) const fn set_untimed(&mut self, untimed: bool) {
        self.set_flag(UNTIMED, untimed);
    }

    /// Whether the flow is not at its client's home.
    pub(super) const fn is_away(&self) -> bool {
        self.marks & AWAY != 0
    }

    /// Whether the flow was opened at the owner of its client's address: see [`super::placed`].
    pub(super) const fn is_by_client(&self) -> bool {
        self.marks & BY_CLIENT != 0
    }

    /// Notes that the backend failed the flow, which goes on: an ICMP error said so, or the client repeated its SYN. True for
    /// the first time.
    pub(super) const fn note_failure(&mut self) -> bool {
        let is_first = self.marks & REPORTED == 0;
        self.marks |= REPORTED;
        is_first
    }

    /// Whether the client's stream begins with a header for the backend ([`super::inserted`]), or its next datagram does.
    #[inline(always)]
    pub(crate) const fn has_header(&self) -> bool {
        self.marks & HEADER != 0
    }

    /// Whether the client's packets carry its address for the backend, as a header or as an option.
    #[inline(always)]
    pub(crate) const fn carries_address(&self) -> bool {
        self.marks & (HEADER | OPTION) != 0
    }

    /// Whether the client's segments have an option with its address: until the backend has sent one behind its SYN.
    pub(crate) const fn has_option(&self) -> bool {
        self.marks & OPTION != 0
    }

    /// Sets whether they have.
    pub(crate) const fn set_option(&mut self, has_option: bool) {
        self.marks = if has_option {
            self.marks | OPTION
        } else {
            self.marks & !OPTION
        };
    }

    /// Whether no capture wants the flow's packets that are forwarded: see [`crate::pipeline`]. Says nothing without a
    /// capture.
    #[inline(always)]
    pub(crate) const fn is_uncaptured(&self) -> bool {
        self.marks & UNCAPTURED != 0
    }

    /// Sets whether none does.
    #[inline]
    pub(crate) const fn set_uncaptured(&mut self, is_uncaptured: bool) {
        self.marks = if is_uncaptured {
            self.marks | UNCAPTURED
        } else {
            self.marks & !UNCAPTURED
        };
    }

    /// Makes the client's stream begin with a header, or its datagrams, `single`: the first one. Once per flow, before its
    /// first packet.
    pub(crate) const fn set_header(&mut self, single: bool) {
        self.marks |= if single { HEADER | SINGLE_HEADER } else { HEADER };
    }

    /// The header that only the first datagram has was sent.
    pub(crate) const fn clear_single_header(&mut self) {
        if self.marks & SINGLE_HEADER != 0 {
            self.marks &= !(HEADER | SINGLE_HEADER);
        }
    }

    /// Whether the backend has acknowledged all of the header.
    pub(super) const fn is_header_acknowledged(&self) -> bool {
        self.marks & HEADER_ACKNOWLEDGED != 0
    }

    /// Notes that it has.
    pub(super) const fn note_header_acknowledged(&mut self) {
        self.marks |= HEADER_ACKNOWLEDGED;
    }

    /// Notes whether it was.
    pub(super) const fn set_by_client(&mut self, by_client: bool) {
        self.marks = if by_client {
            self.marks | BY_CLIENT
        } else {
            self.marks & !BY_CLIENT
        };
    }

    /// Whether the in-kernel path has a record of the flow, which it may still use.
    #[inline]
    pub(crate) const fn is_promoted(&self) -> bool {
        self.promoted != 0
    }

    /// Marks that it has one, or none any more.
    #[inline]
    pub(crate) const fn set_promoted(&mut self, promoted: bool) {
        self.promoted = promoted as u8;
    }

    /// The epoch with which the flow holds its client's entry in the affinity table.
    #[inline]
    pub(crate) fn epoch(&self) -> Option<AffinityEpoch> {
        (self.flags & HAS_EPOCH != 0).then_some(AffinityEpoch(self.flags >> EPOCH_SHIFT))
    }

    /// Marks that the flow does not hold its client's entry in the affinity table any more.
    #[inline]
    pub(crate) const fn clear_epoch(&mut self) {
        self.flags &= (1 << EPOCH_SHIFT) - 1 - HAS_EPOCH;
    }

    /// Marks that the flow holds its client's entry in the affinity table. Once per flow.
    #[inline]
    pub(crate) const fn set_epoch(&mut self, epoch: AffinityEpoch) {
        self.flags |= HAS_EPOCH | epoch.0 << EPOCH_SHIFT;
    }

    /// Whether `client_mac` is the neighbour that the client's packets came from, because the kernel
    /// knew none.
    #[inline]
    pub(crate) const fn is_client_mac_learned(&self) -> bool {
        self.flags & LEARNED != 0
    }

    /// Sets the next hop towards the client, and whether it was learned from the client's packets.
    #[inline]
    pub(crate) const fn set_client_mac(&mut self, mac: [u8; 6], learned: bool, hop_generation: u16) {
        self.client_mac = mac;
        self.hop_generation = hop_generation;
        self.set_flag(LEARNED, learned);
    }

    /// Starts the timer of `state`, which the flow is in already, unless packets do not refresh it.
    #[inline(always)]
    pub(crate) fn stay(&mut self, state: State, now: Timestamp, timeout: Lifetime) {
        if state.is_refreshed() {
            self.expire_after(now, timeout);
        }
    }

    /// Enters `state`, or stays in it, and starts its timer; a state that packets do not refresh
    /// keeps the timer that it was entered with.
    #[inline]
    pub(super) fn advance(&mut self, state: State, now: Timestamp, timeout: Lifetime) {
        if self.state != state as u8 || state.is_refreshed() {
            self.state = state as u8;
            self.expire_after(now, timeout);
        }
    }

    /// Starts the timer of the state anew at an earlier time, unless packets do not refresh it or it ends later.
    pub(super) fn extend(&mut self, used: Timestamp, timeout: Lifetime) {
        let deadline = centiseconds(used).wrapping_add(timeout.0);
        if self.state().is_refreshed() && signed_distance(deadline, self.deadline) > 0 {
            self.deadline = deadline;
        }
    }

    #[inline(always)]
    pub(super) const fn expire_after(&mut self, now: Timestamp, timeout: Lifetime) {
        self.deadline = centiseconds(now).wrapping_add(timeout.0);
    }

    /// Remembers when a UDP flow was last used.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "16 bits of the deadline are enough"
    )]
    pub(super) const fn mark_use(&mut self) {
        self.mss = self.deadline as u16;
    }

    /// Whether a UDP flow was used since [`mark_use`](Self::mark_use). False if that is an exact multiple of 655.36 s
    /// ago. One in the in-kernel path counts as used: else it would not be there for longer than ten seconds.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "16 bits of the deadline are enough"
    )]
    pub(super) const fn is_used_since_mark(&self) -> bool {
        self.promoted != 0 || self.mss != self.deadline as u16
    }

    #[inline]
    const fn set_flag(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "deadlines wrap around")]
const fn centiseconds(now: Timestamp) -> u32 {
    (now.0 / CENTISECOND) as u32
}

#[inline]
const fn signed_distance(to: u32, from: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

/// A timeout in the unit of deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lifetime(u32);

impl From<Duration> for Lifetime {
    /// Rounds up; saturates at the longest timeout that a deadline can express.
    fn from(timeout: Duration) -> Self {
        let parts = u64::from(timeout.subsec_nanos()).div_ceil(CENTISECOND);
        let centiseconds = timeout
            .as_secs()
            .saturating_mul(100)
            .saturating_add(parts)
            .min(MAX_TIMEOUT);
        Self(centiseconds as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn expiring(now: Timestamp, timeout: Duration) -> HotEntry {
        let mut entry = HotEntry::new_zeroed();
        entry.expire_after(now, timeout.into());
        entry
    }

    #[test]
    fn deadlines_are_never_early_and_at_most_20_ms_late() {
        for start in [0, 1, 9_999_999, 10_000_000, 123_456_789_012] {
            for timeout in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(240)] {
                let entry = expiring(Timestamp(start), timeout);
                let end = Timestamp(start) + timeout;
                assert!(!entry.expired(end), "{start} {timeout:?}");
                assert!(
                    entry.expired(end + Duration::from_millis(20)),
                    "{start} {timeout:?}"
                );
            }
        }
    }

    #[test]
    fn deadlines_live_through_the_wrap_of_their_clock() {
        let wrap = Duration::from_millis(10 * (1 << 32));
        let start = Timestamp::from_duration(wrap - Duration::from_secs(100));
        let entry = expiring(start, Duration::from_secs(240));
        for (seconds, expired) in [(0, false), (99, false), (101, false), (240, false), (241, true)] {
            assert_eq!(
                entry.expired(start + Duration::from_secs(seconds)),
                expired,
                "{seconds} s"
            );
        }
        let left = entry.expires_in(start + Duration::from_secs(140));
        assert_eq!(left, Duration::from_secs(100));
    }

    #[test]
    fn an_endless_timeout_is_cut_to_what_a_deadline_can_express() {
        let entry = expiring(Timestamp(0), Duration::MAX);
        assert!(!entry.expired(Timestamp::from_duration(Duration::from_secs(124 * 86_400))));
    }
}
