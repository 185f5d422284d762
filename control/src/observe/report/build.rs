//! Builds a report from counters and the state of the control side.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::api::{
    Backend, BackendCheck, BackendCounts, BackendState, CauseCount, Distribution, Drain, Failures, FlowLog,
    NatPortUse, NextHop, NsmConnection, PeerGroup, Process, ReasonCount, Report, Service, ServiceCheck, Time,
    Traffic,
};
use vl3lb_common::dataplane::{Attachment, Steered};
use vl3lb_common::next_hop::{self, Link};
use vl3lb_common::snapshot::{self, NatPorts};
use vl3lb_common::stats::{CONNECT_BOUNDS, CloseCause, DURATION_BOUNDS, WorkerStats};
use vl3lb_common::{DropReason, Timestamp};

use super::counters::{FlowCounts, Sample, ServiceCounts};
use super::{balancer, imbalance, warnings};
use crate::discovery::SourceStatus;
use crate::dns::DnsStats;
use crate::health::{HealthTable, Target};
use crate::local_ports::LocalPorts;
use crate::network::NetworkView;
use crate::publisher::{Current, PublisherStats};
use crate::state::{BackendEntry, Directory, ServiceEntry};

/// Constants of the process.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The host or pod name.
    pub instance: String,
    pub start_time: Time,
    /// Name of the vL3 interface.
    pub interface: String,
    pub nat_ports: NatPorts,
    pub dns_zone: String,
    /// `None` without a file.
    pub config_path: Option<String>,
}

/// The inputs of a report.
pub(super) struct Facts<'a> {
    pub(super) identity: &'a Identity,
    pub(super) time: Time,
    /// The workers' clock.
    pub(super) now: Timestamp,
    /// `None` while there is no attachment.
    pub(super) attachment: Option<&'a Attachment>,
    pub(super) stats: &'a [Arc<WorkerStats>],
    pub(super) steered: Steered,
    pub(super) sample: &'a Sample,
    /// The older sample, for rates.
    pub(super) start: Option<&'a Sample>,
    /// Why attaching to the interface failed.
    pub(super) attach_failure: Option<&'a str>,
    /// `None` before the first snapshot is live.
    pub(super) current: Option<&'a Current>,
    /// `None` before the first look at the interface.
    pub(super) network: Option<&'a NetworkView>,
    pub(super) health: &'a HealthTable,
    /// By the same table, all of one moment.
    pub(super) checks: &'a HashMap<Target, BackendCheck>,
    pub(super) publisher: &'a PublisherStats,
    pub(super) source: &'a SourceStatus,
    /// `None` where the addresses of backends have no source of their own.
    pub(super) connections: Option<&'a SourceStatus>,
    pub(super) file: &'a SourceStatus,
    pub(super) dns: &'a DnsStats,
    pub(super) events_lost: u64,
    pub(super) flow_followers: u64,
    pub(super) flow_events_lost: u64,
    pub(super) captures: u64,
    pub(super) capture_lost: u64,
    pub(super) flow_log: Option<FlowLog>,
    /// `None` without a group.
    pub(super) peer_group: Option<PeerGroup>,
    /// `None` where another process makes the interface.
    pub(super) nsm: Option<NsmConnection>,
    pub(super) process: Process,
    /// Ports of the range of NAT ports that programs of this host use.
    pub(super) local_ports: Arc<LocalPorts>,
    /// Flows at a time towards one backend, from one own address.
    pub(super) nat_port_capacity: u64,
    pub(super) draining: bool,
    /// Why it is not ready; `None` if it is.
    pub(super) not_ready: Option<String>,
}

/// Builds the report.
///
/// Cost: O(services + backends), for a reader's request and once a second.
pub(super) fn report(facts: &Facts<'_>) -> Report {
    let backends = backends(facts);
    let services = services(facts, &backends);
    let mut status = balancer::status(facts, &services, &backends);
    status.warnings = warnings::all(facts, &status, &services, &backends);
    Report {
        time: facts.time,
        generation: facts.current.map(|current| current.generation().0),
        window_seconds: facts.window(),
        status,
        services,
        backends,
    }
}

impl Facts<'_> {
    /// The sources of backends and of their addresses.
    pub(super) fn sources(&self) -> impl Iterator<Item = &SourceStatus> {
        std::iter::once(self.source).chain(self.connections)
    }

    pub(super) fn directory(&self) -> Option<&Directory> {
        self.current.map(|current| &*current.directory)
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.network
            .map_or_else(Vec::new, |network| network.addresses.clone())
    }

    /// Seconds between the two samples.
    pub(super) fn window(&self) -> Option<f64> {
        self.start
            .map(|start| rounded(self.sample.at.since(start.at).as_secs_f64()))
    }

    /// A count of the window as a rate.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rounding error beyond 2^53 is no harm to a rate"
    )]
    pub(super) fn rate(&self, added: Option<u64>) -> Option<f64> {
        Some(rounded(added? as f64 / self.window()?))
    }
}

/// Rounds to three decimals.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn traffic(facts: &Facts<'_>, all: FlowCounts, added: Option<FlowCounts>) -> (Traffic, Traffic) {
    let inbound = Traffic {
        packets_total: all.packets_in(),
        bytes_total: all.bytes_in(),
        packets_per_second: facts.rate(added.map(FlowCounts::packets_in)),
        bytes_per_second: facts.rate(added.map(FlowCounts::bytes_in)),
    };
    let outbound = Traffic {
        packets_total: all.packets_out(),
        bytes_total: all.bytes_out(),
        packets_per_second: facts.rate(added.map(FlowCounts::packets_out)),
        bytes_per_second: facts.rate(added.map(FlowCounts::bytes_out)),
    };
    (inbound, outbound)
}

/// Every reason with its count, in the order of [`DropReason::ALL`].
pub(super) fn reasons(
    facts: &Facts<'_>,
    all: &[u64; DropReason::COUNT],
    added: Option<&[u64; DropReason::COUNT]>,
) -> Vec<ReasonCount> {
    DropReason::ALL
        .iter()
        .map(|reason| ReasonCount {
            reason: reason.name().to_owned(),
            packets_total: all[reason.index()],
            packets_per_second: facts.rate(added.map(|added| added[reason.index()])),
        })
        .collect()
}

/// Live services, by state, then name.
fn services(facts: &Facts<'_>, backends: &[Backend]) -> Vec<Service> {
    let mut of_service: HashMap<&str, Vec<&Backend>> = HashMap::new();
    for backend in backends {
        of_service.entry(&backend.service).or_default().push(backend);
    }
    let mut services: Vec<_> = facts
        .directory()
        .into_iter()
        .flat_map(Directory::live_services)
        .map(|entry| {
            let backends = of_service.get(entry.name.as_str());
            service(facts, entry, backends.map_or(&[], Vec::as_slice))
        })
        .collect();
    services.sort_by(|a, b| (a.state, &a.name).cmp(&(b.state, &b.name)));
    services
}

fn service(facts: &Facts<'_>, entry: &ServiceEntry, backends: &[&Backend]) -> Service {
    let baseline = entry.baseline.as_deref();
    let all = facts.sample.service(entry.slot, baseline);
    let added: Option<ServiceCounts> = facts
        .start
        .map(|start| all.since(&start.service(entry.slot, baseline)));
    let (inbound, outbound) = traffic(facts, all.flows, added.map(|added| added.flows));
    Service {
        name: entry.name.clone(),
        protocol: entry.protocol,
        addresses: entry.addresses.of(&facts.addresses()),
        port: entry.port,
        target_port: entry.target_port,
        scheduler: entry.scheduler,
        affinity_seconds: (!entry.affinity.is_zero()).then_some(entry.affinity.as_secs_f64()),
        source_ranges: entry.source_ranges.clone(),
        client_address: entry.client_address,
        drain_seconds: entry.drain.as_secs_f64(),
        selector: entry.selector.clone(),
        slow_start_seconds: (!entry.rules.slow_start.is_zero())
            .then_some(entry.rules.slow_start.as_secs_f64()),
        max_flows_per_backend: entry.rules.max_flows_per_backend.map(NonZeroU32::get),
        fails_open: entry.fails_open,
        imbalance: imbalance::imbalance(backends.iter().copied()),
        check: entry.health_check.as_ref().map(|check| ServiceCheck {
            kind: check.kind.name().to_owned(),
            object: check.kind.object().map(str::to_owned),
            port: check.kind.port(),
            interval_seconds: check.interval.as_secs_f64(),
            timeout_seconds: check.timeout.as_secs_f64(),
            rise: check.rise,
            fall: check.fall,
            results: facts.health.results(&entry.name),
        }),
        state: entry.state,
        since: Some(Time(entry.since)),
        backends: count(backends.iter().copied()),
        transitions: entry.transitions,
        flows: all.open(),
        flows_opened_total: all.flows.opened(),
        new_flows_per_second: facts.rate(added.map(|added| added.flows.opened())),
        flows_closed: CloseCause::ALL
            .iter()
            .zip(all.closed)
            .map(|(cause, flows_total)| CauseCount {
                cause: cause.name().to_owned(),
                flows_total,
            })
            .collect(),
        inbound,
        outbound,
        drops: reasons(facts, &all.drops, added.as_ref().map(|added| &added.drops)),
        drops_per_second: facts.rate(added.map(|added| added.drops.iter().sum())),
        connect_seconds: Distribution::from_buckets(&all.connect, &CONNECT_BOUNDS, all.sums[0]),
        flow_duration_seconds: Distribution::from_buckets(&all.duration, &DURATION_BOUNDS, all.sums[1]),
    }
}

/// These backends by state.
pub(super) fn count<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> BackendCounts {
    let mut counts = BackendCounts::default();
    for backend in backends {
        add(&mut counts, backend.state);
    }
    counts
}

const fn add(counts: &mut BackendCounts, state: BackendState) {
    counts.total += 1;
    match state {
        BackendState::Up => counts.up += 1,
        BackendState::Draining => counts.draining += 1,
        BackendState::Unknown => counts.unknown += 1,
        BackendState::Down => counts.down += 1,
    }
}

/// Backends of live services, and draining ones of removed services, by state.
fn backends(facts: &Facts<'_>) -> Vec<Backend> {
    let Some(directory) = facts.directory() else {
        return Vec::new();
    };
    let live: HashSet<&str> = directory
        .live_services()
        .map(|service| service.name.as_str())
        .collect();
    let mut backends: Vec<_> = directory
        .backends
        .iter()
        .flatten()
        .filter_map(|entry| Some((entry, directory.service(entry.service)?)))
        // A new service may have the name of a removed one: one name, one series.
        .filter(|(_, service)| service.live || !live.contains(service.name.as_str()))
        .map(|(entry, service)| backend(facts, entry, service))
        .collect();
    backends.sort_by(|a, b| {
        (a.state, &a.service, a.address, a.port).cmp(&(b.state, &b.service, b.address, b.port))
    });
    backends
}

fn backend(facts: &Facts<'_>, entry: &BackendEntry, service: &ServiceEntry) -> Backend {
    let baseline = entry.baseline.as_deref();
    let all = facts.sample.backend(entry.slot, baseline);
    let added = facts
        .start
        .map(|start| all.since(&start.backend(entry.slot, baseline)));
    let (inbound, outbound) = traffic(facts, all.flows, added.map(|added| added.flows));
    let [reset, timeout, unreachable] = all.failed;
    Backend {
        service: service.name.clone(),
        protocol: service.protocol,
        address: entry.address,
        port: entry.port,
        state: match entry.state {
            snapshot::BackendState::Active => BackendState::Up,
            snapshot::BackendState::Unknown => BackendState::Unknown,
            snapshot::BackendState::Down => BackendState::Down,
            snapshot::BackendState::Draining { .. } | snapshot::BackendState::Gone => BackendState::Draining,
        },
        since: Some(Time(entry.since)),
        weight: entry.weight,
        backup: entry.backup,
        slow_start_share: entry.share.part(),
        flows: all.open,
        flows_opened_total: all.flows.opened(),
        new_flows_per_second: facts.rate(added.map(|added| added.flows.opened())),
        failures: Failures {
            reset,
            timeout,
            unreachable,
        },
        failures_per_second: facts.rate(added.map(|added| added.failed.iter().sum())),
        inbound,
        outbound,
        connect_seconds: None,
        nat_ports: NatPortUse {
            used: all.nat_ports,
            capacity: facts.nat_port_capacity * own_addresses(facts, entry.address),
        },
        next_hop: facts.network.and_then(|network| next_hop(network, entry.address)),
        check: facts.checks.get(&target(entry, service)).cloned(),
        transitions: entry.transitions,
        drain: entry.drain_deadline.map(|deadline| Drain {
            deadline: Time(deadline),
            flows_left: all.open,
        }),
        source: Some(entry.origin.name().to_owned()),
        pod: entry.pod.as_ref().map(|place| place.pod.clone()),
        node: entry.pod.as_ref().and_then(|place| place.node.clone()),
    }
}

/// The key of the backend in health checks.
fn target(entry: &BackendEntry, service: &ServiceEntry) -> Target {
    Target {
        protocol: service.protocol,
        service_port: service.port,
        address: entry.address,
        port: entry.port,
        instance: entry.instance.clone(),
    }
}

/// Own addresses of the family of `backend`: each has all NAT ports towards it.
fn own_addresses(facts: &Facts<'_>, backend: IpAddr) -> u64 {
    let Some(current) = facts.current else { return 1 };
    let addresses = current.snapshot.addresses.iter();
    addresses.filter(|own| own.is_ipv4() == backend.is_ipv4()).count() as u64
}

fn next_hop(network: &NetworkView, address: IpAddr) -> Option<NextHop> {
    if network.next_hops.link == Link::RawIp {
        return None;
    }
    Some(match network.next_hops.resolve(address) {
        next_hop::NextHop::Mac(mac) => NextHop {
            mac: Some(mac.to_string()),
            state: "resolved".to_owned(),
        },
        next_hop::NextHop::Unresolved(_) => NextHop {
            mac: None,
            state: "unresolved".to_owned(),
        },
        next_hop::NextHop::NoRoute => NextHop {
            mac: None,
            state: "no_route".to_owned(),
        },
        next_hop::NextHop::Refused(kind) => NextHop {
            mac: None,
            state: kind.name().to_owned(),
        },
    })
}
