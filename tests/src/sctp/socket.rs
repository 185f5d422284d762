//! Raw sockets of SCTP: raw(7), ipv6(7).

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use vl3lb_testbed::Netns;

use super::packet::Packet;

/// IP protocol number of SCTP.
const NUMBER: u8 = 132;

/// A socket at one address. It receives the packets of all ports.
#[derive(Debug)]
pub(super) struct RawSocket {
    /// The standard library's calls do not depend on the kind of socket.
    socket: UdpSocket,
    pub(super) local: IpAddr,
    capture: Capture,
}

impl RawSocket {
    /// Opens a socket, whose receiving waits for at most `limit`.
    pub(super) fn open(netns: &Netns, local: IpAddr, limit: Duration, capture: &Capture) -> Self {
        let open = || -> io::Result<UdpSocket> {
            let family = if local.is_ipv4() {
                AddressFamily::INET
            } else {
                AddressFamily::INET6
            };
            let protocol = Some(ipproto::SCTP);
            let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
            rustix::net::bind(&socket, &SocketAddr::new(local, 0))?;
            let socket = UdpSocket::from(socket);
            socket.set_read_timeout(Some(limit))?;
            Ok(socket)
        };
        let socket = netns
            .run(open)
            .unwrap_or_else(|error| panic!("open a raw socket at {local} in {}: {error}", netns.label()));
        Self {
            socket,
            local,
            capture: capture.clone(),
        }
    }

    pub(super) fn send(&self, packet: &Packet, to: IpAddr) {
        // A route or neighbour that is not there yet; the packet is sent again.
        self.socket.send_to(&packet.bytes(), SocketAddr::new(to, 0)).ok();
    }

    /// The next packet that is valid, and its source; `None` if the time is over.
    pub(super) fn receive(&self) -> Option<(IpAddr, Packet)> {
        let mut buffer = [0; 4096];
        let (length, from) = self.socket.recv_from(&mut buffer).ok()?;
        let received = &buffer[..length];
        // Over IPv6 the kernel leaves the header out.
        let packet = if self.local.is_ipv4() {
            received.get(usize::from(received.first()? & 0xf) * 4..)?
        } else {
            received
        };
        self.capture.add(received, from.ip(), self.local);
        Packet::read(packet).map(|packet| (from.ip(), packet))
    }
}

/// The IP packets that peers have received.
#[derive(Debug, Clone, Default)]
pub struct Capture(Arc<Mutex<Vec<Vec<u8>>>>);

impl Capture {
    fn add(&self, received: &[u8], from: IpAddr, to: IpAddr) {
        let packet = match (from, to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let length = u16::try_from(received.len()).expect("a short packet");
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend(length.to_be_bytes());
                packet.extend([NUMBER, 64]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                packet.extend(received);
                packet
            }
            _ => received.to_vec(),
        };
        self.0.lock().expect("no holder panics").push(packet);
    }

    /// The number of packets.
    pub fn len(&self) -> usize {
        self.0.lock().expect("no holder panics").len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes a file in the format of libpcap: pcap-savefile(5).
    pub fn write(&self, path: &Path) -> io::Result<()> {
        const RAW_IP: u32 = 101;
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65_535, RAW_IP] {
            file.extend(word.to_ne_bytes());
        }
        for packet in self.0.lock().expect("no holder panics").iter() {
            let length = u32::try_from(packet.len()).expect("a short packet");
            for word in [0, 0, length, length] {
                file.extend(u32::to_ne_bytes(word));
            }
            file.extend(packet);
        }
        std::fs::write(path, file)
    }
}
