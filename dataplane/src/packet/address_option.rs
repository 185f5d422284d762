//! The TCP option that names the client of a connection (TOA), as LVS and DPVS have it: kind 254, which RFC 6994 leaves to
//! experiments, length, the client's port and address. Servers read it with a kernel module, or by BPF.

use vl3lb_common::DropReason;

use super::checksum::{Delta, Sum};
use super::field::{header_at_mut, is_mapped, put, tcp, unmapped, word};
use super::parse::{Parsed, Transport};
use super::payload::Payload;
use super::segment::write_lengths;
use crate::port::Frame;

const KIND: u8 = 254;
const V4_LENGTH: u8 = 8;
const V6_LENGTH: u8 = 20;
/// A TCP header with options.
const LONGEST_HEADER: usize = 60;

/// The option for one client: 8 bytes over IPv4, 20 over IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressOption {
    bytes: [u8; V6_LENGTH as usize],
}

impl AddressOption {
    pub(crate) fn new(client: &[u8; 16], port: u16) -> Self {
        let mut bytes = [0; V6_LENGTH as usize];
        bytes[0] = KIND;
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        if is_mapped(client) {
            bytes[1] = V4_LENGTH;
            bytes[4..8].copy_from_slice(&unmapped(*client));
        } else {
            bytes[1] = V6_LENGTH;
            bytes[4..].copy_from_slice(client);
        }
        Self { bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.bytes[1].into()).unwrap_or_default()
    }

    /// Whether a TCP header of this length has room for it.
    pub(crate) fn fits(&self, header_len: usize) -> bool {
        header_len + self.bytes().len() <= LONGEST_HEADER
    }

    /// Makes `frame` the segment of a translated packet of any number of frames, with the option before its others.
    /// Lengths and checksums follow. O(payload).
    ///
    /// # Errors
    /// `MtuExceeded` if header or frame have no room, `Internal` if `parsed` is no TCP packet, or not this one.
    pub(crate) fn put_into<F: Frame>(
        &self,
        frame: &mut F,
        packet: &[F],
        parsed: &Parsed,
    ) -> Result<(), DropReason> {
        let Transport::Tcp { header_len, .. } = parsed.transport else {
            return Err(DropReason::Internal);
        };
        let option = self.bytes();
        let (first, rest) = packet.split_first().ok_or(DropReason::Internal)?;
        let (headers, others) = first
            .bytes()
            .split_at_checked(parsed.l4() + tcp::HEADER_LEN)
            .ok_or(DropReason::Internal)?;
        let total = parsed.end() + option.len();
        if !self.fits(header_len) || total > frame.capacity() {
            return Err(DropReason::MtuExceeded);
        }
        frame.set_len(total);
        frame.set_continues(false);
        let bytes = frame.bytes_mut();
        let (front, body) = bytes
            .split_at_mut_checked(headers.len())
            .ok_or(DropReason::Internal)?;
        front.copy_from_slice(headers);
        Payload::behind(option, others, rest).read(body)?;
        write_lengths(bytes, parsed, total - parsed.l3(), 0)?;
        let length = |total: usize| u16::try_from(total - parsed.l4()).map_err(|_| DropReason::Internal);
        let (before, after) = (length(parsed.end())?, length(total)?);
        let header: &mut [u8; tcp::HEADER_LEN] = header_at_mut(bytes, parsed.l4())?;
        let offset = word(header, tcp::DATA_OFFSET);
        let words = u8::try_from(option.len() / 4).map_err(|_| DropReason::Internal)?;
        header[tcp::DATA_OFFSET] += words << 4;
        // A multiple of four bytes at an even offset: what is behind it keeps its place in the sum.
        let delta = Delta::default()
            .word(before.to_be(), after.to_be())
            .word(offset, word(header, tcp::DATA_OFFSET))
            .word(0, Sum::of(option).folded());
        let field = delta.apply(word(header, tcp::CHECKSUM));
        put(header, tcp::CHECKSUM, field.to_ne_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vl3lb_common::addr::to_octets;

    use super::*;
    use crate::packet::{Framing, parse};
    use crate::port::packet_len;
    use crate::testing::builder::{Addresses, Tcp, TcpOptionElement, flags, tcp as segment};
    use crate::testing::validate::assert_valid;
    use crate::testing::{frame, frames_of};
    use TcpOptionElement::{MaximumSegmentSize, Timestamp};

    const BOTH: [(&str, &str); 2] = [
        ("172.16.1.100:40000", "172.16.1.2:8081"),
        ("[2001:db8::64]:40000", "[2001:db8::2]:8081"),
    ];

    fn option(client: &str) -> AddressOption {
        let client: std::net::SocketAddr = client.parse().unwrap();
        AddressOption::new(&to_octets(client.ip()), client.port())
    }

    #[test]
    fn the_option_has_the_format_of_dpvs() {
        assert_eq!(option(BOTH[0].0).bytes(), [254, 8, 0x9c, 0x40, 172, 16, 1, 100]);
        let address: std::net::Ipv6Addr = "2001:db8::64".parse().unwrap();
        let expected = [&[254, 20, 0x9c, 0x40][..], &address.octets()].concat();
        assert_eq!(option(BOTH[1].0).bytes(), expected);
    }

    #[test]
    fn the_segment_has_the_option_and_all_that_it_had() {
        for (from, to) in BOTH {
            for addresses in [Addresses::raw(from, to), Addresses::ethernet(from, to)] {
                for options in [vec![], vec![MaximumSegmentSize(1_460)], vec![Timestamp(1, 2)]] {
                    for payload in [&b""[..], b"odd", b"even"] {
                        let framing = match addresses.macs {
                            Some(_) => Framing::Ethernet,
                            None => Framing::RawIp,
                        };
                        let header = Tcp {
                            flags: flags::ACK,
                            sequence: 7,
                            acknowledgment: 9,
                            options: &options,
                        };
                        let before = segment(addresses, &header, payload);
                        let l4 = framing.header_len() + if from.starts_with('[') { 40 } else { 20 };
                        for chunk in [before.len(), l4 + 40] {
                            let frames = frames_of(&before, chunk);
                            let parsed = parse(frames[0].bytes(), packet_len(&frames), framing).unwrap();
                            let mut made = frame(b"");
                            let option = option(from);
                            option.put_into(&mut made, &frames, &parsed).unwrap();
                            let made = made.bytes();
                            assert_valid(made, framing == Framing::Ethernet);
                            let length = option.bytes().len();
                            assert_eq!(made[l4 + 20..l4 + 20 + length], *option.bytes());
                            assert_eq!(made[l4 + 20 + length..], before[l4 + 20..]);
                            let offset = usize::from(made[l4 + 12] >> 4) * 4;
                            assert_eq!(offset, usize::from(before[l4 + 12] >> 4) * 4 + length);
                            assert_eq!(made[l4..l4 + 12], before[l4..l4 + 12]);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_full_header_has_no_room() {
        let option = option(BOTH[0].0);
        assert!(option.fits(52) && !option.fits(56));
        let many: [TcpOptionElement; 9] = std::array::from_fn(|_| MaximumSegmentSize(1_460));
        let header = Tcp {
            flags: flags::SYN,
            options: &many,
            ..Tcp::default()
        };
        let packet = segment(Addresses::raw(BOTH[0].0, BOTH[0].1), &header, b"");
        let parsed = parse(&packet, packet.len(), Framing::RawIp).unwrap();
        let mut made = frame(b"");
        assert_eq!(
            option.put_into(&mut made, &[frame(&packet)], &parsed),
            Err(DropReason::MtuExceeded)
        );
    }
}
