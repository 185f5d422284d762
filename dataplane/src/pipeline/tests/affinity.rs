//! Clients that keep their backend.

use proptest::prelude::*;

use super::*;

const TIME: Duration = Duration::from_secs(60);
const FIRST: &str = "172.16.1.2:8081";
const SECOND: &str = "172.16.1.3:8081";
const THIRD: &str = "172.16.1.4:8081";
const V6: [&str; 2] = ["[2001:db8::2]:8081", "[2001:db8::3]:8081"];

fn active(addresses: &[&'static str]) -> Vec<(&'static str, BackendState)> {
    addresses
        .iter()
        .map(|&address| (address, BackendState::Active))
        .collect()
}

fn sticky(workers: u16, scheduler: Scheduler) -> World {
    World::new(Setup {
        workers,
        scheduler,
        affinity: TIME,
        backends: active(&[FIRST, SECOND, V6[0], V6[1]]),
        // Enough for all clients at one worker: the hash says how many meet.
        nat_ports: (20_000, 20_999),
        ..Setup::default()
    })
}

fn host(destination: SocketAddr) -> String {
    destination.to_string()
}

/// Opens a TCP connection; the backend that it goes to.
fn meet(world: &mut World, client: &str) -> String {
    host(world.connect(client).destination)
}

/// Closes what [`meet`] opened.
fn part(world: &mut World, client: &str) {
    let reset = world.client_tcp(client, flags::RST, b"");
    world.forward(&reset);
}

#[test]
fn a_client_keeps_its_backend_for_any_queue_and_when_backends_are_added() {
    for scheduler in [
        Scheduler::Maglev,
        Scheduler::RoundRobin,
        Scheduler::LeastConnections,
    ] {
        for workers in [1, 3] {
            let mut world = sticky(workers, scheduler);
            let v4 = (10..20).map(|host| format!("172.16.1.{host}"));
            let v6 = (10..20).map(|host| format!("[2001:db8::{host}]"));
            let clients: Vec<String> = v4.chain(v6).collect();
            let first: Vec<_> = clients
                .iter()
                .map(|client| meet(&mut world, &format!("{client}:40000")))
                .collect();
            world.publish_backends(active(&[
                FIRST,
                SECOND,
                V6[0],
                V6[1],
                THIRD,
                "[2001:db8::4]:8081",
            ]));
            for round in 1..5 {
                world.enters = round % workers;
                world.pass(TIME / 2);
                for (client, first) in clients.iter().zip(&first) {
                    let again = format!("{client}:{}", 40_000 + round);
                    assert_eq!(&meet(&mut world, &again), first, "{scheduler:?} {workers}");
                    let question = world.client_udp(&again, b"q");
                    world.forward(&question);
                }
            }
            let backends: std::collections::HashSet<_> = first.iter().collect();
            assert!(backends.len() > 2, "clients are spread: {backends:?}");
        }
    }
}

#[test]
fn datagrams_keep_their_own_backend() {
    let mut world = sticky(3, Scheduler::RoundRobin);
    let mut seen = std::collections::HashSet::new();
    for port in 40_000..40_020 {
        world.enters = port % 3;
        let question = world.client_udp(&format!("172.16.1.100:{port}"), b"q");
        seen.insert(host(world.forward(&question).destination));
    }
    assert_eq!(seen.len(), 1);
}

#[test]
fn the_first_choice_of_maglev_depends_on_the_address_alone() {
    let mut here = sticky(1, Scheduler::Maglev);
    let mut elsewhere = sticky(3, Scheduler::Maglev);
    for number in 10..60 {
        let there = meet(&mut elsewhere, &format!("172.16.1.{number}:50000"));
        assert_eq!(meet(&mut here, &format!("172.16.1.{number}:40000")), there);
    }
}

#[test]
fn round_robin_takes_turns_among_clients() {
    let mut world = sticky(1, Scheduler::RoundRobin);
    for number in 10..20 {
        let first = meet(&mut world, &format!("172.16.1.{number}:40000"));
        assert_eq!(first, [FIRST, SECOND][number % 2]);
        meet(&mut world, &format!("172.16.1.{number}:40001"));
    }
}

#[test]
fn the_time_begins_with_the_end_of_the_last_flow() {
    let mut world = sticky(1, Scheduler::RoundRobin);
    assert_eq!(meet(&mut world, "172.16.1.100:40000"), FIRST);
    world.pass(TIME * 10);
    assert_eq!(meet(&mut world, "172.16.1.100:40001"), FIRST, "one is still open");
    part(&mut world, "172.16.1.100:40000");
    part(&mut world, "172.16.1.100:40001");
    world.pass(TIME);
    assert_eq!(meet(&mut world, "172.16.1.100:40002"), FIRST);
    part(&mut world, "172.16.1.100:40002");
    world.pass(TIME + Duration::from_secs(1));
    assert_eq!(
        meet(&mut world, "172.16.1.100:40003"),
        SECOND,
        "a client like any other"
    );
}

#[test]
fn the_end_of_a_silent_flow_is_when_it_is_swept() {
    let mut world = sticky(1, Scheduler::RoundRobin);
    let question = world.client_udp("172.16.1.100:40000", b"q");
    assert_eq!(host(world.forward(&question).destination), FIRST);
    world.pass(Duration::from_secs(301));
    world.sweep();
    assert_eq!(world.flows(), 0);
    world.pass(TIME);
    let question = world.client_udp("172.16.1.100:40001", b"q");
    assert_eq!(host(world.forward(&question).destination), FIRST);
    world.pass(Duration::from_secs(301));
    world.sweep();
    world.pass(TIME + Duration::from_secs(1));
    let question = world.client_udp("172.16.1.100:40002", b"q");
    assert_eq!(host(world.forward(&question).destination), SECOND);
}

#[test]
fn a_client_of_a_drained_backend_gets_another_one_and_keeps_it() {
    let weightless = |world: &mut World| {
        world.publish(|snapshot| {
            let backend = snapshot.backend_slots[0].as_mut().unwrap();
            backend.weight = 0;
            rebuild(snapshot);
        });
    };
    let turned = |state: BackendState| {
        move |world: &mut World| world.publish_backends(vec![(FIRST, state), (SECOND, BackendState::Active)])
    };
    let draining = BackendState::Draining { since: Timestamp(1) };
    let losses: [&dyn Fn(&mut World); 3] = [&weightless, &turned(draining), &turned(BackendState::Gone)];
    for lose in losses {
        let mut world = World::new(Setup {
            backends: active(&[FIRST, SECOND]),
            affinity: TIME,
            ..Setup::default()
        });
        assert_eq!(meet(&mut world, "172.16.1.100:40000"), FIRST);
        lose(&mut world);
        assert_eq!(meet(&mut world, "172.16.1.100:40001"), SECOND);
        world.publish_backends(active(&[FIRST, SECOND]));
        for port in 40_002..40_006 {
            assert_eq!(meet(&mut world, &format!("172.16.1.100:{port}")), SECOND);
        }
    }
}

/// Builds the pools of a changed snapshot anew.
fn rebuild(snapshot: &mut Snapshot) {
    for service in snapshot.service_slots.iter_mut().flatten() {
        let backends: Vec<_> = snapshot
            .backend_slots
            .iter()
            .flatten()
            .filter(|backend| backend.service == service.slot && backend.address.is_ipv4())
            .cloned()
            .collect();
        service.v4 = Pool::build(service.scheduler, &backends).into();
    }
}

#[test]
fn the_next_backend_in_a_slot_does_not_inherit_its_clients() {
    let mut world = World::new(Setup {
        backends: active(&[FIRST, SECOND]),
        affinity: TIME,
        ..Setup::default()
    });
    assert_eq!(meet(&mut world, "172.16.1.100:40000"), FIRST);
    part(&mut world, "172.16.1.100:40000");
    world.publish(|snapshot| {
        let generation = snapshot.generation;
        let backend = snapshot.backend_slots[0].as_mut().unwrap();
        backend.since = generation;
        backend.address = "172.16.1.9".parse().unwrap();
        rebuild(snapshot);
    });
    // The second one has the turn.
    assert_eq!(meet(&mut world, "172.16.1.100:40001"), SECOND);
}

#[test]
fn flows_stay_where_they_are_when_affinity_is_switched_on_and_off() {
    let mut world = World::new(Setup {
        workers: 3,
        backends: active(&[FIRST, SECOND]),
        ..Setup::default()
    });
    let mut flows: Vec<(String, Seen)> = Vec::new();
    for (round, affinity) in [Duration::ZERO, TIME, Duration::ZERO, TIME]
        .into_iter()
        .enumerate()
    {
        world.setup.affinity = affinity;
        world.publish_backends(active(&[FIRST, SECOND]));
        let mut hosts = std::collections::HashSet::new();
        for number in 0..6 {
            let client = format!("172.16.1.100:{}", 40_000 + 100 * round + number);
            world.enters = u16::try_from(number % 3).unwrap();
            let seen = world.connect(&client);
            hosts.insert(host(seen.destination));
            flows.push((client, seen));
        }
        assert_eq!(hosts.len(), if affinity.is_zero() { 2 } else { 1 });
        assert_eq!(world.flows() as usize, flows.len());
        // All flows so far go on, at whichever worker their packets come in.
        for (client, seen) in &flows {
            for worker in 0..3 {
                world.enters = worker;
                let data = world.client_tcp(client, flags::ACK, b"x");
                let now = world.forward(&data);
                assert_eq!((now.source, now.destination), (seen.source, seen.destination));
                let reply = world.backend_tcp(seen, flags::ACK, b"x");
                assert_eq!(world.forward(&reply).destination.to_string(), *client);
                let error = error_about(&mut world, &reply);
                assert_eq!(world.send(&error).0, Verdict::Transmit);
            }
        }
    }
    // Who comes back with the same port is one of its rule of now.
    let (client, seen) = flows.first().cloned().unwrap();
    part(&mut world, &client);
    let other = flows.last().unwrap().1.destination;
    assert_eq!(
        world.connect(&client).destination,
        other,
        "was {}",
        seen.destination
    );
}

/// An ICMP error about what `packet` looks like when it is sent on.
fn error_about(world: &mut World, packet: &[u8]) -> Vec<u8> {
    let (_, sent) = world.send(packet);
    let to = world.addresses("172.16.1.1:0", "172.16.1.103:0");
    builder::icmp_error(to, 3, 1, 0, &sent[14..])
}

#[test]
fn fragments_and_errors_find_the_owner_of_the_client() {
    let mut world = sticky(3, Scheduler::Maglev);
    for number in 110..130 {
        let client = format!("172.16.1.{number}:40000");
        let packet = world.client_udp(&client, &[7; 4_000]);
        let fragments = builder::fragments(&packet, true, 1_480, number);
        let mut hosts = std::collections::HashSet::new();
        for (worker, fragment) in (0..).zip(&fragments) {
            world.enters = worker;
            let (verdict, out) = world.send(fragment);
            assert_eq!(verdict, Verdict::Transmit, "{:?}", world.drops());
            hosts.insert(out[30..34].to_vec());
        }
        assert_eq!(hosts.len(), 1);
        let seen = world.connect(&client);
        for worker in 0..3 {
            world.enters = worker;
            for packet in [
                world.client_tcp(&client, flags::ACK, b"x"),
                world.backend_tcp(&seen, flags::ACK, b"x"),
            ] {
                let error = error_about(&mut world, &packet);
                assert_eq!(world.send(&error).0, Verdict::Transmit);
            }
        }
    }
    assert_eq!(world.flows(), 40);
}

#[test]
fn services_without_affinity_are_spread_as_before_beside_one_that_has_it() {
    let mut world = sticky(3, Scheduler::RoundRobin);
    world.publish(|snapshot| {
        let udp = snapshot.service_slots[1].as_mut().unwrap();
        udp.affinity = Duration::ZERO;
    });
    let hosts: std::collections::HashSet<_> = (0..30)
        .map(|number| {
            world.enters = number % 3;
            let question = world.client_udp(&format!("172.16.1.100:{}", 40_000 + number), b"q");
            host(world.forward(&question).destination)
        })
        .collect();
    assert_eq!(hosts.len(), 2);
    assert!(
        world
            .engines
            .iter()
            .all(|engine| engine.tables.flows.table().len() > 2)
    );
}

#[test]
fn a_full_affinity_table_forgets_and_counts() {
    let mut world = World::new(Setup {
        // One set of eight clients.
        flows: 32,
        backends: active(&[FIRST, SECOND]),
        affinity: TIME,
        ..Setup::default()
    });
    for number in 10..30 {
        meet(&mut world, &format!("172.16.1.{number}:40000"));
        part(&mut world, &format!("172.16.1.{number}:40000"));
    }
    assert_eq!(world.stats[0].affinity_evicted.get(), 12);
}

/// Something that happens to a service with affinity.
#[derive(Debug, Clone)]
enum Step {
    Connect {
        host: u8,
        worker: u16,
    },
    End {
        nth: usize,
    },
    Wait {
        seconds: u64,
    },
    /// The states of the backends; at least those that are there stay known.
    Backends {
        states: Vec<Option<bool>>,
    },
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0_u8..6, 0_u16..3).prop_map(|(host, worker)| Step::Connect { host, worker }),
        4 => any::<usize>().prop_map(|nth| Step::End { nth }),
        2 => (0_u64..90).prop_map(|seconds| Step::Wait { seconds }),
        2 => prop::collection::vec(prop::option::weighted(0.8, prop::bool::weighted(0.8)), 1..5)
            .prop_map(|states| Step::Backends { states }),
        1 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 1..150)
}

/// What a client may rely on.
#[derive(Debug, Clone)]
struct AffinityEpoch {
    backend: String,
    open: u32,
    until: Timestamp,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn within_its_time_a_client_sees_no_second_backend_while_its_own_takes_flows(
        steps in steps(),
        scheduler in prop::sample::select(vec![Scheduler::Maglev, Scheduler::RoundRobin, Scheduler::LeastConnections]),
    ) {
        const ALL: [&str; 4] = [FIRST, SECOND, THIRD, "172.16.1.5:8081"];
        let mut world = World::new(Setup {
            workers: 3,
            scheduler,
            affinity: TIME,
            backends: active(&ALL[..1]),
            ..Setup::default()
        });
        let mut bonds: HashMap<u8, AffinityEpoch> = HashMap::new();
        let mut open: Vec<(u8, String, String)> = Vec::new();
        let mut port = 1_024_u16;
        for step in steps {
            match step {
                Step::Connect { host: client_host, worker } => {
                    port += 1;
                    world.enters = worker;
                    let client = format!("172.16.1.{}:{port}", 100 + client_host);
                    let syn = world.client_tcp(&client, flags::SYN, b"");
                    let (verdict, out) = world.send(&syn);
                    if verdict != Verdict::Transmit {
                        continue;
                    }
                    let backend = host(Seen::of(&out, true).destination);
                    let takes = |backend: &str| world
                        .setup
                        .backends
                        .iter()
                        .any(|&(known, state)| known == backend && state == BackendState::Active);
                    prop_assert!(takes(&backend));
                    let epoch = bonds.get(&client_host).filter(|epoch| {
                        (epoch.open > 0 || world.now <= epoch.until) && takes(&epoch.backend)
                    });
                    prop_assert!(epoch.is_none_or(|epoch| epoch.backend == backend), "{:?} got {}", epoch, backend);
                    let kept = bonds.get(&client_host).filter(|epoch| epoch.backend == backend);
                    let before = kept.map_or(0, |epoch| epoch.open);
                    bonds.insert(client_host, AffinityEpoch { backend: backend.clone(), open: before + 1, until: world.now + TIME });
                    open.push((client_host, client, backend));
                }
                Step::End { nth } if !open.is_empty() => {
                    let (client_host, client, backend) = open.swap_remove(nth % open.len());
                    let reset = world.client_tcp(&client, flags::RST, b"");
                    if world.send(&reset).0 != Verdict::Transmit {
                        continue;
                    }
                    if let Some(epoch) = bonds.get_mut(&client_host)
                        && epoch.backend == backend
                    {
                        epoch.open = epoch.open.saturating_sub(1);
                        epoch.until = world.now + TIME;
                    }
                }
                Step::End { .. } => {}
                Step::Wait { seconds } => {
                    world.pass(Duration::from_secs(seconds));
                    // Only connections that are certainly alive bind by being open.
                    for epoch in bonds.values_mut() {
                        if epoch.open > 0 {
                            epoch.until = epoch.until.max(world.now);
                            epoch.open = 0;
                        }
                    }
                }
                Step::Backends { states } => {
                    let known = states.iter().zip(ALL).map(|(state, address)| (address, match state {
                        Some(true) => BackendState::Active,
                        Some(false) => BackendState::Draining { since: world.now },
                        None => BackendState::Gone,
                    }));
                    let mut backends: Vec<_> = known.collect();
                    // Slots keep their owners: what was known stays known.
                    let rest = world.setup.backends.len();
                    for &address in ALL.iter().take(rest).skip(backends.len()) {
                        backends.push((address, BackendState::Gone));
                    }
                    for epoch in bonds.values_mut() {
                        let gone = |&(known, state): &(&str, BackendState)| {
                            known == epoch.backend && state == BackendState::Gone
                        };
                        if backends.iter().any(gone) {
                            // Its flows end at once or when they are swept.
                            epoch.open = 0;
                        }
                    }
                    world.publish_backends(backends);
                }
                Step::Sweep => world.sweep(),
            }
        }
        prop_assert_eq!(world.dropped(DropReason::Internal), 0);
    }
}
