//! The affinity table: the last backend of each client of a service, and how long it is kept.
//!
//! It is used by opens and ends of flows of services with affinity only. An entry is kept
//! while the client has an open flow and for the service's affinity time after the last one began
//! or ended, whichever is later, as IPVS keeps its persistence templates.
//!
//! Plain data like the flow table: a header and entries in one mapping, no pointers. A client's
//! entry is in one set of [`WAYS`], so all work is bounded. When a set is full, the entry that would
//! expire first makes room; entries without open flows go first.
//!
//! An entry identifies its backend by slot and by the generation in which the backend got that slot, so
//! it is never taken for the slot's next backend; the caller checks whether the backend still takes
//! flows. A client may return to a backend while flows of its former stay are open, so each flow stores
//! the [`AffinityEpoch`] with which it began.

use std::io;

use vl3lb_common::snapshot::{Backend, MAX_BACKENDS, MAX_SERVICES};
use vl3lb_common::{BackendSlot, Duration, ServiceSlot, Timestamp};
use zerocopy::{FromBytes, IntoBytes};

use super::index::Hash;
use super::key::HashSeed;
use super::mapping::{Mapping, Region, span};

/// Entries of a set.
const WAYS: usize = 8;
/// Flows of the flow table for each set of this one: clients have several flows each.
const FLOWS_PER_SET: u32 = 32;
/// The unit of deadlines.
const SECOND: u64 = 1_000_000_000;

const MAGIC: [u8; 8] = *b"vl3affi\0";
/// Raised whenever the meaning of any byte of the mapping changes.
const VERSION: u32 = 2;

/// The layout of the rest of the mapping.
#[derive(FromBytes, IntoBytes)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: u32,
    sets: u32,
    /// Seed of the hash that chooses the set.
    seed: u64,
}

const _: () = assert!(size_of::<Header>() == 24);

/// A client of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServiceClient {
    pub service: ServiceSlot,
    pub client: [u8; 16],
}

/// A backend, distinct from later ones in its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackendId {
    pub slot: BackendSlot,
    /// The low half of [`Backend::since`].
    since: u32,
}

impl From<&Backend> for BackendId {
    #[expect(clippy::cast_possible_truncation, reason = "the low half")]
    fn from(backend: &Backend) -> Self {
        Self {
            slot: backend.slot,
            since: backend.since.0 as u32,
        }
    }
}

/// Counts the changes of a client's backend, modulo 16. Only flows of the current epoch keep the
/// client's entry alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AffinityEpoch(pub(super) u8);

impl AffinityEpoch {
    /// Distinct epochs.
    const NUMBERS: u8 = 16;
}

/// How a flow began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begun {
    pub epoch: AffinityEpoch,
    /// Another client's entry was evicted before it expired.
    pub evicted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes)]
#[repr(C, align(32))]
struct Entry {
    client: [u8; 16],
    /// When the entry expires, in seconds on the workers' clock. Lasts for 136 years.
    deadline: u32,
    /// Open flows of this epoch. A client has at most as many flows on a backend as the backend has NAT ports.
    flows: u16,
    /// See [`AffinityEpoch`].
    epoch: u8,
    _unused: u8,
    backend_since: u32,
    backend_slot: u16,
    service_slot: u16,
}

const _: () = assert!(size_of::<Entry>() == 32);
const _: () = assert!(MAX_BACKENDS <= 1 << u16::BITS && MAX_SERVICES <= 1 << u16::BITS);

impl Entry {
    fn is_of(&self, key: &ServiceClient) -> bool {
        self.client == key.client && self.service_slot == key.service.0
    }

    /// Whether the entry has expired. An unused one has.
    const fn is_over(&self, now: Timestamp) -> bool {
        self.flows == 0 && now.0 >= self.deadline as u64 * SECOND
    }

    const fn backend(&self) -> BackendId {
        BackendId {
            slot: BackendSlot(self.backend_slot as u32),
            since: self.backend_since,
        }
    }
}

/// The clients of one worker.
pub(super) struct AffinityTable {
    /// One element.
    header: Region<Header>,
    /// [`WAYS`] for each set.
    entries: Region<Entry>,
    seed: HashSeed,
}

impl std::fmt::Debug for AffinityTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AffinityTable")
            .field("capacity", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl AffinityTable {
    /// An empty table beside a flow table for `flows` flows: one entry of 32 bytes for each four of
    /// them, rounded up to whole sets of eight. So a flow costs 8 bytes more at most, and memory is
    /// touched only as clients come. `seed` should be random.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(super) fn new(flows: u32, seed: u64) -> io::Result<Self> {
        let sets = flows.div_ceil(FLOWS_PER_SET).max(1);
        let entries = sets as usize * WAYS;
        let bytes = span::<Header>(1) + span::<Entry>(entries);
        let mut mapping = Mapping::new(bytes, bytes).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "map {} MB for an affinity table of {entries} clients: {error}; try fewer `flows`",
                    bytes >> 20
                ),
            )
        })?;
        let mut header = mapping.carve(1);
        header[0] = Header {
            magic: MAGIC,
            version: VERSION,
            sets,
            seed,
        };
        Ok(Self {
            header,
            entries: mapping.carve(entries),
            seed: HashSeed::new(seed),
        })
    }

    /// The backend that the client keeps.
    pub(super) fn find(&self, key: &ServiceClient, now: Timestamp) -> Option<BackendId> {
        let set = self.set(key);
        self.entries[set..set + WAYS]
            .iter()
            .find(|entry| entry.is_of(key) && !entry.is_over(now))
            .map(Entry::backend)
    }

    /// A flow of the client begins: it keeps `backend` for `affinity` from now on.
    pub(super) fn begin(
        &mut self,
        key: &ServiceClient,
        backend: BackendId,
        now: Timestamp,
        affinity: Duration,
    ) -> Begun {
        let set = self.set(key);
        let ways = &mut self.entries[set..set + WAYS];
        let known = ways.iter().position(|entry| entry.is_of(key));
        let cheapest = |&way: &usize| {
            let entry = &ways[way];
            (!entry.is_over(now), entry.flows > 0, entry.deadline)
        };
        let place = known.or_else(|| (0..WAYS).min_by_key(cheapest)).unwrap_or(0);
        let entry = &mut ways[place];
        let evicted = known.is_none() && !entry.is_over(now);
        let (epoch, flows) = if known.is_some() && entry.backend() == backend {
            (entry.epoch, entry.flows)
        } else {
            ((entry.epoch + 1) % AffinityEpoch::NUMBERS, 0)
        };
        *entry = Entry {
            client: key.client,
            deadline: deadline(now, affinity),
            flows: flows.saturating_add(1),
            epoch,
            _unused: 0,
            backend_since: backend.since,
            backend_slot: index(backend.slot),
            service_slot: key.service.0,
        };
        Begun {
            epoch: AffinityEpoch(epoch),
            evicted,
        }
    }

    /// A flow of the client that began with affinity ends: the client keeps its backend for `affinity` from
    /// now on. Nothing happens if its backend changed since, or its entry was evicted.
    pub(super) fn end(
        &mut self,
        key: &ServiceClient,
        (backend, epoch): (BackendSlot, AffinityEpoch),
        now: Timestamp,
        affinity: Duration,
    ) {
        let set = self.set(key);
        let ways = &mut self.entries[set..set + WAYS];
        if let Some(entry) = ways
            .iter_mut()
            .find(|entry| entry.is_of(key) && (entry.backend_slot, entry.epoch) == (index(backend), epoch.0))
        {
            entry.flows = entry.flows.saturating_sub(1);
            entry.deadline = deadline(now, affinity);
        }
    }

    /// The entries that flows hold: client, backend, epoch and number of flows.
    #[cfg(test)]
    pub(super) fn held(&self) -> impl Iterator<Item = (ServiceClient, BackendSlot, AffinityEpoch, u16)> {
        self.entries.iter().filter(|entry| entry.flows > 0).map(|entry| {
            let key = ServiceClient {
                service: ServiceSlot(entry.service_slot),
                client: entry.client,
            };
            let slot = BackendSlot(entry.backend_slot.into());
            (key, slot, AffinityEpoch(entry.epoch), entry.flows)
        })
    }

    /// The first entry of the client's set.
    fn set(&self, key: &ServiceClient) -> usize {
        let Hash(hash) = self.seed.client_hash(&key.client, key.service.0);
        let sets = u64::from(self.header[0].sets);
        (((hash >> 32) * sets) >> 32) as usize * WAYS
    }
}

/// The next whole second after the end of the time: never too early, at most a second late.
fn deadline(now: Timestamp, affinity: Duration) -> u32 {
    u32::try_from((now + affinity).0 / SECOND + 1).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "below MAX_BACKENDS")]
const fn index(slot: BackendSlot) -> u16 {
    slot.0 as u16
}
