//! The kernel's route and next hop to another host.
//!
//! For programs that send frames of their own to one host; the workers' next hops come with the snapshot.

use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use vl3lb_common::MacAddr;

use super::netlink::{Netlink, name_of};

/// Time between two checks whether the kernel has resolved a neighbour.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The kernel's route to one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The interface that packets leave through.
    pub interface: String,
    index: u32,
    /// The address that the kernel would send from.
    pub source: IpAddr,
    /// The next hop: the gateway, or the host itself.
    pub neighbor: IpAddr,
}

impl Path {
    /// Looks up the route to `destination` in the calling thread's network namespace; `None` for a
    /// broadcast, multicast or own address. A few system calls.
    ///
    /// # Errors
    ///
    /// There is no route, or netlink does not work.
    pub fn to(destination: IpAddr) -> io::Result<Option<Self>> {
        let mut netlink = Netlink::open()?;
        let mut request = RouteMessage::default();
        request.header.address_family = family(destination);
        request.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        request
            .attributes
            .push(RouteAttribute::Destination(destination.into()));
        let RouteNetlinkMessage::NewRoute(route) = netlink.get(RouteNetlinkMessage::GetRoute(request))?
        else {
            return Err(unexpected());
        };
        if route.header.kind != RouteType::Unicast {
            return Ok(None);
        }
        let (mut index, mut source, mut neighbor) = (None, None, destination);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(oif) => index = Some(*oif),
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::Gateway(address) => neighbor = ip(address).unwrap_or(destination),
                _ => {}
            }
        }
        let (Some(index), Some(source)) = (index, source) else {
            return Err(unexpected());
        };
        let mut link = LinkMessage::default();
        link.header.index = index;
        let RouteNetlinkMessage::NewLink(link) = netlink.get(RouteNetlinkMessage::GetLink(link))? else {
            return Err(unexpected());
        };
        let interface = name_of(&link).ok_or_else(unexpected)?.to_owned();
        Ok(Some(Self {
            interface,
            index,
            source,
            neighbor,
        }))
    }

    /// The neighbour's MAC address. If the kernel does not know it yet, it is made to resolve it (ARP, ND);
    /// `None` without an answer within `limit`. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// The kernel refuses to resolve it.
    pub fn resolve(&self, limit: Duration) -> io::Result<Option<MacAddr>> {
        let mut netlink = Netlink::open()?;
        let start = Instant::now();
        let mut started = false;
        loop {
            if let Some(mac) = self.known(&mut netlink)? {
                return Ok(Some(mac));
            }
            if !started {
                self.start_resolution(&mut netlink)?;
                started = true;
            }
            if start.elapsed() >= limit {
                return Ok(None);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn known(&self, netlink: &mut Netlink) -> io::Result<Option<MacAddr>> {
        let answer = match netlink.get(RouteNetlinkMessage::GetNeighbour(self.request())) {
            // Unknown to the kernel.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            answer => answer?,
        };
        let RouteNetlinkMessage::NewNeighbour(neighbor) = answer else {
            return Err(unexpected());
        };
        if matches!(
            neighbor.header.state,
            NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::None
        ) {
            return Ok(None);
        }
        Ok(neighbor.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(MacAddr),
            _ => None,
        }))
    }

    /// Makes the kernel resolve it: NTF_USE has the effect of a packet to it.
    fn start_resolution(&self, netlink: &mut Netlink) -> io::Result<()> {
        let mut request = self.request();
        request.header.state = NeighbourState::None;
        request.header.flags = NeighbourFlags::Use;
        let flags = netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_REPLACE;
        netlink.change(RouteNetlinkMessage::NewNeighbour(request), flags)
    }

    fn request(&self) -> NeighbourMessage {
        let mut request = NeighbourMessage::default();
        request.header.family = family(self.neighbor);
        request.header.ifindex = self.index;
        let address = match self.neighbor {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        request.attributes.push(NeighbourAttribute::Destination(address));
        request
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "unexpected netlink answer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::builder::MACS;
    use crate::testing::netns::{NEAR, ip, with_veth};

    fn addresses() {
        ip(&format!("addr add 10.1.0.1/24 dev {NEAR}"));
        ip(&format!("addr add 2001:db8::1/64 dev {NEAR} nodad"));
        ip("route add default via 10.1.0.9");
    }

    #[test]
    fn the_path_follows_the_kernels_routes() {
        with_veth(1, || {
            addresses();
            for (destination, source, neighbor) in [
                ("10.1.0.7", "10.1.0.1", "10.1.0.7"),
                ("192.0.2.1", "10.1.0.1", "10.1.0.9"),
                ("2001:db8::7", "2001:db8::1", "2001:db8::7"),
            ] {
                let path = Path::to(destination.parse().unwrap()).unwrap().unwrap();
                assert_eq!(path.interface, NEAR, "{destination}");
                assert_eq!(path.source.to_string(), source, "{destination}");
                assert_eq!(path.neighbor.to_string(), neighbor, "{destination}");
            }
        });
    }

    #[test]
    fn broadcast_multicast_and_own_addresses_have_no_path() {
        with_veth(1, || {
            addresses();
            for destination in ["10.1.0.255", "10.1.0.1", "224.0.0.1"] {
                assert_eq!(
                    Path::to(destination.parse().unwrap()).unwrap(),
                    None,
                    "{destination}"
                );
            }
            assert!(Path::to("2001:db9::1".parse().unwrap()).is_err(), "no route");
        });
    }

    #[test]
    fn a_known_neighbour_is_found_and_a_silent_one_is_not() {
        with_veth(1, || {
            addresses();
            let mac = MACS.0.to_string();
            for address in ["10.1.0.7", "2001:db8::7"] {
                ip(&format!("neigh add {address} lladdr {mac} dev {NEAR}"));
                let path = Path::to(address.parse().unwrap()).unwrap().unwrap();
                assert_eq!(path.resolve(Duration::ZERO).unwrap(), Some(MACS.0), "{address}");
            }
            let silent = Path::to("10.1.0.8".parse().unwrap()).unwrap().unwrap();
            assert_eq!(silent.resolve(Duration::from_millis(50)).unwrap(), None);
        });
    }
}
