//! The table itself: finding, inserting, changing and removing flows.

use std::io;
use std::ops::RangeInclusive;

use vl3lb_common::snapshot::MAX_BACKENDS;
use vl3lb_common::{BackendSlot, Timestamp};

use super::counters::ColdEntry;
use super::entry::{HotEntry, Lifetime};
use super::finished::{Ends, FinishedQueues};
use super::header::{Header, Shape};
use super::index::{Bucket, Hash, Index, Kind, MAX_FLOWS};
use super::key::{HashSeed, Key, ReplyKey, RequestKey};
use super::mapping::{Mapping, Region, span};
use super::open::NewFlow;
use super::pool::Pool;
use super::ports::PortMaps;
use super::sequence::Sequence;
use super::state::{Direction, State};

/// A live flow's number. Valid until the flow is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowId(pub(super) u32);

impl FlowId {
    #[inline]
    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where in the table the search for a key starts.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    hash: Hash,
    /// The bucket where the search starts.
    home: u32,
    /// The flow that most likely has the key, after [`FlowTable::prefetch_flow`]; [`NO_FLOW`] if there
    /// is none.
    guess: u32,
}

/// No flow has this number, and no table an entry for it.
const NO_FLOW: u32 = u32::MAX;
const _: () = assert!(MAX_FLOWS < NO_FLOW);

/// The flows of one worker as plain data; [`super::Flows`] keeps the rest of the program consistent with it.
pub struct FlowTable {
    pub(super) pool: Pool,
    /// Sequence numbers of the TCP flows, by entry.
    sequences: Region<Sequence>,
    pub(super) index: Index,
    pub(super) ports: PortMaps,
    pub(super) finished: FinishedQueues,
    pub(super) seed: HashSeed,
    memory_bytes: usize,
}

impl std::fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowTable")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

impl FlowTable {
    /// An empty table for `capacity` flows, with this worker's slice of the NAT ports. `seed` should be
    /// random. Maps all memory; most of it is touched only when flows are opened.
    ///
    /// # Errors
    /// If there is not enough memory, or `capacity` is 0 or above 2^31 - 1, or `nat_ports` is empty
    /// or has port 0.
    pub fn new(capacity: u32, nat_ports: RangeInclusive<u16>, seed: u64) -> io::Result<Self> {
        let (first_port, last_port) = (*nat_ports.start(), *nat_ports.end());
        if capacity == 0 || capacity > MAX_FLOWS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("map a flow table for {capacity} flows: want 1 to {MAX_FLOWS}"),
            ));
        }
        if nat_ports.is_empty() || first_port == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "map a flow table with NAT ports {first_port} to {last_port}: want at least one, above 0"
                ),
            ));
        }
        let ports = last_port - first_port + 1;
        let buckets = Index::buckets_for(capacity);
        let flows = capacity as usize;
        let words = PortMaps::words_per_backend(ports);

        let memory_bytes = span::<Header>(1)
            + span::<Bucket>(buckets as usize)
            + span::<HotEntry>(flows)
            + span::<ColdEntry>(flows)
            + span::<Sequence>(flows)
            + span::<u32>(flows)
            + span::<u64>(flows.div_ceil(64));
        let backend_bytes =
            span::<Ends>(MAX_BACKENDS) + span::<u32>(MAX_BACKENDS) + span::<u64>(MAX_BACKENDS * words);
        let mut mapping = Mapping::new(memory_bytes + backend_bytes, memory_bytes).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "map {} MB for a flow table of {capacity} flows: {error}; try fewer `flows`",
                    (memory_bytes + backend_bytes) >> 20
                ),
            )
        })?;

        let header = mapping.carve(1);
        let index = Index::new(mapping.carve(buckets as usize));
        let mut pool = Pool {
            header,
            hot: mapping.carve(flows),
            cold: mapping.carve(flows),
            live: mapping.carve(flows.div_ceil(64)),
        };
        let sequences = mapping.carve(flows);
        let older = mapping.carve(flows);
        let finished = FinishedQueues::new(mapping.carve(MAX_BACKENDS), older);
        let in_use = mapping.carve(MAX_BACKENDS);
        let ports_in_use = PortMaps::new(mapping.carve(MAX_BACKENDS * words), in_use, first_port, ports);
        *pool.header_mut() = Header::new(&Shape {
            capacity,
            buckets,
            seed,
            first_port,
            ports,
            backends: u32::try_from(MAX_BACKENDS).expect("a small constant"),
        });
        Ok(Self {
            pool,
            sequences,
            index,
            ports: ports_in_use,
            finished,
            seed: HashSeed::new(seed),
            memory_bytes,
        })
    }

    /// Starts a search for a client's packet.
    #[inline(always)]
    pub fn request_probe(&self, key: &RequestKey) -> Probe {
        self.probe(key)
    }

    /// Starts a search for a backend's packet.
    #[inline(always)]
    pub fn reply_probe(&self, key: &ReplyKey) -> Probe {
        self.probe(key)
    }

    #[inline(always)]
    fn probe(&self, key: &impl Key) -> Probe {
        let hash = key.hash(&self.seed);
        Probe {
            hash,
            home: self.index.home(hash),
            guess: NO_FLOW,
        }
    }

    /// First step of a batched lookup: prefetches the index bucket.
    #[inline(always)]
    pub fn prefetch_index(&self, probe: &Probe) {
        self.index.prefetch(probe.home);
    }

    /// Second step: prefetches the flow, if the first bucket has one. True if there is no flow for certain.
    #[inline(always)]
    pub fn prefetch_flow(&self, probe: &mut Probe) -> bool {
        let Some(id) = self.index.guess(probe.home, probe.hash) else {
            return self.index.ends_at(probe.home);
        };
        probe.guess = id;
        self.pool.hot.prefetch(id as usize);
        self.pool.cold.prefetch(id as usize);
        self.sequences.prefetch(id as usize);
        false
    }

    /// Whether `probe` certainly finds no flow, after the second step.
    #[inline]
    pub fn lacks(&self, probe: &Probe) -> bool {
        probe.guess == NO_FLOW && self.index.ends_at(probe.home)
    }

    /// Prefetches the bucket for the reply key of a flow to be opened.
    #[inline]
    pub fn prefetch_reply(&self, key: &ReplyKey) {
        self.index.prefetch(self.index.home(key.hash(&self.seed)));
    }

    /// A free NAT port of a backend, chosen by `random`, for [`NewFlow::nat_port`]. O(NAT ports / 64).
    #[inline]
    pub fn free_port(&self, backend: BackendSlot, random: u64) -> Option<u16> {
        self.ports.find_free(backend, random, |_| true)
    }

    /// The flow of a client's packet, found at the key's own `probe`. Expired flows are not found.
    #[inline(always)]
    pub fn request_at(&self, probe: &Probe, key: RequestKey, now: Timestamp) -> Option<FlowId> {
        self.at(probe, key, now)
    }

    /// The flow of a backend's packet, found at the key's own `probe`. Expired flows are not found.
    #[inline(always)]
    pub fn reply_at(&self, probe: &Probe, key: ReplyKey, now: Timestamp) -> Option<FlowId> {
        self.at(probe, key, now)
    }

    /// The flow of a client's packet. Expired flows are not found.
    #[inline]
    pub fn request(&self, key: &RequestKey, now: Timestamp) -> Option<FlowId> {
        self.at(&self.probe(key), *key, now)
    }

    /// The flow of a backend's packet. Expired flows are not found.
    #[inline]
    pub fn reply(&self, key: &ReplyKey, now: Timestamp) -> Option<FlowId> {
        self.at(&self.probe(key), *key, now)
    }

    #[inline(always)]
    fn at(&self, probe: &Probe, key: impl Key, now: Timestamp) -> Option<FlowId> {
        // The guessed flow may have ended since. Then the entry is free or another flow's, and the key
        // does not match.
        if let Some(entry) = self.pool.hot.get(probe.guess as usize)
            && key.names(entry)
        {
            return (!entry.expired(now)).then_some(FlowId(probe.guess));
        }
        let id = self.find(probe.hash, key)?;
        (!self.entry(id).expired(now)).then_some(id)
    }

    /// The part of a flow that every packet reads.
    #[inline]
    pub fn entry(&self, id: FlowId) -> &HotEntry {
        &self.pool.hot[id.index()]
    }

    /// The same, mutable. The flow's identity must not change; its state is changed by [`touch`](Self::touch).
    #[inline]
    pub fn entry_mut(&mut self, id: FlowId) -> &mut HotEntry {
        &mut self.pool.hot[id.index()]
    }

    /// A TCP flow's sequence numbers.
    #[cfg(test)]
    pub(super) fn sequence(&self, id: FlowId) -> &Sequence {
        &self.sequences[id.index()]
    }

    /// The same, to change them.
    #[inline(always)]
    pub(super) fn sequence_mut(&mut self, id: FlowId) -> &mut Sequence {
        &mut self.sequences[id.index()]
    }

    /// A flow's counters and when it was opened.
    #[inline]
    pub fn counters(&self, id: FlowId) -> &ColdEntry {
        &self.pool.cold[id.index()]
    }

    /// The same, to count.
    #[inline]
    pub fn counters_mut(&mut self, id: FlowId) -> &mut ColdEntry {
        &mut self.pool.cold[id.index()]
    }

    /// Counts one IP packet of `bytes`.
    #[inline]
    pub fn count(&mut self, id: FlowId, direction: Direction, bytes: u32) {
        self.counters_mut(id).count(direction, bytes);
    }

    /// Moves a flow to `state` after a packet, and starts that state's `timeout`; see
    /// [`State::is_refreshed`] for when not.
    #[inline]
    pub fn touch(&mut self, id: FlowId, state: State, now: Timestamp, timeout: impl Into<Lifetime>) {
        let entry = &mut self.pool.hot[id.index()];
        entry.advance(state, now, timeout.into());
        if entry.is_queued() != state.is_over() {
            self.set_queued(id, state.is_over());
        }
    }

    /// Adds a flow with a NAT port that [`make_room`](Self::make_room) found. `None` if the table is full.
    pub(super) fn insert(&mut self, new: &NewFlow, nat_port: u16, now: Timestamp) -> Option<FlowId> {
        let mut entry = HotEntry::new(new, nat_port);
        entry.expire_after(now, new.timeout.into());
        let (request, reply) = (entry.request_key(), entry.reply_key());
        let id = self.pool.allocate(entry, now)?;
        self.index.insert(Kind::Request, request.hash(&self.seed), id);
        self.index.insert(Kind::Reply, reply.hash(&self.seed), id);
        self.ports.reserve(new.backend_slot, nat_port);
        self.pool.header_mut().local_flows[usize::from(new.local)] += 1;
        if new.state.is_over() {
            self.set_queued(FlowId(id), true);
        }
        Some(FlowId(id))
    }

    /// Removes a flow: its keys, its NAT port and its entry are free at once. Returns its backend.
    ///
    /// # Panics
    /// If `id` is not a live flow: it was closed before.
    pub(super) fn close(&mut self, id: FlowId) -> BackendSlot {
        assert!(self.pool.is_live(id.0), "{id:?} is closed once");
        if self.entry(id).is_queued() {
            self.set_queued(id, false);
        }
        let entry = self.entry(id);
        let (request, reply) = (entry.request_key(), entry.reply_key());
        let (backend, nat_port) = (BackendSlot(entry.backend_slot), entry.nat_port);
        self.index.remove(Kind::Request, request.hash(&self.seed), id.0);
        self.index.remove(Kind::Reply, reply.hash(&self.seed), id.0);
        self.ports.release(backend, nat_port);
        self.pool.header_mut().local_flows[usize::from(request.local)] -= 1;
        self.pool.release(id.0);
        backend
    }

    /// Flows in the table, expired ones that were not swept yet included.
    pub fn len(&self) -> u32 {
        self.pool.header().len
    }

    /// Whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows that fit.
    pub fn capacity(&self) -> u32 {
        self.pool.header().capacity
    }

    /// Bytes of the mapping that grow with the capacity: 128.2 for each flow. The maps of NAT ports
    /// are not counted: 1 bit for each port, only for backends that have had flows.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// NAT ports in use towards a backend. O(1).
    pub fn ports_used(&self, backend: BackendSlot) -> u32 {
        self.ports.in_use(backend)
    }

    /// Places that a sweep of the whole table looks at.
    pub fn sweep_len(&self) -> usize {
        let fresh = self.pool.header().fresh as usize;
        // Each live flow, and the end of each 64 entries.
        self.len() as usize + fresh.div_ceil(64)
    }

    /// Moves the sweep's cursor and returns the live flow that it passed; `None` if the rest of its 64
    /// entries has none.
    pub(super) fn next_at_cursor(&mut self) -> Option<FlowId> {
        let header = self.pool.header();
        let (fresh, cursor) = (header.fresh, header.cursor);
        if fresh == 0 {
            return None;
        }
        let from = if cursor < fresh { cursor } else { 0 };
        let (found, next) = self.pool.look_at(from);
        self.pool.header_mut().cursor = next;
        found.map(FlowId)
    }

    /// The flow with this reply key, expired or not.
    #[inline]
    pub(super) fn find_reply(&self, key: &ReplyKey) -> Option<FlowId> {
        self.find(key.hash(&self.seed), *key)
    }

    /// The flow with this key, expired or not.
    ///
    /// Kept out of the code for packets with a right guess. The key is passed by value, so that only
    /// packets that get here write it to memory.
    #[inline(never)]
    pub(super) fn find<K: Key>(&self, hash: Hash, key: K) -> Option<FlowId> {
        let hot = &self.pool.hot;
        self.index
            .find(K::KIND, hash, |id| key.names(&hot[id as usize]))
            .map(FlowId)
    }

    /// Puts a flow into the queue of its backend's finished flows, or takes it out.
    pub(super) fn set_queued(&mut self, id: FlowId, queued: bool) {
        let entry = &mut self.pool.hot[id.index()];
        entry.set_queued(queued);
        let backend = BackendSlot(entry.backend_slot);
        if queued {
            self.finished.push(backend, id.0, &mut self.pool.cold);
        } else {
            self.finished.remove(backend, id.0, &mut self.pool.cold);
        }
    }
}
