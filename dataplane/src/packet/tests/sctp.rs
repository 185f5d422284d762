//! SCTP: reading, checking and completing packets, and the answers of a host that knows no association.

use proptest::prelude::*;
use vl3lb_common::DropReason;
use vl3lb_common::DropReason::{BadChecksum, Malformed, SctpFragment};

use crate::packet::{
    self, ChecksumPolicy, Framing, Parsed, SctpAbort, SctpChunks, SctpPacket, Translation, Transport,
    check_sctp, parse, reject_with_sctp_abort, sctp_packet, seal_sctp, translate, write_sctp_abort,
};
use crate::port::Frame;
use crate::testing::builder::{Addresses, fragments};
use crate::testing::sctp::{chunk, chunks, crc32c, init, parameter, sctp};
use crate::testing::validate::{assert_valid, validate};
use crate::testing::{CHUNK, MemFrame, frame, frames_of};
use vl3lb_common::addr::to_octets;

const IPV4_ADDRESS: u16 = 5;
const IPV6_ADDRESS: u16 = 6;
const STATE_COOKIE: u16 = 7;
const PADDING: u16 = 0x8005;

/// Description, tag and chunks of a packet; kinds of chunks, initiate tag and T bit as they are read.
type Reading = (&'static str, u32, Vec<u8>, u16, u32, bool);
/// Type and flags of the only chunk, and the tag.
type Answer = Option<(u8, u8, u32)>;

fn both() -> [Addresses; 2] {
    [
        Addresses::ethernet("172.16.1.100:40000", "172.16.1.103:8080"),
        Addresses::raw("[2001:db8::64]:40000", "[2001:db8::67]:8080"),
    ]
}

fn parsed(packet: &[MemFrame], ethernet: bool) -> Result<Parsed, DropReason> {
    let framing = if ethernet {
        Framing::Ethernet
    } else {
        Framing::RawIp
    };
    let length = packet.iter().map(|frame| frame.bytes().len()).sum();
    parse(packet[0].bytes(), length, framing)
}

fn read(addresses: Addresses, tag: u32, chunks: &[u8]) -> Result<SctpPacket, DropReason> {
    let packet = [frame(&sctp(addresses, tag, chunks))];
    let parsed = parsed(&packet, addresses.macs.is_some())?;
    sctp_packet(&packet, &parsed)
}

fn bytes(packet: &[MemFrame]) -> Vec<u8> {
    packet.iter().flat_map(|frame| frame.bytes().to_vec()).collect()
}

fn transport(packet: &[u8], ethernet: bool) -> &[u8] {
    &packet[if ethernet { 34 } else { 40 }..]
}

#[test]
fn what_a_packet_says_about_its_association_is_read() {
    use SctpChunks as Kind;
    let sack = chunk(3, 0, &[0; 12]);
    let cases: [Reading; 11] = [
        ("INIT", 0, init(chunks::INIT, 7, &[]), Kind::INIT, 7, false),
        (
            "INIT with parameters",
            0,
            init(
                chunks::INIT,
                7,
                &[parameter(12, &[0, 5]), parameter(0x8000, &[])].concat(),
            ),
            Kind::INIT,
            7,
            false,
        ),
        (
            "INIT ACK",
            7,
            init(chunks::INIT_ACK, 9, &[]),
            Kind::INIT_ACK,
            9,
            false,
        ),
        (
            "COOKIE ECHO with data",
            9,
            [
                chunk(chunks::COOKIE_ECHO, 0, b"cookie"),
                chunk(chunks::DATA, 3, &[0; 13]),
            ]
            .concat(),
            Kind::COOKIE_ECHO | Kind::OTHER,
            0,
            false,
        ),
        (
            "COOKIE ACK",
            7,
            chunk(chunks::COOKIE_ACK, 0, &[]),
            Kind::COOKIE_ACK,
            0,
            false,
        ),
        (
            "SACK and SHUTDOWN",
            9,
            [sack.clone(), chunk(chunks::SHUTDOWN, 0, &[0; 4])].concat(),
            Kind::OTHER | Kind::SHUTDOWN,
            0,
            false,
        ),
        (
            "SHUTDOWN ACK",
            7,
            chunk(chunks::SHUTDOWN_ACK, 0, &[]),
            Kind::SHUTDOWN_ACK,
            0,
            false,
        ),
        (
            "SHUTDOWN COMPLETE",
            9,
            chunk(chunks::SHUTDOWN_COMPLETE, 0, &[]),
            Kind::SHUTDOWN_COMPLETE,
            0,
            false,
        ),
        (
            "ABORT with the T bit",
            9,
            chunk(chunks::ABORT, 1, &[]),
            Kind::ABORT,
            0,
            true,
        ),
        (
            "a flag of another chunk is no T bit",
            9,
            chunk(chunks::DATA, 1, &[0; 13]),
            Kind::OTHER,
            0,
            false,
        ),
        // Type 1 + 16 is not INIT.
        ("an unknown chunk", 9, chunk(17, 0, &[]), Kind::OTHER, 0, false),
    ];
    for addresses in both() {
        for (what, tag, chunks, kinds, initiate_tag, is_reflected) in &cases {
            let expected = SctpPacket {
                tag: *tag,
                chunks: SctpChunks(*kinds),
                initiate_tag: *initiate_tag,
                is_reflected: *is_reflected,
            };
            assert_eq!(read(addresses, *tag, chunks), Ok(expected), "{what}");
        }
    }
}

#[test]
fn packets_that_contradict_themselves_are_malformed() {
    let mut short = chunk(chunks::DATA, 3, &[0; 13]);
    short[3] = 3;
    let mut long = chunk(chunks::DATA, 3, &[0; 13]);
    long[3] = 40;
    let mut parameters = init(chunks::INIT, 7, &parameter(STATE_COOKIE, &[1; 8]));
    parameters[23] = 20;
    let cases: [(&str, u32, Vec<u8>); 12] = [
        ("no chunk", 9, Vec::new()),
        ("half a chunk header", 9, vec![0, 3]),
        ("a chunk shorter than its header", 9, short),
        ("a chunk longer than the packet", 9, long),
        ("INIT with a tag", 9, init(chunks::INIT, 7, &[])),
        ("no INIT, no tag", 0, chunk(chunks::DATA, 3, &[0; 13])),
        ("INIT that offers the tag 0", 0, init(chunks::INIT, 0, &[])),
        (
            "INIT that is cut",
            0,
            chunk(chunks::INIT, 0, &init(chunks::INIT, 7, &[])[4..16]),
        ),
        (
            "INIT with others",
            0,
            [init(chunks::INIT, 7, &[]), chunk(chunks::DATA, 3, &[0; 13])].concat(),
        ),
        (
            "INIT ACK with others",
            9,
            [init(chunks::INIT_ACK, 7, &[]), chunk(chunks::ABORT, 0, &[])].concat(),
        ),
        (
            "SHUTDOWN COMPLETE with others",
            9,
            [
                chunk(chunks::SHUTDOWN_COMPLETE, 0, &[]),
                chunk(chunks::ABORT, 0, &[]),
            ]
            .concat(),
        ),
        ("a parameter longer than its INIT", 0, parameters),
    ];
    for addresses in both() {
        for (what, tag, chunks) in &cases {
            assert_eq!(read(addresses, *tag, chunks), Err(Malformed), "{what}");
        }
    }
}

#[test]
fn a_packet_without_a_whole_header_is_malformed_and_a_fragment_is_refused() {
    for addresses in both() {
        let ethernet = addresses.macs.is_some();
        let whole = sctp(addresses, 9, &chunk(chunks::DATA, 3, &[7; 100]));
        let cut = crate::testing::builder::ip(
            addresses,
            etherparse::IpNumber::SCTP,
            &transport(&whole, ethernet)[..11],
        );
        assert_eq!(parsed(&[frame(&cut)], ethernet), Err(Malformed));
        for fragment in fragments(&whole, ethernet, 48, 9) {
            assert_eq!(parsed(&[frame(&fragment)], ethernet), Err(SctpFragment));
        }
    }
}

/// Both the checksum of the whole packet and each address are wrong, or neither is.
#[test]
fn listed_addresses_become_padding_and_the_checksum_holds() {
    for addresses in both() {
        let ethernet = addresses.macs.is_some();
        for kind in [chunks::INIT, chunks::INIT_ACK] {
            let parameters = |v4, v6| {
                [
                    parameter(STATE_COOKIE, b"cookie of odd length"),
                    parameter(v4, &[10, 0, 0, 1]),
                    parameter(v6, &[0x20; 16]),
                    parameter(0x8000, &[]),
                    parameter(v4, &[10, 0, 0, 2]),
                ]
                .concat()
            };
            let tag = if kind == chunks::INIT { 0 } else { 9 };
            let listed = init(kind, 7, &parameters(IPV4_ADDRESS, IPV6_ADDRESS));
            let hidden = init(kind, 7, &parameters(PADDING, PADDING));
            let mut packet = [frame(&sctp(addresses, tag, &listed))];
            let parsed = parsed(&packet, ethernet).unwrap();
            let read = sctp_packet(&packet, &parsed).unwrap();
            seal_sctp(&mut packet, &parsed, &read).unwrap();
            assert_eq!(bytes(&packet), sctp(addresses, tag, &hidden));
        }
    }
}

#[test]
fn a_wrong_checksum_is_seen_and_none_is_filled_in() {
    for addresses in both() {
        let ethernet = addresses.macs.is_some();
        let whole = sctp(addresses, 9, &chunk(chunks::DATA, 3, &[7; 100]));
        let at = whole.len() - transport(&whole, ethernet).len();
        for byte in at..whole.len() {
            let mut changed = whole.clone();
            changed[byte] ^= 0x10;
            let packet = [frame(&changed)];
            let parsed = parsed(&packet, ethernet).unwrap();
            assert_eq!(check_sctp(&packet, &parsed), Err(BadChecksum), "byte {byte}");
        }
        let mut unfinished = whole.clone();
        unfinished[at + 8..at + 12].fill(0);
        let mut packet = [frame(&unfinished)];
        let parsed = parsed(&packet, ethernet).unwrap();
        assert_eq!(check_sctp(&packet, &parsed), Ok(()));
        let read = sctp_packet(&packet, &parsed).unwrap();
        seal_sctp(&mut packet, &parsed, &read).unwrap();
        assert_eq!(bytes(&packet), whole);
    }
}

fn translation(family_of: Addresses) -> Translation {
    let (source, destination) = if family_of.source.is_ipv4() {
        ("172.16.1.103", "172.16.1.2")
    } else {
        ("2001:db8::67", "2001:db8::2")
    };
    Translation {
        source: to_octets(source.parse().unwrap()),
        destination: to_octets(destination.parse().unwrap()),
        source_port: 20_001,
        destination_port: 8081,
    }
}

proptest! {
    /// However a packet is spread over frames, it is checked, read and translated as in one.
    #[test]
    fn packets_in_several_frames_are_translated_as_in_one(
        data in prop::collection::vec(any::<u8>(), 1..3000),
        cuts in prop::collection::vec(60_usize..2000, 0..4),
        v6 in any::<bool>(),
    ) {
        let addresses = both()[usize::from(v6)];
        let ethernet = addresses.macs.is_some();
        let small = chunk(chunks::DATA, 3, &data[..data.len().min(9)]);
        let whole = sctp(addresses, 9, &[small, chunk(chunks::DATA, 3, &data)].concat());
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut < whole.len()).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut packet = Vec::new();
        let mut from = 0;
        for to in cuts.into_iter().chain([whole.len()]) {
            prop_assume!(to - from <= CHUNK / 2);
            packet.push(frame(&whole[from..to]));
            from = to;
        }
        let parsed = parsed(&packet, ethernet).unwrap();
        let is_sctp = matches!(parsed.transport, Transport::Sctp { .. });
        prop_assert!(is_sctp);
        prop_assert_eq!(check_sctp(&packet, &parsed), Ok(()));
        let read = sctp_packet(&packet, &parsed).unwrap();
        prop_assert_eq!(read.chunks, SctpChunks(SctpChunks::OTHER));
        translate(&mut packet, &parsed, &translation(addresses), ChecksumPolicy::Update).unwrap();
        prop_assert!(validate(&bytes(&packet), ethernet).is_err(), "not yet sealed");
        seal_sctp(&mut packet, &parsed, &read).unwrap();
        assert_valid(&bytes(&packet), ethernet);
    }

    /// Any bytes behind the common header are read or refused.
    #[test]
    fn any_chunks_are_read_or_refused(tag in any::<u32>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for addresses in both() {
            let mut packet = [frame(&sctp(addresses, tag, &bytes))];
            let parsed = parsed(&packet, addresses.macs.is_some()).unwrap();
            if let Ok(read) = sctp_packet(&packet, &parsed) {
                seal_sctp(&mut packet, &parsed, &read).unwrap();
                assert_valid(packet[0].bytes(), addresses.macs.is_some());
            }
            if reject_with_sctp_abort(&mut packet, &parsed).is_ok() {
                assert_valid(packet[0].bytes(), addresses.macs.is_some());
            }
        }
    }
}

/// RFC 9260 section 8.4.
#[test]
fn packets_of_no_association_are_answered_as_the_rfc_says() {
    let data = chunk(chunks::DATA, 3, &[0; 13]);
    let cases: [(&str, u32, Vec<u8>, Answer); 9] = [
        ("DATA", 9, data.clone(), Some((chunks::ABORT, 1, 9))),
        ("INIT", 0, init(chunks::INIT, 7, &[]), Some((chunks::ABORT, 0, 7))),
        (
            "INIT ACK",
            9,
            init(chunks::INIT_ACK, 7, &[]),
            Some((chunks::ABORT, 1, 9)),
        ),
        (
            "COOKIE ECHO",
            9,
            chunk(chunks::COOKIE_ECHO, 0, b"cookie"),
            Some((chunks::ABORT, 1, 9)),
        ),
        (
            "SHUTDOWN ACK",
            9,
            chunk(chunks::SHUTDOWN_ACK, 0, &[]),
            Some((chunks::SHUTDOWN_COMPLETE, 1, 9)),
        ),
        ("ABORT", 9, chunk(chunks::ABORT, 0, &[]), None),
        (
            "ERROR and ABORT",
            9,
            [chunk(9, 0, &[0, 1, 0, 4]), chunk(chunks::ABORT, 0, &[])].concat(),
            None,
        ),
        (
            "SHUTDOWN COMPLETE",
            9,
            chunk(chunks::SHUTDOWN_COMPLETE, 0, &[]),
            None,
        ),
        ("COOKIE ACK", 9, chunk(chunks::COOKIE_ACK, 0, &[]), None),
    ];
    for addresses in both() {
        let ethernet = addresses.macs.is_some();
        for (what, tag, sent, expected) in &cases {
            let original = sctp(addresses, *tag, sent);
            let mut packet = [frame(&original)];
            let parsed = parsed(&packet, ethernet).unwrap();
            let rejected = reject_with_sctp_abort(&mut packet, &parsed);
            let Some((kind, flags, tag)) = *expected else {
                assert_eq!(rejected, Err(DropReason::NotInit), "{what}");
                assert_eq!(packet[0].bytes(), original, "{what}");
                continue;
            };
            assert_eq!(rejected, Ok(()), "{what}");
            assert_valid(packet[0].bytes(), ethernet);
            let answer = sctp(addresses.reversed(), tag, &chunk(kind, flags, &[]));
            assert_eq!(
                transport(packet[0].bytes(), ethernet),
                transport(&answer, ethernet),
                "{what}"
            );
            assert_eq!(packet[0].bytes()[..14], answer[..14], "{what}");
        }
    }
}

#[test]
fn an_abort_in_the_name_of_the_other_end_has_its_tag() {
    for addresses in both() {
        let framing = if addresses.macs.is_some() {
            Framing::Ethernet
        } else {
            Framing::RawIp
        };
        let mut frame = frames_of(&[0; 64], 64).remove(0);
        let fields = SctpAbort {
            source: to_octets(addresses.source.ip()),
            destination: to_octets(addresses.destination.ip()),
            source_port: addresses.source.port(),
            destination_port: addresses.destination.port(),
            tag: 9,
        };
        write_sctp_abort(&mut frame, framing, &fields).unwrap();
        let ethernet = framing == Framing::Ethernet;
        assert_valid(frame.bytes(), ethernet);
        let abort = sctp(addresses, 9, &chunk(chunks::ABORT, 0, &[]));
        assert_eq!(transport(frame.bytes(), ethernet), transport(&abort, ethernet));
    }
}

/// The same bytes by the crate of the packet path and by the tests' own arithmetic.
#[test]
fn both_checksums_are_the_same() {
    for length in 0..200_usize {
        let bytes: Vec<u8> = (0..length).map(|n| (n * 37 + length).to_le_bytes()[0]).collect();
        assert_eq!(::crc32c::crc32c(&bytes), crc32c(&bytes));
    }
}

#[test]
fn a_quoted_packet_gets_its_own_ports_back_and_keeps_its_checksum() {
    for addresses in both() {
        let ethernet = addresses.macs.is_some();
        let link = if ethernet { 14 } else { 0 };
        // As the balancer has sent it to a backend.
        let sent = Addresses {
            source: addresses.destination,
            destination: addresses.source,
            ..addresses
        };
        let quoted = sctp(sent, 9, &chunk(chunks::DATA, 3, &[0; 40]));
        let kind = if ethernet { (3, 1) } else { (1, 3) };
        for cut in [8, quoted.len()] {
            let end = (quoted.len() - transport(&quoted, ethernet).len() + cut).min(quoted.len());
            let error = crate::testing::builder::icmp_error(addresses, kind.0, kind.1, 0, &quoted[link..end]);
            let mut packet = frame(&error);
            let parsed = parsed(std::slice::from_ref(&packet), ethernet).unwrap();
            let read = packet::parse_quote(packet.bytes(), &parsed).unwrap();
            let inner = translation(sent);
            packet::translate_error(
                packet.bytes_mut(),
                &parsed,
                &read,
                inner.destination,
                inner.source,
                &inner,
            )
            .unwrap();
            assert_valid(packet.bytes(), ethernet);
            let back = &packet.bytes()[read.l4..];
            assert_eq!(back[..4], [0x4e, 0x21, 0x1f, 0x91]);
            assert_eq!(
                back[4..],
                transport(&quoted, ethernet)[4..cut.min(transport(&quoted, ethernet).len())]
            );
        }
    }
}
