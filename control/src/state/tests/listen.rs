//! Services of one port at different own addresses.

use super::*;
use crate::config::ListenAddresses;

/// A TCP service at port 8080 of these own addresses.
fn at(name: &str, host: u8, addresses: &[u8]) -> Arc<ServiceSpec> {
    let mut spec = service(name, 8080, vec![backend(host, 1)]);
    let addresses = addresses.iter().map(|&host| address(host));
    Arc::make_mut(&mut spec).addresses = ListenAddresses::exactly(addresses);
    spec
}

fn desired(services: Vec<Arc<ServiceSpec>>) -> Desired {
    Desired {
        services,
        ..Desired::default()
    }
}

/// A world with the own addresses 103, 104 and 105.
fn world() -> World {
    let mut world = World::new();
    world.network.addresses = [103, 104, 105].map(address).to_vec();
    world
}

/// The name of the service at an own address.
fn name_at(world: &World, host: u8) -> Option<String> {
    let key = ServiceKey {
        address: address(host),
        port: 8080,
        protocol: Protocol::Tcp,
    };
    let service = world.snapshot().service(&key)?;
    Some(service.name.clone())
}

#[test]
fn services_of_one_port_have_own_addresses_of_their_own() {
    let mut world = world();
    world.update(&desired(vec![at("a", 2, &[103]), at("b", 3, &[104])]));
    assert_eq!(name_at(&world, 103).as_deref(), Some("a"));
    assert_eq!(name_at(&world, 104).as_deref(), Some("b"));
    assert_eq!(name_at(&world, 105), None);
    let own = &world.network.addresses;
    assert_eq!(world.directory().addresses_of("b", own), [address(104)]);
    assert!(world.directory().problems.is_empty());

    // Another address beside the first one: the same service.
    world.set_flows(3, 1);
    world.update(&desired(vec![at("a", 2, &[103]), at("b", 3, &[104, 105])]));
    assert_eq!(name_at(&world, 105).as_deref(), Some("b"));
    assert_eq!(world.state_of(3), Some(BackendState::Active));
}

#[test]
fn a_service_is_left_out_where_another_one_listens_and_named_where_it_has_no_address() {
    let mut world = world();
    world.update(&desired(vec![
        at("a", 2, &[103, 104]),
        at("b", 3, &[104]),
        at("c", 3, &[9]),
    ]));
    assert_eq!(name_at(&world, 104).as_deref(), Some("a"));
    assert_eq!(
        world.directory().problems,
        [
            "service b: TCP 8080 belongs to service a; left out",
            "service c: none of the balancer's addresses is in 172.16.1.9",
        ]
    );
    world.update(&desired(vec![at("all", 2, &[]), at("b", 3, &[104])]));
    assert_eq!(name_at(&world, 104).as_deref(), Some("all"));
    assert_eq!(
        world.directory().problems,
        ["service b: TCP 8080 belongs to service all; left out"]
    );
}
