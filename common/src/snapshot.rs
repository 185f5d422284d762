//! The immutable configuration that workers balance by.
//!
//! Control builds a new [`Snapshot`] for every change and hands an `Arc` of it to each worker; a
//! worker switches between two bursts. Slots are stable: a backend keeps its slot in every
//! generation until its last flow is gone, so flows and counters can refer to it by number.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::addr::{Protocol, ServiceKey};
use crate::backend_sockets::BackendSockets;
use crate::next_hop::NextHops;
use crate::schedule::{Pool, Scheduler};
use crate::source_ranges::SourceRanges;
use crate::time::Duration;

pub use crate::backend::{
    Backend, BackendSlot, BackendState, Generation, MAX_BACKENDS, MAX_SERVICES, ServiceSlot,
};

/// One service.
#[derive(Debug, Clone)]
pub struct Service {
    pub slot: ServiceSlot,
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub scheduler: Scheduler,
    /// For how long after a flow a client keeps its backend; zero: for no time.
    pub affinity: Duration,
    /// Clients that may open flows.
    pub source_ranges: SourceRanges,
    /// How long flows of a removed backend may continue.
    pub drain: Duration,
    /// Backends for clients that use IPv4. Shared between snapshots as long as they stay the same.
    pub v4: Arc<Pool>,
    /// Backends for clients that use IPv6.
    pub v6: Arc<Pool>,
    /// Of both families; empty for TCP, where a reset ends what a forged SYN begins. Shared like the pools.
    pub backend_sockets: Arc<BackendSockets>,
}

impl Service {
    /// The pool for clients of the family of `client`.
    pub fn pool(&self, client: IpAddr) -> &Pool {
        if client.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

/// The ports that the balancer uses as the source of translated flows. They belong to it alone:
/// the kernel's ephemeral ports and every listener are elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatPorts {
    first: u16,
    last: u16,
}

impl NatPorts {
    /// `None` if the range is empty.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first <= last && first > 0 {
            Some(Self { first, last })
        } else {
            None
        }
    }

    pub const fn first(self) -> u16 {
        self.first
    }

    pub const fn last(self) -> u16 {
        self.last
    }

    #[inline]
    pub const fn contains(self, port: u16) -> bool {
        // One comparison: each packet asks.
        port.wrapping_sub(self.first) <= self.last - self.first
    }

    /// Ports in each worker's part; a remainder stays unused.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "port 0 is never in the range, so 65,535 at most"
    )]
    pub const fn per_worker(self, workers: u16) -> u16 {
        ((self.last as u32 - self.first as u32 + 1) / workers as u32) as u16
    }

    /// The ports that `worker` of `workers` hands out.
    pub const fn slice(self, worker: u16, workers: u16) -> RangeInclusive<u16> {
        let size = self.per_worker(workers);
        let first = self.first + size * worker;
        first..=first + (size - 1)
    }

    /// The worker that owns flows with this NAT port. `port` must be in the range; ports of the
    /// unused remainder count to the last worker, who will not know them.
    #[inline]
    pub const fn owner(self, port: u16, workers: u16) -> u16 {
        let owner = (port - self.first) / self.per_worker(workers);
        if owner < workers { owner } else { workers - 1 }
    }
}

/// Services by the destination of clients. Workers read it for each new flow, so it hashes fast; its
/// keys come from the configuration, not from the network.
pub type ServiceMap = HashMap<ServiceKey, ServiceSlot, foldhash::fast::RandomState>;

/// The complete configuration of the workers.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub generation: Generation,
    /// The balancer's own addresses on the vL3 interface.
    pub addresses: Vec<IpAddr>,
    /// The broadcast addresses of the interface's subnets, from which nobody sends.
    pub broadcasts: Vec<Ipv4Addr>,
    pub nat_ports: NatPorts,
    /// The interface's MTU: the longest IP packet that may be sent.
    pub mtu: u16,
    pub next_hops: NextHops,
    /// Keys of live services only.
    pub services: ServiceMap,
    /// By slot; removed ones are `None`.
    pub service_slots: Vec<Option<Service>>,
    /// By slot; free ones are `None`.
    pub backend_slots: Vec<Option<Backend>>,
}

impl Snapshot {
    /// The smallest MTU of the interface and its routes: what is no longer fits every next hop.
    pub fn smallest_mtu(&self) -> u16 {
        self.mtu.min(self.next_hops.smallest_mtu())
    }

    /// The service that listens at `key`.
    #[inline]
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services
            .get(key)
            .and_then(|slot| self.service_slots.get(slot.index())?.as_ref())
    }

    /// Whether a service listens at a port in the range of NAT ports. O(services).
    pub fn has_services_at_nat_ports(&self) -> bool {
        self.services.keys().any(|key| self.nat_ports.contains(key.port))
    }

    /// The backend in `slot`.
    #[inline]
    pub fn backend(&self, slot: BackendSlot) -> Option<&Backend> {
        self.backend_slots.get(slot.index())?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nat_port_of_a_slice_belongs_to_its_worker() {
        let ports = NatPorts::new(10_240, 32_767).unwrap();
        for workers in [1, 2, 3, 7] {
            let mut total = 0;
            for worker in 0..workers {
                for port in ports.slice(worker, workers) {
                    assert!(ports.contains(port));
                    assert_eq!(ports.owner(port, workers), worker, "port {port}");
                    total += 1;
                }
            }
            assert_eq!(total, ports.per_worker(workers) * workers);
            assert!(ports.owner(32_767, workers) < workers);
        }
    }

    #[test]
    fn an_empty_range_is_refused() {
        assert!(NatPorts::new(2, 1).is_none());
        assert!(NatPorts::new(0, 1).is_none());
    }
}
