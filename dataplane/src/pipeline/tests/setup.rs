//! What the worlds of the tests are made of, and their snapshots.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::IpNet;
use vl3lb_common::next_hop::{Link, NextHops, Route, RouteKind};
use vl3lb_common::schedule::{Pool, Scheduler};
use vl3lb_common::snapshot::{Generation, NatPorts, Service};
use vl3lb_common::{
    Backend, BackendSlot, BackendSockets, BackendState, ClientAddress, Duration, Protocol, ServiceKey,
    ServiceSlot, Snapshot, SourceRanges,
};

use super::{BACKEND_MAC, NAT_PORTS, OWN_MAC};
use crate::packet::Framing;

/// Backends of a service.
const MOST_BACKENDS: usize = 16;

/// What differs between the worlds of the tests.
pub(super) struct Setup {
    pub(super) framing: Framing,
    pub(super) backends: Vec<(&'static str, BackendState)>,
    pub(super) workers: u16,
    pub(super) flows: u32,
    pub(super) client_flows: Option<u32>,
    pub(super) nat_ports: (u16, u16),
    pub(super) scheduler: Scheduler,
    pub(super) affinity: Duration,
    pub(super) max_flows: Option<NonZeroU32>,
    pub(super) source_ranges: Vec<IpNet>,
    pub(super) client_address: ClientAddress,
    pub(super) mtu: u16,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            framing: Framing::Ethernet,
            backends: vec![
                ("172.16.1.2:8081", BackendState::Active),
                ("[2001:db8::2]:8081", BackendState::Active),
            ],
            workers: 1,
            flows: 1_000,
            client_flows: None,
            nat_ports: NAT_PORTS,
            scheduler: Scheduler::RoundRobin,
            affinity: Duration::ZERO,
            max_flows: None,
            source_ranges: Vec::new(),
            client_address: ClientAddress::None,
            mtu: 1_500,
        }
    }
}

pub(super) fn snapshot(setup: &Setup, generation: u64) -> Snapshot {
    let addresses: Vec<IpAddr> = vec!["172.16.1.103".parse().unwrap(), "2001:db8::67".parse().unwrap()];
    let mut services = HashMap::default();
    let mut service_slots = Vec::new();
    let mut backend_slots = Vec::new();
    for (slot, protocol) in (0..).zip(Protocol::ALL) {
        // Slots stay when backends are added.
        backend_slots.resize(usize::from(slot) * MOST_BACKENDS, None);
        let backends: Vec<Backend> = setup
            .backends
            .iter()
            .zip(backend_slots.len()..)
            .map(|(&(address, state), number)| {
                let address: SocketAddr = address.parse().unwrap();
                Backend {
                    slot: BackendSlot(u32::try_from(number).unwrap()),
                    since: Generation(1),
                    service: ServiceSlot(slot),
                    address: address.ip(),
                    port: address.port(),
                    protocol,
                    weight: 1,
                    state,
                    mac: (setup.framing == Framing::Ethernet).then_some(BACKEND_MAC),
                }
            })
            .collect();
        let (v4, v6): (Vec<Backend>, Vec<Backend>) =
            backends.iter().cloned().partition(|b| b.address.is_ipv4());
        for &address in &addresses {
            services.insert(
                ServiceKey {
                    address,
                    port: 8080,
                    protocol,
                },
                ServiceSlot(slot),
            );
        }
        service_slots.push(Some(Service {
            slot: ServiceSlot(slot),
            name: "finance".to_owned(),
            protocol,
            port: 8080,
            scheduler: setup.scheduler,
            affinity: setup.affinity,
            source_ranges: SourceRanges::new(&setup.source_ranges),
            client_address: setup.client_address,
            drain: Duration::from_secs(60),
            v4: Pool::build(setup.scheduler, &v4).into(),
            v6: Pool::build(setup.scheduler, &v6).into(),
            max_flows: setup.max_flows,
            backend_sockets: Arc::new(match protocol {
                Protocol::Tcp | Protocol::Sctp => BackendSockets::default(),
                Protocol::Udp => BackendSockets::new(&backends),
            }),
        }));
        backend_slots.extend(backends.into_iter().map(Some));
    }
    let link = match setup.framing {
        Framing::Ethernet => Link::Ethernet(OWN_MAC),
        Framing::RawIp => Link::RawIp,
    };
    let routes = vec![
        Route {
            kind: RouteKind::Unicast,
            destination: "172.16.1.0".parse().unwrap(),
            prefix_length: 24,
            gateway: None,
            metric: 0,
            mtu: None,
        },
        Route {
            kind: RouteKind::Unicast,
            destination: "2001:db8::".parse().unwrap(),
            prefix_length: 64,
            gateway: None,
            metric: 0,
            mtu: None,
        },
    ];
    Snapshot {
        generation: Generation(generation),
        addresses,
        broadcasts: vec!["172.16.1.255".parse().unwrap()],
        nat_ports: NatPorts::new(setup.nat_ports.0, setup.nat_ports.1).unwrap(),
        kernel_ports: Arc::default(),
        mtu: setup.mtu,
        next_hops: NextHops::new(link, 1, routes, HashMap::new()),
        services,
        service_slots,
        backend_slots,
    }
}
