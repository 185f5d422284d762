//! The publisher with a recorder in place of AF_XDP, on a virtual clock.

mod recorder;

use std::collections::BTreeMap;

use tokio::time::timeout;

use vl3lb_common::next_hop::{Link, NextHops, Route, RouteKind};
use vl3lb_common::schedule::Scheduler;
use vl3lb_common::snapshot::{BackendState, Generation};
use vl3lb_common::{MacAddr, Protocol, Timestamp};

use super::*;
use crate::config::{FlowRules, HealthCheck};
use crate::discovery::{BackendSpec, DesiredSender, Eligibility, Origin};
use crate::health::{Answer, CheckSpec, Target};
use crate::network::{LinkState, Monitor};
use recorder::Recorder;

struct World {
    recorder: Arc<Recorder>,
    desired: DesiredSender,
    network: watch::Sender<Option<Arc<NetworkView>>>,
    health: Arc<HealthTable>,
    current: CurrentReceiver,
    stats: Arc<PublisherStats>,
    events: Arc<Events>,
    /// Holds the other end of the resolver.
    _monitor: Monitor,
}

impl World {
    fn start() -> Self {
        let recorder = Recorder::new();
        let (desired, desired_receiver) = watch::channel(None);
        let (network, network_receiver) = watch::channel(None);
        let (monitor, _, resolver) = Monitor::new("nsm-1".to_owned(), Vec::new(), Arc::default());
        let events: Arc<Events> = Arc::default();
        let health = Arc::new(HealthTable::new());
        let (publisher, current, stats) = Publisher::new(
            Arc::clone(&recorder) as Arc<dyn Dataplane>,
            NatPorts::new(10_240, 32_767).unwrap(),
            desired_receiver,
            network_receiver,
            Arc::clone(&health),
            resolver,
            Arc::clone(&events),
        );
        tokio::spawn(publisher.run());
        Self {
            recorder,
            desired,
            network,
            health,
            current,
            stats,
            events,
            _monitor: monitor,
        }
    }

    fn want(&self, hosts: &[u8]) {
        self.desired.send_replace(Some(Arc::new(finance(hosts))));
    }

    async fn published(&mut self, generation: u64) -> Arc<Current> {
        let at_least = |current: &Option<Arc<Current>>| {
            current
                .as_ref()
                .is_some_and(|current| current.generation() >= Generation(generation))
        };
        let current = timeout(LIMIT, self.current.wait_for(at_least)).await;
        Arc::clone(current.expect("it is published").unwrap().as_ref().unwrap())
    }
}

fn finance(hosts: &[u8]) -> Desired {
    let backends = hosts.iter().map(|&host| BackendSpec {
        backup: false,
        address: [172, 16, 1, host].into(),
        port: 8081,
        instance: None,
        weight: 1,
        eligibility: Eligibility::NewFlows,
        changed: None,
        origin: Origin::Static,
        pod: None,
    });
    Desired {
        services: vec![Arc::new(ServiceSpec {
            addresses: crate::config::ListenAddresses::default(),
            name: "finance".to_owned(),
            host: None,
            namespace: None,
            protocol: Protocol::Tcp,
            port: 8080,
            target_port: 8081,
            selector: BTreeMap::new(),
            scheduler: Scheduler::RoundRobin,
            affinity: Duration::ZERO,
            source_ranges: Vec::new(),
            client_address: vl3lb_common::ClientAddress::None,
            drain: Duration::from_secs(60),
            health_check: None,
            rules: FlowRules::default(),
            backends: backends.collect(),
        })],
        ..Desired::default()
    }
}

fn view(addresses: &[IpAddr]) -> Arc<NetworkView> {
    Arc::new(NetworkView {
        index: Some(7),
        state: LinkState::Up,
        mtu: 1500,
        addresses: addresses.to_vec(),
        broadcasts: Vec::new(),
        next_hops: NextHops::new(Link::RawIp, 1, Vec::new(), std::collections::HashMap::new()),
        routing_problems: Vec::new(),
    })
}

/// Of a wait, in the time of the test.
const LIMIT: Duration = Duration::from_secs(3600);
const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 1, 103));

/// Lets everything happen that is due within `duration`.
async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_the_first_complete_inputs() {
    let mut world = World::start();
    pass(Duration::from_secs(1)).await;
    world.want(&[2]);
    pass(Duration::from_secs(1)).await;
    world.network.send_replace(Some(Arc::new(NetworkView::absent())));
    pass(Duration::from_secs(1)).await;
    world.network.send_replace(Some(view(&[])));
    pass(Duration::from_secs(1)).await;
    assert!(world.recorder.generations().is_empty());
    assert!(world.current.borrow().is_none());

    world.network.send_replace(Some(view(&[OWN])));
    let current = world.published(1).await;
    assert_eq!(current.snapshot.services.len(), 1);
    assert_eq!(current.directory.generation, Generation(1));
}

/// On Ethernet, with these neighbours known.
fn ethernet(neighbors: &[u8]) -> Arc<NetworkView> {
    let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
    let route = Route {
        kind: RouteKind::Unicast,
        destination: [172, 16, 1, 0].into(),
        prefix_length: 24,
        gateway: None,
        metric: 0,
        mtu: None,
    };
    let known = neighbors
        .iter()
        .map(|&host| ([172, 16, 1, host].into(), mac(host)));
    let next_hops = NextHops::new(Link::Ethernet(mac(103)), 1, vec![route], known.collect());
    Arc::new(NetworkView {
        next_hops,
        ..NetworkView::clone(&view(&[OWN]))
    })
}

#[tokio::test(start_paused = true)]
async fn the_first_snapshot_waits_for_next_hops_for_a_limited_time() {
    let (found, missing) = (Duration::from_millis(100), FIRST_NEXT_HOPS);
    for (hosts, waited) in [(&[2][..], found), (&[2, 3], found), (&[3], missing)] {
        let mut world = World::start();
        let started = Instant::now();
        world.network.send_replace(Some(ethernet(&[])));
        world.want(hosts);
        pass(Duration::from_millis(100)).await;
        assert!(world.recorder.generations().is_empty());
        world.network.send_replace(Some(ethernet(&[2])));
        world.published(1).await;
        let took = started.elapsed();
        assert!(
            took >= waited && took < waited + Duration::from_millis(20),
            "{took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_change_is_published_at_once_and_a_burst_together() {
    let mut world = World::start();
    world.network.send_replace(Some(view(&[OWN])));
    world.want(&[2]);
    world.published(1).await;
    pass(Duration::from_secs(1)).await;

    let before = Instant::now();
    for host in 3..=50 {
        world.want(&[2, host]);
        tokio::task::yield_now().await;
    }
    world.want(&[2, 60]);
    let first = world.published(2).await;
    assert!(before.elapsed() < SETTLE);
    pass(Duration::from_millis(50)).await;
    let generations = world.recorder.generations();
    assert!(generations.len() <= 4, "{generations:?}");
    assert!(first.generation() >= Generation(2));
    let last = world.current.borrow().clone().unwrap();
    let active: Vec<_> = last
        .directory
        .active_backends()
        .map(|entry| entry.address)
        .collect();
    assert!(active.contains(&IpAddr::from([172, 16, 1, 60])) && active.len() == 2);
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_set_is_not_published() {
    let mut world = World::start();
    world.network.send_replace(Some(view(&[OWN])));
    world.want(&[2]);
    world.published(1).await;
    for _ in 0..10 {
        world.want(&[2]);
        world.network.send_replace(Some(view(&[OWN])));
        pass(Duration::from_secs(1)).await;
    }
    assert_eq!(world.recorder.generations(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_its_deadline() {
    let mut world = World::start();
    world.network.send_replace(Some(view(&[OWN])));
    world.want(&[2, 3]);
    world.published(1).await;
    let slot = vl3lb_common::BackendSlot(0);
    world.recorder.stats[0].backend(slot).nat_ports.set(1);

    world.want(&[3]);
    let current = world.published(2).await;
    let state = |current: &Current| current.snapshot.backend(slot).map(|backend| backend.state);
    assert!(matches!(state(&current), Some(BackendState::Draining { .. })));

    let before = Instant::now();
    let current = world.published(3).await;
    assert_eq!(state(&current), Some(BackendState::Gone));
    let waited = before.elapsed().as_secs_f64();
    assert!((59.0..61.0).contains(&waited), "{waited}");

    world.recorder.stats[0].backend(slot).nat_ports.set(0);
    let current = world.published(4).await;
    assert_eq!(state(&current), None);
}

#[tokio::test(start_paused = true)]
async fn a_failed_snapshot_is_published_again() {
    let mut world = World::start();
    *world.recorder.refuse.lock().unwrap() = 2;
    world.network.send_replace(Some(view(&[OWN])));
    world.want(&[2]);
    pass(Duration::from_millis(100)).await;
    assert_eq!(world.stats.failure().as_deref(), Some("workers are stuck"));
    assert_eq!(world.events.total(), 0, "nothing is live yet");
    let current = world.published(1).await;
    assert_eq!(world.stats.failure(), None);
    let emitted: Vec<_> = world.events.kept().into_iter().map(|event| event.text).collect();
    assert_eq!(
        emitted,
        [
            "service finance added",
            "backend finance/172.16.1.2:8081 new -> up"
        ]
    );
    assert_eq!(current.generation(), Generation(3));
    assert_eq!((world.stats.failed.get(), world.stats.published.get()), (2, 1));
    assert!(
        current.applied_in >= 2 * RETRY,
        "from the change on, failures included"
    );
    assert_eq!(world.stats.applied.counts().iter().sum::<u64>(), 1);
}

#[tokio::test(start_paused = true)]
async fn changes_in_kubernetes_are_timed_after_the_first_snapshot() {
    let mut world = World::start();
    world.network.send_replace(Some(view(&[OWN])));
    let desired = world.desired.clone();
    let want = |hosts: &[u8], changed: SystemTime, origin: Origin| {
        let mut finance = finance(hosts);
        for backend in &mut Arc::make_mut(&mut finance.services[0]).backends {
            (backend.changed, backend.origin) = (Some(changed), origin);
        }
        desired.send_replace(Some(Arc::new(finance)));
    };
    let hour = Duration::from_secs(3600);
    want(&[2], SystemTime::now() + hour, Origin::Static);
    world.published(1).await;
    want(&[2, 3], SystemTime::now() - hour, Origin::Kubernetes);
    world.published(2).await;
    // A clock that is ahead of this one; the first two were before, or another source's.
    want(&[2, 3, 4], SystemTime::now() + hour, Origin::Kubernetes);
    world.published(3).await;
    let counts = world.stats.programmed.counts();
    assert_eq!((counts[0], counts.iter().sum::<u64>()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn without_an_interface_the_state_stays_and_changes_are_published() {
    let mut world = World::start();
    world.network.send_replace(Some(view(&[OWN])));
    world.want(&[2]);
    world.published(1).await;
    world.network.send_replace(Some(Arc::new(NetworkView::absent())));
    pass(Duration::from_secs(1)).await;
    assert_eq!(world.recorder.generations(), [1]);

    world.want(&[2, 3]);
    let current = world.published(2).await;
    assert_eq!(current.snapshot.addresses, [OWN]);

    let other = IpAddr::from([172, 16, 1, 104]);
    world.network.send_replace(Some(view(&[other])));
    // The old address may still come back.
    let current = world.published(3).await;
    assert_eq!(current.snapshot.addresses, [other, OWN]);
    let current = world.published(4).await;
    assert_eq!(current.snapshot.addresses, [other]);
}

#[tokio::test(start_paused = true)]
async fn worker_events_are_taken_while_idle() {
    let mut world = World::start();
    world.network.send_replace(Some(view(&[OWN])));
    world.want(&[2]);
    world.published(1).await;
    world
        .recorder
        .events
        .lock()
        .unwrap()
        .push(WorkerEvent::Unresolved(OWN));
    pass(Duration::from_millis(200)).await;
    assert!(world.recorder.events.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_goes_to_another_core_is_an_event() {
    let mut world = World::start();
    world.network.send_replace(Some(view(&[OWN])));
    world.want(&[2]);
    world.published(1).await;
    let moved = WorkerEvent::Moved {
        worker: 3,
        from: 5,
        to: 7,
    };
    world.recorder.events.lock().unwrap().push(moved);
    pass(Duration::from_millis(200)).await;
    let event = world.events.kept().pop().unwrap();
    assert_eq!(event.code, EventCode::WorkerMoved);
    assert!(
        event.text.starts_with("worker 3 runs on core 7, was on core 5: "),
        "{}",
        event.text
    );
}

#[tokio::test(start_paused = true)]
async fn the_log_line_has_both_generations_and_the_changes() {
    let mut state = State::new(NatPorts::new(1, 2).unwrap());
    let network = view(&[OWN]);
    let mut update = |hosts: &[u8]| {
        state.update(Inputs {
            desired: &finance(hosts),
            network: &network,
            health: &Arc::default(),
            now: TimePoint {
                monotonic: Timestamp(0),
                wall: SystemTime::UNIX_EPOCH,
            },
            workers: &[],
        })
    };
    update(&[2, 3, 4]);
    let update = update(&[4, 5]).unwrap();
    assert_eq!(
        summary(&update.snapshot, &update, Duration::from_micros(3400)),
        "snapshot 1 -> 2: 1 services, 2 backends (+1 -2), applied in 3ms"
    );
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_published_at_once() {
    let mut world = World::start();
    world.network.send_replace(Some(view(&[OWN])));
    let mut desired = finance(&[2, 3]);
    let mut check = HealthCheck::tcp();
    check.fall = 1;
    Arc::make_mut(&mut desired.services[0]).health_check = Some(check.clone());
    let targets: Vec<_> = desired.services[0]
        .backends
        .iter()
        .map(|backend| Target::of(&desired.services[0], backend))
        .collect();
    let spec = CheckSpec {
        service: "finance".into(),
        check: Some(check),
        passive: None,
    };
    let specs = targets.iter().map(|target| (target.clone(), spec.clone()));
    world.health.follow(&specs.collect());
    world.desired.send_replace(Some(Arc::new(desired)));
    let states = |current: &Current| -> Vec<_> {
        let backends = current.snapshot.backend_slots.iter().flatten();
        backends.map(|backend| backend.state).collect()
    };
    let first = world.published(1).await;
    assert_eq!(states(&first), [BackendState::Unknown; 2]);
    pass(Duration::from_secs(1)).await;

    let before = Instant::now();
    let took = Duration::from_millis(1);
    world.health.record(&targets[0], Answer::good(), took);
    let second = world.published(2).await;
    assert_eq!(states(&second), [BackendState::Active, BackendState::Unknown]);
    let refused = Answer {
        result: crate::api::CheckResult::Refused,
        text: "refused".to_owned(),
    };
    world.health.record(&targets[0], refused, took);
    let third = world.published(3).await;
    assert_eq!(states(&third), [BackendState::Down, BackendState::Unknown]);
    assert!(before.elapsed() <= 2 * SETTLE);
    // The same again is no news.
    world.health.record(&targets[1], Answer::good(), took);
    world.published(4).await;
    world.health.record(&targets[1], Answer::good(), took);
    pass(Duration::from_secs(10)).await;
    assert_eq!(world.recorder.generations(), [1, 2, 3, 4]);
}
