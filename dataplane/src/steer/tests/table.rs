//! Packets, and whose they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packets::*;

pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 100);
pub(super) const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 1);
pub(super) const BACKEND: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 2);
pub(super) const OURS: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 103);
pub(super) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x64);
pub(super) const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(super) const BACKEND6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub(super) const OURS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x67);
/// TCP and SCTP at both addresses; UDP is a service at OURS6 only.
pub(super) const PORT: u16 = 8080;
pub(super) const NAT_FIRST: u16 = 10_240;
pub(super) const NAT_LAST: u16 = 32_767;

pub(super) const MORE: u16 = 0x2000;

pub(super) fn tcp(
    source: impl Into<IpAddr>,
    source_port: u16,
    destination: impl Into<IpAddr>,
    port: u16,
) -> Vec<u8> {
    ip(source.into(), destination.into(), TCP, &ports(source_port, port))
}

fn udp(source: impl Into<IpAddr>, source_port: u16, destination: impl Into<IpAddr>, port: u16) -> Vec<u8> {
    ip(source.into(), destination.into(), UDP, &ports(source_port, port))
}

fn sctp(source: impl Into<IpAddr>, source_port: u16, destination: impl Into<IpAddr>, port: u16) -> Vec<u8> {
    ip(source.into(), destination.into(), SCTP, &ports(source_port, port))
}

pub(super) fn v4(protocol: u8, id: u16, fragment: u16, payload: &[u8]) -> Vec<u8> {
    Ipv4 {
        source: CLIENT,
        destination: OURS,
        protocol,
        options: &[],
        id,
        fragment,
    }
    .packet(payload)
}

fn with_options(options: &[u8], payload: &[u8]) -> Vec<u8> {
    Ipv4 {
        source: CLIENT,
        destination: OURS,
        protocol: TCP,
        options,
        id: 0,
        fragment: 0,
    }
    .packet(payload)
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    ipv6(CLIENT6, OURS6, next, payload)
}

fn error(kind: u8, quoted: &[u8]) -> Vec<u8> {
    ip(ROUTER.into(), OURS.into(), ICMP, &icmp_error(kind, quoted))
}

fn error6(kind: u8, quoted: &[u8]) -> Vec<u8> {
    ip(ROUTER6.into(), OURS6.into(), ICMPV6, &icmp_error(kind, quoted))
}

/// Description, packet, whether it is ours. Each packet stands alone.
pub(super) fn table() -> Vec<(&'static str, Vec<u8>, bool)> {
    let service_ports = ports(40_000, PORT);
    let quoted = |port| tcp(OURS, port, BACKEND, 8081);
    let quoted6 = |port| udp(OURS6, port, BACKEND6, 8081);
    let eight_headers = |payload: &[u8]| {
        (0..7).fold(extension(TCP, 0, 0, payload), |rest, _| {
            extension(DESTINATION_OPTIONS, 0, 0, &rest)
        })
    };
    let nine_headers = extension(DESTINATION_OPTIONS, 0, 0, &eight_headers(&service_ports));
    vec![
        // Services
        ("request to a TCP service", tcp(CLIENT, 40_000, OURS, PORT), true),
        (
            "request to an SCTP service",
            sctp(CLIENT, 40_000, OURS, PORT),
            true,
        ),
        (
            "request to an SCTP service, IPv6",
            sctp(CLIENT6, 40_000, OURS6, PORT),
            true,
        ),
        (
            "request to no SCTP service",
            sctp(CLIENT, 40_000, OURS, PORT + 1),
            false,
        ),
        (
            "reply to an SCTP NAT port",
            sctp(BACKEND, PORT, OURS, NAT_FIRST),
            true,
        ),
        (
            "reply to an SCTP NAT port, IPv6",
            sctp(BACKEND6, PORT, OURS6, NAT_LAST),
            true,
        ),
        (
            "SCTP behind an extension header",
            v6(DESTINATION_OPTIONS, &extension(SCTP, 0, 0, &service_ports)),
            true,
        ),
        (
            "error about SCTP to the backend",
            error(3, &sctp(OURS, NAT_FIRST, BACKEND, PORT)),
            true,
        ),
        (
            "error about SCTP to the client, IPv6",
            error6(1, &sctp(OURS6, PORT, CLIENT6, 40_000)),
            true,
        ),
        (
            "error about SCTP of the kernel",
            error(3, &sctp(OURS, 45_000, BACKEND, PORT)),
            false,
        ),
        (
            "request to a TCP service, IPv6",
            tcp(CLIENT6, 40_000, OURS6, PORT),
            true,
        ),
        (
            "request to a UDP service, IPv6",
            udp(CLIENT6, 40_000, OURS6, PORT),
            true,
        ),
        (
            "UDP to the port of a TCP service",
            udp(CLIENT, 40_000, OURS, PORT),
            false,
        ),
        (
            "port without a service",
            tcp(CLIENT, 40_000, OURS, PORT + 1),
            false,
        ),
        (
            "service port at another address",
            tcp(CLIENT, 40_000, BACKEND, PORT),
            false,
        ),
        ("DNS", udp(CLIENT, 40_000, OURS, 53), false),
        (
            "answer to an own connection",
            tcp(BACKEND, PORT, OURS, 45_000),
            false,
        ),
        // NAT ports
        (
            "reply to the first NAT port",
            tcp(BACKEND, 8081, OURS, NAT_FIRST),
            true,
        ),
        (
            "reply to the last NAT port",
            udp(BACKEND, 8081, OURS, NAT_LAST),
            true,
        ),
        (
            "reply to a NAT port, IPv6",
            udp(BACKEND6, 8081, OURS6, 20_000),
            true,
        ),
        (
            "port below the NAT ports",
            tcp(BACKEND, 8081, OURS, NAT_FIRST - 1),
            false,
        ),
        (
            "port above the NAT ports",
            tcp(BACKEND, 8081, OURS, NAT_LAST + 1),
            false,
        ),
        (
            "NAT port at another address",
            tcp(BACKEND, 8081, CLIENT, 20_000),
            false,
        ),
        // Options and extension headers
        ("IPv4 options", with_options(&[1; 4], &service_ports), true),
        ("most IPv4 options", with_options(&[1; 40], &service_ports), true),
        (
            "IPv4 options that cover the ports",
            with_options(&service_ports, &[]),
            false,
        ),
        (
            "record route",
            with_options(&[7, 7, 4, 0, 0, 0, 0, 0], &service_ports),
            true,
        ),
        (
            "loose source route under way",
            with_options(&[131, 7, 4, 10, 0, 0, 1, 0], &service_ports),
            false,
        ),
        (
            "strict source route under way, behind other options",
            with_options(&[1, 148, 4, 0, 0, 137, 7, 4, 10, 0, 0, 1], &service_ports),
            false,
        ),
        (
            "source route at its end",
            with_options(&[131, 7, 8, 10, 0, 0, 1, 0], &service_ports),
            true,
        ),
        (
            "option longer than the header",
            with_options(&[68, 9, 5, 0], &service_ports),
            false,
        ),
        (
            "source route behind the end of the options",
            with_options(&[0, 131, 7, 4, 10, 0, 0, 1], &service_ports),
            true,
        ),
        (
            "hop-by-hop options",
            v6(HOP_BY_HOP, &extension(TCP, 0, 0, &service_ports)),
            true,
        ),
        (
            "long destination options",
            v6(DESTINATION_OPTIONS, &extension(UDP, 9, 0, &service_ports)),
            true,
        ),
        (
            "routing header at its end",
            v6(ROUTING, &extension(TCP, 2, 0, &service_ports)),
            true,
        ),
        (
            "routing header under way",
            v6(ROUTING, &extension(TCP, 2, 1, &service_ports)),
            false,
        ),
        (
            "eight extension headers",
            v6(DESTINATION_OPTIONS, &eight_headers(&service_ports)),
            true,
        ),
        (
            "nine extension headers",
            v6(DESTINATION_OPTIONS, &nine_headers),
            false,
        ),
        (
            "authentication header",
            v6(AUTHENTICATION, &extension(TCP, 0, 0, &service_ports)),
            false,
        ),
        (
            "atomic fragment",
            v6(FRAGMENT, &fragment(TCP, 0, false, 7, &service_ports)),
            true,
        ),
        // ICMP
        (
            "ping",
            ip(CLIENT.into(), OURS.into(), ICMP, &icmp_error(8, &[0; 32])),
            false,
        ),
        (
            "ping, IPv6",
            ip(CLIENT6.into(), OURS6.into(), ICMPV6, &icmp_error(128, &[0; 32])),
            false,
        ),
        (
            "neighbour solicitation",
            ip(CLIENT6.into(), OURS6.into(), ICMPV6, &icmp_error(135, &[0; 32])),
            false,
        ),
        ("unreachable, quotes a NAT port", error(3, &quoted(20_000)), true),
        (
            "time exceeded, quotes a NAT port",
            error(11, &quoted(20_000)),
            true,
        ),
        (
            "parameter problem, quotes a NAT port",
            error(12, &quoted(20_000)),
            true,
        ),
        ("redirect, quotes a NAT port", error(5, &quoted(20_000)), false),
        (
            "unreachable, quotes a service",
            error(3, &tcp(OURS, PORT, CLIENT, 40_000)),
            true,
        ),
        (
            "unreachable, quotes eight bytes",
            error(3, &quoted(20_000)[..28]),
            true,
        ),
        (
            "unreachable, quotes UDP of a TCP service",
            error(3, &udp(OURS, PORT, CLIENT, 40_000)),
            false,
        ),
        (
            "unreachable, quotes an own connection",
            error(3, &quoted(45_000)),
            false,
        ),
        (
            "unreachable, quotes someone else",
            error(3, &tcp(CLIENT, 20_000, BACKEND, 8081)),
            false,
        ),
        (
            "unreachable, quotes ICMP",
            error(3, &ip(OURS.into(), BACKEND.into(), ICMP, &[8; 8])),
            false,
        ),
        ("unreachable, quotes IPv6", error(3, &quoted6(20_000)), false),
        (
            "unreachable, quotes a first fragment",
            error(11, &{
                let part = Ipv4 {
                    source: OURS,
                    destination: CLIENT,
                    protocol: TCP,
                    options: &[],
                    id: 1,
                    fragment: MORE,
                };
                part.packet(&ports(PORT, 40_000))
            }),
            true,
        ),
        (
            "unreachable, quotes a later fragment",
            error(11, &{
                let part = Ipv4 {
                    source: OURS,
                    destination: CLIENT,
                    protocol: TCP,
                    options: &[],
                    id: 1,
                    fragment: 9,
                };
                part.packet(&ports(PORT, 40_000))
            }),
            false,
        ),
        (
            "ICMPv6 unreachable, quotes a NAT port",
            error6(1, &quoted6(20_000)),
            true,
        ),
        (
            "ICMPv6 too big, quotes a service",
            error6(2, &udp(OURS6, PORT, CLIENT6, 40_000)),
            true,
        ),
        (
            "ICMPv6 parameter problem, quotes a NAT port",
            error6(4, &quoted6(20_000)),
            true,
        ),
        (
            "ICMPv6 error of type 5, quotes a NAT port",
            error6(5, &quoted6(20_000)),
            false,
        ),
        (
            "ICMPv6 too big, quotes an extension header",
            error6(2, &{
                ipv6(
                    OURS6,
                    CLIENT6,
                    HOP_BY_HOP,
                    &extension(TCP, 0, 0, &ports(PORT, 40_000)),
                )
            }),
            true,
        ),
        (
            "ICMPv6 over IPv4",
            ip(
                ROUTER.into(),
                OURS.into(),
                ICMPV6,
                &icmp_error(1, &quoted(20_000)),
            ),
            false,
        ),
        // Fragments
        (
            "first fragment to a service",
            v4(TCP, 1, MORE, &service_ports),
            true,
        ),
        (
            "first fragment to another port",
            v4(TCP, 2, MORE, &ports(40_000, 22)),
            false,
        ),
        ("later fragment, first not seen", v4(TCP, 3, 100, &[0; 32]), true),
        ("last fragment, first not seen", v4(UDP, 4, 100, &[0; 32]), true),
        ("later fragment of a ping", v4(ICMP, 5, 100, &[0; 32]), false),
        ("first fragment without ports", v4(TCP, 6, MORE, &[0; 3]), false),
        (
            "later fragment to another address",
            {
                Ipv4 {
                    source: CLIENT,
                    destination: BACKEND,
                    protocol: TCP,
                    options: &[],
                    id: 7,
                    fragment: 100,
                }
                .packet(&[0; 32])
            },
            false,
        ),
        (
            "first fragment, IPv6",
            v6(FRAGMENT, &fragment(UDP, 0, true, 8, &service_ports)),
            true,
        ),
        (
            "later fragment, IPv6",
            v6(FRAGMENT, &fragment(UDP, 1448, false, 9, &[0; 32])),
            true,
        ),
        (
            "later fragment of ICMPv6",
            v6(FRAGMENT, &fragment(ICMPV6, 1448, false, 10, &[0; 32])),
            false,
        ),
        (
            "first fragment, ports behind another header",
            {
                let rest = extension(TCP, 0, 0, &service_ports);
                v6(FRAGMENT, &fragment(DESTINATION_OPTIONS, 0, true, 11, &rest))
            },
            false,
        ),
        // Others
        ("DCCP", ip(CLIENT.into(), OURS.into(), 33, &service_ports), false),
        ("IPv4 broadcast", udp(CLIENT, 68, Ipv4Addr::BROADCAST, 67), false),
        (
            "IPv6 multicast",
            udp(CLIENT6, 5353, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), 5353),
            false,
        ),
        (
            "IPv4 header of 16 bytes",
            {
                let mut p = tcp(CLIENT, 40_000, OURS, PORT);
                p[0] = 0x44;
                p
            },
            false,
        ),
    ]
}
