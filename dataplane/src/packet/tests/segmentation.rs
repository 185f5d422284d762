//! Cutting of TCP super-packets.

use etherparse::{NetSlice, TransportSlice};
use vl3lb_common::{DropReason, Protocol};

use super::support::{
    Spec, VecFrame, VecPort, assert_valid, frames, joined, make_partial, parse_frames, sliced, to_backend,
};
use crate::packet::{ChecksumPolicy, Framing, segment, translate};
use crate::port::Frame;

const PORT: VecPort = VecPort {
    free: 64,
    capacity: 4096,
};

/// A translated super-packet in frames of 4000 bytes, and its segments.
fn segments_of(spec: &Spec, mss: u16, port: &mut VecPort) -> Result<Vec<VecFrame>, DropReason> {
    let mut packet = frames(&spec.bytes(), &[4000; 17]);
    let parsed = parse_frames(&packet, spec.framing).unwrap();
    let mut out = vec![VecFrame::new(b"an earlier packet", 64)];
    let verdict = segment(port, &packet, &parsed, mss, &mut out);
    let earlier = out.remove(0);
    assert_eq!(earlier.bytes(), b"an earlier packet");
    assert_eq!(verdict.unwrap_or(0), out.len());
    packet.clear();
    verdict.map(|_| out)
}

fn super_packet(spec: Spec, len: usize) -> Spec {
    let mut spec = Spec {
        payload: (0..=250).cycle().take(len).collect(),
        ..spec
    };
    (spec.tcp.fin, spec.tcp.psh, spec.tcp.cwr, spec.tcp.ece) = (true, true, true, true);
    spec.tcp
        .set_options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8])
        .unwrap();
    spec
}

#[test]
fn segments_equal_those_of_a_sender_without_offloads() {
    for (spec, len, mss, count) in [
        (Spec::request(Protocol::Tcp), 64000, 1448, 45),
        (Spec::request_v6(Protocol::Tcp), 64000, 1428, 45),
        (Spec::request(Protocol::Tcp), 2896, 1448, 2),
        (Spec::request(Protocol::Tcp), 2897, 1448, 3),
        (Spec::request(Protocol::Tcp), 1448, 1448, 1),
        (Spec::request(Protocol::Tcp), 0, 1448, 1),
        (
            Spec {
                framing: Framing::RawIp,
                ipv4_options: vec![1; 8],
                ..Spec::request(Protocol::Tcp)
            },
            10001,
            536,
            19,
        ),
    ] {
        let spec = super_packet(spec, len);
        let segments = segments_of(&spec, mss, &mut { PORT }).unwrap();
        assert_eq!(segments.len(), count);
        let mut payload = Vec::new();
        for (index, frame) in segments.iter().enumerate() {
            assert!(!frame.continues());
            assert_valid(frame.bytes(), spec.framing);
            let packet = sliced(frame.bytes(), spec.framing);
            let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
                panic!("not TCP");
            };
            let (first, last) = (index == 0, index == count - 1);
            let offset = u32::try_from(payload.len()).unwrap();
            assert_eq!(
                tcp.sequence_number(),
                spec.tcp.sequence_number.wrapping_add(offset)
            );
            assert_eq!(tcp.acknowledgment_number(), spec.tcp.acknowledgment_number);
            assert_eq!((tcp.fin(), tcp.psh()), (last, last), "segment {index}");
            assert_eq!((tcp.cwr(), tcp.ece()), (first, true), "segment {index}");
            assert_eq!(tcp.options(), spec.tcp.options.as_slice());
            if let Some(NetSlice::Ipv4(ip)) = packet.net {
                let id = 0xfffe_u16.wrapping_add(u16::try_from(index).unwrap());
                assert_eq!(ip.header().identification(), id);
            }
            assert!(tcp.payload().len() == usize::from(mss) || last);
            payload.extend_from_slice(tcp.payload());
        }
        assert_eq!(payload, spec.payload);
    }
}

#[test]
fn segments_are_never_longer_than_a_frame() {
    let spec = super_packet(Spec::request(Protocol::Tcp), 20_000);
    let mut payload = Vec::new();
    for frame in segments_of(&spec, 8948, &mut { PORT }).unwrap() {
        assert!(frame.bytes().len() <= PORT.capacity);
        assert_valid(frame.bytes(), spec.framing);
        let packet = sliced(frame.bytes(), spec.framing);
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("not TCP");
        };
        payload.extend_from_slice(tcp.payload());
    }
    assert_eq!(payload, spec.payload);
}

#[test]
fn translated_super_packet_with_a_partial_checksum_is_segmented() {
    let spec = super_packet(Spec::request(Protocol::Tcp), 9001);
    let mut bytes = spec.bytes();
    let parsed = parse_frames(&frames(&bytes, &[]), spec.framing).unwrap();
    make_partial(&mut bytes, &parsed, Protocol::Tcp);
    let mut packet = frames(&bytes, &[4001, 4001]);
    translate(&mut packet, &parsed, &to_backend(), ChecksumPolicy::Later).unwrap();
    let mut segments = Vec::new();
    assert_eq!(
        segment(&mut { PORT }, &packet, &parsed, 1448, &mut segments),
        Ok(7)
    );
    for frame in &segments {
        assert_valid(frame.bytes(), spec.framing);
        let translated = spec.translated(&to_backend()).bytes();
        assert_eq!(frame.bytes()[26..38], translated[26..38], "addresses and ports");
    }
}

#[test]
fn all_frames_are_given_back_when_there_are_too_few() {
    let spec = super_packet(Spec::request(Protocol::Tcp), 14480);
    for free in 0..10 {
        let mut port = VecPort { free, ..PORT };
        assert_eq!(
            segments_of(&spec, 1448, &mut port),
            Err(DropReason::UmemExhausted)
        );
        assert_eq!(port.free, free);
    }
    let mut port = VecPort { free: 10, ..PORT };
    assert_eq!(segments_of(&spec, 1448, &mut port).unwrap().len(), 10);
}

#[test]
fn packets_that_cannot_be_segmented_keep_no_frame() {
    let base = || super_packet(Spec::request(Protocol::Tcp), 3000);
    let mut syn = base();
    syn.tcp.syn = true;
    let mut reset = base();
    reset.tcp.rst = true;
    for (description, spec, mss, reason) in [
        ("SYN", syn, 1448, DropReason::MtuExceeded),
        ("RST", reset, 1448, DropReason::MtuExceeded),
        ("UDP", Spec::request(Protocol::Udp), 1448, DropReason::Internal),
        ("MSS 0", base(), 0, DropReason::Internal),
    ] {
        let mut port = PORT;
        assert_eq!(segments_of(&spec, mss, &mut port), Err(reason), "{description}");
        assert_eq!(port.free, PORT.free, "{description}");
    }

    // Headers leave no room in a frame.
    let mut port = VecPort { capacity: 60, ..PORT };
    assert_eq!(segments_of(&base(), 1448, &mut port), Err(DropReason::Internal));
    assert_eq!(port.free, PORT.free);

    // A frame is missing.
    let packet = frames(&base().bytes(), &[2000]);
    let parsed = parse_frames(&packet, Framing::Ethernet).unwrap();
    let (mut port, mut out) = (PORT, Vec::new());
    let verdict = segment(&mut port, &packet[..1], &parsed, 1448, &mut out);
    assert_eq!(
        (verdict, out.len(), port.free),
        (Err(DropReason::Internal), 0, PORT.free)
    );
    assert_eq!(joined(&packet).len(), parsed.end());
}
