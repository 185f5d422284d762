//! Several workers: packets find the one that owns their flow.

use super::*;

#[test]
fn packets_of_a_flow_meet_at_its_owner_wherever_they_come_in() {
    let mut world = World::new(Setup {
        workers: 3,
        ..Setup::default()
    });
    for port in 40_000..40_030 {
        for client in [format!("172.16.1.100:{port}"), format!("[2001:db8::64]:{port}")] {
            let seen = world.connect(&client);
            let data = world.backend_tcp(&seen, flags::ACK, b"x");
            assert_eq!(world.forward(&data).destination.to_string(), client);
        }
    }
    assert_eq!(world.flows(), 60);
    assert!(
        world
            .engines
            .iter()
            .all(|engine| engine.tables.flows.table().len() > 5),
        "every worker has its part"
    );
}

#[test]
fn errors_find_the_owner_of_the_flow_they_are_about() {
    let mut world = World::new(Setup {
        workers: 3,
        ..Setup::default()
    });
    for port in 40_000..40_010 {
        let client = format!("172.16.1.100:{port}");
        let seen = world.connect(&client);
        let request = world.client_tcp(&client, flags::ACK, b"x");
        let reply = world.backend_tcp(&seen, flags::ACK, b"x");
        for packet in [request, reply] {
            let (_, sent) = world.send(&packet);
            let error = builder::icmp_error(
                world.addresses("172.16.1.1:0", "172.16.1.103:0"),
                3,
                1,
                0,
                &sent[14..],
            );
            assert_eq!(world.send(&error).0, Verdict::Transmit);
        }
    }
}

#[test]
fn workers_hand_out_disjoint_nat_ports() {
    let mut world = World::new(Setup {
        workers: 3,
        ..Setup::default()
    });
    let mut used = std::collections::HashSet::new();
    for port in 0..40 {
        let seen = world.connect(&format!("172.16.1.100:{}", 40_000 + port));
        assert!(used.insert((seen.source, seen.destination)));
    }
}

/// Workers switch to a snapshot one after the other: until all have, two may name each other as the owner of a flow.
#[test]
fn packets_do_not_bounce_while_workers_switch_to_another_affinity() {
    let hour = Duration::from_secs(3_600);
    for (workers, before, after) in [
        (2, Duration::ZERO, hour),
        (2, hour, Duration::ZERO),
        (3, Duration::ZERO, hour),
        (3, hour, Duration::ZERO),
    ] {
        for first in 0..usize::from(workers) {
            let mut world = World::new(Setup {
                workers,
                affinity: before,
                ..Setup::default()
            });
            let mut next = Snapshot::clone(&world.snapshot);
            next.generation.0 += 1;
            for service in next.service_slots.iter_mut().flatten() {
                service.affinity = after;
            }
            let next = Arc::new(next);
            drop(world.engines[first].set_snapshot(Arc::clone(&next)));
            let mut seen = HashMap::new();
            for port in 40_000..40_030 {
                world.enters = port % workers;
                let client = format!("172.16.1.{}:{port}", 110 + port % 5);
                let connected = world.connect(&client);
                let data = world.client_tcp(&client, flags::ACK, b"x");
                world.enters = (port + 1) % workers;
                assert_eq!(world.forward(&data).source, connected.source);
                seen.insert(client, connected);
            }
            for engine in &mut world.engines {
                drop(engine.set_snapshot(Arc::clone(&next)));
            }
            for (client, connected) in seen {
                for enters in 0..workers {
                    world.enters = enters;
                    let data = world.client_tcp(&client, flags::ACK, b"y");
                    let after = world.forward(&data);
                    assert_eq!(
                        (after.source, after.destination),
                        (connected.source, connected.destination)
                    );
                }
            }
            assert_eq!(world.drops(), [], "{workers} workers, {first} first");
        }
    }
}

/// Whether worker 0 asks the former owner of the UDP service, and forwards as one.
fn placement(world: &World) -> (bool, bool) {
    let placement = world.engines[0].policy.placement.of(ServiceSlot(1));
    (placement.asks, placement.forwards)
}

#[test]
fn a_former_rule_is_forgotten_when_no_flow_under_it_is_left() {
    for affinity in [Duration::ZERO, Duration::from_secs(60)] {
        let mut world = World::new(Setup {
            workers: 3,
            affinity,
            nat_ports: (20_000, 29_999),
            ..Setup::default()
        });
        let other = Duration::from_secs(60 - affinity.as_secs());
        let question = |world: &World, port: u16| world.client_udp(&format!("172.16.1.100:{port}"), b"q");
        for port in 0..50 {
            let packet = question(&world, 40_000 + port);
            world.forward(&packet);
        }
        world.setup.affinity = other;
        let generation = world.snapshot.generation.0 + 1;
        let next = Arc::new(snapshot(&world.setup, generation));
        // One after the other; the last one still opens flows under the former rule.
        for engine in &mut world.engines[..2] {
            drop(engine.set_snapshot(Arc::clone(&next)));
        }
        world.pass(Duration::from_secs(301));
        world.sweep();
        assert_eq!(world.flows(), 0);
        assert_eq!(placement(&world), (true, true), "a worker has not switched");
        drop(world.engines[2].set_snapshot(Arc::clone(&next)));
        world.snapshot = next;

        for port in 0..50 {
            let packet = question(&world, 41_000 + port);
            world.forward(&packet);
        }
        world.sweep();
        assert_eq!(
            placement(&world),
            (false, true),
            "flows under the new rule do not count"
        );
        // Nothing is lost between workers that still ask and those that do not.
        for port in 0..100 {
            world.enters = port % 3;
            let packet = question(&world, 41_000 + port);
            world.forward(&packet);
        }
        assert_eq!(world.flows(), 100);
        world.pass(Duration::from_secs(10));
        world.sweep();
        assert_eq!(placement(&world), (false, false));
        let by_client = !other.is_zero();
        assert_eq!(world.engines[0].policy.placement.any_by_client(), by_client);
        for port in 0..100 {
            world.enters = port % 3;
            let packet = question(&world, 41_000 + port);
            world.forward(&packet);
        }
        assert_eq!(world.flows(), 100);
    }
}

#[test]
fn a_flow_under_the_former_rule_keeps_it_known() {
    let mut world = World::new(Setup {
        workers: 3,
        ..Setup::default()
    });
    let question = world.client_udp("172.16.1.100:40000", b"q");
    let seen = world.forward(&question);
    world.setup.affinity = Duration::from_secs(60);
    let next = snapshot(&world.setup, 2);
    world.publish(|snapshot| *snapshot = next);
    for _ in 0..10 {
        world.pass(Duration::from_secs(100));
        world.sweep();
        assert_eq!(placement(&world), (true, true));
        for enters in 0..3 {
            world.enters = enters;
            assert_eq!(world.forward(&question).source, seen.source);
        }
    }
    world.pass(Duration::from_secs(301));
    world.sweep();
    assert_eq!(placement(&world), (false, true));
}

/// The owner's hash is for packets without a flow: one that is known needs no handoff, whoever would own it now.
#[test]
fn a_known_flow_is_served_where_it_is_whoever_would_own_it_now() {
    let mut world = World::new(Setup {
        workers: 3,
        ..Setup::default()
    });
    let questions: Vec<_> = (40_000..40_020)
        .map(|port| world.client_udp(&format!("172.16.1.100:{port}"), b"q"))
        .collect();
    for question in &questions {
        world.forward(question);
    }
    // One worker is the client's home from now on; the flows are where they are.
    world.setup.affinity = Duration::from_secs(60);
    let next = snapshot(&world.setup, 2);
    world.publish(|snapshot| *snapshot = next);
    let mut served = [0; 3];
    for question in &questions {
        for (worker, served) in served.iter_mut().enumerate() {
            let mut frames = [frame(question)];
            let verdict = world.engines[worker].forward(&mut frames, Origin::Queue, world.now);
            *served += usize::from(verdict == Verdict::Transmit);
        }
    }
    assert_eq!(
        served.iter().sum::<usize>(),
        questions.len(),
        "each at its worker"
    );
    assert!(served.iter().all(|&flows| flows > 0), "{served:?}");
}
