//! The snapshot of the benchmark: three services, each with enough backends for its flows.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use vl3lb_common::next_hop::{Link, NextHops, Route, RouteKind};
use vl3lb_common::schedule::{Pool, Scheduler};
use vl3lb_common::snapshot::{Generation, NatPorts, Service};
use vl3lb_common::{
    Backend, BackendSlot, BackendSockets, BackendState, ClientAddress, Duration, MacAddr, Protocol,
    ServiceKey, ServiceSlot, Snapshot, SourceRanges,
};

/// The balancer.
pub(super) const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 103);
pub(super) const OWN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x1b]);
/// The router, which all clients and backends are behind.
pub(super) const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 1);

/// The port of every backend.
pub(super) const BACKEND_PORT: u16 = 8081;
/// The same range as in the product's defaults.
const NAT_PORTS: (u16, u16) = (10_240, 32_767);
/// Backends of a service at least.
const MIN_BACKENDS: u32 = 64;

/// A service of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// UDP flows that stay.
    Lasting,
    /// UDP flows that are opened again and again.
    Renewed,
    /// TCP flows that are opened again and again.
    Connections,
}

impl Group {
    const ALL: [Self; 3] = [Self::Lasting, Self::Renewed, Self::Connections];

    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Lasting | Self::Connections => 8080,
            Self::Renewed => 9090,
        }
    }

    pub(super) const fn protocol(self) -> Protocol {
        match self {
            Self::Lasting | Self::Renewed => Protocol::Udp,
            Self::Connections => Protocol::Tcp,
        }
    }
}

/// Snapshots of one world.
#[derive(Debug)]
pub(super) struct World {
    /// Flows that each service's backends have NAT ports for, and a quarter more, since chance
    /// spreads flows unevenly.
    flows: [u32; 3],
}

impl World {
    /// A world for so many flows at once to each group's service, in the order of the groups.
    pub(super) const fn new(flows: [u32; 3]) -> Self {
        Self { flows }
    }

    /// The backends of `gone` are dead: a sweep ends their flows.
    pub(super) fn snapshot(&self, generation: u64, gone: Option<Group>) -> Arc<Snapshot> {
        let nat_ports = NatPorts::new(NAT_PORTS.0, NAT_PORTS.1).expect("a constant range that is not empty");
        let per_backend = u32::from(nat_ports.of_worker(0, 1).count);
        let mut snapshot = Snapshot {
            generation: Generation(generation),
            addresses: vec![IpAddr::V4(OWN_ADDRESS)],
            broadcasts: Vec::new(),
            nat_ports,
            kernel_ports: Arc::default(),
            mtu: 1500,
            next_hops: next_hops(),
            services: HashMap::default(),
            service_slots: Vec::new(),
            backend_slots: Vec::new(),
        };
        for ((slot, group), flows) in (0..).zip(Group::ALL).zip(self.flows) {
            let backends = (flows + flows / 4).div_ceil(per_backend).max(MIN_BACKENDS);
            let state = if gone == Some(group) {
                BackendState::Gone
            } else {
                BackendState::Active
            };
            add_service(&mut snapshot, ServiceSlot(slot), group, backends, state);
        }
        Arc::new(snapshot)
    }
}

fn add_service(snapshot: &mut Snapshot, slot: ServiceSlot, group: Group, backends: u32, state: BackendState) {
    let first = u32::try_from(snapshot.backend_slots.len()).expect("some thousand backends");
    let backends: Vec<Backend> = (first..first + backends)
        .map(|number| Backend {
            slot: BackendSlot(number),
            since: Generation(1),
            service: slot,
            address: Ipv4Addr::from_bits(Ipv4Addr::new(172, 20, 0, 1).to_bits() + number).into(),
            port: BACKEND_PORT,
            protocol: group.protocol(),
            weight: 1,
            state,
            mac: Some(ROUTER_MAC),
        })
        .collect();
    let key = ServiceKey {
        address: OWN_ADDRESS.into(),
        port: group.port(),
        protocol: group.protocol(),
    };
    snapshot.services.insert(key, slot);
    snapshot.service_slots.push(Some(Service {
        slot,
        name: format!("{group:?}").to_lowercase(),
        protocol: group.protocol(),
        port: group.port(),
        scheduler: Scheduler::Maglev,
        affinity: Duration::ZERO,
        source_ranges: SourceRanges::default(),
        client_address: ClientAddress::None,
        drain: Duration::from_secs(60),
        v4: Pool::build(Scheduler::Maglev, &backends).into(),
        v6: Pool::Empty.into(),
        max_flows: None,
        backend_sockets: Arc::new(BackendSockets::new(&backends)),
    }));
    snapshot.backend_slots.extend(backends.into_iter().map(Some));
}

fn next_hops() -> NextHops {
    let route = |destination, prefix_length, gateway| Route {
        kind: RouteKind::Unicast,
        destination: IpAddr::V4(destination),
        prefix_length,
        gateway,
        metric: 0,
        mtu: None,
    };
    let routes = vec![
        route(Ipv4Addr::new(172, 16, 1, 0), 24, None),
        route(Ipv4Addr::UNSPECIFIED, 0, Some(ROUTER.into())),
    ];
    let neighbors = HashMap::from([(ROUTER.into(), ROUTER_MAC)]);
    NextHops::new(Link::Ethernet(OWN_MAC), 1, routes, neighbors)
}
