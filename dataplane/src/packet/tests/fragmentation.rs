//! Fragmentation of IPv4 packets, with etherparse as the receiver.

use etherparse::IpHeaders;
use proptest::prelude::*;
use vl3lb_common::{DropReason, Protocol};

use super::support::{Spec, VecFrame, VecPort, frames, parse_frames};
use crate::packet::{Framing, fragment, set_identification};
use crate::port::Frame;
use crate::testing::validate::assert_valid;

fn spec(framing: Framing, options: &[u8], length: usize) -> Spec {
    Spec {
        framing,
        ipv4_options: options.to_vec(),
        payload: (0..=250).cycle().take(length).collect(),
        ..Spec::request(Protocol::Udp)
    }
}

/// The bytes of a packet that may be fragmented, and its fragments, which are fragmented once more at `second`.
fn fragments_of(spec: &Spec, mtu: u16, second: Option<u16>) -> (Vec<u8>, Vec<VecFrame>) {
    let mut port = VecPort {
        free: 2_000,
        capacity: 4_096,
    };
    let mut packet = frames(&spec.bytes(), &[4_000; 17]);
    let parsed = parse_frames(&packet, spec.framing).unwrap();
    let head = packet[0].bytes_mut();
    let l3 = spec.framing.header_len();
    head[l3 + 6] &= !0x40;
    set_identification(head, &parsed, 0x9999).unwrap();
    let header = etherparse::Ipv4HeaderSlice::from_slice(&head[l3..])
        .unwrap()
        .to_header();
    head[l3 + 10..l3 + 12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    let parsed = parse_frames(&packet, spec.framing).unwrap();
    assert!(!parsed.dont_fragment);
    let whole = packet.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
    let mut out = Vec::new();
    fragment(&mut port, &packet, &parsed, mtu, &mut out).unwrap();
    let Some(second) = second else { return (whole, out) };
    let mut smaller = Vec::new();
    for piece in out {
        let piece = [piece];
        let parsed = parse_frames(&piece, spec.framing).unwrap();
        if parsed.ip_len() > second.into() {
            fragment(&mut port, &piece, &parsed, second, &mut smaller).unwrap();
        } else {
            smaller.extend(piece);
        }
    }
    (whole, smaller)
}

/// Puts the fragments together in their order, which has to be that of the bytes.
fn reassembled(fragments: &[VecFrame], framing: Framing, mtu: u16) -> Vec<u8> {
    let mut payload = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        assert_valid(fragment.bytes(), framing == Framing::Ethernet);
        let ip = &fragment.bytes()[framing.header_len()..];
        assert!(ip.len() <= usize::from(mtu), "{} bytes", ip.len());
        let (IpHeaders::Ipv4(header, _), piece) = IpHeaders::from_slice(ip).unwrap() else {
            panic!("not IPv4")
        };
        assert_eq!(header.identification, 0x9999);
        assert_eq!(usize::from(header.fragment_offset.value()) * 8, payload.len());
        assert_eq!(header.more_fragments, index + 1 < fragments.len());
        payload.extend_from_slice(piece.payload);
    }
    payload
}

proptest! {
    #[test]
    fn fragments_reassemble_to_the_packet(
        raw: bool,
        words in 0..10_usize,
        length in 1..9_000_usize,
        mtu in 100..1_500_u16,
        second in prop::option::of(68..1_400_u16),
    ) {
        let framing = if raw { Framing::RawIp } else { Framing::Ethernet };
        let spec = spec(framing, &vec![1; words * 4], length);
        let (whole, fragments) = fragments_of(&spec, mtu, second);
        let l4 = framing.header_len() + 20 + words * 4;
        let smallest = second.map_or(mtu, |second| second.min(mtu));
        prop_assert_eq!(&reassembled(&fragments, framing, smallest.max(28)), &whole[l4..]);
    }
}

/// RFC 791 section 3.1: those with the flag are in each fragment, the others in the first one only.
#[test]
fn later_fragments_have_the_options_that_are_copied() {
    // Router alert (148) is copied, record route (7) is not.
    let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0];
    let (_, fragments) = fragments_of(&spec(Framing::RawIp, &options, 3_000), 1_000, None);
    for (index, fragment) in fragments.iter().enumerate() {
        let bytes = fragment.bytes();
        let header = usize::from(bytes[0] & 0xf) * 4;
        let expected = if index == 0 { &options[..] } else { &options[8..] };
        assert_eq!(&bytes[20..header], expected, "fragment {index}");
    }
}

#[test]
fn all_frames_are_given_back_when_there_are_too_few() {
    let spec = spec(Framing::Ethernet, &[], 5_000);
    let packet = frames(&spec.bytes(), &[4_000; 2]);
    let parsed = parse_frames(&packet, spec.framing).unwrap();
    let mut out = Vec::new();
    let mut port = VecPort {
        free: 3,
        capacity: 4_096,
    };
    let verdict = fragment(&mut port, &packet, &parsed, 1_400, &mut out);
    assert_eq!(verdict, Err(DropReason::UmemExhausted));
    assert!(out.is_empty());
    assert_eq!(port.free, 3);
    // No room for payload; and IPv6.
    let verdict = fragment(&mut port, &packet, &parsed, 24, &mut out);
    assert_eq!(verdict, Err(DropReason::Internal));
    let spec = Spec::request_v6(Protocol::Udp);
    let packet = frames(&spec.bytes(), &[]);
    let parsed = parse_frames(&packet, spec.framing).unwrap();
    assert_eq!(
        fragment(&mut port, &packet, &parsed, 24, &mut out),
        Err(DropReason::Internal)
    );
    assert_eq!(port.free, 3);
}
