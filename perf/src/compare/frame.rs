//! The packets of the tester: Ethernet, IPv4, UDP, 64 bytes without FCS, with a mark in the payload that says
//! which trial and flow they belong to and when they were due.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{Ethernet2Header, IpNumber, Ipv4Header, UdpHeader, ether_type};

use crate::net::{BALANCER_MAC, WIRE_MAC};

/// Bytes of each frame.
pub(crate) const FRAME_LEN: usize = 64;
const ETHERNET: usize = 14;
const ADDRESSES: usize = ETHERNET + 12;
const UDP: usize = ETHERNET + 20;
const CHECKSUM: usize = UDP + 6;
const PAYLOAD: usize = UDP + 8;

/// What a frame's payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) trial: u32,
    pub(crate) flow: u32,
    /// Nanoseconds since the trial's start.
    pub(crate) due: u64,
}

/// A frame as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) destination: Ipv4Addr,
    pub(crate) mark: Mark,
}

/// A frame from `source` to `destination`, by way of the balancer, without mark and checksum.
pub(crate) fn template(source: SocketAddrV4, destination: SocketAddrV4) -> [u8; FRAME_LEN] {
    let length = u16::try_from(FRAME_LEN - ETHERNET).expect("a short frame");
    let ethernet = Ethernet2Header {
        source: WIRE_MAC.0,
        destination: BALANCER_MAC.0,
        ether_type: ether_type::IPV4,
    };
    let addresses = [source.ip().octets(), destination.ip().octets()];
    let mut ip =
        Ipv4Header::new(length - 20, 64, IpNumber::UDP, addresses[0], addresses[1]).expect("a short packet");
    ip.header_checksum = ip.calc_header_checksum();
    let udp = UdpHeader {
        source_port: source.port(),
        destination_port: destination.port(),
        length: length - 20,
        checksum: 0,
    };
    let mut frame = [0; FRAME_LEN];
    frame[..ETHERNET].copy_from_slice(&ethernet.to_bytes());
    frame[ETHERNET..UDP].copy_from_slice(&ip.to_bytes());
    frame[UDP..PAYLOAD].copy_from_slice(&udp.to_bytes());
    frame
}

/// Writes the mark and the checksum that belongs to it.
pub(crate) fn set_mark(frame: &mut [u8; FRAME_LEN], mark: Mark) {
    frame[PAYLOAD..PAYLOAD + 4].copy_from_slice(&mark.trial.to_be_bytes());
    frame[PAYLOAD + 4..PAYLOAD + 8].copy_from_slice(&mark.flow.to_be_bytes());
    frame[PAYLOAD + 8..PAYLOAD + 16].copy_from_slice(&mark.due.to_be_bytes());
    set_checksum(frame);
}

/// Reads a frame of ours; `None` if it is none.
pub(crate) fn read(frame: &[u8]) -> Option<Arrival> {
    let frame: &[u8; FRAME_LEN] = frame.first_chunk()?;
    // IPv4 without options, UDP.
    if frame[ETHERNET] != 0x45 || frame[ETHERNET + 9] != 17 {
        return None;
    }
    let word = |at: usize| u32::from_be_bytes(*frame[at..].first_chunk().expect("within the frame"));
    Some(Arrival {
        destination: Ipv4Addr::from_bits(word(ADDRESSES + 4)),
        mark: Mark {
            trial: word(PAYLOAD),
            flow: word(PAYLOAD + 4),
            due: u64::from(word(PAYLOAD + 8)) << 32 | u64::from(word(PAYLOAD + 12)),
        },
    })
}

/// Turns a frame round: from its destination to its source, by way of the balancer. The checksum is computed
/// anew, since a kernel's sender leaves it to the device, and there is none on a veth pair.
pub(crate) fn turn_round(frame: &mut [u8; FRAME_LEN]) {
    frame[..6].copy_from_slice(&BALANCER_MAC.0);
    frame[6..12].copy_from_slice(&WIRE_MAC.0);
    let (source, destination) = frame[ADDRESSES..ADDRESSES + 8].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = frame[UDP..UDP + 4].split_at_mut(2);
    source.swap_with_slice(destination);
    set_checksum(frame);
}

/// RFC 768: pseudo-header, header and payload.
fn set_checksum(frame: &mut [u8; FRAME_LEN]) {
    frame[CHECKSUM..CHECKSUM + 2].fill(0);
    let length = u32::from(u16::from_be_bytes([frame[UDP + 4], frame[UDP + 5]]));
    let words = frame[ADDRESSES..].chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let mut sum = sum + length + 17;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = match u16::try_from(sum) {
        Ok(0xffff) | Err(_) => 0xffff,
        Ok(sum) => !sum,
    };
    frame[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const MARK: Mark = Mark {
        trial: 7,
        flow: 0x0102_0304,
        due: 0x0506_0708_090a_0b0c,
    };

    fn ends() -> [SocketAddrV4; 2] {
        ["172.16.1.10:20000", "172.16.1.103:7000"].map(|end| end.parse().unwrap())
    }

    /// Source and destination as etherparse reads them, the checksums checked.
    fn checked(frame: &[u8]) -> [SocketAddrV4; 2] {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport)
        else {
            panic!("not IPv4 and UDP");
        };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(
            udp.checksum(),
            udp.to_header()
                .calc_checksum_ipv4(&header, udp.payload())
                .unwrap()
        );
        let end = |address, port| SocketAddrV4::new(address, port);
        [
            end(header.source.into(), udp.source_port()),
            end(header.destination.into(), udp.destination_port()),
        ]
    }

    #[test]
    fn a_marked_frame_is_right_and_read_back() {
        let [source, destination] = ends();
        let mut frame = template(source, destination);
        set_mark(&mut frame, MARK);
        assert_eq!(checked(&frame), [source, destination]);
        let arrival = read(&frame).unwrap();
        assert_eq!((arrival.destination, arrival.mark), (*destination.ip(), MARK));
    }

    #[test]
    fn a_frame_that_is_turned_round_goes_back_with_its_mark() {
        let [source, destination] = ends();
        let mut frame = template(source, destination);
        set_mark(&mut frame, MARK);
        // As a kernel leaves it to the device.
        frame[CHECKSUM..CHECKSUM + 2].fill(0x55);
        turn_round(&mut frame);
        assert_eq!(checked(&frame), [destination, source]);
        assert_eq!(read(&frame).unwrap().mark, MARK);
    }

    #[test]
    fn other_frames_are_none_of_ours() {
        let [source, destination] = ends();
        let frame = template(source, destination);
        assert_eq!(read(&frame[..FRAME_LEN - 1]), None);
        let mut tcp = frame;
        tcp[ETHERNET + 9] = 6;
        assert_eq!(read(&tcp), None);
    }
}
