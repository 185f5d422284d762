//! The interface goes and comes back: with the same address, another one, or another link.

use vl3lb_common::addr::to_octets;
use vl3lb_common::stats::CloseCause;

use super::*;
use crate::flow::RequestKey;

const CLIENT: &str = "172.16.1.100:40000";
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn interface_lost(world: &World) -> u64 {
    let services = (0..2).map(|slot| world.stats[0].service(ServiceSlot(slot)));
    services
        .map(|service| service.flows_closed[CloseCause::InterfaceLost as usize].get())
        .sum()
}

/// Publishes the world's snapshot with only the IPv6 address, and the services there.
fn lose_ipv4(world: &mut World) {
    world.publish(|snapshot| {
        snapshot.addresses.retain(IpAddr::is_ipv6);
        snapshot.services.retain(|key, _| key.address.is_ipv6());
    });
}

/// Attaches the world's engines to a link with this framing, and publishes a snapshot for it.
fn attach(world: &mut World, framing: Framing) {
    world.setup.framing = framing;
    for engine in &mut world.engines {
        engine.set_framing(framing);
    }
    let next = snapshot(&world.setup, world.snapshot.generation.0 + 1);
    world.publish(|snapshot| *snapshot = next);
}

#[test]
fn a_sweep_ends_the_flows_of_an_address_that_is_gone() {
    let mut world = World::new(Setup::default());
    world.connect(CLIENT);
    world.connect("[2001:db8::100]:40000");
    lose_ipv4(&mut world);
    world.sweep();
    assert_eq!((world.flows(), interface_lost(&world)), (1, 1));
    assert_eq!(world.stats[0].backend(BackendSlot(0)).nat_ports.get(), 0);
    let data = world.client_tcp("[2001:db8::100]:40000", flags::ACK, b"still here");
    world.forward(&data);
}

#[test]
fn a_request_ends_its_flow_on_an_address_that_is_gone() {
    let mut world = World::new(Setup::default());
    world.connect(CLIENT);
    lose_ipv4(&mut world);
    let data = world.client_tcp(CLIENT, flags::ACK, b"x");
    assert_eq!(world.send(&data).0, Verdict::Drop);
    assert_eq!((world.flows(), interface_lost(&world)), (0, 1));
    assert_eq!(world.send(&data).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::NoService), 2);
    assert_eq!(interface_lost(&world), 1);
}

#[test]
fn a_reply_ends_its_flow_on_an_address_that_is_gone() {
    let mut world = World::new(Setup::default());
    let seen = world.connect(CLIENT);
    lose_ipv4(&mut world);
    let data = world.backend_tcp(&seen, flags::ACK, b"x");
    assert_eq!(world.send(&data).0, Verdict::Drop);
    assert_eq!((world.flows(), interface_lost(&world)), (0, 1));
    assert_eq!(world.drops(), [DropReason::NoService]);
}

#[test]
fn a_packet_with_a_departed_source_address_is_a_clients() {
    let mut world = World::new(Setup {
        backends: vec![("172.16.1.2:8081", BackendState::Active)],
        ..Setup::default()
    });
    world.connect(CLIENT);
    world.publish(|snapshot| {
        let moved: IpAddr = "172.16.1.200".parse().unwrap();
        snapshot.addresses[0] = moved;
        let services = std::mem::take(&mut snapshot.services);
        snapshot.services = services
            .into_iter()
            .map(|(key, slot)| {
                let address = if key.address.is_ipv4() { moved } else { key.address };
                (ServiceKey { address, ..key }, slot)
            })
            .collect();
    });
    let addresses = world.addresses("172.16.1.103:40000", "172.16.1.200:8080");
    let seen = world.forward(&builder::tcp(addresses, &Tcp::flags(flags::SYN), b""));
    assert_eq!(seen.source.ip().to_string(), "172.16.1.200");
}

#[test]
fn flows_go_on_when_ethernet_becomes_raw_ip_and_back() {
    let mut world = World::new(Setup::default());
    let seen = world.connect(CLIENT);
    for framing in [Framing::RawIp, Framing::Ethernet] {
        attach(&mut world, framing);
        let data = world.client_tcp(CLIENT, flags::ACK, b"request");
        let after = world.forward(&data);
        assert_eq!((after.source, after.destination), (seen.source, seen.destination));
        let data = world.backend_tcp(&seen, flags::ACK, b"reply");
        let reply = world.forward(&data);
        assert_eq!(reply.destination.to_string(), CLIENT);
        if framing == Framing::Ethernet {
            assert_eq!(
                reply.macs,
                Some((OWN_MAC, builder::MACS.0)),
                "learned from the request"
            );
        }
    }
    assert_eq!((world.flows(), interface_lost(&world)), (1, 0));
}

#[test]
fn a_client_address_of_a_former_attachment_is_not_used() {
    let mut world = World::new(Setup::default());
    let seen = world.connect(CLIENT);
    while world.engines[0].signals.events.pop().is_some() {}
    attach(&mut world, Framing::Ethernet);
    let data = world.backend_tcp(&seen, flags::ACK, b"reply");
    assert_eq!(world.send(&data).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::NeighborUnresolved), 1);
    let client = "172.16.1.100".parse().unwrap();
    let event = world.engines[0].signals.events.pop();
    assert_eq!(
        event,
        Some(WorkerEvent::Unresolved(client)),
        "the kernel is asked"
    );

    world.publish(|snapshot| {
        let hops = &snapshot.next_hops;
        let neighbors = HashMap::from([(client, ROUTER_MAC)]);
        let routes = vec![Route {
            kind: RouteKind::Unicast,
            destination: "172.16.1.0".parse().unwrap(),
            prefix_length: 24,
            gateway: None,
            metric: 0,
            mtu: None,
        }];
        snapshot.next_hops = NextHops::new(hops.link, hops.generation + 1, routes, neighbors);
    });
    assert_eq!(world.forward(&data).macs, Some((OWN_MAC, ROUTER_MAC)));
}

/// Publishes the world's snapshot with `addresses`, and both services at each of them.
fn move_to(world: &mut World, addresses: &[IpAddr]) {
    world.publish(|snapshot| {
        snapshot.addresses = addresses.to_vec();
        snapshot.services.clear();
        for (&address, (slot, protocol)) in addresses
            .iter()
            .flat_map(|address| [(0, Protocol::Tcp), (1, Protocol::Udp)].map(|service| (address, service)))
        {
            let key = ServiceKey {
                address,
                port: 8080,
                protocol,
            };
            snapshot.services.insert(key, ServiceSlot(slot));
        }
    });
}

fn own(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    [172, 17, high, low].into()
}

/// A SYN from one client port to the service at `own`.
fn syn_to(world: &World, own: IpAddr, port: u16) -> Vec<u8> {
    let addresses = world.addresses(&format!("172.16.1.100:{port}"), &format!("{own}:8080"));
    builder::tcp(addresses, &Tcp::flags(flags::SYN), b"")
}

#[test]
fn a_thousand_addresses_that_come_and_go_with_flows_are_served() {
    let mut world = World::new(Setup {
        backends: vec![("172.16.1.2:8081", BackendState::Active)],
        ..Setup::default()
    });
    for number in 0..1_000 {
        move_to(&mut world, &[own(number)]);
        let syn = syn_to(&world, own(number), 40_000);
        assert_eq!(world.forward(&syn).source.ip(), own(number));
        world.sweep();
        assert_eq!(world.flows(), 1, "those of former addresses are over");
    }
    assert_eq!(interface_lost(&world), 999);
    assert_eq!(world.drops(), []);
}

/// All indexes have flows when the addresses move on: the new ones are served as soon as a sweep has ended these.
#[test]
fn an_address_waits_for_an_index_until_flows_of_former_ones_are_ended() {
    const ADDRESSES: u16 = 200;
    let mut world = World::new(Setup {
        backends: [
            "172.16.1.2:8081",
            "172.16.1.3:8081",
            "172.16.1.4:8081",
            "172.16.1.5:8081",
        ]
        .map(|address| (address, BackendState::Active))
        .to_vec(),
        ..Setup::default()
    });
    let before: Vec<IpAddr> = (0..ADDRESSES).map(own).collect();
    let after: Vec<IpAddr> = (ADDRESSES..2 * ADDRESSES).map(own).collect();
    move_to(&mut world, &before);
    for &address in &before {
        let syn = syn_to(&world, address, 40_000);
        world.forward(&syn);
    }
    move_to(&mut world, &after);
    let syn = syn_to(&world, after[199], 40_001);
    assert_eq!(world.send(&syn).0, Verdict::Drop, "no index is left yet");
    assert_eq!(world.drops(), [DropReason::NoService]);
    world.sweep();
    assert_eq!((world.flows(), interface_lost(&world)), (0, u64::from(ADDRESSES)));
    for &address in &after {
        let syn = syn_to(&world, address, 40_001);
        assert_eq!(world.forward(&syn).source.ip(), address);
    }
    // A pod that inherits a former address is a client like any other.
    let addresses = world.addresses(&format!("{}:40000", before[0]), &format!("{}:8080", after[0]));
    world.forward(&builder::udp(addresses, b"x"));
}

/// Publishes these neighbours as the kernel's.
fn know_neighbors(world: &mut World, neighbors: &[(&str, MacAddr)]) {
    let neighbors = neighbors
        .iter()
        .map(|&(address, mac)| (address.parse().unwrap(), mac));
    let neighbors: HashMap<IpAddr, MacAddr> = neighbors.collect();
    world.publish(|snapshot| {
        let last = &snapshot.next_hops;
        let route = |destination: &str, prefix_length| Route {
            kind: RouteKind::Unicast,
            destination: destination.parse().unwrap(),
            prefix_length,
            gateway: None,
            metric: 0,
            mtu: None,
        };
        let routes = vec![route("172.16.1.0", 24), route("2001:db8::", 64)];
        snapshot.next_hops = NextHops::succeed(last, last.link, routes, neighbors);
    });
}

/// Whether the flow of each of these clients would resolve its next hop with its next reply.
fn stale(world: &World, clients: &[&str]) -> Vec<bool> {
    let engine = &world.engines[0];
    let table = engine.tables.flows.table();
    let octets = |address: &str| to_octets(address.parse().unwrap());
    let is_stale = |client: &&str| {
        let key = RequestKey {
            client: octets(client),
            client_port: 40_000,
            local: table.find_local(&octets("172.16.1.103")).unwrap(),
            service_port: 8080,
            protocol: Protocol::Tcp.number(),
        };
        let id = table.request(&key, world.now).unwrap();
        !engine.policy.is_hop_current(table.entry(id))
    };
    clients.iter().map(is_stale).collect()
}

#[test]
fn a_neighbour_change_makes_only_its_own_flows_resolve_anew() {
    const CLIENTS: [&str; 3] = ["172.16.1.100", "172.16.1.101", "172.16.1.102"];
    let other = MacAddr([2, 0, 0, 0, 0, 2]);
    let mut world = World::new(Setup::default());
    know_neighbors(
        &mut world,
        &[("172.16.1.100", ROUTER_MAC), ("172.16.1.101", other)],
    );
    let seen = CLIENTS.map(|client| world.connect(&format!("{client}:40000")));
    assert_eq!(stale(&world, &CLIENTS), [false, false, false]);
    // A stranger comes and goes, as pods do.
    know_neighbors(
        &mut world,
        &[
            ("172.16.1.100", ROUTER_MAC),
            ("172.16.1.101", other),
            ("172.16.1.77", MacAddr([2, 0, 0, 0, 0, 77])),
        ],
    );
    assert_eq!(stale(&world, &CLIENTS), [false, false, false]);
    let moved = MacAddr([2, 0, 0, 0, 0, 9]);
    know_neighbors(
        &mut world,
        &[("172.16.1.100", ROUTER_MAC), ("172.16.1.101", moved)],
    );
    assert_eq!(stale(&world, &CLIENTS), [false, true, false]);
    let data = world.backend_tcp(&seen[1], flags::ACK, b"reply");
    assert_eq!(world.forward(&data).macs, Some((OWN_MAC, moved)));
    assert_eq!(stale(&world, &CLIENTS), [false, false, false]);
    // The third client's address was learned from its packets; now the kernel knows another.
    know_neighbors(
        &mut world,
        &[
            ("172.16.1.100", ROUTER_MAC),
            ("172.16.1.101", moved),
            ("172.16.1.102", other),
        ],
    );
    assert_eq!(stale(&world, &CLIENTS), [false, false, true]);
    let data = world.backend_tcp(&seen[2], flags::ACK, b"reply");
    assert_eq!(world.forward(&data).macs, Some((OWN_MAC, other)));
}

#[test]
fn a_client_that_the_kernel_does_not_know_is_resolved_once_for_many_replies() {
    let mut world = World::new(Setup::default());
    know_neighbors(&mut world, &[("172.16.1.100", ROUTER_MAC)]);
    let seen = world.connect(CLIENT);
    while world.engines[0].signals.events.pop().is_some() {}
    know_neighbors(&mut world, &[]);
    for _ in 0..5 {
        let data = world.backend_tcp(&seen, flags::ACK, b"reply");
        assert_eq!(
            world.forward(&data).macs,
            Some((OWN_MAC, ROUTER_MAC)),
            "as before"
        );
        assert_eq!(stale(&world, &["172.16.1.100"]), [false]);
    }
    let asked: Vec<_> = std::iter::from_fn(|| world.engines[0].signals.events.pop()).collect();
    assert_eq!(asked, [WorkerEvent::Unresolved("172.16.1.100".parse().unwrap())]);
}

/// It is asked for through a ring without a lock, and nothing waits for it, nor for room in the ring.
#[test]
fn a_new_flow_does_not_wait_for_its_client_to_be_resolved() {
    let mut world = World::new(Setup::default());
    for client in 1..=40 {
        let address = format!("172.16.1.{}", 150 + client);
        let seen = world.connect(&format!("{address}:40000"));
        let data = world.backend_tcp(&seen, flags::ACK, b"reply");
        assert_eq!(
            world.forward(&data).macs,
            Some((OWN_MAC, CLIENT_MAC)),
            "the neighbour that its packets come from"
        );
        if client == 1 {
            let asked = world.engines[0].signals.events.pop();
            assert_eq!(asked, Some(WorkerEvent::Unresolved(address.parse().unwrap())));
        }
    }
    assert!(world.stats[0].events_lost.get() > 0, "the ring is full");
}
