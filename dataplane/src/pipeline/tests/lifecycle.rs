//! Flows over time: backends come and go, timers run out, resources end.

use super::*;
use vl3lb_common::stats::CloseCause;

const FIRST: &str = "172.16.1.2:8081";
const SECOND: &str = "172.16.1.3:8081";

fn two_backends(first: BackendState) -> Vec<(&'static str, BackendState)> {
    vec![(FIRST, first), (SECOND, BackendState::Active)]
}

fn closed(world: &World, cause: CloseCause) -> u64 {
    world.stats[0].service(ServiceSlot(0)).flows_closed[cause as usize].get()
}

/// Flows of all services that ended for `cause`.
fn all_closed(world: &World, cause: CloseCause) -> u64 {
    let services = (0..4).map(|slot| world.stats[0].service(ServiceSlot(slot)));
    services
        .map(|service| service.flows_closed[cause as usize].get())
        .sum()
}

#[test]
fn new_flows_leave_a_draining_backend_and_old_ones_stay() {
    let mut world = World::new(Setup {
        backends: two_backends(BackendState::Active),
        ..Setup::default()
    });
    let old = world.connect("172.16.1.100:40000");
    assert_eq!(old.destination.to_string(), FIRST);
    world.publish_backends(two_backends(BackendState::Draining { since: world.now }));
    for port in 40_001..40_009 {
        let seen = world.connect(&format!("172.16.1.100:{port}"));
        assert_eq!(seen.destination.to_string(), SECOND);
    }
    let data = world.client_tcp("172.16.1.100:40000", flags::ACK, b"still here");
    assert_eq!(world.forward(&data).destination.to_string(), FIRST);
    let reply = world.backend_tcp(&old, flags::ACK, b"me too");
    assert_eq!(
        world.forward(&reply).destination.to_string(),
        "172.16.1.100:40000"
    );
}

#[test]
fn scaling_up_moves_no_flow() {
    let mut world = World::new(Setup {
        scheduler: Scheduler::Maglev,
        ..Setup::default()
    });
    let before: Vec<_> = (0..50)
        .map(|i| world.connect(&format!("172.16.1.100:{}", 40_000 + i)))
        .collect();
    world.publish_backends(vec![
        (FIRST, BackendState::Active),
        ("[2001:db8::2]:8081", BackendState::Active),
        (SECOND, BackendState::Active),
        ("172.16.1.4:8081", BackendState::Active),
    ]);
    for (i, seen) in before.iter().enumerate() {
        let data = world.client_tcp(&format!("172.16.1.100:{}", 40_000 + i), flags::ACK, b"x");
        let now = world.forward(&data);
        assert_eq!((now.source, now.destination), (seen.source, seen.destination));
    }
}

#[test]
fn a_change_of_one_backend_touches_no_flow_of_another() {
    let backends = |third: BackendState, fourth: Option<BackendState>| {
        let mut backends = vec![
            (FIRST, BackendState::Active),
            (SECOND, BackendState::Active),
            ("172.16.1.4:8081", third),
        ];
        backends.extend(fourth.map(|state| ("172.16.1.5:8081", state)));
        backends
    };
    for scheduler in [
        Scheduler::Maglev,
        Scheduler::RoundRobin,
        Scheduler::LeastConnections,
    ] {
        let mut world = World::new(Setup {
            scheduler,
            backends: backends(BackendState::Active, None),
            ..Setup::default()
        });
        let clients: Vec<_> = (0..60).map(|i| format!("172.16.1.100:{}", 40_000 + i)).collect();
        let flows: Vec<_> = clients
            .iter()
            .map(|client| (client, world.connect(client)))
            .filter(|(_, seen)| seen.destination.ip().to_string() != "172.16.1.4")
            .collect();
        assert!((20..60).contains(&flows.len()), "{scheduler:?}: {}", flows.len());
        let draining = BackendState::Draining { since: world.now };
        for (third, fourth) in [
            (BackendState::Down, None),
            (BackendState::Down, Some(BackendState::Active)),
            (draining, Some(draining)),
            (BackendState::Gone, Some(BackendState::Down)),
            (BackendState::Gone, None),
            (BackendState::Active, None),
        ] {
            world.publish_backends(backends(third, fourth));
            world.sweep();
            for (client, seen) in &flows {
                let data = world.client_tcp(client, flags::ACK, b"x");
                let now = world.forward(&data);
                assert_eq!((now.source, now.destination), (seen.source, seen.destination));
                let data = world.backend_tcp(seen, flags::ACK, b"x");
                assert_eq!(world.forward(&data).destination.to_string(), **client);
            }
        }
    }
}

#[test]
fn flows_of_a_backend_that_is_gone_end_at_once() {
    let mut world = World::new(Setup {
        backends: two_backends(BackendState::Active),
        ..Setup::default()
    });
    let seen = world.connect("172.16.1.100:40000");
    world.connect("172.16.1.100:40001");
    world.publish_backends(two_backends(BackendState::Gone));
    let data = world.client_tcp("172.16.1.100:40000", flags::ACK | flags::PSH, b"x");
    let (verdict, reset) = world.send(&data);
    assert_eq!(verdict, Verdict::Reject);
    validate::assert_valid(&reset, true);
    let reset = Seen::of(&reset, true);
    assert_eq!(reset.tcp_flags & flags::RST, flags::RST);
    assert_eq!(reset.destination.to_string(), "172.16.1.100:40000");
    assert_eq!(world.dropped(DropReason::DrainDeadline), 1);
    // The backend gets a reset too, if it goes on sending.
    let data = world.backend_tcp(&seen, flags::ACK, b"x");
    assert_eq!(world.send(&data).0, Verdict::Reject);
    assert_eq!(world.dropped(DropReason::UnknownReply), 1);
    // A new connection from the same port goes elsewhere.
    assert_eq!(
        world.connect("172.16.1.100:40000").destination.to_string(),
        SECOND
    );
    assert_eq!(closed(&world, CloseCause::Drain), 1);
}

#[test]
fn silent_flows_of_a_backend_that_is_gone_free_its_slot() {
    let mut world = World::new(Setup {
        backends: two_backends(BackendState::Active),
        ..Setup::default()
    });
    world.connect("172.16.1.100:40000");
    world.connect("172.16.1.100:40001");
    assert_eq!(world.stats[0].backend(BackendSlot(0)).nat_ports.get(), 1);
    world.publish_backends(two_backends(BackendState::Gone));
    world.sweep();
    assert_eq!(world.flows(), 1);
    assert_eq!(world.stats[0].backend(BackendSlot(0)).nat_ports.get(), 0);
    assert_eq!(world.stats[0].backend(BackendSlot(0)).flows.get(), 0);
}

#[test]
fn udp_of_a_backend_that_is_gone_is_balanced_again() {
    let mut world = World::new(Setup {
        backends: two_backends(BackendState::Active),
        ..Setup::default()
    });
    let question = world.client_udp("172.16.1.100:40000", b"q");
    assert_eq!(world.forward(&question).destination.to_string(), FIRST);
    world.publish_backends(two_backends(BackendState::Gone));
    assert_eq!(world.forward(&question).destination.to_string(), SECOND);
}

#[test]
fn flows_of_a_dead_backend_end_at_once_and_it_comes_back_in_its_slot() {
    let mut world = World::new(Setup {
        backends: two_backends(BackendState::Active),
        ..Setup::default()
    });
    let seen = world.connect("172.16.1.100:40000");
    let question = world.client_udp("172.16.1.100:40001", b"q");
    let asked = world.forward(&question).destination.to_string();
    let dead = [(FIRST, BackendState::Down), (SECOND, BackendState::Down)];
    world.publish_backends(dead.to_vec());
    let data = world.client_tcp("172.16.1.100:40000", flags::ACK | flags::PSH, b"x");
    let (verdict, reset) = world.send(&data);
    assert_eq!(verdict, Verdict::Reject);
    let reset = Seen::of(&reset, true);
    assert_eq!(reset.tcp_flags & flags::RST, flags::RST);
    assert_eq!(world.dropped(DropReason::BackendDown), 1);
    // All are dead: as a service without backends.
    assert_eq!(world.send(&question).0, Verdict::Reject);
    let syn = world.client_tcp("172.16.1.100:40002", flags::SYN, b"");
    assert_eq!(world.send(&syn).0, Verdict::Reject);
    assert_eq!(world.dropped(DropReason::NoBackend), 2);
    assert_eq!(all_closed(&world, CloseCause::BackendDown), 2);
    assert_eq!(world.flows(), 0);

    world.publish_backends(two_backends(BackendState::Active));
    let again = world.connect("172.16.1.100:40000").destination;
    assert!([FIRST, SECOND].contains(&again.to_string().as_str()));
    assert!([FIRST, SECOND].contains(&asked.as_str()));
    let late = world.backend_tcp(&seen, flags::ACK, b"x");
    assert_ne!(world.send(&late).0, Verdict::Transmit, "the old flow is over");
}

#[test]
fn a_flow_of_a_dead_backend_goes_to_another_with_its_next_packet() {
    let mut world = World::new(Setup {
        backends: two_backends(BackendState::Active),
        ..Setup::default()
    });
    let question = world.client_udp("172.16.1.100:40000", b"q");
    assert_eq!(world.forward(&question).destination.to_string(), FIRST);
    world.connect("172.16.1.100:40001");
    world.publish_backends(two_backends(BackendState::Down));
    assert_eq!(world.forward(&question).destination.to_string(), SECOND);
    assert_eq!(all_closed(&world, CloseCause::BackendDown), 1);
    // The client gives up by itself, and begins again from the same port.
    assert_eq!(
        world.connect("172.16.1.100:40001").destination.to_string(),
        SECOND
    );
}

#[test]
fn silent_flows_of_a_dead_backend_are_swept_and_counted() {
    let mut world = World::new(Setup {
        backends: two_backends(BackendState::Active),
        ..Setup::default()
    });
    world.connect("172.16.1.100:40000");
    world.publish_backends(vec![(FIRST, BackendState::Down)]);
    world.sweep();
    assert_eq!((world.flows(), closed(&world, CloseCause::BackendDown)), (0, 1));
}

#[test]
fn a_service_without_backends_refuses_at_once() {
    let mut world = World::new(Setup {
        backends: vec![],
        ..Setup::default()
    });
    let syn = world.client_tcp("172.16.1.100:40000", flags::SYN, b"");
    let (verdict, reset) = world.send(&syn);
    assert_eq!(verdict, Verdict::Reject);
    validate::assert_valid(&reset, true);
    let reset = Seen::of(&reset, true);
    assert_eq!(
        reset.tcp_flags & (flags::RST | flags::ACK),
        flags::RST | flags::ACK
    );
    assert_eq!(reset.macs, Some((OWN_MAC, CLIENT_MAC)));
    let question = world.client_udp("[2001:db8::64]:40000", b"q");
    let (verdict, error) = world.send(&question);
    assert_eq!(verdict, Verdict::Reject);
    validate::assert_valid(&error, true);
    assert_eq!((error[54], error[55]), (1, 4), "ICMPv6 port unreachable");
    assert_eq!(world.dropped(DropReason::NoBackend), 2);
    assert_eq!(world.flows(), 0);
}

/// A backend in TIME-WAIT takes the SYN only if sequence numbers and timestamps go on, as one client's do.
#[test]
fn a_client_that_connects_again_from_the_same_port_is_at_the_same_port_of_the_backend() {
    let mut world = World::new(Setup {
        scheduler: Scheduler::Maglev,
        ..Setup::default()
    });
    let client = "172.16.1.100:40000";
    let mut before = world.connect(client);
    for close in [flags::FIN | flags::ACK, flags::RST] {
        for _ in 0..20 {
            let from_client = world.client_tcp(client, close, b"");
            world.forward(&from_client);
            let from_backend = world.backend_tcp(&before, close, b"");
            world.forward(&from_backend);
            let again = world.connect(client);
            assert_eq!(
                (again.source, again.destination),
                (before.source, before.destination)
            );
            before = again;
        }
    }
    assert_eq!(world.flows(), 1);
    assert_eq!(closed(&world, CloseCause::Fin), 20);
    assert_eq!(closed(&world, CloseCause::Rst), 20);
}

#[test]
fn only_a_syn_opens_a_tcp_flow() {
    let mut world = World::new(Setup::default());
    for bits in [flags::ACK, flags::SYN | flags::ACK, flags::FIN | flags::ACK, 0] {
        let packet = world.client_tcp("172.16.1.100:40000", bits, b"");
        assert_ne!(world.send(&packet).0, Verdict::Transmit);
    }
    let reset = world.client_tcp("172.16.1.100:40000", flags::RST, b"");
    assert_eq!(world.send(&reset).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::NotSyn), 5);
    assert_eq!(world.flows(), 0);
}

#[test]
fn timers_are_at_the_rfc_minima_or_above() {
    let mut world = World::new(Setup::default());
    let tcp = world.connect("172.16.1.100:40000");
    let question = world.client_udp("172.16.1.100:40000", b"q");
    let udp = world.forward(&question);

    world.pass(Duration::from_secs(299));
    let answer = world.backend_udp(&udp, b"late");
    world.forward(&answer);
    world.pass(Duration::from_secs(301));
    world.sweep();
    assert_ne!(world.send(&answer).0, Verdict::Transmit);

    world.pass(Duration::from_secs(7_439 - 600));
    let data = world.backend_tcp(&tcp, flags::ACK, b"still open");
    world.forward(&data);
    world.pass(Duration::from_secs(7_441));
    world.sweep();
    assert_eq!(world.flows(), 0);
    assert_ne!(world.send(&data).0, Verdict::Transmit);
}

#[test]
fn a_finished_flow_gives_way_to_a_new_one_from_the_same_port() {
    let mut world = World::new(Setup {
        backends: two_backends(BackendState::Active),
        ..Setup::default()
    });
    let seen = world.connect("172.16.1.100:40000");
    for packet in [
        world.client_tcp("172.16.1.100:40000", flags::FIN | flags::ACK, b""),
        world.backend_tcp(&seen, flags::FIN | flags::ACK, b""),
        world.client_tcp("172.16.1.100:40000", flags::ACK, b""),
    ] {
        world.forward(&packet);
    }
    assert_eq!(closed(&world, CloseCause::Fin), 1);
    assert_eq!(world.stats[0].service(ServiceSlot(0)).flows(), 0);
    assert_eq!(
        world.connect("172.16.1.100:40000").destination.to_string(),
        SECOND
    );
    assert_eq!(world.flows(), 1);
    assert_eq!(closed(&world, CloseCause::Fin), 1, "a flow is counted once");
}

#[test]
fn a_reset_flow_still_forwards_stragglers() {
    let mut world = World::new(Setup::default());
    let seen = world.connect("172.16.1.100:40000");
    let forged = world.client_tcp("172.16.1.100:40000", flags::RST, b"");
    world.forward(&forged);
    world.pass(Duration::from_secs(200));
    let data = world.backend_tcp(&seen, flags::ACK, b"the reset was forged");
    world.forward(&data);
    let data = world.client_tcp("172.16.1.100:40000", flags::ACK, b"so it was");
    world.forward(&data);
    world.pass(Duration::from_secs(3_600));
    let data = world.client_tcp("172.16.1.100:40000", flags::ACK, b"indeed");
    assert_eq!(world.forward(&data).destination, seen.destination);
}

#[test]
fn each_backend_has_all_nat_ports_and_exhaustion_is_rejected() {
    let mut world = World::new(Setup {
        backends: two_backends(BackendState::Active),
        ..Setup::default()
    });
    let capacity = NAT_PORTS.1 - NAT_PORTS.0 + 1;
    let mut tuples = std::collections::HashSet::new();
    for client in 0..2 * capacity {
        let seen = world.connect(&format!("172.16.1.100:{}", 1024 + client));
        assert!(
            tuples.insert((seen.source, seen.destination)),
            "no two flows share a translation"
        );
    }
    let syn = world.client_tcp("172.16.1.101:1024", flags::SYN, b"");
    let (verdict, error) = world.send(&syn);
    assert_eq!(verdict, Verdict::Reject);
    validate::assert_valid(&error, true);
    assert_eq!((error[34], error[35]), (3, 13), "RFC 5508 REQ-8");
    assert_eq!(world.dropped(DropReason::NatPortsExhausted), 1);
    assert_eq!(
        world.stats[0].backend(BackendSlot(0)).nat_ports.get(),
        u64::from(capacity)
    );
}

#[test]
fn a_finished_flow_makes_room_when_ports_run_out() {
    let backends = vec![(FIRST, BackendState::Active)];
    let mut world = World::new(Setup {
        backends,
        ..Setup::default()
    });
    let capacity = NAT_PORTS.1 - NAT_PORTS.0 + 1;
    let mut seen = Vec::new();
    for client in 0..capacity {
        seen.push(world.connect(&format!("172.16.1.100:{}", 1024 + client)));
    }
    let reset = world.backend_tcp(&seen[5], flags::RST | flags::ACK, b"");
    world.forward(&reset);
    let new = world.connect("172.16.1.101:1024");
    assert_eq!(new.source, seen[5].source);
    assert_eq!(world.dropped(DropReason::NatPortsExhausted), 0);
}

#[test]
fn a_full_table_is_counted_and_rejected() {
    let mut world = World::new(Setup {
        flows: 8,
        ..Setup::default()
    });
    for client in 0..8 {
        world.connect(&format!("172.16.1.100:{}", 1024 + client));
    }
    let syn = world.client_tcp("172.16.1.101:1024", flags::SYN, b"");
    assert_eq!(world.send(&syn).0, Verdict::Reject);
    assert_eq!(world.dropped(DropReason::FlowTableFull), 1);
}

/// A worker that gets a packet a second wakes and sweeps as often.
#[test]
fn a_sweep_passes_a_large_table_within_a_minute_however_seldom_the_worker_wakes() {
    let mut world = World::new(Setup {
        flows: 20_000,
        backends: vec![(FIRST, BackendState::Active), (SECOND, BackendState::Active)],
        nat_ports: (20_000, 30_000),
        ..Setup::default()
    });
    for client in 0..20_000_u32 {
        let source = format!("10.1.{}.{}:40000", client / 250, client % 250 + 1);
        let packet = world.client_udp(&source, b"x");
        assert_eq!(world.send(&packet).0, Verdict::Transmit);
    }
    assert_eq!(world.flows(), 20_000);
    world.engines[0].sweep(world.now);
    world.pass(Duration::from_secs(301));
    for _ in 0..61 {
        world.pass(Duration::from_secs(1));
        world.engines[0].sweep(world.now);
    }
    assert_eq!(world.flows(), 0);
}

/// To look at the same few flows in each round costs a busy worker more than it finds.
#[test]
fn the_sweeps_of_a_busy_worker_pass_a_small_table_a_few_times_a_second() {
    const FLOWS: u32 = 400;
    let mut world = World::new(Setup {
        flows: 1000,
        nat_ports: (20_000, 30_000),
        ..Setup::default()
    });
    for client in 0..FLOWS {
        let packet = world.client_udp(&format!("172.16.1.100:{}", 1024 + client), b"x");
        assert_eq!(world.send(&packet).0, Verdict::Transmit);
    }
    world.pass(Duration::from_secs(300) - Duration::from_millis(100));
    world.engines[0].sweep(world.now);
    assert_eq!(world.flows(), FLOWS);
    let mut partly_swept = 0;
    for _ in 0..4000 {
        world.pass(Duration::from_micros(500));
        world.engines[0].sweep(world.now);
        partly_swept += u32::from((1..FLOWS).contains(&world.flows()));
    }
    assert_eq!(world.flows(), 0);
    // Of 500 us.
    assert!(partly_swept > 400, "{partly_swept}");
}
