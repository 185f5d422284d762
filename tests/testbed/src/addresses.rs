//! The addresses of the vL3 network that tests and benchmarks build: 172.16.1.0/24 and 2001:db8::/64.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The vL3 interface of each node.
pub const INTERFACE: &str = "nsm-1";

/// Host numbers: the last part of an address, the same for IPv4 and IPv6.
pub const ROUTER: u8 = 1;
pub const FIRST_CLIENT: u8 = 10;
pub const FIRST_SERVER: u8 = 20;
pub const BALANCER: u8 = 103;

/// The IPv4 address of host `number`.
pub const fn ipv4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 1, number)
}

/// The IPv6 address of host `number`.
pub const fn ipv6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number as u16)
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of `address`.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The address of host `number`.
    pub const fn address(self, number: u8) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(ipv4(number)),
            Self::V6 => IpAddr::V6(ipv6(number)),
        }
    }

    /// The balancer's address.
    pub const fn balancer(self) -> IpAddr {
        self.address(BALANCER)
    }

    /// The router's address. A network without a router has none.
    pub const fn router(self) -> IpAddr {
        self.address(ROUTER)
    }

    /// The network's prefix.
    pub fn network(self) -> IpNet {
        IpNet::new_assert(self.address(0), self.network_length()).trunc()
    }

    /// Length of the network's prefix, in bits.
    pub const fn network_length(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }
}
