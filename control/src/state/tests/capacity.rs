//! What is left out while all slots are taken.

use super::*;

#[test]
fn a_backend_that_was_left_out_takes_the_slot_of_one_that_ended() {
    let mut world = World::new();
    world.state.backends = Slots::new(2);
    world.update(&finance(&[2, 3]));
    world.set_flows(3, 1);
    let slot = world.slot(3);

    world.update(&finance(&[2, 4]));
    assert_eq!(world.slot(4), None);
    assert_eq!(
        world.directory().problems.len(),
        1,
        "{:?}",
        world.directory().problems
    );

    world.set_flows(3, 0);
    assert!(world.update(&finance(&[2, 4])));
    assert_eq!((world.slot(3), world.slot(4)), (None, slot));
    assert_eq!(world.state_of(4), Some(BackendState::Active));
    assert!(world.directory().problems.is_empty());
    assert!(world.last.as_ref().unwrap().changes.notable);
    // Nothing drains any more, so nothing but an outside change would cause another update.
    assert!(!world.state.is_draining());
    assert!(!world.update(&finance(&[2, 4])));
}

#[test]
fn a_service_that_was_left_out_takes_the_slot_of_one_that_ended() {
    let named = |name: &str, port, host| Desired {
        services: vec![service(name, port, vec![backend(host, 1)])],
        ..Desired::default()
    };
    let mut world = World::new();
    world.state.services = Slots::new(1);
    world.update(&named("a", 8080, 2));
    world.set_flows(2, 1);

    world.update(&named("b", 8081, 3));
    assert_eq!(world.directory().live_services().count(), 0);

    world.set_flows(2, 0);
    assert!(world.update(&named("b", 8081, 3)));
    let names = world.directory().live_services().map(|service| &*service.name);
    assert_eq!(names.collect::<Vec<_>>(), ["b"]);
    assert!(world.directory().problems.is_empty());
    assert_eq!(world.state_of(3), Some(BackendState::Active));
}

#[test]
fn a_returning_backend_keeps_its_slot_while_another_waits_for_one() {
    let mut world = World::new();
    world.state.backends = Slots::new(2);
    world.update(&finance(&[2, 3]));
    let slot = world.slot(3);
    world.update(&finance(&[2]));
    // It could be freed now, and is desired again.
    world.update(&finance(&[2, 3, 4]));
    assert_eq!((world.slot(3), world.slot(4)), (slot, None));
}
