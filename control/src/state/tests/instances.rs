//! Backends that are one of several at an address, or not to be given new flows: pods.

use super::*;

#[test]
fn a_backend_for_existing_flows_drains_without_a_limit() {
    let mut world = World::new();
    let ready = pods(&[(2, "a", Eligibility::NewFlows), (3, "b", Eligibility::NewFlows)]);
    let unready = pods(&[
        (2, "a", Eligibility::ExistingFlows),
        (3, "b", Eligibility::NewFlows),
    ]);
    world.update(&ready);
    world.set_flows(2, 5);
    let slot = world.slot(2).unwrap();
    for _ in 0..3 {
        assert!(world.update(&unready));
        assert!(matches!(world.state_of(2), Some(BackendState::Draining { .. })));
        assert!(!world.eligible().contains(&slot));
        assert_eq!(world.state.next_deadline(), None);
        let entry = world.directory().backend(slot).unwrap();
        assert_eq!(entry.drain_deadline, None);
        world.seconds += 10 * DRAIN;
        assert!(!world.update(&unready), "nothing ends");

        assert!(world.update(&ready));
        assert_eq!(world.state_of(2), Some(BackendState::Active));
        assert_eq!(world.slot(2), Some(slot));
    }
}

#[test]
fn a_backend_for_existing_flows_stays_without_flows() {
    let mut world = World::new();
    let unready = pods(&[(2, "a", Eligibility::ExistingFlows)]);
    assert!(world.update(&unready));
    assert!(!world.update(&unready));
    assert!(world.slot(2).is_some() && world.eligible().is_empty());
    assert!(!world.state.is_draining());
}

#[test]
fn the_drain_time_begins_when_a_backend_is_not_desired_any_more() {
    let mut world = World::new();
    world.update(&pods(&[(2, "a", Eligibility::NewFlows)]));
    world.set_flows(2, 1);
    world.update(&pods(&[(2, "a", Eligibility::ExistingFlows)]));
    world.seconds += 10 * DRAIN;
    let gone = pods(&[]);
    assert!(world.update(&gone));
    assert!(matches!(world.state_of(2), Some(BackendState::Draining { .. })));
    assert!(world.state.next_deadline().is_some());
    world.seconds += DRAIN;
    assert!(world.update(&gone));
    assert_eq!(world.state_of(2), Some(BackendState::Gone));
}

#[test]
fn a_removed_instance_drains_from_any_state() {
    for before in [Eligibility::NewFlows, Eligibility::ExistingFlows] {
        let mut world = World::new();
        world.update(&pods(&[(2, "a", Eligibility::NewFlows)]));
        world.set_flows(2, 1);
        world.update(&pods(&[(2, "a", before)]));
        world.seconds += 10 * DRAIN;
        let gone = pods(&[]);
        assert!(world.update(&gone));
        let slot = world.slot(2).unwrap();
        let deadline = world.directory().backend(slot).unwrap().drain_deadline;
        assert_eq!(deadline, Some(world.wall() + Duration::from_secs(DRAIN)));
        world.seconds += DRAIN - 1;
        assert!(!world.update(&gone));
        assert!(matches!(world.state_of(2), Some(BackendState::Draining { .. })));
        world.seconds += 1;
        assert!(world.update(&gone));
        assert_eq!(world.state_of(2), Some(BackendState::Gone));
    }
}

#[test]
fn a_drain_ends_early_if_the_instance_is_dead_or_replaced() {
    let dead = Instances {
        dead: ["a".into()].into(),
        ..Instances::default()
    };
    let owner = |host, instance: &str| Instances {
        owners: [(address(host), instance.into())].into(),
        ..Instances::default()
    };
    for (known, reason) in [
        (owner(2, "a"), None),
        (owner(3, "b"), None),
        (dead, Some("its source says it is dead")),
        (owner(2, "b"), Some("another instance has its address")),
    ] {
        let mut world = World::new();
        world.update(&pods(&[(2, "a", Eligibility::NewFlows)]));
        world.set_flows(2, 1);
        world.update(&pods(&[]));
        let left = Desired {
            instances: Arc::new(known),
            ..pods(&[])
        };
        assert_eq!(world.update(&left), reason.is_some());
        let Some(reason) = reason else { continue };
        assert_eq!(world.state_of(2), Some(BackendState::Gone));
        let event = world.last.as_ref().unwrap().changes.events[0].to_string();
        assert!(event.ends_with(&format!("draining -> gone: {reason}")), "{event}");
    }
}

#[test]
fn an_update_has_the_source_and_time_of_its_causes() {
    let mut world = World::new();
    let at = |seconds, eligibility| {
        let changed = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let backend = BackendSpec {
            changed,
            ..pod(2, "a", eligibility)
        };
        Desired {
            services: vec![service("finance", 8080, vec![backend])],
            ..Desired::default()
        }
    };
    for (desired, caused) in [
        (at(1, Eligibility::NewFlows), &[1][..]),
        (at(2, Eligibility::ExistingFlows), &[2]),
        (at(3, Eligibility::ExistingFlows), &[]),
        (at(4, Eligibility::NewFlows), &[4]),
    ] {
        let updated = world.update(&desired);
        let last = world.last.iter().filter(|_| updated);
        let seconds = last
            .flat_map(|update| &update.changes.caused)
            .map(|(origin, time)| {
                assert_eq!(*origin, Origin::Static);
                time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
            });
        assert_eq!(seconds.collect::<Vec<_>>(), caused);
    }
}

#[test]
fn a_dead_backend_loses_its_flows_at_once() {
    let mut world = World::new();
    world.update(&pods(&[(2, "a", Eligibility::NewFlows)]));
    world.set_flows(2, 1);
    let dead = pods(&[(2, "a", Eligibility::Dead)]);
    assert!(world.update(&dead));
    assert_eq!(world.state_of(2), Some(BackendState::Gone));
    world.set_flows(2, 0);
    assert!(world.update(&dead));
    assert_eq!(world.slot(2), None);
    assert!(!world.update(&dead), "and does not come back");
}

#[test]
fn a_new_instance_at_an_address_inherits_no_flows() {
    let first = pods(&[(2, "a", Eligibility::NewFlows)]);
    // At once; while the first is still there; after it has begun to drain; as another service's.
    let mut elsewhere = pods(&[]);
    let other = service("ledger", 9090, vec![pod(2, "b", Eligibility::NewFlows)]);
    elsewhere.services.push(other);
    let unready = pods(&[(2, "b", Eligibility::ExistingFlows)]);
    let both = pods(&[
        (2, "a", Eligibility::ExistingFlows),
        (2, "b", Eligibility::NewFlows),
    ]);
    let second = pods(&[(2, "b", Eligibility::NewFlows)]);
    for sets in [
        &[&second][..],
        &[&both, &second],
        &[&pods(&[]), &second],
        &[&unready],
        &[&elsewhere],
    ] {
        let mut world = World::new();
        world.update(&first);
        let slot = world.slot(2).unwrap();
        world.set_flows(2, 5);
        for set in sets {
            world.update(set);
            assert!(!world.update(set), "{set:?} is stable");
        }
        let backends: Vec<_> = world.snapshot().backend_slots.iter().flatten().collect();
        let [old, new] = backends[..] else {
            panic!("two slots expected: {backends:?}")
        };
        assert_eq!((old.slot, old.state), (slot, BackendState::Gone), "{sets:?}");
        assert_ne!(new.state, BackendState::Gone);
        assert_eq!((new.address, new.port), (old.address, old.port));
    }
}

#[test]
fn a_change_of_the_pod_moves_no_flow() {
    let mut world = World::new();
    let mut desired = finance(&[2]);
    world.update(&desired);
    let place = crate::discovery::PodPlace {
        pod: "web/a".to_owned(),
        node: Some("worker-1".to_owned()),
    };
    changed(&mut desired, 0).backends[0].pod = Some(Arc::new(place));
    let before = Arc::clone(&world.snapshot().service_slots[0].as_ref().unwrap().v4);
    assert!(world.update(&desired));
    let entry = world.directory().backends[0].clone().unwrap();
    assert_eq!(entry.pod, desired.services[0].backends[0].pod);
    let after = Arc::clone(&world.snapshot().service_slots[0].as_ref().unwrap().v4);
    assert!(Arc::ptr_eq(&before, &after));
    assert!(!world.update(&desired));
}

#[test]
fn an_unknown_instance_is_not_another_one() {
    // A slice without `targetRef`, and a pod at the same address and port in another service, in either order.
    let unknown = || service("db-primary", 5432, vec![backend(2, 1)]);
    let known = || service("db", 5433, vec![pod(2, "a", Eligibility::NewFlows)]);
    for first in [unknown(), known()] {
        let mut world = World::new();
        world.update(&Desired {
            services: vec![first],
            ..Desired::default()
        });
        world.set_flows(2, 3);
        let both = Desired {
            services: vec![unknown(), known()],
            ..Desired::default()
        };
        world.update(&both);
        let states: Vec<_> = world
            .snapshot()
            .backend_slots
            .iter()
            .flatten()
            .map(|backend| backend.state)
            .collect();
        assert_eq!(states, [BackendState::Active; 2]);
        for port in [5432, 5433] {
            let key = ServiceKey {
                address: address(103),
                port,
                protocol: Protocol::Tcp,
            };
            let picked = world.snapshot().service(&key).unwrap().v4.pick(1, 1, |_| 0);
            assert!(picked.is_some(), "{port} serves");
        }
        // The pod's death is that of its service's backend alone.
        world.update(&Desired {
            services: vec![
                unknown(),
                service("db", 5433, vec![pod(2, "a", Eligibility::Dead)]),
            ],
            ..Desired::default()
        });
        let active = world.snapshot().backend_slots.iter().flatten();
        let active = active.filter(|backend| backend.state == BackendState::Active);
        assert_eq!(active.count(), 1);
    }
}

#[test]
fn a_backend_that_is_listed_with_and_without_its_instance_is_one() {
    let mut world = World::new();
    let both = vec![backend(2, 1), pod(2, "a", Eligibility::NewFlows)];
    let desired = Desired {
        services: vec![service("db", 5432, both)],
        ..Desired::default()
    };
    world.update(&desired);
    let slots: Vec<_> = world.snapshot().backend_slots.iter().flatten().collect();
    let [slot] = slots[..] else {
        panic!("one slot expected: {slots:?}")
    };
    assert_eq!(slot.state, BackendState::Active);
    assert!(!world.update(&desired));
    // Once its instance has ended, the other one is not known to be the same.
    let both = vec![backend(2, 1), pod(2, "a", Eligibility::Dead)];
    let desired = Desired {
        services: vec![service("db", 5432, both)],
        ..Desired::default()
    };
    world.update(&desired);
    let active = world.snapshot().backend_slots.iter().flatten();
    let active = active.filter(|backend| backend.state == BackendState::Active);
    assert_eq!(active.count(), 1);
}
