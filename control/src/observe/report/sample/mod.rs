//! A state that tests make reports of, with a [`Recorder`] as its data plane.

mod recorder;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::api::{
    BackendTransitions, CheckResult, EventCode, EventList, Peer, PeerGroup, Report, ServiceState, Time,
    WriteCount, WriteTrouble,
};
use tokio::sync::watch;
use vl3lb_common::dataplane::Dataplane;
use vl3lb_common::flow_query::{FlowRecord, FlowState};
use vl3lb_common::next_hop::{Link, NextHops, Route};
use vl3lb_common::schedule::Scheduler;
use vl3lb_common::snapshot::{BackendSlot, BackendState, Generation, NatPorts, ServiceSlot, Snapshot};
use vl3lb_common::{MacAddr, Protocol, Timestamp};

use super::build::{self, Facts, Identity};
use super::counters::Sample;
use super::{Reporter, Sources};
use crate::config::HealthCheck;
use crate::discovery::{Origin, PodPlace, SourceStatus};
use crate::dns::DnsStats;
use crate::health::{Answer, CheckSpec, HealthTable, Target};
use crate::network::NetworkView;
use crate::observe::events::{Events, Happening};
use crate::publisher::{Current, PublisherStats};
use crate::state::{self, BackendEntry, Directory, ServiceEntry};

pub(crate) use recorder::{Recorder, count_traffic};

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_duration(Duration::from_secs(seconds))
}

/// 2026-11-24T06:31:00Z, and so many seconds before.
pub(crate) fn wall(ago: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_501_860 - ago)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(slot: u16, name: &str, protocol: Protocol, port: u16, state: ServiceState) -> ServiceEntry {
    ServiceEntry {
        slot: ServiceSlot(slot),
        name: name.to_owned(),
        host: None,
        protocol,
        port,
        target_port: port + 1,
        selector: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        scheduler: Scheduler::Maglev,
        affinity: Duration::from_secs(if name == "finance" { 10_800 } else { 0 }),
        source_ranges: if name == "finance" {
            vec!["172.16.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()]
        } else {
            Vec::new()
        },
        drain: Duration::from_secs(60),
        live: true,
        state,
        since: wall(1080),
        health_check: checks(name),
        transitions: BackendTransitions {
            up: 3,
            draining: 1,
            ..BackendTransitions::default()
        },
        baseline: None,
    }
}

/// The backends of dns answer TCP at their port, those of ledger do not.
fn checks(service: &str) -> Option<HealthCheck> {
    let mut check = HealthCheck::tcp();
    match service {
        "dns" => check.tcp.port = Some(54),
        "ledger" => {}
        _ => return None,
    }
    Some(check)
}

/// What checks found out after four rounds.
pub(crate) fn health_table() -> HealthTable {
    let target = |protocol, service_port, address, port| Target {
        protocol,
        service_port,
        address: ip(address),
        port,
        instance: None,
    };
    let spec = |service: &str| CheckSpec {
        service: service.into(),
        check: checks(service).unwrap(),
    };
    let dns = target(Protocol::Udp, 53, "2001:db8::9", 54);
    let ledger = target(Protocol::Tcp, 9000, "172.16.1.9", 9001);
    let health = HealthTable::new();
    health.follow(&HashMap::from([
        (dns.clone(), spec("dns")),
        (ledger.clone(), spec("ledger")),
    ]));
    for _ in 0..4 {
        health.record(&dns, Answer::good(), Duration::from_micros(400));
        let refused = Answer {
            result: CheckResult::Refused,
            text: "refused".to_owned(),
        };
        health.record(&ledger, refused, Duration::from_micros(300));
    }
    health
}

fn backend(slot: u32, service: u16, address: &str, port: u16, state: BackendState) -> BackendEntry {
    let draining = matches!(state, BackendState::Draining { .. });
    BackendEntry {
        slot: BackendSlot(slot),
        service: ServiceSlot(service),
        address: ip(address),
        port,
        instance: None,
        weight: u16::from(!draining),
        origin: Origin::Static,
        pod: (service == 0).then(|| {
            Arc::new(PodPlace {
                pod: format!("ns-vl3-lb/finance-server-{slot}"),
                node: Some(format!("node-{slot}")),
            })
        }),
        state,
        since: wall(22),
        transitions: 1 + u64::from(draining),
        drain_deadline: draining.then(|| wall(0) + Duration::from_secs(38)),
        baseline: None,
    }
}

/// Three services: one whose backend is dead, one on UDP, one with a draining backend.
pub(crate) fn directory() -> Directory {
    use BackendState::{Active, Down, Draining};
    let draining = Draining { since: at(3578) };
    Directory {
        generation: Generation(42),
        services: vec![
            Some(service(0, "finance", Protocol::Tcp, 8080, ServiceState::Ok)),
            Some(service(1, "dns", Protocol::Udp, 53, ServiceState::Ok)),
            Some(service(2, "ledger", Protocol::Tcp, 9000, ServiceState::Down)),
            None,
        ],
        backends: vec![
            Some(backend(0, 0, "172.16.1.2", 8081, Active)),
            Some(backend(1, 0, "172.16.1.7", 8081, draining)),
            Some(backend(2, 1, "2001:db8::9", 54, Active)),
            None,
            Some(backend(4, 2, "172.16.1.9", 9001, Down)),
        ],
        problems: Vec::new(),
    }
}

/// An interface with both families and one neighbour that does not answer.
pub(crate) fn network() -> NetworkView {
    let route = |destination, prefix_length| Route {
        destination: ip(destination),
        prefix_length,
        gateway: None,
        metric: 0,
    };
    let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
    NetworkView {
        index: Some(7),
        up: true,
        mtu: 1446,
        addresses: vec![ip("172.16.1.103"), ip("2001:db8::67")],
        next_hops: NextHops::new(
            Link::Ethernet(mac(1)),
            1,
            vec![route("172.16.1.0", 24), route("2001:db8::", 64)],
            HashMap::from([(ip("172.16.1.2"), mac(2)), (ip("172.16.1.7"), mac(7))]),
        ),
    }
}

/// What the workers use, with these owners of slots. The snapshot itself has only its number.
pub(crate) fn current(directory: Directory) -> Current {
    let network = network();
    Current {
        snapshot: Arc::new(Snapshot {
            generation: directory.generation,
            addresses: network.addresses,
            nat_ports: identity().nat_ports,
            mtu: network.mtu,
            next_hops: network.next_hops,
            services: HashMap::default(),
            service_slots: Vec::new(),
            backend_slots: Vec::new(),
        }),
        directory: Arc::new(directory),
        published: wall(18),
        applied_in: Duration::from_millis(3),
    }
}

/// A static source that has been read once.
pub(crate) fn source() -> SourceStatus {
    SourceStatus {
        synced: true,
        loaded: Some(wall(7200)),
        last_event: Some(wall(3)),
        events: 2,
        ..SourceStatus::new(Origin::Static)
    }
}

/// Nothing special.
pub(crate) fn identity() -> Identity {
    Identity {
        instance: "finance-lb-7c9d".to_owned(),
        start_time: Time(wall(273_600)),
        nat_ports: NatPorts::new(10_240, 32_767).unwrap(),
        dns_zone: "vl3-lb".to_owned(),
        config_path: Some("/etc/vl3-lb/config.yaml".to_owned()),
    }
}

/// The fixed report that golden files are made of.
pub(crate) fn report() -> Report {
    let recorder = Recorder::new(2);
    let read = |seconds| Sample::read(at(seconds), &recorder.stats, 4, 5, Some(0.0));
    let health = health_table();
    let start = read(3590);
    count_traffic(&recorder);
    let sample = read(3600);
    let mut report = build::report(&Facts {
        identity: &identity(),
        time: Time(wall(0)),
        now: at(3600),
        attachment: recorder.attachment(),
        stats: &recorder.stats,
        steered: recorder.steered(),
        sample: &sample,
        start: Some(&start),
        current: Some(&current(directory())),
        network: Some(&network()),
        health: &health,
        checks: &health.checks(),
        publisher: &PublisherStats::default(),
        source: &source(),
        file: &source(),
        dns: &DnsStats::default(),
        events_lost: 0,
        flow_followers: 1,
        flow_events_lost: 7,
        peer_group: Some(peer_group()),
        process: crate::api::Process {
            cpu_seconds_total: Some(12.5),
            resident_memory_bytes: Some(64 << 20),
            virtual_memory_bytes: Some(1 << 30),
            open_fds: Some(31),
            max_fds: Some(1024),
            cpu_throttled_seconds_total: Some(0.0),
        },
        draining: false,
        not_ready: None,
    });
    "1.4.0".clone_into(&mut report.status.version);
    "3f2c1a9".clone_into(&mut report.status.revision);
    report
}

/// A group of three, and a permission that is missing.
fn peer_group() -> PeerGroup {
    let peer = |name: &str, ready, address| Peer {
        name: name.to_owned(),
        ready,
        addresses: vec![ip(address)],
        since: Time(wall(7200)),
    };
    let writes = |result: &str, writes_total| WriteCount {
        resource: "leases".to_owned(),
        result: result.to_owned(),
        writes_total,
    };
    PeerGroup {
        group: "finance".to_owned(),
        name: "finance-lb-7c9d".to_owned(),
        leader: Some("finance-lb-4f2k".to_owned()),
        leads: false,
        peers: vec![
            peer("finance-lb-4f2k", true, "172.16.1.104"),
            peer("finance-lb-9x1s", false, "172.16.1.105"),
        ],
        writes: vec![writes("ok", 54_720), writes("forbidden", 0), writes("error", 3)],
        troubles: vec![WriteTrouble {
            attempt: "write event ServiceWithoutBackends".to_owned(),
            reason: "forbidden".to_owned(),
            since: Time(wall(600)),
        }],
    }
}

/// One flow; `number` tells flows apart.
pub(crate) fn flow(worker: u16, number: u16) -> FlowRecord {
    FlowRecord {
        worker,
        protocol: Protocol::Tcp,
        client: ip("172.16.1.100"),
        client_port: 40_000 + number,
        service_address: ip("172.16.1.103"),
        service_port: 8080,
        nat_port: 31_877 + number,
        backend: ip("172.16.1.2"),
        backend_port: 8081,
        service: ServiceSlot(0),
        backend_slot: BackendSlot(0),
        state: FlowState::Established,
        age_micros: 723_000_000 + u64::from(number),
        idle_micros: 400_000 + 1000 * u64::from(number),
        expires_micros: 3_599_000_000,
        packets_in: 1200,
        bytes_in: 90_000,
        packets_out: 1300,
        bytes_out: 4_100_000,
    }
}

/// What happened to a service with two backends.
pub(crate) fn happenings() -> Vec<Happening> {
    let backend = |from, to, reason: &'static str| state::Event::Backend {
        service: "ledger".to_owned(),
        backend: "172.16.1.9:9000".parse().unwrap(),
        from,
        to,
        reason: reason.into(),
    };
    let service = |from, to, up| state::Event::Service {
        name: "ledger".to_owned(),
        from,
        to,
        up,
        total: 2,
    };
    let told = [
        state::Event::ServiceAdded {
            name: "ledger".to_owned(),
        },
        backend("new", "up", ""),
        backend("up", "draining", "not desired any more"),
        service("ok", ServiceState::Down, 0),
        backend("draining", "up", ""),
        service("down", ServiceState::Ok, 2),
    ];
    let refused = Happening::warn(
        EventCode::ConfigRejected,
        "config rejected, keeping what runs: services[1].port: 70000, allowed 1-65535".to_owned(),
    );
    told.iter()
        .map(Happening::from)
        .chain([refused.turn("read", "rejected")])
        .collect()
}

/// The answer about them.
pub(crate) fn events(report: &Report) -> EventList {
    let events = Events::default();
    events.keep(Time(wall(60)), happenings());
    EventList {
        envelope: report.envelope(events.kept()),
        events_total: events.total(),
        events_lost_total: events.lost(),
    }
}

/// A live reporter over `recorder`, and the ends of its channels.
pub(crate) struct Live {
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) current: watch::Sender<Option<Arc<Current>>>,
    pub(crate) network: watch::Sender<Option<Arc<NetworkView>>>,
    pub(crate) publisher: Arc<PublisherStats>,
    pub(crate) events: Arc<Events>,
}

/// A reporter that is ready.
pub(crate) fn live(workers: u16) -> Live {
    let recorder = Arc::new(Recorder::new(workers));
    let (current_in, current_out) = watch::channel(Some(Arc::new(current(directory()))));
    let (network_in, network_out) = watch::channel(Some(Arc::new(network())));
    let (_, source) = watch::channel(source());
    let file = source.clone();
    let publisher: Arc<PublisherStats> = Arc::default();
    let events: Arc<Events> = Arc::default();
    let reporter = Reporter::new(
        identity(),
        Sources {
            dataplane: Arc::<Recorder>::clone(&recorder),
            current: current_out,
            network: network_out,
            health: Arc::new(health_table()),
            source,
            file,
            publisher: Arc::clone(&publisher),
            dns: Arc::default(),
            events: Arc::clone(&events),
            membership: None,
        },
    );
    Live {
        reporter: Arc::new(reporter),
        recorder,
        current: current_in,
        network: network_in,
        publisher,
        events,
    }
}
