//! The sockets by which workers recognise datagrams between two backends.

use super::*;

#[test]
fn a_udp_service_knows_the_sockets_of_all_backends_that_may_have_flows() {
    let mut world = World::new();
    let mut desired = finance(&[2, 3]);
    changed(&mut desired, 0).protocol = Protocol::Udp;
    world.update(&desired);
    let sockets = |world: &World| {
        let service = world.snapshot().service_slots[0].as_ref().unwrap();
        let contains = |host| service.backend_sockets.contains(address(host), 8081);
        ([2, 3].map(contains), Arc::clone(&service.backend_sockets))
    };
    let (hosts, first) = sockets(&world);
    assert_eq!(hosts, [true, true]);
    world.network.mtu = 9000;
    world.update(&desired);
    assert!(Arc::ptr_eq(&first, &sockets(&world).1), "shared while they stay");

    world.set_flows(3, 1);
    let mut fewer = finance(&[2]);
    changed(&mut fewer, 0).protocol = Protocol::Udp;
    world.update(&fewer);
    assert_eq!(sockets(&world).0, [true, true], "3 drains");
    world.seconds += DRAIN;
    world.update(&fewer);
    assert_eq!(sockets(&world).0, [true, false], "3 is gone");

    world.update(&finance(&[2]));
    let services = world.snapshot().service_slots.iter().flatten();
    let tcp = services.filter(|service| service.protocol == Protocol::Tcp);
    assert_eq!(
        tcp.map(|tcp| tcp.backend_sockets.contains(address(2), 8081))
            .collect::<Vec<_>>(),
        [false]
    );
}
