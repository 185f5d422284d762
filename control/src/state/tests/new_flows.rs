//! Rules for new flows: backups, slow start, and what happens when all backends are down.

use std::collections::HashMap;

use super::health::all;
use super::*;
use crate::config::WhenAllDown;
use crate::health::Verdict;

/// `desired` with other rules of its service.
fn with(mut desired: Desired, change: impl FnOnce(&mut FlowRules)) -> Desired {
    change(&mut changed(&mut desired, 0).rules);
    desired
}

/// Without next hops to resolve.
fn world() -> World {
    let mut world = World::new();
    world.network.next_hops = NextHops::new(Link::RawIp, 1, Vec::new(), [].into());
    world
}

/// The share of new flows that each host gets, in percent.
fn shares(world: &World) -> Vec<(u8, u64)> {
    let key = ServiceKey {
        address: address(103),
        port: 8080,
        protocol: Protocol::Tcp,
    };
    let service = world.snapshot().service(&key).unwrap();
    let mut counts: HashMap<BackendSlot, u64> = HashMap::new();
    for hash in 0..65_537_u64 {
        *counts
            .entry(service.v4.pick(hash, hash, |_| 0).unwrap())
            .or_default() += 1;
    }
    let share = |host| {
        let count = counts.get(&world.slot(host)?)?;
        Some((host, (count * 100 + 32_768) / 65_537))
    };
    (2..10).filter_map(share).collect()
}

#[test]
fn a_service_whose_backends_are_all_down_fails_open_if_so_configured() {
    let mut world = world();
    let open = || with(all(&[2, 3]), |rules| rules.when_all_down = WhenAllDown::FailOpen);
    world.find(2, Verdict::Up);
    world.find(3, Verdict::Up);
    world.update(&open());
    world.find(2, Verdict::Down);
    world.update(&open());
    assert_eq!(world.hosts(), [3]);
    assert_eq!(world.state_of(2), Some(BackendState::Down), "its flows end");
    world.find(3, Verdict::Down);
    assert!(world.update(&open()));
    assert_eq!(world.hosts(), [2, 3]);
    // To workers they are not down: the flows of the last one go on.
    assert_eq!(world.state_of(3), Some(BackendState::Unknown));
    assert_eq!(
        world.events(),
        [
            "backend finance/172.16.1.3:8081 up -> down: tcp connect refused (3 of 3)",
            "service finance degraded -> degraded: no backend up (0 of 2); it fails open, so all get new flows"
        ]
    );
    let entry = world.directory().services[0].as_ref().unwrap();
    assert_eq!((entry.state, entry.fails_open), (ServiceState::Degraded, true));
    assert!(!world.update(&open()), "stable");

    world.find(2, Verdict::Up);
    world.update(&open());
    assert_eq!(world.hosts(), [2]);
    assert_eq!(world.state_of(3), Some(BackendState::Down));
    assert!(!world.directory().services[0].as_ref().unwrap().fails_open);
    // A change of the setting counts at once.
    world.find(2, Verdict::Down);
    world.update(&open());
    assert_eq!(world.hosts(), [2, 3]);
    assert!(world.update(&all(&[2, 3])));
    assert_eq!(world.hosts(), [0; 0]);
}

/// Workers of an older generation may still open flows of a backend that fails open.
#[test]
fn the_slot_of_a_backend_that_failed_open_waits_for_all_workers() {
    let mut world = world();
    let open = |hosts: &[u8]| with(all(hosts), |rules| rules.when_all_down = WhenAllDown::FailOpen);
    for host in [2, 3] {
        world.find(host, Verdict::Down);
    }
    world.update(&open(&[2, 3]));
    assert_eq!(world.hosts(), [2, 3]);
    let slot = world.slot(2).unwrap();
    assert!(world.update_only(&open(&[3])).is_some());
    assert!(matches!(world.state_of(2), Some(BackendState::Draining { .. })));
    assert!(world.update_only(&open(&[3])).is_none());
    world.worker.generation.set(world.snapshot().generation.0);
    world.update(&open(&[3]));
    assert!(world.snapshot().backend(slot).is_none());
}

#[test]
fn a_backup_gets_new_flows_only_while_no_other_backend_does() {
    let mut world = world();
    let desired = || {
        let mut desired = all(&[2, 3, 4]);
        changed(&mut desired, 0).backends[2].backup = true;
        desired
    };
    for host in 2..5 {
        world.find(host, Verdict::Up);
    }
    world.update(&desired());
    assert_eq!(world.hosts(), [2, 3]);
    world.find(2, Verdict::Down);
    world.update(&desired());
    assert_eq!(world.hosts(), [3]);
    world.find(3, Verdict::Down);
    world.update(&desired());
    assert_eq!(world.hosts(), [4]);
    world.find(2, Verdict::Up);
    world.update(&desired());
    assert_eq!(world.hosts(), [2]);
    assert_eq!(world.state_of(4), Some(BackendState::Active), "its flows go on");
    // A weight of 0 takes a backend out too.
    let mut unweighted = desired();
    changed(&mut unweighted, 0).backends[0].weight = 0;
    world.update(&unweighted);
    assert_eq!(world.hosts(), [4]);
    // It is an ordinary one when the mark is gone.
    let mut unmarked = desired();
    changed(&mut unmarked, 0).backends[2].backup = false;
    world.update(&unmarked);
    assert_eq!(world.hosts(), [2, 4]);
}

#[test]
fn the_share_of_a_backend_that_comes_up_grows_to_its_weight() {
    let mut world = world();
    let slow = |hosts: &[u8]| with(all(hosts), |rules| rules.slow_start = Duration::from_secs(100));
    for host in 2..4 {
        world.find(host, Verdict::Up);
    }
    world.update(&slow(&[2, 3]));
    assert_eq!(shares(&world), [(2, 50), (3, 50)], "they came up together");
    world.seconds += 100;
    world.update(&slow(&[2, 3]));
    world.find(4, Verdict::Up);
    world.update(&slow(&[2, 3, 4]));
    let begin = world.seconds;
    assert_eq!(shares(&world), [(2, 48), (3, 48), (4, 5)]);
    let part = |world: &World| {
        world
            .directory()
            .backend(world.slot(4).unwrap())
            .unwrap()
            .share
            .part()
    };
    assert_eq!(part(&world), Some(0.1));
    // Each step is a deadline, and an update without one changes nothing.
    for tenths in 2..=10 {
        assert!(!world.update(&slow(&[2, 3, 4])));
        let deadline = world.state.next_deadline().unwrap();
        world.seconds += 10;
        assert_eq!(deadline, Timestamp(world.seconds * 1_000_000_000));
        assert!(world.update(&slow(&[2, 3, 4])), "{tenths}");
        assert!(world.events().is_empty(), "a share is no event");
    }
    assert_eq!(world.seconds, begin + 90);
    assert_eq!(shares(&world), [(2, 33), (3, 33), (4, 33)]);
    assert_eq!((part(&world), world.state.next_deadline()), (None, None));
    // One that was down starts again.
    world.find(2, Verdict::Down);
    world.update(&slow(&[2, 3, 4]));
    world.find(2, Verdict::Up);
    world.update(&slow(&[2, 3, 4]));
    assert_eq!(shares(&world), [(2, 5), (3, 48), (4, 48)]);
    // Without the setting it has its weight at once.
    assert!(world.update(&all(&[2, 3, 4])));
    assert_eq!(shares(&world), [(2, 33), (3, 33), (4, 33)]);
}
