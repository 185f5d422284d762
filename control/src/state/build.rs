//! Builds the snapshot and the directory of a state.

use std::sync::Arc;

use crate::api::{BackendCounts, ServiceState};
use vl3lb_common::snapshot::{BackendSlot, BackendState, Service, ServiceMap, Snapshot};
use vl3lb_common::{BackendSockets, Protocol, ServiceKey, SourceRanges};

use super::pool::Candidate;
use super::record::BackendRecord;
use super::slots::{backend_slot, service_slot};
use super::{BackendEntry, Changes, Directory, ServiceEntry, State, TimePoint};
use crate::config::WhenAllDown;
use crate::network::NetworkView;

impl State {
    /// Refreshes stale pools, and emits the services that came up or went down.
    pub(super) fn refresh_services(&mut self, now: TimePoint, changes: &mut Changes) {
        for (_, service) in self.services.iter_mut() {
            if !std::mem::take(&mut service.stale) {
                continue;
            }
            // Pools have their backends by slot.
            let mut slots: Vec<BackendSlot> = service.members.values().copied().collect();
            slots.sort_unstable();
            let records = || slots.iter().filter_map(|slot| self.backends.get(slot.index()));
            let counts = records().fold(BackendCounts::default(), count);
            // With all backends down the checks may be at fault.
            let fails_open = service.attributes.rules.when_all_down == WhenAllDown::FailOpen
                && !records().any(|record| record.state.takes_new_flows())
                && records().any(BackendRecord::may_fail_open);
            for slot in &slots {
                if let Some(record) = self.backends.get_mut(slot.index()) {
                    record.fail_open(fails_open, self.generation);
                }
            }
            let members = slots.iter().filter_map(|&slot| {
                let record = self.backends.get(slot.index())?;
                Some(Candidate {
                    backend: record.backend(slot),
                    backup: record.backup,
                    share: record.share,
                })
            });
            let (v4, v6): (Vec<_>, Vec<_>) =
                members.partition(|candidate| candidate.backend.address.is_ipv4());
            service.v4.refresh(service.attributes.scheduler, &v4);
            service.v6.refresh(service.attributes.scheduler, &v6);
            if service.protocol == Protocol::Udp {
                let backends = v4.iter().chain(&v6).map(|candidate| &candidate.backend);
                let sockets = BackendSockets::new(backends);
                if sockets != *service.backend_sockets {
                    service.backend_sockets = Arc::new(sockets);
                }
            }
            let to = if fails_open {
                ServiceState::Degraded
            } else {
                counts.state()
            };
            let from = service.state.replace(to);
            service.fails_open = fails_open;
            if from != Some(to) {
                service.since = now.wall;
            }
            changes.events.extend(service.event(counts, fails_open));
        }
    }

    /// The snapshot for the workers.
    pub(super) fn snapshot(&self, network: &NetworkView) -> Snapshot {
        let mut services = ServiceMap::default();
        // A removed service keeps its key while its flows drain, unless another one has it by now: its
        // packets must still come here. It gets no new flows, since all its backends drain.
        let removed = self
            .services
            .iter()
            .filter(|(_, service)| service.removed.is_some());
        let live = self
            .services
            .iter()
            .filter(|(_, service)| service.removed.is_none());
        for (index, service) in removed.chain(live) {
            for address in service.attributes.addresses.of(&network.addresses) {
                let key = ServiceKey {
                    address,
                    port: service.port,
                    protocol: service.protocol,
                };
                services.insert(key, service_slot(index));
            }
        }
        Snapshot {
            generation: self.generation,
            addresses: network.addresses.clone(),
            broadcasts: network.broadcasts.clone(),
            nat_ports: self.nat_ports,
            kernel_ports: Arc::clone(&self.kernel_ports),
            mtu: network.mtu,
            next_hops: network.next_hops.clone(),
            services,
            service_slots: self.services.map(|index, record| Service {
                slot: service_slot(index),
                name: record.attributes.name.clone(),
                protocol: record.protocol,
                port: record.port,
                scheduler: record.attributes.scheduler,
                affinity: record.attributes.affinity,
                source_ranges: SourceRanges::new(&record.attributes.source_ranges),
                client_address: record.attributes.client_address,
                drain: record.attributes.drain,
                max_flows: record.attributes.rules.max_flows_per_backend,
                v4: record.v4.pool(),
                v6: record.v6.pool(),
                backend_sockets: Arc::clone(&record.backend_sockets),
            }),
            backend_slots: self
                .backends
                .map(|index, record| record.backend(backend_slot(index))),
        }
    }

    /// The directory for reports.
    pub(super) fn directory(&self) -> Directory {
        Directory {
            generation: self.generation,
            services: self.services.map(|index, record| ServiceEntry {
                slot: service_slot(index),
                name: record.attributes.name.clone(),
                host: record.attributes.host.clone(),
                namespace: record.attributes.namespace.clone(),
                addresses: record.attributes.addresses.clone(),
                protocol: record.protocol,
                port: record.port,
                target_port: record.attributes.target_port,
                selector: record.attributes.selector.clone(),
                scheduler: record.attributes.scheduler,
                affinity: record.attributes.affinity,
                source_ranges: record.attributes.source_ranges.clone(),
                client_address: record.attributes.client_address,
                drain: record.attributes.drain,
                live: record.removed.is_none(),
                state: record.state.unwrap_or(ServiceState::Down),
                since: record.since,
                health_check: record.attributes.health_check.clone(),
                rules: record.attributes.rules.clone(),
                fails_open: record.fails_open,
                transitions: self.transitions.of(&record.attributes.name),
                baseline: record.baseline.clone(),
            }),
            backends: self.backends.map(|index, record| BackendEntry {
                slot: backend_slot(index),
                service: record.service,
                address: record.address,
                port: record.port,
                instance: record.instance.clone(),
                weight: record.weight,
                backup: record.backup,
                share: record.share,
                origin: record.origin,
                pod: record.pod.clone(),
                state: record.state,
                since: record.since,
                transitions: record.transitions,
                drain_deadline: match record.state {
                    BackendState::Draining { .. } if record.held => None,
                    BackendState::Draining { .. } => Some(record.left + self.drain_of(record)),
                    BackendState::Active
                    | BackendState::Unknown
                    | BackendState::Down
                    | BackendState::Gone => None,
                },
                baseline: record.baseline.clone(),
            }),
            problems: self.problems.clone(),
        }
    }
}

fn count(mut counts: BackendCounts, backend: &BackendRecord) -> BackendCounts {
    counts.total += 1;
    match backend.state {
        BackendState::Active => counts.up += 1,
        BackendState::Unknown => counts.unknown += 1,
        BackendState::Down => counts.down += 1,
        BackendState::Draining { .. } | BackendState::Gone => counts.draining += 1,
    }
    counts
}
