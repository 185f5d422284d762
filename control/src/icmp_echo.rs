//! One ICMP echo request (RFC 792, RFC 4443 section 4).
//!
//! By a ping socket, where the kernel allows them (net.ipv4.ping_group_range), else by a raw one.

use std::io;
use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Icmpv6Header, Icmpv6Slice, Icmpv6Type,
    Ipv4HeaderSlice,
};
use rustix::rand::{GetRandomFlags, getrandom};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::Instant;
use vl3lb_common::Duration;

/// Why an echo request was not sent, or the error that came instead of a reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EchoError {
    #[error(
        "open a socket for ICMP echo requests: {0}; add CAP_NET_RAW, or this group to net.ipv4.ping_group_range"
    )]
    Forbidden(#[source] io::Error),
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Asks `target` and waits for its reply, without a limit. Returns how long it took. With an `interface` no other route can
/// answer.
pub(crate) async fn echo(interface: Option<&str>, target: IpAddr) -> Result<Duration, EchoError> {
    let (socket, raw) = open(target)?;
    socket.bind_device(interface.map(str::as_bytes))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(target, 0).into())?;
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(std::os::fd::OwnedFd::from(socket)))?;
    let cookie = cookie()?;
    let sent = Instant::now();
    socket.send(&request(target, &cookie)).await?;
    let mut buffer = [0; 512];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if is_reply(buffer.get(..length).unwrap_or_default(), target, raw, &cookie) {
            return Ok(sent.elapsed());
        }
    }
}

/// A socket, and whether it is a raw one.
fn open(target: IpAddr) -> Result<(Socket, bool), EchoError> {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => Ok((socket, false)),
        Err(_) => Socket::new(domain, Type::RAW, Some(protocol))
            .map(|socket| (socket, true))
            .map_err(EchoError::Forbidden),
    }
}

type Cookie = [u8; 16];

/// Identifies the reply to this request.
fn cookie() -> io::Result<Cookie> {
    let mut cookie = Cookie::default();
    getrandom(&mut cookie, GetRandomFlags::empty())?;
    Ok(cookie)
}

fn request(target: IpAddr, cookie: &Cookie) -> Vec<u8> {
    // A ping socket sets its own identifier.
    let echo = IcmpEchoHeader {
        id: u16::from_be_bytes([cookie[0], cookie[1]]),
        seq: 1,
    };
    let mut packet = match target {
        IpAddr::V4(_) => Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), cookie)
            .to_bytes()
            .to_vec(),
        // The kernel computes the checksum, which covers the addresses (RFC 3542 section 3.1).
        IpAddr::V6(_) => Icmpv6Header::new(Icmpv6Type::EchoRequest(echo))
            .to_bytes()
            .to_vec(),
    };
    packet.extend_from_slice(cookie);
    packet
}

/// Whether a received packet is the answer. Raw IPv4 sockets receive the IP header too.
fn is_reply(packet: &[u8], target: IpAddr, raw: bool, cookie: &Cookie) -> bool {
    match target {
        IpAddr::V4(_) => {
            let header = if raw {
                Ipv4HeaderSlice::from_slice(packet).map_or(usize::MAX, |header| header.slice().len())
            } else {
                0
            };
            let icmp = packet.get(header..).unwrap_or_default();
            Icmpv4Slice::from_slice(icmp).is_ok_and(|icmp| {
                matches!(icmp.icmp_type(), Icmpv4Type::EchoReply(_)) && icmp.payload() == cookie
            })
        }
        IpAddr::V6(_) => Icmpv6Slice::from_slice(packet).is_ok_and(|icmp| {
            matches!(icmp.icmp_type(), Icmpv6Type::EchoReply(_)) && icmp.payload() == cookie
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
    const COOKIE: Cookie = [7; 16];

    #[test]
    fn only_the_answer_to_this_request_counts() {
        for (target, request_type, reply_type) in [(V4, 8, 0), (V6, 128, 129)] {
            let request = request(target, &COOKIE);
            assert_eq!(request[0], request_type);
            assert!(!is_reply(&request, target, false, &COOKIE), "a request");
            let mut reply = request;
            reply[0] = reply_type;
            assert!(is_reply(&reply, target, false, &COOKIE));
            assert!(!is_reply(&reply, target, false, &[8; 16]), "another request's");
            for length in 0..reply.len() {
                assert!(!is_reply(&reply[..length], target, false, &COOKIE));
                assert!(!is_reply(&reply[..length], target, true, &COOKIE));
            }
        }
    }

    #[test]
    fn raw_ipv4_sockets_receive_the_ip_header() {
        let mut reply = request(V4, &COOKIE);
        reply[0] = 0;
        // RFC 791: version 4, header of 6 words, one of them options.
        let mut packet = vec![0; 24];
        packet[0] = 0x46;
        packet[3] = 24 + 24;
        packet.extend_from_slice(&reply);
        assert!(is_reply(&packet, V4, true, &COOKIE));
        assert!(!is_reply(&packet, V4, false, &COOKIE));
    }

    #[test]
    fn the_checksum_of_an_ipv4_request_is_right() {
        let request = request(V4, &COOKIE);
        let sum: u32 = request
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "RFC 1071");
    }
}
