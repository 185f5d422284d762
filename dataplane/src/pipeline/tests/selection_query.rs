//! The worker's answer to which backend a new flow would get is the backend that the next flow does get.

use std::num::NonZeroU32;

use vl3lb_common::selection_query::{Selection, SelectionQuery};

use super::*;

const SCHEDULERS: [Scheduler; 3] = [
    Scheduler::Maglev,
    Scheduler::RoundRobin,
    Scheduler::LeastConnections,
];
const BACKENDS: [&str; 4] = [
    "172.16.1.2:8081",
    "172.16.1.3:8081",
    "172.16.1.4:8081",
    "172.16.1.5:8081",
];

/// The answers of all workers about the TCP service.
fn answers(world: &World, client: &str) -> Vec<Selection> {
    let client: SocketAddr = client.parse().unwrap();
    let service = ServiceKey {
        address: "172.16.1.103".parse().unwrap(),
        port: 8080,
        protocol: Protocol::Tcp,
    };
    let query = SelectionQuery {
        service: world.snapshot.services[&service],
        client: client.ip(),
        client_port: client.port(),
        answer: crossbeam::channel::bounded(1).0,
    };
    world
        .engines
        .iter()
        .map(|engine| engine.selection(&query, world.now))
        .collect()
}

/// The answer of the worker that opens the flow, of which there is one.
fn answer(world: &World, client: &str) -> Selection {
    let owners: Vec<_> = answers(world, client)
        .into_iter()
        .filter(|answer| answer.owner)
        .collect();
    assert_eq!(owners.len(), 1, "{owners:?}");
    owners[0]
}

/// Address and port of a backend.
fn endpoint(world: &World, slot: BackendSlot) -> SocketAddr {
    let backend = world.snapshot.backend(slot).unwrap();
    SocketAddr::new(backend.address, backend.port)
}

fn world(scheduler: Scheduler, affinity: Duration, workers: u16, max_flows: Option<NonZeroU32>) -> World {
    World::new(Setup {
        scheduler,
        affinity,
        workers,
        max_flows,
        backends: BACKENDS.map(|address| (address, BackendState::Active)).to_vec(),
        // Enough for all clients at one worker.
        nat_ports: (20_000, 20_999),
        ..Setup::default()
    })
}

#[test]
fn the_next_flow_gets_the_backend_of_the_answer() {
    for scheduler in SCHEDULERS {
        for affinity in [Duration::ZERO, Duration::from_secs(60)] {
            for workers in [1, 3] {
                for max_flows in [None, NonZeroU32::new(12)] {
                    let mut world = world(scheduler, affinity, workers, max_flows);
                    let (mut opened, mut passed_over) = (0, 0);
                    for number in 0..60_u16 {
                        // Twice from each address, for affinity.
                        let client = format!("172.16.1.{}:{}", 104 + number % 30, 40_000 + number);
                        let wanted = answer(&world, &client);
                        assert_eq!(answer(&world, &client), wanted, "asking changes nothing");
                        let context =
                            format!("{scheduler:?} {affinity:?} {workers} {max_flows:?} {client} {wanted:?}");
                        match wanted.choice {
                            Ok(slot) => {
                                let seen = world.connect(&client);
                                assert_eq!(seen.destination, endpoint(&world, slot), "{context}");
                                let kept = wanted.kept.is_some_and(|(kept, takes)| takes && kept == slot);
                                passed_over += usize::from(!kept && wanted.scheduled != Some(slot));
                                opened += 1;
                            }
                            Err(reason) => {
                                assert_eq!(reason, DropReason::BackendsFull, "{context}");
                                let syn = world.client_tcp(&client, flags::SYN, b"");
                                assert_eq!(world.send(&syn).0, Verdict::Reject, "{context}");
                            }
                        }
                    }
                    match max_flows {
                        None => assert_eq!((opened, passed_over), (60, 0)),
                        Some(_) => assert_eq!(opened, 48),
                    }
                }
            }
        }
    }
}

#[test]
fn an_answer_names_the_backend_that_a_client_kept_and_whether_it_takes_flows() {
    let mut world = world(Scheduler::RoundRobin, Duration::from_secs(60), 1, None);
    assert_eq!(answer(&world, "172.16.1.120:40000").kept, None);
    let had = world.connect("172.16.1.120:40000").destination;
    let again = answer(&world, "172.16.1.120:50000");
    let (slot, takes_flows) = again.kept.unwrap();
    assert_eq!((endpoint(&world, slot), takes_flows), (had, true));
    assert_eq!(again.choice, Ok(slot));
    let draining = BACKENDS.map(|address| {
        let since = Timestamp(1);
        let state = if address == had.to_string() {
            BackendState::Draining { since }
        } else {
            BackendState::Active
        };
        (address, state)
    });
    world.publish_backends(draining.to_vec());
    let drained = answer(&world, "172.16.1.120:50000");
    assert_eq!(drained.kept, Some((slot, false)));
    assert_eq!(drained.choice.ok(), drained.scheduled);
    assert_ne!(drained.scheduled, Some(slot));
}

#[test]
fn a_refusal_is_the_drop_reason_of_the_packet() {
    let mut refused = world(Scheduler::Maglev, Duration::ZERO, 1, None);
    refused.setup.source_ranges = vec!["172.16.1.96/28".parse().unwrap()];
    refused.publish_backends(refused.setup.backends.clone());
    assert_eq!(
        answer(&refused, "172.16.1.200:1").choice,
        Err(DropReason::SourceNotAllowed)
    );
    assert!(answer(&refused, "172.16.1.100:1").choice.is_ok());

    let mut empty = world(Scheduler::Maglev, Duration::ZERO, 1, None);
    empty.publish_backends(vec![(BACKENDS[0], BackendState::Down)]);
    assert_eq!(
        answer(&empty, "172.16.1.100:1").choice,
        Err(DropReason::NoBackend)
    );

    let mut unresolved = world(Scheduler::Maglev, Duration::ZERO, 1, None);
    unresolved.publish(|snapshot| {
        for backend in snapshot.backend_slots.iter_mut().flatten() {
            backend.mac = None;
        }
    });
    let reason = answer(&unresolved, "172.16.1.100:1").choice.unwrap_err();
    let syn = unresolved.client_tcp("172.16.1.100:1", flags::SYN, b"");
    assert_eq!(unresolved.send(&syn).0, Verdict::Drop);
    assert_eq!(unresolved.drops(), [reason]);
}
