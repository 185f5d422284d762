//! Announces the balancer's addresses on the link, so that neighbours learn a new MAC address at once and not when their
//! own entries expire: ARP announcements (RFC 5227 section 3) and unsolicited neighbour advertisements (RFC 4861 section
//! 7.2.6).
#![expect(
    unsafe_code,
    reason = "a packet socket's address is passed to sendto(2) as raw memory"
)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, ipproto, sendto, socket_with, sockopt,
};
use vl3lb_common::MacAddr;

/// All nodes of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Hop limit of every neighbour discovery packet (RFC 4861 section 7.1.2).
const HOPS: u32 = 255;
#[expect(
    clippy::cast_possible_truncation,
    reason = "the constants fit their fields in sockaddr_ll(7)"
)]
const PACKET: (libc::sa_family_t, u16, libc::socklen_t) = (
    libc::AF_PACKET as libc::sa_family_t,
    (libc::ETH_P_ARP as u16).to_be(),
    size_of::<libc::sockaddr_ll>() as libc::socklen_t,
);
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Announces that `own` is at `mac` on the Ethernet interface `index`. A few system calls.
///
/// # Errors
///
/// The address or the link is gone, or CAP_NET_RAW is missing.
pub(super) fn announce(index: u32, own: IpAddr, mac: MacAddr) -> io::Result<()> {
    match own {
        IpAddr::V4(own) => announce_v4(index, own, mac),
        IpAddr::V6(own) => advertise_v6(index, own, mac),
    }
}

fn announce_v4(index: u32, own: Ipv4Addr, mac: MacAddr) -> io::Result<()> {
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, FLAGS, None)?;
    // SAFETY: sockaddr_ll is plain data for which all zeroes is a valid value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let (family, protocol, length) = PACKET;
    to.sll_family = family;
    to.sll_protocol = protocol;
    to.sll_ifindex = index.cast_signed();
    to.sll_halen = 6;
    to.sll_addr[..6].fill(0xff);
    let message = arp_announcement(own, mac);
    // SAFETY: the message and the address are readable for the lengths given, and the socket is open.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            0,
            (&raw const to).cast(),
            length,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A request for the own address (RFC 826 for the fields).
fn arp_announcement(own: Ipv4Addr, mac: MacAddr) -> [u8; 28] {
    let mut message = [0; 28];
    // Ethernet, IPv4, lengths of their addresses, request.
    message[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    message[8..14].copy_from_slice(&mac.0);
    message[14..18].copy_from_slice(&own.octets());
    message[24..].copy_from_slice(&own.octets());
    message
}

fn advertise_v6(index: u32, own: Ipv6Addr, mac: MacAddr) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::INET6,
        SocketType::RAW,
        FLAGS,
        Some(ipproto::ICMPV6),
    )?;
    sockopt::set_ipv6_multicast_hops(&socket, HOPS)?;
    bind(&socket, &SocketAddrV6::new(own, 0, 0, 0))?;
    let to = SocketAddrV6::new(ALL_NODES, 0, 0, index);
    sendto(&socket, &advertisement(own, mac), SendFlags::empty(), &to)?;
    Ok(())
}

/// RFC 4861 section 4.4. The kernel fills in the checksum.
fn advertisement(own: Ipv6Addr, mac: MacAddr) -> [u8; 32] {
    const ADVERTISEMENT: u8 = 136;
    /// The receiver replaces the MAC address that it has.
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
    let mut message = [0; 32];
    message[0] = ADVERTISEMENT;
    message[4] = OVERRIDE;
    message[8..24].copy_from_slice(&own.octets());
    message[24] = TARGET_LINK_LAYER_ADDRESS;
    // The option's length, in units of eight bytes.
    message[25] = 1;
    message[26..].copy_from_slice(&mac.0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    #[test]
    fn an_arp_announcement_has_one_address_as_sender_and_target() {
        let message = arp_announcement(Ipv4Addr::new(172, 16, 1, 103), MAC);
        assert_eq!(message[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(message[8..18], [2, 0, 0, 0, 0, 7, 172, 16, 1, 103]);
        assert_eq!(message[18..], [0, 0, 0, 0, 0, 0, 172, 16, 1, 103]);
    }

    #[test]
    fn a_neighbor_advertisement_overrides_the_mac_address_of_its_target() {
        let own = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x67);
        let message = advertisement(own, MAC);
        assert_eq!(message[..8], [136, 0, 0, 0, 0x20, 0, 0, 0]);
        assert_eq!(message[8..24], own.octets());
        assert_eq!(message[24..], [2, 1, 2, 0, 0, 0, 0, 7]);
    }
}
