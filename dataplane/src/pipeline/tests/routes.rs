//! Destinations that the kernel does not route to.

use super::*;

/// Publishes a default route on the link, and a route of this kind to `destination`, which is one address.
fn publish_refusal(world: &mut World, destination: &str, kind: RouteKind) {
    let route = |destination: &str, prefix_length, kind| Route {
        kind,
        destination: destination.parse().unwrap(),
        prefix_length,
        gateway: None,
        metric: 0,
        mtu: None,
    };
    world.publish(|snapshot| {
        let last = &snapshot.next_hops;
        let routes = vec![
            route("0.0.0.0", 0, RouteKind::Unicast),
            route(destination, 32, kind),
        ];
        snapshot.next_hops = NextHops::succeed(last, last.link, routes, HashMap::new());
        for backend in snapshot.backend_slots.iter_mut().flatten() {
            backend.mac = backend.mac.filter(|_| backend.address.to_string() != destination);
        }
    });
}

#[test]
fn a_backend_without_a_route_is_no_neighbour_to_ask_for() {
    for (framing, kind) in [
        (Framing::Ethernet, RouteKind::NoRoute),
        (Framing::Ethernet, RouteKind::Unreachable),
        (Framing::Ethernet, RouteKind::Blackhole),
        (Framing::Ethernet, RouteKind::Prohibit),
        (Framing::RawIp, RouteKind::Unreachable),
        (Framing::RawIp, RouteKind::Local),
    ] {
        let mut world = World::new(Setup {
            framing,
            ..Setup::default()
        });
        publish_refusal(&mut world, "172.16.1.2", kind);
        let syn = world.client_tcp("172.16.1.100:40000", flags::SYN, b"");
        assert_eq!(world.send(&syn).0, Verdict::Drop, "{kind:?}");
        assert_eq!(world.dropped(DropReason::NoRoute), 1, "{kind:?}");
        assert_eq!(world.flows(), 0, "{kind:?}");
        assert_eq!(world.engines[0].signals.events.pop(), None, "{kind:?}");
    }
}

#[test]
fn a_client_behind_a_blackhole_opens_no_flow_and_gets_no_reply() {
    for is_raw in [false, true] {
        let mut world = World::new(Setup {
            framing: if is_raw { Framing::RawIp } else { Framing::Ethernet },
            ..Setup::default()
        });
        let seen = world.connect("172.16.1.100:40000");
        publish_refusal(&mut world, "172.16.1.100", RouteKind::Blackhole);
        let syn = world.client_tcp("172.16.1.100:40001", flags::SYN, b"");
        assert_eq!(world.send(&syn).0, Verdict::Drop, "raw: {is_raw}");
        assert_eq!(world.dropped(DropReason::NoRoute), 1, "raw: {is_raw}");
        assert_eq!(world.flows(), 1, "raw: {is_raw}");
        if !is_raw {
            let reply = world.backend_tcp(&seen, flags::ACK, b"x");
            assert_eq!(world.send(&reply).0, Verdict::Drop);
            assert_eq!(world.dropped(DropReason::NoRoute), 2);
        }
        // Others are served.
        world.connect("172.16.1.101:40000");
    }
}
