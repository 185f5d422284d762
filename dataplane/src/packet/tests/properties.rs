//! What holds for all packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use vl3lb_common::Protocol;
use vl3lb_common::addr::to_octets;

use super::support::{
    Spec, VecPort, assert_valid, fix_ipv4_checksum, frames, icmp_error, joined, make_partial, parse_all,
    parse_frames, plain_checksum, sliced,
};
use crate::packet::checksum::{Delta, Sum};
use crate::packet::parse::parse_any;
use crate::packet::plain;
use crate::packet::{
    ChecksumPolicy, Framing, IcmpError, Parsed, Translation, Transport, check_sctp, parse, parse_quote,
    reject_with_icmp_error, reject_with_sctp_abort, reject_with_tcp_reset, sctp_packet, seal_sctp, segment,
    set_macs, source_mac, tcp_mss_option, translate, translate_error,
};
use crate::port::Frame;
use crate::testing::validate;

fn ipv4() -> impl Strategy<Value = IpAddr> {
    (1..127u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
}

fn ipv6() -> impl Strategy<Value = IpAddr> {
    any::<[u8; 15]>().prop_map(|rest| {
        let mut octets = [0x20; 16];
        octets[1..].copy_from_slice(&rest);
        IpAddr::V6(Ipv6Addr::from(octets))
    })
}

/// Four addresses of one family.
fn addresses() -> impl Strategy<Value = [IpAddr; 4]> {
    prop_oneof![[ipv4(), ipv4(), ipv4(), ipv4()], [ipv6(), ipv6(), ipv6(), ipv6()],]
}

/// A packet and a translation of it.
fn packets(payload: usize) -> impl Strategy<Value = (Spec, Translation)> {
    (
        addresses(),
        any::<[u16; 4]>(),
        prop::bool::ANY,
        prop::bool::ANY,
        2..=255u8,
        0..=10usize,
        any::<u32>(),
        vec(any::<u8>(), 0..payload),
    )
        .prop_map(
            |(
                [source, destination, to_source, to_destination],
                ports,
                udp,
                raw,
                hop_limit,
                options,
                sequence,
                payload,
            )| {
                let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
                let mut spec = Spec {
                    framing: if raw { Framing::RawIp } else { Framing::Ethernet },
                    source,
                    destination,
                    hop_limit,
                    source_port: ports[0],
                    destination_port: ports[1],
                    ipv4_options: vec![1; options * 4],
                    payload,
                    ..Spec::request(protocol)
                };
                spec.tcp.sequence_number = sequence;
                let to = Translation {
                    source: to_octets(to_source),
                    destination: to_octets(to_destination),
                    source_port: ports[2],
                    destination_port: ports[3],
                };
                (spec, to)
            },
        )
}

/// Calls every function that a packet may reach once it is parsed; none may panic.
pub(super) fn reach_everything(bytes: &[u8], cuts: &[usize], framing: Framing, to: &Translation) {
    let packet = || frames(bytes, cuts);
    let Ok(parsed) = parse_frames(&packet(), framing) else {
        return;
    };
    for policy in [ChecksumPolicy::Update, ChecksumPolicy::Later] {
        let translated = translate(&mut packet(), &parsed, to, policy);
        assert_eq!(translated.is_err(), parsed.transport == Transport::Icmp);
    }
    let mut first = packet().remove(0);
    if let Ok(quoted) = parse_quote(first.bytes(), &parsed) {
        translate_error(first.bytes_mut(), &parsed, &quoted, to.source, to.destination, to).unwrap();
    }
    for kind in [IcmpError::TimeExceeded, IcmpError::TooBig { mtu: 1280 }] {
        let mut answer = packet();
        if reject_with_icmp_error(&mut answer, &parsed, kind, to.source).is_ok() {
            assert_valid(answer[0].bytes(), framing);
        }
    }
    let mut reset = packet();
    if reject_with_tcp_reset(&mut reset, &parsed).is_ok() {
        assert_valid(reset[0].bytes(), framing);
    }
    let mut abort = packet();
    if reject_with_sctp_abort(&mut abort, &parsed).is_ok() {
        validate::assert_valid(abort[0].bytes(), framing == Framing::Ethernet);
    }
    let mut sealed = packet();
    if let Ok(read) = sctp_packet(&sealed, &parsed)
        && matches!(parsed.transport, Transport::Sctp { .. })
    {
        seal_sctp(&mut sealed, &parsed, &read).unwrap();
        assert_eq!(check_sctp(&sealed, &parsed), Ok(()));
        assert_eq!(sctp_packet(&sealed, &parsed), Ok(read));
    }
    let mut port = VecPort {
        free: 100,
        capacity: 2048,
    };
    let mut segments = Vec::new();
    let cut = segment(&mut port, &packet(), &parsed, 1400, &mut segments);
    assert_eq!(cut.unwrap_or(0), segments.len());
    assert_eq!(port.free + segments.len(), 100);
    let mut first = packet().remove(0);
    let _ = tcp_mss_option(first.bytes(), &parsed);
    let sender = source_mac(first.bytes());
    set_macs(first.bytes_mut(), sender, sender);
}

fn some_translation() -> Translation {
    Translation {
        source: to_octets(IpAddr::V4(Ipv4Addr::new(172, 16, 1, 103))),
        destination: to_octets(IpAddr::V4(Ipv4Addr::new(172, 16, 1, 102))),
        source_port: 53211,
        destination_port: 8081,
    }
}

fn parsed(spec: &Spec) -> Parsed {
    parse_all(&spec.bytes(), spec.framing).unwrap()
}

proptest! {
    #[test]
    fn sums_equal_those_word_by_word(bytes in vec(any::<u8>(), 0..200), at in any::<Index>()) {
        prop_assert_eq!(u16::from_be_bytes(Sum::of(&bytes).checksum()), plain_checksum(&bytes));
        let at = at.index(bytes.len() + 1);
        let sum = Sum::of(&bytes[..at]).append(at, &bytes[at..]);
        prop_assert_eq!(u16::from_be_bytes(sum.checksum()), plain_checksum(&bytes));
    }

    /// The words are few enough that sums of 0000 and ffff come up.
    #[test]
    fn incremental_checksum_equals_the_full_one(
        mut words in vec(prop_oneof![Just(0), Just(1), Just(0xfffe), Just(0xffff), any::<u16>()], 2..5),
        at in any::<Index>(),
        new in prop_oneof![Just(0), Just(1), Just(0xfffe), Just(0xffff), any::<u16>()],
    ) {
        let full = |words: &[u16]| {
            plain_checksum(&words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>())
        };
        // A word that is never 0, as every pseudo-header and IP header has.
        words[0] |= 0x4000;
        let at = 1 + at.index(words.len() - 1);
        let before = full(&words);
        let delta = Delta::default().word(words[at].to_be(), new.to_be());
        words[at] = new;
        prop_assert_eq!(delta.apply(before.to_be()), full(&words).to_be());
    }

    #[test]
    fn translation_of_complete_and_partial_checksums_equals_a_packet_built_anew(
        (spec, to) in packets(300),
        cut in 0..400usize,
    ) {
        let bytes = spec.bytes();
        let parsed = parsed(&spec);
        let expected = spec.translated(&to).bytes();
        // The first frame holds all headers.
        let cuts = [parsed.l4() + 20 + cut];

        let mut packet = frames(&bytes, &cuts);
        translate(&mut packet, &parsed, &to, ChecksumPolicy::Update).unwrap();
        prop_assert_eq!(&joined(&packet), &expected);

        let mut partial = bytes;
        make_partial(&mut partial, &parsed, spec.protocol);
        let mut packet = frames(&partial, &cuts);
        translate(&mut packet, &parsed, &to, ChecksumPolicy::Update).unwrap();
        prop_assert_eq!(joined(&packet), expected);
    }

    #[test]
    fn translation_and_back_gives_the_original(
        (spec, to) in packets(100),
    ) {
        prop_assume!(spec.hop_limit > 2);
        let mut packet = frames(&spec.bytes(), &[]);
        translate(&mut packet, &parsed(&spec), &to, ChecksumPolicy::Update).unwrap();
        let there = parse_frames(&packet, spec.framing).unwrap();
        translate(&mut packet, &there, &spec.tuple(), ChecksumPolicy::Update).unwrap();
        let expected = Spec { hop_limit: spec.hop_limit - 2, ..spec };
        prop_assert_eq!(joined(&packet), expected.bytes());
    }

    #[test]
    fn translated_errors_and_back_give_the_original(
        (quoted, to) in packets(60),
        raw in prop::bool::ANY,
        code in 0..4u8,
        cut in 8..100usize,
    ) {
        let framing = if raw { Framing::RawIp } else { Framing::Ethernet };
        let kind = if quoted.source.is_ipv4() { 3 } else { 1 };
        let quoted = Spec { framing: Framing::RawIp, ..quoted };
        let quote = quoted.bytes();
        let l4 = parsed(&quoted).l4();
        let quote = &quote[..quote.len().min(l4 + cut)];
        let header = [kind, code, 0, 0, 0, 0, 0, 0];
        let original = icmp_error(framing, quoted.destination, quoted.source, header, quote);
        let mut bytes = original.clone();
        for (source, destination, inner) in [
            (to.destination, to.source, to),
            (to_octets(quoted.destination), to_octets(quoted.source), quoted.tuple()),
        ] {
            let parsed = parse_all(&bytes, framing).unwrap();
            let quoted = parse_quote(&bytes, &parsed).unwrap();
            translate_error(&mut bytes, &parsed, &quoted, source, destination, &inner).unwrap();
            assert_valid(&bytes, framing);
            let quoted = parse_quote(&bytes, &parse_all(&bytes, framing).unwrap()).unwrap();
            prop_assert_eq!((quoted.source, quoted.destination), (inner.source, inner.destination));
            prop_assert_eq!(quoted.source_port, inner.source_port);
            prop_assert_eq!(quoted.destination_port, inner.destination_port);
        }
        let l3 = framing.header_len();
        if quoted.source.is_ipv4() {
            bytes[l3 + 8] += 2;
            fix_ipv4_checksum(&mut bytes, l3);
        } else {
            bytes[l3 + 7] += 2;
        }
        prop_assert_eq!(bytes, original);
    }

    #[test]
    fn segments_reassemble_to_the_stream(
        (spec, to) in packets(9000),
        mss in 100..2000u16,
        cut in 0..5000usize,
    ) {
        let spec = Spec { protocol: Protocol::Tcp, ..spec };
        let parsed = parsed(&spec);
        let mut packet = frames(&spec.bytes(), &[parsed.l4() + 20 + cut, 1000]);
        translate(&mut packet, &parsed, &to, ChecksumPolicy::Later).unwrap();
        let mut port = VecPort { free: 100, capacity: 4096 };
        let mut segments = Vec::new();
        segment(&mut port, &packet, &parsed, mss, &mut segments).unwrap();
        let mut stream = Vec::new();
        for frame in &segments {
            assert_valid(frame.bytes(), spec.framing);
            let packet = sliced(frame.bytes(), spec.framing);
            let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else {
                panic!("not TCP");
            };
            let at = tcp.sequence_number().wrapping_sub(spec.tcp.sequence_number);
            prop_assert_eq!(at as usize, stream.len());
            stream.extend_from_slice(tcp.payload());
        }
        prop_assert_eq!(stream, spec.payload);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        bytes in vec(any::<u8>(), 0..200),
        packet_len in 0..70_000usize,
        raw in prop::bool::ANY,
    ) {
        let framing = if raw { Framing::RawIp } else { Framing::Ethernet };
        if let Ok(parsed) = parse(&bytes, packet_len, framing) {
            prop_assert!(parsed.l3() <= parsed.l4() && parsed.l4() <= parsed.end() && parsed.end() <= packet_len);
        }
        reach_everything(&bytes, &[], framing, &some_translation());
    }

    /// With a right IPv4 header checksum, so that the mutation is seen by what comes after it.
    #[test]
    fn mutated_packets_do_no_harm(
        (spec, to) in packets(100),
        changes in vec((0..120usize, any::<u8>()), 0..4),
        len in 0..300usize,
        cut in 0..200usize,
    ) {
        let bytes = mutated(spec.bytes(), spec.framing, &changes, len);
        reach_everything(&bytes, &[], spec.framing, &to);
        reach_everything(&bytes, &[cut], spec.framing, &to);
    }

    /// And takes none that has a defect. Every packet that is not cut is plain but for IPv6 and options.
    #[test]
    fn the_short_way_through_the_parser_ends_where_the_long_one_does(
        (spec, _) in packets(100),
        changes in vec((0..60usize, any::<u8>()), 0..3),
        len in prop_oneof![Just(1000), 0..100usize],
        padding in 0..20usize,
    ) {
        let bytes = mutated(spec.bytes(), spec.framing, &changes, len);
        let packet_len = bytes.len() + padding;
        let (mut short, mut long) = (Parsed::EMPTY, Parsed::EMPTY);
        let is_plain = plain::parse(&mut short, &bytes, packet_len, spec.framing).is_some();
        let result = parse_any(&mut long, &bytes, packet_len, spec.framing);
        if is_plain {
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(short, long);
        }
        if changes.is_empty() && len == 1000 {
            prop_assert_eq!(is_plain, spec.source.is_ipv4() && spec.ipv4_options.is_empty());
        }
    }

    /// With a right message checksum, so that the mutation is seen by the parser of quotes.
    #[test]
    fn errors_about_mutated_packets_do_no_harm(
        (spec, to) in packets(100),
        changes in vec((0..120usize, any::<u8>()), 0..4),
        rest in prop_oneof![Just([0; 4]), any::<[u8; 4]>()],
        kind in 0..13u8,
        len in 0..300usize,
        cut in 0..200usize,
    ) {
        let quoted = Spec { framing: Framing::RawIp, ..spec.clone() };
        let quote = mutated(quoted.bytes(), Framing::RawIp, &changes, len);
        let [a, b, c, d] = rest;
        let header = [kind, 0, 0, 0, a, b, c, d];
        let bytes = icmp_error(spec.framing, spec.destination, spec.source, header, &quote);
        reach_everything(&bytes, &[], spec.framing, &to);
        reach_everything(&bytes, &[cut], spec.framing, &to);
    }
}

/// The packet with some bytes changed and cut to `len`.
pub(super) fn mutated(mut bytes: Vec<u8>, framing: Framing, changes: &[(usize, u8)], len: usize) -> Vec<u8> {
    for (at, value) in changes {
        if let Some(byte) = bytes.get_mut(*at) {
            *byte = *value;
        }
    }
    bytes.truncate(len);
    let l3 = framing.header_len();
    if bytes.len() >= l3 + 20 && bytes[l3] >> 4 == 4 {
        fix_ipv4_checksum(&mut bytes, l3);
    }
    bytes
}
