//! Tables of what is refused and of unusual packets that are not.

use vl3lb_common::{DropReason, Protocol};

use super::support::{Spec, fix_ipv4_checksum, parse_all};
use crate::packet::{Framing, Transport};

const IP: usize = 14;
const L4: usize = 34;
const L4_V6: usize = 54;

/// Changes a packet; the IPv4 header checksum is made right afterwards.
type Change = fn(&mut Vec<u8>);

fn check(base: fn(Protocol) -> Spec, table: &[(&str, Protocol, Change, DropReason)]) {
    for (description, protocol, change, reason) in table {
        let mut bytes = base(*protocol).bytes();
        change(&mut bytes);
        if bytes[12..14] == [8, 0] {
            fix_ipv4_checksum(&mut bytes, IP);
        }
        assert_eq!(
            parse_all(&bytes, Framing::Ethernet),
            Err(*reason),
            "{description}"
        );
    }
}

#[test]
fn refuses_ipv4_packets_that_contradict_themselves() {
    use DropReason::{Malformed, Martian, UnsupportedProtocol};
    use Protocol::{Tcp, Udp};
    let table: &[(&str, Protocol, Change, DropReason)] = &[
        ("ARP", Tcp, |p| p[13] = 6, UnsupportedProtocol),
        (
            "VLAN tag",
            Tcp,
            |p| p[12..14].copy_from_slice(&[0x81, 0]),
            UnsupportedProtocol,
        ),
        ("IPv6 inside the IPv4 ethertype", Tcp, |p| p[IP] = 0x65, Malformed),
        ("IHL below 5", Tcp, |p| p[IP] = 0x44, Malformed),
        (
            "IHL beyond the total length",
            Udp,
            |p| {
                p[IP] = 0x4f;
                p[IP + 2..IP + 4].copy_from_slice(&[0, 40]);
            },
            Malformed,
        ),
        (
            "total length beyond the frame",
            Tcp,
            |p| p[IP + 3] += 1,
            Malformed,
        ),
        ("total length 0", Tcp, |p| p[IP + 2..IP + 4].fill(0), Malformed),
        (
            "TCP header beyond the total length",
            Tcp,
            |p| p[IP + 3] = 39,
            Malformed,
        ),
        ("source in this network", Tcp, |p| p[IP + 12] = 0, Martian),
        ("loopback source", Tcp, |p| p[IP + 12] = 127, Martian),
        ("multicast source", Tcp, |p| p[IP + 12] = 224, Martian),
        ("class E source", Tcp, |p| p[IP + 12] = 240, Martian),
        (
            "broadcast source",
            Tcp,
            |p| p[IP + 12..IP + 16].fill(255),
            Martian,
        ),
        ("GRE", Tcp, |p| p[IP + 9] = 47, UnsupportedProtocol),
        ("DCCP", Tcp, |p| p[IP + 9] = 33, UnsupportedProtocol),
        ("ICMPv6 over IPv4", Tcp, |p| p[IP + 9] = 58, UnsupportedProtocol),
        ("TCP data offset below 5", Tcp, |p| p[L4 + 12] = 0x40, Malformed),
        (
            "TCP data offset beyond the packet",
            Tcp,
            |p| p[L4 + 12] = 0xf0,
            Malformed,
        ),
        ("UDP length below 8", Udp, |p| p[L4 + 5] = 7, Malformed),
        ("UDP length beyond the packet", Udp, |p| p[L4 + 5] += 1, Malformed),
        (
            "fragment with a cut TCP header",
            Tcp,
            |p| {
                p[IP + 3] = 20 + 16;
                p[IP + 6] = 0x20;
            },
            Malformed,
        ),
        (
            "fragment that overwrites the TCP flags",
            Tcp,
            |p| p[IP + 7] = 1,
            Malformed,
        ),
        (
            "fragment of an odd length before another",
            Udp,
            |p| p[IP + 6] = 0x20,
            Malformed,
        ),
        (
            "fragment beyond 64 KiB",
            Udp,
            |p| p[IP + 6..IP + 8].copy_from_slice(&[0x1f, 0xff]),
            Malformed,
        ),
        (
            "empty fragment",
            Udp,
            |p| {
                p[IP + 3] = 20;
                p[IP + 7] = 8;
            },
            Malformed,
        ),
        (
            "fragment of an ICMP message",
            Udp,
            |p| {
                p[IP + 9] = 1;
                p[IP + 7] = 8;
            },
            UnsupportedProtocol,
        ),
    ];
    check(Spec::request, table);
}

#[test]
fn refuses_ipv6_packets_that_contradict_themselves() {
    use DropReason::{Malformed, Martian, UnsupportedProtocol};
    use Protocol::{Tcp, Udp};
    let table: &[(&str, Protocol, Change, DropReason)] = &[
        ("IPv4 inside the IPv6 ethertype", Tcp, |p| p[IP] = 0x45, Malformed),
        (
            "payload length beyond the frame",
            Tcp,
            |p| p[IP + 5] += 1,
            Malformed,
        ),
        ("unspecified source", Tcp, |p| p[IP + 8..IP + 24].fill(0), Martian),
        (
            "loopback source",
            Tcp,
            |p| {
                p[IP + 8..IP + 24].fill(0);
                p[IP + 23] = 1;
            },
            Martian,
        ),
        ("multicast source", Tcp, |p| p[IP + 8] = 0xff, Martian),
        (
            "IPv4-mapped source",
            Tcp,
            |p| {
                p[IP + 8..IP + 18].fill(0);
                p[IP + 18..IP + 20].fill(0xff);
            },
            Martian,
        ),
        (
            "IPv4-mapped destination",
            Tcp,
            |p| {
                p[IP + 24..IP + 34].fill(0);
                p[IP + 34..IP + 36].fill(0xff);
            },
            Martian,
        ),
        ("no next header", Tcp, |p| p[IP + 6] = 59, UnsupportedProtocol),
        ("ESP", Tcp, |p| p[IP + 6] = 50, UnsupportedProtocol),
        (
            "authentication header",
            Tcp,
            |p| p[IP + 6] = 51,
            UnsupportedProtocol,
        ),
        ("ICMP over IPv6", Tcp, |p| p[IP + 6] = 1, UnsupportedProtocol),
        (
            "UDP without checksum",
            Udp,
            |p| p[L4_V6 + 6..L4_V6 + 8].fill(0),
            Malformed,
        ),
        (
            "hop-by-hop options out of place",
            Udp,
            |p| insert(p, &[(60, 0), (0, 0)]),
            Malformed,
        ),
        (
            "nine extension headers",
            Udp,
            |p| insert(p, &[(60, 0); 9]),
            Malformed,
        ),
        (
            "extension header beyond the packet",
            Udp,
            |p| {
                insert(p, &[(60, 0)]);
                p[L4_V6 + 1] = 200;
            },
            Malformed,
        ),
        (
            "routing header with segments left",
            Udp,
            |p| {
                insert(p, &[(43, 0)]);
                p[L4_V6 + 3] = 1;
            },
            UnsupportedProtocol,
        ),
        (
            "options behind a fragment header",
            Udp,
            |p| {
                insert(p, &[(44, 8), (60, 0)]);
            },
            UnsupportedProtocol,
        ),
    ];
    check(Spec::request_v6, table);
}

/// Puts extension headers of 8 bytes in front of a UDP packet: kind and fourth byte of each.
fn insert(packet: &mut Vec<u8>, headers: &[(u8, u8)]) {
    let mut kinds: Vec<u8> = headers.iter().map(|(kind, _)| *kind).collect();
    kinds.push(packet[IP + 6]);
    packet[IP + 6] = kinds[0];
    let chain = headers
        .iter()
        .zip(&kinds[1..])
        .flat_map(|((_, value), next)| [*next, 0, 0, *value, 0, 0, 0, 7]);
    packet.splice(L4_V6..L4_V6, chain);
    packet[IP + 5] += u8::try_from(headers.len() * 8).unwrap();
}

#[test]
fn refuses_a_wrong_ipv4_header_checksum() {
    let mut bytes = Spec::request(Protocol::Tcp).bytes();
    bytes[IP + 10] ^= 1;
    assert_eq!(parse_all(&bytes, Framing::Ethernet), Err(DropReason::BadChecksum));
}

#[test]
fn refuses_raw_bytes_that_are_not_ip() {
    let bytes = Spec::request(Protocol::Tcp).bytes();
    assert_eq!(parse_all(&bytes, Framing::RawIp), Err(DropReason::Malformed));
}

#[test]
fn refuses_headers_that_go_on_in_the_second_frame() {
    for (spec, l4) in [
        (Spec::request(Protocol::Tcp), L4),
        (Spec::request_v6(Protocol::Tcp), L4_V6),
    ] {
        let bytes = spec.bytes();
        for len in 0..l4 + 20 {
            let verdict = super::super::parse(&bytes[..len], bytes.len(), spec.framing);
            assert_eq!(verdict, Err(DropReason::Malformed), "{len}");
        }
        assert!(super::super::parse(&bytes[..l4 + 20], bytes.len(), spec.framing).is_ok());
    }
}

#[test]
fn finds_ports_behind_every_length_of_ipv4_options() {
    for words in 0..=10 {
        let spec = Spec {
            ipv4_options: vec![1; words * 4],
            ..Spec::request(Protocol::Udp)
        };
        let parsed = parse_all(&spec.bytes(), spec.framing).unwrap();
        assert_eq!(parsed.l4(), L4 + words * 4);
        let expected = Transport::Udp {
            source_port: 40000,
            destination_port: 8080,
        };
        assert_eq!(parsed.transport, expected);
    }
}

#[test]
fn finds_ports_behind_ipv6_extension_headers() {
    for (description, headers) in [
        ("hop-by-hop options", &[(0, 0)][..]),
        ("a routing header that is done", &[(43, 0)]),
        ("an atomic fragment", &[(44, 0)]),
        ("all of them", &[(0, 0), (60, 0), (43, 0), (44, 0), (60, 0)]),
        ("seven", &[(60, 0); 7]),
    ] {
        let mut bytes = Spec::request_v6(Protocol::Udp).bytes();
        insert(&mut bytes, headers);
        let parsed = parse_all(&bytes, Framing::Ethernet).unwrap();
        assert_eq!(parsed.l4(), L4_V6 + headers.len() * 8, "{description}");
        assert!(matches!(parsed.transport, Transport::Udp { .. }), "{description}");
    }
}

#[test]
fn recognises_ipv6_fragments() {
    let mut first = Spec {
        payload: vec![0; 24],
        ..Spec::request_v6(Protocol::Udp)
    }
    .bytes();
    let mut second = first.clone();
    insert(&mut first, &[(44, 1)]);
    insert(&mut second, &[(0, 0), (44, 0x10)]);
    let expected = |offset, more, ports| Transport::Fragment {
        protocol: 17,
        id: 7,
        offset,
        more,
        ports,
        flags: crate::packet::TcpFlags(0),
    };
    let transport = |bytes: &[u8]| parse_all(bytes, Framing::Ethernet).unwrap().transport;
    assert_eq!(transport(&first), expected(0, true, Some((40000, 8080))));
    assert_eq!(transport(&second), expected(16, false, None));
}

/// As many as the steer program walks; it would redirect what is dropped here.
#[test]
fn eight_extension_headers_are_walked_and_nine_are_not() {
    for (count, is_parsed) in [(7, true), (8, true), (9, false)] {
        let mut bytes = Spec::request_v6(Protocol::Udp).bytes();
        insert(&mut bytes, &vec![(60, 0); count]);
        let parsed = parse_all(&bytes, Framing::Ethernet);
        assert_eq!(parsed.is_ok(), is_parsed, "{count}: {parsed:?}");
    }
}

#[test]
fn finds_the_mss_among_options_and_survives_broken_ones() {
    let mss = |options: &[u8], syn: bool| {
        let mut spec = Spec::request(Protocol::Tcp);
        spec.tcp.syn = syn;
        spec.tcp.set_options_raw(options).unwrap();
        let bytes = spec.bytes();
        super::super::tcp_mss_option(&bytes, &parse_all(&bytes, spec.framing).unwrap())
    };
    assert_eq!(mss(&[2, 4, 5, 0xb4], true), Some(1460));
    assert_eq!(mss(&[1, 3, 3, 7, 2, 4, 0x22, 0xb8], true), Some(8888));
    assert_eq!(mss(&[2, 4, 5, 0xb4], false), None);
    assert_eq!(mss(&[], true), None);
    assert_eq!(mss(&[0, 2, 4, 5, 0xb4, 0, 0, 0], true), None);
    assert_eq!(mss(&[8, 0, 0, 0], true), None);
    assert_eq!(mss(&[8, 1, 2, 4, 5, 0xb4, 0, 0], true), None);
    assert_eq!(mss(&[1, 8, 200, 0], true), None);
    assert_eq!(mss(&[1, 1, 2, 4], true), None);
    assert_eq!(mss(&[2, 3, 5, 0], true), None);
}
