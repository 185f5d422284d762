//! What is counted and reported of a change.

use super::*;

#[test]
fn transitions_of_backends_are_counted_for_their_service() {
    let mut world = World::new();
    let counts = |world: &World| {
        let entry = world.directory().live_services().next().unwrap();
        (entry.transitions.up, entry.transitions.draining)
    };
    world.update(&finance(&[2, 3]));
    assert_eq!(counts(&world), (2, 0));
    world.set_flows(2, 1);
    world.update(&finance(&[3]));
    assert_eq!(counts(&world), (2, 1));
    world.update(&finance(&[2, 3]));
    world.update(&finance(&[2, 3]));
    assert_eq!(counts(&world), (3, 1));
}

#[test]
fn the_state_of_a_service_follows_its_backends_with_the_time_of_the_change() {
    let mut world = World::new();
    world.update(&finance(&[]));
    let state = |world: &World| {
        let entry = world.directory().services[0].as_ref().unwrap();
        let since = entry.since.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        (entry.state, since.as_secs())
    };
    assert_eq!(state(&world), (ServiceState::Down, 1000));
    world.seconds = 1010;
    world.update(&finance(&[2]));
    assert_eq!(state(&world), (ServiceState::Ok, 1010));
    world.seconds = 1020;
    world.update(&finance(&[2, 3]));
    assert_eq!(state(&world), (ServiceState::Ok, 1010));
}

#[test]
fn changes_are_counted_and_emitted() {
    let mut world = World::new();
    world.update(&finance(&[2, 3]));
    world.update(&finance(&[3, 4, 5]));
    let changes = &world.last.as_ref().unwrap().changes;
    assert_eq!((changes.added, changes.removed), (2, 1));
    let lines: Vec<_> = changes.events.iter().map(Event::to_string).collect();
    assert_eq!(
        lines,
        [
            "backend finance/172.16.1.2:8081 up -> draining: not desired any more",
            "backend finance/172.16.1.4:8081 new -> up",
            "backend finance/172.16.1.5:8081 new -> up",
        ]
    );
}

#[test]
fn a_service_emits_changes_of_state_and_no_healthy_start() {
    let mut world = World::new();
    let emitted = |world: &mut World, desired: &Desired| -> Vec<String> {
        let update = world.update_only(desired);
        let events = update.into_iter().flat_map(|update| update.changes.events);
        events
            .filter(|event| matches!(event, Event::Service { .. }))
            .map(|event| event.to_string())
            .collect()
    };
    assert_eq!(emitted(&mut world, &finance(&[2])), [""; 0]);
    assert_eq!(
        emitted(&mut world, &finance(&[])),
        ["service finance ok -> down: no backend up (0 of 1); new flows are refused"]
    );
    assert_eq!(
        emitted(&mut world, &finance(&[3])),
        ["service finance down -> ok: 1 of 2 backends up"]
    );
    let empty = Desired {
        services: vec![service("ledger", 9000, vec![])],
        ..Desired::default()
    };
    assert_eq!(
        emitted(&mut world, &empty),
        ["service ledger new -> down: no backend up (0 of 0); new flows are refused"],
        "and of the removed one nothing"
    );
}
