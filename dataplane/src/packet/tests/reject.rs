//! ICMP errors and resets that the balancer sends.

use etherparse::TransportSlice;
use vl3lb_common::{DropReason, Protocol};

use super::support::{
    BALANCER_MAC, CLIENT_MAC, Spec, VecFrame, assert_valid, fix_ipv4_checksum, frames, icmp_error, joined,
    octets, parse_all, parse_frames, sliced,
};
use crate::packet::{Framing, IcmpError, reject_with_icmp_error, reject_with_tcp_reset};
use crate::port::Frame;

fn raw(spec: Spec) -> Spec {
    Spec {
        framing: Framing::RawIp,
        ..spec
    }
}

#[test]
fn errors_quote_the_packet_and_go_back_to_its_sender() {
    let v4 = Spec::request(Protocol::Udp);
    let v6 = Spec::request_v6(Protocol::Tcp);
    for (spec, kind, header) in [
        (v4.clone(), IcmpError::PortUnreachable, [3, 3, 0, 0, 0, 0]),
        (v4.clone(), IcmpError::AdminProhibited, [3, 13, 0, 0, 0, 0]),
        (v4.clone(), IcmpError::TimeExceeded, [11, 0, 0, 0, 0, 0]),
        (v4.clone(), IcmpError::TooBig { mtu: 1400 }, [3, 4, 0, 0, 5, 0x78]),
        (raw(v4), IcmpError::TimeExceeded, [11, 0, 0, 0, 0, 0]),
        (v6.clone(), IcmpError::PortUnreachable, [1, 4, 0, 0, 0, 0]),
        (v6.clone(), IcmpError::AdminProhibited, [1, 1, 0, 0, 0, 0]),
        (v6.clone(), IcmpError::TimeExceeded, [3, 0, 0, 0, 0, 0]),
        (v6.clone(), IcmpError::TooBig { mtu: 1400 }, [2, 0, 0, 0, 5, 0x78]),
        (raw(v6), IcmpError::PortUnreachable, [1, 4, 0, 0, 0, 0]),
    ] {
        let mut bytes = spec.bytes();
        let parsed = parse_all(&bytes, spec.framing).unwrap();
        let ip_packet = bytes[parsed.l3()..].to_vec();
        // Padding is not quoted.
        bytes.extend([0xee; 6]);
        let own = if spec.source.is_ipv4() {
            "172.16.1.103"
        } else {
            "2001:db8::103"
        };
        let mut packet = frames(&bytes, &[]);
        reject_with_icmp_error(&mut packet, &parsed, kind, octets(own)).unwrap();

        let out = joined(&packet);
        assert_valid(&out, spec.framing);
        let header_len = if spec.source.is_ipv4() { 20 } else { 40 };
        let icmp = parsed.l3() + header_len;
        assert_eq!(out[icmp..icmp + 2], header[..2], "{kind:?}");
        if spec.source.is_ipv4() {
            assert_eq!(out[parsed.l3() + 1], 0xc0, "RFC 1812 section 4.3.2.5");
        }
        assert_eq!(out[icmp + 4..icmp + 8], header[2..], "{kind:?}");
        assert_eq!(out[icmp + 8..], ip_packet, "{kind:?}");
        if spec.framing == Framing::Ethernet {
            assert_eq!(out[..6], CLIENT_MAC);
            assert_eq!(out[6..12], BALANCER_MAC);
        }
        let addresses = if spec.source.is_ipv4() {
            (
                parsed.l3() + 12..parsed.l3() + 20,
                [172, 16, 1, 103, 172, 16, 1, 100].to_vec(),
            )
        } else {
            (
                parsed.l3() + 8..parsed.l3() + 40,
                [octets("2001:db8::103"), octets("2001:db8::100")].concat(),
            )
        };
        assert_eq!(out[addresses.0], addresses.1);
    }
}

#[test]
fn errors_about_long_packets_quote_up_to_the_limit() {
    for (spec, limit) in [
        (Spec::request(Protocol::Udp), 576),
        (Spec::request_v6(Protocol::Udp), 1280),
    ] {
        let spec = Spec {
            payload: vec![7; 5001],
            ..spec
        };
        let bytes = spec.bytes();
        for cuts in [&[][..], &[300], &[1301, 1]] {
            let mut packet = frames(&bytes, cuts);
            let first_len = packet[0].bytes().len();
            let parsed = parse_frames(&packet, spec.framing).unwrap();
            reject_with_icmp_error(&mut packet, &parsed, IcmpError::TimeExceeded, parsed.destination)
                .unwrap();
            let out = &packet[0];
            assert!(!out.continues());
            let front = if spec.source.is_ipv4() { 28 } else { 48 };
            assert_eq!(out.bytes().len() - 14, limit.min(first_len - 14 + front));
            assert_valid(out.bytes(), spec.framing);
            let quoted = out.bytes().len() - 14 - front;
            assert_eq!(out.bytes()[14 + front..], bytes[14..14 + quoted]);
        }
    }
}

#[test]
fn errors_are_not_sent_where_they_may_not() {
    let udp = |destination: &str| Spec {
        destination: destination.parse().unwrap(),
        ..if destination.contains(':') {
            Spec::request_v6(Protocol::Udp)
        } else {
            Spec::request(Protocol::Udp)
        }
    };
    let v4 = udp("172.16.1.103");
    let fragment = {
        let mut bytes = v4.bytes();
        bytes[21] = 8;
        fix_ipv4_checksum(&mut bytes, 14);
        bytes
    };
    let group_mac = {
        let mut bytes = v4.bytes();
        bytes[..6].fill(0xff);
        bytes
    };
    let header = [3, 1, 0, 0, 0, 0, 0, 0];
    let error = icmp_error(
        Framing::Ethernet,
        v4.source,
        v4.destination,
        header,
        &raw(v4).bytes(),
    );
    for (description, bytes, reason) in [
        ("an ICMP error", error, DropReason::IcmpUnmatched),
        ("a later fragment", fragment, DropReason::FragmentUnmatched),
        ("an Ethernet broadcast", group_mac, DropReason::Martian),
        (
            "an IPv4 broadcast",
            udp("255.255.255.255").bytes(),
            DropReason::Martian,
        ),
        (
            "an IPv4 multicast",
            udp("224.0.0.251").bytes(),
            DropReason::Martian,
        ),
        ("an IPv6 multicast", udp("ff02::fb").bytes(), DropReason::Martian),
    ] {
        let parsed = parse_all(&bytes, Framing::Ethernet).unwrap();
        let mut packet = frames(&bytes, &[]);
        let verdict = reject_with_icmp_error(
            &mut packet,
            &parsed,
            IcmpError::PortUnreachable,
            parsed.destination,
        );
        assert_eq!(verdict, Err(reason), "{description}");
        assert_eq!(joined(&packet), bytes, "{description}");
    }
}

#[test]
fn frame_without_room_for_an_error_is_unchanged() {
    let spec = Spec {
        payload: vec![],
        ..Spec::request(Protocol::Udp)
    };
    let bytes = spec.bytes();
    let parsed = parse_all(&bytes, spec.framing).unwrap();
    let mut packet = [VecFrame::new(&bytes, bytes.len())];
    let verdict = reject_with_icmp_error(&mut packet, &parsed, IcmpError::TimeExceeded, parsed.destination);
    assert_eq!(verdict, Err(DropReason::Internal));
    assert_eq!(joined(&packet), bytes);
}

#[test]
fn resets_follow_rfc_9293() {
    const SEQUENCE: u32 = 0xffff_fffe;
    const ACKNOWLEDGMENT: u32 = 0x0102_0304;
    for (description, syn, fin, ack, payload, sequence, acknowledgment) in [
        ("SYN", true, false, false, 0, 0, Some(0xffff_ffff)),
        ("SYN with data (TFO)", true, false, false, 3, 0, Some(2)),
        ("SYN-ACK", true, false, true, 0, ACKNOWLEDGMENT, None),
        ("ACK with data", false, false, true, 5, ACKNOWLEDGMENT, None),
        ("FIN-ACK", false, true, true, 0, ACKNOWLEDGMENT, None),
        ("FIN without ACK", false, true, false, 1, 0, Some(0)),
        ("no flags", false, false, false, 4, 0, Some(2)),
    ] {
        for spec in [
            Spec::request(Protocol::Tcp),
            Spec::request_v6(Protocol::Tcp),
            raw(Spec::request(Protocol::Tcp)),
        ] {
            let mut spec = Spec {
                payload: vec![1; payload],
                ..spec
            };
            spec.tcp.sequence_number = SEQUENCE;
            spec.tcp.acknowledgment_number = ACKNOWLEDGMENT;
            (spec.tcp.syn, spec.tcp.fin, spec.tcp.ack) = (syn, fin, ack);
            spec.tcp.set_options_raw(&[2, 4, 5, 0xb4]).unwrap();
            let bytes = spec.bytes();
            let mut packet = frames(&bytes, &[]);
            let parsed = parse_all(&bytes, spec.framing).unwrap();
            reject_with_tcp_reset(&mut packet, &parsed).unwrap();

            let out = joined(&packet);
            assert_valid(&out, spec.framing);
            if spec.framing == Framing::Ethernet {
                assert_eq!(out[..6], CLIENT_MAC);
                assert_eq!(out[6..12], BALANCER_MAC);
            }
            let back = parse_all(&out, spec.framing).unwrap();
            assert_eq!(
                (back.source, back.destination),
                (parsed.destination, parsed.source)
            );
            let Some(TransportSlice::Tcp(reset)) = sliced(&out, spec.framing).transport else {
                panic!("{description}: not TCP");
            };
            assert_eq!((reset.source_port(), reset.destination_port()), (8080, 40000));
            assert_eq!(reset.sequence_number(), sequence, "{description}");
            let acknowledged = reset.ack().then(|| reset.acknowledgment_number());
            assert_eq!(acknowledged, acknowledgment, "{description}");
            assert!(reset.rst() && !reset.syn() && !reset.fin(), "{description}");
            assert_eq!(reset.slice().len(), 20, "{description}");
        }
    }
}

#[test]
fn resets_are_not_sent_where_they_may_not() {
    let mut reset = Spec::request(Protocol::Tcp);
    reset.tcp.rst = true;
    let broadcast = Spec {
        destination: "255.255.255.255".parse().unwrap(),
        ..Spec::request(Protocol::Tcp)
    };
    for (description, spec, reason) in [
        ("a reset", reset, DropReason::NotSyn),
        ("a broadcast", broadcast, DropReason::Martian),
        ("UDP", Spec::request(Protocol::Udp), DropReason::Internal),
    ] {
        let bytes = spec.bytes();
        let parsed = parse_all(&bytes, spec.framing).unwrap();
        let mut packet = frames(&bytes, &[]);
        assert_eq!(
            reject_with_tcp_reset(&mut packet, &parsed),
            Err(reason),
            "{description}"
        );
        assert_eq!(joined(&packet), bytes, "{description}");
    }
}
