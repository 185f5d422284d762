//! SCTP packets (RFC 9260 section 3), with a CRC32c of their own, bit by bit.

use etherparse::IpNumber;

use super::builder::{Addresses, ip};

/// Types of chunks (RFC 9260 section 3.2).
pub mod chunks {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const HEARTBEAT: u8 = 4;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// An SCTP packet with a complete checksum.
pub fn sctp(addresses: Addresses, tag: u32, chunks: &[u8]) -> Vec<u8> {
    let ports = (addresses.source.port(), addresses.destination.port());
    ip(addresses, IpNumber::SCTP, &transport(ports, tag, chunks))
}

/// The part behind the IP header; source and destination port.
pub fn transport(ports: (u16, u16), tag: u32, chunks: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(12 + chunks.len());
    packet.extend(ports.0.to_be_bytes());
    packet.extend(ports.1.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(chunks);
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    packet
}

/// A chunk, padded.
pub fn chunk(kind: u8, flags: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a chunk that fits into a packet");
    let [high, low] = length.to_be_bytes();
    let mut chunk = [&[kind, flags, high, low], value].concat();
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    chunk
}

/// INIT or INIT ACK with these parameters, each made by [`parameter`].
pub fn init(kind: u8, initiate_tag: u32, parameters: &[u8]) -> Vec<u8> {
    let fixed = [
        &initiate_tag.to_be_bytes()[..],
        &[0, 1, 0, 0],
        &[0, 10, 0, 10],
        &[0, 0, 0, 1],
    ]
    .concat();
    chunk(kind, 0, &[&fixed, parameters].concat())
}

/// A parameter, padded.
pub fn parameter(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a parameter that fits into a packet");
    let mut parameter = [&kind.to_be_bytes()[..], &length.to_be_bytes(), value].concat();
    parameter.resize(parameter.len().next_multiple_of(4), 0);
    parameter
}

/// CRC32c (RFC 9260 appendix A): the remainder by the polynomial of Castagnoli, its bits reflected.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    /// The check value of the catalogue of parametrised CRC algorithms, and the vectors of RFC 3720 section B.4.
    #[test]
    fn checksums_are_those_of_the_published_vectors() {
        for (bytes, expected) in [
            (b"123456789".to_vec(), 0xe306_9283),
            (vec![0; 32], 0x8a91_36aa),
            (vec![0xff; 32], 0x62a8_ab43),
            ((0..32).collect(), 0x46dd_794e),
        ] {
            assert_eq!(super::crc32c(&bytes), expected);
        }
    }
}
