//! What came out for one whole packet, put together as its receiver does: segments, or fragments.

use etherparse::TcpHeader;
use vl3lb_common::Protocol;

use super::network::Network;
use super::piece::Piece;
use super::seen::{Seen, addresses_of};
use crate::packet::Framing;
use crate::testing::builder::{self, Addresses, flags};

/// The packet that the receiver has in the end, which is valid if the sender's was. `None` if nothing came out, or something else than TCP or UDP.
///
/// # Panics
/// When a part is longer than the next hop takes, or the parts do not fit together.
pub(super) fn whole(network: &Network, out: &[Vec<u8>], is_valid: bool) -> Option<Seen> {
    let ethernet = network.framing == Framing::Ethernet;
    for packet in out {
        let (_, to) = addresses_of(packet, ethernet).expect("checked");
        let length = ip_len(&packet[network.framing.header_len()..]);
        let mtu = usize::from(network.mtu_towards(to));
        assert!(length <= mtu, "{length} bytes to {to}, whose MTU is {mtu}");
    }
    let pieces: Vec<_> = out
        .iter()
        .filter_map(|packet| Piece::of(packet, ethernet))
        .collect();
    if !pieces.is_empty() {
        assert_eq!(pieces.len(), out.len(), "fragments and whole packets: {out:02x?}");
        return Some(reassembled(pieces, is_valid));
    }
    let mut segments = out.iter().map(|packet| Seen::of(packet, ethernet));
    let first = segments.next()??;
    Some(segments.fold(first, |whole, next| {
        joined(whole, next.expect("a segment like the first one"))
    }))
}

/// Length of an IP packet, behind which a frame may have other bytes.
fn ip_len(packet: &[u8]) -> usize {
    let field = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 {
        field(2)
    } else {
        40 + field(4)
    }
}

/// A segment and the one that follows it.
fn joined(mut whole: Seen, next: Seen) -> Seen {
    let last_only = flags::FIN | flags::PSH;
    let content = &mut whole.content;
    let length = u32::try_from(content.payload.len()).expect("short");
    assert_eq!(
        (next.source, next.destination, next.ttl),
        (whole.source, whole.destination, whole.ttl)
    );
    assert_eq!(next.content.sequence, content.sequence.wrapping_add(length));
    assert_eq!(next.content.acknowledgment, content.acknowledgment);
    assert_eq!(next.content.options, content.options);
    assert_eq!(
        content.flags & last_only,
        0,
        "{last_only:#x} belongs to the last segment"
    );
    // RFC 3168 section 6.1.2: once.
    assert_eq!(next.content.flags & !last_only, content.flags & !flags::CWR);
    content.flags = content.flags & flags::CWR | next.content.flags;
    content.payload.extend(next.content.payload);
    whole
}

fn reassembled(mut pieces: Vec<Piece>, is_valid: bool) -> Seen {
    pieces.sort_by_key(|piece| piece.offset);
    let name = pieces[0].name;
    let mut datagram = Vec::new();
    let count = pieces.len();
    for (number, piece) in pieces.iter().enumerate() {
        assert_eq!(piece.name, name);
        assert_eq!(piece.offset, datagram.len(), "a gap or an overlap");
        assert_eq!(piece.more, number + 1 < count);
        datagram.extend_from_slice(&piece.payload);
    }
    let (source, destination) = pieces[0].sockets().expect("the first one");
    let addresses = Addresses {
        macs: None,
        source,
        destination,
        ttl: pieces[0].ttl,
    };
    // A second packet of the same content has the same checksum.
    let packet = match name.protocol {
        // What is behind the end of the datagram by its own length is nobody's.
        Protocol::Udp => {
            let end = usize::from(u16::from_be_bytes([datagram[4], datagram[5]]));
            builder::udp(addresses, datagram.get(8..end).unwrap_or_else(|| &datagram[8..]))
        }
        Protocol::Tcp => {
            let (header, payload) = TcpHeader::from_slice(&datagram).expect("a whole header");
            let options: Vec<_> = header.options_iterator().flatten().collect();
            let tcp = builder::Tcp {
                flags: datagram[13],
                sequence: header.sequence_number,
                acknowledgment: header.acknowledgment_number,
                options: &options,
            };
            builder::tcp(addresses, &tcp, payload)
        }
        Protocol::Sctp => panic!("no fragment of it goes on"),
    };
    if is_valid {
        assert!(packet.ends_with(&datagram), "{packet:02x?} and {datagram:02x?}");
    }
    Seen::of(&packet, false).expect("made here")
}
