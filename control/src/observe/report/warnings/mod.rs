//! Warnings: conditions that an operator should know.

mod routing;
mod space;

use crate::api::{
    Backend, NsmConnection, NsmState, ReasonCount, Service, ServiceState, Severity, Status, Time, Warning,
    WriteTrouble, XskDrops,
};
use vl3lb_common::{DropReason, Duration};

use super::build::Facts;
use super::readiness::{self, InterfaceProblem};
use super::reporter::WORKER_STUCK;
use crate::discovery::{Missing, Origin, SourceStatus};
use crate::network::LinkState;

/// Warnings of one kind at most.
const MOST_TROUBLES: usize = 5;

/// All warnings, worst first.
pub(super) fn all(
    facts: &Facts<'_>,
    status: &Status,
    services: &[Service],
    backends: &[Backend],
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    warnings.extend(interface(facts, status));
    warnings.extend(
        facts
            .nsm
            .iter()
            .flat_map(|connection| nsm(connection, facts.time)),
    );
    warnings.extend(routing::all(facts));
    warnings.extend(stuck_workers(status, facts.time));
    warnings.extend(services.iter().filter_map(down));
    warnings.extend(publishing(facts));
    warnings.extend(config(facts, status));
    warnings.extend(facts.sources().filter_map(discovery));
    warnings.extend(facts.sources().flat_map(conflicts));
    warnings.extend(facts.source.missing.iter().map(missing));
    warnings.extend(
        facts
            .directory()
            .into_iter()
            .flat_map(|directory| directory.problems.iter().map(|problem| left_out(problem))),
    );
    for service in services {
        warnings.extend(drops(&service.drops, Some(&service.name)));
    }
    warnings.extend(drops(&status.totals.drops_without_service, None));
    warnings.extend(kernel_drops(facts));
    warnings.extend(throttled(facts));
    warnings.extend(space::full_tables(status));
    warnings.extend(space::forgotten_clients(facts));
    warnings.extend(space::full_ports(backends));
    warnings.extend(space::taken_ports(facts));
    warnings.extend(space::evicted_flows(facts));
    warnings.extend(refuses(status));
    warnings.extend(kubernetes(status));
    warnings.sort_by_key(|warning| warning.severity);
    warnings
}

/// `problem` begins with its object, as in `service finance: ...`.
fn left_out(problem: &str) -> Warning {
    let subject = problem.split(':').next().unwrap_or(problem);
    let next = "mend the configuration, or the labels that select the backends";
    about(subject, next, warn("left_out", problem.to_owned()))
}

fn warn(code: &str, text: String) -> Warning {
    Warning {
        severity: Severity::Warn,
        code: code.to_owned(),
        subject: None,
        since: None,
        text,
        next: None,
    }
}

fn error(code: &str, text: String) -> Warning {
    Warning {
        severity: Severity::Error,
        ..warn(code, text)
    }
}

fn about(subject: &str, next: impl Into<String>, warning: Warning) -> Warning {
    Warning {
        subject: Some(subject.to_owned()),
        next: Some(next.into()),
        ..warning
    }
}

fn since(time: Option<Time>, warning: Warning) -> Warning {
    Warning {
        since: time,
        ..warning
    }
}

fn interface(facts: &Facts<'_>, status: &Status) -> Option<Warning> {
    let name = &status.interface.name;
    let (code, text, next) = if let Err(problem) = readiness::link(name, facts.network) {
        let next = match facts.network.map(|network| network.state) {
            Some(LinkState::Down) => format!("ip link set {name} up"),
            _ => format!("ip link show {name}"),
        };
        ("interface_down", problem.to_string(), next)
    } else if facts.attachment.is_none() {
        let text = readiness::unattached(name, facts.attach_failure).to_string();
        let next = "vl3-lb events --since 10m".to_owned();
        ("attach_failed", text, next)
    } else if status.interface.addresses.is_empty() {
        let interface = name.clone();
        let text = InterfaceProblem::NoAddress { interface }.to_string();
        ("interface_down", text, format!("ip address show dev {name}"))
    } else {
        return None;
    };
    Some(about(name, next, error(code, text)))
}

/// The connection to the vL3 network, and the identity that it needs.
fn nsm(nsm: &NsmConnection, now: Time) -> Vec<Warning> {
    let service = &nsm.network_service;
    let next = "vl3-lb events --since 10m";
    let reason = nsm
        .last_error
        .as_ref()
        .map_or_else(String::new, |error| format!(": {error}"));
    let mut warnings = Vec::new();
    let failing = nsm.last_error_time > nsm.granted_time;
    let problem = match nsm.state {
        NsmState::Requesting | NsmState::Replacing | NsmState::Restoring if failing => {
            let text = format!("network service {service} is not connected{reason}");
            Some(error("nsm_disconnected", text))
        }
        NsmState::Healing | NsmState::Connected
            if failing && (!nsm.monitored || nsm.next_refresh_time < Some(now)) =>
        {
            let text = format!("the connection to network service {service} is not maintained{reason}");
            Some(warn("nsm_failing", text))
        }
        _ => None,
    };
    warnings.extend(problem.map(|warning| since(Some(nsm.state_since), about(service, next, warning))));
    if let Some(reason) = &nsm.identity_error {
        let text = format!("no new SVID: {reason}");
        let next = "look at the SPIRE agent of this node, and at SPIFFE_ENDPOINT_SOCKET";
        warnings.push(about("identity", next, warn("identity_stale", text)));
    }
    warnings
}

fn stuck_workers(status: &Status, now: Time) -> impl Iterator<Item = Warning> {
    status.workers.iter().filter_map(move |worker| {
        let age = worker
            .heartbeat_age_seconds
            .filter(|&age| age > WORKER_STUCK.as_secs_f64())?;
        let text = format!("worker {} has made no progress for {age:.0}s", worker.id);
        let warning = error("worker_stuck", text);
        let next = "restart the balancer, and report it";
        let heartbeat = now.before(Duration::from_secs_f64(age));
        Some(since(
            Some(heartbeat),
            about(&worker.id.to_string(), next, warning),
        ))
    })
}

fn down(service: &Service) -> Option<Warning> {
    (service.state == ServiceState::Down || service.fails_open).then(|| {
        let open = if service.fails_open {
            "; it fails open, so all get new flows"
        } else {
            ""
        };
        let warning = error(
            "no_backend_up",
            format!("service {}: no backend up{open}", service.name),
        );
        let next = format!("vl3-lb backends --service {}", service.name);
        since(service.since, about(&service.name, next, warning))
    })
}

/// Workers continue with their last snapshot and get no changes.
fn publishing(facts: &Facts<'_>) -> Option<Warning> {
    let reason = facts.publisher.failure()?;
    let warning = error(
        "publish_failing",
        format!("snapshots do not reach the workers: {reason}"),
    );
    Some(about(
        "snapshot",
        "look at the log; restart the balancer if it lasts",
        warning,
    ))
}

fn config(facts: &Facts<'_>, status: &Status) -> Option<Warning> {
    let reason = status.config.error.as_ref()?;
    let path = status.config.path.as_deref().unwrap_or("the environment");
    let event = facts.file.last_event.map(Time);
    let warning = warn(
        "config_rejected",
        format!("config rejected, keeping the last good one: {reason}"),
    );
    Some(since(
        event,
        about(path, format!("vl3-lb check --config {path}"), warning),
    ))
}

/// Only for sources other than the file, whose error has its own warning. The time is that of the last complete set.
fn discovery(source: &SourceStatus) -> Option<Warning> {
    let reason = source
        .error
        .as_ref()
        .filter(|_| source.origin != Origin::Static)?;
    let name = source.origin.name();
    let kept = if source.loaded.is_some() {
        "keeping the last set"
    } else {
        "no complete set yet"
    };
    let text = format!("no updates from {name}, {kept}: {reason}");
    let next = match source.origin {
        Origin::Nsm => "look at the manager (nsmgr) of this node, and at the SPIRE agent",
        Origin::Static | Origin::Kubernetes => {
            "look at the API server, and at the Role of the balancer's service account"
        }
    };
    let warning = about(name, next, warn("discovery_failing", text));
    Some(since(source.loaded.map(Time), warning))
}

/// Claims of clients of the vL3 network that exclude each other. A second connection of one client is none.
fn conflicts(source: &SourceStatus) -> impl Iterator<Item = Warning> {
    let conflicts = source.nsm.iter().flat_map(|nsm| &nsm.conflicts);
    let conflicts = conflicts.filter(|conflict| conflict.kind != "connections");
    conflicts.take(MOST_TROUBLES).map(|conflict| {
        let (code, next) = match conflict.kind.as_str() {
            "address" => (
                "address_conflict",
                "restart the client that should have another address; see vl3-lb events",
            ),
            _ => ("name_conflict", "see which pod claims the name of another"),
        };
        about(&conflict.kind, next, warn(code, conflict.text.clone()))
    })
}

/// Objects that a source may not list. Services that depend on them are not served.
fn missing(missing: &Missing) -> Warning {
    let subject = format!("{} in {}", missing.kind, missing.place);
    let text = format!("{missing}; serving without them");
    let next = "look at the Role of the balancer's service account";
    let warning = about(&subject, next, warn("discovery_incomplete", text));
    since(Some(Time(missing.since)), warning)
}

/// Whether drops of this reason concern the operator; others are caused by clients.
const fn concerns_operator(reason: DropReason) -> bool {
    match reason {
        DropReason::Malformed
        | DropReason::BadChecksum
        | DropReason::UnsupportedProtocol
        | DropReason::NoService
        | DropReason::NotSyn
        | DropReason::NotInit
        | DropReason::VerificationTag
        | DropReason::SctpFragment
        | DropReason::FragmentUnmatched
        | DropReason::FragmentOverlap
        | DropReason::TtlExpired
        | DropReason::Martian
        | DropReason::BackendLoop
        | DropReason::UnknownReply
        | DropReason::IcmpUnmatched
        | DropReason::MtuExceeded
        | DropReason::SourceNotAllowed => false,
        DropReason::NoBackend
        | DropReason::BackendsFull
        | DropReason::BackendDown
        | DropReason::DrainDeadline
        | DropReason::NoRoute
        | DropReason::NeighborUnresolved
        | DropReason::FlowTableFull
        | DropReason::NatPortsExhausted
        | DropReason::ClientLimit
        | DropReason::Overload
        | DropReason::FragmentTableFull
        | DropReason::TxRingFull
        | DropReason::TxRefused
        | DropReason::UmemExhausted
        | DropReason::HandoffFull
        | DropReason::UdpSuperPacket
        | DropReason::SctpSuperPacket
        | DropReason::Internal => true,
    }
}

/// A rate for a sentence.
fn shown(rate: f64) -> String {
    if rate < 10.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}

fn drops(drops: &[ReasonCount], service: Option<&str>) -> impl Iterator<Item = Warning> {
    drops.iter().filter_map(move |drop| {
        let rate = drop.packets_per_second.filter(|&rate| rate > 0.0)?;
        let reason = DropReason::ALL
            .into_iter()
            .find(|reason| reason.name() == drop.reason && concerns_operator(*reason))?;
        let on = service.map_or_else(String::new, |service| format!(" on {service}"));
        let text = format!("drops {reason} {}/s{on}", shown(rate));
        let warning = match reason {
            DropReason::Internal => error("drops", text),
            _ => warn("drops", text),
        };
        Some(about(
            service.unwrap_or_else(|| reason.name()),
            reason.remedy(),
            warning,
        ))
    })
}

fn kernel_drops(facts: &Facts<'_>) -> Vec<Warning> {
    let names = XskDrops::default().by_reason().map(|(name, _)| name);
    let mut warnings = Vec::new();
    for (queue, worker) in facts.sample.workers.iter().enumerate() {
        let Some(before) = facts.start.and_then(|start| start.workers.get(queue)) else {
            continue;
        };
        for (index, reason) in names.into_iter().enumerate() {
            let added = worker.xsk[index].saturating_sub(before.xsk[index]);
            if let Some(rate) = facts.rate(Some(added)).filter(|&rate| rate > 0.0) {
                warnings.push(about(
                    &queue.to_string(),
                    "give the workers more CPU, or raise `frames`",
                    warn(
                        "kernel_drops",
                        format!("kernel drops {reason} {}/s on queue {queue}", shown(rate)),
                    ),
                ));
            }
        }
    }
    warnings
}

fn throttled(facts: &Facts<'_>) -> Option<Warning> {
    let added = facts.sample.throttled? - facts.start?.throttled?;
    let window = facts.window()?;
    (added > 0.0).then(|| {
        let text = format!(
            "CPU limit: throttled {:.0}% of the last {window:.0}s",
            100.0 * added / window
        );
        about("cpu", "raise resources.limits.cpu", warn("cpu_throttled", text))
    })
}

/// Failing writes to the Kubernetes API, and failing watches of peers.
fn kubernetes(status: &Status) -> Vec<Warning> {
    let Some(group) = &status.peer_group else {
        return Vec::new();
    };
    let next = "look at the API server, and at the Role of the balancer's service account";
    let warning = |trouble: &WriteTrouble| {
        let text = format!("{}: {}", trouble.attempt, trouble.reason);
        let warning = about(&trouble.attempt, next, warn("kubernetes_failing", text));
        since(Some(trouble.since), warning)
    };
    let troubles = &group.troubles;
    let mut warnings: Vec<Warning> = troubles.iter().take(MOST_TROUBLES).map(warning).collect();
    if troubles.len() > MOST_TROUBLES {
        let text = format!("and {} more of the kind", troubles.len() - MOST_TROUBLES);
        let warning = about(
            "kubernetes",
            "vl3-lb status --json",
            warn("kubernetes_failing", text),
        );
        warnings.push(since(troubles.iter().map(|trouble| trouble.since).min(), warning));
    }
    warnings
}

fn refuses(status: &Status) -> Option<Warning> {
    let mode = status.mode.as_ref().filter(|mode| !mode.refuses.is_empty())?;
    let text = format!("mode {}: {}", mode.attach, mode.refuses);
    let warning = about(&mode.attach, "mode: auto", warn("mode_refuses", text));
    Some(since(Some(status.start_time), warning))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::nsm_connection;
    use super::*;

    #[test]
    fn a_connection_that_nobody_maintains_is_a_warning() {
        let known = nsm_connection();
        let due = known.next_refresh_time.unwrap();
        let (early, late) = (
            due.before(Duration::from_secs(1)),
            Time(due.0 + Duration::from_secs(1)),
        );
        for (state, fails, monitored, now, want) in [
            (NsmState::Connected, false, true, late, None),
            (NsmState::Connected, true, true, early, None),
            (NsmState::Connected, true, true, late, Some("nsm_failing")),
            (NsmState::Healing, true, false, early, Some("nsm_failing")),
            (NsmState::Healing, false, false, early, None),
            (NsmState::Replacing, true, false, early, Some("nsm_disconnected")),
        ] {
            let mut connection = known.clone();
            (connection.state, connection.monitored) = (state, monitored);
            if fails {
                connection.last_error_time = Some(early);
            }
            let codes: Vec<_> = nsm(&connection, now).into_iter().map(|w| w.code).collect();
            let want: Vec<_> = want.into_iter().map(str::to_owned).collect();
            assert_eq!(codes, want, "{state:?}, fails: {fails}, monitored: {monitored}");
        }
    }
}
