//! The header of PROXY protocol version 2 (the specification of HAProxy, section 2.2): which client a stream is of.

use vl3lb_common::Protocol;

use super::field::{is_mapped, unmapped};

/// The first bytes of each header: no other protocol begins with them.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
/// Signature, version and command, family and protocol, and the length of what follows.
const FIXED: usize = 16;
/// Both addresses and ports.
const V4: usize = 12;
const V6: usize = 36;

/// A header without extensions: 28 bytes over IPv4, 52 over IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProxyHeader {
    bytes: [u8; FIXED + V6],
    len: usize,
}

impl ProxyHeader {
    /// Of a connection from `source` to `destination`, both address and port, the addresses of one family.
    pub(crate) fn new(protocol: Protocol, source: ([u8; 16], u16), destination: ([u8; 16], u16)) -> Self {
        let is_v4 = is_mapped(&source.0);
        let len = Self::len_for(&source.0);
        let mut bytes = [0; FIXED + V6];
        bytes[..12].copy_from_slice(&SIGNATURE);
        bytes[12] = VERSION_COMMAND;
        let family = if is_v4 { 0x10 } else { 0x20 };
        bytes[13] = family
            | match protocol {
                Protocol::Tcp => 1,
                Protocol::Udp => 2,
                // Unspecified: no service with SCTP has a header.
                Protocol::Sctp => 0,
            };
        bytes[15] = if is_v4 { 12 } else { 36 };
        let mut at = FIXED;
        for address in [source.0, destination.0] {
            if is_v4 {
                bytes[at..at + 4].copy_from_slice(&unmapped(address));
                at += 4;
            } else {
                bytes[at..at + 16].copy_from_slice(&address);
                at += 16;
            }
        }
        for port in [source.1, destination.1] {
            bytes[at..at + 2].copy_from_slice(&port.to_be_bytes());
            at += 2;
        }
        Self { bytes, len }
    }

    /// The length of a header for a client with this address.
    pub(crate) fn len_for(client: &[u8; 16]) -> usize {
        FIXED + if is_mapped(client) { V4 } else { V6 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use vl3lb_common::addr::to_octets;

    use super::*;

    fn header(protocol: Protocol, source: &str, destination: &str) -> Vec<u8> {
        let end = |text: &str| {
            let end: std::net::SocketAddr = text.parse().unwrap();
            (to_octets(end.ip()), end.port())
        };
        ProxyHeader::new(protocol, end(source), end(destination))
            .bytes()
            .to_vec()
    }

    #[test]
    fn headers_are_those_of_the_specification() {
        let signature = b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A";
        let v4 = [
            &signature[..],
            &[
                0x21, 0x11, 0, 12, 172, 16, 1, 100, 172, 16, 1, 103, 0x9c, 0x40, 0x1f, 0x90,
            ],
        ];
        assert_eq!(
            header(Protocol::Tcp, "172.16.1.100:40000", "172.16.1.103:8080"),
            v4.concat()
        );
        let source: std::net::Ipv6Addr = "2001:db8::64".parse().unwrap();
        let destination: std::net::Ipv6Addr = "2001:db8::67".parse().unwrap();
        let v6 = [
            &signature[..],
            &[0x21, 0x22, 0, 36],
            &source.octets(),
            &destination.octets(),
            &[0x9c, 0x40, 0x1f, 0x90],
        ];
        assert_eq!(
            header(Protocol::Udp, "[2001:db8::64]:40000", "[2001:db8::67]:8080"),
            v6.concat()
        );
    }
}
