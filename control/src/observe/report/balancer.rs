//! The status part of a report: the balancer as a whole.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::api::{
    AttachReport, Backend, ConfigFile, Discovery, Distribution, Dns, ErrorCount, FastPath, FlowTraffic,
    Imbalance, Interface, LeftOut, MissingCollection, PuntCount, RcodeCount, Service, ServiceState, Status,
    Steering, Time, Totals, Traffic, Worker, XskDrops,
};
use vl3lb_common::Timestamp;
use vl3lb_common::dataplane::Attachment;
use vl3lb_common::next_hop::{Link, NextHop};
use vl3lb_common::stats::WorkerStats;

use super::build::{Facts, count, reasons, rounded};
use crate::discovery::{Missing, SourceStatus};
use crate::dns;
use crate::network::NetworkView;
use crate::publisher::{APPLY_BOUNDS, PROGRAM_BOUNDS};
use crate::state::Directory;
use crate::version;

/// The balancer as a whole, without warnings.
pub(super) fn status(facts: &Facts<'_>, services: &[Service], backends: &[Backend]) -> Status {
    let Facts {
        identity,
        attachment,
        file,
        ..
    } = facts;
    Status {
        version: version::VERSION.to_owned(),
        revision: version::REVISION.to_owned(),
        instance: identity.instance.clone(),
        ready: facts.not_ready.is_none(),
        not_ready_reason: facts.not_ready.clone(),
        draining: facts.draining,
        start_time: identity.start_time,
        snapshot_time: facts.current.map(|current| Time(current.published)),
        snapshot_apply_seconds: Distribution::from_buckets(
            &facts.publisher.applied.counts(),
            &APPLY_BOUNDS,
            facts.publisher.applied.sum_micros(),
        ),
        network_programming_seconds: Distribution::from_buckets(
            &facts.publisher.programmed.counts(),
            &PROGRAM_BOUNDS,
            facts.publisher.programmed.sum_micros(),
        ),
        snapshot_failures_total: facts.publisher.failed.get(),
        interface: interface(facts),
        mode: attachment.map(mode),
        workers: workers(facts),
        steering: Steering {
            redirect: facts.steered.redirected,
            pass: facts.steered.passed,
            drop: facts.steered.dropped,
        },
        fast_path: fast_path(facts),
        totals: totals(facts, services, backends),
        discovery: facts.sources().map(discovery).collect(),
        config: ConfigFile {
            path: identity.config_path.clone(),
            ok: file.error.is_none(),
            loaded_time: file.loaded.map(Time),
            error: file.error.clone(),
        },
        dns: dns(facts),
        peer_group: facts.peer_group.clone(),
        nsm: facts.nsm.clone(),
        process: facts.process,
        events_lost_total: facts.events_lost,
        flow_followers: facts.flow_followers,
        flow_events_lost_total: facts.flow_events_lost,
        captures_active: facts.captures,
        capture_lost_packets_total: facts.capture_lost,
        flow_log: facts.flow_log.clone(),
        warnings: Vec::new(),
    }
}

fn discovery(source: &SourceStatus) -> Discovery {
    let errors = source
        .errors
        .by_reason()
        .map(|(reason, errors_total)| ErrorCount {
            reason: reason.name().to_owned(),
            errors_total,
        });
    Discovery {
        source: source.origin.name().to_owned(),
        synced: source.synced,
        last_event_time: source.last_event.map(Time),
        last_error: source.error.clone(),
        events_total: source.events,
        errors_total: source.errors.total(),
        loaded_time: source.loaded.map(Time),
        errors: errors.collect(),
        missing: source.missing.iter().map(missing).collect(),
        left_out: left_out(source),
        nsm: source.nsm.as_deref().cloned(),
    }
}

fn left_out(source: &SourceStatus) -> Vec<LeftOut> {
    let left_out = source.left_out.iter().map(|(reason, &count)| LeftOut {
        reason: (*reason).to_owned(),
        count,
    });
    left_out.collect()
}

/// The interface as the kernel has it now; before the first look, as it was attached.
fn interface(facts: &Facts<'_>) -> Interface {
    let attachment = facts.attachment;
    let present = facts.network.filter(|network| network.index.is_some());
    let assumed = attachment.filter(|_| facts.network.is_none());
    Interface {
        name: facts.identity.interface.clone(),
        kind: attachment.map(|attachment| attachment.driver.clone()),
        link: present
            .map(|network| network.next_hops.link)
            .or_else(|| assumed.map(|attachment| attachment.link))
            .map(|link| link.name().to_owned()),
        index: present
            .and_then(|network| network.index)
            .or_else(|| assumed.map(|attachment| attachment.index)),
        mtu: present
            .map(|network| network.mtu)
            .or_else(|| assumed.map(|attachment| attachment.mtu)),
        addresses: facts.addresses(),
        up: facts.network.map(NetworkView::is_up),
        neighbors_unresolved: facts.network.map(|network| unresolved(facts, network)),
    }
}

fn mode(attachment: &Attachment) -> AttachReport {
    AttachReport {
        attach: attachment.mode.name().to_owned(),
        zero_copy: attachment.zero_copy,
        reason: attachment.reason.clone(),
        refuses: attachment.refuses.clone(),
        refuses_local_clients: attachment.local_clients.clone(),
    }
}

fn fast_path(facts: &Facts<'_>) -> FastPath {
    let (capacity, reason) = facts.attachment.map_or_else(
        || (0, "not attached".to_owned()),
        |attachment| (attachment.fast_path.flows, attachment.fast_path.reason.clone()),
    );
    let sum = |count: &dyn Fn(&WorkerStats) -> u64| facts.stats.iter().map(|stats| count(stats)).sum::<u64>();
    let traffic = |direction: usize| FlowTraffic {
        packets_total: sum(&|stats| stats.fast_path.traffic[direction].packets.get()),
        bytes_total: sum(&|stats| stats.fast_path.traffic[direction].bytes.get()),
    };
    let (inbound, outbound) = (traffic(0), traffic(1));
    let packets = inbound.packets_total + outbound.packets_total;
    let others = sum(&|stats| stats.transmitted.get());
    let steered = &facts.steered.fast_path;
    FastPath {
        capacity,
        reason,
        flows: sum(&|stats| stats.fast_path.flows.get()),
        promoted_flows_total: sum(&|stats| stats.fast_path.promoted.get()),
        full_flows_total: sum(&|stats| stats.fast_path.full.get()),
        inbound,
        outbound,
        packet_ratio: ratio(packets, packets + others),
        punted: steered
            .punted()
            .map(|(reason, packets_total)| PuntCount {
                reason: reason.to_owned(),
                packets_total,
            })
            .into(),
        lost_packets_total: steered.lost,
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| rounded(part as f64 / whole as f64))
}

/// Neighbours of backends whose MAC address the kernel does not know; a raw-IP link needs none.
fn unresolved(facts: &Facts<'_>, network: &NetworkView) -> u64 {
    if network.next_hops.link == Link::RawIp {
        return 0;
    }
    let neighbors: HashSet<IpAddr> = facts
        .directory()
        .into_iter()
        .flat_map(Directory::active_backends)
        .filter_map(|backend| match network.next_hops.resolve(backend.address) {
            NextHop::Unresolved(neighbor) => Some(neighbor),
            NextHop::Mac(_) | NextHop::NoRoute | NextHop::Refused(_) => None,
        })
        .collect();
    neighbors.len() as u64
}

fn totals(facts: &Facts<'_>, services: &[Service], backends: &[Backend]) -> Totals {
    let in_state = |state| services.iter().filter(|service| service.state == state).count();
    let mut drops = facts.sample.drops;
    let mut added = facts.start.map(|start| {
        let mut added = facts.sample.drops;
        for (added, before) in added.iter_mut().zip(start.drops) {
            *added = added.saturating_sub(before);
        }
        added
    });
    let without_service = reasons(facts, &drops, added.as_ref());
    let mut flows_added: i64 = 0;
    for entry in facts.directory().into_iter().flat_map(Directory::live_services) {
        let baseline = entry.baseline.as_deref();
        let all = facts.sample.service(entry.slot, baseline);
        for (sum, count) in drops.iter_mut().zip(all.drops) {
            *sum += count;
        }
        if let (Some(added), Some(start)) = (&mut added, facts.start) {
            let before = start.service(entry.slot, baseline);
            for (sum, count) in added.iter_mut().zip(all.since(&before).drops) {
                *sum += count;
            }
            flows_added = flows_added.saturating_add_unsigned(all.open());
            flows_added = flows_added.saturating_sub_unsigned(before.open());
        }
    }
    let drops_per_second = facts.rate(added.map(|added| added.iter().sum()));
    let inbound = sum_traffic(services.iter().map(|service| service.inbound));
    let outbound = sum_traffic(services.iter().map(|service| service.outbound));
    Totals {
        imbalance: worst_imbalance(services),
        services_ok: in_state(ServiceState::Ok),
        services_degraded: in_state(ServiceState::Degraded),
        services_down: in_state(ServiceState::Down),
        backends: count(backends),
        flows: facts.stats.iter().map(|stats| stats.flow_entries.get()).sum(),
        flow_capacity: facts.stats.iter().map(|stats| stats.flow_capacity.get()).sum(),
        flows_change_per_second: facts
            .rate(facts.start.map(|_| flows_added.unsigned_abs()))
            .map(|rate| if flows_added < 0 { -rate } else { rate }),
        drop_ratio: drop_ratio(drops_per_second, &inbound, &outbound),
        inbound,
        outbound,
        drops: reasons(facts, &drops, added.as_ref()),
        drops_without_service: without_service,
        drops_per_second,
    }
}

fn worst_imbalance(services: &[Service]) -> Option<Imbalance> {
    let imbalances = services
        .iter()
        .filter_map(|service| Some((service.imbalance?, service)));
    let (ratio, service) = imbalances.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    Some(Imbalance {
        service: service.name.clone(),
        ratio,
    })
}

fn sum_rates(rates: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    rates.sum::<Option<f64>>().map(rounded)
}

fn sum_traffic(parts: impl Iterator<Item = Traffic> + Clone) -> Traffic {
    Traffic {
        packets_total: parts.clone().map(|part| part.packets_total).sum(),
        bytes_total: parts.clone().map(|part| part.bytes_total).sum(),
        packets_per_second: sum_rates(parts.clone().map(|part| part.packets_per_second)),
        bytes_per_second: sum_rates(parts.map(|part| part.bytes_per_second)),
    }
}

fn drop_ratio(drops: Option<f64>, inbound: &Traffic, outbound: &Traffic) -> Option<f64> {
    let drops = drops?;
    let packets = drops + inbound.packets_per_second? + outbound.packets_per_second?;
    Some(if packets > 0.0 { drops / packets } else { 0.0 })
}

fn workers(facts: &Facts<'_>) -> Vec<Worker> {
    (0_u16..)
        .zip(facts.stats)
        .map(|(id, stats)| worker(facts, id, stats))
        .collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of bursts in a few seconds are far below 2^53"
)]
fn worker(facts: &Facts<'_>, id: u16, stats: &WorkerStats) -> Worker {
    let index = usize::from(id);
    let now = facts.sample.workers.get(index).copied().unwrap_or_default();
    let before = facts.start.and_then(|start| start.workers.get(index));
    let bursts = before.map(|before| now.bursts.saturating_sub(before.bursts));
    let received = before.map(|before| now.received.saturating_sub(before.received));
    let busy = before.map(|before| now.busy_nanos.saturating_sub(before.busy_nanos));
    let heartbeat = Timestamp(stats.heartbeat.get());
    Worker {
        id,
        core: facts
            .attachment
            .filter(|attachment| index < attachment.cores.len())
            .and_then(|_| usize::try_from(stats.core.get()).ok()),
        queue: id,
        busy_ratio: facts.rate(busy).map(|nanos| rounded(nanos / 1e9).min(1.0)),
        packets_per_burst: match (received, bursts) {
            (Some(received), Some(bursts)) if bursts > 0 => Some(rounded(received as f64 / bursts as f64)),
            _ => None,
        },
        generation: Some(stats.generation.get()).filter(|&generation| generation > 0),
        heartbeat_age_seconds: (heartbeat.0 > 0).then(|| facts.now.since(heartbeat).as_secs_f64()),
        busy_seconds_total: std::time::Duration::from_nanos(now.busy_nanos).as_secs_f64(),
        received_packets_total: now.received,
        transmitted_packets_total: stats.transmitted.get(),
        bursts_total: now.bursts,
        wakeups_total: stats.wakeups.get(),
        core_moves_total: stats.core_moves.get(),
        handoff_packets_total: stats.handoffs.get(),
        answers_total: stats.answers.get(),
        answers_suppressed_total: stats.answers_suppressed.get(),
        segmented_packets_total: stats.segmented.get(),
        addresses_left_out_total: stats.addresses_left_out.get(),
        fragmented_packets_total: stats.fragmented.get(),
        waited_fragments_total: stats.fragments_waited.get(),
        affinity_evicted_clients_total: stats.affinity_evicted.get(),
        flow_table_entries: stats.flow_entries.get(),
        flow_table_capacity: stats.flow_capacity.get(),
        umem_frames_free: stats.frames_free.get(),
        xsk_drops: xsk_drops(now.xsk),
    }
}

const fn xsk_drops(counts: [u64; 5]) -> XskDrops {
    let [rx_dropped, rx_ring_full, fill_ring_empty, rx_invalid, tx_invalid] = counts;
    XskDrops {
        rx_dropped,
        rx_ring_full,
        fill_ring_empty,
        rx_invalid,
        tx_invalid,
    }
}

fn dns(facts: &Facts<'_>) -> Dns {
    let stats = facts.dns;
    let (limited_truncated_total, limited_dropped_total) = stats.limited();
    Dns {
        limited_truncated_total,
        limited_dropped_total,
        zone: facts.identity.dns_zone.clone(),
        listeners: stats.listeners(),
        queries: stats
            .by_rcode()
            .map(|(rcode, queries_total)| RcodeCount {
                rcode: rcode.to_owned(),
                queries_total,
            })
            .collect(),
        query_duration_seconds: Distribution::from_buckets(
            &stats.durations().counts(),
            &dns::DURATION_BOUNDS,
            stats.durations().sum_micros(),
        ),
    }
}

fn missing(missing: &Missing) -> MissingCollection {
    MissingCollection {
        resource: missing.kind.clone(),
        namespace: missing.namespace.clone(),
        error: missing.to_string(),
    }
}
