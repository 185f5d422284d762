//! ICMP errors through the NAT: what is read out of them, what is refused, what comes out.

use std::net::IpAddr;

use vl3lb_common::{DropReason, Protocol};

use super::support::{
    Spec, address, assert_valid, fix_ipv4_checksum, icmp_error, octets, parse_all, plain_checksum,
    to_backend, to_backend_v6,
};
use crate::packet::{ErrorClass, Framing, Parsed, Quoted, parse_quote, translate_error};

/// The packet that the backend got, on TUN so that it is ready to be quoted.
fn at_backend(spec: &Spec) -> Spec {
    let to = if spec.source.is_ipv4() {
        to_backend()
    } else {
        to_backend_v6()
    };
    Spec {
        framing: Framing::RawIp,
        ..spec.translated(&to)
    }
}

fn router(spec: &Spec) -> IpAddr {
    address(if spec.source.is_ipv4() {
        "172.16.1.1"
    } else {
        "2001:db8::1"
    })
}

/// A router's error about `quote`, which belongs to `quoted`.
fn error_about(quoted: &Spec, header: [u8; 8], quote: &[u8]) -> Vec<u8> {
    icmp_error(Framing::Ethernet, router(quoted), quoted.source, header, quote)
}

fn parsed_error(bytes: &[u8]) -> (Parsed, Quoted) {
    let parsed = parse_all(bytes, Framing::Ethernet).unwrap();
    (parsed, parse_quote(bytes, &parsed).unwrap())
}

const UNREACHABLE_V4: [u8; 8] = [3, 1, 0, 0, 0, 0, 0, 0];
const UNREACHABLE_V6: [u8; 8] = [1, 3, 0, 0, 0, 0, 0, 0];

#[test]
fn error_about_a_translated_packet_becomes_one_about_the_original() {
    for (protocol, len) in [
        (Protocol::Tcp, 8),
        (Protocol::Tcp, 20),
        (Protocol::Udp, 8),
        (Protocol::Udp, 27),
    ] {
        for (client, header) in [
            (Spec::request(protocol), UNREACHABLE_V4),
            (Spec::request_v6(protocol), UNREACHABLE_V6),
        ] {
            let backend = at_backend(&client);
            let quoted_len = if client.source.is_ipv4() {
                20 + len
            } else {
                40 + len
            };
            let mut bytes = error_about(&backend, header, &backend.bytes()[..quoted_len]);
            let (parsed, quoted) = parsed_error(&bytes);
            assert_eq!((quoted.source_port, quoted.destination_port), (53211, 8081));

            let to_client = client.tuple().source;
            translate_error(
                &mut bytes,
                &parsed,
                &quoted,
                parsed.source,
                to_client,
                &client.tuple(),
            )
            .unwrap();

            // What a router would have sent about the packet as the client sent it.
            let original = Spec {
                framing: Framing::RawIp,
                hop_limit: backend.hop_limit,
                ..client.clone()
            };
            let mut expected = error_about(&original, header, &original.bytes()[..quoted_len]);
            take_hop(&mut expected);
            assert_eq!(bytes, expected, "{protocol} {quoted_len}");
            assert_valid(&bytes, Framing::Ethernet);
        }
    }
}

fn take_hop(bytes: &mut [u8]) {
    if bytes[12..14] == [8, 0] {
        bytes[22] -= 1;
        fix_ipv4_checksum(bytes, 14);
    } else {
        bytes[21] -= 1;
    }
}

#[test]
fn classes_of_errors() {
    let v4 = at_backend(&Spec::request(Protocol::Udp));
    let v6 = at_backend(&Spec::request_v6(Protocol::Udp));
    for (spec, header, kind) in [
        (&v4, [3, 3, 0, 0, 0, 0, 0, 0], ErrorClass::Unreachable),
        (&v4, [3, 4, 0, 0, 0, 0, 5, 0x78], ErrorClass::TooBig { mtu: 1400 }),
        (&v4, [11, 0, 0, 0, 0, 0, 0, 0], ErrorClass::TimeExceeded),
        (&v4, [12, 0, 0, 0, 20, 0, 0, 0], ErrorClass::Other),
        (&v6, [1, 4, 0, 0, 0, 0, 0, 0], ErrorClass::Unreachable),
        (&v6, [2, 0, 0, 0, 0, 0, 5, 0], ErrorClass::TooBig { mtu: 1280 }),
        (&v6, [3, 0, 0, 0, 0, 0, 0, 0], ErrorClass::TimeExceeded),
        (&v6, [4, 1, 0, 0, 0, 0, 0, 6], ErrorClass::Other),
    ] {
        let bytes = error_about(spec, header, &spec.bytes());
        assert_eq!(parsed_error(&bytes).1.kind, kind, "{header:?}");
    }
}

#[test]
fn refused_errors() {
    use DropReason::{BadChecksum, IcmpUnmatched, Malformed, UnsupportedProtocol};
    let v4 = at_backend(&Spec::request(Protocol::Udp));
    let v6 = at_backend(&Spec::request_v6(Protocol::Udp));
    let v4_quote = |change: fn(&mut Vec<u8>)| {
        let mut quote = v4.bytes();
        change(&mut quote);
        fix_ipv4_checksum(&mut quote, 0);
        quote
    };
    let v6_quote = |change: fn(&mut Vec<u8>)| {
        let mut quote = v6.bytes();
        change(&mut quote);
        quote
    };
    let stale = {
        let mut quote = v4.bytes();
        quote[8] -= 1;
        quote
    };
    for (description, spec, header, quote, reason) in [
        (
            "echo request",
            &v4,
            [8, 0, 0, 0, 0, 0, 0, 0],
            v4.bytes(),
            UnsupportedProtocol,
        ),
        (
            "source quench",
            &v4,
            [4, 0, 0, 0, 0, 0, 0, 0],
            v4.bytes(),
            UnsupportedProtocol,
        ),
        (
            "redirect",
            &v4,
            [5, 0, 0, 0, 0, 0, 0, 0],
            v4.bytes(),
            UnsupportedProtocol,
        ),
        (
            "neighbour solicitation",
            &v6,
            [135, 0, 0, 0, 0, 0, 0, 0],
            v6.bytes(),
            UnsupportedProtocol,
        ),
        (
            "quoted header checksum wrong",
            &v4,
            UNREACHABLE_V4,
            stale,
            BadChecksum,
        ),
        (
            "quoted ICMP",
            &v4,
            UNREACHABLE_V4,
            v4_quote(|q| q[9] = 1),
            UnsupportedProtocol,
        ),
        (
            "quoted later fragment",
            &v4,
            UNREACHABLE_V4,
            v4_quote(|q| q[7] = 9),
            IcmpUnmatched,
        ),
        (
            "quoted IHL below 5",
            &v4,
            UNREACHABLE_V4,
            v4_quote(|q| q[0] = 0x43),
            Malformed,
        ),
        ("quoted IPv6 in ICMP", &v4, UNREACHABLE_V4, v6.bytes(), Malformed),
        (
            "quoted IPv4 in ICMPv6",
            &v6,
            UNREACHABLE_V6,
            [v4.bytes(), v4.bytes()].concat(),
            Malformed,
        ),
        (
            "quote without ports",
            &v4,
            UNREACHABLE_V4,
            v4_quote(|q| q.truncate(27)),
            Malformed,
        ),
        ("no quote", &v6, UNREACHABLE_V6, vec![], Malformed),
        (
            "quoted ICMPv6",
            &v6,
            UNREACHABLE_V6,
            v6_quote(|q| q[6] = 58),
            UnsupportedProtocol,
        ),
        (
            "quoted IPv4-mapped source",
            &v6,
            UNREACHABLE_V6,
            v6_quote(|q| {
                q[8..18].fill(0);
                q[18..20].fill(0xff);
            }),
            Malformed,
        ),
        (
            "quoted IPv4-mapped destination",
            &v6,
            UNREACHABLE_V6,
            v6_quote(|q| {
                q[24..34].fill(0);
                q[34..36].fill(0xff);
            }),
            Malformed,
        ),
        (
            "quoted later IPv6 fragment",
            &v6,
            UNREACHABLE_V6,
            v6_quote(|q| {
                q[6] = 44;
                q.splice(40..40, [17, 0, 0, 8, 0, 0, 0, 1]);
            }),
            IcmpUnmatched,
        ),
        (
            "quote said to end before the ports",
            &v4,
            [3, 1, 0, 0, 0, 6, 0, 0],
            v4.bytes(),
            Malformed,
        ),
    ] {
        let bytes = error_about(spec, header, &quote);
        assert_eq!(parse_all(&bytes, Framing::Ethernet), Err(reason), "{description}");
    }
}

#[test]
fn wrong_message_checksum_is_refused_and_wrong_quoted_transport_checksum_is_not() {
    for (spec, header, at) in [
        (at_backend(&Spec::request(Protocol::Tcp)), UNREACHABLE_V4, 36),
        (at_backend(&Spec::request_v6(Protocol::Tcp)), UNREACHABLE_V6, 56),
    ] {
        let mut bytes = error_about(&spec, header, &spec.bytes());
        bytes[at] ^= 1;
        assert_eq!(parse_all(&bytes, Framing::Ethernet), Err(DropReason::BadChecksum));

        let mut quote = spec.bytes();
        *quote.last_mut().unwrap() ^= 1;
        let bytes = error_about(&spec, header, &quote);
        assert!(parse_all(&bytes, Framing::Ethernet).is_ok());
    }
}

#[test]
fn quoted_options_and_first_fragments_are_seen_through() {
    let with_options = Spec {
        ipv4_options: vec![1; 12],
        ..at_backend(&Spec::request(Protocol::Udp))
    };
    let bytes = error_about(&with_options, UNREACHABLE_V4, &with_options.bytes());
    let (_, quoted) = parsed_error(&bytes);
    assert_eq!((quoted.source_port, quoted.destination_port), (53211, 8081));

    let v6 = at_backend(&Spec::request_v6(Protocol::Udp));
    let mut quote = v6.bytes();
    quote[6] = 44;
    quote.splice(40..40, [17, 0, 0, 1, 0, 0, 0, 1]);
    let (_, quoted) = parsed_error(&error_about(&v6, UNREACHABLE_V6, &quote));
    assert_eq!((quoted.source_port, quoted.destination_port), (53211, 8081));
}

#[test]
fn extensions_behind_the_quote_stay_as_they_are() {
    let client = Spec::request(Protocol::Tcp);
    let backend = at_backend(&client);
    // RFC 4884: a quote padded to 128 bytes (32 words), then an extension structure.
    let mut quote = backend.bytes();
    quote.resize(128, 0);
    let mut extension = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0xde, 0xad, 0xbe, 0xef];
    let checksum = plain_checksum(&extension);
    extension[2..4].copy_from_slice(&checksum.to_be_bytes());
    quote.extend(&extension);
    let header = [11, 0, 0, 0, 0, 32, 0, 0];
    let mut bytes = error_about(&backend, header, &quote);
    let (parsed, quoted) = parsed_error(&bytes);
    assert_eq!(quoted.end, quoted.l3 + 128);

    let source = octets("172.16.1.103");
    translate_error(
        &mut bytes,
        &parsed,
        &quoted,
        source,
        client.tuple().source,
        &client.tuple(),
    )
    .unwrap();
    assert_valid(&bytes, Framing::Ethernet);
    assert_eq!(bytes[bytes.len() - extension.len()..], extension);
    assert_eq!(bytes[34..36], [11, 0]);
    assert_eq!(bytes[38..42], header[4..]);
}

#[test]
fn udp_quoted_without_checksum_stays_so() {
    let client = Spec::request(Protocol::Udp);
    let backend = at_backend(&client);
    let mut quote = backend.bytes();
    quote[26..28].fill(0);
    let mut bytes = error_about(&backend, UNREACHABLE_V4, &quote);
    let (parsed, quoted) = parsed_error(&bytes);
    translate_error(
        &mut bytes,
        &parsed,
        &quoted,
        parsed.source,
        client.tuple().source,
        &client.tuple(),
    )
    .unwrap();
    assert_valid(&bytes, Framing::Ethernet);
    assert_eq!(bytes[quoted.l4 + 6..quoted.l4 + 8], [0, 0]);
}
