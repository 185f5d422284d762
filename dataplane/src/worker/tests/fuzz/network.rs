//! The network of the fuzz target: hosts, services, and snapshots of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use vl3lb_common::next_hop::{Link, NextHops, Route, RouteKind};
use vl3lb_common::schedule::{Pool, Scheduler};
use vl3lb_common::snapshot::{Generation, NatPorts, Service};
use vl3lb_common::{
    Backend, BackendSlot, BackendSockets, BackendState, ClientAddress, Duration, Protocol, ServiceKey,
    ServiceSlot, Snapshot, SourceRanges,
};

use crate::packet::Framing;
use crate::testing::builder::MACS;

/// Protocol, port and the backends' port of each service. The first and the second share their backends' sockets.
pub(super) const SERVICES: [(Protocol, u16, u16); 4] = [
    (Protocol::Tcp, 8080, 8081),
    (Protocol::Tcp, 443, 8081),
    (Protocol::Udp, 8080, 8081),
    (Protocol::Udp, 53, 5353),
];
/// Backends of each service in each family.
pub(super) const BACKENDS: usize = 3;
/// Clients in each family.
pub(super) const CLIENTS: u8 = 6;
/// The interface's, and those of the routes to the first backend and the first client in a narrow network.
const MTU: u16 = 1_500;
const MTU_TO_BACKEND: u16 = 1_300;
const MTU_TO_CLIENT: u16 = 1_400;
const FIRST_BACKEND: u8 = 2;
const FIRST_CLIENT: u8 = 100;

/// A host's address: 172.16.1.`host` or 2001:db8::`host`.
pub(super) fn host(is_v4: bool, host: u8) -> IpAddr {
    if is_v4 {
        Ipv4Addr::new(172, 16, 1, host).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into()
    }
}

/// The balancer's own address.
pub(super) fn own(is_v4: bool) -> IpAddr {
    host(is_v4, 67)
}

pub(super) fn client(is_v4: bool, number: u8) -> IpAddr {
    host(is_v4, FIRST_CLIENT + number)
}

pub(super) fn backend(is_v4: bool, number: usize) -> IpAddr {
    host(is_v4, FIRST_BACKEND + u8::try_from(number).expect("few"))
}

/// Whether the address is a backend's.
pub(super) fn is_backend(address: IpAddr) -> bool {
    (0..BACKENDS).any(|number| backend(address.is_ipv4(), number) == address)
}

/// Whether this is a socket of a backend of the service.
pub(super) fn serves(service: usize, socket: SocketAddr) -> bool {
    is_backend(socket.ip()) && socket.port() == SERVICES[service].2
}

/// The service at a socket.
pub(super) fn service_at(protocol: Protocol, socket: SocketAddr) -> Option<usize> {
    let is_own = socket.ip() == own(socket.is_ipv4());
    let found = SERVICES
        .iter()
        .position(|&(of, port, _)| (of, port) == (protocol, socket.port()));
    found.filter(|_| is_own)
}

/// What differs between two networks, and between two snapshots of one.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub(super) framing: Framing,
    pub(super) nat_ports: (u16, u16),
    pub(super) scheduler: Scheduler,
    pub(super) affinity: Duration,
    /// The routes to some hosts have an MTU of their own.
    pub(super) is_narrow: bool,
    /// By number, in both families and for all services.
    pub(super) states: [BackendState; BACKENDS],
}

impl Network {
    /// The longest packet that a host gets.
    pub(super) fn mtu_towards(&self, address: IpAddr) -> u16 {
        let is_v4 = address.is_ipv4();
        match address {
            _ if !self.is_narrow => MTU,
            address if address == backend(is_v4, 0) => MTU_TO_BACKEND,
            address if address == client(is_v4, 0) => MTU_TO_CLIENT,
            _ => MTU,
        }
    }

    /// Whether a socket has a NAT port.
    pub(super) fn is_nat_port(&self, socket: SocketAddr) -> bool {
        let (first, last) = self.nat_ports;
        (first..=last).contains(&socket.port())
    }

    pub(super) fn snapshot(&self, generation: u64) -> Snapshot {
        let mut services = HashMap::default();
        let mut service_slots = Vec::new();
        let mut backend_slots = Vec::new();
        for (slot, (protocol, port, backend_port)) in (0..).zip(SERVICES) {
            let slot = ServiceSlot(slot);
            let mut backends = Vec::new();
            for is_v4 in [true, false] {
                for (number, &state) in self.states.iter().enumerate() {
                    let next = backend_slots.len() + backends.len();
                    backends.push(Backend {
                        slot: BackendSlot(u32::try_from(next).expect("few")),
                        since: Generation(1),
                        service: slot,
                        address: backend(is_v4, number),
                        port: backend_port,
                        protocol,
                        weight: 1,
                        state,
                        mac: (self.framing == Framing::Ethernet).then_some(MACS.0),
                    });
                }
                let key = ServiceKey {
                    address: own(is_v4),
                    port,
                    protocol,
                };
                services.insert(key, slot);
            }
            let (v4, v6): (Vec<Backend>, Vec<Backend>) = backends
                .iter()
                .cloned()
                .partition(|backend| backend.address.is_ipv4());
            service_slots.push(Some(Service {
                slot,
                name: format!("service-{port}"),
                protocol,
                port,
                scheduler: self.scheduler,
                affinity: self.affinity,
                source_ranges: SourceRanges::default(),
                client_address: ClientAddress::None,
                drain: Duration::from_secs(60),
                v4: Pool::build(self.scheduler, &v4).into(),
                v6: Pool::build(self.scheduler, &v6).into(),
                max_flows: None,
                backend_sockets: Arc::new(match protocol {
                    Protocol::Tcp | Protocol::Sctp => BackendSockets::default(),
                    Protocol::Udp => BackendSockets::new(&backends),
                }),
            }));
            backend_slots.extend(backends.into_iter().map(Some));
        }
        let link = match self.framing {
            Framing::Ethernet => Link::Ethernet(MACS.1),
            Framing::RawIp => Link::RawIp,
        };
        let route = |destination: IpAddr, prefix_length, mtu| Route {
            kind: RouteKind::Unicast,
            destination,
            prefix_length,
            gateway: None,
            metric: 0,
            mtu,
        };
        let mut routes = vec![route(host(true, 0), 24, None), route(host(false, 0), 64, None)];
        if self.is_narrow {
            for (is_v4, length) in [(true, 32), (false, 128)] {
                routes.push(route(backend(is_v4, 0), length, Some(MTU_TO_BACKEND)));
                routes.push(route(client(is_v4, 0), length, Some(MTU_TO_CLIENT)));
            }
        }
        Snapshot {
            generation: Generation(generation),
            addresses: vec![own(true), own(false)],
            broadcasts: vec![Ipv4Addr::new(172, 16, 1, 255)],
            nat_ports: NatPorts::new(self.nat_ports.0, self.nat_ports.1).expect("not empty"),
            kernel_ports: Arc::default(),
            mtu: MTU,
            next_hops: NextHops::new(link, 1, routes, HashMap::new()),
            services,
            service_slots,
            backend_slots,
        }
    }
}
