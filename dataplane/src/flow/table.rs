//! The table itself: inserting, changing and removing flows. Finding them is in `probe.rs`.

use std::io;

use vl3lb_common::snapshot::{MAX_BACKENDS, WorkerPorts};
use vl3lb_common::{BackendSlot, PortSet, Timestamp};

use super::clients::{Clients, Scope};
use super::counters::ColdEntry;
use super::endpoint::{self, Endpoint, EndpointId, Endpoints, Record};
use super::entry::{HotEntry, Lifetime};
use super::header::{Header, Shape};
use super::index::{Bucket, Index, Kind, MAX_FLOWS};
use super::key::{HashSeed, Key, ReplyKey};
use super::mapping::{Mapping, span};
use super::open::NewFlow;
use super::pool::Pool;
use super::ports::PortMaps;
use super::reclaim::{Class, Ends, OCCUPIED_WORDS, QUEUES, Queues};
use super::state::{Direction, State};

/// A live flow's number. Valid until the flow is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowId(pub(super) u32);

impl FlowId {
    #[inline]
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The flows of one worker as plain data; [`super::Flows`] keeps the rest of the program consistent with it.
pub(crate) struct FlowTable {
    pub(super) pool: Pool,
    pub(super) index: Index,
    pub(super) endpoints: Endpoints,
    pub(super) ports: PortMaps,
    pub(super) queues: Queues,
    pub(super) clients: Clients,
    /// The endpoint where the next search for room in a full table begins.
    pub(super) reclaim_from: u32,
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
    /// An empty table for `capacity` flows, with this worker's NAT ports. `seed` should be
    /// random. Maps all memory; most of it is touched only when flows are opened.
    ///
    /// # Errors
    /// If there is not enough memory, or `capacity` is 0 or above 2^31 - 1, or `nat_ports` is empty
    /// or has port 0.
    pub(crate) fn new(capacity: u32, nat_ports: impl Into<WorkerPorts>, seed: u64) -> io::Result<Self> {
        let ports: WorkerPorts = nat_ports.into();
        if capacity == 0 || capacity > MAX_FLOWS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("map a flow table for {capacity} flows: want 1 to {MAX_FLOWS}"),
            ));
        }
        if ports.count == 0 || ports.first == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "map a flow table with {} NAT ports from {} on: want at least one, above 0",
                    ports.count, ports.first
                ),
            ));
        }
        let buckets = Index::buckets_for(capacity);
        let flows = capacity as usize;
        let words = PortMaps::words_per_endpoint(ports.count);
        let counters = Clients::counters_for(capacity);

        let memory_bytes = span::<Header>(1)
            + span::<Bucket>(buckets as usize)
            + span::<HotEntry>(flows)
            + span::<ColdEntry>(flows)
            + span::<u64>(flows.div_ceil(64))
            + span::<u32>(counters);
        let backend_bytes = span::<Record>(MAX_BACKENDS)
            + span::<u32>(endpoint::PLACES)
            + span::<u32>(endpoint::SLOT_ENDPOINTS)
            + 2 * span::<u32>(MAX_BACKENDS)
            + span::<endpoint::Numbers>(1)
            + span::<Ends>(QUEUES)
            + span::<u64>(OCCUPIED_WORDS)
            + span::<u64>(MAX_BACKENDS * words);
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
        let clients = Clients::new(mapping.carve(counters));
        let endpoints = Endpoints::new(
            mapping.carve(MAX_BACKENDS),
            mapping.carve(endpoint::PLACES),
            mapping.carve(endpoint::SLOT_ENDPOINTS),
            mapping.carve(MAX_BACKENDS),
            mapping.carve(1),
        );
        let queues = Queues::new(mapping.carve(QUEUES), mapping.carve(OCCUPIED_WORDS));
        let in_use = mapping.carve(MAX_BACKENDS);
        let ports_in_use = PortMaps::new(mapping.carve(MAX_BACKENDS * words), in_use, ports);
        *pool.header_mut() = Header::new(&Shape {
            capacity,
            buckets,
            seed,
            ports,
            backends: u16::try_from(MAX_BACKENDS).expect("a small constant"),
        });
        Ok(Self {
            pool,
            index,
            endpoints,
            ports: ports_in_use,
            queues,
            clients,
            reclaim_from: 0,
            seed: HashSeed::new(seed),
            memory_bytes,
        })
    }

    /// A free NAT port towards a backend that has had flows, chosen by `random`, for [`NewFlow::nat_port`]. O(NAT ports
    /// / 64).
    #[inline]
    pub(crate) fn free_port(&self, backend: BackendSlot, endpoint: &Endpoint, random: u64) -> Option<u16> {
        let endpoint = self.endpoints.known(backend, endpoint)?;
        self.ports.find_free(endpoint, random, |_| true)
    }

    /// New flows get NAT ports that `flow_ports` has. O(NAT ports).
    pub(super) fn use_ports(&mut self, flow_ports: &PortSet) {
        self.ports.use_only(flow_ports);
    }

    /// The part of a flow that every packet reads.
    #[inline]
    pub(crate) fn entry(&self, id: FlowId) -> &HotEntry {
        &self.pool.hot[id.index()]
    }

    /// The same, mutable. The flow's identity must not change; its state is changed by [`touch`](Self::touch).
    #[inline]
    pub(crate) fn entry_mut(&mut self, id: FlowId) -> &mut HotEntry {
        &mut self.pool.hot[id.index()]
    }

    /// Where a flow is translated to: its backend's address and port.
    #[inline(always)]
    pub(crate) fn endpoint(&self, entry: &HotEntry) -> &Record {
        self.endpoints.get(entry.endpoint())
    }

    /// The key of the backend's packets of a flow.
    pub(super) fn reply_key(&self, entry: &HotEntry) -> ReplyKey {
        let backend = self.endpoint(entry);
        ReplyKey {
            backend: backend.address,
            backend_port: backend.port,
            local: entry.local,
            nat_port: entry.nat_port,
            protocol: entry.protocol,
        }
    }

    /// A flow's counters and when it was opened.
    #[inline]
    pub(crate) fn counters(&self, id: FlowId) -> &ColdEntry {
        &self.pool.cold[id.index()]
    }

    /// The same, to count.
    #[inline]
    pub(crate) fn counters_mut(&mut self, id: FlowId) -> &mut ColdEntry {
        &mut self.pool.cold[id.index()]
    }

    /// Counts one IP packet of `bytes`. Returns the number of packets in this direction, modulo 2^32.
    #[inline]
    pub(crate) fn count(&mut self, id: FlowId, direction: Direction, bytes: u32) -> u32 {
        self.counters_mut(id).count(direction, bytes)
    }

    /// Moves a flow to `state` after a packet, and starts that state's `timeout`; see
    /// [`State::is_refreshed`] for when not.
    #[inline]
    pub(crate) fn touch(&mut self, id: FlowId, state: State, now: Timestamp, timeout: impl Into<Lifetime>) {
        let entry = &mut self.pool.hot[id.index()];
        let before = Class::of(entry.state());
        entry.advance(state, now, timeout.into());
        let after = Class::of(state);
        if before != after {
            self.change_class(id, before, after);
        }
    }

    /// Adds a flow with a NAT port that [`make_room`](Self::make_room) found. `None` if the table is full.
    pub(super) fn insert(&mut self, new: &NewFlow, nat_port: u16, now: Timestamp) -> Option<FlowId> {
        let endpoint = self
            .endpoints
            .of_flows(new.backend_slot, self.own_index(new.local));
        let mut entry = HotEntry::new(new, endpoint, nat_port);
        entry.expire_after(now, new.timeout.into());
        let (request, reply) = (entry.request_key(), self.reply_key(&entry));
        let id = self.pool.allocate(entry, now)?;
        self.index.insert(Kind::Request, request.hash(&self.seed), id);
        self.index.insert(Kind::Reply, reply.hash(&self.seed), id);
        self.endpoints.opened(new.backend_slot, endpoint);
        self.ports.reserve(endpoint, nat_port);
        self.pool.header_mut().local_flows[usize::from(new.local)] += 1;
        if !new.state.is_over() {
            self.set_live(id, endpoint, true);
        }
        if let Some(class) = Class::of(new.state) {
            self.enqueue(id, endpoint, class);
        }
        Some(FlowId(id))
    }

    /// Removes a flow: its keys, its NAT port and its entry are free at once. Returns its backend.
    ///
    /// # Panics
    /// If `id` is not a live flow: it was closed before.
    pub(super) fn close(&mut self, id: FlowId) -> BackendSlot {
        assert!(self.pool.is_live(id.0), "{id:?} is closed once");
        let entry = self.entry(id);
        let (state, endpoint) = (entry.state(), entry.endpoint());
        if let Some(class) = Class::of(state) {
            self.queues.remove(endpoint, class, id.0, &mut self.pool);
        }
        if !state.is_over() {
            self.set_live(id.0, endpoint, false);
        }
        let entry = self.entry(id);
        let (request, reply) = (entry.request_key(), self.reply_key(entry));
        let (backend, nat_port) = (entry.backend(), entry.nat_port);
        self.index.remove(Kind::Request, request.hash(&self.seed), id.0);
        self.index.remove(Kind::Reply, reply.hash(&self.seed), id.0);
        self.ports.release(endpoint, nat_port);
        self.endpoints.closed(backend, endpoint);
        self.pool.header_mut().local_flows[usize::from(request.local)] -= 1;
        self.pool.release(id.0);
        backend
    }

    /// Flows in the table, expired ones that were not swept yet included.
    pub(crate) fn len(&self) -> u32 {
        self.pool.header().len
    }

    /// Whether `id` is a flow's number now.
    pub(crate) fn is_live(&self, id: FlowId) -> bool {
        self.pool.is_live(id.0)
    }

    /// Whether there is no flow.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows that fit.
    pub(crate) fn capacity(&self) -> u32 {
        self.pool.header().capacity
    }

    /// Bytes of the mapping that grow with the capacity: 111.9 for each flow. The maps of NAT ports
    /// are not counted: 1 bit for each port, only for backends that have had flows.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// NAT ports in use by the flows of a backend slot. Slots with one endpoint share its ports. O(1).
    pub(crate) fn ports_used(&self, backend: BackendSlot) -> u32 {
        self.endpoints.slot_flows(backend)
    }

    /// Places that a sweep of the whole table looks at.
    pub(crate) fn sweep_len(&self) -> usize {
        let fresh = self.pool.header().fresh as usize;
        // Each live flow, and the end of each 64 entries.
        self.len() as usize + fresh.div_ceil(64)
    }

    /// The first live flow from place `from` on, if one is among the next 64, and the next place to look at; `None` after the
    /// last one.
    pub(crate) fn look_at(&self, from: u32) -> (Option<FlowId>, Option<u32>) {
        let fresh = self.pool.header().fresh;
        if from >= fresh {
            return (None, None);
        }
        let (found, next) = self.pool.look_at(from);
        (found.map(FlowId), (next < fresh).then_some(next))
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

    /// Moves a flow to the queue of another class; `None` for none.
    fn change_class(&mut self, id: FlowId, before: Option<Class>, after: Option<Class>) {
        let endpoint = self.entry(id).endpoint();
        if let Some(class) = before {
            self.queues.remove(endpoint, class, id.0, &mut self.pool);
        }
        let (was_over, is_over) = (before == Some(Class::Over), after == Some(Class::Over));
        if was_over != is_over {
            self.set_live(id.0, endpoint, !is_over);
        }
        if let Some(class) = after {
            self.enqueue(id.0, endpoint, class);
        }
    }

    /// Adds a flow at the end of its class.
    pub(super) fn enqueue(&mut self, id: u32, endpoint: EndpointId, class: Class) {
        if class == Class::Replied {
            self.pool.hot[id as usize].mark_use();
        }
        self.queues.push(endpoint, class, id, &mut self.pool);
    }

    /// Counts a flow that is not over, or is over now.
    fn set_live(&mut self, id: u32, endpoint: EndpointId, live: bool) {
        let client = self.pool.hot[id as usize].client;
        for scope in [Scope::Table, Scope::Endpoint(endpoint)] {
            if live {
                self.clients.add(&client, scope, &self.seed);
            } else {
                self.clients.remove(&client, scope, &self.seed);
            }
        }
        self.endpoints.set_live(endpoint, live);
        let count = &mut self.pool.header_mut().live;
        *count = if live { *count + 1 } else { *count - 1 };
    }
}
