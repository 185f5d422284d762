//! Sockets with options that the standard library does not offer.
#![expect(unsafe_code, reason = "UDP_SEGMENT and AF_PACKET have no safe interface")]

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType};

/// Receives one datagram. A signal or a pause of the whole machine ends a call that has a time-out, and
/// says nothing about the network: the call is made again.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Connects over TCP from `from` (port 0: any), within `limit`. Reads and writes keep `limit` as their
/// time-out.
pub fn connect_tcp(from: SocketAddr, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    set_socket_reuseaddr(&socket, true)?;
    // The sending time-out bounds connect(2) too: socket(7).
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(limit))?;
    rustix::net::bind(&socket, &from)?;
    rustix::net::connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Makes every send on `socket` a super-packet that the kernel or the device cuts into datagrams of `size`
/// bytes: udp(7), UDP_SEGMENT.
pub fn set_udp_segment(socket: &UdpSocket, size: u16) -> io::Result<()> {
    let value = libc::c_int::from(size);
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, &value)
}

/// A socket that sends whole frames out of one interface: packet(7).
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens one on `interface` of the calling thread's namespace.
    pub fn open(interface: &str) -> io::Result<Self> {
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and nothing else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let index = rustix::net::netdevice::name_to_index(&socket, interface)?;
        // SAFETY: sockaddr_ll is plain data for which all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET.try_into().expect("a small constant");
        address.sll_ifindex = index.try_into().expect("an interface index");
        // SAFETY: the pointer and the length are those of `address`, which lives through the call.
        let result = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address).try_into().expect("a small struct"),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(socket))
    }

    /// Sends one frame. The kernel refuses frames shorter than an Ethernet header (EINVAL) and longer than
    /// the interface's MTU allows (EMSGSIZE).
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.0, frame, rustix::net::SendFlags::empty())?;
        Ok(())
    }
}

fn set_option<T>(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>().try_into().expect("a small option");
    // SAFETY: the pointer and the length are those of `value`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
