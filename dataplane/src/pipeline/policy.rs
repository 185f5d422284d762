//! Queries of the snapshot in use: the service of a packet, the worker that owns it, the state of its backend.

use std::sync::Arc;

use vl3lb_common::addr::{from_octets, to_octets};
use vl3lb_common::hash::{OwnerKey, reduce};
use vl3lb_common::next_hop::{HopGenerations, Link, hop_bucket};
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::stats::CloseCause;
use vl3lb_common::{
    Backend, BackendState, DropReason, Duration, Generation, MacAddr, PortSet, Protocol, Service, ServiceKey,
    ServiceSlot, Snapshot,
};

use super::client_address::stays_on_the_long_way;
use super::placement::FlowPlacement;
use super::services::ServiceIndex;
use super::tuple::Tuple;
use super::{EngineConfig, Origin};
use crate::flow::{FlowTable, HotEntry, State};
use crate::packet::{Framing, Parsed, Transport};

/// How long a reset flow of a draining backend is kept: a connection that was not reset by its ends shows signs of life
/// within some retransmissions.
const RESET_REST: Duration = Duration::from_secs(10);

/// The snapshot in use, this worker's place among the workers, and the link that they are attached to. Constant while a
/// packet is handled.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) worker: u16,
    pub(super) workers: u16,
    pub(super) framing: Framing,
    /// The secret of the hash that selects a flow's worker.
    pub(super) owner_key: OwnerKey,
    /// Flows of one client at most, all workers together.
    client_flows: u32,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) placement: FlowPlacement,
    /// The smallest MTU of the interface and all routes.
    pub(super) smallest_mtu: u16,
    nat_ports: NatPorts,
    /// Those that new flows get.
    pub(super) flow_ports: PortSet,
    services: ServiceIndex,
    /// What is written in front of a translated packet.
    pub(super) header: LinkHeader,
    /// What the flows of a backend need to know of it, by slot.
    reaches: Box<[Reach]>,
    /// Backends whose flows may have headers, by slot: see [`headers`].
    headers: Box<[Option<Generation>]>,
    /// The generations of clients' MAC addresses, by [`hop_bucket`]: one changes with the kernel's next hops in its
    /// bucket, and all with the attachment.
    hop_generations: [u16; HopGenerations::BUCKETS],
    /// Attachments before the current one.
    former_attachments: u16,
    /// The `hop_generations` with which the current attachment began.
    attached_generations: [u16; HopGenerations::BUCKETS],
}

/// What is written in front of the IP header of a translated packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkHeader {
    /// Nothing.
    RawIp,
    /// MAC addresses; this one is the source.
    Ethernet(MacAddr),
    /// The snapshot is of the former attachment, which had a link of another type.
    Unknown,
}

impl LinkHeader {
    const fn of(framing: Framing, link: Link) -> Self {
        match (framing, link) {
            (Framing::RawIp, _) => Self::RawIp,
            (Framing::Ethernet, Link::Ethernet(own)) => Self::Ethernet(own),
            (Framing::Ethernet, Link::RawIp) => Self::Unknown,
        }
    }
}

/// A backend as packets of its flows see it, in the answer of one load: [`Policy::usable_backend`] and its next hop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub(super) struct Reach {
    mac: MacAddr,
    has_mac: bool,
    /// Its flows go on, and none of them has a header: they may take the short way.
    pub(super) is_plain: bool,
}

impl Reach {
    const fn of(backend: &Backend, has_headers: bool) -> Self {
        let is_plain = is_usable(backend.state) && !has_headers;
        match backend.mac {
            Some(mac) => Self {
                mac,
                has_mac: true,
                is_plain,
            },
            None => Self {
                mac: MacAddr([0; 6]),
                has_mac: false,
                is_plain,
            },
        }
    }

    /// The MAC address of the next hop, if it is resolved.
    #[inline(always)]
    pub(super) fn mac(self) -> Option<MacAddr> {
        self.has_mac.then_some(self.mac)
    }
}

/// Whether the flows of a backend in this state go on.
#[inline(always)]
const fn is_usable(state: BackendState) -> bool {
    match state {
        BackendState::Active | BackendState::Unknown | BackendState::Draining { .. } => true,
        BackendState::Down | BackendState::Gone => false,
    }
}

/// By slot: since when the backend that is there has flows with headers, or may have them, if it does. It keeps those that
/// it has when its service is set to have none.
fn headers(snapshot: &Snapshot, former: &[Option<Generation>]) -> Box<[Option<Generation>]> {
    let since = |(slot, backend): (usize, &Option<Backend>)| {
        let backend = backend.as_ref()?;
        let service = snapshot.service_slots.get(backend.service.index())?.as_ref();
        let has_headers = service.is_some_and(stays_on_the_long_way);
        let had_headers = former.get(slot) == Some(&Some(backend.since));
        (has_headers || had_headers).then_some(backend.since)
    };
    snapshot.backend_slots.iter().enumerate().map(since).collect()
}

fn reaches(snapshot: &Snapshot, headers: &[Option<Generation>]) -> Box<[Reach]> {
    let backends = snapshot.backend_slots.iter().zip(headers);
    backends
        .map(|(backend, since)| {
            let of = |backend| Reach::of(backend, since.is_some());
            backend.as_ref().map_or_else(Reach::default, of)
        })
        .collect()
}

impl Policy {
    pub(super) fn new(config: &EngineConfig, snapshot: Arc<Snapshot>) -> Self {
        let hop_generations = *snapshot.next_hops.generations().all();
        let mut placement = FlowPlacement::default();
        placement.update(&snapshot);
        let headers = headers(&snapshot, &[]);
        Self {
            worker: config.worker,
            workers: config.workers,
            framing: config.framing,
            owner_key: config.owner_key,
            client_flows: config.client_flows.unwrap_or(u32::MAX),
            smallest_mtu: snapshot.smallest_mtu(),
            reaches: reaches(&snapshot, &headers),
            headers,
            nat_ports: snapshot.nat_ports,
            flow_ports: snapshot.flow_ports(),
            services: ServiceIndex::default(),
            header: LinkHeader::of(config.framing, snapshot.next_hops.link),
            snapshot,
            placement,
            hop_generations,
            former_attachments: 0,
            attached_generations: hop_generations,
        }
    }

    /// Switches to `snapshot`, whose own addresses `table` has, and returns the former one. O(services + backends + NAT
    /// ports).
    pub(super) fn set_snapshot(&mut self, snapshot: Arc<Snapshot>, table: &FlowTable) -> Arc<Snapshot> {
        self.nat_ports = snapshot.nat_ports;
        self.flow_ports = snapshot.flow_ports();
        self.services = ServiceIndex::new(&snapshot, |address| table.find_local(&to_octets(address)));
        self.placement.update(&snapshot);
        self.smallest_mtu = snapshot.smallest_mtu();
        self.headers = headers(&snapshot, &self.headers);
        self.reaches = reaches(&snapshot, &self.headers);
        self.header = LinkHeader::of(self.framing, snapshot.next_hops.link);
        self.hop_generations = snapshot
            .next_hops
            .generations()
            .all()
            .map(|generation| generation.wrapping_add(self.former_attachments));
        std::mem::replace(&mut self.snapshot, snapshot)
    }

    /// Begins a new attachment.
    pub(super) fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
        self.header = LinkHeader::of(framing, self.snapshot.next_hops.link);
        // The generations of next hops only grow, so the sums are new.
        self.former_attachments = self.former_attachments.wrapping_add(1);
        self.hop_generations = self.hop_generations.map(|generation| generation.wrapping_add(1));
        self.attached_generations = self.hop_generations;
    }

    /// The generation for a flow to `client` with this MAC address, learned from the client's packets or not.
    #[inline]
    pub(super) const fn hop_generation(&self, mac: MacAddr, client: &[u8; 16], is_learned: bool) -> u16 {
        self.hop_generations[hop_bucket(mac, client, is_learned)]
    }

    /// Whether nothing has changed about the next hop towards a flow's client since it was resolved.
    #[inline(always)]
    pub(super) const fn is_hop_current(&self, entry: &HotEntry) -> bool {
        entry.hop_generation == self.hop_generations[bucket_of(entry)]
    }

    /// Whether the MAC address of a flow's client was learned on a former attachment.
    pub(super) const fn is_of_former_attachment(&self, entry: &HotEntry) -> bool {
        entry
            .hop_generation
            .wrapping_sub(self.attached_generations[bucket_of(entry)])
            .cast_signed()
            < 0
    }

    /// The worker that owns the NAT port which a packet is sent to, if it is one that flows get.
    #[inline(always)]
    pub(super) fn nat_owner(&self, tuple: Tuple) -> Option<u16> {
        let port = tuple.destination_port;
        self.flow_ports.contains(port).then(|| {
            // Spares a single worker the division.
            if self.workers == 1 {
                0
            } else {
                self.nat_ports.owner(port, self.workers)
            }
        })
    }

    /// The same of any port of the range: a service's may be that of a flow that is older.
    pub(super) fn range_owner(&self, tuple: Tuple) -> Option<u16> {
        let port = tuple.destination_port;
        self.nat_ports
            .contains(port)
            .then(|| self.nat_ports.owner(port, self.workers))
    }

    /// The worker that owns the flows of these addresses and ports.
    #[inline]
    pub(super) fn request_owner(&self, client: &[u8; 16], tuple: Tuple) -> u16 {
        self.owner_by_ports(client, tuple.source_port, tuple.destination_port, tuple.protocol)
    }

    #[inline]
    fn owner_by_ports(&self, client: &[u8; 16], from: u16, to: u16, protocol: Protocol) -> u16 {
        // Spares a single worker the hash.
        if self.workers == 1 {
            return 0;
        }
        let hash = self.owner_key.hash(client, from, to, protocol.number());
        u16::try_from(reduce(hash, u32::from(self.workers))).unwrap_or(0)
    }

    /// Whether this worker opens a client's flow of `service`.
    pub(super) fn opens(&self, service: &Service, client: &[u8; 16], port: u16) -> bool {
        let owner = if self.placement.of(service.slot).by_client {
            self.home(client)
        } else {
            self.owner_by_ports(client, port, service.port, service.protocol)
        };
        owner == self.worker
    }

    /// The worker to which a request of `service` is handed, as its flow is not here; `None` if this one is to open it.
    /// `by_ports` is the owner by the client's address and ports.
    ///
    /// A packet passes the owner under the former rule at most once, on its way to the owner, which hands on nothing
    /// that was handed to it: also while workers use different snapshots, one with the former rule and one with the new
    /// one, each of which names the other as the owner. So no packet circulates.
    #[inline]
    pub(super) fn remote_owner(
        &self,
        service: ServiceSlot,
        client: &[u8; 16],
        by_ports: u16,
        origin: Origin,
        transport: &Transport,
    ) -> Option<u16> {
        if origin == Origin::Overflow {
            return None;
        }
        // A fragment was handed to the worker where its datagram meets, whoever owns the flow.
        let is_last = || origin == Origin::Handoff && !matches!(transport, Transport::Fragment { .. });
        if !self.placement.any_by_client() || self.workers == 1 {
            return (by_ports != self.worker && !is_last()).then_some(by_ports);
        }
        let placed = self.placement.of(service);
        let by_client = self.home(client);
        let (owner, former) = if placed.by_client {
            (by_client, by_ports)
        } else {
            (by_ports, by_client)
        };
        let unasked = owner != self.worker || origin == Origin::Queue;
        if placed.asks && former != self.worker && unasked {
            return Some(former);
        }
        let is_former = placed.forwards && former == self.worker;
        (owner != self.worker && (is_former || !is_last())).then_some(owner)
    }

    /// The worker that opens flows of a client when this one, its home, has no room. `None` if this is not the home of
    /// the client, or the packet was passed on already.
    pub(super) fn away(
        &self,
        origin: Origin,
        service: ServiceSlot,
        client: &[u8; 16],
        tuple: Tuple,
    ) -> Option<u16> {
        if self.workers == 1 || origin == Origin::Overflow || !self.placement.of(service).by_client {
            return None;
        }
        if self.home(client) != self.worker {
            return None;
        }
        // One of the others, evenly.
        let others = u32::from(self.workers) - 1;
        let hash = self.owner_key.hash(
            client,
            tuple.source_port,
            tuple.destination_port,
            tuple.protocol.number(),
        );
        let steps = u16::try_from(reduce(hash, others)).ok()? + 1;
        Some((self.worker + steps) % self.workers)
    }

    /// The worker that owns the flows of a client of services with affinity.
    fn home(&self, client: &[u8; 16]) -> u16 {
        let hash = self.owner_key.client_hash(client);
        u16::try_from(reduce(hash, u32::from(self.workers))).unwrap_or(0)
    }

    /// Flows that a client of `service` may have at this worker: its part of the whole, since they are spread over all
    /// workers by their ports, unless all flows of the client are here.
    pub(super) fn client_flows(&self, service: &Service) -> u32 {
        if service.affinity.is_zero() && self.client_flows < u32::MAX {
            self.client_flows.div_ceil(self.workers.into())
        } else {
            self.client_flows
        }
    }

    /// The service that a packet to an own address is sent to.
    pub(super) fn service_of(&self, parsed: &Parsed, tuple: Tuple) -> Option<ServiceSlot> {
        self.services
            .find(tuple.local, tuple.destination_port, tuple.protocol)
            .or_else(|| self.service_at(parsed, tuple))
    }

    /// The service that a packet is sent to, whatever the tuple says about the address.
    pub(super) fn service_at(&self, parsed: &Parsed, tuple: Tuple) -> Option<ServiceSlot> {
        let key = ServiceKey {
            address: from_octets(parsed.destination),
            port: tuple.destination_port,
            protocol: tuple.protocol,
        };
        self.snapshot.services.get(&key).copied()
    }

    pub(super) fn service(&self, slot: ServiceSlot) -> Option<&Service> {
        self.snapshot.service_slots.get(slot.index())?.as_ref()
    }

    /// The flow's backend, or why the flow has to end.
    #[inline(always)]
    pub(super) fn usable_backend(&self, entry: &HotEntry) -> Result<&Backend, (CloseCause, DropReason)> {
        match self.snapshot.backend(entry.backend()) {
            Some(backend) if is_usable(backend.state) => Ok(backend),
            Some(backend) if backend.state == BackendState::Down => {
                Err((CloseCause::BackendDown, DropReason::BackendDown))
            }
            _ => Err((CloseCause::Drain, DropReason::DrainDeadline)),
        }
    }

    /// The flow's backend as its packets see it.
    #[inline(always)]
    pub(super) fn reach(&self, entry: &HotEntry) -> Reach {
        self.reaches
            .get(entry.backend().index())
            .copied()
            .unwrap_or_default()
    }

    /// Why a sweep has to end a flow that has not expired; `rested` is the time since it came into its state, for one
    /// that is over.
    pub(super) fn sweep_cause(&self, entry: &HotEntry, rested: Duration) -> Option<CloseCause> {
        if self.snapshot.kernel_ports.contains(entry.nat_port) {
            return Some(CloseCause::PortTaken);
        }
        match self.usable_backend(entry) {
            Err((cause, _)) => Some(cause),
            // A flow that is over does not keep the slot of a backend that is to go.
            Ok(backend) if matches!(backend.state, BackendState::Draining { .. }) => {
                let is_gone = match entry.state() {
                    State::Finished => true,
                    State::Reset => rested >= RESET_REST,
                    _ => false,
                };
                is_gone.then_some(CloseCause::Drain)
            }
            Ok(_) => None,
        }
    }
}

#[inline(always)]
const fn bucket_of(entry: &HotEntry) -> usize {
    hop_bucket(
        MacAddr(entry.client_mac),
        &entry.client,
        entry.is_client_mac_learned(),
    )
}
