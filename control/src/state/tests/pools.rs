//! A service's pools, one of each family, and what makes new ones.

use super::*;

#[test]
fn a_pool_is_kept_while_its_members_stay() {
    let mut world = World::new();
    world.update(&finance(&[2, 3]));
    let pool = |world: &World| Arc::clone(&world.snapshot().service_slots[0].as_ref().unwrap().v4);
    let first = pool(&world);
    world.network.mtu = 9000;
    assert!(world.update(&finance(&[2, 3])));
    assert!(Arc::ptr_eq(&first, &pool(&world)));

    let mut heavier = finance(&[2, 3]);
    changed(&mut heavier, 0).backends[0].weight = 3;
    assert!(world.update(&heavier));
    assert!(!Arc::ptr_eq(&first, &pool(&world)));
}

#[test]
fn a_changed_scheduler_makes_another_pool() {
    let mut world = World::new();
    world.update(&finance(&[2, 3]));
    let pool = |world: &World| Arc::clone(&world.snapshot().service_slots[0].as_ref().unwrap().v4);
    assert!(matches!(*pool(&world), Pool::Maglev { .. }));
    let mut desired = finance(&[2, 3]);
    changed(&mut desired, 0).scheduler = Scheduler::RoundRobin;
    assert!(world.update(&desired));
    assert!(matches!(*pool(&world), Pool::Cycle(_)));
}

#[test]
fn each_family_has_its_own_pool() {
    let mut world = World::new();
    let mut desired = finance(&[2]);
    changed(&mut desired, 0).backends.push(BackendSpec {
        address: "2001:db8::2".parse().unwrap(),
        ..backend(2, 1)
    });
    world.update(&desired);
    let service = world.snapshot().service_slots[0].as_ref().unwrap();
    let pick = |pool: &Pool| pool.pick(1, 1, |_| 0).unwrap();
    assert_ne!(pick(&service.v4), pick(&service.v6));
    assert!(
        world
            .snapshot()
            .backend(pick(&service.v6))
            .unwrap()
            .address
            .is_ipv6()
    );
}
