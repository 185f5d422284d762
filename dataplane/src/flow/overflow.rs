//! Clients with affinity that have more flows than their worker has room for.
//!
//! All flows of such a client belong to its home, one worker, whose slice of the NAT ports would be the limit: a whole
//! office may be behind one address. When the home has no room for another one, the client overflows: from then on the
//! home passes each packet without a flow to another worker, which the ports choose, and which opens the flow with a NAT
//! port of its own slice. So replies find that worker by the port as ever, and requests by way of the home.
//!
//! The workers share one table of the clients that overflow, by a hash of client and service: which backend they have,
//! and how many flows away from home. The home alone begins and ends an entry; other workers read it and count their
//! flows. All of it is atomic words of their own, no lock. The overflow ends when the client has no flow away from home
//! any more.

use std::sync::Arc;

use vl3lb_common::hash::selection_hash;
use vl3lb_common::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vl3lb_common::{BackendSlot, Duration, ServiceSlot, Timestamp};

use super::clients::Scope;
use super::lifecycle::Flows;
use super::table::FlowId;

/// Clients that can overflow at the same time, fewer where two meet at one place. The model checker has few words.
const PLACES: usize = if cfg!(feature = "loom") { 2 } else { 4096 };
/// A client overflows for so long at least: the first flow away from home is open by then.
const LEAST: Duration = Duration::from_secs(2);

/// All clients that overflow.
#[derive(Debug)]
pub(crate) struct Overflow(Box<[Place]>);

/// One client of a service.
#[derive(Debug, Default)]
struct Place {
    /// Who it is in the upper half, and the backend's slot plus one in the lower; 0 for nobody.
    tenant: AtomicU64,
    /// Flows away from home.
    away: AtomicU32,
    /// Flows at home when a packet was passed on last, and the second in which that was.
    home: AtomicU32,
    passed_at: AtomicU32,
}

/// A client of a service, and where it belongs in the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest {
    place: usize,
    /// Never 0.
    name: u32,
}

impl Guest {
    #[expect(clippy::cast_possible_truncation, reason = "other bits for place and name")]
    pub(crate) fn new(client: &[u8; 16], service: ServiceSlot) -> Self {
        let hash = selection_hash(client, service.0);
        Self {
            place: hash as usize % PLACES,
            name: (hash >> 32) as u32 | 1,
        }
    }

    /// Whether the two have one place.
    #[cfg(all(test, feature = "loom"))]
    pub(super) const fn meets(self, other: Self) -> bool {
        self.place == other.place && self.name != other.name
    }

    const fn tenant(self, backend: BackendSlot) -> u64 {
        (self.name as u64) << 32 | (backend.0 as u64 + 1)
    }
}

impl Default for Overflow {
    fn default() -> Self {
        Self((0..PLACES).map(|_| Place::default()).collect())
    }
}

impl Overflow {
    /// The backend of a client that overflows.
    pub(crate) fn backend(&self, guest: Guest) -> Option<BackendSlot> {
        let tenant = self.0[guest.place].tenant.load(Ordering::Acquire);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let (name, backend) = ((tenant >> 32) as u32, tenant as u32);
        (name == guest.name).then(|| BackendSlot(backend.saturating_sub(1)))
    }

    /// The client's home has no room for it. False if another client has the place.
    pub(super) fn begin(&self, guest: Guest, backend: BackendSlot, home: u32, now: Timestamp) -> bool {
        let place = &self.0[guest.place];
        let before = place.tenant.load(Ordering::Acquire);
        if before != 0 && self.backend(guest).is_none() && !place.is_left(now) {
            return false;
        }
        place.note_pass(home, now);
        place
            .tenant
            .compare_exchange(before, guest.tenant(backend), Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The client's home has a packet without a flow of a client that overflows. Whether it still does.
    pub(super) fn goes_on(&self, guest: Guest, home: u32, now: Timestamp) -> bool {
        let Some(backend) = self.backend(guest) else {
            return false;
        };
        let place = &self.0[guest.place];
        if !place.is_left(now) {
            place.note_pass(home, now);
            return true;
        }
        let left =
            place
                .tenant
                .compare_exchange(guest.tenant(backend), 0, Ordering::AcqRel, Ordering::Acquire);
        left.is_err() && self.backend(guest).is_some()
    }

    /// Flows of a client that overflows, at home and away.
    pub(super) fn flows(&self, guest: Guest) -> u32 {
        let place = &self.0[guest.place];
        let (home, away) = (&place.home, &place.away);
        home.load(Ordering::Relaxed)
            .saturating_add(away.load(Ordering::Relaxed))
    }

    /// A flow away from home begins.
    pub(super) fn opened(&self, guest: Guest) {
        self.0[guest.place].away.fetch_add(1, Ordering::Relaxed);
    }

    /// A flow away from home has left its table.
    pub(super) fn closed(&self, guest: Guest) {
        self.0[guest.place].away.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Flows {
    /// Shares the table of clients that overflow with the other workers.
    pub(crate) fn set_overflow(&mut self, overflow: Arc<Overflow>) {
        self.overflow = Some(overflow);
    }

    /// Flows of a client in this table, those that are over not counted; never less than there are.
    pub(crate) fn flows_of_client(&self, client: &[u8; 16]) -> u32 {
        self.table.clients.flows(client, Scope::Table, &self.table.seed)
    }

    /// The backend of a client that overflows.
    pub(crate) fn overflow_backend(&self, guest: Guest) -> Option<BackendSlot> {
        self.overflow.as_ref()?.backend(guest)
    }

    /// Flows of a client that overflows, at home and away.
    pub(crate) fn overflowed(&self, guest: Guest) -> u32 {
        self.overflow.as_ref().map_or(0, |overflow| overflow.flows(guest))
    }

    /// A client whose home this is has no room here, or gets another backend. False if it cannot overflow.
    pub(crate) fn begin_overflow(
        &self,
        guest: Guest,
        client: &[u8; 16],
        backend: BackendSlot,
        now: Timestamp,
    ) -> bool {
        let home = self.flows_of_client(client);
        self.overflow
            .as_ref()
            .is_some_and(|overflow| overflow.begin(guest, backend, home, now))
    }

    /// A client whose home this is has a packet without a flow here. Whether it overflows, still.
    pub(crate) fn goes_on_overflowing(&self, guest: Guest, client: &[u8; 16], now: Timestamp) -> bool {
        let home = self.flows_of_client(client);
        self.overflow
            .as_ref()
            .is_some_and(|overflow| overflow.goes_on(guest, home, now))
    }

    /// Counts a flow that is away from its client's home.
    pub(super) fn count_away(&self, id: FlowId, count: impl FnOnce(&Overflow, Guest)) {
        let entry = self.table.entry(id);
        if let Some(overflow) = self.overflow.as_ref().filter(|_| entry.is_away()) {
            count(overflow, Guest::new(&entry.client, entry.service()));
        }
    }
}

impl Place {
    /// Whether no flow is away from home, nor on its way.
    fn is_left(&self, now: Timestamp) -> bool {
        let since = seconds(now).wrapping_sub(self.passed_at.load(Ordering::Relaxed));
        self.away.load(Ordering::Relaxed) == 0 && u64::from(since) > LEAST.as_secs()
    }

    fn note_pass(&self, home: u32, now: Timestamp) {
        self.home.store(home, Ordering::Relaxed);
        self.passed_at.store(seconds(now), Ordering::Relaxed);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "lasts for 136 years")]
const fn seconds(now: Timestamp) -> u32 {
    (now.0 / 1_000_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_duration(Duration::from_secs(seconds))
    }

    fn guest(client: u8) -> Guest {
        Guest::new(&[client; 16], ServiceSlot(3))
    }

    #[test]
    fn a_client_overflows_until_its_last_flow_away_from_home_has_ended() {
        let overflow = Overflow::default();
        assert!(!overflow.goes_on(guest(1), 0, at(1)));
        assert!(overflow.begin(guest(1), BackendSlot(0), 7, at(1)));
        assert_eq!(overflow.backend(guest(1)), Some(BackendSlot(0)));
        assert_eq!(overflow.backend(guest(2)), None);
        assert!(
            overflow.goes_on(guest(1), 7, at(3)),
            "the first one is on its way"
        );
        overflow.opened(guest(1));
        assert_eq!(overflow.flows(guest(1)), 8);
        assert!(overflow.goes_on(guest(1), 5, at(1_000)));
        assert_eq!(overflow.flows(guest(1)), 6);
        overflow.closed(guest(1));
        assert!(overflow.goes_on(guest(1), 5, at(1_002)));
        assert!(!overflow.goes_on(guest(1), 5, at(1_005)));
        assert_eq!(overflow.backend(guest(1)), None);
    }

    #[test]
    fn a_place_is_one_clients_until_it_has_left() {
        let overflow = Overflow::default();
        let first = guest(1);
        let second = Guest {
            name: first.name ^ 2,
            ..first
        };
        assert!(overflow.begin(first, BackendSlot(4), 1, at(10)));
        overflow.opened(first);
        assert!(!overflow.begin(second, BackendSlot(5), 1, at(100)));
        assert!(
            overflow.begin(first, BackendSlot(6), 1, at(100)),
            "another backend"
        );
        assert_eq!(overflow.backend(first), Some(BackendSlot(6)));
        overflow.closed(first);
        assert!(overflow.begin(second, BackendSlot(5), 1, at(200)));
        assert_eq!(
            (overflow.backend(first), overflow.backend(second)),
            (None, Some(BackendSlot(5)))
        );
    }
}
