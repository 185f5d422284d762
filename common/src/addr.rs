//! Addresses as the whole project spells them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A transport protocol that can be balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The protocol's number in the IPv4 protocol and IPv6 next header fields.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of an IPv4 protocol or IPv6 next header number, if it can be balanced.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// `TCP`, `UDP` or `SCTP`, as in the configuration and every view.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A MAC address (EUI-48).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.trim().split(':');
        for byte in &mut bytes {
            *byte = parts
                .next()
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| {
                    format!("{text:?} is not a MAC address (want six hex bytes, aa:bb:cc:dd:ee:ff)")
                })?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(format!("{text:?} is not a MAC address: more than six bytes")),
        }
    }
}

/// The destination of a client's packets: the key of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceKey {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
}

/// In two words, since workers look a service up for each new flow. Derived, an address is hashed byte by byte.
impl Hash for ServiceKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(to_octets(self.address)));
        state.write_u32(u32::from(self.port) << 8 | u32::from(self.protocol.number()));
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            self.protocol,
            SocketAddr::new(self.address, self.port)
        )
    }
}

/// An address as 16 bytes: IPv6 as it is, IPv4 as IPv4-mapped (RFC 4291 section 2.5.5.2), so that
/// one key format serves both families.
#[inline]
pub fn to_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => (0xffff << 32 | u128::from(v4.to_bits())).to_be_bytes(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The inverse of [`to_octets`].
#[inline]
pub fn from_octets(octets: [u8; 16]) -> IpAddr {
    const MAPPED: u128 = 0xffff;
    // As one number: `Ipv6Addr::to_ipv4_mapped` looks at the bytes one by one, and who opens a flow asks for
    // five addresses.
    let bits = u128::from_be_bytes(octets);
    if bits >> 32 == MAPPED {
        let [.., a, b, c, d] = octets;
        IpAddr::from([a, b, c, d])
    } else {
        IpAddr::from(octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_keep_the_family() {
        for text in ["172.16.1.103", "2001:db8::67", "::1", "0.0.0.0"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(from_octets(to_octets(address)), address);
        }
    }

    #[test]
    fn mac_addresses_read_what_they_print() {
        let mac = MacAddr([2, 0, 0xab, 0, 0, 0xff]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in ["", "02:00:ab:00:00", "02:00:ab:00:00:ff:01", "02:00:ab:00:00:gg"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }
}
