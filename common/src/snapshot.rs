//! The immutable configuration that workers balance by.
//!
//! Control builds a new [`Snapshot`] for every change and hands an `Arc` of it to each worker; a
//! worker switches between two bursts. Slots are stable: a backend keeps its slot in every
//! generation until its last flow is gone, so flows and counters can refer to it by number.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::addr::{Protocol, ServiceKey};
use crate::backend_sockets::BackendSockets;
use crate::client_address::ClientAddress;
use crate::next_hop::NextHops;
use crate::port_set::PortSet;
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
    /// What new flows carry for the backends.
    pub client_address: ClientAddress,
    /// How long flows of a removed backend may continue.
    pub drain: Duration,
    /// Flows of one backend at most, all workers together; `None`: no limit.
    pub max_flows: Option<NonZeroU32>,
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

/// The range of ports that the balancer uses as the source of translated flows. Ports of it that are the kernel's are left
/// out: see [`Snapshot::kernel_ports`].
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

    /// The ports that `worker` of `workers` hands out: every `workers`th, so that all have about as many of those that
    /// are not left out.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "port 0 is never in the range, so 65,535 at most"
    )]
    pub const fn of_worker(self, worker: u16, workers: u16) -> WorkerPorts {
        let all = self.last as u32 - self.first as u32 + 1;
        let count = all.saturating_sub(worker as u32).div_ceil(workers as u32);
        WorkerPorts {
            first: self.first.saturating_add(worker),
            step: workers,
            count: count as u16,
        }
    }

    /// The worker that owns flows with this NAT port, which must be in the range.
    #[inline]
    pub const fn owner(self, port: u16, workers: u16) -> u16 {
        (port - self.first) % workers
    }
}

/// The NAT ports of one worker: `count` ports from `first` on, at a distance of `step`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerPorts {
    pub first: u16,
    /// At least 1.
    pub step: u16,
    pub count: u16,
}

impl WorkerPorts {
    /// The port with this number, which must be below `count`.
    #[inline]
    pub const fn nth(self, number: u16) -> u16 {
        self.first + number * self.step
    }

    /// The number of a port, which must be one of these.
    #[inline]
    pub const fn number(self, port: u16) -> u16 {
        (port - self.first) / self.step
    }

    /// All ports, ascending.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        (0..self.count).map(move |number| self.nth(number))
    }
}

/// All ports of a range, of an only worker.
impl From<RangeInclusive<u16>> for WorkerPorts {
    fn from(range: RangeInclusive<u16>) -> Self {
        Self {
            first: *range.start(),
            step: 1,
            count: u16::try_from(range.len()).unwrap_or(u16::MAX),
        }
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
    /// Ports of this host's programs, reserved and ephemeral ones: no flow has them as NAT port, and packets to them are the
    /// kernel's. The same set in each snapshot while nothing changes.
    pub kernel_ports: Arc<PortSet>,
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

    /// The NAT ports that new flows may get: all but those of the kernel and of services. O(NAT ports + services).
    pub fn flow_ports(&self) -> PortSet {
        let mut ports = PortSet::from(self.nat_ports.first()..=self.nat_ports.last());
        ports.remove_all(&self.kernel_ports);
        for key in self.services.keys() {
            ports.remove(key.port);
        }
        ports
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
    fn each_nat_port_belongs_to_one_worker() {
        for (first, last) in [(10_240, 32_767), (1, 65_535), (7, 13)] {
            let ports = NatPorts::new(first, last).unwrap();
            for workers in [1, 2, 3, 7] {
                let mut all = PortSet::default();
                let mut counts = Vec::new();
                for worker in 0..workers {
                    let own = ports.of_worker(worker, workers);
                    counts.push(own.count);
                    for (number, port) in (0..own.count).zip(own.iter()) {
                        assert!(ports.contains(port) && !all.contains(port));
                        assert_eq!(ports.owner(port, workers), worker, "port {port}");
                        assert_eq!(own.number(port), number);
                        all.insert(port);
                    }
                }
                assert_eq!(all, PortSet::from(first..=last));
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            }
        }
        assert_eq!(NatPorts::new(5, 5).unwrap().of_worker(1, 2).count, 0);
    }

    #[test]
    fn a_hole_takes_as_many_ports_from_each_worker() {
        let ports = NatPorts::new(1024, 65_535).unwrap();
        let ephemeral = PortSet::from(32_768..=60_999);
        let left = |worker| {
            let own = ports.of_worker(worker, 4).iter();
            own.filter(|port| !ephemeral.contains(*port)).count()
        };
        assert_eq!([0, 1, 2, 3].map(left), [9_070; 4]);
    }

    #[test]
    fn an_empty_range_is_refused() {
        assert!(NatPorts::new(2, 1).is_none());
        assert!(NatPorts::new(0, 1).is_none());
    }
}
