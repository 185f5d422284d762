//! The sockets of this network namespace.
//!
//! The kernel lists those of TCP and UDP over netlink (sock_diag(7)); without that it lists them in /proc/net, like those of
//! SCTP ([`sctp`]).

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use procfs::net::TcpState;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;
use rtnetlink::sys::{Socket as NetlinkSocket, SocketAddr as NetlinkAddress};
use tracing::debug;
use vl3lb_common::Protocol;

use super::sctp;

/// A socket with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) protocol: Protocol,
    pub(super) local: SocketAddr,
    /// It is one of this process.
    pub(super) is_balancers: bool,
}

/// A socket with the number of its inode, 0 for one that no program has open.
type Found = (Protocol, SocketAddr, u64);

/// All sockets; none of those that cannot be read. Connections that are over (TIME-WAIT) do not count. Takes about a
/// millisecond for a thousand.
pub(super) fn read() -> Vec<Socket> {
    let mut found = read_netlink().unwrap_or_else(|cause| {
        debug!("list sockets by sock_diag: {cause}; reading /proc/net");
        read_proc()
    });
    let sctp = sctp::read().into_iter();
    found.extend(sctp.map(|(local, inode)| (Protocol::Sctp, local, inode)));
    let own = own_inodes();
    found
        .into_iter()
        .map(|(protocol, local, inode)| Socket {
            protocol,
            local,
            is_balancers: inode != 0 && own.contains(&inode),
        })
        .collect()
}

fn read_netlink() -> io::Result<Vec<Found>> {
    let mut socket = NetlinkSocket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    let mut found = Vec::new();
    // A UDP socket that is not connected is in the state CLOSE.
    let connections = StateFlags::all() - StateFlags::TIME_WAIT - StateFlags::CLOSE;
    for family in [AF_INET, AF_INET6] {
        for (protocol, number, states) in [
            (Protocol::Tcp, IPPROTO_TCP, connections.clone()),
            (Protocol::Udp, IPPROTO_UDP, StateFlags::all()),
        ] {
            dump(&socket, (protocol, number, states), family, &mut found)?;
        }
    }
    Ok(found)
}

/// Lists the sockets of one protocol, with its number, and family that are in one of `states`.
fn dump(
    socket: &NetlinkSocket,
    (protocol, number, states): (Protocol, u8, StateFlags),
    family: u8,
    found: &mut Vec<Found>,
) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family,
        protocol: number,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: if family == AF_INET {
            SocketId::new_v4()
        } else {
            SocketId::new_v6()
        },
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if datagram.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    let id = &response.header.socket_id;
                    if id.source_port != 0 {
                        let local = SocketAddr::new(id.source_address, id.source_port);
                        found.push((protocol, local, response.header.inode.into()));
                    }
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages are aligned to 4 bytes (netlink(7)).
            let length = message.header.length.next_multiple_of(4);
            rest = usize::try_from(length)
                .ok()
                .filter(|&length| length > 0)
                .and_then(|length| rest.get(length..))
                .unwrap_or_default();
        }
    }
}

fn read_proc() -> Vec<Found> {
    let tcp = [procfs::net::tcp(), procfs::net::tcp6()];
    let tcp = tcp
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.state != TcpState::TimeWait)
        .map(|entry| (Protocol::Tcp, entry.local_address, entry.inode));
    let udp = [procfs::net::udp(), procfs::net::udp6()];
    let udp = udp
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (Protocol::Udp, entry.local_address, entry.inode));
    tcp.chain(udp).collect()
}

/// Inodes of the sockets of this process: /proc/self/fd has links to `socket:[INODE]`.
fn own_inodes() -> HashSet<u64> {
    let Ok(folder) = std::fs::read_dir("/proc/self/fd") else {
        return HashSet::new();
    };
    folder
        .flatten()
        .filter_map(|entry| {
            let target = std::fs::read_link(entry.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            inode.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_this_process_are_found_by_both_ways() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("[::]:0").unwrap();
        let wanted = [
            (Protocol::Tcp, tcp.local_addr().unwrap()),
            (Protocol::Udp, udp.local_addr().unwrap()),
        ];
        for found in [read_netlink().unwrap(), read_proc()] {
            for (protocol, local) in wanted {
                let is_it = |found: &&Found| (found.0, found.1) == (protocol, local);
                let inode = found.iter().find(is_it).map(|found| found.2);
                assert!(
                    inode.is_some_and(|inode| own_inodes().contains(&inode)),
                    "{local}"
                );
            }
        }
        for (protocol, local) in wanted {
            assert!(read().contains(&Socket {
                protocol,
                local,
                is_balancers: true
            }));
        }
    }
}
