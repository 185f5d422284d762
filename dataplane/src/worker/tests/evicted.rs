//! Half-open connections that made room: their backend is reset before another connection's SYN has their NAT port.

use vl3lb_common::snapshot::NatPorts;

use super::*;

#[test]
fn a_backend_is_reset_before_the_syn_that_has_the_port_of_its_half_open_connection() {
    let mut team = Team::with(1, Framing::RawIp, 1000, |generation| Snapshot {
        nat_ports: NatPorts::new(20_000, 20_000).unwrap(),
        ..snapshot(generation)
    });
    let syn = |client: &str| builder::tcp(Addresses::raw(client, SERVICE), &Tcp::flags(flags::SYN), b"");
    let out = team.send(0, &syn("172.16.1.100:40000"));
    assert_eq!(ports(&out[0]), (20_000, 8081));
    let accepted = Tcp {
        acknowledgment: 1,
        ..Tcp::flags(flags::SYN | flags::ACK)
    };
    let back = Addresses::raw(BACKEND, "172.16.1.103:20000");
    assert_eq!(team.send(0, &builder::tcp(back, &accepted, b"")).len(), 1);
    team.now = team.now + Duration::from_secs(3);
    let out = team.send(0, &syn("172.16.1.101:40000"));
    let seen: Vec<_> = out.iter().map(|packet| (ports(packet), packet[33])).collect();
    assert_eq!(
        seen,
        [
            ((20_000, 8081), flags::RST | flags::ACK),
            ((20_000, 8081), flags::SYN)
        ]
    );
    team.close();
}
