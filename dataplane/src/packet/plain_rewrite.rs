//! A shorter way through [`translate`](super::translate()) for plain packets: IPv4 without options, no fragment, in one
//! frame, with a complete checksum. IP and transport header are one array, so all their fields are at constant offsets.

use vl3lb_common::Protocol;

use super::checksum::{Delta, Sum};
use super::field::{checksum_offset, ipv4, ports, put, tcp, udp, unmapped, word};
use super::parse::{Family, Parsed, Transport};
use super::rewrite::{Translation, updated_transport_checksum};

/// Bytes of both headers of a plain packet: of UDP, and of TCP without its options.
pub(crate) const UDP: usize = ipv4::HEADER_LEN + udp::HEADER_LEN;
pub(crate) const TCP: usize = ipv4::HEADER_LEN + tcp::HEADER_LEN;

/// One hop in the word of the IPv4 header that has the hop limit.
const ONE_HOP: u16 = u16::from_ne_bytes([1, 0]);

/// [`translate`](super::translate()) for a packet in one frame that was parsed as plain. False, and nothing has changed, if
/// its checksum is partial.
#[inline(always)]
pub(super) fn translate(head: &mut [u8], parsed: &Parsed, to: &Translation) -> bool {
    let l3 = parsed.l3();
    let translated = if let Transport::Udp { .. } = parsed.transport {
        PlainHeaders::<UDP>::complete(head, l3).map(|headers| headers.translate(to))
    } else {
        PlainHeaders::<TCP>::complete(head, l3).map(|headers| headers.translate(to))
    };
    translated.is_some()
}

/// The length of the IPv4 header as a word of the checksum.
const HEADER_WORD: u16 = u16::from_ne_bytes([0, 20]);

/// The headers of a plain packet, [`UDP`] or [`TCP`] bytes.
#[derive(Debug)]
pub(crate) struct PlainHeaders<'a, const N: usize> {
    headers: &'a mut [u8; N],
    /// The sum of the addresses.
    addresses: Sum,
}

impl<'a, const N: usize> PlainHeaders<'a, N> {
    const PROTOCOL: Protocol = match N {
        UDP => Protocol::Udp,
        TCP => Protocol::Tcp,
        _ => panic!("the headers of UDP or TCP"),
    };

    /// The headers from `l3` on of a packet that was parsed as plain. `None` if its transport checksum is partial, or seems
    /// to be: it is to be completed.
    #[inline(always)]
    pub(crate) fn complete(head: &'a mut [u8], l3: usize) -> Option<Self> {
        let headers: &mut [u8; N] = head.get_mut(l3..l3.wrapping_add(N))?.first_chunk_mut()?;
        let addresses = pair(headers);
        // As in memory, which spares the swap of bytes. 20 is taken off in ones' complement.
        let length = match Self::PROTOCOL {
            Protocol::Tcp | Protocol::Sctp => Sum::of_words(word(headers, ipv4::TOTAL_LENGTH), !HEADER_WORD),
            Protocol::Udp => Sum::of_words(word(headers, ipv4::HEADER_LEN + udp::LENGTH), 0),
        };
        let protocol = Sum::of_words(u16::from(Self::PROTOCOL.number()).to_be(), 0);
        let pseudo_header = addresses.plus(protocol).plus(length);
        let is_partial = word(headers, Self::checksum_at()) == pseudo_header.folded();
        (!is_partial).then_some(Self { headers, addresses })
    }

    /// The same as [`translate`](super::translate()). The caller has checked the hop limit.
    #[inline(always)]
    pub(crate) fn translate(self, to: &Translation) {
        let Self { headers, addresses } = self;
        let new = Sum::of_addresses(Family::V4, &to.source, &to.destination);
        let delta = Delta::default().addresses(addresses, new);
        put(headers, ipv4::SOURCE, unmapped(to.source));
        put(headers, ipv4::DESTINATION, unmapped(to.destination));
        let hops = word(headers, ipv4::TTL).wrapping_sub(ONE_HOP);
        put(headers, ipv4::TTL, hops.to_ne_bytes());
        let checksum = delta.word(ONE_HOP, 0).apply(word(headers, ipv4::CHECKSUM));
        put(headers, ipv4::CHECKSUM, checksum.to_ne_bytes());

        let at = ipv4::HEADER_LEN + ports::SOURCE;
        let before = [headers[at], headers[at + 1], headers[at + 2], headers[at + 3]];
        let after = (u32::from(to.source_port) << 16 | u32::from(to.destination_port)).to_be_bytes();
        put(headers, at, after);
        let delta = delta.ports(before, after);
        let at = Self::checksum_at();
        let field = updated_transport_checksum(word(headers, at), Self::PROTOCOL, delta);
        put(headers, at, field.to_ne_bytes());
    }

    const fn checksum_at() -> usize {
        ipv4::HEADER_LEN + checksum_offset(Self::PROTOCOL)
    }
}

/// The sum of source and destination, which are next to each other.
#[inline(always)]
fn pair<const N: usize>(headers: &[u8; N]) -> Sum {
    let mut both = [0; 8];
    both.copy_from_slice(&headers[ipv4::SOURCE..ipv4::HEADER_LEN]);
    Sum::of_header(&both)
}
