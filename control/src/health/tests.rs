//! The checker with a scripted backend in place of the network, on a virtual clock.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;

use crate::api::CheckResult;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use vl3lb_common::Protocol;
use vl3lb_common::next_hop::{Link, NextHops};
use vl3lb_common::schedule::Scheduler;
use vl3lb_common::snapshot::MAX_BACKENDS;

use super::*;
use crate::config::{CheckKind, FlowRules, TcpCheck};
use crate::discovery::{DesiredSender, Origin};
use crate::network::{LinkState, NetworkView};

/// Of a wait, in the time of the test.
const LIMIT: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A scripted probe: answers after a millisecond, and records when it was called.
#[derive(Debug, Clone, Default)]
struct Script(Arc<Mutex<Scripted>>);

#[derive(Debug, Default)]
struct Scripted {
    asked: Vec<(Instant, SocketAddr)>,
    dead: Vec<SocketAddr>,
    waiting: usize,
    most_waiting: usize,
}

impl Probe for Script {
    async fn ask(&self, _: &CheckKind, address: SocketAddr, limit: Duration) -> Answer {
        let dead = {
            let mut script = self.0.lock().unwrap();
            script.asked.push((Instant::now(), address));
            script.waiting += 1;
            script.most_waiting = script.most_waiting.max(script.waiting);
            script.dead.contains(&address)
        };
        sleep(if dead { limit } else { MILLISECOND }).await;
        self.0.lock().unwrap().waiting -= 1;
        let timeout = Answer {
            result: CheckResult::Timeout,
            text: "timeout: no answer in 1s".to_owned(),
        };
        if dead { timeout } else { Answer::good() }
    }
}

struct World {
    script: Script,
    desired: DesiredSender,
    network: watch::Sender<Option<Arc<NetworkView>>>,
    table: Arc<HealthTable>,
}

impl World {
    fn start() -> Self {
        Self::with_sockets(MAX_BACKENDS)
    }

    fn with_sockets(sockets: usize) -> Self {
        let script = Script::default();
        let (desired, desired_receiver) = watch::channel(None);
        let (network, network_receiver) = watch::channel(Some(Arc::new(connected())));
        let (checker, table) = Checker::new(
            script.clone(),
            Sockets::new(sockets),
            desired_receiver,
            network_receiver,
        );
        tokio::spawn(checker.run());
        Self {
            script,
            desired,
            network,
            table,
        }
    }

    fn want(&self, service: ServiceSpec) {
        let services = vec![Arc::new(service)];
        self.desired.send_replace(Some(Arc::new(Desired {
            services,
            ..Desired::default()
        })));
    }

    fn kill(&self, host: u16) {
        self.script
            .0
            .lock()
            .unwrap()
            .dead
            .push((address(host), 8081).into());
    }

    /// The probes since the last call.
    fn asked(&self) -> Vec<(Instant, SocketAddr)> {
        std::mem::take(&mut self.script.0.lock().unwrap().asked)
    }

    fn verdict(&self, host: u16) -> Option<Verdict> {
        let findings = self.table.findings();
        let mut found = findings
            .iter()
            .filter(|(target, _)| target.address == address(host));
        found.next().map(|(_, finding)| finding.verdict)
    }
}

fn address(host: u16) -> IpAddr {
    let [high, low] = host.to_be_bytes();
    [172, 16, high, low].into()
}

fn connected() -> NetworkView {
    NetworkView {
        index: Some(7),
        state: LinkState::Up,
        mtu: 1500,
        addresses: vec![[172, 16, 255, 103].into()],
        broadcasts: Vec::new(),
        next_hops: NextHops::new(Link::RawIp, 1, Vec::new(), HashMap::new()),
        routing_problems: Vec::new(),
    }
}

/// A service whose backends are asked every 2 s.
fn finance(hosts: impl IntoIterator<Item = u16>) -> ServiceSpec {
    let backend = |host| BackendSpec {
        backup: false,
        address: address(host),
        port: 8081,
        instance: None,
        weight: 1,
        eligibility: Eligibility::NewFlows,
        changed: None,
        origin: Origin::Static,
        pod: None,
    };
    ServiceSpec {
        addresses: crate::config::ListenAddresses::default(),
        name: "finance".to_owned(),
        host: None,
        namespace: None,
        protocol: Protocol::Tcp,
        port: 8080,
        target_port: 8081,
        selector: BTreeMap::new(),
        scheduler: Scheduler::Maglev,
        affinity: Duration::ZERO,
        source_ranges: Vec::new(),
        client_address: vl3lb_common::ClientAddress::None,
        drain: Duration::ZERO,
        health_check: Some(HealthCheck::tcp()),
        rules: FlowRules::default(),
        backends: hosts.into_iter().map(backend).collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_backend_is_checked_at_once_and_every_interval() {
    let world = World::start();
    let started = Instant::now();
    world.want(finance([2]));
    sleep(10 * MILLISECOND).await;
    assert_eq!(world.verdict(2), Some(Verdict::Up));
    assert_eq!(world.asked().len(), 1);
    sleep(Duration::from_secs(20)).await;
    let asked = world.asked();
    assert_eq!(asked.len(), 10);
    for (first, second) in asked.iter().zip(&asked[1..]) {
        assert_eq!(second.0 - first.0, Duration::from_secs(2));
    }
    assert!(asked[0].0 - started < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn many_checks_are_spread_over_the_interval() {
    let world = World::start();
    world.want(finance(0..1000));
    sleep(Duration::from_millis(300)).await;
    assert!((0..1000).all(|host| world.verdict(host) == Some(Verdict::Up)));
    sleep(Duration::from_secs(4)).await;
    world.asked();
    let from = Instant::now();
    sleep(Duration::from_secs(2)).await;
    let asked = world.asked();
    assert!((990..=1010).contains(&asked.len()), "{}", asked.len());
    let mut tenths = [0_u32; 20];
    for (at, _) in asked {
        let tenth = (at - from).as_millis() / 100;
        tenths[usize::try_from(tenth).unwrap().min(19)] += 1;
    }
    assert!(
        tenths.iter().all(|&count| (20..=90).contains(&count)),
        "{tenths:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_backend_is_down_after_fall_failures_and_up_after_rise_successes() {
    let world = World::start();
    world.want(finance([2, 3]));
    sleep(Duration::from_secs(3)).await;
    world.kill(2);
    let mut changed = world.table.subscribe();
    let killed = Instant::now();
    timeout(LIMIT, changed.changed())
        .await
        .expect("a change")
        .unwrap();
    // fall x interval + timeout
    assert!(
        killed.elapsed() <= Duration::from_secs(3 * 2 + 1),
        "{:?}",
        killed.elapsed()
    );
    assert_eq!(world.verdict(2), Some(Verdict::Down));
    assert_eq!(world.verdict(3), Some(Verdict::Up));
    let whys: Vec<_> = world
        .table
        .findings()
        .values()
        .map(|finding| finding.why.clone())
        .collect();
    assert!(
        whys.contains(&"tcp connect timeout: no answer in 1s (3 of 3)".to_owned()),
        "{whys:?}"
    );
    world.script.0.lock().unwrap().dead.clear();
    let back = Instant::now();
    timeout(LIMIT, changed.changed())
        .await
        .expect("a change")
        .unwrap();
    assert!(
        back.elapsed() <= Duration::from_secs(2 * 2 + 1),
        "{:?}",
        back.elapsed()
    );
    assert_eq!(world.verdict(2), Some(Verdict::Up));
    let counts: Vec<_> = world
        .table
        .results("finance")
        .iter()
        .map(|count| count.checks_total)
        .collect();
    assert_eq!(counts[CheckResult::Timeout as usize], 3);
    assert_eq!(counts[CheckResult::Refused as usize], 0);
}

#[tokio::test(start_paused = true)]
async fn counts_stay_when_other_settings_change() {
    let world = World::start();
    world.kill(2);
    world.want(finance([2]));
    // Two of three failures, each of which takes a second.
    sleep(Duration::from_secs(3)).await;
    let failures = || world.table.results("finance")[CheckResult::Timeout as usize].checks_total;
    let consecutive = || {
        world
            .table
            .checks()
            .into_values()
            .map(|check| check.consecutive)
            .next()
    };
    let before = failures();
    assert!(before > 0);
    let mut heavier = finance([2, 3]);
    heavier.backends[0].weight = 7;
    heavier.backends[0].eligibility = Eligibility::ExistingFlows;
    world.want(heavier);
    sleep(MILLISECOND).await;
    assert_eq!(failures(), before);
    // Other times begin a new round, and go on counting.
    let mut slower = finance([2]);
    slower.health_check.as_mut().unwrap().interval = Duration::from_secs(60);
    world.want(slower);
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(consecutive().map(u64::from), Some(before + 1));
}

#[tokio::test(start_paused = true)]
async fn a_removed_backend_is_not_checked_and_starts_as_unknown() {
    let world = World::start();
    world.kill(2);
    world.want(finance([2, 3]));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.verdict(2), Some(Verdict::Down));
    world.want(finance([3]));
    sleep(Duration::from_secs(2)).await;
    world.asked();
    sleep(Duration::from_secs(10)).await;
    assert!(world.asked().iter().all(|(_, asked)| asked.ip() == address(3)));
    assert_eq!(world.verdict(2), None);
    world.want(finance([2, 3]));
    sleep(MILLISECOND).await;
    assert_eq!(world.verdict(2), Some(Verdict::Unknown));
    // The same for all when the service has no checks any more, and for one that is replaced.
    let mut replaced = finance([2, 3]);
    replaced.backends[0].eligibility = Eligibility::Dead;
    world.want(replaced);
    sleep(MILLISECOND).await;
    assert_eq!(world.verdict(2), None);
    let mut unchecked = finance([2, 3]);
    unchecked.health_check = None;
    world.want(unchecked);
    sleep(MILLISECOND).await;
    assert!(world.table.findings().is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_backend_fails_while_the_balancer_has_no_network() {
    let world = World::start();
    world.want(finance([2]));
    sleep(Duration::from_secs(3)).await;
    world.kill(2);
    world.network.send_replace(Some(Arc::new(NetworkView::absent())));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.verdict(2), Some(Verdict::Up));
    world.network.send_replace(Some(Arc::new(connected())));
    sleep(Duration::from_secs(8)).await;
    assert_eq!(world.verdict(2), Some(Verdict::Down));
}

/// The times at which this backend is asked during a minute.
async fn asked_in_a_minute(world: &World, host: u16) -> Vec<Instant> {
    world.asked();
    sleep(Duration::from_secs(60)).await;
    let asked = world.asked().into_iter();
    let of_host = asked.filter(|(_, asked)| asked.ip() == address(host));
    of_host.map(|(at, _)| at).collect()
}

fn are_on_time(asked: &[Instant]) -> bool {
    let apart = |pair: &[Instant]| pair[1] - pair[0] == Duration::from_secs(2);
    asked.len() == 30 && asked.windows(2).all(apart)
}

#[tokio::test(start_paused = true)]
async fn thousands_of_black_holes_delay_nobody_elses_checks() {
    let world = World::start();
    (0..3_000).for_each(|host| world.kill(host));
    world.want(finance(0..3_010));
    // Nobody waits for a socket, from the first check on.
    sleep(Duration::from_secs(4)).await;
    assert!((3_000..3_010).all(|host| world.verdict(host) == Some(Verdict::Up)));
    assert!(are_on_time(&asked_in_a_minute(&world, 3_000).await));
    assert!((0..3_000).all(|host| world.verdict(host) == Some(Verdict::Down)));
    let started = Instant::now();
    world.kill(3_005);
    let mut changed = world.table.subscribe();
    timeout(LIMIT, changed.changed())
        .await
        .expect("a change")
        .unwrap();
    assert!(started.elapsed() <= Duration::from_secs(3 * 2 + 1));
}

#[tokio::test(start_paused = true)]
async fn with_few_sockets_black_holes_wait_for_each_other_only() {
    let world = World::with_sockets(64);
    (0..900).for_each(|host| world.kill(host));
    world.want(finance(900..910));
    sleep(Duration::from_secs(4)).await;
    world.want(finance(0..910));
    sleep(Duration::from_secs(4)).await;
    assert!(are_on_time(&asked_in_a_minute(&world, 900).await));
    assert!((900..910).all(|host| world.verdict(host) == Some(Verdict::Up)));
    sleep(Duration::from_secs(60)).await;
    assert!((0..900).all(|host| world.verdict(host) == Some(Verdict::Down)));
    let most = world.script.0.lock().unwrap().most_waiting;
    assert!((32..=64).contains(&most), "{most}");
}

#[tokio::test(start_paused = true)]
async fn the_checked_port_can_differ() {
    let world = World::start();
    let mut service = finance([2]);
    service.health_check.as_mut().unwrap().kind = CheckKind::Tcp(TcpCheck { port: Some(9090) });
    world.want(service);
    sleep(10 * MILLISECOND).await;
    assert_eq!(world.asked()[0].1, SocketAddr::new(address(2), 9090));
}
