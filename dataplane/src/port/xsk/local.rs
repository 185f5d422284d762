//! The way to clients in this network namespace: raw sockets.
//!
//! A packet that is injected into an interface is routed as one that came in, and the kernel drops it as a martian, since
//! its source is an own address (`accept_local` of ip-sysctl). One of a raw socket with its own IP header (raw(7)) is routed
//! as one that goes out, to the loopback interface, where it arrives with that route.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, ipproto, sendmsg_addr,
    socket_with, sockopt,
};

use super::XskFrame;
use crate::port::Frame;

/// Frames of one packet at most: 64 KB.
const MOST_FRAMES: usize = 32;

/// The sockets of one worker.
#[derive(Debug)]
pub(super) struct LocalStack {
    v4: OwnedFd,
    /// `None` if the kernel has no IPv6.
    v6: Option<OwnedFd>,
    /// Length of the link header in front of each packet.
    header_len: usize,
}

impl LocalStack {
    /// Opens the sockets for packets that begin with a link header of `header_len` bytes.
    ///
    /// # Errors
    /// CAP_NET_RAW is missing.
    pub(super) fn open(header_len: usize) -> io::Result<Self> {
        let raw = |family| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            // Sockets of this protocol receive nothing, and their packets have IP headers.
            socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW))
        };
        Ok(Self {
            v4: raw(AddressFamily::INET)?,
            v6: match raw(AddressFamily::INET6) {
                Err(Errno::AFNOSUPPORT) => None,
                opened => Some(opened?),
            },
            header_len,
        })
    }

    /// The numbers by which a BPF program knows the packets of these sockets.
    pub(super) fn cookies(&self) -> io::Result<Vec<u64>> {
        let sockets = std::iter::once(&self.v4).chain(&self.v6);
        Ok(sockets.map(sockopt::socket_cookie).collect::<Result<_, _>>()?)
    }

    /// Passes a packet to the kernel. False if it is refused.
    pub(super) fn send(&self, packet: &[XskFrame]) -> bool {
        let mut parts = [IoSlice::new(&[]); MOST_FRAMES];
        let Some(head) = packet
            .first()
            .and_then(|first| first.bytes().get(self.header_len..))
        else {
            return false;
        };
        let Some((destination, length)) = read(head) else {
            return false;
        };
        // What follows the packet is padding of the link.
        let mut left = length;
        let rest = packet.iter().skip(1).map(Frame::bytes);
        let mut used = 0;
        for bytes in std::iter::once(head).chain(rest) {
            let Some(part) = parts.get_mut(used) else {
                return false;
            };
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            *part = IoSlice::new(bytes);
            used += 1;
        }
        let (parts, flags) = (&parts[..used], SendFlags::DONTWAIT);
        let mut control = SendAncillaryBuffer::default();
        let sent = match (destination, &self.v6) {
            (Destination::V4(address), _) => sendmsg_addr(
                &self.v4,
                &SocketAddrV4::new(address, 0),
                parts,
                &mut control,
                flags,
            ),
            (Destination::V6(address), Some(v6)) => {
                let address = SocketAddrV6::new(address, 0, 0, 0);
                sendmsg_addr(v6, &address, parts, &mut control, flags)
            }
            (Destination::V6(_), None) => return false,
        };
        sent.is_ok()
    }
}

enum Destination {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

/// Destination and length of an IP packet.
fn read(head: &[u8]) -> Option<(Destination, usize)> {
    let be16 = |at: usize| {
        let bytes = head.get(at..at + 2)?.try_into().ok()?;
        Some(usize::from(u16::from_be_bytes(bytes)))
    };
    match head.first()? >> 4 {
        4 => {
            let address: [u8; 4] = head.get(16..20)?.try_into().ok()?;
            Some((Destination::V4(address.into()), be16(2)?))
        }
        6 => {
            let address: [u8; 16] = head.get(24..40)?.try_into().ok()?;
            Some((Destination::V6(address.into()), be16(4)? + 40))
        }
        _ => None,
    }
}
