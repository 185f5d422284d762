//! Services by what a new flow's first packet has at hand: the index of the own address, port and protocol, in one word. The
//! snapshot's own map, by whole addresses, costs five times as much.

use std::net::IpAddr;

use vl3lb_common::{Protocol, ServiceSlot, Snapshot};

/// A hash table with linear probing, at most half full.
#[derive(Debug, Default)]
pub(super) struct ServiceIndex {
    /// Keys with their services; key 0 is free.
    places: Box<[(u32, ServiceSlot)]>,
}

impl ServiceIndex {
    /// The services of `snapshot` at addresses that have an index. Others are not found. O(services).
    pub(super) fn new(snapshot: &Snapshot, index_of: impl Fn(IpAddr) -> Option<u8>) -> Self {
        let length = (snapshot.services.len() * 2).next_power_of_two();
        let mut places = vec![(0, ServiceSlot(0)); length].into_boxed_slice();
        for (service, &slot) in &snapshot.services {
            let Some(local) = index_of(service.address) else {
                continue;
            };
            let key = key(local, service.port, service.protocol);
            let mut at = home(key, length);
            while places[at].0 != 0 {
                at = (at + 1) % length;
            }
            places[at] = (key, slot);
        }
        Self { places }
    }

    /// The service at the own address with this index.
    #[inline]
    pub(super) fn find(&self, local: u8, port: u16, protocol: Protocol) -> Option<ServiceSlot> {
        if self.places.is_empty() {
            return None;
        }
        let key = key(local, port, protocol);
        let mut at = home(key, self.places.len());
        loop {
            match self.places[at] {
                (found, slot) if found == key => return Some(slot),
                (0, _) => return None,
                _ => at = (at + 1) & (self.places.len() - 1),
            }
        }
    }
}

/// Not 0, because no protocol is.
fn key(local: u8, port: u16, protocol: Protocol) -> u32 {
    u32::from(local) << 24 | u32::from(port) << 8 | u32::from(protocol.number())
}

/// Fibonacci hashing, for a table of a power of two. Its keys are the configuration's.
fn home(key: u32, length: usize) -> usize {
    let hash = u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 32) as usize & (length - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use vl3lb_common::ServiceKey;
    use vl3lb_common::next_hop::{Link, NextHops};
    use vl3lb_common::snapshot::{Generation, NatPorts};

    use super::*;

    fn snapshot(services: impl Iterator<Item = (ServiceKey, ServiceSlot)>) -> Snapshot {
        Snapshot {
            generation: Generation(1),
            addresses: Vec::new(),
            broadcasts: Vec::new(),
            nat_ports: NatPorts::new(1, 2).unwrap(),
            kernel_ports: Arc::default(),
            mtu: 1_500,
            next_hops: NextHops::new(Link::RawIp, 1, Vec::new(), HashMap::new()),
            services: services.collect(),
            service_slots: Vec::new(),
            backend_slots: Vec::new(),
        }
    }

    /// 10.0.0.N has the index N - 1, but for 10.0.0.0, which waits for one.
    fn index_of(address: IpAddr) -> Option<u8> {
        match address {
            IpAddr::V4(v4) => v4.octets()[3].checked_sub(1),
            IpAddr::V6(_) => None,
        }
    }

    #[test]
    fn every_service_is_found_and_no_other() {
        let keys = (0..4_u8).flat_map(|host| {
            let port = move |port| {
                [Protocol::Tcp, Protocol::Udp].map(|protocol| ServiceKey {
                    address: [10, 0, 0, host].into(),
                    port,
                    protocol,
                })
            };
            (1..=500_u16).flat_map(move |number| port(number * 7))
        });
        let slot =
            |key: &ServiceKey| ServiceSlot(key.port / 7 * 2 + u16::from(key.protocol == Protocol::Udp));
        let keys: Vec<ServiceKey> = keys.collect();
        let index = ServiceIndex::new(&snapshot(keys.iter().map(|key| (*key, slot(key)))), index_of);
        for key in &keys {
            let Some(local) = index_of(key.address) else {
                continue;
            };
            assert_eq!(
                index.find(local, key.port, key.protocol),
                Some(slot(key)),
                "{key}"
            );
            assert_eq!(index.find(local, key.port + 1, key.protocol), None, "{key}");
            assert_eq!(index.find(200, key.port, key.protocol), None, "{key}");
        }
    }

    #[test]
    fn without_services_nothing_is_found() {
        let index = ServiceIndex::new(&snapshot(std::iter::empty()), index_of);
        assert_eq!(index.find(0, 80, Protocol::Tcp), None);
        assert_eq!(ServiceIndex::default().find(0, 80, Protocol::Tcp), None);
    }
}
