//! Malformed frames: truncated, oversized, with contradictory lengths. A seed makes failures repeatable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::payload::Random;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// Addresses and ports in the frames.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub sources: [IpAddr; 2],
    /// The balancer's addresses, IPv4 then IPv6.
    pub destinations: [IpAddr; 2],
    pub service_port: u16,
    pub nat_port: u16,
    /// The longest frame that the link carries.
    pub longest: usize,
}

/// An endless sequence of malformed frames, and some well-formed ones that belong to no flow.
#[derive(Debug)]
pub struct Frames {
    target: Target,
    random: Random,
}

impl Frames {
    /// The same seed gives the same frames.
    pub const fn new(target: Target, seed: u64) -> Self {
        Self {
            target,
            random: Random::new(seed),
        }
    }

    /// The next frame: a packet of no flow, damaged in up to three places.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = self.ethernet();
        let header = frame.len();
        if self.random.below(2) == 0 {
            self.ipv4(&mut frame);
        } else {
            self.ipv6(&mut frame);
        }
        for _ in 0..self.random.below(4) {
            self.damage(&mut frame, header);
        }
        // The kernel refuses frames shorter than an Ethernet header or longer than the link carries.
        frame.truncate(self.target.longest);
        frame.resize(frame.len().max(ETHERNET), 0);
        frame
    }

    fn ethernet(&self) -> Vec<u8> {
        [self.target.destination_mac, self.target.source_mac].concat()
    }

    fn ipv4(&mut self, frame: &mut Vec<u8>) {
        frame.extend([0x08, 0x00]);
        let protocol = self.pick(&[6, 6, 17, 17, 1, 132, 47, 0]);
        let mut transport = self.transport(protocol, false);
        if protocol == 1 {
            self.write_checksum(&mut transport, &[]);
        }
        let start = frame.len();
        let options = 4 * self.pick(&[0, 0, 0, 0, 1, 5, 10]);
        let length = u16::try_from(20 + options + transport.len()).unwrap_or(u16::MAX);
        let fragment: u16 = self.pick(&[0x4000, 0x4000, 0x4000, 0, 0x2000, 0x2001, 0x1fff, 0x0001]);
        frame.push(0x45 + u8::try_from(options / 4).expect("at most 10 words"));
        frame.push(0);
        frame.extend(length.to_be_bytes());
        frame.extend([0x12, 0x34]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([self.pick(&[64, 64, 64, 1, 0]), protocol, 0, 0]);
        frame.extend(octets(self.source(0)));
        frame.extend(octets(self.target.destinations[0]));
        frame.extend((0..options).map(|_| self.byte()));
        let sum = checksum(&frame[start..]);
        frame[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(transport);
    }

    fn ipv6(&mut self, frame: &mut Vec<u8>) {
        frame.extend([0x86, 0xdd]);
        let protocol = self.pick(&[6, 6, 17, 17, 58, 132, 59]);
        let mut transport = self.transport(protocol, true);
        let addresses = [octets(self.source(1)), octets(self.target.destinations[1])].concat();
        if protocol == 58 {
            let length = u32::try_from(transport.len()).expect("a short packet");
            let pseudo_header = [&addresses[..], &length.to_be_bytes(), &[0, 0, 0, 58]].concat();
            self.write_checksum(&mut transport, &pseudo_header);
        }
        // Extension headers (hop-by-hop, destination options, routing, fragment) in any number and order.
        let mut chain = Vec::new();
        let mut next = protocol;
        for _ in 0..self.pick(&[0, 0, 0, 1, 2, 6]) {
            let kind = self.pick(&[0, 60, 43, 44]);
            let words = self.pick(&[0, 0, 1, 255]);
            let mut extension = vec![next, words];
            extension.extend((0..6).map(|_| self.byte()));
            if words == 1 {
                extension.extend([0; 8]);
            }
            chain.splice(0..0, extension);
            next = kind;
        }
        let length = u16::try_from(chain.len() + transport.len()).unwrap_or(u16::MAX);
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([next, self.pick(&[64, 64, 64, 1, 0])]);
        frame.extend(addresses);
        frame.extend(chain);
        frame.extend(transport);
    }

    fn transport(&mut self, protocol: u8, v6: bool) -> Vec<u8> {
        let payload = self.pick(&[0, 1, 64, 1400, 20_000]);
        let mut bytes = Vec::new();
        if protocol == 1 || protocol == 58 {
            // An error about a packet of the balancer's, or about a part of one.
            let kind = if v6 {
                self.pick(&[1, 2, 3, 4])
            } else {
                self.pick(&[3, 11, 12, 5])
            };
            bytes.extend([kind, self.pick(&[0, 1, 3, 4, 200]), 0, 0]);
            bytes.extend((0..4).map(|_| self.byte()));
            let inner = self.inner(v6);
            let quoted = match self.random.below(2) {
                0 => inner.len(),
                _ => self.random.below(inner.len() + 1),
            };
            bytes.extend(&inner[..quoted]);
            return bytes;
        }
        let source: u16 = self.pick(&[40_000, 8081, 8081, 0, 65_535]);
        let (service, nat) = (self.target.service_port, self.target.nat_port);
        let destination = self.pick(&[service, service, service, nat, nat, 0, 9, 65_535]);
        bytes.extend(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
        if protocol == 17 {
            let length: u16 = self.pick(&[8, 0, 7, 9, 1408, 65_535]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([self.byte(), self.byte()]);
        } else {
            bytes.extend((0..8).map(|_| self.byte()));
            let offset = self.pick(&[0x50, 0x50, 0x00, 0x40, 0xf0]);
            let flags = self.pick(&[0x02, 0x10, 0x12, 0x04, 0x00, 0xff, 0x29]);
            bytes.extend([offset, flags]);
            bytes.extend((0..6).map(|_| self.byte()));
        }
        bytes.resize(bytes.len() + payload, 0xaa);
        bytes
    }

    /// Writes the ICMP checksum, most of the time.
    fn write_checksum(&mut self, icmp: &mut [u8], pseudo_header: &[u8]) {
        if self.random.below(4) != 0 {
            let sum = checksum(&[pseudo_header, icmp].concat());
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// The packet that an ICMP error quotes.
    fn inner(&mut self, v6: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let protocol = self.pick(&[6, 17, 1]);
        if v6 {
            bytes.extend([0x60, 0, 0, 0, 0, 8, protocol, 64]);
            bytes.extend(octets(self.target.destinations[1]));
            bytes.extend(octets(self.target.sources[1]));
        } else {
            bytes.extend([
                self.pick(&[0x45, 0x46, 0x40, 0x65]),
                0,
                0,
                28,
                0,
                0,
                0,
                0,
                64,
                protocol,
                0,
                0,
            ]);
            bytes.extend(octets(self.target.destinations[0]));
            bytes.extend(octets(self.target.sources[0]));
            let sum = checksum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        bytes.extend(self.target.nat_port.to_be_bytes());
        bytes.extend(8081_u16.to_be_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    fn damage(&mut self, frame: &mut Vec<u8>, header: usize) {
        match self.random.below(8) {
            // Truncated anywhere.
            0 | 1 => {
                let keep = header + self.random.below(frame.len() - header + 1);
                frame.truncate(keep);
            }
            // Truncated inside the headers.
            2 => frame.truncate(header + 2 + self.random.below(60)),
            // Trailing bytes, up to the longest frame.
            3 => {
                let longest = self.target.longest;
                let length = frame.len() + self.random.below(longest);
                frame.resize(length.min(longest), self.byte());
            }
            // Lengths, versions and header lengths that contradict the rest.
            4 | 5 => self.overwrite(frame, header + 2, 8),
            // Anything in the headers.
            6 => self.overwrite(frame, header, 80),
            // Several bits anywhere.
            _ => {
                for _ in 0..4 {
                    let at = header + self.random.below((frame.len() - header).max(1));
                    if let Some(byte) = frame.get_mut(at) {
                        *byte ^= 1 << self.random.below(8);
                    }
                }
            }
        }
    }

    fn overwrite(&mut self, frame: &mut [u8], from: usize, within: usize) {
        let at = from + self.random.below(within);
        let value = self.byte();
        if let Some(byte) = frame.get_mut(at) {
            *byte = value;
        }
    }

    fn source(&mut self, family: usize) -> IpAddr {
        let invalid = [
            [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
            [
                IpAddr::V4(Ipv4Addr::BROADCAST),
                IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
            ],
            self.target.destinations,
        ];
        match self.random.below(12) {
            0 => invalid[self.random.below(invalid.len())][family],
            _ => self.target.sources[family],
        }
    }

    fn byte(&mut self) -> u8 {
        self.random.bits().to_be_bytes()[0]
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.random.below(choices.len())]
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet checksum of RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target {
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        sources: [
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ],
        destinations: [
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ],
        service_port: 80,
        nat_port: 20_000,
        longest: 1514,
    };

    #[test]
    fn frames_fit_the_link_and_repeat_with_their_seed() {
        let mut frames = Frames::new(TARGET, 1);
        let mut again = Frames::new(TARGET, 1);
        let mut longest = 0;
        for _ in 0..5000 {
            let frame = frames.frame();
            assert_eq!(frame, again.frame());
            assert!((ETHERNET..=TARGET.longest).contains(&frame.len()));
            longest = longest.max(frame.len());
        }
        assert_eq!(longest, TARGET.longest);
    }
}
