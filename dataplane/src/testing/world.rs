//! A small snapshot for tests and benchmarks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use vl3lb_common::next_hop::{Link, NextHops};
use vl3lb_common::schedule::{Pool, Scheduler};
use vl3lb_common::snapshot::{Generation, NatPorts, Service};
use vl3lb_common::{
    Backend, BackendSlot, BackendState, ClientAddress, Duration, Protocol, ServiceKey, ServiceSlot, Snapshot,
    SourceRanges,
};

use super::builder::MACS;

/// A service with a backend, on TCP and UDP.
pub(crate) const SERVICE: &str = "172.16.1.103:8080";
/// A TCP service without backends.
pub(crate) const NO_BACKENDS: &str = "172.16.1.103:9090";
/// The backend of [`SERVICE`].
pub(crate) const BACKEND: &str = "172.16.1.2:8081";

/// TCP and UDP at [`SERVICE`] with the one [`BACKEND`], TCP at [`NO_BACKENDS`] with none. On Ethernet the
/// backend has the first of [`MACS`].
pub(crate) fn snapshot(generation: u64, link: Link) -> Snapshot {
    let backend = socket_address(BACKEND);
    let mut services = HashMap::default();
    let mut service_slots = Vec::new();
    let mut backend_slots = Vec::new();
    let listeners = [
        (SERVICE, Protocol::Tcp, true),
        (SERVICE, Protocol::Udp, true),
        (NO_BACKENDS, Protocol::Tcp, false),
    ];
    for (slot, (address, protocol, served)) in (0..).zip(listeners) {
        let address = socket_address(address);
        let backends = served.then(|| Backend {
            slot: BackendSlot(slot.into()),
            since: Generation(1),
            service: ServiceSlot(slot),
            address: backend.ip(),
            port: backend.port(),
            protocol,
            weight: 1,
            state: BackendState::Active,
            mac: matches!(link, Link::Ethernet(_)).then_some(MACS.0),
        });
        let key = ServiceKey {
            address: address.ip(),
            port: address.port(),
            protocol,
        };
        services.insert(key, ServiceSlot(slot));
        let scheduler = Scheduler::RoundRobin;
        service_slots.push(Some(Service {
            slot: ServiceSlot(slot),
            name: "finance".to_owned(),
            protocol,
            port: address.port(),
            scheduler,
            affinity: Duration::ZERO,
            source_ranges: SourceRanges::default(),
            client_address: ClientAddress::None,
            drain: Duration::from_secs(60),
            v4: Pool::build(scheduler, backends.as_slice()).into(),
            v6: Pool::build(scheduler, &[]).into(),
            max_flows: None,
            backend_sockets: Arc::default(),
        }));
        backend_slots.push(backends);
    }
    Snapshot {
        generation: Generation(generation),
        addresses: vec![IpAddr::from([172, 16, 1, 103])],
        broadcasts: Vec::new(),
        nat_ports: NatPorts::new(20_000, 20_999).expect("not empty"),
        kernel_ports: Arc::default(),
        mtu: 1500,
        next_hops: NextHops::new(link, 0, Vec::new(), HashMap::new()),
        services,
        service_slots,
        backend_slots,
    }
}

fn socket_address(text: &str) -> SocketAddr {
    text.parse().expect("a constant of this module")
}
