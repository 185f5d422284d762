//! Frames that are made or reflected here: UDP and TCP over IPv4 and IPv6, with or without an Ethernet header.

pub(crate) mod checksum;
pub(crate) mod reflect;
pub(crate) mod template;

use vl3lb_dataplane::Framing;

pub(crate) const UDP: u8 = 17;
pub(crate) const TCP: u8 = 6;

pub(crate) const UDP_HEADER: usize = 8;
pub(crate) const TCP_HEADER: usize = 20;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// TCP flags (RFC 9293 section 3.1).
pub(crate) mod flags {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
}

/// Where the parts of a frame are. All of them lie within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The addresses: source, then destination, of `address_len` bytes each.
    pub(crate) addresses: usize,
    pub(crate) address_len: usize,
    /// The transport header.
    pub(crate) transport: usize,
    pub(crate) protocol: u8,
    /// The payload.
    pub(crate) payload: usize,
    /// Behind the packet; padding may follow.
    pub(crate) end: usize,
}

impl Layout {
    /// Finds the parts of a UDP or TCP packet. `None` for other packets, fragments, truncated packets, and packets with
    /// IPv6 extension headers. Checksums are not checked.
    #[inline]
    pub(crate) fn of(frame: &[u8], framing: Framing) -> Option<Self> {
        let ip = framing.header_len();
        let first = *frame.get(ip)?;
        let (addresses, address_len, transport, protocol, end) = match first >> 4 {
            4 => {
                let header: &[u8; IPV4_HEADER] = frame.get(ip..)?.first_chunk()?;
                // All but "don't fragment".
                if be16(header, 6) & 0x3fff != 0 {
                    return None;
                }
                let header_len = usize::from(first & 0xf) * 4;
                if header_len < IPV4_HEADER {
                    return None;
                }
                let end = ip + usize::from(be16(header, 2));
                (ip + 12, 4, ip + header_len, header[9], end)
            }
            6 => {
                let header: &[u8; IPV6_HEADER] = frame.get(ip..)?.first_chunk()?;
                let transport = ip + IPV6_HEADER;
                let end = transport + usize::from(be16(header, 4));
                (ip + 8, 16, transport, header[6], end)
            }
            _ => return None,
        };
        let header_len = match protocol {
            UDP => UDP_HEADER,
            TCP => usize::from(frame.get(transport + 12)? >> 4) * 4,
            _ => return None,
        };
        let least = if protocol == TCP { TCP_HEADER } else { UDP_HEADER };
        let payload = transport + header_len;
        (header_len >= least && payload <= end && end <= frame.len()).then_some(Self {
            addresses,
            address_len,
            transport,
            protocol,
            payload,
            end,
        })
    }

    /// Where the transport checksum is.
    #[inline]
    pub(crate) const fn checksum(&self) -> usize {
        self.transport + if self.protocol == TCP { 16 } else { 6 }
    }
}

/// A number of two bytes at `at`, in network order.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A number of four bytes at `at`, in network order.
#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes `value` at `at`.
#[inline]
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vl3lb_dataplane::testing::builder::{Addresses, Tcp, tcp, udp};

    use super::*;

    #[test]
    fn the_parts_of_packets_are_found() {
        for (addresses, framing, ip, address_len) in [
            (
                Addresses::ethernet("172.16.1.1:1", "172.16.1.2:2"),
                Framing::Ethernet,
                34,
                4,
            ),
            (
                Addresses::raw("[2001:db8::1]:1", "[2001:db8::2]:2"),
                Framing::RawIp,
                40,
                16,
            ),
        ] {
            for (packet, header) in [
                (udp(addresses, b"abc"), UDP_HEADER),
                (tcp(addresses, &Tcp::flags(flags::ACK), b"abc"), TCP_HEADER),
            ] {
                let layout = Layout::of(&packet, framing).unwrap();
                assert_eq!((layout.transport, layout.address_len), (ip, address_len));
                assert_eq!(layout.payload, ip + header);
                assert_eq!(&packet[layout.payload..layout.end], b"abc");
                for cut in 0..packet.len() {
                    assert_eq!(Layout::of(&packet[..cut], framing), None);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_accepted(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            for framing in [Framing::Ethernet, Framing::RawIp] {
                if let Some(layout) = Layout::of(&bytes, framing) {
                    prop_assert!(layout.payload <= layout.end && layout.end <= bytes.len());
                }
            }
        }
    }
}
