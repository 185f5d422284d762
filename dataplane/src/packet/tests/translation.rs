//! Table: description, packet in, translation, packet out as etherparse builds it.

use etherparse::{Ipv6Extensions, Ipv6RawExtHeader};
use vl3lb_common::{DropReason, MacAddr, Protocol};

use super::support::{
    Spec, assert_valid, fix_ipv4_checksum, frames, joined, make_partial, parse_all, parse_frames,
    plain_checksum, to_backend, to_backend_v6,
};
use crate::packet::{ChecksumPolicy, Framing, Transport, set_macs, source_mac, translate};
use crate::port::Frame;

fn raw(spec: Spec) -> Spec {
    Spec {
        framing: Framing::RawIp,
        ..spec
    }
}

#[test]
fn translated_packets_are_what_etherparse_builds() {
    let tcp = || Spec::request(Protocol::Tcp);
    let udp = || Spec::request(Protocol::Udp);
    let tcp_v6 = || Spec::request_v6(Protocol::Tcp);
    let udp_v6 = || Spec::request_v6(Protocol::Udp);
    let hop_by_hop = Ipv6Extensions {
        hop_by_hop_options: Some(Ipv6RawExtHeader::new_raw(0.into(), &[1, 4, 0, 0, 0, 0]).unwrap()),
        ..Ipv6Extensions::default()
    };
    let table = [
        ("TCP over IPv4", tcp()),
        ("UDP over IPv4", udp()),
        ("TCP over IPv6", tcp_v6()),
        ("UDP over IPv6", udp_v6()),
        ("TCP over IPv4 on TUN", raw(tcp())),
        ("UDP over IPv6 on TUN", raw(udp_v6())),
        (
            "IPv4 with the longest options",
            Spec {
                ipv4_options: vec![1; 40],
                ..udp()
            },
        ),
        (
            "IPv6 with hop-by-hop options",
            Spec {
                ipv6_extensions: hop_by_hop,
                ..tcp_v6()
            },
        ),
        (
            "the last hop but one",
            Spec {
                hop_limit: 2,
                ..tcp()
            },
        ),
        (
            "no payload",
            Spec {
                payload: vec![],
                ..udp()
            },
        ),
    ];
    for (description, spec) in table {
        let to = if spec.source.is_ipv4() {
            to_backend()
        } else {
            to_backend_v6()
        };
        let expected = spec.translated(&to).bytes();
        let bytes = spec.bytes();
        let parsed = parse_all(&bytes, spec.framing).unwrap();

        let mut complete = frames(&bytes, &[]);
        translate(&mut complete, &parsed, &to, ChecksumPolicy::Update).unwrap();
        assert_eq!(joined(&complete), expected, "{description}");

        let mut bytes = bytes;
        make_partial(&mut bytes, &parsed, spec.protocol);
        let mut partial = frames(&bytes, &[]);
        translate(&mut partial, &parsed, &to, ChecksumPolicy::Update).unwrap();
        assert_eq!(joined(&partial), expected, "{description}, partial checksum");

        let mut later = frames(&bytes, &[]);
        translate(&mut later, &parsed, &to, ChecksumPolicy::Later).unwrap();
        let mut expected = expected;
        let at = parsed.l4() + if spec.protocol == Protocol::Tcp { 16 } else { 6 };
        expected[at..at + 2].copy_from_slice(&bytes[at..at + 2]);
        assert_eq!(joined(&later), expected, "{description}, checksum later");
    }
}

#[test]
fn udp_without_checksum_stays_so_over_ipv4_and_is_refused_over_ipv6() {
    let spec = Spec::request(Protocol::Udp);
    let mut bytes = spec.bytes();
    bytes[40..42].fill(0);
    let parsed = parse_all(&bytes, spec.framing).unwrap();
    let mut packet = frames(&bytes, &[]);
    translate(&mut packet, &parsed, &to_backend(), ChecksumPolicy::Update).unwrap();
    let mut expected = spec.translated(&to_backend()).bytes();
    expected[40..42].fill(0);
    assert_eq!(joined(&packet), expected);

    let mut bytes = Spec::request_v6(Protocol::Udp).bytes();
    bytes[60..62].fill(0);
    assert_eq!(parse_all(&bytes, Framing::Ethernet), Err(DropReason::Malformed));
}

#[test]
fn udp_checksum_that_becomes_zero_is_sent_as_ones() {
    let to = to_backend();
    let mut spec = Spec::request(Protocol::Udp);
    // Two payload bytes that make up for the rest: the translated packet's sum is ffff.
    spec.payload = vec![0, 0];
    let sum = spec.translated(&to).bytes();
    spec.payload = sum[40..42].to_vec();
    let bytes = spec.bytes();
    let parsed = parse_all(&bytes, spec.framing).unwrap();
    let mut partial = bytes.clone();
    make_partial(&mut partial, &parsed, Protocol::Udp);
    for bytes in [bytes, partial] {
        let mut packet = frames(&bytes, &[]);
        translate(&mut packet, &parsed, &to, ChecksumPolicy::Update).unwrap();
        let out = joined(&packet);
        assert_eq!(out[40..42], [0xff, 0xff]);
        assert_eq!(out, spec.translated(&to).bytes());
    }
}

#[test]
fn complete_checksum_that_looks_partial_is_updated() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        // Payload of two bytes such that everything but the pseudo-header sums up to the complement
        // of twice the pseudo-header's sum: then the checksum equals that sum.
        let spec = |payload: [u8; 2]| Spec {
            payload: payload.to_vec(),
            ..Spec::request(protocol)
        };
        let found = (0..=u16::MAX).map(u16::to_be_bytes).find(|payload| {
            let complete = spec(*payload).bytes();
            let parsed = parse_all(&complete, Framing::Ethernet).unwrap();
            let mut partial = complete.clone();
            make_partial(&mut partial, &parsed, protocol);
            partial == complete
        });
        let spec = spec(found.unwrap());
        let bytes = spec.bytes();
        let parsed = parse_all(&bytes, Framing::Ethernet).unwrap();
        let mut packet = frames(&bytes, &[]);
        translate(&mut packet, &parsed, &to_backend(), ChecksumPolicy::Update).unwrap();
        assert_eq!(joined(&packet), spec.translated(&to_backend()).bytes());
    }
}

#[test]
fn wrong_checksum_stays_wrong() {
    let mut bytes = Spec::request(Protocol::Tcp).bytes();
    *bytes.last_mut().unwrap() ^= 1;
    let parsed = parse_all(&bytes, Framing::Ethernet).unwrap();
    let mut packet = frames(&bytes, &[]);
    translate(&mut packet, &parsed, &to_backend(), ChecksumPolicy::Update).unwrap();
    let mut out = joined(&packet);
    *out.last_mut().unwrap() ^= 1;
    assert_valid(&out, Framing::Ethernet);
}

#[test]
fn ethernet_padding_is_not_summed() {
    let spec = Spec {
        payload: b"x".to_vec(),
        ..Spec::request(Protocol::Udp)
    };
    let bytes = spec.bytes();
    let parsed = parse_all(&bytes, spec.framing).unwrap();
    let mut padded = bytes.clone();
    make_partial(&mut padded, &parsed, Protocol::Udp);
    padded.resize(60, 0xee);
    assert_eq!(parse_all(&padded, spec.framing), Ok(parsed));
    let mut packet = frames(&padded, &[]);
    translate(&mut packet, &parsed, &to_backend(), ChecksumPolicy::Update).unwrap();
    assert_eq!(
        joined(&packet)[..bytes.len()],
        spec.translated(&to_backend()).bytes()
    );
}

#[test]
fn fragments_of_a_translated_datagram_reassemble_to_it() {
    let spec = Spec {
        payload: (0..=99).collect(),
        ..Spec::request(Protocol::Udp)
    };
    let whole = spec.bytes();
    let mut reassembled: Vec<u8> = Vec::new();
    for (start, end) in [(34, 34 + 48), (34 + 48, whole.len())] {
        let mut fragment = [&whole[..34], &whole[start..end]].concat();
        let total = u16::try_from(fragment.len() - 14).unwrap();
        let offset = u16::try_from((start - 34) / 8).unwrap();
        let more = if end < whole.len() { 0x2000 } else { 0 };
        fragment[16..18].copy_from_slice(&total.to_be_bytes());
        fragment[20..22].copy_from_slice(&(offset | more).to_be_bytes());
        fix_ipv4_checksum(&mut fragment, 14);

        let parsed = parse_all(&fragment, Framing::Ethernet).unwrap();
        let expected = Transport::Fragment {
            protocol: 17,
            id: 0xfffe,
            offset: offset * 8,
            more: more != 0,
            ports: (offset == 0).then_some((40000, 8080)),
            flags: crate::packet::TcpFlags(0),
        };
        assert_eq!(parsed.transport, expected);
        let mut packet = frames(&fragment, &[]);
        translate(&mut packet, &parsed, &to_backend(), ChecksumPolicy::Update).unwrap();
        let out = joined(&packet);
        assert_eq!(plain_checksum(&out[14..34]), 0);
        assert_eq!(out[26..34], spec.translated(&to_backend()).bytes()[26..34]);
        reassembled.extend(&out[34..]);
    }
    assert_eq!(reassembled, spec.translated(&to_backend()).bytes()[34..]);
}

#[test]
fn packet_of_several_frames_is_translated_in_its_first() {
    let spec = Spec {
        payload: (0..=255).cycle().take(3001).collect(),
        ..Spec::request_v6(Protocol::Tcp)
    };
    let mut bytes = spec.bytes();
    let parsed = parse_all(&bytes, spec.framing).unwrap();
    make_partial(&mut bytes, &parsed, Protocol::Tcp);
    let mut packet = frames(&bytes, &[777, 1, 1024]);
    assert_eq!(parse_frames(&packet, spec.framing), Ok(parsed));
    translate(&mut packet, &parsed, &to_backend_v6(), ChecksumPolicy::Update).unwrap();
    assert_eq!(joined(&packet), spec.translated(&to_backend_v6()).bytes());
    assert_eq!(packet[0].bytes().len(), 777);
}

#[test]
fn macs_are_set_and_read() {
    let mut bytes = Spec::request(Protocol::Tcp).bytes();
    let rest = bytes[12..].to_vec();
    let (destination, source) = (MacAddr([2, 0, 0, 0, 0, 9]), MacAddr([2, 0, 0, 0, 0, 8]));
    set_macs(&mut bytes, destination, source);
    assert_eq!(source_mac(&bytes), source);
    assert_eq!(bytes[..6], destination.0);
    assert_eq!(bytes[12..], rest);
}
