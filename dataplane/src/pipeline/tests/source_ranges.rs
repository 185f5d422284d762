//! Clients that are not allowed.

use super::*;

#[test]
fn a_client_outside_the_source_ranges_gets_no_packet_at_all() {
    let mut world = World::new(Setup {
        source_ranges: vec![
            "172.16.1.96/28".parse().unwrap(),
            "2001:db8:1::/48".parse().unwrap(),
        ],
        ..Setup::default()
    });
    let mut short_lived = world.addresses("172.16.1.200:40000", "172.16.1.103:8080");
    short_lived.ttl = 1;
    let packets = [
        world.client_tcp("172.16.1.200:40000", flags::SYN, b""),
        world.client_tcp("172.16.1.200:40000", flags::ACK, b"x"),
        world.client_udp("172.16.1.200:40000", b"q"),
        world.client_tcp("[2001:db8::64]:40000", flags::SYN, b""),
        builder::udp(short_lived, b"q"),
    ];
    let dropped = packets.len() as u64;
    for packet in packets {
        assert_eq!(world.send(&packet).0, Verdict::Drop);
    }
    assert_eq!(world.dropped(DropReason::SourceNotAllowed), dropped);
    assert_eq!(world.drops(), [DropReason::SourceNotAllowed]);
    assert_eq!(world.stats[0].answers.get(), 0);
    world.connect("172.16.1.100:40000");
    assert_eq!(world.flows(), 1);
}

#[test]
fn source_ranges_are_for_new_flows() {
    let mut world = World::new(Setup::default());
    let seen = world.connect("172.16.1.100:40000");
    world.setup.source_ranges = vec!["10.0.0.0/8".parse().unwrap()];
    world.publish_backends(world.setup.backends.clone());
    let data = world.client_tcp("172.16.1.100:40000", flags::ACK, b"x");
    assert_eq!(world.forward(&data).destination, seen.destination);
    let syn = world.client_tcp("172.16.1.100:40001", flags::SYN, b"");
    assert_eq!(world.send(&syn).0, Verdict::Drop);
}
