//! A limit of flows per backend: the next one gets what a full one would have got.

use std::num::NonZeroU32;

use super::*;

const SCHEDULERS: [Scheduler; 3] = [
    Scheduler::Maglev,
    Scheduler::RoundRobin,
    Scheduler::LeastConnections,
];

fn world(scheduler: Scheduler, affinity: Duration, workers: u16) -> World {
    World::new(Setup {
        scheduler,
        affinity,
        workers,
        max_flows: NonZeroU32::new(20),
        backends: (2..6)
            .map(|host| {
                let address: &'static str = Box::leak(format!("172.16.1.{host}:8081").into_boxed_str());
                (address, BackendState::Active)
            })
            .collect(),
        ..Setup::default()
    })
}

#[test]
fn a_full_backend_gets_no_new_flow_and_the_others_do() {
    for scheduler in SCHEDULERS {
        for workers in [1, 3] {
            let mut world = world(scheduler, Duration::ZERO, workers);
            let mut flows: HashMap<_, Vec<_>> = HashMap::new();
            for client in 0..80 {
                let seen = world.connect(&format!("172.16.1.{}:40000", 104 + client));
                flows.entry(seen.destination).or_default().push(seen);
            }
            let counts: Vec<_> = flows.values().map(Vec::len).collect();
            assert_eq!(counts, [20; 4], "{scheduler:?}, {workers} workers");
            let syn = world.client_tcp("172.16.1.200:40000", flags::SYN, b"");
            assert_eq!(world.send(&syn).0, Verdict::Reject, "{scheduler:?}");
            assert_eq!(world.drops(), [DropReason::BackendsFull], "{scheduler:?}");
            // A flow ends, and there is room for one.
            let (backend, seen) = flows.iter().next().unwrap();
            let reset = world.backend_tcp(&seen[0], flags::RST | flags::ACK, b"");
            world.forward(&reset);
            assert_eq!(
                world.connect("172.16.1.200:40000").destination,
                *backend,
                "{scheduler:?}"
            );
        }
    }
}

#[test]
fn a_client_with_affinity_gets_another_backend_while_its_own_is_full() {
    for scheduler in SCHEDULERS {
        let mut world = world(scheduler, Duration::from_secs(60), 1);
        let mut flows: HashMap<_, u32> = HashMap::new();
        for port in 40_000..40_080 {
            let backend = world.connect(&format!("172.16.1.100:{port}")).destination;
            *flows.entry(backend).or_default() += 1;
        }
        let counts: Vec<_> = flows.values().copied().collect();
        assert_eq!(counts, [20; 4], "{scheduler:?}");
    }
}
